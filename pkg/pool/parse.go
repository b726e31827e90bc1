package pool

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Key is one row of the table of the ConfigMap's keys.
type Key struct {
	// Name is the key. One that ends in - is followed by a namespace, or by "global" for all that have no such key.
	Name string
	// Values says what it may be, Effect what that does, in the words of the documentation.
	Values, Effect string

	// read is told the namespace, where the key has one.
	read func(r *reader, key, namespace, value string)
}

// Keys is the table: one row for each key of the ConfigMap. They are read in this order.
func Keys() []Key {
	return []Key{
		{Name: "cidr-", Values: "networks, ranges and addresses, separated by commas", read: (*reader).pool,
			Effect: "the addresses that Services of the namespace get theirs from"},
		{Name: "range-", Values: "the same", read: (*reader).pool,
			Effect: "the same; it does not count beside `cidr-` of the same namespace"},
		{Name: "allow-share-", Values: "`true` or `false`", read: (*reader).share,
			Effect: "Services of the namespace get an address that others have already, when their ports are free on it; `false` unless it is set"},
		{Name: "interface-", Values: "an interface, or `auto`", read: (*reader).iface,
			Effect: "the interface that carries the addresses of the namespace's Services"},
		{Name: "search-order", Values: "`asc` or `desc`", read: (*reader).order,
			Effect: "whether the lowest or the highest free address is given out; `asc` unless it is set"},
		{Name: "skip-end-ips-in-cidr", Values: "`true` or `false`", read: (*reader).skipEnds,
			Effect: "the first and the last address of each IPv4 network are not given out; `false` unless it is set"},
	}
}

// problemLimit is how many problems with one key are told of one by one: they are to be read by somebody.
const problemLimit = 20

// Parse reads the data of the ConfigMap. The problems are in the order of the keys; whatever is wrong with one entry,
// the others count. Nil data are no pools, and no problem.
func Parse(data map[string]string) (Pools, []Problem) {
	r := &reader{
		Pools:    Pools{pools: map[string]*pool{}, shares: map[string]bool{}, interfaces: map[string]string{}},
		lists:    map[string]*pool{},
		problems: map[string][]Problem{},
	}
	unknown := maps.Clone(data)
	for _, k := range Keys() {
		for key, value := range data {
			namespace, is := strings.CutPrefix(key, k.Name)
			if !is || !strings.HasSuffix(k.Name, "-") && namespace != "" {
				continue
			}
			delete(unknown, key)
			if strings.HasSuffix(k.Name, "-") && !isNamespace(namespace) {
				r.complain(key, "", fmt.Sprintf("%s can not be the name of a namespace", strconv.Quote(namespace)),
					fmt.Sprintf("write %s<namespace>, or %s%s for all that have none of their own", k.Name, k.Name, global))
				continue
			}
			k.read(r, key, namespace, value)
		}
	}
	for key := range unknown {
		r.unknown(key)
	}
	r.build()
	r.overlaps()

	var problems []Problem
	for _, key := range slices.Sorted(maps.Keys(r.problems)) {
		of := r.problems[key]
		if more := len(of) - problemLimit; more > 0 {
			of = append(of[:problemLimit:problemLimit], Problem{Key: key, Wrong: fmt.Sprintf("and %d problems more", more)})
		}
		problems = append(problems, of...)
	}
	return r.Pools, problems
}

