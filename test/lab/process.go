package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Spec is a command to be started on a host, as a host's own service would be: it sees the host's network,
// the host's /etc/hosts and /etc/kubernetes, and everything else of this machine.
type Spec struct {
	// Path is the command: a path, or a name to be found.
	Path string
	// Args are its arguments, without the name.
	Args []string
	// Env is added to PATH and HOME.
	Env []string
	// Out gets what it prints on both streams; nil drops it.
	Out io.Writer
	// In is its standard input.
	In io.Reader
}

// A Process runs in a host's namespaces. It dies with the program that started it.
type Process struct {
	// Name is what the command is called in errors.
	Name string

	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; set before done is closed
}

// limits is what a process may do less than this one.
type limits struct {
	caps       []uintptr // the bounding set
	noNewPrivs bool
}

// pipeGrace is how long output is waited for after a process ended, when a child of it still holds the pipe.
const pipeGrace = time.Second

// Spawn starts a command on the host.
func (h *Host) Spawn(s Spec) (*Process, error) {
	path := s.Path
	if !strings.Contains(path, "/") {
		var err error
		if path, err = Tool(path); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(path, s.Args...)
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}, s.Env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.In, s.Out, s.Out
	return h.launch(filepath.Base(path), cmd, h.mountEtc, nil)
}

// Run runs a command on the host and returns what it printed.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	return h.run(ctx, "", name, args...)
}

func (h *Host) run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	var out strings.Builder
	p, err := h.Spawn(Spec{Path: name, Args: args, Out: &out, In: strings.NewReader(stdin)})
	if err != nil {
		return "", err
	}
	defer context.AfterFunc(ctx, func() { _ = p.Signal(unix.SIGKILL) })()
	<-p.Done()
	if p.err != nil {
		return out.String(), fmt.Errorf("run %s %s on %s: %w: %s", name, strings.Join(args, " "), h.Name, p.err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

// launch starts cmd in the network of the host and in a mount namespace of its own, which prepare fills.
//
// A child inherits the namespaces and the capability bounding set of the thread that forks it. So a thread is
// made what the child shall be, and is thrown away afterwards; it has to live as long as the child, because
// the death signal is sent when the forking thread ends, not the process.
func (h *Host) launch(name string, cmd *exec.Cmd, prepare func() error, l *limits) (*Process, error) {
	p := &Process{Name: name, cmd: cmd, done: make(chan struct{})}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Setpgid = true // a Ctrl-C on the terminal is for this program, which stops its children itself
	cmd.WaitDelay = pipeGrace

	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := func() error {
			if err := h.enter(); err != nil {
				return err
			}
			if prepare != nil {
				if err := prepare(); err != nil {
					return err
				}
			}
			if err := l.apply(); err != nil {
				return err
			}
			if !h.adopt(p) {
				return fmt.Errorf("%s is down", h.Name)
			}
			if err := cmd.Start(); err != nil {
				h.disown(p)
				return err
			}
			return nil
		}()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		h.disown(p)
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", name, h.Name, err)
	}
	return p, nil
}

func (l *limits) apply() error {
	if l == nil {
		return nil
	}
	keep := map[uintptr]bool{}
	for _, c := range l.caps {
		keep[c] = true
	}
	for c := range uintptr(64) {
		if keep[c] {
			continue
		}
		// EINVAL: beyond the last capability that this kernel knows.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if l.noNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set no_new_privs: %w", err)
		}
	}
	return nil
}

// Pid is the process id on this machine.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether the process has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// ExitCode is the exit code of an ended process, -1 when a signal ended it.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Signal sends a signal. A process that has ended is no error.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to %s: %w", s, p.Name, err)
	}
	return nil
}

// Kill ends the process with SIGKILL and returns when it is gone.
func (p *Process) Kill() error {
	err := p.Signal(unix.SIGKILL)
	if err == nil {
		<-p.done
	}
	return err
}

// Stop asks the process to end with SIGTERM, and kills it when it has not after the grace time.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.Signal(unix.SIGTERM); err != nil {
		return err
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		return errors.Join(fmt.Errorf("%s did not end within %v of SIGTERM", p.Name, grace), p.Kill())
	}
}
