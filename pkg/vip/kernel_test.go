package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// node is a Kernel and what other hands can do to it. Those functions stop the test if they cannot.
type node struct {
	Kernel
	addLink, delLink       func(name string)
	addAddress, delAddress func(link, prefix string)
	// late is how much later than a lifetime ends the kernel may take the address away.
	late time.Duration
}

func fakeNode(t *testing.T) node {
	k := newFakeKernel()
	k.addLink("eth0")
	must := func(what string, f func(link string, p netip.Prefix) bool) func(string, string) {
		return func(link, prefix string) {
			t.Helper()
			if !f(link, netip.MustParsePrefix(prefix)) {
				t.Fatalf("%s %s on %s: refused", what, prefix, link)
			}
		}
	}
	return node{
		Kernel: k, addLink: k.addLink, delLink: k.delLink,
		addAddress: must("add", k.addAddress), delAddress: must("delete", k.delAddress),
	}
}

// TestFakeKernel and TestNetlink have one body: what holds for the fake holds for the kernel.
func TestFakeKernel(t *testing.T) {
	for _, c := range kernelCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { c.check(t, fakeNode(t)) })
		})
	}
}

// kernelCases say what a Kernel does. Each is given a node with nothing but a loopback, and with eth0.
var kernelCases = []struct {
	name  string
	check func(*testing.T, node)
}{
	{"many are put, renewed and removed in one go", func(t *testing.T, n node) {
		n.addAddress("eth0", "10.7.0.3/32")
		vips := many(2*exchangeBatch + 7)
		vips[4].Link = "eth7"
		vips[6].Prefix = netip.MustParsePrefix("10.7.9.9/24")
		var puts []Put
		for _, v := range vips {
			puts = append(puts, Put{v, 60 * time.Second})
		}
		puts = append(puts, Put{VIP{Prefix: netip.MustParsePrefix("10.7.0.3/32"), Link: "eth0", Via: "eth0"}, time.Minute})
		for _, round := range []string{"added", "renewed"} {
			for i, err := range n.PutAll(puts) {
				want := map[int]error{4: ErrNoLink, len(vips): ErrNotOurs}[i]
				if !errors.Is(err, want) {
					t.Fatalf("%s: %s is answered by %v, want %v", round, puts[i].VIP, err, want)
				}
			}
		}
		addrs, err := n.Addresses()
		if err != nil {
			t.Fatal(err)
		}
		addrs = slices.DeleteFunc(addrs, func(a Address) bool { return !a.Ours })
		if len(addrs) != len(vips)-1 {
			t.Errorf("%d addresses are ours, want %d", len(addrs), len(vips)-1)
		}
		again := slices.Clone(addrs)
		again[0].index = 0                  // as of one who knows it by name only
		again = append(again, addrs[1:]...) // which are gone by then
		if err := errors.Join(n.RemoveAll(again)...); err != nil {
			t.Error(err)
		}
		if addrs, err = n.Addresses(); err != nil || slices.ContainsFunc(addrs, func(a Address) bool { return a.Ours }) {
			t.Errorf("left: %v, %v", addrs, err)
		}
	}},
	{"an address that was put is listed as ours", func(t *testing.T, n node) {
		for _, v := range both("eth0") {
			put(t, n, v, 30*time.Second)
			put(t, n, v, 30*time.Second) // twice is the same as once
			a := only(t, n, v)
			if !a.Ours || a.Link != "eth0" || a.Prefix != v.Prefix || a.Valid < 28*time.Second || a.Valid > 30*time.Second {
				t.Errorf("listed %+v", a)
			}
		}
	}},
	{"nothing else is listed as ours", func(t *testing.T, n node) {
		n.addAddress("eth0", "10.0.0.5/24")
		n.addAddress("eth0", "fd00::5/64")
		for _, a := range list(t, n) {
			if a.Ours || a.Valid != Forever {
				t.Errorf("listed %+v", a)
			}
		}
	}},
	{"a lifetime is rounded up to seconds and is one at least", func(t *testing.T, n node) {
		for _, c := range []struct{ in, want time.Duration }{
			{30 * time.Second, 30 * time.Second}, {29001 * time.Millisecond, 30 * time.Second}, {1, time.Second}, {0, time.Second}, {-time.Hour, time.Second},
		} {
			for _, v := range both("eth0") {
				put(t, n, v, c.in)
				// A second may end between the two calls.
				if got := only(t, n, v).Valid; got != c.want && got != c.want-time.Second {
					t.Errorf("put for %s: valid for %s, want %s", c.in, got, c.want)
				}
			}
		}
	}},
	{"the kernel takes an address away when its lifetime ends", func(t *testing.T, n node) {
		began := time.Now()
		for _, v := range both("eth0") {
			put(t, n, v, time.Second)
		}
		for _, v := range both("eth0") {
			eventually(t, 3*time.Second, func() error { return absent(n, v) })
			if lived := time.Since(began); lived < time.Second || lived > 1100*time.Millisecond+n.late {
				t.Errorf("%s lived for %s", v, lived)
			}
		}
	}},
	{"a renewal extends the lifetime", func(t *testing.T, n node) {
		for _, v := range both("eth0") {
			put(t, n, v, time.Second)
			put(t, n, v, 4*time.Second)
		}
		steadily(t, 2*time.Second, func() error {
			return errors.Join(present(n, both("eth0")[0]), present(n, both("eth0")[1]))
		})
	}},
	{"a renewal shortens the lifetime", func(t *testing.T, n node) {
		for _, v := range both("eth0") {
			put(t, n, v, time.Hour)
			put(t, n, v, time.Second)
			eventually(t, 3*time.Second, func() error { return absent(n, v) })
		}
	}},
	{"remove", func(t *testing.T, n node) {
		for _, v := range both("eth0") {
			put(t, n, v, 30*time.Second)
			a := only(t, n, v)
			for range 2 { // twice is the same as once
				if err := n.Remove(a); err != nil {
					t.Errorf("remove: %v", err)
				}
			}
			if err := absent(n, v); err != nil {
				t.Error(err)
			}
		}
	}},
	{"remove by name", func(t *testing.T, n node) {
		for _, v := range both("eth0") {
			put(t, n, v, 30*time.Second)
			if err := n.Remove(Address{Prefix: v.Prefix, Link: v.Link, Ours: true}); err != nil {
				t.Errorf("remove: %v", err)
			}
			if err := absent(n, v); err != nil {
				t.Error(err)
			}
			if err := n.Remove(Address{Prefix: v.Prefix, Link: "eth7", Ours: true}); err != nil {
				t.Errorf("remove from a link that is not there: %v", err)
			}
		}
	}},
	{"remove by name spares what became another's", func(t *testing.T, n node) {
		for _, v := range both("eth0") {
			n.addAddress("eth0", v.Prefix.String())
			if err := n.Remove(Address{Prefix: v.Prefix, Link: v.Link, Ours: true}); err != nil {
				t.Errorf("remove: %v", err)
			}
			only(t, n, v)
		}
	}},
	{"a link that is not there", func(t *testing.T, n node) {
		for _, name := range []string{"eth7", "a-name-that-no-link-can-have"} {
			for _, v := range both(name) {
				err := n.Put(v, time.Second)
				if want := fmt.Sprintf("add %s to %s: no such interface", v.Prefix, name); !errors.Is(err, ErrNoLink) || err.Error() != want {
					t.Errorf("put: %v, want %s", err, want)
				}
			}
		}
	}},
	{"a link takes its addresses with it", func(t *testing.T, n node) {
		v := both("eth0")[0]
		put(t, n, v, 30*time.Second)
		a := only(t, n, v)
		n.delLink("eth0")
		if err := absent(n, v); err != nil {
			t.Error(err)
		}
		if err := n.Remove(a); err != nil {
			t.Errorf("remove after the link: %v", err)
		}
		n.addLink("eth0")
		if err := absent(n, v); err != nil {
			t.Error(err)
		}
		put(t, n, v, 30*time.Second)
		only(t, n, v)
	}},
	{"another's address is neither taken over nor removed", func(t *testing.T, n node) {
		for _, v := range both("eth0") {
			n.addAddress("eth0", v.Prefix.String())
			before := list(t, n)
			for range 2 {
				if err := n.Put(v, time.Second); !errors.Is(err, ErrNotOurs) {
					t.Errorf("put: %v, want %v", err, ErrNotOurs)
				}
			}
			if err := n.Remove(only(t, n, v)); !errors.Is(err, ErrNotOurs) {
				t.Errorf("remove: %v, want %v", err, ErrNotOurs)
			}
			if diff := diffAddresses(before, list(t, n)); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
		}
	}},
	{"another's address that was ours before is not taken over", func(t *testing.T, n node) {
		for _, v := range both("eth0") {
			put(t, n, v, 30*time.Second)
			n.delAddress("eth0", v.Prefix.String())
			n.addAddress("eth0", v.Prefix.String())
			before := list(t, n)
			if err := n.Put(v, time.Second); !errors.Is(err, ErrNotOurs) {
				t.Errorf("put: %v, want %v", err, ErrNotOurs)
			}
			if diff := diffAddresses(before, list(t, n)); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
		}
	}},
	{"another prefix length: beside it in IPv4, not possible in IPv6", func(t *testing.T, n node) {
		n.addAddress("eth0", "10.0.0.10/24")
		n.addAddress("eth0", "fd00::10/64")
		before := list(t, n)
		four, six := both("eth0")[0], both("eth0")[1]
		put(t, n, four, 30*time.Second)
		if err := n.Put(six, time.Second); !errors.Is(err, ErrNotOurs) {
			t.Errorf("put: %v, want %v", err, ErrNotOurs)
		}
		for _, a := range list(t, n) {
			if a.Ours {
				if err := n.Remove(a); err != nil {
					t.Error(err)
				}
			}
		}
		if diff := diffAddresses(before, list(t, n)); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
	}},
	{"our own of another prefix length is replaced in IPv6", func(t *testing.T, n node) {
		v := both("eth0")[1]
		put(t, n, VIP{Prefix: netip.MustParsePrefix("fd00::10/64"), Link: "eth0"}, 30*time.Second)
		put(t, n, v, 30*time.Second)
		if a := only(t, n, v); a.Prefix != v.Prefix {
			t.Errorf("listed %+v", a)
		}
	}},
	{"an address on two links", func(t *testing.T, n node) {
		n.addLink("eth1")
		for i := range both("") {
			a, b := both("eth0")[i], both("eth1")[i]
			put(t, n, a, 30*time.Second)
			put(t, n, b, 30*time.Second)
			if err := errors.Join(present(n, a), present(n, b)); err != nil {
				t.Error(err)
			}
			removeOurs(t, n, b)
			if err := errors.Join(present(n, a), absent(n, b)); err != nil {
				t.Error(err)
			}
		}
	}},
	{"changes are told, our own are not", func(t *testing.T, n node) {
		ctx, cancel := context.WithCancel(t.Context())
		var told atomic.Int64
		ended := make(chan error, 1)
		go func() { ended <- n.Watch(ctx, func() { told.Add(1) }) }()
		tells := func(what string, do func()) {
			t.Helper()
			before := told.Load()
			do()
			eventually(t, 3*time.Second, func() error {
				if told.Load() == before {
					return errors.New(what + " was not told")
				}
				return nil
			})
		}
		// The watch is on when something is told. What making a link tells comes in several parts.
		tells("a new link", func() {
			for i := 0; told.Load() == 0; i++ {
				n.addLink(fmt.Sprintf("eth%d", i+10))
			}
		})
		quiet(t, &told)
		put(t, n, both("eth0")[1], 30*time.Second) // of IPv6, where there may be no mark to know it by
		quiet(t, &told)
		before := told.Load()
		for range 2 {
			put(t, n, both("eth0")[0], 30*time.Second)
			put(t, n, both("eth0")[0], 40*time.Second)
			removeOurs(t, n, both("eth0")[0])
		}
		put(t, n, both("eth0")[0], 40*time.Second)
		steadily(t, 200*time.Millisecond, func() error {
			if told.Load() != before {
				return errors.New("a put or a removal of ours was told")
			}
			return nil
		})
		for _, v := range both("eth0") {
			tells("an address removed by hand", func() { n.delAddress("eth0", v.Prefix.String()) })
		}
		tells("another's address", func() { n.addAddress("eth0", "10.0.0.5/24") })
		tells("the end of a lifetime", func() { put(t, n, both("eth0")[0], time.Second) })
		tells("the end of a link", func() { n.delLink("eth0") })
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("watch ended: %v", err)
			}
		case <-time.After(3 * time.Second):
			t.Error("watch did not end with its context")
		}
	}},
}

