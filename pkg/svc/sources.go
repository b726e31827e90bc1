package svc

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// byService is the index of EndpointSlices by the Service that they belong to.
const byService = "service"

// source follows one kind of objects. One that our rights do not allow is told of once and taken as empty, or as it was
// when they did; it is tried again and again, so that rights which come later count.
type source struct {
	kind     string // the resource, as in RBAC
	rule     string // what would allow it
	without  string // what is missing without it
	log      *slog.Logger
	informer cache.SharedIndexInformer
	turned   func() // is told when it is barred, or allowed again

	barred   atomic.Bool
	answers  sync.Once
	ready    chan struct{} // closed once it is known what there is, or that nobody may know
	refusals sync.Once
	refused  chan struct{} // closed once it was barred
}

// listWatch is how a kind is listed and watched.
type listWatch[L runtime.Object] interface {
	List(ctx context.Context, opts metav1.ListOptions) (L, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
}

func newSource[L runtime.Object](log *slog.Logger, turned func(), kind, group, without string, client listWatch[L], example runtime.Object, tweak func(*metav1.ListOptions), index cache.Indexers) *source {
	if tweak == nil {
		tweak = func(*metav1.ListOptions) {}
	}
	s := &source{kind: kind, without: without, log: log, turned: turned, ready: make(chan struct{}), refused: make(chan struct{}),
		rule: fmt.Sprintf(`apiGroups: [%q], resources: [%q], verbs: ["get", "list", "watch"]`, group, kind)}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			tweak(&o)
			return client.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			tweak(&o)
			w, err := client.Watch(ctx, o)
			if err == nil && s.informer.HasSynced() { // before that the store is empty
				s.allowed()
			}
			return w, err
		},
	}
	s.informer = cache.NewSharedIndexInformer(lw, example, 0, index)
	// Neither can fail before the informer runs.
	_ = s.informer.SetTransform(slim)
	_ = s.informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { s.failed(err) })
	return s
}

// failed is told of every list and watch that did not work.
func (s *source) failed(err error) {
	switch {
	case apierrors.IsForbidden(err) || apierrors.IsNotFound(err):
		if !s.barred.Swap(true) {
			s.log.Warn("not allowed to watch "+s.kind+"; "+s.without, "rule", s.rule, "err", err)
			s.refusals.Do(func() { close(s.refused) })
			s.turned()
		}
		s.known()
	default:
		s.log.Debug("watching "+s.kind+" ended; watching again", "err", err)
	}
}

// allowed takes note that it can be listed and watched.
func (s *source) allowed() {
	if s.barred.Swap(false) {
		s.log.Info("allowed to watch " + s.kind + " now")
		s.turned()
	}
}

func (s *source) known() { s.answers.Do(func() { close(s.ready) }) }

// run follows until ctx ends.
func (s *source) run(ctx context.Context) {
	var synced sync.WaitGroup
	synced.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), s.informer.HasSynced) {
			s.allowed()
			s.known()
		}
	})
	s.informer.RunWithContext(ctx)
	synced.Wait()
}

