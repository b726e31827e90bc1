// Package house holds the source to the rules of docs/architecture.md.
package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "kube-vip.io/kube-vip/"

// rows reads the table of packages: what each may import, by their paths in the module.
func rows(doc string) (map[string][]string, error) {
	const header = "| package | one line | may import |"
	_, table, found := strings.Cut(doc, header+"\n")
	if !found {
		return nil, fmt.Errorf("there is no table %q", header)
	}
	may := map[string][]string{}
	for line := range strings.Lines(table) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			break
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if len(cells) != 3 {
			return nil, fmt.Errorf("a row has %d cells, want 3: %s", len(cells), line)
		}
		name := strings.Trim(strings.TrimSpace(cells[0]), "`")
		if strings.Trim(name, "-") == "" {
			continue // the line below the header
		}
		if _, twice := may[name]; twice {
			return nil, fmt.Errorf("%s has two rows", name)
		}
		may[name] = []string{}
		for entry := range strings.SplitSeq(cells[2], ",") {
			entry = strings.Trim(strings.TrimSpace(entry), "`")
			switch {
			case entry == "-":
			case entry == "all", strings.Contains(entry, "/"):
				may[name] = append(may[name], entry)
			default:
				may[name] = append(may[name], "pkg/"+entry)
			}
		}
	}
	return may, nil
}

// A listed package is what `go list -json` says of one.
type listed struct {
	ImportPath                                  string
	GoFiles, Imports, TestImports, XTestImports []string
}

// breaches compares packages with the table. "all" is everything in pkg/. Tests may import test/lab and
// test/netns beside what their package may, and a package of nothing but tests may import anything.
func breaches(may map[string][]string, packages []listed) []string {
	var found []string
	seen := map[string]bool{}
	for _, p := range packages {
		name := strings.TrimPrefix(p.ImportPath, module)
		seen[name] = true
		if len(p.GoFiles) == 0 {
			continue
		}
		allowed, has := may[name]
		if !has {
			found = append(found, name+" has no row")
			continue
		}
		check := func(kind string, imports []string, also ...string) {
			for _, i := range imports {
				i, ours := strings.CutPrefix(i, module)
				if !ours || i == name || slices.Contains(allowed, i) || slices.Contains(also, i) {
					continue
				}
				if slices.Contains(allowed, "all") && strings.HasPrefix(i, "pkg/") {
					continue
				}
				found = append(found, fmt.Sprintf("%s%s imports %s", name, kind, i))
			}
		}
		check("", p.Imports)
		check(" (test)", slices.Concat(p.TestImports, p.XTestImports), "test/lab", "test/netns")
	}
	for name := range may {
		if !seen[name] {
			found = append(found, name+" has a row and does not exist")
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func top(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestImports(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(top(t), "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	may, err := rows(string(doc))
	if err != nil {
		t.Fatalf("docs/architecture.md: %v", err)
	}
	cmd := exec.Command("go", "list", "-json=ImportPath,GoFiles,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = top(t)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &errs)
	}
	var packages []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 5 {
		t.Fatalf("go list names %d packages only", len(packages))
	}
	for _, b := range breaches(may, packages) {
		t.Errorf("%s: docs/architecture.md does not allow that", b)
	}
}

func TestBreaches(t *testing.T) {
	may, err := rows("x\n| package | one line | may import |\n|---|---|---|\n| `cmd/x` | a | all |\n| `pkg/a` | b | - |\n" +
		"| `pkg/b` | c | a |\n| `pkg/gone` | d | - |\n| `test/lab` | e | - |\n| `test/demo` | f | `test/lab` |\n\n| other |\n")
	if err != nil {
		t.Fatal(err)
	}
	file := []string{"x.go"}
	got := breaches(may, []listed{
		{ImportPath: module + "cmd/x", GoFiles: file, Imports: []string{"fmt", module + "pkg/a", module + "pkg/b", module + "test/lab"}},
		{ImportPath: module + "pkg/a", GoFiles: file, Imports: []string{module + "pkg/b"}, TestImports: []string{module + "test/netns"}, XTestImports: []string{module + "pkg/a", module + "test/lab"}},
		{ImportPath: module + "pkg/b", GoFiles: file, Imports: []string{module + "pkg/a"}, TestImports: []string{module + "cmd/x"}},
		{ImportPath: module + "pkg/new", GoFiles: file},
		{ImportPath: module + "test/lab", GoFiles: file},
		{ImportPath: module + "test/demo", GoFiles: file, Imports: []string{module + "test/lab"}},
		{ImportPath: module + "test/e2e", TestImports: []string{module + "pkg/b"}},
	})
	want := []string{
		"cmd/x imports test/lab",
		"pkg/a imports pkg/b",
		"pkg/b (test) imports cmd/x",
		"pkg/gone has a row and does not exist",
		"pkg/new has no row",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSource looks at every file for what the rules forbid everywhere.
func TestSource(t *testing.T) {
	dir := top(t)
	files := 0
	for _, room := range []string{"build", "cmd", "pkg", "test"} {
		err := filepath.WalkDir(filepath.Join(dir, room), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
				return err
			}
			files++
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(dir, path)
			for _, b := range forbidden(rel, f) {
				t.Errorf("%s: %s", rel, b)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 20 {
		t.Fatalf("%d files only", files)
	}
}

// forbidden returns what a file has that none may have: init functions, packages named for nothing, os.Exit and
// the process's environment outside of programs, the default registries.
func forbidden(path string, f *ast.File) []string {
	var found []string
	if slices.Contains([]string{"utils", "util", "common", "helpers", "types", "misc"}, f.Name.Name) {
		found = append(found, "a package named "+f.Name.Name)
	}
	test := strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "test/")
	names := map[string]string{} // of imports
	for _, i := range f.Imports {
		p := strings.Trim(i.Path.Value, `"`)
		name := p[strings.LastIndexByte(p, '/')+1:]
		if i.Name != nil {
			name = i.Name.Name
		}
		names[name] = p
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				found = append(found, "func init")
			}
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if !ok || test {
				return true
			}
			switch call := names[x.Name] + "." + n.Sel.Name; call {
			case "os.Exit", "os.Environ", "os.Getenv", "os.LookupEnv":
				if !strings.HasPrefix(path, "cmd/") && !strings.HasPrefix(path, "build/") {
					found = append(found, call+" outside of a program")
				}
			case "github.com/prometheus/client_golang/prometheus.DefaultRegisterer", "github.com/prometheus/client_golang/prometheus.MustRegister",
				"net/http.DefaultServeMux", "net/http.HandleFunc", "net/http.Handle", "net/http.DefaultClient":
				found = append(found, call)
			}
		}
		return true
	})
	return found
}

func TestForbidden(t *testing.T) {
	const source = `package utils
import ("os"; h "net/http")
func init() {}
type t struct{}
func (t) init() { os.Exit(1); h.HandleFunc("/", nil); os.Getenv("x") }
`
	f, err := parser.ParseFile(token.NewFileSet(), "x.go", source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a package named utils", "func init", "os.Exit outside of a program", "net/http.HandleFunc", "os.Getenv outside of a program"}
	if diff := cmp.Diff(want, forbidden("pkg/x/x.go", f)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
