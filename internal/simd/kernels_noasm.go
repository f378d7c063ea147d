//go:build !amd64 || purego

package simd

// kernels returns the kernels of path p, nil where there are none.
func kernels(p Path) *Kernels {
	if p == Portable {
		return &portable
	}
	return nil
}
