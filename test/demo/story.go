package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"kube-vip.io/kube-vip/test/lab"
)

const (
	// patience bounds every wait: the longest, for a Lease to expire, takes a fifth of it.
	patience = 30 * time.Second
	// request bounds one question to the API; the VIP may just be moving.
	request = 3 * time.Second
	// calm is for how long the client is watched before something happens to the holder, and after it.
	calm    = 700 * time.Millisecond
	apiPort = 6443
	// The Lease that the generated manifest names.
	lockNamespace = "kube-system"
	lockName      = "plndr-cp-lock"
)

// A demo is a lab whose nodes run the generated manifest.
type demo struct {
	*lab.Lab
	screen   *screen
	image    string
	manifest []byte
	pods     map[*lab.Node]*lab.Pod
	// last and since are the holder and its time that were shown last.
	last  *lab.Node
	since time.Time
}

// demonstrate runs the demo. When it returns, nothing of it is left on the machine.
func demonstrate(ctx context.Context, s *screen, o options, getenv func(string) string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	image, err := program(self, getenv)
	if err != nil {
		return err
	}
	phases := &progress{screen: s}
	options := lab.Options{Family: o.family, Log: slog.New(phases)}
	if err := possible(options, self, getenv); err != nil {
		return err
	}

	s.write(s.paint(bold, "kube-vip: three API servers, one address, and four ways to lose who holds it") + "\n")
	s.say("One node at a time has the virtual IP (VIP) by which clients find the API.",
		"Everything runs in network namespaces of this machine and is removed at the", "end. Ctrl-C ends it sooner, and removes everything too.")

	s.heading("1  A cluster of three control-plane nodes")
	l, err := lab.Start(ctx, options)
	if err != nil {
		s.busy.end()
		if ctx.Err() != nil {
			s.gap()
			s.say("Interrupted: all of it is removed.")
		}
		return fmt.Errorf("start the cluster: %w", err)
	}
	phases.finish()
	d := &demo{Lab: l, screen: s, image: image, pods: map[*lab.Node]*lab.Pod{}}
	err = d.run(ctx, o)
	s.busy.end()
	s.gap()
	if ctx.Err() != nil {
		s.say("Interrupted.")
	}
	t := s.begin("Removing every process, namespace and file")
	if e := l.Close(); e != nil {
		t.end()
		return errors.Join(err, fmt.Errorf("remove the lab: %w", e))
	}
	t.done()
	return err
}

func (d *demo) run(ctx context.Context, o options) error {
	d.screen.gap()
	d.screen.say(d.draw()...)
	if err := d.deploy(ctx); err != nil {
		return err
	}
	if err := d.nodesThroughVIP(ctx); err != nil {
		return err
	}
	outcomes, err := d.trouble(ctx)
	if err != nil {
		return err
	}
	d.conclude(outcomes)
	if o.keep {
		return d.stay(ctx)
	}
	return nil
}

// draw is the picture of the lab.
func (d *demo) draw() []string {
	addrs := func(h *lab.Host) machine {
		m := machine{name: h.Name}
		for _, p := range h.Addrs {
			m.addrs = append(m.addrs, p.Addr())
		}
		return m
	}
	var nodes []machine
	for _, n := range d.Nodes {
		nodes = append(nodes, addrs(n.Host))
	}
	return picture(nodes, addrs(d.Client), d.targets())
}

func (d *demo) targets() []netip.AddrPort {
	var all []netip.AddrPort
	for _, v := range d.VIPs {
		all = append(all, netip.AddrPortFrom(v, apiPort))
	}
	return all
}

