package e2e

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kube-vip.io/kube-vip/test/lab"
)

// The ports of BFD: RFC 5881 section 4 and RFC 5883 section 5.
const (
	bfdPort, bfdFarPort = 3784, 4784
)

// A control is a BFD Control packet, RFC 5880 section 4.1.
type control struct {
	lab.Packet
	state, diagnostic, multiplier uint8
	poll, final                   bool
	minTx, minRx                  time.Duration
}

const bfdDown, bfdUp = 1, 3

// controls are the packets of BFD between two ends, in one direction.
func controls(packets []lab.Packet, from, to netip.Addr) (list []control, err error) {
	for _, p := range packets {
		if p.Src.Addr() != from || p.Dst.Addr() != to || p.Dst.Port() != bfdPort && p.Dst.Port() != bfdFarPort {
			continue
		}
		b := p.Payload
		if len(b) < 24 || b[0]>>5 != 1 || b[3] != 24 {
			return nil, errors.New(p.String() + " is no packet of BFD version 1 without authentication")
		}
		micros := func(at int) time.Duration { return time.Duration(binary.BigEndian.Uint32(b[at:])) * time.Microsecond }
		list = append(list, control{p, b[1] >> 6, b[0] & 0x1f, b[2], b[1]&0x20 != 0, b[1]&0x10 != 0, micros(12), micros(16)})
	}
	return list, nil
}

// aBFD is what a session is to do on the wire.
type aBFD struct {
	minTx, minRx time.Duration // that we say
	multiplier   uint8
	interval     time.Duration // of our packets: the greater of ours and what the router can take, RFC 5880 section 6.8.7
	detection    time.Duration // after which we take the router for lost
	port         uint16
}

const ms = time.Millisecond

// theBFD is by the sessions' names, with what plan has the routers say.
func theBFD() map[string]aBFD {
	return map[string]aBFD{
		"BFD":                                {150 * ms, 200 * ms, 4, 150 * ms, 3 * 200 * ms, bfdPort},
		"BFD by IPv6":                        {250 * ms, 150 * ms, 2, 250 * ms, 3 * 150 * ms, bfdPort},
		"BFD, slowly":                        {60 * ms, 150 * ms, 3, 500 * ms, 5 * 150 * ms, bfdPort},
		"BFD over two hops":                  {200 * ms, 200 * ms, 3, 200 * ms, 3 * 200 * ms, bfdFarPort},
		"BFD and TTL security over two hops": {200 * ms, 200 * ms, 3, 200 * ms, 3 * 200 * ms, bfdFarPort},
	}
}

