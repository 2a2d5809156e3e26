package nbd

import (
	"bytes"
	"encoding/binary"
	"io"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/understudy-dr/understudy/controlplane/recovery/recoverytest"
)

func TestRequestRefusals(t *testing.T) {
	ro := Export{Name: "ro", Image: newMemory(8192), ReadOnly: true}
	rw := Export{Name: "rw", Image: newMemory(8192)}
	for name, r := range map[string]struct {
		export Export
		flags  uint16
		cmd    command
		off    uint64
		n      uint32
		want   errno
	}{
		"read past the end":        {rw, 0, cmdRead, 8192, 1, errInvalid},
		"read wrapping around":     {rw, 0, cmdRead, 1<<64 - 1, 2, errInvalid},
		"read larger than allowed": {rw, 0, cmdRead, 0, 1 << 31, errInvalid},
		"unknown command":          {rw, 0, 99, 0, 0, errInvalid},
		"unknown flag":             {rw, 1 << 9, cmdRead, 0, 1, errInvalid},
		"flag of another command":  {rw, cmdFlagNoHole, cmdTrim, 0, 1, errInvalid},
		"write past the end":       {rw, 0, cmdWrite, 8190, 4, errNoSpace},
		"zeroes past the end":      {rw, 0, cmdWriteZeroes, 0, 8193, errNoSpace},
		"trim past the end":        {rw, 0, cmdTrim, 0, 8193, errInvalid},
		"write to read-only":       {ro, 0, cmdWrite, 0, 4, errPerm},
		"trim of read-only":        {ro, 0, cmdTrim, 0, 4, errPerm},
		"status not negotiated":    {rw, 0, cmdBlockStatus, 0, 4, errInvalid},
		"flush of read-only":       {ro, 0, cmdFlush, 0, 0, 0},
		"fua on a read":            {rw, cmdFlagFUA, cmdRead, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := dial(t, Options{}, r.export)
			c.enter(false)
			c.request(r.flags, r.cmd, 42, r.off, r.n)
			if r.cmd == cmdWrite {
				c.write(make([]byte, r.n))
			}
			c.mustSimple(42, r.want)
			c.request(0, cmdRead, 43, 0, 16) // the session goes on
			c.mustSimple(43, 0)
			if got := string(c.read(16)); got != "0123456789abcdef" {
				t.Fatalf("read %q", got)
			}
		})
	}
	t.Run("a write larger than allowed ends it", func(t *testing.T) {
		c, _ := dial(t, Options{}, rw)
		c.enter(false)
		c.request(0, cmdWrite, 1, 0, maxPayload+1)
		c.mustEnd()
	})
	t.Run("nonsense ends it", func(t *testing.T) {
		c, _ := dial(t, Options{}, rw)
		c.enter(false)
		c.write(make([]byte, requestSize))
		c.mustEnd()
	})
}

func TestStructuredRepliesCarryOffsetsAndWords(t *testing.T) {
	m := newMemory(16384)
	clear(m.Data[4096:8192])
	m.FailAt = 9000
	c, _ := dial(t, Options{}, Export{Name: "sda", Image: m})
	c.enter(true)
	c.request(cmdFlagDontFragment, cmdRead, 1, 32, 16)
	if kind, p := c.chunk(1); kind != chunkOffsetData || binary.BigEndian.Uint64(p) != 32 || string(p[8:]) != "0123456789abcdef" {
		t.Fatalf("%d %q", kind, p)
	}
	c.request(0, cmdRead, 2, 0, 0)
	if kind, p := c.chunk(2); kind != chunkNone || len(p) > 0 {
		t.Fatalf("an empty read: %d %q", kind, p)
	}
	c.request(0, cmdRead, 3, 8192, 4096)
	if kind, p := c.chunk(3); kind != chunkError || errno(binary.BigEndian.Uint32(p)) != errIO || string(p[6:]) != recoverytest.ErrBroken.Error() {
		t.Fatalf("a failing read: %d %q", kind, p)
	}
	for flags, want := range map[uint16][]uint32{0: {1, 4000, 0, 4096, 3, 1904, 0}, cmdFlagReqOne: {1, 4000, 0}} {
		c.request(flags, cmdBlockStatus, 4, 96, 10000)
		kind, p := c.chunk(4)
		got := make([]uint32, len(p)/4)
		_ = binary.Read(bytes.NewReader(p), binary.BigEndian, got)
		if kind != chunkBlockStatus || len(got) != len(want) {
			t.Fatalf("flags %d: %v, want %v", flags, got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("flags %d: %v, want %v", flags, got, want)
			}
		}
	}
	c.request(0, cmdBlockStatus, 5, 0, 0)
	if kind, _ := c.chunk(5); kind != chunkError {
		t.Fatalf("status of nothing: %d", kind)
	}
	m.mu.Lock()
	m.fail = io.ErrShortWrite
	m.mu.Unlock()
	c.request(0, cmdWrite, 6, 0, 4, "data")
	if kind, _ := c.chunk(6); kind != chunkError {
		t.Fatalf("a failing write: %d", kind)
	}
}

func TestFlushAndFUASync(t *testing.T) {
	m := newMemory(8192)
	c, _ := dial(t, Options{}, Export{Name: "sda", Image: m})
	c.enter(false)
	for i, r := range []struct {
		flags uint16
		cmd   command
		syncs int
	}{{0, cmdWrite, 0}, {cmdFlagFUA, cmdWrite, 1}, {0, cmdFlush, 2}, {cmdFlagFUA, cmdTrim, 3}, {cmdFlagFUA, cmdWriteZeroes, 4}, {cmdFlagFUA, cmdRead, 4}} {
		n := uint32(4)
		if r.cmd == cmdFlush || r.cmd == cmdRead {
			n = 0
		}
		c.request(r.flags, r.cmd, uint64(i), 0, n)
		if r.cmd == cmdWrite {
			c.write("data")
		}
		c.mustSimple(uint64(i), 0)
		m.mu.Lock()
		if m.syncs != r.syncs {
			t.Errorf("after %s with flags %d: %d syncs, want %d", r.cmd, r.flags, m.syncs, r.syncs)
		}
		m.mu.Unlock()
	}
}

// TestRequestsAtOnceAreBounded counts the reads under way in the device.
func TestRequestsAtOnceAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(8192)
		var mu sync.Mutex
		var now, most int
		release := make(chan struct{})
		m.OnRead = func(int64) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			<-release
			mu.Lock()
			now--
			mu.Unlock()
		}
		c, stop := dial(t, Options{InFlight: 3}, Export{Name: "sda", Image: m})
		c.enter(false)
		go func() {
			for i := range 10 {
				c.request(0, cmdRead, uint64(i), 0, 512)
			}
		}()
		synctest.Wait()
		if most != 3 {
			t.Errorf("%d reads at once, want 3", most)
		}
		close(release)
		for range 10 {
			c.read(simpleSize + 512)
		}
		if most != 3 {
			t.Errorf("%d reads at once, want 3", most)
		}
		c.Close()
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}
