package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// bird is a router's BIRD 2.
type bird struct{ r *Router }

// birdName is what the neighbour's protocol is called; those of a range get a number more each.
func (n Neighbor) birdName() string {
	name := n.Addr.String()
	switch {
	case n.Interface != "":
		name = n.Interface
	case n.Range.IsValid():
		name = "range-" + n.Range.Masked().String()
	}
	return "n_" + regexp.MustCompile(`[^0-9a-zA-Z]`).ReplaceAllString(name, "_")
}

// birdText is the configuration as BIRD reads it from its file.
func birdText(o RouterOptions) string {
	b := strings.Builder{}
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("log stderr all;")
	p("timeformat log iso long us;")
	p("timeformat protocol iso long us;")
	p("router id %s;", o.ID)
	p("debug protocols { states, events };")
	p("protocol device {}")
	// Without lo: an address there that is announced would be a better route than the announcement, and not told.
	p("protocol direct { ipv4; ipv6; interface \"-lo\", \"*\"; }")
	p("protocol bfd {}")
	// RFC 8326 section 4.1: the receiver's part of a graceful shutdown.
	p("filter received { if (65535, 0) ~ bgp_community then bgp_local_pref = 0; accept; }")
	for _, f := range []string{"ipv4", "ipv6"} {
		p("protocol kernel kernel_%s { %s { import none; export where source = RTS_BGP; }; merge paths yes limit %d; }", f, f, o.MaxPaths)
		p("protocol static announce_%s { %s;", f, f)
		for _, prefix := range o.Announce {
			if prefix.Addr().Is4() == (f == "ipv4") {
				p("  route %s unreachable;", prefix.Masked())
			}
		}
		p("}")
	}
	for _, n := range o.Neighbors {
		p("protocol bgp %s {", n.birdName())
		source := ""
		if n.Source.IsValid() {
			source = n.Source.String() + " "
		}
		p("  local %sport %d as %d;", source, o.Port, cmp.Or(n.LocalAS, o.AS))
		as := "external"
		if n.AS != 0 {
			as = fmt.Sprintf("as %d", n.AS)
		}
		port := ""
		if n.Port != 0 {
			port = fmt.Sprintf("port %d ", n.Port)
		}
		switch {
		case n.Interface != "":
			p("  neighbor range fe80::/10 %s%s;\n  interface %q;\n  dynamic name \"%s_\";", port, as, n.Interface, n.birdName())
		case n.Range.IsValid():
			p("  neighbor range %s %s%s;\n  dynamic name \"%s_\";", n.Range.Masked(), port, as, n.birdName())
		default:
			p("  neighbor %s %s%s;", n.Addr, port, as)
		}
		if n.Password != "" {
			p("  password %q;", n.Password)
		}
		switch {
		case n.Multihop != 0:
			p("  multihop %d;", n.Multihop)
		case n.TTLSecurity > 1:
			p("  multihop %d;", n.TTLSecurity)
		default:
			p("  direct;")
		}
		if n.TTLSecurity != 0 {
			p("  ttl security on;")
		}
		if n.Passive {
			p("  passive on;")
		}
		if n.Hold != 0 {
			p("  hold time %d;", n.Hold/time.Second)
		}
		if n.Keepalive != 0 {
			p("  keepalive time %d;", n.Keepalive/time.Second)
		}
		p("  connect delay time 1;\n  connect retry time 1;\n  error wait time 1, 1;")
		if n.GracefulRestart {
			p("  graceful restart aware;")
		} else {
			p("  graceful restart off;")
		}
		if n.BFD != nil {
			i := n.BFD.orDefault()
			p("  bfd { min tx interval %d ms; idle tx interval 1 s; min rx interval %d ms; multiplier %d; };",
				i.Transmit.Milliseconds(), i.Receive.Milliseconds(), i.Multiplier)
		}
		for _, l := range n.Extra {
			p("  %s", l)
		}
		for _, f := range n.families() {
			p("  %s {\n    import table on;\n    import filter received;\n    export where source = RTS_STATIC;", strings.ToLower(string(f)))
			if f == IPv4 && n.ExtendedNextHop {
				p("    extended next hop on;")
			}
			for _, l := range n.FamilyExtra {
				p("    %s", l)
			}
			p("  };")
		}
		p("}")
	}
	for _, l := range o.Extra {
		p("%s", l)
	}
	return b.String()
}

func (b *bird) config() string { return filepath.Join(b.r.lab.Dir, b.r.Name, "run", "bird.conf") }

func (b *bird) socket() string { return filepath.Join(b.r.lab.Dir, b.r.Name, "run", "bird.ctl") }

