package vip

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// fakeKernel is a Kernel in memory. It refuses unknown links, and addresses of others, takes addresses away when
// their lifetime ends, tells its watchers, and can be told to fail or to hang. Inside a synctest bubble its time is
// the bubble's. The test of Netlink is its test too.
type fakeKernel struct {
	mu       sync.Mutex
	links    map[string]fakeLink
	addrs    []fakeAddress
	index    int // of the last link
	watchers map[chan struct{}]struct{}
	// fault is asked before each call (list, put, remove, watch) whether it fails; nil means that none does.
	// It may block.
	fault func(call string) error
	// onPut and onRemove are called after a Put and before a Remove, with mu held; nil means not.
	onPut    func(fakeAddress)
	onRemove func(fakeAddress)
	calls    map[string]int
}

type fakeLink struct {
	index    int
	loopback bool
}

type fakeAddress struct {
	prefix netip.Prefix
	link   string
	ours   bool
	host   bool          // scope
	valid  time.Duration // as given, in whole seconds; or Forever
	since  time.Time
	expire *time.Timer
}

var _ Kernel = (*fakeKernel)(nil)

// newFakeKernel has a loopback with its addresses.
func newFakeKernel() *fakeKernel {
	k := &fakeKernel{links: map[string]fakeLink{}, watchers: map[chan struct{}]struct{}{}, calls: map[string]int{}}
	k.addLink("lo")
	k.links["lo"] = fakeLink{index: 1, loopback: true}
	for _, p := range []string{"127.0.0.1/8", "::1/128"} {
		k.addrs = append(k.addrs, fakeAddress{prefix: netip.MustParsePrefix(p), link: "lo", host: true, valid: Forever})
	}
	return k
}

func (k *fakeKernel) begin(call string) error {
	k.mu.Lock()
	k.calls[call]++
	fault := k.fault
	k.mu.Unlock()
	if fault == nil {
		return nil
	}
	return fault(call)
}

func (k *fakeKernel) Addresses() ([]Address, error) {
	if err := k.begin("list"); err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var list []Address
	for _, a := range k.addrs {
		list = append(list, Address{Prefix: a.prefix, Link: a.link, Ours: a.ours, Valid: a.left(), index: k.links[a.link].index})
	}
	return list, nil
}

// left is what the kernel says is left: whole seconds, of which the present one is not over.
func (a fakeAddress) left() time.Duration {
	if a.valid == Forever {
		return Forever
	}
	return max(0, a.valid-time.Since(a.since).Truncate(time.Second))
}

func (a fakeAddress) String() string {
	s := fmt.Sprintf("%s %s", a.link, a.prefix)
	if a.ours {
		s += " ours"
	}
	if a.host {
		s += " host"
	}
	if a.valid != Forever {
		s += " " + a.left().String()
	}
	return s
}

// String has a line for each address.
func (k *fakeKernel) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var lines []string
	for _, a := range k.addrs {
		lines = append(lines, a.String())
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (k *fakeKernel) Put(v VIP, valid time.Duration) error {
	return k.named(v, valid, k.begin("put"))
}

func (k *fakeKernel) named(v VIP, valid time.Duration, err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		err = k.put(v, valid)
	}
	if err != nil {
		return fmt.Errorf("add %s to %s: %w", v.Prefix, v.Link, err)
	}
	return nil
}

// PutAll is one system call.
func (k *fakeKernel) PutAll(puts []Put) (errs []error) {
	err := k.begin("put")
	k.mu.Lock()
	k.calls["put"] += len(puts) - 1
	k.mu.Unlock()
	for _, p := range puts {
		errs = append(errs, k.named(p.VIP, p.Valid, err))
	}
	return errs
}

func (k *fakeKernel) RemoveAll(list []Address) (errs []error) {
	for _, a := range list {
		errs = append(errs, k.Remove(a))
	}
	return errs
}

func (k *fakeKernel) put(v VIP, valid time.Duration) error {
	l, ok := k.links[v.Link]
	if !ok {
		return ErrNoLink
	}
	a := fakeAddress{prefix: v.Prefix, link: v.Link, ours: true, host: l.loopback && !v.Global && v.Addr().Is4()}
	for i := 0; i < len(k.addrs); i++ {
		b := k.addrs[i]
		if !clash(a, b) {
			continue
		}
		if !b.ours {
			return ErrNotOurs
		}
		k.drop(i)
		i--
	}
	a.valid = (valid + time.Second - 1).Truncate(time.Second)
	a.valid = max(a.valid, time.Second)
	a.since = time.Now()
	a.expire = time.AfterFunc(a.valid, func() { k.expired(a.prefix, a.link) })
	k.addrs = append(k.addrs, a)
	if k.onPut != nil {
		k.onPut(a)
	}
	return nil
}

