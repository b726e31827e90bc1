package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A FrameKind is what a captured frame is.
type FrameKind string

// The kinds that are captured: RFC 826 and RFC 4861 sections 4.3 and 4.4.
const (
	ARPRequest FrameKind = "ARP request"
	ARPReply   FrameKind = "ARP reply"
	NS         FrameKind = "neighbour solicitation"
	NA         FrameKind = "neighbour advertisement"
)

// A Frame is one ARP, NS or NA frame as it was on the wire.
type Frame struct {
	// Time is when it was read.
	Time time.Time
	// Raw is the whole Ethernet frame.
	Raw []byte
	// Kind says what it is.
	Kind FrameKind
	// Src and Dst are those of the Ethernet header.
	Src, Dst net.HardwareAddr
	// SenderMAC and TargetMAC are ARP's hardware addresses. In an NS SenderMAC is the source link-layer address
	// option, in an NA the target link-layer address option; nil when there is none.
	SenderMAC, TargetMAC net.HardwareAddr
	// Sender and Target are ARP's protocol addresses; in NS and NA the IPv6 source and the target.
	Sender, Target netip.Addr
	// To is the IPv6 destination.
	To netip.Addr
	// HopLimit is IPv6's; anything but 255 is ignored by receivers.
	HopLimit uint8
	// Router, Solicited and Override are the flags of an NA.
	Router, Solicited, Override bool
	// ChecksumOK says that the ICMPv6 checksum is right.
	ChecksumOK bool
}

// Announces reports whether the frame tells the network, unasked, that the sender has the address: an ARP request
// or reply with the address as sender and target, or an unsolicited NA for it.
func (f Frame) Announces(addr netip.Addr) bool {
	switch f.Kind {
	case ARPRequest, ARPReply:
		return f.Sender == addr && f.Target == addr
	case NA:
		return f.Target == addr && !f.Solicited
	}
	return false
}

// String is one line for logs.
func (f Frame) String() string {
	return fmt.Sprintf("%s %s > %s %s: sender %s %s target %s %s override=%v solicited=%v router=%v",
		f.Time.Format("15:04:05.000"), f.Src, f.Dst, f.Kind, f.Sender, f.SenderMAC, f.Target, f.TargetMAC, f.Override, f.Solicited, f.Router)
}

// Offsets and sizes of headers.
const (
	etherLen = 14
	arpLen   = 28
	ipv6Len  = 40
	ndLen    = 24 // an NS or NA without options

	typeNS = 135
	typeNA = 136

	optSource = 1
	optTarget = 2
)

// parseFrame reads a frame; false when it is none of the kinds or cut short.
func parseFrame(raw []byte) (Frame, bool) {
	if len(raw) < etherLen {
		return Frame{}, false
	}
	f := Frame{Raw: raw, Dst: raw[0:6], Src: raw[6:12]}
	body := raw[etherLen:]
	switch binary.BigEndian.Uint16(raw[12:]) {
	case unix.ETH_P_ARP:
		// Ethernet and IPv4 addresses, 6 and 4 bytes.
		if len(body) < arpLen || binary.BigEndian.Uint64(body)>>16 != 0x000108000604 {
			return f, false
		}
		switch binary.BigEndian.Uint16(body[6:]) {
		case 1:
			f.Kind = ARPRequest
		case 2:
			f.Kind = ARPReply
		default:
			return f, false
		}
		f.SenderMAC, f.Sender = body[8:14], netip.AddrFrom4([4]byte(body[14:18]))
		f.TargetMAC, f.Target = body[18:24], netip.AddrFrom4([4]byte(body[24:28]))
		return f, true
	case unix.ETH_P_IPV6:
		if len(body) < ipv6Len+ndLen || body[6] != unix.IPPROTO_ICMPV6 {
			return f, false
		}
		length := int(binary.BigEndian.Uint16(body[4:]))
		if length < ndLen || len(body) < ipv6Len+length {
			return f, false
		}
		f.HopLimit = body[7]
		f.Sender, f.To = netip.AddrFrom16([16]byte(body[8:24])), netip.AddrFrom16([16]byte(body[24:40]))
		icmp := body[ipv6Len : ipv6Len+length]
		f.ChecksumOK = checksum(body[8:40], icmp) == 0
		f.Target = netip.AddrFrom16([16]byte(icmp[8:24]))
		want := byte(optSource)
		switch icmp[0] {
		case typeNS:
			f.Kind = NS
		case typeNA:
			f.Kind, want = NA, optTarget
			f.Router, f.Solicited, f.Override = icmp[4]&0x80 != 0, icmp[4]&0x40 != 0, icmp[4]&0x20 != 0
		default:
			return f, false
		}
		for opts := icmp[ndLen:]; len(opts) >= 8; {
			n := int(opts[1]) * 8
			if n == 0 || n > len(opts) {
				return f, false
			}
			if opts[0] == want {
				f.SenderMAC = opts[2:8]
			}
			opts = opts[n:]
		}
		return f, true
	}
	return f, false
}

