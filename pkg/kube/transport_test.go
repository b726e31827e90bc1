package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

func TestLocalFirstAndBack(t *testing.T) {
	c := newCluster(t)
	c.local.start()
	c.peer.start()
	a := c.access()
	client := a.HTTPClient("test")
	for range 5 {
		mustGet(t, client, "/version")
	}
	if l, p := len(c.local.seen()), len(c.peer.seen()); l != 5 || p != 0 {
		t.Fatalf("%d requests to the local API server and %d to the peer, want 5 and 0", l, p)
	}
	if source, server, err := a.State(); source != c.opts.AdminConf || server != c.local.addr || err != nil {
		t.Errorf("State = %s, %s, %v", source, server, err)
	}

	// Down: not one request fails, and the first one on the dead connection is no exception.
	c.local.kill()
	for range 5 {
		mustGet(t, client, "/version")
	}
	if p := len(c.peer.seen()); p != 5 {
		t.Errorf("%d requests to the peer, want 5", p)
	}

	c.local.start()
	eventually(t, "requests go to the local API server again", func() bool {
		before := len(c.local.seen())
		mustGet(t, client, "/version")
		return len(c.local.seen()) > before
	})
	want := []string{
		"API server reachable server=" + c.local.addr + " credentials=" + c.opts.AdminConf,
		"API server reachable server=" + c.peer.addr + " credentials=" + c.opts.AdminConf,
		"API server reachable server=" + c.local.addr + " credentials=" + c.opts.AdminConf,
	}
	if diff := cmp.Diff(want, c.log.all()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	seen := c.local.seen()[0]
	if seen.host != c.local.addr || seen.agent != "kube-vip" || seen.user != "admin" {
		t.Errorf("request had %+v", seen)
	}
}

// A connection that breaks under a request says nothing of the server if it was opened for an earlier one.
func TestStaleConnection(t *testing.T) {
	c := newCluster(t)
	var drop atomic.Bool
	c.local.admit = func(r *http.Request, _ string) int {
		if drop.CompareAndSwap(true, false) {
			c.local.disconnect()
			<-r.Context().Done()
		}
		return http.StatusOK
	}
	c.local.start()
	c.peer.start()
	client := c.access().HTTPClient("test")
	mustGet(t, client, "/version")
	for range 3 {
		drop.Store(true)
		mustGet(t, client, "/version")
	}
	if l, p := len(c.local.seen()), len(c.peer.seen()); l != 7 || p != 0 {
		t.Errorf("%d requests to the local server and %d to the peer, want 7 and 0", l, p)
	}

	// On a new connection it does say something.
	client = c.access().HTTPClient("test")
	drop.Store(true)
	mustGet(t, client, "/version")
	if n := len(c.peer.seen()); n != 1 {
		t.Errorf("%d requests to the peer, want 1", n)
	}
}

// Everything down: the error says what each server did, the log has it once, and it ends by itself.
func TestAllDown(t *testing.T) {
	c := newCluster(t)
	a := c.access()
	client := a.HTTPClient("test")
	for range 5 {
		_, err := get(t, client, "/version")
		if err == nil {
			t.Fatal("no error")
		}
		for _, part := range []string{c.local.addr, c.peer.addr, "connection refused"} {
			if !contains(err.Error(), part) {
				t.Fatalf("error %q does not say %q", err, part)
			}
		}
	}
	if n := c.log.count("API server unreachable"); n != 1 {
		t.Errorf("log has it %d times, want once: %q", n, c.log.all())
	}
	if _, server, err := a.State(); server != "" || err == nil {
		t.Errorf("State = %q, %v", server, err)
	}
	c.peer.start()
	mustGet(t, client, "/version") // no cool-down stands between us and the only one that answers
}

// A request that was given up by its caller is no failure of the servers.
func TestCallerGivesUp(t *testing.T) {
	c := newCluster(t)
	release := make(chan struct{})
	arrived := make(chan struct{}, 10)
	c.local.admit = func(r *http.Request, _ string) int {
		arrived <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return http.StatusOK
	}
	c.local.start()
	a := c.access()
	client := a.HTTPClient("test")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://kubernetes/version", nil)
	if _, err := client.Do(req); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want context.Canceled", err)
	}
	close(release)
	mustGet(t, client, "/version")
	if lines := c.log.all(); len(lines) != 1 || !contains(lines[0], "API server reachable") {
		t.Errorf("log = %q", lines)
	}
}

