package vip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// AddressProtocol is the IFA_PROTO value (include/uapi/linux/if_addr.h, Linux 5.18) that marks an address as
// kube-vip's. Values up to 3 are the kernel's. `ip -o address show deprecated` lists ours, which are never preferred; a newer
// iproute2 (6.15, not 6.1) prints `proto 0xf8` with them. Filtering by protocol works with neither.
const AddressProtocol = 248

// labelSuffix marks our IPv4 addresses on kernels that know no address protocol: eth0:vip. A person may have
// made such a label too, so that it counts only together with what nobody else gives an address; see carriesLabel.
const labelSuffix = ":vip"

// Names of include/uapi/linux/if_addr.h, rtnetlink.h and ip.h that golang.org/x/sys/unix does not have.
const (
	ifaProto              = 11     // IFA_PROTO
	rtextFilterSkipStats  = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	iflaInetConf          = 1      // IFLA_INET_CONF of if_link.h
	promoteSecondaries    = 20     // IPV4_DEVCONF_PROMOTE_SECONDARIES
	attributeTypeMask     = 0x3fff // NLA_TYPE_MASK
	ifOperStatusUnknown   = 0      // IF_OPER_UNKNOWN
	ifOperStatusUp        = 6      // IF_OPER_UP
	receiveBufferOfEvents = 1 << 20
)

const (
	// replyTimeout bounds the wait for the kernel's answer, which comes within microseconds. It ends a wait for
	// an answer that was lost, so that the next comparison can ask again.
	replyTimeout = 5 * time.Second
	// dumpTries is how often a list is read again that changed while it was read (NLM_F_DUMP_INTR): one that
	// lacks an address must not be taken for the truth.
	dumpTries = 5
)

// Netlink is the node's kernel. Its zero value is not usable; see NewNetlink. Its methods may be called from any
// goroutine.
type Netlink struct {
	// marksByLabel is set where the kernel is older than IFA_PROTO. An address that cannot have a label - every
	// IPv6 one, and on a link with a long name - is then known to be ours by own only. What an earlier life left
	// of those is not: the kernel takes it away in time.
	marksByLabel bool

	handle *netlink.Handle // for routes
	port   uint32          // of the socket of our requests, as notifications name it

	mu      sync.Mutex // guards the fields below, and what is on the wire: one request at a time
	sockets map[int]*nl.SocketHandle
	events  *nl.NetlinkSocket // subscribed and not yet used by Watch
	own     map[spot]scope    // what is ours as far as is known: listed with our mark, or put there by Put
}

var _ Kernel = (*Netlink)(nil)

// spot is where the kernel has an address. It keeps no two with the same prefix length on a link, and of IPv6 no
// two at all.
type spot struct {
	index  int
	prefix netip.Prefix
}

// scope is an RT_SCOPE_ value of rtnetlink(7).
type scope uint8

// NewNetlink opens the routing sockets of the network namespace that the calling thread is in.
func NewNetlink() (*Netlink, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("read the kernel's version: %w", err)
	}
	n := &Netlink{
		marksByLabel: !hasAddressProtocol(unix.ByteSliceToString(uts.Release[:])),
		own:          map[spot]scope{},
	}
	var err error
	if n.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		n.handle.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	n.sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
	n.port, err = socket.GetPid()
	timeout := unix.NsecToTimeval(replyTimeout.Nanoseconds())
	err = errors.Join(err, n.handle.SetSocketTimeout(replyTimeout),
		socket.SetSendTimeout(&timeout), socket.SetReceiveTimeout(&timeout))
	// The kernel's words say what an errno alone does not; one that has none to give is not worse for it.
	_ = socket.SetExtAck(true)
	if err == nil {
		// Opened here and not by Watch, whose thread may be in another namespace.
		n.events, err = n.subscribe()
	}
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return n, nil
}

func (n *Netlink) subscribe() (*nl.NetlinkSocket, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, err
	}
	// What does not fit is lost and told as ENOBUFS, which costs a comparison: a larger buffer only saves some.
	_ = s.SetReceiveBufferSize(receiveBufferOfEvents, false)
	// And without a filter it only costs more.
	_ = ignoreEchoes(s, n.port)
	return s, nil
}

