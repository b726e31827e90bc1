package main

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// rivalAgain is the time after which a rival that is still there is told of once more: Events are forgotten within an hour.
const rivalAgain = 30 * time.Minute

// rivals tells of hosts that have a VIP of this node as well. Nothing is done about them: this node holds by right, and
// who shouts louder only confuses the neighbours.
type rivals struct {
	log   *slog.Logger
	vips  prometheus.Gauge
	warn  func(addr netip.Addr, mac net.HardwareAddr) // on the objects that it concerns
	mu    sync.Mutex                                  // guards the field below
	hosts map[netip.Addr]map[string]time.Time         // when each was told of, by its hardware address
}

func newRivals(log *slog.Logger, registry prometheus.Registerer, warn func(netip.Addr, net.HardwareAddr)) *rivals {
	r := &rivals{log: log, warn: warn, hosts: map[netip.Addr]map[string]time.Time{}, vips: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "kube_vip_vips_contested",
		Help: "VIPs on this node that another host on the wire answers for as well.",
	})}
	registry.MustRegister(r.vips)
	return r
}

// met tells of a host that has a VIP.
func (r *rivals) met(addr netip.Addr, mac net.HardwareAddr) {
	now := time.Now()
	r.mu.Lock()
	if r.hosts[addr] == nil {
		r.hosts[addr] = map[string]time.Time{}
	}
	told, known := r.hosts[addr][mac.String()]
	known = known && now.Sub(told) < rivalAgain
	if !known {
		r.hosts[addr][mac.String()] = now
	}
	r.vips.Set(float64(len(r.hosts)))
	r.mu.Unlock()
	if known {
		return
	}
	r.log.Warn("another host on the wire answers for a VIP of this node: some neighbours reach that host; find it by its hardware address",
		"vip", addr.String(), "mac", mac.String())
	r.warn(addr, mac)
}

// gone notes that nobody else has a VIP any more, or that this node does not hold it any more.
func (r *rivals) gone(addr netip.Addr, held bool) {
	r.mu.Lock()
	_, known := r.hosts[addr]
	delete(r.hosts, addr)
	r.vips.Set(float64(len(r.hosts)))
	r.mu.Unlock()
	if known && held {
		r.log.Info("no other host answers for the VIP any more", "vip", addr.String())
	}
}
