package passes_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/calib/metric"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// scored is a ledger of a model with scores that the test chooses: by module,
// and by layer as "L0".
func scored(m *graph.Model, list []string, scores map[string]float64) *calib.Ledger {
	l := &calib.Ledger{Version: calib.LedgerVersion, Model: m.Fingerprint()}
	for _, id := range list {
		l.Modules = append(l.Modules, calib.ModuleScore{ID: id, Score: scores[id], Angular: 1 - scores[id], Droppable: true})
	}
	for k := range 3 {
		s := scores[fmt.Sprint("L", k)]
		l.Blocks = append(l.Blocks, calib.BlockScore{Layer: k, Score: s, Angular: 1 - s})
	}
	return l
}

// TestSelect: every selector and mode on a model of three layers.
func TestSelect(t *testing.T) {
	m := testmodels.GPT2(testmodels.Size{Layers: 3, Seed: 1}, testmodels.GPT2Options{})
	ids := []string{"A0", "M0", "A1", "M1", "A2", "M2"}
	l := scored(m, ids, map[string]float64{"A0": 0.5, "M0": 0.1, "A1": 0.2, "M1": 0.1, "A2": 0.4, "M2": 0.3, "L0": 0.9, "L1": 0.7, "L2": 0.8})
	for _, c := range []struct {
		name string
		o    passes.SelectOptions
		want string
	}{
		{"defaults, with a tie", passes.SelectOptions{Count: 3, Ledger: l}, "M0 M1 A1"},
		{"all", passes.SelectOptions{Count: 6, Ledger: l}, "M0 M1 A1 M2 A2 A0"},
		{"none", passes.SelectOptions{Count: 0}, ""},
		{"attention", passes.SelectOptions{Count: 2, Mode: passes.AttentionOnly, Ledger: l}, "A1 A2"},
		{"mlp", passes.SelectOptions{Count: 2, Mode: passes.MLPOnly, Ledger: l}, "M0 M1"},
		{"blocks", passes.SelectOptions{Count: 2, Mode: passes.Block, Ledger: l}, "A1 M1 A2 M2"},
		{"angular", passes.SelectOptions{Count: 3, By: passes.ByAngular, Ledger: l}, "A0 A2 M2"},
		{"angular blocks", passes.SelectOptions{Count: 1, By: passes.ByAngular, Mode: passes.Block, Ledger: l}, "A0 M0"},
		{"deepest", passes.SelectOptions{Count: 3, By: passes.ByDeepest}, "M2 A2 M1"},
		{"deepest blocks", passes.SelectOptions{Count: 2, By: passes.ByDeepest, Mode: passes.Block}, "A2 M2 A1 M1"},
		{"deepest attention", passes.SelectOptions{Count: 2, By: passes.ByDeepest, Mode: passes.AttentionOnly}, "A2 A1"},
		{"first layer protected", passes.SelectOptions{Count: 2, Ledger: l, ProtectFirst: 1}, "M1 A1"},
		{"both ends protected", passes.SelectOptions{Count: 2, Ledger: l, ProtectFirst: 1, ProtectLast: 1}, "M1 A1"},
		{"last layers protected", passes.SelectOptions{Count: 2, Ledger: l, ProtectLast: 2}, "M0 A0"},
		{"blocks protected", passes.SelectOptions{Count: 1, Mode: passes.Block, Ledger: l, ProtectFirst: 1, ProtectLast: 1}, "A1 M1"},
	} {
		got, err := passes.Select(ctx, m, c.o)
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, %v, want %s", c.name, got, err, c.want)
		}
	}

	// Random selections depend on the seed alone, are no other's beginning by
	// chance only, and a larger one begins with a smaller one.
	seen := map[string]bool{}
	for seed := range uint64(8) {
		o := passes.SelectOptions{Count: 4, By: passes.ByRandom, Seed: seed}
		a, err := passes.Select(ctx, m, o)
		if err != nil {
			t.Fatal(err)
		}
		o.Ledger = l
		b, _ := passes.Select(ctx, m, o)
		o.Count = 2
		two, _ := passes.Select(ctx, m, o)
		if !slices.Equal(a, b) || !slices.Equal(a[:2], two) {
			t.Errorf("seed %d: %v, then %v and %v", seed, a, b, two)
		}
		sorted := slices.Compact(slices.Sorted(slices.Values(a)))
		if len(sorted) != 4 {
			t.Errorf("seed %d: %v names a module twice", seed, a)
		}
		seen[strings.Join(a, " ")] = true
	}
	if len(seen) < 6 {
		t.Errorf("eight seeds give %d selections", len(seen))
	}
}

