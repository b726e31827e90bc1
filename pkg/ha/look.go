package ha

import (
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
)

// Tenure is what one look at a Lease says of its holder. Its zero value is a Lease that nobody holds.
type Tenure struct {
	Holder  string // empty when nobody does
	Since   time.Time
	Renewed time.Time // on the holder's clock, as Since
	// Duration is what the holder wrote into the Lease: how long others wait after a renewal.
	Duration time.Duration
}

// TenureOf reads a Lease; nil is one that is not there. Where its holder wrote no duration, it lasts for usual.
func TenureOf(lease *coordinationv1.Lease, usual time.Duration) Tenure {
	if lease == nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		return Tenure{}
	}
	t := Tenure{Holder: *lease.Spec.HolderIdentity, Duration: usual}
	if lease.Spec.AcquireTime != nil {
		t.Since = lease.Spec.AcquireTime.Time
	}
	if lease.Spec.RenewTime != nil {
		t.Renewed = lease.Spec.RenewTime.Time
	}
	if s := lease.Spec.LeaseDurationSeconds; s != nil && *s > 0 {
		t.Duration = time.Duration(*s) * time.Second
	}
	return t
}

// Takeover is how long after its holder's last renewal another may have the Lease.
func (t Tenure) Takeover() time.Duration { return t.Duration + expiryGrace }

// Live says whether somebody holds the Lease at now, for one who saw the last renewal at once and whose clock agrees
// with the holder's. An Election needs neither: it counts from when it saw the Lease change.
func (t Tenure) Live(now time.Time) bool {
	return t.Holder != "" && now.Sub(t.Renewed) < t.Takeover()
}

// Seen is a Member as one look at its Lease shows it.
type Seen struct {
	Member
	Heard   time.Time // when it was renewed, on the member's clock
	Stopped bool      // it said farewell
}

// SeenIn reads a member Lease; false if it is none.
func SeenIn(lease *coordinationv1.Lease) (Seen, bool) {
	node, ok := strings.CutPrefix(lease.Name, MemberPrefix)
	if !ok || lease.Labels[MemberLabel] == "" {
		return Seen{}, false
	}
	s := Seen{Member: memberOf(node, lease), Stopped: lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == ""}
	if lease.Spec.RenewTime != nil {
		s.Heard = lease.Spec.RenewTime.Time
	}
	return s, true
}

// Live says whether the member counts at now, its clock agreeing with ours.
func (s Seen) Live(now time.Time) bool { return !s.Stopped && now.Sub(s.Heard) < memberDuration }

// Serves says whether the member stands for the group Lease of this name.
func (s Seen) Serves(group string) bool { return slices.Contains(s.Groups, labelPart(group)) }
