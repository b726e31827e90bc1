package ha

import (
	"log/slog"
	"sync"
)

// woes tells of a trouble that many Leases may have at once: an API that does not answer is one line in the log, not
// a thousand. It warns when the first has the trouble and whenever twice as many have it, and says when none has it.
type woes struct {
	log    *slog.Logger
	solved string // what is said when none has it any more

	mu    sync.Mutex // guards the fields below
	count int
	next  int // warn at this count
}

func newWoes(log *slog.Logger, solved string) *woes { return &woes{log: log, solved: solved, next: 1} }

// begin says that one more Lease has the trouble. log is that Lease's.
func (w *woes) begin(log *slog.Logger, text string, args ...any) {
	w.mu.Lock()
	w.count++
	count, warn := w.count, w.count >= w.next
	if warn {
		w.next = 2 * count
	}
	w.mu.Unlock()
	if warn {
		log.Warn(text, append(args, "leases", count)...)
		return
	}
	log.Debug(text, args...)
}

// end says that one Lease has the trouble no more.
func (w *woes) end() {
	if w.less() {
		w.log.Info(w.solved)
	}
}

// less says that a Lease which has the trouble is not looked at any more. It reports whether it was the last.
func (w *woes) less() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count--
	if w.count == 0 {
		w.next = 1
	}
	return w.count == 0
}
