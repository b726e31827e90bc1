package ha

import (
	"context"
	"log/slog"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

// feed is one list and watch of many Leases. Who joins is told of one of them, in order and without a gap, what a
// watch of its own would have told: what is known already when it joins, and every change from then on.
//
// It knows the Leases that others made without our labels too, so that they need not be asked for; what there are
// many of and nobody stands for stays out: the Leases of nodes and those of members.
type feed struct {
	log      *slog.Logger
	duration time.Duration // of a Lease that does not say
	silence  time.Duration
	jitter   func(time.Duration) time.Duration
	line     *line // is told of a watch that can not be begun

	mu      sync.Mutex // guards the fields below; never held while somebody is told
	known   bool       // there was a list
	version string     // up to which all changes were seen
	leases  map[types.NamespacedName]*entry
	gone    []types.NamespacedName // of Leases that were deleted, in order
	readers map[types.NamespacedName]*reader
	failing bool // it was said that nothing can be seen
}

// entry is a Lease as it was seen last.
type entry struct {
	lease *coordinationv1.Lease
	seen  time.Time // when its spec changed for us
	// gone is when it was deleted, or found missing; zero while it is there. Its last holder may not know yet, so it is
	// remembered until that one's mandate is over.
	gone time.Time
}

// reader is who stands for a Lease.
type reader struct {
	tell    func(func(*core)) // waits until it was heard, or its hearer has ended
	expects time.Time         // until when somebody is bound to renew the Lease
}

func newFeed(log *slog.Logger, lasts time.Duration, jitter func(time.Duration) time.Duration, line *line) *feed {
	return &feed{log: log, duration: lasts, silence: lasts, jitter: jitter, line: line,
		leases: map[types.NamespacedName]*entry{}, readers: map[types.NamespacedName]*reader{}}
}

func nameOf(l *coordinationv1.Lease) types.NamespacedName {
	return types.NamespacedName{Namespace: l.Namespace, Name: l.Name}
}

// run lists and watches until ctx ends.
func (f *feed) run(ctx context.Context, leases coordinationclient.LeaseInterface) {
	selector := metav1.ListOptions{
		FieldSelector: fields.OneTermNotEqualSelector("metadata.namespace", corev1.NamespaceNodeLease).String(),
		LabelSelector: "!" + MemberLabel,
	}
	follow(ctx, leases, selector, follower{
		listed: f.listed, changed: f.changed, deleted: f.deleted, failed: f.failed,
		silence: f.silence, idle: f.idle, jitter: f.jitter,
	})
}

// join has tell called for every change of a Lease from now on, until part. What is known of it by now is told to c
// at once, with the times at which it was seen: c belongs to the caller still.
func (f *feed) join(name types.NamespacedName, c *core, tell func(func(*core))) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget(time.Now())
	f.readers[name] = &reader{tell: tell}
	switch r := f.leases[name]; {
	case !f.known:
	case r == nil:
		c.absent(time.Now(), f.version)
	case r.gone.IsZero():
		c.observe(r.seen, r.lease)
	default:
		c.observe(r.seen, r.lease)
		c.deleted(r.gone, f.version)
	}
}

// expect says until when somebody is bound to renew a Lease that was joined; zero if nobody is.
func (f *feed) expect(name types.NamespacedName, until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers[name].expects = until
}

// part ends what join began. What c knows of the Lease by its own calls is kept for who joins next.
func (f *feed) part(name types.NamespacedName, c *core) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.readers, name)
	if f.known && c.lease != nil && older(f.version, c.lease.ResourceVersion) {
		f.leases[name] = &entry{lease: c.lease, seen: c.seen}
	}
}

// holder says who holds a Lease, as it was seen last.
func (f *feed) holder(name types.NamespacedName) (Holder, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.leases[name]
	if r == nil || !r.gone.IsZero() {
		return Holder{}, false
	}
	h := Holder{Expires: r.seen.Add(f.lasts(r.lease))}
	if id := r.lease.Spec.HolderIdentity; id != nil {
		h.Identity = *id
	}
	if at := r.lease.Spec.RenewTime; at != nil {
		h.Renewed = at.Time
	}
	return h, true
}

// idle says that no Lease that anybody stands for is to be renewed.
func (f *feed) idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, r := range f.readers {
		if r.expects.After(now) {
			return false
		}
	}
	return true
}