func (b *bird) start(ctx context.Context, o RouterOptions) error {
	if _, err := b.r.folder("run"); err != nil {
		return err
	}
	if err := os.WriteFile(b.config(), []byte(birdText(o)), 0o600); err != nil {
		return err
	}
	if err := removeSocket(b.socket()); err != nil {
		return err
	}
	p, err := b.r.spawn("bird", Spec{Path: "bird", Args: []string{"-f", "-c", b.config(), "-s", b.socket()}})
	if err != nil {
		return err
	}
	if err := waitSocket(ctx, p, b.socket()); err != nil {
		return err
	}
	return waitSlowly(ctx, "BIRD answers", func() (bool, error) {
		if !p.Running() {
			return false, errors.New("it has ended")
		}
		out, err := b.command(ctx, "show status")
		return err == nil && strings.Contains(out, "Daemon is up and running"), nil
	})
}

func (b *bird) command(ctx context.Context, line string) (string, error) {
	return b.r.Run(ctx, "birdc", append([]string{"-s", b.socket()}, strings.Fields(line)...)...)
}

func (b *bird) change(ctx context.Context, _, to RouterOptions) error {
	if err := os.WriteFile(b.config(), []byte(birdText(to)), 0o600); err != nil {
		return err
	}
	out, err := b.command(ctx, "configure")
	if err == nil && !strings.Contains(out, "Reconfigur") {
		err = errors.New(strings.TrimSpace(out))
	}
	return err
}

func (b *bird) reset(ctx context.Context, s Session) error {
	_, err := b.command(ctx, "restart "+s.Name)
	return err
}

// birdRoute is the line that begins a path: prefix, protocol, and whether it is the best one.
var birdRoute = regexp.MustCompile(`^(\S*)\s+(?:unicast|blackhole|unreachable|prohibit)\s+\[(\S+) [^]]*\](?: (\*))?`)

func (b *bird) routes(ctx context.Context, prefix netip.Prefix) ([]Route, error) {
	out, err := b.command(ctx, fmt.Sprintf("show route %s all", prefix))
	if err != nil {
		if strings.Contains(out, "Network not found") {
			err = nil
		}
		return nil, err
	}
	sessions, err := b.sessions(ctx)
	if err != nil {
		return nil, err
	}
	peers := map[string]netip.Addr{}
	for _, s := range sessions {
		peers[s.Name] = s.Peer
	}
	return birdRoutes(out, prefix, peers)
}

// birdRoutes reads what "show route all" prints.
func birdRoutes(out string, prefix netip.Prefix, peers map[string]netip.Addr) ([]Route, error) {
	var routes []Route
	for l := range strings.Lines(out) {
		l = strings.TrimRight(l, "\n")
		if m := birdRoute.FindStringSubmatch(l); m != nil {
			routes = append(routes, Route{Prefix: prefix, From: peers[m[2]], LocalPref: 100, Best: m[3] == "*"})
			continue
		}
		key, value, ok := strings.Cut(strings.TrimSpace(l), ": ")
		if !ok || len(routes) == 0 {
			continue
		}
		if err := routes[len(routes)-1].birdAttribute(key, value); err != nil {
			return nil, fmt.Errorf("read %q: %w", l, err)
		}
	}
	// Only what a neighbour has told: the router's own routes have no AS path attribute of BGP.
	routes = slices.DeleteFunc(routes, func(r Route) bool { return !r.From.IsValid() })
	if len(routes) > 0 {
		best := routes[0] // BIRD shows it first
		for i, r := range routes {
			routes[i].Multipath = r.Best || r.LocalPref == best.LocalPref && len(r.ASPath) == len(best.ASPath) && r.Origin == best.Origin && r.MED == best.MED
		}
	}
	return routes, nil
}

// birdAttribute reads one line about a path.
func (r *Route) birdAttribute(key, value string) error {
	number := func() (uint32, error) {
		n, err := strconv.ParseUint(value, 10, 32)
		return uint32(n), err
	}
	var err error
	switch key {
	case "BGP.origin":
		r.Origin = map[string]string{"Incomplete": "incomplete"}[value]
		if r.Origin == "" {
			r.Origin = value
		}
	case "BGP.as_path":
		for f := range strings.FieldsSeq(strings.Trim(value, "{}")) {
			n, err := strconv.ParseUint(f, 10, 32)
			if err != nil {
				return err
			}
			r.ASPath = append(r.ASPath, uint32(n))
		}
	case "BGP.next_hop":
		for f := range strings.FieldsSeq(value) {
			a, err := netip.ParseAddr(f)
			if err != nil {
				return err
			}
			r.NextHops = append(r.NextHops, a)
		}
	case "BGP.local_pref":
		r.LocalPref, err = number()
	case "BGP.med":
		r.MED, err = number()
	case "BGP.community":
		r.Communities = birdTuples(value)
	case "BGP.large_community":
		r.LargeCommunities = birdTuples(value)
	case "BGP.ext_community":
		for _, c := range birdTuples(value) {
			r.ExtCommunities = append(r.ExtCommunities, birdExtended(c))
		}
	}
	return err
}

