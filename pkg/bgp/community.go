package bgp

import (
	"fmt"
	"strconv"
	"strings"
)

// ParseCommunity reads a community as users write it, 65000:100 (RFC 1997).
func ParseCommunity(s string) (uint32, error) {
	a, b, ok := strings.Cut(s, ":")
	high, err1 := strconv.ParseUint(a, 10, 16)
	low, err2 := strconv.ParseUint(b, 10, 16)
	if !ok || err1 != nil || err2 != nil {
		return 0, fmt.Errorf("%q is not a community: want two numbers from 0 to 65535, as in 65000:100", s)
	}
	return uint32(high<<16 | low), nil
}

// ParseLarge reads a large community as users write it, 65000:1:2 (RFC 8092).
func ParseLarge(s string) (Large, error) {
	parts := strings.Split(s, ":")
	var n [3]uint32
	if len(parts) != len(n) {
		return Large{}, fmt.Errorf("%q is not a large community: want three numbers, as in 65000:1:2", s)
	}
	for i, part := range parts {
		v, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return Large{}, fmt.Errorf("%q is not a large community: want three numbers, as in 65000:1:2", s)
		}
		n[i] = uint32(v)
	}
	return Large{n[0], n[1], n[2]}, nil
}
