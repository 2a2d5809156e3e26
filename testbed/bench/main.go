// Command bench measures what protection costs and what recovery takes, beside the
// tools that an operator could use instead, on this machine and in one run.
//
// Every figure that compares is a ratio of two things done in turns (A B A B, the order
// rotated), the median over the rounds, with the spread of the rounds; where a thing is
// compared with itself left alone, the noise is the same ratio of two runs of nothing.
// Everything is done by the real binaries, except where a row says otherwise.
//
// Rows go to standard error as they are known and to the table at the end. The JSON
// keeps the rows of earlier runs that this one did not measure again, so that the page,
// which is written from it, can be made in parts; each row has its own date.
//
// Exit codes: 0, 1 if a case failed (the others ran), 130 if it was interrupted (what
// was measured until then is kept).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

func main() {
	bin := flag.String("bin", "bin", "directory with the binaries understudy and understudy-agent")
	only := flag.String("only", "", "measure only the cases that match this pattern; -list names them")
	quick := flag.Bool("quick", false, "smaller disks, shorter samples, fewer rounds: to try a change by, not to publish")
	list := flag.Bool("list", false, "name the cases and end")
	out := flag.String("json", "", "keep the rows in this file, with those of earlier runs")
	page := flag.String("page", "", "write the page here, from the JSON")
	readme := flag.String("readme", "", "put the few figures that a user chooses by into this document")
	proofs := flag.String("proofs", "testbed/out", "directory where tests that prove things leave what they found, for the page")
	flag.Parse()
	if *list {
		for _, c := range cases {
			fmt.Println(c.name)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, *bin, *only, *quick, *out, documents{*page, *readme, *proofs})
	stop()
	os.Exit(code)
}

// bench is one run.
type bench struct {
	bin   string
	quick bool
	host  host
	book  *book
}

// documents are written from what is known at the end of a run; "" is left alone.
type documents struct {
	page, readme string
	proofs       string // directory
}

func (d documents) write(k *book) (failed error) {
	if d.page != "" {
		failed = errors.Join(k.takeProofs(d.proofs), writePage(d.page, k))
	}
	if d.readme != "" {
		failed = errors.Join(failed, writeExcerpt(d.readme, k))
	}
	return failed
}

// benchCase measures some rows in a laboratory of its own. The ids of its rows begin with
// its name, or with one of those that + joins.
type benchCase struct {
	name  string
	run   func(context.Context, *bench) error
	whole bool // a quick run leaves it out, unless it is asked for by its name
}

var cases = []benchCase{
	{"guest/memory", guestMemory, false},
	{"guest/disk", guestDisk, false},
	{"churn/raw", churn("raw"), false},
	{"churn/mixed", churn("mixed"), true},
	{"rpo", rpo, false},
	{"copy/full", copyFull, false},
	{"copy/half", copyHalf, true},
	{"restore+vault", restoreAndVault, false},
	{"fleet", fleet, false},
}

func run(ctx context.Context, bin, only string, quick bool, out string, docs documents) int {
	pattern, err := regexp.Compile(only)
	if err == nil {
		bin, err = filepath.Abs(bin)
	}
	var kept *book
	if err == nil {
		kept, err = openBook(out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	b := &bench{bin: bin, quick: quick, host: thisHost(), book: kept}
	failed := b.measure(ctx, pattern)
	printTable(os.Stdout, b.book.measured())
	failed = errors.Join(failed, docs.write(b.book))
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted; what was measured is kept")
		return 130
	case failed != nil:
		fmt.Fprintln(os.Stderr, "bench:", failed)
		return 1
	}
	return 0
}

// measure runs the cases that match. One that fails does not stop the others.
func (b *bench) measure(ctx context.Context, pattern *regexp.Regexp) (failed error) {
	for _, c := range cases {
		if !pattern.MatchString(c.name) || ctx.Err() != nil || c.whole && b.quick && pattern.String() == "" {
			continue
		}
		start := time.Now()
		fmt.Fprintf(os.Stderr, "bench: %s (load %s)\n", c.name, load())
		if err := c.run(ctx, b); err != nil && ctx.Err() == nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", c.name, err))
			fmt.Fprintf(os.Stderr, "bench: %s failed: %v\n", c.name, err)
		} else if err == nil && !b.quick {
			failed = errors.Join(failed, b.book.settle(c.name))
		}
		fmt.Fprintf(os.Stderr, "bench: %s took %s\n", c.name, time.Since(start).Round(time.Second))
	}
	return failed
}

// pick is the figure for a whole run, or for a quick one.
func pick[T any](b *bench, whole, quick T) T {
	if b.quick {
		return quick
	}
	return whole
}