// Close closes the sockets. A Watch under way ends with its own context.
func (n *Netlink) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.sockets {
		s.Close()
	}
	if n.events != nil {
		n.events.Close()
		n.events = nil
	}
	n.handle.Close()
}

// hasAddressProtocol says whether a kernel of this release knows IFA_PROTO, which came with Linux 5.18.
func hasAddressProtocol(release string) bool {
	major, rest, _ := strings.Cut(release, ".")
	minor, _, _ := strings.Cut(rest, ".")
	minor, _, _ = strings.Cut(minor, "-")
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	if err1 != nil || err2 != nil {
		return true
	}
	return a > 5 || a == 5 && b >= 18
}

// Links lists the interfaces of the node with the addresses on them that are not ours.
func (n *Netlink) Links() ([]Link, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addrs, err := n.addresses()
	if err != nil {
		return nil, err
	}
	links, err := n.links()
	if err != nil {
		return nil, err
	}
	byIndex := make(map[int]*Link, len(links))
	for i := range links {
		byIndex[links[i].Index] = &links[i]
	}
	for _, a := range addrs {
		if l := byIndex[a.index]; l != nil && !a.Ours {
			l.Addrs = append(l.Addrs, a.Prefix)
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		indexes, err := n.defaultRoutes(family)
		if err != nil {
			return nil, err
		}
		for _, index := range indexes {
			l := byIndex[index]
			switch {
			case l == nil: // made since
			case family == unix.AF_INET:
				l.DefaultRoute4 = true
			default:
				l.DefaultRoute6 = true
			}
		}
	}
	return links, nil
}

// defaultRoutes returns the indexes of the links by which the main table's default routes leave. One that is
// unreachable or a black hole leaves by none, though the kernel names a loopback for it.
func (n *Netlink) defaultRoutes(family int) (indexes []int, err error) {
	var routes []netlink.Route
	err = retry(func() error {
		var err error
		routes, err = n.handle.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones != 0 {
				continue
			}
		}
		indexes = append(indexes, r.LinkIndex)
		for _, hop := range r.MultiPath {
			indexes = append(indexes, hop.LinkIndex)
		}
	}
	return indexes, nil
}

// Addresses lists every address of the node.
func (n *Netlink) Addresses() ([]Address, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addrs, err := n.addresses()
	if err != nil {
		return nil, err
	}
	// The links are listed after the addresses: an address on a link that is not listed went with its link.
	links, err := n.links()
	if err != nil {
		return nil, err
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Index] = l.Name
	}
	addrs = slices.DeleteFunc(addrs, func(a Address) bool { return names[a.index] == "" })
	for i := range addrs {
		addrs[i].Link = names[addrs[i].index]
	}
	return addrs, nil
}

// addresses lists the addresses without the names of their links, and learns what is ours.
func (n *Netlink) addresses() ([]Address, error) {
	var msgs [][]byte
	err := retry(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
		var err error
		msgs, err = n.execute(req, unix.RTM_NEWADDR)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	own := make(map[spot]scope, len(n.own))
	addrs := make([]Address, 0, len(msgs))
	for _, m := range msgs {
		a, ok := parseAddress(m)
		if !ok {
			continue
		}
		at := spot{a.index, a.Prefix}
		_, put := n.own[at]
		a.Ours = a.hasProtocol || n.marksByLabel && (a.carriesLabel() || put && a.Valid != Forever)
		if a.Ours {
			own[at] = a.scope
		}
		addrs = append(addrs, a.Address)
	}
	n.own = own
	return addrs, nil
}

// links lists the links, without their addresses and routes.
func (n *Netlink) links() ([]Link, error) {
	var msgs [][]byte
	err := retry(func() error {
		req := linkRequest(unix.NLM_F_DUMP)
		var err error
		msgs, err = n.execute(req, unix.RTM_NEWLINK)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	links := make([]Link, 0, len(msgs))
	for _, m := range msgs {
		if l, ok := parseLink(m); ok {
			links = append(links, l)
		}
	}
	return links, nil
}

// link returns the link of that name. The kernel finds it by an alternative name too, but lists its addresses
// under the first one: there is no link of an alternative name.
func (n *Netlink) link(name string) (Link, error) {
	if len(name) >= unix.IFNAMSIZ {
		return Link{}, ErrNoLink
	}
	req := linkRequest(0)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	msgs, err := n.execute(req, unix.RTM_NEWLINK)
	if errors.Is(err, unix.ENODEV) {
		return Link{}, ErrNoLink
	}
	if err != nil {
		return Link{}, err
	}
	for _, m := range msgs {
		l, ok := parseLink(m)
		switch {
		case ok && l.Name == name:
			return l, nil
		case ok:
			return Link{}, fmt.Errorf("%w: it is another name of %s", ErrNoLink, l.Name)
		}
	}
	return Link{}, ErrNoLink
}

func linkRequest(flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, flags)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(rtextFilterSkipStats)))
	return req
}

