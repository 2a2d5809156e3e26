//go:build testbed

package testbed

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// madePoint is what understudy point create answers.
type madePoint struct {
	lab.Point
	Name    string `json:"name"`
	Problem string `json:"problem"`
}

// createPoint asks for an application-consistent point.
func (r *rig) createPoint(name string) (madePoint, error) {
	var p madePoint
	err := r.site.Ask(r.t.Context(), &p, "point", "create", r.machine.ID(), "--app", "--name", name, "--wait", "60s")
	return p, err
}

// script puts a shell script where the agent of the rig looks for it.
func (r *rig) script(name, body string) {
	r.t.Helper()
	path := r.Path("scripts", "consistency.d", name)
	r.must(os.MkdirAll(filepath.Dir(path), 0o755))
	r.must(os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755))
}

// onProtected is an agent whose own directory, log and spill lie on the first protected
// disk, with little memory before the spill.
func onProtected(r *rig) {
	own := filepath.Join(r.disks[0].Mount, "agent")
	r.must(os.Mkdir(own, 0o700))
	r.must(errors.Join(os.Symlink(own, r.Path("agent")), os.Symlink(filepath.Join(own, "log"), r.Path("agent.log"))))
	r.setup.agent = append(r.setup.agent, "--scripts", r.Path("scripts"), "--memory-bytes", inBytes(16*mib))
}

// TestApplicationConsistentPoint: three disks under load, the agent's own files on one of
// them. The point's disks need no journal replayed, hold what the script set and every
// acknowledged value, and no resync was needed. What goes wrong makes a crash-consistent
// point that says why, and the policy makes points by itself.
func TestApplicationConsistentPoint(t *testing.T) {
	r := protected(t, setup{disks: []string{lab.Ext4, lab.XFS, lab.Btrfs}, before: onProtected})
	var body strings.Builder
	for _, d := range r.disks {
		fmt.Fprintf(&body, "echo $1 $UNDERSTUDY_POINT > %s/app\n", d.Mount)
	}
	r.script("50-set.sh", body.String())
	r.live(2 * time.Second)
	for _, name := range []string{"first", "second", "third"} {
		r.untilPoint(time.Now()) // or a busy host's journal may be full, and no freeze is begun
		p, err := r.createPoint(name)
		r.must(err)
		if p.Kind != "app" || p.Name != name || p.Problem != "" {
			t.Fatalf("point %+v", p)
		}
		t.Logf("point %s at %s", p.ID, p.Time.Format("15:04:05.000"))
	}
	r.quiescent("third")
	r.verify("third")
	r.verify("latest-app")

	r.script("60-fails.sh", "[ $1 = --post ] && exit; echo it hurts >&2; exit 3")
	p, err := r.createPoint("failed")
	if code := lab.ExitCode(err); code != 1 {
		t.Errorf("exit code %d (%v), want 1", code, err)
	}
	r.must(r.site.Ask(t.Context(), &p, "point", "show", r.machine.ID(), "failed"))
	if p.Kind != "crash" || !strings.Contains(p.Problem, "60-fails.sh") {
		t.Errorf("point %+v, want crash-consistent because of 60-fails.sh", p)
	}
	r.wantEvent("app-point-failed")
	r.verify("failed")
	if got := r.recoveredPoint("latest-app"); got.Name != "third" {
		t.Errorf("latest-app is %+v, want the third", got)
	}

	r.must(os.Remove(r.Path("scripts", "consistency.d", "60-fails.sh")))
	since := time.Now()
	_, err = r.site.CLI(t.Context(), "policy", "set", "default", "--app-every", "10s")
	r.must(err)
	r.must(lab.Until(t.Context(), 60*time.Second, "application-consistent points by the policy", func() (bool, error) {
		n := 0
		for _, p := range r.points(since, time.Now()) {
			if p.Kind == "app" {
				n++
			}
		}
		return n >= 2, nil
	}))
	r.must(r.work.Err())
	r.wantEpoch(1)
}

