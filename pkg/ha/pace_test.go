package ha

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTimingPace(t *testing.T) {
	slow := Timing{15 * time.Second, 10 * time.Second, 2 * time.Second}
	for _, tt := range []struct {
		timing    Timing
		leases    int
		perSecond float64
		every     time.Duration
		want      string // part of the error; empty for none
	}{
		{fast, 0, 200, time.Second, ""},
		{fast, 1, 200, time.Second, ""},
		{fast, 200, 200, time.Second, ""},
		{fast, 250, 200, 1250 * time.Millisecond, ""},
		{fast, 300, 200, 1500 * time.Millisecond, ""},
		{fast, 301, 200, 1505 * time.Millisecond, "set vip_retryperiod to 2, vip_renewdeadline to 4 and vip_leaseduration to 7 at least"},
		{fast, 1000, 200, 5 * time.Second, "renew 1000 Leases every 1s: that is 1000 calls a second, and 200 are allowed; each would be renewed every 5s, which leaves no time for a second try before the renew deadline of 3s; set vip_retryperiod to 5, vip_renewdeadline to 10 and vip_leaseduration to 16 at least"},
		{slow, 1000, 200, 5 * time.Second, ""},
		{slow, 1000, 500, 2 * time.Second, ""},
		{slow, 1001, 200, 5005 * time.Millisecond, "set vip_retryperiod to 6, vip_renewdeadline to 12 and vip_leaseduration to 19 at least"},
		{Timing{3 * time.Second, 2 * time.Second, 1500 * time.Millisecond}, 15, 10, 1500 * time.Millisecond, ""},
	} {
		every, err := tt.timing.Pace(tt.leases, tt.perSecond)
		if every != tt.every || (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%d Leases of %v at %g/s: every %s, %v; want %s, %q", tt.leases, tt.timing, tt.perSecond, every, err, tt.every, tt.want)
		}
		if fits := tt.leases <= tt.timing.most(tt.perSecond); fits != (tt.want == "") {
			t.Errorf("%d Leases of %v at %g/s: most is %d", tt.leases, tt.timing, tt.perSecond, tt.timing.most(tt.perSecond))
		}
	}
	// What the error proposes does.
	for _, leases := range []int{301, 777, 5000} {
		_, err := fast.Pace(leases, 200)
		var retry, renew, lease int
		_, after, _ := strings.Cut(err.Error(), "set ")
		if _, scan := fmt.Sscanf(after, "vip_retryperiod to %d, vip_renewdeadline to %d and vip_leaseduration to %d", &retry, &renew, &lease); scan != nil {
			t.Fatalf("%v: %v", err, scan)
		}
		proposed := Timing{time.Duration(lease) * time.Second, time.Duration(renew) * time.Second, time.Duration(retry) * time.Second}
		every, err := proposed.Pace(leases, 200)
		if invalid := proposed.Validate(); err != nil || invalid != nil || every != proposed.Retry {
			t.Errorf("%d Leases: %v is proposed: %v, %v, renewed every %s", leases, proposed, err, invalid, every)
		}
	}
}

// What a call is for, and by when it is to be made.
func TestErrand(t *testing.T) {
	ours, theirs, free := record("node-1", 10, 0), record("node-2", 10, 0), record("", 10, 0)
	hold := all(reads(nil), func(b *bench) { b.decide() }, accepted(10, 0))
	later := func(s float64, e event) event { return func(b *bench) { b.now = at(seconds(s)); e(b) } }
	for _, tt := range []struct {
		name   string
		do     event
		asked  float64
		errand errand
		by     float64 // seconds; zero for before all
	}{
		{"a claim waits as if it had a mandate since it was asked for", watched(free), 2, claim, 5},
		{"and one for a Lease that is not there", reads(nil), 2, claim, 5},
		{"and one for an expired Lease", all(watched(theirs), later(6, nothing)), 2, claim, 5},
		{"a renewal is to come before the mandate's end", all(hold, later(1.5, nothing)), 1, renewal, 3},
		{"a read too, if a renewal waits for it", all(hold, refusedWrite, later(1.5, nothing)), 1.2, renewal, 3},
		{"without a mandate a read waits like a claim, and takes no room", all(watched(free), refusedWrite), 2, renewal, 5},
		{"what was ours before a restart is overdue", watched(ours), 2, renewal, 2},
		{"our Lease without a mandate is a claim", all(hold, later(4, nothing)), 3.5, claim, 6.5},
		{"giving up comes before all", all(hold, stop, func(b *bench) { b.decide() }, addressesOff), 2, farewell, 0},
		{"and so does the read that it waits for", all(hold, stop, func(b *bench) { b.decide() }, addressesOff, abortedWrite), 2, farewell, 0},
		{"of an instance that is not able too", all(hold, is(Unable), func(b *bench) { b.decide() }, addressesOff), 2, farewell, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench()
			tt.do(b)
			d := b.decide()
			if d.write == writeNothing {
				t.Fatalf("nothing to be written: %s", say(d))
			}
			want := at(seconds(tt.by))
			if tt.by == 0 {
				want = time.Time{}
			}
			if e, by := b.errand(d, at(seconds(tt.asked))); e != tt.errand || !by.Equal(want) {
				t.Errorf("%s: errand %d by %s, want %d by %s", say(d), e, by.Sub(epoch), tt.errand, want.Sub(epoch))
			}
		})
	}
}

