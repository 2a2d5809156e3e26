package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// serveMetrics answers Prometheus on addr until ctx ends.
func serveMetrics(ctx context.Context, addr string, s *service) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newCollector(s))
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("metrics: %w: choose another --metrics-listen", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// collector shows the service's figures as they are at the moment of the scrape.
type collector struct {
	s *service

	captured, sent                                *prometheus.Desc
	churn, dirty, unspooled, epoch, steady, disks *prometheus.Desc
	ringUsed, memoryUsed, spillUsed, frames       *prometheus.Desc
	losses, resync, connected, sessions, left     *prometheus.Desc
	proved, unequal, uncompared                   *prometheus.Desc
}

func newCollector(s *service) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("understudy_agent_"+name, help, labels, nil)
	}
	return &collector{
		s:          s,
		captured:   desc("captured_bytes_total", "Bytes of writes captured since the agent started."),
		sent:       desc("sent_bytes_total", "Bytes sent to the relay, repetitions included.", "stream"),
		churn:      desc("churn_bytes_per_second", "Captured, over the last seconds."),
		dirty:      desc("dirty_bytes", "What a resync would have to read if data were lost now."),
		unspooled:  desc("unspooled_seconds", "Age of the oldest frame that the relay has not spooled; 0 if it has all."),
		epoch:      desc("epoch", "The present epoch."),
		steady:     desc("steady", "1 while every frame is a recovery point."),
		disks:      desc("disks", "Disks by phase of their protection.", "phase"),
		ringUsed:   desc("ring_used_bytes", "What of the kernel's ring is not stored yet."),
		memoryUsed: desc("journal_memory_bytes", "Frames in the journal's memory stage."),
		spillUsed:  desc("journal_spill_bytes", "Frames in the journal's disk stage."),
		frames:     desc("journal_frames", "Frames in the journal."),
		losses:     desc("capture_losses", "Writes not captured with their data since capture was armed, by reason and cause.", "reason", "cause"),
		resync:     desc("resyncs_total", "Epochs begun since the agent started, by reason.", "reason"),
		connected:  desc("relay_connected", "1 while a relay session stands."),
		sessions:   desc("relay_sessions_total", "Relay sessions begun."),
		proved:     desc("verified_timestamp_seconds", "When the last proof that disks and replica are equal ended, by its result.", "result"),
		unequal:    desc("verify_different_bytes", "What the last proof found different or damaged."),
		uncompared: desc("verify_uncompared_bytes", "What the last proof could not compare, of the bytes in use."),
		left:       desc("base_bytes_left", "What the running copy still has to read."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	st := c.s.shipper.Stats()
	gauge(c.connected, truth(st.Connected))
	count(c.sessions, float64(st.Sessions))
	count(c.sent, float64(st.LogBytes), "log")
	count(c.sent, float64(st.BaseBytes), "base")
	j := c.s.journal.Stats()
	gauge(c.memoryUsed, float64(j.MemoryBytes))
	gauge(c.spillUsed, float64(j.SpillBytes))
	gauge(c.frames, float64(j.Frames))
	age := 0.0
	if !j.Oldest.IsZero() {
		age = max(0, time.Since(j.Oldest).Seconds())
	}
	gauge(c.unspooled, age)
	for reason, n := range c.s.pipeline.Epochs() {
		count(c.resync, float64(n), string(reason))
	}
	if h, err := c.s.source.Health(); err == nil {
		gauge(c.ringUsed, float64(h.RingUsed))
		for _, l := range h.Losses {
			gauge(c.losses, float64(l.Count), string(l.Reason), l.Cause)
		}
	}
	c.protection(gauge, count)
}

func (c *collector) protection(gauge, count func(*prometheus.Desc, float64, ...string)) {
	p := c.s.pipeline.Status()
	if p == nil {
		return
	}
	count(c.captured, float64(p.Captured))
	gauge(c.churn, float64(p.Churn))
	gauge(c.dirty, float64(p.Dirty))
	gauge(c.epoch, float64(p.Epoch))
	gauge(c.steady, truth(p.Phase == "steady"))
	phases := map[string]int{}
	for _, d := range p.Disks {
		phases[string(d.Phase)]++
	}
	for phase, n := range phases {
		gauge(c.disks, float64(n), phase)
	}
	if v := p.Verify; v != nil && v.Last != nil {
		gauge(c.proved, float64(v.Last.Ended.Unix()), v.Last.Result)
		gauge(c.unequal, float64(v.Last.Differs+v.Last.Damaged))
		gauge(c.uncompared, float64(v.Last.Written+v.Last.Absent))
	}
	if p.Base != nil {
		gauge(c.left, float64(p.Base.Total-p.Base.Done))
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
