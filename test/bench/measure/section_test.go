package measure

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReplace(t *testing.T) {
	const (
		first  = "<!-- begin make bench, written by it: what is changed here by hand is lost -->\n\n## A\n\na\n\n<!-- end make bench -->\n"
		second = "<!-- begin make bench-services, written by it: what is changed here by hand is lost -->\n\n## B\n\nb\n\n<!-- end make bench-services -->\n"
		other  = "<!-- begin make bench, written by it: what is changed here by hand is lost -->\n\n## C\n\nc\n\n<!-- end make bench -->\n"
	)
	for _, tc := range []struct {
		name           string
		page, of, body string
		want           string
	}{
		{"no page", "", "make bench", "## A\n\na\n", "# Benchmarks\n\n" + first},
		{"the second behind the first", "# Benchmarks\n\n" + first, "make bench-services", "## B\n\nb\n", "# Benchmarks\n\n" + first + "\n" + second},
		{"the first before the second", "# Benchmarks\n\n" + second, "make bench", "## A\n\na\n", "# Benchmarks\n\n" + first + "\n" + second},
		{"again", "x\n" + first + "y\n" + second + "z\n", "make bench", "## A\n\na\n", "x\n" + first + "y\n" + second + "z\n"},
		{"the first only", "x\n" + first + "y\n" + second + "z\n", "make bench", "\n## C\n\nc", "x\n" + other + "y\n" + second + "z\n"},
		{"the second only", "x\n" + other + "y\n" + second + "z\n", "make bench-services", "## B\n\nb\n", "x\n" + other + "y\n" + second + "z\n"},
		{"beside text by hand", "# Other\n\ntext", "make bench", "## A\n\na\n", "# Other\n\ntext\n\n" + first},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Replace(tc.page, tc.of, tc.body)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for name, page := range map[string]string{
		"no end":        first[:len(first)-5],
		"no beginning":  first[5:],
		"twice":         first + first,
		"the end first": "<!-- end make bench -->\n" + first[:len(first)-len("<!-- end make bench -->\n")],
	} {
		if got, err := Replace(page, "make bench", "x"); err == nil {
			t.Errorf("%s: the page became %q", name, got)
		}
	}
	if _, err := Replace("", "make tea", "x"); err == nil {
		t.Error("a section without a place was written")
	}
}

// TestWriteSections: each command leaves the others' sections alone in the page of this repository, and what is written
// there by hand.
func TestWriteSections(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "benchmarks.md")
	if err := os.WriteFile(file, page, 0o644); err != nil {
		t.Fatal(err)
	}
	want := string(page)
	for _, name := range order {
		begin, end := marks(name)
		before, rest, ok := strings.Cut(want, begin)
		_, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("docs/benchmarks.md has no section of %q", name)
		}
		want = before + begin + "\nthe section of " + name + "\n\n" + end + after
		for range 2 {
			if err := Write(file, name, "the section of "+name); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/benchmarks.md with its sections replaced (-want +got):\n%s", diff)
	}
}