// deploy writes the manifest and runs it on every node until one of them holds the VIP.
func (d *demo) deploy(ctx context.Context) error {
	s := d.screen
	s.heading("2  kube-vip, a static pod on every node")
	args := []string{"manifest", "pod", "--address", join(d.VIPs, ","), "--arp"}
	s.say(s.paint(cyan, "$ kube-vip "+strings.Join(args, " ")))
	cmd := exec.CommandContext(ctx, d.image, args...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	var err error
	if d.manifest, err = cmd.Output(); err != nil {
		return fmt.Errorf("run kube-vip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(complaint.Bytes()))
	}
	lines, err := summary(d.manifest, s.inner()-2)
	if err != nil {
		return err
	}
	for _, l := range lines {
		s.say("  " + l)
	}
	s.gap()
	s.say("The demo is the kubelet: it starts, probes and restarts what the file says.",
		"The Lease "+lockNamespace+"/"+lockName+" says which node has the address.")
	t := s.begin("Starting it on " + join(d.Nodes, ", "))
	for _, n := range d.Nodes {
		if err := d.start(n); err != nil {
			return err
		}
	}
	holder, err := d.holder(ctx, nil)
	if err != nil {
		return err
	}
	t.done()
	return d.sayHolder(ctx, holder)
}

// start runs the manifest on a node.
func (d *demo) start(n *lab.Node) error {
	pod, err := n.RunManifest(d.manifest, d.image, lab.PodOptions{})
	if err != nil {
		return fmt.Errorf("run the manifest on %s: %w", n, err)
	}
	d.pods[n] = pod
	return nil
}

// sayHolder says who holds, and since when by the Lease.
func (d *demo) sayHolder(ctx context.Context, n *lab.Node) error {
	spec, err := d.lock(ctx, "names "+n.Name, func(spec coordinationv1.LeaseSpec) bool { return *spec.HolderIdentity == n.Name })
	if err != nil {
		return err
	}
	d.last, d.since = n, spec.AcquireTime.Time
	s := d.screen
	s.say(s.paint(bold, d.who(n)) + " since " + clock(d.since) + ", says the Lease.")
	return nil
}

// holder waits until exactly one node has every VIP, and that is another than the given one.
func (d *demo) holder(ctx context.Context, not *lab.Node) (*lab.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var holder *lab.Node
	err := lab.Wait(ctx, "one node holds "+join(d.VIPs, " and "), func() (bool, error) {
		var err error
		holder, err = d.holderNow()
		return holder != nil && holder != not, err
	})
	if err != nil && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w%s", err, d.complaints())
	}
	return holder, err
}

// complaints is what keeps the instances from running, or the last that each of them said.
func (d *demo) complaints() string {
	var b strings.Builder
	for _, n := range d.Nodes {
		pod := d.pods[n]
		if pod == nil || n.Crashed() {
			continue
		}
		why := pod.Waiting()
		if lines := pod.Output(); why == "" && len(lines) > 0 {
			why = lines[len(lines)-1].Text
		}
		if why != "" {
			fmt.Fprintf(&b, "; kube-vip on %s: %s", n, why)
		}
	}
	return b.String()
}

// holderNow is the one node that has every VIP; nil when there is none.
func (d *demo) holderNow() (*lab.Node, error) {
	var holder *lab.Node
	for _, v := range d.VIPs {
		holders, err := d.Holders(v)
		if err != nil || len(holders) != 1 || holder != nil && holders[0] != holder {
			return nil, err
		}
		holder = holders[0]
	}
	return holder, nil
}

// ask calls the API as a user on the client host would: with admin.conf, whose server is the VIP. A question that
// fails is asked again, over a new connection: those of before may end at a node that is gone.
func (d *demo) ask(ctx context.Context, what string, question func(context.Context, kubernetes.Interface) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	err := lab.Wait(ctx, what, func() (bool, error) {
		config, err := clientcmd.BuildConfigFromFlags("", d.Nodes[0].Path("/etc/kubernetes/admin.conf"))
		if err != nil {
			return false, err
		}
		config.Dial, config.Timeout = d.Client.DialContext, request
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return false, err
		}
		ok, err := question(ctx, client)
		if err != nil {
			last = err
		}
		return ok && err == nil, nil
	})
	if err != nil && last != nil && ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", err, last)
	}
	return err
}

