package join

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/cluster-bootstrap/token/jws"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/pubkeypin"
)

const (
	token   = "abcdef.0123456789abcdef"
	forged  = "abcdef.fedcba9876543210"
	unknown = "ghijkl.0123456789abcdef"
	noPin   = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// TestRead asks an API server over TLS, as a node does that joins.
func TestRead(t *testing.T) {
	s := newAPIServer()
	s.allows = func(shown, verb, object string) bool {
		return object == "configmaps/cluster-info" || shown == token && object == "configmaps/kube-vip"
	}
	server := httptest.NewTLSServer(s)
	defer server.Close()
	endpoint := strings.TrimPrefix(server.URL, "https://")
	pin := pubkeypin.Hash(server.Certificate())
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	stranger := httptest.NewUnstartedServer(nil) // whose CA is another
	stranger.Close()

	otherCA := newCA(t)

	kubeconfig := func(ca []byte) *clientcmdapi.Config {
		c := clientcmdapi.NewConfig()
		c.Clusters["c"] = &clientcmdapi.Cluster{Server: server.URL, CertificateAuthorityData: ca}
		c.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
		c.AuthInfos["u"] = &clientcmdapi.AuthInfo{}
		c.CurrentContext = "c"
		return c
	}
	dir := t.TempDir()
	file := func(name string, c *clientcmdapi.Config) string {
		path := filepath.Join(dir, name)
		if err := clientcmd.WriteToFile(*c, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	withUser := kubeconfig(ca)
	withUser.AuthInfos["u"].Token = token
	bare, full := file("bare.conf", kubeconfig(ca)), file("full.conf", withUser)

	info := func(ca []byte, signer string) *corev1.ConfigMap {
		text, err := clientcmd.Write(*kubeconfig(ca))
		if err != nil {
			t.Fatal(err)
		}
		id, secret, _ := strings.Cut(signer, ".")
		signature, err := jws.ComputeDetachedSignature(string(text), id, secret)
		if err != nil {
			t.Fatal(err)
		}
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cluster-info"}, Data: map[string]string{"kubeconfig": string(text), "jws-kubeconfig-" + id: signature}}
	}
	good := info(ca, token)
	ours := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: Name}}
	some.in(ours, "kube-system/lock")
	usual := Source{Endpoint: endpoint, Token: token, Pins: []string{pin}, User: token}
	with := func(change func(*Source)) Source {
		s := usual
		change(&s)
		return s
	}

	for name, c := range map[string]struct {
		info   *corev1.ConfigMap // of kube-public; nil is good
		ours   *corev1.ConfigMap
		source Source
		is     error  // what the error is
		want   string // what it says; empty for the handout
	}{
		"as kubeadm joins":             {ours: ours, source: usual},
		"by one of several pins":       {ours: ours, source: with(func(s *Source) { s.Pins = []string{noPin, pin} })},
		"without pins, and it is said": {ours: ours, source: with(func(s *Source) { s.Pins, s.Unpinned = nil, true })},
		"without pins":                 {ours: ours, source: with(func(s *Source) { s.Pins = nil }), want: "has no caCertHashes, and does not say unsafeSkipCAVerification: true"},
		"another CA":                   {ours: ours, source: with(func(s *Source) { s.Pins = []string{noPin} }), is: ErrUntrusted, want: "its CA has the public key " + pin + ", and discovery.bootstrapToken.caCertHashes has " + noPin},
		"a pin that is none":           {ours: ours, source: with(func(s *Source) { s.Pins = []string{"md5:1"} }), want: `caCertHashes: unknown hash format "md5"`},
		"a token that is none":         {ours: ours, source: with(func(s *Source) { s.Token = "abc" }), want: "discovery.bootstrapToken.token: "},
		"an unknown token":             {ours: ours, source: with(func(s *Source) { s.Token = unknown }), want: "does not know the token ghijkl"},
		"signed by somebody else":      {info: info(ca, forged), ours: ours, source: usual, is: ErrUntrusted, want: "is not signed with the token"},
		"signed for another CA":        {info: info(otherCA, token), ours: ours, source: with(func(s *Source) { s.Pins, s.Unpinned = nil, true }), is: ErrUntrusted, want: "certificate signed by unknown authority"},
		"nothing is kept":              {source: usual, is: ErrNone, want: "NotFound"},
		"somebody else's":              {ours: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: Name}}, source: usual, is: ErrNone, want: "it is not of kube-vip"},
		"a user without rights":        {ours: ours, source: with(func(s *Source) { s.User = unknown }), is: ErrNone, want: "Forbidden"},
		"nobody answers":               {ours: ours, source: with(func(s *Source) { s.Endpoint = stranger.Listener.Addr().String() }), want: "connection refused"},
		"a kubeconfig":                 {ours: ours, source: Source{Kubeconfig: full, User: unknown}},
		"a kubeconfig without a user":  {ours: ours, source: Source{Kubeconfig: bare, User: token}},
		"a kubeconfig of nobody":       {ours: ours, source: Source{Kubeconfig: bare}, is: ErrNone, want: "Forbidden"},
		"no kubeconfig":                {ours: ours, source: Source{Kubeconfig: filepath.Join(dir, "none")}, want: "read the kubeconfig " + filepath.Join(dir, "none")},
	} {
		t.Run(name, func(t *testing.T) {
			s.objects = map[string]map[string]any{}
			if c.info == nil {
				c.info = good
			}
			s.put(t, "/api/v1/namespaces/kube-public/configmaps/cluster-info", c.info)
			if c.ours != nil {
				s.put(t, mapPath, c.ours)
			}
			got, err := Read(t.Context(), c.source)
			if c.want == "" {
				if diff := cmp.Diff(some, got); diff != "" || err != nil {
					t.Errorf("%v (-want +got):\n%s", err, diff)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
			if c.is != nil && !errors.Is(err, c.is) || c.is == nil && (errors.Is(err, ErrNone) || errors.Is(err, ErrUntrusted)) {
				t.Errorf("%v is not what it should be: %v", err, c.is)
			}
			if strings.Contains(err.Error(), token) {
				t.Errorf("%v has the token in it", err)
			}
		})
	}
}

// newCA is the certificate of an authority that nobody has heard of.
func newCA(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := certutil.NewSelfSignedCACert(certutil.Config{CommonName: "kubernetes"}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: certutil.CertificateBlockType, Bytes: ca.Raw})
}
