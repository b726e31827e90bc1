package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"kube-vip.io/kube-vip/pkg/config"
	"kube-vip.io/kube-vip/pkg/join"
	"kube-vip.io/kube-vip/pkg/manifest"
	"kube-vip.io/kube-vip/pkg/preflight"
)

// companion is `kube-vip kubeadm`: a generator that writes for the machine that it runs on, and looks at it first.
type companion struct {
	*generator
	ignore []string
	joins  bool
	// What `kubeadm join` is told about the cluster: by its configuration, or by the arguments that `kubeadm token create
	// --print-join-command` prints.
	file, token string
	pins        []string
	unpinned    bool
	// reader is the kubeconfig to read the cluster's settings with.
	reader string
}

func (p *program) kubeadmCommand() *cobra.Command {
	c := &companion{generator: &generator{program: p, kubeadmFlag: "config", controlPlane: true}}
	cmd := &cobra.Command{
		Use:   "kubeadm",
		Short: "Write the static Pod for a control-plane node that kubeadm is about to make",
		Long: `Writes the static Pod that holds the control plane's VIP on a node where "kubeadm init" or "kubeadm
join --control-plane" is run next. The same Pod serves before, during and after that.

With --output it first looks at this machine, as "kube-vip preflight" does, and writes nothing when the Pod would not work
here. To stdout it looks at nothing: the Pod may be for another machine.`,
		Annotations: map[string]string{takesNoSettings: "true"},
		Args:        cobra.ArbitraryArgs,
		RunE:        needsCommand,
	}
	c.addImage(cmd)
	c.addOutput(cmd)
	cmd.PersistentFlags().StringSliceVar(&c.ignore, "ignore-preflight-errors", nil, "`checks` whose errors are warnings: "+strings.Join(preflight.Checks(), ", ")+", or all")
	complete(cmd, "ignore-preflight-errors", cobra.FixedCompletions(append(preflight.Checks(), "all"), cobra.ShellCompDirectiveNoFileComp))

	initialize := &cobra.Command{
		Use:   "init",
		Short: "Write the static Pod for the first control-plane node",
		Example: `  kube-vip kubeadm init --config kubeadm.yaml --arp -o /etc/kubernetes/manifests/kube-vip.yaml
  kube-vip kubeadm init --address 10.0.0.10 --interface eth0 --arp`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.write(cmd) },
	}
	initialize.Flags().StringVar(&c.kubeadmFile, "config", "", "kubeadm's configuration `file`, to take the address from and to check against")
	cmd.AddCommand(initialize, c.joinCommand())
	return cmd
}

func (c *companion) joinCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join [endpoint]",
		Short: "Write the static Pod for each further control-plane node",
		Long: `Writes the static Pod for a node where "kubeadm join --control-plane" is run next. It takes what kubeadm takes: its
configuration, or the arguments that "kubeadm token create --print-join-command" prints.

With --output the settings come from the cluster: kube-vip's leader keeps them in the ConfigMap kube-system/kube-vip, which
a bootstrap token may read. Settings that are given here count more.`,
		Example: `  kube-vip kubeadm join --config join.yaml -o /etc/kubernetes/manifests/kube-vip.yaml
  kube-vip kubeadm join 10.0.0.10:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:… -o /etc/kubernetes/manifests/kube-vip.yaml
  kube-vip kubeadm join --address 10.0.0.10 --interface eth0 --arp`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.joins = true
			if err := c.takeFile(args); err != nil {
				return err
			}
			return c.write(cmd)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&c.file, "config", "", "kubeadm's configuration `file`, to take the address from and to check against; or the kubeconfig to use")
	flags.StringVar(&c.token, "token", "", "the bootstrap `token`, as of kubeadm join")
	flags.StringSliceVar(&c.pins, "discovery-token-ca-cert-hash", nil, "the `hash` of the cluster CA's public key, as of kubeadm join")
	flags.BoolVar(&c.unpinned, "discovery-token-unsafe-skip-ca-verification", false, "go by the token alone, as of kubeadm join")
	flags.StringVar(&c.reader, "kubeconfig", "", "`file` to read the cluster's settings with, in place of a bootstrap token")
	// These belong to the line that kubeadm prints, and change nothing here.
	flags.Bool("control-plane", true, "as of kubeadm join; always so")
	flags.String("certificate-key", "", "as of kubeadm join; not needed")
	for _, name := range []string{"control-plane", "certificate-key"} {
		cmd.Flag(name).Hidden = true
	}
	return cmd
}

