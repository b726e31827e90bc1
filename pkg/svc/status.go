package svc

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ConditionAnnounced is the type of the condition in a Service's status that says whether its addresses are held.
const ConditionAnnounced = "kube-vip.io/Announced"

// Reasons of the condition, and of Events.
const (
	ReasonAnnounced = "Announced"
	ReasonMoved     = "Moved"
	ReasonRefused   = "AddressRefused"
	ReasonWithdrawn = "Withdrawn"
	ReasonNoAddress = "NoAddress"
	ReasonAllocated = "AddressAllocated"
	ReasonExhausted = "NoAddressLeft"
	ReasonNotPlaced = "NoNode"
	ReasonNoneLeft  = "NoNodeLeft"
	ReasonInUse     = "AddressInUse"
	ReasonBadPool   = "BadPool"

	ReasonBadAnnotation = "BadAnnotation"
)

// shown is what a Service's status is to say of us. Its zero value is nothing: the Service is not ours.
type shown struct {
	ours bool
	// addrs are the addresses that are announced, in order, and host is the node that does.
	addrs []netip.Addr
	host  string
	// reason and message explain; announced is the condition's status.
	announced       bool
	reason, message string
	// move is why host holds them, for who had them before. It is no part of the status.
	move move
}

func (w shown) equal(o shown) bool {
	return w.ours == o.ours && slices.Equal(w.addrs, o.addrs) && w.host == o.host && w.announced == o.announced &&
		w.reason == o.reason && w.message == o.message
}

// ingress is what the status is to list: an entry for each address, with the Service's ports.
func (w shown) ingress(s *corev1.Service) []corev1.LoadBalancerIngress {
	var list []corev1.LoadBalancerIngress
	mode := corev1.LoadBalancerIPModeVIP
	for _, a := range w.addrs {
		entry := corev1.LoadBalancerIngress{IP: a.String(), IPMode: &mode}
		for _, p := range s.Spec.Ports {
			entry.Ports = append(entry.Ports, corev1.PortStatus{Port: p.Port, Protocol: p.Protocol})
		}
		list = append(list, entry)
	}
	return list
}

// remains is what is left of a status that is not ours any more: the entries that somebody else wrote.
func remains(s *corev1.Service, were []netip.Addr) []corev1.LoadBalancerIngress {
	var list []corev1.LoadBalancerIngress
	for _, entry := range s.Status.LoadBalancer.Ingress {
		addr, err := netip.ParseAddr(entry.IP)
		if err != nil || !slices.Contains(were, addr) {
			list = append(list, entry)
		}
	}
	return list
}

// apply is s with the status that w asks for, or nil if it has that already. were are the addresses that we had
// announced for it. A Service that is not ours and bears no sign of us is never changed.
func apply(s *corev1.Service, w shown, were []netip.Addr, now time.Time) *corev1.Service {
	if !w.ours {
		return cleared(s, were)
	}
	out := s.DeepCopy()
	out.Status.LoadBalancer.Ingress = w.ingress(s)
	changed := !sameIngress(s.Status.LoadBalancer.Ingress, out.Status.LoadBalancer.Ingress)
	if s.Annotations[HostAnnotation] != w.host {
		changed = true
		setAnnotation(out, HostAnnotation, w.host)
	}
	status := metav1.ConditionFalse
	if w.announced {
		status = metav1.ConditionTrue
	}
	if c := meta.FindStatusCondition(s.Status.Conditions, ConditionAnnounced); c == nil || c.Status != status || c.Reason != w.reason || c.Message != w.message {
		changed = true
		meta.SetStatusCondition(&out.Status.Conditions, metav1.Condition{Type: ConditionAnnounced, Status: status,
			Reason: w.reason, Message: w.message, LastTransitionTime: metav1.NewTime(now)})
	}
	if !changed {
		return nil
	}
	return out
}

// cleared is s without what we had written, or nil if there is nothing of it.
func cleared(s *corev1.Service, were []netip.Addr) *corev1.Service {
	_, hosted := s.Annotations[HostAnnotation]
	if !hosted && meta.FindStatusCondition(s.Status.Conditions, ConditionAnnounced) == nil {
		return nil
	}
	out := s.DeepCopy()
	setAnnotation(out, HostAnnotation, "")
	// What names stood for is among the addresses that are asked for: it is known from the status.
	out.Status.LoadBalancer.Ingress = remains(s, slices.Concat(were, requested(s, nil).addrs))
	meta.RemoveStatusCondition(&out.Status.Conditions, ConditionAnnounced)
	return out
}

func setAnnotation(s *corev1.Service, key, value string) {
	if value == "" {
		delete(s.Annotations, key)
		return
	}
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	s.Annotations[key] = value
}

func sameIngress(a, b []corev1.LoadBalancerIngress) bool {
	return slices.EqualFunc(a, b, func(a, b corev1.LoadBalancerIngress) bool {
		mode := func(i corev1.LoadBalancerIngress) corev1.LoadBalancerIPMode {
			if i.IPMode == nil {
				return ""
			}
			return *i.IPMode
		}
		return a.IP == b.IP && a.Hostname == b.Hostname && mode(a) == mode(b) &&
			slices.EqualFunc(a.Ports, b.Ports, func(a, b corev1.PortStatus) bool { return a.Port == b.Port && a.Protocol == b.Protocol })
	})
}

// statusPatch is the merge patch (RFC 7386) that makes before into after, as far as the status and our annotations
// go. It carries before's resourceVersion: lists are replaced whole, and must not undo what another has written.
func statusPatch(before, after *corev1.Service) ([]byte, error) {
	annotations := map[string]any{}
	if host, ok := after.Annotations[HostAnnotation]; ok {
		annotations[HostAnnotation] = host
	} else {
		annotations[HostAnnotation] = nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"annotations": annotations, "resourceVersion": before.ResourceVersion},
		"status": map[string]any{
			"loadBalancer": map[string]any{"ingress": after.Status.LoadBalancer.Ingress},
			"conditions":   after.Status.Conditions,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("write the status of Service %s/%s as a patch: %w", before.Namespace, before.Name, err)
	}
	return patch, nil
}
