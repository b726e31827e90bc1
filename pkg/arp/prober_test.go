package arp

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kube-vip.io/kube-vip/test/netns"
)

// The layouts are those of RFC 826, RFC 8200 §3 and RFC 4861 §4.3, written out by hand; the ICMPv6 checksums were
// computed by another program.
func TestProbeFrame(t *testing.T) {
	for _, test := range []struct{ name, addr, want string }{
		{
			"IPv4", "10.0.0.10",
			"ffffffffffff 020000000001 0806" +
				"0001 0800 06 04 0001" + "020000000001 00000000" + "000000000000 0a00000a" + "000000000000000000000000000000000000",
		},
		{
			"IPv6", "2001:db8::1234:5678",
			"3333ff345678 020000000001 86dd" +
				"6 00 00000 0018 3a ff 00000000000000000000000000000000 ff0200000000000000000001ff345678" +
				"87 00 8d96 00000000" + "20010db8000000000000000012345678",
		},
		{
			"IPv6 link-local", "fe80::10",
			"3333ff000010 020000000001 86dd" +
				"6 00 00000 0018 3a ff 00000000000000000000000000000000 ff0200000000000000000001ff000010" +
				"87 00 7c07 00000000" + "fe800000000000000000000000000010",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			frame, err := probeFrame(MAC{0x02, 0, 0, 0, 0, 0x01}, netip.MustParseAddr(test.addr))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.ReplaceAll(test.want, " ", ""), hex.EncodeToString(frame)); diff != "" {
				t.Errorf("frame (-want +got)\n%s", diff)
			}
		})
	}
	if frame, err := probeFrame(MAC{}, netip.Addr{}); err == nil {
		t.Errorf("frame %x for no address, want an error", frame)
	}
}

// claimCase is a frame and what it says; no addr means nothing.
type claimCase struct {
	name, frame, addr, mac string
}

func (c claimCase) bytes(t testing.TB) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(c.frame, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	toAll  = "ffffffffffff 02000000000b "
	toNode = "02000000000a 02000000000b "
	allSix = "333300000001 02000000000b 86dd "
	dadSix = "3333ff000010 02000000000b 86dd "

	arpHead = "0001 0800 06 04 "
	hwB     = "02000000000b "
	hwC     = "02000000000c "
	noHW    = "000000000000 "
	ten     = "0a00000a "
	eleven  = "0a00000b "
	zero    = "00000000 "

	dbTen   = "20010db8000000000000000000000010 "
	linkB   = "fe80000000000000000000000000000b "
	nobody  = "00000000000000000000000000000000 "
	toNodes = "ff020000000000000000000000000001 "
	toTen   = "ff0200000000000000000001ff000010 "
)

