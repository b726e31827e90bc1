package ha

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

var fast = Timing{Lease: 5 * time.Second, Renew: 3 * time.Second, Retry: time.Second}

// notebook is a Granter that writes down what it is told, and a log.
type notebook struct {
	mu       sync.Mutex // guards the fields below
	said     []string
	offErr   error
	hang     bool // addresses never come off
	offTakes time.Duration
	text     bytes.Buffer
}

// fail has addresses not come off, or late.
func (n *notebook) fail(err error, takes time.Duration, never bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.offErr, n.offTakes, n.hang = err, takes, never
}

func (n *notebook) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(b)
}

func (n *notebook) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(n, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// count is how often the log has a line with all the parts.
func (n *notebook) count(parts ...string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for line := range strings.Lines(n.text.String()) {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			count++
		}
	}
	return count
}

func (n *notebook) note(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.said) == 0 || n.said[len(n.said)-1] != s {
		n.said = append(n.said, s)
	}
}

func (n *notebook) list() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.said)
}

func (n *notebook) Grant(mandate string, until time.Time) {
	if left := time.Until(until); left <= 0 || left > 3*time.Second {
		n.note(fmt.Sprintf("grant %s for %s", mandate, left))
		return
	}
	n.note("grant " + mandate)
}

func (n *notebook) Revoke(mandate string) func(context.Context) error {
	n.note("revoke " + mandate)
	return func(ctx context.Context) error {
		n.mu.Lock()
		err, hang, takes := n.offErr, n.hang, n.offTakes
		n.mu.Unlock()
		if hang {
			<-ctx.Done()
			return ctx.Err()
		}
		time.Sleep(takes + time.Millisecond)
		if err == nil {
			n.note("off " + mandate)
		}
		return err
	}
}

// candidate is an Election that runs.
type candidate struct {
	*Election
	*notebook
	client *apiClient
	cancel context.CancelFunc
	result chan error
}

func (c *candidate) stop(t *testing.T) error {
	t.Helper()
	c.cancel()
	return <-c.result
}

func run(t *testing.T, s *apiServer, name string, change func(*Options)) *candidate {
	t.Helper()
	c := &candidate{notebook: &notebook{}, client: newAPIClient(s, 1, nil), result: make(chan error, 1)}
	o := Options{Namespace: simNamespace, Name: simLease, Identity: name, Timing: fast,
		Renewals: c.client, Watches: c.client, Granter: c.notebook, Log: c.notebook.log()}
	if change != nil {
		change(&o)
	}
	c.Election = NewElection(o)
	ctx, cancel := context.WithCancel(t.Context())
	c.cancel = cancel
	go func() {
		c.result <- c.Run(ctx)
		close(c.result)
	}()
	t.Cleanup(func() { c.stop(t) })
	return c
}

// bubble runs f in virtual time, and lets what is on its way to the API server arrive.
func bubble(t *testing.T, f func(*testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(5 * time.Second) })
		f(t)
	})
}

// left lists the goroutines of this package's program that still run.
func left() (list []string) {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for g := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(g, "ha.(*Election)") || strings.Contains(g, "ha.(*Members)") || strings.Contains(g, "ha.follow") {
			list = append(list, g)
		}
	}
	return list
}

func holderOf(s *apiServer) string {
	l, err := s.get(simKey)
	if err != nil || l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}

func wantSaid(t *testing.T, n *notebook, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, n.list()); diff != "" {
		t.Errorf("the Granter was told (-want +got):\n%s", diff)
	}
}

