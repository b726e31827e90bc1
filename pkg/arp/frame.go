package arp

import (
	"fmt"
	"net"
	"net/netip"

	mdarp "github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
)

// MAC is an Ethernet (EUI-48) address.
type MAC [6]byte

// String is the address in the usual notation, 02:00:5e:10:00:01.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// announcement returns the frames that say to all neighbours of a station: addr is here. For IPv4 these are
// both forms of a gratuitous ARP, because some neighbours learn from one of them only; for IPv6 it is an
// unsolicited Neighbor Advertisement.
func announcement(s Station, addr netip.Addr) ([][]byte, error) {
	if addr.Is4() {
		request, err := gratuitousARP(mdarp.OperationRequest, s.MAC, addr)
		if err != nil {
			return nil, err
		}
		reply, err := gratuitousARP(mdarp.OperationReply, s.MAC, addr)
		if err != nil {
			return nil, err
		}
		return [][]byte{request, reply}, nil
	}
	na, err := unsolicitedNA(s.MAC, s.LinkLocal, addr, s.Router)
	if err != nil {
		return nil, err
	}
	return [][]byte{na}, nil
}

// gratuitousARP returns the Ethernet frame of a gratuitous ARP packet: sender and target protocol address are
// both addr (RFC 5227 §2.3, RFC 5944 §4.6). The target hardware address means nothing in a request and is
// zero there (RFC 5227 §2.1.1); in a reply it is the sender's own.
func gratuitousARP(op mdarp.Operation, mac MAC, addr netip.Addr) ([]byte, error) {
	target := make(net.HardwareAddr, len(mac))
	if op == mdarp.OperationReply {
		copy(target, mac[:])
	}
	p, err := mdarp.NewPacket(op, mac[:], addr, target, addr)
	if err != nil {
		return nil, fmt.Errorf("build gratuitous ARP for %s: %w", addr, err)
	}
	payload, err := p.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("build gratuitous ARP for %s: %w", addr, err)
	}
	return frame(ethernet.Broadcast, mac, ethernet.EtherTypeARP, payload)
}

// ipv6HeaderLen is the length of the fixed IPv6 header, RFC 8200 §3.
const ipv6HeaderLen = 40

// protocolICMPv6 is ICMPv6's number as an IPv6 next header, RFC 4443 §1.
const protocolICMPv6 = 58

// unsolicitedNA returns the Ethernet frame of an unsolicited Neighbor Advertisement of target, from src to all
// nodes, Solicited 0, Override 1 and with the target link-layer address (RFC 4861 §7.2.6). The burst that the
// Announcer makes of them is closer together than RetransTimer, which that section asks for: it is about
// a neighbour that changed its card, not about a takeover for which every client waits.
//
// The router flag must be what the kernel says in the advertisements with which it answers solicitations,
// that is, whether the interface forwards: a neighbour that sees it fall from 1 to 0 drops the routes that it
// has by this address (RFC 4861 §7.2.5), and one that sees both in turn does so again and again.
func unsolicitedNA(mac MAC, src, target netip.Addr, router bool) ([]byte, error) {
	b, err := neighborDiscovery(mac, src, netip.IPv6LinkLocalAllNodes(), &ndp.NeighborAdvertisement{
		Router:        router,
		Override:      true,
		TargetAddress: target,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac[:]}},
	})
	if err != nil {
		return nil, fmt.Errorf("build neighbor advertisement of %s: %w", target, err)
	}
	return b, nil
}

// neighborDiscovery returns the Ethernet frame of a Neighbor Discovery message to a multicast group.
func neighborDiscovery(mac MAC, src, group netip.Addr, m ndp.Message) ([]byte, error) {
	message, err := ndp.MarshalMessageChecksum(m, src, group)
	if err != nil {
		return nil, err
	}

	packet := make([]byte, ipv6HeaderLen, ipv6HeaderLen+len(message))
	packet[0] = 6 << 4 // version 6, traffic class and flow label 0
	packet[5] = byte(len(message))
	packet[6] = protocolICMPv6
	packet[7] = ndp.HopLimit // whoever receives less drops it, RFC 4861 §7.1
	copy(packet[8:24], src.AsSlice())
	copy(packet[24:40], group.AsSlice())
	packet = append(packet, message...)

	to := multicastMAC(group)
	return frame(to[:], mac, ethernet.EtherTypeIPv6, packet)
}

// multicastMAC is where frames to an IPv6 multicast group go, RFC 2464 §7: ff02::1 maps to 33:33:00:00:00:01.
func multicastMAC(group netip.Addr) MAC {
	a := group.As16()
	return MAC{0x33, 0x33, a[12], a[13], a[14], a[15]}
}

func frame(dst net.HardwareAddr, src MAC, etherType ethernet.EtherType, payload []byte) ([]byte, error) {
	f := ethernet.Frame{Destination: dst, Source: src[:], EtherType: etherType, Payload: payload}
	b, err := f.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("build Ethernet frame: %w", err)
	}
	return b, nil
}
