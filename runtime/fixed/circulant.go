package fixed

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/onnx-lathe/lathe/internal/simd"
)

// MaxBlock is the largest block size.
const MaxBlock = 256

// Rounding is how the transforms of a block-circulant product round.
type Rounding string

const (
	Once   Rounding = "once"   // where they are requantised, and at rotations
	CirCNN Rounding = "circnn" // at every stage
)

// Spec is a block-circulant product of P×Q blocks of size B, the inputs and attributes
// of BlockCirculantMatMulInt16.
type Spec struct {
	P, Q, B      int
	W            []int16 // spectra [P, Q, B]
	S            []int8  // shifts of sums [P, B/2+1]
	Bias         []int32 // spectra [P, B]
	R            []int8  // shifts of the input's spectra [Q, B/2+1]
	E            []int8  // shifts of the outputs that are kept [M]
	Group, Shift int     // blocks of a partial sum, and its shift: A[0] and A[1]
	Rounding     Rounding
}

// Bin is the place among the shifts of a block, which are in the order of bins 0, b/2,
// 1, 2, …, of the bin that number k of a spectrum belongs to.
func Bin(k int) int {
	if k < 2 {
		return k
	}
	return k/2 + 1
}

// Limit is 2^K of the specification: the bound of the numbers that the inverse
// transform of block size b takes.
func Limit(b int) int64 {
	if b >= 64 {
		return 1 << 25 / int64(b)
	}
	return 1 << 23 / int64(b)
}

func (s *Spec) validate() error {
	bins, l := s.B/2+1, int8(bits.TrailingZeros(uint(s.B)))
	switch {
	case s.B < 2 || s.B > MaxBlock || s.B&(s.B-1) != 0:
		return fmt.Errorf("block size is %d, want a power of two from 2 to %d", s.B, MaxBlock)
	case s.P < 0 || s.Q < 0 || s.P > math.MaxInt32 || s.Q > 1<<27 || len(s.W) != s.P*s.Q*s.B:
		return fmt.Errorf("weights W of %d elements for [%d, %d, %d]", len(s.W), s.P, s.Q, s.B)
	case len(s.E) > s.P*s.B:
		return fmt.Errorf("shifts E of %d outputs, want at most %d", len(s.E), s.P*s.B)
	case len(s.S) != s.P*bins || len(s.Bias) != s.P*s.B || len(s.R) != s.Q*bins:
		return fmt.Errorf("shifts S and R and bias B of %d, %d and %d elements, want %d, %d and %d", len(s.S), len(s.R), len(s.Bias), s.P*bins, s.Q*bins, s.P*s.B)
	case s.Rounding != Once && s.Rounding != CirCNN:
		return fmt.Errorf("rounding is %q, want %q or %q", s.Rounding, Once, CirCNN)
	case s.Shift < 0 || s.Shift > 30 || s.Group < 1 || s.Group < s.Q && s.Group%2 != 0:
		return fmt.Errorf("partial sums A of %d blocks, shifted by %d; want a positive number, even where there are more, and 0 to 30", s.Group, s.Shift)
	}
	for _, c := range []struct {
		name string
		v    []int8
		most int8
	}{{"S", s.S, 30}, {"R", s.R, 31}, {"E", s.E, 40}} {
		for _, v := range c.v {
			if v < 0 || v > c.most {
				return fmt.Errorf("shifts %s hold %d, want 0 to %d", c.name, v, c.most)
			}
			if c.name != "S" && s.Rounding == CirCNN && v != l {
				return fmt.Errorf("shifts %s hold %d, which has to be %d with rounding %q", c.name, v, l, CirCNN)
			}
		}
	}
	return s.Fits()
}

// Fits returns an error unless no sum can overflow 32 bits, whatever the input is.
func (s *Spec) Fits() error {
	for i := range s.P {
		for k := range s.B {
			if err := s.fits(i, k); err != nil {
				return err
			}
		}
	}
	return nil
}

// fits checks that sum k of block row i cannot overflow, whatever the input is.
func (s *Spec) fits(i, k int) error {
	group, total := int64(0), int64(s.Bias[i*s.B+k])
	half := func(shift int) int64 { return 1 << shift >> 1 }
	total = max(total, -total) + half(int(s.S[i*(s.B/2+1)+Bin(k)]))
	flush := func() {
		if group += half(s.Shift); group < 1<<31 {
			total += group>>s.Shift + 1
			group = 0
		}
	}
	for j := range s.Q {
		w := s.W[(i*s.Q+j)*s.B:][:s.B]
		size := int64(w[k])
		if size == Low {
			return fmt.Errorf("weights W hold %d, want at least %d", Low, -High)
		}
		if size = max(size, -size); k >= 2 {
			other := int64(w[k^1])
			size += max(other, -other)
		}
		if group += size * High; (j+1)%s.Group == 0 || j == s.Q-1 {
			if flush(); group != 0 {
				break
			}
		}
	}
	if group >= 1<<31 || total >= 1<<31 {
		return fmt.Errorf("the sum of number %d of block row %d may overflow 32 bits with the weights W and bias B", k, i)
	}
	return nil
}

