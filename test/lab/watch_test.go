package lab

import (
	"net/netip"
	"testing"
	"time"
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
