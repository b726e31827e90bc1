package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// KernelRoute is by which next hops the host's kernel sends what goes to the prefix, sorted; several are ECMP, none mean
// that it has no route for just this prefix. A next hop that is a link-local address has its interface as zone.
func (h *Host) KernelRoute(prefix netip.Prefix) ([]netip.Addr, error) {
	prefix = prefix.Masked()
	routes, err := h.lookUp(prefix)
	if err != nil {
		return nil, fmt.Errorf("look up %s on %s: %w", prefix, h.Name, err)
	}
	names := h.linkNames()
	var hops []netip.Addr
	for _, r := range routes {
		if destination(r) == prefix {
			hops = append(hops, h.nextHops(r, names)...)
		}
	}
	return sorted(hops), nil
}

// lookUp returns the route for the prefix, and maybe others. For a single address the kernel is asked for what it would
// take (RTM_F_FIB_MATCH of rtnetlink(7)), which costs the same among thousands.
func (h *Host) lookUp(prefix netip.Prefix) ([]netlink.Route, error) {
	if !prefix.IsSingleIP() {
		return h.handle.RouteList(nil, netlink.FAMILY_ALL)
	}
	routes, err := h.handle.RouteGetWithOptions(prefix.Addr().AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	for _, none := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EINVAL, unix.EACCES} { // or a route that says so
		if errors.Is(err, none) {
			return nil, nil
		}
	}
	return routes, err
}

// KernelRoutes are all routes that routing daemons have put into the host's kernel, by prefix.
func (h *Host) KernelRoutes() (map[netip.Prefix][]netip.Addr, error) {
	routes, err := h.handle.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the routes of %s: %w", h.Name, err)
	}
	names := h.linkNames()
	all := map[netip.Prefix][]netip.Addr{}
	for _, r := range routes {
		switch r.Protocol {
		case unix.RTPROT_BGP, unix.RTPROT_ZEBRA, unix.RTPROT_BIRD:
			p := destination(r)
			all[p] = sorted(append(all[p], h.nextHops(r, names)...))
		}
	}
	return all, nil
}

// linkNames are the names of the host's interfaces by their index.
func (h *Host) linkNames() map[int]string {
	names := map[int]string{}
	links, _ := h.handle.LinkList() // without them a zone is a number
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names
}

// destination is the prefix that a route is for.
func destination(r netlink.Route) netip.Prefix {
	if r.Dst == nil {
		if r.Family == unix.AF_INET6 {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	addr, _ := netip.AddrFromSlice(r.Dst.IP)
	bits, size := r.Dst.Mask.Size()
	if size == 8*net.IPv4len {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, bits)
}

// frrStandIn is what FRR has the kernel send an IPv4 route to whose next hop is an IPv6 link-local address: it makes a
// neighbour of this address with that one's MAC.
var frrStandIn = netip.AddrFrom4([4]byte{169, 254, 0, 1})

// behind is the link-local address that a stand-in on the link is for, and any other address itself.
func (h *Host) behind(hop netip.Addr, link int) netip.Addr {
	if hop != frrStandIn {
		return hop
	}
	neighbors, _ := h.handle.NeighList(link, unix.AF_INET) // without them it stays what it is
	for _, n := range neighbors {
		if addr, ok := netip.AddrFromSlice(n.IP); ok && addr.Unmap() == hop && len(n.HardwareAddr) == 6 {
			return linkLocal(n.HardwareAddr)
		}
	}
	return hop
}

// nextHops are those of a route: gateways of its own family or, RFC 8950, of the other.
func (h *Host) nextHops(r netlink.Route, names map[int]string) []netip.Addr {
	paths := r.MultiPath
	if len(paths) == 0 {
		paths = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Via: r.Via}}
	}
	var hops []netip.Addr
	for _, p := range paths {
		ip := p.Gw
		if via, ok := p.Via.(*netlink.Via); ok && via != nil {
			ip = via.Addr
		}
		addr, ok := netip.AddrFromSlice(ip)
		if !ok {
			continue // the link itself, or none as in a blackhole
		}
		if addr = h.behind(addr.Unmap(), p.LinkIndex); addr.IsLinkLocalUnicast() && addr.Is6() {
			zone := names[p.LinkIndex]
			addr = addr.WithZone(cmp.Or(zone, fmt.Sprint(p.LinkIndex)))
		}
		hops = append(hops, addr)
	}
	return hops
}

// Names are the names of the hosts that have these addresses, sorted, each as often as its addresses are there. A host
// is known by its link-local address too; an address that is no host's stands for itself.
func (l *Lab) Names(addrs []netip.Addr) []string {
	names := make([]string, len(addrs))
	hosts := l.all()
	for i, a := range addrs {
		names[i] = a.String()
		for _, h := range hosts {
			if h.has(a.WithZone("")) {
				names[i] = h.Name
			}
		}
	}
	slices.Sort(names)
	return names
}

