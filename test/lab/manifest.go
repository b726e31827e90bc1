package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	yamldocs "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// imageBinary is where kube-vip's image has its binary, its entry point.
const imageBinary = "/kube-vip"

// serviceAccountDir is where a container finds its token.
const serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// A workload is what the pod runner knows of a manifest: a pod of one container on the host's network.
type workload struct {
	meta      metav1.ObjectMeta
	spec      corev1.PodSpec
	container corev1.Container
	static    bool // a Pod, which the kubelet reads from a file
}

// documents splits a YAML stream.
func documents(manifest []byte) ([][]byte, error) {
	reader := yamldocs.NewYAMLReader(bufio.NewReader(bytes.NewReader(manifest)))
	var docs [][]byte
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the manifest: %w", err)
		}
		if len(bytes.TrimSpace(doc)) > 0 {
			docs = append(docs, doc)
		}
	}
}

// parseManifest finds the one Pod or DaemonSet. Unknown fields are errors.
func parseManifest(manifest []byte) (*workload, error) {
	docs, err := documents(manifest)
	if err != nil {
		return nil, err
	}
	var found []*workload
	for _, doc := range docs {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			return nil, fmt.Errorf("read the manifest: %w", err)
		}
		w := &workload{}
		switch kind.APIVersion + "/" + kind.Kind {
		case "v1/Pod":
			var pod corev1.Pod
			if err := yaml.UnmarshalStrict(doc, &pod); err != nil {
				return nil, fmt.Errorf("read the Pod: %w", err)
			}
			w.meta, w.spec, w.static = pod.ObjectMeta, pod.Spec, true
		case "apps/v1/DaemonSet":
			var ds appsv1.DaemonSet
			if err := yaml.UnmarshalStrict(doc, &ds); err != nil {
				return nil, fmt.Errorf("read the DaemonSet: %w", err)
			}
			w.meta, w.spec = ds.Spec.Template.ObjectMeta, ds.Spec.Template.Spec
			w.meta.Name, w.meta.Namespace = ds.Name, ds.Namespace
		default:
			continue
		}
		found = append(found, w)
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("the manifest has %d Pods and DaemonSets, want one", len(found))
	}
	w := found[0]
	if w.meta.Namespace == "" {
		w.meta.Namespace = metav1.NamespaceDefault
	}
	return w, w.supported()
}

// supported refuses what the runner would not do as a kubelet does.
func (w *workload) supported() error {
	var errs []error
	if !w.spec.HostNetwork {
		errs = append(errs, errors.New("hostNetwork is not true: the lab runs pods on the host's network only"))
	}
	if len(w.spec.Containers) != 1 || len(w.spec.InitContainers) != 0 {
		return errors.Join(append(errs, fmt.Errorf("%d containers and %d initContainers: the lab runs pods of one container", len(w.spec.Containers), len(w.spec.InitContainers)))...)
	}
	w.container = w.spec.Containers[0]
	if w.static && w.spec.ServiceAccountName != "" {
		errs = append(errs, errors.New("serviceAccountName: a static pod may not refer to a service account"))
	}
	for _, v := range w.spec.Volumes {
		if v.HostPath == nil && v.EmptyDir == nil {
			errs = append(errs, fmt.Errorf("volume %s: the lab knows hostPath and emptyDir only", v.Name))
		}
	}
	for _, m := range w.container.VolumeMounts {
		if m.SubPath != "" || m.SubPathExpr != "" {
			errs = append(errs, fmt.Errorf("volumeMount %s: the lab knows no subPath", m.Name))
		}
		if !slices.ContainsFunc(w.spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }) {
			errs = append(errs, fmt.Errorf("volumeMount %s: there is no such volume", m.Name))
		}
	}
	if len(w.container.EnvFrom) > 0 {
		errs = append(errs, errors.New("envFrom: the lab knows env only"))
	}
	if len(w.container.Command) > 0 && w.container.Command[0] != imageBinary {
		errs = append(errs, fmt.Errorf("command %q: the image has nothing but %s", w.container.Command[0], imageBinary))
	}
	for name, p := range map[string]*corev1.Probe{"livenessProbe": w.container.LivenessProbe, "readinessProbe": w.container.ReadinessProbe, "startupProbe": w.container.StartupProbe} {
		if p != nil && p.HTTPGet == nil && p.TCPSocket == nil {
			errs = append(errs, fmt.Errorf("%s: the lab knows httpGet and tcpSocket only", name))
		}
	}
	return errors.Join(errs...)
}

