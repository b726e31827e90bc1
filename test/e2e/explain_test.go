package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/test/lab"
)

// explanation and status are what the program prints as JSON, as far as it is looked at here.
type explanation struct {
	svc.Explanation
	Wire []struct {
		Address                               netip.Addr
		Here, Asked, NotAsked, MAC, Node, But string
	}
}

type status struct {
	VIPs []struct {
		VIP, For, State string
		Held            bool
		Lock            *svc.Lock
	}
	Members []struct {
		Node, Health, Version string
		Live                  bool
	}
	NotKnown []string
}

// ask runs a command of the program on a host as its admin would, with the settings of the instances.
func (s *services) ask(t *testing.T, on *lab.Host, into any, command ...string) string {
	t.Helper()
	var addresses []string
	for _, v := range s.VIPs {
		addresses = append(addresses, v.String())
	}
	args := append(slices.Clone(command), "--arp", "--controlplane", "--services", "--address", strings.Join(addresses, ","),
		"--k8sConfigPath", s.Nodes[0].Path("/etc/kubernetes/admin.conf"))
	text, err := on.Run(within(t, patience), lab.Binary(t), args...)
	if err != nil {
		t.Fatal(err)
	}
	out, err := on.Run(within(t, patience), lab.Binary(t), append(args, "-o", "json")...)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("kube-vip %s, on %s:\n%s", strings.Join(command, " "), on.Name, text)
	return text
}

// explain explains a Service, on a host.
func (s *services) explain(t *testing.T, on *lab.Host, service *lab.Service) (explanation, string) {
	t.Helper()
	var x explanation
	text := s.ask(t, on, &x, "explain", "service", service.Namespace+"/"+service.Name)
	return x, text
}

// TestExplain asks why Services are as they are, and who holds what.
func TestExplain(t *testing.T) {
	s := startServices(t, lab.IPv4)
	t.Run("announced", func(t *testing.T) { explainAnnounced(t, s) })
	t.Run("refused", func(t *testing.T) { explainRefused(t, s) })
	t.Run("Local, with an endpoint on one node", func(t *testing.T) { explainLocal(t, s) })
	t.Run("another node answers", func(t *testing.T) { explainStranger(t, s) })
	t.Run("no such Service, no API", func(t *testing.T) { explainNothing(t, s) })
	t.Run("after the holder is stopped", func(t *testing.T) { explainStopped(t, s) })
}

func explainAnnounced(t *testing.T, s *services) {
	addrs := s.addrs(2)
	service := s.create(t, "announced", addrs)
	holder := s.on(t, service, addrs)
	plane := s.holder(t)

	for _, on := range []*lab.Host{holder.Host, other(s, holder).Host} {
		x, text := s.explain(t, on, service)
		if want := holder.Name + " holds " + addrs[0].String(); x.Verdict != want {
			t.Errorf("the verdict is %q, want %q", x.Verdict, want)
		}
		if len(x.But) > 0 || len(x.NotKnown) > 0 {
			t.Errorf("contradictions %q, not known %q", x.But, x.NotKnown)
		}
		if len(x.Holdings) != 1 || len(x.Holdings[0].Candidates) != len(s.Nodes) {
			t.Fatalf("Leases %+v", x.Holdings)
		}
		for _, c := range x.Holdings[0].Candidates {
			if !c.May || c.Holds != (c.Node == holder.Name) {
				t.Errorf("%+v, and %s holds", c, holder)
			}
		}
		died := x.Holdings[0].IfDied
		if len(died) != 1 || died[0].Node != holder.Name || len(died[0].Next) != len(s.Nodes)-1 || died[0].Takeover != 5.25 {
			t.Errorf("if it died: %+v", died)
		}
		if len(x.Wire) != 1 {
			t.Fatalf("on the wire: %+v", x.Wire)
		}
		w := x.Wire[0]
		if on == holder.Host && (w.Here != holder.Link || w.MAC != "") || on != holder.Host && (w.MAC != holder.MAC.String() || w.Node != holder.Name) {
			t.Errorf("asked on %s, and %s with %s holds: %+v", on, holder, holder.MAC, w)
		}
		if !strings.HasPrefix(text, "Service default/announced: "+x.Verdict+"\n") {
			t.Errorf("the text begins otherwise than the verdict %q", x.Verdict)
		}
	}

	// A host that is no node asks the network all the same.
	x, _ := s.explain(t, s.Client, service)
	if x.Wire[0].Node != holder.Name {
		t.Errorf("asked by the client: %+v", x.Wire)
	}

	var st status
	s.ask(t, holder.Host, &st, "status")
	holders := map[string]string{}
	for _, v := range st.VIPs {
		if v.Lock != nil && v.Held {
			holders[v.VIP] = v.Lock.Holder
		}
	}
	if holders[s.VIPs[0].String()] != plane.Name || holders[addrs[0].String()] != holder.Name || len(st.VIPs) != 2 {
		t.Errorf("%s holds %s and %s %s; the status says %+v", plane, s.VIPs[0], holder, addrs[0], st.VIPs)
	}
	if len(st.Members) != len(s.Nodes) {
		t.Fatalf("members %+v", st.Members)
	}
	for _, m := range st.Members {
		if !m.Live || m.Health != "healthy" {
			t.Errorf("member %+v", m)
		}
	}
}

