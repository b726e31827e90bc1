package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"kube-vip.io/kube-vip/pkg/bfd"
	"kube-vip.io/kube-vip/pkg/bgp"
	"kube-vip.io/kube-vip/pkg/config"
	"kube-vip.io/kube-vip/pkg/events"
	"kube-vip.io/kube-vip/pkg/vip"
)

const (
	// routingEvery is the time between two looks at what peers follow from: the peers file and the interfaces.
	routingEvery = 2 * time.Second
	// secretEvery is the time between two looks at a Secret with passwords.
	secretEvery = 30 * time.Second
	// askPatience bounds one, and one look-up of a name.
	askPatience = 5 * time.Second
)

// routing keeps a Speaker's peers what the settings, the peers file, the node's annotations, Secrets and interfaces come to.
// What cannot be read leaves the peers as they are.
type routing struct {
	c       config.BGP
	node    string
	where   string // the namespace of Secrets that name none
	client  kubernetes.Interface
	events  *events.Recorder
	speaker *bgp.Speaker
	paths   *bfd.Detector
	links   func() ([]vip.Link, error)
	log     *slog.Logger

	// renamed is told that names stand for other communities now; may be nil.
	renamed func()
	// publish has others see how it stands, atOnce or when something else is written.
	publish func(atOnce bool)

	stir  chan struct{}   // holds at most one token: something may have changed
	lost  chan bfd.Status // paths that were lost
	paced chan struct{}   // holds at most one token: a path has changed

	up map[string]bool // the paths that are good; of the Detector's goroutine

	// The fields below belong to Run's own goroutine.
	object   *corev1.Node // nil while it is not known
	raw      []byte       // of the peers file as it was read last
	file     config.PeersFile
	filed    bool // the file was read once
	said     string
	warned   string                    // said in an Event
	faced    map[string]bgp.Peer       // peers with the next hops that were found last
	id       netip.Addr                // the router ID that was found; it stays
	informer cache.SharedIndexInformer // of the node; nil when nothing depends on it

	asked asking

	names atomic.Pointer[config.CommunityNames] // of the settings and the file
}

// resolve says which community somebody means.
func (r *routing) resolve(s string) (value string, large bool, err error) {
	names := r.c.CommunityNames
	if now := r.names.Load(); now != nil {
		names = *now
	}
	return names.Resolve(s)
}

// Run follows until ctx ends.
func (r *routing) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { r.watchPaths(ctx) })
	ticker := time.NewTicker(routingEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		err := r.follow(ctx, &work)
		if text := oneLine(err); text != r.said {
			r.said = text
			if err != nil {
				r.log.Warn("BGP peers are not all that they are to be", "why", text)
			}
		}
		if text := r.said; text != r.warned && (text == "" || r.events.Warn(r.self(), reasonPeers, "BGP peers are not all that they are to be: "+text)) {
			r.warned = text
		}
		if r.informer == nil && r.needsNode() {
			r.watchNode(ctx, &work)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		case <-r.stir:
		}
	}
	return nil
}

// watchPaths has the sessions of paths that were lost closed, whatever else is to be waited for.
func (r *routing) watchPaths(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-r.lost:
			r.speaker.Lost(s.Key, "BFD: "+s.Diagnostic.String())
		case <-r.paced:
			r.publish(true)
		}
	}
}

// changed takes the Detector's word on a path. One that never was good is not lost, and a neighbour whose operator has ended
// BFD may be reached as well as ever. It does not block: packets wait for it.
func (r *routing) changed(_ string, s bfd.Status) {
	select {
	case r.paced <- struct{}{}:
	default: // a token is there already
	}
	was := r.up[s.Key]
	r.up[s.Key] = s.State == bfd.Up
	if !was || s.State != bfd.Down || s.RemoteState == bfd.AdminDown || s.Diagnostic == bfd.NoDiagnostic {
		return
	}
	select {
	case r.lost <- s:
	default: // so many are lost that the sessions end by themselves
	}
}

// watched are the paths to peers that are to be watched by BFD, as far as their addresses are known.
func (r *routing) watched(list []config.Peer) []bfd.Peer {
	known := map[string]netip.Addr{}
	for _, s := range r.speaker.Peers() {
		known[s.Name] = s.Address
	}
	var paths []bfd.Peer
	for _, p := range list {
		at := p.IP()
		if !at.IsValid() {
			at = known[p.String()]
		}
		if !p.BFD.Enable || !at.IsValid() {
			continue
		}
		paths = append(paths, bfd.Peer{
			Key: p.String(), Remote: at, Local: p.SourceIP, Interface: p.SourceInterface, Multihop: p.Multihop || p.TTL > 1 || p.TTLSecurity > 1,
			MinTx: p.BFD.MinTx, MinRx: p.BFD.MinRx, Multiplier: p.BFD.Multiplier,
		})
	}
	return paths
}

