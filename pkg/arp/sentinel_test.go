package arp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"kube-vip.io/kube-vip/pkg/vip"
	"kube-vip.io/kube-vip/test/netns"
)

// sentinelOn runs a Sentinel in a namespace until the test ends. What it tells goes to rivals.
func sentinelOn(t *testing.T, ns *netns.Namespace, held []vip.VIP) (s *Sentinel, rivals chan string) {
	t.Helper()
	rivals = make(chan string, 100)
	s = NewSentinel(SentinelOptions{Held: func() []vip.VIP { return held }, Rival: func(addr netip.Addr, mac net.HardwareAddr, _ bool) {
		rivals <- addr.String() + " " + mac.String()
	}, Alone: func(addr netip.Addr, held bool) { rivals <- fmt.Sprintf("%s alone, held %t", addr, held) }})
	s.seldom = time.Hour
	s.in = inside(ns)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("Run has not returned")
		}
	})
	return s, rivals
}

// inside has a Sentinel's wire be that of a namespace.
func inside(ns *netns.Namespace) func(func()) {
	return func(f func()) {
		done := make(chan struct{})
		ns.Go(func() {
			defer close(done)
			f()
		})
		<-done
	}
}

// silent fails the test if anybody is told of within a time.
func silent(t *testing.T, rivals chan string, d time.Duration, when string) {
	t.Helper()
	select {
	case got := <-rivals:
		t.Errorf("%s: told of %s", when, got)
	case <-time.After(d):
	}
}

