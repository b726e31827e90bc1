package vip

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestRenewalLooksAtNothingElse: the node is compared now and then, and not for each renewal.
func TestRenewalLooksAtNothingElse(t *testing.T) {
	bubble(t, func(r *rig) {
		r.crowd(200)
		r.Grant("lease", r.in(3*time.Second))
		r.run()
		before := r.kernel.count("list")
		for range 3600 {
			r.settle(time.Second)
			if held := len(r.kernel.ours()); held != 200 {
				t.Fatalf("%d addresses are there, want 200", held)
			}
			r.Grant("lease", r.in(2990*time.Millisecond))
		}
		if n := r.kernel.count("list") - before; n > 725 {
			t.Errorf("%d comparisons in an hour, want one each five seconds", n)
		}
		if n := r.kernel.count("put") / 200; n > 3600 {
			t.Errorf("each was put %d times in an hour, want 3600 at most", n)
		}
		if n := len(r.queue); n > 2*200 {
			t.Errorf("%d lives are kept in order, of 200 VIPs", n)
		}
	})
}

// TestUntold: an address that went without a word of the kernel is back all the same.
func TestUntold(t *testing.T) {
	bubble(t, func(r *rig) {
		v := on("10.0.0.10/32 eth0")
		r.Claim("cp", "lease", []VIP{v})
		r.Grant("lease", r.in(time.Hour))
		r.run()
		r.settle(10 * time.Second)
		r.recorded()
		r.kernel.remove("eth0", v.Prefix, true)
		r.settle(survey)
		r.did("remove eth0 10.0.0.10/32", "put eth0 10.0.0.10/32 ours 59m49s")
	})
}

// TestRenewalOfWhatWasChanged: the lifetime was changed by somebody else, and the next comparison sees that.
func TestRenewalOfWhatWasChanged(t *testing.T) {
	bubble(t, func(r *rig) {
		v := on("10.0.0.10/32 eth0")
		r.Claim("cp", "lease", []VIP{v})
		r.Grant("lease", r.in(time.Hour))
		r.run()
		r.recorded()
		r.kernel.leave(v, 20*time.Second)
		r.settle(settle)
		r.did("put eth0 10.0.0.10/32 ours 20s", "put eth0 10.0.0.10/32 ours 1h0m0s")
	})
}

// TestOneMoreDuringRenewals: thousands that are renewed do not hold up one that is new.
func TestOneMoreDuringRenewals(t *testing.T) {
	bubble(t, func(r *rig) {
		r.crowd(250)
		r.Grant("lease", r.in(3*time.Second))
		r.run()
		r.Grant("lease", r.in(4*time.Second))
		r.recorded()
		first := true
		r.kernel.faults(func(call string) error {
			if call == "put" && first {
				first = false
				r.Claim("more", "lease", []VIP{on("10.0.0.10/32 eth0")})
			}
			return nil
		})
		r.settle(1800 * time.Millisecond)
		record := r.recorded()
		place := -1
		for i, line := range record {
			if strings.HasPrefix(line, "put eth0 10.0.0.10/32") {
				place = i
			}
		}
		if place < 0 || place > batchSize {
			t.Errorf("of %d steps the new one's put was number %d", len(record), place)
		}
	})
}

// TestRenewalFails: what the kernel refuses is told of and tried every second, and the others are renewed.
func TestRenewalFails(t *testing.T) {
	bubble(t, func(r *rig) {
		r.crowd(2)
		r.Grant("lease", r.in(5*time.Second))
		r.run()
		r.logged(`level=INFO msg="VIP added" vip=10.1.0.0 link=eth0`, `level=INFO msg="VIP added" vip=10.1.0.1 link=eth0`)
		r.kernel.failing(errors.New("no"), "put")
		r.Grant("lease", r.in(10*time.Second))
		r.settle(3 * time.Second)
		var want []string
		for i := range 2 {
			want = append(want, fmt.Sprintf(`level=WARN msg="VIP could not be put on its link" vip=10.1.0.%d link=eth0 err="add 10.1.0.%[1]d/32 to eth0: no"`, i))
		}
		r.logged(want...)
		before := r.kernel.count("list")
		r.settle(2 * tick)
		if n := r.kernel.count("list") - before; n != 2 {
			t.Errorf("%d comparisons in two seconds, want 2", n)
		}
		r.kernel.failing(nil)
		r.settle(tick)
		r.node("eth0 10.1.0.0/32 ours 5s", "eth0 10.1.0.1/32 ours 5s")
	})
}

// sluggish is a kernel that takes its time for each address that it does not have, but those of a crowd.
type sluggish struct{ *fakeKernel }

func (k sluggish) PutAll(puts []Put) []error {
	for _, p := range puts {
		if p.VIP.Addr().As16()[13] == 7 && !k.has(p.VIP) {
			time.Sleep(10 * time.Millisecond)
		}
	}
	return k.fakeKernel.PutAll(puts)
}

// TestManyAreAdded: to add them all takes longer than the first are to last. Those are announced and renewed meanwhile, and
// so are others that were there.
func TestManyAreAdded(t *testing.T) {
	var vips []VIP
	for i := range 500 {
		vips = append(vips, on(fmt.Sprintf("10.7.%d.%d/32 eth0", i/250, i%250)))
	}
	for _, c := range []struct {
		name         string
		crowd        int
		grantedFirst bool
	}{
		{"claimed and then granted", 0, false},
		{"granted and then claimed", 0, true},
		{"beside others", 250, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(r *rig) {
				r.Table.kernel = sluggish{r.kernel}
				r.kernel.onPut = nil
				r.run()
				r.crowd(c.crowd)
				if c.grantedFirst {
					r.Grant("lease", r.in(3*time.Second))
				}
				r.settle(0)
				r.Claim("svc", "lease", vips)
				for second := range 12 {
					r.Grant("lease", r.in(3*time.Second))
					r.settle(time.Second)
					n := len(r.listener.announced()) - c.crowd
					if second == 2 && (n < 100 || n >= 400) || second >= 9 && n != 500 {
						t.Errorf("%d of 500 are announced after %d s", n, second+1)
					}
				}
				for _, line := range r.logs {
					if !strings.Contains(line, "VIP added") {
						t.Fatal(line)
					}
				}
			})
		})
	}
}
