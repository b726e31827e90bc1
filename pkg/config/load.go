package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// Load reads all settings: flags of fs count more than the environment, that more than the config file, that more
// than the defaults. A value counts as set when it was written, be it false, 0 or empty; only an environment variable
// that is empty, for a setting that cannot be, counts as not written. environ has the form of os.Environ; fs may be nil.
//
// The error joins everything that could not be read, each line naming the setting as the user spelt it. The Loaded is
// returned beside it, with defaults in those places, so that Validate can tell of the rest.
func Load(fs *pflag.FlagSet, environ []string) (*Loaded, error) {
	l := &Loaded{origins: map[string]Origin{}, bad: map[string]bool{}, asked: map[string]entry{}}
	env := parseEnviron(environ)
	flags := l.readFlags(fs)
	vars := l.readEnv(env)
	file, unread := l.readConfigFile(fs, env)
	problems := []error{unread}

	// Every value carries its origin through viper, which decides among the layers.
	v := viper.New()
	for _, s := range Settings() {
		v.SetDefault(s.Name, entry{s.Default, Origin{Layer: LayerDefault}})
	}
	if err := errors.Join(v.MergeConfigMap(file), v.MergeConfigMap(vars)); err != nil {
		problems = append(problems, fmt.Errorf("merge settings: %w", err))
	}
	for name, e := range flags {
		v.Set(name, e)
	}
	for _, s := range Settings() {
		e, ok := v.Get(s.Name).(entry)
		if !ok {
			return nil, fmt.Errorf("merge settings: no value for %s", s.Name)
		}
		l.origins[s.Name] = e.origin
		// What is not set may have been meant to be, in the part of the file that was not understood.
		l.bad[s.Name] = unread != nil && e.origin.Layer == LayerDefault
		if err := s.Value(&l.Config).Set(e.text); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", e.origin.spelt(), err))
			l.bad[s.Name] = true
			if err := s.Value(&l.Config).Set(s.Default); err != nil {
				return nil, fmt.Errorf("default of %s: %w", s.Name, err)
			}
		}
	}
	l.warnPasswords()
	l.lasting = len(l.Warnings)
	l.settle()
	return l, errors.Join(problems...)
}

// parseEnviron splits "name=value" texts. The last one of a name counts, as in a container's env.
func parseEnviron(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, kv := range environ {
		if name, value, ok := strings.Cut(kv, "="); ok {
			env[name] = value
		}
	}
	return env
}

func (l *Loaded) warn(format string, args ...any) {
	l.Warnings = append(l.Warnings, fmt.Sprintf(format, args...))
}

// readFlags collects the flags that were given.
func (l *Loaded) readFlags(fs *pflag.FlagSet) map[string]entry {
	found := map[string]entry{}
	for _, s := range Settings() {
		var given []entry
		for _, name := range s.flags() {
			if e, ok := givenFlag(fs, name); ok {
				given = append(given, e)
			}
		}
		if len(given) > 0 {
			found[s.Name] = l.first(s, given)
		}
	}
	for _, u := range UnsupportedSettings() {
		for _, name := range u.Flags {
			if e, ok := givenFlag(fs, name); ok {
				l.ignore(u, e)
			}
		}
	}
	return found
}

func givenFlag(fs *pflag.FlagSet, name string) (entry, bool) {
	if fs == nil {
		return entry{}, false
	}
	f := fs.Lookup(name)
	if f == nil || !f.Changed {
		return entry{}, false
	}
	return entry{f.Value.String(), Origin{Layer: LayerFlag, Name: "--" + name}}, true
}

// readEnv collects the environment variables that are set.
func (l *Loaded) readEnv(env map[string]string) map[string]any {
	found := map[string]any{}
	known := map[string]string{}
	for _, name := range configFileSetting().Env {
		known[name] = name
	}
	for _, s := range Settings() {
		var given []entry
		for _, name := range s.Env {
			known[name] = name
			value, ok := env[name]
			if !ok {
				continue
			}
			if value == "" && !s.takesEmpty() {
				l.warn("%s is empty, which counts as not set", name)
				continue
			}
			given = append(given, entry{value, Origin{Layer: LayerEnv, Name: name}})
		}
		if len(given) > 0 {
			found[s.Name] = l.first(s, given)
		}
	}
	for _, u := range UnsupportedSettings() {
		for _, name := range u.Env {
			known[name] = name
			if value, ok := env[name]; ok {
				l.ignore(u, entry{value, Origin{Layer: LayerEnv, Name: name}})
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if near := misspelt(name, known); near != "" {
			l.warn("%s is not a setting; did you mean %s?", name, near)
		}
	}
	return found
}

// first returns the first of several spellings of one setting in one layer.
func (l *Loaded) first(s Setting, given []entry) entry {
	for _, other := range given[1:] {
		if other.text != given[0].text {
			l.warn("%s and %s are the same setting with different values; %s counts", given[0].origin.Name, other.origin.Name, given[0].origin.Name)
		}
	}
	return given[0]
}

// readConfigFile collects the keys of the config file, if one is named.
func (l *Loaded) readConfigFile(fs *pflag.FlagSet, env map[string]string) (map[string]any, error) {
	row := configFileSetting()
	from, ok := givenFlag(fs, row.Name)
	if !ok {
		from = entry{env[row.Env[0]], Origin{Layer: LayerEnv, Name: row.Env[0]}}
	}
	if from.text == "" {
		return nil, nil
	}
	l.origins[row.Name] = from.origin
	values, err := readFile(from.text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from.origin.Name, err)
	}

	settings := map[string]Setting{}
	unsupported := map[string]Unsupported{}
	known := map[string]string{}
	for _, s := range Settings() {
		for _, key := range s.keys() {
			settings[strings.ToLower(key)] = s
			known[key] = s.Key
		}
		for _, name := range slices.Concat(s.flags(), s.Env) {
			known[name] = s.Key
		}
	}
	for _, u := range UnsupportedSettings() {
		for _, key := range u.Keys {
			unsupported[strings.ToLower(key)] = u
			known[key] = key
		}
	}

	found := map[string]any{}
	var problems []error
	for _, key := range slices.Sorted(maps.Keys(values)) {
		e := entry{values[key], Origin{Layer: LayerFile, Name: key, File: from.text}}
		if u, ok := unsupported[strings.ToLower(key)]; ok {
			l.ignore(u, e)
			continue
		}
		s, ok := settings[strings.ToLower(key)]
		if !ok {
			err := fmt.Errorf("%s: there is no setting of this name", e.origin.spelt())
			if near := nearest(key, known); near != "" {
				err = fmt.Errorf("%w; did you mean %s?", err, near)
			}
			problems = append(problems, err)
			continue
		}
		if other, ok := found[s.Name].(entry); ok {
			problems = append(problems, fmt.Errorf("%s and %s in %s are the same setting; keep one of them", other.origin.Name, key, from.text))
			continue
		}
		found[s.Name] = e
	}
	return found, errors.Join(problems...)
}

// ignore warns of a setting that is not acted on.
func (l *Loaded) ignore(u Unsupported, e entry) {
	if u.Same == "" || e.text != u.Same {
		l.warn("%s: %s", e.origin.spelt(), u.Why)
	}
	name := slices.Concat(u.Env, u.Flags, u.Keys)[0]
	// The strongest layer is read first.
	if _, ok := l.asked[name]; !ok {
		l.asked[name] = e
	}
}
