package arp

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	mdarp "github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/bpf"
	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"
)

const (
	// DefaultAttempts is how often the wire is asked unless ProberOptions say otherwise: PROBE_NUM of RFC 5227 §1.1.
	DefaultAttempts = 3

	// DefaultInterval is the time between two attempts unless ProberOptions say otherwise, and how long an answer to
	// the last one is waited for. RFC 5227 §1.1 waits up to 1 s before the first probe, 1 to 2 s between two and 2 s
	// after the last, RFC 4862 §5.1 1 s after each: they have in mind hosts that all boot when the power returns, on
	// a link that has just come up. Here an operator waits for a Service, the link is in use, and a kernel that has
	// the address answers within a millisecond.
	DefaultInterval = 100 * time.Millisecond

	// busyPause is when a probe is sent again for which there was no room in the socket's or the link's queue:
	// hundreds may begin at once, and such a queue moves within milliseconds. busyLimit is how many times in a row
	// that is believed: a queue that is full for a second does not move.
	busyPause = 5 * time.Millisecond
	busyLimit = 200
)

// ProberOptions say how a Prober works. The zero value is usable.
type ProberOptions struct {
	// Attempts is how often the wire is asked; 0 and less mean DefaultAttempts.
	Attempts int
	// Interval is the time between two attempts; 0 and less mean DefaultInterval.
	Interval time.Duration
	// Listen is how long answers to the last attempt are waited for; 0 and less mean Interval.
	Listen time.Duration
	// Log is where answers are told, at debug level; nil means nowhere.
	Log *slog.Logger
}

// Prober asks the neighbours on a link whether one of them has an address, without having it itself: by the ARP
// Probe of RFC 5227 §2.1.1 for IPv4, and for IPv6 by the Neighbor Solicitation of duplicate address detection,
// RFC 4862 §5.4.2. It needs the capability NET_RAW and no other.
//
// Its methods may be called from any goroutine. However many addresses are probed at once, there is one socket for
// each link and family, and when all have ended there is nothing left: no socket and no goroutine.
type Prober struct {
	attempts         int
	interval, listen time.Duration
	log              *slog.Logger
	// listing is the question for this node's links.
	listing singleflight.Group

	// mu guards the field below and what the ears say that it guards. It is not held across a system call.
	mu   sync.Mutex
	ears map[medium]*ear
}

// medium is where a Prober listens: a link, and the Ethernet protocol of a family on it, as in linux/if_ether.h.
type medium struct {
	link     string
	protocol int
}

// ear is an open medium. All probes on it share it; the first opens it and the last closes it.
type ear struct {
	medium
	// opening is done by whoever comes first, and sets port or refusal.
	opening sync.Once
	port    *kernelPort
	refusal error
	// reader listens.
	reader sync.WaitGroup

	// reading is held while what the socket has is taken and told, so that whoever takes it next knows that all before
	// it was told. Taking does not wait for the network. It guards buffer.
	reading sync.Mutex
	buffer  [frameMax]byte

	// lost is closed when the ear has become deaf or its link unusable; fault, set before, says why.
	lost  chan struct{}
	fault error

	// Guarded by the Prober's mu, as is the setting of fault.
	users     int
	questions map[netip.Addr][]*question
	overheard map[*func(claim)]struct{} // told of every claim
}

// question is an address that somebody wants to know about.
type question struct {
	addr   netip.Addr
	having bool // only those count who have it
	// news holds at most one token: macs has something new.
	news chan struct{}
	// macs are those who said that the address is theirs, guarded by the Prober's mu.
	macs []MAC
}

// NewProber returns a Prober. It has nothing to be closed.
func NewProber(o ProberOptions) *Prober {
	p := &Prober{
		attempts: DefaultAttempts,
		interval: DefaultInterval,
		log:      cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		ears:     map[medium]*ear{},
	}
	if o.Attempts > 0 {
		p.attempts = o.Attempts
	}
	if o.Interval > 0 {
		p.interval = o.Interval
	}
	p.listen = p.interval
	if o.Listen > 0 {
		p.listen = o.Listen
	}
	return p
}

