package e2e

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/test/lab"
)

// namespace makes a namespace, if there is none, and returns what puts a Service there.
func (s *services) namespace(t *testing.T, name string) func(*corev1.Service) {
	t.Helper()
	client, err := s.Kube()
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.CoreV1().Namespaces().Create(within(t, patience), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	return func(o *corev1.Service) { o.Namespace = name }
}

// port gives a Service one port and no others.
func port(protocol corev1.Protocol, number int32) func(*corev1.Service) {
	return func(o *corev1.Service) {
		o.Spec.Ports = []corev1.ServicePort{{Name: "one", Protocol: protocol, Port: number, TargetPort: o.Spec.Ports[0].TargetPort}}
	}
}

// reaches asks through a port of each address until a backend has answered.
func (s *services) reaches(t *testing.T, network string, addrs []netip.Addr, number uint16) {
	t.Helper()
	for _, a := range addrs {
		to := netip.AddrPortFrom(a, number)
		var last error
		if err := lab.Wait(within(t, patience), network+" through "+to.String(), func() (bool, error) {
			_, last = s.Client.Ask(within(t, patience), network, to)
			return last == nil, nil
		}); err != nil {
			t.Fatalf("%v: %v", err, last)
		}
	}
}

// serviceSharedAcross: Services of two namespaces have an address, by other ports or protocols. One node holds it for all;
// the refusal of one more and the deletion of one are nothing to the others.
func serviceSharedAcross(t *testing.T, s *services) {
	addrs := s.addrs(33)
	elsewhere := s.namespace(t, "shop")
	first := s.create(t, "across-tcp", addrs, port(corev1.ProtocolTCP, 80))
	second := s.create(t, "across-udp", addrs, port(corev1.ProtocolUDP, 80), elsewhere)
	third := s.create(t, "across-other", addrs, port(corev1.ProtocolTCP, 81), elsewhere)
	holder := s.on(t, first, addrs)
	for _, one := range []*lab.Service{second, third} {
		if at := s.on(t, one, addrs); at != holder {
			t.Errorf("one address, and %s and %s hold it", holder, at)
		}
	}
	s.reaches(t, "tcp", addrs, 80)
	s.reaches(t, "udp", addrs, 80)
	s.reaches(t, "tcp", addrs, 81)

	var still []func()
	for _, a := range addrs {
		still = append(still, s.unbroken(t, holder, a))
	}
	before, err := first.Get(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	fourth := s.create(t, "across-clash", addrs, port(corev1.ProtocolTCP, 80), elsewhere)
	s.refused(t, fourth, svc.ReasonRefused, "Service default/across-tcp has 80/TCP on "+addrs[0].String()+" already")
	if after, err := first.Get(within(t, patience)); err != nil || after.ResourceVersion != before.ResourceVersion {
		t.Errorf("the first was written when another one was refused (%v)", err)
	}
	if err := third.Delete(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	wait(t, 2*time.Second)
	s.on(t, first, addrs)
	s.on(t, second, addrs)
	for _, f := range still {
		f()
	}
	// The oldest goes, and who was refused has the port. What was held under its Lease is held under another one's then,
	// after a moment without, by the same node.
	watches := map[netip.Addr]*lab.AnswerWatch{}
	for _, a := range addrs {
		if watches[a], err = s.WatchAnswers(a, questionEvery); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.Delete(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	s.on(t, fourth, addrs)
	wait(t, 2*time.Second)
	for a, w := range watches {
		got := w.Stop()
		t.Logf("%s: silent for %s at most when the oldest was deleted", a, got.Silence.Round(time.Millisecond))
		if got.Max != 1 || !slices.Equal(got.Owners, []string{holder.Name}) || got.Silence > leaseDuration {
			t.Errorf("%s was held by %s, and then answered by %v, by %d at most, silent for %s", a, holder, got.Owners, got.Max, got.Silence)
		}
	}
	if at := s.on(t, second, addrs); at != holder {
		t.Errorf("%s held, and now %s does", holder, at)
	}
	s.reaches(t, "tcp", addrs, 80)
	s.reaches(t, "udp", addrs, 80)
}

// serviceSharedWithControlPlane: a Service has ports of the control plane's VIPs, is where they are, and leaves them there.
func serviceSharedWithControlPlane(t *testing.T, s *services) {
	const number = 82
	service := s.create(t, "beside", s.VIPs, port(corev1.ProtocolTCP, number))
	holder := s.holder(t)
	if at := s.on(t, service, s.VIPs); at != holder {
		t.Errorf("%s holds the control plane's VIPs, and %s those of the Service", holder, at)
	}
	s.reaches(t, "tcp", s.VIPs, number)
	clash := s.create(t, "beside-clash", s.VIPs, port(corev1.ProtocolTCP, number))
	s.refused(t, clash, svc.ReasonRefused, "Service default/beside has 82/TCP on "+s.VIPs[0].String()+" already")

	greedy := s.create(t, "beside-greedy", s.VIPs, port(corev1.ProtocolTCP, apiPort))
	s.refused(t, greedy, svc.ReasonRefused, "the control plane has 6443/TCP on "+s.VIPs[0].String()+" already")

	// They move together.
	if err := s.pods[holder].Stop(); err != nil {
		t.Error(err)
	}
	eventually(t, "another node holds", func() (bool, error) {
		nodes, err := s.Holders(s.VIPs[0])
		return len(nodes) == 1 && nodes[0] != holder, err
	})
	next := s.on(t, service, s.VIPs)
	s.reaches(t, "tcp", s.VIPs, number)
	s.run(t, holder, lab.PodOptions{})
	if now := s.settled(t); now != next {
		t.Errorf("%s holds the control plane's VIPs, and %s those of the Service", now, next)
	}

	// What goes is the Service, and not the VIPs.
	var still []func()
	for _, v := range s.VIPs {
		still = append(still, s.unbroken(t, next, v))
	}
	for _, one := range slices.Backward([]*lab.Service{service, clash, greedy}) {
		if err := one.Delete(within(t, patience)); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, 2*time.Second)
	for _, f := range still {
		f()
	}
	s.settled(t)
}