// both are a VIP of each family.
func both(link string) []VIP {
	return []VIP{
		{Prefix: netip.MustParsePrefix("10.0.0.10/32"), Link: link, Via: link},
		{Prefix: netip.MustParsePrefix("fd00::10/128"), Link: link, Via: link},
	}
}

func put(t *testing.T, n node, v VIP, valid time.Duration) {
	t.Helper()
	if err := n.Put(v, valid); err != nil {
		t.Fatalf("put: %v", err)
	}
}

func removeOurs(t *testing.T, n node, v VIP) {
	t.Helper()
	for _, a := range list(t, n) {
		if a.Ours && a.Link == v.Link && a.Prefix == v.Prefix {
			if err := n.Remove(a); err != nil {
				t.Fatalf("remove: %v", err)
			}
		}
	}
}

func list(t *testing.T, n Kernel) []Address {
	t.Helper()
	addrs, err := n.Addresses()
	if err != nil {
		t.Fatalf("addresses: %v", err)
	}
	return addrs
}

func diffAddresses(want, got []Address) string {
	type key struct {
		Link, Prefix string
		Ours         bool
		Valid        time.Duration
	}
	keys := func(addrs []Address) (keys []key) {
		for _, a := range addrs {
			keys = append(keys, key{a.Link, a.Prefix.String(), a.Ours, a.Valid})
		}
		slices.SortFunc(keys, func(a, b key) int { return slices.Compare([]string{a.Link, a.Prefix}, []string{b.Link, b.Prefix}) })
		return keys
	}
	return cmp.Diff(keys(want), keys(got))
}

