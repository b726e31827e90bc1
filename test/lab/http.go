package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// attempt is how long one request of the lab's own may take before it is tried again.
const attempt = 2 * time.Second

// tlsConfig trusts the cluster's authority and, with client set, presents super-admin's certificate.
func (p *pki) tlsConfig(client bool) (*tls.Config, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(p.ca) {
		return nil, errors.New("read the cluster's CA: no certificate in it")
	}
	c := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if client {
		pair, err := tls.X509KeyPair(p.cert, p.key)
		if err != nil {
			return nil, fmt.Errorf("read super-admin's certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// get asks for a page from the host and wants 200.
func (h *Host) get(ctx context.Context, url string, p *pki) error {
	_, err := h.fetch(ctx, url, p)
	return err
}

func (h *Host) fetch(ctx context.Context, url string, p *pki) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	var config *tls.Config
	if p != nil {
		var err error
		if config, err = p.tlsConfig(true); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := h.HTTPClient(config).Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return body, fmt.Errorf("get %s: %s", url, resp.Status)
	}
	return body, nil
}

// fetchInsecure is a kubelet's probe: it does not verify certificates, and any status below 400 will do.
func (h *Host) fetchInsecure(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := h.HTTPClient(&tls.Config{InsecureSkipVerify: true}).Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("get %s: %s", url, resp.Status)
	}
	return body, err
}
