package svc

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"kube-vip.io/kube-vip/pkg/vip"
)

func TestFromEndpoints(t *testing.T) {
	n1, n2, none := "n1", "n2", ""
	at := func(ip string, node *string) corev1.EndpointAddress {
		return corev1.EndpointAddress{IP: ip, NodeName: node}
	}
	ready := func(list ...corev1.EndpointAddress) subset { return subset{Addresses: list} }
	for _, tc := range []struct {
		name string
		o    *older
		any  bool
		on   string // the nodes on which an endpoint counts
	}{
		{name: "no object"},
		{name: "no subsets", o: endpoints()},
		{name: "an empty subset", o: endpoints(ready())},
		{name: "one ready", o: endpoints(ready(at("10.244.1.2", &n1))), any: true, on: "n1"},
		{name: "IPv6", o: endpoints(ready(at("fd00:244::2", &n2))), any: true, on: "n2"},
		{name: "both families", o: endpoints(ready(at("10.244.1.2", &n1), at("fd00:244::2", &n1))), any: true, on: "n1"},
		{name: "one not ready", o: endpoints(subset{NotReadyAddresses: []corev1.EndpointAddress{at("10.244.1.2", &n1)}})},
		{name: "one ready, one not", o: endpoints(subset{
			Addresses: []corev1.EndpointAddress{at("10.244.1.2", &n1)}, NotReadyAddresses: []corev1.EndpointAddress{at("10.244.2.2", &n2)}}), any: true, on: "n1"},
		{name: "two in a subset", o: endpoints(ready(at("10.244.1.2", &n1), at("10.244.2.2", &n2))), any: true, on: "n1 n2"},
		{name: "two subsets", o: endpoints(ready(at("10.244.1.2", &n1)), ready(at("10.244.2.2", &n2))), any: true, on: "n1 n2"},
		{name: "ready with one port, not with another", o: endpoints(ready(at("10.244.1.2", &n1)),
			subset{NotReadyAddresses: []corev1.EndpointAddress{at("10.244.1.2", &n1)}}), any: true, on: "n1"},
		{name: "on no node", o: endpoints(ready(at("192.0.2.7", nil))), any: true},
		{name: "on a node without a name", o: endpoints(ready(at("192.0.2.7", &none))), any: true},
		{name: "the host's name in place of the node's", o: endpoints(ready(corev1.EndpointAddress{IP: "10.0.0.2", Hostname: "n2"})), any: true, on: "n2"},
		{name: "a pod's name beside the node's", o: endpoints(ready(corev1.EndpointAddress{IP: "10.244.1.2", Hostname: "n2", NodeName: &n1})), any: true, on: "n1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := fromEndpoints(tc.o)
			var on []string
			for _, n := range []string{n1, n2, none} {
				if e.on(n) {
					on = append(on, n)
				}
				if e.on(n) != e.here(n) {
					t.Errorf("an endpoint counts on %q: %t, and answers there: %t", n, e.on(n), e.here(n))
				}
			}
			if !e.known || e.any() != tc.any || strings.Join(on, " ") != tc.on {
				t.Errorf("known %t, any %t, on %v", e.known, e.any(), on)
			}
		})
	}
}

// subset is part of the older Endpoints.
//
//lint:ignore SA1019 there are clusters whose rights allow nothing else
type subset = corev1.EndpointSubset

// endpoints are those of Service shop/web, the older way.
func endpoints(subsets ...subset) *older {
	return &older{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Subsets: subsets}
}

// readyOn are endpoints with one that is ready on a node; with none when node is empty.
func readyOn(node string) *older {
	if node == "" {
		return endpoints()
	}
	return endpoints(subset{Addresses: []corev1.EndpointAddress{{IP: "10.244.1.2", NodeName: &node}}})
}

// sliceOn is readyOn the newer way.
func sliceOn(node string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}}
	if node != "" {
		s.Endpoints = []discoveryv1.Endpoint{{NodeName: &node}}
	}
	return s
}