// Checksums that are written out were computed by another program; "sum" has the test do it.
func claimCases() []claimCase {
	// six is an IPv6 packet of an ICMPv6 message whose checksum is to be computed: its type, code and the rest.
	six := func(src, dst, kind, rest string) string {
		message := strings.ReplaceAll(kind+rest, " ", "")
		length := len(message)/2 + 2
		addrs, err := hex.DecodeString(strings.ReplaceAll(src+dst, " ", ""))
		if err != nil {
			panic(err)
		}
		body, err := hex.DecodeString(message[:4] + "0000" + message[4:])
		if err != nil {
			panic(err)
		}
		pseudo := append(addrs, 0, 0, 0, byte(length), 0, 0, 0, 58)
		sum := 0
		for i, b := range append(pseudo, body...) {
			sum += int(b) << (8 - i%2*8)
		}
		for sum > 0xffff {
			sum = sum&0xffff + sum>>16
		}
		return fmt.Sprintf("60000000 %04x 3a ff %s%s%s%04x%s", length, src, dst, message[:4], 0xffff-sum, message[4:])
	}
	const (
		ns, na    = "8700", "8800"
		targetB   = "0201 02000000000b "
		targetC   = "0201 02000000000c "
		sourceB   = "0101 02000000000b "
		nonce     = "0e01 a1b2c3d4e5f6 "
		unheardOf = "fd01 000000000000 "
		override  = "20000000 "
	)
	return []claimCase{
		{"ARP: reply to us", toNode + "0806" + arpHead + "0002" + hwB + ten + "02000000000a" + zero, "10.0.0.10", "02:00:00:00:00:0b"},
		{"ARP: reply to all", toAll + "0806" + arpHead + "0002" + hwB + ten + hwB + ten, "10.0.0.10", "02:00:00:00:00:0b"},
		{"ARP: padded", toAll + "0806" + arpHead + "0002" + hwB + ten + hwB + ten + strings.Repeat("ff", 18), "10.0.0.10", "02:00:00:00:00:0b"},
		{"ARP: gratuitous request", toAll + "0806" + arpHead + "0001" + hwB + ten + noHW + ten, "10.0.0.10", "02:00:00:00:00:0b"},
		{"ARP: its owner asks for another", toAll + "0806" + arpHead + "0001" + hwB + ten + noHW + eleven, "10.0.0.10", "02:00:00:00:00:0b"},
		{"ARP: somebody asks for it", toAll + "0806" + arpHead + "0001" + hwB + eleven + noHW + ten, "10.0.0.11", "02:00:00:00:00:0b"},
		{"ARP: another probe", toAll + "0806" + arpHead + "0001" + hwB + zero + noHW + ten, "10.0.0.10", "02:00:00:00:00:0b"},
		{"ARP: sent by another station", toAll + "0806" + arpHead + "0002" + hwC + ten + hwC + ten, "10.0.0.10", "02:00:00:00:00:0c"},
		{"ARP: reply of nobody", toAll + "0806" + arpHead + "0002" + hwB + zero + noHW + ten, "", ""},
		{"ARP: another hardware", toAll + "0806" + "0006 0800 06 04 0002" + hwB + ten + hwB + ten, "", ""},
		{"ARP: another protocol", toAll + "0806" + "0001 86dd 06 04 0002" + hwB + ten + hwB + ten, "", ""},
		{"ARP: longer hardware addresses", toAll + "0806" + "0001 0800 08 04 0002" + "0000" + hwB + ten + "0000" + hwB + ten, "", ""},
		{"ARP: shorter hardware addresses", toAll + "0806" + "0001 0800 00 04 0002" + ten + ten + strings.Repeat("00", 18), "", ""},
		{"ARP: longer protocol addresses", toAll + "0806" + "0001 0800 06 10 0002" + hwB + dbTen + hwB + dbTen, "", ""},
		{"ARP: odd protocol addresses", toAll + "0806" + "0001 0800 06 03 0002" + hwB + "0a0000" + hwB + "0a0000" + "0000", "", ""},
		{"ARP: lengths beyond the frame", toAll + "0806" + "0001 0800 ff ff 0002" + hwB + ten + hwB + ten, "", ""},
		{"ARP: inverse", toAll + "0806" + arpHead + "0009" + hwB + ten + hwB + ten, "", ""},
		{"ARP: in a VLAN", toAll + "8100 0005 0806" + arpHead + "0002" + hwB + ten + hwB + ten, "", ""},
		{"ARP: in a VLAN in a VLAN", toAll + "88a8 0007 8100 0005 0806" + arpHead + "0002" + hwB + ten + hwB + ten, "", ""},
		{"ARP: in LLC", toAll + "001c aaaa03 000000 0806" + arpHead + "0002" + hwB + ten + hwB + ten, "", ""},
		{"reverse ARP", toAll + "8035" + arpHead + "0004" + hwB + ten + hwB + ten, "", ""},

		{"NA", allSix + "60000000 0020 3a ff" + dbTen + toNodes + "8800 f902 20000000" + dbTen + targetB, "2001:db8::10", "02:00:00:00:00:0b"},
		{"NA without an option", allSix + "60000000 0018 3a ff" + linkB + toNodes + "8800 2c54 20000000" + dbTen, "2001:db8::10", "02:00:00:00:00:0b"},
		{"NA: checksum computed here", allSix + six(dbTen, toNodes, na, override+dbTen+targetB), "2001:db8::10", "02:00:00:00:00:0b"},
		{"NA: padded", allSix + six(dbTen, toNodes, na, override+dbTen+targetB) + "ffff", "2001:db8::10", "02:00:00:00:00:0b"},
		{"NA by a proxy", allSix + six(linkB, toNodes, na, zero+dbTen+targetC), "2001:db8::10", "02:00:00:00:00:0c"},
		{"NA with another option first", allSix + six(dbTen, toNodes, na, override+dbTen+unheardOf+targetC), "2001:db8::10", "02:00:00:00:00:0c"},
		{"NA to one host, solicited", toNode + "86dd" + six(dbTen, linkB, na, "60000000"+dbTen+targetB), "2001:db8::10", "02:00:00:00:00:0b"},
		{"NA: wrong checksum", allSix + "60000000 0020 3a ff" + dbTen + toNodes + "8800 f903 20000000" + dbTen + targetB, "", ""},
		{"NA: no checksum", allSix + "60000000 0020 3a ff" + dbTen + toNodes + "8800 0000 20000000" + dbTen + targetB, "", ""},
		{"NA: routed", allSix + strings.Replace(six(dbTen, toNodes, na, override+dbTen+targetB), "3a ff", "3a fe", 1), "", ""},
		{"NA: in IPv4's version", allSix + strings.Replace(six(dbTen, toNodes, na, override+dbTen+targetB), "6", "4", 1), "", ""},
		{"NA: another protocol", allSix + strings.Replace(six(dbTen, toNodes, na, override+dbTen+targetB), "3a ff", "11 ff", 1), "", ""},
		{"NA: code", allSix + six(dbTen, toNodes, "8801", override+dbTen+targetB), "", ""},
		{"NA: to all, solicited", allSix + six(dbTen, toNodes, na, "60000000"+dbTen+targetB), "", ""},
		{"NA of a group", allSix + six(dbTen, toNodes, na, override+toTen+targetB), "", ""},
		{"NA of an IPv4-mapped address", allSix + six(dbTen, toNodes, na, override+"00000000000000000000ffff0a00000a"+targetB), "", ""},
		{"NA: option of length 0", allSix + six(dbTen, toNodes, na, override+dbTen+"0200 02000000000b"), "", ""},
		{"NA: option longer than the message", allSix + six(dbTen, toNodes, na, override+dbTen+"0202 02000000000b"), "", ""},
		{"NA: hardware address of another length", allSix + six(dbTen, toNodes, na, override+dbTen+"0202 02000000000b 0000000000000000"), "", ""},
		{"NA: half an option", allSix + six(dbTen, toNodes, na, override+dbTen+"02"), "", ""},
		{"NA: too short", allSix + six(dbTen, toNodes, na, override+"20010db8"), "", ""},
		{"NA: no more than a checksum", allSix + six(dbTen, toNodes, na, ""), "", ""},
		{"NA: nothing", allSix + "60000000 0000 3a ff" + dbTen + toNodes, "", ""},
		{"NA: a byte", allSix + "60000000 0001 3a ff" + dbTen + toNodes + "88", "", ""},
		{"NA: in a VLAN", "333300000001 02000000000b 8100 0005 86dd" + six(dbTen, toNodes, na, override+dbTen+targetB), "", ""},

		{"NS: another probe", dadSix + six(nobody, toTen, ns, zero+dbTen), "2001:db8::10", "02:00:00:00:00:0b"},
		{"NS: another probe, by Linux", dadSix + six(nobody, toTen, ns, zero+dbTen+nonce), "2001:db8::10", "02:00:00:00:00:0b"},
		{"NS: somebody asks for it", dadSix + six(linkB, toTen, ns, zero+dbTen+sourceB), "", ""},
		{"NS: somebody asks for it and does not say where he is", dadSix + six(linkB, toTen, ns, zero+dbTen), "", ""},
		{"NS: another probe that says from whom", dadSix + six(nobody, toTen, ns, zero+dbTen+sourceB), "", ""},
		{"NS: another probe to all", dadSix + six(nobody, toNodes, ns, zero+dbTen), "", ""},
		{"NS of a group", dadSix + six(nobody, toTen, ns, zero+toTen), "", ""},
		{"NS: routed", dadSix + strings.Replace(six(nobody, toTen, ns, zero+dbTen), "3a ff", "3a fe", 1), "", ""},

		{"router advertisement", allSix + six(linkB, toNodes, "8600", "40 00 0708 00000000 00000000"+sourceB), "", ""},
		{"echo", allSix + six(linkB, toNodes, "8000", zero+dbTen), "", ""},
		{"nothing", "", "", ""},
	}
}

