// Package arp tells the neighbours on an Ethernet segment where VIPs are: gratuitous ARP for IPv4 (RFC 826,
// RFC 5227 §3 in its request and RFC 5944 §4.6 in its reply form) and unsolicited Neighbor Advertisements for
// IPv6 (RFC 4861 §7.2.6).
//
// An Announcer is given the VIPs that are present on this node. It announces a new one at once and in a short
// burst, since clients wait for it, and refreshes it from then on. Answering questions about a VIP is left to
// the kernel, which does so because the address is on the node.
package arp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kube-vip.io/kube-vip/pkg/vip"
)

const (
	// DefaultRate is the time between two refreshes of a VIP unless Options say otherwise.
	DefaultRate = 3 * time.Second

	// watch is how often links are looked at without being asked to, and how soon what failed is tried again. Each
	// Sync looks too, and the Table syncs when the kernel tells of a change; looking more often without being
	// asked was a fifth of what an idle instance cost.
	watch = time.Second

	// pauseLimit is for how long the Announcer may fail to run before it doubts its VIPs. It runs every watch;
	// addresses that the kernel takes away by itself live for whole seconds.
	pauseLimit = 1500 * time.Millisecond

	// batch bounds how many announcements are sent in one go, and with it how long Sync can wait: to less than
	// a millisecond.
	batch = 64
)

// errNotReady is why nothing is sent on a link that cannot be used; the link's own fault says more.
var errNotReady = errors.New("link not ready")

// Options say how an Announcer works. The zero value is usable.
type Options struct {
	// Rate is the time between two refreshes of a VIP, as long as fifty VIPs in a second are not too few for that;
	// 0 and less mean DefaultRate.
	Rate time.Duration
	// Log is where changes are told; nil means nowhere.
	Log *slog.Logger
	// Registerer gets the metrics; nil means that they are kept for nobody. It must not have them yet.
	Registerer prometheus.Registerer
	// Wire is the network; nil means Kernel.
	Wire Wire
}

// Announcer is the vip.Speaker for Ethernet segments.
type Announcer struct {
	log  *slog.Logger
	wire Wire
	// wake tells Run that there is something new.
	wake chan struct{}
	// closing counts the ports that are being closed; Run waits for them in the end.
	closing sync.WaitGroup

	sent, failed *prometheus.CounterVec

	// mu guards the fields below. It is held while a batch of frames is sent, so that nothing is sent for a VIP
	// once Sync has taken it out; sending does not wait for the network.
	mu      sync.Mutex
	running bool
	cadence cadence
	// round counts the calls of Sync.
	round   uint64
	entries map[place]*entry
	queue   queue
	links   map[string]*link

	// seen is when Run was last seen running. Time that passes unseen is a pause: a stopped process, a frozen
	// container.
	seen time.Time
	// doubt says that the kernel must be asked for its addresses before anything is sent.
	doubt bool
	// doubtFault is why the kernel could not be asked, "" when it could.
	doubtFault string

	// Of the present turn of Run: what changed for VIPs, and what is logged once mu is free.
	changes map[change]*changed
	later   []func()
}

var _ vip.Speaker = (*Announcer)(nil)

// place is where a VIP is announced. Two VIPs that differ in their prefix length only are one.
type place struct {
	addr netip.Addr
	via  string
}

// link is an interface by which VIPs are announced.
type link struct {
	name string
	// port is nil while the link cannot be opened.
	port    Port
	station Station
	// ready says that frames can be sent, fault why not.
	ready bool
	fault string
	// lookAt is when the link is looked at again.
	lookAt time.Time
	// used is the round in which a VIP was last announced by it.
	used uint64
}

// change is what happened to VIPs on a link; an empty fault means that they are announced again.
type change struct {
	link, fault string
}

// changed counts the VIPs with the same change, of which one is named.
type changed struct {
	example netip.Addr
	vips    int
}

