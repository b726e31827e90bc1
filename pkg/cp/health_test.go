package cp

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// each is one observation of a judge's test: repeated n times, one period apart.
type each struct {
	n     int
	fault string
	want  verdict // after the last of them
}

func TestJudge(t *testing.T) {
	const period = 200 * time.Millisecond
	const down = "refused"
	// flap makes a judge that is healthy lose its health once more, and get it back after exactly this many
	// successes.
	flap := func(successes int) []each {
		return []each{{2, down, unhealthy}, {successes - 1, "", unhealthy}, {1, "", healthy}}
	}
	tests := []struct {
		name  string
		steps []each
	}{
		{"the very first success counts", []each{{0, "", unknown}, {1, "", healthy}}},
		{"the first success counts however late it comes", []each{{1, down, unknown}, {1, down, unhealthy}, {500, down, unhealthy}, {1, "", healthy}}},
		{"one failure is nothing", []each{{1, "", healthy}, {1, down, healthy}, {1, "", healthy}, {1, down, healthy}, {1, "", healthy}}},
		{"two failures in a row are a fall", []each{{1, "", healthy}, {1, down, healthy}, {1, down, unhealthy}}},
		{"three successes in a row are a rise", []each{{1, "", healthy}, {2, down, unhealthy}, {2, "", unhealthy}, {1, "", healthy}}},
		{"a failure starts the rise again", []each{{1, "", healthy}, {2, down, unhealthy}, {2, "", unhealthy}, {1, down, unhealthy}, {2, "", unhealthy}, {1, "", healthy}}},
		{"a flap doubles the time to rise", concat(
			[]each{{1, "", healthy}}, flap(3), // the first loss is no flap
			flap(7),  // 1.2 s are six periods
			flap(13), // 2.4 s
			flap(25), // 4.8 s
			flap(49), flap(97),
			flap(151), flap(151), // 30 s and no more
		)},
		{"a minute of health ends the damping", concat(
			[]each{{1, "", healthy}}, flap(3), flap(7), flap(13),
			[]each{{300, "", healthy}}, flap(3), flap(7),
		)},
		{"damping does not end in illness", concat(
			[]each{{1, "", healthy}}, flap(3), flap(7), []each{{2, down, unhealthy}, {1000, down, unhealthy}, {12, "", unhealthy}, {1, "", healthy}},
		)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := judge{fall: 2, rise: 3, period: period}
			now := time.Unix(1000, 0)
			for i, s := range tt.steps {
				for range s.n {
					before := j.verdict
					changed := j.observe(now, s.fault)
					if changed != (j.verdict != before) {
						t.Fatalf("step %d: observe said changed=%v for %v after %v", i, changed, j.verdict, before)
					}
					now = now.Add(period)
				}
				if j.verdict != s.want {
					t.Fatalf("step %d (%d × %q): verdict %v, want %v", i, s.n, s.fault, j.verdict, s.want)
				}
				if (j.fault != "") != (j.verdict == unhealthy) {
					t.Fatalf("step %d: fault %q with verdict %v", i, j.fault, j.verdict)
				}
			}
		})
	}
}

func concat(lists ...[]each) (all []each) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// A link's judge falls at once and rises at once, but for flaps.
func TestJudgeOfLinks(t *testing.T) {
	j := judge{fall: 1, rise: 1, period: time.Second}
	now := time.Unix(1000, 0)
	at := func(d time.Duration, fault string, want verdict) {
		t.Helper()
		now = now.Add(d)
		j.observe(now, fault)
		if j.verdict != want {
			t.Errorf("%q at +%s: verdict %v, want %v", fault, d, j.verdict, want)
		}
	}
	at(0, "", healthy)
	at(time.Second, "down", unhealthy)
	at(time.Second, "", healthy)
	at(time.Second, "down", unhealthy) // a flap: 2 s
	at(time.Millisecond, "", unhealthy)
	at(1999*time.Millisecond, "", unhealthy)
	at(time.Millisecond, "", healthy)
}

// Whatever happens, the judge keeps to what was promised of it.
func TestJudgeRandomWalk(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	for walk := range 300 {
		fall, rise := 1+rnd.IntN(4), 1+rnd.IntN(4)
		period := time.Duration(50+rnd.IntN(500)) * time.Millisecond
		j := judge{fall: fall, rise: rise, period: period}
		now := time.Unix(1000, 0)
		ill := rnd.Float64() * 0.6

		failures, successes, risen := 0, 0, false
		var wellSince time.Time
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("seed %d, walk %d: %s", seed, walk, fmt.Sprintf(format, args...))
		}
		for range 2000 {
			now = now.Add(time.Duration(rnd.Int64N(int64(2 * period))))
			before, fault := j.verdict, ""
			if rnd.Float64() < ill {
				fault = "ill"
				failures, successes = failures+1, 0
			} else {
				if successes == 0 {
					wellSince = now
				}
				failures, successes = 0, successes+1
			}
			j.observe(now, fault)

			switch {
			case j.verdict != unhealthy && failures >= fall:
				fail("%d failures and not unhealthy", failures)
			case j.verdict == unhealthy && before != unhealthy && failures != fall:
				fail("fell after %d failures, want %d", failures, fall)
			case j.verdict == healthy && before != healthy && risen && successes < rise:
				fail("rose after %d successes, want %d", successes, rise)
			case j.verdict != healthy && successes >= rise && now.Sub(wellSince) >= maxRise:
				fail("did not rise within %s", maxRise)
			case j.verdict != healthy && successes >= 1 && !risen:
				fail("the first success did not count")
			case j.verdict == unknown && before != unknown:
				fail("forgot its verdict")
			}
			risen = risen || j.verdict == healthy
		}
	}
}

