package kube

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// server is where an API server listens. It is comparable.
type server struct {
	scheme string // https or http
	host   string // name or IP address, without brackets, lower case
	port   uint16
	path   string // what a proxy in front of it wants before /api; empty or /something
}

// String is host:port, and the whole URL where that is not enough.
func (s server) String() string {
	hp := s.hostPort()
	if s.scheme == "https" && s.path == "" {
		return hp
	}
	return s.scheme + "://" + hp + s.path
}

func (s server) hostPort() string { return net.JoinHostPort(s.host, strconv.Itoa(int(s.port))) }

// url is the form that a kubeconfig has.
func (s server) url() string { return s.scheme + "://" + s.hostPort() + s.path }

// addr is the host as an address; the zero Addr when it is a name.
func (s server) addr() netip.Addr {
	ip, _ := netip.ParseAddr(s.host)
	return ip.Unmap()
}

// parseServer reads host, host:port, an IPv6 address with or without brackets, or an http(s) URL. A URL without
// a port has its scheme's, anything else without a port has the one given.
func parseServer(text string, port uint16) (server, error) {
	bad := func(why string) (server, error) {
		shown := text
		if i := strings.LastIndex(text, "@"); i >= 0 { // before it is a user, and maybe a password
			shown = "***" + text[i:]
		}
		return server{}, fmt.Errorf("%q is not the address of an API server: %s; want host, host:port or https://host:port", shown, why)
	}
	s := server{scheme: "https", port: port}
	host := text
	if scheme, _, ok := strings.Cut(text, "://"); ok {
		u, err := url.Parse(text)
		var ue *url.Error
		switch {
		case errors.As(err, &ue):
			return bad(ue.Err.Error())
		case err != nil:
			return bad(err.Error())
		case u.Scheme == "https":
			s.port = 443
		case u.Scheme == "http":
			s.port = 80
		default:
			return bad("scheme " + scheme)
		}
		switch {
		case u.User != nil:
			return bad("it has a user")
		case u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#"):
			return bad("it has a query or a fragment")
		case u.Host == "":
			return bad("it has no host")
		case u.RawPath != "" || strings.ContainsFunc(u.Path, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`%?#"<>\^{|}`, r) }):
			return bad("its path has characters that need escaping")
		}
		s.scheme, s.path = u.Scheme, strings.TrimRight(u.Path, "/")
		host = u.Host
	}
	if host == "" {
		return bad("it is empty")
	}

	if ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")); err == nil && (host[0] == '[') == (host[len(host)-1] == ']') {
		if host[0] == '[' && ip.Is4() {
			return bad("brackets are for IPv6 addresses")
		}
		s.host = ip.String()
	} else if h, p, err := net.SplitHostPort(host); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return bad("port " + strconv.Quote(p) + " is not between 1 and 65535")
		}
		s.host, s.port = h, uint16(n)
		ip, err := netip.ParseAddr(h)
		if err == nil {
			s.host = ip.String()
		}
		if host[0] == '[' && !ip.Is6() {
			return bad("brackets are for IPv6 addresses")
		}
	} else {
		s.host = host
	}
	s.host = strings.ToLower(s.host)

	switch ip, err := netip.ParseAddr(s.host); {
	case err == nil && ip.Zone() != "":
		return bad("addresses with a zone are not supported")
	case err == nil && (ip.IsUnspecified() || ip.IsMulticast()):
		return bad(s.host + " is no host's address")
	case err == nil:
	case strings.Contains(s.host, "/"):
		return bad("it has a path but no scheme")
	case !validName(s.host):
		return bad(strconv.Quote(s.host) + " is neither an IP address nor a host name")
	}
	return s, nil
}

// validName accepts what resolvers accept: RFC 1123 labels, and underscores, which are seen in the wild.
func validName(name string) bool {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			if !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
				return false
			}
		}
	}
	// All digits and dots would be an IP address mistyped: 10.0.0.300.
	return strings.ContainsFunc(name, func(r rune) bool { return r > '9' || r == '-' })
}

// endpoint is a server that may be dialled, and as what.
type endpoint struct {
	server
	local bool // it is this node's API server
	named bool // it is the one that the kubeconfig names: through its proxy, with its name in SNI
}

