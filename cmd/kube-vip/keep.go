package main

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"kube-vip.io/kube-vip/pkg/arp"
	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/vip"
)

// keeper has Services' addresses stay where they are while the API does not answer: the wire is watched closely for
// others that claim them then.
type keeper struct {
	table    *vip.Table
	sentinel *arp.Sentinel
	contest  func(mandate string)
	log      *slog.Logger
	mandates prometheus.Gauge

	mu   sync.Mutex // guards the field below
	kept map[string]struct{}
}

func newKeeper(table *vip.Table, sentinel *arp.Sentinel, log *slog.Logger, registry prometheus.Registerer, contest func(mandate string)) *keeper {
	k := &keeper{table: table, sentinel: sentinel, contest: contest, log: log, kept: map[string]struct{}{},
		mandates: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kube_vip_leases_kept_without_api",
			Help: "Leases whose addresses stay on this node beyond the time for which they were renewed, since the API does not answer.",
		})}
	registry.MustRegister(k.mandates)
	return k
}

// options are what an election asks of k.
func (k *keeper) options() *ha.Keeper {
	return &ha.Keeper{
		Kept:  k.note,
		Clear: func(ctx context.Context, mandate string) { k.sentinel.Clear(ctx, k.table.Claimed(mandate)) },
		Silent: func(ctx context.Context, mandate string) bool {
			return k.sentinel.Silent(ctx, k.table.Claimed(mandate))
		},
	}
}

// note notes that a mandate goes on beyond its time, or does not any more.
func (k *keeper) note(mandate string, beyond bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before := len(k.kept)
	if beyond {
		k.kept[mandate] = struct{}{}
	} else {
		delete(k.kept, mandate)
	}
	now := len(k.kept)
	k.mandates.Set(float64(now))
	switch {
	case before == 0 && now > 0:
		k.log.Warn("the API does not answer: addresses of Services stay on this node until it does, or another node claims them")
		k.sentinel.Watch(true)
	case before > 0 && now == 0:
		k.log.Info("no address stays on this node for want of the API any more")
		k.sentinel.Watch(false)
	}
}

// rival ends what is kept of a VIP that somebody else claims, and says whether there was anything.
func (k *keeper) rival(addr netip.Addr, mac net.HardwareAddr) bool {
	var contested []string
	k.mu.Lock()
	for _, mandate := range k.table.Mandates(addr) {
		if _, kept := k.kept[mandate]; kept {
			contested = append(contested, mandate)
		}
	}
	k.mu.Unlock()
	for _, mandate := range contested {
		k.log.Warn("somebody else claims an address that stays here for want of the API: giving it up, and what is held by the same Lease",
			"vip", addr.String(), "mac", mac.String(), "lease", mandate)
		k.contest(mandate)
	}
	return len(contested) > 0
}
