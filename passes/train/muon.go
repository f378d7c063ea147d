package train

import (
	"math"
	"slices"
	"sync"

	"gonum.org/v1/gonum/dsp/fourier"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/runtime"
)

// Muon (Jordan et al.: Muon: An optimizer for hidden layers in neural networks,
// 2024) moves a matrix along its momentum M with all singular values made about one,
// M (MᵀM)^−½. Scaled to the root mean square that AdamW's steps have (Liu et al.: Muon
// is scalable for LLM training, 2025), rates mean the same for both.
//
// The discrete Fourier transform takes a block-circulant matrix of p × q blocks of b
// apart into b complex matrices of p × q, one a bin, by a change of basis that is
// unitary. So the bins, made so each by itself, are what the whole matrix of
// b·p × b·q would become, for a b²-th of the products; and the half of them that are
// conjugates of the others comes for nothing.
const (
	muonMomentum = 0.95
	muonScale    = 0.2 // root mean square of a step, in rates
)

// useMuon makes ready for Muon the parameters that it is for: matrices and kernels that
// multiply activations, but for those whose products are the logits.
func (t *trainer) useMuon(m *graph.Model, logits string) {
	heads := map[*graph.Node]bool{}
	seen := map[*graph.Value]bool{}
	var back func(v *graph.Value)
	back = func(v *graph.Value) {
		if v == nil || seen[v] || v.Def() == nil {
			return
		}
		seen[v] = true
		n := v.Def()
		if multiplies(n) {
			heads[n] = true
			return
		}
		for _, in := range n.Inputs() {
			back(in)
		}
	}
	back(m.Graph.Value(logits))
	t.scratch = &sync.Pool{New: func() any { return &orthogonalizer{simd: t.simd} }}
	t.matrix = make([]bool, len(t.params))
	for i, p := range t.params {
		u := reader(m.Graph.Value(p.Name))
		t.matrix[i] = multiplies(u.Node) && !heads[u.Node] && u.Index < 2 && (p.Block > 0 || len(p.Shape) > 1 && min(p.Shape[0], len(p.Value)/p.Shape[0]) > 1)
	}
}

// multiplies reports whether n is an operator whose weights are one matrix.
func multiplies(n *graph.Node) bool {
	if n.Is("Conv") {
		return n.Int("group", 1) == 1
	}
	return n.Is("MatMul", "Gemm") || n.Domain == graph.LatheDomain && slices.Contains([]string{"BlockCirculantMatMul", "BlockCirculantConv"}, n.Op)
}

// muon moves a parameter at a rate, with weight decay times rate, along a gradient that
// is scaled first.
func (o *orthogonalizer) muon(p *runtime.Parameter, momentum []float32, rate, decay, scale float64) {
	step := grown(&o.step, len(momentum))
	for i, g := range p.Gradient {
		g := float32(float64(g) * scale)
		momentum[i] = float32(muonMomentum*momentum[i]) + g
		step[i] = float32(muonMomentum*momentum[i]) + g // Nesterov's
	}
	rows := p.Shape[0]
	columns := len(step) / rows
	if p.Block > 0 {
		o.circulant(step, p.Shape)
		rows *= p.Block // of the matrix that the blocks stand for; it has as many columns as numbers a row of blocks
	} else {
		o.matrix(step, rows, columns)
	}
	rate *= muonScale * math.Sqrt(float64(max(rows, columns)))
	for i, d := range step {
		w := float64(p.Value[i])
		w -= float64(decay*w) + float64(rate*float64(d))
		p.Value[i] = float32(w)
	}
}

// orthogonalizer makes the singular values of matrices about one. It keeps its scratch.
type orthogonalizer struct {
	simd *simd.Kernels
	fft  *fourier.FFT // of the block size before, nil at first

	step, x, gram, square, next, packed, bin []float32
	spectra                                  []complex128
}

func grown[T any](buf *[]T, n int) []T {
	*buf = slices.Grow((*buf)[:0], n)[:n]
	return *buf
}

