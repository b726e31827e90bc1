// Package config is kube-vip's one table of settings and the Config that it fills.
//
// A Setting is one row of Settings: its flag, its environment variables (older spellings included), its key
// in the config file, default, usage and the one typed field of Config that it binds to. Everything else
// ranges over the rows: flags, layering (flag > environment > file > default), validation, the environment
// of generated manifests, `kube-vip config` and docs/settings.md.
package config

import (
	"net/netip"
	"time"
)

// Config is what a kube-vip instance was asked to do. Every exported leaf is set by exactly one Setting.
type Config struct {
	Log          Log
	Node         Node
	Kubernetes   Kubernetes
	Network      Network
	ControlPlane ControlPlane
	Services     Services
	Election     Election
	ARP          ARP
	BGP          BGP
	Observe      Observe
}

// Log says what is logged and how.
type Log struct {
	// Level is a slog level: -4 debug, 0 info, 4 warn, 8 error.
	Level int
	// Format is "text" or "json".
	Format string
}

// Node is this instance's place in the cluster.
type Node struct {
	// Name is the Lease identity; empty means the host's name. Always lower case.
	Name string
	// Instance tells two instances on one node apart.
	Instance string
}

// Kubernetes is where the API is found and what is used there.
type Kubernetes struct {
	// Namespace holds the Leases.
	Namespace string
	// ConfigFile is the kubeconfig.
	ConfigFile string
	// Address, when set, is the only API server that is dialled (host, host:port or URL).
	Address string
}

// Network is how an address is put on this node.
type Network struct {
	// Interface carries the VIPs; empty means the one whose subnet holds the VIP, else the default route's.
	Interface string
	// AllowInterfaceNotUp lets a VIP be held on an interface that is not operationally up.
	AllowInterfaceNotUp bool
	// LoopbackGlobalScope gives addresses on lo the global scope in place of host scope.
	LoopbackGlobalScope bool
	// Subnet is the prefix length of VIPs, "32", "128" or "32,128"; empty means /32 and /128.
	// Bits says what it means for one address.
	Subnet string
	// DNSMode chooses among the addresses of a DNS name: first, ipv4, ipv6 or dual.
	DNSMode string
}

// ControlPlane is the VIP of the API server.
type ControlPlane struct {
	Enable bool
	// Addresses are IP addresses or DNS names, in the order in which they were given.
	Addresses []string
	// Port is the API server's.
	Port   uint16
	Health Health
}

// Services is the VIPs of Services of type LoadBalancer.
type Services struct {
	Enable bool
	// Namespace is the only one whose Services are handled; empty means all of them.
	Namespace string
	// Placement says what decides where VIPs are: PlacementLeader or PlacementLease.
	Placement string
	// Election is the older way to ask for PlacementLease. Where neither contradicts the other (Validate), it says
	// the same as Placement.
	Election bool
	// OnDemand gives a Service that asks for it by an annotation a Lease of its own with PlacementLeader, too.
	OnDemand bool
	// LeaseName is the Lease of PlacementLeader, "name" or "namespace/name".
	LeaseName string
	// Interface carries the VIPs: a name, or "auto" for what Network.Interface does when it is empty; empty means
	// Network.Interface.
	Interface string
	Class     Class
	// AllowedRanges are the networks that a VIP must be in; none allow all.
	AllowedRanges []netip.Prefix
	// Guard lets only the ports of a Service, and ICMP, reach its VIP.
	Guard bool
	// Pools says whether addresses are given out from the ConfigMap kubevip: "on", "off", or "auto" for unless a
	// cloud provider does.
	Pools string
	// ExcludeLabel is "honour" when nodes with the label node.kubernetes.io/exclude-from-external-load-balancers
	// hold no VIPs, "ignore" when they do.
	ExcludeLabel string
	// Endpoints reads core Endpoints in place of EndpointSlices.
	Endpoints bool
	// DisableUpdates leaves Services as they are: neither status nor annotations are written.
	DisableUpdates bool
}

// Values of Services.Placement.
const (
	// PlacementLeader is one Lease for all Services: its holder has every VIP that it can.
	PlacementLeader = "leader"
	// PlacementLease is a Lease for each Service.
	PlacementLease = "lease"
)