func TestElectionLogsAndMetrics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		registry := prometheus.NewRegistry()
		var led, next []Lead
		first := run(t, s, "node-1", func(o *Options) {
			o.Registerer, o.Led = registry, func(l Lead) { led = append(led, l) }
			o.Annotations = map[string]string{"kube-vip.io/x": "y"}
		})
		time.Sleep(500 * time.Millisecond)
		second := run(t, s, "node-2", func(o *Options) { o.Led = func(l Lead) { next = append(next, l) } })
		time.Sleep(2 * time.Second)

		lease, err := s.get(simKey)
		if err != nil || *lease.Spec.HolderIdentity != "node-1" || lease.Annotations["kube-vip.io/x"] != "y" {
			t.Fatalf("Lease %v, %v; want node-1's with its annotation", lease, err)
		}
		metrics := gather(t, registry)
		if metrics[`kube_vip_is_leader{lease_name=plndr-cp-lock,node=node-1}`] != 1 ||
			metrics[`kube_vip_leader_election_transitions_total{lease_name=plndr-cp-lock}`] != 1 ||
			metrics[`kube_vip_lease_renew_duration_seconds{lease_name=plndr-cp-lock}`] != 3 {
			t.Errorf("metrics while it holds: %v", metrics)
		}
		if err := first.stop(t); err != nil {
			t.Errorf("stop: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
		if got := holderOf(s); got != "node-2" {
			t.Errorf("100 ms after the holder stopped the Lease is %q's", got)
		}
		if metrics := gather(t, registry); metrics[`kube_vip_is_leader{lease_name=plndr-cp-lock,node=node-1}`] != 0 {
			t.Errorf("metrics after it stopped: %v", metrics)
		}
		wantSaid(t, first.notebook, "revoke plndr-cp-lock", "off plndr-cp-lock", "grant plndr-cp-lock", "revoke plndr-cp-lock", "off plndr-cp-lock")
		wantSaid(t, second.notebook, "revoke plndr-cp-lock", "off plndr-cp-lock", "grant plndr-cp-lock")
		if diff := cmp.Diff([]Lead{{Held: true, Why: Founded}, {}}, led); diff != "" {
			t.Errorf("Led (-want +got):\n%s", diff)
		}
		if len(next) != 1 || next[0].From != "node-1" || next[0].Why != Released || next[0].Silent <= 0 || next[0].Silent > 100*time.Millisecond {
			t.Errorf("the next one was told %+v", next)
		}
		if err := second.stop(t); err != nil {
			t.Errorf("stop: %v", err)
		}

		for _, want := range []struct {
			on    *candidate
			count int
			parts []string
		}{
			{first, 1, []string{"level=INFO", `msg="Beginning cluster membership"`, "namespace=kube-system", "lock=plndr-cp-lock", "id=node-1", "lease=kube-system/plndr-cp-lock"}},
			{second, 1, []string{"level=INFO", `msg="new leader elected: node-1"`, "node=node-1"}},
			{second, 1, []string{"level=INFO", `msg="new leader elected: node-2"`, "node=node-2"}},
			{second, 1, []string{"level=INFO", `msg="this node holds the Lease"`, "node=node-2"}},
			{first, 1, []string{"level=INFO", `msg="this node does not hold the Lease any more"`, "why=stopping"}},
			{first, 0, []string{"level=WARN"}},
			{second, 0, []string{"level=WARN"}},
		} {
			if got := want.on.count(want.parts...); got != want.count {
				t.Errorf("%d log lines with %q, want %d; all:\n%s", got, want.parts, want.count, want.on.text.String())
			}
		}
		if left := left(); len(left) > 0 {
			t.Errorf("after Run returned there run still:\n%s", strings.Join(left, "\n\n"))
		}
	})
}

// gather is every metric's value by name and labels; of a histogram, the count.
func gather(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			values[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}

func TestTwoElectionsInOneProcess(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		registry := prometheus.NewRegistry()
		cp := run(t, s, "node-1", func(o *Options) { o.Registerer = registry })
		svc := run(t, s, "node-1", func(o *Options) { o.Registerer, o.Name, o.Granter = registry, "plndr-svcs-lock", cp.notebook })
		time.Sleep(time.Second)
		svc.SetHealth(Unable, "link eth1 is down")
		time.Sleep(time.Second)
		metrics := gather(t, registry)
		if metrics[`kube_vip_is_leader{lease_name=plndr-cp-lock,node=node-1}`] != 1 || metrics[`kube_vip_is_leader{lease_name=plndr-svcs-lock,node=node-1}`] != 0 {
			t.Errorf("one of two is to lead: %v", metrics)
		}
		if err := errors.Join(cp.stop(t), svc.stop(t)); err != nil {
			t.Error(err)
		}
		var services []string
		for _, s := range cp.list() {
			if strings.HasSuffix(s, "plndr-svcs-lock") {
				services = append(services, s)
			}
		}
		if diff := cmp.Diff([]string{"revoke plndr-svcs-lock", "off plndr-svcs-lock", "grant plndr-svcs-lock", "revoke plndr-svcs-lock", "off plndr-svcs-lock"}, services); diff != "" {
			t.Errorf("the Granter was told (-want +got):\n%s", diff)
		}
	})
}

