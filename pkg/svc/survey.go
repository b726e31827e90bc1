package svc

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Row is one address that a Service has or asks for.
type Row struct {
	// VIP is the address, or the entry that is refused; empty for a Service that names none.
	VIP     string `json:"vip,omitempty"`
	Service string `json:"service"`
	// Lock is the Lease that the address is held under; nil when nobody is to hold it.
	Lock *Lock `json:"lock,omitempty"`
	// Held says that all is as it should be; State is what is so, or why it is not.
	Held  bool   `json:"held"`
	State string `json:"state"`
}

// Survey lists the addresses of all Services of a World that are kube-vip's, by namespace and name. It is pure.
func Survey(o Options, locks Locks, w World) []Row {
	j := newJudge(o, locks, w)
	rows := []Row{}
	services := slices.Clone(w.Services)
	slices.SortFunc(services, func(a, b *corev1.Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, s := range services {
		rows = append(rows, j.rows(s)...)
	}
	return rows
}

func (j *judge) rows(s *corev1.Service) []Row {
	// Endpoints are not read: what comes of them is in the condition.
	p := j.plan(s, Endpoints{}, "", false)
	if !p.Ours {
		return nil
	}
	st := statusOf(s)
	var rows []Row
	for i, a := range p.Addrs {
		row := Row{VIP: a.String(), Service: key(s)}
		row.State = p.Reason
		if p.Announced {
			lease, kind := j.lockOf(a)
			row.Lock = new(j.lock(lease, kind))
			row.Held, row.State = j.state(*row.Lock, st, i == 0)
		}
		rows = append(rows, row)
	}
	for _, r := range p.Refused {
		if r.Code == RefusedLease && len(p.Addrs) > 0 {
			continue // the rows of the addresses say it
		}
		rows = append(rows, Row{VIP: r.Entry, Service: key(s), State: "refused: " + r.Reason})
	}
	if len(rows) > 0 {
		return rows
	}
	why := p.Reason
	if st.Message != "" {
		why = st.Message
	}
	return []Row{{Service: key(s), State: why}}
}

// state is what is so with an address that is to be held. The holder of the Service's first one writes the status.
func (j *judge) state(k Lock, st Status, first bool) (held bool, text string) {
	switch {
	case !k.Known:
		return false, k.Why
	case !k.Live:
		return false, "nobody holds it: " + k.Why
	case j.o.ReadOnly:
		return true, "held; statuses are not written"
	case st.Announced == "":
		return false, "its status says nothing yet"
	case st.Announced != string(corev1.ConditionTrue):
		return false, st.Message
	case first && st.Host != k.Holder && k.Kind != KindRoutes:
		return false, fmt.Sprintf("the Lease names %s, and the status %s", k.Holder, orNone(st.Host))
	}
	return true, "announced"
}
