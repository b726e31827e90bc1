package vip

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestWalk does anything in any order, to the Table and behind its back, and checks after each step that what is
// there is what must be. A failure is repeated by its seed.
func TestWalk(t *testing.T) {
	seeds := uint64(300)
	if testing.Short() {
		seeds = 30
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { walk(t, seed) })
		})
	}
}

// walker walks, and knows what the Table was told.
type walker struct {
	*rig
	random    *rand.Rand
	claims    map[string]claim
	mandates  map[string]time.Time // told; revoked is the zero time
	others    []string             // the addresses of others that this walk has added
	told      bool
	faulty    bool
	leftovers map[place]time.Time // of an earlier life, and when they end
	steps     []string
}

var walkLinks = []string{"eth0", "eth1", "lo"}

func walk(t *testing.T, seed uint64) {
	w := &walker{
		rig: newRig(t), random: rand.New(rand.NewPCG(seed, 0)), claims: map[string]claim{}, mandates: map[string]time.Time{},
		leftovers: map[place]time.Time{},
	}
	for range w.random.IntN(4) {
		v, valid := w.vip(), time.Duration(1+w.random.IntN(20))*time.Second
		w.kernel.leave(v, valid)
		for at := range w.leftovers { // of IPv6, one prefix length replaces another
			if at.link == v.Link && at.prefix.Addr() == v.Addr() && v.Addr().Is6() {
				delete(w.leftovers, at)
			}
		}
		w.leftovers[v.place()] = w.in(valid)
	}
	w.kernel.onPut = w.putChecked
	w.kernel.onRemove = w.removeChecked
	w.listener.onSync = w.syncChecked
	if w.random.IntN(2) == 0 {
		w.step()
	}
	w.run()
	for range 150 {
		w.step()
		if w.random.IntN(4) > 0 {
			w.settle(time.Duration(w.random.IntN(2500)) * time.Millisecond)
		}
		w.check()
		if t.Failed() {
			break
		}
	}
	w.kernel.failing(nil)
	w.listener.fail(nil)
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if left := w.kernel.ours(); len(left) > 0 {
		t.Errorf("left at the end: %v", left)
	}
	if t.Failed() {
		t.Logf("seed %d; the steps were:\n%s\nthe node:\n%s", seed, strings.Join(w.steps, "\n"), w.kernel)
	}
}

func (w *walker) vip() VIP {
	i := w.random.IntN(4)
	p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32)
	if w.random.IntN(2) == 0 {
		p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i)}), 128)
	}
	link := walkLinks[w.random.IntN(len(walkLinks))]
	return VIP{Prefix: p, Link: link, Via: "eth0"}
}

func (w *walker) step() {
	owner, mandate := fmt.Sprint("owner", w.random.IntN(3)), fmt.Sprint("mandate", w.random.IntN(3))
	said := func(format string, args ...any) {
		w.steps = append(w.steps, fmt.Sprintf("%8s ", time.Since(w.began))+fmt.Sprintf(format, args...))
	}
	switch w.random.IntN(14) {
	case 0, 1:
		var vips []VIP
		for range w.random.IntN(4) {
			if v := w.vip(); !slices.Contains(vips, v) {
				vips = append(vips, v)
			}
		}
		said("claim %s under %s: %v", owner, mandate, vips)
		w.claims[owner] = claim{mandate, vips}
		w.told = w.told || len(vips) > 0
		w.Claim(owner, mandate, vips)
	case 2:
		said("unclaim %s", owner)
		delete(w.claims, owner)
		w.Unclaim(owner)
	case 3, 4, 5, 6:
		valid := time.Duration(w.random.IntN(10_000)-500) * time.Millisecond
		said("grant %s for %s", mandate, valid)
		w.mandates[mandate] = w.in(valid)
		w.Grant(mandate, w.in(valid))
	case 7:
		said("revoke %s", mandate)
		w.mandates[mandate] = time.Time{}
		off := w.Revoke(mandate)
		if w.random.IntN(2) == 0 && w.stop != nil && w.LastPass() != (time.Time{}) {
			if err := off(w.t.Context()); (err != nil) && !w.faulty {
				w.t.Errorf("revoke %s: %v", mandate, err)
			} else if err == nil {
				w.checkOff(mandate)
			}
		}
	case 8:
		if ours := w.kernel.ours(); len(ours) > 0 {
			a := ours[w.random.IntN(len(ours))]
			said("by hand: remove %s", a)
			w.kernel.delAddress(a.link, a.prefix)
		}
	case 9:
		v := w.vip()
		p := v.Prefix
		if w.random.IntN(2) == 0 {
			p = netip.PrefixFrom(p.Addr(), p.Bits()/2)
		}
		if w.kernel.addAddress(v.Link, p) {
			said("by hand: add %s to %s", p, v.Link)
		}
	case 10:
		v := w.vip()
		for _, a := range w.kernelOthers() {
			if a.prefix.Addr() == v.Addr() {
				said("by hand: remove %s", a)
				w.kernel.delAddress(a.link, a.prefix)
			}
		}
	case 11:
		link := walkLinks[w.random.IntN(2)]
		said("delete %s", link)
		w.kernel.delLink(link)
	case 12:
		link := walkLinks[w.random.IntN(2)]
		w.kernel.mu.Lock()
		_, there := w.kernel.links[link]
		w.kernel.mu.Unlock()
		if !there {
			said("make %s", link)
			w.kernel.addLink(link)
		}
	case 13:
		switch call := []string{"list", "put", "remove", "watch", "speaker", "", "", ""}[w.random.IntN(8)]; call {
		case "":
			said("everything works")
			w.kernel.failing(nil)
			w.listener.fail(nil)
			w.faulty = false
		case "speaker":
			said("the speaker fails")
			w.listener.fail(errors.New("no"))
		default:
			said("%s fails", call)
			w.kernel.failing(errKernel, call)
			w.faulty = true
		}
	}
	w.others = w.kernel.others()
}

