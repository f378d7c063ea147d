// Package simd holds the vector kernels: matrix multiplication, transcendental
// functions, row reductions and normalisations over float32 slices.
//
// A [Kernels] value is one implementation of all of them. There is one for
// every [Path]: portable Go (any architecture, and everything under
// `-tags purego`), AVX2 with FMA, and AVX-512 (F, BW, DQ, VL). They are
// immutable and safe for concurrent use; a program picks one, usually when it
// compiles a model, and passes it on:
//
//	k, err := simd.For(simd.Auto)
//
// Every kernel gives the same bits for the same input on the same path and
// architecture, whatever the alignment of its slices. Bits may differ between
// paths, within the errors that the methods state. One ulp is the distance
// between neighbouring float32 values at the exact result; near zero it is
// 2⁻¹⁴⁹.
//
// # Layout
//
// Kernel family x lives in x.go (methods, argument checks, portable code),
// x_amd64.s (assembly, generated), and x_amd64.go (its stubs, generated; the
// comment of a stub is its reference loop). Package gen, a module of its own,
// generates the last two; its test fails when they are out of date.
//
// Kernels panic when slices do not fit each other: that is a mistake of the
// calling code, never of a model or its data.
package simd

//go:generate go run -C gen . -write ..

import (
	"fmt"
	"os"

	"github.com/klauspost/cpuid/v2"
)

// Path names an implementation of the kernels.
type Path uint8

// The paths, slowest first after Auto.
const (
	Auto     Path = iota // what LATHE_SIMD says, or else the best of this machine
	Portable             // Go, no assembly
	AVX2                 // AVX2, FMA3 and BMI2
	AVX512               // AVX-512 F, BW, DQ and VL besides
)

var pathNames = [...]string{Auto: "auto", Portable: "portable", AVX2: "avx2", AVX512: "avx512"}

// String returns the name that [ParsePath] takes.
func (p Path) String() string {
	if int(p) < len(pathNames) {
		return pathNames[p]
	}
	return fmt.Sprintf("path(%d)", uint8(p))
}

// ParsePath returns the path of that name: auto, portable, avx2 or avx512.
func ParsePath(name string) (Path, error) {
	for p, s := range pathNames {
		if s == name {
			return Path(p), nil
		}
	}
	return 0, fmt.Errorf("simd: unknown path %q: use auto, portable, avx2 or avx512", name)
}

// Supported lists the paths that this build has and this machine can run,
// slowest first. Portable is always there.
func Supported() []Path {
	var ps []Path
	for p := Portable; int(p) < len(pathNames); p++ {
		if kernels(p) != nil {
			ps = append(ps, p)
		}
	}
	return ps
}

// For returns the kernels of path p, or an error when this build does not have
// them or this machine cannot run them. Auto stands for the path that the
// environment variable LATHE_SIMD named when the program started, and for that
// of [Best] when it was unset, empty or auto.
func For(p Path) (*Kernels, error) {
	if p == Auto {
		return auto(envPath)
	}
	if k := kernels(p); k != nil {
		return k, nil
	}
	return nil, fmt.Errorf("simd: path %v: not in this build or not on this machine, use one of %v", p, Supported())
}

// OrAuto returns k, or the kernels of Auto where it is nil: for packages whose
// users cannot name a Kernels.
func (k *Kernels) OrAuto() (*Kernels, error) {
	if k != nil {
		return k, nil
	}
	return For(Auto)
}

var envPath = os.Getenv("LATHE_SIMD")

// auto returns the kernels that LATHE_SIMD asks for.
func auto(env string) (*Kernels, error) {
	if env == "" || env == Auto.String() {
		return Best(), nil
	}
	p, err := ParsePath(env)
	if err != nil {
		return nil, fmt.Errorf("LATHE_SIMD: %w", err)
	}
	k, err := For(p)
	if err != nil {
		return nil, fmt.Errorf("LATHE_SIMD: %w", err)
	}
	return k, nil
}

// Best returns the kernels of the fastest path that this machine can run.
func Best() *Kernels {
	ps := Supported()
	return kernels(ps[len(ps)-1])
}

