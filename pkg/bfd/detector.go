package bfd

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

const (
	// lookEvery is how often interfaces are looked for, and what could not be opened is tried again: as often as a session
	// that is down has something to send.
	lookEvery = time.Second
	// leaveLimit is the most that a neighbour is given to hear that his session is taken down. It is more than the detection
	// time of a session with DefaultInterval and DefaultMultiplier.
	leaveLimit = time.Second
	// portTries is how many ports are tried for a session at a time.
	portTries = 64
)

// Options say how a Detector works. The zero value is usable.
type Options struct {
	// Changed is told of every change of a session's state, by the key of its peer; not of the end of one whose peer is taken
	// out, or because Run ends. Packets wait while it works: it must not block. It may call Set and Status. Nil means nobody.
	Changed func(key string, s Status)
	// Log is where changes are told; nil means nowhere.
	Log *slog.Logger
	// Registerer gets the metrics; nil means that they are kept for nobody. It must not have them yet.
	Registerer prometheus.Registerer
	// Realtime has the kernel asked for real-time scheduling (SCHED_RR), without which a busy node may run a process tenths of
	// a second late: neighbours may take that for a loss. It wants the capability SYS_NICE; without it that is told, and
	// the Detector works all the same. Who floods the ports then takes time from all else on the node.
	Realtime bool
	// Random is where discriminators, ports and jitter come from; nil means one that cannot be foretold.
	Random rand.Source
}

// Status is what a session is at a moment.
type Status struct {
	// Key is that of its peer.
	Key string
	// State is what it is, Since when, and Diagnostic why it is not what it was before.
	State      State
	Diagnostic Diagnostic
	Since      time.Time
	// RemoteState and RemoteDiagnostic are what the neighbour said last of his end; Down while he is not known. One who says
	// AdminDown was told to by his operator: the path to him may be as good as ever (RFC 5882 §4.2).
	RemoteState      State
	RemoteDiagnostic Diagnostic
	// Mine and Yours are the discriminators of this node and of the neighbour; 0 while it is not known.
	Mine, Yours uint32
	// Interval is the time between two packets that are sent, before jitter; 0 while he wants none. Detection is the silence
	// after which he is taken for lost; 0 while he is not known.
	Interval, Detection time.Duration
	// RemoteMultiplier is his; 0 while he is not known.
	RemoteMultiplier uint8
	// Port is the one that packets are sent from; 0 while there is none.
	Port int
	// In and Out are how many packets were heard and sent, and Unsent how many could not be.
	In, Out, Unsent uint64
	// Dropped is how many packets came from him and were not heard, by reason; those of strangers are in metrics alone.
	Dropped map[string]uint64
	// Fault is why packets can not be sent or received at the moment; "" when they can.
	Fault string
}

// Detector keeps a BFD session with each of its peers, in the network namespace of the thread that calls Run. It needs no
// capability but NET_RAW, and that only for a Peer with an Interface on a kernel before 5.7. Its methods may be called from
// any goroutine, before and while Run works.
type Detector struct {
	log      *slog.Logger
	changed  func(string, Status)
	realtime bool
	random   *rand.Rand
	metrics  metrics
	bell     atomic.Pointer[os.File] // an eventfd that wakes Run, while it works

	// mu guards the fields below and what is in the sessions. It is never held across a system call or Changed. Run alone
	// changes what comes after stale, and reads that without mu.
	mu         sync.Mutex
	wanted     []Peer
	stale      bool // wanted is not what Run has seen
	neighbours []*neighbour
	deaf       map[kind]string // why nothing can be received

	// The fields below belong to Run.
	asker   int                   // a socket to ask for interfaces by
	ears    map[kind]int          // sockets that receive
	mine    map[uint32]*neighbour // by their discriminators, also those that leave
	leaving []*neighbour
	ports   map[int]bool // that sessions send from
	lookAt  time.Time    // when interfaces and sockets are looked at

	buffer, control, out []byte
	polled               []unix.PollFd
}

// neighbour is a Peer and the session with him.
type neighbour struct {
	peer    Peer
	session *Session
	metrics peerMetrics
	noted   State // as it was last told
	detects time.Duration

	fd    int // -1 while it is not open
	port  int // 0 before it was first opened
	index int // of the interface; 0 while there is none
	to    unix.Sockaddr
	fault string // why nothing is sent

	in, sent, unsent uint64
	dropped          [drops]uint64

	// Of one who leaves: when he is told next, how often, and when that ends.
	tellAt, leaveBy time.Time
	pace            time.Duration
}

