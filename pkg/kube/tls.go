package kube

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
)

// tlsFor is the TLS side of dialling one server: sni is the name asked for, and names are accepted in its
// certificate beside those that every API server of the cluster may have.
func (c *credential) tlsFor(sni string, names func() []string) *tls.Config {
	cfg := c.tls.Clone()
	cfg.ServerName = sni
	if cfg.InsecureSkipVerify { // insecure-skip-tls-verify
		return cfg
	}
	// crypto/tls verifies a certificate for exactly one name, and which of its names an API server's certificate
	// has depends on who made the cluster: kubeadm puts in "kubernetes" and the advertised address, not always
	// 127.0.0.1; a load balancer's may have nothing but its own. So its verification is switched off and the
	// whole of it done here: the chain up to the cluster's CA, the validity, the usage, and one of the names.
	// VerifyConnection is called in every handshake, resumed ones too.
	cfg.InsecureSkipVerify = true
	roots := cfg.RootCAs
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return fmt.Errorf("verify the API server: it sent no certificate")
		}
		leaf := cs.PeerCertificates[0]
		opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()} // KeyUsages: nil means ServerAuth
		for _, ca := range cs.PeerCertificates[1:] {
			opts.Intermediates.AddCert(ca)
		}
		if _, err := leaf.Verify(opts); err != nil {
			return fmt.Errorf("verify the API server's certificate with the CA of %s: %w", c.source, err)
		}

		accepted := append(names(), "kubernetes", "kubernetes.default.svc")
		for _, n := range []string{c.server.host, c.tlsName} {
			if n != "" {
				accepted = append(accepted, n)
			}
		}
		if slices.ContainsFunc(accepted, func(n string) bool { return leaf.VerifyHostname(n) == nil }) {
			return nil
		}
		has := slices.Clone(leaf.DNSNames)
		for _, ip := range leaf.IPAddresses {
			has = append(has, ip.String())
		}
		return fmt.Errorf("verify the API server's certificate: it is for %s, and for none of %s",
			strings.Join(has, ", "), strings.Join(accepted, ", "))
	}
	return cfg
}
