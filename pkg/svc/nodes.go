package svc

import corev1 "k8s.io/api/core/v1"

// controlPlaneLabels mark nodes whose label of exclusion says nothing: kubeadm puts it on every one of them, and they
// are where kube-vip runs.
var controlPlaneLabels = [...]string{"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"}

// unfit says why a node may hold no Service's address; empty when it may. A node that nobody knows may.
func unfit(n *corev1.Node, exclude bool) string {
	if n == nil || !exclude {
		return ""
	}
	if _, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]; !excluded {
		return ""
	}
	for _, label := range controlPlaneLabels {
		if _, is := n.Labels[label]; is {
			return ""
		}
	}
	return "node " + n.Name + " has the label " + corev1.LabelNodeExcludeBalancers + " (svc_exclude_label)"
}
