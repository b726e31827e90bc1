package e2e

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/test/lab"
)

const (
	// rolls is how often every instance is stopped and started again.
	rolls = 20
	// requestEvery is the time between two requests to one port of an address, questionEvery between two questions who
	// has an address: a dozen ports and eight addresses are asked at that rate on a machine of two cores.
	requestEvery, questionEvery = 40 * time.Millisecond, 20 * time.Millisecond
	// requestTimeout is below the second after which a client's kernel sends a SYN again: what is lost counts as lost.
	requestTimeout = 500 * time.Millisecond
	// worstGap bounds what one roll may cost who uses an address, and worstShare the requests that fail in all, at ten times
	// what was seen. An instance is rolled in every second; less often, less of them would fail.
	worstGap, worstShare = 4 * time.Second, 0.3
)

// load is a port of an address that a client uses all along.
type load struct {
	of  string
	gap *lab.Gap
}

// step is one instance that was rolled.
type step struct {
	node  string
	began time.Time
}

// servicesRolled rolls all instances again and again under load: no two nodes ever answer for an address, nothing moves
// but what the stopped one held, once, and every address serves again.
func servicesRolled(t *testing.T, s *services) {
	tcp := func(number int32) []func(*corev1.Service) {
		return []func(*corev1.Service){port(corev1.ProtocolTCP, number)}
	}
	local := func(o *corev1.Service) { o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	alone, shared, near, nearer := s.addrs(41), s.addrs(42), s.addrs(43), s.addrs(44)
	all := []struct {
		name   string
		addrs  []netip.Addr
		port   int32
		change []func(*corev1.Service)
	}{
		{"roll-alone", alone, 80, nil},
		{"roll-shared-a", shared, 80, tcp(80)},
		{"roll-shared-b", shared, 81, tcp(81)},
		{"roll-local-a", near, 80, []func(*corev1.Service){local}},
		{"roll-local-b", nearer, 80, []func(*corev1.Service){local}},
		{"roll-control-plane", s.VIPs, 80, tcp(80)},
	}
	var services []*lab.Service
	for _, one := range all {
		service := s.create(t, one.name, one.addrs, one.change...)
		s.on(t, service, one.addrs)
		services = append(services, service)
	}

	var loads []load
	ask := func(of string, o lab.GapOptions) {
		t.Helper()
		o.Interval, o.Timeout = requestEvery, requestTimeout
		gap, err := s.Client.StartGap(within(t, patience), o)
		if err != nil {
			t.Fatal(err)
		}
		loads = append(loads, load{fmt.Sprintf("%s at %s", of, o.Target), gap})
	}
	watches := map[netip.Addr]*lab.AnswerWatch{}
	for _, one := range all {
		for _, a := range one.addrs {
			ask(one.name, lab.GapOptions{Target: netip.AddrPortFrom(a, uint16(one.port)), HTTP: true})
			if watches[a] != nil {
				continue
			}
			w, err := s.WatchAnswers(a, questionEvery)
			if err != nil {
				t.Fatal(err)
			}
			watches[a] = w
		}
	}
	for _, a := range s.VIPs {
		ask("the API servers", lab.GapOptions{Target: netip.AddrPortFrom(a, apiPort)})
	}

	var steps []step
	var stopping, starting time.Duration
	began := time.Now()
	for range rolls {
		for _, n := range s.Nodes {
			steps = append(steps, s.roll(t, n, len(all), slices.Collect(maps.Keys(watches)), loads, &stopping, &starting))
		}
	}
	took := time.Since(began)
	wait(t, time.Second) // what would come back by itself

	t.Logf("%d rolls of %d instances in %s; each took %s to stop, and %s until it was ready and all addresses served", rolls, len(s.Nodes), took.Round(time.Second),
		(stopping / time.Duration(len(steps))).Round(time.Millisecond), (starting / time.Duration(len(steps))).Round(time.Millisecond))
	requests, failed := 0, 0
	for _, l := range loads {
		r := l.gap.Stop()
		t.Logf("%s: %s", l.of, r)
		requests, failed = requests+len(r.Attempts), failed+r.Failed
		if r.Longest > worstGap {
			t.Errorf("%s did not serve for %s: %s", l.of, r.Longest, r.Timeline(100))
		}
	}
	moves := 0
	for addr, w := range watches {
		a := w.Stop()
		n, wrong := rolled(a.Samples, steps)
		moves += n
		t.Logf("%s: %d questions, answered by %d at most, silent for %s at most, moved %d times", addr, len(a.Samples), a.Max, a.Silence.Round(time.Millisecond), n)
		for _, text := range wrong {
			t.Errorf("%s: %s", addr, text)
		}
	}
	t.Logf("%d requests, %d failed; addresses moved %d times", requests, failed, moves)
	if failed > int(float64(requests)*worstShare) {
		t.Errorf("%d of %d requests failed", failed, requests)
	}
	if moves < rolls {
		t.Errorf("the addresses moved %d times in %d rolls: what was rolled held nothing", moves, rolls)
	}
	for _, service := range services {
		s.handedOver(t, service)
	}
	s.settled(t)
}

// handedOver checks that whenever a Service moved its Lease had been given up, and was not waited for.
func (s *services) handedOver(t *testing.T, service *lab.Service) {
	t.Helper()
	client, err := s.Kube()
	if err != nil {
		t.Fatal(err)
	}
	list, err := client.CoreV1().Events(service.Namespace).List(within(t, patience), metav1.ListOptions{FieldSelector: "reason=" + svc.ReasonMoved + ",involvedObject.name=" + service.Name})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) == 0 {
		t.Errorf("no Event says that %s moved", service.Name)
	}
	for _, e := range list.Items {
		if !strings.Contains(e.Message, " gave the Lease up, ") {
			t.Errorf("%s: %s", service.Name, e.Message)
		}
	}
}

