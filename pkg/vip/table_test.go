package vip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// rig is a Table on a fake kernel, in a synctest bubble, with a record of what it does and says.
type rig struct {
	*Table
	t        *testing.T
	kernel   *fakeKernel
	registry *prometheus.Registry
	began    time.Time
	stop     func() error // ends Run and waits for it
	listener *listener

	mu       sync.Mutex
	record   []string
	logs     []string
	troubles []string // what Trouble was told
}

// listener is a Speaker.
type listener struct {
	mu      sync.Mutex
	present []VIP
	err     error
	onSync  func(present []VIP)
}

var _ Speaker = (*listener)(nil)

func (l *listener) Sync(present []VIP) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onSync(present)
	l.present = present
	return l.err
}

// announced is the set that Sync was given last.
func (l *listener) announced() []VIP {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.present
}

func (l *listener) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// bubble runs test with a Table that is not running yet, on a node with eth0 and eth1.
func bubble(t *testing.T, test func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newRig(t)) })
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, kernel: newFakeKernel(), registry: prometheus.NewRegistry(), began: time.Now(), listener: &listener{}}
	r.kernel.addLink("eth0")
	r.kernel.addLink("eth1")
	r.kernel.onPut = func(a fakeAddress) { r.note("put %s", a) }
	r.kernel.onRemove = func(a fakeAddress) { r.note("remove %s %s", a.link, a.prefix) }
	r.listener.onSync = func(present []VIP) {
		if !slices.Equal(r.listener.present, present) {
			r.note("sync %v", present)
		}
	}
	r.Table = NewTable(Options{
		Kernel: r.kernel, Speakers: []Speaker{r.listener}, Registerer: r.registry, Trouble: r.onTrouble,
		Log: slog.New(slog.NewTextHandler(logWriter{r}, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})),
	})
	r.stop = func() error { return nil }
	return r
}

func (r *rig) onTrouble(faults []Fault) {
	var errs []error
	for _, f := range faults {
		errs = append(errs, f.Err)
	}
	err := errors.Join(errs...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.troubles = append(r.troubles, fmt.Sprint(err))
}

// troubled checks what Trouble was told since it was asked last.
func (r *rig) troubled(want ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if diff := cmp.Diff(want, r.troubles); diff != "" {
		r.t.Errorf("told Trouble (-want +got):\n%s", diff)
	}
	r.troubles = nil
}

type logWriter struct{ r *rig }

func (w logWriter) Write(b []byte) (int, error) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	w.r.logs = append(w.r.logs, strings.TrimSpace(string(b)))
	return len(b), nil
}

func (r *rig) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record = append(r.record, fmt.Sprintf(format, args...))
}

// run starts the Table and lets it look at the node once.
func (r *rig) run() {
	ctx, cancel := context.WithCancel(r.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	r.stop = func() error {
		cancel()
		r.stop = func() error { return nil }
		return <-ended
	}
	r.t.Cleanup(func() { _ = r.stop() })
	r.settle(0)
}

// settle lets time pass and then the Table come to rest.
func (r *rig) settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// did checks what was done since it was asked last.
func (r *rig) did(want ...string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.recorded()); diff != "" {
		r.t.Errorf("record (-want +got):\n%s", diff)
	}
}

// recorded is what was done since it was asked last.
func (r *rig) recorded() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	record := r.record
	r.record = nil
	return record
}

// logged checks what was logged since it was asked last, in any order.
func (r *rig) logged(want ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.Sort(want)
	slices.Sort(r.logs)
	if diff := cmp.Diff(want, r.logs); diff != "" {
		r.t.Errorf("log (-want +got):\n%s", diff)
	}
	r.logs = nil
}

