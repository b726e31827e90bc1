package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A RouterKind is the program by which a router speaks BGP and BFD.
type RouterKind string

// The kinds: FRRouting's zebra, bgpd and bfdd, and BIRD 2.
const (
	FRR  RouterKind = "frr"
	BIRD RouterKind = "bird"
)

// RouterOptions say what the router's configuration shall be.
type RouterOptions struct {
	// Kind is the program.
	Kind RouterKind
	// Name is the host's, one that no other host of the lab has; its client is NAME-client. Empty means the kind.
	Name string
	// AS is the router's own; 0 means 65000.
	AS uint32
	// ID is the router ID; the zero Addr means 10.10.0.200 for the lab's first router, and so on.
	ID netip.Addr
	// Port is where it listens; 0 means 179.
	Port uint16
	// MaxPaths is over how many next hops a route may go; 0 means 16.
	MaxPaths int
	// Announce are prefixes that it tells its neighbours, with itself as next hop. It has no route for them.
	Announce []netip.Prefix
	// Neighbors are those that it has sessions with.
	Neighbors []Neighbor
	// Extra are lines at the end of the configuration, in the program's own language. Configure adds the new ones; of
	// FRR it takes none away.
	Extra []string
}

// A Neighbor is whom a router has a session with: one Addr, or a Range of them, or whoever is on an Interface.
type Neighbor struct {
	// Addr is the neighbour's address.
	Addr netip.Addr
	// Range is where neighbours may come from that the router does not know by address; it waits for them.
	Range netip.Prefix
	// Interface is where the neighbour is that has no address but a link-local one ("unnumbered"). FRR tells it its own
	// by Router Advertisements and learns the neighbour's from those; BIRD waits for it, and sends such ones only as Extra
	// says (its protocol radv).
	Interface string
	// AS is the neighbour's; 0 means any but the router's own.
	AS uint32
	// LocalAS is what the router says its own AS is in the session; 0 means its own.
	LocalAS uint32
	// Source is the router's address in the session; the zero Addr leaves it to the kernel.
	Source netip.Addr
	// Port is where the neighbour listens; 0 means 179.
	Port uint16
	// Password is that of TCP MD5 signatures, RFC 2385; empty means none.
	Password string
	// Multihop is by how many hops the neighbour may be away; 0 means that it is on the link.
	Multihop int
	// TTLSecurity is the same with RFC 5082: packets that have come further are dropped; 0 means without.
	TTLSecurity int
	// Passive waits for the neighbour to connect.
	Passive bool
	// Hold and Keepalive are the times that the router offers; 0 means the program's own, 180 or 240 s and a third.
	Hold, Keepalive time.Duration
	// Family is whose routes the session carries; empty means that of Addr or Range, and both on an Interface.
	Family Family
	// ExtendedNextHop allows IPv6 next hops for IPv4 routes, RFC 8950.
	ExtendedNextHop bool
	// BFD watches the neighbour with these intervals; nil means no BFD.
	BFD *BFDIntervals
	// GracefulRestart keeps the neighbour's routes while it restarts, RFC 4724 (the helper's part).
	GracefulRestart bool
	// Extra are lines about the neighbour in the program's own language: of FRR what comes behind "neighbor NAME" in
	// "router bgp", of BIRD statements of its protocol. FamilyExtra are those of each address family or channel.
	Extra, FamilyExtra []string
}

// BFDIntervals are those that the router asks for.
type BFDIntervals struct {
	// Transmit and Receive are the least times between two packets; 0 means 300 ms.
	Transmit, Receive time.Duration
	// Multiplier is how many packets in a row have to be lost; 0 means 3.
	Multiplier int
}

func (i BFDIntervals) orDefault() BFDIntervals {
	return BFDIntervals{
		Transmit:   cmp.Or(i.Transmit, 300*time.Millisecond),
		Receive:    cmp.Or(i.Receive, 300*time.Millisecond),
		Multiplier: cmp.Or(i.Multiplier, 3),
	}
}

// families are those whose routes the session carries.
func (n Neighbor) families() []Family {
	f := n.Family
	if f == "" {
		switch {
		case n.Addr.Is4(), n.Range.Addr().Is4():
			f = IPv4
		case n.Addr.Is6(), n.Range.Addr().Is6():
			f = IPv6
		default:
			f = Dual
		}
	}
	return choose(f, IPv4, IPv6)
}

