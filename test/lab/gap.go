package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// GapOptions say what a Gap tries, and how often.
type GapOptions struct {
	// Target is what is tried: the VIP and its port.
	Target netip.AddrPort
	// Interval is the time between the starts of two attempts; 0 means 5 ms (50 ms with TLS).
	Interval time.Duration
	// Timeout is how long an attempt may take; 0 means 250 ms (1 s with TLS).
	Timeout time.Duration
	// TLS asks for GET /version over a new TLS connection, verified with the cluster's authority, and HTTP a backend for
	// GET / over a new connection. Without either an attempt is a TCP connection, which a kernel accepts even when
	// nobody is there to answer.
	TLS, HTTP bool
}

// An Attempt is one try of a Gap.
type Attempt struct {
	// Start and End are when it began and when its outcome was known.
	Start, End time.Time
	// Err is nil when it succeeded.
	Err error
}

// A Gap tries the target again and again, each time on its own, so that a slow attempt delays no other.
type Gap struct {
	from   *Host
	opts   GapOptions
	client *http.Client
	begin  time.Time // a success
	cancel context.CancelFunc
	done   chan struct{}

	// mu guards the fields below.
	mu       sync.Mutex
	attempts []Attempt
	lag      time.Duration
}

// GapResult is what a client saw between StartGap and Stop.
type GapResult struct {
	// Begin and End bound the measurement.
	Begin, End time.Time
	// Attempts are all attempts by their ends.
	Attempts []Attempt
	// Longest is the longest span between two successes, or between the last one and the end.
	Longest time.Duration
	// From is the success before it, To the one after it.
	From, To time.Time
	// Failed counts the attempts that failed.
	Failed int
	// Lag is the most by which an attempt began too late because the machine was busy: what the measurement may be
	// wrong by.
	Lag time.Duration
}

// StartGap begins to measure from the host. It returns after the first success, or with what went wrong when ctx
// ends before there was one.
func (h *Host) StartGap(ctx context.Context, o GapOptions) (*Gap, error) {
	g := &Gap{from: h, opts: o, done: make(chan struct{})}
	if g.opts.Interval == 0 {
		g.opts.Interval = 5 * time.Millisecond
		if o.TLS {
			g.opts.Interval = 50 * time.Millisecond
		}
	}
	if g.opts.Timeout == 0 {
		g.opts.Timeout = 250 * time.Millisecond
		if o.TLS {
			g.opts.Timeout = time.Second
		}
	}
	if o.TLS {
		if h.lab.pki == nil {
			return nil, errNoCluster
		}
		config, err := h.lab.pki.tlsConfig(false)
		if err != nil {
			return nil, err
		}
		config.MinVersion = tls.VersionTLS13
		g.client = h.HTTPClient(config)
	} else if o.HTTP {
		g.client = h.HTTPClient(nil)
	}
	err := Wait(ctx, o.Target.String()+" answers "+h.Name, func() (bool, error) { return g.attempt().Err == nil, nil })
	if err != nil {
		return nil, errors.Join(err, g.attempt().Err)
	}
	g.begin = time.Now()
	run, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	go g.run(run)
	return g, nil
}

func (g *Gap) run(ctx context.Context) {
	defer close(g.done)
	var wg sync.WaitGroup
	defer wg.Wait()
	next := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now := time.Now()
		g.mu.Lock()
		g.lag = max(g.lag, now.Sub(next))
		g.mu.Unlock()
		wg.Go(func() {
			a := g.attempt()
			g.mu.Lock()
			defer g.mu.Unlock()
			g.attempts = append(g.attempts, a)
		})
		if next = next.Add(g.opts.Interval); next.Before(now) {
			next = now.Add(g.opts.Interval) // never a volley
		}
		timer.Reset(time.Until(next))
	}
}

// attempt tries once.
func (g *Gap) attempt() Attempt {
	a := Attempt{Start: time.Now()}
	ctx, cancel := context.WithDeadline(context.Background(), a.Start.Add(g.opts.Timeout))
	defer cancel()
	switch {
	case g.opts.TLS:
		a.Err = g.get(ctx, "https", "/version")
	case g.opts.HTTP:
		a.Err = g.get(ctx, "http", "/")
	default:
		a.Err = g.knock(ctx)
	}
	a.End = time.Now()
	return a
}

// knock opens and drops a connection. It is reset, not closed: thousands of connections in TIME_WAIT would use up
// the client's ports.
func (g *Gap) knock(ctx context.Context) error {
	f, err := g.from.connect(ctx, g.opts.Target)
	if err != nil {
		return err
	}
	raw, err := f.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		})
	}
	return f.Close()
}

