package bgp

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"

	gobgplog "github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// Cause is a kind of reason for which there is no session: what metrics count by.
type Cause string

// The causes.
const (
	CauseNotStarted   Cause = "not-started"
	CauseUnreachable  Cause = "unreachable"
	CauseNotification Cause = "notification"
	CauseRefused      Cause = "refused"
	CauseHoldTimer    Cause = "hold-timer"
	CauseClosed       Cause = "closed"
	CauseBFD          Cause = "bfd"
	CauseStopped      Cause = "stopped"
)

// Causes is the table of causes and what each means.
func Causes() [][2]string {
	return [][2]string{
		{string(CauseNotStarted), "the peer's address is not known, or its settings cannot be used"},
		{string(CauseUnreachable), "no connection to the peer"},
		{string(CauseNotification), "the peer closed the session and said why"},
		{string(CauseRefused), "this node closed the session: what the peer said cannot be accepted"},
		{string(CauseHoldTimer), "nothing was heard of the peer for the hold time"},
		{string(CauseClosed), "the connection ended without a word"},
		{string(CauseBFD), "BFD found the peer unreachable"},
		{string(CauseStopped), "this node ended the session: it stops, or the peer's settings changed"},
	}
}

// note is a line of gobgp's log.
type note struct {
	text   string
	fields gobgplog.Fields
}

// explain is what a line says of why there is no session; nil when it says nothing of that.
func (n note) explain(p Peer) (Cause, error) {
	code, is := n.fields["Code"].(uint8)
	subcode, _ := n.fields["Subcode"].(uint8)
	switch n.text {
	case "failed to connect":
		err, _ := n.fields["Error"].(error)
		switch {
		case errors.Is(err, syscall.EHOSTUNREACH) && p.TTL <= 1 && p.Hops == 0 && !p.internal():
			return CauseUnreachable, fmt.Errorf("%w; a peer that is more than one hop away needs multihop", err)
		case p.Password != "":
			return CauseUnreachable, fmt.Errorf("%w; a peer with another password does not answer either", err)
		}
		return CauseUnreachable, err
	case "failed to resolve local address":
		return CauseNotStarted, fmt.Errorf("the source address %s cannot be used", p.Source)
	case "received notification":
		if is {
			return CauseNotification, errors.New("the peer says: " + meaning(code, subcode) + n.hint(p, code, subcode))
		}
	case "sent notification":
		if e, ok := n.fields["Data"].(*bgp.MessageError); ok {
			return CauseRefused, errors.New("told the peer: " + meaning(e.TypeCode, e.SubTypeCode) + refusal(p, e.TypeCode, e.SubTypeCode))
		}
		if is && code == bgp.BGP_ERROR_HOLD_TIMER_EXPIRED {
			return CauseHoldTimer, errors.New("nothing was heard of the peer for the hold time")
		}
		if is && code != bgp.BGP_ERROR_CEASE {
			return CauseRefused, errors.New("told the peer: " + meaning(code, subcode) + refusal(p, code, subcode))
		}
	case "state changed":
		// gobgp does not tell what a peer says before the session is there.
		old, now := n.fields["old"], n.fields["new"]
		if (old == bgp.BGP_FSM_OPENSENT.String() || old == bgp.BGP_FSM_OPENCONFIRM.String()) && now == bgp.BGP_FSM_IDLE.String() {
			return CauseNotification, fmt.Errorf("the peer closes the session while it is opened: it may not know this node, or expect another AS than %d (bgp_as) or router ID than %s of it", p.LocalAS, p.RouterID)
		}
	case "Peer Down":
		switch reason, _ := n.fields["Reason"].(string); reason {
		case "dying": // we have ended it
		case "hold-timer-expired":
			return CauseHoldTimer, errors.New("nothing was heard of the peer for the hold time")
		case "read-failed", "write-failed":
			return CauseClosed, errors.New("the connection ended without a word")
		default:
			return CauseClosed, errors.New("the session ended: " + reason)
		}
	}
	return "", nil
}

// hint says what the peer's word may come from.
func (n note) hint(p Peer, code, subcode uint8) string {
	switch {
	case code == bgp.BGP_ERROR_OPEN_MESSAGE_ERROR && subcode == bgp.BGP_ERROR_SUB_BAD_PEER_AS:
		return fmt.Sprintf("; it does not expect us to be AS %d (bgp_as)", p.LocalAS)
	case code == bgp.BGP_ERROR_OPEN_MESSAGE_ERROR && subcode == bgp.BGP_ERROR_SUB_BAD_BGP_IDENTIFIER:
		return fmt.Sprintf("; our router ID is %s, and each router must have another one", p.RouterID)
	}
	if why, ok := n.fields["Communicated-Reason"].(string); ok && why != "" {
		return fmt.Sprintf("; it says %q", why)
	}
	return ""
}