// sessionsBFD: what is said and how often is as configured, and a router that falls silent is lost after its own interval times
// its multiplier, with the session; sessions without BFD go on.
func sessionsBFD(t *testing.T, s *sessioned) {
	var watched []*bgpSession
	for _, r := range s.routers() {
		for name := range theBFD() {
			watched = append(watched, s.find(t, r, name))
		}
	}
	still := s.steady(t, watched...)
	steady := s.steady(t)
	for _, r := range s.routers() {
		var last []lab.BFDSession
		if err := lab.Wait(within(t, patience), "BFD is up on "+r.Name, func() (bool, error) {
			var err error
			last, err = r.BFD(within(t, patience))
			return len(last) == len(theBFD()) && !slices.ContainsFunc(last, func(b lab.BFDSession) bool { return b.State != "Up" }), err
		}); err != nil {
			t.Fatalf("%v: %+v", err, last)
		}
	}
	wire, err := s.node.CapturePackets("eth0", bfdPort, bfdFarPort)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	wait(t, 6*time.Second)
	packets, lasted := wire.Packets(), time.Since(began)
	steady()
	for _, one := range watched {
		want := theBFD()[one.name]
		sent, err := controls(packets, one.neighbor.Addr, one.neighbor.Source)
		if err != nil {
			t.Fatal(err)
		}
		var apart []time.Duration
		for i, c := range sent {
			if c.state != bfdUp || c.minTx != want.minTx || c.minRx != want.minRx || c.multiplier != want.multiplier || c.TTL != 255 || c.Dst.Port() != want.port || c.Src.Port() < 49152 {
				t.Errorf("%s: %s has state %d, transmit %s, receive %s, multiplier %d", one, c.Packet, c.state, c.minTx, c.minRx, c.multiplier)
			}
			if i > 0 && !c.final && !sent[i-1].final {
				apart = append(apart, c.Time.Sub(sent[i-1].Time))
			}
		}
		if len(apart) == 0 {
			t.Errorf("%s: nothing is sent", one)
			continue
		}
		// RFC 5880 section 6.8.7: each is earlier by up to a quarter at random. A process that was late once is early once.
		slices.Sort(apart)
		low, middle, high := apart[len(apart)/10], apart[len(apart)/2], apart[len(apart)-1-len(apart)/10]
		t.Logf("%s: %d packets in %s, %s apart; a tenth less than %s, and a tenth more than %s", one, len(sent), lasted.Round(ms), middle, low, high)
		if middle < want.interval*3/4-5*ms || middle > want.interval+15*ms || low < want.interval*3/4-40*ms || high > want.interval+100*ms {
			t.Errorf("%s: packets are between %s and %s apart, %s in the middle; want %s less up to a quarter", one, low, high, middle, want.interval)
		}
		if low > want.interval*95/100 || high < want.interval*8/10 {
			t.Errorf("%s: packets are between %s and %s apart: there is no jitter", one, low, high)
		}
	}

	for _, r := range s.routers() {
		if err := r.Pause(); err != nil {
			t.Fatal(err)
		}
		wait(t, 1500*ms)
		if err := r.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	packets = wire.Packets()
	if err := wire.Close(); err != nil {
		t.Error(err)
	}
	for _, one := range watched {
		want := theBFD()[one.name]
		sent, err := controls(packets, one.neighbor.Addr, one.neighbor.Source)
		if err != nil {
			t.Fatal(err)
		}
		came, err := controls(packets, one.neighbor.Source, one.neighbor.Addr)
		if err != nil {
			t.Fatal(err)
		}
		lost := slices.IndexFunc(sent, func(c control) bool { return c.state == bfdDown && c.diagnostic == 1 })
		if lost < 0 {
			t.Errorf("%s: the silence was not noticed", one)
			continue
		}
		var heard time.Time
		for _, c := range came {
			if c.Time.Before(sent[lost].Time) {
				heard = c.Time
			}
		}
		took := sent[lost].Time.Sub(heard)
		t.Logf("%s: lost %s after the last packet", one, took.Round(ms))
		if took < want.detection || took > want.detection+500*ms {
			t.Errorf("%s: lost %s after the last packet, want %s", one, took, want.detection)
		}
		text := `"BFD: control detection time expired"`
		if !slices.ContainsFunc(s.pods[s.node].Output(), func(l lab.Line) bool {
			return l.Time.After(began) && strings.Contains(l.Text, "BGP session is down") && strings.Contains(l.Text, "peer="+one.peer()+" ") && strings.Contains(l.Text, text)
		}) {
			t.Errorf("%s: the log does not say that the session is down for %s", one, text)
		}
	}
	s.settle(t, watched)
	still()
}

// settle waits until sessions and their BFD are up and stay so: a router that goes on after a pause may take a path up that it
// forgets right away, as its own session has ended meanwhile.
func (s *sessioned) settle(t *testing.T, watched []*bgpSession) {
	t.Helper()
	const quiet = 2 * time.Second
	var since time.Time
	flaps := -1
	eventually(t, "sessions with BFD are up and stay so", func() (bool, error) {
		ok, ended, view := true, 0, s.view(t)
		for _, one := range watched {
			seen := view(one)
			ok, ended = ok && seen.Established(), ended+seen.Flaps
		}
		for _, r := range s.routers() {
			paths, err := r.BFD(within(t, patience))
			if err != nil {
				return false, err
			}
			ok = ok && len(paths) == len(theBFD()) && !slices.ContainsFunc(paths, func(b lab.BFDSession) bool { return b.State != "Up" })
		}
		if !ok || ended != flaps {
			flaps, since = ended, time.Now()
		}
		return ok && time.Since(since) > quiet, nil
	})
}
