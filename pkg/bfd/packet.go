// Package bfd speaks Bidirectional Forwarding Detection (RFC 5880) in asynchronous mode, without the echo function and
// without authentication: it finds within a few packets' time that a neighbour cannot be reached any more, be he on the
// link (RFC 5881) or some hops away (RFC 5883).
//
// A Detector is handed the neighbours, keeps a session with each, and tells what becomes of them. It receives on UDP port
// 3784, and on 4784 for neighbours some hops away, on all addresses of the node: only while there is such a neighbour,
// and what comes from anybody else is counted and dropped, never answered.
//
// A Session is pure: packets and the time go in, packets and what became of the session come out.
package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// State is that of a session, bfd.SessionState (RFC 5880 §6.8.1), as packets have it.
type State uint8

// The states (RFC 5880 §4.1).
const (
	AdminDown State = iota
	Down
	Init
	Up
)

// String is the state's name in the RFC.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

var stateNames = [...]string{AdminDown: "AdminDown", Down: "Down", Init: "Init", Up: "Up"}

// Diagnostic says why a session changed its state the last time, bfd.LocalDiag (RFC 5880 §4.1).
type Diagnostic uint8

// The diagnostics that are sent here.
const (
	NoDiagnostic         Diagnostic = 0
	DetectionTimeExpired Diagnostic = 1
	NeighborSignaledDown Diagnostic = 3
	AdministrativelyDown Diagnostic = 7
)

// String says what the diagnostic means.
func (d Diagnostic) String() string {
	if int(d) < len(diagnosticNames) {
		return diagnosticNames[d]
	}
	return fmt.Sprintf("diagnostic %d", uint8(d))
}

var diagnosticNames = [...]string{"no diagnostic", "control detection time expired", "echo function failed",
	"neighbor signaled session down", "forwarding plane reset", "path down", "concatenated path down", "administratively down", "reverse concatenated path down"}

// Packet is a BFD Control packet (RFC 5880 §4.1). Intervals are whole microseconds.
type Packet struct {
	Diagnostic Diagnostic
	State      State
	// Poll asks for an answer with Final.
	Poll, Final bool
	// Independent says that the sender's BFD lives on when its control plane does not, Demand that it wants no packets
	// while the session is up.
	Independent, Demand bool
	// Multiplier is how many packets may be lost.
	Multiplier uint8
	// Mine is the sender's discriminator, Yours that of the receiver as far as the sender knows it, or 0.
	Mine, Yours uint32
	// MinTx is the interval at which the sender would like to send, MinRx the least at which it can receive, or 0 for
	// never, and MinEchoRx the same of echoes.
	MinTx, MinRx, MinEchoRx time.Duration
}

const (
	version = 1
	// packetLen is the length of a packet without authentication, authenticatedLen the least of one with.
	packetLen, authenticatedLen = 24, 26

	flagPoll, flagFinal, flagIndependent, flagAuthenticated, flagDemand, flagMultipoint = 0x20, 0x10, 0x08, 0x04, 0x02, 0x01
)

// AppendTo appends the packet as it is on the wire, 24 octets.
func (p Packet) AppendTo(b []byte) []byte {
	flags := byte(p.State)<<6 | flag(p.Poll, flagPoll) | flag(p.Final, flagFinal) | flag(p.Independent, flagIndependent) | flag(p.Demand, flagDemand)
	b = append(b, version<<5|byte(p.Diagnostic)&0x1f, flags, p.Multiplier, packetLen)
	for _, n := range []uint32{p.Mine, p.Yours, micros(p.MinTx), micros(p.MinRx), micros(p.MinEchoRx)} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

func flag(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

func micros(d time.Duration) uint32 {
	return uint32(min(max(d.Microseconds(), 0), 1<<32-1))
}

// Parse reads a packet. It fails for what is to be discarded whatever session it belongs to (RFC 5880 §6.8.6), and for
// one with authentication, which is not spoken here.
func Parse(b []byte) (Packet, error) {
	if len(b) < packetLen {
		return Packet{}, fmt.Errorf("read BFD packet: it has %d octets, and %d are the least", len(b), packetLen)
	}
	if v := b[0] >> 5; v != version {
		return Packet{}, fmt.Errorf("read BFD packet: its version is %d, not %d", v, version)
	}
	authenticated, length := b[1]&flagAuthenticated != 0, int(b[3])
	switch {
	case length < packetLen || authenticated && length < authenticatedLen:
		return Packet{}, fmt.Errorf("read BFD packet: its length is said to be %d", length)
	case length > len(b):
		return Packet{}, fmt.Errorf("read BFD packet: its length is said to be %d, and there are %d octets", length, len(b))
	case authenticated:
		return Packet{}, errors.New("read BFD packet: it is authenticated, and this session is not")
	case b[1]&flagMultipoint != 0:
		return Packet{}, errors.New("read BFD packet: it has the multipoint bit")
	}
	word := func(i int) uint32 { return binary.BigEndian.Uint32(b[4+4*i:]) }
	interval := func(i int) time.Duration { return time.Duration(word(i)) * time.Microsecond }
	p := Packet{
		Diagnostic: Diagnostic(b[0] & 0x1f), State: State(b[1] >> 6),
		Poll: b[1]&flagPoll != 0, Final: b[1]&flagFinal != 0, Independent: b[1]&flagIndependent != 0, Demand: b[1]&flagDemand != 0,
		Multiplier: b[2], Mine: word(0), Yours: word(1), MinTx: interval(2), MinRx: interval(3), MinEchoRx: interval(4),
	}
	switch {
	case p.Multiplier == 0:
		return Packet{}, errors.New("read BFD packet: its detect mult is 0")
	case p.Mine == 0:
		return Packet{}, errors.New("read BFD packet: its sender has no discriminator")
	case p.Yours == 0 && p.State != Down && p.State != AdminDown:
		return Packet{}, fmt.Errorf("read BFD packet: it is for no session, and says %s", p.State)
	}
	return p, nil
}
