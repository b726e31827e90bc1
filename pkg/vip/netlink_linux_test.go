package vip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// realNode makes a network namespace with a loopback and, as a veth pair, eth0. The test's goroutine stays in it
// with its thread, which ends with the test and takes the namespace along.
func realNode(t testing.TB) (node, *Netlink) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: no other goroutine gets this thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		unprivileged(t, fmt.Sprintf("make a network namespace: %v", err))
	}
	// Only addresses that a test adds: no link-local ones, whose duplicate detection goes on for a while.
	for _, conf := range []string{"all", "default"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+conf+"/addr_gen_mode", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	do(t, setUp("lo"))
	n := openNetlink(t)
	byHand := func(f func(netlink.Link, *netlink.Addr) error) func(link, prefix string) {
		return func(link, prefix string) {
			t.Helper()
			l, err := netlink.LinkByName(link)
			do(t, err)
			a, err := netlink.ParseAddr(prefix)
			do(t, err)
			a.Flags = unix.IFA_F_NODAD
			a.PreferedLft = 0 // with no valid lifetime: for ever
			do(t, f(l, a))
		}
	}
	made := node{
		Kernel:     n,
		addLink:    func(name string) { t.Helper(); addLink(t, name); eventuallyUp(t, n, name) },
		delLink:    func(name string) { t.Helper(); do(t, netlink.LinkDel(linkNamed(t, name))) },
		addAddress: byHand(netlink.AddrAdd), delAddress: byHand(netlink.AddrDel),
		// ADDRCONF_TIMER_FUZZ_MAX of the kernel is a quarter of a second; the rest is this machine's.
		late: 800 * time.Millisecond,
	}
	made.addLink("eth0")
	return made, n
}

func openNetlink(t testing.TB) *Netlink {
	t.Helper()
	n, err := NewNetlink()
	do(t, err)
	t.Cleanup(n.Close)
	return n
}

func addLink(t testing.TB, name string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	do(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "p-" + name}))
	do(t, setUp(name))
	do(t, setUp("p-"+name))
}

func setUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func linkNamed(t testing.TB, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	do(t, err)
	return l
}

func eventuallyUp(t testing.TB, n *Netlink, name string) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		links, err := n.Links()
		do(t, err)
		if slices.ContainsFunc(links, func(l Link) bool { return l.Name == name && l.Up }) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not up: %+v", name, links)
		}
	}
}

func do(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestNetlink(t *testing.T) {
	for _, c := range kernelCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n, _ := realNode(t)
			c.check(t, n)
		})
	}
}

// TestNetlinkByLabel is the same on a kernel that has no IFA_PROTO, or seems to.
func TestNetlinkByLabel(t *testing.T) {
	for _, c := range kernelCases {
		if c.name == "changes are told, our own puts are not" {
			continue // of IPv6, with no label, they are: a comparison more
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n, real := realNode(t)
			real.marksByLabel = true
			c.check(t, n)
		})
	}
}

