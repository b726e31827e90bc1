// Package kube finds and dials an API server that works, with credentials that work.
//
// An Access is an http.RoundTripper underneath any number of client-go clients. For each request it looks
// which kubeconfig there is now and which API server answers now: the one of this node first, then the one
// that the kubeconfig names, then those of other control-plane nodes, and the virtual IP address last. That
// order, and not the kubeconfig's `server:` alone, is what lets the holder of a control-plane VIP work before
// that VIP exists, as `kubeadm init` needs it. A kubeconfig that is missing, half written, replaced or refused
// and an API server that is down, hung or gone are states to wait in: the request returns an error that says
// what is wrong, the next request looks again, and only a change of state is logged.
package kube

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Defaults of Options.
const (
	DefaultAdminConf    = "/etc/kubernetes/admin.conf"
	DefaultInClusterDir = "/var/run/secrets/kubernetes.io/serviceaccount"
	DefaultPort         = 6443
)

// Options says where credentials and API servers may be found. The zero value is a pod in a cluster whose
// credentials are looked for in the usual places.
type Options struct {
	// Kubeconfig is the configured file. It comes first when it exists and is neither AdminConf nor
	// $HOME/.kube/config, which are looked for in any case.
	Kubeconfig string
	// Home is $HOME; empty means that there is no $HOME/.kube/config.
	Home string
	// AdminConf is kubeadm's file; empty means DefaultAdminConf. The super-admin.conf beside any file named
	// admin.conf takes its place where that file is missing or refused.
	AdminConf string
	// InClusterDir holds a service account's token and ca.crt; empty means DefaultInClusterDir.
	InClusterDir string
	// InClusterHost and InClusterPort are $KUBERNETES_SERVICE_HOST and $KUBERNETES_SERVICE_PORT.
	InClusterHost, InClusterPort string

	// Address is the configured kubernetes_addr: host, host:port or URL. When set, nothing else is dialled.
	Address string
	// Port is the port of API servers; 0 means DefaultPort.
	Port uint16
	// Local says that this is a control-plane node: its own API server is dialled first.
	Local bool
	// NodeAddrs returns this node's own addresses, Peers those of the other control-plane nodes and VIPs the
	// virtual ones, wherever they are held now. They are called for each request and must not block; nil
	// returns nothing.
	NodeAddrs, Peers, VIPs func() []netip.Addr

	// UserAgent is sent where a request has none; empty means "kube-vip".
	UserAgent string
	// Log hears of changes of state; nil discards.
	Log *slog.Logger
}

// Access is the way to the API: credentials and servers, and what is known of them now. It is safe for
// concurrent use. All its clients share what it learns, and none shares a connection with another.
type Access struct {
	opts    Options
	address *server // Options.Address, parsed; nil when none is configured
	timing  timing
	creds   *credentials
	health  *health
	conns   *connections
	done    chan struct{} // closed by Close

	running sync.WaitGroup // requests and attempts at them; grows under mu only while closed is false

	mu         sync.Mutex // guards the fields below
	closed     bool
	clients    []*client
	status     status
	answeredAt time.Time // when an API server last answered
}

