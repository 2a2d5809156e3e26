//go:build testbed

package testbed

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// costs is what protection costs a server that works.
type costs struct {
	Date   time.Time `json:"date"`
	Rounds int       `json:"rounds"`

	Kernel string    `json:"kernel"` // of the machine that measures
	Here   pgCost    `json:"here"`
	Early  []float64 `json:"early"` // seconds that the capture takes to begin, sorted

	GuestKernel string  `json:"guest_kernel"`
	Guest       pgCost  `json:"guest"`
	DRBDAlone   float64 `json:"drbd_alone"` // pgbench on DRBD without its peer
	DRBDSync    float64 `json:"drbd_connected"`
	DRBDShare   float64 `json:"drbd_share"` // of alone, as pgCost.Share

	IdleCPU float64 `json:"idle_cpu"` // seconds of processor a second, of the agent
	BusyCPU float64 `json:"busy_cpu"` // at 20 MB/s
	BusyMBs float64 `json:"busy_mb_s"`
	IdleRSS int64   `json:"idle_rss"` // bytes, without what it shares with the kernel
	BusyRSS int64   `json:"busy_rss"`

	BootOff   float64 `json:"boot_off"` // seconds, by the machine's own account
	BootOn    float64 `json:"boot_on"`
	BootDelay float64 `json:"boot_delay"` // median of the rounds' differences
}

const (
	costRounds = 5
	costBench  = 20 // seconds of pgbench
)

// TestHiddenCosts measures what protection costs a real machine: transactions of
// PostgreSQL with and without it, in turns, on this machine and in a guest, there beside
// DRBD, which mirrors to a second one; the agent's memory and processor time; what it adds
// to a boot. Only a machine that does nothing else gives figures worth keeping: make costs.
func TestHiddenCosts(t *testing.T) {
	c := costs{Date: time.Now().UTC().Truncate(time.Second), Rounds: costRounds}
	t.Run("here", func(t *testing.T) { costsHere(t, &c) })
	t.Run("guest", func(t *testing.T) {
		r := newCostRig(t, &c)
		r.tps()
		r.agentAlone()
		r.boots()
	})
	if t.Failed() {
		return
	}
	if c.Here.On.TPS == 0 || c.Guest.On.TPS == 0 || c.DRBDSync == 0 || c.BusyMBs < 15 {
		t.Fatalf("nothing was measured: %+v", c)
	}
	if err := keepCosts(c); err != nil {
		t.Fatal(err)
	}
}

// pgCost is what a database loses by protection: medians of the rounds.
type pgCost struct {
	Off   pgRun   `json:"off"`
	On    pgRun   `json:"on"`
	Share float64 `json:"share"` // transactions with ÷ without
	Noise float64 `json:"noise"` // without ÷ without, the run before and the one after
}

// pgRun is one run of pgbench. Its processor time, seconds for 1,000 transactions, hardly
// depends on what else the machine does.
type pgRun struct {
	TPS         float64 `json:"tps"`
	DatabaseCPU float64 `json:"database_cpu"`
	AgentCPU    float64 `json:"agent_cpu"`
}

// pgScript runs pgbench against the database at a port, after a checkpoint, so that each
// run writes as many full pages as the other. It prints transactions a second, how many
// there were, and clock ticks of the database and of the agent.
const pgScript = `
as() { setpriv --reuid=postgres --regid=postgres --clear-groups ` + postgres + `"$@"; }
ticks() { cat /proc/[0-9]*/stat 2>/dev/null | awk -v of="($1)" '$2 == of { n += $14 + $15 + $16 + $17 } END { print n + 0 }'; }
as psql -q -h /tmp -p %[1]d -d postgres -c CHECKPOINT; sleep 1
db=$(ticks postgres) agent=$(ticks understudy-agen)
as pgbench -h /tmp -p %[1]d -n -c 4 -j 2 -T %[2]d postgres 2>/dev/null | awk '/^tps = / { print $3 } /actually processed/ { print $NF + 0 }'
sleep 0.5; echo $(($(ticks postgres) - db)) $(($(ticks understudy-agen) - agent))
`

// pgBench has run do pgScript, and reads what it printed.
func pgBench(run func(script string) string, port int) (pgRun, error) {
	out := run(fmt.Sprintf(pgScript, port, costBench))
	var many, tps, database, agent float64
	if _, err := fmt.Sscan(strings.ReplaceAll(out, "\n", " "), &many, &tps, &database, &agent); err != nil || many == 0 {
		return pgRun{}, fmt.Errorf("pgbench at port %d: %q: %w", port, out, err)
	}
	return pgRun{TPS: tps, DatabaseCPU: database / 100 / many * 1000, AgentCPU: agent / 100 / many * 1000}, nil
}

