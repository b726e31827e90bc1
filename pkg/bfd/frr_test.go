package bfd

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kube-vip.io/kube-vip/test/netns"
)

// frr is FRR's bfdd in a namespace, with a folder of its own.
type frr struct {
	ns   *namespace
	dir  string
	bfdd *exec.Cmd
}

// frrPeer is what FRR says of a session.
type frrPeer struct {
	Peer             string
	ID               uint32
	RemoteID         uint32 `json:"remote-id"`
	Status           string
	Diagnostic       string
	RemoteDiagnostic string `json:"remote-diagnostic"`
	Receive          int    `json:"receive-interval"`
	Transmit         int    `json:"transmit-interval"`
	Multiplier       int    `json:"detect-multiplier"`
	RemoteReceive    int    `json:"remote-receive-interval"`
	RemoteTransmit   int    `json:"remote-transmit-interval"`
	RemoteMultiplier int    `json:"remote-detect-multiplier"`
}

// frrDaemon is where a daemon of FRR is.
func frrDaemon(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range []string{"/usr/lib/frr", "/usr/libexec/frr", "/usr/sbin"} {
		if path := filepath.Join(dir, name); exec.Command("test", "-x", path).Run() == nil {
			return path
		}
	}
	netns.Missing(t, "FRR's "+name+" is missing (package frr)")
	return ""
}

