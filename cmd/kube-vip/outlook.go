package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/duration"

	"kube-vip.io/kube-vip/pkg/config"
	"kube-vip.io/kube-vip/pkg/kube"
	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/pkg/vip"
)

// lookDeadline bounds a look at the cluster: ten thousand Services take a second or two, and who waits here has a
// problem.
const lookDeadline = 30 * time.Second

// outlook is an instance's view of the cluster, with its settings, and nothing of it runs.
type outlook struct {
	c       config.Config
	access  *kube.Access
	network *vip.Netlink // nil when the kernel can not be asked; netErr says why
	netErr  error
	options svc.Options
	locks   svc.Locks
}

// outlook looks with the settings that cmd was given. close it.
func (p *program) outlook(cmd *cobra.Command) (*outlook, error) {
	loaded, err := p.load(cmd)
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	o := &outlook{c: loaded.Config}
	o.network, o.netErr = vip.NewNetlink()
	var nodeAddrs func() []netip.Addr
	if o.network != nil {
		nodeAddrs = (&ownAddresses{network: o.network}).list
	}
	vips := func() []netip.Addr { return literal(o.c.ControlPlane.Addresses) }
	reach := p.kubeOptions(o.c, log, nodeAddrs, nil, vips)
	reach.Local = true // it may well be a control-plane node, and the VIP may be what is broken
	if o.access, err = kube.New(reach); err != nil {
		return nil, err
	}
	if o.options, err = svcOptions(o.c, log, nil, o.access); err != nil {
		return nil, err
	}
	o.locks = locks(o.c)
	o.options.Mandate = o.locks.Group.Name
	o.options.Elsewhere = func(addr netip.Addr) (string, bool) {
		return o.locks.ControlPlane.Name, o.c.ControlPlane.Enable && slices.Contains(vips(), addr)
	}
	if o.c.BGP.Enable && o.c.Services.Placement != config.PlacementLease {
		o.options.Everywhere = everywhere
	}
	return o, nil
}

func (o *outlook) close() {
	o.access.Close()
	if o.network != nil {
		o.network.Close()
	}
}

// locks are the Leases of the groups.
func locks(c config.Config) svc.Locks {
	key := func(lease string) types.NamespacedName {
		namespace, name := leaseKey(c, lease)
		return types.NamespacedName{Namespace: namespace, Name: name}
	}
	return svc.Locks{Group: key(c.Services.LeaseName), ControlPlane: key(c.Election.LeaseName), Duration: c.Election.LeaseDuration}
}

// literal are those of addresses that are no names.
func literal(addresses []string) []netip.Addr {
	var list []netip.Addr
	for _, text := range addresses {
		if a, err := netip.ParseAddr(text); err == nil {
			list = append(list, a.Unmap())
		}
	}
	return list
}

// textOrJSON is the flag --output of commands that print one or the other. The returned function checks it.
func textOrJSON(cmd *cobra.Command) (asJSON func() (bool, error)) {
	format := cmd.Flags().StringP("output", "o", "text", "format: text or json")
	complete(cmd, "output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return func() (bool, error) {
		if *format != "text" && *format != "json" {
			return false, fmt.Errorf("--output %q is not a format: want text or json", *format)
		}
		return *format == "json", nil
	}
}

func asJSON(v any) ([]byte, error) {
	out, err := json.MarshalIndent(v, "", "  ")
	return append(out, '\n'), err
}

// age is how long ago something was, for people; "-" when it is not known.
func age(now time.Time, t *time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return duration.HumanDuration(max(now.Sub(*t), 0))
}

// lately is age to a tenth of a second, for what happens every second.
func lately(now time.Time, t *time.Time) string {
	if t == nil || t.IsZero() {
		return "never"
	}
	if d := now.Sub(*t); d < 100*time.Second {
		return fmt.Sprintf("%.1fs ago", max(d, 0).Seconds())
	}
	return age(now, t) + " ago"
}

// columns aligns rows by their cells, two spaces between them, each line behind indent.
func columns(indent string, rows [][]string) string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		line := indent
		for i, cell := range row {
			line += cell + strings.Repeat(" ", widths[i]-len([]rune(cell))+2)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}
