package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kube-vip.io/kube-vip/test/lab"
)

// never is a screen's fail that must not be called.
func never(t *testing.T) func(error) {
	return func(err error) { t.Errorf("the screen failed: %v", err) }
}

// TestPlainScreen is a pipe or a file: no colours, and no line is drawn twice.
func TestPlainScreen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	s := newScreen(out, true, "xterm", never(t))
	s.heading("1  Heading")
	s.say("said", "")
	s.begin("Working").done()
	s.begin("Failing").end()
	s.watch(func() string { return "watched" }).end()
	s.gap()
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dots := strings.Repeat(".", 60)
	want := "\n1  Heading\n  said\n\n  Working " + dots + "   0.0 s\n  Failing " + dots + "\n\n"
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestBrokenScreen is a disk that is full: the demo is told, and not only at its end.
func TestBrokenScreen(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var got error
	newScreen(full, true, "", func(err error) { got = err }).say("x")
	if !errors.Is(got, syscall.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", got)
	}
}

// A terminal is a pseudo-terminal (pty(7)) and what was printed on it.
type terminal struct {
	slave *os.File
	done  chan struct{}

	mu   sync.Mutex // guards text
	text strings.Builder
}

func newTerminal(t *testing.T, columns uint16) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		lab.Need(t, err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		lab.Need(t, err)
	}
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: 24}); err != nil {
		t.Fatal(err)
	}
	term := &terminal{slave: slave, done: make(chan struct{})}
	go func() {
		defer close(term.done)
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			term.mu.Lock()
			term.text.Write(b[:n])
			term.mu.Unlock()
			if err != nil {
				return // EIO: nobody has the slave open
			}
		}
	}()
	t.Cleanup(func() {
		_ = slave.Close()
		<-term.done
		_ = master.Close()
	})
	return term
}

func (m *terminal) printed() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.String()
}

// until waits for a text on the terminal.
func (m *terminal) until(t *testing.T, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := lab.Wait(ctx, fmt.Sprintf("%q is printed", text), func() (bool, error) { return strings.Contains(m.printed(), text), nil })
	if err != nil {
		t.Fatalf("%v; printed: %q", err, m.printed())
	}
}

func TestTerminal(t *testing.T) {
	colour := regexp.MustCompile("\x1b\\[[0-9;]*m")
	for _, tc := range []struct {
		name    string
		colour  bool
		term    string
		columns uint16
		live    bool
		colours bool
		width   int
	}{
		{"a terminal", true, "xterm", 200, true, true, 80},
		{"a narrow one", true, "xterm", 50, true, true, 50},
		{"one that does not say its width", true, "xterm", 0, true, true, 80},
		{"no colours wished", false, "xterm", 200, true, false, 80},
		{"a dumb terminal", true, "dumb", 200, false, false, 80},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newTerminal(t, tc.columns)
			s := newScreen(m.slave, tc.colour, tc.term, never(t))
			if s.live != tc.live || s.width != tc.width {
				t.Fatalf("live %v, width %d", s.live, s.width)
			}
			step := s.begin("Working on something that takes a line of more than fifty columns")
			if tc.live {
				m.until(t, "⠙")
			}
			step.done()
			s.watch(func() string { return "watched" }).end()
			s.say("the end")
			m.until(t, "the end\r\n")
			got := m.printed()
			if colour.MatchString(got) != tc.colours {
				t.Errorf("printed %q", got)
			}
			// What stays on the screen is what follows the last erasure of each line (ECMA-48 EL).
			for line := range strings.SplitSeq(colour.ReplaceAllString(got, ""), "\r\n") {
				for drawn := range strings.SplitSeq(line, "\r\x1b[K") {
					if n := len([]rune(drawn)); n >= tc.width {
						t.Errorf("%d columns would wrap on a terminal of %d: %q", n, tc.width, drawn)
					}
				}
				if i := strings.LastIndex(line, "\r\x1b[K"); i >= 0 {
					line = line[i+len("\r\x1b[K"):]
				}
				if strings.ContainsAny(line, frames) {
					t.Errorf("a spinner is left over: %q", line)
				}
			}
		})
	}
}
