package ha

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

var epoch = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

// at is a time of the test.
func at(d time.Duration) time.Time { return epoch.Add(d) }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// bench drives a core of node-1 with a Lease of 5/3/1 s.
type bench struct {
	core
	now   time.Time
	write *coordinationv1.Lease // what was asked to be written last
}

func newBench() *bench {
	return &bench{now: epoch, core: core{namespace: "kube-system", name: "lock", id: "node-1", grace: expiryGrace,
		timing: Timing{Lease: 5 * time.Second, Renew: 3 * time.Second, Retry: time.Second}}}
}

func (b *bench) decide() decision {
	d := b.core.decide(b.now)
	if d.lease != nil {
		b.write = d.lease
		b.writes(d.lease)
	}
	return d
}

// event is something that the core is told.
type event func(*bench)

// record is a Lease as an API server has it; renewed makes its spec differ from that of another time.
func record(holder string, version int, renewed float64) *coordinationv1.Lease {
	stamp := metav1.NewMicroTime(at(seconds(renewed)))
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "lock", ResourceVersion: fmt.Sprint(version)},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: new(holder), LeaseDurationSeconds: new(int32(5)),
			AcquireTime: &stamp, RenewTime: &stamp, LeaseTransitions: new(int32(7))},
	}
}

func watched(l *coordinationv1.Lease) event { return func(b *bench) { b.observe(b.now, l) } }
func reads(l *coordinationv1.Lease) event   { return func(b *bench) { b.read(b.now, l) } }
func deletedAt(version int) event           { return func(b *bench) { b.deleted(b.now, fmt.Sprint(version)) } }
func absentAt(version int) event            { return func(b *bench) { b.absent(b.now, fmt.Sprint(version)) } }

// accepted: the write that was asked for last was accepted, by a call that began that long ago.
func accepted(version int, took float64) event {
	return func(b *bench) {
		l := b.write.DeepCopy()
		l.ResourceVersion = fmt.Sprint(version)
		b.wrote(b.now, b.now.Add(-seconds(took)), l)
	}
}

func refusedWrite(b *bench)   { b.conflicted() }
func failedWrite(b *bench)    { b.failed(b.now, true) }
func failedRead(b *bench)     { b.failed(b.now, false) }
func abortedWrite(b *bench)   { b.abandoned() }
func addressesOff(b *bench)   { b.cleared() }
func stop(b *bench)           { b.stopping = true }
func nothing(*bench)          {}
func waitsForHealth(b *bench) { b.patience = at(healthWait) }

func is(h Health) event {
	return func(b *bench) { b.health, b.healthReason, b.patience = h, "why", time.Time{} }
}

func rank(n int) event { return func(b *bench) { b.delay = delayOf(n, b.timing) } }

// otherSaid: another member said at that time that it is healthy.
func otherSaid(s float64) event { return func(b *bench) { b.others = at(seconds(s)) } }
func noOther(b *bench)          { b.others = time.Time{} }

func all(events ...event) event {
	return func(b *bench) {
		for _, e := range events {
			e(b)
		}
	}
}

// say is a decision in words: times count from the epoch.
func say(d decision) string {
	var words []string
	switch d.verdict {
	case undecided:
		words = append(words, "undecided")
	case granted:
		words = append(words, "granted until "+d.until.Sub(epoch).String())
	case revoked:
		words = append(words, "revoked")
	}
	if d.provisional {
		words = append(words, "provisionally")
	}
	if d.probe {
		words = append(words, "probe")
	}
	if d.write != writeNothing {
		words = append(words, [...]string{"", "create", "update", "release", "read"}[d.write])
	}
	if !d.wake.IsZero() {
		words = append(words, "wake "+d.wake.Sub(epoch).String())
	}
	if d.abort {
		words = append(words, "abort")
	}
	if d.done {
		words = append(words, "done")
	}
	return strings.Join(words, ", ")
}

