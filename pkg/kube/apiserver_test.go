package kube

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// authority is a CA and what it signs.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t: t, cert: cert, key: key}
}

func (a *authority) pem() []byte { return pemBlock("CERTIFICATE", a.cert.Raw) }

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// issue returns a certificate and its key in PEM. Names may be IP addresses.
func (a *authority) issue(cn string, names []string, edit ...func(*x509.Certificate)) (cert, key []byte) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	for _, f := range edit {
		f(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, k.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return pemBlock("CERTIFICATE", der), pemBlock("EC PRIVATE KEY", keyDER)
}

// store is the etcd of a cluster: one Lease per name, and whoever watches.
type store struct {
	mu      sync.Mutex
	version int
	leases  map[string]*coordinationv1.Lease
	changed chan struct{}
}

func newStore() *store {
	return &store{leases: map[string]*coordinationv1.Lease{}, changed: make(chan struct{})}
}

// put writes a Lease as an API server does: create wants none, update the version that was read.
func (s *store) put(l *coordinationv1.Lease, create bool) (*coordinationv1.Lease, int, metav1.StatusReason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.leases[l.Name]
	switch {
	case create && old != nil:
		return nil, http.StatusConflict, metav1.StatusReasonAlreadyExists
	case !create && old == nil:
		return nil, http.StatusNotFound, metav1.StatusReasonNotFound
	case !create && l.ResourceVersion != old.ResourceVersion:
		return nil, http.StatusConflict, metav1.StatusReasonConflict
	}
	s.version++
	l.ResourceVersion = strconv.Itoa(s.version)
	s.leases[l.Name] = l
	close(s.changed)
	s.changed = make(chan struct{})
	return l, http.StatusOK, ""
}

func (s *store) get(name string) (*coordinationv1.Lease, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leases[name], s.changed
}

// seen is a request that an API server got.
type seen struct {
	user, method, path, host, agent, sni string
}

// apiServer behaves as one: TLS, HTTP/2, users by certificate or token, Leases with versions, watches. Its
// process can be stopped, killed, and frozen like one that got SIGSTOP.
type apiServer struct {
	t     *testing.T
	addr  string
	cert  tls.Certificate
	store *store
	// admit returns the status for a request, 200 to serve it. It may block. nil serves all.
	admit func(r *http.Request, user string) int

	mu       sync.Mutex // guards the fields below
	server   *http.Server
	requests []seen
	conns    int
	open     []net.Conn
	frozen   chan struct{} // closed when not frozen
	watches  int
}

func (a *authority) serve(addr string, s *store, names ...string) *apiServer {
	a.t.Helper()
	certPEM, keyPEM := a.issue("kube-apiserver", names)
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		a.t.Fatal(err)
	}
	api := &apiServer{t: a.t, addr: addr, cert: cert, store: s, frozen: make(chan struct{})}
	close(api.frozen)
	a.t.Cleanup(api.kill)
	return api
}

// start listens.
func (s *apiServer) start() *apiServer {
	s.t.Helper()
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = l.Addr().String()
	srv := &http.Server{
		Handler:   http.HandlerFunc(s.handle),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{s.cert}, ClientAuth: tls.RequestClientCert},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	s.mu.Lock()
	s.server = srv
	s.mu.Unlock()
	go srv.ServeTLS(&freezer{Listener: l, api: s}, "", "")
	return s
}

// kill ends it as SIGKILL does: connections are reset or closed, the port refuses.
func (s *apiServer) kill() {
	s.thaw()
	s.mu.Lock()
	srv := s.server
	s.server = nil
	s.mu.Unlock()
	if srv != nil {
		srv.Close()
	}
}

// disconnect closes all connections, and goes on.
func (s *apiServer) disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.open {
		c.Close()
	}
	s.open = nil
}

// freeze stops it as SIGSTOP does: the kernel accepts connections and nobody reads or writes.
func (s *apiServer) freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = make(chan struct{})
}

func (s *apiServer) thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.frozen:
	default:
		close(s.frozen)
	}
}

func (s *apiServer) gate() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.frozen
}

func (s *apiServer) seen() []seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func (s *apiServer) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

func (s *apiServer) watching() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watches
}

// freezer hands out connections that stand still while the API server is frozen.
type freezer struct {
	net.Listener
	api *apiServer
}

