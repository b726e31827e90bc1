package svc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kube-vip.io/kube-vip/pkg/pool"
	"kube-vip.io/kube-vip/pkg/vip"
)

// Where the pools are, and the Lease of the cloud provider that may give addresses out in our place.
const (
	PoolNamespace = "kube-system"
	PoolConfigMap = "kubevip"
	providerLease = "kube-vip-cloud-controller"
)

const (
	// providerEvery is the time between two looks at the cloud provider's Lease.
	providerEvery = 15 * time.Second
	// strangerFor is how long an address is not given out that somebody else was found to have.
	strangerFor = 10 * time.Minute
	// freedAgain is the time until an address is tried again that one of our own nodes still has.
	freedAgain = time.Second
	// trials is how many addresses are tried on the wire at the same time.
	trials = 256
)

// Prober asks the wire who has an address. *arp.Prober does.
type Prober interface {
	Probe(ctx context.Context, link string, addr netip.Addr) (owner net.HardwareAddr, err error)
}

// PoolMode says whether addresses are given out.
type PoolMode string

// The modes.
const (
	PoolsAuto PoolMode = "auto" // unless a cloud provider does
	PoolsOn   PoolMode = "on"
	PoolsOff  PoolMode = "off"
)

// supply gives addresses out of pools to the Services that ask for none. An address is tried on the wire before it is
// written to the Service; that takes a moment, in which the worker does other things.
type supply struct {
	o     Options
	log   *slog.Logger
	again func(key string)                     // has a Service looked at
	gave  func(s *corev1.Service, text string) // tells that it was given addresses
	slots chan struct{}

	mu        sync.Mutex // guards the fields below
	ctx       context.Context
	work      sync.WaitGroup
	provider  provision
	outcomes  map[string]outcome
	strangers map[netip.Addr]stranger
}

// provision is what is known of a cloud provider.
type provision int

const (
	provisionUnknown provision = iota
	provisionOurs
	provisionTheirs
)

// stranger is somebody outside the cluster who has an address of a pool.
type stranger struct {
	mac   net.HardwareAddr
	until time.Time
}

// outcome is what came of a trial: the addresses were written, or somebody on the wire has one, or it failed.
type outcome struct {
	version string     // of the Service for which they were tried
	addr    netip.Addr // that somebody has, with this hardware address
	mac     net.HardwareAddr
	err     error
}

func newSupply(o Options, again func(string), gave func(*corev1.Service, string)) *supply {
	return &supply{o: o, log: o.Log, again: again, gave: gave, slots: make(chan struct{}, trials),
		outcomes: map[string]outcome{}, strangers: map[netip.Addr]stranger{}}
}

// run looks for a cloud provider until ctx ends.
func (s *supply) run(ctx context.Context, leads func() bool, all func()) {
	s.mu.Lock()
	s.ctx = ctx
	s.mu.Unlock()
	defer s.work.Wait()
	for {
		wait := providerEvery
		switch s.o.Pools {
		case PoolsOff:
			s.settle(provisionTheirs, all)
		case PoolsOn:
			s.settle(provisionOurs, all)
		default:
			if !leads() {
				wait = time.Second
				break
			}
			lease, err := s.o.Client.CoordinationV1().Leases(PoolNamespace).Get(ctx, providerLease, metav1.GetOptions{})
			switch {
			case err == nil && provides(lease, time.Now()):
				s.settle(provisionTheirs, all)
			case err == nil || apierrors.IsNotFound(err) || apierrors.IsForbidden(err):
				s.settle(provisionOurs, all)
			default:
				wait = time.Second // nothing is known
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// provides says whether the cloud provider whose Lease this is gives addresses out.
func provides(lease *coordinationv1.Lease, now time.Time) bool {
	return lease.Spec.RenewTime != nil && now.Sub(lease.Spec.RenewTime.Time) < 4*providerEvery
}

// Why addresses are not ours to give out.
const (
	poolsAreOff      = "pools are off (svc_pools)"
	providerSupplies = "a cloud provider gives addresses out (Lease " + PoolNamespace + "/" + providerLease + ")"
)

func (s *supply) settle(p provision, all func()) {
	s.mu.Lock()
	before := s.provider
	s.provider = p
	s.mu.Unlock()
	if before == p {
		return
	}
	if p == provisionTheirs && s.o.Pools == PoolsAuto {
		s.log.Info("a cloud provider gives addresses out: pools are left to it", "lease", PoolNamespace+"/"+providerLease)
	}
	all()
}

// mine says whether it is known that it is for us to give addresses out.
func (s *supply) mine() bool { ok, _ := s.ours(); return ok }

// ours says whether it is for us to give addresses out, and if not, why not.
func (s *supply) ours() (ok bool, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.o.Pools == PoolsOff:
		return false, poolsAreOff
	case s.provider == provisionTheirs:
		return false, providerSupplies
	case s.provider == provisionUnknown:
		return false, "it is not known yet whether a cloud provider gives addresses out"
	}
	return true, ""
}

// taken says whether somebody outside the cluster was found to have addr.
func (s *supply) taken(addr netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	who, is := s.strangers[addr]
	if is && time.Now().After(who.until) {
		delete(s.strangers, addr)
		return false
	}
	return is
}

// avoid has an address not given out for a while.
func (s *supply) avoid(addr netip.Addr, mac net.HardwareAddr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strangers[addr] = stranger{mac, time.Now().Add(strangerFor)}
}

// outcome is what came of the last trial for a Service, once.
func (s *supply) outcome(key string) (outcome, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, is := s.outcomes[key]
	delete(s.outcomes, key)
	return o, is
}

// forget forgets what came of a trial for a Service that is gone.
func (s *supply) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.outcomes, key)
}

// offer is what a pool has for a Service.
type offer struct {
	pool  string // its key in the ConfigMap
	addrs []netip.Addr
	fresh []netip.Addr // those that the Service did not have
	ask   []vip.VIP    // those that no Service had, where this node can ask for them
}

// try asks the wire, and if nobody there has an address that is offered writes them to the Service. What came of it is an
// outcome, and the Service is looked at again.
func (s *supply) try(service *corev1.Service, of offer) {
	s.mu.Lock()
	ctx := s.ctx
	s.mu.Unlock()
	if ctx == nil || ctx.Err() != nil {
		return
	}
	s.work.Go(func() {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		case <-ctx.Done():
			return
		}
		o := s.trial(ctx, service, of)
		if ctx.Err() != nil {
			return
		}
		o.version = service.ResourceVersion
		s.mu.Lock()
		s.outcomes[key(service)] = o
		s.mu.Unlock()
		s.again(key(service))
	})
}