func other(s *services, n *lab.Node) *lab.Node {
	return s.Nodes[(slices.Index(s.Nodes, n)+1)%len(s.Nodes)]
}

func explainRefused(t *testing.T, s *services) {
	node := s.Nodes[1]
	service := s.create(t, "refused", []netip.Addr{node.Addr()})
	why := node.Addr().String() + ": it is an address of node " + node.Name
	s.refused(t, service, svc.ReasonRefused, why)
	x, _ := s.explain(t, s.Nodes[0].Host, service)
	if want := "it is not announced: refused " + why; x.Verdict != want || len(x.But) > 0 {
		t.Errorf("the verdict is %q, want %q; contradictions %q", x.Verdict, want, x.But)
	}
	var st status
	s.ask(t, s.Nodes[0].Host, &st, "status")
	if !slices.ContainsFunc(st.VIPs, func(v struct {
		VIP, For, State string
		Held            bool
		Lock            *svc.Lock
	}) bool {
		return v.For == "default/refused" && v.VIP == node.Addr().String() && !v.Held && strings.Contains(v.State, "it is an address of node "+node.Name)
	}) {
		t.Errorf("the status says %+v", st.VIPs)
	}
}

func explainLocal(t *testing.T, s *services) {
	addrs := s.addrs(3)
	service := s.create(t, "local", addrs, func(o *corev1.Service) { o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
	only := s.Nodes[2]
	if err := service.SetEndpoints(within(t, patience), lab.Ready(s.backends[only])); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the addresses are where the endpoint is", func() (bool, error) {
		nodes, err := s.Holders(addrs[0])
		return len(nodes) == 1 && nodes[0] == only, err
	})
	s.on(t, service, addrs)
	x, text := s.explain(t, s.Nodes[0].Host, service)
	if want := only.Name + " holds " + addrs[0].String(); x.Verdict != want || len(x.But) > 0 {
		t.Errorf("the verdict is %q, want %q; contradictions %q", x.Verdict, want, x.But)
	}
	if len(x.Holdings) != 1 || x.Holdings[0].Lease != "default/kubevip-local" {
		t.Fatalf("Leases %+v", x.Holdings)
	}
	for _, c := range x.Holdings[0].Candidates {
		if c.May != (c.Node == only.Name) || !c.May && c.Why != "node "+c.Node+" has no ready endpoint, and externalTrafficPolicy is Local" {
			t.Errorf("%+v", c)
		}
	}
	if !strings.Contains(text, "if "+only.Name+" died: nobody else may hold it") {
		t.Errorf("it does not say that nobody else may hold it")
	}

	// With endpoints everywhere, who is named as the next is the next.
	if err := service.SetEndpoints(within(t, patience), s.everywhere()); err != nil {
		t.Fatal(err)
	}
	var next string
	eventually(t, "all may hold it", func() (bool, error) {
		x, _ = s.explain(t, s.Nodes[0].Host, service)
		next = x.Holdings[0].IfDied[0].Next[0]
		return len(x.Holdings[0].IfDied[0].Next) == len(s.Nodes)-1, nil
	})
	if err := s.pods[only].Stop(); err != nil {
		t.Error(err)
	}
	eventually(t, "another node holds", func() (bool, error) {
		nodes, err := s.Holders(addrs[0])
		return len(nodes) == 1 && nodes[0] != only, err
	})
	if now := s.on(t, service, addrs); now.Name != next {
		t.Errorf("%s holds, and %s was to be the next", now, next)
	}
	s.run(t, only, lab.PodOptions{})
	s.settled(t)
}

