package ha

import "time"

// Lead is that this instance becomes the holder of a mandate or, as its zero value, ceases to be.
type Lead struct {
	Held bool
	// From is who held the Lease before; empty when that is not known, or nobody did. It may be this instance.
	From string
	Why  Succession
	// Silent is the time for which nobody held the Lease, as this instance saw it: from the last renewal, or from its
	// being given up, until it was taken. Who fell silent may have had the addresses for the first part of it.
	Silent time.Duration
}

// Succession is why a Lease passes to its next holder.
type Succession int

// The successions.
const (
	// Founded Leases had no holder before: this one is the first.
	Founded Succession = iota
	// Released ones were given up.
	Released
	// Expired ones were not renewed any more.
	Expired
	// Deleted ones were deleted by somebody, and were waited for as if they were still there.
	Deleted
	// Resumed ones are this instance's own: it was restarted, or could not renew in time, and nobody took it.
	Resumed
)

// String is a word for logs and metrics.
func (s Succession) String() string {
	return [...]string{"founded", "released", "expired", "deleted", "resumed"}[s]
}

// succeed notes how the Lease passes on when next becomes its holder. It is called before the new state is taken over.
func (c *core) succeed(now time.Time, next string) {
	before := c.holder()
	own := c.known && before == c.id && !c.orphaned && !c.namesake
	switch {
	case next == "" && before != "":
		c.giver = before
	case next == c.id && !own:
		c.lead, c.fresh = c.inherit(now), true
		c.keep.wary = c.keep.on && !orderly(c.lease) && c.lead.Why != Resumed
	}
}

// inherit is how this instance comes by the Lease that another had, or nobody.
func (c *core) inherit(now time.Time) Lead {
	lead := Lead{Held: true, From: c.holder(), Silent: now.Sub(c.seen)}
	switch {
	case !c.known:
		return Lead{Held: true, From: c.id, Why: Resumed}
	case c.lease == nil:
		return Lead{Held: true}
	case c.orphaned:
		lead.Why = Deleted
	case lead.From == "":
		lead.From, lead.Why = c.giver, Released
	default:
		lead.Why = Expired
	}
	return lead
}

// resume notes that a Lease which was this instance's all the time is held again after a break. last is when it was
// renewed before.
func (c *core) resume(now, last time.Time) {
	c.lead = Lead{Held: true, From: c.id, Why: Resumed, Silent: now.Sub(last)}
}
