package arp

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"kube-vip.io/kube-vip/pkg/vip"
)

const (
	// lookEvery is the time between two questions of a Sentinel that watches closely, and lookSeldom that of one that does
	// not: each of some VIPs is asked for once in roundTime, and of many so many in a turn that neighbours hardly notice.
	lookEvery  = time.Second
	lookSeldom = 5 * time.Second
	roundTime  = 30 * time.Second
	// silencesMin is how often in a row somebody does not answer who has no VIP any more.
	silencesMin = 2
	// sampleSize is how many of many addresses Clear asks for: who has one of a group's has them all.
	sampleSize = 16
	// allSize is how many are asked for when somebody else has one: each may be another Lease's.
	allSize = 1000

	// clearInterval is the time between two probes of Clear, clearPause that between an answer and the next probe, and
	// clearLimit how long somebody may go on to answer. A kernel that has an address answers within a millisecond, and
	// who has given it up is rid of it within three seconds (a killed holder's is taken away by its kernel).
	clearInterval = 40 * time.Millisecond
	clearPause    = 50 * time.Millisecond
	clearLimit    = 5 * time.Second
	// unsureLimit is how long Clear tries to ask when that fails.
	unsureLimit = 2 * time.Second

	// silentAsks is how often a VIP is asked for by Silent, and silentPause the time between. It is less often than who means to
	// have it does.
	silentAsks  = 2
	silentPause = 150 * time.Millisecond

	// Whoever asks for an address that often in so short a time, as one who is about to take it, means to have it: he
	// waits in Clear until nobody answers for it. A host that only looks whether it is free (RFC 5227 §1.1, RFC 4862
	// §5.1, arping -D) asks once in a second.
	rivalClaims = 3
	rivalTime   = 500 * time.Millisecond
)

// SentinelOptions configure a Sentinel. Held and Rival are required.
type SentinelOptions struct {
	// Held are the VIPs that are present on this node.
	Held func() []vip.VIP
	// Rival is told of somebody else on the wire who has a VIP that this node has, each time he is found, or who only means
	// to have it. It must not block.
	Rival func(addr netip.Addr, mac net.HardwareAddr, has bool)
	// Alone is told of a VIP that somebody else had, by Rival, when he has it no more; and with held false when this node has
	// it no more. It must not block; nil means that it does not matter.
	Alone func(addr netip.Addr, held bool)
	// Log is where it is told what can not be watched; nil means nowhere.
	Log *slog.Logger
}

// Sentinel finds out whether anybody else on the wire has the VIPs of this node: it asks for them in turn, and listens
// while it watches closely. It needs the capability NET_RAW. Its methods may be called from any goroutine, before and
// while Run works.
type Sentinel struct {
	o            SentinelOptions
	log          *slog.Logger
	quick, clear *Prober
	seldom       time.Duration
	stir         chan struct{} // holds at most one token: on has changed
	suspects     chan claim
	in           func(func()) // calls its argument where the wire is

	mu     sync.Mutex            // guards the fields below
	on     int                   // how many want it watched closely
	held   map[netip.Addr]bool   // whose claims matter
	recent map[claim][]time.Time // claims of these
	all    bool                  // somebody else has one of them: all are to be asked for
	met    map[netip.Addr]int    // the VIPs that somebody else has, and how often in a row he has not answered

	// The fields below belong to Run.
	media map[medium]context.CancelFunc // that are listened to
	next  int                           // of the VIPs, which is asked for next
}

// NewSentinel returns a Sentinel that does not watch closely.
func NewSentinel(o SentinelOptions) *Sentinel {
	if o.Alone == nil {
		o.Alone = func(netip.Addr, bool) {}
	}
	return &Sentinel{
		o: o, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		quick:  NewProber(ProberOptions{Attempts: 1}),
		clear:  NewProber(ProberOptions{Interval: clearInterval}),
		seldom: lookSeldom,
		stir:   make(chan struct{}, 1), suspects: make(chan claim, sampleSize),
		in:     func(f func()) { f() },
		recent: map[claim][]time.Time{}, met: map[netip.Addr]int{},
		media: map[medium]context.CancelFunc{},
	}
}

// Watch has the wire watched closely from now on, or not any more: as long as somebody who said so has not taken it back. It
// does not block.
func (s *Sentinel) Watch(on bool) {
	s.mu.Lock()
	if s.on++; !on {
		s.on = max(s.on-2, 0)
	}
	clear(s.recent)
	s.mu.Unlock()
	select {
	case s.stir <- struct{}{}:
	default:
	}
}