// rights are those of a client: what is barred can not be listed and watched.
type rights struct {
	client *fake.Clientset

	mu     sync.Mutex
	barred map[string]error             // by resource; guarded by mu
	open   map[string][]watch.Interface // what is being watched; guarded by mu
}

func newRights(client *fake.Clientset) *rights {
	r := &rights{client: client, barred: map[string]error{}, open: map[string][]watch.Interface{}}
	client.PrependReactor("list", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		err := r.barred[a.GetResource().Resource]
		return err != nil, nil, err
	})
	client.PrependWatchReactor("*", func(a clienttesting.Action) (bool, watch.Interface, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		of := a.GetResource()
		if err := r.barred[of.Resource]; err != nil {
			return true, nil, err
		}
		if o := a.(clienttesting.WatchActionImpl).ListOptions; o.SendInitialEvents != nil {
			return true, nil, apierrors.NewInvalid(schema.GroupKind{}, "", nil) // the fake lists first, as older API servers do
		}
		w, err := client.Tracker().Watch(of, a.GetNamespace())
		if err == nil {
			r.open[of.Resource] = append(r.open[of.Resource], w)
		}
		return true, w, err
	})
	return r
}

// bar has a resource neither listed nor watched any more, for this reason; nil allows it again.
func (r *rights) bar(resource string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.barred[resource] = err
	for _, w := range r.open[resource] {
		w.Stop()
	}
	delete(r.open, resource)
}

func forbidden(resource string) error {
	return apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", errors.New("no"))
}

// interfaces are those of a node.
type interfaces []vip.Link

func (l interfaces) Links() ([]vip.Link, error) { return l, nil }

// roster is a Claimer that knows who claims.
type roster struct {
	claims map[string]struct{}
	lost   int // how often a claim was taken back
}

func (r *roster) Claim(owner, _ string, _ []vip.VIP) { r.claims[owner] = struct{}{} }

func (r *roster) Unclaim(owner string) {
	delete(r.claims, owner)
	r.lost++
}

// following is a Controller that runs, with one Service, by these rights.
type following struct {
	*assessor
	*rights
	roster *roster
}

func newFollowing(t *testing.T, o Options, bar map[string]error) *following {
	t.Helper()
	client := fake.NewClientset(service("web", asking("10.0.0.10")), readyOn(""), sliceOn(""), node("n1"))
	f := &following{rights: newRights(client), roster: &roster{claims: map[string]struct{}{}}}
	maps.Copy(f.barred, bar)
	o.Client, o.Pools = client, PoolsOff
	f.assessor = newAssessor(t, o)
	f.o.Claimer = f.roster
	f.o.Links = interfaces{{Index: 2, Name: "eth0", Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}}
	go func() {
		if err := f.Run(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	return f
}

// put has the Service's ready endpoint on these nodes: by its Endpoints, and by its EndpointSlice.
func (f *following) put(t *testing.T, old, slice string) {
	t.Helper()
	_, errOld := f.client.CoreV1().Endpoints("shop").Update(t.Context(), readyOn(old), metav1.UpdateOptions{})
	_, errSlice := f.client.DiscoveryV1().EndpointSlices("shop").Update(t.Context(), sliceOn(slice), metav1.UpdateOptions{})
	if err := errors.Join(errOld, errSlice); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	synctest.Wait()
}

// expect says by what the Service has its address: slices, endpoints, or nothing when it always has.
func (f *following) expect(t *testing.T, when, want string) {
	t.Helper()
	has := func(old, slice string) bool {
		t.Helper()
		f.put(t, old, slice)
		return len(f.roster.claims) > 0
	}
	got := "?"
	switch [3]bool{has("n1", ""), has("", ""), has("", "n1")} {
	case [3]bool{true, false, false}:
		got = "endpoints"
	case [3]bool{false, false, true}:
		got = "slices"
	case [3]bool{true, true, true}:
		got = "nothing"
	}
	if got != want {
		t.Errorf("%s: it has its address by %s, want %s", when, got, want)
	}
}

// TestOlderEndpoints: where the rights do not allow EndpointSlices, or the settings say so, Endpoints count.
func TestOlderEndpoints(t *testing.T) {
	const inPlace = "not allowed to watch endpointslices; endpoints are watched in place of them"
	for _, tc := range []struct {
		name   string
		older  bool // enable_endpoints
		barred map[string]error
		want   string
		said   string // in the log
	}{
		{name: "everything is allowed", want: "slices"},
		{name: "Endpoints are forbidden", barred: map[string]error{"endpoints": forbidden("endpoints")}, want: "slices"},
		{name: "EndpointSlices are forbidden", barred: map[string]error{"endpointslices": forbidden("endpointslices")}, want: "endpoints", said: inPlace},
		{name: "EndpointSlices are not there", barred: map[string]error{"endpointslices": apierrors.NewNotFound(schema.GroupResource{}, "")}, want: "endpoints", said: inPlace},
		{name: "by the setting", older: true, want: "endpoints"},
		{name: "by the setting, and they are forbidden", older: true, barred: map[string]error{"endpoints": forbidden("endpoints")}, want: "nothing",
			said: "not allowed to watch endpoints; Services keep their addresses without endpoints"},
		{name: "both are forbidden", barred: map[string]error{"endpointslices": forbidden("endpointslices"), "endpoints": forbidden("endpoints")}, want: "nothing", said: inPlace},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFollowing(t, Options{Endpoints: tc.older}, tc.barred)
				time.Sleep(time.Minute)
				f.expect(t, "for good", tc.want)
				if n := strings.Count(f.log.String(), "not allowed to watch"); !strings.Contains(f.log.String(), tc.said) || n > len(tc.barred) || n > 0 && tc.said == "" {
					t.Errorf("the log does not say %q, once:\n%s", tc.said, f.log.String())
				}
			})
		})
	}
}