func TestClaimIn(t *testing.T) {
	for _, c := range claimCases() {
		t.Run(c.name, func(t *testing.T) {
			frame := c.bytes(t)
			got, ok := claimIn(frame)
			if !ok {
				if c.addr != "" {
					t.Errorf("no claim, want %s by %s", c.addr, c.mac)
				}
				return
			}
			if diff := cmp.Diff([]string{c.addr, c.mac}, []string{got.addr.String(), got.mac.String()}); diff != "" {
				t.Errorf("claim (-want +got)\n%s", diff)
			}
			// Whatever ends early claims nothing.
			whole := map[uint16]int{0x0806: 14 + 28, 0x86dd: 14 + 40 + int(binary.BigEndian.Uint16(append(frame, 0, 0, 0, 0)[18:]))}
			for n := range whole[binary.BigEndian.Uint16(frame[12:])] {
				if c, ok := claimIn(frame[:n:n]); ok {
					t.Errorf("the first %d bytes claim %v", n, c)
				}
			}
		})
	}
}

// FuzzClaimIn: a claim is made of bytes of an untagged frame, and there is none in less than a packet.
func FuzzClaimIn(f *testing.F) {
	for _, c := range claimCases() {
		f.Add(c.bytes(f))
	}
	for _, addr := range []string{"10.0.0.10", "2001:db8::10"} {
		frame, err := probeFrame(macA(), netip.MustParseAddr(addr))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		before := slices.Clone(frame)
		c, ok := claimIn(frame)
		if !bytes.Equal(before, frame) {
			t.Fatalf("the frame was changed to %x", frame)
		}
		if !ok {
			if c != (claim{}) {
				t.Fatalf("%v, and no claim", c)
			}
			return
		}
		kind := binary.BigEndian.Uint16(frame[12:])
		switch {
		case c.addr.Is4() && kind == 0x0806 && len(frame) >= 42:
		case c.addr.Is6() && kind == 0x86dd && len(frame) >= 78 && !c.addr.IsMulticast() && !c.addr.Is4In6() && c.addr.Zone() == "":
		default:
			t.Fatalf("%v in a frame of type %#x with %d bytes", c, kind, len(frame))
		}
		if !bytes.Contains(frame[14:], c.addr.AsSlice()) || !bytes.Contains(frame[6:], c.mac[:]) {
			t.Fatalf("%v is not in the frame", c)
		}
	})
}

// outcome is what a Probe returned.
type outcome struct {
	owner string
	err   error
	took  time.Duration
}

// probing starts a Probe in a namespace.
func probing(ctx context.Context, ns *netns.Namespace, p *Prober, link, addr string) <-chan outcome {
	done := make(chan outcome, 1)
	ns.Go(func() {
		began := time.Now()
		owner, err := p.Probe(ctx, link, netip.MustParseAddr(addr))
		done <- outcome{owner.String(), err, time.Since(began)}
	})
	return done
}

// mustProbe waits for a Probe and returns its owner, "" for nobody.
func mustProbe(t *testing.T, ns *netns.Namespace, p *Prober, link, addr string) string {
	t.Helper()
	got := <-probing(t.Context(), ns, p, link, addr)
	if got.err != nil {
		t.Fatal(got.err)
	}
	return got.owner
}

// newSegment is the node with one link, and nobody else's address.
func newSegment(t testing.TB) *hosts {
	t.Helper()
	h := newHosts(t)
	h.join(t, "eth0", macA())
	h.deafen()
	return h
}

// own has the kernel of a namespace hold an address, and waits until it answers for it.
func own(t testing.TB, ns *netns.Namespace, link, address string) {
	t.Helper()
	addr := netip.MustParseAddr(address)
	ns.AddAddr(t, link, netip.PrefixFrom(addr, addr.BitLen()).String())
	if addr.Is4() {
		return
	}
	// Linux joins the solicited-node group a little later, from a work queue.
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		t.Fatal(err)
	}
	netns.Eventually(t, fmt.Sprintf("group %s on %s", group, link), func() (joined bool) {
		ns.Must(t, func() error {
			b, err := os.ReadFile("/proc/thread-self/net/igmp6")
			for line := range strings.Lines(string(b)) {
				f := strings.Fields(line)
				joined = joined || len(f) > 2 && f[1] == link && f[2] == hex.EncodeToString(group.AsSlice())
			}
			return err
		})
		return joined
	})
}

// overhear calls f with every frame on the observer's bridge, and sends what f returns, until the test ends.
func (h *hosts) overhear(t testing.TB, f func(frame []byte) [][]byte) {
	t.Helper()
	var conn *packet.Conn
	var port Port
	h.observer.Must(t, func() error {
		ifi, err := net.InterfaceByName("br0")
		if err != nil {
			return err
		}
		if conn, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil); err != nil {
			return err
		}
		port, err = Kernel{}.Open("br0")
		return err
	})
	var reader sync.WaitGroup
	reader.Go(func() {
		b := make([]byte, 1600)
		for {
			n, _, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			for _, answer := range f(b[:n]) {
				if err := port.Send(answer); err != nil {
					t.Errorf("answer: %v", err)
				}
			}
		}
	})
	t.Cleanup(func() {
		conn.Close()
		reader.Wait()
		port.Close()
	})
}

// onProbe is for overhear: it answers each probe for an address by the node.
func onProbe(t testing.TB, addr string, answers ...[]byte) func([]byte) [][]byte {
	t.Helper()
	want, err := probeFrame(macA(), netip.MustParseAddr(addr))
	if err != nil {
		t.Fatal(err)
	}
	return func(frame []byte) [][]byte {
		if bytes.Equal(frame, want) {
			return answers
		}
		return nil
	}
}

// nothingLeft has a test check in the end that it left no goroutine and no descriptor, and no ear in p.
func nothingLeft(t testing.TB, p *Prober) func() {
	t.Helper()
	count := func() (goroutines, descriptors int) {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(fds)
	}
	goroutines, descriptors := count()
	return func() {
		t.Helper()
		p.mu.Lock()
		ears := len(p.ears)
		p.mu.Unlock()
		if ears != 0 {
			t.Errorf("%d ears are left", ears)
		}
		// The goroutines that called Probe may need a moment to end.
		netns.Eventually(t, fmt.Sprintf("no more than %d goroutines and %d descriptors", goroutines, descriptors), func() bool {
			g, d := count()
			return g <= goroutines && d <= descriptors
		})
	}
}

