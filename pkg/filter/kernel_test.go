package filter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// node is a kernel, simulated or real, on which a Filter runs.
type node interface {
	kernel
	// start runs f there, and returns what ends it and gives its result.
	start(t testing.TB, f *Filter) (stop func() error)
	// meddle has another hand change the ruleset.
	meddle(t testing.TB, m meddling)
}

// meddling is what others do to the ruleset.
type meddling struct {
	name string
	nft  string // on a real node
	fake func(*fakeKernel)
}

var (
	flushRuleset = meddling{"flush ruleset", "flush ruleset", func(k *fakeKernel) { k.table = nil }}
	otherTable   = meddling{"another's table", "add table inet other", func(*fakeKernel) {}}
	leftTable    = meddling{
		"an earlier life's table",
		`table inet kube-vip { set ipv4-vips { type ipv4_addr; elements = { 10.0.0.99 } }
		chain old { type filter hook input priority 0; policy accept; tcp dport 1 drop; }
		}`,
		func(k *fakeKernel) { k.table = &fakeTable{foreign: "chains"} },
	}
)

// meddlings are those that Filter repairs: each leaves the table other than it was.
var meddlings = []meddling{
	flushRuleset,
	{"delete table", "delete table inet kube-vip", func(k *fakeKernel) { k.table = nil }},
	{"delete an address", "delete element inet kube-vip ipv4-vips { 10.0.0.10 }", func(k *fakeKernel) { k.table.drop("ipv4-vips", 0) }},
	{"delete a port", "delete element inet kube-vip ipv4-ports { 10.0.0.10 . tcp . 80 }", func(k *fakeKernel) { k.table.drop("ipv4-ports", 0) }},
	{"add an address", "add element inet kube-vip ipv6-vips { fd00::99 }", func(k *fakeKernel) { k.table.set("ipv6-vips", netip.MustParseAddr("fd00::99").AsSlice()) }},
	{"add a port", "add element inet kube-vip ipv4-ports { 10.0.0.10 . tcp . 22 }", func(k *fakeKernel) {
		k.table.set("ipv4-ports", portKey(netip.MustParseAddr("10.0.0.10"), Port{TCP, 22}))
	}},
	{"flush a set", "flush set inet kube-vip ipv4-vips", func(k *fakeKernel) { k.table.elements["ipv4-vips"] = map[string]bool{} }},
	{"accept everything", "insert rule inet kube-vip prerouting accept", func(k *fakeKernel) { k.table.foreign = "rules" }},
	{"flush a chain", "flush chain inet kube-vip guarded", func(k *fakeKernel) { k.table.foreign = "rules" }},
	{"add a chain", "add chain inet kube-vip mine", func(k *fakeKernel) { k.table.foreign = "chains" }},
	{"add a set", "add set inet kube-vip mine { type ipv4_addr; }", func(k *fakeKernel) { k.table.foreign = "sets" }},
	{"make it dormant", "add table inet kube-vip { flags dormant; }", func(k *fakeKernel) { k.table.foreign = "flags" }},
	{"drop everything", "add chain inet kube-vip prerouting { policy drop; }", func(k *fakeKernel) { k.table.foreign = "chains" }},
}

// onEachNode runs a test on a simulated and on a real node.
func onEachNode(t *testing.T, body func(t *testing.T, n node)) {
	t.Helper()
	t.Run("simulated", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { body(t, newFake()) })
	})
	t.Run("kernel", func(t *testing.T) {
		t.Parallel()
		body(t, newReal(t))
	})
}

// realNode is a network namespace.
type realNode struct {
	*namespace
	kernel nfTables
}

var _ node = realNode{}

func newReal(t testing.TB) realNode {
	return realNode{newNamespace(t), nfTables{newLayout(DefaultTable)}}
}

func (n realNode) generation() (id uint32, err error) {
	n.Do(func() { id, err = n.kernel.generation() })
	return id, err
}

func (n realNode) look(withElements bool) (s sight, err error) {
	n.Do(func() { s, err = n.kernel.look(withElements) })
	return s, err
}

func (n realNode) apply(c change) (err error) {
	n.Do(func() { err = n.kernel.apply(c) })
	return err
}

func (n realNode) meddle(t testing.TB, m meddling) {
	t.Helper()
	n.nft(t, m.nft)
}

func (n realNode) start(t testing.TB, f *Filter) func() error { return runner(t, f, n.Go) }

// runner runs f until the test ends or the returned function is called.
func runner(t testing.TB, f *Filter, spawn func(func())) func() error {
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	spawn(func() { result <- f.Run(ctx) })
	stop := sync.OnceValue(func() error {
		cancel()
		return <-result
	})
	t.Cleanup(func() { stop() })
	return stop
}

// fakeKernel is an nftables that has no table but ours.
type fakeKernel struct {
	layout layout

	mu    sync.Mutex
	gen   uint32
	table *fakeTable
	// failing is what every call fails with, failingApply what apply does.
	failing, failingApply error
	// slow is how long it takes to read the elements.
	slow                time.Duration
	looks, reads, tries int
}

