package bfd

import (
	"errors"
	"fmt"
	"time"
)

// SessionOptions are what a Session wants.
type SessionOptions struct {
	// Mine is its discriminator: not 0, and that of no other session of this system.
	Mine uint32
	// MinTx is the interval at which it would like to send once it is up, MinRx the least at which it can receive:
	// microseconds to hours.
	MinTx, MinRx time.Duration
	// Multiplier is how many of its packets may be lost before the neighbour takes it for down; 1 to 255.
	Multiplier uint8
	// Passive has it send nothing before it has heard of its neighbour.
	Passive bool
	// Jitter returns a number in [0, 1).
	Jitter func() float64
}

// slow is the least interval of a session that is not up (RFC 5880 §6.8.3).
const slow = time.Second

// nobody is what is known of a neighbour who has not been heard (RFC 5880 §6.8.1).
var nobody = Packet{State: Down, MinRx: time.Microsecond}

// Validate says what is wrong with o, by the names of its fields.
func (o SessionOptions) Validate() error {
	var errs []error
	if o.Mine == 0 {
		errs = append(errs, errors.New("option Mine must not be 0"))
	}
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"MinTx", o.MinTx}, {"MinRx", o.MinRx}} {
		if f.value < time.Microsecond || f.value.Microseconds() > 1<<32-1 {
			errs = append(errs, fmt.Errorf("option %s is %s: it must be from 1µs to %s", f.name, f.value, (1<<32-1)*time.Microsecond))
		}
	}
	if o.Multiplier == 0 {
		errs = append(errs, errors.New("option Multiplier must not be 0"))
	}
	return errors.Join(errs...)
}

// Session is one end of a BFD session. It is not safe for use by several goroutines.
type Session struct {
	o SessionOptions

	state State
	diag  Diagnostic
	since time.Time     // of state
	minTx time.Duration // as it is told; slow while the session is not up
	// tx and rx are the intervals that count: minTx and MinRx of its options, but while the neighbour has not been heard to
	// know of a change what they were before, if that is more careful.
	tx, rx time.Duration
	polls  bool      // it asks until it is answered
	sendAt time.Time // zero means never
	heard  time.Time // when the last packet came; zero means that the neighbour is not known

	remote Packet // what the neighbour said last; its Mine is 0 while he is not known
	out    [1]Packet
}

// NewSession returns a Session that is down, and sends its first packet when it is first ticked. Its options are valid.
func NewSession(o SessionOptions, now time.Time) *Session {
	s := &Session{o: o, state: Down, since: now, remote: nobody}
	s.minTx = max(o.MinTx, slow)
	s.tx, s.rx = s.minTx, o.MinRx
	if !o.Passive {
		s.sendAt = now
	}
	return s
}

// State is what the session is, why it is not what it was before, and since when.
func (s *Session) State() (State, Diagnostic, time.Time) { return s.state, s.diag, s.since }

// Remote is the packet that the neighbour sent last; its Mine is 0 while he is not known.
func (s *Session) Remote() Packet { return s.remote }

// Interval is the time between two packets that the session sends, before jitter (RFC 5880 §6.8.2); 0 while the neighbour
// wants none.
func (s *Session) Interval() time.Duration {
	if s.remote.MinRx == 0 || s.remote.Demand && s.state == Up && s.remote.State == Up && !s.polls {
		return 0
	}
	return max(s.tx, s.remote.MinRx)
}

// Detection is the time after which a neighbour who says nothing is taken for down (RFC 5880 §6.8.4); 0 while he is not
// known.
func (s *Session) Detection() time.Duration {
	if s.remote.Mine == 0 {
		return 0
	}
	return time.Duration(s.remote.Multiplier) * max(s.rx, s.remote.MinTx)
}

