package measure

import (
	"net/netip"
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
			if got := Median(in); got != tc.median {
				t.Errorf("median: got %d, want %d", got, tc.median)
			}
			if got := Worst(in); got != tc.worst {
				t.Errorf("worst: got %d, want %d", got, tc.worst)
			}
			if diff := cmp.Diff(tc.in, in); diff != "" {
				t.Errorf("the samples were changed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPercentile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(100 - i)
	}
	for _, tc := range []struct {
		name  string
		in    []time.Duration
		share float64
		want  time.Duration
	}{
		{"none", nil, 0.99, 0},
		{"one", []time.Duration{7}, 0.99, 7},
		{"few: the worst", []time.Duration{9, 1, 5}, 0.99, 9},
		{"the middle of three", []time.Duration{9, 1, 5}, 0.5, 5},
		{"the lower middle of four", []time.Duration{9, 1, 5, 7}, 0.5, 5},
		{"a hundred", hundred, 0.99, 99},
		{"all", hundred, 1, 100},
		{"nothing of it", hundred, 0, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Percentile(tc.in, tc.share); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
	if hundred[0] != 100 {
		t.Error("the samples were changed")
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
		if got := Span(d); got != want {
			t.Errorf("%s: got %q, want %q", time.Duration(d), got, want)
		}
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
	got := Rates(all, 10*time.Second, map[string]float64{"PUT leases": 3, "LIST nodes": 1}, time.Second)
	want := []Rate{{"GET health", 12}, {"PUT leases", 3.3}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 })); diff != "" {
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

// TestAddresses: each Service has one, in the lab's network, and none is a node's.
func TestAddresses(t *testing.T) {
	network := netip.MustParsePrefix("10.10.0.0/16")
	seen := map[netip.Addr]bool{}
	for _, a := range Addresses(0, MostServices) {
		if seen[a] || !network.Contains(a) || !IsService(a) {
			t.Fatalf("%s is there twice, or outside", a)
		}
		seen[a] = true
	}
	for _, a := range []string{"10.10.0.1", "10.10.0.11", "10.10.0.101", "fd00:10:10::11", "10.96.64.1"} {
		if IsService(netip.MustParseAddr(a)) {
			t.Errorf("%s counts as a Service's", a)
		}
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int]string{7: "7", 999: "999", 1000: "1 000", 12034: "12 034", 1000000: "1 000 000"} {
		if got := Thousands(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}
