package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"
)

// Peer is a BGP peer with everything that is to be known of it, defaults filled in.
type Peer struct {
	// Address is an IP address in its canonical form, or a host name in lower case; empty for an unnumbered peer. An IPv6
	// link-local address may have a zone.
	Address string
	// Interface is the link of an unnumbered peer, whose address is the link-local one of the neighbour there; empty for
	// all others.
	Interface string
	// AS is the peer's autonomous system number; 0, for an unnumbered peer only, takes any.
	AS uint32
	// Password is that of TCP MD5 (RFC 2385), at most 80 bytes; empty is none.
	Password Secret
	// PasswordSecret is where the password is when Password is empty; its zero value is nowhere.
	PasswordSecret SecretRef
	// Multihop allows an eBGP peer to be more than one hop away.
	Multihop bool
	// TTL is that of packets to the peer; 0 is what the kind of session asks for.
	TTL uint8
	// Port is where the peer listens.
	Port uint16
	// SourceIP is what the session comes from, of the family of Address; not valid means that the kernel chooses.
	SourceIP netip.Addr
	// SourceInterface is what the session goes out of; empty means that routes decide. At most one of both is set.
	SourceInterface string
	// NextHop says where routes of the other family than the session's point to (MP-BGP, RFC 4760).
	NextHop NextHop
	// BFD is bidirectional forwarding detection (RFC 5880); its zero value is off.
	BFD BFD
	// Families are the families of routes, FamilyIPv4 and FamilyIPv6 in this order. Where nothing was said they are that of
	// Address, and both of an unnumbered peer and where NextHop has a Mode; empty then means that of a host name's address.
	Families []string
	// NodeSelector is a label selector of the nodes that have this peer, as Kubernetes writes them; empty is all.
	NodeSelector string
	// Communities are added to routes, each "65000:100" (RFC 1997); LargeCommunities each "65000:1:2" (RFC 8092).
	Communities, LargeCommunities []string
	// LocalPref is LOCAL_PREF, for peers of our own AS, and MED is MULTI_EXIT_DISC; nil leaves them out.
	LocalPref, MED *uint32
	// Prepend is how many times more our AS is in the path.
	Prepend uint8
	// AggregationLength4 and AggregationLength6 are the prefix lengths that routes have; 32 and 128 are single addresses.
	AggregationLength4, AggregationLength6 int
	// Passive waits for the peer to open the session.
	Passive bool
	// TTLSecurity is how many hops away the peer may be at most for its packets to count (RFC 5082); 0 is off.
	TTLSecurity uint8
	// HoldTime is whole seconds: 0 for a session that never times out, or at least 3 s. KeepaliveInterval is less, and 0
	// where HoldTime is 0.
	HoldTime, KeepaliveInterval time.Duration
	// ConnectRetry is the pause between two attempts to open the session, in whole seconds.
	ConnectRetry    time.Duration
	GracefulRestart GracefulRestart
}

// Families of routes.
const (
	FamilyIPv4 = "ipv4"
	FamilyIPv6 = "ipv6"
)

// NextHop says which next hop routes of the family get that is not the session's.
type NextHop struct {
	// Mode is empty, NextHopFixed, NextHopSourceIP or NextHopSourceInterface.
	Mode string
	// IPv4 and IPv6 are the next hops of NextHopFixed; at least one is valid then.
	IPv4, IPv6 netip.Addr
}

// Values of NextHop.Mode.
const (
	// NextHopFixed are addresses that are given.
	NextHopFixed = "fixed"
	// NextHopSourceIP is an address of the other family on the interface that has the source address.
	NextHopSourceIP = "auto_sourceip"
	// NextHopSourceInterface is an address of the source interface.
	NextHopSourceInterface = "auto_sourceif"
)

// BFD is a session of bidirectional forwarding detection beside a peer's.
type BFD struct {
	Enable bool
	// MinRx and MinTx are the intervals at which we can receive and would like to send, 10 ms to 1 minute.
	MinRx, MinTx time.Duration
	// Multiplier is how many packets may be lost; 1 to 255.
	Multiplier uint8
}

// GracefulRestart is RFC 4724: the peer keeps our routes for RestartTime after the session broke.
type GracefulRestart struct {
	Enable bool
	// RestartTime is whole seconds, 1 to 4095.
	RestartTime time.Duration
}

