// Command image packs kube-vip into an archive that container engines load: OCI's image layout
// (https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md) for all platforms, and beside it the
// manifest.json that `docker load` reads. It needs no engine and no registry, and asks the machine for nothing: the same
// binaries become the same archive, bit for bit, everywhere.
//
//	image -binaries bin -output bin/kube-vip-image.tar linux/amd64 linux/arm/v7
//
// takes bin/linux/amd64/kube-vip and bin/linux/arm/v7/kube-vip; version, commit and time come from what the linker
// recorded in them. SOURCE_DATE_EPOCH (seconds since 1970) is the time instead, if it is set.
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// defaultImage is what the manifests name that `kube-vip manifest` writes.
const defaultImage = "ghcr.io/kube-vip/kube-vip"

// A size is a number of bytes, and in text megabytes (1 000 000 bytes).
type size int64

func (s size) String() string { return fmt.Sprintf("%.1f MB", float64(s)/1e6) }

// maxSize is the most that the files of one platform may take when they are unpacked.
const maxSize size = 45e6

type options struct {
	binaries, output string
	image, source    string
	certificates     string
	platforms        []string
	// epoch is SOURCE_DATE_EPOCH, empty when it is not set.
	epoch string
	limit size
}

func main() {
	os.Exit(run(os.Args[1:], os.Getenv("SOURCE_DATE_EPOCH"), os.Stdout, os.Stderr))
}

// run returns the exit code: 0, 1 when something failed, 2 when it was called wrongly.
func run(args []string, epoch string, stdout, stderr io.Writer) int {
	o := options{epoch: epoch, limit: maxSize}
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.binaries, "binaries", "bin", "the `folder` with PLATFORM/kube-vip for each platform")
	flags.StringVar(&o.output, "output", "bin/kube-vip-image.tar", "the archive's `file`")
	flags.StringVar(&o.image, "image", defaultImage, "what the image is called: `registry/path`, and the version is its tag, or registry/path:tag")
	flags.StringVar(&o.source, "source", "", "the `URL` of the source, for the label org.opencontainers.image.source")
	flags.StringVar(&o.certificates, "certificates", "", "write the image's CA certificates to this `file`, and nothing else")
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: image [flags] PLATFORM...")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	o.platforms = flags.Args()
	if (len(o.platforms) == 0) == (o.certificates == "") {
		fmt.Fprintln(stderr, "error: give at least one platform, linux/amd64 for example, or -certificates alone")
		return 2
	}
	if err := build(o, stdout, stderr); err != nil {
		fmt.Fprintln(stderr, "error:", err)
		return 1
	}
	return 0
}

func build(o options, stdout, stderr io.Writer) error {
	roots, err := rootCertificates()
	if err != nil {
		return err
	}
	if o.certificates != "" {
		return replace(o.certificates, roots)
	}

	var binaries []binary
	for _, p := range o.platforms {
		b, err := readBinary(o.binaries, p)
		if err != nil {
			return err
		}
		binaries = append(binaries, b)
	}
	if err := sameBuild(binaries); err != nil {
		return err
	}
	from := binaries[0].build
	created, err := createdAt(from, o.epoch)
	if err != nil {
		return err
	}
	tag, err := imageTag(o.image, from.version)
	if err != nil {
		return err
	}
	if from.revision == "" || strings.HasSuffix(from.revision, dirty) {
		fmt.Fprintln(stderr, "note: the binaries are not built from a clean git commit, so nobody else can build this image again")
	}

	images, err := pack(binaries, roots, created, labels(from, created, o.source))
	if err != nil {
		return err
	}
	for _, i := range images {
		digest, err := i.Digest()
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%-14s %s unpacked, %s packed, %s\n", i.platform, i.unpacked, i.packed, digest)
		if i.unpacked > o.limit {
			return fmt.Errorf("pack %s: its files take %s, more than the %s that an image may have", i.platform, i.unpacked, o.limit)
		}
	}
	var archive bytes.Buffer
	if err := writeArchive(&archive, images, tag, created, labels(from, created, o.source)); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	if err := replace(o.output, archive.Bytes()); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s: %s, %s, sha256:%x\n", o.output, tag, size(archive.Len()), sha256.Sum256(archive.Bytes()))
	return nil
}

// createdAt is the only time that the image knows: SOURCE_DATE_EPOCH, else the commit's, else 1970. The clock has no say,
// or no two builds were the same.
func createdAt(from buildOf, epoch string) (time.Time, error) {
	if epoch == "" {
		return from.committed, nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%q is not a number of seconds since 1970", epoch)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// replace writes a file whole or not at all.
func replace(name string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), os.Remove(f.Name()))
	}
	return nil
}
