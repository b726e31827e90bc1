package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"kube-vip.io/kube-vip/pkg/config"
	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/svc"
)

// statusCommand is `kube-vip status`: every VIP and who holds it, every instance and how it is.
func (p *program) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "List every VIP, who holds it and since when, and the instances",
		Long: `status lists the VIPs of the control plane and of Services with their holders, as the Leases name them, and the
instances with their health. It asks the API, each kind of objects once, and changes nothing.

It should have the settings of the instances: run it in one of their pods. On another machine it takes the kubeconfig
and flags that the manager would take. Times are by this machine's clock.`,
		Example: `  kubectl -n kube-system exec ds/kube-vip-ds -- /kube-vip status
  crictl exec $(crictl ps --name kube-vip -q) /kube-vip status
  kube-vip status --address 10.0.0.10 --services --k8sConfigPath admin.conf -o json`,
		Args: noArguments,
	}
	p.reports(cmd, func(o *outlook, w svc.World) report { return overview(o.c, o.options, o.locks, w) })
	cmd.AddCommand(p.statusBGPCommand())
	return cmd
}

// report is what a look at the cluster comes to: as it is in JSON, and rendered for people.
type report interface{ render(now time.Time) string }

// reports has cmd look at the cluster once, and print what of makes of it, as text or JSON.
func (p *program) reports(cmd *cobra.Command, of func(o *outlook, w svc.World) report) {
	isJSON := textOrJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		inJSON, err := isJSON()
		if err != nil {
			return err
		}
		o, err := p.outlook(cmd)
		if err != nil {
			return err
		}
		defer o.close()
		ctx, cancel := context.WithTimeout(cmd.Context(), lookDeadline)
		defer cancel()
		world, err := svc.Read(ctx, o.options, o.locks, types.NamespacedName{})
		if err != nil {
			return err
		}
		if err := world.NotKnown["leases"]; err != nil {
			return fmt.Errorf("list leases: %w", err)
		}
		report := of(o, world)
		if inJSON {
			out, err := asJSON(report)
			if err != nil {
				return err
			}
			return p.print(out)
		}
		return p.print([]byte(report.render(world.Now)))
	}
}

// clusterStatus is what `kube-vip status` says.
type clusterStatus struct {
	VIPs     []listedVIP    `json:"vips"`
	Members  []listedMember `json:"members"`
	NotKnown []string       `json:"notKnown"`
}

// listedVIP is one VIP, or a Service that has none.
type listedVIP struct {
	VIP string `json:"vip,omitempty"`
	// For is "control-plane", or the Service by namespace and name.
	For string `json:"for"`
	// Lock is the Lease that it is held under; nil when nobody is to hold it.
	Lock *svc.Lock `json:"lock,omitempty"`
	// Held says that all is as it should be, State what is so, or why it is not.
	Held  bool   `json:"held"`
	State string `json:"state"`
}

// listedMember is one instance.
type listedMember struct {
	Node    string    `json:"node"`
	Live    bool      `json:"live"`
	Health  string    `json:"health"`
	Reason  string    `json:"reason,omitempty"`
	Serves  []string  `json:"serves"`
	Version string    `json:"version,omitempty"`
	Heard   time.Time `json:"heard"`
}

// forControlPlane is for whom the control plane's VIP is.
const forControlPlane = "control-plane"

// overview sums a World up. It is pure.
func overview(c config.Config, o svc.Options, locks svc.Locks, w svc.World) clusterStatus {
	st := clusterStatus{VIPs: []listedVIP{}, Members: []listedMember{}, NotKnown: svc.NotKnown(w)}
	plane := svc.LockAt(w, locks.ControlPlane, svc.KindControlPlane, locks.Duration)
	state := "held"
	if !plane.Live {
		state = "nobody holds it: " + plane.Why
	}
	switch addresses := c.ControlPlane.Addresses; {
	case c.ControlPlane.Enable:
		for _, a := range addresses {
			st.VIPs = append(st.VIPs, listedVIP{VIP: a, For: forControlPlane, Lock: &plane, Held: plane.Live, State: state})
		}
	case plane.Holder != "": // it has a holder, and these settings do not say of what
		st.VIPs = append(st.VIPs, listedVIP{For: forControlPlane, Lock: &plane, Held: plane.Live, State: state + "; these settings do not name the address"})
	}
	for _, r := range svc.Survey(o, locks, w) {
		st.VIPs = append(st.VIPs, listedVIP{VIP: r.VIP, For: r.Service, Lock: r.Lock, Held: r.Held, State: r.State})
	}
	for _, l := range w.Leases {
		m, ok := ha.SeenIn(l)
		if !ok {
			continue
		}
		one := listedMember{Node: m.Node, Live: m.Live(w.Now), Health: m.Health.String(), Reason: m.Reason, Serves: m.Groups, Version: m.Version, Heard: m.Heard}
		switch {
		case m.Stopped:
			one.Health, one.Reason = "stopped", ""
		case !one.Live:
			one.Health, one.Reason = "silent", "it was "+m.Health.String()
		}
		st.Members = append(st.Members, one)
	}
	slices.SortFunc(st.Members, func(a, b listedMember) int { return cmp.Compare(a.Node, b.Node) })
	return st
}

// render is the status for people.
func (st clusterStatus) render(now time.Time) string {
	var b strings.Builder
	live := 0
	for _, m := range st.Members {
		if m.Live {
			live++
		}
	}
	held := slices.ContainsFunc(st.VIPs, func(v listedVIP) bool { return v.Lock != nil && v.Lock.Live })
	switch {
	case live > 0:
	case held:
		b.WriteString("No instance of this kube-vip is known: another program renews the Leases, or an older kube-vip.\n\n")
	case len(st.Members) == 0:
		b.WriteString("No kube-vip runs: no instance has ever written its Lease (" + ha.MemberPrefix + "…).\n\n")
	default:
		b.WriteString("No kube-vip runs: the last sign of each instance is below.\n\n")
	}
	for _, unknown := range st.NotKnown {
		fmt.Fprintf(&b, "not known: %s\n", unknown)
	}
	if len(st.NotKnown) > 0 {
		b.WriteString("\n")
	}
	if len(st.VIPs) == 0 {
		b.WriteString("There is no VIP: no control plane's in these settings, and no Service of kube-vip's.\n")
	} else {
		rows := [][]string{{"VIP", "FOR", "HOLDER", "SINCE", "LEASE", "RENEWED", "STATE"}}
		for _, v := range st.VIPs {
			rows = append(rows, v.row(now))
		}
		b.WriteString(columns("", rows))
	}
	if len(st.Members) > 0 {
		rows := [][]string{{"INSTANCE", "HEALTH", "HEARD", "VERSION", "SERVES", "WHY"}}
		for _, m := range st.Members {
			rows = append(rows, []string{m.Node, m.Health, lately(now, &m.Heard), cmp.Or(m.Version, "-"), strings.Join(m.Serves, ", "), m.Reason})
		}
		b.WriteString("\n" + columns("", rows))
	}
	return b.String()
}

func (v listedVIP) row(now time.Time) []string {
	row := []string{cmp.Or(v.VIP, "-"), v.For, "-", "-", "-", "-", v.State}
	if k := v.Lock; k != nil {
		row[4] = k.Lease
		if k.Live {
			row[2], row[3] = k.Holder, age(now, k.Since)
		}
		if k.Renewed != nil {
			row[5] = lately(now, k.Renewed)
		}
	}
	return row
}
