package svc

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"kube-vip.io/kube-vip/pkg/ha"
)

func TestMoved(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	held := func(l ha.Lead) lead {
		l.Held = true
		return lead{l, now}
	}
	released := held(ha.Lead{From: "n2", Why: ha.Released, Silent: 40 * time.Millisecond})
	for _, tc := range []struct {
		name   string
		lead   lead
		under  time.Time
		reason MoveReason
		text   string
	}{
		{"not the holder", lead{}, time.Time{}, "", ""},
		{"released", released, time.Time{}, MovedReleased, "n2 gave the Lease up, nobody held it for 40 ms"},
		{"released by nobody knows whom", held(ha.Lead{Why: ha.Released, Silent: 2 * time.Second}), time.Time{}, MovedReleased, "its holder gave the Lease up, nobody held it for 2.0 s"},
		{"expired", held(ha.Lead{From: "n2", Why: ha.Expired, Silent: 5230 * time.Millisecond}), time.Time{}, MovedExpired, "the Lease of n2 expired, nobody held it for at most 5.2 s"},
		{"deleted", held(ha.Lead{From: "n2", Why: ha.Deleted, Silent: 6 * time.Second}), time.Time{}, MovedDeleted, "the Lease of n2 was deleted, nobody held it for at most 6.0 s"},
		{"resumed", held(ha.Lead{From: "n1", Why: ha.Resumed}), time.Time{}, MovedResumed, "this node had the Lease before"},
		{"a new Lease", held(ha.Lead{Why: ha.Founded}), time.Time{}, MovedLease, "it is held under the Lease shop/kubevip-a now"},
		{"another Lease, that this node has had for long", released, now.Add(time.Hour), MovedLease, "it is held under the Lease shop/kubevip-a now"},
		{"another Lease, that was free", held(ha.Lead{Why: ha.Released, Silent: time.Hour}), now.Add(-time.Second), MovedLease, "it is held under the Lease shop/kubevip-a now"},
		{"another Lease, long ago", released, now.Add(-time.Minute), MovedReleased, "n2 gave the Lease up, nobody held it for 40 ms"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := moved("shop/kubevip-a", tc.lead, tc.under)
			if diff := cmp.Diff([]string{string(tc.reason), tc.text}, []string{string(m.reason), m.text}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A Service comes under a mandate from another; the first one that is known says nothing.
func TestUnder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &entry{}
		r.under("group")
		r.under("group")
		if !r.since.IsZero() {
			t.Error("the first mandate counts as a change")
		}
		time.Sleep(time.Second)
		r.under("shop/kubevip-a")
		if !r.since.Equal(time.Now()) || r.mandate != "shop/kubevip-a" {
			t.Errorf("under %s since %s", r.mandate, r.since)
		}
	})
}

func TestMovedEvent(t *testing.T) {
	from := func(host string) *corev1.Service {
		return service("a", annotated(HostAnnotation, host), announced("10.0.0.10"))
	}
	w := shown{ours: true, addrs: addresses("10.0.0.10"), host: "n1", announced: true, reason: ReasonAnnounced, message: "node n1 holds 10.0.0.10"}
	why := move{reason: MovedReleased, text: "n2 gave the Lease up, nobody held it for 40 ms"}
	for _, tc := range []struct {
		name string
		host string
		move move
		want string
	}{
		{"from another", "n2", why, "Normal Moved moved from node n2 to node n1: 10.0.0.10; n2 gave the Lease up, nobody held it for 40 ms"},
		{"nobody knows why", "n2", move{}, "Normal Moved moved from node n2 to node n1: 10.0.0.10"},
		{"from nobody", "", why, "Normal Announced node n1 holds 10.0.0.10"},
		{"from here", "n1", why, "Normal Announced node n1 holds 10.0.0.10"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			to := &told{}
			w.move = tc.move
			before := from(tc.host)
			tell(to, before, before.DeepCopy(), w)
			if got := to.take(); strings.Join(got, "\n") != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

// told is a teller that keeps what is told.
type told struct{ list []string }

func (t *told) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (t *told) Note(_ runtime.Object, reason, text string) bool {
	t.list = append(t.list, "Normal "+reason+" "+text)
	return true
}

func (t *told) Warn(_ runtime.Object, reason, text string) bool {
	t.list = append(t.list, "Warning "+reason+" "+text)
	return true
}

// take is what was told since it was taken last.
func (t *told) take() []string {
	list := t.list
	t.list = nil
	return list
}