func TestCore(t *testing.T) {
	type step struct {
		at   float64 // seconds
		do   event
		want string
	}
	theirs := func(version int, renewed float64) *coordinationv1.Lease { return record("node-2", version, renewed) }
	ours := func(version int, renewed float64) *coordinationv1.Lease { return record("node-1", version, renewed) }
	free := func(version int, renewed float64) *coordinationv1.Lease { return record("", version, renewed) }
	hold := step{0, all(reads(nil), func(b *bench) { b.decide() }, accepted(10, 0)), "granted until 3s, wake 1s"}

	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"nothing is decided before the Lease is read", []step{
			{0, nothing, "undecided, read"},
			{0.5, failedRead, "undecided, wake 750ms"},
			{0.75, nothing, "undecided, read"},
		}},
		{"no Lease: create it, hold from the start of the call", []step{
			{0, reads(nil), "revoked, create"},
			{0.4, accepted(10, 0.3), "granted until 3.1s, wake 1.1s"},
		}},
		{"a free Lease is taken at once", []step{
			{0, watched(free(9, 0)), "revoked, update"},
			{0.1, accepted(10, 0.1), "granted until 3s, wake 1s"},
		}},
		{"renewed every retry period, each time for the renew deadline", []step{
			hold,
			{0.9, nothing, "granted until 3s, wake 1s"},
			{1, nothing, "granted until 3s, update, wake 3s"},
			{1.2, accepted(11, 0.2), "granted until 4s, wake 2s"},
			{2, nothing, "granted until 4s, update, wake 4s"},
		}},
		{"the mandate ends when its time is up, not before", []step{
			hold,
			{1, nothing, "granted until 3s, update, wake 3s"},
			{2.999, nothing, "granted until 3s, update, wake 3s"},
			{3, nothing, "revoked, update"},
			{3.1, accepted(11, 0.1), "granted until 6s, wake 4s"},
		}},
		{"failed calls back off, and lose nothing", []step{
			hold,
			{1, failedWrite, "granted until 3s, wake 1.25s"},
			{1.25, nothing, "granted until 3s, update, wake 3s"},
			{1.3, failedWrite, "granted until 3s, wake 1.8s"},
			{1.8, failedWrite, "granted until 3s, wake 2.8s"},
			{2.8, failedWrite, "granted until 3s, wake 3s"},
			{3, nothing, "revoked, wake 4.8s"},
			{4.8, failedWrite, "revoked, wake 6.8s"},
			{6.8, nothing, "revoked, update"},
			{6.8, accepted(11, 0), "granted until 9.8s, wake 7.8s"},
			{7.8, failedWrite, "granted until 9.8s, wake 8.05s"},
		}},
		{"a renewal that took too long gives no mandate", []step{
			hold,
			{4, nothing, "revoked, update"},
			{8, accepted(11, 3.5), "revoked, update"},
		}},

		{"another's Lease is waited for", []step{
			{0, watched(theirs(10, 0)), "revoked, wake 5.25s"},
			{1, watched(theirs(11, 1)), "revoked, wake 6.25s"},
			{6.24, nothing, "revoked, wake 6.25s"},
			{6.25, nothing, "revoked, update"},
			{6.3, refusedWrite, "revoked, read"},
			{6.4, reads(theirs(12, 6)), "revoked, wake 11.65s"},
		}},
		{"who edits an annotation renews nothing", []step{
			{0, watched(theirs(10, 0)), "revoked, wake 5.25s"},
			{4, watched(theirs(11, 0)), "revoked, wake 5.25s"},
			{5.25, nothing, "revoked, update"},
		}},
		{"an edited annotation costs a holder nothing", []step{
			hold,
			{0.5, func(b *bench) {
				l := b.lease.DeepCopy()
				l.ResourceVersion = "11"
				b.observe(b.now, l)
			}, "granted until 3s, wake 1s"},
			{1, nothing, "granted until 3s, update, wake 3s"},
		}},
		{"the holder's own duration counts", []step{
			{0, watched(func() *coordinationv1.Lease {
				l := theirs(10, 0)
				l.Spec.LeaseDurationSeconds = new(int32(15))
				return l
			}()), "revoked, wake 15.25s"},
		}},
		{"without a duration it is ours", []step{
			{0, watched(func() *coordinationv1.Lease {
				l := theirs(10, 0)
				l.Spec.LeaseDurationSeconds = nil
				return l
			}()), "revoked, wake 5.25s"},
		}},
		{"a refused renewal is followed by a read, the mandate goes on", []step{
			hold,
			{1, refusedWrite, "granted until 3s, read, wake 3s"},
			{1.1, failedRead, "granted until 3s, wake 1.35s"},
			{1.35, nothing, "granted until 3s, read, wake 3s"},
			{1.4, reads(ours(12, 0)), "granted until 3s, update, wake 3s"},
		}},
		{"a refused renewal, and the watch knows why", []step{
			hold,
			{1, refusedWrite, "granted until 3s, read, wake 3s"},
			{1.05, watched(theirs(12, 1)), "revoked, read"},
		}},
		{"a refused renewal, and the Lease is another's", []step{
			hold,
			{1, refusedWrite, "granted until 3s, read, wake 3s"},
			{1.1, reads(theirs(12, 1)), "revoked, wake 6.35s"},
		}},

		{"emptied under a holder: it is over at once, and everybody stands", []step{
			hold,
			{0.5, watched(free(11, 0)), "revoked, update"},
			{0.6, accepted(12, 0.1), "granted until 3.5s, wake 1.5s"},
		}},
		{"stolen from a holder: it is over at once, and the thief is waited for", []step{
			hold,
			{0.5, watched(record("stranger", 11, 0)), "revoked, wake 5.75s"},
			{5.75, nothing, "revoked, update"},
		}},
		{"deleted under a holder: it goes on and makes the Lease again", []step{
			hold,
			{0.5, deletedAt(11), "granted until 3s, create, wake 3s"},
			{0.6, accepted(12, 0.1), "granted until 3.5s, wake 1.5s"},
		}},
		{"deleted under another: its last renewal is waited for", []step{
			{0, watched(theirs(10, 0)), "revoked, wake 5.25s"},
			{2, deletedAt(11), "revoked, wake 5.25s"},
			{5.25, nothing, "revoked, create"},
			{5.3, refusedWrite, "revoked, read"},
			{5.4, reads(nil), "revoked, create"},
			{5.5, accepted(12, 0.1), "granted until 8.4s, wake 6.4s"},
		}},
		{"deleted under another, who makes it again", []step{
			{0, watched(theirs(10, 0)), "revoked, wake 5.25s"},
			{2, deletedAt(11), "revoked, wake 5.25s"},
			{2.1, watched(theirs(12, 2)), "revoked, wake 7.35s"},
		}},
		{"found missing: another may have renewed it until now", []step{
			{0, watched(theirs(10, 0)), "revoked, wake 5.25s"},
			{4, absentAt(20), "revoked, wake 9.25s"},
			{4.5, reads(nil), "revoked, wake 9.25s"},
			{9.25, nothing, "revoked, create"},
		}},
		{"found missing by a refused write", []step{
			{0, watched(theirs(10, 0)), "revoked, wake 5.25s"},
			{5.25, refusedWrite, "revoked, read"},
			{5.3, reads(nil), "revoked, wake 10.55s"},
		}},
		{"deleted after it was given up: free", []step{
			{0, watched(free(10, 0)), "revoked, update"},
			{0, deletedAt(11), "revoked, create"},
		}},

		{"an unhealthy holder stays while nobody else is healthy", []step{
			hold,
			{0.5, is(Unhealthy), "granted until 3s, wake 1s"},
			{1, nothing, "granted until 3s, update, wake 3s"},
		}},
		{"an unhealthy holder gives up for a healthy other, after its addresses are off", []step{
			hold,
			{0.5, all(is(Unhealthy), otherSaid(0.4)), "revoked"},
			{0.6, nothing, "revoked"},
			{0.7, addressesOff, "revoked, release, abort"},
			{0.8, accepted(11, 0.1), "revoked, wake 5.8s, abort"},
			{0.9, watched(theirs(12, 0.9)), "revoked, wake 11.15s, abort"},
		}},
		{"and takes it back for good when nobody wants it", []step{
			hold,
			{0.5, all(is(Unhealthy), otherSaid(0.4)), "revoked"},
			{0.7, addressesOff, "revoked, release, abort"},
			{0.8, accepted(11, 0.1), "revoked, wake 5.8s, abort"},
			{5.8, nothing, "revoked, update"},
			{5.9, accepted(12, 0.1), "granted until 8.8s, wake 6.8s"},
			{6.8, nothing, "granted until 8.8s, update, wake 8.8s"},
			{7, noOther, "granted until 8.8s, update, wake 8.8s"},
		}},
		{"until a healthy other shows that it lives", []step{
			{0, all(is(Unhealthy), otherSaid(-1), watched(free(9, 0))), "revoked, wake 5s"},
			{5, nothing, "revoked, update"},
			{5.1, accepted(10, 0.1), "granted until 8s, wake 6s"},
			{5.5, otherSaid(5.5), "revoked"},
			{5.6, addressesOff, "revoked, release, abort"},
		}},
		{"an unhealthy candidate lets a healthy one go first", []step{
			{0, all(is(Unhealthy), otherSaid(0), watched(theirs(10, 0))), "revoked, wake 10.25s"},
			{5.25, nothing, "revoked, wake 10.25s"},
			{6, noOther, "revoked, update"},
		}},
		{"an unhealthy candidate stands when nobody is healthy", []step{
			{0, all(is(Unhealthy), watched(theirs(10, 0))), "revoked, wake 5.25s"},
			{5.25, nothing, "revoked, update"},
		}},
		{"an unhealthy candidate and no Lease at all", []step{
			{0, all(is(Unhealthy), otherSaid(0), reads(nil)), "revoked, wake 5s"},
			{5, nothing, "revoked, create"},
		}},
		{"a node that is not able never stands", []step{
			{0, all(is(Unable), watched(free(10, 0))), "revoked"},
			{99, nothing, "revoked"},
			{99, is(Healthy), "revoked, update"},
		}},
		{"a holder that is not able any more gives up, others or not", []step{
			hold,
			{0.5, is(Unable), "revoked"},
			{0.6, addressesOff, "revoked, release, abort"},
			{0.7, accepted(11, 0.1), "revoked, abort"},
		}},
		{"healthy again while the Lease is being given up: nothing is held before it is ours for certain", []step{
			hold,
			{0.5, is(Unable), "revoked"},
			{0.6, addressesOff, "revoked, release, abort"},
			{0.7, is(Healthy), "revoked, update"},
			{0.8, func(b *bench) { b.wrote(b.now, at(seconds(0.6)), free(11, 0.6)) }, "revoked, update"},
		}},
		{"healthy again before the Lease was given up", []step{
			hold,
			{0.5, is(Unable), "revoked"},
			{0.6, is(Healthy), "revoked, update"},
			{0.7, accepted(11, 0.1), "granted until 3.6s, wake 1.6s"},
		}},
		{"not able any more while it is not known whose the Lease is", []step{
			hold,
			{1, refusedWrite, "granted until 3s, read, wake 3s"},
			{1.1, all(deletedAt(11), is(Unable)), "revoked, read"},
		}},
		{"a candidate waits for the first word on its health", []step{
			{0, all(waitsForHealth, reads(nil)), "revoked, wake 3s"},
			{1, is(Healthy), "revoked, create"},
		}},
		{"but not for ever", []step{
			{0, all(waitsForHealth, reads(nil)), "revoked, wake 3s"},
			{3, nothing, "revoked, create"},
		}},

		{"what will be told is not asked for", []step{
			{0, func(b *bench) { b.fed = true }, "undecided"},
			{99, nothing, "undecided"},
			{99, absentAt(9), "revoked, create"},
		}},
		{"the best candidate tries at once", []step{
			{0, all(rank(0), reads(nil)), "revoked, create"},
		}},
		{"another one waits its turn for a free Lease", []step{
			{0, all(rank(2), watched(free(9, 0))), "revoked, wake 300ms"},
			{0.29, nothing, "revoked, wake 300ms"},
			{0.3, nothing, "revoked, update"},
			{0.4, accepted(10, 0.1), "granted until 3.3s, wake 1.3s"},
			{1.3, nothing, "granted until 3.3s, update, wake 3.3s"},
		}},
		{"and for one that is not there", []step{
			{0, all(rank(2), absentAt(9)), "revoked, wake 300ms"},
			{0.2, absentAt(11), "revoked, wake 300ms"},
			{0.3, nothing, "revoked, create"},
		}},
		{"and for one that expires", []step{
			{0, all(rank(1), watched(theirs(10, 0))), "revoked, wake 5.4s"},
			{1, watched(theirs(11, 1)), "revoked, wake 6.4s"},
			{6.4, nothing, "revoked, update"},
		}},
		{"and for one that was deleted under another", []step{
			{0, all(rank(1), watched(theirs(10, 0))), "revoked, wake 5.4s"},
			{2, deletedAt(11), "revoked, wake 5.4s"},
			{5.4, nothing, "revoked, create"},
		}},
		{"a rank that changes counts at once", []step{
			{0, all(rank(9), watched(free(9, 0))), "revoked, wake 1.35s"},
			{0.2, rank(1), "revoked, update"},
		}},
		{"not one of many waits for longer than a Lease lasts", []step{
			{0, all(rank(500), watched(free(9, 0))), "revoked, wake 5s"},
		}},
		{"back after a crash, the Lease still ours: no rank counts", []step{
			{0, all(rank(9), reads(ours(10, 0))), "undecided, update"},
			{0.1, accepted(11, 0.1), "granted until 3s, wake 1s"},
		}},
		{"deleted under a holder: no rank counts", []step{
			{0, all(reads(nil), func(b *bench) { b.decide() }, accepted(10, 0), rank(9)), "granted until 3s, wake 1s"},
			{0.5, deletedAt(11), "granted until 3s, create, wake 3s"},
		}},
		{"emptied under a holder: the best candidate goes first", []step{
			{0, all(reads(nil), func(b *bench) { b.decide() }, accepted(10, 0), rank(1)), "granted until 3s, wake 1s"},
			{0.5, watched(free(11, 0)), "revoked, wake 650ms"},
		}},
		{"renewed at a moment of its own, never later than a retry period", []step{
			{0, all(func(b *bench) { b.anchor = at(seconds(-9.7)) }, reads(nil)), "revoked, create"},
			{0, accepted(10, 0), "granted until 3s, wake 300ms"},
			{0.3, accepted(11, 0), "granted until 3.3s, wake 1.3s"},
			{1.4, accepted(12, 0), "granted until 4.4s, wake 2.3s"}, // it came late: the next one does not
			{3.2, accepted(13, 0), "granted until 6.2s, wake 3.3s"},
		}},

		{"stopping: addresses off, then the Lease, then done", []step{
			hold,
			{0.5, stop, "revoked"},
			{1.5, nothing, "revoked"},
			{1.6, addressesOff, "revoked, release, abort"},
			{1.7, accepted(11, 0.1), "revoked, abort, done"},
		}},
		{"stopping while a renewal is under way", []step{
			hold,
			{1, nothing, "granted until 3s, update, wake 3s"},
			{1.1, stop, "revoked"},
			{1.2, accepted(11, 0.2), "revoked"},
			{1.3, addressesOff, "revoked, release, abort"},
		}},
		{"stopping while a renewal hangs", []step{
			hold,
			{1, nothing, "granted until 3s, update, wake 3s"},
			{1.1, stop, "revoked"},
			{1.3, addressesOff, "revoked, release, abort"},
			{1.3, abortedWrite, "revoked, read, abort"},
			{1.4, reads(ours(11, 1)), "revoked, release, abort"},
		}},
		{"stopping while a claim may have been accepted", []step{
			{0, all(reads(free(9, 0)), func(b *bench) { b.cleared() }), "revoked, update"},
			{0.1, failedWrite, "revoked, wake 350ms"},
			{0.2, stop, "revoked, wake 350ms, abort"},
			{0.35, nothing, "revoked, read, abort"},
			{0.4, reads(ours(10, 0)), "revoked, release, abort"},
			{0.5, accepted(11, 0.1), "revoked, abort, done"},
		}},
		{"stopping, and the API fails", []step{
			hold,
			{0.5, stop, "revoked"},
			{0.6, addressesOff, "revoked, release, abort"},
			{0.7, failedWrite, "revoked, wake 950ms, abort"},
			{0.95, nothing, "revoked, read, abort"},
		}},
		{"stopping after failures: the first try to give up is not put off", []step{
			hold,
			{1, failedWrite, "granted until 3s, wake 1.25s"},
			{1.05, failedWrite, "granted until 3s, wake 1.55s"},
			{1.1, stop, "revoked"},
			{1.2, addressesOff, "revoked, read, abort"},
		}},
		{"stopping as a follower", []step{
			{0, watched(theirs(10, 0)), "revoked, wake 5.25s"},
			{0.1, stop, "revoked"},
			{0.2, addressesOff, "revoked, abort, done"},
		}},
		{"stopping before anything is known", []step{
			{0, stop, "revoked"},
			{0.2, addressesOff, "revoked, abort, done"},
		}},
		{"stopping when the Lease was stolen", []step{
			hold,
			{0.5, all(stop, watched(theirs(11, 0.5))), "revoked"},
			{0.6, addressesOff, "revoked, abort, done"},
		}},

		{"back after a crash, the Lease still ours: nothing is revoked, the write decides", []step{
			{0, waitsForHealth, "undecided, read"},
			{0.1, reads(ours(10, 0)), "undecided, update"},
			{0.2, failedWrite, "undecided, wake 450ms"},
			{0.45, nothing, "undecided, update"},
			{0.5, accepted(11, 0.05), "granted until 3.45s, wake 1.45s"},
		}},
		{"back after a crash, and another was faster", []step{
			{0.1, reads(ours(10, 0)), "undecided, update"},
			{0.2, refusedWrite, "undecided, read"},
			{0.3, reads(theirs(12, 0)), "revoked, wake 5.55s"},
		}},
		{"back after a crash, unhealthy", []step{
			{0.1, all(is(Unhealthy), otherSaid(0), reads(ours(10, 0))), "revoked"},
			{0.2, addressesOff, "revoked, release, abort"},
		}},

		{"old news is no news", []step{
			{0, reads(free(10, 0)), "revoked, update"},
			{0.1, accepted(12, 0.1), "granted until 3s, wake 1s"},
			{0.2, watched(theirs(11, 0)), "granted until 3s, wake 1s"},
			{0.3, deletedAt(9), "granted until 3s, wake 1s"},
			{0.4, absentAt(9), "granted until 3s, wake 1s"},
		}},
		{"news from before the end is no news either", []step{
			hold,
			{0.5, deletedAt(20), "granted until 3s, create, wake 3s"},
			{0.6, watched(theirs(15, 0)), "granted until 3s, create, wake 3s"},
		}},
		{"an answer that comes after somebody's later write gives no mandate", []step{
			{0, reads(free(10, 0)), "revoked, update"},
			{0.1, watched(theirs(12, 0)), "revoked, wake 5.35s"},
			{0.2, accepted(11, 0.2), "revoked, wake 5.35s"},
		}},
		{"the watch shows our own claim before the answer does", []step{
			{0, reads(free(10, 0)), "revoked, update"},
			{0.1, func(b *bench) {
				l := b.write.DeepCopy()
				l.ResourceVersion = "11"
				b.observe(b.now, l)
			}, "revoked, update"},
			{0.2, accepted(11, 0.2), "granted until 3s, wake 1s"},
		}},
		{"etcd was restored: what is read counts, however old it looks", []step{
			{0, watched(theirs(100, 0)), "revoked, wake 5.25s"},
			{5.25, refusedWrite, "revoked, read"},
			{5.3, reads(theirs(50, -9)), "revoked, wake 10.55s"},
			{6, watched(theirs(51, 6)), "revoked, wake 11.25s"},
		}},
		{"resource versions that are no numbers are all news", []step{
			{0, watched(func() *coordinationv1.Lease { l := theirs(0, 0); l.ResourceVersion = "b"; return l }()), "revoked, wake 5.25s"},
			{1, watched(func() *coordinationv1.Lease { l := theirs(0, 1); l.ResourceVersion = "a"; return l }()), "revoked, wake 6.25s"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench()
			for i, s := range tt.steps {
				b.now = at(seconds(s.at))
				s.do(b)
				if got := say(b.decide()); got != s.want {
					t.Errorf("step %d, at %gs: got %q, want %q", i, s.at, got, s.want)
				}
			}
		})
	}
}

