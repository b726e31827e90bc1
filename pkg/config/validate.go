package config

import (
	"errors"
	"fmt"
	"net"
	"path"
	"strconv"
	"strings"
)

// Validate checks the settings against each other and returns everything that is wrong, joined, each line naming the
// settings as the user spelt them. Settings that Load could not read are left out.
func (l *Loaded) Validate() error {
	var problems []error
	for _, check := range []func() []error{l.checkModes, l.checkServices, l.checkElection, l.checkPorts, l.checkBGP} {
		problems = append(problems, check()...)
	}
	return errors.Join(problems...)
}

func (l *Loaded) anyBad(names ...string) bool {
	for _, name := range names {
		if l.bad[name] {
			return true
		}
	}
	return false
}

// checkModes wants something to do, and one way to do it.
func (l *Loaded) checkModes() (problems []error) {
	c := l.Config
	say := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.ARP.Enable && c.BGP.Enable {
		say("%s and %s exclude each other: announce by one of them", l.at("arp"), l.at("bgp"))
	}
	switch given := len(c.ControlPlane.Addresses) > 0; {
	case l.anyBad("controlplane", "address", "services"):
	case c.ControlPlane.Enable && !given:
		say("%s: the control plane has no address: give the VIP as --address (env address)", l.at("controlplane"))
	case c.ControlPlane.Enable || c.Services.Enable:
	case given && l.isSet("controlplane"):
		say("nothing to do: %s, although %s gives a VIP: set it to true", l.at("controlplane"), l.spelt("address"))
	default:
		say("nothing to do: for a VIP of the control plane give --address (env address), for those of Services --services (env svc_enable=true)")
	}
	if (c.ControlPlane.Enable || c.Services.Enable) && !c.ARP.Enable && !c.BGP.Enable && !l.anyBad("arp", "bgp", "controlplane") {
		say("nothing announces the VIP: set --arp (env vip_arp=true)%s", l.otherMode())
	}
	return problems
}

func (l *Loaded) checkServices() (problems []error) {
	c := l.Config
	if !c.Services.Enable {
		return nil
	}
	if c.Services.Election != (c.Services.Placement == PlacementLease) && !l.anyBad("servicesElection", "servicesPlacement") {
		problems = append(problems, fmt.Errorf("%s and %s contradict each other: keep one of them", l.at("servicesElection"), l.at("servicesPlacement")))
	}
	in := func(lease string) string {
		if strings.Contains(lease, "/") {
			return lease
		}
		return c.Kubernetes.Namespace + "/" + lease
	}
	if !c.ControlPlane.Enable || l.anyBad("leaseName", "servicesLeaseName", "namespace") {
		return problems
	}
	one, other := in(c.Election.LeaseName), in(c.Services.LeaseName)
	switch {
	case one == other:
		problems = append(problems, fmt.Errorf("%s and %s are the same Lease: one election for the control plane and Services is not supported yet by this version; give each its own",
			l.at("leaseName"), l.at("servicesLeaseName")))
	case path.Base(one) == path.Base(other):
		problems = append(problems, fmt.Errorf("%s and %s have one name, and metrics tell Leases apart by name alone: give each its own",
			l.at("leaseName"), l.at("servicesLeaseName")))
	}
	return problems
}

// otherMode mentions a way of announcing that was asked for and is not supported.
func (l *Loaded) otherMode() string {
	for _, name := range []string{tableEnv, wireguardEnv} {
		if spelt := l.wants(name); spelt != "" {
			return fmt.Sprintf(" in place of %s, which is not supported yet by this version", spelt)
		}
	}
	return ""
}

func (l *Loaded) checkElection() (problems []error) {
	e := l.Config.Election
	if !e.Enable && !l.Config.Services.Enable || l.anyBad("leaseDuration", "leaseRenewDuration", "leaseRetry") {
		return nil
	}
	duration, renew, retry := l.at("leaseDuration"), l.at("leaseRenewDuration"), l.at("leaseRetry")
	if e.RenewDeadline <= e.RetryPeriod {
		problems = append(problems, fmt.Errorf("%s must be more than %s: or there is no second attempt to renew the Lease", renew, retry))
	}
	if e.LeaseDuration <= e.RenewDeadline+e.RetryPeriod {
		problems = append(problems, fmt.Errorf("%s must be more than %s and %s together: a holder that cannot renew must be rid of the VIP before another may take the Lease",
			duration, renew, retry))
	}
	return problems
}