// node checks the addresses of the node but the loopback's own.
func (r *rig) node(want ...string) {
	r.t.Helper()
	var got []string
	for line := range strings.Lines(r.kernel.String()) {
		if line = strings.TrimSpace(line); !strings.Contains(line, "127.0.0.1") && !strings.Contains(line, "::1/128 host") {
			got = append(got, line)
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("node (-want +got):\n%s", diff)
	}
}

func (r *rig) holds(want ...VIP) {
	r.t.Helper()
	if diff := cmp.Diff(fmt.Sprint(want), fmt.Sprint(r.Holding())); diff != "" {
		r.t.Errorf("holding (-want +got):\n%s", diff)
	}
}

// metrics checks kube_vip_vip_held.
func (r *rig) metrics(want ...string) {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			got = append(got, fmt.Sprint(f.GetName(), labels(m), m.GetGauge().GetValue()))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

func labels(m *dto.Metric) (s string) {
	for _, l := range m.GetLabel() {
		s += fmt.Sprintf("{%s=%q} ", l.GetName(), l.GetValue())
	}
	return s
}

func (r *rig) in(d time.Duration) time.Time { return time.Now().Add(d) }

// on is a VIP, as 10.0.0.10/32 eth0.
func on(spec string) VIP {
	prefix, link, _ := strings.Cut(spec, " ")
	return VIP{Prefix: netip.MustParsePrefix(prefix), Link: link, Via: link}
}

var errKernel = errors.New("no buffer space available")

func TestGrantAndRevoke(t *testing.T) {
	bubble(t, func(r *rig) {
		ten, eleven := on("10.0.0.10/32 eth0"), on("fd00::11/128 eth0")
		r.Claim("cp", "lease", []VIP{eleven, ten})
		r.run()
		r.did()
		r.node()
		r.holds()
		r.metrics(`kube_vip_vip_held{vip="10.0.0.10"} 0`, `kube_vip_vip_held{vip="fd00::11"} 0`)

		r.Grant("lease", r.in(5*time.Second))
		r.settle(0)
		r.did("put eth0 10.0.0.10/32 ours 5s", "put eth0 fd00::11/128 ours 5s", "sync [10.0.0.10 fd00::11]")
		r.holds(ten, eleven)
		r.metrics(`kube_vip_vip_held{vip="10.0.0.10"} 1`, `kube_vip_vip_held{vip="fd00::11"} 1`)
		r.logged(`level=INFO msg="VIP added" vip=10.0.0.10 link=eth0`, `level=INFO msg="VIP added" vip=fd00::11 link=eth0`)

		off := r.Revoke("lease")
		if err := off(r.t.Context()); err != nil {
			t.Error(err)
		}
		r.node() // when off has returned, not later
		r.did("sync []", "remove eth0 10.0.0.10/32", "remove eth0 fd00::11/128")
		r.holds()
		r.metrics(`kube_vip_vip_held{vip="10.0.0.10"} 0`, `kube_vip_vip_held{vip="fd00::11"} 0`)
		r.logged(`level=INFO msg="VIP removed" vip=10.0.0.10 link=eth0`, `level=INFO msg="VIP removed" vip=fd00::11 link=eth0`)

		for range 3 { // off may be asked again, a mandate that nobody claims revoked
			if err := errors.Join(off(r.t.Context()), r.Revoke("lease")(r.t.Context()), r.Revoke("none")(r.t.Context())); err != nil {
				t.Error(err)
			}
		}
		r.did()
	})
}

func TestClaimUnderAGrantedMandate(t *testing.T) {
	bubble(t, func(r *rig) {
		r.run()
		r.Grant("lease", r.in(5*time.Second))
		r.settle(0)
		r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth0")})
		r.settle(0)
		r.did("put eth0 10.0.0.10/32 ours 5s", "sync [10.0.0.10]")

		// Another claim replaces it: the new address is there and told before the old one goes.
		r.Claim("cp", "lease", []VIP{on("10.0.0.11/32 eth0"), on("10.0.0.12/32 eth1")})
		r.settle(0)
		r.did("put eth0 10.0.0.11/32 ours 5s", "put eth1 10.0.0.12/32 ours 5s", "sync [10.0.0.11 10.0.0.12]", "remove eth0 10.0.0.10/32")
		r.metrics(`kube_vip_vip_held{vip="10.0.0.11"} 1`, `kube_vip_vip_held{vip="10.0.0.12"} 1`)

		r.Claim("cp", "lease", []VIP{on("10.0.0.11/32 eth1")})
		r.settle(0)
		r.did("put eth1 10.0.0.11/32 ours 5s", "sync [10.0.0.11]", "remove eth0 10.0.0.11/32", "remove eth1 10.0.0.12/32")

		r.Unclaim("cp")
		r.settle(0)
		r.did("sync []", "remove eth1 10.0.0.11/32")
		r.node()
		r.metrics()
	})
}

func TestClaimIsCopied(t *testing.T) {
	bubble(t, func(r *rig) {
		r.run()
		vips := []VIP{on("10.0.0.10/32 eth0")}
		r.Claim("cp", "lease", vips)
		vips[0] = on("10.0.0.11/32 eth0")
		r.Grant("lease", r.in(5*time.Second))
		r.settle(0)
		r.Holding()[0] = vips[0]
		r.listener.announced()[0] = vips[0]
		r.holds(on("10.0.0.10/32 eth0"))
	})
}

func TestMandateEnds(t *testing.T) {
	for _, until := range []time.Duration{300 * time.Millisecond, 1 * time.Second, 1700 * time.Millisecond, 5 * time.Second, 7*time.Second + 1} {
		t.Run(until.String(), func(t *testing.T) {
			bubble(t, func(r *rig) {
				r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth0")})
				r.run()
				end := r.in(until)
				r.Grant("lease", end)
				r.settle(0)
				for left := until; left > 1; left = time.Until(end) {
					r.holds(on("10.0.0.10/32 eth0"))
					if !r.kernel.has(on("10.0.0.10/32 eth0")) {
						t.Errorf("gone %s before the mandate's end", left)
					}
					r.settle(min(50*time.Millisecond, left-1))
				}
				r.settle(1)
				r.node()
				r.holds()
			})
		})
	}
}

func TestMandateOfThePast(t *testing.T) {
	bubble(t, func(r *rig) {
		r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth0")})
		r.run()
		r.Grant("lease", time.Now())
		r.settle(0)
		r.Grant("lease", r.in(-time.Hour))
		r.settle(0)
		r.did()
	})
}

func TestMandateIsShortened(t *testing.T) {
	bubble(t, func(r *rig) {
		r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth0")})
		r.run()
		r.Grant("lease", r.in(time.Minute))
		r.settle(0)
		r.did("put eth0 10.0.0.10/32 ours 1m0s", "sync [10.0.0.10]")
		// The dead-man must not outlast it either.
		r.Grant("lease", r.in(2500*time.Millisecond))
		r.settle(0)
		r.node("eth0 10.0.0.10/32 ours 3s")
		r.settle(2500 * time.Millisecond)
		r.node()
	})
}

// TestRenewal: a lease of five seconds, renewed every second for an hour.
func TestRenewal(t *testing.T) {
	for _, c := range []struct {
		lease, renewal time.Duration
		most           int // Puts in an hour
	}{
		{5 * time.Second, time.Second, 1801},
		{15 * time.Second, 2 * time.Second, 721},
		{3 * time.Second, 500 * time.Millisecond, 3601},
		{60 * time.Second, 10 * time.Second, 361},
	} {
		t.Run(fmt.Sprintf("%s every %s", c.lease, c.renewal), func(t *testing.T) {
			bubble(t, func(r *rig) {
				v := on("10.0.0.10/32 eth0")
				r.Claim("cp", "lease", []VIP{v})
				r.run()
				least := c.lease
				for range int(time.Hour / c.renewal) {
					// The mandate counts from when the renewal was sent.
					r.Grant("lease", r.in(c.lease-20*time.Millisecond))
					synctest.Wait()
					if err := present(r.kernel, v); err != nil {
						t.Fatal(err)
					}
					time.Sleep(c.renewal)
					for _, a := range r.kernel.ours() {
						least = min(least, time.Until(a.since.Add(a.valid)))
					}
				}
				if n := r.kernel.count("put"); n > c.most {
					t.Errorf("%d puts in an hour, want %d at most", n, c.most)
				}
				// Renewed when three fifths are gone of what the mandate had left, which may have been a renewal less.
				if least < (c.lease-c.renewal)*2/5 {
					t.Errorf("only %s of the lifetime were left", least)
				}
				t.Logf("%d puts in an hour, %s left at least", r.kernel.count("put"), least)
				r.metrics(`kube_vip_vip_held{vip="10.0.0.10"} 1`)
			})
		})
	}
}

// TestShortMandates: the kernel's seconds are coarse against them, and still there is no moment without the address.
func TestShortMandates(t *testing.T) {
	for lease := 1100 * time.Millisecond; lease < 4*time.Second; lease += 130 * time.Millisecond {
		t.Run(lease.String(), func(t *testing.T) {
			bubble(t, func(r *rig) {
				v := on("10.0.0.10/32 eth0")
				r.Claim("cp", "lease", []VIP{v})
				r.run()
				for range 60 {
					r.Grant("lease", r.in(lease))
					synctest.Wait()
					for range 10 {
						time.Sleep(100 * time.Millisecond)
						if err := present(r.kernel, v); err != nil {
							t.Fatal(err)
						}
					}
				}
			})
		})
	}
}

func TestTwoOwners(t *testing.T) {
	bubble(t, func(r *rig) {
		v := on("10.0.0.10/32 eth0")
		r.Claim("one", "a", []VIP{v})
		r.Claim("two", "b", []VIP{v})
		r.run()
		r.Grant("a", r.in(60*time.Second))
		r.Revoke("b")
		r.settle(0)
		r.did("put eth0 10.0.0.10/32 ours 1m0s", "sync [10.0.0.10]")
		r.Grant("b", r.in(5*time.Second))
		r.settle(0)
		r.did()

		// It stays under the other mandate, no longer than that.
		if err := r.Revoke("a")(r.t.Context()); err != nil {
			t.Error(err)
		}
		r.did("put eth0 10.0.0.10/32 ours 5s")
		r.holds(v)
		r.Unclaim("one")
		r.settle(0)
		r.did()
		r.Unclaim("two")
		r.settle(0)
		r.did("sync []", "remove eth0 10.0.0.10/32")
	})
}

// TestLeftovers: what an earlier life of the process left.
func TestLeftovers(t *testing.T) {
	v, stray, other := on("10.0.0.10/32 eth0"), on("10.0.0.66/32 eth1"), netip.MustParsePrefix("10.0.0.5/24")
	setup := func(r *rig) {
		r.kernel.leave(v, 3*time.Second)
		r.kernel.leave(stray, 3*time.Second)
		r.kernel.addAddress("eth0", other)
		r.did("put eth0 10.0.0.10/32 ours 3s", "put eth1 10.0.0.66/32 ours 3s")
	}
	t.Run("as long as nothing is claimed, nothing is known of them", func(t *testing.T) {
		bubble(t, func(r *rig) {
			setup(r)
			r.run()
			r.Claim("cp", "lease", nil) // a name that is not resolved yet
			r.Grant("lease", r.in(time.Minute))
			r.settle(2900 * time.Millisecond)
			r.did()
			r.settle(200 * time.Millisecond)
			r.did()
			r.node("eth0 10.0.0.5/24")
		})
	})
	t.Run("undecided, it stays until its lifetime ends, and is not announced", func(t *testing.T) {
		bubble(t, func(r *rig) {
			setup(r)
			r.run()
			r.Claim("cp", "lease", []VIP{v})
			r.settle(0)
			r.did("remove eth1 10.0.0.66/32")
			r.settle(2900 * time.Millisecond)
			r.node("eth0 10.0.0.10/32 ours 1s", "eth0 10.0.0.5/24")
			r.holds()
			r.settle(200 * time.Millisecond)
			r.node("eth0 10.0.0.5/24")
			r.did()
			if n := r.kernel.count("put"); n != 0 {
				t.Errorf("%d puts", n)
			}
		})
	})
	t.Run("granted, it is renewed without a gap", func(t *testing.T) {
		bubble(t, func(r *rig) {
			setup(r)
			r.run()
			r.Claim("cp", "lease", []VIP{v})
			r.settle(1500 * time.Millisecond)
			r.did("remove eth1 10.0.0.66/32")
			r.Grant("lease", r.in(5*time.Second))
			r.settle(0)
			r.did("put eth0 10.0.0.10/32 ours 5s", "sync [10.0.0.10]")
			r.holds(v)
		})
	})
	t.Run("granted for less than its lifetime, it is shortened", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.kernel.leave(v, time.Hour)
			r.Claim("cp", "lease", []VIP{v})
			r.Grant("lease", r.in(5*time.Second))
			r.run()
			r.node("eth0 10.0.0.10/32 ours 5s")
		})
	})
	t.Run("revoked, it goes at once", func(t *testing.T) {
		bubble(t, func(r *rig) {
			setup(r)
			r.Claim("cp", "lease", []VIP{v})
			off := r.Revoke("lease")
			r.run()
			if err := off(r.t.Context()); err != nil {
				t.Error(err)
			}
			r.node("eth0 10.0.0.5/24")
		})
	})
	t.Run("one mandate that is decided against it decides", func(t *testing.T) {
		bubble(t, func(r *rig) {
			setup(r)
			r.Claim("cp", "lease", []VIP{v})
			r.Claim("other", "undecided", []VIP{v})
			r.run()
			r.did("remove eth1 10.0.0.66/32")
			r.Revoke("lease")
			r.settle(0)
			r.did("remove eth0 10.0.0.10/32")
		})
	})
	t.Run("on another link than claimed now, it moves", func(t *testing.T) {
		bubble(t, func(r *rig) {
			setup(r)
			moved := v
			moved.Link = "eth1"
			r.Claim("cp", "lease", []VIP{moved})
			r.Grant("lease", r.in(5*time.Second))
			r.run()
			r.did("put eth1 10.0.0.10/32 ours 5s", "sync [10.0.0.10]", "remove eth0 10.0.0.10/32", "remove eth1 10.0.0.66/32")
		})
	})
	t.Run("with another prefix length than now, it is replaced", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.kernel.leave(on("10.0.0.10/24 eth0"), 3*time.Second)
			r.kernel.leave(on("fd00::10/64 eth0"), 3*time.Second)
			r.Claim("cp", "lease", both("eth0"))
			r.Grant("lease", r.in(5*time.Second))
			r.run()
			r.node("eth0 10.0.0.10/32 ours 5s", "eth0 fd00::10/128 ours 5s")
			r.holds(both("eth0")...)
			before := r.kernel.count("put")
			r.settle(1500 * time.Millisecond)
			if n := r.kernel.count("put"); n != before {
				t.Errorf("%d puts more, want none", n-before)
			}
		})
	})
	t.Run("when Run ends, it goes", func(t *testing.T) {
		bubble(t, func(r *rig) {
			setup(r)
			r.run()
			if err := r.stop(); err != nil {
				t.Error(err)
			}
			r.node("eth0 10.0.0.5/24")
		})
	})
}

