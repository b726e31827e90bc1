package bgp

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	api "github.com/osrg/gobgp/v3/api"
)

// cable is the way to a router, which may be cut: nobody says a word then.
type cable struct {
	net.Listener
	work sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns []net.Conn
}

// lay has what connects to the cable come from us to the router.
func lay(t *testing.T, to router, us netip.Addr) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{Listener: l}
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(us, 0))}
	pass := func(from, to net.Conn) {
		_, _ = io.Copy(to, from)
		_, _ = from.Close(), to.Close()
	}
	c.work.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := dialer.DialContext(t.Context(), "tcp", to.addr.String())
			if err != nil {
				_ = near.Close()
				continue
			}
			c.mu.Lock()
			c.conns = append(c.conns, near, far)
			c.mu.Unlock()
			c.work.Go(func() { pass(near, far) })
			c.work.Go(func() { pass(far, near) })
		}
	})
	t.Cleanup(c.cut)
	return c
}

func (c *cable) cut() {
	_ = c.Close()
	c.mu.Lock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.mu.Unlock()
	c.work.Wait()
}

// by is the peer at the other end.
func (c *cable) by(p Peer) Peer {
	p.Port = uint16(c.Addr().(*net.TCPAddr).Port)
	return p
}

// A process that takes the place of one that ended without a word finds its routes where they were, and what it does not
// announce itself is forgotten then.
func TestRestart(t *testing.T) {
	r := newRouter(t, theirAS, "", us, func(p *api.Peer) {
		p.GracefulRestart = &api.GracefulRestart{Enabled: true, RestartTime: 60}
		for _, f := range p.AfiSafis {
			f.MpGracefulRestart = &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}}
		}
	})
	p := r.peer(us)
	p.Restart = 40 * time.Second
	first := lay(t, r, us)
	before, stop := speaker(t, Options{})
	before.Complete()
	_ = before.Sync(held("198.51.100.1", "198.51.100.2"))
	if err := before.SetPeers([]Peer{first.by(p)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two routes are there", func() bool { return len(r.routes(t)) == 2 })

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first.cut()
	stop()
	var work sync.WaitGroup
	work.Go(func() {
		for ctx.Err() == nil {
			if _, is := r.routes(t)["198.51.100.1/32"]; !is {
				t.Error("the route was gone for a moment")
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	eventually(t, "the router has lost the session", func() bool { return !r.up(t) })
	if got := r.routes(t); len(got) != 2 {
		t.Errorf("without the process there is %v", got)
	}
	second := lay(t, r, us)
	after, _ := speaker(t, Options{})
	if err := after.SetPeers([]Peer{second.by(p)}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Second) // gobgp takes no session for five
	if r.up(t) {
		t.Error("there is a session before anything is there to be announced, which has the router forget everything")
	}
	_ = after.Sync(held("198.51.100.1"))
	after.Complete()
	eventually(t, "what is not announced any more is gone", func() bool { return len(r.routes(t)) == 1 })
	cancel()
	work.Wait()
	if got := r.restart(t); got != "restarted, and forwards" {
		t.Errorf("the new process said that it has %s", got)
	}
}

// restart is what the peer's OPEN says of a restart (RFC 4724 §3).
func (r router) restart(t *testing.T) string {
	t.Helper()
	text := "no graceful restart"
	err := r.ListPeer(t.Context(), &api.ListPeerRequest{}, func(p *api.Peer) {
		for _, a := range p.State.RemoteCap {
			var c api.GracefulRestartCapability
			if a.UnmarshalTo(&c) != nil {
				continue
			}
			if text = "not restarted"; c.Flags&0x8 != 0 {
				text = "restarted"
			}
			if len(c.Tuples) > 0 && c.Tuples[0].Flags&0x80 != 0 {
				text += ", and forwards"
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// up says that the router has a session.
func (r router) up(t *testing.T) bool {
	t.Helper()
	up := false
	err := r.ListPeer(t.Context(), &api.ListPeerRequest{}, func(p *api.Peer) {
		up = up || p.State.SessionState == api.PeerState_ESTABLISHED
	})
	if err != nil {
		t.Fatal(err)
	}
	return up
}
