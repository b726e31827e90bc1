// Package cp is the control-plane VIP: its addresses, the interface that carries each of them, the health of this
// node's API server, and the claim that follows from these.
//
// A ControlPlane claims its VIPs in the vip.Table and says whether this node is fit to hold them; whether it does
// hold them is decided elsewhere, by the mandate. Names among the addresses are looked up again and again, and
// interfaces are compared again at each hint and each second, so that the claim is always what it would be after a
// restart. The API server is asked for /livez on the node's own addresses, never through the VIP.
package cp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kube-vip.io/kube-vip/pkg/names"
	"kube-vip.io/kube-vip/pkg/vip"
)

// Owner is the owner under which the VIPs are claimed.
const Owner = "cp"

const (
	// followEvery is the time between two comparisons with the node's interfaces when nothing hints at a change.
	followEvery = time.Second
	// followPause is the least time between two: a node on which pods start has hints by the dozen.
	followPause = 100 * time.Millisecond
	// sayAgain is the least time between two log lines on an ill server whose reason changes: one that restarts
	// has a new one with every probe.
	sayAgain = 10 * time.Second
)

// notKnown is the reason before there is one.
const notKnown = "nothing is known yet"

// Claimer is told which VIPs belong to whom. *vip.Table is one.
type Claimer interface {
	// Claim replaces the earlier claim of owner.
	Claim(owner, mandate string, vips []vip.VIP)
}

var _ Claimer = (*vip.Table)(nil)

// HealthOptions say how the API server is judged.
type HealthOptions struct {
	// Enable asks the server. Without it only the interfaces count.
	Enable bool
	// URL is asked in place of the local API server's /livez; http or https. Of such a server only the status
	// 200 will do.
	URL string
	// CAPath is a PEM file of CAs that are trusted beside those of Options.TLS.
	CAPath string
	// Period is the time between two probes, 200 ms if 0; Timeout bounds each, 1 s if 0.
	Period, Timeout time.Duration
	// FailureThreshold failures in a row make the server unhealthy, 2 if 0; SuccessThreshold successes in a row
	// make it healthy again, 3 if 0.
	FailureThreshold, SuccessThreshold int
}

// Options configure a ControlPlane. Addresses, Port, Claimer and Links are required.
type Options struct {
	// Addresses are IP addresses and DNS names, as they were configured.
	Addresses []string
	// DNSMode chooses among the addresses of a name.
	DNSMode names.Mode
	// Port is the API server's.
	Port uint16
	// Placement says where the VIPs go.
	Placement vip.Placement
	Health    HealthOptions

	// TLS returns the cluster's CA (RootCAs, or a VerifyConnection that knows it) and our client certificate, as
	// far as they are known: until there is a CA the server's certificate is not verified. It is called for
	// each new connection. Nil knows nothing.
	TLS func() (*tls.Config, error)
	// Bearer returns a token, empty for none; nil has none. It is only sent to a verified local API server.
	Bearer func() string

	// Mandate is the one under which the VIPs are claimed.
	Mandate string
	Claimer Claimer
	Links   Links
	// Resolver looks names up; nil means net.DefaultResolver.
	Resolver names.Resolver
	// Listener is told of changes of health; may be nil.
	Listener HealthListener

	Log *slog.Logger
	// Registerer gets the metrics; nil means none.
	Registerer prometheus.Registerer
}

// ControlPlane follows the control-plane VIP on this node. Its methods may be called from any goroutine, before
// and while Run works, and do not block.
type ControlPlane struct {
	o        Options
	log      *slog.Logger
	fixed    []netip.Addr
	names    []string
	server   *localServer
	prober   prober // nil when health is not checked
	metrics  *metrics
	check    *certificateCheck
	changes  chan struct{} // holds at most one token: an interface may have changed
	listener HealthListener

	mu     sync.Mutex // guards health
	health Health

	// The fields below belong to Run's own goroutine.
	resolved map[string]names.Resolution
	places   []vip.Place
	vips     []vip.VIP // as claimed
	claimed  bool
	usable   int
	links    judge
	api      opinion
	linksErr string
	told     bool // the listener has been told a verdict
	said     time.Time
}