// A server that accepts connections and does not answer costs some patience once, whether it hangs before TLS,
// in the handler, or with a connection that was good a moment ago. Then it is let alone.
func TestHungServer(t *testing.T) {
	hangs := func(c *cluster) {
		c.local.mu.Lock()
		defer c.local.mu.Unlock()
		c.local.admit = func(r *http.Request, _ string) int {
			<-r.Context().Done()
			return http.StatusOK
		}
	}
	tests := []struct {
		name  string
		first bool // make a request while all is well
		watch bool
		hang  func(c *cluster)
	}{
		{"frozen before the connection", false, false, func(c *cluster) { c.local.freeze() }},
		{"frozen before a watch", false, true, func(c *cluster) { c.local.freeze() }},
		{"frozen with a connection", true, false, func(c *cluster) { c.local.freeze() }},
		{"hangs in the handler", false, false, hangs},
		{"hangs in a watch's handler", true, true, hangs},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.local.start()
			c.peer.start()
			// The same process on another of this node's addresses; nobody needs to find out twice.
			own := c.own().start()
			own.freeze()
			a := c.access()
			tm := hasty()
			tm.coolMin, tm.coolMax = time.Hour, time.Hour
			a.setTiming(tm)
			client := a.HTTPClient("test")
			if tt.first {
				mustGet(t, client, "/version")
			}
			peer := len(c.peer.seen())
			tt.hang(c)
			path := "/version"
			if tt.watch {
				path += "?watch=1"
			}
			mustGet(t, client, path)
			if n := len(c.peer.seen()) - peer; n != 1 {
				t.Errorf("%d requests to the peer, want 1", n)
			}
			eventually(t, "no connection to the hung server is left", func() bool { return a.connections(c.local.addr) == 0 })
			before := c.local.connections()
			for range 3 {
				mustGet(t, client, path)
			}
			if n := c.local.connections() - before; n != 0 {
				t.Errorf("%d more connections to the hung server", n)
			}
			if n := own.connections(); n != 0 {
				t.Errorf("%d connections to its other address", n)
			}
		})
	}
}

// connections counts those that are open or being opened to an address, or to any for "".
func (a *Access) connections(addr string) int {
	a.conns.mu.Lock()
	defer a.conns.mu.Unlock()
	n := 0
	for c := range a.conns.open {
		if addr == "" || c.to.String() == addr {
			n++
		}
	}
	return n
}

// A watch that has a connection is given more time than a request.
func TestWatchPatience(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	asked := make(chan struct{}, 10)
	release := make(chan struct{})
	c.local.admit = func(r *http.Request, _ string) int {
		if r.URL.Path == "/version" {
			return http.StatusOK
		}
		asked <- struct{}{}
		<-release
		return http.StatusOK
	}
	c.local.start()
	c.peer.start()
	a := c.access()
	tm := hasty()
	tm.watchPatience = time.Hour
	a.setTiming(tm)
	client := a.HTTPClient("test")
	mustGet(t, client, "/version")
	done := make(chan error, 1)
	go func() {
		_, err := get(t, client, "/slow?watch=true")
		done <- err
	}()
	<-asked
	<-time.After(3 * tm.patience) // nothing is to happen in this time
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, r := range c.peer.seen() {
		if r.path == "/slow" {
			t.Error("the watch was opened on the peer as well")
		}
	}
}

// When everything is slow, a slow answer is taken, and asked for only once per server.
func TestSlowIsBetterThanNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var localAsked, peerAsked = make(chan struct{}, 10), make(chan struct{}, 10)
	c.local.admit = func(*http.Request, string) int {
		localAsked <- struct{}{}
		<-peerAsked // slower than our patience, and the one that answers
		return http.StatusOK
	}
	c.peer.admit = func(r *http.Request, _ string) int {
		peerAsked <- struct{}{}
		<-r.Context().Done()
		return http.StatusOK
	}
	c.local.start()
	c.peer.start()
	a := c.access()
	a.setTiming(hasty())
	client := a.HTTPClient("test")
	mustGet(t, client, "/version")
	if l, p := len(c.local.seen()), len(c.peer.seen()); l != 1 || p != 1 {
		t.Errorf("%d requests to the local server and %d to the peer, want one each", l, p)
	}
	if _, server, _ := a.State(); server != c.local.addr {
		t.Errorf("%s answered, want %s, which was asked first", server, c.local.addr)
	}

	// With one server only, longer than a round of asking.
	c.peer.kill()
	<-localAsked
	go func() {
		<-localAsked
		<-time.After(2 * hasty().coolMin)
		peerAsked <- struct{}{}
	}()
	mustGet(t, client, "/version")
}

