package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/test/lab"
)

// The nodes' AS, the router's, and how long a session may be silent.
const (
	nodesAS, routerAS = 65001, 65000
	bgpHold           = 6 * time.Second
	bgpSecret         = "secret" // of IPv4
	// BFD is for the cluster with both families: a path is lost after a second and a half.
	bfdInterval   = 300 * time.Millisecond
	bfdMultiplier = 5
)

// routed is a cluster whose nodes announce VIPs by BGP, in no network of theirs, to a router with a client behind it.
type routed struct {
	*services
	router *lab.Router
}

// startRouted runs `kube-vip manifest pod --bgp`, for the control plane and Services, on every node.
func startRouted(t *testing.T, kind lab.RouterKind, family lab.Family) *routed {
	t.Helper()
	if why := lab.CheckRouter(kind); why != nil {
		lab.Need(t, why)
	}
	vips := map[lab.Family][]netip.Addr{
		lab.IPv4: {netip.MustParseAddr("10.99.0.10")}, lab.IPv6: {netip.MustParseAddr("fd00:99::10")},
		lab.Dual: {netip.MustParseAddr("10.99.0.10"), netip.MustParseAddr("fd00:99::10")},
	}[family]
	l := lab.New(t, lab.Options{Family: family, KubeProxy: true, VIPs: vips, Endpoint: "127.0.0.1:6443"})
	neighbor := lab.Neighbor{AS: nodesAS, Family: family, Hold: bgpHold, Keepalive: bgpHold / 3, Passive: true, GracefulRestart: true}
	if family == lab.IPv4 {
		neighbor.Password = bgpSecret
	}
	if family == lab.Dual {
		neighbor.BFD = &lab.BFDIntervals{Transmit: bfdInterval, Receive: bfdInterval, Multiplier: bfdMultiplier}
	}
	router, err := l.StartRouter(within(t, patience), lab.RouterOptions{Kind: kind, AS: routerAS, Neighbors: l.NodeNeighbors(neighbor)})
	if err != nil {
		t.Fatal(err)
	}
	peer := router.Addr().String()
	if router.Addr().Is6() {
		peer = "[" + peer + "]"
	}
	peer += fmt.Sprintf(":%d:%s", routerAS, neighbor.Password)
	if family == lab.Dual {
		peer += fmt.Sprintf(":false:179:mpbgp_nexthop=auto_sourceif:enable;%[1]d;%[1]d;%[2]d", bfdInterval.Milliseconds(), bfdMultiplier)
	}
	var addresses []string
	for _, v := range l.VIPs {
		addresses = append(addresses, v.String())
	}
	manifest := generate(t, "manifest", "pod", "--bgp", "--controlplane", "--services", "--address", strings.Join(addresses, ","),
		"--localAS", fmt.Sprint(nodesAS), "--bgppeers", peer,
		"--bgpHoldTimer", fmt.Sprint(int(bgpHold.Seconds())), "--bgpKeepAliveInterval", fmt.Sprint(int(bgpHold.Seconds())/3), "--sourceIF", "eth0")
	s := &services{cluster: &cluster{Lab: l, manifest: manifest, pods: map[*lab.Node]*lab.Pod{}}, backends: map[*lab.Node]*lab.Backend{}}
	r := &routed{s, router}
	for _, n := range l.Nodes {
		s.run(t, n, r.options(n))
		if s.backends[n], err = n.RunBackend(within(t, patience), "web-"+n.Name); err != nil {
			t.Fatal(err)
		}
	}
	r.everyone(t, r.VIPs...)
	return r
}

// routes waits until the router's kernel goes to these addresses by exactly these nodes.
func (r *routed) routes(t *testing.T, addrs []netip.Addr, nodes ...*lab.Node) {
	t.Helper()
	for _, a := range addrs {
		var hops []netip.Addr
		for _, n := range nodes {
			for _, p := range n.Addrs {
				if p.Addr().Is4() == a.Is4() {
					hops = append(hops, p.Addr())
				}
			}
		}
		prefix := netip.PrefixFrom(a, a.BitLen())
		if err := r.router.WaitRoute(within(t, patience), prefix, hops...); err != nil {
			known, _ := r.router.Routes(within(t, patience), prefix)
			kernel, _ := r.router.Run(within(t, patience), "ip", "route", "show", "table", "all", prefix.String())
			t.Fatalf("%v; the router knows %+v, and its kernel has %s", err, known, kernel)
		}
	}
}

