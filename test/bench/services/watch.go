package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/test/bench/measure"
	"kube-vip.io/kube-vip/test/lab"
)

// statuses is what one informer knows of all Services.
type statuses struct {
	stop chan struct{}
	done chan struct{}

	mu sync.Mutex // guards of
	of map[string]told
}

// told is what a Service says.
type told struct {
	seen  time.Time // that it is there
	since time.Time // that its status names its address and the node that holds it; zero while it does not
	host  string
	moves int // how often host was another than before
}

// watchStatuses returns when the informer has listed.
func watchStatuses(ctx context.Context, client kubernetes.Interface) (*statuses, error) {
	w := &statuses{stop: make(chan struct{}), done: make(chan struct{}), of: map[string]told{}}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "services", metav1.NamespaceDefault, fields.Everything()),
		ObjectType:    &corev1.Service{},
		Transform: func(o any) (any, error) {
			if s, ok := o.(*corev1.Service); ok {
				s.ManagedFields = nil
			}
			return o, nil
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { w.note(o) },
			UpdateFunc: func(_, o any) { w.note(o) },
			DeleteFunc: func(o any) {
				if key, err := cache.DeletionHandlingObjectToName(o); err == nil {
					w.mu.Lock()
					defer w.mu.Unlock()
					delete(w.of, key.Name)
				}
			},
		},
	})
	go func() {
		defer close(w.done)
		informer.Run(w.stop)
	}()
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		w.close()
		return nil, errors.New("wait until the bench has listed the Services: " + ctx.Err().Error())
	}
	return w, nil
}

func (w *statuses) note(o any) {
	s, ok := o.(*corev1.Service)
	if !ok {
		return
	}
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.of[s.Name] = w.of[s.Name].and(s, now)
}

// and is what is known when the Service says something new.
func (t told) and(s *corev1.Service, now time.Time) told {
	if t.seen.IsZero() {
		t.seen = now
	}
	host := s.Annotations[svc.HostAnnotation]
	ingress := s.Status.LoadBalancer.Ingress
	complete := len(ingress) == 1 && ingress[0].IP == s.Annotations[svc.AddressesAnnotation] && host != "" &&
		meta.IsStatusConditionTrue(s.Status.Conditions, svc.ConditionAnnounced)
	switch {
	case !complete:
		t.since = time.Time{}
		return t
	case t.host != "" && t.host != host:
		t.moves++
		t.since = now
	case t.since.IsZero():
		t.since = now
	}
	t.host = host
	return t
}

// counted are how many of the Services from one number to before another say that they are announced, when the last of
// them said so, and how often they said that they moved.
func (w *statuses) counted(from, to int) (announced int, last time.Time, moves int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := from; i < to; i++ {
		name, _ := measure.Number(i)
		t := w.of[name]
		moves += t.moves
		if t.since.IsZero() {
			continue
		}
		announced++
		if t.since.After(last) {
			last = t.since
		}
	}
	return announced, last, moves
}

// first is when the Service was seen; zero if it was not.
func (w *statuses) first(name string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.of[name].seen
}

func (w *statuses) close() {
	close(w.stop)
	<-w.done
}

// presence is what the kernels of nodes and the wire say about Services' addresses, from its beginning on. It costs the
// nodes time for each address, and is not there when they are at rest.
type presence struct {
	watches []*lab.AddressWatch
	capture *lab.Capture

	mu        sync.Mutex // guards the fields below
	has       map[*lab.Node]map[netip.Addr]bool
	appeared  map[netip.Addr]time.Time // on any of the nodes, last
	announced map[netip.Addr]time.Time // first, by a node that is watched
	left      int
}

// watchPresence watches the nodes.
func (k *cluster) watchPresence(nodes []*lab.Node) (*presence, error) {
	p := &presence{has: map[*lab.Node]map[netip.Addr]bool{}, appeared: map[netip.Addr]time.Time{}, announced: map[netip.Addr]time.Time{}}
	var macs []net.HardwareAddr
	for _, n := range nodes {
		macs = append(macs, n.MAC)
		p.has[n] = map[netip.Addr]bool{}
		w, err := n.WatchAddressesFunc(func(e lab.AddressEvent) { p.note(n, e) })
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.watches = append(p.watches, w)
		already, err := k.on(n)
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.mu.Lock()
		for _, a := range already {
			p.has[n][a] = true
			delete(p.appeared, a)
		}
		p.mu.Unlock()
	}
	var err error
	p.capture, err = k.Gateway.CaptureFunc(k.Gateway.Link, func(f lab.Frame) {
		if f.Announces(f.Sender) && measure.IsService(f.Sender) {
			for _, mac := range macs {
				if bytes.Equal(f.Src, mac) {
					p.heard(f)
					return
				}
			}
		}
	})
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *presence) note(n *lab.Node, e lab.AddressEvent) {
	if !measure.IsService(e.Addr) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch had := p.has[n][e.Addr]; {
	case e.Present && !had:
		p.has[n][e.Addr] = true
		p.appeared[e.Addr] = e.Time
	case !e.Present && had:
		delete(p.has[n], e.Addr)
		p.left++
	}
}

