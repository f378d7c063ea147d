package passes

import (
	"errors"
	"math"
	"math/bits"
	"sort"

	"github.com/onnx-lathe/lathe/runtime/fixed"
)

// fixedSpectra is a block-circulant layer to be put into fixed point. The rows of
// blocks, the blocks of the input and the outputs of a convolution in groups are those
// of one group after the other; q is the number of blocks of a row.
type fixedSpectra struct {
	p, q, b  int
	groups   int
	w        []float64 // spectra [p, q, b]
	bias     []float64 // [p, b]
	x        int       // exponent of the input
	y        []int     // of the outputs; quantize sets what they became
	xTops    []float64 // ranges of the input's spectra by block and bin
	yTops    []float64 // of the output's spectra by block row
	xSquares []float64 // sums of squares of the input's spectra by block and bin
	ySquares []float64 // of the output's spectra by block row
	rows     float64   // of the output for a row of the input
	rounding fixed.Rounding
	r        []int8 // shifts of the input's spectra
}

// mostNoise is that of rounded weights at the most, as a share of the squares of the
// outputs: 75 dB below them, about as much as the transforms leave.
const mostNoise = 3.2e-8

// mostSum is the largest sum of |weights| that a partial sum has room for.
const mostSum = 65534

// quantize chooses the exponents, and then the partial sums: as many blocks as fit
// into 32 bits with the weights of all rows.
func (f *fixedSpectra) quantize() (fixed.Spec, error) {
	p, q, b := f.p, f.q, f.b
	bins, log := b/2+1, bits.TrailingZeros(uint(b))
	s := fixed.Spec{P: p, Q: q, B: b, W: make([]int16, p*q*b), S: make([]int8, p*bins), Bias: make([]int32, p*b), R: make([]int8, f.groups*q*bins),
		E: make([]int8, len(f.y)), Rounding: f.rounding}
	for k := range s.R {
		if s.R[k] = int8(log); f.rounding == fixed.Once {
			s.R[k] = int8(min(max(exponentFor(f.xTops[k], fixed.High)-f.x, 0), log))
		}
	}
	// Exponents of the weights, for a shift R of 0.
	f.r = s.R
	weights := make([]int, p*bins)
	s.Group = f.group(s.W, weights)
	parts := (q + s.Group - 1) / max(1, s.Group)
	if parts > 1 {
		s.Shift = bits.Len(uint(parts-1)) + 1
	}
	// Exponents of the output's spectra, from those of the sums on.
	hats := make([]int, p)
	most := math.MinInt
	for i := range p {
		limit := float64(fixed.Limit(b))
		if f.rounding == fixed.CirCNN {
			limit = fixed.High
		}
		hats[i] = exponentFor(f.yTops[i], limit)
		most = max(most, hats[i])
	}
	for ; s.Shift <= 16; s.Shift++ {
		sum := func(i, k int) int { return f.x + weights[i*bins+k] + s.Shift }
		for i := range p {
			for k := range bins {
				if weights[i*bins+k] != zeroWeights {
					hats[i] = max(hats[i], sum(i, k))
				}
			}
			most = max(most, hats[i])
		}
		for r := range f.y { // 0 ≤ E ≤ 40
			i := f.row(r)
			hats[i] = max(hats[i], f.y[r]+log-40)
		}
		if f.rounding == fixed.CirCNN {
			for i := range hats {
				hats[i] = most
			}
		}
		for i := range p {
			for k := range bins {
				at := i*bins + k
				// S is at most 30, and the bias of small weights fits 32 bits.
				var bias float64
				for n := range b {
					if fixed.Bin(n) == k {
						bias = max(bias, math.Abs(f.bias[i*b+n]))
					}
				}
				least := hats[i] - mostSumShift
				if bias > 0 {
					least = max(least, exponentFor(bias, 1<<29))
				}
				if least -= f.x + s.Shift; weights[at] < least {
					weights[at] = least
					f.round(s.W, i, k, least)
				}
				s.S[at] = int8(hats[i] - sum(i, k))
			}
			for k := range b {
				v := math.RoundToEven(math.Ldexp(f.bias[i*b+k], -sum(i, fixed.Bin(k))))
				s.Bias[i*b+k] = int32(min(max(v, -1<<30), 1<<30))
				if math.Abs(v) > 1<<30 {
					s.Bias[i*b+k] = math.MinInt32 // does not fit
				}
			}
		}
		for r := range f.y {
			i := f.row(r)
			if f.rounding == fixed.CirCNN {
				f.y[r] = hats[i]
			}
			f.y[r] = max(f.y[r], hats[i]-log)
			if s.E[r] = int8(f.y[r] - hats[i] + log); f.rounding == fixed.CirCNN {
				s.E[r] = int8(log)
			}
		}
		if s.Fits() == nil {
			return s, nil
		}
	}
	return s, errors.New("its bias is too large beside its weights for 32 bits")
}