// everyone waits until all nodes announce the addresses.
func (r *routed) everyone(t *testing.T, addrs ...netip.Addr) {
	t.Helper()
	r.routes(t, addrs, r.Nodes...)
}

// but are all nodes except one.
func (r *routed) but(n *lab.Node) []*lab.Node {
	return slices.DeleteFunc(slices.Clone(r.Nodes), func(o *lab.Node) bool { return o == n })
}

// remote are addresses for a Service, in no network of the nodes, one in each family of the lab.
func (r *routed) remote(number int) []netip.Addr {
	var list []netip.Addr
	for _, v := range r.VIPs {
		text := fmt.Sprintf("10.99.1.%d", number)
		if v.Is6() {
			text = fmt.Sprintf("fd00:99:1::%d", number)
		}
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

// load tries the control plane's VIP from behind the router, and Services, all the while. A router that hashes modulo the
// number of next hops sends connections that are open elsewhere whenever that changes, and they are reset: those are the
// router's doing, and counted as moved.
func (r *routed) load(t *testing.T, services ...netip.Addr) (stop func() tries) {
	t.Helper()
	const late = 200 * time.Millisecond // is what is heard of the kernel's changes
	watch, err := r.router.WatchRoutes()
	if err != nil {
		t.Fatal(err)
	}
	var gaps []*lab.Gap
	begin := func(o lab.GapOptions) {
		g, err := r.router.Client.StartGap(within(t, 10*patience), o)
		if err != nil {
			t.Fatal(err)
		}
		gaps = append(gaps, g)
	}
	for _, v := range r.VIPs {
		begin(lab.GapOptions{Target: netip.AddrPortFrom(v, apiPort), TLS: true})
	}
	for _, a := range services {
		begin(lab.GapOptions{Target: netip.AddrPortFrom(a, lab.ServicePort), HTTP: true})
	}
	return func() (all tries) {
		defer watch.Close()
		changes := watch.Events(netip.Prefix{})
		for _, g := range gaps {
			result := g.Stop()
			all.attempts += len(result.Attempts)
			for _, a := range result.Attempts {
				during := func(e lab.RouteEvent) bool { return e.Time.After(a.Start.Add(-late)) && e.Time.Before(a.End.Add(late)) }
				switch {
				case a.Err == nil:
				case errors.Is(a.Err, syscall.ECONNRESET) && slices.ContainsFunc(changes, during):
					all.moved++
				default:
					if all.failed++; a.Start.After(all.last) {
						all.last = a.Start
					}
				}
			}
			if result.Failed > 0 {
				t.Logf("%s: %v", result, result.Causes())
			}
		}
		if err := watch.Err(); err != nil {
			t.Error(err)
		}
		t.Logf("%d of %d attempts failed, and %d were moved by the router", all.failed, all.attempts, all.moved)
		return all
	}
}

// tries is what came of a load.
type tries struct {
	failed, moved, attempts int
	last                    time.Time // when the last one began that failed
}

// lostUntil checks that nothing that began after the router went elsewhere has failed.
func (all tries) lostUntil(t *testing.T, elsewhere time.Time) {
	t.Helper()
	const late = 300 * time.Millisecond // is what is heard of the kernel, and what is begun before it is sent
	if all.last.After(elsewhere.Add(late)) {
		t.Errorf("of %d attempts that failed the last began %s after the router went elsewhere", all.failed, all.last.Sub(elsewhere))
	}
	if all.attempts == 0 {
		t.Error("nothing was tried")
	}
}

// TestBGP: every node announces the control plane's VIP and Services to a real router, and what is behind that gets there.
func TestBGP(t *testing.T) {
	for _, c := range []struct {
		kind   lab.RouterKind
		family lab.Family
	}{{lab.FRR, lab.IPv4}, {lab.FRR, lab.Dual}, {lab.BIRD, lab.IPv6}} {
		t.Run(fmt.Sprintf("%s-%s", c.kind, c.family), func(t *testing.T) {
			r := startRouted(t, c.kind, c.family)
			for _, scenario := range []struct {
				name string
				run  func(*testing.T, *routed)
			}{
				{"the control plane is reached", bgpControlPlane},
				{"a Service is reached", bgpService},
				{"Local, with an endpoint on one node", bgpLocal},
				{"a Service's own attributes", bgpAttributes},
				{"a node is cordoned", bgpCordoned},
				{"it is told of", bgpTold},
				{"the API server is killed", bgpAPIKilled},
				{"instances are rolled", bgpRolled},
				{"the instance is killed", bgpKilled},
				{"a new process takes the place of one that was killed", bgpRestarted},
				{"the session is reset", bgpReset},
				{"the password changes", bgpPassword},
				{"one node is elected", bgpElected},
				{"the node vanishes", bgpVanishes},
			} {
				t.Run(scenario.name, func(t *testing.T) {
					scenario.run(t, r)
					r.everyone(t, r.VIPs...)
				})
			}
		})
	}
}

// bgpControlPlane: the address is on lo of every node, with our mark, and the API answers behind the router.
func bgpControlPlane(t *testing.T, r *routed) {
	for _, v := range r.VIPs {
		for _, n := range r.Nodes {
			addrs, err := n.Addresses()
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(addrs, func(a lab.Address) bool { return a.Prefix.Addr() == v && a.Link == "lo" && a.Prefix.IsSingleIP() }) {
				t.Errorf("%s is not on lo of %s: %v", v, n, addrs)
			}
		}
		routes, err := r.router.Routes(within(t, patience), netip.PrefixFrom(v, v.BitLen()))
		if err != nil || len(routes) != len(r.Nodes) {
			t.Errorf("the router knows %d paths to %s: %v", len(routes), v, err)
		}
		for _, route := range routes {
			if !slices.Equal(route.ASPath, []uint32{nodesAS}) || route.Origin != "IGP" || len(route.Communities) > 0 {
				t.Errorf("a path to %s is %+v", v, route)
			}
		}
	}
	stop := r.load(t)
	wait(t, time.Second)
	if all := stop(); all.failed+all.moved > 0 || all.attempts == 0 {
		t.Errorf("%d of %d attempts failed", all.failed+all.moved, all.attempts)
	}
}

// bgpService: every node announces a Service that has an endpoint somewhere, the leader says so, and it is on no interface.
func bgpService(t *testing.T, r *routed) {
	addrs := r.remote(1)
	service := r.create(t, "everywhere", addrs)
	r.everyone(t, addrs...)
	r.says(t, service, metav1.ConditionTrue, svc.ReasonAnnounced, "3 nodes announce "+spaced(addrs)+": "+strings.Join(names(r.Nodes), "; "))
	got, err := service.Get(within(t, patience))
	if err != nil || len(got.Status.LoadBalancer.Ingress) != len(addrs) || got.Annotations[svc.HostAnnotation] != "" {
		t.Errorf("the status is %+v, and the annotations %v; %v", got.Status, got.Annotations, err)
	}
	r.asked(t, addrs)
	for _, n := range r.Nodes {
		if has, err := n.Has(addrs[0]); has || err != nil {
			t.Errorf("%s is on %s; %v", addrs[0], n, err)
		}
	}
	if err := service.SetEndpoints(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	r.routes(t, addrs)
	r.says(t, service, metav1.ConditionFalse, svc.ReasonWithdrawn, "it has no ready endpoint")
}

// spaced lists addresses as messages do.
func spaced(addrs []netip.Addr) string { return strings.ReplaceAll(listed(addrs), ",", ", ") }

func names(nodes []*lab.Node) []string {
	var list []string
	for _, n := range nodes {
		list = append(list, n.Name)
	}
	return list
}

// asked asks through each address from behind the router until so many in a row were answered that all nodes were among
// those who had to: kube-proxy on each of them takes up to a second.
func (r *routed) asked(t *testing.T, addrs []netip.Addr) {
	t.Helper()
	const inRow = 30
	for _, a := range addrs {
		var last error
		answered := 0
		if err := lab.Wait(within(t, patience), "tcp through "+a.String(), func() (bool, error) {
			_, err := r.router.Client.Ask(within(t, time.Second), "tcp", netip.AddrPortFrom(a, lab.ServicePort))
			if answered++; err != nil {
				answered, last = 0, err
			}
			return answered == inRow, nil
		}); err != nil {
			t.Fatalf("%v: %v", err, last)
		}
	}
}

// bgpLocal: only nodes with an endpoint announce, and they follow it.
func bgpLocal(t *testing.T, r *routed) {
	addrs := r.remote(2)
	service := r.create(t, "local", addrs, func(o *corev1.Service) { o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
	r.everyone(t, addrs...)
	for _, n := range r.Nodes {
		if err := service.SetEndpoints(within(t, patience), lab.Ready(r.backends[n])); err != nil {
			t.Fatal(err)
		}
		r.routes(t, addrs, n)
		r.says(t, service, metav1.ConditionTrue, svc.ReasonAnnounced, "node "+n.Name+" announces")
	}
	r.asked(t, addrs)
}

// bgpAttributes: what annotations ask for is what the router sees, and changes without a new session.
func bgpAttributes(t *testing.T, r *routed) {
	still := r.steady(t)
	addrs := r.remote(3)
	service := r.create(t, "attributed", addrs, func(o *corev1.Service) {
		o.Annotations[svc.TraitsPrefix+"communities"] = "65001:7,65001:1:2"
		o.Annotations[svc.TraitsPrefix+"med"] = "50"
		o.Annotations[svc.TraitsPrefix+"prepend"] = "2"
	})
	r.everyone(t, addrs...)
	see := func(what string, is func(lab.Route) bool) {
		t.Helper()
		for _, a := range addrs {
			var last []lab.Route
			if err := lab.Wait(within(t, patience), what, func() (bool, error) {
				var err error
				last, err = r.router.Routes(within(t, patience), netip.PrefixFrom(a, a.BitLen()))
				return len(last) == len(r.Nodes) && !slices.ContainsFunc(last, func(route lab.Route) bool { return !is(route) }), err
			}); err != nil {
				t.Fatalf("%v: %+v", err, last)
			}
		}
	}
	see("the router sees what is asked for", func(route lab.Route) bool {
		return slices.Equal(route.Communities, []string{"65001:7"}) && slices.Equal(route.LargeCommunities, []string{"65001:1:2"}) &&
			route.MED == 50 && slices.Equal(route.ASPath, []uint32{nodesAS, nodesAS, nodesAS})
	})
	r.change(t, service, func(o *corev1.Service) {
		delete(o.Annotations, svc.TraitsPrefix+"communities")
		o.Annotations[svc.TraitsPrefix+"med"] = "ten"
	})
	see("the router sees what is left", func(route lab.Route) bool {
		return len(route.Communities) == 0 && route.MED == 0 && len(route.ASPath) == 3
	})
	r.says(t, service, metav1.ConditionTrue, svc.ReasonBadAnnotation, `kube-vip.io/bgp-med: "ten" is not a number`)
	still()
}

// steady notes the router's sessions; what it returns checks that they are the same ones still.
func (r *routed) steady(t *testing.T) (still func()) {
	t.Helper()
	flaps := func() map[netip.Addr]int {
		sessions, err := r.router.Sessions(within(t, patience))
		if err != nil {
			t.Fatal(err)
		}
		all := map[netip.Addr]int{}
		for _, s := range sessions {
			all[s.Peer] = s.Flaps
			if !s.Established() {
				t.Errorf("the session with %s: %+v", s.Peer, s)
			}
		}
		return all
	}
	before := flaps()
	return func() {
		t.Helper()
		if now := flaps(); !maps.Equal(before, now) {
			t.Errorf("sessions ended %v times before, and %v now", before, now)
		}
	}
}

// gracefulShutdown asks for other routes to be used (RFC 8326).
const gracefulShutdown = "65535:0"

// bgpCordoned: Services leave a cordoned node, by steps, the control plane's VIP does not.
func bgpCordoned(t *testing.T, r *routed) {
	addrs := r.remote(4)
	r.create(t, "cordoned", addrs)
	r.everyone(t, addrs...)
	n := r.Nodes[1]
	r.setNode(t, n, cordoned(true))
	for _, a := range addrs {
		eventually(t, "the router is asked to go elsewhere", func() (bool, error) {
			routes, err := r.router.Routes(within(t, patience), netip.PrefixFrom(a, a.BitLen()))
			marked := func(route lab.Route) bool { return slices.Contains(route.Communities, gracefulShutdown) }
			return len(routes) == len(r.Nodes) && slices.ContainsFunc(routes, marked), err
		})
	}
	r.routes(t, addrs, r.but(n)...)
	eventually(t, "the route is withdrawn", func() (bool, error) {
		routes, err := r.router.Routes(within(t, patience), netip.PrefixFrom(addrs[0], addrs[0].BitLen()))
		return len(routes) == len(r.Nodes)-1, err
	})
	r.everyone(t, r.VIPs...)
	r.setNode(t, n, cordoned(false))
	r.everyone(t, addrs...)
}

// bgpTold: status and explain say how it is.
func bgpTold(t *testing.T, r *routed) {
	addrs := r.remote(5)
	service := r.create(t, "told", addrs)
	r.everyone(t, addrs...)
	n := r.Nodes[0]
	run := func(args ...string) string {
		t.Helper()
		out, err := n.Run(within(t, patience), lab.Binary(t), append(args, "--bgp", "--bgppeers", "192.0.2.1:65000", "--controlplane", "--services",
			"--address", r.VIPs[0].String(), "--k8sConfigPath", n.Path("/etc/kubernetes/admin.conf"))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("kube-vip %s\n%s", strings.Join(args, " "), out)
		return out
	}
	var told []struct {
		Node  string
		Live  bool
		Peers []struct {
			State, BFD string
			Routes     int
		}
	}
	detection := ""
	if len(r.VIPs) > 1 {
		detection = fmt.Sprintf("Up (detection %s)", bfdMultiplier*bfdInterval)
	}
	eventually(t, "all nodes tell of their sessions", func() (bool, error) {
		if err := json.Unmarshal([]byte(run("status", "bgp", "-o", "json")), &told); err != nil {
			return false, err
		}
		up := 0
		for _, one := range told {
			if one.Live && len(one.Peers) == 1 && one.Peers[0].State == "Established" && one.Peers[0].Routes >= len(r.VIPs) && one.Peers[0].BFD == detection {
				up++
			}
		}
		return up == len(r.Nodes), nil
	})
	if out := run("status", "bgp"); strings.Count(out, "Established") != len(r.Nodes) {
		t.Errorf("status bgp does not list %d sessions", len(r.Nodes))
	}
	out := run("explain", "service", service.Namespace+"/"+service.Name)
	if !strings.Contains(out, "announced by "+strings.Join(names(r.Nodes), "; ")+": "+spaced(addrs)) || strings.Contains(out, "but:") ||
		strings.Count(out, "Established") != len(r.Nodes) {
		t.Error("explain does not say that all nodes announce it, or has doubts")
	}
}

// bgpAPIKilled: the route of the node goes, and is back when its API server is.
func bgpAPIKilled(t *testing.T, r *routed) {
	n := r.Nodes[2]
	still := r.steady(t)
	watch, err := r.router.WatchRoutes()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	stop := r.load(t)
	began, elsewhere := time.Now(), time.Time{}
	n.API.Kill()
	for _, v := range r.VIPs {
		var hops []netip.Addr
		for _, o := range r.but(n) {
			for _, p := range o.Addrs {
				if p.Addr().Is4() == v.Is4() {
					hops = append(hops, p.Addr())
				}
			}
		}
		e, err := watch.Wait(within(t, patience), began, netip.PrefixFrom(v, v.BitLen()), hops...)
		if err != nil {
			t.Fatal(err)
		}
		took := e.Time.Sub(began)
		t.Logf("withdrawn in the router's kernel after %s", took.Round(time.Millisecond))
		if most := 5 * time.Second; took > most {
			t.Errorf("withdrawn after %s, want at most %s", took, most)
		}
		if e.Time.After(elsewhere) {
			elsewhere = e.Time
		}
	}
	wait(t, time.Second)
	stop().lostUntil(t, elsewhere)
	if err := n.API.Start(); err != nil {
		t.Fatal(err)
	}
	r.everyone(t, r.VIPs...)
	still()
}

// bgpRolled: nothing is lost while instances are stopped and started one after another.
func bgpRolled(t *testing.T, r *routed) {
	addrs := r.remote(6)
	r.create(t, "rolled", addrs)
	r.everyone(t, addrs...)
	r.asked(t, addrs)
	stop := r.load(t, addrs...)
	for _, n := range r.Nodes {
		began := time.Now()
		if err := r.pods[n].Stop(); err != nil {
			t.Error(err)
		}
		t.Logf("%s has stopped after %s", n, time.Since(began).Round(time.Millisecond))
		r.routes(t, r.VIPs, r.but(n)...)
		for _, v := range r.VIPs {
			if has, err := n.Has(v); has || err != nil {
				t.Errorf("%s is still on %s; %v", v, n, err)
			}
		}
		r.run(t, n, r.options(n))
		r.everyone(t, append(slices.Clone(r.VIPs), addrs...)...)
	}
	if all := stop(); all.failed > 0 || all.moved > all.attempts/100 {
		t.Errorf("%d of %d attempts failed, and %d were moved", all.failed, all.attempts, all.moved)
	}
}

// options are those that the pod of a node was run with.
func (r *routed) options(n *lab.Node) lab.PodOptions {
	if r.VIPs[0].Is6() { // there is no IPv4 address to be the router ID
		return lab.PodOptions{Env: []string{fmt.Sprintf("bgp_routerid=192.0.2.%d", slices.Index(r.Nodes, n)+1)}}
	}
	return lab.PodOptions{}
}

// bgpKilled: the router drops the routes at once, the kernel the address in time, and the kubelet brings all back.
func bgpKilled(t *testing.T, r *routed) {
	n := r.Nodes[0]
	if err := r.pods[n].Stop(); err != nil {
		t.Error(err)
	}
	options := r.options(n)
	options.NoRestart = true
	r.run(t, n, options)
	r.everyone(t, r.VIPs...)
	began := time.Now()
	if err := r.pods[n].Kill(); err != nil {
		t.Fatal(err)
	}
	r.routes(t, r.VIPs, r.but(n)...)
	t.Logf("the routes are gone after %s", time.Since(began).Round(time.Millisecond))
	for _, v := range r.VIPs {
		eventually(t, "the address is gone", func() (bool, error) {
			has, err := n.Has(v)
			return !has, err
		})
	}
	t.Logf("the addresses are gone after %s", time.Since(began).Round(time.Millisecond))
	r.run(t, n, r.options(n))
	r.everyone(t, r.VIPs...)
}

// bgpRestarted: with graceful restart the router goes by the node all the while (RFC 4724).
func bgpRestarted(t *testing.T, r *routed) {
	n := r.Nodes[0]
	again := func(o lab.PodOptions) {
		t.Helper()
		if err := r.pods[n].Stop(); err != nil {
			t.Error(err)
		}
		r.routes(t, r.VIPs, r.but(n)...)
		r.run(t, n, o)
		r.everyone(t, r.VIPs...)
	}
	options := r.options(n)
	options.Env = append(options.Env, "bgp_graceful_restart=true", "bgp_hold_time=60")
	again(options)
	watch, err := r.router.WatchRoutes()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	before, err := r.router.Sessions(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.pods[n].Kill(); err != nil { // and the kubelet starts it again
		t.Fatal(err)
	}
	eventually(t, "there is another session, and all routes", func() (bool, error) {
		now, err := r.router.Sessions(within(t, patience))
		flapped := slices.ContainsFunc(now, func(s lab.Session) bool {
			return s.Established() && slices.ContainsFunc(before, func(o lab.Session) bool { return o.Peer == s.Peer && o.Flaps < s.Flaps })
		})
		return flapped, err
	})
	for _, v := range r.VIPs {
		for _, e := range watch.Events(netip.PrefixFrom(v, v.BitLen())) {
			if len(e.NextHops) < len(r.Nodes) {
				t.Errorf("the router's kernel does not go by all nodes all the while: %s", e)
			}
		}
	}
	again(r.options(n))
}

// bgpReset: a session that the router resets is there again.
func bgpReset(t *testing.T, r *routed) {
	n := r.Nodes[1]
	stop := r.load(t)
	if err := r.router.ResetSession(within(t, patience), n.Addr()); err != nil {
		t.Fatal(err)
	}
	r.routes(t, r.VIPs, r.but(n)...)
	began := time.Now()
	client, err := r.Kube()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the Node's Events tell of it", func() (bool, error) {
		list, err := client.CoreV1().Events(metav1.NamespaceDefault).List(within(t, patience), metav1.ListOptions{FieldSelector: "involvedObject.kind=Node,involvedObject.name=" + n.Name})
		if err != nil {
			return false, err
		}
		return slices.ContainsFunc(list.Items, func(e corev1.Event) bool {
			return e.Reason == "BGPSessionDown" && e.Type == corev1.EventTypeWarning && strings.Contains(e.Message, "the peer says: Administrative Reset")
		}) && slices.ContainsFunc(list.Items, func(e corev1.Event) bool { return e.Reason == "BGPSessionUp" }), nil
	})
	r.everyone(t, r.VIPs...)
	t.Logf("it is there again after %s", time.Since(began).Round(time.Millisecond))
	if all := stop(); all.failed > 0 || all.moved > all.attempts/20 {
		t.Errorf("%d of %d attempts failed, and %d were moved", all.failed, all.attempts, all.moved)
	}
}

// bgpVanishes: without BFD the router holds on for the hold time, with it for a detection time.
func bgpVanishes(t *testing.T, r *routed) {
	n := r.Nodes[2]
	most := bgpHold + 5*time.Second
	if len(r.VIPs) > 1 {
		most = bgpHold / 2 // of which BFD takes a quarter
		eventually(t, "BFD watches all nodes", func() (bool, error) {
			sessions, err := r.router.BFD(within(t, patience))
			return len(sessions) == len(r.Nodes) && !slices.ContainsFunc(sessions, func(s lab.BFDSession) bool { return s.State != "Up" }), err
		})
	}
	stop := r.load(t)
	began := time.Now()
	if err := n.Crash(); err != nil {
		t.Fatal(err)
	}
	r.routes(t, r.VIPs, r.but(n)...)
	elsewhere := time.Now()
	took := elsewhere.Sub(began)
	t.Logf("the routes are gone after %s", took.Round(time.Millisecond))
	if took > most {
		t.Errorf("the routes are gone after %s, want at most %s", took, most)
	}
	wait(t, time.Second)
	stop().lostUntil(t, elsewhere)
	if err := n.Boot(within(t, 2*patience)); err != nil {
		t.Fatal(err)
	}
	r.everyone(t, r.VIPs...)
}

// bgpElected: with an election one node announces the control plane's VIP, and one each Service; another one when it leaves.
func bgpElected(t *testing.T, r *routed) {
	all := func(env ...string) {
		t.Helper()
		for _, n := range r.Nodes {
			if err := r.pods[n].Stop(); err != nil {
				t.Error(err)
			}
		}
		for _, n := range r.Nodes {
			o := r.options(n)
			o.Env = append(o.Env, env...)
			r.run(t, n, o)
		}
	}
	// only waits until the router goes to an address by one node, and returns it.
	only := func(a netip.Addr, but *lab.Node) (holder *lab.Node) {
		t.Helper()
		eventually(t, "one node announces "+a.String(), func() (bool, error) {
			routes, err := r.router.Routes(within(t, patience), netip.PrefixFrom(a, a.BitLen()))
			if err != nil || len(routes) != 1 {
				return false, err
			}
			holder = nil
			for _, n := range r.Nodes {
				for _, p := range n.Addrs {
					if slices.Contains(routes[0].NextHops, p.Addr()) {
						holder = n
					}
				}
			}
			return holder != nil && holder != but, nil
		})
		return holder
	}
	addrs := r.remote(7)
	service := r.create(t, "elected", addrs)
	r.everyone(t, addrs...)
	all("vip_leaderelection=true", "svc_election=true")
	for _, v := range r.VIPs {
		first := only(v, nil)
		if err := r.pods[first].Stop(); err != nil {
			t.Error(err)
		}
		second := only(v, first)
		t.Logf("%s was announced by %s and is by %s", v, first, second)
		o := r.options(first)
		o.Env = append(o.Env, "vip_leaderelection=true", "svc_election=true")
		r.run(t, first, o)
	}
	holder := only(addrs[0], nil)
	r.says(t, service, metav1.ConditionTrue, svc.ReasonAnnounced, "node "+holder.Name+" holds "+spaced(addrs))
	all()
	r.everyone(t, append(slices.Clone(r.VIPs), addrs...)...)
}

// bgpPassword: a router that has another password for one node goes by the others, and by that one again when it has been
// told.
func bgpPassword(t *testing.T, r *routed) {
	if len(r.VIPs) > 1 || r.VIPs[0].Is6() {
		t.Log("these sessions have no password")
		return
	}
	n := r.Nodes[1]
	change := func(password string) {
		t.Helper()
		if err := r.router.Configure(within(t, patience), func(o *lab.RouterOptions) {
			for i := range o.Neighbors {
				if o.Neighbors[i].Addr == n.Addr() {
					o.Neighbors[i].Password = password
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
		r.routes(t, r.VIPs, r.but(n)...)
	}
	stop := r.load(t)
	change("another")
	elsewhere := time.Now()
	wait(t, time.Second)
	stop().lostUntil(t, elsewhere)
	if err := r.pods[n].Stop(); err != nil {
		t.Error(err)
	}
	stop = r.load(t)
	r.run(t, n, lab.PodOptions{Env: []string{fmt.Sprintf("bgp_peers=%s:%d:another", r.router.Addr(), routerAS)}})
	r.everyone(t, r.VIPs...)
	if all := stop(); all.failed > 0 {
		t.Errorf("%d of %d attempts failed while the node came back", all.failed, all.attempts)
	}
	change(bgpSecret)
	if err := r.pods[n].Stop(); err != nil {
		t.Error(err)
	}
	r.run(t, n, r.options(n))
	r.everyone(t, r.VIPs...)
}

// TestOlderBGPDaemonSet runs a DaemonSet that people have, with the rights that it brings along, against the two routers that
// it names: each node has the address on eth0, and both routers go by all nodes.
func TestOlderBGPDaemonSet(t *testing.T) {
	for _, kind := range []lab.RouterKind{lab.FRR, lab.BIRD} {
		if why := lab.CheckRouter(kind); why != nil {
			lab.Need(t, why)
		}
	}
	l := lab.New(t, lab.Options{KubeProxy: true, NodeLabels: map[string]string{"node-role.kubernetes.io/controlplane": "true"}})
	manifest, err := os.ReadFile("testdata/daemonset-bgp.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Nodes[0].Apply(within(t, patience), manifest, false); err != nil {
		t.Fatal(err)
	}
	// The network that the manifest is for.
	at := func(h *lab.Host, number int) netip.Addr {
		p := netip.MustParsePrefix(fmt.Sprintf("10.0.1.%d/24", number))
		if err := h.AddAddress("eth0", p); err != nil {
			t.Fatal(err)
		}
		return p.Addr()
	}
	var neighbors []lab.Neighbor
	var hops []netip.Addr
	for i, n := range l.Nodes {
		hops = append(hops, at(n.Host, 11+i))
		neighbors = append(neighbors, lab.Neighbor{Addr: hops[i], AS: nodesAS})
	}
	s := &services{cluster: &cluster{Lab: l, manifest: manifest, pods: map[*lab.Node]*lab.Pod{}}, backends: map[*lab.Node]*lab.Backend{}}
	var routers []*lab.Router
	for i, kind := range []lab.RouterKind{lab.FRR, lab.BIRD} {
		for j := range neighbors {
			neighbors[j].Source = netip.AddrFrom4([4]byte{10, 0, 1, byte(1 + i)})
			neighbors[j].Passive = true
		}
		router, err := l.StartRouter(within(t, patience), lab.RouterOptions{Kind: kind, AS: routerAS, Neighbors: slices.Clone(neighbors)})
		if err != nil {
			t.Fatal(err)
		}
		at(router.Host, 1+i)
		routers = append(routers, router)
	}
	for _, n := range l.Nodes {
		// It goes by the host's name, and the lab's hosts are one machine.
		s.run(t, n, lab.PodOptions{Env: []string{"vip_nodename=" + n.Name}})
		if s.backends[n], err = n.RunBackend(within(t, patience), "web-"+n.Name); err != nil {
			t.Fatal(err)
		}
	}
	addr := netip.MustParseAddr("10.99.1.9")
	// The rights are for Endpoints, which the endpoint controller keeps beside the slices.
	service := s.create(t, "older", []netip.Addr{addr}, func(o *corev1.Service) { o.Annotations[svc.EndpointlessAnnotation] = "true" })
	s.says(t, service, metav1.ConditionTrue, svc.ReasonAnnounced, "3 nodes announce 10.99.1.9")
	for _, router := range routers {
		if err := router.WaitRoute(within(t, patience), netip.PrefixFrom(addr, 32), hops...); err != nil {
			t.Fatal(err)
		}
		var last error
		if err := lab.Wait(within(t, patience), "an answer behind "+router.Name, func() (bool, error) {
			_, last = router.Client.Ask(within(t, patience), "tcp", netip.AddrPortFrom(addr, lab.ServicePort))
			return last == nil, nil
		}); err != nil {
			t.Errorf("%v: %v", err, last)
		}
	}
	for _, n := range l.Nodes {
		addrs, err := n.Addresses()
		if err != nil || !slices.ContainsFunc(addrs, func(a lab.Address) bool { return a.Prefix.Addr() == addr && a.Link == "eth0" }) {
			t.Errorf("%s is not on eth0 of %s: %v; %v", addr, n, addrs, err)
		}
	}
	n := l.Nodes[0]
	if err := s.pods[n].Stop(); err != nil {
		t.Error(err)
	}
	if has, err := n.Has(addr); has || err != nil {
		t.Errorf("after the stop %s is still on %s; %v", addr, n, err)
	}
	for _, router := range routers {
		if err := router.WaitRoute(within(t, patience), netip.PrefixFrom(addr, 32), hops[1:]...); err != nil {
			t.Error(err)
		}
	}
}