// newFRR runs FRR with this configuration of BFD.
func newFRR(t testing.TB, ns *namespace, config string) *frr {
	t.Helper()
	zebra, bfdd := frrDaemon(t, "zebra"), frrDaemon(t, "bfdd")
	if _, err := exec.LookPath("vtysh"); err != nil {
		netns.Missing(t, "the command vtysh is missing (package frr)")
	}
	dir, err := os.MkdirTemp("", "bfd") // a path that is short enough for a socket's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// FRR gives up root, and wants a user that its package has made.
	owner, err := user.Lookup("frr")
	if err != nil {
		netns.Missing(t, "there is no user frr (package frr)")
	}
	uid, _ := strconv.Atoi(owner.Uid)
	if err := os.Chown(dir, uid, -1); err != nil {
		t.Fatal(err)
	}
	f := &frr{ns: ns, dir: dir}
	f.write(t, "zebra.conf", "")
	f.write(t, "bfdd.conf", config)
	f.start(t, zebra, "zebra", "-K", "0")
	netns.Eventually(t, "zebra", func() bool { return exists(f.path("zserv.api")) && exists(f.path("zebra.vty")) })
	f.bfdd = f.start(t, bfdd, "bfdd", "--bfdctl", f.path("bfdd.sock"))
	netns.Eventually(t, "bfdd", func() bool { return exists(f.path("bfdd.vty")) })
	return f
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (f *frr) path(name string) string { return filepath.Join(f.dir, name) }

func (f *frr) write(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(f.path(name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// start runs a daemon until the test ends.
func (f *frr) start(t testing.TB, path, name string, args ...string) *exec.Cmd {
	t.Helper()
	log, err := os.Create(f.path(name + ".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append([]string{"-P", "0", "-f", f.path(name + ".conf"), "-i", f.path(name + ".pid"),
		"-z", f.path("zserv.api"), "--vty_socket", f.dir, "--log", "stdout"}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	f.ns.Must(t, cmd.Start)
	// As our side has it: the machine may be busy. Where that is not allowed it is left to luck.
	_ = unix.SchedSetAttr(cmd.Process.Pid, &unix.SchedAttr{Policy: unix.SCHED_RR, Priority: 1}, 0)
	t.Cleanup(func() {
		kill(cmd)
		log.Close()
		if said, err := os.ReadFile(f.path(name + ".log")); err == nil && t.Failed() {
			t.Logf("%s:\n%s", name, said)
		}
	})
	return cmd
}

// kill ends a process without giving it a word.
func kill(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait() // that it was killed is known
}

// vtysh has FRR do commands.
func (f *frr) vtysh(t testing.TB, commands ...string) string {
	t.Helper()
	args := []string{"--vty_socket", f.dir, "--config_dir", f.dir, "-d", "bfdd"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	cmd := exec.Command("vtysh", args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("vtysh %q: %v\n%s%s", commands, err, out, &errs)
	}
	return string(out)
}

// peer is a session of FRR.
func (f *frr) peer(t testing.TB, remote netip.Addr) frrPeer {
	t.Helper()
	out := f.vtysh(t, "show bfd peers json")
	var list []frrPeer
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("show bfd peers json: %v\n%s", err, out)
	}
	i := slices.IndexFunc(list, func(p frrPeer) bool { return p.Peer == remote.String() })
	if i < 0 {
		t.Fatalf("FRR has no session with %s: %s", remote, out)
	}
	return list[i]
}

// frrFamilies are sessions on one link.
var frrFamilies = []struct {
	key  string
	a, b netip.Addr
}{{"ipv4", a4, b4}, {"ipv6", a6, b6}, {"link-local", aLocal, bLocal}}

// frrConfig has FRR at b keep these sessions.
func frrConfig() string {
	var s strings.Builder
	s.WriteString("bfd\n")
	for _, f := range frrFamilies {
		fmt.Fprintf(&s, " peer %s local-address %s interface %s\n  receive-interval 60\n  transmit-interval 80\n  detect-multiplier 10\n exit\n", f.a, f.b, eth)
	}
	return s.String()
}

// frrPeers are the same as a has them.
func frrPeers(minTx, minRx time.Duration) (list []Peer) {
	for _, f := range frrFamilies {
		list = append(list, Peer{Key: f.key, Remote: f.b, Interface: eth, MinTx: minTx, MinRx: minRx, Multiplier: 10})
	}
	return list
}

// FRR's bfdd agrees on one link: about what is up, the intervals and changes of them, and what is taken down. A loss of it
// or of the link is noticed.
func TestFRR(t *testing.T) {
	t.Parallel()
	a, b := cable(t)
	r := newFRR(t, b, frrConfig())
	wire := b.tap(t, eth)
	x := a.detect(t, Options{}, frrPeers(50*ms, 70*ms)...)
	for _, f := range frrFamilies {
		// FRR asks with each change of its timers, in its own time.
		netns.Eventually(t, f.key+" is up", func() bool {
			s := x.status(t, f.key)
			return s.State == Up && s.Interval == 60*ms && s.Detection == 10*80*ms && s.RemoteMultiplier == 10
		})
		s := x.status(t, f.key)
		want := frrPeer{
			Peer: f.a.String(), ID: s.Yours, RemoteID: s.Mine, Status: "up", Diagnostic: "ok", RemoteDiagnostic: "ok",
			Receive: 60, Transmit: 80, Multiplier: 10, RemoteReceive: 70, RemoteTransmit: 50, RemoteMultiplier: 10,
		}
		got := frrPeer{}
		netns.Eventually(t, f.key+" is up for FRR", func() bool { got = r.peer(t, f.a); return got.RemoteTransmit == 50 })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s for FRR (-want +got):\n%s", f.key, diff)
		}
	}
	wire.forget()
	netns.Eventually(t, "50 packets", func() bool { return len(wire.heard(aLocal)) >= 50 })
	for _, f := range frrFamilies {
		paced(t, wire.heard(f.a), 60*ms)
	}
	x.forget()

	x.set(t, frrPeers(200*ms, 30*ms)...)
	for _, f := range frrFamilies {
		netns.Eventually(t, f.key+" is slower", func() bool {
			s, there := x.status(t, f.key), r.peer(t, f.a)
			return s.Interval == 200*ms && there.RemoteTransmit == 200 && there.RemoteReceive == 30 && there.Status == "up"
		})
	}
	for _, f := range frrFamilies {
		r.vtysh(t, "configure terminal", "bfd", fmt.Sprintf("peer %s local-address %s interface %s", f.a, f.b, eth), "transmit-interval 150", "receive-interval 300")
	}
	for _, f := range frrFamilies {
		netns.Eventually(t, f.key+" is slower there", func() bool {
			s := x.status(t, f.key)
			return s.Interval == 300*ms && s.Detection == 10*150*ms
		})
	}
	x.stays(t, "intervals that change on both sides")

	peer := fmt.Sprintf("peer %s local-address %s interface %s", a4, b4, eth)
	r.vtysh(t, "configure terminal", "bfd", peer, "shutdown")
	if c := x.becomes(t, "ipv4", Down); c.RemoteState != AdminDown || c.Diagnostic != NeighborSignaledDown {
		t.Errorf("FRR's shutdown is told by %+v", c.Status)
	}
	r.vtysh(t, "configure terminal", "bfd", peer, "no shutdown")
	x.becomes(t, "ipv4", Up)

	lost := func(what string, since time.Time) {
		t.Helper()
		for range frrFamilies {
			c := <-x.changes
			if c.State != Down || c.Diagnostic != DetectionTimeExpired {
				t.Errorf("%s: %s is %s (%s)", what, c.Key, c.State, c.Diagnostic)
			}
			if took := c.at.Sub(since); took < 1000*ms || took > 15*time.Second {
				t.Errorf("%s: %s is lost after %s, want 1350 to 1500 ms", what, c.Key, took)
			} else {
				t.Logf("%s: %s is lost after %s", what, c.Key, took.Round(ms))
			}
		}
	}
	for _, f := range frrFamilies {
		netns.Eventually(t, "as before", func() bool { return x.status(t, f.key).State == Up && x.status(t, f.key).Detection == 10*150*ms })
	}
	x.forget()
	cut := time.Now()
	a.OnLink(t, eth, netlink.LinkSetDown)
	lost("the link is down", cut)
	a.OnLink(t, eth, netlink.LinkSetUp)
	a.AddAddr(t, eth, aLocal.String()+"/64") // others are kept
	for _, f := range frrFamilies {
		netns.Eventually(t, f.key+" is up again", func() bool {
			return x.status(t, f.key).State == Up && x.status(t, f.key).Detection == 10*150*ms && r.peer(t, f.a).Status == "up"
		})
	}
	x.forget()
	cut = time.Now()
	kill(r.bfdd)
	lost("FRR is killed", cut)
}

// FRR is told of a stop, and does not take it for a failure.
func TestFRRFarewell(t *testing.T) {
	t.Parallel()
	a, b := cable(t)
	r := newFRR(t, b, frrConfig())
	x := a.detect(t, Options{}, frrPeers(50*ms, 50*ms)...)
	for _, f := range frrFamilies {
		netns.Eventually(t, f.key+" is up", func() bool { return x.status(t, f.key).State == Up && r.peer(t, f.a).Status == "up" })
	}
	took := x.ended(t)
	t.Logf("stopped after %s", took)
	if took > 10*time.Second { // a second at most is waited for
		t.Errorf("it stopped after %s", took)
	}
	for _, f := range frrFamilies {
		got := r.peer(t, f.a)
		if got.Status != "down" || got.Diagnostic != "neighbor signaled session down" || got.RemoteDiagnostic != "administratively down" {
			t.Errorf("FRR takes the stop for %+v", got)
		}
	}
}

// FRR some hops away: there is a router between.
func TestFRRMultihop(t *testing.T) {
	t.Parallel()
	a, router, b := newNamespace(t), newNamespace(t), newNamespace(t)
	netns.Join(t, a.Namespace, router.Namespace, eth)
	netns.Join(t, router.Namespace, b.Namespace, "eth1")
	for _, l := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		router.Sysctl(t, l, "1")
	}
	far4, far6 := addr("10.0.1.2"), addr("fd01::2")
	a.AddAddr(t, eth, a4.String()+"/24")
	a.AddAddr(t, eth, a6.String()+"/64")
	router.AddAddr(t, eth, "10.0.0.254/24")
	router.AddAddr(t, eth, "fd00::fe/64")
	router.AddAddr(t, "eth1", "10.0.1.254/24")
	router.AddAddr(t, "eth1", "fd01::fe/64")
	b.AddAddr(t, "eth1", far4.String()+"/24")
	b.AddAddr(t, "eth1", far6.String()+"/64")
	a.Route(t, "10.0.1.0/24", addr("10.0.0.254"))
	a.Route(t, "fd01::/64", addr("fd00::fe"))
	b.Route(t, "10.0.0.0/24", addr("10.0.1.254"))
	b.Route(t, "fd00::/64", addr("fd01::fe"))

	r := newFRR(t, b, fmt.Sprintf("bfd\n peer %s multihop local-address %s\n exit\n peer %s multihop local-address %s\n exit\n", a4, far4, a6, far6))
	x := a.detect(t, Options{}, Peer{Key: "ipv4", Remote: far4, Multihop: true, MinTTL: 254}, Peer{Key: "ipv6", Remote: far6, Multihop: true})
	for key, remote := range map[string]netip.Addr{"ipv4": a4, "ipv6": a6} {
		netns.Eventually(t, key+" is up", func() bool { return x.status(t, key).State == Up && r.peer(t, remote).Status == "up" })
	}
	x.set(t, Peer{Key: "ipv4", Remote: far4, Multihop: true, MinTTL: 255}, Peer{Key: "ipv6", Remote: far6, Multihop: true})
	if c := x.becomes(t, "ipv4", Down); c.Diagnostic != DetectionTimeExpired || c.Dropped["ttl"] == 0 {
		t.Errorf("with a least TTL of 255 it is %+v", c.Status)
	}
}
