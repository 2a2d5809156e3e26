//go:build testbed

package testbed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// The exit codes of understudy verify, and of what brings back a point in doubt.
const (
	exitDifferent = 9
	exitInDoubt   = 11
)

// atRest is where the scenarios plant: on a disk that only they write to.
const atRest = 64 * mib

// scrubRig is a machine with a live disk and one at rest, which holds random bytes.
func scrubRig(t *testing.T, s setup) *rig {
	s.disks = []string{lab.Ext4, ""}
	before := s.before
	s.before = func(r *rig) {
		r.fill(atRest, 48*mib, 1)
		if before != nil {
			before(r)
		}
	}
	return protected(t, s)
}

// fill writes random bytes to the disk at rest, as an application would.
func (r *rig) fill(off int64, n int, seed byte) []byte {
	r.t.Helper()
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	f, err := os.OpenFile(r.disks[1].Device, os.O_WRONLY, 0)
	r.must(err)
	defer f.Close()
	_, err = f.WriteAt(b, off)
	r.must(err)
	r.must(f.Sync())
	return b
}

// prove runs understudy verify and returns what it printed and its exit code.
func (r *rig) prove() (desired.Proof, int) {
	r.t.Helper()
	out, err := r.site.CLI(r.t.Context(), "verify", r.machine.ID(), "--output", "json")
	if err != nil && lab.ExitCode(err) == 0 {
		r.t.Fatal(err)
	}
	var p desired.Proof
	if jerr := json.Unmarshal([]byte(out), &p); jerr != nil {
		r.t.Fatalf("verify printed %q: %v, %v", out, jerr, err)
	}
	r.t.Logf("verify: exit code %d, %+v", lab.ExitCode(err), p)
	return p, lab.ExitCode(err)
}

// proveEqual is prove for a replica that shall be equal, down to the disk at rest.
func (r *rig) proveEqual() desired.Proof {
	r.t.Helper()
	agent, serve := r.cpu(r.machine.Agent), r.cpu(r.site.Serve)
	p, code := r.prove()
	gib := float64(p.Total) / (1 << 30)
	r.t.Logf("%.0f MiB/s; CPU-s a GiB, the live machine's replication included: agent %.2f, control plane %.2f",
		gib*1024/p.Ended.Sub(p.Began).Seconds(), (r.cpu(r.machine.Agent)-agent)/gib, (r.cpu(r.site.Serve)-serve)/gib)
	if code != 0 || p.Result != desired.ProofEqual || p.Equal < 48*mib {
		r.t.Fatalf("exit code %d, %+v", code, p)
	}
	return p
}

// cpu is what a process has used so far, in seconds.
func (r *rig) cpu(p *lab.Process) float64 {
	r.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	r.must(err)
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks float64
	for _, f := range fields[11:13] { // user and system time, in hundredths
		n, err := strconv.ParseFloat(f, 64)
		r.must(err)
		ticks += n
	}
	return ticks / 100
}

// findings are what the machine's proofs found so far.
func (r *rig) findings() []desired.Finding {
	r.t.Helper()
	return r.view().Protection.Verify.Findings
}

// wantFound proves, and wants exactly this stretch of the disk at rest found and
// repaired, points marked, and then equality.
func (r *rig) wantFound(cause string, where block.Extent) {
	r.t.Helper()
	seen, epoch := len(r.findings()), uint64(r.view().Protection.Epoch)
	suspect := r.view().PointTime()
	p, code := r.prove()
	if code != exitDifferent || p.Result != desired.ProofDifferent {
		r.t.Fatalf("exit code %d, %+v", code, p)
	}
	found := r.findings()
	if len(found) != seen+1 {
		r.t.Fatalf("found %+v", found)
	}
	f := found[seen]
	if f.Cause != cause || slices.ContainsFunc(f.Extents, func(e block.DiskExtent) bool { return !e.Overlaps(where) }) {
		r.t.Fatalf("found %+v, planted at %v", f, where)
	}
	if got := r.untilEpochAfter(epoch); got.Reason != "scrub-difference" {
		r.t.Errorf("epoch %d began for %q", got.Epoch, got.Reason)
	}
	r.wantEvent("scrub-difference")
	r.wantDoubt(suspect)
	r.proveEqual()
	r.verifyNow()
}

