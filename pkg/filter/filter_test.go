package filter

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"kube-vip.io/kube-vip/test/netns"
)

func TestSet(t *testing.T) {
	onEachNode(t, func(t *testing.T, n node) {
		f := New(Options{})
		n.start(t, f)
		for _, rules := range [][]Rule{
			some(),
			some(), // twice is the same as once
			{open("10.0.0.10", "80/tcp")},
			{open("10.0.0.10", "80/udp")},
			{open("10.0.0.10")},
			{open("fd00::10", "1/tcp", "65535/sctp")},
			{}, // and no table
			some(),
			nil,
		} {
			set(t, f, rules)
			wait(t, f)
			mustSee(t, n, rules)
		}
	})
}

// TestSetWithinMilliseconds is about the time of one comparison, not of a tick.
func TestSetWithinMilliseconds(t *testing.T) {
	onEachNode(t, func(t *testing.T, n node) {
		f := New(Options{})
		n.start(t, f)
		set(t, f, some())
		wait(t, f)
		begin := time.Now()
		set(t, f, []Rule{open("10.0.0.10", "81/tcp")})
		wait(t, f)
		if took := time.Since(begin); took > tick/2 {
			t.Errorf("it took %s", took)
		}
	})
}

func TestRepair(t *testing.T) {
	for _, m := range meddlings {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			onEachNode(t, func(t *testing.T, n node) {
				j := &journal{}
				f := New(Options{Log: j.logger()})
				n.start(t, f)
				set(t, f, some())
				wait(t, f)
				n.meddle(t, m)
				if difference(t, n, some()) == "" {
					t.Fatal("it changed nothing")
				}
				netns.Eventually(t, "repair", func() bool { return difference(t, n, some()) == "" })
				netns.Eventually(t, "a line of log", func() bool { return j.count("level=WARN", "somebody changed our nftables table") == 1 })
				// And the Filter goes on from there.
				set(t, f, []Rule{open("10.0.0.10", "81/tcp")})
				wait(t, f)
				mustSee(t, n, []Rule{open("10.0.0.10", "81/tcp")})
			})
		})
	}
}

// TestRepairAtOnce has the damage found by a Set that comes before the tick.
func TestRepairAtOnce(t *testing.T) {
	for _, m := range meddlings {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			onEachNode(t, func(t *testing.T, n node) {
				f := New(Options{})
				n.start(t, f)
				set(t, f, some())
				wait(t, f)
				n.meddle(t, m)
				set(t, f, some()[:2])
				wait(t, f)
				netns.Eventually(t, "repair", func() bool { return difference(t, n, some()[:2]) == "" })
			})
		})
	}
}

func TestLeftover(t *testing.T) {
	for _, c := range []struct {
		name string
		set  []Rule
	}{
		{"nothing is wanted", nil},
		{"something is wanted", some()},
	} {
		t.Run(c.name, func(t *testing.T) {
			onEachNode(t, func(t *testing.T, n node) {
				n.meddle(t, leftTable)
				f := New(Options{})
				set(t, f, c.set)
				n.start(t, f)
				netns.Eventually(t, "no leftover", func() bool { return difference(t, n, c.set) == "" })
			})
		})
	}
}

// TestLeftoverOfOurs is a table just as ours would be, but for its elements.
func TestLeftoverOfOurs(t *testing.T) {
	onEachNode(t, func(t *testing.T, n node) {
		left, _ := merge([]Rule{open("10.0.0.99", "22/tcp")})
		if err := n.apply(plan(nil, left, false)); err != nil {
			t.Fatal(err)
		}
		f := New(Options{})
		set(t, f, some())
		n.start(t, f)
		wait(t, f)
		mustSee(t, n, some())
	})
}

// TestLeftoverUntilSet: who was killed and started again does not know at once what to guard. What an earlier life left
// filters until it does, and is not left for ever when it never does.
func TestLeftoverUntilSet(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(t *testing.T, f *Filter)
		want []Rule
	}{
		{"rules", func(t *testing.T, f *Filter) { set(t, f, some()) }, some()},
		{"no rules", func(t *testing.T, f *Filter) { set(t, f, nil) }, nil},
		{"nothing was said", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			onEachNode(t, func(t *testing.T, n node) {
				left := []Rule{open("10.0.0.99", "22/tcp")}
				before, _ := merge(left)
				if err := n.apply(plan(nil, before, false)); err != nil {
					t.Fatal(err)
				}
				f := New(Options{})
				stop := n.start(t, f)
				time.Sleep(3 * tick) // it is to do nothing, however often it looks
				mustSee(t, n, left)
				if c.set != nil {
					c.set(t, f)
					wait(t, f)
					mustSee(t, n, c.want)
				}
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				mustSee(t, n, nil)
			})
		})
	}
}

