package ha

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Timing is a Lease's timing.
type Timing struct {
	// Lease is how long others wait after the last renewal that they saw: whole seconds, for so the Lease records it.
	Lease time.Duration
	// Renew is how long a mandate lasts after the start of the last accepted renewal.
	Renew time.Duration
	// Retry is the time between two renewals, and the measure of the back-off after a failed one.
	Retry time.Duration
}

// kernelRounding is how much longer than its mandate an address may live on a node whose kube-vip was killed:
// the kernel counts lifetimes in whole seconds, and we round up. Its late timer is expiryGrace's part.
const kernelRounding = time.Second

// Validate says what is wrong with t: a holder that died must be rid of its address before it is another's turn.
func (t Timing) Validate() error {
	switch {
	case t.Lease <= 0 || t.Renew <= 0 || t.Retry <= 0:
		return fmt.Errorf("lease duration %s, renew deadline %s and retry period %s must all be above zero", t.Lease, t.Renew, t.Retry)
	case t.Lease%time.Second != 0:
		return fmt.Errorf("lease duration %s must be whole seconds: a Lease records nothing finer", t.Lease)
	case t.Renew <= t.Retry:
		return fmt.Errorf("renew deadline %s must be longer than retry period %s: a mandate must not end before it is renewed", t.Renew, t.Retry)
	case t.Lease <= t.Renew+t.Retry:
		return fmt.Errorf("lease duration %s must be longer than renew deadline %s and retry period %s together", t.Lease, t.Renew, t.Retry)
	case t.Lease < t.Renew+kernelRounding:
		return fmt.Errorf("lease duration %s must be renew deadline %s and %s more at least: the kernel rounds the lifetime of an address up", t.Lease, t.Renew, kernelRounding)
	}
	return nil
}

// Health is what an instance can do for the group.
type Health int

// The healths, best first.
const (
	// Healthy instances stand for election.
	Healthy Health = iota
	// Unhealthy ones hold and stand only while no healthy one is known.
	Unhealthy
	// Unable ones can not hold at all: they have no link to put the address on.
	Unable
)

// String is the word that a member Lease carries.
func (h Health) String() string { return [...]string{"healthy", "unhealthy", "unable"}[h] }

// expiryGrace is added to another's Lease before we take it: the timer by which the kernel of a dead holder takes
// its address away is late by up to 0.22 s.
const expiryGrace = 250 * time.Millisecond

// verdict is what the core says about the mandate.
type verdict int

const (
	undecided verdict = iota // nothing is known yet: leave the addresses as they are
	granted
	revoked
)

// write is an API call that the core asks for.
type write int

const (
	writeNothing write = iota
	writeCreate
	writeUpdate
	writeRelease // an update that empties the Lease
	readAgain
)

// decision is what is to be done now.
type decision struct {
	verdict verdict
	until   time.Time // of a granted mandate
	beyond  bool      // which goes on for want of the API alone
	// provisional says that no Lease gives the mandate, and probe that the wire is to be asked whether it may be begun.
	provisional, probe bool
	ask                bool // whether the wire is clear for what is to be granted
	listen             bool // whether the holder whose Lease ran out answers on the wire
	write              write
	lease              *coordinationv1.Lease // what to write
	wake               time.Time             // decide again at this time at the latest; zero waits for an event
	why                string                // for the log, when the verdict changes
	abort              bool                  // a claim or renewal under way is not wanted any more
	done               bool                  // stopped, with nothing left to do
}

