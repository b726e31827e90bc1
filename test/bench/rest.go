package main

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kube-vip.io/kube-vip/test/lab"
)

// The Leases of the generated manifest: the lock, and one per member.
const (
	lockNamespace = "kube-system"
	lockName      = "plndr-cp-lock"
	memberPrefix  = "kubevip-member-"
)

// background is for how long the API servers' own requests are counted.
const background = 30 * time.Second

// usage is what an instance used at rest.
type usage struct {
	node   string
	cpu    float64 // share of a core
	rss    int64
	holder bool
}

// measureRest measures what has nothing to do with failures, before keepalived is there, and leaves every contender
// running.
func (b *bench) measureRest(ctx context.Context, r *report) error {
	if err := b.calm(ctx); err != nil {
		return err
	}
	b.log.Info("counting the API servers' own requests", "for", background)
	own, err := b.requests(ctx, func() error { return sleep(ctx, background) })
	if err != nil {
		return err
	}
	for i := range b.config.n {
		first, err := b.start(ctx)
		if err != nil {
			return err
		}
		b.log.Info("start", "of", fmt.Sprintf("%d/%d", i+1, b.config.n), "first VIP after", span(first.vip), "announced after another", span(first.announced))
		r.starts = append(r.starts, first.vip)
		r.announced = append(r.announced, first.announced)
		if i == b.config.n-1 {
			break // the last ones stay
		}
		for _, n := range b.Nodes {
			if err := b.ours.stop(n); err != nil {
				return err
			}
		}
	}
	if err := b.ready(ctx, b.ours); err != nil {
		return err
	}
	if err := b.calm(ctx); err != nil {
		return err
	}
	b.log.Info("watching the cluster at rest", "for", b.config.rest)
	all, err := b.requests(ctx, func() (err error) {
		r.usage, err = b.idle(ctx)
		return err
	})
	if err != nil {
		return err
	}
	r.requests = rates(all, b.config.rest, own, background)
	for _, c := range b.contenders[1:] {
		for _, n := range b.Nodes {
			if err := c.start(n); err != nil {
				return err
			}
		}
	}
	return nil
}

type firstVIP struct{ vip, announced time.Duration }

// start starts the three instances in a cluster that has never had any, and waits for the first address.
func (b *bench) start(ctx context.Context) (firstVIP, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := b.WaitNobody(ctx, b.ours.vip()); err != nil {
		return firstVIP{}, err
	}
	if err := b.forget(ctx); err != nil {
		return firstVIP{}, err
	}
	if err := sleep(ctx, tail+rand.N(phase)); err != nil {
		return firstVIP{}, err
	}
	capture, err := b.Gateway.Capture(b.Gateway.Link)
	if err != nil {
		return firstVIP{}, err
	}
	defer discard(capture)
	began := time.Now()
	for _, n := range b.Nodes {
		if err := b.ours.start(n); err != nil {
			return firstVIP{}, err
		}
	}
	holder, err := b.holder(ctx, b.ours)
	if err != nil {
		return firstVIP{}, err
	}
	_, err = capture.Wait(ctx, "the announcement", func(f lab.Frame) bool { return f.Announces(b.ours.vip()) })
	if err != nil {
		return firstVIP{}, err
	}
	announced, ok := b.announcement(capture.Frames(), nil, began)
	at, seen := appeared(b.kernels[holder].Events(), b.ours.vip(), began)
	if !ok || !seen {
		return firstVIP{}, fmt.Errorf("%s has %s and its kernel did not say so", holder, b.ours.vip())
	}
	return firstVIP{vip: at.Sub(began), announced: announced}, nil
}

// forget deletes every Lease of instances that were there before.
func (b *bench) forget(ctx context.Context) error {
	client, err := b.Kube()
	if err != nil {
		return err
	}
	leases := client.CoordinationV1().Leases(lockNamespace)
	list, err := leases.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list the Leases of %s: %w", lockNamespace, err)
	}
	for _, lease := range list.Items {
		if lease.Name != lockName && !strings.HasPrefix(lease.Name, memberPrefix) {
			continue // an API server's own
		}
		if err := leases.Delete(ctx, lease.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete the Lease %s: %w", lease.Name, err)
		}
	}
	return nil
}

