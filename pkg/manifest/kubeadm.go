package manifest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kubeadmapi "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	kubeadmscheme "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/scheme"
	"sigs.k8s.io/yaml"
)

// Kubeadm is what a kubeadm configuration file says about the control plane's address.
type Kubeadm struct {
	cluster *kubeadmapi.ClusterConfiguration // nil when the file does not say
	join    *kubeadmapi.JoinConfiguration    // nil when the file does not say
	// local is this node's API server; nil when the file does not say, or when this node gets none.
	local      *kubeadmapi.APIEndpoint
	localField string
	proxy      KubeProxy
}

// KubeProxy is what a KubeProxyConfiguration (kubeproxy.config.k8s.io) says, as far as it bears on virtual IPs.
type KubeProxy struct {
	Mode string `json:"mode"`
	IPVS struct {
		StrictARP bool `json:"strictARP"`
	} `json:"ipvs"`
}

// Proxy is kube-proxy's configuration; its zero value when the file does not say.
func (k *Kubeadm) Proxy() KubeProxy { return k.proxy }

// Discovery is how a node that joins finds its cluster, and what makes it trust it.
type Discovery struct {
	// Endpoint, Token, Pins and Unpinned are the fields of discovery.bootstrapToken.
	Endpoint, Token string
	Pins            []string
	Unpinned        bool
	// File is discovery.file.kubeConfigPath; it may be a URL.
	File string
	// User is discovery.tlsBootstrapToken, which is that of discovery.bootstrapToken unless it is set.
	User string
}

// Discovery is that of the JoinConfiguration; its zero value when there is none.
func (k *Kubeadm) Discovery() (d Discovery) {
	if k.join == nil {
		return d
	}
	d.User = k.join.Discovery.TLSBootstrapToken
	if b := k.join.Discovery.BootstrapToken; b != nil {
		d.Endpoint, d.Token, d.Pins, d.Unpinned = b.APIServerEndpoint, b.Token, b.CACertHashes, b.UnsafeSkipCAVerification
	}
	if f := k.join.Discovery.File; f != nil {
		d.File = f.KubeConfigPath
	}
	return d
}

// IsKubeconfig tells a kubeconfig (kind: Config) from kubeadm's configuration.
func IsKubeconfig(data []byte) bool {
	var meta metav1.TypeMeta
	return yaml.Unmarshal(data, &meta) == nil && meta.Kind == "Config" && meta.APIVersion == "v1"
}

// ParseKubeadm reads the documents of a file that kubeadm's --config takes, YAML or JSON, as strictly as kubeadm
// does: an unknown field or a version that kubeadm's types do not have is an error. Documents of other programs
// (KubeletConfiguration, KubeProxyConfiguration) are not checked. All problems of the file are reported at once.
func ParseKubeadm(data []byte) (*Kubeadm, error) {
	if IsKubeconfig(data) {
		return nil, errors.New("this is a kubeconfig (kind: Config); want kubeadm's configuration, with an InitConfiguration, ClusterConfiguration or JoinConfiguration")
	}
	var (
		k        Kubeadm
		init     *kubeadmapi.InitConfiguration
		problems []error
		others   []string
		seen     = map[string]bool{}
		decoder  = serializer.NewCodecFactory(kubeadmscheme.Scheme, serializer.EnableStrict).UniversalDecoder()
		reader   = utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	)
	for n := 1; ; n++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		kind, object, err := decodeKubeadm(decoder, document)
		if err != nil {
			problems = append(problems, problemsOf(err, fmt.Sprintf("document %d", n), kind)...)
			continue
		}
		if object == nil {
			if kind != "" {
				others = append(others, kind)
			}
			if kind == "KubeProxyConfiguration" {
				if err := yaml.Unmarshal(document, &k.proxy); err != nil {
					problems = append(problems, fmt.Errorf("document %d, %s: %w", n, kind, err))
				}
			}
			continue
		}
		if seen[kind] {
			problems = append(problems, fmt.Errorf("document %d: a second %s; kubeadm takes one of each", n, kind))
			continue
		}
		seen[kind] = true
		switch object := object.(type) {
		case *kubeadmapi.InitConfiguration:
			init = object
		case *kubeadmapi.ClusterConfiguration:
			k.cluster = object
		case *kubeadmapi.JoinConfiguration:
			k.join = object
		default:
			others = append(others, kind)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}

	switch {
	case init == nil && k.cluster == nil && k.join == nil && len(others) > 0:
		return nil, fmt.Errorf("no InitConfiguration, ClusterConfiguration or JoinConfiguration in it, only %s", strings.Join(others, ", "))
	case init == nil && k.cluster == nil && k.join == nil:
		return nil, errors.New("no InitConfiguration, ClusterConfiguration or JoinConfiguration in it")
	case init != nil:
		k.local, k.localField = &init.LocalAPIEndpoint, "localAPIEndpoint"
	case k.join != nil && k.join.ControlPlane != nil:
		k.local, k.localField = &k.join.ControlPlane.LocalAPIEndpoint, "controlPlane.localAPIEndpoint"
	}
	if init != nil && k.cluster == nil {
		// `kubeadm init` goes by its defaults for what the file leaves out.
		_, object, err := decodeKubeadm(decoder, []byte("apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n"))
		if err != nil {
			return nil, fmt.Errorf("default ClusterConfiguration: %w", err)
		}
		k.cluster = object.(*kubeadmapi.ClusterConfiguration)
	}
	return &k, nil
}

