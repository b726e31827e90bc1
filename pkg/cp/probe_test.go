package cp

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// An apiServer is a TLS server on a loopback address that a test starts, stops and starts again at one address.
type apiServer struct {
	t       testing.TB
	addr    string
	config  *tls.Config
	handler http.HandlerFunc
	srv     *httptest.Server
	conns   atomic.Int32 // accepted since the start
}

func startAPIServer(t testing.TB, host string, cert tls.Certificate, handler http.HandlerFunc) *apiServer {
	t.Helper()
	s := &apiServer{t: t, addr: net.JoinHostPort(host, "0"), handler: handler,
		config: &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert}}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *apiServer) start() {
	s.t.Helper()
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = l.Addr().String()
	s.conns.Store(0)
	s.srv = &httptest.Server{Listener: l, Config: &http.Server{
		Handler:  s.handler,
		ErrorLog: log.New(io.Discard, "", 0),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				s.conns.Add(1)
			}
		},
	}, TLS: s.config.Clone()}
	s.srv.StartTLS()
}

// stop closes the listener and all connections, as the end of the process does.
func (s *apiServer) stop() {
	s.srv.CloseClientConnections()
	s.srv.Close()
}

func (s *apiServer) port() uint16 { return netip.MustParseAddrPort(s.addr).Port() }

func (s *apiServer) url() string { return "https://" + s.addr + "/livez" }

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// newProber makes a prober for port, with a short timeout.
func newProber(t testing.TB, port uint16, change func(*Options)) *httpProber {
	t.Helper()
	o := Options{Port: port, Health: HealthOptions{Enable: true, Period: 10 * time.Millisecond, Timeout: 5 * time.Second}}
	if change != nil {
		change(&o)
	}
	p, err := newHTTPProber(o, &localServer{port: o.Port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func (p *httpProber) want(t testing.TB, fault, note string) answer {
	t.Helper()
	a := p.probe(t.Context())
	if a.fault != fault || a.note != note {
		t.Errorf("got  fault %q, note %q\nwant fault %q, note %q", a.fault, a.note, fault, note)
	}
	if said := statusText.MatchString(fault); a.said != said {
		t.Errorf("fault %q: that the server itself told it is %t", a.fault, a.said)
	}
	return a
}

// statusText is a fault that is an answer with another status than 200.
var statusText = regexp.MustCompile(`^GET [^ ]+: [1-5][0-9][0-9] `)

func TestProbeHealthy(t *testing.T) {
	ca := newCA(t)
	var got http.Request
	var cn string
	s := startAPIServer(t, "127.0.0.1", ca.serving(t, kubeadmNames[:]...), func(w http.ResponseWriter, r *http.Request) {
		got = *r
		if certs := r.TLS.PeerCertificates; len(certs) > 0 {
			cn = certs[0].Subject.CommonName
		}
		io.WriteString(w, "ok")
	})
	p := newProber(t, s.port(), func(o *Options) {
		o.TLS = ca.credentials(ca.client(t, "kubernetes-admin"))
		o.Bearer = func() string { return "secret" }
	})
	for range 20 {
		p.want(t, "", "")
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections for 20 probes", n)
	}
	want := []string{"GET", "/livez", "HTTP/1.1", s.addr, "kube-vip", "Bearer secret", "kubernetes-admin"}
	if diff := cmp.Diff(want, []string{got.Method, got.URL.String(), got.Proto, got.Host, got.UserAgent(), got.Header.Get("Authorization"), cn}); diff != "" {
		t.Errorf("the request (-want +got):\n%s", diff)
	}

	// A connection is not kept for ever.
	p.conn.opened = p.conn.opened.Add(-maxConnAge)
	p.want(t, "", "")
	if n := s.conns.Load(); n != 2 {
		t.Errorf("%d connections, want a second", n)
	}
}

func TestProbeAnswers(t *testing.T) {
	const etcd = "[+]ping ok\n[-]etcd failed: reason withheld\nlivez check failed\n"
	tests := []struct {
		status      int
		body        string
		fault, note string // after "GET URL: "
		custom      string // the fault when the URL was set
	}{
		{200, "ok", "", "", ""},
		{200, "", "", "", ""},
		{401, "{}", "", "401 Unauthorized: it is alive", "401 Unauthorized"},
		{403, "{}", "", "403 Forbidden: it is alive", "403 Forbidden"},
		{429, "", "", "429 Too Many Requests: it is alive", "429 Too Many Requests"},
		{500, etcd, "500 Internal Server Error: failed checks: etcd", "", "500 Internal Server Error: failed checks: etcd"},
		{500, "", "500 Internal Server Error", "", "500 Internal Server Error"},
		{503, "no", "503 Service Unavailable", "", "503 Service Unavailable"},
		{404, "", "404 Not Found", "", "404 Not Found"},
		{302, "", "302 Found", "", "302 Found"}, // not followed
		{204, "", "204 No Content", "", "204 No Content"},
	}
	ca := newCA(t)
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.status, len(tt.body)), func(t *testing.T) {
			s := startAPIServer(t, "127.0.0.1", ca.serving(t, "kubernetes", "127.0.0.1"), func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				says(tt.status, tt.body)(w, r)
			})
			said := func(s2 string) string {
				if s2 == "" {
					return ""
				}
				return "GET " + s.url() + ": " + s2
			}
			p := newProber(t, s.port(), func(o *Options) { o.TLS = ca.credentials() })
			q := newProber(t, 1, func(o *Options) { o.TLS = ca.credentials(); o.Health.URL = s.url() })
			for range 3 {
				p.want(t, said(tt.fault), said(tt.note))
				q.want(t, said(tt.custom), "")
			}
			if n := s.conns.Load(); n != 2 {
				t.Errorf("%d connections for two probers", n)
			}
		})
	}
}

