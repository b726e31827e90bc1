package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// columnsAtMost is as wide as the demo ever prints, and as wide as it prints where nobody says how wide it may.
const columnsAtMost = 80

// indent stands before everything but headings.
const indent = "  "

// frames are the spinner's.
const frames = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

// redraw is how often the progress line is drawn.
const redraw = 100 * time.Millisecond

// A screen prints the demo on a terminal, with a progress line that is drawn again and again, or into a pipe or a file.
// Its methods are not safe for use by several goroutines.
type screen struct {
	palette
	out   *os.File
	live  bool // there is a progress line
	width int
	busy  *step       // what is under way; nil when nothing is
	fail  func(error) // is told when nothing can be printed any more
}

// newScreen looks at what out is. Colour may be off by the user's wish. The function fail is called when out breaks.
func newScreen(out *os.File, colour bool, term string, fail func(error)) *screen {
	s := &screen{out: out, width: columnsAtMost, fail: fail}
	size, err := unix.IoctlGetWinsize(int(out.Fd()), unix.TIOCGWINSZ)
	if err != nil || term == "dumb" || term == "" {
		return s
	}
	s.live, s.palette = true, palette(colour)
	if size.Col > 0 {
		s.width = min(columnsAtMost, int(size.Col))
	}
	return s
}

func (s *screen) write(text string) {
	if _, err := s.out.WriteString(text); err != nil {
		s.fail(fmt.Errorf("print: %w", err))
	}
}

// heading begins a part of the demo.
func (s *screen) heading(text string) {
	s.write("\n" + s.paint(bold, text) + "\n")
}

// say prints lines.
func (s *screen) say(lines ...string) {
	for _, l := range lines {
		s.write(strings.TrimRight(indent+l, " ") + "\n")
	}
}

// gap prints an empty line.
func (s *screen) gap() { s.write("\n") }

// inner is the width of what say prints.
func (s *screen) inner() int { return s.width - len(indent) - 1 }

// A step is something that takes a while.
type step struct {
	screen *screen
	label  string
	begun  time.Time
	stop   chan struct{}
	wg     sync.WaitGroup
}

// begin shows that something is under way. On a terminal it is a line with a spinner and the time it takes; else the
// line is printed now and ended by done.
func (s *screen) begin(label string) *step {
	t := &step{screen: s, label: label, begun: time.Now(), stop: make(chan struct{})}
	s.busy = t
	if !s.live {
		line := leader(label, "", s.inner()-8)
		s.write(indent + strings.TrimRight(line, " "))
		return t
	}
	t.spin(func() string { return label })
	return t
}

// watch shows, on a terminal only, a line that is asked for whenever it is drawn.
func (s *screen) watch(line func() string) *step {
	t := &step{screen: s, begun: time.Now(), stop: make(chan struct{})}
	if s.live {
		s.busy = t
		t.spin(line)
	}
	return t
}

func (t *step) spin(line func() string) {
	t.wg.Go(func() {
		ticker := time.NewTicker(redraw)
		defer ticker.Stop()
		all := []rune(frames)
		for i := 0; ; i++ {
			// One write, cut to the width: a line that wraps could not be taken away again.
			text := clip(line()+"  "+elapsed(time.Since(t.begun)), t.screen.width-len(indent)-3)
			fmt.Fprintf(t.screen.out, "\r\x1b[K%s%s %s", indent, t.screen.paint(cyan, string(all[i%len(all)])), text)
			select {
			case <-ticker.C:
			case <-t.stop:
				fmt.Fprint(t.screen.out, "\r\x1b[K")
				return
			}
		}
	})
}

// end takes the progress line away; what begin printed into a pipe is ended without a time.
func (t *step) end() {
	if t == nil || t.screen.busy != t {
		return
	}
	t.screen.busy = nil
	if t.screen.live {
		close(t.stop)
		t.wg.Wait()
	} else {
		t.screen.write("\n")
	}
}

// done ends the step well, and says how long it took.
func (t *step) done() {
	s, took := t.screen, elapsed(time.Since(t.begun))
	if !s.live {
		s.busy = nil
		s.write(fmt.Sprintf(" %7s\n", took))
		return
	}
	t.end()
	line := leader(t.label, took, s.inner()-2)
	s.say(s.paint(green, "✓ ") + line)
}
