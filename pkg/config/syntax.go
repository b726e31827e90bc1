package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// parseList reads entries that are separated by commas, each of which may be there once; nil for none. What is wrong with
// any of them takes one line.
func parseList[T comparable](s string, parse func(string) (T, error)) ([]T, error) {
	var list []T
	var errs []error
	for _, part := range splitList(s) {
		one, err := parse(part)
		switch {
		case err != nil:
			errs = append(errs, err)
		case slices.Contains(list, one):
			errs = append(errs, fmt.Errorf("%q is given twice", fmt.Sprint(one)))
		default:
			list = append(list, one)
		}
	}
	if len(errs) > 0 {
		return nil, oneLine(errs)
	}
	return list, nil
}

// parseAddress accepts what can be a VIP: an address that can be someone's, or a DNS name of one.
func parseAddress(s string) (string, error) {
	if s == "" {
		return "", errors.New("there is an empty entry in the list of addresses")
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return parseName(s)
	}
	no := func(why string) (string, error) { return "", fmt.Errorf("%q cannot be a VIP: %s", s, why) }
	switch {
	case a.Zone() != "":
		return no("write it without %" + a.Zone() + " and set the interface")
	case a.Is4In6():
		return no("write it as " + a.Unmap().String())
	case a.IsUnspecified():
		return no("it is the unspecified address (addresses from DHCP are not supported yet by this version)")
	case a.IsLoopback():
		return no("it is a loopback address")
	case a.IsMulticast():
		return no("it is a multicast address")
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return no("it is the broadcast address")
	case a.Is4() && a.As4()[0] == 0:
		return no("it is in 0.0.0.0/8")
	}
	return a.String(), nil
}

func parseRange(s string) (netip.Prefix, error) {
	r, err := netip.ParsePrefix(s)
	if a, notAddr := netip.ParseAddr(s); notAddr == nil && a.Zone() == "" {
		r, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case s == "":
		return r, errors.New("there is an empty entry in the list of networks")
	case err != nil:
		return r, fmt.Errorf("%q is not a network: want CIDR notation such as 10.0.0.0/24", s)
	case r.Addr().Is4In6():
		return r, fmt.Errorf("%q is not a network: write it as one of IPv4, such as 10.0.0.0/24", s)
	case r != r.Masked():
		return r, fmt.Errorf("%q is not a network: it has bits beyond its length; write %s", s, r.Masked())
	}
	return r, nil
}

// parseName accepts a DNS host name (RFC 1123 section 2.1). A last label of digits is a mistyped address (RFC 3696 section 2).
func parseName(s string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(s, "."))
	if p, err := netip.ParsePrefix(s); err == nil {
		return "", fmt.Errorf("%q is not an address: write %s, and the prefix length as --vipSubnet (env vip_subnet)", s, p.Addr())
	}
	if h, port, err := net.SplitHostPort(s); err == nil && h != "" {
		return "", fmt.Errorf("%q is not an address: write %s, and the port as --port=%s (env port)", s, h, port)
	}
	if strings.HasPrefix(s, "[") {
		return "", fmt.Errorf("%q is not an address: write it without brackets", s)
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	if !isSubdomain(name) || last == "" || strings.Trim(last, "0123456789") == "" {
		return "", fmt.Errorf("%q is neither an IP address nor a DNS name", s)
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return "", fmt.Errorf("%q cannot be a VIP: it names the loopback address", s)
	}
	return name, nil
}

// isSubdomain tells whether s is what Kubernetes takes as the name of an object (RFC 1123 subdomain).
func isSubdomain(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

// isLabel tells whether s is a DNS label in lower case.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func parseAnnotations(s string) (map[string]string, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var m map[string]string
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		return nil, fmt.Errorf(`not a JSON object of strings such as {"team":"net"}: %w`, err)
	}
	var errs []error
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !isQualifiedName(k) {
			errs = append(errs, fmt.Errorf("%q is not the name of an annotation", k))
		}
	}
	if len(errs) > 0 {
		return nil, oneLine(errs)
	}
	if len(m) == 0 {
		return nil, nil
	}
	return m, nil
}

