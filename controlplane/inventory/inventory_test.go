package inventory

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/understudy-dr/understudy/controlplane/pki"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// clock is a clock that tests set.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func open(t *testing.T) (*Inventory, *clock) {
	t.Helper()
	c := &clock{t: time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)}
	inv, err := Open(t.Context(), filepath.Join(t.TempDir(), "inventory.db"), c.now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := inv.Close(); err != nil {
			t.Error(err)
		}
	})
	return inv, c
}

// enrol lets a machine enrol with a new token and returns its id.
func enrol(t *testing.T, inv *Inventory, hostname string) block.MachineID {
	t.Helper()
	secret := desired.NewToken([32]byte{}).Secret
	if _, err := inv.CreateToken(t.Context(), secret, block.MachineID{}, "", 0); err != nil {
		t.Fatal(err)
	}
	issued, err := redeem(inv, secret, "key of "+hostname, hostname)
	if err != nil {
		t.Fatal(err)
	}
	return issued.Machine
}

var serials int

func redeem(inv *Inventory, secret, key, hostname string) (pki.Issued, error) {
	return inv.Redeem(context.Background(), secret, key, desired.Host{Hostname: hostname}, func(id block.MachineID) (pki.Issued, error) {
		serials++
		return pki.Issued{Serial: key + string(rune('a'+serials%26)) + time.Now().String(), Machine: id}, nil
	})
}

func disk(name string) desired.Disk {
	return desired.Disk{ID: block.DiskIDFromName(name), Name: name, Path: "/dev/" + name, Size: 1 << 30, SectorSize: 512}
}

func report(instance string, disks ...desired.Disk) desired.Report {
	return desired.Report{Version: desired.Version, Instance: instance, Host: desired.Host{Hostname: "web1"}, Disks: disks}
}

