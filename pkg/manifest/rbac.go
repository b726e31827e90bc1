package manifest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"kube-vip.io/kube-vip/pkg/config"
)

// A Rule is one thing that an instance does to the API.
type Rule struct {
	// Group is the API group, "" for core.
	Group string
	// Resource is the plural name, with its subresource: "services/status".
	Resource string
	// Verbs are the API's: get, list, watch, create, update, patch, delete.
	Verbs []string
	// Namespace is where the rule holds; empty means in all of them, and for what has no namespace.
	Namespace string
	// Why says what the program does with it.
	Why string
}

// Rules are all API calls that an instance with this Config makes: whatever is missing here is forbidden to it in
// a cluster, and whatever is here without being called is a right too many.
func Rules(c config.Config) []Rule {
	var (
		read = []string{"get", "list", "watch"}
		// Nothing is deleted: a Lease that is given up is emptied. Names cannot narrow this, since creation has
		// no name to check, and each node's own Lease carries the node's name.
		elect = []string{"get", "list", "watch", "create", "update"}

		services = c.Services.Enable
		bgp      = c.BGP.Enable
		// By BGP every node that can holds the VIPs of Services, unless each Service is to have one holder.
		each   = !bgp || c.Services.Placement == config.PlacementLease
		writes = services && !c.Services.DisableUpdates
		apps   = c.Services.Namespace
	)
	// Rules of all modes, each with the mode that needs it.
	all := []struct {
		needed bool
		Rule
	}{
		{c.ControlPlane.Enable && (c.Election.Enable || bgp), Rule{
			"coordination.k8s.io", "leases", elect, leaseNamespace(c, c.Election.LeaseName),
			"the control plane's Lease, and a Lease per node that says who may stand for it",
		}},
		{services, Rule{
			"coordination.k8s.io", "leases", elect, leaseNamespace(c, c.Services.LeaseName),
			"the Services' Lease, and a Lease per node that says who may stand for it",
		}},
		{services && each, Rule{"coordination.k8s.io", "leases", elect, apps, "a Lease for each Service that not every node can serve"}},
		{services, Rule{"", "services", read, apps, "which Services want a VIP"}},
		{writes, Rule{"", "services", []string{"patch"}, apps, "an annotation says which addresses a pool gave"}},
		{writes, Rule{"", "services/status", []string{"patch"}, apps, "the status says which VIP a Service has"}},
		{services && !c.Services.Endpoints, Rule{"discovery.k8s.io", "endpointslices", read, apps, "whether there is somebody to answer, and on which node"}},
		{services && c.Services.Endpoints, Rule{"", "endpoints", read, apps, "whether there is somebody to answer, and on which node"}},
		{services, Rule{"", "events", []string{"create", "patch"}, apps, "a Service's Events say why it has no VIP"}},
		{services && !bgp && apps != "" && c.Services.ExcludeLabel != "ignore", Rule{"", "events", []string{"create", "patch"}, metav1.NamespaceDefault, "a Node's Event says when no node is left to hold VIPs"}},
		{bgp && (!services || apps != ""), Rule{"", "events", []string{"create", "patch"}, metav1.NamespaceDefault, "a Node's Events say what becomes of its BGP sessions"}},
		{services, Rule{"", "nodes", read, "", "which nodes hold no VIPs, and the addresses that nodes have"}},
		{!services && bgp && (c.BGP.Annotations != "" || c.BGP.PeersFile != ""), Rule{"", "nodes", read, "", "annotations and labels of a node say which BGP peers it has"}},
		{bgp && c.BGP.PasswordSecret != "", Rule{"", "secrets", []string{"get"}, leaseNamespace(c, c.BGP.PasswordSecret), "the Secret has the passwords of BGP peers"}},
		{bgp && c.BGP.PasswordSecret == "" && c.BGP.PeersFile != "", Rule{"", "secrets", []string{"get"}, c.Kubernetes.Namespace, "the peers file may name Secrets that have passwords"}},
		{services, Rule{"networking.k8s.io", "servicecidrs", read, "", "a VIP is not an address of the cluster's own"}},
		{services && c.Services.Pools != "off", Rule{"", "configmaps", read, namespace, "the ConfigMap kubevip has the addresses that may be given out"}},
	}
	var rules []Rule
	for _, r := range all {
		if r.needed {
			rules = append(rules, r.Rule)
		}
	}
	return rules
}