// isQualifiedName tells whether s is [DNS-prefix/]name, as Kubernetes wants the keys of annotations.
func isQualifiedName(s string) bool {
	prefix, name, found := strings.Cut(s, "/")
	if !found {
		name = s
	} else if !isSubdomain(strings.ToLower(prefix)) {
		return false
	}
	const alnum = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return name != "" && len(name) <= 63 && strings.Trim(name, alnum+"-_.") == "" &&
		strings.Contains(alnum, name[:1]) && strings.Contains(alnum, name[len(name)-1:])
}

// parseSubnet returns the prefix length for each family, 0 where none is given. One length of at most 32 is for IPv4,
// a longer one for IPv6: no one number is right for both.
func parseSubnet(s string) (four, six int, err error) {
	in := strings.TrimSpace(s)
	if in == "" {
		return 0, 0, nil
	}
	if strings.EqualFold(in, "auto") {
		return 0, 0, fmt.Errorf("%q is not supported yet by this version; want a prefix length such as 32", s)
	}
	bad := fmt.Errorf(`%q is not a prefix length: want one for IPv4 ("32"), one for IPv6 ("128") or both ("32,128")`, s)
	length := func(part string) (int, bool) {
		n, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(part), "/"), 10, 8)
		return int(n), err == nil && n >= 1 && n <= 128
	}
	first, second, two := strings.Cut(in, ",")
	n, ok := length(first)
	if !ok {
		return 0, 0, bad
	}
	if !two {
		if n <= 32 {
			return n, 0, nil
		}
		return 0, n, nil
	}
	m, ok := length(second)
	if !ok {
		return 0, 0, bad
	}
	if n > 32 {
		return 0, 0, fmt.Errorf(`%q: the length for IPv4 comes first, as in "32,128"`, s)
	}
	return n, m, nil
}

func formatSubnet(four, six int) string {
	switch {
	case four == 0 && six == 0:
		return ""
	case six == 0:
		return strconv.Itoa(four)
	case four == 0 && six > 32:
		return strconv.Itoa(six)
	}
	return strconv.Itoa(four) + "," + strconv.Itoa(six)
}

// interfaceName accepts what the kernel takes as the name of a link (dev_valid_name, IFNAMSIZ), or nothing.
func interfaceName(s string) error { return nameOfLink(s, 15) }

// anyInterfaceName accepts alternative names, too (ALTIFNAMSIZ in the kernel's linux/if.h).
func anyInterfaceName(s string) error { return nameOfLink(s, 127) }

func nameOfLink(s string, longest int) error {
	switch {
	case s == "":
		return nil
	case len(s) > longest:
		return fmt.Errorf("%q is not the name of an interface: it is longer than %d bytes", s, longest)
	case s == "." || s == ".." || strings.ContainsAny(s, "/: \t\r\n\v\f"):
		return fmt.Errorf("%q is not the name of an interface", s)
	}
	return nil
}

func oneOf(values []string) func(string) error {
	return func(s string) error {
		if slices.Contains(values, s) {
			return nil
		}
		return fmt.Errorf("%q is not one of %s", s, strings.Join(values, ", "))
	}
}

// orEmpty accepts nothing beside what check does.
func orEmpty(check func(string) error) func(string) error {
	return func(s string) error {
		if s == "" {
			return nil
		}
		return check(s)
	}
}

func namespaceName(s string) error {
	if !isLabel(s) {
		return fmt.Errorf("%q is not the name of a namespace", s)
	}
	return nil
}

func namespaceOrAll(s string) error {
	if s == "" {
		return nil
	}
	return namespaceName(s)
}

// className accepts what a Service may have as its loadBalancerClass, or nothing.
func className(s string) error {
	if s != "" && !isQualifiedName(s) {
		return fmt.Errorf("%q is not a loadBalancerClass: want a name such as internal or example.com/internal", s)
	}
	return nil
}

