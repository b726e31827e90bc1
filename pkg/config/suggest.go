package config

import "strings"

// nearest returns what the name nearest to the given one stands for, or "" when none is near. names maps spellings
// to what they stand for. Case, dashes and underscores do not count.
func nearest(given string, names map[string]string) string {
	plain := plainName(given)
	best, bestDistance := "", 3
	if len(plain) <= 4 {
		bestDistance = 2
	}
	for name, means := range names {
		d := distance(plain, plainName(name))
		if d < bestDistance || d == bestDistance && best != "" && means < best {
			best, bestDistance = means, d
		}
	}
	return best
}

func plainName(s string) string {
	return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(s))
}

// distance is the number of letters that must be inserted, deleted, replaced or swapped with their neighbour to get from
// a to b (optimal string alignment).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(row[j]+1, last[j+1]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// misspelt returns the known variable that an unknown one is likely to mean, or "". Names that can be anybody's, such as
// PATH or PORT, are left alone.
func misspelt(name string, known map[string]string) string {
	if _, ok := known[name]; ok {
		return ""
	}
	// A name that begins like this can only be meant for us; one word alone, only if it is in lower case like ours.
	ours := []string{"vip_", "cp_", "bgp_", "mpbgp_", "svc_", "lb_", "control_plane_", "kubernetes_addr", "k8s_config", "prometheus_",
		"health_check", "disable_service", "enable_endpoint", "dns_mode", "dhcp_mode", "log_format", "config_file", "instance_", "addre", "port"}
	lower := strings.ToLower(name)
	for _, prefix := range ours {
		if !strings.HasPrefix(lower, prefix) || lower != name && !strings.Contains(prefix, "_") {
			continue
		}
		best, bestDistance := "", 3
		for candidate := range known {
			d := distance(lower, strings.ToLower(candidate))
			if strings.HasPrefix(strings.ToLower(candidate), prefix) && (d < bestDistance || d == bestDistance && candidate < best) {
				best, bestDistance = candidate, d
			}
		}
		if best != "" {
			return best
		}
	}
	return ""
}
