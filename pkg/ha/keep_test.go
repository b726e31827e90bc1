package ha

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// newKeepingSim has Elections whose mandates go on while the API does not answer.
func newKeepingSim(t *testing.T, seed uint64, nodes int, timing Timing) *sim {
	s := newSim(t, seed, nodes, timing)
	s.keeps = true
	return s.listening()
}

// newKeepingFleetSim has Fleets likewise.
func newKeepingFleetSim(t *testing.T, seed uint64, nodes int, timing Timing) *sim {
	s := newFleetSim(t, seed, nodes, timing)
	s.keeps = true
	return s.listening()
}

const (
	askEvery  = 50 * time.Millisecond  // between two probes
	askSilent = 3                      // that many probes in a row nobody answers when the wire is clear
	askMost   = 15 * time.Second       // the wire is waited for
	lookEvery = time.Second            // who goes on asks the wire
	frameLate = 500 * time.Microsecond // how long a frame takes to be heard
)

// ear is what a process hears of others on the segments of all locks.
type ear struct {
	contest func(mandate string)
	gate    *gate

	mu    sync.Mutex
	kept  map[string]bool
	asked map[probe][]time.Time
}

// probe is whose question for which mandate's address was heard.
type probe struct{ mandate, by string }

// listening has announcements and probes heard by the processes that go on beyond their mandates.
func (s *sim) listening() *sim {
	for _, l := range s.locks {
		l.segment.announced = func(by string) {
			for _, n := range s.nodes {
				if n.name != by {
					s.tell(n, func(e *ear) { e.heard(l.mandate, by, true) })
				}
			}
		}
	}
	return s
}

// tell has what runs on a node hear something, once it runs.
func (s *sim) tell(n *node, f func(*ear)) {
	p := n.life()
	if p == nil || p.ear == nil {
		return
	}
	go func() {
		time.Sleep(frameLate)
		p.gate.wait()
		f(p.ear)
	}()
}

// heard notes that somebody has announced the address, or asked for it as one who is about to take it. Who asks once
// in a while is nobody to give it up for.
func (e *ear) heard(mandate, by string, announced bool) {
	e.mu.Lock()
	now, of := time.Now(), probe{mandate, by}
	e.asked[of] = append(slices.DeleteFunc(e.asked[of], func(t time.Time) bool { return now.Sub(t) > time.Second }), now)
	contest := e.kept[mandate] && (announced || len(e.asked[of]) >= 3)
	e.mu.Unlock()
	if contest {
		e.contest(mandate)
	}
}

// lookAround asks the wire now and then whether somebody else has the address, while p goes on beyond its mandate: who
// took over before that has been announced already.
func (s *sim) lookAround(p *process, mandate string) {
	for {
		time.Sleep(frameLate)
		p.gate.wait()
		p.ear.mu.Lock()
		kept := p.ear.kept[mandate]
		p.ear.mu.Unlock()
		if !kept || !p.gate.alive() {
			return
		}
		if slices.ContainsFunc(p.tables[mandate].segment.have(), func(name string) bool { return name != p.node }) {
			p.ear.contest(mandate)
		}
		time.Sleep(lookEvery)
	}
}

func (s *sim) keeper(p *process) *Keeper {
	if !s.keeps {
		return nil
	}
	p.ear = &ear{gate: p.gate, kept: map[string]bool{}, asked: map[probe][]time.Time{}, contest: func(mandate string) {
		if p.election != nil {
			p.election.Contest()
			return
		}
		p.fleet.Contest(mandate)
	}}
	return &Keeper{
		Kept: func(mandate string, beyond bool) {
			p.ear.mu.Lock()
			defer p.ear.mu.Unlock()
			p.ear.kept[mandate] = beyond
			s.note("%s: %s goes on: %v", mandate, p.node, beyond)
			if beyond {
				go s.lookAround(p, mandate)
			}
		},
		Clear: func(ctx context.Context, mandate string) {
			segment := p.tables[mandate].segment
			for silent, began := 0, time.Now(); silent < askSilent && time.Since(began) < askMost; {
				p.gate.wait()
				others := slices.DeleteFunc(segment.have(), func(name string) bool { return name == p.node })
				silent++
				for _, name := range others {
					silent = 0
					s.tell(s.node(name), func(e *ear) { e.heard(mandate, p.node, false) })
				}
				select {
				case <-ctx.Done():
					return
				case <-time.After(askEvery):
				}
			}
		},
		Silent: func(ctx context.Context, mandate string) bool {
			for range 2 {
				p.gate.wait()
				for _, name := range p.tables[mandate].segment.have() {
					if name != p.node {
						s.tell(s.node(name), func(e *ear) { e.heard(mandate, p.node, false) })
						return false
					}
				}
				select {
				case <-ctx.Done():
					return false
				case <-time.After(2 * askEvery):
				}
			}
			return true
		},
	}
}

