package cp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// certificateTimeout bounds the reading of one certificate.
	certificateTimeout = 2 * time.Second
	// certificateAgain is how long an API server that could not be asked for its certificate is left alone.
	certificateAgain = 5 * time.Second
)

// uncovered lists those of addresses - IP addresses and DNS names - that certificate is not for.
func uncovered(certificate *x509.Certificate, addresses []string) []string {
	return slices.DeleteFunc(slices.Clone(addresses), func(a string) bool {
		return certificate.VerifyHostname(a) == nil
	})
}

// covers lists what a certificate is for.
func covers(certificate *x509.Certificate) string {
	names := slices.Clone(certificate.DNSNames)
	for _, ip := range certificate.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}

// A coverage is what was found of the API server's certificate.
type coverage struct {
	missing []string
	covers  string
}

// A certificateCheck tells the operator when the API server's serving certificate does not cover the VIP: clients
// that come by the VIP refuse it then, and what they say does not lead to the cause.
type certificateCheck struct {
	// certificate reads it, asking with a server name, or with none if that is empty.
	certificate func(ctx context.Context, serverName string) (*x509.Certificate, error)
	addresses   []string // as they were configured: a name is what clients verify, not what it resolves to
	log         *slog.Logger
	kick        chan struct{}
}

// check asks for a check; one that is due already is enough.
func (c *certificateCheck) check() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

func (c *certificateCheck) run(ctx context.Context) {
	var last coverage
	var again <-chan time.Time
	for {
		select {
		case <-c.kick:
		case <-again:
		case <-ctx.Done():
			return
		}
		again = nil
		now, err := c.read(ctx)
		switch {
		case err != nil:
			c.log.Debug("API server's certificate not read", "err", err)
			again = time.After(certificateAgain)
		case !slices.Equal(now.missing, last.missing) || len(now.missing) > 0 && now.covers != last.covers:
			c.say(now)
			last = now
		}
	}
}

func (c *certificateCheck) say(now coverage) {
	if len(now.missing) == 0 {
		c.log.Info("API server's certificate covers the VIP now", "vip", strings.Join(c.addresses, ","))
		return
	}
	vips := strings.Join(now.missing, ",")
	c.log.Warn("API server's certificate does not cover the VIP: clients that verify it refuse to connect there",
		"vip", vips, "covers", now.covers,
		"fix", fmt.Sprintf("kubeadm: add %s to apiServer.certSANs of the ClusterConfiguration, move /etc/kubernetes/pki/apiserver.crt and apiserver.key away, "+
			"run `kubeadm init phase certs apiserver --config FILE`, restart kube-apiserver; k3s, rke2: --tls-san %s", vips, vips))
}

// read takes the certificate as a client would get it: with the server name for a DNS name, without one for an IP
// address (RFC 6066 section 3).
func (c *certificateCheck) read(ctx context.Context) (coverage, error) {
	var now coverage
	var shown []string
	byName := make(map[string][]string) // addresses by the server name to ask with
	var order []string
	for _, a := range c.addresses {
		name := a
		if _, err := netip.ParseAddr(a); err == nil {
			name = ""
		}
		if _, ok := byName[name]; !ok {
			order = append(order, name)
		}
		byName[name] = append(byName[name], a)
	}
	for _, name := range order {
		certificate, err := c.certificate(ctx, name)
		if err != nil {
			return coverage{}, err
		}
		now.missing = append(now.missing, uncovered(certificate, byName[name])...)
		if s := covers(certificate); !slices.Contains(shown, s) {
			shown = append(shown, s)
		}
	}
	now.covers = strings.Join(shown, "; ")
	return now, nil
}

// certificate is the serving certificate of this node's API server, unverified.
func (s *localServer) certificate(ctx context.Context, serverName string) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, certificateTimeout)
	defer cancel()
	addrs, _ := s.addrs()
	var errs []error
	for _, addr := range addrs {
		d := tls.Dialer{Config: &tls.Config{ServerName: serverName, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}}
		c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(addr, s.port).String())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		certificate, err := leaf(c)
		if err := errors.Join(err, c.Close()); err != nil {
			return nil, fmt.Errorf("read the certificate of %s: %w", c.RemoteAddr(), err)
		}
		return certificate, nil
	}
	return nil, fmt.Errorf("read the API server's certificate: %w", errors.Join(errs...))
}

func leaf(c net.Conn) (*x509.Certificate, error) {
	secure, ok := c.(*tls.Conn)
	if !ok {
		return nil, errors.New("not a TLS connection")
	}
	chain := secure.ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return nil, errors.New("none was presented")
	}
	return chain[0], nil
}
