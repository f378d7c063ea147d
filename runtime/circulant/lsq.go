package circulant

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/dsp/fourier"
	"gonum.org/v1/gonum/mat"
)

// FitOptions are the options of the least-squares fits; nil and the zero value
// are the defaults.
type FitOptions struct {
	// Ridge ρ is the weight of the prior, relative to the mean power of the
	// inputs at a frequency; 0 stands for 1e-2.
	Ridge float64

	// Prior is what the ridge pulls towards in place of the Frobenius projection:
	// that of a matrix some of whose columns are padding. It is not changed.
	Prior *Matrix
}

// defaultRidge keeps the fit of a trained layer's few hundred inputs from some
// ten thousand tokens well-posed. It raises the output error by less than one
// part in a thousand on the spectra of TestLeastSquaresSynthetic (1e-1: 3 in
// a hundred).
const defaultRidge = 1e-2

// LeastSquares returns the block-circulant matrix C and the bias that change
// the output of the layer W·x + bias least, over inputs of the moments x. W is
// dense [m, n], row-major; bias has m elements or is nil for none, and the
// returned one always has m.
//
// With centred moments, A(f) and Ĉ(f) as in the package comment, F̂ the spectrum
// of the Frobenius projection F of W, and λ(f) = ρ·tr A(f)/q,
//
//	Ĉ(f) = (E[ŷ x̂ᴴ] + λF̂)·(A + λI)⁻¹,   bias′ = bias + (W − C)·E[x],
//
// which minimises E‖y − Cx‖² + Σ_f λ‖Ĉ − F̂‖²/b. The ridge pulls towards F and
// not towards zero, so that a direction without data keeps its projection, and
// the error on x is never above F's. (For a one-shot fit it is the same as
// white noise on the inputs.)
//
// Inputs beyond n are zero and need nothing more. Outputs beyond m do not
// count: the last row of blocks of an m that b does not divide does not
// decouple by frequency, and is solved by conjugate gradients on its own normal
// equations, starting at F and preconditioned by the solution for full blocks.
// Its error falls in every step, so the bound by F's error holds for it too.
//
// The computation is in float64 and takes no account of the number of threads.
// Time is that of one m×n×n product and ⌊b/2⌋+1 Cholesky factorisations of
// order q (2q for complex frequencies).
func LeastSquares(w []float32, m, n, b int, bias []float32, x *Moments, opts *FitOptions) (*Matrix, []float32, error) {
	f, err := newFit(w, m, n, b, x, opts)
	if err != nil {
		return nil, nil, err
	}
	if bias != nil && len(bias) != m {
		return nil, nil, fmt.Errorf("circulant: bias of %d elements for %d rows", len(bias), m)
	}
	// E[y xᵀ] of y = W·x, centred.
	wd := mat.NewDense(m, n, nil)
	widen(wd.RawMatrix().Data, w)
	mean := x.Mean()
	wMean := make([]float64, m)
	blas64.Gemv(blas.NoTrans, 1, wd.RawMatrix(), blas64.Vector{N: n, Inc: 1, Data: mean}, 0, blas64.Vector{N: m, Inc: 1, Data: wMean})
	cross := f.timesCovariance(wd.RawMatrix())
	if err := f.solve(cross); err != nil {
		return nil, nil, err
	}
	for r := range wMean {
		if bias != nil {
			wMean[r] += float64(bias[r])
		}
	}
	return f.c, refitBias(f.c, wMean, mean), nil
}

// LeastSquaresCross is LeastSquares for a layer behind a prefix that was
// rewritten already: the inputs x are those that the rewritten prefix makes,
// and the targets y, in the cross moments yx, are the outputs (bias included)
// that the original layer has in the original model. It minimises
// E‖y − C·x − bias′‖², with bias′ = E[y] − C·E[x] and the same ridge towards
// the projection of W.
func LeastSquaresCross(w []float32, m, n, b int, x *Moments, yx *CrossMoments, opts *FitOptions) (*Matrix, []float32, error) {
	f, err := newFit(w, m, n, b, x, opts)
	if err != nil {
		return nil, nil, err
	}
	if err := yx.fits(m, n, x); err != nil {
		return nil, nil, err
	}
	cov := yx.Centred(x)
	if err := f.solve(blas64.General{Rows: m, Cols: n, Stride: n, Data: cov}); err != nil {
		return nil, nil, err
	}
	return f.c, refitBias(f.c, yx.Mean(), x.Mean()), nil
}

