package arp

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func thousand() []string {
	var all []string
	for i := range 1000 {
		all = append(all, fmt.Sprintf("10.0.%d.%d", i>>8, i&255))
	}
	return all
}

// What one announcement of a thousand VIPs costs on a real link: both forms of ARP, and the next one's place in
// the queue.
func BenchmarkAnnounce(b *testing.B) {
	h := newHosts(b)
	h.join(b, "eth0", macA())
	h.deafen()
	a := New(Options{})
	if err := a.Sync(vips("eth0", thousand()...)); err != nil {
		b.Fatal(err)
	}
	h.in(func() {
		a.lookAtLinks(time.Now())
		b.ReportAllocs()
		for b.Loop() {
			e := a.queue.next()
			a.announce(e, e.due)
			if e.fault != "" {
				b.Fatal(e.fault)
			}
		}
		a.end()
	})
}

// What a tick of the Table costs that changes nothing.
func BenchmarkSync(b *testing.B) {
	a := New(Options{Wire: newFake()})
	present := vips("eth0", thousand()...)
	b.ReportAllocs()
	for b.Loop() {
		if err := a.Sync(present); err != nil {
			b.Fatal(err)
		}
	}
}

// What a second at rest with a thousand VIPs costs, as a part of a core; -benchtime=10x makes it ten seconds.
func BenchmarkRest(b *testing.B) {
	h := newHosts(b)
	h.join(b, "eth0", macA())
	h.deafen()
	a := New(Options{})
	stop := h.run(nil, a)
	if err := a.Sync(vips("eth0", thousand()...)); err != nil {
		b.Fatal(err)
	}
	<-time.After(time.Second) // the burst
	before, began := cpu(b), time.Now()
	for b.Loop() {
		<-time.After(time.Second)
	}
	b.ReportMetric(100*float64(cpu(b)-before)/float64(time.Since(began)), "%core")
	if err := stop(); err != nil {
		b.Fatal(err)
	}
}

// cpu is the time that this process has used of the processor.
func cpu(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
