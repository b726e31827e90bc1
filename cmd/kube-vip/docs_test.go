package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kube-vip.io/kube-vip/pkg/join"
)

// TestDocs runs the commands that the documentation shows and compares what it says that they print.
//
// In README.md and docs/*.md, a line "$ kube-vip ..." of a fenced block of the language console is a command; the lines
// up to the next "$ " are its output, stdout and stderr. A line "..." in it stands for any number of lines. Commands
// find the files of testdata/docs in their working directory, which is the root of the file system for what they are told
// to read and to write. The machine is one on which nothing is in the way, and the cluster of a node that joins has settings
// for it. Other commands are not run, nor is `kube-vip manager`, which does not end. With -update the
// documentation gets the output that is real.
func TestDocs(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	readme := filepath.Join(root, "README.md")
	files, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(readme); err == nil {
		files = append(files, readme)
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	sandbox := t.TempDir()
	if err := os.CopyFS(sandbox, os.DirFS(docsDir)); err != nil {
		t.Fatal(err)
	}
	t.Chdir(sandbox)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text := readFile(t, file)
			checked, commands := checkDocument(text, func(args []string) string { return inSandbox(t, sandbox, args) })
			if file == readme && commands == 0 {
				t.Error("README.md shows no kube-vip command in a console block")
			}
			if *update && checked != text {
				writeFile(t, file, checked)
			} else if diff := cmp.Diff(text, checked); diff != "" {
				t.Errorf("the document and what its commands print differ (-document +real); go test ./cmd/kube-vip -update writes it:\n%s", diff)
			}
		})
	}
}

// inSandbox is what somebody sees who runs the program in a terminal. Files with absolute names that its flags name are
// below the sandbox.
func inSandbox(t *testing.T, sandbox string, args []string) string {
	t.Helper()
	var out bytes.Buffer
	p := &program{stdout: &out, stderr: &out, build: releaseBuild(), host: calm{}}
	if slices.Contains(args, "join") { // to nodes that are there already
		p.host = calm{mac: "02:00:00:00:00:11"}
		p.read = func(context.Context, join.Source) (join.Handout, error) {
			return join.Handout{Version: p.build.Version, Settings: map[string]string{"address": "192.0.2.10", "arp": "true"}}, nil
		}
	}
	p.execute(t.Context(), confine(t, sandbox, args))
	return strings.ReplaceAll(out.String(), sandbox, "")
}

// confine moves the files that args name into the sandbox.
func confine(t *testing.T, sandbox string, args []string) []string {
	t.Helper()
	files := []string{"-o", "--output", "--config", "--config-file", "--kubeadm-config"}
	confined := slices.Clone(args)
	move := func(path string) string {
		if !filepath.IsAbs(path) {
			return path
		}
		path = filepath.Join(sandbox, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for i, arg := range confined {
		flag, value, found := strings.Cut(arg, "=")
		switch {
		case !slices.Contains(files, flag):
		case found:
			confined[i] = flag + "=" + move(value)
		case i+1 < len(confined):
			confined[i+1] = move(confined[i+1])
		}
	}
	return confined
}

// checkDocument runs the commands of a document and returns it with the output that they have, and their number. What
// was right stays as it is, lines "..." included.
func checkDocument(text string, run func(args []string) string) (string, int) {
	var out []string
	commands, inConsole := 0, false
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		out = append(out, line)
		if fence := strings.TrimSpace(line); strings.HasPrefix(fence, "```") {
			inConsole = fence == "```console"
			continue
		}
		if !inConsole || !strings.HasPrefix(line, "$ ") {
			continue
		}
		// A command may go on behind a backslash.
		command := strings.TrimPrefix(line, "$ ")
		for strings.HasSuffix(command, `\`) && i+1 < len(lines) {
			i++
			out = append(out, lines[i])
			command = strings.TrimSuffix(command, `\`) + " " + strings.TrimPrefix(strings.TrimSpace(lines[i]), "> ")
		}
		var shown []string
		for i+1 < len(lines) && !strings.HasPrefix(lines[i+1], "$ ") && strings.TrimSpace(lines[i+1]) != "```" {
			i++
			shown = append(shown, lines[i])
		}
		words, err := splitCommand(command)
		if err != nil {
			out = append(out, fmt.Sprintf("(%v)", err))
			continue
		}
		if len(words) == 0 || words[0] != "kube-vip" || slices.Contains(words[1:min(2, len(words))], "manager") {
			out = append(out, shown...)
			continue
		}
		commands++
		real := strings.Split(run(words[1:]), "\n")
		real = real[:len(real)-1]
		if elided(shown, real) {
			real = shown
		}
		out = append(out, real...)
	}
	return strings.Join(out, "\n"), commands
}

// elided reports whether lines are what is shown, with "..." for any number of them.
func elided(shown, lines []string) bool {
	if len(shown) == 0 {
		return len(lines) == 0
	}
	if strings.TrimSpace(shown[0]) == "..." {
		for n := range len(lines) + 1 {
			if elided(shown[1:], lines[n:]) {
				return true
			}
		}
		return false
	}
	return len(lines) > 0 && lines[0] == shown[0] && elided(shown[1:], lines[1:])
}

// splitCommand is a command line's words, as a shell makes them of words and quotes. Anything cleverer is an error:
// this is no shell, and a reader should not need one either.
func splitCommand(line string) (words []string, err error) {
	var word strings.Builder
	started := false
	quote := rune(0)
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, started = c, true
		case c == ' ':
			if started {
				words = append(words, word.String())
			}
			word.Reset()
			started = false
		case strings.ContainsRune("|<>&;$`*?#", c) && len(words) > 0 && words[0] == "kube-vip":
			return nil, fmt.Errorf("%q is for a shell: show a command that runs as it is", c)
		default:
			word.WriteRune(c)
			started = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote %c is not closed", quote)
	}
	if started {
		words = append(words, word.String())
	}
	return words, nil
}