// matrix takes x [rows, columns] five steps of Newton and Schulz on, in place: X ← aX +
// (bA + cA²)X, A = XXᵀ, whose coefficients bring singular values from 0.01 … 1 into
// about 0.7 … 1.2. Divided by its Frobenius norm first, X has none above one.
func (o *orthogonalizer) matrix(x []float32, rows, columns int) {
	norm := 0.0
	for _, v := range x {
		norm += float64(v) * float64(v)
	}
	if norm == 0 || math.IsInf(norm, 0) || math.IsNaN(norm) {
		return
	}
	scale := float32(1 / math.Sqrt(norm))
	r, c := rows, columns
	m := simd.RowMajor(x, c)
	if r > c {
		r, c = c, r
		m = m.T()
	}
	a := grown(&o.x, len(x))
	for i := range r {
		for j := range c {
			a[i*c+j] = m.Data[i*m.RowStride+j*m.ColStride] * scale
		}
	}
	gram, square, y := grown(&o.gram, r*r), grown(&o.square, r*r), grown(&o.next, r*c)
	packed := grown(&o.packed, max(o.simd.PackedLen(c, r), o.simd.PackedLen(r, r), o.simd.PackedLen(r, c)))
	for range 5 {
		xs := simd.RowMajor(a, c)
		o.simd.Gemm(gram, r, xs, r, o.simd.PackInto(packed, xs.T(), c, r), nil, false)
		g := simd.RowMajor(gram, r)
		o.simd.Gemm(square, r, g, r, o.simd.PackInto(packed, g, r, r), nil, false)
		for i, v := range gram {
			square[i] = float32(-4.7750*v) + float32(2.0315*square[i])
		}
		o.simd.Gemm(y, c, simd.RowMajor(square, r), r, o.simd.PackInto(packed, xs, r, c), nil, false)
		for i, v := range y {
			a[i] = float32(3.4445*a[i]) + v
		}
	}
	for i := range r {
		for j := range c {
			m.Data[i*m.RowStride+j*m.ColStride] = a[i*c+j]
		}
	}
}

// circulant is matrix for the weights of a block-circulant layer, [p, q, b] with the
// taps of a kernel behind, bin by bin. A complex bin is done as the real matrix
// [Re −Im; Im Re], whose singular values are those of the bin, twice each.
func (o *orthogonalizer) circulant(w []float32, shape []int) {
	p, q, b := shape[0], shape[1], shape[2]
	taps := 1
	for _, d := range shape[3:] {
		taps *= d
	}
	if o.fft == nil || o.fft.Len() != b {
		o.fft = fourier.NewFFT(b)
	}
	bins := b/2 + 1
	columns := q * taps
	spectra := grown(&o.spectra, bins*p*columns) // [bins, p, columns]
	block, hat := make([]float64, b), make([]complex128, bins)
	each := func(f func(entry int, at func(k int) *float32)) {
		for pq := range p * q {
			for tap := range taps {
				f(pq*taps+tap, func(k int) *float32 { return &w[(pq*b+k)*taps+tap] })
			}
		}
	}
	each(func(entry int, at func(k int) *float32) {
		for k := range block {
			block[k] = float64(*at(k))
		}
		for f, v := range o.fft.Coefficients(hat, block) {
			spectra[f*p*columns+entry] = v
		}
	})
	for f := range bins {
		bin := spectra[f*p*columns:][:p*columns]
		if f == 0 || 2*f == b {
			x := grown(&o.bin, len(bin))
			for i, v := range bin {
				x[i] = float32(real(v))
			}
			o.matrix(x, p, columns)
			for i, v := range x {
				bin[i] = complex(float64(v), 0)
			}
			continue
		}
		x := grown(&o.bin, 4*len(bin))
		half := 2 * len(bin)
		for i := range p {
			for j := range columns {
				v := bin[i*columns+j]
				at := 2*i*columns + j
				re, im := float32(real(v)), float32(imag(v))
				x[at], x[at+columns] = re, -im
				x[half+at], x[half+at+columns] = im, re
			}
		}
		o.matrix(x, 2*p, 2*columns)
		for i := range p {
			for j := range columns {
				at := 2*i*columns + j
				bin[i*columns+j] = complex(float64(x[at]), float64(x[half+at]))
			}
		}
	}
	each(func(entry int, at func(k int) *float32) {
		for f := range hat {
			hat[f] = spectra[f*p*columns+entry]
		}
		for k, v := range o.fft.Sequence(block, hat) {
			*at(k) = float32(v / float64(b))
		}
	})
}
