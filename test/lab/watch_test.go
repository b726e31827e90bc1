package lab

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/packet"
)

// TestWatchAddresses: what comes and goes is told in order, with times between those of the calls.
func TestWatchAddresses(t *testing.T) {
	l := New(t, Options{Nodes: 2, NoCluster: true})
	node := l.Nodes[0]
	w, err := node.WatchAddresses()
	if err != nil {
		t.Fatal(err)
	}
	prefix := netip.MustParsePrefix("10.10.0.10/32")
	began := time.Now()
	if err := node.AddAddress(node.Link, prefix); err != nil {
		t.Fatal(err)
	}
	if err := l.Nodes[1].AddAddress(node.Link, netip.MustParsePrefix("10.10.0.99/32")); err != nil {
		t.Fatal(err) // another host's, which the watch must not see
	}
	if err := node.RemoveAddress(node.Link, prefix); err != nil {
		t.Fatal(err)
	}
	err = Wait(t.Context(), "both are told", func() (bool, error) { return len(w.Events()) >= 2 || time.Since(began) > 5*time.Second, nil })
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	events := w.Events()
	if len(events) != 2 {
		t.Fatalf("got %v, want the address to come and to go", events)
	}
	for i, present := range []bool{true, false} {
		e := events[i]
		if e.Addr != prefix.Addr() || e.Present != present {
			t.Errorf("event %d is %v, want present=%v of %s", i, e, present, prefix.Addr())
		}
		if e.Time.Before(began) || e.Time.After(time.Now()) {
			t.Errorf("event %d was at %s, before it was caused", i, e.Time)
		}
	}
}

// TestWatchThousands: of thousands of addresses at once no notification is lost, though nobody reads meanwhile, and
// none is kept.
func TestWatchThousands(t *testing.T) {
	l := New(t, Options{Nodes: 1, NoCluster: true, Wide: true})
	node := l.Nodes[0]
	const n = 5000
	var mu sync.Mutex
	seen := map[netip.Addr]int{}
	held := make(chan struct{})
	w, err := node.WatchAddressesFunc(func(e AddressEvent) {
		<-held
		mu.Lock()
		defer mu.Unlock()
		if e.Addr.Is4() { // the link's own is told of when it is there
			seen[e.Addr]++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		addr := netip.AddrFrom4([4]byte{10, 10, byte(100 + i/250), byte(1 + i%250)})
		if err := node.AddAddress(node.Link, netip.PrefixFrom(addr, 32)); err != nil {
			t.Fatal(err)
		}
	}
	close(held)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := Wait(ctx, "all are told", func() (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		return len(seen) == n || w.Err() != nil, nil
	}); err != nil {
		t.Errorf("%v: %d are", err, len(seen))
	}
	w.Close()
	if err := w.Err(); err != nil {
		t.Errorf("the watch missed something: %v", err)
	}
	if kept := w.Events(); len(kept) > 0 {
		t.Errorf("%d events were kept", len(kept))
	}
}

// TestCaptureThousands: nor is a frame.
func TestCaptureThousands(t *testing.T) {
	l := New(t, Options{Nodes: 1, NoCluster: true, Wide: true})
	const n = 5000
	var mu sync.Mutex
	seen := map[netip.Addr]bool{}
	held := make(chan struct{})
	c, err := l.Gateway.CaptureFunc(l.Gateway.Link, func(f Frame) {
		<-held
		mu.Lock()
		defer mu.Unlock()
		seen[f.Target] = true
	})
	if err != nil {
		t.Fatal(err)
	}
	wire, err := l.Nodes[0].openWire(l.Nodes[0].Link)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = wire.Close() }()
	everybody := &packet.Addr{HardwareAddr: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	for i := range n {
		addr := netip.AddrFrom4([4]byte{10, 10, byte(100 + i/250), byte(1 + i%250)})
		if _, err := wire.WriteTo(question(addr, l.Nodes[0].Addr(), i), everybody); err != nil {
			t.Fatal(err)
		}
		if i%250 == 0 { // a busy kernel drops what is more than net.core.netdev_max_backlog before anybody can hear it
			time.Sleep(10 * time.Millisecond)
		}
	}
	close(held)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := Wait(ctx, "all are heard", func() (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		return len(seen) >= n, nil
	}); err != nil {
		t.Errorf("%v: %d are", err, len(seen))
	}
	if lost, err := c.Lost(); err != nil || lost > 0 {
		t.Errorf("%d frames were lost, %v", lost, err)
	}
	if kept := c.Frames(); len(kept) > 0 {
		t.Errorf("%d frames were kept", len(kept))
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
