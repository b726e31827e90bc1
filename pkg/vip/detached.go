package vip

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Detached is the Link of a VIP that is on no interface: routes lead to this node, and what answers here, kube-proxy for
// one, does without the address. No interface has such a name (dev_valid_name in the kernel's net/core/dev.c).
const Detached = "no interface"

// detaching is a Kernel that has Detached VIPs beside those of another: they end with their lifetimes as those do.
type detaching struct {
	Kernel

	mu   sync.Mutex // guards ends
	ends map[netip.Prefix]time.Time
}

func newDetaching(k Kernel) *detaching {
	return &detaching{Kernel: k, ends: map[netip.Prefix]time.Time{}}
}

// Addresses implements Kernel.
func (d *detaching) Addresses() ([]Address, error) {
	list, err := d.Kernel.Addresses()
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for prefix, ends := range d.ends {
		left := ends.Sub(now)
		if left <= 0 {
			delete(d.ends, prefix)
			continue
		}
		list = append(list, Address{Prefix: prefix, Link: Detached, Ours: true, Valid: time.Duration(lifetimeSeconds(left)) * time.Second})
	}
	return list, nil
}

// Put implements Kernel.
func (d *detaching) Put(v VIP, valid time.Duration) error { return d.PutAll([]Put{{v, valid}})[0] }

// PutAll implements Kernel.
func (d *detaching) PutAll(puts []Put) []error {
	if !slices.ContainsFunc(puts, func(p Put) bool { return p.VIP.Link == Detached }) {
		return d.Kernel.PutAll(puts)
	}
	errs := make([]error, len(puts))
	var rest []Put
	var at []int
	d.mu.Lock()
	for i, p := range puts {
		if p.VIP.Link == Detached {
			d.ends[p.VIP.Prefix] = time.Now().Add(time.Duration(lifetimeSeconds(p.Valid)) * time.Second)
			continue
		}
		rest, at = append(rest, p), append(at, i)
	}
	d.mu.Unlock()
	for i, err := range d.Kernel.PutAll(rest) {
		errs[at[i]] = err
	}
	return errs
}

// Remove implements Kernel.
func (d *detaching) Remove(a Address) error { return d.RemoveAll([]Address{a})[0] }

// RemoveAll implements Kernel.
func (d *detaching) RemoveAll(list []Address) []error {
	if !slices.ContainsFunc(list, func(a Address) bool { return a.Link == Detached }) {
		return d.Kernel.RemoveAll(list)
	}
	errs := make([]error, len(list))
	var rest []Address
	var at []int
	d.mu.Lock()
	for i, a := range list {
		if a.Link == Detached {
			delete(d.ends, a.Prefix)
			continue
		}
		rest, at = append(rest, a), append(at, i)
	}
	d.mu.Unlock()
	for i, err := range d.Kernel.RemoveAll(rest) {
		errs[at[i]] = err
	}
	return errs
}
