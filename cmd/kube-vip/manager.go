package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"kube-vip.io/kube-vip/pkg/arp"
	"kube-vip.io/kube-vip/pkg/bfd"
	"kube-vip.io/kube-vip/pkg/bgp"
	"kube-vip.io/kube-vip/pkg/config"
	"kube-vip.io/kube-vip/pkg/cp"
	"kube-vip.io/kube-vip/pkg/events"
	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/join"
	"kube-vip.io/kube-vip/pkg/kube"
	"kube-vip.io/kube-vip/pkg/names"
	"kube-vip.io/kube-vip/pkg/svc"
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
			if err := errors.Join(err, loaded.Validate()); err != nil {
				return err
			}
			// An instance sleeps nearly always, and what it does takes microseconds. Waking one processor in place of
			// looking for work on all of them saves a sixth of its time at rest; GOMAXPROCS overrules it.
			if !p.has("GOMAXPROCS") {
				runtime.GOMAXPROCS(1)
			}
			// Of what it has in memory nearly all stays: with ten thousand Services a tenth of a second more of collecting at the
			// start saves 40 MB of garbage for good. GOGC overrules it.
			if !p.has("GOGC") {
				debug.SetGCPercent(garbage)
			}
			// client-go logs by klog, which has one logger for the process.
			klog.SetSlogLogger(log.With("by", "client-go"))
			return p.manage(cmd.Context(), loaded, log)
		},
	}
}

// garbage is how much of it there may be, in percent of what is in use.
const garbage = 60

// has says whether a variable is in the environment.
func (p *program) has(variable string) bool {
	return slices.ContainsFunc(p.environ, func(e string) bool { return strings.HasPrefix(e, variable+"=") })
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
	// leave has the node left by what goes through it, before anything stops; nil when there is nothing to do.
	leave func(ctx context.Context)
	close func()
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
	lease := c.Election.LeaseName
	if !c.ControlPlane.Enable {
		lease = c.Services.LeaseName
	}
	namespace, _ := leaseKey(c, lease)
	log.Info("Starting kube-vip.io ["+p.build.Version+"]", "version", p.build.Version, "build", p.build.Commit, "node", c.Node.Name)
	mode := "ARP"
	if c.BGP.Enable {
		mode = "BGP"
	}
	log.Info(fmt.Sprintf("namespace [%s], Mode: [%s], Features(s): Control Plane:[%t], Services:[%t]",
		namespace, mode, c.ControlPlane.Enable, c.Services.Enable))
	i, err := p.wire(c, p.shared(loaded), log)
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
	deciding, decided := context.WithCancel(context.WithoutCancel(ctx))
	defer decided()
	stop := context.AfterFunc(speaking, decided) // a speaker failed: nothing may be held without it
	defer stop()
	told := context.AfterFunc(ctx, func() {
		if i.leave != nil {
			i.leave(speaking)
		}
		decided()
	})
	defer told()
	deciders, deciding := errgroup.WithContext(deciding)
	for _, d := range i.deciders {
		deciders.Go(func() error { return d.Run(deciding) })
	}
	err := deciders.Wait()
	silence()
	return errors.Join(err, speakers.Wait())
}

// wiring is an instance that is being put together, with what its parts share.
type wiring struct {
	instance
	c                 config.Config
	log               *slog.Logger
	registry          *prometheus.Registry
	network           *vip.Netlink
	table             *vip.Table
	sentinel          *arp.Sentinel // nil where routes tell the network
	routes            *bgp.Speaker  // nil where they do not
	peers             *routing      // nil likewise
	telling           sync.Mutex    // held while peers are told of, so that what is told last is what came last
	own               *ownAddresses
	access            *kube.Access
	renewals, watches kubernetes.Interface
	members           *ha.Members
	plane             *cp.ControlPlane // nil without a control plane
	services          *svc.Controller  // nil without Services
	keeper            *keeper          // nil without Services
	early             *provisional     // nil without an elected control plane on a network
	rivals            *rivals
	looked            atomic.Bool // all Services were looked at
	fit               *fitness
	unknown           atomic.Int32 // parts of the instance that do not know yet what is to be held
	version           string
	handout           join.Handout // for nodes that join
}

