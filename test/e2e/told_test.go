package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/test/lab"
)

// told is all that is said of a Service that is announced.
type told struct {
	Status      corev1.ServiceStatus
	Annotations map[string]string
	Events      map[string]int32   // by reason
	Moves       map[string]float64 // by metric, of some nodes
}

// told reads what is said of a Service, and how often some nodes took Services over.
func (s *services) told(t *testing.T, service *lab.Service, nodes []*lab.Node) told {
	t.Helper()
	o, err := service.Get(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	client, err := s.Kube()
	if err != nil {
		t.Fatal(err)
	}
	list, err := client.CoreV1().Events(service.Namespace).List(within(t, patience), metav1.ListOptions{FieldSelector: "involvedObject.name=" + service.Name})
	if err != nil {
		t.Fatal(err)
	}
	now := told{Status: o.Status, Annotations: o.Annotations, Events: map[string]int32{}, Moves: map[string]float64{}}
	for _, e := range list.Items {
		now.Events[e.Reason] += e.Count
	}
	for _, n := range nodes {
		samples, err := s.pods[n].Metrics(within(t, patience), metricsURL)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range samples {
			if strings.HasPrefix(name, "kube_vip_service_moves_total{") {
				now.Moves[name] += value
			}
		}
	}
	return now
}

// serviceToldWithCause: conditions, Events and metrics change when there is a cause, once, and not without one.
func serviceToldWithCause(t *testing.T, s *services) {
	addrs, others := s.addrs(37), s.addrs(38)
	service := s.create(t, "told", addrs)
	holder := s.on(t, service, addrs)
	s.event(t, service, svc.ReasonAnnounced, holder.Name)
	var stay []*lab.Node // all but the holder
	for _, n := range s.Nodes {
		if n != holder {
			stay = append(stay, n)
		}
	}
	// same waits for what was caused, and looks for a while whether that was all.
	same := func(what string, nodes []*lab.Node, want told) {
		t.Helper()
		diff := "not looked at"
		if err := lab.Wait(within(t, patience), "the Events after "+what, func() (bool, error) {
			diff = cmp.Diff(want.Events, s.told(t, service, nil).Events)
			return diff == "", nil
		}); err != nil {
			t.Fatalf("%v (-want +got):\n%s", err, diff)
		}
		wait(t, 2*time.Second)
		if diff := cmp.Diff(want, s.told(t, service, nodes)); diff != "" {
			t.Errorf("after %s (-want +got):\n%s", what, diff)
		}
	}
	wait(t, time.Second) // a Withdrawn of before it had endpoints may be told late

	// Another Service comes and goes, pools do, its labels change, and an instance that holds nothing of it is stopped.
	watched := []*lab.Node{holder, stay[0]}
	before := s.told(t, service, watched)
	other := s.create(t, "told-other", others)
	s.on(t, other, others)
	if err := other.Delete(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	s.nobody(t, others)
	s.pool(t, map[string]string{"range-global": listed(others)})()
	if err := service.Change(within(t, patience), func(o *corev1.Service) { o.Labels = map[string]string{"what": "ever"} }); err != nil {
		t.Fatal(err)
	}
	if err := s.pods[stay[1]].Stop(); err != nil {
		t.Error(err)
	}
	s.run(t, stay[1], lab.PodOptions{})
	s.settled(t)
	same("what does not concern it", watched, before)

	// It loses its endpoints and has them again.
	before = s.told(t, service, s.Nodes)
	if err := service.SetEndpoints(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	s.refused(t, service, svc.ReasonWithdrawn, "no ready endpoint")
	if err := service.SetEndpoints(within(t, patience), s.everywhere()); err != nil {
		t.Fatal(err)
	}
	if at := s.on(t, service, addrs); at != holder {
		t.Logf("%s held, and now %s does", holder, at)
		holder = at
	}
	after := s.told(t, service, nil)
	before.Status.Conditions, before.Annotations = after.Status.Conditions, after.Annotations // times, and the holder
	before.Events[svc.ReasonWithdrawn]++
	before.Events[svc.ReasonAnnounced]++
	same("its endpoints went and came", s.Nodes, before)

	// The holder stops.
	stay = nil
	for _, n := range s.Nodes {
		if n != holder {
			stay = append(stay, n)
		}
	}
	before = s.told(t, service, stay)
	if err := s.pods[holder].Stop(); err != nil {
		t.Error(err)
	}
	s.leaves(t, holder, addrs[0])
	next := s.on(t, service, addrs)
	before.Annotations[svc.HostAnnotation] = next.Name
	before.Status.Conditions = s.told(t, service, nil).Status.Conditions
	before.Events[svc.ReasonMoved]++
	before.Moves[`kube_vip_service_moves_total{reason="released"}`]++
	same("the holder stopped", stay, before)
	s.run(t, holder, lab.PodOptions{})
	s.settled(t)
}

// serviceOthers: what is another's is not touched, not even by a new leader.
func serviceOthers(t *testing.T, s *services) {
	addrs, theirs := s.addrs(35), s.addrs(36)
	of := func(class string) func(*corev1.Service) {
		return func(o *corev1.Service) { o.Spec.LoadBalancerClass = &class }
	}
	foreign := s.create(t, "others-class", theirs, of("example.com/other"))
	ignored := s.create(t, "others-ignored", theirs, func(o *corev1.Service) { o.Annotations[svc.IgnoreAnnotation] = "true" })
	before := map[*lab.Service]*corev1.Service{}
	for _, one := range []*lab.Service{foreign, ignored} {
		if err := one.SetIngress(within(t, patience), theirs...); err != nil {
			t.Fatal(err)
		}
		o, err := one.Get(within(t, patience))
		if err != nil {
			t.Fatal(err)
		}
		before[one] = o
	}
	ours := s.create(t, "others-ours", addrs, of("kube-vip.io/kube-vip-class"))
	holder := s.on(t, ours, addrs)
	s.answersFor(t, addrs)
	if err := s.pods[holder].Stop(); err != nil {
		t.Error(err)
	}
	s.leaves(t, holder, addrs[0])
	s.on(t, ours, addrs)
	s.run(t, holder, lab.PodOptions{})
	s.settled(t)
	wait(t, time.Second)
	s.nobody(t, theirs)
	for one, was := range before {
		is, err := one.Get(within(t, patience))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(was, is); diff != "" {
			t.Errorf("%s is not ours, and was changed (-before +after):\n%s", one.Name, diff)
		}
	}
}

// serviceContested: a stranger takes the addresses of a Service later. He is told of with his hardware address, by an
// Event, the log and a metric; the Service stays where it is; and when he has gone that is seen too.
func serviceContested(t *testing.T, s *services) {
	addrs := s.addrs(62)
	service := s.create(t, "contested", addrs)
	holder := s.on(t, service, addrs)
	const metric = "kube_vip_vips_contested"
	contested := func(want int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s of %s is %d", metric, holder, want), func() (bool, error) {
			samples, err := s.pods[holder].Metrics(within(t, patience), metricsURL)
			value, is := samples[metric]
			return is && value == float64(want), err
		})
	}
	contested(0)
	for _, a := range addrs {
		if err := s.Client.AddAddress(s.Client.Link, netip.PrefixFrom(a, a.BitLen())); err != nil {
			t.Fatal(err)
		}
		defer s.Client.RemoveAddress(s.Client.Link, netip.PrefixFrom(a, a.BitLen())) // it may have been already
	}
	contested(len(addrs))
	for _, a := range addrs {
		s.event(t, service, svc.ReasonInUse, fmt.Sprintf("%s is in use by another host, with the hardware address %s, as well as by node %s", a, s.Client.MAC, holder.Name))
		if _, err := s.pods[holder].WaitLog(within(t, patience), "vip="+a.String()+" mac="+s.Client.MAC.String()); err != nil {
			t.Error(err)
		}
	}
	if now := s.on(t, service, addrs); now != holder {
		t.Errorf("%s held, and now %s does", holder, now)
	}
	for _, a := range addrs {
		if err := s.Client.RemoveAddress(s.Client.Link, netip.PrefixFrom(a, a.BitLen())); err != nil {
			t.Fatal(err)
		}
	}
	contested(0)
}
