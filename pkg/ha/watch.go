package ha

import (
	"context"
	"errors"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

const (
	// A watch that ended is begun again soon: a follower that sees nothing is late, never wrong.
	watchBackoffMin = 100 * time.Millisecond
	watchBackoffMax = time.Second
	// listTimeout bounds the read before a watch.
	listTimeout = 3 * time.Second
	// watchTimeout bounds the wait for a watch to begin. A server answers at once; the client, which asks another
	// after 5 s of silence, must have time for that.
	watchTimeout = 8 * time.Second
)

var (
	errEnded  = errors.New("the API server ended the watch")
	errSilent = errors.New("the watch was silent for too long")
)

// usual says whether a watch that ends so says nothing about the API: a follower begins another and sees.
func usual(err error) bool {
	return errors.Is(err, errEnded) || errors.Is(err, errSilent) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err)
}

// watch tells the core of every change of the Lease until ctx ends.
func (e *Election) watch(ctx context.Context) {
	selector := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", e.o.Name).String()}
	follow(ctx, e.o.Watches.Leases(e.o.Namespace), selector, follower{
		listed: func(items []coordinationv1.Lease, version string) {
			for i := range items {
				if items[i].Name == e.o.Name {
					e.send(ctx, func() { e.core.observe(time.Now(), &items[i]) })
					return
				}
			}
			e.send(ctx, func() { e.core.absent(time.Now(), version) })
		},
		changed: func(lease *coordinationv1.Lease) {
			if lease.Name == e.o.Name {
				e.send(ctx, func() { e.core.observe(time.Now(), lease) })
			}
		},
		deleted: func(lease *coordinationv1.Lease) {
			if lease.Name == e.o.Name {
				e.send(ctx, func() { e.core.deleted(time.Now(), lease.ResourceVersion) })
			}
		},
		failed: func(err error) {
			e.log.Debug("watching the Lease ended; watching again", "err", err)
			e.line.lostSight(err)
		},
		silence: e.o.Timing.Lease, // a Lease that somebody holds is renewed several times in that
		jitter:  e.jitter,
	})
}

// follower is told what a list and the watch after it show.
type follower struct {
	listed  func(items []coordinationv1.Lease, version string)
	changed func(*coordinationv1.Lease)
	deleted func(*coordinationv1.Lease)
	failed  func(error)
	// silence is how long a watch may show nothing before it is begun again: the connection to an API server that
	// hangs stays up.
	silence time.Duration
	// idle says that nothing is to be expected, so that silence means nothing; nil never says so.
	idle   func() bool
	jitter func(time.Duration) time.Duration // a random part of it
}

// follow lists and watches until ctx ends, and begins again after every failure.
func follow(ctx context.Context, leases coordinationclient.LeaseInterface, selector metav1.ListOptions, f follower) {
	backoff := watchBackoffMin
	for {
		began := time.Now()
		err := f.once(ctx, leases, selector)
		if ctx.Err() != nil {
			return
		}
		f.failed(err)
		if time.Since(began) > watchBackoffMax {
			backoff = watchBackoffMin
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff/2 + f.jitter(backoff)):
		}
		backoff = min(2*backoff, watchBackoffMax)
	}
}

func (f follower) once(ctx context.Context, leases coordinationclient.LeaseInterface, selector metav1.ListOptions) error {
	listCtx, cancelList := context.WithTimeout(ctx, listTimeout)
	defer cancelList()
	list, err := leases.List(listCtx, selector)
	if err != nil {
		return fmt.Errorf("list Leases: %w", err)
	}
	f.listed(list.Items, list.ResourceVersion)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	begin := time.AfterFunc(watchTimeout, func() { cancel(errSilent) })
	defer begin.Stop()
	options := selector
	options.ResourceVersion = list.ResourceVersion
	w, err := leases.Watch(ctx, options)
	if err != nil {
		return fmt.Errorf("watch Leases: %w", err)
	}
	defer w.Stop()
	begin.Stop()
	quiet := time.NewTimer(f.silence)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-quiet.C:
			if f.idle == nil || !f.idle() {
				return errSilent
			}
			quiet.Reset(f.silence)
		case event, open := <-w.ResultChan():
			if !open {
				return errEnded
			}
			quiet.Reset(f.silence)
			lease, ok := event.Object.(*coordinationv1.Lease)
			switch {
			case event.Type == watch.Error:
				return fmt.Errorf("watch Leases: %w", apierrors.FromObject(event.Object))
			case !ok || event.Type == watch.Bookmark:
			case event.Type == watch.Deleted:
				f.deleted(lease)
			default:
				f.changed(lease)
			}
		}
	}
}
