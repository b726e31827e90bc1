package lab

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// frr is a router's zebra, bgpd and bfdd.
type frr struct{ r *Router }

// frrDaemon finds a daemon where distributions put them.
func frrDaemon(name string) (string, error) {
	for _, dir := range []string{"/usr/lib/frr", "/usr/libexec/frr"} {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", fmt.Errorf("FRR's %s is not installed: run `make tools`", name)
}

// An frrBlock is a part of the configuration: what leads to it, and its lines.
type frrBlock struct {
	enter []string
	lines []frrLine
	leave string // behind the lines; empty at the top
}

// An frrLine is a command and what takes it back. Lines that are taken back by the same command replace each other.
type frrLine struct{ set, unset string }

func line(format string, args ...any) frrLine {
	set := fmt.Sprintf(format, args...)
	return frrLine{set, "no " + set}
}

// frrName is what FRR calls the neighbour: by address or interface; a range is a peer group.
func (n Neighbor) frrName() string {
	switch {
	case n.Interface != "":
		return n.Interface
	case n.Range.IsValid():
		return "range-" + n.Range.Masked().String()
	}
	return n.Addr.String()
}

// frrProfile names the BFD intervals.
func (i BFDIntervals) frrProfile() string {
	i = i.orDefault()
	return fmt.Sprintf("t%d-r%d-m%d", i.Transmit.Milliseconds(), i.Receive.Milliseconds(), i.Multiplier)
}

// frrBGP are bgpd's blocks.
func frrBGP(o RouterOptions) []frrBlock {
	router := []string{fmt.Sprintf("router bgp %d", o.AS)}
	top := frrBlock{enter: router, leave: "exit", lines: []frrLine{
		line("bgp router-id %s", o.ID),
		line("bgp log-neighbor-changes"),
		{"no bgp ebgp-requires-policy", "bgp ebgp-requires-policy"},
		{"no bgp network import-check", "bgp network import-check"},
		{"no bgp default ipv4-unicast", "bgp default ipv4-unicast"},
		line("bgp bestpath as-path multipath-relax"),
	}}
	families := map[Family]*frrBlock{}
	for f, name := range map[Family]string{IPv4: "ipv4", IPv6: "ipv6"} {
		families[f] = &frrBlock{
			enter: append(slices.Clone(router), "address-family "+name+" unicast"), leave: "exit-address-family",
			lines: []frrLine{
				{fmt.Sprintf("maximum-paths %d", o.MaxPaths), "no maximum-paths"},
				{fmt.Sprintf("maximum-paths ibgp %d", o.MaxPaths), "no maximum-paths ibgp"},
			},
		}
	}
	for _, p := range o.Announce {
		f := families[IPv6]
		if p.Addr().Is4() {
			f = families[IPv4]
		}
		f.lines = append(f.lines, line("network %s", p.Masked()))
	}
	for _, n := range o.Neighbors {
		top.lines = append(top.lines, n.frrLines()...)
		for _, f := range n.families() {
			families[f].lines = append(families[f].lines, n.frrFamilyLines()...)
		}
	}
	return []frrBlock{top, *families[IPv4], *families[IPv6]}
}

// frrLines are those about the neighbour in "router bgp". The first one makes it.
func (n Neighbor) frrLines() []frrLine {
	name := n.frrName()
	as := "external"
	if n.AS != 0 {
		as = strconv.FormatUint(uint64(n.AS), 10)
	}
	var lines []frrLine
	add := func(set, unset string) {
		lines = append(lines, frrLine{"neighbor " + name + " " + set, "no neighbor " + name + " " + unset})
	}
	switch {
	case n.Interface != "":
		lines = append(lines, frrLine{fmt.Sprintf("neighbor %s interface remote-as %s", name, as), "no neighbor " + name + " interface"})
	case n.Range.IsValid():
		lines = append(lines, frrLine{"neighbor " + name + " peer-group", "no neighbor " + name + " peer-group"})
		add("remote-as "+as, "remote-as")
		lines = append(lines, line("bgp listen range %s peer-group %s", n.Range.Masked(), name))
	default:
		lines = append(lines, frrLine{fmt.Sprintf("neighbor %s remote-as %s", name, as), "no neighbor " + name})
	}
	if n.LocalAS != 0 {
		add(fmt.Sprintf("local-as %d no-prepend replace-as", n.LocalAS), "local-as")
	}
	if n.Password != "" {
		add("password "+n.Password, "password")
	}
	if n.Multihop != 0 {
		add(fmt.Sprintf("ebgp-multihop %d", n.Multihop), "ebgp-multihop")
	}
	if n.TTLSecurity != 0 {
		add(fmt.Sprintf("ttl-security hops %d", n.TTLSecurity), fmt.Sprintf("ttl-security hops %d", n.TTLSecurity))
	}
	if n.Passive {
		add("passive", "passive")
	}
	if n.Source.IsValid() {
		add("update-source "+n.Source.String(), "update-source")
	}
	if n.Port != 0 {
		add(fmt.Sprintf("port %d", n.Port), "port")
	}
	if n.Hold != 0 || n.Keepalive != 0 {
		hold := cmp.Or(n.Hold, 3*n.Keepalive)
		keepalive := cmp.Or(n.Keepalive, hold/3)
		add(fmt.Sprintf("timers %d %d", keepalive/time.Second, hold/time.Second), "timers")
	}
	add("timers connect 1", "timers connect")
	add("advertisement-interval 0", "advertisement-interval")
	if n.ExtendedNextHop {
		add("capability extended-nexthop", "capability extended-nexthop")
	}
	if n.GracefulRestart {
		add("graceful-restart-helper", "graceful-restart-helper")
	} else {
		add("graceful-restart-disable", "graceful-restart-disable")
	}
	if n.BFD != nil {
		add("bfd", "bfd")
		add("bfd profile "+n.BFD.frrProfile(), "bfd profile")
	}
	for _, l := range n.Extra {
		add(l, l)
	}
	return lines
}

// frrFamilyLines are those about the neighbour in an address family.
func (n Neighbor) frrFamilyLines() []frrLine {
	name := n.frrName()
	lines := []frrLine{line("neighbor %s activate", name), line("neighbor %s soft-reconfiguration inbound", name)}
	for _, l := range n.FamilyExtra {
		lines = append(lines, line("neighbor %s %s", name, l))
	}
	return lines
}

// frrBFD are bfdd's blocks: a profile for each set of intervals.
func frrBFD(o RouterOptions) []frrBlock {
	var blocks []frrBlock
	seen := map[string]bool{}
	for _, n := range o.Neighbors {
		if n.BFD == nil || seen[n.BFD.frrProfile()] {
			continue
		}
		seen[n.BFD.frrProfile()] = true
		i := n.BFD.orDefault()
		blocks = append(blocks, frrBlock{enter: []string{"bfd", "profile " + n.BFD.frrProfile()}, leave: "exit", lines: []frrLine{
			line("transmit-interval %d", i.Transmit.Milliseconds()),
			line("receive-interval %d", i.Receive.Milliseconds()),
			line("detect-multiplier %d", i.Multiplier),
		}})
	}
	return blocks
}

// frrText is the configuration as a daemon reads it from its file.
func frrText(blocks []frrBlock, extra []string) string {
	b := strings.Builder{}
	b.WriteString("log timestamp precision 6\n")
	for _, block := range blocks {
		for i, l := range block.enter {
			fmt.Fprintf(&b, "%s%s\n", strings.Repeat(" ", i), l)
		}
		for _, l := range block.lines {
			fmt.Fprintf(&b, "%s%s\n", strings.Repeat(" ", len(block.enter)), l.set)
		}
		fmt.Fprintf(&b, "%s%s\n", strings.Repeat(" ", len(block.enter)-1), block.leave)
		for i := len(block.enter) - 2; i >= 0; i-- {
			fmt.Fprintf(&b, "%sexit\n", strings.Repeat(" ", i))
		}
	}
	for _, l := range extra {
		fmt.Fprintln(&b, l)
	}
	return b.String()
}

// frrChange are the commands, each list from the top of the configuration, that make one configuration of another.
func frrChange(from, to RouterOptions) [][]string {
	var all [][]string
	old, blocks := slices.Concat(frrBFD(from), frrBGP(from)), slices.Concat(frrBFD(to), frrBGP(to))
	lines := func(blocks []frrBlock, enter []string) []frrLine {
		for _, b := range blocks {
			if slices.Equal(b.enter, enter) {
				return b.lines
			}
		}
		return nil
	}
	gone := map[string]bool{} // neighbours: what is about them goes with them
	for _, n := range from.Neighbors {
		gone[n.frrName()] = !slices.ContainsFunc(to.Neighbors, func(m Neighbor) bool { return m.frrName() == n.frrName() })
	}
	about := func(l frrLine) string {
		fields := strings.Fields(l.set)
		if len(fields) > 1 && fields[0] == "neighbor" {
			return fields[1]
		}
		return ""
	}
	var removed []string
	for name, is := range gone {
		if is {
			removed = append(removed, name)
		}
	}
	slices.Sort(removed)
	router := fmt.Sprintf("router bgp %d", to.AS)
	for _, n := range from.Neighbors {
		if !gone[n.frrName()] {
			continue
		}
		if n.Range.IsValid() {
			all = append(all, []string{router, fmt.Sprintf("no bgp listen range %s peer-group %s", n.Range.Masked(), n.frrName())})
		}
		all = append(all, []string{router, n.frrLines()[0].unset})
	}
	for _, b := range old {
		if b.enter[0] == "bfd" {
			continue // a profile that nobody uses does nothing
		}
		for _, l := range slices.Backward(b.lines) {
			replaced := slices.ContainsFunc(lines(blocks, b.enter), func(m frrLine) bool { return m.unset == l.unset })
			if !replaced && !slices.Contains(removed, about(l)) && !strings.HasPrefix(l.set, "bgp listen range") {
				all = append(all, append(slices.Clone(b.enter), l.unset))
			}
		}
	}
	for _, b := range blocks {
		have := lines(old, b.enter)
		for _, l := range b.lines {
			if !slices.Contains(have, l) {
				all = append(all, append(slices.Clone(b.enter), l.set))
			}
		}
	}
	var extra []string
	for _, l := range to.Extra {
		if !slices.Contains(from.Extra, l) {
			extra = append(extra, l)
		}
	}
	if len(extra) > 0 {
		all = append(all, extra)
	}
	return all
}

// sockets is the folder where the daemons listen for vtysh and each other.
func (f *frr) sockets() string { return filepath.Join(f.r.lab.Dir, f.r.Name, "run") }

func (f *frr) start(ctx context.Context, o RouterOptions) error {
	dir, err := f.r.folder("run")
	if err != nil {
		return err
	}
	// The daemons want a group for those who may talk to them, with their user in it.
	if err := os.WriteFile(f.r.Path("/etc/group"), []byte("root:x:0:\nfrrvty:x:0:root\n"), 0o644); err != nil {
		return err
	}
	zserv := filepath.Join(dir, "zserv.api")
	for _, d := range []struct {
		name   string
		config string
		args   []string
	}{
		// Without the last one it takes an IPv6 route away before it puts it back with other next hops. What it keeps as
		// objects of the kernel it may lose then.
		{"zebra", frrText(nil, []string{"no zebra nexthop kernel enable"}), []string{"-s", strconv.Itoa(watchBuffer), "--v6-rr-semantics"}},
		{"bfdd", frrText(frrBFD(o), nil), []string{"--bfdctl", filepath.Join(dir, "bfdd.sock")}},
		{"bgpd", frrText(frrBGP(o), o.Extra), []string{"-p", strconv.Itoa(int(o.Port))}},
	} {
		path, err := frrDaemon(d.name)
		if err != nil {
			return err
		}
		config := filepath.Join(dir, d.name+".conf")
		if err := os.WriteFile(config, []byte(d.config), 0o600); err != nil {
			return err
		}
		vty := filepath.Join(dir, d.name+".vty")
		if err := errors.Join(removeSocket(vty)); err != nil {
			return err
		}
		wait := []string{vty}
		if d.name == "zebra" {
			// The others try again seconds later only when it is not there.
			if err := removeSocket(zserv); err != nil {
				return err
			}
			wait = append(wait, zserv)
		}
		// As who we are: in a user namespace there is nobody else.
		p, err := f.r.spawn(d.name, Spec{Path: path, Args: append([]string{
			"-u", "root", "-g", "root", "-f", config, "-i", filepath.Join(dir, d.name+".pid"), "-z", zserv, "--vty_socket", dir, "-P", "0",
			"--log", "stdout", "--log-level", "informational",
		}, d.args...)})
		if err != nil {
			return err
		}
		for _, socket := range wait {
			if err := waitSocket(ctx, p, socket); err != nil {
				return err
			}
		}
	}
	return waitSlowly(ctx, "bgpd has read its configuration", func() (bool, error) {
		out, err := f.command(ctx, "show running-config bgpd")
		return err == nil && strings.Contains(out, fmt.Sprintf("router bgp %d", o.AS)), nil
	})
}

// vtysh runs commands one after another, and fails when one of them is refused.
func (f *frr) vtysh(ctx context.Context, commands ...string) (string, error) {
	args := []string{"--vty_socket", f.sockets()}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out, err := f.r.Run(ctx, "vtysh", args...)
	if err != nil {
		return out, err
	}
	// The machine has no vtysh.conf.
	kept := slices.DeleteFunc(strings.SplitAfter(out, "\n"), func(l string) bool { return strings.Contains(l, "vtysh.conf") })
	out = strings.Join(kept, "")
	for l := range strings.Lines(out) {
		if strings.HasPrefix(l, "% Unknown command") || strings.HasPrefix(l, "% Command incomplete") || strings.HasPrefix(l, "% Ambiguous") {
			return out, fmt.Errorf("vtysh %q: %s", commands, strings.TrimSpace(out))
		}
	}
	return out, nil
}

func (f *frr) command(ctx context.Context, line string) (string, error) { return f.vtysh(ctx, line) }

// show reads the JSON that a show command prints; false when it says something else, as for a prefix that there is not.
func (f *frr) show(ctx context.Context, command string, into any) (bool, error) {
	out, err := f.vtysh(ctx, command+" json")
	if err != nil {
		return false, err
	}
	begin := strings.IndexAny(out, "{[")
	if begin < 0 {
		return false, nil
	}
	if err := json.Unmarshal([]byte(out[begin:]), into); err != nil {
		return false, fmt.Errorf("read %q: %w: %s", command, err, out)
	}
	return true, nil
}

func (f *frr) change(ctx context.Context, from, to RouterOptions) error {
	if from.AS != to.AS || from.Port != to.Port || from.Name != to.Name || from.Kind != to.Kind {
		return errors.New("its AS, port, name and kind stay as they are")
	}
	for _, commands := range frrChange(from, to) {
		if _, err := f.vtysh(ctx, slices.Concat([]string{"configure terminal"}, commands)...); err != nil {
			return err
		}
	}
	return nil
}

func (f *frr) reset(ctx context.Context, s Session) error {
	_, err := f.vtysh(ctx, "clear bgp "+s.Name)
	return err
}

// frrCommunities are the numbers of communities that FRR shows by name (RFC 1997 and IANA's registry).
var frrCommunities = map[string]string{
	"graceful-shutdown": "65535:0", "accept-own": "65535:1", "llgr-stale": "65535:6", "no-llgr": "65535:7",
	"blackhole": "65535:666", "no-export": "65535:65281", "no-advertise": "65535:65282", "local-AS": "65535:65283",
	"no-peer": "65535:65284", "internet": "0:0",
}

type frrAttribute struct {
	String string `json:"string"`
}

type frrPath struct {
	ASPath struct {
		Segments []struct {
			List []uint32 `json:"list"`
		} `json:"segments"`
	} `json:"aspath"`
	Origin    string        `json:"origin"`
	MED       uint32        `json:"metric"`
	LocalPref *uint32       `json:"locPrf"`
	Stale     bool          `json:"stale"`
	Multipath bool          `json:"multipath"`
	Best      *struct{}     `json:"bestpath"`
	Community *frrAttribute `json:"community"`
	Large     *frrAttribute `json:"largeCommunity"`
	Extended  *frrAttribute `json:"extendedCommunity"`
	NextHops  []struct {
		IP    netip.Addr `json:"ip"`
		Scope string     `json:"scope"`
	} `json:"nexthops"`
	Peer struct {
		ID        string `json:"peerId"`
		Interface string `json:"interface"`
	} `json:"peer"`
}

func (f *frr) routes(ctx context.Context, prefix netip.Prefix) ([]Route, error) {
	family := "ipv6"
	if prefix.Addr().Is4() {
		family = "ipv4"
	}
	var shown struct {
		Prefix string    `json:"prefix"`
		Paths  []frrPath `json:"paths"`
	}
	ok, err := f.show(ctx, fmt.Sprintf("show bgp %s unicast %s", family, prefix), &shown)
	if err != nil || !ok || shown.Prefix != prefix.String() {
		return nil, err // or a route to a prefix around it
	}
	var routes []Route
	for _, p := range shown.Paths {
		routes = append(routes, p.route(prefix))
	}
	return routes, nil
}

func (p frrPath) route(prefix netip.Prefix) Route {
	r := Route{
		Prefix: prefix, Origin: p.Origin, MED: p.MED, LocalPref: 100,
		Best: p.Best != nil, Multipath: p.Multipath || p.Best != nil, Stale: p.Stale,
	}
	if p.LocalPref != nil {
		r.LocalPref = *p.LocalPref
	}
	r.From = zoned(p.Peer.ID, p.Peer.Interface)
	for _, s := range p.ASPath.Segments {
		r.ASPath = append(r.ASPath, s.List...)
	}
	for _, h := range p.NextHops {
		r.NextHops = append(r.NextHops, h.IP)
	}
	if p.Community != nil {
		for _, c := range strings.Fields(p.Community.String) {
			r.Communities = append(r.Communities, cmp.Or(frrCommunities[c], c))
		}
	}
	if p.Large != nil {
		r.LargeCommunities = strings.Fields(p.Large.String)
	}
	if p.Extended != nil {
		// As in "RT:65000:1 LB:65000:125000 (1.000 Mbps)".
		for _, c := range regexp.MustCompile(`(RT|SoO|LB):\S+`).FindAllString(p.Extended.String, -1) {
			kind, value, _ := strings.Cut(c, ":")
			r.ExtCommunities = append(r.ExtCommunities, map[string]string{"RT": "rt:", "SoO": "ro:", "LB": "lb:"}[kind]+value)
		}
	}
	return r
}

// zoned is an address with its interface as zone when it is a link-local one; the zero Addr for anything else.
func zoned(addr, link string) netip.Addr {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.Addr{}
	}
	if a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "" && link != "" {
		return a.WithZone(link)
	}
	return a
}

