package kube

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"
)

// credential is one kubeconfig, or the pod's service account, as it was when it was read. Its fields do not
// change, but for those that say so.
type credential struct {
	source   string                                // the path it was read from
	server   server                                // as it names it; host is empty when it names none
	proxy    func(*http.Request) (*url.URL, error) // to that server
	tlsName  string                                // tls-server-name
	tls      *tls.Config                           // CA and client certificate; copied for each endpoint
	localTLS *tls.Config                           // for LocalTLS
	wrap     func(http.RoundTripper) (http.RoundTripper, error)
	sum      [sha256.Size]byte // of all its files

	replaced atomic.Bool // a newer one has taken its place

	// denied has the shapes of request that were answered by 401 or 403 last time, and when that was found out.
	// Guarded by credentials.mu.
	denied map[string]time.Time
}

// everything is the shape of a 401: it is about who we are and not about what we ask.
const everything = ""

// maxDenied bounds what is remembered; a program asks for a few dozen things.
const maxDenied = 256

// credentials finds the ones to use. Files are looked at, once a second at most, and read when they changed.
type credentials struct {
	opts   Options
	log    *slog.Logger
	timing timing

	mu      sync.Mutex         // guards the fields below; no API call is made under it
	sources map[string]*source // by path
	looked  time.Time
	first   *credential // the ones to use,
	second  *credential // what takes their place where they are refused, if anything does,
	err     error       // and why there are none
	logged  string      // what the log said is wrong with the files; empty for nothing
	told    *string     // the shape of which the log said that first is refused it, as long as it is
}

// source is a place where credentials may be.
type source struct {
	cred   *credential // nil when there never were any
	stamps []stamp     // of the files that cred was made from
	err    error       // what was wrong when they were read last; cred is from before then
}

// stamp tells whether a file changed.
type stamp struct {
	path string
	info fs.FileInfo // nil when it could not be had
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{path: path}
	}
	return stamp{path: path, info: info}
}

func (s stamp) changed() bool {
	now := stampOf(s.path)
	if s.info == nil || now.info == nil {
		return true
	}
	return !os.SameFile(s.info, now.info) || s.info.Size() != now.info.Size() || !s.info.ModTime().Equal(now.info.ModTime())
}

// choice is what to send a request with: the first of list, and the others where that one is refused.
type choice struct {
	list    []*credential
	primary string // the source that comes first when nothing is refused
}

// choose returns the credentials for a request of the given shape ("GET /api/v1/nodes").
//
// Before kubeadm has bound the rights of admin.conf, that file is good for nothing, and super-admin.conf beside
// it is good for everything. So a request that the first was refused goes to the second, and those like it do
// so for a while; then the first is tried again. It is remembered by shape and not as a whole because rights
// are given by resource: with one memory for all, a file that may read Leases and not patch Nodes would be
// dropped and taken up again for ever.
func (c *credentials) choose(now time.Time, shape string) (choice, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look(now)
	if c.first == nil {
		return choice{}, c.err
	}
	ch := choice{list: []*credential{c.first}, primary: c.first.source}
	if c.second == nil {
		return ch, nil
	}
	ch.list = append(ch.list, c.second)
	for _, s := range []string{everything, shape} {
		at, ok := c.first.denied[s]
		if !ok {
			continue
		}
		if now.Sub(at) < c.timing.refused {
			ch.list = []*credential{c.second, c.first}
			return ch, nil
		}
		// This request finds out whether the first is accepted now; those beside it need not.
		c.first.denied[s] = now
	}
	return ch, nil
}

// current returns the credentials that come first.
func (c *credentials) current(now time.Time) (*credential, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look(now)
	return c.first, c.err
}