func oneLine(err error) string {
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// needsNode says that peers depend on this node's labels or annotations.
func (r *routing) needsNode() bool { return r.c.Annotations != "" || r.c.PeersFile != "" }

// watchNode has r follow the Node object.
func (r *routing) watchNode(ctx context.Context, work *sync.WaitGroup) {
	list := cache.NewListWatchFromClient(r.client.CoreV1().RESTClient(), "nodes", metav1.NamespaceAll, fields.OneTermEqualSelector(metav1.ObjectNameField, r.node))
	r.informer = cache.NewSharedIndexInformer(list, &corev1.Node{}, 0, cache.Indexers{})
	hint := func(any) { r.hint() }
	_, err := r.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: hint, UpdateFunc: func(_, o any) { hint(o) }, DeleteFunc: hint})
	if err != nil {
		r.log.Warn("annotations of this node cannot be followed", "err", err)
	}
	work.Go(func() { r.informer.RunWithContext(ctx) })
}

// follow compares the peers with what they come from. Its error says what keeps it from some or all of them. What has to be
// asked for elsewhere is waited for by nobody: it is looked at again when it is there.
func (r *routing) follow(ctx context.Context, work *sync.WaitGroup) error {
	if r.informer != nil {
		if o, is, err := r.informer.GetStore().GetByKey(r.node); err == nil && is {
			r.object = o.(*corev1.Node)
		}
	}
	problem := r.readFile()
	as, id, list, err := r.configured()
	if err != nil {
		return errors.Join(problem, err)
	}
	links, err := r.links()
	if err != nil {
		return errors.Join(problem, fmt.Errorf("list interfaces: %w", err))
	}
	if !id.IsValid() {
		if !r.id.IsValid() {
			if r.id, err = r.routerID(links); err != nil {
				return errors.Join(problem, err)
			}
		}
		id = r.id
	}
	peers := make([]bgp.Peer, 0, len(list))
	for _, p := range list {
		one := peerOf(p)
		one.LocalAS, one.RouterID = as, id
		if one.Password, err = r.password(ctx, work, p); errors.Is(err, errPending) {
			continue // it is looked at again at once
		} else if err != nil { // without its password it could only be refused
			one.Unusable = oneLine(err)
			peers = append(peers, one)
			continue
		}
		if len(p.Families) == 0 {
			one.IPv4, one.IPv6 = r.familyOf(ctx, work, one)
		}
		if err := one.Face(p.NextHop.Mode, links); err != nil {
			if before, is := r.faced[one.Name]; is { // an address that is gone for a moment ends no session
				one.IPv4, one.IPv6, one.NextHop4, one.NextHop6 = before.IPv4, before.IPv6, before.NextHop4, before.NextHop6
			}
			one.Lacks = oneLine(err)
			problem = errors.Join(problem, fmt.Errorf("BGP peer %s: %w", p, err))
		} else {
			r.faced[one.Name] = one
		}
		peers = append(peers, one)
	}
	err = errors.Join(problem, r.speaker.SetPeers(peers), r.paths.Set(r.watched(list)))
	r.publish(false)
	return err
}

// readFile reads the peers file if it is another than before. The last good one stays.
func (r *routing) readFile() error {
	if r.c.PeersFile == "" {
		return nil
	}
	raw, err := os.ReadFile(r.c.PeersFile)
	if err != nil {
		return fmt.Errorf("bgp_peers_file: %w", err)
	}
	if r.filed && bytes.Equal(raw, r.raw) {
		return nil
	}
	file, err := config.ParsePeersFile(raw)
	if err != nil {
		return fmt.Errorf("bgp_peers_file %s: %w", r.c.PeersFile, err)
	}
	names, err := r.c.Names(file)
	if err == nil && r.c.Annotations == "" { // else its peers do not count
		_, err = r.c.PeersWith(file)
	}
	if err != nil {
		return fmt.Errorf("bgp_peers_file %s: %w", r.c.PeersFile, err)
	}
	if r.filed {
		r.log.Info("BGP peers file has changed", "file", r.c.PeersFile)
	}
	r.raw, r.file, r.filed = raw, file, true
	r.names.Store(&names)
	if r.renamed != nil {
		r.renamed()
	}
	return nil
}

