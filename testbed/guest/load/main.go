// Command load is the workload of a guest: applications that make their values durable
// on mounted disks, and tell each on a port that leads out of the guest before and after.
//
//	load -ledger /dev/virtio-ports/ledger data=ext4=/mnt
//
// Started again after a power cut, it goes on behind what it finds. With -judge it looks
// instead at what was recovered of such disks:
//
//	load -judge 2026-11-30T08:00:00Z -ledger lines.txt data=ext4=/dev/vg/data
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

func main() {
	ledger := flag.String("ledger", "", "where the ledger's lines go")
	seed := flag.Int("seed", 0, "megabytes that each disk holds from the beginning")
	pause := flag.Duration("pause", 20*time.Millisecond, "how long each application rests between two values")
	at := flag.String("judge", "", "the moment that the disks claim to be of; the ledger is a file of what was told")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	do := func() error { return work(ctx, *ledger, *seed, *pause, flag.Args()) }
	if *at != "" {
		do = func() error { return judge(ctx, *ledger, *seed, *at, flag.Args(), os.Stdout) }
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func work(ctx context.Context, ledger string, seed int, pause time.Duration, args []string) (err error) {
	l, err := lab.New(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	var port *os.File
	err = lab.Until(ctx, time.Minute, "port "+ledger, func() (bool, error) { // udev names it, when it comes to that
		port, err = os.OpenFile(ledger, os.O_WRONLY, 0)
		return err == nil, err
	})
	if err != nil {
		return err
	}
	defer port.Close()
	g, err := l.NewLedger()
	if err != nil {
		return err
	}
	g.Tell(port)
	disks, err := disks(args, seed)
	if err != nil {
		return err
	}
	w := lab.NewWorkload(g, disks...)
	w.Pause, w.Churn, w.Seeded = pause, 256<<10, seed
	if err := errors.Join(w.Resume(), w.Start(l)); err != nil {
		return err
	}
	fmt.Println("working")
	for ctx.Err() == nil && w.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return w.Stop()
}

// disks are those that NAME=FS=MOUNT names, each seeded once.
func disks(args []string, seed int) ([]*lab.Disk, error) {
	var all []*lab.Disk
	for _, a := range args {
		parts := strings.Split(a, "=")
		if len(parts) != 3 {
			return nil, fmt.Errorf("%q: want NAME=FS=MOUNT", a)
		}
		d := &lab.Disk{Name: parts[0], FS: parts[1], Mount: parts[2]}
		if _, err := os.Stat(d.Mount + "/seed"); seed > 0 && errors.Is(err, os.ErrNotExist) {
			if err := lab.Seed(d, seed); err != nil {
				return nil, err
			}
		}
		all = append(all, d)
	}
	return all, nil
}
