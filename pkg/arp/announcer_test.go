package arp

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"kube-vip.io/kube-vip/pkg/vip"
	"kube-vip.io/kube-vip/test/netns"
)

// times is when an address was heard in a form, counted from a moment.
func times(heard []sighting, addr, form string, from time.Time) []time.Duration {
	var all []time.Duration
	for _, s := range heard {
		if s.addr == netip.MustParseAddr(addr) && s.form == form {
			all = append(all, s.at.Sub(from))
		}
	}
	return all
}

func TestBurstThenRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ms, rate = time.Millisecond, 2 * time.Second
		f := newFake()
		f.addLink(t, "eth0", macA())
		f.addAddr(t, "eth0", netip.MustParseAddr("fe80::a"))
		registry := prometheus.NewRegistry()
		a := start(t, f, Options{Rate: rate, Registerer: registry})
		time.Sleep(time.Minute) // at rest, with nothing to announce

		began := time.Now()
		mustSync(t, a, vips("eth0", "10.0.0.10", "2001:db8::10"))
		time.Sleep(20 * time.Second)
		synctest.Wait()
		heard := drain(f)

		requests := times(heard, "10.0.0.10", "request", began)
		if diff := cmp.Diff(requests, times(heard, "10.0.0.10", "reply", began)); diff != "" {
			t.Errorf("not both forms each time (-requests +replies)\n%s", diff)
		}
		for _, got := range [][]time.Duration{requests, times(heard, "2001:db8::10", "advertisement", began)} {
			if len(got) < 6 {
				t.Fatalf("announced at %v", got)
			}
			if diff := cmp.Diff([]time.Duration{0, 20 * ms, 50 * ms, 100 * ms, 250 * ms, 500 * ms}, got[:6]); diff != "" {
				t.Errorf("burst (-want +got)\n%s", diff)
			}
			if gap := got[6] - got[5]; gap > rate {
				t.Errorf("first refresh %v after the burst, want at most %v", gap, rate)
			}
			for i := 7; i < len(got); i++ {
				if gap := got[i] - got[i-1]; gap != rate {
					t.Errorf("refreshed after %v, want %v", gap, rate)
				}
			}
			if last := got[len(got)-1]; last < 18*time.Second {
				t.Errorf("last refresh at %v of 20s", last)
			}
		}
		want := map[string]float64{
			"sent ipv4 eth0":   float64(len(requests)),
			"failed ipv4 eth0": 0,
			"sent ipv6 eth0":   float64(len(heard) - 2*len(requests)),
			"failed ipv6 eth0": 0,
		}
		if diff := cmp.Diff(want, counters(t, registry)); diff != "" {
			t.Errorf("metrics (-want +got)\n%s", diff)
		}
	})
}

// However many VIPs there are, so many are refreshed in a second; and one that is new does not wait for them.
func TestManyArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ms = time.Millisecond
		f := newFake()
		f.addLink(t, "eth0", macA())
		a := start(t, f, Options{})
		var all []string
		for i := range 2000 {
			all = append(all, fmt.Sprintf("10.1.%d.%d", i>>8, i&255))
		}
		mustSync(t, a, vips("eth0", all...))
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		drain(f)

		began := time.Now()
		mustSync(t, a, vips("eth0", append(all, "10.0.0.10")...))
		time.Sleep(time.Minute)
		synctest.Wait()
		requests, announced := 0, map[netip.Addr]bool{}
		var late []time.Duration
		for _, s := range drain(f) {
			if s.form != "request" {
				continue
			}
			requests++
			announced[s.addr] = true
			if s.addr == netip.MustParseAddr("10.0.0.10") {
				late = append(late, s.at.Sub(began))
			}
		}
		if requests < 55*perSecond || requests > 61*perSecond {
			t.Errorf("%d announcements of 2001 VIPs in a minute, want about %d", requests, 60*perSecond)
		}
		if len(announced) != 2001 {
			t.Errorf("%d of 2001 VIPs were announced in a minute", len(announced))
		}
		if len(late) < 8 || cmp.Diff([]time.Duration{0, 20 * ms, 50 * ms, 100 * ms, 250 * ms, 500 * ms}, late[:6]) != "" {
			t.Errorf("the new one was announced at %v", late)
		}
	})
}

func TestSyncAgainChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.addLink(t, "eth0", macA())
		a := start(t, f, Options{})
		present := vips("eth0", "10.0.0.10")
		// The same address with another prefix length is the same to neighbours.
		present = append(present, present[0])
		present[1].Prefix = netip.MustParsePrefix("10.0.0.10/24")
		began := time.Now()
		for range 100 {
			mustSync(t, a, present)
			time.Sleep(10 * time.Millisecond)
		}
		synctest.Wait()
		if got := times(drain(f), "10.0.0.10", "request", began); len(got) != 6 {
			t.Errorf("announced at %v, want the burst alone", got)
		}
	})
}

func TestSyncBeforeRunIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.addLink(t, "eth0", macA())
		a := New(Options{Wire: f})
		mustSync(t, a, vips("eth0", "10.0.0.10", "10.0.0.11"))
		mustSync(t, a, vips("eth0", "10.0.0.10"))
		time.Sleep(time.Minute)
		if heard := drain(f); len(heard) > 0 {
			t.Fatalf("announced before Run: %v", heard)
		}
		began := time.Now()
		stop := f.run(t, a)
		time.Sleep(time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		heard := drain(f)
		if got := times(heard, "10.0.0.10", "reply", began); len(got) < 6 || got[0] != 0 {
			t.Errorf("announced at %v, want the burst", got)
		}
		if got := times(heard, "10.0.0.11", "reply", began); len(got) > 0 {
			t.Errorf("announced at %v what was taken out before Run", got)
		}
	})
}

// Run leaves nothing behind, can be had once at a time, and again.
func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.addLink(t, "eth0", macA())
		a := New(Options{Wire: f})
		for range 2 {
			stop := f.run(t, a)
			mustSync(t, a, vips("eth0", "10.0.0.10"))
			synctest.Wait()
			if heard := drain(f); len(heard) != 2 {
				t.Fatalf("heard %v, want the first announcement", heard)
			}
			if err := a.Run(t.Context()); err == nil {
				t.Error("ran twice at once")
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if n := f.openPorts(); n != 0 {
				t.Errorf("%d ports are still open", n)
			}
			mustSync(t, a, vips("eth0", "10.0.0.10", "10.0.0.11"))
			time.Sleep(time.Minute)
			if heard := drain(f); len(heard) > 0 {
				t.Fatalf("announced after Run returned: %v", heard)
			}
			mustSync(t, a, nil)
		}
	})
}

func TestSyncRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.addLink(t, "eth0", macA())
		a := start(t, f, Options{})
		present := vips("eth0", "10.0.0.10", "224.0.0.18", "127.0.0.2", "::")
		present = append(present, vips("lo", "10.0.0.11")...)
		present = append(present, vips("", "10.0.0.12")...)
		present = append(present, vip.VIP{Via: "eth0"})
		err := a.Sync(present)
		want := []string{
			"announce 224.0.0.18: not the address of a host on a network",
			"announce 127.0.0.2: not the address of a host on a network",
			"announce ::: not the address of a host on a network",
			"announce 10.0.0.11 by lo: a loopback has no neighbours; name the interface that faces the network",
			"announce 10.0.0.12: no interface to announce it by",
			"announce invalid IP: not the address of a host on a network",
		}
		if diff := cmp.Diff(strings.Join(want, "\n"), fmt.Sprint(err)); diff != "" {
			t.Errorf("error (-want +got)\n%s", diff)
		}
		synctest.Wait()
		for _, s := range drain(f) {
			if s.addr != netip.MustParseAddr("10.0.0.10") {
				t.Errorf("announced %s", s.addr)
			}
		}
	})
}

// An IPv4 address is one, however it is written; and an IPv6 address of any scope is announced.
func TestAddressForms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.addLink(t, "eth0", macA())
		f.addAddr(t, "eth0", netip.MustParseAddr("fe80::a"))
		a := start(t, f, Options{})
		mustSync(t, a, vips("eth0", "::ffff:10.0.0.10", "fe80::10%eth0", "fd00::10"))
		awaitForm(t, f, "10.0.0.10", macA(), "request")
		mustSync(t, a, vips("eth0", "fe80::10%eth0"))
		awaitForm(t, f, "fe80::10", macA(), "advertisement")
		mustSync(t, a, vips("eth0", "fd00::10"))
		awaitForm(t, f, "fd00::10", macA(), "advertisement")
	})
}

