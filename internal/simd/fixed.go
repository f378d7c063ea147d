package simd

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// A fixed-point product multiplies int16 by int16 and sums exactly. Two
// neighbours of a row meet in one 32-bit word, so the unit of a sum is the
// pair: w₀·x₀ + w₁·x₁ with |w| ≤ 32767 and |x| ≤ 32768 is at most
// 2·32767·32768 < 2³¹. Kernels add pairs in 32 bits, and before a sum can
// overflow they move what is above its low 16 bits over to a second sum of 32
// bits:
//
//	high += sum >> 16,  sum &= 2¹⁶ − 1
//
// How many pairs that are, a group, depends on the weights and the inputs. A
// group fits with room for what stays in the sum if
//
//	|Σ w·x| ≤ 2³¹ − 2¹⁶.
//
// Whatever the inputs are, that holds where Σ|w| ≤ 65534. And by Cauchy and
// Schwarz it holds where Σw²·Σx² ≤ (2³¹ − 2¹⁶)². [Kernels.Energy16] bounds the
// sum of the squares of sixteen inputs; FixedWeights has groups for every power
// of two of that bound, which are the longer the smaller the inputs are: at full
// scale two or three pairs, four to eight for common activations, for which
// Σ|w|·|x| is far from what it could be. The sums are exact either way, so results
// do not depend on the groups.

// FixedWeights are the weights W [m, n] of a fixed-point product with what is
// done to its sums, in the order in which the kernels of one path read them;
// see [Kernels.PackFixed].
type FixedWeights struct {
	m, n, lanes int
	runs, run   int // runs of so many elements; the kernels read an even number
	panels      []fixedPanel
}

// fixedPanel has the weights of lanes outputs: of two vectors where there is a
// kernel for that, but for a last one that fills no more than one.
type fixedPanel struct {
	lanes int
	w     []int32 // [pairs, lanes]: low half the first weight of a pair
	steps [energyLevels][]int32
	ends  []int32 // [7, lanes]; see fixedKernels
	wide  []fixedEnd
}

// fixedEnd is what becomes of a sum whose end takes more than 32 bits.
type fixedEnd struct {
	add   int64 // bias and half of a step
	shift uint8
}

// Inputs of the energy level l have energies of at most 2^(34−l), 34 being that
// of sixteen numbers −2¹⁵.
const (
	mostEnergy   = 34
	energyLevels = 12
)

// fixedKernels is what a path brings to fixed-point products. A tile computes,
// for r < rows and the l-th output of a panel,
//
//	s[l] = Σ_i Σ_k w[k, l]·a[r·lda + offsets[run] + skip + …]
//
// as a sum and a high part, and with the seven ends of an output
//
//	h = min(max(high[l] + e₁, e₂), e₃)
//	dst[r·ldd+l] = sat(⌊(h·2^e₄ + ⌊(sum[l] + e₀)/2^e₅⌋)/2^e₆⌋)
//
// over steps of (run, skip, 2·pairs + flush): so many pairs from a place of the
// row on, after which, with flush 1, sums are moved over. The last has no pairs.
// Where there are sums, it writes the low and the high parts of s [rows, 2, lanes]
// there and no dst. A pair is a tile of two vectors of outputs, lanes being those of
// both, with half of the rows; it may be nil.
type fixedKernels struct {
	lanes, maxRows int
	tile, pair     fixedTileFunc
}

type fixedTileFunc = func(dst []int16, ldd int, sums []int32, a []int16, lda int, offsets, w, steps, ends []int32, rows int)

// maxFixedTile is the largest number of elements of a tile of any path.
const maxFixedTile = 14 * 16

// Sums are moved over mostFlushes times at most before they are taken away, so
// that high parts stay below 2²⁹.
const mostFlushes = 1 << 14