// A kernel that has the address is found, with its hardware address; and by way of a bridge too.
func TestProbeFindsTheOwner(t *testing.T) {
	h := newSegment(t)
	p := NewProber(ProberOptions{})
	for i, addr := range []string{"10.0.0.10", "2001:db8::10", "fe80::10"} {
		own(t, h.observer, "br0", addr)
		began := time.Now()
		if got := mustProbe(t, h.node, p, "eth0", addr); got != observerMAC {
			t.Errorf("%s is %q's, want %s's", addr, got, observerMAC)
		}
		t.Logf("%s: took %v", addr, time.Since(began))
		reverse := []string{"10.0.0.20", "2001:db8::20", "fe80::20"}[i]
		own(t, h.node, "eth0", reverse)
		if got := mustProbe(t, h.observer, NewProber(ProberOptions{}), "br0", reverse); got != macA().String() {
			t.Errorf("%s is %q's by the bridge, want %s's", reverse, got, macA())
		}
	}
	for _, same := range []string{"::ffff:10.0.0.10", "fe80::10%eth0"} {
		if got := mustProbe(t, h.node, p, "eth0", same); got != observerMAC {
			t.Errorf("%s is %q's, want %s's", same, got, observerMAC)
		}
	}
}

// Nobody answers: so many probes, so far apart, and silence at the end.
func TestProbeFindsNobody(t *testing.T) {
	h := newSegment(t)
	for _, addr := range []string{"10.0.0.10", "2001:db8::10"} {
		want, err := probeFrame(macA(), netip.MustParseAddr(addr))
		if err != nil {
			t.Fatal(err)
		}
		heard := make(chan time.Time, 100)
		h.overhear(t, func(frame []byte) [][]byte {
			if bytes.Equal(frame, want) {
				heard <- time.Now()
			}
			return nil
		})
		p := NewProber(ProberOptions{Interval: 50 * time.Millisecond, Listen: 150 * time.Millisecond})
		finish := nothingLeft(t, p)
		got := <-probing(t.Context(), h.node, p, "eth0", addr)
		if got.err != nil || got.owner != "" {
			t.Errorf("%s: %q, %v; want nobody", addr, got.owner, got.err)
		}
		if want := 250 * time.Millisecond; got.took < want {
			t.Errorf("%s: took %v, want %v at least", addr, got.took, want)
		}
		var times []time.Time
		for range 3 {
			select {
			case at := <-heard:
				times = append(times, at)
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: probes heard at %v, want 3", addr, times)
			}
		}
		if len(heard) > 0 {
			t.Errorf("%s: %d probes more than 3", addr, len(heard))
		}
		t.Logf("%s: took %v, gaps %v and %v", addr, got.took, times[1].Sub(times[0]), times[2].Sub(times[1]))
		finish()
	}
}

// TestProberDefaults: an operator waits.
func TestProberDefaults(t *testing.T) {
	for _, test := range []struct {
		in               ProberOptions
		attempts         int
		interval, listen time.Duration
	}{
		{ProberOptions{}, 3, 100 * time.Millisecond, 100 * time.Millisecond},
		{ProberOptions{Attempts: -1, Interval: -1, Listen: -1}, 3, 100 * time.Millisecond, 100 * time.Millisecond},
		{ProberOptions{Attempts: 1, Interval: time.Second}, 1, time.Second, time.Second},
		{ProberOptions{Attempts: 5, Interval: time.Second, Listen: time.Minute}, 5, time.Second, time.Minute},
	} {
		p := NewProber(test.in)
		if p.attempts != test.attempts || p.interval != test.interval || p.listen != test.listen {
			t.Errorf("%+v: %d attempts, every %v, listens %v", test.in, p.attempts, p.interval, p.listen)
		}
	}
}

// What others say while we probe, on a real link.
func TestProbeHears(t *testing.T) {
	h := newSegment(t)
	reflected := func(addr string) string {
		frame, err := probeFrame(macA(), netip.MustParseAddr(addr))
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(frame)
	}
	cases := append(claimCases(),
		claimCase{"our ARP probe comes back", reflected("10.0.0.10"), "", ""},
		claimCase{"our NS comes back", reflected("2001:db8::10"), "", ""},
		// VLAN 0 is no VLAN but a priority, IEEE 802.1Q §6.9.
		claimCase{"ARP: with a priority", toAll + "8100 a000 0806" + arpHead + "0002" + hwB + ten + hwB + ten, "10.0.0.10", "02:00:00:00:00:0b"},
	)
	for _, c := range cases {
		frame := c.bytes(t)
		if len(frame) < ethernetHeaderLen {
			continue // cannot be sent
		}
		addr := "10.0.0.10"
		if bytes.HasPrefix(frame, []byte{0x33, 0x33}) || binary.BigEndian.Uint16(frame[12:]) == 0x86dd {
			addr = "2001:db8::10"
		}
		want := c.mac
		if c.addr != addr {
			want = ""
		}
		answers := [][]byte{frame}
		if c.addr != "" && len(frame) > 60 {
			answers = [][]byte{frame[:len(frame)-len(frame)/3], frame} // truncated first
		}
		t.Run(c.name, func(t *testing.T) {
			h.overhear(t, onProbe(t, addr, answers...))
			var options ProberOptions
			if want == "" {
				options = ProberOptions{Attempts: 2, Interval: 30 * time.Millisecond}
			}
			if got := mustProbe(t, h.node, NewProber(options), "eth0", addr); got != want {
				t.Errorf("%s is %q's, want %q", addr, got, want)
			}
		})
	}
}

