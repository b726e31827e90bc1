package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/test/lab"
)

// editPool changes the ConfigMap of the pools.
func (s *services) editPool(t *testing.T, change func(data map[string]string)) {
	t.Helper()
	client, err := s.Kube()
	if err != nil {
		t.Fatal(err)
	}
	maps := client.CoreV1().ConfigMaps(svc.PoolNamespace)
	m, err := maps.Get(within(t, patience), svc.PoolConfigMap, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	change(m.Data)
	if _, err := maps.Update(within(t, patience), m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// complained waits for an Event on the ConfigMap of the pools.
func (s *services) complained(t *testing.T, text string) {
	t.Helper()
	s.event(t, &lab.Service{Namespace: svc.PoolNamespace, Name: svc.PoolConfigMap}, svc.ReasonBadPool, text)
}

// listed are the addresses of all sets, one by one.
func listed(sets ...[]netip.Addr) string {
	return strings.ReplaceAll(join(slices.Concat(sets...)), ", ", ",")
}

// servicePools: a namespace has a pool of its own or the global one, and nothing else. What was given stays given, whatever
// becomes of the pools and of those who gave it; what is wrong in the ConfigMap is told, and the rest counts.
func servicePools(t *testing.T, s *services) {
	inShop := s.namespace(t, "shop")
	a, b, global, last, more := s.addrs(53), s.addrs(54), s.addrs(55), s.addrs(56), s.addrs(57)
	// Of a network only IPv4 has ends to be skipped: the first address of 10.10.0.152/30, and the last, which is global.
	own := strings.ReplaceAll(listed(a, b), a[0].String(), "10.10.0.152/30")
	own = strings.ReplaceAll(own, ","+b[0].String(), "")
	if !a[0].Is4() {
		own = listed(a, b)
	}
	defer s.pool(t, map[string]string{"cidr-shop": own, "range-global": listed(global, last), "skip-end-ips-in-cidr": "true"})()

	type given struct {
		service *lab.Service
		addrs   []netip.Addr
	}
	var has []given
	gets := func(service *lab.Service, addrs []netip.Addr) {
		t.Helper()
		s.on(t, service, addrs)
		has = append(has, given{service, addrs})
	}
	unchanged := func() {
		t.Helper()
		for _, one := range has {
			s.on(t, one.service, one.addrs)
		}
	}
	gets(s.create(t, "pools-a", nil, inShop), a)
	gets(s.create(t, "pools-b", nil, inShop), b)
	c := s.create(t, "pools-c", nil, inShop)
	s.refused(t, c, svc.ReasonExhausted, "pool cidr-shop has no")
	gets(s.create(t, "pools-d", nil), global)
	taken := s.create(t, "pools-taken", global)
	s.refused(t, taken, svc.ReasonRefused, "Service default/pools-d has 80/TCP on "+global[0].String()+" already")

	// The pool grows, by an address that the global one has as well: it is given out once.
	s.editPool(t, func(data map[string]string) { data["cidr-shop"] = own + "," + listed(last, more) })
	s.complained(t, "cidr-shop has "+last[0].String()+" as well")
	gets(c, last)
	gets(s.create(t, "pools-e", nil, inShop), more)
	waits := s.create(t, "pools-f", nil)
	s.refused(t, waits, svc.ReasonExhausted, "pool range-global has no")

	// It has nothing that counts any more, and then it is gone.
	s.editPool(t, func(data map[string]string) { data["cidr-shop"] = "10.10.0.999/30" })
	s.complained(t, "cidr-shop: 10.10.0.999/30: ")
	g := s.create(t, "pools-g", nil, inShop)
	s.refused(t, g, svc.ReasonNoAddress, "pool cidr-shop has no address to give: 10.10.0.999/30: ")
	unchanged()
	s.editPool(t, func(data map[string]string) { delete(data, "cidr-shop") })
	s.refused(t, g, svc.ReasonExhausted, "pool range-global has no")
	unchanged()

	// All instances are stopped, and know nothing when they begin again.
	for _, n := range s.Nodes {
		if err := s.pods[n].Stop(); err != nil {
			t.Error(err)
		}
	}
	for _, n := range s.Nodes {
		s.run(t, n, lab.PodOptions{})
	}
	s.settled(t)
	unchanged()

	// Who asks for an address of the pool by its number has it when it is given back.
	if err := has[2].service.Delete(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	s.on(t, taken, global)
}

// servicePoolShared: with allow-share one address does for Services with other ports, wherever it is held and whoever
// gives it out, and is free when the last of them goes.
func servicePoolShared(t *testing.T, s *services) {
	addrs, next := s.addrs(60), s.addrs(61)
	inStore := s.namespace(t, "store")
	defer s.pool(t, map[string]string{"range-store": listed(addrs, next), "allow-share-store": "true"})()
	const several = 4
	var sharing []*lab.Service
	for i := range several { // all at once: one is announced while another is tried
		sharing = append(sharing, s.create(t, fmt.Sprintf("pool-shared-%d", i), nil, inStore, port(corev1.ProtocolTCP, 80+int32(i))))
	}
	for _, service := range sharing {
		s.on(t, service, addrs)
	}
	clashes := s.create(t, "pool-shared-clash", nil, inStore, port(corev1.ProtocolTCP, 80))
	s.on(t, clashes, next)
	for _, service := range sharing {
		s.on(t, service, addrs)
		if err := service.Delete(within(t, patience)); err != nil {
			t.Fatal(err)
		}
	}
	s.nobody(t, addrs)
	again := s.create(t, "pool-shared-again", nil, inStore, port(corev1.ProtocolTCP, 80))
	s.on(t, again, addrs)
}

// serviceFamilyOrder: the status lists the families in the order of the Service, and one that prefers two has one where the
// pool has no more.
func serviceFamilyOrder(t *testing.T, s *services) {
	addrs, alone := s.addrs(58), s.addrs(59)[:1]
	defer s.pool(t, map[string]string{"range-global": listed(addrs)})()
	turned := slices.Clone(addrs)
	slices.Reverse(turned)
	order := func(o *corev1.Service) { slices.Reverse(o.Spec.IPFamilies) }
	service := s.create(t, "order", nil, order)
	s.on(t, service, turned)
	s.answersFor(t, turned)
	s.editPool(t, func(data map[string]string) { data["range-global"] += "," + listed(alone) })
	prefers := s.create(t, "prefers", nil, func(o *corev1.Service) { stack(o, corev1.IPFamilyPolicyPreferDualStack) })
	s.on(t, prefers, alone)
	s.answersFor(t, alone)
	s.on(t, service, turned)
}