// TestAgentKilledWhileFrozen: the freezer thaws, the next agent makes the point, and
// nothing of the log is lost.
func TestAgentKilledWhileFrozen(t *testing.T) {
	r := protected(t, setup{before: onProtected})
	record := filepath.Join(r.RunDir(), "agent", "frozen.json")
	_, err := r.site.CLI(t.Context(), "point", "create", r.machine.ID(), "--app", "--name", "survivor", "--detach")
	r.must(err)
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(record); err == nil {
			break
		}
		if time.Since(began) > 20*time.Second {
			t.Fatal("nothing was about to be frozen")
		}
	}
	r.machine.Agent.Kill()
	began := time.Now()
	for _, d := range r.disks {
		r.must(os.WriteFile(filepath.Join(d.Mount, "after"), []byte("written"), 0o644))
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("writes waited for %v after the agent was killed", took)
	}
	r.must(r.machine.Agent.Start())
	r.must(lab.Until(t.Context(), 60*time.Second, "point of the next agent", func() (bool, error) {
		var p madePoint
		err := r.site.Ask(t.Context(), &p, "point", "show", r.machine.ID(), "survivor")
		return err == nil && p.Kind == "app", err
	}))
	r.verify("survivor")
	r.must(r.work.Err())
	r.wantEpoch(1)
}

func (r *rig) recoveredPoint(spec string) (p madePoint) {
	r.t.Helper()
	r.must(r.site.Ask(r.t.Context(), &p, "point", "show", r.machine.ID(), spec))
	return p
}

// quiescent recovers a point and looks at its disks without replaying any journal.
func (r *rig) quiescent(point string) {
	r.t.Helper()
	got := r.recover(point)
	files, err := got.Files(r.disks)
	r.must(err)
	options := map[string]string{lab.Ext4: "ro,noload", lab.XFS: "ro,norecovery,nouuid", lab.Btrfs: "ro,rescue=nologreplay"}
	for _, d := range r.disks {
		file := files[d.Name]
		switch d.FS {
		case lab.Ext4:
			if out := r.tool("dumpe2fs", "-h", file); strings.Contains(out, "needs_recovery") {
				r.t.Errorf("%s: the journal must be replayed", d.Name)
			}
			r.tool("e2fsck", "-f", "-n", file)
		case lab.Btrfs:
			if out := r.tool("btrfs", "inspect-internal", "dump-super", file); !strings.Contains(strings.Join(strings.Fields(out), " "), "log_root 0") {
				r.t.Errorf("%s: the log must be replayed", d.Name)
			}
			r.tool("btrfs", "check", "--readonly", file)
			r.tool("btrfstune", "-f", "-u", file) // two of one id are not mounted at once
		}
		at := r.Path("quiescent-" + d.Name)
		r.must(os.Mkdir(at, 0o755))
		r.tool("mount", "-o", "loop,"+options[d.FS], file, at)
		said, err := os.ReadFile(filepath.Join(at, "app"))
		r.tool("umount", at)
		if strings.TrimSpace(string(said)) != "--pre "+point {
			r.t.Errorf("%s: the script set %q (%v), want --pre %s", d.Name, said, err, point)
		}
	}
	r.must(os.RemoveAll(got.Dir))
}

