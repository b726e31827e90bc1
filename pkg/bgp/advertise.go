package bgp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
)

// A router at the other end of a cable learns of this node, as this node of it, by Router Advertisements: without one it
// takes no session from a link-local address. Ours offer no route, a lifetime of 0 (RFC 4861 §4.2).
const (
	// advertiseEvery is the time between two, and advertiseSoon that at the beginning, advertiseFirst times (RFC 4861
	// §6.2.4). On a cable there is nobody else to be disturbed.
	advertiseEvery = 10 * time.Second
	advertiseSoon  = time.Second
	advertiseFirst = 3
)

// advertise sends Router Advertisements on a link until ctx ends. fail is told why none can be sent, once for each cause.
func advertise(ctx context.Context, link string, fail func(error)) {
	last := ""
	for sent := 0; ctx.Err() == nil; {
		pause := advertiseEvery
		if sent < advertiseFirst {
			pause = advertiseSoon
		}
		switch err := advertiseOnce(link); {
		case err == nil:
			sent, last = sent+1, ""
		case err.Error() != last:
			last = err.Error()
			fail(fmt.Errorf("send a Router Advertisement on %s: %w", link, err))
		}
		wait(ctx, pause)
	}
}

// advertiseOnce sends one, by a socket of its own: the link may be another than before.
func advertiseOnce(link string) error {
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return err
	}
	conn, _, err := ndp.Listen(ifi, ndp.LinkLocal)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	var nothing ipv6.ICMPFilter
	nothing.SetAll(true) // to be received
	if err := conn.SetICMPFilter(&nothing); err != nil {
		return err
	}
	var options []ndp.Option
	if len(ifi.HardwareAddr) == 6 {
		options = append(options, &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: ifi.HardwareAddr})
	}
	return conn.WriteTo(&ndp.RouterAdvertisement{Options: options}, nil, netip.IPv6LinkLocalAllNodes())
}
