package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

const testTag = "ghcr.io/kube-vip/kube-vip:v1.2.3-rc.1"

func testTime() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func testLabels() map[string]string {
	return labels(buildOf{version: "v1.2.3-rc.1", revision: "abc"}, testTime(), "https://git.example.com/kube-vip")
}

// testImages are images of programs that do not run.
func testImages(t *testing.T, platforms ...string) []image {
	t.Helper()
	roots, err := rootCertificates()
	if err != nil {
		t.Fatal(err)
	}
	var binaries []binary
	for _, p := range platforms {
		platform, err := parsePlatform(p)
		if err != nil {
			t.Fatal(err)
		}
		binaries = append(binaries, binary{platform: platform, content: []byte("the program for " + p)})
	}
	images, err := pack(binaries, roots, testTime(), testLabels())
	if err != nil {
		t.Fatal(err)
	}
	return images
}

func testArchive(t *testing.T, platforms ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := writeArchive(&out, testImages(t, platforms...), testTag, testTime(), testLabels()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// An entry is a file of a tar archive.
type entry struct {
	tar.Header
	content []byte
}

func untar(t *testing.T, r io.Reader) []entry {
	t.Helper()
	var entries []entry
	for a := tar.NewReader(r); ; {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			return entries
		} else if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(a)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{Header: *h, content: content})
	}
}

// opened unpacks an archive and returns the index of all platforms, and what index.json says of it.
func opened(t *testing.T, archive []byte) (v1.ImageIndex, v1.Descriptor) {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, e := range untar(t, bytes.NewReader(archive)) {
		if e.Typeflag == tar.TypeReg {
			if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(e.Name)), e.content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := top.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Manifests) != 1 {
		t.Fatalf("index.json names %d images, want 1: Podman and Skopeo take no archive with more", len(m.Manifests))
	}
	all, err := top.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return all, m.Manifests[0]
}

func TestArchive(t *testing.T) {
	platforms := []string{"linux/s390x", "linux/amd64", "linux/arm/v7"}
	archive := testArchive(t, platforms...)

	var names []string
	for _, e := range untar(t, bytes.NewReader(archive)) {
		names = append(names, e.Name)
		mode := int64(0o644)
		if e.Typeflag == tar.TypeDir {
			mode = 0o755
		}
		if e.Mode != mode || e.Uid != 0 || e.Gid != 0 || e.Uname != "" || e.Gname != "" || !e.ModTime.Equal(testTime()) {
			t.Errorf("%s: mode %o, of %d:%d (%q:%q), %v; want mode %o, root's without a name, %v",
				e.Name, e.Mode, e.Uid, e.Gid, e.Uname, e.Gname, e.ModTime, mode, testTime())
		}
		if digest, isBlob := strings.CutPrefix(e.Name, "blobs/sha256/"); isBlob && digest != "" {
			if sum := hexSHA256(e.content); sum != digest {
				t.Errorf("%s has the digest %s", e.Name, sum)
			}
		}
	}
	if !slices.IsSorted(names) {
		t.Errorf("entries are not in order: %q", names)
	}
	// An index, then a manifest, a configuration and a program for each platform, and one layer of certificates for all.
	if want := 5 + 1 + 3*len(platforms) + 1; len(names) != want {
		t.Errorf("%d entries, want %d: %q", len(names), want, names)
	}

	all, descriptor := opened(t, archive)
	// Every digest and every size is compared with what it is of.
	if err := validate.Index(all); err != nil {
		t.Errorf("validate the index: %v", err)
	}
	wantNames := map[string]string{"io.containerd.image.name": testTag, "org.opencontainers.image.ref.name": "v1.2.3-rc.1"}
	if diff := cmp.Diff(wantNames, descriptor.Annotations); diff != "" {
		t.Errorf("annotations in index.json (-want +got):\n%s", diff)
	}
	index, err := all.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(testLabels(), index.Annotations); diff != "" {
		t.Errorf("the index's annotations (-want +got):\n%s", diff)
	}
	if index.MediaType != types.OCIImageIndex || descriptor.MediaType != types.OCIImageIndex {
		t.Errorf("the index is %s, and in index.json %s", index.MediaType, descriptor.MediaType)
	}
	var got []string
	for _, m := range index.Manifests {
		got = append(got, m.Platform.String())
		i, err := all.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, i, *m.Platform)
	}
	if diff := cmp.Diff(platforms, got); diff != "" {
		t.Errorf("platforms (-want +got):\n%s", diff)
	}
}