// A link by which nothing is announced any more is given back.
func TestUnusedLinkIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.addLink(t, "eth0", macA())
		f.addLink(t, "eth1", macB())
		a := start(t, f, Options{})
		for _, step := range []struct {
			present []vip.VIP
			want    int
		}{
			{vips("eth0", "10.0.0.10"), 1},
			{append(vips("eth0", "10.0.0.10"), vips("eth1", "10.0.0.10", "10.0.0.11")...), 2},
			{vips("eth1", "10.0.0.10"), 1},
			{nil, 0},
		} {
			mustSync(t, a, step.present)
			synctest.Wait()
			if got := f.openPorts(); got != step.want {
				t.Errorf("%d ports open for %v, want %d", got, step.present, step.want)
			}
		}
	})
}

// A VIP that leaves is announced no more, though another one on the same link still is.
func TestRemovalStops(t *testing.T) {
	onEachSegment(t, func(t *testing.T, s segment) {
		s.addLink(t, "eth0", macA())
		a := start(t, s, Options{Rate: 10 * time.Millisecond})
		for range 20 {
			mustSync(t, a, vips("eth0", "10.0.0.10", "10.0.0.11"))
			awaitForm(t, s, "10.0.0.10", macA(), "reply")
			mustSync(t, a, vips("eth0", "10.0.0.11", "10.0.0.12"))
			// The wire keeps the order: what is heard after the newcomer was sent after Sync.
			awaitForm(t, s, "10.0.0.12", macA(), "reply")
			for range 10 {
				await(t, s, "anything", func(got sighting) bool {
					if got.addr == netip.MustParseAddr("10.0.0.10") {
						t.Fatalf("announced after Sync took it out: %+v", got)
					}
					return true
				})
			}
		}
	})
}

// Sync and Run in real concurrency: whoever takes a VIP out finds it silent, at once.
func TestRemovalIsStrict(t *testing.T) {
	f := newFake()
	f.addLink(t, "eth0", macA())
	var mu sync.Mutex
	forbidden := map[netip.Addr]bool{}
	f.intercept(func(s sighting) error {
		mu.Lock()
		defer mu.Unlock()
		if forbidden[s.addr] {
			t.Errorf("announced %s after Sync took it out", s.addr)
		}
		return nil
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range f.sightings {
		}
	}()
	a := New(Options{Wire: f, Rate: time.Millisecond})
	stop := f.run(t, a)
	defer func() {
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		close(f.sightings)
		<-done
	}()

	var addrs []string
	for i := range 100 {
		addrs = append(addrs, fmt.Sprintf("10.0.0.%d", i))
	}
	for round := range 2000 {
		n := round % len(addrs)
		mu.Lock()
		clear(forbidden)
		mu.Unlock()
		mustSync(t, a, vips("eth0", addrs...))
		mustSync(t, a, vips("eth0", addrs[:n]...))
		mu.Lock()
		for _, addr := range addrs[n:] {
			forbidden[netip.MustParseAddr(addr)] = true
		}
		mu.Unlock()
	}
}

// Whatever happens to a link, its VIPs are announced again as soon as it is there, long before they would be
// refreshed and without another Sync.
func TestLinkChanges(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(t *testing.T, s segment)
		want   MAC
	}{
		{"deleted and made again", func(t *testing.T, s segment) {
			s.delLink(t, "eth0")
			s.addLink(t, "eth0", macB())
			s.addAddr(t, "eth0", netip.MustParseAddr("fe80::b"))
		}, macB()},
		{"another hardware address", func(t *testing.T, s segment) { s.setMAC(t, "eth0", macB()) }, macB()},
	} {
		t.Run(test.name, func(t *testing.T) {
			onEachSegment(t, func(t *testing.T, s segment) {
				s.addLink(t, "eth0", macA())
				s.addAddr(t, "eth0", netip.MustParseAddr("fe80::a"))
				a := start(t, s, Options{Rate: time.Hour})
				mustSync(t, a, vips("eth0", "10.0.0.10", "2001:db8::10"))
				awaitForm(t, s, "10.0.0.10", macA(), "reply")
				awaitForm(t, s, "2001:db8::10", macA(), "advertisement")
				test.change(t, s)
				began := time.Now()
				awaitForm(t, s, "10.0.0.10", test.want, "reply")
				// It looks once in a second; on a busy machine it is late.
				if took := time.Since(began); took > 10*watch {
					t.Errorf("announced %v after the change, want within a second or so", took)
				}
				awaitForm(t, s, "2001:db8::10", test.want, "advertisement")
			})
		})
	}
}

