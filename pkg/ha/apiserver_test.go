package ha

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

var leaseResource = coordinationv1.Resource("leases")

// apiServer keeps Leases as a real one does: resource versions that grow, refused writes, watches that show every
// change in order. It is reached by apiClients.
type apiServer struct {
	mu       sync.Mutex // guards the fields below
	version  uint64
	uids     int
	leases   map[types.NamespacedName]*coordinationv1.Lease
	history  []change // the latest of it; a watch that begins earlier is refused
	watchers map[*apiWatch]struct{}
}

// historyLength is how many changes can be watched from, at least.
const historyLength = 2000

// change is one entry of the history. A deletion has the Lease as it was, with the version of its end.
type change struct {
	version       uint64
	before, after *coordinationv1.Lease
}

func newAPIServer() *apiServer {
	return &apiServer{version: 100, leases: map[types.NamespacedName]*coordinationv1.Lease{}, watchers: map[*apiWatch]struct{}{}}
}

func key(l *coordinationv1.Lease) types.NamespacedName {
	return types.NamespacedName{Namespace: l.Namespace, Name: l.Name}
}

// stored is the Lease as JSON and back would leave it.
func stored(l *coordinationv1.Lease) *coordinationv1.Lease {
	l = l.DeepCopy()
	for _, t := range []*metav1.MicroTime{l.Spec.AcquireTime, l.Spec.RenewTime} {
		if t != nil {
			t.Time = t.Round(0).Truncate(time.Microsecond)
		}
	}
	return l
}

func (s *apiServer) get(k types.NamespacedName) (*coordinationv1.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.leases[k]; l != nil {
		return l.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(leaseResource, k.Name)
}

func (s *apiServer) create(l *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case l.Name == "" || l.Namespace == "":
		return nil, apierrors.NewBadRequest("name and namespace are required")
	case l.ResourceVersion != "":
		return nil, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	case s.leases[key(l)] != nil:
		return nil, apierrors.NewAlreadyExists(leaseResource, l.Name)
	}
	l = stored(l)
	s.uids++
	l.UID = types.UID(strconv.Itoa(s.uids))
	return s.commit(nil, l), nil
}

func (s *apiServer) update(l *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.leases[key(l)]
	switch {
	case now == nil:
		return nil, apierrors.NewNotFound(leaseResource, l.Name)
	case l.ResourceVersion == "":
		return nil, apierrors.NewBadRequest("metadata.resourceVersion must be specified for an update")
	case l.ResourceVersion != now.ResourceVersion || l.UID != now.UID:
		return nil, apierrors.NewConflict(leaseResource, l.Name, errors.New("the object has been modified"))
	case l.Spec.LeaseDurationSeconds != nil && *l.Spec.LeaseDurationSeconds <= 0:
		return nil, apierrors.NewBadRequest("leaseDurationSeconds must be greater than 0")
	}
	l = stored(l)
	if equality.Semantic.DeepEqual(l, now) {
		return l, nil
	}
	return s.commit(now, l), nil
}

func (s *apiServer) delete(k types.NamespacedName) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.leases[k]
	if now == nil {
		return apierrors.NewNotFound(leaseResource, k.Name)
	}
	s.commit(now.DeepCopy(), nil)
	return nil
}

// commit makes after the Lease's state and tells the watches. Called with mu held.
func (s *apiServer) commit(before, after *coordinationv1.Lease) *coordinationv1.Lease {
	s.version++
	c := change{version: s.version, before: before, after: after}
	if after != nil {
		after.ResourceVersion = strconv.FormatUint(s.version, 10)
		s.leases[key(after)] = after.DeepCopy()
	} else {
		delete(s.leases, key(before))
	}
	s.history = append(s.history, c)
	if len(s.history) > 2*historyLength {
		s.history = slices.Clone(s.history[historyLength:])
	}
	for w := range s.watchers {
		w.add(c)
	}
	return after
}

// restore sets the server back to an earlier backup of itself: versions begin to grow from there again.
func (s *apiServer) restore(version uint64, l *coordinationv1.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version = version
	s.history = nil
	s.leases = map[types.NamespacedName]*coordinationv1.Lease{key(l): l.DeepCopy()}
	for w := range s.watchers {
		w.end()
	}
}

