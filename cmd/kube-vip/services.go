package main

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"kube-vip.io/kube-vip/pkg/arp"
	"kube-vip.io/kube-vip/pkg/config"
	"kube-vip.io/kube-vip/pkg/cp"
	"kube-vip.io/kube-vip/pkg/filter"
	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/kube"
	"kube-vip.io/kube-vip/pkg/names"
	"kube-vip.io/kube-vip/pkg/pool"
	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/pkg/vip"
)

// Rate limits of the clients of Services. At rest they do nothing; after a start or a move each Service has its status
// written once, and thousands must not wait for minutes.
const (
	statusQPS   = 400
	statusBurst = 800
	eventQPS    = 20
	eventBurst  = 100
	fleetQPS    = 2 * ha.DefaultCallsPerSecond
	fleetBurst  = 2 * ha.DefaultCallsPerSecond
)

// wireServices adds the care for Services to the instance. plane is nil without a control plane.
func (w *wiring) wireServices(plane *cp.ControlPlane) error {
	options, err := svcOptions(w.c, w.log, w.registry, w.access)
	if err != nil {
		return err
	}
	namespace, lease := leaseKey(w.c, w.c.Services.LeaseName)
	options.Mandate = lease
	options.Claimer, options.Links = w.table, w.network
	complete, known := w.table.Await(), w.awaited()
	options.Complete = func() { complete(); w.looked.Store(true); known() }
	options.Prober = arp.NewProber(arp.ProberOptions{Log: w.log})
	everyone := w.everyService(&options)
	if plane != nil {
		_, mandate := leaseKey(w.c, w.c.Election.LeaseName)
		options.Elsewhere = func(addr netip.Addr) (string, bool) { return mandate, slices.Contains(claimed(plane), addr) }
	}
	var election *ha.Election
	options.Fit = func(ok bool, reason string) {
		health := ha.Healthy
		if !ok {
			health = ha.Unable
		}
		election.SetHealth(health, reason)
	}
	options.Vacant = func() bool { return election.Vacant() }
	others := func() (peers []svc.Peer) {
		for _, m := range w.members.Others() {
			if slices.Contains(m.Groups, lease) {
				peers = append(peers, svc.Peer{Node: m.Node, Lacks: m.Lacks})
			}
		}
		return peers
	}
	options.Lacks = func(list []string) { w.members.SetLacks(list) }
	var fleet *ha.Fleet
	var keeper *ha.Keeper
	if w.sentinel != nil { // what is on no network cannot be asked for, and is not kept without a mandate
		w.keeper = newKeeper(w.table, w.sentinel, w.log, w.registry, func(mandate string) {
			if mandate == lease {
				election.Contest()
				return
			}
			fleet.Contest(mandate)
		})
		keeper = w.keeper.options()
	}
	if fleet, err = w.fleet(keeper); err != nil {
		return err
	}
	options.Leases, options.Others = fleet, others
	if w.c.Services.Guard {
		f := filter.New(filter.Options{Table: filterTable(w.c.Node.Instance), Log: w.log, Registerer: w.registry})
		options.Guard = guard{f, w.log}
		w.speakers = append(w.speakers, f)
	}
	w.services = svc.New(options)
	election = ha.NewElection(ha.Options{
		Namespace: namespace, Name: lease, Identity: w.c.Node.Name, Timing: timing(w.c),
		Renewals: w.renewals.CoordinationV1(), Watches: w.watches.CoordinationV1(),
		Granter: w.table, AwaitHealth: true, Keeper: keeper,
		Led: func(l ha.Lead) { w.services.Led(lease, l) },
		Log: w.log, Registerer: w.registry,
	})
	if w.members == nil {
		w.members = ha.NewMembers(ha.MembersOptions{
			Namespace: namespace, Identity: w.c.Node.Name, Groups: []string{lease}, Version: w.version,
			Leases: w.renewals.CoordinationV1(), Watches: w.watches.CoordinationV1(), Log: w.log,
		})
		w.members.SetHealth(ha.Healthy, "")
		w.deciders = append(w.deciders, w.members)
	}
	w.deciders = append(w.deciders, hints{w.network, w.services.Hint, w.log}, w.services, election)
	if everyone != nil { // nobody stands for a Lease of a Service's own
		w.deciders = append(w.deciders, everyone)
	} else {
		w.deciders = append(w.deciders, fleet)
	}
	return nil
}

// everyService has every node that can serve a Service hold its addresses, where routers choose among those; nil where one
// node holds them.
func (w *wiring) everyService(o *svc.Options) *ha.Everyone {
	if !w.c.BGP.Enable {
		return nil
	}
	o.Prober = nobodyAsked{}
	t := &traits{
		describe: w.routes.Describe, forget: w.routes.Forget, resolve: w.peers.resolve, bandwidth: w.c.BGP.LinkBandwidth,
		asked: map[string]asked{}, users: map[netip.Addr][]string{},
	}
	o.Traits, o.Drain, o.Drained = t.note, w.c.BGP.Drain, w.routes.Drain
	w.peers.renamed = func() { w.services.Review() }
	if w.c.Services.Placement == config.PlacementLease {
		return nil
	}
	o.Everywhere = everywhere
	everyone := ha.NewEveryone(ha.EveryoneOptions{
		Mandate: everywhere, Granter: w.table, Log: w.log,
		Led: func(l ha.Lead) { w.services.Led(everywhere, l) },
	})
	complete := o.Complete
	o.Complete = func() { complete(); everyone.SetHealth(ha.Healthy, "") }
	return everyone
}

