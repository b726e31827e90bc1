package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Types of values that other code asks for by name.
const (
	typeBool      = "bool"
	typeAddresses = "addresses"
	typePeers     = "peers"
	typeRanges    = "CIDRs"

	typeCommunities = "communities"
)

// text is a string that check accepts, after clean. Both may be nil.
type text struct {
	p     *string
	typ   string
	clean func(string) string
	check func(string) error
}

func (v text) Set(s string) error {
	if v.clean != nil {
		s = v.clean(s)
	}
	if v.check != nil {
		if err := v.check(s); err != nil {
			return err
		}
	}
	*v.p = s
	return nil
}

func (v text) String() string { return *v.p }

func (v text) Type() string {
	if v.typ == "" {
		return "string"
	}
	return v.typ
}

// boolean is true or false, in the spellings of strconv.ParseBool.
type boolean struct{ p *bool }

func (v boolean) Set(s string) error {
	b, err := strconv.ParseBool(strings.TrimSpace(s))
	if err != nil {
		return fmt.Errorf("%q is not true or false", s)
	}
	*v.p = b
	return nil
}

func (v boolean) String() string { return strconv.FormatBool(*v.p) }
func (v boolean) Type() string   { return typeBool }

// number is a whole number from min to max.
type number[T int | uint8 | uint16 | uint32] struct {
	p        *T
	min, max int64
}

func (v number[T]) Set(s string) error {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n < v.min || n > v.max {
		return fmt.Errorf("%q is not a whole number from %d to %d", s, v.min, v.max)
	}
	*v.p = T(n)
	return nil
}

func (v number[T]) String() string { return strconv.FormatInt(int64(*v.p), 10) }
func (v number[T]) Type() string   { return "number" }

// optional is a number of 32 bits, or nothing.
type optional struct{ p **uint32 }

func (v optional) Set(s string) error {
	var n uint32
	if strings.TrimSpace(s) == "" {
		*v.p = nil
		return nil
	}
	if err := (number[uint32]{&n, 0, 1<<32 - 1}).Set(s); err != nil {
		return err
	}
	*v.p = &n
	return nil
}

func (v optional) String() string {
	if *v.p == nil {
		return ""
	}
	return strconv.FormatUint(uint64(**v.p), 10)
}

func (v optional) Type() string { return "number" }

// secret is a text that String gives as it is, for manifests; nothing else does.
type secret struct{ p *Secret }

func (v secret) Set(s string) error {
	if err := checkPassword(Secret(s)); err != nil {
		return err
	}
	*v.p = Secret(s)
	return nil
}

func (v secret) String() string { return v.p.Reveal() }
func (v secret) Type() string   { return "string" }

// portOrZero is 0 or a port that needs no privilege.
type portOrZero struct{ p *int }

func (v portOrZero) Set(s string) error {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil || n != 0 && (n < 1024 || n > 65535) {
		return fmt.Errorf("%q is not a port from 1024 to 65535, or 0 for off", s)
	}
	*v.p = n
	return nil
}

func (v portOrZero) String() string { return strconv.Itoa(*v.p) }
func (v portOrZero) Type() string   { return "number" }

// level is a slog level, as a number or by name.
type level struct{ p *int }

func (v level) Set(s string) error {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "debug":
		*v.p = -4
	case "info":
		*v.p = 0
	case "warn", "warning":
		*v.p = 4
	case "error":
		*v.p = 8
	default:
		n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 32)
		if err != nil {
			return fmt.Errorf("%q is not a level: -4 (debug), 0 (info), 4 (warn) or 8 (error)", s)
		}
		*v.p = int(n)
	}
	return nil
}

func (v level) String() string { return strconv.Itoa(*v.p) }
func (v level) Type() string   { return "level" }

// span is a time from min to max, written as a number of units or as a Go duration such as "5s".
type span struct {
	p        *time.Duration
	unit     time.Duration // time.Second or time.Millisecond
	whole    bool          // only whole units
	min, max time.Duration
}

