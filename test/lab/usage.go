package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process uses.
type Usage struct {
	// CPU is the processor time it has used since it started, of its user and system halves.
	CPU time.Duration
	// RSS is its resident memory in bytes, PeakRSS the most it ever had.
	RSS, PeakRSS int64
	// Threads is their number.
	Threads int
}

// clockTick is the unit of times in /proc/PID/stat: USER_HZ, which is 100 on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// UsageOf reads the usage of a process of this machine.
func UsageOf(pid int) (Usage, error) {
	var u Usage
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	// The name, in parentheses, may have spaces (proc_pid_stat(5)): fields are counted behind it, from the third.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const utime, stime = 14 - 3, 15 - 3
	if len(fields) <= stime {
		return u, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields))
	}
	for _, i := range []int{utime, stime} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return u, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
		}
		u.CPU += time.Duration(n) * clockTick
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSuffix(strings.TrimSpace(value), " kB")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			continue
		}
		switch key {
		case "VmRSS":
			u.RSS = n << 10
		case "VmHWM":
			u.PeakRSS = n << 10
		case "Threads":
			u.Threads = int(n)
		}
	}
	return u, nil
}

// Usage is that of the container's process.
func (p *Pod) Usage() (Usage, error) {
	pid := p.Pid()
	if pid == 0 {
		return Usage{}, fmt.Errorf("read the usage of %s: it does not run", p.Name)
	}
	return UsageOf(pid)
}

// CPU is the share of one core that the container uses over a time. /proc counts in steps of 10 ms, so over 10 s
// it is right to a thousandth.
func (p *Pod) CPU(ctx context.Context, over time.Duration) (float64, error) {
	before, err := p.Usage()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	timer := time.NewTimer(over)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, err := p.Usage()
	if err != nil {
		return 0, err
	}
	return float64(after.CPU-before.CPU) / float64(time.Since(begin)), nil
}

// Get asks for a page from inside the node, so that what listens on its loopback can be read. It wants status 200.
func (p *Pod) Get(ctx context.Context, url string) ([]byte, error) {
	return p.Node.fetch(ctx, url, nil)
}

// Metrics reads a Prometheus page from inside the node: each sample by its name with its labels, as it is printed.
func (p *Pod) Metrics(ctx context.Context, url string) (map[string]float64, error) {
	return p.Node.metrics(ctx, url)
}

func (h *Host) metrics(ctx context.Context, url string) (map[string]float64, error) {
	page, err := h.fetch(ctx, url, nil)
	if err != nil {
		return nil, err
	}
	samples := map[string]float64{}
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(line)
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		value, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("read %s: %q: %w", url, line, err)
		}
		samples[line[:i]] = value
	}
	return samples, nil
}

// Goroutines is go_goroutines of a Prometheus page.
func (p *Pod) Goroutines(ctx context.Context, url string) (int, error) {
	samples, err := p.Metrics(ctx, url)
	if err != nil {
		return 0, err
	}
	n, ok := samples["go_goroutines"]
	if !ok {
		return 0, fmt.Errorf("read %s: it has no go_goroutines", url)
	}
	return int(n), nil
}
