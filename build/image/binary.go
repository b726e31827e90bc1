package main

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// dirty is at the end of a revision with changes that are in no commit.
const dirty = "-dirty"

// A buildOf says what a binary was built from.
type buildOf struct {
	// version is the release, v1.2.3; or a pseudo-version of the commit; or "devel". It is what `kube-vip version` says.
	version string
	// revision is the commit, empty when it is not known.
	revision string
	// committed is when that was, 1970 when it is not known.
	committed time.Time
	// goVersion is the compiler's: another one makes another binary.
	goVersion string
}

func (b buildOf) String() string {
	return fmt.Sprintf("%s of commit %q with %s", b.version, b.revision, b.goVersion)
}

// A binary is the program for one platform.
type binary struct {
	platform v1.Platform
	content  []byte
	build    buildOf
}

// readBinary reads dir/PLATFORM/kube-vip. It refuses one that is for another platform, and one that is not static: on an
// empty base there is no dynamic linker.
func readBinary(dir, platform string) (binary, error) {
	p, err := parsePlatform(platform)
	if err != nil {
		return binary{}, err
	}
	name := filepath.Join(dir, filepath.FromSlash(platform), "kube-vip")
	content, err := os.ReadFile(name)
	if err != nil {
		return binary{}, fmt.Errorf("read the binary for %s: %w", platform, err)
	}
	info, err := buildinfo.Read(bytes.NewReader(content))
	if err != nil {
		return binary{}, fmt.Errorf("read what %s was built from: %w", name, err)
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}

	built := settings["GOOS"] + "/" + settings["GOARCH"]
	if arm, isArm := settings["GOARM"]; isArm {
		level, _, _ := strings.Cut(arm, ",") // "7,softfloat"
		built += "/v" + level
	}
	if built != p.String() {
		return binary{}, fmt.Errorf("%s is for %s, not for %s", name, built, p)
	}
	program, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return binary{}, fmt.Errorf("read %s: %w", name, err)
	}
	for _, s := range program.Progs {
		if s.Type == elf.PT_INTERP {
			return binary{}, fmt.Errorf("%s is not static: build it with CGO_ENABLED=0", name)
		}
	}

	b := buildOf{
		version: info.Main.Version, revision: settings["vcs.revision"], committed: time.Unix(0, 0).UTC(), goVersion: info.GoVersion,
	}
	if b.version == "" || b.version == "(devel)" {
		b.version = "devel"
	}
	if b.revision != "" && settings["vcs.modified"] == "true" {
		b.revision += dirty
	}
	if at := settings["vcs.time"]; at != "" {
		b.committed, err = time.Parse(time.RFC3339, at)
		if err != nil {
			return binary{}, fmt.Errorf("read the commit's time of %s: %w", name, err)
		}
		b.committed = b.committed.UTC()
	}
	return binary{platform: p, content: content, build: b}, nil
}

// parsePlatform reads linux/ARCH and linux/arm/vN. Other variants are refused: container engines call the one that there
// is by no name at all (linux/arm64, not linux/arm64/v8), and would not find the image under another.
func parsePlatform(s string) (v1.Platform, error) {
	parts := strings.Split(s, "/")
	arm := len(parts) == 3 && parts[1] == "arm" && (parts[2] == "v5" || parts[2] == "v6" || parts[2] == "v7")
	plain := len(parts) == 2 && parts[1] != "arm" && parts[1] != "" && strings.Trim(parts[1], "abcdefghijklmnopqrstuvwxyz0123456789") == ""
	switch {
	case parts[0] != "linux" || !arm && !plain:
		return v1.Platform{}, fmt.Errorf("%q is not a platform: want linux/amd64, linux/arm64 or linux/arm/v7, for example", s)
	case arm:
		return v1.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}, nil
	}
	return v1.Platform{OS: parts[0], Architecture: parts[1]}, nil
}

// sameBuild says whether all platforms have the same program, and each of them once.
func sameBuild(binaries []binary) error {
	seen := map[string]bool{}
	for _, b := range binaries {
		if seen[b.platform.String()] {
			return fmt.Errorf("%s is there twice", b.platform)
		}
		seen[b.platform.String()] = true
		if first := binaries[0]; b.build != first.build {
			return fmt.Errorf("the binaries differ: %s is %s, %s is %s", first.platform, first.build, b.platform, b.build)
		}
	}
	return nil
}
