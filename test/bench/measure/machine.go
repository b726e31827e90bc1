package measure

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kube-vip.io/kube-vip/test/lab"
)

// A Machine says what was measured, and on what.
type Machine struct {
	Cores      int
	Memory     int64
	Kernel     string
	Golang     string // that built the program
	Version    string // of the program
	Size       int64  // of the program
	Kubernetes string
}

// Describe looks at the machine, the program and the lab's cluster.
func Describe(ctx context.Context, l *lab.Lab, binary string) (Machine, error) {
	m := Machine{Cores: runtime.NumCPU()}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return m, err
	}
	m.Kernel = unix.ByteSliceToString(name.Release[:])
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return m, err
	}
	m.Memory = int64(info.Totalram) * int64(info.Unit)
	built, err := buildinfo.ReadFile(binary)
	if err != nil {
		return m, err
	}
	m.Golang = built.GoVersion
	st, err := os.Stat(binary)
	if err != nil {
		return m, err
	}
	m.Size = st.Size()
	out, err := exec.CommandContext(ctx, binary, "version", "-o", "json").Output()
	if err != nil {
		return m, fmt.Errorf("kube-vip version: %w", err)
	}
	var v struct{ Version string }
	if err := json.Unmarshal(out, &v); err != nil {
		return m, fmt.Errorf("kube-vip version: %w", err)
	}
	m.Version = v.Version
	client, err := l.Kube()
	if err != nil {
		return m, err
	}
	server, err := client.Discovery().ServerVersion()
	if err != nil {
		return m, err
	}
	m.Kubernetes = server.GitVersion
	return m, nil
}

// String is what the page says of the machine.
func (m Machine) String() string {
	return fmt.Sprintf("%d cores, %.0f GiB of memory, Linux %s", m.Cores, float64(m.Memory)/(1<<30), m.Kernel)
}

// Copy puts the program into a folder: whatever is built meanwhile, all samples are of one binary.
func Copy(binary, dir string) (string, error) {
	content, err := os.ReadFile(binary)
	if err != nil {
		return "", fmt.Errorf("read the program to measure: %w; run `make build`", err)
	}
	path := dir + "/kube-vip"
	return path, os.WriteFile(path, content, 0o755)
}

// Generate is what the program prints when it is run with these arguments.
func Generate(ctx context.Context, binary string, args ...string) ([]byte, error) {
	var problems bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("generate with %v: %w: %s", args, err, &problems)
	}
	return out, nil
}

const (
	// calmShare is the share of the machine that may be busy when it is calm, over calmSpan, and calmTime how long that
	// is waited for.
	calmShare = 0.5
	calmSpan  = 500 * time.Millisecond
	calmTime  = 15 * time.Second
)

// Calm waits until the machine has little to do, for a while: an API server that starts takes all there is.
func Calm(ctx context.Context) error {
	deadline := time.Now().Add(calmTime)
	for {
		before, err := readProcessors()
		if err != nil {
			return err
		}
		if err := Sleep(ctx, calmSpan); err != nil {
			return err
		}
		after, err := readProcessors()
		if err != nil {
			return err
		}
		if after.busySince(before) <= calmShare || time.Now().After(deadline) {
			return nil
		}
	}
}

// processors is a sum over all of them, in ticks.
type processors struct{ busy, all uint64 }

func (p processors) busySince(before processors) float64 {
	if p.all == before.all {
		return 0
	}
	return float64(p.busy-before.busy) / float64(p.all-before.all)
}

func readProcessors() (processors, error) {
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return processors{}, err
	}
	return parseProcessors(string(content))
}

// parseProcessors reads the first line of /proc/stat (proc_stat(5)): user, nice, system, idle, iowait, irq, …
func parseProcessors(stat string) (processors, error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[0] != "cpu" {
		return processors{}, fmt.Errorf("read /proc/stat: %q", line)
	}
	var p processors
	for i, f := range fields[1:] {
		v, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return processors{}, fmt.Errorf("read /proc/stat: %w", err)
		}
		if i >= 8 {
			break // guests are counted in user
		}
		p.all += v
		if i != 3 && i != 4 {
			p.busy += v
		}
	}
	return p, nil
}

// Sleep lets time pass.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// glance is how often a condition is looked at: seldom, for something else times the events.
const glance = 50 * time.Millisecond

// Wait is lab.Wait at a pace that takes little from what is measured.
func Wait(ctx context.Context, what string, cond func() (bool, error)) error {
	for {
		ok, err := cond()
		if err != nil || ok {
			return err
		}
		if err := Sleep(ctx, glance); err != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
	}
}