// wire builds the instance. Nothing runs yet.
func (p *program) wire(c config.Config, handout join.Handout, log *slog.Logger) (*instance, error) {
	if err := timing(c).Validate(); err != nil {
		return nil, err
	}
	network, err := vip.NewNetlink()
	if err != nil {
		return nil, err
	}
	w := &wiring{c: c, log: log, network: network, own: &ownAddresses{network: network}, fit: &fitness{}, handout: handout, version: p.build.Version, registry: newRegistry(p.build, c.Node.Name)}
	w.close = network.Close
	if err := p.wireAll(w); err != nil {
		w.close()
		return nil, err
	}
	return &w.instance, nil
}

func (p *program) wireAll(w *wiring) (err error) {
	c := w.c
	if err := refuse(c, w.network); err != nil {
		return err
	}
	var announcer interface {
		runner
		vip.Speaker
	} = arp.New(arpOptions(c, w.log, w.registry))
	if c.BGP.Enable {
		w.routes = bgp.New(bgp.Options{Told: w.toldOfPeer, Log: w.log, Registerer: w.registry})
		announcer = w.routes
	}
	w.table = vip.NewTable(vip.Options{
		// A Service hears of its VIP after the network has.
		Kernel: w.network, Speakers: []vip.Speaker{announcer, listener(w.heard)}, Log: w.log, Registerer: w.registry, Trouble: w.trouble,
	})
	w.access, err = kube.New(p.kubeOptions(c, w.log, w.own.list,
		func() []netip.Addr { return memberAddresses(w.members) }, func() []netip.Addr { return claimed(w.plane) }))
	if err != nil {
		return err
	}
	w.close = func() { w.access.Close(); w.network.Close() }
	if w.renewals, w.watches, err = clients(w.access); err != nil {
		return err
	}
	w.speakers = []runner{w.table, announcer}
	if c.BGP.Enable {
		if err := w.wireRoutes(); err != nil {
			return err
		}
	} else {
		w.rivals = newRivals(w.log, w.registry, w.contested)
		w.sentinel = arp.NewSentinel(arp.SentinelOptions{Held: w.table.Holding, Rival: w.met, Alone: w.rivals.gone, Log: w.log})
		w.speakers = append(w.speakers, w.sentinel)
	}
	if c.ControlPlane.Enable {
		if err := p.wireControlPlane(w); err != nil {
			return err
		}
	}
	if c.Services.Enable {
		if err := w.wireServices(w.plane); err != nil {
			return err
		}
	}
	w.speakers = append(w.speakers, endpoints(w)...)
	return nil
}

// wireControlPlane adds the control plane's VIP to the instance.
func (p *program) wireControlPlane(w *wiring) (err error) {
	_, lease := leaseKey(w.c, w.c.Election.LeaseName)
	options := cpOptions(w.c, w.log, w.registry, w.network)
	options.Claimer, options.Mandate, options.TLS = w.table, lease, w.access.LocalTLS
	answers, known := func(bool) {}, w.awaited()
	options.Listener = func(h cp.Health) {
		w.access.SetLocalHealthy(h.Serving)
		answers(h.Answers)
		w.fit.judged(standing(h), h.Reason)
		known()
	}
	published, err := w.publish()
	if err != nil {
		return err
	}
	led := func(l ha.Lead) {
		w.plane.Holding(l.Held)
		published.SetLeads(l.Held)
		if w.services != nil {
			w.services.Led(lease, l)
		}
	}
	var holds []runner
	p.enlist(w)
	if w.everywhere() {
		everyone := ha.NewEveryone(ha.EveryoneOptions{Mandate: lease, Granter: w.table, Led: led, Log: w.log})
		leaving := &departure{
			drain: w.c.BGP.Drain, log: w.log, tell: everyone.SetHealth,
			mark: func(on bool) { w.routes.Drain(claimed(w.plane), on) },
		}
		answers = leaving.answering
		w.fit.tell, holds = w.bothTell(leaving.set), []runner{w.members, everyone, leaving}
	} else {
		election := w.electControlPlane(led)
		w.fit.tell, holds = w.bothTell(election.SetHealth), []runner{w.members, election}
	}
	if w.plane, err = cp.New(options); err != nil {
		return err
	}
	w.deciders = append(w.deciders, hints{w.network, w.plane.Hint, w.log}, w.fit, w.plane)
	w.deciders = append(w.deciders, holds...)
	w.deciders = append(w.deciders, published)
	return nil
}

