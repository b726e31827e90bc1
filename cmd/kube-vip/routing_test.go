package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kube-vip.io/kube-vip/pkg/bgp"
	"kube-vip.io/kube-vip/pkg/config"
)

// TestPeersFileAsAWhole: of a file that cannot be used nothing counts, be it only one name in one peer that is wrong.
func TestPeersFileAsAWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.yaml")
	r := &routing{c: config.BGP{AS: 65000, PeersFile: path}, log: slog.New(slog.DiscardHandler)}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	blue := func(want string) {
		t.Helper()
		if got, _, err := r.resolve("blue"); got != want || err != nil {
			t.Errorf("blue is %q, want %q; %v", got, want, err)
		}
	}
	write(`{communities: {blue: "65000:1"}, peers: [{address: 192.0.2.1, as: 65001, communities: [blue]}]}`)
	if err := r.readFile(); err != nil {
		t.Fatal(err)
	}
	blue("65000:1")
	write(`{communities: {blue: "65000:2"}, peers: [{address: 192.0.2.1, as: 65001, communities: [blu]}]}`)
	err := r.readFile()
	if want := "bgp_peers_file " + path + `: peer 192.0.2.1: communities: there is no community "blu"; did you mean blue?`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	blue("65000:1")
	if _, _, peers, err := r.configured(); len(peers) != 1 || err != nil {
		t.Errorf("the peers are %v; %v", peers, err)
	}
	write(`{communities: {blue: "65000:3"}}`)
	if err := r.readFile(); err != nil {
		t.Fatal(err)
	}
	blue("65000:3")
}

// TestWatchedHops: a peer that may be more than one hop away, however that is said, is watched as such.
func TestWatchedHops(t *testing.T) {
	r := &routing{speaker: bgp.New(bgp.Options{})}
	for _, c := range []struct {
		peer config.Peer
		want bool
	}{
		{config.Peer{}, false}, {config.Peer{TTLSecurity: 1}, false}, {config.Peer{TTLSecurity: 2}, true}, {config.Peer{TTL: 1}, false},
		{config.Peer{TTL: 2}, true}, {config.Peer{Multihop: true}, true},
	} {
		c.peer.Address, c.peer.BFD.Enable = "192.0.2.1", true
		if got := r.watched([]config.Peer{c.peer}); len(got) != 1 || got[0].Multihop != c.want {
			t.Errorf("multihop %t, TTL %d, TTL security %d: got %+v", c.peer.Multihop, c.peer.TTL, c.peer.TTLSecurity, got)
		}
	}
}