// Run asks, and listens while it is to, until ctx ends.
func (s *Sentinel) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tick := time.NewTimer(s.seldom)
	defer tick.Stop()
	for watched := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case by := <-s.suspects:
			s.suspect(ctx, by)
			continue
		case <-s.stir:
		case <-tick.C:
		}
		held := askable(s.o.Held())
		on, all := s.turn(held)
		switch {
		case !on:
			s.listen(ctx, &work, nil)
			s.ask(ctx, s.some(held))
			tick.Reset(s.seldom)
		case all || !watched:
			s.listen(ctx, &work, held)
			s.ask(ctx, spread(held, allSize))
			tick.Reset(lookEvery)
		default:
			s.listen(ctx, &work, held)
			s.ask(ctx, s.take(held, 1))
			tick.Reset(lookEvery)
		}
		watched = on
	}
}

// turn begins a look: it says whether to watch closely, and whether to ask for all of what is held.
func (s *Sentinel) turn(held []vip.VIP) (on, all bool) {
	s.mu.Lock()
	on, all = s.on > 0, s.all
	s.all, s.held = false, make(map[netip.Addr]bool, len(held))
	for _, v := range held {
		s.held[bare(v.Addr())] = true
	}
	var gone []netip.Addr
	for addr := range s.met {
		if !s.held[addr] {
			delete(s.met, addr)
			gone = append(gone, addr)
		}
	}
	s.mu.Unlock()
	for _, addr := range gone {
		s.o.Alone(addr, false)
	}
	return on, all
}

// some are those to ask for at leisure: the next ones, and some that somebody else had at the last look.
func (s *Sentinel) some(held []vip.VIP) []vip.VIP {
	rounds := int(roundTime / lookSeldom)
	list := s.take(held, min((len(held)+rounds-1)/rounds, sampleSize))
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.met) == 0 {
		return list
	}
	for _, v := range held {
		if _, is := s.met[bare(v.Addr())]; is && !slices.Contains(list, v) && len(list) < 2*sampleSize {
			list = append(list, v)
		}
	}
	return list
}

// take are the next n.
func (s *Sentinel) take(held []vip.VIP, n int) (list []vip.VIP) {
	for range min(n, len(held)) {
		s.next++
		list = append(list, held[s.next%len(held)])
	}
	return list
}

