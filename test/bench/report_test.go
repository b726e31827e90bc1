package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMedianAndWorst(t *testing.T) {
	for _, tc := range []struct {
		name          string
		in            []time.Duration
		median, worst time.Duration
	}{
		{"none", nil, 0, 0},
		{"one", []time.Duration{7}, 7, 7},
		{"odd, unordered", []time.Duration{9, 1, 5}, 5, 9},
		{"even", []time.Duration{8, 2, 4, 100}, 6, 100},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := append([]time.Duration(nil), tc.in...)
			if got := median(in); got != tc.median {
				t.Errorf("median: got %d, want %d", got, tc.median)
			}
			if got := worst(in); got != tc.worst {
				t.Errorf("worst: got %d, want %d", got, tc.worst)
			}
			if diff := cmp.Diff(tc.in, in); diff != "" {
				t.Errorf("the samples were changed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                       "0.0 ms",
		4260 * time.Microsecond: "4.3 ms",
		63 * time.Millisecond:   "63 ms",
		999 * time.Millisecond:  "999 ms",
		3565 * time.Millisecond: "3.56 s",
	} {
		if got := span(d); got != want {
			t.Errorf("%s: got %q, want %q", time.Duration(d), got, want)
		}
	}
}

func TestCells(t *testing.T) {
	ms := time.Millisecond
	for _, tc := range []struct {
		name     string
		row      row
		gap, two string    // of ours
		bounds   [4]string // gap, kept, two, kept
	}{
		{
			"kept", row{event{gap: 100 * ms, alone: true}, [][]observation{{{gap: 20 * ms, failed: 3}, {gap: 40 * ms}}}},
			"30 ms / 40 ms", "never", [4]string{"≤ 100 ms", "met", "never", "met"},
		},
		{
			"the worst counts", row{event{gap: 100 * ms, alone: true}, [][]observation{{{gap: 20 * ms, failed: 1}, {gap: 101 * ms, several: true, overlap: 10 * ms}}}},
			"61 ms / 101 ms", "10 ms (in 1 of 2)", [4]string{"≤ 100 ms", "**missed**", "never", "**missed**"},
		},
		{
			"unbroken", row{event{unbroken: true}, [][]observation{{{gap: 9 * ms}, {gap: 12 * ms}}}},
			"11 ms / 12 ms, no attempt failed", "never", [4]string{"no attempt fails", "met", unknown, ""},
		},
		{
			"broken, whatever the gap", row{event{unbroken: true}, [][]observation{{{gap: 9 * ms}, {gap: 9 * ms, failed: 1}}}},
			"9.0 ms / 9.0 ms", "never", [4]string{"no attempt fails", "**missed**", unknown, ""},
		},
		{
			"for good", row{event{}, [][]observation{{{gap: 9 * ms, failed: 1, several: true, lasting: true, overlap: 6 * time.Second}}}},
			"9.0 ms / 9.0 ms", "≥ 6.00 s, until the watch ended (in 1 of 1)", [4]string{unknown, "", unknown, ""},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := gapCell(tc.row.seen[0]); got != tc.gap {
				t.Errorf("gap: got %q, want %q", got, tc.gap)
			}
			if got := twoCell(tc.row.seen[0]); got != tc.two {
				t.Errorf("two: got %q, want %q", got, tc.two)
			}
			var got [4]string
			got[0], got[1] = tc.row.gapBound()
			got[2], got[3] = tc.row.twoBound()
			if diff := cmp.Diff(tc.bounds, got); diff != "" {
				t.Errorf("bounds (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRates(t *testing.T) {
	const page = `# HELP apiserver_request_total [STABLE] Counter
apiserver_request_total{code="200",component="apiserver",dry_run="",group="coordination.k8s.io",resource="leases",scope="resource",subresource="",verb="PUT",version="v1"} 61
apiserver_request_total{code="409",component="apiserver",dry_run="",group="coordination.k8s.io",resource="leases",scope="resource",subresource="",verb="PUT",version="v1"} 2
apiserver_request_total{code="200",component="",dry_run="",group="",resource="",scope="",subresource="/livez",verb="GET",version=""} 1.2e+02
apiserver_request_duration_seconds_count{verb="PUT"} 5
`
	all := map[string]float64{}
	if err := addRequests(all, page); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]float64{"PUT leases": 63, "GET ": 120}, all); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	all["WATCH nodes"] = 0.1 // too seldom to tell
	got := rates(all, 10*time.Second, map[string]float64{"PUT leases": 3, "LIST nodes": 1}, time.Second)
	want := []rate{{"GET health", 12}, {"PUT leases", 3.3}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(rate{}), cmp.Comparer(func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 })); diff != "" {
		t.Errorf("rates (-want +got):\n%s", diff)
	}
	if err := addRequests(all, "apiserver_request_total{verb=\"GET\"} many\n"); err == nil {
		t.Error("a counter that is no number was taken")
	}
}

func TestProcessors(t *testing.T) {
	before, err := parseProcessors("cpu  100 0 50 800 20 5 5 0 0 0\ncpu0 1 2 3\n")
	if err != nil {
		t.Fatal(err)
	}
	after, err := parseProcessors("cpu  130 0 60 850 30 5 5 0 0 0\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := after.busySince(before); got != 0.4 {
		t.Errorf("busy for %v of the time, want 0.4", got)
	}
	for _, bad := range []string{"", "intr 1 2 3 4 5 6", "cpu 1 2 x 4 5 6"} {
		if _, err := parseProcessors(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
