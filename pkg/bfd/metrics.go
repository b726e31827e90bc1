package bfd

import "github.com/prometheus/client_golang/prometheus"

// drop is why a packet was not heard.
type drop int

const (
	dropMalformed drop = iota
	dropTTL
	dropSender
	dropSession
	dropUndirected
	drops // how many there are
)

// String is the reason as metrics and Status have it.
func (d drop) String() string { return dropNames[d] }

var dropNames = [drops]string{
	dropMalformed:  "malformed",         // not to be heard in any session (RFC 5880 §6.8.6)
	dropTTL:        "ttl",               // a router has passed it on, or more of them than may (RFC 5082)
	dropSender:     "unknown_sender",    // nobody has a session with him
	dropSession:    "unknown_session",   // it is for a session that is not there, of an earlier life perhaps
	dropUndirected: "without_a_session", // it is for no session, and the one with its sender, some hops away, is up
}

// metrics are those of a Detector.
type metrics struct {
	up, detection            *prometheus.GaugeVec
	losses, packets, dropped *prometheus.CounterVec
}

func newMetrics(to prometheus.Registerer) metrics {
	m := metrics{
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kube_vip_bfd_session_up",
			Help: "1 while the BFD session with a peer is up."}, []string{"peer"}),
		detection: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kube_vip_bfd_detection_seconds",
			Help: "Silence after which a peer is taken for lost; 0 while he has not been heard."}, []string{"peer"}),
		losses: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kube_vip_bfd_session_losses_total",
			Help: "How often a BFD session that was up went down, by its diagnostic."}, []string{"peer", "diagnostic"}),
		packets: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kube_vip_bfd_packets_total",
			Help: "BFD packets of a peer's session, in and out."}, []string{"peer", "direction"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kube_vip_bfd_packets_dropped_total",
			Help: "Packets that came to a port of BFD and were not heard, by reason."}, []string{"reason"}),
	}
	if to != nil {
		to.MustRegister(m.up, m.detection, m.losses, m.packets, m.dropped)
	}
	for d := range drops {
		m.dropped.WithLabelValues(d.String())
	}
	return m
}

// peerMetrics are those of one session.
type peerMetrics struct {
	up, detection prometheus.Gauge
	in, out       prometheus.Counter
}

func (m metrics) of(peer string) peerMetrics {
	return peerMetrics{m.up.WithLabelValues(peer), m.detection.WithLabelValues(peer), m.packets.WithLabelValues(peer, "in"), m.packets.WithLabelValues(peer, "out")}
}

// forget takes the metrics of a peer away.
func (m metrics) forget(peer string) {
	of := prometheus.Labels{"peer": peer}
	m.up.Delete(of)
	m.detection.Delete(of)
	m.losses.DeletePartialMatch(of)
	m.packets.DeletePartialMatch(of)
}
