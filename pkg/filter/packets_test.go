package filter

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kube-vip.io/kube-vip/test/netns"
)

// network is a node and a host beside it, on one Ethernet.
type network struct {
	node realNode
	host *namespace
}

// link is what the Ethernet's interface is called on both.
const link = "eth0"

// ipFamily has the addresses of one family.
type ipFamily struct {
	name       string
	node, host netip.Addr
	vip, open  netip.Addr // guarded and not
	prefix     int
}

var ipFamilies = []ipFamily{
	{
		name: "ipv4", prefix: 24,
		node: netip.MustParseAddr("10.0.0.1"), host: netip.MustParseAddr("10.0.0.2"),
		vip: netip.MustParseAddr("10.0.0.10"), open: netip.MustParseAddr("10.0.0.11"),
	},
	{
		name: "ipv6", prefix: 64,
		node: netip.MustParseAddr("fd00::1"), host: netip.MustParseAddr("fd00::2"),
		vip: netip.MustParseAddr("fd00::10"), open: netip.MustParseAddr("fd00::11"),
	},
}

// newNetwork has on the node, at each of its addresses, something that answers on these ports.
func newNetwork(t testing.TB, ports ...Port) network {
	t.Helper()
	n := network{newReal(t), newNamespace(t)}
	netns.Join(t, n.node.Namespace, n.host.Namespace, link)
	for _, f := range ipFamilies {
		n.node.AddAddr(t, link, fmt.Sprintf("%s/%d", f.node, f.prefix))
		n.host.AddAddr(t, link, fmt.Sprintf("%s/%d", f.host, f.prefix))
		for _, vip := range []netip.Addr{f.vip, f.open} {
			n.node.AddAddr(t, link, netip.PrefixFrom(vip, vip.BitLen()).String())
		}
		for _, addr := range []netip.Addr{f.node, f.vip, f.open} {
			for _, p := range ports {
				n.node.listen(t, p.Protocol.String(), netip.AddrPortFrom(addr, p.Number))
			}
		}
	}
	return n
}

// filtered starts a Filter on the node.
func (n network) filtered(t testing.TB, rules []Rule) (f *Filter, stop func() error) {
	t.Helper()
	f = New(Options{})
	stop = n.node.start(t, f)
	set(t, f, rules)
	wait(t, f)
	return f, stop
}

// want fails if something is reached that is not to be, or is not and is to be.
func want(t testing.TB, what string, want, got bool) {
	t.Helper()
	if want != got {
		t.Errorf("%s: reached is %t, want %t", what, got, want)
	}
}

var nobody netip.Addr

// TestPackets sends packets of every kind to a guarded address, and to others.
func TestPackets(t *testing.T) {
	for _, f := range ipFamilies {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t, Port{TCP, 80}, Port{TCP, 81}, Port{UDP, 53}, Port{UDP, 54}, Port{TCP, 53})
			n.host.listen(t, "tcp", netip.AddrPortFrom(f.host, 8080))
			n.host.listen(t, "udp", netip.AddrPortFrom(f.host, 8080))
			to := netip.AddrPortFrom

			// all says what everything that is sent is to come to: open is what nobody guards.
			all := func(when string, guarded bool) {
				t.Helper()
				for _, c := range []struct {
					what, network string
					from          *namespace
					source        netip.Addr
					to            netip.AddrPort
					size          int
					want          bool
				}{
					{"a declared port by TCP", "tcp", n.host, nobody, to(f.vip, 80), 1, true},
					{"a declared port by UDP", "udp", n.host, nobody, to(f.vip, 53), 1, true},
					{"a declared port by UDP in fragments", "udp", n.host, nobody, to(f.vip, 53), 4000, true},
					{"another port by TCP", "tcp", n.host, nobody, to(f.vip, 81), 1, !guarded},
					{"another port by UDP", "udp", n.host, nobody, to(f.vip, 54), 1, !guarded},
					{"another port by UDP in fragments", "udp", n.host, nobody, to(f.vip, 54), 4000, !guarded},
					{"a port that is declared for UDP by TCP", "tcp", n.host, nobody, to(f.vip, 53), 1, !guarded},
					{"another port of the node's own address", "tcp", n.host, nobody, to(f.node, 81), 1, true},
					{"another port of a VIP that nobody guards", "tcp", n.host, nobody, to(f.open, 81), 1, true},
					{"another port from the node itself", "tcp", n.node.namespace, nobody, to(f.vip, 81), 1, true},
					{"a connection out by TCP", "tcp", n.node.namespace, f.vip, to(f.host, 8080), 1, true},
					{"a connection out by UDP", "udp", n.node.namespace, f.vip, to(f.host, 8080), 4000, true},
				} {
					want(t, when+": "+c.what, c.want, c.from.reach(t, c.network, c.source, c.to, c.size))
				}
				want(t, when+": ping", true, n.host.ping(t, f.vip))
				if f.vip.Is6() {
					want(t, when+": neighbour solicitation", true, n.host.solicit(t, link, f.host, f.vip))
				}
				want(t, when+": an ICMP error", true, n.hears(t, f))
			}

			all("without a filter", false)
			_, stop := n.filtered(t, []Rule{{f.vip, []Port{{TCP, 80}, {UDP, 53}}}})
			all("with it", true)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			all("after the stop", false)
		})
	}
}

