package circulant

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
)

// Moments are the first and second moments of a layer's input x [N], as sums
// over tokens, not centred.
type Moments struct {
	N      int
	Count  float64   // tokens
	Sum    []float64 // Σ x, [N]
	Second []float64 // Σ x xᵀ, [N, N], symmetric
}

// CrossMoments are what the sequential fit needs of a layer's target y [M]
// beside the moments of its input x [N]: sums over the same tokens.
type CrossMoments struct {
	M, N   int
	Count  float64   // tokens
	Sum    []float64 // Σ y, [M]
	Square []float64 // Σ y∘y, [M]
	Cross  []float64 // Σ y xᵀ, [M, N]
}

// NewMoments returns the moments of no tokens of n inputs.
func NewMoments(n int) *Moments {
	return &Moments{N: n, Sum: make([]float64, n), Second: make([]float64, n*n)}
}

// NewCrossMoments returns the moments of no tokens of m targets and n inputs.
func NewCrossMoments(m, n int) *CrossMoments {
	return &CrossMoments{M: m, N: n, Sum: make([]float64, m), Square: make([]float64, m), Cross: make([]float64, m*n)}
}

// Validate reports fields that contradict each other and sums that are not
// finite.
func (s *Moments) Validate() error {
	switch {
	case s == nil || s.N < 1 || len(s.Sum) != s.N || len(s.Second)/s.N != s.N || len(s.Second)%s.N != 0:
		return fmt.Errorf("circulant: moments: the sums do not have the sizes that N calls for")
	case !(s.Count > 0) || math.IsInf(s.Count, 0):
		return fmt.Errorf("circulant: moments: %g tokens, collect some first", s.Count)
	case !finite(s.Sum) || !finite(s.Second):
		return fmt.Errorf("circulant: moments: a sum is not finite; the layer's input has NaN or infinite values")
	}
	return nil
}

// Validate reports fields that contradict each other and sums that are not
// finite.
func (s *CrossMoments) Validate() error {
	switch {
	case s == nil || s.M < 1 || s.N < 1 || len(s.Sum) != s.M || len(s.Square) != s.M ||
		len(s.Cross)/s.N != s.M || len(s.Cross)%s.N != 0:
		return fmt.Errorf("circulant: cross moments: the sums do not have the sizes that M and N call for")
	case !(s.Count > 0) || math.IsInf(s.Count, 0):
		return fmt.Errorf("circulant: cross moments: %g tokens, collect some first", s.Count)
	case !finite(s.Sum) || !finite(s.Square) || !finite(s.Cross):
		return fmt.Errorf("circulant: cross moments: a sum is not finite; the layer's input or output has NaN or infinite values")
	}
	return nil
}

func finite(x []float64) bool {
	for _, v := range x {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return false
		}
	}
	return true
}

// Merge adds the tokens of o, which may come from another shard of the data. It fails
// where their sizes differ.
func (s *Moments) Merge(o *Moments) error {
	if s.N != o.N {
		return fmt.Errorf("circulant: moments of %d and %d inputs do not merge", s.N, o.N)
	}
	s.Count += o.Count
	addTo(s.Sum, o.Sum)
	addTo(s.Second, o.Second)
	return nil
}

// Merge adds the tokens of o, which may come from another shard of the data. It fails
// where their sizes differ.
func (s *CrossMoments) Merge(o *CrossMoments) error {
	if s.M != o.M || s.N != o.N {
		return fmt.Errorf("circulant: cross moments of %d×%d and %d×%d do not merge", s.M, s.N, o.M, o.N)
	}
	s.Count += o.Count
	addTo(s.Sum, o.Sum)
	addTo(s.Square, o.Square)
	addTo(s.Cross, o.Cross)
	return nil
}

// Padded returns the moments of inputs in which every run of so many elements is
// followed by zeros up to width; s itself where they are equal. run divides N.
func (s *Moments) Padded(run, width int) *Moments {
	if run == width {
		return s
	}
	p := NewMoments(s.N / run * width)
	p.Count = s.Count
	for i, v := range s.Sum {
		p.Sum[i/run*width+i%run] = v
	}
	for i := range s.N {
		PadRuns(p.Second[(i/run*width+i%run)*p.N:][:p.N], s.Second[i*s.N:(i+1)*s.N], run, width)
	}
	return p
}

// Padded returns the cross moments with inputs in which every run of so many elements
// is followed by zeros up to width; s itself where they are equal. run divides N.
func (s *CrossMoments) Padded(run, width int) *CrossMoments {
	if run == width {
		return s
	}
	p := NewCrossMoments(s.M, s.N/run*width)
	p.Count = s.Count
	copy(p.Sum, s.Sum)
	copy(p.Square, s.Square)
	PadRuns(p.Cross, s.Cross, run, width)
	return p
}

// PadRuns copies x to dst, every run of so many elements to a run of width, with zeros
// behind. dst has len(x)/run·width elements.
func PadRuns[T float32 | float64](dst, x []T, run, width int) {
	for i := 0; i < len(x); i += run {
		to := dst[i/run*width:][:width]
		clear(to[copy(to, x[i:i+run]):])
	}
}

func addTo(dst, x []float64) {
	for i, v := range x {
		dst[i] += v
	}
}

// Mean is E[x], [N].
func (s *Moments) Mean() []float64 { return scaled(s.Sum, 1/s.Count) }

// Mean is E[y], [M].
func (s *CrossMoments) Mean() []float64 { return scaled(s.Sum, 1/s.Count) }