// tool runs a program of the system and returns what it printed.
func (r *rig) tool(name string, args ...string) string {
	r.t.Helper()
	out, err := exec.CommandContext(r.t.Context(), name, args...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

const postgres = "/usr/lib/postgresql/15/bin/"

// asPostgres runs one of PostgreSQL's programs as its user.
func (r *rig) asPostgres(program string, args ...string) string {
	r.t.Helper()
	return r.tool("setpriv", append([]string{"--reuid=postgres", "--regid=postgres", "--clear-groups", postgres + program}, args...)...)
}

// newDatabase makes one on the first disk, below pg, and serves it.
func (r *rig) newDatabase(port string) {
	r.t.Helper()
	data := filepath.Join(r.disks[0].Mount, "pg", "data")
	r.must(os.Mkdir(filepath.Dir(data), 0o755))
	r.tool("chown", "postgres:postgres", filepath.Dir(data))
	r.asPostgres("initdb", "--auth=trust", "-D", data)
	r.serveDatabase(data, port, filepath.Join(filepath.Dir(data), "log"))
}

// serveDatabase starts the database in a directory; it ends with the lab.
func (r *rig) serveDatabase(data, port, log string) {
	r.t.Helper()
	r.asPostgres("pg_ctl", "-w", "-D", data, "-l", log, "-o", "-p "+port+" -k /tmp -c listen_addresses=", "start")
	r.OnClose(func() {
		_ = exec.Command("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", postgres+"pg_ctl", "-m", "immediate", "-D", data, "stop").Run()
	})
}

func (r *rig) query(port, sql string) string {
	r.t.Helper()
	return strings.TrimSpace(r.asPostgres("psql", "-h", "/tmp", "-p", port, "-d", "postgres", "-At", "-c", sql))
}

// TestPostgreSQLPoint: a database that works through the freeze. On the recovered point it
// starts without an error and has every transaction that was acknowledged before the
// point.
func TestPostgreSQLPoint(t *testing.T) {
	const port, second = "22341", "22342"
	r := protected(t, setup{disks: []string{lab.Ext4}, size: 768 * mib, quiet: true, before: func(r *rig) {
		r.setup.agent = append(r.setup.agent, "--scripts", r.Path("scripts"))
		r.must(os.Chmod(r.Dir, 0o711)) // the database's user passes through
	}})
	r.newDatabase(port)
	r.query(port, "CREATE TABLE acked (client int, at timestamptz DEFAULT clock_timestamp())")
	r.script("postgres.sh", fmt.Sprintf("[ $1 = --post ] || setpriv --reuid=postgres --regid=postgres --clear-groups %spsql -h /tmp -p %s -d postgres -c CHECKPOINT", postgres, port))
	logs := r.Path("pgbench")
	r.must(os.Mkdir(logs, 0o755))
	r.tool("chown", "postgres:postgres", logs)
	r.must(os.WriteFile(filepath.Join(logs, "insert.sql"), []byte("INSERT INTO acked (client) VALUES (:client_id);\n"), 0o644))
	bench := exec.Command("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", postgres+"pgbench",
		"-h", "/tmp", "-p", port, "-n", "-c", "4", "-T", "8", "-l", "--log-prefix="+filepath.Join(logs, "acked"), "-f", filepath.Join(logs, "insert.sql"), "postgres")
	r.must(bench.Start())
	r.live(3 * time.Second)
	p, err := r.createPoint("database")
	r.must(err)
	if p.Kind != "app" {
		t.Fatalf("point %+v", p)
	}
	r.must(bench.Wait())

	acked := r.acknowledged(filepath.Join(logs, "acked*"), p.Time)
	got := r.recover("database")
	files, err := got.Files(r.disks)
	r.must(err)
	at := r.Path("recovered-database")
	r.must(os.Mkdir(at, 0o755))
	r.tool("mount", "-o", "loop", files[r.disks[0].Name], at)
	r.OnClose(func() { _ = exec.Command("umount", at).Run() })
	r.must(os.Remove(filepath.Join(at, "pg", "data", "postmaster.pid")))
	log := filepath.Join(at, "pg", "log.recovered")
	r.serveDatabase(filepath.Join(at, "pg", "data"), second, log)
	total := 0
	for client, n := range acked {
		has, err := strconv.Atoi(r.query(second, fmt.Sprintf("SELECT count(*) FROM acked WHERE client = %d", client)))
		r.must(err)
		if has < n {
			t.Errorf("client %d: %d transactions recovered, %d were acknowledged before the point", client, has, n)
		}
		total += n
	}
	if total == 0 {
		t.Fatal("nothing was acknowledged before the point: this proves nothing")
	}
	said, err := os.ReadFile(log)
	r.must(err)
	for _, bad := range []string{"PANIC", "FATAL", "ERROR", "could not"} {
		if strings.Contains(string(said), bad) {
			t.Errorf("PostgreSQL says %s:\n%s", bad, said)
		}
	}
	t.Logf("%d transactions acknowledged before the point, all found", total)
	r.wantEpoch(1)
}

// acknowledged counts the transactions of each client that pgbench's logs call done
// before a moment.
func (r *rig) acknowledged(pattern string, before time.Time) map[int]int {
	r.t.Helper()
	names, err := filepath.Glob(pattern)
	r.must(err)
	counts := map[int]int{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		r.must(err)
		for line := range strings.Lines(string(b)) { // client, number, latency, script, seconds, microseconds
			f := strings.Fields(line)
			if len(f) < 6 {
				continue
			}
			client, err := strconv.Atoi(f[0])
			sec, err1 := strconv.ParseInt(f[4], 10, 64)
			us, err2 := strconv.ParseInt(f[5], 10, 64)
			r.must(errors.Join(err, err1, err2))
			if time.Unix(sec, us*1000).Before(before) {
				counts[client]++
			}
		}
	}
	return counts
}
