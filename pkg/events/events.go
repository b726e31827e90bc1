// Package events tells of what happens to objects as Events on them.
package events

import (
	"context"
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

// Component is the source of every Event.
const Component = "kube-vip"

// Recorder tells of things for as long as Run works. client-go counts what is told again and again, and holds back what
// comes too often.
type Recorder struct {
	node string
	sink *sink
	to   atomic.Pointer[record.EventRecorder] // nil while Run does not work
}

// New returns a Recorder of what this node tells. about says in the log what it is told of that may not be written: "what
// happens to Services".
func New(client kubernetes.Interface, node, about string, log *slog.Logger) *Recorder {
	return &Recorder{node: node, sink: &sink{client: client, about: about, log: log}}
}

// Run passes Events on until ctx ends. What is still to be written then is lost.
func (r *Recorder) Run(ctx context.Context) error {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	stop := broadcaster.StartRecordingToSink(r.sink)
	var to record.EventRecorder = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: Component, Host: r.node})
	r.to.Store(&to)
	<-ctx.Done()
	r.to.Store(nil)
	stop.Stop()
	broadcaster.Shutdown()
	return nil
}

// Note tells of something that became of an object, and Warn warns of it. They say whether they could: nothing is told
// while Run does not work. They do not block.
func (r *Recorder) Note(o runtime.Object, reason, text string) bool {
	return r.tell(o, corev1.EventTypeNormal, reason, text)
}

// Warn is Note for what somebody should look at.
func (r *Recorder) Warn(o runtime.Object, reason, text string) bool {
	return r.tell(o, corev1.EventTypeWarning, reason, text)
}

func (r *Recorder) tell(o runtime.Object, kind, reason, text string) bool {
	to := r.to.Load()
	if to != nil {
		(*to).Event(o, kind, reason, text)
	}
	return to != nil
}

// sink writes Events. When it is not allowed to, that is said once.
type sink struct {
	client kubernetes.Interface
	about  string
	log    *slog.Logger
	barred atomic.Bool
}

// timeout bounds one write: Events are for people, and none is worth waiting for.
const timeout = 5 * time.Second

func (s *sink) Create(e *corev1.Event) (*corev1.Event, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.did(e)(s.client.CoreV1().Events(e.Namespace).Create(ctx, e, metav1.CreateOptions{}))
}

func (s *sink) Update(e *corev1.Event) (*corev1.Event, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.did(e)(s.client.CoreV1().Events(e.Namespace).Update(ctx, e, metav1.UpdateOptions{}))
}

func (s *sink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
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
			s.log.Warn("not allowed to write Events: "+s.about+" is in this log only",
				"rule", `apiGroups: [""], resources: ["events"], verbs: ["create", "patch"]`, "err", err)
		}
		return e, nil
	}
}
