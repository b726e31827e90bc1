package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// YAML is the objects as one stream of documents, as kubectl and the kubelet read them. What only a cluster
// fills in (status, creationTimestamp) is left out.
func YAML(objects ...runtime.Object) ([]byte, error) {
	var out bytes.Buffer
	for i, object := range objects {
		document, err := document(object)
		if err != nil {
			return nil, fmt.Errorf("write %s as YAML: %w", object.GetObjectKind().GroupVersionKind().Kind, err)
		}
		if i > 0 {
			out.WriteString("---\n")
		}
		out.Write(document)
	}
	return out.Bytes(), nil
}

func document(object runtime.Object) ([]byte, error) {
	asJSON, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(asJSON, &fields); err != nil {
		return nil, err
	}
	delete(fields, "status")
	dropNulls(fields)
	return yaml.Marshal(fields)
}

// dropNulls removes the keys without a value. creationTimestamp of an object and of its template is such a one
// in the encoding of some Kubernetes versions.
func dropNulls(fields map[string]any) {
	for key, value := range fields {
		switch value := value.(type) {
		case nil:
			delete(fields, key)
		case map[string]any:
			dropNulls(value)
		}
	}
}
