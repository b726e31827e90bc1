package arp

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"kube-vip.io/kube-vip/pkg/vip"
)

const (
	// lookEvery is the time between two questions of a Sentinel that watches.
	lookEvery = time.Second
	// sampleSize is how many of many addresses are asked for: who has one of a group's has them all.
	sampleSize = 16

	// clearInterval is the time between two probes of Clear, clearPause that between an answer and the next probe, and
	// clearLimit how long somebody may go on to answer. A kernel that has an address answers within a millisecond, and
	// who has given it up is rid of it within three seconds (a killed holder's is taken away by its kernel).
	clearInterval = 40 * time.Millisecond
	clearPause    = 50 * time.Millisecond
	clearLimit    = 15 * time.Second

	// Whoever claims an address that often in so short a time means to have it: it announces it anew, in a burst, or
	// waits in Clear until nobody answers for it. A host that only looks whether it is free (RFC 5227 §1.1, RFC 4862
	// §5.1, arping -D) claims it once in a second.
	rivalClaims = 3
	rivalTime   = 500 * time.Millisecond
)

// SentinelOptions configure a Sentinel. Held and Rival are required.
type SentinelOptions struct {
	// Held are the VIPs that are present on this node.
	Held func() []vip.VIP
	// Rival is told of somebody else on the wire who has a VIP that this node has, or means to have it. It must not block.
	Rival func(addr netip.Addr, mac net.HardwareAddr)
	// Log is where it is told what can not be watched; nil means nowhere.
	Log *slog.Logger
}

// Sentinel finds out whether anybody else on the wire has the VIPs of this node. It needs the capability NET_RAW. Its
// methods may be called from any goroutine, before and while Run works.
type Sentinel struct {
	o            SentinelOptions
	log          *slog.Logger
	quick, clear *Prober
	stir         chan struct{} // holds at most one token: on has changed
	suspects     chan claim
	in           func(func()) // calls its argument where the wire is

	mu     sync.Mutex // guards the fields below
	on     bool
	recent map[claim][]time.Time // claims by others

	// The fields below belong to Run.
	media map[medium]context.CancelFunc // that are listened to
	next  int                           // of the VIPs, which is asked for next
}

// NewSentinel returns a Sentinel that does not watch.
func NewSentinel(o SentinelOptions) *Sentinel {
	return &Sentinel{
		o: o, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		quick: NewProber(ProberOptions{Attempts: 1}),
		clear: NewProber(ProberOptions{Interval: clearInterval}),
		stir:  make(chan struct{}, 1), suspects: make(chan claim, sampleSize),
		in:     func(f func()) { f() },
		recent: map[claim][]time.Time{},
		media:  map[medium]context.CancelFunc{},
	}
}

// Watch has the wire watched from now on, or not any more. It does not block.
func (s *Sentinel) Watch(on bool) {
	s.mu.Lock()
	s.on = on
	clear(s.recent)
	s.mu.Unlock()
	select {
	case s.stir <- struct{}{}:
	default:
	}
}

// Run watches while it is to, until ctx ends.
func (s *Sentinel) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	ticker.Stop()
	first := true
	for {
		select {
		case <-ctx.Done():
			return nil
		case by := <-s.suspects:
			s.suspect(by)
			continue
		case <-s.stir:
		case <-ticker.C:
		}
		s.mu.Lock()
		on := s.on
		s.mu.Unlock()
		if !on {
			ticker.Stop()
			s.listen(ctx, &work, nil)
			first = true
			continue
		}
		if first {
			ticker.Reset(lookEvery)
		}
		held := s.o.Held()
		s.listen(ctx, &work, held)
		s.ask(ctx, held, first)
		first = false
	}
}

