package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// PeersText is a list of BGP peers as it was written:
//
//	addr:AS[:password[:multihop[:port[:mpbgp[:bfd]]]]]
//
// separated by commas. It prints without the passwords in it.
type PeersText string

// String is the text with "***" in place of passwords.
func (t PeersText) String() string { return redactPeers(string(t)) }

// Format prints String, whatever the verb.
func (t PeersText) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(t.String())) }

// MarshalText gives String, for JSON and logs.
func (t PeersText) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// peers is a PeersText, checked.
type peers struct{ p *PeersText }

func (v peers) Set(s string) error {
	list := splitList(s)
	var errs []error
	for i, peer := range list {
		if _, err := parsePeer(peer); err != nil {
			// The entry is not quoted: it may hold a password.
			errs = append(errs, fmt.Errorf("peer %d: %w", i+1, err))
		}
	}
	if len(errs) > 0 {
		return oneLine(errs)
	}
	*v.p = PeersText(strings.Join(list, ","))
	return nil
}

func (v peers) String() string { return string(*v.p) }
func (v peers) Type() string   { return typePeers }

// cutPeer splits a peer into its address as it was written and the fields behind it. A colon in an IPv6 address separates
// nothing: addresses of peers are in brackets, those of the mpbgp field may be.
func cutPeer(s string) (addr string, fields []string, err error) {
	if name, ok := strings.CutPrefix(s, unnumbered); ok {
		link, rest, found := strings.Cut(name, ":")
		if link == "" || interfaceName(link) != nil {
			return "", nil, errors.New("unnumbered: is not followed by the name of an interface")
		}
		return unnumbered + link, cutFields(rest, found), nil
	}
	if strings.HasPrefix(s, "[") {
		addr, rest, found := strings.Cut(s[1:], "]")
		if a, err := netip.ParseAddr(addr); !found || err != nil || !a.Is6() {
			return "", nil, errors.New("the brackets do not hold an IPv6 address")
		}
		if _, err := peerHost(addr); err != nil {
			return "", nil, err
		}
		if rest != "" && rest[0] != ':' {
			return "", nil, errors.New("want a colon behind the bracket")
		}
		return "[" + addr + "]", cutFields(strings.TrimPrefix(rest, ":"), rest != ""), nil
	}
	addr, rest, found := strings.Cut(s, ":")
	if _, err := peerHost(addr); err != nil {
		return "", nil, errors.New("it does not begin with an address (IPv6 goes in brackets)")
	}
	return addr, cutFields(rest, found), nil
}

// Fields behind the address.
const (
	fieldAS = iota
	fieldPassword
	fieldMultihop
	fieldPort
	fieldMPBGP
	fieldBFD
	fieldCount
)

// cutFields splits what is behind an address and its colon, if there was one.
func cutFields(s string, any bool) []string {
	if !any {
		return nil
	}
	fields := strings.Split(s, ":")
	for i := fieldPort; i < len(fields); i++ {
		if !isMPBGP(fields[i]) {
			continue
		}
		mpbgp := strings.Join(fields[i:], ":")
		fields = append(fields[:i:i], mpbgp)
		// The last colon separates the bfd field, unless it is one of an address.
		if j := strings.LastIndexByte(mpbgp, ':'); j > 0 {
			last := mpbgp[j+1:]
			ofAddress := strings.HasSuffix(mpbgp, "::") && !strings.HasSuffix(mpbgp, ":::")
			if isBFD(last) || last == "" && !ofAddress {
				fields = append(fields[:i:i], mpbgp[:j], last)
			}
		}
		break
	}
	return withPort(fields)
}

// withPort puts an empty port where the form addr:AS:password:multihop:mpbgp:bfd leaves it out, which shows by a field that
// can be none.
func withPort(fields []string) []string {
	if len(fields) <= fieldPort || len(fields) > fieldBFD {
		return fields
	}
	head, tail := fields[:fieldPort:fieldPort], fields[fieldPort:]
	last := tail[len(tail)-1]
	switch {
	case isMPBGP(tail[0]):
		return slices.Concat(head, []string{""}, tail)
	case isBFD(last) && (len(tail) == 1 || tail[0] == ""):
		return slices.Concat(head, []string{"", "", last})
	}
	return fields
}

func isMPBGP(field string) bool { return strings.HasPrefix(field, "mpbgp_") }

func isBFD(field string) bool {
	return strings.Contains(field, ";") && !strings.ContainsAny(field, "=]") && !isMPBGP(field)
}

