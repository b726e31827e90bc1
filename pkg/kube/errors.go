package kube

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
)

// noAnswer names no duration, which would make the same state look different from one time to the next.
const noAnswer = "no answer in time"

// trial is how asking one server went.
type trial struct {
	endpoint endpoint
	why      string
}

// unreachableError says how each server failed.
//
// It hides the causes on purpose: client-go looks into errors for resets and closed connections (and into their
// text, see reason), and where it finds one it repeats the request up to ten times, a second apart. All servers
// were just tried, and the caller knows better when to come back.
type unreachableError struct {
	trials []trial
	ended  error // the context's, if that is why no more were tried
}

func (r *race) unreachable(ended error) error {
	if ended != nil {
		for at := range r.running {
			if !at.silent {
				r.trials = append(r.trials, trial{at.endpoint, noAnswer})
			}
		}
	}
	return &unreachableError{trials: r.trials, ended: ended}
}

// Error groups the servers by what was wrong with them.
func (e *unreachableError) Error() string {
	var b strings.Builder
	b.WriteString("reach the API server")
	sep := ": "
	for _, text := range e.groups() {
		b.WriteString(sep + text)
		sep = "; "
	}
	if e.ended != nil {
		b.WriteString(sep + e.ended.Error())
	}
	return b.String()
}

func (e *unreachableError) groups() []string {
	var whys []string
	who := map[string][]string{}
	for _, t := range e.trials {
		if who[t.why] == nil {
			whys = append(whys, t.why)
		}
		if name := t.endpoint.String(); !slices.Contains(who[t.why], name) {
			who[t.why] = append(who[t.why], name)
		}
	}
	for i, why := range whys {
		whys[i] = strings.Join(who[why], ", ") + ": " + why
	}
	return whys
}

// Unwrap gives the context's error, if that ended it.
func (e *unreachableError) Unwrap() error { return e.ended }

// stableText is the same for the same state, whatever the order in which it was found: it decides what is
// logged again.
func stableText(err error) string {
	var u *unreachableError
	if !errors.As(err, &u) {
		return err.Error()
	}
	var list []string
	for _, t := range u.trials {
		list = append(list, t.endpoint.String()+" "+t.why)
	}
	slices.Sort(list)
	return strings.Join(slices.Compact(list), "\n")
}

// reason says why a server could not be asked, in words that stay the same from one time to the next (no port
// of ours, no address twice), and what kind of failure it is.
func reason(err error) (string, kind) {
	var (
		op    *net.OpError
		dns   *net.DNSError
		errno syscall.Errno
		ne    net.Error
	)
	switch {
	case errors.As(err, &dns) && dns.IsTimeout:
		return "look up " + dns.Name + ": no answer in time", silent
	case errors.As(err, &dns):
		return "look up " + dns.Name + ": " + dns.Err, broken
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused", refused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		strings.Contains(err.Error(), "server sent GOAWAY"):
		return "it closed the connection", broken
	case errors.Is(err, net.ErrClosed):
		return "connection was closed", broken
	case errors.As(err, &op) && op.Op == "remote error":
		return "it refused the TLS handshake: " + op.Err.Error(), broken
	case errors.As(err, &op) && op.Op == "dial" && op.Timeout():
		return "no connection in time", silent
	case errors.As(err, &ne) && ne.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return noAnswer, silent
	case errors.As(err, &errno):
		return errno.Error(), broken
	}
	return err.Error(), broken
}
