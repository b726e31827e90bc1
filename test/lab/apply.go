package lab

import (
	"context"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"
)

// Apply applies every document of a manifest to the cluster, as `kubectl apply --server-side` does: the API server
// refuses unknown fields. With dryRun it validates and stores nothing.
func (n *Node) Apply(ctx context.Context, manifest []byte, dryRun bool) error {
	if n.lab.pki == nil {
		return errNoCluster
	}
	config := n.lab.Config(n.Host, n.apiAddr())
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	known, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return err
	}
	groups, err := restmapper.GetAPIGroupResources(known)
	if err != nil {
		return fmt.Errorf("list what the API server knows: %w", err)
	}
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	docs, err := documents(manifest)
	if err != nil {
		return err
	}
	options := metav1.PatchOptions{FieldManager: "lab"}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	for _, doc := range docs {
		var object unstructured.Unstructured
		if err := yaml.UnmarshalStrict(doc, &object.Object); err != nil {
			return fmt.Errorf("read the manifest: %w", err)
		}
		kind := object.GroupVersionKind()
		mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if err != nil {
			return fmt.Errorf("apply %s %s: %w", kind.Kind, object.GetName(), err)
		}
		body, err := json.Marshal(object.Object)
		if err != nil {
			return err
		}
		var resource dynamic.ResourceInterface = client.Resource(mapping.Resource)
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			namespace := object.GetNamespace()
			if namespace == "" {
				namespace = metav1.NamespaceDefault
			}
			resource = client.Resource(mapping.Resource).Namespace(namespace)
		}
		if _, err := resource.Patch(ctx, object.GetName(), types.ApplyPatchType, body, options); err != nil {
			return fmt.Errorf("apply %s %s: %w", kind.Kind, object.GetName(), err)
		}
	}
	return nil
}
