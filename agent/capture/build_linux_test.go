package capture

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/understudy-dr/understudy/agent/capture/bpf"
)

// otherPrograms are this build's with another flag where they put a record into the
// ring: of the same layout, accepted by every kernel, and not the same code.
func otherPrograms(t *testing.T) []byte {
	t.Helper()
	const call = "\x85\x00\x00\x00\x82\x00\x00\x00" // bpf_ringbuf_output
	quiet := []byte("\xb7\x04\x00\x00\x01\x00\x00\x00" + call)
	waking := []byte("\xb7\x04\x00\x00\x00\x00\x00\x00" + call)
	if !bytes.Contains(bpf.Object(), quiet) {
		t.Fatal("the programs do not put records into the ring as they used to: change them elsewhere")
	}
	return bytes.ReplaceAll(bpf.Object(), quiet, waking)
}

// TestAnUpgradeBeginsAnew: programs of another build that fit the same maps are taken
// out of the kernel, by name; their successors run; and the next start resumes those.
func TestAnUpgradeBeginsAnew(t *testing.T) {
	d := newLoop(t, memory(t), 16<<20)
	o := Options{Instance: t.Name(), RingBytes: 1 << 20}
	old, _, err := openBuild(o, otherPrograms(t))
	must(t, err)
	must(t, old.Track(t.Context(), d))
	_, err = old.Arm(t.Context())
	must(t, err)
	writeAt(t, d, 0, 4096)
	before := runningTags(t, old)
	must(t, old.Close())

	s, r, err := Open(o)
	must(t, err)
	t.Cleanup(func() { removeInstance(t, o.Instance) })
	t.Log(r.Detail)
	if r.Intact || r.Detail == "" {
		t.Errorf("resumed the programs of another build: %+v", r)
	}
	if got := runningTags(t, s); got["submit"] == before["submit"] {
		t.Errorf("the programs of another build run on: %v", got)
	}
	if armed, goesOn := s.Armed(); goesOn || len(s.Disks()) != 0 {
		t.Errorf("what another build captured was taken over: armed %+v, %v, disks %v", armed, goesOn, s.Disks())
	}
	anew := runningTags(t, s)
	must(t, s.Close())

	s, r, err = Open(o)
	must(t, err)
	if got := runningTags(t, s); !r.Intact || got["submit"] != anew["submit"] {
		t.Errorf("not resumed: %+v, runs %v, want %v", r, got, anew)
	}
	must(t, s.Close())
}

// runningTags are the kernel's own digests of the programs that are attached, by role.
func runningTags(t *testing.T, s Source) map[string]string {
	t.Helper()
	tags := map[string]string{}
	for role, l := range s.(*source).links {
		info, err := l.Info()
		must(t, err)
		p, err := ebpf.NewProgramFromID(info.Program)
		must(t, err)
		running, err := p.Info()
		must(t, errors.Join(err, p.Close()))
		tags[role] = running.Tag
	}
	return tags
}
