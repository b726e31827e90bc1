package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/test/lab"
)

// services is a cluster whose instances care for Services, with kube-proxy and a backend on each node.
type services struct {
	*cluster
	backends map[*lab.Node]*lab.Backend
	numbered []netip.Addr // given to Services
}

// startServices runs `kube-vip manifest pod --services` on every node, beside the control plane's VIP.
func startServices(t *testing.T, family lab.Family, flags ...string) *services {
	t.Helper()
	c := start(t, lab.Options{Family: family, KubeProxy: true}, append([]string{"--controlplane", "--services"}, flags...)...)
	s := &services{cluster: c, backends: map[*lab.Node]*lab.Backend{}}
	c.others = func(a netip.Addr) bool { return slices.Contains(s.numbered, a) }
	for _, n := range c.Nodes {
		b, err := n.RunBackend(within(t, patience), "web-"+n.Name)
		if err != nil {
			t.Fatal(err)
		}
		s.backends[n] = b
	}
	s.settled(t)
	return s
}

// everywhere are ready endpoints on all nodes.
func (s *services) everywhere() []lab.Endpoint {
	var all []*lab.Backend
	for _, n := range s.Nodes {
		all = append(all, s.backends[n])
	}
	return lab.Ready(all...)
}

// addrs are addresses for a Service, one in each family of the lab: number 2 is 10.10.0.102 and fd00:10:10::102. The lab's
// watcher has number 1.
func (s *services) addrs(number int) []netip.Addr {
	var list []netip.Addr
	for _, v := range s.VIPs {
		text := fmt.Sprintf("10.10.0.%d", 100+number)
		if v.Is6() {
			text = fmt.Sprintf("fd00:10:10::%d", 100+number)
		}
		list = append(list, netip.MustParseAddr(text))
	}
	s.numbered = append(s.numbered, list...)
	return list
}

func asking(addrs []netip.Addr) map[string]string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return map[string]string{svc.AddressesAnnotation: strings.Join(texts, ",")}
}

// create makes a Service with these addresses and endpoints on every node.
func (s *services) create(t *testing.T, name string, addrs []netip.Addr, change ...func(*corev1.Service)) *lab.Service {
	t.Helper()
	var annotations map[string]string
	if len(addrs) > 0 {
		annotations = asking(addrs)
	}
	service, err := s.CreateService(within(t, patience), name, annotations, change...)
	if err != nil {
		t.Fatal(err)
	}
	if err := service.SetEndpoints(within(t, patience), s.everywhere()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := service.Delete(context.WithoutCancel(t.Context())); err != nil {
			t.Log(err)
		}
	})
	return service
}

// on waits until one node holds every address, and the status says so, and returns it.
func (s *services) on(t *testing.T, service *lab.Service, addrs []netip.Addr) *lab.Node {
	t.Helper()
	var holder *lab.Node
	last := ""
	err := lab.Wait(within(t, patience), "the Service is announced", func() (bool, error) {
		holder, last = nil, ""
		for _, a := range addrs {
			nodes, err := s.Holders(a)
			if err != nil || len(nodes) != 1 || holder != nil && nodes[0] != holder {
				last = fmt.Sprintf("%v hold %s", nodes, a)
				return false, err
			}
			holder = nodes[0]
		}
		got, err := service.Get(within(t, patience))
		if err != nil {
			return false, err
		}
		var listed []netip.Addr
		for _, i := range got.Status.LoadBalancer.Ingress {
			listed = append(listed, netip.MustParseAddr(i.IP))
		}
		last = fmt.Sprintf("status %+v, annotations %v", got.Status, got.Annotations)
		return slices.Equal(listed, addrs) && got.Annotations[svc.HostAnnotation] == holder.Name &&
			meta.IsStatusConditionTrue(got.Status.Conditions, svc.ConditionAnnounced), nil
	})
	if err != nil {
		t.Fatalf("%v: %s", err, last)
	}
	return holder
}

// leaves waits until one node holds an address, and not the one that did.
func (s *services) leaves(t *testing.T, holder *lab.Node, addr netip.Addr) {
	t.Helper()
	eventually(t, "another node holds", func() (bool, error) {
		nodes, err := s.Holders(addr)
		return len(nodes) == 1 && nodes[0] != holder, err
	})
}

