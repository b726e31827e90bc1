package main

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"kube-vip.io/kube-vip/pkg/svc"
)

// TestReserved: what no Service may have for a Lease of its own.
func TestReserved(t *testing.T) {
	is := reserved(svc.Locks{Group: types.NamespacedName{Namespace: "vips", Name: "services"}, ControlPlane: types.NamespacedName{Namespace: "kube-system", Name: "plane"}})
	for lease, want := range map[types.NamespacedName]bool{
		{Namespace: "vips", Name: "services"}:                     true,
		{Namespace: "kube-system", Name: "plane"}:                 true,
		{Namespace: "kube-system", Name: "services"}:              false,
		{Namespace: "vips", Name: "plane"}:                        false,
		{Namespace: "kube-system", Name: "kubevip-member-cp1"}:    true,
		{Namespace: "vips", Name: "kubevip-member-cp1"}:           true,
		{Namespace: "shop", Name: "kubevip-member-cp1"}:           false, // of a Service that is called member-cp1
		{Namespace: "kube-system", Name: "kubevip-ingress-nginx"}: false,
	} {
		if got := is(lease.Namespace, lease.Name); got != want {
			t.Errorf("%s is reserved: %t, want %t", lease, got, want)
		}
	}
}