// doubted is a point as the list shows it.
type doubted struct {
	lab.Point
	InDoubt []struct {
		Cause string `json:"cause"`
		Bytes int64  `json:"bytes"`
	} `json:"in_doubt"`
}

// wantDoubt: the newest point from before the finding is marked and refused; the newest
// of all is not.
func (r *rig) wantDoubt(at time.Time) {
	r.t.Helper()
	var points []doubted
	r.must(lab.Until(r.t.Context(), 30*time.Second, "points in doubt", func() (bool, error) {
		err := r.site.Ask(r.t.Context(), &points, "point", "list", r.machine.ID(), "--to", at.Format(time.RFC3339Nano))
		return len(points) > 0 && len(points[len(points)-1].InDoubt) > 0, err
	}))
	id := points[len(points)-1].ID
	_, err := r.machine.Recover(r.t.Context(), id, r.Path("doubtful"))
	if lab.ExitCode(err) != exitInDoubt {
		r.t.Errorf("a failover to point %s, which is in doubt: %v, want exit code %d", id, err, exitInDoubt)
	}
	_, err = r.site.CLI(r.t.Context(), "disk", "serve", r.machine.ID(), "--point", id, "--listen", "127.0.0.1:0")
	if lab.ExitCode(err) != exitInDoubt {
		r.t.Errorf("serving point %s, which is in doubt: %v, want exit code %d", id, err, exitInDoubt)
	}
	var newest []doubted
	if err := r.site.Ask(r.t.Context(), &newest, "point", "list", r.machine.ID(), "--limit", "1"); err != nil || len(newest[0].InDoubt) > 0 {
		r.t.Errorf("the newest point: %+v, %v", newest, err)
	}
}

// flip changes a byte of a file.
func (r *rig) flip(path string, at int64) {
	r.t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	r.must(err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	r.must(err)
	b[0] ^= 0x40
	_, err = f.WriteAt(b, at)
	r.must(err)
	r.must(f.Sync())
}

// TestVerifyFindsEachSide: under live load the replica proves equal; a block that changed
// on the source behind capture's back, and one that rotted in the vault, are found,
// named, resynced, and the points that may show them are marked.
func TestVerifyFindsEachSide(t *testing.T) {
	r := scrubRig(t, setup{})
	r.untilPoint(time.Now())
	r.proveEqual()

	// The backing file is what the loop device reads: no bio was submitted.
	r.flip(r.disks[1].File, atRest+5*mib+100)
	r.wantFound(desired.FoundDifferent, block.Extent{Off: atRest + 5*mib, Len: 4096})

	before := time.Now()
	r.fill(atRest+20*mib, 6*mib, 2)
	r.untilPoint(time.Now())
	path, size := r.largestObject("log", before)
	r.flip(path, size/2)
	r.wantFound(desired.FoundDamaged, block.Extent{Off: atRest + 20*mib, Len: 6 * mib})
}

// largestObject is the vault's largest of a kind since a moment.
func (r *rig) largestObject(kind string, since time.Time) (path string, size int64) {
	r.t.Helper()
	root := filepath.Join(r.site.Data, "vault", "m", r.machine.ID(), kind)
	r.must(filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if info, err := e.Info(); err == nil && info.ModTime().After(since) && info.Size() > size {
			path, size = p, info.Size()
		}
		return nil
	}))
	if path == "" {
		r.t.Fatalf("no object of kind %s below %s since %s", kind, root, since)
	}
	return path, size
}

// TestVerifyAfterARottenSpool: frames that rot in the relay's spool while they wait there
// never reach the vault as they are; what they held is resynced, and proves equal.
func TestVerifyAfterARottenSpool(t *testing.T) {
	var vault *lab.Tmpfs
	r := scrubRig(t, setup{before: volume(t, &vault, "vault", 2048*mib)})
	r.untilPoint(time.Now())
	r.must(vault.ReadOnly(t.Context(), true))
	data := r.fill(atRest+10*mib, mib, 3)
	r.wantEvent("vault-read-only")
	r.site.Serve.Kill()
	path, at := r.findInSpool(data[300_000:300_064])
	r.flip(path, at)
	r.must(vault.ReadOnly(t.Context(), false))
	r.must(r.site.Start(t.Context()))
	r.wantEvent("relay-lost-spool") // to the relay it is the torn end of its spool
	if p := r.untilEpochAfter(1); p.Reason != "relay-lost-spool" {
		t.Errorf("epoch %d began for %q", p.Epoch, p.Reason)
	}
	r.untilPoint(time.Now())
	r.proveEqual()
	r.verifyNow()
}

