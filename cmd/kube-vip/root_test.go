package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kube-vip.io/kube-vip/pkg/config"
)

// result is what one run of the program leaves behind.
type result struct {
	Code           int
	Stdout, Stderr string
}

// releaseBuild is the release that tests run as, so that their output does not change with each commit.
func releaseBuild() build {
	return build{Version: "v1.0.0", Commit: "0123456789abcdef0123456789abcdef01234567", CommitTime: "2026-01-02T03:04:05Z", GoVersion: "go1.26.0", Platform: "linux/amd64"}
}

// kubeVIP runs the program as `kube-vip args...` in an environment.
func kubeVIP(t *testing.T, environ []string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p := &program{environ: environ, stdout: &stdout, stderr: &stderr, build: releaseBuild()}
	code := p.execute(t.Context(), args)
	return result{Code: code, Stdout: stdout.String(), Stderr: stderr.String()}
}

// TestRun is the one way through the program that main takes.
func TestRun(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"version"}, nil, &stdout, &stderr); code != 0 || stderr.Len() > 0 {
		t.Errorf("exit code %d, stderr %q", code, stderr.String())
	}
	if want := "Version:  "; !strings.HasPrefix(stdout.String(), want) {
		t.Errorf("stdout %q, want it to begin with %q", stdout.String(), want)
	}
	stdout.Reset()
	if code := run(t.Context(), []string{"manifest", "pod"}, nil, &stdout, &stderr); code != 1 || stdout.Len() > 0 {
		t.Errorf("exit code %d, stdout %q, want 1 and nothing", code, stdout.String())
	}
}

// TestBrokenStdout is a disk that is full: half a manifest must not look like success.
func TestBrokenStdout(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var stderr bytes.Buffer
	p := &program{stdout: full, stderr: &stderr, build: releaseBuild()}
	code := p.execute(t.Context(), []string{"manifest", "rbac"})
	if want := "error: write the result to stdout: write /dev/full: no space left on device\n"; code != 1 || stderr.String() != want {
		t.Errorf("exit code %d, stderr:\n%swant 1 and:\n%s", code, stderr.String(), want)
	}
}