// hears says whether an ICMP error comes to the VIP: "port unreachable", for what was sent from it.
func (n network) hears(t testing.TB, f ipFamily) bool {
	t.Helper()
	c, err := n.node.dial("udp", f.vip, netip.AddrPortFrom(f.host, 9999))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return errors.Is(echo(c, 1), unix.ECONNREFUSED)
}

// TestBeforeTheNAT has the VIP's packets sent on to a backend as kube-proxy does it.
func TestBeforeTheNAT(t *testing.T) {
	for _, f := range ipFamilies {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t, Port{TCP, 8080})
			// A pod is another host, behind another link of the node.
			pod := newNamespace(t)
			netns.Join(t, n.node.Namespace, pod.Namespace, "pod0")
			podNode, podAddr := netip.MustParseAddr("10.244.0.1"), netip.MustParseAddr("10.244.0.2")
			nfproto := "ip"
			if f.vip.Is6() {
				podNode, podAddr, nfproto = netip.MustParseAddr("fd01::1"), netip.MustParseAddr("fd01::2"), "ip6"
			}
			n.node.AddAddr(t, "pod0", fmt.Sprintf("%s/%d", podNode, f.prefix))
			pod.AddAddr(t, "pod0", fmt.Sprintf("%s/%d", podAddr, f.prefix))
			pod.Route(t, map[bool]string{true: "0.0.0.0/0", false: "::/0"}[podNode.Is4()], podNode)
			n.host.listen(t, "tcp", netip.AddrPortFrom(f.host, 8080))
			for _, family := range []string{"ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"} {
				n.node.Sysctl(t, family, "1")
			}
			// Port 80 goes to the node's own server, 443 to the host's, 81 is not declared.
			n.node.nft(t, fmt.Sprintf(`table %[1]s proxy {
				chain pre { type nat hook prerouting priority dstnat;
					%[1]s daddr %[2]s tcp dport { 80, 81 } dnat to %[3]s
					%[1]s daddr %[2]s tcp dport 443 dnat to %[4]s
				}
				chain post { type nat hook postrouting priority srcnat;
					ct status dnat masquerade
				}
			}`, nfproto, f.vip, netip.AddrPortFrom(f.node, 8080), netip.AddrPortFrom(f.host, 8080)))
			_, _ = n.filtered(t, []Rule{{f.vip, []Port{{TCP, 80}, {TCP, 443}}}})
			for _, from := range []struct {
				name string
				*namespace
			}{{"a host", n.host}, {"a pod of this node", pod}} {
				for port, open := range map[uint16]bool{80: true, 443: true, 81: false, 8080: false} {
					got := from.reach(t, "tcp", nobody, netip.AddrPortFrom(f.vip, port), 1)
					want(t, fmt.Sprintf("port %d from %s", port, from.name), open, got)
				}
			}
		})
	}
}

