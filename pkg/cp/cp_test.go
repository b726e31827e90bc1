package cp

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"kube-vip.io/kube-vip/pkg/names"
	"kube-vip.io/kube-vip/pkg/vip"
)

// A node is what a ControlPlane sees and tells, edited and read by a test.
type node struct {
	t     *testing.T
	start time.Time
	cp    *ControlPlane
	stop  func()

	mu    sync.Mutex
	links []vip.Link
	err   error
	fault string        // of the API server
	took  time.Duration // that it takes to answer
	// certificate is the API server's.
	certificate func(ctx context.Context, serverName string) (*x509.Certificate, error)
	events      []string
}

func (n *node) Links() ([]vip.Link, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.links), n.err
}

func (n *node) Claim(owner, mandate string, vips []vip.VIP) {
	var list []string
	for _, v := range vips {
		list = append(list, at(v))
	}
	n.event("claim %s %s [%s]", owner, mandate, strings.Join(list, ", "))
}

func (n *node) listen(h Health) {
	switch {
	case h.OK:
		n.event("healthy")
	case h.Able && h.Answers:
		n.event("unhealthy, and answers: %s", h.Reason)
	case h.Able:
		n.event("unhealthy, serving %v: %s", h.Serving, h.Reason)
	default:
		n.event("unable, serving %v: %s", h.Serving, h.Reason)
	}
}

func (n *node) event(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, fmt.Sprintf("%s "+format, append([]any{time.Since(n.start)}, args...)...))
}

// set changes the node, and hints at it as the kernel does.
func (n *node) set(f func()) {
	n.mu.Lock()
	f()
	n.mu.Unlock()
	n.cp.Hint()
}

// want compares what happened since it was last called.
func (n *node) want(events ...string) {
	n.t.Helper()
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	if diff := cmp.Diff(events, n.events); diff != "" {
		n.t.Errorf("events (-want +got):\n%s", diff)
	}
	n.events = nil
}

const (
	testLo   = "1 lo up 127.0.0.1/8"
	testEth0 = "2 eth0 up default4 10.0.0.11/24"
)

// runNode runs a ControlPlane on a node whose API server answers within a millisecond.
func runNode(t *testing.T, change func(*Options, *node)) *node {
	t.Helper()
	n := &node{t: t, start: time.Now(), links: linksOf(testLo, testEth0), took: ms}
	n.certificate = func(context.Context, string) (*x509.Certificate, error) {
		return nil, errors.New("no network in this test")
	}
	o := Options{
		Addresses: []string{"10.0.0.10"}, Port: 6443, Mandate: "plndr-cp-lock",
		Claimer: n, Links: n, Listener: n.listen,
		Health: HealthOptions{Enable: true},
	}
	if change != nil {
		change(&o, n)
	}
	cp, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if o.Health.Enable {
		cp.prober = newFakeProber(t, func(int) (string, time.Duration) {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.fault, n.took
		})
	}
	cp.check.certificate = n.certificate
	n.cp = cp
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- cp.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return n
}

const ms = time.Millisecond

// gather reads gauges' values and histograms' counts, by name and labels.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			values[name] = m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}

// TestAnswers: whether a server that is not well still answers is news of its own.
func TestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := runNode(t, nil)
		defer n.stop()
		time.Sleep(500 * ms)
		n.want("0s claim cp plndr-cp-lock [10.0.0.10/32 on eth0]", "1ms healthy")
		n.set(func() { n.fault = saidPrefix + "500" })
		time.Sleep(500 * ms)
		n.want("801ms unhealthy, and answers: said 500")
		n.set(func() { n.fault = "refused" })
		time.Sleep(500 * ms)
		n.want("1.201s unhealthy, serving false: refused")
		n.set(func() { n.fault = "" })
		time.Sleep(2000 * ms)
		n.want("2.001s healthy")
	})
}

func TestControlPlaneServerDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		logs := &logBook{}
		n := runNode(t, func(o *Options, _ *node) { o.Registerer, o.Log = reg, slog.New(logs) })
		defer n.stop()
		if h := n.cp.Now(); h.OK || h.Reason != "nothing is known yet" {
			t.Errorf("before anything is known: %+v", h)
		}
		gauge := func(want float64) {
			t.Helper()
			if got := gather(t, reg)["kube_vip_control_plane_healthy"]; got != want {
				t.Errorf("kube_vip_control_plane_healthy is %v, want %v", got, want)
			}
		}
		time.Sleep(500 * ms)
		n.want("0s claim cp plndr-cp-lock [10.0.0.10/32 on eth0]", "1ms healthy")
		gauge(1)
		if addrs, _ := n.cp.server.addrs(); show(addrs) != "127.0.0.1 ::1 10.0.0.11" {
			t.Errorf("the API server is looked for at %s", show(addrs))
		}
		n.set(func() { n.fault = "refused" })
		time.Sleep(500 * ms)
		n.want("801ms unhealthy, serving false: refused")
		gauge(0)
		want := Health{Able: true, Reason: "refused", Since: n.start.Add(801 * ms), VIPs: []vip.VIP{{Prefix: netip.MustParsePrefix("10.0.0.10/32"), Link: "eth0", Via: "eth0"}}}
		if diff := cmp.Diff(want, n.cp.Now(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("Now (-want +got):\n%s", diff)
		}

		// Another reason is no news for the election, and soon enough for the log.
		time.Sleep(30050 * ms)
		n.set(func() { n.fault = "500" })
		time.Sleep(300 * ms)
		n.want()
		if h := n.cp.Now(); h.Reason != "500" || h.Since != n.start.Add(801*ms) {
			t.Errorf("Now: %+v", h)
		}
		n.set(func() { n.fault = "" })
		time.Sleep(time.Second)
		n.want("31.801s healthy")
		gauge(1)
		n.stop()
		n.want() // the claim stays: to take the VIPs off is for who holds the mandate

		wantLogs := []string{
			"INFO VIP placed vip=10.0.0.10 prefix=10.0.0.10/32 link=eth0 via=eth0",
			"INFO control plane is healthy on this node",
			"WARN control plane is unhealthy on this node reason=refused",
			"INFO control plane is still unhealthy on this node reason=500",
			"INFO control plane is healthy on this node",
		}
		got := slices.DeleteFunc(logs.lines(), func(l string) bool { return strings.HasPrefix(l, "DEBUG") })
		if diff := cmp.Diff(wantLogs, got); diff != "" {
			t.Errorf("logs (-want +got):\n%s", diff)
		}
		metrics := gather(t, reg)
		if ok, failed := metrics["kube_vip_control_plane_probe_duration_seconds ok"], metrics["kube_vip_control_plane_probe_duration_seconds failed"]; ok < 5 || failed < 100 {
			t.Errorf("%v good probes and %v failed ones", ok, failed)
		}
	})
}

func TestControlPlaneLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := runNode(t, nil)
		defer n.stop()
		time.Sleep(500 * ms)
		n.want("0s claim cp plndr-cp-lock [10.0.0.10/32 on eth0]", "1ms healthy")

		// The carrier goes: the VIP stays claimed where it was, and the election hears of it at once.
		n.set(func() { n.links = linksOf(testLo, "2 eth0 10.0.0.11/24") })
		time.Sleep(500 * ms)
		n.want("500ms unable, serving true: interface eth0 of 10.0.0.10 is not up: it is set down or has no carrier")
		n.set(func() { n.links = linksOf(testLo, testEth0) })
		time.Sleep(30500 * ms)
		n.want("1s healthy")

		// An interface that is made again under the same name is followed without a hint too.
		n.mu.Lock()
		n.links = linksOf(testLo)
		n.mu.Unlock()
		time.Sleep(1100 * ms)
		n.want("32s unable, serving true: no interface's subnet contains 10.0.0.10 any more; it was on eth0")
		n.set(func() { n.links = linksOf(testLo, "7 br0 up 10.0.0.11/24") })
		time.Sleep(5 * time.Second)
		// The second loss within a minute of health: the rise waits 2 s, and the claim does not.
		n.want(
			"32.6s claim cp plndr-cp-lock [10.0.0.10/32 on br0]",
			"32.6s unhealthy, serving true: no interface's subnet contains 10.0.0.10 any more; it was on eth0",
			"34.6s healthy",
		)
	})
}

// Hints come by the hundred while pods start; each is one look at most, and the last one is not lost.
func TestControlPlaneManyHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int32
		n := runNode(t, func(o *Options, n *node) {
			o.Links = linksFunc(func() ([]vip.Link, error) { looks.Add(1); return n.Links() })
		})
		defer n.stop()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := looks.Load(); got != 11 {
			t.Errorf("%d looks in 10 s at rest", got)
		}
		looks.Store(0)
		for range 1000 {
			time.Sleep(ms)
			n.cp.Hint()
		}
		n.mu.Lock()
		n.links = linksOf(testLo, "7 eth1 up 10.0.0.11/24")
		n.events = nil
		n.mu.Unlock()
		n.cp.Hint()
		time.Sleep(200 * ms)
		synctest.Wait()
		if got := looks.Load(); got > 13 {
			t.Errorf("%d looks within 1.2 s", got)
		}
		if len(n.events) != 1 || !strings.Contains(n.events[0], "on eth1") {
			t.Errorf("events %q", n.events)
		}
	})
}

