package circulant

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/dsp/fourier"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// Operator computes Y = X·Wᵀ + bias for one block-circulant W by FFT. It holds
// the spectra of the weights, 3b/2 − 1 numbers a block, not the matrix; is immutable; and
// is safe for concurrent use: everything that a call writes is in the caller's
// workspace.
//
// The bits of a token's result depend on the token and on the kernel path
// alone: not on how many tokens a call has, nor on the token's place among
// them. Callers may split tokens over threads as they like.
type Operator struct {
	m, n   int
	p, q   int // blocks that have rows (columns) that exist
	gp, gq int // groups of columns of the kernels that they fill, the last in part
	part   int // the most pairs of groups of outputs that are computed at once
	tiles  int // how many tiles of tokens are multiplied at once
	c      *simd.Circulant
	w      simd.CirculantWeights
	k      *simd.Kernels
	bias   []float32 // [gp groups and one more], zero beyond m
	biased bool      // there is one
	zeros  []float32 // [1 group]
}

// MaxBlock is the largest block size that an Operator takes. Workspaces grow with
// the block size, and block sizes that are no powers of two take time that grows
// with its square.
const MaxBlock = 1 << 14

// few is how many tokens are multiplied one by one: it takes a single token about
// a third of the time of a tile of pairs.
const few = 2

// NewOperator prepares the product with m. The bias has m.M elements, or is nil
// for none. Neither is kept. k are the vector kernels that it runs on: nil, which
// is all that packages outside of lathe can say, for the best that this machine
// has, or those that the environment variable LATHE_SIMD names.
//
// It fails where m is not valid or its block size is above MaxBlock, and where the
// bias has another length.
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
	k, err := k.OrAuto()
	if err != nil {
		return nil, fmt.Errorf("circulant: %w", err)
	}
	o := &Operator{
		m: m.M, n: m.N,
		p: ceilDiv(m.M, m.B), q: ceilDiv(m.N, m.B),
		c: k.Circulant(m.B), k: k, biased: bias != nil,
	}
	cols := o.c.Columns()
	o.gp, o.gq = ceilDiv(m.M, cols), ceilDiv(m.N, cols)
	o.bias = make([]float32, (o.gp+1)*cols)
	for i, v := range bias {
		o.bias[i] = v + 0 // no −0: the sum with a result is the same in one step and in two
	}
	o.zeros = make([]float32, cols)
	o.w = o.c.Pack(spectra(m, o.p, o.q), o.p, o.q)
	for _, part := range o.w.Tiles {
		o.part = max(o.part, (part.Groups+1)/2)
	}
	o.tiles = tilesAtOnce(o)
	return o, nil
}

// tilesAtOnce is how many tiles of tokens are transformed before operators on the
// same inputs multiply them. Weights are read once for all of them, which counts where
// they do not stay in the second cache, of 1 or 2 MB, from one tile to the next; inputs
// should stay in it.
func tilesAtOnce(ops ...*Operator) int {
	const weights, inputs = 1 << 20 / 4, 512 << 10 / 4 // elements
	all := 0
	for _, o := range ops {
		all += o.weights()
	}
	if all < weights {
		return 1
	}
	return max(1, inputs/ops[0].tile(ops[0].gq))
}

// weights is the number of elements of the weights that products of many tokens read.
func (o *Operator) weights() int { return o.p * o.q * o.c.Multiplications() }

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

// Tile is a number of tokens: work that is split at multiples of it takes the
// least time.
func (o *Operator) Tile() int { return o.c.Lanes() }

// FLOPs is the number of floating-point operations that the product of so many
// tokens takes: for a block and token 1 multiply-add for each real frequency
// and 3 for each complex one, and for each block of an input or output the
// usual 5/2·b·log₂ b of a real Fourier transform. A multiply-add counts two.
func (o *Operator) FLOPs(tokens int) int64 { return o.flops(tokens, o.p+o.q) }

// flops is FLOPs with so many transforms.
func (o *Operator) flops(tokens, blocks int) int64 {
	b := o.c.Block()
	products := 2 * o.c.Multiplications() * o.p * o.q
	transforms := 2.5 * float64(b) * math.Log2(float64(b)) * float64(blocks)
	return int64(tokens) * (int64(products) + int64(transforms))
}

// Workspace is the number of float32 elements of the workspace that Apply wants.
func (o *Operator) Workspace() int {
	_, size := o.layout(nil, o.tiles)
	return size
}