// A Route is what a router knows of one path to a prefix.
type Route struct {
	// Prefix is where to.
	Prefix netip.Prefix
	// From is the address of the neighbour that told it, with its interface as zone when it is a link-local one.
	From netip.Addr
	// NextHops is NEXT_HOP, or what MP_REACH_NLRI has: in IPv6 a global address, a link-local one, or both.
	NextHops []netip.Addr
	// Origin is "IGP", "EGP" or "incomplete".
	Origin string
	// ASPath is AS_PATH, the neighbour first.
	ASPath []uint32
	// LocalPref is LOCAL_PREF as the router uses it; 100 where neither the neighbour nor a policy has set it.
	LocalPref uint32
	// MED is MULTI_EXIT_DISC; 0 when there is none.
	MED uint32
	// Communities are written as in "65000:1", RFC 1997, and well-known ones by their numbers too.
	Communities []string
	// LargeCommunities are written as in "65000:1:2", RFC 8092.
	LargeCommunities []string
	// ExtCommunities are written as in "rt:65000:1", "ro:65000:1" and "lb:65000:125000", the last in bytes a second.
	ExtCommunities []string
	// Best says that it is the best path; Multipath that it is it, or used beside it.
	Best, Multipath bool
	// Stale says that the neighbour restarts.
	Stale bool
}

// A Session is what a router knows of one neighbour.
type Session struct {
	// Peer is the neighbour's address; the zero Addr while it is not known.
	Peer netip.Addr
	// Name is what the program calls the session: FRR by address or interface, BIRD by protocol.
	Name string
	// AS is the neighbour's.
	AS uint32
	// State is one of RFC 4271 section 8.2.2.
	State string
	// Since is when it was established; the zero Time when it is not. FRR counts by the second, and not always the same.
	Since time.Time
	// Hold and Keepalive are the times that were negotiated.
	Hold, Keepalive time.Duration
	// Capabilities are what the neighbour can do, sorted: "4-octet AS", "extended next hop", "graceful restart",
	// "IPv4", "IPv6", "route refresh" and what else the program names.
	Capabilities []string
	// Accepted is how many of the neighbour's prefixes are accepted.
	Accepted int
	// Flaps is how often it went down.
	Flaps int
	// Reason is why it last went down, in the program's words.
	Reason string
}

// Established reports whether the session is.
func (s Session) Established() bool { return s.State == established }

const established = "Established"

// A SessionChange is a session that has come up or gone down, out of the program's log.
type SessionChange struct {
	// Time is the log line's.
	Time time.Time
	// Peer is the neighbour's address; the zero Addr for an Interface of FRR.
	Peer netip.Addr
	// Name is what the program calls the session.
	Name string
	// Up is true when the session is established, false when it no longer is.
	Up bool
	// Reason is why it went, in the program's words.
	Reason string
}

// A BFDSession is what a router knows of one neighbour by BFD.
type BFDSession struct {
	// Peer is the neighbour's address.
	Peer netip.Addr
	// State is one of RFC 5880 section 6.2: "Up", "Down", "Init", "AdminDown".
	State string
	// Multihop says that it is RFC 5883's.
	Multihop bool
	// Transmit is how often the router sends now, Detection after how long without a packet it takes the neighbour for
	// gone.
	Transmit, Detection time.Duration
	// RemoteTransmit, RemoteReceive and RemoteMultiplier are what the neighbour has said; BIRD does not tell.
	RemoteTransmit, RemoteReceive time.Duration
	RemoteMultiplier              int
	// Diagnostic is why it is not up, in FRR's words.
	Diagnostic string
}

// A Router is a host with BGP and forwarding, between the lab's network and a client's.
type Router struct {
	*Host
	// Kind is the program that speaks.
	Kind RouterKind
	// Client is a host behind the router: in 10.20.N.0/24 and fd00:10:20:N::/64, N from 0, for the lab's first router.
	Client *Host

	number  int // from 0
	program program

	mu   sync.Mutex // guards opts
	opts RouterOptions
}

// A program is what the kinds do differently.
type program interface {
	// start writes the configuration, starts what is to run, and returns when it answers.
	start(ctx context.Context, o RouterOptions) error
	// change makes what runs go on by another configuration.
	change(ctx context.Context, from, to RouterOptions) error
	command(ctx context.Context, line string) (string, error)
	routes(ctx context.Context, prefix netip.Prefix) ([]Route, error)
	sessions(ctx context.Context) ([]Session, error)
	bfd(ctx context.Context) ([]BFDSession, error)
	changes() ([]SessionChange, error)
	// reset ends the session in a way that lets it come back.
	reset(ctx context.Context, s Session) error
}

