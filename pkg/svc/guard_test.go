package svc

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"kube-vip.io/kube-vip/pkg/pool"
	"kube-vip.io/kube-vip/pkg/vip"
)

func TestGuarded(t *testing.T) {
	port := func(number int32, protocol corev1.Protocol) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.Ports = []corev1.ServicePort{{Port: number, Protocol: protocol}}
		}
	}
	open := annotated(UnguardedAnnotation, "true")
	before := func(addrs ...string) (list []Guarded) {
		for _, a := range addrs {
			list = append(list, Guarded{netip.MustParseAddr(a), []pool.Port{{Number: 90, Protocol: "TCP"}}})
		}
		return list
	}
	// 10.0.0.1 is the node's own, 10.0.0.10 the control plane's, and these are on the node.
	here := []string{"10.0.0.1", "10.0.0.7", "10.0.0.10"}
	for _, test := range []struct {
		name     string
		services []*corev1.Service
		before   []Guarded
		want     string
	}{
		{"none", nil, nil, "[] false"},
		{"one", []*corev1.Service{service("a", asking("10.0.0.7"), port(53, corev1.ProtocolUDP))}, nil, "[{10.0.0.7 [53/UDP]}] false"},
		{"without a protocol", []*corev1.Service{service("a", asking("10.0.0.7"), port(80, ""))}, nil, "[{10.0.0.7 [80/TCP]}] false"},
		{"two families", []*corev1.Service{service("a", asking("fd00::7,10.0.0.7"))}, nil, "[{10.0.0.7 [80/TCP]} {fd00::7 [80/TCP]}] false"},
		{"one that opts out", []*corev1.Service{service("a", asking("10.0.0.7"), open)}, nil, "[] false"},
		{"one that opts out now", []*corev1.Service{service("a", asking("10.0.0.7"), open)}, before("10.0.0.7"), "[] false"},
		{"shared with one that opts out", []*corev1.Service{service("a", asking("10.0.0.7")),
			service("b", asking("10.0.0.7"), port(81, corev1.ProtocolTCP), open)}, nil, "[] false"},
		{"with other ports than before", []*corev1.Service{service("a", asking("10.0.0.7"))}, before("10.0.0.7"), "[{10.0.0.7 [80/TCP]}] false"},
		{"with the control plane", []*corev1.Service{service("a", asking("10.0.0.10"))}, nil, "[{10.0.0.10 [80/TCP 6443/TCP]}] false"},
		{"the control plane's alone again", nil, before("10.0.0.10"), "[] false"},
		{"an address of the node itself", []*corev1.Service{service("a", asking("10.0.0.1"))}, nil, "[] false"},
		{"which it became", nil, before("10.0.0.1"), "[] false"},
		{"gone, and its address is not yet", nil, before("10.0.0.7"), "[{10.0.0.7 [90/TCP]}] true"},
		{"gone with its address", nil, before("10.0.0.8"), "[] false"},
	} {
		t.Run(test.name, func(t *testing.T) {
			known := map[string]*entry{}
			for _, s := range test.services {
				known[key(s)] = &entry{addrs: requested(s, nil).addrs, exposure: exposureOf(s)}
			}
			list, lingers := guarded(known, test.before, func(a netip.Addr) nature {
				is := nature{own: a.String() == "10.0.0.1", here: slices.Contains(here, a.String())}
				if a.String() == "10.0.0.10" {
					is.elsewhere, is.also = true, []pool.Port{{Number: 6443, Protocol: "TCP"}}
				}
				return is
			})
			if diff := cmp.Diff(test.want, fmt.Sprint(list, lingers)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestOwnAddresses: kube-proxy in IPVS mode puts every Service's address on every node.
func TestOwnAddresses(t *testing.T) {
	prefix := netip.MustParsePrefix
	got := ownAddresses([]vip.Link{
		{Name: "eth0", Addrs: []netip.Prefix{prefix("10.0.0.1/24"), prefix("fd00::1/64")}},
		{Name: "kube-ipvs0", Addrs: []netip.Prefix{prefix("10.0.0.7/32"), prefix("fd00::7/128")}},
	})
	want := "map[10.0.0.1:true fd00::1:true]"
	if diff := cmp.Diff(want, fmt.Sprint(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// diary is a Guard and a Claimer that notes what it is told, in order.
type diary struct {
	lines []string
	took  time.Duration // by a word to the Guard
}

func (d *diary) Guard(_ context.Context, list []Guarded) {
	time.Sleep(d.took)
	d.lines = append(d.lines, fmt.Sprint("guard ", list))
}

func (d *diary) Claim(owner, _ string, vips []vip.VIP) {
	for _, v := range vips {
		d.lines = append(d.lines, fmt.Sprintf("claim %s for %s", v.Addr(), owner))
	}
}

func (d *diary) Unclaim(owner string) { d.lines = append(d.lines, "unclaim "+owner) }

// expect compares what was noted since.
func (d *diary) expect(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, d.lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	d.lines = nil
}

// guarding is a Controller that does not run, with a Guard, on a node that can hold whatever there is.
func guarding(t *testing.T) (*assessor, *diary) {
	t.Helper()
	d := &diary{}
	j := newAssessor(t, Options{Guard: d})
	j.o.Claimer = d
	j.links = []vip.Link{{Index: 2, Name: "eth0", Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}}
	return j, d
}

// pass does what the worker does until nothing is in the queue.
func (j *assessor) pass(t *testing.T) {
	t.Helper()
	synctest.Wait()
	for j.queue.Len() > 0 {
		key, _ := j.queue.Get()
		j.handle(t.Context(), key)
		j.queue.Done(key)
		synctest.Wait()
	}
}

// see has the worker look at a Service.
func (j *assessor) see(t *testing.T, s *corev1.Service) {
	t.Helper()
	j.have(t, s)
	j.queue.Add(key(s))
	j.pass(t)
}

// TestGuardOrder: the filter is there before an address, and until it has gone.
func TestGuardOrder(t *testing.T) {
	endpointless := annotated(EndpointlessAnnotation, "true")
	port := func(number int32) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.Ports[0].Port = number }
	}
	const seven, eight = "claim 10.0.0.7 for svc/shop/a@group", "claim 10.0.0.8 for svc/shop/a@group"
	synctest.Test(t, func(t *testing.T) {
		j, d := guarding(t)
		j.see(t, service("a", asking("10.0.0.7"), endpointless))
		d.expect(t, "guard [{10.0.0.7 [80/TCP]}]", seven)
		time.Sleep(guardSlowest)

		// Its ports change: the address is there, and nobody waits.
		j.see(t, service("a", asking("10.0.0.7"), endpointless, port(81)))
		d.expect(t, seven, "guard [{10.0.0.7 [81/TCP]}]")
		time.Sleep(guardSlowest)

		// It moves to another address, and the old one is on the node a while longer.
		if err := j.Sync([]vip.VIP{{Prefix: netip.MustParsePrefix("10.0.0.7/32"), Link: "eth0"}}); err != nil {
			t.Fatal(err)
		}
		j.pass(t)
		d.lines = nil
		j.see(t, service("a", asking("10.0.0.8"), endpointless))
		d.expect(t, "guard [{10.0.0.7 [81/TCP]} {10.0.0.8 [80/TCP]}]", eight, eight)
		time.Sleep(guardSlowest)
		if err := j.Sync(nil); err != nil {
			t.Fatal(err)
		}
		j.pass(t)
		d.expect(t, "guard [{10.0.0.8 [80/TCP]}]")
		time.Sleep(guardSlowest)

		// And it is deleted.
		if err := j.sources.services.informer.GetStore().Delete(service("a")); err != nil {
			t.Fatal(err)
		}
		j.queue.Add("shop/a")
		j.pass(t)
		d.expect(t, "unclaim svc/shop/a@group", "guard []")
	})
}

// TestGuardPace: many Services at once are a few words, and none of them waits for long.
func TestGuardPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, d := guarding(t)
		d.took = 10 * time.Millisecond
		const services = 250
		began := time.Now()
		for i := range services {
			j.see(t, service(fmt.Sprint("s", i), asking(fmt.Sprintf("10.0.0.%d", i+2)), annotated(EndpointlessAnnotation, "true")))
		}
		for j.guard.due {
			time.Sleep(time.Millisecond)
			j.pass(t)
		}
		words, claimed := 0, map[string]bool{}
		for _, line := range d.lines {
			if strings.HasPrefix(line, "guard ") {
				words++
			} else {
				claimed[line] = true
			}
		}
		if words != 2 || len(claimed) != services {
			t.Errorf("%d words to the Guard and %d of %d claims, want 2 words and all claims", words, len(claimed), services)
		}
		if took := time.Since(began); took > guardSlowest {
			t.Errorf("the last of them waited for %s", took)
		}
	})
}

// TestGuardForgets: a Service that goes while it waits for its filter is not claimed.
func TestGuardForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, d := guarding(t)
		j.guard.again = time.Now().Add(guardEvery)
		s := service("a", asking("10.0.0.7"), annotated(EndpointlessAnnotation, "true"))
		j.see(t, s)
		d.expect(t)
		if err := j.sources.services.informer.GetStore().Delete(s); err != nil {
			t.Fatal(err)
		}
		j.queue.Add(key(s))
		j.pass(t)
		time.Sleep(guardEvery)
		j.pass(t)
		d.expect(t, "guard []")
	})
}

