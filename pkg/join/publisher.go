package join

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	// lookDelay is how long a new leader waits before it looks: a failover has other things to do.
	lookDelay = 5 * time.Second
	// retryDelay is the time until the next look after one that failed, or that could not be: an address that is held before there
	// are rights is kept with the first Lease, and nothing else tells of the rights. Nodes that join wait a minute.
	retryDelay = 10 * time.Second
	// lookAgain is the time between two looks: what somebody has changed or deleted is waited for that long.
	lookAgain = 2 * time.Minute
	// callDeadline bounds one call of the API. Nobody waits for it.
	callDeadline = 10 * time.Second
)

// PublisherOptions configure a Publisher. Every field is required.
type PublisherOptions struct {
	Handout Handout
	// Lease is that of the leaders, "namespace/name". A ConfigMap that others keep is left alone, until nobody renews the Lease of
	// those.
	Lease string
	// May says whether this node is to keep the ConfigMap while it leads. It must not block.
	May    func() bool
	Client kubernetes.Interface
	Log    *slog.Logger
}

// Publisher keeps the ConfigMap, and who may read it, as they should be while this node leads. It looks seldom, and writes what is
// different. Nothing depends on it but nodes that join: what fails is told of once and tried again.
type Publisher struct {
	o    PublisherOptions
	news chan struct{} // holds at most one token

	mu    sync.Mutex // guards leads
	leads bool

	// The fields below are Run's.
	said   string   // the last trouble that was told of
	others sighting // the Lease of others who keep the ConfigMap
}

// sighting is a state of a Lease. The zero value is that none was looked at.
type sighting struct {
	lease   string // "namespace/name"
	version string // empty when there is no such Lease
	since   time.Time
}

// NewPublisher returns a Publisher that does not lead. Run does the work.
func NewPublisher(o PublisherOptions) *Publisher {
	return &Publisher{o: o, news: make(chan struct{}, 1)}
}

// SetLeads says whether this node leads. It may be called from any goroutine and does not block.
func (p *Publisher) SetLeads(yes bool) {
	p.mu.Lock()
	p.leads = yes
	p.mu.Unlock()
	select {
	case p.news <- struct{}{}:
	default: // a token is there already
	}
}

func (p *Publisher) leading() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leads
}

// Run works until ctx ends. What it has published stays.
func (p *Publisher) Run(ctx context.Context) error {
	timer := time.NewTimer(lookAgain)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.news:
			timer.Reset(lookDelay)
			continue
		case <-timer.C:
		}
		timer.Reset(p.round(ctx))
	}
}

// round looks, if this node is to, and returns the time until the next one.
func (p *Publisher) round(ctx context.Context) time.Duration {
	switch {
	case !p.leading():
		return lookAgain
	case !p.o.May():
		return retryDelay
	}
	err := p.look(ctx)
	p.tell(ctx, err)
	if err != nil && !errors.Is(err, errOthers) {
		return retryDelay
	}
	return lookAgain
}

// tell logs trouble when it is new.
func (p *Publisher) tell(ctx context.Context, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if ctx.Err() != nil || text == p.said {
		return
	}
	switch p.said = text; {
	case err == nil:
	case apierrors.IsForbidden(err):
		p.o.Log.Info("nodes that join get no settings from this cluster yet; it is tried again", "why", err)
	case errors.Is(err, errOtherLease):
		p.o.Log.Warn("nodes that join get the settings of others in this cluster: they are kept from here when nobody renews the Lease of those, or once the ConfigMap is deleted",
			"why", err, "delete", "kubectl -n "+Namespace+" delete configmap "+Name)
	case errors.Is(err, errOthers):
		p.o.Log.Info("nodes that join get no settings from this cluster", "why", err)
	default:
		p.o.Log.Warn("what nodes that join need could not be written; it is tried again", "err", err)
	}
}

// errOthers is that the ConfigMap is kept by somebody else.
var errOthers = errors.New("it is not kept by the leader of this Lease, and left as it is")

// errOtherLease is that somebody else is, or was, the leader of another Lease.
var errOtherLease = fmt.Errorf("%w: it belongs to another Lease", errOthers)

