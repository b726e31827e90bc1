package bfd

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// link is two sessions and what is between them, in time that passes by itself.
type link struct {
	now      time.Time
	ends     [2]*Session
	late     time.Duration
	drop     func(from int) bool
	under    []flight
	sent     [2][]sending
	changes  []string
	previous [2]State
}

type flight struct {
	to int
	at time.Time
	p  Packet
}

type sending struct {
	at time.Time
	p  Packet
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newLink(a, b SessionOptions) *link {
	random := rand.New(rand.NewPCG(1, 2))
	l := &link{now: epoch, late: 2 * time.Millisecond, drop: func(int) bool { return false }, previous: [2]State{Down, Down}}
	for i, o := range []SessionOptions{a, b} {
		o.Mine, o.Jitter = uint32(i+1), random.Float64
		if err := o.Validate(); err != nil {
			panic(err)
		}
		l.ends[i] = NewSession(o, l.now)
	}
	return l
}

func (l *link) send(from int, list []Packet) {
	for _, p := range list {
		l.sent[from] = append(l.sent[from], sending{l.now, p})
		if l.drop(from) {
			continue
		}
		got, err := Parse(p.AppendTo(nil))
		if err != nil {
			panic(fmt.Sprintf("%d sent %+v: %v", from, p, err))
		}
		l.under = append(l.under, flight{1 - from, l.now.Add(l.late), got})
	}
	state, why, _ := l.ends[from].State()
	l.note(from, state, why)
}

func (l *link) note(end int, state State, why Diagnostic) {
	if l.previous[end] != state {
		l.previous[end] = state
		l.changes = append(l.changes, fmt.Sprintf("%d %s (%s)", end, state, why))
	}
}

// run lets d pass.
func (l *link) run(d time.Duration) {
	for end := l.now.Add(d); ; {
		next := end
		for _, s := range l.ends {
			if at := s.Next(); !at.IsZero() && at.Before(next) {
				next = at
			}
		}
		for _, f := range l.under {
			if f.at.Before(next) {
				next = f.at
			}
		}
		if !next.Before(end) {
			l.now = end
			return
		}
		if next.After(l.now) {
			l.now = next
		}
		due := slices.DeleteFunc(slices.Clone(l.under), func(f flight) bool { return f.at.After(l.now) })
		l.under = slices.DeleteFunc(l.under, func(f flight) bool { return !f.at.After(l.now) })
		for _, f := range due {
			l.send(f.to, l.ends[f.to].Receive(f.p, l.now))
		}
		for i, s := range l.ends {
			l.send(i, s.Tick(l.now))
		}
	}
}

// until lets time pass until something is so, and says how long that took.
func (l *link) until(t *testing.T, what string, is func() bool) time.Duration {
	t.Helper()
	began := l.now
	for !is() {
		if l.now.Sub(began) > time.Minute {
			t.Fatalf("after %s still not so: %s; %v", time.Minute, what, l.changes)
		}
		l.run(time.Millisecond)
	}
	return l.now.Sub(began)
}

func (l *link) up() bool { return l.ends[0].state == Up && l.ends[1].state == Up }

func (l *link) expect(t *testing.T, when, want string) {
	t.Helper()
	if diff := cmp.Diff(want, strings.Join(l.changes, "; ")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
	l.changes = nil
}

// gaps are the least and the greatest time between the last packets that an end sent, without answers to polls.
func (l *link) gaps(from int, since time.Time) (least, most time.Duration) {
	var last time.Time
	for _, s := range l.sent[from] {
		if s.at.Before(since) || s.p.Final {
			continue
		}
		if !last.IsZero() {
			gap := s.at.Sub(last)
			most = max(most, gap)
			if least == 0 || gap < least {
				least = gap
			}
		}
		last = s.at
	}
	return least, most
}

func every(d time.Duration) SessionOptions { return SessionOptions{MinTx: d, MinRx: d, Multiplier: 3} }

// Sessions come up at the slow rate, go on at that of the slower one, and a lost neighbour is noticed after so many packets.
func TestUpAndLost(t *testing.T) {
	for _, tc := range []struct {
		name             string
		a, b             SessionOptions
		interval, detect [2]time.Duration
	}{
		{"alike", every(50 * time.Millisecond), every(50 * time.Millisecond),
			[2]time.Duration{50 * time.Millisecond, 50 * time.Millisecond}, [2]time.Duration{150 * time.Millisecond, 150 * time.Millisecond}},
		{"a slow reader", every(50 * time.Millisecond), SessionOptions{MinTx: 50 * time.Millisecond, MinRx: 300 * time.Millisecond, Multiplier: 3},
			[2]time.Duration{300 * time.Millisecond, 50 * time.Millisecond}, [2]time.Duration{150 * time.Millisecond, 900 * time.Millisecond}},
		{"a slow writer with another multiplier", every(100 * time.Millisecond), SessionOptions{MinTx: 2 * time.Second, MinRx: 100 * time.Millisecond, Multiplier: 5},
			[2]time.Duration{100 * time.Millisecond, 2 * time.Second}, [2]time.Duration{10 * time.Second, 300 * time.Millisecond}},
		{"one waits to be asked", every(50 * time.Millisecond), SessionOptions{MinTx: 50 * time.Millisecond, MinRx: 50 * time.Millisecond, Multiplier: 3, Passive: true},
			[2]time.Duration{50 * time.Millisecond, 50 * time.Millisecond}, [2]time.Duration{150 * time.Millisecond, 150 * time.Millisecond}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLink(tc.a, tc.b)
			if took := l.until(t, "both are up", l.up); took > 3*time.Second {
				t.Errorf("up after %s", took)
			}
			for i, s := range l.sent {
				for _, one := range s {
					if one.p.State != Up && one.p.MinTx < slow {
						t.Errorf("%d, which is %s, tells of an interval of %s", i, one.p.State, one.p.MinTx)
					}
				}
			}
			l.run(10 * time.Second)
			if got := [2]time.Duration{l.ends[0].Interval(), l.ends[1].Interval()}; got != tc.interval {
				t.Errorf("intervals are %v, want %v", got, tc.interval)
			}
			if got := [2]time.Duration{l.ends[0].Detection(), l.ends[1].Detection()}; got != tc.detect {
				t.Errorf("detection times are %v, want %v", got, tc.detect)
			}
			began := l.now
			l.run(60 * time.Second)
			for i, want := range tc.interval {
				if least, most := l.gaps(i, began); least < want*3/4 || most > want {
					t.Errorf("%d sends every %s to %s, want every %s less 0 to 25 %%", i, least, most, want)
				}
			}
			l.changes = nil
			l.drop = func(from int) bool { return from == 1 }
			took := l.until(t, "the first one has noticed", func() bool { return l.ends[0].state != Up })
			if most := tc.detect[0] + l.late + time.Millisecond; took > most || took < tc.detect[0]*2/3-tc.interval[1] {
				t.Errorf("noticed after %s, want about %s", took, tc.detect[0])
			}
			l.run(5 * time.Millisecond) // the other one is told
			l.expect(t, "lost", "0 Down (control detection time expired); 1 Down (neighbor signaled session down)")
			l.drop = func(int) bool { return false }
			l.until(t, "both are up again", l.up)
		})
	}
}

// A lost packet is not a lost neighbour, and three are.
func TestLosses(t *testing.T) {
	l := newLink(every(50*time.Millisecond), every(50*time.Millisecond))
	l.until(t, "both are up", l.up)
	l.changes = nil
	n := 0
	l.drop = func(from int) bool {
		if from == 1 {
			n++
		}
		return from == 1 && n%3 != 0
	}
	l.run(time.Minute)
	l.expect(t, "two of three are lost", "")
}

// Intervals change while the session is up: what is less careful counts once the neighbour knows.
func TestSet(t *testing.T) {
	l := newLink(every(50*time.Millisecond), every(50*time.Millisecond))
	l.until(t, "both are up", l.up)
	l.run(time.Second)
	l.changes = nil
	l.drop = func(from int) bool { return from == 1 && len(l.sent[1]) > 0 && l.sent[1][len(l.sent[1])-1].p.Final } // answers are lost
	l.ends[0].Set(400*time.Millisecond, 10*time.Millisecond, l.now)
	l.run(time.Second)
	if i, d := l.ends[0].Interval(), l.ends[0].Detection(); i != 50*time.Millisecond || d != 150*time.Millisecond {
		t.Errorf("before the answer it sends every %s and detects in %s", i, d)
	}
	if p := l.sent[0][len(l.sent[0])-1].p; !p.Poll || p.MinTx != 400*time.Millisecond || p.MinRx != 10*time.Millisecond {
		t.Errorf("it says %+v", p)
	}
	l.drop = func(int) bool { return false }
	l.run(time.Second)
	if i, d := l.ends[0].Interval(), l.ends[0].Detection(); i != 400*time.Millisecond || d != 150*time.Millisecond {
		t.Errorf("after the answer it sends every %s and detects in %s", i, d)
	}
	if d := l.ends[1].Detection(); d != 1200*time.Millisecond {
		t.Errorf("the other one detects in %s", d)
	}
	if p := l.sent[0][len(l.sent[0])-1].p; p.Poll {
		t.Error("it asks for ever")
	}
	began := l.now
	l.ends[0].Set(20*time.Millisecond, 10*time.Millisecond, l.now)
	l.run(time.Second)
	if least, most := l.gaps(0, began.Add(100*time.Millisecond)); least < 37*time.Millisecond || most > 50*time.Millisecond {
		t.Errorf("it sends every %s to %s, and the other one reads every 50 ms", least, most)
	}
	l.expect(t, "changes of intervals", "")
}

// An operator takes a session down: the neighbour is told why, and nothing brings it up until he says so.
func TestAdminDown(t *testing.T) {
	l := newLink(every(50*time.Millisecond), every(50*time.Millisecond))
	l.until(t, "both are up", l.up)
	l.changes = nil
	l.ends[0].SetAdminDown(true, l.now)
	l.run(10 * time.Second)
	l.expect(t, "taken down", "0 AdminDown (administratively down); 1 Down (neighbor signaled session down)")
	if got := l.ends[1].Remote(); got.State != AdminDown || got.Diagnostic != AdministrativelyDown {
		t.Errorf("the other one knows %+v", got)
	}
	l.ends[0].SetAdminDown(false, l.now)
	l.until(t, "both are up again", l.up)
}

// A neighbour who wants no packets gets none, but answers to what he asks.
func TestQuiet(t *testing.T) {
	for name, change := range map[string]func(*Packet){
		"he can receive none": func(p *Packet) { p.MinRx = 0 },
		"demand mode":         func(p *Packet) { p.Demand = true },
	} {
		t.Run(name, func(t *testing.T) {
			now := epoch
			o := every(50 * time.Millisecond)
			o.Mine, o.Jitter = 1, func() float64 { return 0 }
			s := NewSession(o, now)
			he := Packet{State: Down, Multiplier: 3, Mine: 2, MinTx: time.Second, MinRx: 50 * time.Millisecond}
			s.Receive(he, now)
			he.State, he.Yours = Init, 1
			s.Receive(he, now)
			he.State, he.Final = Up, true
			change(&he)
			s.Receive(he, now)
			if s.state != Up || s.Interval() != 0 {
				t.Fatalf("it is %s, and sends every %s", s.state, s.Interval())
			}
			s.Tick(now)
			if got := s.Tick(now.Add(2 * time.Second)); len(got) > 0 {
				t.Errorf("it sends %+v", got)
			}
			he.Poll, he.Final = true, false
			if got := s.Receive(he, now.Add(2*time.Second)); len(got) != 1 || !got[0].Final || got[0].Poll {
				t.Errorf("it answers %+v", got)
			}
		})
	}
}

// A neighbour who wanted no packets and has not been heard for long is looked for again: he may be another one.
func TestForgets(t *testing.T) {
	o := every(50 * time.Millisecond)
	o.Mine, o.Jitter = 1, func() float64 { return 0 }
	s := NewSession(o, epoch)
	s.Receive(Packet{State: Down, Multiplier: 3, Mine: 2, MinTx: time.Second}, epoch)
	s.Tick(epoch)
	if got := s.Tick(epoch.Add(2 * time.Second)); len(got) > 0 {
		t.Errorf("it sends %+v", got)
	}
	lost := epoch.Add(s.Detection())
	if got := s.Next(); !got.Equal(lost) {
		t.Errorf("the next thing to do is at %s, want %s", got, lost)
	}
	got := s.Tick(lost)
	if len(got) != 1 || got[0].Yours != 0 || got[0].State != Down || s.Detection() != 0 {
		t.Errorf("it sends %+v, and detects in %s", got, s.Detection())
	}
	// And one whose session is up from an earlier life, and who goes before this one was.
	s = NewSession(o, epoch)
	s.Receive(Packet{State: Up, Multiplier: 3, Mine: 2, Yours: 1, MinTx: time.Second}, epoch)
	s.Tick(epoch)
	if got := s.Tick(epoch.Add(s.Detection())); len(got) != 1 || got[0].Yours != 0 || got[0].State != Down {
		t.Errorf("it sends %+v", got)
	}
}

// Who waits to be asked is silent until then, and again when his neighbour is lost.
func TestPassive(t *testing.T) {
	o := every(50 * time.Millisecond)
	o.Passive = true
	l := newLink(o, o)
	l.run(time.Minute)
	if n := len(l.sent[0]) + len(l.sent[1]); n > 0 || !l.ends[0].Next().IsZero() {
		t.Errorf("%d packets were sent", n)
	}
	l.ends[0].SetAdminDown(true, l.now)
	if !l.ends[0].Next().IsZero() {
		t.Error("it tells nobody that it is taken down")
	}
	l = newLink(every(50*time.Millisecond), o)
	l.until(t, "both are up", l.up)
	l.drop = func(from int) bool { return from == 0 }
	l.run(10 * time.Second)
	l.sent[1] = nil
	l.run(time.Minute)
	if n := len(l.sent[1]); n > 0 {
		t.Errorf("it sent %d packets to nobody", n)
	}
}

// The interval is shortened by 0 to 25 per cent, and by 10 at least where one packet decides (RFC 5880 §6.8.7).
func TestJitter(t *testing.T) {
	for multiplier, want := range map[uint8][2]time.Duration{3: {75 * time.Millisecond, 100 * time.Millisecond}, 1: {75 * time.Millisecond, 90 * time.Millisecond}} {
		o := every(100 * time.Millisecond)
		o.Multiplier = multiplier
		l := newLink(o, every(100*time.Millisecond))
		l.until(t, "both are up", l.up)
		l.run(5 * time.Second)
		began := l.now
		l.run(5 * time.Minute)
		least, most := l.gaps(0, began)
		if least < want[0] || most > want[1] || least > want[0]+time.Millisecond || most < want[1]-time.Millisecond {
			t.Errorf("with a multiplier of %d it sends every %s to %s, want %s to %s", multiplier, least, most, want[0], want[1])
		}
	}
}

// A packet for another session changes nothing.
func TestForeign(t *testing.T) {
	o := every(50 * time.Millisecond)
	o.Mine, o.Jitter = 1, func() float64 { return 0 }
	s := NewSession(o, epoch)
	before := *s
	if got := s.Receive(Packet{State: Init, Multiplier: 3, Mine: 2, Yours: 7, MinTx: time.Second, MinRx: time.Second, Poll: true}, epoch); got != nil || s.state != before.state || s.remote != before.remote {
		t.Errorf("it answers %+v, and is %+v", got, s)
	}
}

func TestValidate(t *testing.T) {
	err := SessionOptions{MinRx: 2 * time.Hour, MinTx: -time.Second}.Validate()
	want := "option Mine must not be 0\noption MinTx is -1s: it must be from 1µs to 1h11m34.967295s\noption MinRx is 2h0m0s: it must be from 1µs to 1h11m34.967295s\noption Multiplier must not be 0"
	if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
