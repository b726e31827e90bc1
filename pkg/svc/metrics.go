package svc

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kube-vip.io/kube-vip/pkg/pool"
)

type metrics struct {
	statusWrites *prometheus.CounterVec
	reconcile    prometheus.Histogram
	addresses    *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		statusWrites: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kube_vip_service_status_writes_total",
			Help: "How often a Service's status was written; ok or failed."}, []string{"result"}),
		reconcile: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kube_vip_service_reconcile_duration_seconds",
			Help: "Time that one look at a Service took.", Buckets: []float64{.00001, .00005, .0001, .0005, .001, .005, .01, .05, .1, .5}}),
	}
	m.addresses = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kube_vip_pool_addresses",
		Help: "Addresses of a pool that are used, and that are free, as this instance sees it."}, []string{"pool", "family", "state"})
	for _, result := range []string{"ok", "failed"} {
		m.statusWrites.WithLabelValues(result)
	}
	if reg != nil {
		reg.MustRegister(m.statusWrites, m.reconcile, m.addresses)
	}
	return m
}

func (m *metrics) reconciled(d time.Duration) { m.reconcile.Observe(d.Seconds()) }

func (m *metrics) pools(stats []pool.Stat) {
	m.addresses.Reset()
	for _, s := range stats {
		m.addresses.WithLabelValues(s.Pool, s.Family.String(), "used").Set(s.Used)
		m.addresses.WithLabelValues(s.Pool, s.Family.String(), "free").Set(s.Free)
	}
}
