package main

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/test/bench/measure"
	"kube-vip.io/kube-vip/test/lab"
)

func TestParse(t *testing.T) {
	t.Setenv(lab.BinaryEnv, "")
	all := byDefault
	all.binary, all.out = "bin/kube-vip", "docs/benchmarks.md"
	with := func(change func(*config)) config { c := all; change(&c); return c }
	quick := func(c *config) {
		c.quick, c.numbers, c.samples, c.rest, c.soak, c.out = true, trial.numbers, trial.samples, trial.rest, trial.soak, ""
	}
	for _, tc := range []struct {
		args    []string
		want    config
		command string // that brings it about again
	}{
		{nil, all, "make bench-services"},
		{[]string{"-n", "500, 20,500"}, with(func(c *config) { c.numbers = []int{20, 500} }), "make bench-services BENCHFLAGS='-n 20,500'"},
		{[]string{"-quick"}, with(quick), "make bench-services BENCHFLAGS='-quick'"},
		{[]string{"-quick", "-n", "100", "-rest", "1s", "-o", "x/y.md"}, with(func(c *config) { quick(c); c.numbers, c.rest, c.out = []int{100}, time.Second, "x/y.md" }),
			"make bench-services BENCHFLAGS='-quick -n 100 -rest 1s'"},
		{[]string{"-placement", "lease", "-soak", "1h", "-samples", "100"}, with(func(c *config) { c.placements, c.soak, c.samples = []string{"lease"}, time.Hour, 100 }),
			"make bench-services BENCHFLAGS='-samples 100 -soak 1h0m0s -placement lease'"},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			got, err := parse(tc.args, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(config{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := got.command(); got != tc.command {
				t.Errorf("command: got %q, want %q", got, tc.command)
			}
		})
	}
	for _, bad := range [][]string{{"-n", "0"}, {"-n", "x"}, {"-n", "20000"}, {"-samples", "0"}, {"-placement", "both"}} {
		if _, err := parse(bad, io.Discard); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}

// TestTold walks a Service through its life.
func TestTold(t *testing.T) {
	at := func(second int) time.Time { return time.Unix(int64(second), 0) }
	announced := func(host string) *corev1.Service {
		s := measure.Service(7)
		s.Annotations[svc.HostAnnotation] = host
		_, addr := measure.Number(7)
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: addr.String()}}
		s.Status.Conditions = []metav1.Condition{{Type: svc.ConditionAnnounced, Status: metav1.ConditionTrue}}
		return s
	}
	change := func(s *corev1.Service, do func(*corev1.Service)) *corev1.Service { do(s); return s }
	steps := []struct {
		name string
		s    *corev1.Service
		want told
	}{
		{"new", measure.Service(7), told{seen: at(0)}},
		{"no host", change(announced(""), func(*corev1.Service) {}), told{seen: at(0)}},
		{"another address", change(announced("w1"), func(s *corev1.Service) { s.Status.LoadBalancer.Ingress[0].IP = "10.10.0.1" }), told{seen: at(0)}},
		{"no condition", change(announced("w1"), func(s *corev1.Service) { s.Status.Conditions = nil }), told{seen: at(0)}},
		{"announced", announced("w1"), told{seen: at(0), since: at(4), host: "w1"}},
		{"again", announced("w1"), told{seen: at(0), since: at(4), host: "w1"}},
		{"moved", announced("w2"), told{seen: at(0), since: at(6), host: "w2", moves: 1}},
		{"withdrawn", measure.Service(7), told{seen: at(0), host: "w2", moves: 1}},
		{"back", announced("w2"), told{seen: at(0), since: at(8), host: "w2", moves: 1}},
	}
	var got told
	for i, step := range steps {
		got = got.and(step.s, at(i))
		if diff := cmp.Diff(step.want, got, cmp.AllowUnexported(told{})); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", step.name, diff)
		}
	}
}

// sample is a report as it could be.
func sample() *report {
	small := &result{n: 100, figures: map[string]figure{}}
	big := &result{n: 1000, figures: map[string]figure{}, rates: []measure.Rate{{What: "PUT leases", PerSecond: 1.3}}}
	for i, row := range rows() {
		small.figures[row.key] = figure{value: 0.001 * float64(i+1)}
		big.figures[row.key] = figure{value: 0.001}
	}
	big.figures[startStatus] = figure{value: 5.5}
	big.figures[requests] = figure{value: 2}
	big.figures[holderPeak] = figure{value: 80e6 + 1}
	big.figures[churnGoroutines] = figure{value: 6, text: "100 → 106"}
	return &report{
		config: byDefault, began: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		leader: []*result{small, big, {n: 10000, figures: map[string]figure{created: {value: 40}}, err: errors.New("start: wait until tea is ready: it is late")}},
		lease: []leaseResult{
			{scenario: scenario{services: 100, timing: fast, bounds: leaseBounds{puts: 100}, past: leasePast{gets: "126/s"}},
				status: time.Second, gets: 0.5, puts: 101.2, rates: []measure.Rate{{What: "GET leases", PerSecond: 0.5}}, spread: []int{33, 33, 34}},
			{scenario: scenario{services: 300, timing: slow, bounds: leaseBounds{status: 10 * time.Second, moved: 18 * time.Second, spread: 1.25, untouchd: true}},
				status: 9 * time.Second, spread: []int{126, 90, 84}, moved: 19 * time.Second, soaked: &soaked{over: time.Minute, moves: 1}},
			{scenario: scenario{services: 1000, timing: fast, crowded: true}, outcome: "runs", steady: true, spread: []int{1, 2, 3}},
		},
	}
}