func TestProbeRefused(t *testing.T) {
	s := startAPIServer(t, "127.0.0.1", newCA(t).serving(t), says(200, ""))
	s.stop()
	p := newProber(t, s.port(), nil)
	p.server.setOwn([]netip.Addr{netip.MustParseAddr("127.0.0.3")})
	p.want(t, "GET "+s.url()+": connection refused", "")
}

// stuck listens and takes connections, and never says a word.
func stuck(t testing.TB, addr string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return netip.MustParseAddrPort(l.Addr().String())
}

// A process that is stopped has its connections accepted by the kernel.
func TestProbeHangs(t *testing.T) {
	const timeout = 150 * time.Millisecond
	at := stuck(t, "127.0.0.1:0")
	p := newProber(t, at.Port(), func(o *Options) { o.Health.Timeout = timeout })
	a := p.want(t, fmt.Sprintf("GET https://%s/livez: no answer within 150ms", at), "")
	if a.took < timeout || a.took > timeout+2*time.Second {
		t.Errorf("took %s", a.took)
	}
}

func TestProbeHangsOnceConnected(t *testing.T) {
	const timeout = 150 * time.Millisecond
	ca := newCA(t)
	var hang atomic.Bool
	release := make(chan struct{})
	s := startAPIServer(t, "127.0.0.1", ca.serving(t, "kubernetes"), func(http.ResponseWriter, *http.Request) {
		if hang.Load() {
			<-release
		}
	})
	t.Cleanup(func() { close(release) })
	p := newProber(t, s.port(), func(o *Options) { o.TLS = ca.credentials(); o.Health.Timeout = timeout })
	p.want(t, "", "")
	hang.Store(true)
	for range 2 {
		// The kept connection's silence is the probe's whole answer: there is no second try, and no second timeout.
		a := p.want(t, "GET "+s.url()+": no answer within 150ms", "")
		if a.took > timeout+2*time.Second {
			t.Errorf("took %s", a.took)
		}
	}
	hang.Store(false)
	p.want(t, "", "")
}

func TestProbeEndsWithItsContext(t *testing.T) {
	at := stuck(t, "127.0.0.1:0")
	p := newProber(t, at.Port(), func(o *Options) { o.Health.Timeout = time.Hour })
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if a := p.probe(ctx); a.took > 10*time.Second {
		t.Errorf("took %s", a.took)
	}

	// So it does while it waits on a connection that it kept.
	ca := newCA(t)
	release := make(chan struct{})
	var asked atomic.Int32
	s := startAPIServer(t, "127.0.0.1", ca.serving(t, "kubernetes"), func(http.ResponseWriter, *http.Request) {
		if asked.Add(1) > 1 {
			<-release
		}
	})
	t.Cleanup(func() { close(release) })
	p = newProber(t, s.port(), func(o *Options) { o.TLS = ca.credentials(); o.Health.Timeout = time.Hour })
	ctx, cancel = context.WithCancel(t.Context())
	if a := p.probe(ctx); a.fault != "" {
		t.Fatal(a.fault)
	}
	time.AfterFunc(20*time.Millisecond, cancel)
	if a := p.probe(ctx); a.took > 10*time.Second {
		t.Errorf("took %s", a.took)
	}
}

