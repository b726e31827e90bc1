package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"kube-vip.io/kube-vip/test/lab"
)

const (
	peersFile   = "/etc/kube-vip/peers.yaml"
	bgpPort     = 179
	birdPort    = 1179               // where BIRD listens
	passivePort = 1790               // where kube-vip does, for a passive peer
	bgpTTL      = 50                 // of packets to a peer some hops away
	fixedHop    = "fd00:30::99"      // where IPv6 routes lead by the session "aggregated"
	cableHop    = "fe80::aff:fe0a:b" // of the first node's MAC
)

// A bgpSession is one between the node and a router, each of them by an address of its own.
type bgpSession struct {
	name   string
	router *lab.Router
	// neighbor is the node as the router knows it: Addr is the node's end, Source the router's.
	neighbor lab.Neighbor
	// fields are the peer's in the peers file.
	fields fields
	// never says that it does not come up, and what kube-vip says of that.
	never string
}

// peer is what kube-vip calls the router.
func (s *bgpSession) peer() string {
	if link := s.fields["interface"]; link != nil {
		return fmt.Sprint("unnumbered:", link)
	}
	return fmt.Sprint(s.fields["address"])
}

func (s *bgpSession) String() string { return fmt.Sprintf("%s: %s", s.router.Name, s.name) }

// sessioned is one node that has sessions of all kinds with an FRR and a BIRD, out of a peers file.
type sessioned struct {
	*services
	node      *lab.Node
	frr, bird *lab.Router
	inner     *lab.Router // another FRR, of the node's AS
	sessions  []*bgpSession
	number    int // of addresses that were given
}

func (s *sessioned) routers() []*lab.Router { return []*lab.Router{s.frr, s.bird} }

// A place is where the ends of a session are.
type place int

const (
	near  place = iota
	near6       // the same by IPv6
	far         // with the other router in between
)

// fields are those of a peer in the peers file.
type fields map[string]any

// add makes a session with the router.
func (s *sessioned) add(router *lab.Router, name string, at place, neighbor lab.Neighbor, more fields) *bgpSession {
	s.number++
	side := 1 + slices.Index([]*lab.Router{s.frr, s.bird, s.inner}, router)
	own, theirs := fmt.Sprintf("10.30.0.%d", s.number), fmt.Sprintf("10.30.%d.%d", side, s.number)
	switch at {
	case far:
		own, theirs = fmt.Sprintf("10.50.%d.%d", side, s.number), fmt.Sprintf("10.40.%d.%d", side, s.number)
	case near6:
		own, theirs = fmt.Sprintf("fd00:30::%d", s.number), fmt.Sprintf("fd00:30::%d:%d", side, s.number)
	}
	if neighbor.AS == 0 {
		neighbor.AS = nodesAS
	}
	neighbor.Addr, neighbor.Source = netip.MustParseAddr(own), netip.MustParseAddr(theirs)
	all := fields{"address": theirs, "as": routerAS, "sourceIP": own, "connectRetry": 1}
	if router == s.bird {
		all["port"] = birdPort
	}
	maps.Copy(all, more)
	one := &bgpSession{name: name, router: router, neighbor: neighbor, fields: all}
	s.sessions = append(s.sessions, one)
	return one
}

// address gives the ends of a session their addresses.
func (s *sessioned) address(t *testing.T, one *bgpSession) {
	t.Helper()
	own, theirs, link := 16, 16, "eth0"
	switch a := one.neighbor.Addr; {
	case a.Is6():
		own, theirs = 64, 64
	case strings.HasPrefix(a.String(), "10.50."):
		own, theirs, link = 32, 32, "lo"
	}
	if err := s.node.AddAddress("eth0", netip.PrefixFrom(one.neighbor.Addr, own)); err != nil {
		t.Fatal(err)
	}
	if err := one.router.AddAddress(link, netip.PrefixFrom(one.neighbor.Source, theirs)); err != nil {
		t.Fatal(err)
	}
}