// takeFile tells apart what --config of `kubeadm join` means: kubeadm's own configuration, as its --config does,
// or a kubeconfig, as it always did here. Arguments are a configuration, too.
func (c *companion) takeFile(args []string) error {
	given := len(args) > 0 || c.token != "" || len(c.pins) > 0 || c.unpinned
	switch {
	case given && c.file != "":
		return errors.New("--config has what kubeadm join is told: leave out the endpoint, --token and the --discovery-token flags")
	case given && len(args) == 0:
		return errors.New("--token and the --discovery-token flags need the endpoint, 10.0.0.10:6443 for example")
	case given:
		var err error
		c.kubeadmPlace = "kubeadm join " + args[0]
		c.kubeadmText, err = c.configuration(args[0])
		return err
	case c.file == "":
		return nil
	}
	data, err := os.ReadFile(c.file)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	if !manifest.IsKubeconfig(data) {
		c.kubeadmFile = c.file
		return nil
	}
	if c.kubeconfig, err = filepath.Abs(c.file); err != nil {
		return fmt.Errorf("--config %s: %w", c.file, err)
	}
	return nil
}

// configuration is what kubeadm makes of its arguments, without a controlPlane: they do not say where the local API server is.
func (c *companion) configuration(endpoint string) ([]byte, error) {
	return json.Marshal(map[string]any{
		"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "JoinConfiguration",
		"discovery": map[string]any{"bootstrapToken": map[string]any{
			"apiServerEndpoint": endpoint, "token": c.token, "caCertHashes": c.pins, "unsafeSkipCAVerification": c.unpinned,
		}},
	})
}

// write writes the Pod. To a file it does so when nothing that it finds on this machine is in the way.
func (c *companion) write(cmd *cobra.Command) error {
	ignored, err := preflight.ParseIgnored(c.ignore)
	if err != nil {
		return prefixed(err, "--ignore-preflight-errors")
	}
	if len(ignored) > 0 && !c.toFile() {
		c.warn("--ignore-preflight-errors has no effect: without --output FILE this machine is not looked at")
	}
	if c.joins {
		c.handout = c.fetch
	}
	options, loaded, err := c.options(cmd)
	if err != nil {
		return err
	}
	if !c.toFile() {
		return c.generator.write(manifest.Pod(options))
	}
	host, leave := c.machine()
	defer leave()
	found := ignored.Apply(preflight.Run(cmd.Context(), c.flight(loaded, c.joins, c.output), host))
	var bad []string
	odd := found[:0:0]
	for _, f := range found {
		if f.Level != preflight.OK {
			odd = append(odd, f)
		}
		if f.Level == preflight.Error && !slices.Contains(bad, f.Check) {
			bad = append(bad, f.Check)
		}
	}
	fmt.Fprint(c.stderr, preflightText(odd))
	if len(bad) > 0 {
		return fmt.Errorf("nothing is written to %s: kube-vip would not work here, see what is marked as an error above; --ignore-preflight-errors=%s goes on all the same", c.output, strings.Join(bad, ","))
	}
	if err := c.generator.write(manifest.Pod(options)); err != nil {
		return err
	}
	fmt.Fprintf(c.stderr, "%s is written; %s\n", c.output, summary(found, odd))
	return nil
}

// summary is what was found in a few words.
func summary(found, odd []preflight.Finding) string {
	if len(odd) == 0 {
		return fmt.Sprintf("%d checks found nothing in its way here", len(found))
	}
	return fmt.Sprintf("%d checks found nothing in its way here; see above for the others", len(found)-len(odd))
}

// fetch supplies the cluster's settings. Its error is what keeps a node from joining by them; where it can do without, the user is
// told why it has to.
func (c *companion) fetch(ctx context.Context, loaded *config.Loaded) error {
	const byFlags = "give --arp or --bgp with what belongs to it"
	mode := loaded.Config.ARP.Enable || loaded.Config.BGP.Enable
	source := c.source()
	switch reachable := c.toFile() && (source.Endpoint != "" || source.Kubeconfig != ""); {
	case !reachable && mode:
		return nil
	case !c.toFile():
		return errors.New("to stdout nothing is asked for, so the settings are not known: " + byFlags + ", or --output FILE on the node, which has them come from the cluster")
	case !reachable && c.kubeadm != nil && c.kubeadm.Discovery().Endpoint != "": // what lacks is a token
		return fmt.Errorf("the settings are not known: the cluster at %s is asked with --token and --discovery-token-ca-cert-hash, which kubeadm token create --print-join-command prints; or %s", c.kubeadm.Discovery().Endpoint, byFlags)
	case !reachable:
		return errors.New("the settings are not known: " + byFlags + ", or have them come from the cluster, by --config join.yaml or the endpoint, --token and --discovery-token-ca-cert-hash of kubeadm join")
	case strings.Contains(source.Kubeconfig, "://"):
		c.warn("discovery.file is a URL: the settings are not read from the cluster; --kubeconfig names a file to read them with")
		return nil
	}
	read := c.read
	switch {
	case read == nil && mode:
		read = join.Read
	case read == nil:
		read = func(ctx context.Context, s join.Source) (join.Handout, error) {
			return join.Await(ctx, s, func(why error) { fmt.Fprintf(c.stderr, "waiting a minute for the settings: %v\n", oneLine(why)) })
		}
	}
	h, err := read(ctx, source)
	switch {
	case errors.Is(err, join.ErrUntrusted):
		return err
	case err != nil && mode:
		c.warn("the settings are those that are given here, and none come from the cluster: %v", err)
		return nil
	case err != nil:
		return fmt.Errorf("the settings could not be taken from the cluster: %w; "+byFlags+", or have a kube-vip that keeps the %s run as a static Pod on the others", err, handoutName)
	}
	return c.take(loaded, h)
}

