package ha

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestLead: whoever gets a Lease knows from whom, why, and for how long nobody had it.
func TestLead(t *testing.T) {
	type step struct {
		after float64 // seconds since the step before
		do    event
	}
	write := func(version int) event { // it asks for a write, which takes 20 ms
		return func(b *bench) {
			b.decide()
			b.now = b.now.Add(20 * time.Millisecond)
			accepted(version, .02)(b)
		}
	}
	emptied := record("", 20, 4)
	for _, tc := range []struct {
		name  string
		steps []step
		want  Lead
	}{
		{"the first holder ever", []step{{0, absentAt(10)}, {3, write(11)}}, Lead{Held: true, Why: Founded}},
		{"the holder gave it up", []step{{0, watched(record("node-2", 10, 0))}, {2, watched(emptied)}, {.02, write(21)}},
			Lead{Held: true, From: "node-2", Why: Released, Silent: 40 * time.Millisecond}},
		{"it is free since before we looked", []step{{0, watched(emptied)}, {1, write(21)}}, Lead{Held: true, Why: Released, Silent: 1020 * time.Millisecond}},
		{"the holder fell silent", []step{{0, watched(record("node-2", 10, 0))}, {2, watched(record("node-2", 11, 2))}, {5.25, write(12)}},
			Lead{Held: true, From: "node-2", Why: Expired, Silent: 5270 * time.Millisecond}},
		{"the watch is faster than the answer", []step{{0, watched(record("node-2", 10, 0))}, {5.25, func(b *bench) {
			b.decide()
			l := b.write.DeepCopy()
			l.ResourceVersion = "11"
			b.observe(b.now, l)
			b.now = b.now.Add(20 * time.Millisecond)
			accepted(11, .02)(b)
		}}}, Lead{Held: true, From: "node-2", Why: Expired, Silent: 5250 * time.Millisecond}},
		{"the Lease was deleted", []step{{0, watched(record("node-2", 10, 0))}, {1, deletedAt(11)}, {5, write(12)}},
			Lead{Held: true, From: "node-2", Why: Deleted, Silent: 6020 * time.Millisecond}},
		{"ours from an earlier life", []step{{0, watched(record("node-1", 10, 0))}, {1, write(11)}}, Lead{Held: true, From: "node-1", Why: Resumed}},
		{"a renewal changes nothing", []step{{0, watched(record("node-2", 10, 0))}, {5.25, write(11)}, {1, write(12)}, {1, write(13)}},
			Lead{Held: true, From: "node-2", Why: Expired, Silent: 5270 * time.Millisecond}},
		{"we could not renew in time", []step{{0, watched(record("node-2", 10, 0))}, {5.25, write(11)}, {4, func(b *bench) { b.decide() }}, {0, write(12)}},
			Lead{Held: true, From: "node-1", Why: Resumed, Silent: 4020 * time.Millisecond}},
		{"another had it meanwhile", []step{{0, absentAt(10)}, {0, write(11)}, {1, watched(record("node-2", 12, 1))}, {1, watched(record("node-3", 13, 2))},
			{.5, watched(emptied)}, {.01, write(21)}}, Lead{Held: true, From: "node-3", Why: Released, Silent: 30 * time.Millisecond}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench()
			for _, s := range tc.steps {
				b.now = b.now.Add(seconds(s.after))
				s.do(b)
			}
			if d := b.decide(); d.verdict != granted {
				t.Fatalf("it does not hold: %+v", d)
			}
			if diff := cmp.Diff(tc.want, b.lead); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