func (f *freezer) Accept() (net.Conn, error) {
	c, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	f.api.mu.Lock()
	defer f.api.mu.Unlock()
	f.api.conns++
	f.api.open = append(f.api.open, c)
	return &freezing{Conn: c, api: f.api, closed: make(chan struct{})}, nil
}

type freezing struct {
	net.Conn
	api    *apiServer
	once   sync.Once
	closed chan struct{}
}

func (c *freezing) wait() {
	select {
	case <-c.api.gate():
	case <-c.closed:
	}
}

func (c *freezing) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.wait()
	return n, err
}

func (c *freezing) Write(b []byte) (int, error) {
	c.wait()
	return c.Conn.Write(b)
}

func (c *freezing) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (s *apiServer) handle(w http.ResponseWriter, r *http.Request) {
	user := "system:anonymous"
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		user = token
	} else if len(r.TLS.PeerCertificates) > 0 {
		user = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	s.mu.Lock()
	s.requests = append(s.requests, seen{user, r.Method, r.URL.Path, r.Host, r.UserAgent(), r.TLS.ServerName})
	s.mu.Unlock()
	if s.admit != nil {
		if code := s.admit(r, user); code != http.StatusOK {
			fail(w, code, reasonFor(code))
			return
		}
	}

	name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	switch {
	case !strings.Contains(r.URL.Path, "/leases"):
		fmt.Fprintln(w, "ok")
	case r.URL.Query().Get("watch") != "":
		s.watch(w, r)
	case r.Method == http.MethodGet:
		l, _ := s.store.get(name)
		if l == nil {
			fail(w, http.StatusNotFound, metav1.StatusReasonNotFound)
			return
		}
		reply200(w, l)
	default:
		b, _ := io.ReadAll(r.Body)
		gvk := coordinationv1.SchemeGroupVersion.WithKind("Lease")
		obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(b, &gvk, nil)
		l, ok := obj.(*coordinationv1.Lease)
		if err != nil || !ok {
			fail(w, http.StatusBadRequest, metav1.StatusReasonBadRequest)
			return
		}
		l, code, reason := s.store.put(l, r.Method == http.MethodPost)
		if reason != "" {
			fail(w, code, reason)
			return
		}
		reply200(w, l)
	}
}

func reasonFor(code int) metav1.StatusReason {
	switch code {
	case http.StatusForbidden:
		return metav1.StatusReasonForbidden
	case http.StatusUnauthorized:
		return metav1.StatusReasonUnauthorized
	}
	return metav1.StatusReasonUnknown
}

// watch sends the Lease called "lock" whenever anything changes.
func (s *apiServer) watch(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.watches++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.watches--
		s.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		l, changed := s.store.get("lock")
		if l != nil {
			raw, _ := json.Marshal(typed(l))
			json.NewEncoder(w).Encode(map[string]any{"type": "MODIFIED", "object": json.RawMessage(raw)})
			w.(http.Flusher).Flush()
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func reply200(w http.ResponseWriter, l *coordinationv1.Lease) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(typed(l))
}

func typed(l *coordinationv1.Lease) *coordinationv1.Lease {
	l = l.DeepCopy()
	l.TypeMeta = metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
	return l
}

func fail(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: int32(code), Reason: reason,
		Message: "because " + string(reason),
	})
}

// kubeconfig is what a test puts into one.
type kubeconfig struct {
	server   string
	ca       []byte
	user     string // client certificate of this user, by signer
	signer   *authority
	token    string
	insecure bool
	tlsName  string
	proxy    string
	edit     func(*clientcmdapi.Config)
}

func (k kubeconfig) write(t *testing.T, path string) {
	t.Helper()
	cluster := &clientcmdapi.Cluster{
		Server: k.server, CertificateAuthorityData: k.ca, InsecureSkipTLSVerify: k.insecure, TLSServerName: k.tlsName, ProxyURL: k.proxy,
	}
	user := &clientcmdapi.AuthInfo{Token: k.token}
	if k.user != "" {
		user.ClientCertificateData, user.ClientKeyData = k.signer.issue(k.user, nil)
	}
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["c"], cfg.AuthInfos["u"] = cluster, user
	cfg.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	cfg.CurrentContext = "x"
	if k.edit != nil {
		k.edit(cfg)
	}
	b, err := clientcmd.Write(*cfg)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, b)
}