// While the only server left is silent, those that refused are asked again: one of them may come back first.
func TestAskedAgain(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.local.start()
	c.local.freeze()
	a := c.access()
	a.setTiming(hasty())
	done := make(chan error, 1)
	go func() {
		_, err := get(t, a.HTTPClient("test"), "/version")
		done <- err
	}()
	eventually(t, "the peer has refused", func() bool {
		a.health.mu.Lock()
		defer a.health.mu.Unlock()
		return len(a.health.failing) >= 3
	})
	c.peer.start()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(long):
		t.Error("the request is not answered")
	}
}

// A hung server and nothing else: the request ends, by its deadline or by itself.
func TestNothingButSilence(t *testing.T) {
	t.Parallel()
	for _, deadline := range []time.Duration{0, time.Second} {
		c := newCluster(t)
		c.local.start()
		c.local.freeze()
		a := c.access()
		tm := hasty()
		tm.giveUp, tm.handshake = time.Second, time.Hour
		a.setTiming(tm)
		ctx := t.Context()
		if deadline > 0 {
			tm.giveUp = time.Hour
			a.setTiming(tm)
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, deadline)
			defer cancel()
		}
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://kubernetes/version", nil)
		resp, err := a.HTTPClient("test").Do(req)
		if err == nil {
			resp.Body.Close()
			t.Fatal("a frozen server answered")
		}
		if !contains(err.Error(), c.local.addr+": "+noAnswer) || errors.Is(err, context.DeadlineExceeded) != (deadline > 0) {
			t.Errorf("with a deadline of %s: %v", deadline, err)
		}
		if n := c.log.count("API server unreachable"); n != 1 {
			t.Errorf("log has it %d times: %q", n, c.log.all())
		}
	}
}