// at lists the addresses that equal v's on its link, whatever their prefix length.
func at(n Kernel, v VIP) ([]Address, error) {
	addrs, err := n.Addresses()
	return slices.DeleteFunc(addrs, func(a Address) bool { return a.Link != v.Link || a.Prefix.Addr() != v.Addr() }), err
}

func only(t *testing.T, n Kernel, v VIP) Address {
	t.Helper()
	addrs, err := at(n, v)
	if err != nil || len(addrs) != 1 {
		t.Fatalf("addresses %s on %s: %+v, %v; want one", v, v.Link, addrs, err)
	}
	return addrs[0]
}

func present(n Kernel, v VIP) error {
	addrs, err := at(n, v)
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("%s is not on %s", v, v.Link)
	}
	return err
}

func absent(n Kernel, v VIP) error {
	addrs, err := at(n, v)
	if err == nil && len(addrs) > 0 {
		err = fmt.Errorf("%s is on %s", v, v.Link)
	}
	return err
}

// eventually waits until cond has no error.
func eventually(t *testing.T, limit time.Duration, cond func() error) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	for {
		err := cond()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after %s: %v", limit, err)
		}
	}
}

// steadily checks that cond has no error for all of that time.
func steadily(t *testing.T, during time.Duration, cond func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(during)
	for {
		if err := cond(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-tick.C:
		case <-end:
			return
		}
	}
}

// quiet waits until nothing has been told for a while.
func quiet(t *testing.T, told *atomic.Int64) {
	t.Helper()
	const rest = 100 * time.Millisecond
	seen, since := told.Load(), time.Now()
	eventually(t, 5*time.Second, func() error {
		if now := told.Load(); now != seen {
			seen, since = now, time.Now()
		}
		if time.Since(since) < rest {
			return errors.New("the kernel has still something to tell")
		}
		return nil
	})
}

// unprivileged skips t, and fails it where CI is set: there everything has to run.
func unprivileged(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("needs root: %s", why)
	}
	t.Skipf("needs root: %s", why)
}