// PackFixed prepares the product with the matrix W [m, n], of weights from
// −32767 to 32767. Output r of it is
//
//	clamp(round((Σ_k W[r, k]·x[k] + bias[r]) / 2^shift[r]))
//
// rounded half up, with shift from 0 to 62, |bias| ≤ 2⁶⁰ and n ≤ 2²⁸: sums,
// biases and the half stay below 2⁵⁸ + 2⁶⁰ + 2⁶¹ < 2⁶³. A row is read in runs of
// n/runs elements, each from a place of its own on.
func (kn *Kernels) PackFixed(w []int16, m, n, runs int, bias []int64, shift []int32) FixedWeights {
	if len(w) != m*n || len(bias) != m || len(shift) != m || n > 1<<28 || runs < 1 || n%runs != 0 {
		panic(fmt.Sprintf("simd: PackFixed: %d weights, %d biases and %d shifts for %d×%d in %d runs", len(w), len(bias), len(shift), m, n, runs))
	}
	p := FixedWeights{m: m, n: n, lanes: kn.fixed.lanes, runs: runs, run: n / runs}
	if kn.fixed.pair != nil {
		p.lanes *= 2
	}
	pairs := (p.run + 1) / 2 // of a run
	for first := 0; first < m; first += p.lanes {
		lanes := p.lanes
		if m-first <= kn.fixed.lanes {
			lanes = kn.fixed.lanes
		}
		panel := fixedPanel{lanes: lanes, w: make([]int32, runs*pairs*lanes), ends: make([]int32, 7*lanes)}
		ends, narrow := make([]fixedEnd, lanes), true
		for l := range min(lanes, m-first) {
			row := w[(first+l)*n : (first+l+1)*n]
			if slices.Contains(row, -1<<15) {
				panic("simd: PackFixed: a weight is -32768, want at least -32767")
			}
			for k := range runs * pairs {
				at := k/pairs*p.run + k%pairs*2
				w0, w1 := row[at], int16(0)
				if k%pairs*2+1 < p.run {
					w1 = row[at+1]
				}
				panel.w[k*lanes+l] = int32(uint32(uint16(w0)) | uint32(uint16(w1))<<16)
			}
			b, s := bias[first+l], shift[first+l]
			if s < 0 || s > 62 || b > 1<<60 || b < -1<<60 {
				panic(fmt.Sprintf("simd: PackFixed: bias %d with shift %d", b, s))
			}
			ends[l] = fixedEnd{b + halfOf(uint64(s)), uint8(s)}
			e := ends[l].add >> 16
			narrow = narrow && e >= -1<<29 && e < 1<<29
			// With a shift of 16 or more, low parts have an effect through what they
			// carry over alone, and 32 bits hold the rest; with a smaller one, high
			// parts beyond these limits are saturated whatever is below.
			least, most := int32(-1<<30), int32(1<<30)
			if s < 16 {
				least, most = -1<<15, 1<<14
			}
			for i, v := range []int32{int32(ends[l].add & 0xffff), int32(e), least, most, max(16-s, 0), min(s, 16), max(s-16, 0)} {
				panel.ends[i*lanes+l] = v
			}
		}
		panel.group(runs, pairs, p.run%16 == 0)
		if !narrow || slices.ContainsFunc(panel.steps[:], func(s []int32) bool { return len(s)/3 > mostFlushes }) {
			panel.wide = ends
		}
		p.panels = append(p.panels, panel)
	}
	return p
}

// group chooses the groups for every level of energy, of equal sizes but for those
// at the ends of runs: branches in the kernels are easy to foresee so. aligned says
// that runs begin at places that are multiples of sixteen.
func (p *fixedPanel) group(runs, pairs int, aligned bool) {
	lanes := p.lanes
	type size struct {
		pairs, runs int     // pairs of a run, or all of those of several runs
		l1, l2      float64 // the largest Σ|w| of a group; the largest Σw² times the blocks of sixteen inputs that the group may touch
	}
	var sizes []size
	for _, first := range []int{1, 3} {
		s := size{pairs: first, runs: 1}
		n := (pairs + first - 1) / first // groups of a run
		l1, l2 := make([]float64, runs*n*lanes), make([]float64, runs*n*lanes)
		for i, v := range p.w {
			a, b := float64(int16(v)), float64(v>>16)
			at := (i/lanes/pairs*n+i/lanes%pairs/first)*lanes + i%lanes
			l1[at] += math.Abs(a) + math.Abs(b)
			l2[at] += a*a + b*b
		}
		rows := runs
		for len(p.w) > 0 {
			step := 1
			if aligned {
				step = 1 << min(bits.TrailingZeros(uint(2*s.pairs)), 4)
			}
			blocks := float64(s.runs * ((16 - step + 2*min(s.pairs, pairs) + 15) / 16))
			s.l1, s.l2 = slices.Max(l1), blocks*slices.Max(l2)
			sizes = append(sizes, s)
			if rows*n == 1 {
				break
			}
			// Two neighbours of a run, and then two runs, become one group.
			if n == 1 {
				n, rows, s.runs = rows, 1, 2*s.runs
			} else {
				s.pairs *= 2
			}
			half := (n + 1) / 2
			for r := range rows {
				for i := range half * lanes {
					to, from := r*half*lanes+i, (r*n+i/lanes*2)*lanes+i%lanes
					a, b := l1[from], l2[from]
					if i/lanes*2+1 < n {
						a, b = a+l1[from+lanes], b+l2[from+lanes]
					}
					l1[to], l2[to] = a, b
				}
			}
			if n = half; s.runs > 1 {
				rows, n = n, 1
			}
			l1, l2 = l1[:rows*n*lanes], l2[:rows*n*lanes]
		}
	}
	const most = (1<<31 - 1<<16) * (1 - 1e-9) // a sum, less what rounding of squares may hide
	for level := range p.steps {
		best := size{pairs: 1, runs: 1}
		for _, s := range sizes {
			if (s.l1 <= 65534 || s.l2*math.Ldexp(1, mostEnergy-level) <= most*most) && s.pairs*s.runs > best.pairs*best.runs {
				best = s
			}
		}
		var steps []int32
		for r := range runs {
			for k := 0; k < pairs; k += best.pairs {
				n, flush := min(best.pairs, pairs-k), 0
				if r == runs-1 && k+n == pairs || k+n < pairs || (r+1)%best.runs == 0 {
					flush = 1
				}
				steps = append(steps, int32(r), int32(2*k), int32(2*n+flush))
			}
		}
		p.steps[level] = append(steps, 0, 0, 0)
		if level > 0 && slices.Equal(p.steps[level], p.steps[level-1]) {
			p.steps[level] = p.steps[level-1]
		}
	}
}

