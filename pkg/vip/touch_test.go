package vip

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// crowd are that many VIPs on eth0, each of an owner of its own.
func (r *rig) crowd(count int) {
	for i := range count {
		r.Claim(fmt.Sprintf("svc/%d", i), "lease", []VIP{on(fmt.Sprintf("10.1.0.%d/32 eth0", i))})
	}
}

// TestTouch: what is claimed or unclaimed while others are held is seen to without a look at the others.
func TestTouch(t *testing.T) {
	more := []VIP{on("10.0.0.10/32 eth0")}
	begin := func(r *rig) (lists int) {
		r.crowd(5)
		r.Grant("lease", r.in(time.Hour))
		r.run()
		r.recorded()
		return r.kernel.count("list")
	}
	t.Run("one more, and one less", func(t *testing.T) {
		bubble(t, func(r *rig) {
			lists := begin(r)
			r.Claim("more", "lease", more)
			r.settle(0)
			r.did("put eth0 10.0.0.10/32 ours 1h0m0s", "sync [10.0.0.10 10.1.0.0 10.1.0.1 10.1.0.2 10.1.0.3 10.1.0.4]")
			r.metrics(`kube_vip_vip_held{vip="10.0.0.10"} 1`, `kube_vip_vip_held{vip="10.1.0.0"} 1`, `kube_vip_vip_held{vip="10.1.0.1"} 1`,
				`kube_vip_vip_held{vip="10.1.0.2"} 1`, `kube_vip_vip_held{vip="10.1.0.3"} 1`, `kube_vip_vip_held{vip="10.1.0.4"} 1`)
			r.Claim("more", "lease", more) // the same again is nothing new
			r.settle(0)
			r.did()
			r.Unclaim("more")
			r.Unclaim("svc/0")
			r.settle(0)
			r.did("sync [10.1.0.1 10.1.0.2 10.1.0.3 10.1.0.4]", "remove eth0 10.0.0.10/32", "remove eth0 10.1.0.0/32")
			r.metrics(`kube_vip_vip_held{vip="10.1.0.1"} 1`,
				`kube_vip_vip_held{vip="10.1.0.2"} 1`, `kube_vip_vip_held{vip="10.1.0.3"} 1`, `kube_vip_vip_held{vip="10.1.0.4"} 1`)
			if n := r.kernel.count("list"); n != lists {
				t.Errorf("%d more looks at the node, want none", n-lists)
			}
		})
	})
	t.Run("under another mandate, which is not granted, it goes", func(t *testing.T) {
		bubble(t, func(r *rig) {
			begin(r)
			r.Revoke("other")
			r.settle(0)
			r.recorded()
			r.Claim("svc/0", "other", []VIP{on("10.1.0.0/32 eth0")})
			r.settle(0)
			r.did("sync [10.1.0.1 10.1.0.2 10.1.0.3 10.1.0.4]", "remove eth0 10.1.0.0/32")
		})
	})
	t.Run("one that two have stays with the other", func(t *testing.T) {
		bubble(t, func(r *rig) {
			begin(r)
			r.Claim("more", "lease", []VIP{on("10.1.0.0/32 eth0")})
			r.Unclaim("svc/0")
			r.settle(0)
			r.did()
			r.holds(on("10.1.0.0/32 eth0"), on("10.1.0.1/32 eth0"), on("10.1.0.2/32 eth0"), on("10.1.0.3/32 eth0"), on("10.1.0.4/32 eth0"))
		})
	})
	t.Run("one of another stays on the node", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.kernel.addAddress("eth0", more[0].Prefix)
			begin(r)
			r.Claim("more", "lease", more)
			r.settle(0)
			r.holds(append(more, on("10.1.0.0/32 eth0"), on("10.1.0.1/32 eth0"), on("10.1.0.2/32 eth0"), on("10.1.0.3/32 eth0"), on("10.1.0.4/32 eth0"))...)
			r.Unclaim("more")
			r.settle(0)
			if others := r.kernel.others(); len(others) != 3 {
				t.Errorf("other addresses are %q, want the loopback's two and 10.0.0.10", others)
			}
		})
	})
	t.Run("one that cannot be put is told of, and put later", func(t *testing.T) {
		bubble(t, func(r *rig) {
			begin(r)
			r.logged(`level=INFO msg="VIP added" vip=10.1.0.0 link=eth0`, `level=INFO msg="VIP added" vip=10.1.0.1 link=eth0`,
				`level=INFO msg="VIP added" vip=10.1.0.2 link=eth0`, `level=INFO msg="VIP added" vip=10.1.0.3 link=eth0`, `level=INFO msg="VIP added" vip=10.1.0.4 link=eth0`)
			r.kernel.failing(errors.New("no"), "put")
			r.Claim("more", "lease", more)
			r.settle(0)
			r.logged(`level=WARN msg="VIP could not be put on its link" vip=10.0.0.10 link=eth0 err="add 10.0.0.10/32 to eth0: no"`)
			r.kernel.failing(nil)
			r.settle(time.Second)
			r.holds(append(more, on("10.1.0.0/32 eth0"), on("10.1.0.1/32 eth0"), on("10.1.0.2/32 eth0"), on("10.1.0.3/32 eth0"), on("10.1.0.4/32 eth0"))...)
		})
	})
}

// TestManyMandates: what the Table remembers of Leases that are gone does not grow.
func TestManyMandates(t *testing.T) {
	bubble(t, func(r *rig) {
		r.run()
		for i := range 5000 {
			mandate := fmt.Sprintf("shop/kubevip-%d", i)
			r.Claim("svc", mandate, []VIP{on("10.0.0.10/32 eth0")})
			r.Grant(mandate, r.in(time.Minute))
			r.Revoke(mandate)
			r.Unclaim("svc")
			r.settle(0)
		}
		if n := len(r.verdicts); n > 3*spareVerdicts {
			t.Errorf("%d verdicts are remembered", n)
		}
	})
}
