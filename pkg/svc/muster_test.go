package svc

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/vip"
)

// leases are Leases with one holder.
type leases struct {
	stood  []ha.Candidacy
	holder ha.Holder
}

func (l *leases) Stand(c ha.Candidacy) error           { l.stood = append(l.stood, c); return nil }
func (l *leases) Leave(string, string)                 {}
func (l *leases) Holder(_, _ string) (ha.Holder, bool) { return l.holder, l.holder.Identity != "" }

type claims struct{}

func (claims) Claim(string, string, []vip.VIP) {}
func (claims) Unclaim(string)                  {}

// assessor is a Controller that does not run, and what it tells.
type assessor struct {
	*Controller
	mu     sync.Mutex
	peers  []Peer // guarded by mu
	lacks  []string
	fit    []string // every reason that Fit was told, in order; empty for a node that fits
	leases leases
	log    bytes.Buffer
}

func newAssessor(t *testing.T, o Options) *assessor {
	t.Helper()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "127.0.0.1:1"}) // nobody asks it
	if err != nil {
		t.Fatal(err)
	}
	j := &assessor{}
	o.Node, o.Mandate, o.Exclude = "n1", "group", true
	if o.Client == nil {
		o.Client = client
	}
	o.Writer, o.Events = o.Client, o.Client
	o.Others = func() []Peer {
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.peers
	}
	o.Lacks = func(list []string) { j.lacks = list }
	o.Fit = func(ok bool, reason string) {
		if ok != (reason == "") {
			t.Errorf("fit %t: %q", ok, reason)
		}
		j.fit = append(j.fit, reason)
	}
	o.Leases, o.Claimer = &j.leases, claims{}
	o.Log = slog.New(slog.NewTextHandler(&j.log, nil))
	j.Controller = New(o)
	t.Cleanup(j.queue.ShutDown)
	t.Cleanup(j.writer.queue.ShutDown)
	j.at.members = j.muster()
	return j
}

// meet says who else is there.
func (j *assessor) meet(peers ...Peer) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.peers = peers
}

// have puts objects where the informers would.
func (j *assessor) have(t *testing.T, objects ...any) {
	t.Helper()
	for _, o := range objects {
		store := j.sources.nodes.informer.GetStore()
		if _, is := o.(*corev1.Service); is {
			store = j.sources.services.informer.GetStore()
		}
		if err := store.Add(o); err != nil {
			t.Fatal(err)
		}
	}
}

// last is what Fit was told last, and how often it was told anything.
func (j *assessor) last() string {
	if len(j.fit) == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%d: %s", len(j.fit), j.fit[len(j.fit)-1])
}

func (j *assessor) expect(t *testing.T, want string) {
	t.Helper()
	j.assess()
	if got := j.last(); got != want {
		t.Errorf("Fit was told %q, want %q", got, want)
	}
}

func TestAssess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newAssessor(t, Options{})
		j.meet(Peer{Node: "n2"})
		j.have(t, node("n1"), node("n2"))
		j.expect(t, "1: ")
		j.expect(t, "1: ") // the same is not told twice

		j.have(t, node("n1", cordon))
		j.expect(t, "2: node n1 is cordoned (spec.unschedulable)")
		j.have(t, node("n2", cordon))
		j.expect(t, "3: ")
		j.have(t, node("n2"))
		j.expect(t, "4: node n1 is cordoned (spec.unschedulable)")
		j.meet()
		j.expect(t, "5: ")
		j.meet(Peer{Node: "n2", Lacks: []string{lacksAll}})
		j.expect(t, "5: ")

		// A kubelet that is unwell for a moment moves nothing, however often.
		j.meet(Peer{Node: "n2"})
		for range 3 {
			j.have(t, node("n1", is(corev1.ConditionUnknown)))
			j.expect(t, "5: ")
			time.Sleep(notReadyFor - time.Second)
			j.expect(t, "5: ")
			j.have(t, node("n1"))
			j.expect(t, "5: ")
		}
		j.have(t, node("n1", is(corev1.ConditionFalse)))
		j.expect(t, "5: ")
		time.Sleep(notReadyFor)
		j.expect(t, "6: node n1 is not ready (its condition Ready is False)")
		j.have(t, node("n2", is(corev1.ConditionFalse)))
		j.expect(t, "7: ")
	})
}

