package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
)

const (
	maxTTL = 255
	// idleAfterReset is how many seconds a peer is left alone after we have reset its session.
	idleAfterReset = 1
	// startPause is the time between two attempts to begin with a peer, whose name or neighbour is not known yet.
	startPause = time.Second
	// endPatience bounds the time that closing a session may take.
	endPatience = 2 * time.Second
	// forever is the hold time of a session that is not to end by silence. gobgp takes 0 for its default.
	forever = 65535 * time.Second
)

// session is one peer and the routes that it is told of. Its routes are those of gobgp's table, which are compared with
// what is wanted.
type session struct {
	peer Peer
	log  *slog.Logger
	find func(ctx context.Context, p Peer) (netip.Addr, error)
	told func(s *session, before, now Status) // of every change of the status
	did  func(change string, routes int)      // counts what the peer is told

	kick chan struct{} // holds at most one token: want has something that was not announced

	// complete is closed once all that is to be announced at the start is known.
	complete <-chan struct{}
	// restarted says that this process has had no session with the peer yet, who may have our routes from an earlier one.
	restarted bool

	// tells is held while somebody is told of a change of the status, so that he hears of the last one last.
	tells sync.Mutex

	// table is held while gobgp's table is changed, so that it is in the order of what was wanted. gobgp calls back
	// meanwhile, and what it calls takes mu alone.
	table sync.Mutex

	mu     sync.Mutex // guards the fields below
	want   map[netip.Prefix]route
	out    map[netip.Prefix]route // in gobgp's table
	server *server.BgpServer      // nil while there is none
	at     netip.Addr
	status Status
}

// State of a session is what RFC 4271 §8.2.2 calls it, or what keeps it from beginning.
type State string

// The states.
const (
	StateWaiting     State = "Waiting" // its address is not known
	StateIdle        State = "Idle"
	StateConnect     State = "Connect"
	StateActive      State = "Active"
	StateOpenSent    State = "OpenSent"
	StateOpenConfirm State = "OpenConfirm"
	StateEstablished State = "Established"
)

// states is the table of gobgp's.
var states = [...]State{
	api.PeerState_UNKNOWN: StateIdle, api.PeerState_IDLE: StateIdle, api.PeerState_CONNECT: StateConnect, api.PeerState_ACTIVE: StateActive,
	api.PeerState_OPENSENT: StateOpenSent, api.PeerState_OPENCONFIRM: StateOpenConfirm, api.PeerState_ESTABLISHED: StateEstablished,
}

// Status is how it stands with a peer.
type Status struct {
	Name string `json:"name"`
	// Address is the peer's, not valid while it is not known, and AS as it was configured.
	Address netip.Addr `json:"address"`
	AS      uint32     `json:"as"`
	State   State      `json:"state"`
	// Since is when the session came up or went down; at the start that of the Speaker.
	Since time.Time `json:"since"`
	// Routes are how many prefixes are announced to the peer.
	Routes int `json:"routes"`
	// Error is why there is no session, or why the last one ended, and Cause its kind; empty when nothing is known of it.
	Error string `json:"error,omitempty"`
	Cause Cause  `json:"cause,omitempty"`
	// Lacks is why the peer is not told of everything; empty when it is.
	Lacks string `json:"lacks,omitempty"`
	// Flaps counts the sessions that ended.
	Flaps int `json:"flaps"`
}

// Up says that there is a session.
func (s Status) Up() bool { return s.State == StateEstablished }

func newSession(p Peer, o Options, told func(s *session, before, now Status), did func(change string, routes int)) *session {
	return &session{
		peer: p, log: o.Log.With("peer", p.Name), find: o.Find, told: told, did: did, kick: make(chan struct{}, 1),
		out:    map[netip.Prefix]route{},
		status: Status{Name: p.Name, AS: p.AS, State: StateWaiting, Since: time.Now(), Lacks: p.Lacks},
	}
}

// set has the peer told of these routes and no others. What is not among them is withdrawn when it returns; what is new
// follows at once.
func (s *session) set(want map[netip.Prefix]route) {
	s.table.Lock()
	s.mu.Lock()
	s.want = want
	s.mu.Unlock()
	s.withdraw()
	s.table.Unlock()
	select {
	case s.kick <- struct{}{}:
	default: // a token is there already
	}
	s.count()
}

