package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kube-vip.io/kube-vip/test/lab"
)

// TestPreflight runs `kube-vip preflight` on a machine with a neighbour, before there is anything of Kubernetes.
func TestPreflight(t *testing.T) {
	for _, family := range []lab.Family{lab.IPv4, lab.IPv6} {
		t.Run(string(family), func(t *testing.T) {
			l := lab.New(t, lab.Options{Family: family, Nodes: 2, NoCluster: true})
			here, other, vip := l.Nodes[0], l.Nodes[1], l.VIPs[0]
			dir := t.TempDir()
			// run returns the findings that are not ok, and whether it failed.
			run := func(args ...string) (bad map[string]string, failed bool) {
				t.Helper()
				out, err := here.Run(within(t, patience), lab.Binary(t), append([]string{"preflight", "--arp", "-o", "json", "--manifest", filepath.Join(dir, "kube-vip.yaml")}, args...)...)
				var found []struct{ Check, Level, Text, Fix string }
				if jsonErr := json.NewDecoder(strings.NewReader(out)).Decode(&found); jsonErr != nil {
					t.Fatalf("%v: %s", jsonErr, out)
				}
				bad = map[string]string{}
				for _, f := range found {
					if f.Level != "ok" {
						bad[f.Check] = f.Level + ": " + f.Text
					}
					if f.Level == "error" && f.Check != "settings" && f.Fix == "" {
						t.Errorf("%s has no fix: %s", f.Check, f.Text)
					}
				}
				return bad, err != nil
			}
			expect := func(what string, fails bool, check, text string, args ...string) {
				t.Helper()
				bad, failed := run(args...)
				if failed != fails || len(bad) > 1 || !strings.Contains(bad[check], text) || text != "" && bad[check] == "" {
					t.Errorf("%s: failed %t, found %v; want %s %q", what, failed, bad, check, text)
				}
			}
			address := []string{"--address", vip.String()}
			expect("nobody has the address", false, "", "", address...)
			expect("it is to be joined", false, "address", "warning: nobody answers for "+vip.String(), append(address, "--join")...)
			if err := other.AddAddress(other.Link, netip.PrefixFrom(vip, vip.BitLen())); err != nil {
				t.Fatal(err)
			}
			expect("a stranger has it", true, "address", "hardware address "+other.MAC.String(), address...)
			written := filepath.Join(dir, "written.yaml")
			write := func(more ...string) (string, error) {
				return here.Run(within(t, patience), lab.Binary(t), append([]string{"kubeadm", "init", "--arp", "--address", vip.String(), "--output", written}, more...)...)
			}
			if out, err := write(); err == nil || !strings.Contains(out, "hardware address "+other.MAC.String()) || !strings.Contains(out, "nothing is written to "+written) {
				t.Errorf("kubeadm init, and a stranger has the address: %v\n%s", err, out)
			}
			if _, err := os.Stat(written); err == nil {
				t.Error("a manifest is written all the same")
			}
			if out, err := write("--ignore-preflight-errors", "Address"); err != nil || !strings.Contains(out, written+" is written; ") {
				t.Errorf("kubeadm init, and that is ignored: %v\n%s", err, out)
			}
			if err := os.Remove(written); err != nil {
				t.Error(err)
			}
			expect("another node has it", false, "", "", append(address, "--join")...)
			expect("an address of no network", true, "interface", "is in the network of no interface", "--address", map[lab.Family]string{lab.IPv4: "10.99.0.10", lab.IPv6: "fd00:99::10"}[family])
			file := filepath.Join(dir, "kubeadm.yaml")
			if err := os.WriteFile(file, []byte("apiVersion: kubeadm.k8s.io/v1beta1\nkind: ClusterConfiguration\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := other.RemoveAddress(other.Link, netip.PrefixFrom(vip, vip.BitLen())); err != nil {
				t.Fatal(err)
			}
			expect("a version that kubeadm does not know any more", true, "settings", "apiVersion kubeadm.k8s.io/v1beta1 is not supported", append(address, "--config", file)...)
			if err := os.WriteFile(filepath.Join(dir, "keepalived.yaml"), []byte("spec: {containers: [{image: example.com/keepalived}]}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			expect("another program's manifest", true, "others", "keepalived.yaml runs keepalived", address...)
			if out, err := here.Run(within(t, patience), lab.Binary(t), "preflight", "--arp", "--address", vip.String(), "--manifest", "/none/kube-vip.yaml"); err == nil || !strings.Contains(out, fmt.Sprintf("error    %-13s no file can be made in /none", "manifest")) {
				t.Errorf("without a directory: %s", out)
			}
		})
	}
}