// source is how the cluster is asked.
func (c *companion) source() join.Source {
	if c.reader != "" {
		return join.Source{Kubeconfig: c.reader}
	}
	if c.kubeadm == nil {
		return join.Source{Kubeconfig: c.kubeconfig}
	}
	d := c.kubeadm.Discovery()
	if d.File != "" {
		return join.Source{Kubeconfig: d.File, User: d.User}
	}
	if d.Token == "" || d.Endpoint == "" {
		return join.Source{}
	}
	return join.Source{Endpoint: d.Endpoint, Token: d.Token, Pins: d.Pins, Unpinned: d.Unpinned, User: d.User}
}

// handoutName is how messages name where the cluster's settings come from.
const handoutName = "ConfigMap " + join.Namespace + "/" + join.Name

// take supplies what a cluster hands out, in the order of the table of settings.
func (c *companion) take(loaded *config.Loaded, h join.Handout) error {
	var problems []error
	known := map[string]bool{}
	own := slices.Clone(h.Own)
	over := c.otherMode(loaded, h)
	for _, s := range config.Settings() {
		known[s.Name] = true
		switch value, is := h.Settings[s.Name]; {
		case !is, s.Name == over:
		case s.Own(value):
			own = append(own, s.Name)
		default:
			problems = append(problems, loaded.Supply(s.Name, value, handoutName))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h.Settings)) {
		if !known[name] {
			c.warn("%s has %q, which this version does not know: it is left out", handoutName, name)
		}
	}
	lacks := func(names []string, text string) {
		for _, name := range names {
			switch {
			case !known[name]:
				c.warn("the others have %q, which this version does not know", name)
			case !loaded.Origin(name).IsSet():
				c.warn("the others have --%s, "+text, name, handoutName)
			}
		}
	}
	lacks(own, "of which each node needs its own, and it is not taken from the %s: give it here, if this node is to have it")
	lacks(h.Secrets, "which is secret and not in the %s: give it here, too")
	if h.Version != c.build.Version && c.image == manifest.DefaultImage {
		c.warn("the others run kube-vip %q, and the manifest has the image of this program, %s: --image names another", h.Version, c.build.Version)
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	c.tellTaken(loaded)
	return nil
}

// otherMode is the name of the setting by which the others announce, where the user has this node announce by the other one; empty
// where they agree.
func (c *companion) otherMode(loaded *config.Loaded, h join.Handout) string {
	theirs := func(mode string) bool {
		on, _ := strconv.ParseBool(h.Settings[mode])
		return on
	}
	mode, other := "", ""
	switch arp, bgp := loaded.Config.ARP.Enable, loaded.Config.BGP.Enable; {
	case bgp && !arp && theirs("arp"):
		mode, other = "bgp", "arp"
	case arp && !bgp && theirs("bgp"):
		mode, other = "arp", "bgp"
	default:
		return ""
	}
	c.warn("the others announce by --%s, and this node by %s: see that they are to differ", other, loaded.Spelt(mode))
	return other
}

// tellTaken tells of what came from the cluster and may surprise: addresses that are not where the user said that the cluster is,
// and a file that the Pod gets from this machine.
func (c *companion) tellTaken(loaded *config.Loaded) {
	taken := func(name string) bool { return loaded.Origin(name).Why == handoutName }
	if host, _, err := net.SplitHostPort(c.source().Endpoint); err == nil && taken("address") {
		addresses := loaded.Config.ControlPlane.Addresses
		at, err := netip.ParseAddr(host)
		if err == nil && !slices.ContainsFunc(addresses, func(a string) bool { b, err := netip.ParseAddr(a); return err != nil || b == at }) {
			c.warn("the endpoint %s is none of the VIPs that the %s has, which this node is to hold: %s; --address gives others", host, handoutName, strings.Join(addresses, ", "))
		}
	}
	if ca := loaded.Config.ControlPlane.Health.CAPath; ca != "" && taken("controlPlaneHealthCheckCAPath") {
		fmt.Fprintf(c.stderr, "from the %s: --controlPlaneHealthCheckCAPath %q, a file of this machine that the Pod mounts\n", handoutName, ca)
	}
}