// configured are the peers that settings, file and annotations name on this node, with our AS, and our router ID if it is said.
func (r *routing) configured() (as uint32, id netip.Addr, peers []config.Peer, err error) {
	if r.c.Annotations != "" {
		if r.object == nil {
			return 0, id, nil, fmt.Errorf("node %s is not known yet, whose annotations %s/… name the BGP peers", r.node, r.c.Annotations)
		}
		node, missing, err := config.PeersFromAnnotations(r.c.Annotations, r.object.Annotations)
		if len(missing) > 0 {
			err = errors.Join(err, fmt.Errorf("node %s has not all annotations that name the BGP peers; it lacks %s", r.node, strings.Join(missing, ", ")))
		}
		if err != nil {
			return 0, id, nil, err
		}
		peers, err = r.c.PeersOf(node, r.file)
		return node.AS, node.RouterID, peers, err
	}
	if r.c.PeersFile != "" && !r.filed {
		return 0, id, nil, errors.New("the peers file was not read yet")
	}
	if peers, err = r.c.PeersWith(r.file); err != nil {
		return 0, id, nil, err
	}
	if slices.ContainsFunc(peers, func(p config.Peer) bool { return p.NodeSelector != "" }) {
		if r.object == nil {
			return 0, id, nil, fmt.Errorf("node %s is not known yet, whose labels select BGP peers", r.node)
		}
	}
	var labels map[string]string
	if r.object != nil {
		labels = r.object.Labels
	}
	peers, err = config.OnNode(peers, labels)
	return r.c.AS, r.c.RouterID, peers, err
}

// routerID is this node's when nobody says it: the first IPv4 address of the interface that is named for it, or else of the
// default route's, or else of any.
func (r *routing) routerID(links []vip.Link) (netip.Addr, error) {
	of := func(fits func(vip.Link) bool) netip.Addr {
		for _, l := range links {
			if !fits(l) {
				continue
			}
			for _, a := range l.Addrs {
				if a.Addr().Is4() && !a.Addr().IsLinkLocalUnicast() && !a.Addr().IsLoopback() {
					return a.Addr()
				}
			}
		}
		return netip.Addr{}
	}
	if name := r.c.RouterInterface; name != "" {
		if id := of(func(l vip.Link) bool { return l.Name == name || slices.Contains(l.AltNames, name) }); id.IsValid() {
			return id, nil
		}
		return netip.Addr{}, fmt.Errorf("bgp_routerinterface: interface %s has no IPv4 address to be the BGP router ID", name)
	}
	for _, fits := range []func(vip.Link) bool{
		func(l vip.Link) bool { return l.DefaultRoute4 }, func(l vip.Link) bool { return !l.Loopback }, func(vip.Link) bool { return true },
	} {
		if id := of(fits); id.IsValid() {
			return id, nil
		}
	}
	return netip.Addr{}, errors.New("this node has no IPv4 address to be its BGP router ID: set bgp_routerid")
}

// asking are questions that are under way, and what came of them.
type asking struct {
	mu      sync.Mutex // guards the fields below
	busy    map[string]bool
	secrets map[config.SecretRef]secretData // by namespace and name
	family  map[string]netip.Addr           // addresses that names of peers stand for, of which the family counts
}

// errPending says that what was asked for is not known yet.
var errPending = errors.New("it is not known yet")

// secretData is what a Secret had when it was read, or why it could not be, and when that was.
type secretData struct {
	data map[string][]byte
	err  error // of the first time; nil once it was read
	at   time.Time
}

// ask puts a question, unless it is under way, and has r look again when put says that there is an answer; without one it is
// asked again by the next look. It is called with mu held, and put without.
func (r *routing) ask(ctx context.Context, work *sync.WaitGroup, what string, put func(ctx context.Context) (answered bool)) {
	if r.asked.busy[what] {
		return
	}
	r.asked.busy[what] = true
	work.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, askPatience)
		defer cancel()
		answered := put(ctx)
		r.asked.mu.Lock()
		delete(r.asked.busy, what)
		r.asked.mu.Unlock()
		if answered {
			r.hint()
		}
	})
}

// hint has r look again.
func (r *routing) hint() {
	select {
	case r.stir <- struct{}{}:
	default: // a token is there already
	}
}

