package passes

import (
	"errors"
	"math"

	"gonum.org/v1/gonum/mat"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime/circulant"
)

// lowRank is what a layer computes beside its blocks: U·V·x, of a rank that is
// low.
type lowRank struct {
	m, n, rank int
	u, v       []float32 // [m, rank], [rank, n]
}

// rankRidge is added to the covariance of inputs, relative to its mean diagonal,
// before it is inverted: directions that the data hardly has get no large
// weights.
const rankRidge = 1e-2

// sweeps is how often blocks and what they leave over are fitted in turn.
const sweeps = 4

// fitWithRank fits blocks and a matrix of low rank to the targets of cross
// moments, in turn: the blocks to what the other leaves, and it to what the
// blocks leave. It returns what it leaves as cross moments, which the bias and
// the error come from. Blocks c that are fitted already, not nil, stay as they are.
func (r *rewriter) fitWithRank(l *layer, c *circulant.Matrix, x *circulant.Moments, yx *circulant.CrossMoments) (*circulant.Matrix, *lowRank, *circulant.CrossMoments, error) {
	white, err := whitener(x)
	if err != nil {
		return nil, nil, nil, err
	}
	free, times := c == nil, 1
	if free {
		times = sweeps
	}
	k := l.rank(r.o.Rank)
	low := &lowRank{m: l.m, n: l.n, rank: k, u: make([]float32, l.m*k), v: make([]float32, k*l.n)}
	left := yx
	for range times {
		if free {
			w := low.dense()
			for i, v := range w {
				w[i] = l.dense[i] - v
			}
			if c, _, err = circulant.LeastSquaresCross(w, l.m, l.n, l.block, x, left, &circulant.FitOptions{Ridge: r.o.Ridge}); err != nil {
				return nil, nil, nil, err
			}
		}
		if err := low.fit(without(yx, c.Dense(), x).Centred(x), white); err != nil {
			return nil, nil, nil, err
		}
		left = without(yx, low.dense(), x)
	}
	return c, low, left, nil
}

// whitener is L⁻¹ for Cov(x) = L·Lᵀ, with its ridge.
func whitener(x *circulant.Moments) (*mat.TriDense, error) {
	n, c := x.N, x.Centred()
	cov := mat.NewSymDense(n, nil)
	trace := 0.0
	for i := range n {
		for k := i; k < n; k++ {
			cov.SetSym(i, k, c[i*n+k])
		}
		trace += c[i*n+i]
	}
	for i := range n {
		cov.SetSym(i, i, cov.At(i, i)+rankRidge*trace/float64(n))
	}
	var root mat.Cholesky
	var l, inverse mat.TriDense
	if !(trace > 0) || !root.Factorize(cov) {
		return nil, errors.New("its input does not vary over the data: a residual of low rank cannot be fitted")
	}
	root.LTo(&l)
	return &inverse, inverse.InverseTri(&l)
}

// fit minimises E‖y − U·V·x‖² for centred cross moments E[y xᵀ]: it cuts the
// singular values of E[y xᵀ]·L⁻ᵀ, Cov(x) = L·Lᵀ (reduced-rank regression:
// Izenman, 1975).
func (f *lowRank) fit(cross []float64, white *mat.TriDense) error {
	var g, v mat.Dense
	g.Mul(mat.NewDense(f.m, f.n, cross), white.T())
	var s mat.SVD
	if !s.Factorize(&g, mat.SVDThin) {
		return errors.New("the residual has no singular values; its values may be out of range")
	}
	var left, right mat.Dense
	s.UTo(&left)
	s.VTo(&right)
	v.Mul(right.T(), white)
	for k, sigma := range s.Values(nil)[:f.rank] {
		root := math.Sqrt(sigma) // a half of it to each side
		for i := range f.m {
			f.u[i*f.rank+k] = float32(root * left.At(i, k))
		}
		for i := range f.n {
			f.v[k*f.n+i] = float32(root * v.At(k, i))
		}
	}
	return nil
}