func (w *walker) kernelOthers() []fakeAddress {
	w.kernel.mu.Lock()
	defer w.kernel.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.kernel.addrs), func(a fakeAddress) bool { return a.ours })
}

// until is when v must be off this node; the zero time when no mandate is granted for it.
func (w *walker) until(at place) (until time.Time) {
	for _, c := range w.claims {
		for _, v := range c.vips {
			if m := w.mandates[c.mandate]; v.place() == at && m.After(until) {
				until = m
			}
		}
	}
	return until
}

// putChecked is called with each address that was put: its lifetime must not outlast its mandate by more than the
// rounding, which makes the kernel the dead-man.
func (w *walker) putChecked(a fakeAddress) {
	at := place{a.prefix, a.link}
	delete(w.leftovers, at)
	if end := a.since.Add(a.valid); !end.Before(w.until(at).Add(time.Second)) {
		w.t.Errorf("%s put until %s after the mandate's end", a, end.Sub(w.until(at)))
	}
}

// removeChecked is called with each address before it is removed: it is not announced any more.
func (w *walker) removeChecked(a fakeAddress) {
	delete(w.leftovers, place{a.prefix, a.link})
	for _, v := range w.listener.announced() {
		if v.Prefix == a.prefix && v.Link == a.link {
			w.t.Errorf("%s removed while it is announced", a)
		}
	}
}

// syncChecked is called before each announcement: what is announced is there.
func (w *walker) syncChecked(present []VIP) {
	w.kernel.mu.Lock()
	defer w.kernel.mu.Unlock()
	for _, v := range present {
		if !slices.ContainsFunc(w.kernel.addrs, func(a fakeAddress) bool { return a.prefix.Addr() == v.Addr() && a.link == v.Link }) {
			// When the list fails the last known one counts; a link that went shows in the put.
			if w.kernel.fault == nil {
				w.t.Errorf("%s is announced and not on %s", v, v.Link)
			}
		}
	}
}

// checkOff checks that nothing of a revoked mandate is there.
func (w *walker) checkOff(mandate string) {
	for _, c := range w.claims {
		if c.mandate != mandate {
			continue
		}
		for _, v := range c.vips {
			if w.kernel.has(v) && w.until(v.place()).IsZero() {
				w.t.Errorf("revoke %s returned, and %s is on %s", mandate, v, v.Link)
			}
		}
	}
}

// check compares the node with what was told.
func (w *walker) check() {
	w.t.Helper()
	synctest.Wait()
	now := time.Now()
	if diff := cmp.Diff(w.others, w.kernel.others()); diff != "" {
		w.t.Errorf("addresses of others (-want +got):\n%s", diff)
	}
	// Whatever fails: the lifetime ends it.
	for _, a := range w.kernel.ours() {
		if end := a.since.Add(a.valid); end.Before(now) {
			w.t.Errorf("%s outlived its end", a)
		}
	}
	if w.faulty {
		return
	}
	w.settle(tick + settle) // what failed is repaired within a tick
	now = time.Now()

	want, got := map[place]bool{}, map[place]bool{}
	var holding []VIP
	undecided := map[netip.Addr]bool{} // claimed, and under no mandate of which anything is known
	for _, c := range w.claims {
		until, known := w.mandates[c.mandate]
		for _, v := range c.vips {
			if before, ok := undecided[v.Addr()]; known || !ok {
				undecided[v.Addr()] = !known && (before || !ok)
			}
			if !until.After(now) || !w.linkExists(v.Link) {
				continue
			}
			if !slices.Contains(holding, v) {
				holding = append(holding, v)
			}
			if !slices.ContainsFunc(w.kernelOthers(), func(a fakeAddress) bool { return a.link == v.Link && a.prefix.Addr() == v.Addr() }) {
				want[v.place()] = true
			}
		}
	}
	for _, a := range w.kernel.ours() {
		at := place{a.prefix, a.link}
		until := w.until(at)
		leftover, isLeftover := w.leftovers[at]
		_, claimed := undecided[a.prefix.Addr()]
		switch {
		case isLeftover && leftover.After(now) && (undecided[a.prefix.Addr()] || !claimed && !w.told):
			continue // nothing is known that says it is to go
		case until.After(now) && a.since.Add(a.valid).Sub(until) >= time.Second:
			w.t.Errorf("%s ends %s after its mandate", a, a.since.Add(a.valid).Sub(until))
		case until.After(now):
			want[at] = true // beside another's of another prefix length, added later
		case undecided[a.prefix.Addr()]:
			continue // put under an earlier claim, of which no mandate is known now
		}
		got[at] = true
	}
	if !maps.Equal(want, got) {
		w.t.Errorf("addresses (-want +got):\n%s", cmp.Diff(lines(want), lines(got)))
	}
	slices.SortFunc(holding, compare)
	if diff := cmp.Diff(fmt.Sprint(holding), fmt.Sprint(w.Holding())); diff != "" {
		w.t.Errorf("holding (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(fmt.Sprint(holding), fmt.Sprint(w.listener.announced())); diff != "" {
		w.t.Errorf("announced (-want +got):\n%s", diff)
	}
}

func (w *walker) linkExists(name string) bool {
	w.kernel.mu.Lock()
	defer w.kernel.mu.Unlock()
	_, ok := w.kernel.links[name]
	return ok
}

func lines(places map[place]bool) (list []string) {
	for p := range places {
		list = append(list, fmt.Sprint(p.prefix, " ", p.link))
	}
	slices.Sort(list)
	return list
}