// A deadline shorter than our patience is shared among the servers, and tells a hung one all the same.
func TestShortDeadline(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.local.start()
	c.local.freeze()
	c.peer.start()
	a := c.access() // calm: patience is longer than the deadline
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://kubernetes/version", nil)
	resp, err := a.HTTPClient("test").Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

// A machine that is gone does not even refuse: its SYNs are lost.
func TestVanishedServer(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	blackHole(t, c.local.addr)
	c.peer.start()
	for _, how := range []string{"dial timeout", "patience"} {
		a := c.access()
		tm := calm()
		if how == "patience" {
			tm.connectPatience = 300 * time.Millisecond
		} else {
			tm.dial = 300 * time.Millisecond
		}
		tm.coolMin, tm.coolMax = time.Hour, time.Hour
		a.setTiming(tm)
		client := a.HTTPClient("test")
		began := time.Now()
		for range 3 {
			mustGet(t, client, "/version")
		}
		if took := time.Since(began); took > long/2 {
			t.Errorf("%s: took %s", how, took)
		}
		eventually(t, "nobody dials the machine that is gone", func() bool { return a.connections(c.local.addr) == 0 })
	}
}

// blackHole listens on addr with a backlog that is full, so that the kernel drops further SYNs.
func blackHole(t *testing.T, addr string) {
	t.Helper()
	ap := netip.MustParseAddrPort(addr)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		conn, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if err != nil {
			return // full
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the backlog does not fill up")
}

// A 5xx is held against a server only if another one does better.
func TestServerErrors(t *testing.T) {
	c := newCluster(t)
	answer := func(code *atomic.Int32) func(*http.Request, string) int {
		return func(*http.Request, string) int { return int(code.Load()) }
	}
	var local, peer atomic.Int32
	c.local.admit, c.peer.admit = answer(&local), answer(&peer)
	c.local.start()
	c.peer.start()
	own := c.own().start()
	a := c.access()
	client := a.HTTPClient("test")

	// The same fault everywhere is the request's. One other server is asked, not the same one by another address.
	local.Store(500)
	peer.Store(500)
	for range 3 {
		if code, err := get(t, client, "/api"); err != nil || code != 500 {
			t.Fatalf("GET = %d, %v; want 500", code, err)
		}
	}
	if l, p := len(c.local.seen()), len(c.peer.seen()); l != 3 || p != 3 {
		t.Errorf("%d and %d requests, want 3 and 3", l, p)
	}
	if n := own.connections(); n != 0 {
		t.Errorf("%d connections to the other address of this node", n)
	}

	local.Store(503)
	peer.Store(200)
	mustGet(t, client, "/api")
	before := len(c.local.seen())
	mustGet(t, client, "/api")
	if n := len(c.local.seen()) - before; n != 0 {
		t.Errorf("the server that gave 503 was asked again at once")
	}

	// What is about the request is nobody's fault.
	local.Store(200)
	eventually(t, "the local server is used again", func() bool {
		mustGet(t, client, "/api")
		_, server, _ := a.State()
		return server == c.local.addr
	})
	before = len(c.peer.seen())
	for _, code := range []int32{404, 409, 429} {
		local.Store(code)
		if got, err := get(t, client, "/api"); err != nil || got != int(code) {
			t.Errorf("GET = %d, %v; want %d", got, err, code)
		}
	}
	if n := len(c.peer.seen()) - before; n != 0 {
		t.Errorf("%d requests went to the peer", n)
	}
}

// What may be in the certificate of an API server, and what may not.
func TestCertificates(t *testing.T) {
	other := newAuthority(t)
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	clientOnly := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	tests := []struct {
		name   string
		names  []string
		edit   []func(*x509.Certificate)
		signer *authority
		config func(*kubeconfig)
		refuse string // part of the error
	}{
		{name: "kubeadm's", names: []string{"kubernetes", "10.0.0.1"}},
		{name: "service name", names: []string{"kubernetes.default.svc"}},
		{name: "the kubeconfig's server", names: []string{"127.0.0.100"}},
		{name: "a name that the kubeconfig has", names: []string{"api.example.com"}, config: func(k *kubeconfig) { k.server = "https://api.example.com:6443" }},
		{name: "tls-server-name", names: []string{"api.example.com"}, config: func(k *kubeconfig) { k.tlsName = "api.example.com" }},
		{name: "the dialled address", names: []string{"127.0.0.1"}},
		{name: "another name", names: []string{"api.example.com", "10.0.0.9"}, refuse: "it is for api.example.com, 10.0.0.9, and for none of 127.0.0.1, kubernetes"},
		{name: "another CA", names: []string{"kubernetes"}, signer: other, refuse: "unknown authority"},
		{name: "expired", names: []string{"kubernetes"}, edit: []func(*x509.Certificate){expired}, refuse: "expired"},
		{name: "a client's certificate", names: []string{"kubernetes"}, edit: []func(*x509.Certificate){clientOnly}, refuse: "usage"},
		{name: "insecure-skip-tls-verify", names: []string{"api.example.com"}, signer: other, config: func(k *kubeconfig) { k.ca, k.insecure = nil, true }},
		{name: "no CA means the system's", names: []string{"kubernetes"}, config: func(k *kubeconfig) { k.ca = nil }, refuse: "unknown authority"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			signer := c.ca
			if tt.signer != nil {
				signer = tt.signer
			}
			cert, key := signer.issue("kube-apiserver", tt.names, tt.edit...)
			var err error
			if c.local.cert, err = tls.X509KeyPair(cert, key); err != nil {
				t.Fatal(err)
			}
			c.local.start()
			k := c.admin("admin")
			if tt.config != nil {
				tt.config(&k)
			}
			k.write(t, c.opts.AdminConf)
			c.opts.Peers, c.opts.VIPs = nil, nil
			a := c.access()

			// By LocalTLS too, as the health check does it.
			local, err := a.LocalTLS()
			if err != nil {
				t.Fatal(err)
			}
			if again, _ := a.LocalTLS(); again != local {
				t.Error("LocalTLS changed")
			}
			probe := &http.Transport{TLSClientConfig: local.Clone()}
			defer probe.CloseIdleConnections()
			for how, client := range map[string]*http.Client{"Access": a.HTTPClient("test"), "LocalTLS": {Transport: probe}} {
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+c.local.addr+"/livez", nil)
				resp, err := client.Do(req)
				switch {
				case tt.refuse == "" && err != nil:
					t.Errorf("%s: %v", how, err)
				case tt.refuse == "":
					resp.Body.Close()
				case err == nil:
					resp.Body.Close()
					t.Errorf("%s: accepted", how)
				case how == "Access" && !contains(err.Error(), tt.refuse):
					t.Errorf("%s: error %q does not say %q", how, err, tt.refuse)
				}
			}
			for _, r := range c.local.seen() {
				if r.user != "admin" {
					t.Errorf("request as %s, want the client certificate's", r.user)
				}
			}
		})
	}
}

// lock is the Lease that these tests write.
func lock(holder string) *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "lock", Namespace: "kube-system"}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder}}
}