func scaled(x []float64, a float64) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = v * a
	}
	return y
}

// Centred is the covariance E[x xᵀ] − E[x] E[x]ᵀ, [N, N].
func (s *Moments) Centred() []float64 { return centred(s.Second, s.Mean(), s.Mean(), s.Count) }

// Centred is the covariance E[y xᵀ] − E[y] E[x]ᵀ, [M, N], with x the moments of
// the inputs.
func (s *CrossMoments) Centred(x *Moments) []float64 {
	return centred(s.Cross, s.Mean(), x.Mean(), s.Count)
}

func centred(sum, u, v []float64, count float64) []float64 {
	c := make([]float64, len(sum))
	for i, ui := range u {
		for j, vj := range v {
			c[i*len(v)+j] = sum[i*len(v)+j]/count - ui*vj
		}
	}
	return c
}

// gatherRows is how many tokens the accumulators gather before they multiply:
// enough to make the product run from cache, few enough to stay there (256 rows
// of 768 float64 are 1.5 MB). Sums do not depend on how callers cut the tokens
// into calls, because the cuts that count are made here.
const gatherRows = 256

// An Accumulator collects the moments of rows of float32 in float64. The zero
// value is not usable; see [NewAccumulator].
type Accumulator struct {
	s    *Moments
	x    []float64 // [gatherRows, N]
	rows int       // gathered so far
}

// NewAccumulator returns an accumulator for inputs of n elements.
func NewAccumulator(n int) *Accumulator {
	return &Accumulator{s: NewMoments(n), x: make([]float64, gatherRows*n)}
}

// Add takes rows tokens; row t starts at x[t·ld].
func (a *Accumulator) Add(x []float32, ld, rows int) {
	n := a.s.N
	for t := range rows {
		widen(a.x[a.rows*n:(a.rows+1)*n], x[t*ld:])
		if a.rows++; a.rows == gatherRows {
			a.flush()
		}
	}
}

// Moments returns the sums over all tokens so far. They are valid until the
// next call of Add.
func (a *Accumulator) Moments() *Moments {
	a.flush()
	return a.s
}

func (a *Accumulator) flush() {
	n, s := a.s.N, a.s
	if a.rows == 0 {
		return
	}
	s.Count += float64(a.rows)
	for t := range a.rows {
		addTo(s.Sum, a.x[t*n:(t+1)*n])
	}
	// The upper triangle in panels of rows; the lower one is its mirror image.
	const panel = 64
	for i := 0; i < n; i += panel {
		h := min(panel, n-i)
		blas64.Gemm(blas.Trans, blas.NoTrans, 1,
			blas64.General{Rows: a.rows, Cols: h, Stride: n, Data: a.x[i:]},
			blas64.General{Rows: a.rows, Cols: n - i, Stride: n, Data: a.x[i:]},
			1, blas64.General{Rows: h, Cols: n - i, Stride: n, Data: s.Second[i*n+i:]})
	}
	for i := range n {
		for j := range i {
			s.Second[i*n+j] = s.Second[j*n+i]
		}
	}
	a.rows = 0
}

// A CrossAccumulator collects the moments of inputs and the cross moments of
// targets with them from rows of float32 in float64. The zero value is not
// usable; see [NewCrossAccumulator].
type CrossAccumulator struct {
	in *Accumulator
	s  *CrossMoments
	y  []float64 // [gatherRows, M]
}

// NewCrossAccumulator returns an accumulator for targets of m and inputs of n
// elements.
func NewCrossAccumulator(m, n int) *CrossAccumulator {
	return &CrossAccumulator{in: NewAccumulator(n), s: NewCrossMoments(m, n), y: make([]float64, gatherRows*m)}
}

// Add takes rows tokens: the target's row t starts at y[t·ldy], the input's at
// x[t·ldx].
func (a *CrossAccumulator) Add(y []float32, ldy int, x []float32, ldx, rows int) {
	m, n := a.s.M, a.s.N
	for t := range rows {
		widen(a.y[a.in.rows*m:(a.in.rows+1)*m], y[t*ldy:])
		widen(a.in.x[a.in.rows*n:(a.in.rows+1)*n], x[t*ldx:])
		if a.in.rows++; a.in.rows == gatherRows {
			a.flush()
		}
	}
}

// Moments returns the sums over all tokens so far: those of the inputs, and
// those of the targets with them. They are valid until the next call of Add.
func (a *CrossAccumulator) Moments() (*Moments, *CrossMoments) {
	a.flush()
	return a.in.s, a.s
}

func (a *CrossAccumulator) flush() {
	m, n, rows, s := a.s.M, a.s.N, a.in.rows, a.s
	if rows == 0 {
		return
	}
	s.Count += float64(rows)
	for t := range rows {
		for i, v := range a.y[t*m : (t+1)*m] {
			s.Sum[i] += v
			s.Square[i] += v * v
		}
	}
	blas64.Gemm(blas.Trans, blas.NoTrans, 1,
		blas64.General{Rows: rows, Cols: m, Stride: m, Data: a.y},
		blas64.General{Rows: rows, Cols: n, Stride: n, Data: a.in.x},
		1, blas64.General{Rows: m, Cols: n, Stride: n, Data: s.Cross})
	a.in.flush()
}

func widen(dst []float64, src []float32) {
	for i, v := range src[:len(dst)] {
		dst[i] = float64(v)
	}
}
