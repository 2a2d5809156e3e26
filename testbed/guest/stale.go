package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
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

// unstick watches a life of the machine, qemu's process pid, and ends with it.
func (g *Guest) unstick(pid int) {
	ctx := context.Background()
	text, _ := g.Console() // none before the first life
	seen := len(text)
	deaf := map[string]int{} // by processor: looks in a row
	for ; g.qemu.PID() == pid; time.Sleep(look) {
		text, _ := g.Console()
		registers, _ := g.monitor(ctx, "info registers -a") // not yet, or no more
		deaf = deafer(deaf, registers)
		why := trouble(text[min(seen, len(text)):], deaf)
		seen = len(text)
		if why == "" {
			continue
		}
		begun := time.Now()
		err := g.Retranslate(ctx)
		g.qemu.Note(fmt.Sprintf("%s: the kernel's code was written as it is, in %.1f s: %v", why, time.Since(begun).Seconds(), err))
		text, _ = g.Console() // once for all that was said of it
		seen = len(text)
		clear(deaf)
	}
}

// trouble is what shows that a processor does not get on, if anything does.
func trouble(said string, deaf map[string]int) string {
	for _, s := range stuck {
		if strings.Contains(said, s) {
			return fmt.Sprintf("%q on the console", s)
		}
	}
	for cpu, looks := range deaf {
		if looks >= deafLooks {
			return fmt.Sprintf("processor %s has interrupts off for %s", cpu, deafLooks*look)
		}
	}
	return ""
}

// processorState finds what matters in a processor's registers as qemu prints them.
var processorState = regexp.MustCompile(`(?s)CPU#(\d+).*?RIP=([0-9a-f]+) RFL=([0-9a-f]+).*?HLT=(\d)`)

// deafer counts on which processors are in the kernel and neither sleep nor take interrupts.
func deafer(before map[string]int, registers string) map[string]int {
	const interrupts = 1 << 9
	now := map[string]int{}
	for _, m := range processorState.FindAllStringSubmatch(registers, -1) {
		flags, err := strconv.ParseUint(m[3], 16, 64)
		if err == nil && flags&interrupts == 0 && m[4] == "0" && strings.HasPrefix(m[2], "ffffffff") {
			now[m[1]] = before[m[1]] + 1
		}
	}
	return now
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
