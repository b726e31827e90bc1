package config

import (
	"fmt"
	"strings"
)

// Secret is a text that is never printed: whatever formats or marshals it gets "***", or nothing if it is empty.
type Secret string

// Reveal is the text itself.
func (s Secret) Reveal() string { return string(s) }

// String is "***", or nothing of an empty Secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// Format prints String, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// MarshalText gives String, for JSON and logs.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

var _ fmt.Formatter = Secret("")

// secretOf is what a file or a Secret holds, without the line feed that an editor or a shell may have put behind it.
func secretOf(data []byte) Secret {
	return Secret(strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r"))
}

// SecretRef names a Secret of Kubernetes and a key in it. The zero value names none.
type SecretRef struct {
	// Namespace is the Secret's; empty means that of the Leases (Kubernetes.Namespace).
	Namespace, Name string
	// Key is that of the password; empty means what Peer.PasswordIn looks for.
	Key string
}

// parseSecretRef reads "name" or "namespace/name", or nothing.
func parseSecretRef(s string) (SecretRef, error) {
	if s == "" {
		return SecretRef{}, nil
	}
	ref := SecretRef{Name: s}
	ns, name, found := strings.Cut(s, "/")
	if found {
		ref = SecretRef{Namespace: ns, Name: name}
	}
	if found && !isLabel(ns) || !isSubdomain(ref.Name) {
		return SecretRef{}, fmt.Errorf("%q is not the name of a Secret: want name or namespace/name, in lower-case letters, digits, '-' and '.'", s)
	}
	return ref, nil
}

func secretName(s string) error {
	_, err := parseSecretRef(s)
	return err
}

// secretKey accepts what can be a key in a Secret, or nothing.
func secretKey(s string) error {
	if len(s) > 253 || strings.Trim(s, keyLetters) != "" || s == "." || s == ".." {
		return fmt.Errorf("%q is not a key of a Secret: want letters, digits, '-', '_' and '.'", s)
	}
	return nil
}

const keyLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
