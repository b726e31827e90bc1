package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// stuckAfter is how long the reconciler, which compares every second, may be silent before /healthz fails.
	stuckAfter = 10 * time.Second
	// httpDeadline bounds reading a request and the last answers of a server that stops.
	httpDeadline = time.Second
)

// newRegistry has what every instance shows: the build, the runtime, the process.
func newRegistry(b build, node string) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "kube_vip_build_info",
		Help:        "Always 1: the labels say what was built.",
		ConstLabels: prometheus.Labels{"version": b.Version, "build": b.Commit, "node": node},
	})
	info.Set(1)
	registry.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// endpoint is one listener of the instance. That it cannot listen is a warning: holding the VIP comes first.
type endpoint struct {
	setting string // as the user knows it
	address string
	handler http.Handler
	log     *slog.Logger
}

// Run serves until ctx ends.
func (e endpoint) Run(ctx context.Context) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", e.address)
	if err != nil {
		e.log.Warn("not served: the address cannot be listened on; set another", "setting", e.setting, "address", e.address, "err", err)
		<-ctx.Done()
		return nil
	}
	server := &http.Server{Handler: e.handler, ReadHeaderTimeout: httpDeadline, ErrorLog: slog.NewLogLogger(e.log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		e.log.Warn("not served any more", "setting", e.setting, "address", e.address, "err", err)
		<-ctx.Done()
	}
	return nil
}

// metricsHandler serves /metrics of registry.
func metricsHandler(registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux
}

// healthHandler serves /healthz, which says whether the instance works, and /readyz, which says whether it could
// hold the VIP now. Each answers 200 or 503, and the reason.
func healthHandler(alive, ready func() error) http.Handler {
	mux := http.NewServeMux()
	answer := func(check func() error) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if err := check(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, "ok")
		}
	}
	mux.HandleFunc("GET /healthz", answer(alive))
	mux.HandleFunc("GET /readyz", answer(ready))
	return mux
}

// notStuck is an error when the last pass was too long ago. Before the first pass the process has just begun.
func notStuck(began, last, now time.Time) error {
	if last.IsZero() {
		last = began
	}
	if silent := now.Sub(last); silent > stuckAfter {
		return fmt.Errorf("the addresses of this node were last compared %s ago", silent.Round(time.Second))
	}
	return nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
