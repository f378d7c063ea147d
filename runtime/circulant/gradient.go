package circulant

import (
	"fmt"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// Gradient computes the gradient of a loss with respect to the weights of a
// block-circulant matrix, by FFT:
//
//	∂L/∂w_ij = IDFT( Σ_t ĝ_i(t) ∘ conj(x̂_j(t)) ),  g = ∂L/∂y, over tokens t.
//
// (That with respect to the input is the product of g with the transpose: an
// [Operator] of [Matrix.Transpose].) It is immutable and safe for concurrent
// use.
type Gradient struct {
	m, n, b int
	p, q    int
	c       *simd.Circulant
	k       *simd.Kernels
	zeros   []float32
}

// NewGradient prepares the gradients of matrices of m rows, n columns and block
// size b, with the grid of [New], on the kernels k, as in [NewOperator].
func NewGradient(m, n, b int, k *simd.Kernels) (*Gradient, error) {
	if err := checkShape(m, n, b); err != nil {
		return nil, err
	}
	if b > MaxBlock {
		return nil, fmt.Errorf("circulant: block size is %d, the gradient takes at most %d", b, MaxBlock)
	}
	k, err := k.OrAuto()
	if err != nil {
		return nil, fmt.Errorf("circulant: %w", err)
	}
	g := &Gradient{m: m, n: n, b: b, p: ceilDiv(m, b), q: ceilDiv(n, b), c: k.Circulant(b), k: k}
	g.zeros = make([]float32, g.c.Columns())
	return g, nil
}

// Workspace is the number of float32 elements of the workspace that AddWeights wants.
func (g *Gradient) Workspace() int {
	_, size := g.layout(nil)
	return size
}

// gradientParts is a workspace, cut up.
type gradientParts struct {
	scratch, stage []float32 // of the transforms
	x, g           []float32 // a tile of transformed inputs [q, pitch, lanes] and gradients [p, pitch, lanes]
	turned         []float32 // [p, 2·lanes]: g·(−i) of one bin, imaginary before real part
	packed         []float32 // x of one bin, for the matrix product
	sum            []float32 // [b, p, q] spectra
}

func (g *Gradient) layout(ws []float32) (s gradientParts, size int) {
	lanes, cols := g.c.Lanes(), g.c.Columns()
	blocks := func(n int) int { return ceilDiv(n, cols) * g.c.GroupBlocks() * g.c.Pitch() * lanes }
	if ws != nil {
		ws = simd.AlignLine(ws)
	}
	size = line
	for _, part := range []struct {
		to *[]float32
		n  int
	}{
		{&s.scratch, g.c.Scratch()}, {&s.stage, lanes * cols},
		// The last tile of the inverse transform reuses x.
		{&s.x, max(blocks(g.n), blocks(1))}, {&s.g, blocks(g.m)},
		{&s.turned, g.p * 2 * lanes}, {&s.packed, g.k.PackedLen(2*lanes, g.q)},
		{&s.sum, g.b * g.p * g.q},
	} {
		n := (part.n + line - 1) / line * line
		if ws != nil {
			*part.to, ws = ws[:n:n], ws[n:]
		}
		size += n
	}
	return s, size
}

// AddWeights adds ∂L/∂w to dw [p, q, b], for tokens rows of the inputs x and of
// the gradients dy with respect to the outputs. Row t of x starts at x[t·ldx],
// row t of dy at dy[t·ldy]. Sums are taken in the order of the tokens. It
// allocates nothing; the workspace may have any content.
func (g *Gradient) AddWeights(dw, dy []float32, ldy int, x []float32, ldx, tokens int, ws []float32) {
	if tokens == 0 {
		return
	}
	if tokens < 0 || ldx < g.n || ldy < g.m || len(x) < (tokens-1)*ldx+g.n || len(dy) < (tokens-1)*ldy+g.m || len(dw) < g.p*g.q*g.b {
		panic(fmt.Sprintf("circulant: gradient of %d tokens with strides %d, %d for %d → %d does not fit slices of %d, %d, %d",
			tokens, ldx, ldy, g.n, g.m, len(x), len(dy), len(dw)))
	}
	if want := g.Workspace(); len(ws) < want {
		panic(fmt.Sprintf("circulant: workspace of %d elements, want %d", len(ws), want))
	}
	s, _ := g.layout(ws)
	lanes := g.c.Lanes()
	for t := 0; t < tokens; t += lanes {
		rows := min(lanes, tokens-t)
		forward(g.c, s.x, x[t*ldx:], ldx, g.n, rows, 1, s.scratch, s.stage)
		forward(g.c, s.g, dy[t*ldy:], ldy, g.m, rows, 1, s.scratch, s.stage)
		g.addTile(s, t > 0)
	}
	g.addBlocks(dw, s)
}

// addTile adds a tile's spectra to s.sum: for every complex bin
//
//	Re = Σ_t gr·xr + gi·xi,  Im = Σ_t gi·xr − gr·xi,
//
// two matrix products of [gr gi] and of [gi −gr] with the same [xr; xi].
func (g *Gradient) addTile(s gradientParts, accumulate bool) {
	lanes := g.c.Lanes()
	step := g.c.Pitch() * lanes
	realBins := 2 - g.b%2
	// tile is k elements from plane on, of every block.
	tile := func(x []float32, plane int) simd.Mat {
		return simd.RowMajor(x[plane*lanes:], step)
	}
	sum := func(k int) []float32 { return s.sum[k*g.p*g.q : (k+1)*g.p*g.q] }
	for k := range realBins {
		x := g.k.PackInto(s.packed, tile(s.x, k).T(), lanes, g.q)
		g.k.Gemm(sum(k), g.q, tile(s.g, k), g.p, x, nil, accumulate)
	}
	for k := realBins; k < g.b; k += 2 {
		x := g.k.PackInto(s.packed, tile(s.x, k).T(), 2*lanes, g.q)
		g.k.Gemm(sum(k), g.q, tile(s.g, k), g.p, x, nil, accumulate)
		for i := range g.p {
			from, to := s.g[i*step+k*lanes:], s.turned[i*2*lanes:]
			for t := range lanes {
				to[t], to[lanes+t] = from[lanes+t], -from[t]
			}
		}
		g.k.Gemm(sum(k+1), g.q, simd.RowMajor(s.turned, 2*lanes), g.p, x, nil, accumulate)
	}
}

// addBlocks adds the inverse transforms of s.sum to dw. All blocks of dw are one
// row of p·q blocks, whose groups are the rows of the transform.
func (g *Gradient) addBlocks(dw []float32, s gradientParts) {
	lanes, cols, unit, pitch := g.c.Lanes(), g.c.Columns(), g.c.GroupBlocks(), g.c.Pitch()
	blocks := g.p * g.q
	scale := 1 / float32(g.b)
	for first := 0; first < blocks; first += lanes * unit {
		src := s.x[:unit*pitch*lanes]
		clear(src)
		count := min(lanes*unit, blocks-first)
		for i := range count {
			// Block i of the tile is block i%unit of row i/unit.
			at := src[i%unit*pitch*lanes+i/unit:]
			for k := range g.b {
				at[k*lanes] = s.sum[k*blocks+first+i] * scale
			}
		}
		g.c.Inverse(s.stage, simd.Rows{Odd: cols, Pair: 2 * cols}, src, g.zeros, 0, 1, s.scratch)
		to := dw[first*g.b:][:count*g.b]
		g.k.Add(to, to, s.stage[:len(to)])
	}
}
