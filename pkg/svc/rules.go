package svc

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Rules say which Services are kube-vip's to care for.
type Rules struct {
	// Namespace is the only one whose Services are; empty means all.
	Namespace string
	// Class is the spec.loadBalancerClass that is ours.
	Class string
	// Strict makes Class count alone: a Service must have exactly it, or none if Class is empty. Without it a
	// Service with no class is ours, too, unless ClassOnly is set.
	Strict, ClassOnly bool
}

// Ours says whether s is to have addresses from us, and if not, why not.
func (r Rules) Ours(s *corev1.Service) (ok bool, why string) {
	class := ""
	if s.Spec.LoadBalancerClass != nil {
		class = *s.Spec.LoadBalancerClass
	}
	switch {
	case s.DeletionTimestamp != nil:
		return false, "it is being deleted"
	case s.Spec.Type != corev1.ServiceTypeLoadBalancer:
		return false, fmt.Sprintf("its type is %s, not LoadBalancer", s.Spec.Type)
	case r.Namespace != "" && s.Namespace != r.Namespace:
		return false, fmt.Sprintf("only Services of namespace %s are cared for (svc_namespace)", r.Namespace)
	case isTrue(s, IgnoreAnnotation):
		return false, "its annotation " + IgnoreAnnotation + " says so"
	case class == r.Class:
		return true, ""
	case class != "":
		return false, fmt.Sprintf("its loadBalancerClass is %s, not %s", class, orNone(r.Class))
	case r.Strict:
		return false, fmt.Sprintf("it has no loadBalancerClass, and %s is asked for (lb_class_legacy_handling is false)", r.Class)
	case r.ClassOnly:
		return false, fmt.Sprintf("it has no loadBalancerClass, and %s is asked for (lb_class_only)", r.Class)
	}
	return true, ""
}

// isTrue says whether an annotation is set to true, in any of the ways that a setting may be.
func isTrue(s *corev1.Service, annotation string) bool {
	is, err := strconv.ParseBool(strings.TrimSpace(s.Annotations[annotation]))
	return err == nil && is
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
