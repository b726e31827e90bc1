package config

import (
	"fmt"
	"slices"
)

// Loaded is a Config with where each of its values came from.
type Loaded struct {
	Config Config
	// Warnings are for the user to read, one sentence each; none of them keeps the program from working.
	Warnings []string

	origins map[string]Origin
	bad     map[string]bool  // settings that could not be read: rules about them are not checked
	asked   map[string]entry // unsupported settings that were given, by canonical name
	lasting int              // how many of Warnings hold whatever is supplied yet
}

// Origin tells where the effective value of the setting with this flag name came from.
func (l *Loaded) Origin(name string) Origin { return l.origins[name] }

// Spelt names a setting as the user spelt it, or by its flag and variable if the user did not set it.
func (l *Loaded) Spelt(name string) string { return l.spelt(name) }

func (l *Loaded) spelt(name string) string {
	if o := l.origins[name]; o.Name != "" {
		return o.spelt()
	}
	if s, ok := find(name); ok {
		return s.both()
	}
	return name
}

// at names a setting with its value: "--port=6443", "port=6443 (default)".
func (l *Loaded) at(name string) string {
	s, ok := find(name)
	if !ok {
		return name
	}
	value := s.Show(s.Value(&l.Config).String())
	switch o := l.origins[name]; o.Layer {
	case LayerFile:
		return fmt.Sprintf("%s: %s in %s", o.Name, value, o.File)
	case LayerEnv, LayerFlag:
		return o.Name + "=" + value
	case LayerDerived:
		return fmt.Sprintf("--%s=%s (%s)", name, value, o.Why)
	}
	return fmt.Sprintf("--%s=%s (default; env %s)", name, value, s.Env[0])
}

// EnvVar is one environment variable of a generated manifest.
type EnvVar struct{ Name, Value string }

// Env renders the settings as the environment of a manifest, in the table's order and canonical names: what was set
// or derived, and what a reader of the manifest always looks for. Load of it gives the same Config.
func (l *Loaded) Env() []EnvVar {
	var env []EnvVar
	for _, s := range Settings() {
		if l.isSet(s.Name) || s.emit != nil && s.emit(&l.Config) {
			env = append(env, EnvVar{s.Env[0], s.Value(&l.Config).String()})
		}
	}
	return env
}

// Shared are the settings that another node needs to run as this one does, by name: those that Env has. Supply of each has the
// same effect. Secrets are the names of those that are left out because they are secret, and own of those whose values are one
// node's, so that another may need one of its own. Who an instance is, is among none of them.
func (l *Loaded) Shared() (values map[string]string, secrets, own []string) {
	values = map[string]string{}
	for _, s := range Settings() {
		text := s.Value(&l.Config).String()
		switch {
		case s.Group == groupNode, !l.isSet(s.Name) && (s.emit == nil || !s.emit(&l.Config)):
		case s.Show(text) != text:
			secrets = append(secrets, s.Name)
		case s.Own(text):
			own = append(own, s.Name)
		default:
			values[s.Name] = text
		}
	}
	return values, secrets, own
}

// Effective is one setting with its value, for people to read.
type Effective struct {
	Setting Setting
	// Value is shown as Setting.Show does: secrets are hidden.
	Value  string
	Origin Origin
}

// Effective lists every setting with its effective value and where that came from, in the table's order.
func (l *Loaded) Effective() []Effective {
	var all []Effective
	for _, s := range Settings() {
		all = append(all, Effective{Setting: s, Value: s.Show(s.Value(&l.Config).String()), Origin: l.origins[s.Name]})
	}
	return all
}

func (l *Loaded) isSet(name string) bool { return l.origins[name].IsSet() }

func find(name string) (Setting, bool) {
	all := Settings()
	i := slices.IndexFunc(all, func(s Setting) bool { return s.Name == name })
	if i < 0 {
		return Setting{}, false
	}
	return all[i], true
}