func hexSHA256(content []byte) string {
	h, _, err := v1.SHA256(bytes.NewReader(content))
	if err != nil {
		return err.Error()
	}
	return h.Hex
}

func checkImage(t *testing.T, i v1.Image, platform v1.Platform) {
	t.Helper()
	manifest, err := i.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(testLabels(), manifest.Annotations); diff != "" {
		t.Errorf("%s: annotations (-want +got):\n%s", platform, diff)
	}
	if manifest.MediaType != types.OCIManifestSchema1 || manifest.Config.MediaType != types.OCIConfigJSON {
		t.Errorf("%s: the manifest is %s, the configuration %s", platform, manifest.MediaType, manifest.Config.MediaType)
	}
	config, err := i.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	at := v1.Time{Time: testTime()}
	want := &v1.ConfigFile{
		OS: "linux", Architecture: platform.Architecture, Variant: platform.Variant, Created: at,
		Config: v1.Config{Entrypoint: []string{"/kube-vip"}, WorkingDir: "/", Labels: testLabels()},
		History: []v1.History{
			{Created: at, CreatedBy: "COPY /etc/ssl/certs/ca-certificates.crt"},
			{Created: at, CreatedBy: "COPY /kube-vip"},
		},
		RootFS: config.RootFS, // validate.Index has compared it
	}
	if diff := cmp.Diff(want, config); diff != "" {
		t.Errorf("%s: configuration (-want +got):\n%s", platform, diff)
	}

	layers, err := i.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, l := range layers {
		if kind, err := l.MediaType(); err != nil || kind != types.OCILayer {
			t.Errorf("%s: a layer is %s (%v)", platform, kind, err)
		}
		content, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range untar(t, content) {
			files = append(files, e.FileInfo().Mode().String()+" "+e.Name)
			if e.Uid != 0 || e.Gid != 0 || !e.ModTime.Equal(testTime()) {
				t.Errorf("%s: %s is of %d:%d, %v", platform, e.Name, e.Uid, e.Gid, e.ModTime)
			}
			if want := "the program for " + platform.String(); e.Name == "kube-vip" && string(e.content) != want {
				t.Errorf("%s: /kube-vip is %q, want %q", platform, e.content, want)
			}
		}
	}
	// Nothing else: no shell, no loader, no package manager.
	wantFiles := []string{
		"drwxr-xr-x etc/", "drwxr-xr-x etc/ssl/", "drwxr-xr-x etc/ssl/certs/", "-rw-r--r-- etc/ssl/certs/ca-certificates.crt",
		"-rwxr-xr-x kube-vip",
	}
	if diff := cmp.Diff(wantFiles, files); diff != "" {
		t.Errorf("%s: files (-want +got):\n%s", platform, diff)
	}
}

// TestManifestsAgree reads the archive as Docker does, which knows no index.json.
func TestManifestsAgree(t *testing.T) {
	archive := testArchive(t, "linux/arm64", "linux/amd64")
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }
	docker, err := tarball.LoadManifest(open)
	if err != nil {
		t.Fatal(err)
	}
	if len(docker) != 1 || !slices.Equal(docker[0].RepoTags, []string{testTag}) {
		t.Fatalf("manifest.json has %+v, want one image, tagged %s", docker, testTag)
	}
	loaded, err := tarball.Image(open, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(loaded); err != nil {
		t.Errorf("validate the image in manifest.json: %v", err)
	}

	all, _ := opened(t, archive)
	index, err := all.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	first, err := all.Image(index.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	want, err := first.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	wantDescriptor := tarball.Descriptor{Config: blobPath(want.Config.Digest), RepoTags: []string{testTag}}
	for _, l := range want.Layers {
		wantDescriptor.Layers = append(wantDescriptor.Layers, blobPath(l.Digest))
	}
	if diff := cmp.Diff(tarball.Manifest{wantDescriptor}, docker); diff != "" {
		t.Errorf("manifest.json differs from the first platform of index.json (-want +got):\n%s", diff)
	}
}

// TestCertificatesShared: the layer of certificates is the same for all platforms, so a registry has it once.
func TestCertificatesShared(t *testing.T) {
	images := testImages(t, "linux/amd64", "linux/arm64")
	var digests [][]v1.Hash
	for _, i := range images {
		m, err := i.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, []v1.Hash{m.Layers[0].Digest, m.Layers[1].Digest})
	}
	if digests[0][0] != digests[1][0] || digests[0][1] == digests[1][1] {
		t.Errorf("layers are %v, want the first the same and the second not", digests)
	}
}

