// Package pool knows the pools that Services of type LoadBalancer get their addresses from, and who has which
// address.
//
// Parse reads the pools out of the data of the ConfigMap kubevip, with the keys that the kube-vip cloud provider
// (https://github.com/kube-vip/kube-vip-cloud-provider) gave it; Keys is the list of them. What carries over:
//
//   - A namespace with a pool of its own gets addresses from there alone, even when none is left; every other
//     namespace gets them from the global pool. Of two keys for the same pool cidr- counts, and range- does not.
//   - A value is a list of entries with commas between them, IPv4 and IPv6 mixed. Addresses are given out in their
//     numerical order, not in the list's, from the lowest or (search-order: desc) from the highest.
//   - IPv4 addresses that end in .0 or .255 are never given out.
//   - Of a network that is written by another address than its first, all of it counts.
//   - Where sharing is allowed, an address that is in use and has the ports free is preferred to a free one.
//
// What is different: networks and ranges may stand in one list and under either key; one bad entry does not disable
// the others; range-<namespace> counts more than cidr-global, as the documentation has always said; addresses are
// shared by port and protocol, and those of IPv6, too; skip-end-ips-in-cidr looks at each network as it is written,
// before neighbours are joined; the Subnet-Router anycast address of IPv6 is never given out.
//
// An Allocator holds who has what and chooses. The package is pure: it knows no API, no clock and no network.
package pool

// global is what stands for the namespace in the keys of the pool that is everybody's.
const global = "global"

// Pools are the pools of all namespaces. The zero value has none. A Pools does not change.
type Pools struct {
	pools      map[string]*pool // by namespace, or global
	shares     map[string]bool
	interfaces map[string]string
	direction  direction
}

// pool is what one key of the ConfigMap lists.
type pool struct {
	key string
	// spans are the addresses, by family; the reserved ones among them are not to be given out.
	spans [families]runs
	// entries are the entries that spans are made of, in the order of the list.
	entries []entry
	// lacking is why the pool has no address at all; empty when it has some.
	lacking string
}

func (p *pool) empty() bool { return len(p.spans[IPv4]) == 0 && len(p.spans[IPv6]) == 0 }

// of is the pool that a namespace's Services get addresses from; nil when there is none.
func (p Pools) of(namespace string) *pool {
	if own := p.pools[namespace]; own != nil {
		return own
	}
	return p.pools[global]
}

// Key is the ConfigMap's key of the pool that a namespace's Services get addresses from; empty when there is none.
func (p Pools) Key(namespace string) string {
	if from := p.of(namespace); from != nil {
		return from.key
	}
	return ""
}

// Shares says whether Services of a namespace may get an address out of a pool that others have already, when the
// ports are free on it.
func (p Pools) Shares(namespace string) bool {
	if does, said := p.shares[namespace]; said {
		return does
	}
	return p.shares[global]
}

// Interface is the interface that is to carry the addresses of a namespace's Services; empty when nothing is said.
func (p Pools) Interface(namespace string) string {
	if name, said := p.interfaces[namespace]; said {
		return name
	}
	return p.interfaces[global]
}
