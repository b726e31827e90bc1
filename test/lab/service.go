package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/util/retry"
)

// ServicePort is the port of a Service that is not given others, for TCP and for UDP; it leads to BackendPort.
const ServicePort = 80

// A Service is one of type LoadBalancer. The lab has no controllers: its EndpointSlices are what SetEndpoints writes,
// and its status is left to what is tried, or to SetIngress.
type Service struct {
	// Namespace and Name are the Service's.
	Namespace, Name string

	lab *Lab
}

// CreateService creates a Service of type LoadBalancer in the namespace default, in all families of the lab, with
// ServicePort, and with the defaults of the API otherwise. Each change is made before it is created.
func (l *Lab) CreateService(ctx context.Context, name string, annotations map[string]string, change ...func(*corev1.Service)) (*Service, error) {
	policy := corev1.IPFamilyPolicySingleStack
	if l.opts.Family == Dual {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault, Annotations: annotations},
		Spec: corev1.ServiceSpec{
			Type:           corev1.ServiceTypeLoadBalancer,
			IPFamilyPolicy: &policy,
			IPFamilies:     choose(l.opts.Family, corev1.IPv4Protocol, corev1.IPv6Protocol),
			Ports: []corev1.ServicePort{
				{Name: "tcp", Protocol: corev1.ProtocolTCP, Port: ServicePort, TargetPort: intstr.FromInt32(BackendPort)},
				{Name: "udp", Protocol: corev1.ProtocolUDP, Port: ServicePort, TargetPort: intstr.FromInt32(BackendPort)},
			},
		},
	}
	for _, f := range change {
		f(svc)
	}
	client, err := l.Kube()
	if err != nil {
		return nil, err
	}
	if _, err := client.CoreV1().Services(svc.Namespace).Create(ctx, svc, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create service %s: %w", svc.Name, err)
	}
	return &Service{Namespace: svc.Namespace, Name: svc.Name, lab: l}, nil
}

// Get reads the Service.
func (s *Service) Get(ctx context.Context) (*corev1.Service, error) {
	client, err := s.lab.Kube()
	if err != nil {
		return nil, err
	}
	svc, err := client.CoreV1().Services(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get service %s: %w", s.Name, err)
	}
	return svc, nil
}

// Change changes all of the Service but its status, again if somebody else did meanwhile.
func (s *Service) Change(ctx context.Context, change func(*corev1.Service)) error {
	client, err := s.lab.Kube()
	if err != nil {
		return err
	}
	services := client.CoreV1().Services(s.Namespace)
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		svc, err := services.Get(ctx, s.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(svc)
		_, err = services.Update(ctx, svc, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("change service %s: %w", s.Name, err)
	}
	return nil
}

// SetIngress writes status.loadBalancer.ingress, as the one who implements load balancers does; no addresses mean
// that it has none.
func (s *Service) SetIngress(ctx context.Context, addrs ...netip.Addr) error {
	client, err := s.lab.Kube()
	if err != nil {
		return err
	}
	services := client.CoreV1().Services(s.Namespace)
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		svc, err := services.Get(ctx, s.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		svc.Status.LoadBalancer.Ingress = nil
		for _, a := range addrs {
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String()})
		}
		_, err = services.UpdateStatus(ctx, svc, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("write the status of service %s: %w", s.Name, err)
	}
	return nil
}

// An Endpoint is a backend and what its EndpointSlice says of it.
type Endpoint struct {
	Backend                     *Backend
	Ready, Serving, Terminating bool
}

// Ready are backends that serve.
func Ready(backends ...*Backend) []Endpoint {
	return endpoints(Endpoint{Ready: true, Serving: true}, backends)
}

// NotReady are backends whose readiness probe fails.
func NotReady(backends ...*Backend) []Endpoint { return endpoints(Endpoint{}, backends) }