// New returns an Announcer that does nothing until Run.
func New(o Options) *Announcer {
	rate := o.Rate
	if rate <= 0 {
		rate = DefaultRate
	}
	wire := o.Wire
	if wire == nil {
		wire = Kernel{}
	}
	labels := []string{"family", "link"}
	a := &Announcer{
		log:     cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		wire:    wire,
		wake:    make(chan struct{}, 1),
		entries: map[place]*entry{},
		links:   map[string]*link{},
		changes: map[change]*changed{},
		cadence: cadence{epoch: time.Now(), rate: rate},
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kube_vip_announcements_sent_total",
			Help: "Announcements of a VIP that were sent: gratuitous ARP in both forms, or an unsolicited Neighbor Advertisement.",
		}, labels),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kube_vip_announcements_failed_total",
			Help: "Announcements of a VIP that were due and could not be sent.",
		}, labels),
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(a.sent, a.failed)
	}
	return a
}

// Sync implements vip.Speaker. It leaves the sending to Run, which begins with what is new within a
// millisecond; a VIP that is not in present has been announced for the last time when Sync returns. Before Run,
// and after it, the set is remembered.
//
// The error names VIPs that can never be announced as they are; the others are announced. What may pass - a
// link that is missing or down, say - is logged and counted, and announced as soon as it has passed.
func (a *Announcer) Sync(present []vip.VIP) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.round++
	var refused []error
	for _, v := range present {
		p, err := placeOf(v)
		if err != nil {
			refused = append(refused, err)
			continue
		}
		e := a.entries[p]
		if e == nil {
			e = a.add(p, now)
		}
		e.round, e.link.used = a.round, a.round
		// The caller has just put the addresses on their links: a link that was not there may be there now, or be
		// another one, and so may an address.
		e.link.lookAt = now
		a.doubt = a.doubt || e.missing
	}
	for p, e := range a.entries {
		if e.round != a.round {
			a.queue.drop(e)
			delete(a.entries, p)
		}
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
	return errors.Join(refused...)
}

// placeOf says where v is announced, or why it never can be.
func placeOf(v vip.VIP) (place, error) {
	addr := v.Addr().Unmap().WithZone("")
	switch {
	case !addr.IsValid(), addr.IsUnspecified(), addr.IsMulticast(), addr.IsLoopback():
		return place{}, fmt.Errorf("announce %s: not the address of a host on a network", v)
	case v.Via == "":
		return place{}, fmt.Errorf("announce %s: no interface to announce it by", v)
	case v.Via == "lo":
		return place{}, fmt.Errorf("announce %s by lo: a loopback has no neighbours; name the interface that faces the network", v)
	}
	return place{addr: addr, via: v.Via}, nil
}

// add queues a VIP for its first announcement.
func (a *Announcer) add(p place, now time.Time) *entry {
	l := a.links[p.via]
	if l == nil {
		l = &link{name: p.via}
		a.links[p.via] = l
	}
	family := "ipv6"
	if p.addr.Is4() {
		family = "ipv4"
	}
	e := &entry{
		addr:   p.addr,
		link:   l,
		at:     -1,
		sent:   a.sent.WithLabelValues(family, p.via),
		failed: a.failed.WithLabelValues(family, p.via),
	}
	e.restart(now)
	a.entries[p] = e
	a.queue.put(e)
	return e
}

// Run announces until ctx ends; then it closes what it opened, and nothing is sent after it returned. It fails
// only when it runs already; whatever is wrong with the network is logged, counted and tried again.
func (a *Announcer) Run(ctx context.Context) error {
	if err := a.begin(); err != nil {
		return err
	}
	defer a.end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		next := a.turn(time.Now())
		var due <-chan time.Time
		if !next.IsZero() {
			timer.Reset(time.Until(next))
			due = timer.C
		}
		select {
		case <-ctx.Done():
		case <-due:
		case <-a.wake:
		}
		if next.IsZero() {
			a.rested()
		}
	}
	return nil
}