// fits checks that s are cross moments of m outputs with the n inputs of x.
func (s *CrossMoments) fits(m, n int, x *Moments) error {
	if err := s.Validate(); err != nil {
		return err
	}
	if s.M != m || s.N != n || s.Count != x.Count {
		return fmt.Errorf("circulant: cross moments of %d×%d over %g tokens, want %d×%d over the %g tokens of the inputs",
			s.M, s.N, s.Count, m, n, x.Count)
	}
	return nil
}

// refitBias is y − C·x for the means of the targets and the inputs.
func refitBias(c *Matrix, y, x []float64) []float32 {
	bias := make([]float32, c.M)
	for r := range bias {
		v := y[r]
		for k, xk := range x {
			v -= float64(c.W[(r/c.B*c.Q+k/c.B)*c.B+wrap(r%c.B-k%c.B, c.B)]) * xk
		}
		bias[r] = float32(v)
	}
	return bias
}

// fit is one least-squares problem.
type fit struct {
	c       *Matrix // the result; before solve, the Frobenius projection
	x       *Moments
	mean    []float64
	fft     *fourier.FFT
	lambda  []float64       // [⌊b/2⌋+1]
	factors []*mat.Cholesky // of A(f) + λI, in real form
}

func newFit(w []float32, m, n, b int, x *Moments, opts *FitOptions) (*fit, error) {
	prior, err := Frobenius(w, m, n, b)
	if err != nil {
		return nil, err
	}
	if opts != nil && opts.Prior != nil {
		p := opts.Prior
		if err := p.Validate(); err != nil {
			return nil, err
		}
		if p.M != m || p.N != n || p.B != b || p.P != prior.P || p.Q != prior.Q {
			return nil, fmt.Errorf("circulant: prior of %d×%d in blocks of %d for a matrix of %d×%d in blocks of %d", p.M, p.N, p.B, m, n, b)
		}
		copy(prior.W, p.W)
	}
	if err := x.Validate(); err != nil {
		return nil, err
	}
	if x.N != n {
		return nil, fmt.Errorf("circulant: moments of %d inputs for a matrix of %d columns", x.N, n)
	}
	for _, v := range prior.W {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return nil, fmt.Errorf("circulant: the dense matrix has NaN or infinite weights")
		}
	}
	ridge := defaultRidge
	if opts != nil && opts.Ridge != 0 {
		ridge = opts.Ridge
	}
	if !(ridge > 0) || math.IsInf(ridge, 0) {
		return nil, fmt.Errorf("circulant: ridge is %g, it must be positive (0 for the default %g)", ridge, defaultRidge)
	}
	f := &fit{c: prior, x: x, mean: x.Mean(), fft: fourier.NewFFT(b)}
	return f, f.factor(ridge)
}

// factor computes A(f) for every frequency, adds the ridge and factors.
//
// A(f)[j, k] = E[x̂_j conj(x̂_k)] = Σ_l exp(−2πi·f·l/b)·s_jk[l], where s_jk[l] is
// the sum over the wrapped diagonal a − c ≡ l of block (j, k) of the
// covariance. So all frequencies cost n² additions and q² transforms.
func (f *fit) factor(ridge float64) error {
	b, q := f.c.B, f.c.Q
	cov := blas64.General{Rows: f.x.N, Cols: f.x.N, Stride: f.x.N, Data: f.x.Second}
	a := f.spectrum(f.diagonals(cov, 1/f.x.Count, f.mean, f.mean))
	for k := range b/2 + 1 {
		var trace float64
		at := func(i, j int) complex128 { return a[(i*q+j)*(b/2+1)+k] }
		for j := range q {
			trace += real(at(j, j))
		}
		// Without any power at this frequency the ridge alone decides, so its
		// size does not matter.
		lambda := ridge * trace / float64(q)
		if !(lambda > math.SmallestNonzeroFloat64/1e-16) {
			lambda = 1
		}
		f.lambda = append(f.lambda, lambda)
		order := q
		if f.complexBin(k) {
			order = 2 * q // A = S + iK as [[S, −K], [K, S]]
		}
		s := mat.NewSymDense(order, nil)
		for i := range q {
			for j := i; j < q; j++ {
				v := (real(at(i, j)) + real(at(j, i))) / 2
				if i == j {
					v += lambda
				}
				s.SetSym(i, j, v)
				if order > q {
					s.SetSym(q+i, q+j, v)
					im := (imag(at(i, j)) - imag(at(j, i))) / 2
					s.SetSym(i, q+j, -im)
					s.SetSym(j, q+i, im)
				}
			}
		}
		chol := new(mat.Cholesky)
		if !chol.Factorize(s) {
			return fmt.Errorf("circulant: the inputs' second moments are not positive definite at frequency %d of %d with ridge %g; use a larger ridge", k, b, ridge)
		}
		f.factors = append(f.factors, chol)
	}
	return nil
}

