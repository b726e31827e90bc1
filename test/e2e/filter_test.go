package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
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

// pinged says whether an address answers an echo request from outside the cluster.
func (s *services) pinged(t *testing.T, to netip.Addr) (answered bool) {
	t.Helper()
	network, local, protocol := "ip4:icmp", "0.0.0.0", unix.IPPROTO_ICMP
	request, reply := icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply)
	if to.Is6() {
		network, local, protocol = "ip6:ipv6-icmp", "::", unix.IPPROTO_ICMPV6
		request, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	var c *icmp.PacketConn
	if err := s.Client.Do(func() (err error) {
		c, err = icmp.ListenPacket(network, local)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	echo, err := (&icmp.Message{Type: request, Body: &icmp.Echo{ID: 7, Seq: 1}}).Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteTo(echo, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, 1500); ; {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return false
		}
		if m, err := icmp.ParseMessage(protocol, b[:n]); err == nil && m.Type == reply && from.String() == to.String() {
			return true
		}
	}
}

// ping waits until every address answers an echo request.
func (s *services) ping(t *testing.T, addrs []netip.Addr) {
	t.Helper()
	for _, a := range addrs {
		eventually(t, "an echo reply of "+a.String(), func() (bool, error) { return s.pinged(t, a), nil })
	}
}

// filtered says whether a node has the table of that name.
func filtered(t *testing.T, n *lab.Node, table string) bool {
	t.Helper()
	nft, err := lab.Tool("nft")
	if err != nil {
		t.Fatal(err)
	}
	out, err := n.Run(within(t, patience), nft, "list", "tables")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(out, "table inet "+table+"\n")
}

// TestServicesOnlyDeclaredPorts: of what a node listens on, a Service's address shows its own ports alone. The API
// server's is one that every node has.
func TestServicesOnlyDeclaredPorts(t *testing.T) {
	s := startServices(t, lab.Dual, "--onlyAllowTrafficServicePorts", "--instanceName", "blue")
	const table = "kube-vip-blue"
	addrs, others := s.addrs(11), s.addrs(12)
	service := s.create(t, "guarded", addrs)
	s.create(t, "unguarded", others, func(o *corev1.Service) { o.Annotations[svc.UnguardedAnnotation] = "true" })
	holder := s.on(t, service, addrs)
	s.reach(t, others, apiPort, true)
	s.reach(t, addrs, apiPort, false)
	s.reach(t, s.VIPs, apiPort, true)
	s.answersFor(t, addrs)
	s.ping(t, addrs)

	change := func(f func(o *corev1.Service)) {
		t.Helper()
		if err := service.Change(within(t, patience), f); err != nil {
			t.Fatal(err)
		}
	}
	change(func(o *corev1.Service) { o.Annotations[svc.UnguardedAnnotation] = "true" })
	s.reach(t, addrs, apiPort, true)
	change(func(o *corev1.Service) { delete(o.Annotations, svc.UnguardedAnnotation) })
	s.reach(t, addrs, apiPort, false)

	// A port more is open, and closed again with the declaration.
	const more = 8081
	change(func(o *corev1.Service) {
		o.Spec.Ports = append(o.Spec.Ports, corev1.ServicePort{Name: "more", Port: more, TargetPort: o.Spec.Ports[0].TargetPort})
	})
	open := fmt.Sprintf("%s . tcp . %d", addrs[0], more)
	s.lets(t, holder, table, open, true)
	change(func(o *corev1.Service) { o.Spec.Ports = o.Spec.Ports[:len(o.Spec.Ports)-1] })
	s.lets(t, holder, table, open, false)

	// Who is killed leaves the table, and the next life takes it over: there is no moment without one.
	if !filtered(t, holder, table) {
		t.Fatalf("node %s has no table inet %s", holder.Name, table)
	}
	restarts := s.pods[holder].Restarts()
	killed := time.Now()
	if err := s.pods[holder].Kill(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan error, 1)
	go func() {
		if err := s.pods[holder].WaitRunning(within(t, patience), restarts+1); err != nil {
			ready <- err
			return
		}
		_, err := s.pods[holder].WaitLogSince(within(t, patience), killed, "the addresses and ports that can be reached changed")
		ready <- err
	}()
	for taken := false; !taken; {
		select {
		case err := <-ready:
			if err != nil {
				t.Fatal(err)
			}
			taken = true
		default:
		}
		if !filtered(t, holder, table) {
			t.Fatalf("the table is gone %s after the kill", time.Since(killed))
		}
	}
	s.on(t, service, addrs)
	s.reach(t, addrs, apiPort, false)
	s.answersFor(t, addrs)

	// Who is stopped takes it along.
	holder = s.on(t, service, addrs)
	if err := s.pods[holder].Stop(); err != nil {
		t.Fatal(err)
	}
	if filtered(t, holder, table) {
		t.Errorf("the table is on node %s after a stop", holder.Name)
	}
	s.run(t, holder, lab.PodOptions{})
	s.on(t, service, addrs)
	s.reach(t, addrs, apiPort, false)
}

// lets waits until the table on a node has a port among those that pass, or has it no more.
func (s *services) lets(t *testing.T, n *lab.Node, table, port string, want bool) {
	t.Helper()
	nft, err := lab.Tool("nft")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, fmt.Sprintf("%s passes: %t", port, want), func() (bool, error) {
		out, err := n.Run(within(t, patience), nft, "list", "table", "inet", table)
		return strings.Contains(out, port) == want, err
	})
}