// checksum is that of RFC 4443 section 2.3 over the pseudo-header and the message; 0 over a message that has a
// right one in it.
func checksum(addrs, icmp []byte) uint16 {
	sum := uint32(len(icmp)) + unix.IPPROTO_ICMPV6
	for _, b := range [][]byte{addrs, icmp} {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		if len(b)%2 == 1 {
			sum += uint32(b[len(b)-1]) << 8
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// openWire opens a packet socket that gets ARP, NS and NA only.
func (h *Host) openWire(link string) (*packet.Conn, error) {
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_ARP, SkipTrue: 6},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IPV6, SkipTrue: 6},
		bpf.LoadAbsolute{Off: etherLen + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 4},
		bpf.LoadAbsolute{Off: etherLen + ipv6Len, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeNS, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: typeNA, SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, fmt.Errorf("write the capture filter: %w", err)
	}
	var conn *packet.Conn
	err = h.Do(func() error {
		ifi, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		conn, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, &packet.Config{Filter: filter})
		return err
	})
	if err == nil {
		err = widen(conn)
	}
	if err != nil {
		return nil, fmt.Errorf("capture on %s of %s: %w", link, h.Name, err)
	}
	return conn, nil
}

// widen has the socket keep thousands of frames until they are read, beyond net.core.rmem_max (socket(7)).
func widen(conn *packet.Conn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer)
	})
	return errors.Join(err, set)
}

// A Capture records ARP, NS and NA frames, in both directions, on a link.
type Capture struct {
	conn *packet.Conn
	done chan struct{}

	// mu guards the fields below.
	mu      sync.Mutex
	frames  []Frame
	changed chan struct{}
}

// Capture begins to record on a link of the host; on the gateway, br0 sees whatever is broadcast.
func (h *Host) Capture(link string) (*Capture, error) {
	c := &Capture{done: make(chan struct{}), changed: make(chan struct{})}
	return c, h.capture(c, link, func(f Frame) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.frames = append(c.frames, f)
		close(c.changed)
		c.changed = make(chan struct{})
	})
}

// CaptureFunc gives each frame to got, one after another, and keeps none.
func (h *Host) CaptureFunc(link string, got func(Frame)) (*Capture, error) {
	c := &Capture{done: make(chan struct{}), changed: make(chan struct{})}
	return c, h.capture(c, link, got)
}

func (h *Host) capture(c *Capture, link string, got func(Frame)) (err error) {
	if c.conn, err = h.openWire(link); err != nil {
		return err
	}
	go func() {
		defer close(c.done)
		readFrames(c.conn, got)
	}()
	return nil
}

// Lost is how many frames came while there was no room for them, since it was last asked.
func (c *Capture) Lost() (int, error) {
	stats, err := c.conn.Stats()
	if err != nil {
		return 0, fmt.Errorf("count what the capture has lost: %w", err)
	}
	return int(stats.Drops), nil
}

