package svc

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/pool"
	"kube-vip.io/kube-vip/pkg/vip"
)

var (
	seeds   = flag.Int("seeds", 100, "how many seeds the walk over Services runs")
	oneSeed = flag.Uint64("seed", 0, "walk with this seed alone, and print the steps")
)

// TestWalk does anything in any order: Services come, are edited and go, pools are edited, the watch lags behind what is
// written, and the program starts anew. Whenever all has come to rest, no two Services have the same port of an address, nobody
// has lost an announced address by another's doing, and nobody waits for what is free.
func TestWalk(t *testing.T) {
	first, n := uint64(1), *seeds
	if *oneSeed != 0 {
		first, n = *oneSeed, 1
	}
	for seed := first; seed < first+uint64(n); seed++ {
		synctest.Test(t, func(t *testing.T) {
			w := &walker{t: t, random: rand.New(rand.NewPCG(seed, 0)), api: map[string]*corev1.Service{}, late: map[string]bool{},
				had: map[string][]netip.Addr{}, edited: map[string]bool{}, pools: map[string]string{"range-global": "10.0.0.7-10.0.0.9,fd00::7-fd00::8"}}
			w.client = fake.NewClientset()
			w.client.PrependReactor("patch", "services", w.patch)
			w.start()
			for i := 0; i < 200 && !t.Failed(); i++ {
				time.Sleep(time.Second)
				w.step()
				if w.random.IntN(2) == 0 {
					w.settle()
					w.check()
				}
			}
			if !t.Failed() {
				w.end()
			}
			if t.Failed() || *oneSeed != 0 {
				t.Logf("-seed=%d; the steps were:\n%s", seed, strings.Join(w.steps, "\n"))
			}
		})
		if t.Failed() {
			return
		}
	}
}

// walker walks, and is the API server and the wire of the Controller.
type walker struct {
	t      *testing.T
	random *rand.Rand
	client *fake.Clientset
	j      *assessor
	pools  map[string]string
	had    map[string][]netip.Addr // what was announced when all was at rest
	edited map[string]bool         // since then, by its user

	mu      sync.Mutex // guards the fields below while addresses are tried
	api     map[string]*corev1.Service
	late    map[string]bool // what the watch has not shown yet
	version int
	steps   []string
}

func (w *walker) said(format string, args ...any) {
	w.steps = append(w.steps, fmt.Sprintf(format, args...))
}

func one[T any](w *walker, list ...T) T { return list[w.random.IntN(len(list))] }

// Probe finds nobody, and takes its time.
func (w *walker) Probe(context.Context, string, netip.Addr) (net.HardwareAddr, error) {
	time.Sleep(200 * time.Millisecond)
	return nil, nil
}

// patch is the supply's write.
func (w *walker) patch(a clienttesting.Action) (bool, runtime.Object, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := a.(clienttesting.PatchAction)
	s := w.api[p.GetNamespace()+"/"+p.GetName()]
	var patch struct{ Metadata metav1.ObjectMeta }
	if err := json.Unmarshal(p.GetPatch(), &patch); err != nil {
		return true, nil, err
	}
	switch {
	case s == nil:
		return true, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "services"}, p.GetName())
	case s.ResourceVersion != patch.Metadata.ResourceVersion:
		return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "services"}, p.GetName(), nil)
	}
	w.write(key(s), func(s *corev1.Service) {
		for k, v := range patch.Metadata.Annotations {
			setAnnotation(s, k, v)
		}
	})
	w.said("  %s is given %s", key(s), patch.Metadata.Annotations[AddressesAnnotation])
	return true, w.api[key(s)], nil
}

// write changes a Service in the API; the watch shows it later.
func (w *walker) write(key string, change func(*corev1.Service)) {
	s := w.api[key].DeepCopy()
	change(s)
	w.version++
	s.ResourceVersion = fmt.Sprint(w.version)
	w.api[key], w.late[key] = s, true
}

// start has a new Controller look at all that is there.
func (w *walker) start() {
	j := newAssessor(w.t, Options{Client: w.client})
	w.j = j
	j.links = []vip.Link{{Index: 2, Name: "eth0", Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fd00::1/64")}}}
	j.supply.o.Prober = w
	j.supply.ctx, j.supply.provider = w.t.Context(), provisionOurs
	for _, s := range w.api {
		j.have(w.t, s)
	}
	clear(w.late)
	w.offer()
	j.begin()
	j.Led("group", ha.Lead{Held: true})
}

// offer shows the Controller the pools.
func (w *walker) offer() {
	w.version++
	if err := w.j.sources.maps.informer.GetStore().Add(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: PoolNamespace, Name: PoolConfigMap, ResourceVersion: fmt.Sprint(w.version)}, Data: maps.Clone(w.pools)}); err != nil {
		w.t.Fatal(err)
	}
	w.j.pools()
}