func TestCheckDocument(t *testing.T) {
	run := func(args []string) string {
		if slices.Equal(args, []string{"silent"}) {
			return ""
		}
		return "args " + strings.Join(args, ",") + "\nb\nc\nd\n"
	}
	fenced := func(lines ...string) string {
		return "text\n```console\n" + strings.Join(append(lines, "```", "more", ""), "\n")
	}
	tests := []struct {
		name, text, want string
		commands         int
	}{
		{name: "none", text: "text\n$ kube-vip a\n", want: "text\n$ kube-vip a\n"},
		{name: "another language", text: "```sh\n$ kube-vip a\n```\n", want: "```sh\n$ kube-vip a\n```\n"},
		{name: "right", text: fenced("$ kube-vip a", "args a", "b", "c", "d"), want: fenced("$ kube-vip a", "args a", "b", "c", "d"), commands: 1},
		{name: "wrong", text: fenced("$ kube-vip a", "args b"), want: fenced("$ kube-vip a", "args a", "b", "c", "d"), commands: 1},
		{name: "missing", text: fenced("$ kube-vip a"), want: fenced("$ kube-vip a", "args a", "b", "c", "d"), commands: 1},
		{name: "prints nothing", text: fenced("$ kube-vip silent"), want: fenced("$ kube-vip silent"), commands: 1},
		{name: "elided", text: fenced("$ kube-vip a", "args a", "...", "d"), want: fenced("$ kube-vip a", "args a", "...", "d"), commands: 1},
		{name: "elided nothing", text: fenced("$ kube-vip a", "...", "args a", "b", "c", "d", "..."), want: fenced("$ kube-vip a", "...", "args a", "b", "c", "d", "..."), commands: 1},
		{name: "elided and wrong", text: fenced("$ kube-vip a", "...", "x"), want: fenced("$ kube-vip a", "args a", "b", "c", "d"), commands: 1},
		{name: "quotes", text: fenced(`$ kube-vip 'a b' "c"d ''`, "..."), want: fenced(`$ kube-vip 'a b' "c"d ''`, "..."), commands: 1},
		{
			name: "quotes are read", text: fenced(`$ kube-vip 'a b' "c"d ''`), commands: 1,
			want: fenced(`$ kube-vip 'a b' "c"d ''`, "args a b,cd,", "b", "c", "d"),
		},
		{name: "continued", text: fenced(`$ kube-vip a \`, "    b"), want: fenced(`$ kube-vip a \`, "    b", "args a,b", "b", "c", "d"), commands: 1},
		{
			name: "other commands", text: fenced("$ ls *", "x", "$ kube-vip a", "...", "$ kube-vip manager", "y"), commands: 1,
			want: fenced("$ ls *", "x", "$ kube-vip a", "...", "$ kube-vip manager", "y"),
		},
		{name: "pipe", text: fenced("$ kube-vip a | kubectl apply -f -", "x"), want: fenced("$ kube-vip a | kubectl apply -f -", `('|' is for a shell: show a command that runs as it is)`)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, commands := checkDocument(tt.text, run)
			if diff := cmp.Diff(tt.want, got); diff != "" || commands != tt.commands {
				t.Errorf("%d commands, want %d (-want +got):\n%s", commands, tt.commands, diff)
			}
		})
	}
}

func TestConfine(t *testing.T) {
	sandbox := t.TempDir()
	got := confine(t, sandbox, strings.Fields("manifest pod --output /a/b -o c --k8sConfigPath /d --config=/e --output"))
	want := strings.Fields("manifest pod --output " + sandbox + "/a/b -o c --k8sConfigPath /d --config=" + sandbox + "/e --output")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("confine (-want +got):\n%s", diff)
	}
}