// withdraw takes what is not wanted out of gobgp's table. What stays there for a fault is tried again when something
// changes, and by the look every now and then. Called with table held.
func (s *session) withdraw() {
	s.mu.Lock()
	from, all := s.server, len(s.want) == 0
	var gone []route
	for prefix, r := range s.out {
		if _, stays := s.want[prefix]; !stays {
			gone = append(gone, r)
		}
	}
	s.mu.Unlock()
	if from == nil || len(gone) == 0 {
		return
	}
	if all { // a request for each of thousands takes its time
		if err := from.DeletePath(context.Background(), &api.DeletePathRequest{}); err != nil {
			s.log.Warn("routes could not be withdrawn", "err", err)
			return
		}
	}
	did := 0
	for _, r := range gone {
		if !all {
			path, err := r.path(s.peer)
			if err == nil {
				err = from.DeletePath(context.Background(), &api.DeletePathRequest{Path: path})
			}
			if err != nil {
				s.log.Warn("route could not be withdrawn", "prefix", r.prefix.String(), "err", err)
				continue
			}
		}
		s.mu.Lock()
		delete(s.out, r.prefix)
		s.mu.Unlock()
		did++
	}
	s.did("withdrawn", did)
}

// announce puts what is wanted and not there into gobgp's table.
func (s *session) announce(ctx context.Context) {
	for more := true; more && ctx.Err() == nil; {
		more = s.announceSome(ctx)
	}
	s.count()
}

// batch bounds how many routes are announced before what is not wanted any more may be withdrawn.
const batch = 256

// announceSome says whether there was something to announce.
func (s *session) announceSome(ctx context.Context) bool {
	s.table.Lock()
	defer s.table.Unlock()
	s.withdraw()
	s.mu.Lock()
	to := s.server
	var some []route
	for prefix, r := range s.want {
		if out, is := s.out[prefix]; to == nil || is && out.equal(r) {
			continue
		}
		s.out[prefix] = r
		if some = append(some, r); len(some) == batch {
			break
		}
	}
	s.mu.Unlock()
	failed := 0 // what failed is tried again when something changes, and by the look every now and then
	for _, r := range some {
		path, err := r.path(s.peer)
		if err == nil {
			_, err = to.AddPath(ctx, &api.AddPathRequest{Path: path})
		}
		if err != nil {
			s.log.Warn("route could not be announced", "prefix", r.prefix.String(), "err", err)
			s.mu.Lock()
			delete(s.out, r.prefix)
			s.mu.Unlock()
			failed++
		}
	}
	s.did("announced", len(some)-failed)
	return len(some) > 0 && failed == 0
}

// count notes how many routes are announced.
func (s *session) count() {
	s.change(func(now *Status) {
		if now.Routes = 0; now.Up() {
			now.Routes = len(s.out)
		}
	})
}

// change changes the status, and tells of it. f is called with mu held.
func (s *session) change(f func(now *Status)) {
	s.tells.Lock()
	defer s.tells.Unlock()
	s.mu.Lock()
	before := s.status
	f(&s.status)
	now := s.status
	s.mu.Unlock()
	if now != before {
		s.told(s, before, now)
	}
}

// wants is how many routes the peer is to be told of.
func (s *session) wants() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.want)
}

// now is the status of this moment.
func (s *session) now() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// run keeps the session until ctx ends, and closes it then. take gives a server of gobgp that nothing runs on.
func (s *session) run(ctx context.Context, take func(heard func(note)) (*server.BgpServer, func(again bool))) {
	if s.peer.Host == "" {
		var work sync.WaitGroup
		defer work.Wait()
		work.Go(func() {
			advertise(ctx, s.peer.Interface, func(err error) { s.log.Warn("the router cannot be told of this node", "err", err) })
		})
	}
	for ctx.Err() == nil {
		if err := s.live(ctx, take); err != nil && ctx.Err() == nil {
			s.fail(CauseNotStarted, err)
			wait(ctx, startPause)
		}
	}
}

// live is run, once the peer is known where it is.
func (s *session) live(ctx context.Context, take func(heard func(note)) (*server.BgpServer, func(again bool))) error {
	at, err := s.find(ctx, s.peer)
	if err != nil {
		return err
	}
	if s.restarted && s.peer.Restart > 0 {
		s.settle(ctx)
	}
	b, free := take(s.heard)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := s.begin(ctx, b, at); err != nil {
		free(s.end(b))
		return err
	}
	defer func() { free(s.end(b)) }()
	ticker := time.NewTicker(findPause)
	defer ticker.Stop()
	for ctx.Err() == nil {
		s.announce(ctx)
		select {
		case <-ctx.Done():
		case <-s.kick:
		case <-ticker.C:
			if s.now().Up() {
				continue
			}
			if now, err := s.find(ctx, s.peer); err == nil && now != at {
				s.log.Info("BGP peer has another address", "was", at.String(), "is", now.String())
				return nil
			}
		}
	}
	return nil
}

// settled is how long nothing has to change before a peer who has our routes from an earlier process is told that these are
// all: what it is not told of by then it forgets.
const settled = time.Second

// settle waits until what is to be announced is there, be it nothing, for half of the time that the peer waits for us.
func (s *session) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.peer.Restart/2)
	defer cancel()
	select {
	case <-ctx.Done():
		return
	case <-s.complete:
	}
	for quiet := false; !quiet; {
		timer := time.NewTimer(settled)
		select {
		case <-ctx.Done():
			quiet = true
		case <-timer.C:
			quiet = true
		case <-s.kick:
		}
		timer.Stop()
	}
}

