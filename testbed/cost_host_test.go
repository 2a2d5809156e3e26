//go:build testbed

package testbed

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// costsHere measures on this machine, whose processors are real ones.
func costsHere(t *testing.T, c *costs) {
	r := newRigAlone(t, setup{disks: []string{lab.Ext4}, size: 1024 * mib, quiet: true, before: func(r *rig) {
		r.must(os.Chmod(r.Dir, 0o711)) // the database's user passes through
	}})
	r.protect()
	c.Kernel = r.shell("uname -r")
	const port = 22351
	r.newDatabase(strconv.Itoa(port))
	r.asPostgres("pgbench", "-q", "-h", "/tmp", "-p", strconv.Itoa(port), "-i", "-s", "8", "postgres")
	bench := func() pgRun {
		run, err := pgBench(r.shell, port)
		r.must(err)
		return run
	}
	bench() // the first finds an empty cache
	off := func() pgRun {
		r.must(r.machine.Agent.Stop(20 * time.Second))
		r.must(r.machine.Detach(t.Context()))
		return bench()
	}
	var rounds pgRounds
	for i := range costRounds {
		rounds.off = append(rounds.off, off())
		r.must(r.machine.Agent.Start())
		r.untilEpochAfter(uint64(i + 1))
		r.untilPoint(time.Now())
		rounds.on = append(rounds.on, bench())
		t.Logf("round %d: without %v, with %v", i, rounds.off[i], rounds.on[i])
	}
	rounds.off = append(rounds.off, off())
	c.Here = rounds.cost()
	r.early(c)
}

// early measures how long a boot waits for the capture.
func (r *rig) early(c *costs) {
	r.t.Helper()
	agent, instance := filepath.Join(binaries(r.t), "understudy-agent"), r.Instance("early")
	for range costRounds {
		begin := time.Now()
		r.tool(agent, "early", "--instance", instance)
		c.Early = append(c.Early, time.Since(begin).Seconds())
		r.tool(agent, "detach", "--instance", instance)
	}
}

// shell runs a script on this machine.
func (r *rig) shell(script string) string {
	r.t.Helper()
	return r.tool("sh", "-ec", script)
}
