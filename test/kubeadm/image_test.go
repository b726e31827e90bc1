package kubeadm

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// An image is one layer: files of this machine by their paths in it. Programs in /usr/local/bin are found by their names.
type image struct {
	name       string
	files      map[string]string
	entrypoint []string
}

// save writes the image as an archive that every container engine loads.
func (i image) save(file string) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() {
		if closing := f.Close(); err == nil {
			err = closing
		}
	}()
	layer := filepath.Join(filepath.Dir(file), "layer.tar")
	defer func() { _ = os.Remove(layer) }()
	sum, err := i.layer(layer)
	if err != nil {
		return fmt.Errorf("image %s: %w", i.name, err)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": i.entrypoint, "Env": []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum}},
	})
	if err != nil {
		return err
	}
	name := sha256.Sum256(config)
	configName := hex.EncodeToString(name[:]) + ".json"
	manifest, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": []string{i.name}, "Layers": []string{sum + ".tar"}}})
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	for name, content := range map[string][]byte{configName: config, "manifest.json": manifest} {
		if err := add(w, name, int64(len(content)), bytes.NewReader(content)); err != nil {
			return err
		}
	}
	if err := addFile(w, sum+".tar", layer); err != nil {
		return err
	}
	return w.Close()
}

// layer writes the files as a layer, and returns its checksum.
func (i image) layer(file string) (sum string, err error) {
	f, err := os.Create(file)
	if err != nil {
		return "", err
	}
	defer func() {
		if closing := f.Close(); err == nil {
			err = closing
		}
	}()
	hash := sha256.New()
	w := tar.NewWriter(io.MultiWriter(f, hash))
	for to, from := range i.files {
		if err := addFile(w, strings.TrimPrefix(to, "/"), from); err != nil {
			return "", err
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func addFile(w *tar.Writer, name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return add(w, name, st.Size(), f)
}

func add(w *tar.Writer, name string, size int64, content io.Reader) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(w, content)
	return err
}

// withLibraries are the files of a program of the distribution and of the libraries that it needs.
func withLibraries(program string) (map[string]string, error) {
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("find the libraries of %s: %w", program, err)
	}
	files := map[string]string{path.Join("/usr/sbin", filepath.Base(program)): program}
	for _, m := range regexp.MustCompile(`(/\S+) \(0x`).FindAllStringSubmatch(string(out), -1) {
		files[m[1]] = m[1]
	}
	return files, nil
}