// TestMind: who comes and goes is noticed although no event tells of it.
func TestMind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newAssessor(t, Options{})
		go j.mind(t.Context())
		noticed := func(want bool) {
			t.Helper()
			time.Sleep(membersEvery + time.Millisecond)
			synctest.Wait()
			if got := j.queue.Len() > 0; got != want {
				t.Errorf("noticed %t, want %t", got, want)
			}
			for j.queue.Len() > 0 {
				key, _ := j.queue.Get()
				j.queue.Done(key)
			}
		}
		noticed(false)
		j.meet(Peer{Node: "n2"})
		noticed(true)
		noticed(false)
		j.meet(Peer{Node: "n2", Lacks: []string{"eth1"}})
		noticed(true)
	})
}

// TestLacks: what has no place here is told, and when that is all of the group's, this node leaves it to one that does.
func TestLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newAssessor(t, Options{Pools: PoolsOff})
		j.meet(Peer{Node: "n2"})
		here := vip.Link{Index: 2, Name: "eth0", Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}
		look := func(links ...vip.Link) {
			t.Helper()
			j.links = links
			for _, key := range slices.Sorted(slices.Values(j.sources.services.informer.GetStore().ListKeys())) {
				j.reconcile(key)
			}
			if !j.at.stale {
				t.Error("other interfaces are no reason to assessor anew")
			}
		}
		anyway := annotated(EndpointlessAnnotation, "true")
		j.have(t, service("a", asking("10.0.0.10"), anyway), service("b", asking("10.9.0.10"), anyway),
			service("c", asking("10.0.0.11"), anyway, annotated(InterfaceAnnotation, "eth1")))
		check := func(lacks, fit string) {
			t.Helper()
			j.expect(t, fit)
			if got := strings.Join(j.lacks, " "); got != lacks {
				t.Errorf("lacks %s, want %s", got, lacks)
			}
		}
		look(here)
		check("10.9.0.10 eth1", "1: ")
		look(vip.Link{Index: 3, Name: "eth1", Up: true})
		check("* 10.0.0.10 10.9.0.10", "2: it can hold no Service's address; node n1: no interface's subnet contains 10.0.0.10 any more; it was on eth0")
		j.meet(Peer{Node: "n2", Lacks: []string{lacksAll}})
		check("* 10.0.0.10 10.9.0.10", "3: ") // as well here as there
		look(here)
		check("10.9.0.10 eth1", "3: ")
	})
}

// TestLacksBounded: a node that has nothing does not fill its member Lease.
func TestLacksBounded(t *testing.T) {
	j := newAssessor(t, Options{})
	for i := range 1000 {
		j.known[fmt.Sprint("shop/", i)] = &entry{lacks: []string{fmt.Sprint("10.0.0.", i)}}
	}
	if lacks, _ := j.missing(); len(lacks) != mostLacks {
		t.Errorf("it tells of %d", len(lacks))
	}
}

// TestVacant: that no node can hold a Service is told when it has lasted, and never while somebody holds it.
func TestVacant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newAssessor(t, Options{})
		r := &entry{nowhere: time.Now(), own: true, lease: types.NamespacedName{Namespace: "shop", Name: "kubevip-a"}}
		p := Plan{Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.10")}}
		if j.vacant("shop/a", r, p) {
			t.Error("it is told at once")
		}
		time.Sleep(nowhereFor)
		j.leases.holder = ha.Holder{Identity: "n3", Expires: time.Now().Add(time.Second)}
		if j.vacant("shop/a", r, p) {
			t.Error("it is told while n3 holds the Lease")
		}
		time.Sleep(2 * time.Second)
		if !j.vacant("shop/a", r, p) {
			t.Error("it is not told")
		}
	})
}