// TestClosing: a connection to a port that is not declared any more, or was not when the filter came, is cut, and
// others go on.
func TestClosing(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, Port{TCP, 80}, Port{TCP, 81}, Port{TCP, 82})
	f4 := ipFamilies[0]
	connect := func(port uint16) net.Conn {
		t.Helper()
		c, err := n.host.dial("tcp", nobody, netip.AddrPortFrom(f4.vip, port))
		if err == nil {
			err = echo(c, 1)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	// Somebody else has conntrack work already, as kube-proxy does.
	f, _ := n.filtered(t, []Rule{open(f4.open.String(), "80/tcp")})
	early := connect(81)
	stays, closing := connect(80), connect(82)
	set(t, f, []Rule{open(f4.vip.String(), "80/tcp", "82/tcp")})
	wait(t, f)
	want(t, "a connection from before to an undeclared port", false, echo(early, 1) == nil)
	want(t, "a connection from before to a declared port", true, echo(stays, 1) == nil)
	want(t, "a connection from before to another declared port", true, echo(closing, 1) == nil)
	set(t, f, []Rule{open(f4.vip.String(), "80/tcp")})
	wait(t, f)
	want(t, "a connection to a port that stays", true, echo(stays, 1) == nil)
	want(t, "a connection to a port that was closed", false, echo(closing, 1) == nil)
}

// TestReplacementUnderTraffic replaces the whole table, and parts of it, while connections to a declared port
// come and go, one stays, and somebody tries another port all the time.
func TestReplacementUnderTraffic(t *testing.T) {
	for _, f := range ipFamilies {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t, Port{TCP, 80})
			guard := []Rule{{f.vip, []Port{{TCP, 80}}}}
			filter, _ := n.filtered(t, guard)

			var stop atomic.Bool
			var rounds, dialled, leaked atomic.Int64
			failures := make(chan string, 100)
			var traffic sync.WaitGroup
			defer func() {
				stop.Store(true)
				traffic.Wait()
			}()
			work := func(one func() error) {
				started := make(chan struct{})
				traffic.Go(func() {
					for first := true; !stop.Load(); first = false {
						if err := one(); err != nil {
							select {
							case failures <- err.Error():
							default:
							}
						}
						if first {
							close(started)
						}
					}
				})
				<-started
			}

			// What arrives for the port, and what of that gets past the filter: a machine that is busy loses answers, too.
			n.node.nft(t, `table inet count {
				counter before {
				}
				counter after {
				}
				chain first {
					type filter hook prerouting priority -151; policy accept;
					tcp dport 80 counter name "before"
				}
				chain last {
					type filter hook prerouting priority -149; policy accept;
					tcp dport 80 counter name "after"
				}
			}`)

			established, err := n.host.dial("tcp", nobody, netip.AddrPortFrom(f.vip, 80))
			if err != nil {
				t.Fatal(err)
			}
			defer established.Close()
			work(func() error {
				rounds.Add(1)
				time.Sleep(100 * time.Microsecond)
				return echo(established, 100)
			})
			// The second address is guarded now and then, and declares the same port when it is.
			for _, vip := range []netip.Addr{f.vip, f.open} {
				work(func() error {
					c, err := n.host.dial("tcp", nobody, netip.AddrPortFrom(vip, 80))
					if err != nil {
						return err
					}
					defer c.Close()
					dialled.Add(1)
					return echo(c, 1)
				})
			}

			// What is sent to the closed port is never to be heard.
			var ear net.PacketConn
			n.node.Must(t, func() (err error) {
				ear, err = net.ListenPacket("udp", netip.AddrPortFrom(f.vip, 54).String())
				return err
			})
			defer ear.Close()
			go func() {
				for b := make([]byte, 100); ; {
					if _, _, err := ear.ReadFrom(b); err != nil {
						return
					}
					leaked.Add(1)
				}
			}()
			knock, err := n.host.dial("udp", nobody, netip.AddrPortFrom(f.vip, 54))
			if err != nil {
				t.Fatal(err)
			}
			defer knock.Close()
			work(func() error {
				time.Sleep(50 * time.Microsecond)
				_, err := knock.Write([]byte("x"))
				return err
			})

			background := many(200)
			// As often as it takes on a machine that does something else, too, for enough traffic to see something.
			enough := func() bool { return rounds.Load() >= 100 && dialled.Load() >= 50 }
			for round := 0; round < 50 || round < 5000 && !enough(); round++ {
				i := round % 100
				// The whole table in one transaction, as a repair and a start with a leftover do it.
				g, _ := merge(append(guard, background[:i]...))
				if err := n.node.apply(plan(nil, g, true)); err != nil {
					t.Fatal(err)
				}
				// And elements: addresses come and go, and so do ports of ours.
				more := append([]Rule{{f.vip, []Port{{TCP, 80}, {TCP, uint16(1000 + i)}}}}, background[i:100+i]...)
				set(t, filter, more)
				wait(t, filter)
				for range 3 {
					set(t, filter, append(more, Rule{f.open, []Port{{TCP, 80}}}))
					wait(t, filter)
					set(t, filter, more)
					wait(t, filter)
				}
			}
			stop.Store(true)
			traffic.Wait()
			close(failures)
			time.Sleep(100 * time.Millisecond) // for the last packets of what was closed
			arrived, passed := n.node.counted(t, "before"), n.node.counted(t, "after")
			if arrived == 0 || passed != arrived {
				t.Errorf("%d packets to the declared port arrived, and %d passed", arrived, passed)
			}
			for failure := range failures {
				t.Logf("traffic to the declared port: %s", failure)
			}
			if leaked.Load() > 0 {
				t.Errorf("%d packets to a closed port passed", leaked.Load())
			}
			if !enough() {
				t.Errorf("%d echoes and %d new connections were too few to see anything", rounds.Load(), dialled.Load())
			}
			t.Logf("%d echoes, %d new connections", rounds.Load(), dialled.Load())
		})
	}
}

// TestTakingOver: a table that was left filters until the next life's takes its place, without a gap.
func TestTakingOver(t *testing.T) {
	t.Parallel()
	f := ipFamilies[0]
	n := newNetwork(t, Port{TCP, 80}, Port{TCP, 81})
	left, _ := merge([]Rule{{f.vip, []Port{{TCP, 81}}}})
	if err := n.node.apply(plan(nil, left, false)); err != nil {
		t.Fatal(err)
	}
	want(t, "80 by the table that was left", false, n.host.reach(t, "tcp", nobody, netip.AddrPortFrom(f.vip, 80), 1))
	n.filtered(t, []Rule{{f.vip, []Port{{TCP, 80}}}})
	want(t, "80", true, n.host.reach(t, "tcp", nobody, netip.AddrPortFrom(f.vip, 80), 1))
	want(t, "81", false, n.host.reach(t, "tcp", nobody, netip.AddrPortFrom(f.vip, 81), 1))
}
