//go:build race

package ha

// defaultSeeds is less under the race detector, which is ten times slower.
const defaultSeeds = 50