// complexBin reports whether bin k is complex.
func (f *fit) complexBin(k int) bool { return k != 0 && 2*k != f.c.B }

// diagonals sums the wrapped diagonals of every block of scale·a − u·vᵀ, cut
// into blocks of b×b of which the last may be smaller: [rows/b, cols/b, b].
func (f *fit) diagonals(a blas64.General, scale float64, u, v []float64) []float64 {
	b := f.c.B
	cols := ceilDiv(a.Cols, b)
	s := make([]float64, ceilDiv(a.Rows, b)*cols*b)
	for r := range a.Rows {
		row := a.Data[r*a.Stride:][:a.Cols]
		for j := range cols {
			d := s[((r/b)*cols+j)*b:][:b]
			for c := range min(b, a.Cols-j*b) {
				e := scale * row[j*b+c]
				if u != nil {
					e -= u[r] * v[j*b+c]
				}
				d[wrap(r%b-c, b)] += e
			}
		}
	}
	return s
}

// spectrum transforms runs of b elements to runs of ⌊b/2⌋+1 bins.
func (f *fit) spectrum(x []float64) []complex128 {
	b, h := f.c.B, f.c.B/2+1
	s := make([]complex128, len(x)/b*h)
	for i := range len(x) / b {
		f.fft.Coefficients(s[i*h:(i+1)*h], x[i*b:(i+1)*b])
	}
	return s
}

// timesCovariance is d·Cov(x), for d [rows, n].
func (f *fit) timesCovariance(d blas64.General) blas64.General {
	n := f.x.N
	out := blas64.General{Rows: d.Rows, Cols: n, Stride: n, Data: make([]float64, d.Rows*n)}
	blas64.Gemm(blas.NoTrans, blas.NoTrans, 1/f.x.Count, d,
		blas64.General{Rows: n, Cols: n, Stride: n, Data: f.x.Second}, 0, out)
	dm := make([]float64, d.Rows)
	blas64.Gemv(blas.NoTrans, 1, d, blas64.Vector{N: n, Inc: 1, Data: f.mean}, 0, blas64.Vector{N: d.Rows, Inc: 1, Data: dm})
	for r, v := range dm {
		for k, mk := range f.mean {
			out.Data[r*n+k] -= v * mk
		}
	}
	return out
}

// solve replaces f.c, the projection, by the solution for the centred cross
// moments [m, n] of targets and inputs.
func (f *fit) solve(cross blas64.General) error {
	c, b, h := f.c, f.c.B, f.c.B/2+1
	full := c.M / b // rows of blocks that have all their rows
	rows := func(g blas64.General, from, to int) blas64.General {
		return blas64.General{Rows: to - from, Cols: g.Cols, Stride: g.Stride, Data: g.Data[from*g.Stride:]}
	}
	prior := make([]float64, len(c.W))
	widen(prior, c.W)
	var next []float64
	if full > 0 {
		rhs := f.spectrum(f.diagonals(rows(cross, 0, full*b), 1, nil, nil))
		for i, v := range f.spectrum(prior[:full*c.Q*b]) {
			rhs[i] += complex(f.lambda[i%h], 0) * v
		}
		if err := f.solveFull(rhs, full); err != nil {
			return err
		}
		next = f.sequence(rhs)
	}
	if full < c.P {
		last, err := f.solveRagged(rows(cross, full*b, c.M), prior[full*c.Q*b:])
		if err != nil {
			return err
		}
		next = append(next, last...)
	}
	for i, v := range next {
		c.W[i] = float32(v)
	}
	return nil
}

