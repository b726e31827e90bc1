package e2e

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/test/lab"
)

// keeps is the metric that says for how many Leases a node keeps addresses without the API.
const keeps = "kube_vip_leases_kept_without_api"

// outage keeps nodes from the API until it is ended.
func outage(t *testing.T, nodes ...*lab.Node) (end func()) {
	t.Helper()
	back := func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		for _, n := range nodes {
			if err := n.APIBack(ctx); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(back) // whatever becomes of the test; it may be done twice
	for _, n := range nodes {
		if err := n.APIAway(within(t, patience), lab.AllAPIs); err != nil {
			t.Fatal(err)
		}
	}
	return back
}

// watchAll watches who answers for addresses.
func (s *services) watchAll(t *testing.T, addrs []netip.Addr) (stop func() []lab.Answers) {
	t.Helper()
	var watches []*lab.AnswerWatch
	for _, a := range addrs {
		w, err := s.WatchAnswers(a, 10*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		watches = append(watches, w)
	}
	return func() (all []lab.Answers) {
		for _, w := range watches {
			all = append(all, w.Stop())
		}
		return all
	}
}

// serviceOutage: the API is away from everybody. What is held stays where it is and is repaired; what was let
// go meanwhile goes once the API is back.
func serviceOutage(t *testing.T, s *services) {
	addrs, others := s.addrs(21), s.addrs(22)
	stays, goes := s.create(t, "outage-stays", addrs), s.create(t, "outage-goes", others)
	holder := s.on(t, stays, addrs)
	s.on(t, goes, others)
	client, err := kubernetes.NewForConfig(s.Config(s.Client, netip.AddrPortFrom(s.Nodes[0].Addr(), 6443)))
	if err != nil {
		t.Fatal(err)
	}
	answers := s.watchAll(t, addrs)
	end := outage(t, s.Nodes...)
	wait(t, 8*time.Second) // longer than the Lease
	metrics, err := s.pods[holder].Metrics(within(t, patience), metricsURL)
	if err != nil || metrics[keeps] < 1 {
		t.Errorf("%s says %s %g (%v)", holder, keeps, metrics[keeps], err)
	}
	// An API server that is kept from itself, as well, deletes no Service; this does not need its help.
	if _, err := client.CoreV1().Services(metav1.NamespaceDefault).Patch(within(t, patience), "outage-goes", types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"kube-vip.io/ignore":"true"}}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("let a Service go meanwhile: %v", err)
	}
	s.answersFor(t, addrs)
	kept := answers() // before somebody takes one off
	for _, a := range addrs {
		s.takeOff(t, holder, a)
		eventually(t, "it is back on its node", func() (bool, error) { return holder.Has(a) })
	}
	answers = s.watchAll(t, addrs)
	wait(t, 5*time.Second)
	end()
	s.nobody(t, others)
	wait(t, 8*time.Second)
	for i, a := range append(kept, answers()...) {
		addr := addrs[i%len(addrs)]
		t.Logf("%s: answered by %v, silent for %s at most", addr, a.Owners, a.Silence)
		if a.Max > 1 || !slices.Equal(a.Owners, []string{holder.Name}) || a.Silence > 2*time.Second {
			t.Errorf("%s: answered by %v, %d at once, silent for %s; want %s alone, all the time", addr, a.Owners, a.Max, a.Silence, holder)
		}
	}
	if now := s.on(t, stays, addrs); now != holder {
		t.Errorf("%s holds after the outage, %s held before", now, holder)
	}
	s.settled(t)
}

// serviceOutageOfHolder: the API is away from a holder alone, which would keep its addresses; another takes over, and
// the two never answer at once.
func serviceOutageOfHolder(t *testing.T, s *services) {
	addrs := s.addrs(23)
	service := s.create(t, "outage-yields", addrs)
	holder := s.on(t, service, addrs)
	answers := s.watchAll(t, addrs)
	end := outage(t, holder)
	began := time.Now()
	s.leaves(t, holder, addrs[0])
	t.Logf("another node holds after %s", time.Since(began).Round(time.Millisecond))
	wait(t, 5*time.Second)
	next := s.answerer(t, addrs)
	end()
	wait(t, 3*time.Second)
	for i, a := range answers() {
		t.Logf("%s: answered by %v, silent for %s at most", addrs[i], a.Owners, a.Silence)
		if a.Max > 1 || len(a.Owners) != 2 || a.Silence > 4*time.Second {
			t.Errorf("%s: answered by %v, %d at once, silent for %s; want %s and then %s", addrs[i], a.Owners, a.Max, a.Silence, holder, next)
		}
	}
	if now := s.on(t, service, addrs); now != next {
		t.Errorf("%s holds after the outage, %s did in it", now, next)
	}
	s.settled(t)
}

