package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kube-vip.io/kube-vip/pkg/bfd"
	"kube-vip.io/kube-vip/pkg/bgp"
)

// peersNote is the annotation of a member Lease that lists the BGP peers of the node, each a peering in JSON.
const peersNote = "kube-vip.io/bgp-peers"

// peering is how it stands with a peer, and what BFD says of the path to it; empty without BFD.
type peering struct {
	bgp.Status
	BFD string `json:"bfd,omitempty"`
}

// peerings are all of this node.
func (r *routing) peerings() []peering {
	list := []peering{}
	paths := r.paths.Status()
	for _, s := range r.speaker.Peers() {
		one := peering{Status: s}
		if i := slices.IndexFunc(paths, func(p bfd.Status) bool { return p.Key == s.Name }); i >= 0 {
			one.BFD = pathText(paths[i])
		}
		list = append(list, one)
	}
	return list
}

// pathText is what BFD says of a path: its state, and the time in which a loss is found or why it is not up.
func pathText(s bfd.Status) string {
	switch {
	case s.State == bfd.Up:
		return fmt.Sprintf("%s (detection %s)", s.State, s.Detection)
	case s.Fault != "":
		return fmt.Sprintf("%s: %s", s.State, s.Fault)
	case s.Diagnostic != bfd.NoDiagnostic:
		return fmt.Sprintf("%s: %s", s.State, s.Diagnostic)
	}
	return s.State.String()
}

// toldOfPeer has others see how it stands with this node's peers, on the Node and where instances tell of themselves. How many
// routes there are is no reason to write.
func (w *wiring) toldOfPeer(before, now bgp.Status) {
	w.peers.record(before, now)
	w.publishPeers(before.Up() != now.Up() || before.Error != now.Error || before.Address != now.Address || before.Lacks != now.Lacks)
}

// Reasons of Events on the Node.
const (
	reasonSessionUp   = "BGPSessionUp"
	reasonSessionDown = "BGPSessionDown"
	reasonNoSession   = "NoBGPSession"
	reasonPeers       = "BadBGPPeers"
)

// record tells of a session that came up or went down, and why there is none, as Events on the Node.
func (r *routing) record(before, now bgp.Status) {
	peer := fmt.Sprintf("%s (AS %d)", now.Name, now.AS)
	switch {
	case now.Up() && !before.Up():
		r.events.Note(r.self(), reasonSessionUp, "BGP session with "+peer+" is up")
	case !now.Up() && before.Up() && now.Cause == bgp.CauseStopped:
		r.events.Note(r.self(), reasonSessionDown, "BGP session with "+peer+" was ended by kube-vip: it stops, or the peer's settings changed")
	case !now.Up() && before.Up():
		r.events.Warn(r.self(), reasonSessionDown, "BGP session with "+peer+" is down: "+cmp.Or(now.Error, "nothing is known of why"))
	case !now.Up() && now.Error != before.Error && now.Error != "":
		r.events.Warn(r.self(), reasonNoSession, "no BGP session with "+peer+": "+now.Error)
	}
}

// self is this node for Events: "kubectl describe node" looks for those with the name in place of the UID, as the kubelet's are.
func (r *routing) self() *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.node, UID: types.UID(r.node)}}
}

func (w *wiring) publishPeers(atOnce bool) {
	if w.members == nil {
		return
	}
	w.telling.Lock()
	defer w.telling.Unlock()
	list, err := json.Marshal(w.peers.peerings())
	if err != nil {
		w.log.Warn("BGP peers cannot be told of", "err", err)
		return
	}
	w.members.SetNote(peersNote, string(list), atOnce)
}
