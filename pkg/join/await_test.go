package join

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestAwait(t *testing.T) {
	none := fmt.Errorf("read it: %w", ErrNone)
	unsigned := fmt.Errorf("find it: %w", errUnsigned)
	other := errors.New("no route to host")
	for name, tt := range map[string]struct {
		errs  []error // of each question; the last one is that of all further ones
		stop  time.Duration
		want  error
		after time.Duration
		told  int
	}{
		"at once":           {errs: []error{nil}},
		"later":             {errs: []error{unsigned, unsigned, none, nil}, after: 3 * time.Second, told: 1},
		"never":             {errs: []error{none}, want: ErrNone, after: time.Minute, told: 1},
		"not the cluster":   {errs: []error{unsigned, ErrUntrusted}, want: ErrUntrusted, after: time.Second, told: 1},
		"something else":    {errs: []error{other}, want: other},
		"the user gives up": {errs: []error{none}, stop: 1500 * time.Millisecond, want: ErrNone, after: 1500 * time.Millisecond, told: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if tt.stop > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.stop)
					defer cancel()
				}
				asked, told := 0, 0
				begin := time.Now()
				_, err := await(ctx, func(context.Context) (Handout, error) {
					asked++
					return Handout{}, tt.errs[min(asked, len(tt.errs))-1]
				}, func(error) { told++ })
				if !errors.Is(err, tt.want) || time.Since(begin) != tt.after || told != tt.told {
					t.Errorf("%v after %s, told %d times; want %v after %s, told %d times", err, time.Since(begin), told, tt.want, tt.after, tt.told)
				}
			})
		})
	}
}
