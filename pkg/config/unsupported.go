package config

// Unsupported is a setting of kube-vip that this version accepts and does not act on: a manifest that has it works, and
// Load warns.
type Unsupported struct {
	// Flags, Env and Keys are its spellings.
	Flags, Env, Keys []string
	// Bool flags need no value.
	Bool bool
	// Why is the rest of a sentence that begins with the setting as it was spelt.
	Why string
	// Same is the value that asks for what happens anyway, so that nothing needs to be said; empty for none.
	Same string
}

const notYet = " are not supported yet by this version"

// UnsupportedSettings lists the settings that are accepted and not acted on.
func UnsupportedSettings() []Unsupported {
	const (
		debounce  = "ignored: pauses between changes of endpoints" + notYet
		etcd      = "ignored: elections by etcd" + notYet + "; the Lease is used"
		zebra     = "ignored: routes by FRR's zebra" + notYet
		table     = "ignored: routing tables" + notYet
		wireguard = "ignored: WireGuard tunnels" + notYet
		egress    = "ignored: egress rules" + notYet
		dhcp      = "ignored: addresses from DHCP" + notYet
		upnp      = "ignored: UPnP forwards" + notYet
		balance   = "ignored: IPVS load balancers for the API servers" + notYet
		labels    = "ignored: node labels" + notYet
		noEffect  = "ignored: this setting never had an effect"
		metal     = "ignored: kube-vip removed the Equinix Metal API in v0.9.0"
		carrier   = "ignored: loss of carrier always counts as unhealthy"
	)
	one := func(flag, env, key string, boolean bool, why string) Unsupported {
		list := func(s string) []string {
			if s == "" {
				return nil
			}
			return []string{s}
		}
		return Unsupported{Flags: list(flag), Env: list(env), Keys: list(key), Bool: boolean, Why: why}
	}
	return []Unsupported{
		// Not supported yet.
		one("mirrorDestInterface", "mirror_dest_interface", "mirrorDestInterface", false, "ignored: traffic mirrors"+notYet),
		one("debounceTime", "debounce_time", "debounceTime", false, debounce),
		{Env: []string{"enable_upnp", "enableUPNP"}, Keys: []string{"enableUPNP"}, Why: upnp},
		one("enableNodeLabeling", "enable_node_labeling", "enableNodeLabeling", true, labels),
		{Flags: []string{"leaderElectionType"}, Keys: []string{"leaderElectionType"}, Why: etcd, Same: "kubernetes"},
		{Flags: []string{"etcdCACert", "etcdCert", "etcdKey", "etcdEndpoints"}, Keys: []string{"etcd"}, Why: etcd},
		{Flags: []string{"zebra"}, Env: []string{"zebra_enable"}, Keys: []string{"zebra", "zebraEnable"}, Bool: true, Why: zebra},
		one("zebraUrl", "zebra_url", "zebraUrl", false, zebra),
		one("zebraVersion", "zebra_version", "zebraVersion", false, zebra),
		one("zebraSoftwareName", "zebra_software_name", "zebraSoftwareName", false, zebra),
		{Flags: []string{"table"}, Env: []string{tableEnv}, Keys: []string{"table", "enableRoutingTable"}, Bool: true, Why: table},
		{Flags: []string{"tableID"}, Env: []string{"vip_routingtableid"}, Keys: []string{"tableID", "routingTableID"}, Why: table},
		{Flags: []string{"tableType"}, Env: []string{"vip_routingtabletype"}, Keys: []string{"tableType", "routingTableType"}, Why: table},
		one("routingProtocol", "vip_routingprotocol", "routingProtocol", false, table),
		one("cleanRoutingTable", "vip_cleanroutingtable", "cleanRoutingTable", true, table),
		{Flags: []string{"wireguard"}, Env: []string{wireguardEnv}, Keys: []string{"wireguard", "enableWireguard"}, Bool: true, Why: wireguard},
		one("egressWithNftables", "egress_withnftables", "egressWithNftables", true, egress),
		one("", "egress_podcidr", "egressPodCidr", false, egress),
		one("", "egress_servicecidr", "egressServiceCidr", false, egress),
		{Env: []string{"egress_enableinternalsnat"}, Keys: []string{"enableInternalSNAT"}, Why: egress},
		{Env: []string{"egress_clean", "EGRESS_CLEAN"}, Keys: []string{"egressClean"}, Why: egress},
		one("dhcpMode", "dhcp_mode", "dhcpMode", false, dhcp),
		one("dhcpBackoffAttempts", "dhcp_backoff_attempts", "dhcpBackoffAttempts", false, dhcp),
		{Flags: []string{"ddns"}, Env: []string{"vip_ddns"}, Keys: []string{"ddns"}, Bool: true, Why: dhcp},
		{Flags: []string{"enableLoadBalancer"}, Env: []string{"lb_enable"}, Keys: []string{"enableLoadBalancer"}, Bool: true, Why: balance},
		{Flags: []string{"lbPort"}, Env: []string{"lb_port"}, Keys: []string{"lbPort", "loadBalancerPort"}, Why: balance},
		{Flags: []string{"lbForwardingMethod"}, Env: []string{"lb_fwdmethod"}, Keys: []string{"lbForwardingMethod", "loadBalancerForwardingMethod"}, Why: balance},
		one("", "backend_health_check_interval", "backendHealthCheckInterval", false, balance),
		{Keys: []string{"bgpConfig", "bgpPeerConfig"}, Why: "ignored: nested BGP configuration is not read; use localAS, bgpRouterID, bgpPeers, sourceIP, sourceIF"},

		// Built in.
		one("autodetectcp", "cp_detect", "detectControlPlane", true, "ignored: the local API server is always tried first"),
		one("", "vip_skipdad", "skipDAD", false, "ignored: duplicate address detection is always off for VIPs"),
		one("loseLeadership", "vip_loseleadership", "loseLeadership", true, carrier),
		{
			Flags: []string{"loseLeadershiptTimeoutSeconds", "loseLeadershipTimeoutSeconds"}, Env: []string{"vip_loseleadership_timeout_seconds"},
			Keys: []string{"loseLeadershipTimeoutSeconds"}, Why: carrier,
		},
		{
			Flags: []string{"preserveVipOnLeadershipLoss"}, Env: []string{"vip_preserve_on_leadership_loss"},
			Keys: []string{"preserveVipOnLeadershipLoss"}, Bool: true,
			Why: "refused: it lets two nodes answer for one VIP; the address stays until its lifetime in the kernel ends, before another node can hold it",
		},

		// Never had an effect, or has none any more.
		one("", "vip_singlenode", "singleNode", false, noEffect),
		one("", "vip_startleader", "startAsLeader", false, noEffect),
		one("configMap", "vip_configmap", "configMap", false, noEffect),
		one("", "iptables_backend", "iptablesBackend", false, noEffect),
		one("", "", "addPeersAsBackends", false, noEffect),
		one("", "", "loadBalancers", false, noEffect),
		one("enableEndpointSlices", "enable_endpointslices", "enableEndpointSlices", true, noEffect+" since EndpointSlices became the default"),
		{Flags: []string{"metal"}, Env: []string{"vip_packet"}, Keys: []string{"metal", "enableMetal", "enablePacket"}, Bool: true, Why: metal},
		{
			Flags: []string{"metalKey", "metalProject", "metalProjectID", "provider-config"},
			Env:   []string{"vip_packetproject", "vip_packetprojectid", "provider_config"},
			Keys:  []string{"metalAPIKey", "metalProject", "metalProjectID", "providerConfig"}, Why: metal,
		},
	}
}

// Environment variables of ways of working that are not supported yet and that decide what the rest means.
const (
	tableEnv     = "vip_routingtable"
	wireguardEnv = "vip_wireguard"
)