// readFrames reads until the connection is closed.
func readFrames(conn *packet.Conn, got func(Frame)) {
	buf := make([]byte, 64<<10)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if f, ok := parseFrame(slices.Clone(buf[:n])); ok {
			f.Time = time.Now()
			got(f)
		}
	}
}

// Frames are the frames so far.
func (c *Capture) Frames() []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.frames)
}

// Wait waits for the first frame that matches, however long ago it was seen.
func (c *Capture) Wait(ctx context.Context, what string, match func(Frame) bool) (Frame, error) {
	next := 0
	for {
		c.mu.Lock()
		frames, changed := c.frames, c.changed
		c.mu.Unlock()
		for ; next < len(frames); next++ {
			if match(frames[next]) {
				return frames[next], nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Frame{}, fmt.Errorf("wait for %s on the wire: %w (%d other frames)", what, ctx.Err(), len(frames))
		}
	}
}

// Close ends the capture.
func (c *Capture) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// askers is the number of senders that an AnswerWatch takes turns with, so that each answer can be matched with its
// question: an answer goes to the MAC that asked.
const askers = 64

// askerMAC and askerAddr are those of the n-th asker.
func askerMAC(n int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0, 0x77, 0, 0, byte(n % askers)}
}

func askerAddr(n int) netip.Addr {
	a := netip.MustParseAddr(network6 + "aaaa:0").As16()
	a[15] = byte(n % askers)
	return netip.AddrFrom16(a)
}

// question is the frame by which the n-th asker asks who has the address. The IPv4 asker is the watcher with
// another MAC (so no neighbour table grows); in IPv6 each has an address of its own, for an answer to an address
// goes to the MAC that the neighbour table has for it.
func question(vip, watcher netip.Addr, n int) []byte {
	from := askerMAC(n)
	if vip.Is4() {
		frame := slices.Concat(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, from, []byte{0x08, 0x06})
		frame = append(frame, 0, 1, 8, 0, 6, 4, 0, 1)
		frame = slices.Concat(frame, from, watcher.AsSlice(), make([]byte, 6), vip.AsSlice())
		return frame
	}
	src, target := askerAddr(n).As16(), vip.As16()
	dst := netip.MustParseAddr("ff02::1:ff00:0").As16() // the solicited-node group, RFC 4291 section 2.7.1
	copy(dst[13:], target[13:])
	icmp := slices.Concat([]byte{typeNS, 0, 0, 0, 0, 0, 0, 0}, target[:], []byte{optSource, 1}, from)
	addrs := slices.Concat(src[:], dst[:])
	binary.BigEndian.PutUint16(icmp[2:], checksum(addrs, icmp))
	ip := []byte{0x60, 0, 0, 0, 0, byte(len(icmp)), unix.IPPROTO_ICMPV6, 255}
	return slices.Concat([]byte{0x33, 0x33, dst[12], dst[13], dst[14], dst[15]}, from, []byte{0x86, 0xdd}, ip, addrs, icmp)
}

// A Sample is one question and who answered it.
type Sample struct {
	// Time is when it was asked.
	Time time.Time
	// By are the names of the hosts that answered, each once, in the order of their answers; a MAC address that is
	// no host's stands for itself.
	By []string
}

// Answers are what an AnswerWatch has seen.
type Answers struct {
	Samples []Sample
	// Max is the greatest number of hosts that answered one question.
	Max int
	// Overlap is the longest time for which questions were answered by several hosts.
	Overlap time.Duration
	// Silence is the longest time for which none were answered.
	Silence time.Duration
	// Owners are the hosts that answered, in turn.
	Owners []string
}

// An AnswerWatch asks again and again who has an address.
type AnswerWatch struct {
	conn   *packet.Conn
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex // guards samples
	samples []Sample
}

// answerTime is how long an answer may take.
const answerTime = 100 * time.Millisecond

