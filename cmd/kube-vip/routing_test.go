package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"kube-vip.io/kube-vip/pkg/bgp"
	"kube-vip.io/kube-vip/pkg/config"
)

// TestPassword: a Secret is read by the way, again and again, and what it had stays when it cannot be read.
func TestPassword(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var fault error
		took, reads := time.Duration(0), 0
		client.PrependReactor("get", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
			reads++
			time.Sleep(took)
			return fault != nil, nil, fault
		})
		r := &routing{client: client, where: "kube-system", log: slog.New(slog.DiscardHandler), stir: make(chan struct{}, 1),
			asked: asking{busy: map[string]bool{}, secrets: map[config.SecretRef]secretData{}}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var work sync.WaitGroup
		peer := config.Peer{Address: "192.0.2.1", AS: 65000, PasswordSecret: config.SecretRef{Name: "bgp"}}
		look := func() string {
			t.Helper()
			began := time.Now()
			got, err := r.password(ctx, &work, peer)
			if took := time.Since(began); took > 0 {
				t.Errorf("it was waited for, for %s", took)
			}
			return fmt.Sprint(string(got), " ", err)
		}
		put := func(data map[string]string) {
			t.Helper()
			s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bgp"}, Data: map[string][]byte{}}
			for key, value := range data {
				s.Data[key] = []byte(value)
			}
			_ = client.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("secrets"), s.Namespace, s.Name)
			if err := client.Tracker().Add(s); err != nil {
				t.Fatal(err)
			}
		}
		want := func(when, text string) {
			t.Helper()
			synctest.Wait()
			if got := look(); !strings.Contains(got, text) {
				t.Errorf("%s: %q, want %q", when, got, text)
			}
		}
		took = time.Second
		want("at first", errPending.Error())
		want("while it is read", errPending.Error())
		time.Sleep(time.Second)
		synctest.Wait()
		if len(r.stir) != 1 {
			t.Error("nobody is told that there is an answer")
		}
		want("when it is not there", `its password: secrets "bgp" not found`)
		put(map[string]string{"password": "one"})
		time.Sleep(routingEvery + time.Second)
		look()
		time.Sleep(time.Second)
		want("when it is there", "one <nil>")
		fault = errors.New("no API")
		time.Sleep(secretEvery + time.Second)
		look()
		time.Sleep(time.Second)
		want("without the API", "one <nil>")
		fault = nil
		put(map[string]string{"192.0.2.1": "two", "password": "one"})
		time.Sleep(secretEvery + time.Second)
		look()
		time.Sleep(time.Second)
		want("with a key of its own", "two <nil>")
		before := reads
		want("at rest", "two <nil>")
		if reads != before {
			t.Error("it is read each time")
		}
		took = time.Minute // and nobody answers
		time.Sleep(secretEvery + time.Second)
		look()
		cancel()
		time.Sleep(2 * time.Minute)
		work.Wait()
	})
}

// TestFamily: a peer that cannot be found is not asked for again and again without a pause.
func TestFamily(t *testing.T) {
	r := &routing{stir: make(chan struct{}, 1), asked: asking{busy: map[string]bool{}, family: map[string]netip.Addr{}}}
	var work sync.WaitGroup
	if ip4, ip6 := r.familyOf(t.Context(), &work, bgp.Peer{Name: "tor", Interface: "none0"}); !ip4 || ip6 {
		t.Errorf("while it is not known: IPv4 %t, IPv6 %t", ip4, ip6)
	}
	work.Wait()
	if len(r.stir) > 0 || len(r.asked.busy) > 0 {
		t.Errorf("after a question without an answer %d looks are asked for at once, and %v is under way", len(r.stir), r.asked.busy)
	}
	if ip4, ip6 := r.familyOf(t.Context(), &work, bgp.Peer{Name: "tor6", Host: "2001:db8::1"}); ip4 || !ip6 {
		t.Errorf("of an address: IPv4 %t, IPv6 %t", ip4, ip6)
	}
}
