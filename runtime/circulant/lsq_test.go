package circulant

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"

	"gonum.org/v1/gonum/mat"
)

// data is a sample of inputs with correlated elements and a mean.
func data(rng *rand.Rand, tokens, n int) []float32 {
	mix := random(rng, n*n)
	x := make([]float32, tokens*n)
	for t := range tokens {
		z := random(rng, n)
		for i := range n {
			v := 0.5 * math.Sin(float64(i))
			for j, zj := range z[:max(1, n*2/3)] { // some directions have no data
				v += float64(mix[i*n+j]) * float64(zj) / float64(1+j)
			}
			x[t*n+i] = float32(v)
		}
	}
	return x
}

// errorOnData is sqrt(Σ‖y − C·x − bias‖² / Σ‖y − ȳ‖²) over the rows themselves.
func errorOnData(c *Matrix, bias []float32, x, y []float32) float64 {
	d := c.Dense()
	tokens := len(x) / c.N
	var num, den float64
	for r := range c.M {
		var mean, e float64
		for t := range tokens {
			mean += float64(y[t*c.M+r]) / float64(tokens)
		}
		for t := range tokens {
			e = float64(y[t*c.M+r]) - at(bias, r)
			for k := range c.N {
				e -= float64(d[r*c.N+k]) * float64(x[t*c.N+k])
			}
			num += e * e
			v := float64(y[t*c.M+r]) - mean
			den += v * v
		}
	}
	return math.Sqrt(num / den)
}

func denseProduct(w, bias []float32, m, n int, x []float32) []float32 {
	y := make([]float32, len(x)/n*m)
	for t := range len(x) / n {
		for r := range m {
			s := at(bias, r)
			for k := range n {
				s += float64(w[r*n+k]) * float64(x[t*n+k])
			}
			y[t*m+r] = float32(s)
		}
	}
	return y
}

var fitShapes = []struct{ m, n, b int }{
	{8, 8, 2}, {24, 16, 4}, {16, 24, 8}, {12, 9, 3}, {30, 20, 5}, // whole output blocks
	{9, 16, 2}, {13, 18, 4}, {17, 24, 8}, {23, 21, 8}, {3, 20, 8}, {20, 3, 8}, {1, 30, 4}, {10, 11, 7}, {31, 40, 16},
}

// The fit is never worse than the projection, on the data that it saw, with
// the projection's bias refitted or not; and the reported errors are those of
// the data.
func TestLeastSquaresBeatsFrobenius(t *testing.T) {
	for _, s := range fitShapes {
		t.Run(fmt.Sprintf("%dx%d/b%d", s.m, s.n, s.b), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(s.m*s.n), uint64(s.b)))
			w, bias := random(rng, s.m*s.n), random(rng, s.m)
			x := data(rng, 300, s.n)
			y := denseProduct(w, bias, s.m, s.n, x)
			acc := NewCrossAccumulator(s.m, s.n)
			acc.Add(y, s.m, x, s.n, 300)
			mom, cross := acc.Moments()

			frob, err := Frobenius(w, s.m, s.n, s.b)
			if err != nil {
				t.Fatal(err)
			}
			fit, fitBias, err := LeastSquares(w, s.m, s.n, s.b, bias, mom, nil)
			if err != nil {
				t.Fatal(err)
			}
			seq, seqBias, err := LeastSquaresCross(w, s.m, s.n, s.b, mom, cross, nil)
			if err != nil {
				t.Fatal(err)
			}
			refit := refitBias(frob, cross.Mean(), mom.Mean())
			base := errorOnData(frob, refit, x, y)
			if b := errorOnData(frob, bias, x, y); b < base {
				t.Errorf("projection has error %g with the refitted bias, %g without", base, b)
			}
			for _, c := range []struct {
				name string
				c    *Matrix
				bias []float32
			}{{"frobenius", frob, bias}, {"one-shot", fit, fitBias}, {"sequential", seq, seqBias}} {
				real := errorOnData(c.c, c.bias, x, y)
				// Rounding the weights, the bias and y to float32 is all that may add.
				if c.name != "frobenius" && real > base+1e-6 {
					t.Errorf("%s: error %g, projection's is %g", c.name, real, base)
				}
				out, err := OutputError(w, bias, c.c, c.bias, mom)
				if err != nil {
					t.Fatal(err)
				}
				crossErr, err := CrossError(c.c, c.bias, mom, cross)
				if err != nil {
					t.Fatal(err)
				}
				// y was rounded to float32, an error of 2⁻²⁴ of its size.
				if math.Abs(out.Relative()-real) > 1e-6 || math.Abs(crossErr.Relative()-real) > 1e-6 {
					t.Errorf("%s: OutputError %g, CrossError %g, on the data %g", c.name, out.Relative(), crossErr.Relative(), real)
				}
			}
		})
	}
}

