package join

import (
	"context"
	"errors"
	"time"
)

const (
	// patience is how long what a new cluster does not have yet is waited for: kube-controller-manager signs for a token when it
	// leads, and kube-vip's leader writes the settings a while after it came to lead.
	patience = time.Minute
	// tryAgain is the time between two questions.
	tryAgain = time.Second
)

// Await is Read with patience for a cluster that has just been made. What is waited for is told once.
func Await(ctx context.Context, s Source, told func(error)) (Handout, error) {
	return await(ctx, func(ctx context.Context) (Handout, error) { return Read(ctx, s) }, told)
}

func await(ctx context.Context, read func(context.Context) (Handout, error), told func(error)) (Handout, error) {
	deadline := time.Now().Add(patience)
	for first := true; ; first = false {
		h, err := read(ctx)
		early := errors.Is(err, ErrNone) || errors.Is(err, errUnsigned)
		if !early || !time.Now().Before(deadline) {
			return h, err
		}
		if first {
			told(err)
		}
		timer := time.NewTimer(tryAgain)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return h, err
		}
	}
}
