package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"kube-vip.io/kube-vip/pkg/arp"
	"kube-vip.io/kube-vip/pkg/config"
	"kube-vip.io/kube-vip/pkg/cp"
	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/kube"
	"kube-vip.io/kube-vip/pkg/vip"
)

// Rate limits of the API clients. An instance renews a Lease or two per second; the limits are there for what
// nobody foresaw.
const (
	clientQPS   = 20
	clientBurst = 40
)

// defaultNamespace is cp_namespace when nobody sets it.
const defaultNamespace = "kube-system"

func (p *program) managerCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "manager",
		Short: "Hold the virtual IP addresses: what the pod runs on every node",
		Long: `manager is what the generated pod runs: it stands for election, holds the VIP while this node is elected, and runs
until it gets SIGTERM or SIGINT. Then it takes the VIP off, gives the Lease up and exits.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := config.Load(cmd.Flags(), p.environ)
			if loaded == nil {
				return err
			}
			log := newLogger(p, loaded.Config.Log)
			for _, warning := range loaded.Warnings {
				log.Warn(warning)
			}
			if err := errors.Join(err, loaded.Validate(), loaded.Runnable()); err != nil {
				return err
			}
			// An instance sleeps nearly always, and what it does takes microseconds. Waking one processor in place of
			// looking for work on all of them saves a sixth of its time at rest; GOMAXPROCS overrules it.
			if !slices.ContainsFunc(p.environ, func(e string) bool { return strings.HasPrefix(e, "GOMAXPROCS=") }) {
				runtime.GOMAXPROCS(1)
			}
			// client-go logs by klog, which has one logger for the process.
			klog.SetSlogLogger(log.With("by", "client-go"))
			return p.manage(cmd.Context(), loaded, log)
		},
	}
}

func newLogger(p *program, c config.Log) *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.Level(c.Level)}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(p.stderr, options))
	}
	return slog.New(slog.NewTextHandler(p.stderr, options))
}

// A runner works until its context ends, and nothing of it runs when Run has returned.
type runner interface {
	Run(ctx context.Context) error
}

// instance is the whole manager, wired and not yet running.
type instance struct {
	// speakers make the node and the network match; deciders say what they have to match. Deciders stop first, so
	// that withdrawal still has a mouth.
	speakers, deciders []runner
	close              func()
}

func (p *program) manage(ctx context.Context, loaded *config.Loaded, log *slog.Logger) error {
	c := loaded.Config
	if c.Node.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find this node's name: %w; set --nodeName (env vip_nodename)", err)
		}
		c.Node.Name = strings.ToLower(host)
	}
	namespace, _ := leaseKey(c)
	log.Info("Starting kube-vip.io ["+p.build.Version+"]", "version", p.build.Version, "build", p.build.Commit, "node", c.Node.Name)
	log.Info(fmt.Sprintf("namespace [%s], Mode: [%s], Features(s): Control Plane:[%t], Services:[false]",
		namespace, "ARP", c.ControlPlane.Enable))
	i, err := p.wire(c, log)
	if err != nil {
		return err
	}
	defer i.close()
	err = i.run(ctx)
	if err == nil {
		log.Info("stopped")
	}
	return err
}

// run runs everything until ctx ends or something fails, deciders first to stop.
func (i *instance) run(ctx context.Context) error {
	speaking, silence := context.WithCancel(context.WithoutCancel(ctx))
	defer silence()
	speakers, speaking := errgroup.WithContext(speaking)
	for _, s := range i.speakers {
		speakers.Go(func() error { return s.Run(speaking) })
	}
	deciding, decided := context.WithCancel(ctx)
	defer decided()
	stop := context.AfterFunc(speaking, decided) // a speaker failed: nothing may be held without it
	defer stop()
	deciders, deciding := errgroup.WithContext(deciding)
	for _, d := range i.deciders {
		deciders.Go(func() error { return d.Run(deciding) })
	}
	err := deciders.Wait()
	silence()
	return errors.Join(err, speakers.Wait())
}

// wire builds the instance. Nothing runs yet.
func (p *program) wire(c config.Config, log *slog.Logger) (*instance, error) {
	network, err := vip.NewNetlink()
	if err != nil {
		return nil, err
	}
	if err := refuse(c, network); err != nil {
		network.Close()
		return nil, err
	}
	registry := newRegistry(p.build, c.Node.Name)
	announcer := arp.New(arpOptions(c, log, registry))
	var members *ha.Members
	var plane *cp.ControlPlane
	fit := &fitness{}
	table := vip.NewTable(vip.Options{Kernel: network, Speakers: []vip.Speaker{announcer}, Log: log, Registerer: registry, Trouble: fit.trouble})
	own := &ownAddresses{network: network}
	access, err := kube.New(p.kubeOptions(c, log, own.list,
		func() []netip.Addr { return memberAddresses(members) }, func() []netip.Addr { return claimed(plane) }))
	if err != nil {
		network.Close()
		return nil, err
	}
	closeAll := func() { access.Close(); network.Close() }
	renewals, watches, err := clients(access)
	if err != nil {
		closeAll()
		return nil, err
	}
	namespace, lease := leaseKey(c)
	members = ha.NewMembers(ha.MembersOptions{
		Namespace: namespace, Identity: c.Node.Name, Groups: []string{lease}, Version: p.build.Version,
		Addresses: own.list,
		Leases:    renewals.CoordinationV1(), Watches: watches.CoordinationV1(), Log: log,
	})
	timing := ha.Timing{Lease: c.Election.LeaseDuration, Renew: c.Election.RenewDeadline, Retry: c.Election.RetryPeriod}
	if err := timing.Validate(); err != nil {
		closeAll()
		return nil, err
	}
	election := ha.NewElection(ha.Options{
		Namespace: namespace, Name: lease, Identity: c.Node.Name,
		Timing:      timing,
		Annotations: c.Election.LeaseAnnotations,
		Renewals:    renewals.CoordinationV1(), Watches: watches.CoordinationV1(),
		Granter: table, Members: members, AwaitHealth: true,
		Led: func(led bool) { plane.Holding(led) },
		Log: log, Registerer: registry,
	})
	options := cpOptions(c, log, registry, network)
	options.Claimer, options.Mandate, options.TLS = table, lease, access.LocalTLS
	fit.tell = func(h ha.Health, reason string) {
		members.SetHealth(h, reason)
		election.SetHealth(h, reason)
	}
	options.Listener = func(h cp.Health) {
		access.SetLocalHealthy(h.Serving)
		fit.judged(standing(h), h.Reason)
	}
	plane, err = cp.New(options)
	if err != nil {
		closeAll()
		return nil, err
	}
	i := &instance{
		speakers: []runner{table, announcer},
		deciders: []runner{hints{network, plane.Hint, log}, fit, plane, members, election},
		close:    closeAll,
	}
	i.speakers = append(i.speakers, endpoints(c, log, registry, table, fit)...)
	return i, nil
}

// refuse refuses what waiting would not mend: a VIP that is an address of this node itself, which another node would
// take and cut this one off; and one of IPv6 on a loopback, for which the kernel answers no Neighbor Solicitation.
func refuse(c config.Config, network *vip.Netlink) error {
	links, err := network.Links()
	if err != nil {
		return err
	}
	loopback := slices.ContainsFunc(links, func(l vip.Link) bool { return l.Loopback && l.Name == c.Network.Interface })
	var errs []error
	for _, a := range c.ControlPlane.Addresses {
		addr, err := netip.ParseAddr(a)
		if err != nil {
			continue // a name
		}
		errs = append(errs, cp.OwnAddress(addr, links))
		if loopback && addr.Is6() {
			errs = append(errs, fmt.Errorf("vip_interface: %s cannot carry %s in ARP mode: the kernel answers for an IPv6 address only on the interface that has it; name that interface, or leave it out", c.Network.Interface, addr))
		}
	}
	return errors.Join(errs...)
}

// hints tells the control plane at once what the kernel tells of links: a lost carrier is not waited for.
type hints struct {
	network *vip.Netlink
	changed func()
	log     *slog.Logger
}

// Run watches until ctx ends. Without the kernel's word, links are looked at every second all the same.
func (h hints) Run(ctx context.Context) error {
	if err := h.network.Watch(ctx, h.changed); err != nil {
		h.log.Warn("changes of links are seen up to a second late", "err", err)
		<-ctx.Done()
	}
	return nil
}

func clients(access *kube.Access) (renewals, watches kubernetes.Interface, err error) {
	renewals, err = access.Clientset("renewals", clientQPS, clientBurst)
	if err != nil {
		return nil, nil, err
	}
	watches, err = access.Clientset("watches", clientQPS, clientBurst)
	return renewals, watches, err
}

func endpoints(c config.Config, log *slog.Logger, registry *prometheus.Registry, table *vip.Table, fit *fitness) []runner {
	var list []runner
	if c.Observe.PrometheusServer != "" {
		list = append(list, endpoint{setting: "prometheus_server", address: c.Observe.PrometheusServer, handler: metricsHandler(registry), log: log})
	}
	if c.Observe.HealthCheckPort != 0 {
		began := time.Now()
		alive := func() error { return notStuck(began, table.LastPass(), time.Now()) }
		ready := func() error { return errors.Join(alive(), fit.problem()) }
		list = append(list, endpoint{setting: "health_check_port", address: loopback(c.Observe.HealthCheckPort), handler: healthHandler(alive, ready), log: log})
	}
	return list
}

func arpOptions(c config.Config, log *slog.Logger, registry prometheus.Registerer) arp.Options {
	return arp.Options{Rate: c.ARP.Rate, Log: log, Registerer: registry}
}

func cpOptions(c config.Config, log *slog.Logger, registry prometheus.Registerer, network *vip.Netlink) cp.Options {
	h := c.ControlPlane.Health
	return cp.Options{
		Addresses: c.ControlPlane.Addresses, DNSMode: cp.DNSMode(c.Network.DNSMode), Port: c.ControlPlane.Port,
		Placement: cp.Placement{
			Interface: c.Network.Interface, AllowInterfaceNotUp: c.Network.AllowInterfaceNotUp, Global: c.Network.LoopbackGlobalScope,
			Bits4: c.Network.Bits(netip.IPv4Unspecified()), Bits6: c.Network.Bits(netip.IPv6Unspecified()),
		},
		Health: cp.HealthOptions{
			Enable: h.Enable, URL: h.Address, CAPath: h.CAPath, Period: h.Period, Timeout: h.Timeout,
			FailureThreshold: h.FailureThreshold, SuccessThreshold: h.SuccessThreshold,
		},
		Links: network, Log: log, Registerer: registry,
	}
}

// standing is what the election makes of a node's health.
func standing(h cp.Health) ha.Health {
	switch {
	case h.OK:
		return ha.Healthy
	case h.Able:
		return ha.Unhealthy
	}
	return ha.Unable
}

// claimed are the VIPs that the control plane wants, wherever they are.
func claimed(plane *cp.ControlPlane) []netip.Addr {
	var list []netip.Addr
	for _, v := range plane.Now().VIPs {
		list = append(list, v.Addr())
	}
	return list
}

func (p *program) kubeOptions(c config.Config, log *slog.Logger, nodeAddrs, peers, vips func() []netip.Addr) kube.Options {
	env := map[string]string{}
	for _, e := range p.environ {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	return kube.Options{
		Kubeconfig: c.Kubernetes.ConfigFile, Home: env["HOME"],
		InClusterHost: env["KUBERNETES_SERVICE_HOST"], InClusterPort: env["KUBERNETES_SERVICE_PORT"],
		Address: c.Kubernetes.Address, Port: c.ControlPlane.Port, Local: c.ControlPlane.Enable,
		NodeAddrs: nodeAddrs, Peers: peers, VIPs: vips, Log: log,
	}
}

// leaseKey is where the Lease is: as given in its name; else in the configured namespace, if that is not the default;
// else in that of the pod's service account, where existing instances on the same lock look; else in the default one.
func leaseKey(c config.Config) (namespace, name string) {
	if namespace, name, ok := strings.Cut(c.Election.LeaseName, "/"); ok {
		return namespace, name
	}
	if c.Kubernetes.Namespace != defaultNamespace {
		return c.Kubernetes.Namespace, c.Election.LeaseName
	}
	if ns, err := os.ReadFile(filepath.Join(kube.DefaultInClusterDir, "namespace")); err == nil && len(ns) > 0 {
		return strings.TrimSpace(string(ns)), c.Election.LeaseName
	}
	return c.Kubernetes.Namespace, c.Election.LeaseName
}

// ownAddresses are this node's own addresses: not VIPs, and nothing that only this node can reach. They are asked for
// with every API request and are read anew only now and then: listing them costs more than the request.
type ownAddresses struct {
	network *vip.Netlink

	mu    sync.Mutex // guards the fields below
	read  time.Time
	addrs []netip.Addr
}

// ownAddressesAge is how old the list may be: a node's address changes when somebody is at work on it.
const ownAddressesAge = 10 * time.Second

func (o *ownAddresses) list() []netip.Addr {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.read) < ownAddressesAge {
		return o.addrs
	}
	links, err := o.network.Links()
	if err != nil {
		return o.addrs // the Table reports what netlink says
	}
	o.addrs, o.read = nil, time.Now()
	for _, l := range links {
		for _, a := range l.Addrs {
			if !l.Loopback && !a.Addr().IsLinkLocalUnicast() {
				o.addrs = append(o.addrs, a.Addr())
			}
		}
	}
	return o.addrs
}

func memberAddresses(members *ha.Members) []netip.Addr {
	var list []netip.Addr
	for _, m := range members.Others() {
		list = append(list, m.Addresses...)
	}
	return list
}
