package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxFile bounds what is read as a config file; a real one has a few kilobytes.
const maxFile = 1 << 20

// readFile reads a config file into the texts of its keys.
func readFile(path string) (map[string]string, error) {
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".json", ".yaml", ".yml":
	default:
		return nil, fmt.Errorf("read config file %s: want a name that ends in .yaml, .yml or .json", path)
	}
	data, err := readBounded("config file", path)
	if err != nil {
		return nil, err
	}
	values, err := parseFile(data)
	if err != nil {
		return nil, fmt.Errorf("read config file %s: %w", path, err)
	}
	return values, nil
}

// readBounded reads a file, called what in errors, that has at most maxFile bytes.
func readBounded(what, path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("read %s %s: it has more than %d bytes", what, path, maxFile)
	}
	return data, nil
}

// parseFile parses the YAML or JSON of a config file into the texts of its keys, as they are spelt there. A key
// without a value (null) counts as not written.
func parseFile(data []byte) (map[string]string, error) {
	if err := oneDocument(data); err != nil {
		return nil, err
	}
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, errors.New(strings.Join(strings.Fields(err.Error()), " "))
	}
	if string(bytes.TrimSpace(asJSON)) == "null" {
		return nil, nil
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(asJSON, &keys); err != nil {
		return nil, errors.New("want a mapping of settings to values at the top")
	}
	values := make(map[string]string, len(keys))
	var errs []error
	for key, raw := range keys {
		text, ok, err := scalar(raw)
		if err != nil {
			errs = append(errs, fmt.Errorf("key %q: %w", key, err))
		}
		if ok {
			values[key] = text
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return values, oneLine(errs)
}

// scalar renders a value of a config file as the text that a flag would have. A list becomes a comma list, a mapping
// stays JSON. ok is false for null.
func scalar(raw json.RawMessage) (text string, ok bool, err error) {
	switch raw[0] {
	case 'n':
		return "", false, nil
	case '"':
		err := json.Unmarshal(raw, &text)
		return text, err == nil, err
	case '[':
		var list []json.RawMessage
		if err := json.Unmarshal(raw, &list); err != nil {
			return "", false, err
		}
		parts := make([]string, len(list))
		for i, item := range list {
			part, ok, err := scalar(item)
			if err != nil || !ok || item[0] == '[' || item[0] == '{' {
				return "", false, errors.New("want a list of plain values")
			}
			parts[i] = part
		}
		return strings.Join(parts, ","), true, nil
	}
	return string(raw), true, nil // a number, a boolean, a mapping
}

// oneDocument refuses a second YAML document: the parser would leave it out without a word.
func oneDocument(data []byte) error {
	content := false
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, " \t\r\n")
		switch {
		case line == "---" || strings.HasPrefix(line, "--- "):
			if content {
				return errors.New("there is more than one YAML document")
			}
			content = line != "---"
		case line != "" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "%"):
			content = true
		}
	}
	return nil
}
