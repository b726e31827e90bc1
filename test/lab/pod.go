package lab

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PodOptions say how the kubelet's part is played. The zero value is as a kubelet does it.
type PodOptions struct {
	// NoRestart leaves an ended container alone.
	NoRestart bool
	// RestartDelay is how long the first restart takes; 0 means 1 s, about what a kubelet needs to notice.
	RestartDelay time.Duration
	// BackOff is the delay of the second restart, doubled from then on; 0 means 10 s.
	BackOff time.Duration
	// NoProbes leaves liveness and readiness alone.
	NoProbes bool
	// Kubernetes is the API server that the container finds in KUBERNETES_SERVICE_HOST and _PORT; zero means the
	// node's own, as the address of the Service kubernetes leads nowhere without Options.KubeProxy.
	Kubernetes netip.AddrPort
	// Env is added to the container's environment.
	Env []string
}

// The kubelet's figures.
const (
	defaultRestartDelay = time.Second
	defaultBackOff      = 10 * time.Second
	maxBackOff          = 5 * time.Minute
	resetBackOff        = 10 * time.Minute // a container that ran so long is forgiven
	mountRetry          = 500 * time.Millisecond
)

// A Line is one line that a container printed.
type Line struct {
	// Time is when it was read.
	Time time.Time
	// Text has no newline.
	Text string
	// Start counts the container's starts, from 0.
	Start int
}

// A Pod is a manifest that a node runs.
type Pod struct {
	// Name is the pod's name on its node.
	Name string
	// Node runs it.
	Node *Node

	work   *workload
	opts   PodOptions
	image  string
	caps   []uintptr
	log    *os.File
	ctx    context.Context // of the pod's goroutines
	cancel context.CancelFunc
	done   chan struct{} // closed when the pod runs no more
	// stopErr is how the last container took SIGTERM; set before done is closed.
	stopErr error

	// mu guards the fields below.
	mu       sync.Mutex
	changed  chan struct{} // closed and replaced whenever one of them changes
	proc     *Process
	started  time.Time
	starts   int
	exit     int
	waiting  string // why there is no process
	ready    bool
	lines    []Line
	tokenDir string
}

// RunManifest starts what the manifest says on the node, as its kubelet would, and returns at once: a pod whose
// mounts are not there yet waits for them. The binary stands for the image; it must be static.
func (n *Node) RunManifest(manifest []byte, image string, o PodOptions) (*Pod, error) {
	w, err := parseManifest(manifest)
	if err != nil {
		return nil, err
	}
	if image, err = filepath.Abs(image); err != nil {
		return nil, err
	}
	if err := static(image); err != nil {
		return nil, err
	}
	caps, err := w.capabilities()
	if err != nil {
		return nil, err
	}
	if err := w.schedules(n.object()); err != nil {
		return nil, err
	}
	if o.RestartDelay == 0 {
		o.RestartDelay = defaultRestartDelay
	}
	if o.BackOff == 0 {
		o.BackOff = defaultBackOff
	}
	if !o.Kubernetes.IsValid() {
		o.Kubernetes = n.apiAddr()
	}
	if _, err := w.env(n, o.Kubernetes); err != nil {
		return nil, err
	}
	p := &Pod{
		Name: w.podName(n.Name), Node: n, work: w, opts: o, image: image, caps: caps,
		done: make(chan struct{}), changed: make(chan struct{}),
	}
	if p.log, err = os.OpenFile(filepath.Join(n.lab.Dir, n.Name, "pod-"+p.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return nil, err
	}
	for _, dir := range []string{p.dir("root"), p.dir("empty")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	n.mu.Lock()
	n.pods = append(n.pods, p)
	n.mu.Unlock()
	go p.run()
	return p, nil
}

// static refuses a binary that needs more than an empty image has.
func static(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("read the image's binary %s: %w", path, err)
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("the binary %s is linked dynamically, and the image has no libraries: build it with CGO_ENABLED=0", path)
		}
	}
	return nil
}

func (p *Pod) dir(what string) string {
	return filepath.Join(p.Node.lab.Dir, p.Node.Name, "pods", p.Name, what)
}

// set changes the pod's state and tells who waits for it.
func (p *Pod) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
}

