package train

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
)

func dense(rows, columns int, x []float32) *mat.Dense {
	m := mat.NewDense(rows, columns, nil)
	for i, v := range x {
		m.Set(i/columns, i%columns, float64(v))
	}
	return m
}

// orthogonal is what five steps of Newton and Schulz make of a matrix: the same
// singular vectors, and of every singular value the polynomial, in float64.
func orthogonal(t *testing.T, m *mat.Dense) *mat.Dense {
	t.Helper()
	var svd mat.SVD
	if !svd.Factorize(m, mat.SVDThin) {
		t.Fatal("no singular values")
	}
	values := svd.Values(nil)
	norm := mat.Norm(m, 2)
	for i, s := range values {
		s /= norm
		for range 5 {
			s = 3.4445*s - 4.7750*s*s*s + 2.0315*s*s*s*s*s
		}
		values[i] = s
	}
	var u, v, out mat.Dense
	svd.UTo(&u)
	svd.VTo(&v)
	out.Product(&u, mat.NewDiagDense(len(values), values), v.T())
	return &out
}

func kernels(t *testing.T) *simd.Kernels {
	t.Helper()
	k, err := simd.For(simd.Auto)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func normal(rng *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

// TestOrthogonalMatrix compares with the singular value decomposition.
func TestOrthogonalMatrix(t *testing.T) {
	o := orthogonalizer{simd: kernels(t)}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, s := range [][2]int{{5, 9}, {40, 17}, {16, 16}, {1, 7}, {64, 130}} {
		x := normal(rng, s[0]*s[1])
		want := orthogonal(t, dense(s[0], s[1], x))
		o.matrix(x, s[0], s[1])
		var d mat.Dense
		d.Sub(dense(s[0], s[1], x), want)
		if e := mat.Max(&d) - mat.Min(&d); !(e < 1e-4) {
			t.Errorf("%v: off by %g", s, e)
		}
	}
	zero := make([]float32, 6)
	o.matrix(zero, 2, 3)
	if slices.ContainsFunc(zero, func(v float32) bool { return v != 0 }) {
		t.Errorf("of zeros it makes %v", zero)
	}
}

// TestOrthogonalCirculant: written out, the result has the singular vectors of what it
// was made of, and singular values about one.
func TestOrthogonalCirculant(t *testing.T) {
	o := orthogonalizer{simd: kernels(t)}
	rng := rand.New(rand.NewPCG(3, 4))
	for _, shape := range [][]int{{3, 6, 4}, {9, 2, 2}, {2, 7, 16}, {3, 2, 8, 3}, {2, 1, 4, 3, 3}} {
		p, q, b, taps := shape[0], shape[1], shape[2], 1
		for _, d := range shape[3:] {
			taps *= d
		}
		written := func(w []float32) *mat.Dense {
			m := mat.NewDense(p*b, q*taps*b, nil)
			for i := range p * b {
				for j := range q * taps * b {
					block := i/b*q + j/b/taps
					m.Set(i, j, float64(w[(block*b+(i%b-j%b+b)%b)*taps+j/b%taps]))
				}
			}
			return m
		}
		w := normal(rng, p*q*b*taps)
		was := written(w)
		o.circulant(w, shape)
		is := written(w)

		var svd mat.SVD
		if !svd.Factorize(is, mat.SVDNone) {
			t.Fatal("no singular values")
		}
		if s := svd.Values(nil); s[0] > 1.25 || s[len(s)-1] < 0.65 {
			t.Errorf("%v: singular values %.3f … %.3f", shape, s[len(s)-1], s[0])
		}
		var h mat.Dense // V·s·σ·Vᵀ if the vectors are the same
		h.Mul(is.T(), was)
		n, _ := h.Dims()
		for i := range n {
			for j := range i {
				if d := math.Abs(h.At(i, j) - h.At(j, i)); d > 1e-4*mat.Norm(&h, 2) {
					t.Fatalf("%v: %d, %d and its mirror differ by %g", shape, i, j, d)
				}
			}
		}
	}
}

// TestMuon takes steps with two matrices, of which the one that gives the logits
// follows AdamW, and compares the other with the formula in float64.
func TestMuon(t *testing.T) {
	m, err := graph.Parse(`<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 2] x) => (float[n, 2] y)
<float[2, 3] w = {0.5, -1, 2, 0.25, 1, -2}, float[3, 2] head = {1, 2, 3, 4, 5, 6}>
{
  h = MatMul (x, w)
  r = Relu (h)
  z = MatMul (r, head)
  y = Identity (z)
}`)
	if err != nil {
		t.Fatal(err)
	}
	model, err := runtime.CompileTraining(m, runtime.TrainingOptions{Parameters: []string{"w", "head"}})
	if err != nil {
		t.Fatal(err)
	}
	tr := &trainer{o: Options{Optimizer: Muon, Steps: 5, Warmup: 1, LearningRate: 0.1, Clip: 1e9, Decay: 0.05, CirculantRate: 1, Threads: 2}, model: model, params: model.Parameters(), simd: kernels(t)}
	tr.value, tr.first, tr.second = make([]float32, 12), make([]float32, 12), make([]float32, 12)
	tr.useMuon(m, "y")
	if !slices.Equal(tr.matrix, []bool{true, false}) {
		t.Fatalf("Muon is for %v", tr.matrix)
	}
	w := dense(2, 3, tr.params[0].Value)
	momentum := mat.NewDense(2, 3, nil)
	rng := rand.New(rand.NewPCG(5, 6))
	for step := range 5 {
		gradient := normal(rng, 6)
		copy(tr.params[0].Gradient, gradient)
		rate := tr.rate(step)
		if err := tr.update(); err != nil {
			t.Fatal(err)
		}
		tr.Done++
		momentum.Scale(0.95, momentum)
		momentum.Add(momentum, dense(2, 3, gradient))
		var u, d mat.Dense
		u.Scale(0.95, momentum)
		u.Add(&u, dense(2, 3, gradient))
		d.Scale(rate*0.2*math.Sqrt(3), orthogonal(t, &u))
		w.Scale(1-rate*0.05, w)
		w.Sub(w, &d)
		d.Sub(w, dense(2, 3, tr.params[0].Value))
		if e := mat.Max(&d) - mat.Min(&d); !(e < 1e-5) {
			t.Errorf("step %d: off by %g", step, e)
		}
	}
}

// TestMuonIsFor: of the demo model with block-circulant layers, the matrices of the
// modules follow Muon, and not embeddings, vectors and the classifier.
func TestMuonIsFor(t *testing.T) {
	teacher, src := demo(t, 64)
	m := teacher.Clone()
	err := passes.Run(t.Context(), m, &passes.Journal{}, passes.RewriteCirculant(passes.CirculantOptions{Block: 4, Fit: passes.FitFrobenius}), passes.EliminateDeadCode())
	if err != nil {
		t.Fatal(err)
	}
	c, err := compile(m, Options{Teacher: teacher}, src.Runtime())
	if err != nil {
		t.Fatal(err)
	}
	tr := &trainer{model: c.model, params: c.model.Parameters()}
	tr.useMuon(m, c.logits)
	count := map[string]int{}
	for i, p := range tr.params {
		kind := "vector"
		switch {
		case p.Block > 0:
			kind = "circulant"
		case len(p.Shape) > 1:
			kind = "matrix"
		}
		count[fmt.Sprint(kind, " ", tr.matrix[i])]++
	}
	// Four projections and two layers of each of eight blocks, one behind the input;
	// the classifier and the positions.
	if count["circulant true"] != 49 || count["circulant false"] != 0 || count["matrix true"] != 0 || count["matrix false"] != 2 || count["vector true"] != 0 {
		t.Errorf("Muon is for %v", count)
	}

	var one *graph.Model
	for _, threads := range []int{1, 3} {
		m := m.Clone()
		r, err := Run(t.Context(), m, src, Options{Teacher: teacher, Optimizer: Muon, Steps: 6, Batch: 16, LearningRate: 2e-3, Threads: threads})
		if err != nil {
			t.Fatal(err)
		}
		if r.Best.HeldOut > 0.9*r.Curve[0].HeldOut {
			t.Errorf("held-out loss %v → %v", r.Curve[0].HeldOut, r.Best.HeldOut)
		}
		if one != nil {
			sameWeights(t, "3 threads", one, m)
		}
		one = m
	}
}