// TestAddressOfOurs looks at what Put has made by means that are not ours.
func TestAddressOfOurs(t *testing.T) {
	t.Parallel()
	n, _ := realNode(t)
	n.addAddress("eth0", "10.0.0.5/24")
	n.addAddress("eth0", "fd00::5/64")
	before := routes(t)
	for _, v := range []VIP{
		{Prefix: netip.MustParsePrefix("10.0.0.10/32"), Link: "eth0"},
		{Prefix: netip.MustParsePrefix("10.0.7.10/24"), Link: "eth0"},
		{Prefix: netip.MustParsePrefix("fd00::10/128"), Link: "eth0"},
		{Prefix: netip.MustParsePrefix("fd00:7::10/64"), Link: "eth0"},
	} {
		put(t, n, v, 30*time.Second)
		// At once, without duplicate address detection.
		listener, err := net.Listen("tcp", net.JoinHostPort(v.String(), "0"))
		if err != nil {
			t.Errorf("the address cannot be used at once: %v", err)
		} else {
			listener.Close()
		}
		a := seen(t, v)
		if a.PreferedLft != 0 || a.ValidLft < 28 || a.ValidLft > 30 {
			t.Errorf("%s: preferred for %d s, valid for %d s; want 0 and 30", v, a.PreferedLft, a.ValidLft)
		}
		want := unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_DEPRECATED
		if v.Addr().Is6() {
			want |= unix.IFA_F_NODAD
		}
		if a.Flags != want {
			t.Errorf("%s: flags %#x, want %#x", v, a.Flags, want)
		}
		if a.Scope != unix.RT_SCOPE_UNIVERSE {
			t.Errorf("%s: scope %d", v, a.Scope)
		}
		if a.Label != "" && a.Label != "eth0" {
			t.Errorf("%s: label %q", v, a.Label)
		}
	}
	if diff := cmp.Diff(before, routes(t)); diff != "" {
		t.Errorf("routes of the main table (-want +got):\n%s", diff)
	}
	for dst, want := range map[string]string{"10.0.0.99": "10.0.0.5", "fd00::99": "fd00::5"} {
		r, err := netlink.RouteGet(net.ParseIP(dst))
		if err != nil || len(r) == 0 || r[0].Src.String() != want {
			t.Errorf("source address towards %s: %v, %v; want %s", dst, r, err, want)
		}
	}
	if out, err := exec.Command("ip", "-d", "address", "show", "dev", "eth0", "proto", "248").CombinedOutput(); err != nil {
		t.Logf("this iproute2 knows no address protocols: %v: %s", err, out)
	} else {
		for _, want := range []string{"10.0.0.10/32", "10.0.7.10/24", "fd00::10/128", "fd00:7::10/64"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("'ip address show proto 248' lacks %s:\n%s", want, out)
			}
		}
		if strings.Contains(string(out), "10.0.0.5/24") {
			t.Errorf("'ip address show proto 248' has more than ours:\n%s", out)
		}
	}
}

// seen is v's address as the netlink library reads it.
func seen(t *testing.T, v VIP) netlink.Addr {
	t.Helper()
	addrs, err := netlink.AddrList(linkNamed(t, v.Link), netlink.FAMILY_ALL)
	do(t, err)
	i := slices.IndexFunc(addrs, func(a netlink.Addr) bool { return a.IPNet.String() == v.Prefix.String() })
	if i < 0 {
		t.Fatalf("%s is not on %s: %v", v.Prefix, v.Link, addrs)
	}
	return addrs[i]
}

func routes(t *testing.T) (lines []string) {
	t.Helper()
	list, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	do(t, err)
	for _, r := range list {
		lines = append(lines, r.String())
	}
	slices.Sort(lines)
	return lines
}

func TestScope(t *testing.T) {
	t.Parallel()
	n, _ := realNode(t)
	four := func(link string, global bool) VIP {
		return VIP{Prefix: netip.MustParsePrefix("10.0.0.10/32"), Link: link, Global: global}
	}
	six := func(link string, global bool) VIP {
		return VIP{Prefix: netip.MustParsePrefix("fd00::10/128"), Link: link, Global: global}
	}
	for _, c := range []struct {
		v    VIP
		want int
	}{
		{four("lo", false), unix.RT_SCOPE_HOST},
		{four("lo", true), unix.RT_SCOPE_UNIVERSE}, // and an address with another scope is replaced
		{four("lo", false), unix.RT_SCOPE_HOST},
		{four("eth0", false), unix.RT_SCOPE_UNIVERSE},
		{four("eth0", true), unix.RT_SCOPE_UNIVERSE},
		// The kernel derives an IPv6 address's scope from the address itself.
		{six("lo", false), unix.RT_SCOPE_UNIVERSE},
		{six("lo", true), unix.RT_SCOPE_UNIVERSE},
		{six("eth0", false), unix.RT_SCOPE_UNIVERSE},
	} {
		for range 2 {
			put(t, n, c.v, 30*time.Second)
			if got := seen(t, c.v).Scope; got != c.want {
				t.Errorf("%s on %s, global %t: scope %d, want %d", c.v, c.v.Link, c.v.Global, got, c.want)
			}
		}
		only(t, n, c.v)
	}
}

// TestRenewalOnLoopback: the address is renewed and not replaced, which would take it away for a moment.
func TestRenewalOnLoopback(t *testing.T) {
	t.Parallel()
	for _, v := range both("lo") {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			n, _ := realNode(t)
			put(t, n, v, 30*time.Second)
			ctx, cancel := context.WithCancel(t.Context())
			var told atomic.Int64
			ended := make(chan error, 1)
			go func() { ended <- n.Watch(ctx, func() { told.Add(1) }) }()
			quiet(t, &told)
			before := told.Load()
			for range 3 {
				only(t, n, v)
				put(t, n, v, 30*time.Second)
			}
			quiet(t, &told)
			cancel()
			do(t, <-ended)
			if after := told.Load(); after != before {
				t.Errorf("%d changes by renewals, want none", after-before)
			}
		})
	}
}

