package config

import (
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Groups of settings, in the order of the table.
const (
	groupControlPlane = "Control plane"
	groupServices     = "Services"
	groupNetwork      = "Network"
	groupARP          = "ARP and NDP"
	groupElection     = "Leader election"
	groupHealth       = "Health of the local API server"
	groupBGP          = "BGP"
	groupKubernetes   = "Kubernetes"
	groupNode         = "This instance"
	groupObserve      = "Logs, metrics, probes"
)

// longest bounds every time that is set, so that a typing error is found and a Lease's int32 seconds cannot overflow.
const longest = 24 * time.Hour

// longestDrain bounds what a stop may take.
const longestDrain = 10 * time.Minute

// adminConf is the kubeconfig that kubeadm leaves on every node of the control plane.
const adminConf = "/etc/kubernetes/admin.conf"

// Settings is the table: one row for each setting, in the order in which it is documented and rendered.
func Settings() []Setting {
	cp := func(c *Config) bool { return c.ControlPlane.Enable }
	services := func(c *Config) bool { return c.Services.Enable }
	elects := func(c *Config) bool { return c.Election.Enable }
	bgp := func(c *Config) bool { return c.BGP.Enable }
	always := func(*Config) bool { return true }
	each := func(string) bool { return true }
	dnsModes := []string{"first", "ipv4", "ipv6", "dual"}
	placements := []string{PlacementLeader, PlacementLease}
	pools := []string{"auto", "on", "off"}
	excludeLabel := []string{"honour", "ignore"}
	formats := []string{"text", "json"}

	return []Setting{
		// Control plane
		{
			Name: "controlplane", Env: []string{"cp_enable"}, Key: "controlPlane", KeyAliases: []string{"enableControlPlane"},
			Default: "false", Example: "true", Group: groupControlPlane,
			Usage: "hold a VIP for the API servers; on by itself when an address is given and nothing else is enabled",
			bind:  func(c *Config) pflag.Value { return boolean{&c.ControlPlane.Enable} },
			// Beside an address, false has to be written: it would be derived to be true.
			emit: func(c *Config) bool { return len(c.ControlPlane.Addresses) > 0 },
		},
		{
			Name: "address", Aliases: []string{"vip"}, Env: []string{"address", "vip_address"}, Key: "address", KeyAliases: []string{"addresses", "vip"},
			Example: "10.0.0.10,2001:db8::10", Group: groupControlPlane,
			Usage: "the VIP of the control plane: an IP address, a DNS name, or several separated by commas",
			bind:  func(c *Config) pflag.Value { return addresses{&c.ControlPlane.Addresses} },
		},
		{
			Name: "port", Env: []string{"port"}, Key: "port",
			Default: "6443", Example: "8443", Group: groupControlPlane,
			Usage: "port of the API servers",
			bind:  func(c *Config) pflag.Value { return number[uint16]{&c.ControlPlane.Port, 1, 65535} },
			emit:  always,
		},
		{
			Name: "dnsMode", Env: []string{"dns_mode"}, Key: "dnsMode",
			Default: "first", Example: "dual", Group: groupControlPlane, Enum: dnsModes,
			Usage: "which addresses of a DNS name are held",
			bind:  func(c *Config) pflag.Value { return text{p: &c.Network.DNSMode, check: oneOf(dnsModes)} },
		},

		// Services
		{
			Name: "services", Env: []string{"svc_enable"}, Key: "services", KeyAliases: []string{"enableServices"},
			Default: "false", Example: "true", Group: groupServices,
			Usage: "hold the VIPs of Services of type LoadBalancer",
			bind:  func(c *Config) pflag.Value { return boolean{&c.Services.Enable} },
		},
		{
			Name: "servicesNamespace", Env: []string{"svc_namespace"}, Key: "serviceNamespace", KeyAliases: []string{"servicesNamespace"},
			Example: "apps", Group: groupServices,
			Usage: "the only namespace whose Services are handled; empty means all",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.Services.Namespace, clean: strings.TrimSpace, check: namespaceOrAll}
			},
		},
		{
			Name: "servicesPlacement", Env: []string{"svc_placement"}, Key: "servicesPlacement",
			Default: PlacementLeader, Example: PlacementLease, Group: groupServices, Enum: placements,
			Usage: "what decides where VIPs are, one Lease for all Services or a Lease for each",
			bind:  func(c *Config) pflag.Value { return text{p: &c.Services.Placement, check: oneOf(placements)} },
		},
		{
			Name: "servicesElection", Env: []string{"svc_election"}, Key: "servicesElection", KeyAliases: []string{"enableServicesElection"},
			Default: "false", Example: "true", Group: groupServices,
			Usage: "older name: true is the placement lease, false is leader",
			bind:  func(c *Config) pflag.Value { return boolean{&c.Services.Election} },
		},
		{
			Name: "perServiceElectionOnDemand", Env: []string{"per_service_election_on_demand"}, Key: "perServiceElectionOnDemand",
			Default: "false", Example: "true", Group: groupServices,
			Usage: "give Services with the annotation kube-vip.io/forcePerServiceElection a Lease of their own in the placement leader, too",
			bind:  func(c *Config) pflag.Value { return boolean{&c.Services.OnDemand} },
		},
		{
			Name: "servicesLeaseName", Env: []string{"svc_leasename"}, Key: "servicesLeaseName",
			Default: "plndr-svcs-lock", Example: "kube-system/my-svcs-lock", Group: groupServices,
			Usage: "name of the Lease of the placement leader, with a namespace if need be: name or namespace/name",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.Services.LeaseName, clean: strings.TrimSpace, check: leaseName}
			},
			emit: services,
		},
		{
			Name: "serviceInterface", Aliases: []string{"servicesInterface"}, Env: []string{"vip_servicesinterface"}, Key: "serviceInterface", KeyAliases: []string{"servicesInterface"},
			Example: "auto", Group: groupServices,
			Usage: "interface that carries the VIPs of Services; auto is the one whose subnet holds the VIP, else the one of the default route; empty means what vip_interface says",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.Services.Interface, typ: "interface", clean: strings.TrimSpace, check: anyInterfaceName}
			},
		},
		{
			Name: "lbClassName", Env: []string{"lb_class_name"}, Key: "lbClassName", KeyAliases: []string{"loadBalancerClassName"},
			Default: "kube-vip.io/kube-vip-class", Example: "example.com/internal", Group: groupServices,
			Usage: "the loadBalancerClass of Services that are handled",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.Services.Class.Name, clean: strings.TrimSpace, check: className}
			},
		},
		{
			Name: "lbClassNameLegacyHandling", Env: []string{"lb_class_legacy_handling"}, Key: "lbClassNameLegacyHandling", KeyAliases: []string{"loadBalancerClassLegacyHandling"},
			Default: "true", Example: "false", Group: groupServices,
			Usage: "handle Services without a loadBalancerClass, too; false: only those of the class, or without one if the class is empty",
			bind:  func(c *Config) pflag.Value { return boolean{&c.Services.Class.Legacy} },
		},
		{
			Name: "lbClassOnly", Env: []string{"lb_class_only"}, Key: "lbClassOnly", KeyAliases: []string{"loadBalancerClassOnly"},
			Default: "false", Example: "true", Group: groupServices,
			Usage: "leave Services without a loadBalancerClass to others",
			bind:  func(c *Config) pflag.Value { return boolean{&c.Services.Class.Only} },
		},
		{
			Name: "onlyAllowTrafficServicePorts", Env: []string{"enable_service_security"}, Key: "onlyAllowTrafficServicePorts", KeyAliases: []string{"enableServiceSecurity"},
			Default: "false", Example: "true", Group: groupServices,
			Usage: "let only the ports of a Service, and ICMP, reach its VIP from the network, by nftables",
			bind:  func(c *Config) pflag.Value { return boolean{&c.Services.Guard} },
		},
		{
			Name: "vipAllowedRanges", Env: []string{"vip_allowed_ranges"}, Key: "vipAllowedRanges",
			Example: "10.0.0.0/24,2001:db8::/64", Group: groupServices,
			Usage: "networks that the VIP of a Service must be in, as CIDRs separated by commas; empty allows all",
			bind:  func(c *Config) pflag.Value { return ranges{&c.Services.AllowedRanges} },
		},
		{
			Name: "servicesPools", Env: []string{"svc_pools"}, Key: "servicesPools",
			Default: "auto", Example: "on", Group: groupServices, Enum: pools,
			Usage: "give out addresses from the ConfigMap kubevip in kube-system, auto meaning unless a cloud provider does",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.Services.Pools, clean: onOff, check: oneOf(pools)}
			},
		},
		{
			Name: "servicesExcludeLabel", Env: []string{"svc_exclude_label"}, Key: "servicesExcludeLabel",
			Default: "honour", Example: "ignore", Group: groupServices, Enum: excludeLabel,
			Usage: "whether the label node.kubernetes.io/exclude-from-external-load-balancers keeps the VIPs of Services off a node",
			bind:  func(c *Config) pflag.Value { return text{p: &c.Services.ExcludeLabel, check: oneOf(excludeLabel)} },
		},
		{
			Name: "enableEndpoints", Env: []string{"enable_endpoints"}, Key: "enableEndpoints",
			Default: "false", Example: "true", Group: groupServices,
			Usage: "read Endpoints in place of EndpointSlices",
			bind:  func(c *Config) pflag.Value { return boolean{&c.Services.Endpoints} },
		},
		{
			Name: "disableServiceUpdates", Env: []string{"disable_service_updates"}, Key: "disableServiceUpdates",
			Default: "false", Example: "true", Group: groupServices,
			Usage: "write neither the status nor annotations of Services",
			bind:  func(c *Config) pflag.Value { return boolean{&c.Services.DisableUpdates} },
		},

		// Network
		{
			Name: "interface", Env: []string{"vip_interface"}, Key: "interface",
			Example: "eth0", Group: groupNetwork,
			Usage: "interface that carries the VIPs; empty means the one whose subnet holds the VIP, else the one of the default route",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.Network.Interface, typ: "interface", clean: strings.TrimSpace, check: anyInterfaceName}
			},
		},
		{
			Name: "vipSubnet", Aliases: []string{"cidr"}, Env: []string{"vip_subnet", "vip_cidr"}, Key: "vipSubnet", KeyAliases: []string{"vipCidr"},
			Example: "32,128", Group: groupNetwork,
			Usage: "prefix length of VIPs: for IPv4, for IPv6 (when longer than 32), or for both with a comma; empty means 32,128",
			bind:  func(c *Config) pflag.Value { return subnet{&c.Network.Subnet} },
		},
		{
			Name: "allowInterfaceNotUp", Env: []string{"vip_allow_interface_not_up"}, Key: "allowInterfaceNotUp",
			Default: "false", Example: "true", Group: groupNetwork,
			Usage: "hold VIPs on an interface that is not operationally up, too",
			bind:  func(c *Config) pflag.Value { return boolean{&c.Network.AllowInterfaceNotUp} },
		},
		{
			Name: "loInterfaceGlobalScope", Env: []string{"vip_interfaceloglobal"}, Key: "loInterfaceGlobalScope",
			Default: "false", Example: "true", Group: groupNetwork,
			Usage: "give VIPs on the interface lo global scope in place of host scope",
			bind:  func(c *Config) pflag.Value { return boolean{&c.Network.LoopbackGlobalScope} },
		},

		// ARP and NDP
		{
			Name: "arp", Env: []string{"vip_arp"}, Key: "arp", KeyAliases: []string{"enableARP"},
			Default: "false", Example: "true", Group: groupARP,
			Usage: "announce VIPs by gratuitous ARP and unsolicited Neighbor Advertisements; a leader is elected",
			bind:  func(c *Config) pflag.Value { return boolean{&c.ARP.Enable} },
			emit:  always,
		},
		{
			Name: "arpRate", Env: []string{"vip_arpRate"}, Key: "arpRate", KeyAliases: []string{"arpBroadcastRate"},
			Default: "3000", Example: "1000", Group: groupARP,
			Usage: "milliseconds between two announcements of a VIP that is held; below 500 it is 3000; longer while a node holds hundreds",
			bind: func(c *Config) pflag.Value {
				return span{p: &c.ARP.Rate, unit: time.Millisecond, whole: true, min: -longest, max: longest}
			},
		},

		// Leader election
		{
			Name: "leaderElection", Env: []string{"vip_leaderelection"}, Key: "leaderElection", KeyAliases: []string{"enableLeaderElection"},
			Default: "false", Example: "true", Group: groupElection,
			Usage: "only the elected leader holds the VIP; ARP always elects",
			bind:  func(c *Config) pflag.Value { return boolean{&c.Election.Enable} },
		},
		{
			Name: "leaseName", Env: []string{"vip_leasename"}, Key: "leaseName",
			Default: "plndr-cp-lock", Example: "kube-system/my-lock", Group: groupElection,
			Usage: "name of the Lease of the control plane, with a namespace if need be: name or namespace/name",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.Election.LeaseName, clean: strings.TrimSpace, check: leaseName}
			},
			emit: func(c *Config) bool { return elects(c) && (cp(c) || !services(c)) },
		},
		{
			Name: "leaseDuration", Env: []string{"vip_leaseduration"}, Key: "leaseDuration",
			Default: "5", Example: "15", Group: groupElection,
			Usage: "seconds for which the Lease is valid without being renewed; more than the renew deadline and the retry period together",
			bind:  func(c *Config) pflag.Value { return wholeSeconds(&c.Election.LeaseDuration) },
			emit:  elects,
		},
		{
			Name: "leaseRenewDuration", Env: []string{"vip_renewdeadline"}, Key: "leaseRenewDuration", KeyAliases: []string{"renewDeadline"},
			Default: "3", Example: "10", Group: groupElection,
			Usage: "seconds after which the leader that could not renew the Lease takes the VIP off",
			bind:  func(c *Config) pflag.Value { return wholeSeconds(&c.Election.RenewDeadline) },
			emit:  elects,
		},
		{
			Name: "leaseRetry", Env: []string{"vip_retryperiod"}, Key: "leaseRetry", KeyAliases: []string{"retryPeriod"},
			Default: "1", Example: "2", Group: groupElection,
			Usage: "seconds between two attempts to renew the Lease",
			bind:  func(c *Config) pflag.Value { return wholeSeconds(&c.Election.RetryPeriod) },
			emit:  elects,
		},
		{
			Name: "leaseAnnotations", Env: []string{"vip_leaseannotations"}, Key: "leaseAnnotations",
			Example: `{"team":"net"}`, Group: groupElection,
			Usage: "annotations for the Lease, as a JSON object of strings",
			bind:  func(c *Config) pflag.Value { return annotations{&c.Election.LeaseAnnotations} },
		},

		// Health
		{
			Name: "controlPlaneHealthCheck", Env: []string{"control_plane_health_check"}, Key: "controlPlaneHealthCheck",
			Default: "true", Example: "false", Group: groupHealth,
			Usage: "ask the local API server whether it is well, and give the VIP to another node when it is not",
			bind:  func(c *Config) pflag.Value { return boolean{&c.ControlPlane.Health.Enable} },
		},
		{
			Name: "controlPlaneHealthCheckAddress", Env: []string{"control_plane_health_check_address"}, Key: "controlPlaneHealthCheckAddress",
			Example: "https://127.0.0.1:6443/livez", Group: groupHealth,
			Usage: "URL that is asked in place of the local API server's /livez; it is well when the answer is 200",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.ControlPlane.Health.Address, typ: "URL", clean: strings.TrimSpace, check: webURL}
			},
			redact: redactURL, own: ofOneHost,
		},
		{
			Name: "controlPlaneHealthCheckPeriodSeconds", Env: []string{"control_plane_health_check_period_seconds"}, Key: "controlPlaneHealthCheckPeriodSeconds",
			Default: "0.2", Example: "1", Group: groupHealth,
			Usage: "seconds between two questions, decimals allowed",
			bind:  func(c *Config) pflag.Value { return decimalSeconds(&c.ControlPlane.Health.Period) },
		},
		{
			Name: "controlPlaneHealthCheckTimeoutSeconds", Env: []string{"control_plane_health_check_timeout_seconds"}, Key: "controlPlaneHealthCheckTimeoutSeconds",
			Default: "1", Example: "0.5", Group: groupHealth,
			Usage: "seconds after which an answer is too late, decimals allowed",
			bind:  func(c *Config) pflag.Value { return decimalSeconds(&c.ControlPlane.Health.Timeout) },
		},
		{
			Name: "controlPlaneHealthCheckFailureThreshold", Env: []string{"control_plane_health_check_failure_threshold"}, Key: "controlPlaneHealthCheckFailureThreshold",
			Default: "2", Example: "3", Group: groupHealth,
			Usage: "failures in a row after which the API server counts as unhealthy",
			bind: func(c *Config) pflag.Value {
				return number[int]{&c.ControlPlane.Health.FailureThreshold, 1, 1000}
			},
		},
		{
			Name: "controlPlaneHealthCheckSuccessThreshold", Env: []string{"control_plane_health_check_success_threshold"}, Key: "controlPlaneHealthCheckSuccessThreshold",
			Default: "3", Example: "5", Group: groupHealth,
			Usage: "successes in a row after which the API server counts as healthy again",
			bind: func(c *Config) pflag.Value {
				return number[int]{&c.ControlPlane.Health.SuccessThreshold, 1, 1000}
			},
		},
		{
			Name: "controlPlaneHealthCheckCAPath", Env: []string{"control_plane_health_check_ca_path"}, Key: "controlPlaneHealthCheckCAPath",
			Example: "/etc/kubernetes/pki/ca.crt", Group: groupHealth,
			Usage: "PEM file of certificate authorities that are trusted beside the kubeconfig's",
			bind:  func(c *Config) pflag.Value { return text{p: &c.ControlPlane.Health.CAPath, typ: "file"} },
		},

		// BGP
		{
			Name: "bgp", Env: []string{"bgp_enable"}, Key: "bgp", KeyAliases: []string{"enableBGP"},
			Default: "false", Example: "true", Group: groupBGP,
			Usage: "announce VIPs by BGP, in place of ARP",
			bind:  func(c *Config) pflag.Value { return boolean{&c.BGP.Enable} },
		},
		{
			Name: "bgpAttachIPToInterface", Env: []string{"bgp_attach_ip_to_interface"}, Key: "bgpAttachIPToInterface",
			Default: "false", Example: "true", Group: groupBGP,
			Usage: "put the VIPs of Services on the interface, too",
			bind:  func(c *Config) pflag.Value { return boolean{&c.BGP.AttachIPToInterface} },
		},
		{
			Name: "bgpRouterID", Env: []string{"bgp_routerid"}, Key: "bgpRouterID",
			Example: "192.0.2.1", Group: groupBGP, own: each,
			Usage: "router ID, an IPv4 address; it must differ from node to node",
			bind: func(c *Config) pflag.Value {
				return address{p: &c.BGP.RouterID, only: "IPv4", reason: ", as a BGP router ID is"}
			},
		},
		{
			Name: "bgpRouterInterface", Env: []string{"bgp_routerinterface"}, Key: "bgpRouterInterface",
			Example: "eth0", Group: groupBGP,
			Usage: "interface whose first IPv4 address is the router ID",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.BGP.RouterInterface, typ: "interface", clean: strings.TrimSpace, check: interfaceName}
			},
		},
		{
			Name: "localAS", Env: []string{"bgp_as"}, Key: "localAS", KeyAliases: []string{"bgpAS"},
			Default: "65000", Example: "65001", Group: groupBGP,
			Usage: "our autonomous system number",
			bind:  func(c *Config) pflag.Value { return number[uint32]{&c.BGP.AS, 0, 1<<32 - 1} },
			emit:  bgp,
		},
		{
			Name: "bgppeers", Env: []string{"bgp_peers"}, Key: "bgpPeers",
			Example: "192.0.2.254:65000::false,[2001:db8::1]:65000", Group: groupBGP,
			Usage: "peers as addr:AS[:password[:multihop[:port[:mpbgp[:bfd]]]]], separated by commas",
			bind:  func(c *Config) pflag.Value { return peers{&c.BGP.Peers} }, redact: redactPeers,
		},
		{
			Name: "peerAddress", Env: []string{"bgp_peeraddress"}, Key: "peerAddress", KeyAliases: []string{"bgpPeerAddress"},
			Example: "192.0.2.254", Group: groupBGP,
			Usage: "address of a single peer",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.BGP.PeerAddress, clean: strings.TrimSpace, check: hostOrIP}
			},
		},
		{
			Name: "peerAS", Env: []string{"bgp_peeras"}, Key: "peerAS", KeyAliases: []string{"bgpPeerAS"},
			Default: "65000", Example: "65001", Group: groupBGP,
			Usage: "autonomous system number of the single peer",
			bind:  func(c *Config) pflag.Value { return number[uint32]{&c.BGP.PeerAS, 0, 1<<32 - 1} },
			emit:  bgp,
		},
		{
			Name: "peerPass", Env: []string{"bgp_peerpass"}, Key: "peerPass", KeyAliases: []string{"bgpPeerPass"},
			Example: "secret", Group: groupBGP, Secret: true,
			Usage: "TCP MD5 password (RFC 2385) of the single peer",
			bind:  func(c *Config) pflag.Value { return secret{&c.BGP.PeerPassword} },
		},
		{
			Name: "multihop", Aliases: []string{"multiHop"}, Env: []string{"bgp_multihop"}, Key: "multihop",
			Default: "false", Example: "true", Group: groupBGP,
			Usage: "the single peer is more than one hop away",
			bind:  func(c *Config) pflag.Value { return boolean{&c.BGP.Multihop} },
		},
		{
			Name: "bgpPeersFile", Env: []string{"bgp_peers_file"}, Key: "bgpPeersFile",
			Example: "/etc/kube-vip/peers.yaml", Group: groupBGP,
			Usage: "YAML file with more peers, and with what the list of peers cannot say; see below",
			bind:  func(c *Config) pflag.Value { return text{p: &c.BGP.PeersFile, typ: "file"} },
		},
		{
			Name: "bgpPasswordSecret", Env: []string{"bgp_password_secret"}, Key: "bgpPasswordSecret",
			Example: "kube-system/bgp-passwords", Group: groupBGP,
			Usage: "Secret with the passwords of peers that have none elsewhere, as name or namespace/name: under the peer's address, or else under password",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.BGP.PasswordSecret, clean: strings.TrimSpace, check: secretName}
			},
		},
		{
			Name: "sourceIF", Aliases: []string{"sourceif"}, Env: []string{"bgp_sourceif"}, Key: "sourceIF",
			Example: "eth0", Group: groupBGP,
			Usage: "interface that sessions go out of; not together with a source address",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.BGP.SourceInterface, typ: "interface", clean: strings.TrimSpace, check: interfaceName}
			},
		},
		{
			Name: "sourceIP", Aliases: []string{"sourceip"}, Env: []string{"bgp_sourceip"}, Key: "sourceIP",
			Example: "192.0.2.1", Group: groupBGP, own: each,
			Usage: "address that sessions come from; not together with a source interface",
			bind:  func(c *Config) pflag.Value { return address{p: &c.BGP.SourceIP} },
		},
		{
			Name: "bgpHoldTimer", Env: []string{"bgp_hold_time"}, Key: "bgpHoldTimer", KeyAliases: []string{"bgpHoldTime"},
			Default: "30", Example: "9", Group: groupBGP,
			Usage: "seconds of silence after which a session is over; 0 or at least 3",
			bind: func(c *Config) pflag.Value {
				return span{p: &c.BGP.HoldTime, unit: time.Second, whole: true, max: 65535 * time.Second}
			},
		},
		{
			Name: "bgpKeepAliveInterval", Env: []string{"bgp_keepalive_interval"}, Key: "bgpKeepAliveInterval",
			Default: "10", Example: "3", Group: groupBGP,
			Usage: "seconds between two keepalives; less than the hold time",
			bind: func(c *Config) pflag.Value {
				return span{p: &c.BGP.KeepaliveInterval, unit: time.Second, whole: true, max: 65535 * time.Second}
			},
		},
		{
			Name: "mpbgpNexthop", Env: []string{"mpbgp_nexthop"}, Key: "mpbgpNexthop",
			Example: NextHopSourceIP, Group: groupBGP, Enum: nextHopModes(),
			Usage: "where routes of the other family than the session's point to (MP-BGP), empty for none of them",
			bind:  func(c *Config) pflag.Value { return nextHopMode(&c.BGP.NextHop) },
		},
		{
			Name: "mpbgpIPv4", Env: []string{"mpbgp_ipv4"}, Key: "mpbgpIPv4",
			Example: "192.0.2.1", Group: groupBGP, own: each,
			Usage: "next hop of IPv4 routes for mpbgp_nexthop=fixed",
			bind:  func(c *Config) pflag.Value { return nextHopIPv4(&c.BGP.NextHop) },
		},
		{
			Name: "mpbgpIPv6", Env: []string{"mpbgp_ipv6"}, Key: "mpbgpIPv6",
			Example: "2001:db8::1", Group: groupBGP, own: each,
			Usage: "next hop of IPv6 routes for mpbgp_nexthop=fixed",
			bind:  func(c *Config) pflag.Value { return nextHopIPv6(&c.BGP.NextHop) },
		},
		{
			Name: "bgpGracefulRestart", Env: []string{"bgp_graceful_restart"}, Key: "bgpGracefulRestart",
			Default: "false", Example: "true", Group: groupBGP,
			Usage: "ask peers to keep routes for the hold time when the session breaks (RFC 4724), so that a restart of the process is not noticed; a node that is gone is, then, only noticed as late",
			bind:  func(c *Config) pflag.Value { return boolean{&c.BGP.GracefulRestart} },
		},
		{
			Name: "bgpDrain", Env: []string{"bgp_drain"}, Key: "bgpDrain",
			Default: "2", Example: "10", Group: groupBGP,
			Usage: "seconds for which routes stay, marked with GRACEFUL_SHUTDOWN (RFC 8326), before they are withdrawn: when the instance stops, when the node is cordoned, excluded or not ready, and when its API server says that it is not well; decimals allowed, 0 withdraws at once",
			bind:  func(c *Config) pflag.Value { return span{p: &c.BGP.Drain, unit: time.Second, max: longestDrain} },
		},
		{
			Name: "bgpCommunities", Env: []string{"bgp_communities"}, Key: "bgpCommunities",
			Example: "65000:100,no-export", Group: groupBGP,
			Usage: "communities of routes (RFC 1997), as a:b or by name, separated by commas",
			bind:  func(c *Config) pflag.Value { return communities{p: &c.BGP.Communities} },
		},
		{
			Name: "bgpLargeCommunities", Env: []string{"bgp_large_communities"}, Key: "bgpLargeCommunities",
			Example: "65000:1:2", Group: groupBGP,
			Usage: "large communities of routes (RFC 8092), as a:b:c or by name, separated by commas",
			bind:  func(c *Config) pflag.Value { return communities{p: &c.BGP.LargeCommunities, large: true} },
		},
		{
			Name: "bgpCommunityNames", Env: []string{"bgp_community_names"}, Key: "bgpCommunityNames",
			Example: "backup=65000:50,blue=65000:1:7", Group: groupBGP,
			Usage: "names that may stand for communities wherever those are given, as name=value separated by commas; well-known communities have theirs already",
			bind:  func(c *Config) pflag.Value { return communityNames{&c.BGP.CommunityNames} },
		},
		{
			Name: "bgpLocalPref", Env: []string{"bgp_local_pref"}, Key: "bgpLocalPref",
			Example: "200", Group: groupBGP,
			Usage: "LOCAL_PREF of routes, for peers of our own AS; empty leaves it to the speaker, which says 100",
			bind:  func(c *Config) pflag.Value { return optional{&c.BGP.LocalPref} },
		},
		{
			Name: "bgpMED", Env: []string{"bgp_med"}, Key: "bgpMED",
			Example: "50", Group: groupBGP,
			Usage: "MULTI_EXIT_DISC of routes, of which the lowest counts; empty is none",
			bind:  func(c *Config) pflag.Value { return optional{&c.BGP.MED} },
		},
		{
			Name: "bgpPrepend", Env: []string{"bgp_prepend"}, Key: "bgpPrepend",
			Default: "0", Example: "2", Group: groupBGP,
			Usage: "how many times more our AS is in the path of routes, at most 32",
			bind:  func(c *Config) pflag.Value { return number[uint8]{&c.BGP.Prepend, 0, maxPrepend} },
		},
		{
			Name: "bgpLinkBandwidth", Env: []string{"bgp_link_bandwidth"}, Key: "bgpLinkBandwidth",
			Default: "false", Example: "true", Group: groupBGP,
			Usage: "weigh the nodes of a Service by their ready endpoints, by the link-bandwidth extended community",
			bind:  func(c *Config) pflag.Value { return boolean{&c.BGP.LinkBandwidth} },
		},
		{
			Name: "annotations", Env: []string{"annotation", "annotations"}, Key: "annotations",
			Example: "metal.equinix.com", Group: groupBGP,
			Usage: "prefix of the node annotations that hold AS and peers",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.BGP.Annotations, clean: strings.TrimSpace, check: annotationPrefix}
			},
		},

		// Kubernetes
		{
			Name: "namespace", Shorthand: "n", Env: []string{"cp_namespace"}, Key: "namespace",
			Default: "kube-system", Example: "vip-system", Group: groupKubernetes,
			Usage: "namespace of the Leases",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.Kubernetes.Namespace, clean: strings.TrimSpace, check: namespaceName}
			},
			emit: func(c *Config) bool { return cp(c) || services(c) },
		},
		{
			Name: "k8sConfigPath", Env: []string{"k8s_config_file"}, Key: "k8sConfigPath", KeyAliases: []string{"k8sConfigFile"},
			Default: adminConf, Example: "/etc/kubernetes/super-admin.conf", Group: groupKubernetes,
			Usage: "kubeconfig that is used when it exists",
			bind:  func(c *Config) pflag.Value { return text{p: &c.Kubernetes.ConfigFile, typ: "file"} },
			// kubeadm makes that one file on every node. Any other would be mounted from a host that may not have it, or not for this.
			own: func(file string) bool { return file != adminConf },
		},
		{
			Name: "kubernetesAddr", Env: []string{"kubernetes_addr"}, Key: "kubernetesAddr",
			Example: "https://192.0.2.5:6443", Group: groupKubernetes,
			Usage: "the only API server that is dialled: host, host:port or URL; empty means this node's, then those of the others",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.Kubernetes.Address, clean: strings.TrimSpace, check: apiAddress}
			},
			own: ofOneHost,
		},

		// This instance
		{
			Name: "nodeName", Env: []string{"vip_nodename"}, Key: "nodeName",
			Example: "node-1", Group: groupNode, own: each,
			Usage: "name of this node, in lower case, which is our name in Leases; empty means the host's name",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.Node.Name, clean: lowerTrim, check: nodeName}
			},
		},
		{
			Name: "instanceName", Env: []string{"instance_name", "INSTANCE_NAME"}, Key: "instanceName",
			Example: "blue", Group: groupNode, own: each,
			Usage: "tells two instances on one node apart",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.Node.Instance, clean: strings.TrimSpace, check: instanceName}
			},
		},

		// Logs, metrics, probes
		{
			Name: "log", Env: []string{"vip_loglevel"}, Key: "log", KeyAliases: []string{"logLevel", "logging"},
			Default: "0", Example: "-4", Group: groupObserve,
			Usage: "level of the log: -4 or debug, 0 or info, 4 or warn, 8 or error",
			bind:  func(c *Config) pflag.Value { return level{&c.Log.Level} },
		},
		{
			Name: "logFormat", Env: []string{"log_format"}, Key: "logFormat",
			Default: "text", Example: "json", Group: groupObserve, Enum: formats,
			Usage: "format of the log",
			bind:  func(c *Config) pflag.Value { return text{p: &c.Log.Format, check: oneOf(formats)} },
		},
		{
			Name: "prometheusHTTPServer", Env: []string{"prometheus_server"}, Key: "prometheusHTTPServer", KeyAliases: []string{"prometheusServer"},
			Default: "127.0.0.1:2112", Example: ":2112", Group: groupObserve,
			Usage: "address that /metrics listens on; empty is off",
			bind: func(c *Config) pflag.Value {
				return text{p: &c.Observe.PrometheusServer, clean: strings.TrimSpace, check: listenAddress}
			},
			emit: always, own: ofOneHost,
		},
		{
			Name: "healthCheckPort", Env: []string{"health_check_port"}, Key: "healthCheckPort",
			Default: "29112", Example: "0", Group: groupObserve,
			Usage: "port of 127.0.0.1 for /healthz and /readyz, at least 1024; 0 is off",
			bind:  func(c *Config) pflag.Value { return portOrZero{&c.Observe.HealthCheckPort} },
			emit:  always,
		},
	}
}

// configFileSetting is the row of the config file itself. It is not in the table: it sets nothing in Config, and cannot
// be in a config file.
func configFileSetting() Setting {
	return Setting{
		Name: "config-file", Env: []string{"config_file"}, Example: "/etc/kube-vip/config.yaml", Group: groupNode,
		Usage: "file with settings, YAML or JSON; flags and environment variables count more",
		bind:  func(*Config) pflag.Value { return text{p: new(string), typ: "file"} },
	}
}

func wholeSeconds(p *time.Duration) pflag.Value {
	return span{p: p, unit: time.Second, whole: true, min: time.Second, max: longest}
}

// decimalSeconds are at least 10 ms: less would be load, not detection.
func decimalSeconds(p *time.Duration) pflag.Value {
	return span{p: p, unit: time.Second, min: 10 * time.Millisecond, max: longest}
}

// onOff takes a switch for on or off: in YAML 1.1 the words on and off themselves are true and false.
func onOff(s string) string {
	switch s = strings.TrimSpace(s); s {
	case "true":
		return "on"
	case "false":
		return "off"
	}
	return s
}

func lowerTrim(s string) string { return strings.ToLower(strings.TrimSpace(s)) }