// solveFull replaces rhs [rows, q, ⌊b/2⌋+1] by rhs(f)·(A(f) + λ(f)I)⁻¹.
//
// As A is Hermitian, z·A = r is A·zᴴ = rᴴ: with zᴴ = u + iv, the real system
// [[S, −K], [K, S]]·[u; v] = [Re r; −Im r].
func (f *fit) solveFull(rhs []complex128, rows int) error {
	q, h := f.c.Q, f.c.B/2+1
	for k, chol := range f.factors {
		order := q
		if f.complexBin(k) {
			order = 2 * q
		}
		r := mat.NewDense(order, rows, nil)
		for i := range rows {
			for j := range q {
				v := rhs[(i*q+j)*h+k]
				r.Set(j, i, real(v))
				if order > q {
					r.Set(q+j, i, -imag(v))
				}
			}
		}
		if err := chol.SolveTo(r, r); err != nil {
			if _, ok := err.(mat.Condition); !ok {
				return fmt.Errorf("circulant: frequency %d: %w", k, err)
			}
		}
		for i := range rows {
			for j := range q {
				v := complex(r.At(j, i), 0)
				if order > q {
					v = complex(r.At(j, i), -r.At(q+j, i))
				}
				rhs[(i*q+j)*h+k] = v
			}
		}
	}
	return nil
}

// sequence undoes spectrum.
func (f *fit) sequence(s []complex128) []float64 {
	b, h := f.c.B, f.c.B/2+1
	x := make([]float64, len(s)/h*b)
	for i := range len(s) / h {
		f.fft.Sequence(x[i*b:(i+1)*b], s[i*h:(i+1)*h])
	}
	for i := range x {
		x[i] /= float64(b)
	}
	return x
}

// Conjugate gradients end when the gradient has fallen to this share of its
// start: float32 weights do not show the rest.
const (
	raggedTolerance = 1e-9
	raggedSteps     = 200
)

// solveRagged solves for the last row of blocks, [q, b], of which only the
// first cross.Rows < b rows exist. For its change d from the prior it minimises
//
//	Σ_{a < rows} E|e_a − (D·x)_a|² + (rows/b)·Σ_f λ(f)‖d̂(f)‖²/b,   e = y − F·x.
func (f *fit) solveRagged(cross blas64.General, prior []float64) ([]float64, error) {
	n, b, h, rows := f.x.N, f.c.B, f.c.B/2+1, cross.Rows
	share := float64(rows) / float64(b)
	// apply is the normal operator; without ridge it is minus the gradient's
	// part that the moments make.
	apply := func(d []float64, ridge bool) []float64 {
		dense := blas64.General{Rows: rows, Cols: n, Stride: n, Data: make([]float64, rows*n)}
		for a := range rows {
			for k := range n {
				dense.Data[a*n+k] = d[k/b*b+wrap(a-k%b, b)]
			}
		}
		out := f.diagonals(f.timesCovariance(dense), 1, nil, nil)
		if ridge {
			s := f.spectrum(d)
			for i := range s {
				s[i] *= complex(f.lambda[i%h]*share, 0)
			}
			addTo(out, f.sequence(s))
		}
		return out
	}
	precondition := func(r []float64) ([]float64, error) {
		s := f.spectrum(r)
		err := f.solveFull(s, 1)
		return f.sequence(s), err
	}
	inner := func(x, y []float64) (s float64) {
		for i := range x {
			s += x[i] * y[i]
		}
		return s
	}

	r := f.diagonals(cross, 1, nil, nil)
	for i, v := range apply(prior, false) {
		r[i] -= v
	}
	d := make([]float64, len(prior))
	z, err := precondition(r)
	if err != nil {
		return nil, err
	}
	dir := append([]float64(nil), z...)
	rz := inner(r, z)
	for stop, step := rz*raggedTolerance*raggedTolerance, 0; rz > stop && step < raggedSteps; step++ {
		nd := apply(dir, true)
		alpha := rz / inner(dir, nd)
		for i := range d {
			d[i] += alpha * dir[i]
			r[i] -= alpha * nd[i]
		}
		if z, err = precondition(r); err != nil {
			return nil, err
		}
		beta := inner(r, z) / rz
		rz *= beta
		for i := range dir {
			dir[i] = z[i] + beta*dir[i]
		}
	}
	addTo(d, prior)
	return d, nil
}