// listen listens where there are VIPs, and nowhere else.
func (s *Sentinel) listen(ctx context.Context, work *sync.WaitGroup, held []vip.VIP) {
	wanted := map[medium]bool{}
	for _, v := range held {
		if v.Via != "" {
			wanted[mediumOf(v.Via, v.Addr())] = true
		}
	}
	for m, stop := range s.media {
		if !wanted[m] {
			stop()
			delete(s.media, m)
		}
	}
	for m := range wanted {
		if s.media[m] != nil {
			continue
		}
		ctx, stop := context.WithCancel(ctx)
		s.media[m] = stop
		work.Go(func() {
			defer stop()
			for failed := ""; ctx.Err() == nil; {
				var err error
				s.in(func() { err = s.quick.overhear(ctx, m, s.heard) })
				if err != nil && err.Error() != failed {
					failed = err.Error()
					s.log.Warn("it can not be heard who else claims VIPs; trying again", "link", m.link, "err", err)
				}
				select {
				case <-ctx.Done():
				case <-time.After(lookEvery):
				}
			}
		})
	}
}

// heard notes a claim.
func (s *Sentinel) heard(c claim) {
	now := time.Now()
	s.mu.Lock()
	list := append(s.recent[c], now)
	for now.Sub(list[0]) > rivalTime {
		list = list[1:]
	}
	if len(s.recent) > 4*sampleSize*sampleSize { // hosts claim their own addresses all the time
		clear(s.recent)
	}
	s.recent[c] = list
	means := len(list) == rivalClaims
	if means {
		delete(s.recent, c)
	}
	s.mu.Unlock()
	if means {
		select {
		case s.suspects <- c:
		default: // he will be heard again
		}
	}
}

// suspect tells of somebody who means to have an address, if it is one of ours and he is not us.
func (s *Sentinel) suspect(by claim) {
	for _, v := range s.o.Held() {
		if v.Addr().WithZone("") != by.addr {
			continue
		}
		s.in(func() {
			if own, err := s.quick.ownMACs(); err == nil && !own[by.mac] {
				s.o.Rival(by.addr, by.mac[:])
			}
		})
		return
	}
}

// ask asks the wire for one VIP, or at first for a sample of all.
func (s *Sentinel) ask(ctx context.Context, held []vip.VIP, first bool) {
	if len(held) == 0 {
		return
	}
	s.next++
	list := []vip.VIP{held[s.next%len(held)]}
	if first {
		list = sample(held)
	}
	var asking sync.WaitGroup
	for _, v := range list {
		asking.Go(func() {
			s.in(func() {
				if mac, err := s.quick.Probe(ctx, v.Via, v.Addr()); err == nil && mac != nil {
					s.o.Rival(v.Addr(), mac)
				}
			})
		})
	}
	asking.Wait()
}

// Clear returns once nobody else on the wire answers for VIPs that are to be put on this node; or when somebody has
// gone on to answer for too long, or ctx ends. Of many VIPs a sample is asked for. What can not be asked for is clear.
func (s *Sentinel) Clear(ctx context.Context, vips []vip.VIP) {
	vips = sample(vips)
	for began := time.Now(); ; {
		mac := s.anybody(ctx, vips)
		switch {
		case ctx.Err() != nil || mac == nil:
			return
		case time.Since(began) > clearLimit:
			s.log.Warn("VIPs are taken although somebody else on the wire answers for them", "mac", mac.String())
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(clearPause):
		}
	}
}

// anybody is one who answers for any of some VIPs; nil when nobody does.
func (s *Sentinel) anybody(ctx context.Context, vips []vip.VIP) (mac net.HardwareAddr) {
	var asking sync.WaitGroup
	var mu sync.Mutex // guards mac
	for _, v := range vips {
		asking.Go(func() {
			s.in(func() {
				if owner, err := s.clear.Probe(ctx, v.Via, v.Addr()); err == nil && owner != nil {
					mu.Lock()
					defer mu.Unlock()
					mac = owner
				}
			})
		})
	}
	asking.Wait()
	return mac
}

// sample is some of a list, the first and the last among them, by which a link can be asked.
func sample(vips []vip.VIP) (list []vip.VIP) {
	var asked []vip.VIP
	for _, v := range vips {
		if v.Via != "" && v.Via != "lo" {
			asked = append(asked, v)
		}
	}
	if len(asked) <= sampleSize {
		return asked
	}
	for i := range sampleSize {
		list = append(list, asked[i*(len(asked)-1)/(sampleSize-1)])
	}
	return list
}
