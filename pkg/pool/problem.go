package pool

import "strconv"

// Problem is something in the ConfigMap that is wrong, or that its writer should know of.
type Problem struct {
	// Key is the ConfigMap's key.
	Key string
	// Entry is the part of the value that is meant, as it is written, without the space around it. It is empty when
	// the key as a whole is meant.
	Entry string
	// Wrong says what is wrong, Right what would be right.
	Wrong, Right string
	// Counts says that the entry counts all the same: the problem is a warning. Without it the entry is left out;
	// whatever else the ConfigMap lists is not touched by that.
	Counts bool
}

// String is the problem in one line.
func (p Problem) String() string {
	text := printable(p.Key) + ": " + p.about()
	if p.Right != "" {
		text += "; " + p.Right
	}
	return text
}

// about is what is wrong with what.
func (p Problem) about() string {
	if p.Entry == "" {
		return p.Wrong
	}
	return printable(p.Entry) + ": " + p.Wrong
}

// printable is text in one line: as it is, unless something in it does not print.
func printable(text string) string {
	if quoted := strconv.Quote(text); quoted[1:len(quoted)-1] != text {
		return quoted
	}
	return text
}
