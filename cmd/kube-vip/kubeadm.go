package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"kube-vip.io/kube-vip/pkg/manifest"
)

func (p *program) kubeadmCommand() *cobra.Command {
	g := &generator{program: p, kubeadmFlag: "config", controlPlane: true}
	cmd := &cobra.Command{
		Use:   "kubeadm",
		Short: "Write the static Pod for a control-plane node that kubeadm is about to make",
		Long: `Writes the static Pod that holds the control plane's VIP on a node where "kubeadm init" or "kubeadm
join --control-plane" is run next. The same Pod serves before, during and after that.`,
		Annotations: map[string]string{takesNoSettings: "true"},
		Args:        cobra.ArbitraryArgs,
		RunE:        needsCommand,
	}
	g.addImage(cmd)
	g.addOutput(cmd)

	initialize := &cobra.Command{
		Use:   "init",
		Short: "Write the static Pod for the first control-plane node",
		Example: `  kube-vip kubeadm init --config kubeadm.yaml --arp -o /etc/kubernetes/manifests/kube-vip.yaml
  kube-vip kubeadm init --address 10.0.0.10 --interface eth0 --arp`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return g.writePod(cmd) },
	}
	initialize.Flags().StringVar(&g.kubeadmFile, "config", "", "kubeadm's configuration `file`, to take the address from and to check against")

	var joinFile string
	join := &cobra.Command{
		Use:   "join",
		Short: "Write the static Pod for each further control-plane node",
		Example: `  kube-vip kubeadm join --config join.yaml --arp -o /etc/kubernetes/manifests/kube-vip.yaml
  kube-vip kubeadm join --address 10.0.0.10 --interface eth0 --arp`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.writeJoin(cmd, joinFile)
		},
	}
	join.Flags().StringVar(&joinFile, "config", "", "kubeadm's configuration `file`, to take the address from and to check against; or the kubeconfig to use")
	cmd.AddCommand(initialize, join)
	return cmd
}

// writeJoin tells apart what --config of `kubeadm join` means: kubeadm's own configuration, as its --config does,
// or a kubeconfig, as it always did here.
func (g *generator) writeJoin(cmd *cobra.Command, file string) error {
	if file == "" {
		return g.writePod(cmd)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	if !manifest.IsKubeconfig(data) {
		g.kubeadmFile = file
		return g.writePod(cmd)
	}
	if g.kubeconfig, err = filepath.Abs(file); err != nil {
		return fmt.Errorf("--config %s: %w", file, err)
	}
	return g.writePod(cmd)
}