// saidPrefix begins a fault that the server itself told.
const saidPrefix = "said "

// A fakeProber answers as told and takes its time.
type fakeProber struct {
	answer func(n int) (fault string, took time.Duration)
	hint   chan struct{}
	asked  []time.Duration // since the start
	start  time.Time
	busy   bool
	closed bool
	t      *testing.T
}

func newFakeProber(t *testing.T, answer func(n int) (string, time.Duration)) *fakeProber {
	return &fakeProber{answer: answer, hint: make(chan struct{}, 1), start: time.Now(), t: t}
}

func (f *fakeProber) probe(ctx context.Context) answer {
	if f.busy {
		f.t.Error("two probes at a time")
	}
	f.busy = true
	defer func() { f.busy = false }()
	f.asked = append(f.asked, time.Since(f.start))
	fault, took := f.answer(len(f.asked))
	select {
	case <-time.After(took):
	case <-ctx.Done():
	}
	return answer{fault: fault, said: strings.HasPrefix(fault, saidPrefix), took: took}
}

func (f *fakeProber) wait(ctx context.Context, until time.Time) {
	select {
	case <-time.After(time.Until(until)):
	case <-f.hint:
	case <-ctx.Done():
	}
}

func (f *fakeProber) close() { f.closed = true }

func TestProbeEvery(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		name   string
		answer func(n int) (string, time.Duration)
		hintAt time.Duration
		run    time.Duration
		want   []time.Duration
	}{
		{
			name:   "one a period",
			answer: func(int) (string, time.Duration) { return "", 5 * ms },
			run:    900 * ms,
			want:   []time.Duration{0, 200 * ms, 400 * ms, 600 * ms, 800 * ms},
		},
		{
			name: "a server that hangs is asked again at once",
			answer: func(n int) (string, time.Duration) {
				if n > 1 {
					return "no answer", 1000 * ms
				}
				return "", ms
			},
			run:  2300 * ms,
			want: []time.Duration{0, 200 * ms, 1200 * ms, 2200 * ms},
		},
		{
			name: "a long probe is not made up for",
			answer: func(n int) (string, time.Duration) {
				if n == 2 {
					return "no answer", 1000 * ms
				}
				return "", ms
			},
			run:  1700 * ms,
			want: []time.Duration{0, 200 * ms, 1200 * ms, 1400 * ms, 1600 * ms},
		},
		{
			name:   "a hint brings the next probe forward",
			answer: func(int) (string, time.Duration) { return "", ms },
			hintAt: 250 * ms,
			run:    700 * ms,
			want:   []time.Duration{0, 200 * ms, 250 * ms, 450 * ms, 650 * ms},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), tt.run)
				defer cancel()
				p := newFakeProber(t, tt.answer)
				if tt.hintAt > 0 {
					time.AfterFunc(tt.hintAt, func() { p.hint <- struct{}{} })
				}
				taken := 0
				probeEvery(ctx, 200*ms, p, func(answer) { taken++ })
				if taken < len(p.asked)-1 {
					t.Errorf("%d answers to %d probes", taken, len(p.asked))
				}
				if diff := cmp.Diff(tt.want, p.asked); diff != "" {
					t.Errorf("probes at (-want +got):\n%s", diff)
				}
				if !p.closed {
					t.Error("the prober was not closed")
				}
			})
		})
	}
}

// body is what kube-apiserver says when etcd is gone.
const body = `[+]ping ok
[+]log ok
[-]etcd failed: reason withheld
[+]poststarthook/start-apiserver-admission-initializer ok
[-]poststarthook/rbac/bootstrap-roles failed: reason withheld
livez check failed
`

func TestFailedChecks(t *testing.T) {
	tests := []struct {
		name, body string
		want       []string
	}{
		{"kube-apiserver's", body, []string{"etcd", "poststarthook/rbac/bootstrap-roles"}},
		{"empty", "", nil},
		{"no list", "Internal Server Error", nil},
		{"carriage returns", "[-]etcd failed\r\n[-]ping failed\r\n", []string{"etcd", "ping"}},
		{"no name", "[-]\n[-] failed\n", nil},
		{"twice", "[-]etcd a\n[-]etcd b\n", []string{"etcd"}},
		{"not a name", "[-]\x1b[31metcd failed\n[-]a\"b failed\n", nil},
		{"long", "[-]" + strings.Repeat("x", 65) + " failed", nil},
		{"many", "[-]a\n[-]b\n[-]c\n[-]d\n[-]e\n[-]f\n", []string{"a", "b", "c", "d", "e"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, failedChecks(tt.body)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzFailedChecks(f *testing.F) {
	f.Add(body)
	f.Add("[-]")
	f.Add("[-]\xff failed\r\n[-]a\x00b c\n")
	f.Fuzz(func(t *testing.T, s string) {
		names := failedChecks(s)
		if len(names) > 5 {
			t.Errorf("%d names", len(names))
		}
		for _, n := range names {
			if n == "" || len(n) > 64 || strings.ContainsFunc(n, func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Errorf("name %q", n)
			}
		}
	})
}
