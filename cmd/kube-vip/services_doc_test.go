package main

import (
	"fmt"
	"go/ast"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kube-vip.io/kube-vip/pkg/config"
	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/pool"
	"kube-vip.io/kube-vip/pkg/svc"
)

const servicesDoc = "../../docs/services.md"

// TestTablesDoc compares the tables of annotations and of the ConfigMap's keys in docs/services.md with those in the
// source. With -update they are written anew.
func TestTablesDoc(t *testing.T) {
	for header, want := range map[string]string{
		"| annotation | value | what it does | written by kube-vip |\n|---|---|---|---|\n": annotationRows(svc.Annotations()),
		"| key | value | what it does |\n|---|---|---|\n":                                  poolRows(pool.Keys()),
		"| `kube_vip_services` | counts a Service |\n|---|---|\n":                          labelRows(svc.States()),
		"| `kube_vip_services_refused` | counts a Service |\n|---|---|\n":                  labelRows(svc.RefusalCodes()),
		"| `kube_vip_service_moves_total` | counts a Service |\n|---|---|\n":               labelRows(svc.MoveReasons()),
	} {
		before, table, after, err := cutTable(readFile(t, servicesDoc), header)
		if err != nil {
			t.Fatal(err)
		}
		if *update && table != want {
			writeFile(t, servicesDoc, before+want+after)
		} else if diff := cmp.Diff(want, table); diff != "" {
			t.Errorf("a table of docs/services.md; go test ./cmd/kube-vip -run TestTablesDoc -update writes it (-want +documented):\n%s", diff)
		}
	}
}

// TestNamesDoc: whoever copies a name from docs/services.md gets one that means something.
func TestNamesDoc(t *testing.T) {
	known := []string{svc.ConditionAnnounced, ha.MemberLabel, ha.LacksAnnotation}
	for _, a := range svc.Annotations() {
		known = append(known, a.Key)
	}
	for _, s := range config.Settings() {
		known = append(known, s.Default) // the class
	}
	for _, name := range regexp.MustCompile(`kube-vip\\?\.io/[A-Za-z0-9-]+`).FindAllString(readFile(t, servicesDoc), -1) {
		if name := strings.ReplaceAll(name, `\`, ""); !slices.Contains(known, name) {
			t.Errorf("docs/services.md has the name %s, which means nothing", name)
		}
	}
}

func annotationRows(list []svc.Annotation) string {
	var b strings.Builder
	for _, a := range list {
		written := ""
		if a.Written {
			written = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", a.Key, a.Values, a.Effect, written)
	}
	return b.String()
}

func poolRows(list []pool.Key) string {
	var b strings.Builder
	for _, k := range list {
		name := k.Name
		if strings.HasSuffix(name, "-") {
			name += "<namespace>"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, k.Values, k.Effect)
	}
	return b.String()
}

func labelRows(list []svc.Label) string {
	var b strings.Builder
	for _, l := range list {
		fmt.Fprintf(&b, "| `%s` | %s |\n", l.Value, l.Means)
	}
	return b.String()
}

// cutTable finds the rows of the table with this header.
func cutTable(doc, header string) (before, rows, after string, err error) {
	before, after, found := strings.Cut(doc, header)
	if !found {
		return "", "", "", fmt.Errorf("there is no table %q", header)
	}
	for strings.HasPrefix(after, "|") {
		line, rest, _ := strings.Cut(after, "\n")
		rows += line + "\n"
		after = rest
	}
	return before + header, rows, after, nil
}

// TestReasonsDoc: what docs/services.md says that the condition of a Service says, the source says.
func TestReasonsDoc(t *testing.T) {
	const header = "| it says | reason | do |\n|---|---|---|\n"
	_, rows, _, err := cutTable(readFile(t, servicesDoc), header)
	if err != nil {
		t.Fatal(err)
	}
	reasons := []string{svc.ReasonRefused, svc.ReasonWithdrawn, svc.ReasonNoAddress, svc.ReasonExhausted, svc.ReasonNotPlaced, svc.ReasonNoneLeft}
	said := messagePatterns(parseSource(t))
	quoted := 0
	for line := range strings.Lines(rows) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 {
			t.Fatalf("a row has %d cells, want 3: %s", len(cells), line)
		}
		if reason := strings.Trim(cells[1], " `"); !slices.Contains(reasons, reason) {
			t.Errorf("the condition never has the reason %s", reason)
		}
		for _, found := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[0], -1) {
			quoted++
			if !slices.ContainsFunc(said, func(p *regexp.Regexp) bool { return p.MatchString(found[1]) }) {
				t.Errorf("docs/services.md quotes %q, and nothing says it", found[1])
			}
		}
	}
	if quoted < 10 {
		t.Errorf("the table quotes %d messages", quoted)
	}
}

// messagePatterns are regular expressions for the texts of the packages that say why a Service has no address, those
// left out that nearly anything would match.
func messagePatterns(files []*ast.File) []*regexp.Regexp {
	const enough = 12 // bytes that are written out
	var patterns []*regexp.Regexp
	for _, file := range files {
		if !slices.Contains([]string{"svc", "pool", "vip"}, file.Name.Name) {
			continue
		}
		known := constants(file)
		ast.Inspect(file, func(n ast.Node) bool {
			e, ok := n.(ast.Expr)
			if !ok {
				return true
			}
			if p := pattern(e, known); len(strings.ReplaceAll(p, ".*", "")) >= enough {
				patterns = append(patterns, regexp.MustCompile("^"+p+"$"))
			}
			return true
		})
	}
	return patterns
}