// The fit is the solution of the normal equations, written out and solved
// without any transform, for whole and for ragged output blocks.
func TestLeastSquaresIsOptimal(t *testing.T) {
	for _, s := range fitShapes {
		t.Run(fmt.Sprintf("%dx%d/b%d", s.m, s.n, s.b), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(s.m*s.n), uint64(s.b)))
			w := random(rng, s.m*s.n)
			acc := NewAccumulator(s.n)
			acc.Add(data(rng, 300, s.n), s.n, 300)
			mom := acc.Moments()
			const ridge = 0.03
			got, _, err := LeastSquares(w, s.m, s.n, s.b, nil, mom, &FitOptions{Ridge: ridge})
			if err != nil {
				t.Fatal(err)
			}
			prior, err := Frobenius(w, s.m, s.n, s.b)
			if err != nil {
				t.Fatal(err)
			}
			want := normalEquations(w, prior, mom, ridge)
			var norm float64
			for _, v := range want {
				norm = max(norm, math.Abs(v))
			}
			for i, v := range got.W {
				// float32 weights, and a condition of some 1/ridge in float64.
				if math.Abs(float64(v)-want[i]) > 1e-7*norm {
					t.Fatalf("weight %d is %g, want %g", i, v, want[i])
				}
			}
		})
	}
}

// normalEquations solves for every row of blocks the q·b unknowns of
//
//	Σ_{a<rows} E|y_a − (C·x)_a|² + rows/b·‖L(C − F)‖²
//
// where L applies sqrt(λ(f)) at every frequency, from the definition.
func normalEquations(w []float32, prior *Matrix, mom *Moments, ridge float64) []float64 {
	n, b, q := mom.N, prior.B, prior.Q
	cov := mom.Centred()
	size := q * b
	// λ(f) = ridge·E‖x̂(f)‖²/q, and the circulant matrix with those eigenvalues.
	circ := make([]float64, b)
	for f := range b {
		var power float64
		for j := range q {
			for a := range min(b, n-j*b) {
				for c := range min(b, n-j*b) {
					power += cov[(j*b+a)*n+j*b+c] * math.Cos(2*math.Pi*float64(f*(a-c))/float64(b))
				}
			}
		}
		for l := range b {
			circ[l] += ridge * power / float64(q) * math.Cos(2*math.Pi*float64(f*l)/float64(b)) / float64(b)
		}
	}
	var solution []float64
	for i := range prior.P {
		rows := min(b, prior.M-i*b)
		lhs, rhs := mat.NewDense(size, size, nil), mat.NewVecDense(size, nil)
		for a := range rows {
			// (C·x)_a = Σ_u w[u]·x[col(u)]
			col := func(u int) int { return u/b*b + wrap(a-u%b, b) }
			for u := range size {
				cu := col(u)
				if cu >= n {
					continue
				}
				for v := range size {
					if cv := col(v); cv < n {
						lhs.Set(u, v, lhs.At(u, v)+cov[cu*n+cv])
					}
				}
				for k := range n {
					rhs.SetVec(u, rhs.AtVec(u)+float64(w[(i*b+a)*n+k])*cov[k*n+cu])
				}
			}
		}
		for u := range size {
			for l := range b {
				v := u/b*b + wrap(u%b-l, b)
				e := circ[l] * float64(rows) / float64(b)
				lhs.Set(u, v, lhs.At(u, v)+e)
				rhs.SetVec(u, rhs.AtVec(u)+e*float64(prior.W[i*size+v]))
			}
		}
		var x mat.VecDense
		if err := x.SolveVec(lhs, rhs); err != nil {
			panic(err)
		}
		solution = append(solution, x.RawVector().Data...)
	}
	return solution
}