// checkPorts finds listeners that would meet on this host, whose network a pod shares.
func (l *Loaded) checkPorts() (problems []error) {
	c := l.Config
	if l.anyBad("port", "prometheusHTTPServer", "healthCheckPort") {
		return nil
	}
	clash := func(a, b string) {
		problems = append(problems, fmt.Errorf("%s and %s want the same port of this host", l.at(a), l.at(b)))
	}
	metrics := 0
	if _, port, err := net.SplitHostPort(c.Observe.PrometheusServer); err == nil {
		metrics, _ = strconv.Atoi(port)
	}
	if metrics != 0 && metrics == c.Observe.HealthCheckPort {
		clash("prometheusHTTPServer", "healthCheckPort")
	}
	if c.ControlPlane.Enable && metrics == int(c.ControlPlane.Port) {
		clash("port", "prometheusHTTPServer")
	}
	if c.ControlPlane.Enable && c.Observe.HealthCheckPort == int(c.ControlPlane.Port) {
		clash("port", "healthCheckPort")
	}
	return problems
}

func (l *Loaded) checkBGP() (problems []error) {
	b := l.Config.BGP
	if !b.Enable {
		return nil
	}
	say := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if b.AS == 0 && b.Annotations == "" {
		say("%s: BGP needs an AS number from 1 to 4294967295", l.at("localAS"))
	}
	if b.Peers == "" && b.PeerAddress == "" && b.PeersFile == "" && b.Annotations == "" && !l.anyBad("bgppeers", "peerAddress", "bgpPeersFile", "annotations") {
		say("BGP needs a peer: give --bgppeers (env bgp_peers) as addr:AS, or --peerAddress (env bgp_peeraddress)")
	}
	if b.PeerAddress != "" && b.PeerAS == 0 {
		say("%s: the peer %s needs an AS number from 1 to 4294967295", l.at("peerAS"), b.PeerAddress)
		b.PeerAddress = ""
	}
	if b.SourceIP.IsValid() && b.SourceInterface != "" {
		say("%s and %s exclude each other: keep one of them", l.at("sourceIP"), l.at("sourceIF"))
	}
	switch hold, keep := b.HoldTime.Seconds(), b.KeepaliveInterval.Seconds(); {
	case l.anyBad("bgpHoldTimer", "bgpKeepAliveInterval"):
	case hold != 0 && hold < 3:
		say("%s must be 0 or at least 3 (RFC 4271 section 4.2)", l.at("bgpHoldTimer"))
	case hold != 0 && keep >= hold:
		say("%s must be less than %s", l.at("bgpKeepAliveInterval"), l.at("bgpHoldTimer"))
	}
	return append(problems, l.checkPeers(b)...)
}

// checkPeers looks at what the settings say of peers. The peers file is not read: it may be on another host.
func (l *Loaded) checkPeers(b BGP) (problems []error) {
	if b.PeersFile == "" && !l.anyBad("bgpPeersFile", "bgpCommunityNames") {
		for _, of := range []struct {
			setting string
			list    []string
		}{{"bgpCommunities", b.Communities}, {"bgpLargeCommunities", b.LargeCommunities}} {
			if _, _, err := b.CommunityNames.split(of.list); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", l.spelt(of.setting), err))
			}
		}
	}
	if l.anyBad("bgppeers", "peerAddress", "peerAS", "sourceIP", "sourceIF", "mpbgpNexthop", "mpbgpIPv4", "mpbgpIPv6") {
		return problems
	}
	// Said once above, not of every peer.
	b.Communities, b.LargeCommunities, b.PeersFile = nil, nil, ""
	if _, err := b.PeersWith(PeersFile{}); err != nil {
		problems = append(problems, err)
	}
	return problems
}
