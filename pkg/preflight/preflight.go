// Package preflight finds out what would keep kube-vip from its work on a machine, before it runs there.
package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"kube-vip.io/kube-vip/pkg/vip"
)

// Level is how bad it is.
type Level string

// The levels.
const (
	OK      Level = "ok"
	Warning Level = "warning" // it works, and may not work for long, or not for everybody
	Error   Level = "error"   // it does not work
	Skipped Level = "skipped" // it could not be found out
)

// Finding is what came of a check.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	// Text says what was found, and Fix what would mend it; Fix is empty when there is nothing to mend.
	Text string `json:"text"`
	Fix  string `json:"fix,omitempty"`
}

// Plan is what is to run on the machine.
type Plan struct {
	// Addresses are the control plane's VIPs that are no names.
	Addresses []netip.Addr
	Placement vip.Placement
	// Routed says that routers are told of the VIPs (BGP) and not the neighbours.
	Routed bool
	// Services says that those of Services are held here, too.
	Services bool
	// Port is the API server's. Ports are those that kube-vip itself listens on, by the setting that says so.
	Port  uint16
	Ports map[string]netip.AddrPort
	// Join says that other nodes of the control plane run: one of them has the VIPs.
	Join bool
	// Manifest is the file to be written; empty for none.
	Manifest string
	// Files are those of this machine that the pod mounts, by the setting that says so, and are there before kubeadm has run.
	Files map[string]string
	// Proxy is the kube-proxy that the cluster is to have, as far as that is known.
	Proxy Proxy
}

// Proxy is how kube-proxy is told to work. The zero value is one that is not known.
type Proxy struct {
	// IPVS is its mode ipvs, and StrictARP its setting ipvs.strictARP.
	IPVS, StrictARP bool
}

// Listener is a socket that waits for connections by TCP.
type Listener struct {
	At netip.AddrPort
	// By is the name of the process that has it; empty when that is not known.
	By string
}

// Manifest is what the manifest of a pod says. The zero value is a file that is none.
type Manifest struct {
	Images []string
	// Addresses are those that its environment has a kube-vip hold for the control plane, as they are written there.
	Addresses []string
}

// Host is what a machine tells of itself and its network.
type Host interface {
	Links() ([]vip.Link, error)
	// Held are the addresses that a kube-vip has put on the machine.
	Held() ([]netip.Addr, error)
	// Probe asks the neighbours on a link for an address, and returns the hardware address of one who has it.
	Probe(ctx context.Context, link string, addr netip.Addr) (net.HardwareAddr, error)
	// Sysctl is the value of one, with slashes in its name; fs.ErrNotExist when the kernel has none of that name.
	Sysctl(name string) (string, error)
	// Listeners are those in the machine's network.
	Listeners() ([]Listener, error)
	// Processes are the names of what else runs in the machine's network.
	Processes() ([]string, error)
	// Manifests are the files in a directory, by name.
	Manifests(dir string) (map[string]Manifest, error)
	// File says why a file is none; nil when it is a regular one.
	File(path string) error
	// Writable says why no file can be made in a directory; nil when one can.
	Writable(dir string) error
	// Lacks are the capabilities that this process does not have, of those that kube-vip needs.
	Lacks() ([]string, error)
}

// Run runs every check. What could not be found out is a finding, too.
func Run(ctx context.Context, p Plan, h Host) []Finding {
	r := &run{Plan: p, host: h}
	r.running, r.blind = h.Processes()
	if p.Manifest != "" {
		r.files, r.unread = h.Manifests(filepath.Dir(p.Manifest))
		if errors.Is(r.unread, fs.ErrNotExist) {
			r.unread = nil
		}
	}
	links, err := h.Links()
	if err != nil {
		r.say("interface", Skipped, "the interfaces could not be listed: "+err.Error(), "run this on the node")
	} else {
		r.addresses(ctx, links)
		r.sysctls(links)
		r.proxy(links)
	}
	r.ports()
	r.manifest()
	r.others()
	r.capabilities()
	return r.found
}

// Worst is the worst level of findings; OK when there are none.
func Worst(found []Finding) Level {
	for _, l := range []Level{Error, Warning} {
		if slices.ContainsFunc(found, func(f Finding) bool { return f.Level == l }) {
			return l
		}
	}
	return OK
}