// TestKeeping takes the API away from everybody, in any way and for any time, and looks whether the addresses stay where
// they are, and the Leases as well.
func TestKeeping(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(t *testing.T, seed uint64, nodes int, timing Timing) *sim{"election": newKeepingSim, "fleet": newKeepingFleetSim} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(60) {
				synctest.Test(t, func(t *testing.T) {
					s := make(t, seed, 3, timings[seed%uint64(len(timings))])
					for _, n := range s.nodes {
						n.health = Healthy
						s.start(n)
					}
					if !s.until(time.Minute, s.held) {
						t.Fatalf("seed %d: %s", seed, s.state())
					}
					holders, moves := s.holders()
					fault := []outage{refused, hangs}[s.rng.IntN(2)]
					lasts := s.between(time.Second, time.Minute)
					for _, n := range s.nodes {
						s.change(n, func() { n.fault = fault })
					}
					s.until(lasts, func() bool { _, now := s.holders(); return now != moves })
					for _, n := range s.nodes {
						s.change(n, func() { n.fault = up })
					}
					s.until(20*time.Second, func() bool { _, now := s.holders(); return now != moves })
					if after, now := s.holders(); now != moves || !slices.Equal(after, holders) || !s.held() {
						t.Errorf("seed %d: after %s without the API (%d) holders are %v after %d moves, before they were %v after %d; %s",
							seed, lasts, fault, after, now, holders, moves, s.state())
					}
					s.finish()
					for _, wrong := range append(s.errs, s.violations()...) {
						t.Errorf("seed %d: %s", seed, wrong)
					}
				})
			}
		})
	}
}

// TestKeepingYields takes the API away from a holder alone: another takes over, and the two never have the address at
// once. That holds however long the holder is cut off, and when nobody gives an address up.
func TestKeepingYields(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			timing := timings[seed%uint64(len(timings))]
			s := newKeepingSim(t, seed, 3, timing)
			for _, n := range s.nodes {
				s.start(n)
			}
			s.until(time.Minute, s.held)
			before := s.node(s.holder())
			fault := []outage{refused, hangs, deaf}[s.rng.IntN(3)]
			s.change(before, func() { before.fault = fault })
			bound := timing.Lease + 4*time.Second
			moved := func() bool { return s.held() && s.holder() != before.name }
			if fault != deaf && !s.until(bound, moved) {
				t.Errorf("seed %d: %s after %s", seed, s.state(), bound)
			}
			s.until(time.Minute, func() bool { return false })
			s.change(before, func() { before.fault = up })
			s.until(20*time.Second, func() bool { return false })
			if !s.held() {
				t.Errorf("seed %d: %s in the end", seed, s.state())
			}
			s.finish()
			for _, wrong := range append(s.errs, s.violations()...) {
				t.Errorf("seed %d: %s", seed, wrong)
			}
		})
	}
}

// TestKeepingGone: the holder vanishes, and the API with him for a while, as where its database was on his node. Nobody answers
// on the wire, so nobody is waited for once the API is back; without asking, its courtesy would last longer than that.
func TestKeepingGone(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			timing := timings[seed%uint64(len(timings))]
			s := newKeepingSim(t, seed, 3, timing)
			for _, n := range s.nodes {
				n.health = Healthy
				s.start(n)
			}
			if !s.until(time.Minute, s.held) {
				t.Fatalf("seed %d: %s", seed, s.state())
			}
			holder := s.node(s.holder())
			fault := []outage{refused, hangs}[s.rng.IntN(2)]
			for _, n := range s.nodes {
				s.change(n, func() { n.fault = fault })
			}
			s.end(holder, true)
			s.until(timing.Lease+s.between(0, time.Second), func() bool { return false })
			for _, n := range s.nodes {
				s.change(n, func() { n.fault = up })
			}
			// A call that hangs, a try after that, the rank, and the wire.
			bound := timing.Renew/2 + 2*timing.Retry + time.Second
			began := time.Now()
			if !s.until(time.Minute, s.held) {
				t.Errorf("seed %d: %s", seed, s.state())
			}
			if took := time.Since(began); took > bound {
				t.Errorf("seed %d: it was taken %s after the API was back, want %s", seed, took, bound)
			}
			s.finish()
			for _, wrong := range append(s.errs, s.violations()...) {
				t.Errorf("seed %d: %s", seed, wrong)
			}
		})
	}
}

