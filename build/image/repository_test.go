package main

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// top is the repository's folder.
const top = "../.."

func contentOf(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(top, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// TestNames: what the manifests name, what the Makefile calls the image and what is built here are one name.
func TestNames(t *testing.T) {
	for name, want := range map[string]string{
		"pkg/manifest/image.go": "const DefaultImage = \"" + defaultImage + "\"\n",
		"Makefile":              "\nIMAGE     := " + defaultImage + "\n",
		"Dockerfile":            "\nENTRYPOINT [\"/kube-vip\"]\n",
	} {
		if !strings.Contains(contentOf(t, name), want) {
			t.Errorf("%s does not have %q", name, want)
		}
	}
}

// TestDockerignore: a tracked file that Docker leaves out counts as deleted, and the binary that is built without it
// calls itself dirty. The same is true of .git, where the version comes from.
func TestDockerignore(t *testing.T) {
	cmd := exec.Command("git", "ls-files", "-z")
	cmd.Dir = top
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("not a git repository: %v", err)
	}
	tracked := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	tracked = append(tracked, ".git/HEAD")
	if len(tracked) < 20 {
		t.Fatalf("%d tracked files only", len(tracked))
	}
	patterns := 0
	for line := range strings.Lines(contentOf(t, ".dockerignore")) {
		pattern := strings.TrimSpace(line)
		if pattern == "" || strings.HasPrefix(pattern, "#") {
			continue
		}
		patterns++
		for _, name := range tracked {
			if ignores(t, pattern, name) {
				t.Errorf("%q leaves out %s", pattern, name)
			}
		}
	}
	if patterns == 0 {
		t.Error("there is no pattern")
	}
	for pattern, name := range map[string]string{"/bin": "bin/x", "**/*.go": "cmd/kube-vip/main.go", "docs": "docs/a.md", ".git": ".git/HEAD"} {
		if !ignores(t, pattern, name) {
			t.Errorf("the test does not see that %q leaves out %s", pattern, name)
		}
	}
}

// ignores knows of .dockerignore's language what ours needs: a path from the top, and **/ before a name's pattern.
func ignores(t *testing.T, pattern, name string) bool {
	t.Helper()
	base, anywhere := strings.CutPrefix(pattern, "**/")
	first := strings.TrimPrefix(pattern, "/")
	for p := name; p != "."; p = path.Dir(p) {
		subject, pattern := p, first
		if anywhere {
			subject, pattern = path.Base(p), base
		}
		matched, err := path.Match(pattern, subject)
		if err != nil {
			t.Fatal(err)
		}
		if matched {
			return true
		}
	}
	return false
}