type linksFunc func() ([]vip.Link, error)

func (f linksFunc) Links() ([]vip.Link, error) { return f() }

// While the interfaces cannot be read, what is known of them stays.
func TestControlPlaneLinksNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs := &logBook{}
		n := runNode(t, func(o *Options, n *node) {
			o.Log = slog.New(logs)
			n.err = errors.New("list interfaces: no buffer space available")
		})
		defer n.stop()
		time.Sleep(500 * ms)
		n.want("0s unable, serving false: list interfaces: no buffer space available", "1ms unable, serving true: list interfaces: no buffer space available")
		n.set(func() { n.err = nil })
		time.Sleep(500 * ms)
		n.want("500ms claim cp plndr-cp-lock [10.0.0.10/32 on eth0]", "500ms healthy")
		n.set(func() { n.err = errors.New("list interfaces: interrupted") })
		time.Sleep(10 * time.Second)
		n.want()
		if lines := logs.with("interfaces not read"); len(lines) != 2 {
			t.Errorf("logged %q", lines)
		}
	})
}

func TestControlPlaneNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{hosts: map[string]string{}}
		logs := &logBook{}
		n := runNode(t, func(o *Options, _ *node) {
			o.Log = slog.New(logs)
			o.Addresses = []string{"vip.example", "10.0.0.9", "vip.example"}
			o.Resolver = z
			o.DNSMode = names.Dual
		})
		defer n.stop()
		time.Sleep(500 * ms)
		n.want(
			"0s claim cp plndr-cp-lock [10.0.0.9/32 on eth0]",
			"0s unhealthy, serving false: address: vip.example has no address",
			"1ms unhealthy, serving true: address: vip.example has no address",
		)
		z.set(func(z *zone) { z.hosts["vip.example"] = "10.0.0.10 fd00::10" })
		time.Sleep(1600 * ms)
		n.want("2s claim cp plndr-cp-lock [10.0.0.9/32 on eth0, 10.0.0.10/32 on eth0, fd00::10/128 on eth0]", "2s healthy")
		z.set(func(z *zone) { z.hosts["vip.example"] = "10.0.0.12" })
		time.Sleep(10 * time.Second)
		n.want("12s claim cp plndr-cp-lock [10.0.0.9/32 on eth0, 10.0.0.12/32 on eth0]")
		if got := logs.with("VIP placed vip=10.0.0."); len(got) != 3 {
			t.Errorf("three VIPs, logged %q", got)
		}
		// The zone breaks, and then it loses the name.
		z.set(func(z *zone) { z.broken = errors.New("no servers") })
		time.Sleep(30 * time.Second)
		z.set(func(z *zone) { z.broken, z.hosts = nil, nil })
		time.Sleep(30 * time.Second)
		n.want()
		// It resolves to this node itself, by a line in /etc/hosts for example.
		z.set(func(z *zone) { z.hosts = map[string]string{"vip.example": "10.0.0.11"} })
		time.Sleep(10 * time.Second)
		n.want(
			"1m22s claim cp plndr-cp-lock [10.0.0.9/32 on eth0]",
			"1m22s unhealthy, serving true: 10.0.0.11 is this node's own address on eth0; a VIP must be an address that no node has",
		)
	})
}

// Nothing is said of a name before it has been looked up, however long that takes.
func TestControlPlaneNameNotKnownYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{hangs: true}
		n := runNode(t, func(o *Options, _ *node) { o.Addresses, o.Resolver = []string{"vip.example"}, z })
		defer n.stop()
		time.Sleep(3*time.Second - ms)
		n.want("0s claim cp plndr-cp-lock []")
		time.Sleep(2 * ms)
		n.want("3s unable, serving true: address: lookup vip.example: i/o timeout")
	})
}

// Without health checks only the interfaces count.
func TestControlPlaneWithoutHealthChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := runNode(t, func(o *Options, _ *node) { o.Health.Enable = false })
		time.Sleep(500 * ms)
		n.want("0s claim cp plndr-cp-lock [10.0.0.10/32 on eth0]", "0s healthy")
		n.set(func() { n.links = linksOf(testLo, "2 eth0 10.0.0.11/24") })
		n.want("500ms unable, serving true: interface eth0 of 10.0.0.10 is not up: it is set down or has no carrier")
		n.stop()
	})
}