// answersFor asks through each address, by TCP and UDP, until a backend has answered.
func (s *services) answersFor(t *testing.T, addrs []netip.Addr) {
	t.Helper()
	for _, a := range addrs {
		for _, network := range []string{"tcp", "udp"} {
			var last error
			if err := lab.Wait(within(t, patience), network+" through "+a.String(), func() (bool, error) {
				_, last = s.Client.Ask(within(t, patience), network, netip.AddrPortFrom(a, lab.ServicePort))
				return last == nil, nil
			}); err != nil {
				t.Fatalf("%v: %v", err, last)
			}
		}
	}
}

// refused waits until the condition says why the Service has no address.
func (s *services) refused(t *testing.T, service *lab.Service, reason, text string) {
	t.Helper()
	var last any
	if err := lab.Wait(within(t, patience), "the Service's condition says "+text, func() (bool, error) {
		got, err := service.Get(within(t, patience))
		if err != nil {
			return false, err
		}
		c := meta.FindStatusCondition(got.Status.Conditions, svc.ConditionAnnounced)
		last = got.Status
		return c != nil && c.Status == metav1.ConditionFalse && c.Reason == reason && strings.Contains(c.Message, text) && len(got.Status.LoadBalancer.Ingress) == 0, nil
	}); err != nil {
		t.Fatalf("%v: %+v", err, last)
	}
}

// nobody waits until no node has any of the addresses.
func (s *services) nobody(t *testing.T, addrs []netip.Addr) {
	t.Helper()
	for _, a := range addrs {
		if err := s.WaitNobody(within(t, patience), a); err != nil {
			t.Fatal(err)
		}
	}
}

// event waits for an Event on the Service.
func (s *services) event(t *testing.T, service *lab.Service, reason, text string) {
	t.Helper()
	client, err := s.Kube()
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	if err := lab.Wait(within(t, patience), "an Event "+reason, func() (bool, error) {
		list, err := client.CoreV1().Events(service.Namespace).List(within(t, patience), metav1.ListOptions{FieldSelector: "involvedObject.name=" + service.Name})
		if err != nil {
			return false, err
		}
		seen = nil
		for _, e := range list.Items {
			seen = append(seen, e.Reason+": "+e.Message)
			if e.Reason == reason && strings.Contains(e.Message, text) {
				return true, nil
			}
		}
		return false, nil
	}); err != nil {
		t.Fatalf("%v with %q; there are %q", err, text, seen)
	}
}

func TestServices(t *testing.T) {
	for _, family := range []lab.Family{lab.IPv4, lab.IPv6, lab.Dual} {
		t.Run(string(family), func(t *testing.T) {
			s := startServices(t, family)
			testServices(t, s)
		})
	}
}

// TestServicesByLease does the same with a Lease for each Service.
func TestServicesByLease(t *testing.T) {
	for _, family := range []lab.Family{lab.IPv4, lab.IPv6, lab.Dual} {
		t.Run(string(family), func(t *testing.T) {
			s := startServices(t, family, "--servicesElection")
			testServices(t, s)
			if family == lab.Dual {
				t.Run("spread over the nodes", func(t *testing.T) { servicesSpread(t, s) })
			}
		})
	}
}

func testServices(t *testing.T, s *services) {
	type scenario struct {
		name string
		run  func(*testing.T, *services)
	}
	var dual []scenario
	if len(s.VIPs) > 1 {
		dual = []scenario{
			{"a second family, and back", serviceUpgraded},
			{"a second family out of a pool, and back", serviceUpgradedByPool},
			{"the families in another order, and one that is not there", serviceFamilyOrder},
			{"a stranger takes the addresses later", serviceContested},
			{"every instance rolled", servicesRolled},
		}
	}
	for _, scenario := range append(dual, []scenario{
		{"announced, told and reached", serviceAnnounced},
		{"the holder goes", serviceMoves},
		{"the holder vanishes", serviceOutlivesItsNode},
		{"refused, with the reason", serviceRefused},
		{"an address shared", serviceShared},
		{"an address shared across namespaces", serviceSharedAcross},
		{"an address shared with the control plane", serviceSharedWithControlPlane},
		{"not ours any more", serviceLeft},
		{"never ours", serviceOthers},
		{"no endpoints", serviceEndpoints},
		{"told when there is a cause", serviceToldWithCause},
		{"out of a pool", servicePool},
		{"out of the pool of its namespace", servicePools},
		{"out of a pool, and shared", servicePoolShared},
		{"by a name", serviceNamed},
		{"externalTrafficPolicy Local", serviceLocal},
		{"deleted while we were down", serviceDeletedUnseen},
		{"the API is away from everybody", serviceOutage},
		{"the API is away from the holder alone", serviceOutageOfHolder},
	}...) {
		t.Run(scenario.name, func(t *testing.T) { scenario.run(t, s) })
	}
}

