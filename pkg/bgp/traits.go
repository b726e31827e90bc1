package bgp

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// maxPrepend bounds how long a path is made.
const maxPrepend = 32

// ParseTraits reads what somebody asks for by name: communities, local-pref, med, prepend, aggregation-length and
// aggregation-length-v6. resolve says which community somebody means, by its numbers or a name. What is wrong is left
// out, and named by prefix and the trait's name; nil is nothing.
func ParseTraits(prefix string, traits map[string]string, resolve func(s string) (value string, large bool, err error)) (*Attributes, error) {
	var a Attributes
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(traits)) {
		if err := a.take(name, strings.TrimSpace(traits[name]), resolve); err != nil {
			errs = append(errs, fmt.Errorf("annotation %s%s: %w", prefix, name, err))
		}
	}
	err := errors.Join(errs...)
	if a.text() == (Attributes{}).text() {
		return nil, err
	}
	return &a, err
}

func (a *Attributes) take(name, value string, resolve func(s string) (value string, large bool, err error)) error {
	number := func(least, most uint64) (uint64, error) {
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("%q is not a number from %d to %d", value, least, most)
		}
		return n, nil
	}
	set := func(to **uint32, most uint64) error {
		n, err := number(0, most)
		if err == nil {
			*to = new(uint32(n))
		}
		return err
	}
	length := func(to *int, most uint64) error {
		n, err := number(1, most)
		if err == nil {
			*to = int(n)
		}
		return err
	}
	switch name {
	case "communities":
		return a.communities(strings.Split(value, ","), resolve)
	case "local-pref":
		return set(&a.LocalPref, 1<<32-1)
	case "med":
		return set(&a.MED, 1<<32-1)
	case "prepend":
		return set(&a.Prepend, maxPrepend)
	case "aggregation-length":
		return length(&a.Aggregate4, 32)
	case "aggregation-length-v6":
		return length(&a.Aggregate6, 128)
	}
	return errors.New("it is none of communities, local-pref, med, prepend, aggregation-length, aggregation-length-v6")
}

// communities adds those of a list.
func (a *Attributes) communities(list []string, resolve func(s string) (value string, large bool, err error)) error {
	var errs []error
	for _, text := range list {
		value, large, err := resolve(strings.TrimSpace(text))
		if err == nil {
			err = a.Add(value, large)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Add adds a community as users write it, 65000:100, or a large one, 65000:1:2. What is there already stays.
func (a *Attributes) Add(text string, large bool) error {
	if large {
		c, err := ParseLarge(text)
		if err == nil {
			a.Large = union(a.Large, []Large{c})
		}
		return err
	}
	c, err := ParseCommunity(text)
	if err == nil {
		a.Communities = union(a.Communities, []uint32{c})
	}
	return err
}
