package guest

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

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
