// Package manifest turns a Config into the Kubernetes objects that run it: a static Pod, a DaemonSet and the
// RBAC objects that the DaemonSet's ServiceAccount needs.
//
// It is pure: no clock, no network, no file is read. The same Options give the same bytes. ParseKubeadm reads
// the bytes of kubeadm's own configuration file with kubeadm's own types (kubeadm.k8s.io), so that the address
// and port of the virtual IP are written once, where kubeadm needs them anyway.
package manifest

import (
	"math"
	"path"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kube-vip.io/kube-vip/pkg/config"
)

// Names that clusters already know the program by. They are a contract: an upgrade must replace the objects
// that are there, not put new ones beside them.
const (
	podName            = "kube-vip"
	daemonSetName      = "kube-vip-ds"
	namespace          = "kube-system"
	containerName      = "kube-vip"
	serviceAccountName = "kube-vip"
	kubeconfigVolume   = "kubeconfig"
	healthCAVolume     = "health-ca"

	nameLabel    = "app.kubernetes.io/name"
	versionLabel = "app.kubernetes.io/version"

	// nodeNameEnv is the one variable whose value only the cluster knows.
	nodeNameEnv = "vip_nodename"
	// kubeconfigEnv points at a file that an in-cluster Pod does not have.
	kubeconfigEnv = "k8s_config_file"
	// serviceAccountDir is where the kubelet puts a ServiceAccount's token and CA; nothing below it is on the host.
	serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount/"
)

// Options says what a Pod or DaemonSet runs, and as what.
type Options struct {
	Config config.Config
	// Env is the environment that makes the container load Config. The node's name is added to it.
	Env []config.EnvVar
	// Image is the complete image reference, as Image returns it.
	Image string
	// Version is the program's own, for the version label.
	Version string
	// InCluster uses the ServiceAccount kube-vip in place of the host's kubeconfig.
	InCluster bool
	// Taint keeps a DaemonSet to control-plane nodes and lets it run there in spite of any taint. A DaemonSet
	// for the control plane's VIP does both without being asked.
	Taint bool
}

// Pod is the static Pod that the kubelet of each control-plane node runs.
func Pod(o Options) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name:      podName,
			Namespace: namespace,
			Labels:    labels(podName, o.Version),
		},
		Spec: podSpec(o, o.nodeName()),
	}
}

// DaemonSet runs the same Pod on many nodes. A node name in Env is replaced by each node's own: one identity
// shared by all nodes would make every one of them the holder.
func DaemonSet(o Options) *appsv1.DaemonSet {
	spec := podSpec(o, nodeNameOfThePod())
	if o.Taint || o.Config.ControlPlane.Enable {
		spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		spec.Affinity = controlPlaneAffinity()
	}
	maxUnavailable := intstr.FromInt32(1)
	return &appsv1.DaemonSet{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"},
		ObjectMeta: metav1.ObjectMeta{
			Name:      daemonSetName,
			Namespace: namespace,
			Labels:    labels(daemonSetName, o.Version),
		},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{nameLabel: daemonSetName}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels(daemonSetName, o.Version)},
				Spec:       spec,
			},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
				Type:          appsv1.RollingUpdateDaemonSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &maxUnavailable},
			},
		},
	}
}

// memoryLimit is far above what is used: 40 MB by the control plane's VIP, 160 MB by 5 000 Services that all begin at once.
func memoryLimit(services bool) resource.Quantity {
	if services {
		return resource.MustParse("512Mi")
	}
	return resource.MustParse("128Mi")
}

// drain is how many seconds more a stop takes because routes are drained first.
func drain(b config.BGP) int64 {
	if !b.Enable {
		return 0
	}
	return int64(math.Ceil(b.Drain.Seconds()))
}

