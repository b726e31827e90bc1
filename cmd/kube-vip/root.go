package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"kube-vip.io/kube-vip/pkg/config"
	"kube-vip.io/kube-vip/pkg/join"
	"kube-vip.io/kube-vip/pkg/preflight"
)

// program is one invocation: what it was started with, and where it speaks. Results go to stdout, warnings and
// errors to stderr.
type program struct {
	environ        []string
	stdout, stderr io.Writer
	build          build
	// host is the machine, and read reads the settings of a cluster. Nil are the machine that this runs on, and join.Read.
	host preflight.Host
	read func(ctx context.Context, s join.Source) (join.Handout, error)
}

// run is the program. It returns the exit code: 0, or 1 with each problem as a line "error: ..." on stderr. The
// first SIGTERM or SIGINT ends the context that commands get; a second one ends the process.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	defer context.AfterFunc(ctx, stop)()

	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	// client-go logs by klog, which has one logger for the process, what it returns as an error, too. The manager gives it its own.
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	p := &program{environ: environ, stdout: stdout, stderr: stderr, build: builtFrom(info)}
	return p.execute(ctx, args)
}

func (p *program) execute(ctx context.Context, args []string) int {
	root := p.root()
	// cobra takes nil for "read os.Args".
	root.SetArgs(append([]string{}, args...))
	if err := root.ExecuteContext(ctx); err != nil {
		for _, problem := range flatten(err) {
			fmt.Fprintf(p.stderr, "error: %v\n", problem)
		}
		return 1
	}
	return 0
}

// takesNoSettings is the annotation of commands that no setting changes anything for, and of those that are only the
// parents of others; their help lists none.
const takesNoSettings = "takes-no-settings"

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kube-vip",
		Short: "Virtual IP addresses for Kubernetes control planes and Services",
		Long: `kube-vip holds virtual IP addresses on the nodes of a Kubernetes cluster: one node at a time
answers for an address, and another takes over when it cannot.`,
		Example: `  kube-vip manifest pod --address 10.0.0.10 --arp
  kube-vip manifest daemonset --address 10.0.0.10 --arp --inCluster
  kube-vip manifest daemonset --services --arp --inCluster
  kube-vip kubeadm init --config kubeadm.yaml --arp`,
		Version:       p.build.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Annotations:   map[string]string{takesNoSettings: "true"},
		Args:          cobra.ArbitraryArgs,
		RunE:          needsCommand,
	}
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(flagError)
	root.SetUsageFunc(usage)
	config.AddFlags(root.PersistentFlags())
	completeSettings(root)
	root.AddCommand(
		p.managerCommand(),
		p.manifestCommand(),
		p.kubeadmCommand(),
		p.preflightCommand(),
		p.configCommand(),
		p.statusCommand(),
		p.explainCommand(),
		p.versionCommand(),
	)
	return root
}

// load reads the settings from cmd's flags, the environment and the config file, and prints what the user should
// know about them. The error is what could not be read; the settings are there beside it, for Validate to tell
// of the rest, unless this program itself is at fault.
func (p *program) load(cmd *cobra.Command) (*config.Loaded, error) {
	loaded, err := config.Load(cmd.Flags(), p.environ)
	if loaded != nil {
		p.tell(loaded)
	}
	return loaded, err
}

func (p *program) tell(loaded *config.Loaded) {
	for _, warning := range loaded.Warnings {
		p.warn("%s", warning)
	}
}

func (p *program) warn(format string, args ...any) {
	fmt.Fprintf(p.stderr, "warning: "+format+"\n", args...)
}

// print writes a command's result in one piece.
func (p *program) print(out []byte) error {
	if _, err := p.stdout.Write(out); err != nil {
		return fmt.Errorf("write the result to stdout: %w", err)
	}
	return nil
}

// needsCommand is what a command does that is only the parent of others: it explains itself. Asked for anything
// more it refuses, since its help in place of a manifest is not what somebody wants in a file.
func needsCommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		cmd.SuggestionsMinimumDistance = 2
		meant := cmd.SuggestionsFor(args[0])
		if len(meant) == 0 {
			return fmt.Errorf("unknown command %q for %q: want %s", args[0], cmd.CommandPath(), strings.Join(subcommands(cmd), ", "))
		}
		return fmt.Errorf("unknown command %q for %q; did you mean %s?", args[0], cmd.CommandPath(), strings.Join(meant, " or "))
	}
	if cmd.Flags().NFlag() > 0 {
		return fmt.Errorf("%q needs a command: %s", cmd.CommandPath(), strings.Join(subcommands(cmd), ", "))
	}
	return cmd.Help()
}

