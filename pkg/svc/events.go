package svc

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
)

// events writes what happens to a Service as Events on it.
type events struct {
	node     string
	sink     *sink
	recorder atomic.Pointer[record.EventRecorder]
}

func newEvents(o Options) *events {
	return &events{node: o.Node, sink: &sink{client: o.Events, log: o.Log}}
}

// run passes Events on until ctx ends.
func (e *events) run(ctx context.Context) {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	stop := broadcaster.StartRecordingToSink(e.sink)
	var recorder record.EventRecorder = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kube-vip", Host: e.node})
	e.recorder.Store(&recorder)
	<-ctx.Done()
	e.recorder.Store(nil)
	stop.Stop()
	broadcaster.Shutdown()
}

// tell tells what the status of a Service, which was before, came to.
func (e *events) tell(before, after *corev1.Service, w shown) {
	r := e.recorder.Load()
	if r == nil || !w.ours {
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
		(*r).Event(after, corev1.EventTypeNormal, ReasonMoved, text)
	case w.announced:
		(*r).Event(after, corev1.EventTypeNormal, ReasonAnnounced, w.message)
	case was:
		(*r).Event(after, corev1.EventTypeWarning, ReasonWithdrawn, w.message)
	default:
		(*r).Event(after, corev1.EventTypeWarning, w.reason, w.message)
	}
	if w.announced && w.reason == ReasonRefused && before != after {
		(*r).Event(after, corev1.EventTypeWarning, ReasonRefused, w.message)
	}
}

// takes says that host takes over from the node that the status of s names.
func (w shown) takes(s *corev1.Service) bool {
	host := s.Annotations[HostAnnotation]
	return w.announced && host != "" && host != w.host
}

// note tells of something that became of an object.
func (e *events) note(o runtime.Object, reason, text string) {
	if r := e.recorder.Load(); r != nil {
		(*r).Event(o, corev1.EventTypeNormal, reason, text)
	}
}

// warn warns of something about an object, and says whether it could: nothing is recorded before run.
func (e *events) warn(o runtime.Object, reason, text string) bool {
	r := e.recorder.Load()
	if r != nil {
		(*r).Event(o, corev1.EventTypeWarning, reason, text)
	}
	return r != nil
}

// sink writes Events. When it is not allowed to, that is said once.
type sink struct {
	client kubernetes.Interface
	log    *slog.Logger
	barred atomic.Bool
}

// eventTimeout bounds one write: Events are for people, and none is worth waiting for.
const eventTimeout = 5 * time.Second

func (s *sink) Create(e *corev1.Event) (*corev1.Event, error) {
	ctx, cancel := context.WithTimeout(context.Background(), eventTimeout)
	defer cancel()
	return s.did(e)(s.client.CoreV1().Events(e.Namespace).Create(ctx, e, metav1.CreateOptions{}))
}

func (s *sink) Update(e *corev1.Event) (*corev1.Event, error) {
	ctx, cancel := context.WithTimeout(context.Background(), eventTimeout)
	defer cancel()
	return s.did(e)(s.client.CoreV1().Events(e.Namespace).Update(ctx, e, metav1.UpdateOptions{}))
}

func (s *sink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	ctx, cancel := context.WithTimeout(context.Background(), eventTimeout)
	defer cancel()
	return s.did(e)(s.client.CoreV1().Events(e.Namespace).Patch(ctx, e.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{}))
}

// did swallows a refusal, which client-go would log for each Event.
func (s *sink) did(e *corev1.Event) func(*corev1.Event, error) (*corev1.Event, error) {
	return func(written *corev1.Event, err error) (*corev1.Event, error) {
		if !apierrors.IsForbidden(err) {
			return written, err
		}
		if !s.barred.Swap(true) {
			s.log.Warn("not allowed to write Events: what happens to Services is in this log only",
				"rule", `apiGroups: [""], resources: ["events"], verbs: ["create", "patch"]`, "err", err)
		}
		return e, nil
	}
}