func (f *feed) lasts(l *coordinationv1.Lease) time.Duration {
	if s := l.Spec.LeaseDurationSeconds; s != nil && *s > 0 {
		return time.Duration(*s) * time.Second
	}
	return f.duration
}

// note keeps a Lease. Called with mu held.
func (f *feed) note(now time.Time, lease *coordinationv1.Lease) {
	seen := now
	if r := f.leases[nameOf(lease)]; r != nil && r.gone.IsZero() && equality.Semantic.DeepEqual(r.lease.Spec, lease.Spec) {
		seen = r.seen
	}
	f.leases[nameOf(lease)] = &entry{lease: lease, seen: seen}
}

// bury notes that a Lease is gone, whose last renewal was not later than renewed. Called with mu held.
func (f *feed) bury(now time.Time, name types.NamespacedName, renewed time.Time) {
	switch r := f.leases[name]; {
	case r == nil || !r.gone.IsZero():
	case r.lease.Spec.HolderIdentity == nil || *r.lease.Spec.HolderIdentity == "":
		delete(f.leases, name)
	default:
		r.gone, r.seen = now, renewed
		f.gone = append(f.gone, name)
	}
}

// forget drops the Leases that are gone and whose last holders' mandates are over. Called with mu held.
func (f *feed) forget(now time.Time) {
	for len(f.gone) > 0 {
		r := f.leases[f.gone[0]]
		if r != nil && !r.gone.IsZero() {
			if now.Before(r.seen.Add(f.lasts(r.lease) + expiryGrace)) {
				return
			}
			delete(f.leases, f.gone[0])
		}
		f.gone = f.gone[1:]
	}
	f.gone = nil
}

func (f *feed) listed(items []coordinationv1.Lease, version string) {
	now := time.Now()
	type message struct {
		to   *reader
		what func(*core)
	}
	var messages []message
	f.mu.Lock()
	if f.failing {
		f.failing = false
		f.log.Info("the Leases can be seen again")
	}
	f.known, f.version = true, version
	f.forget(now)
	there := make(map[types.NamespacedName]bool, len(items))
	for i := range items {
		lease := new(coordinationv1.Lease)
		*lease = items[i] // so that one Lease does not keep the whole list in memory
		there[nameOf(lease)] = true
		f.note(now, lease)
		if r := f.readers[nameOf(lease)]; r != nil {
			messages = append(messages, message{r, func(c *core) { c.observe(time.Now(), lease) }})
		}
	}
	for name := range f.leases {
		if !there[name] {
			f.bury(now, name, now)
		}
	}
	for name, r := range f.readers {
		if !there[name] {
			messages = append(messages, message{r, func(c *core) { c.absent(time.Now(), version) }})
		}
	}
	f.mu.Unlock()
	for _, m := range messages {
		m.to.tell(m.what)
	}
}

func (f *feed) changed(lease *coordinationv1.Lease) {
	now := time.Now()
	f.mu.Lock()
	f.version = lease.ResourceVersion
	f.forget(now)
	f.note(now, lease)
	r := f.readers[nameOf(lease)]
	f.mu.Unlock()
	if r != nil {
		r.tell(func(c *core) { c.observe(time.Now(), lease) })
	}
}

func (f *feed) deleted(lease *coordinationv1.Lease) {
	now := time.Now()
	f.mu.Lock()
	f.version = lease.ResourceVersion
	f.forget(now)
	if known := f.leases[nameOf(lease)]; known != nil {
		f.bury(now, nameOf(lease), known.seen) // a watch shows every change: we have seen the last renewal
	}
	r := f.readers[nameOf(lease)]
	f.mu.Unlock()
	if r != nil {
		r.tell(func(c *core) { c.deleted(time.Now(), lease.ResourceVersion) })
	}
}

// failed logs a watch that ended. That it ends is its nature; that it can not be begun is not.
func (f *feed) failed(err error) {
	f.mu.Lock()
	first := !usual(err) && !f.failing
	f.failing = f.failing || !usual(err)
	f.mu.Unlock()
	f.line.lostSight(err)
	if first {
		f.log.Warn("the Leases can not be seen; trying again", "err", err)
		return
	}
	f.log.Debug("watching the Leases ended; watching again", "err", err)
}
