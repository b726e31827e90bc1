package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kube-vip.io/kube-vip/test/lab"
)

// asDemo in the environment makes this test binary the demo itself.
const asDemo = "KUBE_VIP_TEST_AS_DEMO"

func TestMain(m *testing.M) {
	os.Exit(lab.Main(func() int {
		if os.Getenv(asDemo) != "" {
			return run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
		}
		return m.Run()
	}))
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		args string
		want options
		err  string
	}{
		{"", options{family: lab.IPv4}, ""},
		{"--ipv6 --no-color", options{family: lab.IPv6, noColor: true}, ""},
		{"--dual --keep", options{family: lab.Dual, keep: true}, ""},
		{"--ipv6 --dual", options{}, "--ipv6 and --dual exclude each other"},
		{"--nodes=5", options{}, "flag provided but not defined: -nodes; see demo --help"},
		{"now", options{}, "now: the demo takes flags only; see demo --help"},
	} {
		got, err := parse(strings.Fields(tc.args), io.Discard)
		if text := fmt.Sprint(err); tc.err != "" && text != tc.err || tc.err == "" && err != nil {
			t.Errorf("%q: error %v, want %q", tc.args, err, tc.err)
		}
		if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(options{})); diff != "" && tc.err == "" {
			t.Errorf("%q (-want +got):\n%s", tc.args, diff)
		}
	}
	var help bytes.Buffer
	if _, err := parse([]string{"-h"}, &help); !errors.Is(err, flag.ErrHelp) || help.String() != usage {
		t.Errorf("-h: %v, %q", err, help.String())
	}
}

// TestComplain: whatever an error carries, one line is printed.
func TestComplain(t *testing.T) {
	var b bytes.Buffer
	code := complain(&b, errors.Join(errors.New("start the cluster: etcd has ended"), errors.New("=== the end of etcd.log")))
	if want := "error: start the cluster: etcd has ended\n"; code != 1 || b.String() != want {
		t.Errorf("exit code %d, %q, want 1 and %q", code, b.String(), want)
	}
}

func TestNotRoot(t *testing.T) {
	err := notRoot("/src/bin/demo", "/home/me/.cache/parts")
	if want := "so run: sudo env " + lab.PartsEnv + "=/home/me/.cache/parts /src/bin/demo"; !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v, want it to end with %q", err, want)
	}
	if want := "so run: sudo /src/bin/demo"; !strings.HasSuffix(notRoot("/src/bin/demo", "").Error(), want) {
		t.Errorf("%v, want it to end with %q", err, want)
	}
}

func TestProgram(t *testing.T) {
	dir := t.TempDir()
	self, beside, other := filepath.Join(dir, "demo"), filepath.Join(dir, "kube-vip"), filepath.Join(dir, "other")
	env := map[string]string{}
	getenv := func(name string) string { return env[name] }
	if got, err := program(self, getenv); err == nil || !strings.HasSuffix(err.Error(), "run: make demo") {
		t.Errorf("nothing is there, and got %q, %v", got, err)
	}
	for _, f := range []string{beside, other} {
		if err := os.WriteFile(f, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := program(self, getenv); got != beside || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, beside)
	}
	env[lab.BinaryEnv] = other
	if got, err := program(self, getenv); got != other || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, other)
	}
}

// A running demo is a process of its own that prints into a pipe.
type running struct {
	cmd    *exec.Cmd
	tmp    string
	reader *os.File

	mu   sync.Mutex // guards text
	text strings.Builder
}

// launch starts the demo, with a folder of its own for what is temporary.
func launch(t *testing.T) *running {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := filepath.Abs(lab.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	r := &running{cmd: exec.CommandContext(ctx, self), tmp: t.TempDir()}
	r.cmd.Cancel = func() error { return r.cmd.Process.Signal(syscall.SIGTERM) }
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	for _, e := range os.Environ() {
		// In a user namespace we are its root already, and the demo is to run as it is.
		if !strings.HasPrefix(e, "KUBE_VIP_LAB_USERNS=") && !strings.HasPrefix(e, "KUBE_VIP_LAB_KEEP=") {
			r.cmd.Env = append(r.cmd.Env, e)
		}
	}
	r.cmd.Env = append(r.cmd.Env, asDemo+"=1", "TMPDIR="+r.tmp, lab.BinaryEnv+"="+binary)
	var writer *os.File
	if r.reader, writer, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	r.cmd.Stdout, r.cmd.Stderr = writer, os.Stderr
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = writer.Close()
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := r.reader.Read(b)
			r.mu.Lock()
			r.text.Write(b[:n])
			r.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { _ = r.reader.Close() })
	return r
}

