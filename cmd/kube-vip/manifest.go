package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"

	"kube-vip.io/kube-vip/pkg/config"
	"kube-vip.io/kube-vip/pkg/manifest"
)

// generator holds the flags of the commands that write manifests, which are no settings of the daemon.
type generator struct {
	*program
	inCluster bool
	taint     bool
	image     string
	output    string
	// kubeadmFlag names the flag that kubeadmFile was given with.
	kubeadmFlag string
	kubeadmFile string
	// kubeadmText takes the place of that file, and kubeadmPlace is how messages name it.
	kubeadmText  []byte
	kubeadmPlace string
	// kubeadm is what is in it, when it was read; nil until then.
	kubeadm *manifest.Kubeadm
	// handout supplies the settings of a cluster that is there already; nil where there is none to ask.
	handout func(ctx context.Context, loaded *config.Loaded) error
	// kubeconfig is used where no setting names one.
	kubeconfig string
	// controlPlane is true where the command itself asks for the control plane's VIP.
	controlPlane bool
}

func (p *program) manifestCommand() *cobra.Command {
	g := &generator{program: p, kubeadmFlag: "kubeadm-config"}
	cmd := &cobra.Command{
		Use:   "manifest",
		Short: "Write the manifest of a static Pod, a DaemonSet or RBAC objects",
		Long: `Writes Kubernetes manifests that run kube-vip with the given settings, to stdout or to the file of
--output. Settings are flags, environment variables, or keys of the file of --config-file.`,
		Annotations: map[string]string{takesNoSettings: "true"},
		Args:        cobra.ArbitraryArgs,
		RunE:        needsCommand,
	}
	flags := cmd.PersistentFlags()
	flags.BoolVar(&g.inCluster, "inCluster", false, "use the ServiceAccount kube-vip in place of the host's kubeconfig")
	flags.StringVar(&g.kubeadmFile, g.kubeadmFlag, "", "kubeadm's configuration `file`, to take the address from and to check against")
	g.addImage(cmd)
	g.addOutput(cmd)

	pod := &cobra.Command{
		Use:   "pod",
		Short: "Write a static Pod, for the kubelet of each control-plane node",
		Example: `  kube-vip manifest pod --address 10.0.0.10 --arp
  kube-vip manifest pod --address 10.0.0.10,fd00::10 --arp --interface eth0 -o /etc/kubernetes/manifests/kube-vip.yaml
  kube-vip manifest pod --kubeadm-config kubeadm.yaml --arp`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return g.writePod(cmd) },
	}
	daemonSet := &cobra.Command{
		Use:   "daemonset",
		Short: "Write a DaemonSet, for a cluster that is there already",
		Example: `  kube-vip manifest daemonset --address 10.0.0.10 --arp --inCluster --taint
  kube-vip manifest daemonset --services --arp --inCluster
  kube-vip manifest daemonset --controlplane --address 10.0.0.10 --services --arp --inCluster
  kube-vip manifest daemonset --address 10.0.0.10 --bgp --bgppeers 192.0.2.1:65000 --inCluster`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return g.writeDaemonSet(cmd) },
	}
	daemonSet.Flags().BoolVar(&g.taint, "taint", false, "run on control-plane nodes only, whatever taints they have; implied by a VIP of the control plane")
	cmd.AddCommand(pod, daemonSet, p.rbacCommand(g))
	return cmd
}

func (p *program) rbacCommand(g *generator) *cobra.Command {
	var scope manifest.Scope
	rbac := &cobra.Command{
		Use:   "rbac",
		Short: "Write the ServiceAccount and the rights that --inCluster needs",
		Long: `Writes the ServiceAccount kube-vip and the rights that the given settings need, bound in the namespace
where they are needed. No address is needed here; without a mode they are those of --arp, and without --services
those of a control plane.`,
		Example: `  kube-vip manifest rbac --arp
  kube-vip manifest rbac --arp --services
  kube-vip manifest rbac --namespace vip-leases`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return g.writeRBAC(cmd, scope) },
	}
	rbac.Flags().BoolVar(&scope.Role, "role", false, "refuse rights in all namespaces; implies --rolebinding")
	rbac.Flags().BoolVar(&scope.RoleBinding, "rolebinding", false, "define the rights in a ClusterRole, and bind it in its namespaces only")
	return rbac
}

