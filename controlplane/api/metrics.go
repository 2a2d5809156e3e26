package api

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// scrapeTime bounds how long a scrape may keep the database busy.
const scrapeTime = 5 * time.Second

var machineLabels = []string{"machine", "hostname"}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("understudy_machine_"+name, help, append(machineLabels[:2:2], labels...), nil)
}

var (
	stateDesc     = describe("state", "1 for the state the machine is in.", "state", "contact")
	rpoDesc       = describe("rpo_seconds", "Age of the newest recoverable point; absent while there is none.")
	reportAgeDesc = describe("report_age_seconds", "Age of the agent's newest report.")
	disksDesc     = describe("protected_disks", "Disks that shall be protected.")
	churnDesc     = describe("churn_bytes_per_second", "Captured over the last seconds.")
	dirtyDesc     = describe("dirty_bytes", "What a resync would read if data were lost now.")
	journalDesc   = describe("journal_bytes", "Frames that wait in the agent's journal.", "stage")
	baseDesc      = describe("base_remaining_bytes", "Still to read by the base copy or resync under way.")
	arrivesDesc   = describe("arriving_bytes_per_second", "What arrives at the relay over the last seconds.")
	verifiedDesc  = describe("verified_timestamp_seconds", "When the last proof that disks and replica are equal ended, by its result.", "result")
	unequalDesc   = describe("verify_different_bytes", "What the last proof found different or damaged.")
	unseenDesc    = describe("verify_uncompared_bytes", "What the last proof could not compare, of the bytes in use.")
	spoolDesc     = describe("spool_bytes", "Spooled by the relay and not yet in the vault.")
)

// machineMetrics shows what is known of machines at each scrape, so that a machine
// that is removed leaves no figure behind.
type machineMetrics struct{ server *server }

func (c *machineMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{stateDesc, rpoDesc, reportAgeDesc, disksDesc, churnDesc, dirtyDesc, journalDesc, baseDesc, arrivesDesc, spoolDesc, verifiedDesc, unequalDesc, unseenDesc} {
		ch <- d
	}
}

func (c *machineMetrics) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	machines, err := c.server.Inventory.Machines(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(stateDesc, err)
		return
	}
	for _, m := range machines {
		f, err := c.server.Inventory.Facts(ctx, m, c.server.Relay.Replication)
		if err != nil {
			ch <- prometheus.NewInvalidMetric(stateDesc, err)
			return
		}
		collect(ch, m, f)
	}
}

func collect(ch chan<- prometheus.Metric, m inventory.Machine, f inventory.Facts) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{m.ID.String(), m.Hostname}, labels...)...)
	}
	s := inventory.Derive(f)
	gauge(stateDesc, 1, string(s.State), string(s.Contact))
	gauge(disksDesc, float64(len(f.Wanted)))
	if s.RPO != nil {
		gauge(rpoDesc, *s.RPO)
	}
	if !f.Reported.IsZero() {
		gauge(reportAgeDesc, f.Now.Sub(f.Reported).Seconds())
	}
	if f.Replication.Known {
		gauge(arrivesDesc, float64(f.Replication.BytesPerSecond))
		gauge(spoolDesc, float64(f.Replication.SpoolBytes))
	}
	if p := m.Report.Protection; p != nil {
		collectProtection(gauge, p)
	}
}

func collectProtection(gauge func(*prometheus.Desc, float64, ...string), p *desired.Protection) {
	gauge(churnDesc, float64(p.Churn))
	gauge(dirtyDesc, float64(p.Dirty))
	gauge(journalDesc, float64(p.Ring.Used), "ring")
	gauge(journalDesc, float64(p.Memory.Used), "memory")
	gauge(journalDesc, float64(p.Spill.Used), "spill")
	if v := p.Verify; v != nil && v.Last != nil {
		gauge(verifiedDesc, float64(v.Last.Ended.Unix()), v.Last.Result)
		gauge(unequalDesc, float64(v.Last.Differs+v.Last.Damaged))
		gauge(unseenDesc, float64(v.Last.Written+v.Last.Absent))
	}
	if p.Base != nil {
		gauge(baseDesc, float64(p.Base.Total-p.Base.Done))
	}
}