func (p pgRun) String() string {
	return fmt.Sprintf("%.0f tps (%.3f s of the database, %.3f s of the agent for 1,000)", p.TPS, p.DatabaseCPU, p.AgentCPU)
}

// pgRounds are runs without and with protection in turns, the first and the last without.
type pgRounds struct{ off, on []pgRun }

func (r *pgRounds) cost() pgCost {
	var share, noise []float64
	for i, on := range r.on {
		before, after := r.off[i].TPS, r.off[i+1].TPS
		share, noise = append(share, on.TPS/((before+after)/2)), append(noise, min(before/after, after/before))
	}
	return pgCost{Off: medianRun(r.off), On: medianRun(r.on), Share: median(share), Noise: median(noise)}
}

func medianRun(runs []pgRun) pgRun {
	var tps, database, agent []float64
	for _, r := range runs {
		tps, database, agent = append(tps, r.TPS), append(database, r.DatabaseCPU), append(agent, r.AgentCPU)
	}
	return pgRun{TPS: median(tps), DatabaseCPU: median(database), AgentCPU: median(agent)}
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

const costsPage = `# What protection costs a server that works

Written by ` + "`make costs`" + ` on %s. Medians of %d rounds in turns; a pgbench of %d s each,
four clients, after a checkpoint. Its database lies on the protected disk.

**This machine**, kernel %s: two processors, which the database, the agent and the
control plane share; the disk is a loop device.

| | without | with | share |
|---|---|---|---|
| pgbench, transactions a second | %.0f | %.0f | **%.2f** (off against off %.2f) |
| processor for 1,000 transactions, database, s | %.3f | %.3f | |
| the same, agent, s | | %.3f | %.3f of the database's |

The capture begins in %.2f s (%.2f to %.2f; ` + "`understudy-agent early`" + `, all disks of the machine).

**A Debian guest**, kernel %s, two processors, emulated: each instruction takes 10 to 30 times
its time, those for cryptography and checksums more. The guest, its emulator, the control
plane and DRBD's second guest share this machine's two processors.

| | without | with | share, or more |
|---|---|---|---|
| pgbench, transactions a second | %.0f | %.0f | **%.2f** (off against off %.2f) |
| processor for 1,000 transactions, database, s | %.2f | %.2f | |
| the same, agent, s | | %.2f | %.2f of the database's |
| pgbench on DRBD, protocol A, its peer away and there | %.0f | %.0f | %.2f |
| boot from initramfs to the last unit, s by systemd's account | %.1f | %.1f | **%+.1f s** |

| the agent in the guest | idle | while %.0f MB/s are written |
|---|---|---|
| processor, seconds a second | %.3f | %.3f |
| memory of its own, MiB | %d | **%d** |

Beside its own memory there are the ring (64 MiB, the kernel's) and the journal's memory
stage, both as large as the operator says.
`

func keepCosts(c costs) error {
	raw, err := json.MarshalIndent(c, "", "\t")
	mebi := func(n int64) int64 { return int64(math.Round(float64(n) / mib)) }
	h, g := c.Here, c.Guest
	page := fmt.Sprintf(costsPage, c.Date.Format(time.DateOnly), c.Rounds, costBench,
		c.Kernel, h.Off.TPS, h.On.TPS, h.Share, h.Noise, h.Off.DatabaseCPU, h.On.DatabaseCPU, h.On.AgentCPU, h.On.AgentCPU/h.On.DatabaseCPU,
		median(c.Early), slices.Min(c.Early), slices.Max(c.Early),
		c.GuestKernel, g.Off.TPS, g.On.TPS, g.Share, g.Noise, g.Off.DatabaseCPU, g.On.DatabaseCPU, g.On.AgentCPU, g.On.AgentCPU/g.On.DatabaseCPU,
		c.DRBDAlone, c.DRBDSync, c.DRBDShare, c.BootOff, c.BootOn, c.BootDelay,
		c.BusyMBs, c.IdleCPU, c.BusyCPU, mebi(c.IdleRSS), mebi(c.BusyRSS))
	return errors.Join(err, os.WriteFile("COSTS.json", append(raw, '\n'), 0o644), os.WriteFile("COSTS.md", []byte(page), 0o644))
}