// Probe asks the neighbours on a link for an address, and returns the hardware address of the first who has it, or
// who is about to take it and asks as we do; nil when nobody spoke up. This node does not count, by whichever of its
// links it answers, as RFC 5227 §2.1.1 has it. Of two nodes that probe for an address at the same time one at least
// is told of the other, maybe both.
//
// It fails when the question could not be put: there is no such link, it is no Ethernet, it is down, without carrier,
// or becomes so; NET_RAW is missing; ctx ended. Then nothing is known about the address.
func (p *Prober) Probe(ctx context.Context, link string, addr netip.Addr) (owner net.HardwareAddr, err error) {
	addr = addr.Unmap().WithZone("")
	if owner, err = p.find(ctx, link, addr, false); err != nil {
		return nil, fmt.Errorf("probe %s: %w", addr, err)
	}
	if owner != nil {
		p.log.Debug("somebody on the wire has the address", "vip", addr.String(), "link", link, "mac", owner.String())
		return owner, nil
	}
	p.log.Debug("nobody on the wire has the address", "vip", addr.String(), "link", link)
	return nil, nil
}

// find is Probe, and with having heeds only those who have the address, not those who ask for it.
func (p *Prober) find(ctx context.Context, link string, addr netip.Addr, having bool) (net.HardwareAddr, error) {
	if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
		return nil, errors.New("not the address of a host on a network")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e := p.join(mediumOf(link, addr))
	defer p.leave(e)
	if err := p.open(e); err != nil {
		return nil, err
	}
	if addr.Is6() {
		// Where another host's probe for the address is sent to; a network card need not pass it on otherwise.
		group, err := solicitedNode(addr)
		if err != nil {
			return nil, err
		}
		if err := e.port.conn.JoinGroup(group[:]); err != nil {
			return nil, p.fail(e, fmt.Errorf("join %s on %s: %w", group, link, err))
		}
		// A link that is gone took its groups with it.
		defer e.port.conn.LeaveGroup(group[:])
	}
	q := p.pose(e, addr, having)
	defer p.withdraw(e, q)
	return p.ask(ctx, e, q)
}

// overhear tells f of every claim on a medium until ctx ends; f must not block. It fails when the medium cannot be
// listened to, or no more. What is sent to the groups of addresses comes by only where this node has the addresses.
func (p *Prober) overhear(ctx context.Context, m medium, f func(claim)) error {
	e := p.join(m)
	defer p.leave(e)
	if err := p.open(e); err != nil {
		return err
	}
	p.mu.Lock()
	e.overheard[&f] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(e.overheard, &f)
	}()
	select {
	case <-ctx.Done():
		return nil
	case <-e.lost:
		return e.fault
	}
}

func mediumOf(link string, addr netip.Addr) medium {
	if addr.Is4() {
		return medium{link, unix.ETH_P_ARP}
	}
	return medium{link, unix.ETH_P_IPV6}
}

// ask sends the probes and waits for answers.
func (p *Prober) ask(ctx context.Context, e *ear, q *question) (net.HardwareAddr, error) {
	station, err := ready(e.port)
	if err != nil {
		return nil, err
	}
	frame, err := probeFrame(station.MAC, q.addr)
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for sent, busy := 0, 0; ; {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-e.lost:
			return nil, e.fault
		case <-q.news:
			if owner, err := p.stranger(q); owner != nil || err != nil {
				return owner, err
			}
			continue
		case <-timer.C:
		}
		if sent == p.attempts {
			return p.conclude(e, q, station.MAC)
		}
		err := e.port.Send(frame)
		switch full := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS); {
		case full && busy < busyLimit:
			busy++
			timer.Reset(busyPause)
		case full:
			return nil, err
		case err != nil:
			// It may have been the socket's own error, which it tells only once: nobody else would hear of it.
			return nil, p.fail(e, err)
		default:
			sent, busy = sent+1, 0
			timer.Reset(p.interval)
			if sent == p.attempts {
				timer.Reset(p.listen)
			}
		}
	}
}

// conclude says that nobody answered, if that is so. Everything that has arrived counts, though the reader may not have
// come to it: a process that was stopped wakes up with all its timers due. And the silence of a link that was unusable,
// or to whose old hardware address the answers went, says nothing.
func (p *Prober) conclude(e *ear, q *question, mac MAC) (net.HardwareAddr, error) {
	err := e.port.control(func(fd int) error { return p.hear(e, fd) })
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		return nil, p.fail(e, fmt.Errorf("listen on %s: %w", e.link, err))
	}
	if owner, err := p.stranger(q); owner != nil || err != nil {
		return owner, err
	}
	station, err := ready(e.port)
	if err == nil && station.MAC != mac {
		err = fmt.Errorf("look at link %s: its hardware address has changed from %s to %s meanwhile", e.link, mac, station.MAC)
	}
	return nil, err
}

