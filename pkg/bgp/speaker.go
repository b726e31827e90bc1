package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/osrg/gobgp/v3/pkg/server"
	"github.com/prometheus/client_golang/prometheus"

	"kube-vip.io/kube-vip/pkg/vip"
)

// Options configure a Speaker.
type Options struct {
	// Find finds a peer's address; nil means Find.
	Find func(ctx context.Context, p Peer) (netip.Addr, error)
	// Told is told of every change of a peer's status; may be nil. It must not block, and of the Speaker it may call
	// Peers alone.
	Told func(before, now Status)
	Log  *slog.Logger
	// Registerer gets the metrics; may be nil.
	Registerer prometheus.Registerer
}

// Speaker announces the VIPs of this node to its peers. Its methods may be called from any goroutine, before and while
// Run works.
type Speaker struct {
	o       Options
	metrics *metrics
	began   time.Time
	changed chan struct{} // holds at most one token: VIPs have come, or one asks for something else

	complete chan struct{} // closed by Complete
	once     sync.Once

	order sync.Mutex // held while peers are told, so that what they are told last is what came last

	mu       sync.Mutex // guards the fields below
	present  []vip.VIP
	of       map[netip.Addr]*Attributes
	past     map[netip.Addr]struct{} // of which nothing is asked any more, once they are not present
	leaving  bool                    // who announces the same elsewhere is to be preferred
	drained  map[netip.Addr]struct{} // likewise, of one address
	gone     bool                    // nothing is announced any more
	peers    []Peer
	problems []Status // of peers that cannot be used as they are
	sessions map[string]*running
	met      map[string]int          // peers with whom there was a session, or an attempt, and how many ended that are none any more
	here     map[netip.Addr]struct{} // the addresses that are present; nil when they were not listed
	ended    bool                    // no session begins any more
	idle     []*tool
	ctx      context.Context // of Run; nil before
	work     sync.WaitGroup
}

var _ vip.Speaker = (*Speaker)(nil)

// running is a session and what ends it.
type running struct {
	*session
	cancel context.CancelFunc
	done   chan struct{}
}

// tool is a server of gobgp with its log. A server cannot be ended, only stopped: it is used again.
type tool struct {
	server *server.BgpServer
	ear    *ear
}

// New returns a Speaker without peers. Run does the work.
func New(o Options) *Speaker {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Find == nil {
		o.Find = Find
	}
	if o.Told == nil {
		o.Told = func(Status, Status) {}
	}
	return &Speaker{
		o: o, began: time.Now(), metrics: newMetrics(o.Registerer), changed: make(chan struct{}, 1), of: map[netip.Addr]*Attributes{}, past: map[netip.Addr]struct{}{},
		drained: map[netip.Addr]struct{}{}, met: map[string]int{}, complete: make(chan struct{}), sessions: map[string]*running{},
	}
}

// SetPeers says who the peers are. Sessions with peers that are the same as before go on untouched. Its error is about
// those that cannot be used; the others are all the same.
func (s *Speaker) SetPeers(peers []Peer) error {
	var errs []error
	var good []Peer
	var bad []Status
	for _, p := range peers {
		err := p.Validate()
		if slices.ContainsFunc(good, func(o Peer) bool { return o.Name == p.Name }) {
			err = errors.New("BGP peer " + p.Name + ": it is there twice")
		}
		if i := slices.IndexFunc(good, func(o Peer) bool { return p.Passive && o.Passive && o.Source == p.Source && o.Port == p.Port }); i >= 0 && err == nil {
			err = fmt.Errorf("BGP peer %s: it is passive, and %s is waited for on %s port %d already: give each an address or a port of its own", p.Name, good[i].Name, p.Source, p.Port)
		}
		if err != nil {
			errs = append(errs, err)
			bad = append(bad, Status{Name: p.Name, AS: p.AS, State: StateWaiting, Since: s.began, Error: strings.ReplaceAll(err.Error(), "\n", "; "), Cause: CauseNotStarted})
			continue
		}
		good = append(good, p)
	}
	s.mu.Lock()
	if reflect.DeepEqual(good, s.peers) && slices.Equal(bad, s.problems) { // it is said again every other second
		s.mu.Unlock()
		return errors.Join(errs...)
	}
	s.peers, s.problems = good, bad
	stopped := s.follow()
	s.mu.Unlock()
	for _, r := range stopped {
		<-r.done
		if slices.ContainsFunc(good, func(p Peer) bool { return p.Name == r.peer.Name }) {
			s.mu.Lock()
			s.met[r.peer.Name] = r.now().Flaps
			s.mu.Unlock()
			continue
		}
		s.metrics.forget(r.peer, r.now())
	}
	s.update(func() { s.follow() }) // routes may have other attributes now
	for _, p := range good {
		s.mu.Lock()
		r := s.sessions[p.Name]
		s.mu.Unlock()
		if r != nil {
			r.change(func(now *Status) { now.Lacks = p.Lacks })
		}
	}
	return errors.Join(errs...)
}

