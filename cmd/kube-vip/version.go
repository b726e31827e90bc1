package main

import (
	"encoding/json"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// build is what the linker recorded of this binary.
type build struct {
	// Version is the release, v1.2.3; or a pseudo-version of the commit; or "devel" when nothing is known.
	Version string `json:"version"`
	// Commit is the revision that was built, with "-dirty" behind it when files were changed since.
	Commit string `json:"commit,omitempty"`
	// CommitTime is when that was committed (RFC 3339).
	CommitTime string `json:"commitTime,omitempty"`
	GoVersion  string `json:"goVersion"`
	Platform   string `json:"platform"`
}

// builtFrom reads the record that `go build` leaves in a binary, so that no build script has to pass a version.
func builtFrom(info *debug.BuildInfo) build {
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	b := build{
		Version:    info.Main.Version,
		Commit:     settings["vcs.revision"],
		CommitTime: settings["vcs.time"],
		GoVersion:  info.GoVersion,
		Platform:   settings["GOOS"] + "/" + settings["GOARCH"],
	}
	if b.Version == "" || b.Version == "(devel)" {
		b.Version = "devel"
	}
	if b.Commit != "" && settings["vcs.modified"] == "true" {
		b.Commit += "-dirty"
	}
	return b
}

// released reports whether an image with this version as its tag can have been published.
func (b build) released() bool {
	var major, minor, patch int
	n, err := fmt.Sscanf(b.Version, "v%d.%d.%d", &major, &minor, &patch)
	// A pseudo-version, v0.0.0-20060102150405-abcdef, has two dashes; a pre-release, v1.2.0-rc.1, has one.
	return err == nil && n == 3 && !strings.Contains(b.Version, "+") && strings.Count(b.Version, "-") < 2
}

func (p *program) versionCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:         "version",
		Short:       "Print the version of this program",
		Args:        noArguments,
		Annotations: map[string]string{takesNoSettings: "true"},
		RunE: func(*cobra.Command, []string) error {
			switch format {
			case "json":
				out, err := json.MarshalIndent(p.build, "", "  ")
				if err != nil {
					return err
				}
				return p.print(append(out, '\n'))
			case "text":
				return p.print([]byte(p.build.String()))
			}
			return fmt.Errorf("--output %q is not a format: want text or json", format)
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "text", "format: text or json")
	complete(cmd, "output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// String is the build for people, one line each.
func (b build) String() string {
	commit := b.Commit
	if commit == "" {
		commit = "unknown"
	}
	if b.CommitTime != "" {
		commit += " of " + b.CommitTime
	}
	return fmt.Sprintf("Version:  %s\nBuild:    %s\nGo:       %s\nPlatform: %s\n", b.Version, commit, b.GoVersion, b.Platform)
}
