package svc

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"kube-vip.io/kube-vip/pkg/names"
)

// World is what one look at the API showed of all that decides about Services. What could not be read is empty.
type World struct {
	Now      time.Time
	Services []*corev1.Service
	// Slices are those of the Service that is to be explained, Older what is there in place of them.
	Slices []*discoveryv1.EndpointSlice
	Older  *older
	Nodes  []*corev1.Node
	CIDRs  []*networkingv1.ServiceCIDR
	Pools  *corev1.ConfigMap
	Leases []*coordinationv1.Lease
	// Names are what names stand for that Services ask for, as looked up here.
	Names map[string]names.Resolution
	// NotKnown says what could not be read, by its resource as in RBAC, and why not.
	NotKnown map[string]error
}

// Locks are the Leases that are not a Service's own. ControlPlane is the one that Options.Elsewhere speaks of; it may
// be empty. Duration is that of a Lease that does not say one.
type Locks struct {
	Group, ControlPlane types.NamespacedName
	Duration            time.Duration
}

// Read looks at the API. service is the one whose endpoints are to be known, too; it may be empty. Only the client,
// Rules, Endpoints, Resolver and DNSMode of the Options count. The error says that nothing can be said at all.
func Read(ctx context.Context, o Options, locks Locks, service types.NamespacedName) (World, error) {
	r := reader{o: o, w: World{NotKnown: map[string]error{}}}
	if service.Name != "" {
		// It first and alone: without it there is nothing to be explained, and all else would be asked for in vain.
		s, err := o.Client.CoreV1().Services(service.Namespace).Get(ctx, service.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return World{}, r.missing(ctx, service)
		}
		if err != nil {
			return World{}, fmt.Errorf("read Service %s: %w", service, Cause(err))
		}
		r.w.Services = []*corev1.Service{s}
	}
	var work sync.WaitGroup
	for _, read := range []func(){
		func() { r.services(ctx) },
		func() { r.nodes(ctx) },
		func() { r.cidrs(ctx) },
		func() { r.pools(ctx) },
		func() { r.leases(ctx, locks) },
		func() { r.endpoints(ctx, service) },
	} {
		work.Go(read)
	}
	work.Wait()
	r.w.Names = resolveOnce(ctx, o, r.w.Services)
	r.w.Now = time.Now()
	// Who may not read Leases is told the rest. Who reaches no API server any more is told nothing that is half true.
	for _, kind := range []string{"leases", "services"} {
		if err := r.w.NotKnown[kind]; err != nil && !apierrors.IsForbidden(err) {
			return World{}, fmt.Errorf("list %s: %w", kind, err)
		}
	}
	return r.w, nil
}

// Cause is an error of the API without the URL around it.
func Cause(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

type reader struct {
	o Options

	mu sync.Mutex // guards w
	w  World
}

// note notes what was read, or why it was not.
func (r *reader) note(kind string, err error, take func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.w.NotKnown[kind] = Cause(err)
		return
	}
	take()
}

// missing says that there is no such Service, and which there are of its name.
func (r *reader) missing(ctx context.Context, service types.NamespacedName) error {
	err := fmt.Errorf("there is no Service %s", service)
	list, listErr := r.o.Client.CoreV1().Services("").List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", service.Name).String()})
	if listErr != nil {
		return err // more is not known
	}
	for _, s := range list.Items {
		if s.Name == service.Name {
			return fmt.Errorf("%w; did you mean %s?", err, key(&s))
		}
	}
	return err
}

func (r *reader) services(ctx context.Context) {
	list, err := r.o.Client.CoreV1().Services(r.o.Rules.Namespace).List(ctx, metav1.ListOptions{})
	r.note("services", err, func() {
		one := r.w.Services
		r.w.Services = pointers(list.Items)
		for _, s := range one { // it is not in the list when its namespace is none of ours
			if !slices.ContainsFunc(r.w.Services, func(o *corev1.Service) bool { return key(o) == key(s) }) {
				r.w.Services = append(r.w.Services, s)
			}
		}
	})
}

func (r *reader) nodes(ctx context.Context) {
	list, err := r.o.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	r.note("nodes", err, func() { r.w.Nodes = pointers(list.Items) })
}

func (r *reader) cidrs(ctx context.Context) {
	list, err := r.o.Client.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return // the API server knows no such kind
	}
	r.note("servicecidrs", err, func() { r.w.CIDRs = pointers(list.Items) })
}

func (r *reader) pools(ctx context.Context) {
	m, err := r.o.Client.CoreV1().ConfigMaps(PoolNamespace).Get(ctx, PoolConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return
	}
	r.note("configmaps", err, func() { r.w.Pools = m })
}

// leases lists those of all namespaces or, where that is not allowed, of those that matter.
func (r *reader) leases(ctx context.Context, locks Locks) {
	list, err := r.o.Client.CoordinationV1().Leases("").List(ctx, metav1.ListOptions{})
	if err == nil || !apierrors.IsForbidden(err) {
		r.note("leases", err, func() { r.w.Leases = pointers(list.Items) })
		return
	}
	barred, read := err, map[string]bool{"": true}
	for _, namespace := range []string{locks.Group.Namespace, locks.ControlPlane.Namespace, r.o.Rules.Namespace} {
		if read[namespace] {
			continue
		}
		read[namespace] = true
		list, err := r.o.Client.CoordinationV1().Leases(namespace).List(ctx, metav1.ListOptions{})
		r.note("leases", err, func() { r.w.Leases = append(r.w.Leases, pointers(list.Items)...) })
	}
	if r.o.Rules.Namespace == "" {
		r.note("leases of other namespaces", barred, nil)
	}
}

// endpoints reads what there is of a Service: EndpointSlices or, as an instance does, Endpoints.
func (r *reader) endpoints(ctx context.Context, service types.NamespacedName) {
	if service.Name == "" {
		return
	}
	if !r.o.Endpoints {
		list, err := r.o.Client.DiscoveryV1().EndpointSlices(service.Namespace).List(ctx, metav1.ListOptions{
			LabelSelector: discoveryv1.LabelServiceName + "=" + service.Name})
		if err == nil {
			r.note("endpointslices", nil, func() { r.w.Slices = pointers(list.Items) })
			return
		}
		if !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
			r.note("endpointslices", err, nil)
			return
		}
	}
	o, err := r.o.Client.CoreV1().Endpoints(service.Namespace).Get(ctx, service.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		o, err = &older{}, nil
	}
	r.note("endpoints", err, func() { r.w.Older = o })
}

func pointers[T any](items []T) []*T {
	list := make([]*T, len(items))
	for i := range items {
		list[i] = &items[i]
	}
	return list
}