// TestRightsChange: rights that come or go while it runs count.
func TestRightsChange(t *testing.T) {
	no := forbidden("endpointslices")
	for _, tc := range []struct {
		name string
		old  bool // EndpointSlices are forbidden at first
	}{
		{name: "at first they are allowed"},
		{name: "at first they are forbidden", old: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bar := map[string]error{}
				if tc.old {
					bar["endpointslices"] = no
				}
				f := newFollowing(t, Options{}, bar)
				time.Sleep(time.Minute)
				for i := range 4 {
					if tc.old {
						f.bar("endpointslices", no)
						time.Sleep(2 * time.Minute)
						f.expect(t, fmt.Sprint("forbidden, ", i), "endpoints")
					} else {
						f.bar("endpointslices", nil)
						time.Sleep(2 * time.Minute)
						f.expect(t, fmt.Sprint("allowed, ", i), "slices")
					}
					tc.old = !tc.old
				}
			})
		})
	}
}

// TestRightsChangeKeeps: who has an endpoint by both has its address all the time while rights come and go.
func TestRightsChangeKeeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollowing(t, Options{}, nil)
		time.Sleep(time.Minute)
		f.put(t, "n1", "n1")
		f.roster.lost = 0
		for _, why := range []error{forbidden("endpointslices"), nil, forbidden("endpointslices"), nil} {
			f.bar("endpointslices", why)
			for range 120 {
				time.Sleep(time.Second)
				f.queue.Add("shop/web")
			}
			synctest.Wait()
			if f.roster.lost > 0 || len(f.roster.claims) == 0 {
				t.Fatalf("barred %v: it was without its address %d times", why, f.roster.lost)
			}
		}
	})
}

// TestRightsChangeTells: a Service is looked at again when what is known of its endpoints changes with the rights alone.
func TestRightsChangeTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollowing(t, Options{}, nil)
		time.Sleep(time.Minute)
		f.put(t, "", "n1")
		if err := f.client.CoreV1().Endpoints("shop").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, why := range []error{nil, forbidden("endpointslices"), nil, forbidden("endpointslices"), nil} {
			f.bar("endpointslices", why)
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if has := len(f.roster.claims) > 0; has != (why == nil) {
				t.Errorf("barred %v: it has its address: %t", why, has)
			}
		}
	})
}
