package filter

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"kube-vip.io/kube-vip/test/netns"
)

// inNamespace puts the benchmark's thread into a network namespace of its own.
func inNamespace(b *testing.B) *Filter {
	b.Helper()
	runtime.LockOSThread() // and never unlocked
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		netns.Missing(b, "needs root: "+err.Error())
	}
	return New(Options{})
}

func pass(b *testing.B, f *Filter, rules []Rule) {
	b.Helper()
	if err := f.Set(rules); err != nil {
		b.Fatal(err)
	}
	f.pass()
	if f.err != nil {
		b.Fatal(f.err)
	}
}

const benchVIPs = 10_000

// BenchmarkFull makes the table of 10 000 VIPs with three ports each anew.
func BenchmarkFull(b *testing.B) {
	f, rules := inNamespace(b), many(benchVIPs)
	b.ReportAllocs()
	for b.Loop() {
		f.stale = true
		pass(b, f, rules)
	}
}

// BenchmarkOneMore and BenchmarkOneLess are one VIP more, or less, among 10 000: from Set to the kernel's answer.
// To a transaction that deletes, the kernel answers after an RCU grace period.
func BenchmarkOneMore(b *testing.B) { benchmarkOne(b, benchVIPs, benchVIPs+1) }
func BenchmarkOneLess(b *testing.B) { benchmarkOne(b, benchVIPs+1, benchVIPs) }

func benchmarkOne(b *testing.B, before, after int) {
	f, rules := inNamespace(b), many(max(before, after))
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		pass(b, f, rules[:before])
		b.StartTimer()
		pass(b, f, rules[:after])
	}
}

// BenchmarkIdle is a tick with 10 000 VIPs when nobody changed the ruleset.
func BenchmarkIdle(b *testing.B) {
	f := inNamespace(b)
	pass(b, f, many(benchVIPs))
	b.ReportAllocs()
	for b.Loop() {
		f.pass()
	}
}

// BenchmarkCheck reads the table of 10 000 VIPs because somebody changed the ruleset.
func BenchmarkCheck(b *testing.B) { benchmarkCheck(b, benchVIPs) }

// BenchmarkCheckSmall is the same with 50 VIPs.
func BenchmarkCheckSmall(b *testing.B) { benchmarkCheck(b, 50) }

func benchmarkCheck(b *testing.B, vips int) {
	f := inNamespace(b)
	pass(b, f, many(vips))
	b.ReportAllocs()
	for b.Loop() {
		s, err := f.kernel.look(true)
		if err != nil {
			b.Fatal(err)
		}
		if what := f.layout.differs(f.have, s); what != "" {
			b.Fatal(what)
		}
	}
}