// TestScopeOfAnEarlierLife: a new process finds the address with the scope that the settings gave it before.
func TestScopeOfAnEarlierLife(t *testing.T) {
	t.Parallel()
	n, _ := realNode(t)
	v := VIP{Prefix: netip.MustParsePrefix("10.0.0.10/32"), Link: "lo"}
	put(t, n, v, 30*time.Second)
	later := openNetlink(t)
	v.Global = true
	do(t, later.Put(v, 30*time.Second))
	if got := seen(t, v).Scope; got != unix.RT_SCOPE_UNIVERSE {
		t.Errorf("scope %d, want the global one", got)
	}
}

func TestEarlierLife(t *testing.T) {
	t.Parallel()
	for _, byLabel := range []bool{false, true} {
		t.Run(fmt.Sprintf("by label %t", byLabel), func(t *testing.T) {
			t.Parallel()
			n, real := realNode(t)
			real.marksByLabel = byLabel
			for _, v := range both("eth0") {
				put(t, n, v, 30*time.Second)
			}
			later := openNetlink(t)
			later.marksByLabel = byLabel
			for _, v := range both("eth0") {
				a := only(t, later, v)
				// Without a protocol or a label there is nothing to know it by; its lifetime ends it.
				if want := !byLabel || v.Addr().Is4(); a.Ours != want {
					t.Errorf("%s is ours: %t, want %t", v, a.Ours, want)
				}
				if a.Ours {
					do(t, later.Put(v, 60*time.Second))
					if a := only(t, later, v); a.Valid < 58*time.Second {
						t.Errorf("%s valid for %s after a renewal for 60s", v, a.Valid)
					}
					do(t, later.Remove(only(t, later, v)))
					if err := absent(later, v); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// TestFirstAddressOfASubnet: the kernel's way is that the first IPv4 address of a subnet takes the others with it.
func TestFirstAddressOfASubnet(t *testing.T) {
	t.Parallel()
	n, _ := realNode(t)
	v := VIP{Prefix: netip.MustParsePrefix("10.0.0.10/24"), Link: "eth0"}
	for _, end := range []func(){
		func() { do(t, n.Remove(only(t, n, v))) },
		func() { put(t, n, v, time.Second); eventually(t, 3*time.Second, func() error { return absent(n, v) }) },
	} {
		put(t, n, v, time.Minute)
		second := VIP{Prefix: netip.MustParsePrefix("10.0.0.11/24"), Link: "eth0"}
		put(t, n, second, time.Minute)
		n.addAddress("eth0", "10.0.0.5/24") // by a DHCP client, say, that lost it and found it again
		end()
		do(t, errors.Join(absent(n, v), present(n, second), present(n, VIP{Prefix: netip.MustParsePrefix("10.0.0.5/24"), Link: "eth0"})))
		do(t, n.Remove(only(t, n, second)))
		n.delAddress("eth0", "10.0.0.5/24")
	}
}

func TestLabel(t *testing.T) {
	t.Parallel()
	n, real := realNode(t)
	real.marksByLabel = true
	n.addLink("long-name-12")
	for link, want := range map[string]string{"eth0": "eth0:vip", "long-name-12": "long-name-12"} {
		v := both(link)[0]
		put(t, n, v, 30*time.Second)
		if got := seen(t, v).Label; got != want {
			t.Errorf("label %q, want %q", got, want)
		}
		if !only(t, n, v).Ours {
			t.Errorf("%s on %s is not ours", v, link)
		}
	}
	// A person's alias of that name has what a person gives an address.
	alias, err := netlink.ParseAddr("10.0.0.7/24 label eth0:vip")
	do(t, err)
	alias.Label = "eth0:vip"
	do(t, netlink.AddrAdd(linkNamed(t, "eth0"), alias))
	if a := only(t, n, VIP{Prefix: netip.MustParsePrefix("10.0.0.7/24"), Link: "eth0"}); a.Ours {
		t.Error("a person's eth0:vip is taken for ours")
	}
	real.marksByLabel = false
	if a := only(t, n, both("eth0")[0]); a.Ours {
		t.Error("a label counts although the kernel knows protocols")
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	n, real := realNode(t)
	n.addLink("eth1")
	addLink(t, "down0")
	do(t, netlink.LinkSetDown(linkNamed(t, "down0")))
	addLink(t, "dead0") // up without a carrier
	do(t, netlink.LinkSetDown(linkNamed(t, "p-dead0")))
	do(t, netlink.LinkAddAltName(linkNamed(t, "eth1"), "enp1s0"))
	n.addAddress("eth0", "10.0.0.5/24")
	n.addAddress("eth0", "fd00::5/64")
	n.addAddress("eth1", "192.0.2.5/31")
	for _, v := range both("eth0") {
		put(t, n, v, 30*time.Second) // ours are not listed
	}
	addRoute(t, "default via 10.0.0.1")
	addRoute(t, "default metric 7 nexthop via 10.0.0.1 nexthop dev eth1")
	addRoute(t, "-6 default via fd00::1")
	addRoute(t, "unreachable default metric 9")
	addRoute(t, "-6 unreachable default metric 9")
	addRoute(t, "default dev dead0 table 7")
	addRoute(t, "0.0.0.0/1 dev dead0")

	type link struct {
		Name, Addrs              string
		Up, Loopback, Four, Six  bool
		HasIndex, HasAlternative bool
	}
	var got []link
	var links []Link
	eventually(t, 3*time.Second, func() error { // until the carrier's loss is known
		var err error
		links, err = real.Links()
		if slices.ContainsFunc(links, func(l Link) bool { return l.Name == "dead0" && l.Up }) {
			err = errors.New("dead0 is up")
		}
		return err
	})
	for _, l := range links {
		if strings.HasPrefix(l.Name, "p-") {
			continue
		}
		got = append(got, link{
			l.Name, fmt.Sprint(l.Addrs), l.Up, l.Loopback, l.DefaultRoute4, l.DefaultRoute6,
			l.Index == linkNamed(t, l.Name).Attrs().Index, slices.Equal(l.AltNames, []string{"enp1s0"}),
		})
	}
	slices.SortFunc(got, func(a, b link) int { return strings.Compare(a.Name, b.Name) })
	want := []link{
		{Name: "dead0", Addrs: "[]", HasIndex: true},
		{Name: "down0", Addrs: "[]", HasIndex: true},
		{Name: "eth0", Addrs: "[10.0.0.5/24 fd00::5/64]", Up: true, Four: true, Six: true, HasIndex: true},
		{Name: "eth1", Addrs: "[192.0.2.5/31]", Up: true, Four: true, HasIndex: true, HasAlternative: true},
		{Name: "lo", Addrs: "[127.0.0.1/8 ::1/128]", Up: true, Loopback: true, HasIndex: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}

	// A loopback's state is unknown, up or down.
	do(t, netlink.LinkSetDown(linkNamed(t, "lo")))
	links, err := real.Links()
	do(t, err)
	for _, l := range links {
		if l.Name == "lo" && l.Up {
			t.Error("lo is up after it was set down")
		}
	}

	err = n.Put(VIP{Prefix: netip.MustParsePrefix("10.0.0.10/32"), Link: "enp1s0"}, time.Second)
	if !errors.Is(err, ErrNoLink) || !strings.Contains(err.Error(), "another name of eth1") {
		t.Errorf("put on an alternative name: %v", err)
	}
}

func addRoute(t *testing.T, spec string) {
	t.Helper()
	args := strings.Fields(spec)
	if args[0] == "-6" {
		args = append([]string{"-6", "route", "add"}, args[1:]...)
	} else {
		args = append([]string{"route", "add"}, args...)
	}
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func TestIPv6Disabled(t *testing.T) {
	t.Parallel()
	n, _ := realNode(t)
	do(t, os.WriteFile("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", []byte("1"), 0))
	put(t, n, both("eth0")[0], time.Second)
	err := n.Put(both("eth0")[1], time.Second)
	want := "add fd00::10/128 to eth0: IPv6 is disabled on eth0: set sysctl net.ipv6.conf.eth0.disable_ipv6 to 0"
	if err == nil || err.Error() != want {
		t.Errorf("put: %v\nwant: %s", err, want)
	}
}

// TestWatchAgain: a second Watch, after the first has used up the socket made with the Netlink.
func TestWatchAgain(t *testing.T) {
	t.Parallel()
	n, _ := realNode(t)
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Watch(ctx, func() {}) }()
		cancel()
		select {
		case err := <-ended:
			do(t, err)
		case <-time.After(5 * time.Second):
			t.Fatal("watch does not end with its context")
		}
	}
}

// TestWatchOverflow: more was told than the socket holds.
func TestWatchOverflow(t *testing.T) {
	t.Parallel()
	n, real := realNode(t)
	real.events.Close()
	var err error
	real.events, err = real.subscribe()
	do(t, err)
	do(t, real.events.SetReceiveBufferSize(4096, false))
	for range 100 {
		n.addAddress("eth0", "10.0.0.5/24")
		n.delAddress("eth0", "10.0.0.5/24")
	}
	var told atomic.Int64
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- n.Watch(ctx, func() { told.Add(1) }) }()
	quiet(t, &told)
	before := told.Load()
	n.addAddress("eth0", "10.0.0.5/24")
	eventually(t, 3*time.Second, func() error {
		if before == 0 || told.Load() == before {
			return fmt.Errorf("told %d times after the overflow, %d times in all", before, told.Load())
		}
		return nil
	})
	cancel()
	do(t, <-ended)
}

// TestEchoes: the kernel keeps what repeats our own requests to itself, and tells all else.
func TestEchoes(t *testing.T) {
	t.Parallel()
	n, real := realNode(t)
	for {
		messages, _, err := real.events.Receive()
		do(t, err)
		if slices.ContainsFunc(messages, func(m syscall.NetlinkMessage) bool { return isUp(m, "eth0") }) {
			break
		}
	}
	n.addAddress("eth0", "10.0.0.5/24")
	var vips []VIP
	for _, v := range many(20) {
		vips = append(vips, v)
		do(t, real.Put(v, time.Minute))
		do(t, real.Put(v, time.Minute))
	}
	for _, v := range vips[:18] {
		if v.Addr().Is4() {
			removeOurs(t, n, v)
		}
	}
	wide := VIP{Prefix: netip.MustParsePrefix("10.7.9.9/24"), Link: "eth0", Via: "eth0"} // may take others along
	do(t, real.Put(wide, time.Minute))
	removeOurs(t, n, wide)
	n.delAddress("eth0", vips[18].Prefix.String())
	other := openNetlink(t)
	_, err := other.Addresses()
	do(t, err)
	removeOurs(t, node{Kernel: other}, vips[19])
	n.delAddress("eth0", "10.0.0.5/24")

	want := []string{"add 10.0.0.5/24", "delete 10.7.9.9/24", "delete " + vips[18].Prefix.String(), "delete " + vips[19].Prefix.String(), "delete 10.0.0.5/24"}
	var got []string // behind what lo has to tell
	for len(got) == 0 || got[len(got)-1] != want[len(want)-1] {
		messages, _, err := real.events.Receive()
		do(t, err)
		for _, m := range messages {
			verb := map[uint16]string{unix.RTM_NEWADDR: "add ", unix.RTM_DELADDR: "delete "}[m.Header.Type]
			if a, ok := parseAddress(m.Data); ok && verb != "" && !a.Prefix.Addr().IsLoopback() {
				got = append(got, verb+a.Prefix.String())
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

// isUp says that a notification is of that link being up.
func isUp(m syscall.NetlinkMessage, name string) bool {
	if m.Header.Type != unix.RTM_NEWLINK {
		return false
	}
	l, ok := parseLink(m.Data)
	return ok && l.Name == name && l.Up
}

// TestListWhileChanging: the kernel says when a list changed while it was read, and a list that lacks an address
// is not the truth.
func TestListWhileChanging(t *testing.T) {
	t.Parallel()
	n, real := realNode(t)
	vips := many(1000)
	for _, v := range vips {
		put(t, n, v, time.Hour)
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE) // of this namespace, wherever it is used
	do(t, err)
	defer handle.Close()
	eth0 := linkNamed(t, "eth0")
	other, err := netlink.ParseAddr("192.0.2.1/24")
	do(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var churn sync.WaitGroup
	churn.Go(func() {
		for ctx.Err() == nil {
			if err := errors.Join(handle.AddrAdd(eth0, other), handle.AddrDel(eth0, other)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	failed := 0
	for range 100 {
		addrs, err := real.Addresses()
		if err != nil {
			failed++
			continue
		}
		ours := 0
		for _, a := range addrs {
			if a.Ours {
				ours++
			}
		}
		if ours != len(vips) {
			t.Errorf("a list without an error has %d of %d VIPs", ours, len(vips))
		}
	}
	cancel()
	churn.Wait()
	t.Logf("%d of 100 lists failed", failed)
}

// TestNoCapability: what a pod without NET_ADMIN is told.
func TestNoCapability(t *testing.T) {
	t.Parallel()
	n, _ := realNode(t)
	v := both("eth0")[0]
	put(t, n, v, time.Minute)
	a := only(t, n, v)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	do(t, unix.Capset(&header, &none[0])) // of this thread, which ends with the test
	if err, want := n.Put(v, time.Minute), "add 10.0.0.10/32 to eth0: not permitted: the container lacks the capability NET_ADMIN"; err == nil || err.Error() != want {
		t.Errorf("put: %v, want %s", err, want)
	}
	if err, want := n.Remove(a), "remove 10.0.0.10/32 from eth0: not permitted: the container lacks the capability NET_ADMIN"; err == nil || err.Error() != want {
		t.Errorf("remove: %v, want %s", err, want)
	}
}

// TestTableOnNetlink is the whole of this package at work.
func TestTableOnNetlink(t *testing.T) {
	t.Parallel()
	for _, byLabel := range []bool{false, true} {
		t.Run(fmt.Sprintf("by label %t", byLabel), func(t *testing.T) {
			t.Parallel()
			testTableOnNetlink(t, byLabel)
		})
	}
}

func testTableOnNetlink(t *testing.T, byLabel bool) {
	n, real := realNode(t)
	real.marksByLabel = byLabel
	n.addAddress("eth0", "10.0.0.5/24")
	vips := both("eth0")
	stray := VIP{Prefix: netip.MustParsePrefix("10.0.0.66/32"), Link: "eth0"}
	put(t, n, stray, time.Hour) // of an earlier life

	table := NewTable(Options{Kernel: real, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- table.Run(ctx) }()
	held := func() error { return errors.Join(present(n, vips[0]), present(n, vips[1])) }
	gone := func() error { return errors.Join(absent(n, vips[0]), absent(n, vips[1])) }
	soon := func(what string, limit time.Duration, cond func() error) {
		t.Helper()
		began := time.Now()
		eventually(t, limit, cond)
		t.Logf("%s after %s", what, time.Since(began).Round(100*time.Microsecond))
	}

	table.Claim("test", "m", vips)
	table.Grant("m", time.Now().Add(3*time.Second))
	soon("present", time.Second, held)
	soon("stray gone", time.Second, func() error { return absent(n, stray) })

	// Much less than the tick: the kernel's notification was seen.
	for _, v := range vips {
		n.delAddress("eth0", v.Prefix.String())
	}
	soon("repaired", 500*time.Millisecond, held)
	n.delLink("eth0")
	soon("link deleted", time.Second, gone)
	n.addLink("eth0")
	soon("back on the new link", 500*time.Millisecond, held)
	eventually(t, time.Second, func() error {
		if got := table.Holding(); !slices.Equal(got, vips) {
			return fmt.Errorf("holding %v, want %v", got, vips)
		}
		return nil
	})

	// Renewed well beyond the first lifetime, without a moment of absence.
	for range 8 {
		table.Grant("m", time.Now().Add(3*time.Second))
		steadily(t, 500*time.Millisecond, held)
	}
	table.Grant("m", time.Now().Add(300*time.Millisecond))
	soon("mandate over", time.Second, gone)

	table.Grant("m", time.Now().Add(3*time.Second))
	soon("granted again", time.Second, held)
	began := time.Now()
	do(t, table.Revoke("m")(t.Context()))
	t.Logf("revoked after %s", time.Since(began).Round(100*time.Microsecond))
	do(t, gone())

	table.Grant("m", time.Now().Add(3*time.Second))
	soon("granted again", time.Second, held)
	cancel()
	select {
	case err := <-ended:
		do(t, err)
	case <-time.After(2 * time.Second):
		t.Fatal("run did not end")
	}
	do(t, gone())
}

// TestDeadMan: nobody renews, as after kill -9, and the kernel ends it.
func TestDeadMan(t *testing.T) {
	t.Parallel()
	n, real := realNode(t)
	table := NewTable(Options{Kernel: real})
	until := time.Now().Add(1200 * time.Millisecond)
	table.Claim("test", "m", both("eth0"))
	table.Grant("m", until)
	if err := table.pass(); err != nil { // once, and never again
		t.Fatal(err)
	}
	do(t, errors.Join(present(n, both("eth0")[0]), present(n, both("eth0")[1])))
	steadily(t, time.Until(until), func() error {
		return errors.Join(present(n, both("eth0")[0]), present(n, both("eth0")[1]))
	})
	eventually(t, time.Second+n.late, func() error {
		return errors.Join(absent(n, both("eth0")[0]), absent(n, both("eth0")[1]))
	})
	t.Logf("gone %s after the mandate", time.Since(until).Round(time.Millisecond))
}

// TestPointToPoint: the address that counts is this end's.
func TestPointToPoint(t *testing.T) {
	t.Parallel()
	n, _ := realNode(t)
	for _, spec := range []string{"10.0.0.5 peer 10.0.0.6/32", "fd00::5 peer fd00::6/128"} {
		if out, err := exec.Command("ip", append([]string{"address", "add", "dev", "eth0"}, strings.Fields(spec)...)...).CombinedOutput(); err != nil {
			t.Fatalf("ip: %v: %s", err, out)
		}
	}
	var got []string
	for _, a := range list(t, n) {
		if a.Link == "eth0" {
			got = append(got, a.Prefix.String())
		}
	}
	if diff := cmp.Diff([]string{"10.0.0.5/32", "fd00::5/128"}, got); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestRetry(t *testing.T) {
	other := errors.New("other")
	for _, c := range []struct {
		answers []error
		want    error
		asked   int
	}{
		{[]error{nil}, nil, 1},
		{[]error{other}, other, 1},
		{[]error{nl.ErrDumpInterrupted, nl.ErrDumpInterrupted, nil}, nil, 3},
		{[]error{nl.ErrDumpInterrupted, other}, other, 2},
		{slices.Repeat([]error{nl.ErrDumpInterrupted}, 100), nl.ErrDumpInterrupted, dumpTries},
	} {
		asked := 0
		err := retry(func() error { asked++; return c.answers[asked-1] })
		if !errors.Is(err, c.want) || asked != c.asked {
			t.Errorf("%v: %v after %d times, want %v after %d", c.answers, err, asked, c.want, c.asked)
		}
	}
}

func TestHasAddressProtocol(t *testing.T) {
	for release, want := range map[string]bool{
		"6.18.44-fc-v669": true, "6.1.0-13-amd64": true, "5.18.0": true, "5.18": true, "5.18-rc1": true, "10.0.1": true,
		"5.17.9": false, "5.15.0-91-generic": false, "4.18.0-513.el8.x86_64": false, "3.10": false,
		"": true, "unknown": true,
	} {
		if got := hasAddressProtocol(release); got != want {
			t.Errorf("%q: %t, want %t", release, got, want)
		}
	}
}

func TestLifetimeSeconds(t *testing.T) {
	for in, want := range map[time.Duration]uint32{
		-1: 1, -time.Hour: 1, 0: 1, 1: 1, time.Second: 1, time.Second + 1: 2, 5 * time.Second: 5,
		1<<63 - 1: 0xfffffffe,
	} {
		if got := lifetimeSeconds(in); got != want {
			t.Errorf("%s: %d s, want %d s", in, got, want)
		}
	}
}

// FuzzParse: whatever comes, parsing ends, and what it accepts is consistent.
func FuzzParse(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{2, 32, 0x80, 0, 2, 0, 0, 0, 8, 0, 2, 0, 10, 0, 0, 10, 5, 0, 11, 0, 248, 0, 0, 0, 8, 0, 8, 0, 0, 2, 0, 0,
		20, 0, 6, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{10, 129, 0, 0, 1, 0, 0, 0, 20, 0, 1, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10})
	f.Add([]byte{0, 0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 3, 0, 'e', 't', 'h', '0', 0, 0, 0, 0, 5, 0, 16, 0, 6, 0, 0, 0,
		12, 0, 0x34, 0x80, 8, 0, 0x35, 0, 'a', 'b', 'c', 0})
	f.Add([]byte{0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, ok := parseAddress(b); ok && (!a.Prefix.IsValid() || a.index <= 0 || a.Valid < 0 && a.Valid != Forever) {
			t.Errorf("address %+v", a)
		}
		if l, ok := parseLink(b); ok && (l.Index <= 0 || l.Name == "") {
			t.Errorf("link %+v", l)
		}
	})
}
