package calib

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
	lathe "github.com/onnx-lathe/lathe/runtime"
)

// gatherer takes the sums that scores are made of from the values of the
// residual stream. The tokens of a sample are summed up in pieces and the
// sums of the pieces added in order, so that results depend neither on how
// many threads there are nor on how many samples a batch has.
type gatherer struct {
	kernels *simd.Kernels
	threads int
	pieces  []piece // of the values at hand
}

func newGatherer(threads int) (*gatherer, error) {
	k, err := simd.For(simd.Auto)
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	return &gatherer{kernels: k, threads: threads}, err
}

// pieceTokens is how many tokens a piece has: enough work to hand to a thread.
const pieceTokens = 64

// piece is up to pieceTokens tokens of one sample, rows from … to−1.
type piece struct {
	sample, from, to int
	sums             Sums
	columns          []float64 // [number of values that are summed up, d]
}

// rowsOf returns the elements of values that must be float tensors of one
// shape [samples, …, d], and d.
func rowsOf(v []*lathe.Tensor) ([][]float32, int, error) {
	data := make([][]float32, len(v))
	for i, t := range v {
		if t.DType != graph.Float32 {
			return nil, 0, fmt.Errorf("are %v; only float models can be scored", t.DType)
		}
		if len(t.Shape) == 0 || !slices.Equal(t.Shape, v[0].Shape) {
			return nil, 0, fmt.Errorf("have shapes %v and %v, want one, [samples, tokens, features]", v[0].Shape, t.Shape)
		}
		data[i] = t.F32()
	}
	return data, v[0].Shape[len(v[0].Shape)-1], nil
}

// tokens adds to sums what see adds for every token of v that counts; f are
// the elements of v, all [samples, …, d]. see is called by several threads,
// each with sums and a row of scratch memory of its own. Where columns[i] is
// not nil, Σ v[i] over these tokens is added to it.
func (g *gatherer) tokens(v []*lathe.Tensor, mask Mask, sums *Sums, columns [][]float64, see func(s *Sums, row int, f [][]float32, scratch []float32)) error {
	f, d, err := rowsOf(v)
	if err != nil {
		return err
	}
	for _, c := range columns {
		if c != nil && len(c) != d {
			return fmt.Errorf("have %d features, had %d before", d, len(c))
		}
	}
	_, samples, per, keep, err := mask.layout(v[0])
	if err != nil {
		return err
	}
	n := 0
	for s := range samples {
		for from := 0; from < per; from += pieceTokens {
			if n == len(g.pieces) {
				g.pieces = append(g.pieces, piece{})
			}
			p := &g.pieces[n]
			p.sample, p.from, p.to, p.sums = s, s*per+from, s*per+min(from+pieceTokens, per), Sums{}
			p.columns = slices.Grow(p.columns[:0], len(columns)*d)[:len(columns)*d]
			clear(p.columns)
			n++
		}
	}
	g.each(n, func(i int) {
		p := &g.pieces[i]
		scratch := make([]float32, d)
		for r := p.from; r < p.to; r++ {
			if keep == nil || keep[r] {
				see(&p.sums, r*d, f, scratch)
			}
		}
		for k, c := range columns {
			if c == nil {
				continue
			}
			c = p.columns[k*d : (k+1)*d]
			if keep == nil {
				addRows(c, f[k][p.from*d:p.to*d])
				continue
			}
			for r := p.from; r < p.to; r++ {
				if keep[r] {
					addRows(c, f[k][r*d:(r+1)*d])
				}
			}
		}
	})
	var one Sums // of a sample
	for i := range g.pieces[:n] {
		p := &g.pieces[i]
		one.add(p.sums)
		for k, c := range columns {
			if c != nil {
				addTo(c, p.columns[k*d:(k+1)*d])
			}
		}
		if i+1 == n || g.pieces[i+1].sample != p.sample {
			if one.Tokens > 0 {
				mean := one.Score / float64(one.Tokens)
				one.Samples, one.Mean, one.Square = 1, mean, mean*mean
			}
			sums.add(one)
			one = Sums{}
		}
	}
	return nil
}

