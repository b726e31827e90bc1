package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// PeersFile is what a peers file says: peers, for BGP.PeersWith to complete, and names of communities. Its zero value says
// nothing.
type PeersFile struct {
	// Communities are for peers of the file and for whoever else names communities (BGP.Names).
	Communities CommunityNames

	drafts []draft
}

// ReadPeersFile reads and parses a peers file.
func ReadPeersFile(path string) (PeersFile, error) {
	data, err := readBounded("peers file", path)
	if err != nil {
		return PeersFile{}, err
	}
	file, err := ParsePeersFile(data)
	if err != nil {
		var lines []error
		for line := range strings.Lines(err.Error()) {
			lines = append(lines, fmt.Errorf("peers file %s: %s", path, strings.TrimSuffix(line, "\n")))
		}
		return PeersFile{}, errors.Join(lines...)
	}
	return file, nil
}

// ParsePeersFile parses the YAML, or JSON, of a peers file. It is strict: what it does not know, and what is there twice, is
// an error. The error joins everything that is wrong, each line naming the peer and the field as they are written, and
// never a password.
func ParsePeersFile(data []byte) (PeersFile, error) {
	if err := oneDocument(data); err != nil {
		return PeersFile{}, err
	}
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return PeersFile{}, withoutValues(err)
	}
	top, err := mapping(asJSON)
	if err != nil {
		return PeersFile{}, errors.New("want a mapping with peers, communities or both at the top")
	}
	var file PeersFile
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(top)) {
		switch raw := top[key]; key {
		case "peers":
			drafts, problems := parsePeers(raw)
			file.drafts, errs = drafts, append(errs, problems...)
		case "communities":
			if err := setNames(&file.Communities, raw); err != nil {
				errs = append(errs, fmt.Errorf("communities: %w", err))
			}
		default:
			errs = append(errs, fmt.Errorf("%q: want peers and communities only", key))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return PeersFile{}, err
	}
	return file, nil
}

// quoted is what YAML's errors quote of values.
var quoted = regexp.MustCompile("(?s)`.*`|'.*'")

// withoutValues is an error of the YAML parser in one line, without the values that it quotes: one may be a password.
func withoutValues(err error) error {
	return errors.New(strings.Join(strings.Fields(quoted.ReplaceAllString(err.Error(), "***")), " "))
}

// mapping takes an object apart; null is an empty one.
func mapping(raw json.RawMessage) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	err := json.Unmarshal(raw, &m)
	return m, err
}

func setNames(names *CommunityNames, raw json.RawMessage) error {
	m, err := mapping(raw)
	if err != nil {
		return errors.New("want a mapping of names to communities")
	}
	if len(m) == 0 {
		return nil
	}
	return communityNames{names}.Set(string(raw))
}

func parsePeers(raw json.RawMessage) (drafts []draft, errs []error) {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		return nil, []error{errors.New("peers: want a list")}
	}
	for i, item := range list {
		d := draft{where: fmt.Sprintf("peer %d of the peers file", i+1), wrote: map[string]bool{}}
		say := func(err error) {
			name := fmt.Sprintf("peer %d", i+1)
			if s := d.String(); s != "" {
				name += " (" + s + ")"
			}
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		fields, err := mapping(item)
		if err != nil || len(fields) == 0 {
			say(errors.New("want a mapping of fields to values"))
			continue
		}
		problems := setFields(&d, "", peerFields(), fields)
		if len(problems) == 0 {
			problems = d.check()
			if err := d.checkTimers(); err != nil {
				problems = append(problems, err)
			}
		}
		for _, problem := range problems {
			say(problem)
		}
		drafts = append(drafts, d)
	}
	return drafts, errs
}

// checkTimers looks at timers that were both written.
func (d draft) checkTimers() error {
	if d.wrote["holdTime"] && d.wrote["keepaliveInterval"] {
		return checkTimers(d.HoldTime, d.KeepaliveInterval)
	}
	return nil
}

