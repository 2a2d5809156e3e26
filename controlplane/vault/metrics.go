package vault

import (
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
)

// metrics are what the vault tells Prometheus. They count this process's work; what
// lies in the vault is a matter of Status and Check.
type metrics struct {
	commits      *prometheus.HistogramVec // by outcome
	bytes        *prometheus.CounterVec   // by kind of object
	objects      *prometheus.CounterVec
	deleted      prometheus.Counter
	thinnings    *prometheus.HistogramVec // by outcome
	retained     *prometheus.GaugeVec     // by machine
	damagedReads prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	durations := []float64{.002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60}
	m := &metrics{
		commits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "understudy_vault_commit_seconds", Help: "Time to commit one object of frames, by outcome.", Buckets: durations}, []string{"outcome"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_vault_stored_bytes_total", Help: "Bytes put into the vault, by kind of object."}, []string{"kind"}),
		objects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_vault_stored_objects_total", Help: "Objects put into the vault, by kind."}, []string{"kind"}),
		deleted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "understudy_vault_deleted_objects_total", Help: "Objects deleted because thinning has replaced them."}),
		thinnings: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "understudy_vault_thinning_seconds", Help: "Time of one thinning step, by outcome.", Buckets: durations}, []string{"outcome"}),
		retained: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "understudy_vault_points", Help: "Recovery points retained after the last thinning, by machine."}, []string{"machine"}),
		damagedReads: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "understudy_vault_damaged_reads_total", Help: "Reads refused because an object was missing, altered or did not decode."}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.commits, m.bytes, m.objects, m.deleted, m.thinnings, m.retained, m.damagedReads} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("vault: registering metrics: %w", err)
		}
	}
	return m, nil
}

func outcome(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}

func (m *metrics) committed(d time.Duration, err error) {
	m.commits.WithLabelValues(outcome(err)).Observe(d.Seconds())
}

func (m *metrics) stored(kind sealed.Kind, size int64) {
	m.bytes.WithLabelValues(kind.String()).Add(float64(size))
	m.objects.WithLabelValues(kind.String()).Inc()
}

func (m *metrics) thinned(d time.Duration, err error) {
	m.thinnings.WithLabelValues(outcome(err)).Observe(d.Seconds())
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown host"
	}
	return name
}