// Two nodes that want the same address: never do both believe that it is free.
func TestProbeMeetsProbe(t *testing.T) {
	h := newSegment(t)
	a, b := NewProber(ProberOptions{Interval: 200 * time.Millisecond}), NewProber(ProberOptions{Interval: 200 * time.Millisecond})
	type round struct {
		addr          string
		first, second <-chan outcome
	}
	var rounds []*round
	for i := range 20 {
		for _, addr := range []string{fmt.Sprintf("10.0.0.%d", i+1), fmt.Sprintf("2001:db8::%x", i+1)} {
			rounds = append(rounds, &round{addr: addr, first: probing(t.Context(), h.node, a, "eth0", addr)})
		}
	}
	for _, r := range rounds { // from at the same time to some milliseconds later
		r.second = probing(t.Context(), h.observer, b, "br0", r.addr)
	}
	both := 0
	for _, r := range rounds {
		one, two := <-r.first, <-r.second
		if err := errors.Join(one.err, two.err); err != nil {
			t.Fatal(err)
		}
		if one.owner != "" && one.owner != observerMAC || two.owner != "" && two.owner != macA().String() {
			t.Errorf("%s: %q and %q, want each other", r.addr, one.owner, two.owner)
		}
		switch {
		case one.owner == "" && two.owner == "":
			t.Errorf("%s: both believe that it is free", r.addr)
		case one.owner != "" && two.owner != "":
			both++
		}
	}
	t.Logf("in %d of %d rounds both were told of each other", both, len(rounds))
}

// RFC 5227 §2.1.1: what this node says itself does not count, by whichever of its links.
func TestProbeIgnoresThisNode(t *testing.T) {
	h := newSegment(t)
	h.join(t, "eth1", macB())
	p := NewProber(ProberOptions{Interval: 30 * time.Millisecond})
	for _, addr := range []string{"10.0.0.10", "2001:db8::10"} {
		own(t, h.node, "eth1", addr)
		if got := mustProbe(t, h.observer, NewProber(ProberOptions{}), "br0", addr); got != macB().String() {
			t.Fatalf("%s is %q's for a neighbour, want %s", addr, got, macB())
		}
		if got := mustProbe(t, h.node, p, "eth0", addr); got != "" {
			t.Errorf("%s is %q's, want nobody's: it is on this node", addr, got)
		}
		own(t, h.observer, "br0", addr)
		if got := mustProbe(t, h.node, NewProber(ProberOptions{}), "eth0", addr); got != observerMAC {
			t.Errorf("%s is %q's, want %s's: it is on this node and elsewhere", addr, got, observerMAC)
		}
	}
}

// A packet socket also gets what another link of this node makes of this link's frames: those of its VLANs, and those
// to the hardware address of a MAC VLAN. These are not of this link.
func TestProbeHearsItsLinkAlone(t *testing.T) {
	h := newSegment(t)
	h.macvlan(t, "mac0", macB())
	reply := claimCase{frame: "02000000000b 02000000000c 0806" + arpHead + "0002" + hwC + ten + hwB + ten}.bytes(t)
	h.overhear(t, onProbe(t, "10.0.0.10", reply))
	if got := mustProbe(t, h.node, NewProber(ProberOptions{Interval: 30 * time.Millisecond}), "eth0", "10.0.0.10"); got != "" {
		t.Errorf("10.0.0.10 is %q's, want nobody's: that was to another link", got)
	}
}

// macvlan gives the node a link of its own hardware address upon eth0. It filters groups, as network cards do, and has
// no IPv6.
func (h *hosts) macvlan(t *testing.T, name string, mac MAC) {
	t.Helper()
	h.onLink(t, "eth0", func(l netlink.Link) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr, attrs.ParentIndex = name, mac[:], l.Attrs().Index
		return netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE})
	})
	// With less than IPv6 needs, RFC 8200 §5, the kernel has no IPv6 there and joins no group.
	h.onLink(t, name, func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1200) })
	h.onLink(t, name, netlink.LinkSetUp)
	netns.Eventually(t, "carrier of "+name, func() bool { return h.node.Up(t, name) })
}

