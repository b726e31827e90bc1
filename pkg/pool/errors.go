package pool

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
)

// Why there is no address. An Error is one of them in the sense of errors.Is.
var (
	// ErrNoPool: neither the namespace nor everybody has a pool, or it has not one entry that counts.
	ErrNoPool = errors.New("no pool")
	// ErrNoFamily: the pool has no address of the family.
	ErrNoFamily = errors.New("no address of the family in the pool")
	// ErrExhausted: every address of the pool is in use, or may not be given out.
	ErrExhausted = errors.New("pool exhausted")
	// ErrClash: another Service has the port on the address.
	ErrClash = errors.New("port in use")
)

// Error is why a Service does not get an address. Its text is a sentence for the Service's owner.
type Error struct {
	Kind error // one of those above
	// Pool is the ConfigMap's key of the pool; empty when there is none, and for ErrClash.
	Pool string
	// Other is the Service that has the port already; only for ErrClash.
	Other string
	text  string
}

func (e *Error) Error() string { return e.text }

// Is says whether e is of that kind.
func (e *Error) Is(kind error) bool { return e.Kind == kind }

func noPool(namespace string) *Error {
	return &Error{Kind: ErrNoPool, text: fmt.Sprintf(
		"there is no pool for namespace %s: none of the keys cidr-%[1]s, range-%[1]s, cidr-%s and range-%[2]s is there", namespace, global)}
}

func noEntry(p *pool) *Error {
	return &Error{Kind: ErrNoPool, Pool: p.key, text: fmt.Sprintf("pool %s has no address to give: %s", p.key, p.lacking)}
}

func noFamily(p *pool, f Family) *Error {
	return &Error{Kind: ErrNoFamily, Pool: p.key, text: fmt.Sprintf("pool %s has no %s addresses, only %s", p.key, f, f.other())}
}

// exhausted is told how much of the pool is in use, how many addresses were refused by the request, and whether the
// search was given up for that.
func exhausted(s Stat, refused int, gaveUp, shares bool) *Error {
	text := fmt.Sprintf("pool %s has no %s address left: Services have %s of its %s", s.Pool, s.Family, count(s.Used), count(s.Used+s.Free))
	switch {
	case gaveUp:
		text += fmt.Sprintf(", and of the others the first %d that were looked at are not to be had", refused)
	case refused > 0:
		text += fmt.Sprintf(", and the other %s are not to be had", count(s.Free))
	}
	if shares {
		text += "; none that may be shared has the ports free"
	}
	return &Error{Kind: ErrExhausted, Pool: s.Pool, text: text}
}

// count is a number of addresses: in full for IPv4, rounded where IPv6 has more than that.
func count(n float64) string {
	if n < 1e10 {
		return strconv.FormatFloat(n, 'f', 0, 64)
	}
	return strconv.FormatFloat(n, 'g', 3, 64)
}

func clash(other string, held, wanted Port, addr netip.Addr) *Error {
	text := fmt.Sprintf("Service %s has %s on %s already", other, held, addr)
	switch {
	case held == whole:
		text = fmt.Sprintf("Service %s has no ports, and so all of %s", other, addr)
	case wanted == whole:
		text += ", and a Service without ports takes all of its address"
	}
	return &Error{Kind: ErrClash, Other: other, text: text}
}
