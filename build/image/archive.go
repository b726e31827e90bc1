package main

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// writeArchive writes the images under one name. The archive has two tables of contents over the same blobs:
//
//   - index.json, OCI's, names an index with every platform. containerd reads it, Podman, Skopeo, and Docker where
//     containerd keeps its images. They take the platform of the machine that they are on.
//   - manifest.json, Docker's own, names the image of the first platform. It is all that Docker reads elsewhere, and
//     cannot tell platforms apart: of several images with one name the last would stay.
//
// Entries are in the order of their names.
func writeArchive(w io.Writer, images []image, tag string, created time.Time, annotations map[string]string) error {
	blobs := map[string][]byte{}
	var platforms []mutate.IndexAddendum
	var docker tarball.Manifest
	for _, i := range images {
		d, err := addImage(blobs, i, tag)
		if err != nil {
			return err
		}
		if docker == nil {
			docker = tarball.Manifest{d}
		}
		platforms = append(platforms, mutate.IndexAddendum{Add: i, Descriptor: v1.Descriptor{Platform: &i.platform}})
	}

	none := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	all := mutate.Annotations(mutate.AppendManifests(none, platforms...), annotations).(v1.ImageIndex)
	if err := addIndex(blobs, all); err != nil {
		return err
	}
	// containerd's tools and Podman take the whole name from the first annotation; the second is OCI's, the tag alone.
	top, err := mutate.AppendManifests(none, mutate.IndexAddendum{Add: all, Descriptor: v1.Descriptor{Annotations: map[string]string{
		"io.containerd.image.name":          tag,
		"org.opencontainers.image.ref.name": tag[strings.LastIndex(tag, ":")+1:],
	}}}).RawManifest()
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(docker)
	if err != nil {
		return err
	}

	files := []file{
		{name: "blobs/", mode: 0o755},
		{name: "blobs/sha256/", mode: 0o755},
		{name: "index.json", mode: 0o644, content: top},
		{name: "manifest.json", mode: 0o644, content: manifest},
		{name: "oci-layout", mode: 0o644, content: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
	}
	for name, content := range blobs {
		files = append(files, file{name: name, mode: 0o644, content: content})
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	return writeTar(w, created, files)
}

// blobPath is where the layout has a blob.
func blobPath(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// addImage adds what an image consists of, and returns what manifest.json says of it.
func addImage(blobs map[string][]byte, i image, tag string) (tarball.Descriptor, error) {
	manifest, err := i.RawManifest()
	if err != nil {
		return tarball.Descriptor{}, err
	}
	digest, err := i.Digest()
	if err != nil {
		return tarball.Descriptor{}, err
	}
	config, err := i.RawConfigFile()
	if err != nil {
		return tarball.Descriptor{}, err
	}
	configName, err := i.ConfigName()
	if err != nil {
		return tarball.Descriptor{}, err
	}
	blobs[blobPath(digest)], blobs[blobPath(configName)] = manifest, config

	d := tarball.Descriptor{Config: blobPath(configName), RepoTags: []string{tag}}
	layers, err := i.Layers()
	if err != nil {
		return tarball.Descriptor{}, err
	}
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return tarball.Descriptor{}, err
		}
		content, err := l.Compressed()
		if err != nil {
			return tarball.Descriptor{}, err
		}
		packed, err := io.ReadAll(content)
		if err != nil {
			return tarball.Descriptor{}, err
		}
		blobs[blobPath(digest)] = packed
		d.Layers = append(d.Layers, blobPath(digest))
	}
	return d, nil
}

func addIndex(blobs map[string][]byte, i v1.ImageIndex) error {
	manifest, err := i.RawManifest()
	if err != nil {
		return err
	}
	digest, err := i.Digest()
	if err != nil {
		return err
	}
	blobs[blobPath(digest)] = manifest
	return nil
}
