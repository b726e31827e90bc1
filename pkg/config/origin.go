package config

import "fmt"

// Layer is a place that a value can come from. Later ones count more.
type Layer string

// The layers, from the weakest to the strongest; Derived is what follows from other settings.
const (
	LayerDefault Layer = "default"
	LayerFile    Layer = "file"
	LayerEnv     Layer = "env"
	LayerFlag    Layer = "flag"
	LayerDerived Layer = "derived"
)

// Origin says where the effective value of a setting came from.
type Origin struct {
	Layer Layer `json:"layer"`
	// Name is the setting as the user spelt it: "--vip", "vip_cidr", a key of the file. Empty for the default.
	Name string `json:"name,omitempty"`
	// File is the config file, for LayerFile.
	File string `json:"file,omitempty"`
	// Why is the reason, for LayerDerived.
	Why string `json:"why,omitempty"`
}

// IsSet tells whether the value was written by someone or follows from what was, in contrast to the default.
func (o Origin) IsSet() bool { return o.Layer != LayerDefault && o.Layer != "" }

// String describes the origin in a few words.
func (o Origin) String() string {
	switch o.Layer {
	case LayerFlag:
		return "flag " + o.Name
	case LayerEnv:
		return "env " + o.Name
	case LayerFile:
		return "file " + o.File + ": " + o.Name
	case LayerDerived:
		return "derived: " + o.Why
	}
	return "default"
}

// spelt is the setting's name in messages.
func (o Origin) spelt() string {
	if o.Layer == LayerFile {
		return fmt.Sprintf("%s in %s", o.Name, o.File)
	}
	return o.Name
}

// entry is one text in one layer.
type entry struct {
	text   string
	origin Origin
}