// judge takes in the answer to a request of some shape. It returns why the credentials were refused, nil if
// they were not.
func (c *credentials) judge(now time.Time, used *credential, shape string, resp *http.Response) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := shape
	switch code := resp.StatusCode; {
	case code == http.StatusUnauthorized:
		key = everything
	case code == http.StatusForbidden:
		delete(used.denied, everything)
	case code == http.StatusTooManyRequests || code >= 500:
		return nil // says nothing of us
	default:
		delete(used.denied, everything)
		delete(used.denied, shape)
		if used == c.first && c.told != nil && (*c.told == shape || *c.told == everything) {
			c.told = nil
			c.log.Info("credentials accepted", "credentials", used.source, "request", shape)
		}
		return nil
	}

	if len(used.denied) >= maxDenied {
		clear(used.denied)
	}
	used.denied[key] = now
	if used == c.first && c.told == nil {
		c.told = &key
		instead := "none"
		if c.second != nil {
			instead = c.second.source
		}
		c.log.Warn("credentials refused", "credentials", used.source, "request", shape, "status", resp.Status, "instead", instead)
	}
	return fmt.Errorf("use credentials of %s: %s: %s", used.source, shape, resp.Status)
}

// look makes first, second and err those of the files as they are now.
func (c *credentials) look(now time.Time) {
	if !c.looked.IsZero() && now.Sub(c.looked) < c.timing.stat {
		return
	}
	c.looked = now
	before := [2]*credential{c.first, c.second}
	c.first, c.second, c.err = c.find()
	for _, old := range before {
		if old != nil && old != c.first && old != c.second {
			old.replaced.Store(true)
		}
	}
	if c.first != before[0] {
		c.told = nil
	}

	// With credentials, what is wrong is that they are not those of the files as they are now.
	wrong := c.err
	if wrong == nil {
		wrong = errors.Join(c.stale(c.first), c.stale(c.second))
	}
	detached := wrong == nil && c.detached(c.first)
	if detached {
		wrong = fmt.Errorf("%s is not what has that name on the node any more", c.first.source)
	}
	text := ""
	if wrong != nil {
		text = wrong.Error()
	}
	if text == c.logged {
		return
	}
	c.logged = text
	switch {
	case c.err != nil:
		c.log.Warn("no credentials", "err", wrong)
	case detached:
		c.log.Warn("credentials replaced where this container cannot see it, going on with what they were: restart the container", "err", wrong)
	case wrong != nil:
		c.log.Warn("credentials unusable, going on with what they were", "err", wrong)
	default:
		c.log.Info("credentials found", "credentials", c.first.source)
	}
}

// stale is what is wrong with the files that a credential in use was read from, if they changed since.
func (c *credentials) stale(cred *credential) error {
	if cred == nil {
		return nil
	}
	return c.sources[cred.source].err
}

// detached says that the file of a credential has no name any more: a container that has a file mounted keeps it when another
// one is put in its place.
func (c *credentials) detached(cred *credential) bool {
	info := stampOf(cred.source).info
	if info == nil || info.IsDir() {
		return false
	}
	of, is := info.Sys().(*syscall.Stat_t)
	return is && of.Nlink == 0
}

// places returns the kubeconfigs to look for, in order.
func (o Options) places() []string {
	home := ""
	if o.Home != "" {
		home = filepath.Join(o.Home, ".kube", "config")
	}
	var list []string
	if o.Kubeconfig != "" && !isFile(o.Kubeconfig, o.AdminConf) && !isFile(o.Kubeconfig, home) {
		list = append(list, o.Kubeconfig)
	}
	list = append(list, o.AdminConf)
	if home != "" {
		list = append(list, home)
	}
	return list
}