// birdTuples reads "(65000,1) (65000, 1, 2)" as "65000:1" and "65000:1:2".
func birdTuples(value string) []string {
	var all []string
	for _, t := range regexp.MustCompile(`\(([^)]*)\)`).FindAllStringSubmatch(value, -1) {
		all = append(all, strings.ReplaceAll(strings.ReplaceAll(t[1], " ", ""), ",", ":"))
	}
	return all
}

// birdBandwidth is a link bandwidth as BIRD shows it, which does not know it: type 0x40 or 0x00, sub-type 4, the AS
// number, and bytes a second as a float (draft-ietf-idr-link-bandwidth).
var birdBandwidth = regexp.MustCompile(`^(?:unknown0x(?:40|00)?0?4:(\d+)|generic:0x(?:40|00)?0?4([0-9a-f]{4})):(\w+)$`)

// birdExtended makes of "unknown0x4004:65000:1207182336", a link bandwidth, "lb:65000:125000".
func birdExtended(c string) string {
	m := birdBandwidth.FindStringSubmatch(c)
	if m == nil {
		return c
	}
	as, err := strconv.ParseUint(m[1], 10, 16)
	if m[2] != "" {
		as, err = strconv.ParseUint(m[2], 16, 16)
	}
	value, err2 := strconv.ParseUint(m[3], 0, 32)
	if errors.Join(err, err2) != nil {
		return c
	}
	return fmt.Sprintf("lb:%d:%.0f", as, math.Float32frombits(uint32(value)))
}

func (b *bird) sessions(ctx context.Context) ([]Session, error) {
	out, err := b.command(ctx, "show protocols all")
	if err != nil {
		return nil, err
	}
	sessions, err := birdSessions(out)
	if err != nil {
		return nil, err
	}
	changes, err := b.changes()
	if err != nil {
		return nil, err
	}
	for i, s := range sessions {
		sessions[i].Flaps = s.flaps(changes)
	}
	return sessions, nil
}

// birdTime is how BIRD writes times ("iso long us").
const birdTime = "2006-01-02 15:04:05.999999"

// birdProtocol is the line that begins a protocol: name, kind, since when, what it says of itself.
var birdProtocol = regexp.MustCompile(`^(\S+)\s+(\S+)\s+\S+\s+(?:up|start|down|stop|flush)\s+(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?|\S+)\s*(.*)$`)

// birdSessions reads what "show protocols all" prints. What waits for neighbours out of a range is not one.
func birdSessions(out string) ([]Session, error) {
	var sessions []Session
	in, section := false, ""
	for l := range strings.Lines(out) {
		l = strings.TrimRight(l, "\n")
		if m := birdProtocol.FindStringSubmatch(l); m != nil {
			if in = m[2] == "BGP"; in {
				since, err := time.ParseInLocation(birdTime, m[3], time.UTC)
				if err != nil {
					return nil, fmt.Errorf("read %q: %w", l, err)
				}
				sessions, section = append(sessions, Session{Name: m[1], Since: since}), ""
			}
			continue
		}
		if !in {
			continue
		}
		s := &sessions[len(sessions)-1]
		text := strings.TrimSpace(l)
		key, value, _ := strings.Cut(text, ":")
		value = strings.TrimSpace(value)
		switch {
		case text == "Local capabilities", text == "Neighbor capabilities":
			section = text
		case key == "Session", strings.HasPrefix(text, "Channel "):
			section = ""
		case section == "Neighbor capabilities":
			s.Capabilities = append(s.Capabilities, birdCapability(key, value)...)
		}
		if err := s.birdLine(key, value); err != nil {
			return nil, fmt.Errorf("read %q: %w", l, err)
		}
	}
	sessions = slices.DeleteFunc(sessions, func(s Session) bool { return !s.Peer.IsValid() })
	for i := range sessions {
		s := &sessions[i]
		slices.Sort(s.Capabilities)
		s.Capabilities = slices.Compact(s.Capabilities)
		if !s.Established() {
			s.Since, s.Capabilities, s.Accepted = time.Time{}, nil, 0
		}
	}
	return sessions, nil
}