// On a VLAN the question and the answers carry its tag, which the kernel puts on and takes off; and what is said in the
// VLAN is not said on the link below.
func TestProbeOnVLAN(t *testing.T) {
	h := newSegment(t)
	vlan := func(ns *netns.Namespace, parent string) {
		var known bool
		ns.Must(t, func() error {
			l, err := netlink.LinkByName(parent)
			if err != nil {
				return err
			}
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.ParentIndex = parent+".5", l.Attrs().Index
			v := &netlink.Vlan{LinkAttrs: attrs, VlanId: 5, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
			err = netlink.LinkAdd(v)
			if known = !errors.Is(err, unix.EOPNOTSUPP); !known {
				return nil
			}
			return errors.Join(err, netlink.LinkSetUp(v))
		})
		if !known {
			// Not a matter of privilege. TestProbeHearsItsLinkAlone goes the same way through the kernel.
			t.Skip("this kernel was built without VLANs (CONFIG_VLAN_8021Q)")
		}
	}
	vlan(h.node, "eth0")
	vlan(h.observer, "br0")
	h.observer.Sysctl(t, "ipv4/conf/all/arp_ignore", "1") // each address by its own link alone
	p := NewProber(ProberOptions{Interval: 30 * time.Millisecond})
	own(t, h.observer, "br0.5", "10.0.0.10")
	if got := mustProbe(t, h.node, p, "eth0.5", "10.0.0.10"); got != observerMAC {
		t.Errorf("10.0.0.10 is %q's in the VLAN, want %s's", got, observerMAC)
	}
	tagged := claimCase{frame: toAll + "8100 0005 0806" + arpHead + "0002" + hwB + ten + hwB + ten}.bytes(t)
	h.overhear(t, onProbe(t, "10.0.0.10", tagged))
	if got := mustProbe(t, h.node, p, "eth0", "10.0.0.10"); got != "" {
		t.Errorf("10.0.0.10 is %q's below the VLAN, want nobody's", got)
	}
}

// A network card passes on the groups alone that somebody has joined, which nobody else may have.
func TestProbeJoinsItsGroups(t *testing.T) {
	h := newSegment(t)
	h.macvlan(t, "mac0", macB())
	groups := func() (lines string) {
		h.node.Must(t, func() error {
			b, err := os.ReadFile("/proc/thread-self/net/dev_mcast")
			for line := range strings.Lines(string(b)) {
				if strings.Contains(line, "mac0") {
					lines += line
				}
			}
			return err
		})
		return lines
	}
	before := groups()
	other := MAC{0x02, 0, 0, 0, 0, 0x0c}
	rival, err := probeFrame(other, netip.MustParseAddr("2001:db8::10"))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := unsolicitedNA(other, netip.MustParseAddr("2001:db8::10"), netip.MustParseAddr("2001:db8::10"), false)
	if err != nil {
		t.Fatal(err)
	}
	question, err := probeFrame(macB(), netip.MustParseAddr("2001:db8::10"))
	if err != nil {
		t.Fatal(err)
	}
	for name, frame := range map[string][]byte{"answer": answer, "another probe": rival} {
		t.Run(name, func(t *testing.T) {
			h.overhear(t, func(f []byte) [][]byte {
				if bytes.Equal(f, question) {
					return [][]byte{frame}
				}
				return nil
			})
			if got := mustProbe(t, h.node, NewProber(ProberOptions{}), "mac0", "2001:db8::10"); got != other.String() {
				t.Errorf("2001:db8::10 is %q's, want %s's", got, other)
			}
		})
	}
	if after := groups(); after != before {
		t.Errorf("groups of mac0 are\n%swere\n%s", after, before)
	}

	// And while one probe goes on, another that has ended leaves its group.
	p := NewProber(ProberOptions{Interval: time.Hour})
	first, end := context.WithCancel(t.Context())
	one := probing(first, h.node, p, "mac0", "2001:db8::10")
	netns.Eventually(t, "group of 2001:db8::10", func() bool { return strings.Contains(groups(), "3333ff000010") })
	during := groups()
	second, endSecond := context.WithCancel(t.Context())
	two := probing(second, h.node, p, "mac0", "2001:db8::11")
	netns.Eventually(t, "group of 2001:db8::11", func() bool { return strings.Contains(groups(), "3333ff000011") })
	endSecond()
	<-two
	if after := groups(); after != during {
		t.Errorf("groups of mac0 are\n%swere\n%s", after, during)
	}
	end()
	<-one
}

// What cannot be asked is refused with the reason, at once and with nothing left.
func TestProbeRefuses(t *testing.T) {
	h := newSegment(t)
	h.addLink(t, "down", macB())
	h.setUp(t, "down", false)
	h.addLink(t, "loose", MAC{0x02, 0, 0, 0, 0, 0x0c})
	h.carrier(t, "loose", false)
	h.onLink(t, "lo", func(l netlink.Link) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "tun0"
		return errors.Join(netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN}), netlink.LinkSetUp(l))
	})
	p := NewProber(ProberOptions{Interval: time.Hour})
	finish := nothingLeft(t, p)
	for _, test := range []struct{ link, addr, want string }{
		{"eth7", "10.0.0.10", "probe 10.0.0.10: open link eth7: find the interface: no such device"},
		{"eth7", "2001:db8::10", "probe 2001:db8::10: open link eth7: find the interface: no such device"},
		{"", "10.0.0.10", "probe 10.0.0.10: open link : find the interface: no such device"},
		{"lo", "10.0.0.10", "probe 10.0.0.10: open link lo: a loopback has no neighbours; name the interface that faces the network"},
		{"tun0", "10.0.0.10", "probe 10.0.0.10: open link tun0: not an Ethernet interface (ARP hardware type 65534, address of 0 bytes)"},
		{"down", "10.0.0.10", "probe 10.0.0.10: look at link down: it is down"},
		{"down", "2001:db8::10", "probe 2001:db8::10: look at link down: it is down"},
		{"loose", "10.0.0.10", "probe 10.0.0.10: look at link loose: it has no carrier"},
		{"eth0", "0.0.0.0", "probe 0.0.0.0: not the address of a host on a network"},
		{"eth0", "::", "probe ::: not the address of a host on a network"},
		{"eth0", "127.0.0.1", "probe 127.0.0.1: not the address of a host on a network"},
		{"eth0", "ff02::1", "probe ff02::1: not the address of a host on a network"},
		{"eth0", "224.0.0.1", "probe 224.0.0.1: not the address of a host on a network"},
	} {
		got := <-probing(t.Context(), h.node, p, test.link, test.addr)
		if got.err == nil || got.err.Error() != test.want || got.owner != "" {
			t.Errorf("%s on %q: %q, %v; want %s", test.addr, test.link, got.owner, got.err, test.want)
		}
	}
	if _, err := p.Probe(t.Context(), "eth0", netip.Addr{}); err == nil {
		t.Error("probed for no address")
	}
	finish()
}

// carrier gives a link of the node its carrier or takes it, and waits until the node knows.
func (h *hosts) carrier(t *testing.T, name string, on bool) {
	t.Helper()
	set := netlink.LinkSetDown
	if on {
		set = netlink.LinkSetUp
	}
	h.observer.OnLink(t, "to-"+name, set)
	netns.Eventually(t, fmt.Sprintf("carrier of %s is %t", name, on), func() bool { return h.node.Up(t, name) == on })
}

// NET_RAW is what it takes, and all that it takes.
func TestProbeCapability(t *testing.T) {
	h := newSegment(t)
	own(t, h.observer, "br0", "10.0.0.10")
	own(t, h.observer, "br0", "2001:db8::10")
	p := NewProber(ProberOptions{})
	// with probes on a thread that has no other capabilities and ends with it.
	with := func(capabilities uint32, addr string) (got outcome) {
		done := make(chan struct{})
		h.node.Go(func() {
			defer close(done)
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			sets := [2]unix.CapUserData{{Effective: capabilities, Permitted: capabilities}}
			if got.err = unix.Capset(&header, &sets[0]); got.err != nil {
				return
			}
			owner, err := p.Probe(t.Context(), "eth0", netip.MustParseAddr(addr))
			got = outcome{owner: owner.String(), err: err}
		})
		<-done
		return got
	}
	for _, addr := range []string{"10.0.0.10", "2001:db8::10"} {
		if got := with(1<<unix.CAP_NET_RAW, addr); got.err != nil || got.owner != observerMAC {
			t.Errorf("%s with NET_RAW alone: %q, %v", addr, got.owner, got.err)
		}
		got := with(1<<unix.CAP_NET_ADMIN, addr)
		if want := "probe " + addr + ": open link eth0: the capability NET_RAW is needed: "; got.err == nil || !strings.HasPrefix(got.err.Error(), want) || !errors.Is(got.err, unix.EPERM) {
			t.Errorf("%s without NET_RAW: %q, %v; want %s", addr, got.owner, got.err, want)
		}
	}
}