// ready says what a link is like by which neighbours can be asked.
func ready(port *kernelPort) (Station, error) {
	s, err := port.glance()
	switch {
	case err != nil:
		return Station{}, err
	case !s.Up:
		return Station{}, fmt.Errorf("look at link %s: it is down", port.link)
	case !s.Running:
		return Station{}, fmt.Errorf("look at link %s: it has no carrier", port.link)
	}
	return s, nil
}

// stranger returns the first of those who answered that is not this node; nil when there is none.
func (p *Prober) stranger(q *question) (net.HardwareAddr, error) {
	p.mu.Lock()
	macs := q.macs
	q.macs = nil
	p.mu.Unlock()
	if len(macs) == 0 {
		return nil, nil
	}
	own, err := p.ownMACs()
	if err != nil {
		return nil, err
	}
	for _, mac := range macs {
		if !own[mac] {
			return mac[:], nil
		}
	}
	return nil, nil
}

// ownMACs returns the hardware addresses of all links of this node, as of now: hardly anybody ever answers, so there is
// nothing to be gained from keeping them. Those who ask at the same time share the question, which takes a socket.
func (p *Prober) ownMACs() (map[MAC]bool, error) {
	list, err, _ := p.listing.Do("", func() (any, error) { return net.Interfaces() })
	if err != nil {
		return nil, fmt.Errorf("list this node's links: %w", err)
	}
	own := map[MAC]bool{}
	for _, l := range list.([]net.Interface) {
		if len(l.HardwareAddr) == len(MAC{}) {
			own[MAC(l.HardwareAddr)] = true
		}
	}
	return own, nil
}

// join returns the ear of a medium, which the caller must leave.
func (p *Prober) join(m medium) *ear {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.ears[m]
	if e == nil {
		e = &ear{medium: m, lost: make(chan struct{}), questions: map[netip.Addr][]*question{}, overheard: map[*func(claim)]struct{}{}}
		p.ears[m] = e
	}
	e.users++
	return e
}

// leave is the end of a join. The last one waits until nothing of the ear is left.
func (p *Prober) leave(e *ear) {
	p.mu.Lock()
	e.users--
	last := e.users == 0
	if last && p.ears[e.medium] == e {
		delete(p.ears, e.medium)
	}
	p.mu.Unlock()
	if !last || e.port == nil {
		return
	}
	if err := e.port.Close(); err != nil {
		p.log.Warn("link not closed", "link", e.link, "err", err)
	}
	e.reader.Wait()
}

// open makes sure that e listens. It is called with e joined.
func (p *Prober) open(e *ear) error {
	e.opening.Do(func() {
		port, err := openPort(e.link, e.protocol, e.filter)
		if err != nil {
			e.refusal = p.fail(e, err)
			return
		}
		e.port = port
		if e.protocol == unix.ETH_P_IPV6 {
			// Where answers are sent to, as the question comes from nobody: RFC 4861 §7.2.4.
			all := multicastMAC(netip.IPv6LinkLocalAllNodes())
			if err := port.conn.JoinGroup(all[:]); err != nil {
				e.refusal = p.fail(e, fmt.Errorf("join %s on %s: %w", all, e.link, err))
				return
			}
		}
		e.reader.Go(func() { p.read(e) })
	})
	return e.refusal
}

// fail tells everybody on e that it is of no more use, and has the next Probe open another. It returns err.
func (p *Prober) fail(e *ear, err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ears[e.medium] == e {
		delete(p.ears, e.medium)
	}
	if e.fault == nil {
		e.fault = err
		close(e.lost)
	}
	return err
}

// pose has what is heard about addr noted.
func (p *Prober) pose(e *ear, addr netip.Addr, having bool) *question {
	q := &question{addr: addr, having: having, news: make(chan struct{}, 1)}
	p.mu.Lock()
	defer p.mu.Unlock()
	e.questions[addr] = append(e.questions[addr], q)
	return q
}

func (p *Prober) withdraw(e *ear, q *question) {
	p.mu.Lock()
	defer p.mu.Unlock()
	others := slices.DeleteFunc(e.questions[q.addr], func(o *question) bool { return o == q })
	if len(others) == 0 {
		delete(e.questions, q.addr)
		return
	}
	e.questions[q.addr] = others
}

// read listens until e is closed or fails.
func (p *Prober) read(e *ear) {
	var err error
	closed := e.port.raw.Read(func(fd uintptr) bool {
		// Everything, or the poller would not tell of the rest.
		for err = nil; err == nil; {
			err = p.hear(e, int(fd))
		}
		return !errors.Is(err, unix.EAGAIN)
	})
	if closed != nil {
		return
	}
	// The socket says no more than "network is down", also of a link that was deleted.
	if _, unready := ready(e.port); unready != nil {
		p.fail(e, unready)
		return
	}
	p.fail(e, fmt.Errorf("listen on %s: %w", e.link, err))
}

