package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// netnsDir is where iproute2 keeps named network namespaces.
const netnsDir = "/run/netns"

// enter moves the calling thread, which must be locked and is lost for anything else, into the host's network
// and into a new mount namespace.
func (h *Host) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	// A copy of such a mount would keep that network alive after its host is gone.
	names, err := os.ReadDir(netnsDir)
	if err != nil {
		return err
	}
	for _, n := range names {
		_ = unix.Unmount(filepath.Join(netnsDir, n.Name()), unix.MNT_DETACH)
	}
	if err := unix.Setns(h.fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network of %s: %w", h.Name, err)
	}
	// /sys/class/net shows the network that was current when it was mounted. In a user namespace the kernel may
	// refuse; then the machine's own is seen.
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("mount /sys: %w", err)
	}
	return nil
}

// mountEtc gives the calling thread an /etc with the host's own hosts and kubernetes. What the machine has there
// beside them is linked to, so that nothing needs to exist on the machine and nothing is created there.
func (h *Host) mountEtc() error {
	real := filepath.Join(h.lab.Dir, "etc")
	if err := unix.Mount("/etc", real, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep /etc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/etc", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /etc: %w", err)
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		return err
	}
	own, err := os.ReadDir(h.Path("/etc"))
	if err != nil {
		return err
	}
	ours := map[string]bool{}
	for _, e := range own {
		ours[e.Name()] = true
		if err := bind(h.Path("/etc/"+e.Name()), "/etc/"+e.Name(), false); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if ours[e.Name()] {
			continue
		}
		if err := os.Symlink(filepath.Join(real, e.Name()), "/etc/"+e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// bind makes the file or folder at from visible at to, which it creates.
func bind(from, to string, readOnly bool) error {
	st, err := os.Stat(from)
	if err != nil {
		return err
	}
	if st.IsDir() {
		err = os.MkdirAll(to, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(to), 0o755); err == nil {
		var f *os.File
		if f, err = os.OpenFile(to, os.O_CREATE|os.O_RDONLY, 0o644); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", from, to, err)
	}
	if !readOnly {
		return nil
	}
	return remountReadOnly(to)
}

// remountReadOnly keeps the flags that the mount has: in a user namespace they cannot be taken away.
func remountReadOnly(path string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return fmt.Errorf("read the mount flags of %s: %w", path, err)
	}
	flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY)
	for have, want := range map[int64]uintptr{
		unix.ST_NOSUID: unix.MS_NOSUID, unix.ST_NODEV: unix.MS_NODEV, unix.ST_NOEXEC: unix.MS_NOEXEC,
		unix.ST_NOATIME: unix.MS_NOATIME, unix.ST_RELATIME: unix.MS_RELATIME,
	} {
		if int64(fs.Flags)&have != 0 {
			flags |= want
		}
	}
	if err := unix.Mount("", path, "", flags, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", path, err)
	}
	return nil
}
