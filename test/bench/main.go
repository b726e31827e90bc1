// Bench measures in one lab, in one run, what a client of the control plane's address sees when its holder goes:
// with kube-vip run from the manifest that it generates, and with keepalived on the same nodes at the same moment.
// It prints tables and writes them into its section of docs/benchmarks.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"kube-vip.io/kube-vip/test/bench/measure"
	"kube-vip.io/kube-vip/test/lab"
)

func main() { os.Exit(lab.Main(program)) }

// program is main but for the exit.
func program() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return 0
}

// config is what the command line says.
type config struct {
	n      int           // samples per event
	rest   time.Duration // how long the idle cluster is watched
	binary string
	out    string
	quick  bool
}

// What is measured unless flags say otherwise.
const (
	samples = 10
	rest    = time.Minute
)

func parse(args []string, stderr io.Writer) (config, error) {
	var c config
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.IntVar(&c.n, "n", samples, "samples per event")
	fs.BoolVar(&c.quick, "quick", false, "a trial: two samples per event, a short rest, nothing written unless -o says where")
	fs.DurationVar(&c.rest, "rest", rest, "how long the cluster at rest is watched")
	fs.StringVar(&c.binary, "binary", os.Getenv(lab.BinaryEnv), "the kube-vip to measure; empty means bin/kube-vip")
	fs.StringVar(&c.out, "o", filepath.Join("docs", "benchmarks.md"), "the file to write")
	if err := fs.Parse(args); err != nil {
		return c, err
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if c.quick {
		if !given["n"] {
			c.n = 2
		}
		if !given["rest"] {
			c.rest = 20 * time.Second
		}
		if !given["o"] {
			c.out = ""
		}
	}
	if c.binary == "" {
		c.binary = filepath.Join("bin", "kube-vip")
	}
	if c.n < 1 {
		return c, fmt.Errorf("-n is %d: at least one sample is needed", c.n)
	}
	return c, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	c, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	b, err := newBench(ctx, c, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	r, err := b.measure(ctx)
	if err != nil {
		return err
	}
	page := r.markdown()
	if c.out != "" {
		if err := measure.Write(c.out, "make bench", page); err != nil {
			return err
		}
		log.Info("written", "file", c.out)
	}
	_, err = io.WriteString(stdout, page)
	return err
}