// leaseNamespace is the namespace of a Lease, and of the nodes' Leases beside it: its name may bring one.
func leaseNamespace(c config.Config, name string) string {
	if namespace, _, found := strings.Cut(name, "/"); found {
		return namespace
	}
	return c.Kubernetes.Namespace
}

// Scope is where the rights are defined and bound, for those who must not create cluster-wide objects, and for
// those whose tools look for them.
type Scope struct {
	// Role refuses anything cluster-wide: a Role and its RoleBinding, or an error.
	Role bool
	// RoleBinding defines the rights in a ClusterRole and binds them in their namespaces only.
	RoleBinding bool
}

// RBAC is the ServiceAccount kube-vip and what it may do: a Role in each namespace where that is enough, and a
// ClusterRole for what has no namespace.
func RBAC(rules []Rule, scope Scope) ([]runtime.Object, error) {
	objects := []runtime.Object{&corev1.ServiceAccount{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta: metav1.ObjectMeta{Name: serviceAccountName, Namespace: namespace},
	}}

	byNamespace := map[string][]rbacv1.PolicyRule{}
	var namespaces []string
	for _, r := range rules {
		if !slices.Contains(namespaces, r.Namespace) {
			namespaces = append(namespaces, r.Namespace)
		}
		byNamespace[r.Namespace] = grant(byNamespace[r.Namespace], r)
	}
	slices.Sort(namespaces)

	narrow := scope.Role || scope.RoleBinding
	shared := scope.RoleBinding && !scope.Role
	var problems []error
	for _, r := range rules {
		if narrow && r.Namespace == "" {
			problems = append(problems, fmt.Errorf("%s are needed in all namespaces (%s): leave --role and --rolebinding out", r.Resource, r.Why))
		}
	}
	if shared && len(namespaces) > 1 {
		problems = append(problems, fmt.Errorf("rights differ among the namespaces %s, and one ClusterRole would give all of them in each: give --role in place of --rolebinding", strings.Join(namespaces, ", ")))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	for _, ns := range namespaces {
		policy := byNamespace[ns]
		switch {
		case ns == "":
			objects = append(objects, clusterRole(policy), clusterRoleBinding())
		case shared:
			objects = append(objects, clusterRole(policy), roleBinding(ns, "ClusterRole", clusterRoleName))
		default:
			objects = append(objects, role(ns, policy), roleBinding(ns, "Role", roleName))
		}
	}
	return objects, nil
}

// grant adds what r needs to policy, which has one rule for each resource.
func grant(policy []rbacv1.PolicyRule, r Rule) []rbacv1.PolicyRule {
	i := slices.IndexFunc(policy, func(p rbacv1.PolicyRule) bool { return p.APIGroups[0] == r.Group && p.Resources[0] == r.Resource })
	if i < 0 {
		return append(policy, rbacv1.PolicyRule{APIGroups: []string{r.Group}, Resources: []string{r.Resource}, Verbs: slices.Clone(r.Verbs)})
	}
	for _, verb := range r.Verbs {
		if !slices.Contains(policy[i].Verbs, verb) {
			policy[i].Verbs = append(policy[i].Verbs, verb)
		}
	}
	return policy
}

const (
	roleName               = "kube-vip"
	roleBindingName        = "kube-vip"
	clusterRoleName        = "system:kube-vip-role"
	clusterRoleBindingName = "system:kube-vip-binding"
)

func role(ns string, policy []rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{
		TypeMeta:   rbacType("Role"),
		ObjectMeta: metav1.ObjectMeta{Name: roleName, Namespace: ns},
		Rules:      policy,
	}
}

func roleBinding(ns, kind, name string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		TypeMeta:   rbacType("RoleBinding"),
		ObjectMeta: metav1.ObjectMeta{Name: roleBindingName, Namespace: ns},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name},
		Subjects:   subjects(),
	}
}

func clusterRole(policy []rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{
		TypeMeta:   rbacType("ClusterRole"),
		ObjectMeta: metav1.ObjectMeta{Name: clusterRoleName},
		Rules:      policy,
	}
}

func clusterRoleBinding() *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		TypeMeta:   rbacType("ClusterRoleBinding"),
		ObjectMeta: metav1.ObjectMeta{Name: clusterRoleBindingName},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: clusterRoleName},
		Subjects:   subjects(),
	}
}

func rbacType(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: kind}
}

func subjects() []rbacv1.Subject {
	return []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: serviceAccountName, Namespace: namespace}}
}