// What a peer has that says nothing of it.
const (
	defaultBGPPort      = 179
	defaultConnectRetry = 5 * time.Second
	defaultRestartTime  = 30 * time.Second // where there is no hold time to take
	defaultBFDInterval  = 300 * time.Millisecond
	defaultMultiplier   = 3

	minHoldTime    = 3 * time.Second // RFC 4271 section 4.2
	maxRestartTime = 4095 * time.Second
	minBFDInterval = 10 * time.Millisecond
	maxBFDInterval = time.Minute
	maxPassword    = 80 // TCP_MD5SIG_MAXKEYLEN in the kernel's linux/tcp.h
	maxPrepend     = 32
)

// String is the peer's address, or "unnumbered:" and its link.
func (p Peer) String() string {
	if p.Interface != "" {
		return unnumbered + p.Interface
	}
	return p.Address
}

const unnumbered = "unnumbered:"

// IP is Address where that is an IP address; not valid for a host name and for an unnumbered peer.
func (p Peer) IP() netip.Addr {
	a, _ := netip.ParseAddr(p.Address)
	return a
}

// PasswordIn takes the peer's password out of the data of the Secret that PasswordSecret names: what its Key says, or else
// what is there for the peer's address, or else for all peers under the key "password". In the key of an address, '-'
// stands for each character that a key cannot have: 2001-db8--1. None of them is no password, but the Key must be there.
// A line feed at the end is no part of it.
func (p Peer) PasswordIn(data map[string][]byte) (Secret, error) {
	keys := []string{p.secretKey(), "password"}
	if k := p.PasswordSecret.Key; k != "" {
		keys = []string{k}
	}
	for _, key := range keys {
		if value, ok := data[key]; ok {
			password := secretOf(value)
			if err := checkPassword(password); err != nil {
				return "", fmt.Errorf("key %s of the Secret %s: %w", key, p.PasswordSecret.Name, err)
			}
			return password, nil
		}
	}
	if p.PasswordSecret.Key != "" {
		return "", fmt.Errorf("the Secret %s has no key %s", p.PasswordSecret.Name, p.PasswordSecret.Key)
	}
	return "", nil
}

func (p Peer) secretKey() string {
	name := p.Address
	if p.Interface != "" {
		name = p.Interface
	}
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(keyLetters, r) {
			return r
		}
		return '-'
	}, name)
}

// OnNode returns the peers of a node with these labels. It fails where two of them are at one address.
func OnNode(peers []Peer, nodeLabels map[string]string) ([]Peer, error) {
	var here []Peer
	var errs []error
	for _, p := range peers {
		selector, err := labels.Parse(p.NodeSelector)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("peer %s: nodeSelector: %w", p, err))
		case !selector.Matches(labels.Set(nodeLabels)):
		case slices.ContainsFunc(here, func(other Peer) bool { return other.String() == p.String() }):
			errs = append(errs, fmt.Errorf("peer %s: more than one nodeSelector of it matches the labels of this node", p))
		default:
			here = append(here, p)
		}
	}
	return here, errors.Join(errs...)
}

// PeerList are all peers that the settings name: those of Peers, the single one, and those of PeersFile, which it reads.
// Where annotations of the node name the peers, see PeersOf.
//
// The error joins everything that is wrong, each line naming the peer and the field, and never a password.
func (b BGP) PeerList() ([]Peer, error) {
	var file PeersFile
	if b.PeersFile != "" {
		var err error
		if file, err = ReadPeersFile(b.PeersFile); err != nil {
			return nil, err
		}
	}
	return b.PeersWith(file)
}

// PeersWith is PeerList with a peers file that was read already.
func (b BGP) PeersWith(file PeersFile) ([]Peer, error) {
	drafts, errs := b.drafts()
	names, err := b.Names(file)
	peers, incomplete := b.complete(slices.Concat(drafts, file.drafts), names)
	if err := errors.Join(append(errs, err, incomplete)...); err != nil {
		return nil, err
	}
	return peers, nil
}

