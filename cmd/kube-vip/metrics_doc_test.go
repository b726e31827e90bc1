package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kube-vip.io/kube-vip/pkg/arp"
	"kube-vip.io/kube-vip/pkg/config"
	"kube-vip.io/kube-vip/pkg/join"
	"kube-vip.io/kube-vip/pkg/vip"
)

// metric is what docs/control-plane.md says of a metric.
type metric struct {
	Type   string
	Labels []string // sorted
}

// TestMetricsDoc compares the table of metrics in docs/control-plane.md with the source, where every metric of ours has
// its name and type, and with what a wired instance shows, which has the labels.
func TestMetricsDoc(t *testing.T) {
	documented, err := documentedMetrics(readFile(t, "../../docs/control-plane.md"))
	if err != nil {
		t.Fatal(err)
	}

	t.Run("in the source", func(t *testing.T) {
		types := map[string]string{}
		for name, m := range documented {
			types[name] = m.Type
		}
		if diff := cmp.Diff(types, definedMetrics(t, parseSource(t))); diff != "" {
			t.Errorf("docs/control-plane.md and the metrics that the source defines (-documented +defined):\n%s", diff)
		}
	})

	t.Run("wired", func(t *testing.T) {
		shown := shownMetrics(t)
		for name, m := range shown {
			if diff := cmp.Diff(documented[name], m); diff != "" {
				t.Errorf("%s (-documented +shown):\n%s", name, diff)
			}
		}
		var missing []string
		for _, name := range slices.Sorted(maps.Keys(documented)) {
			if _, found := shown[name]; !found {
				missing = append(missing, name)
			}
		}
		// They have values after the first comparison with the node's addresses, which this test must not touch, and
		// when there are pools and Services, or peers of BGP.
		if diff := cmp.Diff([]string{"kube_vip_active_services", "kube_vip_bfd_detection_seconds", "kube_vip_bfd_packets_dropped_total",
			"kube_vip_bfd_packets_total", "kube_vip_bfd_session_losses_total", "kube_vip_bfd_session_up", "kube_vip_bgp_route_changes_total", "kube_vip_bgp_routes", "kube_vip_bgp_session_flaps_total",
			"kube_vip_bgp_session_up", "kube_vip_manager_bgp_session_info", "kube_vip_pool_addresses", "kube_vip_vip_held"}, missing); diff != "" {
			t.Errorf("metrics that are documented and that a new instance does not show (-want +got):\n%s", diff)
		}
	})
}

// documentedMetrics reads the table with the header "| metric | type | labels | meaning |".
func documentedMetrics(doc string) (map[string]metric, error) {
	const header = "| metric | type | labels | meaning |\n"
	_, table, found := strings.Cut(doc, header)
	if !found {
		return nil, fmt.Errorf("there is no table %q", header)
	}
	documented := map[string]metric{}
	for line := range strings.Lines(table) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			break
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if len(cells) != 4 {
			return nil, fmt.Errorf("a row has %d cells, want 4: %s", len(cells), line)
		}
		for i, c := range cells {
			cells[i] = strings.TrimSpace(c)
		}
		if strings.Trim(cells[0], "-") == "" {
			continue // the line below the header
		}
		m := metric{Type: cells[1]}
		m.Labels = append(m.Labels, strings.FieldsFunc(cells[2], func(r rune) bool { return strings.ContainsRune("`, ", r) })...)
		slices.Sort(m.Labels)
		documented[strings.Trim(cells[0], "`")] = m
	}
	return documented, nil
}

// parseSource parses every file of ours that is no test.
func parseSource(t *testing.T) []*ast.File {
	t.Helper()
	var files []*ast.File
	for _, dir := range []string{"../../cmd", "../../pkg"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			files = append(files, file)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// definedMetrics finds the literals prometheus.GaugeOpts{Name: "..."} and their like: type by name.
func definedMetrics(t *testing.T, files []*ast.File) map[string]string {
	t.Helper()
	types := map[string]string{"GaugeOpts": "gauge", "CounterOpts": "counter", "HistogramOpts": "histogram", "SummaryOpts": "summary"}
	defined := map[string]string{}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			literal, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			selector, ok := literal.Type.(*ast.SelectorExpr)
			if !ok || types[selector.Sel.Name] == "" {
				return true
			}
			name := ""
			for _, e := range literal.Elts {
				field, ok := e.(*ast.KeyValueExpr)
				if !ok {
					continue
				}
				if key, ok := field.Key.(*ast.Ident); ok && key.Name == "Name" {
					name, _ = text(field.Value)
				}
			}
			if name == "" {
				t.Errorf("a %s of package %s has a name that is not written out", selector.Sel.Name, file.Name.Name)
				return true
			}
			defined[name] = types[selector.Sel.Name]
			return true
		})
	}
	return defined
}

