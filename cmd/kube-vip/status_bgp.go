package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	coordinationv1 "k8s.io/api/coordination/v1"

	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/svc"
)

// statusBGPCommand is `kube-vip status bgp`: every node's BGP peers.
func (p *program) statusBGPCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bgp",
		Short: "List the BGP peers of every node, and how the sessions are",
		Long: `bgp lists the BGP peers of every node on which kube-vip runs: the state of the session and since when, how many routes
the peer is told of, how many sessions have ended, and why there is none. Instances tell it in their member Leases.`,
		Example: `  kubectl -n kube-system exec ds/kube-vip-ds -- /kube-vip status bgp
  kube-vip status bgp --k8sConfigPath admin.conf -o json`,
		Args: noArguments,
	}
	p.reports(cmd, func(_ *outlook, w svc.World) report { return speakers(w.Leases, w.Now) })
	return cmd
}

// speaking is one node's peers, as its instance tells of them.
type speaking struct {
	Node string `json:"node"`
	// Live says that the instance runs; if not, Peers are as they were.
	Live  bool      `json:"live"`
	Heard time.Time `json:"heard"`
	Peers []peering `json:"peers"`
	// Error is why what it tells cannot be read.
	Error string `json:"error,omitempty"`
}

// allSpeaking are the nodes that tell of BGP peers, by name.
type allSpeaking []speaking

// speakers are the nodes that tell of BGP peers, by name.
func speakers(leases []*coordinationv1.Lease, now time.Time) allSpeaking {
	list := allSpeaking{}
	for _, l := range leases {
		m, ok := ha.SeenIn(l)
		text := l.Annotations[peersNote]
		if !ok || text == "" {
			continue
		}
		one := speaking{Node: m.Node, Live: m.Live(now), Heard: m.Heard, Peers: []peering{}}
		if err := json.Unmarshal([]byte(text), &one.Peers); err != nil {
			one.Error = fmt.Sprintf("annotation %s of Lease %s/%s: %v", peersNote, l.Namespace, l.Name, err)
		}
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b speaking) int { return cmp.Compare(a.Node, b.Node) })
	return list
}

// render is the list for people.
func (list allSpeaking) render(now time.Time) string {
	if len(list) == 0 {
		return "No instance tells of BGP peers: none runs with --bgp (env bgp_enable), or none has reached the API yet.\n"
	}
	return columns("", list.rows(now))
}

// rows are the list's, with their heading.
func (list allSpeaking) rows(now time.Time) [][]string {
	rows := [][]string{{"NODE", "PEER", "AS", "STATE", "SINCE", "BFD", "ROUTES", "ENDED", "WHY"}}
	for _, s := range list {
		switch {
		case s.Error != "":
			rows = append(rows, []string{s.Node, "-", "-", "-", "-", "-", "-", "-", s.Error})
		case len(s.Peers) == 0:
			rows = append(rows, []string{s.Node, "-", "-", "-", "-", "-", "-", "-", "there is no peer for this node"})
		}
		for _, peer := range s.Peers {
			state, why, bfd := string(peer.State), cmp.Or(peer.Error, peer.Lacks), cmp.Or(peer.BFD, "-")
			if !s.Live {
				state, bfd, why = "-", "-", fmt.Sprintf("the instance was last heard of %s ago", age(now, &s.Heard))
			}
			name := peer.Name
			if a := peer.Address; a.IsValid() && a.String() != name {
				name = fmt.Sprintf("%s (%s)", name, a)
			}
			as := "-" // of an unnumbered peer it may be any
			if peer.AS != 0 {
				as = strconv.FormatUint(uint64(peer.AS), 10)
			}
			rows = append(rows, []string{s.Node, name, as, state, age(now, &peer.Since), bfd, strconv.Itoa(peer.Routes), strconv.Itoa(peer.Flaps), strings.ReplaceAll(why, "\n", "; ")})
		}
	}
	return rows
}