// Kernels is one implementation of every kernel; see [For]. Its fields are the parts that differ between paths; the exported
// methods check their arguments and call them. The comment of the method, or of
// the portable function in [portable], says what a field computes.
type Kernels struct {
	path           Path
	store          *Store
	gemm           gemmKernels
	conv           convKernels
	circulant      circulantKernels
	fixed          fixedKernels
	fixedCirculant fixedCirculantKernels

	add, sub, mul, div, max, min, reluGradient            func(dst, x, y []float32)
	addScalar, mulScalar, divScalar, maxScalar, minScalar func(dst, x []float32, a float32)
	scalarSub, scalarDiv                                  func(dst, x []float32, a float32)
	relu                                                  func(dst, x []float32)
	maxOfFourGradient                                     func(dx []float32, xStep int, dy, x, y []float32, rows, width int)
	axpy                                                  func(dst, x []float32, a float32)

	exp, tanh, sigmoid, silu, erf, gelu, geluTanh func(dst, x []float32)

	sum, maxOf, minOf func(x []float32) float32
	dot               func(x, y []float32) float32
	centredSumSq      func(x []float32, mean float32) float32
	softmax           func(dst, x, mask []float32, scale float32)
	normScale         func(dst, x, gamma []float32, mean, scale float32)
	normAffine        func(dst, x, gamma, beta []float32, mean, scale float32)

	momentsF64 func(x, y []float32) (xy, xx, yy float64)

	quantize16       func(dst []int16, x []float32, scale float32)
	dequantize16     func(dst []float32, x []int16, scale float32)
	dequantizeEach16 func(dst []float32, x []int16, scales []float32)
	requantize16     func(dst, x []int16, left, right uint64, half int32)
	add16            func(dst, x, y []int16, leftX, leftY, right uint64, half int32)
	clip16           func(dst, x []int16, low, high int16)
	energy16         func(x []int16) int32
	transpose16      func(dst []int16, dstStep int, src []int16, srcStep, rows, cols int)
	slideMax16       func(z []int16, zStep int, x []int16, xStep int, offsets []int32, rows, width, stride int)
	slideSum16       func(z []int32, zStep int, x []int16, xStep int, offsets []int32, rows, width, stride int)
	pieces32         func(dst, src, places, masks []int32)
	sum16            func(x []int16) int32

	multiplyAdds func(x []float32, rounds int)
}

// SecondCache is the size of a core's second cache in bytes; 1 MB where the machine
// does not tell.
func SecondCache() int {
	if n := cpuid.CPU.Cache.L2; n > 0 {
		return n
	}
	return 1 << 20
}

// With returns k with a store for what it packs: a program has one for its weights.
func (k *Kernels) With(s *Store) *Kernels {
	own := *k
	own.store = s
	return &own
}

// Path returns the path that k implements.
func (k *Kernels) Path() Path { return k.path }

// portable is the reference implementation.
var portable = Kernels{
	path:           Portable,
	gemm:           gemmKernels{lanes: 4, maxVecs: 1, maxRows: 2, tile: gemmTile, transpose: transpose4, group: 4},
	conv:           convKernels{lanes: 4, pixels: 2, tiles: convTiles, slideConv: slideConv, slideMax: slideMax, slideSum: slideSum, padRows: padRows, winogradInput: winogradInput, winogradOutput: winogradOutput},
	circulant:      portableCirculant,
	fixed:          portableFixed,
	fixedCirculant: portableFixedCirculant,

	add: add, sub: sub, mul: mul, div: div, max: maximum, min: minimum,
	addScalar: addScalar, mulScalar: mulScalar, divScalar: divScalar,
	maxScalar: maxScalar, minScalar: minScalar,
	scalarSub: scalarSub, scalarDiv: scalarDiv,
	relu: relu, reluGradient: reluGradient, axpy: axpy,
	maxOfFourGradient: maxOfFourGradient,

	exp: exp, tanh: tanh, sigmoid: sigmoid, silu: silu,
	erf: erf, gelu: gelu, geluTanh: geluTanh,

	sum: sum, maxOf: maxOf, minOf: minOf, dot: dot,
	centredSumSq: centredSumSq, softmax: softmax,
	normScale: normScale, normAffine: normAffine,

	momentsF64: momentsF64,

	quantize16: quantize16, dequantize16: dequantize16, dequantizeEach16: dequantizeEach16,
	requantize16: requantize16, add16: add16, clip16: clip16, energy16: energy16,
	transpose16: transpose16, slideMax16: slideMax16, slideSum16: slideSum16, pieces32: pieces32, sum16: sum16,

	multiplyAdds: multiplyAdds,
}

// sameLen panics unless y has as many elements as dst.
func sameLen(op string, dst, y []float32) {
	if len(dst) != len(y) {
		panic(fmt.Sprintf("simd: %s: slices of %d and %d elements, want equal lengths", op, len(dst), len(y)))
	}
}