// superAdmin is a kubeconfig that kubeadm leaves on the first node alone.
const superAdmin = "super-admin.conf"

// shared is what nodes that join need to know of an instance with these settings.
func (p *program) shared(loaded *config.Loaded) join.Handout {
	h := join.Handout{Version: p.build.Version}
	h.Settings, h.Secrets, h.Own = loaded.Shared()
	if filepath.Base(loaded.Config.Kubernetes.ConfigFile) == superAdmin {
		h.Own = slices.DeleteFunc(h.Own, func(name string) bool { return name == "k8sConfigPath" }) // nobody needs another
	}
	return h
}

// publish has the leader keep what nodes that join need. That is for those that run as static pods, with the kubeconfig of the
// node's administrator: a DaemonSet comes to new nodes by itself, and its ServiceAccount has no right to do it. With a
// kubeconfig it does so, too: nothing tells it that it is one, and nobody is harmed.
func (w *wiring) publish() (*join.Publisher, error) {
	client, err := w.access.Clientset("settings for nodes that join", clientQPS, clientBurst)
	if err != nil {
		return nil, err
	}
	namespace, lease := leaseKey(w.c, w.c.Election.LeaseName)
	first := func() bool { // of those that announce, where nobody is elected
		return !w.everywhere() || !slices.ContainsFunc(w.members.Others(), func(m ha.Member) bool {
			return slices.Contains(m.Groups, lease) && m.Node < w.c.Node.Name
		})
	}
	may := func() bool {
		source, _, _ := w.access.State()
		return source != "" && source != kube.DefaultInClusterDir && first()
	}
	return join.NewPublisher(join.PublisherOptions{Handout: w.handout, Lease: namespace + "/" + lease, May: may, Client: client, Log: w.log}), nil
}

// enlist makes this instance one of the members.
func (p *program) enlist(w *wiring) {
	namespace, lease := leaseKey(w.c, w.c.Election.LeaseName)
	groups := []string{lease}
	if w.c.Services.Enable {
		_, services := leaseKey(w.c, w.c.Services.LeaseName)
		groups = append(groups, services)
	}
	w.members = ha.NewMembers(ha.MembersOptions{
		Namespace: namespace, Identity: w.c.Node.Name, Groups: groups, Version: p.build.Version,
		Addresses: w.own.list,
		Leases:    w.renewals.CoordinationV1(), Watches: w.watches.CoordinationV1(), Log: w.log,
	})
}

// bothTell tells the other members and somebody else of this node's health.
func (w *wiring) bothTell(other func(ha.Health, string)) func(ha.Health, string) {
	return func(h ha.Health, reason string) {
		w.members.SetHealth(h, reason)
		other(h, reason)
	}
}

// electControlPlane has the holder of the control plane's VIP elected.
func (w *wiring) electControlPlane(led func(ha.Lead)) *ha.Election {
	namespace, lease := leaseKey(w.c, w.c.Election.LeaseName)
	options := ha.Options{
		Namespace: namespace, Name: lease, Identity: w.c.Node.Name,
		Timing:      timing(w.c),
		Annotations: w.c.Election.LeaseAnnotations,
		Renewals:    w.renewals.CoordinationV1(), Watches: w.watches.CoordinationV1(),
		Granter: w.table, Members: w.members, AwaitHealth: true,
		Led: led,
		Log: w.log, Registerer: w.registry,
	}
	if w.sentinel == nil { // what is on no network cannot be asked for
		return ha.NewElection(options)
	}
	w.early = &provisional{table: w.table, sentinel: w.sentinel, mandate: lease, log: w.log}
	options.Alone, options.Provisional = w.early.alone, w.early.note
	w.early.election = ha.NewElection(options)
	return w.early.election
}