// schedules returns the reason why a DaemonSet's pod would not come to the node.
func (w *workload) schedules(node *corev1.Node) error {
	if w.static {
		return nil
	}
	for k, v := range w.spec.NodeSelector {
		if node.Labels[k] != v {
			return fmt.Errorf("nodeSelector %s=%s does not match node %s", k, v, node.Name)
		}
	}
	if a := w.spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		terms := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		if !slices.ContainsFunc(terms, func(t corev1.NodeSelectorTerm) bool { return selects(t, node) }) {
			return fmt.Errorf("no term of the nodeAffinity matches node %s", node.Name)
		}
	}
	for _, taint := range node.Spec.Taints {
		if taint.Effect != corev1.TaintEffectPreferNoSchedule && !slices.ContainsFunc(w.spec.Tolerations, func(t corev1.Toleration) bool { return tolerates(t, taint) }) {
			return fmt.Errorf("no toleration for the taint %s of node %s", taint.ToString(), node.Name)
		}
	}
	return nil
}

func selects(t corev1.NodeSelectorTerm, node *corev1.Node) bool {
	if len(t.MatchExpressions) == 0 && len(t.MatchFields) == 0 {
		return false // an empty term matches nothing
	}
	for _, e := range t.MatchExpressions {
		value, has := node.Labels[e.Key]
		ok := false
		switch e.Operator {
		case corev1.NodeSelectorOpExists:
			ok = has
		case corev1.NodeSelectorOpDoesNotExist:
			ok = !has
		case corev1.NodeSelectorOpIn:
			ok = has && slices.Contains(e.Values, value)
		case corev1.NodeSelectorOpNotIn:
			ok = !has || !slices.Contains(e.Values, value)
		}
		if !ok {
			return false
		}
	}
	return len(t.MatchFields) == 0
}

func tolerates(t corev1.Toleration, taint corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
		return false
	}
	if t.Operator == corev1.TolerationOpExists {
		return true
	}
	return t.Key != "" && t.Value == taint.Value
}

// podName is the name that the pod has: a static pod's carries its node's.
func (w *workload) podName(node string) string { return w.meta.Name + "-" + node }

// env is the container's environment on the node.
func (w *workload) env(n *Node, kubernetes netip.AddrPort) ([]string, error) {
	values := map[string]string{
		"PATH":                          "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME":                          "/",
		"HOSTNAME":                      n.Name, // a pod on the host's network has the host's
		"KUBERNETES_SERVICE_HOST":       kubernetes.Addr().String(),
		"KUBERNETES_SERVICE_PORT":       fmt.Sprint(kubernetes.Port()),
		"KUBERNETES_SERVICE_PORT_HTTPS": fmt.Sprint(kubernetes.Port()),
		"KUBERNETES_PORT_443_TCP_ADDR":  kubernetes.Addr().String(),
		"KUBERNETES_PORT_443_TCP_PORT":  fmt.Sprint(kubernetes.Port()),
		"KUBERNETES_PORT_443_TCP_PROTO": "tcp",
		"KUBERNETES_PORT_443_TCP":       "tcp://" + kubernetes.String(),
		"KUBERNETES_PORT":               "tcp://" + kubernetes.String(),
	}
	for _, e := range w.container.Env {
		value := e.Value
		if e.ValueFrom != nil {
			if e.ValueFrom.FieldRef == nil {
				return nil, fmt.Errorf("env %s: the lab knows value and valueFrom.fieldRef only", e.Name)
			}
			var err error
			if value, err = w.field(n, e.ValueFrom.FieldRef.FieldPath); err != nil {
				return nil, fmt.Errorf("env %s: %w", e.Name, err)
			}
		} else {
			value = expand(value, values)
		}
		values[e.Name] = value
	}
	var env []string
	for _, k := range slices.Sorted(maps.Keys(values)) {
		env = append(env, k+"="+values[k])
	}
	return env, nil
}

// expand replaces $(NAME) by the value of a variable set before; $$ is a dollar.
func expand(s string, values map[string]string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "$")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		s = after
		if strings.HasPrefix(s, "$") {
			b.WriteByte('$')
			s = s[1:]
			continue
		}
		if name, rest, ok := strings.Cut(strings.TrimPrefix(s, "("), ")"); ok && strings.HasPrefix(s, "(") {
			if v, known := values[name]; known {
				b.WriteString(v)
				s = rest
				continue
			}
		}
		b.WriteByte('$')
	}
}