// TestRecord compares what we write with client-go's own reading of a Lease.
func TestRecord(t *testing.T) {
	now := at(10 * time.Second)
	stamp := metav1.NewTime(now)
	early := metav1.NewTime(at(2 * time.Second))
	for _, tt := range []struct {
		name   string
		before *coordinationv1.Lease
		write  func(*core) *coordinationv1.Lease
		want   resourcelock.LeaderElectionRecord
	}{
		{"the first holder", nil, func(c *core) *coordinationv1.Lease { return c.claimed(now) }, resourcelock.LeaderElectionRecord{
			HolderIdentity: "node-1", LeaseDurationSeconds: 5, AcquireTime: stamp, RenewTime: stamp}},
		{"a renewal", record("node-1", 10, 2), func(c *core) *coordinationv1.Lease { return c.claimed(now) }, resourcelock.LeaderElectionRecord{
			HolderIdentity: "node-1", LeaseDurationSeconds: 5, AcquireTime: early, RenewTime: stamp, LeaderTransitions: 7}},
		{"taken from another", record("node-2", 10, 2), func(c *core) *coordinationv1.Lease { return c.claimed(now) }, resourcelock.LeaderElectionRecord{
			HolderIdentity: "node-1", LeaseDurationSeconds: 5, AcquireTime: stamp, RenewTime: stamp, LeaderTransitions: 8}},
		{"taken when free", record("", 10, 2), func(c *core) *coordinationv1.Lease { return c.claimed(now) }, resourcelock.LeaderElectionRecord{
			HolderIdentity: "node-1", LeaseDurationSeconds: 5, AcquireTime: stamp, RenewTime: stamp, LeaderTransitions: 8}},
		{"made again after it was deleted under us", record("node-1", 10, 2), func(c *core) *coordinationv1.Lease {
			c.deleted(now, "11")
			return c.claimed(now)
		}, resourcelock.LeaderElectionRecord{
			HolderIdentity: "node-1", LeaseDurationSeconds: 5, AcquireTime: stamp, RenewTime: stamp, LeaderTransitions: 7}},
		{"made again after it was deleted under another", record("node-2", 10, 2), func(c *core) *coordinationv1.Lease {
			c.deleted(now, "11")
			return c.claimed(now)
		}, resourcelock.LeaderElectionRecord{
			HolderIdentity: "node-1", LeaseDurationSeconds: 5, AcquireTime: stamp, RenewTime: stamp, LeaderTransitions: 8}},
		{"given up", record("node-1", 10, 2), func(c *core) *coordinationv1.Lease { return c.released(now) }, resourcelock.LeaderElectionRecord{
			LeaseDurationSeconds: 1, AcquireTime: stamp, RenewTime: stamp, LeaderTransitions: 7}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &newBench().core
			c.annotations = map[string]string{"ours": "1"}
			c.read(at(3*time.Second), nil)
			wantVersion := ""
			if tt.before != nil {
				tt.before.Annotations, tt.before.Labels = map[string]string{"theirs": "2"}, map[string]string{"l": "3"}
				tt.before.UID = "u"
				c.writes(tt.before) // in our name only if it is ours
				c.read(at(3*time.Second), tt.before)
				wantVersion = tt.before.ResourceVersion
			}
			before := tt.before.DeepCopy()
			lease := tt.write(c)
			if diff := cmp.Diff(tt.want, *resourcelock.LeaseSpecToLeaderElectionRecord(&lease.Spec)); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
			// Nothing is left unset that client-go sets, and nothing set that it knows nothing of.
			if diff := cmp.Diff(resourcelock.LeaderElectionRecordToLeaseSpec(&tt.want), lease.Spec); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
			if strings.HasPrefix(tt.name, "made again") {
				wantVersion = ""
			} else if tt.before != nil && (lease.Annotations["theirs"] != "2" || lease.Labels["l"] != "3" || lease.UID != "u") {
				t.Errorf("what others wrote is lost: %+v", lease.ObjectMeta)
			}
			if lease.Namespace != "kube-system" || lease.Name != "lock" || lease.ResourceVersion != wantVersion {
				t.Errorf("written to %s/%s at version %q, want %q", lease.Namespace, lease.Name, lease.ResourceVersion, wantVersion)
			}
			if tt.want.HolderIdentity != "" && lease.Annotations["ours"] != "1" {
				t.Errorf("annotations %v lack ours", lease.Annotations)
			}
			if !equality.Semantic.DeepEqual(before, tt.before) {
				t.Error("the Lease that was seen has been changed")
			}
		})
	}
}