// A link that goes down and comes back begins the burst anew, and is reported once each way.
func TestLinkDownAndUp(t *testing.T) {
	onEachSegment(t, func(t *testing.T, s segment) {
		s.addLink(t, "eth0", macA())
		log, registry := newJournal(), prometheus.NewRegistry()
		a := start(t, s, Options{Rate: 50 * time.Millisecond, Log: slog.New(log), Registerer: registry})
		mustSync(t, a, vips("eth0", "10.0.0.10"))
		awaitForm(t, s, "10.0.0.10", macA(), "reply")
		s.setUp(t, "eth0", false)
		netns.Eventually(t, "20 failures", func() bool { return counters(t, registry)["failed ipv4 eth0"] >= 20 })
		drain(s)
		s.setUp(t, "eth0", true)
		awaitForm(t, s, "10.0.0.10", macA(), "reply")
		netns.Eventually(t, "log line", func() bool { return len(log.with("announcing on the link again")) > 0 })
		for range 20 { // at least as many as there are between two looks at the link
			awaitForm(t, s, "10.0.0.10", macA(), "reply")
		}

		want := []string{"WARN nothing is announced on the link link=eth0 err=look at link eth0: it is down"}
		if diff := cmp.Diff(want, log.with("link=eth0 err=look")); diff != "" {
			t.Errorf("log (-want +got)\n%s", diff)
		}
		want = []string{"INFO announcing on the link again link=eth0 mac=" + macA().String()}
		if diff := cmp.Diff(want, log.with("announcing on the link again")); diff != "" {
			t.Errorf("log (-want +got)\n%s", diff)
		}
	})
}

// Without a link-local address there is nothing to send a Neighbor Advertisement from: it is said once, and
// made good when there is one. IPv4 goes on.
func TestNoLinkLocalAddress(t *testing.T) {
	onEachSegment(t, func(t *testing.T, s segment) {
		s.addLink(t, "eth0", macA())
		log, registry := newJournal(), prometheus.NewRegistry()
		a := start(t, s, Options{Rate: time.Hour, Log: slog.New(log), Registerer: registry})
		mustSync(t, a, vips("eth0", "2001:db8::10", "10.0.0.10"))
		awaitForm(t, s, "10.0.0.10", macA(), "reply")
		netns.Eventually(t, "10 failures", func() bool { return counters(t, registry)["failed ipv6 eth0"] >= 10 })
		if sent := counters(t, registry)["sent ipv6 eth0"]; sent != 0 {
			t.Errorf("%v advertisements sent", sent)
		}
		want := []string{"WARN not announced link=eth0 vip=2001:db8::10 vips=1" +
			" err=eth0 has no IPv6 link-local address to send from: IPv6 is disabled there, or its duplicate address detection has not ended well"}
		if diff := cmp.Diff(want, log.with("not announced")); diff != "" {
			t.Errorf("log (-want +got)\n%s", diff)
		}
		s.addAddr(t, "eth0", netip.MustParseAddr("fe80::a"))
		awaitForm(t, s, "2001:db8::10", macA(), "advertisement")
		netns.Eventually(t, "log line", func() bool { return len(log.with("INFO announced again")) > 0 })
		s.setRouter(t, "eth0", true)
		awaitForm(t, s, "2001:db8::10", macA(), "advertisement of a router")
	})
}

