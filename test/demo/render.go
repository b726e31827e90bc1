package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"kube-vip.io/kube-vip/test/lab"
)

// Everything here is pure: values in, lines without a newline out.

// A palette colours text, or leaves it as it is.
type palette bool

// The ANSI colours (ECMA-48 SGR) that the demo uses. They come from the terminal's own theme, light or dark.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (p palette) paint(style, text string) string {
	if !bool(p) || text == "" {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// span writes a duration as precisely as it was measured.
func span(d time.Duration) string {
	switch ms := d.Round(time.Millisecond).Milliseconds(); {
	case ms < 1000:
		return fmt.Sprintf("%d ms", ms)
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	default:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
}

// elapsed is a duration as a progress line shows it.
func elapsed(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// clock is a moment as the demo shows it.
func clock(t time.Time) string { return t.Local().Format(time.TimeOnly) }

func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}

// clip cuts a line to the given width.
func clip(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:max(0, width-1)]) + "…"
}

func join[T any](parts []T, sep string) string {
	words := make([]string, len(parts))
	for i, p := range parts {
		words[i] = fmt.Sprint(p)
	}
	return strings.Join(words, sep)
}

// columns lays cells out below each other, two spaces apart; the first row is the head.
func columns(p palette, rows [][]string) []string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	lines := make([]string, len(rows))
	for i, row := range rows {
		var b strings.Builder
		for j, cell := range row {
			b.WriteString(pad(cell, widths[j]) + "  ")
		}
		lines[i] = strings.TrimRight(b.String(), " ")
		if i == 0 {
			lines[i] = p.paint(dim, lines[i])
		}
	}
	return lines
}

// A machine is a host in the picture of the lab.
type machine struct {
	name  string
	addrs []netip.Addr
}

// picture draws the nodes and the client on their switch.
func picture(nodes []machine, client machine, targets []netip.AddrPort) []string {
	var left []string
	width := 0
	for _, n := range nodes {
		left = append(left, n.name+"  "+join(n.addrs, " "))
		width = max(width, utf8.RuneCountInString(left[len(left)-1]))
	}
	right := []string{client.name + "  " + join(client.addrs, " ")}
	for i, t := range targets {
		word := "asks for "
		if i > 0 {
			word = "     and "
		}
		right = append(right, word+t.String())
	}
	middle := len(nodes) / 2
	lines := make([]string, max(len(nodes), middle+len(right)))
	for i := range lines {
		line := strings.Repeat(" ", width+2)
		if i < len(nodes) {
			line = pad(left[i], width) + " ─"
			switch {
			case len(nodes) == 1:
				line += "─"
			case i == 0:
				line += "┐"
			case i == len(nodes)-1:
				line += "┘"
			case i == middle:
				line += "┼"
			default:
				line += "┤"
			}
		} else {
			line += " "
		}
		if i == middle {
			line += "── " + right[0]
		} else if i > middle && i-middle < len(right) {
			line += "   " + right[i-middle]
		}
		lines[i] = strings.TrimRight(line, " ")
	}
	return lines
}

