package cp

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	// maxAnswer bounds what one answer may make us read: a failing /livez is some kilobytes long.
	maxAnswer = 64 << 10
	// maxBody is the part of an answer's body that is kept.
	maxBody = 16 << 10
)

var errTooLong = errors.New("the answer is too long")

// A conn is one connection on which requests follow each other. It belongs to one goroutine, and that goroutine
// reads from it between two requests as well: so it learns at once that the other end is gone, and a probe wakes
// up no other goroutine, which is most of what a probe costs.
type conn struct {
	net.Conn
	target  target
	note    string
	opened  time.Time
	request []byte

	br      *bufio.Reader
	left    int   // of maxAnswer
	readErr error // why there is no more to read
	unhook  func() bool
}

// A response is what matters of an HTTP response.
type response struct {
	status int
	body   string
	last   bool // the connection cannot be used again
}

// start makes c ready for the first request. The connection is closed when ctx ends.
func (c *conn) start(ctx context.Context) {
	c.br = bufio.NewReader(c)
	c.unhook = context.AfterFunc(ctx, func() { c.Conn.Close() })
}

// Read bounds what is read for one answer.
func (c *conn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		c.readErr = errTooLong
		return 0, errTooLong
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	c.readErr = err
	return n, err
}

// exchange sends the request and reads its answer. After an error the connection is of no use.
func (c *conn) exchange(deadline time.Time) (response, error) {
	c.left, c.readErr = maxAnswer, nil
	if err := c.SetDeadline(deadline); err != nil {
		return response{}, err
	}
	if _, err := c.Write(c.request); err != nil {
		return response{}, err
	}
	resp, err := http.ReadResponse(c.br, nil)
	for err == nil && resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
		resp, err = http.ReadResponse(c.br, nil) // RFC 9110 section 15.2: interim responses come first
	}
	if err != nil {
		// Half an answer is "malformed" to ReadResponse, whatever kept the other half away.
		return response{}, cmp.Or(c.readErr, err)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return response{}, err
	}
	return response{
		status: resp.StatusCode,
		body:   string(body[:min(len(body), maxBody)]),
		// What is left would be taken for the next answer.
		last: resp.Close || len(body) > maxBody || c.br.Buffered() > 0,
	}, nil
}

// idle waits until the next request is due, and says earlier that the connection has come to its end: io.EOF as a
// rule, or nil when the other end said something unasked, such as 408 Request Timeout. A timeout is no end: a read
// that timed out can be repeated, in crypto/tls too.
func (c *conn) idle(until time.Time) error {
	c.left = maxAnswer
	if err := c.SetDeadline(until); err != nil {
		return err
	}
	_, err := c.br.Peek(1)
	return err
}

// close ends the connection. Its error is of no use to anybody.
func (c *conn) close() {
	c.unhook()
	c.Conn.Close()
}