// look makes what is there what should be there. The right to read is given last: without it there is no harm.
func (p *Publisher) look(ctx context.Context) error {
	err := keep(ctx, p, p.o.Client.CoreV1().ConfigMaps(Namespace), "ConfigMap", Name,
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: Name}}, func(m *corev1.ConfigMap) (bool, error) {
			switch note := m.Annotations[leaseNote]; {
			case m.ResourceVersion == "", note == p.o.Lease:
			case note == "":
				return false, errOthers
			default:
				if err := p.outlast(ctx, note, handoutOf(m)); err != nil {
					return false, err
				}
			}
			p.others = sighting{}
			return p.o.Handout.in(m, p.o.Lease), nil
		})
	if err != nil {
		return err
	}
	err = keep(ctx, p, p.o.Client.RbacV1().Roles(Namespace), "Role", readersName,
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: readersName}}, func(r *rbacv1.Role) (bool, error) { return allow(r), nil })
	if err != nil {
		return err
	}
	bindings := p.o.Client.RbacV1().RoleBindings(Namespace)
	keepBinding := func() error {
		return keep(ctx, p, bindings, "RoleBinding", readersName, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: readersName}}, bind)
	}
	if err = keepBinding(); !errors.Is(err, errOtherRole) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callDeadline)
	defer cancel()
	if err := bindings.Delete(ctx, readersName, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete the RoleBinding %s/%s, which is for another Role: %w", Namespace, readersName, err)
	}
	return keepBinding()
}

// outlast returns no error when others who kept the ConfigMap are gone, by a name of the Lease or a namespace that was changed: for
// longer than their Lease lasts, and from one look to another, nobody has written to it. By the clocks of others nothing is judged.
// Where they elect nobody there need be no Lease, and nothing follows from that.
func (p *Publisher) outlast(ctx context.Context, lease string, theirs Handout) error {
	ctx, cancel := context.WithTimeout(ctx, callDeadline)
	defer cancel()
	namespace, name, _ := strings.Cut(lease, "/")
	l, err := p.o.Client.CoordinationV1().Leases(namespace).Get(ctx, name, metav1.GetOptions{})
	lasts := lookAgain
	switch {
	case apierrors.IsNotFound(err):
		l = &coordinationv1.Lease{}
	case err != nil:
		return fmt.Errorf("read the Lease %s: %w", lease, err)
	case l.Spec.LeaseDurationSeconds != nil:
		lasts = max(lasts, time.Duration(*l.Spec.LeaseDurationSeconds)*time.Second)
	}
	if p.others.lease != lease || p.others.version != l.ResourceVersion {
		p.others = sighting{lease, l.ResourceVersion, time.Now()}
	}
	if elect, _ := strconv.ParseBool(theirs.Settings["leaderElection"]); !elect || time.Since(p.others.since) < lasts {
		return fmt.Errorf("%w, %s", errOtherLease, lease)
	}
	p.o.Log.Info("nobody renews the Lease of those who kept the settings for nodes that join: they are kept from here", "lease", lease)
	return nil
}

// store is the part of a client that objects of one kind are kept with.
type store[T any] interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (*T, error)
	Create(ctx context.Context, object *T, o metav1.CreateOptions) (*T, error)
	Update(ctx context.Context, object *T, o metav1.UpdateOptions) (*T, error)
}

// keep has an object there as amend makes it, and writes nothing where amend changes nothing. fresh is what amend gets when there
// is none.
func keep[T any](ctx context.Context, p *Publisher, s store[T], kind, name string, fresh *T, amend func(*T) (changed bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, callDeadline)
	defer cancel()
	object, err := s.Get(ctx, name, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if missing {
		object, err = fresh, nil
	}
	if err != nil {
		return fmt.Errorf("read the %s %s/%s: %w", kind, Namespace, name, err)
	}
	changed, err := amend(object)
	switch {
	case err != nil:
		return fmt.Errorf("the %s %s/%s: %w", kind, Namespace, name, err)
	case !changed:
		return nil
	case missing:
		_, err = s.Create(ctx, object, metav1.CreateOptions{})
	default:
		_, err = s.Update(ctx, object, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write the %s %s/%s: %w", kind, Namespace, name, err)
	}
	p.o.Log.Info("written for nodes that join", "kind", kind, "name", Namespace+"/"+name)
	return nil
}