func TestLoopbackByAnotherName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.addLink(t, "loop", MAC{})
		f.links["loop"].loopback = true
		log, registry := newJournal(), prometheus.NewRegistry()
		a := start(t, f, Options{Log: slog.New(log), Registerer: registry})
		mustSync(t, a, vips("loop", "10.0.0.10"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if heard := drain(f); len(heard) > 0 {
			t.Errorf("announced %v", heard)
		}
		if failed := counters(t, registry)["failed ipv4 loop"]; failed < 20 {
			t.Errorf("%v announcements failed, want each that was due", failed)
		}
		if lines := log.with(""); len(lines) != 1 || !strings.Contains(lines[0], "a loopback has no neighbours") {
			t.Errorf("log %q, want the reason, once", lines)
		}
	})
}

func TestMissingLinkAppears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		log := newJournal()
		a := start(t, f, Options{Log: slog.New(log)})
		present := vips("eth0", "10.0.0.10")
		for range 5 {
			mustSync(t, a, present)
			time.Sleep(time.Minute)
		}
		f.addLink(t, "eth0", macA())
		synctest.Wait()
		began := time.Now()
		mustSync(t, a, present)
		synctest.Wait()
		if got := times(drain(f), "10.0.0.10", "reply", began); len(got) != 1 || got[0] != 0 {
			t.Errorf("announced at %v, want at once when Sync says that the address is on the link", got)
		}
		if lines := log.with("nothing is announced on the link"); len(lines) != 1 {
			t.Errorf("log %q, want one line", lines)
		}
	})
}

// What cannot be sent is counted each time, tried again soon, and reported once for all VIPs.
func TestSendFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.addLink(t, "eth0", macA())
		log, registry := newJournal(), prometheus.NewRegistry()
		a := start(t, f, Options{Rate: time.Hour, Log: slog.New(log), Registerer: registry})
		present := vips("eth0", "10.0.0.10", "10.0.0.11", "10.0.0.12")
		mustSync(t, a, present)
		time.Sleep(time.Minute)
		f.intercept(func(sighting) error { return syscall.ENOBUFS })
		f.setMAC(t, "eth0", macB())
		time.Sleep(time.Minute)
		if failed := counters(t, registry)["failed ipv4 eth0"]; failed < 3*50 || failed > 3*75 {
			t.Errorf("%v announcements failed in a minute, want some 1 a second for each of 3", failed)
		}
		drain(f)
		began := time.Now()
		f.intercept(nil)
		time.Sleep(time.Second)
		heard := drain(f)
		for _, v := range present {
			if got := times(heard, v.String(), "reply", began); len(got) == 0 || got[0] > watch {
				t.Errorf("%s announced at %v after sending works again, want within %v", v, got, watch)
			}
		}
		synctest.Wait()
		want := []string{
			"WARN not announced link=eth0 vip=10.0.0.10 vips=3 err=send on eth0: no buffer space available",
			"INFO announced again link=eth0 vip=10.0.0.10 vips=3",
		}
		got := log.with("")
		for i := range got {
			// Which one is the example is left to chance.
			got[i] = strings.NewReplacer("0.11", "0.10", "0.12", "0.10").Replace(got[i])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("log (-want +got)\n%s", diff)
		}
	})
}

// A link that was made anew is found by what cannot be sent, before it would be looked at.
func TestSendErrorHasTheLinkLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.addLink(t, "eth0", macA())
		a := start(t, f, Options{})
		began := time.Now()
		mustSync(t, a, vips("eth0", "10.0.0.10"))
		time.Sleep(10 * time.Millisecond)
		f.delLink(t, "eth0")
		f.addLink(t, "eth0", macB())
		s := awaitForm(t, f, "10.0.0.10", macB(), "reply")
		if took := s.at.Sub(began); took != 20*time.Millisecond {
			t.Errorf("announced by the new link after %v, want with the burst's next time, 20ms", took)
		}
	})
}

