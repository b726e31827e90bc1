package ha

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

// Names on a member Lease.
const (
	// MemberPrefix and the node's name make the name of a member Lease.
	MemberPrefix = "kubevip-member-"
	// MemberLabel is on every member Lease.
	MemberLabel = "kube-vip.io/member"
	// GroupLabelPrefix and a group Lease's name make the label that says which groups a member serves.
	GroupLabelPrefix = "group.kube-vip.io/"
	// HealthAnnotation is the member's Health, and ReasonAnnotation why.
	HealthAnnotation = "kube-vip.io/health"
	ReasonAnnotation = "kube-vip.io/health-reason"
	// AddressesAnnotation lists the addresses by which the member's API server can be reached.
	AddressesAnnotation = "kube-vip.io/addresses"
	// LacksAnnotation lists what Services ask for and the member has no place for, separated by commas.
	LacksAnnotation = "kube-vip.io/lacks"
	// VersionAnnotation is the program's version.
	VersionAnnotation = "kube-vip.io/version"
)

const (
	// memberPeriod is the time between two renewals of a member Lease. It is the list of members, no failure detector.
	memberPeriod = 10 * time.Second
	// memberDuration is how long a member counts that is not renewed.
	memberDuration = 25 * time.Second
	// memberRetry is the time after a failed write.
	memberRetry = time.Second
	// memberTimeout bounds one write.
	memberTimeout = 3 * time.Second
	// memberAge is how often it is looked whether one fell silent.
	memberAge = time.Second
	// farewellTimeout bounds the last write of a member that stops.
	farewellTimeout = 500 * time.Millisecond
)

// MembersOptions configure Members. Every field is required unless it says otherwise.
type MembersOptions struct {
	Namespace string
	Identity  string
	Groups    []string // names of the group Leases
	Version   string
	Addresses func() []netip.Addr // of this node; may be nil
	Leases    coordinationclient.LeasesGetter
	Watches   coordinationclient.LeasesGetter
	Log       *slog.Logger
}

// Member is an instance that may hold VIPs.
type Member struct {
	Node      string
	Health    Health
	Reason    string
	Groups    []string // names of the group Leases, cut to what a label's key may hold
	Addresses []netip.Addr
	Version   string
	Lacks     []string // as it was said by SetLacks
}

// Members publishes this instance's member Lease and knows those of the others.
type Members struct {
	o      MembersOptions
	name   string
	wake   chan struct{} // holds at most one token: publish now
	jitter func(time.Duration) time.Duration

	mu     sync.Mutex // guards the fields below
	health Health
	reason string
	lacks  *string             // nil until the first SetLacks, and then what an earlier life said stays
	notes  map[string]string   // annotations besides, as they were said by SetNote
	others map[string]sighting // by Lease name
	subs   map[*subscription]struct{}
}

// sighting is a member and when its Lease last changed, on our clock.
type sighting struct {
	member  Member
	version string
	renewed metav1.MicroTime
	at      time.Time
	left    bool // it said farewell
}

func (s sighting) alive() bool { return !s.left && time.Since(s.at) < memberDuration }

// subscription is somebody who wants to know when a group's healthy changes.
type subscription struct {
	group   string
	healthy time.Time
	changed func()
}

// NewMembers returns Members that publish nothing yet. Until the first SetHealth this instance says unhealthy.
func NewMembers(o MembersOptions) *Members {
	return &Members{o: o, name: MemberPrefix + o.Identity, wake: make(chan struct{}, 1), jitter: rand.N[time.Duration],
		health: Unhealthy, reason: "not known yet", others: map[string]sighting{}, subs: map[*subscription]struct{}{}}
}

// SetHealth has this node's health published: at once when it changes, with the next renewal when only the reason
// does. It does not block.
func (m *Members) SetHealth(h Health, reason string) {
	m.mu.Lock()
	same := m.health == h
	m.health, m.reason = h, reason
	m.mu.Unlock()
	if same {
		return
	}
	select {
	case m.wake <- struct{}{}:
	default: // a token is there already
	}
}

// SetLacks has published, at once, what Services ask for and this node has no place for. It does not block.
func (m *Members) SetLacks(list []string) {
	text := strings.Join(list, ",")
	m.mu.Lock()
	same := m.lacks != nil && *m.lacks == text
	m.lacks = &text
	m.mu.Unlock()
	if same {
		return
	}
	select {
	case m.wake <- struct{}{}:
	default: // a token is there already
	}
}