// TestAlarm: that no node is left is told when it has lasted, once, and again when it is for another reason.
func TestAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newAssessor(t, Options{})
		j.have(t, node("n1", excluded), node("n2"))
		j.meet(Peer{Node: "n2"})
		said := func(want int) {
			t.Helper()
			for range 3 {
				j.assess()
				time.Sleep(noneLeftFor)
			}
			if got := strings.Count(j.log.String(), "level=WARN msg=\"no node is left to hold Services' addresses: node n1 has the label "); got != want {
				t.Errorf("it was said %d times, want %d:\n%s", got, want, j.log.String())
			}
		}
		said(0)
		j.have(t, node("n2", excluded))
		j.assess()
		time.Sleep(noneLeftFor - time.Second)
		j.assess()
		if j.at.noneSaid != "" {
			t.Error("it is said at once")
		}
		said(1)
		j.meet()
		said(2)
		j.have(t, node("n1"))
		said(2)
		if !strings.Contains(j.log.String(), "a node is left to hold Services' addresses again") {
			t.Error("it is not said that it is over")
		}
	})
}

// TestDeputy: when no node may lead, the first by name writes what becomes of Services, once it has lasted and while
// nobody holds the Lease; nobody else does, and not of what is held under another mandate.
func TestDeputy(t *testing.T) {
	const why = " has the label node.kubernetes.io/exclude-from-external-load-balancers (svc_exclude_label)"
	group := "NoNodeLeft: no node is left to hold Services' addresses: "
	for _, tc := range []struct {
		name   string
		peer   string // the other member, which is excluded
		spared bool   // it is not
		held   bool   // somebody holds the group's Lease
		want   [3]string
	}{
		{name: "the first", peer: "n2", want: [3]string{group + "node n1" + why + "; node n2" + why, "NoNode: no node can hold it: node n1" + why + "; node n2" + why, ""}},
		{name: "not the first", peer: "n0"},
		{name: "one is left", peer: "n2", spared: true},
		{name: "one holds all the same", peer: "n2", held: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				held := tc.held
				j := newAssessor(t, Options{Pools: PoolsOff, Vacant: func() bool { return !held },
					Elsewhere: func(a netip.Addr) (string, bool) { return "plane", a.String() == "10.0.0.100" }})
				anyway := annotated(EndpointlessAnnotation, "true")
				j.have(t, service("a", asking("10.0.0.10"), anyway), service("b", asking("10.0.0.11"), anyway, annotated(PreferredAnnotation, "n1")),
					service("c", asking("10.0.0.100"), anyway), node("n1", excluded), node(tc.peer, excluded))
				if tc.spared {
					j.have(t, node(tc.peer))
				}
				j.meet(Peer{Node: tc.peer})
				expect := func(when string, want [3]string) {
					t.Helper()
					j.assess()
					for j.queue.Len() > 0 {
						key, _ := j.queue.Get()
						if strings.HasPrefix(key, "shop/") {
							j.reconcile(key)
						}
						j.queue.Done(key)
					}
					for i, name := range []string{"shop/a", "shop/b", "shop/c"} {
						got := ""
						if w := j.writer.wants[name]; w != nil {
							got = w.shown.reason + ": " + w.shown.message
							if !w.shown.ours || w.shown.announced || w.shown.host != "" || len(w.shown.addrs) > 0 {
								t.Errorf("%s, %s: %+v", when, name, w.shown)
							}
						}
						if got != want[i] {
							t.Errorf("%s, %s: the status is to be %q, want %q", when, name, got, want[i])
						}
					}
				}
				expect("at once", [3]string{})
				time.Sleep(noneLeftFor - time.Second)
				expect("before it has lasted", [3]string{})
				time.Sleep(time.Second)
				expect("when it has lasted", tc.want)
				if tc.want[0] == "" {
					return
				}
				held = true // somebody sees more than this node, and has the word
				j.all()
				expect("when it is held", [3]string{})
				held = false
				time.Sleep(noneLeftFor)
				expect("when that has ended", tc.want) // no event tells of it
				j.have(t, node(tc.peer))
				expect("when a node is left", [3]string{})
			})
		})
	}
}

