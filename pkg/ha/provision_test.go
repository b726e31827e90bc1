package ha

import (
	"errors"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestProvision: what a node does whose API server is well and gives it no rights.
func TestProvision(t *testing.T) {
	leases := schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}
	once := func(b *bench) { b.called(b.now, apierrors.NewForbidden(leases, "lock", nil)); b.failed(b.now, false) }
	denied := func(b *bench) { // for long enough
		once(b)
		b.prov.since = b.now.Add(-provisionAfter)
	}
	unauthorized := func(b *bench) { b.called(b.now, apierrors.NewUnauthorized("who are you")); b.failed(b.now, false) }
	broken := func(b *bench) {
		b.called(b.now, apierrors.NewInternalError(errors.New("no store")))
		b.failed(b.now, false)
	}
	asks := func(alone bool) event { return func(b *bench) { b.probed(b.now, alone, 600*time.Millisecond) } }
	retry := func(b *bench) { b.retry = time.Time{} } // when a call is made is told of elsewhere
	contested := func(b *bench) { b.contested() }
	type step struct {
		at   float64 // seconds
		do   event
		want string
	}
	begin := []step{
		{0, all(denied, retry), "undecided, probe, read"},
		{0.3, asks(true), "granted until 2.3s, provisionally, read, wake 800ms"},
	}
	for name, steps := range map[string][]step{
		"no rights, and nobody on the wire": {
			{0, nothing, "undecided, read"},
			{0.1, all(denied, retry), "undecided, probe, read"},
			{0.2, all(unauthorized, retry), "undecided, probe, read"},
			{0.3, asks(true), "granted until 2.3s, provisionally, read, wake 800ms"},
			{0.7, nothing, "granted until 2.3s, provisionally, read, wake 800ms"},
			{0.8, nothing, "granted until 2.8s, provisionally, read, wake 1.3s"},
			{60, nothing, "revoked, probe, read"}, // the process was stopped all the while
		},
		"an API server that has just started": {
			{0, all(once, retry), "undecided, read, wake 2s"},
			{1, all(once, retry), "undecided, read, wake 2s"},
			{1.9, reads(nil), "revoked, create"},
		},
		"an API server that gives none for a while": {
			{0, all(once, retry), "undecided, read, wake 2s"},
			{1, all(broken, retry), "undecided, read"},
			{1.5, all(once, retry), "undecided, read, wake 3.5s"},
			{3.5, nothing, "undecided, probe, read"},
		},
		"the Lease is contested before it is written": append(begin[:2:2],
			step{1, reads(nil), "granted until 2.3s, provisionally, create, wake 2.3s"},
			step{1.1, contested, "revoked, create"},
		),
		"somebody on the wire": {
			{0, all(denied, retry), "undecided, probe, read"},
			{0.3, asks(false), "undecided, read, wake 900ms"},
			{0.9, nothing, "undecided, probe, read"},
			{1.2, asks(true), "granted until 3.2s, provisionally, read, wake 1.7s"},
		},
		"somebody on the wire has the first right to the Lease": {
			{0, all(denied, retry), "undecided, probe, read"},
			{0.3, asks(false), "undecided, read, wake 900ms"},
			{0.5, reads(nil), "revoked, wake 3.5s"},
			{3.5, nothing, "revoked, create"},
		},
		"somebody was on the wire long ago": {
			{0, all(denied, retry), "undecided, probe, read"},
			{0.3, asks(false), "undecided, read, wake 900ms"},
			{10, reads(nil), "revoked, create"},
		},
		"the API does not answer": {
			{0, all(failedRead, retry), "undecided, read"},
			{0.1, all(denied, retry), "undecided, probe, read"},
			{0.2, all(broken, retry), "undecided, read"},
		},
		"not healthy": {
			{0, all(is(Unhealthy), denied, retry), "undecided, read"},
			{1, is(Healthy), "undecided, probe, read"},
		},
		"its health is not known": {{0, all(waitsForHealth, denied, retry), "undecided, read"}},
		"there is no Lease": append(begin[:2:2],
			step{1, reads(nil), "granted until 2.3s, provisionally, create, wake 2.3s"},
			step{1.1, accepted(10, 0.1), "granted until 4s, wake 2s"},
		),
		"the Lease is another's": append(begin[:2:2], step{1, reads(record("node-2", 9, 0)), "revoked, wake 6.25s"}),
		"the Lease is ours": append(begin[:2:2],
			step{1, reads(record("node-1", 9, 0)), "granted until 2.3s, provisionally, update, wake 2.3s"},
			step{1.1, accepted(10, 0.1), "granted until 4s, wake 2s"},
		),
		"a watch shows the Lease": append(begin[:2:2], step{1, watched(record("node-2", 9, 0)), "revoked, wake 6.25s"}),
		"the API is away for a moment": append(begin[:2:2],
			step{1, all(broken, retry), "granted until 2.3s, provisionally, read, wake 800ms"},
			step{2, all(denied, retry), "granted until 4s, provisionally, read, wake 2.5s"},
		),
		"the API is away for longer": append(begin[:2:2],
			step{1, all(broken, retry), "granted until 2.3s, provisionally, read, wake 800ms"},
			step{2.3, nothing, "revoked, read"},
			step{2.5, all(denied, retry), "revoked, probe, read"},
			step{2.8, asks(true), "granted until 4.8s, provisionally, read, wake 3.3s"},
		),
		"the API server falls ill": append(begin[:2:2], step{1, is(Unhealthy), "revoked, read"}),
		"somebody else has it":     append(begin[:2:2], step{1, contested, "revoked, probe, read"}),
		"the process ends": append(begin[:2:2],
			step{1, stop, "revoked"},
			step{1.1, addressesOff, "revoked, abort, done"},
		),
		"an answer that comes late": append(begin[:1:1],
			step{0.2, reads(record("node-2", 9, 0)), "revoked, wake 5.45s"},
			step{0.3, asks(true), "revoked, wake 5.45s"},
		),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench()
			b.prov.on = true
			for _, s := range steps {
				b.now = at(seconds(s.at))
				s.do(b)
				if got := say(b.decide()); got != s.want {
					t.Fatalf("at %vs: %s, want %s", s.at, got, s.want)
				}
			}
		})
	}
	b := newBench()
	denied(b)
	retry(b)
	if got := say(b.decide()); got != "undecided, read" {
		t.Errorf("one that may not: %s", got)
	}
}
