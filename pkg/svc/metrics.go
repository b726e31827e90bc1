package svc

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kube-vip.io/kube-vip/pkg/pool"
)

type metrics struct {
	statusWrites *prometheus.CounterVec
	reconcile    prometheus.Histogram
	addresses    *prometheus.GaugeVec
	moves        *prometheus.CounterVec
	services     *prometheus.GaugeVec
	refused      *prometheus.GaugeVec
	refusals     *prometheus.CounterVec
	active       *prometheus.GaugeVec

	namespaces map[string]int // the Services of each; it belongs to the worker
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
	m.moves = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kube_vip_service_moves_total",
		Help: "Services that this node took over from another, by why it came to that."}, []string{"reason"})
	m.services = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kube_vip_services",
		Help: "Services that kube-vip cares for, by their state, as this instance sees it."}, []string{"state"})
	m.refused = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kube_vip_services_refused",
		Help: "Services that are refused an address now, by why, as this instance sees it."}, []string{"reason"})
	m.refusals = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kube_vip_service_refused_total",
		Help: "How often a Service came to be refused an address, by why, as this instance saw it."}, []string{"reason"})
	m.active = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kube_vip_active_services",
		Help: "Services that kube-vip cares for, by namespace, announced or not."}, []string{"namespace"})
	m.namespaces = map[string]int{}
	for _, l := range MoveReasons() {
		m.moves.WithLabelValues(l.Value)
	}
	for _, l := range States() {
		m.services.WithLabelValues(l.Value)
	}
	for _, l := range RefusalCodes() {
		m.refused.WithLabelValues(l.Value)
		m.refusals.WithLabelValues(l.Value)
	}
	for _, result := range []string{"ok", "failed"} {
		m.statusWrites.WithLabelValues(result)
	}
	if reg != nil {
		reg.MustRegister(m.statusWrites, m.reconcile, m.addresses, m.moves, m.services, m.refused, m.refusals, m.active)
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

// State is what is the case with a Service that kube-vip cares for.
type State string

// The states.
const (
	StateAnnounced State = "announced"
	StateRefused   State = "refused"
	StateNoAddress State = "no-address"
	StateWithdrawn State = "withdrawn"
	StateNoNode    State = "no-node"
)

// States is the table of states.
func States() []Label {
	return []Label{
		{string(StateAnnounced), "that is to be held by some node, with all of its addresses or some"},
		{string(StateRefused), "that is refused all that it asks for"},
		{string(StateNoAddress), "that asks for none and has none out of a pool"},
		{string(StateWithdrawn), "whose addresses nobody is to hold now: without endpoints, or without an address of a family that it must have"},
		{string(StateNoNode), "whose addresses no node can hold"},
	}
}

// state is the one that a plan comes to.
func (p Plan) state() State {
	switch {
	case len(p.Addrs) == 0 && len(p.Refused) > 0, p.leaseless():
		return StateRefused
	case len(p.Addrs) == 0:
		return StateNoAddress
	case p.Nowhere:
		return StateNoNode
	case !p.Announced:
		return StateWithdrawn
	}
	return StateAnnounced
}

// codes are those of what is refused, none twice.
func (p Plan) codes() []RefusalCode {
	var list []RefusalCode
	for _, r := range p.Refused {
		if !slices.Contains(list, r.Code) {
			list = append(list, r.Code)
		}
	}
	return list
}

// enter counts a Service that is new.
func (m *metrics) enter(namespace string, isNew bool) {
	if isNew {
		m.namespaces[namespace]++
		m.active.WithLabelValues(namespace).Set(float64(m.namespaces[namespace]))
	}
}

// count counts what a Service came to, in place of what it was counted as before.
func (m *metrics) count(r *entry, p Plan) {
	m.recount(r, p.state(), p.codes())
}

// leave counts a Service no more.
func (m *metrics) leave(key string, r *entry) {
	m.recount(r, "", nil)
	namespace, _, _ := strings.Cut(key, "/")
	if m.namespaces[namespace]--; m.namespaces[namespace] > 0 {
		m.active.WithLabelValues(namespace).Set(float64(m.namespaces[namespace]))
		return
	}
	delete(m.namespaces, namespace)
	m.active.DeleteLabelValues(namespace)
}

func (m *metrics) recount(r *entry, state State, codes []RefusalCode) {
	if state != r.state {
		if r.state != "" {
			m.services.WithLabelValues(string(r.state)).Dec()
		}
		if state != "" {
			m.services.WithLabelValues(string(state)).Inc()
		}
	}
	for _, code := range codes {
		if !slices.Contains(r.codes, code) {
			m.refused.WithLabelValues(string(code)).Inc()
			m.refusals.WithLabelValues(string(code)).Inc()
		}
	}
	for _, code := range r.codes {
		if !slices.Contains(codes, code) {
			m.refused.WithLabelValues(string(code)).Dec()
		}
	}
	r.state, r.codes = state, codes
}