type frrNeighbor struct {
	AS           uint32                     `json:"remoteAs"`
	State        string                     `json:"bgpState"`
	Address      string                     `json:"bgpNeighborAddr"`
	Foreign      string                     `json:"hostForeign"`
	Since        int64                      `json:"bgpTimerUpEstablishedEpoch"`
	Hold         int64                      `json:"bgpTimerHoldTimeMsecs"`
	Keepalive    int64                      `json:"bgpTimerKeepAliveIntervalMsecs"`
	Capabilities map[string]json.RawMessage `json:"neighborCapabilities"`
	Dropped      int                        `json:"connectionsDropped"`
	Reason       string                     `json:"lastResetDueTo"`
	Notification string                     `json:"lastNotificationReason"`
	Families     map[string]struct {
		Accepted int `json:"acceptedPrefixCounter"`
	} `json:"addressFamilyInfo"`
}

func (f *frr) sessions(ctx context.Context) ([]Session, error) {
	var shown map[string]json.RawMessage
	if _, err := f.show(ctx, "show bgp neighbors", &shown); err != nil {
		return nil, err
	}
	changes, err := f.changes()
	if err != nil {
		return nil, err
	}
	var sessions []Session
	for name, raw := range shown {
		var n frrNeighbor
		if !bytes.HasPrefix(raw, []byte("{")) {
			continue
		}
		if err := json.Unmarshal(raw, &n); err != nil {
			return nil, fmt.Errorf("read the neighbour %s: %w", name, err)
		}
		s := n.session(name)
		s.Flaps = s.flaps(changes)
		sessions = append(sessions, s)
	}
	return sessions, nil
}

