package svc

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/validation"

	"kube-vip.io/kube-vip/pkg/names"
)

// ask reads an entry that is no address: one address for each of the families that the Service has and the name, too, in
// the Service's order. The setting dns_mode has been heeded by whoever looked the name up. The Refusal says why there is
// none.
func (r *request) ask(entry string, families []corev1.IPFamily, resolve Names) (addrs []netip.Addr, no Refusal) {
	if !isName(entry) {
		return nil, refuse(RefusedSyntax, "it is neither an IP address nor a DNS name")
	}
	name := strings.ToLower(entry)
	if !slices.Contains(r.names, name) {
		r.names = append(r.names, name)
	}
	var now names.Resolution
	asked := false
	if resolve != nil {
		now, asked = resolve(name)
	}
	if !asked {
		r.open = true
		return nil, refuse(RefusedName, "the DNS name has not been looked up yet")
	}
	for _, f := range families {
		for _, a := range now.Addrs {
			if family(a) == f {
				addrs = append(addrs, a)
			}
		}
	}
	var answer names.AnswerError
	switch {
	case len(addrs) > 0:
		return addrs, Refusal{}
	case len(now.Addrs) > 0:
		return nil, refuse(RefusedFamily, "the DNS name stands for "+join(now.Addrs)+", and the Service has only "+string(families[0])+" (spec.ipFamilies)")
	case errors.As(now.Err, &answer):
		return nil, refuse(RefusedName, "the DNS name "+answer.Why)
	}
	return nil, refuse(RefusedName, "the DNS name can not be looked up: "+names.Cause(now.Err))
}

// isName says whether an entry can be a DNS name. One whose last part is a number is meant as an address.
func isName(entry string) bool {
	name := strings.TrimSuffix(strings.ToLower(entry), ".")
	last := name[strings.LastIndexByte(name, '.')+1:]
	return len(validation.IsDNS1123Subdomain(name)) == 0 && strings.Trim(last, "0123456789") != ""
}

// given are the addresses that a Service has by its status, if that was written by us.
func given(s *corev1.Service) []netip.Addr {
	if !meta.IsStatusConditionTrue(s.Status.Conditions, ConditionAnnounced) {
		return nil
	}
	var list []netip.Addr
	for _, i := range s.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(i.IP); err == nil {
			list = append(list, a.Unmap())
		}
	}
	return list
}

// lookups is how many names are looked up at the same time.
const lookups = 16

// follower is one for the names that Services ask for. A Service chooses among the families of a name itself, so all
// are asked for that the setting allows.
func (o Options) follower(slots chan struct{}) *names.Follower {
	f := &names.Follower{Resolver: o.Resolver, Mode: o.DNSMode, Slots: slots, Log: o.Log}
	if f.Resolver == nil {
		f.Resolver = net.DefaultResolver
	}
	if f.Mode != names.IPv4 && f.Mode != names.IPv6 {
		f.Mode = names.Dual
	}
	return f
}

// directory follows the names that Services ask for: each once, however many ask for it, and in the background, so that
// name servers that do not answer keep nobody waiting.
type directory struct {
	o     Options
	again func(key string) // has a Service looked at
	slots chan struct{}

	mu      sync.Mutex // guards the fields below
	ctx     context.Context
	over    bool // run ends: nothing is begun any more
	work    sync.WaitGroup
	entries map[string]*listing
	asks    map[string][]string // by Service, its names
}

// listing is a name that is followed.
type listing struct {
	users map[string]struct{} // the Services that ask for it
	now   names.Resolution
	asked bool
	stop  context.CancelFunc // nil before run
}

func newDirectory(o Options, again func(string)) *directory {
	return &directory{o: o, again: again, slots: make(chan struct{}, lookups), entries: map[string]*listing{}, asks: map[string][]string{}}
}

// run follows names until ctx ends.
func (d *directory) run(ctx context.Context) {
	d.mu.Lock()
	d.ctx = ctx
	for name, l := range d.entries {
		d.follow(name, l)
	}
	d.mu.Unlock()
	<-ctx.Done()
	d.mu.Lock()
	d.over = true
	d.mu.Unlock()
	d.work.Wait()
}

// resolution is what a name stands for; false before it has been looked up, and for one that nobody asks for.
func (d *directory) resolution(name string) (names.Resolution, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.entries[name]
	if l == nil {
		return names.Resolution{}, false
	}
	return l.now, l.asked
}

// want has the names that a Service asks for followed, and those that nobody asks for any more forgotten.
func (d *directory) want(key string, list []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.asks[key]
	if slices.Equal(before, list) {
		return
	}
	for _, name := range list {
		l := d.entries[name]
		if l == nil {
			l = &listing{users: map[string]struct{}{}}
			d.entries[name] = l
			d.follow(name, l)
		}
		l.users[key] = struct{}{}
	}
	for _, name := range before {
		l := d.entries[name]
		if slices.Contains(list, name) {
			continue
		}
		if delete(l.users, key); len(l.users) == 0 {
			delete(d.entries, name)
			if l.stop != nil {
				l.stop()
			}
		}
	}
	d.asks[key] = list
	if len(list) == 0 {
		delete(d.asks, key)
	}
}

// follow begins to look a name up. Called with mu held.
func (d *directory) follow(name string, l *listing) {
	if d.ctx == nil || d.over || l.stop != nil {
		return
	}
	ctx, stop := context.WithCancel(d.ctx)
	l.stop = stop
	f := d.o.follower(d.slots)
	f.Names = []string{name}
	changes := make(chan names.Resolution)
	d.work.Go(func() { f.Run(ctx, changes) })
	d.work.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-changes:
				d.heard(l, now)
			}
		}
	})
}

// heard takes a new answer and has those looked at who ask for the name.
func (d *directory) heard(l *listing, now names.Resolution) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l.now, l.asked = now, true
	for key := range l.users {
		d.again(key)
	}
}

// resolveOnce looks up every name that Services ask for.
func resolveOnce(ctx context.Context, o Options, services []*corev1.Service) map[string]names.Resolution {
	o.Log = slog.New(slog.DiscardHandler)
	f := o.follower(make(chan struct{}, lookups))
	known := map[string]names.Resolution{}
	var mu sync.Mutex // guards known
	var work sync.WaitGroup
	for _, s := range services {
		if ours, _ := o.Rules.Ours(s); !ours {
			continue
		}
		for _, name := range requested(s, nil).names {
			mu.Lock()
			_, asked := known[name]
			known[name] = names.Resolution{Name: name}
			mu.Unlock()
			if asked {
				continue
			}
			work.Go(func() {
				r := f.Once(ctx, name)
				mu.Lock()
				defer mu.Unlock()
				known[name] = r
			})
		}
	}
	work.Wait()
	return known
}