// TestTableComesBack is what restoring a saved ruleset does while nothing is wanted.
func TestTableComesBack(t *testing.T) {
	onEachNode(t, func(t *testing.T, n node) {
		f := New(Options{})
		n.start(t, f)
		set(t, f, nil)
		wait(t, f)
		n.meddle(t, leftTable)
		netns.Eventually(t, "no table", func() bool { return difference(t, n, nil) == "" })
	})
}

func TestStop(t *testing.T) {
	onEachNode(t, func(t *testing.T, n node) {
		n.meddle(t, otherTable)
		f := New(Options{})
		stop := n.start(t, f)
		set(t, f, some())
		wait(t, f)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		mustSee(t, n, nil)
		set(t, f, some())
		if err := f.Wait(t.Context()); err == nil {
			t.Error("Wait does not say that nothing runs any more")
		}
		mustSee(t, n, nil)
		if r, real := n.(realNode); real {
			if got := r.nft(t, "list tables"); got != "table inet other\n" {
				t.Errorf("left after the stop: %q", got)
			}
		}
	})
}

// TestStopWithoutTable: whoever removed it before us did our work.
func TestStopWithoutTable(t *testing.T) {
	onEachNode(t, func(t *testing.T, n node) {
		f := New(Options{})
		stop := n.start(t, f)
		set(t, f, some())
		wait(t, f)
		n.meddle(t, flushRuleset)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestOthersTransactions: a ruleset that somebody changes all the time is no reason to write.
func TestOthersTransactions(t *testing.T) {
	onEachNode(t, func(t *testing.T, n node) {
		j := &journal{}
		f := New(Options{Log: j.logger()})
		n.start(t, f)
		set(t, f, some())
		wait(t, f)
		for i := range 20 {
			m := otherTable
			m.nft += fmt.Sprint(i)
			n.meddle(t, m)
			rules := append(some(), open(fmt.Sprintf("10.0.1.%d", i), "80/tcp"))
			set(t, f, rules)
			wait(t, f)
			mustSee(t, n, rules)
		}
		if j.count("somebody changed") != 0 || j.count("anew=true") != 1 {
			t.Errorf("others' transactions were taken for repairs:\n%s", j.lines)
		}
	})
}

func TestBadRules(t *testing.T) {
	onEachNode(t, func(t *testing.T, n node) {
		f := New(Options{})
		n.start(t, f)
		err := f.Set(append(some(), Rule{}, open("224.0.0.1", "80/tcp")))
		if err == nil {
			t.Error("no error")
		}
		wait(t, f)
		mustSee(t, n, some())
	})
}

// TestFails is about what is told and how often it is tried.
func TestFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, j := newFake(), &journal{}
		f := New(Options{Log: j.logger()})
		n.fail(unix.EPERM, nil)
		set(t, f, nil)
		n.start(t, f)
		synctest.Wait()
		if j.count("level=WARN") != 0 {
			t.Errorf("a Filter without Rules complains: %s", j.lines)
		}
		set(t, f, some())
		if err := f.Wait(t.Context()); !errors.Is(err, unix.EPERM) {
			t.Errorf("Wait: %v, want EPERM", err)
		}
		time.Sleep(time.Hour)
		if got := j.count("level=WARN"); got != 1 {
			t.Errorf("%d warnings in an hour of the same error, want 1", got)
		}
		n.fail(nil, unix.ENOENT)
		time.Sleep(time.Minute)
		if got := j.count("level=WARN"); got != 2 {
			t.Errorf("%d warnings of two errors", got)
		}
		n.mu.Lock()
		before := n.tries
		n.mu.Unlock()
		time.Sleep(time.Hour)
		n.mu.Lock()
		tries := n.tries - before
		n.mu.Unlock()
		if want := int(time.Hour / slowest); tries < want-1 || tries > want+1 {
			t.Errorf("%d tries in an hour, want about %d", tries, want)
		}
		n.fail(nil, nil)
		time.Sleep(slowest + tick)
		mustSee(t, n, some())
		if j.count("up to date again") != 1 {
			t.Errorf("the end of the trouble is not told: %s", j.lines)
		}
		// The next failure begins with short pauses again.
		n.meddle(t, flushRuleset)
		n.fail(nil, unix.EBUSY)
		time.Sleep(tick * 3 / 2)
		n.fail(nil, nil)
		time.Sleep(tick * 5 / 2) // two may have failed meanwhile
		mustSee(t, n, some())
	})
}

