package ha

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// listener is a core that joined a feed.
type listener struct {
	*core
	f *feed
}

func listen(f *feed) *listener {
	l := &listener{core: &newBench().core, f: f}
	l.core.fed = true
	f.join(lockKey, l.core, func(tell func(*core)) { tell(l.core) })
	return l
}

func (l *listener) part() { l.f.part(lockKey, l.core) }

// say is a decision in words; times count from now.
func (l *listener) say() string {
	d := l.decide(time.Now())
	if !d.wake.IsZero() {
		d.wake = epoch.Add(time.Until(d.wake))
	}
	return say(d)
}

var lockKey = nameOf(record("", 0, 0))

// A core that joins a feed knows what one knows that has watched all the time.
func TestFeedJoin(t *testing.T) {
	theirs := func(version int, renewed float64) *coordinationv1.Lease { return record("node-2", version, renewed) }
	ours := func(version int, renewed float64) *coordinationv1.Lease { return record("node-1", version, renewed) }
	free := func(version int, renewed float64) *coordinationv1.Lease { return record("", version, renewed) }
	type event func(*feed)
	lists := func(version int, leases ...*coordinationv1.Lease) event {
		return func(f *feed) {
			var items []coordinationv1.Lease
			for _, l := range leases {
				items = append(items, *l)
			}
			f.listed(items, fmt.Sprint(version))
		}
	}
	shows := func(l *coordinationv1.Lease) event { return func(f *feed) { f.changed(l) } }
	deletes := func(l *coordinationv1.Lease) event { return func(f *feed) { f.deleted(l) } }
	waits := func(s float64) event { return func(*feed) { time.Sleep(seconds(s)) } }
	for _, tt := range []struct {
		name   string
		events []event
		want   string
	}{
		{"nothing is known", nil, "undecided"},
		{"there is none", []event{lists(9)}, "revoked, create"},
		{"it is free", []event{lists(9, free(8, 0)), waits(9)}, "revoked, update"},
		{"it is ours from an earlier life", []event{lists(9, ours(8, 0)), waits(3)}, "undecided, update"},
		{"it was renewed a while ago", []event{lists(9, theirs(8, 0)), waits(2)}, "revoked, wake 3.25s"},
		{"and again", []event{lists(9, theirs(8, 0)), waits(2), shows(theirs(10, 2)), waits(1)}, "revoked, wake 4.25s"},
		{"somebody annotated it", []event{lists(9, theirs(8, 0)), waits(2), shows(theirs(10, 0)), waits(1)}, "revoked, wake 2.25s"},
		{"another list shows it unchanged", []event{lists(9, theirs(8, 0)), waits(2), lists(12, theirs(8, 0)), waits(1)}, "revoked, wake 2.25s"},
		{"it has expired", []event{lists(9, theirs(8, 0)), waits(9)}, "revoked, update"},
		{"it came to be", []event{lists(9), shows(theirs(10, 0))}, "revoked, wake 5.25s"},
		{"it was given up", []event{lists(9, theirs(8, 0)), shows(free(10, 0))}, "revoked, update"},
		{"it was given up and deleted", []event{lists(9, theirs(8, 0)), shows(free(10, 0)), deletes(free(11, 0))}, "revoked, create"},
		{"it was deleted: its last renewal is waited for", []event{lists(9, theirs(8, 0)), waits(2), deletes(theirs(11, 0)), waits(1)}, "revoked, wake 2.25s"},
		{"it was deleted long ago", []event{lists(9, theirs(8, 0)), deletes(theirs(11, 0)), waits(9)}, "revoked, create"},
		{"it was deleted and made again", []event{lists(9, theirs(8, 0)), deletes(theirs(11, 0)), waits(1), shows(theirs(12, 1))}, "revoked, wake 5.25s"},
		{"ours was deleted", []event{lists(9, ours(8, 0)), deletes(ours(11, 0))}, "revoked, create"},
		{"it is missing: it may have been renewed until now", []event{lists(9, theirs(8, 0)), waits(4), lists(20), waits(1)}, "revoked, wake 4.25s"},
		{"it was deleted, and is missing", []event{lists(9, theirs(8, 0)), waits(1), deletes(theirs(11, 0)), waits(1), lists(20), waits(1)}, "revoked, wake 2.25s"},
		{"others come and go", []event{lists(9), shows(func() *coordinationv1.Lease { l := theirs(10, 0); l.Name = "other"; return l }())}, "revoked, create"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFeed((&notebook{}).log(), 5*time.Second, nil, &line{})
				for _, do := range tt.events {
					do(f)
				}
				l := listen(f)
				if got := l.say(); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				if l.lease == nil && l.version != f.version {
					t.Errorf("absent as of version %q, want %q", l.version, f.version)
				}
			})
		})
	}
}

// Who has joined is told what a watch of its own would tell.
func TestFeedTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFeed((&notebook{}).log(), 5*time.Second, nil, &line{})
		l := listen(f)
		want := func(want string) {
			t.Helper()
			if got := l.say(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		want("undecided")
		f.listed([]coordinationv1.Lease{*record("node-2", 8, 0)}, "9")
		want("revoked, wake 5.25s")
		time.Sleep(time.Second)
		f.changed(record("node-2", 10, 1))
		want("revoked, wake 5.25s")
		time.Sleep(time.Second)
		f.deleted(record("node-2", 11, 1))
		want("revoked, wake 4.25s")
		f.changed(record("node-2", 12, 2))
		want("revoked, wake 5.25s")
		time.Sleep(time.Second)
		f.listed(nil, "20") // it may have been renewed until now
		want("revoked, wake 5.25s")
		f.changed(record("", 21, 0))
		want("revoked, update")
		if f.version != "21" {
			t.Errorf("at version %s after version 21", f.version)
		}
		l.part()
		f.changed(record("node-2", 22, 0))
		want("revoked, update")
	})
}