// A layer that is block-circulant already keeps its weights and its bias, also
// where the inputs have no data.
func TestLeastSquaresKeepsCirculant(t *testing.T) {
	for _, s := range fitShapes {
		rng := rand.New(rand.NewPCG(uint64(s.m*s.n), uint64(s.b)))
		c := randomMatrix(t, rng, s.m, s.n, s.b)
		acc := NewAccumulator(s.n)
		acc.Add(data(rng, 100, s.n), s.n, 100)
		bias := random(rng, s.m)
		got, gotBias, err := LeastSquares(c.Dense(), s.m, s.n, s.b, bias, acc.Moments(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want := c.Dense()
		for i, v := range got.Dense() {
			if d := math.Abs(float64(v - want[i])); d > 1e-5 {
				t.Fatalf("%v: entry %d is %g, was %g", s, i, v, want[i])
			}
		}
		for i, v := range gotBias {
			if d := math.Abs(float64(v - bias[i])); d > 1e-5 {
				t.Fatalf("%v: bias %d is %g, was %g", s, i, v, bias[i])
			}
		}
	}
}

// Inputs that are all zero, or constant, leave nothing to fit: the projection
// stays, and the bias takes the constant.
func TestLeastSquaresWithoutData(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	w := random(rng, 6*9)
	for _, level := range []float32{0, 3} {
		x := make([]float32, 40*9)
		for i := range x {
			x[i] = level
		}
		acc := NewAccumulator(9)
		acc.Add(x, 9, 40)
		c, bias, err := LeastSquares(w, 6, 9, 4, nil, acc.Moments(), nil)
		if err != nil {
			t.Fatal(err)
		}
		frob, _ := Frobenius(w, 6, 9, 4)
		for i, v := range c.W {
			if math.Abs(float64(v-frob.W[i])) > 1e-6 {
				t.Fatalf("inputs %g: weight %d is %g, projection has %g", level, i, v, frob.W[i])
			}
		}
		y := denseProduct(w, nil, 6, 9, x[:9])
		for i, v := range denseProduct(c.Dense(), bias, 6, 9, x[:9]) {
			if math.Abs(float64(v-y[i])) > 1e-5 {
				t.Fatalf("inputs %g: output %d is %g, was %g", level, i, v, y[i])
			}
		}
	}
}

// A layer with Gaussian weights, n = 192, behind activations whose covariance
// has the eigenvalues i^−a in a random basis: the figures of the first
// experiments with this method.
func TestLeastSquaresSynthetic(t *testing.T) {
	const n = 192
	rng := rand.New(rand.NewPCG(11, 12))
	w := random(rng, n*n)
	var qr mat.QR
	g := mat.NewDense(n, n, nil)
	widen(g.RawMatrix().Data, random(rng, n*n))
	qr.Factorize(g)
	var basis mat.Dense
	qr.QTo(&basis)
	for _, c := range []struct {
		a         float64
		b         int
		frob, lsq float64
	}{
		{1, 4, 0.86, 0.62}, {1, 8, 0.94, 0.74},
		{1.5, 4, 0.88, 0.34}, {1.5, 8, 0.94, 0.44},
	} {
		spectrum := make([]float64, n)
		for i := range spectrum {
			spectrum[i] = math.Pow(float64(i+1), -c.a)
		}
		mom := &Moments{N: n, Count: 1, Sum: make([]float64, n)}
		var cov mat.Dense
		cov.Mul(&basis, mat.NewDiagDense(n, spectrum))
		cov.Mul(&cov, basis.T())
		mom.Second = cov.RawMatrix().Data
		frob, err := Frobenius(w, n, n, c.b)
		if err != nil {
			t.Fatal(err)
		}
		fit, bias, err := LeastSquares(w, n, n, c.b, nil, mom, nil)
		if err != nil {
			t.Fatal(err)
		}
		ef, err := OutputError(w, nil, frob, nil, mom)
		if err != nil {
			t.Fatal(err)
		}
		el, err := OutputError(w, nil, fit, bias, mom)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("a = %g, b = %d: frobenius %.3f, least squares %.3f", c.a, c.b, ef.Relative(), el.Relative())
		if math.Abs(ef.Relative()-c.frob) > 0.03 || math.Abs(el.Relative()-c.lsq) > 0.03 {
			t.Errorf("a = %g, b = %d: errors %.3f and %.3f, want %.2f and %.2f ± 0.03", c.a, c.b, ef.Relative(), el.Relative(), c.frob, c.lsq)
		}
	}
}

// The fit's bits do not depend on the number of threads.
func TestLeastSquaresDeterministic(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 14))
	const m, n, b = 150, 200, 8
	w, x := random(rng, m*n), data(rng, 600, n)
	run := func() ([]float32, []float32) {
		acc := NewAccumulator(n)
		acc.Add(x, n, 600)
		c, bias, err := LeastSquares(w, m, n, b, nil, acc.Moments(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.W, bias
	}
	c, bias := run()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	c1, bias1 := run()
	for i := range c {
		if c[i] != c1[i] {
			t.Fatalf("weight %d is %g with all threads, %g with one", i, c[i], c1[i])
		}
	}
	for i := range bias {
		if bias[i] != bias1[i] {
			t.Fatalf("bias %d is %g with all threads, %g with one", i, bias[i], bias1[i])
		}
	}
}

// Sums are those of the rows, however they were cut, and shards merge.
func TestMoments(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 16))
	const tokens, m, n = 600, 7, 70
	x, y := random(rng, tokens*n), random(rng, tokens*m)
	collect := func(from, to, step int) (*Moments, *CrossMoments) {
		acc := NewCrossAccumulator(m, n)
		for t := from; t < to; t += step {
			acc.Add(y[t*m:], m, x[t*n:], n, min(step, to-t))
		}
		return acc.Moments()
	}
	mom, cross := collect(0, tokens, tokens)
	for i := range n {
		var sum float64
		for t := range tokens {
			sum += float64(x[t*n+i])
		}
		if sum != mom.Sum[i] {
			t.Fatalf("sum of input %d is %g, want %g", i, mom.Sum[i], sum)
		}
		for j := range n {
			var want float64
			for t := range tokens {
				want += float64(x[t*n+i]) * float64(x[t*n+j])
			}
			if math.Abs(mom.Second[i*n+j]-want) > 1e-12*tokens {
				t.Fatalf("second moment %d, %d is %g, want %g", i, j, mom.Second[i*n+j], want)
			}
		}
		for r := range m {
			var want float64
			for t := range tokens {
				want += float64(y[t*m+r]) * float64(x[t*n+i])
			}
			if math.Abs(cross.Cross[r*n+i]-want) > 1e-12*tokens {
				t.Fatalf("cross moment %d, %d is %g, want %g", r, i, cross.Cross[r*n+i], want)
			}
		}
	}
	single := NewAccumulator(n)
	single.Add(x, n, tokens)
	for name, other := range map[string]*Moments{"alone": single.Moments(), "in sevens": first(collect(0, tokens, 7))} {
		for i, v := range mom.Second {
			if v != other.Second[i] {
				t.Fatalf("%s: second moment %d is %g, %g in one call", name, i, other.Second[i], v)
			}
		}
	}
	a, ac := collect(0, 250, 250)
	b, bc := collect(250, tokens, 100)
	if err := a.Merge(b); err != nil {
		t.Fatal(err)
	}
	if err := ac.Merge(bc); err != nil {
		t.Fatal(err)
	}
	if a.Count != tokens || ac.Count != tokens {
		t.Fatalf("merged %g and %g tokens, want %d", a.Count, ac.Count, tokens)
	}
	for i, v := range mom.Centred() {
		if math.Abs(a.Centred()[i]-v) > 1e-12 {
			t.Fatalf("covariance %d is %g merged, %g whole", i, a.Centred()[i], v)
		}
	}
	for i, v := range cross.Centred(mom) {
		if math.Abs(ac.Centred(a)[i]-v) > 1e-12 {
			t.Fatalf("cross covariance %d is %g merged, %g whole", i, ac.Centred(a)[i], v)
		}
	}
	if err := a.Merge(NewMoments(n + 1)); err == nil {
		t.Error("merged moments of other inputs")
	}
	if err := ac.Merge(NewCrossMoments(m+1, n)); err == nil {
		t.Error("merged cross moments of other outputs")
	}
}

