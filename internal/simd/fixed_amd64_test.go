//go:build amd64 && !purego

package simd

// moreFixed are implementations beside those of the paths: AVX-512 without VNNI,
// on a machine that has it.
func moreFixed() map[string]fixedKernels {
	if kernels(AVX512) == nil {
		return nil
	}
	return map[string]fixedKernels{"avx512 without vnni": fixedAVX512}
}