func podSpec(o Options, nodeName corev1.EnvVar) corev1.PodSpec {
	// A clean stop takes less than a second. The rest is for an API server that is slow to take the Lease back.
	gracePeriod := int64(5) + drain(o.Config.BGP)
	spec := corev1.PodSpec{
		HostNetwork: true,
		// The cluster's DNS is behind the VIP, or not there yet.
		DNSPolicy:                     corev1.DNSDefault,
		PriorityClassName:             "system-node-critical",
		TerminationGracePeriodSeconds: &gracePeriod,
		SecurityContext: &corev1.PodSecurityContext{
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
	container := corev1.Container{
		Name:            containerName,
		Image:           o.Image,
		ImagePullPolicy: corev1.PullIfNotPresent,
		Args:            []string{"manager"},
		Env:             o.env(nodeName),
		SecurityContext: securityContext(),
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{
				corev1.ResourceCPU:    resource.MustParse("20m"),
				corev1.ResourceMemory: resource.MustParse("48Mi"),
			},
			// No limit on CPU: throttled for a period, the holder would miss its renewal.
			Limits: corev1.ResourceList{corev1.ResourceMemory: memoryLimit(o.Config.Services.Enable)},
		},
	}
	if port := o.Config.Observe.HealthCheckPort; port != 0 {
		container.LivenessProbe = probe("/healthz", port, 10)
		container.ReadinessProbe = probe("/readyz", port, 5)
	}

	if o.InCluster {
		spec.ServiceAccountName = serviceAccountName
	} else {
		// The kubeconfig is all that is used; a token beside it would only be there to be stolen.
		automount := false
		spec.AutomountServiceAccountToken = &automount
		mountHostFile(&spec, &container, kubeconfigVolume, o.Config.Kubernetes.ConfigFile)
	}
	if ca := o.Config.ControlPlane.Health.CAPath; ca != "" && !strings.HasPrefix(path.Clean(ca), serviceAccountDir) {
		mountHostFile(&spec, &container, healthCAVolume, ca)
	}
	spec.Containers = []corev1.Container{container}
	return spec
}

// mountHostFile gives the container a file of the host at the path that it has there, read-only. The type File
// makes the kubelet wait for the file: without it an empty directory would be made in its place, and kubeadm,
// which writes admin.conf after the Pod's manifest, would fail on it.
func mountHostFile(spec *corev1.PodSpec, container *corev1.Container, volume, file string) {
	file = path.Clean(file)
	fileType := corev1.HostPathFile
	spec.Volumes = append(spec.Volumes, corev1.Volume{
		Name:         volume,
		VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: file, Type: &fileType}},
	})
	container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{
		Name: volume, MountPath: file, ReadOnly: true,
	})
}

// securityContext is the least that puts an address on a link and writes ARP and NDP. The user is root because
// the kubelet cannot give capabilities to anybody else: added ones reach a non-root process only by way of the
// image's file capabilities, which allowPrivilegeEscalation: false takes away again.
func securityContext() *corev1.SecurityContext {
	no, yes, root := false, true, int64(0)
	return &corev1.SecurityContext{
		RunAsUser:                &root,
		AllowPrivilegeEscalation: &no,
		ReadOnlyRootFilesystem:   &yes,
		Capabilities: &corev1.Capabilities{
			Drop: []corev1.Capability{"ALL"},
			Add:  []corev1.Capability{"NET_ADMIN", "NET_RAW"},
		},
	}
}

// probe asks the loopback: with hostNetwork the kubelet would else ask the node's address, where nothing listens.
func probe(urlPath string, port int, period int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Host: "127.0.0.1",
			Path: urlPath,
			Port: intstr.FromInt(port),
		}},
		PeriodSeconds:    period,
		TimeoutSeconds:   2,
		FailureThreshold: 3,
	}
}

// env is Env with the node's name at its head.
func (o Options) env(nodeName corev1.EnvVar) []corev1.EnvVar {
	env := []corev1.EnvVar{nodeName}
	for _, v := range o.Env {
		if v.Name == nodeNameEnv || o.InCluster && v.Name == kubeconfigEnv {
			continue
		}
		env = append(env, corev1.EnvVar{Name: v.Name, Value: v.Value})
	}
	return env
}

// nodeName is the name that was asked for, or else the one that the node has in the cluster.
func (o Options) nodeName() corev1.EnvVar {
	if o.Config.Node.Name != "" {
		return corev1.EnvVar{Name: nodeNameEnv, Value: o.Config.Node.Name}
	}
	return nodeNameOfThePod()
}

// nodeNameOfThePod is the node's name by the downward API. The host's name would do on most nodes, not where
// the kubelet runs with --hostname-override.
func nodeNameOfThePod() corev1.EnvVar {
	return corev1.EnvVar{
		Name: nodeNameEnv,
		ValueFrom: &corev1.EnvVarSource{
			FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "spec.nodeName"},
		},
	}
}

// controlPlaneAffinity matches both names of the label: the terms of a node selector are alternatives.
func controlPlaneAffinity() *corev1.Affinity {
	exists := func(label string) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: label, Operator: corev1.NodeSelectorOpExists},
		}}
	}
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{
				exists("node-role.kubernetes.io/control-plane"),
				exists("node-role.kubernetes.io/master"),
			},
		},
	}}
}

func labels(name, version string) map[string]string {
	l := map[string]string{nameLabel: name}
	if v := tagOf(version); v != "" {
		// A label's value is at most 63 characters and ends in a letter or digit.
		l[versionLabel] = strings.Trim(v[:min(len(v), 63)], "._-")
	}
	return l
}
