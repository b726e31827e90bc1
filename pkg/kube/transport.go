package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"
)

// client is the http.RoundTripper of one client: it shares its connections with nobody.
type client struct {
	access *Access
	name   string

	mu    sync.Mutex // guards the fields below
	pools map[poolKey]*pool
}

var _ http.RoundTripper = (*client)(nil)

// poolKey: a client certificate is part of a connection, so connections are kept by credential too.
type poolKey struct {
	cred *credential
	endpoint
}

// pool is a client's connections to one server with one credential.
type pool struct {
	http *http.Transport
	rt   http.RoundTripper // http with what credentials add to a request
}

// RoundTrip sends a request to the first API server that answers, with credentials that it accepts. The answer
// is whatever the server said, 401 and 403 included if that is what all our credentials get.
func (c *client) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		defer req.Body.Close()
	}
	a := c.access
	if err := a.begin(); err != nil {
		return nil, err
	}
	defer a.running.Done()

	began := time.Now()
	body, err := replayable(req)
	if err != nil {
		return nil, err
	}
	shape := req.Method + " " + req.URL.Path
	ch, err := a.creds.choose(began, shape)
	if err != nil {
		a.withoutCredentials(err)
		return nil, err
	}

	var best reply // what the first credential got, or a later one that was let in
	for _, cred := range ch.list {
		resp, from, err := c.ask(req, body, cred)
		if err != nil {
			if best.resp != nil {
				break
			}
			if !errors.Is(req.Context().Err(), context.Canceled) && !errors.Is(err, errClosed) {
				a.unanswered(began, cred.source, err)
			}
			return nil, err
		}
		denied := a.creds.judge(time.Now(), cred, shape, resp)
		switch {
		case best.resp == nil:
			best = reply{resp, cred, from, denied}
		case denied == nil:
			best.resp.Body.Close()
			best = reply{resp, cred, from, nil}
		default:
			resp.Body.Close()
		}
		if denied == nil {
			break
		}
	}
	a.answered(best, ch.primary)
	return best.resp, nil
}

// reply is a server's answer and how it was had.
type reply struct {
	resp   *http.Response
	cred   *credential
	from   endpoint
	denied error // why the credential was refused, nil if it was not
}

// replayable returns a function that gives the request's body, from its beginning each time.
func replayable(req *http.Request) (func() (io.ReadCloser, error), error) {
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		return func() (io.ReadCloser, error) { return nil, nil }, nil
	case req.GetBody != nil:
		return req.GetBody, nil
	}
	b, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, fmt.Errorf("read the body of the request: %w", err)
	}
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }, nil
}

// send sends the request to one server. A failure on a connection that was opened for an earlier request says
// nothing of the server, which may have been restarted since: it is tried again on a new one.
func (c *client) send(ctx context.Context, req *http.Request, body func() (io.ReadCloser, error), cred *credential, at *attempt) (*http.Response, error) {
	const tries = 3 // HTTP/1.1 keeps two connections
	e := at.endpoint
	p, err := c.pool(cred, e)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		var reused bool
		out := req.Clone(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GotConn: func(info httptrace.GotConnInfo) {
				reused = info.Reused
				at.connected.Store(true)
			},
		}))
		if out.Body, err = body(); err != nil {
			return nil, fmt.Errorf("replay the body of the request: %w", err)
		}
		out.GetBody = nil
		if out.Body != nil {
			out.GetBody = body
		}
		out.Host = ""
		out.URL.Scheme, out.URL.Host = e.scheme, e.hostPort()
		out.URL.Path = e.path + out.URL.Path
		if out.URL.RawPath != "" {
			out.URL.RawPath = e.path + out.URL.RawPath
		}
		if out.Header.Get("User-Agent") == "" {
			out.Header.Set("User-Agent", c.access.opts.UserAgent)
		}
		resp, err := p.rt.RoundTrip(out)
		if err == nil || !reused || ctx.Err() != nil || try == tries {
			return resp, err
		}
		p.http.CloseIdleConnections()
	}
}

// pool returns the connections to a server.
func (c *client) pool(cred *credential, e endpoint) (*pool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := poolKey{cred, e}
	if p := c.pools[key]; p != nil {
		return p, nil
	}
	for k, p := range c.pools {
		if k.cred.replaced.Load() {
			p.http.CloseIdleConnections() // what is in use goes on until it ends
			delete(c.pools, k)
		}
	}

	sni := "kubernetes"
	switch {
	case e.named && cred.tlsName != "":
		sni = cred.tlsName
	case e.named, c.access.address != nil:
		sni = e.host
	}
	tm := c.access.timing
	dialer := &net.Dialer{
		Timeout: tm.dial,
		// HTTP/2 has its pings; this is for what speaks HTTP/1.1.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: tm.pingAfter, Interval: time.Second, Count: 3},
	}
	if !e.addr().IsValid() {
		dialer.Timeout = tm.resolve
	}
	ht := &http.Transport{
		// Compressing a list of thousands takes an API server seconds, and it is this node's own that is asked.
		DisableCompression: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return c.access.conns.dial(ctx, c, e, func(ctx context.Context) (net.Conn, error) {
				return dialer.DialContext(ctx, network, addr)
			})
		},
		TLSClientConfig:     cred.tlsFor(sni, func() []string { return []string{e.host} }),
		TLSHandshakeTimeout: tm.handshake,
		IdleConnTimeout:     90 * time.Second,
		MaxIdleConnsPerHost: 2, // HTTP/2 needs one
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: tm.pingAfter, PingTimeout: tm.pingTimeout},
	}
	if e.named {
		ht.Proxy = cred.proxy // it is for that server: the others are near
	}
	rt, err := cred.wrap(ht)
	if err != nil {
		return nil, fmt.Errorf("use credentials of %s: %w", cred.source, err)
	}
	p := &pool{http: ht, rt: rt}
	c.pools[key] = p
	return p, nil
}

func (c *client) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pools {
		p.http.CloseIdleConnections()
	}
}

func isWatch(req *http.Request) bool {
	w := req.URL.Query().Get("watch")
	return w == "true" || w == "1" || strings.Contains(req.URL.Path, "/watch/")
}

// serverError tells an answer that another server may not give: its etcd is away, it is starting or stopping.
func serverError(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}
