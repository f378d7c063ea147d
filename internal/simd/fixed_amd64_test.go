//go:build amd64 && !purego

package simd

// withoutVNNI is AVX-512 without VNNI, on a machine that has it; nil elsewhere.
func withoutVNNI() *Kernels {
	if kernels(AVX512) == nil {
		return nil
	}
	k := *kernels(AVX512)
	k.fixed, k.fixedCirculant = fixedAVX512, fixedCirculantAVX512
	return &k
}
