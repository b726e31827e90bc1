package preflight

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

// TestMachine asks this machine itself.
func TestMachine(t *testing.T) {
	m := Machine{}
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Logf("there is no %s here: %v", at, err)
			continue
		}
		defer func() { _ = l.Close() }()
		list, err := m.Listeners()
		comm, commErr := os.ReadFile("/proc/self/comm")
		if want := (Listener{netip.MustParseAddrPort(l.Addr().String()), strings.TrimSpace(string(comm))}); errors.Join(err, commErr) != nil || !slices.Contains(list, want) {
			t.Errorf("%v is not among %v; %v", want, list, err)
		}
	}
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = other.Process.Kill(), other.Wait() }()
	if names, err := m.Processes(); err != nil || !slices.Contains(names, "sleep") {
		t.Errorf("sleep is not among %q; %v", names, err)
	}
	if value, err := m.Sysctl("kernel/ostype"); err != nil || value != "Linux" {
		t.Errorf("kernel.ostype is %q; %v", value, err)
	}
	if _, err := m.Sysctl("net/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a sysctl that is not there: %v", err)
	}
	lacks, err := m.Lacks()
	if err != nil || os.Getuid() == 0 && os.Getenv("CI") != "" && len(lacks) > 0 {
		t.Errorf("this process lacks %q; %v", lacks, err)
	}
	m.Why = errors.New("no netlink")
	if _, err := m.Links(); !errors.Is(err, m.Why) {
		t.Errorf("without a network: %v", err)
	}
}

func TestListeners(t *testing.T) {
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	got, err := listeners([]byte(head+
		"   0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n"+
		"   1: 0100007F:192C 0100007F:192B 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1\n"+
		"   2: 00000000000000000000000000000000:192B 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 3 1 0\n"+
		"   3: 000000FD000000000000000011000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4 1 0\n"), map[string]string{"1": "kube-apiserver", "4": "nginx"})
	want := []Listener{
		{netip.MustParseAddrPort("127.0.0.1:6443"), "kube-apiserver"}, {netip.MustParseAddrPort("[::]:6443"), ""}, {netip.MustParseAddrPort("[fd00::11]:80"), "nginx"},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, bad := range []string{"0100007F", "0100007F:G", "01:1", "zz:1"} {
		if _, err := listeners([]byte(head+" 0: "+bad+" x 0A\n"), nil); err == nil {
			t.Errorf("%q is taken for an address", bad)
		}
	}
}

func FuzzListeners(f *testing.F) {
	f.Add([]byte("head\n 0: 0100007F:192B x 0A\n"))
	f.Fuzz(func(t *testing.T, table []byte) {
		list, err := listeners(table, nil)
		if err != nil && list != nil {
			t.Errorf("%v beside %v", list, err)
		}
		for _, l := range list {
			if !l.At.Addr().IsValid() {
				t.Errorf("%v is no address", l)
			}
		}
	})
}

func TestManifests(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"pod.yaml":   "spec:\n  initContainers: [{image: one}]\n  containers: [{image: two, name: x, env: [{name: address, value: '10.0.0.10, fd00::10'}, {name: bgp_peers, value: '10.0.0.1:65000'}]}]\n",
		"pod.json":   `{"spec": {"containers": [{"image": "three"}]}}`,
		"notes.txt":  "no manifest: [",
		".hidden":    "spec: {containers: [{image: four}]}",
		"wrong.yaml": "spec: [1]",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "sub"), 0o700), unix.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o600),
		os.WriteFile(filepath.Join(dir, "dump.yaml"), make([]byte, largest+1), 0o600)); err != nil {
		t.Fatal(err)
	}
	got, err := Machine{}.Manifests(dir)
	want := map[string]Manifest{"pod.yaml": {Images: []string{"one", "two"}, Addresses: []string{"10.0.0.10", "fd00::10"}}, "pod.json": {Images: []string{"three"}}, "notes.txt": {}, "wrong.yaml": {}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if err := (Machine{}).Writable(dir); err != nil {
		t.Errorf("%s: %v", dir, err)
	}
	if err := (Machine{}).File(filepath.Join(dir, "pod.yaml")); err != nil {
		t.Error(err)
	}
	for path, want := range map[string]string{filepath.Join(dir, "none"): "it is not there", dir: "it is not a regular file"} {
		if err := (Machine{}).File(path); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	for path, want := range map[string]string{filepath.Join(dir, "none"): "it is not there", filepath.Join(dir, "pod.yaml"): "it is not a directory"} {
		if err := (Machine{}).Writable(path); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}
