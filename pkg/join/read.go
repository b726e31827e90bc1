package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	certutil "k8s.io/client-go/util/cert"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/jws"
	bootstraptoken "k8s.io/kubernetes/cmd/kubeadm/app/apis/bootstraptoken/v1"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/pubkeypin"
)

// readDeadline bounds one question to an API server that somebody waits for.
const readDeadline = 10 * time.Second

// ErrUntrusted is that whoever answers could not prove to be the cluster that is meant.
var ErrUntrusted = errors.New("this is not known to be the cluster that is meant")

// ErrNone is that the cluster has no settings for nodes that join, or does not tell them.
var ErrNone = errors.New("the cluster has no settings for nodes that join")

// errUnsigned is that a cluster knows nothing of a token.
var errUnsigned = errors.New("it has expired, was deleted, or was made a moment ago; kubeadm token create makes one")

// Source is how a node reaches a cluster of which it is no member yet. The zero value is no way.
type Source struct {
	// Endpoint is the API's, a host and a port.
	Endpoint string
	// Token proves that the cluster is the one that is meant, as kubeadm's discovery.bootstrapToken.token does.
	Token string
	// Pins are the CA's, as kubeadm's caCertHashes; Unpinned goes by the token alone, which everybody who has it can forge.
	Pins     []string
	Unpinned bool
	// Kubeconfig is a file that takes the place of all of these.
	Kubeconfig string
	// User is the bootstrap token that the API is asked with; with a Kubeconfig, where that has no credentials.
	User string
}

// Read is the handout of a cluster.
func Read(ctx context.Context, s Source) (Handout, error) {
	c, err := s.config(ctx)
	if err != nil {
		return Handout{}, err
	}
	client, err := client(c)
	if err != nil {
		return Handout{}, err
	}
	m, err := client.CoreV1().ConfigMaps(Namespace).Get(ctx, Name, metav1.GetOptions{})
	_, forged := errors.AsType[*tls.CertificateVerificationError](err)
	switch what := fmt.Sprintf("read the ConfigMap %s/%s at %s", Namespace, Name, c.Host); {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return Handout{}, fmt.Errorf("%s: %w (%w)", what, ErrNone, err)
	case forged:
		return Handout{}, fmt.Errorf("%s: %w: %w", what, ErrUntrusted, err)
	case err != nil:
		return Handout{}, fmt.Errorf("%s: %w", what, err)
	case m.Annotations[leaseNote] == "":
		return Handout{}, fmt.Errorf("%s: %w (it is not of kube-vip)", what, ErrNone)
	}
	return handoutOf(m), nil
}

func client(c *rest.Config) (kubernetes.Interface, error) {
	c.Timeout = readDeadline
	return kubernetes.NewForConfig(c)
}

// config is whom to ask, when it is known to be the right one, and as whom.
func (s Source) config(ctx context.Context) (*rest.Config, error) {
	if s.Kubeconfig != "" {
		c, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("read the kubeconfig %s: %w", s.Kubeconfig, err)
		}
		credentials, err := c.TransportConfig()
		if err != nil {
			return nil, fmt.Errorf("read the kubeconfig %s: %w", s.Kubeconfig, err)
		}
		if !credentials.HasCertAuth() && !credentials.HasTokenAuth() && !credentials.HasBasicAuth() && c.ExecProvider == nil && c.AuthProvider == nil {
			c.BearerToken = s.User
		}
		return c, nil
	}
	ca, err := s.discover(ctx)
	if err != nil {
		return nil, err
	}
	return &rest.Config{Host: "https://" + s.Endpoint, BearerToken: s.User, TLSClientConfig: rest.TLSClientConfig{CAData: ca}}, nil
}

// discover is the cluster's CA: what anybody may read there, who need not be trusted yet, is signed with the token, and its key is
// among the pins. Of several authorities those are left out that are not pinned.
func (s Source) discover(ctx context.Context) ([]byte, error) {
	token, err := bootstraptoken.NewBootstrapTokenString(s.Token)
	if err != nil {
		return nil, fmt.Errorf("discovery.bootstrapToken.token: %w", err)
	}
	pins := pubkeypin.NewSet()
	if err := pins.Allow(s.Pins...); err != nil {
		return nil, fmt.Errorf("discovery.bootstrapToken.caCertHashes: %w", err)
	}
	if pins.Empty() && !s.Unpinned {
		return nil, errors.New("discovery.bootstrapToken has no caCertHashes, and does not say unsafeSkipCAVerification: true either: the cluster's CA cannot be trusted")
	}
	client, err := client(&rest.Config{Host: "https://" + s.Endpoint, TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	if err != nil {
		return nil, err
	}
	info, err := client.CoreV1().ConfigMaps(metav1.NamespacePublic).Get(ctx, bootstrapapi.ConfigMapClusterInfo, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read the ConfigMap %s/%s at %s: %w", metav1.NamespacePublic, bootstrapapi.ConfigMapClusterInfo, s.Endpoint, err)
	}
	text := info.Data[bootstrapapi.KubeConfigKey]
	signature := info.Data[bootstrapapi.JWSSignatureKeyPrefix+token.ID]
	switch {
	case signature == "":
		return nil, fmt.Errorf("the cluster at %s does not know the token %s…: %w", s.Endpoint, token.ID, errUnsigned)
	case !jws.DetachedTokenIsValid(signature, text, token.ID, token.Secret):
		return nil, fmt.Errorf("the cluster at %s: %w: what it says of itself is not signed with the token", s.Endpoint, ErrUntrusted)
	}
	ca, err := authorities(text)
	if err != nil {
		return nil, fmt.Errorf("the ConfigMap %s/%s at %s: %w", metav1.NamespacePublic, bootstrapapi.ConfigMapClusterInfo, s.Endpoint, err)
	}
	var trusted []byte
	var hashes []string
	for _, cert := range ca {
		hashes = append(hashes, pubkeypin.Hash(cert))
		if pins.Empty() || pins.CheckAny([]*x509.Certificate{cert}) == nil {
			trusted = append(trusted, pem.EncodeToMemory(&pem.Block{Type: certutil.CertificateBlockType, Bytes: cert.Raw})...)
		}
	}
	if len(trusted) == 0 {
		return nil, fmt.Errorf("the cluster at %s: %w: its CA has the public key %s, and discovery.bootstrapToken.caCertHashes has %s", s.Endpoint, ErrUntrusted, strings.Join(hashes, ", "), strings.Join(s.Pins, ", "))
	}
	return trusted, nil
}

// authorities are those of the only cluster in a kubeconfig.
func authorities(kubeconfig string) ([]*x509.Certificate, error) {
	c, err := clientcmd.Load([]byte(kubeconfig))
	if err != nil {
		return nil, err
	}
	if len(c.Clusters) != 1 {
		return nil, fmt.Errorf("its kubeconfig has %d clusters, want one", len(c.Clusters))
	}
	for _, cluster := range c.Clusters {
		return certutil.ParseCertsPEM(cluster.CertificateAuthorityData)
	}
	return nil, nil
}