// A stopped process, when it goes on: the kernel has taken an address away meanwhile and another node
// announces it. Nothing may be sent for it but the announcement that was on its way, wherever in a burst the
// process was stopped.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.addLink(t, "eth0", macA())
		var names []string
		for i := range 40 {
			names = append(names, fmt.Sprintf("10.0.0.%d", i))
			f.addAddr(t, "eth0", netip.MustParseAddr(names[i]))
		}
		gone := netip.MustParseAddr(names[7])
		log := newJournal()
		a := start(t, f, Options{Log: slog.New(log)})
		mustSync(t, a, vips("eth0", names...))
		time.Sleep(10 * time.Second)

		for n := range 10 {
			stopAt := 10*n + 1
			stopped := make(chan struct{})
			sends := 0
			var onItsWay netip.Addr
			f.intercept(func(s sighting) error {
				sends++
				switch {
				case sends == stopAt:
					onItsWay = s.addr
					time.Sleep(4 * time.Second)
					f.delAddr(t, "eth0", gone)
					close(stopped)
				case sends == stopAt+1 && onItsWay == gone:
				case sends > stopAt && s.addr == gone:
					t.Errorf("stopped at frame %d, goes on with frame %d: announced %s, which has left this node", stopAt, sends, gone)
				}
				return nil
			})
			f.setMAC(t, "eth0", MAC{0x02, 0, 0, 0, 1, byte(n)}) // begins a burst of them all
			<-stopped
			time.Sleep(10 * time.Second)

			// That the VIP is wanted here is not enough to announce it, as long as the address is not there.
			mustSync(t, a, vips("eth0", names...))
			time.Sleep(5 * time.Second)
			f.intercept(nil)
			drain(f)
			f.addAddr(t, "eth0", gone)
			began := time.Now()
			mustSync(t, a, vips("eth0", names...))
			synctest.Wait()
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
			if got := times(drain(f), gone.String(), "reply", began); len(got) < 6 || got[0] != 0 {
				t.Fatalf("announced at %v when it is back, want the burst, at once", got)
			}
		}
		if lines := log.with("no longer on this node"); len(lines) != 10 {
			t.Errorf("log %q, want a line each time", lines)
		}
	})
}

// While the kernel does not say which addresses it has, nothing is announced after a pause.
func TestPauseWithoutAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.addLink(t, "eth0", macA())
		f.addAddr(t, "eth0", netip.MustParseAddr("10.0.0.10"))
		log := newJournal()
		a := start(t, f, Options{Log: slog.New(log)})
		f.interceptHeld(func() error { return errors.New("list addresses: interrupted") })
		stop := sync.OnceFunc(func() { time.Sleep(2 * time.Second) })
		f.intercept(func(sighting) error {
			stop()
			return nil
		})
		mustSync(t, a, vips("eth0", "10.0.0.10"))
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if heard := drain(f); len(heard) != 2 {
			t.Errorf("heard %v, want no more than the announcement that was stopped", heard)
		}
		if lines := log.with("WARN"); len(lines) != 1 {
			t.Errorf("log %q, want one line", lines)
		}
		asked := 0
		f.interceptHeld(func() error {
			asked++
			time.Sleep(time.Second) // to wait for the answer is no pause
			return nil
		})
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if heard := drain(f); len(heard) == 0 {
			t.Error("not announced after the kernel answered")
		}
		if asked != 1 {
			t.Errorf("asked %d times more, want once", asked)
		}
	})
}

// Thousands of VIPs are refreshed in a trickle.
func TestRefreshesAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.addLink(t, "eth0", macA())
		a := start(t, f, Options{})
		var names []string
		for i := range 2000 {
			names = append(names, fmt.Sprintf("10.0.%d.%d", i>>8, i&255))
		}
		began := time.Now()
		mustSync(t, a, vips("eth0", names...))
		time.Sleep(time.Second)
		if heard := drain(f); len(heard) < 6*2*2000 {
			t.Errorf("%d frames in the first second, want the burst of each", len(heard))
		}
		time.Sleep(9 * time.Second)
		synctest.Wait()
		at := map[time.Duration]int{}
		per := map[netip.Addr]int{}
		for _, s := range drain(f) {
			at[s.at.Sub(began)]++
			per[s.addr]++
		}
		for when, n := range at {
			// 2000 VIPs over 30 moments, both forms: 133 in the mean.
			if n > 230 {
				t.Errorf("%d frames at %v", n, when)
			}
		}
		if len(per) != 2000 {
			t.Errorf("%d VIPs refreshed, want 2000", len(per))
		}
		for addr, n := range per {
			// They are new: a rate after the burst, and then more rarely, since there are many.
			if n < 4 || n > 6 {
				t.Errorf("%s: %d frames in three rates, want 4 to 6", addr, n)
			}
		}
	})
}