// A Lease is its owner's as long as we hold it, whatever others do to it, and theirs stays.
func TestOwner(t *testing.T) {
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Service", Name: "web", UID: "2"}
	earlier := metav1.OwnerReference{APIVersion: "v1", Kind: "Service", Name: "web", UID: "1"}
	foreign := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "web", UID: "9"}
	blocking := owner
	blocking.BlockOwnerDeletion = new(true)
	for _, tt := range []struct {
		name         string
		owner        *metav1.OwnerReference
		before, want []metav1.OwnerReference
	}{
		{"none wanted, none there", nil, nil, nil},
		{"none wanted, another's stays", nil, []metav1.OwnerReference{foreign}, []metav1.OwnerReference{foreign}},
		{"written", &owner, nil, []metav1.OwnerReference{owner}},
		{"there already", &owner, []metav1.OwnerReference{owner}, []metav1.OwnerReference{owner}},
		{"there with more than we ask for", &owner, []metav1.OwnerReference{blocking}, []metav1.OwnerReference{blocking}},
		{"another's stays", &owner, []metav1.OwnerReference{foreign}, []metav1.OwnerReference{foreign, owner}},
		{"an earlier object of its name goes", &owner, []metav1.OwnerReference{earlier, foreign}, []metav1.OwnerReference{foreign, owner}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench()
			b.owner, b.labels = tt.owner, map[string]string{"ours": "1"}
			before := record("", 9, 0)
			before.OwnerReferences, before.Labels = tt.before, map[string]string{"theirs": "2"}
			watched(before)(b)
			for _, write := range []string{"taken", "renewed"} {
				d := b.decide()
				if d.write != writeUpdate {
					t.Fatalf("%s; want an update", say(d))
				}
				if diff := cmp.Diff(tt.want, d.lease.OwnerReferences); diff != "" {
					t.Errorf("owners when %s (-want +got):\n%s", write, diff)
				}
				if diff := cmp.Diff(map[string]string{"ours": "1", "theirs": "2"}, d.lease.Labels); diff != "" {
					t.Errorf("labels when %s (-want +got):\n%s", write, diff)
				}
				stripped := d.lease.DeepCopy()
				stripped.OwnerReferences, stripped.Labels = tt.before, map[string]string{"theirs": "2"} // by somebody
				stripped.ResourceVersion = "10"
				b.wrote(b.now, b.now, stripped)
				b.now = b.now.Add(time.Second)
			}
			b.stopping, b.off = true, true
			b.until = time.Time{}
			if d := b.decide(); d.write != writeRelease || !cmp.Equal(tt.before, d.lease.OwnerReferences) {
				t.Errorf("given up: %s with owners %v; want them left alone", say(d), d.lease.OwnerReferences)
			}
		})
	}
}

