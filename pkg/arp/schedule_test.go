package arp

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEntryAdvance(t *testing.T) {
	const ms = time.Millisecond
	epoch := time.Unix(1000, 0)
	addr := netip.MustParseAddr("10.0.0.10")
	for _, test := range []struct {
		name string
		rate time.Duration
		// late is by how much each announcement is late.
		late []time.Duration
		want []time.Duration
	}{
		{
			name: "in time", rate: 3 * time.Second,
			late: []time.Duration{0, 0, 0, 0, 0},
			want: []time.Duration{20 * ms, 50 * ms, 100 * ms, 250 * ms, 500 * ms},
		},
		{
			name: "a little late, the times stay", rate: 3 * time.Second,
			late: []time.Duration{5 * ms, 5 * ms, 5 * ms},
			want: []time.Duration{20 * ms, 50 * ms, 100 * ms},
		},
		{
			name: "what was missed is left out", rate: 3 * time.Second,
			late: []time.Duration{0, 40 * ms, 0, 0},
			want: []time.Duration{20 * ms, 100 * ms, 250 * ms, 500 * ms},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := cadence{epoch: epoch, rate: test.rate}
			e := &entry{addr: addr}
			e.restart(epoch)
			var got []time.Duration
			for _, late := range test.late {
				e.advance(e.due.Add(late), c)
				got = append(got, e.due.Sub(epoch))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("due (-want +got)\n%s", diff)
			}
		})
	}
}

// Whatever the rate and however late it is, the next announcement is later than now and at most a rate away.
func TestEntryAdvanceWithinRate(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	epoch := time.Unix(1000, 0)
	for range 2000 {
		c := cadence{epoch: epoch, rate: time.Millisecond + time.Duration(random.Int64N(int64(10*time.Second)))}
		e := &entry{addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(256))})}
		now := epoch.Add(time.Duration(random.Int64N(int64(time.Hour))))
		e.restart(now)
		for range 20 {
			e.advance(now, c)
			if wait := e.due.Sub(now); wait <= 0 || wait > c.rate {
				t.Fatalf("rate %v, %v after the start: next in %v", c.rate, now.Sub(e.start), wait)
			}
			now = e.due.Add(time.Duration(random.Int64N(int64(c.rate))))
		}
	}
}

func TestCadenceSpreads(t *testing.T) {
	for _, test := range []struct {
		name string
		addr func(i int) netip.Addr
	}{
		{"a pool of IPv4", func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }},
		{"one in each /24", func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 10}) }},
		{"IPv6", func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := cadence{rate: 3 * time.Second}
			per := map[time.Duration]int{}
			for i := range 1024 {
				per[c.phase(test.addr(i))]++
			}
			for phase, n := range per {
				// 34 are the mean.
				if n > 70 || phase < 0 || phase >= c.rate {
					t.Errorf("%d of 1024 addresses at phase %v", n, phase)
				}
			}
		})
	}
}

func TestQueueOrder(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var q queue
	queued := map[*entry]bool{}
	for range 5000 {
		switch n := random.IntN(3); {
		case n == 0:
			e := &entry{at: -1, due: time.Unix(random.Int64N(1000), 0)}
			q.put(e)
			queued[e] = true
		default:
			for e := range queued {
				if n == 1 {
					e.due = time.Unix(random.Int64N(1000), 0)
					q.put(e)
				} else {
					q.drop(e)
					q.drop(e)
					delete(queued, e)
				}
				break
			}
		}
		if q.Len() != len(queued) {
			t.Fatalf("%d in the queue, want %d", q.Len(), len(queued))
		}
		for e := range queued {
			if q.next().due.After(e.due) {
				t.Fatalf("%v is next, but %v is earlier", q.next().due, e.due)
			}
		}
	}
}

func TestCadenceOfMany(t *testing.T) {
	for _, test := range []struct {
		vips int
		rate time.Duration
		want time.Duration
	}{
		{1, 3 * time.Second, 3 * time.Second},
		{150, 3 * time.Second, 3 * time.Second},
		{151, 3 * time.Second, 6 * time.Second},
		{1000, 3 * time.Second, 21 * time.Second},
		{10000, 3 * time.Second, 201 * time.Second},
		{500, 10 * time.Second, 10 * time.Second},
		{50, time.Second / 2, time.Second},
		{100, time.Millisecond, 100 * time.Millisecond}, // none fits
	} {
		c := cadence{rate: test.rate}.spread(test.vips)
		if got := c.interval(); got != test.want {
			t.Errorf("%d VIPs at a rate of %v are refreshed every %v, want %v", test.vips, test.rate, got, test.want)
		}
	}
}

// What has just moved here is refreshed at the rate, however many VIPs there are, and then more and more rarely.
func TestCadenceOfYoung(t *testing.T) {
	const rate = 3 * time.Second
	c := cadence{epoch: time.Unix(1000, 0), rate: rate}.spread(10000)
	for i := range 256 {
		e := &entry{addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}
		e.restart(time.Unix(5000, 0).Add(time.Duration(i) * time.Millisecond))
		var last time.Time
		for e.due.Sub(e.start) < time.Hour {
			last = e.due
			e.advance(e.due, c)
			age := last.Sub(e.start)
			if gap, most := e.due.Sub(last), min(201*time.Second, max(rate, age)); gap <= 0 || gap > most {
				t.Fatalf("%s, %v after it came, is refreshed after %v, want %v at most", e.addr, age, gap, most)
			}
		}
		if gap := e.due.Sub(last); gap != 201*time.Second {
			t.Errorf("%s is refreshed every %v in the end, want 3m21s", e.addr, gap)
		}
	}
}