func serviceAnnounced(t *testing.T, s *services) {
	addrs := s.addrs(9)
	service := s.create(t, "announced", addrs)
	holder := s.on(t, service, addrs)
	s.answersFor(t, addrs)
	got, err := service.Get(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range got.Status.LoadBalancer.Ingress {
		if i.IPMode == nil || *i.IPMode != corev1.LoadBalancerIPModeVIP || len(i.Ports) != len(got.Spec.Ports) {
			t.Errorf("the status says %+v", i)
		}
	}
	s.event(t, service, svc.ReasonAnnounced, holder.Name)
	// At rest nothing is written.
	wait(t, 3*time.Second)
	again, err := service.Get(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	if again.ResourceVersion != got.ResourceVersion {
		t.Errorf("the Service was written at rest: %s, then %s", got.ResourceVersion, again.ResourceVersion)
	}
}

// serviceMoves: the holder stops, another holds; the status follows.
func serviceMoves(t *testing.T, s *services) {
	addrs := s.addrs(2)
	service := s.create(t, "moves", addrs)
	holder := s.on(t, service, addrs)
	if err := s.pods[holder].Stop(); err != nil {
		t.Error(err)
	}
	s.leaves(t, holder, addrs[0])
	next := s.on(t, service, addrs)
	s.answersFor(t, addrs)
	moved := fmt.Sprintf("moved from node %s to node %s: %s; ", holder.Name, next.Name, join(addrs))
	s.event(t, service, svc.ReasonMoved, moved+holder.Name+" gave the Lease up, nobody held it for ")
	s.counts(t, next, `kube_vip_service_moves_total{reason="released"}`)
	s.run(t, holder, lab.PodOptions{})
	s.settled(t)
}

// serviceOutlivesItsNode: the holder vanishes, and the Event says that its Lease ran out and for how long nobody had it.
func serviceOutlivesItsNode(t *testing.T, s *services) {
	addrs := s.addrs(11)
	service := s.create(t, "outlives", addrs)
	holder := s.on(t, service, addrs)
	if err := holder.Crash(); err != nil {
		t.Fatal(err)
	}
	s.leaves(t, holder, addrs[0])
	next := s.on(t, service, addrs)
	moved := fmt.Sprintf("moved from node %s to node %s: %s; ", holder.Name, next.Name, join(addrs))
	s.event(t, service, svc.ReasonMoved, moved+"the Lease of "+holder.Name+" expired, nobody held it for at most ")
	s.counts(t, next, `kube_vip_service_moves_total{reason="expired"}`)
	if err := holder.Boot(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	s.settled(t)
}

// counts checks that a node's metric is above zero.
func (s *services) counts(t *testing.T, n *lab.Node, metric string) {
	t.Helper()
	samples, err := s.pods[n].Metrics(within(t, patience), metricsURL)
	if err != nil {
		t.Fatal(err)
	}
	if samples[metric] < 1 {
		t.Errorf("%s of %s is %g", metric, n, samples[metric])
	}
}

func join(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ", ")
}

func serviceRefused(t *testing.T, s *services) {
	node := s.Nodes[0].Addr()
	service := s.create(t, "refused", []netip.Addr{node})
	s.refused(t, service, svc.ReasonRefused, node.String()+": it is an address of node "+s.Nodes[0].Name)
	s.event(t, service, svc.ReasonRefused, node.String())
	for _, n := range s.Nodes {
		s.counts(t, n, `kube_vip_services_refused{reason="node-address"}`)
		s.counts(t, n, `kube_vip_services{state="refused"}`)
	}

	// What is asked for instead is had at once.
	addrs := s.addrs(3)
	if err := service.Change(within(t, patience), func(o *corev1.Service) { o.Annotations = asking(addrs) }); err != nil {
		t.Fatal(err)
	}
	s.on(t, service, addrs)
	for _, n := range s.Nodes {
		eventually(t, n.Name+" refuses nothing any more", func() (bool, error) {
			samples, err := s.pods[n].Metrics(within(t, patience), metricsURL)
			return samples[`kube_vip_services_refused{reason="node-address"}`] == 0 && samples[`kube_vip_services{state="refused"}`] == 0, err
		})
	}
}

// serviceShared: two Services on one address, then one whose port is taken, then the deletion of the first.
func serviceShared(t *testing.T, s *services) {
	addrs := s.addrs(4)
	first, second := s.create(t, "first", addrs, port(corev1.ProtocolTCP, 80)), s.create(t, "second", addrs, port(corev1.ProtocolTCP, 81))
	if a, b := s.on(t, first, addrs), s.on(t, second, addrs); a != b {
		t.Errorf("one address, and %s and %s hold it", a, b)
	}
	third := s.create(t, "third", addrs, port(corev1.ProtocolTCP, 80))
	s.refused(t, third, svc.ReasonRefused, "Service default/first has 80/TCP on "+addrs[0].String()+" already")
	if err := first.Delete(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	s.on(t, third, addrs)
	s.on(t, second, addrs)
}

// serviceLeft: what is not ours any more is cleared, and the addresses go.
func serviceLeft(t *testing.T, s *services) {
	for name, change := range map[string]func(*corev1.Service){
		"ignored": func(o *corev1.Service) { o.Annotations[svc.IgnoreAnnotation] = "true" },
		"another type": func(o *corev1.Service) {
			o.Spec.Type = corev1.ServiceTypeClusterIP
		},
	} {
		t.Run(name, func(t *testing.T) {
			addrs := s.addrs(5)
			service := s.create(t, "left", addrs)
			s.on(t, service, addrs)
			if err := service.Change(within(t, patience), change); err != nil {
				t.Fatal(err)
			}
			s.nobody(t, addrs)
			s.cleared(t, service)
			if err := service.Delete(within(t, patience)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// cleared waits until nothing of ours is left in a Service.
func (s *services) cleared(t *testing.T, service *lab.Service) {
	t.Helper()
	eventually(t, "the status of "+service.Name+" is cleared", func() (bool, error) {
		got, err := service.Get(within(t, patience))
		if err != nil {
			return false, err
		}
		_, hosted := got.Annotations[svc.HostAnnotation]
		return len(got.Status.LoadBalancer.Ingress) == 0 && len(got.Status.Conditions) == 0 && !hosted, nil
	})
}

// serviceEndpoints: without any endpoint the addresses go, and come back with the first.
func serviceEndpoints(t *testing.T, s *services) {
	addrs := s.addrs(6)
	service := s.create(t, "endpoints", addrs)
	s.on(t, service, addrs)
	if err := service.SetEndpoints(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	s.nobody(t, addrs)
	s.refused(t, service, svc.ReasonWithdrawn, "no ready endpoint")
	if err := service.SetEndpoints(within(t, patience), nil, lab.Ready(s.backends[s.Nodes[1]])); err != nil {
		t.Fatal(err)
	}
	s.on(t, service, addrs)
	s.answersFor(t, addrs)
}

// servicePool: addresses are given out, a stranger's is not, what is released goes to the one that waits.
func servicePool(t *testing.T, s *services) {
	first, second, third := s.addrs(21), s.addrs(22), s.addrs(23)
	var ranges []string
	for i := range first {
		ranges = append(ranges, first[i].String()+"-"+third[i].String())
		// A stranger has the first of each range.
		if err := s.Client.AddAddress(s.Client.Link, netip.PrefixFrom(first[i], first[i].BitLen())); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := s.Client.RemoveAddress(s.Client.Link, netip.PrefixFrom(first[i], first[i].BitLen())); err != nil {
				t.Error(err)
			}
		}()
	}
	defer s.pool(t, map[string]string{"range-global": strings.Join(ranges, ","), "range-web": "10.0.0.300"})()
	a := s.create(t, "pool-a", nil)
	s.on(t, a, second)
	s.answersFor(t, second)
	s.event(t, a, svc.ReasonAllocated, join(second)+" out of the pool range-global")
	s.event(t, a, svc.ReasonInUse, first[0].String()+" is in use by another host, with the hardware address "+s.Client.MAC.String())
	b := s.create(t, "pool-b", nil)
	s.on(t, b, third)
	c := s.create(t, "pool-c", nil)
	s.refused(t, c, svc.ReasonExhausted, "pool range-global has no")
	// A new leader keeps what was given.
	holder := s.on(t, b, third)
	if err := s.pods[holder].Stop(); err != nil {
		t.Error(err)
	}
	s.leaves(t, holder, third[0])
	s.on(t, a, second)
	s.on(t, b, third)
	s.run(t, holder, lab.PodOptions{})
	if err := a.Delete(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	s.on(t, c, second)
}

// name says what a name stands for, on every node and in every container.
func (s *services) name(t *testing.T, name string, addrs []netip.Addr) {
	t.Helper()
	// A container's /etc/hosts is a file of its own, mounted: it is rewritten in place.
	files, err := filepath.Glob(filepath.Join(s.Dir, "*", "pods", "*", "hosts"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range s.Nodes {
		files = append(files, n.Path("/etc/hosts"))
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for line := range strings.Lines(string(text)) {
			if !strings.HasSuffix(line, " "+name+"\n") {
				lines = append(lines, line)
			}
		}
		for _, a := range addrs {
			lines = append(lines, a.String()+" "+name+"\n")
		}
		if err := os.WriteFile(f, []byte(strings.Join(lines, "")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// serviceNamed: a name that does not resolve is refused. What it stands for is held by one node, also when that changes;
// when the name is lost all stays as it was, even for a process that never knew it.
func serviceNamed(t *testing.T, s *services) {
	const name = "web.example.test"
	first, second := s.addrs(9), s.addrs(10)
	service := s.create(t, "named", nil, func(o *corev1.Service) { o.Annotations = map[string]string{svc.AddressesAnnotation: name} })
	s.refused(t, service, svc.ReasonRefused, name+": the DNS name ")
	s.name(t, name, first)
	s.on(t, service, first)
	s.answersFor(t, first)
	s.name(t, name, second)
	s.nobody(t, first)
	holder := s.on(t, service, second)
	s.answersFor(t, second)

	watch, err := holder.WatchAddresses()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	s.name(t, name, nil)
	if _, err := s.pods[holder].WaitLog(within(t, patience), "name not resolved"); err != nil {
		t.Error(err)
	}
	began := time.Now()
	if err := s.pods[holder].Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.pods[holder].WaitLogSince(within(t, patience), began, "name not resolved"); err != nil {
		t.Error(err)
	}
	for _, e := range watch.Events() {
		if slices.Contains(second, e.Addr) && !e.Present {
			t.Errorf("%s went while nobody knew the name", e.Addr)
		}
	}
	if now := s.on(t, service, second); now != holder {
		t.Errorf("%s held, and now %s does", holder, now)
	}
	s.answersFor(t, second)
}

// single makes a Service one of IPv4 alone.
func single(o *corev1.Service) { stack(o, corev1.IPFamilyPolicySingleStack) }

func stack(o *corev1.Service, policy corev1.IPFamilyPolicy) {
	o.Spec.IPFamilyPolicy = &policy
	if policy == corev1.IPFamilyPolicySingleStack {
		o.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
		o.Spec.ClusterIPs = o.Spec.ClusterIPs[:min(1, len(o.Spec.ClusterIPs))]
	}
}

// change changes a Service, and its endpoints to what its families ask for then.
func (s *services) change(t *testing.T, service *lab.Service, change func(*corev1.Service)) {
	t.Helper()
	if err := service.Change(within(t, patience), change); err != nil {
		t.Fatal(err)
	}
	if err := service.SetEndpoints(within(t, patience), s.everywhere()); err != nil {
		t.Fatal(err)
	}
}

// unbroken watches an address on its node until what it returns is called, which fails the test if it ever went.
func (s *services) unbroken(t *testing.T, n *lab.Node, addr netip.Addr) (still func()) {
	t.Helper()
	watch, err := n.WatchAddresses()
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		// What was quick may have been over before the address was to be renewed: it lives as long as its mandate does.
		wait(t, leaseDuration)
		watch.Close()
		seen := 0
		for _, e := range watch.Events() {
			if e.Addr != addr {
				continue
			}
			seen++
			if !e.Present {
				t.Errorf("%s left %s at %s", addr, n, e.Time.Format("15:04:05.000"))
			}
		}
		if has, err := n.Has(addr); err != nil || !has || seen == 0 {
			t.Errorf("%s has %s: %t (%v), seen renewed %d times", n, addr, has, err, seen)
		}
	}
}

// serviceUpgraded: a Service of one family gets a second one while it is announced, by each policy, and loses it again.
// The first address is on its node all the time.
func serviceUpgraded(t *testing.T, s *services) {
	addrs := s.addrs(12)
	service := s.create(t, "upgraded", addrs[:1], single)
	holder := s.on(t, service, addrs[:1])
	still := s.unbroken(t, holder, addrs[0])
	annotate := func(o *corev1.Service, addrs []netip.Addr) {
		o.Annotations[svc.AddressesAnnotation] = asking(addrs)[svc.AddressesAnnotation]
	}
	// The policy first, and then the address.
	s.change(t, service, func(o *corev1.Service) { stack(o, corev1.IPFamilyPolicyRequireDualStack) })
	s.says(t, service, metav1.ConditionTrue, svc.ReasonNoAddress, "it has no IPv6 address, and ipFamilyPolicy is RequireDualStack")
	s.change(t, service, func(o *corev1.Service) { annotate(o, addrs) })
	s.on(t, service, addrs)
	s.answersFor(t, addrs)
	// The address goes first, and then the policy.
	s.change(t, service, func(o *corev1.Service) { annotate(o, addrs[:1]) })
	s.nobody(t, addrs[1:])
	s.on(t, service, addrs[:1])
	s.change(t, service, single)
	s.on(t, service, addrs[:1])
	// All at once.
	s.change(t, service, func(o *corev1.Service) { stack(o, corev1.IPFamilyPolicyPreferDualStack); annotate(o, addrs) })
	s.on(t, service, addrs)
	s.change(t, service, func(o *corev1.Service) { single(o); annotate(o, addrs[:1]) })
	s.nobody(t, addrs[1:])
	if now := s.on(t, service, addrs[:1]); now != holder {
		t.Errorf("%s held, and now %s does", holder, now)
	}
	s.answersFor(t, addrs[:1])
	still()
}

// serviceUpgradedByPool: the same with addresses that are given out.
func serviceUpgradedByPool(t *testing.T, s *services) {
	addrs := s.addrs(24)
	defer s.pool(t, map[string]string{"range-global": addrs[0].String() + "-" + addrs[0].String() + "," + addrs[1].String() + "-" + addrs[1].String()})()
	service := s.create(t, "upgraded-pool", nil, single)
	holder := s.on(t, service, addrs[:1])
	still := s.unbroken(t, holder, addrs[0])
	for _, policy := range []corev1.IPFamilyPolicy{corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack} {
		s.change(t, service, func(o *corev1.Service) { stack(o, policy) })
		s.on(t, service, addrs)
		s.answersFor(t, addrs)
		s.change(t, service, single)
		s.nobody(t, addrs[1:])
		if now := s.on(t, service, addrs[:1]); now != holder {
			t.Errorf("%s held, and now %s does", holder, now)
		}
		eventually(t, "the second address is given back", func() (bool, error) {
			o, err := service.Get(within(t, patience))
			return err == nil && o.Annotations[svc.AddressesAnnotation] == addrs[0].String() && o.Annotations[svc.AllocatedAnnotation] == addrs[0].String(), err
		})
	}
	still()
}

// pool makes the ConfigMap of the pools, until what it returns is called.
func (s *services) pool(t *testing.T, data map[string]string) (remove func()) {
	t.Helper()
	client, err := s.Kube()
	if err != nil {
		t.Fatal(err)
	}
	maps := client.CoreV1().ConfigMaps(svc.PoolNamespace)
	if _, err := maps.Create(within(t, patience), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: svc.PoolConfigMap}, Data: data}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := maps.Delete(context.WithoutCancel(t.Context()), svc.PoolConfigMap, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
}

// says waits until the condition says this.
func (s *services) says(t *testing.T, service *lab.Service, status metav1.ConditionStatus, reason, text string) {
	t.Helper()
	var last any
	if err := lab.Wait(within(t, patience), "the Service's condition says "+text, func() (bool, error) {
		got, err := service.Get(within(t, patience))
		if err != nil {
			return false, err
		}
		c := meta.FindStatusCondition(got.Status.Conditions, svc.ConditionAnnounced)
		last = got.Status
		return c != nil && c.Status == status && c.Reason == reason && strings.Contains(c.Message, text), nil
	}); err != nil {
		t.Fatalf("%v: %+v", err, last)
	}
}

// serviceLocal: only a node with an endpoint holds, and the addresses follow the endpoint.
func serviceLocal(t *testing.T, s *services) {
	const promptly = time.Second // a Lease that is given up and taken; one that runs out would take five times as long
	addrs := s.addrs(31)
	service := s.create(t, "local", addrs, func(o *corev1.Service) { o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
	for _, n := range s.Nodes {
		before := s.on(t, service, addrs)
		began := time.Now()
		if err := service.SetEndpoints(within(t, patience), lab.Ready(s.backends[n])); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the addresses are where the endpoint is", func() (bool, error) {
			nodes, err := s.Holders(addrs[0])
			return len(nodes) == 1 && nodes[0] == n, err
		})
		took := time.Since(began)
		t.Logf("from %s to %s in %s", before, n, took.Round(time.Millisecond))
		if took > promptly {
			t.Errorf("it took %s from %s to %s, want at most %s", took, before, n, promptly)
		}
		if now := s.on(t, service, addrs); now != n {
			t.Errorf("the endpoint is on %s, and %s holds", n, now)
		}
		s.answersFor(t, addrs)
		for _, a := range addrs {
			answer, err := s.Client.Ask(within(t, patience), "tcp", netip.AddrPortFrom(a, lab.ServicePort))
			if err != nil {
				t.Fatal(err)
			}
			if own, err := s.Client.Has(answer.Client); err != nil || !own || answer.Backend != s.backends[n].Name {
				t.Errorf("%s answered, and saw %s in place of the client (%v)", answer.Backend, answer.Client, err)
			}
		}
	}
	// A better endpoint elsewhere moves nothing as long as the one here serves.
	holder, other := s.Nodes[2], s.Nodes[0]
	if err := service.SetEndpoints(within(t, patience), lab.Terminating(s.backends[holder]), lab.Ready(s.backends[other])); err != nil {
		t.Fatal(err)
	}
	wait(t, time.Second)
	if now := s.on(t, service, addrs); now != holder {
		t.Errorf("the addresses went from %s to %s although the endpoint there still serves", holder, now)
	}
	// Where no endpoint is ready, one that terminates and still serves will do.
	if err := service.SetEndpoints(within(t, patience), lab.NotReady(s.backends[holder]), lab.Terminating(s.backends[other])); err != nil {
		t.Fatal(err)
	}
	s.holds(t, service, addrs, other)
	s.answersFor(t, addrs)
	if err := service.SetEndpoints(within(t, patience), lab.NotReady(s.backends[holder]), lab.NotReady(s.backends[other])); err != nil {
		t.Fatal(err)
	}
	s.nobody(t, addrs)
	s.refused(t, service, svc.ReasonWithdrawn, "no node has a ready endpoint")
}

// servicesSpread: with a Lease each, Services are held all over the cluster, and a Lease belongs to its Service.
func servicesSpread(t *testing.T, s *services) {
	const many = 30
	var all []*lab.Service
	for i := range many {
		all = append(all, s.create(t, fmt.Sprintf("spread-%d", i), s.addrs(60+i)))
	}
	held := map[*lab.Node]int{}
	for i, service := range all {
		held[s.on(t, service, s.addrs(60+i))]++
	}
	for _, n := range s.Nodes {
		t.Logf("%s holds %d of %d", n, held[n], many)
		if held[n] == 0 {
			t.Errorf("%s holds nothing", n)
		}
	}
	client, err := s.Kube()
	if err != nil {
		t.Fatal(err)
	}
	lease, err := client.CoordinationV1().Leases(all[0].Namespace).Get(within(t, patience), svc.LeasePrefix+all[0].Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if owners := lease.OwnerReferences; len(owners) != 1 || owners[0].Kind != "Service" || owners[0].Name != all[0].Name {
		t.Errorf("the Lease belongs to %+v", owners)
	}
}

// serviceDeletedUnseen: nobody was there to see that a Service was deleted, or is not ours any more, and what is left of it
// goes all the same.
func serviceDeletedUnseen(t *testing.T, s *services) {
	addrs, others, ignored := s.addrs(7), s.addrs(8), s.addrs(14)
	service, stays, leaves := s.create(t, "unseen", addrs), s.create(t, "stays", others), s.create(t, "leaves", ignored)
	holder := s.on(t, service, addrs)
	s.on(t, stays, others)
	s.on(t, leaves, ignored)
	for _, n := range s.Nodes {
		if n != holder {
			if err := s.pods[n].Stop(); err != nil {
				t.Fatal(err)
			}
		}
	}
	// It is stopped the hard way, so that it leaves the addresses behind, and started again before they end.
	if err := s.pods[holder].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := service.Delete(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	if err := leaves.Change(within(t, patience), func(o *corev1.Service) { o.Annotations[svc.IgnoreAnnotation] = "true" }); err != nil {
		t.Fatal(err)
	}
	s.nobody(t, addrs)
	s.nobody(t, ignored)
	s.cleared(t, leaves)
	s.on(t, stays, others)
	for _, n := range s.Nodes {
		if n != holder {
			s.run(t, n, lab.PodOptions{})
		}
	}
	s.settled(t)
}

// TestOlderDaemonSet runs a DaemonSet that people have, with the ClusterRole that it brings along and nothing else: what
// that does not allow is told once and done without.
func TestOlderDaemonSet(t *testing.T) {
	l := lab.New(t, lab.Options{KubeProxy: true, NodeLabels: map[string]string{"node-role.kubernetes.io/controlplane": "true"}})
	manifest, err := os.ReadFile("testdata/daemonset-arp.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Nodes[0].Apply(within(t, patience), manifest, false); err != nil {
		t.Fatal(err)
	}
	s := &services{cluster: &cluster{Lab: l, manifest: manifest, pods: map[*lab.Node]*lab.Pod{}}, backends: map[*lab.Node]*lab.Backend{}}
	for _, n := range l.Nodes {
		// It goes by the host's name, and the lab's hosts are one machine.
		s.run(t, n, lab.PodOptions{Env: []string{"vip_nodename=" + n.Name}})
		if s.backends[n], err = n.RunBackend(within(t, patience), "web-"+n.Name); err != nil {
			t.Fatal(err)
		}
	}
	addrs := s.addrs(9)
	// The rights are for Endpoints, which the endpoint controller keeps beside the slices.
	service := s.create(t, "older", addrs, func(o *corev1.Service) { o.Annotations[svc.EndpointlessAnnotation] = "true" })
	holder := s.on(t, service, addrs)
	s.answersFor(t, addrs)
	for _, want := range []string{"not allowed to watch endpointslices", "not allowed to patch services/status", "not allowed to write Events"} {
		if _, err := s.pods[holder].WaitLog(within(t, patience), want); err != nil {
			t.Error(err)
		}
		count := 0
		for _, line := range s.pods[holder].Output() {
			if strings.Contains(line.Text, want) {
				count++
			}
		}
		if count != 1 {
			t.Errorf("%q is said %d times", want, count)
		}
	}
	if err := s.pods[holder].Stop(); err != nil {
		t.Error(err)
	}
	s.leaves(t, holder, addrs[0])
	s.on(t, service, addrs)
	s.answersFor(t, addrs)
}