// decodeKubeadm is one document in kubeadm's internal version with its defaults filled in; nil for one of another
// program, and the kind is empty as well for one that holds nothing.
func decodeKubeadm(decoder runtime.Decoder, document []byte) (kind string, object runtime.Object, err error) {
	var fields map[string]any
	if err := yaml.Unmarshal(document, &fields); err != nil {
		return "", nil, fmt.Errorf("not a YAML or JSON object: %w", err)
	}
	if len(fields) == 0 {
		return "", nil, nil
	}
	kind, _ = fields["kind"].(string)
	apiVersion, _ := fields["apiVersion"].(string)
	if kind == "" || apiVersion == "" {
		return kind, nil, errors.New("apiVersion and kind must both be given, apiVersion: kubeadm.k8s.io/v1beta4 and kind: ClusterConfiguration for example")
	}
	version, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return kind, nil, err
	}
	if version.Group != kubeadmapi.GroupName {
		return kind, nil, nil
	}
	if supported := kubeadmscheme.Scheme.PrioritizedVersionsForGroup(kubeadmapi.GroupName); !slices.Contains(supported, version) {
		var names []string
		for _, v := range supported {
			names = append(names, v.String())
		}
		return kind, nil, fmt.Errorf("apiVersion %s is not supported, %s are; `kubeadm config migrate --old-config FILE` rewrites older ones", apiVersion, strings.Join(names, " and "))
	}
	if !kubeadmscheme.Scheme.Recognizes(version.WithKind(kind)) {
		return kind, nil, fmt.Errorf("%s knows no such kind", apiVersion)
	}
	object, err = runtime.Decode(decoder, document)
	return kind, object, err
}

// problemsOf is each problem of a document with the place where it is.
func problemsOf(err error, place, kind string) []error {
	if kind != "" {
		place += ", " + kind
	}
	strict, isStrict := runtime.AsStrictDecodingError(err)
	if !isStrict {
		return []error{fmt.Errorf("%s: %w", place, err)}
	}
	var problems []error
	for _, problem := range strict.Errors() {
		problems = append(problems, fmt.Errorf("%s: %w", place, problem))
	}
	return problems
}

// Asked is what was asked for beside the kubeadm file, with the spelling of the settings that said so.
type Asked struct {
	// Addresses of the control plane; none means the file's.
	Addresses     []string
	AddressesFrom string
	// Port of the API server; 0 means the file's.
	Port     uint16
	PortFrom string
}

// Endpoint is the control plane's addresses and port, from what was asked for or else from the file; port is 0
// when neither says anything of it. The error is all that does not agree, each problem naming kubeadm's field;
// addresses and port are there beside it unless nobody says what they are.
func (k *Kubeadm) Endpoint(asked Asked) (addresses []string, port uint16, err error) {
	endpoint, err := k.endpoint()
	if err != nil {
		return nil, 0, err
	}
	addresses, from := asked.Addresses, asked.AddressesFrom
	if len(addresses) == 0 {
		if endpoint.host == "" {
			return nil, 0, k.noEndpoint()
		}
		addresses, from = []string{endpoint.host}, endpoint.field
	}

	var problems []error
	behind := slices.ContainsFunc(addresses, endpoint.is)
	port = asked.Port
	switch {
	case behind && port == 0:
		port = endpoint.port
	case behind && endpoint.port != 0 && port != endpoint.port:
		problems = append(problems, fmt.Errorf("%s is %d, but %s is %s: clients would ask the virtual IP at port %d", asked.PortFrom, port, endpoint.field, endpoint.written, endpoint.port))
		port = endpoint.port
	}
	if k.local != nil {
		bound := uint16(k.local.BindPort)
		switch {
		case int32(bound) != k.local.BindPort || bound == 0:
			problems = append(problems, fmt.Errorf("%s.bindPort %d is not a port (want 1 to 65535)", k.localField, k.local.BindPort))
		case port == 0:
			port = bound
		case port != bound && behind && port == endpoint.port:
			problems = append(problems, fmt.Errorf("%s is %s, but %s.bindPort is %d: nothing would answer at the virtual IP's port %d", endpoint.field, endpoint.written, k.localField, bound, port))
		case port != bound:
			problems = append(problems, fmt.Errorf("%s is %d, but %s.bindPort is %d: nothing would answer at the virtual IP's port %d", asked.PortFrom, port, k.localField, bound, port))
		}
	}
	for _, address := range addresses {
		problems = append(problems, k.check(address, from, endpoint)...)
	}
	return addresses, port, errors.Join(problems...)
}