// has reports whether the address is one that the host was given, or that follows from its MAC.
func (h *Host) has(addr netip.Addr) bool {
	for _, p := range h.Addrs {
		if p.Addr() == addr {
			return true
		}
	}
	return len(h.MAC) == 6 && addr == linkLocal(h.MAC)
}

// linkLocal is the address that follows from a MAC, RFC 4291 appendix A.
func linkLocal(m net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// sorted sorts addresses in place.
func sorted(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

// A RouteEvent is one notification of a host's kernel about a route.
type RouteEvent struct {
	// Time is when it was read.
	Time time.Time
	// Prefix is what the route is for.
	Prefix netip.Prefix
	// NextHops are the route's, sorted; none when it went.
	NextHops []netip.Addr
}

// String is one line for logs.
func (e RouteEvent) String() string {
	return fmt.Sprintf("%s %s by %v", e.Time.Format("15:04:05.000"), e.Prefix, e.NextHops)
}

// A RouteWatch hears what becomes of a host's routes (RTM_NEWROUTE and RTM_DELROUTE of rtnetlink(7)), in the main table.
type RouteWatch struct {
	host *Host
	stop chan struct{}
	done chan struct{}

	// mu guards the fields below.
	mu      sync.Mutex
	events  []RouteEvent
	changed chan struct{}
	closed  bool
	err     error
}

// WatchRoutes begins to record.
func (h *Host) WatchRoutes() (*RouteWatch, error) {
	w := &RouteWatch{}
	return w, h.watchRoutes(w, func(e RouteEvent) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e)
		close(w.changed)
		w.changed = make(chan struct{})
	})
}

// WatchRoutesFunc gives each event to got, one after another, and keeps none: for thousands of routes.
func (h *Host) WatchRoutesFunc(got func(RouteEvent)) (*RouteWatch, error) {
	w := &RouteWatch{}
	return w, h.watchRoutes(w, got)
}

func (h *Host) watchRoutes(w *RouteWatch, got func(RouteEvent)) error {
	w.host, w.stop, w.done, w.changed = h, make(chan struct{}), make(chan struct{}), make(chan struct{})
	updates := make(chan netlink.RouteUpdate)
	ns := netns.NsHandle(h.fd)
	err := netlink.RouteSubscribeWithOptions(updates, w.stop, netlink.RouteSubscribeOptions{
		Namespace: &ns, ErrorCallback: w.fail, ReceiveBufferSize: watchBuffer, ReceiveBufferForceSize: true,
	})
	if err != nil {
		return fmt.Errorf("watch the routes of %s: %w", h.Name, err)
	}
	names := h.linkNames()
	go func() {
		defer close(w.done)
		for u := range updates {
			now := time.Now()
			if u.Table != unix.RT_TABLE_MAIN || u.Flags&unix.RTM_F_CLONED != 0 {
				continue
			}
			e := RouteEvent{Time: now, Prefix: destination(u.Route)}
			if u.Type == unix.RTM_NEWROUTE {
				e.NextHops = sorted(h.nextHops(u.Route, names))
			}
			got(e)
		}
	}()
	return nil
}

// fail notes why the watch ended, or missed something.
func (w *RouteWatch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed && w.err == nil {
		w.err = err
	}
}

// Err is why the watch does not know all that happened; nil while it does.
func (w *RouteWatch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Events are what was seen so far of the prefix; of all routes for the zero Prefix.
func (w *RouteWatch) Events(prefix netip.Prefix) []RouteEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !prefix.IsValid() {
		return slices.Clone(w.events)
	}
	var events []RouteEvent
	for _, e := range w.events {
		if e.Prefix == prefix.Masked() {
			events = append(events, e)
		}
	}
	return events
}

// Wait returns the first event from since on after which the prefix has exactly these next hops, in any order; none
// mean that the route is gone. A host's link-local address counts as its other ones. A route that was so before since has no event: look with KernelRoute.
func (w *RouteWatch) Wait(ctx context.Context, since time.Time, prefix netip.Prefix, hops ...netip.Addr) (RouteEvent, error) {
	want := w.host.lab.Names(hops)
	for {
		w.mu.Lock()
		changed := w.changed
		w.mu.Unlock()
		events := w.Events(prefix)
		for _, e := range events {
			if !e.Time.Before(since) && slices.Equal(w.host.lab.Names(e.NextHops), want) {
				return e, nil
			}
		}
		select {
		case <-changed:
		case <-w.done:
			return RouteEvent{}, fmt.Errorf("wait until %s goes by %v on %s: the watch has ended: %w", prefix, want, w.host.Name, cmp.Or(w.Err(), net.ErrClosed))
		case <-ctx.Done():
			var seen []string
			for _, e := range events {
				seen = append(seen, e.String())
			}
			return RouteEvent{}, fmt.Errorf("wait until %s goes by %v on %s: %w (seen: %s)", prefix, want, w.host.Name, ctx.Err(), strings.Join(seen, ", "))
		}
	}
}

// Close ends the watch.
func (w *RouteWatch) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	close(w.stop)
	<-w.done
}
