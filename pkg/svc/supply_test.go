package svc

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/pool"
)

// wire is a network, and an API server that notes what addresses it is told.
type wire struct {
	hosts map[string]net.HardwareAddr
	lines []string // what was asked and written since the last look, in order
}

// Probe takes a moment in which hosts may come and go: what is there at its beginning counts.
func (w *wire) Probe(_ context.Context, link string, addr netip.Addr) (net.HardwareAddr, error) {
	w.lines = append(w.lines, fmt.Sprintf("ask %s on %s", addr, link))
	owner := w.hosts[addr.String()]
	time.Sleep(200 * time.Millisecond)
	return owner, nil
}

func (w *wire) write(a clienttesting.Action) (bool, runtime.Object, error) {
	patch := a.(clienttesting.PatchAction)
	_, after, _ := strings.Cut(string(patch.GetPatch()), AddressesAnnotation+`":"`)
	text, _, _ := strings.Cut(after, `"`)
	w.lines = append(w.lines, fmt.Sprintf("write %s to %s", text, patch.GetName()))
	return true, service(patch.GetName()), nil
}

func (w *wire) expect(t *testing.T, when string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, w.lines); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
	w.lines = nil
}

// supplying is a Controller that does not run, and gives addresses out of these pools.
func supplying(t *testing.T, pools map[string]string) (*assessor, *wire) {
	t.Helper()
	w := &wire{hosts: map[string]net.HardwareAddr{}}
	j, _ := guarding(t)
	client := fake.NewClientset()
	client.PrependReactor("patch", "services", w.write)
	j.supply.o.Writer, j.supply.o.Prober = client, w
	j.supply.ctx, j.supply.provider = t.Context(), provisionOurs
	j.Led("group", ha.Lead{Held: true})
	parsed, problems := pool.Parse(pools)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	j.book.SetPools(parsed)
	return j, w
}

// settle lets what is tried come to its end, and the worker with it.
func (j *assessor) settle(t *testing.T) {
	t.Helper()
	j.supply.work.Wait()
	j.pass(t)
}

func version(v string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.ResourceVersion = v }
}

// What was written is not tried again for as long as the watch lags behind.
func TestSupplyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, w := supplying(t, map[string]string{"range-global": "10.0.0.7-10.0.0.8"})
		j.see(t, service("a"))
		j.settle(t)
		w.expect(t, "given out", "ask 10.0.0.7 on eth0", "write 10.0.0.7 to a")
		j.see(t, service("a"))
		j.settle(t)
		w.expect(t, "the watch lags behind")
		// What was given is not another's meanwhile.
		j.see(t, service("b"))
		j.settle(t)
		w.expect(t, "another's", "ask 10.0.0.8 on eth0", "write 10.0.0.8 to b")
		// Somebody else wrote to it first, and the address is still to be given.
		j.see(t, service("a", version("2")))
		j.settle(t)
		w.expect(t, "overtaken", "ask 10.0.0.7 on eth0", "write 10.0.0.7 to a")
		j.see(t, service("a", version("3"), asking("10.0.0.7")))
		j.settle(t)
		w.expect(t, "here")
	})
}

// A node of ours that answers for an address is no stranger: it is asked by who shares the address, by a question that was
// overtaken, and by who had it a moment ago.
func TestSupplyOwn(t *testing.T) {
	ours := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	synctest.Test(t, func(t *testing.T) {
		j, w := supplying(t, map[string]string{"range-global": "10.0.0.7-10.0.0.7", "allow-share-shop": "true"})
		j.see(t, service("a"))
		// Its user is faster, a node announces the address, and the question finds that node.
		w.hosts["10.0.0.7"] = ours
		synctest.Wait()
		j.see(t, service("a", version("2"), asking("10.0.0.7")))
		j.settle(t)
		w.expect(t, "overtaken", "ask 10.0.0.7 on eth0", "write 10.0.0.7 to a")

		// Another shares it.
		other := func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 }
		j.see(t, service("b", other))
		j.settle(t)
		w.expect(t, "shared", "write 10.0.0.7 to b")
		j.see(t, service("b", other, version("2"), asking("10.0.0.7")))

		// Both let go, and the node has not heard yet.
		for _, name := range []string{"a", "b"} {
			if err := j.sources.services.informer.GetStore().Delete(service(name)); err != nil {
				t.Fatal(err)
			}
			j.queue.Add("shop/" + name)
		}
		j.pass(t)
		j.see(t, service("c"))
		j.settle(t)
		w.expect(t, "not heard yet", "ask 10.0.0.7 on eth0")
		delete(w.hosts, "10.0.0.7")
		time.Sleep(freedAgain)
		j.settle(t)
		j.settle(t)
		w.expect(t, "free", "ask 10.0.0.7 on eth0", "write 10.0.0.7 to c")
	})
}