// PeersOf are the peers that the annotations of a node name, in place of all others. The AS is not looked at, and of the
// peers file only the names of communities.
func (b BGP) PeersOf(node NodeBGP, file PeersFile) ([]Peer, error) {
	b.SourceIP, b.SourceInterface = node.SourceIP, ""
	drafts := make([]draft, len(node.Peers))
	for i, p := range node.Peers {
		drafts[i] = draft{Peer: p, where: "an annotation"}
	}
	names, err := b.Names(file)
	peers, incomplete := b.complete(drafts, names)
	if err := errors.Join(err, incomplete); err != nil {
		return nil, err
	}
	return peers, nil
}

// Names are the names of communities from the settings and from a peers file.
func (b BGP) Names(file PeersFile) (CommunityNames, error) {
	return b.CommunityNames.merge(file.Communities)
}

// draft is a peer as somebody wrote it.
type draft struct {
	Peer
	// where says where: "peer 2 of bgp_peers".
	where string
	// wrote are the fields of the peers file that were written, be their values what nothing would be.
	wrote map[string]bool
}

// drafts are the peers of bgp_peers and the single one.
func (b BGP) drafts() (all []draft, errs []error) {
	for i, text := range splitList(string(b.Peers)) {
		d, err := parsePeer(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("bgp_peers: peer %d: %w", i+1, err))
			continue
		}
		d.where = fmt.Sprintf("peer %d of bgp_peers", i+1)
		all = append(all, d)
	}
	if b.PeerAddress == "" {
		return all, errs
	}
	d := draft{Peer: Peer{AS: b.PeerAS, Password: b.PeerPassword, Multihop: b.Multihop}, where: "bgp_peeraddress"}
	var err error
	if d.Address, err = peerHost(b.PeerAddress); err != nil {
		return all, append(errs, fmt.Errorf("bgp_peeraddress: %w", err))
	}
	for _, problem := range d.check() {
		errs = append(errs, fmt.Errorf("peer %s: %w", d.Peer, problem))
	}
	return append(all, d), errs
}

// check finds what is wrong with what was written, whatever the defaults are.
func (d draft) check() (problems []error) {
	say := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	switch {
	case d.Address == "" && d.Interface == "":
		say("address is missing, or interface for an unnumbered peer")
	case d.Address != "" && d.Interface != "":
		say("address and interface exclude each other: interface is for an unnumbered peer")
	}
	if d.AS == 0 && d.Interface == "" {
		say("as is missing: want a number from 1 to 4294967295")
	}
	if err := checkPassword(d.Password); err != nil {
		problems = append(problems, err)
	}
	if d.Password != "" && d.PasswordSecret != (SecretRef{}) {
		say("password and passwordSecret exclude each other: keep one of them")
	}
	switch {
	case d.SourceIP.IsValid() && d.SourceInterface != "":
		say("sourceIP and sourceInterface exclude each other: keep one of them")
	case d.Interface != "" && (d.SourceIP.IsValid() || d.SourceInterface != ""):
		say("an unnumbered peer has neither sourceIP nor sourceInterface: its interface is both")
	case d.SourceIP.IsValid() && !d.takes(d.SourceIP):
		say("sourceIP %s is not of the family of the address", d.SourceIP)
	}
	switch {
	case d.TTLSecurity != 0 && d.Multihop:
		say("ttlSecurity and multihop exclude each other: ttlSecurity says how many hops there may be")
	case d.TTLSecurity != 0 && d.TTL != 0:
		say("ttlSecurity and ttl exclude each other: with ttlSecurity packets leave with a TTL of 255 (RFC 5082 section 3)")
	}
	return problems
}

// takes tells whether a session with the peer can come from an address. With a host name it can, as far as is known.
func (p Peer) takes(source netip.Addr) bool {
	a := p.IP()
	return source.IsValid() && (!a.IsValid() || a.Is4() == source.Is4())
}