// TestSelectFails: what cannot be selected is refused in words.
func TestSelectFails(t *testing.T) {
	m := testmodels.GPT2(testmodels.Size{Layers: 3, Seed: 1}, testmodels.GPT2Options{})
	ids := []string{"A0", "M0", "A1", "M1", "A2", "M2"}
	l := scored(m, ids, nil)
	stranger := scored(m, ids, nil)
	stranger.Model = "sha256:00"
	short := scored(m, ids[:5], nil)
	short.Blocks = short.Blocks[:1]
	for _, c := range []struct {
		name string
		o    passes.SelectOptions
		want string
	}{
		{"too many", passes.SelectOptions{Count: 7, Ledger: l}, "7 to drop of 6 that can be (mode joint)"},
		{"too many blocks", passes.SelectOptions{Count: 4, Mode: passes.Block, Ledger: l}, "4 to drop of 3"},
		{"too many left unprotected", passes.SelectOptions{Count: 3, Ledger: l, ProtectFirst: 2}, "3 to drop of 2"},
		{"less than none", passes.SelectOptions{Count: -1, Ledger: l}, "-1 to drop"},
		{"no such mode", passes.SelectOptions{Count: 1, Mode: "heads", Ledger: l}, `no mode "heads"; there are [joint attention mlp block]`},
		{"no such selector", passes.SelectOptions{Count: 1, By: "best"}, `no selector "best"; there are`},
		{"no ledger", passes.SelectOptions{Count: 1}, "cosine needs scores; give a ledger or data"},
		{"another model's ledger", passes.SelectOptions{Count: 1, Ledger: stranger}, "the ledger was made of another model"},
		{"another model's ledger where it is not needed", passes.SelectOptions{Count: 1, By: passes.ByRandom, Ledger: stranger}, "the ledger was made of another model"},
		{"a ledger without a module", passes.SelectOptions{Count: 1, Ledger: short}, "the ledger has no module M2"},
		{"a ledger without a layer", passes.SelectOptions{Count: 1, Mode: passes.Block, Ledger: short}, "the ledger has no layer 1"},
		{"iterative without data", passes.SelectOptions{Count: 1, Iterative: true}, "scores after each drop and needs data"},
		{"loss without data", passes.SelectOptions{Count: 1, By: passes.ByLoss, Ledger: l}, "drops modules on trial and needs data"},
	} {
		if got, err := passes.Select(ctx, m, c.o); err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "select: ") {
			t.Errorf("%s: %v, %v, want %q", c.name, got, err, c.want)
		}
	}
}