func told(t *testing.T, rivals chan string, want, when string) {
	t.Helper()
	select {
	case got := <-rivals:
		if got != want {
			t.Errorf("%s: told of %s, want %s", when, got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: told of nobody, want %s", when, want)
	}
}

// TestSentinelGivesWay: who waits in Clear for an address is noticed by the Sentinel of the node that has it, and goes
// on once it is off there, not before.
func TestSentinelGivesWay(t *testing.T) {
	for _, addr := range []string{"10.0.0.10", "2001:db8::10"} {
		t.Run(addr, func(t *testing.T) {
			h := newSegment(t)
			held := vips("eth0", "10.0.0.11", "2001:db8::11", addr)
			for _, v := range held {
				own(t, h.node, "eth0", v.Addr().String())
			}
			s, rivals := sentinelOn(t, h.node, held)
			taker, _ := sentinelOn(t, h.observer, nil)
			silent(t, rivals, 200*time.Millisecond, "before Watch")
			s.Watch(true)
			silent(t, rivals, 1500*time.Millisecond, "when nobody is there")

			cleared := make(chan struct{})
			go func() {
				defer close(cleared)
				taker.Clear(t.Context(), vips("br0", addr))
			}()
			told(t, rivals, addr+" "+observerMAC, "when somebody waits for the address")
			select {
			case <-cleared:
				t.Error("Clear returned while the address was there")
			case <-time.After(300 * time.Millisecond):
			}
			disown(t, h.node, "eth0", addr)
			select {
			case <-cleared:
			case <-time.After(10 * time.Second):
				t.Fatal("Clear waits although nobody has the address")
			}
			began := time.Now()
			taker.Clear(t.Context(), vips("br0", addr, "10.0.0.99"))
			if took := time.Since(began); took < 3*clearInterval || took > 10*3*clearInterval {
				t.Errorf("Clear of what nobody has took %s, want some %s", took, 3*clearInterval)
			}
		})
	}
}

// TestSentinelAsks: who has the address already, and says nothing, is found by asking.
func TestSentinelAsks(t *testing.T) {
	h := newSegment(t)
	own(t, h.node, "eth0", "10.0.0.10")
	own(t, h.observer, "br0", "10.0.0.10")
	s, rivals := sentinelOn(t, h.node, vips("eth0", "10.0.0.10"))
	s.Watch(true)
	told(t, rivals, "10.0.0.10 "+observerMAC, "at first")
	told(t, rivals, "10.0.0.10 "+observerMAC, "a second later")
	s.Watch(false)
	time.Sleep(time.Second) // what was asked before is answered
	for len(rivals) > 0 {
		<-rivals
	}
	silent(t, rivals, 1500*time.Millisecond, "when it does not watch")
}

// TestSentinelAtLeisure: a host that takes an address later is found without close watching, and so is that it has given it
// up; each VIP is asked for in its turn.
func TestSentinelAtLeisure(t *testing.T) {
	for _, family := range []string{"10.0.0.", "2001:db8::"} {
		t.Run(family, func(t *testing.T) {
			h := newSegment(t)
			var addrs []string
			for i := range 9 {
				addrs = append(addrs, family+strconv.Itoa(50+i))
				own(t, h.node, "eth0", addrs[i])
			}
			s, rivals := sentinelOn(t, h.node, vips("eth0", addrs...))
			s.Watch(false) // the first look
			silent(t, rivals, 300*time.Millisecond, "when nobody is there")
			own(t, h.observer, "br0", addrs[7])
			turns := 0
			for ; len(rivals) == 0 && turns < 10; turns++ {
				s.Watch(false)
				time.Sleep(300 * time.Millisecond)
			}
			told(t, rivals, addrs[7]+" "+observerMAC, "after "+strconv.Itoa(turns)+" turns")
			if turns > 5 { // two a turn
				t.Errorf("%d turns for %d VIPs", turns, len(addrs))
			}
			s.Watch(false)
			told(t, rivals, addrs[7]+" "+observerMAC, "in the next turn")
			disown(t, h.observer, "br0", addrs[7])
			s.Watch(false)
			silent(t, rivals, 300*time.Millisecond, "when he has not answered once")
			s.Watch(false)
			told(t, rivals, addrs[7]+" alone, held true", "when he has given it up")
			s.Watch(false)
			silent(t, rivals, 300*time.Millisecond, "after that")
		})
	}
}

// TestSentinelHandover: who answers for a VIP that goes from this node while it asks is the next one to hold it; and of a VIP
// that is here no more nothing is known.
func TestSentinelHandover(t *testing.T) {
	h := newSegment(t)
	own(t, h.node, "eth0", "10.0.0.10")
	own(t, h.observer, "br0", "10.0.0.10")
	var held atomic.Pointer[[]vip.VIP]
	all := vips("eth0", "10.0.0.10")
	rivals := make(chan string, 10)
	s := NewSentinel(SentinelOptions{Held: func() []vip.VIP { return *held.Load() }, Rival: func(addr netip.Addr, _ net.HardwareAddr, _ bool) {
		rivals <- addr.String()
	}, Alone: func(addr netip.Addr, held bool) { rivals <- fmt.Sprintf("%s alone, held %t", addr, held) }})
	s.in = inside(h.node)
	look := func(when string, after []vip.VIP, want ...string) {
		t.Helper()
		held.Store(&all)
		list := askable(all)
		s.turn(list)
		held.Store(&after)
		s.ask(t.Context(), list)
		var got []string
		for len(rivals) > 0 {
			got = append(got, <-rivals)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	look("a handover", nil)
	look("a stranger", all, "10.0.0.10")
	look("again", all, "10.0.0.10")
	all = nil
	look("not here any more", nil, "10.0.0.10 alone, held false")
}

// TestSentinelSome: of few VIPs each is asked for within roundTime, of many not more than neighbours bear.
func TestSentinelSome(t *testing.T) {
	for _, tc := range []struct{ held, met, want int }{{0, 0, 0}, {1, 0, 1}, {6, 0, 1}, {7, 0, 2}, {90, 0, 15}, {10000, 0, sampleSize}, {10000, 1, sampleSize + 1}, {10000, 1000, 2 * sampleSize}} {
		var held []vip.VIP
		s := NewSentinel(SentinelOptions{})
		for i := range tc.held {
			addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			held = append(held, vips("eth0", addr.String())...)
			if i >= tc.held-tc.met {
				s.met[addr] = 0
			}
		}
		if got := s.some(held); len(got) != tc.want {
			t.Errorf("%d held, %d met: %d asked for, want %d", tc.held, tc.met, len(got), tc.want)
		}
	}
}

// TestSentinelMindsNobodyElse: a host that looks once whether the address is free, as RFC 5227 has it, is answered by the
// kernel, and that is all; so are claims of other addresses and this node's own.
func TestSentinelMindsNobodyElse(t *testing.T) {
	h := newSegment(t)
	own(t, h.node, "eth0", "10.0.0.10")
	s, rivals := sentinelOn(t, h.node, vips("eth0", "10.0.0.10"))
	s.Watch(true)
	silent(t, rivals, 200*time.Millisecond, "at first")
	for range 2 {
		if got := mustProbe(t, h.observer, NewProber(ProberOptions{Attempts: 1}), "br0", "10.0.0.10"); got != macA().String() {
			t.Fatalf("the address is %q's, want %s's", got, macA())
		}
		time.Sleep(rivalTime + 100*time.Millisecond)
	}
	for range 5 {
		mustProbe(t, h.observer, NewProber(ProberOptions{Interval: time.Millisecond}), "br0", "10.0.0.77")
	}
	silent(t, rivals, 500*time.Millisecond, "after probes")
	by := claim{netip.MustParseAddr("10.0.0.10"), macA(), false}
	for range 10 {
		s.heard(by)
	}
	silent(t, rivals, 500*time.Millisecond, "after claims of its own")
	s.heard(claim{by.addr, MAC{2, 0, 0, 0, 9, 9}, true})
	silent(t, rivals, 500*time.Millisecond, "after somebody said that he has it, who does not answer for it")
	for range 3 {
		s.heard(claim{by.addr, MAC{2, 0, 0, 0, 9, 9}, false})
	}
	told(t, rivals, "10.0.0.10 02:00:00:00:09:09", "after a burst")
}

// TestSentinelFindsAll: when another node turns out to have one of many VIPs all others are asked for, too.
func TestSentinelFindsAll(t *testing.T) {
	h := newSegment(t)
	var addrs []string
	for i := range 12 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{10, 0, 0, byte(50 + i)}).String())
		own(t, h.node, "eth0", addrs[i])
	}
	s, rivals := sentinelOn(t, h.node, vips("eth0", addrs...))
	s.Watch(true)
	silent(t, rivals, 500*time.Millisecond, "at first")
	for _, addr := range addrs {
		own(t, h.observer, "br0", addr)
	}
	mac, err := net.ParseMAC(observerMAC)
	if err != nil {
		t.Fatal(err)
	}
	s.heard(claim{netip.MustParseAddr(addrs[3]), MAC(mac), true})
	found := map[string]bool{}
	for began := time.Now(); len(found) < len(addrs) && time.Since(began) < 4*lookEvery; {
		select {
		case got := <-rivals:
			found[got] = true
		case <-time.After(lookEvery):
		}
	}
	if len(found) != len(addrs) {
		t.Errorf("told of %d of %d within %s: %v", len(found), len(addrs), 4*lookEvery, found)
	}
}

func TestSpread(t *testing.T) {
	var list []vip.VIP
	for i := range 1000 {
		list = append(list, vips("eth0", netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String())...)
	}
	got := spread(askable(append(list, vip.VIP{Prefix: netip.MustParsePrefix("10.2.0.1/32"), Link: "lo", Via: "lo"})), sampleSize)
	if len(got) != sampleSize || got[0] != list[0] || got[sampleSize-1] != list[999] {
		t.Errorf("%v, want %d of them, the first and the last among them", got, sampleSize)
	}
	if got := spread(list[:3], sampleSize); len(got) != 3 {
		t.Errorf("%d of 3", len(got))
	}
}

// disown has the kernel of a namespace hold an address no more.
func disown(t *testing.T, ns *netns.Namespace, link, address string) {
	t.Helper()
	ns.OnLink(t, link, func(l netlink.Link) error { return netlink.AddrDel(l, hostAddr(netip.MustParseAddr(address))) })
}

// TestSilent: a host that has a VIP and only answers is there, and he is not told to give way; nobody is silent of whom
// nothing is known.
func TestSilent(t *testing.T) {
	for _, addr := range []string{"10.0.0.10", "2001:db8::10"} {
		t.Run(addr, func(t *testing.T) {
			h := newSegment(t)
			held := vips("eth0", addr)
			holder, rivals := sentinelOn(t, h.node, held)
			taker, _ := sentinelOn(t, h.observer, nil)
			ask := func(want bool, when string, link string, addrs ...string) {
				t.Helper()
				if got := taker.Silent(t.Context(), vips(link, addrs...)); got != want {
					t.Errorf("%s: silent is %t", when, got)
				}
			}
			ask(true, "nobody has it", "br0", addr)
			own(t, h.node, "eth0", addr)
			holder.Watch(true)
			silent(t, rivals, 300*time.Millisecond, "at first")
			for range 2 {
				ask(false, "somebody has it", "br0", "10.0.0.99", addr)
				silent(t, rivals, rivalTime, "when he is asked for")
			}
			ask(false, "no VIP", "br0")
			ask(false, "no such link", "nolink0", addr)
		})
	}
}