// wait waits until it is known what there is.
func (s *source) wait(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// slim drops what nobody reads here: thousands of objects are kept.
func slim(o any) (any, error) {
	if m, err := meta.Accessor(o); err == nil {
		m.SetManagedFields(nil)
	}
	switch o := o.(type) {
	case *corev1.Node:
		o.Status = corev1.NodeStatus{Addresses: o.Status.Addresses, Conditions: readyOnly(o.Status.Conditions)}
		o.Annotations = only(o.Annotations, WeightAnnotation)
	case *discoveryv1.EndpointSlice:
		o.Annotations, o.OwnerReferences, o.Ports = nil, nil, nil
		for i := range o.Endpoints {
			e := &o.Endpoints[i]
			o.Endpoints[i] = discoveryv1.Endpoint{NodeName: e.NodeName, Conditions: e.Conditions}
		}
	case *older:
		o.Annotations = nil
	}
	return o, nil
}

// only keeps one of several annotations.
func only(annotations map[string]string, key string) map[string]string {
	if value, is := annotations[key]; is {
		return map[string]string{key: value}
	}
	return nil
}

// readyOnly keeps the condition that is read, without the time of its last heartbeat.
func readyOnly(list []corev1.NodeCondition) []corev1.NodeCondition {
	for _, c := range list {
		if c.Type == corev1.NodeReady {
			return []corev1.NodeCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	return nil
}

// sources are all that a Controller watches.
type sources struct {
	services  *source
	slices    *source // nil when endpoints are to be used
	endpoints *source // begun when slices are barred for the first time, or not to be used
	nodes     *source
	cidrs     *source
	maps      *source // the one with the pools
	turned    func()
}

// newSources returns sources that follow nothing yet. turned is told whenever a kind is barred or allowed again, and when
// Endpoints count from now on in place of EndpointSlices; it must not block.
func newSources(o Options, turned func()) *sources {
	namespace := o.Rules.Namespace // of Services; empty is all
	core, discovery, networking := o.Client.CoreV1(), o.Client.DiscoveryV1(), o.Client.NetworkingV1()
	s := &sources{
		turned:   turned,
		services: newSource(o.Log, turned, "services", "", "no Service can get an address", core.Services(namespace), &corev1.Service{}, nil, nil),
		nodes: newSource(o.Log, turned, "nodes", "", "labels, cordons and addresses of nodes are not known: a Service may get an address of one, and one with a nodeSelector gets no node",
			core.Nodes(), &corev1.Node{}, nil, nil),
		cidrs: newSource(o.Log, turned, "servicecidrs", "networking.k8s.io", "a Service may get an address of the cluster IPs' network",
			networking.ServiceCIDRs(), &networkingv1.ServiceCIDR{}, nil, nil),
		endpoints: newSource(o.Log, turned, "endpoints", "", "Services keep their addresses without endpoints, and externalTrafficPolicy Local can not be kept",
			core.Endpoints(namespace), &older{}, nil, nil),
	}
	s.maps = newSource(o.Log, turned, "configmaps", "", "Services that name no address get none from the pools of ConfigMap "+PoolNamespace+"/"+PoolConfigMap,
		core.ConfigMaps(PoolNamespace), &corev1.ConfigMap{}, func(l *metav1.ListOptions) {
			l.FieldSelector = fields.OneTermEqualSelector("metadata.name", PoolConfigMap).String()
		}, nil)
	if !o.Endpoints {
		s.slices = newSource(o.Log, turned, "endpointslices", "discovery.k8s.io", "endpoints are watched in place of them",
			discovery.EndpointSlices(namespace), &discoveryv1.EndpointSlice{}, nil, cache.Indexers{byService: serviceOfSlice})
	}
	return s
}

func serviceOfSlice(o any) ([]string, error) {
	s, ok := o.(*discoveryv1.EndpointSlice)
	if !ok || s.Labels[discoveryv1.LabelServiceName] == "" {
		return nil, nil
	}
	return []string{s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]}, nil
}

// run follows everything until ctx ends.
func (s *sources) run(ctx context.Context) {
	var work sync.WaitGroup
	for _, one := range []*source{s.services, s.nodes, s.cidrs, s.maps} {
		work.Go(func() { one.run(ctx) })
	}
	if s.slices == nil {
		work.Go(func() { s.endpoints.run(ctx) })
	} else {
		work.Go(func() { s.slices.run(ctx) })
		work.Go(func() {
			select {
			case <-s.slices.refused:
			case <-ctx.Done():
				return
			}
			work.Go(func() {
				if s.endpoints.wait(ctx) == nil {
					s.turned()
				}
			})
			s.endpoints.run(ctx)
		})
	}
	work.Wait()
}

// wait waits until everything is known that can be known.
func (s *sources) wait(ctx context.Context) error {
	list := []*source{s.services, s.nodes, s.cidrs, s.maps}
	if s.slices != nil {
		list = append(list, s.slices)
	}
	for _, one := range list {
		if err := one.wait(ctx); err != nil {
			return err
		}
	}
	if s.slices == nil || s.slices.barred.Load() {
		return s.endpoints.wait(ctx)
	}
	return nil
}

// older says that Endpoints count: when EndpointSlices are barred, what was known of them does until Endpoints are known.
func (s *sources) older() bool {
	if s.slices == nil {
		return true
	}
	select {
	case <-s.endpoints.ready:
		return s.slices.barred.Load()
	default:
		return false
	}
}

// endpointsOf sums up what is known of a Service's endpoints.
func (s *sources) endpointsOf(key string) Endpoints {
	if !s.older() {
		objects, err := s.slices.informer.GetIndexer().ByIndex(byService, key)
		if err != nil {
			return Endpoints{} // there is no such index: cannot be
		}
		list := make([]*discoveryv1.EndpointSlice, 0, len(objects))
		for _, o := range objects {
			list = append(list, o.(*discoveryv1.EndpointSlice))
		}
		return fromSlices(list)
	}
	if s.endpoints.barred.Load() {
		return Endpoints{}
	}
	o, _, _ := s.endpoints.informer.GetStore().GetByKey(key)
	e, _ := o.(*older)
	return fromEndpoints(e)
}

func (s *sources) service(key string) *corev1.Service {
	o, _, _ := s.services.informer.GetStore().GetByKey(key)
	service, _ := o.(*corev1.Service)
	return service
}

func (s *sources) cluster() Cluster {
	var nodes []*corev1.Node
	for _, o := range s.nodes.informer.GetStore().List() {
		nodes = append(nodes, o.(*corev1.Node))
	}
	var cidrs []*networkingv1.ServiceCIDR
	for _, o := range s.cidrs.informer.GetStore().List() {
		cidrs = append(cidrs, o.(*networkingv1.ServiceCIDR))
	}
	return clusterOf(nodes, cidrs)
}

func (s *sources) configMap() *corev1.ConfigMap {
	o, _, _ := s.maps.informer.GetStore().GetByKey(PoolNamespace + "/" + PoolConfigMap)
	m, _ := o.(*corev1.ConfigMap)
	return m
}

func (s *sources) node(name string) *corev1.Node {
	o, _, _ := s.nodes.informer.GetStore().GetByKey(name)
	node, _ := o.(*corev1.Node)
	return node
}
