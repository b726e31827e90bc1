package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kube-vip.io/kube-vip/test/lab"
)

// A machine is a node of the lab with an operating system: containerd, a kubelet that is started at boot, kubeadm, kubectl
// and kube-vip, in namespaces for everything that the kernel has one of. Its disk outlives its power.
type machine struct {
	*lab.Node
	folder string
	net    string // the network namespace, as the links in /proc name it
	os     *lab.Process
	pid    int // of the machine's process 1, as this machine has it
}

// newMachine installs the machine's disk and boots it.
func newMachine(t *testing.T, l *lab.Lab, n *lab.Node, r release, p parts) *machine {
	t.Helper()
	m := &machine{Node: n, folder: filepath.Join(l.Dir, n.Name)}
	t.Cleanup(func() {
		if err := m.off(); err != nil {
			t.Errorf("switch %s off: %v", m, err)
		}
	})
	err := m.Do(func() (err error) {
		m.net, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"containerd", "containerd-shim-runc-v2", "ctr"} {
		m.install(t, filepath.Join(p.node, tool))
	}
	m.installRelease(t, r)
	m.install(t, filepath.Join(p.newest, "kubectl"))
	m.install(t, lab.Binary(t))
	for _, plugin := range []string{"bridge", "host-local", "loopback", "portmap"} {
		m.link(t, filepath.Join(p.node, "cni", plugin), "/opt/cni/bin/"+plugin)
	}
	m.write(t, "/etc/containerd/config.toml", containerdConfig)
	m.write(t, "/etc/cni/net.d/10-pods.conflist", m.network())
	if err := os.MkdirAll(m.Path("/etc/kubernetes/manifests"), 0o755); err != nil { // which the kubelet's package brings
		t.Fatal(err)
	}
	m.on(t)
	return m
}

// containerdConfig is what such a machine needs: no privilege of raising a process's score (which the kernel keeps from
// namespaces), no profile of AppArmor's (which all machines on the kernel would have), and the image of the pods' sandboxes by
// its name.
const containerdConfig = `version = 3
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
disable_apparmor = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "` + sandboxImage + `"
`

// network is how pods are connected: a bridge on each machine, with a part of the pods' network.
func (m *machine) network() string {
	var ranges, routes []string
	for _, p := range m.PodCIDRs() {
		ranges = append(ranges, fmt.Sprintf(`[{"subnet": %q}]`, p))
		all := "0.0.0.0/0"
		if p.Addr().Is6() {
			all = "::/0"
		}
		routes = append(routes, fmt.Sprintf(`{"dst": %q}`, all))
	}
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [%s], "routes": [%s]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
`, strings.Join(ranges, ", "), strings.Join(routes, ", "))
}

// disk is where the machine's file is on this machine; for what init.sh does not keep elsewhere.
func (m *machine) disk(path string) string {
	for _, kept := range []string{"/etc/kubernetes/", "/var/lib/containerd/", "/var/lib/kubelet/", "/var/lib/etcd/", "/var/log/"} {
		if strings.HasPrefix(path, kept) {
			return m.Path(path)
		}
	}
	return filepath.Join(m.folder, "disk", path)
}

// write writes a file on the machine's disk.
func (m *machine) write(t *testing.T, path, content string) {
	t.Helper()
	file := m.disk(path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// read reads a file of the machine's disk.
func (m *machine) read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(m.disk(path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// install puts a program into the machine's path, in place of one of that name.
func (m *machine) install(t *testing.T, program string) {
	t.Helper()
	m.link(t, program, "/usr/local/bin/"+filepath.Base(program))
}

// installRelease installs what the packages of a release bring.
func (m *machine) installRelease(t *testing.T, r release) {
	t.Helper()
	for _, program := range []string{"kubeadm", "kubelet"} {
		m.install(t, filepath.Join(r.dir, program))
	}
}

// link has a file of this machine seen by the machine. While it runs that goes by the machine itself: an overlay does not
// look for what comes to be below it.
func (m *machine) link(t *testing.T, from, to string) {
	t.Helper()
	if _, err := os.Stat(from); err != nil {
		lab.Need(t, fmt.Errorf("a part of the machines is not there: %w", err))
	}
	if m.os != nil {
		m.must(t, fmt.Sprintf("mkdir -p %s && ln -sfn %s %s", filepath.Dir(to), from, to))
		return
	}
	file := m.disk(to)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.Symlink(from, file); err != nil {
		t.Fatal(err)
	}
}

// on boots the machine and returns when containerd answers. Its interface is there and up.
func (m *machine) on(t *testing.T) {
	t.Helper()
	scripts, err := filepath.Abs("testdata/machine")
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(m.folder, "boot.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	m.os, err = m.Spawn(lab.Spec{Path: "bash", Args: []string{filepath.Join(scripts, "boot.sh"), m.folder, m.Netns, m.Name}, Out: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = lab.Wait(ctx, m.Name+" boots", func() (bool, error) {
		if !m.os.Running() {
			return false, errors.New("it has ended: " + tail(log.Name()))
		}
		m.pid = child(m.os.Pid())
		return m.pid != 0, nil
	})
	if err == nil {
		err = lab.Wait(ctx, "containerd of "+m.Name+" answers", func() (bool, error) {
			if !m.os.Running() {
				return false, errors.New("the machine has ended: " + tail(log.Name()))
			}
			_, err := m.run(ctx, "ctr --connect-timeout 1s version")
			return err == nil, nil
		})
	}
	if err != nil {
		t.Fatal(err, tail(log.Name()))
	}
}

// child is the process that another one has started; 0 when there is none.
func child(of int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", of, of))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	pid, _ := strconv.Atoi(first)
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || string(comm) != "bash\n" {
		return 0
	}
	// boot.sh has children of its own, before it becomes unshare.
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", of)); err != nil || string(comm) != "unshare\n" {
		return 0
	}
	return pid
}

// off takes the machine's power away, and returns when nothing of it runs.
func (m *machine) off() error {
	if err := m.Crash(); err != nil {
		return err
	}
	m.os = nil
	return m.ungroup()
}

// ungroup removes the machine's control groups, which are called as its network is, and go when the last process in them has ended.
func (m *machine) ungroup() error {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for line := range strings.Lines(string(b)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if fields[1] == "" {
			continue // cgroup2
		}
		top := filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(fields[1], "name="), fields[2], m.Netns)
		var last error
		err := lab.Wait(ctx, "the control group "+top+" is empty", func() (bool, error) {
			last = removeGroups(top)
			return last == nil, nil
		})
		if err != nil {
			return errors.Join(err, last)
		}
	}
	return nil
}

// removeGroups removes a control group and those in it.
func removeGroups(top string) error {
	entries, err := os.ReadDir(top)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroups(filepath.Join(top, e.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(top)
}

// again boots a machine that is off, with nothing in its kernel but what a fresh one has.
func (m *machine) again(t *testing.T) {
	t.Helper()
	if err := m.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	links, err := m.Links()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if link == "lo" || link == m.Link {
			continue
		}
		if _, err := m.Run(t.Context(), "ip", "link", "delete", link); err != nil && !strings.Contains(err.Error(), "Cannot find device") {
			t.Fatal(err) // the other end of a cable goes with it
		}
	}
	if _, err := m.Run(t.Context(), "nft", "flush", "ruleset"); err != nil {
		t.Fatal(err)
	}
	m.on(t)
}

// run runs a line of shell as the machine's root would type it, and returns what it printed.
func (m *machine) run(ctx context.Context, line string) (string, error) {
	cmd := m.command(ctx, line)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s# %s: %w\n%s", m.Name, line, err, out)
	}
	return string(out), nil
}

func (m *machine) command(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", "--target", strconv.Itoa(m.pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--",
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
		"bash", "-c", "cd && { "+line+"\n}")
	cmd.WaitDelay = time.Second
	return cmd
}

// must runs a line of shell that has to succeed within some minutes.
func (m *machine) must(t *testing.T, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := m.run(ctx, line)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// admin is must with the kubeconfig of the cluster's administrator.
func (m *machine) admin(t *testing.T, line string) string {
	t.Helper()
	return m.must(t, "export KUBECONFIG=/etc/kubernetes/admin.conf; "+line)
}

// tail is the end of a file.
func tail(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	if len(b) > 2000 {
		b = b[len(b)-2000:]
	}
	return string(b)
}
