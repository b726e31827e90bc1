package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// rootlessEnv is set in the environment of the copy of this program that runs in a user namespace.
const rootlessEnv = "KUBE_VIP_LAB_USERNS"

// Main runs the program in a way that allows it to make a lab, and returns its exit code: as it is when it is root
// already, else as a copy of itself in a user namespace where it is. Where the kernel does not allow that it runs
// as it is, and Check says why there can be no lab. A backend is a copy of the program too, and serves here. It is
// the first thing that a TestMain or a main does:
//
//	func TestMain(m *testing.M) { os.Exit(lab.Main(m.Run)) }
func Main(run func() int) int {
	if b := os.Getenv(backendEnv); b != "" {
		err := serveBackend(b)
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		return 1
	}
	if os.Getenv(rootlessEnv) != "" {
		// The machine's /run belongs to its root; names of namespaces need one of ours.
		// Some distributions allow the namespace and then nothing in it: Check says so, when a lab is asked for.
		_ = unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
		return run()
	}
	if os.Geteuid() == 0 {
		return run()
	}
	self, err := os.Executable()
	if err != nil {
		return run()
	}
	cmd := exec.Command(self)
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), rootlessEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	// A Ctrl-C reaches the copy too; this one only waits for it.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return run()
	}
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				if s == unix.SIGTERM {
					_ = cmd.Process.Signal(s)
				}
			case <-done:
				return
			}
		}
	}()
	err = cmd.Wait()
	close(done)
	var exit *exec.ExitError
	if err == nil || errors.As(err, &exit) {
		if code := cmd.ProcessState.ExitCode(); code >= 0 {
			return code
		}
		return 1 // ended by a signal
	}
	fmt.Fprintf(os.Stderr, "error: %v\n", err)
	return 1
}