// clash says that the kernel does not keep both addresses: the same prefix on a link, and of IPv6 the same address.
func clash(a, b fakeAddress) bool {
	return a.link == b.link && (a.prefix == b.prefix || a.prefix.Addr().Is6() && a.prefix.Addr() == b.prefix.Addr())
}

func (k *fakeKernel) expired(p netip.Prefix, link string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, a := range k.addrs {
		if a.prefix == p && a.link == link && a.valid != Forever && time.Since(a.since) >= a.valid {
			k.drop(i)
			k.changed()
			return
		}
	}
}

// drop takes the address at i away. The caller holds mu.
func (k *fakeKernel) drop(i int) {
	if k.addrs[i].expire != nil {
		k.addrs[i].expire.Stop()
	}
	k.addrs = slices.Delete(k.addrs, i, i+1)
}

func (k *fakeKernel) Remove(a Address) error {
	err := k.begin("remove")
	if err == nil && !a.Ours {
		err = ErrNotOurs
	}
	if err != nil {
		return fmt.Errorf("remove %s from %s: %w", a.Prefix, a.Link, err)
	}
	k.remove(a.Link, a.Prefix, true)
	return nil
}

// remove takes an address off, by a Table's call or by hand, and says whether it was there.
func (k *fakeKernel) remove(link string, p netip.Prefix, called bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := slices.IndexFunc(k.addrs, func(a fakeAddress) bool { return a.link == link && a.prefix == p })
	if i < 0 {
		return false
	}
	if called && !k.addrs[i].ours {
		return false
	}
	if called && k.onRemove != nil {
		k.onRemove(k.addrs[i])
	}
	k.drop(i)
	if !called || p.Addr().Is6() {
		k.changed()
	}
	return true
}

func (k *fakeKernel) Watch(ctx context.Context, changed func()) error {
	if err := k.begin("watch"); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	c := make(chan struct{}, 1)
	k.mu.Lock()
	k.watchers[c] = struct{}{}
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.watchers, c)
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c:
			changed()
		}
	}
}

// changed tells the watchers. The caller holds mu.
func (k *fakeKernel) changed() {
	for c := range k.watchers {
		signal(c)
	}
}

// The rest is what happens to a node by other hands.

func (k *fakeKernel) addLink(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.index++
	k.links[name] = fakeLink{index: k.index}
	k.changed()
}

func (k *fakeKernel) delLink(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.links, name)
	for i := len(k.addrs) - 1; i >= 0; i-- {
		if k.addrs[i].link == name {
			k.drop(i)
		}
	}
	k.changed()
}

// addAddress adds another's address and says whether the kernel accepts it.
func (k *fakeKernel) addAddress(link string, p netip.Prefix) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	a := fakeAddress{prefix: p, link: link, valid: Forever}
	_, ok := k.links[link]
	if !ok || slices.ContainsFunc(k.addrs, func(b fakeAddress) bool { return clash(a, b) }) {
		return false
	}
	k.addrs = append(k.addrs, a)
	k.changed()
	return true
}

func (k *fakeKernel) delAddress(link string, p netip.Prefix) bool { return k.remove(link, p, false) }

// leave puts an address with our mark there, as an earlier life of the process left it.
func (k *fakeKernel) leave(v VIP, valid time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.put(v, valid); err != nil {
		panic(err)
	}
	k.changed()
}

// has says whether v is on the node with our mark, without a call.
func (k *fakeKernel) has(v VIP) bool {
	return slices.ContainsFunc(k.ours(), func(a fakeAddress) bool { return a.prefix == v.Prefix && a.link == v.Link })
}

// ours lists the addresses with our mark.
func (k *fakeKernel) ours() []fakeAddress {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(k.addrs), func(a fakeAddress) bool { return !a.ours })
}

// others lists the addresses without it, which the Table must not have changed.
func (k *fakeKernel) others() (lines []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range k.addrs {
		if !a.ours {
			lines = append(lines, a.String())
		}
	}
	slices.Sort(lines)
	return lines
}

// count is how often call was made.
func (k *fakeKernel) count(call string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.calls[call]
}

// failing makes calls fail with err from now on; nil ends it.
func (k *fakeKernel) failing(err error, calls ...string) {
	if err == nil {
		k.faults(nil)
		return
	}
	k.faults(func(call string) error {
		if slices.Contains(calls, call) {
			return err
		}
		return nil
	})
}

// faults sets what is asked before each call.
func (k *fakeKernel) faults(fault func(call string) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fault = fault
}
