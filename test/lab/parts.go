package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// PartsEnv names the folder that holds etcd, kube-apiserver, kubeadm and kube-proxy; `make` sets it.
const PartsEnv = "KUBE_VIP_LAB_PARTS"

// BinaryEnv names the kube-vip binary that is tried; `make` sets it.
const BinaryEnv = "KUBE_VIP_BINARY"

// TB is what the lab needs of a *testing.T.
type TB interface {
	Helper()
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(func())
	Failed() bool
	Context() context.Context
	Name() string
}

// Need skips the test for the given reason, or fails it when CI is set in the environment: there, a test that did
// not run must not look like one that passed. It does nothing when the reason is nil.
func Need(t TB, reason error) {
	t.Helper()
	if reason == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("this test must run when CI is set: %v", reason)
	}
	t.Skipf("skipped: %v", reason)
}

// Tool finds a command of the distribution, on PATH or where root's are.
func Tool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("the command %s is not installed: run `make tools`", name)
}

// Binary is the kube-vip binary to try: what KUBE_VIP_BINARY names, else bin/kube-vip of this checkout.
func Binary(t TB) string {
	t.Helper()
	path := os.Getenv(BinaryEnv)
	if path == "" {
		root, err := checkout()
		if err != nil {
			t.Fatalf("find bin/kube-vip: %v", err)
		}
		path = filepath.Join(root, "bin", "kube-vip")
	}
	if _, err := os.Stat(path); err != nil {
		Need(t, fmt.Errorf("no kube-vip binary, run `make build`: %w", err))
	}
	return path
}

// checkout is the top folder of the source that the working directory is in.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "test", "parts", "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("the working directory is not in a checkout of kube-vip")
		}
		dir = parent
	}
}

// findParts returns the folder with the binaries that the lab needs: Options.Parts, else what KUBE_VIP_LAB_PARTS
// names, else where `make parts` puts them.
func findParts(o Options) (string, error) {
	dir := o.Parts
	if dir == "" {
		dir = os.Getenv(PartsEnv)
	}
	if dir == "" {
		root, err := checkout()
		if err != nil {
			return "", fmt.Errorf("find the control plane's binaries: %w; set %s", err, PartsEnv)
		}
		var sums []byte
		for _, name := range []string{"go.mod", "go.sum"} {
			content, err := os.ReadFile(filepath.Join(root, "test", "parts", name))
			if err != nil {
				return "", err
			}
			sums = append(sums, content...)
		}
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		hash := sha256.Sum256(sums)
		dir = filepath.Join(cache, "kube-vip", "parts", hex.EncodeToString(hash[:])[:16])
	}
	parts := []string{"etcd", "kube-apiserver", "kubeadm"}
	if o.KubeProxy {
		parts = append(parts, "kube-proxy")
	}
	for _, part := range parts {
		if _, err := os.Stat(filepath.Join(dir, part)); err != nil {
			return "", fmt.Errorf("%s is not built in %s: run `make parts`", part, dir)
		}
	}
	return dir, nil
}