// isNamespace says whether name is a DNS label (RFC 1123), which the names of namespaces are.
func isNamespace(name string) bool {
	return name != "" && len(name) <= 63 && strings.Trim(name, "-") == name &&
		!strings.ContainsFunc(name, func(c rune) bool { return c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') })
}

// reader reads a ConfigMap.
type reader struct {
	Pools
	lists    map[string]*pool // by key, before it is known which of them count
	trimmed  bool             // the ends of networks are left out
	problems map[string][]Problem
}

func (r *reader) complain(key, entry, wrong, right string) {
	r.problems[key] = append(r.problems[key], Problem{Key: key, Entry: entry, Wrong: wrong, Right: right})
}

func (r *reader) warn(key, entry, wrong, right string) {
	r.problems[key] = append(r.problems[key], Problem{Key: key, Entry: entry, Wrong: wrong, Right: right, Counts: true})
}

// unknown tells of a key that is in no row.
func (r *reader) unknown(key string) {
	names := []string{}
	for _, k := range Keys() {
		name := k.Name
		if strings.HasSuffix(name, "-") {
			name += "<namespace>"
		}
		names = append(names, name)
	}
	right := "the keys are " + strings.Join(names, ", ")
	// The cloud provider's documentation has this one in its text, and the other in its example.
	if namespace, is := strings.CutPrefix(key, "allow-shared-"); is {
		right = "write allow-share-" + namespace
	}
	r.complain(key, "", "there is no such key", right)
}

// pool reads a list.
func (r *reader) pool(key, _, value string) {
	p := &pool{key: key}
	for text := range strings.SplitSeq(value, ",") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		e, bad := readEntry(text)
		if bad != (complaint{}) {
			r.complain(key, text, bad.wrong, bad.right)
			continue
		}
		if odd := e.aligned(); odd != (complaint{}) {
			r.warn(key, text, odd.wrong, odd.right)
		}
		p.entries = append(p.entries, e)
	}
	if len(p.entries) == 0 && len(r.problems[key]) == 0 {
		r.complain(key, "", "it lists nothing", forms)
	}
	r.lists[key] = p
}

func (r *reader) share(key, namespace, value string) { r.shares[namespace] = r.boolean(key, value) }

func (r *reader) skipEnds(key, _, value string) { r.trimmed = r.boolean(key, value) }

// boolean is false when it is not known what is meant.
func (r *reader) boolean(key, value string) bool {
	is, err := strconv.ParseBool(strings.TrimSpace(value))
	if err != nil {
		r.complain(key, strings.TrimSpace(value), "it is neither true nor false, and counts as false", "write true or false")
	}
	return is
}

func (r *reader) order(key, _, value string) {
	switch text := strings.TrimSpace(value); text {
	case "asc":
	case "desc":
		r.direction = down
	default:
		r.complain(key, text, "it is neither asc nor desc, and counts as asc", "write asc or desc")
	}
}

// interfaceLength is the longest name that an interface can have (IFNAMSIZ in linux/if.h, less the final zero byte).
const interfaceLength = 15

func (r *reader) iface(key, namespace, value string) {
	name := strings.TrimSpace(value)
	if len(name) > interfaceLength || name == "." || name == ".." || strings.ContainsFunc(name, notInInterface) {
		r.complain(key, name, "no interface can have this name", fmt.Sprintf("write the name of one, at most %d characters without space and without a slash", interfaceLength))
		return
	}
	r.interfaces[namespace] = name
}

// notInInterface follows dev_valid_name in the kernel's net/core/dev.c; what does not print is not accepted either.
func notInInterface(c rune) bool {
	return c == '/' || c == ':' || c <= ' ' || !strconv.IsPrint(c)
}

// build makes the pools of the lists: of two for the same namespace cidr- counts, unless it has no address and range-
// has some.
func (r *reader) build() {
	for _, key := range slices.Sorted(maps.Keys(r.lists)) {
		p := r.lists[key]
		r.fill(p)
		_, namespace, _ := strings.Cut(key, "-")
		first := r.pools[namespace]
		switch {
		case first == nil:
			r.pools[namespace] = p
		case first.empty() && !p.empty():
			r.pools[namespace] = p
		default:
			r.complain(key, "", fmt.Sprintf("it does not count, since %s is there", first.key), fmt.Sprintf("move its entries to %s, where ranges may stand, too", first.key))
		}
	}
}

// fill makes a pool's spans of its entries.
func (r *reader) fill(p *pool) {
	var list [families][]run
	for _, e := range p.entries {
		given := e.given(r.trimmed)
		if given.usable() == 0 {
			r.complain(p.key, e.text, "it has no address that is given out: "+reservedText+" are not", "list others")
			continue
		}
		family := FamilyOf(given.from)
		list[family] = append(list[family], given)
	}
	for family := range families {
		p.spans[family] = union(list[family])
	}
	if p.empty() {
		// There is a problem, or there would be an address.
		i := slices.IndexFunc(r.problems[p.key], func(p Problem) bool { return !p.Counts })
		p.lacking = r.problems[p.key][i].about()
	}
}