// each calls f for 0 … n−1, on several threads.
func (g *gatherer) each(n int, f func(i int)) {
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			f(i)
		}
	}
	var all sync.WaitGroup
	for range min(g.threads, n) - 1 {
		all.Go(work)
	}
	work()
	all.Wait()
}

// addRows adds the rows of x [n, len(dst)] to dst, eight or four at a time where it can.
func addRows(dst []float64, x []float32) {
	d := len(dst)
	for ; len(x) >= 8*d; x = x[8*d:] {
		x0, x1, x2, x3 := x[:d], x[d:][:d], x[2*d:][:d], x[3*d:][:d]
		x4, x5, x6, x7 := x[4*d:][:d], x[5*d:][:d], x[6*d:][:d], x[7*d:][:d]
		for i := range dst {
			dst[i] += ((float64(x0[i]) + float64(x1[i])) + (float64(x2[i]) + float64(x3[i]))) +
				((float64(x4[i]) + float64(x5[i])) + (float64(x6[i]) + float64(x7[i])))
		}
	}
	for ; len(x) >= 4*d; x = x[4*d:] {
		x0, x1, x2, x3 := x[:d], x[d:][:d], x[2*d:][:d], x[3*d:][:d]
		for i := range dst {
			dst[i] += (float64(x0[i]) + float64(x1[i])) + (float64(x2[i]) + float64(x3[i]))
		}
	}
	for ; len(x) >= d; x = x[d:] {
		x0 := x[:d]
		for i := range dst {
			dst[i] += float64(x0[i])
		}
	}
}

// distance is 1 − x·y / (|x| |y|), 0 where both are zero and 1 where one is.
func (g *gatherer) distance(x, y []float32) float64 {
	xy, xx, yy := g.kernels.MomentsF64(x, y)
	if xx == 0 || yy == 0 {
		if xx == yy {
			return 0
		}
		return 1
	}
	return max(0, 1-xy/math.Sqrt(xx*yy)) // squares of floats are far from float64's limits
}

// token adds one token with those distances after and before the norm.
func (s *Sums) token(score, before float64) {
	s.Tokens++
	s.Score += score
	s.Before += before
	s.Angular += angle(score)
}

// angle is arccos(1 − s)/π, for s from 0 to 2, as 2·arcsin(√(s/2))/π: small
// angles, the usual ones, keep their accuracy and take a series in place of a
// library call.
func angle(s float64) float64 {
	z := s / 2
	if !(z < 1./16) {
		return 2 * math.Asin(math.Sqrt(min(z, 1))) / math.Pi
	}
	// arcsin(√z)/√z = Σ c_k zᵏ, c_k = (2k)! / (4ᵏ (k!)² (2k+1)), to k = 9; what
	// is left out is below c_10·z¹⁰ < 1e-14.
	z2 := z * z
	z4 := z2 * z2
	low := (1 + 1./6*z) + (3./40+5./112*z)*z2
	high := (35./1152 + 63./2816*z) + (231./13312+143./10240*z)*z2
	sum := low + (high+(6435./557056+12155./1245184*z)*z4)*z4
	return 2 / math.Pi * math.Sqrt(z) * sum
}

// layout reads x [samples, …, d] as samples of per tokens each: d, samples, per
// and which tokens count, nil for all.
func (m Mask) layout(x *lathe.Tensor) (d, samples, per int, keep []bool, err error) {
	if len(x.Shape) == 0 {
		return 0, 0, 0, nil, errors.New("is a scalar, want [samples, tokens, features]")
	}
	if d = x.Shape[len(x.Shape)-1]; d == 0 {
		return 0, 0, 0, nil, errors.New("has no features")
	}
	rows := x.Len() / d
	if samples = m.samples; samples == 0 || rows%samples != 0 {
		samples = 1
	}
	return d, samples, rows / samples, m.of(rows), nil
}