// crew is a pace with named turns.
type crew struct {
	*pace
	turns map[string]*turn
}

func newCrew(p pace) crew { return crew{&p, map[string]*turn{}} }

func (c crew) ask(name string, e errand, by float64) {
	if c.turns[name] == nil {
		c.turns[name] = &turn{}
	}
	c.put(c.turns[name], e, at(seconds(by)))
}

// all lists whose turn it is, until nobody's is, and how long to wait then.
func (c crew) all(now time.Time) (names []string, again time.Duration) {
	for {
		t, next := c.next(now)
		if t == nil {
			if !next.IsZero() {
				again = next.Sub(now)
			}
			return names, again
		}
		for name, other := range c.turns {
			if other == t {
				names = append(names, name)
			}
		}
	}
}

func wantTurns(t *testing.T, c crew, now time.Time, wantAgain time.Duration, want ...string) {
	t.Helper()
	got, again := c.all(now)
	if !slices.Equal(got, want) || again.Round(time.Millisecond) != wantAgain {
		t.Errorf("turns of %v, and again in %s; want %v and %s", got, again, want, wantAgain)
	}
}

func TestPace(t *testing.T) {
	many := pace{perSecond: 1e6, inFlight: 100, most: 100}
	t.Run("the mandate that ends first comes first, a farewell before all", func(t *testing.T) {
		c := newCrew(many)
		c.ask("b", renewal, 2)
		c.ask("claim", claim, 1.5)
		c.ask("c", renewal, 3)
		c.ask("a", renewal, 1)
		c.put(&turn{}, farewell, time.Time{})
		c.turns["farewell"] = c.duties[0]
		wantTurns(t, c, epoch, 0, "farewell", "a", "claim", "b", "c")
		wantTurns(t, c, epoch, 0)
	})
	t.Run("who asks again keeps one place", func(t *testing.T) {
		c := newCrew(many)
		c.ask("a", claim, 9)
		c.ask("b", renewal, 5)
		c.ask("a", renewal, 1)
		c.ask("b", renewal, 5)
		wantTurns(t, c, epoch, 0, "a", "b")
	})
	t.Run("who does not want it any more has no turn", func(t *testing.T) {
		c := newCrew(many)
		c.ask("a", renewal, 1)
		c.ask("b", claim, 2)
		c.drop(c.turns["a"])
		c.drop(c.turns["b"])
		c.drop(c.turns["b"])
		wantTurns(t, c, epoch, 0)
	})
	t.Run("no more at once than may be in flight", func(t *testing.T) {
		c := newCrew(pace{perSecond: 1e6, inFlight: 2, most: 100})
		c.ask("a", renewal, 1)
		c.ask("b", renewal, 2)
		c.ask("c", renewal, 3)
		wantTurns(t, c, epoch, 0, "a", "b")
		c.ended(c.turns["b"])
		wantTurns(t, c, epoch, 0, "c")
		c.ask("d", renewal, 3)
		c.unused(c.turns["a"])
		wantTurns(t, c, epoch, 0, "d")
	})
	t.Run("claims leave room for renewals", func(t *testing.T) {
		c := newCrew(pace{perSecond: 1e6, inFlight: 4, most: 100})
		for i := range 4 {
			c.ask(fmt.Sprint("claim", i), claim, float64(i))
		}
		c.ask("a", renewal, 9)
		wantTurns(t, c, epoch, 0, "claim0", "claim1", "a")
		c.ended(c.turns["claim0"])
		wantTurns(t, c, epoch, 0, "claim2")
	})
	t.Run("no more mandates than can be renewed in time", func(t *testing.T) {
		c := newCrew(pace{perSecond: 1e6, inFlight: 100, most: 3, held: 1})
		for i := range 4 {
			c.ask(fmt.Sprint("claim", i), claim, float64(i))
		}
		c.ask("a", renewal, 9)
		wantTurns(t, c, epoch, 0, "claim0", "claim1", "a")
		c.ended(c.turns["claim0"]) // it came to nothing
		wantTurns(t, c, epoch, 0, "claim2")
		c.ended(c.turns["claim1"]) // it became a mandate
		c.held++
		wantTurns(t, c, epoch, 0)
		c.held--
		wantTurns(t, c, epoch, 0, "claim3")
	})
	t.Run("no more a second than are allowed, but for farewells", func(t *testing.T) {
		c := newCrew(pace{perSecond: 40, inFlight: 100, most: 100}) // two at once
		for i := range 5 {
			c.ask(fmt.Sprint(i), renewal, float64(i))
		}
		wantTurns(t, c, epoch, 25*time.Millisecond, "0", "1")
		wantTurns(t, c, at(seconds(0.01)), 15*time.Millisecond)
		c.ask("bye", farewell, -1)
		c.ask("bye too", farewell, -0.5)
		wantTurns(t, c, at(seconds(0.01)), 25*time.Millisecond, "bye", "bye too")
		wantTurns(t, c, at(seconds(0.035)), 25*time.Millisecond, "2")
		wantTurns(t, c, at(seconds(9)), 0, "3", "4") // no more saved than two
		c.ask("5", renewal, 5)
		wantTurns(t, c, at(seconds(9)), 25*time.Millisecond)
		c.unused(c.turns["4"])
		wantTurns(t, c, at(seconds(9)), 0, "5")
	})
}