func TestRepair(t *testing.T) {
	v := on("10.0.0.10/32 eth0")
	back := func(r *rig) {
		r.t.Helper()
		if err := present(r.kernel, v); err != nil {
			r.t.Error(err)
		}
		r.holds(v)
		if !slices.Equal(r.listener.announced(), []VIP{v}) {
			r.t.Errorf("announced: %v", r.listener.announced())
		}
	}
	start := func(r *rig) {
		r.Claim("cp", "lease", []VIP{v})
		r.Grant("lease", r.in(time.Hour))
		r.run()
		back(r)
		r.logged(`level=INFO msg="VIP added" vip=10.0.0.10 link=eth0`)
	}
	t.Run("removed by hand", func(t *testing.T) {
		bubble(t, func(r *rig) {
			start(r)
			r.kernel.delAddress("eth0", v.Prefix)
			r.settle(settle)
			back(r)
			r.logged(`level=INFO msg="VIP was gone from its link, and is back" vip=10.0.0.10 link=eth0`)
		})
	})
	t.Run("removed by hand, unnoticed", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.kernel.failing(errKernel, "watch")
			start2 := func() {
				r.Claim("cp", "lease", []VIP{v})
				r.Grant("lease", r.in(time.Hour))
				r.run()
			}
			start2()
			r.kernel.delAddress("eth0", v.Prefix)
			r.settle(tick)
			back(r)
			r.settle(10 * tick)
			r.logged(`level=INFO msg="VIP added" vip=10.0.0.10 link=eth0`,
				`level=INFO msg="VIP was gone from its link, and is back" vip=10.0.0.10 link=eth0`,
				`level=WARN msg="watching the kernel's links and addresses ended; looking every second instead" err="watch: no buffer space available"`)
			// The watch is tried again.
			r.kernel.failing(nil)
			r.settle(2 * tick)
			r.kernel.delAddress("eth0", v.Prefix)
			r.settle(settle)
			back(r)
		})
	})
	t.Run("removed by hand again and again", func(t *testing.T) {
		bubble(t, func(r *rig) {
			start(r)
			before := r.kernel.count("list")
			for range 1000 {
				r.kernel.delAddress("eth0", v.Prefix)
				time.Sleep(time.Millisecond)
				synctest.Wait()
			}
			if n := r.kernel.count("list") - before; n > 101 {
				t.Errorf("%d comparisons in a second, want 100", n)
			}
			r.settle(settle)
			back(r)
		})
	})
	t.Run("link deleted and made again", func(t *testing.T) {
		bubble(t, func(r *rig) {
			start(r)
			r.kernel.delLink("eth0")
			r.settle(settle)
			r.holds()
			if len(r.listener.announced()) != 0 {
				t.Errorf("announced: %v", r.listener.announced())
			}
			r.settle(10 * time.Second)
			r.logged(`level=WARN msg="VIP could not be put on its link" vip=10.0.0.10 link=eth0 err="add 10.0.0.10/32 to eth0: no such interface"`)
			r.kernel.addLink("eth0")
			r.settle(settle)
			back(r)
			r.logged(`level=INFO msg="VIP added" vip=10.0.0.10 link=eth0`,
				`level=INFO msg=settled vip=10.0.0.10 link=eth0 was="add 10.0.0.10/32 to eth0: no such interface"`)
		})
	})
	t.Run("hint", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.kernel.failing(errKernel, "watch")
			r.Claim("cp", "lease", []VIP{v})
			r.Grant("lease", r.in(time.Hour))
			r.run()
			r.kernel.delAddress("eth0", v.Prefix)
			r.Hint()
			r.settle(settle)
			back(r)
		})
	})
}