// An address that was written is taken, though the watch has not shown it yet, by a Service that has another one as well.
func TestSupplyReserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, w := supplying(t, map[string]string{"range-global": "10.0.0.7-10.0.0.7,fd00::7-fd00::8"})
		j.links[0].Addrs = append(j.links[0].Addrs, netip.MustParsePrefix("fd00::1/64"))
		prefer := dualStack(corev1.IPFamilyPolicyPreferDualStack)
		j.see(t, service("a", asking("10.0.0.7"), annotated(AllocatedAnnotation, "10.0.0.7"), annotated(EndpointlessAnnotation, "true"), prefer))
		j.settle(t)
		w.expect(t, "two families", "ask fd00::7 on eth0", "write 10.0.0.7,fd00::7 to a")
		j.see(t, service("b", families(corev1.IPv6Protocol)))
		j.settle(t)
		w.expect(t, "another", "ask fd00::8 on eth0", "write fd00::8 to b")
	})
}

// Services that share an address are created at the same moment: the second one's question finds the node that has taken it
// for the first.
func TestSupplyBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, w := supplying(t, map[string]string{"range-global": "10.0.0.7-10.0.0.8", "allow-share-shop": "true"})
		other := func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 }
		j.see(t, service("a"))
		j.settle(t)
		w.hosts["10.0.0.7"] = net.HardwareAddr{2, 0, 0, 0, 0, 1}
		j.see(t, service("b", other))
		j.see(t, service("a", version("2"), asking("10.0.0.7")))
		j.settle(t)
		time.Sleep(freedAgain)
		j.settle(t)
		w.expect(t, "a burst", "ask 10.0.0.7 on eth0", "write 10.0.0.7 to a", "ask 10.0.0.7 on eth0", "write 10.0.0.7 to b")
		if len(j.supply.strangers) > 0 {
			t.Errorf("strangers are %v", j.supply.strangers)
		}
	})
}

// Who prefers two families and has one waits for the other, and says so, and gets it when it is given back.
func TestSupplyPrefers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, w := supplying(t, map[string]string{"range-global": "10.0.0.7-10.0.0.9,fd00::7-fd00::7"})
		j.links[0].Addrs = append(j.links[0].Addrs, netip.MustParsePrefix("fd00::1/64"))
		six := service("a", families(corev1.IPv6Protocol))
		j.see(t, six)
		j.settle(t)
		j.see(t, service("a", families(corev1.IPv6Protocol), version("2"), asking("fd00::7")))
		prefer := []func(*corev1.Service){dualStack(corev1.IPFamilyPolicyPreferDualStack), annotated(EndpointlessAnnotation, "true")}
		j.see(t, service("b", prefer...))
		j.settle(t)
		prefer = append(prefer, asking("10.0.0.7"), annotated(AllocatedAnnotation, "10.0.0.7"))
		j.see(t, service("b", append(prefer, version("2"))...))
		j.settle(t)
		w.expect(t, "one family", "ask fd00::7 on eth0", "write fd00::7 to a", "ask 10.0.0.7 on eth0", "write 10.0.0.7 to b")
		const lacks = "pool range-global has no IPv6 address left: Services have 1 of its 1"
		if said := j.known["shop/b"].said; !strings.HasPrefix(said, lacks) {
			t.Errorf("it says %q, want %q", said, lacks)
		}
		if err := j.sources.services.informer.GetStore().Delete(six); err != nil {
			t.Fatal(err)
		}
		j.queue.Add("shop/a")
		j.pass(t)
		j.settle(t)
		w.expect(t, "given back", "ask fd00::7 on eth0", "write 10.0.0.7,fd00::7 to b")
		j.see(t, service("b", prefer[0], prefer[1], version("3"), asking("10.0.0.7,fd00::7"), annotated(AllocatedAnnotation, "10.0.0.7,fd00::7")))
		j.settle(t)
		if said := j.known["shop/b"].said; said != "" || len(j.book.hungry) > 0 {
			t.Errorf("it says %q, and hungry are %v", said, j.book.hungry)
		}
	})
}

// The leader need not have a place for an address itself: another node may. But its own is nobody's.
func TestSupplyPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, w := supplying(t, map[string]string{"range-global": "10.0.0.1-10.0.0.2"})
		j.see(t, service("a", annotated(InterfaceAnnotation, "lan7")))
		j.settle(t)
		w.expect(t, "elsewhere", "write 10.0.0.2 to a")
		if log := j.log.String(); !strings.Contains(log, `msg="Service was given addresses" service=shop/a addresses="10.0.0.2 out of the pool range-global"`) {
			t.Errorf("the log does not tell of the address: %s", log)
		}
	})
}

