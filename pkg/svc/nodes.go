package svc

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kube-vip.io/kube-vip/pkg/vip"
)

// controlPlaneLabels mark nodes whose label of exclusion says nothing: kubeadm puts it on every one of them, and they
// are where kube-vip runs.
var controlPlaneLabels = [...]string{"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"}

// unfit says why a node may hold no Service's address, whatever becomes of the others; empty when it may. A node that
// nobody knows may.
func unfit(n *corev1.Node, exclude bool) string {
	if n == nil || !exclude {
		return ""
	}
	if _, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]; !excluded {
		return ""
	}
	for _, label := range controlPlaneLabels {
		if _, is := n.Labels[label]; is {
			return ""
		}
	}
	return "node " + n.Name + " has the label " + corev1.LabelNodeExcludeBalancers + " (svc_exclude_label)"
}

// cordoned says that somebody wants nothing new on a node; empty when nobody does.
func cordoned(n *corev1.Node) string {
	if n == nil || !n.Spec.Unschedulable {
		return ""
	}
	return "node " + n.Name + " is cordoned (spec.unschedulable)"
}

// silent says that a node's kubelet is not well, or not heard of; empty when it is well, or when nobody judges it.
func silent(n *corev1.Node) string {
	if n == nil {
		return ""
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return fmt.Sprintf("node %s is not ready (its condition Ready is %s)", n.Name, c.Status)
		}
	}
	return ""
}

// Weights of nodes.
const (
	defaultWeight = 100
	mostWeight    = 1000
)

// weightOf is a node's share of the Leases, and what is wrong with what it says of that.
func weightOf(n *corev1.Node) (weight int, problem string) {
	if n == nil || n.Annotations[WeightAnnotation] == "" {
		return defaultWeight, ""
	}
	weight, err := strconv.Atoi(strings.TrimSpace(n.Annotations[WeightAnnotation]))
	if err != nil || weight < 0 || weight > mostWeight {
		return defaultWeight, fmt.Sprintf("annotation %s of node %s: %q is not a number from 0 to %d; it counts as %d",
			WeightAnnotation, n.Name, n.Annotations[WeightAnnotation], mostWeight, defaultWeight)
	}
	return weight, ""
}

// Peer is another node on which kube-vip runs.
type Peer struct {
	Node string
	// Lacks is what it says it has no place for.
	Lacks []string
}

// lacksAll is lacked by a node that has no place for any address of the group's Services.
const lacksAll = "*"

// Member is a node on which kube-vip runs, as far as it bears on who holds what.
type Member struct {
	Name   string
	Labels labels.Set // nil when nobody knows them
	Weight int
	// Barred says why it may hold nothing, whatever becomes of the others; empty when it may.
	Barred string
	// Wavers says why it leaves what it has to any other that does not waver; empty when it does not.
	Wavers string
	// Lacks is what it has no place for. This node's own is empty: it looks at its interfaces.
	Lacks []string
}

func (m Member) equal(o Member) bool {
	return m.Name == o.Name && m.Weight == o.Weight && m.Barred == o.Barred && m.Wavers == o.Wavers &&
		slices.Equal(m.Lacks, o.Lacks) && maps.Equal(m.Labels, o.Labels)
}

// memberOf is what a Node object, which may be nil, says of a member.
func memberOf(name string, n *corev1.Node, exclude bool) Member {
	m := Member{Name: name, Barred: unfit(n, exclude), Wavers: cmp.Or(cordoned(n), silent(n))}
	m.Weight, _ = weightOf(n)
	if n != nil {
		m.Labels = labels.Set(n.Labels)
		if m.Labels == nil {
			m.Labels = labels.Set{}
		}
	}
	return m
}

// standing is how well a member can hold something, best first. Who stands worse than another leaves it to that one;
// among those that stand alike nothing moves, so somebody always holds.
type standing int

const (
	fine     standing = iota
	wavering          // it is cordoned, or not ready
	lacking           // it has no place for some of the addresses
	out               // it can hold nothing of it
)

// deferring says why the first of members leaves the group's Services to others; empty when it does not. none says why
// it has a place for no address of them; empty when it has.
func deferring(members []Member, none string) string {
	judge := func(m Member, none bool) standing {
		switch {
		case m.Barred != "":
			return out
		case none:
			return lacking
		case m.Wavers != "":
			return wavering
		}
		return fine
	}
	self := members[0]
	mine := judge(self, none != "")
	better := slices.ContainsFunc(members[1:], func(m Member) bool { return judge(m, slices.Contains(m.Lacks, lacksAll)) < mine })
	switch {
	case mine == out:
		return self.Barred
	case better && mine == lacking:
		return none
	case better:
		return self.Wavers
	}
	return ""
}

// noneLeft says why no member may hold anything; empty while one may.
func noneLeft(members []Member) string {
	var why []string
	for _, m := range members {
		if m.Barred == "" {
			return ""
		}
		why = append(why, m.Barred)
	}
	return "no node is left to hold Services' addresses: " + few(why)
}

// few lists reasons for a message: a cluster has thousands of nodes.
func few(list []string) string {
	const most = 5
	if len(list) > most {
		list = append(slices.Clone(list[:most]), fmt.Sprintf("%d more", len(list)-most))
	}
	return strings.Join(list, "; ")
}

