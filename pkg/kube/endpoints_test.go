package kube

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseServer(t *testing.T) {
	tests := []struct {
		in   string
		want string // URL; empty means refused
		why  string // part of the error
	}{
		{in: "10.0.0.1", want: "https://10.0.0.1:6443"},
		{in: "10.0.0.1:8443", want: "https://10.0.0.1:8443"},
		{in: "fd00::1", want: "https://[fd00::1]:6443"},
		{in: "[fd00::1]", want: "https://[fd00::1]:6443"},
		{in: "[FD00:0::1]:8443", want: "https://[fd00::1]:8443"},
		{in: "api.example.com", want: "https://api.example.com:6443"},
		{in: "API.example.com:443", want: "https://api.example.com:443"},
		{in: "kubernetes", want: "https://kubernetes:6443"},
		{in: "https://10.0.0.1", want: "https://10.0.0.1:443"},
		{in: "https://[fd00::1]:6443/", want: "https://[fd00::1]:6443"},
		{in: "https://[fd00::1]", want: "https://[fd00::1]:443"},
		{in: "http://localhost:8080", want: "http://localhost:8080"},
		{in: "http://localhost", want: "http://localhost:80"},
		{in: "https://rancher.example.com/k8s/clusters/c-1/", want: "https://rancher.example.com:443/k8s/clusters/c-1"},

		{in: "", why: "it is empty"},
		{in: "https://", why: "it has no host"},
		{in: "ftp://10.0.0.1", why: "scheme ftp"},
		{in: "https://user:secret@10.0.0.1", why: "it has a user"},
		{in: "https://10.0.0.1?a=b", why: "query"},
		{in: "https://10.0.0.1#f", why: "fragment"},
		{in: "https://10.0.0.1/a%2fb", why: "escaping"},
		{in: "10.0.0.1/api", why: "a path but no scheme"},
		{in: "host/api", why: "a path but no scheme"},
		{in: "10.0.0.1:0", why: "port"},
		{in: "10.0.0.1:65536", why: "port"},
		{in: "10.0.0.1:https", why: "port"},
		{in: "10.0.0.1:", why: "port"},
		{in: "https://10.0.0.1:", why: "port"},
		{in: "10.0.0.300", why: "neither an IP address nor a host name"},
		{in: "[10.0.0.1]:6443", why: "brackets"},
		{in: "[host]:6443", why: "brackets"},
		{in: "[fd00::1", why: "neither"},
		{in: "fd00::1]", why: "neither"},
		{in: "fe80::1%eth0", why: "zone"},
		{in: "0.0.0.0:6443", why: "no host's address"},
		{in: "ff02::1", why: "no host's address"},
		{in: "a b", why: "neither"},
		{in: ":6443", why: "neither"},
		{in: "a..b", why: "neither"},
		{in: "-a", why: "neither"},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := parseServer(tt.in, 6443)
			if tt.want != "" {
				if err != nil || got.url() != tt.want {
					t.Fatalf("parseServer = %s, %v; want %s", got.url(), err, tt.want)
				}
				return
			}
			if err == nil {
				t.Fatalf("parseServer = %s; want it refused", got.url())
			}
			if !contains(err.Error(), tt.why) {
				t.Errorf("error %q does not say %q", err, tt.why)
			}
		})
	}
}

// What is accepted can be written down and read again, and dialled.
func FuzzParseServer(f *testing.F) {
	for _, s := range []string{"10.0.0.1", "[fd00::1]:6443", "https://a/b", "http://[::1]/", "a:1", "fe80::1%eth0", "https://%zz", "[", "]", "::", "https://[::1]:/", "1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := parseServer(in, 6443)
		if err != nil {
			return
		}
		again, err := parseServer(s.url(), 1)
		if err != nil || again != s {
			t.Fatalf("parseServer(%q) = %#v, and its URL %q gives %#v, %v", in, s, s.url(), again, err)
		}
		if s.port == 0 || s.host == "" {
			t.Fatalf("parseServer(%q) = %#v", in, s)
		}
	})
}