// parsePeer reads one peer. The error names the field, and quotes nothing: a password may be in the wrong place.
func parsePeer(s string) (draft, error) {
	addr, fields, err := cutPeer(s)
	if err != nil {
		return draft{}, err
	}
	if len(fields) > fieldCount {
		return draft{}, errors.New("there are too many fields: want addr:AS[:password[:multihop[:port[:mpbgp[:bfd]]]]]")
	}
	fields = append(fields, make([]string, fieldCount-len(fields))...)
	var d draft
	if link, ok := strings.CutPrefix(addr, unnumbered); ok {
		d.Interface = link
	} else if d.Address, err = peerHost(strings.Trim(addr, "[]")); err != nil {
		return draft{}, err
	}
	if as := fields[fieldAS]; as != "" || d.Interface == "" {
		n, err := strconv.ParseUint(as, 10, 32)
		if err != nil || n == 0 {
			return draft{}, errors.New("the AS behind the address is not a number from 1 to 4294967295")
		}
		d.AS = uint32(n)
	}
	d.Password = Secret(fields[fieldPassword])
	if hop := fields[fieldMultihop]; hop != "" {
		if d.Multihop, err = strconv.ParseBool(hop); err != nil {
			return draft{}, errors.New("multihop (the fourth field) is not true or false")
		}
	}
	if port := fields[fieldPort]; port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return draft{}, errors.New("the port (the fifth field) is not a number from 1 to 65535")
		}
		d.Port = uint16(n)
	}
	if d.NextHop, err = parseNextHop(fields[fieldMPBGP]); err != nil {
		return draft{}, err
	}
	if d.BFD, err = parseBFD(fields[fieldBFD]); err != nil {
		return draft{}, err
	}
	return d, oneLine(d.check())
}

// parseNextHop reads mpbgp_nexthop=…;mpbgp_ipv4=…;mpbgp_ipv6=…, in any order, or nothing.
func parseNextHop(s string) (NextHop, error) {
	var n NextHop
	seen := map[string]bool{}
	for part := range strings.SplitSeq(s, ";") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		key, value, _ := strings.Cut(part, "=")
		var to pflag.Value
		var want string
		switch key {
		case "mpbgp_nexthop":
			to, want = nextHopMode(&n), "one of "+strings.Join(nextHopModes(), ", ")
		case "mpbgp_ipv4":
			to, want = nextHopIPv4(&n), "an IPv4 address"
		case "mpbgp_ipv6":
			to, want = nextHopIPv6(&n), "an IPv6 address"
			value = strings.TrimSuffix(strings.TrimPrefix(value, "["), "]")
		default:
			return NextHop{}, errors.New("the mpbgp field has a key other than mpbgp_nexthop, mpbgp_ipv4 and mpbgp_ipv6")
		}
		if seen[key] {
			return NextHop{}, fmt.Errorf("%s is there twice", key)
		}
		seen[key] = true
		if err := to.Set(value); err != nil {
			return NextHop{}, fmt.Errorf("%s is not %s", key, want)
		}
	}
	return n, nil
}

func nextHopModes() []string { return []string{NextHopFixed, NextHopSourceIP, NextHopSourceInterface} }

// The values of a NextHop, each of which can be empty.
func nextHopMode(n *NextHop) pflag.Value {
	return text{p: &n.Mode, clean: strings.TrimSpace, check: orEmpty(oneOf(nextHopModes()))}
}

func nextHopIPv4(n *NextHop) pflag.Value {
	return address{p: &n.IPv4, only: "IPv4", reason: ", as the next hop of IPv4 routes is"}
}

func nextHopIPv6(n *NextHop) pflag.Value {
	return address{p: &n.IPv6, only: "IPv6", reason: ", as the next hop of IPv6 routes is"}
}

// parseBFD reads enable;rx;tx;multiplier, or nothing. Times are milliseconds.
func parseBFD(s string) (BFD, error) {
	var f BFD
	if s == "" {
		return f, nil
	}
	values := strings.Split(s, ";")
	if len(values) != 4 {
		return f, errors.New("the bfd field does not have the four values enable;rx;tx;multiplier")
	}
	on := strings.TrimSpace(values[0])
	if on == "enable" {
		on = "true"
	}
	for i, v := range []struct {
		to   pflag.Value
		text string
		want string
	}{
		{boolean{&f.Enable}, on, "enable, in the bfd field, is not true or false"},
		{bfdInterval(&f.MinRx), values[1], "rx, in the bfd field, is not a number of milliseconds from 10 to 60000"},
		{bfdInterval(&f.MinTx), values[2], "tx, in the bfd field, is not a number of milliseconds from 10 to 60000"},
		{number[uint8]{&f.Multiplier, 1, 255}, values[3], "multiplier, in the bfd field, is not a number from 1 to 255"},
	} {
		if i > 0 && strings.TrimSpace(v.text) == "" {
			continue
		}
		if v.to.Set(v.text) != nil {
			return BFD{}, errors.New(v.want)
		}
	}
	return f.filled(), nil
}

func bfdInterval(p *time.Duration) pflag.Value {
	return span{p: p, unit: time.Millisecond, min: minBFDInterval, max: maxBFDInterval}
}

// hasPassword tells whether one of the peers has a password.
func hasPassword(list string) bool {
	for _, peer := range splitList(list) {
		if d, err := parsePeer(peer); err == nil && d.Password != "" {
			return true
		}
	}
	return false
}

// redactPeers puts "***" in place of passwords, and of peers that cannot be read.
func redactPeers(list string) string {
	shown := splitList(list)
	for i, peer := range shown {
		addr, fields, err := cutPeer(peer)
		if _, unread := parsePeer(peer); err != nil || unread != nil {
			shown[i] = "***"
			continue
		}
		if len(fields) > fieldPassword && fields[fieldPassword] != "" {
			fields[fieldPassword] = "***"
		}
		shown[i] = strings.Join(append([]string{addr}, fields...), ":")
	}
	return strings.Join(shown, ",")
}