// follow begins with new peers and ends with those that are not wanted as they are, which are returned: what takes their
// place begins when they have ended. Called with mu held.
func (s *Speaker) follow() (stopped []*running) {
	if s.ctx == nil || s.ended {
		return nil
	}
	for name, r := range s.sessions {
		if !slices.ContainsFunc(s.peers, func(p Peer) bool { return same(p, r.peer) }) {
			r.cancel()
			stopped = append(stopped, r)
			delete(s.sessions, name)
		}
	}
	if len(stopped) > 0 {
		return stopped
	}
	for _, p := range s.peers {
		if s.sessions[p.Name] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(s.ctx)
		did := func(change string, routes int) {
			s.metrics.changes.WithLabelValues(p.Name, change).Add(float64(routes))
		}
		r := &running{newSession(p, s.o, s.heard, did), cancel, make(chan struct{})}
		s.sessions[p.Name] = r
		r.want = s.routes(p)
		flaps, met := s.met[p.Name]
		r.restarted, r.complete, r.status.Flaps, s.met[p.Name] = !met, s.complete, flaps, flaps
		s.work.Go(func() {
			defer close(r.done)
			r.run(ctx, s.take)
		})
	}
	return nil
}

// same says that two peers ask for the same session. What their routes have does not bear on that.
func same(a, b Peer) bool {
	a.Attributes, b.Attributes = Attributes{}, Attributes{}
	a.NextHop4, a.NextHop6, b.NextHop4, b.NextHop6 = netip.Addr{}, netip.Addr{}, netip.Addr{}, netip.Addr{}
	a.Lacks, b.Lacks = "", ""
	return reflect.DeepEqual(a, b)
}

// routes is what a peer is to be told. Called with mu held.
func (s *Speaker) routes(p Peer) map[netip.Prefix]route {
	if s.gone {
		return nil
	}
	return routes(s.present, func(a netip.Addr) *Attributes { return s.of[a] }, p, func(a netip.Addr) bool {
		_, drained := s.drained[a]
		return s.leaving || drained
	})
}

// update has every peer told what it is to be told now.
func (s *Speaker) update(change func()) {
	s.order.Lock()
	defer s.order.Unlock()
	s.mu.Lock()
	change()
	want := make(map[*session]map[netip.Prefix]route, len(s.sessions))
	for _, p := range s.peers {
		if r := s.sessions[p.Name]; r != nil {
			want[r.session] = s.routes(p)
		}
	}
	s.mu.Unlock()
	for session, routes := range want {
		session.set(routes)
	}
}

// Sync implements vip.Speaker. What goes is withdrawn when it returns. What only comes is announced at once by Run, and what
// comes meanwhile together with it: each look is at every VIP, and thousands may come one by one.
func (s *Speaker) Sync(present []vip.VIP) error {
	s.mu.Lock()
	same, more := len(present) == len(s.present), within(s.present, present)
	if more {
		s.present, s.here = present, nil
	}
	s.mu.Unlock()
	switch {
	case more && !same:
		s.look()
	case !more:
		s.update(func() {
			s.present, s.here = present, nil
			maps.DeleteFunc(s.drained, func(a netip.Addr, _ struct{}) bool { return !s.has(a) })
			for addr := range s.past {
				if !s.has(addr) {
					delete(s.of, addr)
					delete(s.past, addr)
				}
			}
		})
	}
	return nil
}

// within says whether some VIPs are all among others, in the same order.
func within(some, all []vip.VIP) bool {
	for _, v := range all {
		if len(some) > 0 && some[0] == v {
			some = some[1:]
		}
	}
	return len(some) == 0
}

// has says whether an address is present. Called with mu held.
func (s *Speaker) has(addr netip.Addr) bool {
	if s.here == nil { // of thousands that go, each is asked for
		s.here = make(map[netip.Addr]struct{}, len(s.present))
		for _, v := range s.present {
			s.here[v.Addr()] = struct{}{}
		}
	}
	_, is := s.here[addr]
	return is
}

// Complete says that all that is to be present at the start was said, be it nothing: peers who have the routes of an earlier
// process are told then that there are no others.
func (s *Speaker) Complete() { s.once.Do(func() { close(s.complete) }) }

// Forget says that nobody asks for anything for a VIP any more. As long as it is there, its routes stay as they are.
func (s *Speaker) Forget(addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.has(addr) {
		s.past[addr] = struct{}{}
		return
	}
	delete(s.of, addr)
}

