package passes

import (
	"errors"
	"math"
	"math/bits"
	"slices"
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
	rounding fixed.Rounding
	r        []int8 // shifts of the input's spectra
}

// leastSteps is the root mean square, in steps, that the weights of a bin of a block
// row have at the least where no single one asks for a larger step: 76 dB above
// their noise, and 82 where long blocks are few. More would make partial sums of
// fewer blocks fill 32 bits, which costs up to a third of the time.
func (f *fixedSpectra) leastSteps() float64 {
	if (f.b <= 64 || f.q > 4) && f.rounding == fixed.Once {
		return 1825
	}
	return 3650
}

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
	for i := range p {
		for k := range bins {
			weights[i*bins+k] = f.weights(s.W, i, k)
		}
	}
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

// weights rounds the weights of bin k of block row i and returns their exponent.
func (f *fixedSpectra) weights(to []int16, i, k int) int {
	var top, square float64
	count := 0
	f.numbers(i, k, func(j, at int) {
		v := f.weight(i, j, k, at)
		top, square, count = max(top, math.Abs(v)), square+v*v, count+1
	})
	if top == 0 {
		return zeroWeights
	}
	e := exponentFor(top, fixed.High)
	if f.q > 1 {
		e = max(e, int(math.Floor(math.Log2(math.Sqrt(square/float64(count))/f.leastSteps()))))
	}
	for ; ; e++ {
		f.round(to, i, k, e)
		if sumsFit(f.sizes(to, i, k), 2) {
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

// group is the largest number of blocks of which no sum fills 32 bits: all, or an
// even one. The few sums with the largest weights would decide how often the kernel
// has to shift all of them, so up to a quarter of the bins of block rows give up a bit
// of their weights, which is 6 dB of these, to let more blocks in.
func (f *fixedSpectra) group(w []int16, exponents []int) int {
	bins := f.b/2 + 1
	fit := make([]int, len(exponents))
	measure := func(at int) {
		sizes := f.sizes(w, at/bins, at%bins)
		// 0, 1, … stand for all blocks, then even numbers from the largest one down.
		number := func(i int) int {
			if i == 0 {
				return max(1, f.q)
			}
			return (f.q+1)/2*2 - 2*i
		}
		fit[at] = number(sort.Search((f.q+1)/2-1, func(i int) bool { return sumsFit(sizes, number(i)) }))
	}
	for at := range fit {
		measure(at)
	}
	if f.rounding == fixed.Once {
		want := slices.Sorted(slices.Values(fit))[len(fit)/4]
		for at := range fit {
			if fit[at] < want {
				exponents[at]++
				f.round(w, at/bins, at%bins, exponents[at])
				measure(at)
			}
		}
	}
	return slices.Min(fit)
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