// wait waits until cond, which is called with the state locked, is true.
func (p *Pod) wait(ctx context.Context, what string, cond func() bool) error {
	for {
		p.mu.Lock()
		ok, changed, waiting := cond(), p.changed, p.waiting
		p.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
			continue
		case <-p.done:
			p.mu.Lock()
			ok = cond()
			p.mu.Unlock()
			if ok {
				return nil
			}
			return fmt.Errorf("wait until %s %s: it runs no more; its last words: %s", p.Name, what, p.last())
		case <-ctx.Done():
			if waiting != "" {
				return fmt.Errorf("wait until %s %s: %w; it does not run: %s; its last words: %s", p.Name, what, ctx.Err(), waiting, p.last())
			}
			return fmt.Errorf("wait until %s %s: %w; its last words: %s", p.Name, what, ctx.Err(), p.last())
		}
	}
}

// last are the last lines of output, for errors.
func (p *Pod) last() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	for _, l := range p.lines[max(0, len(p.lines)-8):] {
		b.WriteString("\n\t" + l.Text)
	}
	return b.String()
}

// run is the kubelet's part: start, wait, start again.
func (p *Pod) run() {
	defer close(p.done)
	defer func() { _ = p.log.Close() }()
	backOff := time.Duration(0)
	for {
		select {
		case <-p.Node.running():
		case <-p.ctx.Done():
			return
		}
		proc, err := p.start()
		if err != nil {
			p.set(func() { p.waiting = err.Error() })
			if !p.pause(mountRetry) {
				return
			}
			continue
		}
		life, endLife := context.WithCancel(p.ctx)
		if !p.opts.NoProbes {
			go p.probe(life, proc)
		}
		select {
		case <-proc.Done():
		case <-p.ctx.Done():
			p.stopErr = proc.Stop(p.work.grace())
		}
		endLife()
		var ran time.Duration
		p.set(func() {
			ran = time.Since(p.started)
			p.exit, p.waiting, p.ready = proc.ExitCode(), "it has ended", false
		})
		switch {
		case p.ctx.Err() != nil || p.opts.NoRestart || p.work.spec.RestartPolicy == corev1.RestartPolicyNever:
			return
		case p.Node.Crashed():
			backOff = 0
			continue
		case backOff == 0 || ran > resetBackOff:
			backOff = p.opts.BackOff
			if !p.pause(p.opts.RestartDelay) {
				return
			}
		default:
			if !p.pause(backOff) {
				return
			}
			backOff = min(2*backOff, maxBackOff)
		}
	}
}

// pause waits, unless the pod is stopped.
func (p *Pod) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// start starts the container.
func (p *Pod) start() (*Process, error) {
	for _, v := range p.work.spec.Volumes {
		if err := p.checkVolume(v); err != nil {
			return nil, err
		}
	}
	if err := p.token(); err != nil {
		return nil, err
	}
	env, err := p.work.env(p.Node, p.opts.Kubernetes)
	if err != nil {
		return nil, err
	}
	hosts, err := os.ReadFile(p.Node.Path("/etc/hosts"))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(p.dir("hosts"), p.work.hosts(hosts), 0o644); err != nil {
		return nil, err
	}
	if err := os.WriteFile(p.dir("hostname"), []byte(p.Node.Name+"\n"), 0o644); err != nil {
		return nil, err
	}

	security := p.work.security()
	argv := p.work.command(env)
	cmd := &exec.Cmd{Path: argv[0], Args: argv, Env: append(env, p.opts.Env...), Dir: "/"}
	if d := p.work.container.WorkingDir; d != "" {
		cmd.Dir = d
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: p.dir("root")}
	if security.RunAsUser != nil {
		// In a user namespace made without privilege setgroups(2) is denied (user_namespaces(7)).
		setgroups, err := os.ReadFile("/proc/self/setgroups")
		c := &syscall.Credential{Uid: uint32(*security.RunAsUser), NoSetGroups: err == nil && strings.TrimSpace(string(setgroups)) == "deny"}
		if security.RunAsGroup != nil {
			c.Gid = uint32(*security.RunAsGroup)
		}
		cmd.SysProcAttr.Credential = c
	}
	l := &limits{caps: p.caps}
	if security.AllowPrivilegeEscalation != nil && !*security.AllowPrivilegeEscalation {
		l.noNewPrivs = true
	}
	p.mu.Lock()
	out := &lineWriter{pod: p, start: p.starts}
	p.mu.Unlock()
	cmd.Stdout, cmd.Stderr = out, out
	proc, err := p.Node.launch(p.Name, cmd, p.mountRoot, l)
	if err != nil {
		return nil, err
	}
	p.set(func() {
		p.proc, p.started, p.waiting, p.starts = proc, time.Now(), "", p.starts+1
		p.ready = p.opts.NoProbes || p.work.container.ReadinessProbe == nil
	})
	return proc, nil
}

