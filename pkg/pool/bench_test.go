package pool

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

const many = 10_000

func manyRequests(namespace string) []Request {
	list := make([]Request, many)
	for i := range list {
		list[i] = Request{Service: Service{Name: fmt.Sprintf("%s/%d", namespace, i), Namespace: namespace, Ports: []Port{{80, "TCP"}, {443, "TCP"}}}}
	}
	return list
}

// allocateAll gives all of them addresses.
func allocateAll(t testing.TB, a *Allocator, list []Request) {
	t.Helper()
	for _, r := range list {
		if _, err := a.Allocate(r); err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkAll is 10 000 Services that get addresses and give them back, in any order.
func BenchmarkAll(b *testing.B) {
	pools := poolsOf(b, map[string]string{"cidr-global": "10.0.0.0/16"})
	list := manyRequests("a")
	random := rand.New(rand.NewPCG(0, 0))
	order := random.Perm(many)
	for b.Loop() {
		a := NewAllocator()
		a.SetPools(pools)
		allocateAll(b, a, list)
		for _, i := range order {
			a.Release(list[i].Name)
		}
	}
}

// The next benchmarks are one Service more that gets addresses, and gives them back, beside 10 000 that have some.
func BenchmarkOneMore(b *testing.B) {
	benchmarkOneMore(b, map[string]string{"cidr-global": "10.0.0.0/16"}, SingleStack, 1)
}

func BenchmarkOneMoreDual(b *testing.B) {
	benchmarkOneMore(b, map[string]string{"cidr-global": "10.0.0.0/8,2001:db8::/64"}, PreferDualStack, 1)
}

// Every second address is in use: nothing is more scattered.
func BenchmarkOneMoreScattered(b *testing.B) {
	benchmarkOneMore(b, map[string]string{"cidr-global": "10.0.0.0/16"}, SingleStack, 2)
}

// Sharing is on, and the ports are free on none of them.
func BenchmarkOneMoreSharing(b *testing.B) {
	benchmarkOneMore(b, map[string]string{"cidr-global": "10.0.0.0/16", "allow-share-global": "true"}, SingleStack, 1)
}

func benchmarkOneMore(b *testing.B, data map[string]string, policy Policy, step int) {
	a := NewAllocator()
	a.SetPools(poolsOf(b, data))
	list := manyRequests("a")
	for i := range list {
		list[i].Policy = policy
	}
	allocateAll(b, a, list)
	for i := range list {
		if i%step > 0 {
			a.Release(list[i].Name)
		}
	}
	one := Request{Service: Service{Name: "b/one", Namespace: "b", Ports: []Port{{443, "TCP"}}}, Policy: policy}
	for b.Loop() {
		if _, err := a.Allocate(one); err != nil {
			b.Fatal(err)
		}
		a.Release("b/one")
	}
}

// BenchmarkSharedByPort is sharing at its worst: each second address has port 80, the others 443, and both are asked for.
func BenchmarkSharedByPort(b *testing.B) {
	a := NewAllocator()
	pools := poolsOf(b, map[string]string{"cidr-global": "10.0.0.0/16"})
	a.SetPools(pools)
	list := manyRequests("a")
	for i := range list {
		list[i].Ports = list[i].Ports[i%2 : i%2+1]
	}
	allocateAll(b, a, list)
	a.SetPools(poolsOf(b, map[string]string{"cidr-global": "10.0.0.0/16", "allow-share-global": "true"}))
	one := Request{Service: Service{Name: "b/one", Namespace: "b", Ports: []Port{{80, "TCP"}, {443, "TCP"}}}}
	for b.Loop() {
		if _, err := a.Allocate(one); err != nil {
			b.Fatal(err)
		}
		a.Release("b/one")
	}
}

// BenchmarkSetPools edits the pools beside 10 000 Services, so that all of them share, or do not any more.
func BenchmarkSetPools(b *testing.B) {
	a := NewAllocator()
	pools := []Pools{poolsOf(b, map[string]string{"cidr-global": "10.0.0.0/16"}),
		poolsOf(b, map[string]string{"cidr-global": "10.0.0.0/16", "allow-share-global": "true"})}
	a.SetPools(pools[0])
	allocateAll(b, a, manyRequests("a"))
	i := 0
	for b.Loop() {
		i++
		a.SetPools(pools[i%2])
	}
}

// BenchmarkStats is one scrape beside 10 000 Services.
func BenchmarkStats(b *testing.B) {
	a := NewAllocator()
	a.SetPools(poolsOf(b, map[string]string{"cidr-global": "10.0.0.0/16", "cidr-b": "2001:db8::/64"}))
	allocateAll(b, a, manyRequests("a"))
	for b.Loop() {
		a.Stats()
	}
}

// BenchmarkParse reads what can not cost by its size.
func BenchmarkParse(b *testing.B) {
	data := map[string]string{"cidr-global": "10.0.0.0/8,2001:db8::/32", "range-a": "172.16.0.0-172.31.255.255"}
	b.ReportAllocs()
	for b.Loop() {
		Parse(data)
	}
}

// TestMany bounds what BenchmarkAll measures, far above what it takes, and looks for what is left behind.
func TestMany(t *testing.T) {
	a := NewAllocator()
	a.SetPools(poolsOf(t, map[string]string{"cidr-global": "10.0.0.0/16"}))
	list := manyRequests("a")
	began := time.Now()
	allocateAll(t, a, list)
	if got := joined(a.Addrs(list[many-1].Name)); got != "10.0.39.94" {
		t.Errorf("the last has %s", got)
	}
	for _, r := range list {
		a.Release(r.Name)
	}
	if len(a.used)+len(a.open)+len(a.taken)+len(a.places)+len(a.services) > 0 {
		t.Errorf("something is left: %v %v %v", a.used, a.open, a.taken)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("%d Services took %s", many, took)
	}
}