// bare is an address as frames have it.
func bare(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// listen listens where there are VIPs, and nowhere else.
func (s *Sentinel) listen(ctx context.Context, work *sync.WaitGroup, held []vip.VIP) {
	wanted := map[medium]bool{}
	for _, v := range held {
		wanted[mediumOf(v.Via, v.Addr())] = true
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
				began := time.Now()
				var err error
				s.in(func() { err = s.quick.overhear(ctx, m, s.heard) })
				if time.Since(began) > lookEvery { // it could for a while
					failed = ""
				}
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

// heard notes a claim. It does not block.
func (s *Sentinel) heard(c claim) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.held[c.addr] {
		return
	}
	if !c.has {
		list := append(s.recent[c], now)
		for now.Sub(list[0]) > rivalTime {
			list = list[1:]
		}
		if s.recent[c] = list; len(list) < rivalClaims {
			return
		}
		delete(s.recent, c)
	}
	select {
	case s.suspects <- c:
	default: // he will be heard again
	}
}

// suspect tells of somebody who means to have an address, if he is not this node. Who says that he has it is asked.
func (s *Sentinel) suspect(ctx context.Context, c claim) {
	var own map[MAC]bool
	var err error
	s.in(func() { own, err = s.quick.ownMACs() })
	switch {
	case err != nil || own[c.mac]:
	case !c.has:
		s.rival(c.addr, c.mac[:], false)
	default:
		held := s.o.Held()
		if i := slices.IndexFunc(held, func(v vip.VIP) bool { return bare(v.Addr()) == c.addr }); i >= 0 {
			s.ask(ctx, held[i:i+1])
		}
	}
}

func (s *Sentinel) rival(addr netip.Addr, mac net.HardwareAddr, has bool) {
	s.mu.Lock()
	s.all = true
	if has {
		s.met[bare(addr)] = 0
	}
	s.mu.Unlock()
	s.o.Rival(addr, mac, has)
}

// alone notes that nobody else has answered for a VIP. An answer may be lost or late: only the next silence counts.
func (s *Sentinel) alone(addr netip.Addr) {
	s.mu.Lock()
	silences, was := s.met[bare(addr)]
	over := silences+1 >= silencesMin
	if was {
		s.met[bare(addr)] = silences + 1
	}
	if over {
		delete(s.met, bare(addr))
	}
	s.mu.Unlock()
	if was && over {
		s.o.Alone(addr, true)
	}
}

// ask asks the wire for VIPs, and tells who else has those that are still here: one that has gone meanwhile went to him
// perhaps.
func (s *Sentinel) ask(ctx context.Context, list []vip.VIP) {
	if len(list) == 0 {
		return
	}
	owners, errs := s.find(ctx, list)
	here := map[vip.VIP]bool{}
	for _, v := range s.o.Held() {
		here[v] = true
	}
	for i, v := range list {
		switch {
		case errs[i] != nil || !here[v]: // nothing is known
		case owners[i] != nil:
			s.rival(v.Addr(), owners[i], true)
		default:
			s.alone(v.Addr())
		}
	}
}

// Clear returns once nobody else on the wire answers for VIPs that are to be put on this node; or when somebody has
// gone on to answer for too long, or ctx ends. Of many VIPs a sample is asked for. Where a link can not be asked by for
// longer than a moment, nobody can be heard, and nobody answers.
func (s *Sentinel) Clear(ctx context.Context, vips []vip.VIP) {
	vips = spread(askable(vips), sampleSize)
	for began := time.Now(); ; {
		mac, err := s.anybody(ctx, vips)
		switch took := time.Since(began); {
		case ctx.Err() != nil, mac == nil && err == nil:
			return
		case mac == nil && took > unsureLimit:
			s.log.Warn("VIPs are taken although it could not be asked who else has them", "err", err)
			return
		case mac != nil && took > clearLimit:
			s.log.Warn("VIPs are taken although somebody else on the wire answers for them", "mac", mac.String())
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(clearPause):
		}
	}
}

// Alone says that nobody else on the wire has VIPs that are not on this node, or means to have one (RFC 5227 §2.1.1); of one
// who does it tells the hardware address. It fails when that is not known: there is no VIP, or a link can not be asked by.
func (s *Sentinel) Alone(ctx context.Context, vips []vip.VIP) (alone bool, owner net.HardwareAddr, err error) {
	if vips = spread(askable(vips), sampleSize); len(vips) == 0 {
		return false, nil, errors.New("there is no address that neighbours could be asked for")
	}
	owner, err = s.anybody(ctx, vips)
	return owner == nil && err == nil && ctx.Err() == nil, owner, err
}

// Silent says that nobody else on the wire answers for VIPs that are not on this node, though he was asked twice. It is
// false when that is not known: there is none, or a link can not be asked by. Of many VIPs a sample is asked for.
func (s *Sentinel) Silent(ctx context.Context, vips []vip.VIP) bool {
	vips = spread(askable(vips), sampleSize)
	if len(vips) == 0 {
		return false
	}
	for i := range silentAsks {
		if i > 0 {
			select {
			case <-ctx.Done():
				return false
			case <-time.After(silentPause):
			}
		}
		owners, errs := s.find(ctx, vips)
		if errors.Join(errs...) != nil || slices.ContainsFunc(owners, func(mac net.HardwareAddr) bool { return mac != nil }) {
			return false
		}
	}
	return true
}

// find asks the wire once who else has each of some VIPs.
func (s *Sentinel) find(ctx context.Context, list []vip.VIP) ([]net.HardwareAddr, []error) {
	return s.each(list, func(v vip.VIP) (net.HardwareAddr, error) { return s.quick.find(ctx, v.Via, v.Addr(), true) })
}

// each asks about all of some VIPs at the same time, where the wire is.
func (s *Sentinel) each(list []vip.VIP, ask func(vip.VIP) (net.HardwareAddr, error)) ([]net.HardwareAddr, []error) {
	owners, errs := make([]net.HardwareAddr, len(list)), make([]error, len(list))
	var asking sync.WaitGroup
	for i, v := range list {
		asking.Go(func() { s.in(func() { owners[i], errs[i] = ask(v) }) })
	}
	asking.Wait()
	return owners, errs
}

// anybody is one who answers for any of some VIPs; nil when nobody does. The error says why not all could be asked for.
func (s *Sentinel) anybody(ctx context.Context, vips []vip.VIP) (mac net.HardwareAddr, err error) {
	owners, errs := s.each(vips, func(v vip.VIP) (net.HardwareAddr, error) { return s.clear.Probe(ctx, v.Via, v.Addr()) })
	for i := range vips {
		if errs[i] != nil {
			err = errs[i]
		}
		if owners[i] != nil {
			mac = owners[i]
		}
	}
	return mac, err
}

// askable are the VIPs that neighbours can be asked for.
func askable(vips []vip.VIP) (list []vip.VIP) {
	for _, v := range vips {
		if v.Via != "" && v.Via != "lo" {
			list = append(list, v)
		}
	}
	return list
}

// spread is at most so many of a list, the first and the last among them.
func spread(vips []vip.VIP, most int) (list []vip.VIP) {
	if len(vips) <= most {
		return vips
	}
	for i := range most {
		list = append(list, vips[i*(len(vips)-1)/(most-1)])
	}
	return list
}
