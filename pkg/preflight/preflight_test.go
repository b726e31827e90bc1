package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kube-vip.io/kube-vip/pkg/vip"
)

// machine is a Host as a test has it.
type machine struct {
	links     []vip.Link
	deaf      error
	wire      map[string]string // who answers for an address
	sysctls   map[string]string
	listeners []string
	processes []string
	manifests map[string][]string
	barred    error
	lacks     []string
}

func (m machine) Links() ([]vip.Link, error) { return m.links, m.deaf }

func (m machine) Probe(_ context.Context, _ string, addr netip.Addr) (net.HardwareAddr, error) {
	switch who := m.wire[addr.String()]; who {
	case "":
		return nil, nil
	case "?":
		return nil, errors.New("the capability NET_RAW is needed")
	default:
		return net.ParseMAC(who)
	}
}

func (m machine) Sysctl(name string) (string, error) {
	value, is := m.sysctls[name]
	if !is {
		return "", fs.ErrNotExist
	}
	return value, nil
}

func (m machine) Listeners() (list []netip.AddrPort, err error) {
	for _, l := range m.listeners {
		list = append(list, netip.MustParseAddrPort(l))
	}
	return list, nil
}

func (m machine) Processes() ([]string, error)                  { return m.processes, nil }
func (m machine) Manifests(string) (map[string][]string, error) { return m.manifests, nil }
func (m machine) Writable(string) error                         { return m.barred }
func (m machine) Lacks() ([]string, error)                      { return m.lacks, nil }

// eth0 has the nodes' network.
func eth0() []vip.Link {
	return []vip.Link{
		{Index: 1, Name: "lo", Up: true, Loopback: true, Addrs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}},
		{Index: 2, Name: "eth0", Up: true, DefaultRoute4: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.11/24"), netip.MustParsePrefix("fd00::11/64")}},
	}
}

func TestRun(t *testing.T) {
	addrs := func(list ...string) (out []netip.Addr) {
		for _, a := range list {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	const mac = "02:00:00:00:00:09"
	for name, c := range map[string]struct {
		plan Plan
		host machine
		want []string // what is not ok: level, check and what the text has
	}{
		"all is well":           {plan: Plan{Addresses: addrs("10.0.0.10", "fd00::10"), Port: 6443, Manifest: "/m/kube-vip.yaml"}},
		"a stranger":            {plan: Plan{Addresses: addrs("10.0.0.10")}, host: machine{wire: map[string]string{"10.0.0.10": mac}}, want: []string{"error address hardware address " + mac}},
		"a stranger, in IPv6":   {plan: Plan{Addresses: addrs("fd00::10")}, host: machine{wire: map[string]string{"fd00::10": mac}}, want: []string{"error address fd00::10 is answered for on eth0 by a host with the hardware address " + mac}},
		"joining":               {plan: Plan{Addresses: addrs("10.0.0.10"), Join: true}, host: machine{wire: map[string]string{"10.0.0.10": mac}}},
		"joining nobody":        {plan: Plan{Addresses: addrs("10.0.0.10"), Join: true}, want: []string{"warning address nobody answers for 10.0.0.10"}},
		"not to be asked":       {plan: Plan{Addresses: addrs("10.0.0.10")}, host: machine{wire: map[string]string{"10.0.0.10": "?"}}, want: []string{"skipped address NET_RAW"}},
		"in no network":         {plan: Plan{Addresses: addrs("10.9.0.10")}, want: []string{"error interface 10.9.0.10 is in the network of no interface (eth0 10.0.0.0/24, eth0 fd00::/64)"}},
		"in no network, by BGP": {plan: Plan{Addresses: addrs("10.9.0.10"), Routed: true, Placement: vip.Placement{Interface: "lo", Routed: true}}},
		"this node's own":       {plan: Plan{Addresses: addrs("10.0.0.11")}, want: []string{"error interface 10.0.0.11 is this node's own address on eth0"}},
		"no such interface":     {plan: Plan{Addresses: addrs("10.0.0.10"), Placement: vip.Placement{Interface: "eth7"}}, want: []string{`error interface vip_interface: this node has no interface "eth7"`}},
		"no interfaces":         {plan: Plan{Addresses: addrs("10.0.0.10")}, host: machine{deaf: errors.New("no netlink")}, want: []string{"skipped interface no netlink"}},
		"ARP is ignored": {plan: Plan{Addresses: addrs("10.0.0.10")}, host: machine{sysctls: map[string]string{"net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/eth0/arp_ignore": "2"}},
			want: []string{"error sysctl net.ipv4.conf.eth0.arp_ignore is 2: the kernel would not answer ARP for 10.0.0.10"}},
		"nothing is passed on": {plan: Plan{Services: true}, host: machine{sysctls: map[string]string{"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "1"}}, want: []string{"warning sysctl net.ipv4.ip_forward is 0"}},
		"an API server":        {plan: Plan{Port: 6443}, host: machine{listeners: []string{"[::]:6443"}}, want: []string{"warning port somebody listens on [::]:6443 already"}},
		"a port of ours": {plan: Plan{Ports: map[string]netip.AddrPort{"--prometheusHTTPServer": netip.MustParseAddrPort("127.0.0.1:2112"), "--healthCheckPort": netip.MustParseAddrPort("127.0.0.1:29112")}},
			host: machine{listeners: []string{"127.0.0.2:29112", "0.0.0.0:2112"}}, want: []string{"error port --prometheusHTTPServer is 127.0.0.1:2112, and somebody listens on 0.0.0.0:2112 already"}},
		"no directory": {plan: Plan{Manifest: "/m/kube-vip.yaml"}, host: machine{barred: errors.New("it is not there")}, want: []string{"error manifest no file can be made in /m: it is not there"}},
		"another kube-vip": {plan: Plan{Manifest: "/m/kube-vip.yaml"}, host: machine{manifests: map[string][]string{"kube-vip.yaml": {"kube-vip:1"}, "vip.yaml": {"ghcr.io/kube-vip/kube-vip:v1"}, "etcd.yaml": {"etcd"}}},
			want: []string{"error others /m/vip.yaml runs kube-vip (ghcr.io/kube-vip/kube-vip:v1)"}},
		"keepalived": {host: machine{processes: []string{"init", "keepalived"}}, want: []string{"warning others keepalived runs here"}},
		"no rights":  {host: machine{lacks: []string{"NET_RAW"}}, want: []string{"skipped capabilities this process lacks NET_RAW"}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.host.links = eth0(); c.host.deaf != nil {
				c.host.links = nil
			}
			found := Run(t.Context(), c.plan, c.host)
			var got []string
			for _, f := range found {
				if f.Level != OK {
					got = append(got, fmt.Sprint(f.Level, " ", f.Check, " ", f.Text))
				}
				if (f.Level == Error || f.Level == Warning) != (f.Fix != "") && f.Level != Skipped {
					t.Errorf("%+v has a fix that it does not need, or none", f)
				}
			}
			match := len(got) == len(c.want)
			for i := 0; match && i < len(got); i++ {
				words := strings.SplitN(c.want[i], " ", 3)
				match = strings.HasPrefix(got[i], words[0]+" "+words[1]+" ") && strings.Contains(got[i], words[2])
			}
			if !match {
				t.Errorf("(-want +got):\n%s", cmp.Diff(c.want, got))
			}
			worst := OK
			for _, w := range c.want {
				if l := Level(strings.Fields(w)[0]); l == Error || l == Warning && worst != Error {
					worst = l
				}
			}
			if got := Worst(found); got != worst {
				t.Errorf("the worst is %q, want %q", got, worst)
			}
		})
	}
}