var _ node = (*fakeKernel)(nil)

type fakeTable struct {
	elements map[string]map[string]bool // by set, the keys
	foreign  string                     // what is not as newLayout has it
}

func (t *fakeTable) set(name string, key []byte) { t.elements[name][string(key)] = true }

// drop removes the element that comes at that place in the order of keys.
func (t *fakeTable) drop(name string, place int) {
	delete(t.elements[name], slices.Sorted(maps.Keys(t.elements[name]))[place])
}

func newFake() *fakeKernel { return &fakeKernel{layout: newLayout(DefaultTable), gen: 1} }

func (k *fakeKernel) start(t testing.TB, f *Filter) func() error {
	f.kernel = k
	return runner(t, f, func(run func()) { go run() })
}

func (k *fakeKernel) meddle(t testing.TB, m meddling) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	m.fake(k)
	k.gen++
}

func (k *fakeKernel) fail(any, apply error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failing, k.failingApply = any, apply
}

func (k *fakeKernel) generation() (uint32, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.gen, k.failing
}

func (k *fakeKernel) look(withElements bool) (sight, error) {
	if withElements {
		time.Sleep(k.slow)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.looks++
	switch {
	case k.failing != nil:
		return sight{}, k.failing
	case k.table == nil:
		return sight{absent: true}, nil
	}
	s := sight{sets: k.layout.sets, chains: k.layout.chains, rules: k.layout.rules}
	switch k.table.foreign {
	case "flags":
		s.flags = 1
	case "sets":
		s.sets = append(slices.Clone(s.sets), &nftables.Set{Name: "mine"})
	case "chains":
		s.chains = s.chains[:1]
	case "rules":
		s.rules = s.rules[1:]
	}
	if withElements {
		k.reads++
		s.elements = elements{}
		for name, keys := range k.table.elements {
			for key := range keys {
				s.elements[name] = append(s.elements[name], nftables.SetElement{Key: []byte(key)})
			}
		}
	}
	return s, nil
}

func (k *fakeKernel) apply(c change) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tries++
	if err := errors.Join(k.failing, k.failingApply); err != nil {
		return err
	}
	switch {
	case c.nothing():
		return nil
	case c.remove:
		if k.table == nil {
			return nil
		}
		k.table = nil
	case c.rebuild:
		k.table = &fakeTable{elements: map[string]map[string]bool{}}
		for _, s := range k.layout.sets {
			k.table.elements[s.Name] = map[string]bool{}
		}
	case k.table == nil:
		return fmt.Errorf("write: %w", unix.ENOENT)
	}
	for name, gone := range c.del {
		for _, e := range gone {
			if !k.table.elements[name][string(e.Key)] {
				return fmt.Errorf("delete an element of %s: %w", name, unix.ENOENT)
			}
		}
	}
	for name, gone := range c.del {
		for _, e := range gone {
			delete(k.table.elements[name], string(e.Key))
		}
	}
	for name, more := range c.add {
		for _, e := range more {
			k.table.set(name, e.Key)
		}
	}
	k.gen++
	return nil
}

// mustSee fails unless the kernel has exactly the table for these Rules.
func mustSee(t testing.TB, n kernel, rules []Rule) {
	t.Helper()
	if what := difference(t, n, rules); what != "" {
		t.Fatalf("in the kernel: %s", what)
	}
}

func difference(t testing.TB, n kernel, rules []Rule) string {
	t.Helper()
	want, err := merge(rules)
	if err != nil {
		t.Fatal(err)
	}
	s, err := n.look(true)
	if err != nil {
		return err.Error() // the table was replaced between two questions
	}
	return newLayout(DefaultTable).differs(want, s)
}

func set(t testing.TB, f *Filter, rules []Rule) {
	t.Helper()
	if err := f.Set(rules); err != nil {
		t.Fatal(err)
	}
}

func wait(t testing.TB, f *Filter) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := f.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

// open is a Rule: open("10.0.0.10", "80/tcp", "53/udp").
func open(addr string, ports ...string) Rule {
	r := Rule{Addr: netip.MustParseAddr(addr)}
	for _, p := range ports {
		var one Port
		var name string
		if _, err := fmt.Sscanf(strings.Replace(p, "/", " ", 1), "%d %s", &one.Number, &name); err != nil {
			panic(err)
		}
		for _, known := range []Protocol{TCP, UDP, SCTP} {
			if known.String() == name {
				one.Protocol = known
			}
		}
		r.Ports = append(r.Ports, one)
	}
	return r
}

// some are Rules of both families.
func some() []Rule {
	return []Rule{open("10.0.0.10", "80/tcp", "443/tcp", "53/udp"), open("fd00::10", "80/tcp", "5000/sctp"), open("10.0.0.11")}
}

// journal keeps log lines.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, string(b))
	return len(b), nil
}

// count is the number of lines with all of these parts.
func (j *journal) count(parts ...string) (count int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, line := range j.lines {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			count++
		}
	}
	return count
}
