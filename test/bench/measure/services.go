package measure

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/test/lab"
)

const (
	// MostServices is how many addresses there are for Services.
	MostServices = 20000
	// Creators is how many Services are created, or deleted, at the same time.
	Creators = 64

	createLimit = 15 * time.Minute
	apiPort     = 6443
)

// Services are LoadBalancer Services by their numbers, from 0, in the default namespace. Each has an address of its own by
// annotation, no node port, and an EndpointSlice; nothing answers.
type Services struct {
	// Client is the one that creates them.
	Client kubernetes.Interface
	// Nodes have a ready endpoint of each.
	Nodes []*lab.Node
	Log   *slog.Logger
}

// NewServices has none created yet. They are created at the API server of the lab's first node.
func NewServices(l *lab.Lab, nodes []*lab.Node, log *slog.Logger) (*Services, error) {
	api := l.Config(l.Nodes[0].Host, netip.AddrPortFrom(l.Nodes[0].Addr(), apiPort))
	api.ContentType, api.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
	client, err := kubernetes.NewForConfig(api)
	return &Services{Client: client, Nodes: nodes, Log: log}, err
}

// Number names the i-th Service and gives it its address.
func Number(i int) (name string, addr netip.Addr) {
	const perBlock = 250
	return fmt.Sprintf("s%05d", i), netip.AddrFrom4([4]byte{10, 10, byte(64 + i/perBlock), byte(1 + i%perBlock)})
}

// Addresses are those of the Services from the first one to before the last one.
func Addresses(from, to int) []netip.Addr {
	var all []netip.Addr
	for i := from; i < to; i++ {
		_, addr := Number(i)
		all = append(all, addr)
	}
	return all
}

// IsService reports whether the address is one that Number gives.
func IsService(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	b := a.As4()
	return b[0] == 10 && b[1] == 10 && b[2] >= 64 && int(b[2]) < 64+MostServices/250
}

// endpoints is the EndpointSlice of the i-th Service, with a ready endpoint on each node.
func (s *Services) endpoints(i int) *discoveryv1.EndpointSlice {
	name, _ := Number(i)
	port, proto, portName, yes := int32(8080), corev1.ProtocolTCP, "http", true
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Protocol: &proto, Port: &port}},
	}
	for m, n := range s.Nodes {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{netip.AddrFrom4([4]byte{10, 244, byte(m + 2), byte(2 + i%250)}).String()},
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes},
			NodeName:   &n.Name,
		})
	}
	return slice
}

// Service is the i-th Service. It has no node port: there are not ten thousand of them.
func Service(i int) *corev1.Service {
	name, addr := Number(i)
	no := false
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault, Annotations: map[string]string{svc.AddressesAnnotation: addr.String()}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: &no,
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
}

// CreateSlice creates the i-th EndpointSlice.
func (s *Services) CreateSlice(ctx context.Context, i int) error {
	slice := s.endpoints(i)
	if _, err := s.Client.DiscoveryV1().EndpointSlices(slice.Namespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create EndpointSlice %s: %w", slice.Name, err)
	}
	return nil
}

// CreateService creates the i-th Service.
func (s *Services) CreateService(ctx context.Context, i int) error {
	service := Service(i)
	if _, err := s.Client.CoreV1().Services(service.Namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create Service %s: %w", service.Name, err)
	}
	return nil
}

// Remove deletes the i-th Service and its EndpointSlice.
func (s *Services) Remove(ctx context.Context, i int) error {
	name, _ := Number(i)
	if err := s.Client.CoreV1().Services(metav1.NamespaceDefault).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete Service %s: %w", name, err)
	}
	if err := s.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete EndpointSlice %s: %w", name, err)
	}
	return nil
}

// RemoveAll deletes the Services of a range, many at a time.
func (s *Services) RemoveAll(ctx context.Context, from, to int) error {
	return each(ctx, from, to, s.Remove)
}

// CreateAll creates the Services of a range with their EndpointSlices, many at a time, and says how long that took.
func (s *Services) CreateAll(ctx context.Context, from, to int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, createLimit)
	defer cancel()
	s.Log.Info("creating Services", "from", from, "to", to)
	began := time.Now()
	err := each(ctx, from, to, func(ctx context.Context, i int) error {
		if err := s.CreateSlice(ctx, i); err != nil {
			return err
		}
		return s.CreateService(ctx, i)
	})
	took := time.Since(began)
	s.Log.Info("created Services", "took", Span(took))
	return took, err
}

// each does something for each number of a range, many at a time.
func each(ctx context.Context, from, to int, do func(context.Context, int) error) error {
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(Creators)
	for i := from; i < to && ctx.Err() == nil; i++ {
		work.Go(func() error { return do(ctx, i) })
	}
	return work.Wait()
}