// peerField is a field of a peer in the peers file: a value, a list of values, or a mapping with fields of its own.
type peerField struct {
	name string
	// usage and example are for the documentation, the latter in YAML.
	usage, example string
	// bind takes the text of the value, or those of a list with commas in between. nil where there are fields.
	bind   func(*draft) pflag.Value
	list   bool
	fields []peerField
	// quoted values must be texts in YAML, too: a number or a word such as yes would not be what was written.
	quoted bool
	// object values may be mappings, which bind takes as JSON.
	object bool
}

// peerFields is the table of fields, in the order in which they are documented.
func peerFields() []peerField {
	return []peerField{
		{
			name: "address", usage: "IP address or host name of the peer", example: "192.0.2.254",
			bind: func(d *draft) pflag.Value {
				return text{p: &d.Address, clean: canonicalHost, check: func(s string) error { _, err := peerHost(s); return err }}
			},
		},
		{
			name: "interface", usage: "in place of an address: the link with an unnumbered peer", example: "eth1",
			bind: func(d *draft) pflag.Value { return text{p: &d.Interface, check: someInterface} },
		},
		{
			name: "as", usage: "autonomous system number of the peer; an unnumbered one needs none", example: "65000",
			bind: func(d *draft) pflag.Value { return number[uint32]{&d.AS, 1, 1<<32 - 1} },
		},
		{
			name: "password", usage: "TCP MD5 password (RFC 2385), at most 80 bytes", example: `"..."`, quoted: true,
			bind: func(d *draft) pflag.Value { return secret{&d.Password} },
		},
		{
			name: "passwordSecret", usage: "in place of a password: the Secret that has it, which is the one of `bgp_password_secret` if there is no name, and the key in it, which is `password` if there is none",
			example: "{name: tor-1, key: password}",
			fields: []peerField{
				{name: "namespace", bind: func(d *draft) pflag.Value { return text{p: &d.PasswordSecret.Namespace, check: namespaceName} }},
				{name: "name", bind: func(d *draft) pflag.Value { return text{p: &d.PasswordSecret.Name, check: objectName} }},
				{name: "key", bind: func(d *draft) pflag.Value { return text{p: &d.PasswordSecret.Key, check: secretKey} }},
			},
		},
		{
			name: "port", usage: "port of the peer; 179 if left out", example: "1179",
			bind: func(d *draft) pflag.Value { return number[uint16]{&d.Port, 1, 65535} },
		},
		{
			name: "passive", usage: "wait for the peer to open the session", example: "true",
			bind: func(d *draft) pflag.Value { return boolean{&d.Passive} },
		},
		{
			name: "multihop", usage: "the peer is more than one hop away", example: "true",
			bind: func(d *draft) pflag.Value { return boolean{&d.Multihop} },
		},
		{
			name: "ttl", usage: "TTL of packets to the peer", example: "5",
			bind: func(d *draft) pflag.Value { return number[uint8]{&d.TTL, 1, 255} },
		},
		{
			name: "ttlSecurity", usage: "how many hops away the peer is at most, and packets from farther away do not count (RFC 5082); not together with `multihop` and `ttl`", example: "1",
			bind: func(d *draft) pflag.Value { return number[uint8]{&d.TTLSecurity, 1, 254} },
		},
		{
			name: "sourceIP", usage: "address that the session comes from", example: "192.0.2.1",
			bind: func(d *draft) pflag.Value { return address{p: &d.SourceIP} },
		},
		{
			name: "sourceInterface", usage: "interface that the session goes out of; not together with `sourceIP`", example: "eth0",
			bind: func(d *draft) pflag.Value { return text{p: &d.SourceInterface, check: someInterface} },
		},
		{
			name: "families", usage: "families of routes; if left out, that of the session, or both for an unnumbered peer and with `nextHop`", example: "[ipv4, ipv6]", list: true,
			bind: func(d *draft) pflag.Value { return families{&d.Families} },
		},
		{
			name: "nextHop", usage: "as `mpbgp_nexthop`, `mpbgp_ipv4` and `mpbgp_ipv6`", example: `{mode: fixed, ipv6: "2001:db8::1"}`,
			fields: []peerField{
				{name: "mode", bind: func(d *draft) pflag.Value { return text{p: &d.NextHop.Mode, check: oneOf(nextHopModes())} }},
				{name: "ipv4", bind: func(d *draft) pflag.Value { return nextHopIPv4(&d.NextHop) }},
				{name: "ipv6", bind: func(d *draft) pflag.Value { return nextHopIPv6(&d.NextHop) }},
			},
		},
		{
			name: "nodeSelector", usage: "labels of the nodes that have this peer, as a mapping or as a selector in one text", example: "{rack: a}", object: true,
			bind: func(d *draft) pflag.Value { return nodeSelector{&d.NodeSelector} },
		},
		{
			name: "holdTime", usage: "seconds of silence after which the session is over, or a time such as 9s; 0 or at least 3", example: "9",
			bind: func(d *draft) pflag.Value { return peerSeconds(&d.HoldTime, 0) },
		},
		{
			name: "keepaliveInterval", usage: "seconds between two keepalives; a third of `holdTime` at most, if left out", example: "3",
			bind: func(d *draft) pflag.Value { return peerSeconds(&d.KeepaliveInterval, time.Second) },
		},
		{
			name: "connectRetry", usage: "seconds between two attempts to open the session; 5 if left out", example: "10",
			bind: func(d *draft) pflag.Value { return peerSeconds(&d.ConnectRetry, time.Second) },
		},
		{
			name: "gracefulRestart", usage: "as `bgp_graceful_restart`, and for how many seconds the peer keeps routes, which is the hold time if left out", example: "{enable: true, restartTime: 60}",
			fields: []peerField{
				{name: "enable", bind: func(d *draft) pflag.Value { return boolean{&d.GracefulRestart.Enable} }},
				{name: "restartTime", bind: func(d *draft) pflag.Value {
					return span{p: &d.GracefulRestart.RestartTime, unit: time.Second, whole: true, min: time.Second, max: maxRestartTime}
				}},
			},
		},
		{
			name: "bfd", usage: "find within a few packets' time that the peer cannot be reached (RFC 5880): the intervals in milliseconds, from 10 to 60000, at which we can receive and would like to send, and how many packets may be lost; 300, 300 and 3 if left out, and on unless `enable` is false", example: "{minRx: 50, minTx: 50, multiplier: 3}",
			fields: []peerField{
				{name: "enable", bind: func(d *draft) pflag.Value { return boolean{&d.BFD.Enable} }},
				{name: "minRx", bind: func(d *draft) pflag.Value { return bfdInterval(&d.BFD.MinRx) }},
				{name: "minTx", bind: func(d *draft) pflag.Value { return bfdInterval(&d.BFD.MinTx) }},
				{name: "multiplier", bind: func(d *draft) pflag.Value { return number[uint8]{&d.BFD.Multiplier, 1, 255} }},
			},
		},
		{
			name: "communities", usage: "as `bgp_communities`, in place of those; an empty list is none", example: "[\"65000:100\", no-export]", list: true,
			bind: func(d *draft) pflag.Value { return communities{p: &d.Communities} },
		},
		{
			name: "largeCommunities", usage: "as `bgp_large_communities`, in place of those", example: "[\"65000:1:2\"]", list: true,
			bind: func(d *draft) pflag.Value { return communities{p: &d.LargeCommunities, large: true} },
		},
		{
			name: "localPref", usage: "as `bgp_local_pref`", example: "200",
			bind: func(d *draft) pflag.Value { return optional{&d.LocalPref} },
		},
		{
			name: "med", usage: "as `bgp_med`", example: "50",
			bind: func(d *draft) pflag.Value { return optional{&d.MED} },
		},
		{
			name: "prepend", usage: "as `bgp_prepend`", example: "2",
			bind: func(d *draft) pflag.Value { return number[uint8]{&d.Prepend, 0, maxPrepend} },
		},
		{
			name: "aggregationLength4", usage: "prefix length of IPv4 routes; 32 if left out", example: "24",
			bind: func(d *draft) pflag.Value { return number[int]{&d.AggregationLength4, 1, 32} },
		},
		{
			name: "aggregationLength6", usage: "prefix length of IPv6 routes; 128 if left out", example: "64",
			bind: func(d *draft) pflag.Value { return number[int]{&d.AggregationLength6, 1, 128} },
		},
	}
}

