package main

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"kube-vip.io/kube-vip/pkg/arp"
	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/vip"
)

// occupiedAgain is the time after which it is said once more who has the VIP that this node waits for.
const occupiedAgain = time.Minute

// provisional has the control plane's VIP held before the API gives rights to have a Lease, where nobody else on the wire
// has it. Whoever claims it there then is left to have it: he may have rights.
type provisional struct {
	table    *vip.Table
	sentinel *arp.Sentinel
	mandate  string
	log      *slog.Logger
	election *ha.Election // set before anything runs

	on atomic.Bool // the VIP is held provisionally

	// The fields below belong to alone, which is asked once at a time.
	owner string // who has the VIP, as it was said last
	said  time.Time
}

// alone is ha.Options.Alone.
func (p *provisional) alone(ctx context.Context) bool {
	alone, owner, err := p.sentinel.Alone(ctx, p.table.Claimed(p.mandate))
	switch now := time.Now(); {
	case ctx.Err() != nil, alone:
	case owner != nil && (owner.String() != p.owner || now.Sub(p.said) > occupiedAgain):
		p.owner, p.said = owner.String(), now
		p.log.Warn("another host on the wire has the VIP, or means to have it: it is not taken without a Lease; find it by its hardware address", "mac", p.owner)
	case err != nil && now.Sub(p.said) > occupiedAgain:
		p.said = now
		p.log.Warn("it could not be asked whether somebody has the VIP, which is not taken without a Lease then", "err", err)
	}
	return alone
}

// note is ha.Options.Provisional: the wire is watched closely.
func (p *provisional) note(on bool) {
	p.on.Store(on)
	p.sentinel.Watch(on)
}

// rival leaves what is held provisionally to somebody else who has it, and says whether there was anything.
func (p *provisional) rival(addr netip.Addr, mac net.HardwareAddr) bool {
	if !p.on.Load() {
		return false
	}
	for _, v := range p.table.Claimed(p.mandate) {
		if v.Addr() == addr {
			p.log.Warn("another host on the wire has the VIP that this node holds without a Lease: it is left to that host", "vip", addr.String(), "mac", mac.String())
			p.election.Contest()
			return true
		}
	}
	return false
}
