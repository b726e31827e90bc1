package kubeadm

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// document is the page whose commands are run. Its addresses and words are examples: the lab has its own.
const document = "../../docs/kubeadm.md"

// What the page shows in place of what kubeadm makes up.
const (
	exampleToken = "abcdef.0123456789abcdef"
	exampleHex   = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// A deed is what the reader of a page does on a machine: he runs a command, which prints something, or he writes a file.
type deed struct {
	machine string
	command string
	prints  []string
	file    string
	content string
}

// deeds are what a section of a page tells the reader to do, in its order. A block of the language console has commands behind
// the prompt of a machine, "cp1# ", each followed by what it prints. A block of the language yaml is a file of the machine and
// the name that the paragraph before it ends with: "`/etc/kubernetes/kubeadm.yaml` on cp1:".
func deeds(page, section string) (list []deed, err error) {
	prompt := regexp.MustCompile(`^(cp[0-9])# (.*)$`)
	names := regexp.MustCompile("`(/[^`]+)` on (cp[0-9]):$")
	var in bool       // the section
	var block string  // its language; empty outside
	var before string // the last line of text
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case block == "" && strings.HasPrefix(line, "## "):
			in = line == "## "+section
		case !in:
		case isFence && block == "":
			if block = fence; block == "yaml" {
				m := names.FindStringSubmatch(before)
				if m == nil {
					return nil, fmt.Errorf("section %s: no file is named before a block of yaml: %q", section, before)
				}
				list = append(list, deed{machine: m[2], file: m[1]})
			}
		case isFence:
			block = ""
		case block == "console":
			if m := prompt.FindStringSubmatch(line); m != nil {
				list = append(list, deed{machine: m[1], command: m[2]})
			} else if len(list) == 0 || list[len(list)-1].command == "" {
				return nil, fmt.Errorf("section %s: nothing has printed %q", section, line)
			} else {
				d := &list[len(list)-1]
				d.prints = append(d.prints, line)
			}
		case block == "yaml":
			list[len(list)-1].content += line + "\n"
		case line != "":
			before = line
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("section %s has nothing to do", section)
	}
	return list, nil
}

// differs says what of the lines that a page shows was not printed, in their order; empty when all were. A line "..." stands
// for any number of lines, and what differs with each cluster, from run to run and by width, is not compared.
func differs(shown, printed []string) string {
	next := 0
	skip := false
	for _, line := range shown {
		if line == "..." {
			skip = true
			continue
		}
		want := plain(line)
		at := slices.IndexFunc(printed[next:], func(l string) bool { return plain(l) == want })
		if at < 0 || at > 0 && !skip {
			return line
		}
		next, skip = next+at+1, false
	}
	if next < len(printed) && !skip {
		return "(nothing more, in place of " + printed[next] + ")"
	}
	return ""
}

// plain is a line without what differs each time.
func plain(line string) string {
	for _, p := range [][2]string{
		{`[0-9a-f]{64}`, "HEX"},
		{`[a-z0-9]{6}\.[a-z0-9]{16}`, "TOKEN"},
		{`\bv[0-9]+\.[0-9]+\.[0-9]+[-.0-9a-z+]*|\bdevel\b`, "VERSION"},
		{`\b([0-9.]+(ms|[dhms]))+( ago)?\b`, "AGE"},
		{`\b[0-9]+sec\b`, "SECONDS"},
		{`\beth0@if[0-9]+\b`, "eth0"},
		{`\s+`, " "},
	} {
		line = regexp.MustCompile(p[0]).ReplaceAllString(line, p[1])
	}
	return strings.TrimSpace(line)
}

// follow does what a section of the page says.
func (c *cluster) follow(t *testing.T, section string) {
	t.Helper()
	page, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	all, err := deeds(string(page), section)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		m := c.machine(t, d.machine)
		if d.file != "" {
			content, err := c.fit(m, ours(d.content))
			if err != nil {
				t.Fatal(err)
			}
			m.write(t, d.file, content)
			continue
		}
		if strings.HasPrefix(d.command, "export ") {
			c.exported[d.machine] += d.command + "; "
			continue
		}
		command := ours(d.command)
		command = strings.NewReplacer(exampleToken, c.join.token, "sha256:"+exampleHex, c.join.hash, exampleHex, c.join.key).Replace(command)
		if strings.HasPrefix(command, "kubeadm init") || strings.HasPrefix(command, "kubeadm join") {
			command += " --ignore-preflight-errors=SystemVerification" // of the control groups, whose version 1 this kernel has
		}
		out := m.must(t, c.exported[d.machine]+command)
		if strings.HasPrefix(command, "kubeadm init") {
			if c.join, err = parseJoin(out); err != nil {
				t.Fatal(err)
			}
			c.trust(t, m)
		}
		printed := slices.DeleteFunc(strings.Split(strings.TrimSuffix(theirs(out), "\n"), "\n"), func(l string) bool {
			return strings.HasPrefix(l, "warning: this program is not a release") // a release has no such line
		})
		if len(printed) == 1 && printed[0] == "" {
			printed = nil
		}
		if line := differs(d.prints, printed); line != "" {
			t.Errorf("%s shows that %q prints\n%s\nand it prints\n%s\nwhich lacks: %s", document, d.command, strings.Join(d.prints, "\n"), strings.Join(printed, "\n"), line)
		}
		t.Logf("%s# %s\n%s", d.machine, d.command, strings.Join(printed, "\n"))
	}
}

