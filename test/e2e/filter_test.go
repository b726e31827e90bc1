package e2e

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/test/lab"
)

// reach waits until a port of every address can be reached from outside the cluster, or cannot.
func (s *services) reach(t *testing.T, addrs []netip.Addr, port uint16, want bool) {
	t.Helper()
	for _, a := range addrs {
		to := netip.AddrPortFrom(a, port).String()
		if err := lab.Wait(within(t, patience), to+" can or cannot be reached", func() (bool, error) {
			ctx, cancel := context.WithTimeout(within(t, patience), 500*time.Millisecond)
			defer cancel()
			c, err := s.Client.DialContext(ctx, "tcp", to)
			if err == nil {
				err = c.Close()
			}
			return (err == nil) == want, nil
		}); err != nil {
			t.Fatalf("%s: reached is to be %t: %v", to, want, err)
		}
	}
}

// TestServicesOnlyDeclaredPorts: of what a node listens on, a Service's address shows its own ports alone. The API
// server's is one that every node has.
func TestServicesOnlyDeclaredPorts(t *testing.T) {
	s := startServices(t, lab.Dual, "--onlyAllowTrafficServicePorts")
	addrs, others := s.addrs(11), s.addrs(12)
	service := s.create(t, "guarded", addrs)
	s.create(t, "unguarded", others, func(o *corev1.Service) { o.Annotations[svc.UnguardedAnnotation] = "true" })
	holder := s.on(t, service, addrs)
	s.reach(t, others, apiPort, true)
	s.reach(t, addrs, apiPort, false)
	s.reach(t, s.VIPs, apiPort, true)
	s.answersFor(t, addrs)

	if err := service.Change(within(t, patience), func(o *corev1.Service) { o.Annotations[svc.UnguardedAnnotation] = "true" }); err != nil {
		t.Fatal(err)
	}
	s.reach(t, addrs, apiPort, true)
	if err := service.Change(within(t, patience), func(o *corev1.Service) { delete(o.Annotations, svc.UnguardedAnnotation) }); err != nil {
		t.Fatal(err)
	}
	s.reach(t, addrs, apiPort, false)

	tables := func() string {
		nft, err := lab.Tool("nft")
		if err != nil {
			t.Fatal(err)
		}
		out, err := holder.Run(within(t, patience), nft, "list", "tables")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	const table = "table inet kube-vip\n"
	if got := tables(); !strings.Contains(got, table) {
		t.Errorf("tables of the holder are %q, want %q among them", got, table)
	}
	if err := s.pods[holder].Stop(); err != nil {
		t.Fatal(err)
	}
	if got := tables(); strings.Contains(got, table) {
		t.Errorf("tables after a stop are %q, want none of ours", got)
	}
	s.run(t, holder, lab.PodOptions{})
	s.on(t, service, addrs)
	s.reach(t, addrs, apiPort, false)
}
