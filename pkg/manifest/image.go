package manifest

import (
	"fmt"
	"regexp"
	"strings"
)

// DefaultImage is the repository that releases are pushed to.
const DefaultImage = "ghcr.io/kube-vip/kube-vip"

// Image completes an image reference: one with neither tag nor digest gets the version as its tag. An error says
// what a reference looks like; it does not say where this one came from.
func Image(reference, version string) (string, error) {
	name, digest, hasDigest := strings.Cut(reference, "@")
	repository, tag := name, ""
	// A colon before the last slash belongs to the registry's port.
	colon := strings.LastIndex(name, ":")
	hasTag := colon > strings.LastIndex(name, "/")
	if hasTag {
		repository, tag = name[:colon], name[colon+1:]
	}
	switch {
	case !matches(`(?:[A-Za-z0-9.-]+(?::[0-9]+)?/|\[[0-9a-fA-F:]+\](?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*`, repository):
		return "", fmt.Errorf("%q: %q is not a repository (want registry/path in lower case, %s for example)", reference, repository, DefaultImage)
	case hasTag && !matches(tagPattern, tag):
		return "", fmt.Errorf("%q: %q is not a tag (want at most 128 letters, digits, '.', '_' and '-')", reference, tag)
	case hasDigest && !matches(`sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}`, digest):
		return "", fmt.Errorf("%q: %q is not a digest (want sha256: and 64 hexadecimal digits)", reference, digest)
	case hasTag || hasDigest:
		return reference, nil
	}
	tag = tagOf(version)
	if !matches(tagPattern, tag) {
		return "", fmt.Errorf("%q has no tag, and this program's version %q cannot be one: give %s:TAG", reference, version, reference)
	}
	return reference + ":" + tag, nil
}

const tagPattern = `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`

// tagOf is a version as an image tag: tags know no '+', which semantic versions put before build metadata.
func tagOf(version string) string { return strings.ReplaceAll(version, "+", "-") }

func matches(pattern, s string) bool {
	return regexp.MustCompile(`^(?:` + pattern + `)$`).MatchString(s)
}
