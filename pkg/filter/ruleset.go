package filter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table is always the same but for the elements of its sets, of which each family has two: the addresses that
// are guarded, and the ports of them that pass. A VIP more is a few elements more, and a packet costs two lookups
// in hash tables however many VIPs there are.
//
// Everything here is pure: what the table has to be, what makes it so, and whether it is.

const (
	entrance = "prerouting" // the chain that the kernel calls
	guarded  = "guarded"    // the chain for packets to a guarded address
)

// priority puts us between conntrack (-200, NF_IP_PRI_CONNTRACK), which tells return traffic and puts fragments
// together, and the destination NAT of kube-proxy (-100, NF_IP_PRI_NAT_DST), behind which the VIP is not seen any
// more (include/uapi/linux/netfilter_ipv4.h). nft calls this one "mangle".
const priority = nftables.ChainPriority(-150)

// loopback is the interface index of lo, in every network namespace (LOOPBACK_IFINDEX, include/net/flow.h).
const loopback = 1

// replies is IP_CT_DIR_REPLY of include/uapi/linux/netfilter/nf_conntrack_tuple_common.h.
const replies = 1

// family is what differs between IPv4 and IPv6.
type family struct {
	name     string
	proto    byte   // NFPROTO_, include/uapi/linux/netfilter.h
	offset   uint32 // of the destination address in the network header, in bytes
	length   int    // of an address, in bytes
	address  nftables.SetDatatype
	l4, port uint32 // the registers that follow an address in register 1
}

// The registers are named as the kernel names them when it lists a rule: a 16-byte one where one begins.
var families = [...]family{
	{"ipv4", unix.NFPROTO_IPV4, 16, 4, nftables.TypeIPAddr, unix.NFT_REG32_01, unix.NFT_REG32_02},
	{"ipv6", unix.NFPROTO_IPV6, 24, 16, nftables.TypeIP6Addr, unix.NFT_REG_2, unix.NFT_REG32_05},
}

func (f family) vipSet() string  { return f.name + "-vips" }
func (f family) portSet() string { return f.name + "-ports" }

func familyOf(addr netip.Addr) family {
	if addr.Is4() {
		return families[0]
	}
	return families[1]
}

// portKey is an element of the port set: the address, the protocol and the port, each filled up to a whole number
// of 32-bit registers.
func portKey(addr netip.Addr, p Port) []byte {
	key := make([]byte, 0, 24)
	key = append(key, addr.AsSlice()...)
	key = append(key, byte(p.Protocol), 0, 0, 0)
	key = binary.BigEndian.AppendUint16(key, p.Number)
	return append(key, 0, 0)
}

// readPortKey is the reverse of portKey.
func (f family) readPortKey(key []byte) (addr netip.Addr, p Port, ok bool) {
	if len(key) != f.length+8 {
		return addr, p, false
	}
	addr, ok = netip.AddrFromSlice(key[:f.length])
	rest := key[f.length:]
	return addr, Port{Protocol(rest[0]), binary.BigEndian.Uint16(rest[4:])}, ok
}

// elements are the elements of each set, by its name.
type elements map[string][]nftables.SetElement

func (e elements) put(addr netip.Addr, ports ...Port) {
	set := familyOf(addr).portSet()
	for _, p := range ports {
		e[set] = append(e[set], nftables.SetElement{Key: portKey(addr, p)})
	}
}

func (e elements) putVIP(addr netip.Addr) {
	set := familyOf(addr).vipSet()
	e[set] = append(e[set], nftables.SetElement{Key: addr.AsSlice()})
}

// count is that of all sets together.
func (e elements) count() (count int) {
	for _, of := range e {
		count += len(of)
	}
	return count
}

// change is one transaction. The zero value changes nothing.
type change struct {
	remove  bool // the table goes
	rebuild bool // the table is made anew, whatever there was: add is all that is in it
	add     elements
	del     elements
}

func (c change) nothing() bool {
	return !c.remove && !c.rebuild && c.add.count() == 0 && c.del.count() == 0
}

