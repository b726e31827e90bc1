package main

import (
	"fmt"
	"html"
	"math"
	"strings"

	"kube-vip.io/kube-vip/test/bench/measure"
)

// pictureName is the file beside the page.
const pictureName = "benchmarks-services.svg"

// A line is one thing that grows with the number of Services.
type line struct {
	label  string
	points []point
	// past is the figure of kube-vip 1.2.3 at pastServices; 0 is none.
	past float64
}

type point struct{ x, y float64 }

// A panel is a diagram with logarithmic axes.
type panel struct {
	title, unit string
	lines       []line
}

// picture is the growth as SVG: times, CPU and memory by the number of Services.
func (r *report) picture() string {
	lines := func(unit float64, keys map[string]string, order ...string) (all []line) {
		for _, key := range order {
			l := line{label: keys[key], past: rowOf(key).pastValue / unit}
			for _, of := range r.leader {
				if f, ok := of.figures[key]; ok {
					l.points = append(l.points, point{float64(of.n), f.value / unit})
				}
			}
			all = append(all, l)
		}
		return all
	}
	return draw([]panel{
		{"Time", "s", lines(1, map[string]string{
			startStatus: "start → every status", vanishAll: "holder vanishes → all elsewhere", restartLink: "restart → all on a node", oneLink: "one more Service",
		}, startStatus, vanishAll, restartLink, oneLink)},
		{"CPU at rest", "% of a core", lines(0.01, map[string]string{holderCPU: "holder", followerCPU: "follower"}, holderCPU, followerCPU)},
		{"Memory at rest", "MB", lines(1e6, map[string]string{holderRSS: "holder", followerRSS: "follower"}, holderRSS, followerRSS)},
	})
}

// Sizes of the picture, in pixels.
const (
	plotWidth, plotHeight = 240.0, 220.0
	marginLeft, marginTop = 56.0, 40.0
	panelWidth            = marginLeft + plotWidth + 24
	legendLine            = 17.0
	axisHeight            = 44.0
)

// style has a light and a dark half, and colours that can be told apart without seeing colours well (Okabe and Ito).
const style = `
svg { font: 12px system-ui, sans-serif; }
.paper { fill: #ffffff; } text { fill: #24292f; } .grid { stroke: #d8dee4; } .frame { stroke: #57606a; fill: none; }
.l0 { stroke: #0072b2; fill: #0072b2; } .l1 { stroke: #d55e00; fill: #d55e00; } .l2 { stroke: #007d5a; fill: #007d5a; } .l3 { stroke: #a0528c; fill: #a0528c; }
polyline { fill: none !important; stroke-width: 2; } .past { fill: none !important; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117; } text { fill: #e6edf3; } .grid { stroke: #30363d; } .frame { stroke: #8b949e; }
.l0 { stroke: #56b4e9; fill: #56b4e9; } .l1 { stroke: #e69f00; fill: #e69f00; } .l2 { stroke: #2fc99a; fill: #2fc99a; } .l3 { stroke: #e08bc4; fill: #e08bc4; }
}
`