// edit changes a Lease behind everybody's back, as kubectl edit does.
func (s *apiServer) edit(k types.NamespacedName, change func(*coordinationv1.Lease)) error {
	for {
		l, err := s.get(k)
		if err != nil {
			return err
		}
		change(l)
		if _, err = s.update(l); !apierrors.IsConflict(err) {
			return err
		}
	}
}

type selection struct {
	namespace string
	fields    fields.Selector
	labels    labels.Selector
}

func selectBy(namespace string, o metav1.ListOptions) (selection, error) {
	s := selection{namespace: namespace}
	var err1, err2 error
	s.fields, err1 = fields.ParseSelector(o.FieldSelector)
	s.labels, err2 = labels.Parse(o.LabelSelector)
	return s, errors.Join(err1, err2)
}

func (s selection) has(l *coordinationv1.Lease) bool {
	return l != nil && (s.namespace == "" || l.Namespace == s.namespace) && s.labels.Matches(labels.Set(l.Labels)) &&
		s.fields.Matches(fields.Set{"metadata.name": l.Name, "metadata.namespace": l.Namespace})
}

func (s *apiServer) list(sel selection) *coordinationv1.LeaseList {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := &coordinationv1.LeaseList{}
	list.ResourceVersion = strconv.FormatUint(s.version, 10)
	for _, k := range slices.SortedFunc(maps.Keys(s.leases), func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) }) {
		if sel.has(s.leases[k]) {
			list.Items = append(list.Items, *s.leases[k].DeepCopy())
		}
	}
	return list
}

// watch shows every change after from.
func (s *apiServer) watch(sel selection, from string, c *apiClient) (*apiWatch, error) {
	since, err := strconv.ParseUint(from, 10, 64)
	if err != nil {
		return nil, apierrors.NewBadRequest("this server wants a list before a watch: " + err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if since > s.version {
		return nil, apierrors.NewTimeoutError("too large resource version", 1)
	}
	if len(s.history) > 0 && since+1 < s.history[0].version {
		return nil, apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", since, s.history[0].version))
	}
	w := &apiWatch{server: s, client: c, sel: sel, events: make(chan watch.Event), wake: make(chan struct{}, 1), over: make(chan struct{})}
	for _, ch := range s.history {
		if ch.version > since {
			w.add(ch)
		}
	}
	s.watchers[w] = struct{}{}
	return w, nil
}

// apiWatch is one watch, delivering to one client with the client's latency.
type apiWatch struct {
	server *apiServer
	client *apiClient
	sel    selection
	events chan watch.Event
	wake   chan struct{}
	over   chan struct{}
	once   sync.Once

	mu    sync.Mutex // guards queue
	queue []sentEvent
}

// sentEvent is on its way since a time.
type sentEvent struct {
	watch.Event
	at time.Time
}

func (w *apiWatch) add(c change) {
	var e watch.Event
	switch before, after := w.sel.has(c.before), w.sel.has(c.after); {
	case before && after:
		e = watch.Event{Type: watch.Modified, Object: c.after.DeepCopy()}
	case after:
		e = watch.Event{Type: watch.Added, Object: c.after.DeepCopy()}
	case before:
		gone := c.before.DeepCopy()
		gone.ResourceVersion = strconv.FormatUint(c.version, 10)
		e = watch.Event{Type: watch.Deleted, Object: gone}
	default:
		return
	}
	w.mu.Lock()
	w.queue = append(w.queue, sentEvent{e, time.Now()})
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *apiWatch) next() (sentEvent, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return sentEvent{}, false
	}
	e := w.queue[0]
	w.queue = w.queue[1:]
	return e, true
}

// deliver sends the events to the client, in order, until the watch is over.
func (w *apiWatch) deliver() {
	defer close(w.events)
	defer func() {
		w.server.mu.Lock()
		delete(w.server.watchers, w)
		w.server.mu.Unlock()
	}()
	for {
		e, ok := w.next()
		if !ok {
			select {
			case <-w.wake:
				continue
			case <-w.over:
				return
			}
		}
		if !w.client.carry(w.over, e.at) {
			return
		}
		select {
		case w.events <- e.Event:
			w.client.show(e.Event)
		case <-w.over:
			return
		}
	}
}

func (w *apiWatch) end()                           { w.once.Do(func() { close(w.over) }) }
func (w *apiWatch) Stop()                          { w.end() }
func (w *apiWatch) ResultChan() <-chan watch.Event { return w.events }

// outage is what is wrong between a client and the API server.
type outage int

const (
	up      outage = iota
	refused        // connection refused
	hangs          // no answer; requests do not arrive
	lossy          // requests arrive and are carried out, answers are lost
	deaf           // requests work; watches show nothing, and do not end
)

// apiClient is one process's way to the API server.
type apiClient struct {
	server *apiServer
	gate   *gate // of the process; may be nil

	mu      sync.Mutex // guards the fields below
	rng     *rand.Rand
	latency time.Duration // at most, there and back
	fault   outage
	changed chan struct{} // closed when fault changes
	watches map[*apiWatch]struct{}
	calls   map[string]int
	busy    int // requests that are waited for
	busiest int
	seen    func(*coordinationv1.Lease) // what the process gets to know; may be nil
}

func newAPIClient(s *apiServer, seed uint64, g *gate) *apiClient {
	return &apiClient{server: s, gate: g, rng: rand.New(rand.NewPCG(seed, 1)), latency: 10 * time.Millisecond,
		changed: make(chan struct{}), watches: map[*apiWatch]struct{}{}, calls: map[string]int{}}
}

func (c *apiClient) set(fault outage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = fault
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *apiClient) slow(latency time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.latency = latency
}

// cut ends every watch.
func (c *apiClient) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.watches {
		w.end()
	}
}

