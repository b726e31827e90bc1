package join

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Where the objects are.
const (
	mapPath     = "/api/v1/namespaces/kube-system/configmaps/kube-vip"
	rolePath    = "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles/kube-vip:join"
	bindingPath = "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings/kube-vip:join"
)

var some = Handout{Settings: map[string]string{"address": "10.0.0.10", "arp": "true"}, Secrets: []string{"peerPass"}, Own: []string{"bgpRouterID", "sourceIP"}, Version: "v1.2.3"}

func publisher(t *testing.T, s *apiServer, log *bytes.Buffer) *Publisher {
	return NewPublisher(PublisherOptions{Handout: some, Lease: "kube-system/lock", May: func() bool { return true }, Client: s.client(t), Log: slog.New(slog.NewTextHandler(log, nil))})
}

var looked = []string{"get configmaps/kube-vip", "get roles/kube-vip:join", "get rolebindings/kube-vip:join"}

// TestLook begins with nothing, and then with what somebody has changed.
func TestLook(t *testing.T) {
	s, log := newAPIServer(), &bytes.Buffer{}
	p := publisher(t, s, log)
	look := func(want ...string) {
		t.Helper()
		if err := p.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, s.done()); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	}
	look(looked[0], "create configmaps/kube-vip", looked[1], "create roles/kube-vip:join", looked[2], "create rolebindings/kube-vip:join")
	look(looked...)

	client := s.client(t)
	m, err := client.CoreV1().ConfigMaps(Namespace).Get(t.Context(), Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(some, handoutOf(m)); diff != "" {
		t.Errorf("the handout (-want +got):\n%s", diff)
	}
	role, err := client.RbacV1().Roles(Namespace).Get(t.Context(), readersName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"kube-vip"}}}, role.Rules); diff != "" {
		t.Errorf("the right (-want +got):\n%s", diff)
	}

	m.Data["arp"], m.Labels["team"] = "false", "net"
	s.put(t, mapPath, m)
	role.Rules[0].ResourceNames = nil
	s.put(t, rolePath, role)
	s.done()
	look(looked[0], "update configmaps/kube-vip", looked[1], "update roles/kube-vip:join", looked[2])
	if m, err = client.CoreV1().ConfigMaps(Namespace).Get(t.Context(), Name, metav1.GetOptions{}); err != nil || m.Data["arp"] != "true" || m.Labels["team"] != "net" {
		t.Errorf("after a change: %v, %v; %v", m.Data, m.Labels, err)
	}

	binding := func() *rbacv1.RoleBinding {
		t.Helper()
		b, err := client.RbacV1().RoleBindings(Namespace).Get(t.Context(), readersName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := binding()
	ours, guest := b.Subjects[0], rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:bootstrappers:others"}
	b.Subjects = []rbacv1.Subject{guest}
	s.put(t, bindingPath, b)
	s.done()
	look(looked[0], looked[1], looked[2], "update rolebindings/kube-vip:join")
	if diff := cmp.Diff([]rbacv1.Subject{guest, ours}, binding().Subjects); diff != "" {
		t.Errorf("whom somebody let read, too (-want +got):\n%s", diff)
	}
	wanted := b.RoleRef
	b.RoleRef.Name = "admin"
	s.put(t, bindingPath, b)
	s.done()
	look(looked[0], looked[1], looked[2], "delete rolebindings/kube-vip:join", looked[2], "create rolebindings/kube-vip:join")
	if b = binding(); b.RoleRef != wanted || !slices.Equal(b.Subjects, []rbacv1.Subject{ours}) {
		t.Errorf("after another Role: %v to %v", b.RoleRef, b.Subjects)
	}
	s.done()
	look(looked...)
}

// TestLeavesAlone is a ConfigMap of the same name that is somebody else's.
func TestLeavesAlone(t *testing.T) {
	s, log := newAPIServer(), &bytes.Buffer{}
	s.put(t, mapPath, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: Name}})
	p := publisher(t, s, log)
	p.tell(t.Context(), p.look(t.Context()))
	p.tell(t.Context(), p.look(t.Context()))
	if diff := cmp.Diff([]string{looked[0], looked[0]}, s.done()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if n := strings.Count(log.String(), "left as it is"); n != 1 || !strings.Contains(log.String(), "level=INFO") {
		t.Errorf("said %d times:\n%s", n, log)
	}
}