// OutputError is the error of a layer's output when C·x + biasC takes the place of
// W·x + biasW, over inputs of the moments x:
//
//	E‖(W·x + biasW) − (C·x + biasC)‖² relative to E‖W·(x − E[x])‖².
//
// W is dense [C.M, C.N], row-major; a nil bias is zero.
func OutputError(w, biasW []float32, c *Matrix, biasC []float32, x *Moments) (Error, error) {
	if err := checkErrorArgs(w, biasW, c, biasC, x); err != nil {
		return Error{}, err
	}
	m, n := c.M, c.N
	wd, diff := make([]float64, m*n), make([]float64, m*n)
	widen(wd, w)
	widen(diff, c.Dense())
	for i, v := range wd {
		diff[i] = v - diff[i]
	}
	offset := make([]float64, m)
	for r := range offset {
		offset[r] = at(biasW, r) - at(biasC, r)
	}
	return Error{Square: max(quadratic(diff, offset, m, x), 0), Of: quadratic(wd, nil, m, x)}, nil
}

// CrossError is the error of C·x + bias as a prediction of the targets y of the cross
// moments yx, x the inputs' moments over the same tokens:
//
//	E‖y − C·x − bias‖² relative to E‖y − E[y]‖².
func CrossError(c *Matrix, bias []float32, x *Moments, yx *CrossMoments) (Error, error) {
	if err := c.Validate(); err != nil {
		return Error{}, err
	}
	if err := x.Validate(); err != nil {
		return Error{}, err
	}
	if err := yx.fits(c.M, c.N, x); err != nil {
		return Error{}, err
	}
	if x.N != c.N || bias != nil && len(bias) != c.M {
		return Error{}, fmt.Errorf("circulant: matrix of %d×%d with moments of %d inputs and a bias of %d elements", c.M, c.N, x.N, len(bias))
	}
	// E‖y − Cx − b‖² = Var y − 2·tr(C·Cov(x, y)) + tr(C·Cov(x)·Cᵀ) + ‖E[y] − C·E[x] − b‖².
	dense := make([]float64, c.M*c.N)
	widen(dense, c.Dense())
	mean, xMean := yx.Mean(), x.Mean()
	offset := make([]float64, c.M)
	var variance, cross float64
	for r := range c.M {
		row := dense[r*c.N : (r+1)*c.N]
		variance += yx.Square[r]/yx.Count - mean[r]*mean[r]
		offset[r] = at(bias, r) - mean[r]
		for k, v := range row {
			cross += v * (yx.Cross[r*c.N+k]/yx.Count - mean[r]*xMean[k])
		}
	}
	return Error{Square: max(variance-2*cross+quadratic(dense, offset, c.M, x), 0), Of: variance}, nil
}

// quadratic is tr(D·Cov(x)·Dᵀ) + ‖D·E[x] + offset‖² for D [m, n]; without
// offset the first term alone.
func quadratic(d, offset []float64, m int, x *Moments) float64 {
	n := x.N
	f := &fit{x: x, mean: x.Mean()}
	dg := blas64.General{Rows: m, Cols: n, Stride: n, Data: d}
	dc := f.timesCovariance(dg)
	var s float64
	for i, v := range d {
		s += v * dc.Data[i]
	}
	for r, v := range offset {
		for k, mk := range f.mean {
			v += d[r*n+k] * mk
		}
		s += v * v
	}
	return s
}

func checkErrorArgs(w, biasW []float32, c *Matrix, biasC []float32, x *Moments) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if err := checkDense(w, c.M, c.N); err != nil {
		return err
	}
	if err := x.Validate(); err != nil {
		return err
	}
	if x.N != c.N || biasW != nil && len(biasW) != c.M || biasC != nil && len(biasC) != c.M {
		return fmt.Errorf("circulant: matrix of %d×%d with moments of %d inputs and biases of %d and %d elements",
			c.M, c.N, x.N, len(biasW), len(biasC))
	}
	return nil
}

// at is bias[r], 0 for no bias.
func at(bias []float32, r int) float64 {
	if bias == nil {
		return 0
	}
	return float64(bias[r])
}