func (c *apiClient) condition() (outage, chan struct{}, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fault, c.changed, time.Duration(c.rng.Int64N(int64(c.latency)/2)) + time.Microsecond
}

func (c *apiClient) count() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.calls)
}

// most is how many requests were waited for at once, since it was asked last.
func (c *apiClient) most() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	most := c.busiest
	c.busiest = c.busy
	return most
}

func (c *apiClient) show(e watch.Event) {
	if l, ok := e.Object.(*coordinationv1.Lease); ok && c.seen != nil && e.Type != watch.Deleted {
		c.seen(l)
	}
}

// carry brings a watch event to the client, which was sent at a time. A connection that hangs is held until it works
// again.
func (c *apiClient) carry(over <-chan struct{}, sent time.Time) bool {
	for {
		fault, changed, delay := c.condition()
		switch fault {
		case refused:
			return false
		case up:
			select {
			case <-time.After(time.Until(sent.Add(delay))):
			case <-over:
				return false
			}
			c.gate.wait()
			if now, _, _ := c.condition(); now == up {
				return true
			}
		default:
			select {
			case <-changed:
			case <-over:
				return false
			}
		}
	}
}

var errRefused = errors.New("dial tcp 127.0.0.1:6443: connect: connection refused")

// do carries a request out. It arrives after a while even if the client has given up by then.
func do[T any](ctx context.Context, c *apiClient, verb string, f func() (T, error)) (T, error) {
	var none T
	c.gate.wait()
	c.mu.Lock()
	c.calls[verb]++
	c.busy++
	c.busiest = max(c.busiest, c.busy)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.busy--
		c.mu.Unlock()
	}()
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	if !c.gate.alive() { // the dead send nothing
		<-ctx.Done()
		return none, ctx.Err()
	}
	fault, _, there := c.condition()
	if fault == refused {
		return none, errRefused
	}
	go func() {
		if !c.through(ctx) {
			return
		}
		time.Sleep(there)
		v, err := f()
		now, _, back := c.condition()
		time.Sleep(back)
		if now != lossy && fault != lossy && c.through(ctx) {
			answers <- answer{v, err}
		}
	}()
	select {
	case a := <-answers:
		c.gate.wait()
		return a.value, a.err
	case <-ctx.Done():
		c.gate.wait()
		return none, ctx.Err()
	}
}

