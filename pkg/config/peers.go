package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// peers is a list of BGP peers, kept as it was written:
//
//	addr:AS[:password[:multihop[:port[:mpbgp[:bfd]]]]]
//
// separated by commas. addr is an IPv4 address or host name, an IPv6 address in brackets, or unnumbered:<interface>.
type peers struct{ p *string }

func (v peers) Set(s string) error {
	list := splitPeers(s)
	var errs []error
	for i, peer := range list {
		if err := checkPeer(peer); err != nil {
			// The entry is not quoted: it may hold a password.
			errs = append(errs, fmt.Errorf("peer %d: %w", i+1, err))
		}
	}
	if len(errs) > 0 {
		return oneLine(errs)
	}
	*v.p = strings.Join(list, ",")
	return nil
}

func (v peers) String() string { return *v.p }
func (v peers) Type() string   { return typePeers }

func splitPeers(s string) []string {
	if strings.TrimSpace(s) == "" {
		return nil
	}
	list := strings.Split(s, ",")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list
}

// cutPeer splits a peer into its address and the fields behind it.
func cutPeer(s string) (addr string, rest []string, err error) {
	if name, ok := strings.CutPrefix(s, "unnumbered:"); ok {
		link, rest, found := strings.Cut(name, ":")
		if link == "" || interfaceName(link) != nil {
			return "", nil, errors.New("unnumbered: is not followed by the name of an interface")
		}
		if !found {
			return "unnumbered:" + link, nil, nil
		}
		return "unnumbered:" + link, strings.Split(rest, ":"), nil
	}
	if strings.HasPrefix(s, "[") {
		addr, rest, found := strings.Cut(s[1:], "]")
		a, err := netip.ParseAddr(addr)
		if !found || err != nil || !a.Is6() {
			return "", nil, errors.New("the brackets do not hold an IPv6 address")
		}
		if rest == "" {
			return "[" + addr + "]", nil, nil
		}
		if rest[0] != ':' {
			return "", nil, errors.New("want a colon behind the bracket")
		}
		return "[" + addr + "]", strings.Split(rest[1:], ":"), nil
	}
	parts := strings.Split(s, ":")
	if _, err := netip.ParseAddr(parts[0]); err != nil && !isSubdomain(strings.ToLower(parts[0])) {
		return "", nil, errors.New("it does not begin with an address (IPv6 goes in brackets)")
	}
	return parts[0], parts[1:], nil
}

func checkPeer(s string) error {
	addr, rest, err := cutPeer(s)
	if err != nil {
		return err
	}
	if len(rest) > 6 {
		return errors.New("there are too many fields: want addr:AS[:password[:multihop[:port[:mpbgp[:bfd]]]]]")
	}
	field := func(i int) string {
		if i < len(rest) {
			return rest[i]
		}
		return ""
	}
	if as, err := strconv.ParseUint(field(0), 10, 32); (err != nil || as == 0) && (!strings.HasPrefix(addr, "unnumbered:") || field(0) != "") {
		return errors.New("the AS behind the address is not a number from 1 to 4294967295")
	}
	if hop := field(2); hop != "" {
		if _, err := strconv.ParseBool(hop); err != nil {
			return errors.New("multihop (the fourth field) is not true or false")
		}
	}
	if port := field(3); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("the port (the fifth field) is not a number from 1 to 65535")
		}
	}
	return nil
}

// hasPassword tells whether one of the peers has a password.
func hasPassword(list string) bool {
	for _, peer := range splitPeers(list) {
		if _, rest, err := cutPeer(peer); err == nil && len(rest) > 1 && rest[1] != "" {
			return true
		}
	}
	return false
}

// redactPeers puts "***" in place of passwords.
func redactPeers(list string) string {
	shown := splitPeers(list)
	for i, peer := range shown {
		addr, rest, err := cutPeer(peer)
		if err != nil {
			shown[i] = "***"
			continue
		}
		if len(rest) > 1 && rest[1] != "" {
			rest[1] = "***"
		}
		shown[i] = strings.Join(append([]string{addr}, rest...), ":")
	}
	return strings.Join(shown, ",")
}
