package svc

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"kube-vip.io/kube-vip/pkg/pool"
)

func TestGuarded(t *testing.T) {
	port := func(number int32, protocol corev1.Protocol) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.Ports = []corev1.ServicePort{{Port: number, Protocol: protocol}}
		}
	}
	open := annotated(UnguardedAnnotation, "true")
	for _, test := range []struct {
		name     string
		services []*corev1.Service
		want     string
	}{
		{"none", nil, "[]"},
		{"one", []*corev1.Service{service("a", asking("10.0.0.7"), port(53, corev1.ProtocolUDP))}, "[{10.0.0.7 [53/UDP]}]"},
		{"without a protocol", []*corev1.Service{service("a", asking("10.0.0.7"), port(80, ""))}, "[{10.0.0.7 [80/TCP]}]"},
		{"two families", []*corev1.Service{service("a", asking("fd00::7,10.0.0.7"))}, "[{10.0.0.7 [80/TCP]} {fd00::7 [80/TCP]}]"},
		{"one that opts out", []*corev1.Service{service("a", asking("10.0.0.7"), open)}, "[]"},
		{"shared with one that opts out", []*corev1.Service{service("a", asking("10.0.0.7")),
			service("b", asking("10.0.0.7"), port(81, corev1.ProtocolTCP), open)}, "[]"},
		{"with the control plane", []*corev1.Service{service("a", asking("10.0.0.10"))}, "[{10.0.0.10 [80/TCP 6443/TCP]}]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			known := map[string]*entry{}
			for _, s := range test.services {
				known[key(s)] = &entry{addrs: requested(s, nil).addrs, exposure: exposureOf(s)}
			}
			got := guarded(known, func(a netip.Addr) []pool.Port {
				if a.String() == "10.0.0.10" {
					return []pool.Port{{Number: 6443, Protocol: "TCP"}}
				}
				return nil
			})
			if diff := cmp.Diff(test.want, fmt.Sprint(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
