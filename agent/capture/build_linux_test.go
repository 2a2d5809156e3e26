package capture

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/understudy-dr/understudy/agent/capture/bpf"
)

// putRecord is how the programs of this build put a record into the ring: the flags,
// which leave it to the kernel whom to wake, and the call.
const putRecord = "\xb7\x04\x00\x00\x00\x00\x00\x00" + "\x85\x00\x00\x00\x82\x00\x00\x00"

// programs are this build's with other code in that place.
func programs(t *testing.T, code string) []byte {
	t.Helper()
	if len(code) != len(putRecord) || !bytes.Contains(bpf.Object(), []byte(putRecord)) {
		t.Fatal("the programs do not put records into the ring as they used to: change them elsewhere")
	}
	return bytes.ReplaceAll(bpf.Object(), []byte(putRecord), []byte(code))
}

// otherPrograms have the same layout, and every kernel accepts them.
func otherPrograms(t *testing.T) []byte {
	return programs(t, "\xb7\x04\x00\x00\x01\x00\x00\x00"+"\x85\x00\x00\x00\x82\x00\x00\x00")
}

// badPrograms call a function that no kernel has.
func badPrograms(t *testing.T) []byte {
	return programs(t, "\xb7\x04\x00\x00\x01\x00\x00\x00"+"\x85\x00\x00\x00\xff\xff\x00\x00")
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

// TestAnUpgradeThatCannotLoad leaves the capture that it found to the agent before it,
// which goes on where it stood.
func TestAnUpgradeThatCannotLoad(t *testing.T) {
	d := newLoop(t, memory(t), 16<<20)
	s := tracking(t, 1<<20, d)
	armed, _ := s.Armed()
	must(t, s.Close())
	o := Options{Instance: t.Name(), RingBytes: 1 << 20}
	t.Cleanup(func() { removeInstance(t, o.Instance) })
	var refused *ebpf.VerifierError
	if _, _, err := openBuild(o, badPrograms(t)); !errors.As(err, &refused) {
		t.Fatalf("opening with programs that the kernel does not accept says %v", err)
	}
	writeAt(t, d, 4096, 4096)

	again, r, err := Open(o)
	must(t, err)
	defer func() { must(t, again.Close()) }()
	if now, goesOn := again.Armed(); !r.Intact || !goesOn || now != armed {
		t.Fatalf("not resumed: %+v, armed %+v, %v, want %+v", r, now, goesOn, armed)
	}
	replica := newReplica(d)
	if replica.drain(t, again) || replica.records != 1 {
		t.Fatalf("%d records, want the write between the agents", replica.records)
	}
	replica.equal(t, d)
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
