package cp

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	healthy    prometheus.Gauge
	ok, failed prometheus.Observer // durations of probes
}

// newMetrics makes the metrics and registers them; a nil registry leaves them to themselves.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	healthy := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "kube_vip_control_plane_healthy",
		Help: "1 when this node can carry the control-plane VIP and its API server answers, else 0.",
	})
	probes := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "kube_vip_control_plane_probe_duration_seconds",
		Help:    "Time that a health probe of this node's API server took, by its result.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1},
	}, []string{"result"})
	if reg != nil {
		if err := errors.Join(reg.Register(healthy), reg.Register(probes)); err != nil {
			return nil, fmt.Errorf("register the control plane's metrics: %w", err)
		}
	}
	return &metrics{healthy: healthy, ok: probes.WithLabelValues("ok"), failed: probes.WithLabelValues("failed")}, nil
}

func (m *metrics) probed(a answer) {
	if a.fault == "" {
		m.ok.Observe(a.took.Seconds())
		return
	}
	m.failed.Observe(a.took.Seconds())
}
