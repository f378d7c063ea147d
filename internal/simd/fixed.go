package simd

import "fmt"

// A fixed-point product multiplies int16 by int16 and sums exactly. Two
// neighbours of a row meet in one 32-bit word, so the unit of a sum is the
// pair: w₀·x₀ + w₁·x₁ with |w| ≤ 32767 and |x| ≤ 32768 is at most
// 2·32767·32768 < 2³¹. Kernels add pairs in 32 bits, as many as cannot overflow
// whatever x is, and then move the sum over to 64 bits. How many that are
// depends on the weights alone and is worked out when they are packed: a group
// of pairs has Σ (|w₀| + |w₁|) ≤ 65535, so its sum is at most 65535·32768 <
// 2³¹ in every lane.

// FixedWeights are the weights W [m, n] of a fixed-point product with what is
// done to its sums, in the order in which the kernels of one path read them;
// see [Kernels.PackFixed].
type FixedWeights struct {
	m, n, lanes int
	pairs       int
	panels      []fixedPanel
}

// fixedPanel has the weights of lanes outputs. Sums are kept in two vectors of
// 64-bit lanes, those of even and those of odd outputs; ends has what is added
// to them, by how much they are shifted, and 2⁶³⁻ˢ, [3, even and odd, lanes/2].
type fixedPanel struct {
	w      []int32 // [pairs, lanes]: low half the first weight of a pair
	groups []int32 // pairs of each group
	ends   []int64
}

// fixedKernels is what a path brings to fixed-point products. A tile computes,
// for r < rows and the l-th output of a panel,
//
//	s[l] = Σ_k w[k, l]·a[r·lda+k] + add[l]
//	dst[r·ldd+l] = min(max(⌊s[l]/2^shift[l]⌋, low), high)
//
// as int16, in which low and high fit.
type fixedKernels struct {
	lanes, maxRows int
	tile           func(dst []int16, ldd int, a []int16, lda int, w, groups []int32, ends []int64, low, high int64, rows int)
}

// maxFixedTile is the largest number of elements of a tile of any path.
const maxFixedTile = 8 * 16

// PackFixed prepares the product with the matrix W [m, n], of weights from
// −32767 to 32767. Output r of it is
//
//	clamp(round((Σ_k W[r, k]·x[k] + bias[r]) / 2^shift[r]))
//
// rounded half up, with shift from 0 to 62, |bias| ≤ 2⁶⁰ and n ≤ 2²⁸: sums,
// biases and the half stay below 2⁵⁸ + 2⁶⁰ + 2⁶¹ < 2⁶³.
func (kn *Kernels) PackFixed(w []int16, m, n int, bias []int64, shift []int32) FixedWeights {
	if len(w) != m*n || len(bias) != m || len(shift) != m || n > 1<<28 {
		panic(fmt.Sprintf("simd: PackFixed: %d weights, %d biases and %d shifts for %d×%d", len(w), len(bias), len(shift), m, n))
	}
	lanes := kn.fixed.lanes
	p := FixedWeights{m: m, n: n, lanes: lanes, pairs: (n + 1) / 2}
	for first := 0; first < m; first += lanes {
		panel := fixedPanel{w: make([]int32, p.pairs*lanes), ends: make([]int64, 3*lanes)}
		sums := make([]int, lanes)
		size := int32(0)
		for k := range p.pairs {
			full := false
			var weight [64]int
			for l := range min(lanes, m-first) {
				row := w[(first+l)*n : (first+l+1)*n]
				w0, w1 := row[2*k], int16(0)
				if 2*k+1 < n {
					w1 = row[2*k+1]
				}
				if w0 == -1<<15 || w1 == -1<<15 {
					panic("simd: PackFixed: a weight is -32768, want at least -32767")
				}
				panel.w[k*lanes+l] = int32(uint32(uint16(w0)) | uint32(uint16(w1))<<16)
				weight[l] = max(int(w0), -int(w0)) + max(int(w1), -int(w1))
				full = full || sums[l]+weight[l] > 65535
			}
			if full {
				panel.groups = append(panel.groups, size)
				clear(sums)
				size = 0
			}
			for l := range sums {
				sums[l] += weight[l]
			}
			size++
		}
		if size > 0 {
			panel.groups = append(panel.groups, size)
		}
		for l := range min(lanes, m-first) {
			b, s := bias[first+l], shift[first+l]
			if s < 0 || s > 62 || b > 1<<60 || b < -1<<60 {
				panic(fmt.Sprintf("simd: PackFixed: bias %d with shift %d", b, s))
			}
			at := l%2*(lanes/2) + l/2
			if panel.ends[at] = b; s > 0 {
				panel.ends[at] += 1 << (s - 1)
			}
			panel.ends[lanes+at] = int64(s)
		}
		for l := range lanes {
			panel.ends[2*lanes+l] = int64(uint64(1) << (63 - panel.ends[lanes+l]))
		}
		p.panels = append(p.panels, panel)
	}
	return p
}