const (
	zeroWeights  = -1000 // exponent of weights that are all zero
	mostSumShift = 30
)

// row is the row of blocks of an output.
func (f *fixedSpectra) row(output int) int {
	per := len(f.y) / f.groups
	return output/per*(f.p/f.groups) + output%per/f.b
}

// numbers calls do for the numbers of bin k of block row i.
func (f *fixedSpectra) numbers(i, k int, do func(j, at int)) {
	first, end := k, k+1
	if k >= 2 {
		first, end = 2*(k-1), 2*k
	}
	for j := range f.q {
		for n := first; n < end; n++ {
			do(j, (i*f.q+j)*f.b+n)
		}
	}
}

// weight is number at of W, in bin k of block j of row i, times what the shift R leaves
// out of the input.
func (f *fixedSpectra) weight(i, j, k, at int) float64 {
	j += i / (f.p / f.groups) * f.q // of the input
	return math.Ldexp(f.w[at], int(f.r[j*(f.b/2+1)+k]))
}

// weights rounds the weights of bin k of block row i to the smallest exponent with which
// no sum of so many blocks fills 32 bits, and returns it.
func (f *fixedSpectra) weights(to []int16, i, k, group int) int {
	var top float64
	f.numbers(i, k, func(j, at int) { top = max(top, math.Abs(f.weight(i, j, k, at))) })
	if top == 0 {
		return zeroWeights
	}
	for e := exponentFor(top, fixed.High); ; e++ {
		if f.round(to, i, k, e); sumsFit(f.sizes(to, i, k), group) {
			return e
		}
	}
}

// sizes are the magnitudes of bin k of the blocks of row i.
func (f *fixedSpectra) sizes(w []int16, i, k int) []int {
	sizes := make([]int, f.q)
	f.numbers(i, k, func(j, at int) { sizes[j] += max(int(w[at]), -int(w[at])) })
	return sizes
}

func (f *fixedSpectra) round(to []int16, i, k, e int) {
	f.numbers(i, k, func(j, at int) { to[at] = rounded16(f.weight(i, j, k, at), e) })
}

// group rounds the weights, fills in their exponents and returns how many blocks a
// partial sum has, all or an even number: as many as fit into 32 bits without more than
// mostNoise, for the more blocks, the fewer bits of the weights.
func (f *fixedSpectra) group(w []int16, exponents []int) int {
	bins := f.b/2 + 1
	// The choices are two blocks, four, …, and all.
	choice := func(i int) int { return min(2*(i+1), max(1, f.q)) }
	round := func(group int) {
		for at := range exponents {
			exponents[at] = f.weights(w, at/bins, at%bins, group)
		}
	}
	var signal float64
	for _, v := range f.ySquares {
		signal += v
	}
	loud := sort.Search((f.q-1)/2, func(i int) bool {
		round(choice(i + 1))
		return f.noise(exponents) > mostNoise*signal
	})
	round(choice(loud))
	return choice(loud)
}

// noise is the sum of squares, over what the data are, of what rounding the weights to
// these exponents does to the spectra of the outputs. The error of a weight is as good
// as uniform within a step, whose square is 1/12 on average.
func (f *fixedSpectra) noise(exponents []int) float64 {
	bins, sum := f.b/2+1, 0.0
	for g := range f.groups {
		squares := make([]float64, bins) // of the shifted inputs
		for j := g * f.q; j < (g+1)*f.q; j++ {
			for k := range bins {
				squares[k] += math.Ldexp(f.xSquares[j*bins+k], -2*int(f.r[j*bins+k]))
			}
		}
		for i := g * f.p / f.groups; i < (g+1)*f.p/f.groups; i++ {
			for k := range bins {
				numbers := 2.0 // of a weight
				if k < 2 {
					numbers = 1
				}
				if e := exponents[i*bins+k]; e != zeroWeights {
					sum += numbers * math.Ldexp(squares[k], 2*e) / 12
				}
			}
		}
	}
	return f.rows * sum
}

// sumsFit reports whether no run of so many sizes adds up to more than mostSum.
func sumsFit(sizes []int, group int) bool {
	sum := 0
	for j, v := range sizes {
		if sum += v; j >= group {
			sum -= sizes[j-group]
		}
		if sum > mostSum {
			return false
		}
	}
	return true
}
