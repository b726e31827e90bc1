package vip

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// many are that many VIPs on eth0, every second one of IPv6.
func many(count int) (vips []VIP) {
	for i := range count {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 7, byte(i >> 8), byte(i)}), 32)
		if i%2 == 1 {
			p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)}), 128)
		}
		vips = append(vips, VIP{Prefix: p, Link: "eth0", Via: "eth0"})
	}
	return vips
}

// The benchmarks are one pass with 1000 VIPs: over what is as it should be, and putting every one of them.
func BenchmarkPassFake(b *testing.B)    { benchmarkPass(b, fakeNodeForBench(), 1000, time.Hour) }
func BenchmarkRenewFake(b *testing.B)   { benchmarkPass(b, fakeNodeForBench(), 1000, time.Second) }
func BenchmarkPassKernel(b *testing.B)  { _, n := realNode(b); benchmarkPass(b, n, 1000, time.Hour) }
func BenchmarkRenewKernel(b *testing.B) { _, n := realNode(b); benchmarkPass(b, n, 1000, time.Second) }

// BenchmarkPassManyLinks is what a node with one VIP and two hundred pods does every second.
func BenchmarkPassManyLinks(b *testing.B) {
	_, n := realNode(b)
	for i := range 200 {
		addLink(b, fmt.Sprintf("veth%d", i))
	}
	benchmarkPass(b, n, 1, time.Hour)
}

func fakeNodeForBench() *fakeKernel {
	k := newFakeKernel()
	k.addLink("eth0")
	return k
}

// benchmarkPass renews in every pass when the mandate is that short, and never when it is long.
func benchmarkPass(b *testing.B, k Kernel, count int, mandate time.Duration) {
	vips := many(count)
	t := NewTable(Options{Kernel: k})
	t.Claim("bench", "m", vips)
	t.Grant("m", time.Now().Add(mandate))
	if err := t.pass(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		t.Grant("m", time.Now().Add(mandate))
		if err := t.pass(); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	if held := len(t.Holding()); held != len(vips) {
		b.Fatalf("holding %d VIPs, want %d", held, len(vips))
	}
}

// BenchmarkPut is one address.
func BenchmarkPut(b *testing.B) {
	_, n := realNode(b)
	for _, v := range both("eth0") {
		b.Run(v.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := n.Put(v, 5*time.Second); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRenewMany renews that many IPv4 addresses once.
func BenchmarkRenewMany(b *testing.B) {
	for _, count := range []int{1000, 10000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			_, n := realNode(b)
			var vips []VIP
			for i := range count {
				vips = append(vips, VIP{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 7, byte(i >> 8), byte(i)}), 32), Link: "eth0", Via: "eth0"})
			}
			t := NewTable(Options{Kernel: n})
			t.Claim("bench", "m", vips)
			t.Grant("m", time.Now().Add(time.Hour))
			if err := t.pass(); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				for _, l := range t.queue {
					l.due, l.ends = time.Now(), time.Now()
				}
				t.Grant("m", time.Now().Add(2*time.Hour))
				if !t.plain(b.Context()) {
					b.Fatal("not renewed")
				}
			}
		})
	}
}

// BenchmarkTouch claims and unclaims one more beside that many.
func BenchmarkTouch(b *testing.B) {
	for _, count := range []int{1000, 10000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			t := NewTable(Options{Kernel: fakeNodeForBench()})
			t.Claim("bench", "m", many(count)[1:])
			t.Grant("m", time.Now().Add(time.Hour))
			if err := t.pass(); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				t.Claim("more", "m", many(1))
				if !t.touch() {
					b.Fatal("left to a pass")
				}
				t.Unclaim("more")
				if !t.touch() {
					b.Fatal("left to a pass")
				}
			}
		})
	}
}

// told is a Speaker that tells of each call.
type told chan int

func (c told) Sync(present []VIP) error {
	c <- len(present)
	return nil
}

// BenchmarkOneMore is how long one more VIP takes from its claim to its announcement, beside many that are renewed under a
// mandate of three seconds.
func BenchmarkOneMore(b *testing.B) {
	for _, count := range []int{1000, 10000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			_, n := realNode(b)
			synced := make(told)
			t := NewTable(Options{Kernel: n, Speakers: []Speaker{synced}})
			var vips []VIP
			for i := range count {
				vips = append(vips, VIP{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 7, byte(i >> 8), byte(i)}), 32), Link: "eth0", Via: "eth0"})
			}
			grant := func() { t.Grant("m", time.Now().Add(3*time.Second)) }
			t.Claim("bench", "m", vips[1:])
			grant()
			ctx, cancel := context.WithCancel(b.Context())
			ended := make(chan error, 1)
			go func() { ended <- t.Run(ctx) }()
			await := func(present int) {
				for renewal := time.NewTicker(time.Second); ; {
					select {
					case <-renewal.C:
						grant()
					case got := <-synced:
						if got == present {
							renewal.Stop()
							return
						}
					}
				}
			}
			await(count - 1)
			var took []time.Duration
			for b.Loop() {
				grant()
				for pause := time.After(time.Duration(rand.IntN(1000)) * time.Millisecond); pause != nil; {
					select {
					case <-pause:
						pause = nil
					case <-synced:
					}
				}
				began := time.Now()
				t.Claim("more", "m", vips[:1])
				await(count)
				took = append(took, time.Since(began))
				t.Unclaim("more")
				await(count - 1)
			}
			slices.Sort(took)
			for _, part := range []int{50, 90, 99} {
				b.ReportMetric(float64(took[len(took)*part/100].Microseconds())/1000, fmt.Sprintf("ms-p%d", part))
			}
			cancel()
			for ended != nil {
				select {
				case <-synced:
				case err := <-ended:
					if ended = nil; err != nil {
						b.Error(err)
					}
				}
			}
		})
	}
}
