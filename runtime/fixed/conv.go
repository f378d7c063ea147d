package fixed

import (
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// Conv computes a Spec at every output of a window: BlockCirculantConvInt16. It
// is immutable and safe for concurrent use.
//
// Every pixel is transformed once, by Forward, into vectors of an image: number
// k of the spectrum of block j is row j·(b+1) + k of [Rows, size], as words of
// 32 bits that hold what the products read (package simd). Multiply gathers the
// words of the taps of some outputs, which makes the tile of a product with taps
// times as many blocks. Of two blocks whose real bins share a word the image has
// the halves apart, because which blocks are neighbours depends on the tap.
type Conv struct {
	o       *Circulant
	q, taps int
	groups  int // of columns of a pixel
	forward []float32
	k       *simd.Kernels
}

// Plan is where the windows of some outputs are in an image: the window of output i
// begins at place At[i], and tap t of it is Taps[t] places further.
type Plan struct {
	size     int
	at, taps []int32
	vectors  simd.Vectors  // of a tile, in the image
	pieces   []simd.Pieces // outputs of every tile
}

// Plan prepares Multiply for an image of size places. It keeps the slices.
func (v *Conv) Plan(size int, at, taps []int32) *Plan {
	p := &Plan{size: size, at: at, taps: taps}
	if v.o.Rounding == CirCNN {
		return p
	}
	b := v.o.B
	var vectors []int32
	for t, tap := range taps {
		for j := range v.q {
			for k := range b {
				vectors = append(vectors, int32((j*(b+1)+k)*size)+tap, int32((t*v.q+j)*(b+1)+k))
			}
		}
	}
	p.vectors = simd.NewVectors(vectors)
	for i := 0; i < len(at); i += v.Tile() {
		p.pieces = append(p.pieces, simd.Pieces{})
		p.pieces[len(p.pieces)-1].Set(v.o.c, at[i:min(i+v.Tile(), len(at))])
	}
	return p
}

// Groups are the products of the groups of a convolution, of which s has the block
// rows, the blocks of the input (in R) and the outputs one after the other.
func (s Spec) Groups(n int) ([]Spec, error) {
	if n == 1 {
		return []Spec{s}, nil
	}
	if n < 1 || n > s.P || s.P%n != 0 || len(s.W)%n != 0 || len(s.S)%n != 0 || len(s.Bias)%n != 0 || len(s.R)%n != 0 || len(s.E)%n != 0 {
		return nil, fmt.Errorf("%d groups of %d block rows and %d outputs, weights W of %d elements, shifts S and R and bias B of %d, %d and %d", n, s.P, len(s.E), len(s.W), len(s.S), len(s.R), len(s.Bias))
	}
	out := make([]Spec, n)
	for g := range out {
		out[g] = s
		out[g].P = s.P / n
		out[g].W, out[g].S, out[g].Bias, out[g].R, out[g].E = part(s.W, g, n), part(s.S, g, n), part(s.Bias, g, n), part(s.R, g, n), part(s.E, g, n)
	}
	return out, nil
}

// part is part i of n of v.
func part[T any](v []T, i, n int) []T { return v[i*len(v)/n : (i+1)*len(v)/n] }

// NewConv prepares the product on the kernels k. Blocks of s are those of all
// taps, tap by tap: W is [P, taps·q, B], Q = taps·q, but R is [q, B/2+1], the same
// at every tap. With nil for k it takes the best of this machine.
func NewConv(s Spec, taps int, k *simd.Kernels) (*Conv, error) {
	if taps < 1 || s.Q%taps != 0 || s.Q > 1<<27 {
		return nil, fmt.Errorf("%d blocks for %d taps", s.Q, taps)
	}
	q := s.Q / taps
	if s.B < 2 || s.B > MaxBlock || len(s.R) != q*(s.B/2+1) || len(s.W) != s.P*s.Q*s.B {
		return nil, fmt.Errorf("weights W of %d elements and shifts R of %d for %d×%d blocks of %d at %d taps", len(s.W), len(s.R), s.P, q, s.B, taps)
	}
	r := s.R
	s.R = slices.Repeat(r, taps)
	o, err := NewCirculant(s, k)
	if err != nil {
		return nil, err
	}
	v := &Conv{o: o, q: q, taps: taps, k: o.k}
	if o.Rounding == Once {
		cols := o.c.Columns()
		v.groups = (q*o.B + cols - 1) / cols
		v.forward = o.c.ForwardScales(r, v.groups)
	}
	return v, nil
}

// Inputs is the largest number of channels that Forward takes.
func (v *Conv) Inputs() int { return v.q * v.o.B }

// Outputs is the number of channels that Multiply gives.
func (v *Conv) Outputs() int { return len(v.o.E) }

// Rows is the number of vectors of an image.
func (v *Conv) Rows() int { return v.q * (v.o.B + 1) }

// Tile is a number of pixels or outputs: work that is split at multiples of it
// takes the least time.
func (v *Conv) Tile() int { return v.o.c.Lanes() }

// Operations is the number of integer operations for so many pixels and outputs,
// counted as for floating point.
func (v *Conv) Operations(pixels, outputs int) int64 {
	o := *v.o
	o.P, o.Q = 0, v.q
	forward := o.Operations(pixels)
	o.P, o.Q = v.o.P, 0
	backward := o.Operations(outputs)
	return forward + backward + int64(outputs)*2*int64(2*o.B-2)*int64(v.o.P)*int64(v.o.Q)
}

// Sizes returns the lengths of the parts of a Workspace.
func (v *Conv) Sizes() (x, y, stage, scratch int) {
	o := v.o
	if o.Rounding == CirCNN {
		return 0, 0, o.Q*o.B + len(o.E), 0
	}
	x, y, stage, scratch = o.Sizes()
	return max(x, o.c.Tile(v.groups)), y, stage, scratch
}

// Forward transforms pixels [lo, hi) of x [channels, pixels] into an image of
// size places; to has the place of every pixel, negative for one that no tap
// reads. It allocates nothing.
func (v *Conv) Forward(image []int32, size int, to []int32, x []int16, channels, pixels, lo, hi int, ws *Workspace) {
	b := v.o.B
	if v.o.Rounding == CirCNN { // its product transforms each column itself
		for ch := range channels {
			row := image[(ch/b*(b+1)+ch%b)*size:][:size]
			for p := lo; p < hi; p++ {
				if to[p] >= 0 {
					row[to[p]] = int32(x[ch*pixels+p])
				}
			}
		}
		return
	}
	c := v.o.c
	lanes, cols, blocks := c.Lanes(), c.Columns(), c.GroupBlocks()
	for first := lo; first < hi; first += lanes {
		n := min(lanes, hi-first)
		places := to[first : first+n]
		straight := places[0] >= 0
		for l, p := range places {
			straight = straight && p == places[0]+int32(l)
		}
		for g := range v.groups {
			have := min(cols, channels-g*cols)
			if have < cols || n < lanes {
				clear(ws.Stage)
			}
			v.k.Transpose16(ws.Stage, cols, x[g*cols*pixels+first:], pixels, have, n)
			c.Forward(ws.X, ws.Stage, cols, 1, v.forward[g*c.ForwardGroup():], ws.Scratch)
			for j := range min(blocks, v.q-g*blocks) {
				for k := range b {
					row := image[((g*blocks+j)*(b+1)+k)*size:][:size]
					from := ws.X[(j*(b+1)+k)*lanes:][:n]
					switch {
					case k < 2 && v.pairs():
						from, shift := ws.X[(j&^1*(b+1)+k)*lanes:][:n], j%2*16
						for l, p := range places {
							if p >= 0 {
								row[p] = int32(uint32(from[l]) >> shift & 0xffff)
							}
						}
					case straight:
						copy(row[places[0]:], from)
					default:
						for l, p := range places {
							if p >= 0 {
								row[p] = from[l]
							}
						}
					}
				}
			}
		}
	}
}

// pairs reports whether the real bins of two neighbouring blocks share a word.
func (v *Conv) pairs() bool { return v.o.c.Pairs() }

// Multiply computes outputs [lo, hi) of y [Outputs, outputs], the outputs of a plan,
// from an image; lo is a multiple of Tile. It allocates nothing.
func (v *Conv) Multiply(y []int16, image []int32, p *Plan, lo, hi int, ws *Workspace) {
	outputs := len(p.at)
	o := v.o
	b, m := o.B, len(o.E)
	if o.Rounding == CirCNN {
		x, z := ws.Stage[:o.Q*b], ws.Stage[o.Q*b:][:m]
		for i := lo; i < hi; i++ {
			for t, tap := range p.taps {
				for ch := range v.q * b {
					x[t*v.q*b+ch] = int16(image[(ch/b*(b+1)+ch%b)*p.size+int(p.at[i]+tap)])
				}
			}
			o.halved(z, x)
			for r, a := range z {
				y[r*outputs+i] = a
			}
		}
		return
	}
	c := o.c
	lanes, cols := c.Lanes(), c.Columns()
	for first := lo; first < hi; first += lanes {
		n := min(lanes, hi-first)
		v.gather(ws.X, image, p, first)
		for i := range o.w.Parts {
			part := &o.w.Parts[i]
			if part.First*cols >= m {
				break
			}
			c.Products(ws.Y, &o.w, part, ws.X)
			for g := 0; g < part.Groups && (part.First+g)*cols < m; g++ {
				row := (part.First + g) * cols
				c.Inverse(ws.Stage, cols, ws.Y[c.Tile(g):], 1, o.backward[row:], ws.Scratch)
				v.k.Transpose16(y[row*outputs+first:], outputs, ws.Stage, cols, n, min(cols, m-row))
			}
		}
	}
}

// gather makes the tile of the columns at the outputs from first on.
func (v *Conv) gather(x, image []int32, p *Plan, first int) {
	b, lanes := v.o.B, v.o.c.Lanes()
	v.o.c.Gather32(v.k, x, image, p.vectors, &p.pieces[first/lanes])
	if !v.pairs() {
		return
	}
	for block := 0; block+1 < v.taps*v.q; block += 2 { // the real bins of both share words
		low, high := x[block*(b+1)*lanes:][:2*lanes], x[(block+1)*(b+1)*lanes:][:2*lanes]
		for l, w := range high {
			low[l] |= w << 16
		}
	}
}
