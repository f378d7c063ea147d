//go:build amd64 && !purego

package simd

import "golang.org/x/sys/cpu"

// What the paths need; the generator holds the assembly to it.
var (
	hasAVX2   = cpu.X86.HasAVX && cpu.X86.HasAVX2 && cpu.X86.HasFMA && cpu.X86.HasBMI2
	hasAVX512 = hasAVX2 && cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL
)

// kernels returns the kernels of path p, nil where there are none.
func kernels(p Path) *Kernels {
	switch {
	case p == Portable:
		return &portable
	case p == AVX2 && hasAVX2:
		return &avx2
	case p == AVX512 && hasAVX512:
		return &avx512
	}
	return nil
}

var avx2 = Kernels{
	path: AVX2,
	gemm: gemmKernels{lanes: 8, maxVecs: 2, maxRows: 6, tile: gemmTileAVX2},

	add: add, sub: sub, mul: mul, div: div, max: maximum, min: minimum,
	addScalar: addScalar, mulScalar: mulScalar, divScalar: divScalar,
	maxScalar: maxScalar, minScalar: minScalar,
	scalarSub: scalarSub, scalarDiv: scalarDiv,
	relu: relu, axpy: axpy,

	exp: exp, tanh: tanh, sigmoid: sigmoid, silu: silu,
	erf: erf, gelu: gelu, geluTanh: geluTanh,

	sum: sum, maxOf: maxOf, minOf: minOf, dot: dot,
	centredSumSq: centredSumSq, expSum: expSum,
	normScale: normScale, normAffine: normAffine,

	dotF64: dotF64, momentsF64: momentsF64,
}

var avx512 = Kernels{
	path: AVX512,
	gemm: gemmKernels{lanes: 16, maxVecs: 3, maxRows: 8, tile: gemmTileAVX512},

	add: add, sub: sub, mul: mul, div: div, max: maximum, min: minimum,
	addScalar: addScalar, mulScalar: mulScalar, divScalar: divScalar,
	maxScalar: maxScalar, minScalar: minScalar,
	scalarSub: scalarSub, scalarDiv: scalarDiv,
	relu: relu, axpy: axpy,

	exp: exp, tanh: tanh, sigmoid: sigmoid, silu: silu,
	erf: erf, gelu: gelu, geluTanh: geluTanh,

	sum: sum, maxOf: maxOf, minOf: minOf, dot: dot,
	centredSumSq: centredSumSq, expSum: expSum,
	normScale: normScale, normAffine: normAffine,

	dotF64: dotF64, momentsF64: momentsF64,
}
