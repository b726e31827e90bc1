package vip

import (
	"net/netip"
	"testing"
	"time"
)

// A VIP on no interface is announced while its mandate lasts, and needs nothing of the kernel.
func TestDetached(t *testing.T) {
	bubble(t, func(r *rig) {
		lone, beside := VIP{Prefix: netip.MustParsePrefix("10.1.0.1/32"), Link: Detached, Via: Detached}, on("10.1.0.2/32 eth0")
		r.run()
		r.Claim("svc/a", "m", []VIP{lone})
		r.Claim("svc/b", "m", []VIP{beside})
		r.settle(0)
		r.did()
		r.Grant("m", time.Now().Add(3*time.Second))
		r.settle(0)
		r.did("put eth0 10.1.0.2/32 ours 3s", "sync [10.1.0.1 10.1.0.2]")
		r.node("eth0 10.1.0.2/32 ours 3s")

		r.settle(2 * time.Second)
		r.Grant("m", time.Now().Add(3*time.Second))
		r.settle(1500 * time.Millisecond)
		if got := r.listener.announced(); len(got) != 2 {
			t.Errorf("after a renewal %v are announced", got)
		}
		r.recorded()
		r.settle(3 * time.Second) // the mandate is over
		if got := r.listener.announced(); len(got) != 0 {
			t.Errorf("after the mandate's end %v are announced", got)
		}
		r.recorded()

		r.Grant("m", time.Now().Add(time.Minute))
		r.settle(0)
		if got := r.listener.announced(); len(got) != 2 {
			t.Errorf("of a new mandate %v are announced", got)
		}
		off := r.Revoke("m")
		r.settle(0)
		if err := off(t.Context()); err != nil || len(r.listener.announced()) != 0 {
			t.Errorf("after a revocation %v are announced; %v", r.listener.announced(), err)
		}
		r.logs = nil
	})
}