// workspace is a workspace, cut up.
type workspace struct {
	transforms []float32 // scratch memory
	stage      []float32 // a group of a tile that is not in place
	x, y       []float32 // transformed inputs and outputs
}

// layout cuts a workspace with inputs for so many tiles. size is the number of elements that it takes, with
// those that aligning the parts to cache lines may drop.
func (o *Operator) layout(ws []float32, tiles int) (parts workspace, size int) {
	step := o.c.Pitch() * o.c.Lanes()
	if ws != nil {
		ws = simd.AlignLine(ws)
	}
	size = line
	for _, part := range []struct {
		to *[]float32
		n  int
	}{
		{&parts.transforms, o.c.Scratch()}, {&parts.stage, o.c.Lanes() * o.c.Columns()},
		// Single tokens have their own layout.
		{&parts.x, max(tiles*o.tile(o.gq), o.c.RowBlocks(o.q)*step)},
		{&parts.y, max(2*o.tile(o.part), o.c.RowBlocks(o.p)*step)},
	} {
		n := (part.n + line - 1) / line * line
		if ws != nil {
			*part.to, ws = ws[:n:n], ws[n:]
		}
		size += n
	}
	return parts, size
}

// line is the number of elements of a cache line.
const line = 16

// tile is the number of elements of the tile of that many groups.
func (o *Operator) tile(groups int) int {
	return groups * o.c.GroupBlocks() * o.c.Pitch() * o.c.Lanes()
}

// Apply computes Y[t, :] = W·X[t, :] + bias for t < tokens. Row t of X [tokens,
// n] starts at x[t·ldx], row t of Y [tokens, m] at y[t·ldy]; y must not overlap
// x. The workspace has Workspace() elements of any content; goroutines must not
// share one. Apply allocates nothing, and panics where slices are too short.
func (o *Operator) Apply(y []float32, ldy int, x []float32, ldx int, tokens int, ws []float32) {
	if tokens == 0 {
		return
	}
	if tokens < 0 || ldx < o.n || ldy < o.m || len(x) < (tokens-1)*ldx+o.n || len(y) < (tokens-1)*ldy+o.m {
		panic(fmt.Sprintf("circulant: %d tokens with strides %d, %d for %d → %d do not fit slices of %d, %d",
			tokens, ldx, ldy, o.n, o.m, len(x), len(y)))
	}
	if want := o.Workspace(); len(ws) < want {
		panic(fmt.Sprintf("circulant: workspace of %d elements, want %d", len(ws), want))
	}
	s, _ := o.layout(ws, o.tiles)
	for t := 0; t < tokens; {
		size, from, have := o.step(t, tokens, o.tiles)
		o.transform(size, x[from*ldx:], ldx, have, s)
		o.multiply(size, y[from*ldy:], ldy, have, s)
		t = from + have
	}
}

// step returns how many tokens are multiplied at once from token t on, where
// they begin and how many of them there are: up to so many whole tiles, or the widest
// step that is not mostly empty. A step that would reach beyond the last token begins
// earlier instead, as long as there are tokens.
func (o *Operator) step(t, tokens, tiles int) (size, from, have int) {
	rest := tokens - t
	size = o.c.Lanes()
	switch {
	case rest >= size:
		return size, t, min(tiles, rest/size) * size
	case rest <= few:
		size = 1
	case rest <= size/2:
		size /= 2
	}
	from = max(0, min(t, tokens-size))
	return size, from, min(size, tokens-from)
}

// transform makes s.x of a step of so many tokens.
func (o *Operator) transform(size int, x []float32, ldx, tokens int, s workspace) {
	switch size {
	case o.c.Lanes():
		for at := 0; at < tokens; at += size {
			forward(o.c, s.x[at/size*o.tile(o.gq):], x[at*ldx:], ldx, o.n, min(size, tokens-at), 1, s.transforms, s.stage)
		}
	case 1:
		o.transformRow(x, s)
	default:
		forward(o.c, s.x, x, ldx, o.n, tokens, 2, s.transforms, s.stage)
	}
}

