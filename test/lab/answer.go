package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"
)

// backendEnv names the backend that a copy of this program is; its arguments are the ports.
const backendEnv = "KUBE_VIP_LAB_BACKEND"

// An Answer is what a backend says to whoever asks it.
type Answer struct {
	// Backend is its name.
	Backend string `json:"backend"`
	// Client is who asks, as the backend sees it.
	Client netip.Addr `json:"client"`
}

// answer is the JSON of an Answer to the client at a net.Addr.
func answer(name, client string) ([]byte, error) {
	from, err := netip.ParseAddrPort(client)
	if err != nil {
		return nil, err
	}
	return json.Marshal(Answer{Backend: name, Client: from.Addr().Unmap().WithZone("")})
}

// serveBackend is what a backend does, until it is killed.
func serveBackend(name string) error {
	if len(os.Args) < 2 {
		return errors.New("serve: no port is named")
	}
	failed := make(chan error)
	for _, port := range os.Args[1:] {
		tcp, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		udp, err := net.ListenPacket("udp", ":"+port)
		if err != nil {
			return err
		}
		go func() { failed <- serveHTTP(name, tcp) }()
		go func() { failed <- serveUDP(name, udp) }()
	}
	return <-failed
}

// serveHTTP answers every request.
func serveHTTP(name string, ln net.Listener) error {
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := answer(name, r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(body)
	})}
	return server.Serve(ln)
}

// serveUDP answers every datagram.
func serveUDP(name string, conn net.PacketConn) error {
	buf := make([]byte, 2048)
	for {
		_, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		body, err := answer(name, from.String())
		if err != nil {
			return err
		}
		_, _ = conn.WriteTo(body, from) // a client that is gone
	}
}

// Ask asks the backend behind an address who it is and whom it sees, from a port of its own each time. The network
// is "tcp" (HTTP, a new connection) or "udp" (one datagram). It takes no longer than two seconds.
func (h *Host) Ask(ctx context.Context, network string, to netip.AddrPort) (Answer, error) {
	var a Answer
	var body []byte
	var err error
	switch network {
	case "tcp":
		body, err = h.fetch(ctx, "http://"+to.String()+"/", nil)
	case "udp":
		body, err = h.send(ctx, to)
	default:
		err = net.UnknownNetworkError(network)
	}
	if err == nil {
		err = json.Unmarshal(body, &a)
	}
	if err == nil && a.Backend == "" {
		err = fmt.Errorf("no backend said %q", strings.TrimSpace(string(body)))
	}
	if err != nil {
		return Answer{}, fmt.Errorf("ask %s %s from %s: %w", network, to, h.Name, err)
	}
	return a, nil
}

// send sends a datagram and returns the one that comes back.
func (h *Host) send(ctx context.Context, to netip.AddrPort) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	var conn *net.UDPConn
	err := h.Do(func() (err error) {
		conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		return err
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write([]byte("who?")); err != nil {
		return nil, err
	}
	buf := make([]byte, 2048)
	n, err := conn.Read(buf)
	return buf[:n], err
}