// familyOf is that of the address which the name of a peer stands for; IPv4 while that is not known.
func (r *routing) familyOf(ctx context.Context, work *sync.WaitGroup, p bgp.Peer) (ip4, ip6 bool) {
	if p.Host != "" {
		if at, err := netip.ParseAddr(p.Host); err == nil {
			return at.Is4(), !at.Is4()
		}
	}
	r.asked.mu.Lock()
	defer r.asked.mu.Unlock()
	at, known := r.asked.family[p.Name]
	if !known { // the Speaker says why, if it can not be known
		r.ask(ctx, work, "address of "+p.Name, func(ctx context.Context) bool {
			at, err := bgp.Find(ctx, p)
			if err != nil {
				return false
			}
			r.asked.mu.Lock()
			defer r.asked.mu.Unlock()
			r.asked.family[p.Name] = at
			return true
		})
		return true, false
	}
	return at.Is4(), at.Is6()
}

// password is a peer's, out of a Secret if it is there. What was read once counts for as long as it cannot be read again.
func (r *routing) password(ctx context.Context, work *sync.WaitGroup, p config.Peer) (bgp.Secret, error) {
	ref := p.PasswordSecret
	if p.Password != "" || ref.Name == "" {
		return bgp.Secret(p.Password.Reveal()), nil
	}
	if ref.Namespace == "" {
		ref.Namespace = r.where
	}
	ref.Key = ""
	r.asked.mu.Lock()
	defer r.asked.mu.Unlock()
	last := r.asked.secrets[ref]
	every := secretEvery
	if last.err != nil {
		every = routingEvery
	}
	if time.Since(last.at) > every {
		r.ask(ctx, work, "Secret "+ref.Namespace+"/"+ref.Name, func(ctx context.Context) bool { r.readSecret(ctx, ref, p); return true })
	}
	switch {
	case last.at.IsZero():
		return "", errPending
	case last.err != nil:
		return "", fmt.Errorf("its password: %w", last.err)
	}
	password, err := p.PasswordIn(last.data)
	return bgp.Secret(password.Reveal()), err
}

// readSecret reads a Secret, for a peer. What it had before stays when that fails, or when there is no password for the peer any
// more.
func (r *routing) readSecret(ctx context.Context, ref config.SecretRef, p config.Peer) {
	secret, err := r.client.CoreV1().Secrets(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	r.asked.mu.Lock()
	defer r.asked.mu.Unlock()
	last := r.asked.secrets[ref]
	switch {
	case err == nil:
		if _, lacks := p.PasswordIn(secret.Data); lacks == nil || last.data == nil {
			last.data, last.err = secret.Data, nil
		}
	case last.data == nil:
		last.err = err
	}
	last.at = time.Now()
	r.asked.secrets[ref] = last
}

// peerOf is a peer of the settings as the Speaker takes it, but for what the node adds to it.
func peerOf(p config.Peer) bgp.Peer {
	one := bgp.Peer{
		Name: p.String(), Host: p.Address, Interface: p.Interface, AS: p.AS, Port: p.Port, Source: p.SourceIP, SourceInterface: p.SourceInterface,
		TTL: p.TTL, Hops: p.TTLSecurity, Passive: p.Passive, Hold: p.HoldTime, Keepalive: p.KeepaliveInterval, Retry: p.ConnectRetry,
		IPv4: slices.Contains(p.Families, config.FamilyIPv4), IPv6: slices.Contains(p.Families, config.FamilyIPv6),
		NextHop4: p.NextHop.IPv4, NextHop6: p.NextHop.IPv6, BFD: p.BFD.Enable,
		Attributes: bgp.Attributes{
			LocalPref: p.LocalPref, MED: p.MED, Prepend: new(uint32(p.Prepend)), Aggregate4: p.AggregationLength4, Aggregate6: p.AggregationLength6,
		},
	}
	if p.Multihop && one.TTL == 0 {
		one.TTL = multihopTTL
	}
	if p.GracefulRestart.Enable {
		one.Restart = p.GracefulRestart.RestartTime
	}
	for _, c := range p.Communities {
		_ = one.Attributes.Add(c, false) // the settings have judged them
	}
	for _, c := range p.LargeCommunities {
		_ = one.Attributes.Add(c, true)
	}
	return one
}

// multihopTTL is the hop limit to a peer that may be some hops away.
const multihopTTL = 50

// nobodyAsked is a prober where addresses are on no network that could be asked.
type nobodyAsked struct{}

// Probe implements svc.Prober: nobody has it, as far as is known.
func (nobodyAsked) Probe(context.Context, string, netip.Addr) (net.HardwareAddr, error) {
	return nil, nil
}