type run struct {
	Plan
	host    Host
	running []string            // processes
	blind   error               // why they are not known
	files   map[string]Manifest // beside the one that is to be written
	unread  error               // why they are not known, or not all of them
	found   []Finding
}

// ours is the name of our process, and part of the names of our images.
const ours = "kube-vip"

// again says that a kube-vip runs here already, which what is planned takes the place of, as far as that is known.
func (r *run) again() bool { return slices.Contains(r.running, ours) && !r.stray() }

// stray says that a kube-vip which runs here cannot be from the file that is to be written.
func (r *run) stray() bool {
	_, is := r.files[filepath.Base(r.Manifest)]
	return slices.Contains(r.running, ours) && r.Manifest != "" && r.unread == nil && !is
}

// instead are the addresses of the kube-vip that runs here, if that has others than one that is planned.
func (r *run) instead(a netip.Addr) []string {
	has := r.files[filepath.Base(r.Manifest)].Addresses
	if !r.again() || slices.ContainsFunc(has, func(text string) bool { is, err := netip.ParseAddr(text); return err == nil && is == a }) {
		return nil
	}
	return has
}

func (r *run) say(check string, l Level, text, fix string) {
	r.found = append(r.found, Finding{check, l, text, fix})
}

// addresses looks at where each VIP would be, and asks who has it.
func (r *run) addresses(ctx context.Context, links []vip.Link) {
	for _, a := range r.Addresses {
		if err := vip.OwnAddress(a, links); err != nil {
			r.say("interface", Error, err.Error(), "choose an address that no machine has")
			continue
		}
		places, usable, problems := r.Placement.Follow([]netip.Addr{a}, links, nil)
		if usable == 0 {
			text := fmt.Sprintf("there is no place for %s", a)
			if err := errors.Join(problems...); err != nil {
				text = strings.ReplaceAll(err.Error(), "\n", "; ")
			}
			r.say("interface", Error, text, "name the interface by --interface (env vip_interface), or mend it")
			continue
		}
		place := places[0]
		if r.Routed {
			r.say("interface", OK, fmt.Sprintf("%s goes to %s, and routers are told of it", a, place.Link), "")
			continue
		}
		if link := subnetOf(a, links); link == "" {
			r.say("interface", Error, fmt.Sprintf("%s is in the network of no interface (%s): neighbours do not ask for it there", a, networks(links)),
				"choose an address of the nodes' network, or give --bgp with the routers' addresses in --bgppeers: routes lead anywhere")
			continue
		}
		r.say("interface", OK, fmt.Sprintf("%s goes to %s", a, place.Link), "")
		r.wire(ctx, a, place.Via)
	}
}

// wire asks the network for a VIP.
func (r *run) wire(ctx context.Context, a netip.Addr, link string) {
	mac, err := r.host.Probe(ctx, link, a)
	held, heldErr := r.host.Held()
	switch here := heldErr == nil && slices.Contains(held, a); {
	case here && mac != nil:
		r.say("address", Warning, fmt.Sprintf("%s is on this machine, by kube-vip, and a host with the hardware address %s answers for it on %s, too", a, mac, link), "find that host (ip -br link lists a host's own), and take the address away from it")
	case here:
		r.say("address", OK, fmt.Sprintf("%s is on this machine, by kube-vip", a), "")
	case err != nil:
		r.say("address", Skipped, fmt.Sprintf("nobody could be asked for %s on %s: %s", a, link, err), "run this as root on the node")
	case mac != nil && r.Join:
		r.say("address", OK, fmt.Sprintf("%s is answered for on %s by %s: a node of the control plane, if that is one's hardware address", a, link, mac), "")
	case mac != nil && r.again() && r.instead(a) == nil:
		r.say("address", Warning, fmt.Sprintf("%s is answered for on %s by a host with the hardware address %s: kube-vip runs here already, so this may be another node of the control plane", a, link, mac),
			"see whose it is (ip -br link lists a host's own); kube-vip kubeadm join, and preflight --join, expect that another node has the address")
	case mac != nil:
		text := fmt.Sprintf("%s is answered for on %s by a host with the hardware address %s", a, link, mac)
		if has := r.instead(a); has != nil {
			text += fmt.Sprintf(", and the kube-vip that runs here has %s instead", strings.Join(has, ", "))
		}
		r.say("address", Error, text,
			"choose an address that nobody has, or take it away from that host (ip -br link lists a host's own); where it is a node of this control plane, this one joins it: kube-vip kubeadm join, or preflight --join")
	case r.Join && !r.again():
		r.say("address", Warning, fmt.Sprintf("nobody answers for %s on %s: kubeadm join could not reach the control plane", a, link), "see that kube-vip runs on the first node, and that this node is in its network")
	default:
		r.say("address", OK, fmt.Sprintf("nobody answers for %s on %s", a, link), "")
	}
}

