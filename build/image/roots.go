package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// certificatesPath is where Go's crypto/x509 looks first on Linux.
const certificatesPath = "etc/ssl/certs/ca-certificates.crt"

// rootCertificates are Mozilla's root certificates as PEM, each with its subject above it. They come from a Go module, and
// not from the machine's ca-certificates package: go.sum says which ones they are, so that every machine builds the same
// image, and a newer set is a change to go.mod that can be seen.
//
// A root that Mozilla trusts with a condition (only what was issued before some day) is left out: PEM has no place for
// conditions, and without it the root would be trusted for more than it is.
func rootCertificates() ([]byte, error) {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		c, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			return nil, fmt.Errorf("read a root certificate: %w", err)
		}
		fmt.Fprintf(&out, "# %s\n", c.Subject)
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, fmt.Errorf("write a root certificate: %w", err)
		}
	}
	return out.Bytes(), nil
}