func (a *Announcer) begin() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running {
		return errors.New("run the ARP and NDP announcer: it runs already")
	}
	a.running = true
	a.seen = time.Now()
	return nil
}

// end closes the links. Should Run be called once more it opens them again, and everything is announced anew.
func (a *Announcer) end() {
	a.mu.Lock()
	for _, l := range a.links {
		a.close(l)
		l.lookAt = time.Time{}
	}
	a.mu.Unlock()
	a.closing.Wait()

	a.mu.Lock()
	defer a.mu.Unlock()
	a.running = false
}

// rested says that Run had nothing to do, which is no pause.
func (a *Announcer) rested() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = time.Now()
}

// turn does what is due and returns when the next turn is; the zero time means when woken.
func (a *Announcer) turn(now time.Time) time.Time {
	a.mu.Lock()
	next := a.announceDue(now)
	a.reportChanges()
	later := a.later
	a.later = nil
	a.mu.Unlock()

	for _, f := range later {
		f()
	}
	return next
}

// announceDue sends a batch of what is due and returns when there is more to do.
func (a *Announcer) announceDue(now time.Time) time.Time {
	next := a.lookAtLinks(now)
	if len(a.entries) == 0 {
		return time.Time{}
	}
	for range batch {
		now = time.Now()
		if a.paused(now) {
			a.doubt = true
		}
		if a.doubt && !a.settle(now) {
			return now.Add(watch)
		}
		e := a.queue.next()
		if e == nil {
			return next
		}
		if e.due.After(now) {
			return earlier(next, e.due)
		}
		a.announce(e, now)
		// A link on which sending failed wants to be looked at without delay.
		next = earlier(next, e.link.lookAt)
	}
	return now
}

// paused says whether this goroutine did not run for so long that VIPs may have left this node unnoticed: the
// kernel takes an address away by itself when its time is up, and another node may announce it by now. It is
// asked before each announcement, so what remains is a pause between here and the system call.
func (a *Announcer) paused(now time.Time) bool {
	unseen := now.Sub(a.seen)
	a.seen = now
	return unseen > pauseLimit
}

// settle asks the kernel which VIPs are on this node, holds back those that are not, and announces anew
// those that are back. It reports whether the kernel answered.
func (a *Announcer) settle(now time.Time) bool {
	held, err := a.wire.Held()
	if err != nil {
		if fault := err.Error(); a.doubtFault != fault {
			a.doubtFault = fault
			a.later = append(a.later, func() { a.log.Warn("nothing is announced until it is known which VIPs are on this node", "err", err) })
		}
		return false
	}
	a.doubt, a.doubtFault = false, ""
	a.seen = time.Now() // the question's own time is no pause
	for _, e := range a.entries {
		switch {
		case !held[e.addr] && !e.missing:
			e.missing = true
			a.queue.drop(e)
			a.note(e, "the address is no longer on this node")
		case held[e.addr] && e.missing:
			e.missing = false
			e.restart(now)
			a.queue.put(e)
		}
	}
	return true
}

// lookAtLinks looks at the links whose time it is, forgets those that are no longer used, and returns when
// it wants to be called again.
func (a *Announcer) lookAtLinks(now time.Time) time.Time {
	next := now.Add(watch)
	for name, l := range a.links {
		if l.used != a.round {
			a.close(l)
			delete(a.links, name)
			continue
		}
		if !l.lookAt.After(now) {
			a.look(l, now)
		}
		next = earlier(next, l.lookAt)
	}
	return next
}

