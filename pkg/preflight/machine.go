package preflight

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"kube-vip.io/kube-vip/pkg/vip"
)

// Machine is the one that this process runs on.
type Machine struct {
	// Network lists interfaces, and Ask asks neighbours; nil means that neither can be done, for which Why is the reason.
	Network interface{ Links() ([]vip.Link, error) }
	Ask     func(ctx context.Context, link string, addr netip.Addr) (net.HardwareAddr, error)
	Why     error
	// Proc is where procfs is mounted; empty means /proc.
	Proc string
}

var _ Host = Machine{}

func (m Machine) proc(parts ...string) string {
	root := m.Proc
	if root == "" {
		root = "/proc"
	}
	return filepath.Join(append([]string{root}, parts...)...)
}

// Links implements Host.
func (m Machine) Links() ([]vip.Link, error) {
	if m.Network == nil {
		return nil, m.Why
	}
	return m.Network.Links()
}

// Probe implements Host.
func (m Machine) Probe(ctx context.Context, link string, addr netip.Addr) (net.HardwareAddr, error) {
	return m.Ask(ctx, link, addr)
}

// Sysctl implements Host.
func (m Machine) Sysctl(name string) (string, error) {
	b, err := os.ReadFile(m.proc("sys", filepath.FromSlash(name)))
	return strings.TrimSpace(string(b)), err
}

// Listeners implements Host, by proc_net_tcp.
func (m Machine) Listeners() ([]netip.AddrPort, error) {
	var list []netip.AddrPort
	for _, name := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile(m.proc("net", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without that family
		}
		if err != nil {
			return nil, err
		}
		some, err := listeners(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.proc("net", name), err)
		}
		list = append(list, some...)
	}
	return list, nil
}

// listening is the state TCP_LISTEN of include/net/tcp_states.h.
const listening = "0A"

// listeners reads what Documentation/networking/proc_net_tcp.rst describes.
func listeners(table []byte) (list []netip.AddrPort, err error) {
	lines := bufio.NewScanner(bytes.NewReader(table))
	for first := true; lines.Scan(); first = false {
		fields := strings.Fields(lines.Text())
		if first || len(fields) < 4 || fields[3] != listening {
			continue
		}
		at, err := socketAddress(fields[1])
		if err != nil {
			return nil, err
		}
		list = append(list, at)
	}
	return list, lines.Err()
}

// socketAddress reads an address as hexadecimal words of the machine's byte order, and a port.
func socketAddress(text string) (netip.AddrPort, error) {
	addr, port, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(addr)
	number, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil || len(b) != net.IPv4len && len(b) != net.IPv6len {
		return netip.AddrPort{}, fmt.Errorf("%q is not the address of a socket", text)
	}
	for word := b; len(word) > 0; word = word[4:] {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	at, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(at.Unmap(), uint16(number)), nil
}

// Processes implements Host.
func (m Machine) Processes() ([]string, error) {
	entries, err := os.ReadDir(m.proc())
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		b, err := os.ReadFile(m.proc(e.Name(), "comm"))
		if name := strings.TrimSpace(string(b)); err == nil && !slices.Contains(names, name) { // else it has ended meanwhile
			names = append(names, name)
		}
	}
	return names, nil
}

// Manifests implements Host. What is no manifest has no images.
func (m Machine) Manifests(dir string) (map[string][]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := map[string][]string{}
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") { // as the kubelet passes over them
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return files, err
		}
		files[e.Name()] = images(b)
	}
	return files, nil
}

// images are those that the containers of a pod's manifest name.
func images(manifest []byte) (list []string) {
	type container struct{ Image string }
	var pod struct {
		Spec struct{ Containers, InitContainers []container }
	}
	if yaml.Unmarshal(manifest, &pod) != nil {
		return nil
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		list = append(list, c.Image)
	}
	return list
}

// Writable implements Host.
func (m Machine) Writable(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("it is not there")
	case err != nil:
		return err
	case !info.IsDir():
		return errors.New("it is not a directory")
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return err
	}
	return nil
}

// needed are the capabilities that kube-vip needs, by their bits in linux/capability.h.
var needed = []struct {
	name string
	bit  uint
}{{"NET_ADMIN", unix.CAP_NET_ADMIN}, {"NET_RAW", unix.CAP_NET_RAW}}

// Lacks implements Host, by proc_pid_status(5).
func (m Machine) Lacks() ([]string, error) {
	b, err := os.ReadFile(m.proc("self", "status"))
	if err != nil {
		return nil, err
	}
	_, rest, found := strings.Cut(string(b), "\nCapEff:")
	text, _, _ := strings.Cut(rest, "\n")
	set, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
	if !found || err != nil {
		return nil, fmt.Errorf("%s has no capabilities in it", m.proc("self", "status"))
	}
	var lacks []string
	for _, c := range needed {
		if set>>c.bit&1 == 0 {
			lacks = append(lacks, c.name)
		}
	}
	return lacks, nil
}