// TestSelectLeavesUndroppableModules: modules that cannot be dropped are not
// chosen, and neither are layers with one.
func TestSelectLeavesUndroppableModules(t *testing.T) {
	m := parse(t, `<ir_version: 8, opset_import: ["": 17]>
g (float[N,T,3] x) => (float[N,T,3] y, float[N,T,2] r0)
<`+weight("wu0", 1, 3, 2)+","+weight("wd0", 2, 2, 3)+","+weight("wu1", 3, 3, 2)+","+weight("wd1", 4, 2, 3)+`>
{
  u0 = MatMul (x, wu0)
  r0 = Relu (u0)
  f0 = MatMul (r0, wd0)
  x1 = Add (x, f0)
  u1 = MatMul (x1, wu1)
  r1 = Relu (u1)
  f1 = MatMul (r1, wd1)
  y = Add (x1, f1)
}`)
	for _, mode := range []passes.Mode{passes.Joint, passes.Block} {
		if got, err := passes.Select(ctx, m, passes.SelectOptions{Count: 1, By: passes.ByRandom, Mode: mode}); err != nil || !slices.Equal(got, []string{"M1"}) {
			t.Errorf("mode %s: %v, %v", mode, got, err)
		}
		if got, err := passes.Select(ctx, m, passes.SelectOptions{Count: 2, By: passes.ByRandom, Mode: mode}); err == nil {
			t.Errorf("mode %s: %v", mode, got)
		}
	}
}