// text is the value of a string literal.
func text(e ast.Expr) (string, bool) {
	literal, ok := e.(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(literal.Value)
	return s, err == nil
}

// shownMetrics is what /metrics of a wired instance shows that does not run, those of Go and of the process left out.
func shownMetrics(t *testing.T) map[string]metric {
	t.Helper()
	loaded, err := config.Load(nil, []string{"cp_enable=true", "address=192.0.2.10", "svc_enable=true", "enable_service_security=true", "vip_arp=true", "vip_nodename=node-1"})
	if err != nil {
		t.Fatal(err)
	}
	i, err := (&program{build: releaseBuild()}).wire(loaded.Config, join.Handout{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer i.close()
	var handler http.Handler
	for _, r := range i.speakers {
		switch r := r.(type) {
		case *arp.Announcer: // a metric with labels shows when it has some
			if err := r.Sync([]vip.VIP{{Prefix: netip.MustParsePrefix("192.0.2.10/32"), Link: "eth0", Via: "eth0"}}); err != nil {
				t.Fatal(err)
			}
		case endpoint:
			if r.setting == "prometheus_server" {
				handler = r.handler
			}
		}
	}
	if handler == nil {
		t.Fatal("the instance has no endpoint for prometheus_server")
	}
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))

	shown := map[string]metric{}
	name, kind := "", ""
	for line := range strings.Lines(answer.Body.String()) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ = strings.Cut(rest, " ")
		}
		if strings.HasPrefix(line, "#") || !strings.HasPrefix(name, "kube_vip_") {
			continue
		}
		labels := map[string]bool{}
		for _, found := range regexp.MustCompile(`[{,]([a-z_]+)="`).FindAllStringSubmatch(line, -1) {
			labels[found[1]] = found[1] != "le"
		}
		maps.DeleteFunc(labels, func(_ string, ours bool) bool { return !ours })
		shown[name] = metric{Type: kind, Labels: slices.Sorted(maps.Keys(labels))}
	}
	return shown
}

// TestLogDoc: whatever the documentation quotes as the message of a log line is the message of a log line in the source.
func TestLogDoc(t *testing.T) {
	patterns := logPatterns(parseSource(t))
	for _, u := range config.UnsupportedSettings() { // warnings, which are logged as they are
		patterns = append(patterns, regexp.MustCompile("^[A-Za-z_-]+: "+regexp.QuoteMeta(u.Why)+"$"))
	}
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted := 0
	for _, file := range append(files, "../../README.md") {
		for _, message := range quotedMessages(readFile(t, file)) {
			quoted++
			if !slices.ContainsFunc(patterns, func(p *regexp.Regexp) bool { return p.MatchString(message) }) {
				t.Errorf("%s quotes the log message %q, and nothing logs it", filepath.Base(file), message)
			}
		}
	}
	if quoted < 20 {
		t.Errorf("the documentation quotes %d log messages; does it still write them as msg=\"...\"?", quoted)
	}
}

// quotedMessages finds msg="...", as the text format of the log writes a message of several words, and msg=word.
func quotedMessages(doc string) []string {
	var messages []string
	for _, found := range regexp.MustCompile(`\bmsg=("(?:[^"\\]|\\.)*"|[a-z]+)`).FindAllStringSubmatch(doc, -1) {
		message, err := strconv.Unquote(found[1])
		if err != nil {
			message = found[1]
		}
		messages = append(messages, message)
	}
	return messages
}

// logPatterns are the messages that the source gives to slog; what is not a literal in them may be anything.
func logPatterns(files []*ast.File) []*regexp.Regexp {
	var patterns []*regexp.Regexp
	for _, file := range files {
		known := constants(file)
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			message := 0
			switch {
			case method.Sel.Name == "Log" && len(call.Args) > 2: // by a context and a level
				message = 2
			case !slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, method.Sel.Name):
				return true
			}
			if p := pattern(call.Args[message], known); strings.Trim(p, ".*") != "" {
				patterns = append(patterns, regexp.MustCompile("^"+p+"$"))
			}
			return true
		})
	}
	return patterns
}

// constants are the texts of a file's constants, by name.
func constants(file *ast.File) map[string]string {
	texts := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		if declared, ok := n.(*ast.ValueSpec); ok && len(declared.Names) == len(declared.Values) {
			for i, name := range declared.Names {
				if s, ok := text(declared.Values[i]); ok {
					texts[name.Name] = s
				}
			}
		}
		return true
	})
	return texts
}

// pattern is a regular expression for the values of e, by the constants that are known.
func pattern(e ast.Expr, known map[string]string) string {
	const anything = ".*"
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, ok := text(e); ok {
			return regexp.QuoteMeta(s)
		}
	case *ast.Ident:
		if s, ok := known[e.Name]; ok {
			return regexp.QuoteMeta(s)
		}
	case *ast.BinaryExpr:
		return pattern(e.X, known) + pattern(e.Y, known)
	case *ast.CallExpr: // of fmt.Sprintf
		if len(e.Args) > 0 {
			if format, ok := text(e.Args[0]); ok {
				return regexp.MustCompile(`%(\\\[\d+\\\])?[a-z]`).ReplaceAllString(regexp.QuoteMeta(format), anything)
			}
		}
	}
	return anything
}