// writeFile replaces a file by renaming, so that no reader sees half of it.
func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// logLines collects log records as "message key=value ...".
type logLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *logLines) logger() *slog.Logger { return slog.New(&lineHandler{l}) }

func (l *logLines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

func (l *logLines) count(part string) int {
	n := 0
	for _, line := range l.all() {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

type lineHandler struct{ to *logLines }

func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (h *lineHandler) WithAttrs([]slog.Attr) slog.Handler           { return h }
func (h *lineHandler) WithGroup(string) slog.Handler                { return h }
func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%s", a.Key, a.Value)
		return true
	})
	h.to.mu.Lock()
	defer h.to.mu.Unlock()
	h.to.lines = append(h.to.lines, b.String())
	return nil
}

// calm is a timing under which nothing is ever too slow, however busy the machine, and cool-downs are short.
func calm() timing {
	return timing{
		dial: 20 * time.Second, resolve: 20 * time.Second, handshake: 20 * time.Second,
		connectPatience: 20 * time.Second, patience: 20 * time.Second, watchPatience: 20 * time.Second, probePatience: 20 * time.Second,
		giveUp: 20 * time.Second, stat: time.Millisecond, coolMin: 200 * time.Millisecond, coolMax: time.Second, refused: 200 * time.Millisecond,
		pingAfter: 20 * time.Second, pingTimeout: 20 * time.Second,
	}
}

// hasty is for tests about silence. A test that knows that something is silent waits for it; one that wants to
// see that nothing waits for it gives it long, so that waiting shows.
func hasty() timing {
	tm := calm()
	tm.connectPatience, tm.patience, tm.watchPatience = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
	tm.probePatience = 100 * time.Millisecond
	return tm
}

// cluster is a local API server on 127.0.0.1 and a peer on 127.0.0.2, not started, and an Access to them.
type cluster struct {
	t           *testing.T
	ca          *authority
	store       *store
	local, peer *apiServer
	dir         string // has admin.conf of user "admin"
	log         *logLines
	opts        Options
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, ca: newAuthority(t), store: newStore(), dir: t.TempDir(), log: &logLines{}}
	port := freePort(t)
	c.local = c.ca.serve(fmt.Sprintf("127.0.0.1:%d", port), c.store, "kubernetes")
	c.peer = c.ca.serve(fmt.Sprintf("127.0.0.2:%d", port), c.store, "kubernetes")
	c.opts = Options{
		AdminConf:    filepath.Join(c.dir, "admin.conf"),
		InClusterDir: filepath.Join(c.dir, "serviceaccount"),
		Port:         port,
		Local:        true,
		Peers:        func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.2")} },
		VIPs:         func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.100")} },
		Log:          c.log.logger(),
	}
	c.admin("admin").write(t, c.opts.AdminConf)
	return c
}

// admin is a kubeconfig as kubeadm writes it: its server is the VIP.
func (c *cluster) admin(user string) kubeconfig {
	return kubeconfig{server: fmt.Sprintf("https://127.0.0.100:%d", c.opts.Port), ca: c.ca.pem(), signer: c.ca, user: user}
}

// own is the local API server by another of this node's addresses.
func (c *cluster) own() *apiServer {
	ip := netip.MustParseAddr("127.0.0.3")
	c.opts.NodeAddrs = func() []netip.Addr { return []netip.Addr{ip} }
	return c.ca.serve(netip.AddrPortFrom(ip, c.opts.Port).String(), c.store, "kubernetes")
}

func (c *cluster) access() *Access { return newAccess(c.t, c.opts) }

func newAccess(t *testing.T, o Options) *Access {
	t.Helper()
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	a.setTiming(calm())
	t.Cleanup(a.Close)
	return a
}

func (a *Access) setTiming(tm timing) { a.timing, a.creds.timing, a.health.timing = tm, tm, tm }

// freePort returns a port that nobody has on any address.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// get asks for a path and returns the status.
func get(t *testing.T, c *http.Client, path string) (int, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://kubernetes"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

func mustGet(t *testing.T, c *http.Client, path string) {
	t.Helper()
	code, err := get(t, c, path)
	if err != nil || code != http.StatusOK {
		t.Fatalf("GET %s = %d, %v; want 200", path, code, err)
	}
}

// long is more than anything takes that is going to happen.
const long = 15 * time.Second

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(long)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("timed out waiting until %s", what)
		case <-tick.C:
		}
	}
}
