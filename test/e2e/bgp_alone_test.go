package e2e

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kube-vip.io/kube-vip/test/lab"
)

// sessionsUnnumbered: with no other peer than the one at the end of the cable, the addresses of both families are reached by it.
func sessionsUnnumbered(t *testing.T, s *sessioned) {
	unnumbered := s.find(t, s.frr, "unnumbered")
	still := func() func() {
		before := s.seen(t, unnumbered).Flaps
		return func() {
			if now := s.seen(t, unnumbered); !now.Established() || now.Flaps != before {
				t.Errorf("%s: %+v", unnumbered, now)
			}
		}
	}()
	s.sessions = []*bgpSession{unnumbered}
	s.write(t, s.file(t))
	eventually(t, "the others are gone", func() (bool, error) { return len(s.told(t)) == 1, nil })
	for _, prefix := range []string{"10.99.0.0/27", "fd00:99::/119"} {
		var last []netip.Addr
		if err := lab.Wait(within(t, patience), prefix+" goes by the cable", func() (bool, error) {
			var err error
			last, err = s.frr.KernelRoute(netip.MustParsePrefix(prefix))
			return len(last) == 1 && last[0] == netip.MustParseAddr(cableHop+"%to-cp1"), err
		}); err != nil {
			t.Errorf("%v: %v", err, last)
		}
	}
	for _, v := range s.VIPs {
		gap, err := s.frr.Client.StartGap(within(t, patience), lab.GapOptions{Target: netip.AddrPortFrom(v, apiPort), TLS: true})
		if err != nil {
			t.Errorf("%s is not reached: %v", v, err)
			continue
		}
		wait(t, 500*time.Millisecond)
		if result := gap.Stop(); result.Failed > 0 {
			t.Errorf("%s: %s: %v", v, result, result.Causes())
		}
	}
	still()
}

// sessionsAnnotated: in place of the file, annotations of the node name the peers, and may change while it runs.
func sessionsAnnotated(t *testing.T, s *sessioned) {
	const prefix, as, password = "cloud.example", 65010, "annotated"
	routers := []*lab.Router{s.frr, s.inner}
	node, neighbor := s.node.Addr(), lab.Neighbor{Addr: s.node.Addr(), AS: as, Password: password, Passive: true}
	for _, r := range routers {
		if err := r.Configure(within(t, patience), func(o *lab.RouterOptions) {
			one := neighbor
			if one.Source = r.Addr(); r == s.inner {
				one.LocalAS = routerAS
			}
			o.Neighbors = append(o.Neighbors, one)
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.pods[s.node].Stop(); err != nil {
		t.Error(err)
	}
	s.manifest = generate(t, "manifest", "pod", "--bgp", "--controlplane", "--address", listed(s.VIPs), "--annotations", prefix)
	annotate := func(peers ...netip.Addr) {
		t.Helper()
		s.setNode(t, s.node, func(o *corev1.Node) {
			if o.Annotations == nil {
				o.Annotations = map[string]string{}
			}
			maps.Copy(o.Annotations, map[string]string{
				prefix + "/node-asn": fmt.Sprint(as), prefix + "/src-ip": node.String(), prefix + "/peer-asn": fmt.Sprint(routerAS),
				prefix + "/bgp-pass": base64.StdEncoding.EncodeToString([]byte(password)), prefix + "/peer-ip": listed(peers),
			})
		})
	}
	s.run(t, s.node, lab.PodOptions{})
	line, err := s.pods[s.node].WaitLog(within(t, patience), "has not all annotations that name the BGP peers")
	if err != nil || !strings.Contains(line.Text, prefix+"/peer-ip") {
		t.Errorf("%s; %v", line.Text, err)
	}
	seen := func(r *lab.Router) lab.Session {
		session, _, err := r.Session(within(t, patience), node)
		if err != nil {
			t.Fatal(err)
		}
		return session
	}
	both := func(up bool) {
		t.Helper()
		eventually(t, "the sessions are as the annotations say", func() (bool, error) {
			return seen(s.frr).Established() && seen(s.inner).Established() == up, nil
		})
	}
	annotate(s.frr.Addr(), s.inner.Addr())
	both(true)
	before := seen(s.frr).Flaps
	annotate(s.frr.Addr())
	both(false)
	annotate(s.frr.Addr(), s.inner.Addr())
	both(true)
	if now := seen(s.frr).Flaps; now != before {
		t.Errorf("the session with %s has ended %d times", s.frr, now-before)
	}
}