func TestMissed(t *testing.T) {
	want := []string{
		"1 000 Services: start of three instances → every status written: 5.50 s (bound: ≤ 5.00 s)",
		"1 000 Services: memory of the holder, the most it ever had (RSS): 80.0 MB (bound: ≤ 80.0 MB)",
		"1 000 Services: goroutines before and after 1 000 Services more came and went: 100 → 106 (bound: ≤ 5)",
		"a Lease for each of 100, 5/3/1 s: GET at rest, all three instances: 0.50/s (bound: none more than with one Lease, 0.30/s)",
		"a Lease for each of 300, 15/10/2 s: addresses per node: 126, 90, 84 (bound: ≤ 1.25 × the mean)",
		"a Lease for each of 300, 15/10/2 s: a holder vanishes → its addresses on other nodes: 19.00 s (bound: ≤ 18.00 s)",
		"a Lease for each of 300, 15/10/2 s: moves and throttling in 1m0s: 1 moved, 0 withdrawn, 0 lines about throttling (bound: none)",
		"not measured: 10 000 Services: start: wait until tea is ready: it is late",
	}
	r := sample()
	if diff := cmp.Diff(want, r.missed()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, placement := range byDefault.placements {
		r.config.placements = []string{placement}
		page := r.markdown()
		for _, name := range want {
			if at := strings.Index(page, "\n- "+name+"\n"); at < 0 || at > strings.Index(page, "###") {
				t.Errorf("the page does not begin with %q", name)
			}
		}
	}
	r.leader, r.lease = r.leader[:1], r.lease[2:]
	for _, placement := range byDefault.placements {
		r.config.placements = []string{placement}
		if page := r.markdown(); !strings.Contains(page, "Every bound was met") || len(r.missed()) > 0 {
			t.Errorf("nothing was missed, and the page says:\n%s", page)
		}
	}
}

func TestCells(t *testing.T) {
	r := sample()
	find := func(table measure.Table, what string, column int) []string {
		i := slices.IndexFunc(table, func(line []string) bool { return line[column] == what })
		if i < 0 {
			t.Fatalf("there is no row %q in\n%s", what, table)
		}
		return table[i]
	}
	for _, want := range [][]string{
		{"Services", "bound", "100", "1 000", "10 000", past},
		{"creating the Services and their EndpointSlices, without us", "–", "1.0 ms", "1.0 ms", "40.00 s", "–"},
		{"start of three instances → every status written", "1 000: ≤ 5.00 s; 10 000: ≤ 60.00 s", "3.0 ms", "5.50 s **missed**", "–", "30.7 s"},
		{"API requests at rest, all three instances", "≤ 2.00/s", "0.02/s", "2.00/s", "–", "–"},
		{"goroutines before and after 1 000 Services more came and went", "≤ 5 more", "0", "100 → 106 **missed**", "–", "–"},
		{"of these requests, PUT leases", "–", "–", "1.30/s", "–", "–"},
	} {
		if diff := cmp.Diff(want, find(r.leaderTable(), want[0], 0)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	for _, want := range [][]string{
		{"100, 5/3/1 s", "GET at rest, all three instances", "none more than with one Lease, 0.30/s", "**missed**", "0.50/s", "126/s"},
		{"100, 5/3/1 s", "PUT at rest, all three instances", "≤ 100.00/s more than with one Lease, 1.30/s", "met", "101.20/s", "–"},
		{"100, 5/3/1 s", "addresses per node", "–", "", "33, 33, 34", "–"},
		{"1 000, 5/3/1 s", "in the first 2m0s", "what is held stays; none moves", "met", "runs", "–"},
	} {
		if diff := cmp.Diff(want, find(r.leaseTable(), want[1], 1)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	for _, table := range []measure.Table{r.leaderTable(), r.leaseTable()} {
		for _, line := range table {
			if len(line) != len(table[0]) {
				t.Errorf("%d cells, the header has %d: %q", len(line), len(table[0]), line)
			}
		}
	}
}

// TestRows: every key has one row, and a name.
func TestRows(t *testing.T) {
	keys := map[string]bool{}
	for _, r := range rows() {
		if keys[r.key] || r.what == "" || r.show == nil {
			t.Errorf("row %q is there twice, or lacks something", r.key)
		}
		keys[r.key] = true
	}
}

func TestGrown(t *testing.T) {
	a, b := &lab.Node{}, &lab.Node{}
	r := &result{n: 1000, figures: map[string]figure{}}
	before := map[*lab.Node]process{a: {100, 10e6, 50e6}, b: {90, 11e6, 50e6}}
	if !r.grown(before, map[*lab.Node]process{a: {101, 9e6, 50e6}, b: {95, 12e6, 40e6}}) {
		t.Errorf("%v counts as growth", r.figures)
	}
	want := map[string]figure{churnGoroutines: {5, "90 → 95"}, churnHeap: {1e6, "11.0 MB → 12.0 MB"}, churnRSS: {0, "50.0 MB → 50.0 MB"}}
	if diff := cmp.Diff(want, r.figures, cmp.AllowUnexported(figure{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if r.grown(before, map[*lab.Node]process{a: {100, 16e6, 50e6}, b: {90, 11e6, 50e6}}) {
		t.Errorf("%v does not count as growth", r.figures)
	}
}

func TestEven(t *testing.T) {
	for _, tc := range []struct {
		counts []int
		want   bool
	}{
		{[]int{100, 100, 100}, true},
		{[]int{125, 95, 80}, true},
		{[]int{126, 94, 80}, false},
		{[]int{111, 111, 78}, false},
		{[]int{0, 0, 0}, true},
	} {
		if got := even(tc.counts, 1.25); got != tc.want {
			t.Errorf("%v: got %t", tc.counts, got)
		}
	}
}

func TestMessage(t *testing.T) {
	for in, want := range map[string]string{
		`w1: time=x level=ERROR msg="no more Leases" leases=300`: "no more Leases",
		"panic: tea": "panic: tea",
	} {
		if got := message(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestScale(t *testing.T) {
	s := newScale([]float64{0.003, 40, 0}, 100)
	if s.low != -3 || s.high != 2 {
		t.Errorf("the axis goes from 10^%d to 10^%d, want -3 to 2", s.low, s.high)
	}
	if diff := cmp.Diff([]float64{0.001, 0.01, 0.1, 1, 10, 100}, s.decades()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for v, want := range map[float64]float64{0.001: 0, 0.1: 40, 100: 100, 0: 0, 1000: 100} {
		if got := s.at(v); got < want-1e-6 || got > want+1e-6 {
			t.Errorf("%v is at %v, want %v", v, got, want)
		}
	}
	for _, values := range [][]float64{nil, {0}, {10}, {1000, 1000}} {
		if s := newScale(values, 100); s.low >= s.high {
			t.Errorf("%v: the axis goes from 10^%d to 10^%d", values, s.low, s.high)
		}
	}
}

// TestPicture: well-formed, with a mark for each figure and what is said about it, and nothing outside.
func TestPicture(t *testing.T) {
	picture := sample().picture()
	d := xml.NewDecoder(strings.NewReader(picture))
	var texts []string
	circles, diamonds := 0, 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, picture)
		}
		switch token := token.(type) {
		case xml.StartElement:
			switch token.Name.Local {
			case "circle":
				circles++
			case "path":
				diamonds++
			}
			for _, a := range token.Attr {
				if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
					t.Errorf("%s %s is %s", token.Name.Local, a.Name.Local, a.Value)
				}
			}
		case xml.CharData:
			texts = append(texts, string(token))
		}
	}
	// Two numbers of Services were measured: two for each of 8 lines and one in its legend.
	if circles != 8*3 {
		t.Errorf("%d circles, want %d", circles, 8*3)
	}
	// Start, vanish, one more, CPU and memory have a past, and three panels explain it.
	if diamonds != 5+3 {
		t.Errorf("%d diamonds, want %d", diamonds, 5+3)
	}
	for _, want := range []string{"Time (s)", "CPU at rest (% of a core)", "Memory at rest (MB)", "Services", "start → every status", "holder", "kube-vip 1.2.3, measured earlier", "1 000"} {
		if !slices.Contains(texts, want) {
			t.Errorf("nothing says %q", want)
		}
	}
	if !strings.Contains(picture, "prefers-color-scheme: dark") {
		t.Error("there is no dark half")
	}
	if empty := draw([]panel{{title: "x", lines: []line{{label: "y"}}}}); strings.Contains(empty, "NaN") {
		t.Errorf("a diagram of nothing is\n%s", empty)
	}
}
