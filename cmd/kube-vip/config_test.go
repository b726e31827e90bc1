package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"kube-vip.io/kube-vip/pkg/config"
)

// runConfig runs `kube-vip config` with the arguments and the environment.
func runConfig(t *testing.T, environ []string, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	cmd := newConfigCommand(func(cmd *cobra.Command) (*config.Loaded, error) { return config.Load(cmd.Flags(), environ) }, &out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	config.AddFlags(cmd.PersistentFlags())
	cmd.SetArgs(append([]string{}, args...))
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestConfigShowsEverySetting(t *testing.T) {
	environ := []string{"vip_address=10.0.0.10", "bgp_peerpass=s3cret", "bgp_peers=10.0.0.1:65000:s3cret"}
	args := []string{"--arp", "--cidr=24"}
	want := map[string]shownSetting{
		"address":        {Env: "address", Value: "10.0.0.10", Origin: config.Origin{Layer: config.LayerEnv, Name: "vip_address"}},
		"vipSubnet":      {Env: "vip_subnet", Value: "24", Origin: config.Origin{Layer: config.LayerFlag, Name: "--cidr"}},
		"peerPass":       {Env: "bgp_peerpass", Value: "***", Origin: config.Origin{Layer: config.LayerEnv, Name: "bgp_peerpass"}},
		"bgppeers":       {Env: "bgp_peers", Value: "10.0.0.1:65000:***", Origin: config.Origin{Layer: config.LayerEnv, Name: "bgp_peers"}},
		"port":           {Env: "port", Value: "6443", Origin: config.Origin{Layer: config.LayerDefault}},
		"leaderElection": {Env: "vip_leaderelection", Value: "true", Origin: config.Origin{Layer: config.LayerDerived, Why: "ARP always elects a leader"}},
	}
	parse := map[string]func(string) ([]shownSetting, error){
		"json": func(out string) (all []shownSetting, err error) { return all, json.Unmarshal([]byte(out), &all) },
		"yaml": func(out string) (all []shownSetting, err error) { return all, yaml.UnmarshalStrict([]byte(out), &all) },
	}
	for format, parse := range parse {
		t.Run(format, func(t *testing.T) {
			out, err := runConfig(t, environ, append(args, "-o", format)...)
			if err != nil {
				t.Fatal(err)
			}
			all, err := parse(out)
			if err != nil {
				t.Fatalf("%v in:\n%s", err, out)
			}
			if len(all) != len(config.Settings()) {
				t.Errorf("want %d settings, got %d", len(config.Settings()), len(all))
			}
			for name, w := range want {
				w.Setting = name
				i := slices.IndexFunc(all, func(s shownSetting) bool { return s.Setting == name })
				if i < 0 {
					t.Errorf("%s is not shown", name)
					continue
				}
				if diff := cmp.Diff(w, all[i]); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			}
			if strings.Contains(out, "s3cret") {
				t.Errorf("the password is shown:\n%s", out)
			}
		})
	}
	t.Run("table", func(t *testing.T) {
		out, err := runConfig(t, environ, args...)
		if err != nil {
			t.Fatal(err)
		}
		rows := map[string]string{}
		for line := range strings.Lines(out) {
			fields := strings.Fields(line)
			rows[fields[0]] = strings.Join(fields[1:], " ")
		}
		for name, want := range map[string]string{
			"SETTING":        "VALUE FROM",
			"address":        "10.0.0.10 env vip_address",
			"vipSubnet":      "24 flag --cidr",
			"peerPass":       "*** env bgp_peerpass",
			"port":           "6443 default",
			"interface":      "- default",
			"leaderElection": "true derived: ARP always elects a leader",
		} {
			if rows[name] != want {
				t.Errorf("%s: want %q, got %q", name, want, rows[name])
			}
		}
		if len(rows) != len(config.Settings())+1 || strings.Contains(out, "s3cret") {
			t.Errorf("got:\n%s", out)
		}
	})
}

func TestConfigErrors(t *testing.T) {
	for _, test := range []struct {
		name    string
		environ []string
		args    []string
		want    string
	}{
		{"format", nil, []string{"-o", "xml"}, `--output: "xml" is not one of table, yaml, json`},
		{"value", []string{"port=x"}, nil, `port: "x" is not a whole number from 1 to 65535`},
		{"argument", nil, []string{"check"}, `unknown command "check" for "config"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := runConfig(t, test.environ, test.args...)
			if err == nil || err.Error() != test.want {
				t.Errorf("want the error %q, got %v", test.want, err)
			}
			if out != "" {
				t.Errorf("stdout: %q", out)
			}
		})
	}
}

func TestConfigValidate(t *testing.T) {
	t.Run("valid", func(t *testing.T) {
		out, err := runConfig(t, []string{"address=10.0.0.10", "vip_arp=true"}, "validate")
		if err != nil || out != "the configuration is valid\n" {
			t.Errorf("got %q, %v", out, err)
		}
	})
	t.Run("invalid", func(t *testing.T) {
		out, err := runConfig(t, []string{"cp_enable=true", "port=x", "vip_leaseduration=2"}, "validate", "--arp", "--bgp")
		if err == nil {
			t.Fatal("no error")
		}
		want := []string{
			`port: "x" is not a whole number from 1 to 65535`,
			"--arp=true and --bgp=true exclude each other: announce by one of them",
			"cp_enable=true: the control plane has no address: give the VIP as --address (env address)",
			"vip_leaseduration=2 must be more than --leaseRenewDuration=3 (default; env vip_renewdeadline) and --leaseRetry=1 (default; env vip_retryperiod) together: a holder that cannot renew must be rid of the VIP before another may take the Lease",
			"BGP needs a peer: give --bgppeers (env bgp_peers) as addr:AS, or --peerAddress (env bgp_peeraddress)",
		}
		if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if out != "" {
			t.Errorf("stdout: %q", out)
		}
	})
}