func (s *supply) trial(ctx context.Context, service *corev1.Service, of offer) outcome {
	for _, v := range of.ask {
		mac, err := s.o.Prober.Probe(ctx, v.Via, v.Addr())
		if err != nil {
			return outcome{err: fmt.Errorf("ask on %s who has %s: %w", v.Via, v, err)}
		}
		if mac != nil {
			return outcome{addr: v.Addr(), mac: mac}
		}
	}
	if err := s.write(ctx, service, of.addrs); err != nil {
		return outcome{err: err}
	}
	if len(of.fresh) > 0 {
		text := join(of.fresh) + " out of the pool " + of.pool
		s.log.Info("Service was given addresses", "service", key(service), "addresses", text)
		s.gave(service, text)
	}
	return outcome{}
}

// write writes addresses to a Service, if nobody has written to it since it was read.
func (s *supply) write(ctx context.Context, service *corev1.Service, addrs []netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	text := commas(addrs)
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"resourceVersion": service.ResourceVersion,
		"annotations":     map[string]string{AddressesAnnotation: text, AllocatedAnnotation: text},
	}})
	if err != nil {
		return fmt.Errorf("write the addresses of Service %s as a patch: %w", key(service), err)
	}
	services := s.o.Writer.CoreV1().Services(service.Namespace)
	_, err = services.Patch(ctx, service.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsForbidden(err) {
		after := service.DeepCopy()
		setAnnotation(after, AddressesAnnotation, text)
		setAnnotation(after, AllocatedAnnotation, text)
		if _, err = services.Update(ctx, after, metav1.UpdateOptions{}); apierrors.IsForbidden(err) {
			err = fmt.Errorf(`%w; this would allow it: apiGroups: [""], resources: ["services"], verbs: ["patch"]`, err)
		}
	}
	if err != nil {
		return fmt.Errorf("write %s to Service %s: %w", text, key(service), err)
	}
	return nil
}

// provide looks for addresses for a Service whose plan wants some. It returns why it has not all, with the reason's name;
// both are empty when it has, and while some are being tried.
func (c *Controller) provide(s *corev1.Service, r *entry, p Plan) (reason, why string) {
	name := key(s)
	if o, is := c.supply.outcome(name); is {
		r.trying = false
		if again, reason, why := c.heed(s, r, o); !again {
			return reason, why
		}
	}
	if r.trying || r.awaited == s.ResourceVersion {
		return "", ""
	}
	delete(c.book.hungry, name)
	lacks := p.Reason
	if p.Announced {
		lacks = p.Short
	}
	if !c.leads(c.o.Mandate) || c.o.ReadOnly || lacks == "" && !c.supply.mine() {
		return ReasonNoAddress, lacks
	}
	if ok, why := c.supply.ours(); !ok {
		return ReasonNoAddress, lacks + ": " + why
	}
	answer, free, err := c.book.give(wish(s, c.o, c.cluster, func(a netip.Addr) bool {
		return !slices.Contains(p.Addrs, a) && !c.book.has(a) && (c.supply.taken(a) || vip.OwnAddress(a, c.links) != nil)
	}), p.Addrs)
	for _, waiting := range free {
		c.queue.Add(waiting)
	}
	if err == nil && !(slices.Equal(answer.Addrs, p.Addrs) && len(p.Refused) == 0) {
		r.trying = true
		c.supply.try(s, c.offer(s, answer.Addrs, p.Addrs))
		return "", ""
	}
	short := err == nil // it has one of two families, which will do
	if short {
		err = answer.Lacking
	}
	if err == nil {
		return "", lacks // it has all that it may
	}
	c.book.hungry[name] = struct{}{}
	reason = ReasonNoAddress
	if errors.Is(err, pool.ErrExhausted) {
		c.queue.AddAfter(name, strangerFor) // one that a stranger has may be free then
		reason = ReasonExhausted
	}
	if short && !p.Announced {
		return "", lacks
	}
	return reason, oneLine(err)
}

