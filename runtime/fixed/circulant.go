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

// Spec is a block-circulant product, as BlockCirculantMatMulInt16 has it.
type Spec struct {
	P, Q, B  int
	M        int     // outputs that are kept
	W        []int16 // spectra [P, Q, B]
	Bias     []int64 // spectra [P, B]
	Shift    []int32 // [P]
	R        [2]int32
	Rounding Rounding // "" means Once
}

func (s *Spec) validate() error {
	switch {
	case s.B < 2 || s.B > MaxBlock || s.B&(s.B-1) != 0:
		return fmt.Errorf("block size is %d, want a power of two from 2 to %d", s.B, MaxBlock)
	case s.P < 0 || s.Q < 0 || s.P > math.MaxInt32 || s.Q > 1<<27 || len(s.W) != s.P*s.Q*s.B:
		return fmt.Errorf("weights W of %d elements for [%d, %d, %d]", len(s.W), s.P, s.Q, s.B)
	case s.M < 0 || s.M > s.P*s.B:
		return fmt.Errorf("M is %d, want 0 to %d", s.M, s.P*s.B)
	case s.Rounding != Once && s.Rounding != CirCNN:
		return fmt.Errorf("rounding is %q, want %q or %q", s.Rounding, Once, CirCNN)
	case s.R[0] < 0 || s.R[0] > 31 || s.R[1] < 0 || s.R[1] > 40:
		return fmt.Errorf("shifts R are %v, want 0 to 31 and 0 to 40", s.R)
	}
	if l := int32(bits.TrailingZeros(uint(s.B))); s.Rounding == CirCNN && s.R != [2]int32{l, l} {
		return fmt.Errorf("shifts R are %v, which has to be %d twice with rounding %q", s.R, l, CirCNN)
	}
	return ends(s.W, s.Bias, s.Shift, s.P*s.B, s.P)
}

// ends checks weights, biases and shifts against the limits.
func ends(w []int16, bias []int64, shift []int32, biases, rows int) error {
	if len(bias) != biases || len(shift) != rows {
		return fmt.Errorf("bias B of %d and shifts S of %d elements, want %d and %d", len(bias), len(shift), biases, rows)
	}
	for _, v := range w {
		if v == Low {
			return fmt.Errorf("weights W hold %d, want at least %d", Low, -High)
		}
	}
	for _, v := range bias {
		if v > 1<<60 || v < -1<<60 {
			return fmt.Errorf("bias B holds %d, want at most 2^60 in magnitude", v)
		}
	}
	for _, v := range shift {
		if v < 0 || v > 62 {
			return fmt.Errorf("shifts S hold %d, want 0 to 62", v)
		}
	}
	return nil
}

// Circulant computes a Spec. It is immutable and safe for concurrent use.
//
// A bin of the product is a matrix product of its own: [tokens, 2q] by [2q, 2p]
// for a complex bin, with the pair (wr, −wi) giving the real and (wi, wr) the
// imaginary part, and [tokens, q] by [q, p] for the real ones.
type Circulant struct {
	Spec
	k    *simd.Kernels
	fft  *simd.FixedFFT
	bins []simd.FixedWeights // 0, b/2, 1, 2, …
}

// NewCirculant prepares the product on the kernels k.
func NewCirculant(s Spec, k *simd.Kernels) (*Circulant, error) {
	if s.Rounding == "" {
		s.Rounding = Once
	}
	if err := s.validate(); err != nil {
		return nil, err
	}
	o := &Circulant{Spec: s, k: k, fft: k.FixedFFT(s.B)}
	for bin := range 2 {
		w, bias := make([]int16, s.P*s.Q), make([]int64, s.P)
		for i := range s.P {
			bias[i] = s.Bias[i*s.B+bin]
			for j := range s.Q {
				w[i*s.Q+j] = s.W[(i*s.Q+j)*s.B+bin]
			}
		}
		o.bins = append(o.bins, k.PackFixed(w, s.P, s.Q, bias, s.Shift))
	}
	w, bias, shift := make([]int16, 4*s.P*s.Q), make([]int64, 2*s.P), make([]int32, 2*s.P)
	for bin := 2; bin < s.B; bin += 2 {
		for i := range s.P {
			bias[2*i], bias[2*i+1] = s.Bias[i*s.B+bin], s.Bias[i*s.B+bin+1]
			shift[2*i], shift[2*i+1] = s.Shift[i], s.Shift[i]
			re, im := w[4*i*s.Q:(4*i+2)*s.Q], w[(4*i+2)*s.Q:(4*i+4)*s.Q]
			for j := range s.Q {
				at := s.W[(i*s.Q+j)*s.B+bin:]
				re[2*j], re[2*j+1] = at[0], -at[1]
				im[2*j], im[2*j+1] = at[1], at[0]
			}
		}
		o.bins = append(o.bins, k.PackFixed(w, 2*s.P, 2*s.Q, bias, shift))
	}
	return o, nil
}