// field is a value of the downward API.
func (w *workload) field(n *Node, path string) (string, error) {
	ips := make([]string, len(n.Addrs))
	for i, p := range n.Addrs {
		ips[i] = p.Addr().String()
	}
	switch path {
	case "spec.nodeName":
		return n.Name, nil
	case "spec.serviceAccountName":
		return w.spec.ServiceAccountName, nil
	case "metadata.name":
		return w.podName(n.Name), nil
	case "metadata.namespace":
		return w.meta.Namespace, nil
	case "metadata.uid":
		return fmt.Sprintf("00000000-0000-0000-0000-%012x", []byte(n.MAC)), nil
	case "status.hostIP", "status.podIP":
		return ips[0], nil
	case "status.hostIPs", "status.podIPs":
		return strings.Join(ips, ","), nil
	}
	for prefix, m := range map[string]map[string]string{"metadata.labels['": w.meta.Labels, "metadata.annotations['": w.meta.Annotations} {
		if key, ok := strings.CutPrefix(path, prefix); ok {
			return m[strings.TrimSuffix(key, "']")], nil
		}
	}
	return "", fmt.Errorf("the lab knows no field %s", path)
}

// command is what the container runs: the image's entry point unless the manifest has a command.
func (w *workload) command(env []string) []string {
	values := map[string]string{}
	for _, e := range env {
		k, v, _ := strings.Cut(e, "=")
		values[k] = v
	}
	argv := []string{imageBinary}
	if len(w.container.Command) > 0 {
		argv = nil
	}
	for _, a := range slices.Concat(w.container.Command, w.container.Args) {
		argv = append(argv, expand(a, values))
	}
	return argv
}

// hosts is the /etc/hosts of the container: the node's, and the aliases (a kubelet manages it like that).
func (w *workload) hosts(node []byte) []byte {
	b := bytes.NewBuffer(slices.Clone(node))
	for _, a := range w.spec.HostAliases {
		fmt.Fprintf(b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
	}
	return b.Bytes()
}

// grace is how long the container may take to end after SIGTERM.
func (w *workload) grace() time.Duration {
	if s := w.spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return corev1.DefaultTerminationGracePeriodSeconds * time.Second
}

// security is the container's security context, with the pod's where it says nothing.
func (w *workload) security() corev1.SecurityContext {
	var s corev1.SecurityContext
	if c := w.container.SecurityContext; c != nil {
		s = *c
	}
	if p := w.spec.SecurityContext; p != nil {
		if s.RunAsUser == nil {
			s.RunAsUser = p.RunAsUser
		}
		if s.RunAsGroup == nil {
			s.RunAsGroup = p.RunAsGroup
		}
	}
	return s
}

// runtimeCaps are what a container runtime gives a container that asks for nothing.
const runtimeCaps = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"

// capNames are the capabilities in the order of their numbers (linux/capability.h).
const capNames = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE " +
	"NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT " +
	"SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG " +
	"WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"

// capabilities are the numbers of those that the container has.
func (w *workload) capabilities() ([]uintptr, error) {
	all := strings.Fields(capNames)
	s := w.security()
	have := map[string]bool{}
	for _, c := range strings.Fields(runtimeCaps) {
		have[c] = true
	}
	everything := func(on bool) {
		for _, c := range all {
			have[c] = on
		}
	}
	if s.Privileged != nil && *s.Privileged {
		everything(true)
	} else if s.Capabilities != nil {
		// ALL first, then the single ones: that is what runtimes do with {drop: [ALL], add: [X]}.
		if slices.Contains(s.Capabilities.Add, "ALL") {
			everything(true)
		}
		if slices.Contains(s.Capabilities.Drop, "ALL") {
			everything(false)
		}
		for on, list := range map[bool][]corev1.Capability{true: s.Capabilities.Add, false: s.Capabilities.Drop} {
			for _, c := range list {
				if c == "ALL" {
					continue
				}
				name := strings.TrimPrefix(string(c), "CAP_")
				if !slices.Contains(all, name) {
					return nil, fmt.Errorf("securityContext.capabilities: there is no capability %s", c)
				}
				have[name] = on
			}
		}
	}
	var numbers []uintptr
	for i, c := range all {
		if have[c] {
			numbers = append(numbers, uintptr(i))
		}
	}
	return numbers, nil
}

// probePort resolves a port that may be a name.
func (w *workload) probePort(p intstr.IntOrString) (uint16, error) {
	if p.Type == intstr.Int {
		return uint16(p.IntVal), nil
	}
	for _, port := range w.container.Ports {
		if port.Name == p.StrVal {
			return uint16(port.ContainerPort), nil
		}
	}
	return 0, fmt.Errorf("the container has no port named %q", p.StrVal)
}
