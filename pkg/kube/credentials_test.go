package kube

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Which file is used, by which exist.
func TestCredentialOrder(t *testing.T) {
	ca := newAuthority(t)
	tests := []struct {
		name   string
		exist  []string // below the test's directory
		conf   string   // Options.Kubeconfig
		first  string
		second string
	}{
		{name: "the configured file", exist: []string{"my.conf", "k/admin.conf", "k/super-admin.conf", "home/.kube/config"}, conf: "my.conf", first: "my.conf"},
		{name: "it is not there", exist: []string{"k/admin.conf"}, conf: "my.conf", first: "k/admin.conf"},
		{name: "it is one of the usual", exist: []string{"k/admin.conf", "home/.kube/config"}, conf: "home/.kube/config", first: "k/admin.conf"},
		{name: "admin.conf and its substitute", exist: []string{"k/admin.conf", "k/super-admin.conf", "home/.kube/config"}, first: "k/admin.conf", second: "k/super-admin.conf"},
		{name: "super-admin.conf alone", exist: []string{"k/super-admin.conf", "home/.kube/config"}, first: "k/super-admin.conf"},
		{name: "a configured admin.conf has a substitute too", exist: []string{"other/admin.conf", "other/super-admin.conf"}, conf: "other/admin.conf", first: "other/admin.conf", second: "other/super-admin.conf"},
		{name: "at home", exist: []string{"home/.kube/config", "sa/token", "sa/ca.crt"}, first: "home/.kube/config"},
		{name: "in the cluster", exist: []string{"sa/token", "sa/ca.crt"}, first: "sa"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			in := func(name string) string {
				if name == "" {
					return ""
				}
				return filepath.Join(dir, name)
			}
			for _, name := range tt.exist {
				switch filepath.Base(name) {
				case "token":
					writeFile(t, in(name), []byte("abc"))
				case "ca.crt":
					writeFile(t, in(name), ca.pem())
				default:
					kubeconfig{server: "https://127.0.0.9:6443", ca: ca.pem(), token: name}.write(t, in(name))
				}
			}
			a := newAccess(t, Options{Kubeconfig: in(tt.conf), Home: in("home"), AdminConf: in("k/admin.conf"), InClusterDir: in("sa"), InClusterHost: "127.0.0.9"})
			ch, err := a.creds.choose(time.Now(), "GET /")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, c := range ch.list {
				got = append(got, c.source)
			}
			want := []string{in(tt.first)}
			if tt.second != "" {
				want = append(want, in(tt.second))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("credentials (-want +got):\n%s", diff)
			}
		})
	}
}

// Every way in which a file can be wrong gives an error that names the file and what is wrong.
func TestCredentialErrors(t *testing.T) {
	ca := newAuthority(t)
	good := kubeconfig{server: "https://127.0.0.9:6443", ca: ca.pem(), token: "t"}
	with := func(edit func(*clientcmdapi.Config)) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			k := good
			k.edit = edit
			k.write(t, path)
		}
	}
	content := func(text string) func(*testing.T, string) {
		return func(t *testing.T, path string) { writeFile(t, path, []byte(text)) }
	}
	tests := []struct {
		name string
		make func(t *testing.T, path string)
		want []string
	}{
		{"missing", func(*testing.T, string) {}, []string{"find credentials", "admin.conf", "token", "exists"}},
		{"a directory", func(t *testing.T, path string) {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}, []string{"admin.conf", "directory", "type: File"}},
		{"empty", content(""), []string{"admin.conf", "empty"}},
		{"not YAML", content("\tnonsense"), []string{"admin.conf"}},
		{"another thing", content("a: b"), []string{"admin.conf", "current-context"}},
		{"no such context", with(func(c *clientcmdapi.Config) { c.CurrentContext = "y" }), []string{"admin.conf", `"y"`}},
		{"no such cluster", with(func(c *clientcmdapi.Config) { c.Contexts["x"].Cluster = "d" }), []string{"admin.conf", `"d"`}},
		{"no such user", with(func(c *clientcmdapi.Config) { c.Contexts["x"].AuthInfo = "v" }), []string{"admin.conf", `"v"`}},
		{"bad server", with(func(c *clientcmdapi.Config) { c.Clusters["c"].Server = "https://127.0.0.9:api" }), []string{"admin.conf", "127.0.0.9:api"}},
		{"no server", with(func(c *clientcmdapi.Config) { c.Clusters["c"].Server = "" }), []string{"admin.conf", "empty"}},
		{"bad CA", with(func(c *clientcmdapi.Config) { c.Clusters["c"].CertificateAuthorityData = []byte("x") }), []string{"admin.conf", "root certificates"}},
		{"certificate file missing", with(func(c *clientcmdapi.Config) {
			c.AuthInfos["u"].ClientCertificate, c.AuthInfos["u"].ClientKey = "gone.crt", "gone.key"
		}), []string{"admin.conf", "gone.crt"}},
		{"token file empty", with(func(c *clientcmdapi.Config) { c.AuthInfos["u"].Token, c.AuthInfos["u"].TokenFile = "", "/dev/null" }), []string{"admin.conf", "/dev/null", "empty"}},
		{"CA and insecure", with(func(c *clientcmdapi.Config) { c.Clusters["c"].InsecureSkipTLSVerify = true }), []string{"admin.conf", "insecure"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "admin.conf")
			tt.make(t, path)
			a := newAccess(t, Options{AdminConf: path, InClusterDir: filepath.Join(dir, "sa")})
			_, err := get(t, a.HTTPClient("test"), "/")
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range tt.want {
				if !contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
			if _, _, stateErr := a.State(); stateErr == nil || !contains(err.Error(), stateErr.Error()) {
				t.Errorf("State says %v, the request %v", stateErr, err)
			}
			if _, err := a.LocalTLS(); err == nil {
				t.Error("LocalTLS gives something without credentials")
			}
		})
	}
}

