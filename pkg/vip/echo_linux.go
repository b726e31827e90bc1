package vip

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Where a notification of an address has what ignoreEchoes looks at: struct nlmsghdr of linux/netlink.h, with struct
// ifaddrmsg of linux/if_addr.h behind it, and the attributes behind that.
const (
	offsetType       = 4
	offsetPort       = 12
	offsetPrefixBits = unix.SizeofNlMsghdr + 1
	offsetAttributes = unix.SizeofNlMsghdr + unix.SizeofIfAddrmsg
)

// ignoreEchoes has the kernel keep from a subscriber what only repeats our own requests: addresses with our mark that are
// put, and single IPv4 addresses (which take no other along) that are removed by the socket with that port; of IPv6 the
// kernel does not say who removed one. Thousands of addresses that are renewed every few seconds would otherwise wake the
// subscriber as often.
func ignoreEchoes(subscriber *nl.NetlinkSocket, port uint32) error {
	const everything = 1 << 18 // more than any notification
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetType, Size: 2},
		bpf.JumpIf{Val: loaded16(unix.RTM_NEWADDR), SkipFalse: 7},
		bpf.LoadConstant{Dst: bpf.RegX, Val: ifaProto},
		bpf.LoadConstant{Dst: bpf.RegA, Val: offsetAttributes},
		bpf.LoadExtension{Num: bpf.ExtNetlinkAttr}, // where the attribute is; 0 when there is none
		bpf.JumpIf{Val: 0, SkipTrue: 8},
		bpf.TAX{},
		bpf.LoadIndirect{Off: unix.SizeofRtAttr, Size: 1},
		bpf.JumpIf{Val: AddressProtocol, SkipTrue: 6, SkipFalse: 5},
		bpf.JumpIf{Val: loaded16(unix.RTM_DELADDR), SkipFalse: 4},
		bpf.LoadAbsolute{Off: offsetPort, Size: 4},
		bpf.JumpIf{Val: loaded32(port), SkipFalse: 2},
		bpf.LoadAbsolute{Off: offsetPrefixBits, Size: 1},
		bpf.JumpIf{Val: 32, SkipTrue: 1},
		bpf.RetConstant{Val: everything},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return fmt.Errorf("assemble the filter of notifications: %w", err)
	}
	program := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		program[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	err = unix.SetsockoptSockFprog(subscriber.GetFd(), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	if err != nil {
		return fmt.Errorf("filter notifications: %w", err)
	}
	return nil
}

// loaded16 and loaded32 are what a filter loads, which takes it for big-endian, where the kernel has v in its own order.
func loaded16(v uint16) uint32 {
	return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v)))
}

func loaded32(v uint32) uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, v))
}