// plan is what makes have into want. Without guards there is no table. When what is there is not have, stale says so.
func plan(have, want guards, stale bool) change {
	c := change{add: elements{}, del: elements{}}
	switch {
	case len(want) == 0:
		c.remove = stale || len(have) > 0
		return c
	case stale || len(have) == 0:
		c.rebuild, have = true, nil
	}
	for addr, ports := range want {
		before, found := have[addr]
		if !found {
			c.add.putVIP(addr)
		} else if slices.Equal(before, ports) {
			continue
		}
		for _, p := range ports {
			if !have.allows(addr, p) {
				c.add.put(addr, p)
			}
		}
		for _, p := range before {
			if !want.allows(addr, p) {
				c.del.put(addr, p)
			}
		}
	}
	for addr, ports := range have {
		if _, stays := want[addr]; !stays {
			c.del.putVIP(addr)
			c.del.put(addr, ports...)
		}
	}
	return c
}

// layout is the table without the elements of its sets.
type layout struct {
	table  *nftables.Table
	sets   []*nftables.Set
	chains []*nftables.Chain
	rules  []*nftables.Rule
}

// newLayout is what the table of that name has to be.
func newLayout(name string) layout {
	l := layout{table: &nftables.Table{Name: name, Family: nftables.TableFamilyINet}}
	hook, at, accept := *nftables.ChainHookPrerouting, priority, nftables.ChainPolicyAccept
	in := &nftables.Chain{Table: l.table, Name: entrance, Type: nftables.ChainTypeFilter, Hooknum: &hook, Priority: &at, Policy: &accept}
	guard := &nftables.Chain{Table: l.table, Name: guarded}
	l.chains = []*nftables.Chain{in, guard}

	// What this node sends to a VIP of its own comes in by lo.
	l.rule(in, ifInterface(loopback), verdict(expr.VerdictAccept, ""))
	for _, f := range families {
		l.set(f.vipSet(), f.address)
		l.rule(in, f.destination(), inSet(f.vipSet()), verdict(expr.VerdictGoto, guarded))
	}

	// Return traffic of connections that begin here with a VIP as their source: not "established", which would let
	// connections go on to a port that was closed.
	l.rule(guard, ifReply(), verdict(expr.VerdictAccept, ""))
	// What a conntrack helper expects, a data connection of FTP: only where somebody has set up one.
	l.rule(guard, ifRelated(), verdict(expr.VerdictAccept, ""))
	// Echo, and errors such as "fragmentation needed" (RFC 1191) and "packet too big" (RFC 8201), which connections
	// need; neighbour discovery (RFC 4861), which asks a VIP directly when an entry is stale.
	l.rule(guard, ifProtocol(unix.IPPROTO_ICMP), verdict(expr.VerdictAccept, ""))
	l.rule(guard, ifProtocol(unix.IPPROTO_ICMPV6), verdict(expr.VerdictAccept, ""))
	for _, f := range families {
		l.set(f.portSet(), f.address, nftables.TypeInetProto, nftables.TypeInetService)
		l.rule(guard, f.destination(), f.protocolAndPort(), inSet(f.portSet()), verdict(expr.VerdictAccept, ""))
	}
	l.rule(guard, []expr.Any{&expr.Counter{}}, verdict(expr.VerdictDrop, ""))
	return l
}

func (l *layout) set(name string, key ...nftables.SetDatatype) {
	s := &nftables.Set{
		Table: l.table, Name: name, KeyType: key[0], KeyByteOrder: binaryutil.BigEndian,
		// The library would number sets by a counter that all its users share.
		ID: uint32(len(l.sets) + 1),
	}
	if len(key) > 1 {
		// Of at most five types, which MustConcatSetType is about.
		s.KeyType = nftables.MustConcatSetType(key...)
	}
	l.sets = append(l.sets, s)
}

func (l *layout) rule(c *nftables.Chain, parts ...[]expr.Any) {
	l.rules = append(l.rules, &nftables.Rule{Table: l.table, Chain: c, Exprs: slices.Concat(parts...)})
}

func ifInterface(index uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: binaryutil.NativeEndian.PutUint32(index)},
	}
}

func ifProtocol(number byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{number}},
	}
}