func subcommands(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

// noArguments is cobra.NoArgs that knows why there is an argument: `--arp true` is a switch and a stray word.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var problems []error
	for _, arg := range args {
		problem := fmt.Errorf("%q takes no arguments, and %q is none of its flags", cmd.CommandPath(), arg)
		if arg == "true" || arg == "false" {
			problem = fmt.Errorf("%q takes no arguments: a switch takes its value behind an equals sign, --arp=%s for example", cmd.CommandPath(), arg)
		}
		problems = append(problems, problem)
	}
	return errors.Join(problems...)
}

// flagError says what was probably meant by a flag that does not exist: another flag, or the one of the
// environment variable or key that was typed.
func flagError(cmd *cobra.Command, err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return err
	}
	typed, name := "--"+unknown.GetSpecifiedName(), unknown.GetSpecifiedName()
	if word := unknown.GetSpecifiedShortnames(); word != "" {
		typed, name = "-"+word, word
	}
	// Spellings in the order in which they are preferred.
	var spellings, flags []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			spellings, flags = append(spellings, f.Name), append(flags, f.Name)
		}
	})
	for _, s := range config.Settings() {
		for _, other := range slices.Concat(s.Env, s.Aliases, []string{s.Key}, s.KeyAliases) {
			spellings, flags = append(spellings, other), append(flags, s.Name)
		}
	}
	if i := nearest(name, spellings); i >= 0 {
		return fmt.Errorf("unknown flag %s; did you mean --%s?", typed, flags[i])
	}
	return fmt.Errorf("unknown flag %s", typed)
}

// nearest is the first candidate that takes fewest changes to become what was typed, -1 when none is near. Upper and
// lower case, dashes and underscores do not count.
func nearest(typed string, candidates []string) int {
	plain := func(s string) string { return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(s)) }
	a, best, least := plain(typed), -1, 0
	for i, candidate := range candidates {
		b := plain(candidate)
		if d := distance(a, b); d <= min(len(a), len(b), 6)/3 && (best < 0 || d < least) {
			best, least = i, d
		}
	}
	return best
}

// distance is how many letters must be put in, left out or replaced to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// flatten takes joined errors apart. An error that says more than the ones that it wraps stays whole.
func flatten(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || fmt.Sprint(errors.Join(joined.Unwrap()...)) != err.Error() {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}

// prefixed puts a place before each of joined errors.
func prefixed(err error, place string) error {
	var all []error
	for _, e := range flatten(err) {
		all = append(all, fmt.Errorf("%s: %w", place, e))
	}
	return errors.Join(all...)
}

// usage prints how a command is called, its own flags first and then the settings under their headings.
func usage(cmd *cobra.Command) error {
	var b strings.Builder
	section := func(title, body string) {
		if body != "" {
			fmt.Fprintf(&b, "\n%s:\n%s", title, body)
		}
	}
	b.WriteString("Usage:\n")
	onlyParent := cmd.HasAvailableSubCommands() && cmd.Annotations[takesNoSettings] != ""
	if !onlyParent {
		fmt.Fprintf(&b, "  %s\n", cmd.UseLine())
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "  %s COMMAND [flags]\n", cmd.CommandPath())
	}
	if cmd.HasExample() {
		section("Examples", strings.TrimRight(cmd.Example, "\n")+"\n")
	}
	var commands strings.Builder
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			fmt.Fprintf(&commands, "  %-*s %s\n", c.NamePadding(), c.Name(), c.Short)
		}
	}
	section("Commands", commands.String())

	grouped, groups := map[string]*pflag.FlagSet{}, []string(nil)
	isSetting := map[string]bool{}
	for _, s := range config.Settings() {
		isSetting[s.Name] = true
		if grouped[s.Group] == nil {
			grouped[s.Group] = pflag.NewFlagSet(s.Group, pflag.ContinueOnError)
			groups = append(groups, s.Group)
		}
		if f := cmd.Flags().Lookup(s.Name); f != nil {
			grouped[s.Group].AddFlag(f)
		}
	}
	own := pflag.NewFlagSet(cmd.Name(), pflag.ContinueOnError)
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !isSetting[f.Name] {
			own.AddFlag(f)
		}
	})
	section("Flags", own.FlagUsages())
	switch {
	case onlyParent:
		b.WriteString("\nUse --help with a command for what it takes.\n")
	case cmd.Annotations[takesNoSettings] == "" && cmd.Parent() != nil && cmd.Parent().Name() != "completion":
		for _, group := range groups {
			section(group, grouped[group].FlagUsages())
		}
	}
	_, err := io.WriteString(cmd.OutOrStderr(), b.String())
	return err
}
