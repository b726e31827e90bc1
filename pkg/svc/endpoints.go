package svc

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// readiness is how good the best endpoint of a node is.
type readiness int

const (
	gone readiness = iota
	// terminating endpoints still serve (EndpointSlice conditions serving and terminating).
	terminating
	ready
)

// Endpoints is where a Service's endpoints are, and how good.
type Endpoints struct {
	// known is false when nobody may tell: then no Service is withdrawn for want of an endpoint.
	known bool
	best  readiness            // anywhere
	nodes map[string]readiness // by node
	count map[string]int       // of ready ones, by node; of the family that has more of them
}

// add counts one endpoint in.
func (e *Endpoints) add(node string, r readiness) {
	e.best = max(e.best, r)
	if node == "" {
		return
	}
	if e.nodes == nil {
		e.nodes, e.count = map[string]readiness{}, map[string]int{}
	}
	e.nodes[node] = max(e.nodes[node], r)
}

// weigh counts a ready endpoint of a node: it is the n-th of its family there. One with addresses in both families is in the
// slices of both.
func (e *Endpoints) weigh(node string, n int) {
	if node != "" {
		e.count[node] = max(e.count[node], n)
	}
}

// any says whether somebody would answer.
func (e Endpoints) any() bool { return !e.known || e.best > gone }

// on says whether an endpoint of node would answer: a ready one, or one that serves while it terminates when there is
// no ready one anywhere.
func (e Endpoints) on(node string) bool {
	return !e.known || e.nodes[node] > gone && e.nodes[node] == e.best
}

// here says whether node has an endpoint that answers, although others may have better ones: as long as it has, what
// is there need not move.
func (e Endpoints) here(node string) bool { return !e.known || e.nodes[node] > gone }

// fromSlices sums up the slices of a Service (KEP-1672: nil conditions are to be read as ready, serving as ready, and
// terminating as false).
func fromSlices(slices []*discoveryv1.EndpointSlice) Endpoints {
	type place struct {
		node   string
		family discoveryv1.AddressType
	}
	e, found := Endpoints{known: true}, map[place]int{}
	for _, s := range slices {
		for _, ep := range s.Endpoints {
			node := ""
			if ep.NodeName != nil {
				node = *ep.NodeName
			}
			isReady := ep.Conditions.Ready == nil || *ep.Conditions.Ready
			serving := isReady
			if ep.Conditions.Serving != nil {
				serving = *ep.Conditions.Serving
			}
			switch ends := ep.Conditions.Terminating != nil && *ep.Conditions.Terminating; {
			case isReady:
				e.add(node, ready)
				at := place{node, s.AddressType}
				found[at]++
				e.weigh(node, found[at])
			case serving && ends:
				e.add(node, terminating)
			}
		}
	}
	return e
}

// older is what came before EndpointSlices. There are clusters whose rights allow nothing else.
//
//lint:ignore SA1019 see above
type older = corev1.Endpoints

// fromEndpoints sums up the older object, which knows ready addresses only.
func fromEndpoints(o *older) Endpoints {
	e := Endpoints{known: true}
	if o == nil {
		return e
	}
	for _, subset := range o.Subsets {
		for _, a := range subset.Addresses {
			node := a.NodeName
			if node == nil {
				node = new(string)
			}
			at := cmp.Or(*node, a.Hostname)
			e.add(at, ready)
			e.weigh(at, e.count[at]+1)
		}
	}
	return e
}