// ours has the addresses of the lab for those of the page, and theirs the other way round.
func ours(text string) string   { return strings.ReplaceAll(text, "10.0.0.", "10.10.0.") }
func theirs(text string) string { return strings.ReplaceAll(text, "10.10.0.", "10.0.0.") }

// fit adds to a configuration of kubeadm what these machines need beside what the page says: a kernel with control groups of
// version 1, no DNS (there is no image of it), and the release that is there.
func (c *cluster) fit(m *machine, config string) (string, error) {
	var out strings.Builder
	for document := range strings.SplitSeq(config, "---\n") {
		var fields map[string]any
		if err := yaml.Unmarshal([]byte(document), &fields); err != nil {
			return "", err
		}
		if fields["kind"] == "ClusterConfiguration" {
			fields["kubernetesVersion"] = c.release.version
			fields["dns"] = map[string]any{"disabled": true}
		}
		b, err := yaml.Marshal(fields)
		if err != nil {
			return "", err
		}
		out.Write(b)
		out.WriteString("---\n")
	}
	return out.String() + componentConfig, nil
}

func (c *cluster) machine(t *testing.T, name string) *machine {
	t.Helper()
	i := slices.IndexFunc(c.machines, func(m *machine) bool { return m.Name == name })
	if i < 0 {
		t.Fatalf("there is no machine %s", name)
	}
	return c.machines[i]
}

func TestDeeds(t *testing.T) {
	page := "# Page\n\n## One\n\nText.\n\n```console\ncp1# not this\n```\n\n## Two\n\nWrite\n`/a/b.yaml` on cp1:\n\n```yaml\na: 1\nb: 2\n```\n\nThen\n\n" +
		"```console\ncp1# first\none\n...\ncp2# second\n```\n\n```sh\nnot this\n```\n\n## Three\n"
	list, err := deeds(page, "Two")
	want := []deed{
		{machine: "cp1", file: "/a/b.yaml", content: "a: 1\nb: 2\n"},
		{machine: "cp1", command: "first", prints: []string{"one", "..."}},
		{machine: "cp2", command: "second"},
	}
	if err != nil || fmt.Sprint(list) != fmt.Sprint(want) {
		t.Errorf("got %q, %v", list, err)
	}
	for _, bad := range []string{"Three", "Four"} {
		if list, err := deeds(page, bad); err == nil {
			t.Errorf("section %s: %q", bad, list)
		}
	}
	if list, err := deeds("## Five\n```console\nprinted by nobody\n```\n", "Five"); err == nil {
		t.Errorf("got %q", list)
	}
	if list, err := deeds("## Six\n```yaml\na: 1\n```\n", "Six"); err == nil {
		t.Errorf("got %q", list)
	}
}

func TestDiffers(t *testing.T) {
	for _, tt := range []struct {
		shown, printed string
		want           string
	}{
		{"a|b", "a|b", ""},
		{"a|b", "a|c", "b"},
		{"a", "a|b", "(nothing more, in place of b)"},
		{"a|...", "a|b|c", ""},
		{"...|c", "a|b|c", ""},
		{"...|a|c", "a|b|c", "c"},
		{"...|d|...", "a|b|c", "d"},
		{"", "", ""},
		{"cp1   Ready    control-plane   20s   v1.37.2", "cp1 Ready control-plane 3m12s v1.38.0", ""},
		{"cp1   Ready    control-plane   20s   v1.37.2", "cp1 NotReady control-plane 3m12s v1.38.0", "cp1   Ready    control-plane   20s   v1.37.2"},
		{"--token abcdef.0123456789abcdef", "--token 0a1b2c.aaaabbbbccccdddd", ""},
		{"2.1s ago", "312ms ago", ""},
	} {
		lines := func(s string) []string {
			if s == "" {
				return nil
			}
			return strings.Split(s, "|")
		}
		if got := differs(lines(tt.shown), lines(tt.printed)); got != tt.want {
			t.Errorf("%q shown, %q printed: got %q, want %q", tt.shown, tt.printed, got, tt.want)
		}
	}
}
