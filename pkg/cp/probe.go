package cp

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxConnAge is how long one connection is probed: a server that answers on the connections that it has and
// accepts no others (it is out of file descriptors, or shutting down) is dead to everybody else. A new connection
// also brings renewed certificates into force. Not more often, because a TLS handshake is fifty probes' worth of work.
const maxConnAge = 30 * time.Second

// serverNames are what an API server's certificate is issued for whatever made it; one of them is enough to know
// that it is an API server's and not, say, a kubelet's of the same CA. Addresses alone will not do: kubeadm
// leaves 127.0.0.1 out.
var serverNames = [...]string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"}

// localServer knows where this node's API server listens. Its methods may be called by several goroutines.
type localServer struct {
	port uint16

	mu     sync.Mutex // guards the fields below
	own    []netip.Addr
	worked netip.Addr
}

// setOwn replaces the addresses of this node.
func (s *localServer) setOwn(addrs []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own = slices.Clone(addrs)
}

// answered remembers where the server was found.
func (s *localServer) answered(addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.worked = addr
}

// addrs lists where to look, best first: where it was found last, the loopback addresses, the node's own ones,
// since an API server can be bound to one of these alone.
func (s *localServer) addrs() (addrs []netip.Addr, found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found = s.worked.IsValid()
	if found {
		addrs = append(addrs, s.worked)
	}
	addrs = append(addrs, netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
	addrs = append(addrs, s.own...)
	for i := len(addrs) - 1; i > 0; i-- {
		if slices.Contains(addrs[:i], addrs[i]) {
			addrs = slices.Delete(addrs, i, i+1)
		}
	}
	return addrs, found
}

// An httpProber asks an HTTP server for its health, by default /livez of this node's API server. It keeps one
// connection and speaks HTTP/1.1 on it by itself: that makes a probe one write and one read in one goroutine, with a
// deadline that holds for everything in it, and the end of the server is noticed when its kernel closes the connection.
type httpProber struct {
	server  *localServer
	url     *url.URL // asked in place of the local API server; nil as a rule
	timeout time.Duration
	period  time.Duration
	// tls brings the cluster's CA or a verification of its own, and a client certificate; bearer brings a token.
	// Both may be nil and may find nothing.
	tls    func() (*tls.Config, error)
	bearer func() string
	caPath string

	conn   *conn
	caPEM  []byte // of caPath, when it could be read last
	rotate int    // where to begin among addresses of which none has worked yet
}

func newHTTPProber(o Options, server *localServer) (*httpProber, error) {
	p := &httpProber{
		server: server, timeout: o.Health.Timeout, period: o.Health.Period,
		tls: o.TLS, bearer: o.Bearer, caPath: o.Health.CAPath,
	}
	if o.Health.URL != "" {
		u, err := url.Parse(o.Health.URL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("control_plane_health_check_address: %q is not an http or https URL such as https://127.0.0.1:6443/livez", o.Health.URL)
		}
		p.url = u
	}
	return p, p.readCA()
}

// readCA reads caPath again; what was read earlier stays in force while the file is away or half written.
func (p *httpProber) readCA() error {
	if p.caPath == "" {
		return nil
	}
	b, err := os.ReadFile(p.caPath)
	if err == nil {
		if block, _ := pem.Decode(b); block == nil {
			err = fmt.Errorf("%s holds no PEM certificate", p.caPath)
		}
	}
	if err != nil && p.caPEM == nil {
		return fmt.Errorf("control_plane_health_check_ca_path: %w", err)
	}
	if err == nil {
		p.caPEM = b
	}
	return nil
}

// A target is one place to ask.
type target struct {
	name string     // the URL, as messages show it
	dial string     // host:port
	host string     // that a certificate may be for
	addr netip.Addr // the local server's; not valid for a URL that was set
	url  *url.URL
}

func (p *httpProber) targets() []target {
	if p.url != nil {
		port := cmp.Or(p.url.Port(), map[string]string{"http": "80", "https": "443"}[p.url.Scheme])
		return []target{{name: p.url.Redacted(), dial: net.JoinHostPort(p.url.Hostname(), port), host: p.url.Hostname(), url: p.url}}
	}
	addrs, found := p.server.addrs()
	if !found {
		i := p.rotate % len(addrs)
		addrs = append(addrs[i:], addrs[:i]...)
	}
	var list []target
	for _, a := range addrs {
		u := &url.URL{Scheme: "https", Host: netip.AddrPortFrom(a, p.server.port).String(), Path: "/livez"}
		list = append(list, target{name: u.String(), dial: u.Host, host: a.String(), addr: a, url: u})
	}
	return list
}

// wait waits until the next probe is due, or until the server has closed the connection. A connection that lasted
// for less than a period does not count: a server that closes each one after its answer must not have us ask
// without a pause.
func (p *httpProber) wait(ctx context.Context, until time.Time) {
	if c := p.conn; c != nil {
		err := c.idle(until)
		if err != nil && timedOut(err) {
			return
		}
		p.close()
		if err != nil && time.Since(c.opened) >= p.period {
			return
		}
	}
	sleep(ctx, until)
}

func sleep(ctx context.Context, until time.Time) {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (p *httpProber) close() {
	if p.conn != nil {
		p.conn.close()
		p.conn = nil
	}
}

// probe asks once. All of it, another connection and other addresses included, ends within the timeout.
func (p *httpProber) probe(ctx context.Context) answer {
	start := time.Now()
	a := p.ask(ctx, start.Add(p.timeout))
	a.took = time.Since(start)
	return a
}

func (p *httpProber) ask(ctx context.Context, deadline time.Time) answer {
	if p.conn != nil && time.Since(p.conn.opened) >= maxConnAge {
		p.close()
	}
	if c := p.conn; c != nil {
		resp, err := c.exchange(deadline)
		if err == nil {
			return p.judge(c, resp)
		}
		p.close()
		// A server closed a connection that it had kept: it may have been replaced. Ask the one that listens now.
		// After a timeout that ends at once, for there is no time left.
	}

	var told answer
	for i, t := range p.targets() {
		c, err := p.open(ctx, t, deadline)
		if err == nil {
			p.conn = c
			var resp response
			if resp, err = c.exchange(deadline); err == nil {
				if t.addr.IsValid() {
					p.server.answered(t.addr)
				}
				return p.judge(c, resp)
			}
			p.close()
		}
		// That nobody listens at one address says less than what was heard at another.
		if told.fault == "" || !nobody(err) {
			told = p.fault(t, err)
		}
		if timedOut(err) || ctx.Err() != nil {
			p.rotate += i + 1 // what hangs here need not be an API server
			break
		}
	}
	return told
}

// judge says what an answer means. Of the local API server every answer but a failure of its own says that it is
// alive: that it does not let us read /livez, or has too much to do, would not be better on another node.
func (p *httpProber) judge(c *conn, resp response) answer {
	if resp.last {
		p.close()
	}
	if resp.status == http.StatusOK {
		return answer{note: c.note}
	}
	said := fmt.Sprintf("GET %s: %d %s", c.target.name, resp.status, http.StatusText(resp.status))
	switch resp.status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
		if p.url == nil {
			return answer{note: strings.Trim(said+": it is alive; "+c.note, "; ")}
		}
	}
	if failed := failedChecks(resp.body); len(failed) > 0 {
		said += ": failed checks: " + strings.Join(failed, ", ")
	}
	return answer{fault: said, said: true}
}

func (p *httpProber) fault(t target, err error) answer {
	return answer{fault: "GET " + t.name + ": " + p.describe(err)}
}

// describe is err without what differs from one probe to the next, such as our own port.
func (p *httpProber) describe(err error) string {
	var errno syscall.Errno
	var op *net.OpError
	switch {
	case timedOut(err):
		return fmt.Sprintf("no answer within %s", p.timeout)
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed without an answer"
	case errors.As(err, &op):
		return op.Err.Error()
	}
	return err.Error()
}

// nobody says that err is of an address at which nothing listens, or that the node does not have: ::1 with IPv6
// switched off, for example.
func nobody(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && slices.Contains([]syscall.Errno{
		syscall.ECONNREFUSED, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT, syscall.ENETUNREACH, syscall.EHOSTUNREACH,
	}, errno)
}

func timedOut(err error) bool {
	if n, ok := err.(net.Error); ok { // the usual one, five times a second
		return n.Timeout()
	}
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

// open connects to t. The connection is closed when ctx ends.
func (p *httpProber) open(ctx context.Context, t target, deadline time.Time) (*conn, error) {
	req := &http.Request{Method: http.MethodGet, URL: t.url, Host: t.url.Host, Header: http.Header{"User-Agent": {"kube-vip"}}}
	if u := t.url.User; u != nil {
		password, _ := u.Password()
		req.SetBasicAuth(u.Username(), password)
	}

	dctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(dctx, "tcp", t.dial)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, target: t, opened: time.Now()}
	if t.url.Scheme == "https" {
		cfg, note, err := p.config(t)
		if err != nil {
			return nil, errors.Join(err, raw.Close())
		}
		if note == "" && p.bearer != nil && p.url == nil {
			if token := p.bearer(); token != "" {
				req.Header.Set("Authorization", "Bearer "+token)
			}
		}
		secure := tls.Client(raw, cfg)
		if err := secure.HandshakeContext(dctx); err != nil {
			raw.Close() // the handshake's error is the one that says something
			return nil, err
		}
		c.Conn, c.note = secure, note
	}
	var request bytes.Buffer
	if err := req.Write(&request); err != nil {
		return nil, errors.Join(err, c.Conn.Close())
	}
	c.request = request.Bytes()
	c.start(ctx)
	return c, nil
}

// config is how the certificate of t is checked, with a note where it is not: our own certificate is not shown
// there.
func (p *httpProber) config(t target) (cfg *tls.Config, note string, err error) {
	cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	why := "no CA is known yet"
	if p.tls != nil {
		given, err := p.tls()
		switch {
		case err != nil:
			why = err.Error()
		case given == nil:
		case given.InsecureSkipVerify && given.VerifyConnection == nil:
			why = "insecure-skip-tls-verify is set"
		case given.RootCAs != nil || given.VerifyConnection != nil:
			cfg = given.Clone()
			cfg.MinVersion = max(cfg.MinVersion, tls.VersionTLS12)
		}
	}
	var pools []*x509.CertPool
	if cfg.RootCAs != nil {
		pools = append(pools, cfg.RootCAs)
	}
	if err := p.readCA(); err != nil {
		return nil, "", err
	}
	if p.caPEM != nil {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(p.caPEM) {
			return nil, "", fmt.Errorf("control_plane_health_check_ca_path: %s holds no certificate", p.caPath)
		}
		pools = append(pools, pool)
	}

	// The local API server's certificate has no loopback address as a rule, but it has one of serverNames; the
	// certificate of any other server has the name by which it is asked.
	accepted := []string{t.host}
	local := t.addr.IsValid() || isLoopback(t.host)
	if local {
		accepted = append(accepted, serverNames[:]...)
		if cfg.ServerName != "" {
			accepted = append(accepted, cfg.ServerName)
		}
	} else {
		cfg.ServerName, cfg.VerifyConnection = "", nil
		if pool, err := x509.SystemCertPool(); err == nil {
			pools = append(pools, pool)
		}
	}
	if cfg.ServerName == "" {
		cfg.ServerName = t.host
		if local {
			cfg.ServerName = serverNames[0]
		}
	}

	cfg.NextProtos = nil // HTTP/1.1
	cfg.InsecureSkipVerify = true
	given := cfg.VerifyConnection
	if len(pools) == 0 && given == nil && local {
		return cfg, "its certificate is not verified: " + why, nil
	}
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		err := verify(cs.PeerCertificates, pools, accepted)
		if err != nil && given != nil && given(cs) == nil {
			return nil
		}
		return err
	}
	return cfg, "", nil
}

// verify is what crypto/tls would do, for several pools and several names of which one is enough.
func verify(chain []*x509.Certificate, pools []*x509.CertPool, names []string) error {
	if len(chain) == 0 {
		return errors.New("no certificate was presented")
	}
	opts := x509.VerifyOptions{Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	var first error
	trusted := slices.ContainsFunc(pools, func(pool *x509.CertPool) bool {
		opts.Roots = pool
		_, err := chain[0].Verify(opts)
		first = cmp.Or(first, err)
		return err == nil
	})
	if !trusted {
		return fmt.Errorf("its certificate is not trusted: %w", cmp.Or(first, errors.New("no CA is known")))
	}
	if slices.ContainsFunc(names, func(n string) bool { return chain[0].VerifyHostname(n) == nil }) {
		return nil
	}
	return fmt.Errorf("its certificate is for %s and for none of %s", covers(chain[0]), strings.Join(names, ", "))
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