// Random sets on random links that come and go.
func TestRandomWalk(t *testing.T) {
	for range 20 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { walk(t, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func walk(t *testing.T, random *rand.Rand) {
	const rate = 2 * time.Second
	f := newFake()
	a := start(t, f, Options{Rate: rate, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	links := []string{"eth0", "eth1"}
	macs := map[MAC]string{}
	current := map[string]MAC{}
	// good is since when a link can be announced on.
	good := map[string]time.Time{}
	present := map[place]time.Time{}
	last := map[place]time.Time{}
	nextMAC := func(link string) MAC {
		mac := MAC{0x02, 0, 0, 0, byte(len(macs) >> 8), byte(len(macs))}
		macs[mac], current[link] = link, mac
		return mac
	}
	check := func() {
		t.Helper()
		synctest.Wait()
		for _, s := range drain(f) {
			o := place{s.addr, macs[s.mac]}
			if _, ok := present[o]; !ok {
				t.Fatalf("announced %v, which is absent", o)
			}
			if s.mac != current[o.via] {
				t.Fatalf("announced %v by %s, which was its hardware address", o, s.mac)
			}
			last[o] = s.at
		}
		for o, since := range present {
			ready, ok := good[o.via]
			if !ok {
				continue
			}
			// A link is looked at every watch; a VIP that was put on it while it was good is announced at once.
			first := since
			if ready.After(since) {
				first = ready.Add(watch)
			}
			if now := time.Now(); last[o].Before(first.Add(-watch)) && now.After(first) {
				t.Fatalf("%v present since %v, not announced at %v", o, since, now)
			} else if !last[o].IsZero() && now.After(first) && now.Sub(last[o]) > rate {
				t.Fatalf("%v: last announced %v ago", o, now.Sub(last[o]))
			}
		}
	}
	for range 400 {
		switch link := links[random.IntN(len(links))]; random.IntN(8) {
		case 0: // a link comes, goes, or is made anew
			if _, ok := f.links[link]; ok {
				check()
				f.delLink(t, link)
				delete(good, link)
			}
			if random.IntN(3) > 0 {
				f.addLink(t, link, nextMAC(link))
				f.addAddr(t, link, netip.MustParseAddr("fe80::"+link[3:]+"a"))
				good[link] = time.Now()
			}
		case 1: // another hardware address, from which the next announcement comes
			if _, ok := good[link]; ok {
				check()
				f.setMAC(t, link, nextMAC(link))
				good[link] = time.Now()
				mustSync(t, a, vipsOf(present)) // has it looked at
			}
		case 2:
			if l, ok := f.links[link]; ok {
				up := !l.station.Up
				check()
				f.setUp(t, link, up)
				delete(good, link)
				if up {
					good[link] = time.Now()
				} else {
					time.Sleep(watch) // a shorter outage may pass unseen
				}
			}
		default:
			check()
			next := map[place]time.Time{}
			for i := range 12 {
				o := place{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), links[random.IntN(len(links))]}
				if i%3 == 0 {
					o.addr = netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i))
				}
				since, ok := present[o]
				switch {
				case ok && random.IntN(3) > 0:
					next[o] = since
				case !ok && random.IntN(3) == 0:
					next[o] = time.Now()
				}
			}
			for o, since := range next {
				if present[o] != since {
					delete(last, o)
				}
			}
			present = next
			mustSync(t, a, vipsOf(present))
		}
		check()
		time.Sleep(time.Duration(random.Int64N(int64(time.Second))))
		check()
	}
	check()
}

// vipsOf makes VIPs of places.
func vipsOf(present map[place]time.Time) []vip.VIP {
	var all []vip.VIP
	for p := range present {
		all = append(all, vips(p.via, p.addr.String())...)
	}
	return all
}