// Describe says what a VIP asks for besides what its peers' routes have; nil is nothing. Said before the VIP is there, its
// first route has it.
func (s *Speaker) Describe(addr netip.Addr, a *Attributes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.past, addr)
	before := s.of[addr]
	if before == a || before != nil && a != nil && before.text() == a.text() {
		return
	}
	if s.of[addr] = a; a == nil {
		delete(s.of, addr)
	}
	s.look()
}

// look has Run look at every VIP.
func (s *Speaker) look() {
	select {
	case s.changed <- struct{}{}:
	default: // a token is there already
	}
}

// Drain has the routes of VIPs that are there announced as the worst there are (RFC 8326), since this node is about to leave
// them to others; or as usual again. It is over when they have gone.
func (s *Speaker) Drain(addrs []netip.Addr, on bool) {
	s.mu.Lock()
	changed := false
	for _, a := range addrs {
		if _, is := s.drained[a]; is == on || on && !s.has(a) {
			continue
		}
		if changed = true; on {
			s.drained[a] = struct{}{}
		} else {
			delete(s.drained, a)
		}
	}
	s.mu.Unlock()
	if changed {
		s.look()
	}
}

// looks tells the peers of VIPs that have come, and of what those that are there ask for now: of thousands together.
func (s *Speaker) looks(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		}
		began := time.Now()
		s.update(func() {})
		wait(ctx, min(lookRest*time.Since(began), lookPause))
	}
}

const (
	// lookRest is how much longer than a look the pause after it is, so that looks take a small part of the time, and lookPause
	// the longest such pause.
	lookRest  = 4
	lookPause = 50 * time.Millisecond
)

// settle is how long a withdrawn route is given to be forgotten by routers before what it leads to goes away.
const settle = 250 * time.Millisecond

// Leave has this node left by all traffic: routes are first announced as the worst there are (RFC 8326), for as long as
// drain, so that nothing is lost where there are others, and then withdrawn. It is over at once where there is no session, and
// when ctx ends.
func (s *Speaker) Leave(ctx context.Context, drain time.Duration) {
	if drain > 0 && s.tells() {
		s.update(func() { s.leaving = true })
		s.o.Log.Info("leaving: routes are announced as the worst there are", "for", drain)
		wait(ctx, drain)
	}
	tells := s.tells()
	s.update(func() { s.gone = true })
	if tells {
		wait(ctx, settle)
	}
}

// tells says that some peer is told of a route.
func (s *Speaker) tells() bool {
	return slices.ContainsFunc(s.Peers(), func(p Status) bool { return p.Up() && p.Routes > 0 })
}

// Lost says that a peer cannot be reached any more, and why: its session is closed at once.
func (s *Speaker) Lost(peer, why string) {
	s.mu.Lock()
	r := s.sessions[peer]
	s.mu.Unlock()
	if r != nil {
		r.lose(why)
	}
}

// Peers is how it stands with each peer, by name.
func (s *Speaker) Peers() []Status {
	s.mu.Lock()
	list := slices.Clone(s.problems)
	sessions, some := slices.Collect(maps.Values(s.sessions)), len(s.present) > 0 && !s.gone
	s.mu.Unlock()
	for _, r := range sessions {
		now := r.now()
		if now.Up() && now.Routes == 0 && now.Lacks == "" && some && r.wants() == 0 {
			now.Lacks = "none of this node's addresses is of a family that the peer is told of"
		}
		list = append(list, now)
	}
	slices.SortFunc(list, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Run keeps the sessions until ctx ends; then it closes them, and nothing of it runs but what gobgp does not let go.
func (s *Speaker) Run(ctx context.Context) error {
	s.mu.Lock()
	s.ctx = ctx
	s.follow()
	s.mu.Unlock()
	s.looks(ctx)
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.work.Wait()
	return nil
}

// take gives a server that nothing runs on, and what gives it back.
func (s *Speaker) take(heard func(note)) (*server.BgpServer, func(again bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var t *tool
	if last := len(s.idle) - 1; last >= 0 {
		t, s.idle = s.idle[last], s.idle[:last]
	} else {
		ear := &ear{log: s.o.Log}
		t = &tool{server.NewBgpServer(server.LoggerOption(ear)), ear}
		go t.server.Serve()
	}
	t.ear.heard.Store(&heard)
	return t.server, func(again bool) {
		t.ear.heard.Store(nil)
		if !again {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.idle = append(s.idle, t)
	}
}

// heard takes a session's word on a change.
func (s *Speaker) heard(r *session, before, now Status) {
	s.metrics.show(r.peer, before, now)
	switch {
	case now.Up() && !before.Up():
		r.log.Info("BGP session is up", "address", now.Address.String(), "as", now.AS)
	case !now.Up() && before.Up():
		r.log.Warn("BGP session is down", "address", now.Address.String(), "why", now.Error)
	case !now.Up() && now.Error != before.Error && now.Error != "":
		r.log.Warn("no BGP session", "why", now.Error)
	}
	s.o.Told(before, now)
}