func TestTimingValidate(t *testing.T) {
	ms := time.Millisecond
	for _, tt := range []struct {
		timing Timing
		want   string // part of the error; empty for none
	}{
		{Timing{5000 * ms, 3000 * ms, 1000 * ms}, ""},
		{Timing{15000 * ms, 10000 * ms, 2000 * ms}, ""},
		{Timing{3000 * ms, 2000 * ms, 500 * ms}, ""},
		{Timing{}, "above zero"},
		{Timing{5000 * ms, 3000 * ms, -1}, "above zero"},
		{Timing{5500 * ms, 3000 * ms, 1000 * ms}, "whole seconds"},
		{Timing{9000 * ms, 2000 * ms, 2000 * ms}, "longer than retry period"},
		{Timing{4000 * ms, 3000 * ms, 1000 * ms}, "lease duration 4s must be longer than renew deadline 3s and retry period 1s together"},
		{Timing{5000 * ms, 4500 * ms, 100 * ms}, "1s more at least"},
	} {
		err := tt.timing.Validate()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %v, want %q", tt.timing, err, tt.want)
		}
	}
}

// Two instances under one name must not take each other's renewals for their own.
func TestNamesake(t *testing.T) {
	b := newBench()
	b.read(b.now, nil)
	b.decide()
	accepted(10, 0)(b)
	if d := b.decide(); d.verdict != granted {
		t.Fatalf("after our write: %s", say(d))
	}
	b.now = at(seconds(1))
	watched(record("node-1", 11, 0.9))(b) // renewed in our name, and not by us
	if d := b.decide(); d.verdict != revoked || d.write != writeNothing || !strings.Contains(d.why, "another instance") {
		t.Errorf("after a namesake's renewal: %s, because %q; want revoked and no write", say(d), d.why)
	}
	b.now = at(seconds(1) + 5*time.Second + expiryGrace)
	if d := b.decide(); d.verdict != revoked || d.write != writeUpdate {
		t.Errorf("after the namesake's Lease has expired: %s; want an update", say(d))
	}
	accepted(12, 0)(b)
	if d := b.decide(); d.verdict != granted {
		t.Errorf("after our write: %s", say(d))
	}

	// What an earlier life of this process wrote is ours, and stays so when a watch shows it again.
	b = newBench()
	for range 2 {
		watched(record("node-1", 10, 0))(b)
		if d := b.decide(); d.write != writeUpdate {
			t.Errorf("after a restart: %s; want an update", say(d))
		}
	}
}

// An unhealthy holder gives up only once it knows that the API takes writes: when etcd is away everybody is
// unhealthy, and the others' last word that they are well is worth nothing.
func TestUnhealthyHolderAsksTheAPI(t *testing.T) {
	b := newBench()
	b.read(b.now, nil)
	b.decide()
	accepted(10, 0)(b)
	otherSaid(0)(b)
	b.decide()
	b.now = at(seconds(0.5))
	b.fits(b.now, Unhealthy, "why")
	d := b.decide()
	if d.verdict != granted || d.write != writeUpdate {
		t.Fatalf("when it falls: %s; want an update at once, and no move yet", say(d))
	}
	failedWrite(b)
	if d := b.decide(); d.verdict != granted {
		t.Errorf("after the write failed: %s; want granted until the mandate ends", say(d))
	}
	b.now = at(seconds(1.5))
	b.decide()
	accepted(11, 0.1)(b)
	if d := b.decide(); d.verdict != revoked {
		t.Errorf("after the write was accepted: %s; want revoked", say(d))
	}
	addressesOff(b)
	if d := b.decide(); d.write != writeRelease {
		t.Errorf("after the addresses are off: %s; want release", say(d))
	}
}
