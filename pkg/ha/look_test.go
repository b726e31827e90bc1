package ha

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTenureOf(t *testing.T) {
	renewed := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	stamp := metav1.NewMicroTime(renewed)
	lease := func(holder string, seconds *int32) *coordinationv1.Lease {
		return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, RenewTime: &stamp, AcquireTime: &stamp, LeaseDurationSeconds: seconds}}
	}
	for _, tc := range []struct {
		name     string
		lease    *coordinationv1.Lease
		holder   string
		takeover time.Duration
		after    time.Duration // since the renewal
		live     bool
	}{
		{"none", nil, "", expiryGrace, 0, false},
		{"given up", lease("", new(int32(1))), "", expiryGrace, 0, false},
		{"fresh", lease("cp1", new(int32(5))), "cp1", 5250 * time.Millisecond, time.Second, true},
		{"the last moment", lease("cp1", new(int32(5))), "cp1", 5250 * time.Millisecond, 5249 * time.Millisecond, true},
		{"run out", lease("cp1", new(int32(5))), "cp1", 5250 * time.Millisecond, 5250 * time.Millisecond, false},
		{"its holder's word counts", lease("cp1", new(int32(15))), "cp1", 15250 * time.Millisecond, 10 * time.Second, true},
		{"without a word", lease("cp1", nil), "cp1", 7250 * time.Millisecond, 6 * time.Second, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := TenureOf(tc.lease, 7*time.Second)
			if got.Holder != tc.holder || got.Takeover() != tc.takeover || got.Live(renewed.Add(tc.after)) != tc.live {
				t.Errorf("%+v, takeover %s, live %t", got, got.Takeover(), got.Live(renewed.Add(tc.after)))
			}
		})
	}
}

// TestSeenIn reads what a member writes.
func TestSeenIn(t *testing.T) {
	m := NewMembers(MembersOptions{Namespace: "kube-system", Identity: "cp1", Groups: []string{"a", "b"}, Version: "v1"})
	m.SetHealth(Unhealthy, "GET /livez: connection refused")
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: MemberPrefix + "cp1"}}
	m.fill(lease, false)
	s, ok := SeenIn(lease)
	now := s.Heard
	if !ok || s.Node != "cp1" || s.Health != Unhealthy || s.Reason != "GET /livez: connection refused" || s.Version != "v1" || !s.Serves("b") || s.Serves("c") {
		t.Errorf("%+v, %t", s, ok)
	}
	if !s.Live(now.Add(memberDuration-time.Second)) || s.Live(now.Add(memberDuration)) {
		t.Error("it counts too long, or not long enough")
	}
	m.fill(lease, true)
	if s, _ := SeenIn(lease); !s.Stopped || s.Live(s.Heard) {
		t.Errorf("after its farewell: %+v", s)
	}
	for _, other := range []*coordinationv1.Lease{
		{ObjectMeta: metav1.ObjectMeta{Name: "plndr-cp-lock", Labels: map[string]string{MemberLabel: "true"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: MemberPrefix + "web"}}, // a Service's own: of Service member-web
	} {
		if s, ok := SeenIn(other); ok {
			t.Errorf("%s is taken for the member %+v", other.Name, s)
		}
	}
}