// WatchAnswers asks from the watcher, at every interval, who has the address.
func (l *Lab) WatchAnswers(vip netip.Addr, every time.Duration) (*AnswerWatch, error) {
	conn, err := l.Watcher.openWire(l.Watcher.Link)
	if err != nil {
		return nil, err
	}
	var source netip.Addr
	for _, p := range l.Watcher.Addrs {
		if p.Addr().Is4() == vip.Is4() {
			source = p.Addr()
		}
	}
	if !source.IsValid() {
		_ = conn.Close()
		return nil, fmt.Errorf("ask who has %s: the watcher has no address of its family", vip)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &AnswerWatch{conn: conn, cancel: cancel, done: make(chan struct{})}
	read := make(chan struct{})
	go func() {
		defer close(read)
		readFrames(conn, func(f Frame) { w.note(l, vip, f) })
	}()
	go func() {
		defer close(w.done)
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			w.mu.Lock()
			w.samples = append(w.samples, Sample{Time: time.Now()})
			w.mu.Unlock()
			_, _ = conn.WriteTo(question(vip, source, n), &packet.Addr{HardwareAddr: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}})
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
		timer := time.NewTimer(answerTime) // for the last answers
		<-timer.C
		_ = conn.Close()
		<-read
	}()
	return w, nil
}

// note counts a frame as an answer if it is one.
func (w *AnswerWatch) note(l *Lab, vip netip.Addr, f Frame) {
	answer := f.Kind == ARPReply && f.Sender == vip || f.Kind == NA && f.Target == vip && f.Solicited
	if !answer || len(f.Dst) != 6 || f.Dst.String()[:14] != askerMAC(0).String()[:14] {
		return
	}
	by := f.SenderMAC
	if by == nil {
		by = f.Src
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// The latest question of that asker.
	last := len(w.samples) - 1
	i := last - (last-int(f.Dst[5])+askers)%askers
	if i < 0 {
		return
	}
	if name := l.owner(by); !slices.Contains(w.samples[i].By, name) {
		w.samples[i].By = append(w.samples[i].By, name)
	}
}

// Answers are what was seen so far.
func (w *AnswerWatch) Answers() Answers {
	w.mu.Lock()
	defer w.mu.Unlock()
	samples := slices.Clone(w.samples)
	for i := range samples {
		samples[i].By = slices.Clone(samples[i].By)
	}
	return newAnswers(samples)
}

// Stop ends the watch and returns what it saw.
func (w *AnswerWatch) Stop() Answers {
	w.cancel()
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	return newAnswers(w.samples)
}

func newAnswers(samples []Sample) Answers {
	a := Answers{Samples: samples}
	var several, none time.Time // since when
	for _, s := range samples {
		a.Max = max(a.Max, len(s.By))
		if len(s.By) < 2 {
			several = time.Time{}
		} else if several.IsZero() {
			several = s.Time
		}
		if len(s.By) > 0 {
			none = time.Time{}
		} else if none.IsZero() {
			none = s.Time
		}
		if !several.IsZero() {
			a.Overlap = max(a.Overlap, s.Time.Sub(several))
		}
		if !none.IsZero() {
			a.Silence = max(a.Silence, s.Time.Sub(none))
		}
		for _, name := range s.By {
			if len(a.Owners) == 0 || a.Owners[len(a.Owners)-1] != name {
				a.Owners = append(a.Owners, name)
			}
		}
	}
	return a
}

// WhoAnswers asks a few times who has the address and returns the names of all that answered.
func (l *Lab) WhoAnswers(ctx context.Context, vip netip.Addr) ([]string, error) {
	w, err := l.WatchAnswers(vip, 20*time.Millisecond)
	if err != nil {
		return nil, err
	}
	err = Wait(ctx, "three questions are asked", func() (bool, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.samples) >= 3, nil
	})
	var names []string
	for _, s := range w.Stop().Samples {
		for _, name := range s.By {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names, err
}
