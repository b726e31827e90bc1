package manifest

import (
	"strings"
	"testing"
)

func TestImage(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	tests := []struct {
		name, reference, version, want, wantErr string
	}{
		{name: "default", reference: DefaultImage, version: "v1.2.3", want: "ghcr.io/kube-vip/kube-vip:v1.2.3"},
		{name: "tag kept", reference: "plndr/kube-vip:v0.6.1", version: "v1.2.3", want: "plndr/kube-vip:v0.6.1"},
		{name: "digest kept", reference: "kube-vip@" + digest, version: "v1.2.3", want: "kube-vip@" + digest},
		{name: "tag and digest kept", reference: "kube-vip:v1@" + digest, version: "v1.2.3", want: "kube-vip:v1@" + digest},
		{name: "port is no tag", reference: "registry.lan:5000/kube-vip", version: "v1.2.3", want: "registry.lan:5000/kube-vip:v1.2.3"},
		{name: "port and tag", reference: "registry.lan:5000/kube-vip:x", version: "v1.2.3", want: "registry.lan:5000/kube-vip:x"},
		{name: "IPv6 registry", reference: "[fd00::1]:5000/kube-vip", version: "v1.2.3", want: "[fd00::1]:5000/kube-vip:v1.2.3"},
		{name: "underscores and dashes", reference: "a/b__c--d.e", version: "v1", want: "a/b__c--d.e:v1"},
		{name: "build metadata", reference: "kube-vip", version: "v0.0.0-2026+dirty", want: "kube-vip:v0.0.0-2026-dirty"},
		{
			name: "empty", reference: "", version: "v1",
			wantErr: `"": "" is not a repository (want registry/path in lower case, ghcr.io/kube-vip/kube-vip for example)`,
		},
		{
			name: "upper case", reference: "ghcr.io/Kube-Vip:v1", version: "v1",
			wantErr: `"ghcr.io/Kube-Vip:v1": "ghcr.io/Kube-Vip" is not a repository (want registry/path in lower case, ghcr.io/kube-vip/kube-vip for example)`,
		},
		{
			name: "scheme", reference: "https://ghcr.io/kube-vip", version: "v1",
			wantErr: `"https://ghcr.io/kube-vip": "https://ghcr.io/kube-vip" is not a repository (want registry/path in lower case, ghcr.io/kube-vip/kube-vip for example)`,
		},
		{
			name: "newline", reference: "kube-vip\n", version: "v1",
			wantErr: `"kube-vip\n": "kube-vip\n" is not a repository (want registry/path in lower case, ghcr.io/kube-vip/kube-vip for example)`,
		},
		{
			name: "empty tag", reference: "kube-vip:", version: "v1",
			wantErr: `"kube-vip:": "" is not a tag (want at most 128 letters, digits, '.', '_' and '-')`,
		},
		{
			name: "short digest", reference: "kube-vip@sha256:abc", version: "v1",
			wantErr: `"kube-vip@sha256:abc": "sha256:abc" is not a digest (want sha256: and 64 hexadecimal digits)`,
		},
		{
			name: "no version to be the tag", reference: "kube-vip", version: "",
			wantErr: `"kube-vip" has no tag, and this program's version "" cannot be one: give kube-vip:TAG`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Image(tt.reference, tt.version)
			if text(err) != tt.wantErr || got != tt.want {
				t.Errorf("Image(%q, %q) = %q, error:\n%s\nwant %q, error:\n%s", tt.reference, tt.version, got, text(err), tt.want, tt.wantErr)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
