// Services measures in a lab what kube-vip does with thousands of Services: how long after a start every status is
// written, what one more costs, what an instance uses at rest, and what happens when the holder vanishes. It prints
// tables, and writes them into its sections of docs/benchmarks.md, one for each placement, with a picture of the growth
// beside it.
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
	"strconv"
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
	numbers    []int         // of Services, under one Lease
	samples    int           // of one more Service
	rest       time.Duration // how long the idle cluster is watched
	soak       time.Duration // how long the many Leases are
	placements []string
	binary     string
	out        string
	quick      bool
}

// The placements that are measured: one Lease for all Services, and a Lease for each.
const (
	byLeader = "leader"
	byLease  = "lease"
)

// What is measured unless flags say otherwise.
var byDefault = config{
	numbers: []int{100, 1000, 5000, 10000}, samples: 30, rest: 30 * time.Second, soak: 2 * time.Minute,
	placements: []string{byLeader, byLease},
}

// trial is -quick.
var trial = config{numbers: []int{100, 1000}, samples: 10, rest: 10 * time.Second, soak: 20 * time.Second}

func parse(args []string, stderr io.Writer) (config, error) {
	c := byDefault
	fs := flag.NewFlagSet("services", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Func("n", "numbers of Services, separated by commas (default "+joined(byDefault.numbers)+")", func(s string) (err error) {
		c.numbers, err = parseNumbers(s)
		return err
	})
	fs.BoolVar(&c.quick, "quick", false, "a trial: "+joined(trial.numbers)+" Services, short rests, nothing written unless -o says where")
	fs.IntVar(&c.samples, "samples", byDefault.samples, "how often one more Service is created")
	fs.DurationVar(&c.rest, "rest", byDefault.rest, "how long the cluster at rest is watched")
	fs.DurationVar(&c.soak, "soak", byDefault.soak, "how long a thousand Leases are watched; 1h when there is time")
	fs.Func("placement", "what is measured: leader, lease, or both, separated by a comma (default "+strings.Join(byDefault.placements, ",")+")", func(s string) error {
		c.placements = strings.Split(s, ",")
		for _, p := range c.placements {
			if !slices.Contains(byDefault.placements, p) {
				return fmt.Errorf("%q is neither leader nor lease", p)
			}
		}
		return nil
	})
	fs.StringVar(&c.binary, "binary", os.Getenv(lab.BinaryEnv), "the kube-vip to measure; empty means bin/kube-vip")
	fs.StringVar(&c.out, "o", filepath.Join("docs", "benchmarks.md"), "the file to write into; the picture is put beside it")
	if err := fs.Parse(args); err != nil {
		return c, err
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if c.quick {
		for name, set := range map[string]func(){
			"n":       func() { c.numbers = trial.numbers },
			"samples": func() { c.samples = trial.samples },
			"rest":    func() { c.rest = trial.rest },
			"soak":    func() { c.soak = trial.soak },
			"o":       func() { c.out = "" },
		} {
			if !given[name] {
				set()
			}
		}
	}
	if c.binary == "" {
		c.binary = filepath.Join("bin", "kube-vip")
	}
	if c.samples < 1 {
		return c, fmt.Errorf("-samples is %d: at least one is needed", c.samples)
	}
	return c, nil
}

// parseNumbers reads a list of numbers of Services, in any order.
func parseNumbers(s string) ([]int, error) {
	var numbers []int
	for text := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > measure.MostServices-churned-1 {
			return nil, fmt.Errorf("%q is no number of Services from 1 to %d", text, measure.MostServices-churned-1)
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return slices.Compact(numbers), nil
}

func joined(numbers []int) string {
	var texts []string
	for _, n := range numbers {
		texts = append(texts, strconv.Itoa(n))
	}
	return strings.Join(texts, ",")
}

// command brings our sections about.
const command = "make bench-services"

// section names that of a placement.
func section(placement string) string {
	if placement == byLeader {
		return command
	}
	return command + " -placement " + placement
}

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
			return fmt.Errorf("write %s: %w", c.out, err) // now, and not after an hour
		}
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	var failures []error
	for _, placement := range c.placements {
		one := c
		one.placements = []string{placement}
		r, err := measureAll(ctx, one, log)
		if err != nil {
			return errors.Join(append(failures, err)...)
		}
		failures = append(failures, r.failures()...)
		if err := r.write(log); err != nil {
			return err
		}
		if _, err := io.WriteString(stdout, r.markdown()); err != nil {
			return err
		}
	}
	return errors.Join(failures...)
}

// write writes the report to where its config says.
func (r *report) write(log *slog.Logger) error {
	if r.config.out == "" {
		return nil
	}
	if len(r.leader) > 0 {
		picture := filepath.Join(filepath.Dir(r.config.out), pictureName)
		if err := os.WriteFile(picture, []byte(r.picture()), 0o644); err != nil {
			return err
		}
		log.Info("written", "picture", picture)
	}
	if err := measure.Write(r.config.out, section(r.placement()), r.markdown()); err != nil {
		return err
	}
	log.Info("written", "file", r.config.out)
	return nil
}

// measureAll takes every measurement. One that fails is told of in the report; an error means that nothing can be.
func measureAll(ctx context.Context, c config, log *slog.Logger) (*report, error) {
	r := &report{config: c, began: time.Now()}
	if slices.Contains(c.placements, byLeader) {
		for _, n := range c.numbers {
			got := measureLeader(ctx, c, n, log.With("services", n), &r.machine)
			r.leader = append(r.leader, got)
		}
	}
	if slices.Contains(c.placements, byLease) {
		for _, s := range scenarios(c) {
			r.lease = append(r.lease, measureLease(ctx, c, s, log.With("services", s.services, "timing", s.timing), &r.machine))
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.took = time.Since(r.began)
	return r, nil
}