// A server that was replaced between two probes is the next probe's server, and nothing of it is a failure.
func TestProbeReplacedServer(t *testing.T) {
	ca := newCA(t)
	s := startAPIServer(t, "127.0.0.1", ca.serving(t, "kubernetes"), says(200, "ok"))
	p := newProber(t, s.port(), func(o *Options) { o.TLS = ca.credentials() })
	for range 3 {
		p.want(t, "", "")
		s.stop()
		s.config.Certificates = []tls.Certificate{ca.serving(t, "kubernetes")}
		s.start()
		p.want(t, "", "")
		if n := s.conns.Load(); n != 1 {
			t.Errorf("%d connections to the new server", n)
		}
		s.stop()
		p.want(t, "GET "+s.url()+": connection refused", "")
		s.start()
	}
}

// waits says how wait ended: at its time or before.
func (p *httpProber) waits(t *testing.T, d time.Duration) (early bool) {
	t.Helper()
	until := time.Now().Add(d)
	p.wait(t.Context(), until)
	return time.Now().Before(until)
}

// The end of a server is known before the next probe is due.
func TestProbeWait(t *testing.T) {
	ca := newCA(t)
	s := startAPIServer(t, "127.0.0.1", ca.serving(t, "kubernetes"), says(200, "ok"))
	p := newProber(t, s.port(), func(o *Options) { o.TLS = ca.credentials() })
	p.want(t, "", "")
	for range 3 {
		if p.waits(t, 20*time.Millisecond) {
			t.Error("waited too short")
		}
		p.want(t, "", "") // on the connection whose read timed out
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	stopped := make(chan struct{})
	time.AfterFunc(50*time.Millisecond, func() { s.stop(); close(stopped) })
	if !p.waits(t, time.Minute) {
		t.Error("the end of the server was not noticed")
	}
	<-stopped
	p.want(t, "GET "+s.url()+": connection refused", "")
	if p.waits(t, 20*time.Millisecond) {
		t.Error("waited too short without a connection")
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.wait(ctx, time.Now().Add(time.Minute))
	s.start()
	ctx, cancel = context.WithCancel(t.Context())
	if a := p.probe(ctx); a.fault != "" {
		t.Error(a.fault)
	}
	time.AfterFunc(20*time.Millisecond, cancel)
	p.wait(ctx, time.Now().Add(time.Minute))
	if ctx.Err() == nil {
		t.Error("waited too short")
	}
}

// A server that closes each connection soon after its answer is not asked without a pause.
func TestProbeServerWithoutKeepAlive(t *testing.T) {
	for _, header := range []string{"Connection: close\r\n", ""} {
		conns := new(atomic.Int32)
		url := rawServer(t, func(c net.Conn, _ int) {
			conns.Add(1)
			io.WriteString(c, "HTTP/1.1 200 OK\r\n"+header+"Content-Length: 2\r\n\r\nok")
			c.Close()
		})
		p := newProber(t, 1, func(o *Options) { o.Health.URL = url; o.Health.Period = time.Minute })
		for range 3 {
			p.want(t, "", "")
			if header != "" && p.conn != nil {
				t.Error("kept a connection of which the server said that it closes it")
			}
			if p.waits(t, 20*time.Millisecond) {
				t.Error("waited too short")
			}
		}
		if n := conns.Load(); n != 3 {
			t.Errorf("%d connections for 3 probes", n)
		}
	}
}

func TestProbeTrust(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	local := ca.serving(t, kubeadmNames[:]...)
	clientCert := ca.client(t, "admin")
	const unverified = "its certificate is not verified: "
	tests := []struct {
		name        string
		server      tls.Certificate
		change      func(*Options)
		fault, note string
		shown       bool // our certificate and token
	}{
		{name: "verified", server: local, change: func(o *Options) { o.TLS = ca.credentials(clientCert) }, shown: true},
		{name: "the address's certificate", server: ca.serving(t, "127.0.0.1"), change: func(o *Options) { o.TLS = ca.credentials(clientCert) }, shown: true},
		{name: "no credentials", server: local, note: unverified + "no CA is known yet"},
		{name: "no credentials yet", server: local, note: unverified + "read admin.conf: no such file",
			change: func(o *Options) {
				o.TLS = func() (*tls.Config, error) { return nil, errors.New("read admin.conf: no such file") }
			}},
		{name: "no CA", server: local, note: unverified + "no CA is known yet",
			change: func(o *Options) {
				o.TLS = func() (*tls.Config, error) { return &tls.Config{Certificates: []tls.Certificate{clientCert}}, nil }
			}},
		{name: "insecure", server: local, note: unverified + "insecure-skip-tls-verify is set",
			change: func(o *Options) {
				o.TLS = func() (*tls.Config, error) {
					return &tls.Config{RootCAs: ca.pool, InsecureSkipVerify: true, Certificates: []tls.Certificate{clientCert}}, nil
				}
			}},
		{name: "another CA", server: local, change: func(o *Options) { o.TLS = other.credentials(clientCert) },
			fault: `its certificate is not trusted: x509: certificate signed by unknown authority (possibly because of "x509: ECDSA verification failure" while trying to verify candidate authority certificate "kubernetes")`},
		{name: "another server of the CA", server: ca.serving(t, "etcd1"), change: func(o *Options) { o.TLS = ca.credentials(clientCert) },
			fault: "its certificate is for etcd1 and for none of 127.0.0.1, kubernetes, kubernetes.default, kubernetes.default.svc, localhost"},
		{name: "a name given", server: ca.serving(t, "api.example"), shown: true,
			change: func(o *Options) {
				o.TLS = func() (*tls.Config, error) {
					return &tls.Config{RootCAs: ca.pool, ServerName: "api.example", Certificates: []tls.Certificate{clientCert}}, nil
				}
			}},
		{name: "no server's certificate", server: ca.client(t, "kubernetes"), change: func(o *Options) { o.TLS = ca.credentials(clientCert) },
			fault: "its certificate is not trusted: x509: certificate specifies an incompatible key usage"},
		{name: "a verification given", server: ca.serving(t, "strange"), shown: true,
			change: func(o *Options) {
				o.TLS = func() (*tls.Config, error) {
					return &tls.Config{RootCAs: ca.pool, InsecureSkipVerify: true, Certificates: []tls.Certificate{clientCert},
						VerifyConnection: func(cs tls.ConnectionState) error { return cs.PeerCertificates[0].VerifyHostname("strange") }}, nil
				}
			}},
		{name: "a verification given that fails", server: local, shown: false,
			change: func(o *Options) {
				o.TLS = func() (*tls.Config, error) {
					return &tls.Config{RootCAs: other.pool, InsecureSkipVerify: true,
						VerifyConnection: func(tls.ConnectionState) error { return errors.New("no") }}, nil
				}
			},
			fault: `its certificate is not trusted: x509: certificate signed by unknown authority (possibly because of "x509: ECDSA verification failure" while trying to verify candidate authority certificate "kubernetes")`},
		{name: "a CA by its path", server: local, change: func(o *Options) { o.Health.CAPath = ca.file(t) }, shown: true},
		{name: "a CA by its path beside another", server: local, shown: true,
			change: func(o *Options) { o.TLS = other.credentials(clientCert); o.Health.CAPath = ca.file(t) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var shown atomic.Bool
			s := startAPIServer(t, "127.0.0.1", tt.server, func(w http.ResponseWriter, r *http.Request) {
				shown.Store(len(r.TLS.PeerCertificates) > 0 || r.Header.Get("Authorization") != "")
			})
			p := newProber(t, s.port(), func(o *Options) {
				o.Bearer = func() string { return "secret" }
				if tt.change != nil {
					tt.change(o)
				}
			})
			if tt.fault != "" {
				tt.fault = "GET " + s.url() + ": " + tt.fault
			}
			p.want(t, tt.fault, tt.note)
			if shown.Load() != tt.shown {
				t.Errorf("credentials shown: %v, want %v", shown.Load(), tt.shown)
			}
		})
	}
}

func TestProbeURL(t *testing.T) {
	ca := newCA(t)
	cert := ca.serving(t, "kubernetes") // does not have its address
	s := startAPIServer(t, "127.0.0.1", cert, func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if r.Header.Get("Authorization") != "" && user+password != "meyou" {
			w.WriteHeader(http.StatusTeapot)
		}
		io.WriteString(w, "ok")
	})
	plain := httptest.NewServer(says(200, "ok"))
	t.Cleanup(plain.Close)
	gone := strings.Replace(s.url(), s.addr, "127.0.0.9:1", 1)

	tests := []struct {
		name, url   string
		change      func(*Options)
		fault, note string
	}{
		{name: "http", url: plain.URL + "/healthz"},
		{name: "https with the cluster's CA", url: s.url(), change: func(o *Options) { o.TLS = ca.credentials() }},
		{name: "https with a CA by its path", url: s.url(), change: func(o *Options) { o.Health.CAPath = ca.file(t) }},
		{name: "https before any CA", url: s.url(), note: "its certificate is not verified: no CA is known yet"},
		{name: "a token is for the API server alone", url: s.url(), change: func(o *Options) {
			o.TLS, o.Bearer = ca.credentials(), func() string { return "secret" }
		}},
		{name: "user and password", url: strings.Replace(s.url(), "https://", "https://me:you@", 1), change: func(o *Options) { o.TLS = ca.credentials() }},
		{name: "a password is not shown", url: strings.Replace(gone, "https://", "https://me:you@", 1), fault: "GET https://me:xxxxx@127.0.0.9:1/livez: connection refused"},
		{name: "refused", url: "http://127.0.0.9:1", fault: "GET http://127.0.0.9:1: connection refused"},
		{name: "http where https is", url: "http://" + s.addr, fault: "GET http://" + s.addr + ": 400 Bad Request"},
		{name: "https where http is", url: strings.Replace(plain.URL, "http:", "https:", 1), fault: "GET " + strings.Replace(plain.URL, "http:", "https:", 1) + ": tls: first record does not look like a TLS handshake"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newProber(t, 1, func(o *Options) {
				o.Health.URL = tt.url
				if tt.change != nil {
					tt.change(o)
				}
			})
			p.want(t, tt.fault, tt.note)
		})
	}
}