// Both at once: the reasons are told together, and health comes back with the later of the two.
func TestControlPlaneReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := runNode(t, nil)
		defer n.stop()
		time.Sleep(500 * ms)
		n.want("0s claim cp plndr-cp-lock [10.0.0.10/32 on eth0]", "1ms healthy")
		n.set(func() { n.fault, n.links = "refused", linksOf(testLo, "2 eth0 10.0.0.11/24") })
		time.Sleep(650 * ms)
		const why = "interface eth0 of 10.0.0.10 is not up: it is set down or has no carrier"
		n.want("500ms unable, serving true: "+why, "801ms unable, serving false: "+why+"; refused")
		n.set(func() { n.links = linksOf(testLo, testEth0) })
		time.Sleep(time.Second)
		n.want("1.15s unhealthy, serving false: refused")
		n.set(func() { n.fault = "" })
		time.Sleep(time.Second)
		n.want("2.601s healthy")
	})
}

// A link that comes up is told while nothing is known of the API server yet.
func TestControlPlaneLinkBeforeServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := runNode(t, func(_ *Options, n *node) { n.took, n.links = time.Hour, linksOf(testLo) })
		defer n.stop()
		time.Sleep(500 * ms)
		const why = "no interface's subnet contains 10.0.0.10 and there is no default route: set vip_interface"
		n.want("0s claim cp plndr-cp-lock []", "0s unable, serving false: "+why)
		n.set(func() { n.links = linksOf(testLo, testEth0) })
		n.want("500ms claim cp plndr-cp-lock [10.0.0.10/32 on eth0]", "500ms unhealthy, serving false: nothing is known yet")
	})
}

// However an address is written and wherever it comes from, it is one VIP.
func TestControlPlaneSameAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := runNode(t, func(o *Options, _ *node) {
			o.Addresses = []string{" 10.0.0.10", "::ffff:10.0.0.10", "vip.example"}
			o.Resolver = &zone{hosts: map[string]string{"vip.example": "10.0.0.10"}}
		})
		defer n.stop()
		time.Sleep(500 * ms)
		n.want("0s claim cp plndr-cp-lock [10.0.0.10/32 on eth0]", "1ms healthy")
	})
}