// find returns the credentials to use and what may take their place. A file that is not there is passed over;
// one that is there and unusable is an error, for what comes after it is likely to be somebody else.
func (c *credentials) find() (first, second *credential, err error) {
	var missing []string
	for _, path := range c.opts.places() {
		first, err = c.read(path, kubeconfigFile)
		if filepath.Base(path) == "admin.conf" {
			// kubeadm writes super-admin.conf beside it, on the first machine only.
			second, _ = c.read(filepath.Join(filepath.Dir(path), "super-admin.conf"), kubeconfigFile)
		}
		switch {
		case first != nil:
			return first, second, nil
		case second != nil:
			return second, nil, nil
		case !errors.Is(err, errMissing):
			return nil, nil, err
		}
		missing = append(missing, path)
	}

	first, err = c.read(c.opts.InClusterDir, c.serviceAccount)
	if errors.Is(err, errMissing) {
		missing = append(missing, filepath.Join(c.opts.InClusterDir, "token"))
		return nil, nil, fmt.Errorf("find credentials: none of %s exists", strings.Join(missing, ", "))
	}
	return first, nil, err
}

// errMissing is the absence of the file that makes a place one to look in, not of one that it refers to.
var errMissing = errors.New("it does not exist")

// read returns the credential of a place, the same one as long as its files are the same. A file that was good
// and is unusable now is being written, or was written badly: either way the rights it gave are better than
// none, so they are kept until it is good again or gone.
func (c *credentials) read(path string, load func(path string) (*contents, error)) (*credential, error) {
	s := c.sources[path]
	if s == nil {
		s = &source{}
		c.sources[path] = s
	}
	if s.cred != nil && s.err == nil && !slices.ContainsFunc(s.stamps, stamp.changed) {
		return s.cred, nil
	}

	// Stamped before it is read: a change in between is seen at the next look.
	stamps := []stamp{stampOf(path)}
	found, err := load(path)
	var cred *credential
	if err == nil {
		for _, f := range found.files {
			stamps = append(stamps, stampOf(f))
		}
		cred, err = newCredential(path, found, c.opts)
	}
	s.err = err
	switch {
	case err == nil && (s.cred == nil || s.cred.sum != cred.sum):
		s.cred = cred
	case errors.Is(err, errMissing):
		s.cred = nil
	}
	s.stamps = stamps
	if s.cred != nil {
		return s.cred, nil
	}
	return nil, err
}

// contents is what a place holds.
type contents struct {
	config *rest.Config
	raw    []byte   // the kubeconfig
	files  []string // what it refers to
}

// kubeconfigFile reads a kubeconfig.
func kubeconfigFile(path string) (*contents, error) {
	fail := func(err error) (*contents, error) {
		return nil, fmt.Errorf("read kubeconfig %s (k8s_config_file): %w", path, err)
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fail(errors.New("it is a directory; a hostPath mount without `type: File` makes one where the file is missing"))
	}
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(errMissing)
	case err != nil:
		return fail(plainPathError(err))
	case len(raw) == 0:
		return fail(errors.New("it is empty"))
	}
	cfg, err := clientcmd.Load(raw)
	if err != nil {
		// What the decoder says of it helps nobody: it speaks of Go's types.
		return fail(errors.New("it is not a kubeconfig: want YAML or JSON with kind: Config"))
	}
	for _, cluster := range cfg.Clusters {
		cluster.LocationOfOrigin = path
	}
	for _, user := range cfg.AuthInfos {
		user.LocationOfOrigin = path
	}
	if err := clientcmd.ResolveLocalPaths(cfg); err != nil {
		return fail(err)
	}
	ctx := cfg.Contexts[cfg.CurrentContext]
	if ctx == nil {
		return fail(fmt.Errorf("current-context %q is not among its contexts", cfg.CurrentContext))
	}
	cluster := cfg.Clusters[ctx.Cluster]
	if cluster == nil {
		return fail(fmt.Errorf("cluster %q of context %q is not among its clusters", ctx.Cluster, cfg.CurrentContext))
	}
	if ctx.AuthInfo != "" && cfg.AuthInfos[ctx.AuthInfo] == nil {
		return fail(fmt.Errorf("user %q of context %q is not among its users", ctx.AuthInfo, cfg.CurrentContext))
	}
	// client-go takes a server without a scheme for http, and then leaves out the credentials.
	s, err := parseServer(cluster.Server, DefaultPort)
	if err != nil {
		return fail(fmt.Errorf("server of cluster %q: %w", ctx.Cluster, err))
	}
	cluster.Server = s.url()
	rc, err := clientcmd.NewDefaultClientConfig(*cfg, nil).ClientConfig()
	if err != nil {
		return fail(err)
	}
	c := &contents{config: rc, raw: raw}
	for _, f := range []string{rc.CAFile, rc.CertFile, rc.KeyFile, rc.BearerTokenFile} {
		if f != "" {
			c.files = append(c.files, f)
		}
	}
	return c, nil
}