func TestElectionStops(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(*candidate) // while it holds
		within time.Duration
		err    string
		holder string
	}{
		{"well", func(*candidate) {}, 30 * time.Millisecond, "", ""},
		{"the API is slow", func(c *candidate) { c.client.slow(400 * time.Millisecond) }, 850 * time.Millisecond, "", ""},
		{"the API refuses", func(c *candidate) { c.client.set(refused) }, stopDeadline, "left to expire", "node-1"},
		{"the API hangs", func(c *candidate) { c.client.set(hangs) }, stopDeadline, "left to expire", "node-1"},
		{"answers are lost", func(c *candidate) { c.client.set(lossy) }, stopDeadline, "left to expire", ""},
		{"the address does not come off", func(c *candidate) { c.fail(errors.New("operation not permitted"), 0, false) }, stopDeadline, "left to expire", "node-1"},
		{"the address never comes off", func(c *candidate) { c.fail(nil, 0, true) }, stopDeadline, "left to expire", "node-1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newAPIServer()
				c := run(t, s, "node-1", nil)
				time.Sleep(2500 * time.Millisecond)
				tt.before(c)
				began := time.Now()
				err := c.stop(t)
				if d := time.Since(began); d > tt.within {
					t.Errorf("took %s, want %s at most", d, tt.within)
				}
				if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
					t.Errorf("Run returned %v, want %q", err, tt.err)
				}
				time.Sleep(time.Second)
				if got := holderOf(s); got != tt.holder {
					t.Errorf("the Lease is %q's, want %q", got, tt.holder)
				}
				if said := c.list(); !slices.Contains(said[2:], "revoke "+simLease) {
					t.Errorf("nothing was revoked: %v", said)
				}
			})
		})
	}
}

func TestElectionStopsBeforeItKnowsAnything(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := run(t, newAPIServer(), "node-1", func(o *Options) { o.Renewals.(*apiClient).set(hangs) })
		time.Sleep(500 * time.Millisecond)
		began := time.Now()
		if err := c.stop(t); err != nil || time.Since(began) > 10*time.Millisecond {
			t.Errorf("stopped after %s: %v", time.Since(began), err)
		}
		// What an earlier life has left is taken off.
		wantSaid(t, c.notebook, "revoke plndr-cp-lock", "off plndr-cp-lock")
	})
}

// A claim that was accepted although its answer was lost is not left behind by one that stops.
func TestElectionStopsWithAClaimUnderWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		c := run(t, s, "node-1", func(o *Options) { o.AwaitHealth = true })
		time.Sleep(time.Second)
		c.client.set(lossy)
		c.SetHealth(Healthy, "")
		time.Sleep(500 * time.Millisecond)
		if got := holderOf(s); got != "node-1" || slices.Contains(c.list(), "grant plndr-cp-lock") {
			t.Fatalf("the Lease is %q's, the Granter was told %v; want a claim without an answer", got, c.list())
		}
		c.client.set(up)
		began := time.Now()
		if err := c.stop(t); err != nil || time.Since(began) > 50*time.Millisecond {
			t.Errorf("stopped after %s: %v", time.Since(began), err)
		}
		if got := holderOf(s); got != "" {
			t.Errorf("the Lease is left to %q", got)
		}
	})
}

// hangingUpdates is a client whose updates hang, from some time on, for one call.
type hangingUpdates struct {
	coordinationclient.LeasesGetter
	mu   sync.Mutex
	hang bool
}

func (h *hangingUpdates) Leases(namespace string) coordinationclient.LeaseInterface {
	return hangingLeases{h.LeasesGetter.Leases(namespace), h}
}

type hangingLeases struct {
	coordinationclient.LeaseInterface
	h *hangingUpdates
}

func (l hangingLeases) Update(ctx context.Context, lease *coordinationv1.Lease, o metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	l.h.mu.Lock()
	hang := l.h.hang
	l.h.hang = false
	l.h.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return l.LeaseInterface.Update(ctx, lease, o)
}