// core is the election's state machine. It is told what happened (observe, wrote, failed, …) and decide
// answers. It is owned by one goroutine.
type core struct {
	namespace, name, id string
	timing              Timing
	grace               time.Duration // added to another's Lease before it is taken
	annotations         map[string]string
	labels              map[string]string
	owner               *metav1.OwnerReference
	// fed says that the Lease, or its absence, will be told without being asked for.
	fed bool
	// delay is how much later than the best candidate this one tries for a Lease that is to be had.
	delay time.Duration
	// anchor is a moment before the first renewal from which all are whole retry periods away, so that those of many
	// Leases can be spread; zero counts from the last renewal.
	anchor time.Time

	known    bool                  // the Lease, or its absence, was seen at least once
	lease    *coordinationv1.Lease // as last seen; nil while there is none
	version  string                // of the newest state that we know of, its deletion included
	seen     time.Time             // when it last changed for us
	orphaned bool                  // it was deleted while another's mandate may still run; lease is what it was
	// transitions is the last known leaseTransitions, which a Lease that is made again goes on from.
	transitions int32

	until   time.Time // end of our mandate; zero without one
	renewed time.Time // start of the last accepted renewal
	stale   bool      // a write was refused: what we saw is not the truth, read before writing
	doubt   bool      // a write came to nothing that we know of, but may have been accepted
	retry   time.Time // no API call before this, after a failure
	failing int       // failed calls in a row

	// stamp is the last renewTime that we asked to be written, to the microsecond that the API keeps. A Lease in
	// our name with a later one was renewed by a namesake.
	stamp    time.Time
	namesake bool // another instance holds the Lease under our name

	lead  Lead   // how we came by the Lease
	fresh bool   // and we have had no mandate since
	giver string // who gave it up last

	health       Health
	healthReason string
	// sick is when this node became Unhealthy. A holder gives up only after a renewal that began later was
	// accepted: without an API that takes writes nobody else could take over.
	sick time.Time
	// patience is how long a candidate waits for the first word on this node's health; zero once it is there.
	patience time.Time
	// others is when another member last said that it is healthy; zero while no such member is known.
	others time.Time
	// alone is when we took the Lease although unhealthy, since nobody healthy did: that others were healthy
	// earlier counts for nothing then.
	alone    time.Time
	keep     keeping
	prov     provision
	decided  bool // there was a verdict in this life
	off      bool // the Granter has said that our addresses are off, since the last grant
	stopping bool
}

func (c *core) holder() string { return holder(c.lease) }