func (n frrNeighbor) session(name string) Session {
	link := ""
	s := Session{
		Name: name, AS: n.AS, State: n.State,
		Hold: time.Duration(n.Hold) * time.Millisecond, Keepalive: time.Duration(n.Keepalive) * time.Millisecond,
	}
	if n.Dropped > 0 || !s.Established() { // else it says what it waited for before
		s.Reason = n.Reason
		if n.Notification != "" {
			s.Reason += ": " + n.Notification
		}
	}
	if _, err := netip.ParseAddr(name); err != nil {
		link = name
	}
	s.Peer = zoned(cmp.Or(n.Address, n.Foreign, name), link)
	if s.Established() {
		s.Since = time.Unix(n.Since, 0)
		s.Capabilities = frrCapabilities(n.Capabilities)
		for _, f := range n.Families {
			s.Accepted += f.Accepted
		}
	}
	return s
}

// frrCapabilities are those that the neighbour has sent.
func frrCapabilities(shown map[string]json.RawMessage) []string {
	names := map[string]string{
		"4byteAs": "4-octet AS", "routeRefresh": "route refresh", "extendedNexthop": "extended next hop",
		"gracefulRestart": "graceful restart", "enhancedRouteRefresh": "enhanced route refresh",
		"extendedMessage": "extended message", "longLivedGracefulRestart": "long-lived graceful restart",
	}
	var found []string
	for key, raw := range shown {
		if key == "multiprotocolExtensions" {
			for family, name := range map[string]string{"ipv4Unicast": "IPv4", "ipv6Unicast": "IPv6"} {
				var families map[string]json.RawMessage
				if json.Unmarshal(raw, &families) == nil && strings.Contains(strings.ToLower(string(families[family])), "received") {
					found = append(found, name)
				}
			}
			continue
		}
		if name := names[key]; name != "" && strings.Contains(strings.ToLower(string(raw)), "received") {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// frrChanged is the log line of a session that came or went.
var frrChanged = regexp.MustCompile(`^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d+) BGP: .*%ADJCHANGE: neighbor (\S+?)(?:\([^)]*\))? in vrf \S+ (Up|Down) ?(.*)$`)

func (f *frr) changes() ([]SessionChange, error) {
	log, err := os.ReadFile(f.r.logFile("bgpd"))
	if err != nil {
		return nil, err
	}
	lines, err := logLines(log, frrChanged, "2006/01/02 15:04:05.999999")
	if err != nil {
		return nil, fmt.Errorf("read bgpd's log: %w", err)
	}
	var changes []SessionChange
	for _, l := range lines {
		name, became, reason := l.groups[0], l.groups[1], l.groups[2]
		peer, _ := netip.ParseAddr(name)
		changes = append(changes, SessionChange{Time: l.time, Peer: peer, Name: name, Up: became == "Up", Reason: reason})
	}
	return changes, nil
}

type frrBFDPeer struct {
	Peer             netip.Addr `json:"peer"`
	Interface        string     `json:"interface"`
	Multihop         bool       `json:"multihop"`
	Status           string     `json:"status"`
	Diagnostic       string     `json:"diagnostic"`
	Receive          int64      `json:"receive-interval"`
	Transmit         int64      `json:"transmit-interval"`
	RemoteReceive    int64      `json:"remote-receive-interval"`
	RemoteTransmit   int64      `json:"remote-transmit-interval"`
	RemoteMultiplier int        `json:"remote-detect-multiplier"`
}

func (f *frr) bfd(ctx context.Context) ([]BFDSession, error) {
	var shown []frrBFDPeer
	if _, err := f.show(ctx, "show bfd peers", &shown); err != nil {
		return nil, err
	}
	var sessions []BFDSession
	for _, p := range shown {
		sessions = append(sessions, p.session())
	}
	return sessions, nil
}

// session has the intervals that follow from what both sides say, RFC 5880 sections 6.8.4 and 6.8.7.
func (p frrBFDPeer) session() BFDSession {
	states := map[string]string{"up": "Up", "down": "Down", "init": "Init", "shutdown": "AdminDown"}
	ms := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
	return BFDSession{
		Peer: zoned(p.Peer.String(), p.Interface), State: cmp.Or(states[p.Status], p.Status), Multihop: p.Multihop,
		Transmit:       ms(max(p.Transmit, p.RemoteReceive)),
		Detection:      ms(max(p.Receive, p.RemoteTransmit)) * time.Duration(p.RemoteMultiplier),
		RemoteTransmit: ms(p.RemoteTransmit), RemoteReceive: ms(p.RemoteReceive), RemoteMultiplier: p.RemoteMultiplier,
		Diagnostic: p.Diagnostic,
	}
}
