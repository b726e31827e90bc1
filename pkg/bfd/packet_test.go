package bfd

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The octets are laid out by hand from the picture in RFC 5880 §4.1.
func TestPacket(t *testing.T) {
	for _, tc := range []struct {
		name string
		p    Packet
		wire string
	}{
		{"the first one", Packet{State: Down, Multiplier: 3, Mine: 0x01020304, MinTx: time.Second, MinRx: 50 * time.Millisecond},
			"20 40 03 18  01020304 00000000 000f4240 0000c350 00000000"},
		{"it asks", Packet{Diagnostic: DetectionTimeExpired, State: Up, Poll: true, Multiplier: 5, Mine: 1, Yours: 2, MinTx: 300 * time.Millisecond, MinRx: 300 * time.Millisecond, MinEchoRx: time.Microsecond},
			"21 e0 05 18  00000001 00000002 000493e0 000493e0 00000001"},
		{"it answers, with all that there is", Packet{Diagnostic: AdministrativelyDown, State: Init, Final: true, Independent: true, Demand: true, Multiplier: 255, Mine: 1, Yours: 0xffffffff},
			"27 9a ff 18  00000001 ffffffff 00000000 00000000 00000000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wire := strings.ReplaceAll(tc.wire, " ", "")
			if got := hex.EncodeToString(tc.p.AppendTo(nil)); got != wire {
				t.Errorf("it is %s, want %s", got, wire)
			}
			b, err := hex.DecodeString(wire)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse(append(b, 1, 2, 3)) // what is behind it does not count
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.p, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	const good = "20c0031800000001000000020000c3500000c35000000000"
	for _, tc := range []struct {
		name string
		wire string
		want string
	}{
		{"nothing", "", "it has 0 octets"},
		{"cut off", good[:46], "it has 23 octets"},
		{"another version", "00" + good[2:], "its version is 0"},
		{"too short a length", "20c00317" + good[8:], "its length is said to be 23"},
		{"too long a length", "20c00319" + good[8:], "there are 24 octets"},
		{"authenticated, and too short", "20c40318" + good[8:], "its length is said to be 24"},
		{"authenticated", "20c4031a" + good[8:] + "0102", "it is authenticated"},
		{"multipoint", "20c10318" + good[8:], "multipoint"},
		{"no multiplier", "20c00018" + good[8:], "detect mult is 0"},
		{"from nobody", "20c0031800000000" + good[16:], "no discriminator"},
		{"up, for nobody", "20c003180000000100000000" + good[24:], "says Up"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := hex.DecodeString(tc.wire)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Parse(b); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("the error is %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	got := []string{AdminDown.String(), Up.String(), State(7).String(), NoDiagnostic.String(), Diagnostic(8).String(), Diagnostic(31).String()}
	if diff := cmp.Diff([]string{"AdminDown", "Up", "state 7", "no diagnostic", "reverse concatenated path down", "diagnostic 31"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzParse: whatever the network sends is refused, or is a packet that a session can take and that says the same again.
func FuzzParse(f *testing.F) {
	f.Add(Packet{State: Down, Multiplier: 3, Mine: 1, MinTx: time.Second, MinRx: time.Second}.AppendTo(nil))
	f.Add(Packet{State: Up, Multiplier: 1, Mine: 2, Yours: 1, Poll: true, Demand: true}.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Parse(p.AppendTo(nil))
		if err != nil || again != p {
			t.Fatalf("%+v became %+v, %v", p, again, err)
		}
		o := SessionOptions{Mine: 1, MinTx: 50 * time.Millisecond, MinRx: 50 * time.Millisecond, Multiplier: 3, Jitter: func() float64 { return 0.5 }}
		now := epoch
		s := NewSession(o, now)
		for range 100 {
			for _, sent := range append(s.Receive(p, now), s.Tick(now)...) {
				if _, err := Parse(sent.AppendTo(nil)); err != nil {
					t.Fatalf("after %+v it sent %+v: %v", p, sent, err)
				}
			}
			if next := s.Next(); !next.IsZero() && next.After(now) {
				now = next
			}
		}
	})
}
