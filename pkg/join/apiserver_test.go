package join

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// apiServer keeps objects by their paths, as much like an API server as is needed here.
type apiServer struct {
	// allows says whether one who shows a token, empty for none, may do something with an object.
	allows func(token, verb, object string) bool

	mu      sync.Mutex // guards the fields below
	objects map[string]map[string]any
	version int
	calls   []string // that were answered
}

func newAPIServer() *apiServer {
	return &apiServer{objects: map[string]map[string]any{}, allows: func(string, string, string) bool { return true }}
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reply := func(code int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body)
	}
	refuse := func(code int, reason metav1.StatusReason) {
		reply(code, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: reason, Code: int32(code), Message: string(reason)})
	}
	verb := map[string]string{http.MethodGet: "get", http.MethodPost: "create", http.MethodPut: "update", http.MethodDelete: "delete"}[r.Method]
	var object map[string]any
	at := r.URL.Path
	if verb != "get" {
		if err := json.NewDecoder(r.Body).Decode(&object); err != nil {
			refuse(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType)
			return
		}
	}
	if verb == "create" {
		at = path.Join(at, object["metadata"].(map[string]any)["name"].(string))
	}
	words := strings.Split(at, "/")
	what := strings.Join(words[len(words)-2:], "/")
	s.calls = append(s.calls, verb+" "+what)
	have, is := s.objects[at]
	switch {
	case !s.allows(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), verb, what):
		refuse(http.StatusForbidden, metav1.StatusReasonForbidden)
	case verb == "create" && is:
		refuse(http.StatusConflict, metav1.StatusReasonAlreadyExists)
	case verb != "create" && !is:
		refuse(http.StatusNotFound, metav1.StatusReasonNotFound)
	case verb == "get":
		reply(http.StatusOK, have)
	case verb == "delete":
		delete(s.objects, at)
		reply(http.StatusOK, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess})
	case is && !reflect.DeepEqual(have["roleRef"], object["roleRef"]):
		refuse(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid) // as that of a RoleBinding cannot be changed
	default:
		s.version++
		object["metadata"].(map[string]any)["resourceVersion"] = fmt.Sprint(s.version)
		s.objects[at] = object
		reply(http.StatusOK, object)
	}
}

// put has an object there.
func (s *apiServer) put(t *testing.T, at string, object runtime.Object) {
	t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	fields["metadata"].(map[string]any)["resourceVersion"] = fmt.Sprint(s.version)
	s.objects[at] = fields
}

// done are the calls since it was asked last.
func (s *apiServer) done() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := slices.Clone(s.calls)
	s.calls = nil
	return calls
}

// RoundTrip answers without a network.
func (s *apiServer) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	answer := w.Result()
	answer.Request = r
	return answer, nil
}

func (s *apiServer) client(t *testing.T) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfigAndClient(&rest.Config{Host: "http://api", QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}, &http.Client{Transport: s})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