func TestEndpoints(t *testing.T) {
	ips := func(list ...string) func() []netip.Addr {
		return func() []netip.Addr {
			var out []netip.Addr
			for _, s := range list {
				out = append(out, netip.MustParseAddr(s))
			}
			return out
		}
	}
	// "=" marks this node's own, "*" the one that the kubeconfig names.
	tests := []struct {
		name   string
		opts   Options
		server string
		want   []string
	}{
		{
			name: "kubeadm: the kubeconfig names the VIP",
			opts: Options{Local: true, NodeAddrs: ips("10.0.0.1", "fd00::1", "fe80::1", "10.0.0.100"), Peers: ips("10.0.0.2", "10.0.0.3"),
				VIPs: ips("10.0.0.100", "fd00::100")},
			server: "https://10.0.0.100:8443",
			want: []string{"=127.0.0.1:6443", "=[::1]:6443", "=10.0.0.1:6443", "=[fd00::1]:6443", "10.0.0.2:6443", "10.0.0.3:6443",
				"*10.0.0.100:8443", "[fd00::100]:6443"},
		},
		{
			name:   "a name on a control-plane node may be the VIP's",
			opts:   Options{Local: true, Peers: ips("10.0.0.2"), VIPs: ips("10.0.0.100")},
			server: "https://api.example.com:6443",
			want:   []string{"=127.0.0.1:6443", "=[::1]:6443", "10.0.0.2:6443", "*api.example.com:6443", "10.0.0.100:6443"},
		},
		{
			name:   "the kubeconfig names this node, or a peer: each is dialled once",
			opts:   Options{Local: true, NodeAddrs: ips("::ffff:10.0.0.1", "127.0.0.1"), Peers: ips("10.0.0.1", "10.0.0.2")},
			server: "https://10.0.0.1:6443",
			want:   []string{"=127.0.0.1:6443", "=[::1]:6443", "=10.0.0.1:6443", "10.0.0.2:6443"},
		},
		{
			name:   "this node's server behind another port",
			opts:   Options{Local: true, NodeAddrs: ips("10.0.0.1")},
			server: "https://10.0.0.1:7443",
			want:   []string{"=127.0.0.1:6443", "=[::1]:6443", "=10.0.0.1:6443", "=*10.0.0.1:7443"},
		},
		{
			name:   "a worker: the kubeconfig first",
			opts:   Options{NodeAddrs: ips("10.0.0.9"), Peers: ips("10.0.0.2"), InClusterHost: "10.96.0.1", InClusterPort: "443", Port: 7443},
			server: "https://api.example.com/prefix",
			want:   []string{"*https://api.example.com:443/prefix", "10.0.0.2:7443", "10.96.0.1:443"},
		},
		{
			name:   "a worker whose kubeconfig names the VIP",
			opts:   Options{Peers: ips("10.0.0.2"), VIPs: ips("10.0.0.100")},
			server: "https://10.0.0.100:6443",
			want:   []string{"10.0.0.2:6443", "*10.0.0.100:6443"},
		},
		{
			name:   "in the cluster",
			opts:   Options{InClusterHost: "fd96::1", InClusterPort: "443"},
			server: "https://[fd96::1]:443",
			want:   []string{"*[fd96::1]:443"},
		},
		{
			name:   "kubernetes_addr is the only one",
			opts:   Options{Address: "10.0.0.7", Local: true, Peers: ips("10.0.0.2"), VIPs: ips("10.0.0.100")},
			server: "https://10.0.0.100:6443",
			want:   []string{"10.0.0.7:6443"},
		},
		{name: "nothing is known", want: nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := New(tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			c := &credential{}
			if tt.server != "" {
				if c.server, err = parseServer(tt.server, 6443); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			for _, e := range a.endpoints(c) {
				mark := ""
				if e.local {
					mark += "="
				}
				if e.named {
					mark += "*"
				}
				got = append(got, mark+e.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNewRefusesAddress(t *testing.T) {
	_, err := New(Options{Address: "10.0.0.1:api"})
	if err == nil || !contains(err.Error(), "kubernetes_addr") || !contains(err.Error(), "10.0.0.1:api") {
		t.Errorf("New = %v; want an error that names the setting and its value", err)
	}
}

func TestHealthOrder(t *testing.T) {
	at := func(host string, local bool) endpoint {
		return endpoint{server: server{scheme: "https", host: host, port: 6443}, local: local}
	}
	lo, own, p2, p3 := at("lo", true), at("own", true), at("p2", false), at("p3", false)
	list := []endpoint{lo, own, p2, p3}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	sec := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	order := func(h *health, s float64) string {
		text := ""
		for _, t := range h.order(sec(s), list) {
			text += t.host
			if t.failed {
				text += "!"
			}
			text += " "
		}
		return text
	}
	tests := []struct {
		name string
		do   func(h *health)
		at   float64
		want string
	}{
		{"nothing happened", func(*health) {}, 0, "lo own p2 p3 "},
		{"refused on loopback only", func(h *health) { h.fail(sec(0), lo, refused, list) }, 0.9, "own p2 p3 lo! "},
		{"and back after a second", func(h *health) { h.fail(sec(0), lo, refused, list) }, 1, "lo! own p2 p3 "},
		{"silence of one address is silence of the process", func(h *health) { h.fail(sec(0), lo, silent, list) }, 0.9, "p2 p3 lo! own! "},
		{"what costs least first when all failed", func(h *health) {
			h.fail(sec(0), lo, silent, list)
			h.fail(sec(0), p2, broken, list)
			h.fail(sec(0), p3, refused, list)
		}, 0.5, "p3! p2! lo! own! "},
		{"one request finds out, the others wait", func(h *health) {
			h.fail(sec(0), p2, silent, list)
			h.ask(sec(1), p2)
		}, 1.5, "lo own p3 p2! "},
		{"longer with each failure", func(h *health) {
			h.fail(sec(0), p2, silent, list)
			h.fail(sec(1), p2, silent, list)
		}, 2.9, "lo own p3 p2! "},
		{"but many at the same time are one", func(h *health) {
			h.fail(sec(0), p2, silent, list)
			h.fail(sec(0.1), p2, silent, list)
			h.fail(sec(0.2), p2, silent, list)
		}, 1, "lo own p2! p3 "},
		{"at most ten seconds", func(h *health) {
			for _, s := range []float64{0, 1, 3, 7, 15, 25} {
				h.fail(sec(s), p2, silent, list)
			}
		}, 35, "lo own p2! p3 "},
		{"a refusal of this node's costs nothing and is asked every second", func(h *health) {
			for s := range 20 {
				h.fail(sec(float64(s)), lo, refused, list)
			}
		}, 20, "lo! own p2 p3 "},
		{"forgotten when it answers", func(h *health) {
			h.fail(sec(0), p2, silent, list)
			h.ok(p2)
		}, 0.1, "lo own p2 p3 "},
		{"an unhealthy local server comes last", func(h *health) {
			h.setLocal(false)
			h.fail(sec(0), p2, silent, list)
		}, 0.1, "p3 p2! lo own "},
		{"and is first as soon as it is healthy", func(h *health) {
			h.fail(sec(0), lo, silent, list)
			h.setLocal(false)
			h.setLocal(true)
		}, 0.1, "lo own p2 p3 "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := &health{timing: standardTiming(), failing: map[server]*failure{}}
			tt.do(h)
			if got := order(h, tt.at); got != tt.want {
				t.Errorf("order = %q, want %q", got, tt.want)
			}
		})
	}
}
