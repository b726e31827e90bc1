package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"kube-vip.io/kube-vip/pkg/arp"
	"kube-vip.io/kube-vip/pkg/config"
	"kube-vip.io/kube-vip/pkg/kube"
	"kube-vip.io/kube-vip/pkg/preflight"
	"kube-vip.io/kube-vip/pkg/vip"
)

// defaultManifest is where the documentation has the manifest of the static pod written.
const defaultManifest = "/etc/kubernetes/manifests/kube-vip.yaml"

// clusterCA is the certificate authority that kubeadm makes, or copies to a node that joins.
const clusterCA = "/etc/kubernetes/pki/ca.crt"

// preflightCommand is `kube-vip preflight`: what would keep kube-vip from its work here.
func (p *program) preflightCommand() *cobra.Command {
	g := &generator{program: p, kubeadmFlag: "config", controlPlane: true}
	var join bool
	var file string
	cmd := &cobra.Command{
		Use:   "preflight",
		Short: "Find out what would keep kube-vip from its work on this machine, before it runs here",
		Long: `preflight looks at the settings, at kubeadm's configuration, at this machine and at its network, and says what it
finds, with a fix for what is wrong: whether somebody has the address already, and by which hardware address; whether an
interface is in its network; who listens on the ports; whether the manifest can be written; what the kernel is told; and
which other programs may hold addresses here. It changes nothing. Run it as root on the node, with the flags that the
manifest is to have. It fails when something would not work.`,
		Example: `  kube-vip preflight --address 10.0.0.10 --arp
  kube-vip preflight --config kubeadm.yaml --arp
  kube-vip preflight --config join.yaml --arp --join -o json`,
		Args: noArguments,
	}
	cmd.Flags().StringVar(&g.kubeadmFile, "config", "", "kubeadm's configuration `file`, to take the address from and to check against")
	cmd.Flags().BoolVar(&join, "join", false, "this node joins a control plane that runs: another node has the address")
	cmd.Flags().StringVar(&file, "manifest", defaultManifest, "`file` that the manifest is to be written to; empty for none")
	isJSON := textOrJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		inJSON, err := isJSON()
		if err != nil {
			return err
		}
		found, err := g.preflight(cmd, join, file)
		if err != nil {
			return err
		}
		out := []byte(preflightText(found))
		if inJSON {
			if out, err = asJSON(found); err != nil {
				return err
			}
		}
		if err := p.print(out); err != nil {
			return err
		}
		if preflight.Worst(found) == preflight.Error {
			return errors.New("kube-vip would not work here: see what is marked as an error above")
		}
		return nil
	}
	return cmd
}

// preflight is what is found. Its error is about settings of which nothing follows.
func (g *generator) preflight(cmd *cobra.Command, join bool, file string) ([]preflight.Finding, error) {
	loaded, err := g.settings(cmd)
	if loaded == nil {
		return nil, err
	}
	var found []preflight.Finding
	for _, problem := range eachOf(errors.Join(err, loaded.Validate())) {
		found = append(found, preflight.Finding{Check: "settings", Level: preflight.Error, Text: oneLine(problem)})
	}
	if len(found) == 0 {
		found = append(found, preflight.Finding{Check: "settings", Level: preflight.OK, Text: "the settings agree with each other, and with kubeadm's if those were given"})
	}
	host, leave := g.machine()
	defer leave()
	return append(found, preflight.Run(cmd.Context(), g.flight(loaded, join, file), host)...), nil
}

// machine is the one that this runs on, until it is left.
func (p *program) machine() (host preflight.Host, leave func()) {
	if p.host != nil {
		return p.host, func() {}
	}
	prober := arp.NewProber(arp.ProberOptions{})
	m := preflight.Machine{Ask: func(ctx context.Context, link string, addr netip.Addr) (net.HardwareAddr, error) {
		return prober.Probe(ctx, link, addr)
	}}
	network, err := vip.NewNetlink()
	if err != nil {
		m.Why = err
		return m, func() {}
	}
	m.Network = network
	return m, network.Close
}

// flight is what these settings mean to do on a node.
func (g *generator) flight(loaded *config.Loaded, join bool, file string) preflight.Plan {
	c := loaded.Config
	p := preflight.Plan{
		Addresses: literal(c.ControlPlane.Addresses), Placement: planePlacement(c), Routed: c.BGP.Enable, Services: c.Services.Enable,
		Port: c.ControlPlane.Port, Ports: map[string]netip.AddrPort{}, Join: join, Manifest: file, Files: map[string]string{},
	}
	if ca := c.ControlPlane.Health.CAPath; ca != "" && ca != clusterCA && !strings.HasPrefix(ca, kube.DefaultInClusterDir) {
		p.Files[loaded.Spelt("controlPlaneHealthCheckCAPath")] = ca
	}
	if g.kubeadm != nil {
		proxy := g.kubeadm.Proxy()
		p.Proxy = preflight.Proxy{IPVS: proxy.Mode == "ipvs", StrictARP: proxy.IPVS.StrictARP}
	}
	if at := c.Observe.PrometheusServer; at != "" {
		if addr, err := net.ResolveTCPAddr("tcp", at); err == nil {
			p.Ports[loaded.Spelt("prometheusHTTPServer")] = addr.AddrPort()
		}
	}
	if port := c.Observe.HealthCheckPort; port != 0 {
		p.Ports[loaded.Spelt("healthCheckPort")] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
	}
	return p
}

// eachOf are the errors that one joins.
func eachOf(err error) []error {
	if joined, is := err.(interface{ Unwrap() []error }); is {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, eachOf(e)...)
		}
		return all
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// preflightText is the findings for people.
func preflightText(found []preflight.Finding) string {
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%-8s %-13s %s\n", f.Level, f.Check, f.Text)
		if f.Fix != "" {
			fmt.Fprintf(&b, "%-22s fix: %s\n", "", f.Fix)
		}
	}
	return b.String()
}
