package capture

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// buildPin is the pinned map that holds the build of the programs pinned with it.
const buildPin = "build"

// build is a digest of all that decides what runs in this kernel, but for where its
// linear map is, which start finds in two ways and cannot find otherwise later: the
// object, the programs chosen of it, and what they are told about the kernel.
//
// The kernel's tag of a program would not do. It leaves out which map an instruction
// uses, and which variable: other code may bear the same tag. Nor can it tell what the
// variables that a program only reads were set to.
type build [sha256.Size]byte

func buildOf(object []byte, k *kernel) (b build) {
	h := sha256.New()
	_, _ = h.Write(object)
	_, _ = fmt.Fprintf(h, "%+v %#x %d %d %t", k.hooks, k.traceCompletion, k.pageStructShift, k.pageShift, k.bitwise)
	return build(h.Sum(b[:0]))
}

// keep is a map to be pinned with the programs of this build. Nobody can change it.
func (b build) keep() (*ebpf.Map, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: buildPin, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(b)), MaxEntries: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("keeping the build of the capture programs: %w", err)
	}
	if err := errors.Join(m.Put(uint32(0), b[:]), m.Freeze()); err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("keeping the build of the capture programs: %w", err)
	}
	return m, nil
}

// check holds the programs that were pinned against those that this build would
// load. There is no replacing them in place: programs that were mended may have
// captured what they should not have, and then the log itself is in doubt.
func (b build) check(o *objects, k *kernel) error {
	kept := o.maps[buildPin]
	if kept == nil {
		return errors.New("the running capture programs do not say of which build of the agent they are")
	}
	got, err := kept.LookupBytes(uint32(0))
	if err != nil {
		return fmt.Errorf("reading the build of the running capture programs: %w", err)
	}
	if !bytes.Equal(got, b[:]) {
		return fmt.Errorf("the running capture programs are of build %.6x, this agent has build %.6x", got, b)
	}
	for role := range k.hooks.names() {
		if o.links[role] == nil {
			return fmt.Errorf("the capture program for %s is not attached", role)
		}
	}
	return nil
}