// New returns a Detector without peers that does nothing until Run.
func New(o Options) *Detector {
	if o.Changed == nil {
		o.Changed = func(string, Status) {}
	}
	if o.Random == nil {
		var seed [32]byte
		crand.Read(seed[:])
		o.Random = rand.NewChaCha8(seed)
	}
	return &Detector{
		log: cmp.Or(o.Log, slog.New(slog.DiscardHandler)), changed: o.Changed, realtime: o.Realtime, random: rand.New(o.Random), metrics: newMetrics(o.Registerer),
		deaf: map[kind]string{}, asker: -1, ears: map[kind]int{}, mine: map[uint32]*neighbour{}, ports: map[int]bool{},
		buffer: make([]byte, packetSize), control: make([]byte, packetSize), out: make([]byte, 0, packetSize),
	}
}

// Set says which sessions there are to be from now on; doing it twice is the same as doing it once. A peer who is as he was
// keeps his session, and so does one whose intervals, multiplier or least TTL alone are others: the neighbour is told of
// them, and the session stays up (RFC 5880 §6.8.3). One who is not named any more is told that his session is taken down.
// It does not block. It fails, and changes nothing, when a peer is not one that can be had.
func (d *Detector) Set(peers []Peer) error {
	list, err := complete(peers)
	if err != nil {
		return fmt.Errorf("set BFD peers: %w", err)
	}
	d.mu.Lock()
	d.wanted, d.stale = list, true
	d.mu.Unlock()
	d.ring()
	return nil
}

// Status lists the sessions, in the order of the peers; none while Run does not work.
func (d *Detector) Status() []Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]Status, len(d.neighbours))
	for i, n := range d.neighbours {
		list[i] = n.status(d.deaf[n.peer.kind()])
	}
	return list
}

// status is what the session is; deaf says why nothing can be received for it.
func (n *neighbour) status(deaf string) Status {
	s := Status{
		Key: n.peer.Key, Mine: n.session.o.Mine, Interval: n.session.Interval(), Detection: n.session.Detection(),
		Port: n.port, In: n.in, Out: n.sent, Unsent: n.unsent, Fault: cmp.Or(n.fault, deaf),
	}
	s.State, s.Diagnostic, s.Since = n.session.State()
	remote := n.session.Remote()
	s.RemoteState, s.RemoteDiagnostic, s.Yours, s.RemoteMultiplier = remote.State, remote.Diagnostic, remote.Mine, remote.Multiplier
	for reason, count := range n.dropped {
		if count == 0 {
			continue
		}
		if s.Dropped == nil {
			s.Dropped = map[string]uint64{}
		}
		s.Dropped[drop(reason).String()] = count
	}
	return s
}

// ring wakes Run.
func (d *Detector) ring() {
	if bell := d.bell.Load(); bell != nil {
		bell.Write([]byte{0, 0, 0, 0, 0, 0, 0, 1}) // any number but 0
	}
}

// Run keeps the sessions until ctx ends. Then it tells the neighbours that they are taken down, so that none takes that for
// a failure (RFC 5880 §6.8.16), and returns once each has heard it, or does not answer for a detection time, a second at most.
//
// It is one goroutine, which reads all that waits before it looks at the clock's verdict: one that runs late, in a process
// that was stopped for example, takes nobody for lost who was heard meanwhile.
func (d *Detector) Run(ctx context.Context) error {
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("run BFD: %w", os.NewSyscallError("eventfd", err))
	}
	file := os.NewFile(uintptr(bell), "eventfd")
	defer file.Close()
	if d.asker, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return fmt.Errorf("run BFD: %w", os.NewSyscallError("socket", err))
	}
	defer unix.Close(d.asker)
	d.bell.Store(file)
	defer d.bell.Store(nil)
	defer context.AfterFunc(ctx, d.ring)()
	d.mu.Lock()
	d.stale = true
	d.mu.Unlock()
	defer d.closeAll()
	if d.realtime {
		end, err := realtime()
		if err != nil {
			d.log.Warn("BFD runs without real-time scheduling", "err", err)
		}
		defer end()
	}

	for {
		// In this order: all that came before this moment is read before it is judged who is lost by this moment, however
		// long anything takes. What is read was heard when it is read.
		now := time.Now()
		d.read()
		ended := ctx.Err() != nil
		d.heed(ended, now)
		if ended && len(d.leaving) == 0 {
			return nil
		}
		if !now.Before(d.lookAt) {
			d.look()
			d.lookAt = now.Add(lookEvery)
		}
		d.tick(now)
		if err := d.wait(bell); err != nil {
			return fmt.Errorf("run BFD: %w", err)
		}
	}
}

