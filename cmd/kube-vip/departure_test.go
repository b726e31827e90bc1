package main

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kube-vip.io/kube-vip/pkg/ha"
)

// TestDeparture: what an operator's routers see of a node whose API server fails.
func TestDeparture(t *testing.T) {
	for name, c := range map[string]struct {
		drain time.Duration
		say   string // what is said, a second apart: "+" healthy, "-" no answer, "?" an answer that says that it is not well
		want  string
	}{
		"never healthy":                      {2 * time.Second, "?", "0s unhealthy"},
		"no answer":                          {2 * time.Second, "+-", "0s healthy, 1s unhealthy"},
		"an answer":                          {2 * time.Second, "+?", "0s healthy, 1s marked, 3s unhealthy"},
		"an answer again":                    {2 * time.Second, "+??", "0s healthy, 1s marked, 3s unhealthy"},
		"an answer, then none":               {2 * time.Second, "+?-", "0s healthy, 1s marked, 2s unhealthy"},
		"an answer, then all is well":        {2 * time.Second, "+?+", "0s healthy, 1s marked, 2s as usual, 2s healthy"},
		"an answer long after there is none": {2 * time.Second, "+-?", "0s healthy, 1s unhealthy, 2s unhealthy"},
		"again":                              {1500 * time.Millisecond, "+?+?+", "0s healthy, 1s marked, 2s as usual, 2s healthy, 3s marked, 4s as usual, 4s healthy"},
		"no drain":                           {0, "+?", "0s healthy, 1s unhealthy"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var got []string
				did := func(what any) { got = append(got, fmt.Sprint(time.Since(began), " ", what)) }
				d := &departure{drain: c.drain, log: slog.New(slog.DiscardHandler),
					mark: func(on bool) {
						if on {
							did("marked")
						} else if len(got) > 0 {
							did("as usual")
						}
					},
					tell: func(h ha.Health, _ string) {
						did(map[bool]string{true: "healthy", false: "unhealthy"}[h == ha.Healthy])
					},
				}
				for i, said := range c.say {
					if i > 0 {
						time.Sleep(time.Second)
					}
					synctest.Wait()
					d.answering(said == '?')
					d.set(map[rune]ha.Health{'+': ha.Healthy, '-': ha.Unhealthy, '?': ha.Unhealthy}[said], "why")
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := strings.Join(got, ", "); got != c.want {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
			})
		})
	}
}