// subnetOf is the interface whose network has an address.
func subnetOf(a netip.Addr, links []vip.Link) string {
	for _, l := range links {
		if !l.Loopback && slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return l.Name
		}
	}
	return ""
}

func networks(links []vip.Link) string {
	var list []string
	for _, l := range links {
		for _, p := range l.Addrs {
			if !l.Loopback && !p.Addr().IsLinkLocalUnicast() {
				list = append(list, l.Name+" "+p.Masked().String())
			}
		}
	}
	if len(list) == 0 {
		return "there are none"
	}
	return strings.Join(list, ", ")
}

// sysctls looks at what has the kernel leave questions unanswered, or packets where they are.
func (r *run) sysctls(links []vip.Link) {
	before := len(r.found)
	if !r.Routed {
		for _, a := range r.Addresses {
			link := subnetOf(a, links)
			if !a.Is4() || link == "" {
				continue
			}
			for _, of := range []string{"all", link} {
				name := "net/ipv4/conf/" + of + "/arp_ignore"
				switch value, err := r.host.Sysctl(name); {
				case err != nil && !errors.Is(err, fs.ErrNotExist):
					r.say("sysctl", Skipped, err.Error(), "")
				case value == "2", value == "8":
					r.say("sysctl", Error, fmt.Sprintf("%s is %s: the kernel would not answer ARP for %s", dotted(name), value, a), "sysctl -w "+dotted(name)+"=1, and so in /etc/sysctl.d")
				case r.onLoopback(links) && (value == "1" || value == "3" && !r.Placement.Global):
					r.say("sysctl", Error, fmt.Sprintf("%s is %s: the kernel would not answer ARP for %s, which is to be on a loopback", dotted(name), value, a),
						"leave --interface out, which has the address on "+link+"; or sysctl -w "+dotted(name)+"=0, where no kube-proxy in IPVS mode needs another value")
				}
			}
		}
	}
	if r.Services {
		for name, needed := range map[string]bool{"net/ipv4/ip_forward": r.any(netip.Addr.Is4), "net/ipv6/conf/all/forwarding": r.any(netip.Addr.Is6)} {
			if value, err := r.host.Sysctl(name); needed && err == nil && value == "0" {
				r.say("sysctl", Warning, dotted(name)+" is 0: what comes for a Service is not passed on to its pods", "sysctl -w "+dotted(name)+"=1, and so in /etc/sysctl.d")
			}
		}
	}
	if len(r.found) == before {
		r.say("sysctl", OK, "the kernel answers for addresses, and passes packets on as far as that is needed", "")
	}
}

// onLoopback says that the control plane's VIPs are put on a loopback.
func (r *run) onLoopback(links []vip.Link) bool {
	return slices.ContainsFunc(links, func(l vip.Link) bool { return l.Loopback && l.Name == r.Placement.Interface })
}

// The interface on which kube-proxy in IPVS mode has every Service's addresses, on every node.
const ipvsLink = "kube-ipvs0"

