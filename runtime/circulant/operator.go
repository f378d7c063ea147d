package circulant

import (
	"fmt"

	"gonum.org/v1/gonum/dsp/fourier"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// Operator computes Y = X·Wᵀ + bias for one block-circulant W by FFT. It holds
// the spectra of the weights, not the matrix, is immutable, and is safe for
// concurrent use: everything that a call writes is in the caller's workspace.
//
// The bits of a token's result depend on the token and on the kernel path
// alone: not on how many tokens a call has, nor on the token's place among
// them. Callers may split tokens over threads as they like.
type Operator struct {
	m, n, b int
	p, q    int // blocks that have rows (columns) that exist
	planes  int
	dft     *dft
	w       []float32 // [planes, p, q], with the inverse transform's 1/b
	bias    []float32 // [m]
}

// tile is the number of tokens that go through the transforms together.
const tile = 16

// NewOperator prepares the product with m on the kernels k. The bias has m.M
// elements, or is nil for none. Neither is kept.
func NewOperator(m *Matrix, bias []float32, k *simd.Kernels) (*Operator, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	if bias != nil && len(bias) != m.M {
		return nil, fmt.Errorf("circulant: bias of %d elements for %d rows", len(bias), m.M)
	}
	o := &Operator{
		m: m.M, n: m.N, b: m.B,
		p: ceilDiv(m.M, m.B), q: ceilDiv(m.N, m.B),
		planes: planes(m.B),
		dft:    newDFT(m.B),
		bias:   make([]float32, m.M),
	}
	copy(o.bias, bias)
	o.w = make([]float32, o.planes*o.p*o.q)
	eachSpectrum(m, o.p, o.q, func(i, j int, s []complex128) {
		put := func(plane int, v float64) { o.w[(plane*o.p+i)*o.q+j] = float32(v / float64(o.b)) }
		put(0, real(s[0]))
		if o.b%2 == 0 {
			put(1, real(s[o.b/2]))
		}
		for f := 1; f <= complexBins(o.b); f++ {
			wr, wi := real(s[f]), imag(s[f])
			k := realBins(o.b) + 3*(f-1)
			put(k, wr)
			put(k+1, wi-wr)
			put(k+2, wr+wi)
		}
	})
	return o, nil
}

// eachSpectrum calls f with the spectrum, ⌊b/2⌋+1 bins, of every block of the
// first p×q of m.
func eachSpectrum(m *Matrix, p, q int, f func(i, j int, s []complex128)) {
	fft := fourier.NewFFT(m.B)
	x, s := make([]float64, m.B), make([]complex128, m.B/2+1)
	for i := range p {
		for j := range q {
			for c, v := range m.block(i, j) {
				x[c] = float64(v)
			}
			f(i, j, fft.Coefficients(s, x))
		}
	}
}

// Dims returns the numbers of rows (outputs) and columns (inputs) of W.
func (o *Operator) Dims() (m, n int) { return o.m, o.n }

// Workspace is the number of elements of the workspace that Apply wants for
// that many tokens. It does not grow further beyond some number of tokens.
func (o *Operator) Workspace(tokens int) int {
	l := min(tokens, tile)
	return l * (o.b + (o.p+o.q)*o.planes)
}

// Apply computes Y[t, :] = W·X[t, :] + bias for t < tokens. Row t of X [tokens,
// n] starts at x[t·ldx], row t of Y [tokens, m] at y[t·ldy]; y must not overlap
// x. The workspace has Workspace(tokens) elements of any content. Apply
// allocates nothing.
func (o *Operator) Apply(y []float32, ldy int, x []float32, ldx int, tokens int, ws []float32) {
	if tokens == 0 {
		return
	}
	if tokens < 0 || ldx < o.n || ldy < o.m || len(x) < (tokens-1)*ldx+o.n || len(y) < (tokens-1)*ldy+o.m {
		panic(fmt.Sprintf("circulant: %d tokens with strides %d, %d for %d → %d do not fit slices of %d, %d",
			tokens, ldx, ldy, o.n, o.m, len(x), len(y)))
	}
	if want := o.Workspace(tokens); len(ws) < want {
		panic(fmt.Sprintf("circulant: workspace of %d elements, want %d", len(ws), want))
	}
	for t := 0; t < tokens; t += tile {
		o.applyTile(y[t*ldy:], ldy, x[t*ldx:], ldx, min(tile, tokens-t), ws)
	}
}

func (o *Operator) applyTile(y []float32, ldy int, x []float32, ldx int, lanes int, ws []float32) {
	blk, ws := ws[:o.b*lanes], ws[o.b*lanes:] // [b, lanes]
	step := o.planes * lanes
	xh := ws[:o.q*step]            // [q, planes, lanes]
	yh := ws[o.q*step:][:o.p*step] // [p, planes, lanes]
	for j := range o.q {
		for c := range o.b {
			row := blk[c*lanes : (c+1)*lanes]
			if k := j*o.b + c; k < o.n {
				for t := range row {
					row[t] = x[t*ldx+k]
				}
			} else {
				clear(row)
			}
		}
		o.dft.forward(xh[j*step:(j+1)*step], blk, lanes)
	}
	for k := range o.planes {
		w := o.w[k*o.p*o.q : (k+1)*o.p*o.q]
		for i := range o.p {
			acc := yh[i*step+k*lanes:][:lanes]
			clear(acc)
			for j, v := range w[i*o.q : (i+1)*o.q] {
				axpy(acc, xh[j*step+k*lanes:][:lanes], v)
			}
		}
	}
	for i := range o.p {
		o.dft.inverse(blk, yh[i*step:(i+1)*step], lanes)
		for a := range min(o.b, o.m-i*o.b) {
			r := i*o.b + a
			for t, v := range blk[a*lanes : (a+1)*lanes] {
				y[t*ldy+r] = v + o.bias[r]
			}
		}
	}
}
