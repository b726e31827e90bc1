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
	Network interface {
		Links() ([]vip.Link, error)
		Addresses() ([]vip.Address, error)
	}
	Ask func(ctx context.Context, link string, addr netip.Addr) (net.HardwareAddr, error)
	Why error
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

// Held implements Host.
func (m Machine) Held() (list []netip.Addr, err error) {
	if m.Network == nil {
		return nil, m.Why
	}
	all, err := m.Network.Addresses()
	for _, a := range all {
		if a.Ours {
			list = append(list, a.Prefix.Addr())
		}
	}
	return list, err
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
func (m Machine) Listeners() ([]Listener, error) {
	owners := m.sockets()
	var list []Listener
	for _, name := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile(m.proc("net", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without that family
		}
		if err != nil {
			return nil, err
		}
		some, err := listeners(b, owners)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.proc("net", name), err)
		}
		list = append(list, some...)
	}
	return list, nil
}

// listening is the state TCP_LISTEN of include/net/tcp_states.h.
const listening = "0A"

// inodeField is the number of the field that has a socket's inode.
const inodeField = 9

// listeners reads what Documentation/networking/proc_net_tcp.rst describes. Owners are processes by the inodes of their sockets.
func listeners(table []byte, owners map[string]string) (list []Listener, err error) {
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
		l := Listener{At: at}
		if len(fields) > inodeField {
			l.By = owners[fields[inodeField]]
		}
		list = append(list, l)
	}
	return list, lines.Err()
}

// sockets are the processes' names by the inodes of their sockets, as far as this process may see them.
func (m Machine) sockets() map[string]string {
	owners := map[string]string{}
	pids, _ := m.pids() // without them nobody is known
	for _, pid := range pids {
		files, err := os.ReadDir(m.proc(pid, "fd"))
		if err != nil {
			continue
		}
		for _, f := range files {
			target, err := os.Readlink(m.proc(pid, "fd", f.Name()))
			if inode, is := strings.CutPrefix(target, "socket:["); err == nil && is {
				owners[strings.TrimSuffix(inode, "]")] = m.name(pid)
			}
		}
	}
	return owners
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
	pids, err := m.pids()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, pid := range pids {
		if name := m.name(pid); name != "" && pid != strconv.Itoa(os.Getpid()) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// pids are the processes in this one's network namespace, and those that may be.
func (m Machine) pids() ([]string, error) {
	entries, err := os.ReadDir(m.proc())
	if err != nil {
		return nil, err
	}
	own, ownErr := os.Readlink(m.proc("self", "ns", "net"))
	var pids []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		if of, err := os.Readlink(m.proc(e.Name(), "ns", "net")); err == nil && ownErr == nil && of != own {
			continue // what a container on a network of its own does is not done here
		}
		pids = append(pids, e.Name())
	}
	return pids, nil
}

// name is a process's; empty when it has ended meanwhile.
func (m Machine) name(pid string) string {
	b, err := os.ReadFile(m.proc(pid, "comm"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// largest is the size up to which a file may be a manifest: an API server takes no larger object.
const largest = 1 << 20

// Manifests implements Host.
func (m Machine) Manifests(dir string) (map[string]Manifest, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := map[string]Manifest{}
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") { // as the kubelet passes over them
			continue
		}
		path := filepath.Join(dir, e.Name())
		if info, err := os.Stat(path); err == nil && (!info.Mode().IsRegular() || info.Size() > largest) {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return files, err
		}
		files[e.Name()] = manifestOf(b)
	}
	return files, nil
}

// addressVars are the variables that have the control plane's addresses: the setting address, as it is spelt and was.
var addressVars = [...]string{"address", "vip_address"}

// manifestOf reads the manifest of a pod.
func manifestOf(text []byte) (m Manifest) {
	type container struct {
		Image string
		Env   []struct{ Name, Value string }
	}
	var pod struct {
		Spec struct{ Containers, InitContainers []container }
	}
	if yaml.Unmarshal(text, &pod) != nil {
		return m
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		m.Images = append(m.Images, c.Image)
		for _, v := range c.Env {
			if slices.Contains(addressVars[:], v.Name) && v.Value != "" {
				m.Addresses = append(m.Addresses, strings.FieldsFunc(v.Value, func(c rune) bool { return c == ',' || c == ' ' })...)
			}
		}
	}
	return m
}

// File implements Host.
func (m Machine) File(path string) error {
	return isThere(path, fs.FileMode.IsRegular, "a regular file")
}

// isThere says why what is at a path is not of a kind.
func isThere(path string, is func(fs.FileMode) bool, kind string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("it is not there")
	case err != nil:
		return err
	case !is(info.Mode()):
		return errors.New("it is not " + kind)
	}
	return nil
}

// Writable implements Host.
func (m Machine) Writable(dir string) error {
	if err := isThere(dir, fs.FileMode.IsDir, "a directory"); err != nil {
		return err
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