// The routers' second network.
const (
	clientLink = "eth1"
	clientNet4 = "10.20.%d."
	clientNet6 = "fd00:10:20:%d::"
)

// clientAddrs are the addresses of the host with that number in the network behind the router.
func (r *Router) clientAddrs(number int) []netip.Prefix {
	v4 := netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf(clientNet4+"%d", r.number, number)), bits4)
	v6 := netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf(clientNet6+"%d", r.number, number)), bits6)
	return choose(r.lab.opts.Family, v4, v6)
}

// CheckRouter returns the reason why this machine cannot run such a router, nil when it can.
func CheckRouter(kind RouterKind) error {
	var errs []error
	switch kind {
	case FRR:
		for _, name := range []string{"zebra", "bgpd", "bfdd"} {
			_, err := frrDaemon(name)
			errs = append(errs, err)
		}
		_, err := Tool("vtysh")
		errs = append(errs, err)
	case BIRD:
		for _, name := range []string{"bird", "birdc"} {
			_, err := Tool(name)
			errs = append(errs, err)
		}
	default:
		errs = append(errs, fmt.Errorf("there is no kind of router %q", kind))
	}
	return errors.Join(errs...)
}

// StartRouter adds a router to the lab and returns when its program answers. Its sessions come up when they do. The nodes
// and the lab's other hosts have a route to its client's network.
func (l *Lab) StartRouter(ctx context.Context, o RouterOptions) (*Router, error) {
	if err := CheckRouter(o.Kind); err != nil {
		return nil, fmt.Errorf("start a router: %w", err)
	}
	l.mu.Lock()
	number := len(l.routers)
	r := &Router{Kind: o.Kind, number: number}
	l.routers = append(l.routers, r)
	l.mu.Unlock()
	o.Name = cmp.Or(o.Name, string(o.Kind))
	o.AS = cmp.Or(o.AS, 65000)
	o.MaxPaths = cmp.Or(o.MaxPaths, 16)
	o.Port = cmp.Or(o.Port, bgpPort)
	if !o.ID.IsValid() {
		o.ID = netip.MustParseAddr(fmt.Sprint(network4, hostRouter+number))
	}
	r.opts = o
	if err := l.connectRouter(r, o.Name); err != nil {
		return nil, fmt.Errorf("start the router %s: %w", o.Name, err)
	}
	switch o.Kind {
	case FRR:
		r.program = &frr{r}
	case BIRD:
		r.program = &bird{r}
	}
	if err := r.Start(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

const bgpPort = 179

// connectRouter makes the router's host and its client's, and the routes between the networks.
func (l *Lab) connectRouter(r *Router, name string) error {
	if l.Host(name) != nil {
		return errors.New("there is a host of that name")
	}
	h, err := l.newHost(name, uplink)
	if err != nil {
		return err
	}
	h.MAC, h.Addrs = mac(hostRouter+r.number), l.addrs(hostRouter+r.number)
	l.mu.Lock()
	r.Host = h
	l.mu.Unlock()
	if r.Client, err = l.newHost(name+"-client", uplink); err != nil {
		return err
	}
	for _, h := range []*Host{h, r.Client} {
		// Before its link-local address has passed duplicate address detection a host cannot ask for a neighbour.
		if err := h.Sysctl("net/ipv6/conf/default/accept_dad", "0"); err != nil {
			return err
		}
	}
	for _, s := range []string{
		"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding",
		"net/ipv4/fib_multipath_hash_policy", "net/ipv6/fib_multipath_hash_policy", // 1: by ports too
	} {
		if err := h.Sysctl(s, "1"); err != nil {
			return err
		}
	}
	if err := h.plug(); err != nil {
		return err
	}
	if err := r.plugClient(); err != nil {
		return err
	}
	hosts := []*Host{l.Client, l.Watcher}
	for _, n := range l.Nodes {
		hosts = append(hosts, n.Host)
	}
	for _, other := range l.allRouters() {
		hosts = append(hosts, other.Host)
	}
	for _, h := range hosts {
		if err := h.routeBy(r); err != nil {
			return err
		}
	}
	return nil
}

// plugClient makes the cable between the router and its client.
func (r *Router) plugClient() error {
	c := r.Client
	c.MAC, c.Addrs = net.HardwareAddr{0x02, 0, 0x0a, 0x14, byte(r.number), 2}, r.clientAddrs(2)
	cable := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: clientLink},
		PeerName:  c.Link, PeerHardwareAddr: c.MAC, PeerNamespace: netlink.NsFd(c.fd),
	}
	if err := r.handle.LinkAdd(cable); err != nil {
		return fmt.Errorf("make the cable of %s: %w", c.Name, err)
	}
	end, err := c.link(c.Link)
	if err != nil {
		return err
	}
	if err := r.handle.LinkSetUp(cable); err != nil {
		return fmt.Errorf("set %s up on %s: %w", clientLink, r.Name, err)
	}
	if err := c.handle.LinkSetUp(end); err != nil {
		return fmt.Errorf("set %s up on %s: %w", c.Link, c.Name, err)
	}
	for i, p := range r.clientAddrs(1) {
		if err := r.AddAddress(clientLink, p); err != nil {
			return err
		}
		if err := c.AddAddress(c.Link, c.Addrs[i]); err != nil {
			return err
		}
		if err := c.handle.RouteReplace(&netlink.Route{LinkIndex: end.Attrs().Index, Gw: p.Addr().AsSlice()}); err != nil {
			return fmt.Errorf("route %s by %s: %w", c.Name, p.Addr(), err)
		}
	}
	return nil
}