// Dims returns the numbers of outputs and inputs.
func (w FixedWeights) Dims() (m, n int) { return w.m, w.n }

// Slack is how many elements after the last row a product may read, without
// any effect.
const Slack = 1

// Fixed16 multiplies rows rows of n elements, row r starting at x[r·ldx], by the
// weights and stores outputs clamped to int16, row r of m at y[r·ldy]. x has
// Slack more elements than the last row needs, unless n is even.
func (kn *Kernels) Fixed16(y []int16, ldy int, w *FixedWeights, x []int16, ldx, rows int) {
	if w.lanes != kn.fixed.lanes {
		panic("simd: Fixed: weights were packed for another path")
	}
	if rows == 0 || w.m == 0 {
		return
	}
	if ldy < w.m && rows > 1 || len(y) < (rows-1)*ldy+w.m || len(x) < (rows-1)*ldx+2*w.pairs {
		panic(fmt.Sprintf("simd: Fixed: %d rows of %d and %d elements, %d and %d apart, in slices of %d and %d", rows, w.n, w.m, ldx, ldy, len(x), len(y)))
	}
	var stage [maxFixedTile]int16
	for i := range w.panels {
		p := &w.panels[i]
		first := i * w.lanes
		cols := min(w.lanes, w.m-first)
		for r := 0; r < rows; r += kn.fixed.maxRows {
			n := min(kn.fixed.maxRows, rows-r)
			var a []int16
			if w.n > 0 {
				a = x[r*ldx:]
			}
			if cols == w.lanes {
				kn.fixed.tile(y[r*ldy+first:], ldy, a, ldx, p.w, p.groups, p.ends, -1<<15, 1<<15-1, n)
				continue
			}
			kn.fixed.tile(stage[:], w.lanes, a, ldx, p.w, p.groups, p.ends, -1<<15, 1<<15-1, n)
			for k := range n {
				copy(y[(r+k)*ldy+first:][:cols], stage[k*w.lanes:])
			}
		}
	}
}

const portableFixedLanes = 8

var portableFixed = fixedKernels{lanes: portableFixedLanes, maxRows: 4, tile: fixedTile}

// fixedTile is the portable tile.
func fixedTile(dst []int16, ldd int, a []int16, lda int, w, groups []int32, ends []int64, low, high int64, rows int) {
	const lanes = portableFixedLanes
	for r := range rows {
		var sums [lanes]int64
		at, k := 0, 0
		for _, g := range groups {
			var s [lanes]int32
			for range g {
				x0, x1 := int32(a[r*lda+k]), int32(a[r*lda+k+1])
				for l, v := range (*[lanes]int32)(w[at:]) {
					s[l] += int32(int16(v))*x0 + v>>16*x1
				}
				at, k = at+lanes, k+2
			}
			for l := range sums {
				sums[l] += int64(s[l])
			}
		}
		for l, v := range sums {
			e := l%2*(lanes/2) + l/2
			dst[r*ldd+l] = int16(min(max((v+ends[e])>>uint(ends[lanes+e]), low), high))
		}
	}
}