func TestRootCertificates(t *testing.T) {
	roots, err := rootCertificates()
	if err != nil {
		t.Fatal(err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(roots) {
		t.Fatal("crypto/x509 reads no certificate")
	}
	there := map[string]bool{} // by DER
	for rest := roots; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if !c.IsCA {
			t.Errorf("%s is no CA", c.Subject)
		}
		there[string(block.Bytes)] = true
	}
	if len(there) < 80 {
		t.Errorf("%d certificates only", len(there))
	}
	for root := range bundle.Roots() {
		if conditional := root.Constraint != nil; there[string(root.Certificate)] == conditional {
			c, err := x509.ParseCertificate(root.Certificate)
			if err != nil {
				t.Fatal(err)
			}
			t.Errorf("%s: trusted with a condition: %t; there: %t", c.Subject, conditional, there[string(root.Certificate)])
		}
	}
}

func TestImageTag(t *testing.T) {
	tests := []struct{ name, image, version, want, wantErr string }{
		{name: "release", image: defaultImage, version: "v1.2.3", want: "ghcr.io/kube-vip/kube-vip:v1.2.3"},
		{name: "changed files", image: defaultImage, version: "v0.0.0-2026+dirty", want: "ghcr.io/kube-vip/kube-vip:v0.0.0-2026-dirty"},
		{name: "tag kept", image: "registry.lan:5000/vip:x", version: "v1", want: "registry.lan:5000/vip:x"},
		{name: "port is no tag", image: "registry.lan:5000/vip", version: "v1", want: "registry.lan:5000/vip:v1"},
		{name: "Docker Hub, as the kubelet calls it", image: "plndr/kube-vip", version: "v1", want: "docker.io/plndr/kube-vip:v1"},
		{
			name: "upper case", image: "ghcr.io/Kube-Vip", version: "v1",
			wantErr: "name the image \"ghcr.io/Kube-Vip:v1\": repository can only contain the characters `abcdefghijklmnopqrstuvwxyz0123456789_-./`: Kube-Vip",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := imageTag(tt.image, tt.version)
			if got != tt.want || text(err) != tt.wantErr {
				t.Errorf("imageTag(%q, %q) = %q, error:\n%s\nwant %q, error:\n%s", tt.image, tt.version, got, text(err), tt.want, tt.wantErr)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestParsePlatform(t *testing.T) {
	const want = `%q is not a platform: want linux/amd64, linux/arm64 or linux/arm/v7, for example`
	for _, good := range []string{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/arm/v6", "linux/ppc64le", "linux/s390x"} {
		if p, err := parsePlatform(good); err != nil || p.String() != good {
			t.Errorf("parsePlatform(%q) = %s, %v", good, p, err)
		}
	}
	for _, bad := range []string{
		"", "linux", "linux/", "linux/arm", "linux/arm/7", "linux/arm/v8", "linux/arm64/v8", "linux/amd64/v3", "linux/../x", "windows/amd64",
		"linux/amd64/", "linux/AMD64", "linux/arm/v7/x",
	} {
		if p, err := parsePlatform(bad); text(err) != strings.Replace(want, "%q", `"`+bad+`"`, 1) {
			t.Errorf("parsePlatform(%q) = %s, %v", bad, p, err)
		}
	}
}

func TestCreatedAt(t *testing.T) {
	from := buildOf{committed: testTime()}
	if at, err := createdAt(from, ""); err != nil || !at.Equal(testTime()) {
		t.Errorf("without SOURCE_DATE_EPOCH: %v, %v", at, err)
	}
	if at, err := createdAt(from, "1700000000"); err != nil || at.Format(time.RFC3339) != "2023-11-14T22:13:20Z" {
		t.Errorf("SOURCE_DATE_EPOCH=1700000000: %v, %v", at, err)
	}
	for _, bad := range []string{"yesterday", "-1", "1.5", "17 "} {
		if _, err := createdAt(from, bad); text(err) != `SOURCE_DATE_EPOCH="`+bad+`" is not a number of seconds since 1970` {
			t.Errorf("SOURCE_DATE_EPOCH=%s: %v", bad, err)
		}
	}
}

// A clone is a repository with one small program, at a path of its own; every clone has the same commit.
type clone struct{ dir string }

func newClone(t *testing.T) clone {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("a version comes from git, which is not installed")
	}
	c := clone{dir: filepath.Join(t.TempDir(), "src")}
	for name, content := range map[string]string{
		"go.mod":     "module example.com/dummy\n\ngo 1.26.0\n",
		"main.go":    "package main\n\nfunc main() { println(\"I hold the VIP\") }\n",
		".gitignore": "/bin/\n",
	} {
		if err := os.MkdirAll(c.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c.command(t, nil, "git", "init", "-q")
	c.command(t, nil, "git", "add", ".")
	c.command(t, nil, "git", "commit", "-q", "-m", "first")
	c.command(t, nil, "git", "tag", "v1.2.3")
	return c
}

func (c clone) command(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = c.dir
	// Nothing of the developer's git or go counts.
	cmd.Env = slices.Concat(os.Environ(), []string{
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GOWORK=off",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_AUTHOR_DATE=2026-01-02T03:04:05Z",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z",
	}, env)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// compile builds the program as the Makefile does.
func (c clone) compile(t *testing.T, platform string) {
	t.Helper()
	p, err := parsePlatform(platform)
	if err != nil {
		t.Fatal(err)
	}
	c.command(t, []string{"CGO_ENABLED=0", "GOOS=" + p.OS, "GOARCH=" + p.Architecture, "GOARM=" + strings.TrimPrefix(p.Variant, "v")},
		"go", "build", "-buildvcs=auto", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join("bin", platform, "kube-vip"), ".")
}

func (c clone) pack(t *testing.T, platforms ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(append([]string{"-binaries", filepath.Join(c.dir, "bin"), "-output", c.archive()}, platforms...), "", &out, &errs)
	return code, out.String(), errs.String()
}

func (c clone) archive() string { return filepath.Join(c.dir, "bin", "image.tar") }

func TestReproducible(t *testing.T) {
	platforms := []string{"linux/amd64", "linux/arm/v7"}
	var archives [][]byte
	for range 2 {
		c := newClone(t)
		for _, p := range platforms {
			c.compile(t, p)
		}
		code, out, errs := c.pack(t, platforms...)
		if code != 0 || errs != "" {
			t.Fatalf("exit %d: %s", code, errs)
		}
		archive, err := os.ReadFile(c.archive())
		if err != nil {
			t.Fatal(err)
		}
		archives = append(archives, archive)

		// What is printed is what can be compared with a published digest.
		const line = ` +[0-9.]+ MB unpacked, [0-9.]+ MB packed, sha256:[0-9a-f]{64}\n`
		want := regexp.MustCompile(`^linux/amd64` + line + `linux/arm/v7` + line + regexp.QuoteMeta(c.archive()) +
			`: ghcr\.io/kube-vip/kube-vip:v1\.2\.3, [0-9.]+ MB, sha256:` + hexSHA256(archive) + `\n$`)
		if !want.MatchString(out) {
			t.Errorf("printed:\n%s\nwant:\n%s", out, want)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Errorf("two clones of one commit give sha256:%s and sha256:%s", hexSHA256(archives[0]), hexSHA256(archives[1]))
	}

	all, _ := opened(t, archives[0])
	index, err := all.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, key := range []string{"version", "created"} {
		got[key] = index.Annotations["org.opencontainers.image."+key]
	}
	if diff := cmp.Diff(map[string]string{"version": "v1.2.3", "created": "2026-01-02T03:04:05Z"}, got); diff != "" {
		t.Errorf("from git (-want +got):\n%s", diff)
	}
	if r := index.Annotations["org.opencontainers.image.revision"]; len(r) != 40 {
		t.Errorf("the revision is %q, want a commit", r)
	}
}

func TestRefused(t *testing.T) {
	c := newClone(t)
	c.compile(t, "linux/amd64")
	binary := func(platform string) string { return filepath.Join(c.dir, "bin", platform, "kube-vip") }
	copied := func(t *testing.T, platform string, change func([]byte) []byte) {
		t.Helper()
		content, err := os.ReadFile(binary("linux/amd64"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(binary(platform)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(binary(platform), change(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	same := func(b []byte) []byte { return b }
	copied(t, "linux/arm64", same)
	copied(t, "linux/s390x", func([]byte) []byte { return []byte("#!/bin/sh\n") })

	for _, tt := range []struct {
		name      string
		platforms []string
		want      string
	}{
		{name: "the binary is not there", platforms: []string{"linux/ppc64le"}, want: "error: read the binary for linux/ppc64le: open " + binary("linux/ppc64le") + ": no such file or directory\n"},
		{name: "the binary is for another platform", platforms: []string{"linux/arm64"}, want: "error: " + binary("linux/arm64") + " is for linux/amd64, not for linux/arm64\n"},
		{name: "no binary", platforms: []string{"linux/s390x"}, want: "error: read what " + binary("linux/s390x") + " was built from: unrecognized file format\n"},
		{name: "twice", platforms: []string{"linux/amd64", "linux/amd64"}, want: "error: linux/amd64 is there twice\n"},
		{name: "no platform", platforms: nil, want: "error: give at least one platform, linux/amd64 for example, or -certificates alone\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out, errs := c.pack(t, tt.platforms...)
			if code == 0 || out != "" || errs != tt.want {
				t.Errorf("exit %d, printed %q, error:\n%s\nwant:\n%s", code, out, errs, tt.want)
			}
			if _, err := os.Stat(c.archive()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("there is an archive (%v)", err)
			}
		})
	}

	t.Run("too large", func(t *testing.T) {
		o := options{binaries: filepath.Join(c.dir, "bin"), output: c.archive(), image: defaultImage, platforms: []string{"linux/amd64"}, limit: 1e6}
		err := build(o, io.Discard, io.Discard)
		if err == nil || !regexp.MustCompile(`^pack linux/amd64: its files take 1\.\d MB, more than the 1\.0 MB that an image may have$`).MatchString(err.Error()) {
			t.Errorf("error: %v", err)
		}
		if _, err := os.Stat(c.archive()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("there is an archive (%v)", err)
		}
	})

	// Between the platforms somebody has changed a file.
	t.Run("two versions", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(c.dir, "new.go"), []byte("package main\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		c.compile(t, "linux/arm/v7")
		code, out, errs := c.pack(t, "linux/amd64", "linux/arm/v7")
		want := regexp.MustCompile(`^error: the binaries differ: linux/amd64 is v1\.2\.3 of commit "[0-9a-f]{40}" with go\S+, linux/arm/v7 is v1\.2\.3\+dirty of commit "[0-9a-f]{40}-dirty" with go\S+\n$`)
		if code != 1 || out != "" || !want.MatchString(errs) {
			t.Errorf("exit %d, printed %q, error:\n%s\nwant:\n%s", code, out, errs, want)
		}
	})

	t.Run("changed files are told of", func(t *testing.T) {
		code, out, errs := c.pack(t, "linux/arm/v7")
		if code != 0 || !strings.Contains(out, ": ghcr.io/kube-vip/kube-vip:v1.2.3-dirty, ") ||
			errs != "note: the binaries are not built from a clean git commit, so nobody else can build this image again\n" {
			t.Errorf("exit %d, printed:\n%s\nerror:\n%s", code, out, errs)
		}
	})
}

// TestStatic has a binary with a dynamic linker, which an image on nothing cannot run.
func TestStatic(t *testing.T) {
	c := newClone(t)
	c.command(t, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64"},
		"go", "build", "-buildmode=pie", "-o", filepath.Join("bin", "linux", "amd64", "kube-vip"), ".")
	_, err := readBinary(filepath.Join(c.dir, "bin"), "linux/amd64")
	if want := filepath.Join(c.dir, "bin", "linux", "amd64", "kube-vip") + " is not static: build it with CGO_ENABLED=0"; text(err) != want {
		t.Errorf("error: %v\nwant: %s", err, want)
	}
}

func TestCertificatesAlone(t *testing.T) {
	name := filepath.Join(t.TempDir(), "ca-certificates.crt")
	var errs bytes.Buffer
	if code := run([]string{"-certificates", name}, "", io.Discard, &errs); code != 0 || errs.Len() != 0 {
		t.Fatalf("exit %d: %s", code, &errs)
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	want, err := rootCertificates()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the file is not what the image has")
	}
	left, err := os.ReadDir(filepath.Dir(name))
	if err != nil || len(left) != 1 {
		t.Errorf("beside it: %v, %v", left, err)
	}
}
