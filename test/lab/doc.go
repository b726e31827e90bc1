// Package lab is a small cluster for tests and the demo: hosts as Linux network namespaces on one bridge, each
// node with a real etcd member and a real kube-apiserver, a client beside them, a runner that starts what a
// manifest says, faults, and instruments that measure what a client and the wire see.
//
//	func TestFailover(t *testing.T) {
//		l := lab.New(t, lab.Options{})                    // 3 nodes cp1..cp3, 10.10.0.11-13, VIP 10.10.0.10; cluster is ready
//		pods := make([]*lab.Pod, len(l.Nodes))
//		for i, n := range l.Nodes {
//			pods[i], err = n.RunManifest(yaml, lab.Binary(t), lab.PodOptions{})
//		}
//		node, err := l.WaitHolder(ctx, l.VIPs[0])         // exactly one node has the address
//		gap, err := l.Client.StartGap(ctx, lab.GapOptions{Target: netip.AddrPortFrom(l.VIPs[0], 6443)})
//		err = node.Crash()
//		_, err = l.WaitHolder(ctx, l.VIPs[0])
//		result := gap.Stop()                              // result.Longest, .Failed, .Timeline()
//	}
//
// # Lab
//
// New(t, Options) skips the test where the machine lacks a privilege or a part, and fails it when CI is set in the
// environment; it removes everything at the end of the test and prints the tails of all logs if that failed.
// Start(ctx, Options) is the same for programs (the demo); they call Close. A program or TestMain that begins with
// Main can also run without root, in a user namespace, where the kernel allows that.
//
//	Options{Nodes, ControlPlanes, Family (IPv4, IPv6, Dual), Wide, VIPs, Endpoint, SANs, NodeLabels, NoVIPInCert, NoCluster, NoClusterAdmins, KubeProxy, RSA, Parts, Log}
//	Lab.Nodes []*Node, Lab.Client, Lab.Watcher, Lab.Gateway *Host, Lab.VIPs []netip.Addr, Lab.Dir
//	Lab.Kube() (kubernetes.Interface, error)              // super-admin, at the first node whose API server is ready
//	Lab.Config(host, server) *rest.Config                 // super-admin, dialled from that host's namespace
//	Lab.CA() []byte, Lab.BindClusterAdmins(ctx) error, Lab.Logs() string
//	Lab.ServiceSubnets(), .PodSubnets() string, Node.PodCIDRs() []netip.Prefix
//	Lab.Adopt(kubeconfig) error                           // a cluster that the test made on nodes without one (NoCluster)
//	Lab.Holders(vip) ([]*Node, error)                     // nodes that are up and have the address on a link
//	Lab.WaitHolder(ctx, vip) (*Node, error)               // until exactly one of them
//	Lab.WaitNobody(ctx, vip) error
//	Wait(ctx, what, cond func() (bool, error)) error      // any other condition
//	Need(t, reason), Tool(name), Binary(t)                // skip, or fail in CI; a command; bin/kube-vip
//
// # Host
//
// A namespace with eth0 on the bridge. Sockets and processes can be made in it.
//
//	Host.Name, .Addr() netip.Addr, .Addrs []netip.Prefix, .Link, .MAC, .Netns (name for `ip netns exec`)
//	Host.DialContext(ctx, "tcp", "addr:port"), Host.HTTPClient(tlsConfig), Host.Listen("addr:port")
//	Host.Do(func() error) error                           // on a thread of its own in the namespace
//	Host.Run(ctx, "ip", "addr") (string, error), Host.Spawn(Spec) (*Process, error)
//	Host.Addresses() ([]Address, error), Host.Has(addr)   // with IFA_PROTO, lifetimes, flags
//	Host.AddAddress(link, prefix), Host.RemoveAddress(link, prefix), Host.Links(), Host.Sysctl(name, value)
//	Host.Cut() / Host.Heal()                              // frames are lost, the carrier stays
//	Host.CarrierDown() / Host.CarrierUp()
//	Host.KernelRoute(prefix) ([]netip.Addr, error)        // next hops of the route for just this prefix; several are ECMP
//	Host.KernelRoutes() (map[netip.Prefix][]netip.Addr, error)   // those of routing daemons
//
// # Node
//
// A Host with etcd, kube-apiserver and /etc/kubernetes of its own. With Options.ControlPlanes, one API server for
// several nodes, the others are workers: no servers and no kubeconfig, for pods of DaemonSets.
//
//	Node.Path("/etc/kubernetes/admin.conf")               // where the node's file is on this machine
//	Node.KubeadmConfig                                    // file: the configuration that kubeadm was given
//	Node.Kube() (kubernetes.Interface, error)             // super-admin at this node's API server
//	Node.Apply(ctx, yaml, dryRun) error                   // server-side apply of every document
//	Node.API, Node.Etcd, Node.Proxy: *Server{Start, Kill, Hang, Continue, Running, Pid, Log, WaitReady}
//	Node.Crash() / Node.Boot(ctx)                         // link dead and every process killed / up again, static pods too
//	Node.Crashed() bool
//	Node.Pause() / Node.Resume()                          // SIGSTOP and SIGCONT to every process; the kernel keeps answering
//	Node.DeleteLink() / Node.CreateLink()                 // eth0 goes and comes back with another index
//	Node.APIAway(ctx, scope) / Node.APIBack(ctx)          // drops what the node sends to API servers: AllAPIs, OtherAPIs
//
// # Services
//
// Options.KubeProxy runs kube-proxy on every node, in nftables mode and with its defaults: it changes its rules once a
// second at most. It adds half a second to the start and 65 MiB to each node, and needs nft. Nodes are routers then, with
// the pods of node N in 10.244.N.0/24 and fd00:10:244:N::/64 and routes to those of the others; nothing masquerades what
// pods send out of the cluster. There are no controllers: what a Service's status and EndpointSlices say is written by
// the test, or by what it tries.
//
//	func TestService(t *testing.T) {
//		l := lab.New(t, lab.Options{KubeProxy: true})
//		web, err := l.Nodes[1].RunBackend(ctx, "web")     // 10.244.2.2, TCP and UDP port 8080
//		svc, err := l.CreateService(ctx, "web", map[string]string{"kube-vip.io/loadbalancerIPs": "10.10.0.50"})
//		err = svc.SetEndpoints(ctx, lab.Ready(web))
//		err = lab.Wait(ctx, "web answers", func() (bool, error) {
//			answer, err := l.Client.Ask(ctx, "tcp", netip.MustParseAddrPort("10.10.0.50:80"))
//			return err == nil && answer.Backend == "web", nil
//		})
//	}
//
//	Node.RunBackend(ctx, name, ports ...uint16) (*Backend, error)   // returns when it answers its node; Main is needed
//	Backend{*Host, Node, Ports}, .Kill() error, .Stop() error       // its process; the whole pod. Crash, Boot and Pause take it along
//	Lab.CreateService(ctx, name, annotations, change ...func(*corev1.Service)) (*Service, error)   // port 80 to 8080, TCP and UDP
//	Service{Namespace, Name}, .Get(ctx), .Change(ctx, func(*corev1.Service)) error, .Delete(ctx) error
//	Service.SetIngress(ctx, ...netip.Addr) error                    // status.loadBalancer.ingress
//	Service.SetEndpoints(ctx, slices ...[]Endpoint) error           // an EndpointSlice for each argument and family, no others
//	Ready(backends...), NotReady(backends...), Terminating(backends...) []Endpoint; Endpoint{Backend, Ready, Serving, Terminating}
//	Host.Ask(ctx, "tcp" or "udp", addrPort) (Answer{Backend, Client}, error)   // who answers, and whom that one sees
//
// A Gap at a Service's address counts connections that a backend's kernel accepts, with HTTP what the backend answers.
//
// # Pod runner
//
//	Node.RunManifest(yaml, imageBinary, PodOptions{}) (*Pod, error)
//
// takes a Pod, a DaemonSet, or several documents of which one is either (the others are ignored), strictly typed.
// The binary becomes /kube-vip in a root of its own that has nothing but what a container has: the mounts of the
// manifest (resolved against Node.Path), /etc/hosts with hostAliases, /proc, /sys, /dev, a service account's files
// for a DaemonSet, read-only if it says so, with the capabilities it lists and no others. A mount that is not there
// yet is waited for (Pod.Waiting). The container is restarted as the kubelet does it (1 s, then 10, 20, 40 s …), its
// probes are called, a DaemonSet has to select and tolerate the node. What is not done: a PID namespace, seccomp,
// resource limits, image pulls; a manifest that asks for something else that the runner does not know is refused.
//
//	PodOptions{NoRestart, RestartDelay, BackOff, NoProbes, Kubernetes, Env}
//	Pod.Pid(), .Running(), .Restarts(), .ExitCode(), .Waiting(), .Ready()
//	Pod.Stop() error                                      // as removing the manifest: SIGTERM, grace, SIGKILL (an error)
//	Pod.Kill() error, .Signal(sig) error                  // the kubelet's part restarts it
//	Pod.Output() []Line, .WaitLog(ctx, text) (Line, error), .WaitLogSince(ctx, time, text)
//	Pod.WaitReady(ctx), .WaitRunning(ctx, restart)
//	Pod.Usage() (Usage, error), .CPU(ctx, over) (share of a core), .Get(ctx, url), .Metrics(ctx, url), .Goroutines(ctx, url)
//
// # Routers
//
// A Router is a host with FRR or BIRD between the lab's network and a client's. It imports all that its neighbours say,
// wherever their AS path leads, goes by up to 16 next hops at once (by addresses and ports), and heeds GRACEFUL_SHUTDOWN.
// Its programs are the distribution's; they belong to the router alone and end with it. CheckRouter says what is missing.
//
//	func TestBGP(t *testing.T) {
//		lab.Need(t, lab.CheckRouter(lab.FRR))
//		l := lab.New(t, lab.Options{})
//		router, err := l.StartRouter(ctx, lab.RouterOptions{Kind: lab.FRR, Neighbors: l.NodeNeighbors(lab.Neighbor{AS: 65001})})
//		watch, err := router.WatchRoutes()
//		…                                                 // what is tried announces the VIP on cp1 and cp2
//		err = router.WaitRoute(ctx, vip, l.Nodes[0].Addr(), l.Nodes[1].Addr())
//		gap, err := router.Client.StartGap(ctx, lab.GapOptions{Target: netip.AddrPortFrom(vip.Addr(), 6443)})
//		begin := time.Now()
//		err = l.Nodes[0].Crash()
//		event, err := watch.Wait(ctx, begin, vip, l.Nodes[1].Addr())   // event.Time.Sub(begin) is how long it took
//	}
//
//	RouterOptions{Kind (FRR, BIRD), Name, AS (65000), ID, Port, MaxPaths, Announce, Neighbors, Extra}
//	Neighbor{Addr, Range or Interface; AS, LocalAS, Source, Port, Password, Multihop, TTLSecurity, Passive, Hold, Keepalive, Family,
//		ExtendedNextHop, BFD *BFDIntervals{Transmit, Receive, Multiplier}, GracefulRestart, Extra, FamilyExtra}
//	Lab.StartRouter(ctx, RouterOptions) (*Router, error)  // 10.10.0.200, its client 10.20.0.2; the next one .201 and 10.20.1.2
//	Lab.NodeNeighbors(Neighbor) []Neighbor                // one for each node
//	Router{*Host, Kind, Client *Host}
//	Router.Cable(host) (own, theirs string, err error)    // a link of their own with link-local addresses only, for "unnumbered"
//	Router.Configure(ctx, func(*RouterOptions)) error     // while it runs; sessions of which nothing changes stay
//	Router.Start(ctx), .Stop(), .Kill()                   // the program; Kill leaves the routes in the kernel
//	Router.Pause(), .Resume() error                       // SIGSTOP and SIGCONT to the program
//	Router.Routes(ctx, prefix) ([]Route{From, NextHops, ASPath, LocalPref, MED, Communities, …}, error)   // as BGP has them
//	Router.Sessions(ctx) ([]Session{Peer, State, Since, Hold, Capabilities, Accepted, Flaps, Reason}, error), .Session(ctx, peer)
//	Router.BFD(ctx) ([]BFDSession{Peer, State, Transmit, Detection, …}, error)
//	Router.Changes() ([]SessionChange{Time, Peer, Up, Reason}, error)   // from the log
//	Router.WaitSessions(ctx, peers...), .WaitRoute(ctx, prefix, nexthops...) error   // exactly these
//	Router.ResetSession(ctx, peer) error, .Command(ctx, line) (string, error)        // vtysh or birdc
//
// # Instruments
//
//	Host.StartGap(ctx, GapOptions{Target, Interval, Timeout, TLS, HTTP}) (*Gap, error)   // returns after a first success
//	Gap.Stop() GapResult, Gap.Result(), Gap.WaitFor(ctx, since)
//	GapResult{Longest, From, To, Failed, Attempts, Lag}, .String(), .Causes(), .Timeline(width), .Cells(from, to, width)
//	Host.Capture(link) (*Capture, error)                  // ARP, NS and NA frames; Frames(), Wait(ctx, what, match), Lost(), Close()
//	Host.CaptureFunc(link, func(Frame)) (*Capture, error) // for thousands of addresses: nothing is kept
//	Host.CapturePackets(link, ports...) (*PacketCapture, error)   // TCP and UDP; Packets(), Wait(ctx, what, match), Close()
//	Host.WatchAddresses() (*AddressWatch, error)          // the kernel's notifications; Events(), Err(), Close()
//	Host.WatchAddressesFunc(func(AddressEvent)) (*AddressWatch, error)
//	Host.WatchRoutes() (*RouteWatch, error)               // Events(prefix), Wait(ctx, since, prefix, nexthops...), Err(), Close()
//	Host.WatchRoutesFunc(func(RouteEvent)) (*RouteWatch, error)
//	Lab.Names(addrs) []string                             // whose addresses they are
//	Lab.WhoAnswers(ctx, vip) ([]string, error)            // the names of the hosts that answer an ARP request or NS
//	Lab.WatchAnswers(vip, every) (*AnswerWatch, error); .Answers(), .Stop() Answers{Samples, Max, Overlap, Silence, Owners}
//
// A Gap without TLS and HTTP is a TCP connection, which the kernel accepts for a server that hangs: measure that with one
// of them. All figures are those of a program on the same machine; GapResult.Lag says by how much it was late itself.
package lab
