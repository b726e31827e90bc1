package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/test/lab"
)

// TestServicesNodes: who may hold Services, in the placement leader.
func TestServicesNodes(t *testing.T) {
	s := startServices(t, lab.IPv4, "--perServiceElectionOnDemand")
	t.Run("cordoned", func(t *testing.T) { nodeCordoned(t, s) })
	t.Run("not ready", func(t *testing.T) { nodeNotReady(t, s) })
	t.Run("selected and preferred", func(t *testing.T) { nodeSelected(t, s) })
	t.Run("a missing interface", func(t *testing.T) { interfaceMissing(t, s) })
	t.Run("a Lease on demand", func(t *testing.T) { leaseOnDemand(t, s) })
	t.Run("no node is left", func(t *testing.T) { noneLeft(t, s) })
}

// TestServicesNodesByLease: the same where each Service has a Lease of its own.
func TestServicesNodesByLease(t *testing.T) {
	s := startServices(t, lab.IPv4, "--servicesPlacement", "lease")
	t.Run("cordoned", func(t *testing.T) { nodeCordoned(t, s) })
	t.Run("a missing interface", func(t *testing.T) { interfaceMissing(t, s) })
}

// TestServicesInterfaceOfAll: the interface of the settings is missing on some nodes.
func TestServicesInterfaceOfAll(t *testing.T) {
	s := startServices(t, lab.IPv4, "--serviceInterface", "lan5")
	addrs := s.addrs(1)
	service := s.create(t, "everywhere", addrs)
	s.refused(t, service, svc.ReasonNotPlaced, `this node has no interface "lan5"`)
	for _, n := range []*lab.Node{s.Nodes[2], s.Nodes[0]} {
		plugIn(t, n, "lan5")
		s.holds(t, service, addrs, n)
		unplug(t, n, "lan5")
		s.refused(t, service, svc.ReasonNotPlaced, `this node has no interface "lan5"`)
	}
}

// holds waits until a certain node holds.
func (s *services) holds(t *testing.T, service *lab.Service, addrs []netip.Addr, n *lab.Node) {
	t.Helper()
	began := time.Now()
	eventually(t, n.Name+" holds "+addrs[0].String(), func() (bool, error) {
		nodes, err := s.Holders(addrs[0])
		return len(nodes) == 1 && nodes[0] == n, err
	})
	t.Logf("%s holds %s after %s", n, service.Name, time.Since(began).Round(time.Millisecond))
	if now := s.on(t, service, addrs); now != n {
		t.Errorf("%s holds, want %s", now, n)
	}
}

// stays looks for a while whether a node goes on holding.
func (s *services) stays(t *testing.T, service *lab.Service, addrs []netip.Addr, n *lab.Node) {
	t.Helper()
	wait(t, 3*time.Second)
	if now := s.on(t, service, addrs); now != n {
		t.Errorf("the addresses went from %s to %s", n, now)
	}
}

// moves waits until another node holds, and returns it.
func (s *services) moves(t *testing.T, service *lab.Service, addrs []netip.Addr, from *lab.Node) *lab.Node {
	t.Helper()
	began := time.Now()
	eventually(t, "another node than "+from.Name+" holds", func() (bool, error) {
		nodes, err := s.Holders(addrs[0])
		return len(nodes) == 1 && nodes[0] != from, err
	})
	to := s.on(t, service, addrs)
	t.Logf("%s went from %s to %s in %s", service.Name, from, to, time.Since(began).Round(time.Millisecond))
	return to
}

// setNode changes a Node, and its status as a kubelet or the controller manager would.
func (s *services) setNode(t *testing.T, n *lab.Node, change func(*corev1.Node)) {
	t.Helper()
	client, err := s.Kube()
	if err != nil {
		t.Fatal(err)
	}
	nodes := client.CoreV1().Nodes()
	if err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		ctx := within(t, patience)
		o, err := nodes.Get(ctx, n.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(o)
		status := o.Status.Conditions
		if o, err = nodes.Update(ctx, o, metav1.UpdateOptions{}); err != nil {
			return err
		}
		o.Status.Conditions = status
		_, err = nodes.UpdateStatus(ctx, o, metav1.UpdateOptions{})
		return err
	}); err != nil {
		t.Fatalf("change node %s: %v", n.Name, err)
	}
}

func cordoned(is bool) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Spec.Unschedulable = is }
}

func ready(is corev1.ConditionStatus) func(*corev1.Node) {
	return func(n *corev1.Node) {
		for i := range n.Status.Conditions {
			if n.Status.Conditions[i].Type == corev1.NodeReady {
				n.Status.Conditions[i].Status = is
			}
		}
	}
}