// Panels returns the number of panels, each of Lanes outputs, of which the last
// may have fewer.
func (w FixedWeights) Panels() int { return len(w.panels) }

// Lanes returns the number of outputs of a panel.
func (w FixedWeights) Lanes() int { return w.lanes }

// Slack is how many elements after the last run a product may read, without
// any effect.
const Slack = 1

// Energy16 returns a bound of Σ x² over sixteen elements that lie side by side
// from a multiple of sixteen on, the last of them with zeros behind them.
func (kn *Kernels) Energy16(x []int16) int64 {
	whole := len(x) &^ (turn16 - 1)
	most := kn.energy16(x[:whole])
	if whole < len(x) {
		var last [turn16]int16
		copy(last[:], x[whole:])
		most = max(most, energy16(last[:]))
	}
	return 16 * (int64(most) + 8) // eight sums have lost up to 1 each
}

// energy16 is the largest sum of the squares of two neighbours, divided by 16, over
// sixteen elements.
func energy16(x []int16) int32 {
	most := int32(0)
	for ; len(x) >= turn16; x = x[turn16:] {
		s := int32(0)
		for i := 0; i < turn16; i += 2 {
			a, b := int32(x[i]), int32(x[i+1])
			s += int32(uint32(a*a+b*b) >> 4)
		}
		most = max(most, s)
	}
	return most
}

// level is the level of inputs with that energy, of which runs begin at these
// places.
func (w *FixedWeights) level(energy int64, ldx int, offsets []int32) int {
	apart := int32(ldx)
	for _, o := range offsets {
		apart |= o
	}
	if w.run%16 == 0 && apart%16 != 0 { // sixteen inputs of a run lie in two blocks
		energy *= 2
	}
	return min(max(mostEnergy-bits.Len64(uint64(energy-1)), 0), energyLevels-1)
}

// Fixed16 multiplies rows rows of n elements, row r starting at x[r·ldx], by
// weights in one run and stores outputs clamped to int16, row r of m at y[r·ldy].
// x has Slack more elements than the last row needs, unless n is even.
func (kn *Kernels) Fixed16(y []int16, ldy int, w *FixedWeights, x []int16, ldx, rows int) {
	if rows == 0 || w.m == 0 {
		return
	}
	if ldy < w.m && rows > 1 || len(y) < (rows-1)*ldy+w.m || len(x) < (rows-1)*ldx+(w.n+1)/2*2 || w.runs != 1 {
		panic(fmt.Sprintf("simd: Fixed: %d rows of %d and %d elements, %d and %d apart, in slices of %d and %d", rows, w.n, w.m, ldx, ldy, len(x), len(y)))
	}
	offsets, level := [1]int32{}, 0
	if w.n > 0 {
		level = w.level(kn.Energy16(x[:(rows-1)*ldx+w.n]), ldx, offsets[:])
	}
	for i := range w.panels {
		kn.fixedPanel(y[i*w.lanes:], ldy, w, i, level, x, ldx, offsets[:], rows)
	}
}

// FixedPanel computes Lanes outputs of a panel for rows rows, row r starting at
// x[r·ldx] and its runs at the offsets from there, into y[r·Lanes], of which the last
// panel may have fewer; energy is that of
// all of x, or of what it is part of from a multiple of sixteen on. x has Slack more elements than the last run needs,
// unless runs are of an even length.
func (kn *Kernels) FixedPanel(y []int16, w *FixedWeights, panel int, energy int64, x []int16, ldx int, offsets []int32, rows int) {
	if len(offsets) != w.runs || rows < 1 || len(y) < rows*w.lanes || len(x) < (rows-1)*ldx+int(slices.Max(offsets))+(w.run+1)/2*2 || slices.Min(offsets) < 0 {
		panic(fmt.Sprintf("simd: FixedPanel: %d rows of %d runs of %d elements at %d offsets, %d apart, in slices of %d and %d", rows, w.runs, w.run, len(offsets), ldx, len(x), len(y)))
	}
	kn.fixedPanel(y, w.lanes, w, panel, w.level(energy, ldx, offsets), x, ldx, offsets, rows)
}

