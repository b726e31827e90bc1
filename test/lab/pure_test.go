package lab

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	// A gratuitous ARP request for 10.10.0.10 from 02:00:0a:0a:00:0b.
	garp = "ffffffffffff 02000a0a000b 0806 0001 0800 06 04 0001 02000a0a000b 0a0a000a 000000000000 0a0a000a"
	// An unsolicited NA for fd00:10:10::10, override, with target link-layer address option.
	una = `333300000001 02000a0a000b 86dd 6000000000203aff
		fd000010001000000000000000000010 ff020000000000000000000000000001
		8800 5029 20000000 fd000010001000000000000000000010 0201 02000a0a000b`
)

func TestParseFrame(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.10.0.10"), netip.MustParseAddr("fd00:10:10::10")
	bad := unhex(t, una)
	bad[len(bad)-1]++
	loop := unhex(t, una)
	loop[etherLen+ipv6Len+ndLen+1] = 0
	type want struct {
		Kind                         FrameKind
		Src, Sender, Target, MAC     string
		Announces4, Announces6, Good bool
		Override, Solicited          bool
	}
	for _, tt := range []struct {
		name string
		raw  []byte
		want want
		ok   bool
	}{
		{"gratuitous ARP", unhex(t, garp), want{Kind: ARPRequest, Src: "02:00:0a:0a:00:0b", Sender: "10.10.0.10", Target: "10.10.0.10", MAC: "02:00:0a:0a:00:0b", Announces4: true}, true},
		{"our IPv4 question", question(v4, netip.MustParseAddr("10.10.0.101"), 70), want{Kind: ARPRequest, Src: "02:00:77:00:00:06", Sender: "10.10.0.101", Target: "10.10.0.10", MAC: "02:00:77:00:00:06"}, true},
		{"unsolicited NA", unhex(t, una), want{Kind: NA, Src: "02:00:0a:0a:00:0b", Sender: "fd00:10:10::10", Target: "fd00:10:10::10", MAC: "02:00:0a:0a:00:0b", Announces6: true, Good: true, Override: true}, true},
		{"NA with a wrong checksum", bad, want{Kind: NA, Src: "02:00:0a:0a:00:0b", Sender: "fd00:10:10::10", Target: "fd00:10:10::10", MAC: "02:00:0a:0a:00:0c", Announces6: true, Override: true}, true},
		{"our IPv6 question", question(v6, netip.Addr{}, 70), want{Kind: NS, Src: "02:00:77:00:00:06", Sender: "fd00:10:10::aaaa:6", Target: "fd00:10:10::10", MAC: "02:00:77:00:00:06", Good: true}, true},
		{"an option without length", loop, want{}, false},
		{"cut ARP", unhex(t, garp)[:41], want{}, false},
		{"cut NA", unhex(t, una)[:60], want{}, false},
		{"nothing", nil, want{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, ok := parseFrame(tt.raw)
			if ok != tt.ok {
				t.Fatalf("parsed: %v, want %v", ok, tt.ok)
			}
			if !ok {
				return
			}
			got := want{f.Kind, f.Src.String(), f.Sender.String(), f.Target.String(), f.SenderMAC.String(), f.Announces(v4), f.Announces(v6), f.ChecksumOK, f.Override, f.Solicited}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseFrame(f *testing.F) {
	f.Add(unhex(f, garp))
	f.Add(unhex(f, una))
	f.Add(question(netip.MustParseAddr("fd00:10:10::10"), netip.Addr{}, 1))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if frame, ok := parseFrame(raw); ok && !frame.Sender.IsValid() {
			t.Errorf("a frame without a sender: %v", frame)
		}
	})
}

const (
	// BFD from 10.10.0.11 to 10.10.0.200, of which there are three bytes, with padding behind.
	bfdFrame = `02000a0a00c8 02000a0a000b 0800 4500001f00004000 ff110000 0a0a000b 0a0a00c8 c00b0ec8 000b0000 20c803 000000`
	// BGP from fd00::1 to fd00::2, with an option of TCP.
	bgpFrame = `02000a0a00c8 02000a0a000b 86dd 600000000019 06 01 fd000000000000000000000000000001 fd000000000000000000000000000002
		c00100b3 00000001 00000002 60180100 00000000 01010101 ff`
)

func TestParsePacket(t *testing.T) {
	fragment := unhex(t, bfdFrame)
	fragment[etherLen+6] = 0x20
	long := unhex(t, bgpFrame)
	long[etherLen+ipv6Len+12] = 0xf0
	for _, tt := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"BFD", unhex(t, bfdFrame), "17 10.10.0.11:49163 10.10.0.200:3784 255 20c803"},
		{"BGP", unhex(t, bgpFrame), "6 [fd00::1]:49153 [fd00::2]:179 1 ff"},
		{"a fragment", fragment, ""},
		{"an option that is not there", long, ""},
		{"cut", unhex(t, bfdFrame)[:44], ""},
		{"ARP", unhex(t, garp), ""},
		{"ICMP", unhex(t, una), ""},
		{"nothing", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, ok := parsePacket(tt.raw)
			got := ""
			if ok {
				got = fmt.Sprintf("%d %s %s %d %x", p.Protocol, p.Src, p.Dst, p.TTL, p.Payload)
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzParsePacket(f *testing.F) {
	f.Add(unhex(f, bfdFrame))
	f.Add(unhex(f, bgpFrame))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if p, ok := parsePacket(raw); ok && !p.Src.IsValid() {
			t.Errorf("a packet without a sender: %v", p)
		}
	})
}

func TestGapResult(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	good := func(start, end int) Attempt { return Attempt{Start: at(start), End: at(end)} }
	fail := func(start, end int) Attempt {
		return Attempt{Start: at(start), End: at(end), Err: context.DeadlineExceeded}
	}
	for _, tt := range []struct {
		name     string
		attempts []Attempt
		longest  time.Duration
		from, to int
		failed   int
		line     string
	}{
		{"nothing was tried", nil, 100, 0, 100, 0, "    "},
		{"all good", []Attempt{good(0, 1), good(25, 26), good(50, 51), good(75, 76)}, 25, 1, 26, 0, "████"},
		{"an outage", []Attempt{good(0, 1), fail(25, 60), fail(50, 80), good(75, 90)}, 89, 1, 90, 2, "█··█"},
		// A late attempt succeeds while an earlier one still waits.
		{"out of order", []Attempt{good(0, 1), fail(20, 70), good(25, 26), good(75, 76)}, 50, 26, 76, 1, "▒█ █"},
		{"no success", []Attempt{fail(0, 50)}, 100, 0, 100, 1, "·   "},
		{"an outage to the end", []Attempt{good(0, 1), fail(10, 50)}, 99, 1, 100, 1, "▒   "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			slices.Reverse(tt.attempts)
			r := newGapResult(tt.attempts, 0, t0, at(100))
			if r.Longest != tt.longest*time.Millisecond || !r.From.Equal(at(tt.from)) || !r.To.Equal(at(tt.to)) || r.Failed != tt.failed {
				t.Errorf("longest %v from %v to %v, %d failed; want %v ms from %d to %d, %d", r.Longest, r.From.Sub(t0), r.To.Sub(t0), r.Failed, int64(tt.longest), tt.from, tt.to, tt.failed)
			}
			var line strings.Builder
			for _, c := range r.Cells(t0, at(100), 4) {
				line.WriteRune(rune(c))
			}
			if diff := cmp.Diff(tt.line, line.String()); diff != "" {
				t.Errorf("cells (-want +got):\n%s", diff)
			}
			if n := r.Causes()["timeout"]; n != tt.failed {
				t.Errorf("%d timeouts, want %d", n, tt.failed)
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var samples []Sample
	for i, by := range []string{"a", "a", "", "", "b", "a b", "b a", "a b", "b"} {
		samples = append(samples, Sample{Time: t0.Add(time.Duration(i*10) * time.Millisecond), By: strings.Fields(by)})
	}
	got := newAnswers(samples)
	want := Answers{
		Samples: samples, Max: 2, Overlap: 20 * time.Millisecond, Silence: 10 * time.Millisecond,
		Owners: []string{"a", "b", "a", "b", "a", "b"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestExpand(t *testing.T) {
	values := map[string]string{"A": "1", "B": "2"}
	for in, want := range map[string]string{
		"": "", "x": "x", "$(A)": "1", "a$(A)b$(B)c": "a1b2c", "$(C)": "$(C)", "$$(A)": "$(A)", "$A": "$A", "$": "$", "$(A": "$(A", "$$": "$",
	} {
		if diff := cmp.Diff(want, expand(in, values)); diff != "" {
			t.Errorf("expand %q (-want +got):\n%s", in, diff)
		}
	}
}

func TestManifestRefused(t *testing.T) {
	change := func(from, to string) string {
		if !strings.Contains(podYAML, from) {
			t.Fatalf("the manifest has no %q", from)
		}
		return strings.Replace(podYAML, from, to, 1)
	}
	for _, tt := range []struct{ name, manifest, want string }{
		{"no pod", "kind: ConfigMap\napiVersion: v1\n", "has 0 Pods and DaemonSets"},
		{"two pods", podYAML + "---\n" + podYAML, "has 2 Pods and DaemonSets"},
		{"unknown field", change("hostNetwork:", "hostNetwrok:"), "hostNetwrok"},
		{"pod network", change("hostNetwork: true", "hostNetwork: false"), "hostNetwork is not true"},
		{"service account", change("hostNetwork: true", "hostNetwork: true\n  serviceAccountName: x"), "a static pod may not refer to a service account"},
		{"no such volume", change("{name: scratch, mountPath", "{name: other, mountPath"), "volumeMount other: there is no such volume"},
		{"secret", change("emptyDir: {}", "secret: {secretName: x}"), "volume scratch"},
		{"command", change("args: [manager", "command: [/bin/sh]\n    args: [manager"), `command "/bin/sh"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseManifest([]byte(tt.manifest))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestCapabilities(t *testing.T) {
	for _, tt := range []struct {
		context string
		want    []uintptr
		err     string
	}{
		{"{drop: [ALL], add: [NET_ADMIN, NET_RAW]}", []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}, ""},
		{"{drop: [ALL]}", nil, ""},
		{"{drop: [NET_RAW, CAP_MKNOD, CHOWN, DAC_OVERRIDE, FSETID, FOWNER, SETGID, SETUID, SETFCAP, SETPCAP, SYS_CHROOT, KILL, AUDIT_WRITE]}", []uintptr{unix.CAP_NET_BIND_SERVICE}, ""},
		{"{drop: [ALL], add: [NET_ADMINS]}", nil, "there is no capability NET_ADMINS"},
	} {
		w, err := parseManifest([]byte(strings.Replace(podYAML, "{drop: [ALL], add: [NET_ADMIN, NET_RAW]}", tt.context, 1)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := w.capabilities()
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got %v, want an error with %q", tt.context, err, tt.err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.context, diff)
		}
	}
	if n := len(strings.Fields(capNames)); n != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d names of capabilities, want %d", n, unix.CAP_LAST_CAP+1)
	}
}

func TestEndpointSlice(t *testing.T) {
	web := &Backend{
		Host:  &Host{Name: "web", Addrs: []netip.Prefix{netip.MustParsePrefix("10.244.1.2/32"), netip.MustParsePrefix("fd00:10:244:1::2/128")}},
		Node:  &Node{Host: &Host{Name: "cp1"}},
		Ports: []uint16{BackendPort},
	}
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "svc", Namespace: "default", UID: "1"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{
			{Name: "a", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8080)},
			{Name: "b", Protocol: corev1.ProtocolUDP, Port: 53},
		}},
	}
	yes, no := true, false
	type conditions = discoveryv1.EndpointConditions
	for _, tt := range []struct {
		name      string
		endpoints []Endpoint
		want      conditions
	}{
		{"ready", Ready(web), conditions{Ready: &yes, Serving: &yes, Terminating: &no}},
		{"not ready", NotReady(web), conditions{Ready: &no, Serving: &no, Terminating: &no}},
		{"terminating", Terminating(web), conditions{Ready: &no, Serving: &yes, Terminating: &yes}},
		{"another", []Endpoint{{Backend: web, Terminating: true}}, conditions{Ready: &no, Serving: &no, Terminating: &yes}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := endpointSlice(svc, corev1.IPv6Protocol, 3, tt.endpoints)
			want := &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{
					Name: "svc-ipv6-3", Namespace: "default",
					Labels:          map[string]string{"kubernetes.io/service-name": "svc", "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
					OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: "svc", UID: "1", Controller: &yes, BlockOwnerDeletion: &yes}},
				},
				AddressType: discoveryv1.AddressTypeIPv6,
				Endpoints: []discoveryv1.Endpoint{{
					Addresses: []string{"fd00:10:244:1::2"}, Conditions: tt.want, NodeName: new("cp1"),
					TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web"},
				}},
				Ports: []discoveryv1.EndpointPort{
					{Name: new("a"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080))},
					{Name: new("b"), Protocol: new(corev1.ProtocolUDP), Port: new(int32(53))},
				},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if n := len(endpointSlice(svc, corev1.IPv4Protocol, 0, Ready(web, web)).Endpoints); n != 2 {
		t.Errorf("%d IPv4 endpoints, want 2", n)
	}
}

func TestPodCIDRs(t *testing.T) {
	for _, tt := range []struct {
		family       Family
		number       int
		cidrs, hosts string
	}{
		{IPv4, 1, "10.244.1.0/24", "10.244.1.2"},
		{IPv6, 2, "fd00:10:244:2::/64", "fd00:10:244:2::2"},
		{Dual, 17, "10.244.17.0/24 fd00:10:244:11::/64", "10.244.17.2 fd00:10:244:11::2"},
	} {
		n := newNode(&Host{lab: &Lab{opts: Options{Family: tt.family}}}, tt.number)
		var cidrs, hosts []string
		for _, p := range n.PodCIDRs() {
			cidrs, hosts = append(cidrs, p.String()), append(hosts, nth(p, podHost).String())
			for _, all := range []string{podSubnet4, podSubnet6} {
				if all := netip.MustParsePrefix(all); all.Addr().Is4() == p.Addr().Is4() && !all.Contains(p.Addr()) {
					t.Errorf("%s is not a part of %s", p, all)
				}
			}
		}
		if diff := cmp.Diff([]string{tt.cidrs, tt.hosts}, []string{strings.Join(cidrs, " "), strings.Join(hosts, " ")}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.family, diff)
		}
	}
}

// TestAnswerOnLoopback asks a backend's servers as its clients do.
func TestAnswerOnLoopback(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- serveHTTP("web", tcp) }()
	go func() { done <- serveUDP("web", udp) }()
	const want = `{"backend":"web","client":"127.0.0.1"}`
	resp, err := http.Get("http://" + tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil || string(body) != want {
		t.Errorf("HTTP: %q, %v; want %s", body, err, want)
	}
	conn, err := net.Dial("udp", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for range 2 {
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		if n, err := conn.Read(buf); err != nil || string(buf[:n]) != want {
			t.Errorf("UDP: %q, %v; want %s", buf[:n], err, want)
		}
	}
	_, _ = tcp.Close(), udp.Close()
	for range 2 {
		<-done
	}
	if _, err := answer("web", "@"); err == nil {
		t.Error("an answer goes to a client without address")
	}
	if body, err := answer("web", "[::ffff:10.10.0.100]:80"); err != nil || string(body) != `{"backend":"web","client":"10.10.0.100"}` {
		t.Errorf("on a socket of both families: %s, %v", body, err)
	}
}

// TestBackendRefused: what a lab cannot do it says.
func TestBackendRefused(t *testing.T) {
	if err := Check(Options{KubeProxy: true, NoCluster: true}); !errors.Is(err, errNoCluster) {
		t.Errorf("kube-proxy without a cluster: %v", err)
	}
	n := newNode(&Host{Name: "cp1", lab: &Lab{}}, 1)
	if _, err := n.RunBackend(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), "Options.KubeProxy") {
		t.Errorf("a backend without a pod network: %v", err)
	}
	t.Setenv(backendEnv, "web")
	if err := Check(Options{}); err == nil || !strings.Contains(err.Error(), "lab.Main") {
		t.Errorf("a lab in a backend: %v", err)
	}
}