// TestForcedInVain: an annotation that does nothing is told of once.
func TestForcedInVain(t *testing.T) {
	for _, onDemand := range []bool{false, true} {
		j := newAssessor(t, Options{OnDemand: onDemand, Pools: PoolsOff})
		forced := annotated(ForceAnnotation, "true")
		j.have(t, service("a", forced), service("b", forced))
		j.reconcile("shop/a")
		j.reconcile("shop/b")
		want := 1
		if onDemand {
			want = 0
		}
		if got := strings.Count(j.log.String(), "forcePerServiceElection does nothing without per_service_election_on_demand"); got != want {
			t.Errorf("on demand %t: it was said %d times, want %d", onDemand, got, want)
		}
	}
}

// TestStand: a candidacy has the rank that goes with the others that may hold it.
func TestStand(t *testing.T) {
	j := newAssessor(t, Options{PerService: true})
	j.have(t, node("n1", weighing("0")), node("n2"), node("n3", cordon))
	j.meet(Peer{Node: "n2"}, Peer{Node: "n3"})
	j.assess()
	for name, change := range map[string]func(*corev1.Service){
		"1": annotated(EndpointlessAnnotation, "true"),
		"0": annotated(PreferredAnnotation, "n1"),
	} {
		s := service("a", asking("10.0.0.10"), annotated(EndpointlessAnnotation, "true"), change)
		j.leases.stood = nil
		j.have(t, s)
		j.reconcile("shop/a")
		if len(j.leases.stood) != 1 || fmt.Sprint(j.leases.stood[0].Rank) != name {
			t.Errorf("it stands as %+v, want rank %s", j.leases.stood, name)
		}
	}
}

// TestRefusedLease: a Service that is refused its Lease is held by nobody, the group's leader says so, and who shares the
// address is looked at again, for its Lease is another one now.
func TestRefusedLease(t *testing.T) {
	j := newAssessor(t, Options{PerService: true, Reserved: testReserved})
	j.have(t, node("n1"))
	j.assess()
	born := time.Now()
	share := func(name, lease string, port int32) *corev1.Service {
		s := service(name, asking("10.0.0.10"), annotated(EndpointlessAnnotation, "true"), annotated(LeaseAnnotation, lease))
		s.Spec.Ports = []corev1.ServicePort{{Port: port}}
		born = born.Add(time.Second)
		s.CreationTimestamp.Time = born
		return s
	}
	stood := func(name string) string {
		j.leases.stood = nil
		j.reconcile("shop/" + name)
		var list []string
		for _, c := range j.leases.stood {
			list = append(list, c.Mandate())
		}
		return strings.Join(list, " ")
	}
	expect := func(name, want string) {
		t.Helper()
		if got := stood(name); got != want {
			t.Errorf("%s: it stands for %q, want %q", name, got, want)
		}
	}
	j.have(t, share("a", "together", 80), share("b", "", 81))
	expect("a", "shop/together")
	expect("b", "shop/together")
	for j.queue.Len() > 0 {
		key, _ := j.queue.Get()
		j.queue.Done(key)
	}
	j.have(t, share("a", "kube-system/kube-scheduler", 80))
	expect("a", "")
	if j.writer.wants["shop/a"] != nil {
		t.Error("one that does not lead writes the status")
	}
	if n := j.queue.Len(); n != 2 {
		t.Errorf("%d that have the address are looked at again, want both", n)
	}
	expect("b", "shop/kubevip-b")
	j.Led("group", ha.Lead{Held: true})
	expect("a", "")
	want := shown{ours: true, reason: ReasonRefused, message: "refused kube-system/kube-scheduler: the annotation kube-vip.io/leaseName may not name a Lease in kube-system, " +
		"where Kubernetes has its own: write a name alone, for one in shop"}
	if got := j.writer.wants["shop/a"]; got == nil || !got.shown.equal(want) {
		t.Errorf("the status is to be %+v, want %+v", got, want)
	}
}