func TestAddressOfAnother(t *testing.T) {
	warning := func(prefix string) string {
		return fmt.Sprintf(`level=WARN msg="VIP could not be put on its link" vip=10.0.0.10 link=eth0 `+
			`err="%s on eth0: the address is on this node already, without kube-vip's mark; `+
			`it stays when the VIP moves: remove it with 'ip address delete %[1]s dev eth0'"`, prefix)
	}
	for _, prefix := range []string{"10.0.0.10/32", "10.0.0.10/24"} {
		t.Run(prefix, func(t *testing.T) {
			bubble(t, func(r *rig) {
				v := on("10.0.0.10/32 eth0")
				r.kernel.addAddress("eth0", netip.MustParsePrefix(prefix))
				r.Claim("cp", "lease", []VIP{v})
				r.run()
				r.logged()
				r.Grant("lease", r.in(time.Minute))
				r.settle(10 * time.Second)
				// It answers here, where the mandate is: it is announced, reported once and not touched.
				r.did("sync [10.0.0.10]")
				r.holds(v)
				r.node("eth0 " + prefix)
				r.logged(warning(prefix))

				// The list fails: that does not make it ours.
				r.kernel.failing(errKernel, "list")
				r.settle(2 * time.Second)
				r.holds(v)
				r.kernel.failing(nil)
				r.settle(2 * time.Second)
				r.node("eth0 " + prefix)
				r.did()

				r.kernel.failing(errKernel, "list")
				if err := r.Revoke("lease")(r.t.Context()); err == nil {
					t.Error("revoked without a look at the node")
				}
				r.kernel.failing(nil)
				if err := r.Revoke("lease")(r.t.Context()); err != nil {
					t.Error(err)
				}
				r.did("sync []")
				r.node("eth0 " + prefix)
				if n := r.kernel.count("remove"); n != 0 {
					t.Errorf("%d removes", n)
				}

				// When it goes while the mandate is ours, the VIP is put there.
				r.Grant("lease", r.in(time.Minute))
				r.settle(0)
				r.kernel.delAddress("eth0", netip.MustParsePrefix(prefix))
				r.settle(settle)
				r.node("eth0 10.0.0.10/32 ours 1m0s")
			})
		})
	}
	t.Run("on another link it is nobody's business", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.kernel.addAddress("eth1", netip.MustParsePrefix("10.0.0.10/32"))
			r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth0")})
			r.Grant("lease", r.in(time.Minute))
			r.run()
			r.node("eth0 10.0.0.10/32 ours 1m0s", "eth1 10.0.0.10/32")
			if err := r.Revoke("lease")(r.t.Context()); err != nil {
				t.Error(err)
			}
			r.node("eth1 10.0.0.10/32")
		})
	})
	t.Run("put there between the look and the put", func(t *testing.T) {
		bubble(t, func(r *rig) {
			v := on("fd00::10/128 eth0")
			r.kernel.faults(func(call string) error {
				if call == "put" {
					r.kernel.addAddress("eth0", v.Prefix)
				}
				return nil
			})
			r.Claim("cp", "lease", []VIP{v})
			r.Grant("lease", r.in(time.Minute))
			r.run()
			r.node("eth0 fd00::10/128")
			r.holds(v)
		})
	})
}

