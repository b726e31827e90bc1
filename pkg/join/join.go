// Package join hands the settings of an instance on to nodes that join its control plane.
//
// The leader keeps them in a ConfigMap (Publisher), with the right for bootstrap tokens to read it, as kubeadm does for its own
// configuration. A node that joins reads them (Read) before it is a member of the cluster, trusting whom kubeadm would trust.
package join

import (
	"errors"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The ConfigMap and who may read it.
const (
	// Namespace and Name are the ConfigMap's. The namespace is that of kubeadm's own, whatever the Leases are in: who joins
	// knows none of it.
	Namespace = metav1.NamespaceSystem
	Name      = "kube-vip"

	// readersName is the name of the Role and the RoleBinding.
	readersName = "kube-vip:join"
	// joiners is the group of the bootstrap tokens of `kubeadm token create`.
	joiners = "system:bootstrappers:kubeadm:default-node-token"
)

// What the ConfigMap says beside the settings.
const (
	// leaseNote is the Lease of those who keep it. What has no such note, or another, is somebody else's.
	leaseNote   = "kube-vip.io/lease"
	versionNote = "kube-vip.io/version"
	// secretsNote are the names of settings that are left out because they are secret.
	secretsNote = "kube-vip.io/secret-settings"
	// ownNote are the names of settings that are left out because their values are one node's.
	ownNote = "kube-vip.io/own-settings"

	nameLabel = "app.kubernetes.io/name"
)

// Handout is what a node needs to run as the others do.
type Handout struct {
	// Settings are values by the settings' names.
	Settings map[string]string
	// Secrets are the names of settings that are set and are not for everybody to read.
	Secrets []string
	// Own are the names of settings that are set, to what is one node's.
	Own []string
	// Version is the program's that has them.
	Version string
}

// in puts the handout into a ConfigMap, and says whether that changes it.
func (h Handout) in(m *corev1.ConfigMap, lease string) (changed bool) {
	notes := map[string]string{leaseNote: lease, versionNote: h.Version, secretsNote: strings.Join(h.Secrets, ","), ownNote: strings.Join(h.Own, ",")}
	for name, value := range notes {
		if was, is := m.Annotations[name]; !is || was != value {
			metav1.SetMetaDataAnnotation(&m.ObjectMeta, name, value)
			changed = true
		}
	}
	if !maps.Equal(m.Data, h.Settings) || len(m.BinaryData) > 0 {
		m.Data, m.BinaryData, changed = maps.Clone(h.Settings), nil, true
	}
	return labelled(&m.ObjectMeta) || changed
}

// handoutOf reads what in has put there.
func handoutOf(m *corev1.ConfigMap) Handout {
	names := func(note string) []string {
		return strings.FieldsFunc(m.Annotations[note], func(c rune) bool { return c == ',' })
	}
	return Handout{Settings: m.Data, Version: m.Annotations[versionNote], Secrets: names(secretsNote), Own: names(ownNote)}
}

// allow has a Role give the right to read the ConfigMap and nothing else.
func allow(r *rbacv1.Role) (changed bool) {
	rule := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{Name}, Verbs: []string{"get"}}
	if len(r.Rules) != 1 || r.Rules[0].String() != rule.String() {
		r.Rules, changed = []rbacv1.PolicyRule{rule}, true
	}
	return labelled(&r.ObjectMeta) || changed
}

// errOtherRole is that a RoleBinding is for another Role, which the API never lets change.
var errOtherRole = errors.New("it is for another Role")

// bind gives that right to those who join, beside those to whom somebody gave it, too.
func bind(b *rbacv1.RoleBinding) (changed bool, err error) {
	subject := rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: joiners}
	role := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: readersName}
	switch {
	case b.ResourceVersion == "":
		b.RoleRef, changed = role, true
	case b.RoleRef != role:
		return false, errOtherRole
	}
	if !slices.Contains(b.Subjects, subject) {
		b.Subjects, changed = append(b.Subjects, subject), true
	}
	return labelled(&b.ObjectMeta) || changed, nil
}

// labelled says whose an object is.
func labelled(m *metav1.ObjectMeta) (changed bool) {
	if m.Labels[nameLabel] == Name {
		return false
	}
	metav1.SetMetaDataLabel(m, nameLabel, Name)
	return true
}
