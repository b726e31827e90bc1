package e2e

import (
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/cluster-bootstrap/token/jws"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/pubkeypin"

	handout "kube-vip.io/kube-vip/pkg/join"
	"kube-vip.io/kube-vip/test/lab"
)

const (
	tokenID     = "abcdef"
	tokenSecret = "0123456789abcdef"
)

// TestJoin has a third node take its settings from two that run already, with what `kubeadm token create --print-join-command`
// prints and nothing else.
func TestJoin(t *testing.T) {
	for _, family := range []lab.Family{lab.IPv4, lab.IPv6} {
		t.Run(string(family), func(t *testing.T) {
			l := lab.New(t, lab.Options{Family: family})
			v := l.VIPs[0]
			c := &cluster{Lab: l, pods: map[*lab.Node]*lab.Pod{},
				manifest: generate(t, "manifest", "pod", "--arp", "--address", v.String(), "--leaseDuration", "6", "--instanceName", "of-the-first", "--leaseAnnotations", `{"team":"net"}`)}
			for _, n := range l.Nodes[:2] {
				c.run(t, n, lab.PodOptions{})
			}
			holder := c.holder(t)
			kube, err := c.Kube()
			if err != nil {
				t.Fatal(err)
			}
			kept := func() (bool, error) {
				m, err := kube.CoreV1().ConfigMaps(handout.Namespace).Get(within(t, patience), handout.Name, metav1.GetOptions{})
				if apierrors.IsNotFound(err) {
					return false, nil
				}
				return err == nil && m.Data["leaseDuration"] == "6" && m.Data["instanceName"] == "", err
			}
			eventually(t, "the leader has written the ConfigMap", kept)

			endpoint := netip.AddrPortFrom(v, apiPort).String()
			pin := bootstrapTokens(t, kube, c.CA(), endpoint)
			third, file := l.Nodes[2], filepath.Join(t.TempDir(), "kube-vip.yaml")
			run := func(args ...string) (string, error) {
				return third.Run(within(t, patience), lab.Binary(t), append([]string{"kubeadm", "join", endpoint, "--output", file, "--token"}, args...)...)
			}
			token := tokenID + "." + tokenSecret
			other := "sha256:" + strings.Repeat("0", 64)
			if out, err := run(token, "--discovery-token-ca-cert-hash", other); err == nil || !strings.Contains(out, "this is not known to be the cluster that is meant: its CA has the public key "+pin) {
				t.Errorf("with another pin: %v\n%s", err, out)
			}
			if out, err := run(tokenID+".fedcba9876543210", "--discovery-token-ca-cert-hash", pin, "--arp"); err == nil || !strings.Contains(out, "is not signed with the token") {
				t.Errorf("with another token: %v\n%s", err, out)
			}
			if _, err := os.Stat(file); err == nil {
				t.Error("a manifest is written all the same")
			}
			out, err := run(token, "--discovery-token-ca-cert-hash", pin, "--control-plane", "--certificate-key", strings.Repeat("0", 64))
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Log(out)
			if c.manifest, err = os.ReadFile(file); err != nil {
				t.Fatal(err)
			}
			for text, is := range map[string]bool{"\"6\"": true, "team": true, "of-the-first": false} {
				if strings.Contains(string(c.manifest), text) != is {
					t.Errorf("the manifest has %s: %t\n%s", text, !is, c.manifest)
				}
			}
			c.run(t, third, lab.PodOptions{})
			if err := c.pods[third].WaitReady(within(t, patience)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the third is healthy", func() (bool, error) { return healthy(within(t, patience), c.pods[third]) })

			// To change a flag, it is run again.
			if out, err := run(token, "--discovery-token-ca-cert-hash", pin, "--leaseRetry", "2"); err != nil || strings.Contains(out, "listens on") || !strings.Contains(out, " is written; ") {
				t.Errorf("another time: %v\n%s", err, out)
			}

			// What somebody deletes is written again, by the next leader at the latest.
			if err := kube.CoreV1().ConfigMaps(handout.Namespace).Delete(within(t, patience), handout.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := c.pods[holder].Stop(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the next leader has written the ConfigMap", kept)

			// The right is for this ConfigMap alone.
			if out, err := third.Run(within(t, patience), lab.Binary(t), "kubeadm", "join", "--kubeconfig", powerless(t, c.CA(), endpoint), "--address", v.String(), "--arp", "--output", file); err != nil || !strings.Contains(out, "none come from the cluster") {
				t.Errorf("with the token of another group: %v\n%s", err, out)
			}
		})
	}
}

// bootstrapTokens makes what `kubeadm init` does for nodes that join with a bootstrap token, and returns the pin of the CA.
func bootstrapTokens(t *testing.T, kube kubernetes.Interface, ca []byte, endpoint string) (pin string) {
	t.Helper()
	ctx := within(t, patience)
	info := clientcmdapi.NewConfig()
	info.Clusters[""] = &clientcmdapi.Cluster{Server: "https://" + endpoint, CertificateAuthorityData: ca}
	text, err := clientcmd.Write(*info)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := jws.ComputeDetachedSignature(string(text), tokenID, tokenSecret)
	if err != nil {
		t.Fatal(err)
	}
	for id, group := range map[string]string{tokenID: "system:bootstrappers:kubeadm:default-node-token", "others": "system:bootstrappers:others"} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id}, Type: corev1.SecretTypeBootstrapToken, StringData: map[string]string{
			"token-id": id, "token-secret": tokenSecret, "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true", "auth-extra-groups": group,
		}}
		if _, err := kube.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	meta := metav1.ObjectMeta{Name: "cluster-info"}
	public := metav1.NamespacePublic
	if _, err := kube.CoreV1().ConfigMaps(public).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"kubeconfig": string(text), "jws-kubeconfig-" + tokenID: signature}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := kube.RbacV1().Roles(public).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{meta.Name}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name}, Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "system:anonymous"}}}
	if _, err := kube.RbacV1().RoleBindings(public).Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(ca)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return pubkeypin.Hash(cert)
}

// powerless is a kubeconfig with a bootstrap token of a group that kubeadm does not know.
func powerless(t *testing.T, ca []byte, endpoint string) string {
	t.Helper()
	c := clientcmdapi.NewConfig()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: "https://" + endpoint, CertificateAuthorityData: ca}
	c.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: "others." + tokenSecret}
	c.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	c.CurrentContext = "c"
	file := filepath.Join(t.TempDir(), "other.conf")
	if err := clientcmd.WriteToFile(*c, file); err != nil {
		t.Fatal(err)
	}
	return file
}
