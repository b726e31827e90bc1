package measure

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// title begins a page that is not there yet.
const title = "# Benchmarks\n"

// marks are the comments around a section.
func marks(name string) (begin, end string) {
	return "<!-- begin " + name + ", written by it: what is changed here by hand is lost -->\n", "<!-- end " + name + " -->\n"
}

// order is that of the sections, by the commands that write them.
var order = []string{"make bench", "make bench-services", "make bench-services -placement lease", "make bench-bgp", "make bench-kubeadm"}

// Replace is the page with the section of that name (the command that writes it) replaced, and everything else as it
// was. A section that is not there yet gets its place by the order of the commands. Doing it twice is doing it once.
func Replace(page, name, body string) (string, error) {
	if !slices.Contains(order, name) {
		return "", fmt.Errorf("replace the section of %s: it has no place", name)
	}
	if page == "" {
		page = title
	}
	begin, end := marks(name)
	section := begin + "\n" + strings.Trim(body, "\n") + "\n\n" + end
	switch from, to := strings.Index(page, begin), strings.Index(page, end); {
	case strings.Count(page, begin) > 1 || strings.Count(page, end) > 1:
		return "", fmt.Errorf("replace the section of %s: its marks are there more than once", name)
	case from >= 0 && to > from:
		return page[:from] + section + page[to+len(end):], nil
	case from >= 0 || to >= 0:
		return "", fmt.Errorf("replace the section of %s: one of its marks is missing", name)
	}
	for _, later := range order[slices.Index(order, name)+1:] {
		next, _ := marks(later)
		if at := strings.Index(page, next); at >= 0 {
			return page[:at] + section + "\n" + page[at:], nil
		}
	}
	return strings.TrimRight(page, "\n") + "\n\n" + section, nil
}

// Write replaces a section of the file, which is made if it is not there.
func Write(file, name, body string) error {
	page, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text, err := Replace(string(page), name, body)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(text), 0o644)
}