// TestSelectAfterDrop: the ledger of the original serves what is left of the
// model, so that two steps choose what one does.
func TestSelectAfterDrop(t *testing.T) {
	original := testmodels.BERT(testmodels.Size{Seed: 1}, testmodels.BERTOptions{})
	src := source(t, tokens("input_ids", 40, 6, 9), ones("attention_mask", 6, 9), tokens("token_type_ids", 2, 6, 9))
	l, err := calib.Score(ctx, original, bind(t, original, src), calib.ScoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range passes.Modes {
		pick := func(m *graph.Model, n int) []string {
			ids, err := passes.Select(ctx, m, passes.SelectOptions{Count: n, Mode: mode, Ledger: l})
			if err != nil {
				t.Fatal(err)
			}
			return ids
		}
		once := pick(original, 2)
		m := original.Clone()
		first := pick(m, 1)
		drop(t, m, passes.DropOptions{}, first...)
		second := pick(m, 1)
		if got := append(first, second...); !slices.Equal(got, once) {
			t.Errorf("mode %s: %v in two steps, %v in one", mode, got, once)
		}
	}
}

// divergence is the mean KL of the first output of a model without modules to
// the original's, sample by sample.
func divergence(t *testing.T, original *graph.Model, feed *calib.Feed, o passes.DropOptions, ids ...string) float64 {
	t.Helper()
	m := original.Clone()
	drop(t, m, o, ids...)
	logits := func(m *graph.Model) (out [][]float32, classes int) {
		prog, err := runtime.Compile(m, runtime.Options{})
		if err != nil {
			t.Fatal(err)
		}
		f, err := feed.For(prog.Inputs())
		if err != nil {
			t.Fatal(err)
		}
		s := prog.NewSession(runtime.SessionOptions{Threads: 1})
		err = calib.Batches(ctx, f, 1, nil, func(_, _ int, in map[string]tensor.Tensor) error {
			res, err := s.Run(ctx, in)
			if err != nil {
				return err
			}
			y := res[prog.Outputs()[0].Name]
			out, classes = append(out, y.Data().([]float32)), y.Shape()[y.Dims()-1]
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return out, classes
	}
	want, classes := logits(original)
	got, _ := logits(m)
	sum := 0.
	for i := range want {
		kl, err := metric.KL(want[i], got[i], classes)
		if err != nil {
			t.Fatal(err)
		}
		sum += kl
	}
	return sum / float64(len(want))
}

// TestSelectByLoss compares the greedy selection with one that measures every
// candidate on all samples, and the divergences with the model's own.
func TestSelectByLoss(t *testing.T) {
	for _, c := range []struct {
		name  string
		model *graph.Model
		data  []*npz.Array
	}{
		{"decoder", testmodels.GPT2(testmodels.Size{Layers: 2, Seed: 1}, testmodels.GPT2Options{}), []*npz.Array{tokens("input_ids", 40, 21, 6)}},
		{"decoder with a cache", testmodels.LLaMA(testmodels.Size{Layers: 2, Seed: 1}, testmodels.LLaMAOptions{Cache: true}), []*npz.Array{tokens("input_ids", 40, 21, 6)}},
		{"encoder", testmodels.BERT(testmodels.Size{Layers: 2, Seed: 1}, testmodels.BERTOptions{}),
			[]*npz.Array{tokens("input_ids", 40, 21, 9), ones("attention_mask", 21, 9), tokens("token_type_ids", 2, 21, 9)}},
	} {
		feed := bind(t, c.model, source(t, c.data...))
		for _, norm := range []passes.Norm{passes.NormGone, passes.NormKept} {
			l, err := calib.Score(ctx, c.model, feed, calib.ScoreOptions{Means: true})
			if err != nil {
				t.Fatal(err)
			}
			o := passes.SelectOptions{Count: 3, By: passes.ByLoss, Feed: feed, Ledger: l,
				Drop: passes.DropOptions{Norm: norm, Recover: passes.RecoverMean, Means: l.MeanUpdate}}
			var steps []int
			o.Progress = func(done, total int) { steps = append(steps, done, total) }
			got, err := passes.Select(ctx, c.model, o)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			var kl []float64
			left := idsOf(modulesOf(t, c.model))
			for range 3 {
				best, bestKL := "", math.Inf(1)
				for _, id := range left {
					if v := divergence(t, c.model, feed, o.Drop, append(slices.Clone(want), id)...); v < bestKL {
						best, bestKL = id, v
					}
				}
				want, kl = append(want, best), append(kl, bestKL)
				left = slices.DeleteFunc(left, func(id string) bool { return id == best })
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s, norm %s: %v, want %v", c.name, norm, got, want)
			}
			if n := len(steps); n != 2*(4+3+2) || steps[n-2] != 9 || steps[n-1] != 9 {
				t.Errorf("%s: progress %v", c.name, steps)
			}
			if len(l.Orders) != 1 {
				t.Fatalf("%s: orders %v", c.name, l.Orders)
			}
			for _, order := range l.Orders {
				if !slices.Equal(order.Units, want) {
					t.Errorf("%s: the ledger's order is %v", c.name, order.Units)
				}
				for i, v := range order.KL {
					if math.Abs(v-kl[i]) > 1e-6*kl[i]+1e-9 { // float32 outputs
						t.Errorf("%s: divergence %d is %v, want %v", c.name, i, v, kl[i])
					}
				}
			}
		}
	}
}

// TestLossOrderIsKept: the order that a ledger keeps is followed without data
// and without trials as far as it goes, for the same model and options alone.
func TestLossOrderIsKept(t *testing.T) {
	m := testmodels.GPT2(testmodels.Size{Layers: 2, Seed: 1}, testmodels.GPT2Options{})
	all := bind(t, m, source(t, tokens("input_ids", 40, 12, 6)))
	l, err := calib.Score(ctx, m, all, calib.ScoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	trials := 0
	choose := func(o passes.SelectOptions) ([]string, error) {
		trials = 0
		o.By = passes.ByLoss
		o.Progress = func(int, int) { trials++ }
		if o.Ledger == nil {
			o.Ledger = l
		}
		return passes.Select(ctx, m, o)
	}
	two, err := choose(passes.SelectOptions{Count: 2, Feed: all})
	if err != nil || trials != 7 {
		t.Fatalf("%v, %d trials, %v", two, trials, err)
	}
	for _, feed := range []*calib.Feed{all, nil} {
		for n := range 3 {
			got, err := choose(passes.SelectOptions{Count: n, Feed: feed})
			if err != nil || trials != 0 || !slices.Equal(got, two[:n]) {
				t.Errorf("%d of the order: %v after %d trials, %v", n, got, trials, err)
			}
		}
	}
	if _, err := choose(passes.SelectOptions{Count: 3}); err == nil || !strings.Contains(err.Error(), "needs data") {
		t.Errorf("more than the order has, without data: %v", err)
	}
	if _, err := choose(passes.SelectOptions{Count: 1, Drop: passes.DropOptions{Norm: passes.NormKept}}); err == nil {
		t.Error("the order of another norm is followed")
	}
	three, err := choose(passes.SelectOptions{Count: 3, Feed: all})
	if err != nil || trials != 2 || !slices.Equal(three[:2], two) {
		t.Errorf("one more than the order has: %v after %d trials, %v", three, trials, err)
	}
	fresh, err := passes.Select(ctx, m, passes.SelectOptions{Count: 3, By: passes.ByLoss, Feed: all})
	if err != nil || !slices.Equal(fresh, three) {
		t.Errorf("%v when it goes on, %v in one go, %v", three, fresh, err)
	}
	if _, err := choose(passes.SelectOptions{Count: 1, Feed: all.Slice(0, 3)}); err != nil || trials != 4 {
		t.Errorf("other samples: %d trials, %v", trials, err)
	}
	blocks, err := choose(passes.SelectOptions{Count: 1, Mode: passes.Block, Feed: all})
	if err != nil || trials != 2 || len(blocks) != 2 || blocks[0][1] != blocks[1][1] {
		t.Errorf("blocks: %v after %d trials, %v", blocks, trials, err)
	}
	if again, err := choose(passes.SelectOptions{Count: 1, Mode: passes.Block}); err != nil || trials != 0 || !slices.Equal(again, blocks) {
		t.Errorf("blocks again: %v after %d trials, %v", again, trials, err)
	}
	// A model that modules were dropped from has an order of its own.
	rest := m.Clone()
	drop(t, rest, passes.DropOptions{}, two[0])
	if _, err := passes.Select(ctx, rest, passes.SelectOptions{Count: 1, By: passes.ByLoss, Ledger: l}); err == nil {
		t.Error("the order of the original is followed in a model that was cut")
	}
}

// TestSelectIteratively scores anew after each drop, also where a drop takes
// inputs away.
func TestSelectIteratively(t *testing.T) {
	m := testmodels.LLaMA(testmodels.Size{Layers: 3, Seed: 1}, testmodels.LLaMAOptions{Cache: true})
	feed := bind(t, m, source(t, tokens("input_ids", 40, 8, 6)))
	for _, by := range []passes.Selector{passes.ByCosine, passes.ByAngular} {
		var steps []int
		o := passes.SelectOptions{Count: 4, By: by, Iterative: true, Feed: feed, Progress: func(done, total int) { steps = append(steps, done, total) }}
		got, err := passes.Select(ctx, m, o)
		if err != nil {
			t.Fatal(err)
		}
		work := m.Clone()
		var want []string
		for range 4 {
			l, err := calib.Score(ctx, work, bind(t, work, feed.Source()), calib.ScoreOptions{})
			if err != nil {
				t.Fatal(err)
			}
			ids, err := passes.Select(ctx, work, passes.SelectOptions{Count: 1, By: by, Ledger: l})
			if err != nil {
				t.Fatal(err)
			}
			drop(t, work, passes.DropOptions{}, ids...)
			want = append(want, ids...)
		}
		if !slices.Equal(got, want) || !slices.Equal(steps, []int{1, 4, 2, 4, 3, 4, 4, 4}) {
			t.Errorf("%s: %v, progress %v, want %v", by, got, steps, want)
		}
	}
}

// TestSelectStops: a selection that is cancelled ends.
func TestSelectStops(t *testing.T) {
	m := testmodels.GPT2(testmodels.Size{Layers: 2, Seed: 1}, testmodels.GPT2Options{})
	feed := bind(t, m, source(t, tokens("input_ids", 40, 4, 6)))
	for _, o := range []passes.SelectOptions{{By: passes.ByLoss}, {By: passes.ByCosine, Iterative: true}} {
		stop, cancel := context.WithCancel(ctx)
		o.Count, o.Feed = 2, feed
		o.Progress = func(int, int) { cancel() }
		_, err := passes.Select(stop, m, o)
		if err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
			t.Errorf("%s: %v", o.By, err)
		}
		cancel()
	}
}
