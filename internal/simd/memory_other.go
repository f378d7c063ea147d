//go:build !linux

package simd

func largePages([]float32) {}