// nodeCordoned: a cordoned node hands over while another is not; when all are, nothing moves, nor when they are back.
func nodeCordoned(t *testing.T, s *services) {
	addrs := s.addrs(1)
	service := s.create(t, "cordoned", addrs)
	at := s.on(t, service, addrs)
	var before []*lab.Node
	for range len(s.Nodes) - 1 {
		s.setNode(t, at, cordoned(true))
		before = append(before, at)
		at = s.moves(t, service, addrs, at)
		if slices.Contains(before, at) {
			t.Fatalf("it went to %s, which is cordoned", at)
		}
		s.answersFor(t, addrs)
	}
	s.setNode(t, at, cordoned(true))
	s.stays(t, service, addrs, at)
	for _, n := range slices.Concat([]*lab.Node{at}, before) {
		s.setNode(t, n, cordoned(false))
	}
	s.stays(t, service, addrs, at)
}

// nodeNotReady: the same for a node that is not heard of, after a while: when nobody is, nothing moves.
func nodeNotReady(t *testing.T, s *services) {
	addrs := s.addrs(2)
	service := s.create(t, "not-ready", addrs)
	at := s.on(t, service, addrs)
	// All of them, one after the other, as after the API was away for long.
	for _, n := range s.Nodes {
		s.setNode(t, n, ready(corev1.ConditionUnknown))
		wait(t, time.Second)
	}
	wait(t, 16*time.Second)
	s.stays(t, service, addrs, at)
	for _, n := range s.Nodes {
		if n != at {
			s.setNode(t, n, ready(corev1.ConditionTrue))
		}
	}
	next := s.moves(t, service, addrs, at)
	s.answersFor(t, addrs)
	s.setNode(t, at, ready(corev1.ConditionTrue))
	s.stays(t, service, addrs, next)
}

func nodeSelected(t *testing.T, s *services) {
	addrs := s.addrs(3)
	service := s.create(t, "selected", addrs, func(o *corev1.Service) { o.Annotations[svc.SelectorAnnotation] = "rack in (a, b),!gpu" })
	s.refused(t, service, svc.ReasonNotPlaced, "no node can hold it: ")
	s.event(t, service, svc.ReasonNotPlaced, "does not match")
	for _, n := range s.Nodes {
		s.setNode(t, n, func(o *corev1.Node) { o.Labels["rack"] = "a" })
		s.holds(t, service, addrs, n)
		s.setNode(t, n, func(o *corev1.Node) { delete(o.Labels, "rack") })
		s.nobody(t, addrs)
	}
	if err := service.Change(within(t, patience), func(o *corev1.Service) { o.Annotations[svc.SelectorAnnotation] = "rack in a" }); err != nil {
		t.Fatal(err)
	}
	s.refused(t, service, svc.ReasonWithdrawn, "the annotation kube-vip.io/nodeSelector is no label selector")

	for i, n := range s.Nodes {
		addrs := s.addrs(4 + i)
		preferred := s.create(t, "preferred-"+n.Name, addrs, func(o *corev1.Service) { o.Annotations[svc.PreferredAnnotation] = n.Name })
		if at := s.on(t, preferred, addrs); at != n {
			t.Errorf("%s is preferred, and %s holds", n, at)
		}
	}
}

// plugIn gives a node an interface, and unplug takes it away.
func plugIn(t *testing.T, n *lab.Node, name string) {
	t.Helper()
	for _, args := range [][]string{
		{"link", "add", name, "type", "veth", "peer", "name", name + "p"},
		{"link", "set", name + "p", "up"},
		{"link", "set", name, "up"},
	} {
		if out, err := n.Run(within(t, patience), "ip", args...); err != nil {
			t.Fatalf("ip %s on %s: %v: %s", strings.Join(args, " "), n, err, out)
		}
	}
}

func unplug(t *testing.T, n *lab.Node, name string) {
	t.Helper()
	if out, err := n.Run(within(t, patience), "ip", "link", "del", name); err != nil {
		t.Fatalf("take %s from %s: %v: %s", name, n, err, out)
	}
}

