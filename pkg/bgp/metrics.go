package bgp

import (
	"net"
	"strconv"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what a Speaker counts.
type metrics struct {
	up, routes *prometheus.GaugeVec
	flaps      *prometheus.CounterVec
	changes    *prometheus.CounterVec
	info       *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kube_vip_bgp_session_up", Help: "1 while there is a BGP session with the peer, 0 while there is none.",
		}, []string{"peer"}),
		routes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kube_vip_bgp_routes", Help: "Prefixes that are announced to the peer.",
		}, []string{"peer"}),
		flaps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kube_vip_bgp_session_flaps_total", Help: "BGP sessions with the peer that ended, by cause.",
		}, []string{"peer", "cause"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kube_vip_bgp_route_changes_total", Help: "Changes of what the peer is told: routes announced, with other attributes than before included, and withdrawn.",
		}, []string{"peer", "change"}),
		info: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kube_vip_manager_bgp_session_info", Help: "1 for the state that the BGP session with the peer is in.",
		}, []string{"peer", "state"}),
	}
	if r != nil {
		r.MustRegister(m.up, m.routes, m.flaps, m.changes, m.info)
	}
	return m
}

// show sets what a change of a peer's status bears on.
func (m *metrics) show(p Peer, before, now Status) {
	up := 0.0
	if now.Up() {
		up = 1
	}
	m.up.WithLabelValues(p.Name).Set(up)
	m.routes.WithLabelValues(p.Name).Set(float64(now.Routes))
	if before.Up() && !now.Up() {
		cause := now.Cause
		if cause == "" {
			cause = CauseStopped
		}
		m.flaps.WithLabelValues(p.Name, string(cause)).Inc()
	}
	if !now.Address.IsValid() {
		return
	}
	at := net.JoinHostPort(now.Address.String(), strconv.Itoa(int(p.Port)))
	m.info.DeletePartialMatch(prometheus.Labels{"peer": at})
	for number, state := range states {
		if state == now.State && number != int(api.PeerState_UNKNOWN) {
			m.info.WithLabelValues(at, "SESSION_STATE_"+api.PeerState_SessionState_name[int32(number)]).Set(1)
		}
	}
}

// forget drops what is shown of a peer that is none any more.
func (m *metrics) forget(p Peer, now Status) {
	m.up.DeleteLabelValues(p.Name)
	m.routes.DeleteLabelValues(p.Name)
	m.changes.DeletePartialMatch(prometheus.Labels{"peer": p.Name})
	m.flaps.DeletePartialMatch(prometheus.Labels{"peer": p.Name})
	m.info.DeletePartialMatch(prometheus.Labels{"peer": net.JoinHostPort(now.Address.String(), strconv.Itoa(int(p.Port)))})
}