// everywhere is the mandate of Services that every node holds which can. It has a blank: no Lease has that name.
const everywhere = "every node"

// filterTable is the name of an instance's table. Two instances on one node have one each: nftables lets through what
// every table lets through.
func filterTable(instance string) string {
	if instance == "" {
		return filter.DefaultTable
	}
	return filter.DefaultTable + "-" + instance
}

// guard has a filter let through what Services declare.
type guard struct {
	*filter.Filter
	log *slog.Logger
}

var _ svc.Guard = guard{}

// Guard implements svc.Guard. What keeps the filter from it is the filter's to tell.
func (g guard) Guard(ctx context.Context, list []svc.Guarded) {
	rules := make([]filter.Rule, len(list))
	for i, one := range list {
		rules[i].Addr = one.Addr
		for _, p := range one.Ports {
			rules[i].Ports = append(rules[i].Ports, filter.Port{Protocol: protocolOf(p.Protocol), Number: p.Number})
		}
	}
	if err := g.Set(rules); err != nil {
		g.log.Warn("not all that Services declare can be let through", "err", err)
	}
	if err := g.Wait(ctx); err != nil {
		g.log.Debug("addresses of Services do not wait for their filter any longer", "err", err)
	}
}

// protocolOf is the number of a Service's protocol; one that nobody knows is refused by the filter.
func protocolOf(name string) filter.Protocol {
	switch name {
	case "", "TCP":
		return filter.TCP
	case "UDP":
		return filter.UDP
	case "SCTP":
		return filter.SCTP
	}
	return 0
}

// fleet stands for the Leases of single Services.
func (w *wiring) fleet(keeper *ha.Keeper) (*ha.Fleet, error) {
	renewals, err := w.access.Clientset("service renewals", fleetQPS, fleetBurst)
	if err != nil {
		return nil, err
	}
	return ha.NewFleet(ha.FleetOptions{
		Identity: w.c.Node.Name, Timing: paced(timing(w.c)), Namespace: w.c.Services.Namespace,
		Renewals: renewals.CoordinationV1(), Watches: w.watches.CoordinationV1(), Granter: w.table,
		Reserved: reserved(locks(w.c)), Keeper: keeper,
		Led: func(mandate string, l ha.Lead) { w.services.Led(mandate, l) },
		Log: w.log, Registerer: w.registry,
	}), nil
}

// paced is the timing of Services' own Leases: each is renewed a thirty-second part later than the retry period asks for,
// so that a hundred of them, and the members' beside, are no more than a hundred writes a second.
func paced(t ha.Timing) ha.Timing {
	slower := t
	slower.Retry += t.Retry / 32
	if slower.Validate() != nil {
		return t
	}
	return slower
}

// reserved says which Leases are not to be Services' own: those of the groups, and those of members, which are in the
// namespace of one of them.
func reserved(groups svc.Locks) func(namespace, name string) bool {
	return func(namespace, name string) bool {
		lease := types.NamespacedName{Namespace: namespace, Name: name}
		return lease == groups.Group || lease == groups.ControlPlane ||
			strings.HasPrefix(name, ha.MemberPrefix) && (namespace == groups.Group.Namespace || namespace == groups.ControlPlane.Namespace)
	}
}

func svcOptions(c config.Config, log *slog.Logger, registry prometheus.Registerer, access *kube.Access) (svc.Options, error) {
	o := svc.Options{
		Node: c.Node.Name,
		Rules: svc.Rules{
			Namespace: c.Services.Namespace, Class: c.Services.Class.Name, Strict: !c.Services.Class.Legacy, ClassOnly: c.Services.Class.Only,
		},
		Allowed: c.Services.AllowedRanges, Endpoints: c.Services.Endpoints, ReadOnly: c.Services.DisableUpdates,
		PerService: c.Services.Placement == config.PlacementLease, OnDemand: c.Services.OnDemand, Reserved: reserved(locks(c)),
		Pools:     svc.PoolMode(c.Services.Pools),
		DNSMode:   names.Mode(c.Network.DNSMode),
		Exclude:   c.Services.ExcludeLabel == "honour",
		Placement: servicesPlacement(c),
		Also:      []pool.Port{{Number: c.ControlPlane.Port, Protocol: "TCP"}},
		Log:       log, Registerer: registry,
	}
	var err error
	if o.Client, err = access.Clientset("services", clientQPS, clientBurst); err != nil {
		return o, err
	}
	if o.Writer, err = access.Clientset("statuses", statusQPS, statusBurst); err != nil {
		return o, err
	}
	o.Events, err = access.Clientset("events", eventQPS, eventBurst)
	return o, err
}

// servicesPlacement is where the VIPs of Services go: where the control plane's do, unless it is said otherwise. Where
// routes lead to them they are on no interface, unless one is named or asked for.
func servicesPlacement(c config.Config) vip.Placement {
	at := placement(c)
	switch c.Services.Interface {
	case "":
	case "auto":
		at.Interface, at.Setting = "", "vip_servicesinterface"
		return at
	default:
		at.Interface, at.Setting = c.Services.Interface, "vip_servicesinterface"
	}
	at.Detached = c.BGP.Enable && !c.BGP.AttachIPToInterface
	return at
}