func nodeName(s string) error {
	if s != "" && !isSubdomain(s) {
		return fmt.Errorf("%q is not the name of a node: want letters, digits, '-' and '.'", s)
	}
	return nil
}

// leaseName accepts "name" and "namespace/name".
func leaseName(s string) error {
	ns, name, found := strings.Cut(s, "/")
	if !found {
		ns, name = "kube-system", s
	}
	if !isLabel(ns) || !isSubdomain(name) {
		return fmt.Errorf("%q is not the name of a Lease: want name or namespace/name, in lower-case letters, digits, '-' and '.'", s)
	}
	return nil
}

func instanceName(s string) error {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	if len(s) > 243 || strings.Trim(s, allowed) != "" {
		return fmt.Errorf("%q is not a name of an instance: want at most 243 of A-Z a-z 0-9 . _ -", s)
	}
	return nil
}

// apiAddress accepts what can stand for an API server: host, host:port or URL; or nothing.
func apiAddress(s string) error {
	if s == "" {
		return nil
	}
	if i := strings.LastIndex(s, "@"); i >= 0 { // before it is a user, and maybe a password
		return fmt.Errorf("%q has a user before the @: want host, host:port or https://host:port", hideBefore(s, i))
	}
	bad := fmt.Errorf("%q is not the address of an API server: want host, host:port or https://host:port", s)
	if strings.Contains(s, "://") {
		return webURL(s)
	}
	if _, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return nil
	}
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return bad
		}
		host = h
	}
	if _, err := netip.ParseAddr(host); err != nil && !isSubdomain(strings.ToLower(host)) {
		return bad
	}
	return nil
}

// webURL accepts an http or https URL, or nothing.
func webURL(s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return fmt.Errorf("%q is not a URL: want http://host:port/path or https://host:port/path", redactURL(s))
	}
	return nil
}

// redactURL puts "***" in place of the user and the password in a URL. What cannot be read as one may have them wherever an @ is.
func redactURL(s string) string {
	scheme, rest, found := strings.Cut(s, "://")
	u, err := url.Parse(s)
	if err != nil || !found || u.Host == "" {
		return hideBefore(s, strings.LastIndex(s, "@"))
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	return scheme + "://" + hideBefore(rest, strings.LastIndex(rest[:end], "@"))
}

// ofOneHost says of a URL, an address to dial or one to listen on that it means one host, and not whichever it is used on.
func ofOneHost(s string) bool {
	host := strings.Trim(s, "[]")
	if u, err := url.Parse(s); err == nil && strings.Contains(s, "://") {
		host = u.Hostname()
	} else if h, _, err := net.SplitHostPort(s); err == nil {
		host = h
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return !addr.IsLoopback() && !addr.IsUnspecified()
	}
	return host != "" && !strings.EqualFold(host, "localhost")
}

// hideBefore puts "***" in place of what is before a place; a place below 0 is none.
func hideBefore(s string, place int) string {
	if place < 0 {
		return s
	}
	return "***" + s[place:]
}

// listenAddress accepts host:port with the host left out for all addresses, or nothing.
func listenAddress(s string) error {
	if s == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err == nil && host != "" {
		if _, notIP := netip.ParseAddr(host); notIP != nil && !isSubdomain(strings.ToLower(host)) {
			err = notIP
		}
	}
	if err != nil {
		return fmt.Errorf(`%q is not an address to listen on: want host:port such as 127.0.0.1:2112, :2112 for all addresses, or "" for off`, s)
	}
	return nil
}

// oneLine joins errors into one that takes a single line.
func oneLine(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	return errors.New(strings.Join(texts, "; "))
}

// hostOrIP accepts what can be the address of a peer, or nothing.
func hostOrIP(s string) error {
	if s == "" {
		return nil
	}
	_, err := peerHost(s)
	return err
}

// annotationPrefix accepts the part of an annotation's key before the slash, or nothing.
func annotationPrefix(s string) error {
	if s != "" && !isSubdomain(s) {
		return fmt.Errorf("%q is not the prefix of annotations: want a DNS name such as metal.equinix.com", s)
	}
	return nil
}