// retry repeats a dump that changed while it was read.
func retry(dump func() error) (err error) {
	for range dumpTries {
		if err = dump(); !errors.Is(err, nl.ErrDumpInterrupted) {
			return err
		}
	}
	return err
}

// execute sends req and returns the answers of type resType. The caller holds mu.
func (n *Netlink) execute(req *nl.NetlinkRequest, resType uint16) ([][]byte, error) {
	req.Sockets = n.sockets
	return req.Execute(unix.NETLINK_ROUTE, resType)
}

// attributes are the attributes in b (rtnetlink(7)), up to the first that is malformed.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			size := int(binary.NativeEndian.Uint16(b[0:2]))
			kind := binary.NativeEndian.Uint16(b[2:4]) & attributeTypeMask
			if size < unix.SizeofRtAttr || size > len(b) || !yield(kind, b[unix.SizeofRtAttr:size]) {
				return
			}
			b = b[min(len(b), (size+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1)):]
		}
	}
}

// parseLink reads one RTM_NEWLINK payload: struct ifinfomsg and its attributes.
func parseLink(m []byte) (Link, bool) {
	if len(m) < unix.SizeofIfInfomsg {
		return Link{}, false
	}
	var l Link
	l.Index = int(int32(binary.NativeEndian.Uint32(m[4:8])))
	flags := binary.NativeEndian.Uint32(m[8:12])
	l.Loopback = flags&unix.IFF_LOOPBACK != 0
	for kind, value := range attributes(m[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = unix.ByteSliceToString(value)
		case unix.IFLA_OPERSTATE:
			up := len(value) > 0 && (value[0] == ifOperStatusUp || value[0] == ifOperStatusUnknown)
			l.Up = up && flags&unix.IFF_UP != 0
		case unix.IFLA_PROP_LIST:
			for kind, value := range attributes(value) {
				if kind == unix.IFLA_ALT_IFNAME {
					l.AltNames = append(l.AltNames, unix.ByteSliceToString(value))
				}
			}
		}
	}
	return l, l.Index > 0 && l.Name != ""
}

// address is an Address with what only this file needs.
type address struct {
	Address
	label       string
	hasProtocol bool // IFA_PROTO is ours
	scope       scope
	flags       uint32 // IFA_F_
	preferred   uint32 // seconds
}

// carriesLabel says whether a has our label and our other properties: no prefix route, an end, and no new
// connection is ever made from it.
func (a address) carriesLabel() bool {
	return strings.HasSuffix(a.label, labelSuffix) && a.flags&unix.IFA_F_NOPREFIXROUTE != 0 &&
		a.preferred == 0 && a.Valid != Forever
}