func (kn *Kernels) fixedPanel(y []int16, ldy int, w *FixedWeights, panel, level int, x []int16, ldx int, offsets []int32, rows int) {
	p := &w.panels[panel]
	tile, most := kn.fixed.tile, kn.fixed.maxRows
	switch {
	case w.lanes == 2*kn.fixed.lanes && p.lanes == w.lanes:
		tile, most = kn.fixed.pair, most/2
	case p.lanes != kn.fixed.lanes:
		panic("simd: Fixed: weights were packed for another path")
	}
	steps, cols := p.steps[level], min(p.lanes, w.m-panel*w.lanes)
	if ldy == w.lanes {
		cols = p.lanes
	}
	// The fewest tiles, whose sizes differ by one at most.
	tiles := (rows + most - 1) / most
	for i, r := 0, 0; i < tiles; i++ {
		n := rows / tiles
		if i < rows%tiles {
			n++
		}
		var a []int16
		if w.n > 0 {
			a = x[r*ldx:]
		}
		dst := y[r*ldy:]
		switch {
		case p.wide != nil:
			fixedWide(tile, dst, ldy, p, steps, a, ldx, offsets, n, cols)
		case cols == p.lanes:
			tile(dst, ldy, nil, a, ldx, offsets, p.w, steps, p.ends, n)
		default:
			var stage [maxFixedTile]int16
			tile(stage[:], p.lanes, nil, a, ldx, offsets, p.w, steps, p.ends, n)
			for t := range n {
				copy(dst[t*ldy:][:cols], stage[t*p.lanes:])
			}
		}
		r += n
	}
}

// fixedWide takes the sums of a tile to their ends in 64 bits.
func fixedWide(tile fixedTileFunc, dst []int16, ldd int, p *fixedPanel, steps []int32, a []int16, lda int, offsets []int32, rows, cols int) {
	var parts [2 * maxFixedTile]int32
	var sums [maxFixedTile]int64
	lanes, weights := p.lanes, p.w
	for len(steps) > 3 {
		n := min(len(steps)-3, 3*mostFlushes)
		part := steps[:n+3]
		if n+3 < len(steps) { // the rest is for the next turn, and the sums of this one are to be moved over
			part = append(slices.Clone(steps[:n]), 0, 0, 0)
			part[n-1] |= 1
		}
		tile(nil, 0, parts[:2*rows*lanes], a, lda, offsets, weights, part, p.ends, rows)
		for r := range rows {
			for l := range cols {
				sums[r*lanes+l] += int64(parts[2*r*lanes+l]) + int64(parts[(2*r+1)*lanes+l])<<16
			}
		}
		for i := 2; i < n; i += 3 {
			weights = weights[int(steps[i]>>1)*lanes:]
		}
		steps = steps[n:]
	}
	for r := range rows {
		for l := range cols {
			e := p.wide[l]
			dst[r*ldd+l] = saturate16((sums[r*lanes+l] + e.add) >> e.shift)
		}
	}
}

const portableFixedLanes = 8

var portableFixed = fixedKernels{lanes: portableFixedLanes, maxRows: 4, tile: fixedTile}

// fixedTile is the portable tile.
func fixedTile(dst []int16, ldd int, sums []int32, a []int16, lda int, offsets, w, steps, ends []int32, rows int) {
	const lanes = portableFixedLanes
	for r := range rows {
		var sum, high [lanes]int32
		w := w
		for s := steps; s[2] != 0; s = s[3:] {
			x := a[r*lda+int(offsets[s[0]]+s[1]):]
			for k := range int(s[2] >> 1) {
				x0, x1 := int32(x[2*k]), int32(x[2*k+1])
				for l, v := range (*[lanes]int32)(w) {
					sum[l] += int32(int16(v))*x0 + v>>16*x1
				}
				w = w[lanes:]
			}
			if s[2]&1 != 0 {
				for l, v := range sum {
					high[l] += v >> 16
					sum[l] = v & 0xffff
				}
			}
		}
		if len(sums) > 0 {
			copy(sums[2*r*lanes:], sum[:])
			copy(sums[(2*r+1)*lanes:], high[:])
			continue
		}
		for l := range sum {
			e := func(i int) int32 { return ends[i*lanes+l] }
			h := min(max(high[l]+e(1), e(2)), e(3))
			dst[r*ldd+l] = saturate16(int64((h<<uint(e(4)) + (sum[l]+e(0))>>uint(e(5))) >> uint(e(6))))
		}
	}
}