// TestGuardLooksAgain: what is the control plane's is not told to Services.
func TestGuardLooksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, d := guarding(t)
		shared := false
		j.o.Elsewhere, j.o.Also = func(netip.Addr) (string, bool) { return "plane", shared }, []pool.Port{{Number: 6443, Protocol: "TCP"}}
		j.see(t, service("a", asking("10.0.0.7"), annotated(EndpointlessAnnotation, "true")))
		d.expect(t, "guard [{10.0.0.7 [80/TCP]}]", "claim 10.0.0.7 for svc/shop/a@group")
		shared = true
		time.Sleep(linksEvery + guardSlowest)
		j.guardAgain(false)
		j.guardSoon(t.Context())
		d.expect(t, "guard [{10.0.0.7 [80/TCP 6443/TCP]}]")
		j.guardAgain(false)
		j.guardSoon(t.Context())
		d.expect(t)
	})
}

// BenchmarkGuarded is what one word to the Guard costs the worker with so many Services.
func BenchmarkGuarded(b *testing.B) {
	known := map[string]*entry{}
	for i := range 10_000 {
		s := service(fmt.Sprint("s", i), asking(fmt.Sprintf("10.1.%d.%d", i/250, i%250+1)))
		known[key(s)] = &entry{addrs: requested(s, nil).addrs, exposure: exposureOf(s)}
	}
	var before []Guarded
	for b.Loop() {
		before, _ = guarded(known, before, func(netip.Addr) nature { return nature{} })
	}
}