// TestOutlasts: what those keep who have another Lease is kept from here when nobody renews that.
func TestOutlasts(t *testing.T) {
	for name, c := range map[string]struct {
		elect   string // their leaderElection
		lease   int32  // how many seconds it lasts; 0 is none
		renewed bool
		after   time.Duration // it is kept from here; 0 is never
	}{
		"nobody renews it":                 {elect: "true", lease: 5, after: lookDelay + lookAgain},
		"nobody renews it, and it is long": {elect: "true", lease: 300, after: lookDelay + 3*lookAgain},
		"it was deleted":                   {elect: "true", after: lookDelay + lookAgain},
		"it is renewed":                    {elect: "true", lease: 5, renewed: true},
		"they elect nobody":                {elect: "false"},
		"they elect nobody any more":       {lease: 5},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, log := newAPIServer(), &bytes.Buffer{}
				s.put(t, mapPath, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: Name, Annotations: map[string]string{leaseNote: "vip-system/other"}}, Data: map[string]string{"leaderElection": c.elect}})
				renew := func() {
					if c.lease > 0 {
						s.put(t, "/apis/coordination.k8s.io/v1/namespaces/vip-system/leases/other", &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: coordinationv1.LeaseSpec{LeaseDurationSeconds: &c.lease}})
					}
				}
				renew()
				p := publisher(t, s, log)
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- p.Run(ctx) }()
				p.SetLeads(true)
				begin, after := time.Now(), time.Duration(0)
				for time.Since(begin) < time.Hour && after == 0 {
					time.Sleep(time.Second)
					synctest.Wait()
					if c.renewed {
						renew()
					}
					if slices.Contains(s.done(), "update configmaps/kube-vip") {
						after = time.Since(begin)
					}
				}
				if after != c.after {
					t.Errorf("kept from here after %s, want %s\n%s", after, c.after, log)
				}
				if n := strings.Count(log.String(), "level=WARN msg=\"nodes that join get the settings of others"); n != 1 || !strings.Contains(log.String(), "kubectl -n kube-system delete configmap kube-vip") {
					t.Errorf("said %d times:\n%s", n, log)
				}
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestRun: a look some seconds after the lead, soon another where it could not be or failed, else one each two minutes, and none
// without the lead. What is refused is said once.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := newAPIServer(), &bytes.Buffer{}
		refused := true
		s.allows = func(string, string, string) bool { return !refused }
		p := publisher(t, s, log)
		may := true
		p.o.May = func() bool { return may }
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.Run(ctx) }()
		after := func(what string, d time.Duration, want int) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if calls := s.done(); len(calls) != want {
				t.Errorf("%s: %q, want %d calls", what, calls, want)
			}
		}
		after("nobody leads", time.Hour, 0)
		p.SetLeads(true)
		after("it leads, at first", lookDelay-time.Second, 0)
		after("it leads, and is refused", 2*time.Second, 1)
		after("again and again", 10*retryDelay, 10)
		if n := strings.Count(log.String(), "level=INFO msg=\"nodes that join get no settings"); n != 1 {
			t.Errorf("a refusal is said %d times:\n%s", n, log)
		}
		refused = false
		after("it is allowed", retryDelay, 6)
		after("nothing is to be done", lookAgain, 3)
		may = false
		after("it may not", 10*lookAgain, 0)
		may = true
		after("it may again", retryDelay, 3)
		s.put(t, mapPath, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: Name}})
		after("somebody else keeps it", 10*lookAgain, 10)
		p.SetLeads(false)
		after("it does not lead", 10*lookAgain, 0)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