// SetNote has published an annotation for people and programs that look at members, at once or with the next renewal; it
// bears on nothing here. It does not block.
func (m *Members) SetNote(key, value string, atOnce bool) {
	m.mu.Lock()
	same := m.notes[key] == value
	if m.notes == nil {
		m.notes = map[string]string{}
	}
	m.notes[key] = value
	m.mu.Unlock()
	if same || !atOnce {
		return
	}
	select {
	case m.wake <- struct{}{}:
	default: // a token is there already
	}
}

// Others lists the other members that are alive, by name.
func (m *Members) Others() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Member
	for _, name := range slices.Sorted(maps.Keys(m.others)) {
		if s := m.others[name]; s.alive() {
			list = append(list, s.member)
		}
	}
	return list
}

// healthy is when another member of group last said that it is healthy; zero if none that is alive says so.
func (m *Members) healthy(group string) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.healthyLocked(group)
}

func (m *Members) healthyLocked(group string) time.Time {
	var last time.Time
	for _, s := range m.others {
		if s.member.Health == Healthy && s.alive() && s.at.After(last) && slices.Contains(s.member.Groups, labelPart(group)) {
			last = s.at
		}
	}
	return last
}

// subscribe has changed called whenever healthy has changed for group, until the returned function is called.
// changed must not block.
func (m *Members) subscribe(group string, changed func()) (cancel func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &subscription{group: group, healthy: m.healthyLocked(group), changed: changed}
	m.subs[s] = struct{}{}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.subs, s)
	}
}

// tell tells the subscribers whose answer changed.
func (m *Members) tell() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.subs {
		if healthy := m.healthyLocked(s.group); !healthy.Equal(s.healthy) {
			s.healthy = healthy
			s.changed()
		}
	}
}

// Run publishes and watches until ctx ends, then says farewell.
func (m *Members) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { m.watch(ctx) })
	work.Go(func() { m.age(ctx) })

	timer := time.NewTimer(0)
	defer timer.Stop()
	problem := ""
	for {
		select {
		case <-ctx.Done():
			farewell, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewellTimeout)
			defer cancel()
			if err := m.publish(farewell, true); err != nil {
				m.o.Log.Debug("the member Lease is left to expire", "err", err)
			}
			return nil
		case <-m.wake:
		case <-timer.C:
		}
		next := memberPeriod
		text := ""
		if err := m.publish(ctx, false); err != nil && ctx.Err() == nil {
			next, text = memberRetry, err.Error()
			if problem == "" && !apierrors.IsConflict(err) {
				m.o.Log.Warn("other members can not see this node's health; trying again", "err", err)
			}
		}
		problem = text
		timer.Reset(next)
	}
}

// age tells when a member falls silent, for which there is no event.
func (m *Members) age(ctx context.Context) {
	ticker := time.NewTicker(memberAge)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			m.tell()
		}
	}
}

// publish writes this instance's member Lease.
func (m *Members) publish(ctx context.Context, leaving bool) error {
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	leases := m.o.Leases.Leases(m.o.Namespace)
	lease, err := leases.Get(ctx, m.name, metav1.GetOptions{})
	create := apierrors.IsNotFound(err)
	if err != nil && !create {
		return fmt.Errorf("read Lease %s/%s: %w", m.o.Namespace, m.name, err)
	}
	if create {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: m.o.Namespace, Name: m.name}}
	}
	m.fill(lease, leaving)
	if create {
		_, err = leases.Create(ctx, lease, metav1.CreateOptions{})
	} else {
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write Lease %s/%s: %w", m.o.Namespace, m.name, err)
	}
	return nil
}

