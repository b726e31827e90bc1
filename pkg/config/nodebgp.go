package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// NodeBGP is what the annotations of a node say of BGP.
type NodeBGP struct {
	// AS is our autonomous system number.
	AS uint32
	// SourceIP is what sessions come from, and RouterID the same; not valid if that is an IPv6 address.
	SourceIP, RouterID netip.Addr
	// Peers are without defaults: see BGP.PeersOf.
	Peers []Peer
}

// Names of annotations, behind the prefix and the slash. Each may have bgp-peers-0- in front of it, and peer-ip any number
// in place of 0.
const (
	noteAS        = "node-asn"
	noteSource    = "src-ip"
	notePeerAS    = "peer-asn"
	notePeer      = "peer-ip"
	notePassword  = "bgp-pass"
	noteMultihop  = "peer-multi-hop"
	noteNumbering = "bgp-peers-"
)

// PeersFromAnnotations reads the annotations <prefix>/... of a node that name our AS, our address and our peers, in both
// forms that cloud providers write: with bgp-peers-<n>- before the name, and without. Peers are in the order of their
// numbers, after those without a number; one that is named twice is one. While some are not there yet, missing has their
// names, and the NodeBGP is empty.
//
// The error joins what cannot be understood, each line naming the annotation and never the password.
func PeersFromAnnotations(prefix string, annotations map[string]string) (node NodeBGP, missing []string, err error) {
	n := notes{prefix: prefix + "/", all: annotations}
	node.AS = n.as(noteAS)
	node.SourceIP = n.ip(noteSource)
	if node.SourceIP.Is4() {
		node.RouterID = node.SourceIP
	}
	p := Peer{AS: n.as(notePeerAS), Password: n.password(), Multihop: n.multihop()}
	for _, address := range n.peers() {
		p.Address = address
		node.Peers = append(node.Peers, p)
	}
	if len(n.missing) > 0 || len(n.errs) > 0 {
		return NodeBGP{}, n.missing, errors.Join(n.errs...)
	}
	return node, nil, nil
}

// notes are annotations of a node, and what was found wrong with them.
type notes struct {
	prefix  string
	all     map[string]string
	missing []string
	errs    []error
}

func (n *notes) bad(key, format string, args ...any) {
	n.errs = append(n.errs, fmt.Errorf("annotation %s: %w", key, fmt.Errorf(format, args...)))
}

// find returns the value of an annotation, in either form, and the key that it has.
func (n *notes) find(name string) (key, value string) {
	plain, numbered := n.prefix+name, n.prefix+noteNumbering+"0-"+name
	a, b := strings.TrimSpace(n.all[plain]), strings.TrimSpace(n.all[numbered])
	switch {
	case a == "":
		return numbered, b
	case b != "" && a != b:
		n.bad(plain, "%s says something else: keep one of them", numbered)
	}
	return plain, a
}

// need is find for what must be there.
func (n *notes) need(name string) (key, value string) {
	key, value = n.find(name)
	if value == "" {
		n.missing = append(n.missing, n.prefix+name)
	}
	return key, value
}

func (n *notes) as(name string) uint32 {
	key, value := n.need(name)
	if value == "" {
		return 0
	}
	as, err := strconv.ParseUint(value, 10, 32)
	if err != nil || as == 0 {
		n.bad(key, "%q is not a number from 1 to 4294967295", value)
	}
	return uint32(as)
}

func (n *notes) ip(name string) (a netip.Addr) {
	if key, value := n.need(name); value != "" {
		if err := (address{p: &a}).Set(value); err != nil {
			n.bad(key, "%w", err)
		}
	}
	return a
}

func (n *notes) password() Secret {
	key, value := n.find(notePassword)
	text, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		n.bad(key, "it is not base64")
		return ""
	}
	password := secretOf(text)
	if err := checkPassword(password); err != nil {
		n.bad(key, "%w", err)
	}
	return password
}

func (n *notes) multihop() (on bool) {
	if key, value := n.find(noteMultihop); value != "" {
		if err := (boolean{&on}).Set(value); err != nil {
			n.bad(key, "%w", err)
		}
	}
	return on
}

// peers are the addresses of all annotations peer-ip.
func (n *notes) peers() (list []string) {
	type numbered struct{ digits, key string }
	var keys []numbered
	for _, key := range slices.Sorted(maps.Keys(n.all)) {
		if key == n.prefix+notePeer {
			keys = append(keys, numbered{"", key})
		}
		name, ok := strings.CutPrefix(key, n.prefix+noteNumbering)
		digits, of, found := strings.Cut(name, "-")
		if ok && found && of == notePeer && digits != "" && strings.Trim(digits, "0123456789") == "" {
			keys = append(keys, numbered{digits, key})
		}
	}
	// Numbers of any length: without leading zeros the longer one is the larger one.
	slices.SortStableFunc(keys, func(a, b numbered) int {
		x, y := strings.TrimLeft(a.digits, "0"), strings.TrimLeft(b.digits, "0")
		if a.digits == "" || b.digits == "" {
			return len(a.digits) - len(b.digits)
		}
		if len(x) != len(y) {
			return len(x) - len(y)
		}
		return strings.Compare(x, y)
	})
	before := len(n.errs)
	for _, k := range keys {
		for i, part := range splitList(n.all[k.key]) {
			host, err := peerHost(part)
			switch {
			case err != nil:
				n.bad(k.key, "peer %d: %w", i+1, err)
			case !slices.Contains(list, host):
				list = append(list, host)
			}
		}
	}
	if len(list) == 0 && len(n.errs) == before {
		n.missing = append(n.missing, n.prefix+notePeer)
	}
	return list
}