// What is wrong in the ConfigMap is told by who leads, also when it was there before.
func TestPoolsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, _ := supplying(t, nil)
		to := &told{}
		j.Led("group", ha.Lead{})
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: PoolNamespace, Name: PoolConfigMap, ResourceVersion: "1"}, Data: map[string]string{"cidr-shop": "10.0.0.300"}}
		if err := j.sources.maps.informer.GetStore().Add(m); err != nil {
			t.Fatal(err)
		}
		j.queue.Add(poolKey)
		j.pass(t)
		j.Led("group", ha.Lead{Held: true})
		j.pass(t) // Events cannot be told yet
		j.writer.events = to
		time.Sleep(time.Second)
		j.pass(t)
		const want = "Warning BadPool cidr-shop: 10.0.0.300: "
		if got := to.take(); len(got) != 1 || !strings.HasPrefix(got[0], want) {
			t.Errorf("told is %q, want one of %q", got, want)
		}
		j.queue.Add(poolKey)
		j.pass(t)
		if got := to.take(); len(got) > 0 {
			t.Errorf("it is told again: %q", got)
		}
		j.Led("group", ha.Lead{})
		j.pass(t)
		j.Led("group", ha.Lead{Held: true})
		j.pass(t)
		if got := to.take(); len(got) != 1 {
			t.Errorf("a new leader tells %q", got)
		}
	})
}

// What was let go long ago is forgotten.
func TestLately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		for i := range 1000 {
			addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			b.set(pool.Service{Name: "a"}, []netip.Addr{addr})
			b.set(pool.Service{Name: "a"}, nil)
			if !b.lately(addr) {
				t.Fatalf("%s was let go just now", addr)
			}
			time.Sleep(time.Second)
		}
		if len(b.freed) > 2*prunedLeast || b.lately(netip.MustParseAddr("10.0.0.1")) {
			t.Errorf("%d are remembered", len(b.freed))
		}
	})
}

// What a question found belongs to the Service as it was: a node of ours may have had the address meanwhile.
func TestSupplyLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, w := supplying(t, map[string]string{"range-global": "10.0.0.7-10.0.0.7,fd00::7-fd00::7"})
		j.links[0].Addrs = append(j.links[0].Addrs, netip.MustParsePrefix("fd00::1/64"))
		given := func(addrs string) func(*corev1.Service) {
			return func(s *corev1.Service) { asking(addrs)(s); annotated(AllocatedAnnotation, addrs)(s) }
		}
		w.hosts["fd00::7"] = net.HardwareAddr{2, 0, 0, 0, 0, 1}
		prefer, single := dualStack(corev1.IPFamilyPolicyPreferDualStack), dualStack(corev1.IPFamilyPolicySingleStack)
		j.see(t, service("a", given("10.0.0.7"), prefer))
		j.see(t, service("a", version("2"), given("10.0.0.7,fd00::7"), prefer))
		j.settle(t)
		w.expect(t, "two families", "ask fd00::7 on eth0")
		delete(w.hosts, "fd00::7")
		time.Sleep(time.Hour)
		j.see(t, service("a", version("3"), given("10.0.0.7,fd00::7"), families(corev1.IPv4Protocol), single))
		j.settle(t)
		w.expect(t, "one family", "write 10.0.0.7 to a")
		j.see(t, service("a", version("4"), given("10.0.0.7"), families(corev1.IPv4Protocol), single))
		j.see(t, service("a", version("5"), given("10.0.0.7"), prefer))
		j.settle(t)
		w.expect(t, "two again", "ask fd00::7 on eth0", "write 10.0.0.7,fd00::7 to a")
	})
}

// Nothing is kept of a Service that is gone.
func TestSupplyForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, _ := supplying(t, map[string]string{"range-global": "10.0.0.7-10.0.0.7"})
		j.see(t, service("a"))
		j.see(t, service("a", version("2"), asking("10.0.0.7")))
		j.settle(t)
		if err := j.sources.services.informer.GetStore().Delete(service("a")); err != nil {
			t.Fatal(err)
		}
		j.queue.Add("shop/a")
		j.pass(t)
		if len(j.supply.outcomes) > 0 || len(j.book.shares) > 0 {
			t.Errorf("there is left: %v, %v", j.supply.outcomes, j.book.shares)
		}
	})
}

// A stranger keeps what it has, and another address is given out.
func TestSupplyStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, w := supplying(t, map[string]string{"range-global": "10.0.0.7-10.0.0.8"})
		w.hosts["10.0.0.7"] = net.HardwareAddr{2, 0, 0, 0, 0, 1}
		j.see(t, service("a"))
		j.settle(t)
		j.settle(t)
		w.expect(t, "taken", "ask 10.0.0.7 on eth0", "ask 10.0.0.8 on eth0", "write 10.0.0.8 to a")
	})
}
