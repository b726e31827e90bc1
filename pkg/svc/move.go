package svc

import (
	"fmt"
	"time"

	"kube-vip.io/kube-vip/pkg/ha"
)

// lead is a mandate that this node holds.
type lead struct {
	ha.Lead
	at time.Time
}

// move is why a Service's addresses came to this node from another. Its zero value knows nothing of it.
type move struct {
	reason MoveReason
	text   string
	at     time.Time // when this node got the mandate: it explains one move of a Service, and no later one
}

// MoveReason is a kind of reason for a move: what metrics count by.
type MoveReason string

// The reasons.
const (
	MovedReleased MoveReason = "released"
	MovedExpired  MoveReason = "expired"
	MovedDeleted  MoveReason = "deleted"
	MovedResumed  MoveReason = "resumed"
	MovedLease    MoveReason = "lease-changed"
)

// MoveReasons is the table of reasons.
func MoveReasons() []Label {
	return []Label{
		{string(MovedReleased), "whose holder gave the Lease up: it was stopped, or may not hold any more"},
		{string(MovedExpired), "whose holder did not renew the Lease any more"},
		{string(MovedDeleted), "whose Lease was deleted"},
		{string(MovedResumed), "whose Lease this node had before, though the status named another"},
		{string(MovedLease), "that is held under another Lease now, or a new one"},
	}
}

// moved is why this node holds what is held under a mandate that a Service has come under at a time, zero if it was
// always under it as far as this node knows.
func moved(mandate string, l lead, under time.Time) move {
	m := move{at: l.at}
	from := l.From
	if from == "" {
		from = "its holder"
	}
	switch {
	case l.at.IsZero():
		return move{}
	case l.Why == ha.Founded || under.After(l.at.Add(-l.Silent)): // who had the Lease before had not the Service
		m.reason, m.text = MovedLease, "it is held under the Lease "+mandate+" now"
		m.at = later(l.at, under)
	case l.Why == ha.Released:
		m.reason, m.text = MovedReleased, fmt.Sprintf("%s gave the Lease up, nobody held it for %s", from, brief(l.Silent))
	case l.Why == ha.Expired:
		m.reason, m.text = MovedExpired, fmt.Sprintf("the Lease of %s expired, nobody held it for at most %s", from, brief(l.Silent))
	case l.Why == ha.Deleted:
		m.reason, m.text = MovedDeleted, fmt.Sprintf("the Lease of %s was deleted, nobody held it for at most %s", from, brief(l.Silent))
	default:
		m.reason, m.text = MovedResumed, "this node had the Lease before"
	}
	return m
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// brief is a duration as people say it.
func brief(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// under notes the mandate that a Service is held under.
func (r *entry) under(mandate string) {
	if r.mandate != "" && r.mandate != mandate {
		r.since = time.Now()
	}
	r.mandate = mandate
}

// how is how a Service came to this node.
func (c *Controller) how(r *entry) move {
	c.mu.Lock()
	defer c.mu.Unlock()
	return moved(r.mandate, c.led[r.mandate], r.since)
}
