package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kube-vip.io/kube-vip/test/lab"
)

// A contender holds an address of its own on one of the nodes. Nothing but the bench restarts what ended. Its
// methods are called by one goroutine at a time.
type contender interface {
	// title heads its columns.
	title() string
	// vip is the address.
	vip() netip.Addr
	// start starts it on a node, after it has ended there.
	start(n *lab.Node) error
	// stop sends SIGTERM and waits for the end.
	stop(n *lab.Node) error
	// kill sends SIGKILL to every process of it on the node and waits for the end.
	kill(n *lab.Node) error
	// running reports whether it runs on the node.
	running(n *lab.Node) bool
	// ready is nil when it could hold the address on the node, or does.
	ready(ctx context.Context, n *lab.Node) error
}

var (
	_ contender = (*kubeVIP)(nil)
	_ contender = (*keepalived)(nil)
)

// Where the generated manifest has the instance listen.
const (
	readyURL   = "http://127.0.0.1:29112/readyz"
	metricsURL = "http://127.0.0.1:2112/metrics"
)

// kubeVIP is the program as its manifest runs it.
type kubeVIP struct {
	address  netip.Addr
	binary   string
	manifest []byte
	pods     map[*lab.Node]*lab.Pod
}

func (k *kubeVIP) title() string   { return "kube-vip" }
func (k *kubeVIP) vip() netip.Addr { return k.address }

func (k *kubeVIP) start(n *lab.Node) error {
	if old := k.pods[n]; old != nil {
		_ = old.Stop() // it has ended; its manifest goes
	}
	pod, err := n.RunManifest(k.manifest, k.binary, lab.PodOptions{NoRestart: true})
	if err != nil {
		return fmt.Errorf("run the manifest on %s: %w", n, err)
	}
	k.pods[n] = pod
	return nil
}

func (k *kubeVIP) stop(n *lab.Node) error {
	if !k.running(n) {
		return nil
	}
	return k.pods[n].Stop()
}

func (k *kubeVIP) kill(n *lab.Node) error { return k.pods[n].Kill() }

func (k *kubeVIP) running(n *lab.Node) bool { return k.pods[n] != nil && k.pods[n].Running() }

func (k *kubeVIP) ready(ctx context.Context, n *lab.Node) error {
	if !k.running(n) {
		return errors.New("it does not run")
	}
	_, err := k.pods[n].Get(ctx, readyURL)
	return err
}

// keepalived is the distribution's, with a script that checks the node's API server.
type keepalived struct {
	advert  string // seconds, as in its configuration
	router  int    // virtual router ID
	address netip.Addr
	curl    string // the path of the command
	dir     string
	nodes   []*lab.Node
	procs   map[*lab.Node]*vrrp
}

// vrrp is one run of keepalived.
type vrrp struct {
	proc *lab.Process

	mu    sync.Mutex // guards the fields below
	out   strings.Builder
	state string // the last one that it said it entered
}

// entering is how keepalived says that its state has changed.
var entering = regexp.MustCompile(`Entering ([A-Z]+) STATE`)

// Write takes its log, line by line as it writes it.
func (v *vrrp) Write(b []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.out.Write(b)
	if all := entering.FindAllStringSubmatch(string(b), -1); len(all) > 0 {
		v.state = all[len(all)-1][1]
	}
	return len(b), nil
}

func (k *keepalived) title() string   { return "keepalived, advert " + k.advert + " s" }
func (k *keepalived) vip() netip.Addr { return k.address }

// priority is 102 on the first node and one less on each further one, so that no two followers stand at once.
func (k *keepalived) priority(n *lab.Node) int {
	for i, other := range k.nodes {
		if other == n {
			return 102 - i
		}
	}
	return 1
}

// configuration is the text of the node's keepalived.conf. The check is what kubeadm's guide to highly available
// clusters shows, at the pace that keepalived's own timings call for.
func (k *keepalived) configuration(n *lab.Node) string {
	return fmt.Sprintf(`global_defs {
    router_id %s
    vrrp_version 3
    script_user root
}
vrrp_script api {
    script "%s -sfk -o /dev/null --max-time 1 https://127.0.0.1:6443/livez"
    interval 1
    timeout 1
    fall 2
}
vrrp_instance control-plane {
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id %d
    priority %d
    advert_int %s
    virtual_ipaddress {
        %s/32
    }
    track_script {
        api
    }
}
`, n.Name, k.curl, k.router, k.priority(n), k.advert, k.address)
}

func (k *keepalived) start(n *lab.Node) error {
	base := filepath.Join(k.dir, fmt.Sprintf("keepalived-%s-%d", n.Name, k.router))
	if err := os.WriteFile(base+".conf", []byte(k.configuration(n)), 0o600); err != nil {
		return err
	}
	for _, pid := range []string{".pid", ".vrrp.pid"} {
		if err := os.Remove(base + pid); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err // it would take itself for one that runs
		}
	}
	v := &vrrp{}
	var err error
	v.proc, err = n.Spawn(lab.Spec{Path: "keepalived", Out: v, Args: []string{
		"--vrrp", "--dont-fork", "--log-console", "--log-detail", "--no-syslog",
		"--use-file=" + base + ".conf", "--pid=" + base + ".pid", "--vrrp_pid=" + base + ".vrrp.pid",
	}})
	if err != nil {
		return err
	}
	k.procs[n] = v
	return nil
}

// end is how long keepalived may take to end; it takes about a second.
const end = 5 * time.Second

func (k *keepalived) stop(n *lab.Node) error {
	if !k.running(n) {
		return nil
	}
	return k.procs[n].proc.Stop(end)
}

func (k *keepalived) kill(n *lab.Node) error {
	// The whole group at once: a child whose parent dies gets SIGTERM, and would clean up.
	proc := k.procs[n].proc
	if err := syscall.Kill(-proc.Pid(), unix.SIGKILL); err != nil {
		return fmt.Errorf("kill keepalived on %s: %w", n, err)
	}
	<-proc.Done()
	return nil
}

func (k *keepalived) running(n *lab.Node) bool { return k.procs[n] != nil && k.procs[n].proc.Running() }

func (k *keepalived) ready(_ context.Context, n *lab.Node) error {
	if !k.running(n) {
		return errors.New("it does not run")
	}
	v := k.procs[n]
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.state != "MASTER" && v.state != "BACKUP" {
		return fmt.Errorf("its state is %q: %s", v.state, v.out.String())
	}
	return nil
}
