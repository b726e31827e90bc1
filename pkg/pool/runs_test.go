package pool

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRuns adds and removes anything in any order and compares with a map. A failure is repeated by its seed.
func TestRuns(t *testing.T) {
	for _, start := range []string{"10.0.0.250", "0.0.0.0", "255.255.255.240", "fd00::ffff:ffff:ffff:fff8", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0"} {
		for seed := range uint64(20) {
			t.Run(fmt.Sprintf("%s/seed=%d", start, seed), func(t *testing.T) { walkRuns(t, netip.MustParseAddr(start), seed) })
		}
	}
}

func walkRuns(t *testing.T, start netip.Addr, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	var all []netip.Addr
	for a := start; a.IsValid() && len(all) < 16; a = a.Next() {
		all = append(all, a)
	}
	var s runs
	has := map[netip.Addr]bool{}
	for range 200 {
		a := all[random.IntN(len(all))]
		if random.IntN(2) == 0 {
			s.add(a)
			has[a] = true
		} else {
			s.remove(a)
			delete(has, a)
		}
		var want runs
		var usable float64
		for i, a := range all {
			if s.contains(a) != has[a] {
				t.Fatalf("seed %d: contains %s is %t, in %v", seed, a, !has[a], s)
			}
			if !has[a] {
				continue
			}
			if !reserved(a) {
				usable++
			}
			if i > 0 && has[all[i-1]] {
				want[len(want)-1].to = a
			} else {
				want = append(want, run{a, a})
			}
		}
		if !slices.Equal(s, want) {
			t.Fatalf("seed %d: got %v, want %v", seed, s, want)
		}
		span := run{all[0], all[len(all)-1]}
		if got := s.usable(span); got != usable {
			t.Fatalf("seed %d: %v has %g usable addresses, want %g", seed, s, got, usable)
		}
		if len(s) > 0 && !slices.Equal(union(s), s) {
			t.Fatalf("seed %d: the union of %v is %v", seed, s, union(s))
		}
		for _, d := range []direction{up, down} {
			for i := range all {
				wantIn, wantOut := netip.Addr{}, netip.Addr{}
				last := all[len(all)-1]
				if d == down {
					last = all[0]
				}
				for a := all[i]; !d.past(a, last); a = d.step(a) {
					if has[a] && !wantIn.IsValid() {
						wantIn = a
					}
					if !has[a] && !wantOut.IsValid() {
						wantOut = a
					}
				}
				if !wantOut.IsValid() {
					wantOut = d.step(last)
				}
				if in, out := s.in(all[i], d), s.out(all[i], d); in != wantIn || out != wantOut {
					t.Fatalf("seed %d: from %s in %v, down %t: in %s and out %s, want %s and %s", seed, all[i], s, d, in, out, wantIn, wantOut)
				}
			}
		}
	}
}

func TestUsable(t *testing.T) {
	tests := []struct {
		from, to string
		want     float64
	}{
		{"10.0.0.0", "10.0.0.0", 0},
		{"10.0.0.1", "10.0.0.1", 1},
		{"10.0.0.255", "10.0.1.0", 0},
		{"10.0.0.254", "10.0.1.1", 2},
		{"10.0.0.0", "10.255.255.255", 254 * 65536},
		{"0.0.0.0", "255.255.255.255", 254 << 24},
		{"fd00::", "fd00::", 0},
		{"fd00::1", "fd00::1", 1},
		{"fd00::ffff:ffff:ffff:fffe", "fd00:0:0:1::1", 3},
		{"fd00::1", "fd00:0:0:1::", 1<<64 - 1},
		{"fd00::", "fd00:0:0:1:ffff:ffff:ffff:ffff", 1<<65 - 2},
		{"::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1 << 128},
	}
	for _, tt := range tests {
		r := run{netip.MustParseAddr(tt.from), netip.MustParseAddr(tt.to)}
		if diff := cmp.Diff(tt.want, r.usable()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", r, diff)
		}
	}
}