func (p *presence) heard(f lab.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, already := p.announced[f.Sender]; !already {
		p.announced[f.Sender] = f.Time
	}
}

// forget has the next announcement of the address count as its first.
func (p *presence) forget(a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.announced, a)
	delete(p.appeared, a)
}

// gone reports whether no node that is watched has the address.
func (p *presence) gone(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, has := range p.has {
		if has[a] {
			return false
		}
	}
	return true
}

// of counts those of the addresses that have appeared and those that were announced, and says when the last was.
func (p *presence) of(addrs []netip.Addr) (appeared, announced int, lastAppeared, lastAnnounced time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range addrs {
		if at, ok := p.appeared[a]; ok {
			appeared++
			if at.After(lastAppeared) {
				lastAppeared = at
			}
		}
		if at, ok := p.announced[a]; ok {
			announced++
			if at.After(lastAnnounced) {
				lastAnnounced = at
			}
		}
	}
	return appeared, announced, lastAppeared, lastAnnounced
}

// all waits until all of the addresses have appeared and were announced, and says when the last was.
func (k *cluster) all(ctx context.Context, p *presence, addrs []netip.Addr) (appeared, announced time.Time, err error) {
	what := fmt.Sprintf("%d addresses are on a link and announced", len(addrs))
	err = k.await(ctx, limit(len(addrs)), what, func() (bool, string) {
		a, b, lastAppeared, lastAnnounced := p.of(addrs)
		appeared, announced = lastAppeared, lastAnnounced
		return a == len(addrs) && b == len(addrs), fmt.Sprintf("%d on a link, %d announced", a, b)
	})
	return appeared, announced, errors.Join(err, p.complete())
}

// withdrawals is how many addresses were taken off a link.
func (p *presence) withdrawals() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.left
}

// complete is nil when nothing escaped the watch.
func (p *presence) complete() error {
	var errs []error
	for _, w := range p.watches {
		if err := w.Err(); err != nil {
			errs = append(errs, fmt.Errorf("watch the addresses: %w", err))
		}
	}
	if lost, err := p.capture.Lost(); err != nil || lost > 0 {
		errs = append(errs, err)
		if lost > 0 {
			errs = append(errs, fmt.Errorf("capture the announcements: %d frames were lost", lost))
		}
	}
	return errors.Join(errs...)
}

func (p *presence) close() error {
	for _, w := range p.watches {
		w.Close()
	}
	if p.capture != nil {
		return p.capture.Close()
	}
	return nil
}

// The Lease of all Services.
const (
	lockNamespace = "kube-system"
	lockName      = "plndr-svcs-lock"
)

// leaseWatch says when the Lease of all Services got another holder.
type leaseWatch struct {
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex // guards the fields below
	holder string
	won    time.Time // by holder, as the watch told
}

// watchLease returns when the Lease was listed.
func watchLease(ctx context.Context, client kubernetes.Interface) (*leaseWatch, error) {
	w := &leaseWatch{stop: make(chan struct{}), done: make(chan struct{})}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(client.CoordinationV1().RESTClient(), "leases", lockNamespace, fields.OneTermEqualSelector("metadata.name", lockName)),
		ObjectType:    &coordinationv1.Lease{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { w.note(o) },
			UpdateFunc: func(_, o any) { w.note(o) },
		},
	})
	go func() {
		defer close(w.done)
		informer.Run(w.stop)
	}()
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		w.close()
		return nil, errors.New("wait until the bench has listed the Lease: " + ctx.Err().Error())
	}
	return w, nil
}

func (w *leaseWatch) note(o any) {
	l, ok := o.(*coordinationv1.Lease)
	if !ok || l.Spec.HolderIdentity == nil {
		return
	}
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if h := *l.Spec.HolderIdentity; h != w.holder {
		w.holder, w.won = h, now
	}
}

// last is who won the Lease last, and when.
func (w *leaseWatch) last() (string, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.holder, w.won
}

func (w *leaseWatch) close() {
	close(w.stop)
	<-w.done
}
