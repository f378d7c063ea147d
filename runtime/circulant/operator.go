package circulant

import (
	"fmt"
	"math"

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
	m, n   int
	p, q   int // blocks that have rows (columns) that exist
	gp, gq int // groups of columns of the kernels that they fill, the last in part
	c      *simd.Circulant
	w      simd.CirculantWeights
	k      *simd.Kernels
	few    int       // tokens that are multiplied one by one
	bias   []float32 // [gp groups], zero beyond m
	zeros  []float32 // [1 group]
}

// MaxBlock is the largest block size that an Operator takes. Workspaces grow with
// the block size, and block sizes that are no powers of two take time that grows
// with its square.
const MaxBlock = 1 << 14

// few is how many tokens are multiplied one by one, where a tile of Lanes tokens
// would be mostly padding. A single token takes about a tenth of a tile's time
// while its weights stay in a level-two cache, and three tenths when they do not.
func few(c *simd.Circulant, w simd.CirculantWeights) int {
	const cache = 1_500_000 / 4
	switch {
	case w.RowLen() == 0:
		return 0
	case w.RowLen() > cache:
		return 2
	}
	return c.Lanes()/2 - 1
}

// NewOperator prepares the product with m on the kernels k. The bias has m.M
// elements, or is nil for none. Neither is kept.
func NewOperator(m *Matrix, bias []float32, k *simd.Kernels) (*Operator, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	if bias != nil && len(bias) != m.M {
		return nil, fmt.Errorf("circulant: bias of %d elements for %d rows", len(bias), m.M)
	}
	if m.B > MaxBlock {
		return nil, fmt.Errorf("circulant: block size is %d, the product takes at most %d", m.B, MaxBlock)
	}
	o := &Operator{
		m: m.M, n: m.N,
		p: ceilDiv(m.M, m.B), q: ceilDiv(m.N, m.B),
		c: k.Circulant(m.B), k: k,
	}
	cols := o.c.Columns()
	o.gp, o.gq = ceilDiv(m.M, cols), ceilDiv(m.N, cols)
	o.bias = make([]float32, o.gp*cols)
	for i, v := range bias {
		o.bias[i] = v + 0 // no −0: the sum with a result is the same in one step and in two
	}
	o.zeros = make([]float32, cols)
	o.w = o.c.Pack(spectra(m, o.p, o.q), o.p, o.q)
	o.few = few(o.c, o.w)
	return o, nil
}

// spectra returns the spectra of the first p×q blocks of m, with the inverse
// transform's factor 1/b, in the order [b, p, q] of [simd.Circulant].
func spectra(m *Matrix, p, q int) []float32 {
	b := m.B
	fft := fourier.NewFFT(b)
	x, s := make([]float64, b), make([]complex128, b/2+1)
	out := make([]float32, b*p*q)
	for i := range p {
		for j := range q {
			for c, v := range m.block(i, j) {
				x[c] = float64(v) / float64(b)
			}
			fft.Coefficients(s, x)
			put := func(k int, v float64) { out[(k*p+i)*q+j] = float32(v) }
			put(0, real(s[0]))
			k := 1
			if b%2 == 0 {
				put(1, real(s[b/2]))
				k = 2
			}
			for f := 1; f <= (b-1)/2; f++ {
				put(k, real(s[f]))
				put(k+1, imag(s[f]))
				k += 2
			}
		}
	}
	return out
}

// Dims returns the numbers of rows (outputs) and columns (inputs) of W.
func (o *Operator) Dims() (m, n int) { return o.m, o.n }

// FLOPs is the number of floating-point operations that the product of so many
// tokens takes: for a block and token 1 multiply-add for each real frequency
// and 3 for each complex one, and for each block of an input or output the
// usual 5/2·b·log₂ b of a real Fourier transform. A multiply-add counts two.
func (o *Operator) FLOPs(tokens int) int64 {
	b := o.c.Columns() / o.c.GroupBlocks()
	products := 2 * o.c.Planes() * o.p * o.q
	transforms := 2.5 * float64(b) * math.Log2(float64(b)) * float64(o.p+o.q)
	return int64(tokens) * (int64(products) + int64(transforms))
}

// Workspace is the number of elements of the workspace that Apply wants for
// that many tokens. It does not grow further beyond two tiles of tokens.
func (o *Operator) Workspace(tokens int) int {
	if tokens <= 0 {
		return 0
	}
	_, _, _, _, size := o.layout(nil, o.halves(tokens))
	return size
}

// halves is the number of tiles that the largest step of a call has; 0 when all
// tokens are multiplied one by one.
func (o *Operator) halves(tokens int) int {
	switch {
	case tokens <= o.few:
		return 0
	case tokens <= o.c.Lanes():
		return 1
	}
	return 2
}