// draw draws panels side by side.
func draw(panels []panel) string {
	legend := 0
	for _, p := range panels {
		legend = max(legend, len(p.lines))
	}
	width := panelWidth * float64(len(panels))
	height := marginTop + plotHeight + axisHeight + legendLine*float64(legend+1) + 8
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" role="img">`+"\n", width, height, width, height)
	b.WriteString("<title>kube-vip: time, CPU and memory by the number of Services</title>\n<style>" + style + "</style>\n")
	fmt.Fprintf(&b, `<rect class="paper" width="%.0f" height="%.0f"/>`+"\n", width, height)
	for i, p := range panels {
		fmt.Fprintf(&b, `<g transform="translate(%.0f %.0f)">`+"\n", float64(i)*panelWidth+marginLeft, marginTop)
		p.draw(&b)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (p panel) draw(b *strings.Builder) {
	var xs, ys []float64
	hasPast := false
	for _, l := range p.lines {
		for _, at := range l.points {
			xs, ys = append(xs, at.x), append(ys, at.y)
		}
		if l.past > 0 {
			hasPast = true
			xs, ys = append(xs, pastServices), append(ys, l.past)
		}
	}
	x, y := newScale(xs, plotWidth), newScale(ys, plotHeight)
	fmt.Fprintf(b, `<text x="0" y="-16" font-weight="bold">%s (%s)</text>`+"\n", html.EscapeString(p.title), html.EscapeString(p.unit))
	for _, v := range x.decades() {
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" x2="%.1f" y1="0" y2="%.0f"/>`, x.at(v), x.at(v), plotHeight)
		fmt.Fprintf(b, `<text x="%.1f" y="%.0f" text-anchor="middle">%s</text>`+"\n", x.at(v), plotHeight+16, tick(v))
	}
	for _, v := range y.decades() {
		fmt.Fprintf(b, `<line class="grid" x1="0" x2="%.0f" y1="%.1f" y2="%.1f"/>`, plotWidth, plotHeight-y.at(v), plotHeight-y.at(v))
		fmt.Fprintf(b, `<text x="-6" y="%.1f" text-anchor="end">%s</text>`+"\n", plotHeight-y.at(v)+4, tick(v))
	}
	fmt.Fprintf(b, `<rect class="frame" width="%.0f" height="%.0f"/>`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(b, `<text x="%.0f" y="%.0f" text-anchor="middle">Services</text>`+"\n", plotWidth/2, plotHeight+34)
	for i, l := range p.lines {
		var path []string
		for _, at := range l.points {
			path = append(path, fmt.Sprintf("%.1f,%.1f", x.at(at.x), plotHeight-y.at(at.y)))
			fmt.Fprintf(b, `<circle class="l%d" cx="%.1f" cy="%.1f" r="3"/>`+"\n", i, x.at(at.x), plotHeight-y.at(at.y))
		}
		if len(path) > 1 {
			fmt.Fprintf(b, `<polyline class="l%d" points="%s"/>`+"\n", i, strings.Join(path, " "))
		}
		if l.past > 0 {
			diamond(b, fmt.Sprintf("l%d past", i), x.at(pastServices), plotHeight-y.at(l.past))
		}
		at := plotHeight + axisHeight + legendLine*float64(i) + 6
		fmt.Fprintf(b, `<circle class="l%d" cx="4" cy="%.1f" r="4"/><text x="14" y="%.1f">%s</text>`+"\n", i, at-4, at, html.EscapeString(l.label))
	}
	if hasPast {
		at := plotHeight + axisHeight + legendLine*float64(len(p.lines)) + 6
		diamond(b, "frame", 4, at-4)
		fmt.Fprintf(b, `<text x="14" y="%.1f">kube-vip 1.2.3, measured earlier</text>`+"\n", at)
	}
}

// diamond is the mark of what was measured another time.
func diamond(b *strings.Builder, class string, x, y float64) {
	const r = 5
	fmt.Fprintf(b, `<path class="%s" d="M%.1f %.1fl%d %dl%d %dl%d %dz"/>`+"\n", class, x, y-r, r, r, -r, r, -r, -r)
}

// A scale is a logarithmic axis of so many pixels, from a power of ten to a power of ten.
type scale struct {
	low, high int // exponents
	size      float64
}

// newScale is one that has room for all values; what is not above zero has no place on it.
func newScale(values []float64, size float64) scale {
	s := scale{low: math.MaxInt, high: math.MinInt, size: size}
	for _, v := range values {
		if v > 0 {
			s.low = min(s.low, int(math.Floor(math.Log10(v))))
			s.high = max(s.high, int(math.Ceil(math.Log10(v))))
		}
	}
	if s.low > s.high {
		return scale{0, 1, size}
	}
	if s.low == s.high {
		s.high++
	}
	return s
}

// at is how far from the beginning of the axis v is; what is below the axis is at its beginning.
func (s scale) at(v float64) float64 {
	if v <= 0 {
		return 0
	}
	share := (math.Log10(v) - float64(s.low)) / float64(s.high-s.low)
	return min(max(share, 0), 1) * s.size
}

// decades are the powers of ten on the axis.
func (s scale) decades() []float64 {
	var all []float64
	for e := s.low; e <= s.high; e++ {
		all = append(all, math.Pow10(e))
	}
	return all
}

// tick prints a power of ten.
func tick(v float64) string {
	if v >= 1 {
		return measure.Thousands(int(math.Round(v)))
	}
	return fmt.Sprintf("%g", v)
}
