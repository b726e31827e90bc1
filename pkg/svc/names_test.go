package svc

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kube-vip.io/kube-vip/pkg/names"
)

// announced gives a Service the status that we write for these addresses.
func announced(addrs string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		for _, a := range strings.Fields(addrs) {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
		}
		meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{Type: ConditionAnnounced, Status: metav1.ConditionTrue, Reason: ReasonAnnounced})
	}
}

func TestPlanNames(t *testing.T) {
	v4, v6 := corev1.IPv4Protocol, corev1.IPv6Protocol
	timeout := &net.DNSError{Err: "read udp 10.0.0.1:40001->10.0.0.2:53: i/o timeout", Name: "slow.example", IsTimeout: true}
	known := map[string]names.Resolution{}
	for name, r := range map[string]struct {
		addrs string
		err   error
	}{
		"both.example": {addrs: "10.0.0.20 fd00::20"},
		"four.example": {addrs: "10.0.0.21"},
		"six.example":  {addrs: "fd00::22"},
		"none.example": {err: names.AnswerError{Name: "none.example", Why: "has no address"}},
		"slow.example": {err: timeout},
		"old.example":  {addrs: "10.0.0.23", err: timeout},
		"node.example": {addrs: "10.0.0.1"},
	} {
		known[name] = names.Resolution{Name: name, Addrs: addresses(r.addrs), Err: r.err}
	}
	for _, tc := range []struct {
		name    string
		s       *corev1.Service
		addrs   string
		refused string
		names   string
		open    bool
	}{
		{name: "one address of each family, as the Service has them in order", s: service("a", asking("both.example"), families(v6, v4)), addrs: "fd00::20, 10.0.0.20", names: "both.example"},
		{name: "the Service has one family", s: service("a", asking("both.example"), families(v6)), addrs: "fd00::20", names: "both.example"},
		{name: "the name has one family", s: service("a", asking("four.example")), addrs: "10.0.0.21", names: "four.example"},
		{name: "the families do not meet", s: service("a", asking("six.example"), families(v4)), names: "six.example",
			refused: "six.example: the DNS name stands for fd00::22, and the Service has only IPv4 (spec.ipFamilies)"},
		{name: "names and addresses", s: service("a", asking("six.example, 10.0.0.20,both.example")), addrs: "fd00::22, 10.0.0.20, fd00::20", names: "six.example both.example"},
		{name: "capitals and a last dot", s: service("a", asking("Both.Example, four.example.")), addrs: "10.0.0.20, fd00::20", names: "both.example four.example.",
			refused: "four.example.: the DNS name has not been looked up yet", open: true},
		{name: "in spec.loadBalancerIP", s: service("a", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "four.example" }), addrs: "10.0.0.21", names: "four.example"},
		{name: "not looked up yet", s: service("a", asking("new.example")), refused: "new.example: the DNS name has not been looked up yet", names: "new.example", open: true},
		{name: "no address", s: service("a", asking("none.example")), refused: "none.example: the DNS name has no address", names: "none.example"},
		{name: "no answer", s: service("a", asking("slow.example")), refused: "slow.example: the DNS name can not be looked up: no name server answered in time", names: "slow.example"},
		{name: "no answer any more", s: service("a", asking("old.example")), addrs: "10.0.0.23", names: "old.example"},
		{name: "what the name stands for is judged as any address", s: service("a", asking("node.example")), refused: "10.0.0.1: it is an address of node n1", names: "node.example"},
		{name: "a typing error", s: service("a", asking("10.0.0.300,web_1,http://web")),
			refused: "10.0.0.300: it is neither an IP address nor a DNS name, web_1: it is neither an IP address nor a DNS name, http://web: it is neither an IP address nor a DNS name"},
		{name: "not looked up yet after a start", s: service("a", asking("new.example"), announced("10.0.0.30")), addrs: "10.0.0.30",
			refused: "new.example: the DNS name has not been looked up yet", names: "new.example", open: true},
		{name: "no answer after a start", s: service("a", asking("10.0.0.20,slow.example"), announced("10.0.0.20 10.0.0.30 fd00::30"), families(v4)), addrs: "10.0.0.20, 10.0.0.30",
			refused: "slow.example: the DNS name can not be looked up: no name server answered in time", names: "slow.example"},
		{name: "an answer counts more than the status", s: service("a", asking("four.example"), announced("10.0.0.30")), addrs: "10.0.0.21", names: "four.example"},
		{name: "a typing error keeps nothing", s: service("a", asking("10.0.0.300"), announced("10.0.0.30")), refused: "10.0.0.300: it is neither an IP address nor a DNS name"},
		{name: "a foreign status says nothing", s: service("a", asking("new.example"), func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.0.0.30"}}
		}), refused: "new.example: the DNS name has not been looked up yet", names: "new.example", open: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := plan(tc.s, Options{}, Facts{Node: "n1", Clash: func(netip.Addr) string { return "" },
				Cluster: Cluster{nodes: map[netip.Addr]string{netip.MustParseAddr("10.0.0.1"): "n1"}},
				Names:   func(name string) (names.Resolution, bool) { r, is := known[name]; return r, is }})
			got := []any{join(p.Addrs), p.refusals(), strings.Join(p.Names, " "), p.Open, p.Announced, p.Wanting}
			want := []any{tc.addrs, tc.refused, tc.names, tc.open, tc.addrs != "", false}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("addresses, refused, names, open, announced, wanting (-want +got):\n%s", diff)
			}
		})
	}
}