// summary says what is in a manifest, in lines of at most the given width.
func summary(manifest []byte, width int) ([]string, error) {
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict(manifest, &pod); err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	if pod.Kind != "Pod" || len(pod.Spec.Containers) != 1 {
		return nil, fmt.Errorf("read the manifest: it is a %s with %d containers, not a Pod with one", pod.Kind, len(pod.Spec.Containers))
	}
	c := pod.Spec.Containers[0]
	fact := func(name string, words ...string) []string {
		const indent = 14
		var lines []string
		line := pad(name, indent)
		for i, w := range words {
			if i > 0 && utf8.RuneCountInString(line)+utf8.RuneCountInString(w) > width {
				lines, line = append(lines, strings.TrimRight(line, " ")), strings.Repeat(" ", indent)
			}
			line += w + " "
		}
		return append(lines, strings.TrimRight(line, " "))
	}
	env := make([]string, len(c.Env))
	for i, e := range c.Env {
		env[i] = e.Name + "=" + e.Value
		if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil {
			env[i] = e.Name + "=(" + e.ValueFrom.FieldRef.FieldPath + ")"
		}
	}
	lines := fact("a Pod", pod.Namespace+"/"+pod.Name+",", fmt.Sprintf("%d", strings.Count(string(manifest), "\n")), "lines", "of", "YAML")
	lines = append(lines, fact("runs", append([]string{"kube-vip"}, c.Args...)...)...)
	lines = append(lines, fact("environment", env...)...)
	var rights []string
	if pod.Spec.HostNetwork {
		rights = append(rights, "the node's network,")
	}
	if s := c.SecurityContext; s != nil {
		if s.Capabilities != nil {
			rights = append(rights, "capabilities")
			for _, a := range s.Capabilities.Add {
				rights = append(rights, string(a))
			}
		}
		if s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem {
			rights[len(rights)-1] += ","
			rights = append(rights, "read-only", "root", "filesystem")
		}
	}
	lines = append(lines, fact("may use", rights...)...)
	for _, m := range c.VolumeMounts {
		words := []string{m.MountPath}
		if m.ReadOnly {
			words = append(words, "(read-only)")
		}
		lines = append(lines, fact("mounts", words...)...)
	}
	return lines, nil
}

// nodesTable lists Nodes as kubectl does, and marks the holder.
func nodesTable(p palette, nodes []corev1.Node, holder string) []string {
	rows := [][]string{{"NAME", "STATUS", "ROLES", "INTERNAL-IP", ""}}
	for _, n := range nodes {
		status := "Unknown"
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				status = map[corev1.ConditionStatus]string{corev1.ConditionTrue: "Ready", corev1.ConditionFalse: "NotReady"}[c.Status]
			}
		}
		if status == "" {
			status = "Unknown"
		}
		var roles, addrs []string
		for label := range n.Labels {
			if role, ok := strings.CutPrefix(label, "node-role.kubernetes.io/"); ok {
				roles = append(roles, role)
			}
		}
		slices.Sort(roles)
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				addrs = append(addrs, a.Address)
			}
		}
		mark := ""
		if n.Name == holder {
			mark = "← holds the VIP"
		}
		rows = append(rows, []string{n.Name, status, strings.Join(roles, ","), strings.Join(addrs, " "), mark})
	}
	return columns(p, rows)
}

// An outcome is what came of one event.
type outcome struct {
	// name is what the summary calls the event.
	name string
	// at is when it happened.
	at time.Time
	// before and after are the holders' names.
	before, after string
	// gaps has what the client saw of each VIP.
	gaps []lab.GapResult
	vips []netip.Addr
}

// gap is the worst of all VIPs, and false when no connection failed.
func (o outcome) gap() (lab.GapResult, bool) {
	var worst lab.GapResult
	failed := false
	for _, g := range o.gaps {
		if g.Failed > 0 && (!failed || g.Longest > worst.Longest) {
			worst, failed = g, true
		}
	}
	return worst, failed
}

// measured says how long nobody answered.
func (o outcome) measured() string {
	if worst, failed := o.gap(); failed {
		return span(worst.Longest)
	}
	return "none"
}

// holder says whether the VIP moved.
func (o outcome) holder() string {
	if o.before == o.after {
		return o.after + " as before"
	}
	return o.before + " → " + o.after
}

// The timeline shows at least so much before and after the event, and a fifth of what lies between.
const (
	leastBefore = 300 * time.Millisecond
	leastAfter  = 700 * time.Millisecond
)

