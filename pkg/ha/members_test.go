package ha

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// attendee is Members that run.
type attendee struct {
	*Members
	*notebook
	client *apiClient
	cancel context.CancelFunc
	done   chan struct{}
}

func (a *attendee) stop() {
	a.cancel()
	<-a.done
}

func attend(t *testing.T, s *apiServer, name string, groups ...string) *attendee {
	t.Helper()
	a := &attendee{notebook: &notebook{}, client: newAPIClient(s, uint64(len(name)), nil), done: make(chan struct{})}
	a.Members = NewMembers(MembersOptions{Namespace: simNamespace, Identity: name, Groups: groups, Version: "v2",
		Addresses: func() []netip.Addr {
			return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
		},
		Leases: a.client, Watches: a.client, Log: a.notebook.log()})
	ctx, cancel := context.WithCancel(t.Context())
	a.cancel = cancel
	go func() {
		a.Run(ctx)
		close(a.done)
	}()
	t.Cleanup(a.stop)
	return a
}

func memberKey(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: simNamespace, Name: MemberPrefix + name}
}

func TestMembersSeeEachOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		one, two := attend(t, s, "node-1", "lock", "svcs"), attend(t, s, "node-2", "lock")
		time.Sleep(time.Second)
		addresses := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
		check := func(of *attendee, want ...Member) {
			t.Helper()
			if diff := cmp.Diff(want, of.Others(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("the others (-want +got):\n%s", diff)
			}
		}
		check(one, Member{Node: "node-2", Health: Unhealthy, Reason: "not known yet", Groups: []string{"lock"}, Addresses: addresses, Version: "v2"})
		check(two, Member{Node: "node-1", Health: Unhealthy, Reason: "not known yet", Groups: []string{"lock", "svcs"}, Addresses: addresses, Version: "v2"})
		if at := one.healthy("lock"); !at.IsZero() {
			t.Errorf("node-2 is healthy since %s", at)
		}

		two.SetHealth(Healthy, "")
		time.Sleep(50 * time.Millisecond)
		check(one, Member{Node: "node-2", Health: Healthy, Groups: []string{"lock"}, Addresses: addresses, Version: "v2"})
		if one.healthy("lock").IsZero() || !one.healthy("svcs").IsZero() || !two.healthy("lock").IsZero() {
			t.Errorf("healthy others: %s, %s, %s; want only node-2, for lock", one.healthy("lock"), one.healthy("svcs"), two.healthy("lock"))
		}

		two.stop()
		time.Sleep(50 * time.Millisecond)
		check(one) // it said farewell
		lease, err := s.get(memberKey("node-2"))
		if err != nil || *lease.Spec.HolderIdentity != "" || lease.Annotations[HealthAnnotation] != "unable" {
			t.Errorf("after it stopped: %v, %v", lease, err)
		}
		again := attend(t, s, "node-2", "svcs") // the groups of an earlier life go
		time.Sleep(50 * time.Millisecond)
		again.SetHealth(Healthy, "")
		time.Sleep(50 * time.Millisecond)
		if !one.healthy("lock").IsZero() || one.healthy("svcs").IsZero() {
			t.Errorf("node-2 is back for svcs only: %v", one.Others())
		}
	})
}

// TestMembersLack: what a member has no place for is told at once, and stays until it says otherwise, in another life.
func TestMembersLack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		one, two := attend(t, s, "node-1", "svcs"), attend(t, s, "node-2", "svcs")
		check := func(want ...string) {
			t.Helper()
			time.Sleep(50 * time.Millisecond)
			others := one.Others()
			if len(others) != 1 || !slices.Equal(others[0].Lacks, want) {
				t.Errorf("the others are %+v, want one that lacks %q", others, want)
			}
		}
		time.Sleep(time.Second)
		check()
		two.SetLacks([]string{"*", "eth1"})
		check("*", "eth1")
		two.SetLacks([]string{"eth1"})
		check("eth1")
		two.stop()
		two = attend(t, s, "node-2", "svcs")
		check("eth1")
		two.SetLacks(nil)
		check()
	})
}

func TestMembersWriteNoMoreThanNeeded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		a := attend(t, s, "node-1", "lock")
		a.SetHealth(Healthy, "")
		time.Sleep(time.Second)
		before := a.client.count()
		for i := range 1000 { // as a checker may that knows no better
			a.SetHealth(Healthy, fmt.Sprint("probe ", i))
			time.Sleep(200 * time.Millisecond)
		}
		// 200 s: a renewal every 10 s, and one more read for each.
		if after := a.client.count(); after["update"]-before["update"] != 20 || after["get"]-before["get"] != 20 || after["list"] != before["list"] {
			t.Errorf("calls: %v after %v; want 20 more updates", after, before)
		}
		lease, _ := s.get(memberKey("node-1"))
		if got := lease.Annotations[ReasonAnnotation]; !strings.HasPrefix(got, "probe 9") {
			t.Errorf("the reason is %q, want a recent one", got)
		}
	})
}

func TestMembersFallSilent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		one, two := attend(t, s, "node-1", "lock"), attend(t, s, "node-2", "lock")
		two.SetHealth(Healthy, "")
		time.Sleep(time.Second)
		var changes []time.Time
		defer one.subscribe("lock", func() { changes = append(changes, time.Now()) })()
		began := time.Now()
		two.client.set(refused)
		time.Sleep(time.Minute)
		if at := one.healthy("lock"); !at.IsZero() || len(one.Others()) > 0 {
			t.Errorf("a minute after it fell silent: healthy since %s, others %v", at, one.Others())
		}
		if len(changes) != 1 || changes[0].Sub(began) > memberDuration+memberAge {
			t.Errorf("told at %v, want once within %s of %s", changes, memberDuration+memberAge, began)
		}
		if n := two.count("level=WARN", "other members can not see this node's health"); n != 1 {
			t.Errorf("%d warnings, want one:\n%s", n, two.text.String())
		}
		two.client.set(up)
		time.Sleep(3 * time.Second)
		if one.healthy("lock").IsZero() || len(changes) != 2 {
			t.Errorf("it is back, and nobody knows: told at %v", changes)
		}
	})
}

