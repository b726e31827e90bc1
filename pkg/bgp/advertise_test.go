package bgp

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// TestAdvertise: what is at the other end of a cable hears of this node, and is offered no route.
func TestAdvertise(t *testing.T) {
	why := make(chan string)
	go func() {
		defer close(why)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			why <- "no network namespace can be made here, root is needed: " + err.Error()
			return
		}
		if err := heardOf(); err != nil {
			why <- err.Error()
		}
	}()
	if text := <-why; strings.HasPrefix(text, "no network namespace") && os.Getenv("CI") == "" {
		t.Skip(text)
	} else if text != "" {
		t.Fatal(text)
	}
}

// heardOf advertises on one end of a cable and judges what comes out of the other.
func heardOf() error {
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "one"}, PeerName: "other"}); err != nil {
		return err
	}
	for _, name := range []string{"one", "other"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_dad", []byte("0"), 0o644); err != nil {
			return err
		}
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	one, err := net.InterfaceByName("one")
	if err != nil {
		return err
	}
	other, err := net.InterfaceByName("other")
	if err != nil {
		return err
	}
	// A link that was just set up gets its address when it has a carrier.
	listen := func() (conn *ndp.Conn, err error) {
		for range 100 {
			if conn, _, err = ndp.Listen(other, ndp.LinkLocal); err == nil {
				return conn, nil
			}
			time.Sleep(20 * time.Millisecond)
		}
		return nil, err
	}
	conn, err := listen()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetControlMessage(ipv6.FlagHopLimit, true); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	for range 100 {
		if err = advertiseOnce("one"); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	for {
		m, control, from, err := conn.ReadFrom()
		if err != nil {
			return fmt.Errorf("nothing was heard: %w", err)
		}
		ra, is := m.(*ndp.RouterAdvertisement)
		if !is {
			continue
		}
		if ra.RouterLifetime != 0 || control == nil || control.HopLimit != maxTTL || !from.IsLinkLocalUnicast() || len(ra.Options) != 1 {
			return fmt.Errorf("heard %+v with %v from %s", ra, control, from)
		}
		if o, is := ra.Options[0].(*ndp.LinkLayerAddress); !is || o.Direction != ndp.Source || o.Addr.String() != one.HardwareAddr.String() {
			return fmt.Errorf("it tells of %+v, want %s", ra.Options[0], one.HardwareAddr)
		}
		return nil
	}
}
