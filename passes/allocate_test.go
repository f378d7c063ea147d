package passes_test

import (
	"context"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// demoFeed is the embedded model and its calibration samples.
func demoFeed(t *testing.T) (*graph.Model, *calib.Feed) {
	t.Helper()
	model, data, _ := testmodels.Demo()
	m, err := graph.Decode(model)
	if err != nil {
		t.Fatal(err)
	}
	src, err := calib.SourceFromBytes("calib.npz", data, calib.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ports, err := runtime.Ports(m)
	if err != nil {
		t.Fatal(err)
	}
	feed, err := src.Bind(ports)
	if err != nil {
		t.Fatal(err)
	}
	return m, feed
}

// TestAllocate: the search meets its budget, its figures are those of the
// model that its choice gives, its choice beats one block size for all at the
// same size, and threads do not show.
func TestAllocate(t *testing.T) {
	ctx := context.Background()
	m, feed := demoFeed(t)
	before := m.Text()
	const samples = 24
	some := regexp.MustCompile(`layers\.[0-2]`)
	o := passes.AllocateOptions{Share: 0.75, Blocks: []int{2, 4}, Circulant: passes.CirculantOptions{Only: some}, Modules: true,
		Feed: feed, Samples: samples, Threads: 1}
	a, err := passes.Allocate(ctx, m, o)
	if err != nil {
		t.Fatal(err)
	}
	if m.Text() != before {
		t.Error("the search changed the model")
	}
	best := a.Best()
	if !a.Met || float64(best.Params) > 0.75*float64(m.Parameters()) {
		t.Errorf("met %v with %d of %d parameters", a.Met, best.Params, m.Parameters())
	}
	for i, c := range a.Curve[1:] {
		if c.Params >= a.Curve[i].Params {
			t.Errorf("step %d, %s, saves nothing: %d parameters after %d", i+1, c.Step, c.Params, a.Curve[i].Params)
		}
	}

	// The same by the passes themselves.
	ledger, err := calib.Score(ctx, m, feed, calib.ScoreOptions{Threads: 1, Moments: true})
	if err != nil {
		t.Fatal(err)
	}
	judge := func(dropped []string, rewrite passes.CirculantOptions) (int64, float64) {
		t.Helper()
		c := m.Clone()
		if len(dropped) > 0 {
			if err := passes.Run(ctx, c, &passes.Journal{}, passes.DropModules(dropped, passes.DropOptions{})); err != nil {
				t.Fatal(err)
			}
		}
		rewrite.Ledger, rewrite.Fit, rewrite.Only = ledger, passes.FitLSQ, some
		if err := passes.Run(ctx, c, &passes.Journal{}, passes.RewriteCirculant(rewrite), passes.EliminateDeadCode()); err != nil {
			t.Fatal(err)
		}
		list, err := calib.Evaluate(ctx, []*graph.Model{m, c}, feed.Source(), calib.EvalOptions{Metric: calib.MetricKL, Limit: samples, Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		return c.Parameters(), list[1].Value
	}
	params, loss := judge(best.Dropped, passes.CirculantOptions{Blocks: best.Blocks})
	if params != best.Params || math.Abs(loss-best.KL) > 1e-5+1e-3*loss {
		t.Errorf("the search tells of %d parameters and a KL of %v, the passes give %d and %v", best.Params, best.KL, params, loss)
	}
	uniform, worse := judge(nil, passes.CirculantOptions{Block: 2})
	at := slices.IndexFunc(a.Curve, func(c passes.Trade) bool { return c.Params <= uniform })
	if at < 0 || a.Curve[at].KL > 0.55*worse {
		t.Errorf("b = 2 everywhere has a KL of %v with %d parameters; the search found nothing better: %+v", worse, uniform, a.Curve)
	}

	o.Threads = 2
	b, err := passes.Allocate(ctx, m, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Curve) != len(b.Curve) {
		t.Fatalf("%d steps with one thread, %d with two", len(a.Curve), len(b.Curve))
	}
	for i := range a.Curve {
		x, y := a.Curve[i], b.Curve[i]
		if x.Step != y.Step || x.KL != y.KL || x.Params != y.Params || x.FLOPs != y.FLOPs || !maps.Equal(x.Blocks, y.Blocks) || !slices.Equal(x.Dropped, y.Dropped) {
			t.Errorf("step %d: %+v with one thread, %+v with two", i, x, y)
		}
	}
}

// TestAllocateLimits: a limit of the KL ends the search before it is passed,
// and what cannot be reached is said.
func TestAllocateLimits(t *testing.T) {
	ctx := context.Background()
	m, feed := demoFeed(t)
	a, err := passes.Allocate(ctx, m, passes.AllocateOptions{MaxKL: 0.02, Modules: true, Feed: feed, Samples: 16})
	if err != nil {
		t.Fatal(err)
	}
	if best := a.Best(); !a.Met || best.KL > 0.02 || len(best.Dropped) == 0 || len(best.Blocks) > 0 {
		t.Errorf("with modules alone and a KL of 0.02 at most: %+v", best)
	}
	only := passes.CirculantOptions{Only: regexp.MustCompile(`layers\.[01]/mlp`)}
	a, err = passes.Allocate(ctx, m, passes.AllocateOptions{Share: 0.01, Blocks: []int{64}, Circulant: only, Feed: feed, Samples: 8})
	if err != nil {
		t.Fatal(err)
	}
	if a.Met || len(a.Curve) < 2 || a.Best().Params != a.Curve[len(a.Curve)-1].Params {
		t.Errorf("a budget of 1 %% is met: %v after %d steps", a.Met, len(a.Curve))
	}
	for want, o := range map[string]passes.AllocateOptions{
		"give a budget":         {Feed: feed, Blocks: []int{2}},
		"changes are tried on":  {Share: 0.5, Blocks: []int{2}},
		"choose a share below":  {Share: 1.5, Feed: feed, Blocks: []int{2}},
		"no budget of \"time\"": {Quantity: "time", Share: 0.5, Feed: feed, Blocks: []int{2}},
		"nothing that could be": {Share: 0.5, Feed: feed},
		"choose one above 0":    {MaxKL: math.NaN(), Feed: feed, Blocks: []int{2}},
	} {
		if _, err := passes.Allocate(ctx, m, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := passes.Allocate(ctx, m, passes.AllocateOptions{Share: 0.5, Blocks: []int{2}, Feed: feed}); err == nil {
		t.Error("a cancelled search ends without an error")
	}
}