// checkVolume does with a hostPath what a kubelet and a container runtime do.
func (p *Pod) checkVolume(v corev1.Volume) error {
	if v.HostPath == nil {
		return os.MkdirAll(p.dir("empty/"+v.Name), 0o777)
	}
	path := p.Node.hostPath(v.HostPath.Path)
	kind := corev1.HostPathUnset
	if v.HostPath.Type != nil {
		kind = *v.HostPath.Type
	}
	st, err := os.Stat(path)
	missing := errors.Is(err, os.ErrNotExist)
	if err != nil && !missing {
		return err
	}
	fits := false
	switch kind {
	case corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate:
		// Without a type the container runtime makes a folder of whatever is missing.
		if missing {
			return os.MkdirAll(path, 0o755)
		}
		fits = kind == corev1.HostPathUnset || st.IsDir()
	case corev1.HostPathFileOrCreate:
		if missing {
			return os.WriteFile(path, nil, 0o644)
		}
		fits = st.Mode().IsRegular()
	case corev1.HostPathFile:
		fits = !missing && st.Mode().IsRegular()
	case corev1.HostPathDirectory:
		fits = !missing && st.IsDir()
	case corev1.HostPathSocket:
		fits = !missing && st.Mode().Type() == os.ModeSocket
	case corev1.HostPathCharDev:
		fits = !missing && st.Mode().Type() == os.ModeDevice|os.ModeCharDevice
	case corev1.HostPathBlockDev:
		fits = !missing && st.Mode().Type() == os.ModeDevice
	}
	if !fits {
		return fmt.Errorf("volume %s: hostPath type check failed: %s is not a %s", v.Name, v.HostPath.Path, kind)
	}
	return nil
}

// hostPath is where a path of the node is on this machine: devices and kernel modules are the machine's, all else
// is the node's own.
func (n *Node) hostPath(path string) string {
	for _, shared := range []string{"/dev", "/lib/modules", "/sys", "/proc"} {
		if path == shared || strings.HasPrefix(path, shared+"/") {
			return path
		}
	}
	return n.Path(path)
}

// token gets the service account's token, once.
func (p *Pod) token() error {
	spec := p.work.spec
	if p.work.static || p.tokenDir != "" || spec.AutomountServiceAccountToken != nil && !*spec.AutomountServiceAccountToken {
		return nil
	}
	name := spec.ServiceAccountName
	if name == "" {
		name = "default"
	}
	client, err := p.Node.lab.Kube()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(p.ctx, attempt)
	defer cancel()
	answer, err := client.CoreV1().ServiceAccounts(p.work.meta.Namespace).CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("get a token of the service account %s/%s: %w", p.work.meta.Namespace, name, err)
	}
	dir := p.dir("serviceaccount")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for file, content := range map[string]string{"token": answer.Status.Token, "ca.crt": string(p.Node.lab.CA()), "namespace": p.work.meta.Namespace} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			return err
		}
	}
	p.tokenDir = dir
	return nil
}