// A Probe ends with its context, at once.
func TestProbeEndsWithItsContext(t *testing.T) {
	h := newSegment(t)
	p := NewProber(ProberOptions{Interval: time.Hour})
	finish := nothingLeft(t, p)
	var worst time.Duration
	for _, addr := range []string{"10.0.0.10", "2001:db8::10"} {
		for range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			got := probing(ctx, h.node, p, "eth0", addr)
			asked(t, p, 1)
			began := time.Now()
			cancel()
			if o := <-got; !errors.Is(o.err, context.Canceled) || o.owner != "" {
				t.Errorf("%s: %q, %v; want context canceled", addr, o.owner, o.err)
			}
			worst = max(worst, time.Since(began))
		}
	}
	t.Logf("ended within %v", worst)
	if worst > 2*time.Second {
		t.Errorf("ended after %v", worst)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Probe(over, "eth7", netip.MustParseAddr("10.0.0.10")); !errors.Is(err, context.Canceled) {
		t.Errorf("begun too late: %v", err)
	}
	finish()
}

// asked waits until so many questions are posed.
func asked(t testing.TB, p *Prober, want int) {
	t.Helper()
	netns.Eventually(t, fmt.Sprintf("%d questions", want), func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		n := 0
		for _, e := range p.ears {
			for _, q := range e.questions {
				n += len(q)
			}
		}
		return n == want
	})
}

// A link that cannot be used any more is no silence: everybody who asks there is told, and a later Probe begins anew.
func TestProbeLosesItsLink(t *testing.T) {
	const interval = 200 * time.Millisecond
	for _, test := range []struct {
		name  string
		lose  func(t *testing.T, h *hosts)
		mend  func(t *testing.T, h *hosts)
		want  string
		early bool // before the time of the probes is up
	}{
		{
			"deleted",
			func(t *testing.T, h *hosts) { h.delLink(t, "eth0") },
			func(t *testing.T, h *hosts) { h.addLink(t, "eth0", macA()) },
			"look at link eth0: ", true, // which goes down first, then out of sight, and then loses its name
		},
		{
			"down",
			func(t *testing.T, h *hosts) { h.setUp(t, "eth0", false) },
			func(t *testing.T, h *hosts) { h.setUp(t, "eth0", true) },
			"look at link eth0: it is down", true,
		},
		{
			"renamed",
			func(t *testing.T, h *hosts) {
				h.onLink(t, "eth0", func(l netlink.Link) error { return netlink.LinkSetName(l, "eth9") })
			},
			func(t *testing.T, h *hosts) {
				h.onLink(t, "eth9", func(l netlink.Link) error { return netlink.LinkSetName(l, "eth0") })
			},
			"look at link eth0: find the interface: no such device", false,
		},
		{
			"no carrier",
			func(t *testing.T, h *hosts) { h.carrier(t, "eth0", false) },
			func(t *testing.T, h *hosts) { h.carrier(t, "eth0", true); h.settle(t, "eth0") },
			"look at link eth0: it has no carrier", false,
		},
		{
			"another hardware address",
			func(t *testing.T, h *hosts) { h.setMAC(t, "eth0", macB()) },
			func(t *testing.T, h *hosts) { h.setMAC(t, "eth0", macA()) },
			"look at link eth0: its hardware address has changed from 02:00:00:00:00:0a to 02:00:00:00:00:0b meanwhile", false,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newSegment(t)
			options := ProberOptions{Interval: interval, Listen: 2 * time.Second}
			if test.early {
				options.Interval = time.Hour
			}
			p := NewProber(options)
			finish := nothingLeft(t, p)
			var all []<-chan outcome
			addrs := []string{"10.0.0.10", "10.0.0.11", "10.0.0.11", "2001:db8::10", "2001:db8::11"}
			for _, addr := range addrs {
				all = append(all, probing(t.Context(), h.node, p, "eth0", addr))
			}
			asked(t, p, len(addrs))
			began := time.Now()
			test.lose(t, h)
			t.Logf("took %v", time.Since(began))
			for i, o := range all {
				want := "probe " + addrs[i] + ": " + test.want
				if got := <-o; got.err == nil || !strings.HasPrefix(got.err.Error(), want) {
					t.Errorf("%s: %q, %v; want %s", addrs[i], got.owner, got.err, want)
				}
			}
			finish()
			test.mend(t, h)
			own(t, h.observer, "br0", "10.0.0.10")
			netns.Eventually(t, "found after the link is back", func() bool {
				o := <-probing(t.Context(), h.node, p, "eth0", "10.0.0.10")
				return o.owner == observerMAC
			})
		})
	}
}

// Whoever comes after a link failed finds another ear than those who have not left yet.
func TestProbeAfterAFailure(t *testing.T) {
	h := newSegment(t)
	own(t, h.observer, "br0", "10.0.0.10")
	p := NewProber(ProberOptions{Interval: time.Hour})
	finish := nothingLeft(t, p)
	old := h.ear(t, p, netip.MustParseAddr("10.0.0.10"))
	h.delLink(t, "eth0")
	<-old.lost
	h.addLink(t, "eth0", macA())
	fresh := h.ear(t, p, netip.MustParseAddr("10.0.0.10"))
	if fresh == old {
		t.Fatal("the ear that failed is used again")
	}
	p.leave(old)
	if got := mustProbe(t, h.node, p, "eth0", "10.0.0.10"); got != observerMAC {
		t.Errorf("10.0.0.10 is %q's, want %s's", got, observerMAC)
	}
	if p.ears[fresh.medium] != fresh {
		t.Error("the old ear's end took the new one away")
	}
	p.leave(fresh)
	finish()
}

