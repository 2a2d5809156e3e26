package desired

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzToken reads what an operator pasted. Limit: 8 times the input and 4 KiB.
func FuzzToken(f *testing.F) {
	for _, s := range []string{"", "ust1__", "ust1_0_0", "ust2_00_00", " " + NewToken([32]byte{1}).String() + "\n", NewToken([32]byte{}).String() + "_"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fuzztest.Bounded(t, 8*len(s)+4<<10, func() { _, _ = ParseToken(s) })
		if token, err := ParseToken(s); err == nil {
			if again, err := ParseToken(token.String()); err != nil || again != token {
				t.Errorf("%+v came back as %+v, %v", token, again, err)
			}
		}
	})
}

// FuzzReport is what a machine that somebody took over may say. Limit of decoding and
// checking: 256 times the input (two letters, {}, can be an element of a list) and 64 KiB.
// What passes the check has bounded lists and texts, and comes back from its own JSON.
func FuzzReport(f *testing.F) {
	b, err := json.Marshal(good())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"instance":"a","host":{"hostname":"h"},"disks":[{},{}]}`))
	f.Add([]byte(`{"version":1,"instance":"a","host":{"hostname":"h"},"protection":{"disks":[null]},"probe":{"checks":[{}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Report
		var err error
		fuzztest.Bounded(t, 256*len(b)+64<<10, func() {
			r = Report{}
			if err = json.Unmarshal(b, &r); err == nil {
				err = r.Check()
			}
		})
		if err == nil {
			comesBack(t, r)
			if len(r.Disks) > maxDisks || len(r.Events) > maxEvents || len(r.Instance) > 64 {
				t.Errorf("a report with %d disks, %d events passed", len(r.Disks), len(r.Events))
			}
		}
	})
}

// FuzzState is what a control plane, or a file copy of what it said, wants. Limit as
// in FuzzReport. The throttle of any policy can be asked for any hour.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"generation":7,"disks":["000102030405060708090a0b0c0d0e0f"],"relays":[":9443"],"policy":{"rpo_target_ms":15000,"throttle":[{"from":"08:00","to":"18:00","days":["mon"],"bytes_per_second":1}]}}`))
	f.Add([]byte(`{"policy":{"throttle":[{"from":"","to":"9:","bytes_per_second":-1},{"from":"99:99","to":"00:00"}]}}`))
	at := time.Date(2026, 11, 23, 18, 30, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzztest.Bounded(t, 256*len(b)+64<<10, func() {
			var s State
			_ = json.Unmarshal(b, &s)
		})
		var s State
		if json.Unmarshal(b, &s) != nil {
			return
		}
		if !s.Machine.IsZero() && !slices.ContainsFunc(s.Disks, block.DiskID.IsZero) { // null is taken for an id that is not set
			comesBack(t, s)
		}
		for _, w := range s.Policy.Throttle {
			_ = w.Check()
		}
		_, _, _ = s.Policy.ThrottleAt(at), s.Policy.RPOTarget(), CheckVersion(s.Version)
	})
}

// comesBack checks that what was decoded is what its own JSON says.
func comesBack[T any](t *testing.T, v T) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		return // a time past the year 9999 can be read but not written
	}
	var again T
	if err := json.Unmarshal(b, &again); err != nil {
		t.Fatalf("%s does not come back: %v", b, err)
	}
	if c, err := json.Marshal(again); err != nil || !reflect.DeepEqual(b, c) {
		t.Errorf("%s came back as %s, %v", b, c, err)
	}
}
