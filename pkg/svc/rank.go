package svc

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
)

// ranking says which of the nodes that may hold a Lease tries first for it: rendezvous hashing with weights (Schindelhauer
// and Schomaker, 2005), so that each node is the first for its share of the Leases, and when one goes only its share is
// spread anew; with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2016), so that chance makes none the first for
// many more than its share. Nodes that see Leases come in another order may differ over a few of them: then two try at
// the same time, or nobody at once.
type ranking struct {
	first map[string]string // by mandate
	load  map[string]int    // by node, how many Leases it is the first for
}

// mostLoad is how much more than its share a node is the first for at most.
const mostLoad = 1.15

func newRanking() *ranking { return &ranking{first: map[string]string{}, load: map[string]int{}} }

// rank is the place of self among itself and its rivals, 0 for the one who tries first.
func (r *ranking) rank(mandate string, self Member, rivals []Member, preferred string) int {
	order := byScore(mandate, append(slices.Clone(rivals), self))
	r.forget(mandate)
	first := r.choose(order, preferred)
	name := order[first].Name
	r.first[mandate] = name
	r.load[name]++
	mine := slices.IndexFunc(order, func(m Member) bool { return m.Name == self.Name })
	switch {
	case mine == first:
		return 0
	case mine < first:
		return mine + 1
	}
	return mine
}

// choose is the index of the one who tries first.
func (r *ranking) choose(order []Member, preferred string) int {
	if i := slices.IndexFunc(order, func(m Member) bool { return m.Name == preferred }); i >= 0 {
		return i
	}
	sum := 0
	for _, m := range order {
		sum += m.Weight
	}
	if sum == 0 {
		return 0
	}
	for i, m := range order {
		share := float64(len(r.first)+1) * float64(m.Weight) / float64(sum)
		if float64(r.load[m.Name]) < math.Ceil(mostLoad*share) {
			return i
		}
	}
	return 0
}

// forget takes a Lease out of the account.
func (r *ranking) forget(mandate string) {
	node, is := r.first[mandate]
	if !is {
		return
	}
	delete(r.first, mandate)
	if r.load[node]--; r.load[node] == 0 {
		delete(r.load, node)
	}
}

// byScore sorts nodes by their scores for a mandate, the best first. Those of weight 0 are the last.
func byScore(mandate string, nodes []Member) []Member {
	scores := make(map[string]float64, len(nodes))
	for _, n := range nodes {
		scores[n.Name] = score(mandate, n.Name, n.Weight)
	}
	slices.SortFunc(nodes, func(a, b Member) int {
		return cmp.Or(cmp.Compare(scores[b.Name], scores[a.Name]), cmp.Compare(a.Name, b.Name))
	})
	return nodes
}

// score is weight / -ln(u), where u is the hash of mandate and node, between 0 and 1; for weight 0 it is u - 1.
func score(mandate, node string, weight int) float64 {
	sum := sha256.Sum256([]byte(mandate + "\x00" + node))
	u := (float64(binary.BigEndian.Uint64(sum[:])>>11) + 0.5) / (1 << 53)
	if weight == 0 {
		return u - 1
	}
	return float64(weight) / -math.Log(u)
}
