package svc

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// teller tells of what happens to objects: an events.Recorder.
type teller interface {
	Run(ctx context.Context) error
	Note(o runtime.Object, reason, text string) bool
	Warn(o runtime.Object, reason, text string) bool
}

// tell tells what the status of a Service, which was before, came to.
func tell(to teller, before, after *corev1.Service, w shown) {
	if !w.ours {
		return
	}
	host, was := before.Annotations[HostAnnotation], len(before.Status.LoadBalancer.Ingress) > 0
	switch {
	case before == after: // nothing changed
	case w.takes(before):
		text := fmt.Sprintf("moved from node %s to node %s: %s", host, w.host, join(w.addrs))
		if w.move.text != "" {
			text += "; " + w.move.text
		}
		to.Note(after, ReasonMoved, text)
	case w.announced:
		to.Note(after, ReasonAnnounced, w.message)
	case was:
		to.Warn(after, ReasonWithdrawn, w.message)
	default:
		to.Warn(after, w.reason, w.message)
	}
	if w.announced && w.reason == ReasonRefused && before != after {
		to.Warn(after, ReasonRefused, w.message)
	}
}

// takes says that host takes over from the node that the status of s names.
func (w shown) takes(s *corev1.Service) bool {
	host := s.Annotations[HostAnnotation]
	return w.announced && host != "" && host != w.host
}
