package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kube-vip.io/kube-vip/test/bench/measure"
)

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
			"11 ms / 12 ms, no attempt failed", "never", [4]string{"no attempt fails", "met", measure.Unknown, ""},
		},
		{
			"broken, whatever the gap", row{event{unbroken: true}, [][]observation{{{gap: 9 * ms}, {gap: 9 * ms, failed: 1}}}},
			"9.0 ms / 9.0 ms", "never", [4]string{"no attempt fails", "**missed**", measure.Unknown, ""},
		},
		{
			"for good", row{event{}, [][]observation{{{gap: 9 * ms, failed: 1, several: true, lasting: true, overlap: 6 * time.Second}}}},
			"9.0 ms / 9.0 ms", "≥ 6.00 s, until the watch ended (in 1 of 1)", [4]string{measure.Unknown, "", measure.Unknown, ""},
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
