package bgp

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"

	gobgplog "github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// known is a table of communities' names.
func known(s string) (value string, large bool, err error) {
	switch {
	case s == "rack":
		return "65000:9", false, nil
	case strings.Contains(s, ":"):
		return s, strings.Count(s, ":") == 2, nil
	}
	return "", false, errors.New("there is no community " + s)
}

func TestParseTraits(t *testing.T) {
	for name, c := range map[string]struct {
		traits map[string]string
		want   string // as text
		err    string
	}{
		"nothing":     {want: "nil"},
		"communities": {traits: map[string]string{"communities": "rack, 65000:1,1:2:3,65000:1"}, want: "[4259840009 4259840001] [1:2:3] - - - 0 0 0"},
		"numbers":     {traits: map[string]string{"med": "0", "local-pref": " 50 ", "prepend": "2"}, want: "[] [] 50 0 2 0 0 0"},
		"no prepend":  {traits: map[string]string{"prepend": "0"}, want: "[] [] - - 0 0 0 0"},
		"lengths":     {traits: map[string]string{"aggregation-length": "24", "aggregation-length-v6": "64"}, want: "[] [] - - - 24 64 0"},
		"too long":    {traits: map[string]string{"aggregation-length": "33", "med": "1"}, want: "[] [] - 1 - 0 0 0", err: `annotation x/aggregation-length: "33" is not a number from 1 to 32`},
		"no number":   {traits: map[string]string{"med": "-1"}, want: "nil", err: `annotation x/med: "-1" is not a number`},
		"no name":     {traits: map[string]string{"communities": "rock"}, want: "nil", err: "annotation x/communities: there is no community rock"},
		"too much":    {traits: map[string]string{"communities": "65536:1"}, want: "nil", err: "from 0 to 65535"},
		"misspelt":    {traits: map[string]string{"comunities": "1:1"}, want: "nil", err: "annotation x/comunities: it is none of communities,"},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := ParseTraits("x/", c.traits, known)
			got := "nil"
			if a != nil {
				got = a.text()
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
}

func FuzzParseTraits(f *testing.F) {
	f.Add("communities", "65000:1,1:2:3,rack")
	f.Add("med", "4294967296")
	f.Fuzz(func(t *testing.T, name, value string) {
		a, err := ParseTraits("x/", map[string]string{name: value}, known)
		if err == nil && a == nil {
			t.Errorf("%s: %q is nothing, and no error", name, value)
		}
		if a != nil && (a.Aggregate4 < 0 || a.Aggregate4 > 32 || a.Aggregate6 < 0 || a.Aggregate6 > 128 || a.Prepend != nil && *a.Prepend > maxPrepend) {
			t.Errorf("%s: %q is %s", name, value, a.text())
		}
	})
}

func TestExplain(t *testing.T) {
	p := Peer{Name: "r", AS: 65001, LocalAS: 65000}
	secret := p
	secret.Password = "x"
	for name, c := range map[string]struct {
		note  note
		peer  Peer
		want  string
		cause Cause
	}{
		"something else":  {note: note{text: "state changed"}, peer: p},
		"not there":       {note: note{"failed to connect", gobgplog.Fields{"Error": errors.New("i/o timeout")}}, peer: p, want: "i/o timeout", cause: CauseUnreachable},
		"with a password": {note: note{"failed to connect", gobgplog.Fields{"Error": errors.New("i/o timeout")}}, peer: secret, want: "i/o timeout; a peer with another password does not answer either", cause: CauseUnreachable},
		"too far": {note: note{"failed to connect", gobgplog.Fields{"Error": &net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}}}, peer: secret,
			want: "no route to host; a peer that is more than one hop away needs multihop", cause: CauseUnreachable},
		"another AS": {note: note{"received notification", gobgplog.Fields{"Code": uint8(bgp.BGP_ERROR_OPEN_MESSAGE_ERROR), "Subcode": uint8(bgp.BGP_ERROR_SUB_BAD_PEER_AS)}},
			peer: p, want: "it does not expect us to be AS 65000 (bgp_as)", cause: CauseNotification},
		"its word": {note: note{"received notification", gobgplog.Fields{"Code": uint8(bgp.BGP_ERROR_CEASE), "Subcode": uint8(bgp.BGP_ERROR_SUB_ADMINISTRATIVE_SHUTDOWN), "Communicated-Reason": "night shift"}},
			peer: p, want: `it says "night shift"`, cause: CauseNotification},
		"our Cease":    {note: note{"sent notification", gobgplog.Fields{"Code": uint8(bgp.BGP_ERROR_CEASE), "Subcode": uint8(3)}}, peer: p},
		"silence":      {note: note{"Peer Down", gobgplog.Fields{"Reason": "hold-timer-expired"}}, peer: p, want: "nothing was heard of the peer for the hold time", cause: CauseHoldTimer},
		"the end":      {note: note{"Peer Down", gobgplog.Fields{"Reason": "read-failed"}}, peer: p, want: "the connection ended without a word", cause: CauseClosed},
		"not of ours":  {note: note{"sent notification", gobgplog.Fields{"Data": bgp.NewMessageError(bgp.BGP_ERROR_OPEN_MESSAGE_ERROR, bgp.BGP_ERROR_SUB_BAD_PEER_AS, nil, "")}}, peer: p, want: "it is not of AS 65001, as it should be", cause: CauseRefused},
		"a bad source": {note: note{text: "failed to resolve local address"}, peer: p, want: "cannot be used", cause: CauseNotStarted},
	} {
		t.Run(name, func(t *testing.T) {
			cause, err := c.note.explain(c.peer)
			if cause != c.cause || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %s, %v; want %s, %q", cause, err, c.cause, c.want)
			}
		})
	}
}