// mountRoot makes, on the calling thread, the root that the container gets.
func (p *Pod) mountRoot() error {
	root := p.dir("root")
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount the container's root: %w", err)
	}
	in := func(path string) string { return filepath.Join(root, path) }
	security := p.work.security()
	privileged := security.Privileged != nil && *security.Privileged
	type mount struct {
		from, to string
		readOnly bool
	}
	mounts := []mount{
		{p.image, imageBinary, true},
		{"/proc", "/proc", false},
		{"/sys", "/sys", !privileged},
		{p.dir("hosts"), "/etc/hosts", false},
		{p.dir("hostname"), "/etc/hostname", false},
	}
	if _, err := os.Stat("/etc/resolv.conf"); err == nil {
		mounts = append(mounts, mount{"/etc/resolv.conf", "/etc/resolv.conf", true})
	}
	for _, dev := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		mounts = append(mounts, mount{"/dev/" + dev, "/dev/" + dev, false})
	}
	for _, m := range p.work.container.VolumeMounts {
		for _, v := range p.work.spec.Volumes {
			if v.Name != m.Name {
				continue
			}
			from := p.dir("empty/" + v.Name)
			if v.HostPath != nil {
				from = p.Node.hostPath(v.HostPath.Path)
			}
			mounts = append(mounts, mount{from, m.MountPath, m.ReadOnly})
		}
	}
	if p.tokenDir != "" {
		mounts = append(mounts, mount{p.tokenDir, serviceAccountDir, true})
	}
	for _, m := range mounts {
		if err := bind(m.from, in(m.to), m.readOnly); err != nil {
			return err
		}
	}
	if !privileged {
		// A container cannot write what is below /proc/sys, whatever its capabilities.
		if err := bind(in("/proc/sys"), in("/proc/sys"), true); err != nil {
			return err
		}
	}
	if security.ReadOnlyRootFilesystem != nil && *security.ReadOnlyRootFilesystem {
		return remountReadOnly(root)
	}
	return nil
}

// lineWriter cuts a container's output into lines.
type lineWriter struct {
	pod   *Pod
	start int
	rest  []byte
}

func (w *lineWriter) Write(b []byte) (int, error) {
	now := time.Now()
	_, _ = w.pod.log.Write(b)
	w.rest = append(w.rest, b...)
	var lines []Line
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			break
		}
		lines = append(lines, Line{Time: now, Text: string(line), Start: w.start})
		w.rest = rest
	}
	if len(lines) > 0 {
		w.pod.set(func() { w.pod.lines = append(w.pod.lines, lines...) })
	}
	return len(b), nil
}

// process is the running process, nil when there is none.
func (p *Pod) process() *Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil || !p.proc.Running() {
		return nil
	}
	return p.proc
}

// Pid is the id of the container's process, 0 when none runs.
func (p *Pod) Pid() int {
	if proc := p.process(); proc != nil {
		return proc.Pid()
	}
	return 0
}

// Running reports whether the container runs.
func (p *Pod) Running() bool { return p.process() != nil }

// Restarts is how often the container was started again.
func (p *Pod) Restarts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(0, p.starts-1)
}

// ExitCode is that of the last container that ended; -1 when a signal ended it.
func (p *Pod) ExitCode() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

// Waiting is why no container runs; empty when one does.
func (p *Pod) Waiting() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting
}

// Ready reports what the readiness probe says.
func (p *Pod) Ready() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ready
}

// WaitReady waits until the readiness probe succeeds.
func (p *Pod) WaitReady(ctx context.Context) error {
	return p.wait(ctx, "is ready", func() bool { return p.ready })
}

// WaitRunning waits until a container runs that is at least the n-th restart.
func (p *Pod) WaitRunning(ctx context.Context, restart int) error {
	return p.wait(ctx, fmt.Sprintf("runs (restart %d)", restart), func() bool {
		return p.waiting == "" && p.starts > restart
	})
}

// Output is what all containers of the pod have printed.
func (p *Pod) Output() []Line {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Line(nil), p.lines...)
}

// WaitLog waits for the first line that contains the text, however long ago it was printed.
func (p *Pod) WaitLog(ctx context.Context, text string) (Line, error) {
	return p.WaitLogSince(ctx, time.Time{}, text)
}

// WaitLogSince waits for the first line since then that contains the text.
func (p *Pod) WaitLogSince(ctx context.Context, since time.Time, text string) (Line, error) {
	var found Line
	next := 0
	err := p.wait(ctx, fmt.Sprintf("prints %q", text), func() bool {
		for ; next < len(p.lines); next++ {
			if l := p.lines[next]; !l.Time.Before(since) && strings.Contains(l.Text, text) {
				found = l
				return true
			}
		}
		return false
	})
	return found, err
}

// Signal sends a signal to the container's process.
func (p *Pod) Signal(s syscall.Signal) error {
	proc := p.process()
	if proc == nil {
		return fmt.Errorf("send %v to %s: it does not run", s, p.Name)
	}
	return proc.Signal(s)
}