// everywhere says that every healthy node announces the control plane's VIP, without an election.
func (w *wiring) everywhere() bool { return w.c.BGP.Enable && !w.c.Election.Enable }

// wireRoutes adds what keeps the peers of BGP, and the way in which a node is left.
func (w *wiring) wireRoutes() error {
	writes, err := w.access.Clientset("events of the node", eventQPS, eventBurst)
	if err != nil {
		return err
	}
	namespace, _ := leaseKey(w.c, w.c.Election.LeaseName)
	w.peers = &routing{
		c: w.c.BGP, node: w.c.Node.Name, where: namespace, client: w.watches, events: events.New(writes, w.c.Node.Name, "what becomes of BGP sessions", w.log), speaker: w.routes, links: w.network.Links, log: w.log,
		stir: make(chan struct{}, 1), lost: make(chan bfd.Status, 64), paced: make(chan struct{}, 1), up: map[string]bool{}, publish: w.publishPeers,
		faced: map[string]bgp.Peer{},
		asked: asking{busy: map[string]bool{}, secrets: map[config.SecretRef]secretData{}, family: map[string]netip.Addr{}},
	}
	w.peers.paths = bfd.New(bfd.Options{Changed: w.peers.changed, Log: w.log, Registerer: w.registry})
	w.speakers = append(w.speakers, w.peers, w.peers.paths, w.peers.events)
	w.leave = func(ctx context.Context) { w.routes.Leave(ctx, w.c.BGP.Drain) }
	return nil
}

// awaited counts a part of the instance of which the routes depend, and is told once by what it returns that this part knows
// what is to be held. It is called before anything runs.
func (w *wiring) awaited() (known func()) {
	w.unknown.Add(1)
	return sync.OnceFunc(func() {
		if w.unknown.Add(-1) == 0 && w.routes != nil {
			w.routes.Complete()
		}
	})
}

// heard tells the Services which VIPs are on this node.
func (w *wiring) heard(present []vip.VIP) error {
	if w.services == nil {
		return nil
	}
	return w.services.Sync(present)
}

// met takes the word on somebody else who has a VIP of this node, or means to have it.
func (w *wiring) met(addr netip.Addr, mac net.HardwareAddr, has bool) {
	if w.keeper != nil && w.keeper.rival(addr, mac) || !has || w.early != nil && w.early.rival(addr, mac) {
		return
	}
	w.rivals.met(addr, mac)
}

// contested tells the Services who else has a VIP.
func (w *wiring) contested(addr netip.Addr, mac net.HardwareAddr) {
	if w.services != nil {
		w.services.Contested(addr, mac)
	}
}

// listener is a vip.Speaker that only listens.
type listener func(present []vip.VIP) error

func (l listener) Sync(present []vip.VIP) error { return l(present) }

// trouble takes the Table's word on VIPs that cannot be put on: those of the control plane make this node unfit for it.
func (w *wiring) trouble(faults []vip.Fault) {
	if w.plane == nil {
		return
	}
	mine := claimed(w.plane)
	var errs []error
	for _, f := range faults {
		if slices.Contains(mine, f.VIP.Addr()) {
			errs = append(errs, f.Err)
		}
	}
	w.fit.trouble(errors.Join(errs...))
}

