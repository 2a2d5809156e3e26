package relay

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-dr/understudy/controlplane/relay/spool"
)

// metrics are the relay's own. Machines are not labels: two thousand of them would
// make two thousand series of each; their figures are in the API.
type metrics struct {
	server       *Server
	frames       *prometheus.CounterVec // by kind
	bytes        *prometheus.CounterVec // by kind
	ignored      prometheus.Counter
	refused      prometheus.Counter
	refusals     *prometheus.CounterVec // by code
	syncs        prometheus.Histogram
	objects      *prometheus.CounterVec // by kind
	objectBytes  prometheus.Counter
	commits      prometheus.Histogram
	commitErrors *prometheus.CounterVec // by class

	sessions, spoolLive, spoolDisk, spoolLimit, spoolFailing *prometheus.Desc
}

const prefix = "understudy_relay_"

func newMetrics(s *Server) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, []string{label})
	}
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(prefix+name, help, nil, nil) }
	return &metrics{
		server:   s,
		frames:   vec("frames_total", "Frames made durable in the spool.", "kind"),
		bytes:    vec("bytes_total", "Bytes of frames made durable in the spool.", "kind"),
		ignored:  counter("frames_ignored_total", "Frames dropped because their place in the log was taken."),
		refused:  counter("handshakes_refused_total", "Connections that failed their TLS handshake."),
		refusals: vec("refusals_total", "Channels refused or ended by the relay.", "code"),
		syncs: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "spool_sync_seconds", Help: "Time to write one group of frames to the spool and sync it.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2, 16),
		}),
		objects:     vec("objects_total", "Objects committed to the vault.", "kind"),
		objectBytes: counter("object_bytes_total", "Bytes of frames committed to the vault."),
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "commit_seconds", Help: "Time the vault took for one object.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}),
		commitErrors: vec("commit_errors_total", "Commits the vault did not take, all tried again.", "class"),
		sessions:     desc("sessions", "Agents connected."),
		spoolLive:    desc("spool_bytes", "Bytes of frames in the spool that the vault does not have yet."),
		spoolDisk:    desc("spool_disk_bytes", "Bytes of the spool's files."),
		spoolLimit:   desc("spool_limit_bytes", "Bytes the spool's files may have."),
		spoolFailing: desc("spool_failing", "1 while the spool takes no frames."),
	}
}

func (m *metrics) parts() []prometheus.Collector {
	return []prometheus.Collector{m.frames, m.bytes, m.ignored, m.refused, m.refusals, m.syncs, m.objects, m.objectBytes, m.commits, m.commitErrors}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, p := range m.parts() {
		p.Describe(ch)
	}
	for _, d := range []*prometheus.Desc{m.sessions, m.spoolLive, m.spoolDisk, m.spoolLimit, m.spoolFailing} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, p := range m.parts() {
		p.Collect(ch)
	}
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	m.server.mu.Lock()
	sessions := float64(m.server.sessions)
	m.server.mu.Unlock()
	gauge(m.sessions, sessions)
	u := m.server.spool.Usage()
	gauge(m.spoolLive, float64(u.Live))
	gauge(m.spoolDisk, float64(u.Disk))
	gauge(m.spoolLimit, float64(u.Limit))
	failing := 0.0
	if u.Failing {
		failing = 1
	}
	gauge(m.spoolFailing, failing)
}

func (m *metrics) synced(took time.Duration, _ int, _ int64) { m.syncs.Observe(took.Seconds()) }

func (m *metrics) took(e *spool.Entry) {
	kind := e.Header.Kind.String()
	m.frames.WithLabelValues(kind).Inc()
	m.bytes.WithLabelValues(kind).Add(float64(e.Size))
}

func (m *metrics) committed(b batch, took time.Duration) {
	kind := "log"
	if b.base {
		kind = "base"
	}
	m.objects.WithLabelValues(kind).Inc()
	m.commits.Observe(took.Seconds())
	for _, w := range b.frames {
		m.objectBytes.Add(float64(w.Size))
	}
}
