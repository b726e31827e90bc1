package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// CommunityNames are names for communities, beside the well-known ones. A value is "65000:100" (RFC 1997) or, of a large
// community, "65000:1:2" (RFC 8092).
type CommunityNames map[string]string

// wellKnown are communities that have their names from IANA's registry of well-known communities.
var wellKnown = map[string]string{
	"graceful-shutdown":   "65535:0",     // RFC 8326
	"accept-own":          "65535:1",     // RFC 7611
	"llgr-stale":          "65535:6",     // RFC 9494
	"no-llgr":             "65535:7",     // RFC 9494
	"blackhole":           "65535:666",   // RFC 7999
	"no-export":           "65535:65281", // RFC 1997
	"no-advertise":        "65535:65282", // RFC 1997
	"no-export-subconfed": "65535:65283", // RFC 1997
	"no-peer":             "65535:65284", // RFC 3765
}

// Resolve returns the community that s is or names, without leading zeros, and whether it is a large one. Names count
// as they are written, well-known ones in any case. A nil table has the well-known names alone.
func (n CommunityNames) Resolve(s string) (value string, large bool, err error) {
	if strings.Contains(s, ":") {
		return parseCommunity(s)
	}
	if value, ok := wellKnown[strings.ToLower(s)]; ok {
		return value, false, nil
	}
	if value, ok := n[s]; ok {
		return parseCommunity(value)
	}
	if err := communityName(s); err != nil {
		return "", false, err
	}
	known := map[string]string{}
	for _, names := range []map[string]string{wellKnown, n} {
		for name := range names {
			known[name] = name
		}
	}
	err = fmt.Errorf("there is no community %q", s)
	if near := nearest(s, known); near != "" {
		err = fmt.Errorf("%w; did you mean %s?", err, near)
	}
	return "", false, err
}

// split resolves a list, and sorts it by kind. What is there twice is there once.
func (n CommunityNames) split(list []string) (plain, large []string, err error) {
	var errs []error
	for _, s := range list {
		value, isLarge, err := n.Resolve(s)
		to := &plain
		if isLarge {
			to = &large
		}
		switch {
		case err != nil:
			errs = append(errs, err)
		case !slices.Contains(*to, value):
			*to = append(*to, value)
		}
	}
	return plain, large, oneLine(errs)
}

// merge is both tables in one. A name with two values is an error.
func (n CommunityNames) merge(other CommunityNames) (CommunityNames, error) {
	both := CommunityNames{}
	maps.Copy(both, n)
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(other)) {
		if value, ok := both[name]; ok && value != other[name] {
			errs = append(errs, fmt.Errorf("the community %s is %s in bgp_community_names and %s in the peers file", name, value, other[name]))
		}
		both[name] = other[name]
	}
	return both, errors.Join(errs...)
}

// parseCommunity reads a:b or a:b:c.
func parseCommunity(s string) (value string, large bool, err error) {
	parts := strings.Split(s, ":")
	bits := 16
	if len(parts) == 3 {
		bits = 32
	}
	for i, part := range parts {
		n, notNumber := strconv.ParseUint(part, 10, bits)
		if notNumber != nil || len(parts) < 2 || len(parts) > 3 {
			return "", false, fmt.Errorf("%q is not a community: want two numbers up to 65535 such as 65000:100, or three up to 4294967295 such as 65000:1:2", s)
		}
		parts[i] = strconv.FormatUint(n, 10)
	}
	return strings.Join(parts, ":"), len(parts) == 3, nil
}

// communityName accepts what can be the name of a community.
func communityName(s string) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	if s == "" || len(s) > 63 || !strings.Contains(letters, s[:1]) || strings.Trim(s, keyLetters) != "" {
		return fmt.Errorf("%q is neither a community such as 65000:100 nor a name of one", s)
	}
	return nil
}

// communities is a list of communities and names of them, separated by commas: large ones, or the others. A name may
// stand for either.
type communities struct {
	p     *[]string
	large bool
}

func (v communities) Set(s string) error {
	list, err := parseList(s, v.entry)
	if err != nil {
		return err
	}
	*v.p = list
	return nil
}

func (v communities) entry(s string) (string, error) {
	if !strings.Contains(s, ":") {
		if lower := strings.ToLower(s); wellKnown[lower] != "" {
			s = lower
		}
		return s, communityName(s)
	}
	value, large, err := parseCommunity(s)
	switch {
	case err != nil:
		return "", err
	case large && !v.large:
		return "", fmt.Errorf("%q is a large community: those have a list of their own", s)
	case !large && v.large:
		return "", fmt.Errorf("%q is not a large community: want three numbers such as 65000:1:2", s)
	}
	return value, nil
}

func (v communities) String() string { return strings.Join(*v.p, ",") }
func (v communities) Type() string   { return typeCommunities }

// communityNames is a table of names: name=value, separated by commas, or a JSON object.
type communityNames struct{ p *CommunityNames }

func (v communityNames) Set(s string) error {
	var pairs [][2]string
	if in := strings.TrimSpace(s); strings.HasPrefix(in, "{") {
		var m map[string]string
		if err := json.Unmarshal([]byte(in), &m); err != nil {
			return errors.New(`not a JSON object of strings such as {"backup":"65000:50"}`)
		}
		for _, name := range slices.Sorted(maps.Keys(m)) {
			pairs = append(pairs, [2]string{name, m[name]})
		}
	} else {
		for _, part := range splitList(s) {
			name, value, found := strings.Cut(part, "=")
			if !found {
				return fmt.Errorf("%q has no value: want name=value such as backup=65000:50", part)
			}
			pairs = append(pairs, [2]string{strings.TrimSpace(name), strings.TrimSpace(value)})
		}
	}
	table := CommunityNames{}
	var errs []error
	for _, pair := range pairs {
		errs = append(errs, table.add(pair[0], pair[1]))
	}
	if errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil }); len(errs) > 0 {
		return oneLine(errs)
	}
	if len(table) == 0 {
		table = nil
	}
	*v.p = table
	return nil
}

// add puts a name into the table that is not there yet.
func (n CommunityNames) add(name, value string) error {
	if communityName(name) != nil {
		return fmt.Errorf("%q cannot be the name of a community: want a letter, and letters, digits, '-', '_' and '.' behind it", name)
	}
	if wellKnown[strings.ToLower(name)] != "" {
		return fmt.Errorf("%s is the name of a well-known community", name)
	}
	if _, twice := n[name]; twice {
		return fmt.Errorf("%s is given twice", name)
	}
	value, _, err := parseCommunity(value)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	n[name] = value
	return nil
}

func (v communityNames) String() string {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(*v.p)) {
		pairs = append(pairs, name+"="+(*v.p)[name])
	}
	return strings.Join(pairs, ",")
}

func (v communityNames) Type() string { return "names" }

// splitList splits at commas, without the space around them. What is empty has no entries.
func splitList(s string) []string {
	if strings.TrimSpace(s) == "" {
		return nil
	}
	list := strings.Split(s, ",")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list
}