// parseAddress reads one RTM_NEWADDR or RTM_DELADDR payload: struct ifaddrmsg and its attributes (rtnetlink(7)).
// It leaves Ours and Link to the caller.
func parseAddress(m []byte) (address, bool) {
	if len(m) < unix.SizeofIfAddrmsg {
		return address{}, false
	}
	bits := int(m[1])
	a := address{flags: uint32(m[2]), scope: scope(m[3]), preferred: lifetimeForever}
	a.index, a.Valid = int(int32(binary.NativeEndian.Uint32(m[4:8]))), Forever
	var local, peer netip.Addr
	for kind, value := range attributes(m[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(value)
		case unix.IFA_ADDRESS:
			peer, _ = netip.AddrFromSlice(value)
		case unix.IFA_LABEL:
			a.label = unix.ByteSliceToString(value)
		case unix.IFA_FLAGS:
			if len(value) >= 4 {
				a.flags = binary.NativeEndian.Uint32(value)
			}
		case unix.IFA_CACHEINFO:
			if len(value) < 8 {
				continue
			}
			a.preferred = binary.NativeEndian.Uint32(value[0:4])
			if valid := binary.NativeEndian.Uint32(value[4:8]); valid != lifetimeForever {
				a.Valid = time.Duration(valid) * time.Second
			}
		case ifaProto:
			a.hasProtocol = len(value) > 0 && value[0] == AddressProtocol
		}
	}
	// On a point-to-point link IFA_ADDRESS is the peer's and IFA_LOCAL is ours; elsewhere IPv6 has IFA_ADDRESS alone.
	if !local.IsValid() {
		local = peer
	}
	if !local.IsValid() || bits > local.BitLen() || a.index <= 0 {
		return address{}, false
	}
	a.Prefix = netip.PrefixFrom(local, bits)
	return a, true
}

// Put adds v, or renews it, with preferred lifetime 0 (never a source address), no prefix route, no duplicate
// address detection (RFC 4862 section 5.4 would keep a taken-over address silent for a second), and our mark.
func (n *Netlink) Put(v VIP, valid time.Duration) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.putNamed(v, valid)
}

func (n *Netlink) putNamed(v VIP, valid time.Duration) error {
	if err := n.put(v, valid); err != nil {
		return fmt.Errorf("add %s to %s: %w", v.Prefix, v.Link, err)
	}
	return nil
}

// scopeOf is the scope that v gets on l.
func scopeOf(l Link, v VIP) scope {
	// Of IPv6 the kernel reports the scope of the address itself, whatever was asked for.
	if l.Loopback && !v.Global && v.Addr().Is4() {
		return unix.RT_SCOPE_HOST
	}
	return unix.RT_SCOPE_UNIVERSE
}

func (n *Netlink) put(v VIP, valid time.Duration) error {
	l, err := n.link(v.Link)
	if err != nil {
		return err
	}
	at, wanted := spot{l.Index, v.Prefix}, scopeOf(l, v)
	if is, ours := n.own[at]; ours && is == wanted {
		return n.add(l, v, valid, wanted, unix.NLM_F_REPLACE)
	}
	if v.Addr().Is4() && !v.Prefix.IsSingleIP() {
		if err := n.spareSecondaries(l); err != nil {
			return fmt.Errorf("keep the other addresses of %s when it goes: %w", v.Prefix.Masked(), explain(err, v))
		}
	}
	// NLM_F_REPLACE would take over an address of another, lifetime and all.
	err = n.add(l, v, valid, wanted, unix.NLM_F_EXCL)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	// Somebody's, or ours from an earlier life. Ours may have another scope, which cannot be changed, or (IPv6)
	// another prefix length, which the kernel does not keep beside this one.
	if _, err := n.addresses(); err != nil {
		return err
	}
	if is, ours := n.own[at]; ours && is == wanted {
		return n.add(l, v, valid, wanted, unix.NLM_F_REPLACE)
	}
	for other := range n.own {
		if other.index != at.index || other.prefix.Addr() != v.Addr() {
			continue
		}
		if err := n.remove(other); err != nil {
			return fmt.Errorf("replace our %s: %w", other.prefix, err)
		}
	}
	err = n.add(l, v, valid, wanted, unix.NLM_F_EXCL)
	if errors.Is(err, unix.EEXIST) {
		return ErrNotOurs
	}
	return err
}

// spareSecondaries sets the link's sysctl promote_secondaries, as systemd does for every link. Without it the end
// of the first IPv4 address of a subnet takes the later ones along, and those may be the node's own. It is set by
// RTM_SETLINK, since /proc/sys is read-only in a container. Host prefixes, the default, have no later ones.
func (n *Netlink) spareSecondaries(l Link) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(l.Index)
	req.AddData(msg)
	families := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	families.AddRtAttr(unix.AF_INET, nil).AddRtAttr(iflaInetConf, nil).AddRtAttr(promoteSecondaries, nl.Uint32Attr(1))
	req.AddData(families)
	_, err := n.execute(req, 0)
	return err
}