// TestContest: what is claimed on the wire while the API answers ends no mandate, and what goes on for want
// of it ends until the API has said that the Lease is ours.
func TestContest(t *testing.T) {
	now := time.Now()
	timing := timings[0]
	c := &core{namespace: simNamespace, name: simLease, id: "a", timing: timing, grace: expiryGrace, keep: keeping{on: true}}
	c.absent(now, "1")
	d := c.decide(now)
	if d.write != writeCreate {
		t.Fatalf("write %v, want to create the Lease", d.write)
	}
	d.lease.ResourceVersion = "2"
	c.writes(d.lease)
	c.wrote(now, now, d.lease)
	if d = c.decide(now); d.verdict == granted || !d.ask {
		t.Fatalf("%+v, want the wire to be asked before it is granted", d)
	}
	c.keep.wary = false
	if d = c.decide(now); d.verdict != granted || d.beyond {
		t.Fatalf("%+v, want it granted for its time", d)
	}
	c.contested()
	if d = c.decide(now); d.verdict != granted {
		t.Fatalf("%+v after somebody claimed the address, want it granted still", d)
	}
	now = now.Add(timing.Renew - keepMargin/2)
	c.failed(now, true)
	if d = c.decide(now); d.verdict != granted || !d.beyond || !d.until.Equal(now.Add(keepFor)) {
		t.Fatalf("%+v without the API, want it granted for %s", d, keepFor)
	}
	c.contested()
	if d = c.decide(now); d.verdict != revoked || d.beyond {
		t.Fatalf("%+v after somebody claimed the address, want it revoked", d)
	}
	now = now.Add(time.Second)
	if d = c.decide(now); d.verdict != revoked || d.write != writeUpdate {
		t.Fatalf("%+v, want it revoked, and the Lease renewed if that is possible", d)
	}
	d.lease.ResourceVersion = "3"
	c.writes(d.lease)
	c.wrote(now, now, d.lease)
	if d = c.decide(now); d.verdict != granted {
		t.Fatalf("%+v after the Lease was renewed, want it granted", d)
	}
}

// TestLine: an outage is a time without any answer. One Lease that can not be written is none, and neither is an API
// that refuses.
func TestLine(t *testing.T) {
	const brief = time.Second
	start := time.Now()
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	for _, test := range []struct {
		name string
		do   func(l *line)
		back time.Time
	}{
		{"answers", func(l *line) { l.answered(at(0), at(0.1), brief); l.answered(at(9), at(9.1), brief) }, time.Time{}},
		{"a late answer", func(l *line) { l.answered(at(0), at(1.5), brief) }, at(1.5)},
		{"a late answer among others", func(l *line) { l.answered(at(1), at(1.1), brief); l.answered(at(0), at(1.5), brief) }, time.Time{}},
		{"an outage", func(l *line) { l.lost(at(1)); l.lost(at(3)); l.answered(at(5), at(5.1), brief) }, at(5.1)},
		{"a short one", func(l *line) { l.lost(at(1)); l.answered(at(1.5), at(1.6), brief) }, time.Time{}},
		{"one that was noticed late", func(l *line) { l.lost(at(3)); l.lost(at(1)); l.answered(at(3.1), at(3.2), brief) }, at(3.2)},
		{"one sick Lease", func(l *line) {
			for i := range 20 {
				l.lost(at(float64(2 * i)))
				l.answered(at(float64(2*i)+0.5), at(float64(2*i)+0.6), brief)
			}
		}, time.Time{}},
		{"a watch that is refused", func(l *line) {
			l.lostSight(errEnded)
			l.lostSight(apierrors.NewForbidden(coordinationv1.Resource("leases"), "", nil))
			l.answered(time.Now().Add(time.Hour), time.Now().Add(time.Hour), brief)
		}, time.Time{}},
	} {
		l := &line{}
		test.do(l)
		if got := l.get(); got.apart || !got.back.Equal(test.back) {
			t.Errorf("%s: %+v, want it back at %v", test.name, got, test.back)
		}
	}
}

// TestWary: who was to hold a Lease and never looked at the wire does not pass for one who gave it up, or had it before.
func TestWary(t *testing.T) {
	now := time.Now()
	c := &core{namespace: simNamespace, name: simLease, id: "b", timing: timings[0], grace: expiryGrace, keep: keeping{on: true}}
	c.observe(now, renewedLease("a", "1", now))
	now = now.Add(c.timing.Lease + expiryGrace)
	c.keep.reach.last = now
	accept := func(version string) decision {
		d := c.decide(now)
		if d.write != writeUpdate {
			t.Fatalf("%+v, want the Lease written", d)
		}
		d.lease.ResourceVersion = version
		c.writes(d.lease)
		c.wrote(now, now, d.lease)
		return c.decide(now)
	}
	if d := accept("2"); d.verdict == granted || !d.ask {
		t.Fatalf("%+v, want the wire asked", d)
	}
	now = now.Add(c.timing.Renew - 100*time.Millisecond) // it does not go on without the API
	if d := c.decide(now); d.beyond || d.verdict == granted {
		t.Errorf("%+v shortly before the end of what was never granted", d)
	}
	now = now.Add(time.Second)
	if d := accept("3"); d.verdict == granted || !d.ask {
		t.Errorf("%+v when it is renewed after its time, want the wire asked", d)
	}
	c.stopping, c.off = true, true
	if d := c.decide(now); d.write != writeRelease || orderly(d.lease) {
		t.Errorf("%+v, want it given up so that the next one asks the wire", d)
	}
}

// renewedLease is a Lease that somebody has just renewed.
func renewedLease(id, version string, renewed time.Time) *coordinationv1.Lease {
	stamp := metav1.NewMicroTime(renewed)
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: simNamespace, Name: simLease, ResourceVersion: version},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: new(id), LeaseDurationSeconds: new(int32(5)), RenewTime: &stamp, AcquireTime: &stamp,
		},
	}
}