// TestStopFails has the kernel refuse to remove the table.
func TestStopFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		f := New(Options{})
		stop := n.start(t, f)
		set(t, f, some())
		wait(t, f)
		n.fail(nil, unix.EBUSY)
		if err := stop(); !errors.Is(err, unix.EBUSY) {
			t.Errorf("Run: %v, want EBUSY", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		f := New(Options{})
		n.fail(unix.EPERM, nil)
		stop := n.start(t, f)
		time.Sleep(time.Second)
		if err := stop(); err != nil {
			t.Errorf("Run, where nothing could ever be there by us: %v", err)
		}
	})
}

func TestWaitEnds(t *testing.T) {
	f := New(Options{})
	set(t, f, some())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait without Run: %v", err)
	}
}

// TestReadsSeldom: kube-proxy may change the ruleset every second, and elements take time to read.
func TestReadsSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.slow = 200 * time.Millisecond
		f := New(Options{})
		n.start(t, f)
		set(t, f, some())
		wait(t, f)
		const long = 10 * time.Minute
		for end := time.Now().Add(long); time.Now().Before(end); {
			n.meddle(t, otherTable)
			time.Sleep(tick)
		}
		n.mu.Lock()
		looks, reads := n.looks, n.reads
		n.mu.Unlock()
		if limit := int(long / share / n.slow); reads > limit+1 || reads < limit*3/4 {
			t.Errorf("the elements were read %d times in %s, want about %d", reads, long, limit)
		}
		if want := int(long / tick * 7 / 10); looks < want {
			t.Errorf("the table was looked at %d times in %s of changes every second", looks, long)
		}
		// An element that is missing is found nevertheless.
		n.meddle(t, meddlings[2])
		time.Sleep(2 * share * n.slow)
		mustSee(t, n, some())
	})
}

// TestIdle: without changes the elements are not read at all.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		f := New(Options{})
		n.start(t, f)
		set(t, f, some())
		wait(t, f)
		time.Sleep(time.Hour)
		for range 10 {
			set(t, f, some())
			wait(t, f)
			set(t, f, some()[:1])
			wait(t, f)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.looks != 1 || n.reads != 0 {
			t.Errorf("looked %d times, of that %d at elements, want 1 and 0", n.looks, n.reads)
		}
	})
}

// TestQuarrel: two that fight about the table fill no log.
func TestQuarrel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, j := newFake(), &journal{}
		f := New(Options{Log: j.logger()})
		n.start(t, f)
		set(t, f, some())
		wait(t, f)
		for range 10 * 60 {
			n.meddle(t, flushRuleset)
			time.Sleep(tick)
		}
		if got := j.count("level=WARN"); got < 9 || got > 11 {
			t.Errorf("%d warnings in ten minutes of quarrel, want about 10", got)
		}
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, r := newFake(), prometheus.NewRegistry()
		f := New(Options{Registerer: r})
		stop := n.start(t, f)
		read := func() (values []float64) {
			t.Helper()
			families, err := r.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, family := range families { // in the order of their names
				for _, m := range family.GetMetric() {
					values = append(values, m.GetGauge().GetValue()+m.GetCounter().GetValue())
				}
			}
			return values
		}
		want := func(addresses, repairs, upToDate float64) {
			t.Helper()
			if got := read(); !slices.Equal(got, []float64{addresses, repairs, upToDate}) {
				t.Errorf("addresses, repairs, up to date: %v, want %v %v %v", got, addresses, repairs, upToDate)
			}
		}
		want(0, 0, 0)
		set(t, f, some())
		wait(t, f)
		want(3, 0, 1)
		n.fail(nil, unix.EPERM)
		set(t, f, nil)
		if err := f.Wait(t.Context()); !errors.Is(err, unix.EPERM) {
			t.Errorf("Wait: %v, want EPERM", err)
		}
		want(3, 0, 0) // they are still filtered
		n.fail(nil, nil)
		set(t, f, some())
		wait(t, f)
		want(3, 0, 1)
		n.meddle(t, flushRuleset)
		time.Sleep(2 * tick)
		want(3, 1, 1)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		want(0, 1, 1)
	})
}