// hear takes from the socket what is there and tells those who asked. It returns EAGAIN when there is nothing left,
// and nil after as many frames as cannot have been there when it began.
func (p *Prober) hear(e *ear, fd int) error {
	e.reading.Lock()
	defer e.reading.Unlock()
	for range framesMax {
		n, _, err := unix.Recvfrom(fd, e.buffer[:], unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if c, ok := claimIn(e.buffer[:n]); ok {
			p.tell(e, c)
		}
	}
	return nil
}

func (p *Prober) tell(e *ear, c claim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for f := range e.overheard {
		(*f)(c)
	}
	for _, q := range e.questions[c.addr] {
		if q.having && !c.has {
			continue
		}
		q.macs = append(q.macs, c.mac)
		select {
		case q.news <- struct{}{}:
		default:
		}
	}
}

const (
	// frameMax bounds the frames that are looked at: an Ethernet header and an MTU of 1500. What counts as an answer
	// has less than 100 bytes.
	frameMax = ethernetHeaderLen + 1500

	// framesMax is more than a socket holds: net.core.rmem_default is 208 KiB, and the kernel charges 512 bytes at
	// least for a frame.
	framesMax = 1024

	ethernetHeaderLen = 14

	// icmpv6HeaderLen is the length of type, code and checksum, RFC 4443 §2.1.
	icmpv6HeaderLen = 4

	// neighborSolicitation and neighborAdvertisement are ICMPv6 types, RFC 4861 §4.3 and §4.4.
	neighborSolicitation  = 135
	neighborAdvertisement = 136
)

// filter lets pass what may be an answer, in the kernel: else the traffic of a busy node would push it out of the
// socket. claimIn looks closer.
//
// The kernel takes VLAN tags off before it asks. A frame of a VLAN that this node has a link for comes by, as of that
// link; one of any other VLAN is passed as a frame to another host (linux net/core/dev.c, __netif_receive_skb_core).
// Neither was on this link's own segment.
func (e *ear) filter(index int) []bpf.Instruction {
	f := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(index), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		// Below are to this host, to all and to a group; above, to another host and our own.
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: unix.PACKET_MULTICAST, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
	if e.protocol == unix.ETH_P_IPV6 {
		f = append(f,
			bpf.LoadAbsolute{Off: ethernetHeaderLen + 6, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: protocolICMPv6, SkipTrue: 1},
			bpf.RetConstant{Val: 0},
			bpf.LoadAbsolute{Off: ethernetHeaderLen + ipv6HeaderLen, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: neighborSolicitation, SkipTrue: 2},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: neighborAdvertisement, SkipTrue: 1},
			bpf.RetConstant{Val: 0},
		)
	}
	return append(f, bpf.RetConstant{Val: frameMax})
}

// probeFrame returns the Ethernet frame of a probe for addr.
func probeFrame(mac MAC, addr netip.Addr) ([]byte, error) {
	if addr.Is4() {
		return arpProbe(mac, addr)
	}
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return nil, fmt.Errorf("build neighbor solicitation for %s: %w", addr, err)
	}
	// From the unspecified address, and so without a source link-layer address: RFC 4861 §4.3.
	b, err := neighborDiscovery(mac, netip.IPv6Unspecified(), group, &ndp.NeighborSolicitation{TargetAddress: addr})
	if err != nil {
		return nil, fmt.Errorf("build neighbor solicitation for %s: %w", addr, err)
	}
	return b, nil
}

// arpProbe returns the Ethernet frame of an ARP Probe: a request from 0.0.0.0, which no neighbour learns anything from,
// with a target hardware address of zero (RFC 5227 §2.1.1).
func arpProbe(mac MAC, addr netip.Addr) ([]byte, error) {
	p, err := mdarp.NewPacket(mdarp.OperationRequest, mac[:], netip.IPv4Unspecified(), make(net.HardwareAddr, len(mac)), addr)
	if err != nil {
		return nil, fmt.Errorf("build ARP probe for %s: %w", addr, err)
	}
	payload, err := p.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("build ARP probe for %s: %w", addr, err)
	}
	return frame(ethernet.Broadcast, mac, ethernet.EtherTypeARP, payload)
}

