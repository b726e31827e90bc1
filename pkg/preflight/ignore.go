package preflight

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Checks are the names of the checks that Run makes.
func Checks() []string {
	return []string{"interface", "address", "sysctl", "kube-proxy", "port", "manifest", "others", "capabilities"}
}

// allChecks stands for all of them.
const allChecks = "all"

// Ignored are checks whose errors keep nobody from going on. The zero value is none.
type Ignored []string

// ParseIgnored reads names as kubeadm's --ignore-preflight-errors takes them: in upper or lower case, or "all" alone.
func ParseIgnored(names []string) (Ignored, error) {
	var ignored Ignored
	var problems []error
	for _, name := range names {
		lower := strings.ToLower(strings.TrimSpace(name))
		if lower != allChecks && !slices.Contains(Checks(), lower) {
			problems = append(problems, fmt.Errorf("%q is not a check: want %s, or %s", name, strings.Join(Checks(), ", "), allChecks))
			continue
		}
		ignored = append(ignored, lower)
	}
	if slices.Contains(ignored, allChecks) && len(names) > 1 {
		problems = append(problems, fmt.Errorf("%s stands for every check: give it alone", allChecks))
	}
	return ignored, errors.Join(problems...)
}

// Apply makes warnings of the errors of these checks.
func (i Ignored) Apply(found []Finding) []Finding {
	found = slices.Clone(found)
	for n, f := range found {
		if f.Level == Error && (slices.Contains(i, f.Check) || slices.Contains(i, allChecks)) {
			found[n].Level = Warning
			found[n].Text += " (an error that is ignored)"
		}
	}
	return found
}