// check is what is wrong with one address of the control plane.
func (k *Kubeadm) check(address, from string, endpoint endpoint) (problems []error) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	ip, notIP := netip.ParseAddr(address)
	isIP := notIP == nil
	ip = ip.Unmap()
	own := isIP && k.local != nil && sameHost(k.local.AdvertiseAddress, address)
	if own {
		problem("%s.advertiseAddress is %s, the virtual IP (%s): want an address of this node alone", k.localField, k.local.AdvertiseAddress, from)
	}
	if k.cluster == nil {
		return problems
	}
	// kubeadm puts the endpoint and the node's own address into the certificate by itself.
	if !own && !endpoint.is(address) && !slices.ContainsFunc(k.cluster.APIServer.CertSANs, func(san string) bool { return covers(san, address) }) {
		problem("apiServer.certSANs lacks %s (%s), which is not the controlPlaneEndpoint either: the API server's certificate would not be valid for it", address, from)
	}
	if isIP {
		networks := []struct{ field, value string }{
			{"networking.podSubnet", k.cluster.Networking.PodSubnet},
			{"networking.serviceSubnet", k.cluster.Networking.ServiceSubnet},
		}
		for _, network := range networks {
			for _, subnet := range strings.Split(network.value, ",") {
				subnet = strings.TrimSpace(subnet)
				if prefix, err := netip.ParsePrefix(subnet); err == nil && prefix.Contains(ip) {
					problem("%s %s contains %s (%s): the virtual IP must be outside the cluster's own networks", network.field, subnet, address, from)
				}
			}
		}
	}
	return problems
}

func (k *Kubeadm) noEndpoint() error {
	switch {
	case k.cluster != nil:
		return errors.New("controlPlaneEndpoint is not set: set it to the virtual IP, or give --address")
	case k.join.Discovery.File != nil:
		return errors.New("discovery.file does not say the control plane's address: give --address")
	default:
		return errors.New("discovery.bootstrapToken.apiServerEndpoint is not set: set it to the virtual IP, or give --address")
	}
}

// endpoint is where the file says that clients find the control plane. The zero endpoint is nowhere.
type endpoint struct {
	field   string // kubeadm's name for it
	written string
	host    string // an IP address in its canonical form, or a name
	port    uint16 // 0: unknown
}

// is reports whether an address, as it was written, is the endpoint.
func (e endpoint) is(address string) bool { return e.host != "" && sameHost(e.host, address) }

func (k *Kubeadm) endpoint() (endpoint, error) {
	var e endpoint
	switch {
	case k.cluster != nil && k.cluster.ControlPlaneEndpoint != "":
		e = endpoint{field: "controlPlaneEndpoint", written: k.cluster.ControlPlaneEndpoint}
	case k.join != nil && k.join.Discovery.BootstrapToken != nil && k.join.Discovery.BootstrapToken.APIServerEndpoint != "":
		e = endpoint{field: "discovery.bootstrapToken.apiServerEndpoint", written: k.join.Discovery.BootstrapToken.APIServerEndpoint}
	default:
		return endpoint{}, nil
	}
	host, port, err := splitHostPort(e.written)
	if err != nil {
		return endpoint{}, fmt.Errorf("%s %q: %w", e.field, e.written, err)
	}
	e.host, e.port = host, port
	if port == 0 && k.local != nil {
		// What kubeadm does with an endpoint that has no port.
		e.port = uint16(k.local.BindPort)
	}
	return e, nil
}

// splitHostPort reads a host with an optional port: an IP address, IPv6 in brackets or bare, or a DNS name.
func splitHostPort(s string) (host string, port uint16, err error) {
	host = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	if h, p, err := net.SplitHostPort(s); err == nil && !strings.Contains(s, "/") {
		number, err := strconv.ParseUint(p, 10, 16)
		if err != nil || number == 0 {
			return "", 0, fmt.Errorf("%q is not a port (want 1 to 65535)", p)
		}
		host, port = h, uint16(number)
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Zone() == "" {
		return ip.Unmap().String(), port, nil
	}
	if len(validation.IsDNS1123Subdomain(strings.ToLower(host))) > 0 {
		return "", 0, errors.New("want an IP address or a DNS name, with an optional port: 10.0.0.10:6443, [fd00::10]:6443 or k8s.example.com:6443")
	}
	return host, port, nil
}

// covers reports whether a subject alternative name makes a certificate valid for a host. A wildcard stands for
// one label (RFC 6125, section 6.4.3).
func covers(san, host string) bool {
	if sameHost(san, host) {
		return true
	}
	suffix, wildcard := strings.CutPrefix(san, "*.")
	if !wildcard {
		return false
	}
	_, rest, found := strings.Cut(host, ".")
	_, notIP := netip.ParseAddr(host)
	return found && notIP != nil && strings.EqualFold(rest, suffix)
}

func sameHost(a, b string) bool {
	ipA, errA := netip.ParseAddr(a)
	ipB, errB := netip.ParseAddr(b)
	if errA == nil && errB == nil {
		return ipA.Unmap() == ipB.Unmap()
	}
	return strings.EqualFold(a, b)
}
