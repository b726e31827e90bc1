package vip

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// exchangeBatch is how many requests go out in one system call. Their answers must fit into the socket's receive buffer,
// 212992 bytes unless net.core.rmem_default says otherwise, of which the kernel counts up to 768 for each.
const exchangeBatch = 100

// exchange makes many requests and returns what became of them, in their order: nil or an errno. When the socket itself
// fails, so do all of which it is not known. The caller holds mu.
func (n *Netlink) exchange(requests []*nl.NetlinkRequest) []error {
	errs := make([]error, len(requests))
	for first := 0; first < len(requests); first += exchangeBatch {
		last := min(len(requests), first+exchangeBatch)
		n.exchangeSome(requests[first:last], errs[first:last])
	}
	return errs
}

// exchangeSome asks for the answer (NLMSG_ERROR of netlink(7)) to the last request alone. The kernel sees to them one after
// the other and tells of each that fails without being asked, so that who is not named before that answer has succeeded.
// Reading an answer costs more than the request.
func (n *Netlink) exchangeSome(requests []*nl.NetlinkRequest, errs []error) {
	socket := n.sockets[unix.NETLINK_ROUTE].Socket
	waiting := make(map[uint32]int, len(requests))
	const each = 96 // nearly all of them
	out := make([]byte, 0, len(requests)*each)
	last := len(requests) - 1
	for i, r := range requests {
		waiting[r.Seq] = i
		if r.Flags &^= unix.NLM_F_ACK; i == last {
			r.Flags |= unix.NLM_F_ACK
		}
		out = append(out, r.Serialize()...)
	}
	fail := func(verb string, err error) {
		for _, i := range waiting {
			errs[i] = fmt.Errorf("%s netlink: %w", verb, err)
		}
	}
	if err := unix.Sendto(socket.GetFd(), out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		fail("send to", err)
		return
	}
	for {
		messages, from, err := socket.Receive()
		if err != nil {
			fail("receive from", err)
			return
		}
		if from.Pid != nl.PidKernel {
			continue
		}
		for _, m := range messages {
			i, is := waiting[m.Header.Seq]
			if !is || m.Header.Type != unix.NLMSG_ERROR || len(m.Data) < 4 {
				continue // of an earlier request that was given up
			}
			delete(waiting, m.Header.Seq)
			if errno := int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
				errs[i] = syscall.Errno(-errno)
			}
			if i == last {
				return
			}
		}
	}
}