// look makes sure that l is open and that its VIPs are announced anew if their neighbours see anything else
// than before.
func (a *Announcer) look(l *link, now time.Time) {
	l.lookAt = now.Add(watch)
	station, err := a.inspect(l)
	if err != nil {
		l.ready = false
		if fault := err.Error(); l.fault != fault {
			l.fault = fault
			a.later = append(a.later, func() { a.log.Warn("nothing is announced on the link", "link", l.name, "err", err) })
		}
		return
	}
	old := l.station
	returned := !l.ready
	l.station, l.ready = station, true
	if l.fault != "" {
		l.fault = ""
		a.later = append(a.later, func() { a.log.Info("announcing on the link again", "link", l.name, "mac", station.MAC.String()) })
	}
	all := returned || station.MAC != old.MAC || station.Running && !old.Running
	ipv6 := station.LinkLocal != old.LinkLocal || station.Router != old.Router
	if !all && !ipv6 {
		return
	}
	for _, e := range a.entries {
		if e.link == l && !e.missing && (all || e.addr.Is6()) {
			e.restart(now)
			a.queue.put(e)
		}
	}
}

// inspect opens l where needed and returns what it is like. A link that is not the one which was opened is
// opened anew.
func (a *Announcer) inspect(l *link) (Station, error) {
	if l.port != nil {
		station, err := l.port.Look()
		if err == nil {
			return usable(l, station)
		}
		a.close(l)
	}
	port, err := a.wire.Open(l.name)
	if err != nil {
		return Station{}, err
	}
	l.port = port
	station, err := port.Look()
	if err != nil {
		a.close(l)
		return Station{}, err
	}
	return usable(l, station)
}

func usable(l *link, s Station) (Station, error) {
	if !s.Up {
		return Station{}, fmt.Errorf("look at link %s: it is down", l.name)
	}
	return s, nil
}

// close gives the link's port back, without waiting for it.
func (a *Announcer) close(l *link) {
	l.ready = false
	port := l.port
	if port == nil {
		return
	}
	l.port = nil
	a.closing.Go(func() {
		if err := port.Close(); err != nil {
			a.log.Warn("link not closed", "link", l.name, "err", err)
		}
	})
}

// announce sends the announcement of e that is due and sets when the next one is.
func (a *Announcer) announce(e *entry, now time.Time) {
	err := e.send()
	e.advance(now, a.cadence.spread(len(a.entries)))
	switch {
	case err == nil:
		e.sent.Inc()
		a.note(e, "")
	case errors.Is(err, errNotReady):
		// The link's return begins the burst anew.
		e.failed.Inc()
	default:
		e.failed.Inc()
		a.note(e, err.Error())
		e.due = earlier(e.due, now.Add(watch))
		e.link.lookAt = now
	}
	a.queue.put(e)
}

func (e *entry) send() error {
	l := e.link
	if !l.ready {
		return errNotReady
	}
	if e.frames == nil {
		if e.addr.Is6() && !l.station.LinkLocal.IsValid() {
			return fmt.Errorf("%s has no IPv6 link-local address to send from: IPv6 is disabled there, or its duplicate address detection has not ended well", l.name)
		}
		frames, err := announcement(l.station, e.addr)
		if err != nil {
			return err
		}
		e.frames = frames
	}
	for _, f := range e.frames {
		if err := l.port.Send(f); err != nil {
			return err
		}
	}
	return nil
}

// note remembers how e fares and has the change, if it is one, reported.
func (a *Announcer) note(e *entry, fault string) {
	if e.fault == fault {
		return
	}
	e.fault = fault
	c := change{link: e.link.name, fault: fault}
	if a.changes[c] == nil {
		a.changes[c] = &changed{example: e.addr}
	}
	a.changes[c].vips++
}

// reportChanges has one line logged for all VIPs of a link with the same change.
func (a *Announcer) reportChanges() {
	for c, n := range a.changes {
		a.later = append(a.later, func() {
			log := a.log.With("link", c.link, "vip", n.example.String(), "vips", n.vips)
			if c.fault == "" {
				log.Info("announced again")
				return
			}
			log.Warn("not announced", "err", c.fault)
		})
	}
	clear(a.changes)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