func record(t *testing.T, inv *Inventory, id block.MachineID, r desired.Report) desired.ReportReply {
	t.Helper()
	r.Time = inv.now()
	reply, err := inv.Record(t.Context(), id, r)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func want(t *testing.T, err error, code problem.Code, words ...string) {
	t.Helper()
	if problem.CodeOf(err) != code {
		t.Fatalf("%v, want code %s", err, code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestNewerDatabaseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inventory.db")
	inv, err := Open(t.Context(), path, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inv.write.Exec("PRAGMA user_version = 999"); err != nil {
		t.Fatal(err)
	}
	if err := inv.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), path, time.Now, slog.New(slog.DiscardHandler))
	if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "version 999") || !strings.Contains(err.Error(), path) {
		t.Fatal(err)
	}
}

func TestReopenKeepsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a dir#with?odd names")
	open := func() *Inventory {
		inv, err := Open(t.Context(), path, time.Now, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return inv
	}
	inv := open()
	id := enrol(t, inv, "web1")
	if err := inv.Close(); err != nil {
		t.Fatal(err)
	}
	inv = open()
	defer inv.Close()
	if m, err := inv.Machine(t.Context(), id); err != nil || m.Hostname != "web1" {
		t.Fatal(m, err)
	}
}

func TestMigrationsMustBeNumberedWithoutGaps(t *testing.T) {
	for name, files := range map[string][]string{
		"gap":       {"0001_a.sql", "0003_b.sql"},
		"twice":     {"0001_a.sql", "0001_b.sql"},
		"no number": {"a.sql"},
	} {
		fs := fstest.MapFS{}
		for _, f := range files {
			fs["migrations/"+f] = &fstest.MapFile{}
		}
		if _, err := load(fs); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
}

func TestMigrationThatFailsLeavesNothing(t *testing.T) {
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	m := migration{version: 1, name: "0001_x.sql", sql: "CREATE TABLE a (x INTEGER); CREATE TABLE a (x INTEGER);"}
	if err := m.run(t.Context(), db); err == nil {
		t.Fatal("it ran")
	}
	var version, tables int
	if err := db.QueryRow("SELECT (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_master)").Scan(&version, &tables); err != nil {
		t.Fatal(err)
	}
	if version != 0 || tables != 0 {
		t.Errorf("version %d with %d tables is left", version, tables)
	}
}

func TestResolve(t *testing.T) {
	inv, _ := open(t)
	a, b := enrol(t, inv, "web1"), enrol(t, inv, "web2")
	for _, name := range []string{a.String(), a.String()[:8], "web1"} {
		if m, err := inv.Resolve(t.Context(), name); err != nil || m.ID != a {
			t.Errorf("%s: %v, %v", name, m.ID, err)
		}
	}
	_, err := inv.Resolve(t.Context(), "web")
	want(t, err, problem.MachineUnknown, `"web"`)
	_, err = inv.Resolve(t.Context(), a.String()[:7])
	want(t, err, problem.MachineUnknown)
	record(t, inv, b, report("x")) // it says that it is web1, too
	_, err = inv.Resolve(t.Context(), "web1")
	want(t, err, problem.Ambiguous, a.String(), b.String())
}

func TestRemoveMachine(t *testing.T) {
	inv, _ := open(t)
	id := enrol(t, inv, "web1")
	record(t, inv, id, report("x", disk("a")))
	if _, err := inv.Protect(t.Context(), id, []string{"a"}, ""); err != nil {
		t.Fatal(err)
	}
	want(t, inv.RemoveMachine(t.Context(), id), problem.Conflict, "protected")
	if _, err := inv.Unprotect(t.Context(), id, nil); err != nil {
		t.Fatal(err)
	}
	serial := serialOf(t, inv, id)
	if err := inv.Authorize(t.Context(), id, serial); err != nil {
		t.Fatal(err)
	}
	if err := inv.RemoveMachine(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	want(t, inv.Authorize(t.Context(), id, serial), problem.CertificateRevoked, "removed")
	want(t, inv.Authorize(t.Context(), id, "never seen"), problem.MachineUnknown)
	want(t, inv.RemoveMachine(t.Context(), id), problem.MachineUnknown)
}

func serialOf(t *testing.T, inv *Inventory, id block.MachineID) (serial string) {
	t.Helper()
	if err := inv.read.QueryRow("SELECT serial FROM certificates WHERE machine = ?", id.String()).Scan(&serial); err != nil {
		t.Fatal(err)
	}
	return serial
}

func TestAdopt(t *testing.T) {
	inv, _ := open(t)
	id := block.NewMachineID()
	for i, wantNew := range []bool{true, false} {
		adopted, err := inv.Adopt(t.Context(), id, "web1", []desired.Disk{disk("a")}, nil)
		if err != nil || adopted != wantNew {
			t.Fatalf("time %d: %v, %v", i+1, adopted, err)
		}
	}
	disks, err := inv.Disks(t.Context(), id)
	if err != nil || len(disks) != 1 || disks[0].Present || !disks[0].Protected.IsZero() {
		t.Fatal(disks, err)
	}
	if err := inv.Authorize(t.Context(), id, "a certificate of the lost inventory"); err != nil {
		t.Fatal("a machine that the vault knows is shut out:", err)
	}
}

func TestOperator(t *testing.T) {
	inv, _ := open(t)
	if err := inv.SetOperator(t.Context(), "admin", "first"); err != nil {
		t.Fatal(err)
	}
	if err := inv.SetOperator(t.Context(), "admin", "second"); err != nil {
		t.Fatal(err)
	}
	if name, err := inv.Operator(t.Context(), "second"); err != nil || name != "admin" {
		t.Fatal(name, err)
	}
	for _, bad := range []string{"", "first", hash("second")} {
		_, err := inv.Operator(t.Context(), bad)
		want(t, err, problem.Unauthenticated)
	}
}

func TestPolicyCheck(t *testing.T) {
	inv, _ := open(t)
	for name, spoil := range map[string]func(*Policy){
		"name":      func(p *Policy) { p.Name = "Über" },
		"rpo":       func(p *Policy) { p.RPOTargetMS = 999 },
		"retention": func(p *Policy) { p.Retention.HourlySeconds = p.Retention.AllSeconds - 1 },
		"negative":  func(p *Policy) { p.Retention.AllSeconds = -1 },
		"for ever":  func(p *Policy) { p.Retention.DailySeconds = maxRetention + 1 },
		"throttle":  func(p *Policy) { p.Throttle = []desired.Window{{From: "8", To: "9", BytesPerSecond: 1}} },
		"windows":   func(p *Policy) { p.Throttle = make([]desired.Window, maxWindows+1) },
	} {
		p := NewPolicy("x")
		spoil(&p)
		if _, err := inv.SetPolicy(t.Context(), p); problem.CodeOf(err) != problem.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := NewPolicy("x")
	p.Throttle = []desired.Window{{From: "08:00", To: "18:00", BytesPerSecond: 1000}}
	if got, err := inv.SetPolicy(t.Context(), p); err != nil || got.Throttle[0].BytesPerSecond != 1000 || got.Retention != p.Retention {
		t.Fatal(got, err)
	}
}

func TestEventsAfterMissesNone(t *testing.T) {
	inv, _ := open(t)
	add := func(n int) {
		for range n {
			if err := inv.AddEvent(t.Context(), block.MachineID{}, desired.Event{Type: "x", Severity: desired.Info}); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(7)
	newest, err := inv.Events(t.Context(), EventFilter{Limit: 3})
	if err != nil || len(newest) != 3 || newest[0].ID != 5 || newest[2].ID != 7 {
		t.Fatal(newest, err)
	}
	add(5)
	next, err := inv.Events(t.Context(), EventFilter{After: 7, Limit: 3})
	if err != nil || len(next) != 3 || next[0].ID != 8 || next[2].ID != 10 {
		t.Fatal(next, err)
	}
	none, err := inv.Events(t.Context(), EventFilter{Type: "y"})
	if err != nil || none == nil || len(none) != 0 {
		t.Fatal(none, err)
	}
}

func TestFullDiskIsAProblemWithARemedy(t *testing.T) {
	inv, _ := open(t)
	if _, err := inv.write.Exec("PRAGMA max_page_count = 40"); err != nil {
		t.Fatal(err)
	}
	var err error
	for range 200 {
		if err = inv.AddEvent(t.Context(), block.MachineID{}, desired.Event{Message: strings.Repeat("x", 4000)}); err != nil {
			break
		}
	}
	want(t, err, problem.Unavailable, "full", "free some space")
	if _, err := inv.Machines(t.Context()); err != nil {
		t.Error("reading must go on:", err)
	}
}

func TestDamagedFileIsAProblemWithARemedy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inventory.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), path, time.Now, slog.New(slog.DiscardHandler))
	want(t, err, problem.Damaged, "vault rebuild")
}

func TestPruneBoundsThePast(t *testing.T) {
	inv, c := open(t)
	enrol(t, inv, "web1")
	if _, err := inv.write.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < ?)
		INSERT INTO events (at, machine, disk, type, severity, message, remedy) SELECT 0, '', '', 'x', 'info', '', '' FROM n`, keepEvents+50); err != nil {
		t.Fatal(err)
	}
	c.pass(32 * 24 * time.Hour)
	if err := inv.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	var events, tokens int
	if err := inv.read.QueryRow("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM tokens)").Scan(&events, &tokens); err != nil {
		t.Fatal(err)
	}
	if events != keepEvents+1 || tokens != 0 { // the noisy one's, and web1's enrolment
		t.Errorf("%d events and %d tokens are left", events, tokens)
	}
}

func TestAuditShowsWhatWasCutShort(t *testing.T) {
	inv, _ := open(t)
	first, err := inv.Begin(t.Context(), "operator admin", "protect", "/v1/machines/web1/protect")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inv.Begin(t.Context(), "operator admin", "resync", "web1"); err != nil {
		t.Fatal(err)
	}
	if err := inv.End(t.Context(), first, "ok"); err != nil {
		t.Fatal(err)
	}
	entries, err := inv.Audit(t.Context(), 0)
	if err != nil || len(entries) != 2 || entries[0].Result != "begun" || entries[1].Result != "ok" || entries[1].Verb != "protect" {
		t.Fatal(entries, err)
	}
}