// lock waits until the Lease is as it is wanted.
func (d *demo) lock(ctx context.Context, what string, want func(coordinationv1.LeaseSpec) bool) (coordinationv1.LeaseSpec, error) {
	var spec coordinationv1.LeaseSpec
	err := d.ask(ctx, "the Lease "+lockName+" "+what, func(ctx context.Context, client kubernetes.Interface) (bool, error) {
		lease, err := client.CoordinationV1().Leases(lockNamespace).Get(ctx, lockName, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		spec = lease.Spec
		return spec.HolderIdentity != nil && spec.AcquireTime != nil && spec.RenewTime != nil && want(spec), nil
	})
	return spec, err
}

// nodesThroughVIP lists the cluster's Nodes.
func (d *demo) nodesThroughVIP(ctx context.Context) error {
	s := d.screen
	var nodes []corev1.Node
	err := d.ask(ctx, "the Nodes are listed through the VIP", func(ctx context.Context, client kubernetes.Interface) (bool, error) {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		nodes = list.Items
		return true, nil
	})
	if err != nil {
		return err
	}
	holder := ""
	if n, err := d.holderNow(); err == nil && n != nil {
		holder = n.Name
	}
	s.gap()
	s.say("The client asks " + d.targets()[0].String() + " for the cluster's Nodes:")
	for _, line := range nodesTable(s.palette, nodes, holder) {
		s.say("  " + line)
	}
	return nil
}

// An event is a way to lose the holder.
type event struct {
	// name is for the table at the end, title for the heading, with %s for the holder.
	name, title string
	// does makes it happen to the holder, and returns when nothing more has to be waited for but the next holder.
	does func(context.Context, *demo, *lab.Node) error
	// stays is set when the VIP is expected to stay where it is.
	stays bool
	// after says, when it went as expected, why it took as long as it did; a %s is for who held.
	after string
	// mends puts right what was broken, and mending says so, with %s for who held; nil when there is nothing to do.
	mending string
	mends   func(context.Context, *demo, *lab.Node) error
}

// events are what the demo shows, from the mildest on.
func events() []event {
	return []event{
		{
			name:    "kube-vip is stopped (SIGTERM)",
			title:   "The manifest is taken off %s: SIGTERM to kube-vip there",
			does:    func(_ context.Context, d *demo, n *lab.Node) error { return d.pods[n].Stop() },
			after:   "It took the address off and gave the Lease up; the next announced itself.",
			mending: "Putting the manifest back on %s",
			mends:   func(_ context.Context, d *demo, n *lab.Node) error { return d.start(n) },
		},
		{
			name:    "its API server is killed",
			title:   "The API server of %s is killed, kube-vip there lives on",
			does:    func(_ context.Context, _ *demo, n *lab.Node) error { return n.API.Kill() },
			after:   "kube-vip on %s saw that, and let a node with a healthy one have the address.",
			mending: "Starting the API server of %s again",
			mends: func(ctx context.Context, _ *demo, n *lab.Node) error {
				if err := n.API.Start(); err != nil {
					return err
				}
				return n.API.WaitReady(ctx)
			},
		},
		{
			name:  "kube-vip is killed (-9) and restarted",
			title: "kill -9 to kube-vip on %s, and its kubelet starts it again",
			does: func(ctx context.Context, d *demo, n *lab.Node) error {
				restarts := d.pods[n].Restarts()
				if err := d.pods[n].Kill(); err != nil {
					return err
				}
				if err := d.pods[n].WaitRunning(ctx, restarts+1); err != nil {
					return err
				}
				// A renewal after the restart is one by the new process, or by who took the Lease from it.
				started := time.Now()
				_, err := d.lock(ctx, "is renewed", func(spec coordinationv1.LeaseSpec) bool { return spec.RenewTime.After(started) })
				return err
			},
			stays: true,
			after: "The kernel kept the address until the new process took the same Lease up.",
		},
		{
			name:  "its node vanishes",
			title: "%s vanishes, as if its power went",
			does:  func(_ context.Context, _ *demo, n *lab.Node) error { return n.Crash() },
			after: "It could tell nobody: the others waited until its Lease of 5 s ran out.",
		},
	}
}

// trouble makes each event happen to whoever holds then, while the client asks for the VIPs.
func (d *demo) trouble(ctx context.Context) ([]outcome, error) {
	s := d.screen
	s.heading("3  Taking the holder away")
	s.say("The client opens a new connection every 5 ms. Each line below is its view:",
		s.paint(green, string(lab.CellGood))+" answered   "+s.paint(yellow, string(lab.CellMixed))+" some failed   "+s.paint(red, string(lab.CellBad))+" no answer")
	var outcomes []outcome
	for i, e := range events() {
		holder, err := d.holder(ctx, nil)
		if err != nil {
			return nil, err
		}
		s.gap()
		s.say(s.paint(bold, fmt.Sprintf("%c) "+e.title, 'a'+i, holder)))
		o, next, err := d.happen(ctx, e, holder)
		if err != nil {
			return nil, err
		}
		outcomes = append(outcomes, o)
		s.say(timelines(s.palette, o, s.inner())...)
		s.say(verdict(s.palette, o))
		if (next == holder) == e.stays {
			after := e.after
			if strings.Contains(after, "%s") {
				after = fmt.Sprintf(after, holder)
			}
			s.say(after)
		}
		if err := d.sayHolder(ctx, next); err != nil {
			return nil, err
		}
		if e.mends == nil {
			continue
		}
		t := s.begin(fmt.Sprintf(e.mending, holder))
		if err := e.mends(ctx, d, holder); err != nil {
			return nil, err
		}
		t.done()
	}
	return outcomes, nil
}

// happen measures one event, and returns who holds after it.
func (d *demo) happen(ctx context.Context, e event, holder *lab.Node) (outcome, *lab.Node, error) {
	o := outcome{name: e.name, before: holder.Name, vips: d.VIPs}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var gaps []*lab.Gap
	stop := func() {
		for _, g := range gaps {
			o.gaps = append(o.gaps, g.Stop())
		}
		gaps = nil
	}
	defer stop()
	for _, t := range d.targets() {
		g, err := d.Client.StartGap(wait, lab.GapOptions{Target: t})
		if err != nil {
			return o, nil, err
		}
		gaps = append(gaps, g)
	}
	watch := d.screen.watch(d.live(gaps))
	defer watch.end()
	if err := pause(ctx, calm); err != nil {
		return o, nil, err
	}
	o.at = time.Now()
	if err := e.does(wait, d, holder); err != nil {
		return o, nil, fmt.Errorf("%s: %w", fmt.Sprintf(e.title, holder), err)
	}
	not := holder
	if e.stays {
		not = nil
	}
	next, err := d.holder(wait, not)
	if err != nil {
		return o, nil, err
	}
	o.after = next.Name
	for _, g := range gaps {
		if err := g.WaitFor(wait, time.Now()); err != nil {
			return o, nil, err
		}
	}
	// As long again as a fifth of the gap, so that its end stands out in the timeline.
	if err := pause(ctx, max(calm, time.Since(o.at)/5)); err != nil {
		return o, nil, err
	}
	watch.end()
	stop()
	return o, next, nil
}

// live is the line that is shown while something happens: who holds, and how the client fares.
func (d *demo) live(gaps []*lab.Gap) func() string {
	last, since := d.last, d.since
	return func() string {
		n, err := d.holderNow()
		if err != nil {
			return ""
		}
		if n != last {
			last, since = n, time.Now()
		}
		line := d.who(n) + " since " + clock(since)
		if len(gaps) == 0 {
			return line
		}
		answered, failed := 0, 0
		for _, g := range gaps {
			r := g.Result()
			answered += len(r.Attempts) - r.Failed
			failed += r.Failed
		}
		return fmt.Sprintf("%s: %d answers, %d failures", line, answered, failed)
	}
}

// who says who holds; nil is nobody.
func (d *demo) who(n *lab.Node) string {
	name := "nobody"
	if n != nil {
		name = n.Name
	}
	return name + " holds " + join(d.VIPs, " and ")
}

// pause lets time pass.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// conclude prints what there is to remember.
func (d *demo) conclude(outcomes []outcome) {
	s := d.screen
	s.heading("4  What the client noticed")
	s.say(results(s.palette, outcomes)...)
	s.heading("On your own nodes")
	s.say("With a free address of their network, on each control-plane node:",
		s.paint(cyan, "  kube-vip manifest pod --address ADDRESS --arp \\"),
		s.paint(cyan, "    --output /etc/kubernetes/manifests/kube-vip.yaml"),
		"and on the first one, after that:",
		s.paint(cyan, "  kubeadm init --control-plane-endpoint ADDRESS:6443 --upload-certs"))
}

// stay keeps the lab until the context ends, and says whenever somebody else holds.
func (d *demo) stay(ctx context.Context) error {
	s := d.screen
	s.heading("The lab stays until Ctrl-C")
	for _, n := range d.Nodes {
		if !n.Crashed() {
			continue
		}
		t := s.begin("Starting " + n.Name + " again")
		if err := n.Boot(ctx); err != nil {
			return err
		}
		if err := n.API.WaitReady(ctx); err != nil {
			return err
		}
		t.done()
	}
	s.say(d.entrances(rootless(), os.Getpid())...)
	s.gap()
	for {
		watch := s.watch(d.live(nil))
		err := lab.Wait(ctx, "somebody else holds", func() (bool, error) {
			n, err := d.holderNow()
			if err != nil || n == d.last {
				return false, err
			}
			d.last, d.since = n, time.Now()
			return true, nil
		})
		watch.end()
		if err != nil {
			return err
		}
		s.say(clock(d.since) + "  " + d.who(d.last))
	}
}

// entrances are commands to type in another terminal.
func (d *demo) entrances(rootless bool, pid int) []string {
	enter, as := "", ", as root"
	if rootless {
		enter, as = fmt.Sprintf("nsenter --target %d --user --mount --preserve-credentials ", pid), ""
	}
	question := "curl -sk https://" + d.targets()[0].String() + "/version"
	if _, err := lab.Tool("kubectl"); err == nil {
		question = "kubectl --kubeconfig " + d.Nodes[0].Path("/etc/kubernetes/admin.conf") + " get nodes"
	}
	n := d.last
	if n == nil {
		n = d.Nodes[0]
	}
	return []string{
		"In another terminal" + as + ":",
		"  " + enter + "ip netns exec " + d.Client.Netns + " " + question,
		"  " + enter + "ip netns exec " + n.Netns + " ip address show dev " + n.Link,
		fmt.Sprintf("  kill -9 %d    # kube-vip on %s", d.pods[n].Pid(), n),
		"  tail -f " + filepath.Join(d.Dir, n.Name, "pod-"+d.pods[n].Name+".log"),
	}
}

// rootless reports whether this is a user namespace, whose mounts and names others do not see.
func rootless() bool {
	content, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && !slices.Equal(strings.Fields(string(content)), []string{"0", "0", "4294967295"})
}

// progress turns the lab's log into steps on the screen.
type progress struct {
	screen *screen
	step   *step
}

func (p *progress) finish() {
	if p.step != nil {
		p.step.done()
		p.step = nil
	}
}

// Enabled implements slog.Handler.
func (p *progress) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// Handle implements slog.Handler: the message is what the lab does now, and the one before is done.
func (p *progress) Handle(_ context.Context, r slog.Record) error {
	if r.Level != slog.LevelInfo {
		return nil
	}
	p.finish()
	p.step = p.screen.begin(strings.ToUpper(r.Message[:1]) + r.Message[1:])
	return nil
}

// WithAttrs implements slog.Handler; the lab's attributes are not shown.
func (p *progress) WithAttrs([]slog.Attr) slog.Handler { return p }

// WithGroup implements slog.Handler.
func (p *progress) WithGroup(string) slog.Handler { return p }