// proxy looks at kube-proxy. In IPVS mode it puts Services' addresses on every node, where the kernel would answer ARP for
// them unless ipvs.strictARP sets arp_ignore to 1; which in turn leaves what is on a loopback without an answer. It has
// nothing to do with the control plane's VIP elsewhere, nor with IPv6: there the kernel answers for an interface's own alone.
func (r *run) proxy(links []vip.Link) {
	const strict = "ipvs: {strictARP: true}"
	before := len(r.found)
	switch {
	case r.Routed || !r.any(netip.Addr.Is4):
	case r.Services && r.Proxy.IPVS && !r.Proxy.StrictARP:
		r.say("kube-proxy", Error, "KubeProxyConfiguration says mode: ipvs without ipvs.strictARP: every node would answer ARP for Services' addresses", "write "+strict+" into the KubeProxyConfiguration")
	case r.Proxy.IPVS && r.Proxy.StrictARP && r.onLoopback(links):
		r.say("kube-proxy", Error, "KubeProxyConfiguration says mode: ipvs with ipvs.strictARP, with which the kernel does not answer ARP for an address on a loopback", "leave --interface out")
	case r.Services && slices.ContainsFunc(links, func(l vip.Link) bool { return l.Name == ipvsLink }):
		if link := r.answersForAll(links); link != "" {
			r.say("kube-proxy", Error, fmt.Sprintf("kube-proxy is in IPVS mode here (there is %s), and net.ipv4.conf.all.arp_ignore is 0: this node would answer ARP on %s for every Service's addresses", ipvsLink, link),
				"kubectl -n kube-system edit configmap kube-proxy: write "+strict+" into its config.conf; then kubectl -n kube-system rollout restart daemonset kube-proxy")
		}
	}
	if len(r.found) == before {
		r.say("kube-proxy", OK, "kube-proxy is not known to answer for addresses, or to keep the kernel from it", "")
	}
}

// answersForAll is an interface to the network on which the kernel answers for the addresses of all interfaces; empty for none.
func (r *run) answersForAll(links []vip.Link) string {
	zero := func(of string) bool {
		value, err := r.host.Sysctl("net/ipv4/conf/" + of + "/arp_ignore")
		return err == nil && value == "0"
	}
	outward := func(l vip.Link) bool {
		return l.DefaultRoute4 || l.Name == r.Placement.Interface || slices.ContainsFunc(r.Addresses, func(a netip.Addr) bool { return subnetOf(a, links) == l.Name })
	}
	if i := slices.IndexFunc(links, func(l vip.Link) bool { return !l.Loopback && outward(l) && zero(l.Name) }); i >= 0 && zero("all") {
		return links[i].Name
	}
	return ""
}

// any says that some address is of a kind; those of Services are not known, so without any every kind is.
func (r *run) any(is func(netip.Addr) bool) bool {
	return len(r.Addresses) == 0 || slices.ContainsFunc(r.Addresses, is)
}

func dotted(name string) string { return strings.ReplaceAll(name, "/", ".") }

// apiServers are the processes that listen for the API: kubeadm's and RKE2's, that of k3s, and that of MicroK8s.
var apiServers = [...]string{"kube-apiserver", "k3s-server", "kubelite"}

// ports looks at who listens already.
func (r *run) ports() {
	all, err := r.host.Listeners()
	if err != nil {
		r.say("port", Skipped, "it could not be found out who listens: "+err.Error(), "")
		return
	}
	taken := func(at netip.AddrPort) (by Listener, is bool) {
		i := slices.IndexFunc(all, func(l Listener) bool {
			return l.At.Port() == at.Port() && (!at.Addr().IsValid() || at.Addr().IsUnspecified() || l.At.Addr().IsUnspecified() || l.At.Addr() == at.Addr())
		})
		if i < 0 {
			return by, false
		}
		return all[i], true
	}
	who := func(l Listener) string {
		if l.By == "" {
			return "somebody"
		}
		return l.By
	}
	before := len(r.found)
	const otherPort = "give the API server another port, by localAPIEndpoint.bindPort and --port"
	switch l, is := taken(netip.AddrPortFrom(netip.Addr{}, r.Port)); {
	case !is || r.Port == 0:
	case l.By != "" && !slices.Contains(apiServers[:], l.By):
		r.say("port", Error, fmt.Sprintf("%s listens on %s already, where the API server is to listen", l.By, l.At), "stop it, or "+otherPort)
	case !r.again():
		r.say("port", Warning, fmt.Sprintf("%s listens on %s already: an API server that runs, or one that could not start", who(l), l.At),
			"if no API server runs here: see who it is (ss -ltnp), or "+otherPort)
	}
	for _, setting := range slices.Sorted(maps.Keys(r.Ports)) {
		switch l, is := taken(r.Ports[setting]); {
		case !is, r.again() && l.By == ours:
		case r.again() && l.By == "":
			r.say("port", Skipped, fmt.Sprintf("%s is %s, and it is not known whether it is the kube-vip here that listens on %s", setting, r.Ports[setting], l.At), "run this as root")
		default:
			r.say("port", Error, fmt.Sprintf("%s is %s, and %s listens on %s already", setting, r.Ports[setting], who(l), l.At), "see who it is (ss -ltnp), or give another port; empty or 0 turns it off")
		}
	}
	if len(r.found) == before {
		r.say("port", OK, "nobody listens on the ports that are needed", "")
	}
}