// realtime has the goroutine's thread scheduled before all that is not real-time, until end is called.
func realtime() (end func(), err error) {
	runtime.LockOSThread()
	before, err := unix.SchedGetAttr(0, 0)
	if err == nil {
		// The lowest priority, and not for threads that it makes.
		err = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK}, 0)
	}
	if err != nil {
		return runtime.UnlockOSThread, os.NewSyscallError("sched_setattr", err)
	}
	return func() {
		// A thread that stays so ends with its goroutine.
		if unix.SchedSetAttr(0, before, 0) == nil {
			runtime.UnlockOSThread()
		}
	}, nil
}

// wait waits for a packet, the next thing to do, or the bell.
func (d *Detector) wait(bell int) error {
	d.polled = append(d.polled[:0], unix.PollFd{Fd: int32(bell), Events: unix.POLLIN})
	for _, fd := range d.ears {
		d.polled = append(d.polled, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	var timeout *unix.Timespec
	if next := d.next(); !next.IsZero() {
		t := unix.NsecToTimespec(max(0, time.Until(next).Nanoseconds()))
		timeout = &t
	}
	if _, err := unix.Ppoll(d.polled, timeout, nil); err != nil {
		if errors.Is(err, unix.EINTR) {
			return nil
		}
		return os.NewSyscallError("ppoll", err)
	}
	if d.polled[0].Revents != 0 {
		var count [8]byte
		if _, err := unix.Read(bell, count[:]); err != nil {
			return os.NewSyscallError("read eventfd", err)
		}
	}
	return nil
}

// next is when there is something to do; zero means that there is nothing.
func (d *Detector) next() time.Time {
	if len(d.neighbours)+len(d.leaving)+len(d.ears) == 0 {
		return time.Time{}
	}
	next := d.lookAt
	for _, n := range d.neighbours {
		if at := n.session.Next(); !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	for _, n := range d.leaving {
		for _, at := range []time.Time{n.tellAt, n.leaveBy} {
			if at.Before(next) {
				next = at
			}
		}
	}
	return next
}

// tick does what is due.
func (d *Detector) tick(now time.Time) {
	d.leaving = slices.DeleteFunc(d.leaving, func(n *neighbour) bool {
		over := n.session.Remote().State != Up || !now.Before(n.leaveBy)
		if over {
			d.part(n)
			d.lookAt = now // nothing is to be received any more, perhaps
		} else if !now.Before(n.tellAt) {
			d.farewell(n, now)
		}
		return over
	})
	for _, n := range d.neighbours {
		if at := n.session.Next(); at.IsZero() || now.Before(at) {
			continue
		}
		d.mu.Lock()
		packets := n.session.Tick(now)
		d.mu.Unlock()
		d.send(n, packets)
		d.note(n)
	}
}

// read hears all packets that wait.
func (d *Detector) read() {
	for k, fd := range d.ears {
		for range readMost {
			a, err := receive(fd, d.buffer, d.control)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				break
			}
			d.hear(k, a)
		}
	}
}

// hear takes a packet.
func (d *Detector) hear(k kind, a arrival) {
	sender := d.bySource(k, a)
	if !k.multihop && a.ttl != ttl {
		d.dropped(sender, dropTTL)
		return
	}
	p, err := Parse(a.octets)
	if err != nil {
		d.dropped(sender, dropMalformed)
		return
	}
	n := sender
	if p.Yours != 0 {
		// Nothing else counts then, not even where it comes from (RFC 5880 §6.3).
		n = d.mine[p.Yours]
		if n != nil && n.peer.kind() != k {
			n = nil
		}
	}
	switch {
	case n == nil && sender == nil:
		d.dropped(nil, dropSender)
	case n == nil:
		d.dropped(sender, dropSession)
	case a.ttl < int(n.peer.MinTTL):
		d.dropped(n, dropTTL)
	case k.multihop && p.Yours == 0 && n.session.state == Up:
		// Anybody could send that from anywhere, and take the session down. A neighbour who has started anew is heard once the
		// detection time is over.
		d.dropped(n, dropUndirected)
	default:
		d.mu.Lock()
		packets := n.session.Receive(p, time.Now())
		n.in++
		d.mu.Unlock()
		n.metrics.in.Inc()
		d.send(n, packets)
		d.note(n)
	}
}

// bySource finds who sent a packet by its addresses and interface (RFC 5881 §3, RFC 5883 §4); nil when nobody did.
func (d *Detector) bySource(k kind, a arrival) *neighbour {
	for _, n := range d.neighbours {
		p := n.peer
		if p.Remote == a.from && p.Multihop == k.multihop && (!p.Local.IsValid() || p.Local == a.to) &&
			(p.Multihop || p.Interface == "" || n.index == a.index) {
			return n
		}
	}
	return nil
}

func (d *Detector) dropped(n *neighbour, why drop) {
	d.metrics.dropped.WithLabelValues(why.String()).Inc()
	if n == nil {
		return
	}
	d.mu.Lock()
	n.dropped[why]++
	d.mu.Unlock()
}

// send sends what a session has to say.
func (d *Detector) send(n *neighbour, packets []Packet) {
	for _, p := range packets {
		if n.fd < 0 { // which is why, is known
			d.mu.Lock()
			n.unsent++
			d.mu.Unlock()
			continue
		}
		d.out = p.AppendTo(d.out[:0])
		err := unix.Sendto(n.fd, d.out, unix.MSG_DONTWAIT, n.to)
		d.mu.Lock()
		if err == nil {
			n.sent++
		} else {
			n.unsent++
		}
		d.mu.Unlock()
		if err == nil {
			n.metrics.out.Inc()
		}
		d.fault(n, os.NewSyscallError("send", err))
	}
}

// fault notes why nothing can be sent to a neighbour, or that it can.
func (d *Detector) fault(n *neighbour, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if n.fault == text {
		return
	}
	d.mu.Lock()
	n.fault = text
	d.mu.Unlock()
	if text == "" {
		d.log.Info("BFD packets can be sent again", "peer", n.peer.Key)
		return
	}
	d.log.Warn("BFD packets cannot be sent", "peer", n.peer.Key, "err", text)
}

// note tells of what became of a session.
func (d *Detector) note(n *neighbour) {
	if detects := n.session.Detection(); detects != n.detects {
		n.detects = detects
		n.metrics.detection.Set(detects.Seconds())
	}
	before := n.noted
	if n.session.state == before || slices.Contains(d.leaving, n) {
		return
	}
	d.mu.Lock()
	n.noted = n.session.state
	s := n.status(d.deaf[n.peer.kind()])
	d.mu.Unlock()
	log := d.log.With("peer", s.Key)
	switch {
	case s.State == Up:
		n.metrics.up.Set(1)
		log.Info("BFD session is up", "interval", s.Interval, "detection", s.Detection)
	case before == Up:
		n.metrics.up.Set(0)
		d.metrics.losses.WithLabelValues(s.Key, s.Diagnostic.String()).Inc()
		log.Warn("BFD session is down", "reason", s.Diagnostic.String(), "remote", s.RemoteState.String())
	default:
		log.Debug("BFD session is changing", "state", s.State.String())
	}
	d.changed(s.Key, s)
}

// heed makes the sessions those that are wanted; none once it has ended.
func (d *Detector) heed(ended bool, now time.Time) {
	d.mu.Lock()
	wanted, stale := d.wanted, d.stale
	d.stale = false
	d.mu.Unlock()
	if ended {
		wanted, stale = nil, len(d.neighbours) > 0
	}
	if !stale {
		return
	}
	places := map[string]place{}
	for _, p := range wanted {
		places[p.Key] = p.place()
	}
	kept := map[string]*neighbour{}
	for _, n := range d.neighbours {
		if at, found := places[n.peer.Key]; found && at == n.peer.place() {
			kept[n.peer.Key] = n
		} else {
			d.leave(n, now)
		}
	}
	list := make([]*neighbour, 0, len(wanted))
	for _, p := range wanted {
		n := kept[p.Key]
		if n == nil {
			list = append(list, d.meet(p, now))
			continue
		}
		list = append(list, n)
		d.mu.Lock()
		n.peer = p
		n.session.Set(p.MinTx, p.MinRx, now)
		n.session.SetMultiplier(p.Multiplier)
		d.mu.Unlock()
		d.note(n)
	}
	for _, n := range d.leaving {
		// Who has a new session is to hear one voice: he is told once of the end of the old one.
		if slices.ContainsFunc(wanted, func(p Peer) bool { return p.Remote == n.peer.Remote && p.Multihop == n.peer.Multihop }) {
			n.leaveBy = now
		}
	}
	d.mu.Lock()
	d.neighbours = list
	d.mu.Unlock()
	d.lookAt = now
}

// meet begins a session.
func (d *Detector) meet(p Peer, now time.Time) *neighbour {
	mine := uint32(0)
	for mine == 0 || d.mine[mine] != nil {
		mine = d.random.Uint32()
	}
	n := &neighbour{peer: p, session: NewSession(p.session(mine, d.random.Float64), now), metrics: d.metrics.of(p.Key), noted: Down, fd: -1}
	d.mine[mine] = n
	return n
}

// leave begins the end of a session: a neighbour who knows it is told. He is told again at the interval that it had, which
// is more often than of a session that is not up, but ends when he would have noticed by himself.
func (d *Detector) leave(n *neighbour, now time.Time) {
	d.metrics.forget(n.peer.Key)
	if n.session.Remote().Mine == 0 || n.fd < 0 {
		d.part(n)
		return
	}
	n.pace = cmp.Or(n.session.Interval(), leaveLimit)
	n.leaveBy = now.Add(min(leaveLimit, time.Duration(n.peer.Multiplier)*n.pace))
	d.mu.Lock()
	n.session.SetAdminDown(true, now)
	d.mu.Unlock()
	d.farewell(n, now)
	d.leaving = append(d.leaving, n)
}

// farewell tells a neighbour that his session is taken down.
func (d *Detector) farewell(n *neighbour, now time.Time) {
	d.send(n, []Packet{n.session.packet()})
	n.tellAt = now.Add(n.pace)
}

// part is the end of a session.
func (d *Detector) part(n *neighbour) {
	delete(d.mine, n.session.o.Mine)
	delete(d.ports, n.port)
	d.shut(n)
}

func (d *Detector) shut(n *neighbour) {
	if n.fd >= 0 {
		unix.Close(n.fd)
		n.fd = -1
	}
}

// look opens what is to be open and is not, closes what is not to be, and finds interfaces that are others.
func (d *Detector) look() {
	wanted := map[kind]bool{}
	for _, list := range [][]*neighbour{d.neighbours, d.leaving} {
		for _, n := range list {
			wanted[n.peer.kind()] = true
		}
	}
	for k, fd := range d.ears {
		if !wanted[k] {
			unix.Close(fd)
			delete(d.ears, k)
		}
	}
	for k := range wanted {
		if _, open := d.ears[k]; !open {
			d.listen(k)
		}
	}
	for _, n := range d.neighbours {
		d.open(n)
	}
}

// listen begins to receive.
func (d *Detector) listen(k kind) {
	fd, err := listen(k)
	text := ""
	if err == nil {
		d.ears[k] = fd
	} else {
		text = err.Error()
	}
	if d.deaf[k] == text {
		return
	}
	d.mu.Lock()
	d.deaf[k] = text
	d.mu.Unlock()
	if text == "" {
		d.log.Info("BFD packets can be received again", "port", k.port())
		return
	}
	d.log.Warn("BFD packets cannot be received", "port", k.port(), "err", text)
}

// open has packets to a neighbour sent by his interface as it is now.
func (d *Detector) open(n *neighbour) {
	index := 0
	if n.peer.Interface != "" {
		var err error
		if index, err = linkIndex(d.asker, n.peer.Interface); err != nil {
			d.shut(n)
			n.index = 0
			d.fault(n, err)
			return
		}
	}
	if n.fd >= 0 && index == n.index {
		return
	}
	d.shut(n)
	n.index = index
	fd, port, err := d.dial(n, index)
	if err != nil {
		d.fault(n, fmt.Errorf("open a socket to %s: %w", n.peer.Remote, err))
		return
	}
	n.fd, n.to = fd, sockaddr(n.peer.Remote, n.peer.kind(), n.peer.kind().port(), index)
	if port != n.port {
		delete(d.ports, n.port)
		d.ports[port] = true
		d.mu.Lock()
		n.port = port
		d.mu.Unlock()
	}
	d.fault(n, nil)
}

// dial opens a socket on the session's port, or on one that no other session has.
func (d *Detector) dial(n *neighbour, index int) (fd, port int, err error) {
	err = unix.EADDRINUSE
	for try := 0; try < portTries && errors.Is(err, unix.EADDRINUSE); try++ {
		port = portFirst + d.random.IntN(portLast-portFirst+1)
		if try == 0 && n.port != 0 {
			port = n.port
		} else if d.ports[port] {
			continue
		}
		fd, err = dial(n.peer, index, port)
	}
	return fd, port, err
}

// closeAll leaves nothing behind.
func (d *Detector) closeAll() {
	for _, n := range slices.Concat(d.neighbours, d.leaving) {
		d.metrics.forget(n.peer.Key)
		d.part(n)
	}
	for k, fd := range d.ears {
		unix.Close(fd)
		delete(d.ears, k)
	}
	d.mu.Lock()
	d.neighbours = nil
	d.mu.Unlock()
	d.leaving = nil
}