// What a name had stood for is cleared with the rest, also by an instance that does not know it.
func TestApplyClearsNames(t *testing.T) {
	s := service("a", asking("web.example"), announced("10.0.0.30"), annotated(HostAnnotation, "n1"))
	after := apply(s, shown{}, nil, time.Now())
	if after == nil || len(after.Status.LoadBalancer.Ingress) != 0 {
		t.Errorf("the status keeps %+v", after)
	}
}

func addresses(text string) (list []netip.Addr) {
	for _, a := range strings.Fields(text) {
		list = append(list, netip.MustParseAddr(a))
	}
	return list
}

// A zone is a resolver that a test edits: names, and their addresses.
type zone struct {
	mu    sync.Mutex
	hosts map[string]string
	asked map[string]int
	down  bool
}

func newZone(hosts map[string]string) *zone { return &zone{hosts: hosts, asked: map[string]int{}} }

func (z *zone) set(f func()) {
	z.mu.Lock()
	defer z.mu.Unlock()
	f()
}

func (z *zone) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked[network+" "+host]++
	if z.down {
		return nil, errors.New("no servers")
	}
	list := slices.DeleteFunc(addresses(z.hosts[host]), func(a netip.Addr) bool { return a.Is4() != (network == "ip4") })
	if len(list) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return list, nil
}

func TestDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(map[string]string{"web.example": "10.0.0.20 fd00::20", "api.example": "10.0.0.21"})
		var mu sync.Mutex
		var woken []string
		d := newDirectory(Options{Resolver: z, Log: slog.New(slog.DiscardHandler)}, func(key string) {
			mu.Lock()
			defer mu.Unlock()
			woken = append(woken, key)
		})
		want := func(name, addrs, err, wakes string) {
			t.Helper()
			synctest.Wait()
			now, asked := d.resolution(name)
			mu.Lock()
			slices.Sort(woken)
			got := []any{asked, join(now.Addrs), names.Cause(now.Err), strings.Join(woken, " ")}
			woken = nil
			mu.Unlock()
			if diff := cmp.Diff([]any{addrs != "", addrs, err, wakes}, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		d.want("shop/a", []string{"web.example"}) // before it runs
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() { d.run(ctx); close(over) }()
		want("web.example", "10.0.0.20, fd00::20", "", "shop/a")
		d.want("shop/b", []string{"web.example", "api.example"})
		want("api.example", "10.0.0.21", "", "shop/b")

		// A name that two ask for is looked up once, both are told of what is new, and the old answer stays when there
		// is none.
		time.Sleep(time.Second)
		z.set(func() { z.hosts["web.example"], z.asked = "10.0.0.30", map[string]int{} })
		time.Sleep(10 * time.Second)
		want("web.example", "10.0.0.30", "", "shop/a shop/b")
		if diff := cmp.Diff(map[string]int{"ip4 web.example": 1, "ip6 web.example": 1, "ip4 api.example": 1, "ip6 api.example": 1}, z.asked); diff != "" {
			t.Errorf("questions in a period (-want +got):\n%s", diff)
		}
		z.set(func() { z.down = true })
		time.Sleep(10 * time.Second)
		want("web.example", "10.0.0.30", "no servers", "shop/a shop/b shop/b")
		z.set(func() { z.down = false })

		// What nobody asks for any more is not looked up any more.
		d.want("shop/a", nil)
		d.want("shop/b", []string{"api.example"})
		z.set(func() { z.asked = map[string]int{} })
		time.Sleep(30 * time.Second)
		want("web.example", "", "", "shop/b")
		if z.asked["ip4 web.example"] != 0 || z.asked["ip4 api.example"] == 0 {
			t.Errorf("asked %v", z.asked)
		}
		cancel()
		<-over
		d.want("shop/c", []string{"web.example"}) // nothing is begun any more
		want("web.example", "", "", "")
	})
}

// The setting leaves one family of a name, or both, among which a Service chooses.
func TestDirectoryMode(t *testing.T) {
	for mode, want := range map[names.Mode]string{"": "10.0.0.20, fd00::20", names.First: "10.0.0.20, fd00::20", names.Dual: "10.0.0.20, fd00::20", names.IPv4: "10.0.0.20", names.IPv6: "fd00::20"} {
		z := newZone(map[string]string{"web.example": "10.0.0.20 fd00::20"})
		if now := (Options{Resolver: z, DNSMode: mode}).follower(nil).Once(t.Context(), "web.example"); join(now.Addrs) != want {
			t.Errorf("dns_mode %q gives %v, want %s", mode, now.Addrs, want)
		}
	}
}

func TestResolveOnce(t *testing.T) {
	z := newZone(map[string]string{"web.example": "10.0.0.20", "api.example": "10.0.0.21"})
	known := resolveOnce(t.Context(), Options{Resolver: z}, []*corev1.Service{
		service("a", asking("web.example,10.0.0.9")), service("b", asking("web.example,gone.example")),
		service("c", asking("api.example"), annotated(IgnoreAnnotation, "true")),
	})
	got := map[string]string{}
	for name, r := range known {
		got[name] = join(r.Addrs) + names.Cause(r.Err)
	}
	if diff := cmp.Diff(map[string]string{"web.example": "10.0.0.20", "gone.example": "gone.example has no address"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if z.asked["ip4 web.example"] != 1 {
		t.Errorf("asked %v", z.asked)
	}
}
