package main

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// A rival is told of once, again while he stays, and his end when it is seen.
func TestRivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		warned := 0
		r := newRivals(slog.New(slog.NewTextHandler(&log, nil)), prometheus.NewRegistry(), func(netip.Addr, net.HardwareAddr) { warned++ })
		a, b := netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("fd00::10")
		one, other := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
		expect := func(when string, contested float64, want ...string) {
			t.Helper()
			var got []string
			for line := range strings.Lines(log.String()) {
				got = append(got, strings.Join(regexp.MustCompile(`level=\w+|vip=\S+|mac=\S+`).FindAllString(line, -1), " "))
			}
			log.Reset()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
			var m dto.Metric
			if err := r.vips.Write(&m); err != nil || m.GetGauge().GetValue() != contested {
				t.Errorf("%s: contested is %v (%v), want %g", when, &m, err, contested)
			}
		}
		r.gone(a, true)
		expect("nobody was there", 0)
		r.met(a, one)
		r.met(b, one)
		r.met(a, one)
		expect("met", 2, "level=WARN vip=10.0.0.10 mac=02:00:00:00:00:01", "level=WARN vip=fd00::10 mac=02:00:00:00:00:01")
		r.met(a, other)
		r.met(a, one)
		r.met(a, other)
		expect("two take turns", 2, "level=WARN vip=10.0.0.10 mac=02:00:00:00:00:02")
		r.gone(b, false)
		expect("this node does not hold it any more", 1)
		time.Sleep(rivalAgain)
		r.met(a, one)
		expect("still there", 1, "level=WARN vip=10.0.0.10 mac=02:00:00:00:00:01")
		r.gone(a, true)
		expect("gone", 0, "level=INFO vip=10.0.0.10")
		if warned != 4 {
			t.Errorf("warned %d times, want 4", warned)
		}
	})
}