// explainStranger: somebody puts the address on another node by hand, and it is seen.
func explainStranger(t *testing.T, s *services) {
	addrs := s.addrs(4)
	service := s.create(t, "doubled", addrs)
	holder := s.on(t, service, addrs)
	if err := s.Client.AddAddress(s.Client.Link, netip.PrefixFrom(addrs[0], 32)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Client.RemoveAddress(s.Client.Link, netip.PrefixFrom(addrs[0], 32)); err != nil {
			t.Error(err)
		}
	}()
	x, _ := s.explain(t, holder.Host, service)
	if want := fmt.Sprintf("%s is on this node, %s, and %s answers, too", addrs[0], holder.Name, s.Client.MAC); !slices.Contains(x.But, want) {
		t.Errorf("contradictions %q, want %q", x.But, want)
	}
}

func explainNothing(t *testing.T, s *services) {
	kubeconfig := s.Nodes[0].Path("/etc/kubernetes/admin.conf")
	s.create(t, "nothing", nil)
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"no such Service", []string{"explain", "service", "shop/nothing", "--k8sConfigPath", kubeconfig}, "error: there is no Service shop/nothing; did you mean default/nothing?\n"},
		{"no such name", []string{"explain", "service", "nosuch", "--k8sConfigPath", kubeconfig}, "error: there is no Service default/nosuch\n"},
		{"no API", []string{"status", "--k8sConfigPath", kubeconfig, "--kubernetesAddr", "127.0.0.1:1"}, "error: list "},
	} {
		began := time.Now()
		out, err := s.Client.Run(within(t, patience), lab.Binary(t), tc.args...)
		if err == nil || !strings.Contains(out, tc.want) || strings.Count(out, "\n") > 2 {
			t.Errorf("%s, after %s: %v, %q, want %q", tc.name, time.Since(began), err, out, tc.want)
		}
	}
}

// explainStopped: the holder's kube-vip is stopped, then all are.
func explainStopped(t *testing.T, s *services) {
	addrs := s.addrs(5)
	service := s.create(t, "stopped", addrs)
	holder := s.on(t, service, addrs)
	if err := s.pods[holder].Stop(); err != nil {
		t.Error(err)
	}
	eventually(t, "another node holds", func() (bool, error) {
		nodes, err := s.Holders(addrs[0])
		return len(nodes) == 1 && nodes[0] != holder, err
	})
	next := s.on(t, service, addrs)
	x, _ := s.explain(t, s.Client, service)
	if want := next.Name + " holds " + addrs[0].String(); x.Verdict != want || len(x.But) > 0 {
		t.Errorf("the verdict is %q, want %q; contradictions %q", x.Verdict, want, x.But)
	}
	for _, c := range x.Holdings[0].Candidates {
		if c.Node == holder.Name && (c.May || c.Why != "kube-vip has stopped there") {
			t.Errorf("%+v, and it was stopped", c)
		}
	}
	for _, n := range s.Nodes {
		if n != holder {
			if err := s.pods[n].Stop(); err != nil {
				t.Error(err)
			}
		}
	}
	s.nobody(t, addrs)
	x, _ = s.explain(t, s.Nodes[0].Host, service)
	if !strings.HasPrefix(x.Verdict, "nobody holds "+addrs[0].String()) || len(x.But) == 0 {
		t.Errorf("the verdict is %q, contradictions %q", x.Verdict, x.But)
	}
	var st status
	text := s.ask(t, s.Nodes[0].Host, &st, "status")
	if !strings.HasPrefix(text, "No kube-vip runs: ") {
		t.Error("it does not say that nothing runs")
	}
	for _, v := range st.VIPs {
		if v.Held {
			t.Errorf("%+v, and nothing runs", v)
		}
	}
	for _, n := range s.Nodes {
		s.run(t, n, lab.PodOptions{})
	}
	s.settled(t)
}
