package svc

import (
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// TestRead: what is forbidden is not known, and the rest is; what does not answer ends the look.
func TestRead(t *testing.T) {
	web := types.NamespacedName{Namespace: "shop", Name: "web"}
	objects := func() []runtime.Object {
		slice := backends("n1")[0]
		slice.ObjectMeta = metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{"kubernetes.io/service-name": "web"}}
		return []runtime.Object{service("web"), service("other"), slice, addressed("n1", "10.0.0.1"), member("n1", 0), lease("shop", "kubevip-web", "n1", 0),
			&older{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}},
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: PoolNamespace, Name: PoolConfigMap}}}
	}
	for _, tc := range []struct {
		name     string
		service  types.NamespacedName
		barred   string // the resources that are forbidden; with ! those whose list in all namespaces is
		broken   string // those that do not answer
		notKnown string
		leases   int
		older    bool
		err      string
	}{
		{name: "everything", service: web, leases: 2},
		{name: "for the status", leases: 2},
		{name: "nothing but the Service", service: web, barred: "nodes servicecidrs configmaps endpointslices endpoints leases", notKnown: "configmaps endpoints leases leases-of-other-namespaces nodes servicecidrs"},
		{name: "older rights", service: web, barred: "endpointslices", older: true, leases: 2},
		{name: "Leases of one namespace", service: web, barred: "!leases", notKnown: "leases-of-other-namespaces", leases: 1},
		{name: "no such Service", service: types.NamespacedName{Namespace: "shop", Name: "x"}, err: "there is no Service shop/x"},
		{name: "another namespace", service: types.NamespacedName{Namespace: "default", Name: "web"}, err: "there is no Service default/web; did you mean shop/web?"},
		{name: "the Service is forbidden", service: web, barred: "services", err: "read Service shop/web: services"},
		{name: "the API goes away", service: web, broken: "leases", err: "list leases: gone"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := fake.NewClientset(objects()...)
			client.PrependReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
				resource := a.GetResource().Resource
				for barred := range strings.FieldsSeq(tc.barred) {
					if barred == resource || barred == "!"+resource && a.GetNamespace() == "" {
						return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", errors.New("no"))
					}
				}
				if resource == tc.broken {
					return true, nil, errors.New("gone")
				}
				return false, nil, nil
			})
			w, err := Read(t.Context(), Options{Client: client}, testLocks, tc.service)
			if tc.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tc.err) {
					t.Errorf("%v, want %s", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var unknown []string
			for kind := range w.NotKnown {
				unknown = append(unknown, strings.ReplaceAll(kind, " ", "-"))
			}
			slices.Sort(unknown)
			if got := strings.Join(unknown, " "); got != tc.notKnown || len(w.Leases) != tc.leases || len(w.Services) != 2 || tc.older != (w.Older != nil) {
				t.Errorf("not known %q, want %q; %d Leases, %d Services, Endpoints %v", got, tc.notKnown, len(w.Leases), len(w.Services), w.Older)
			}
			if tc.service.Name != "" && tc.barred == "" && len(w.Slices) != 1 || tc.service.Name == "" && len(w.Slices) != 0 {
				t.Errorf("%d slices", len(w.Slices))
			}
		})
	}
}
