package svc

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"
)

const (
	// membersEvery is the time between two looks at who else is there.
	membersEvery = time.Second
	// notReadyFor is how long this node's kubelet must have been unwell before what the node has goes to another. When
	// the API was away, all nodes are found silent within this time, and nothing is to move then.
	notReadyFor = 15 * time.Second
	// nowhereFor is how long no node could hold a Service before its status says so, and noneLeftFor how long no node
	// was left for any before that is told: members that start are not all there at once.
	nowhereFor  = 3 * time.Second
	noneLeftFor = 10 * time.Second
	// mostLacks bounds what a member tells of what it lacks.
	mostLacks = 64
)

// footing is what the worker remembers of nodes, beside their objects.
type footing struct {
	members  []Member // this node first
	lacks    []string // as told to others
	stale    bool     // what Services lack here may have changed
	assessed time.Time
	silent   time.Time // since when this node is seen to be not ready; zero while it is ready
	none     time.Time // since when no node is left; zero while one is
	noneSaid string    // what was logged of it
	noneTold string    // what was written as an Event
	deputy   bool      // this node was its leader's deputy when last looked at
	weight   string    // what was said of this node's weight
	told     bool      // whether this node fits was told
	forced   bool      // it was said that an annotation does nothing
}

// muster is who is there, this node first.
func (c *Controller) muster() []Member {
	object := c.sources.node(c.o.Node)
	self := memberOf(c.o.Node, object, c.o.Exclude)
	if silent(object) == "" {
		c.at.silent = time.Time{}
	} else if c.at.silent.IsZero() {
		c.at.silent = time.Now()
	}
	if rest := notReadyFor - time.Since(c.at.silent); !c.at.silent.IsZero() && rest > 0 {
		self.Wavers = cordoned(object)
		c.queue.AddAfter(clusterKey, rest)
	}
	if _, problem := weightOf(object); problem != c.at.weight {
		c.at.weight = problem
		if problem != "" {
			c.log.Warn(problem)
		}
	}
	members := []Member{self}
	for _, p := range c.others() {
		m := memberOf(p.Node, c.sources.node(p.Node), c.o.Exclude)
		m.Lacks = p.Lacks
		members = append(members, m)
	}
	return members
}

func (c *Controller) others() []Peer {
	if c.o.Others == nil {
		return nil
	}
	return c.o.Others()
}

// missing is what Services ask for and this node has no place for, and, when it has none for any address of the
// group's, why.
func (c *Controller) missing() (lacks []string, none string) {
	set := map[string]struct{}{}
	able := false
	for _, key := range slices.Sorted(maps.Keys(c.known)) {
		r := c.known[key]
		for _, t := range r.lacks {
			set[t] = struct{}{}
		}
		able = able || r.group && !r.placeless
		if r.group && none == "" {
			none = "it can hold no Service's address; " + r.noPlace
		}
	}
	if able {
		none = ""
	}
	lacks = slices.Sorted(maps.Keys(set))
	lacks = lacks[:min(len(lacks), mostLacks)]
	if none != "" {
		lacks = append([]string{lacksAll}, lacks...)
	}
	return lacks, none
}

// lack notes what a Service lacks here.
func (r *entry) lack(p Plan) (changed bool) {
	group, noPlace := p.Announced && !p.Own, p.NoPlace
	changed = r.group != group || r.placeless != p.Placeless || r.noPlace != noPlace || !slices.Equal(r.lacks, p.Lacks)
	r.group, r.placeless, r.noPlace, r.lacks = group, p.Placeless, noPlace, p.Lacks
	return changed
}

// assess judges anew what this node may hold.
func (c *Controller) assess() {
	c.at.stale, c.at.assessed = false, time.Now()
	lacks, none := c.missing()
	if !c.at.told || !slices.Equal(lacks, c.at.lacks) {
		c.at.lacks = lacks
		c.o.Lacks(lacks)
	}
	members := c.muster()
	why := deferring(members, none)
	same := why == c.unfit && slices.EqualFunc(members, c.at.members, Member.equal)
	if why != c.unfit || !c.at.told {
		c.o.Fit(why == "", why)
	}
	c.at.members, c.unfit, c.at.told = members, why, true
	c.alarm()
	if !same {
		c.all()
	}
}

// assessSoon is assess when there is a reason to, at most once in a second while there is other work.
func (c *Controller) assessSoon() {
	if c.at.stale && (c.queue.Len() == 0 || time.Since(c.at.assessed) > time.Second) {
		c.assess()
	}
}

// alarm tells when no node is left that may hold anything: in the log, and as an Event on this node.
func (c *Controller) alarm() {
	text := noneLeft(c.at.members)
	if text == "" {
		if c.at.noneSaid != "" {
			c.log.Info("a node is left to hold Services' addresses again")
		}
		c.at.none, c.at.noneSaid, c.at.noneTold, c.at.deputy = time.Time{}, "", "", false
		return
	}
	if c.at.none.IsZero() {
		c.at.none = time.Now()
	}
	if rest := noneLeftFor - time.Since(c.at.none); rest > 0 {
		c.queue.AddAfter(clusterKey, rest)
		return
	}
	if text != c.at.noneSaid {
		c.at.noneSaid = text
		c.log.Warn(text)
	}
	if node := c.sources.node(c.o.Node); node != nil && text != c.at.noneTold && c.writer.events.Warn(node, ReasonNoneLeft, text) {
		c.at.noneTold = text
	}
	c.depute()
}

// deputy says that the group has no leader, since no node may be it, and that it is this one that writes in its place
// what becomes of Services: the first of the members by name. Who leads all the same, by what it alone sees, has the Lease,
// and the word. Two that see other members for a while may both be deputies; they write the same, or are corrected by
// the version that they write onto.
func (c *Controller) deputy() bool {
	return c.at.noneSaid != "" && c.o.Node == c.at.sorted()[0].Name && c.o.Vacant()
}

// depute has all Services looked at when this node becomes the deputy. That the Lease is vacant is no event.
func (c *Controller) depute() {
	was := c.at.deputy
	if c.at.deputy = c.deputy(); c.at.deputy && !was {
		c.all()
	}
	c.queue.AddAfter(clusterKey, noneLeftFor)
}

// sorted lists the members by name.
func (f footing) sorted() []Member {
	return slices.SortedFunc(slices.Values(f.members), func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
}

// noneLeft is what a Service's status says when no node is left, in the same words whichever node writes it.
func (f footing) noneLeft() string { return noneLeft(f.sorted()) }

// mind has the worker look again when others come or go, for which there is no event.
func (c *Controller) mind(ctx context.Context) {
	ticker := time.NewTicker(membersEvery)
	defer ticker.Stop()
	before := c.others()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := c.others()
		same := func(a, b Peer) bool { return a.Node == b.Node && slices.Equal(a.Lacks, b.Lacks) }
		if !slices.EqualFunc(now, before, same) {
			before = now
			c.queue.Add(clusterKey)
		}
	}
}

// vacant says that what no node can hold is held by nobody either, and has been long enough for the status to say so.
func (c *Controller) vacant(key string, r *entry, p Plan) bool {
	if rest := nowhereFor - time.Since(r.nowhere); rest > 0 {
		c.queue.AddAfter(key, rest)
		return false
	}
	lease, _ := c.tenure(p.Addrs[0])
	if h, is := c.o.Leases.Holder(lease.Namespace, lease.Name); is && h.Identity != "" && time.Now().Before(h.Expires) {
		c.queue.AddAfter(key, nowhereFor) // one who sees more than this node
		return false
	}
	return true
}