// placementOf is where the addresses of s go; fallback is what the settings say, and pools what interface-<namespace>
// of the pools does.
func placementOf(s *corev1.Service, fallback vip.Placement, pools string) vip.Placement {
	at := fallback
	if pools == "auto" {
		at.Interface, at.Detached = "", false
	} else if pools != "" {
		at.Interface, at.Setting = pools, "ConfigMap "+PoolConfigMap
	}
	switch name := strings.TrimSpace(s.Annotations[InterfaceAnnotation]); name {
	case "":
	case "auto":
		at.Interface, at.Detached = "", false
	default:
		at.Interface, at.Setting = name, "annotation "+InterfaceAnnotation
	}
	return at
}

// selects reads the annotation for s; nil selects every node.
func selects(s *corev1.Service) (labels.Selector, error) {
	text := strings.TrimSpace(s.Annotations[SelectorAnnotation])
	if text == "" {
		return nil, nil
	}
	selector, err := labels.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("the annotation %s is no label selector: %s", SelectorAnnotation, oneLine(err))
	}
	return selector, nil
}

func preferred(s *corev1.Service) string {
	return strings.TrimSpace(s.Annotations[PreferredAnnotation])
}

// own says whether s has a Lease of its own. Every node must come to the same answer, so it goes by what all of them
// see: the Service, the pools and the settings.
func own(s *corev1.Service, o Options, f Facts) bool {
	at := placementOf(s, o.Placement, f.Interface).Interface
	return o.PerService || choosy(s) || preferred(s) != "" ||
		at != "" && at != o.Placement.Interface ||
		o.OnDemand && isTrue(s, ForceAnnotation)
}

// choosy says that not every node can serve s, by its own word: what shares an address with it could be held nowhere.
func choosy(s *corev1.Service) bool {
	return s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal || strings.TrimSpace(s.Annotations[SelectorAnnotation]) != ""
}

// settle notes for which addresses this node has no place.
func (p *Plan) settle(at vip.Placement, f Facts) {
	if len(f.Links) == 0 {
		return // they could not be listed: that is no reason to move anything
	}
	_, usable, problems := at.Follow(p.Addrs, f.Links, f.Places)
	if len(problems) == 0 {
		return
	}
	texts := make([]string, len(problems))
	for i, err := range problems {
		texts[i] = oneLine(err)
	}
	p.NoPlace, p.Placeless = "node "+f.Node+": "+strings.Join(texts, "; "), usable == 0
	for _, addr := range p.Addrs {
		if _, usable, _ := at.Follow([]netip.Addr{addr}, f.Links, f.Places); usable == 0 && !slices.Contains(p.Lacks, thing(at, addr)) {
			p.Lacks = append(p.Lacks, thing(at, addr))
		}
	}
}

// thing is what a node must have for addr, as members tell each other: an interface that is asked for, or else a place
// for the address.
func thing(at vip.Placement, addr netip.Addr) string { return cmp.Or(at.Interface, addr.String()) }

// elect says who may hold what not every node can serve, and whether this node is one of them.
func (p *Plan) elect(s *corev1.Service, at vip.Placement, selector labels.Selector, f Facts) {
	members := f.Members
	if len(members) == 0 {
		members = []Member{{Name: f.Node, Weight: defaultWeight, Barred: f.Unfit}}
	}
	judge := func(m Member, self bool) (standing, string) {
		lacks, none := p.Lacks, p.Placeless
		why := p.NoPlace
		if !self {
			lacks = slices.DeleteFunc(things(at, p.Addrs), func(t string) bool { return !slices.Contains(m.Lacks, t) })
			none = len(lacks) == len(things(at, p.Addrs))
			why = fmt.Sprintf("node %s has no place for %s", m.Name, strings.Join(lacks, ", "))
			if at.Interface != "" {
				why = fmt.Sprintf("node %s has no interface %s, or it is not up", m.Name, at.Interface)
			}
		}
		serves := f.Endpoints.on(m.Name) || self && f.Holds && f.Endpoints.here(m.Name)
		switch {
		case m.Barred != "":
			return out, m.Barred
		case selector != nil && m.Labels == nil:
			return out, fmt.Sprintf("the labels of node %s are not known, and the annotation %s asks for some", m.Name, SelectorAnnotation)
		case selector != nil && !selector.Matches(m.Labels):
			return out, fmt.Sprintf("node %s does not match %s (annotation %s)", m.Name, selector, SelectorAnnotation)
		case s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && !serves:
			return out, "node " + m.Name + " has no ready endpoint, and externalTrafficPolicy is Local"
		case none:
			return out, why
		case len(lacks) > 0:
			return lacking, why
		case m.Wavers != "":
			return wavering, m.Wavers
		}
		return fine, ""
	}
	standings := make([]standing, len(members))
	whys := make([]string, len(members))
	for i, m := range members {
		standings[i], whys[i] = judge(m, i == 0)
	}
	best := slices.Min(standings)
	for i, m := range members {
		if standings[i] == best && best != out {
			p.Nodes = append(p.Nodes, m.Name)
		}
	}
	slices.Sort(p.Nodes)
	p.Leaves = (members[0].Barred != "" || standings[0] == wavering) && standings[0] > best &&
		(s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal || f.Endpoints.on(members[0].Name))
	switch {
	case best == out && len(f.Members) > 0:
		p.Announced, p.Nowhere, p.Reason = false, true, "no node can hold it: "+few(whys)
	case best == out || standings[0] > best:
		p.Reason = whys[0]
	default:
		p.Candidate = true
		for i, m := range members[1:] {
			if standings[i+1] == best {
				p.Rivals = append(p.Rivals, m)
			}
		}
	}
}

// things are what a node must have for addrs.
func things(at vip.Placement, addrs []netip.Addr) []string {
	var list []string
	for _, addr := range addrs {
		if t := thing(at, addr); !slices.Contains(list, t) {
			list = append(list, t)
		}
	}
	return list
}