func (v span) Set(s string) error {
	in := strings.TrimSpace(s)
	if strings.Trim(in, "+-.0123456789") == "" {
		in += v.suffix()
	}
	d, err := time.ParseDuration(in)
	if err != nil || d < v.min || d > v.max || v.whole && d%v.unit != 0 {
		what := "a number"
		if v.whole {
			what = "a whole number"
		}
		return fmt.Errorf("%q is not %s of %s from %s to %s", s, what, v.Type(), v.format(v.min), v.format(v.max))
	}
	*v.p = d
	return nil
}

func (v span) suffix() string {
	if v.unit == time.Millisecond {
		return "ms"
	}
	return "s"
}

// format is exact: spans end far below 2^53 ns.
func (v span) format(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(v.unit), 'f', -1, 64)
}

func (v span) String() string { return v.format(*v.p) }

func (v span) Type() string {
	if v.unit == time.Millisecond {
		return "milliseconds"
	}
	return "seconds"
}

// address is one IP address, or empty.
type address struct {
	p      *netip.Addr
	only   string // "IPv4" or "IPv6"; empty takes both
	reason string
}

func (v address) Set(s string) error {
	in := strings.TrimSpace(s)
	if in == "" {
		*v.p = netip.Addr{}
		return nil
	}
	a, err := netip.ParseAddr(in)
	switch {
	case err != nil || a.Zone() != "" || a.IsUnspecified():
		return fmt.Errorf("%q is not an IP address", s)
	case a.Is4In6():
		return fmt.Errorf("%q: write it as %s", s, a.Unmap())
	case v.only == "IPv4" && !a.Is4() || v.only == "IPv6" && !a.Is6():
		return fmt.Errorf("%q is not an %s address%s", s, v.only, v.reason)
	}
	*v.p = a
	return nil
}

func (v address) String() string {
	if !v.p.IsValid() {
		return ""
	}
	return v.p.String()
}

func (v address) Type() string { return "address" }

// addresses are IP addresses and DNS names, separated by commas.
type addresses struct{ p *[]string }

func (v addresses) Set(s string) error {
	list, err := parseList(s, parseAddress)
	if err != nil {
		return err
	}
	*v.p = list
	return nil
}

func (v addresses) String() string { return strings.Join(*v.p, ",") }
func (v addresses) Type() string   { return typeAddresses }

// ranges are networks in CIDR notation, separated by commas; an address alone is a network of one.
type ranges struct{ p *[]netip.Prefix }

func (v ranges) Set(s string) error {
	list, err := parseList(s, parseRange)
	if err != nil {
		return err
	}
	*v.p = list
	return nil
}

func (v ranges) String() string {
	texts := make([]string, len(*v.p))
	for i, r := range *v.p {
		texts[i] = r.String()
	}
	return strings.Join(texts, ",")
}

func (v ranges) Type() string { return typeRanges }

// annotations is a JSON object of strings; empty is none.
type annotations struct{ p *map[string]string }

func (v annotations) Set(s string) error {
	m, err := parseAnnotations(s)
	if err != nil {
		return err
	}
	*v.p = m
	return nil
}

func (v annotations) String() string {
	if len(*v.p) == 0 {
		return ""
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b) // sorts the keys
	e.SetEscapeHTML(false)
	if err := e.Encode(*v.p); err != nil {
		panic(err) // a map of strings always encodes
	}
	return strings.TrimSpace(b.String())
}

func (v annotations) Type() string { return "JSON" }

// subnet is the prefix lengths of VIPs: "24", "64" or "24,64".
type subnet struct{ p *string }

func (v subnet) Set(s string) error {
	four, six, err := parseSubnet(s)
	if err != nil {
		return err
	}
	*v.p = formatSubnet(four, six)
	return nil
}

func (v subnet) String() string { return *v.p }
func (v subnet) Type() string   { return "lengths" }

// Each can be the value of a flag.
var (
	_ pflag.Value = text{}
	_ pflag.Value = boolean{}
	_ pflag.Value = number[int]{}
	_ pflag.Value = portOrZero{}
	_ pflag.Value = level{}
	_ pflag.Value = span{}
	_ pflag.Value = address{}
	_ pflag.Value = addresses{}
	_ pflag.Value = ranges{}
	_ pflag.Value = annotations{}
	_ pflag.Value = subnet{}
	_ pflag.Value = optional{}
	_ pflag.Value = secret{}
	_ pflag.Value = peers{}
	_ pflag.Value = communities{}
	_ pflag.Value = communityNames{}
)