// TestForeignVIPOfAFollower: an address of another is told of where the mandate is not, and stays.
func TestForeignVIPOfAFollower(t *testing.T) {
	foreign := netip.MustParsePrefix("10.0.0.10/24")
	warning := func(link string) string {
		return fmt.Sprintf(`level=WARN msg="VIP is on this node, which does not hold it" vip=10.0.0.10 link=%s `+
			`err="10.0.0.10/24 on %[1]s: the address is on this node already, without kube-vip's mark; `+
			`it answers here while another node holds the VIP: remove it with 'ip address delete 10.0.0.10/24 dev %[1]s'"`, link)
	}
	for _, link := range []string{"eth0", "eth1"} { // that of the VIP, and another, which answers for it as well
		t.Run("on "+link, func(t *testing.T) {
			bubble(t, func(r *rig) {
				r.kernel.addAddress(link, foreign)
				r.kernel.addAddress(link, netip.MustParsePrefix("10.0.0.5/24"))
				r.Claim("cp", "lease", both("eth0"))
				r.run()
				r.settle(time.Second)
				r.logged() // who holds it is not known yet
				r.Revoke("lease")
				r.settle(10 * time.Second)
				r.logged(warning(link))
				r.kernel.failing(errKernel, "list")
				r.settle(2 * time.Second)
				r.kernel.failing(nil)
				r.settle(2 * time.Second)
				r.logged(`level=WARN msg="addresses could not be listed" err="list addresses: no buffer space available"`,
					`level=INFO msg=settled was="list addresses: no buffer space available"`)
				r.node(link+" 10.0.0.10/24", link+" 10.0.0.5/24")
				r.did()
				if n := r.kernel.count("put") + r.kernel.count("remove"); n != 0 {
					t.Errorf("%d puts and removes", n)
				}
				r.kernel.delAddress(link, foreign)
				r.settle(tick)
				r.logged(fmt.Sprintf("level=INFO msg=settled vip=10.0.0.10 link=%s was=%s", link,
					strings.SplitN(warning(link), "err=", 2)[1]))
				r.troubled()
			})
		})
	}
	t.Run("after a mandate", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth0")})
			r.Grant("lease", r.in(4500*time.Millisecond)) // which ends before the address's whole seconds
			r.kernel.addAddress("eth1", foreign)
			r.run()
			r.logged(`level=INFO msg="VIP added" vip=10.0.0.10 link=eth0`)
			r.settle(6 * time.Second) // it has run out
			r.logged(warning("eth1"), `level=INFO msg="VIP removed" vip=10.0.0.10 link=eth0`)
			r.Grant("lease", r.in(time.Minute))
			r.settle(0)
			r.logged(`level=INFO msg="VIP added" vip=10.0.0.10 link=eth0`) // and nothing of an end, for it is there
			if err := r.stop(); err != nil {
				t.Error(err)
			}
			r.logged(`level=INFO msg="VIP removed" vip=10.0.0.10 link=eth0`)
		})
	})
	t.Run("not claimed", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.kernel.addAddress("eth0", foreign)
			r.Claim("cp", "lease", []VIP{on("10.0.0.11/32 eth0")})
			r.Revoke("lease")
			r.run()
			r.logged()
		})
	})
}

func TestTrouble(t *testing.T) {
	const ten, eleven = "add 10.0.0.10/32 to eth7: no such interface", "add 10.0.0.11/32 to eth8: no such interface"
	t.Run("all of it is named, each change is told once", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth7"), on("10.0.0.11/32 eth8"), on("10.0.0.12/32 eth0")})
			r.run()
			r.troubled()
			r.Grant("lease", r.in(time.Minute))
			r.settle(10 * time.Second)
			r.troubled(ten + "\n" + eleven)
			r.kernel.addLink("eth7")
			r.settle(tick)
			r.troubled(eleven)
			r.kernel.addLink("eth8")
			r.settle(tick)
			r.troubled("<nil>")
			r.settle(10 * time.Second)
			r.troubled()
		})
	})
	for name, end := range map[string]func(*rig){
		"revoked":        func(r *rig) { r.Revoke("lease") },
		"unclaimed":      func(r *rig) { r.Unclaim("cp") },
		"run out":        func(r *rig) { r.settle(time.Minute) },
		"the end of Run": func(r *rig) { _ = r.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(r *rig) {
				r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth7")})
				r.Grant("lease", r.in(time.Minute))
				r.run()
				r.troubled(ten)
				r.logged(`level=WARN msg="VIP could not be put on its link" vip=10.0.0.10 link=eth7 err="` + ten + `"`)
				end(r)
				r.settle(0)
				r.troubled("<nil>")
				r.logged() // nothing was mended
			})
		})
	}
	t.Run("one that cannot be renewed is there until its lifetime ends", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth0")})
			r.Grant("lease", r.in(5*time.Second))
			r.run()
			r.kernel.failing(errKernel, "put")
			r.Grant("lease", r.in(time.Hour))
			r.settle(4900 * time.Millisecond)
			r.troubled()
			r.settle(200 * time.Millisecond)
			r.troubled("add 10.0.0.10/32 to eth0: no buffer space available")
		})
	})
	t.Run("one that is only believed to be there, and cannot be put, is not", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth0")})
			r.Grant("lease", r.in(time.Hour))
			r.run()
			r.kernel.failing(errKernel, "list")
			r.settle(2 * tick)
			r.troubled()
			r.kernel.failing(errKernel, "list", "put")
			r.settle(2 * tick)
			r.troubled("add 10.0.0.10/32 to eth0: no buffer space available")
			r.kernel.failing(nil)
			r.settle(tick)
			r.troubled("<nil>")
		})
	})
	t.Run("an address of another answers", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.kernel.addAddress("eth0", netip.MustParsePrefix("10.0.0.10/24"))
			r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth0")})
			r.Grant("lease", r.in(time.Hour))
			r.run()
			r.kernel.failing(errKernel, "list")
			r.settle(2 * tick)
			r.holds(on("10.0.0.10/32 eth0"))
			r.troubled()
		})
	})
	t.Run("what it is told may be told back", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.trouble = func(faults []Fault) {
				r.onTrouble(faults)
				r.Revoke("lease")
			}
			r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth7")})
			r.Grant("lease", r.in(time.Hour))
			r.run()
			r.troubled(ten, "<nil>")
		})
	})
}

