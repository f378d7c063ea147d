//go:build !amd64 || purego

package simd

func withoutVNNI() *Kernels { return nil }