// timelines draws what the client saw around the event, a line per VIP, and below them when it happened and when
// there was an answer again.
func timelines(p palette, o outcome, width int) []string {
	worst, failed := o.gap()
	until := o.at
	if failed && worst.To.After(until) {
		until = worst.To
	}
	margin := until.Sub(o.at) / 5
	from, to := o.at.Add(-max(margin, leastBefore)), until.Add(max(margin, leastAfter))
	for _, g := range o.gaps {
		if g.Begin.After(from) {
			from = g.Begin
		}
		if g.End.Before(to) {
			to = g.End
		}
	}
	label := 0
	if len(o.vips) > 1 {
		for _, v := range o.vips {
			label = max(label, len(v.String())+1)
		}
	}
	width -= label
	if width < 10 || !to.After(from) {
		return nil
	}
	var lines []string
	for i, g := range o.gaps {
		name := ""
		if label > 0 {
			name = o.vips[i].String()
		}
		lines = append(lines, pad(name, label)+cells(p, g.Cells(from, to, width)))
	}
	column := func(t time.Time) int {
		return min(width-1, max(0, int(int64(width)*int64(t.Sub(from))/int64(to.Sub(from)))))
	}
	marks := strings.Repeat(" ", column(o.at)) + "↑ " + clock(o.at)
	if failed {
		later := "+" + span(until.Sub(o.at))
		c, have, need := column(until), utf8.RuneCountInString(marks), utf8.RuneCountInString(later)+2
		switch {
		case c > have && c+need <= width:
			marks = pad(marks, c) + "↑ " + later
		case c+1-need > have:
			marks = pad(marks, c+1-need) + later + " ↑"
		default:
			marks += ", answers again after " + span(until.Sub(o.at))
		}
	}
	return append(lines, strings.Repeat(" ", label)+p.paint(dim, clip(marks, width)))
}

// cells colours runs of equal cells. Where no attempt began, because the machine was busy, a cell is as those on both
// sides of it are; between unlike ones it stays empty.
func cells(p palette, all []lab.Cell) string {
	all = slices.Clone(all)
	for i := 1; i < len(all); i++ {
		if all[i] != lab.CellEmpty {
			continue
		}
		next := slices.IndexFunc(all[i:], func(c lab.Cell) bool { return c != lab.CellEmpty })
		if next > 0 && all[i+next] == all[i-1] {
			all[i] = all[i-1]
		}
	}
	style := map[lab.Cell]string{lab.CellGood: green, lab.CellMixed: yellow, lab.CellBad: red}
	var b strings.Builder
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n] == all[0] {
			n++
		}
		run := strings.Repeat(string(rune(all[0])), n)
		if s, ok := style[all[0]]; ok {
			run = p.paint(s, run)
		}
		b.WriteString(run)
		all = all[n:]
	}
	return b.String()
}

// verdict says in a line what the client felt.
func verdict(p palette, o outcome) string {
	attempts, lost := 0, 0
	var lag time.Duration
	for _, g := range o.gaps {
		attempts += len(g.Attempts)
		lost += g.Failed
		lag = max(lag, g.Lag)
	}
	worst, failed := o.gap()
	if !failed {
		return p.paint(green, "No gap") + fmt.Sprintf(": all %d connections were answered.", attempts)
	}
	line := p.paint(yellow, "Gap "+span(worst.Longest)) + fmt.Sprintf(": %d of %d connections failed.", lost, attempts)
	if lag > worst.Longest/4 && lag > 10*time.Millisecond {
		line += fmt.Sprintf(" (A busy machine: accurate to %s.)", span(lag))
	}
	return line
}

// results is the table at the end.
func results(p palette, outcomes []outcome) []string {
	rows := [][]string{{"WHAT HAPPENED", "GAP", "HOLDER"}}
	for _, o := range outcomes {
		rows = append(rows, []string{o.name, o.measured(), o.holder()})
	}
	return columns(p, rows)
}

// leader is a line of what was done, dots, and how long it took, in the given width.
func leader(label, end string, width int) string {
	label = clip(label, max(8, width-len(end)-6))
	dots := max(3, width-utf8.RuneCountInString(label)-utf8.RuneCountInString(end)-2)
	return label + " " + strings.Repeat(".", dots) + " " + end
}