// arrive has the watch show one Service as it is now.
func (w *walker) arrive(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.late, key)
	w.said("  the watch shows %s", key)
	if s := w.api[key]; s != nil {
		w.j.have(w.t, s)
	} else if s := w.j.sources.service(key); s != nil {
		if err := w.j.sources.services.informer.GetStore().Delete(s); err != nil {
			w.t.Fatal(err)
		}
	}
	w.j.queue.Add(key)
}

func (w *walker) step() {
	name := one(w, "shop/a", "shop/b", "shop/c", "shop/d", "web/a", "web/b")
	switch n := w.random.IntN(14); {
	case n == 11:
		w.settle() // statuses are written
		w.said("a start")
		w.start()
	case n > 11:
		for _, key := range w.behind() {
			if w.random.IntN(2) == 0 {
				w.arrive(key)
			}
		}
		w.j.pass(w.t)
	default:
		w.mu.Lock()
		defer w.mu.Unlock()
		w.user(name, n)
	}
}

// behind are the Services that the watch has not shown yet.
func (w *walker) behind() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.late))
}

// user is what a user does. mu is held.
func (w *walker) user(name string, n int) {
	switch s := w.api[name]; n {
	case 0, 1, 2, 3, 4, 5, 6, 7:
		w.edited[name] = true
		if s == nil {
			namespace, short, _ := strings.Cut(name, "/")
			w.api[name] = service(short, annotated(EndpointlessAnnotation, "true"), families(corev1.IPv4Protocol), func(s *corev1.Service) {
				s.Namespace, s.CreationTimestamp.Time = namespace, time.Now()
			})
			w.write(name, w.change)
			w.write(name, w.change)
		}
		w.write(name, w.change)
		s = w.api[name]
		w.said("%s is %s ignored %q asks %q %q (allocated %q) families %v policy %s ports %v", name, s.Spec.Type, s.Annotations[IgnoreAnnotation],
			s.Annotations[AddressesAnnotation], s.Spec.LoadBalancerIP, s.Annotations[AllocatedAnnotation], s.Spec.IPFamilies, policyOf(s), tenant(s).Ports)
	case 8, 9:
		if s != nil {
			w.said("%s goes", name)
			w.edited[name] = true
			delete(w.api, name)
			w.late[name] = true
		}
	case 10:
		w.edit()
	}
}

// change is something that the user of a Service edits.
func (w *walker) change(s *corev1.Service) {
	switch w.random.IntN(9) {
	case 0, 1:
		setAnnotation(s, AddressesAnnotation, one(w, "10.0.0.7", "10.0.0.8", "fd00::7", "10.0.0.8,fd00::7", "10.0.0.7,fd00::8", "fd00::7,10.0.0.9", "10.0.0.20", "10.0.0.7,10.0.0.8"))
	case 2:
		s.Spec.LoadBalancerIP = one(w, "", "", "10.0.0.7", "10.0.0.8", "fd00::8")
	case 3, 4:
		setAnnotation(s, AddressesAnnotation, "")
		setAnnotation(s, AllocatedAnnotation, "")
		s.Spec.LoadBalancerIP = ""
	case 5:
		const v4, v6 = corev1.IPv4Protocol, corev1.IPv6Protocol
		s.Spec.IPFamilies = one(w, []corev1.IPFamily{v4}, []corev1.IPFamily{v6}, []corev1.IPFamily{v4, v6}, []corev1.IPFamily{v6, v4})
		policy := corev1.IPFamilyPolicySingleStack
		if len(s.Spec.IPFamilies) > 1 {
			policy = one(w, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack)
		}
		dualStack(policy)(s)
	case 6:
		s.Spec.Ports = nil
		for _, p := range []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}, {Port: 80, Protocol: corev1.ProtocolUDP}, {Port: 81, Protocol: corev1.ProtocolTCP}} {
			if w.random.IntN(2) == 0 || len(s.Spec.Ports) == 0 && p.Port == 81 {
				s.Spec.Ports = append(s.Spec.Ports, p)
			}
		}
	case 7:
		setAnnotation(s, IgnoreAnnotation, one(w, "", "", "true"))
	case 8:
		s.Spec.Type = one(w, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeClusterIP)
	}
}

// edit changes one key of the pools.
func (w *walker) edit() {
	key := one(w, "range-global", "range-global", "cidr-shop", "allow-share-shop", "allow-share-global", "search-order")
	value := ""
	switch {
	case strings.HasPrefix(key, "allow-share"):
		value = one(w, "", "true", "true", "false")
	case key == "search-order":
		value = one(w, "", "desc")
	default:
		value = one(w, "", "10.0.0.7-10.0.0.8", "10.0.0.8-10.0.0.9,fd00::7-fd00::7", "fd00::7-fd00::9", "10.0.0.7-10.0.0.20,fd00::7-fd00::20")
	}
	w.said("%s: %q", key, value)
	w.pools[key] = value
	if value == "" {
		delete(w.pools, key)
	}
	w.offer()
}

