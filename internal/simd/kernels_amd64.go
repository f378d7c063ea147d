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
	path:           AVX2,
	gemm:           gemmKernels{lanes: 8, maxVecs: 2, maxRows: 6, tile: gemmTileAVX2, transpose: transposeAVX2, group: 8},
	conv:           convKernels{lanes: 8, pixels: 3, tiles: convTilesAVX2, slideConv: slideConvAVX2, slideMax: slideMaxAVX2, slideSum: slideSumAVX2, padRows: padRowsAVX2, winogradInput: winogradInputAVX2, winogradOutput: winogradOutputAVX2},
	circulant:      circulantAVX2,
	fixed:          fixedAVX2,
	fixedCirculant: fixedCirculantAVX2,

	add: addAVX2, sub: subAVX2, mul: mulAVX2, div: divAVX2, max: maxAVX2, min: minAVX2,
	addScalar: addScalarAVX2, mulScalar: mulScalarAVX2, divScalar: divScalarAVX2,
	maxScalar: maxScalarAVX2, minScalar: minScalarAVX2,
	scalarSub: scalarSubAVX2, scalarDiv: scalarDivAVX2,
	relu: reluAVX2, reluGradient: reluGradientAVX2, axpy: axpyAVX2,
	maxOfFourGradient: maxOfFourGradientAVX2,

	exp: expAVX2, tanh: tanhAVX2, sigmoid: sigmoidAVX2, silu: siluAVX2,
	erf: erfAVX2, gelu: geluAVX2, geluTanh: geluTanhAVX2,

	sum: sumAVX2, maxOf: maxOfAVX2, minOf: minOfAVX2, dot: dotAVX2,
	centredSumSq: centredSumSqAVX2, softmax: softmaxAVX2,
	normScale: normScaleAVX2, normAffine: normAffineAVX2,

	momentsF64: momentsF64AVX2,

	quantize16: quantize16AVX2, dequantize16: dequantize16AVX2, dequantizeEach16: dequantizeEach16AVX2,
	requantize16: requantize16AVX2, add16: add16AVX2, clip16: clip16AVX2, energy16: energy16AVX2,
	transpose16: transpose16AVX2, slideMax16: slideMax16AVX2, slideSum16: slideSum16AVX2, pieces32: pieces32AVX2, sum16: sum16AVX2,

	multiplyAdds: multiplyAddsAVX2,
}

var avx512 = Kernels{
	path:           AVX512,
	gemm:           gemmKernels{lanes: 16, maxVecs: 3, maxRows: 8, tile: gemmTileAVX512, transpose: transposeAVX512, group: 8},
	conv:           convKernels{lanes: 16, pixels: 7, tiles: convTilesAVX512, slideConv: slideConvAVX512, slideMax: slideMaxAVX512, slideSum: slideSumAVX512, padRows: padRowsAVX512, winogradInput: winogradInputAVX512, winogradOutput: winogradOutputAVX512},
	circulant:      circulantAVX512,
	fixed:          bestFixedAVX512(),
	fixedCirculant: bestFixedCirculantAVX512(),

	add: addAVX512, sub: subAVX512, mul: mulAVX512, div: divAVX512, max: maxAVX512, min: minAVX512,
	addScalar: addScalarAVX512, mulScalar: mulScalarAVX512, divScalar: divScalarAVX512,
	maxScalar: maxScalarAVX512, minScalar: minScalarAVX512,
	scalarSub: scalarSubAVX512, scalarDiv: scalarDivAVX512,
	relu: reluAVX512, reluGradient: reluGradientAVX512, axpy: axpyAVX512,
	maxOfFourGradient: maxOfFourGradientAVX512,

	exp: expAVX512, tanh: tanhAVX512, sigmoid: sigmoidAVX512, silu: siluAVX512,
	erf: erfAVX512, gelu: geluAVX512, geluTanh: geluTanhAVX512,

	sum: sumAVX512, maxOf: maxOfAVX512, minOf: minOfAVX512, dot: dotAVX512,
	centredSumSq: centredSumSqAVX512, softmax: softmaxAVX512,
	normScale: normScaleAVX512, normAffine: normAffineAVX512,

	momentsF64: momentsF64AVX512,

	quantize16: quantize16AVX512, dequantize16: dequantize16AVX512, dequantizeEach16: dequantizeEach16AVX512,
	requantize16: requantize16AVX512, add16: add16AVX512, clip16: clip16AVX512, energy16: energy16AVX512,
	transpose16: transpose16AVX512, slideMax16: slideMax16AVX512, slideSum16: slideSum16AVX512, pieces32: pieces32AVX512, sum16: sum16AVX512,

	multiplyAdds: multiplyAddsAVX512,
}

// Transforms are indexed by log₂ b.