// get asks for a page and wants all of it.
func (g *Gap) get(ctx context.Context, scheme, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+g.opts.Target.String()+path, nil)
	if err != nil {
		return err
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// Result is what was seen so far.
func (g *Gap) Result() GapResult {
	g.mu.Lock()
	defer g.mu.Unlock()
	return newGapResult(slices.Clone(g.attempts), g.lag, g.begin, time.Now())
}

// Stop ends the measurement, waits for the attempts under way, and returns what was seen.
func (g *Gap) Stop() GapResult {
	end := time.Now()
	g.cancel()
	<-g.done
	g.mu.Lock()
	defer g.mu.Unlock()
	return newGapResult(slices.Clone(g.attempts), g.lag, g.begin, end)
}

// WaitFor measures on until an attempt that began at or after t has succeeded.
func (g *Gap) WaitFor(ctx context.Context, t time.Time) error {
	return Wait(ctx, g.opts.Target.String()+" answers again", func() (bool, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		return slices.ContainsFunc(g.attempts, func(a Attempt) bool { return a.Err == nil && !a.Start.Before(t) }), nil
	})
}

// newGapResult works out the gaps of the attempts between two moments, the first of which was a success.
func newGapResult(attempts []Attempt, lag time.Duration, begin, end time.Time) GapResult {
	r := GapResult{Begin: begin, End: end, Attempts: attempts, Lag: lag}
	slices.SortFunc(attempts, func(a, b Attempt) int { return a.End.Compare(b.End) })
	last := begin
	success := func(t time.Time) {
		if d := t.Sub(last); d > r.Longest {
			r.Longest, r.From, r.To = d, last, t
		}
		last = t
	}
	for _, a := range attempts {
		if a.Err != nil {
			r.Failed++
			continue
		}
		success(a.End)
	}
	if end.After(last) {
		success(end) // an outage that has not ended counts up to the end
	}
	return r
}

// Causes counts the failed attempts by what went wrong.
func (r GapResult) Causes() map[string]int {
	causes := map[string]int{}
	for _, a := range r.Attempts {
		if a.Err == nil {
			continue
		}
		switch {
		case errors.Is(a.Err, context.DeadlineExceeded):
			causes["timeout"]++
		case errors.Is(a.Err, unix.ECONNREFUSED):
			causes["refused"]++
		case errors.Is(a.Err, unix.EHOSTUNREACH):
			causes["host unreachable"]++
		case errors.Is(a.Err, unix.ECONNRESET):
			causes["reset"]++
		default:
			causes[a.Err.Error()]++
		}
	}
	return causes
}

// String says it in a line.
func (r GapResult) String() string {
	return fmt.Sprintf("longest gap %v, %d of %d attempts failed %v, the clock late by %v at most",
		r.Longest.Round(100*time.Microsecond), r.Failed, len(r.Attempts), r.Causes(), r.Lag.Round(100*time.Microsecond))
}

// Cell is what happened in one span of a timeline.
type Cell rune

// The cells of a timeline.
const (
	CellGood  Cell = '█' // every attempt that began in it succeeded
	CellMixed Cell = '▒' // some did
	CellBad   Cell = '·' // none did
	CellEmpty Cell = ' ' // none began in it
)

// Cells cut the time from one moment to another into a number of equal spans.
func (r GapResult) Cells(from, to time.Time, width int) []Cell {
	good, bad := make([]int, width), make([]int, width)
	for _, a := range r.Attempts {
		if a.Start.Before(from) || !a.Start.Before(to) {
			continue
		}
		i := int(int64(width) * int64(a.Start.Sub(from)) / int64(to.Sub(from)))
		if a.Err == nil {
			good[i]++
		} else {
			bad[i]++
		}
	}
	cells := make([]Cell, width)
	for i := range cells {
		switch {
		case good[i] == 0 && bad[i] == 0:
			cells[i] = CellEmpty
		case bad[i] == 0:
			cells[i] = CellGood
		case good[i] == 0:
			cells[i] = CellBad
		default:
			cells[i] = CellMixed
		}
	}
	return cells
}

// Timeline draws the measurement around its longest gap in a line of the given width.
func (r GapResult) Timeline(width int) string {
	from, to := r.From.Add(-r.Longest/4), r.To.Add(r.Longest/4)
	if from.Before(r.Begin) {
		from = r.Begin
	}
	if to.After(r.End) {
		to = r.End
	}
	if width <= 0 || !to.After(from) {
		return ""
	}
	var b strings.Builder
	for _, c := range r.Cells(from, to, width) {
		b.WriteRune(rune(c))
	}
	return b.String()
}
