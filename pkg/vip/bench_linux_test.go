package vip

import (
	"fmt"
	"net/netip"
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
