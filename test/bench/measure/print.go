// Package measure is what the benchmarks share: statistics, counters of the API servers, the machine, and how all of it
// is printed into docs/benchmarks.md, in which each of them owns a section.
package measure

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Unknown stands where there is no figure.
const Unknown = "–"

// Median is the middle one, or the mean of the two in the middle; 0 of none.
func Median(ds []time.Duration) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(ds))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Worst is the longest; 0 of none.
func Worst(ds []time.Duration) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	return slices.Max(ds)
}

// Percentile is the least sample that is not shorter than the share of all, the nearest rank: with a share of 0.99 and
// fewer than a hundred samples it is the worst. It is 0 of none.
func Percentile(ds []time.Duration, share float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(ds))
	rank := int(math.Ceil(share * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Span prints a duration with as many digits as it is known to.
func Span(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	default:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	}
}

// Spread is the median and the worst.
func Spread(ds []time.Duration) string { return Span(Median(ds)) + " / " + Span(Worst(ds)) }

// Percent prints a share.
func Percent(share float64) string { return fmt.Sprintf("%.2f %%", 100*share) }

// Megabytes counts a million bytes as one.
func Megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// Thousands prints a number with spaces in it.
func Thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s %03d", Thousands(n/1000), n%1000)
}

// Verdict says whether a bound was kept.
func Verdict(kept bool) string {
	if kept {
		return "met"
	}
	return "**missed**"
}

// A Table is printed as Markdown, aligned for those who read the source. Its first line is the header.
type Table [][]string

// Add appends a line, with as many cells as the header has.
func (t *Table) Add(cells ...string) { *t = append(*t, cells) }

func (t Table) String() string {
	width := make([]int, len(t[0]))
	for _, line := range t {
		for i, cell := range line {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	for i, line := range t {
		for k, cell := range line {
			fmt.Fprintf(&b, "| %s%s ", cell, strings.Repeat(" ", width[k]-len([]rune(cell))))
		}
		b.WriteString("|\n")
		if i == 0 {
			for _, w := range width {
				b.WriteString("|" + strings.Repeat("-", w+2))
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}
