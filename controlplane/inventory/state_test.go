package inventory

import (
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// facts are of a machine with two protected disks in epoch 3, all well; change spoils
// them.
func facts(change func(*Facts)) Facts {
	a, b := disk("a"), disk("b")
	f := Facts{
		Now:      noon,
		Wanted:   []Disk{{Disk: a, Present: true, Protected: noon}, {Disk: b, Present: true, Protected: noon}},
		Reported: noon.Add(-2 * time.Second),
		Report: desired.Report{
			Host: desired.Host{Hostname: "web1"},
			Protection: &desired.Protection{
				Phase: desired.PhaseSteady, Epoch: 3, Reason: "ring-overflow",
				Disks: []desired.DiskState{{ID: a.ID, Phase: desired.PhaseSteady}, {ID: b.ID, Phase: desired.PhaseSteady}},
			},
		},
		Replication: Replication{Known: true, Connected: true, PointEpoch: 3, PointTime: noon.Add(-1500 * time.Millisecond)},
	}
	if change != nil {
		change(&f)
	}
	return f
}

// base is the copy of epoch 3 on its way.
func base(f *Facts) {
	f.Report.Protection.Phase, f.Replication.PointEpoch = desired.PhaseBase, 2
	f.Report.Protection.Base = &desired.Progress{Method: "full", Done: 1, Total: 4}
}

func never(f *Facts) { f.Replication.PointEpoch, f.Replication.PointTime = 0, time.Time{} }

func all(changes ...func(*Facts)) func(*Facts) {
	return func(f *Facts) {
		for _, c := range changes {
			c(f)
		}
	}
}

func TestDeriveState(t *testing.T) {
	phase := func(p desired.Phase) func(*Facts) { return func(f *Facts) { f.Report.Protection.Phase = p } }
	for name, c := range map[string]struct {
		change func(*Facts)
		want   State
	}{
		"all is well":                             {nil, Protected},
		"nothing is wanted":                       {func(f *Facts) { f.Wanted = nil }, Unprotected},
		"wanted, and not heard of":                {all(never, func(f *Facts) { f.Report.Protection = nil }), Enabling},
		"capture is being set up":                 {all(never, phase(desired.PhaseEnabling)), Enabling},
		"capture cannot be set up":                {all(never, phase(desired.PhaseFailed)), Enabling},
		"the first copy":                          {all(base, never), InitialReplication},
		"the vault has the copy, the report lags": {phase(desired.PhaseBase), Protected},
		"the first copy is sent, not committed":   {never, InitialReplication},
		"a resync":                                {base, Resync},
		"a resync is sent, not committed":         {func(f *Facts) { f.Replication.PointEpoch = 2 }, Resync},
		"data is not captured":                    {phase(desired.PhaseMapOnly), Resync},
		"scanned, between two scans":              {phase(desired.PhaseScan), Protected},
		"scanned, before the first":               {all(phase(desired.PhaseScan), never), InitialReplication},
		"the agent was restarted":                 {phase(desired.PhaseEnabling), Protected},
		"capture is set up again":                 {all(phase(desired.PhaseEnabling), func(f *Facts) { f.Report.Protection.Epoch = 0 }), Resync},
		"a disk was added and not taken in":       {func(f *Facts) { f.Report.Protection.Disks = f.Report.Protection.Disks[:1] }, Resync},
		"one disk failed":                         {func(f *Facts) { f.Report.Protection.Disks[1].Phase = desired.PhaseFailed }, Resync},
		"no relay tells":                          {func(f *Facts) { f.Replication = Replication{} }, Protected},
		"no relay tells of the first copy":        {all(base, func(f *Facts) { f.Replication = Replication{} }), InitialReplication},
	} {
		s := Derive(facts(c.change))
		if s.State != c.want {
			t.Errorf("%s: %s, want %s", name, s.State, c.want)
		}
		if s.Message == "" {
			t.Errorf("%s: says nothing", name)
		}
		if during := s.State == Resync || s.State == InitialReplication; !during && (s.Reason != "" || s.Progress != nil) {
			t.Errorf("%s: reason %q and progress %v in state %s", name, s.Reason, s.Progress, s.State)
		}
	}
}

func TestDeriveContact(t *testing.T) {
	reported := func(ago time.Duration) func(*Facts) { return func(f *Facts) { f.Reported = noon.Add(-ago) } }
	cut := func(f *Facts) { f.Replication.Connected = false }
	for name, c := range map[string]struct {
		change func(*Facts)
		want   Contact
	}{
		"in time":                              {nil, Live},
		"never":                                {func(f *Facts) { f.Reported = time.Time{} }, Never},
		"a report is overdue":                  {reported(16 * time.Second), Stale},
		"the log does not arrive":              {cut, Stale},
		"nothing to send":                      {all(cut, func(f *Facts) { f.Wanted = nil }), Live},
		"silent for long, but the log arrives": {reported(time.Hour), Stale},
		"silent for long":                      {all(cut, reported(61*time.Second)), Disconnected},
		"our clock was set back":               {reported(-time.Hour), Stale},
	} {
		if s := Derive(facts(c.change)); s.Contact != c.want {
			t.Errorf("%s: %s, want %s", name, s.Contact, c.want)
		}
	}
}

func TestDeriveRPO(t *testing.T) {
	if s := Derive(facts(nil)); s.RPO == nil || *s.RPO != 1.5 {
		t.Errorf("%v, want 1.5 s", s.RPO)
	}
	if s := Derive(facts(never)); s.RPO != nil {
		t.Errorf("%v s, want none", *s.RPO)
	}
	for name, c := range map[string]struct {
		clock, age time.Duration // of the machine against ours; of its newest point
		want       float64
	}{
		"ahead":                          {2 * time.Hour, 40 * time.Second, 40},
		"a little ahead":                 {10 * time.Second, 40 * time.Second, 40},
		"behind":                         {-2 * time.Hour, 40 * time.Second, 40},
		"a report that was on its way":   {-10 * time.Second, 40 * time.Second, 50}, // or a clock behind: rather too old than too fresh
		"ahead, and the point is of now": {time.Hour, -time.Second, 0},
	} {
		s := Derive(facts(func(f *Facts) {
			f.Report.Time, f.Replication.PointTime = f.Reported.Add(c.clock), f.Now.Add(c.clock-c.age)
		}))
		if s.RPO == nil || *s.RPO != c.want {
			t.Errorf("a clock %s: %v, want %v", name, *s.RPO, c.want)
		}
	}
	silent := func(f *Facts) {
		f.Reported, f.Replication.Connected, f.Replication.PointTime = noon.Add(-time.Hour), false, noon.Add(-time.Hour)
	}
	if s := Derive(facts(silent)); s.State != Protected || *s.RPO != 3600 || !strings.Contains(s.Message, "as of 1h0m0s ago") || !strings.Contains(s.Message, "not connected") {
		t.Errorf("a silent machine: %+v", s)
	}
}

func TestDeriveNamesTheObstacle(t *testing.T) {
	gone := Derive(facts(func(f *Facts) { f.Wanted[1].Present = false }))
	want(t, gone.Problem, problem.DiskGone, "disk b", "web1", "attach it")
	dax := problem.New(problem.Conflict, "mount it without DAX", "disk a is mounted with DAX")
	s := Derive(facts(func(f *Facts) {
		f.Report.Protection.Disks[0].Problem = dax
		f.Report.Protection.Problem = problem.New(problem.Internal, "", "something else")
	}))
	if s.Problem != dax {
		t.Error(s.Problem)
	}
	if s := Derive(facts(func(f *Facts) { f.Report.Protection.Disks[0].Problem = dax; f.Wanted = nil })); s.Problem != nil {
		t.Error("nothing is wanted, so nothing stands in the way:", s.Problem)
	}
}

func TestTransitionsAreEvents(t *testing.T) {
	inv, c := open(t)
	id := enrol(t, inv, "web1")
	contacts := map[block.MachineID]Contact{}
	var told Replication
	look := func() {
		t.Helper()
		if err := inv.noticeAll(t.Context(), func(block.MachineID) Replication { return told }, contacts); err != nil {
			t.Fatal(err)
		}
	}
	look()
	r := report("x", disk("a"))
	record(t, inv, id, r)
	look()
	if _, err := inv.Protect(t.Context(), id, []string{"a"}, ""); err != nil {
		t.Fatal(err)
	}
	told = Replication{Known: true, Connected: true}
	look()
	r.Protection = &desired.Protection{Phase: desired.PhaseBase, Epoch: 1, Reason: "initial", Disks: []desired.DiskState{{ID: disk("a").ID, Phase: desired.PhaseBase}}}
	record(t, inv, id, r)
	look()
	r.Protection.Phase, told.PointEpoch, told.PointTime = desired.PhaseSteady, 1, c.now()
	record(t, inv, id, r)
	look()
	look()
	told.Connected = false
	c.pass(2 * time.Minute)
	look()
	told.Connected = true
	record(t, inv, id, r)
	look()
	var got []string
	for _, e := range append(events(t, inv, "state"), events(t, inv, "contact")...) {
		got = append(got, strings.TrimPrefix(e.Message, "machine web1: "))
	}
	want := "Unprotected=>Enabling|Enabling=>InitialReplication (initial)|InitialReplication=>Protected|live=>disconnected|disconnected=>live"
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("%s\nwant %s", s, want)
	}
}