// complete fills in defaults and looks at the whole.
func (b BGP) complete(drafts []draft, names CommunityNames) ([]Peer, error) {
	peers := make([]Peer, len(drafts))
	var errs []error
	for i, d := range drafts {
		p, problems := b.fill(d, names)
		for _, problem := range problems {
			errs = append(errs, fmt.Errorf("peer %s: %w", p, problem))
		}
		peers[i] = p
		for j, other := range peers[:i] {
			// Two that select nodes may be for different ones; OnNode knows.
			if p.String() == other.String() && (p.NodeSelector == "" || other.NodeSelector == "") {
				errs = append(errs, fmt.Errorf("peer %s is given twice: as %s and as %s", p, drafts[j].where, d.where))
				break
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return peers, nil
}

// fill gives a peer the defaults for what was not written of it.
func (b BGP) fill(d draft, names CommunityNames) (p Peer, problems []error) {
	p = d.Peer
	say := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	if p.Password == "" {
		p.PasswordSecret = b.secretFor(p.PasswordSecret)
		if p.PasswordSecret.Key != "" && p.PasswordSecret.Name == "" {
			say("passwordSecret has no name, and bgp_password_secret is not set")
		}
	}
	if p.Port == 0 {
		p.Port = defaultBGPPort
	}
	if p.Interface == "" && !p.SourceIP.IsValid() && p.SourceInterface == "" {
		p.SourceInterface = b.SourceInterface
		if p.takes(b.SourceIP) {
			p.SourceIP = b.SourceIP
		}
	}
	if p.Interface == "" || p.NextHop != (NextHop{}) {
		p.NextHop = b.nextHopFor(p.NextHop)
	}
	if err := p.checkNextHop(); err != nil {
		problems = append(problems, err)
	}
	if len(p.Families) == 0 {
		p.Families = p.ownFamilies()
	}
	if d.wrote["bfd"] && !d.wrote["bfd.enable"] {
		p.BFD.Enable = true // why else would it be there?
	}
	p.BFD = p.BFD.filled()
	p.HoldTime, p.KeepaliveInterval = b.timersFor(d)
	if d.wrote["holdTime"] || d.wrote["keepaliveInterval"] {
		if err := checkTimers(p.HoldTime, p.KeepaliveInterval); err != nil {
			problems = append(problems, err)
		}
	}
	if p.ConnectRetry == 0 {
		p.ConnectRetry = defaultConnectRetry
	}
	if !d.wrote["gracefulRestart.enable"] {
		p.GracefulRestart.Enable = b.GracefulRestart
	}
	p.GracefulRestart = p.GracefulRestart.filled(p.HoldTime)

	plain, large := p.Communities, p.LargeCommunities
	if !d.wrote["communities"] {
		plain = b.Communities
	}
	if !d.wrote["largeCommunities"] {
		large = b.LargeCommunities
	}
	var err error
	if p.Communities, p.LargeCommunities, err = names.split(slices.Concat(plain, large)); err != nil {
		say("communities: %w", err)
	}
	p.LocalPref, p.MED = copyOr(p.LocalPref, b.LocalPref), copyOr(p.MED, b.MED)
	if !d.wrote["prepend"] {
		p.Prepend = b.Prepend
	}
	if p.AggregationLength4 == 0 {
		p.AggregationLength4 = 32
	}
	if p.AggregationLength6 == 0 {
		p.AggregationLength6 = 128
	}
	return p, problems
}

// copyOr is a copy of n, or of instead where n is nil.
func copyOr(n, instead *uint32) *uint32 {
	if n == nil {
		n = instead
	}
	if n == nil {
		return nil
	}
	own := *n
	return &own
}

// secretFor completes a reference by the Secret of the settings.
func (b BGP) secretFor(ref SecretRef) SecretRef {
	if ref.Name != "" {
		if ref.Key == "" {
			ref.Key = "password" // a Secret of its own
		}
		return ref
	}
	all, _ := parseSecretRef(b.PasswordSecret) // checked by the setting
	all.Key = ref.Key
	return all
}

// nextHopFor completes what a peer says by what the settings say.
func (b BGP) nextHopFor(n NextHop) NextHop {
	if n.Mode == "" {
		n.Mode = b.NextHop.Mode
	}
	if n.Mode != NextHopFixed {
		return n
	}
	if !n.IPv4.IsValid() {
		n.IPv4 = b.NextHop.IPv4
	}
	if !n.IPv6.IsValid() {
		n.IPv6 = b.NextHop.IPv6
	}
	return n
}

func (p Peer) checkNextHop() error {
	four, six := p.NextHop.IPv4.IsValid(), p.NextHop.IPv6.IsValid()
	switch p.NextHop.Mode {
	case NextHopFixed:
		if !four && !six {
			return errors.New("the next hop fixed needs an address: mpbgp_ipv4, mpbgp_ipv6 or both")
		}
		return nil
	case NextHopSourceIP:
		if !p.SourceIP.IsValid() {
			return errors.New("the next hop auto_sourceip needs a source address of the family of the session")
		}
	case NextHopSourceInterface:
		if p.SourceInterface == "" && p.Interface == "" {
			return errors.New("the next hop auto_sourceif needs a source interface")
		}
	}
	if four || six {
		return errors.New("mpbgp_ipv4 and mpbgp_ipv6 are for the next hop fixed")
	}
	return nil
}

func (p Peer) ownFamilies() []string {
	switch a := p.IP(); {
	case p.NextHop.Mode != "" || p.Interface != "":
		return []string{FamilyIPv4, FamilyIPv6}
	case a.Is4():
		return []string{FamilyIPv4}
	case a.Is6():
		return []string{FamilyIPv6}
	}
	return nil
}

func (f BFD) filled() BFD {
	if !f.Enable {
		return BFD{}
	}
	if f.MinRx == 0 {
		f.MinRx = defaultBFDInterval
	}
	if f.MinTx == 0 {
		f.MinTx = defaultBFDInterval
	}
	if f.Multiplier == 0 {
		f.Multiplier = defaultMultiplier
	}
	return f
}

// timersFor are the hold time and the keepalive interval. Where only the hold time was written, the other is a third of
// it (RFC 4271 section 10), or less if the settings have less.
func (b BGP) timersFor(d draft) (hold, keep time.Duration) {
	hold, keep = d.HoldTime, d.KeepaliveInterval
	if !d.wrote["holdTime"] {
		hold = b.HoldTime
	}
	third := (hold / 3).Truncate(time.Second)
	switch {
	case hold == 0:
		return 0, 0
	case !d.wrote["keepaliveInterval"] && !d.wrote["holdTime"]:
		keep = b.KeepaliveInterval
	case !d.wrote["keepaliveInterval"]:
		keep = min(third, b.KeepaliveInterval)
	}
	if keep == 0 {
		keep = third
	}
	return hold, keep
}

func checkTimers(hold, keep time.Duration) error {
	switch {
	case hold != 0 && hold < minHoldTime:
		return errors.New("holdTime must be 0 or at least 3 (RFC 4271 section 4.2)")
	case hold != 0 && keep >= hold:
		return fmt.Errorf("keepaliveInterval %s must be less than holdTime %s", keep, hold)
	}
	return nil
}

// filled takes the hold time for what was not written, as RFC 4724 section 3 advises.
func (g GracefulRestart) filled(hold time.Duration) GracefulRestart {
	switch {
	case !g.Enable:
		return GracefulRestart{}
	case g.RestartTime == 0 && hold == 0:
		g.RestartTime = defaultRestartTime
	case g.RestartTime == 0:
		g.RestartTime = min(hold, maxRestartTime)
	}
	return g
}

func checkPassword(s Secret) error {
	if len(s) > maxPassword {
		return fmt.Errorf("password is longer than %d bytes", maxPassword)
	}
	return nil
}

// peerHost accepts what a session can be opened to, and returns its canonical form.
func peerHost(s string) (string, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		name := strings.ToLower(strings.TrimSuffix(s, "."))
		// A last label of digits is a mistyped address (RFC 3696 section 2).
		if last := name[strings.LastIndexByte(name, '.')+1:]; !isSubdomain(name) || strings.Trim(last, "0123456789") == "" {
			return "", fmt.Errorf("%q is neither an IP address nor a host name", s)
		}
		return name, nil
	}
	switch zone := a.Zone(); {
	case a.Is4In6():
		return "", fmt.Errorf("%q cannot be a peer: write it as %s", s, a.Unmap().WithZone(""))
	case a.IsUnspecified():
		return "", fmt.Errorf("%q cannot be a peer: it is the unspecified address", s)
	case a.IsMulticast():
		return "", fmt.Errorf("%q cannot be a peer: it is a multicast address", s)
	case zone != "" && (!a.IsLinkLocalUnicast() || interfaceName(zone) != nil || strings.ContainsAny(zone, ",[]%")):
		return "", fmt.Errorf("%q cannot be a peer: only a link-local address has the name of an interface behind the %%", s)
	}
	return a.String(), nil
}