// PutAll is Put for each of many, in few system calls. What the kernel does not take at once is tried by Put.
func (n *Netlink) PutAll(puts []Put) []error {
	n.mu.Lock()
	defer n.mu.Unlock()
	links := map[string]Link{}
	errs := make([]error, len(puts))
	var messages []*nl.NetlinkRequest
	var of []int // which of puts
	for i, p := range puts {
		l, known := links[p.VIP.Link]
		if !known {
			var err error
			if l, err = n.link(p.VIP.Link); err != nil {
				errs[i] = fmt.Errorf("add %s to %s: %w", p.VIP.Prefix, p.VIP.Link, err)
				continue
			}
			links[p.VIP.Link] = l
		}
		wanted := scopeOf(l, p.VIP)
		is, ours := n.own[spot{l.Index, p.VIP.Prefix}]
		how := 0
		switch {
		case ours && is == wanted:
			how = unix.NLM_F_REPLACE
		case !ours && p.VIP.Prefix.IsSingleIP():
			how = unix.NLM_F_EXCL
		default:
			errs[i] = n.putNamed(p.VIP, p.Valid)
			continue
		}
		messages, of = append(messages, n.newAddress(l, p.VIP, p.Valid, wanted, how)), append(of, i)
	}
	for j, err := range n.exchange(messages) {
		p := puts[of[j]]
		if l := links[p.VIP.Link]; err == nil {
			if messages[j].Flags&unix.NLM_F_REPLACE == 0 { // else it is known already
				n.own[spot{l.Index, p.VIP.Prefix}] = scopeOf(l, p.VIP)
			}
			continue
		}
		errs[of[j]] = n.putNamed(p.VIP, p.Valid)
	}
	return errs
}

// newAddress is one RTM_NEWADDR. It is made by hand, for thousands are every few seconds.
func (n *Netlink) newAddress(l Link, v VIP, valid time.Duration, s scope, how int) *nl.NetlinkRequest {
	flags := uint32(unix.IFA_F_NOPREFIXROUTE)
	if v.Addr().Is6() {
		flags |= unix.IFA_F_NODAD
	}
	b := addressMessage(spot{l.Index, v.Prefix}, s)
	b = attribute(b, unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, flags))
	// struct ifa_cacheinfo: preferred, valid, created, updated.
	var cacheInfo [16]byte
	binary.NativeEndian.PutUint32(cacheInfo[4:8], lifetimeSeconds(valid))
	b = attribute(b, unix.IFA_CACHEINFO, cacheInfo[:])
	switch {
	case !n.marksByLabel:
		b = attribute(b, ifaProto, []byte{AddressProtocol})
	case v.Addr().Is4() && len(l.Name)+len(labelSuffix) < unix.IFNAMSIZ:
		b = attribute(b, unix.IFA_LABEL, nl.ZeroTerminated(l.Name+labelSuffix))
	}
	req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_ACK|how)
	req.RawData = b
	return req
}

// addressMessage is the struct ifaddrmsg of an address with its attributes IFA_LOCAL and IFA_ADDRESS.
func addressMessage(at spot, s scope) []byte {
	const most = 128 // with all other attributes
	family := byte(unix.AF_INET)
	if at.prefix.Addr().Is6() {
		family = unix.AF_INET6
	}
	b := append(make([]byte, 0, most), family, byte(at.prefix.Bits()), 0, byte(s))
	b = binary.NativeEndian.AppendUint32(b, uint32(at.index))
	b = attribute(b, unix.IFA_LOCAL, at.prefix.Addr().AsSlice())
	return attribute(b, unix.IFA_ADDRESS, at.prefix.Addr().AsSlice())
}

// attribute appends a struct rtattr and its value.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.RTA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// add sends one RTM_NEWADDR. The caller holds mu.
func (n *Netlink) add(l Link, v VIP, valid time.Duration, s scope, how int) error {
	if _, err := n.execute(n.newAddress(l, v, valid, s, how), 0); err != nil {
		return explain(err, v)
	}
	n.own[spot{l.Index, v.Prefix}] = s
	return nil
}