// Circulant computes a Spec. It is immutable and safe for concurrent use.
type Circulant struct {
	Spec
	k        *simd.Kernels
	c        *simd.FixedCirculant
	gp, gq   int // groups of columns
	w        simd.FixedCirculantWeights
	forward  []float32 // factors of the input's spectra, and of the columns of the output
	backward []float32
	part     int // groups of a part

	quantum float32   // what inputs of float32 are multiplied by before they are rounded
	dequant []float32 // factors of outputs of float32 [M]
	units   []float32 // the same for the columns of the output, times 2⁻¹⁶
}

// NewCirculant prepares the product on the kernels k: nil, which is all that
// packages outside of lathe can say, for the best that this machine has. It fails
// where s is not what the specification allows; a Rounding of "" means Once.
func NewCirculant(s Spec, k *simd.Kernels) (*Circulant, error) {
	if s.Rounding == "" {
		s.Rounding = Once
	}
	if err := s.validate(); err != nil {
		return nil, err
	}
	k, err := k.OrAuto()
	if err != nil {
		return nil, err
	}
	o := &Circulant{Spec: s, k: k, c: k.FixedCirculant(s.B)}
	if s.Rounding == CirCNN {
		return o, nil
	}
	cols := o.c.Columns()
	o.gp, o.gq = (len(s.E)+cols-1)/cols, (s.Q*s.B+cols-1)/cols
	o.w = o.c.Pack(s.W, s.P, s.Q, s.Bias, s.S, s.Group, s.Shift)
	o.forward, o.backward = o.c.ForwardScales(s.R, o.gq), make([]float32, (s.P*s.B+cols-1)/cols*cols)
	for i := range o.backward {
		if o.backward[i] = 1; i < len(s.E) {
			o.backward[i] = float32(math.Ldexp(1, -int(s.E[i])))
		}
	}
	for _, p := range o.w.Parts {
		o.part = max(o.part, p.Groups)
	}
	return o, nil
}

// Between returns the product between layers in float32, or on one side of one: of
// QuantizeInt16(X, in), where in is not nil, and DequantizeInt16 of it by exponents
// out, one or one for every output, where there are any. Its results are those of
// the three operators one after the other.
func (o *Circulant) Between(in *int, out []int) (*Circulant, error) {
	if o.Rounding != Once {
		return nil, fmt.Errorf("rounding is %q, want %q", o.Rounding, Once)
	}
	if len(out) > 1 && len(out) != len(o.E) {
		return nil, fmt.Errorf("%d exponents for %d outputs", len(out), len(o.E))
	}
	f := *o
	if in != nil {
		f.quantum = float32(math.Ldexp(1, -*in))
	}
	if len(out) > 0 {
		f.dequant, f.units = make([]float32, len(o.E)), make([]float32, len(o.backward))
		for i := range f.dequant {
			e := out[i%len(out)]
			f.dequant[i], f.units[i] = float32(math.Ldexp(1, e)), float32(math.Ldexp(1, e-16))
		}
	}
	return &f, nil
}

// Pack prepares the product with W [m, n], whose rows are read in that many runs, on
// the kernels k: see MatMulInt16.
func Pack(k *simd.Kernels, w []int16, m, n, runs int, bias []int64, shift []int32) (simd.FixedWeights, error) {
	if n > 1<<28 || len(w) != m*n {
		return simd.FixedWeights{}, fmt.Errorf("weights W of %d elements for [%d, %d]", len(w), m, n)
	}
	if len(bias) != m || len(shift) != m {
		return simd.FixedWeights{}, fmt.Errorf("bias B of %d and shifts S of %d elements, want %d", len(bias), len(shift), m)
	}
	for _, v := range w {
		if v == Low {
			return simd.FixedWeights{}, fmt.Errorf("weights W hold %d, want at least %d", Low, -High)
		}
	}
	for _, v := range bias {
		if v > 1<<60 || v < -1<<60 {
			return simd.FixedWeights{}, fmt.Errorf("bias B holds %d, want at most 2^60 in magnitude", v)
		}
	}
	for _, v := range shift {
		if v < 0 || v > 62 {
			return simd.FixedWeights{}, fmt.Errorf("shifts S hold %d, want 0 to 62", v)
		}
	}
	return k.PackFixed(w, m, n, runs, bias, shift), nil
}

// Operations is the number of integer operations that the product of so many
// tokens takes, counted as circulant.Operator.FLOPs counts those of floating point,
// but with four multiplications for a complex one.
func (o *Circulant) Operations(tokens int) int64 {
	products := 2 * (2*o.B - 2) * o.P * o.Q
	transforms := 2.5 * float64(o.B) * math.Log2(float64(o.B)) * float64(o.P+o.Q)
	return int64(tokens) * (int64(products) + int64(transforms))
}

// Inputs is the largest number of elements of a token that Apply takes.
func (o *Circulant) Inputs() int { return o.Q * o.B }