// TestWhatAFailoverMadeOfAMachine goes before what its source is, whatever that says.
func TestWhatAFailoverMadeOfAMachine(t *testing.T) {
	inv, _ := open(t)
	m := block.NewMachineID()
	if _, err := inv.Adopt(t.Context(), m, "web1", nil, nil); err != nil {
		t.Fatal(err)
	}
	derived := func() Status {
		t.Helper()
		machine, err := inv.Machine(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		f, err := inv.Facts(t.Context(), machine, func(block.MachineID) Replication { return Replication{} })
		if err != nil {
			t.Fatal(err)
		}
		return Derive(f)
	}
	if s := derived().State; s != Unprotected {
		t.Fatal(s)
	}
	if _, err := inv.AddJob(t.Context(), "failover-test-boot", m, nil, "admin", nil); err != nil { // says nothing of the machine
		t.Fatal(err)
	}
	job, err := inv.AddJob(t.Context(), Takeover, m, nil, "admin", nil)
	if err != nil {
		t.Fatal(err)
	}
	if s := derived(); s.State != FailoverInitiated || s.Message == "" {
		t.Errorf("%+v", s)
	}
	for _, c := range []struct {
		status JobStatus
		want   State
	}{{JobDone, FailedOver}, {JobCommitted, Committed}, {JobFailed, Unprotected}, {JobDone, FailedOver}, {JobCleaned, Unprotected}} {
		if err := inv.FinishJob(t.Context(), job.ID, c.status, nil, desired.Event{Type: "x", Severity: desired.Info}); err != nil {
			t.Fatal(err)
		}
		if s := derived(); s.State != c.want || s.Message == "" {
			t.Errorf("%s: %+v, want %s", c.status, s, c.want)
		}
	}
}
