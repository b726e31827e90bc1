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
	b.WriteString(docsPeers)
	for _, f := range peerFields() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.name, cell(f.usage), codes([]string{f.name + ": " + f.example}))
	}
	b.WriteString(docsBehindPeers)
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

	docsPeers = `
## Peers of BGP

Peers come from ` + "`bgp_peers`" + `, from ` + "`bgp_peeraddress`" + ` with the settings of the single peer, and from the file of ` + "`bgp_peers_file`" + `; all of
them count, and an address that is there twice is an error. The fields of ` + "`bgp_peers`" + ` are

| Field | What it is |
|---|---|
| 1 | IPv4 address or host name, IPv6 address in brackets, or ` + "`unnumbered:`" + ` and the link to the neighbour, which needs no AS |
| 2 | autonomous system number |
| 3 | TCP MD5 password (RFC 2385), without colon and comma |
| 4 | ` + "`true`" + ` where the peer is more than one hop away |
| 5 | port, 179 if empty; may be left out, place and all, before the fields that follow |
| 6 | next hops of the other family than the session's: ` + "`mpbgp_nexthop=...;mpbgp_ipv4=...;mpbgp_ipv6=...`" + `, in place of the settings of the same names |
| 7 | BFD (RFC 5880): ` + "`enable;rx;tx;multiplier`" + `, as in ` + "`true;50;50;3`" + `; times in milliseconds from 10, and 300, 300 and 3 if empty |

A peer that has no password there has the one that is in the Secret of ` + "`bgp_password_secret`" + ` under its address (with ` + "`-`" + ` for what the key of
a Secret cannot have: ` + "`2001-db8--1`" + `), or else under ` + "`password`" + `. A source address is used for the peers of its family.

The peers file has what the list cannot say. It is read again when it changes; a file with a mistake changes nothing.

` + "```yaml" + `
peers:
- address: 192.0.2.254
  as: 65000
  nodeSelector: {rack: a}
  communities: [65000:100, backup]
  bfd: {minRx: 50, minTx: 50}
- interface: eth1
  passwordSecret: {name: tor-2}
communities:
  backup: 65000:50
` + "```" + `

Under ` + "`communities`" + ` it names communities, as ` + "`bgp_community_names`" + ` does. A peer has these fields; one that is left out is as the
settings say.

| Field | Meaning | Example |
|---|---|---|
`

	docsBehindPeers = `
Where ` + "`annotation`" + ` is set, annotations of the node name its AS, its address and its peers, in place of the settings:

| Annotation behind ` + "`<prefix>/`" + ` | Meaning |
|---|---|
| ` + "`node-asn`" + ` | our autonomous system number |
| ` + "`src-ip`" + ` | address that sessions come from, and router ID |
| ` + "`peer-asn`" + ` | autonomous system number of the peers |
| ` + "`peer-ip`" + ` | addresses of the peers, separated by commas |
| ` + "`bgp-pass`" + ` | TCP MD5 password of the peers, in base64; may be left out |
| ` + "`peer-multi-hop`" + ` | whether the peers are more than one hop away; may be left out |

Each may have ` + "`bgp-peers-0-`" + ` in front of it, and ` + "`peer-ip`" + ` any number: those are all peers, in the order of the numbers.
`

	docsUnsupported = `
## Accepted, but not acted on

These settings of kube-vip v1.2 and older are accepted, so that a manifest which has them works, with a warning that
says what becomes of them.

| Flag | Environment | File key | What happens |
|---|---|---|---|
`
)