// refusal says what our own word comes from.
func refusal(p Peer, code, subcode uint8) string {
	if code == bgp.BGP_ERROR_OPEN_MESSAGE_ERROR && subcode == bgp.BGP_ERROR_SUB_BAD_PEER_AS {
		return fmt.Sprintf("; it is not of AS %d, as it should be", p.AS)
	}
	return ""
}

// meaning is a notification's code in the words of RFC 4271 §4.5, RFC 4486 and RFC 9384.
func meaning(code, subcode uint8) string {
	for _, m := range [...]struct {
		code, subcode uint8
		text          string
	}{
		{bgp.BGP_ERROR_OPEN_MESSAGE_ERROR, 1, "Unsupported Version Number"},
		{bgp.BGP_ERROR_OPEN_MESSAGE_ERROR, 2, "Bad Peer AS"},
		{bgp.BGP_ERROR_OPEN_MESSAGE_ERROR, 3, "Bad BGP Identifier"},
		{bgp.BGP_ERROR_OPEN_MESSAGE_ERROR, 6, "Unacceptable Hold Time"},
		{bgp.BGP_ERROR_OPEN_MESSAGE_ERROR, 7, "Unsupported Capability"},
		{bgp.BGP_ERROR_HOLD_TIMER_EXPIRED, 0, "Hold Timer Expired"},
		{bgp.BGP_ERROR_CEASE, 1, "Maximum Number of Prefixes Reached"},
		{bgp.BGP_ERROR_CEASE, 2, "Administrative Shutdown"},
		{bgp.BGP_ERROR_CEASE, 3, "Peer De-configured"},
		{bgp.BGP_ERROR_CEASE, 4, "Administrative Reset"},
		{bgp.BGP_ERROR_CEASE, 5, "Connection Rejected"},
		{bgp.BGP_ERROR_CEASE, 6, "Other Configuration Change"},
		{bgp.BGP_ERROR_CEASE, 7, "Connection Collision Resolution"},
		{bgp.BGP_ERROR_CEASE, 8, "Out of Resources"},
		{bgp.BGP_ERROR_CEASE, 10, "BFD Down"},
	} {
		if m.code == code && m.subcode == subcode {
			return m.text
		}
	}
	return bgp.NewNotificationErrorCode(code, subcode).String()
}

// ear is where a server of gobgp logs. What it says goes to whom the server works for, and to the debug log.
type ear struct {
	log   *slog.Logger
	heard atomic.Pointer[func(note)]
}

var _ gobgplog.Logger = (*ear)(nil)

func (e *ear) hear(text string, fields gobgplog.Fields) {
	if heard := e.heard.Load(); heard != nil {
		(*heard)(note{text, fields})
	}
	args := make([]any, 0, 2*len(fields))
	for key, value := range fields {
		args = append(args, key, value)
	}
	e.log.Debug("gobgp: "+text, args...)
}

// Panic implements gobgp's Logger.
func (e *ear) Panic(text string, fields gobgplog.Fields) { e.hear(text, fields) }

// Fatal implements gobgp's Logger.
func (e *ear) Fatal(text string, fields gobgplog.Fields) { e.hear(text, fields) }

// Error implements gobgp's Logger.
func (e *ear) Error(text string, fields gobgplog.Fields) { e.hear(text, fields) }

// Warn implements gobgp's Logger.
func (e *ear) Warn(text string, fields gobgplog.Fields) { e.hear(text, fields) }

// Info implements gobgp's Logger.
func (e *ear) Info(text string, fields gobgplog.Fields) { e.hear(text, fields) }

// Debug implements gobgp's Logger. Of a failed connection gobgp tells nowhere else.
func (e *ear) Debug(text string, fields gobgplog.Fields) {
	if text != "sent update" && text != "update for 2byte AS peer" {
		e.hear(text, fields)
	}
}

// SetLevel implements gobgp's Logger.
func (e *ear) SetLevel(gobgplog.LogLevel) {}

// GetLevel implements gobgp's Logger.
func (e *ear) GetLevel() gobgplog.LogLevel { return gobgplog.DebugLevel }
