package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/pkg/vip"
)

// earshot is what this machine has of the network.
type earshot struct {
	links     []vip.Link
	addresses []vip.Address
	// deaf says why nothing is known of them; nil when it is.
	deaf   error
	prober svc.Prober
}

// listen is what is here.
func (o *outlook) listen(prober svc.Prober) earshot {
	e := earshot{prober: prober, deaf: o.netErr}
	if e.deaf == nil {
		e.links, e.deaf = o.network.Links()
	}
	if e.deaf == nil {
		e.addresses, e.deaf = o.network.Addresses()
	}
	return e
}

// onWire is what the network says of an address.
type onWire struct {
	Address netip.Addr `json:"address"`
	// Here is the interface of this machine that has it, with kube-vip's mark.
	Here string `json:"here,omitempty"`
	// Asked is the interface that was asked by; empty when none was, and then NotAsked says why not.
	Asked    string `json:"asked,omitempty"`
	NotAsked string `json:"notAsked,omitempty"`
	// MAC is the hardware address of who answered, this machine left out, and Node whose that is, as far as is known.
	MAC  string `json:"mac,omitempty"`
	Node string `json:"node,omitempty"`
	// But is what does not agree with who should hold it.
	But string `json:"but,omitempty"`
}

// ask asks the network for an address that holder, if it is not empty, should have.
func (e earshot) ask(ctx context.Context, addr netip.Addr, at vip.Placement, holder string, homes map[string][]netip.Addr) onWire {
	w := onWire{Address: addr}
	if e.deaf != nil {
		w.NotAsked = e.deaf.Error()
		return w
	}
	for _, a := range e.addresses {
		if a.Prefix.Addr() == addr && a.Ours {
			w.Here = a.Link
		}
	}
	link, why := e.linkFor(addr, at)
	if why != "" {
		w.NotAsked = why
	} else if mac, err := e.prober.Probe(ctx, link, addr); err != nil {
		w.NotAsked = err.Error()
	} else {
		w.Asked = link
		if mac != nil {
			w.MAC = mac.String()
			w.Node = e.whose(ctx, link, mac, holder, homes)
		}
	}
	w.But = w.disagreement(holder, e.home(homes))
	return w
}

// linkFor is the interface by which an address can be asked for: one that is pinned or has its subnet. Whatever answers
// by another one is somebody else's network.
func (e earshot) linkFor(addr netip.Addr, at vip.Placement) (link, why string) {
	places, _, problems := at.Follow([]netip.Addr{addr}, e.links, nil)
	for _, place := range places {
		if _, is := e.linkNamed(place.Via); is && (place.BySubnet || at.Interface != "") {
			return place.Via, ""
		}
	}
	for _, l := range e.links { // that may be pinned which this machine does not have
		if slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return !l.Loopback && p.Contains(addr) }) {
			return l.Name, ""
		}
	}
	if len(problems) > 0 && at.Interface != "" {
		return "", problems[0].Error()
	}
	return "", "no interface of this machine is in its subnet"
}

func (e earshot) linkNamed(name string) (vip.Link, bool) {
	i := slices.IndexFunc(e.links, func(l vip.Link) bool { return l.Name == name })
	if i < 0 {
		return vip.Link{}, false
	}
	return e.links[i], true
}

// whose is the node with the hardware address mac: the one that answers by it for an address of its own. The node that
// should have it is asked first.
func (e earshot) whose(ctx context.Context, link string, mac net.HardwareAddr, first string, homes map[string][]netip.Addr) string {
	if e.is(ctx, link, mac, homes[first]) {
		return first
	}
	const most = 64 // asked at once
	var (
		mu    sync.Mutex // guards found
		found string
		work  sync.WaitGroup
		slots = make(chan struct{}, most)
	)
	for node, addrs := range homes {
		if node == first {
			continue
		}
		work.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if e.is(ctx, link, mac, addrs) {
				mu.Lock()
				found = node
				mu.Unlock()
			}
		})
	}
	work.Wait()
	return found
}

// is says whether one of addrs is answered for by mac on link.
func (e earshot) is(ctx context.Context, link string, mac net.HardwareAddr, addrs []netip.Addr) bool {
	l, _ := e.linkNamed(link)
	for _, a := range addrs {
		if !slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Contains(a) }) {
			continue
		}
		if answer, err := e.prober.Probe(ctx, link, a); err == nil && answer.String() == mac.String() {
			return true
		}
	}
	return false
}

// home is the node that this machine is, by its addresses; empty when it is none.
func (e earshot) home(homes map[string][]netip.Addr) string {
	for node, addrs := range homes {
		for _, l := range e.links {
			if slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return !l.Loopback && slices.Contains(addrs, p.Addr()) }) {
				return node
			}
		}
	}
	return ""
}

// disagreement is what is wrong with the answer when holder, empty for nobody, should have the address and this machine
// is the node here.
func (w onWire) disagreement(holder, here string) string {
	who := w.MAC
	if w.Node != "" {
		who = w.Node + " (" + w.MAC + ")"
	}
	switch {
	case w.Here != "" && w.MAC != "":
		return fmt.Sprintf("%s is on this node, %s, and %s answers, too", w.Address, here, who)
	case w.Here != "" && holder != here:
		return fmt.Sprintf("%s is on this node, %s, and %s should have it", w.Address, here, orNobody(holder))
	case w.Here == "" && here != "" && holder == here:
		return fmt.Sprintf("this node, %s, should have %s and has not", here, w.Address)
	case w.MAC != "" && holder == "":
		return fmt.Sprintf("%s answers for %s, and nobody should", who, w.Address)
	case w.Node != "" && w.Node != holder:
		return fmt.Sprintf("%s answers for %s, and %s should have it", who, w.Address, holder)
	case w.MAC != "" && w.Node == "":
		return fmt.Sprintf("%s answers for %s; no node answers by that for its own address: another interface of %s, or a stranger", who, w.Address, holder)
	case w.Asked != "" && w.MAC == "" && w.Here == "" && holder != "":
		return fmt.Sprintf("nobody answers for %s, and %s should have it", w.Address, holder)
	}
	return ""
}

func orNobody(node string) string {
	if node == "" {
		return "nobody"
	}
	return node
}

// String is the answer for people.
func (w onWire) String() string {
	var parts []string
	if w.Here != "" {
		parts = append(parts, "this machine has it on "+w.Here)
	}
	switch {
	case w.NotAsked != "":
		parts = append(parts, "not asked: "+w.NotAsked)
	case w.MAC == "" && w.Here != "":
		parts = append(parts, "nobody else answers on "+w.Asked)
	case w.MAC == "":
		parts = append(parts, "nobody answers on "+w.Asked)
	case w.Node != "":
		parts = append(parts, fmt.Sprintf("%s answers (%s) on %s", w.Node, w.MAC, w.Asked))
	default:
		parts = append(parts, fmt.Sprintf("%s answers on %s, and is no node's that is known", w.MAC, w.Asked))
	}
	return strings.Join(parts, "; ")
}

// homes are the addresses of nodes, as the nodes and the instances on them say.
func homes(w svc.World) map[string][]netip.Addr {
	all := map[string][]netip.Addr{}
	for _, n := range w.Nodes {
		for _, a := range n.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
				all[n.Name] = append(all[n.Name], addr.Unmap())
			}
		}
	}
	for _, l := range w.Leases {
		if m, ok := ha.SeenIn(l); ok && len(all[m.Node]) == 0 {
			all[m.Node] = m.Addresses
		}
	}
	return all
}

// askDeadline bounds the questions to the network.
const askDeadline = 10 * time.Second
