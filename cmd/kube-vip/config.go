package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"kube-vip.io/kube-vip/pkg/config"
)

// configCommand is `kube-vip config`: what the settings come to, and whether they make sense.
func (p *program) configCommand() *cobra.Command { return newConfigCommand(p.load, p.stdout) }

func newConfigCommand(load func(*cobra.Command) (*config.Loaded, error), stdout io.Writer) *cobra.Command {
	formats := []string{"table", "yaml", "json"}
	format := formats[0]
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show every setting, its effective value and where that came from",
		Long: "Show every setting, its effective value and where that came from: a flag, an environment variable,\n" +
			"the config file, another setting that it follows from, or the default. Secrets are hidden.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains(formats, format) {
				return fmt.Errorf("--output: %q is not one of %s", format, strings.Join(formats, ", "))
			}
			loaded, err := load(cmd)
			if err != nil {
				return err
			}
			text, err := renderSettings(loaded.Effective(), format)
			if err != nil {
				return err
			}
			_, err = io.WriteString(stdout, text)
			return err
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", format, "format: "+strings.Join(formats, ", "))
	if err := cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is defined on the line above
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "validate",
		Short: "Check the settings: list everything that is wrong, or say that they are valid",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := load(cmd)
			if loaded != nil {
				err = errors.Join(err, loaded.Validate())
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(stdout, "the configuration is valid")
			return err
		},
	})
	return cmd
}

// shownSetting is one setting in the output of `kube-vip config`.
type shownSetting struct {
	Setting string        `json:"setting"`
	Env     string        `json:"env"`
	Value   string        `json:"value"`
	Origin  config.Origin `json:"origin"`
}

// renderSettings renders the settings as a table, YAML or JSON.
func renderSettings(settings []config.Effective, format string) (string, error) {
	shown := make([]shownSetting, len(settings))
	for i, s := range settings {
		shown[i] = shownSetting{Setting: s.Setting.Name, Env: s.Setting.Env[0], Value: s.Value, Origin: s.Origin}
	}
	switch format {
	case "json":
		data, err := json.MarshalIndent(shown, "", "  ")
		return string(data) + "\n", err
	case "yaml":
		data, err := yaml.Marshal(shown)
		return string(data), err
	}
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SETTING\tVALUE\tFROM")
	for _, s := range shown {
		value := s.Value
		if value == "" {
			value = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.Setting, value, s.Origin)
	}
	err := w.Flush()
	return out.String(), err
}
