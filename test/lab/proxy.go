package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// kube-proxy's own ports, on the node's loopback.
const (
	proxyHealth  = "127.0.0.1:10256"
	proxyMetrics = "127.0.0.1:10249"
)

// proxySynced is when kube-proxy last wrote its rules, in seconds since 1970; absent or 0 before the first time. Its
// /healthz answers 200 already then.
const proxySynced = `kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="%s"}`

// kubeProxy is the node's kube-proxy. It talks to the node's own API server and has kube-proxy's defaults, so that
// two changes of the rules are a second apart at least; but it leaves alone what is not the node's: the limits of
// connection tracking, and its standing with the machine's OOM killer.
func (l *Lab) kubeProxy(n *Node) *Server {
	return &Server{
		Log: filepath.Join(l.Dir, n.Name, "kube-proxy.log"), node: n, name: "kube-proxy", path: filepath.Join(l.parts, "kube-proxy"),
		args: []string{
			"--hostname-override=" + n.Name, "--proxy-mode=nftables",
			"--kubeconfig=" + l.Nodes[0].Path("/etc/kubernetes/super-admin.conf"), "--master=https://" + n.apiAddr().String(),
			"--cluster-cidr=" + l.PodSubnets(),
			"--healthz-bind-address=" + proxyHealth, "--metrics-bind-address=" + proxyMetrics,
			"--conntrack-max-per-core=0", "--conntrack-min=0",
			"--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
			"--oom-score-adj=0",
		},
		ready: func(ctx context.Context) error {
			samples, err := n.metrics(ctx, "http://"+proxyMetrics+"/metrics")
			if err != nil {
				return err
			}
			for _, family := range choose(l.opts.Family, IPv4, IPv6) {
				if samples[fmt.Sprintf(proxySynced, family)] == 0 {
					return fmt.Errorf("it has not written its %s rules yet", family)
				}
			}
			return nil
		},
	}
}

// startProxies starts kube-proxy on every node and waits until each has written its rules.
func (l *Lab) startProxies(ctx context.Context) error {
	for _, n := range l.Nodes {
		n.Proxy = l.kubeProxy(n)
		if err := n.Proxy.Start(); err != nil {
			return err
		}
	}
	for _, n := range l.Nodes {
		if err := n.Proxy.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// PodCIDRs are the node's parts of the pods' networks, as kube-controller-manager would give them out.
func (n *Node) PodCIDRs() []netip.Prefix {
	return choose(n.lab.opts.Family,
		netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", n.number)),
		netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%x::/64", n.number)))
}

// forward makes a router of the node, with routes to the pods of the others: what a network plugin does that needs
// no overlay.
func (n *Node) forward() error {
	for _, name := range choose(n.lab.opts.Family, "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding") {
		if err := n.Sysctl(name, "1"); err != nil {
			return fmt.Errorf("make %s forward: %w", n.Name, err)
		}
	}
	return n.routePods()
}

// routePods routes what is for the other nodes' pods by those nodes.
func (n *Node) routePods() error {
	link, err := n.link(n.Link)
	if err != nil {
		return err
	}
	for _, other := range n.lab.Nodes {
		if other == n {
			continue
		}
		for i, p := range other.PodCIDRs() {
			route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(p), Gw: other.Addrs[i].Addr().AsSlice()}
			if err := n.handle.RouteReplace(route); err != nil {
				return fmt.Errorf("route %s by %s on %s: %w", p, other.Name, n.Name, err)
			}
		}
	}
	return nil
}

// proxyRules has each kind of expression that kube-proxy writes in nftables mode (pkg/proxy/nftables/proxier.go of
// Kubernetes), for ip and ip6.
const proxyRules = `
table FAMILY lab {
	set hairpins { type ADDR . ADDR . inet_proto . inet_service; }
	set clients { type ADDR; flags dynamic,timeout; timeout 3h; }
	map services { type ADDR . inet_proto . inet_service : verdict; }
	chain endpoint {
		update @clients { FAMILY saddr }
		meta l4proto tcp dnat to ENDPOINT
	}
	chain dispatch {
		mark set mark or 0x4000
		numgen random mod 2 vmap { 0 : goto endpoint, 1 : goto endpoint }
	}
	chain refuse { reject; }
	chain pre { type filter hook prerouting priority -110; ct state new FAMILY saddr @clients drop; }
	chain in { type filter hook input priority 0; ct state new fib daddr type local jump refuse; }
	chain nat { type nat hook prerouting priority -100; FAMILY daddr . meta l4proto . th dport vmap @services; }
	chain out { type nat hook output priority -100; jump dispatch; }
	chain post {
		type nat hook postrouting priority 100;
		mark and 0x4000 != 0 mark set mark xor 0x4000 masquerade fully-random
		ct status dnat FAMILY saddr . FAMILY daddr . meta l4proto . th dport @hairpins masquerade fully-random
	}
}
`

// checkNFTables returns the reason why kube-proxy cannot work on this machine: it calls nft, and the kernel, modules
// that it may have to load included, has to know what the rules say.
func checkNFTables() error {
	nft, err := Tool("nft")
	if err != nil {
		return fmt.Errorf("kube-proxy calls nft: %w", err)
	}
	rules := strings.NewReplacer("FAMILY", "ip", "ADDR", "ipv4_addr", "ENDPOINT", "10.244.0.1:80").Replace(proxyRules) +
		strings.NewReplacer("FAMILY", "ip6", "ADDR", "ipv6_addr", "ENDPOINT", "[fd00:10:244::1]:80").Replace(proxyRules)
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		cmd := exec.Command(nft, "-f", "-")
		cmd.Stdin = strings.NewReader(rules)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return errors.Join(errors.New("kube-proxy needs an nft and a kernel (5.13 or later) that know rules like its own"),
				fmt.Errorf("load them: %w: %s", err, strings.TrimSpace(string(out))))
		}
		return nil
	})
}
