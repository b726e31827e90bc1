package ha

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A node holds what everyone holds while it is healthy, and a few seconds longer if nobody says so any more.
func TestEveryone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &grants{}
		var led []bool
		e := NewEveryone(EveryoneOptions{Mandate: "m", Granter: n, Led: func(l Lead) { led = append(led, l.Held) }, Log: (&notebook{}).log()})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()

		synctest.Wait()
		if n.until != nil {
			t.Error("it is granted before anything is known")
		}
		e.SetHealth(Healthy, "")
		synctest.Wait()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n.until == nil || time.Until(*n.until) < everyoneFor-everyonePause || time.Until(*n.until) > everyoneFor {
			t.Errorf("while healthy it is granted until %v", n.until)
		}
		e.SetHealth(Unhealthy, "the API server is dead")
		synctest.Wait()
		if n.until != nil {
			t.Error("it is granted although the node is unhealthy")
		}
		e.SetHealth(Healthy, "")
		synctest.Wait()
		if n.until == nil {
			t.Error("it is not granted again")
		}
		cancel()
		if err := <-done; err != nil || n.until != nil {
			t.Errorf("at the end it is granted until %v; %v", n.until, err)
		}
		if diff := cmp.Diff([]bool{true, false, true, false}, led); diff != "" {
			t.Errorf("led (-want +got):\n%s", diff)
		}
	})
}

// grants is a Granter that knows the last verdict.
type grants struct{ until *time.Time }

func (g *grants) Grant(_ string, until time.Time) { g.until = &until }

func (g *grants) Revoke(string) func(context.Context) error {
	g.until = nil
	return func(context.Context) error { return nil }
}