func clientset(t *testing.T, a *Access, name string) kubernetes.Interface {
	t.Helper()
	c, err := a.Clientset(name, 100, 100)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A client-go client on top: what it writes, reads and watches, while the local API server goes and comes.
func TestClientset(t *testing.T) {
	c := newCluster(t)
	c.local.start()
	c.peer.start()
	a := c.access()
	renew, follow := clientset(t, a, "renew"), clientset(t, a, "watch")
	leases := renew.CoordinationV1().Leases("kube-system")

	if _, err := leases.Get(t.Context(), "lock", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("Get = %v, want NotFound", err)
	}
	l, err := leases.Create(t.Context(), lock("a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := follow.CoordinationV1().Leases("kube-system").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	holder := func(want string) {
		t.Helper()
		select {
		case e := <-w.ResultChan():
			got, ok := e.Object.(*coordinationv1.Lease)
			if !ok || e.Type != watch.Modified || *got.Spec.HolderIdentity != want {
				t.Fatalf("event %s %v, want holder %s", e.Type, e.Object, want)
			}
		case <-time.After(long):
			t.Fatal("no event")
		}
	}
	holder("a")
	*l.Spec.HolderIdentity = "b"
	if l, err = leases.Update(t.Context(), l, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	holder("b")
	if n := c.local.connections(); n != 2 {
		t.Errorf("%d connections for two clients, want 2", n)
	}

	// The process dies in the middle of the watch: that ends at once, and a new one is on the peer.
	c.local.kill()
	select {
	case e, ok := <-w.ResultChan():
		if ok && e.Type != watch.Error {
			t.Fatalf("event %v from a dead API server", e)
		}
	case <-time.After(long):
		t.Fatal("the watch did not end")
	}
	if w, err = follow.CoordinationV1().Leases("kube-system").Watch(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	holder("b")
	*l.Spec.HolderIdentity = "c"
	if _, err = leases.Update(t.Context(), l, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	holder("c")
	if n := c.peer.watching(); n != 1 {
		t.Errorf("%d watches on the peer, want 1", n)
	}
}

// A write whose answer was lost is made again elsewhere, with the whole body; what was done the first time
// shows as a conflict and is never done twice.
func TestWriteIsReplayed(t *testing.T) {
	for _, done := range []bool{false, true} {
		t.Run(fmt.Sprintf("done before the hang: %t", done), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.local.start()
			c.peer.start()
			a := c.access()
			a.setTiming(hasty())
			leases := clientset(t, a, "renew").CoordinationV1().Leases("kube-system")
			l, err := leases.Create(t.Context(), lock("a"), metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			*l.Spec.HolderIdentity = "b"
			if done {
				// It commits, and its answer never comes.
				c.local.mu.Lock()
				c.local.admit = func(r *http.Request, _ string) int {
					if r.Method == http.MethodPut {
						c.store.put(l.DeepCopy(), false)
					}
					<-r.Context().Done()
					return http.StatusOK
				}
				c.local.mu.Unlock()
			} else {
				c.local.freeze()
			}
			got, err := leases.Update(t.Context(), l, metav1.UpdateOptions{})
			switch {
			case done && !apierrors.IsConflict(err):
				t.Errorf("Update = %v, want a conflict with itself", err)
			case !done && (err != nil || *got.Spec.HolderIdentity != "b"):
				t.Errorf("Update = %v, %v", got, err)
			}
			now, err := leases.Get(t.Context(), "lock", metav1.GetOptions{})
			if err != nil || *now.Spec.HolderIdentity != "b" || now.ResourceVersion != "2" {
				t.Errorf("Lease = %v, %v; want b at version 2", now, err)
			}
		})
	}
}

// A watch on a machine that stopped answering ends by itself within two ping times, although nothing is sent.
func TestPingsEndWatch(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.local.start()
	a := c.access()
	tm := calm()
	tm.pingAfter, tm.pingTimeout = 500*time.Millisecond, 500*time.Millisecond
	a.setTiming(tm)
	w, err := clientset(t, a, "watch").CoordinationV1().Leases("kube-system").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	// Silence alone does no harm: the server answers pings.
	select {
	case e := <-w.ResultChan():
		t.Fatalf("event %v", e)
	case <-time.After(2 * (tm.pingAfter + tm.pingTimeout)):
	}
	c.local.freeze()
	select {
	case <-w.ResultChan():
	case <-time.After(long):
		t.Fatal("the watch goes on")
	}
}

// When the local API server is found unhealthy, watches on it end at once, requests go elsewhere although it
// answers, and everything comes back when it is healthy.
func TestSetLocalHealthy(t *testing.T) {
	c := newCluster(t)
	c.local.start()
	c.peer.start()
	a := c.access()
	leases := clientset(t, a, "watch").CoordinationV1().Leases("kube-system")
	w, err := leases.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a.SetLocalHealthy(false)
	select {
	case <-w.ResultChan(): // pings take longer than this
	case <-time.After(long):
		t.Fatal("the watch goes on")
	}
	before := len(c.local.seen())
	client := a.HTTPClient("test")
	for range 3 {
		mustGet(t, client, "/version")
	}
	if n := len(c.local.seen()) - before; n != 0 {
		t.Errorf("%d requests to an unhealthy API server", n)
	}

	c.peer.kill()
	mustGet(t, client, "/version") // better than nothing
	c.peer.start()
	mustGet(t, client, "/version")

	a.SetLocalHealthy(true)
	before = len(c.local.seen())
	mustGet(t, client, "/version")
	if n := len(c.local.seen()) - before; n != 1 {
		t.Errorf("%d requests to the local API server after it became healthy, want 1", n)
	}
}

// What one client does to its connections is nothing to another: a renewal that hangs and moves elsewhere
// leaves the watch of the other client alone.
func TestClientsAreApart(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.local.admit = func(r *http.Request, _ string) int {
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
		return http.StatusOK
	}
	c.local.start()
	c.peer.start()
	a := c.access()
	a.setTiming(hasty())
	w, err := clientset(t, a, "watch").CoordinationV1().Leases("kube-system").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	mustGet(t, a.HTTPClient("renew"), "/hang")
	if _, _, reason := c.store.put(lock("a"), true); reason != "" {
		t.Fatal(reason)
	}
	select {
	case e := <-w.ResultChan():
		if e.Type != watch.Modified {
			t.Errorf("event %v, want the Lease", e)
		}
	case <-time.After(long):
		t.Error("no event")
	}
}

// kubernetes_addr is the only server dialled, with the path that it has; nothing local.
func TestAddress(t *testing.T) {
	c := newCluster(t)
	c.local.start()
	c.peer.start()
	c.opts.Address = "https://" + c.peer.addr + "/prefix/"
	a := c.access()
	client := a.HTTPClient("test")
	mustGet(t, client, "/version")
	if l, p := c.local.seen(), c.peer.seen(); len(l) != 0 || len(p) != 1 || p[0].path != "/prefix/version" {
		t.Errorf("requests to local %v, to kubernetes_addr %v", l, p)
	}
	c.peer.kill()
	if _, err := get(t, client, "/version"); err == nil || !contains(err.Error(), c.peer.addr) || contains(err.Error(), c.local.addr) {
		t.Errorf("error = %v, want one that names %s", err, c.peer.addr)
	}
	if n := len(c.local.seen()); n != 0 {
		t.Errorf("%d requests to another server", n)
	}
}

// The name asked for by SNI: what a proxy in front of the kubeconfig's server needs, "kubernetes" elsewhere.
func TestServerNameIndication(t *testing.T) {
	c := newCluster(t)
	c.peer.start()
	sni := func(o Options) string {
		t.Helper()
		mustGet(t, newAccess(t, o).HTTPClient("test"), "/version")
		all := c.peer.seen()
		return all[len(all)-1].sni
	}
	if got := sni(c.opts); got != "kubernetes" {
		t.Errorf("a peer is asked for %q", got)
	}
	o := c.opts
	o.Local, o.Peers = false, nil
	k := c.admin("admin")
	k.server = fmt.Sprintf("https://localhost:%d", o.Port)
	c.local.start() // localhost is this one
	k.write(t, o.AdminConf)
	mustGet(t, newAccess(t, o).HTTPClient("test"), "/version")
	if got := c.local.seen()[0].sni; got != "localhost" {
		t.Errorf("the kubeconfig's server is asked for %q", got)
	}
	k.server, k.tlsName = "https://"+c.peer.addr, "api.example.com"
	k.write(t, o.AdminConf)
	if got := sni(o); got != "api.example.com" {
		t.Errorf("with tls-server-name it is asked for %q", got)
	}
}

// proxy-url is for the server that the kubeconfig names, and never for this node's.
func TestProxy(t *testing.T) {
	c := newCluster(t)
	proxied := make(chan string, 10)
	proxy := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxied <- r.Host
		up, err := net.Dial("tcp", c.peer.addr)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		down, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(up, down); up.Close() }()
		io.Copy(down, up)
		down.Close()
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go proxy.Serve(l)
	defer proxy.Close()

	k := c.admin("admin")
	k.server, k.proxy = "https://127.0.0.50:6443", "http://"+l.Addr().String()
	k.write(t, c.opts.AdminConf)
	c.opts.Peers, c.opts.VIPs = nil, nil
	c.local.start()
	c.peer.start()
	a := c.access()
	client := a.HTTPClient("test")
	mustGet(t, client, "/version")
	if n := len(proxied); n != 0 {
		t.Errorf("%d requests to this node's API server went through the proxy", n)
	}
	c.local.kill()
	mustGet(t, client, "/version")
	if got := <-proxied; got != "127.0.0.50:6443" {
		t.Errorf("the proxy was asked for %s", got)
	}
}

// After Close nothing is left: no connection, no goroutine, no watch; and a request says so.
func TestClose(t *testing.T) {
	c := newCluster(t)
	c.local.admit = func(r *http.Request, _ string) int {
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
		return http.StatusOK
	}
	c.local.start()
	c.peer.start()
	before := runtime.NumGoroutine()
	a := c.access()
	a.setTiming(hasty())
	var watches []watch.Interface
	for i := range 5 {
		set := clientset(t, a, fmt.Sprint(i))
		w, err := set.CoordinationV1().Leases("kube-system").Watch(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		watches = append(watches, w)
		mustGet(t, a.HTTPClient("test"), "/version")
		if i == 2 {
			a.SetLocalHealthy(false)
			a.SetLocalHealthy(true)
			mustGet(t, a.HTTPClient("test"), "/hang")
		}
	}
	hung := make(chan error, 1)
	go func() {
		c.peer.freeze()
		_, err := get(t, a.HTTPClient("test"), "/hang")
		hung <- err
	}()
	eventually(t, "the request hangs", func() bool {
		n := 0
		for _, r := range c.local.seen() {
			if r.path == "/hang" {
				n++
			}
		}
		return n == 2
	})

	began := time.Now()
	a.Close()
	if took := time.Since(began); took > long/3 {
		t.Errorf("Close took %s", took)
	}
	if err := <-hung; !errors.Is(err, errClosed) {
		t.Errorf("the request that was under way = %v, want errClosed", err)
	}
	if _, err := get(t, a.HTTPClient("test"), "/version"); !errors.Is(err, errClosed) {
		t.Errorf("a request after Close = %v, want errClosed", err)
	}
	for i, w := range watches {
		ended := make(chan struct{})
		go func() {
			for range w.ResultChan() { // until it is closed
			}
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(long):
			t.Fatalf("watch %d goes on", i)
		}
	}
	a.Close() // again
	c.peer.kill()
	c.local.kill()
	eventually(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
	if n := a.connections(""); n != 0 {
		t.Errorf("%d connections are open", n)
	}
}

// Replaced credentials leave no connections behind.
func TestReplacedCredentialsAreForgotten(t *testing.T) {
	c := newCluster(t)
	c.local.start()
	a := c.access()
	rt := a.HTTPClient("test")
	for i := range 5 {
		user := fmt.Sprint("user", i)
		c.admin(user).write(t, c.opts.AdminConf)
		eventually(t, "requests are made as "+user, func() bool {
			mustGet(t, rt, "/version")
			all := c.local.seen()
			return all[len(all)-1].user == user
		})
	}
	eventually(t, "one connection is left", func() bool { return a.connections("") == 1 })
	if n := len(rt.Transport.(*client).pools); n != 1 {
		t.Errorf("%d pools, want 1", n)
	}
}

// A body that cannot be had again is kept, so that the next server gets all of it.
func TestBodyWithoutGetBody(t *testing.T) {
	c := newCluster(t)
	c.peer.start()
	a := c.access()
	body := io.MultiReader(strings.NewReader(`{"metadata":{"name":"lock"},`), strings.NewReader(`"spec":{}}`))
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://kubernetes/apis/coordination.k8s.io/v1/namespaces/x/leases", body)
	resp, err := a.HTTPClient("test").Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if l, _ := c.store.get("lock"); resp.StatusCode != http.StatusOK || l == nil {
		t.Errorf("POST = %s, lease %v", resp.Status, l)
	}
}

// The real timing: a hung local API server costs half a second and a request after that nothing. This is the
// one test that a machine may be too busy for, so it gets several chances.
func TestStandardTiming(t *testing.T) {
	var got string
	for range 5 {
		c := newCluster(t)
		c.local.start()
		c.local.freeze()
		c.peer.start()
		a := c.access()
		a.setTiming(standardTiming())
		client := a.HTTPClient("test")
		began := time.Now()
		mustGet(t, client, "/version")
		first := time.Since(began)
		began = time.Now()
		mustGet(t, client, "/version")
		second := time.Since(began)
		if first >= 500*time.Millisecond && first < 800*time.Millisecond && second < 200*time.Millisecond {
			return
		}
		got = fmt.Sprintf("%s, then %s", first, second)
	}
	t.Errorf("requests took %s; want half a second, then nothing", got)
}

// A connection that is being opened is no less closed than one that is open.
func TestCloseWhileDialling(t *testing.T) {
	for _, late := range []bool{false, true} { // late: the dialling succeeds although it was stopped
		cs := &connections{open: map[*conn]struct{}{}}
		near, far := net.Pipe()
		defer far.Close()
		_, err := cs.dial(t.Context(), nil, endpoint{}, func(ctx context.Context) (net.Conn, error) {
			go cs.closeIf(func(*conn) bool { return true })
			<-ctx.Done()
			if late {
				return near, nil
			}
			return nil, ctx.Err()
		})
		if !errors.Is(err, errDropped) {
			t.Errorf("dial = %v, want errDropped", err)
		}
		if late {
			if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("the connection is open: %v", err)
			}
		}
		if len(cs.open) != 0 {
			t.Error("the connection is remembered")
		}
	}
}

// Errors are words that stay the same, and none that makes client-go repeat the request by itself.
func TestReason(t *testing.T) {
	op := func(op string, err error) error {
		return &net.OpError{Op: op, Net: "tcp", Source: &net.TCPAddr{Port: 40123}, Err: err}
	}
	errno := func(e syscall.Errno) error { return &os.SyscallError{Syscall: "x", Err: e} }
	tests := []struct {
		err  error
		want string
		kind kind
	}{
		{op("dial", errno(syscall.ECONNREFUSED)), "connection refused", refused},
		{op("dial", errno(syscall.EHOSTUNREACH)), "no route to host", broken},
		{op("dial", context.DeadlineExceeded), "no connection in time", silent},
		{op("read", errno(syscall.ECONNRESET)), "it closed the connection", broken},
		{op("write", errno(syscall.EPIPE)), "it closed the connection", broken},
		{op("read", os.ErrDeadlineExceeded), noAnswer, silent},
		{op("read", net.ErrClosed), "connection was closed", broken},
		{op("remote error", errors.New("tls: bad certificate")), "it refused the TLS handshake: tls: bad certificate", broken},
		{fmt.Errorf("get: %w", io.EOF), "it closed the connection", broken},
		{io.ErrUnexpectedEOF, "it closed the connection", broken},
		{errors.New("http2: server sent GOAWAY and closed the connection; LastStreamID=1"), "it closed the connection", broken},
		{op("dial", &net.DNSError{Name: "api.example.com", Err: "no such host", Server: "127.0.0.53:53"}), "look up api.example.com: no such host", broken},
		{op("dial", &net.DNSError{Name: "api.example.com", Err: "i/o timeout", IsTimeout: true}), "look up api.example.com: no answer in time", silent},
		{errDropped, errDropped.Error(), broken},
	}
	for _, tt := range tests {
		got, k := reason(tt.err)
		if got != tt.want || k != tt.kind {
			t.Errorf("reason(%v) = %q, %d; want %q, %d", tt.err, got, k, tt.want, tt.kind)
		}
		err := &url.Error{Op: "Get", URL: "https://kubernetes", Err: &unreachableError{trials: []trial{{why: got}}}}
		if utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err) || utilnet.IsTimeout(err) || utilnet.IsHTTP2ConnectionLost(err) || utilnet.IsConnectionRefused(err) {
			t.Errorf("client-go would repeat a request because of %q", err)
		}
	}
}

// The same failures in another order are the same state, and are said in groups.
func TestUnreachableText(t *testing.T) {
	at := func(host string) endpoint { return endpoint{server: server{scheme: "https", host: host, port: 6443}} }
	a := &unreachableError{trials: []trial{{at("a"), "x"}, {at("b"), "y"}, {at("c"), "x"}, {at("a"), "x"}}, ended: context.DeadlineExceeded}
	b := &unreachableError{trials: []trial{{at("c"), "x"}, {at("b"), "y"}, {at("a"), "x"}}}
	if got, want := a.Error(), "reach the API server: a:6443, c:6443: x; b:6443: y; context deadline exceeded"; got != want {
		t.Errorf("Error = %q, want %q", got, want)
	}
	if x, y := stableText(a), stableText(b); x != y {
		t.Errorf("%q is not %q", x, y)
	}
	if err := (&unreachableError{trials: []trial{{at("a"), "y"}}}); stableText(err) == stableText(b) {
		t.Error("another state has the same text")
	}
}

// Files are found where Options says, by whatever spelling.
func TestIsFile(t *testing.T) {
	if !isFile("/a//b/../c", "/a/c") || isFile("", "") || isFile("/a", "/b") {
		t.Error("isFile is wrong")
	}
	if got := (Options{Home: "/root", AdminConf: "/etc/kubernetes/admin.conf", Kubeconfig: "/etc/kubernetes//admin.conf"}).places(); len(got) != 2 || got[1] != filepath.Join("/root", ".kube", "config") {
		t.Errorf("places = %q", got)
	}
}