// A member Lease that was there before us says nothing about now if it was renewed long ago.
func TestMembersOfLongAgo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		attend(t, s, "node-2", "lock").stop()
		for age, want := range map[time.Duration]int{time.Hour: 0, memberPeriod: 1, -time.Hour: 1} {
			stamp := metav1.NewMicroTime(time.Now().Add(-age))
			revive := func(l *coordinationv1.Lease) { l.Spec.HolderIdentity, l.Spec.RenewTime = new("node-2"), &stamp }
			if err := s.edit(memberKey("node-2"), revive); err != nil {
				t.Fatal(err)
			}
			one := attend(t, s, "node-1", "lock")
			time.Sleep(time.Second)
			if got := len(one.Others()); got != want {
				t.Errorf("renewed %s ago: %d others, want %d", age, got, want)
			}
			if err := s.delete(memberKey("node-1")); err != nil {
				t.Fatal(err)
			}
			one.stop()
		}
	})
}

func TestMembersDeleted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newAPIServer()
		one, two := attend(t, s, "node-1", "lock"), attend(t, s, "node-2", "lock")
		two.SetHealth(Healthy, "")
		time.Sleep(time.Second)
		if err := s.delete(memberKey("node-2")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		if len(one.Others()) != 0 {
			t.Errorf("deleted, and still listed: %v", one.Others())
		}
		time.Sleep(memberPeriod)
		if len(one.Others()) != 1 {
			t.Error("not back after a period")
		}
		one.client.set(refused) // no watch, no list
		one.client.cut()
		time.Sleep(time.Second)
		if err := s.delete(memberKey("node-2")); err != nil {
			t.Fatal(err)
		}
		two.client.set(refused) // no farewell
		two.stop()
		one.client.set(up)
		time.Sleep(3 * time.Second)
		if len(one.Others()) != 0 {
			t.Errorf("gone while we did not look, and still listed: %v", one.Others())
		}
	})
}

func TestMembersOldNews(t *testing.T) {
	m := NewMembers(MembersOptions{Identity: "node-1"})
	lease := func(version, health string, renewed time.Time) *coordinationv1.Lease {
		l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: MemberPrefix + "node-2", ResourceVersion: version,
			Labels: map[string]string{MemberLabel: "true", GroupLabelPrefix + "lock": ""}, Annotations: map[string]string{HealthAnnotation: health}}}
		stamp := metav1.NewMicroTime(renewed)
		l.Spec.HolderIdentity, l.Spec.RenewTime = new("node-2"), &stamp
		return l
	}
	now := time.Now()
	m.see(lease("12", "unhealthy", now))
	m.see(lease("11", "healthy", now.Add(-time.Second)))
	if !m.healthy("lock").IsZero() {
		t.Error("an older version of the Lease counts")
	}
	m.see(lease("13", "healthy", now))
	first := m.healthy("lock")
	m.see(lease("14", "healthy", now)) // a stranger's annotation
	if got := m.healthy("lock"); first.IsZero() || !got.Equal(first) {
		t.Errorf("healthy at %s, then at %s though nothing was renewed", first, got)
	}
	m.see(lease("15", "splendid", now.Add(time.Second)))
	if others := m.Others(); len(others) != 1 || others[0].Health != Unable {
		t.Errorf("a word that nobody knows: %v, want unable", others)
	}
}

func TestLabelPart(t *testing.T) {
	long := "kubevip-" + strings.Repeat("a-long-name.", 20) + "x"
	seen := map[string]string{}
	for _, name := range []string{"plndr-cp-lock", "a.b", strings.Repeat("x", 63), long, long + "y"} {
		part := labelPart(name)
		if errs := validation.IsQualifiedName(GroupLabelPrefix + part); len(errs) > 0 {
			t.Errorf("labelPart(%q) = %q: %v", name, part, errs)
		}
		if len(name) <= 63 && part != name {
			t.Errorf("labelPart(%q) = %q; it fits", name, part)
		}
		if other, taken := seen[part]; taken {
			t.Errorf("%q and %q have the same label", name, other)
		}
		seen[part] = name
	}
}

// FuzzMember reads Leases that anybody may have written.
func FuzzMember(f *testing.F) {
	f.Add("kubevip-member-a", "node", "healthy", "10.0.0.1,fd00::1", "group.kube-vip.io/lock", int64(0))
	f.Add("kubevip-member-", "", "?", ",,%%", "group.kube-vip.io/", int64(-1))
	f.Fuzz(func(t *testing.T, name, holder, health, addresses, label string, renewed int64) {
		m := NewMembers(MembersOptions{Identity: "node-1"})
		stamp := metav1.NewMicroTime(time.Unix(renewed, 0))
		m.see(&coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{MemberLabel: "true", label: ""},
				Annotations: map[string]string{HealthAnnotation: health, AddressesAnnotation: addresses}},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, RenewTime: &stamp},
		})
		for _, o := range m.Others() {
			if o.Node == "node-1" || slices.ContainsFunc(o.Addresses, func(a netip.Addr) bool { return !a.IsValid() }) {
				t.Errorf("others: %+v", o)
			}
		}
	})
}
