package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// An AddressEvent is one notification of a host's kernel about an address.
type AddressEvent struct {
	// Time is when it was read.
	Time time.Time
	// Addr is the address.
	Addr netip.Addr
	// Present is true when it was added or its lifetime was set anew, false when it went.
	Present bool
}

// An AddressWatch records what becomes of a host's addresses (RTM_NEWADDR and RTM_DELADDR of rtnetlink(7)).
type AddressWatch struct {
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex // guards events
	events []AddressEvent
}

// WatchAddresses begins to record.
func (h *Host) WatchAddresses() (*AddressWatch, error) {
	w := &AddressWatch{stop: make(chan struct{}), done: make(chan struct{})}
	updates := make(chan netlink.AddrUpdate)
	ns := netns.NsHandle(h.fd)
	if err := netlink.AddrSubscribeWithOptions(updates, w.stop, netlink.AddrSubscribeOptions{Namespace: &ns}); err != nil {
		return nil, fmt.Errorf("watch the addresses of %s: %w", h.Name, err)
	}
	go func() {
		defer close(w.done)
		for u := range updates {
			now := time.Now()
			addr, ok := netip.AddrFromSlice(u.LinkAddress.IP)
			if !ok {
				continue
			}
			w.mu.Lock()
			w.events = append(w.events, AddressEvent{Time: now, Addr: addr.Unmap(), Present: u.NewAddr})
			w.mu.Unlock()
		}
	}()
	return w, nil
}

// Events are what was seen so far.
func (w *AddressWatch) Events() []AddressEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

// Close ends the watch.
func (w *AddressWatch) Close() {
	close(w.stop)
	<-w.done
}
