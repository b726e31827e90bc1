package svc

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

func nodesOf(weights ...int) []Member {
	var list []Member
	for i, w := range weights {
		list = append(list, Member{Name: fmt.Sprintf("cp%d", i+1), Weight: w})
	}
	return list
}

// firsts has every node rank itself for many Leases and counts who is the first for how many.
func firsts(t *testing.T, prefix string, many int, nodes []Member) map[string]int {
	t.Helper()
	rankings := map[string]*ranking{}
	for _, n := range nodes {
		rankings[n.Name] = newRanking()
	}
	count := map[string]int{}
	for i := range many {
		mandate := fmt.Sprintf("shop/kubevip-%s-%d", prefix, i)
		var ranks []int
		for j, n := range nodes {
			others := slices.Delete(slices.Clone(nodes), j, j+1)
			rank := rankings[n.Name].rank(mandate, n, others, "")
			ranks = append(ranks, rank)
			if rank == 0 {
				count[n.Name]++
			}
		}
		slices.Sort(ranks)
		for want, rank := range ranks {
			if rank != want {
				t.Fatalf("the ranks for %s are %v", mandate, ranks)
			}
		}
	}
	return count
}

// TestSpread: of 300 Leases no node of three is the first for more than 1.25 times its share, whatever their names. By
// hashing alone it is for some.
func TestSpread(t *testing.T) {
	for _, weights := range [][]int{{100, 100, 100}, {100, 100, 200}, {1, 1, 1}, {1000, 500, 250}} {
		sum := 0
		for _, w := range weights {
			sum += w
		}
		for set := range 300 {
			count := firsts(t, fmt.Sprint("set", set), 300, nodesOf(weights...))
			for i, w := range weights {
				name := fmt.Sprintf("cp%d", i+1)
				mean := 300 * float64(w) / float64(sum)
				if n := float64(count[name]); n > 1.25*mean || n < 0.6*mean {
					t.Errorf("set %d, weights %v: %s is the first for %.0f of 300, and its share is %.0f", set, weights, name, n, mean)
				}
			}
		}
	}
}

func TestRank(t *testing.T) {
	n := nodesOf(100, 100, 0)
	r := newRanking()
	for i := range 50 {
		mandate := fmt.Sprint("shop/lease-", i)
		if got := r.rank(mandate, n[2], n[:2], ""); got != 2 {
			t.Errorf("a node of weight 0 is number %d", got)
		}
		if got := r.rank(mandate, n[2], n[:2], "cp3"); got != 0 {
			t.Errorf("the preferred node is number %d", got)
		}
		if got := r.rank(mandate, n[2], n[:2], "cp9"); got != 2 {
			t.Errorf("a node is number %d when another is preferred that is not there", got)
		}
	}
	if got := r.rank("shop/alone", n[2], nil, ""); got != 0 {
		t.Errorf("a node of weight 0 that is alone is number %d", got)
	}
	both := nodesOf(0, 0)
	a, b := newRanking().rank("shop/light", both[0], both[1:], ""), newRanking().rank("shop/light", both[1], both[:1], "")
	if a+b != 1 {
		t.Errorf("two nodes of weight 0 are numbers %d and %d", a, b)
	}
}

// TestRankForgets: what is forgotten counts no more, and looking again changes nothing.
func TestRankForgets(t *testing.T) {
	n := nodesOf(100, 100, 100)
	r := newRanking()
	var before []int
	for i := range 100 {
		before = append(before, r.rank(fmt.Sprint("shop/lease-", i), n[0], n[1:], ""))
	}
	for range 3 {
		for i := range 100 {
			r.rank(fmt.Sprint("shop/lease-", i), n[0], n[1:], "")
		}
	}
	total := 0
	for _, load := range r.load {
		total += load
	}
	if total != 100 || len(r.first) != 100 {
		t.Errorf("100 Leases count as %d, %d", total, len(r.first))
	}
	for i := range 100 {
		r.forget(fmt.Sprint("shop/lease-", i))
		r.forget(fmt.Sprint("shop/lease-", i))
	}
	if len(r.load) != 0 || len(r.first) != 0 {
		t.Errorf("something is left: %v, %v", r.load, r.first)
	}
	for i := range 100 {
		if again := r.rank(fmt.Sprint("shop/lease-", i), n[0], n[1:], ""); again != before[i] {
			t.Errorf("Lease %d: number %d, and then %d", i, before[i], again)
		}
	}
}

// TestRankMovesLittle: when a node goes, only what it was the first for goes to others, but for the bound's sake.
func TestRankMovesLittle(t *testing.T) {
	n := nodesOf(100, 100, 100)
	with, without, moved := newRanking(), newRanking(), 0
	for i := range 300 {
		mandate := fmt.Sprint("shop/lease-", i)
		with.rank(mandate, n[0], n[1:], "")
		without.rank(mandate, n[0], n[1:2], "")
		if with.first[mandate] != "cp3" && with.first[mandate] != without.first[mandate] {
			moved++
		}
	}
	if moved > 15 {
		t.Errorf("%d of 200 Leases have another first although theirs is there", moved)
	}
}

func TestScore(t *testing.T) {
	for _, weight := range []int{0, 1, 100, 1000} {
		for i := range 1000 {
			s := score(fmt.Sprint("lease-", i), "cp1", weight)
			if math.IsNaN(s) || math.IsInf(s, 0) || (s < 0) != (weight == 0) {
				t.Fatalf("the score of weight %d is %f", weight, s)
			}
		}
	}
	order := byScore("m", nodesOf(100, 0, 100))
	if order[2].Name != "cp2" {
		t.Errorf("the order is %v", strings.Join([]string{order[0].Name, order[1].Name, order[2].Name}, " "))
	}
}