// The names of the API server are not enough for a server elsewhere.
func TestProbeURLElsewhere(t *testing.T) {
	ca := newCA(t)
	p := newProber(t, 1, func(o *Options) { o.Health.URL = "https://lb.example/livez"; o.TLS = ca.credentials() })
	cfg, note, err := p.config(p.targets()[0])
	if err != nil || note != "" || cfg.ServerName != "lb.example" {
		t.Fatalf("server name %q, note %q, %v", cfg.ServerName, note, err)
	}
	check := func(cert tls.Certificate) string {
		return text(cfg.VerifyConnection(tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}}))
	}
	if got := check(ca.serving(t, "lb.example")); got != "" {
		t.Error(got)
	}
	if got, want := check(ca.serving(t, "kubernetes", "10.0.0.11")), "its certificate is for kubernetes, 10.0.0.11 and for none of lb.example"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}

	// A name and a verification that are for the API server are for no other.
	p = newProber(t, 1, func(o *Options) {
		o.Health.URL = "https://lb.example/livez"
		o.TLS = func() (*tls.Config, error) {
			return &tls.Config{RootCAs: ca.pool, ServerName: "kubernetes", InsecureSkipVerify: true,
				VerifyConnection: func(tls.ConnectionState) error { return nil }}, nil
		}
	})
	if cfg, note, err = p.config(p.targets()[0]); err != nil || note != "" || cfg.ServerName != "lb.example" {
		t.Fatalf("server name %q, note %q, %v", cfg.ServerName, note, err)
	}
	if got := check(ca.serving(t, "kubernetes")); got == "" {
		t.Error("took the API server's certificate")
	}

	// Before there is a CA, only the system's count.
	p = newProber(t, 1, func(o *Options) { o.Health.URL = "https://lb.example/livez" })
	if cfg, note, err = p.config(p.targets()[0]); err != nil || note != "" {
		t.Fatalf("note %q, %v", note, err)
	}
	if got := check(ca.serving(t, "lb.example")); !strings.Contains(got, "unknown authority") {
		t.Errorf("got %q", got)
	}
}