// The API server of the holder hangs, and with it a renewal; the next request is answered by another one. The
// Lease is given up as soon as the node is known to be unhealthy, not when the renewal's time is up.
func TestElectionGivesUpWhileARenewalHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		h := &hangingUpdates{}
		c := run(t, s, "node-1", func(o *Options) { h.LeasesGetter = o.Renewals; o.Renewals = h })
		time.Sleep(100 * time.Millisecond)
		other := run(t, s, "node-2", nil)
		time.Sleep(1500 * time.Millisecond)
		if holderOf(s) != "node-1" {
			t.Fatal("node-1 is to hold first")
		}
		h.mu.Lock()
		h.hang = true
		h.mu.Unlock()
		time.Sleep(600 * time.Millisecond) // the renewal hangs now
		c.SetHealth(Unable, "the API server does not answer")
		time.Sleep(100 * time.Millisecond)
		if got := holderOf(s); got != "node-2" {
			t.Errorf("100 ms later the Lease is %q's", got)
		}
		if err := errors.Join(c.stop(t), other.stop(t)); err != nil {
			t.Error(err)
		}
		if n := c.count("level=WARN"); n > 0 {
			t.Errorf("a renewal that we ended ourselves was logged:\n%s", c.text.String())
		}
	})
}

// One renewal that hangs costs no mandate: there is time for another.
func TestElectionSurvivesOneHangingRenewal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		h := &hangingUpdates{}
		c := run(t, s, "node-1", func(o *Options) { h.LeasesGetter = o.Renewals; o.Renewals = h })
		time.Sleep(1500 * time.Millisecond)
		h.mu.Lock()
		h.hang = true
		h.mu.Unlock()
		time.Sleep(10 * time.Second)
		wantSaid(t, c.notebook, "revoke plndr-cp-lock", "off plndr-cp-lock", "grant plndr-cp-lock")
		if c.count(`msg="could not renew the Lease; trying again"`, "level=WARN") != 1 || c.count(`msg="the API answers for the Lease again"`, "level=INFO") != 1 {
			t.Errorf("want one line when it fails and one when it works:\n%s", c.text.String())
		}
		if err := c.stop(t); err != nil {
			t.Error(err)
		}
	})
}

// A slow API is not a lost mandate.
func TestElectionHoldsWhileTheAPIIsSlow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		c := run(t, s, "node-1", nil)
		other := run(t, s, "node-2", nil)
		time.Sleep(1500 * time.Millisecond)
		holder, waits := c, other
		if holderOf(s) == "node-2" {
			holder, waits = other, c
		}
		holder.client.slow(1400 * time.Millisecond)
		waits.client.slow(1400 * time.Millisecond)
		time.Sleep(time.Minute)
		wantSaid(t, holder.notebook, "revoke plndr-cp-lock", "off plndr-cp-lock", "grant plndr-cp-lock")
		if n := holder.count("level=WARN") + waits.count("level=WARN"); n > 0 {
			t.Errorf("%d warnings:\n%s%s", n, c.text.String(), other.text.String())
		}
		if err := errors.Join(waits.stop(t), holder.stop(t)); err != nil {
			t.Error(err)
		}
	})
}

// The watch of a follower shows nothing any more although its connection is up. It finds out and begins a new one.
func TestElectionBeginsASilentWatchAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		watches := newAPIClient(s, 7, nil)
		follower := run(t, s, "node-1", func(o *Options) { o.Watches, o.AwaitHealth = watches, true })
		follower.SetHealth(Unable, "for now")
		holder := run(t, s, "node-2", nil)
		time.Sleep(2 * time.Second)
		watches.set(deaf)
		before := watches.count()
		time.Sleep(12 * time.Second) // the second one is silent from its beginning
		watches.set(up)
		if after := watches.count(); after["watch"] != before["watch"]+2 || after["list"] != before["list"]+2 {
			t.Errorf("%v calls after %v; want two more lists and watches", after, before)
		}
		if n := follower.count("the watch was silent for too long"); n != 2 {
			t.Errorf("said %d times, want twice:\n%s", n, follower.text.String())
		}
		steady := watches.count()
		time.Sleep(time.Minute)
		if diff := cmp.Diff(steady, watches.count()); diff != "" {
			t.Errorf("calls while all is well (-before +after):\n%s", diff)
		}
		if err := errors.Join(follower.stop(t), holder.stop(t)); err != nil {
			t.Error(err)
		}
	})
}

