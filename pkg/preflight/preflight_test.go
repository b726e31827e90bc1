package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
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
	listeners []string // "address process"
	held      []string
	processes []string
	manifests map[string]Manifest
	unread    error
	barred    error
	files     []string
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

func (m machine) Held() (list []netip.Addr, err error) {
	for _, a := range m.held {
		list = append(list, netip.MustParseAddr(a))
	}
	return list, nil
}

func (m machine) Listeners() (list []Listener, err error) {
	for _, l := range m.listeners {
		at, by, _ := strings.Cut(l, " ")
		list = append(list, Listener{netip.MustParseAddrPort(at), by})
	}
	return list, nil
}

func (m machine) Processes() ([]string, error)                  { return m.processes, nil }
func (m machine) Manifests(string) (map[string]Manifest, error) { return m.manifests, m.unread }

func (m machine) File(path string) error {
	if !slices.Contains(m.files, path) {
		return errors.New("it is not there")
	}
	return nil
}

func (m machine) Writable(string) error    { return m.barred }
func (m machine) Lacks() ([]string, error) { return m.lacks, nil }

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
	ours := map[string]netip.AddrPort{"--prometheusHTTPServer": netip.MustParseAddrPort("127.0.0.1:2112"), "--healthCheckPort": netip.MustParseAddrPort("127.0.0.1:29112")}
	ipvs := []vip.Link{{Index: 3, Name: "kube-ipvs0", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.20/32")}}}
	ignore := func(all, eth0 string) map[string]string {
		return map[string]string{"net/ipv4/conf/all/arp_ignore": all, "net/ipv4/conf/eth0/arp_ignore": eth0}
	}
	file := func(addresses ...string) map[string]Manifest {
		return map[string]Manifest{"kube-vip.yaml": {Images: []string{"kube-vip:1"}, Addresses: addresses}}
	}
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
		"nothing is passed on":          {plan: Plan{Services: true}, host: machine{sysctls: map[string]string{"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "1"}}, want: []string{"warning sysctl net.ipv4.ip_forward is 0"}},
		"a foreign program on its port": {plan: Plan{Port: 6443}, host: machine{listeners: []string{"0.0.0.0:6443 haproxy"}}, want: []string{"error port haproxy listens on 0.0.0.0:6443 already, where the API server is to listen"}},
		"an API server that is known":   {plan: Plan{Port: 6443}, host: machine{listeners: []string{"[::]:6443 kube-apiserver"}}, want: []string{"warning port kube-apiserver listens on [::]:6443 already"}},
		"an API server":                 {plan: Plan{Port: 6443}, host: machine{listeners: []string{"[::]:6443"}}, want: []string{"warning port somebody listens on [::]:6443 already"}},
		"a port of ours": {plan: Plan{Ports: ours},
			host: machine{listeners: []string{"127.0.0.2:29112", "0.0.0.0:2112"}}, want: []string{"error port --prometheusHTTPServer is 127.0.0.1:2112, and somebody listens on 0.0.0.0:2112 already"}},
		"no directory":      {plan: Plan{Manifest: "/m/kube-vip.yaml"}, host: machine{barred: errors.New("it is not there")}, want: []string{"error manifest no file can be made in /m: it is not there"}},
		"a file is missing": {plan: Plan{Manifest: "/m/kube-vip.yaml", Files: map[string]string{"--a": "/a", "--b": "/b"}}, host: machine{files: []string{"/a"}}, want: []string{"warning manifest --b is /b: it is not there, and the kubelet does not start"}},
		"another kube-vip": {plan: Plan{Manifest: "/m/kube-vip.yaml"}, host: machine{processes: []string{"kube-vip"}, manifests: map[string]Manifest{"vip.yaml": {Images: []string{"ghcr.io/kube-vip/kube-vip:v1"}}, "etcd.yaml": {Images: []string{"etcd"}}}},
			want: []string{"error others /m/vip.yaml runs kube-vip (ghcr.io/kube-vip/kube-vip:v1)"}},
		"again, here is the address": {plan: Plan{Addresses: addrs("10.0.0.10"), Join: true, Port: 6443, Ports: ours},
			host: machine{processes: []string{"kube-vip"}, held: []string{"10.0.0.10"}, listeners: []string{"[::]:6443 kube-apiserver", "127.0.0.1:2112 kube-vip", "127.0.0.1:29112 kube-vip"}}},
		"here, and nothing runs": {plan: Plan{Addresses: addrs("10.0.0.10"), Join: true}, host: machine{held: []string{"10.0.0.10"}}},
		"again, here and elsewhere": {plan: Plan{Addresses: addrs("10.0.0.10")}, host: machine{processes: []string{"kube-vip"}, held: []string{"10.0.0.10"}, wire: map[string]string{"10.0.0.10": mac}},
			want: []string{"warning address 10.0.0.10 is on this machine, by kube-vip, and a host with the hardware address " + mac + " answers for it on eth0, too"}},
		"again, elsewhere": {plan: Plan{Addresses: addrs("10.0.0.10"), Manifest: "/m/kube-vip.yaml"}, host: machine{processes: []string{"kube-vip"}, manifests: file("fd00::10", "10.0.0.10"), wire: map[string]string{"10.0.0.10": mac}},
			want: []string{"warning address 10.0.0.10 is answered for on eth0 by a host with the hardware address " + mac + ": kube-vip runs here already, so this may be"}},
		"again, elsewhere, from no file":     {plan: Plan{Addresses: addrs("10.0.0.10")}, host: machine{processes: []string{"kube-vip"}, wire: map[string]string{"10.0.0.10": mac}}, want: []string{"warning address hardware address " + mac}},
		"again, elsewhere, and told by file": {plan: Plan{Addresses: addrs("10.0.0.10"), Manifest: "/m/kube-vip.yaml"}, host: machine{processes: []string{"kube-vip"}, manifests: file(), wire: map[string]string{"10.0.0.10": mac}}, want: []string{"warning address hardware address " + mac}},
		"again, and the new address is a stranger's": {plan: Plan{Addresses: addrs("10.0.0.10"), Manifest: "/m/kube-vip.yaml"}, host: machine{processes: []string{"kube-vip"}, manifests: file("10.0.0.9", "k8s.example.com"), wire: map[string]string{"10.0.0.10": mac}},
			want: []string{"error address hardware address " + mac + ", and the kube-vip that runs here has 10.0.0.9, k8s.example.com instead"}},
		"the file is there, and nothing runs": {plan: Plan{Addresses: addrs("10.0.0.10"), Manifest: "/m/kube-vip.yaml"}, host: machine{manifests: file("10.0.0.10"), wire: map[string]string{"10.0.0.10": mac}}, want: []string{"error address hardware address " + mac}},
		"a DaemonSet's": {plan: Plan{Addresses: addrs("10.0.0.10"), Ports: ours, Manifest: "/m/kube-vip.yaml"}, host: machine{processes: []string{"kube-vip"}, wire: map[string]string{"10.0.0.10": mac}, listeners: []string{"127.0.0.1:2112 kube-vip"}},
			want: []string{"error address hardware address " + mac, "error port --prometheusHTTPServer is 127.0.0.1:2112, and kube-vip listens", "error others kube-vip runs here, and not from /m/kube-vip.yaml"}},
		"again, and the file cannot be read": {plan: Plan{Manifest: "/m/kube-vip.yaml"}, host: machine{processes: []string{"kube-vip"}, unread: fs.ErrPermission}, want: []string{"skipped others the manifests could not be read"}},
		"no manifests yet":                   {plan: Plan{Manifest: "/m/kube-vip.yaml"}, host: machine{unread: fs.ErrNotExist}},
		"again, nowhere":                     {plan: Plan{Addresses: addrs("10.0.0.10"), Join: true}, host: machine{processes: []string{"kube-vip"}}},
		"again, with ports of others": {plan: Plan{Port: 6443, Ports: ours}, host: machine{processes: []string{"kube-vip"}, listeners: []string{"[::]:6443 nginx", "127.0.0.1:2112 prometheus", "127.0.0.1:29112"}},
			want: []string{"error port nginx listens on [::]:6443 already", "skipped port --healthCheckPort is 127.0.0.1:29112, and it is not known", "error port --prometheusHTTPServer is 127.0.0.1:2112, and prometheus listens"}},
		"IPVS is planned":                         {plan: Plan{Services: true, Proxy: Proxy{IPVS: true}}, want: []string{"error kube-proxy KubeProxyConfiguration says mode: ipvs without ipvs.strictARP"}},
		"IPVS is planned, and is strict":          {plan: Plan{Services: true, Proxy: Proxy{IPVS: true, StrictARP: true}}},
		"IPVS is planned, and no Services":        {plan: Plan{Addresses: addrs("10.0.0.10"), Proxy: Proxy{IPVS: true}}},
		"IPVS is planned, and Services are IPv6":  {plan: Plan{Addresses: addrs("fd00::10"), Services: true, Proxy: Proxy{IPVS: true}}},
		"IPVS is planned, and routers are told":   {plan: Plan{Services: true, Routed: true, Proxy: Proxy{IPVS: true}}},
		"IPVS is planned, beside the loopback":    {plan: Plan{Addresses: addrs("10.0.0.10"), Placement: vip.Placement{Interface: "lo"}, Proxy: Proxy{IPVS: true, StrictARP: true}}, want: []string{"error kube-proxy KubeProxyConfiguration says mode: ipvs with ipvs.strictARP"}},
		"IPVS is here":                            {plan: Plan{Services: true}, host: machine{links: ipvs, sysctls: ignore("0", "0")}, want: []string{"error kube-proxy kube-proxy is in IPVS mode here (there is kube-ipvs0), and net.ipv4.conf.all.arp_ignore is 0: this node would answer ARP on eth0"}},
		"IPVS is here, and is strict":             {plan: Plan{Services: true}, host: machine{links: ipvs, sysctls: ignore("1", "0")}},
		"IPVS is here, and is strict on its link": {plan: Plan{Services: true}, host: machine{links: ipvs, sysctls: ignore("0", "1")}},
		"IPVS is here, and no Services":           {plan: Plan{Addresses: addrs("10.0.0.10")}, host: machine{links: ipvs, sysctls: ignore("0", "0")}},
		"the loopback is not answered for":        {plan: Plan{Addresses: addrs("10.0.0.10"), Placement: vip.Placement{Interface: "lo"}}, host: machine{sysctls: ignore("1", "0")}, want: []string{"error sysctl net.ipv4.conf.all.arp_ignore is 1: the kernel would not answer ARP for 10.0.0.10, which is to be on a loopback"}},
		"the loopback is, of global scope":        {plan: Plan{Addresses: addrs("10.0.0.10"), Placement: vip.Placement{Interface: "lo", Global: true}}, host: machine{sysctls: ignore("0", "3")}},
		"keepalived":                              {host: machine{processes: []string{"init", "keepalived"}}, want: []string{"warning others keepalived runs here"}},
		"no rights":                               {host: machine{lacks: []string{"NET_RAW"}}, want: []string{"skipped capabilities this process lacks NET_RAW"}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.host.links = append(eth0(), c.host.links...); c.host.deaf != nil {
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

func TestIgnored(t *testing.T) {
	found := []Finding{{"address", Error, "a", "f"}, {"port", Error, "p", "f"}, {"others", OK, "o", ""}}
	for name, want := range map[string]string{
		"":             "error error ok",
		"Address":      "warning error ok",
		"address,PORT": "warning warning ok",
		"all":          "warning warning ok",
		"capabilities": "error error ok",
		"swap,Nothing": `"swap" is not a check: want interface, address, sysctl, kube-proxy, port, manifest, others, capabilities, or all; "Nothing" is not`,
		"all,port":     "all stands for every check: give it alone",
		"settings":     `"settings" is not a check`,
	} {
		t.Run(name, func(t *testing.T) {
			var names []string
			if name != "" {
				names = strings.Split(name, ",")
			}
			ignored, err := ParseIgnored(names)
			var got []string
			for _, f := range ignored.Apply(found) {
				got = append(got, string(f.Level))
			}
			text := strings.Join(got, " ")
			if err != nil {
				text = strings.ReplaceAll(err.Error(), "\n", "; ")
			}
			if !strings.HasPrefix(text, want) {
				t.Errorf("%s, want %s", text, want)
			}
			if found[0].Level != Error {
				t.Error("the findings themselves were changed")
			}
		})
	}
	checked := map[string]bool{}
	for _, f := range Run(t.Context(), Plan{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.10")}, Manifest: "/m/kube-vip.yaml"}, machine{links: eth0()}) {
		checked[f.Check] = true
		if !slices.Contains(Checks(), f.Check) {
			t.Errorf("%s is none of the checks", f.Check)
		}
	}
	if len(checked) != len(Checks()) {
		t.Errorf("%v were made of %v", checked, Checks())
	}
}
