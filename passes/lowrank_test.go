package passes_test

import (
	"bytes"
	"context"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
)

// TestResidual: a layer that is blocks and a matrix of low rank, plus a bias, is
// found again, and one that is not is fitted better than by blocks alone.
func TestResidual(t *testing.T) {
	const n, m, b, rank, samples = 12, 16, 4, 2, 300
	rng := rand.New(rand.NewPCG(1, 2))
	normal := func(k int) []float32 {
		x := make([]float32, k)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		return x
	}
	// W [n, m], as MatMul has it.
	circ, u, v, noise := normal(m*n/b), normal(m*rank), normal(rank*n), normal(m*n)
	model := func(spread float32) *graph.Model {
		w := make([]float32, n*m)
		for i := range m {
			for k := range n {
				x := circ[(i/b*(n/b)+k/b)*b+(i-k+n)%b]
				for r := range rank {
					x += u[i*rank+r] * v[r*n+k]
				}
				w[k*m+i] = x + spread*noise[i*n+k]
			}
		}
		g := graph.NewModel("layer", 8, 17)
		in := g.Graph.AddInput("x", graph.TensorType(graph.Float32, graph.Symbol("batch"), graph.Known(n)))
		weight := g.Graph.AddInitializer("w", graph.Float32Tensor([]int64{n, m}, w))
		bias := g.Graph.AddInitializer("bias", graph.Float32Tensor([]int64{m}, normal(m)))
		y := g.Graph.NewNode("", "MatMul", "layer", []*graph.Value{in, weight}, []string{"y"}).Output(0)
		z := g.Graph.NewNode("", "Add", "", []*graph.Value{y, bias}, []string{"z"}).Output(0)
		g.Graph.AddOutput(z, graph.TensorType(graph.Float32, graph.Symbol("batch"), graph.Known(m)))
		return g
	}
	var data bytes.Buffer
	if err := npz.Write(&data, npz.Float32Array("x", []int{samples, n}, normal(samples*n))); err != nil {
		t.Fatal(err)
	}
	src, err := calib.SourceFromBytes("x", data.Bytes(), calib.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fit := func(g *graph.Model, rank int) (*graph.Model, passes.CirculantLayer) {
		c := g.Clone()
		ports, err := runtime.Ports(c)
		if err != nil {
			t.Fatal(err)
		}
		feed, err := src.Bind(ports)
		if err != nil {
			t.Fatal(err)
		}
		var done passes.CirculantLayer
		o := passes.CirculantOptions{Block: b, Feed: feed, IncludeHead: true, Rank: rank, Layer: func(l passes.CirculantLayer) { done = l }}
		if err := passes.Run(context.Background(), c, &passes.Journal{}, passes.RewriteCirculant(o), passes.EliminateDeadCode()); err != nil {
			t.Fatal(err)
		}
		return c, done
	}
	// What the report says is what the model does.
	measured := func(g, c *graph.Model) float64 {
		e, err := calib.Evaluate(context.Background(), []*graph.Model{g, c}, src, calib.EvalOptions{Metric: calib.MetricSQNR})
		if err != nil {
			t.Fatal(err)
		}
		return e[1].Value
	}
	exact, rough := model(0), model(0.3)
	c, done := fit(exact, rank)
	if done.Error > 0.1 {
		t.Errorf("blocks and rank %d of such a layer: error %v", rank, done.Error)
	}
	if want := int64(m*n/b + m + rank*(m+n)); done.ParamsAfter != want || c.Parameters() != want {
		t.Errorf("%d parameters reported, %d there, want %d", done.ParamsAfter, c.Parameters(), want)
	}
	_, plain := fit(rough, 0)
	c, done = fit(rough, rank)
	if done.Error > 0.6*plain.Error {
		t.Errorf("error %v with a residual, %v without", done.Error, plain.Error)
	}
	// SQNR is relative to E‖y‖², and so no less than what the report is relative to.
	if db := -20 * math.Log10(done.Error); measured(rough, c) < db-0.5 || measured(rough, c) > db+3 {
		t.Errorf("%v dB measured, %v reported", measured(rough, c), db)
	}
	for _, o := range []passes.CirculantOptions{
		{Block: b, Rank: 2, Fit: passes.FitFrobenius},
		{Block: b, Rank: 2, Ledger: &calib.Ledger{}},
		{Block: b, Rank: -1, Fit: passes.FitFrobenius},
	} {
		if err := passes.Run(context.Background(), exact.Clone(), &passes.Journal{}, passes.RewriteCirculant(o)); err == nil || !strings.Contains(err.Error(), "rank") {
			t.Errorf("%+v: error %v", o, err)
		}
	}
}

// TestAllocateResidual: the search counts and fits residuals as the rewrite does.
func TestAllocateResidual(t *testing.T) {
	m, feed := demoFeed(t)
	o := passes.AllocateOptions{Share: 0.9, Blocks: []int{4, 8}, Circulant: passes.CirculantOptions{Rank: 4}, Feed: feed, Samples: 16, FitSamples: 48}
	a, err := passes.Allocate(context.Background(), m, o)
	if err != nil {
		t.Fatal(err)
	}
	best := a.Best()
	c := m.Clone()
	err = passes.Run(context.Background(), c, &passes.Journal{},
		passes.RewriteCirculant(passes.CirculantOptions{Blocks: best.Blocks, Rank: 4, Feed: feed.Spread(48)}), passes.EliminateDeadCode())
	if err != nil {
		t.Fatal(err)
	}
	if !a.Met || c.Parameters() != best.Params {
		t.Errorf("met %v, %d parameters, the search says %d", a.Met, c.Parameters(), best.Params)
	}
	o.Circulant.Rank = 0
	plain, err := passes.Allocate(context.Background(), m, o)
	if err != nil {
		t.Fatal(err)
	}
	if b := plain.Best(); best.KL > b.KL {
		t.Errorf("KL %v with residuals, %v without", best.KL, b.KL)
	}
}