// Terminating are backends that were told to end and serve until they do.
func Terminating(backends ...*Backend) []Endpoint {
	return endpoints(Endpoint{Serving: true, Terminating: true}, backends)
}

func endpoints(as Endpoint, backends []*Backend) []Endpoint {
	all := make([]Endpoint, len(backends))
	for i, b := range backends {
		all[i] = as
		all[i].Backend = b
	}
	return all
}

// SetEndpoints makes the Service's EndpointSlices say this and nothing else: one slice for each argument and each of
// the Service's families. Doing it twice changes nothing.
func (s *Service) SetEndpoints(ctx context.Context, slices ...[]Endpoint) error {
	svc, err := s.Get(ctx)
	if err != nil {
		return err
	}
	var want []*discoveryv1.EndpointSlice
	for i, endpoints := range slices {
		for _, family := range svc.Spec.IPFamilies {
			want = append(want, endpointSlice(svc, family, i, endpoints))
		}
	}
	return s.writeSlices(ctx, want)
}

// endpointSlice is one as the endpoint controller would write it.
func endpointSlice(svc *corev1.Service, family corev1.IPFamily, number int, endpoints []Endpoint) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name:      fmt.Sprintf("%s-%s-%d", svc.Name, strings.ToLower(string(family)), number),
			Namespace: svc.Namespace,
			Labels: map[string]string{
				discoveryv1.LabelServiceName: svc.Name,
				discoveryv1.LabelManagedBy:   "endpointslice-controller.k8s.io",
			},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(svc, corev1.SchemeGroupVersion.WithKind("Service"))},
		},
		AddressType: discoveryv1.AddressType(family),
		Endpoints:   []discoveryv1.Endpoint{},
	}
	for _, p := range svc.Spec.Ports {
		port := p.TargetPort.IntVal
		if port == 0 {
			port = p.Port
		}
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: &port})
	}
	for _, e := range endpoints {
		for _, a := range e.Backend.Addrs {
			if a.Addr().Is4() != (family == corev1.IPv4Protocol) {
				continue
			}
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses:  []string{a.Addr().String()},
				Conditions: discoveryv1.EndpointConditions{Ready: &e.Ready, Serving: &e.Serving, Terminating: &e.Terminating},
				NodeName:   &e.Backend.Node.Name,
				TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: svc.Namespace, Name: e.Backend.Name},
			})
		}
	}
	return slice
}

// writeSlices creates and updates what is wanted, and then deletes what is not.
func (s *Service) writeSlices(ctx context.Context, want []*discoveryv1.EndpointSlice) error {
	client, err := s.lab.Kube()
	if err != nil {
		return err
	}
	api := client.DiscoveryV1().EndpointSlices(s.Namespace)
	have, err := api.List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + s.Name})
	if err != nil {
		return fmt.Errorf("list the endpoint slices of %s: %w", s.Name, err)
	}
	unwanted := map[string]bool{}
	for _, slice := range have.Items {
		unwanted[slice.Name] = true
	}
	for _, slice := range want {
		if unwanted[slice.Name] {
			_, err = api.Update(ctx, slice, metav1.UpdateOptions{})
		} else {
			_, err = api.Create(ctx, slice, metav1.CreateOptions{})
		}
		if err != nil {
			return fmt.Errorf("write endpoint slice %s: %w", slice.Name, err)
		}
		delete(unwanted, slice.Name)
	}
	for name := range unwanted {
		if err := api.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete endpoint slice %s: %w", name, err)
		}
	}
	return nil
}

// Delete deletes the Service and, as the garbage collector would, its EndpointSlices. A finalizer keeps the Service
// until whoever set it takes it off.
func (s *Service) Delete(ctx context.Context) error {
	client, err := s.lab.Kube()
	if err != nil {
		return err
	}
	err = client.CoreV1().Services(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("delete service %s: %w", s.Name, err)
	}
	return errors.Join(err, s.writeSlices(ctx, nil))
}