// New checks o and returns a ControlPlane that claims nothing. Run does the work.
func New(o Options) (*ControlPlane, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	setDefault(&o.Health.Period, 200*time.Millisecond)
	setDefault(&o.Health.Timeout, time.Second)
	setDefault(&o.Health.FailureThreshold, 2)
	setDefault(&o.Health.SuccessThreshold, 3)

	c := &ControlPlane{
		o:        o,
		log:      o.Log,
		server:   &localServer{port: o.Port},
		changes:  make(chan struct{}, 1),
		listener: o.Listener,
		health:   Health{Reason: notKnown},
		resolved: make(map[string]names.Resolution),
		links:    judge{fall: 1, rise: 1, period: followEvery},
	}
	c.check = &certificateCheck{certificate: c.server.certificate, log: o.Log, kick: make(chan struct{}, 1)}
	var errs []error
	for _, a := range o.Addresses {
		a = strings.TrimSpace(a)
		addr, err := netip.ParseAddr(a)
		switch {
		case a == "":
			errs = append(errs, errors.New("address: an entry is empty: each must be an IP address or a DNS name"))
			continue
		case err != nil:
			if !slices.Contains(c.names, a) {
				c.names = append(c.names, a)
			}
		case addr.Zone() != "":
			errs = append(errs, fmt.Errorf("address: %s has a zone: write it without %%%s and set vip_interface", a, addr.Zone()))
		default:
			addr = addr.Unmap()
			a = addr.String()
			c.fixed = append(c.fixed, addr)
		}
		c.check.addresses = append(c.check.addresses, a)
	}
	if len(o.Addresses) == 0 {
		errs = append(errs, errors.New("address: the control plane has no VIP: give an IP address or a DNS name"))
	}
	switch o.DNSMode {
	case "", names.First, names.IPv4, names.IPv6, names.Dual:
	default:
		errs = append(errs, fmt.Errorf("dns_mode: %q is none of first, ipv4, ipv6, dual", o.DNSMode))
	}
	if o.Health.Enable {
		p, err := newHTTPProber(o, c.server)
		if err != nil {
			errs = append(errs, err)
		}
		c.prober = p
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var err error
	c.metrics, err = newMetrics(o.Registerer)
	return c, err
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Now is the health of this moment.
func (c *ControlPlane) Now() Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.health
	h.VIPs = slices.Clone(h.VIPs)
	return h
}

// Hint says that an interface or an address may have changed.
func (c *ControlPlane) Hint() {
	select {
	case c.changes <- struct{}{}:
	default: // a token is there already
	}
}

// Holding says that this node began or ceased to hold the VIPs. At the beginning of each hold the API server's
// certificate is looked at again.
func (c *ControlPlane) Holding(yes bool) {
	if yes {
		c.check.check()
	}
}

// Run follows addresses, interfaces and health until ctx ends. It leaves the claim as it is then: the VIPs are
// taken off this node by revoking the mandate, before it is given up.
func (c *ControlPlane) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()

	opinions := make(chan opinion)
	if c.prober != nil {
		running.Go(func() { c.probe(ctx, opinions) })
	} else {
		c.check.check()
	}
	resolutions := make(chan names.Resolution)
	if len(c.names) > 0 {
		f := &names.Follower{Resolver: c.o.Resolver, Mode: c.o.DNSMode, Names: c.names, Log: c.log}
		running.Go(func() { f.Run(ctx, resolutions) })
	}
	running.Go(func() { c.check.run(ctx) })

	timer := time.NewTimer(0)
	defer timer.Stop()
	var followed time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case o := <-opinions:
			c.heard(o)
			continue
		case n := <-resolutions:
			c.resolved[n.Name] = n
		case <-c.changes:
			if wait := followPause - time.Since(followed); wait > 0 {
				timer.Reset(wait)
				continue
			}
		case <-timer.C:
		}
		c.follow()
		followed = time.Now()
		timer.Reset(followEvery)
	}
}

// An opinion is what is known of the API server.
type opinion struct {
	verdict     verdict
	fault, note string
	said        bool // the fault is what the server told last
}

// probe judges the API server until ctx ends. It passes on what is new alone: at rest an answer wakes nobody up.
func (c *ControlPlane) probe(ctx context.Context, opinions chan<- opinion) {
	h := c.o.Health
	j := judge{fall: h.FailureThreshold, rise: h.SuccessThreshold, period: h.Period}
	var last opinion
	probeEvery(ctx, h.Period, c.prober, func(a answer) {
		c.metrics.probed(a)
		j.observe(time.Now(), a.fault)
		now := opinion{verdict: j.verdict, fault: j.fault, note: a.note, said: j.fault != "" && a.said}
		if a.fault != "" {
			now.note = last.note // a note is on a server that answers
		}
		if now == last {
			return
		}
		select {
		case opinions <- now:
			last = now
		case <-ctx.Done():
		}
	})
}

// heard takes a new opinion on the API server.
func (c *ControlPlane) heard(now opinion) {
	before := c.api
	c.api = now
	if now.verdict == healthy && before.verdict != healthy {
		c.check.check() // it may have come back with another certificate
	}
	if now.note != before.note && now.note != "" {
		c.log.Info("API server's health", "note", now.note)
	}
	c.publish()
}

