package kube

import (
	"context"
	"errors"
	"net"
	"sync"
)

// connections knows every connection that is open or being opened, so that those to one server can be closed
// while http.Transport still thinks well of them.
type connections struct {
	mu     sync.Mutex // guards the fields below, and conn.dropped and conn.Conn
	open   map[*conn]struct{}
	closed bool
}

// conn is a connection, or one being dialled while Conn is nil.
type conn struct {
	net.Conn
	owner   *connections
	client  *client
	to      server
	local   bool
	dropped bool
	stop    context.CancelFunc // ends the dialling
}

var errDropped = errors.New("connection was dropped: the API server is not to be used now")

// dial opens a connection to e for a client.
func (cs *connections) dial(ctx context.Context, by *client, e endpoint, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &conn{owner: cs, client: by, to: e.server, local: e.local, stop: cancel}
	cs.mu.Lock()
	if cs.closed {
		cs.mu.Unlock()
		return nil, errClosed
	}
	cs.open[c] = struct{}{}
	cs.mu.Unlock()

	raw, err := dial(ctx)

	cs.mu.Lock()
	defer cs.mu.Unlock()
	switch {
	case c.dropped:
		if err == nil {
			raw.Close()
		}
		return nil, errDropped
	case err != nil:
		delete(cs.open, c)
		return nil, err
	}
	c.Conn = raw
	return c, nil
}

// Close closes the connection and forgets it.
func (c *conn) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.open, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}

// closeIf closes the connections that match, and stops dialling those that are not there yet.
func (cs *connections) closeIf(match func(*conn) bool) {
	cs.mu.Lock()
	var list []net.Conn
	for c := range cs.open {
		if !match(c) {
			continue
		}
		delete(cs.open, c)
		c.dropped = true
		c.stop()
		if c.Conn != nil {
			list = append(list, c.Conn)
		}
	}
	cs.mu.Unlock()
	for _, c := range list {
		c.Close()
	}
}

// close closes all and opens no more.
func (cs *connections) close() {
	cs.mu.Lock()
	cs.closed = true
	cs.mu.Unlock()
	cs.closeIf(func(*conn) bool { return true })
}