// Outputs is the number of elements of a token that Apply gives.
func (o *Circulant) Outputs() int { return len(o.E) }

// Tile is a number of tokens: work that is split at multiples of it takes the
// least time.
func (o *Circulant) Tile() int { return o.c.Lanes() }

// Workspace is the memory that Apply wants for a call, of the lengths that Sizes gives
// and of any content. Goroutines must not share one.
type Workspace struct {
	X, Y    []int32 // spectra of a tile
	Stage   []int16 // groups of a tile that are not in place
	Scratch []float32
}

// NewWorkspace returns one for a Circulant or a Conv. What has memory of its own makes
// one of the same Sizes.
func NewWorkspace(o interface {
	Sizes() (x, y, stage, scratch int)
}) *Workspace {
	x, y, stage, scratch := o.Sizes()
	return &Workspace{X: make([]int32, x), Y: make([]int32, y), Stage: make([]int16, stage), Scratch: make([]float32, scratch)}
}

// Sizes returns the lengths of X, Y, Stage and Scratch of a Workspace.
func (o *Circulant) Sizes() (x, y, stage, scratch int) {
	return o.c.Tile(o.gq), o.c.Tile(o.part), o.c.Lanes() * o.c.Columns(), o.c.Scratch()
}

// Rows are rows of elements, one after the other: of int16, or of float32 on the
// sides on which a product converts them.
type Rows struct {
	Int16   []int16
	Float32 []float32
}

// from are the rows from element i on.
func (r Rows) from(i int) Rows {
	if r.Float32 != nil {
		return Rows{Float32: r.Float32[i:]}
	}
	return Rows{Int16: r.Int16[i:]}
}

// Apply multiplies so many tokens, rows x of n ≤ Inputs elements each, into rows y of
// Outputs elements. Results do not depend on how many tokens a call has. It allocates
// nothing.
func (o *Circulant) Apply(y, x Rows, n, tokens int, ws *Workspace) {
	m := len(o.E)
	if o.Rounding == CirCNN {
		for t := range tokens {
			o.halved(y.Int16[t*m:(t+1)*m], x.Int16[t*n:(t+1)*n])
		}
		return
	}
	lanes := o.c.Lanes()
	for t := 0; t < tokens; t += lanes {
		from := max(0, min(t, tokens-lanes)) // the last tile begins earlier where there are tokens
		have := min(lanes, tokens-from)
		o.tile(y.from(from*m), x.from(from*n), n, have, ws)
	}
}

// tile multiplies up to Lanes tokens. Whole groups of a whole tile are read and
// written in place, others through the stage, padded with zeros.
func (o *Circulant) tile(y, x Rows, n, tokens int, ws *Workspace) {
	c, m, cols := o.c, len(o.E), o.c.Columns()
	lanes := c.Lanes()
	group := 0
	if tokens == lanes {
		if group = n / cols; x.Float32 != nil {
			c.ForwardFloats(ws.X, x.Float32, o.quantum, n, group, o.forward, ws.Scratch)
		} else {
			c.Forward(ws.X, x.Int16, n, group, o.forward, ws.Scratch)
		}
	}
	for ; group < o.gq; group++ {
		first := min(group*cols, n)
		width := min(cols, n-first)
		for t := range lanes {
			to := ws.Stage[t*cols : (t+1)*cols]
			if t < tokens {
				if x.Float32 != nil {
					o.k.Quantize16(to[:width], x.Float32[t*n+first:][:width], o.quantum)
				} else {
					copy(to, x.Int16[t*n+first:][:width])
				}
				to = to[width:]
			}
			clear(to)
		}
		c.Forward(ws.X[c.Tile(group):], ws.Stage, cols, 1, o.forward[c.ForwardGroup()*group:], ws.Scratch)
	}
	for i := range o.w.Parts {
		part := &o.w.Parts[i]
		if part.First*cols >= m {
			break
		}
		c.Products(ws.Y, &o.w, part, ws.X)
		group, first := 0, part.First*cols
		if tokens == lanes {
			if group = min(part.Groups, m/cols-part.First); y.Float32 != nil {
				c.InverseFloats(y.Float32[first:], m, ws.Y, group, o.backward[first:], o.units[first:], ws.Scratch)
			} else {
				c.Inverse(y.Int16[first:], m, ws.Y, group, o.backward[first:], ws.Scratch)
			}
		}
		for ; group < part.Groups && (part.First+group)*cols < m; group++ {
			first := (part.First + group) * cols
			c.Inverse(ws.Stage, cols, ws.Y[c.Tile(group):], 1, o.backward[first:], ws.Scratch)
			width := min(cols, m-first)
			for t := range tokens {
				if from := ws.Stage[t*cols:][:width]; y.Float32 != nil {
					o.k.DequantizeEach16(y.Float32[t*m+first:][:width], from, o.dequant[first:][:width])
				} else {
					copy(y.Int16[t*m+first:], from)
				}
			}
		}
	}
}
