package main

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// rivals tells of hosts that have a VIP of this node as well. Nothing is done about them: this node holds by right, and
// who shouts louder only confuses the neighbours.
type rivals struct {
	log   *slog.Logger
	vips  prometheus.Gauge
	warn  func(addr netip.Addr, mac net.HardwareAddr) // on the objects that it concerns
	mu    sync.Mutex                                  // guards the field below
	hosts map[netip.Addr]net.HardwareAddr
}

func newRivals(log *slog.Logger, registry prometheus.Registerer, warn func(netip.Addr, net.HardwareAddr)) *rivals {
	r := &rivals{log: log, warn: warn, hosts: map[netip.Addr]net.HardwareAddr{}, vips: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "kube_vip_vips_contested",
		Help: "VIPs on this node that another host on the wire answers for as well.",
	})}
	registry.MustRegister(r.vips)
	return r
}

// met tells of a host when it is a new one.
func (r *rivals) met(addr netip.Addr, mac net.HardwareAddr) {
	r.mu.Lock()
	known := bytes.Equal(r.hosts[addr], mac)
	r.hosts[addr] = mac
	r.vips.Set(float64(len(r.hosts)))
	r.mu.Unlock()
	if known {
		return
	}
	r.log.Warn("another host on the wire answers for a VIP of this node: some neighbours reach that host; find it by its hardware address",
		"vip", addr.String(), "mac", mac.String())
	r.warn(addr, mac)
}

// gone tells that nobody else has a VIP any more.
func (r *rivals) gone(addr netip.Addr) {
	r.mu.Lock()
	delete(r.hosts, addr)
	r.vips.Set(float64(len(r.hosts)))
	r.mu.Unlock()
	r.log.Info("no other host answers for the VIP any more", "vip", addr.String())
}