// Cable makes a link between the router and a host with nobody else on it, and none but link-local addresses, for
// neighbours without others ("unnumbered"). It returns its names on the router and on the host.
func (r *Router) Cable(h *Host) (own, theirs string, err error) {
	own, theirs = "to-"+h.Name, "to-"+r.Name
	// The ends have the MACs of the other links, so that the link-local addresses are known to be the hosts'.
	cable := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: own, HardwareAddr: r.MAC},
		PeerName:  theirs, PeerHardwareAddr: h.MAC, PeerNamespace: netlink.NsFd(h.fd),
	}
	if err := r.handle.LinkAdd(cable); err != nil {
		return "", "", fmt.Errorf("make a cable between %s and %s: %w", r.Name, h.Name, err)
	}
	for link, on := range map[string]*Host{own: r.Host, theirs: h} {
		if err := on.Sysctl("net/ipv6/conf/"+link+"/accept_dad", "0"); err != nil {
			return "", "", err
		}
		end, err := on.link(link)
		if err != nil {
			return "", "", err
		}
		if err := on.handle.LinkSetUp(end); err != nil {
			return "", "", fmt.Errorf("set %s up on %s: %w", link, on.Name, err)
		}
	}
	return own, theirs, nil
}

// allRouters are the routers that there are now.
func (l *Lab) allRouters() []*Router {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.routers), func(r *Router) bool { return r.Host == nil })
}

// routeBy sends what the host has for the router's client by the router. A host without its link has the route when the
// link is there again.
func (h *Host) routeBy(r *Router) error {
	if h == r.Host {
		return nil
	}
	link, err := h.handle.LinkByName(h.Link)
	if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find %s on %s: %w", h.Link, h.Name, err)
	}
	for i, p := range r.clientAddrs(0) {
		via := r.Addrs[i].Addr()
		if err := h.handle.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(p), Gw: via.AsSlice()}); err != nil {
			return fmt.Errorf("route %s on %s by %s: %w", p, h.Name, via, err)
		}
	}
	return nil
}

// NodeNeighbors are neighbours like n at the first address of each of the lab's nodes.
func (l *Lab) NodeNeighbors(n Neighbor) []Neighbor {
	var all []Neighbor
	for _, node := range l.Nodes {
		n.Addr = node.Addr()
		all = append(all, n)
	}
	return all
}

// options are what the router runs by.
func (r *Router) options() RouterOptions {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opts
}

// Start starts the router's program again after Kill or Stop, and returns when it answers.
func (r *Router) Start(ctx context.Context) error {
	r.revive()
	if err := r.program.start(ctx, r.options()); err != nil {
		return fmt.Errorf("start %s: %w", r.Name, err)
	}
	return nil
}

// Kill ends the router's program with SIGKILL. Its kernel keeps forwarding by the routes that it has.
func (r *Router) Kill() { r.kill() }

// routerGrace is how long a program may take to say goodbye to its neighbours.
const routerGrace = 5 * time.Second