// A thousand probes, found or not, cancelled or refused, leave nothing.
func TestProbeLeavesNothing(t *testing.T) {
	h := newSegment(t)
	own(t, h.observer, "br0", "10.0.0.10")
	own(t, h.observer, "br0", "2001:db8::10")
	p := NewProber(ProberOptions{Interval: time.Millisecond})
	finish := nothingLeft(t, p)
	expired, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	for round := range 20 {
		var all []<-chan outcome
		for i := range 10 {
			all = append(all,
				probing(t.Context(), h.node, p, "eth0", "10.0.0.10"),
				probing(t.Context(), h.node, p, "eth0", "2001:db8::10"),
				probing(t.Context(), h.node, p, "eth0", fmt.Sprintf("10.0.%d.%d", round+1, i)),
				probing(t.Context(), h.node, p, []string{"eth0", "eth7"}[i%2], fmt.Sprintf("2001:db8::%x:%x", round+1, i)),
				probing(expired, h.node, p, "eth0", "10.0.0.10"))
		}
		for _, o := range all {
			<-o
		}
	}
	finish()
}

// Hundreds at once share a socket for each family, and each gets its own answer.
func TestProbeManyAtOnce(t *testing.T) {
	h := newSegment(t)
	const each = 500
	addr := func(family, i int) netip.Addr {
		if family == 0 {
			return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		}
		return netip.MustParseAddr(fmt.Sprintf("2001:db8::1:%x", i))
	}
	// Every other has an owner.
	h.observer.Must(t, func() error {
		l, err := netlink.LinkByName("br0")
		for i := 1; i < each-1; i += 2 {
			err = errors.Join(err, netlink.AddrAdd(l, hostAddr(addr(0, i))), netlink.AddrAdd(l, hostAddr(addr(1, i))))
		}
		return err
	})
	own(t, h.observer, "br0", addr(0, each-1).String())
	own(t, h.observer, "br0", addr(1, each-1).String())
	p := NewProber(ProberOptions{})
	finish := nothingLeft(t, p)
	descriptors := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	before := descriptors()

	var ears []*ear
	for family := range 2 {
		ears = append(ears, h.ear(t, p, addr(family, 0)))
	}
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	spent := -time.Duration(used.Utime.Nano() + used.Stime.Nano())
	began := time.Now()
	var all sync.WaitGroup
	var mu sync.Mutex
	took := map[bool][]time.Duration{} // by whether an owner was found
	for family := range 2 {
		for i := range each {
			all.Go(func() {
				began := time.Now()
				owner, err := p.Probe(t.Context(), "eth0", addr(family, i))
				d := time.Since(began)
				if want := map[bool]string{true: observerMAC}[i%2 == 1]; err != nil || owner.String() != want {
					t.Errorf("%s: %q, %v; want %q", addr(family, i), owner, err, want)
				}
				mu.Lock()
				defer mu.Unlock()
				took[owner != nil] = append(took[owner != nil], d)
			})
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		all.Wait()
	}()
	most := before
	for running := true; running; {
		most = max(most, descriptors())
		select {
		case <-done:
			running = false
		case <-time.After(time.Millisecond):
		}
	}
	whole := time.Since(began)
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	spent += time.Duration(used.Utime.Nano() + used.Stime.Nano())
	for _, d := range took {
		slices.Sort(d)
	}
	t.Logf("%d probes at once: %d descriptors, all done in %v with %v of processor time", 2*each, most-before, whole, spent)
	t.Logf("owner found after %v in the median, %v at worst; nobody after %v, %v at worst",
		took[true][each/2], took[true][each-1], took[false][each/2], took[false][each-1])
	// A packet socket for each family, one for the list of this node's links, and the directory that was counted from;
	// and what the runtime may have opened.
	if most-before > 6 {
		t.Errorf("%d descriptors for %d probes", most-before, 2*each)
	}
	for _, e := range ears {
		p.leave(e)
	}
	finish()
}

// ear joins the ear on eth0 and opens it in the node's namespace, so that whoever probes there next needs no thread in
// it.
func (h *hosts) ear(t *testing.T, p *Prober, addr netip.Addr) *ear {
	t.Helper()
	e := p.join(mediumOf("eth0", addr))
	h.node.Must(t, func() error { return p.open(e) })
	return e
}

// What has arrived counts, though the process was stopped and all its timers are due when it goes on.
func TestProbeAfterAPause(t *testing.T) {
	for _, addr := range []string{"10.0.0.10", "2001:db8::10"} {
		h := newSegment(t)
		p := NewProber(ProberOptions{Attempts: 1, Interval: 30 * time.Millisecond})
		e := h.ear(t, p, netip.MustParseAddr(addr))
		e.reading.Lock() // the reader stands still
		own(t, h.observer, "br0", addr)
		got := probing(t.Context(), h.node, p, "eth0", addr)
		asked(t, p, 1)
		<-time.After(300 * time.Millisecond)
		e.reading.Unlock()
		if o := <-got; o.err != nil || o.owner != observerMAC {
			t.Errorf("%s: %q, %v; want %s", addr, o.owner, o.err, observerMAC)
		}
		p.leave(e)
	}
}

// A queue that is full for a moment delays a probe, and one that stays full is an error.
func TestProbeThroughAFullQueue(t *testing.T) {
	h := newSegment(t)
	var addrs []string
	for i := range 20 {
		addrs = append(addrs, fmt.Sprintf("10.0.0.%d", i+1))
		own(t, h.observer, "br0", addrs[i])
	}
	shape := func(bytesPerSecond uint64) {
		h.onLink(t, "eth0", func(l netlink.Link) error {
			return netlink.QdiscReplace(&netlink.Tbf{
				QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
				Rate:       bytesPerSecond,
				Limit:      200, // bytes: three probes
				Buffer:     netlink.Xmittime(bytesPerSecond, 100),
			})
		})
	}
	// probe asks for all addresses at once and counts the owners that were found.
	probe := func() (found int, errs error) {
		p := NewProber(ProberOptions{Attempts: 1, Interval: time.Second})
		var all []<-chan outcome
		for _, addr := range addrs {
			all = append(all, probing(t.Context(), h.node, p, "eth0", addr))
		}
		for _, o := range all {
			got := <-o
			errs = errors.Join(errs, got.err)
			if got.owner == observerMAC {
				found++
			}
		}
		return found, errs
	}
	shape(6000) // 100 probes in a second
	if found, err := probe(); found != len(addrs) || err != nil {
		t.Errorf("%d owners of %d found, %v; want all", found, len(addrs), err)
	}
	shape(10) // one in six seconds
	if found, err := probe(); found > 5 || !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("%d owners of %d found through a queue that stands still, %v", found, len(addrs), err)
	}
}
