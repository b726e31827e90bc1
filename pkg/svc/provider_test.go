package svc

import (
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// watching is a supply that looks for a cloud provider.
type watching struct {
	*supply
	client *fake.Clientset
	leads  atomic.Bool
	reads  atomic.Int32 // of the provider's Lease
	looks  atomic.Int32 // at all Services
	log    strings.Builder

	mu    sync.Mutex
	error error // of reading the Lease; guarded by mu
}

func newWatching(t *testing.T, mode PoolMode) *watching {
	t.Helper()
	w := &watching{client: fake.NewClientset()}
	w.client.PrependReactor("get", "leases", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if get := a.(clienttesting.GetAction); get.GetNamespace() != "kube-system" || get.GetName() != "kube-vip-cloud-controller" {
			t.Errorf("it reads the Lease %s/%s", get.GetNamespace(), get.GetName())
		}
		w.reads.Add(1)
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.error != nil, nil, w.error
	})
	w.supply = newSupply(Options{Client: w.client, Pools: mode, Log: slog.New(slog.NewTextHandler(&w.log, nil))}, nil, nil)
	go w.run(t.Context(), w.leads.Load, func() { w.looks.Add(1) })
	return w
}

// fails has the next reads of the provider's Lease end like this.
func (w *watching) fails(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.error = err
}

// renew has the cloud provider renew its Lease, so long ago; a negative age makes one that was never renewed.
func (w *watching) renew(t *testing.T, ago time.Duration) {
	t.Helper()
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-vip-cloud-controller"}}
	if ago >= 0 {
		lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now().Add(-ago)}
	}
	leases := w.client.CoordinationV1().Leases("kube-system")
	_, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{})
	if err != nil {
		_, err = leases.Create(t.Context(), lease, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// expect says whose the pools are after the next look, and how often all Services were looked at since the last time.
func (w *watching) expect(t *testing.T, when, why string, looks int) {
	t.Helper()
	time.Sleep(providerEvery)
	synctest.Wait()
	ok, got := w.ours()
	if n := int(w.looks.Swap(0)); ok != (why == "") || got != why || n != looks {
		t.Errorf("%s: ours %t: %q, and all Services were looked at %d times; want %q, %d", when, ok, got, n, why, looks)
	}
}

const (
	theirs   = "a cloud provider gives addresses out (Lease kube-system/kube-vip-cloud-controller)"
	notKnown = "it is not known yet whether a cloud provider gives addresses out"
)

// TestProvider: whose the pools are, by what is found first.
func TestProvider(t *testing.T) {
	for _, tc := range []struct {
		name  string
		mode  PoolMode
		led   bool // by this node
		ago   time.Duration
		lease bool
		fails error
		why   string // they are not ours; empty when they are
		looks int
		reads bool
	}{
		{name: "no provider", mode: PoolsAuto, led: true, looks: 1, reads: true},
		{name: "one that runs", mode: PoolsAuto, led: true, lease: true, ago: 15 * time.Second, why: theirs, looks: 1, reads: true},
		{name: "one that missed some renewals", mode: PoolsAuto, led: true, lease: true, ago: 44 * time.Second, why: theirs, looks: 1, reads: true},
		{name: "one that is long gone", mode: PoolsAuto, led: true, lease: true, ago: time.Hour, looks: 1, reads: true},
		{name: "one that never renewed", mode: PoolsAuto, led: true, lease: true, ago: -1, looks: 1, reads: true},
		{name: "one that nobody may know of", mode: PoolsAuto, led: true, lease: true, fails: forbidden("leases"), looks: 1, reads: true},
		{name: "no answer", mode: PoolsAuto, led: true, fails: errors.New("gone"), why: notKnown, reads: true},
		{name: "another node leads", mode: PoolsAuto, lease: true, why: notKnown},
		{name: "pools are on, whatever there is", mode: PoolsOn, lease: true, looks: 1},
		{name: "pools are off, whoever leads", mode: PoolsOff, led: true, why: "pools are off (svc_pools)", looks: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWatching(t, tc.mode)
				w.leads.Store(tc.led)
				w.fails(tc.fails)
				if tc.lease {
					w.renew(t, tc.ago)
				}
				w.expect(t, "at first", tc.why, tc.looks)
				if (w.reads.Load() > 0) != tc.reads {
					t.Errorf("it has read the Lease %d times", w.reads.Load())
				}
			})
		})
	}
}

// TestProviderChanges: providers come and go, and so does who leads; all Services are looked at with each change, and only then.
func TestProviderChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatching(t, PoolsAuto)
		w.expect(t, "nobody leads", notKnown, 0)
		w.leads.Store(true)
		w.expect(t, "no provider", "", 1)
		w.expect(t, "still none", "", 0)
		w.renew(t, 0)
		w.expect(t, "one comes", theirs, 1)
		w.renew(t, 0)
		w.expect(t, "it goes on", theirs, 0)
		w.expect(t, "it misses one renewal", theirs, 0)
		w.expect(t, "two", theirs, 0)
		w.expect(t, "three", theirs, 0)
		w.expect(t, "it is gone", "", 1)
		w.renew(t, 0)
		w.expect(t, "it is back", theirs, 1)

		// What is not known changes nothing, and is asked again each second.
		w.fails(errors.New("gone"))
		w.expect(t, "no answer", theirs, 0)
		before := w.reads.Load()
		w.expect(t, "no answer for long", theirs, 0)
		if asked := w.reads.Load() - before; asked < 14 || asked > 16 {
			t.Errorf("it asked %d times in %s", asked, providerEvery)
		}
		w.fails(forbidden("leases"))
		w.expect(t, "forbidden", "", 1)
		w.fails(nil)
		w.renew(t, 0)
		w.expect(t, "allowed again", theirs, 1)

		// Another node leads for a while: this one asks nobody.
		w.leads.Store(false)
		time.Sleep(time.Second)
		before = w.reads.Load()
		time.Sleep(time.Hour)
		if n := w.reads.Load() - before; n != 0 {
			t.Errorf("it asked %d times without leading", n)
		}
		w.leads.Store(true)
		w.expect(t, "it leads again", "", 1)
		if got := strings.Count(w.log.String(), "a cloud provider gives addresses out: pools are left to it"); got != 3 {
			t.Errorf("it was said %d times that a provider gives addresses out:\n%s", got, w.log.String())
		}
	})
}

// TestSupplyProvider: a Service that a cloud provider is to give an address gets none from us, until the provider is gone.
func TestSupplyProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, w := supplying(t, map[string]string{"range-global": "10.0.0.7-10.0.0.7"})
		p := newWatching(t, PoolsAuto)
		p.leads.Store(true)
		p.renew(t, 0)
		j.supply.o.Pools, j.supply.provider = PoolsAuto, provisionUnknown
		j.see(t, service("a"))
		j.settle(t)
		w.expect(t, "nothing is known")
		j.supply.o.Client = p.client
		go j.supply.run(t.Context(), p.leads.Load, j.all)
		j.pass(t)
		time.Sleep(time.Second)
		j.pass(t)
		w.expect(t, "the provider runs")
		if why := j.known["shop/a"].said; !strings.HasSuffix(why, ": "+theirs) {
			t.Errorf("it says %q", why)
		}
		time.Sleep(2 * time.Minute)
		j.pass(t)
		time.Sleep(time.Second)
		j.pass(t)
		w.expect(t, "the provider is gone", "ask 10.0.0.7 on eth0", "write 10.0.0.7 to a")
	})
}