// write writes the peers file, as a ConfigMap's is: another in its place.
func (s *sessioned) write(t *testing.T, text string) {
	t.Helper()
	path := s.node.Path(peersFile)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// file is the peers file that has the sessions.
func (s *sessioned) file(t *testing.T) string {
	t.Helper()
	var peers []any
	for _, one := range s.sessions {
		peers = append(peers, one.fields)
	}
	text, err := yaml.Marshal(map[string]any{"peers": peers, "communities": map[string]string{"blue": "65001:50", "wide": "65001:5:0"}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// mounted is the manifest with the folder of the peers file, as its users add it.
func mounted(t *testing.T, manifest []byte) []byte {
	t.Helper()
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict(manifest, &pod); err != nil {
		t.Fatal(err)
	}
	const name = "peers"
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: filepath.Dir(peersFile)}}})
	mount := corev1.VolumeMount{Name: name, MountPath: filepath.Dir(peersFile), ReadOnly: true}
	pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, mount)
	out, err := yaml.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A toldPeer is what `kube-vip status bgp -o json` has of one.
type toldPeer struct {
	Name, State, Error, Cause string
	Routes, Flaps             int
}

// told is what `kube-vip status bgp` says, by peer.
func (s *sessioned) told(t *testing.T) map[string]toldPeer {
	t.Helper()
	out, err := s.node.Run(within(t, patience), lab.Binary(t), "status", "bgp", "-o", "json", "--bgp", "--bgppeers", "192.0.2.1:65000", "--controlplane", "--services",
		"--address", s.VIPs[0].String(), "--k8sConfigPath", s.node.Path("/etc/kubernetes/admin.conf"))
	if err != nil {
		t.Fatal(err)
	}
	var nodes []struct{ Peers []toldPeer }
	if err := json.Unmarshal([]byte(out), &nodes); err != nil {
		t.Fatal(err)
	}
	all := map[string]toldPeer{}
	for _, n := range nodes {
		for _, p := range n.Peers {
			all[p.Name] = p
		}
	}
	return all
}

// view is what the routers say of sessions, each of them asked once.
func (s *sessioned) view(t *testing.T) func(*bgpSession) lab.Session {
	t.Helper()
	asked := map[*lab.Router][]lab.Session{}
	return func(one *bgpSession) lab.Session {
		t.Helper()
		if _, is := asked[one.router]; !is {
			var err error
			if asked[one.router], err = one.router.Sessions(within(t, patience)); err != nil {
				t.Fatal(err)
			}
		}
		addr := one.neighbor.Addr
		for _, session := range asked[one.router] {
			if addr.IsValid() && session.Peer == addr || !addr.IsValid() && session.Peer.IsLinkLocalUnicast() {
				return session
			}
		}
		return lab.Session{}
	}
}

// seen is what the router says of a session now.
func (s *sessioned) seen(t *testing.T, one *bgpSession) lab.Session {
	t.Helper()
	return s.view(t)(one)
}

// up waits until these sessions are there, as the routers see it.
func (s *sessioned) up(t *testing.T, sessions ...*bgpSession) {
	t.Helper()
	var waits *bgpSession
	var last lab.Session
	if err := lab.Wait(within(t, patience), "the sessions are up", func() (bool, error) {
		view := s.view(t)
		for _, one := range sessions {
			if waits, last = one, view(one); !last.Established() {
				return false, nil
			}
		}
		return true, nil
	}); err != nil {
		t.Fatalf("%v: %s: the router has %+v, and kube-vip %+v", err, waits, last, s.told(t)[waits.peer()])
	}
}

// lasting are the sessions that are to be up.
func (s *sessioned) lasting() []*bgpSession {
	return slices.DeleteFunc(slices.Clone(s.sessions), func(one *bgpSession) bool { return one.never != "" })
}