func timing(c config.Config) ha.Timing {
	return ha.Timing{Lease: c.Election.LeaseDuration, Renew: c.Election.RenewDeadline, Retry: c.Election.RetryPeriod}
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
		if err := vip.OwnAddress(addr, links); err != nil {
			errs = append(errs, fmt.Errorf("address: %w", err))
		}
		if loopback && addr.Is6() && !c.BGP.Enable {
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

func endpoints(w *wiring) []runner {
	c, log := w.c, w.log
	var list []runner
	if c.Observe.PrometheusServer != "" {
		list = append(list, endpoint{setting: "prometheus_server", address: c.Observe.PrometheusServer, handler: metricsHandler(w.registry), log: log})
	}
	if c.Observe.HealthCheckPort != 0 {
		began := time.Now()
		alive := func() error { return notStuck(began, w.table.LastPass(), time.Now()) }
		ready := func() error { return errors.Join(alive(), w.unready()) }
		list = append(list, endpoint{setting: "health_check_port", address: loopback(c.Observe.HealthCheckPort), handler: healthHandler(alive, ready), log: log})
	}
	return list
}

// unready says what this node lacks to hold what the settings ask for. That it knows all Services is waited for by who
// rolls instances one after another: before, the next one would have nobody to hand its addresses to.
func (w *wiring) unready() error {
	var errs []error
	if w.plane != nil {
		errs = append(errs, w.fit.problem())
	}
	if w.services != nil && !w.looked.Load() {
		errs = append(errs, errors.New("not all Services were looked at yet"))
	}
	return errors.Join(errs...)
}

func arpOptions(c config.Config, log *slog.Logger, registry prometheus.Registerer) arp.Options {
	return arp.Options{Rate: c.ARP.Rate, Log: log, Registerer: registry}
}

func cpOptions(c config.Config, log *slog.Logger, registry prometheus.Registerer, network *vip.Netlink) cp.Options {
	h := c.ControlPlane.Health
	return cp.Options{
		Addresses: c.ControlPlane.Addresses, DNSMode: names.Mode(c.Network.DNSMode), Port: c.ControlPlane.Port,
		Placement: planePlacement(c),
		Health: cp.HealthOptions{
			Enable: h.Enable, URL: h.Address, CAPath: h.CAPath, Period: h.Period, Timeout: h.Timeout,
			FailureThreshold: h.FailureThreshold, SuccessThreshold: h.SuccessThreshold,
		},
		Links: network, Log: log, Registerer: registry,
	}
}

// placement is where VIPs go by the settings of the network.
func placement(c config.Config) vip.Placement {
	n := c.Network
	return vip.Placement{
		Interface: n.Interface, AllowInterfaceNotUp: n.AllowInterfaceNotUp, Global: n.LoopbackGlobalScope, Routed: c.BGP.Enable,
		Bits4: n.Bits(netip.IPv4Unspecified()), Bits6: n.Bits(netip.IPv6Unspecified()),
	}
}

// planePlacement is where the control plane's VIPs go. Where routes lead to them they need no network, and so no interface
// but the loopback.
func planePlacement(c config.Config) vip.Placement {
	at := placement(c)
	if at.Routed && at.Interface == "" {
		at.Interface = loopbackName
	}
	return at
}

// loopbackName is the loopback of every network namespace on Linux.
const loopbackName = "lo"

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
	if plane == nil {
		return nil
	}
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

// leaseKey is where a Lease is: as given in its name; else in the configured namespace, if that is not the default;
// else in that of the pod's service account, where existing instances on the same lock look; else in the default one.
func leaseKey(c config.Config, lease string) (namespace, name string) {
	if namespace, name, ok := strings.Cut(lease, "/"); ok {
		return namespace, name
	}
	if c.Kubernetes.Namespace != defaultNamespace {
		return c.Kubernetes.Namespace, lease
	}
	if ns, err := os.ReadFile(filepath.Join(kube.DefaultInClusterDir, "namespace")); err == nil && len(ns) > 0 {
		return strings.TrimSpace(string(ns)), lease
	}
	return c.Kubernetes.Namespace, lease
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
	if members == nil {
		return nil
	}
	var list []netip.Addr
	for _, m := range members.Others() {
		list = append(list, m.Addresses...)
	}
	return list
}
