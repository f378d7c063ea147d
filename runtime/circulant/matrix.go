package circulant

import (
	"fmt"
	"math"
)

// Matrix is a block-circulant matrix of M rows and N columns: block (i, j) of
// the P×Q grid is the B×B circulant matrix whose first column is W[i, j, :],
//
//	entry (i·B + a, j·B + c) = W[i, j, (a − c) mod B].
//
// Rows from M on and columns from N on do not exist: M ≤ P·B, N ≤ Q·B.
type Matrix struct {
	M, N int       // logical rows (outputs) and columns (inputs)
	B    int       // block size, at least 2
	P, Q int       // rows and columns of blocks
	W    []float32 // [P, Q, B], row-major
}

// New returns the zero block-circulant matrix of m rows, n columns and block
// size b, with the smallest grid that covers them.
func New(m, n, b int) (*Matrix, error) {
	if err := checkShape(m, n, b); err != nil {
		return nil, err
	}
	p, q := ceilDiv(m, b), ceilDiv(n, b)
	if q > math.MaxInt/4/b/p {
		return nil, fmt.Errorf("circulant: %d×%d blocks of %d do not fit in memory", p, q, b)
	}
	return &Matrix{M: m, N: n, B: b, P: p, Q: q, W: make([]float32, p*q*b)}, nil
}

// Validate reports the first way in which the fields contradict each other.
func (m *Matrix) Validate() error {
	switch {
	case m == nil:
		return fmt.Errorf("circulant: no matrix")
	case m.B < 2:
		return fmt.Errorf("circulant: block size is %d, it must be at least 2", m.B)
	case m.P < 1 || m.Q < 1:
		return fmt.Errorf("circulant: grid is %d×%d blocks, it must be at least 1×1", m.P, m.Q)
	case len(m.W)%m.B != 0 || len(m.W)/m.B%m.Q != 0 || len(m.W)/m.B/m.Q != m.P:
		return fmt.Errorf("circulant: %d weights do not fill %d×%d blocks of %d", len(m.W), m.P, m.Q, m.B)
	case m.M < 1 || m.M > m.P*m.B:
		return fmt.Errorf("circulant: %d rows, but %d blocks of %d hold 1 to %d", m.M, m.P, m.B, m.P*m.B)
	case m.N < 1 || m.N > m.Q*m.B:
		return fmt.Errorf("circulant: %d columns, but %d blocks of %d hold 1 to %d", m.N, m.Q, m.B, m.Q*m.B)
	}
	return nil
}

// Params is the number of parameters, P·Q·B.
func (m *Matrix) Params() int { return m.P * m.Q * m.B }

// Dense returns the matrix written out, [M, N] row-major.
func (m *Matrix) Dense() []float32 {
	d := make([]float32, m.M*m.N)
	for r := range m.M {
		i, a := r/m.B, r%m.B
		row := d[r*m.N : (r+1)*m.N]
		for k := range row {
			j, c := k/m.B, k%m.B
			row[k] = m.W[(i*m.Q+j)*m.B+wrap(a-c, m.B)]
		}
	}
	return d
}

// Transpose returns the transposed matrix, which is block-circulant too: its
// block (j, i) has the first column W[i, j, −c mod B].
func (m *Matrix) Transpose() *Matrix {
	t := &Matrix{M: m.N, N: m.M, B: m.B, P: m.Q, Q: m.P, W: make([]float32, len(m.W))}
	for i := range m.P {
		for j := range m.Q {
			src, dst := m.block(i, j), t.block(j, i)
			for c := range dst {
				dst[c] = src[wrap(-c, m.B)]
			}
		}
	}
	return t
}

// block is the first column of block (i, j).
func (m *Matrix) block(i, j int) []float32 {
	o := (i*m.Q + j) * m.B
	return m.W[o : o+m.B : o+m.B]
}

// Frobenius returns the block-circulant matrix nearest to the dense matrix w
// [m, n] in the Frobenius norm: every weight is the mean of its wrapped
// diagonal, taken over the entries that exist (padding has none; a diagonal
// that lies wholly in the padding is 0). It is exact for a matrix that is
// block-circulant already, and keeps about 1/b of the energy of one that is
// not.
func Frobenius(w []float32, m, n, b int) (*Matrix, error) {
	if err := checkDense(w, m, n); err != nil {
		return nil, err
	}
	c, err := New(m, n, b)
	if err != nil {
		return nil, err
	}
	sum, count := make([]float64, b), make([]int, b)
	for i := range c.P {
		for j := range c.Q {
			clear(sum)
			clear(count)
			for a := range min(b, m-i*b) {
				row := w[(i*b+a)*n+j*b:][:min(b, n-j*b)]
				for k, v := range row {
					l := wrap(a-k, b)
					sum[l] += float64(v)
					count[l]++
				}
			}
			for l, blk := 0, c.block(i, j); l < b; l++ {
				if count[l] > 0 {
					blk[l] = float32(sum[l] / float64(count[l]))
				}
			}
		}
	}
	return c, nil
}

// Error is a squared error, and what it is relative to. Those of parts add up to that
// of the whole.
type Error struct{ Square, Of float64 }

// Relative is sqrt(Square / Of). It is 0 when nothing changes, whatever Of is.
func (e Error) Relative() float64 {
	if e.Square == 0 {
		return 0
	}
	return math.Sqrt(e.Square / e.Of)
}

// Plus is the error of two parts.
func (e Error) Plus(o Error) Error { return Error{e.Square + o.Square, e.Of + o.Of} }

// WeightError is the error of the weights, ‖W − C‖² relative to ‖W‖² in the
// Frobenius norm, of the dense matrix w [C.M, C.N].
func WeightError(w []float32, c *Matrix) (Error, error) {
	if err := c.Validate(); err != nil {
		return Error{}, err
	}
	if err := checkDense(w, c.M, c.N); err != nil {
		return Error{}, err
	}
	var e Error
	for r := range c.M {
		for k := range c.N {
			v := float64(w[r*c.N+k])
			d := v - float64(c.W[(r/c.B*c.Q+k/c.B)*c.B+wrap(r%c.B-k%c.B, c.B)])
			e.Square += d * d
			e.Of += v * v
		}
	}
	return e, nil
}

func checkShape(m, n, b int) error {
	switch {
	case m < 1 || n < 1:
		return fmt.Errorf("circulant: matrix of %d×%d, both must be at least 1", m, n)
	case b < 2:
		return fmt.Errorf("circulant: block size is %d, it must be at least 2", b)
	}
	return nil
}

func checkDense(w []float32, m, n int) error {
	if m < 1 || n < 1 || len(w)%n != 0 || len(w)/n != m {
		return fmt.Errorf("circulant: dense matrix of %d×%d has %d weights", m, n, len(w))
	}
	return nil
}

func ceilDiv(a, b int) int { return (a-1)/b + 1 }

// wrap is d mod b for −b < d < b.
func wrap(d, b int) int {
	if d < 0 {
		return d + b
	}
	return d
}