// Pack prepares the product with W [m, n] on the kernels k: see MatMulInt16.
func Pack(k *simd.Kernels, w []int16, m, n int, bias []int64, shift []int32) (simd.FixedWeights, error) {
	if n > 1<<28 || len(w) != m*n {
		return simd.FixedWeights{}, fmt.Errorf("weights W of %d elements for [%d, %d]", len(w), m, n)
	}
	if err := ends(w, bias, shift, m, m); err != nil {
		return simd.FixedWeights{}, err
	}
	return k.PackFixed(w, m, n, bias, shift), nil
}

// Operations is the number of integer operations that the product of so many
// tokens takes, counted as for floating point.
func (o *Circulant) Operations(tokens int) int64 {
	products := 2 * (2*o.B - 2) * o.P * o.Q
	transforms := 2.5 * float64(o.B) * math.Log2(float64(o.B)) * float64(o.P+o.Q)
	return int64(tokens) * (int64(products) + int64(transforms))
}

// Inputs is the number of elements of a token that Apply reads.
func (o *Circulant) Inputs() int { return o.Q * o.B }

// chunk is how many tokens are multiplied at a time: enough for the kernels,
// few enough that their spectra stay in a level-two cache.
const chunk = 32

// Workspace is the memory that Apply wants for a call.
type Workspace struct {
	X       []int16
	Y       []int32
	Stage   []int16
	Scratch []float32
}

// Sizes returns the lengths of the parts of a Workspace for that many tokens.
func (o *Circulant) Sizes(tokens int) (x, y, stage, scratch int) {
	tokens = min(tokens, chunk)
	return o.fft.Capacity(tokens*o.Q)*o.B + simd.Slack, o.fft.Capacity(tokens*o.P) * o.B, tokens * o.P * o.B, o.fft.Scratch()
}

// Apply multiplies tokens rows of Inputs elements each, one after the other,
// into rows of M elements. It allocates nothing.
func (o *Circulant) Apply(y, x []int16, tokens int, ws *Workspace) {
	n, all := o.Q*o.B, o.P*o.B
	for t := 0; t < tokens; t += chunk {
		part := min(chunk, tokens-t)
		nx, ny := part*o.Q, part*o.P
		cx, cy := o.fft.Capacity(nx), o.fft.Capacity(ny)
		from := x[t*n : (t+part)*n]
		to := y[t*o.M : (t+part)*o.M]
		if all != o.M {
			to = ws.Stage[:part*all]
		}
		limit := o.fft.Limit()
		if o.Rounding == CirCNN {
			limit = 1 << 15 // and High is left to saturate
			halved{o.fft}.forward(ws.X, cx, from, nx)
		} else {
			o.fft.Forward(ws.X, cx, from, nx, int(o.R[0]), ws.Scratch)
		}
		for k := range o.bins {
			w := &o.bins[k]
			m, n := w.Dims()
			plane := k
			if k >= 2 {
				plane = 2 * (k - 1)
			}
			o.k.Fixed32(ws.Y[plane*cy:], m, w, ws.X[plane*cx:], n, part, limit)
		}
		if o.Rounding == CirCNN {
			halved{o.fft}.inverse(to, ws.Y, cy, ny)
		} else {
			o.fft.Inverse(to, ws.Y, cy, ny, int(o.R[1]), ws.Scratch)
		}
		if all != o.M {
			for r := range part {
				copy(y[(t+r)*o.M:][:o.M], to[r*all:])
			}
		}
	}
}