// interfaceMissing: a Service goes where its interface is.
func interfaceMissing(t *testing.T, s *services) {
	const name = "lan7"
	addrs := s.addrs(8)
	service := s.create(t, "interface", addrs, func(o *corev1.Service) { o.Annotations[svc.InterfaceAnnotation] = name })
	s.refused(t, service, svc.ReasonNotPlaced, "no node can hold it: ")
	s.refused(t, service, svc.ReasonNotPlaced, `annotation kube-vip.io/serviceInterface: this node has no interface "lan7"`)
	s.refused(t, service, svc.ReasonNotPlaced, "has no interface lan7, or it is not up")
	for _, n := range s.Nodes[1:] {
		plugIn(t, n, name)
	}
	at := s.on(t, service, addrs)
	if at == s.Nodes[0] {
		t.Fatalf("%s holds and has no interface %s", at, name)
	}
	// It goes to the other one when its interface is down, and stays there when it is up again.
	if out, err := at.Run(within(t, patience), "ip", "link", "set", name, "down"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	other := s.moves(t, service, addrs, at)
	if _, err := s.pods[at].WaitLog(within(t, patience), "why=\"node "+at.Name+": interface "+name+" of "+addrs[0].String()+" is not up"); err != nil {
		t.Error(err)
	}
	if out, err := at.Run(within(t, patience), "ip", "link", "set", name, "up"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.stays(t, service, addrs, other)
	// One that is cordoned goes on where it is the only one that can.
	unplug(t, at, name)
	s.setNode(t, other, cordoned(true))
	s.stays(t, service, addrs, other)
	s.setNode(t, other, cordoned(false))
	unplug(t, other, name)
	s.nobody(t, addrs)
	s.refused(t, service, svc.ReasonNotPlaced, "no node can hold it: ")
	plugIn(t, s.Nodes[0], name)
	s.holds(t, service, addrs, s.Nodes[0])
	unplug(t, s.Nodes[0], name)
}

// leaseOnDemand: a Service that asks for a Lease of its own has one.
func leaseOnDemand(t *testing.T, s *services) {
	addrs := s.addrs(9)
	forced := func(o *corev1.Service) { o.Annotations[svc.ForceAnnotation] = "true" }
	service := s.create(t, "forced", addrs, forced)
	named, others := s.addrs(10), s.addrs(11)
	a := s.create(t, "named-a", named, forced, func(o *corev1.Service) { o.Annotations[svc.LeaseAnnotation] = "together" })
	b := s.create(t, "named-b", others, forced, func(o *corev1.Service) { o.Annotations[svc.LeaseAnnotation] = "default/together" })
	client, err := s.Kube()
	if err != nil {
		t.Fatal(err)
	}
	for lease, at := range map[string]*lab.Node{svc.LeasePrefix + "forced": s.on(t, service, addrs), "together": s.on(t, a, named)} {
		got, err := client.CoordinationV1().Leases(service.Namespace).Get(within(t, patience), lease, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Spec.HolderIdentity == nil || *got.Spec.HolderIdentity != at.Name {
			t.Errorf("%s holds, and the Lease %s says %v", at, lease, got.Spec.HolderIdentity)
		}
	}
	if x, y := s.on(t, a, named), s.on(t, b, others); x != y {
		t.Errorf("one Lease, and %s and %s hold", x, y)
	}
}

// noneLeft: when every node is excluded, Events on them say so, and no Service claims to be held any more.
func noneLeft(t *testing.T, s *services) {
	const ofControlPlane = "node-role.kubernetes.io/control-plane"
	addrs := s.addrs(12)
	service := s.create(t, "none-left", addrs)
	at := s.on(t, service, addrs)
	own := s.addrs(13)
	ofItsOwn := s.create(t, "none-left-own", own, func(o *corev1.Service) { o.Annotations[svc.PreferredAnnotation] = s.Nodes[0].Name })
	s.on(t, ofItsOwn, own)
	// The label of exclusion is there; what makes it say nothing goes.
	s.setNode(t, at, func(o *corev1.Node) { delete(o.Labels, ofControlPlane) })
	s.moves(t, service, addrs, at)
	for _, n := range s.Nodes {
		s.setNode(t, n, func(o *corev1.Node) { delete(o.Labels, ofControlPlane) })
	}
	s.nobody(t, addrs)
	s.nobody(t, own)
	s.refused(t, service, svc.ReasonNoneLeft, "no node is left to hold Services' addresses: node ")
	s.refused(t, ofItsOwn, svc.ReasonNotPlaced, "no node can hold it: ")
	for _, one := range []*lab.Service{service, ofItsOwn} {
		got, err := one.Get(within(t, patience))
		if err != nil {
			t.Fatal(err)
		}
		if host := got.Annotations[svc.HostAnnotation]; host != "" {
			t.Errorf("nobody holds %s, and the annotation %s still names %s", got.Name, svc.HostAnnotation, host)
		}
	}
	client, err := s.Kube()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range s.Nodes {
		var seen []string
		if err := lab.Wait(within(t, patience), "an Event on "+n.Name, func() (bool, error) {
			list, err := client.CoreV1().Events(metav1.NamespaceDefault).List(within(t, patience), metav1.ListOptions{FieldSelector: "involvedObject.kind=Node,involvedObject.name=" + n.Name})
			if err != nil {
				return false, err
			}
			seen = nil
			for _, e := range list.Items {
				seen = append(seen, fmt.Sprintf("%s %s: %s (%d)", e.Type, e.Reason, e.Message, e.Count))
				if e.Type == corev1.EventTypeWarning && e.Reason == svc.ReasonNoneLeft && strings.Contains(e.Message, "node "+n.Name+" has the label") {
					return true, nil
				}
			}
			return false, nil
		}); err != nil {
			t.Fatalf("%v; there are %q", err, seen)
		}
		if _, err := s.pods[n].WaitLog(within(t, patience), "no node is left to hold Services' addresses: node "); err != nil {
			t.Error(err)
		}
	}
	for _, n := range s.Nodes {
		s.setNode(t, n, func(o *corev1.Node) { o.Labels[ofControlPlane] = "" })
	}
	s.on(t, service, addrs)
	s.on(t, ofItsOwn, own)
}
