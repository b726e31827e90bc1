package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Setting is one row of the table: everything that the program knows of one setting.
type Setting struct {
	// Name is the flag, without dashes. It identifies the setting in this package's functions.
	Name string
	// Shorthand is the one-letter flag, or empty.
	Shorthand string
	// Aliases are older spellings of the flag; they are accepted and not shown in help.
	Aliases []string
	// Env are the environment variables, the canonical one first, older spellings after it.
	Env []string
	// Key is the key in the config file. Upper and lower case are the same there.
	Key string
	// KeyAliases are other keys that are accepted in the config file.
	KeyAliases []string
	// Default is the text of the value that holds when nobody set one.
	Default string
	// Usage says what the setting does, in one line.
	Usage string
	// Example is the text of a value that is valid and is not the default.
	Example string
	// Group is the heading under which the setting is documented.
	Group string
	// Secret values are never printed.
	Secret bool
	// Enum lists the values that are accepted; empty means that the type decides.
	Enum []string

	bind func(*Config) pflag.Value
	// emit says when a generated manifest holds the setting although nobody set it; nil means never.
	emit func(*Config) bool
	// own tells a value that is one node's; nil for settings that have none of those.
	own func(string) bool
	// redact hides what is secret in a value that is only partly so; nil for the others.
	redact func(string) string
}

// Value binds the setting to its field of c: Set parses a text into the field, String renders the field
// such that Set(String()) changes nothing.
func (s Setting) Value(c *Config) pflag.Value { return s.bind(c) }

// Type is the kind of value as shown in help: bool, number, seconds, milliseconds, string, interface, file,
// addresses, ...
func (s Setting) Type() string { return s.bind(&Config{}).Type() }

// Show renders a value for people: secrets are replaced by "***".
func (s Setting) Show(text string) string {
	switch {
	case s.redact != nil:
		return s.redact(text)
	case s.Secret && text != "":
		return "***"
	}
	return text
}

// Own says that a value is one node's, and not for others.
func (s Setting) Own(text string) bool { return s.own != nil && s.own(text) }

// both names a setting that nobody spelt: by its flag and by its environment variable.
func (s Setting) both() string { return fmt.Sprintf("--%s (env %s)", s.Name, s.Env[0]) }

func (s Setting) takesEmpty() bool { return s.bind(&Config{}).Set("") == nil }

// AddFlags defines the flags of all settings on fs, --config-file included. Older spellings are hidden; so are the
// flags of kube-vip that this version accepts without acting on them, of which Load warns.
//
// The flags take any text: Load parses it, so that one run reports every mistake.
func AddFlags(fs *pflag.FlagSet) {
	for _, s := range append(Settings(), configFileSetting()) {
		typ := s.Type()
		add := func(name, short string) *pflag.Flag {
			v := &flagText{text: s.Default, typ: typ, list: slices.Contains([]string{typeAddresses, typeRanges, typePeers, typeCommunities}, typ)}
			f := fs.VarPF(v, name, short, s.flagUsage())
			if typ == typeBool {
				f.NoOptDefVal = "true"
			}
			return f
		}
		add(s.Name, s.Shorthand)
		for _, alias := range s.Aliases {
			add(alias, "").Hidden = true
		}
	}
	for _, u := range UnsupportedSettings() {
		for _, name := range u.Flags {
			f := fs.VarPF(&flagText{typ: "string"}, name, "", u.Why)
			f.Hidden = true
			if u.Bool {
				f.NoOptDefVal = "true"
			}
		}
	}
}

func (s Setting) flagUsage() string {
	usage := s.Usage
	if len(s.Enum) > 0 {
		usage += ": " + strings.Join(s.Enum, ", ")
	}
	return usage + " [env " + s.Env[0] + "]"
}

// flagText keeps what was given on the command line. A list that is given more than once grows.
type flagText struct {
	text string
	typ  string
	list bool
	set  bool
}

var _ pflag.Value = (*flagText)(nil)

func (f *flagText) Set(text string) error {
	if f.list && f.set {
		text = f.text + "," + text
	}
	f.text, f.set = text, true
	return nil
}

func (f *flagText) String() string { return f.text }
func (f *flagText) Type() string   { return f.typ }

// spellings are all flags of the setting, the canonical one first.
func (s Setting) flags() []string { return slices.Concat([]string{s.Name}, s.Aliases) }

// keys are all keys of the setting in a config file, the canonical one first.
func (s Setting) keys() []string {
	if s.Key == "" {
		return nil
	}
	return slices.Concat([]string{s.Key}, s.KeyAliases)
}
