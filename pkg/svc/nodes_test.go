package svc

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kube-vip.io/kube-vip/pkg/vip"
)

// node makes a Node that is ready.
func node(name string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	is(corev1.ConditionTrue)(n)
	for _, f := range change {
		f(n)
	}
	return n
}

func is(ready corev1.ConditionStatus) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	}
}

func label(key, value string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[key] = value }
}

func weighing(text string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Annotations = map[string]string{WeightAnnotation: text} }
}

func cordon(n *corev1.Node) { n.Spec.Unschedulable = true }

var excluded = label(corev1.LabelNodeExcludeBalancers, "")

func TestMemberOf(t *testing.T) {
	const ofControlPlane = "node-role.kubernetes.io/control-plane"
	for _, tc := range []struct {
		name   string
		node   *corev1.Node
		ignore bool // svc_exclude_label
		want   string
	}{
		{name: "well", node: node("n1"), want: "100"},
		{name: "nobody knows it", want: "100"},
		{name: "nobody judges it", node: node("n1", func(n *corev1.Node) { n.Status.Conditions = nil }), want: "100"},
		{name: "excluded", node: node("n1", excluded), want: "100 barred: node n1 has the label node.kubernetes.io/exclude-from-external-load-balancers (svc_exclude_label)"},
		{name: "excluded, and that is ignored", node: node("n1", excluded), ignore: true, want: "100"},
		{name: "excluded, of the control plane", node: node("n1", excluded, label(ofControlPlane, "")), want: "100"},
		{name: "cordoned", node: node("n1", cordon), want: "100 wavers: node n1 is cordoned (spec.unschedulable)"},
		{name: "cordoned, of the control plane", node: node("n1", cordon, label(ofControlPlane, "")), want: "100 wavers: node n1 is cordoned (spec.unschedulable)"},
		{name: "not ready", node: node("n1", is(corev1.ConditionFalse)), want: "100 wavers: node n1 is not ready (its condition Ready is False)"},
		{name: "silent", node: node("n1", is(corev1.ConditionUnknown)), want: "100 wavers: node n1 is not ready (its condition Ready is Unknown)"},
		{name: "excluded and cordoned", node: node("n1", cordon, excluded), want: "100 barred: node n1 has the label node.kubernetes.io/exclude-from-external-load-balancers (svc_exclude_label)" +
			" wavers: node n1 is cordoned (spec.unschedulable)"},
		{name: "a weight", node: node("n1", weighing(" 250 ")), want: "250"},
		{name: "no weight", node: node("n1", weighing("0")), want: "0"},
		{name: "too much weight", node: node("n1", weighing("1001")), want: "100"},
		{name: "a weight that is none", node: node("n1", weighing("heavy")), want: "100"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			kept := tc.node
			if kept != nil {
				o, err := slim(tc.node.DeepCopy())
				if err != nil {
					t.Fatal(err)
				}
				kept = o.(*corev1.Node)
			}
			m := memberOf("n1", kept, !tc.ignore)
			got := fmt.Sprint(m.Weight)
			if m.Barred != "" {
				got += " barred: " + m.Barred
			}
			if m.Wavers != "" {
				got += " wavers: " + m.Wavers
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestWeightProblem(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "0": "", "1000": "",
		"-1": `annotation kube-vip.io/weight of node n1: "-1" is not a number from 0 to 1000; it counts as 100`,
		"1k": `annotation kube-vip.io/weight of node n1: "1k" is not a number from 0 to 1000; it counts as 100`,
	} {
		if _, problem := weightOf(node("n1", weighing(text))); problem != want {
			t.Errorf("%q: %q, want %q", text, problem, want)
		}
	}
}

// TestDeferring: what each node of a group makes of the group's Services, and that somebody always holds them.
func TestDeferring(t *testing.T) {
	for _, tc := range []struct {
		name    string
		members string // "cp1 cp2=barred cp3=wavers+none"
		hold    string // those that do not defer
		left    string // why nobody is left
	}{
		{"all well", "cp1 cp2 cp3", "cp1 cp2 cp3", ""},
		{"alone", "cp1", "cp1", ""},
		{"one wavers", "cp1=wavers cp2 cp3", "cp2 cp3", ""},
		{"all waver", "cp1=wavers cp2=wavers", "cp1 cp2", ""},
		{"alone and wavers", "cp1=wavers", "cp1", ""},
		{"one is barred", "cp1=barred cp2", "cp2", ""},
		{"one is barred, the other wavers", "cp1=barred cp2=wavers", "cp2", ""},
		{"one is barred, the others waver or have no place", "cp1=barred cp2=wavers cp3=none", "cp2", ""},
		{"all are barred", "cp1=barred cp2=barred+wavers", "", "no node is left to hold Services' addresses: cp1 is barred; cp2 is barred"},
		{"alone and barred", "cp1=barred", "", "no node is left to hold Services' addresses: cp1 is barred"},
		{"one has no place", "cp1=none cp2", "cp2", ""},
		{"nobody has a place", "cp1=none cp2=none", "cp1 cp2", ""},
		{"one has no place, the other wavers", "cp1=none cp2=wavers", "cp2", ""},
		{"no place and wavering", "cp1=none+wavers cp2=none", "cp1 cp2", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var members []Member
			for word := range strings.FieldsSeq(tc.members) {
				name, traits, _ := strings.Cut(word, "=")
				m := Member{Name: name}
				if strings.Contains(traits, "barred") {
					m.Barred = name + " is barred"
				}
				if strings.Contains(traits, "wavers") {
					m.Wavers = name + " wavers"
				}
				if strings.Contains(traits, "none") {
					m.Lacks = []string{lacksAll}
				}
				members = append(members, m)
			}
			var hold []string
			for i, m := range members {
				view := []Member{m}
				view = append(view, members[:i]...)
				view = append(view, members[i+1:]...)
				none := ""
				if len(m.Lacks) > 0 {
					none, view[0].Lacks = m.Name+" has no place", nil
				}
				why := deferring(view, none)
				if why == "" {
					hold = append(hold, m.Name)
				} else if !strings.HasPrefix(why, m.Name+" ") {
					t.Errorf("%s defers since %q", m.Name, why)
				}
			}
			if got := strings.Join(hold, " "); got != tc.hold {
				t.Errorf("%s stand, want %s", got, tc.hold)
			}
			if got := noneLeft(members); got != tc.left {
				t.Errorf("left: %q, want %q", got, tc.left)
			}
		})
	}
}

func TestFew(t *testing.T) {
	if got := few([]string{"a", "b", "c", "d", "e", "f", "g"}); got != "a; b; c; d; e; 2 more" {
		t.Error(got)
	}
}

// TestOwn: which Services have a Lease of their own in the placement leader.
func TestOwn(t *testing.T) {
	for _, tc := range []struct {
		name  string
		s     *corev1.Service
		o     Options
		pools string
		want  bool
	}{
		{name: "any", s: service("a")},
		{name: "the placement lease", s: service("a"), o: Options{PerService: true}, want: true},
		{name: "Local", s: service("a", local), want: true},
		{name: "a selector", s: service("a", annotated(SelectorAnnotation, "disk=ssd")), want: true},
		{name: "an empty selector", s: service("a", annotated(SelectorAnnotation, " "))},
		{name: "a preferred node", s: service("a", annotated(PreferredAnnotation, "n1")), want: true},
		{name: "an interface", s: service("a", annotated(InterfaceAnnotation, "eth1")), want: true},
		{name: "the interface of the settings", s: service("a", annotated(InterfaceAnnotation, "eth1")), o: Options{Placement: vip.Placement{Interface: "eth1"}}},
		{name: "any interface", s: service("a", annotated(InterfaceAnnotation, "auto"))},
		{name: "any interface, and the settings name one", s: service("a", annotated(InterfaceAnnotation, "auto")), o: Options{Placement: vip.Placement{Interface: "eth1"}}},
		{name: "an interface of the pools", s: service("a"), pools: "eth1", want: true},
		{name: "any interface, by the pools", s: service("a"), pools: "auto"},
		{name: "an interface of the pools, and any by the Service", s: service("a", annotated(InterfaceAnnotation, "auto")), pools: "eth1"},
		{name: "on demand", s: service("a", annotated(ForceAnnotation, "true")), o: Options{OnDemand: true}, want: true},
		{name: "on demand, and not demanded", s: service("a", annotated(ForceAnnotation, "false")), o: Options{OnDemand: true}},
		{name: "demanded in vain", s: service("a", annotated(ForceAnnotation, "true"))},
		{name: "a Lease's name alone", s: service("a", annotated(LeaseAnnotation, "mine"))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := plan(tc.s, tc.o, Facts{Interface: tc.pools}).Own; got != tc.want {
				t.Errorf("own is %t, want %t", got, tc.want)
			}
		})
	}
}

// TestElect: who may hold a Service's own Lease, as seen by n1.
func TestElect(t *testing.T) {
	const eth0 = "eth0 10.0.0.1/24"
	member := func(n *corev1.Node, lacks ...string) Member {
		m := memberOf(n.Name, n, true)
		m.Lacks = lacks
		return m
	}
	ssd := label("disk", "ssd")
	selecting := annotated(SelectorAnnotation, "disk=ssd")
	there := annotated(InterfaceAnnotation, "eth1")
	on := func(nodes ...string) *Endpoints {
		e := &Endpoints{known: true}
		for _, n := range nodes {
			e.add(n, ready)
		}
		return e
	}
	for _, tc := range []struct {
		name      string
		s         *corev1.Service // with 10.0.0.10 unless it asks for others
		members   []Member
		links     []string // eth0 with 10.0.0.1/24 if nil
		endpoints *Endpoints
		candidate bool
		rivals    string
		nowhere   bool
		lacks     string
		reason    string
	}{
		{name: "all alike", s: service("a"), members: []Member{member(node("n1")), member(node("n2"))}, candidate: true, rivals: "n2"},
		{name: "cordoned", s: service("a"), members: []Member{member(node("n1", cordon)), member(node("n2"))}, reason: "node n1 is cordoned (spec.unschedulable)"},
		{name: "the other is cordoned", s: service("a"), members: []Member{member(node("n1")), member(node("n2", cordon))}, candidate: true},
		{name: "all are cordoned or silent", s: service("a"), members: []Member{member(node("n1", cordon)), member(node("n2", is(corev1.ConditionUnknown)))}, candidate: true, rivals: "n2"},
		{name: "cordoned, and the other is excluded", s: service("a"), members: []Member{member(node("n1", cordon)), member(node("n2", excluded))}, candidate: true},
		{name: "excluded", s: service("a"), members: []Member{member(node("n1", excluded)), member(node("n2", cordon))}, reason: "node n1 has the label"},
		{name: "all are excluded", s: service("a"), members: []Member{member(node("n1", excluded)), member(node("n2", excluded))}, nowhere: true,
			reason: "no node can hold it: node n1 has the label node.kubernetes.io/exclude-from-external-load-balancers (svc_exclude_label); node n2 has"},

		{name: "selected", s: service("a", selecting), members: []Member{member(node("n1", ssd)), member(node("n2"))}, candidate: true},
		{name: "not selected", s: service("a", selecting), members: []Member{member(node("n1")), member(node("n2", ssd))},
			reason: "node n1 does not match disk=ssd (annotation kube-vip.io/nodeSelector)"},
		{name: "nobody is selected", s: service("a", selecting), members: []Member{member(node("n1")), member(node("n2"))}, nowhere: true,
			reason: "no node can hold it: node n1 does not match disk=ssd (annotation kube-vip.io/nodeSelector); node n2 does not match"},
		{name: "the only one that is selected is cordoned", s: service("a", selecting), members: []Member{member(node("n1", ssd, cordon)), member(node("n2"))}, candidate: true},
		{name: "selected by a set", s: service("a", annotated(SelectorAnnotation, "disk in (ssd, nvme), !gpu")), members: []Member{member(node("n1", ssd)), member(node("n2", ssd, label("gpu", "1")))}, candidate: true},
		{name: "labels that nobody knows", s: service("a", annotated(SelectorAnnotation, "!gpu")), members: []Member{{Name: "n1"}, {Name: "n2"}}, nowhere: true,
			reason: "no node can hold it: the labels of node n1 are not known"},
		{name: "a typing error in the selector", s: service("a", annotated(SelectorAnnotation, "disk in ssd")), members: []Member{member(node("n1"))},
			reason: "the annotation kube-vip.io/nodeSelector is no label selector: "},
		{name: "a selector and a Lease's name", s: service("a", selecting, annotated(LeaseAnnotation, "mine")), members: []Member{member(node("n1", ssd))},
			reason: "the annotation kube-vip.io/leaseName can not be kept with the annotation kube-vip.io/nodeSelector"},

		{name: "an interface", s: service("a", there), links: []string{eth0, "eth1 192.168.0.1/24"}, members: []Member{member(node("n1")), member(node("n2"))}, candidate: true, rivals: "n2"},
		{name: "an interface that the other lacks", s: service("a", there), links: []string{eth0, "eth1 192.168.0.1/24"}, members: []Member{member(node("n1", cordon)), member(node("n2"), "eth1")}, candidate: true},
		{name: "an interface that is lacking", s: service("a", there), members: []Member{member(node("n1")), member(node("n2"))}, lacks: "eth1",
			reason: `node n1: annotation kube-vip.io/serviceInterface: this node has no interface "eth1"; it has eth0`},
		{name: "an interface that is down", s: service("a", there), links: []string{eth0, "eth1! 192.168.0.1/24"}, members: []Member{member(node("n1")), member(node("n2"))}, lacks: "eth1",
			reason: "node n1: interface eth1 of 10.0.0.10 is not up: it is set down or has no carrier"},
		{name: "an interface that nobody has", s: service("a", there), members: []Member{member(node("n1")), member(node("n2"), "*", "eth1")}, nowhere: true, lacks: "eth1",
			reason: `no node can hold it: node n1: annotation kube-vip.io/serviceInterface: this node has no interface "eth1"; it has eth0; node n2 has no interface eth1, or it is not up`},
		{name: "no place", s: service("a"), links: []string{"eth1 192.168.0.1/24"}, members: []Member{member(node("n1")), member(node("n2"))}, lacks: "10.0.0.10",
			reason: "node n1: no interface's subnet contains 10.0.0.10 and there is no default route"},
		{name: "no place anywhere", s: service("a"), links: []string{"eth1 192.168.0.1/24"}, members: []Member{member(node("n1")), member(node("n2"), "10.0.0.10")}, nowhere: true, lacks: "10.0.0.10",
			reason: "node n2 has no place for 10.0.0.10"},
		{name: "no place for one of two", s: service("a", asking("10.0.0.10,10.9.0.10")), members: []Member{member(node("n1")), member(node("n2", cordon))}, lacks: "10.9.0.10",
			reason: "node n1: no interface's subnet contains 10.9.0.10 and there is no default route"},
		{name: "no place for one of two, nor elsewhere", s: service("a", asking("10.0.0.10,10.9.0.10")), members: []Member{member(node("n1")), member(node("n2"), "10.9.0.10")}, lacks: "10.9.0.10",
			candidate: true, rivals: "n2"},

		{name: "Local", s: service("a", local), endpoints: on("n1"), members: []Member{member(node("n1")), member(node("n2"))}, candidate: true},
		{name: "Local, and the endpoint is elsewhere", s: service("a", local), endpoints: on("n2"), members: []Member{member(node("n1")), member(node("n2"))},
			reason: "node n1 has no ready endpoint, and externalTrafficPolicy is Local"},
		{name: "Local, and cordoned with the only endpoint", s: service("a", local), endpoints: on("n1"), members: []Member{member(node("n1", cordon)), member(node("n2"))}, candidate: true},
		{name: "Local, and cordoned with one of two", s: service("a", local), endpoints: on("n1", "n2"), members: []Member{member(node("n1", cordon)), member(node("n2"))}, reason: "node n1 is cordoned"},
		{name: "Local, and the endpoint is where no kube-vip runs", s: service("a", local), endpoints: on("n3"), members: []Member{member(node("n1")), member(node("n2"))}, nowhere: true,
			reason: "no node can hold it: node n1 has no ready endpoint, and externalTrafficPolicy is Local; node n2 has"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.s.Annotations[AddressesAnnotation] == "" {
				asking("10.0.0.10")(tc.s)
			}
			if tc.links == nil {
				tc.links = []string{eth0}
			}
			if tc.endpoints == nil {
				tc.endpoints = on("n1", "n2")
			}
			f := Facts{Endpoints: *tc.endpoints, Node: "n1", Members: tc.members, Clash: func(netip.Addr) string { return "" }}
			for i, text := range tc.links {
				name, prefix, _ := strings.Cut(text, " ")
				f.Links = append(f.Links, vip.Link{Index: i + 2, Name: strings.TrimSuffix(name, "!"), Up: !strings.HasSuffix(name, "!"), Addrs: []netip.Prefix{netip.MustParsePrefix(prefix)}})
			}
			p := plan(tc.s, Options{PerService: true}, f)
			var rivals []string
			for _, m := range p.Rivals {
				rivals = append(rivals, m.Name)
			}
			got := fmt.Sprintf("candidate %t, rivals %s, nowhere %t, lacks %s", p.Candidate, strings.Join(rivals, " "), p.Nowhere, strings.Join(p.Lacks, " "))
			want := fmt.Sprintf("candidate %t, rivals %s, nowhere %t, lacks %s", tc.candidate, tc.rivals, tc.nowhere, tc.lacks)
			if got != want {
				t.Errorf("%s\nwant %s", got, want)
			}
			if !strings.Contains(p.Reason, tc.reason) || p.Reason != "" && tc.reason == "" {
				t.Errorf("the reason is %q, want one with %q", p.Reason, tc.reason)
			}
			if p.Announced == p.Nowhere && p.Candidate {
				t.Errorf("announced %t, nowhere %t, candidate %t", p.Announced, p.Nowhere, p.Candidate)
			}
		})
	}
}

func TestMemberEqual(t *testing.T) {
	a := Member{Name: "n1", Labels: labels.Set{"a": "b"}, Weight: 1, Barred: "x", Wavers: "y", Lacks: []string{"z"}}
	if !a.equal(a) {
		t.Error("it is not equal to itself")
	}
	for name, change := range map[string]func(*Member){
		"name": func(m *Member) { m.Name = "" }, "labels": func(m *Member) { m.Labels = nil }, "weight": func(m *Member) { m.Weight = 0 },
		"barred": func(m *Member) { m.Barred = "" }, "wavers": func(m *Member) { m.Wavers = "" }, "lacks": func(m *Member) { m.Lacks = nil },
	} {
		b := a
		if change(&b); a.equal(b) {
			t.Errorf("another %s makes no difference: %s", name, cmp.Diff(a, b))
		}
	}
}