// findPause is the time between two looks at where a peer is with whom there is no session.
const findPause = 10 * time.Second

// wait is a pause that ends with ctx.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// begin has gobgp begin with the peer at an address.
func (s *session) begin(ctx context.Context, b *server.BgpServer, at netip.Addr) error {
	p := s.peer
	global := &api.Global{Asn: p.LocalAS, RouterId: p.RouterID.String(), ListenPort: -1}
	if p.Passive {
		global.ListenPort, global.ListenAddresses = int32(p.Port), []string{p.Source.String()}
	}
	if err := b.StartBgp(ctx, &api.StartBgpRequest{Global: global}); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	s.mu.Lock()
	s.server, s.at = b, at
	clear(s.out)
	s.mu.Unlock()
	s.change(func(now *Status) { now.Address, now.State = at, StateIdle })
	err := b.WatchEvent(ctx, &api.WatchEventRequest{Peer: &api.WatchEventRequest_Peer{}}, func(r *api.WatchEventResponse) {
		if e := r.GetPeer(); e.GetType() == api.WatchEventResponse_PeerEvent_STATE {
			s.became(b, states[e.GetPeer().GetState().GetSessionState()])
		}
	})
	if err == nil {
		s.announce(ctx) // a peer who has our routes from an earlier process is told soon that these are all
		err = b.AddPeer(ctx, &api.AddPeerRequest{Peer: p.neighbor(at, s.restarted)})
		s.restarted = false
	}
	if err != nil {
		return fmt.Errorf("begin with %s: %w", at, err)
	}
	return nil
}

// end closes the session, by a Cease (RFC 4271 §6.7), and says whether the server can be used again.
func (s *session) end(b *server.BgpServer) (again bool) {
	s.table.Lock() // who changes its table has ended
	s.mu.Lock()
	s.server = nil
	clear(s.out)
	s.mu.Unlock()
	s.table.Unlock()
	again = stop(b)
	s.change(func(now *Status) {
		if now.Up() {
			now.Since, now.Error, now.Cause = time.Now(), "", CauseStopped
			now.Flaps++
		}
		now.State, now.Routes = StateIdle, 0
	})
	return again
}

// stop has gobgp stop, which tells the peer, and says whether it has.
func stop(b *server.BgpServer) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = b.StopBgp(context.Background(), &api.StopBgpRequest{})
	}()
	select {
	case <-done:
		return true
	case <-time.After(endPatience): // a peer who does not take what is written
		return false
	}
}

// became takes gobgp's word on the session's state.
func (s *session) became(b *server.BgpServer, state State) {
	s.change(func(now *Status) {
		if s.server != b {
			return // it has another session by now
		}
		switch up := state == StateEstablished; {
		case up && !now.Up():
			now.Since, now.Error, now.Cause, now.Routes = time.Now(), "", "", len(s.out)
		case !up && now.Up():
			now.Since, now.Routes = time.Now(), 0
			now.Flaps++
		}
		now.State = state
	})
}

// heard takes gobgp's word on what went wrong.
func (s *session) heard(n note) {
	if cause, err := n.explain(s.peer); err != nil {
		s.fail(cause, err)
	}
}

// fail notes why there is no session. What is said first of one that ended is why it did.
func (s *session) fail(cause Cause, err error) {
	s.change(func(now *Status) {
		if now.Error != "" && cause == CauseClosed || now.Cause == CauseRefused && cause == CauseNotification {
			return // that came of it
		}
		now.Error, now.Cause = err.Error(), cause
	})
}

// lose has the session closed, since the peer cannot be reached any more.
func (s *session) lose(why string) {
	s.mu.Lock()
	b, at, up := s.server, s.at, s.status.Up()
	s.mu.Unlock()
	if b == nil || !up {
		return
	}
	s.fail(CauseBFD, errors.New(why))
	if err := b.ResetPeer(context.Background(), &api.ResetPeerRequest{Address: at.String(), Communication: why}); err != nil {
		s.log.Warn("session could not be reset", "err", err)
	}
}

// Find is how the address of a peer is found when nothing else is said: names are looked up.
func Find(ctx context.Context, p Peer) (netip.Addr, error) {
	if p.Host == "" {
		return neighborOn(p.Interface)
	}
	if addr, err := netip.ParseAddr(p.Host); err == nil {
		return addr.Unmap(), nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", p.Host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("look up %s: %w", p.Host, err)
	}
	for _, a := range addrs {
		if a = a.Unmap(); !p.Source.IsValid() || p.Source.Is4() == a.Is4() {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("look up %s: it has no address of the family of %s", p.Host, p.Source)
}

// seconds is a time as gobgp takes it.
func seconds(d time.Duration) uint64 { return uint64(d / time.Second) }