// settle lets everything come to its end: what is written is shown, what is announced is in the statuses.
func (w *walker) settle() {
	for range 100 {
		for _, key := range w.behind() {
			w.arrive(key)
		}
		w.j.pass(w.t)
		w.j.supply.work.Wait()
		time.Sleep(2 * time.Second) // for what is tried again
		w.j.pass(w.t)
		w.j.supply.work.Wait()
		w.show()
		if w.j.queue.Len() == 0 && len(w.late) == 0 {
			return
		}
	}
	w.t.Error("it does not come to rest")
}

// show writes what is announced into the statuses.
func (w *walker) show() {
	for _, name := range slices.Sorted(maps.Keys(w.api)) {
		var list []corev1.LoadBalancerIngress
		for _, a := range w.announced(name) {
			list = append(list, corev1.LoadBalancerIngress{IP: a.String()})
		}
		if !sameIngress(w.api[name].Status.LoadBalancer.Ingress, list) {
			w.write(name, func(s *corev1.Service) {
				s.Status.LoadBalancer.Ingress, s.Status.Conditions = list, nil
				if len(list) > 0 {
					s.Status.Conditions = []metav1.Condition{{Type: ConditionAnnounced, Status: metav1.ConditionTrue}}
				}
			})
		}
	}
}

func (w *walker) announced(name string) []netip.Addr {
	if r := w.j.known[name]; r != nil && len(r.owners) > 0 {
		return r.addrs
	}
	return nil
}

// has is what a Service has, announced or not.
func (w *walker) has(name string) []netip.Addr {
	if r := w.j.known[name]; r != nil {
		return r.addrs
	}
	return nil
}

// check checks what is to be so whenever all is at rest.
func (w *walker) check() {
	names := slices.Sorted(maps.Keys(w.api))
	for i, a := range names {
		for _, b := range names[:i] {
			for _, addr := range w.has(a) {
				if !slices.Contains(w.has(b), addr) {
					continue
				}
				for _, p := range tenant(w.api[a]).Ports {
					if slices.Contains(tenant(w.api[b]).Ports, p) {
						w.t.Errorf("%s and %s have %s on %s", a, b, p, addr)
					}
				}
			}
		}
	}
	for name, had := range w.had {
		for _, addr := range had {
			if !w.edited[name] && !slices.Contains(w.announced(name), addr) {
				w.t.Errorf("%s has lost %s, and nobody has edited it", name, addr)
			}
		}
	}
	for _, name := range names {
		w.waits(w.api[name])
	}
	clear(w.edited)
	clear(w.had)
	for _, name := range names {
		w.had[name] = slices.Clone(w.announced(name))
		w.said("  %s has %v, announced %v", name, w.has(name), w.had[name])
	}
}

// waits checks that a Service has what it could have.
func (w *walker) waits(s *corev1.Service) {
	if ok, _ := w.j.o.Rules.Ours(s); !ok {
		if has := w.has(key(s)); len(has) > 0 {
			w.t.Errorf("%s is not ours, and has %v", key(s), has)
		}
		return
	}
	all := pool.NewAllocator()
	parsed, _ := pool.Parse(w.pools)
	all.SetPools(parsed)
	for name := range w.api {
		all.Use(tenant(w.api[name]), w.has(name))
	}
	asked := requested(s, nil)
	for _, addr := range asked.addrs {
		if !slices.Contains(w.has(key(s)), addr) && all.Check(key(s), addr, tenant(s).Ports) == nil {
			w.t.Errorf("%s asks for %s, which is free, and has %v", key(s), addr, w.has(key(s)))
		}
	}
	if asked.from != "" && !asked.allocated {
		return
	}
	answer, err := all.Allocate(wish(s, w.j.o, w.j.cluster, w.j.supply.taken))
	if err == nil && len(answer.Addrs) > len(w.has(key(s))) {
		w.t.Errorf("%s has %v, and could have %v", key(s), w.has(key(s)), answer.Addrs)
	}
}

// end has all Services go, and nothing is left of them.
func (w *walker) end() {
	for name := range w.api {
		w.late[name] = true
	}
	clear(w.api)
	w.settle()
	w.pools = map[string]string{"range-global": "10.0.0.0-10.0.0.255,fd00::1-fd00::ff"}
	w.offer()
	k := w.j.book
	if n := len(w.j.known) + len(k.holds) + len(k.shares) + len(k.waiting) + len(k.waits) + len(k.hungry) + len(w.j.supply.outcomes) + len(w.j.users); n > 0 {
		w.t.Errorf("something is left: %+v, %v", k, w.j.supply.outcomes)
	}
	for _, stat := range k.Stats() {
		if stat.Used > 0 {
			w.t.Errorf("addresses are left: %+v", stat)
		}
	}
}
