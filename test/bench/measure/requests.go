package measure

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"kube-vip.io/kube-vip/test/lab"
)

// requestTotal is a sample of the API servers' counter of requests.
var requestTotal = regexp.MustCompile(`^apiserver_request_total\{(.*)\} (\S+)$`)

// Requests counts, by verb and resource, what all API servers of the nodes are asked while do works: "PUT leases", or
// "GET " and nothing for what is no resource, as health checks are.
func Requests(ctx context.Context, nodes []*lab.Node, do func() error) (map[string]float64, error) {
	before, err := counters(ctx, nodes)
	if err != nil {
		return nil, err
	}
	if err := do(); err != nil {
		return nil, err
	}
	after, err := counters(ctx, nodes)
	if err != nil {
		return nil, err
	}
	for key := range after {
		after[key] -= before[key]
	}
	return after, nil
}

func counters(ctx context.Context, nodes []*lab.Node) (map[string]float64, error) {
	sum := map[string]float64{}
	for _, n := range nodes {
		if n.API == nil {
			continue
		}
		client, err := n.Kube()
		if err != nil {
			return nil, err
		}
		page, err := client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the metrics of %s's API server: %w", n, err)
		}
		if err := addRequests(sum, string(page)); err != nil {
			return nil, fmt.Errorf("read the metrics of %s's API server: %w", n, err)
		}
	}
	return sum, nil
}

// addRequests adds the requests that a page of metrics counts.
func addRequests(sum map[string]float64, page string) error {
	for line := range strings.Lines(page) {
		m := requestTotal.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		labels := map[string]string{}
		for pair := range strings.SplitSeq(m[1], ",") {
			key, value, _ := strings.Cut(pair, "=")
			labels[key] = strings.Trim(value, `"`)
		}
		v, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		sum[labels["verb"]+" "+labels["resource"]] += v
	}
	return nil
}

// A Rate is how often all instances together make a kind of request.
type Rate struct {
	What      string
	PerSecond float64
}

// Noticeable is the least rate that is told.
const Noticeable = 0.02

// Rates are the differences between what was asked in two spans, of which the second is without us.
func Rates(all map[string]float64, over time.Duration, own map[string]float64, ownOver time.Duration) []Rate {
	var rs []Rate
	for _, key := range slices.Sorted(maps.Keys(all)) {
		per := all[key]/over.Seconds() - own[key]/ownOver.Seconds()
		if per < Noticeable {
			continue
		}
		if strings.HasSuffix(key, " ") {
			key += "health"
		}
		rs = append(rs, Rate{What: key, PerSecond: per})
	}
	return rs
}