func (r *running) printed() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// remains are all things on this machine that are of the demo, apart from the demo.
func (r *running) remains(t *testing.T) []string {
	t.Helper()
	var found []string
	entries, err := os.ReadDir(r.tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		found = append(found, "file "+e.Name())
	}
	names := fmt.Sprintf("kv%d-", r.cmd.Process.Pid)
	entries, err = os.ReadDir("/run/netns")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), names) {
			found = append(found, "namespace "+e.Name())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(mounts), "\n") {
		if strings.Contains(line, r.tmp) || strings.Contains(line, names) {
			found = append(found, "mount "+line)
		}
	}
	return append(found, descendants(t, r.cmd.Process.Pid)...)
}

// descendants are the processes below this one, except the given one. Orphans among them are this process's own
// children, since it is a subreaper (PR_SET_CHILD_SUBREAPER, prctl(2)).
func descendants(t *testing.T, except int) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	type process struct {
		pid, parent int
		name        string
	}
	var all []process
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		var p process
		open, end := bytes.IndexByte(content, '('), bytes.LastIndexByte(content, ')')
		var state string
		if _, err := fmt.Sscan(string(content[:open]), &p.pid); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(string(content[end+1:]), &state, &p.parent); err != nil {
			t.Fatal(err)
		}
		p.name = string(content[open+1 : end])
		all = append(all, p)
	}
	ours := map[int]bool{os.Getpid(): true}
	var found []string
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if ours[p.parent] && !ours[p.pid] {
				ours[p.pid], grown = true, true
				if p.pid != except {
					found = append(found, fmt.Sprintf("process %d %s", p.pid, p.name))
				}
			}
		}
	}
	return found
}

// TestInterrupted ends the demo before its end, in all the ways that people do that.
func TestInterrupted(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: it starts a cluster")
	}
	lab.Need(t, lab.Check(lab.Options{}))
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	group := func(s syscall.Signal) func(*running) error {
		return func(r *running) error { return syscall.Kill(-r.cmd.Process.Pid, s) }
	}
	for _, tc := range []struct {
		name  string
		when  string // is the last that it prints before
		there string // is among its remains by then
		end   func(*running) error
		code  int
		last  string // is among the last that it prints
	}{
		{"nobody reads any more", "A cluster", "", func(r *running) error { return r.reader.Close() }, 141, ""},
		{"SIGTERM while the cluster starts", "Starting etcd", "kube-apiserver", group(syscall.SIGTERM), 143, "Interrupted"},
		{"Ctrl-C while the holder goes", "\n  a) ", "kube-vip", group(syscall.SIGINT), 130, "Removing every process, namespace and file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := launch(t)
			defer func() {
				if t.Failed() {
					t.Logf("it printed:\n%s", r.printed())
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := lab.Wait(ctx, "the demo is where it shall end", func() (bool, error) {
				return strings.Contains(r.printed(), tc.when) && strings.Contains(strings.Join(r.remains(t), "\n"), tc.there), nil
			})
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err := tc.end(r); err != nil {
				t.Fatal(err)
			}
			err = r.cmd.Wait()
			t.Logf("it took %v to end", time.Since(began).Round(time.Millisecond))
			if code := r.cmd.ProcessState.ExitCode(); code != tc.code {
				t.Errorf("exit code %d (%v), want %d", code, err, tc.code)
			}
			if left := r.remains(t); len(left) > 0 {
				t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
			}
			if err := lab.Wait(ctx, "its last words are there", func() (bool, error) { return strings.Contains(r.printed(), tc.last), nil }); err != nil {
				t.Error(err)
			}
		})
	}
}