// Pause stops the router's program where it stands (SIGSTOP), Resume lets it go on. Its kernel keeps forwarding.
func (r *Router) Pause() error { return r.signalAll(unix.SIGSTOP) }

// Resume is the end of Pause.
func (r *Router) Resume() error { return r.signalAll(unix.SIGCONT) }

// Stop asks the router's program to end with SIGTERM: it tells its neighbours, and takes its routes out of the kernel.
func (r *Router) Stop() error {
	r.Host.mu.Lock()
	r.down = true
	var procs []*Process
	for p := range r.procs {
		procs = append(procs, p)
	}
	r.Host.mu.Unlock()
	// zebra goes last: it takes what the others have in the kernel away when they end.
	slices.SortFunc(procs, func(a, b *Process) int { return cmp.Compare(a.Name, b.Name) })
	var errs []error
	for _, p := range procs {
		errs = append(errs, p.Stop(routerGrace))
	}
	return errors.Join(errs...)
}

// Configure changes the router's configuration while it runs: change gets a copy of what it runs by. Sessions of which
// nothing has changed stay.
func (r *Router) Configure(ctx context.Context, change func(*RouterOptions)) error {
	from := r.options()
	to := from
	to.Neighbors, to.Announce, to.Extra = slices.Clone(from.Neighbors), slices.Clone(from.Announce), slices.Clone(from.Extra)
	change(&to)
	if err := r.program.change(ctx, from, to); err != nil {
		return fmt.Errorf("configure %s: %w", r.Name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opts = to
	return nil
}

// Command gives the program a line as an operator would, in vtysh or birdc, and returns what it answered.
func (r *Router) Command(ctx context.Context, line string) (string, error) {
	return r.program.command(ctx, line)
}

// Routes are all paths that the router's BGP knows to just this prefix, the best one first; none when it knows none.
func (r *Router) Routes(ctx context.Context, prefix netip.Prefix) ([]Route, error) {
	routes, err := r.program.routes(ctx, prefix.Masked())
	if err != nil {
		return nil, fmt.Errorf("show %s on %s: %w", prefix, r.Name, err)
	}
	slices.SortStableFunc(routes, func(a, b Route) int {
		if a.Best != b.Best {
			if a.Best {
				return -1
			}
			return 1
		}
		return a.From.Compare(b.From)
	})
	return routes, nil
}

// Sessions are those that the router has or tries to have, by address.
func (r *Router) Sessions(ctx context.Context) ([]Session, error) {
	sessions, err := r.program.sessions(ctx)
	if err != nil {
		return nil, fmt.Errorf("show the sessions of %s: %w", r.Name, err)
	}
	slices.SortStableFunc(sessions, func(a, b Session) int { return a.Peer.Compare(b.Peer) })
	return sessions, nil
}

// Session is the one with that neighbour; false when the router knows of none. A link-local address is given with its
// interface as zone.
func (r *Router) Session(ctx context.Context, peer netip.Addr) (Session, bool, error) {
	sessions, err := r.Sessions(ctx)
	if err != nil {
		return Session{}, false, err
	}
	for _, s := range sessions {
		if s.Peer == peer {
			return s, true, nil
		}
	}
	return Session{}, false, nil
}

// BFD are the router's BFD sessions, by address.
func (r *Router) BFD(ctx context.Context) ([]BFDSession, error) {
	sessions, err := r.program.bfd(ctx)
	if err != nil {
		return nil, fmt.Errorf("show BFD on %s: %w", r.Name, err)
	}
	slices.SortStableFunc(sessions, func(a, b BFDSession) int { return a.Peer.Compare(b.Peer) })
	return sessions, nil
}

// Changes are the sessions' comings and goings since the router was first started, in their order.
func (r *Router) Changes() ([]SessionChange, error) { return r.program.changes() }

// flaps are how often the session went down; one of a range is another each time it comes.
func (s Session) flaps(changes []SessionChange) int {
	n := 0
	for _, c := range changes {
		if !c.Up && (c.Name == s.Name || c.Peer.IsValid() && c.Peer == s.Peer) {
			n++
		}
	}
	return n
}

// ResetSession ends the session with that neighbour in a way that lets it come back.
func (r *Router) ResetSession(ctx context.Context, peer netip.Addr) error {
	s, ok, err := r.Session(ctx, peer)
	if err == nil && !ok {
		err = errors.New("there is none")
	}
	if err == nil {
		err = r.program.reset(ctx, s)
	}
	if err != nil {
		return fmt.Errorf("reset the session of %s with %s: %w", r.Name, peer, err)
	}
	return nil
}

// routerPoll is how often a router is asked: each time a program is started.
const routerPoll = 50 * time.Millisecond

// waitSlowly is Wait for conditions that cost something to look at.
func waitSlowly(ctx context.Context, what string, cond func() (bool, error)) error {
	var last time.Time
	return Wait(ctx, what, func() (bool, error) {
		if time.Since(last) < routerPoll {
			return false, nil
		}
		ok, err := cond()
		last = time.Now()
		return ok, err
	})
}

// WaitSessions waits until the router has established sessions with exactly these neighbours, in any order.
func (r *Router) WaitSessions(ctx context.Context, peers ...netip.Addr) error {
	want := sorted(slices.Clone(peers))
	var have []Session
	err := waitSlowly(ctx, fmt.Sprintf("%s has sessions with %v", r.Name, want), func() (bool, error) {
		var err error
		have, err = r.Sessions(ctx)
		var up []netip.Addr
		for _, s := range have {
			if s.Established() {
				up = append(up, s.Peer)
			}
		}
		return slices.Equal(sorted(up), want), err
	})
	if err != nil {
		return fmt.Errorf("%w (has %s)", err, describe(have))
	}
	return nil
}

func describe(sessions []Session) string {
	text := "none"
	for i, s := range sessions {
		if i == 0 {
			text = ""
		} else {
			text += ", "
		}
		text += fmt.Sprintf("%s %s", cmp.Or(s.Name, s.Peer.String()), s.State)
		if s.Reason != "" {
			text += " (" + s.Reason + ")"
		}
	}
	return text
}

// WaitRoute waits until the router's kernel sends what goes to the prefix by exactly these next hops, in any order; none
// mean until it has no route for it. A host's link-local address counts as its other ones.
func (r *Router) WaitRoute(ctx context.Context, prefix netip.Prefix, hops ...netip.Addr) error {
	want := r.lab.Names(hops)
	var have []string
	err := Wait(ctx, fmt.Sprintf("%s goes by %v on %s", prefix, want, r.Name), func() (bool, error) {
		hops, err := r.KernelRoute(prefix)
		have = r.lab.Names(hops)
		return slices.Equal(have, want), err
	})
	if err != nil {
		return fmt.Errorf("%w (goes by %v)", err, have)
	}
	return nil
}

// spawn starts one of the router's programs, with its output in a log of its own.
func (r *Router) spawn(name string, s Spec) (*Process, error) {
	log, err := os.OpenFile(r.logFile(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	s.Out = log
	s.Env = append(s.Env, "TZ=UTC") // of the times in the log
	return r.Spawn(s)
}

func (r *Router) logFile(name string) string { return filepath.Join(r.lab.Dir, r.Name, name+".log") }

// A logLine is one of a program's log: when it was written, and the expression's groups behind the time.
type logLine struct {
	time   time.Time
	groups []string
}

// logLines are those of a log that match; the expression's first group is the time, in UTC.
func logLines(log []byte, line *regexp.Regexp, layout string) ([]logLine, error) {
	var lines []logLine
	for text := range strings.Lines(string(log)) {
		m := line.FindStringSubmatch(strings.TrimSuffix(text, "\n"))
		if m == nil {
			continue
		}
		at, err := time.ParseInLocation(layout, m[1], time.UTC)
		if err != nil {
			return nil, err
		}
		lines = append(lines, logLine{at, m[2:]})
	}
	return lines, nil
}

// folder makes a folder of the router's own.
func (r *Router) folder(name string) (string, error) {
	dir := filepath.Join(r.lab.Dir, r.Name, name)
	return dir, os.MkdirAll(dir, 0o755)
}

// waitSocket waits until the process listens there, and fails when it ends.
func waitSocket(ctx context.Context, p *Process, path string) error {
	return Wait(ctx, p.Name+" listens", func() (bool, error) {
		if !p.Running() {
			return false, errors.New("it has ended")
		}
		st, err := os.Stat(path)
		return err == nil && st.Mode().Type()&os.ModeSocket != 0, nil
	})
}

// removeSocket takes away what a program that was killed has left.
func removeSocket(path string) error {
	if err := unix.Unlink(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}