// TestVerifyAfterTheSpoolRotsInUse is the same while the relay runs.
func TestVerifyAfterTheSpoolRotsInUse(t *testing.T) {
	var vault *lab.Tmpfs
	r := scrubRig(t, setup{before: volume(t, &vault, "vault", 2048*mib)})
	r.untilPoint(time.Now())
	r.must(vault.ReadOnly(t.Context(), true))
	data := r.fill(atRest+10*mib, mib, 3)
	r.wantEvent("vault-read-only")
	path, at := r.findInSpool(data[300_000:300_064])
	r.flip(path, at)
	r.must(vault.ReadOnly(t.Context(), false))
	r.untilPoint(time.Now().Add(time.Second))
	r.proveEqual()
	r.verifyNow()
	if p := r.reported(); p.Epoch > 1 {
		r.wantEvent("relay-lost-spool")
	}
}

// findInSpool is where some bytes lie in the relay's spool.
func (r *rig) findInSpool(b []byte) (path string, at int64) {
	r.t.Helper()
	r.must(filepath.WalkDir(filepath.Join(r.site.Data, "spool"), func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		all, err := os.ReadFile(p)
		if i := bytes.Index(all, b); i >= 0 {
			path, at = p, int64(i)
		}
		return err
	}))
	if path == "" {
		r.t.Fatal("the bytes are nowhere in the spool")
	}
	return path, at
}

// TestVerifySurvivesRestarts: a proof that was asked for is made, whoever dies meanwhile,
// and one that is wanted for ever begins again.
func TestVerifySurvivesRestarts(t *testing.T) {
	r := scrubRig(t, setup{})
	r.untilPoint(time.Now())
	r.flip(r.disks[1].File, atRest+40*mib+7)
	_, err := r.site.CLI(t.Context(), "verify", r.machine.ID(), "--detach")
	r.must(err)
	r.site.Serve.Kill()
	r.machine.Agent.Kill()
	r.must(r.machine.Agent.Start())
	r.must(r.site.Start(t.Context()))
	time.Sleep(700 * time.Millisecond)
	r.machine.Agent.Kill()
	r.must(r.machine.Agent.Start())
	proof := r.untilProof(1)
	if proof.Result != desired.ProofDifferent || proof.Differs != 4096 {
		t.Errorf("%+v", proof)
	}
	_, err = r.site.CLI(t.Context(), "verify", r.machine.ID(), "--continuous", "--every", "60s", "--rate", "200MiB")
	r.must(err)
	r.until(2*time.Minute, "another proof", func(v lab.View) bool {
		p := v.Protection.Verify
		return p != nil && p.Last != nil && p.Last.Began.After(proof.Began) && p.Last.Result == desired.ProofEqual
	})
	_, err = r.site.CLI(t.Context(), "verify", r.machine.ID(), "--off")
	r.must(err)
	r.verifyNow()
}

// untilProof waits for the answer to a request.
func (r *rig) untilProof(once uint64) desired.Proof {
	r.t.Helper()
	return *r.until(time.Minute, "proof", func(v lab.View) bool {
		return v.Protection != nil && v.Protection.Verify != nil && v.Protection.Verify.Last != nil && v.Protection.Verify.Last.Once >= once
	}).Protection.Verify.Last
}

// TestVerifyCost: what a proof costs with nothing else going on.
func TestVerifyCost(t *testing.T) {
	r := scrubRig(t, setup{quiet: true, size: 640 * mib, before: func(r *rig) { r.fill(0, 560*mib, 9) }})
	r.untilPoint(time.Now())
	for range 2 { // the second finds the vault's merged runs, if a thinning has come
		if p := r.proveEqual(); p.Written > 4*mib {
			t.Errorf("%d bytes were written during each try on a machine at rest", p.Written)
		}
	}
}