// peerSeconds are as BGP has them in 16 bits (RFC 4271 section 4.2).
func peerSeconds(p *time.Duration, least time.Duration) pflag.Value {
	return span{p: p, unit: time.Second, whole: true, min: least, max: 65535 * time.Second}
}

func canonicalHost(s string) string {
	if host, err := peerHost(s); err == nil {
		return host
	}
	return s
}

func someInterface(s string) error {
	if s == "" {
		return errors.New("it is empty: want the name of an interface")
	}
	return interfaceName(s)
}

func objectName(s string) error {
	if !isSubdomain(s) {
		return fmt.Errorf("%q is not the name of a Secret", s)
	}
	return nil
}

// setFields sets fields of a peer from their values, and notes in wrote which were there. path is empty or ends in a dot.
func setFields(d *draft, path string, table []peerField, values map[string]json.RawMessage) (problems []error) {
	known := map[string]string{}
	for _, f := range table {
		known[f.name] = f.name
		raw, ok := values[f.name]
		if !ok || raw[0] == 'n' { // null
			continue
		}
		d.wrote[path+f.name] = true
		say := func(err error) { problems = append(problems, fmt.Errorf("%s%s: %w", path, f.name, err)) }
		if f.bind == nil {
			fields, err := mapping(raw)
			if err != nil {
				say(errors.New("want a mapping of fields to values"))
				continue
			}
			problems = append(problems, setFields(d, path+f.name+".", f.fields, fields)...)
			continue
		}
		text, err := f.text(raw)
		if err == nil {
			err = f.bind(d).Set(text)
		}
		if err != nil {
			say(err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if known[name] != "" {
			continue
		}
		err := fmt.Errorf("%s%s: there is no field of this name", path, name)
		if near := nearest(name, known); near != "" {
			err = fmt.Errorf("%w; did you mean %s?", err, near)
		}
		problems = append(problems, err)
	}
	return problems
}

// text is a value as bind takes it.
func (f peerField) text(raw json.RawMessage) (string, error) {
	raw = bytes.TrimSpace(raw)
	switch kind := raw[0]; {
	case f.list != (kind == '['):
		if f.list {
			return "", errors.New("want a list")
		}
		return "", errors.New("want one value, not a list")
	case kind == '{' && !f.object:
		return "", errors.New("want a plain value, not a mapping")
	case f.quoted && kind != '"':
		return "", errors.New("want a text: write it in quotes")
	}
	text, _, err := scalar(raw)
	return text, err
}

// families are FamilyIPv4, FamilyIPv6 or both.
type families struct{ p *[]string }

func (v families) Set(s string) error {
	given := splitList(s)
	for i, f := range given {
		if err := oneOf([]string{FamilyIPv4, FamilyIPv6})(f); err != nil {
			return err
		}
		if slices.Contains(given[:i], f) {
			return fmt.Errorf("%q is given twice", f)
		}
	}
	if len(given) == 0 {
		return errors.New("it is empty: leave it out, or want ipv4, ipv6 or both")
	}
	slices.Sort(given)
	*v.p = given
	return nil
}

func (v families) String() string { return strings.Join(*v.p, ",") }
func (v families) Type() string   { return "families" }

// nodeSelector is a label selector in Kubernetes' notation, or a JSON object of labels.
type nodeSelector struct{ p *string }

func (v nodeSelector) Set(s string) error {
	if in := strings.TrimSpace(s); strings.HasPrefix(in, "{") {
		var m map[string]string
		if err := json.Unmarshal([]byte(in), &m); err != nil {
			return errors.New("want a mapping of labels to texts (numbers and true go in quotes)")
		}
		selector, err := labels.ValidatedSelectorFromSet(m)
		if err != nil {
			return errors.New(strings.Join(strings.Fields(err.Error()), " "))
		}
		*v.p = selector.String()
		return nil
	}
	selector, err := labels.Parse(s)
	if err != nil {
		return errors.New(strings.Join(strings.Fields(err.Error()), " "))
	}
	*v.p = selector.String()
	return nil
}

func (v nodeSelector) String() string { return *v.p }
func (v nodeSelector) Type() string   { return "selector" }
