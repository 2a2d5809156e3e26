package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// qemu can go on with code of the guest that is no longer there. One processor translates
// an instruction in the moment in which another writes it: after qemu has looked which
// translations that write ends, and before the write. The kernel's tracepoints, and
// whatever else it patches while it runs, are written with a breakpoint in front of them
// until they are complete. A processor that has such a breakpoint in its translation
// finds another instruction in memory when it looks for the reason, tries once more, and
// does so for good. It takes one to twenty minutes of switching block_bio_queue off and
// on while another processor writes to a disk, without any program of ours.
//
// What ends the translations is a write to the code they were made from: Retranslate
// writes it as it is, while the machine stands still. While the patching goes on the next
// may be stale at once, so it is done as often as it takes. One thread for both processors
// (thread=single) knows no such race, and took 1.6 times as long for TestGuestPowerCut.

// retranslated are the kernel's text and its modules, where they are without
// randomisation (kernelLine). Both are smaller; what is not mapped costs little.
var retranslated = [][2]uint64{{0xffffffff81000000, 0xffffffff82800000}, {0xffffffffc0000000, 0xffffffffc1000000}}

// stuck are what a kernel says when a processor does not get on, after some 20 seconds.
var stuck = []string{"soft lockup", "detected stalls"}

const (
	look = 2 * time.Second
	// A processor that has interrupts off whenever it is looked at says nothing, and has
	// the others wait for it. A boot begins so, for a second or two.
	deafLooks = 8
)

// unstick watches a life of the machine, and ends with it.
func (g *Guest) unstick() {
	ctx, seen := context.Background(), g.consoleSize()
	deaf := map[string]int{} // by processor: looks in a row
	for ; g.qemu.PID() != 0; time.Sleep(look) {
		why := ""
		text, _ := g.consoleFrom(seen) // not there yet: next time
		seen += int64(len(text))
		for _, s := range stuck {
			if strings.Contains(text, s) {
				why = fmt.Sprintf("%q on the console", s)
			}
		}
		registers, _ := g.monitor(ctx, "info registers -a") // not yet, or no more
		now := deafProcessors(registers)
		for cpu := range deaf {
			if !slices.Contains(now, cpu) {
				delete(deaf, cpu)
			}
		}
		for _, cpu := range now {
			if deaf[cpu]++; deaf[cpu] == deafLooks {
				why = fmt.Sprintf("processor %s has interrupts off for %s", cpu, deafLooks*look)
			}
		}
		if why == "" {
			continue
		}
		begun := time.Now()
		err := g.Retranslate(ctx)
		g.note("%s: the kernel's code was written as it is, in %.1f s: %v", why, time.Since(begun).Seconds(), err)
		clear(deaf)
		seen = g.consoleSize() // once for all that was said of it
	}
}

// processorState finds what matters in a processor's registers as qemu prints them.
var processorState = regexp.MustCompile(`(?s)CPU#(\d+).*?RIP=([0-9a-f]+) RFL=([0-9a-f]+).*?HLT=(\d)`)

// deafProcessors are those in the kernel that neither sleep nor take interrupts.
func deafProcessors(registers string) (deaf []string) {
	const interrupts = 1 << 9
	for _, m := range processorState.FindAllStringSubmatch(registers, -1) {
		flags, err := strconv.ParseUint(m[3], 16, 64)
		if err == nil && flags&interrupts == 0 && m[4] == "0" && strings.HasPrefix(m[2], "ffffffff") {
			deaf = append(deaf, m[1])
		}
	}
	return deaf
}

// note adds a line to qemu's log, which is kept when a test fails.
func (g *Guest) note(format string, a ...any) {
	f, err := os.OpenFile(g.qemu.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	fmt.Fprintf(f, "--- %s "+format+"\n", append([]any{time.Now().Format(time.RFC3339Nano)}, a...)...)
	f.Close()
}

func (g *Guest) consoleSize() int64 {
	info, err := os.Stat(g.console)
	if err != nil {
		return 0
	}
	return info.Size()
}

func (g *Guest) consoleFrom(off int64) (string, error) {
	f, err := os.Open(g.console)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, off, 1<<30))
	return string(text), err
}

// Retranslate has qemu forget what it made of the kernel's code. The machine stands still
// for some seconds, and its clock with it.
func (g *Guest) Retranslate(ctx context.Context) (err error) {
	socket := strings.TrimSuffix(g.socket, ".qmp") + ".gdb"
	if _, err := g.monitor(ctx, "gdbserver unix:"+socket+",server=on,wait=off"); err != nil {
		return err
	}
	defer func() {
		_, off := g.monitor(ctx, "gdbserver none")
		err = errors.Join(err, off, g.command(ctx, "cont", nil))
	}()
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("guest %s: qemu's debugger: %w", g.Name, err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	d := debugger{conn, bufio.NewReader(conn)}
	for _, r := range retranslated {
		if err := d.rewrite(r[0], r[1]); err != nil {
			return fmt.Errorf("guest %s: the code from %#x on: %w", g.Name, r[0], err)
		}
	}
	_, err = d.ask("D") // leaves, and lets the machine go on
	return err
}

// debugger speaks gdb's remote protocol. Qemu stops the machine for whoever connects.
type debugger struct {
	w io.Writer
	r *bufio.Reader
}

const (
	codePage  = 4096
	codePiece = 1024 // of two digits a byte, and qemu takes packets of 4096
)

// rewrite writes what is there, where something is.
func (d debugger) rewrite(from, to uint64) error {
	for at := from; at < to; {
		code, err := d.ask(fmt.Sprintf("m%x,%x", at, codePiece))
		if err != nil {
			return err
		}
		if len(code) != 2*codePiece { // E14: no memory there
			at = (at + codePage) &^ (codePage - 1)
			continue
		}
		answer, err := d.ask(fmt.Sprintf("M%x,%x:%s", at, codePiece, code))
		if err != nil {
			return err
		}
		if answer != "OK" {
			return fmt.Errorf("write at %#x: %s", at, answer)
		}
		at += codePiece
	}
	return nil
}

// ask sends a packet and returns the next one that is an answer: that the machine has
// stopped (T…) is told unasked.
func (d debugger) ask(packet string) (string, error) {
	sum := byte(0)
	for i := range len(packet) {
		sum += packet[i]
	}
	if _, err := fmt.Fprintf(d.w, "$%s#%02x", packet, sum); err != nil {
		return "", err
	}
	for {
		if _, err := d.r.ReadString('$'); err != nil { // "+" before it
			return "", err
		}
		answer, err := d.r.ReadString('#')
		if err != nil {
			return "", err
		}
		if _, err := d.r.Discard(2); err != nil {
			return "", err
		}
		if _, err := io.WriteString(d.w, "+"); err != nil {
			return "", err
		}
		if !strings.HasPrefix(answer, "T") {
			return strings.TrimSuffix(answer, "#"), nil
		}
	}
}
