package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kube-vip.io/kube-vip/test/lab"
)

// sessionsReload: what has changed in the peers file changes, and nothing else.
func sessionsReload(t *testing.T, s *sessioned) {
	var longer, gone, added []*bgpSession
	for _, r := range s.routers() {
		plain := s.find(t, r, "plain")
		plain.fields["med"], plain.fields["communities"] = 33, []string{"wide", "65001:8"}
		one := s.find(t, r, "our hold time")
		one.fields["holdTime"] = 12
		longer = append(longer, one)
		gone = append(gone, s.find(t, r, "waited for"))
	}
	still := s.steady(t, slices.Concat(longer, gone)...)
	flaps := map[*bgpSession]int{}
	for _, one := range longer {
		flaps[one] = s.seen(t, one).Flaps
	}
	s.sessions = slices.DeleteFunc(s.sessions, func(one *bgpSession) bool { return slices.Contains(gone, one) })
	for _, r := range s.routers() {
		added = append(added, s.add(r, "added", near, lab.Neighbor{}, nil))
	}
	for _, one := range added {
		s.address(t, one)
		if err := one.router.Configure(within(t, patience), func(o *lab.RouterOptions) { o.Neighbors = append(o.Neighbors, one.neighbor) }); err != nil {
			t.Fatal(err)
		}
	}
	s.write(t, s.file(t))
	for _, r := range s.routers() {
		plain := s.find(t, r, "plain")
		s.route(t, plain, "10.99.0.10/32", wantRoute{hop: plain.neighbor.Addr, path: []uint32{nodesAS}, med: 33, communities: []string{"65001:8"}, large: []string{"65001:5:0"}}.is)
	}
	s.up(t, added...)
	for _, one := range longer {
		eventually(t, one.String()+" is there anew", func() (bool, error) {
			seen := s.seen(t, one)
			return seen.Established() && seen.Hold == 12*time.Second && seen.Flaps == flaps[one]+1, nil
		})
	}
	for _, one := range gone {
		eventually(t, one.String()+" is gone", func() (bool, error) { return !s.seen(t, one).Established(), nil })
	}
	eventually(t, "status bgp does not tell of those that are gone", func() (bool, error) {
		told := s.told(t)
		return !slices.ContainsFunc(gone, func(one *bgpSession) bool { _, is := told[one.peer()]; return is }), nil
	})
	still()
}

// sessionsBadFile: a peers file that cannot be used changes nothing, and the log says what is wrong with it.
func sessionsBadFile(t *testing.T, s *sessioned) {
	good := s.file(t)
	still := s.steady(t)
	for _, bad := range []struct{ text, says string }{
		{"peers: [", "peers.yaml: "},
		{good + "\npeers: []\n", `key \"peers\" already set`},
		{strings.Replace(good, "holdTime: 30", "holdTme: 12", 1), "holdTme: there is no field of this name; did you mean holdTime?"},
		{strings.Replace(good, "- no-export", "- no-exprt", 1), `communities: there is no community \"no-exprt\"; did you mean no-export?`},
		{strings.Replace(good, "holdTime: 30", "holdTime: 2", 1), "holdTime must be 0 or at least 3"},
		{"peers: []\nmore: 1\n", "want peers and communities only"},
	} {
		began := time.Now()
		s.write(t, bad.text)
		line, err := s.pods[s.node].WaitLogSince(within(t, patience), began, bad.says)
		if err != nil {
			t.Error(err)
			continue
		}
		t.Log(line.Text)
		if !strings.Contains(line.Text, "level=WARN") || !strings.Contains(line.Text, peersFile) {
			t.Errorf("it does not name the file: %s", line.Text)
		}
	}
	began := time.Now()
	if err := os.Remove(s.node.Path(peersFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.pods[s.node].WaitLogSince(within(t, patience), began, "no such file"); err != nil {
		t.Error(err)
	}
	still()
	s.write(t, good)
}

// sessionsSelected: peers come and go with the labels of the node.
func sessionsSelected(t *testing.T, s *sessioned) {
	still := s.steady(t)
	var selected []*bgpSession
	for _, r := range s.routers() {
		one := s.add(r, "selected", near, lab.Neighbor{}, fields{"nodeSelector": map[string]string{"rack": "a"}})
		s.address(t, one)
		if err := r.Configure(within(t, patience), func(o *lab.RouterOptions) { o.Neighbors = append(o.Neighbors, one.neighbor) }); err != nil {
			t.Fatal(err)
		}
		selected = append(selected, one)
	}
	began := time.Now()
	s.write(t, s.file(t))
	if _, err := s.pods[s.node].WaitLogSince(within(t, patience), began, "BGP peers file has changed"); err != nil {
		t.Fatal(err)
	}
	if _, is := s.told(t)[selected[0].peer()]; is {
		t.Errorf("%s is a peer of a node that it does not select", selected[0])
	}
	s.setNode(t, s.node, func(o *corev1.Node) { o.Labels["rack"] = "a" })
	s.up(t, selected...)
	s.setNode(t, s.node, func(o *corev1.Node) { delete(o.Labels, "rack") })
	for _, one := range selected {
		eventually(t, one.String()+" is gone", func() (bool, error) { return !s.seen(t, one).Established(), nil })
	}
	s.sessions = slices.DeleteFunc(s.sessions, func(one *bgpSession) bool { return slices.Contains(selected, one) })
	still()
}

// sessionsSecret: a password that changes in its Secret ends the session once, and it is there again when both have the new one.
func sessionsSecret(t *testing.T, s *sessioned) {
	var ones []*bgpSession
	for _, r := range s.routers() {
		ones = append(ones, s.find(t, r, "password of a Secret"))
	}
	still := s.steady(t, ones...)
	began := time.Now()
	s.secret(t, map[string]string{s.frr.Name: "second", s.bird.Name: "second"})
	for _, one := range ones {
		before := s.seen(t, one).Flaps
		if err := one.router.Configure(within(t, patience), func(o *lab.RouterOptions) {
			for i := range o.Neighbors {
				if o.Neighbors[i].Addr == one.neighbor.Addr {
					o.Neighbors[i].Password = "second"
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
		eventually(t, one.String()+" ends", func() (bool, error) { return s.seen(t, one).Flaps > before, nil })
	}
	s.up(t, ones...)
	t.Logf("they are up after %s", time.Since(began).Round(time.Millisecond))
	still()
}