// Kill ends the container with SIGKILL and returns when it is gone. The pod stays: it is started again.
func (p *Pod) Kill() error {
	proc := p.process()
	if proc == nil {
		return fmt.Errorf("kill %s: it does not run", p.Name)
	}
	return proc.Kill()
}

// Stop takes the pod away from the node, as removing its manifest does: SIGTERM, and SIGKILL after the grace
// period, which is an error here. It returns when the process is gone.
func (p *Pod) Stop() error {
	p.cancel()
	<-p.done
	p.Node.mu.Lock()
	defer p.Node.mu.Unlock()
	for i, other := range p.Node.pods {
		if other == p {
			p.Node.pods = append(p.Node.pods[:i:i], p.Node.pods[i+1:]...)
			break
		}
	}
	return p.stopErr
}

// end waits for the pod's goroutines; its process was killed with its host's.
func (p *Pod) end() {
	p.cancel()
	<-p.done
}

// probe calls the container's probes until ctx ends. A failed liveness probe ends the container.
func (p *Pod) probe(ctx context.Context, proc *Process) {
	c := p.work.container
	if c.StartupProbe != nil && !p.until(ctx, c.StartupProbe, true) {
		if ctx.Err() == nil {
			p.note("startup probe failed")
			_ = proc.Stop(p.work.grace())
		}
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	if c.LivenessProbe != nil {
		wg.Go(func() {
			p.until(ctx, c.LivenessProbe, false)
			if ctx.Err() == nil {
				p.note("liveness probe failed")
				_ = proc.Stop(p.work.grace())
			}
		})
	}
	if c.ReadinessProbe != nil {
		wg.Go(func() {
			for ctx.Err() == nil {
				if p.until(ctx, c.ReadinessProbe, true) {
					p.set(func() { p.ready = true })
					p.until(ctx, c.ReadinessProbe, false)
					p.set(func() { p.ready = false })
				}
			}
		})
	}
}

// note writes a line of the lab's own into the pod's output.
func (p *Pod) note(text string) {
	_, _ = fmt.Fprintf(p.log, "[lab] %s\n", text)
	p.set(func() { p.lines = append(p.lines, Line{Time: time.Now(), Text: "[lab] " + text, Start: p.starts - 1}) })
}

// until probes until it has succeeded (or failed) as often as the threshold says; false when the other threshold
// was reached first, or the context ended.
func (p *Pod) until(ctx context.Context, probe *corev1.Probe, want bool) bool {
	orDefault := func(v, byDefault int32) int {
		if v > 0 {
			return int(v)
		}
		return int(byDefault)
	}
	period := time.Duration(orDefault(probe.PeriodSeconds, 10)) * time.Second
	timer := time.NewTimer(time.Duration(probe.InitialDelaySeconds) * time.Second)
	defer timer.Stop()
	succeeded, failed := 0, 0
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
		}
		timer.Reset(period)
		if !p.Node.awake() {
			continue
		}
		if err := p.probeOnce(ctx, probe, time.Duration(orDefault(probe.TimeoutSeconds, 1))*time.Second); err == nil {
			succeeded, failed = succeeded+1, 0
		} else {
			succeeded, failed = 0, failed+1
		}
		if succeeded >= orDefault(probe.SuccessThreshold, 1) && want {
			return true
		}
		if failed >= orDefault(probe.FailureThreshold, 3) {
			return !want
		}
	}
}

func (p *Pod) probeOnce(ctx context.Context, probe *corev1.Probe, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	host, port, path, scheme := "", uint16(0), "", "http"
	var err error
	if g := probe.HTTPGet; g != nil {
		host, path = g.Host, g.Path
		scheme = strings.ToLower(string(g.Scheme))
		if scheme == "" {
			scheme = "http"
		}
		port, err = p.work.probePort(g.Port)
	} else {
		host = probe.TCPSocket.Host
		port, err = p.work.probePort(probe.TCPSocket.Port)
	}
	if err != nil {
		return err
	}
	switch host {
	case "":
		host = p.Node.Addr().String()
	case "localhost":
		host = "127.0.0.1"
	}
	address := net.JoinHostPort(host, fmt.Sprint(port))
	if probe.TCPSocket != nil {
		conn, err := p.Node.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	_, err = p.Node.fetchInsecure(ctx, scheme+"://"+address+"/"+strings.TrimPrefix(path, "/"))
	return err
}
