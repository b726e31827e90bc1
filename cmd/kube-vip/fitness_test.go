package main

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"kube-vip.io/kube-vip/pkg/cp"
	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/pkg/vip"
)

// A node whose kernel refuses the VIP is unhealthy, and not at once well again when it has nothing to put on any more.
func TestFitness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last ha.Health
		f := &fitness{tell: func(h ha.Health, _ string) { last = h }}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Run(ctx) }()
		if f.problem() == nil {
			t.Error("nothing is known and there is no problem")
		}
		f.judged(ha.Healthy, "")
		if err := f.problem(); err != nil || last != ha.Healthy {
			t.Errorf("healthy: told %s, problem %v", last, err)
		}
		f.trouble(fmt.Errorf("add 10.0.0.10/32 to eth0: %w", vip.ErrNoLink))
		if err := f.problem(); err != nil || last != ha.Healthy {
			t.Errorf("without the link: told %s, problem %v", last, err)
		}
		refused := errors.New("add 10.0.0.10/32 to eth0: operation not permitted")
		f.trouble(refused)
		if !errors.Is(f.problem(), refused) || last != ha.Unhealthy {
			t.Errorf("refused: told %s, problem %v", last, f.problem())
		}
		f.trouble(errors.Join(fmt.Errorf("add fd00::10/128 to eth1: %w", vip.ErrNoLink), refused))
		if !errors.Is(f.problem(), refused) || errors.Is(f.problem(), vip.ErrNoLink) {
			t.Errorf("refused beside a missing link: problem %v", f.problem())
		}
		f.trouble(nil)
		time.Sleep(troublePenalty - time.Second)
		if last != ha.Unhealthy {
			t.Errorf("shortly after: told %s", last)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if err := f.problem(); err != nil || last != ha.Healthy {
			t.Errorf("after the penalty: told %s, problem %v", last, err)
		}
		f.trouble(refused)
		f.trouble(nil)
		f.judged(ha.Unable, "no link")
		if last != ha.Unable {
			t.Errorf("without a link and refused: told %s", last)
		}
		f.judged(ha.Unhealthy, "sick")
		if last != ha.Unhealthy {
			t.Errorf("sick and refused: told %s", last)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		time.Sleep(2 * troublePenalty)
		if last != ha.Unhealthy {
			t.Errorf("told %s after Run has ended", last)
		}
	})
}

// An instance that cares for Services is ready when it knows them all; one that does not has nothing to wait for.
func TestUnready(t *testing.T) {
	w := &wiring{fit: &fitness{}}
	if err := w.unready(); err != nil {
		t.Errorf("neither a control plane nor Services: %v", err)
	}
	w.services = &svc.Controller{}
	if err := w.unready(); err == nil || err.Error() != "not all Services were looked at yet" {
		t.Errorf("no Service was looked at: %v", err)
	}
	w.looked.Store(true)
	if err := w.unready(); err != nil {
		t.Errorf("all Services were looked at: %v", err)
	}
	w.plane = &cp.ControlPlane{}
	if err := w.unready(); err == nil || err.Error() != w.fit.problem().Error() {
		t.Errorf("nothing is known of the control plane: %v", err)
	}
}
