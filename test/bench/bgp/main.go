// Bgp measures in a lab what routers, FRR and BIRD, and who is behind them see of kube-vip's BGP: how soon there are a
// session and routes, how soon those of a node go that has failed or vanished, what is lost while instances are restarted,
// and what ten thousand addresses cost. It prints tables and writes them into its section of docs/benchmarks.md.
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
	"slices"
	"strings"
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
	n       int           // addresses of Services
	samples int           // of each event
	more    int           // of one more Service
	rest    time.Duration // how long BFD is watched at rest
	parts   []string
	binary  string
	out     string
	quick   bool
}

// The parts of the benchmark: three nodes and what may happen to them, and a node with thousands of addresses.
const (
	nodesPart     = "nodes"
	addressesPart = "addresses"
)

// What is measured unless flags say otherwise.
var byDefault = config{n: 10000, samples: 5, more: 30, rest: 30 * time.Second, parts: []string{nodesPart, addressesPart}}

// trial is -quick.
var trial = config{n: 500, samples: 2, more: 10, rest: 10 * time.Second}

func parse(args []string, stderr io.Writer) (config, error) {
	c := byDefault
	fs := flag.NewFlagSet("bgp", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.IntVar(&c.n, "n", byDefault.n, "addresses of Services")
	fs.IntVar(&c.samples, "samples", byDefault.samples, "samples of each event")
	fs.IntVar(&c.more, "more", byDefault.more, "how often one more Service is created")
	fs.DurationVar(&c.rest, "rest", byDefault.rest, "how long BFD is watched at rest")
	fs.BoolVar(&c.quick, "quick", false, fmt.Sprintf("a trial: %d addresses, %d samples, nothing written unless -o says where", trial.n, trial.samples))
	fs.Func("part", "what is measured: nodes, addresses, or both, separated by a comma (default "+strings.Join(byDefault.parts, ",")+"); only both are written", func(s string) error {
		c.parts = strings.Split(s, ",")
		for _, p := range c.parts {
			if !slices.Contains(byDefault.parts, p) {
				return fmt.Errorf("%q is neither nodes nor addresses", p)
			}
		}
		return nil
	})
	fs.StringVar(&c.binary, "binary", os.Getenv(lab.BinaryEnv), "the kube-vip to measure; empty means bin/kube-vip")
	fs.StringVar(&c.out, "o", filepath.Join("docs", "benchmarks.md"), "the file to write into")
	if err := fs.Parse(args); err != nil {
		return c, err
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if c.quick {
		for name, set := range map[string]func(){
			"n":       func() { c.n = trial.n },
			"samples": func() { c.samples = trial.samples },
			"more":    func() { c.more = trial.more },
			"rest":    func() { c.rest = trial.rest },
			"o":       func() { c.out = "" },
		} {
			if !given[name] {
				set()
			}
		}
	}
	if len(c.parts) < len(byDefault.parts) {
		c.out = ""
	}
	if c.binary == "" {
		c.binary = filepath.Join("bin", "kube-vip")
	}
	switch {
	case c.n < 1 || c.n >= measure.MostServices:
		return c, fmt.Errorf("-n is %d: it must be from 1 to %d", c.n, measure.MostServices-1)
	case c.samples < 1 || c.more < 1:
		return c, errors.New("-samples and -more: at least one is needed")
	}
	return c, nil
}

// command brings our section about.
const command = "make bench-bgp"

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	c, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.out != "" {
		if _, err := os.Stat(filepath.Dir(c.out)); err != nil {
			return fmt.Errorf("write %s: %w", c.out, err) // now, and not after ten minutes
		}
	}
	for _, kind := range kinds {
		if err := lab.CheckRouter(kind); err != nil {
			return err
		}
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	r := &report{config: c, log: log, began: time.Now(), figures: map[string]map[lab.RouterKind]figure{}}
	for _, part := range c.parts {
		measured := map[string]func(context.Context, *report, *slog.Logger) error{nodesPart: measureNodes, addressesPart: measureAddresses}[part]
		if err := measured(ctx, r, log.With("part", part)); err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
	}
	r.took = time.Since(r.began)
	page := r.markdown()
	if c.out != "" {
		if err := measure.Write(c.out, command, page); err != nil {
			return err
		}
		log.Info("written", "file", c.out)
	}
	_, err = io.WriteString(stdout, page)
	return err
}