// roll stops an instance and starts it again, until it is ready, knows the Services, some node holds each address, and
// everything has been served since it was stopped: by a neighbour that knows the old node still, and kube-proxy there, it may
// have been before the address moved.
func (s *services) roll(t *testing.T, n *lab.Node, services int, addrs []netip.Addr, loads []load, stopping, starting *time.Duration) step {
	t.Helper()
	began := time.Now()
	if err := s.pods[n].Stop(); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	s.run(t, n, lab.PodOptions{})
	eventually(t, n.Name+" is ready", func() (bool, error) {
		_, err := s.pods[n].Get(within(t, patience), readyURL)
		return err == nil, nil
	})
	samples, err := s.pods[n].Metrics(within(t, patience), metricsURL)
	if err != nil {
		t.Fatal(err)
	}
	if known := samples[`kube_vip_services{state="announced"}`]; int(known) != services {
		t.Errorf("%s was ready, and knew %g Services of %d", n, known, services)
	}
	for _, a := range addrs {
		if _, err := s.WaitHolder(within(t, patience), a); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range loads {
		if err := l.gap.WaitFor(within(t, patience), stopped); err != nil {
			t.Fatalf("%s, after %s was rolled: %v", l.of, n, err)
		}
	}
	wait(t, 3*questionEvery) // until it is seen who answers
	*stopping += stopped.Sub(began)
	*starting += time.Since(stopped)
	return step{n.Name, began}
}

// rolled says how often an address moved while instances were rolled, and what of that should not be.
func rolled(samples []lab.Sample, steps []step) (moves int, wrong []string) {
	last := ""
	perStep := make([]int, len(steps))
	for _, sample := range samples {
		at := sample.Time.Format(time.StampMilli)
		if len(sample.By) > 1 {
			wrong = append(wrong, fmt.Sprintf("%v answered at %s", sample.By, at))
		}
		for _, by := range sample.By {
			if last == "" || by == last {
				last = by
				continue
			}
			moves++
			// The step that was the last one to begin before it.
			i, _ := slices.BinarySearchFunc(steps, sample.Time, func(s step, at time.Time) int { return s.began.Compare(at) })
			switch i--; {
			case i < 0:
				wrong = append(wrong, fmt.Sprintf("it went from %s to %s at %s, before anything was rolled", last, by, at))
			case steps[i].node != last:
				wrong = append(wrong, fmt.Sprintf("it went from %s to %s at %s, while %s was rolled", last, by, at, steps[i].node))
			case perStep[i] > 0:
				wrong = append(wrong, fmt.Sprintf("it went from %s to %s at %s, and had moved since %s was rolled", last, by, at, steps[i].node))
			}
			if i >= 0 {
				perStep[i]++
			}
			last = by
		}
	}
	return moves, wrong
}

// TestRolled is what is made of who answered.
func TestRolled(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	after := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	steps := []step{{"cp1", after(10)}, {"cp2", after(20)}, {"cp3", after(30)}}
	at := func(seconds int, by ...string) lab.Sample { return lab.Sample{Time: after(seconds), By: by} }
	for _, tt := range []struct {
		name    string
		samples []lab.Sample
		moves   int
		wrong   []string
	}{
		{"each hands over once", []lab.Sample{at(9, "cp1"), at(10), at(11, "cp2"), at(19, "cp2"), at(21), at(22, "cp1"), at(31, "cp1")}, 2, nil},
		{"two answer", []lab.Sample{at(9, "cp1"), at(11, "cp1", "cp2"), at(12, "cp2")}, 1, []string{"[cp1 cp2] answered at Jan  2 03:04:16.000"}},
		{"it comes back", []lab.Sample{at(9, "cp1"), at(11, "cp2"), at(12, "cp1")}, 2, []string{"it went from cp2 to cp1 at Jan  2 03:04:17.000, while cp1 was rolled"}},
		{"back and forth", []lab.Sample{at(9, "cp1"), at(11, "cp2"), at(12, "cp1"), at(13, "cp3")}, 3, []string{
			"it went from cp2 to cp1 at Jan  2 03:04:17.000, while cp1 was rolled",
			"it went from cp1 to cp3 at Jan  2 03:04:18.000, and had moved since cp1 was rolled",
		}},
		{"for no reason", []lab.Sample{at(9, "cp1"), at(21, "cp3")}, 1, []string{"it went from cp1 to cp3 at Jan  2 03:04:26.000, while cp2 was rolled"}},
		{"too early", []lab.Sample{at(1, "cp1"), at(2, "cp3")}, 1, []string{"it went from cp1 to cp3 at Jan  2 03:04:07.000, before anything was rolled"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			moves, wrong := rolled(tt.samples, steps)
			if diff := cmp.Diff(tt.wrong, wrong); diff != "" || moves != tt.moves {
				t.Errorf("%d moves, want %d; what is wrong (-want +got):\n%s", moves, tt.moves, diff)
			}
		})
	}
}
