package main

import (
	"net"
	"slices"

	"github.com/spf13/cobra"

	"kube-vip.io/kube-vip/pkg/config"
)

// completeSettings tells the shell what the settings' flags take: the names of this machine's interfaces, the
// values of an enumeration, files; and nothing where only the user can know.
func completeSettings(root *cobra.Command) {
	for _, s := range config.Settings() {
		f := cobra.NoFileCompletions
		switch {
		case s.Type() == "interface":
			f = completeInterfaces
		case len(s.Enum) > 0:
			f = cobra.FixedCompletions(s.Enum, cobra.ShellCompDirectiveNoFileComp)
		case s.Type() == "bool":
			f = cobra.FixedCompletions([]string{"true", "false"}, cobra.ShellCompDirectiveNoFileComp)
		case s.Type() == "file":
			continue
		}
		for _, name := range slices.Concat([]string{s.Name}, s.Aliases) {
			complete(root, name, f)
		}
	}
}

// complete registers a flag's completion. The error that cobra returns for an unknown flag is a mistake in this
// program, not in its use; the tests see it as a completion that is missing.
func complete(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	_ = cmd.RegisterFlagCompletionFunc(flag, f)
}

func completeInterfaces(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []cobra.Completion
	for _, i := range interfaces {
		names = append(names, cobra.CompletionWithDesc(i.Name, i.Flags.String()))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
