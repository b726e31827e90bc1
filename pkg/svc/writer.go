package svc

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"

	"kube-vip.io/kube-vip/pkg/events"
)

const (
	// writers is how many statuses are written at the same time.
	writers = 16
	// writeTimeout bounds one write.
	writeTimeout = 5 * time.Second
)

// writer brings the statuses of Services to what is wanted, each by one request that is left out when nothing
// changes. What fails is tried again, and later and later.
type writer struct {
	node     string
	readOnly bool
	client   kubernetes.Interface
	sources  *sources
	log      *slog.Logger
	metrics  *metrics
	events   teller
	queue    workqueue.TypedRateLimitingInterface[string]
	// noPatch is set once it is known that our rights allow updates and no patches.
	noPatch atomic.Bool

	mu    sync.Mutex // guards wants
	wants map[string]*wanted
}

// wanted is what a Service's status is to be.
type wanted struct {
	shown shown
	were  []netip.Addr // announced before it ceased to be ours
	// wrote is what was written last, onto the object of the version base: until the informer has caught up, and
	// where an older API server keeps less than it is given, it is not written again.
	wrote shown
	base  string
	done  string    // the version that came of it
	moved time.Time // of the move that was told last
}

func newWriter(o Options, s *sources, m *metrics) *writer {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 30*time.Second)
	return &writer{node: o.Node, readOnly: o.ReadOnly, client: o.Writer, sources: s, log: o.Log, metrics: m, events: events.New(o.Events, o.Node, "what happens to Services", o.Log),
		queue: workqueue.NewTypedRateLimitingQueue[string](limiter), wants: map[string]*wanted{}}
}

// want says what the status of a Service is to be.
func (w *writer) want(key string, s shown, were []netip.Addr) {
	w.mu.Lock()
	now := w.wants[key]
	if now == nil {
		now = &wanted{}
		w.wants[key] = now
	}
	now.shown = s
	if len(were) > 0 {
		now.were = were
	}
	w.mu.Unlock()
	w.queue.Add(key)
}

// drop says that it is not for this node to write a Service's status.
func (w *writer) drop(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.wants, key)
}

// forget is drop for a Service that is gone.
func (w *writer) forget(key string) { w.drop(key) }

// run writes until ctx ends.
func (w *writer) run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { _ = w.events.Run(ctx) })
	for range writers {
		work.Go(func() {
			for {
				key, over := w.queue.Get()
				if over {
					return
				}
				w.tend(ctx, key)
				w.queue.Done(key)
			}
		})
	}
	<-ctx.Done()
	w.queue.ShutDown()
}

func (w *writer) tend(ctx context.Context, key string) {
	s := w.sources.service(key)
	w.mu.Lock()
	now := w.wants[key]
	var want wanted
	if now != nil {
		want = *now
	}
	w.mu.Unlock()
	if now == nil || s == nil {
		w.queue.Forget(key)
		return
	}
	after := apply(s, want.shown, want.were, time.Now())
	stale := want.base != "" && (s.ResourceVersion == want.base || s.ResourceVersion == want.done) && want.shown.equal(want.wrote)
	if after == nil || stale || w.readOnly {
		w.queue.Forget(key)
		if want.shown.ours && !stale {
			tell(w.events, s, s, want.shown)
		}
		return
	}
	written, err := w.write(ctx, s, after)
	switch {
	case err == nil:
		w.queue.Forget(key)
		w.metrics.statusWrites.WithLabelValues("ok").Inc()
		w.mu.Lock()
		if now := w.wants[key]; now != nil {
			now.wrote, now.base, now.done = want.shown, s.ResourceVersion, written.ResourceVersion
			now.were = nil
			if want.shown.announced {
				now.moved = want.shown.move.at
			}
		}
		w.mu.Unlock()
		if want.moved.Equal(want.shown.move.at) {
			want.shown.move = move{} // it was told already; somebody else has changed the status
		}
		if want.shown.takes(s) && want.shown.move.reason != "" {
			w.metrics.moves.WithLabelValues(string(want.shown.move.reason)).Inc()
		}
		tell(w.events, s, written, want.shown)
	case apierrors.IsNotFound(err) || ctx.Err() != nil:
		w.queue.Forget(key)
	case apierrors.IsConflict(err):
		// The informer will bring what the other has written, and this is looked at again then.
		w.queue.AddRateLimited(key)
	default:
		w.metrics.statusWrites.WithLabelValues("failed").Inc()
		w.log.Warn("status of Service could not be written; trying again", "service", key, "err", err)
		w.queue.AddRateLimited(key)
	}
}

// write makes before into after: by a patch, or by an update where our rights allow only that.
func (w *writer) write(ctx context.Context, before, after *corev1.Service) (*corev1.Service, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	services := w.client.CoreV1().Services(before.Namespace)
	if !w.noPatch.Load() {
		patch, err := statusPatch(before, after)
		if err != nil {
			return nil, err
		}
		written, err := services.Patch(ctx, before.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
		if !apierrors.IsForbidden(err) {
			return written, err
		}
		if !w.noPatch.Swap(true) {
			w.log.Info("not allowed to patch services/status; updating it instead",
				"rule", `apiGroups: [""], resources: ["services/status"], verbs: ["patch"]`)
		}
	}
	written, err := services.UpdateStatus(ctx, after, metav1.UpdateOptions{})
	if err != nil && apierrors.IsForbidden(err) {
		err = fmt.Errorf("%w; this would allow it: %s", err, `apiGroups: [""], resources: ["services/status"], verbs: ["patch"]`)
	}
	return written, err
}