// through waits while the connection hangs, as long as somebody cares.
func (c *apiClient) through(ctx context.Context) bool {
	for {
		fault, changed, _ := c.condition()
		if fault != hangs {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

var _ coordinationclient.LeasesGetter = (*apiClient)(nil)

func (c *apiClient) Leases(namespace string) coordinationclient.LeaseInterface {
	return leaseClient{c: c, namespace: namespace}
}

// leaseClient is a LeaseInterface; what it has not panics.
type leaseClient struct {
	coordinationclient.LeaseInterface
	c         *apiClient
	namespace string
}

func (l leaseClient) learned(lease *coordinationv1.Lease, err error) (*coordinationv1.Lease, error) {
	if err == nil && l.c.seen != nil {
		l.c.seen(lease)
	}
	return lease, err
}

func (l leaseClient) Get(ctx context.Context, name string, _ metav1.GetOptions) (*coordinationv1.Lease, error) {
	return l.learned(do(ctx, l.c, "get", func() (*coordinationv1.Lease, error) {
		return l.c.server.get(types.NamespacedName{Namespace: l.namespace, Name: name})
	}))
}

func (l leaseClient) Create(ctx context.Context, lease *coordinationv1.Lease, _ metav1.CreateOptions) (*coordinationv1.Lease, error) {
	lease = lease.DeepCopy()
	return l.learned(do(ctx, l.c, "create", func() (*coordinationv1.Lease, error) { return l.c.server.create(lease) }))
}

func (l leaseClient) Update(ctx context.Context, lease *coordinationv1.Lease, _ metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	lease = lease.DeepCopy()
	return l.learned(do(ctx, l.c, "update", func() (*coordinationv1.Lease, error) { return l.c.server.update(lease) }))
}

func (l leaseClient) List(ctx context.Context, o metav1.ListOptions) (*coordinationv1.LeaseList, error) {
	sel, err := selectBy(l.namespace, o)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	list, err := do(ctx, l.c, "list", func() (*coordinationv1.LeaseList, error) { return l.c.server.list(sel), nil })
	if err == nil && l.c.seen != nil {
		for i := range list.Items {
			l.c.seen(&list.Items[i])
		}
	}
	return list, err
}

func (l leaseClient) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	sel, err := selectBy(l.namespace, o)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	w, err := do(ctx, l.c, "watch", func() (*apiWatch, error) { return l.c.server.watch(sel, o.ResourceVersion, l.c) })
	if err != nil {
		return nil, err
	}
	l.c.mu.Lock()
	l.c.watches[w] = struct{}{}
	l.c.mu.Unlock()
	stop := context.AfterFunc(ctx, w.end)
	go func() {
		w.deliver()
		stop()
		l.c.mu.Lock()
		delete(l.c.watches, w)
		l.c.mu.Unlock()
	}()
	return w, nil
}

// gate is a process that may be stopped in its tracks (SIGSTOP) or killed: whatever it does passes here. A nil
// gate is always open.
type gate struct {
	mu      sync.Mutex // guards the fields below
	paused  bool
	dead    bool
	resumed chan struct{} // closed when paused ends
}

func (g *gate) pause() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.paused {
		g.paused, g.resumed = true, make(chan struct{})
	}
}

func (g *gate) resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.paused {
		g.paused = false
		close(g.resumed)
	}
}

// kill lets what is left of the process run into the void.
func (g *gate) kill() {
	g.mu.Lock()
	g.dead = true
	g.mu.Unlock()
	g.resume()
}

// wait returns when the process runs.
func (g *gate) wait() {
	if g == nil {
		return
	}
	for {
		g.mu.Lock()
		paused, resumed := g.paused, g.resumed
		g.mu.Unlock()
		if !paused {
			return
		}
		<-resumed
	}
}

func (g *gate) alive() bool {
	if g == nil {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.dead
}

func (g *gate) running() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.dead && !g.paused
}