// Remove takes a off its link.
func (n *Netlink) Remove(a Address) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.takeOff(a)
	if err != nil && !errors.Is(err, ErrNoLink) {
		return fmt.Errorf("remove %s from %s: %w", a.Prefix, a.Link, err)
	}
	return nil
}

// RemoveAll is Remove for each of many, in few system calls. What the kernel does not do at once is tried by Remove.
func (n *Netlink) RemoveAll(list []Address) []error {
	n.mu.Lock()
	defer n.mu.Unlock()
	errs := make([]error, len(list))
	var messages []*nl.NetlinkRequest
	var of []int // which of list
	for i, a := range list {
		if a.Ours && a.index != 0 {
			messages, of = append(messages, delAddress(spot{a.index, a.Prefix})), append(of, i)
		} else if err := n.takeOff(a); err != nil && !errors.Is(err, ErrNoLink) {
			errs[i] = fmt.Errorf("remove %s from %s: %w", a.Prefix, a.Link, err)
		}
	}
	for j, err := range n.exchange(messages) {
		a := list[of[j]]
		at := spot{a.index, a.Prefix}
		if err == nil {
			delete(n.own, at)
		} else if err := n.remove(at); err != nil {
			errs[of[j]] = fmt.Errorf("remove %s from %s: %w", a.Prefix, a.Link, err)
		}
	}
	return errs
}

func (n *Netlink) takeOff(a Address) error {
	if !a.Ours {
		return ErrNotOurs
	}
	if a.index != 0 {
		return n.remove(spot{a.index, a.Prefix})
	}
	// Not from Addresses, and so perhaps another's by now.
	l, err := n.link(a.Link)
	if err != nil {
		return err
	}
	at := spot{l.Index, a.Prefix}
	if _, ours := n.own[at]; !ours {
		return nil
	}
	return n.remove(at)
}

// delAddress is one RTM_DELADDR.
func delAddress(at spot) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_DELADDR, unix.NLM_F_ACK)
	req.RawData = addressMessage(at, unix.RT_SCOPE_UNIVERSE)
	return req
}

// remove sends one RTM_DELADDR. The caller holds mu.
func (n *Netlink) remove(at spot) error {
	_, err := n.execute(delAddress(at), 0)
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		err = nil // gone already, alone or with its link
	case errors.Is(err, unix.EPERM):
		err = errNoCapability
	}
	if err == nil {
		delete(n.own, at)
	}
	return err
}

// errNoCapability is what EPERM means here.
var errNoCapability = errors.New("not permitted: the container lacks the capability NET_ADMIN")

// explain gives an errno of RTM_NEWADDR the name that callers branch on, or the words that help.
func explain(err error, v VIP) error {
	switch {
	case errors.Is(err, unix.ENODEV):
		return ErrNoLink
	case errors.Is(err, unix.EPERM):
		return errNoCapability
	case errors.Is(err, unix.EACCES) && v.Addr().Is6():
		return fmt.Errorf("IPv6 is disabled on %s: set sysctl net.ipv6.conf.%[1]s.disable_ipv6 to 0", v.Link)
	}
	return err
}

// Watch calls changed when a link changed, an address appeared that is not ours, or any address went that n has not taken
// off itself.
func (n *Netlink) Watch(ctx context.Context, changed func()) error {
	n.mu.Lock()
	socket := n.events
	n.events = nil
	n.mu.Unlock()
	if socket == nil { // used by an earlier Watch
		var err error
		if socket, err = n.subscribe(); err != nil {
			return fmt.Errorf("subscribe to netlink: %w", err)
		}
	}
	defer context.AfterFunc(ctx, socket.Close)()
	defer socket.Close()
	for {
		msgs, _, err := socket.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, unix.ENOBUFS) {
			changed() // some were lost: look at everything
			continue
		}
		if err != nil {
			return fmt.Errorf("receive from netlink: %w", err)
		}
		if slices.ContainsFunc(msgs, matters) {
			changed()
		}
	}
}

// matters leaves out the echo of our own Puts.
func matters(m syscall.NetlinkMessage) bool {
	if m.Header.Type != unix.RTM_NEWADDR {
		return true
	}
	a, ok := parseAddress(m.Data)
	return ok && !a.hasProtocol && !a.carriesLabel()
}