// A kubeconfig that appears, changes, is spoilt and goes away while requests are made: each time the next
// request uses what there is, and the log has one line for each change however many requests there are.
func TestKubeconfigLives(t *testing.T) {
	c := newCluster(t)
	c.local.start()
	if err := os.Remove(c.opts.AdminConf); err != nil {
		t.Fatal(err)
	}
	a := c.access()
	client := a.HTTPClient("test")
	lastUser := func() string {
		all := c.local.seen()
		return all[len(all)-1].user
	}
	use := func(user string) {
		t.Helper()
		eventually(t, "requests are made as "+user, func() bool {
			code, err := get(t, client, "/version")
			return err == nil && code == http.StatusOK && lastUser() == user
		})
		for range 5 {
			mustGet(t, client, "/version")
		}
	}

	for range 5 {
		if _, err := get(t, client, "/version"); err == nil || !contains(err.Error(), c.opts.AdminConf) {
			t.Fatalf("without a kubeconfig: %v; want an error that names it", err)
		}
	}
	c.admin("alice").write(t, c.opts.AdminConf)
	use("alice")
	c.admin("bob").write(t, c.opts.AdminConf)
	use("bob")

	// Half written, and written badly: what was read before is still good.
	for i, text := range []string{"", "apiVersion: v1\nkind: Conf"} {
		writeFile(t, c.opts.AdminConf, []byte(text))
		eventually(t, "the log says that the file is unusable", func() bool {
			mustGet(t, client, "/version")
			return lastUser() == "bob" && c.log.count("credentials unusable") == i+1
		})
	}
	c.admin("carol").write(t, c.opts.AdminConf)
	use("carol")
	if err := os.Remove(c.opts.AdminConf); err != nil {
		t.Fatal(err)
	}
	eventually(t, "requests fail without the file", func() bool {
		_, err := get(t, client, "/version")
		return err != nil
	})
	c.admin("carol").write(t, c.opts.AdminConf)
	use("carol")

	want := map[string]int{"no credentials": 2, "credentials unusable": 2, "credentials found": 3, "API server unreachable": 0, "API server reachable": 2}
	got := map[string]int{}
	for text := range want {
		got[text] = c.log.count(text)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log lines (-want +got):\n%s\n%q", diff, c.log.all())
	}
}