// TestMistakes are the command lines that people get wrong: exit code 1, nothing on stdout, and on stderr what was
// meant.
func TestMistakes(t *testing.T) {
	tests := []struct {
		args string
		want string
	}{
		{args: "manifst pod", want: `unknown command "manifst" for "kube-vip"; did you mean manifest?`},
		{args: "start", want: `unknown command "start" for "kube-vip": want completion, config, explain, kubeadm, manager, manifest, preflight, status, version`},
		{args: "manifest pdo", want: `unknown command "pdo" for "kube-vip manifest"; did you mean pod?`},
		{args: "kubeadm jion", want: `unknown command "jion" for "kube-vip kubeadm"; did you mean join?`},
		{args: "--address 10.0.0.10 --arp", want: `"kube-vip" needs a command: completion, config, explain, kubeadm, manager, manifest, preflight, status, version`},
		{args: "manifest --address 10.0.0.10 --arp", want: `"kube-vip manifest" needs a command: daemonset, pod, rbac`},
		{args: "kubeadm --address 10.0.0.10 --arp", want: `"kube-vip kubeadm" needs a command: init, join`},
		{args: "manifest pod --adress 10.0.0.10", want: "unknown flag --adress; did you mean --address?"},
		{args: "manifest pod --kubeadmconfig x", want: "unknown flag --kubeadmconfig; did you mean --kubeadm-config?"},
		{args: "manifest pod --vip_address 10.0.0.10", want: "unknown flag --vip_address; did you mean --address?"},
		{args: "manifest pod --bgp-peers x", want: "unknown flag --bgp-peers; did you mean --bgppeers?"},
		{args: "manifest pod --arpp", want: "unknown flag --arpp; did you mean --arp?"},
		{args: "manifest pod --zebr", want: "unknown flag --zebr"}, // --zebra is accepted, and does nothing
		{args: "manifest pod --entirely-different", want: "unknown flag --entirely-different"},
		{args: "manifest pod -address 10.0.0.10", want: "unknown flag -address; did you mean --address?"},
		{args: "manifest pod --address", want: "flag needs an argument: --address"},
		{args: "manifest pod --inCluster=maybe", want: `invalid argument "maybe" for "--inCluster" flag: strconv.ParseBool: parsing "maybe": invalid syntax`},
		{args: "manifest pod --address 10.0.0.10 --arp true", want: `"kube-vip manifest pod" takes no arguments: a switch takes its value behind an equals sign, --arp=true for example`},
		{args: "manifest pod 10.0.0.10 fd00::10", want: `"kube-vip manifest pod" takes no arguments, and "10.0.0.10" is none of its flags` + "\n" +
			`"kube-vip manifest pod" takes no arguments, and "fd00::10" is none of its flags`},
		{args: "explain service", want: `"kube-vip explain service" wants one Service, as NAMESPACE/NAME, or NAME for one in default`},
		{args: "explain service a b", want: `"kube-vip explain service" wants one Service, as NAMESPACE/NAME, or NAME for one in default`},
		{args: "explain service a/b/c", want: `"a/b/c" names no Service: want NAMESPACE/NAME, or NAME for one in default`},
		{args: "explain service /b", want: `"/b" names no Service: want NAMESPACE/NAME, or NAME for one in default`},
		{args: "explain servce a", want: `unknown command "servce" for "kube-vip explain"; did you mean service?`},
		{args: "explain service a -o yaml", want: `--output "yaml" is not a format: want text or json`},
		{args: "status services", want: `"kube-vip status" takes no arguments, and "services" is none of its flags`},
		{args: "status -o yaml", want: `--output "yaml" is not a format: want text or json`},
		{args: "version -o yaml", want: `--output "yaml" is not a format: want text or json`},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			var want strings.Builder
			for line := range strings.Lines(tt.want) {
				fmt.Fprintf(&want, "error: %s\n", strings.TrimSuffix(line, "\n"))
			}
			got := kubeVIP(t, nil, strings.Fields(tt.args)...)
			if diff := cmp.Diff(result{Code: 1, Stderr: want.String()}, got); diff != "" {
				t.Errorf("kube-vip %s (-want +got):\n%s", tt.args, diff)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, args := range []string{"", "--help", "help", "manifest", "manifest --help", "help manifest pod", "kubeadm", "manager --help", "manifest pod --help", "kubeadm init -h", "config --help", "explain", "explain service --help", "status --help", "version --help", "completion --help", "completion bash --help"} {
		t.Run(args, func(t *testing.T) {
			got := kubeVIP(t, nil, strings.Fields(args)...)
			if got.Code != 0 || got.Stderr != "" || !strings.Contains(got.Stdout, "Usage:\n  kube-vip") {
				t.Errorf("kube-vip %s: %+v", args, got)
			}
		})
	}

	// Every setting is explained once, under its heading, where it means something, and not where it does not.
	for args, listed := range map[string]bool{"manifest pod --help": true, "help manifest pod": true, "manager --help": true, "config --help": true, "status --help": true, "explain service --help": true, "explain --help": false, "--help": false, "manifest --help": false, "version --help": false} {
		out := kubeVIP(t, nil, strings.Fields(args)...).Stdout
		for _, s := range config.Settings() {
			times := 0
			for line := range strings.Lines(out) {
				fields := strings.Fields(line)
				if slices.Contains(fields, "--"+s.Name) && strings.HasPrefix(fields[0], "-") {
					times++
				}
			}
			if want := map[bool]int{true: 1}[listed]; times != want {
				t.Errorf("kube-vip %s explains --%s %d times, want %d", args, s.Name, times, want)
			}
			if heading := "\n" + s.Group + ":\n"; strings.Contains(out, heading) != listed {
				t.Errorf("kube-vip %s: heading %q is there: %t, want %t", args, s.Group, !listed, listed)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	got := kubeVIP(t, nil, "version")
	want := result{Stdout: "Version:  v1.0.0\nBuild:    0123456789abcdef0123456789abcdef01234567 of 2026-01-02T03:04:05Z\nGo:       go1.26.0\nPlatform: linux/amd64\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("version (-want +got):\n%s", diff)
	}
	got = kubeVIP(t, nil, "version", "-o", "json")
	want = result{Stdout: `{
  "version": "v1.0.0",
  "commit": "0123456789abcdef0123456789abcdef01234567",
  "commitTime": "2026-01-02T03:04:05Z",
  "goVersion": "go1.26.0",
  "platform": "linux/amd64"
}
`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("version -o json (-want +got):\n%s", diff)
	}
}

func TestBuiltFrom(t *testing.T) {
	settings := []debug.BuildSetting{{Key: "GOOS", Value: "linux"}, {Key: "GOARCH", Value: "arm64"}}
	vcs := append(slices.Clone(settings), debug.BuildSetting{Key: "vcs.revision", Value: "abc"}, debug.BuildSetting{Key: "vcs.time", Value: "2026-01-02T03:04:05Z"})
	dirty := append(slices.Clone(vcs), debug.BuildSetting{Key: "vcs.modified", Value: "true"})
	tests := []struct {
		name     string
		version  string
		settings []debug.BuildSetting
		want     build
		released bool
	}{
		{name: "nothing known", settings: settings, want: build{Version: "devel"}},
		{name: "no VCS", version: "(devel)", settings: settings, want: build{Version: "devel"}},
		{name: "release", version: "v1.2.3", settings: vcs, want: build{Version: "v1.2.3", Commit: "abc", CommitTime: "2026-01-02T03:04:05Z"}, released: true},
		{name: "pre-release", version: "v1.2.0-rc.1", settings: vcs, want: build{Version: "v1.2.0-rc.1", Commit: "abc", CommitTime: "2026-01-02T03:04:05Z"}, released: true},
		{name: "changed since", version: "v1.2.3+dirty", settings: dirty, want: build{Version: "v1.2.3+dirty", Commit: "abc-dirty", CommitTime: "2026-01-02T03:04:05Z"}},
		{name: "after a release", version: "v1.2.4-0.20260102030405-0123456789ab", settings: vcs, want: build{Version: "v1.2.4-0.20260102030405-0123456789ab", Commit: "abc", CommitTime: "2026-01-02T03:04:05Z"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.GoVersion, tt.want.Platform = "go1.26.0", "linux/arm64"
			got := builtFrom(&debug.BuildInfo{GoVersion: "go1.26.0", Main: debug.Module{Version: tt.version}, Settings: tt.settings})
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("builtFrom (-want +got):\n%s", diff)
			}
			if got.released() != tt.released {
				t.Errorf("released() = %t, want %t", got.released(), tt.released)
			}
		})
	}
}

func TestFlatten(t *testing.T) {
	a, b, c := errors.New("a"), errors.New("b"), errors.New("c")
	tests := []struct {
		name string
		err  error
		want []string
	}{
		{name: "one", err: a, want: []string{"a"}},
		{name: "joined", err: errors.Join(a, errors.Join(b, nil, c)), want: []string{"a", "b", "c"}},
		{name: "wrapped", err: fmt.Errorf("x: %w", a), want: []string{"x: a"}},
		{name: "two wrapped in one sentence", err: fmt.Errorf("%w and %w", a, b), want: []string{"a and b"}},
		{name: "prefixed", err: errors.Join(prefixed(errors.Join(a, b), "file"), c), want: []string{"file: a", "file: b", "c"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, err := range flatten(tt.err) {
				got = append(got, err.Error())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("flatten (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDistance(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"abc", "", 3}, {"", "abc", 3}, {"abc", "abc", 0},
		{"adress", "address", 1}, {"adderss", "address", 2}, {"kitten", "sitting", 3}, {"sunday", "saturday", 3},
	}
	for _, tt := range tests {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

// TestCompletion asks the program what the shells' scripts ask it.
func TestCompletion(t *testing.T) {
	interfaces, err := net.Interfaces()
	if err != nil || len(interfaces) == 0 {
		t.Fatalf("interfaces of this machine: %v, %v", interfaces, err)
	}
	var names []string
	for _, i := range interfaces {
		names = append(names, i.Name)
	}
	const noFiles, files = ":4", ":0"
	tests := []struct {
		args      string
		want      []string
		directive string
	}{
		{args: "manifest pod --interface=", want: names, directive: noFiles},
		{args: "manager --sourceIF=", want: names, directive: noFiles},
		{args: "manifest pod --dnsMode=", want: []string{"first", "ipv4", "ipv6", "dual"}, directive: noFiles},
		{args: "manager --logFormat=", want: []string{"text", "json"}, directive: noFiles},
		{args: "manifest pod --serviceInterface=", want: names, directive: noFiles},
		{args: "manifest pod --servicesPools=", want: []string{"auto", "on", "off"}, directive: noFiles},
		{args: "manifest pod --arp=", want: []string{"true", "false"}, directive: noFiles},
		{args: "manifest pod --address=", directive: noFiles},
		{args: "manifest pod --vip=", directive: noFiles},
		{args: "manifest pod --image=", directive: noFiles},
		{args: "manifest pod --k8sConfigPath=", directive: files},
		{args: "manifest pod --config-file=", directive: files},
		{args: "manifest pod --output=", directive: files},
		{args: "kubeadm init --config=", directive: files},
		{args: "version --output=", want: []string{"text", "json"}, directive: noFiles},
		{args: "status --output=", want: []string{"text", "json"}, directive: noFiles},
		{args: "explain service --output=", want: []string{"text", "json"}, directive: noFiles},
		{args: "explain service w", directive: noFiles},
		{args: "mani", want: []string{"manifest"}, directive: noFiles},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			got := kubeVIP(t, nil, append([]string{"__completeNoDesc"}, strings.Fields(tt.args)...)...)
			lines := strings.Split(strings.TrimSuffix(got.Stdout, "\n"), "\n")
			last := len(lines) - 1
			if got.Code != 0 || lines[last] != tt.directive {
				t.Errorf("exit code %d, directive %q, want %q", got.Code, lines[last], tt.directive)
			}
			if diff := cmp.Diff(tt.want, slices.Clip(append([]string(nil), lines[:last]...))); diff != "" {
				t.Errorf("completions (-want +got):\n%s", diff)
			}
		})
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		got := kubeVIP(t, nil, "completion", shell)
		if got.Code != 0 || got.Stderr != "" || !strings.Contains(got.Stdout, "__complete") {
			t.Errorf("completion %s: exit code %d, stderr %q, %d bytes", shell, got.Code, got.Stderr, len(got.Stdout))
		}
	}
}
