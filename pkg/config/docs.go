package config

import (
	"fmt"
	"strings"
)

// Markdown renders the table as docs/settings.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString(docsIntro)
	group := ""
	for _, s := range Settings() {
		if s.Group != group {
			group = s.Group
			fmt.Fprintf(&b, "\n## %s\n\n%s", group, docsHead)
		}
		b.WriteString(s.docsRow())
	}
	fmt.Fprintf(&b, "\n## The config file\n\n%s%s%s", docsHead, configFileSetting().docsRow(), docsFile)
	b.WriteString(docsUnsupported)
	for _, u := range UnsupportedSettings() {
		var names []string
		for _, name := range u.Flags {
			names = append(names, "--"+name)
		}
		why := u.Why
		if u.Same != "" {
			why += " (" + u.Same + " is what happens anyway)"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", codes(names), codes(u.Env), codes(u.Keys), cell(why))
	}
	return b.String()
}

func (s Setting) docsRow() string {
	flag := []string{"--" + s.Name}
	if s.Shorthand != "" {
		flag[0] += ", -" + s.Shorthand
	}
	for _, alias := range s.Aliases {
		flag = append(flag, "--"+alias)
	}
	meaning := s.Usage
	if len(s.Enum) > 0 {
		meaning += ": " + strings.Join(s.Enum, ", ")
	}
	if s.Secret {
		meaning += " (never printed)"
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s |\n", codes(flag), codes(s.Env), codes(s.keys()), codes([]string{s.Default}), cell(meaning), codes([]string{s.Example}))
}

// codes renders names as code, the canonical one first and the older ones after it.
func codes(names []string) string {
	var out []string
	for _, name := range names {
		if name != "" {
			out = append(out, "`"+cell(name)+"`")
		}
	}
	return strings.Join(out, "<br>")
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

const (
	docsHead = "| Flag | Environment | File key | Default | Meaning | Example |\n|---|---|---|---|---|---|\n"

	docsIntro = `# Settings

<!-- Generated from the table in pkg/config: go test ./pkg/config -run TestMarkdown -update -->

Every setting can be given as a flag, as an environment variable or in a config file. A flag counts more than the
environment, that more than the file, that more than the default. Where a cell has several names, the first one is the
name to use; the others are older spellings. Whatever was written counts, be it ` + "`false`, `0`" + ` or empty; only an
environment variable that is empty, for a setting that cannot be, counts as not written, with a warning.

` + "`kube-vip config`" + ` shows the effective value of each setting and where it came from; ` + "`kube-vip config validate`" + ` lists
everything that is wrong with them.

Some settings follow from others unless they are given: an address turns the control plane on when nothing else is
enabled; ARP always elects a leader; ` + "`svc_election=true` is `svc_placement=lease`" + `.
`

	docsFile = `
The file's name ends in ` + "`.yaml`, `.yml` or `.json`" + `; it holds one mapping of keys to values. A key that does not exist, or that is given
twice, is an error. Upper and lower case are the same in keys. A list may be written as one; a key without a value
counts as not written.

` + "```yaml" + `
address: [10.0.0.10, "2001:db8::10"]
arp: true
leaseDuration: 15
leaseRenewDuration: 10
leaseRetry: 2
` + "```" + `
`

	docsUnsupported = `
## Accepted, but not acted on

These settings of kube-vip v1.2 and older are accepted, so that a manifest which has them works, with a warning that
says what becomes of them.

| Flag | Environment | File key | What happens |
|---|---|---|---|
`
)