func TestFailures(t *testing.T) {
	v := on("10.0.0.10/32 eth0")
	start := func(r *rig) {
		r.Claim("cp", "lease", []VIP{v})
		r.Grant("lease", r.in(time.Minute))
		r.run()
		r.did("put eth0 10.0.0.10/32 ours 1m0s", "sync [10.0.0.10]")
		r.logged(`level=INFO msg="VIP added" vip=10.0.0.10 link=eth0`)
	}
	t.Run("an address that cannot be put is not announced", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.kernel.failing(errKernel, "put")
			r.Claim("cp", "lease", []VIP{v, on("10.0.0.11/32 eth0")})
			r.Grant("lease", r.in(time.Minute))
			r.run()
			r.settle(10 * time.Second)
			r.did()
			r.holds()
			r.kernel.failing(nil)
			r.settle(tick)
			r.did("put eth0 10.0.0.10/32 ours 49s", "put eth0 10.0.0.11/32 ours 49s", "sync [10.0.0.10 10.0.0.11]")
		})
	})
	t.Run("one that fails does not keep another from its place", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth7"), on("10.0.0.11/32 eth0")})
			r.Grant("lease", r.in(time.Minute))
			r.run()
			r.did("put eth0 10.0.0.11/32 ours 1m0s", "sync [10.0.0.11]")
			r.metrics(`kube_vip_vip_held{vip="10.0.0.10"} 0`, `kube_vip_vip_held{vip="10.0.0.11"} 1`)
		})
	})
	t.Run("one that cannot be renewed is held until its lifetime ends", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.Claim("cp", "lease", []VIP{v})
			r.run()
			r.Grant("lease", r.in(5*time.Second))
			r.settle(0)
			r.did("put eth0 10.0.0.10/32 ours 5s", "sync [10.0.0.10]")
			r.kernel.failing(errKernel, "put")
			r.Grant("lease", r.in(time.Hour))
			r.settle(4900 * time.Millisecond)
			r.holds(v)
			r.did()
			r.settle(200 * time.Millisecond)
			r.holds()
			r.did("sync []")
			r.logged(`level=INFO msg="VIP added" vip=10.0.0.10 link=eth0`,
				`level=WARN msg="VIP could not be put on its link" vip=10.0.0.10 link=eth0 err="add 10.0.0.10/32 to eth0: no buffer space available"`)
		})
	})
	t.Run("one that cannot be removed is told to who revokes", func(t *testing.T) {
		bubble(t, func(r *rig) {
			start(r)
			r.Claim("more", "other", []VIP{on("10.0.0.11/32 eth0")})
			r.kernel.failing(errKernel, "remove")
			err := r.Revoke("lease")(r.t.Context())
			if want := "remove 10.0.0.10/32 from eth0: no buffer space available"; !errors.Is(err, errKernel) || err.Error() != want {
				t.Errorf("revoke: %v, want %s", err, want)
			}
			if err := r.Revoke("other")(r.t.Context()); err != nil {
				t.Errorf("revoke of a mandate that has nothing to do with it: %v", err)
			}
			r.did("sync []")
			r.holds()
			r.settle(10 * time.Second)
			r.logged(`level=WARN msg="VIP could not be taken off its link" vip=10.0.0.10 link=eth0 err="remove 10.0.0.10/32 from eth0: no buffer space available"`)
			r.kernel.failing(nil)
			if err := r.Revoke("lease")(r.t.Context()); err != nil {
				t.Error(err)
			}
			r.did("remove eth0 10.0.0.10/32")
			r.node()
			r.logged(`level=INFO msg="VIP removed" vip=10.0.0.10 link=eth0`,
				`level=INFO msg=settled vip=10.0.0.10 link=eth0 was="remove 10.0.0.10/32 from eth0: no buffer space available"`)
		})
	})
	t.Run("a list that fails says nothing of one that could not be removed", func(t *testing.T) {
		bubble(t, func(r *rig) {
			start(r)
			r.kernel.failing(errKernel, "remove")
			r.Revoke("lease")
			r.settle(0)
			r.logged(`level=WARN msg="VIP could not be taken off its link" vip=10.0.0.10 link=eth0 err="remove 10.0.0.10/32 from eth0: no buffer space available"`)
			r.kernel.failing(errKernel, "list", "remove")
			r.settle(2 * tick)
			r.logged(`level=WARN msg="addresses could not be listed" err="list addresses: no buffer space available"`)
		})
	})
	t.Run("the list fails: mandates are kept and ended all the same", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.Claim("cp", "lease", []VIP{v})
			r.run()
			for range 10 {
				r.Grant("lease", r.in(3*time.Second))
				r.settle(time.Second)
				r.kernel.failing(errKernel, "list")
				r.holds(v)
				if !r.kernel.has(v) {
					t.Fatal("gone")
				}
			}
			err := r.Revoke("lease")(r.t.Context())
			if !errors.Is(err, errKernel) { // there may be more than is known of
				t.Errorf("revoke: %v, want %v", err, errKernel)
			}
			r.node()
			r.holds()
			if len(r.listener.announced()) != 0 {
				t.Errorf("announced: %v", r.listener.announced())
			}
		})
	})
	t.Run("a speaker that fails is reported once, and hinders nothing", func(t *testing.T) {
		bubble(t, func(r *rig) {
			start(r)
			r.listener.fail(errors.New("announce 10.0.0.10: no"))
			r.settle(10 * time.Second)
			r.logged(`level=WARN msg="VIPs could not be announced" err="announce 10.0.0.10: no"`)
			r.listener.fail(nil)
			r.settle(time.Second)
			r.logged(`level=INFO msg=settled was="announce 10.0.0.10: no"`)
			r.listener.fail(errors.New("announce 10.0.0.10: no"))
			if err := r.Revoke("lease")(r.t.Context()); err != nil {
				t.Error(err)
			}
			r.node()
		})
	})
	t.Run("an error that ends with its claim is over too", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth7")})
			r.Grant("lease", r.in(time.Minute))
			r.run()
			warning := `level=WARN msg="VIP could not be put on its link" vip=10.0.0.10 link=eth7 err="add 10.0.0.10/32 to eth7: no such interface"`
			r.logged(warning)
			r.Unclaim("cp")
			r.settle(0)
			r.logged() // it is over, and nothing was mended
			r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth7")})
			r.settle(0)
			r.logged(warning)
		})
	})
}