// birdCapability are the names of a line of the neighbour's capabilities.
func birdCapability(key, value string) []string {
	switch key {
	case "AF announced":
		var found []string
		for f := range strings.FieldsSeq(value) {
			switch f {
			case "ipv4":
				found = append(found, string(IPv4))
			case "ipv6":
				found = append(found, string(IPv6))
			}
		}
		return found
	case "4-octet AS numbers":
		return []string{"4-octet AS"}
	case "Extended next hop", "Graceful restart", "Route refresh", "Enhanced refresh", "Extended message", "Long-lived graceful restart":
		name := strings.ToLower(key[:1]) + key[1:]
		if key == "Enhanced refresh" {
			name = "enhanced route refresh"
		}
		return []string{name}
	}
	return nil
}

// birdLine reads one line about a session.
func (s *Session) birdLine(key, value string) (err error) {
	first, _, _ := strings.Cut(value, " ")
	seconds := func() time.Duration {
		_, whole, _ := strings.Cut(value, "/")
		n, _ := strconv.Atoi(whole)
		return time.Duration(n) * time.Second
	}
	switch key {
	case "BGP state":
		s.State = value
	case "Neighbor address":
		addr, zone, _ := strings.Cut(value, "%")
		s.Peer = zoned(addr, zone)
	case "Neighbor AS":
		var n uint64
		n, err = strconv.ParseUint(value, 10, 32)
		s.AS = uint32(n)
	case "Hold timer":
		s.Hold = seconds()
	case "Keepalive timer":
		s.Keepalive = seconds()
	case "Last error":
		s.Reason = value
	case "Routes":
		var n int
		n, err = strconv.Atoi(first)
		s.Accepted += n
	}
	return err
}

// birdLogged is a log line about a protocol, and birdPeer what names the neighbour in it.
var (
	birdLogged = regexp.MustCompile(`^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) <\w+> (\S+): (.*)$`)
	birdPeer   = regexp.MustCompile(`^(?:Incoming connection from|Connecting to) ([^ %]+)(?:%(\S+))? `)
)

func (b *bird) changes() ([]SessionChange, error) {
	log, err := os.ReadFile(b.r.logFile("bird"))
	if err != nil {
		return nil, err
	}
	return birdChanges(log)
}

// birdChanges reads the log.
func birdChanges(log []byte) ([]SessionChange, error) {
	type state struct {
		peer   netip.Addr
		up     bool
		reason string
	}
	lines, err := logLines(log, birdLogged, birdTime)
	if err != nil {
		return nil, fmt.Errorf("read BIRD's log: %w", err)
	}
	sessions := map[string]*state{}
	var changes []SessionChange
	for _, l := range lines {
		name, text := l.groups[0], l.groups[1]
		s := sessions[name]
		if s == nil {
			s = &state{}
			sessions[name] = s
			// The first connection of one of a range is told of in the name of the range.
			if parent := sessions[strings.TrimSuffix(strings.TrimRight(name, "0123456789"), "_")]; parent != nil {
				s.peer = parent.peer
			}
		}
		peer := birdPeer.FindStringSubmatch(text)
		switch {
		case peer != nil:
			s.peer = zoned(peer[1], peer[2])
		case text == "BGP session established":
			s.up, s.reason = true, ""
			changes = append(changes, SessionChange{Time: l.time, Peer: s.peer, Name: name, Up: true})
		case strings.HasPrefix(text, "Received: "), strings.HasPrefix(text, "Error: "), strings.HasPrefix(text, "Connection lost"), text == "BFD session down":
			s.reason = text
		case text == "BGP session closed" && s.up:
			s.up = false
			changes = append(changes, SessionChange{Time: l.time, Peer: s.peer, Name: name, Reason: s.reason})
		}
	}
	return changes, nil
}

// birdBFD is a line of "show bfd sessions": address, interface, state, since, interval, timeout.
var birdBFD = regexp.MustCompile(`^(\S+)\s+(\S+)\s+(Up|Down|Init|AdminDown)\s+(?:\d{4}-\d\d-\d\d )?\S+\s+([0-9.]+)\s+([0-9.]+)\s*$`)

func (b *bird) bfd(ctx context.Context) ([]BFDSession, error) {
	out, err := b.command(ctx, "show bfd sessions")
	if err != nil {
		return nil, err
	}
	var sessions []BFDSession
	for l := range strings.Lines(out) {
		m := birdBFD.FindStringSubmatch(strings.TrimRight(l, "\n"))
		if m == nil {
			continue
		}
		s := BFDSession{Peer: zoned(m[1], m[2]), State: m[3], Multihop: m[2] == "---"}
		for text, into := range map[string]*time.Duration{m[4]: &s.Transmit, m[5]: &s.Detection} {
			d, err := time.ParseDuration(text + "s")
			if err != nil {
				return nil, fmt.Errorf("read %q: %w", l, err)
			}
			*into = d
		}
		sessions = append(sessions, s)
	}
	return sessions, nil
}