// idle is what each instance uses.
func (b *bench) idle(ctx context.Context) ([]usage, error) {
	holder, err := b.holder(ctx, b.ours)
	if err != nil {
		return nil, err
	}
	before := map[*lab.Node]lab.Usage{}
	began := time.Now()
	for n, pod := range b.ours.pods {
		if before[n], err = pod.Usage(); err != nil {
			return nil, err
		}
	}
	if err := sleep(ctx, b.config.rest); err != nil {
		return nil, err
	}
	var all []usage
	for _, n := range b.Nodes {
		after, err := b.ours.pods[n].Usage()
		if err != nil {
			return nil, err
		}
		share := float64(after.CPU-before[n].CPU) / float64(time.Since(began))
		all = append(all, usage{node: n.Name, cpu: share, rss: after.PeakRSS, holder: n == holder})
		b.log.Info("at rest", "node", n.Name, "holder", n == holder, "cpu", percent(share), "rss", megabytes(after.RSS), "peak rss", megabytes(after.PeakRSS))
	}
	return all, nil
}

// requestTotal is a sample of the API servers' counter of requests.
var requestTotal = regexp.MustCompile(`^apiserver_request_total\{(.*)\} (\S+)$`)

// requests counts, by verb and resource, what all API servers are asked while do works.
func (b *bench) requests(ctx context.Context, do func() error) (map[string]float64, error) {
	before, err := b.counters(ctx)
	if err != nil {
		return nil, err
	}
	if err := do(); err != nil {
		return nil, err
	}
	after, err := b.counters(ctx)
	if err != nil {
		return nil, err
	}
	for key := range after {
		after[key] -= before[key]
	}
	return after, nil
}

func (b *bench) counters(ctx context.Context) (map[string]float64, error) {
	sum := map[string]float64{}
	for _, n := range b.Nodes {
		client, err := n.Kube()
		if err != nil {
			return nil, err
		}
		page, err := client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the metrics of %s's API server: %w", n, err)
		}
		if err := addRequests(sum, string(page)); err != nil {
			return nil, fmt.Errorf("read the metrics of %s's API server: %w", n, err)
		}
	}
	return sum, nil
}

// addRequests adds the requests that a page of metrics counts, by verb and resource: "PUT leases", or "GET " and
// nothing for what is no resource, as health checks are.
func addRequests(sum map[string]float64, page string) error {
	for line := range strings.Lines(page) {
		m := requestTotal.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		labels := map[string]string{}
		for pair := range strings.SplitSeq(m[1], ",") {
			key, value, _ := strings.Cut(pair, "=")
			labels[key] = strings.Trim(value, `"`)
		}
		v, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		sum[labels["verb"]+" "+labels["resource"]] += v
	}
	return nil
}

// A rate is how often all instances together make a kind of request.
type rate struct {
	what      string
	perSecond float64
}

// noticeable is the least rate that is told.
const noticeable = 0.02

// rates are the differences between what was asked in two spans.
func rates(all map[string]float64, over time.Duration, own map[string]float64, ownOver time.Duration) []rate {
	var rs []rate
	for _, key := range slices.Sorted(maps.Keys(all)) {
		per := all[key]/over.Seconds() - own[key]/ownOver.Seconds()
		if per < noticeable {
			continue
		}
		if strings.HasSuffix(key, " ") {
			key += "health"
		}
		rs = append(rs, rate{what: key, perSecond: per})
	}
	return rs
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

// machine says what was measured, and on what.
type machine struct {
	cores      int
	memory     int64
	kernel     string
	golang     string // of the program
	version    string
	size       int64
	kubernetes string
	keepalived string
}

func (b *bench) describe(ctx context.Context) (machine, error) {
	m := machine{cores: runtime.NumCPU()}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return m, err
	}
	m.kernel = unix.ByteSliceToString(name.Release[:])
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return m, err
	}
	m.memory = int64(info.Totalram) * int64(info.Unit)
	built, err := buildinfo.ReadFile(b.ours.binary)
	if err != nil {
		return m, err
	}
	m.golang = built.GoVersion
	st, err := os.Stat(b.ours.binary)
	if err != nil {
		return m, err
	}
	m.size = st.Size()
	out, err := exec.CommandContext(ctx, b.ours.binary, "version", "-o", "json").Output()
	if err != nil {
		return m, fmt.Errorf("kube-vip version: %w", err)
	}
	var v struct{ Version string }
	if err := json.Unmarshal(out, &v); err != nil {
		return m, fmt.Errorf("kube-vip version: %w", err)
	}
	m.version = v.Version
	client, err := b.Kube()
	if err != nil {
		return m, err
	}
	server, err := client.Discovery().ServerVersion()
	if err != nil {
		return m, err
	}
	m.kubernetes = server.GitVersion
	tool, err := lab.Tool("keepalived")
	if err != nil {
		return m, err
	}
	text, err := exec.CommandContext(ctx, tool, "--version").CombinedOutput()
	if err != nil {
		return m, fmt.Errorf("keepalived --version: %w", err)
	}
	if found := regexp.MustCompile(`Keepalived v(\S+)`).FindSubmatch(text); found != nil {
		m.keepalived = string(found[1])
	}
	return m, nil
}