// endpoints returns the servers to dial, the best first, each once.
func (a *Access) endpoints(c *credential) []endpoint {
	o := a.opts
	if a.address != nil {
		return []endpoint{{server: *a.address}}
	}

	ownList, vipList := o.NodeAddrs(), o.VIPs()
	own, vips := addrSet(ownList), addrSet(vipList)
	loopback4, loopback6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	isLocal := func(ip netip.Addr) bool {
		return o.Local && (ip == loopback4 || ip == loopback6 || own[ip] && !vips[ip])
	}
	var list []endpoint
	seen := map[server]bool{}
	add := func(s server, named bool) {
		if !seen[s] {
			seen[s] = true
			list = append(list, endpoint{server: s, local: isLocal(s.addr()), named: named})
		}
	}
	addAddr := func(ip netip.Addr) {
		ip = ip.Unmap()
		// Link-local addresses come without the zone that they would need.
		if ip.IsValid() && !ip.IsUnspecified() && !ip.IsLinkLocalUnicast() && !ip.IsMulticast() {
			add(server{scheme: "https", host: ip.String(), port: o.Port}, false)
		}
	}

	if o.Local {
		addAddr(loopback4)
		addAddr(loopback6)
		for _, ip := range ownList {
			if !vips[ip.Unmap()] {
				addAddr(ip)
			}
		}
	}

	// A kubeconfig of kubeadm names the controlPlaneEndpoint. On a control-plane node a name is likely to stand
	// for the VIP, so it goes after the peers; elsewhere it is the way that the operator means.
	named, namedIP := c.server, c.server.addr()
	late := vips[namedIP] || o.Local && !namedIP.IsValid()
	if named.host != "" && !late {
		add(named, true)
	}
	for _, ip := range o.Peers() {
		if ip = ip.Unmap(); !vips[ip] && !own[ip] {
			addAddr(ip)
		}
	}
	if o.InClusterHost != "" {
		if s, err := inClusterServer(o); err == nil {
			add(s, false)
		}
	}
	if named.host != "" && late {
		add(named, true)
	}
	for _, ip := range vipList {
		if ip.Unmap() != namedIP {
			addAddr(ip)
		}
	}
	return list
}

func inClusterServer(o Options) (server, error) {
	return parseServer("https://"+net.JoinHostPort(o.InClusterHost, cmp.Or(o.InClusterPort, "443")), 443)
}

func addrSet(addrs []netip.Addr) map[netip.Addr]bool {
	set := make(map[netip.Addr]bool, len(addrs))
	for _, ip := range addrs {
		set[ip.Unmap()] = true
	}
	return set
}

// kind is how a server failed; a higher one costs more to find out again.
type kind int

const (
	refused kind = iota // nobody listens there: known at once, for nothing
	broken              // it does not speak as it should: reset, wrong certificate, 5xx
	silent              // it takes time and gives nothing
)

// failure is what is remembered of a server that failed last time.
type failure struct {
	kind  kind
	local bool
	times int
	until time.Time // it is not asked first before,
	asked time.Time // nor before this, while another request is finding out
}

// health remembers which servers failed lately. All clients share it.
type health struct {
	timing timing

	mu        sync.Mutex // guards the fields below
	failing   map[server]*failure
	localDown bool
}

// turn is an endpoint in the order in which to ask.
type turn struct {
	endpoint
	failed bool // it failed last time
}

// order sorts endpoints: first those that did not fail or whose cool-down is over, then the others, the ones
// that cost least first, and this node's server after all while SetLocalHealthy said that it is not to be used.
// Nothing is left out: what failed for another request may be all there is for this one.
func (h *health) order(now time.Time, list []endpoint) []turn {
	const afterAllKinds = 10
	h.mu.Lock()
	defer h.mu.Unlock()
	ranks := make(map[server]int, len(list))
	turns := make([]turn, len(list))
	for i, e := range list {
		f := h.failing[e.server]
		turns[i] = turn{endpoint: e, failed: f != nil}
		if f != nil && (now.Before(f.until) || now.Before(f.asked)) {
			ranks[e.server] = 1 + int(f.kind)
		}
		if e.local && h.localDown {
			ranks[e.server] += afterAllKinds
		}
	}
	slices.SortStableFunc(turns, func(a, b turn) int { return ranks[a.server] - ranks[b.server] })
	return turns
}

// ask is called before an endpoint is asked. If its cool-down is over, other requests leave it alone for a
// second: one is enough to find out.
func (h *health) ask(now time.Time, e endpoint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.failing[e.server]; f != nil {
		f.asked = now.Add(h.timing.coolMin)
	}
}

// fail puts an endpoint to the back. With silence or nonsense on one of this node's addresses all of them are
// put there, for one process listens on all; list has them.
func (h *health) fail(now time.Time, e endpoint, k kind, list []endpoint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, f := range h.failing {
		if now.Sub(f.until) > time.Hour { // no longer among the endpoints
			delete(h.failing, key)
		}
	}
	for _, other := range list {
		if other.server != e.server && (k == refused || !sameProcess(e, other)) {
			continue
		}
		f := h.failing[other.server]
		if f == nil {
			f = &failure{local: other.local}
			h.failing[other.server] = f
		}
		f.kind = k
		if now.Before(f.until) {
			continue // asked for want of a better one, or at the same time: no news
		}
		f.times++
		cool := h.timing.coolMin << min(f.times-1, 10)
		if k == refused && e.local {
			// It costs nothing to ask, and it is the best one when it is back.
			cool = h.timing.coolMin
		}
		f.until = now.Add(min(cool, h.timing.coolMax))
	}
}

// ok forgets what was held against an endpoint.
func (h *health) ok(e endpoint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.failing, e.server)
}

// setLocal reports whether it changed anything.
func (h *health) setLocal(ok bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.localDown == !ok {
		return false
	}
	h.localDown = !ok
	for key, f := range h.failing {
		if ok && f.local {
			delete(h.failing, key) // whoever says so has asked it
		}
	}
	return true
}

func sameProcess(a, b endpoint) bool { return a.local && b.local }