// serviceAccount is what a pod has for the API. The server may be unknown: there are others to dial.
func (c *credentials) serviceAccount(dir string) (*contents, error) {
	token, ca := filepath.Join(dir, "token"), filepath.Join(dir, "ca.crt")
	switch _, err := os.Stat(token); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read the service account's token %s: %w", token, errMissing)
	case err != nil:
		return nil, fmt.Errorf("read the service account's token %s: %w", token, plainPathError(err))
	}
	rc := &rest.Config{BearerTokenFile: token, TLSClientConfig: rest.TLSClientConfig{CAFile: ca}}
	if c.opts.InClusterHost != "" {
		s, err := inClusterServer(c.opts)
		if err != nil {
			return nil, fmt.Errorf("read KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT: %w", err)
		}
		rc.Host = s.url()
	}
	return &contents{config: rc, files: []string{token, ca}}, nil
}

// newCredential makes a credential of what was found in a place, and reads the files that it refers to.
func newCredential(source string, found *contents, o Options) (*credential, error) {
	fail := func(err error) (*credential, error) {
		return nil, fmt.Errorf("use credentials of %s: %w", source, err)
	}
	rc := found.config
	if rc.BearerTokenFile != "" {
		// Read now and with every change that look sees; client-go on its own would take up to a minute.
		b, err := os.ReadFile(rc.BearerTokenFile)
		if err != nil {
			return fail(err)
		}
		if rc.BearerToken = strings.TrimSpace(string(b)); rc.BearerToken == "" {
			return fail(fmt.Errorf("token file %s is empty", rc.BearerTokenFile))
		}
		rc.BearerTokenFile = ""
	}
	if err := rest.LoadTLSFiles(rc); err != nil {
		return fail(err)
	}
	rc.CAFile, rc.CertFile, rc.KeyFile = "", "", "" // their content is in the Data fields now

	c := &credential{source: source, proxy: rc.Proxy, tlsName: rc.ServerName, denied: map[string]time.Time{}}
	if rc.Host != "" {
		s, err := parseServer(rc.Host, DefaultPort)
		if err != nil {
			return fail(err)
		}
		c.server = s
	}
	tc, err := rc.TransportConfig()
	if err != nil {
		return fail(err)
	}
	if c.tls, err = transport.TLSConfigFor(tc); err != nil {
		return fail(err)
	}
	if c.tls == nil {
		c.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	c.localTLS = c.tlsFor("kubernetes", func() []string {
		names := []string{"localhost", "127.0.0.1", "::1"}
		for _, ip := range o.NodeAddrs() {
			names = append(names, ip.Unmap().WithZone("").String())
		}
		return names
	})
	c.wrap = func(rt http.RoundTripper) (http.RoundTripper, error) {
		return transport.HTTPWrappersForConfig(tc, rt)
	}

	h := sha256.New()
	for _, part := range [][]byte{found.raw, []byte(rc.Host), []byte(rc.BearerToken), rc.CAData, rc.CertData, rc.KeyData} {
		fmt.Fprintf(h, "%d\n", len(part))
		h.Write(part)
	}
	h.Sum(c.sum[:0])
	return c, nil
}

// plainPathError leaves out the path and the system call, which the caller has named in better words.
func plainPathError(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
