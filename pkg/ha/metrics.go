package ha

import "github.com/prometheus/client_golang/prometheus"

// electionMetrics are those of one Election.
type electionMetrics struct {
	leader      prometheus.Gauge
	transitions prometheus.Counter
	renewals    prometheus.Observer
}

func leaderOpts(constant prometheus.Labels) prometheus.GaugeOpts {
	return prometheus.GaugeOpts{Name: "kube_vip_is_leader",
		Help: "1 while this instance holds the Lease.", ConstLabels: constant}
}

func transitionsOpts(constant prometheus.Labels) prometheus.CounterOpts {
	return prometheus.CounterOpts{Name: "kube_vip_leader_election_transitions_total",
		Help: "How often this instance became the holder.", ConstLabels: constant}
}

func renewalsOpts(constant prometheus.Labels) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{Name: "kube_vip_lease_renew_duration_seconds",
		Help: "Time until the API accepted a renewal.", Buckets: []float64{.002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}, ConstLabels: constant}
}

// soloMetrics are those of an Election that is alone, for as long as the process lives. The registerer may be nil.
func soloMetrics(lease, node string, to prometheus.Registerer) electionMetrics {
	leader := prometheus.NewGauge(leaderOpts(prometheus.Labels{"lease_name": lease, "node": node}))
	transitions := prometheus.NewCounter(transitionsOpts(prometheus.Labels{"lease_name": lease}))
	renewals := prometheus.NewHistogram(renewalsOpts(prometheus.Labels{"lease_name": lease}))
	if to != nil {
		to.MustRegister(leader, transitions, renewals)
	}
	return electionMetrics{leader, transitions, renewals}
}

// fleetMetrics are those of the Leases of a Fleet, which come and go. The renewals of all are one histogram, without a
// lease_name.
type fleetMetrics struct {
	node        string
	leader      *prometheus.GaugeVec
	transitions *prometheus.CounterVec
	renewals    prometheus.Histogram
}

var _ prometheus.Collector = (*fleetMetrics)(nil)

func newFleetMetrics(node string, to prometheus.Registerer) *fleetMetrics {
	m := &fleetMetrics{
		node:        node,
		leader:      prometheus.NewGaugeVec(leaderOpts(nil), []string{"lease_name", "node"}),
		transitions: prometheus.NewCounterVec(transitionsOpts(nil), []string{"lease_name"}),
		renewals:    prometheus.NewHistogram(renewalsOpts(nil)),
	}
	if to != nil {
		to.MustRegister(m)
	}
	return m
}

// of returns the metrics of one Lease.
func (m *fleetMetrics) of(lease string) electionMetrics {
	return electionMetrics{m.leader.WithLabelValues(lease, m.node), m.transitions.WithLabelValues(lease), m.renewals}
}

// forget takes the metrics of one Lease away.
func (m *fleetMetrics) forget(lease string) {
	m.leader.DeleteLabelValues(lease, m.node)
	m.transitions.DeleteLabelValues(lease)
}

// Describe implements prometheus.Collector. It describes nothing, which makes the registry leave the labels alone: they
// are variable here and constant in the metrics of an Election that is alone, and have the same names.
func (m *fleetMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *fleetMetrics) Collect(to chan<- prometheus.Metric) {
	m.leader.Collect(to)
	m.transitions.Collect(to)
	m.renewals.Collect(to)
}