// layout cuts the workspace: scratch for the transforms, a staging area for
// groups or rows that are not whole, and the transformed inputs and outputs.
// size is the number of elements that it takes, with those that aligning the
// parts to cache lines may drop.
func (o *Operator) layout(ws []float32, halves int) (scratch, stage, x, y []float32, size int) {
	lanes, step := o.c.Lanes(), o.c.Planes()*o.c.Lanes()
	// Single tokens have their own layout, and any call may end with some.
	nx := max(halves*o.half(o.gq), o.c.RowBlocks(o.q)*step)
	ny := max(halves*o.half(o.gp), o.c.RowBlocks(o.p)*step)
	take := func(n int) (part []float32) {
		n = (n + line - 1) / line * line
		if ws != nil {
			part, ws = ws[:n:n], ws[n:]
		}
		size += n
		return part
	}
	if ws != nil {
		ws = simd.AlignLine(ws)
	}
	size = line
	scratch, stage = take(o.c.Scratch()), take(lanes*o.c.Columns())
	x, y = take(nx), take(ny)
	return scratch, stage, x, y, size
}

// line is the number of elements of a cache line.
const line = 16

// half is the number of elements of the tile of that many groups.
func (o *Operator) half(groups int) int {
	return groups * o.c.GroupBlocks() * o.c.Planes() * o.c.Lanes()
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
	scratch, stage, xh, yh, _ := o.layout(ws, o.halves(tokens))
	lanes := o.c.Lanes()
	for t := 0; t < tokens; {
		rest := tokens - t
		if rest <= o.few {
			o.applyRow(y[t*ldy:], x[t*ldx:], scratch, stage, xh, yh)
			t++
			continue
		}
		halves := 2
		if rest-lanes <= o.few {
			halves = 1 // the rest, if any, one by one
		}
		for h := range halves {
			from := t + h*lanes
			forward(o.c, xh[h*o.half(o.gq):], x[from*ldx:], ldx, o.n, min(lanes, tokens-from), scratch, stage)
		}
		o.c.Products(yh, o.half(o.gp), o.w, xh, o.half(o.gq), halves)
		for h := range halves {
			from := t + h*lanes
			o.inverse(y[from*ldy:], ldy, yh[h*o.half(o.gp):], min(lanes, tokens-from), scratch, stage)
		}
		t += min(rest, halves*lanes)
	}
}

// forward transforms a tile of rows tokens of n elements. Whole groups of a whole
// tile are read in place, others through the staging area, padded with zeros.
func forward(c *simd.Circulant, xh, x []float32, ldx, n, rows int, scratch, stage []float32) {
	cols, lanes := c.Columns(), c.Lanes()
	step := c.GroupBlocks() * c.Planes() * lanes
	group := 0
	if rows == lanes {
		group = n / cols
		c.Forward(xh, x, ldx, group, scratch)
	}
	for ; group*cols < n; group++ {
		first := group * cols
		width := min(cols, n-first)
		for r := range lanes {
			dst := stage[r*cols : (r+1)*cols]
			if r < rows {
				clear(dst[copy(dst, x[r*ldx+first:][:width]):])
			} else {
				clear(dst)
			}
		}
		c.Forward(xh[group*step:], stage, cols, 1, scratch)
	}
}

// inverse transforms a tile back into rows tokens.
func (o *Operator) inverse(y []float32, ldy int, yh []float32, rows int, scratch, stage []float32) {
	cols := o.c.Columns()
	group := 0
	if rows == o.c.Lanes() {
		group = o.m / cols
		o.c.Inverse(y, ldy, yh, o.bias, group, scratch)
	}
	for ; group < o.gp; group++ {
		first := group * cols
		width := min(cols, o.m-first)
		o.c.Inverse(stage, cols, yh[o.half(group):], o.bias[first:], 1, scratch)
		for r := range rows {
			copy(y[r*ldy+first:][:width], stage[r*cols:])
		}
	}
}

// applyRow multiplies one token. Its groups are the rows of the transforms.
func (o *Operator) applyRow(y, x []float32, scratch, stage, xh, yh []float32) {
	cols := o.c.Columns()
	tile, step := o.c.Lanes()*cols, o.half(1)
	for i, first := 0, 0; first < o.n; i, first = i+1, first+tile {
		from := x[first:o.n]
		if len(from) < tile {
			clear(stage[copy(stage, from):tile])
			from = stage
		}
		o.c.Forward(xh[i*step:], from, cols, 1, scratch)
	}
	o.c.RowProduct(yh, o.w, xh)
	for i, first := 0, 0; first < o.m; i, first = i+1, first+tile {
		to := y[first:o.m]
		if len(to) >= tile {
			o.c.Inverse(to, cols, yh[i*step:], o.zeros, 1, scratch)
		} else {
			o.c.Inverse(stage, cols, yh[i*step:], o.zeros, 1, scratch)
			copy(to, stage)
		}
	}
	o.k.Add(y[:o.m], y[:o.m], o.bias[:o.m])
}