func (m *Members) fill(lease *coordinationv1.Lease, leaving bool) {
	m.mu.Lock()
	health, reason, lacks, notes := m.health, m.reason, m.lacks, maps.Clone(m.notes)
	m.mu.Unlock()
	holder := m.o.Identity
	if leaving {
		holder, health, reason = "", Unable, "stopped"
	}
	if lease.Labels == nil {
		lease.Labels = map[string]string{}
	}
	if lease.Annotations == nil {
		lease.Annotations = map[string]string{}
	}
	lease.Labels[MemberLabel] = "true"
	for label := range lease.Labels {
		if strings.HasPrefix(label, GroupLabelPrefix) {
			delete(lease.Labels, label)
		}
	}
	for _, g := range m.o.Groups {
		lease.Labels[GroupLabelPrefix+labelPart(g)] = ""
	}
	lease.Annotations[HealthAnnotation] = health.String()
	lease.Annotations[ReasonAnnotation] = reason
	lease.Annotations[VersionAnnotation] = m.o.Version
	if lacks != nil {
		lease.Annotations[LacksAnnotation] = *lacks
	}
	maps.Copy(lease.Annotations, notes)
	if m.o.Addresses != nil {
		var list []string
		for _, a := range m.o.Addresses() {
			list = append(list, a.String())
		}
		lease.Annotations[AddressesAnnotation] = strings.Join(list, ",")
	}
	stamp := metav1.NewMicroTime(time.Now())
	if lease.Spec.AcquireTime == nil {
		lease.Spec.AcquireTime = &stamp
	}
	lease.Spec.HolderIdentity = &holder
	lease.Spec.LeaseDurationSeconds = new(int32(memberDuration / time.Second))
	lease.Spec.RenewTime = &stamp
}

// labelPart is name as it fits into a label's key (RFC 1123 names may be longer).
func labelPart(name string) string {
	if len(name) <= validation.LabelValueMaxLength {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return name[:46] + "-" + hex.EncodeToString(sum[:8])
}

func (m *Members) watch(ctx context.Context) {
	selector := metav1.ListOptions{LabelSelector: MemberLabel + "=true"}
	follow(ctx, m.o.Watches.Leases(m.o.Namespace), selector, follower{
		listed: func(items []coordinationv1.Lease, version string) {
			seen := map[string]bool{}
			for i := range items {
				m.see(&items[i])
				seen[items[i].Name] = true
			}
			m.mu.Lock()
			maps.DeleteFunc(m.others, func(name string, s sighting) bool { return !seen[name] && !older(version, s.version) })
			m.mu.Unlock()
			m.tell()
		},
		changed: func(lease *coordinationv1.Lease) { m.see(lease); m.tell() },
		deleted: func(lease *coordinationv1.Lease) {
			m.mu.Lock()
			if s, known := m.others[lease.Name]; known && !older(lease.ResourceVersion, s.version) {
				delete(m.others, lease.Name)
			}
			m.mu.Unlock()
			m.tell()
		},
		failed:  func(err error) { m.o.Log.Debug("watching the member Leases ended; watching again", "err", err) },
		silence: memberDuration, // our own is renewed twice in that
		jitter:  m.jitter,
	})
}

// see notes a member Lease. Its age is counted from when we saw it change: clocks of nodes may differ. One that
// was seen for the first time long after its renewal is old all the same.
func (m *Members) see(lease *coordinationv1.Lease) {
	node, ok := strings.CutPrefix(lease.Name, MemberPrefix)
	if !ok || lease.Name == m.name || lease.Labels[MemberLabel] == "" {
		return
	}
	s := sighting{
		member:  memberOf(node, lease),
		version: lease.ResourceVersion,
		at:      time.Now(),
		left:    lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "",
	}
	if lease.Spec.RenewTime != nil {
		s.renewed = *lease.Spec.RenewTime
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before, known := m.others[lease.Name]
	switch {
	case known && older(s.version, before.version):
		return
	case known && before.renewed.Equal(&s.renewed):
		s.at = before.at
	case !known && time.Since(s.renewed.Time) > memberDuration:
		s.at = s.renewed.Time
	}
	m.others[lease.Name] = s
}

// memberOf reads a member Lease. A health that we do not know counts as unable.
func memberOf(node string, lease *coordinationv1.Lease) Member {
	member := Member{Node: node, Health: Unable, Reason: lease.Annotations[ReasonAnnotation], Version: lease.Annotations[VersionAnnotation]}
	for _, h := range []Health{Healthy, Unhealthy} {
		if lease.Annotations[HealthAnnotation] == h.String() {
			member.Health = h
		}
	}
	for label := range lease.Labels {
		if group, ok := strings.CutPrefix(label, GroupLabelPrefix); ok {
			member.Groups = append(member.Groups, group)
		}
	}
	slices.Sort(member.Groups)
	if lacks := lease.Annotations[LacksAnnotation]; lacks != "" {
		member.Lacks = strings.Split(lacks, ",")
	}
	for s := range strings.SplitSeq(lease.Annotations[AddressesAnnotation], ",") {
		if a, err := netip.ParseAddr(s); err == nil {
			member.Addresses = append(member.Addresses, a)
		}
	}
	return member
}