func first[A, B any](a A, _ B) A { return a }

func TestFitArguments(t *testing.T) {
	w := make([]float32, 6)
	good := func() *Moments {
		return &Moments{N: 3, Count: 2, Sum: []float64{1, 0, -1}, Second: []float64{2, 0, 0, 0, 2, 0, 0, 0, 2}}
	}
	if _, _, err := LeastSquares(w, 2, 3, 2, nil, good(), nil); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]func() error{
		"no tokens": func() error {
			x := good()
			x.Count = 0
			_, _, err := LeastSquares(w, 2, 3, 2, nil, x, nil)
			return err
		},
		"NaN moment": func() error {
			x := good()
			x.Second[4] = math.NaN()
			_, _, err := LeastSquares(w, 2, 3, 2, nil, x, nil)
			return err
		},
		"NaN weight": func() error {
			w := []float32{1, 2, float32(math.NaN()), 4, 5, 6}
			_, _, err := LeastSquares(w, 2, 3, 2, nil, good(), nil)
			return err
		},
		"indefinite": func() error {
			x := good()
			x.Second[0] = -5
			_, _, err := LeastSquares(w, 2, 3, 2, nil, x, nil)
			return err
		},
		"other width": func() error {
			_, _, err := LeastSquares(w, 3, 2, 2, nil, good(), nil)
			return err
		},
		"bias": func() error {
			_, _, err := LeastSquares(w, 2, 3, 2, make([]float32, 3), good(), nil)
			return err
		},
		"negative ridge": func() error {
			_, _, err := LeastSquares(w, 2, 3, 2, nil, good(), &FitOptions{Ridge: -1})
			return err
		},
		"cross tokens": func() error {
			yx := NewCrossMoments(2, 3)
			yx.Count = 7
			_, _, err := LeastSquaresCross(w, 2, 3, 2, good(), yx, nil)
			return err
		},
	} {
		if c() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
