package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// imageTag completes an image's name as `kube-vip manifest` does, so that the manifests that a binary writes name the
// image that it is in: without a tag the version is the tag, with '-' for the '+' that tags do not know. The name is
// returned as containerd and the kubelet have it, with the registry in front.
func imageTag(image, version string) (string, error) {
	if strings.LastIndex(image, ":") <= strings.LastIndex(image, "/") {
		image += ":" + strings.ReplaceAll(version, "+", "-")
	}
	t, err := name.NewTag(image)
	if err != nil {
		return "", fmt.Errorf("name the image %q: %w", image, err)
	}
	registry := t.RegistryStr()
	if registry == name.DefaultRegistry {
		registry = "docker.io"
	}
	return registry + "/" + t.RepositoryStr() + ":" + t.TagStr(), nil
}

// labels are the image's labels and annotations, by the keys that OCI has defined
// (https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md). What is not known is left out.
func labels(from buildOf, created time.Time, source string) map[string]string {
	l := map[string]string{
		"org.opencontainers.image.title":       "kube-vip",
		"org.opencontainers.image.description": "Virtual IP addresses for Kubernetes: one for the API servers, and one for each Service of type LoadBalancer",
		"org.opencontainers.image.url":         "https://kube-vip.io",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.created":     created.Format(time.RFC3339),
		"org.opencontainers.image.version":     from.version,
	}
	if from.revision != "" {
		l["org.opencontainers.image.revision"] = from.revision
	}
	if source != "" {
		l["org.opencontainers.image.source"] = source
	}
	return l
}

// An image is the image for one platform.
type image struct {
	v1.Image
	platform v1.Platform
	// unpacked is what its layers take as tar archives, packed what they take in a registry.
	unpacked, packed size
}

// pack makes the images: a layer with the certificates, which all platforms share, and one with the program, on nothing.
// The user is root, since a Pod's capabilities reach no other (see the manifests' security context), and older manifests
// do not say which user they want.
func pack(binaries []binary, roots []byte, created time.Time, labels map[string]string) ([]image, error) {
	certificates, err := newLayer(created,
		file{name: "etc/", mode: 0o755}, file{name: "etc/ssl/", mode: 0o755}, file{name: "etc/ssl/certs/", mode: 0o755},
		file{name: certificatesPath, mode: 0o644, content: roots})
	if err != nil {
		return nil, fmt.Errorf("pack the certificates: %w", err)
	}
	var images []image
	for _, b := range binaries {
		program, err := newLayer(created, file{name: "kube-vip", mode: 0o755, content: b.content})
		if err != nil {
			return nil, fmt.Errorf("pack the program for %s: %w", b.platform, err)
		}
		i, err := imageOf(b.platform, []layer{certificates, program}, created, labels)
		if err != nil {
			return nil, fmt.Errorf("pack the image for %s: %w", b.platform, err)
		}
		images = append(images, i)
	}
	return images, nil
}

func imageOf(platform v1.Platform, layers []layer, created time.Time, labels map[string]string) (image, error) {
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	i, err := mutate.ConfigFile(base, &v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant,
		Created: v1.Time{Time: created},
		Config: v1.Config{
			// The manifests give arguments only; `ctr run IMAGE NAME /kube-vip …` gives the path as well.
			Entrypoint: []string{"/kube-vip"},
			WorkingDir: "/",
			Labels:     labels,
		},
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return image{}, err
	}
	out := image{platform: platform}
	for _, l := range layers {
		i, err = mutate.Append(i, mutate.Addendum{
			Layer:   l,
			History: v1.History{Created: v1.Time{Time: created}, CreatedBy: "COPY /" + l.holds},
		})
		if err != nil {
			return image{}, err
		}
		packed, err := l.Size()
		if err != nil {
			return image{}, err
		}
		out.unpacked += l.unpacked
		out.packed += size(packed)
	}
	out.Image = mutate.Annotations(i, labels).(v1.Image)
	return out, nil
}

// A file of a layer; the name of a folder ends in a slash.
type file struct {
	name    string
	mode    int64
	content []byte
}

type layer struct {
	v1.Layer
	// holds is the file that the layer is there for.
	holds    string
	unpacked size
}

// newLayer packs files, all of root's and of one time. The last is what the layer is there for.
func newLayer(at time.Time, files ...file) (layer, error) {
	var content bytes.Buffer
	if err := writeTar(&content, at, files); err != nil {
		return layer{}, err
	}
	l, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestCompression), tarball.WithCompressedCaching)
	if err != nil {
		return layer{}, err
	}
	return layer{Layer: l, holds: files[len(files)-1].name, unpacked: size(content.Len())}, nil
}

// writeTar writes files in their order, with nothing of the machine in the headers.
func writeTar(w io.Writer, at time.Time, files []file) error {
	t := tar.NewWriter(w)
	for _, f := range files {
		h := tar.Header{
			Format: tar.FormatUSTAR, Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.content)), ModTime: at,
		}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := t.WriteHeader(&h); err != nil {
			return err
		}
		if _, err := t.Write(f.content); err != nil {
			return err
		}
	}
	return t.Close()
}
