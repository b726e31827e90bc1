package main

import (
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kube-vip.io/kube-vip/test/bench/measure"
	"kube-vip.io/kube-vip/test/lab"
)

func TestParse(t *testing.T) {
	t.Setenv(lab.BinaryEnv, "")
	with := func(change func(*config)) config {
		c := byDefault
		c.binary, c.out = "bin/kube-vip", "docs/benchmarks.md"
		change(&c)
		return c
	}
	for _, tc := range []struct {
		args    string
		want    config
		command string
	}{
		{"", with(func(*config) {}), "make bench-bgp"},
		{"-n 500 -rest 1m", with(func(c *config) { c.n, c.rest = 500, time.Minute }), "make bench-bgp BENCHFLAGS='-n 500 -rest 1m0s'"},
		{"-quick", with(func(c *config) {
			c.quick, c.n, c.samples, c.more, c.rest, c.out = true, trial.n, trial.samples, trial.more, trial.rest, ""
		}), "make bench-bgp BENCHFLAGS='-quick'"},
		{"-quick -n 7 -o x/y", with(func(c *config) {
			c.quick, c.n, c.samples, c.more, c.rest, c.out = true, 7, trial.samples, trial.more, trial.rest, "x/y"
		}), "make bench-bgp BENCHFLAGS='-quick -n 7'"},
		{"-part nodes -o x/y", with(func(c *config) { c.parts, c.out = []string{nodesPart}, "" }), "make bench-bgp BENCHFLAGS='-part nodes'"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			got, err := parse(strings.Fields(tc.args), io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(config{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := got.command(); got != tc.command {
				t.Errorf("it says %q, want %q", got, tc.command)
			}
		})
	}
	for _, bad := range []string{"-n 0", "-n 20000", "-samples 0", "-more 0", "-part all", "-rest x"} {
		if _, err := parse(strings.Fields(bad), io.Discard); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// TestRows: every key has one row, with a bound that is held against something.
func TestRows(t *testing.T) {
	seen := map[string]bool{}
	for _, of := range append(nodeRows(), addressRows()...) {
		if seen[of.key] || of.what == "" || of.most > 0 && of.bound == "" {
			t.Errorf("row %q is there twice, or lacks something", of.key)
		}
		seen[of.key] = true
	}
}

func TestTable(t *testing.T) {
	const ms = time.Millisecond
	r := &report{log: slog.New(slog.DiscardHandler), figures: map[string]map[lab.RouterKind]figure{}}
	r.spans(apiKilled, lab.FRR, []time.Duration{300 * ms, 500 * ms})
	r.spans(apiKilled, lab.BIRD, []time.Duration{200 * ms, 300 * ms})
	r.spans(bfdVanish, lab.FRR, []time.Duration{200 * ms, 251 * ms})
	r.spans(bfdVanish, lab.BIRD, []time.Duration{130 * ms})
	r.set(bfdFlaps, lab.FRR, 0, "none")
	r.set(bfdFlaps, lab.BIRD, 1, "one")
	r.median(oneHeard, lab.FRR, []time.Duration{20 * ms, 30 * ms, 90 * ms})
	r.median(oneMore, lab.FRR, []time.Duration{90 * ms})
	r.median(oneMore, lab.BIRD, []time.Duration{40 * ms})
	line := func(key string) []string {
		rows := append(nodeRows(), addressRows()...)
		for i, of := range rows {
			if of.key == key {
				return r.table(rows)[i+1][1:5]
			}
		}
		t.Fatalf("no row %q", key)
		return nil
	}
	for key, want := range map[string][]string{
		apiKilled:  {"≤ 500 ms", "met", "400 ms / 500 ms", "250 ms / 300 ms"},
		bfdVanish:  {"≤ 250 ms", "**missed**", "226 ms / 251 ms", "130 ms"},
		bfdFlaps:   {"0", "**missed**", "none", "one"},
		oneHeard:   {"≤ 50 ms", "met", "30 ms / 90 ms", measure.Unknown},
		oneMore:    {"BIRD: ≤ 50 ms", "met", "90 ms / 90 ms", "40 ms / 40 ms"},
		holdVanish: {"≤ 9.25 s", "", measure.Unknown, measure.Unknown},
	} {
		if diff := cmp.Diff(want, line(key)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
	}
	want := []string{
		"a node vanishes, BFD 50 ms × 3 → the router does not send to it: FRR 226 ms / 251 ms, BIRD 130 ms (bound: ≤ 250 ms)",
		"sessions with nodes that are there, ended by BFD: FRR none, BIRD one (bound: 0)",
	}
	if diff := cmp.Diff(want, r.missed()); diff != "" {
		t.Errorf("missed (-want +got):\n%s", diff)
	}
}

// TestRoutes counts routes as the kernel tells of them: of Services alone, and each once.
func TestRoutes(t *testing.T) {
	w := &routes{has: map[netip.Addr]struct{}{}, at: map[netip.Addr]time.Time{}}
	hop := []netip.Addr{netip.MustParseAddr("10.10.0.12")}
	_, a := measure.Number(1)
	began := time.Now()
	for i, step := range []struct {
		prefix  string
		hops    []netip.Addr
		n       int
		changed bool
	}{
		{"10.10.64.2/32", hop, 1, true},
		{"10.10.64.2/32", hop, 1, false}, // replaced
		{"10.10.64.3/32", hop, 2, true},
		{"10.10.64.0/24", hop, 2, false},
		{"10.99.0.10/32", hop, 2, false},
		{"10.10.64.2/32", nil, 1, true},
		{"10.10.64.2/32", nil, 1, false},
	} {
		at := began.Add(time.Duration(i) * time.Second)
		w.note(lab.RouteEvent{Time: at, Prefix: netip.MustParsePrefix(step.prefix), NextHops: step.hops})
		if len(w.has) != step.n || w.changed.Equal(at) != step.changed {
			t.Errorf("after step %d there are %d routes since %s", i, len(w.has), w.changed.Sub(began))
		}
	}
	if got := w.at[a].Sub(began); got != 5*time.Second {
		t.Errorf("%s changed at %s", a, got)
	}
}

func TestReceived(t *testing.T) {
	for line, want := range map[string]string{
		"2026/11/27 00:29:49.123456 BGP: [PCFFM-WMARW] 10.10.0.12(w1) rcvd 10.10.64.1/32 IPv4 unicast": "10.10.64.1/32",
		"2026/11/27 00:29:49.123456 BGP: [X] 10.10.0.12(w1) rcvd UPDATE w/ attr: nexthop 10.10.0.12":   "",
	} {
		m := received.FindStringSubmatch(line)
		if (m != nil) != (want != "") || m != nil && m[2] != want {
			t.Errorf("%q: got %q", line, m)
		}
	}
}
