package journal

import (
	"bufio"
	"encoding/binary"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// crashDir tells the test binary that it is the process to be killed.
const crashDir = "JOURNAL_TEST_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		appendUntilKilled(dir)
	}
	os.Exit(m.Run())
}

func crashOptions(dir string) Options {
	return Options{
		MemoryDir: filepath.Join(dir, "memory"), MemoryBytes: 4 << 20, MemoryOnDisk: true,
		SpillPath: filepath.Join(dir, "spill.hrl"), SpillBytes: 8 << 20,
		Log: slog.New(slog.DiscardHandler),
	}
}

// appendUntilKilled appends on, telling every number that was stored, and saves a
// state and releases now and then.
func appendUntilKilled(dir string) {
	j, rec, err := Open(crashOptions(dir))
	if err != nil {
		panic(err)
	}
	t := &testing.T{}
	rng := rand.New(rand.NewPCG(1, uint64(os.Getpid())))
	for seq := max(rec.Last, rec.Released) + 1; ; seq++ {
		if seq%64 == 0 {
			j.Release(seq - 40)
		}
		if err := j.Append(testFrame(t, seq, rng.IntN(200<<10)+1), uint64(seq)*100); err != nil {
			panic(err)
		}
		if err := j.SaveState(State{Epoch: 1, LastSeq: seq}); err != nil {
			panic(err)
		}
		if err := binary.Write(os.Stdout, binary.LittleEndian, uint64(seq)); err != nil {
			panic(err)
		}
	}
}

// TestKillNine kills a process in the middle of appending, again and again on the same
// journal: whatever it said it had stored is there, and nothing that is there is torn.
func TestKillNine(t *testing.T) {
	rounds := 25
	if testing.Short() {
		rounds = 5
	}
	dir, err := os.MkdirTemp("/dev/shm", "journal-crash")
	if err != nil {
		dir = t.TempDir()
	}
	defer os.RemoveAll(dir)
	var stored block.Seq
	spilled := false
	for round := range rounds {
		told := runAndKill(t, dir)
		if told > 0 {
			stored = told
		}
		j, rec := mustOpen(t, crashOptions(dir))
		last := max(rec.Last, rec.Released)
		if last < stored || last > stored+1 || rec.RingPos != uint64(last)*100 || !rec.SameBoot || len(rec.Damage) > 0 {
			t.Fatalf("round %d: stored %d, recovered %+v", round, stored, rec)
		}
		if s := rec.State.LastSeq; stored > 0 && (s < stored || s > last) {
			t.Fatalf("round %d: stored %d, the state knows %d", round, stored, s)
		}
		wantRetained(t, j, rec, rec.First, rec.Last)
		stored = last
		spilled = spilled || j.Stats().SpillBytes > 0
		j.Close()
	}
	if !spilled {
		t.Error("the disk stage was never in use")
	}
	t.Logf("%d frames over %d kills", stored, rounds)
}

// runAndKill gives the last number the process told before it was killed.
func runAndKill(t *testing.T, dir string) (last block.Seq) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// The clock begins with the first number: how long a process takes to start says
	// nothing, and a slow one would be killed before it has done anything.
	kill := sync.OnceFunc(func() {
		time.AfterFunc(time.Duration(rand.IntN(150))*time.Millisecond, func() { cmd.Process.Kill() })
	})
	r := bufio.NewReader(out)
	for {
		var seq uint64
		if err := binary.Read(r, binary.LittleEndian, &seq); err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		last = block.Seq(seq)
		kill()
	}
	_ = cmd.Wait() // it was killed
	return last
}