// answerer is the node that holds all addresses.
func (s *services) answerer(t *testing.T, addrs []netip.Addr) *lab.Node {
	t.Helper()
	var holder *lab.Node
	eventually(t, "one node holds", func() (bool, error) {
		holder = nil
		for _, a := range addrs {
			nodes, err := s.Holders(a)
			if err != nil || len(nodes) != 1 || holder != nil && holder != nodes[0] {
				return false, err
			}
			holder = nodes[0]
		}
		return true, nil
	})
	return holder
}

// takeOff removes an address from a node by hand.
func (s *services) takeOff(t *testing.T, n *lab.Node, addr netip.Addr) {
	t.Helper()
	list, err := n.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if a.Prefix.Addr() == addr {
			if err := n.RemoveAddress(a.Link, a.Prefix); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestServicesOutageOfWorkers: instances on workers alone lose the API while it works, and Services are deleted, changed and
// created meanwhile. What was deleted is held until the API is back, and then it goes; nothing else moves.
func TestServicesOutageOfWorkers(t *testing.T) {
	for placement, flags := range map[string][]string{"leader": nil, "lease": {"--servicesElection"}} {
		t.Run(placement, func(t *testing.T) {
			l := lab.New(t, lab.Options{Nodes: 3, ControlPlanes: 1, Family: lab.Dual})
			flags = append([]string{"--services", "--arp"}, flags...)
			if err := l.Nodes[0].Apply(within(t, patience), generate(t, append([]string{"manifest", "rbac"}, flags...)...), false); err != nil {
				t.Fatal(err)
			}
			s := &services{cluster: &cluster{Lab: l, pods: map[*lab.Node]*lab.Pod{}, manifest: generate(t, append([]string{"manifest", "daemonset", "--inCluster"}, flags...)...)}}
			workers := l.Nodes[1:]
			for _, n := range workers {
				s.run(t, n, lab.PodOptions{})
			}
			endpointless := func(o *corev1.Service) { o.Annotations[svc.EndpointlessAnnotation] = "true" }
			stays, goes, changes, comes := s.addrs(2), s.addrs(3), s.addrs(4), s.addrs(5)
			create := func(name string, addrs []netip.Addr) *lab.Service {
				t.Helper()
				service, err := l.CreateService(within(t, patience), name, asking(addrs), endpointless)
				if err != nil {
					t.Fatal(err)
				}
				return service
			}
			kept, deleted, changed := create("kept", stays), create("deleted", goes), create("changed", changes)
			holder := s.on(t, kept, stays)
			of := s.on(t, deleted, goes)
			s.on(t, changed, changes)
			answers := s.watchAll(t, stays)

			end := outage(t, workers...)
			wait(t, 7*time.Second) // longer than the Lease
			if err := deleted.Delete(within(t, patience)); err != nil {
				t.Fatal(err)
			}
			moved := s.addrs(6)
			if err := changed.Change(within(t, patience), func(o *corev1.Service) {
				o.Annotations[svc.AddressesAnnotation] = asking(moved)[svc.AddressesAnnotation]
			}); err != nil {
				t.Fatal(err)
			}
			created := create("created", comes)
			wait(t, 3*time.Second)
			for _, a := range goes {
				if has, err := of.Has(a); err != nil || !has {
					t.Errorf("%s, which nobody can know to be deleted, is on %s: %t (%v)", a, of, has, err)
				}
			}
			end()
			s.nobody(t, goes)
			s.nobody(t, changes)
			s.on(t, changed, moved)
			s.on(t, created, comes)
			if now := s.on(t, kept, stays); now != holder {
				t.Errorf("%s held before the outage, and %s does after it", holder, now)
			}
			for i, a := range answers() {
				if a.Max > 1 || !slices.Equal(a.Owners, []string{holder.Name}) || a.Silence > time.Second {
					t.Errorf("%s: answered by %v, %d at once, silent for %s; want %s alone, all the time", stays[i], a.Owners, a.Max, a.Silence, holder)
				}
			}
		})
	}
}