// TestStandUnderAnotherLease: when the oldest of those that share an address goes, its Lease goes too, and who has the
// address tries first for the next one's, for whichever Service it is that stands for it.
func TestStandUnderAnotherLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newAssessor(t, Options{PerService: true})
		j.have(t, node("n1", weighing("0")), node("n2"), node("n3"))
		j.meet(Peer{Node: "n2"}, Peer{Node: "n3"})
		j.assess()
		born := time.Now()
		share := func(name string, port int32) *corev1.Service {
			s := service(name, asking("10.0.0.10"), annotated(EndpointlessAnnotation, "true"), annotated(HostAnnotation, "n1"))
			s.Spec.Ports = []corev1.ServicePort{{Port: port}}
			born = born.Add(time.Second)
			s.CreationTimestamp.Time = born
			return s
		}
		first, second, third := share("b", 80), share("c", 81), share("a", 82)
		delete(third.Annotations, HostAnnotation)
		stood := func(name string) string {
			j.leases.stood = nil
			j.reconcile("shop/" + name)
			if len(j.leases.stood) != 1 {
				t.Fatalf("%s stands as %+v", name, j.leases.stood)
			}
			return fmt.Sprintf("%s, rank %d", j.leases.stood[0].Name, j.leases.stood[0].Rank)
		}
		expect := func(name, want string) {
			t.Helper()
			if got := stood(name); got != want {
				t.Errorf("%s: it stands for %s, want %s", name, got, want)
			}
		}
		j.have(t, first, second, third)
		time.Sleep(time.Minute)
		for _, name := range []string{"b", "c", "a"} {
			expect(name, "kubevip-b, rank 2")
		}
		if err := j.sources.services.informer.GetStore().Delete(first); err != nil {
			t.Fatal(err)
		}
		j.reconcile("shop/b")
		expect("a", "kubevip-c, rank 0")
		expect("c", "kubevip-c, rank 0")
		time.Sleep(2 * resettle)
		expect("a", "kubevip-c, rank 2")
		expect("c", "kubevip-c, rank 2")
	})
}

// TestBegin: after a start an announced address stays with who has it, though one that came earlier asks for it, too, and has
// another one.
func TestBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		born := func(at int64) func(*corev1.Service) {
			return func(s *corev1.Service) { s.CreationTimestamp.Time = time.Unix(at, 0) }
		}
		list := []*corev1.Service{
			service("a", born(1), asking("10.0.0.7")),
			service("b", born(2), asking("10.0.0.7,10.0.0.8"), announced("10.0.0.8")),
			service("c", born(3), asking("10.0.0.7"), announced("10.0.0.7")),
			service("d", born(4), asking("10.0.0.9"), announced("10.0.0.7")), // it has been edited since
		}
		j := newAssessor(t, Options{Pools: PoolsOff})
		for _, s := range list {
			j.have(t, s)
		}
		j.begin()
		w := newJudge(Options{Rules: j.o.Rules}, testLocks, World{Services: list})
		for name, want := range map[string]string{"shop/a": "", "shop/b": "10.0.0.8", "shop/c": "10.0.0.7", "shop/d": "10.0.0.9"} {
			if got := join(j.known[name].addrs); got != want {
				t.Errorf("%s has %q, want %q", name, got, want)
			}
			if got := join(w.known[name].addrs); got != want {
				t.Errorf("explain says that %s has %q, want %q", name, got, want)
			}
		}
	})
}