// TestPaceStarvesNobody has as many mandates as can be kept, and as many candidates as there may be, and an API
// that takes its time: every mandate is renewed within what was promised, and every claim has its turn.
func TestPaceStarvesNobody(t *testing.T) {
	for seed := range uint64(2) {
		rng := rand.New(rand.NewPCG(seed, 0))
		timing := []Timing{fast, {15 * time.Second, 10 * time.Second, 2 * time.Second}}[seed%2]
		p := pace{perSecond: 200, inFlight: DefaultCallsInFlight, most: timing.most(200)}
		type job struct {
			turn  *turn
			until time.Time // of a mandate
			asked time.Time
		}
		var holders, candidates []*job
		for range p.most * 8 / 10 {
			holders = append(holders, &job{turn: &turn{}, until: at(timing.Renew).Add(-time.Duration(rng.Int64N(int64(timing.Retry))))})
		}
		p.held = len(holders)
		for range p.most {
			candidates = append(candidates, &job{turn: &turn{}})
		}
		jobs := map[*turn]*job{}
		for _, j := range append(slices.Clone(holders), candidates...) {
			jobs[j.turn] = j
		}
		type flight struct {
			t    *turn
			ends time.Time
		}
		var flights []flight
		least, longest := timing.Renew, time.Duration(0)
		for now := epoch; now.Before(at(30 * time.Second)); now = now.Add(time.Millisecond) {
			flights = slices.DeleteFunc(flights, func(f flight) bool {
				if f.ends.After(now) {
					return false
				}
				p.ended(f.t)
				return true
			})
			for _, j := range holders {
				if j.turn.queue == nil && !now.Before(j.until.Add(timing.Retry-timing.Renew)) {
					p.put(j.turn, renewal, j.until)
				}
			}
			for _, j := range candidates { // each wants to try for somebody's expired Lease every now and then
				if j.turn.queue == nil && j.asked.IsZero() && rng.IntN(int(2*timing.Lease/time.Millisecond)) == 0 {
					j.asked = now
					p.put(j.turn, claim, now.Add(timing.Renew))
				}
			}
			for {
				next, _ := p.next(now)
				if next == nil {
					break
				}
				flights = append(flights, flight{next, now.Add(time.Duration(rng.Int64N(int64(100 * time.Millisecond))))})
				if j := jobs[next]; next.errand == renewal {
					least = min(least, j.until.Sub(now))
					j.until = now.Add(timing.Renew)
				} else {
					longest = max(longest, now.Sub(j.asked))
					j.asked = time.Time{}
				}
			}
		}
		for _, j := range candidates {
			if !j.asked.IsZero() {
				longest = max(longest, at(20*time.Second).Sub(j.asked))
			}
		}
		if least < timing.Renew/4 || longest > timing.Renew {
			t.Errorf("seed %d, %v: a mandate was %s from its end, a claim waited %s", seed, timing, least, longest)
		}
	}
}

// Renewals of any number of Leases that were taken at once come evenly.
func TestPhasesAreEven(t *testing.T) {
	for _, leases := range []int{10, 100, 1000} {
		p := phases{epoch: epoch, period: 2 * time.Second}
		var tenths [10]int
		for range leases {
			tenths[p.next().Add(p.period).Sub(epoch)/(p.period/10)]++
		}
		if least, most := slices.Min(tenths[:]), slices.Max(tenths[:]); most-least > 2 {
			t.Errorf("%d Leases: %v in each tenth of the retry period", leases, tenths)
		}
	}
}