// TestElectionVacant: nobody holds a Lease that is not there, was given up, or has expired, and one who has not seen
// it yet does not say so.
func TestElectionVacant(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		blind := newAPIClient(s, 7, nil)
		blind.set(refused)
		follower := run(t, s, "node-1", func(o *Options) { o.AwaitHealth = true })
		stranger := run(t, s, "node-3", func(o *Options) { o.Watches, o.Renewals, o.AwaitHealth = blind, blind, true })
		follower.SetHealth(Unable, "for now")
		stranger.SetHealth(Unable, "for now")
		expect := func(when string, want bool) {
			t.Helper()
			if got := follower.Vacant(); got != want {
				t.Errorf("%s it is vacant: %t, want %t", when, got, want)
			}
			if stranger.Vacant() {
				t.Errorf("%s one who has not seen it calls it vacant", when)
			}
		}
		expect("before it was seen", false)
		time.Sleep(time.Second)
		expect("while it is not there", true)
		holder := run(t, s, "node-2", nil)
		time.Sleep(time.Minute)
		expect("while it is held", false)
		if err := holder.stop(t); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		expect("when it was given up", true)
		holder = run(t, s, "node-2", nil)
		time.Sleep(10 * time.Second)
		expect("while it is held again", false)
		holder.client.set(refused)
		time.Sleep(fast.Renew)
		expect("while it may yet be renewed", false)
		time.Sleep(fast.Lease)
		expect("when it has expired", true)
		holder.client.set(up)
		if err := errors.Join(holder.stop(t), follower.stop(t), stranger.stop(t)); err != nil {
			t.Error(err)
		}
	})
}

// A Lease that was deleted while the watch was broken is missed by the list that follows.
func TestElectionMakesTheLeaseAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		watches := newAPIClient(s, 7, nil)
		c := run(t, s, "node-1", func(o *Options) {
			o.Watches, o.Timing = watches, Timing{Lease: 60 * time.Second, Renew: 40 * time.Second, Retry: 10 * time.Second}
		})
		time.Sleep(time.Second)
		watches.cut()
		time.Sleep(time.Millisecond)
		if err := s.delete(simKey); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // the next renewal would be in 8 s
		if got := holderOf(s); got != "node-1" {
			t.Errorf("the Lease is %q's", got)
		}
		if said := c.list(); slices.Contains(said[2:], "revoke "+simLease) {
			t.Errorf("the holder let go: %v", said)
		}
	})
}

// Nobody says whether a watch begins: it is asked for again.
func TestElectionBeginsAWatchThatIsNotAnswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		watches := newAPIClient(s, 7, nil)
		c := run(t, s, "node-1", func(o *Options) {
			o.Watches, o.Timing = watches, Timing{Lease: 60 * time.Second, Renew: 40 * time.Second, Retry: 10 * time.Second}
		})
		time.Sleep(time.Second)
		watches.cut()
		watches.slow(time.Second)
		time.Sleep(time.Millisecond)
		before := watches.count()
		for watches.count()["watch"] == before["watch"] {
			time.Sleep(time.Millisecond)
		}
		watches.set(lossy) // there is no answer within the same millisecond
		time.Sleep(time.Second)
		watches.set(up)
		watches.slow(wellLatency)
		time.Sleep(watchTimeout + time.Second)
		if after := watches.count(); after["watch"] != before["watch"]+2 {
			t.Errorf("%v calls after %v; want one watch more than the one that was lost", after, before)
		}
		if err := c.stop(t); err != nil {
			t.Error(err)
		}
	})
}

// etcd is set back to a backup: resource versions are lower than those that everybody has seen.
func TestElectionSurvivesARestoredEtcd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		holder := run(t, s, "node-1", nil)
		time.Sleep(time.Second)
		follower := run(t, s, "node-2", nil)
		backup, err := s.get(simKey)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		s.restore(120, backup)
		time.Sleep(time.Minute)
		wantSaid(t, holder.notebook, "revoke plndr-cp-lock", "off plndr-cp-lock", "grant plndr-cp-lock")
		wantSaid(t, follower.notebook, "revoke plndr-cp-lock", "off plndr-cp-lock")
		if err := holder.stop(t); err != nil {
			t.Error(err)
		}
		time.Sleep(100 * time.Millisecond)
		if got := holderOf(s); got != "node-2" {
			t.Errorf("given up, and not taken: the Lease is %q's", got)
		}
	})
}