func (g *generator) addImage(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&g.image, "image", manifest.DefaultImage, "container image; its tag is the version of this program unless it has one, or a digest")
	complete(cmd, "image", cobra.NoFileCompletions)
}

func (g *generator) addOutput(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVarP(&g.output, "output", "o", "", "`file` to write, replaced in one step and readable by its owner only; empty or - is stdout")
}

func (g *generator) writePod(cmd *cobra.Command) error {
	options, _, err := g.options(cmd)
	if err != nil {
		return err
	}
	if g.inCluster {
		g.warn("--inCluster: the kubelet refuses static Pods that use a ServiceAccount; apply this Pod with kubectl, or leave --inCluster out")
	}
	return g.write(manifest.Pod(options))
}

func (g *generator) writeDaemonSet(cmd *cobra.Command) error {
	options, loaded, err := g.options(cmd)
	if err != nil {
		return err
	}
	options.Taint = g.taint
	if c := options.Config; !g.inCluster && !g.taint && !c.ControlPlane.Enable && loaded.Origin("k8sConfigPath").Layer == config.LayerDefault {
		g.warn("only control-plane nodes have %s, and the Pods wait for it on the others: give --inCluster, or --taint to leave them out", c.Kubernetes.ConfigFile)
	}
	if name := options.Config.Node.Name; name != "" {
		g.warn("the node name %s is not in the manifest: in a DaemonSet each Pod has that of its own node", name)
	}
	return g.write(manifest.DaemonSet(options))
}

func (g *generator) writeRBAC(cmd *cobra.Command, scope manifest.Scope) error {
	loaded, err := g.settings(cmd)
	if err != nil {
		return err
	}
	// The rights do not depend on the address, so it need not be given here.
	c := loaded.Config
	c.ControlPlane.Enable = c.ControlPlane.Enable || !c.Services.Enable
	c.Election.Enable = c.Election.Enable || !c.BGP.Enable
	objects, err := manifest.RBAC(manifest.Rules(c), scope)
	if err != nil {
		return err
	}
	return g.write(objects...)
}

// options are all that a Pod or DaemonSet is made of, and the settings that it comes from; or everything that is wrong
// with it.
func (g *generator) options(cmd *cobra.Command) (manifest.Options, *config.Loaded, error) {
	loaded, err := g.settings(cmd)
	image, imageErr := manifest.Image(g.image, g.build.Version)
	if imageErr != nil {
		imageErr = fmt.Errorf("--image %w", imageErr)
	}
	problems := []error{err, imageErr}
	if loaded != nil {
		problems = append(problems, loaded.Validate(), g.checkPaths(loaded))
	}
	if err := errors.Join(problems...); err != nil {
		return manifest.Options{}, nil, err
	}
	if image != g.image && !g.build.released() {
		g.warn("this program is not a release, so there may be no image %s: name one with --image", image)
	}
	return manifest.Options{
		Config:    loaded.Config,
		Env:       loaded.Env(),
		Image:     image,
		Version:   g.build.Version,
		InCluster: g.inCluster,
	}, loaded, nil
}

// checkPaths refuses what cannot be mounted from a host.
func (g *generator) checkPaths(loaded *config.Loaded) error {
	var problems []error
	absolute := func(name, path string) {
		if path != "" && !filepath.IsAbs(path) {
			problems = append(problems, fmt.Errorf("%s: %q is not an absolute path, and a Pod knows no other", loaded.Spelt(name), path))
		}
	}
	absolute("controlPlaneHealthCheckCAPath", loaded.Config.ControlPlane.Health.CAPath)
	absolute("bgpPeersFile", loaded.Config.BGP.PeersFile)
	if b := loaded.Config.BGP; b.Enable && b.PeersFile != "" {
		// A file that is mounted alone is not seen to change.
		g.warn("%s: the manifest does not mount %s: add a volume that has it, of a ConfigMap for instance, and mount its directory", loaded.Spelt("bgpPeersFile"), b.PeersFile)
	}
	switch path := loaded.Config.Kubernetes.ConfigFile; {
	case g.inCluster && loaded.Origin("k8sConfigPath").Layer != config.LayerDefault:
		g.warn("%s is not in the manifest: --inCluster uses the ServiceAccount in place of a kubeconfig", loaded.Spelt("k8sConfigPath"))
	case !g.inCluster && path == "":
		problems = append(problems, fmt.Errorf("%s: without a kubeconfig give --inCluster", loaded.Spelt("k8sConfigPath")))
	case !g.inCluster:
		absolute("k8sConfigPath", path)
	}
	return errors.Join(problems...)
}

