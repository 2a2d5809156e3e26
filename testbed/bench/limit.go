package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/controlplane/pki"
	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// limit is what the processors of this machine can carry at most: bytes go through the
// passes that none of them can be spared on its way into a vault (into a frame with its
// checksum, into the journal's memory, through TLS, the checksum again, onto the spool's
// disk, sealed, opened again and compared, onto the vault's disk), by the same functions
// as in agent and control plane, and through nothing else: no kernel's ring, no positions,
// no acknowledgements, no database, nobody who waits for anybody.
type limit struct {
	*stage
	pack  frame.Compression
	fetch func(p []byte) (int, error) // the next bytes of a disk; io.EOF ends it

	agent, relay *wire.Conn
	spool, vault *os.File
	free         chan []byte // memory for frames that arrive
	taken        chan []byte // frames that the spool has
}

// Sizes, bytes.
const (
	limitFrame  = frameSize
	limitObject = 8 * mib // the relay's object
	limitFile   = 256 * mib
)

// run carries all that fetch yields, and returns how many bytes and how long it took.
func (l *limit) run(ctx context.Context) (bytes int64, took time.Duration, err error) {
	if err := l.open(ctx); err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, l.relay.Close(), l.spool.Close(), l.vault.Close()) }()
	for range 4 * limitObject / limitFrame {
		l.free <- aligned(limitFrame + 64*kib)
	}
	start := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { _ = errors.Join(l.relay.Close(), l.agent.Close()) })
	defer stop()
	fetched := make(chan []byte, 1)
	g.Go(func() error {
		defer close(fetched)
		return l.read(fetched)
	})
	g.Go(func() (err error) {
		bytes, err = l.send(fetched)
		return errors.Join(err, l.agent.Close())
	})
	g.Go(func() error {
		defer close(l.taken)
		return l.receive(ctx)
	})
	g.Go(l.commit)
	err = g.Wait()
	return bytes, time.Since(start), err
}

// open connects the two sides and makes the files of spool and vault.
func (l *limit) open(ctx context.Context) error {
	if l.sender == nil {
		agents, err := l.enrolMany(ctx, 1)
		if err != nil {
			return err
		}
		l.sender = agents[0].id
	}
	authority, err := pki.Open(filepath.Join(l.site.Data, "pki"), time.Now)
	if err != nil {
		return err
	}
	server := authority.NewServer(pki.RoleRelay, "127.0.0.1")
	ln, err := wire.Listen(ctx, "127.0.0.1:0", wire.RelayTLS(server.Certificate, authority.Pool()), func(string, error) {})
	if err != nil {
		return err
	}
	defer func() { _ = ln.Close() }()
	var g errgroup.Group
	g.Go(func() error {
		s, err := ln.Accept(ctx)
		if err == nil {
			l.relay, err = wire.Greet(s, wire.RoleRelay, "bench")
		}
		return err
	})
	g.Go(func() error {
		link, err := wire.Dial(ctx, ln.Addr().String(), wire.AgentTLS(l.sender.Certificate, l.sender.Roots()), wire.TCP)
		if err != nil {
			return err
		}
		s, err := link.Open(ctx)
		if err == nil {
			l.agent, err = wire.Greet(s, wire.RoleAgent, "bench")
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	l.free, l.taken = make(chan []byte, 4*limitObject/limitFrame), make(chan []byte, limitObject/limitFrame)
	if l.spool, err = directFile(l.Path("limit-spool")); err != nil {
		return err
	}
	l.vault, err = directFile(l.Path("limit-vault"))
	return err
}

// directFile is an allocated file whose writes bypass the page cache.
func directFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|unix.O_DIRECT, 0o600)
	if err == nil {
		err = unix.Fallocate(int(f.Fd()), 0, 0, limitFile)
	}
	return f, err
}

// read fetches; each of the two buffers is used again once the other is taken.
func (l *limit) read(out chan<- []byte) error {
	bufs := [3][]byte{aligned(limitFrame), aligned(limitFrame), aligned(limitFrame)}
	for i := 0; ; i++ {
		buf := bufs[i%len(bufs)]
		n, err := l.fetch(buf)
		if n > 0 {
			out <- buf[:n]
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// send makes frames, journals them in memory, and sends them.
func (l *limit) send(in <-chan []byte) (bytes int64, err error) {
	b, journal, at := frame.NewBuilder(l.sender.Machine), make([]byte, 64*mib), 0
	disk := block.NewMachineID()
	for p := range in {
		if err != nil {
			continue // let the reader end
		}
		now, seq := time.Now(), block.Seq(bytes/limitFrame+1)
		b.Reset(frame.KindLog, 1, seq, now)
		if err = b.Add(block.DiskID(disk), frame.OpWrite, block.Extent{Off: bytes, Len: int64(len(p))}, p); err != nil {
			continue
		}
		var raw []byte
		if raw, err = b.Close(seq, now, l.pack); err != nil {
			continue
		}
		if at+len(raw) > len(journal) {
			at = 0
		}
		at += copy(journal[at:], raw)
		err = l.agent.Write(wire.Frame{Raw: journal[at-len(raw) : at]})
		bytes += int64(len(p))
	}
	return bytes, err
}

// receive checks what arrives and puts it on the spool's disk.
func (l *limit) receive(ctx context.Context) error {
	at, unsynced := int64(0), 0
	for {
		m, err := l.relay.ReadInto(func(int) []byte {
			select {
			case p := <-l.free:
				return p
			case <-ctx.Done(): // the connection is closed, too
				return nil
			}
		})
		if errors.Is(err, io.EOF) {
			return l.spool.Sync()
		}
		f, ok := m.(wire.Frame)
		if err != nil || !ok {
			return fmt.Errorf("the frame at %d: %T, %w", at, m, err)
		}
		if _, err := frame.Parse(f.Raw); err != nil {
			return err
		}
		if at, err = writeDirect(l.spool, f.Raw, at); err != nil {
			return err
		}
		if unsynced += len(f.Raw); unsynced >= 4*limitFrame {
			if err := unix.Fdatasync(int(l.spool.Fd())); err != nil {
				return err
			}
			unsynced = 0
		}
		select {
		case l.taken <- f.Raw:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// commit seals objects and puts them on the vault's disk.
func (l *limit) commit() error {
	key, object, at, n := sealed.NewKey(), aligned(2*limitObject), int64(0), 0
	var frames [][]byte
	put := func() (err error) {
		if object, err = sealed.Seal(object, key, "limit", sealed.KindLog, 1, sealed.Sections{Data: frames}); err != nil {
			return err
		}
		if at, err = writeDirect(l.vault, object, at); err != nil {
			return err
		}
		for _, f := range frames {
			l.free <- f
		}
		frames, n = frames[:0], 0
		return unix.Fsync(int(l.vault.Fd()))
	}
	for raw := range l.taken {
		frames, n = append(frames, raw), n+len(raw)
		if n < limitObject-limitFrame {
			continue
		}
		if err := put(); err != nil {
			return err
		}
	}
	if len(frames) == 0 {
		return nil
	}
	return put()
}

// writeDirect writes p, up to a whole block, and returns where the next one goes: around
// in a file that stays as large as it is.
func writeDirect(f *os.File, p []byte, at int64) (int64, error) {
	n := (len(p) + blockSize - 1) / blockSize * blockSize
	if at+int64(n) > limitFile {
		at = 0
	}
	_, err := f.WriteAt(p[:n], at)
	return at + int64(n), err
}
