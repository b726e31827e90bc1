package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kube-vip.io/kube-vip/pkg/arp"
	"kube-vip.io/kube-vip/pkg/svc"
)

// explainCommand is `kube-vip explain`: why something is as it is.
func (p *program) explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:         "explain",
		Short:       "Say why a Service has its address on this node or that, or has none",
		Annotations: map[string]string{takesNoSettings: "true"},
		Args:        cobra.ArbitraryArgs,
		RunE:        needsCommand,
	}
	cmd.AddCommand(p.explainServiceCommand())
	return cmd
}

func (p *program) explainServiceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "service [NAMESPACE/]NAME",
		Aliases: []string{"services", "svc"},
		Short:   "Explain a Service: its addresses and why, who may hold them, who does, and what the network says",
		Long: `explain service decides about a Service as the instances do, with the same settings and the same code, and shows each
step: whether it is kube-vip's, its addresses and those that are refused, the Lease, every node that may hold and why the
others may not, the holder, who answers on the network, and what would happen if the holder died. It changes nothing.

It should have the settings of the instances: run it in one of their pods. On another machine it takes the kubeconfig
and flags that the manager would take. Times are by this machine's clock.`,
		Example: `  kubectl -n kube-system exec ds/kube-vip-ds -- /kube-vip explain service shop/web
  crictl exec $(crictl ps --name kube-vip -q) /kube-vip explain service shop/web
  kube-vip explain service shop/web --services --k8sConfigPath admin.conf -o json`,
		Args:              oneService,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	isJSON := textOrJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		inJSON, err := isJSON()
		if err != nil {
			return err
		}
		service, err := serviceNamed(args[0])
		if err != nil {
			return err
		}
		o, err := p.outlook(cmd)
		if err != nil {
			return err
		}
		defer o.close()
		if !o.c.Services.Enable {
			p.warn("these settings do not enable Services (--services, env svc_enable): what follows is for instances that have the defaults otherwise")
		}
		report, err := o.explain(cmd.Context(), service)
		if err != nil {
			return err
		}
		if inJSON {
			out, err := asJSON(report)
			if err != nil {
				return err
			}
			return p.print(out)
		}
		return p.print([]byte(report.render(time.Now())))
	}
	return cmd
}

// oneService wants the name of one Service.
func oneService(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%q wants one Service, as NAMESPACE/NAME, or NAME for one in %s", cmd.CommandPath(), corev1.NamespaceDefault)
	}
	return nil
}