// manifest looks at where the kubelet finds its pods.
func (r *run) manifest() {
	if r.Manifest == "" {
		return
	}
	dir := filepath.Dir(r.Manifest)
	if err := r.host.Writable(dir); err != nil {
		r.say("manifest", Error, fmt.Sprintf("no file can be made in %s: %s", dir, err), "run this as root; kubeadm makes the directory, and so does mkdir -p "+dir)
		return
	}
	before := len(r.found)
	for _, setting := range slices.Sorted(maps.Keys(r.Files)) {
		if err := r.host.File(r.Files[setting]); err != nil {
			r.say("manifest", Warning, fmt.Sprintf("%s is %s: %s, and the kubelet does not start the pod until it is there", setting, r.Files[setting], err), "put the file there, or name another")
		}
	}
	if len(r.found) == before {
		r.say("manifest", OK, r.Manifest+" can be written", "")
	}
}

// rivals are programs that hold addresses, by the name of a process or of an image.
var rivals = [...]string{"keepalived", ours, "metallb", "ucarp", "vrrpd", "pacemakerd", "corosync"}

// others looks at who else may hold addresses here.
func (r *run) others() {
	before := len(r.found)
	if r.unread != nil {
		r.say("others", Skipped, "the manifests could not be read: "+r.unread.Error(), "run this as root")
	}
	elsewhere := false // another file has a kube-vip
	for _, file := range slices.Sorted(maps.Keys(r.files)) {
		if file == filepath.Base(r.Manifest) {
			continue
		}
		for _, image := range r.files[file].Images {
			if i := slices.IndexFunc(rivals[:], func(name string) bool { return strings.Contains(image, name) }); i >= 0 {
				elsewhere = elsewhere || rivals[i] == ours
				r.say("others", Error, fmt.Sprintf("%s runs %s (%s): two programs would hold addresses here", filepath.Join(filepath.Dir(r.Manifest), file), rivals[i], image),
					"take that file away once the VIP may move, or write over it with --output")
			}
		}
	}
	if r.stray() && !elsewhere {
		r.say("others", Error, fmt.Sprintf("kube-vip runs here, and not from %s, which is not there: of a DaemonSet, say. Two instances would hold addresses here", r.Manifest),
			"see what runs it (crictl ps --name kube-vip; kubectl get pods -A -o wide), and end that first; if it is the Pod of another file, name that file by --output (preflight: --manifest)")
	}
	if r.blind != nil {
		r.say("others", Skipped, "the processes could not be listed: "+r.blind.Error(), "")
	}
	for _, name := range rivals {
		if name != ours && slices.Contains(r.running, name) {
			r.say("others", Warning, name+" runs here, which may hold addresses, too", "see that it has none of these: ip address show")
		}
	}
	if len(r.found) == before {
		r.say("others", OK, "no other program that holds addresses is known to run here", "")
	}
}

// capabilities looks at what this process may do, which the pod may, too, where no policy forbids it.
func (r *run) capabilities() {
	switch lacks, err := r.host.Lacks(); {
	case err != nil:
		r.say("capabilities", Skipped, err.Error(), "")
	case len(lacks) > 0:
		r.say("capabilities", Skipped, "this process lacks "+strings.Join(lacks, " and ")+": what it cannot see the pod may see", "run this as root")
	default:
		r.say("capabilities", OK, "this process has NET_ADMIN and NET_RAW", "")
	}
}
