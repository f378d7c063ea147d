//go:build !linux

package simd

const hasLargePages = false

func largePages([]float32) {}
