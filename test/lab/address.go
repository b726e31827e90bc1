package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Forever is the lifetime of an address that does not end.
const Forever time.Duration = -1

// An Address is one that the kernel has on a link (rtnetlink(7), RTM_GETADDR).
type Address struct {
	Prefix netip.Prefix
	Link   string
	// Protocol is IFA_PROTO: who added it. 0 means nobody said.
	Protocol uint8
	// Flags are the IFA_F_ bits.
	Flags uint32
	// Scope is RT_SCOPE_UNIVERSE (0), RT_SCOPE_LINK (253), RT_SCOPE_HOST (254).
	Scope uint8
	// Label is IFA_LABEL of an IPv4 address.
	Label string
	// Valid and Preferred are what is left of the lifetimes; Forever when they have no end.
	Valid, Preferred time.Duration
}

// ifaProto is IFA_PROTO of linux/if_addr.h.
const ifaProto = 11

// Addresses are all addresses on all links of the host.
func (h *Host) Addresses() ([]Address, error) {
	links, err := h.handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the links of %s: %w", h.Name, err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.socket == nil {
		s, err := nl.GetNetlinkSocketAt(netns.NsHandle(h.fd), netns.None(), unix.NETLINK_ROUTE)
		if err != nil {
			return nil, fmt.Errorf("open netlink on %s: %w", h.Name, err)
		}
		h.socket = &nl.SocketHandle{Socket: s}
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: h.socket}
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	if err != nil {
		return nil, fmt.Errorf("list the addresses of %s: %w", h.Name, err)
	}
	var all []Address
	for _, m := range msgs {
		msg := nl.DeserializeIfAddrmsg(m)
		attrs, err := nl.ParseRouteAttr(m[msg.Len():])
		if err != nil {
			return nil, fmt.Errorf("read an address of %s: %w", h.Name, err)
		}
		a := Address{Link: names[int(msg.Index)], Flags: uint32(msg.Flags), Scope: msg.Scope, Valid: Forever, Preferred: Forever}
		var local, addr netip.Addr
		for _, attr := range attrs {
			switch attr.Attr.Type {
			case unix.IFA_LOCAL:
				local, _ = netip.AddrFromSlice(attr.Value)
			case unix.IFA_ADDRESS:
				addr, _ = netip.AddrFromSlice(attr.Value)
			case unix.IFA_LABEL:
				a.Label = string(attr.Value[:len(attr.Value)-1])
			case unix.IFA_FLAGS:
				a.Flags = binary.NativeEndian.Uint32(attr.Value)
			case ifaProto:
				a.Protocol = attr.Value[0]
			case unix.IFA_CACHEINFO:
				a.Preferred = lifetime(binary.NativeEndian.Uint32(attr.Value[0:]))
				a.Valid = lifetime(binary.NativeEndian.Uint32(attr.Value[4:]))
			}
		}
		if !local.IsValid() {
			local = addr
		}
		a.Prefix = netip.PrefixFrom(local, int(msg.Prefixlen))
		all = append(all, a)
	}
	return all, nil
}

func lifetime(seconds uint32) time.Duration {
	if seconds == ^uint32(0) {
		return Forever
	}
	return time.Duration(seconds) * time.Second
}

// Has reports whether the host has the address on any link.
func (h *Host) Has(addr netip.Addr) (bool, error) {
	all, err := h.Addresses()
	if err != nil {
		return false, err
	}
	for _, a := range all {
		if a.Prefix.Addr() == addr {
			return true, nil
		}
	}
	return false, nil
}