// settings are those of load, with what the kubeadm file says where nothing was said. Without an address the
// settings are nil beside an error, since everything that Validate could say would follow from that.
func (g *generator) settings(cmd *cobra.Command) (*config.Loaded, error) {
	loaded, err := config.Load(cmd.Flags(), g.environ)
	if loaded == nil {
		return nil, err
	}
	defer g.tell(loaded) // when everything is supplied
	if g.controlPlane {
		err = errors.Join(err, loaded.Supply("controlplane", "true", "kubeadm makes a control plane"))
	}
	if g.kubeconfig != "" && g.kubeconfig != loaded.Config.Kubernetes.ConfigFile {
		err = errors.Join(err, loaded.Supply("k8sConfigPath", g.kubeconfig, "--config"))
	}
	readErr := g.readKubeadm()
	if readErr == nil && g.handout != nil {
		if handoutErr := g.handout(cmd.Context(), loaded); handoutErr != nil {
			return nil, errors.Join(err, handoutErr)
		}
	}
	if g.kubeadm != nil {
		readErr = errors.Join(readErr, g.supply(loaded))
	}
	if readErr != nil && len(loaded.Config.ControlPlane.Addresses) == 0 {
		loaded = nil
	}
	return loaded, errors.Join(err, readErr)
}

// readKubeadm reads kubeadm's configuration, if there is one.
func (g *generator) readKubeadm() (err error) {
	if g.kubeadmFile != "" {
		g.kubeadmPlace = fmt.Sprintf("--%s %s", g.kubeadmFlag, g.kubeadmFile)
		if g.kubeadmText, err = os.ReadFile(g.kubeadmFile); err != nil {
			return fmt.Errorf("--%s: %w", g.kubeadmFlag, err)
		}
	}
	if g.kubeadmPlace == "" {
		return nil
	}
	if g.kubeadm, err = manifest.ParseKubeadm(g.kubeadmText); err != nil {
		return prefixed(err, g.kubeadmPlace)
	}
	return nil
}

// supply fills in what the kubeadm file says, and reports what it forbids.
func (g *generator) supply(loaded *config.Loaded) error {
	file, place := g.kubeadm, g.kubeadmPlace
	var asked manifest.Asked
	if addresses := loaded.Config.ControlPlane.Addresses; len(addresses) > 0 {
		asked.Addresses, asked.AddressesFrom = addresses, loaded.Spelt("address")
	}
	if loaded.Origin("port").Layer != config.LayerDefault {
		asked.Port, asked.PortFrom = loaded.Config.ControlPlane.Port, loaded.Spelt("port")
	}
	addresses, port, err := file.Endpoint(asked)
	if err != nil {
		err = prefixed(err, place)
	}
	if len(addresses) > 0 {
		err = errors.Join(err, loaded.Supply("address", strings.Join(addresses, ","), place))
	}
	if port != 0 {
		err = errors.Join(err, loaded.Supply("port", strconv.Itoa(int(port)), place))
	}
	return err
}

func (g *generator) write(objects ...runtime.Object) error {
	out, err := manifest.YAML(objects...)
	if err != nil {
		return err
	}
	if !g.toFile() {
		return g.print(out)
	}
	if err := replaceFile(g.output, out); err != nil {
		return fmt.Errorf("--output: write %s: %w", g.output, err)
	}
	return nil
}

// toFile says that the manifest goes to a file and not to stdout.
func (g *generator) toFile() bool { return g.output != "" && g.output != "-" }

// replaceFile writes a file of mode 0600 so that its readers see the old contents or the new, never a part: the
// kubelet reads its directory of manifests at any time, but passes over names that begin with a dot. What is not
// a regular file is not replaced.
func replaceFile(path string, data []byte) (err error) {
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("is there, and is not a regular file (%s)", info.Mode().Type())
	}
	dir := filepath.Dir(path)
	file, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// Closing it twice is nothing that anybody needs to know.
			_ = file.Close()
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	if _, err := file.Write(data); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	// The new name is on the disk when its directory is.
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