func ifReply() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{replies}},
	}
}

func ifRelated() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: unix.NFT_REG_1},
		&expr.Bitwise{
			SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitRELATED), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG_1, Data: make([]byte, 4)},
	}
}

// destination loads the destination address into register 1; packets of the other family do not match.
func (f family) destination() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{f.proto}},
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: f.offset, Len: uint32(f.length)},
	}
}

// protocolAndPort loads both behind the address. TCP, UDP and SCTP all have the destination port at byte 2.
func (f family) protocolAndPort() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: f.l4},
		&expr.Payload{DestRegister: f.port, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

func inSet(name string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: name}}
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

// sight is our table as it was found in the kernel.
type sight struct {
	absent bool
	flags  uint32 // of the table; "dormant" is one
	sets   []*nftables.Set
	chains []*nftables.Chain
	rules  []*nftables.Rule
	// elements are those of the sets; nil when they were not read.
	elements elements
}

// differs says in which way s is not the table that l and have are; "" when it is.
func (l layout) differs(have guards, s sight) string {
	switch {
	case s.absent && len(have) == 0:
		return ""
	case s.absent:
		return "the table is gone"
	case len(have) == 0:
		return "there is a table"
	case s.flags != 0:
		return fmt.Sprintf("the table has flags %#x", s.flags)
	}
	for _, d := range []struct {
		what      string
		want, got string
	}{
		{"sets", describe(l.sets, describeSet), describe(s.sets, describeSet)},
		{"chains", describe(l.chains, describeChain), describe(s.chains, describeChain)},
		{"rules", describe(l.rules, describeRule), describe(s.rules, describeRule)},
	} {
		if d.want != d.got {
			return "other " + d.what
		}
	}
	if s.elements != nil && !have.are(s.elements) {
		return "other elements"
	}
	return ""
}

// describe is one line for each, in an order that is the same however the kernel lists them.
func describe[T any](all []T, one func(T) string) string {
	lines := make([]string, len(all))
	for i, a := range all {
		lines[i] = one(a)
	}
	// Rules of a chain keep their order: the sort is stable and looks at the chain only.
	slices.SortStableFunc(lines, func(a, b string) int { return strings.Compare(title(a), title(b)) })
	return strings.Join(lines, "\n")
}

func title(line string) string {
	name, _, _ := strings.Cut(line, ":")
	return name
}

func describeSet(s *nftables.Set) string {
	return fmt.Sprintf("%s: %s %t %t %t %t", s.Name, s.KeyType.Name, s.IsMap, s.Interval, s.HasTimeout, s.Dynamic)
}

func describeChain(c *nftables.Chain) string {
	line := c.Name + ": " + string(c.Type)
	if c.Hooknum != nil && c.Priority != nil {
		line += fmt.Sprintf(" hook %d priority %d", *c.Hooknum, *c.Priority)
	}
	if c.Policy != nil {
		line += fmt.Sprintf(" policy %d", *c.Policy)
	}
	return line
}

// describeRule tells rules apart by what the kernel was given for them, but for what a counter has counted.
func describeRule(r *nftables.Rule) string {
	var b bytes.Buffer
	b.WriteString(r.Chain.Name + ":")
	for _, e := range r.Exprs {
		if _, counts := e.(*expr.Counter); counts {
			e = &expr.Counter{}
		}
		raw, err := expr.Marshal(byte(nftables.TableFamilyINet), e)
		fmt.Fprintf(&b, " %x %v", raw, err)
	}
	return b.String()
}

// are says whether e are the elements of g, and no others.
func (g guards) are(e elements) bool {
	vips, ports := 0, 0
	for _, f := range families {
		for _, v := range e[f.vipSet()] {
			addr, ok := netip.AddrFromSlice(v.Key)
			if _, wanted := g[addr]; !ok || !wanted {
				return false
			}
			vips++
		}
		for _, p := range e[f.portSet()] {
			addr, port, ok := f.readPortKey(p.Key)
			if !ok || !g.allows(addr, port) {
				return false
			}
			ports++
		}
	}
	return vips == len(g) && ports == g.ports()
}
