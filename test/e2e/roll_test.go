package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

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
	// worstGap bounds what one roll may cost an address, and worstShare the requests that fail in all, at ten times of
	// what was seen. An address whose Lease had to expire would be silent for more than five seconds.
	worstGap, worstShare = 3 * time.Second, 0.05
)

// load is a port of an address that a client uses all along.
type load struct {
	of  string
	gap *lab.Gap
}

// step is one instance that was rolled.
type step struct {
	node  *lab.Node
	began time.Time
}

// servicesRolled rolls all instances again and again under load: no two nodes ever answer for an address, nothing moves
// but what the stopped one held, once, and every address serves again.
func servicesRolled(t *testing.T, s *services) {
	port := func(number int32) func(*corev1.Service) {
		return func(o *corev1.Service) {
			o.Spec.Ports = []corev1.ServicePort{{Name: "tcp", Protocol: corev1.ProtocolTCP, Port: number, TargetPort: o.Spec.Ports[0].TargetPort}}
		}
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
		{"roll-shared-a", shared, 80, []func(*corev1.Service){port(80)}},
		{"roll-shared-b", shared, 81, []func(*corev1.Service){port(81)}},
		{"roll-local-a", near, 80, []func(*corev1.Service){local}},
		{"roll-local-b", nearer, 80, []func(*corev1.Service){local}},
		{"roll-control-plane", s.VIPs, 80, []func(*corev1.Service){port(80)}},
	}
	for _, one := range all {
		s.on(t, s.create(t, one.name, one.addrs, one.change...), one.addrs)
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
			steps = append(steps, s.roll(t, n, loads, &stopping, &starting))
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
	for a, w := range watches {
		moves += rolled(t, a, w.Stop(), steps)
	}
	t.Logf("%d requests, %d failed; addresses moved %d times", requests, failed, moves)
	if failed > int(float64(requests)*worstShare) {
		t.Errorf("%d of %d requests failed", failed, requests)
	}
	if moves < rolls {
		t.Errorf("the addresses moved %d times in %d rolls: what was rolled held nothing", moves, rolls)
	}
	s.settled(t)
}

// roll stops an instance and starts it again, until it is ready and everything has been served since it was stopped.
func (s *services) roll(t *testing.T, n *lab.Node, loads []load, stopping, starting *time.Duration) step {
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
	for _, l := range loads {
		if err := l.gap.WaitFor(within(t, patience), stopped); err != nil {
			t.Fatalf("%s, after %s was rolled: %v", l.of, n, err)
		}
	}
	*stopping += stopped.Sub(began)
	*starting += time.Since(stopped)
	return step{n, began}
}

// rolled checks who answered for an address while instances were rolled, and counts how often it moved.
func rolled(t *testing.T, addr netip.Addr, a lab.Answers, steps []step) (moves int) {
	t.Helper()
	t.Logf("%s: %d questions, answered by %d at most, silent for %s at most, moved %d times", addr, len(a.Samples), a.Max, a.Silence.Round(time.Millisecond), len(a.Owners)-1)
	last := ""
	perStep := make([]int, len(steps))
	for _, sample := range a.Samples {
		if len(sample.By) > 1 {
			t.Errorf("%v answered for %s at %s", sample.By, addr, sample.Time.Format(time.StampMilli))
		}
		if len(sample.By) == 0 {
			continue
		}
		by := sample.By[len(sample.By)-1]
		if last == "" || by == last {
			last = by
			continue
		}
		// The step that began last before it.
		i, _ := slices.BinarySearchFunc(steps, sample.Time, func(s step, at time.Time) int { return s.began.Compare(at) })
		i = max(i-1, 0)
		if perStep[i]++; steps[i].node.Name != last || perStep[i] > 1 {
			t.Errorf("%s went from %s to %s at %s, while %s was rolled", addr, last, by, sample.Time.Format(time.StampMilli), steps[i].node)
		}
		moves++
		last = by
	}
	if !slices.ContainsFunc(steps, func(s step) bool { return s.node.Name == last }) {
		t.Errorf("%s is answered by %q, which is no node", addr, last)
	}
	return moves
}