// Next is when Tick has something to do; zero means that only a packet can change anything.
func (s *Session) Next() time.Time {
	next := s.sendAt
	if !s.heard.IsZero() {
		if at := s.heard.Add(s.Detection()); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

// Tick does what is due, and returns what is to be sent now, which is valid until the next call.
func (s *Session) Tick(now time.Time) []Packet {
	if !s.heard.IsZero() && !now.Before(s.heard.Add(s.Detection())) {
		s.lose(now)
	}
	if s.sendAt.IsZero() || now.Before(s.sendAt) {
		return nil
	}
	s.schedule(now)
	s.out[0] = s.packet()
	s.out[0].Poll = s.polls
	return s.out[:]
}

// lose is the end of the detection time.
func (s *Session) lose(now time.Time) {
	s.heard, s.remote = time.Time{}, nobody
	if s.state == Init || s.state == Up {
		s.become(Down, DetectionTimeExpired, now)
	}
	if s.o.Passive {
		s.sendAt = time.Time{}
	} else if s.sendAt.IsZero() { // he wanted none
		s.sendAt = now
	}
}

// Receive takes a packet that Parse accepted and that is for this session, and returns what is to be sent now,
// which is valid until the next call (RFC 5880 §6.8.6).
func (s *Session) Receive(p Packet, now time.Time) []Packet {
	if p.Yours != 0 && p.Yours != s.o.Mine {
		return nil
	}
	before := s.Interval()
	if s.polls && p.Final {
		s.polls, s.tx, s.rx = false, s.minTx, s.o.MinRx
	}
	known := s.remote.Mine != 0
	s.remote = p
	s.heard = now
	if s.state == AdminDown {
		return nil
	}
	switch {
	case p.State == AdminDown:
		if s.state != Down {
			s.become(Down, NeighborSignaledDown, now)
		}
	case s.state == Down && p.State == Down:
		s.become(Init, NoDiagnostic, now)
	case s.state == Down && p.State == Init, s.state == Init && (p.State == Init || p.State == Up):
		s.become(Up, NoDiagnostic, now)
	case s.state == Up && p.State == Down:
		s.become(Down, NeighborSignaledDown, now)
	}
	if s.Interval() != before || !known {
		s.hurry(now)
	}
	if !p.Poll {
		return nil
	}
	s.out[0] = s.packet()
	s.out[0].Final = true
	return s.out[:]
}

// SetAdminDown takes the session down by an operator's wish, which the neighbour is told, or ends that.
func (s *Session) SetAdminDown(down bool, now time.Time) {
	switch {
	case down && s.state != AdminDown:
		s.become(AdminDown, AdministrativelyDown, now)
	case !down && s.state == AdminDown:
		s.become(Down, NoDiagnostic, now)
	}
}

// become is a change of state: it is told to the neighbour at once, and the interval is that of the new one.
func (s *Session) become(state State, why Diagnostic, now time.Time) {
	s.state, s.diag, s.since = state, why, now
	minTx := s.o.MinTx
	if state != Up {
		minTx = max(minTx, slow)
	}
	s.polls = state == Up && minTx != s.minTx
	s.minTx, s.tx, s.rx = minTx, minTx, s.o.MinRx
	if s.remote.Mine != 0 || !s.o.Passive {
		s.sendAt = now
	}
}

// Set changes the intervals. A session that is up sends less often, and expects packets more often, once its neighbour has
// answered that it knows (RFC 5880 §6.8.3).
func (s *Session) Set(minTx, minRx time.Duration, now time.Time) {
	if minTx == s.o.MinTx && minRx == s.o.MinRx {
		return
	}
	s.o.MinTx, s.o.MinRx = minTx, minRx
	if s.state != Up {
		s.minTx = max(minTx, slow)
		s.tx, s.rx = s.minTx, minRx
		return
	}
	s.polls, s.minTx = true, minTx
	s.tx, s.rx = min(s.tx, minTx), max(s.rx, minRx)
	s.sendAt = now
}

// SetMultiplier changes the multiplier. The neighbour heeds it from the next packet on (RFC 5880 §6.8.12).
func (s *Session) SetMultiplier(multiplier uint8) { s.o.Multiplier = multiplier }

// packet is what the session has to say.
func (s *Session) packet() Packet {
	return Packet{Diagnostic: s.diag, State: s.state, Multiplier: s.o.Multiplier, Mine: s.o.Mine, Yours: s.remote.Mine, MinTx: s.minTx, MinRx: s.o.MinRx}
}

// schedule has the next packet sent an interval from now, less 0 to 25 per cent; of one that may not be lost, 10 to 25
// (RFC 5880 §6.8.7).
func (s *Session) schedule(now time.Time) {
	interval := s.Interval()
	if interval == 0 {
		s.sendAt = time.Time{}
		return
	}
	const most = 0.25
	least := 0.0
	if s.o.Multiplier == 1 {
		least = 0.10
	}
	less := least + s.o.Jitter()*(most-least)
	s.sendAt = now.Add(interval - time.Duration(less*float64(interval)))
}

// hurry has the next packet sent when the interval, which has changed, says so, and not later than it was to be.
func (s *Session) hurry(now time.Time) {
	before := s.sendAt
	s.schedule(now)
	if !before.IsZero() && before.Before(s.sendAt) {
		s.sendAt = before
	}
}