// heed takes note of what came of a trial. It says whether to look for addresses again now; if not, the Service is looked
// at later, and this is why it has none until then.
func (c *Controller) heed(s *corev1.Service, r *entry, o outcome) (again bool, reason, why string) {
	name := key(s)
	switch {
	case o.version != s.ResourceVersion: // what was found may have been a node of ours, and what was written is here
	case o.err == nil && o.mac == nil, apierrors.IsConflict(o.err):
		r.awaited, r.failure = s.ResourceVersion, "" // the Service is another one already, and is on its way here
	case o.err != nil:
		if text := oneLine(o.err); text != r.failure {
			r.failure = text
			c.log.Warn("Service could not be given an address; trying again", "service", name, "err", o.err)
		}
		r.failed = true
		c.queue.AddRateLimited(name)
		return false, ReasonNoAddress, oneLine(o.err)
	case c.book.has(o.addr) || c.book.lately(o.addr): // it is one of our own nodes
		c.queue.AddAfter(name, freedAgain)
		return false, "", ""
	default:
		c.supply.avoid(o.addr, o.mac)
		c.log.Warn("address of a pool is in use", "service", name, "address", o.addr, "by", o.mac.String())
		c.writer.events.Warn(s, ReasonInUse, fmt.Sprintf("%s is in use by another host, with the hardware address %s: another one is tried", o.addr, o.mac))
	}
	return true, "", ""
}

// offer is what a Service that had some addresses is to be offered. What no node of ours has is asked for, where this node
// has a place for it: one without asks nobody, and another may hold it.
func (c *Controller) offer(s *corev1.Service, addrs, had []netip.Addr) offer {
	of := offer{pool: c.book.Pools().Key(s.Namespace), addrs: addrs}
	for _, a := range addrs {
		if slices.Contains(had, a) {
			continue
		}
		of.fresh = append(of.fresh, a)
		if at, err := vip.Resolve(a, c.placement(s), c.links); err == nil && !c.book.has(a) {
			of.ask = append(of.ask, at)
		}
	}
	return of
}

// wish is what a Service asks of the pools. taken says whether a stranger has an address.
func wish(s *corev1.Service, o Options, cluster Cluster, taken func(netip.Addr) bool) pool.Request {
	return pool.Request{Service: tenant(s), Families: poolFamilies(s), Policy: policyOf(s), Skip: func(a netip.Addr) bool {
		_, elsewhere := o.Elsewhere(a)
		return elsewhere || cluster.refuse(a).Code != "" || outside(a, o.Allowed).Code != "" || taken(a)
	}}
}

func poolFamilies(s *corev1.Service) []pool.Family {
	var list []pool.Family
	for _, f := range familiesOf(s) {
		if f == corev1.IPv4Protocol {
			list = append(list, pool.IPv4)
		} else {
			list = append(list, pool.IPv6)
		}
	}
	return list
}

func policyOf(s *corev1.Service) pool.Policy {
	if s.Spec.IPFamilyPolicy == nil {
		return pool.SingleStack
	}
	switch *s.Spec.IPFamilyPolicy {
	case corev1.IPFamilyPolicyPreferDualStack:
		return pool.PreferDualStack
	case corev1.IPFamilyPolicyRequireDualStack:
		return pool.RequireDualStack
	}
	return pool.SingleStack
}

// commas are addresses as the annotation lists them.
func commas(addrs []netip.Addr) string {
	text := ""
	for i, a := range addrs {
		if i > 0 {
			text += ","
		}
		text += a.String()
	}
	return text
}

// pools reads the ConfigMap again when it has changed. What is wrong in it is told by who leads.
func (c *Controller) pools() {
	m := c.sources.configMap()
	version := ""
	var data map[string]string
	if m != nil {
		version, data = string(m.UID)+m.ResourceVersion, m.Data
	}
	if version != c.poolVersion {
		c.poolVersion, c.poolsTold = version, false
		pools, problems := pool.Parse(data)
		c.book.SetPools(pools)
		c.poolProblems = problems
		for _, p := range problems {
			c.log.Warn("ConfigMap "+PoolNamespace+"/"+PoolConfigMap+" is not all as it should be", "problem", p.String(), "counts", p.Counts)
		}
		c.all()
	}
	if !c.leads(c.o.Mandate) {
		c.poolsTold = false
		return
	}
	if c.poolsTold {
		return
	}
	c.poolsTold = true
	for _, p := range c.poolProblems {
		if !c.writer.events.Warn(m, ReasonBadPool, p.String()) {
			c.poolsTold = false
			c.queue.AddAfter(poolKey, time.Second)
			return
		}
	}
}