func serviceNamed(text string) (types.NamespacedName, error) {
	namespace, name, found := strings.Cut(text, "/")
	if !found {
		namespace, name = corev1.NamespaceDefault, text
	}
	if namespace == "" || name == "" || strings.Contains(name, "/") {
		return types.NamespacedName{}, fmt.Errorf("%q names no Service: want NAMESPACE/NAME, or NAME for one in %s", text, corev1.NamespaceDefault)
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, nil
}

// explained is what `kube-vip explain service` says.
type explained struct {
	svc.Explanation
	Wire []onWire `json:"wire"`
	// BGP are the sessions of the nodes that announce it.
	BGP allSpeaking `json:"bgp,omitempty"`
}

func (o *outlook) explain(ctx context.Context, service types.NamespacedName) (explained, error) {
	looking, cancel := context.WithTimeout(ctx, lookDeadline)
	defer cancel()
	world, err := svc.Read(looking, o.options, o.locks, service)
	if err != nil {
		return explained{}, err
	}
	x, err := svc.Explain(o.options, o.locks, world, service)
	if err != nil {
		return explained{}, err
	}
	asking, cancel := context.WithTimeout(ctx, askDeadline)
	defer cancel()
	report := withWire(asking, x, o.listen(arp.NewProber(arp.ProberOptions{})), homes(world))
	return report.withSessions(speakers(world.Leases, world.Now)), nil
}

// withSessions adds the BGP sessions of the nodes that announce the Service.
func (x explained) withSessions(all allSpeaking) explained {
	for _, s := range all {
		holds := func(c svc.Candidate) bool { return c.Node == s.Node && c.Holds }
		if !slices.ContainsFunc(x.Holdings, func(h svc.Holding) bool { return slices.ContainsFunc(h.Candidates, holds) }) {
			continue
		}
		x.BGP = append(x.BGP, s)
		if s.Live && s.Error == "" && !slices.ContainsFunc(s.Peers, func(p peering) bool { return p.Up() }) {
			x.But = append(x.But, fmt.Sprintf("node %s is to announce it, and has no BGP session that is up: no router hears of it from there", s.Node))
		}
	}
	return x
}

// withWire asks the network for every address of the Service, those that it is not to have any more included.
func withWire(ctx context.Context, x svc.Explanation, here earshot, homes map[string][]netip.Addr) explained {
	report := explained{Explanation: x, Wire: []onWire{}}
	holders := map[netip.Addr]string{}
	var addrs []netip.Addr
	for _, a := range x.Addresses {
		addrs = append(addrs, a.Address)
	}
	for _, text := range x.Status.Addresses {
		if a, err := netip.ParseAddr(text); err == nil && !slices.Contains(addrs, a) && x.Ours {
			addrs = append(addrs, a)
		}
	}
	for _, h := range x.Holdings {
		for _, a := range h.Addresses {
			if h.Live {
				holders[a] = h.Holder
			}
		}
	}
	for _, a := range addrs {
		w := here.ask(ctx, a, x.Placement(), holders[a], homes)
		report.Wire = append(report.Wire, w)
		if w.But != "" {
			report.But = append(report.But, w.But)
		}
	}
	return report
}

// render is the explanation for people.
func (x explained) render(now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Service %s: %s\n", x.Service, x.Verdict)
	for _, but := range x.But {
		fmt.Fprintf(&b, "  but: %s\n", but)
	}
	for _, unknown := range x.NotKnown {
		fmt.Fprintf(&b, "  not known: %s\n", unknown)
	}
	b.WriteString("\n")
	rows := [][]string{{"it is", x.kind(now)}}
	add := func(title, text string) { rows = append(rows, []string{title, text}) }
	if x.Ours {
		for i, a := range x.Addresses {
			text := a.Address.String() + ", from " + x.From
			if len(a.SharedWith) > 0 {
				text += "; shared with " + strings.Join(a.SharedWith, ", ")
			}
			add([]string{"addresses", ""}[min(i, 1)], text)
		}
		if len(x.Addresses) == 0 {
			add("addresses", "none")
		}
		for i, r := range x.Refused {
			add([]string{"refused", ""}[min(i, 1)], r.String())
		}
		if x.Pool != "" {
			add("pool", x.Pool)
		}
		add("endpoints", endpointsText(x.Endpoints))
		add("status", x.statusText(now))
		add("leader", lockText(x.Leader, now))
	}
	b.WriteString(columns("", rows))
	for _, h := range x.Holdings {
		b.WriteString("\n" + holdingText(h, now))
	}
	if len(x.BGP) > 0 {
		b.WriteString("\nBGP sessions of the nodes that announce it\n" + columns("  ", x.BGP.rows(now)))
	}
	if len(x.Wire) > 0 {
		b.WriteString("\non the network\n")
		var rows [][]string
		for _, w := range x.Wire {
			rows = append(rows, []string{w.Address.String(), w.String()})
		}
		b.WriteString(columns("  ", rows))
	}
	return b.String()
}

func (x explained) kind(now time.Time) string {
	text := fmt.Sprintf("%s, loadBalancerClass %s", x.Type, x.Class)
	if x.TrafficPolicy != "" {
		text += ", externalTrafficPolicy " + x.TrafficPolicy
	}
	return fmt.Sprintf("%s, made %s ago", text, age(now, &x.Created))
}

func endpointsText(r svc.Readiness) string {
	switch {
	case !r.Known:
		return "not known"
	case !r.Any:
		return "none is ready"
	}
	var parts []string
	if len(r.Ready) > 0 {
		parts = append(parts, "ready on "+several(r.Ready))
	}
	if len(r.Terminating) > 0 {
		parts = append(parts, "terminating, and still serving, on "+several(r.Terminating))
	}
	if len(parts) == 0 {
		return "ready, on nodes that are not named"
	}
	return strings.Join(parts, "; ")
}

// several lists the first names of many.
func several(names []string) string {
	const most = 8
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

func (x explained) statusText(now time.Time) string {
	st := x.Status
	text := "no address"
	if len(st.Addresses) > 0 {
		text = strings.Join(st.Addresses, ", ")
	}
	if st.Host != "" {
		text += " on " + st.Host
	}
	if st.Announced != "" {
		text += fmt.Sprintf("; %s for %s: %s", st.Reason, age(now, st.Since), st.Message)
	}
	return text
}

// lockText is who holds a Lease.
func lockText(k svc.Lock, now time.Time) string {
	switch {
	case !k.Known:
		return k.Why
	case !k.Live:
		return "nobody: " + k.Why
	}
	return fmt.Sprintf("%s for %s; renewed the Lease %s %s", k.Holder, age(now, k.Since), k.Lease, lately(now, k.Renewed))
}

func holdingText(h svc.Holding, now time.Time) string {
	var b strings.Builder
	var addrs []string
	for _, a := range h.Addresses {
		addrs = append(addrs, a.String())
	}
	if h.Kind == svc.KindRoutes {
		fmt.Fprintf(&b, "%s: %s\n", strings.Join(addrs, ", "), h.For)
		return b.String() + columns("  ", candidateRows(h.Candidates))
	}
	fmt.Fprintf(&b, "%s, by the Lease %s: %s\n", strings.Join(addrs, ", "), h.Lease, h.For)
	holder := lockText(h.Lock, now)
	if h.Live { // the Lease is named in the line above
		holder = fmt.Sprintf("%s for %s, renewed %s", h.Holder, age(now, h.Since), lately(now, h.Renewed))
	}
	fmt.Fprintf(&b, "  holder: %s\n", holder)
	b.WriteString(columns("  ", candidateRows(h.Candidates)))
	for _, s := range h.IfDied {
		fmt.Fprintf(&b, "  if %s died: %s\n", s.Node, successionText(s))
	}
	return b.String()
}

// candidateRows are the nodes, those without kube-vip in one row. Whose turn it is first is said where there is an order.
func candidateRows(list []svc.Candidate) [][]string {
	ordered := slices.ContainsFunc(list, func(c svc.Candidate) bool { return c.Rank != nil })
	row := func(node, may, turn, why string) []string {
		if !ordered {
			return []string{node, may, why}
		}
		return []string{node, may, turn, why}
	}
	rows := [][]string{row("NODE", "MAY HOLD", "TURN", "WHY")}
	var without []string
	why := ""
	for i, c := range list {
		if !c.Instance && !c.Known && !c.Holds {
			without, why = append(without, c.Node), c.Why
			continue
		}
		may, turn := "no", "-"
		switch {
		case c.May && c.Holds:
			may = "holds"
		case c.May:
			may = "yes"
		case c.Holds:
			may = "holds, no"
		}
		if c.May && c.Rank != nil {
			turn = strconv.Itoa(i + 1) // those that may come first, by their rank
		}
		rows = append(rows, row(c.Node, may, turn, c.Why))
	}
	switch len(without) {
	case 0:
	case 1:
		rows = append(rows, row(without[0], "no", "-", why))
	default:
		rows = append(rows, row(fmt.Sprintf("%d more", len(without)), "no", "-", why+": "+several(without)))
	}
	return rows
}

// successionText is what would happen if a node died.
func successionText(s svc.Succession) string {
	takeover := strconv.FormatFloat(s.Takeover, 'f', -1, 64) + " s after the last renewal"
	var text string
	switch {
	case len(s.Next) == 0:
		return "nobody else may hold it: it is gone until " + s.Node + " is back, or another node may"
	case s.InTurn || len(s.Next) == 1:
		text = s.Next[0] + " has it"
	default:
		text = "the first of " + several(s.Next) + " to ask has it"
	}
	text += " " + takeover
	if s.Then != "" {
		text += "; and when the endpoints on " + s.Node + " are counted out: " + s.Then
	}
	return text
}
