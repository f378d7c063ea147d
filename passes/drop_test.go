package passes_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// modulesOf are the modules of a model that can be dropped.
func modulesOf(t testing.TB, m *graph.Model) []modules.Module {
	t.Helper()
	list, err := modules.Find(m)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list, func(x modules.Module) bool { return !x.Droppable })
}

func idsOf(list []modules.Module) []string {
	out := []string{}
	for _, x := range list {
		out = append(out, x.ID)
	}
	return out
}

func drop(t testing.TB, m *graph.Model, o passes.DropOptions, ids ...string) {
	t.Helper()
	if err := passes.Run(ctx, m, &passes.Journal{}, passes.DropModules(ids, o)); err != nil {
		t.Fatalf("without %v: %v", ids, err)
	}
}

// cases are the test models with droppable modules, one of each family and
// with their inputs.
func cases(t *testing.T) []testmodels.Case {
	var out []testmodels.Case
	for _, c := range testmodels.Cases() {
		m := c.Model()
		if _, err := runtime.Compile(m, runtime.Options{}); err == nil && len(modulesOf(t, m)) > 0 {
			out = append(out, c)
		}
	}
	if len(out) < 10 {
		t.Fatalf("%d test models with droppable modules", len(out))
	}
	return out
}

func feedsOf(t testing.TB, list []*npz.Array) map[string]tensor.Tensor {
	t.Helper()
	out := map[string]tensor.Tensor{}
	for _, a := range list {
		dims := make([]int64, len(a.Shape))
		for i, d := range a.Shape {
			dims[i] = int64(d)
		}
		g, err := graph.NewTensor(a.DType, dims, a.Raw)
		if err != nil {
			t.Fatal(err)
		}
		x, err := runtime.FromGraphTensor(g)
		if err != nil {
			t.Fatal(err)
		}
		if out[a.Name], err = x.Dense(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// width is the number of features of a model's stream.
func width(t testing.TB, m *graph.Model) int {
	t.Helper()
	if err := graph.Infer(m); err != nil {
		t.Fatal(err)
	}
	dims := modulesOf(t, m)[0].Stream.Type().Shape.Dims
	return int(dims[len(dims)-1].N)
}

// mean is a made-up mean update of a module.
func mean(id string, width int, over string) []float64 {
	r := rand.New(rand.NewPCG(uint64(id[0])<<8|uint64(id[1]), uint64(len(over))))
	v := make([]float64, width)
	for i := range v {
		v[i] = r.NormFloat64() / 4
	}
	return v
}

// silence is a model that computes what the drop of one module has to: the
// branch times zero (plus the mean update) in the branch's place; where the
// norm goes, the value behind it times zero plus the stream before.
func silence(t *testing.T, m *graph.Model, id string, o passes.DropOptions) *graph.Model {
	t.Helper()
	m = m.Clone()
	find := func() modules.Module {
		list := modulesOf(t, m)
		return list[slices.Index(idsOf(list), id)]
	}
	x := find()
	if x.Call != nil {
		if err := modules.Inline(m, x.Call); err != nil {
			t.Fatal(err)
		}
		x = find()
	}
	for y := &x; y != nil; y = y.Twin {
		silenceOne(t, m, y, o)
	}
	return m
}

func silenceOne(t *testing.T, m *graph.Model, x *modules.Module, o passes.DropOptions) {
	t.Helper()
	g := x.Join.Node.Graph()
	constant := func(name string, v ...float64) *graph.Value {
		f := make([]float32, len(v))
		for i := range v {
			f[i] = float32(v[i])
		}
		return m.Graph.AddInitializer(g.FreshName(name), graph.Float32Tensor([]int64{int64(len(v))}, f))
	}
	node := func(op string, in ...*graph.Value) *graph.Value {
		return g.NewNode("", op, "", in, []string{g.FreshName("test_" + op)}).Output(0)
	}
	gone := x.Norm != nil && o.Norm == passes.NormGone
	value, readers := x.Branch, []graph.Use{x.Join}
	if gone {
		value, readers = x.Norm.Out, slices.Clone(x.Norm.Out.Uses())
	}
	with := node("Mul", value, constant("zero", 0))
	if gone {
		with = node("Add", with, x.Stream)
	}
	if o.Recover == passes.RecoverMean {
		branch, unit, _ := o.Means(x.ID)
		if gone {
			branch = unit
		}
		with = node("Add", with, constant("mean", branch...))
	}
	for _, u := range readers {
		u.Node.SetInput(u.Index, with)
	}
	if gone {
		g.ReplaceOutput(value, with)
	}
	if n := x.Join.Node; n.Op == "SkipLayerNormalization" && !gone && len(n.Inputs()) > 4 {
		n.SetInput(4, nil) // the bias of the branch's last layer
	}
	if err := g.Sort(); err != nil {
		t.Fatal(err)
	}
}

// TestDropMeansSilence: a model without a module gives what the model gives
// with the module's branch made zero, or its mean update.
func TestDropMeansSilence(t *testing.T) {
	for _, c := range cases(t) {
		feeds := feedsOf(t, c.Inputs)
		width := width(t, c.Model())
		means := func(id string) ([]float64, []float64, bool) {
			return mean(id, width, "branch"), mean(id, width, "norm"), true
		}
		for k, o := range []passes.DropOptions{{}, {Norm: passes.NormKept}, {Norm: passes.NormGone, Recover: passes.RecoverMean, Means: means},
			{Norm: passes.NormKept, Recover: passes.RecoverMean, Means: means}} {
			original := c.Model()
			if o.Norm == "" {
				o.Norm = passes.NormGone
			}
			for i, x := range modulesOf(t, original) {
				if (i+k)%2 == 1 { // every module in two of the four ways
					continue
				}
				m := original.Clone()
				drop(t, m, o, x.ID)
				want := run(t, silence(t, original, x.ID, o), feeds, runtime.Options{})
				got := run(t, m, feeds, runtime.Options{})
				n := len(slices.DeleteFunc(slices.Clone(x.Caches), func(c modules.Cache) bool { return c.Present == nil }))
				if len(got) != len(want)-n {
					t.Errorf("%s without %s: %d outputs of %d with %d caches", c.Name, x.ID, len(got), len(want), n)
				}
				for name, v := range got {
					if d := difference(t, name, v, want[name]); !(d <= rounding) {
						t.Errorf("%s without %s, norm %s, recover %s: output %q differs by %g", c.Name, x.ID, o.Norm, o.Recover, name, d)
					}
				}
			}
		}
	}
}

// TestDropEverySubset drops every set of modules of one model of each kind:
// the model stays whole, those that are left are found under their ids, and
// what a set needs of caches is said in words.
func TestDropEverySubset(t *testing.T) {
	for _, c := range []struct {
		name  string
		model func(s testmodels.Size) *graph.Model
	}{
		{"bert", func(s testmodels.Size) *graph.Model { return testmodels.BERT(s, testmodels.BERTOptions{}) }},
		{"gpt2", func(s testmodels.Size) *graph.Model { return testmodels.GPT2(s, testmodels.GPT2Options{}) }},
		{"llama with a cache", func(s testmodels.Size) *graph.Model {
			return testmodels.LLaMA(s, testmodels.LLaMAOptions{Cache: true})
		}},
		{"gpt2 with a cache", func(s testmodels.Size) *graph.Model {
			return testmodels.GPT2(s, testmodels.GPT2Options{Cache: true})
		}},
		{"neox", func(s testmodels.Size) *graph.Model {
			return testmodels.NeoX(s, testmodels.NeoXOptions{SharedNorm: true})
		}},
		{"t5", func(s testmodels.Size) *graph.Model { s.Layers = 1; return testmodels.T5(s) }},
	} {
		original := c.model(testmodels.Size{Layers: 3, Width: 4, Heads: 2, KVHeads: 1, Hidden: 4, Vocab: 8, Seed: 1})
		all := idsOf(modulesOf(t, original))
		refused := 0
		for set := range 1 << len(all) {
			var gone, left []string
			for i, id := range all {
				if set>>i&1 == 1 {
					gone = append(gone, id)
				} else {
					left = append(left, id)
				}
			}
			m := original.Clone()
			norm := []passes.Norm{passes.NormGone, passes.NormKept}[set%2]
			err := passes.Run(ctx, m, &passes.Journal{}, passes.DropModules(gone, passes.DropOptions{Norm: norm}))
			if err != nil {
				// Positions are counted by a cache: one has to stay.
				if c.name == "gpt2 with a cache" && !slices.ContainsFunc(left, func(id string) bool { return id[0] == 'A' }) &&
					strings.Contains(err.Error(), "keep one more attention") {
					refused++
					continue
				}
				t.Fatalf("%s without %v: %v", c.name, gone, err)
			}
			if slices.Contains(gone, "X1") { // then nothing reads the encoder
				left = slices.DeleteFunc(left, func(id string) bool { return id[1] == '0' })
			}
			if got := idsOf(modulesOf(t, m)); !slices.Equal(got, left) && len(left)+len(got) > 0 {
				t.Errorf("%s without %v: %v are left, want %v", c.name, gone, got, left)
			}
			if len(gone) > 0 && m.Parameters() >= original.Parameters() {
				t.Errorf("%s without %v: %d parameters of %d", c.name, gone, m.Parameters(), original.Parameters())
			}
		}
		if want := map[bool]int{true: 8}[c.name == "gpt2 with a cache"]; refused != want {
			t.Errorf("%s: %d sets refused, want %d", c.name, refused, want)
		}
	}
}

// TestDropInSteps: modules dropped one after the other leave the model that
// they leave when they are dropped at once, and the ids of the original.
func TestDropInSteps(t *testing.T) {
	for _, c := range cases(t) {
		list := idsOf(modulesOf(t, c.Model()))
		gone := []string{list[0], list[len(list)/2], list[len(list)-1]}
		width := width(t, c.Model())
		for _, norm := range []passes.Norm{passes.NormGone, passes.NormKept} {
			o := passes.DropOptions{Norm: norm, Recover: passes.RecoverMean, Means: func(id string) ([]float64, []float64, bool) {
				return mean(id, width, "branch"), mean(id, width, "norm"), true
			}}
			once, steps := c.Model(), c.Model()
			drop(t, once, o, gone...)
			for _, id := range gone {
				drop(t, steps, o, id)
			}
			if a, b := once.Text(), steps.Text(); a != b {
				t.Errorf("%s without %v, norm %s: at once\n%s\nin steps\n%s", c.Name, gone, norm, a, b)
			}
			h, err := modules.ReadHistory(steps)
			if err != nil {
				t.Fatal(err)
			}
			if h.Original != c.Model().Fingerprint() || len(h.Dropped) != 3 {
				t.Errorf("%s: history %+v", c.Name, h)
			}
		}
	}
}

// TestDropKeepsInterface: nothing of the model's interface changes but the
// caches of what was dropped.
func TestDropKeepsInterface(t *testing.T) {
	for _, c := range cases(t) {
		original := c.Model()
		for _, x := range modulesOf(t, original) {
			m := original.Clone()
			drop(t, m, passes.DropOptions{}, x.ID)
			var gone []string
			for _, k := range x.Caches {
				for _, v := range []*graph.Value{k.Past, k.Present} {
					if v != nil {
						gone = append(gone, v.Name)
					}
				}
			}
			names := func(m *graph.Model) (out []string) {
				for _, v := range append(slices.Clone(m.Graph.Inputs()), m.Graph.Outputs()...) {
					if !slices.Contains(gone, v.Name) {
						out = append(out, fmt.Sprint(v.Name, ": ", v.Declared))
					}
				}
				return out
			}
			if a, b := names(m), names(original); !slices.Equal(a, b) {
				t.Errorf("%s without %s: the interface is %v, was %v", c.Name, x.ID, a, b)
			}
		}
	}
}

// TestMeansOfAnother: mean updates that are missing or of no use.
func TestMeansAreNeeded(t *testing.T) {
	m := testmodels.BERT(testmodels.Size{Seed: 1}, testmodels.BERTOptions{})
	for _, c := range []struct {
		means func(id string) ([]float64, []float64, bool)
		norm  passes.Norm
		want  string
	}{
		{nil, passes.NormKept, "no mean updates are known"},
		{func(string) ([]float64, []float64, bool) { return nil, nil, false }, passes.NormKept, "has no mean update of it"},
		{func(string) ([]float64, []float64, bool) { return make([]float64, 32), nil, true }, passes.NormGone, "has no mean update of it"},
		{func(string) ([]float64, []float64, bool) { return make([]float64, 31), nil, true }, passes.NormKept, "31 features, the stream 32"},
	} {
		err := passes.Run(ctx, m.Clone(), &passes.Journal{}, passes.DropModules([]string{"M1"}, passes.DropOptions{Norm: c.norm, Recover: passes.RecoverMean, Means: c.means}))
		if err == nil || !strings.Contains(err.Error(), "drop-modules: module M1: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	for _, o := range []passes.DropOptions{{Norm: "away"}, {Recover: "all"}} {
		if err := passes.Run(ctx, m.Clone(), &passes.Journal{}, passes.DropModules([]string{"M1"}, o)); err == nil {
			t.Errorf("no error for %+v", o)
		}
	}
}
