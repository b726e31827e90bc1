package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// derive sets what follows from other settings.
func (l *Loaded) derive() {
	c := &l.Config
	elsewhere := c.Services.Enable || l.wants(wireguardEnv) != "" || l.wants(tableEnv) != ""
	if len(c.ControlPlane.Addresses) > 0 && !l.isSet("controlplane") && !elsewhere {
		c.ControlPlane.Enable = true
		l.derived("controlplane", l.spelt("address")+" is given and nothing else is enabled")
	}
	if !l.anyBad("servicesElection", "servicesPlacement") {
		l.derivePlacement()
	}
	if c.ARP.Enable && !c.Election.Enable && !l.bad["leaderElection"] {
		if l.isSet("leaderElection") {
			l.warn("%s has no effect: ARP always elects a leader", l.at("leaderElection"))
		}
		c.Election.Enable = true
		l.derived("leaderElection", "ARP always elects a leader")
	}
	if c.ARP.Rate < minRate && !l.bad["arpRate"] {
		l.warn("%s is below the minimum of %d ms; %d is used", l.at("arpRate"), minRate.Milliseconds(), defaultRate.Milliseconds())
		l.derived("arpRate", fmt.Sprintf("%s is below the minimum of %d ms", l.at("arpRate"), minRate.Milliseconds()))
		c.ARP.Rate = defaultRate
	}
}

// derivePlacement makes both names of the placement say the same, where one of them was given alone.
func (l *Loaded) derivePlacement() {
	s := &l.Config.Services
	switch election, placement := l.isSet("servicesElection"), l.isSet("servicesPlacement"); {
	case election && !placement && s.Election:
		s.Placement = PlacementLease
		l.derived("servicesPlacement", l.at("servicesElection"))
	case placement && !election && s.Placement == PlacementLease:
		s.Election = true
		l.derived("servicesElection", l.at("servicesPlacement"))
	}
}

// settle derives, and warns of what has no effect then. It may be called again when more is known.
func (l *Loaded) settle() {
	l.Warnings = l.Warnings[:l.lasting:l.lasting]
	l.derive()
	l.lasting = len(l.Warnings)
	c := &l.Config
	if c.Services.Enable && len(c.ControlPlane.Addresses) > 0 && !l.isSet("controlplane") && !l.bad["controlplane"] {
		l.warn("%s has no effect: beside %s the control plane's VIP needs --controlplane (env cp_enable=true)", l.spelt("address"), l.at("services"))
	}
	l.warnNextHops()
}

// warnNextHops tells of next hops that no peer has.
func (l *Loaded) warnNextHops() {
	b := l.Config.BGP
	fixed := b.NextHop.Mode == NextHopFixed || b.PeersFile != "" || strings.Contains(string(b.Peers), "mpbgp_nexthop="+NextHopFixed)
	for _, name := range []string{"mpbgpIPv4", "mpbgpIPv6"} {
		if l.isSet(name) && !fixed && b.Enable && !l.anyBad("mpbgpNexthop", "bgppeers", "bgpPeersFile") {
			l.warn("%s has no effect: it is for mpbgp_nexthop=%s", l.at(name), NextHopFixed)
		}
	}
}

// Announcements more often than every minRate would be noise; what asks for that gets defaultRate, as it always did.
const (
	minRate     = 500 * time.Millisecond
	defaultRate = 3000 * time.Millisecond
)

func (l *Loaded) derived(name, why string) {
	l.origins[name] = Origin{Layer: LayerDerived, Name: l.origins[name].Name, Why: why}
}

func (l *Loaded) warnPasswords() {
	warn := func(name string) {
		switch o := l.origins[name]; o.Layer {
		case LayerEnv:
			l.warn("%s: the BGP password is in clear text in the environment, for everyone to read who may read the pod; a config file can come from a Secret", o.Name)
		case LayerFlag:
			l.warn("%s: the BGP password is in clear text on the command line and in the manifest; a config file can come from a Secret", o.Name)
		}
	}
	if l.Config.BGP.PeerPassword != "" {
		warn("peerPass")
	}
	if hasPassword(string(l.Config.BGP.Peers)) {
		warn("bgppeers")
	}
}

// Supply sets a setting that the user did not set, from a source of its own such as kubeadm's configuration; why says which, for
// Origin. A setting that the user set stays as it is. The Warnings are those that Load would have given.
func (l *Loaded) Supply(name, value, why string) error {
	s, ok := find(name)
	if !ok {
		return fmt.Errorf("supply %s: there is no setting of this name", name)
	}
	if l.isSet(name) {
		return nil
	}
	if err := s.Value(&l.Config).Set(value); err != nil {
		return fmt.Errorf("%s: %w", why, err)
	}
	l.origins[name] = Origin{Layer: LayerDerived, Name: why, Why: why}
	l.settle()
	return nil
}

// wants returns the spelling of an unsupported setting that was switched on, else "".
func (l *Loaded) wants(name string) string {
	e := l.asked[name]
	if on, _ := strconv.ParseBool(e.text); on {
		return e.origin.spelt()
	}
	return ""
}
