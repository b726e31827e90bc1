package cp

import (
	"context"
	"slices"
	"strings"
	"time"

	"kube-vip.io/kube-vip/pkg/vip"
)

const (
	// flapWindow is how long a node has to stay healthy for its next loss to count as a new one, and not as a flap.
	flapWindow = time.Minute
	// maxRise bounds what damping makes of the time to rise: a flapping server that has been well for this long
	// is worth more than no server.
	maxRise = 30 * time.Second
)

// Health is what this node can do for the control-plane VIP now. The zero Health is a node of which nothing is
// known yet.
type Health struct {
	// OK says that this node can carry every VIP and that its API server answers behind them.
	OK bool
	// Able says that this node can carry a VIP at all: at least one of them has an address and a link that is up.
	Able bool
	// Serving says that the API server answers. It stays true when health is not checked.
	Serving bool
	// Answers says that an API server that is not well still answers: what is asked of it may succeed.
	Answers bool
	// Reason says why OK is false. It is empty when OK is true.
	Reason string
	// Note says what is unusual about a server that answers, for example that its certificate could not be
	// verified yet. It is empty as a rule.
	Note string
	// Since is when OK became what it is.
	Since time.Time
	// VIPs are the addresses that are claimed, with the link of each.
	VIPs []vip.VIP
}

// HealthListener is told of each change of OK, Able, Serving and Answers, the first verdict included, in order and by one
// goroutine. It must not block for long: nothing is followed meanwhile.
type HealthListener func(Health)

// A verdict is what a judge holds to be true.
type verdict int

const (
	unknown verdict = iota
	healthy
	unhealthy
)

// A judge turns single observations into a verdict that does not flap. It is pure: time comes in with the
// observations. Its fields above the blank line are set once.
type judge struct {
	// fall failures in a row make it unhealthy, rise successes in a row make it healthy again.
	fall, rise int
	// period is the time between two observations: rise×period is what damping doubles.
	period time.Duration

	verdict   verdict
	fault     string    // of the last failure, "" after a rise
	failures  int       // in a row
	successes int       // in a row
	wellSince time.Time // the first of these successes
	roseAt    time.Time
	risen     bool // it has been healthy before
	lost      bool // it has fallen from health before
	doublings int  // how often the time to rise is doubled
}

// observe adds one observation, fault being empty for a success, and says whether the verdict changed.
//
// The very first success counts at once: a node that has not been healthy yet has nothing to flap between, and
// the first VIP of a cluster waits for it.
func (j *judge) observe(now time.Time, fault string) bool {
	if fault != "" {
		j.successes = 0
		j.failures++
		if j.verdict == unhealthy {
			j.fault = fault
			return false
		}
		if j.failures < j.fall {
			return false
		}
		if j.verdict == healthy {
			j.lose(now)
		}
		j.verdict, j.fault = unhealthy, fault
		return true
	}

	j.failures = 0
	if j.successes == 0 {
		j.wellSince = now
	}
	j.successes++
	if j.verdict == healthy {
		return false
	}
	if j.risen && (j.successes < j.rise || now.Sub(j.wellSince) < j.hold()) {
		return false
	}
	j.verdict, j.fault = healthy, ""
	j.roseAt, j.risen = now, true
	return true
}

// lose counts a loss of health. One that follows a rise by less than flapWindow is a flap.
func (j *judge) lose(now time.Time) {
	j.doublings++
	if !j.lost || now.Sub(j.roseAt) >= flapWindow {
		j.doublings = 0
	}
	j.lost = true
}

// hold is how long successes must have lasted before they count, because of earlier flaps.
func (j *judge) hold() time.Duration {
	if j.doublings == 0 {
		return 0
	}
	d := max(time.Duration(j.rise)*j.period, time.Millisecond)
	for range j.doublings {
		d *= 2
		if d >= maxRise {
			return maxRise
		}
	}
	return d
}

// An answer is the outcome of one probe.
type answer struct {
	// fault is empty when the server is alive; note is what is unusual about that.
	fault, note string
	// said is true of a fault that the server itself told.
	said bool
	took time.Duration
}

// A prober asks a server how it is.
type prober interface {
	// probe asks once. It returns soon after ctx is done and brings its own, shorter deadline.
	probe(ctx context.Context) answer
	// wait returns at until, earlier when there is a reason to ask now, and when ctx is done.
	wait(ctx context.Context, until time.Time)
	// close ends whatever is kept between probes.
	close()
}

// probeEvery asks p once per period, never two at a time, and hands the answers to take. A probe that took longer
// than the period is followed by the next at once, so that a server that hangs is found after two timeouts.
func probeEvery(ctx context.Context, period time.Duration, p prober, take func(answer)) {
	defer p.close()
	next := time.Now()
	for {
		a := p.probe(ctx)
		if ctx.Err() != nil {
			return
		}
		take(a)
		now := time.Now()
		if next = next.Add(period); next.After(now) {
			p.wait(ctx, next)
			now = time.Now()
		}
		if ctx.Err() != nil {
			return
		}
		// After a hint and after a long probe a new period begins.
		if now.Before(next) || now.Sub(next) > period {
			next = now
		}
	}
}

// failedChecks reads the names of the checks that failed out of what /livez says with status 500: lines such as
// "[-]etcd failed: reason withheld" (k8s.io/apiserver/pkg/server/healthz). The bytes are foreign: whatever is not
// such a name is left out.
func failedChecks(body string) []string {
	const most = 5
	var names []string
	for line := range strings.Lines(body) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "[-]")
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(rest, " ")
		if name == "" || len(name) > 64 || strings.ContainsFunc(name, notInCheckName) || slices.Contains(names, name) {
			continue
		}
		if names = append(names, name); len(names) == most {
			break
		}
	}
	return names
}

func notInCheckName(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return false
	}
	return !strings.ContainsRune("-_./:", r)
}