// TestTwoFilters: two of them, with names of their own, do not disturb each other.
func TestTwoFilters(t *testing.T) {
	t.Parallel()
	n := newReal(t)
	a, b := New(Options{}), New(Options{Table: "other"})
	n.start(t, a)
	stop := n.start(t, b)
	set(t, a, some())
	set(t, b, some()[1:])
	wait(t, a)
	wait(t, b)
	mustSee(t, n, some())
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	mustSee(t, n, some())
}

// TestUnprivileged runs without CAP_NET_ADMIN on a kernel that has everything.
func TestUnprivileged(t *testing.T) {
	t.Parallel()
	n, j := newReal(t), &journal{}
	f := New(Options{Log: j.logger()})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	n.Go(func() {
		// Of this thread only, which ends with it.
		var none [2]unix.CapUserData // 64 bits, of 32 each
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
			result <- err
			return
		}
		result <- f.Run(ctx)
	})
	set(t, f, some())
	err := f.Wait(t.Context())
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("Wait: %v, want EPERM", err)
	}
	if got, want := fmt.Sprint(err), "read the generation of nftables: operation not permitted: the capability CAP_NET_ADMIN is needed"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	cancel()
	if err := <-result; err != nil {
		t.Errorf("Run: %v", err)
	}
	if j.count("level=WARN", "CAP_NET_ADMIN") != 1 {
		t.Errorf("log: %s", j.lines)
	}
}

func TestExplain(t *testing.T) {
	for err, want := range map[error]string{
		unix.EPERM:           "operation not permitted: the capability CAP_NET_ADMIN is needed",
		unix.EINVAL:          "invalid argument: does this kernel have nf_tables? load the module nf_tables",
		unix.EPROTONOSUPPORT: "protocol not supported: does this kernel have nf_tables? load the module nf_tables",
		unix.EBUSY:           "device or resource busy",
	} {
		if got := explain(err); got.Error() != want || !errors.Is(got, err) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestMany is 10 000 addresses with three ports each, in one transaction, and changes of all sizes after it.
func TestMany(t *testing.T) {
	t.Parallel()
	n := newReal(t)
	f := New(Options{})
	n.start(t, f)
	rules := many(10_000)
	for _, change := range []func(){
		func() {},
		func() { rules = append(rules, open("192.0.2.1", "80/tcp", "443/tcp", "53/udp")) },
		func() { rules = rules[:len(rules)-1] },
		func() { rules[77].Ports = rules[77].Ports[:2] },
		func() { // other ports for every address
			for i := range rules {
				rules[i].Ports = []Port{{TCP, 1}, {UDP, 2}, {SCTP, 3}}
			}
		},
		func() { rules = rules[:100] },
	} {
		change()
		set(t, f, rules)
		wait(t, f)
		mustSee(t, n, rules)
	}
}

// TestManySix is as many bytes as 10 000 addresses can take.
func TestManySix(t *testing.T) {
	t.Parallel()
	n := newReal(t)
	f := New(Options{})
	n.start(t, f)
	rules := many(10_000)
	for i := range rules {
		if rules[i].Addr.Is4() {
			b := rules[i].Addr.As4()
			rules[i].Addr = netip.AddrFrom16([16]byte{0: 0xfd, 1: 1, 12: b[0], 13: b[1], 14: b[2], 15: b[3]})
		}
	}
	set(t, f, rules)
	wait(t, f)
	mustSee(t, n, rules)
}

// TestManyRefused: why the kernel refuses a large transaction is told, however many parts of it it refuses.
func TestManyRefused(t *testing.T) {
	t.Parallel()
	n := newReal(t)
	g, _ := merge(many(10_000))
	c := plan(nil, g, false)
	c.rebuild = false
	err := n.apply(c)
	if got, want := fmt.Sprint(err), "write table inet kube-vip: no such file or directory"; got != want || !errors.Is(err, unix.ENOENT) {
		t.Errorf("elements for a table that is not there: %s, want %s", got, want)
	}
	mustSee(t, n, nil)
}

// many are Rules for that many addresses, every second one of IPv6, with three ports each.
func many(count int) (rules []Rule) {
	for i := range count {
		addr := netip.AddrFrom4([4]byte{10, 7, byte(i >> 8), byte(i)})
		if i%2 == 1 {
			addr = netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)})
		}
		rules = append(rules, Rule{addr, []Port{{TCP, 80}, {TCP, 443}, {UDP, uint16(i%65535 + 1)}}})
	}
	return rules
}