func TestRevokeWaits(t *testing.T) {
	bubble(t, func(r *rig) {
		r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth0")})
		r.Grant("lease", r.in(time.Minute))
		r.run()
		gate := make(chan struct{})
		r.kernel.faults(func(call string) error {
			if call == "remove" {
				<-gate
			}
			return nil
		})
		off := r.Revoke("lease")
		for range 3 {
			ctx, cancel := context.WithTimeout(r.t.Context(), 3*time.Second)
			if err := off(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "revoke lease: ") {
				t.Errorf("off: %v", err)
			}
			cancel()
		}
		ended := make(chan error, 1)
		go func() { ended <- off(r.t.Context()) }()
		synctest.Wait()
		close(gate)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		r.node()
	})
}

func TestRevokeDuringAPass(t *testing.T) {
	bubble(t, func(r *rig) {
		r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth0")})
		r.run()
		gate := make(chan struct{})
		r.kernel.faults(func(call string) error {
			if call == "put" {
				<-gate
			}
			return nil
		})
		r.Grant("lease", r.in(time.Minute))
		synctest.Wait() // the pass is about to put
		off := r.Revoke("lease")
		ended := make(chan error, 1)
		go func() { ended <- off(r.t.Context()) }()
		synctest.Wait()
		close(gate)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		r.node() // the pass that was under way has put it, and was not what off waited for
	})
}

func TestRevokeWithoutRun(t *testing.T) {
	bubble(t, func(r *rig) {
		r.run()
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		err := r.Revoke("lease")(r.t.Context())
		if want := "revoke lease: the table is not running"; err == nil || err.Error() != want {
			t.Errorf("revoke: %v, want %s", err, want)
		}
	})
}

// TestRevokeAndStop: who waits while Run ends gets the answer of its last pass.
func TestRevokeAndStop(t *testing.T) {
	for range 50 {
		bubble(t, func(r *rig) {
			r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth0")})
			r.Grant("lease", r.in(time.Minute))
			r.run()
			gate := make(chan struct{})
			r.kernel.faults(func(call string) error {
				if call == "list" {
					<-gate
				}
				return nil
			})
			r.Hint()
			time.Sleep(settle)
			synctest.Wait()
			off := r.Revoke("lease")
			ended := make(chan error, 1)
			go func() { ended <- off(r.t.Context()) }()
			stopped := make(chan error, 1)
			go func() { stopped <- r.stop() }()
			synctest.Wait()
			close(gate)
			if err := errors.Join(<-ended, <-stopped); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRunEnds(t *testing.T) {
	t.Run("everything is off", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.kernel.leave(on("10.0.0.13/32 eth0"), time.Hour)
			r.Claim("cp", "lease", both("eth0"))
			r.Claim("svc", "other", []VIP{on("10.0.0.12/32 eth1")})
			r.Claim("svc2", "undecided", []VIP{on("10.0.0.13/32 eth0")})
			r.Grant("lease", r.in(time.Minute))
			r.Grant("other", r.in(time.Minute))
			r.run()
			r.recorded()
			if err := r.stop(); err != nil {
				t.Error(err)
			}
			r.did("sync []", "remove eth0 10.0.0.13/32", "remove eth0 10.0.0.10/32", "remove eth1 10.0.0.12/32", "remove eth0 fd00::10/128")
			r.node()
			r.holds()
			// Nobody is listened to any more.
			r.Grant("lease", r.in(time.Minute))
			r.Claim("late", "lease", []VIP{on("10.0.0.14/32 eth0")})
			r.Hint()
			r.settle(10 * time.Second)
			r.did()
		})
	})
	t.Run("what cannot be removed is tried again", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.Claim("cp", "lease", both("eth0"))
			r.Grant("lease", r.in(time.Minute))
			r.run()
			r.kernel.faults(func(call string) error {
				if call == "remove" && r.kernel.count("remove") < 3 {
					return errKernel
				}
				return nil
			})
			if err := r.stop(); err != nil {
				t.Error(err)
			}
			r.node()
		})
	})
	t.Run("what stays is told, in less than a second", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth0")})
			r.Grant("lease", r.in(time.Minute))
			r.run()
			r.kernel.failing(errKernel, "remove")
			began := time.Now()
			err := r.stop()
			if want := "take every VIP off this node: remove 10.0.0.10/32 from eth0: no buffer space available"; err == nil || err.Error() != want {
				t.Errorf("run: %v, want %s", err, want)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("took %s", took)
			}
		})
	})
}