// The CA file may be away for a while, and may change.
func TestProbeCAFile(t *testing.T) {
	ca, next := newCA(t), newCA(t)
	s := startAPIServer(t, "127.0.0.1", ca.serving(t, "kubernetes"), says(200, "ok"))
	path := ca.file(t)
	p := newProber(t, s.port(), func(o *Options) { o.Health.CAPath = path })
	p.want(t, "", "")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	p.close()
	p.want(t, "", "")

	s.stop()
	s.config.Certificates = []tls.Certificate{next.serving(t, "kubernetes")}
	s.start()
	if a := p.probe(t.Context()); !strings.Contains(a.fault, "not trusted") {
		t.Errorf("got %q", a.fault)
	}
	if err := os.Rename(next.file(t), path); err != nil {
		t.Fatal(err)
	}
	p.want(t, "", "")
}

func TestNewProberRefuses(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.crt")
	if err := os.WriteFile(empty, []byte("no\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ url, caPath, want string }{
		{"ftp://a", "", `control_plane_health_check_address: "ftp://a" is not an http or https URL such as https://127.0.0.1:6443/livez`},
		{"127.0.0.1:6443", "", `control_plane_health_check_address: "127.0.0.1:6443" is not an http or https URL such as https://127.0.0.1:6443/livez`},
		{"https://", "", `control_plane_health_check_address: "https://" is not an http or https URL such as https://127.0.0.1:6443/livez`},
		{"", "/nowhere/ca.crt", "control_plane_health_check_ca_path: open /nowhere/ca.crt: no such file or directory"},
		{"", empty, "control_plane_health_check_ca_path: " + empty + " holds no PEM certificate"},
	}
	for _, tt := range tests {
		_, err := newHTTPProber(Options{Health: HealthOptions{URL: tt.url, CAPath: tt.caPath}}, &localServer{})
		if text(err) != tt.want {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
}

// An API server that is bound to one of the node's addresses is found there, and looked for there from then on.
func TestProbeFindsServer(t *testing.T) {
	ca := newCA(t)
	s := startAPIServer(t, "127.0.0.2", ca.serving(t, kubeadmNames[:]...), says(200, "ok"))
	p := newProber(t, s.port(), func(o *Options) { o.TLS = ca.credentials() })
	p.server.setOwn(parse("127.0.0.3 127.0.0.2"))
	p.want(t, "", "")
	if first := p.targets()[0].name; first != s.url() {
		t.Errorf("looks first at %s", first)
	}
	s.stop()
	p.want(t, "GET "+s.url()+": connection refused", "")

	// It comes back bound to another address.
	s.addr = strings.Replace(s.addr, "127.0.0.2", "127.0.0.1", 1)
	s.start()
	p.want(t, "", "")
	if first := p.targets()[0].name; first != s.url() {
		t.Errorf("looks first at %s", first)
	}
}

// Something else that hangs at the first address does not hide the server at another.
func TestProbeFindsServerBehindAnother(t *testing.T) {
	ca := newCA(t)
	s := startAPIServer(t, "127.0.0.2", ca.serving(t, kubeadmNames[:]...), says(200, "ok"))
	hung := stuck(t, fmt.Sprintf("127.0.0.1:%d", s.port()))
	p := newProber(t, s.port(), func(o *Options) { o.TLS = ca.credentials(); o.Health.Timeout = 300 * time.Millisecond })
	p.server.setOwn(parse("127.0.0.2"))
	p.want(t, fmt.Sprintf("GET https://%s/livez: no answer within 300ms", hung), "")
	p.want(t, "", "")
	p.want(t, "", "")
}

// What is heard at one address says more than that nobody listens at another.
func TestProbeTellsMore(t *testing.T) {
	ca := newCA(t)
	s := startAPIServer(t, "127.0.0.2", newCA(t).serving(t, "kubernetes"), says(200, "ok"))
	p := newProber(t, s.port(), func(o *Options) { o.TLS = ca.credentials() })
	p.server.setOwn(parse("127.0.0.2 127.0.0.3"))
	if a := p.probe(t.Context()); !strings.HasPrefix(a.fault, "GET "+s.url()+": its certificate is not trusted") {
		t.Errorf("got %q", a.fault)
	}
}

func TestLocalServerAddrs(t *testing.T) {
	s := &localServer{port: 6443}
	check := func(want string, found bool) {
		t.Helper()
		got, f := s.addrs()
		if show(got) != want || f != found {
			t.Errorf("got %q, %v; want %q, %v", show(got), f, want, found)
		}
	}
	check("127.0.0.1 ::1", false)
	s.setOwn(parse("10.0.0.11 fd00::11"))
	check("127.0.0.1 ::1 10.0.0.11 fd00::11", false)
	s.answered(netip.MustParseAddr("fd00::11"))
	check("fd00::11 127.0.0.1 ::1 10.0.0.11", true)
	s.setOwn(nil)
	check("fd00::11 127.0.0.1 ::1", true)
}

// rawServer answers each request on a plain connection with what answer writes.
func rawServer(t *testing.T, answer func(c net.Conn, n int)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		n := 0
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			n++
			n := n
			wg.Go(func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for {
					k, err := c.Read(buf)
					if err != nil {
						return
					}
					if bytes.HasSuffix(buf[:k], []byte("\r\n\r\n")) {
						answer(c, n)
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return "http://" + l.Addr().String()
}

// A server's bytes are foreign: whatever they are, a probe ends, and the next one is not taken in by the rest.
func TestProbeForeignBytes(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	tests := []struct {
		name   string
		answer string
		fault  string
		again  string // fault of the second probe
	}{
		{"fine", ok, "", ""},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "", ""},
		{"interim", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok, "", ""},
		{"unasked answer behind", ok + "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", "", ""},
		{"garbage", "SSH-2.0-OpenSSH_9.2\r\n\r\n", `malformed HTTP response "SSH-2.0-OpenSSH_9.2"`, `malformed HTTP response "SSH-2.0-OpenSSH_9.2"`},
		{"short", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok", "no answer within 300ms", "no answer within 300ms"},
		{"half a line", "HTTP/1.1 2", "no answer within 300ms", "no answer within 300ms"},
		{"long headers", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 20000), "the answer is too long", "the answer is too long"},
		{"a long body", "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("x", 1000000), "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			url := rawServer(t, func(c net.Conn, _ int) { io.WriteString(c, tt.answer) })
			p := newProber(t, 1, func(o *Options) { o.Health.URL = url; o.Health.Timeout = 300 * time.Millisecond })
			for _, fault := range []string{tt.fault, tt.again} {
				if fault != "" {
					fault = "GET " + url + ": " + fault
				}
				p.want(t, fault, "")
			}
		})
	}
}

// A server that closes the connection instead of answering on it, on each one.
func TestProbeClosedWithoutAnswer(t *testing.T) {
	url := rawServer(t, func(c net.Conn, _ int) { c.Close() })
	p := newProber(t, 1, func(o *Options) { o.Health.URL = url })
	for range 2 {
		p.want(t, "GET "+url+": connection closed without an answer", "")
	}
}

// A server that ends an idle connection with an answer nobody asked for.
func TestProbeUnaskedAnswer(t *testing.T) {
	url := rawServer(t, func(c net.Conn, n int) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		if n == 1 {
			io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
			c.Close()
		}
	})
	p := newProber(t, 1, func(o *Options) { o.Health.URL = url })
	p.want(t, "", "")
	if p.waits(t, 50*time.Millisecond) {
		t.Error("waited too short")
	}
	p.want(t, "", "")
}

// waitFor waits until done holds.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for tick := time.NewTicker(time.Millisecond); !done(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// BenchmarkProbe is what one probe on a kept connection costs, server included.
func BenchmarkProbe(b *testing.B) {
	ca := newCA(b)
	s := startAPIServer(b, "127.0.0.1", ca.serving(b, kubeadmNames[:]...), says(200, "ok"))
	p := newProber(b, s.port(), func(o *Options) { o.TLS = ca.credentials(ca.client(b, "admin")) })
	b.ReportAllocs()
	for b.Loop() {
		if a := p.probe(b.Context()); a.fault != "" {
			b.Fatal(a.fault)
		}
	}
}

// BenchmarkProbeConnecting is what one probe costs that opens a connection, server included.
func BenchmarkProbeConnecting(b *testing.B) {
	ca := newCA(b)
	s := startAPIServer(b, "127.0.0.1", ca.serving(b, kubeadmNames[:]...), says(200, "ok"))
	p := newProber(b, s.port(), func(o *Options) { o.TLS = ca.credentials(ca.client(b, "admin")) })
	b.ReportAllocs()
	for b.Loop() {
		if a := p.probe(b.Context()); a.fault != "" {
			b.Fatal(a.fault)
		}
		p.close()
	}
}