// admin.conf has no rights until kubeadm has bound them: super-admin.conf does the work until then, for the
// requests that are refused and for no others.
func TestSuperAdmin(t *testing.T) {
	c := newCluster(t)
	bound := make(chan struct{})
	c.local.admit = func(r *http.Request, user string) int {
		if r.URL.Path == "/version" || user == "super" {
			return http.StatusOK
		}
		select {
		case <-bound:
			return http.StatusOK
		default:
			return http.StatusForbidden
		}
	}
	c.local.start()
	c.admin("super").write(t, filepath.Join(c.dir, "super-admin.conf"))
	a := c.access()
	a.creds.timing.refused = time.Hour // until told otherwise
	client := a.HTTPClient("test")

	for range 10 {
		mustGet(t, client, "/api/v1/nodes")
		mustGet(t, client, "/version")
	}
	counts := func() map[string]int {
		m := map[string]int{}
		for _, r := range c.local.seen() {
			m[r.user+" "+r.path]++
		}
		return m
	}
	got := counts()
	if n := got["super /api/v1/nodes"]; n != 10 {
		t.Errorf("super-admin.conf was used for %d of 10 requests that admin.conf is refused", n)
	}
	if n := got["admin /api/v1/nodes"]; n != 1 {
		t.Errorf("admin.conf was tried %d times, want once", n)
	}
	if n := got["admin /version"]; n != 10 {
		t.Errorf("admin.conf was used for %d of 10 requests that it is allowed", n)
	}
	if n := c.log.count("credentials refused"); n != 1 {
		t.Errorf("log says %d times that admin.conf is refused: %q", n, c.log.all())
	}

	a.creds.timing.refused = time.Nanosecond // still refused, and tried each time
	for range 3 {
		mustGet(t, client, "/api/v1/nodes")
	}
	if got := counts(); got["admin /api/v1/nodes"] != 4 || got["super /api/v1/nodes"] != 13 {
		t.Errorf("requests when admin.conf is tried again: %v", got)
	}
	if n := c.log.count("credentials"); n != 2 { // with "reachable"
		t.Errorf("log = %q", c.log.all())
	}

	a.creds.timing.refused = 200 * time.Millisecond
	close(bound)
	eventually(t, "admin.conf is used again", func() bool {
		mustGet(t, client, "/api/v1/nodes")
		all := c.local.seen()
		return all[len(all)-1].user == "admin"
	})
	before := len(c.local.seen())
	for range 10 {
		mustGet(t, client, "/api/v1/nodes")
	}
	for _, r := range c.local.seen()[before:] {
		if r.user != "admin" {
			t.Fatalf("a request was made as %s after admin.conf was accepted", r.user)
		}
	}
	if n := c.log.count("credentials accepted"); n != 1 {
		t.Errorf("log says %d times that admin.conf is accepted: %q", n, c.log.all())
	}
	if n := c.log.count("API server reachable"); n != 1 {
		t.Errorf("log says %d times that the API server is reachable: %q", n, c.log.all())
	}
}

// A 401 is about who we are: once one request was refused so, the others go to the substitute at once.
func TestUnauthorizedIsForAll(t *testing.T) {
	c := newCluster(t)
	c.local.admit = func(_ *http.Request, user string) int {
		if user == "admin" {
			return http.StatusUnauthorized
		}
		return http.StatusOK
	}
	c.local.start()
	c.admin("super").write(t, filepath.Join(c.dir, "super-admin.conf"))
	a := c.access()
	a.creds.timing.refused = time.Hour
	for _, path := range []string{"/a", "/b", "/c"} {
		mustGet(t, a.HTTPClient("test"), path)
	}
	if n := len(c.local.seen()); n != 4 {
		t.Errorf("%d requests for 3 calls, want 4: %v", n, c.local.seen())
	}
}

// 401 and 403 without a substitute reach the caller as they are, and the log once.
func TestRefused(t *testing.T) {
	for _, code := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		t.Run(http.StatusText(code), func(t *testing.T) {
			c := newCluster(t)
			c.local.admit = func(*http.Request, string) int { return code }
			c.local.start()
			for _, substitute := range []bool{false, true} {
				if substitute {
					c.admin("super").write(t, filepath.Join(c.dir, "super-admin.conf"))
				}
				a := c.access()
				client := a.HTTPClient("test")
				logged := c.log.count("credentials refused")
				for range 5 {
					if got, err := get(t, client, "/api"); err != nil || got != code {
						t.Fatalf("GET = %d, %v; want %d", got, err, code)
					}
				}
				if n := c.log.count("credentials refused") - logged; n != 1 {
					t.Errorf("log has it %d times, want once: %q", n, c.log.all())
				}
				if _, server, err := a.State(); server != c.local.addr || err == nil || !contains(err.Error(), ".conf") {
					t.Errorf("State = %s, %v; want the server and the file", server, err)
				}
			}
			if n := len(c.local.seen()); n > 5+10 {
				t.Errorf("%d requests for 10 calls, 5 of them with two credentials", n)
			}
		})
	}
}

