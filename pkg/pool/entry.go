package pool

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// entry is one entry of a pool's list.
type entry struct {
	text string // as it is written
	run  run    // what it stands for; of a network all of it
	// network is valid for one; written is the address by which it was named.
	network netip.Prefix
	written netip.Addr
}

// complaint is what is wrong with an entry, and what would be right. The zero value says that nothing is.
type complaint struct{ wrong, right string }

// forms says what an entry can be.
const forms = "write a network (192.168.0.0/24), a range (192.168.0.10-192.168.0.20) or one address"

// readEntry reads one entry, which is not empty and has no space around it.
func readEntry(text string) (entry, complaint) {
	e := entry{text: text}
	var wrong complaint
	if first, length, is := strings.Cut(text, "/"); is {
		wrong = e.readNetwork(strings.TrimSpace(first), strings.TrimSpace(length))
	} else if first, last, is := strings.Cut(text, "-"); is {
		wrong = e.readRange(strings.TrimSpace(first), strings.TrimSpace(last))
	} else if e.run.from, wrong = readAddr(text); wrong == (complaint{}) {
		e.run.to = e.run.from
	}
	if wrong == (complaint{}) {
		wrong = unfit(e.run)
	}
	return e, wrong
}

// readNetwork reads what is before and behind the slash.
func (e *entry) readNetwork(first, length string) (wrong complaint) {
	if e.written, wrong = readAddr(first); wrong != (complaint{}) {
		return wrong
	}
	bits, err := strconv.Atoi(length)
	if err != nil || bits < 0 || bits > e.written.BitLen() || strconv.Itoa(bits) != length {
		return complaint{fmt.Sprintf("its prefix length is not a number from 0 to %d", e.written.BitLen()), forms}
	}
	e.network = netip.PrefixFrom(e.written, bits).Masked()
	e.run = run{e.network.Addr(), last(e.network)}
	return complaint{}
}

// last is the last address of a network.
func last(network netip.Prefix) netip.Addr {
	b := network.Addr().AsSlice()
	for i := network.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

// readRange reads what is before and behind the hyphen.
func (e *entry) readRange(first, final string) (wrong complaint) {
	if e.run.from, wrong = readAddr(first); wrong != (complaint{}) {
		return wrong
	}
	if e.run.to, wrong = readAddr(final); wrong != (complaint{}) {
		if n, err := strconv.ParseUint(final, 10, 8); err == nil && e.run.from.Is4() {
			to := e.run.from.As4()
			to[3] = byte(n)
			wrong.right = fmt.Sprintf("write %s-%s", first, netip.AddrFrom4(to))
		}
		return wrong
	}
	switch from, to := e.run.from, e.run.to; {
	case FamilyOf(from) != FamilyOf(to):
		return complaint{"a range can not go from one address family to the other", "write a range for each family"}
	case to.Less(from):
		return complaint{"its end is before its start", fmt.Sprintf("write %s-%s", to, from)}
	}
	return complaint{}
}

// readAddr reads an address as users write it.
func readAddr(text string) (netip.Addr, complaint) {
	addr, err := netip.ParseAddr(text)
	switch {
	case text == "":
		return addr, complaint{"an address is missing", forms}
	case err != nil:
		return addr, complaint{printable(text) + " is not an IP address", forms}
	case addr.Zone() != "":
		return addr, complaint{printable(text) + " has a zone", "leave " + printable("%"+addr.Zone()) + " out, and name the interface by interface-<namespace>"}
	case addr.Is4In6():
		return addr, complaint{text + " is an IPv4 address written as IPv6", "write it as IPv4: " + addr.Unmap().String()}
	}
	return addr, complaint{}
}

// unfit says what is wrong with giving these addresses to Services.
func unfit(r run) complaint {
	if r.from == netip.IPv4Unspecified() && r.to == r.from {
		return complaint{"it asks for addresses from DHCP, which are not supported by this version", forms}
	}
	for _, kind := range []struct{ network, what string }{
		{"0.0.0.0/8", "this network, RFC 1122"},
		{"127.0.0.0/8", "loopback, RFC 1122"},
		{"224.0.0.0/4", "multicast, RFC 5771"},
		{"255.255.255.255/32", "broadcast, RFC 919"},
		{"::/128", "the unspecified address, RFC 4291"},
		{"::1/128", "the loopback address, RFC 4291"},
		{"::ffff:0:0/96", "IPv4-mapped addresses, RFC 4291"},
		{"ff00::/8", "multicast, RFC 4291"},
	} {
		network := netip.MustParsePrefix(kind.network)
		if _, overlap := r.common(run{network.Addr(), last(network)}); overlap {
			return complaint{fmt.Sprintf("it holds addresses out of %s (%s), which no host on a network can have", kind.network, kind.what),
				"write networks and ranges without them"}
		}
	}
	return complaint{}
}

// aligned says what is wrong with the way in which a network is written: people expect it to begin where they say.
func (e entry) aligned() complaint {
	if !e.network.IsValid() || e.written == e.run.from {
		return complaint{}
	}
	return complaint{fmt.Sprintf("%s is not the first address of this network, and all of it counts: %s", e.written, e.run),
		"write " + e.network.String() + ", or a range"}
}

// given is the run of addresses that are given out. With trimmed, the first and the last address of an IPv4 network
// are not, unless it has only one or two of them (RFC 3021).
func (e entry) given(trimmed bool) run {
	if r := e.run; trimmed && e.network.IsValid() && r.from.Is4() && r.from != r.to && r.from.Next() != r.to {
		return run{r.from.Next(), r.to.Prev()}
	}
	return e.run
}