// New returns an Access. It reads no file and dials nothing; the error is about an Address that cannot be one.
func New(o Options) (*Access, error) {
	if o.AdminConf == "" {
		o.AdminConf = DefaultAdminConf
	}
	if o.InClusterDir == "" {
		o.InClusterDir = DefaultInClusterDir
	}
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	if o.UserAgent == "" {
		o.UserAgent = "kube-vip"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	none := func() []netip.Addr { return nil }
	for _, f := range []*func() []netip.Addr{&o.NodeAddrs, &o.Peers, &o.VIPs} {
		if *f == nil {
			*f = none
		}
	}

	var address *server
	if o.Address != "" {
		s, err := parseServer(o.Address, o.Port)
		if err != nil {
			return nil, fmt.Errorf("kubernetes_addr: %w", err)
		}
		address = &s
	}
	tm := standardTiming()
	return &Access{
		opts:    o,
		address: address,
		timing:  tm,
		creds:   &credentials{opts: o, log: o.Log, timing: tm, sources: map[string]*source{}},
		health:  &health{timing: tm, failing: map[server]*failure{}},
		conns:   &connections{open: map[*conn]struct{}{}},
		done:    make(chan struct{}),
	}, nil
}

// Clientset returns a client with connections and a rate limiter of its own, so that nothing that another
// client does can hold it up. The name is for logs. It sets no deadline: give each call a context that has one.
//
// A request that got no answer from one API server is sent to the next, whatever its method: a write may have
// been done although its answer was lost. A Create can therefore return AlreadyExists and an Update Conflict
// for what this very call wrote; read the object again and see.
func (a *Access) Clientset(name string, qps float32, burst int) (kubernetes.Interface, error) {
	cfg := &rest.Config{
		Host:      fmt.Sprintf("https://kubernetes:%d", a.opts.Port),
		QPS:       qps,
		Burst:     burst,
		UserAgent: a.opts.UserAgent,
		// The kinds of Kubernetes itself; what does not speak protobuf may answer in JSON.
		ContentConfig: rest.ContentConfig{ContentType: runtime.ContentTypeProtobuf,
			AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON},
	}
	c, err := kubernetes.NewForConfigAndClient(cfg, a.HTTPClient(name))
	if err != nil {
		return nil, fmt.Errorf("make the %s client: %w", name, err)
	}
	return c, nil
}

// HTTPClient returns a client with connections of its own. The host of a request's URL is replaced by that of
// the API server that answers, so any will do ("https://kubernetes/api"). See Clientset for what it promises.
func (a *Access) HTTPClient(name string) *http.Client {
	c := &client{access: a, name: name, pools: map[poolKey]*pool{}}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.clients = append(a.clients, c)
	}
	return &http.Client{
		Transport: c,
		// The host of a redirect would be lost on us; an API server sends none that matters.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// SetLocalHealthy says whether the API server of this node is fit to be used. While it is not, it is dialled
// last, and whatever is connected to it is disconnected at once: a watch on it moves to another server now and
// not when somebody notices that it has gone silent.
func (a *Access) SetLocalHealthy(ok bool) {
	if !a.health.setLocal(ok) || ok {
		return
	}
	a.conns.closeIf(func(c *conn) bool { return c.local })
}

// LocalTLS returns what is needed to speak TLS with the API server of this node: the cluster's CA, names that
// its certificate may have, and our client certificate if the credentials are one. It is the same value until
// the credentials change, and must not be modified. Bearer tokens are not part of it.
func (a *Access) LocalTLS() (*tls.Config, error) {
	c, err := a.creds.current(time.Now())
	if err != nil {
		return nil, err
	}
	return c.localTLS, nil
}

// State returns what is used now: the credentials (a file's path, or a directory for those of the pod), the
// API server that answered last, and what was wrong with the latest request, nil if nothing.
func (a *Access) State() (source, server string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status.source, a.status.server, a.status.err
}

// Close ends all requests and closes all connections, watches too. When it returns, no request is running;
// those made later fail.
func (a *Access) Close() {
	a.mu.Lock()
	first := !a.closed
	a.closed = true
	clients := a.clients
	a.clients = nil
	a.mu.Unlock()
	if first {
		close(a.done)
	}
	a.conns.close()
	for _, c := range clients {
		c.closeIdle()
	}
	a.running.Wait()
}

var errClosed = errors.New("reach the API server: this client was closed")

// begin counts a request in; the caller counts it out by a.running.Done.
func (a *Access) begin() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return errClosed
	}
	a.running.Add(1)
	return nil
}

// status is what State returns, and what was logged of it.
type status struct {
	source, server string
	err            error

	loggedUp   string // server and source of the last "reachable", empty after an "unreachable"
	loggedDown string // text of the last "unreachable", empty after a "reachable"
}

// answered records an API server's answer. The log has one line for each change of the server or of the
// credentials that come first; primary names those, for the ones used may differ from request to request.
func (a *Access) answered(r reply, primary string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answeredAt = time.Now()
	server := r.from.String()
	a.status.source, a.status.server, a.status.err = r.cred.source, server, r.denied
	up := server + " " + primary
	if a.status.loggedUp == up {
		return
	}
	a.status.loggedUp, a.status.loggedDown = up, ""
	a.opts.Log.Info("API server reachable", "server", server, "credentials", r.cred.source)
}

// withoutCredentials records that a request could not be made. Why is in the log already.
func (a *Access) withoutCredentials(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status = status{err: err}
}

// unanswered records that a request which began at began got no answer.
func (a *Access) unanswered(began time.Time, source string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.answeredAt.After(began) {
		// Another client got through meanwhile: this was about one request, or one client's deadline.
		return
	}
	a.status.source, a.status.server, a.status.err = source, "", err
	if text := stableText(err); a.status.loggedDown != text {
		a.status.loggedDown, a.status.loggedUp = text, ""
		a.opts.Log.Warn("API server unreachable", "err", err)
	}
}

// isFile reports whether two paths are spelt for the same file.
func isFile(a, b string) bool { return a != "" && filepath.Clean(a) == filepath.Clean(b) }