// holder is whom a Lease names; empty when that is nobody, or there is no Lease.
func holder(lease *coordinationv1.Lease) string {
	if lease == nil || lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// observe is told the Lease as a watch or list shows it. These may lag behind what we know by our own calls:
// what is older is dropped.
func (c *core) observe(now time.Time, lease *coordinationv1.Lease) {
	if !older(lease.ResourceVersion, c.version) {
		c.see(now, lease)
	}
}

// deleted is told that a watch showed the Lease go, with the resource version of its end.
func (c *core) deleted(now time.Time, version string) {
	if !older(version, c.version) {
		c.miss(now, c.seen) // a watch shows every change: we have seen the last renewal
		c.version = version
	}
}

// absent is told that a list shows no Lease as of a resource version.
func (c *core) absent(now time.Time, version string) {
	if !older(version, c.version) {
		c.miss(now, now)
		c.version = version
	}
}

// read is told the Lease, or nil for none, as the API answered just now. That counts even if it looks older than
// what we know: etcd may have been restored.
func (c *core) read(now time.Time, lease *coordinationv1.Lease) {
	c.stale, c.doubt, c.failing, c.retry = false, false, 0, time.Time{}
	if lease == nil {
		c.miss(now, now)
		return
	}
	c.see(now, lease)
}

func (c *core) see(now time.Time, lease *coordinationv1.Lease) {
	// Only the spec is the lock: who edits an annotation does not renew it.
	if c.lease == nil || c.orphaned || !equality.Semantic.DeepEqual(lease.Spec, c.lease.Spec) {
		c.succeed(now, holder(lease))
		c.seen = now
		c.namesake = c.foreign(lease)
	}
	c.known, c.lease, c.orphaned = true, lease, false
	c.version, c.transitions = lease.ResourceVersion, transitions(lease)
	if c.namesake {
		c.until = time.Time{}
	}
	if c.holder() != c.id {
		c.until = time.Time{} // another's, or nobody's: our mandate is over at once
	}
}

// foreign says whether lease was renewed under our name by another instance. The first Lease that a life sees is an
// earlier life's, and one that is older than what we wrote is ours from before etcd was restored.
func (c *core) foreign(lease *coordinationv1.Lease) bool {
	if !c.known || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != c.id || lease.Spec.RenewTime == nil {
		return false
	}
	return lease.Spec.RenewTime.Truncate(time.Microsecond).After(c.stamp)
}

// fits is told what this node can do.
func (c *core) fits(now time.Time, h Health, reason string) {
	if h == Unhealthy && c.health != Unhealthy {
		c.sick = now
	}
	c.health, c.healthReason, c.patience = h, reason, time.Time{}
}

// ours says that the Lease is this instance's.
func (c *core) ours() bool {
	return c.lease != nil && !c.orphaned && !c.namesake && c.holder() == c.id
}

// unproven says that we hold while unhealthy and do not know whether the API would let another take over.
func (c *core) unproven() bool {
	return c.health == Unhealthy && c.ours() && c.renewed.Before(c.sick)
}

// miss notes that there is no Lease. Its holder may not know yet that it was deleted: we wait then as if it were
// still there, from the last renewal on or, if that is not known, from the latest moment it may have been.
func (c *core) miss(now, renewed time.Time) {
	switch {
	case c.orphaned:
	case c.holder() != "" && (c.holder() != c.id || c.namesake):
		c.orphaned, c.seen = true, renewed
	case !c.known || c.lease != nil:
		c.lease, c.seen = nil, now
	}
	c.known = true
}

// older compares resource versions, which are decimal numbers that grow (KEP-5504); anything else is not older.
func older(a, b string) bool {
	x, err1 := strconv.ParseUint(a, 10, 64)
	y, err2 := strconv.ParseUint(b, 10, 64)
	return err1 == nil && err2 == nil && x < y
}

// writes is told that a write of lease begins: a watch may show it before its answer comes.
func (c *core) writes(lease *coordinationv1.Lease) {
	c.stamp = lease.Spec.RenewTime.Truncate(time.Microsecond)
}

// wrote is told that the API accepted what decide asked for, by a call that was begun at started. The mandate
// counts from there: the others can not have seen the renewal earlier.
func (c *core) wrote(now, started time.Time, lease *coordinationv1.Lease) {
	c.failing, c.retry, c.doubt = 0, time.Time{}, false
	if older(lease.ResourceVersion, c.version) {
		return // the watch has told us of somebody's later write already
	}
	broken, last := c.ours() && !c.fresh && !c.keep.wary && !c.until.After(now), c.seen
	c.see(now, lease)
	if c.holder() == c.id {
		if broken {
			c.resume(now, last)
		}
		c.renewed, c.until, c.fresh = started, started.Add(c.timing.Renew), false
		c.prov.held = false
		c.keep.beyond = false
	}
}

// conflicted is told that the API refused a write because the Lease is not what we thought.
func (c *core) conflicted() { c.stale = true }

// failed is told that an API call came to nothing. A slow or absent API is not a lost mandate: that ends by time.
func (c *core) failed(now time.Time, wrote bool) {
	c.doubt = c.doubt || wrote
	c.failing++
	back := c.timing.Retry / 4 << min(c.failing-1, 3)
	c.retry = now.Add(back)
}

// abandoned is told that a write was aborted, as decide asked. Nobody knows whether it was accepted.
func (c *core) abandoned() { c.doubt, c.stale = true, true }

// cleared is told that the Granter has taken the addresses off this node. Others wait for our Lease now: the first
// try to give it up is not put off by what failed before.
func (c *core) cleared() { c.off, c.retry = true, time.Time{} }

// decide answers what is to be done now.
func (c *core) decide(now time.Time) decision {
	c.goOn(now)
	d := c.choose(now)
	switch {
	case d.verdict == granted && c.keep.wary:
		d.verdict, d.ask = revoked, true
		d.wake = earliest(d.wake, c.until)
	case d.verdict == granted:
		c.off, c.decided = false, true
		end := c.until
		if early := end.Add(-c.margin()); early.After(now) { // else it does not go on
			end = early
		}
		d.wake = earliest(d.wake, end)
	case d.verdict == revoked:
		// Whatever becomes of our Lease and of a call under way, only a new renewal gives a mandate again: the
		// Lease may be given up at any moment from now on.
		c.until, c.decided = time.Time{}, true
		c.keep.beyond, c.prov.held = false, false
	}
	d.provisional = d.verdict == granted && c.prov.held
	d.beyond = c.keep.beyond
	if d.write != writeNothing && now.Before(c.retry) {
		d.write, d.lease = writeNothing, nil
		d.wake = earliest(d.wake, c.retry)
	}
	leaving, _ := c.leaving()
	d.abort = leaving && c.off
	return d
}

func (c *core) choose(now time.Time) decision {
	leaving, why := c.leaving()
	holds := c.until.After(now) && !leaving
	ours := c.ours()
	switch {
	case !c.known && c.stopping:
		return decision{verdict: revoked, done: c.off, why: why}
	case !c.known && c.fed:
		return decision{verdict: undecided}
	case !c.known:
		return c.provisionally(now)

	case leaving && ours && !c.off:
		return decision{verdict: revoked, why: why} // cleared will be told, then the Lease is given up
	case leaving && ours && c.stale, c.stopping && c.doubt:
		return decision{verdict: revoked, write: readAgain, why: why}
	case leaving && ours:
		return decision{verdict: revoked, write: writeRelease, lease: c.released(now), why: why}
	case c.stopping:
		return decision{verdict: revoked, done: c.off, why: why}

	case c.stale:
		return c.carry(holds, decision{write: readAgain, why: "another wrote the Lease"})

	case ours && holds && !c.unproven() && now.Before(c.due()):
		return decision{verdict: granted, until: c.until, wake: c.due()}
	case ours:
		// Due for renewal; or ours from before a restart or an outage, and then the write decides.
		return c.carry(holds, decision{write: writeUpdate, lease: c.claimed(now), why: "the Lease could not be renewed in time"})
	}

	if free, at := c.free(now); !free {
		return decision{verdict: revoked, wake: at, why: c.waiting(why), listen: c.patient(now)}
	}
	if c.unsure() {
		return decision{verdict: revoked, write: readAgain, why: "the API may not have answered its holder"}
	}
	if leaving { // unhealthy, and nobody healthy has taken it
		c.alone = now
	}
	if c.lease == nil || c.orphaned {
		return c.carry(holds, decision{write: writeCreate, lease: c.claimed(now), why: "the Lease is gone"})
	}
	return decision{verdict: revoked, write: writeUpdate, lease: c.claimed(now), why: "the Lease is free"}
}

// due is when our Lease is to be renewed: within a retry period of the last renewal, never later.
func (c *core) due() time.Time {
	due := c.renewed.Add(c.timing.Retry)
	if !c.anchor.IsZero() {
		due = due.Add(-(c.renewed.Sub(c.anchor) % c.timing.Retry))
	}
	return due
}

// carry gives d the verdict that goes with our own mandate: it lasts until its time is up. Before the first
// verdict of this life nothing is revoked while the Lease says that it is ours.
func (c *core) carry(holds bool, d decision) decision {
	switch {
	case holds:
		d.verdict, d.until = granted, c.until
	case !c.decided && c.holder() == c.id:
		d.verdict = undecided
	default:
		d.verdict = revoked
	}
	return d
}

// leaving says whether we must not hold, and why.
func (c *core) leaving() (bool, string) {
	switch {
	case c.stopping:
		return true, "stopping"
	case c.health == Unable:
		return true, "unable: " + c.healthReason
	case c.health == Unhealthy && c.others.After(c.alone) && !c.unproven():
		return true, "unhealthy: " + c.healthReason
	}
	return false, ""
}

// free says whether we may take the Lease now, and if not, when to look again.
func (c *core) free(now time.Time) (bool, time.Time) {
	if c.health == Unable {
		return false, time.Time{}
	}
	at := c.seen
	if c.holder() != "" {
		at = c.seen.Add(c.duration() + c.grace)
	}
	if leaving, _ := c.leaving(); leaving {
		// A healthy one goes first. If none has taken it for as long as a Lease lasts, none is there.
		at = at.Add(c.timing.Lease)
	}
	if !c.until.After(now) { // a holder whose Lease was deleted makes it again at once
		at = at.Add(c.delay)
	}
	at = latest(latest(at, c.courtesy()), c.yields())
	if at.Before(c.patience) {
		at = c.patience
	}
	return !now.Before(at), at
}

// expects is until when somebody is bound to renew the Lease or to give it up; zero while nobody holds it.
func (c *core) expects() time.Time {
	if c.holder() == "" || c.orphaned {
		return time.Time{}
	}
	return c.seen.Add(c.duration())
}

// duration is the holder's own word on how long its Lease lasts.
func (c *core) duration() time.Duration {
	if s := c.lease.Spec.LeaseDurationSeconds; s != nil && *s > 0 {
		return time.Duration(*s) * time.Second
	}
	return c.timing.Lease
}

func (c *core) waiting(leaving string) string {
	switch {
	case c.namesake:
		return "another instance holds it under this node's name"
	case c.holder() != "":
		return "held by " + c.holder()
	case leaving != "":
		return leaving
	case !c.patience.IsZero():
		return "this node's health is not known yet"
	}
	return "a better candidate goes first"
}

// claimed is the Lease as we write it to take or renew it: everything that others put there stays.
func (c *core) claimed(now time.Time) *coordinationv1.Lease {
	lease := &coordinationv1.Lease{}
	if c.lease != nil && !c.orphaned {
		lease = c.lease.DeepCopy()
	} else {
		lease.Spec.LeaseTransitions = new(c.transitions)
	}
	lease.Namespace, lease.Name = c.namespace, c.name
	lease.Annotations = with(lease.Annotations, c.annotations)
	lease.Labels = with(lease.Labels, c.labels)
	lease.OwnerReferences = owned(lease.OwnerReferences, c.owner)
	stamp := metav1.NewMicroTime(now)
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != c.id {
		lease.Spec.AcquireTime = &stamp
		if c.lease != nil { // the very first holder is no transition
			lease.Spec.LeaseTransitions = new(transitions(lease) + 1)
		}
	}
	lease.Spec.HolderIdentity = new(c.id)
	lease.Spec.LeaseDurationSeconds = new(int32(c.timing.Lease / time.Second))
	lease.Spec.RenewTime = &stamp
	return lease
}

// released is the Lease as we write it to give it up: as client-go's leaderelection does it, with a second's duration.
func (c *core) released(now time.Time) *coordinationv1.Lease {
	lease := c.lease.DeepCopy()
	stamp := metav1.NewMicroTime(now)
	lease.Spec.HolderIdentity = new("")
	if !c.keep.wary { // who is next looks himself
		lease.Spec.LeaseDurationSeconds = new(int32(1))
	}
	lease.Spec.RenewTime, lease.Spec.AcquireTime = &stamp, &stamp
	return lease
}

// with is all that is in m and in more.
func with(m, more map[string]string) map[string]string {
	if len(more) == 0 {
		return m
	}
	if m == nil {
		m = map[string]string{}
	}
	maps.Copy(m, more)
	return m
}

// owned is references with owner among them. One that names an earlier object of the same name goes: the garbage
// collector goes by the UID, and would delete the Lease under its holder.
func owned(references []metav1.OwnerReference, owner *metav1.OwnerReference) []metav1.OwnerReference {
	if owner == nil {
		return references
	}
	references = slices.DeleteFunc(references, func(r metav1.OwnerReference) bool {
		return r.APIVersion == owner.APIVersion && r.Kind == owner.Kind && r.Name == owner.Name && r.UID != owner.UID
	})
	if slices.ContainsFunc(references, func(r metav1.OwnerReference) bool { return r.UID == owner.UID }) {
		return references
	}
	return append(references, *owner)
}

func transitions(lease *coordinationv1.Lease) int32 {
	if lease.Spec.LeaseTransitions == nil {
		return 0
	}
	return *lease.Spec.LeaseTransitions
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// earliest is the earlier of two times of which zero means never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
