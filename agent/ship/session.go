package ship

import (
	"context"
	"fmt"
	"sync"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// session runs one connection to the relay until something of it fails: then all of it
// ends, and the next one resumes. It reports whether the relay made it welcome.
//
// Control opens first and alone proves that this instance may speak for the machine;
// the log's own Welcome then tells where to go on; the base channel opens when there
// is something to send.
func (c *Client) session(parent context.Context) (welcomed bool, err error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	link, err := c.conf.Dial(ctx)
	if err != nil {
		return false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = link.Close() }) // frees whoever reads or writes
	defer stop()
	defer link.Close()

	control, _, err := c.open(ctx, link, wire.Control)
	if err != nil {
		return false, err
	}
	log, welcome, err := c.open(ctx, link, wire.Log)
	if err != nil {
		return false, err
	}
	var wg sync.WaitGroup
	run := func(part func(context.Context) error) {
		wg.Go(func() {
			if err := part(ctx); err != nil {
				cancel(err)
			}
		})
	}
	// Control runs while OnWelcome thinks: it may ask for hashes, and the relay must
	// hear that this side lives.
	run(func(context.Context) error { return c.readControl(control.conn) })
	run(func(ctx context.Context) error { return c.askHashes(ctx, control.conn) })
	run(func(ctx context.Context) error { return beat(ctx, control.conn) })
	run(func(ctx context.Context) error { return beat(ctx, log.conn) })
	run(func(ctx context.Context) error { return c.readAcks(ctx, log) })
	if after, err := c.consent(ctx, welcome); err != nil {
		cancel(err)
	} else {
		c.connected(link.Transport(), welcome)
		run(func(ctx context.Context) error { return c.sendLog(ctx, log, after) })
		run(func(ctx context.Context) error { return c.runBase(ctx, link) })
	}
	<-ctx.Done()
	_ = link.Close()
	wg.Wait()
	return true, context.Cause(ctx)
}

// consent asks the pipeline about the relay's position. Acknowledgements may overtake
// it: they say no more than the Welcome does until the first frame is sent.
func (c *Client) consent(ctx context.Context, w wire.Welcome) (after block.Seq, err error) {
	c.limit.cap(w.Throttle)
	c.base.pause()
	after, err = c.conf.OnWelcome(ctx, w)
	if err != nil {
		return 0, fmt.Errorf("ship: the relay's position %s is not accepted: %w", block.Position{Epoch: w.Epoch, Seq: w.Spooled}, err)
	}
	c.base.reset(w.BaseEpoch, w.SpooledBase)
	return after, nil
}