// follow compares the claim with the node's interfaces.
func (c *ControlPlane) follow() {
	links, err := c.o.Links.Links()
	if text(err) != c.linksErr {
		c.linksErr = text(err)
		if err != nil {
			c.log.Warn("interfaces not read, keeping what is known of them", "err", err)
		}
	}
	if err != nil {
		// What was true a second ago is a better guess than that there is no interface.
		if !c.claimed && c.links.observe(time.Now(), err.Error()) {
			c.publish()
		}
		return
	}

	addrs, problems, asked := c.addresses()
	c.server.setOwn(nodeAddrs(links, addrs))
	places, usable, unplaced := c.o.Placement.Follow(addrs, links, c.places)
	c.places, c.usable = places, usable
	c.claim()
	changed := false
	if asked {
		changed = c.links.observe(time.Now(), joined(append(problems, unplaced...)))
	}
	if changed || c.stale() {
		c.publish()
	}
}

// addresses are those to be held, in the order of the configuration, what is wrong with the names, and whether
// each name has been asked for once.
func (c *ControlPlane) addresses() (addrs []netip.Addr, problems []error, asked bool) {
	add := func(a netip.Addr) {
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	for _, a := range c.fixed {
		add(a)
	}
	for _, name := range c.names {
		r := c.resolved[name]
		for _, a := range r.Addrs {
			add(a)
		}
		if len(r.Addrs) == 0 && r.Err != nil {
			problems = append(problems, fmt.Errorf("address: %w", r.Err))
		}
	}
	return addrs, problems, len(c.resolved) == len(c.names)
}

// claim claims the VIPs where they are placed, if that is news.
func (c *ControlPlane) claim() {
	vips := make([]vip.VIP, 0, len(c.places))
	for _, at := range c.places {
		vips = append(vips, at.VIP)
	}
	if c.claimed && slices.Equal(vips, c.vips) {
		return
	}
	for _, v := range vips {
		if !slices.Contains(c.vips, v) {
			c.log.Info("VIP placed", "vip", v.String(), "prefix", v.Prefix.String(), "link", v.Link, "via", v.Via)
		}
	}
	c.vips, c.claimed = vips, true
	c.o.Claimer.Claim(Owner, c.o.Mandate, slices.Clone(vips))
}

// stale says that what is published of the places is not what they are.
func (c *ControlPlane) stale() bool {
	h := c.Now()
	return !slices.Equal(h.VIPs, c.vips) || h.Able != c.able() || !h.OK && h.Reason != c.reason() || !h.Serving && h.Answers != c.api.said
}

// able says that a VIP could be put on this node now.
func (c *ControlPlane) able() bool { return c.usable > 0 }

// reason joins what is wrong, the node's interfaces first.
func (c *ControlPlane) reason() string {
	var parts []string
	if c.links.verdict == unhealthy {
		parts = append(parts, c.links.fault)
	}
	if c.prober != nil && c.api.verdict == unhealthy {
		parts = append(parts, c.api.fault)
	}
	if len(parts) == 0 {
		return notKnown
	}
	return strings.Join(parts, "; ")
}

// publish makes the state of the judges known: to Now, the log, the metrics, and where it is news the listener.
func (c *ControlPlane) publish() {
	serving := c.prober == nil || c.api.verdict == healthy
	ok := serving && c.links.verdict == healthy
	known := c.told || ok || c.links.verdict == unhealthy || c.prober != nil && c.api.verdict == unhealthy
	now := Health{OK: ok, Able: c.able(), Serving: serving, Answers: !serving && c.api.said, Note: c.api.note, VIPs: c.vips, Since: time.Now()}
	if !ok {
		now.Reason = c.reason()
	}

	c.mu.Lock()
	before := c.health
	if before.OK == ok && c.told {
		now.Since = before.Since
	}
	c.health = now
	c.mu.Unlock()
	if !known {
		return
	}

	first := !c.told
	c.told = true
	switch {
	case ok && (first || !before.OK):
		c.log.Info("control plane is healthy on this node")
		c.metrics.healthy.Set(1)
	case !ok && (first || before.OK):
		c.log.Warn("control plane is unhealthy on this node", "reason", now.Reason)
		c.said = now.Since
		c.metrics.healthy.Set(0)
	case !ok && now.Reason != before.Reason && time.Since(c.said) >= sayAgain:
		c.log.Info("control plane is still unhealthy on this node", "reason", now.Reason)
		c.said = time.Now()
	}
	if c.listener != nil && (first || before.OK != ok || before.Able != now.Able || before.Serving != serving || before.Answers != now.Answers) {
		c.listener(now)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