// What somebody learned by calls of its own, while the feed was behind, is there for who joins next; what the feed
// knows better is not.
func TestFeedLearnsFromWhoParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFeed((&notebook{}).log(), 5*time.Second, nil, &line{})
		f.listed(nil, "9")
		l := listen(f)
		l.read(time.Now(), record("node-2", 15, 0))
		time.Sleep(time.Second)
		l.part()
		if got := listen(f).say(); got != "revoked, wake 4.25s" {
			t.Errorf("joined after it was read: %q", got)
		}
		if h, ok := f.holder(lockKey); !ok || h.Identity != "node-2" {
			t.Errorf("holder %+v, %t", h, ok)
		}
		late := listen(f)
		f.changed(record("", 16, 0))
		f.deleted(record("", 17, 0))
		late.read(time.Now(), record("node-2", 15, 0))
		late.part()
		if got := listen(f).say(); got != "revoked, create" {
			t.Errorf("joined after it was deleted: %q", got)
		}
	})
}

// What an Election of this process wrote before another one joined is not taken for a namesake's, however late the
// feed shows it.
func TestElectionKnowsItsPredecessorsWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFeed((&notebook{}).log(), 5*time.Second, nil, &line{})
		renewedAt := func(version int, at time.Time) *coordinationv1.Lease {
			l := record("node-1", version, 0)
			l.Spec.RenewTime = new(metav1.NewMicroTime(at))
			return l
		}
		began := time.Now()
		f.listed([]coordinationv1.Lease{*renewedAt(8, began)}, "9")
		time.Sleep(time.Second)
		e := newElection(Options{Namespace: lockKey.Namespace, Name: lockKey.Name, Identity: "node-1", Timing: fast, Log: (&notebook{}).log()})
		e.company = &company{feed: f}
		defer e.join(t.Context())()
		show := func(l *coordinationv1.Lease) {
			go f.changed(l)
			(<-e.events)()
		}
		show(renewedAt(10, began.Add(500*time.Millisecond)))
		if e.core.namesake {
			t.Error("our own earlier renewal is taken for another's")
		}
		show(renewedAt(11, time.Now().Add(time.Second)))
		if !e.core.namesake {
			t.Error("another's renewal is taken for ours")
		}
	})
}

// Nothing is kept of Leases that are gone once their holders' mandates are over.
func TestFeedForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFeed((&notebook{}).log(), 5*time.Second, nil, &line{})
		f.listed(nil, "1")
		named := func(i, version int, holder string) *coordinationv1.Lease {
			l := record(holder, version, 0)
			l.Name = fmt.Sprint("lock-", i)
			return l
		}
		for i := range 100 {
			f.changed(named(i, 10+i, "node-2"))
		}
		for i := range 100 {
			f.deleted(named(i, 200+i, "node-2"))
		}
		if len(f.leases) != 100 {
			t.Errorf("%d are remembered just after they were deleted, want all", len(f.leases))
		}
		for i := range 50 { // made again
			f.changed(named(i, 400+i, ""))
		}
		time.Sleep(6 * time.Second)
		f.changed(named(0, 500, ""))
		if len(f.leases) != 50 || len(f.gone) != 0 {
			t.Errorf("%d are known and %d remembered, want the 50 that are there", len(f.leases), len(f.gone))
		}
	})
}

func TestFeedLogs(t *testing.T) {
	n := &notebook{}
	f := newFeed(n.log(), 5*time.Second, nil, &line{})
	for range 3 {
		f.failed(errEnded)
		f.failed(apierrors.NewResourceExpired("too old"))
		f.failed(errSilent)
	}
	if n.count("level=WARN") > 0 {
		t.Errorf("what is usual is warned of:\n%s", n.text.String())
	}
	for range 3 {
		f.failed(errors.New("forbidden"))
	}
	f.listed(nil, "1")
	f.listed(nil, "2")
	f.failed(errors.New("forbidden"))
	if n.count("level=WARN", "the Leases can not be seen", "forbidden") != 2 || n.count("level=INFO", "can be seen again") != 1 {
		t.Errorf("want it said once each time:\n%s", n.text.String())
	}
}

func TestWoes(t *testing.T) {
	n := &notebook{}
	w := newWoes(n.log(), "well again")
	for range 1000 {
		w.begin(n.log(), "unwell", "err", "why")
	}
	if n.count("level=WARN", "unwell", "err=why") != 10 || n.count("level=WARN", "leases=512") != 1 || n.count("level=DEBUG", "unwell") != 990 {
		t.Errorf("want a warning for 1, 2, 4, … 512:\n%.2000s", n.text.String())
	}
	for range 999 {
		w.end()
	}
	if n.count("well again") != 0 {
		t.Error("said too early")
	}
	w.end()
	w.begin(n.log(), "unwell", "err", "why")
	w.less()
	if n.count("level=INFO", "well again") != 1 || n.count("level=WARN", "leases=1 ")+n.count("level=WARN", "leases=1\n") != 2 {
		t.Errorf("want it said once that it is over, and a new beginning:\n%.2000s", n.text.String())
	}
}