// solicitedNode is the Ethernet group that probes for an IPv6 address are sent to.
func solicitedNode(addr netip.Addr) (MAC, error) {
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return MAC{}, fmt.Errorf("find the solicited-node group: %w", err)
	}
	return multicastMAC(group), nil
}

// claim is what a frame says: mac has addr, or is about to take it.
type claim struct {
	addr netip.Addr
	mac  MAC
	has  bool // and is not only about to take it
}

// claimIn reads a frame that a stranger may have made in any way he likes. Frames with a VLAN tag make no claim.
func claimIn(frame []byte) (claim, bool) {
	if len(frame) < ethernetHeaderLen {
		return claim{}, false
	}
	source, payload := MAC(frame[6:12]), frame[ethernetHeaderLen:]
	switch ethernet.EtherType(binary.BigEndian.Uint16(frame[12:14])) {
	case ethernet.EtherTypeARP:
		return arpClaim(payload)
	case ethernet.EtherTypeIPv6:
		return ndpClaim(source, payload)
	}
	return claim{}, false
}

// arpClaim reads an ARP packet: whoever it is from has the sender's address, whatever else it says, and a probe's
// sender is about to take the target (RFC 5227 §2.1.1).
func arpClaim(b []byte) (claim, bool) {
	var p mdarp.Packet
	if err := p.UnmarshalBinary(b); err != nil {
		return claim{}, false
	}
	switch {
	case p.HardwareType != arphrdEther, p.ProtocolType != uint16(ethernet.EtherTypeIPv4),
		int(p.HardwareAddrLength) != len(MAC{}), int(p.IPLength) != net.IPv4len,
		p.Operation != mdarp.OperationRequest && p.Operation != mdarp.OperationReply:
		return claim{}, false
	case !p.SenderIP.IsUnspecified():
		return claim{p.SenderIP, MAC(p.SenderHardwareAddr), true}, true
	case p.Operation == mdarp.OperationRequest:
		return claim{p.TargetIP, MAC(p.SenderHardwareAddr), false}, true
	}
	return claim{}, false
}

// ndpClaim reads an IPv6 packet that came from a hardware address: whoever advertises an address has it, and whoever
// solicits one from the unspecified address is about to take it (RFC 4862 §5.4.3, §5.4.4). What RFC 4861 §7.1.1 and
// §7.1.2 have a host drop is no claim.
func ndpClaim(source MAC, b []byte) (claim, bool) {
	if len(b) < ipv6HeaderLen || b[0]>>4 != 6 || b[6] != protocolICMPv6 || b[7] != ndp.HopLimit {
		return claim{}, false
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	message := b[ipv6HeaderLen:]
	length := int(binary.BigEndian.Uint16(b[4:6]))
	if length < icmpv6HeaderLen || length > len(message) {
		return claim{}, false
	}
	message = message[:length] // what follows is Ethernet's padding
	if message[1] != 0 || !summed(b[8:40], message) {
		return claim{}, false
	}
	parsed, err := ndp.ParseMessage(message)
	if err != nil {
		return claim{}, false
	}
	switch m := parsed.(type) {
	case *ndp.NeighborAdvertisement:
		if m.TargetAddress.IsMulticast() || dst.IsMulticast() && m.Solicited {
			return claim{}, false
		}
		if mac, ok := linkLayerAddress(m.Options, ndp.Target); ok {
			return claim{m.TargetAddress, mac, true}, true
		}
		return claim{m.TargetAddress, source, true}, true
	case *ndp.NeighborSolicitation:
		group, err := ndp.SolicitedNodeMulticast(m.TargetAddress)
		if err != nil || !src.IsUnspecified() || dst != group || m.TargetAddress.IsMulticast() {
			return claim{}, false
		}
		if _, ok := linkLayerAddress(m.Options, ndp.Source); ok {
			return claim{}, false
		}
		return claim{m.TargetAddress, source, false}, true
	}
	return claim{}, false
}

// linkLayerAddress finds the option with the address of one side.
func linkLayerAddress(options []ndp.Option, of ndp.Direction) (MAC, bool) {
	for _, o := range options {
		if l, ok := o.(*ndp.LinkLayerAddress); ok && l.Direction == of {
			return MAC(l.Addr), true
		}
	}
	return MAC{}, false
}

// summed says whether an ICMPv6 message has the right checksum: the one's complement sum of all its 16-bit words and of
// the pseudo-header is all ones (RFC 1071 §1, RFC 8200 §8.1). addrs are the source and destination.
func summed(addrs, message []byte) bool {
	sum := uint32(len(message)) + protocolICMPv6
	for _, b := range [][]byte{addrs, message} {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum == 0xffff
}