// The answer to a Revoke comes when the mandate has been granted again: it says nothing any more.
func TestElectionIgnoresALateAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		c := run(t, s, "node-1", nil)
		time.Sleep(1500 * time.Millisecond)
		c.fail(errors.New("operation not permitted"), 2*time.Second, false)
		c.SetHealth(Unable, "for a moment")
		time.Sleep(100 * time.Millisecond)
		c.SetHealth(Healthy, "")
		c.fail(nil, 0, false)
		time.Sleep(10 * time.Second)
		if n := c.count("could not be taken off"); n > 0 {
			t.Errorf("complained %d times:\n%s", n, c.text.String())
		}
		wantSaid(t, c.notebook, "revoke plndr-cp-lock", "off plndr-cp-lock", "grant plndr-cp-lock", "revoke plndr-cp-lock", "grant plndr-cp-lock")
	})
}

func TestSetHealthBeforeRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		n := &notebook{}
		client := newAPIClient(s, 1, nil)
		e := NewElection(Options{Namespace: simNamespace, Name: simLease, Identity: "node-1", Timing: fast,
			Renewals: client, Watches: client, Granter: n, AwaitHealth: true, Log: n.log()})
		e.SetHealth(Unhealthy, "first word")
		e.SetHealth(Healthy, "last word")
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error)
		go func() { result <- e.Run(ctx) }()
		time.Sleep(50 * time.Millisecond)
		wantSaid(t, n, "revoke plndr-cp-lock", "off plndr-cp-lock", "grant plndr-cp-lock")
		cancel()
		if err := <-result; err != nil {
			t.Error(err)
		}
		e.SetHealth(Unable, "nobody listens any more")
	})
}

// kill -9 and a start at once: the address stays, for the Lease is still this node's.
func TestRestartWithoutAGap(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSim(t, 1, 3, fast)
		for _, n := range s.nodes {
			s.start(n)
		}
		time.Sleep(5 * time.Second)
		holder := s.segment.have()[0]
		moves := s.segment.moved()
		for range 5 {
			s.end(s.node(holder), true)
			time.Sleep(700 * time.Millisecond)
			s.start(s.node(holder))
			time.Sleep(300 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		if s.segment.moved() != moves || !s.held() || s.holder() != holder {
			t.Errorf("the address was %s's and moved %d times; now it is on %v", holder, s.segment.moved()-moves, s.segment.have())
		}
		s.finish()
		check(t, s)
	})
}

func check(t *testing.T, s *sim) {
	t.Helper()
	if wrong := append(s.errs, s.violations()...); len(wrong) > 0 {
		t.Errorf("%s\n%s", strings.Join(wrong, "\n"), strings.Join(s.log, "\n"))
	}
}

func TestHealthMovesTheAddress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSim(t, 1, 3, fast)
		for _, n := range s.nodes {
			s.start(n)
		}
		time.Sleep(5 * time.Second)
		set := func(name string, h Health) {
			n := s.node(name)
			s.change(n, func() { n.health = h })
		}
		first := s.holder()

		set(first, Unhealthy)
		if !s.until(100*time.Millisecond, func() bool { return s.held() && s.holder() != first }) {
			t.Errorf("an unhealthy holder keeps the address: it is on %v", s.segment.have())
		}
		second := s.holder()
		for _, n := range s.nodes {
			if n.name != first && n.name != second {
				set(n.name, Unhealthy)
			}
		}
		time.Sleep(time.Second)
		moves := s.segment.moved()
		set(second, Unhealthy)
		time.Sleep(2 * time.Minute)
		if s.segment.moved() != moves || s.holder() != second || !s.held() {
			t.Errorf("nobody is healthy, and the address moved from %s to %v", second, s.segment.have())
		}

		set(first, Healthy)
		if !s.until(100*time.Millisecond, func() bool { return s.held() && s.holder() == first }) {
			t.Errorf("the only healthy node is %s, the address is on %v", first, s.segment.have())
		}
		set(first, Unable)
		if !s.until(100*time.Millisecond, func() bool { return s.held() && s.holder() != first }) {
			t.Errorf("%s is not able to hold, the address is on %v", first, s.segment.have())
		}
		s.finish()
		check(t, s)
	})
}
