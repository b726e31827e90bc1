//go:build !race

package ha

// defaultSeeds is what takes a few seconds.
const defaultSeeds = 300