// Class is which Services are ours by their spec.loadBalancerClass.
type Class struct {
	// Name is our class.
	Name string
	// Legacy takes Services without a class, too, unless Only is set. Without it the class must be Name; an empty
	// Name then is that of Services without one.
	Legacy bool
	// Only leaves Services without a class to others.
	Only bool
}

// Health is how the local API server is judged.
type Health struct {
	Enable bool
	// Address is an http or https URL asked in place of the local API server's /livez.
	Address string
	Period  time.Duration
	Timeout time.Duration
	// FailureThreshold failures in a row make it unhealthy, SuccessThreshold successes make it healthy again.
	FailureThreshold int
	SuccessThreshold int
	// CAPath is a PEM file trusted beside the kubeconfig's CA.
	CAPath string
}

// Election is the Lease of the control-plane VIPs.
type Election struct {
	Enable bool
	// LeaseName is "name" or "namespace/name".
	LeaseName     string
	LeaseDuration time.Duration
	RenewDeadline time.Duration
	RetryPeriod   time.Duration
	// LeaseAnnotations are written to the Lease when we hold it.
	LeaseAnnotations map[string]string
}

// ARP is gratuitous ARP and unsolicited Neighbor Advertisement.
type ARP struct {
	Enable bool
	// Rate is the time between two announcements of a VIP that is held. At least 500 ms.
	Rate time.Duration
}

// BGP is the speaker and its peers. PeerList has the peers that it names.
type BGP struct {
	Enable bool
	// AttachIPToInterface puts the VIPs of Services on Network.Interface, too.
	AttachIPToInterface bool
	// RouterID is the router ID; not valid means the first IPv4 address of RouterInterface, or else the node's own.
	RouterID        netip.Addr
	RouterInterface string
	// AS is our autonomous system number.
	AS uint32
	// Peers are peers as they were written.
	Peers PeersText
	// PeerAddress is that of a single peer beside them, with PeerAS, PeerPassword and Multihop; empty for none.
	PeerAddress  string
	PeerAS       uint32
	PeerPassword Secret
	Multihop     bool
	// PeersFile is a YAML file with more peers; empty for none.
	PeersFile string
	// PasswordSecret is "name" or "namespace/name" of a Secret with passwords of peers (Peer.PasswordIn); empty for none.
	PasswordSecret string
	// Annotations is the prefix of the node annotations that hold the AS and the peers; empty means none.
	Annotations string
	// Drain is how long routes stay, marked with GRACEFUL_SHUTDOWN (RFC 8326), before they are withdrawn when we stop.
	Drain time.Duration
	// LinkBandwidth adds a link-bandwidth community that weighs the nodes of a Service by their ready endpoints.
	LinkBandwidth bool
	// CommunityNames are names that may stand for communities.
	CommunityNames CommunityNames

	// The fields below are those of each peer that says nothing else.

	// SourceInterface and SourceIP are where sessions come from; at most one of them. The address is that of sessions of
	// its family.
	SourceInterface   string
	SourceIP          netip.Addr
	HoldTime          time.Duration
	KeepaliveInterval time.Duration
	NextHop           NextHop
	GracefulRestart   bool
	// Communities and LargeCommunities are communities or names of them.
	Communities, LargeCommunities []string
	LocalPref, MED                *uint32
	Prepend                       uint8
}

// Observe is what the instance shows of itself. Nothing listens beyond loopback unless asked.
type Observe struct {
	// PrometheusServer is the listen address of /metrics; empty turns it off.
	PrometheusServer string
	// HealthCheckPort is the loopback port of /healthz and /readyz; 0 turns it off.
	HealthCheckPort int
}

// Bits is the prefix length of a VIP on its interface: what Subnet says for the family of the address, else that of a single host.
func (n Network) Bits(a netip.Addr) int {
	four, six, err := parseSubnet(n.Subnet)
	switch {
	case err == nil && a.Is4() && four > 0:
		return four
	case err == nil && !a.Is4() && six > 0:
		return six
	}
	return a.BitLen()
}