// A file that has lost its name is what a container sees whose mounted file was replaced on the node: it is used on, and told once.
func TestDetached(t *testing.T) {
	c := newCluster(t)
	c.local.start()
	a := c.access()
	file := filepath.Join(c.dir, "named.conf")
	c.admin("admin").write(t, file)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a.creds.opts.Kubeconfig = fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	const told = "restart the container"
	look := func() string {
		t.Helper()
		a.creds.looked = time.Time{}
		cred, err := a.creds.current(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return cred.source
	}
	if source := look(); source != a.creds.opts.Kubeconfig || c.log.count(told) != 0 {
		t.Fatalf("%s is used, the log says %q", source, c.log.all())
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if source := look(); source != a.creds.opts.Kubeconfig || c.log.count(told) != 1 {
			t.Fatalf("%s is used, the log says %q", source, c.log.all())
		}
	}
}

// Tokens and certificates in files of their own are read again when they change, and the pod's too.
func TestCredentialFilesRotate(t *testing.T) {
	tests := []struct {
		name string
		make func(t *testing.T, c *cluster)
		set  func(t *testing.T, c *cluster, user string)
	}{
		{
			name: "token file",
			make: func(t *testing.T, c *cluster) {
				k := c.admin("")
				k.edit = func(cfg *clientcmdapi.Config) { cfg.AuthInfos["u"].TokenFile = "token" } // beside the kubeconfig
				k.write(t, c.opts.AdminConf)
			},
			set: func(t *testing.T, c *cluster, user string) {
				writeFile(t, filepath.Join(c.dir, "token"), []byte(user+"\n"))
			},
		},
		{
			name: "certificate files",
			make: func(t *testing.T, c *cluster) {
				k := c.admin("")
				k.edit = func(cfg *clientcmdapi.Config) {
					cfg.AuthInfos["u"].ClientCertificate, cfg.AuthInfos["u"].ClientKey = "u.crt", "u.key"
					cfg.Clusters["c"].CertificateAuthorityData, cfg.Clusters["c"].CertificateAuthority = nil, "ca.crt"
				}
				k.write(t, c.opts.AdminConf)
			},
			set: func(t *testing.T, c *cluster, user string) {
				writeFile(t, filepath.Join(c.dir, "ca.crt"), c.ca.pem())
				cert, key := c.ca.issue(user, nil)
				writeFile(t, filepath.Join(c.dir, "u.crt"), cert)
				writeFile(t, filepath.Join(c.dir, "u.key"), key)
			},
		},
		{
			name: "service account",
			make: func(t *testing.T, c *cluster) {
				if err := os.Remove(c.opts.AdminConf); err != nil {
					t.Fatal(err)
				}
				writeFile(t, filepath.Join(c.opts.InClusterDir, "ca.crt"), c.ca.pem())
			},
			set: func(t *testing.T, c *cluster, user string) {
				writeFile(t, filepath.Join(c.opts.InClusterDir, "token"), []byte(user))
			},
		},
		{
			name: "exec plugin",
			make: func(t *testing.T, c *cluster) {
				k := c.admin("")
				k.edit = func(cfg *clientcmdapi.Config) {
					cfg.AuthInfos["u"].Exec = &clientcmdapi.ExecConfig{
						APIVersion: "client.authentication.k8s.io/v1", Command: "./plugin", InteractiveMode: clientcmdapi.NeverExecInteractiveMode,
					}
				}
				k.write(t, c.opts.AdminConf)
			},
			set: func(t *testing.T, c *cluster, user string) {
				// It is run again when its token is refused.
				c.local.mu.Lock()
				c.local.admit = func(_ *http.Request, got string) int {
					if got != user {
						return http.StatusUnauthorized
					}
					return http.StatusOK
				}
				c.local.mu.Unlock()
				script := "#!/bin/sh\necho '{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{\"token\":\"" + user + "\"}}'\n"
				path := filepath.Join(c.dir, "plugin")
				writeFile(t, path, []byte(script))
				if err := os.Chmod(path, 0o755); err != nil {
					t.Fatal(err)
				}
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			tt.make(t, c)
			tt.set(t, c, "first")
			c.local.start()
			client := c.access().HTTPClient("test")
			for _, user := range []string{"first", "second"} {
				tt.set(t, c, user)
				eventually(t, "requests are made as "+user, func() bool {
					if code, err := get(t, client, "/version"); err != nil || code != http.StatusOK {
						return false
					}
					return slices.ContainsFunc(c.local.seen(), func(r seen) bool { return r.user == user })
				})
			}
		})
	}
}

// The same content written again is no change: connections stay.
func TestSameKubeconfigKeepsConnections(t *testing.T) {
	c := newCluster(t)
	c.local.start()
	a := c.access()
	client := a.HTTPClient("test")
	raw, err := os.ReadFile(c.opts.AdminConf)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		mustGet(t, client, "/version")
		writeFile(t, c.opts.AdminConf, raw)
		a.creds.mu.Lock()
		a.creds.looked = time.Time{}
		a.creds.mu.Unlock()
	}
	if n := c.local.connections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestMissingIsNotAnyENOENT(t *testing.T) {
	_, err := kubeconfigFile(filepath.Join(t.TempDir(), "admin.conf"))
	if !errors.Is(err, errMissing) {
		t.Errorf("kubeconfigFile = %v, want errMissing", err)
	}
}
