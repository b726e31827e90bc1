// The demo shows kube-vip at work on this machine: three control-plane nodes with a real etcd and kube-apiserver
// each, one virtual IP that a client uses all the time, and four ways to lose the node that holds it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"kube-vip.io/kube-vip/test/lab"
)

func main() {
	os.Exit(lab.Main(func() int { return run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr) }))
}

// options are what the command line says.
type options struct {
	family  lab.Family
	keep    bool
	noColor bool
}

// run is the demo from its arguments to its exit code.
func run(args []string, getenv func(string) string, stdout *os.File, stderr io.Writer) int {
	o, err := parse(args, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return complain(stderr, err)
	}
	ctx, end := untilSignal(context.Background())
	defer end(nil)
	s := newScreen(stdout, !o.noColor && getenv("NO_COLOR") == "", getenv("TERM"), end)
	err = demonstrate(ctx, s, o, getenv)
	cause := context.Cause(ctx)
	var sig signalled
	switch {
	case errors.As(cause, &sig):
		return exitSignal + int(sig.signal)
	case errors.Is(cause, syscall.EPIPE):
		return exitSignal + int(syscall.SIGPIPE) // nobody reads any more: `make demo | head`
	case cause != nil:
		return complain(stderr, cause)
	case err != nil:
		return complain(stderr, err)
	}
	return 0
}

// exitSignal is what a shell adds to the signal that ended a command.
const exitSignal = 128

// complain prints the error as one line: the lab's errors bring its logs below their first.
func complain(stderr io.Writer, err error) int {
	line, _, _ := strings.Cut(err.Error(), "\n")
	_, _ = fmt.Fprintln(stderr, "error:", strings.TrimRight(line, ": "))
	return 1
}

// parse reads the command line. Help goes to stdout.
func parse(args []string, stdout io.Writer) (options, error) {
	var o options
	var v6, dual bool
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.BoolVar(&v6, "ipv6", false, "")
	fs.BoolVar(&dual, "dual", false, "")
	fs.BoolVar(&o.keep, "keep", false, "")
	fs.BoolVar(&o.noColor, "no-color", false, "")
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, _ = io.WriteString(stdout, usage)
		return o, err
	case err != nil:
		return o, fmt.Errorf("%w; see demo --help", err)
	case fs.NArg() > 0:
		return o, fmt.Errorf("%s: the demo takes flags only; see demo --help", fs.Arg(0))
	case v6 && dual:
		return o, errors.New("--ipv6 and --dual exclude each other")
	case v6:
		o.family = lab.IPv6
	case dual:
		o.family = lab.Dual
	default:
		o.family = lab.IPv4
	}
	return o, nil
}

const usage = `Shows kube-vip at work: three control-plane nodes in network namespaces of this
machine, one virtual IP, and four ways to lose the node that holds it.

Usage: make demo [DEMOFLAGS="FLAGS"], or bin/demo [FLAGS]

  --ipv6       an IPv6 cluster and virtual IP instead of IPv4
  --dual       both: two virtual IPs that move together
  --keep       leave everything running at the end, until Ctrl-C
  --no-color   no colours; so does NO_COLOR=1 in the environment
`

// signalled is the cause of a context that a signal has ended.
type signalled struct{ signal syscall.Signal }

func (s signalled) Error() string { return "ended by the signal " + s.signal.String() }

// untilSignal returns a context that ends with the first signal, and what ends it otherwise.
// Signals after the first are swallowed, so that none of them stops the cleaning up.
func untilSignal(parent context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	signals, pipes := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	// A SIGPIPE that somebody asked for does not end the program: the write fails, and whoever wrote knows what
	// that means. Connections of the lab break all the time; only that of stdout is the end.
	signal.Notify(pipes, syscall.SIGPIPE)
	go func() {
		select {
		case s := <-signals:
			cancel(signalled{s.(syscall.Signal)})
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// possible returns nil when this machine can run the demo, else what to do about it.
func possible(o lab.Options, self string, getenv func(string) string) error {
	privileges := o
	privileges.NoCluster = true
	if err := lab.Check(privileges); err != nil {
		if os.Geteuid() != 0 || rootless() {
			return notRoot(self, getenv(lab.PartsEnv))
		}
		return fmt.Errorf("%w (in a container: it has to be privileged)", err)
	}
	return lab.Check(o)
}

// notRoot says what to do without root and user namespaces. Everything is built by then, and root may have neither
// Go on its PATH nor our cache: the demo itself is what to run as root.
func notRoot(self, parts string) error {
	env := ""
	if parts != "" {
		env = "env " + lab.PartsEnv + "=" + parts + " "
	}
	return fmt.Errorf("the demo needs root, or user namespaces, which this machine does not allow; all is built, so run: sudo %s%s", env, self)
}

// program finds the kube-vip to show: what KUBE_VIP_BINARY names, else the one beside this program.
func program(self string, getenv func(string) string) (string, error) {
	path := getenv(lab.BinaryEnv)
	if path == "" {
		path = filepath.Join(filepath.Dir(self), "kube-vip")
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("find the program to show: %w; run: make demo", err)
	}
	return path, nil
}
