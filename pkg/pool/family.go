package pool

import "net/netip"

// Family is an address family. The zero value is IPv4.
type Family int

// The address families.
const (
	IPv4 Family = iota
	IPv6
	families
)

// String is the family as spec.ipFamilies of a Service spells it.
func (f Family) String() string { return [...]string{"IPv4", "IPv6"}[f] }

// other is the family that f is not.
func (f Family) other() Family { return 1 - f }

// FamilyOf is the family of a valid address.
func FamilyOf(addr netip.Addr) Family {
	if addr.Is4() {
		return IPv4
	}
	return IPv6
}

// Policy says how many families a Service is to have addresses of. The zero value is SingleStack.
type Policy int

// The policies are those of spec.ipFamilyPolicy.
const (
	SingleStack Policy = iota
	PreferDualStack
	RequireDualStack
)

// String is the policy as spec.ipFamilyPolicy of a Service spells it.
func (p Policy) String() string {
	return [...]string{"SingleStack", "PreferDualStack", "RequireDualStack"}[p]
}

// reservedText says which addresses are never given out, though a Service may have one by name.
const reservedText = "IPv4 addresses that end in .0 or .255, and IPv6 addresses whose last 64 bits are zero"

// reserved says whether addr is never given out. Of an IPv4 network of 256 addresses, those that end in .0 and .255
// are the network's and the broadcast address, and of a larger one some hosts and routers still think so. Of IPv6
// it is the Subnet-Router anycast address (RFC 4291, section 2.6.1).
func reserved(addr netip.Addr) bool {
	if !addr.Is4() {
		b := addr.As16()
		return [8]byte(b[8:]) == [8]byte{}
	}
	last := addr.As4()[3]
	return last == 0 || last == 255
}