// find is the session of that name with a router.
func (s *sessioned) find(t *testing.T, router *lab.Router, name string) *bgpSession {
	t.Helper()
	for _, one := range s.sessions {
		if one.router == router && one.name == name {
			return one
		}
	}
	t.Fatalf("there is no session %q with %s", name, router)
	return nil
}

// steady notes how often the sessions, but for some, have ended; what it returns checks that none has since.
func (s *sessioned) steady(t *testing.T, but ...*bgpSession) (still func()) {
	t.Helper()
	sessions := slices.DeleteFunc(s.lasting(), func(one *bgpSession) bool { return slices.Contains(but, one) })
	reasons := map[string]string{}
	flaps := func() map[string]int {
		count, view := map[string]int{}, s.view(t)
		for _, one := range sessions {
			seen := view(one)
			count[one.String()], reasons[one.String()] = seen.Flaps, seen.Reason
			if !seen.Established() {
				t.Errorf("%s: %+v", one, seen)
			}
		}
		return count
	}
	before := flaps()
	return func() {
		t.Helper()
		now := flaps()
		for name := range before {
			if before[name] != now[name] {
				t.Errorf("%s: it had ended %d times before, and has %d times now: %s", name, before[name], now[name], reasons[name])
			}
		}
	}
}

// startSessioned starts the lab, and kube-vip with every session at once.
func startSessioned(t *testing.T) *sessioned {
	t.Helper()
	for _, kind := range []lab.RouterKind{lab.FRR, lab.BIRD} {
		if why := lab.CheckRouter(kind); why != nil {
			lab.Need(t, why)
		}
	}
	vips := []netip.Addr{netip.MustParseAddr("10.99.0.10"), netip.MustParseAddr("fd00:99::10")}
	l := lab.New(t, lab.Options{Nodes: 1, Family: lab.Dual, KubeProxy: true, VIPs: vips, Endpoint: "127.0.0.1:6443"})
	s := &sessioned{
		services: &services{cluster: &cluster{Lab: l, pods: map[*lab.Node]*lab.Pod{}}, backends: map[*lab.Node]*lab.Backend{}},
		node:     l.Nodes[0],
	}
	for _, r := range []struct {
		is **lab.Router
		o  lab.RouterOptions
	}{
		{&s.frr, lab.RouterOptions{Kind: lab.FRR, AS: routerAS}},
		{&s.bird, lab.RouterOptions{Kind: lab.BIRD, AS: routerAS, Port: birdPort}},
		{&s.inner, lab.RouterOptions{Kind: lab.FRR, Name: "inner", AS: nodesAS}},
	} {
		router, err := l.StartRouter(within(t, patience), r.o)
		if err != nil {
			t.Fatal(err)
		}
		*r.is = router
	}
	s.connect(t)
	for _, r := range s.routers() {
		s.plan(r)
	}
	internal := fields{"as": nodesAS, "localPref": 300, "med": 5, "communities": []string{"65001:9"}, "prepend": 3}
	s.add(s.inner, "internal", near, lab.Neighbor{}, internal)
	s.add(s.bird, "internal", near, lab.Neighbor{LocalAS: nodesAS}, internal)
	for _, one := range s.sessions {
		s.address(t, one)
	}
	s.planCable(t)
	for _, r := range []*lab.Router{s.frr, s.bird, s.inner} {
		if err := r.Configure(within(t, patience), func(o *lab.RouterOptions) {
			for _, one := range s.sessions {
				if one.router == r {
					o.Neighbors = append(o.Neighbors, one.neighbor)
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	s.secret(t, map[string]string{s.frr.Name: "first", s.bird.Name: "first"})
	s.write(t, s.file(t))
	s.manifest = mounted(t, generate(t, "manifest", "pod", "--bgp", "--controlplane", "--services", "--address", listed(vips),
		"--localAS", fmt.Sprint(nodesAS), "--bgpPeersFile", peersFile, "--bgpLinkBandwidth"))
	s.run(t, s.node, lab.PodOptions{})
	return s
}

// secret writes the Secret that has passwords.
func (s *sessioned) secret(t *testing.T, passwords map[string]string) {
	t.Helper()
	text, err := yaml.Marshal(corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: "bgp", Namespace: lockNamespace}, StringData: passwords,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.node.Apply(within(t, patience), text, false); err != nil {
		t.Fatal(err)
	}
}

// connect has each router lead to what is behind the other one.
func (s *sessioned) connect(t *testing.T) {
	t.Helper()
	for i, r := range s.routers() {
		between := s.routers()[1-i]
		for _, link := range []string{"all", "eth0"} { // all are on one link, and are not to be told of that
			if err := between.Sysctl("net/ipv4/conf/"+link+"/send_redirects", "0"); err != nil {
				t.Fatal(err)
			}
		}
		theirs, own := fmt.Sprintf("10.40.%d.0/24", i+1), fmt.Sprintf("10.50.%d.0/24", i+1)
		for _, route := range []struct {
			on      *lab.Host
			to, via string
		}{
			{s.node.Host, theirs, between.Addr().String()}, {between.Host, theirs, r.Addr().String()},
			{r.Host, own, between.Addr().String()}, {between.Host, own, s.node.Addr().String()},
		} {
			if _, err := route.on.Run(within(t, patience), "ip", "route", "add", route.to, "via", route.via); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// plan are the sessions with a router, of all kinds.
func (s *sessioned) plan(r *lab.Router) {
	s.add(r, "plain", near, lab.Neighbor{}, nil)
	s.add(r, "password", near, lab.Neighbor{Password: "right"}, fields{"password": "right"})
	s.add(r, "password of a Secret", near, lab.Neighbor{Password: "first"}, fields{"passwordSecret": fields{"name": "bgp", "key": r.Name}})
	s.add(r, "IPv6", near6, lab.Neighbor{}, nil)
	s.add(r, "IPv6 with a password and TTL security", near6, lab.Neighbor{Password: "right", TTLSecurity: 1}, fields{"password": "right", "ttlSecurity": 1})
	s.add(r, "TTL security", near, lab.Neighbor{TTLSecurity: 1}, fields{"ttlSecurity": 1})
	s.add(r, "the router's hold time", near, lab.Neighbor{Hold: 6 * time.Second, Keepalive: 2 * time.Second}, fields{"holdTime": 30, "keepaliveInterval": 10})
	s.add(r, "our hold time", near, lab.Neighbor{Hold: 60 * time.Second, Keepalive: 20 * time.Second}, fields{"holdTime": 9, "keepaliveInterval": 2})
	s.add(r, "passive", near, lab.Neighbor{Port: passivePort}, fields{"passive": true, "port": passivePort})
	s.add(r, "waited for", near, lab.Neighbor{Passive: true}, nil)
	s.add(r, "multihop", far, lab.Neighbor{Multihop: 2}, fields{"multihop": true})
	s.add(r, "TTL", far, lab.Neighbor{Multihop: 2}, fields{"ttl": 2})
	s.add(r, "TTL security over two hops", far, lab.Neighbor{TTLSecurity: 2}, fields{"ttlSecurity": 2})

	s.add(r, "attributes", near, lab.Neighbor{}, fields{
		"communities": []string{"blue", "no-export"}, "largeCommunities": []string{"wide"}, "med": 70, "prepend": 2, "localPref": 300,
	})
	s.add(r, "aggregated", near, lab.Neighbor{Family: lab.Dual}, fields{
		"families": []string{"ipv4", "ipv6"}, "aggregationLength4": 28, "aggregationLength6": 120, "nextHop": fields{"mode": "fixed", "ipv6": fixedHop},
	})

	watched := lab.BFDIntervals{Transmit: 100 * time.Millisecond, Receive: 100 * time.Millisecond, Multiplier: 3}
	slow := lab.BFDIntervals{Transmit: 50 * time.Millisecond, Receive: 500 * time.Millisecond, Multiplier: 5}
	s.add(r, "BFD", near, lab.Neighbor{BFD: &watched}, fields{"bfd": fields{"minTx": 150, "minRx": 200, "multiplier": 4}})
	s.add(r, "BFD by IPv6", near6, lab.Neighbor{BFD: &watched}, fields{"bfd": fields{"minTx": 250, "minRx": 150, "multiplier": 2}})
	s.add(r, "BFD, slowly", near, lab.Neighbor{BFD: &slow}, fields{"bfd": fields{"minTx": 60, "minRx": 150, "multiplier": 3}})
	s.add(r, "BFD over two hops", far, lab.Neighbor{Multihop: 2, BFD: &watched}, fields{"multihop": true, "bfd": fields{"minTx": 200, "minRx": 200, "multiplier": 3}})
	s.add(r, "BFD and TTL security over two hops", far, lab.Neighbor{TTLSecurity: 2, BFD: &watched}, fields{"ttlSecurity": 2, "bfd": fields{"minTx": 200, "minRx": 200, "multiplier": 3}})

	s.add(r, "nobody there", near, lab.Neighbor{}, fields{"address": fmt.Sprintf("10.30.9.%d", s.number)}).never = "connect"
	s.add(r, "too far", far, lab.Neighbor{Multihop: 2}, nil).never = "no route to host; a peer that is more than one hop away needs multihop"
	s.add(r, "too far for TTL security", far, lab.Neighbor{TTLSecurity: 2}, fields{"ttlSecurity": 1}).never = "i/o timeout"
	s.add(r, "another password", near, lab.Neighbor{Password: "right"}, fields{"password": "wrong"}).never = "i/o timeout; a peer with another password does not answer either"
	s.add(r, "another AS than it is", near, lab.Neighbor{LocalAS: 64999}, nil).never = fmt.Sprintf("Bad Peer AS; it is not of AS %d, as it should be", routerAS)
	s.add(r, "another AS than we are", near, lab.Neighbor{AS: 64998}, nil).never = fmt.Sprintf("expect another AS than %d (bgp_as)", nodesAS)
}

// planCable are the sessions that go by the cable between the node and FRR: one without addresses, and one that only goes there
// since it is said to, for the routes lead elsewhere.
func (s *sessioned) planCable(t *testing.T) {
	t.Helper()
	const theirs = "10.32.0.1"
	own, cable, err := s.frr.Cable(s.node.Host)
	if err != nil {
		t.Fatal(err)
	}
	s.sessions = append(s.sessions,
		&bgpSession{name: "unnumbered", router: s.frr, neighbor: lab.Neighbor{Interface: own, AS: nodesAS},
			fields: fields{"interface": cable, "connectRetry": 1, "aggregationLength4": 27, "aggregationLength6": 119}},
		&bgpSession{name: "source interface", router: s.frr, neighbor: lab.Neighbor{Addr: netip.MustParseAddr("10.31.0.2"), Source: netip.MustParseAddr(theirs), AS: nodesAS},
			fields: fields{"address": theirs, "as": routerAS, "sourceInterface": cable, "connectRetry": 1}})
	for _, a := range []struct {
		on         *lab.Host
		link, addr string
	}{{s.frr.Host, own, "10.31.0.1/24"}, {s.node.Host, cable, "10.31.0.2/24"}, {s.frr.Host, "lo", theirs + "/32"}} {
		if err := a.on.AddAddress(a.link, netip.MustParsePrefix(a.addr)); err != nil {
			t.Fatal(err)
		}
	}
	for _, route := range [][]string{{"via", s.frr.Addr().String(), "metric", "10"}, {"via", "10.31.0.1", "metric", "20"}} {
		if _, err := s.node.Run(within(t, patience), "ip", append([]string{"route", "add", theirs}, route...)...); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBGPSessions: sessions of all kinds that peers can ask for, with real routers, and what becomes of them.
func TestBGPSessions(t *testing.T) {
	s := startSessioned(t)
	for _, scenario := range []struct {
		name string
		run  func(*testing.T, *sessioned)
	}{
		{"sessions come up", sessionsUp},
		{"those that do not are told of", sessionsTold},
		{"on the wire", sessionsOnTheWire},
		{"routes", sessionsRoutes},
		{"a Service's routes", sessionsService},
		{"a password is set right", sessionsPassword},
		{"the router resets a session", sessionsReset},
		{"BFD", sessionsBFD},
		{"the peers file changes", sessionsReload},
		{"a peers file that is bad", sessionsBadFile},
		{"peers by labels", sessionsSelected},
		{"a password changes in its Secret", sessionsSecret},
		{"paths with our own AS", sessionsLoop},
		{"an unnumbered peer alone", sessionsUnnumbered},
		{"peers by annotations", sessionsAnnotated},
	} {
		t.Run(scenario.name, func(t *testing.T) { scenario.run(t, s) })
	}
}

// sessionsUp: all that are to come up do, with the lower of both hold times.
func sessionsUp(t *testing.T, s *sessioned) {
	began := time.Now()
	s.up(t, s.lasting()...)
	t.Logf("%d sessions are up after %s", len(s.lasting()), time.Since(began).Round(time.Millisecond))
	for _, r := range s.routers() {
		for name, want := range map[string]time.Duration{"the router's hold time": 6 * time.Second, "our hold time": 9 * time.Second, "plain": 30 * time.Second} {
			if one := s.find(t, r, name); s.seen(t, one).Hold != want {
				t.Errorf("%s: the hold time is %s, want %s", one, s.seen(t, one).Hold, want)
			}
		}
	}
}

// sessionsTold: of every session that cannot come up, the status says why, and the log does by the peer's name; the others
// go on.
func sessionsTold(t *testing.T, s *sessioned) {
	still := s.steady(t)
	for _, one := range s.sessions {
		var last toldPeer
		if err := lab.Wait(within(t, patience), "status bgp tells of "+one.String(), func() (bool, error) {
			last = s.told(t)[one.peer()]
			if one.never == "" {
				return last.State == "Established" && last.Routes > 0 && last.Error == "", nil
			}
			return last.State != "Established" && strings.Contains(last.Error, one.never), nil
		}); err != nil {
			t.Errorf("%v with %q: %+v", err, one.never, last)
		}
		if one.never == "" {
			continue
		}
		if !slices.ContainsFunc(s.pods[s.node].Output(), func(l lab.Line) bool {
			return strings.Contains(l.Text, "no BGP session") && strings.Contains(l.Text, one.peer()) && strings.Contains(l.Text, one.never)
		}) {
			t.Errorf("%s: the log does not say of %s that %q", one, one.peer(), one.never)
		}
		if s.seen(t, one).Established() {
			t.Errorf("%s is up", one)
		}
	}
	still()
}

// sessionsOnTheWire: the ends, ports and TTLs are those that are asked for, and keepalives come as often as was agreed.
func sessionsOnTheWire(t *testing.T, s *sessioned) {
	const keepalives = 8 * time.Second
	still := s.steady(t)
	own, err := s.node.CapturePackets("eth0", bgpPort, birdPort, passivePort)
	if err != nil {
		t.Fatal(err)
	}
	theirs := map[*lab.Router]*lab.PacketCapture{}
	for _, r := range s.routers() {
		if theirs[r], err = r.CapturePackets("eth0", bgpPort, birdPort, passivePort); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, 11*time.Second) // each has sent a keepalive
	sent := own.Packets()
	for _, c := range []*lab.PacketCapture{own, theirs[s.frr], theirs[s.bird]} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	from := func(packets []lab.Packet, one *bgpSession) []lab.Packet {
		return slices.DeleteFunc(slices.Clone(packets), func(p lab.Packet) bool {
			return p.Src.Addr() != one.neighbor.Addr || p.Dst.Addr() != one.neighbor.Source || len(p.Payload) == 0
		})
	}
	for _, r := range s.routers() {
		for name, want := range map[string]struct{ ttl, hops uint8 }{
			"plain": {1, 0}, "IPv6": {1, 0}, "TTL security": {255, 0}, "IPv6 with a password and TTL security": {255, 0},
			"multihop": {bgpTTL, 1}, "TTL": {2, 1}, "TTL security over two hops": {255, 1}, "passive": {1, 0},
		} {
			one := s.find(t, r, name)
			left, came := from(sent, one), from(theirs[r].Packets(), one)
			if len(left) == 0 || len(came) == 0 {
				t.Errorf("%s: %d packets left, and %d came", one, len(left), len(came))
				continue
			}
			for _, p := range left {
				if p.TTL != want.ttl {
					t.Errorf("%s: %s, want TTL %d", one, p, want.ttl)
				}
			}
			for _, p := range came {
				port := uint16(bgpPort)
				if r == s.bird {
					port = birdPort
				}
				if name == "passive" {
					if p.Src.Port() != passivePort {
						t.Errorf("%s: %s is not from port %d", one, p, passivePort)
					}
				} else if p.Dst.Port() != port {
					t.Errorf("%s: %s is not to port %d", one, p, port)
				}
				if p.TTL != want.ttl-want.hops {
					t.Errorf("%s: %s has come, want TTL %d", one, p, want.ttl-want.hops)
				}
			}
		}
		for name, every := range map[string]time.Duration{"the router's hold time": 2 * time.Second, "our hold time": 2 * time.Second} {
			one := s.find(t, r, name)
			var last time.Time
			var apart []time.Duration
			for _, p := range from(sent, one) {
				if len(p.Payload) != 19 || p.Payload[18] != 4 { // KEEPALIVE, RFC 4271 section 4.4
					continue
				}
				if !last.IsZero() {
					apart = append(apart, p.Time.Sub(last).Round(time.Millisecond))
				}
				last = p.Time
			}
			if len(apart) < int(keepalives/every)-1 || slices.Max(apart) > 2*every {
				t.Errorf("%s: keepalives are %v apart, want %s", one, apart, every)
			}
		}
	}
	still()
}

// sessionsPassword: a session comes up once the peers file has the right password, and no other ends by that.
func sessionsPassword(t *testing.T, s *sessioned) {
	still := s.steady(t)
	for _, r := range s.routers() {
		one := s.find(t, r, "another password")
		one.fields["password"], one.never = "right", ""
	}
	s.write(t, s.file(t))
	began := time.Now()
	s.up(t, s.lasting()...)
	t.Logf("they are up after %s", time.Since(began).Round(time.Millisecond))
	still()
	for _, line := range s.pods[s.node].Output() {
		if strings.Contains(line.Text, "right") || strings.Contains(line.Text, "wrong") {
			t.Errorf("the log has a password: %s", line.Text)
		}
	}
}

// sessionsReset: the session is there again, and nothing else has ended.
func sessionsReset(t *testing.T, s *sessioned) {
	var reset []*bgpSession
	for _, r := range s.routers() {
		for _, name := range []string{"plain", "passive", "TTL security over two hops"} {
			reset = append(reset, s.find(t, r, name))
		}
	}
	still := s.steady(t, reset...)
	for _, one := range reset {
		before := s.seen(t, one).Flaps
		if err := one.router.ResetSession(within(t, patience), one.neighbor.Addr); err != nil {
			t.Fatal(err)
		}
		eventually(t, one.String()+" ends", func() (bool, error) { return s.seen(t, one).Flaps > before, nil })
	}
	began := time.Now()
	s.up(t, reset...)
	t.Logf("they are up after %s", time.Since(began).Round(time.Millisecond))
	still()
}
