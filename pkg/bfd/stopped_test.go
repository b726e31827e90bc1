package bfd

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kube-vip.io/kube-vip/test/netns"
)

// patient names, in the environment, the peer of a process that does nothing but keep a session with him.
const patient = "BFD_TEST_PATIENT"

func TestMain(m *testing.M) {
	if peer := os.Getenv(patient); peer != "" {
		if err := keep(netip.MustParseAddr(peer)); err != nil {
			fmt.Println(err)
		}
		return
	}
	// Who waits for the processor does not keep others from running.
	runtime.GOMAXPROCS(4 * runtime.NumCPU())
	m.Run()
}

// keep keeps a session whose neighbour is to be patient until the process is told to end, and prints what becomes of it.
func keep(remote netip.Addr) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	d := New(Options{Realtime: true, Changed: func(_ string, s Status) { fmt.Println(s.State, s.Diagnostic) }})
	peer := fast("peer", remote)
	peer.Multiplier = 100
	if err := d.Set([]Peer{peer}); err != nil {
		return err
	}
	return d.Run(ctx)
}

// A process that was stopped for longer than the detection time has lost nobody who went on to send.
func TestStopped(t *testing.T) {
	a, b := cable(t)
	wire := b.tap(t, eth)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), patient+"="+b4.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	var said bytes.Buffer
	cmd.Stdout = &said
	a.Must(t, cmd.Start)
	ended := false
	t.Cleanup(func() {
		if !ended {
			kill(cmd)
		}
	})
	tell := func(s os.Signal) {
		t.Helper()
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	y := b.detect(t, Options{}, fast("a", a4))
	y.becomes(t, "a", Up)
	netns.Eventually(t, "the fast interval", func() bool { return y.status(t, "a").Interval == 50*ms && y.status(t, "a").RemoteState == Up })
	tell(unix.SIGSTOP)
	wire.forget()
	netns.Eventually(t, "20 packets to a stopped process", func() bool { return len(wire.heard(b4)) >= 20 })
	tell(unix.SIGCONT)
	wire.forget()
	netns.Eventually(t, "10 packets from it", func() bool { return len(wire.heard(a4)) >= 10 })
	tell(unix.SIGTERM)
	ended = true
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("Up no diagnostic\n", strings.TrimPrefix(said.String(), "Init no diagnostic\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
