package ha

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// elector is client-go's leaderelection on our Lease, as the existing kube-vip uses it.
type elector struct {
	client *apiClient
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex // guards leads
	leads bool
}

func (e *elector) set(leads bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.leads = leads
}

func (e *elector) leading() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.leads
}

func elect(t *testing.T, s *apiServer, name string, timing Timing) *elector {
	t.Helper()
	e := &elector{client: newAPIClient(s, 99, nil), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	e.cancel = cancel
	le, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Namespace: simNamespace, Name: simLease}, Client: e.client,
			LockConfig: resourcelock.ResourceLockConfig{Identity: name}},
		LeaseDuration: timing.Lease, RenewDeadline: timing.Renew, RetryPeriod: timing.Retry, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { e.set(true) },
			OnStoppedLeading: func() { e.set(false) },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(e.done)
		for ctx.Err() == nil { // the existing kube-vip ends its process, and kubelet starts it again
			le.Run(ctx)
		}
	}()
	t.Cleanup(e.stop)
	return e
}

func (e *elector) stop() {
	e.cancel()
	<-e.done
}

// TestWithClientGo has the existing kube-vip's election on the same lock.
func TestWithClientGo(t *testing.T) {
	slow := Timing{Lease: 15 * time.Second, Renew: 10 * time.Second, Retry: 2 * time.Second}
	for _, theirs := range []Timing{fast, slow} {
		t.Run(fmt.Sprint(theirs.Lease), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newAPIServer()
				within := func(d time.Duration, what string, ok func() bool) {
					t.Helper()
					for end := time.Now().Add(d); !ok(); time.Sleep(10 * time.Millisecond) {
						if time.Now().After(end) {
							t.Fatalf("not within %s: %s; the Lease is %q's", d, what, holderOf(s))
						}
					}
				}
				granted := func(c *candidate) bool {
					said := c.list()
					return len(said) > 0 && said[len(said)-1] == "grant "+simLease
				}

				// client-go looks every retry period and up to 1.2 more of it; a margin for the calls.
				poll := theirs.Retry*22/10 + 100*time.Millisecond

				old := elect(t, s, "old", theirs)
				within(time.Second, "the old one leads", old.leading)
				ours := run(t, s, "ours", nil)
				time.Sleep(time.Minute)
				if !old.leading() || holderOf(s) != "old" {
					t.Errorf("the old one was ousted; the Lease is %q's", holderOf(s))
				}

				// It gives the Lease up, and we see that at once.
				old.stop()
				within(100*time.Millisecond, "taken after a release", func() bool { return granted(ours) })
				if l, _ := s.get(simKey); *l.Spec.LeaseTransitions != 1 {
					t.Errorf("%d transitions, want 1", *l.Spec.LeaseTransitions)
				}

				// It waits for us as long as we renew, and takes the Lease when we give it up.
				old = elect(t, s, "old", theirs)
				time.Sleep(time.Minute)
				if old.leading() || holderOf(s) != "ours" {
					t.Errorf("we were ousted; the Lease is %q's", holderOf(s))
				}
				if err := ours.stop(t); err != nil {
					t.Error(err)
				}
				within(poll, "the old one takes what we gave up", old.leading)

				// It vanishes: its own duration is waited for. (Its requests must not hang: client-go's release, late
				// on its way, empties whatever Lease it finds, ours too.)
				ours = run(t, s, "ours", nil)
				time.Sleep(theirs.Retry + time.Second)
				l, _ := s.get(simKey)
				renewed := l.Spec.RenewTime.Time
				old.client.set(refused)
				within(theirs.Lease+time.Second, "taken after an expiry", func() bool { return granted(ours) })
				if l, _ := s.get(simKey); l.Spec.RenewTime.Sub(renewed) < theirs.Lease {
					t.Errorf("taken %s after the last renewal, which was for %s", l.Spec.RenewTime.Sub(renewed), theirs.Lease)
				}
				old.client.set(up)

				// We vanish: it takes the Lease when ours has expired, and we are off by then.
				within(theirs.Lease*2, "the old one stands again", func() bool { return !old.leading() })
				ours.client.set(refused)
				within(fast.Lease+2*poll, "the old one takes ours after an expiry", old.leading)
				if granted(ours) {
					t.Error("both hold")
				}
				ours.client.set(up)
				time.Sleep(time.Minute)
				if diff := cmp.Diff("old", holderOf(s)); diff != "" || granted(ours) || !old.leading() {
					t.Errorf("holder (-want +got):\n%s", diff)
				}
			})
		})
	}
}
