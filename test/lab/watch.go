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

// An AddressWatch hears what becomes of a host's addresses (RTM_NEWADDR and RTM_DELADDR of rtnetlink(7)).
type AddressWatch struct {
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex // guards the fields below
	events []AddressEvent
	closed bool
	err    error
}

// watchBuffer is what a socket keeps until it is read: a notification of each of thousands of addresses, while other
// programs have the processors.
const watchBuffer = 64 << 20

// WatchAddresses begins to record.
func (h *Host) WatchAddresses() (*AddressWatch, error) {
	w := &AddressWatch{stop: make(chan struct{}), done: make(chan struct{})}
	return w, h.watch(w, func(e AddressEvent) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e)
	})
}

// WatchAddressesFunc gives each event to got, one after another, and keeps none.
func (h *Host) WatchAddressesFunc(got func(AddressEvent)) (*AddressWatch, error) {
	w := &AddressWatch{stop: make(chan struct{}), done: make(chan struct{})}
	return w, h.watch(w, got)
}

func (h *Host) watch(w *AddressWatch, got func(AddressEvent)) error {
	updates := make(chan netlink.AddrUpdate)
	ns := netns.NsHandle(h.fd)
	err := netlink.AddrSubscribeWithOptions(updates, w.stop, netlink.AddrSubscribeOptions{
		Namespace: &ns, ErrorCallback: w.fail, ReceiveBufferSize: watchBuffer, ReceiveBufferForceSize: true,
	})
	if err != nil {
		return fmt.Errorf("watch the addresses of %s: %w", h.Name, err)
	}
	go func() {
		defer close(w.done)
		for u := range updates {
			now := time.Now()
			if addr, ok := netip.AddrFromSlice(u.LinkAddress.IP); ok {
				got(AddressEvent{Time: now, Addr: addr.Unmap(), Present: u.NewAddr})
			}
		}
	}()
	return nil
}

// fail notes why the watch ended, or missed something.
func (w *AddressWatch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed && w.err == nil {
		w.err = err
	}
}

// Err is why the watch does not know all that happened; nil while it does.
func (w *AddressWatch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Events are what was seen so far.
func (w *AddressWatch) Events() []AddressEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

// Close ends the watch.
func (w *AddressWatch) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	close(w.stop)
	<-w.done
}