// multiply makes the results of a step of s.x, which it leaves.
func (o *Operator) multiply(size int, y []float32, ldy, tokens int, s workspace) {
	switch size {
	case o.c.Lanes(): // at least two tokens
		for _, part := range o.w.Tiles {
			half := o.tile((part.Groups + 1) / 2)
			for at := 0; at < tokens; at += size {
				o.c.Products(s.y, half, o.w, part, s.x[at/size*o.tile(o.gq):])
				y, n := y[at*ldy:], min(size, tokens-at)
				o.inverse(y, 2*ldy, s.y, part, (n+1)/2, s)
				o.inverse(y[ldy:], 2*ldy, s.y[half:], part, n/2, s)
			}
		}
	case 1:
		o.multiplyRow(y, s)
	default:
		for _, part := range o.w.Pairs {
			o.c.PairProducts(s.y, o.w, part, s.x)
			o.inverse(y, ldy, s.y, part, tokens, s)
		}
	}
}

// forward transforms a tile of tokens of n elements, which has each rows for a
// token: 1 or 2. Whole groups of a whole tile are read in place, others through
// the staging area, padded with zeros.
func forward(c *simd.Circulant, xh, x []float32, ldx, n, tokens, each int, scratch, stage []float32) {
	cols, places := c.Columns(), c.Lanes()/each
	rows := func(ld int) simd.Rows {
		if each == 2 {
			return simd.Rows{Odd: 0, Pair: ld, Group: cols}
		}
		return simd.Rows{Odd: ld, Pair: 2 * ld, Group: cols}
	}
	step := c.GroupBlocks() * c.Pitch() * c.Lanes()
	group := 0
	if tokens == places {
		group = n / cols
		c.Forward(xh, x, rows(ldx), group, scratch)
	}
	for ; group*cols < n; group++ {
		first := group * cols
		width := min(cols, n-first)
		for t := range places {
			dst := stage[t*cols : (t+1)*cols]
			if t < tokens {
				clear(dst[copy(dst, x[t*ldx+first:][:width]):])
			} else {
				clear(dst)
			}
		}
		c.Forward(xh[group*step:], stage, rows(cols), 1, scratch)
	}
}

// inverse transforms the part of a tile of pairs back into tokens.
func (o *Operator) inverse(y []float32, ldy int, yh []float32, part simd.CirculantPart, tokens int, s workspace) {
	cols := o.c.Columns()
	wide := 2 * cols // columns of a pair of groups
	first, end := part.First*cols, min(o.m, (part.First+part.Groups)*cols)
	pair := 0
	if tokens == o.c.Lanes()/2 {
		pair = (end - first) / wide
		o.c.Inverse(y[first:], simd.Rows{Odd: cols, Pair: ldy, Group: wide}, yh, o.bias[first:], cols, pair, s.transforms)
	}
	for ; first+pair*wide < end; pair++ {
		from := first + pair*wide
		o.c.Inverse(s.stage, simd.Rows{Odd: cols, Pair: wide}, yh[o.tile(pair):], o.bias[from:], cols, 1, s.transforms)
		for t := range tokens {
			copy(y[t*ldy+from:][:min(wide, end-from)], s.stage[t*wide:])
		}
	}
}

// transformRow transforms one token. Its groups are the rows of the transforms.
func (o *Operator) transformRow(x []float32, s workspace) {
	cols := o.c.Columns()
	rows := simd.Rows{Odd: cols, Pair: 2 * cols}
	tile, step := o.c.Lanes()*cols, o.tile(1)
	o.c.AskRow(o.w) // before the transform, which takes as long as memory
	for i, first := 0, 0; first < o.n; i, first = i+1, first+tile {
		from := x[first:o.n]
		if len(from) < tile {
			clear(s.stage[copy(s.stage, from):tile])
			from = s.stage
		}
		o.c.Forward(s.x[i*step:], from, rows, 1, s.transforms)
	}
}

// multiplyRow multiplies one token that is transformed.
func (o *Operator) multiplyRow(y []float32, s workspace) {
	cols := o.c.Columns()
	rows := simd.Rows{Odd: cols, Pair: 2 * cols}
	tile, step := o.c.Lanes()*cols, o.tile(1)
	o.c.RowProduct(s.y, o.w, s.x)
	for i, first := 0, 0; first < o.m; i, first = i+1, first+tile {
		to := y[first:o.m]
		if len(to) >= tile {
			o.c.Inverse(to, rows, s.y[i*step:], o.zeros, 0, 1, s.transforms)
		} else {
			o.c.Inverse(s.stage, rows, s.y[i*step:], o.zeros, 0, 1, s.transforms)
			copy(to, s.stage)
		}
	}
	if o.biased {
		o.k.Add(y[:o.m], y[:o.m], o.bias[:o.m])
	}
}