var circulantAVX2 = circulantKernels{
	lanes: 8, maxTile: 6, maxPairs: 3, maxVecs: 3,
	forward: [...]circulantTransform{
		1: circulantForward2AVX2, circulantForward4AVX2, circulantForward8AVX2, circulantForward16AVX2,
		circulantForward32AVX2, circulantForward64AVX2, circulantForward128AVX2, circulantForward256AVX2,
	},
	inverse: [...]circulantInverse{
		1: circulantInverse2AVX2, circulantInverse4AVX2, circulantInverse8AVX2, circulantInverse16AVX2,
		circulantInverse32AVX2, circulantInverse64AVX2, circulantInverse128AVX2, circulantInverse256AVX2,
	},
	image: [...]circulantImage{
		1: circulantForwardImage2AVX2, circulantForwardImage4AVX2, circulantForwardImage8AVX2, circulantForwardImage16AVX2,
		circulantForwardImage32AVX2, circulantForwardImage64AVX2, circulantForwardImage128AVX2, circulantForwardImage256AVX2,
	},
	unimage: [...]circulantImageInverse{
		1: circulantInverseImage2AVX2, circulantInverseImage4AVX2, circulantInverseImage8AVX2, circulantInverseImage16AVX2,
		circulantInverseImage32AVX2, circulantInverseImage64AVX2, circulantInverseImage128AVX2, circulantInverseImage256AVX2,
	},
	tile: circulantTileAVX2, pairs: circulantPairsAVX2, row: circulantRowAVX2, ask: circulantAskAVX2,
}

var circulantAVX512 = circulantKernels{
	lanes: 16, maxTile: 12, maxPairs: 8, maxVecs: 3,
	forward: [...]circulantTransform{
		1: circulantForward2AVX512, circulantForward4AVX512, circulantForward8AVX512, circulantForward16AVX512,
		circulantForward32AVX512, circulantForward64AVX512, circulantForward128AVX512, circulantForward256AVX512,
	},
	inverse: [...]circulantInverse{
		1: circulantInverse2AVX512, circulantInverse4AVX512, circulantInverse8AVX512, circulantInverse16AVX512,
		circulantInverse32AVX512, circulantInverse64AVX512, circulantInverse128AVX512, circulantInverse256AVX512,
	},
	image: [...]circulantImage{
		1: circulantForwardImage2AVX512, circulantForwardImage4AVX512, circulantForwardImage8AVX512, circulantForwardImage16AVX512,
		circulantForwardImage32AVX512, circulantForwardImage64AVX512, circulantForwardImage128AVX512, circulantForwardImage256AVX512,
	},
	unimage: [...]circulantImageInverse{
		1: circulantInverseImage2AVX512, circulantInverseImage4AVX512, circulantInverseImage8AVX512, circulantInverseImage16AVX512,
		circulantInverseImage32AVX512, circulantInverseImage64AVX512, circulantInverseImage128AVX512, circulantInverseImage256AVX512,
	},
	tile: circulantTileAVX512, pairs: circulantPairsAVX512, row: circulantRowAVX512, ask: circulantAskAVX512,
}

var (
	fixedAVX2       = fixedKernels{lanes: 8, maxRows: 6, tile: fixedTileAVX2, pair: fixedPairAVX2}
	fixedAVX512     = fixedKernels{lanes: 16, maxRows: 14, tile: fixedTileAVX512, pair: fixedPairAVX512}
	fixedAVX512VNNI = fixedKernels{lanes: 16, maxRows: 14, tile: fixedTileAVX512VNNI, pair: fixedPairAVX512VNNI}
)

var fixedCirculantAVX2 = fixedCirculantKernels{
	lanes: 8, maxRows: 6,
	forward: [...]fixedForward{
		1: fixedForward2AVX2, fixedForward4AVX2, fixedForward8AVX2, fixedForward16AVX2,
		fixedForward32AVX2, fixedForward64AVX2, fixedForward128AVX2, fixedForward256AVX2,
	},
	inverse: [...]fixedInverse{
		1: fixedInverse2AVX2, fixedInverse4AVX2, fixedInverse8AVX2, fixedInverse16AVX2,
		fixedInverse32AVX2, fixedInverse64AVX2, fixedInverse128AVX2, fixedInverse256AVX2,
	},
	product: fixedProductAVX2,
}

var fixedCirculantAVX512 = fixedCirculantKernels{
	lanes: 16, maxRows: 12,
	forward: [...]fixedForward{
		1: fixedForward2AVX512, fixedForward4AVX512, fixedForward8AVX512, fixedForward16AVX512,
		fixedForward32AVX512, fixedForward64AVX512, fixedForward128AVX512, fixedForward256AVX512,
	},
	inverse: [...]fixedInverse{
		1: fixedInverse2AVX512, fixedInverse4AVX512, fixedInverse8AVX512, fixedInverse16AVX512,
		fixedInverse32AVX512, fixedInverse64AVX512, fixedInverse128AVX512, fixedInverse256AVX512,
	},
	product: fixedProductAVX512,
}

// bestFixedCirculantAVX512 has the product with VNNI where the machine has it.
func bestFixedCirculantAVX512() fixedCirculantKernels {
	k := fixedCirculantAVX512
	if cpu.X86.HasAVX512VNNI {
		k.product = fixedProductAVX512VNNI
	}
	return k
}

// bestFixedAVX512 returns the fixed-point kernels of AVX-512, with VNNI where
// the machine has it. Both give the same bits.
func bestFixedAVX512() fixedKernels {
	if cpu.X86.HasAVX512VNNI {
		return fixedAVX512VNNI
	}
	return fixedAVX512
}
