//go:build !amd64 || purego

package simd

func moreFixed() map[string]fixedKernels { return nil }