// The fake is only worth something if it refuses what a real API server refuses.
func TestAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newAPIServer()
		c := newAPIClient(s, 1, nil)
		leases := c.Leases("kube-system")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()

		list, err := leases.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=a"})
		if err != nil || len(list.Items) != 0 {
			t.Fatalf("list: %v, %v; want nothing", list, err)
		}
		byName, err := leases.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=a", ResourceVersion: list.ResourceVersion})
		if err != nil {
			t.Fatal(err)
		}
		byLabel, err := leases.Watch(ctx, metav1.ListOptions{LabelSelector: "l=1", ResourceVersion: list.ResourceVersion})
		if err != nil {
			t.Fatal(err)
		}

		lease := func(name string) *coordinationv1.Lease {
			return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name}}
		}
		if _, err := leases.Update(ctx, lease("a"), metav1.UpdateOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("update of nothing: %v, want NotFound", err)
		}
		first, err := leases.Create(ctx, lease("a"), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leases.Create(ctx, lease("a"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
			t.Errorf("second create: %v, want AlreadyExists", err)
		}
		if _, err := leases.Create(ctx, first, metav1.CreateOptions{}); !apierrors.IsBadRequest(err) {
			t.Errorf("create with a resource version: %v, want BadRequest", err)
		}
		second := first.DeepCopy()
		second.Labels = map[string]string{"l": "1"}
		if second, err = leases.Update(ctx, second, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if !older(first.ResourceVersion, second.ResourceVersion) {
			t.Errorf("resource version %s after %s", second.ResourceVersion, first.ResourceVersion)
		}
		if _, err := leases.Update(ctx, first, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
			t.Errorf("update of an old version: %v, want Conflict", err)
		}
		if same, err := leases.Update(ctx, second, metav1.UpdateOptions{}); err != nil || same.ResourceVersion != second.ResourceVersion {
			t.Errorf("update that changes nothing: %v, %v", same, err)
		}
		if _, err := leases.Create(ctx, lease("b"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := s.delete(types.NamespacedName{Namespace: "kube-system", Name: "a"}); err != nil {
			t.Fatal(err)
		}
		if _, err := leases.Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("get of nothing: %v, want NotFound", err)
		}

		events := func(w watch.Interface) (list []string) {
			synctest.Wait()
			for {
				select {
				case e := <-w.ResultChan():
					l := e.Object.(*coordinationv1.Lease)
					list = append(list, fmt.Sprint(e.Type, " ", l.Name, " ", l.ResourceVersion))
				case <-time.After(time.Second):
					return list
				}
			}
		}
		if diff := cmp.Diff([]string{"ADDED a 101", "MODIFIED a 102", "DELETED a 104"}, events(byName)); diff != "" {
			t.Errorf("watch by name (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"ADDED a 102", "DELETED a 104"}, events(byLabel)); diff != "" {
			t.Errorf("watch by label (-want +got):\n%s", diff)
		}

		everywhere := c.Leases("")
		other := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "b"}}
		if _, err := c.Leases("other").Create(ctx, other, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if list, err = everywhere.List(ctx, metav1.ListOptions{FieldSelector: "metadata.namespace!=kube-system"}); err != nil || len(list.Items) != 1 || list.Items[0].Namespace != "other" {
			t.Errorf("list of all namespaces but one: %v, %v", list, err)
		}
		if list, err = everywhere.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 2 {
			t.Errorf("list of all namespaces: %v, %v", list, err)
		}
		for range 2*historyLength + 1 {
			if err := s.edit(key(other), func(l *coordinationv1.Lease) { l.Annotations = map[string]string{"at": l.ResourceVersion} }); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := leases.Watch(ctx, metav1.ListOptions{ResourceVersion: "101"}); !apierrors.IsResourceExpired(err) {
			t.Errorf("watch from too long ago: %v, want Expired (410)", err)
		}

		c.set(refused)
		if _, err := leases.Get(ctx, "b", metav1.GetOptions{}); !errors.Is(err, errRefused) {
			t.Errorf("refused: %v", err)
		}
		c.set(lossy)
		short, end := context.WithTimeout(ctx, time.Second)
		defer end()
		if _, err := leases.Create(short, lease("c"), metav1.CreateOptions{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("lossy: %v", err)
		}
		if _, err := s.get(types.NamespacedName{Namespace: "kube-system", Name: "c"}); err != nil {
			t.Errorf("a request whose answer is lost was not carried out: %v", err)
		}
	})
}
