package cp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestUncovered(t *testing.T) {
	ca := newCA(t)
	cert := ca.serving(t, "kubernetes", "*.example", "10.0.0.11", "fd00::10").Leaf
	tests := []struct{ addresses, want string }{
		{"10.0.0.11 fd00::10 kubernetes vip.example", ""},
		{"10.0.0.10 fd00::10", "10.0.0.10"},
		{"fd00:0::0010", ""},
		{"vip.other.example vip.example", "vip.other.example"},
		{"KUBERNETES", ""},
	}
	for _, tt := range tests {
		if got := strings.Join(uncovered(cert, strings.Fields(tt.addresses)), " "); got != tt.want {
			t.Errorf("%s: %q is missing, want %q", tt.addresses, got, tt.want)
		}
	}
	if got, want := covers(cert), "kubernetes, *.example, 10.0.0.11, fd00::10"; got != want {
		t.Errorf("covers %q, want %q", got, want)
	}
	if got := covers(ca.serving(t).Leaf); got != "nothing" {
		t.Errorf("covers %q", got)
	}
}

func TestCertificateCheck(t *testing.T) {
	ca := newCA(t)
	logs := &logBook{}
	var reads atomic.Int32 // handshakes, each of which takes the certificate that serves now
	var serving, named atomic.Pointer[tls.Certificate]
	set := func(p *atomic.Pointer[tls.Certificate], names ...string) {
		c := ca.serving(t, names...)
		p.Store(&c)
	}
	set(&serving, "kubernetes", "10.0.0.11")
	set(&named, "api.example")
	s := startAPIServer(t, "127.0.0.2", ca.serving(t), says(200, "ok"))
	s.stop()
	s.config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		defer reads.Add(1)
		switch hello.ServerName {
		case "":
			return &tls.Config{Certificates: []tls.Certificate{*serving.Load()}}, nil
		case "api.example":
			return &tls.Config{Certificates: []tls.Certificate{*named.Load()}}, nil
		}
		return nil, errors.New("unexpected server name " + hello.ServerName)
	}
	s.start()

	server := &localServer{port: s.port()}
	server.setOwn(parse("127.0.0.2"))
	c := &certificateCheck{certificate: server.certificate, addresses: []string{"10.0.0.10", "api.example", "fd00::10"}, log: slog.New(logs), kick: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { c.run(ctx); close(done) }()

	// check has the certificates read once, and returns what was said. A second reading is begun only after
	// the first was dealt with.
	check := func() []string {
		t.Helper()
		logs.clear()
		for range 2 {
			before := reads.Load()
			c.check()
			waitFor(t, "the certificates to be read", func() bool { return reads.Load() >= before+2 })
		}
		return logs.lines()
	}
	const fix = "kubeadm: add 10.0.0.10,fd00::10 to apiServer.certSANs of the ClusterConfiguration, move /etc/kubernetes/pki/apiserver.crt and apiserver.key away, " +
		"run `kubeadm init phase certs apiserver --config FILE`, restart kube-apiserver; k3s, rke2: --tls-san 10.0.0.10,fd00::10"
	want := []string{"WARN API server's certificate does not cover the VIP: clients that verify it refuse to connect there" +
		" vip=10.0.0.10,fd00::10 covers=kubernetes, 10.0.0.11; api.example fix=" + fix}
	if diff := cmp.Diff(want, check()); diff != "" {
		t.Errorf("at the start (-want +got):\n%s", diff)
	}
	if got := check(); len(got) != 0 {
		t.Errorf("said again: %q", got)
	}
	set(&serving, "kubernetes", "10.0.0.11", "10.0.0.10")
	if got := check(); len(got) != 1 || !strings.Contains(got[0], " vip=fd00::10 covers=kubernetes, 10.0.0.11, 10.0.0.10; api.example") {
		t.Errorf("one of two added: %q", got)
	}
	set(&serving, "kubernetes", "10.0.0.10")
	if got := check(); len(got) != 1 || !strings.Contains(got[0], " vip=fd00::10 covers=kubernetes, 10.0.0.10; api.example") {
		t.Errorf("another that lacks the same: %q", got)
	}
	set(&serving, "kubernetes", "10.0.0.10", "fd00::10")
	if diff := cmp.Diff([]string{"INFO API server's certificate covers the VIP now vip=10.0.0.10,api.example,fd00::10"}, check()); diff != "" {
		t.Errorf("renewed (-want +got):\n%s", diff)
	}
	set(&serving, "kubernetes", "10.0.0.10", "fd00::10", "more")
	if got := check(); len(got) != 0 {
		t.Errorf("said although all is well: %q", got)
	}
	set(&named, "other.example")
	if got := check(); len(got) != 1 || !strings.Contains(got[0], " vip=api.example ") {
		t.Errorf("the name's certificate: %q", got)
	}
	cancel()
	<-done
}

func TestCertificateNotRead(t *testing.T) {
	s := startAPIServer(t, "127.0.0.1", newCA(t).serving(t), says(200, ""))
	s.stop()
	server := &localServer{port: s.port()}
	c := &certificateCheck{certificate: server.certificate, addresses: []string{"10.0.0.10"}, log: slog.New(slog.DiscardHandler)}
	_, err := c.read(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "read the API server's certificate: dial tcp ") {
		t.Errorf("got %v", err)
	}
}

// The certificate is read when the API server is known to answer, at each takeover, and again while it is not there.
func TestCertificateCheckTimes(t *testing.T) {
	for _, health := range []bool{true, false} {
		t.Run(fmt.Sprintf("health=%v", health), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var reads []time.Duration
				start := time.Now()
				cert := newCA(t).serving(t, "10.0.0.10").Leaf
				n := runNode(t, func(o *Options, n *node) {
					o.Health.Enable = health
					n.certificate = func(context.Context, string) (*x509.Certificate, error) {
						reads = append(reads, time.Since(start).Round(10*ms))
						if time.Since(start) < 6*time.Second {
							return nil, errors.New("refused")
						}
						return cert, nil
					}
				})
				time.Sleep(60100 * ms)
				n.cp.Holding(true)
				time.Sleep(time.Second)
				n.cp.Holding(false)
				time.Sleep(time.Second)
				n.set(func() { n.fault = "refused" })
				time.Sleep(time.Second)
				n.set(func() { n.fault = "" })
				time.Sleep(time.Second)
				n.stop()
				want := []time.Duration{0, 5 * time.Second, 10 * time.Second, 60100 * ms}
				if health {
					want = append(want, 63600*ms) // back again
				}
				if diff := cmp.Diff(want, reads); diff != "" {
					t.Errorf("read at (-want +got):\n%s", diff)
				}
			})
		})
	}
}
