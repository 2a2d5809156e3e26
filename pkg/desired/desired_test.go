package desired

import (
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

func TestTokenRoundTripAndRefusesNonsense(t *testing.T) {
	token := NewToken(sha256.Sum256([]byte("an authority")))
	got, err := ParseToken("  " + token.String() + "\n")
	if err != nil || got != token {
		t.Fatalf("%v came back as %v, %v", token, got, err)
	}
	s := token.String()
	for _, bad := range []string{"", "x", s[:len(s)-1], s + "0", "ust2" + s[4:], strings.Replace(s, "_", "-", 1), s[:5] + "zz" + s[7:]} {
		if _, err := ParseToken(bad); problem.CodeOf(err) != problem.TokenWrong {
			t.Errorf("ParseToken(%q) = %v, want %s", bad, err, problem.TokenWrong)
		}
	}
}

func TestCheckClocksNamesTheDirection(t *testing.T) {
	now := time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)
	for skew, want := range map[time.Duration]string{
		0:                        "",
		MaxSkew:                  "",
		-MaxSkew:                 "",
		MaxSkew + time.Second:    "5m1s ahead of",
		-2 * 24 * time.Hour:      "48h0m0s behind",
		1000 * 24 * time.Hour:    "24000h0m0s ahead of",
		-(MaxSkew + time.Second): "5m1s behind",
	} {
		err := CheckClocks(now.Add(skew), now)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("skew %s: %v, want %q", skew, err, want)
		}
	}
}

func TestCheckVersionSaysWhichSideToUpgrade(t *testing.T) {
	if err := CheckVersion(Version); err != nil {
		t.Error(err)
	}
	for peer, want := range map[int]string{Version + 1: "upgrade the control plane", Version - 1: "upgrade the agent"} {
		if err := CheckVersion(peer); problem.CodeOf(err) != problem.VersionUnknown || !strings.Contains(err.Error(), want) {
			t.Errorf("version %d: %v", peer, err)
		}
	}
}

func TestThrottleAt(t *testing.T) {
	policy := Policy{Throttle: []Window{
		{From: "08:00", To: "18:00", Days: []string{"mon", "tue", "wed", "thu", "fri"}, BytesPerSecond: 1000},
		{From: "12:00", To: "13:00", BytesPerSecond: 500},
		{From: "22:00", To: "02:00", Days: []string{"sat"}, BytesPerSecond: 10},
	}}
	for when, want := range map[string]int64{
		"2026-11-23 07:59": 0, // a Monday
		"2026-11-23 08:00": 1000,
		"2026-11-23 12:30": 500, // the smaller of two
		"2026-11-23 18:00": 0,
		"2026-11-22 10:00": 0, // a Sunday
		"2026-11-21 23:00": 10,
		"2026-11-22 01:59": 10, // still Saturday's window
		"2026-11-22 02:00": 0,
		"2026-11-23 01:00": 0, // Sunday's night has none
	} {
		at, err := time.Parse("2006-01-02 15:04", when)
		if err != nil {
			t.Fatal(err)
		}
		if got := policy.ThrottleAt(at); got != want {
			t.Errorf("%s: %d bytes a second, want %d", when, got, want)
		}
	}
}

func TestWindowCheck(t *testing.T) {
	for _, bad := range []Window{
		{From: "8", To: "18:00", BytesPerSecond: 1},
		{From: "08:00", To: "24:01", BytesPerSecond: 1},
		{From: "08:00", To: "18:00"},
		{From: "08:00", To: "18:00", Days: []string{"monday"}, BytesPerSecond: 1},
	} {
		if bad.Check() == nil {
			t.Errorf("%+v passed", bad)
		}
	}
}

func good() Report {
	return Report{
		Version:  Version,
		Instance: "a",
		Host:     Host{Hostname: "web1"},
		Disks:    []Disk{{ID: block.DiskIDFromName("a"), Name: "a", Size: 1 << 30, SectorSize: 512}},
		Events:   []Event{{Type: "x", Severity: Info}},
	}
}

func TestReportCheckBoundsWhatAnAgentMaySay(t *testing.T) {
	r := good()
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", maxText+1)
	for name, spoil := range map[string]func(*Report){
		"no instance":               func(r *Report) { r.Instance = "" },
		"long instance":             func(r *Report) { r.Instance = long },
		"no hostname":               func(r *Report) { r.Host.Hostname = "" },
		"long hostname":             func(r *Report) { r.Host.Hostname = long },
		"many cards":                func(r *Report) { r.Host.Hardware = &Hardware{Cards: make([]Card, maxCards+1)} },
		"long address of a card":    func(r *Report) { r.Host.Hardware = &Hardware{Cards: []Card{{MAC: long}}} },
		"memory below zero":         func(r *Report) { r.Host.Hardware = &Hardware{Memory: -1} },
		"long driver of a disk":     func(r *Report) { r.Disks[0].Driver = long },
		"many disks":                func(r *Report) { r.Disks = make([]Disk, maxDisks+1) },
		"disk without id":           func(r *Report) { r.Disks[0].ID = block.DiskID{} },
		"one id twice":              func(r *Report) { r.Disks = append(r.Disks, r.Disks[0]) },
		"negative size":             func(r *Report) { r.Disks[0].Size = -1 },
		"many events":               func(r *Report) { r.Events = make([]Event, maxEvents+1) },
		"odd severity":              func(r *Report) { r.Events[0].Severity = "fatal" },
		"long message":              func(r *Report) { r.Events[0].Message = long },
		"protected disks":           func(r *Report) { r.Protection = &Protection{Disks: make([]DiskState, maxDisks+1)} },
		"protected disk without id": func(r *Report) { r.Protection = &Protection{Disks: make([]DiskState, 1)} },
		"large probe":               func(r *Report) { r.Probe.Checks = []Check{{Detail: strings.Repeat("x", maxProbe+1)}} },
	} {
		r := good()
		spoil(&r)
		if err := r.Check(); problem.CodeOf(err) != problem.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOldAndNewPeersUnderstandEachOther holds the promise that unknown members are
// ignored and that absent ones mean their zero value.
func TestOldAndNewPeersUnderstandEachOther(t *testing.T) {
	var s State
	if err := json.Unmarshal([]byte(`{"version":1,"generation":7,"from_the_future":{"x":1}}`), &s); err != nil {
		t.Fatal(err)
	}
	if s.Generation != 7 || s.Resync != 0 || len(s.Disks) != 0 {
		t.Fatalf("%+v", s)
	}
}
