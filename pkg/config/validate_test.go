package config

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		name  string
		given given
		want  []string
	}{
		{"ARP", given{args: []string{"--address=10.0.0.10", "--arp"}}, nil},
		{"BGP", given{args: []string{"--address=10.0.0.10", "--bgp", "--bgppeers=10.0.0.1:65000"}}, nil},
		{"nothing", given{}, []string{"nothing to do: for a VIP of the control plane give --address (env address), for those of Services --services (env svc_enable=true)"}},
		{"switched off", given{environ: []string{"cp_enable=false", "address=10.0.0.10", "vip_arp=true"}},
			[]string{"nothing to do: cp_enable=false, although address gives a VIP: set it to true"}},
		{"Services only", given{environ: []string{"svc_enable=true", "vip_arp=true"}}, nil},
		{"Services only, said twice", given{environ: []string{"svc_enable=true", "vip_arp=true", "cp_enable=false", "address=10.0.0.10"}}, nil},
		{"Services and the control plane", given{args: []string{"--services", "--controlplane", "--address=10.0.0.10", "--arp"}}, nil},
		{"Services and a control plane without address", given{environ: []string{"svc_enable=true", "vip_arp=true", "cp_enable=true"}},
			[]string{"cp_enable=true: the control plane has no address: give the VIP as --address (env address)"}},
		{"Services and no mode", given{args: []string{"--services"}},
			[]string{"nothing announces the VIP: set --arp (env vip_arp=true)"}},
		{"Services and a mode of later", given{args: []string{"--services", "--table"}},
			[]string{"nothing announces the VIP: set --arp (env vip_arp=true) in place of --table, which is not supported yet by this version"}},
		{"Services switched off", given{environ: []string{"svc_enable=false", "vip_arp=true"}},
			[]string{"nothing to do: for a VIP of the control plane give --address (env address), for those of Services --services (env svc_enable=true)"}},
		{"two placements", given{args: []string{"--services", "--arp", "--servicesPlacement=leader"}, environ: []string{"svc_election=true"}},
			[]string{"svc_election=true and --servicesPlacement=leader contradict each other: keep one of them"}},
		{"two placements, the other way", given{environ: []string{"svc_enable=true", "vip_arp=true", "svc_placement=lease", "svc_election=false"}},
			[]string{"svc_election=false and svc_placement=lease contradict each other: keep one of them"}},
		{"two placements of Services that are off", given{environ: []string{"address=10.0.0.10", "vip_arp=true", "svc_placement=leader", "svc_election=true"}}, nil},
		{"one Lease for both", given{args: []string{"--services", "--controlplane", "--address=10.0.0.10", "--arp", "--leaseName=a"}, environ: []string{"svc_leasename=a"}},
			[]string{"--leaseName=a and svc_leasename=a are the same Lease: one election for the control plane and Services is not supported yet by this version; give each its own"}},
		{"one Lease for both, with a namespace", given{args: []string{"--services", "--controlplane", "--address=10.0.0.10", "--arp", "--leaseName=a", "--servicesLeaseName=vips/a", "--namespace=vips"}},
			[]string{"--leaseName=a and --servicesLeaseName=vips/a are the same Lease: one election for the control plane and Services is not supported yet by this version; give each its own"}},
		{"Leases of one name", given{args: []string{"--services", "--controlplane", "--address=10.0.0.10", "--arp", "--leaseName=a", "--servicesLeaseName=vips/a"}},
			[]string{"--leaseName=a and --servicesLeaseName=vips/a have one name, and metrics tell Leases apart by name alone: give each its own"}},
		{"a Lease for Services that the control plane does not use", given{args: []string{"--services", "--arp", "--leaseName=a", "--servicesLeaseName=a"}}, nil},
		{"no address", given{environ: []string{"cp_enable=true", "vip_arp=true"}},
			[]string{"cp_enable=true: the control plane has no address: give the VIP as --address (env address)"}},
		{"empty address", given{environ: []string{"cp_enable=true", "vip_arp=true", "address="}},
			[]string{"cp_enable=true: the control plane has no address: give the VIP as --address (env address)"}},
		{"no mode", given{args: []string{"--vip=10.0.0.10"}},
			[]string{"nothing announces the VIP: set --arp (env vip_arp=true)"}},
		{"a mode of later", given{args: []string{"--controlplane", "--vip=10.0.0.10", "--table"}},
			[]string{"nothing announces the VIP: set --arp (env vip_arp=true) in place of --table, which is not supported yet by this version"}},
		{"two modes", given{args: []string{"--arp", "--address=10.0.0.10"}, environ: []string{"bgp_enable=true", "bgp_peeraddress=10.0.0.1"}},
			[]string{"--arp=true and bgp_enable=true exclude each other: announce by one of them"}},

		{"lease too short", given{args: []string{"--arp", "--address=10.0.0.10", "--leaseRetry=2"}, environ: []string{"vip_leaseduration=5s"}},
			[]string{"vip_leaseduration=5 must be more than --leaseRenewDuration=3 (default; env vip_renewdeadline) and --leaseRetry=2 together: a holder that cannot renew must be rid of the VIP before another may take the Lease"}},
		{"lease just long enough", given{args: []string{"--arp", "--address=10.0.0.10", "--leaseRetry=2", "--leaseDuration=6"}}, nil},
		{"renew within the retry period", given{args: []string{"--arp", "--address=10.0.0.10", "--leaseRetry=3", "--leaseDuration=15"}},
			[]string{"--leaseRenewDuration=3 (default; env vip_renewdeadline) must be more than --leaseRetry=3: or there is no second attempt to renew the Lease"}},
		{"lease that is not used", given{args: []string{"--bgp", "--address=10.0.0.10", "--bgppeers=10.0.0.1:1", "--leaseDuration=1"}}, nil},

		{"metrics on the probes' port", given{args: []string{"--arp", "--address=10.0.0.10", "--prometheusHTTPServer=:29112"}},
			[]string{"--prometheusHTTPServer=:29112 and --healthCheckPort=29112 (default; env health_check_port) want the same port of this host"}},
		{"both off", given{args: []string{"--arp", "--address=10.0.0.10", "--prometheusHTTPServer=", "--healthCheckPort=0"}}, nil},
		{"metrics on the API server's port", given{environ: []string{"vip_arp=1", "address=10.0.0.10", "prometheus_server=:6443"}},
			[]string{"--port=6443 (default; env port) and prometheus_server=:6443 want the same port of this host"}},
		{"probes on the API server's port", given{environ: []string{"vip_arp=1", "address=10.0.0.10", "health_check_port=6443"}},
			[]string{"--port=6443 (default; env port) and health_check_port=6443 want the same port of this host"}},

		{"BGP without AS and peers", given{environ: []string{"bgp_enable=true", "address=10.0.0.10", "bgp_as=0"}}, []string{
			"bgp_as=0: BGP needs an AS number from 1 to 4294967295",
			"BGP needs a peer: give --bgppeers (env bgp_peers) as addr:AS, or --peerAddress (env bgp_peeraddress)",
		}},
		{"BGP from annotations", given{environ: []string{"bgp_enable=true", "address=10.0.0.10", "annotation=metal.equinix.com"}}, nil},
		{"BGP peer without AS", given{args: []string{"--bgp", "--address=10.0.0.10", "--peerAddress=10.0.0.1", "--peerAS=0"}},
			[]string{"--peerAS=0: the peer 10.0.0.1 needs an AS number from 1 to 4294967295"}},
		{"BGP from two sources", given{args: []string{"--bgp", "--address=10.0.0.10", "--bgppeers=10.0.0.1:1", "--sourceIP=10.0.0.2"}, environ: []string{"bgp_sourceif=eth0"}},
			[]string{"--sourceIP=10.0.0.2 and bgp_sourceif=eth0 exclude each other: keep one of them"}},
		{"BGP hold time", given{args: []string{"--bgp", "--address=10.0.0.10", "--bgppeers=10.0.0.1:1", "--bgpHoldTimer=2"}},
			[]string{"--bgpHoldTimer=2 must be 0 or at least 3 (RFC 4271 section 4.2)"}},
		{"BGP keepalive", given{args: []string{"--bgp", "--address=10.0.0.10", "--bgppeers=10.0.0.1:1", "--bgpHoldTimer=9"}},
			[]string{"--bgpKeepAliveInterval=10 (default; env bgp_keepalive_interval) must be less than --bgpHoldTimer=9"}},
		{"BGP without hold time", given{args: []string{"--bgp", "--address=10.0.0.10", "--bgppeers=10.0.0.1:1", "--bgpHoldTimer=0"}}, nil},
		{"BGP for Services alone", given{environ: []string{"svc_enable=true", "bgp_enable=true", "bgp_peers=10.0.0.1:1"}}, nil},
		{"BGP for Services and the control plane", given{environ: []string{"svc_enable=true", "cp_enable=true", "address=10.0.0.10", "vip_interface=lo", "bgp_enable=true", "bgp_peers=unnumbered:eth0"}}, nil},
		{"BGP peers from a file that is elsewhere", given{environ: []string{"svc_enable=true", "bgp_enable=true", "bgp_peers_file=/does/not/exist.yaml", "bgp_communities=from-the-file"}}, nil},
		{"BGP peers twice", given{environ: []string{"svc_enable=true", "bgp_enable=true", "bgp_peers=10.0.0.1:1,10.0.0.2:1", "bgp_peeraddress=10.0.0.2"}},
			[]string{"peer 10.0.0.2 is given twice: as peer 2 of bgp_peers and as bgp_peeraddress"}},
		{"BGP next hops without a source", given{environ: []string{"svc_enable=true", "bgp_enable=true", "bgp_peers=10.0.0.1:1,[2001:db8::1]:1", "mpbgp_nexthop=auto_sourceip", "bgp_sourceip=10.0.0.2"}},
			[]string{"peer 2001:db8::1: the next hop auto_sourceip needs a source address of the family of the session"}},
		{"BGP communities without a name", given{args: []string{"--bgpCommunities=1:1,bakup"}, environ: []string{"svc_enable=true", "bgp_enable=true", "bgp_peers=10.0.0.1:1,10.0.0.2:1", "bgp_community_names=backup=1:2"}},
			[]string{`--bgpCommunities: there is no community "bakup"; did you mean backup?`}},
		{"BGP that is off", given{environ: []string{"vip_arp=true", "address=10.0.0.10", "bgp_as=0", "bgp_peeraddress=", "bgp_hold_time=1"}}, nil},

		{"in a file", given{file: map[string]any{"enableControlPlane": true, "arp": true, "bgp": true, "bgpPeers": "10.0.0.1:1"}}, []string{
			"arp: true in FILE and bgp: true in FILE exclude each other: announce by one of them",
			"enableControlPlane: true in FILE: the control plane has no address: give the VIP as --address (env address)",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := test.given.mustLoad(t)
			var got []string
			if err := l.Validate(); err != nil {
				for line := range strings.Lines(err.Error()) {
					got = append(got, hideFile(line))
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Values are checked where they are read; the message says what would be right.
func TestValues(t *testing.T) {
	for _, test := range []struct{ setting, text, want string }{
		{"address", "10.0.0.10", ""},
		{"address", " 10.0.0.10 , 2001:DB8::1,VIP.Example.com. ", ""},
		{"address", "10.0.0.10,10.0.0.10", `"10.0.0.10" is given twice`},
		{"address", "2001:db8::1,2001:DB8:0::1", `"2001:db8::1" is given twice`},
		{"address", "a.b,A.b.", `"a.b" is given twice`},
		{"address", "10.0.0.10,", "there is an empty entry in the list of addresses"},
		{"address", "fe80::1%eth0", `"fe80::1%eth0" cannot be a VIP: write it without %eth0 and set the interface`},
		{"address", "::ffff:10.0.0.1", `"::ffff:10.0.0.1" cannot be a VIP: write it as 10.0.0.1`},
		{"address", "0.0.0.0", `"0.0.0.0" cannot be a VIP: it is the unspecified address (addresses from DHCP are not supported yet by this version)`},
		{"address", "::", `"::" cannot be a VIP: it is the unspecified address (addresses from DHCP are not supported yet by this version)`},
		{"address", "127.0.0.1", `"127.0.0.1" cannot be a VIP: it is a loopback address`},
		{"address", "::1", `"::1" cannot be a VIP: it is a loopback address`},
		{"address", "224.0.0.18", `"224.0.0.18" cannot be a VIP: it is a multicast address`},
		{"address", "ff02::1", `"ff02::1" cannot be a VIP: it is a multicast address`},
		{"address", "255.255.255.255", `"255.255.255.255" cannot be a VIP: it is the broadcast address`},
		{"address", "0.1.2.3", `"0.1.2.3" cannot be a VIP: it is in 0.0.0.0/8`},
		{"address", "10.0.0.10/24", `"10.0.0.10/24" is not an address: write 10.0.0.10, and the prefix length as --vipSubnet (env vip_subnet)`},
		{"address", "10.0.0.10:6443", `"10.0.0.10:6443" is not an address: write 10.0.0.10, and the port as --port=6443 (env port)`},
		{"address", "[2001:db8::1]", `"[2001:db8::1]" is not an address: write it without brackets`},
		{"address", "10.0.0", `"10.0.0" is neither an IP address nor a DNS name`},
		{"address", "10.0.0.256", `"10.0.0.256" is neither an IP address nor a DNS name`},
		{"address", "vip_1.example.com", `"vip_1.example.com" is neither an IP address nor a DNS name`},
		{"address", ".", `"." is neither an IP address nor a DNS name`},
		{"address", "localhost", `"localhost" cannot be a VIP: it names the loopback address`},
		{"vipSubnet", "/32", ""},
		{"vipSubnet", "0", `"0" is not a prefix length: want one for IPv4 ("32"), one for IPv6 ("128") or both ("32,128")`},
		{"vipSubnet", "129", `"129" is not a prefix length: want one for IPv4 ("32"), one for IPv6 ("128") or both ("32,128")`},
		{"vipSubnet", "32,", `"32," is not a prefix length: want one for IPv4 ("32"), one for IPv6 ("128") or both ("32,128")`},
		{"vipSubnet", "32,128,1", `"32,128,1" is not a prefix length: want one for IPv4 ("32"), one for IPv6 ("128") or both ("32,128")`},
		{"vipSubnet", "128,32", `"128,32": the length for IPv4 comes first, as in "32,128"`},
		{"vipSubnet", "auto", `"auto" is not supported yet by this version; want a prefix length such as 32`},
		{"interface", "sixteen-letters0", ""}, // an alternative name
		{"interface", strings.Repeat("a", 128), `"` + strings.Repeat("a", 128) + `" is not the name of an interface: it is longer than 127 bytes`},
		{"sourceIF", "sixteen-letters0", `"sixteen-letters0" is not the name of an interface: it is longer than 15 bytes`},
		{"serviceInterface", "auto", ""},
		{"serviceInterface", "a/b", `"a/b" is not the name of an interface`},
		{"servicesNamespace", "", ""},
		{"servicesNamespace", "Apps", `"Apps" is not the name of a namespace`},
		{"servicesPlacement", "leases", `"leases" is not one of leader, lease`},
		{"servicesLeaseName", "a/b/c", `"a/b/c" is not the name of a Lease: want name or namespace/name, in lower-case letters, digits, '-' and '.'`},
		{"servicesPools", "true", ""},
		{"servicesPools", " off ", ""},
		{"servicesPools", "perhaps", `"perhaps" is not one of auto, on, off`},
		{"servicesExcludeLabel", "honor", `"honor" is not one of honour, ignore`},
		{"lbClassName", "", ""},
		{"lbClassName", "example.com/internal", ""},
		{"lbClassName", "a b", `"a b" is not a loadBalancerClass: want a name such as internal or example.com/internal`},
		{"vipAllowedRanges", " 10.0.0.0/24 , 2001:DB8::/64,10.0.1.7", ""},
		{"vipAllowedRanges", "10.0.0.0/24,", "there is an empty entry in the list of networks"},
		{"vipAllowedRanges", "10.0.0.0/24,10.0.0.0/24", `"10.0.0.0/24" is given twice`},
		{"vipAllowedRanges", "10.0.0.5/24", `"10.0.0.5/24" is not a network: it has bits beyond its length; write 10.0.0.0/24`},
		{"vipAllowedRanges", "10.0.0.1-10.0.0.9,fe80::1%eth0", `"10.0.0.1-10.0.0.9" is not a network: want CIDR notation such as 10.0.0.0/24; "fe80::1%eth0" is not a network: want CIDR notation such as 10.0.0.0/24`},
		{"vipAllowedRanges", "::ffff:10.0.0.0/120", `"::ffff:10.0.0.0/120" is not a network: write it as one of IPv4, such as 10.0.0.0/24`},
		{"interface", "eth0:1", `"eth0:1" is not the name of an interface`},
		{"interface", "eth 0", `"eth 0" is not the name of an interface`},
		{"interface", "..", `".." is not the name of an interface`},
		{"port", "65536", `"65536" is not a whole number from 1 to 65535`},
		{"port", "6443.0", `"6443.0" is not a whole number from 1 to 65535`},
		{"healthCheckPort", "80", `"80" is not a port from 1024 to 65535, or 0 for off`},
		{"healthCheckPort", "-1", `"-1" is not a port from 1024 to 65535, or 0 for off`},
		{"healthCheckPort", "", `"" is not a port from 1024 to 65535, or 0 for off`},
		{"prometheusHTTPServer", "2112", `"2112" is not an address to listen on: want host:port such as 127.0.0.1:2112, :2112 for all addresses, or "" for off`},
		{"prometheusHTTPServer", ":http", `":http" is not an address to listen on: want host:port such as 127.0.0.1:2112, :2112 for all addresses, or "" for off`},
		{"prometheusHTTPServer", ":65536", `":65536" is not an address to listen on: want host:port such as 127.0.0.1:2112, :2112 for all addresses, or "" for off`},
		{"leaseDuration", "5s", ""},
		{"leaseDuration", "1m", ""},
		{"leaseDuration", "0", `"0" is not a whole number of seconds from 1 to 86400`},
		{"leaseDuration", "-5", `"-5" is not a whole number of seconds from 1 to 86400`},
		{"leaseDuration", "0.5", `"0.5" is not a whole number of seconds from 1 to 86400`},
		{"leaseDuration", "500ms", `"500ms" is not a whole number of seconds from 1 to 86400`},
		{"leaseDuration", "86401", `"86401" is not a whole number of seconds from 1 to 86400`},
		{"leaseName", "kube-system/plndr-cp-lock", ""},
		{"leaseName", "a/b/c", `"a/b/c" is not the name of a Lease: want name or namespace/name, in lower-case letters, digits, '-' and '.'`},
		{"leaseName", "Lock", `"Lock" is not the name of a Lease: want name or namespace/name, in lower-case letters, digits, '-' and '.'`},
		{"leaseName", "/lock", `"/lock" is not the name of a Lease: want name or namespace/name, in lower-case letters, digits, '-' and '.'`},
		{"leaseAnnotations", `{"a":1}`, `not a JSON object of strings such as {"team":"net"}: json: cannot unmarshal number into Go value of type string`},
		{"leaseAnnotations", `{"a b":"c"}`, `"a b" is not the name of an annotation`},
		{"leaseAnnotations", `{"-a":"c","x/y/z":""}`, `"-a" is not the name of an annotation; "x/y/z" is not the name of an annotation`},
		{"controlPlaneHealthCheckPeriodSeconds", "0.2", ""},
		{"controlPlaneHealthCheckPeriodSeconds", "200ms", ""},
		{"controlPlaneHealthCheckPeriodSeconds", "0", `"0" is not a number of seconds from 0.01 to 86400`},
		{"controlPlaneHealthCheckTimeoutSeconds", "-1", `"-1" is not a number of seconds from 0.01 to 86400`},
		{"controlPlaneHealthCheckFailureThreshold", "0", `"0" is not a whole number from 1 to 1000`},
		{"controlPlaneHealthCheckAddress", "127.0.0.1:6443", `"127.0.0.1:6443" is not a URL: want http://host:port/path or https://host:port/path`},
		{"controlPlaneHealthCheckAddress", "ftp://a/b", `"ftp://a/b" is not a URL: want http://host:port/path or https://host:port/path`},
		{"dnsMode", "both", `"both" is not one of first, ipv4, ipv6, dual`},
		{"logFormat", "JSON", `"JSON" is not one of text, json`},
		{"log", "warn", ""},
		{"log", "loud", `"loud" is not a level: -4 (debug), 0 (info), 4 (warn) or 8 (error)`},
		{"arp", "yes", `"yes" is not true or false`},
		{"arpRate", "1s", ""},
		{"arpRate", "1.5", `"1.5" is not a whole number of milliseconds from -86400000 to 86400000`},
		{"nodeName", "Node_1", `"node_1" is not the name of a node: want letters, digits, '-' and '.'`},
		{"instanceName", "a/b", `"a/b" is not a name of an instance: want at most 243 of A-Z a-z 0-9 . _ -`},
		{"instanceName", strings.Repeat("a", 243), ""},
		{"namespace", "kube.system", `"kube.system" is not the name of a namespace`},
		{"namespace", "", `"" is not the name of a namespace`},
		{"kubernetesAddr", "a b", `"a b" is not the address of an API server: want host, host:port or https://host:port`},
		{"kubernetesAddr", "host:0", `"host:0" is not the address of an API server: want host, host:port or https://host:port`},
		{"controlPlaneHealthCheckAddress", "https//u:pw@a:6443/livez", `"***@a:6443/livez" is not a URL: want http://host:port/path or https://host:port/path`},
		{"kubernetesAddr", "https://", `"https://" is not a URL: want http://host:port/path or https://host:port/path`},
		{"bgpRouterID", "2001:db8::1", `"2001:db8::1" is not an IPv4 address, as a BGP router ID is`},
		{"bgpRouterID", "router", `"router" is not an IP address`},
		{"sourceIP", "2001:db8::1", ""},
		{"peerAddress", "a_b", `"a_b" is neither an IP address nor a host name`},
		{"localAS", "4294967296", `"4294967296" is not a whole number from 0 to 4294967295`},
		{"annotations", "a/b", `"a/b" is not the prefix of annotations: want a DNS name such as metal.equinix.com`},
		{"bgppeers", "10.0.0.1:65000::false,router:65000", ""},
		{"bgppeers", "10.0.0.1", "peer 1: the AS behind the address is not a number from 1 to 4294967295"},
		{"bgppeers", "10.0.0.1:65000,10.0.0.2:0", "peer 2: the AS behind the address is not a number from 1 to 4294967295"},
		{"bgppeers", "10.0.0.1:65000,", "peer 2: it does not begin with an address (IPv6 goes in brackets)"},
		{"bgppeers", "2001:db8::1:65000", "peer 1: it does not begin with an address (IPv6 goes in brackets)"},
		{"bgppeers", "10.0.0.1:1::perhaps", "peer 1: multihop (the fourth field) is not true or false"},
		{"bgppeers", "[10.0.0.1]:65000", "peer 1: the brackets do not hold an IPv6 address"},
		{"bgppeers", "[2001:db8::1]65000", "peer 1: want a colon behind the bracket"},
		{"bgppeers", "unnumbered:", "peer 1: unnumbered: is not followed by the name of an interface"},
		{"bgppeers", "10.0.0.1:1:::0", "peer 1: the port (the fifth field) is not a number from 1 to 65535"},
		{"bgppeers", "10.0.0.256:1", "peer 1: it does not begin with an address (IPv6 goes in brackets)"},
		{"bgppeers", "0.0.0.0:1", "peer 1: it does not begin with an address (IPv6 goes in brackets)"},
		{"bgppeers", "[ff02::1]:1", `peer 1: "ff02::1" cannot be a peer: it is a multicast address`},
		{"bgppeers", "[::ffff:10.0.0.1]:1", `peer 1: "::ffff:10.0.0.1" cannot be a peer: write it as 10.0.0.1`},
		{"bgppeers", "[2001:db8::1%eth0]:1", `peer 1: "2001:db8::1%eth0" cannot be a peer: only a link-local address has the name of an interface behind the %`},
		{"bgppeers", "unnumbered:eth0:x", "peer 1: the AS behind the address is not a number from 1 to 4294967295"},
		{"bgppeers", "10.0.0.1:1:" + strings.Repeat("p", 81), "peer 1: password is longer than 80 bytes"},
		{"bgppeers", "10.0.0.1:1::::mpbgp_next=fixed", "peer 1: the mpbgp field has a key other than mpbgp_nexthop, mpbgp_ipv4 and mpbgp_ipv6"},
		{"bgppeers", "10.0.0.1:1::::mpbgp_nexthop=auto", "peer 1: mpbgp_nexthop is not one of fixed, auto_sourceip, auto_sourceif"},
		{"bgppeers", "10.0.0.1:1::::mpbgp_ipv4=2001:db8::1", "peer 1: mpbgp_ipv4 is not an IPv4 address"},
		{"bgppeers", "10.0.0.1:1::::mpbgp_ipv6=10.0.0.1", "peer 1: mpbgp_ipv6 is not an IPv6 address"},
		{"bgppeers", "10.0.0.1:1::::mpbgp_ipv6=2001:db8::1:true", "peer 1: mpbgp_ipv6 is not an IPv6 address"},
		{"bgppeers", "10.0.0.1:1::::mpbgp_ipv4=1.1.1.1;mpbgp_ipv4=1.1.1.1", "peer 1: mpbgp_ipv4 is there twice"},
		{"bgppeers", "10.0.0.1:1::::x", "peer 1: the mpbgp field has a key other than mpbgp_nexthop, mpbgp_ipv4 and mpbgp_ipv6"},
		{"bgppeers", "10.0.0.1:1:::179:true;300;300;3", "peer 1: the mpbgp field has a key other than mpbgp_nexthop, mpbgp_ipv4 and mpbgp_ipv6"},
		{"bgppeers", "10.0.0.1:1:::::true", "peer 1: the bfd field does not have the four values enable;rx;tx;multiplier"},
		{"bgppeers", "10.0.0.1:1:::::;300;300;3", "peer 1: enable, in the bfd field, is not true or false"},
		{"bgppeers", "10.0.0.1:1:::::true;9;300;3", "peer 1: rx, in the bfd field, is not a number of milliseconds from 10 to 60000"},
		{"bgppeers", "10.0.0.1:1:::::true;300;60001;3", "peer 1: tx, in the bfd field, is not a number of milliseconds from 10 to 60000"},
		{"bgppeers", "10.0.0.1:1:::::true;300;300;0", "peer 1: multiplier, in the bfd field, is not a number from 1 to 255"},
		{"bgppeers", "10.0.0.1:1,10.0.0.2:x,10.0.0.3", "peer 2: the AS behind the address is not a number from 1 to 4294967295; peer 3: the AS behind the address is not a number from 1 to 4294967295"},
		{"peerAddress", "10.0.0.256", `"10.0.0.256" is neither an IP address nor a host name`},
		{"peerPass", strings.Repeat("p", 81), "password is longer than 80 bytes"},
		{"sourceIP", "::ffff:10.0.0.1", `"::ffff:10.0.0.1": write it as 10.0.0.1`},
		{"mpbgpNexthop", "auto", `"auto" is not one of fixed, auto_sourceip, auto_sourceif`},
		{"mpbgpIPv4", "2001:db8::1", `"2001:db8::1" is not an IPv4 address, as the next hop of IPv4 routes is`},
		{"mpbgpIPv6", "10.0.0.1", `"10.0.0.1" is not an IPv6 address, as the next hop of IPv6 routes is`},
		{"bgpPasswordSecret", "a/b/c", `"a/b/c" is not the name of a Secret: want name or namespace/name, in lower-case letters, digits, '-' and '.'`},
		{"bgpPasswordSecret", "/b", `"/b" is not the name of a Secret: want name or namespace/name, in lower-case letters, digits, '-' and '.'`},
		{"bgpDrain", "0.5", ""},
		{"bgpDrain", "-1", `"-1" is not a number of seconds from 0 to 600`},
		{"bgpCommunities", " 65000:100 , No-Export,backup", ""},
		{"bgpCommunities", "65000:100,65000:0100", `"65000:100" is given twice`},
		{"bgpCommunities", "65000:1:2", `"65000:1:2" is a large community: those have a list of their own`},
		{"bgpCommunities", "1:1,", `"" is neither a community such as 65000:100 nor a name of one`},
		{"bgpLargeCommunities", "65000:1", `"65000:1" is not a large community: want three numbers such as 65000:1:2`},
		{"bgpLargeCommunities", "1:2:4294967296", `"1:2:4294967296" is not a community: want two numbers up to 65535 such as 65000:100, or three up to 4294967295 such as 65000:1:2`},
		{"bgpCommunityNames", `{"a": "1:2", "b": "1:2:3"}`, ""},
		{"bgpCommunityNames", `{"a": 1}`, `not a JSON object of strings such as {"backup":"65000:50"}`},
		{"bgpCommunityNames", "a", `"a" has no value: want name=value such as backup=65000:50`},
		{"bgpCommunityNames", "a=1:1,a=1:2", "a is given twice"},
		{"bgpCommunityNames", "No-Export=1:1", "No-Export is the name of a well-known community"},
		{"bgpCommunityNames", "1a=1:1,b=c", `"1a" cannot be the name of a community: want a letter, and letters, digits, '-', '_' and '.' behind it; b: "c" is not a community: want two numbers up to 65535 such as 65000:100, or three up to 4294967295 such as 65000:1:2`},
		{"bgpMED", "4294967296", `"4294967296" is not a whole number from 0 to 4294967295`},
		{"bgpPrepend", "33", `"33" is not a whole number from 0 to 32`},
		{"bgppeers", "10.0.0.1:1::::::", "peer 1: there are too many fields: want addr:AS[:password[:multihop[:port[:mpbgp[:bfd]]]]]"},
	} {
		t.Run(test.setting+" "+test.text, func(t *testing.T) {
			s, ok := find(test.setting)
			if !ok {
				t.Fatal("there is no such setting")
			}
			got := ""
			if err := s.Value(&Config{}).Set(test.text); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("want %s\ngot  %s", test.want, got)
			}
		})
	}
}

// A value that cannot be read leaves the field alone.
func TestSetKeepsTheOldValue(t *testing.T) {
	for _, s := range Settings() {
		var c Config
		v := s.Value(&c)
		if err := v.Set(s.Example); err != nil {
			t.Fatal(err)
		}
		before := v.String()
		if err := v.Set("\x00,"); err != nil && v.String() != before {
			t.Errorf("%s: %q became %q with an error", s.Name, before, v.String())
		}
	}
}
