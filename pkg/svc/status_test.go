package svc

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestApply(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	addrs := []netip.Addr{netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("fd00::10")}
	held := shown{ours: true, addrs: addrs, host: "n1", announced: true, reason: ReasonAnnounced, message: "node n1 holds them"}
	fresh := service("a", asking("10.0.0.10"))

	after := apply(fresh, held, nil, now)
	if after == nil {
		t.Fatal("nothing is to be written")
	}
	var entries []string
	for _, i := range after.Status.LoadBalancer.Ingress {
		entries = append(entries, i.IP+" "+string(*i.IPMode)+" "+string(i.Ports[0].Protocol))
	}
	if diff := cmp.Diff([]string{"10.0.0.10 VIP TCP", "fd00::10 VIP TCP"}, entries); diff != "" {
		t.Errorf("ingress (-want +got):\n%s", diff)
	}
	if after.Annotations[HostAnnotation] != "n1" || fresh.Annotations[HostAnnotation] != "" {
		t.Errorf("vipHost is %q, and %q before", after.Annotations[HostAnnotation], fresh.Annotations[HostAnnotation])
	}
	if again := apply(after, held, nil, now.Add(time.Hour)); again != nil {
		t.Errorf("what is there is to be written again: %v", cmp.Diff(after, again))
	}
	moved := held
	moved.host = "n2"
	if apply(after, moved, nil, now) == nil {
		t.Error("a new host is not written")
	}
	more := after.DeepCopy()
	more.Spec.Ports = append(more.Spec.Ports, corev1.ServicePort{Port: 443, Protocol: corev1.ProtocolTCP})
	if apply(more, held, nil, now) == nil {
		t.Error("a new port is not written")
	}

	gone := apply(after, shown{}, addrs, now)
	if gone == nil || len(gone.Status.LoadBalancer.Ingress)+len(gone.Status.Conditions)+len(gone.Annotations) != 1 {
		t.Fatalf("something of ours is left: %+v", gone)
	}
	if apply(gone, shown{}, nil, now) != nil {
		t.Error("what is cleared is to be cleared again")
	}
	foreign := after.DeepCopy()
	foreign.Status.LoadBalancer.Ingress = append(foreign.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{Hostname: "lb.example"})
	if left := apply(foreign, shown{}, addrs, now); left == nil || len(left.Status.LoadBalancer.Ingress) != 1 {
		t.Errorf("another's entry was touched: %+v", left)
	}
	other := service("a", asking("10.0.0.10"))
	other.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.0.0.10"}}
	if apply(other, shown{}, addrs, now) != nil {
		t.Error("the status of a Service that never was ours was touched")
	}
}

func TestStatusPatch(t *testing.T) {
	before := service("a")
	before.ResourceVersion = "7"
	after := apply(before, shown{ours: true, reason: ReasonNoAddress, message: "none"}, nil, time.Now())
	raw, err := statusPatch(before, after)
	if err != nil {
		t.Fatal(err)
	}
	var patch struct {
		Metadata struct {
			ResourceVersion string
			Annotations     map[string]*string
		}
		Status struct {
			LoadBalancer map[string]any
			Conditions   []any
		}
	}
	if err := json.Unmarshal(raw, &patch); err != nil {
		t.Fatal(err)
	}
	if host, ok := patch.Metadata.Annotations[HostAnnotation]; !ok || host != nil {
		t.Errorf("the annotation is not taken away: %s", raw)
	}
	if ingress, ok := patch.Status.LoadBalancer["ingress"]; !ok || ingress != nil {
		t.Errorf("the ingress is not taken away: %s", raw)
	}
	if patch.Metadata.ResourceVersion != "7" || len(patch.Status.Conditions) != 1 {
		t.Errorf("the patch is %s", raw)
	}
}