// dense is U·V, [m, n].
func (f *lowRank) dense() []float32 {
	out := make([]float32, f.m*f.n)
	for i := range f.m {
		row := out[i*f.n : (i+1)*f.n]
		for k := range f.rank {
			u := f.u[i*f.rank+k]
			for j, v := range f.v[k*f.n : (k+1)*f.n] {
				row[j] += float32(u * v)
			}
		}
	}
	return out
}

// without is the cross moments of y − W·x, W [m, n].
func without(yx *circulant.CrossMoments, w []float32, x *circulant.Moments) *circulant.CrossMoments {
	out := circulant.NewCrossMoments(yx.M, yx.N)
	out.Count = yx.Count
	wide := make([]float64, len(w))
	for i, v := range w {
		wide[i] = float64(v)
	}
	n := yx.N
	var made mat.Dense // Σ W x xᵀ
	made.Mul(mat.NewDense(yx.M, n, wide), mat.NewDense(n, n, x.Second))
	for i := range yx.M {
		row, cross, m := wide[i*n:(i+1)*n], yx.Cross[i*n:(i+1)*n], made.RawRowView(i)
		out.Sum[i], out.Square[i] = yx.Sum[i], yx.Square[i]
		for k, v := range row {
			out.Sum[i] -= v * x.Sum[k]
			out.Square[i] += v * (m[k] - 2*cross[k])
			out.Cross[i*n+k] = cross[k] - m[k]
		}
	}
	return out
}

// crossOf is the cross moments of a layer's own outputs with inputs of the
// moments x.
func crossOf(l *layer, x *circulant.Moments) *circulant.CrossMoments {
	y := circulant.NewCrossMoments(l.m, l.n)
	y.Count = x.Count
	negative := make([]float32, len(l.dense))
	for i, v := range l.dense {
		negative[i] = -v
	}
	y = without(y, negative, x)
	for i, v := range l.bias {
		b := float64(v)
		y.Square[i] += 2*b*y.Sum[i] + b*b*x.Count
		y.Sum[i] += b * x.Count
		for k, s := range x.Sum {
			y.Cross[i*l.n+k] += b * s
		}
	}
	return y
}

// variance is E‖y − E[y]‖².
func variance(yx *circulant.CrossMoments) float64 {
	sum, mean := 0.0, yx.Mean()
	for i, s := range yx.Square {
		sum += s/yx.Count - mean[i]*mean[i]
	}
	return sum
}

// initializers adds Uᵀ and Vᵀ to a graph.
func (f *lowRank) initializers(g *graph.Graph, name string) (u, v *graph.Value) {
	us, vs := make([]float32, len(f.u)), make([]float32, len(f.v))
	for k := range f.rank {
		for i := range f.m {
			us[k*f.m+i] = f.u[i*f.rank+k]
		}
		for i := range f.n {
			vs[i*f.rank+k] = f.v[k*f.n+i]
		}
	}
	v = g.AddInitializer(g.FreshName(name+"_rank_v"), graph.Float32Tensor([]int64{int64(f.n), int64(f.rank)}, vs))
	u = g.AddInitializer(g.FreshName(name+"_rank_u"), graph.Float32Tensor([]int64{int64(f.rank), int64(f.m)}, us))
	return u, v
}

// residual adds U·V·x to a value that a layer computes, with nodes before mark,
// and returns the sum.
func (b *beside) residual(g *graph.Graph, mark *graph.Node, x, y *graph.Value, name string) *graph.Value {
	node := func(op, name string, in ...*graph.Value) *graph.Value {
		return g.InsertBefore(mark, "", op, name, in, []string{g.FreshName(name)}).Output(0)
	}
	return node("Add", name+"_sum", y, node("MatMul", name+"_u", node("MatMul", name+"_v", x, b.v), b.u))
}

// params is the number of weights.
func (f *lowRank) params() int64 {
	if f == nil {
		return 0
	}
	return int64(len(f.u) + len(f.v))
}
