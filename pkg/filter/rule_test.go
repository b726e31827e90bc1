package filter

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMerge(t *testing.T) {
	for _, c := range []struct {
		name  string
		rules []Rule
		want  map[string]string // by address, its ports
		err   string
	}{
		{name: "nothing", want: map[string]string{}},
		{
			name:  "ports in order, each once",
			rules: []Rule{open("10.0.0.10", "443/tcp", "53/udp", "80/tcp", "443/tcp", "53/tcp")},
			want:  map[string]string{"10.0.0.10": "[53/tcp 80/tcp 443/tcp 53/udp]"},
		},
		{
			name:  "ICMP alone",
			rules: []Rule{open("10.0.0.10")},
			want:  map[string]string{"10.0.0.10": "[]"},
		},
		{
			name:  "the union of Rules for one address",
			rules: []Rule{open("10.0.0.10", "80/tcp"), open("fd00::10", "80/tcp"), open("10.0.0.10", "6443/tcp"), open("10.0.0.10", "80/tcp", "1/sctp")},
			want:  map[string]string{"10.0.0.10": "[80/tcp 6443/tcp 1/sctp]", "fd00::10": "[80/tcp]"},
		},
		{
			name:  "one address, however it is written",
			rules: []Rule{open("::ffff:10.0.0.10", "80/tcp"), open("10.0.0.10", "81/tcp"), open("fe80::1%eth0", "1/tcp"), open("fe80::1", "2/tcp")},
			want:  map[string]string{"10.0.0.10": "[80/tcp 81/tcp]", "fe80::1": "[1/tcp 2/tcp]"},
		},
		{
			name:  "what no host has",
			rules: []Rule{{}, open("0.0.0.0", "1/tcp"), open("::", "1/tcp"), open("224.0.0.18", "1/tcp"), open("ff02::1", "1/tcp"), open("127.0.0.1", "1/tcp"), open("10.0.0.10", "80/tcp")},
			want:  map[string]string{"10.0.0.10": "[80/tcp]"},
			err: "guard invalid IP: not the address of a host on a network\n" +
				"guard 0.0.0.0: not the address of a host on a network\n" +
				"guard ::: not the address of a host on a network\n" +
				"guard 224.0.0.18: not the address of a host on a network\n" +
				"guard ff02::1: not the address of a host on a network\n" +
				"guard 127.0.0.1: not the address of a host on a network",
		},
		{
			name:  "ports that cannot be: the address is guarded nevertheless",
			rules: []Rule{{netip.MustParseAddr("10.0.0.10"), []Port{{TCP, 0}, {TCP, 80}, {47, 1}}}},
			want:  map[string]string{"10.0.0.10": "[80/tcp]"},
			err: "open port 0/tcp of 10.0.0.10: there is no port 0\n" +
				"open port 1/protocol 47 of 10.0.0.10: not a protocol of Services",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := merge(c.rules)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if diff := cmp.Diff(c.err, text); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.want, written(g)); diff != "" {
				t.Errorf("guards (-want +got):\n%s", diff)
			}
		})
	}
}

// TestMergeCopies: the caller may do with its Rules what it likes.
func TestMergeCopies(t *testing.T) {
	rules := []Rule{open("10.0.0.10", "80/tcp", "443/tcp"), open("10.0.0.11", "81/tcp"), open("10.0.0.10", "22/tcp")}
	g, err := merge(rules)
	if err != nil {
		t.Fatal(err)
	}
	before := written(g)
	for i := range rules {
		for j := range rules[i].Ports {
			rules[i].Ports[j].Number = 1
		}
	}
	if diff := cmp.Diff(before, written(g)); diff != "" {
		t.Errorf("guards (-before +after):\n%s", diff)
	}
}