// An answer that is like the one before goes nowhere.
func TestOpinions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := []answer{
			{note: "403"}, {note: "403"}, {}, {}, {note: "403"}, {fault: "refused"}, {fault: "refused"}, {fault: "refused"}, {fault: "500"}, {note: "403"},
		}
		cp, err := New(Options{Addresses: []string{"10.0.0.10"}, Health: HealthOptions{Enable: true}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cp.prober = proberFunc(func() answer {
			if len(answers) == 0 {
				cancel()
				return answer{}
			}
			a := answers[0]
			answers = answers[1:]
			return a
		})
		opinions := make(chan opinion)
		go func() { cp.probe(ctx, opinions); close(opinions) }()
		logs := &logBook{}
		cp.log = slog.New(logs)
		var got []string
		for o := range opinions {
			cp.heard(o)
			got = append(got, fmt.Sprintf("%d %s|%s", o.verdict, o.fault, o.note))
		}
		// A note on a server that does not answer now is the one it had.
		if notes := logs.with("note=403"); len(notes) != 2 {
			t.Errorf("two changes of the note, logged %q", notes)
		}
		want := []string{"1 |403", "1 |", "1 |403", "2 refused|403", "2 500|403"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

type proberFunc func() answer

func (f proberFunc) probe(context.Context) answer              { return f() }
func (f proberFunc) wait(ctx context.Context, until time.Time) { sleep(ctx, until) }
func (f proberFunc) close()                                    {}

// Whatever happens to a node: what is told is what is, in order and once each.
func TestControlPlaneRandomWalk(t *testing.T) {
	seed := rand.Uint64()
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		var told []Health
		n := runNode(t, func(o *Options, _ *node) {
			o.Listener = func(h Health) { told = append(told, h) }
		})
		defer n.stop()
		networks := [][]vip.Link{
			linksOf(testLo), linksOf(testLo, testEth0), linksOf(testLo, testEth0),
			linksOf(testLo, "2 eth0 10.0.0.11/24"), linksOf(testLo, "3 br0 up 10.0.0.11/24", "2 eth0 up"),
		}
		faults := []string{"", "", "refused", "500"}
		for i := range 500 {
			n.set(func() {
				n.links, n.fault = networks[rnd.IntN(len(networks))], faults[rnd.IntN(len(faults))]
			})
			time.Sleep(time.Duration(rnd.IntN(3000)) * ms)
			synctest.Wait()
			if h := n.cp.Now(); len(told) > 0 {
				last := told[len(told)-1]
				if h.OK != last.OK || h.Able != last.Able || h.Serving != last.Serving {
					t.Fatalf("seed %d, step %d: told %+v, is %+v", seed, i, last, h)
				}
				if h.OK != (h.Reason == "") || h.OK && !(h.Able && h.Serving) {
					t.Fatalf("seed %d, step %d: %+v contradicts itself", seed, i, h)
				}
			}
		}
		for i := 1; i < len(told); i++ {
			a, b := told[i-1], told[i]
			if a.OK == b.OK && a.Able == b.Able && a.Serving == b.Serving {
				t.Fatalf("seed %d: told twice: %+v", seed, b)
			}
		}
		// Everything is well again, and after the longest damping it is known to be.
		n.set(func() { n.links, n.fault = networks[1], "" })
		time.Sleep(maxRise + 2*time.Second)
		synctest.Wait()
		if h := n.cp.Now(); !h.OK {
			t.Fatalf("seed %d: not healthy: %+v", seed, h)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	_, err := New(Options{
		Addresses: []string{"fe80::1%eth0", ""}, DNSMode: "both",
		Health: HealthOptions{Enable: true, URL: "6443"},
	})
	want := `address: fe80::1%eth0 has a zone: write it without %eth0 and set vip_interface
address: an entry is empty: each must be an IP address or a DNS name
dns_mode: "both" is none of first, ipv4, ipv6, dual
control_plane_health_check_address: "6443" is not an http or https URL such as https://127.0.0.1:6443/livez`
	if diff := cmp.Diff(want, text(err)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := New(Options{}); text(err) != "address: the control plane has no VIP: give an IP address or a DNS name" {
		t.Errorf("got %v", err)
	}

	reg := prometheus.NewRegistry()
	o := Options{Addresses: []string{"10.0.0.10"}, Registerer: reg}
	if _, err := New(o); err != nil {
		t.Error(err)
	}
	if _, err := New(o); err == nil {
		t.Error("the same metrics twice")
	}
}

// The whole of it against a real server that lives, dies, hangs and comes back, and the times that this takes.
func TestControlPlaneRealServer(t *testing.T) {
	const period, timeout = 20 * ms, 200 * ms
	ca := newCA(t)
	var hang atomic.Bool
	release := make(chan struct{})
	handler := func(w http.ResponseWriter, _ *http.Request) {
		if hang.Load() {
			<-release
		}
		fmt.Fprint(w, "ok")
	}
	s := startAPIServer(t, "127.0.0.1", ca.serving(t, kubeadmNames[:]...), handler)
	logs := &logBook{}
	told := make(chan Health, 10)
	n := &node{t: t, start: time.Now(), links: linksOf(testLo, testEth0)}
	cp, err := New(Options{
		Addresses: []string{"10.0.0.10"}, Port: s.port(), Claimer: n, Links: n, TLS: ca.credentials(), Log: slog.New(logs),
		Listener: func(h Health) { told <- h },
		Health:   HealthOptions{Enable: true, Period: period, Timeout: timeout},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- cp.Run(ctx) }()
	const slack = 2 * time.Second // the machine has other work
	want := func(reason string, within time.Duration) {
		t.Helper()
		start := time.Now()
		select {
		case h := <-told:
			if h.Reason != reason {
				t.Errorf("told %q, want %q", h.Reason, reason)
			}
			if took := time.Since(start); took > within+slack {
				t.Errorf("took %s, want %s", took, within)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("not told %q", reason)
		}
	}
	want("", timeout)
	waitFor(t, "the certificate to be read", func() bool { return len(logs.with("does not cover the VIP")) == 1 })
	s.stop()
	want("GET "+s.url()+": connection refused", 2*period)
	s.start()
	want("", 3*period)
	hang.Store(true)
	want("GET "+s.url()+": no answer within 200ms", 2*timeout+period)
	hang.Store(false)
	close(release)
	want("", maxRise)

	// A takeover has the certificate looked at again, and what is known is not said again.
	cp.Holding(true)
	s.stop()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if lines := logs.with("does not cover the VIP"); len(lines) != 1 {
		t.Errorf("logged %q", lines)
	}
}