// TestStuck: a kernel that does not answer is seen from outside.
func TestStuck(t *testing.T) {
	bubble(t, func(r *rig) {
		if last := r.LastPass(); !last.IsZero() {
			t.Errorf("last pass before the first: %s", last)
		}
		r.Claim("cp", "lease", []VIP{on("10.0.0.10/32 eth0")})
		r.Grant("lease", r.in(time.Minute))
		r.run()
		r.settle(10 * time.Second)
		if silent := time.Since(r.LastPass()); silent > tick {
			t.Errorf("last pass %s ago", silent)
		}
		gate := make(chan struct{})
		r.kernel.faults(func(string) error { <-gate; return nil })
		r.settle(10 * time.Second)
		if silent := time.Since(r.LastPass()); silent < 9*time.Second {
			t.Errorf("stuck, and the last pass was %s ago", silent)
		}
		// Nobody who asks is held up.
		r.Claim("svc", "other", nil)
		r.Grant("other", r.in(time.Minute))
		r.Revoke("other")
		r.holds(on("10.0.0.10/32 eth0"))
		close(gate)
		synctest.Wait()
		if silent := time.Since(r.LastPass()); silent != 0 {
			t.Errorf("not stuck any more, and the last pass was %s ago", silent)
		}
	})
}

// TestStopped: the process was stopped (SIGSTOP, a frozen container) in the middle of a pass, beyond its mandate.
func TestStopped(t *testing.T) {
	for _, call := range []string{"list", "put"} {
		t.Run("before "+call, func(t *testing.T) {
			bubble(t, func(r *rig) {
				// One more than are put in one go.
				var vips []VIP
				for i := range batchSize + 1 {
					vips = append(vips, on(fmt.Sprintf("10.0.0.%d/32 eth0", 10+i)))
				}
				last := vips[batchSize].String()
				r.Claim("cp", "lease", vips)
				r.run()
				stopped := false
				r.kernel.faults(func(c string) error {
					if c == call && !stopped {
						stopped = true
						time.Sleep(6 * time.Second)
					}
					return nil
				})
				r.Grant("lease", r.in(5*time.Second))
				r.settle(6 * time.Second)
				r.node()
				r.holds()
				for _, line := range r.recorded() {
					// Nothing helps against a stop between the look at the clock and the put itself.
					if strings.HasPrefix(line, "put") && (call == "list" || strings.Contains(line, last)) {
						t.Errorf("put after the mandate's end: %s", line)
					}
					if strings.HasPrefix(line, "sync [1") {
						t.Errorf("announced after the mandate's end: %s", line)
					}
				}
			})
		})
	}
}

func TestIdle(t *testing.T) {
	bubble(t, func(r *rig) {
		r.Claim("cp", "lease", both("eth0"))
		r.Grant("lease", r.in(2*time.Hour))
		r.run()
		before := r.kernel.count("list")
		r.settle(time.Hour)
		if n := r.kernel.count("list") - before; n > 725 {
			t.Errorf("%d comparisons in an hour", n)
		}
		if n := r.kernel.count("put"); n > 5 {
			t.Errorf("%d puts in an hour", n)
		}
	})
}

// TestConcurrency is for the race detector; what is there in the end must be what was said last.
func TestConcurrency(t *testing.T) {
	bubble(t, func(r *rig) {
		r.run()
		var work sync.WaitGroup
		for i := range 8 {
			work.Go(func() {
				owner, mandate := fmt.Sprint("owner", i), fmt.Sprint("mandate", i)
				v := VIP{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), 32), Link: "eth0"}
				random := rand.New(rand.NewPCG(1, uint64(i)))
				for range 200 {
					switch random.IntN(6) {
					case 0:
						r.Claim(owner, mandate, []VIP{v})
					case 1:
						r.Unclaim(owner)
					case 2:
						r.Grant(mandate, r.in(time.Duration(random.IntN(3000))*time.Millisecond))
					case 3:
						if err := r.Revoke(mandate)(r.t.Context()); err != nil {
							t.Error(err)
						}
						if err := absent(r.kernel, v); err != nil {
							t.Error(err)
						}
					case 4:
						r.Hint()
						r.kernel.delAddress("eth0", v.Prefix)
					case 5:
						r.Holding()
						r.LastPass()
						time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
					}
				}
				r.Claim(owner, mandate, []VIP{v})
				if i%2 == 0 {
					r.Grant(mandate, r.in(time.Minute))
				} else {
					r.Revoke(mandate)
				}
			})
		}
		work.Wait()
		r.settle(settle)
		if got := len(r.Holding()); got != 4 {
			t.Errorf("holding %d VIPs, want 4", got)
		}
		if got := len(r.kernel.ours()); got != 4 {
			t.Errorf("%d addresses, want 4:\n%s", got, r.kernel)
		}
	})
}

// TestAwait: what an earlier life left stays while somebody has claims to make, and goes when nobody has made it.
func TestAwait(t *testing.T) {
	bubble(t, func(r *rig) {
		v, service, gone := on("10.0.0.10/32 eth0"), on("10.0.0.101/32 eth0"), on("10.0.0.102/32 eth0")
		r.kernel.leave(service, 4*time.Second)
		r.kernel.leave(gone, 4*time.Second)
		first, second := r.Await(), r.Await()
		r.run()
		r.Claim("cp", "cp-lock", []VIP{v})
		r.Grant("cp-lock", r.in(time.Minute))
		r.settle(500 * time.Millisecond)
		r.Claim("svc/web", "svc-lock", []VIP{service}) // of which nothing is known yet
		first()
		first() // counts once
		r.settle(500 * time.Millisecond)
		for _, one := range []VIP{service, gone} {
			if !r.kernel.has(one) {
				t.Errorf("%s went before all claims were made", one)
			}
		}
		second()
		r.settle(100 * time.Millisecond)
		if !r.kernel.has(service) || r.kernel.has(gone) {
			t.Errorf("%s is there: %t; %s, which nobody claims: %t", service, r.kernel.has(service), gone, r.kernel.has(gone))
		}
	})
}
