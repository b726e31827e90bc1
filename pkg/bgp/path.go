package bgp

import (
	"cmp"
	"fmt"
	"net/netip"

	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// originIGP is the ORIGIN of a route that was not learned elsewhere (RFC 4271 §5.1.1).
const originIGP = 0

// unicast is a prefix's address family, as gobgp has it.
func unicast(ip6 bool) *api.Family {
	if ip6 {
		return &api.Family{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}
	}
	return &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
}

// packed is a message within a message.
func packed(m proto.Message) (*anypb.Any, error) {
	p, err := anypb.New(m)
	if err != nil {
		return nil, fmt.Errorf("pack %T: %w", m, err)
	}
	return p, nil
}

// path is the route as gobgp takes it, to a peer.
func (r route) path(p Peer) (*api.Path, error) {
	ip6 := r.prefix.Addr().Is6()
	nlri, err := packed(&api.IPAddressPrefix{Prefix: r.prefix.Addr().String(), PrefixLen: uint32(r.prefix.Bits())})
	if err != nil {
		return nil, err
	}
	hop := r.nextHop
	if !hop.IsValid() {
		if hop = netip.IPv4Unspecified(); ip6 {
			hop = netip.IPv6Unspecified()
		}
	}
	list := []proto.Message{&api.OriginAttribute{Origin: originIGP}}
	if ip6 || hop.Is6() {
		list = append(list, &api.MpReachNLRIAttribute{Family: unicast(ip6), NextHops: []string{hop.String()}, Nlris: []*anypb.Any{nlri}})
	} else {
		list = append(list, &api.NextHopAttribute{NextHop: hop.String()})
	}
	if r.Prepend != nil && *r.Prepend > 0 && !p.internal() { // gobgp tells no peer of a path with his own AS in it
		numbers := make([]uint32, *r.Prepend)
		for i := range numbers {
			numbers[i] = p.LocalAS
		}
		list = append(list, &api.AsPathAttribute{Segments: []*api.AsSegment{{Type: api.AsSegment_AS_SEQUENCE, Numbers: numbers}}})
	}
	if r.MED != nil {
		list = append(list, &api.MultiExitDiscAttribute{Med: *r.MED})
	}
	if r.LocalPref != nil && p.internal() {
		list = append(list, &api.LocalPrefAttribute{LocalPref: *r.LocalPref})
	}
	if len(r.Communities) > 0 {
		list = append(list, &api.CommunitiesAttribute{Communities: r.Communities})
	}
	if len(r.Large) > 0 {
		large := &api.LargeCommunitiesAttribute{}
		for _, l := range r.Large {
			large.Communities = append(large.Communities, &api.LargeCommunity{GlobalAdmin: l.Global, LocalData1: l.Local1, LocalData2: l.Local2})
		}
		list = append(list, large)
	}
	if r.Bandwidth > 0 {
		bandwidth, err := packed(&api.LinkBandwidthExtended{Asn: shortAS(p.LocalAS), Bandwidth: r.Bandwidth})
		if err != nil {
			return nil, err
		}
		list = append(list, &api.ExtendedCommunitiesAttribute{Communities: []*anypb.Any{bandwidth}})
	}
	path := &api.Path{Family: unicast(ip6), Nlri: nlri}
	for _, m := range list {
		attribute, err := packed(m)
		if err != nil {
			return nil, err
		}
		path.Pattrs = append(path.Pattrs, attribute)
	}
	return path, nil
}

// shortAS is an AS number where there are two octets for it (RFC 6793 §2, AS_TRANS).
func shortAS(as uint32) uint32 {
	const trans = 23456
	if as > 1<<16-1 {
		return trans
	}
	return as
}

// deferral is for how many seconds after a restart gobgp waits for what a peer announces before it announces our routes
// (RFC 4724 §4.1). Nothing of ours depends on that.
const deferral = 1

// neighbor is the peer as gobgp takes it, at an address. restarted says that this process is a new one.
func (p Peer) neighbor(at netip.Addr, restarted bool) *api.Peer {
	n := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: at.WithZone("").String(), PeerAsn: p.AS, LocalAsn: p.LocalAS, AuthPassword: string(p.Password),
			AllowAspathLoopLocal: true, // of an unnumbered peer that turns out to be of our own AS
		},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime: seconds(cmp.Or(p.Hold, forever)), KeepaliveInterval: seconds(p.Keepalive), ConnectRetry: seconds(p.Retry), IdleHoldTimeAfterReset: idleAfterReset,
		}},
		State:     &api.PeerState{}, // without it gobgp leaves the families out
		Transport: &api.Transport{RemotePort: uint32(p.Port), PassiveMode: p.Passive, BindInterface: p.SourceInterface, MtuDiscovery: true},
	}
	if p.Source.IsValid() {
		n.Transport.LocalAddress = p.Source.String()
	}
	if at.Zone() != "" {
		// gobgp takes the connection's own address for the next hop then, and none with a zone.
		n.Conf.NeighborAddress, n.Transport.BindInterface, n.Transport.LocalAddress = at.String(), at.Zone(), netip.IPv6Unspecified().String()
	}
	if p.TTL > 0 && !p.internal() {
		n.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: uint32(p.TTL)}
	}
	if p.Hops > 0 {
		n.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: uint32(maxTTL - p.Hops + 1)}
	}
	if p.Restart > 0 {
		n.GracefulRestart = &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(seconds(p.Restart)), LocalRestarting: restarted, DeferralTime: deferral,
		}
	}
	for _, f := range []struct{ wanted, ip6 bool }{{p.IPv4, false}, {p.IPv6, true}} {
		if f.wanted {
			n.AfiSafis = append(n.AfiSafis, &api.AfiSafi{
				Config:            &api.AfiSafiConfig{Family: unicast(f.ip6), Enabled: true},
				MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: p.Restart > 0}},
			})
		}
	}
	return n
}
