// Package ha decides which instance holds a group of virtual IP addresses.
//
// A group has one Lease (coordination.k8s.io/v1), written as client-go's LeaseLock writes it, so that other
// programs can be on the same lock. An Election turns that Lease into a mandate: the right to hold the group
// until a moment on this node's monotonic clock. It grants and revokes the mandate at a Granter (vip.Table),
// and it gives the Lease up only after the Granter has said that every address is off this node.
//
// A Fleet stands for many Leases at once, a thousand in one process. It has an Election for each, which share one list
// and watch of all Leases (feed) and one client whose calls they make by turns, at a pace that lets none starve
// (pace, turns). A candidate's rank says how much later than the best one it tries, so that Leases spread.
//
// The rules are in core, which knows no clock, no network and no goroutine: it is told what was seen and
// answers what to do. Election is the thin runner around it. Members is the list of instances that may hold
// the group, each with a small Lease of its own that says whether it is healthy.
package ha
