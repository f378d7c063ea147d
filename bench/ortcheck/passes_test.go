package ortcheck

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
	"github.com/onnx-lathe/lathe/calib/metric"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// What the rewrite to block-circulant operators writes runs in stock ONNX
// Runtime, from the function bodies, and our kernels and our run of the bodies
// agree with it: for every family and opset, and block sizes with and without
// fast kernels, also those that do not divide the layers.
func TestRewrittenModelsRunEverywhere(t *testing.T) {
	blocks := []int{2, 3, 8} // in turn, as ONNX Runtime takes long to load one
	for i, c := range testmodels.Cases() {
		block := blocks[i%len(blocks)]
		t.Run(fmt.Sprintf("%s/b=%d", c.Name, block), func(t *testing.T) {
			m, layers := c.Model(), 0
			rewrite := passes.RewriteCirculant(passes.CirculantOptions{
				Block: block, Fit: passes.FitFrobenius,
				Layer: func(passes.CirculantLayer) { layers++ },
			})
			if err := passes.Run(context.Background(), m, &passes.Journal{}, rewrite, passes.EliminateDeadCode()); err != nil {
				t.Fatal(err)
			}
			if layers == 0 { // those inside of functions and branches count
				t.Error("no layer is rewritten")
			}
			agree(t, m, inputs(t, c))
		})
	}
}

// Rewritten convolutions run in stock ONNX Runtime, in every form of the body:
// all attributes, one to three dims, channels that fill their blocks or not, in groups
// too, one sample and several.
func TestRewrittenConvolutionsRunEverywhere(t *testing.T) {
	for _, opset := range []int64{9, 10, 11, 12, 13, 17, 21} {
		for i, c := range []struct {
			n, channels, m, block int
			in, kernel            []int64
			attrs                 []*graph.Attr
		}{
			{1, 8, 8, 4, []int64{9, 7}, []int64{3, 3}, []*graph.Attr{graph.IntsAttr("pads", 1, 1, 1, 1)}},
			{2, 9, 6, 4, []int64{9, 7}, []int64{3, 2}, []*graph.Attr{graph.IntsAttr("strides", 2, 1), graph.IntsAttr("kernel_shape", 3, 2)}},
			{3, 5, 7, 2, []int64{5, 5}, []int64{1, 1}, nil},
			{1, 10, 9, 3, []int64{12, 8}, []int64{2, 2}, []*graph.Attr{graph.IntsAttr("dilations", 2, 1)}},
			{2, 16, 24, 8, []int64{20}, []int64{3}, []*graph.Attr{graph.IntsAttr("pads", 2, 1), graph.IntAttr("group", 1)}},
			{1, 6, 5, 4, []int64{11}, []int64{4}, []*graph.Attr{graph.StringAttr("auto_pad", "SAME_LOWER"), graph.IntsAttr("strides", 2)}},
			{1, 6, 5, 4, []int64{11, 6}, []int64{4, 3}, []*graph.Attr{graph.StringAttr("auto_pad", "SAME_UPPER"), graph.IntsAttr("strides", 2, 2)}},
			{2, 7, 8, 2, []int64{4, 5, 6}, []int64{2, 1, 3}, []*graph.Attr{graph.IntsAttr("pads", 0, 0, 1, 1, 0, 1)}},
			{1, 64, 64, 8, []int64{7, 6}, []int64{3, 3}, []*graph.Attr{graph.IntsAttr("pads", 1, 1, 1, 1), graph.IntAttr("group", 4)}},
			{2, 36, 30, 8, []int64{5, 6}, []int64{3, 3}, []*graph.Attr{graph.IntAttr("group", 3)}},
			{1, 14, 10, 4, []int64{9}, []int64{3}, []*graph.Attr{graph.IntsAttr("strides", 2), graph.IntAttr("group", 2)}},
		} {
			t.Run(fmt.Sprintf("%d/%d", opset, i), func(t *testing.T) {
				r := rand.New(rand.NewPCG(uint64(opset), uint64(i)))
				floats := func(n int64) []float32 {
					x := make([]float32, n)
					for i := range x {
						x[i] = float32(r.NormFloat64())
					}
					return x
				}
				product := func(dims ...int64) int64 {
					n := int64(1)
					for _, d := range dims {
						n *= d
					}
					return n
				}
				m := graph.NewModel("convolution", 8, opset)
				dims := []graph.Dim{graph.Symbol("N"), graph.Known(int64(c.channels))}
				for _, d := range c.in {
					dims = append(dims, graph.Known(d))
				}
				if i%2 == 1 { // as a picture of any size
					dims[2] = graph.Symbol("H")
				}
				x := m.Graph.AddInput("x", graph.TensorType(graph.Float32, dims...))
				group := 1
				for _, a := range c.attrs {
					if a.Name == "group" {
						group = int(a.I)
					}
				}
				wDims := append([]int64{int64(c.m), int64(c.channels / group)}, c.kernel...)
				w := m.Graph.AddInitializer("w", graph.Float32Tensor(wDims, floats(product(wDims...))))
				b := m.Graph.AddInitializer("b", graph.Float32Tensor([]int64{int64(c.m)}, floats(int64(c.m))))
				h := m.Graph.NewNode("", "Conv", "layer", []*graph.Value{x, w, b}, []string{"h"}, c.attrs...).Output(0)
				y := m.Graph.NewNode("", "Relu", "", []*graph.Value{h}, []string{"y"}).Output(0)
				m.Graph.AddOutput(y, &graph.Type{Kind: graph.KindTensor, Elem: graph.Float32})
				layers := 0
				o := passes.CirculantOptions{Block: c.block, Fit: passes.FitFrobenius, Layer: func(passes.CirculantLayer) { layers++ }}
				if err := passes.Run(context.Background(), m, &passes.Journal{}, passes.RewriteCirculant(o), passes.EliminateDeadCode()); err != nil {
					t.Fatal(err)
				}
				if layers != 1 {
					t.Fatal("not rewritten")
				}
				xDims := append([]int64{int64(c.n), int64(c.channels)}, c.in...)
				agree(t, m, map[string]nd.Array{"x": nd.Of(floats(product(xDims...)), xDims...)})
			})
		}
	}
}

// Convolutions in groups in fixed point, dense and block-circulant, give in stock ONNX
// Runtime, from the function bodies, what the kernels give, within the roundings of
// float32.
func TestGroupsInFixedPointRunEverywhere(t *testing.T) {
	for _, opset := range []int64{9, 10, 13, 21} {
		for _, c := range []struct{ groups, per, out, block int64 }{{4, 16, 16, 1}, {4, 16, 16, 8}, {3, 12, 10, 8}, {2, 7, 5, 4}} {
			t.Run(fmt.Sprintf("%d/%+v", opset, c), func(t *testing.T) {
				r := rand.New(rand.NewPCG(uint64(opset), uint64(c.per)))
				floats := func(n int64) []float32 {
					x := make([]float32, n)
					for i := range x {
						x[i] = float32(r.NormFloat64())
					}
					return x
				}
				m := graph.NewModel("convolution", 8, opset)
				x := m.Graph.AddInput("x", graph.TensorType(graph.Float32, graph.Symbol("N"), graph.Known(c.groups*c.per), graph.Known(6), graph.Known(5)))
				w := m.Graph.AddInitializer("w", graph.Float32Tensor([]int64{c.groups * c.out, c.per, 3, 3}, floats(c.groups*c.out*c.per*9)))
				b := m.Graph.AddInitializer("b", graph.Float32Tensor([]int64{c.groups * c.out}, floats(c.groups*c.out)))
				y := m.Graph.NewNode("", "Conv", "layer", []*graph.Value{x, w, b}, []string{"y"}, graph.IntAttr("group", c.groups), graph.IntsAttr("pads", 1, 1, 1, 1)).Output(0)
				m.Graph.AddOutput(y, &graph.Type{Kind: graph.KindTensor, Elem: graph.Float32})
				data := floats(4 * c.groups * c.per * 30)
				shape := []int{4, int(c.groups * c.per), 6, 5}
				list := []passes.Pass{passes.RewriteCirculant(passes.CirculantOptions{Block: int(c.block), Fit: passes.FitFrobenius, IncludeHead: true})}
				if c.block == 1 {
					list = nil
				}
				list = append(list, passes.QuantizeInt16(passes.QuantizeOptions{Feed: feedOf(t, testmodels.Case{Name: "x",
					Inputs: []*npz.Array{npz.Float32Array("x", shape, data)}, Model: func(...string) *graph.Model { return m }})}), passes.EliminateDeadCode())
				if err := passes.Run(context.Background(), m, &passes.Journal{}, list...); err != nil {
					t.Fatal(err)
				}
				want := map[bool]string{true: "ConvInt16", false: "BlockCirculantConvInt16"}[c.block == 1]
				if !slices.ContainsFunc(m.Graph.Nodes(), func(n *graph.Node) bool { return n.Op == want && n.Int("group", 1) == c.groups }) {
					t.Fatalf("no %s", want)
				}
				path := save(t, m)
				feeds, theirs := runTheirs(t, path, map[string]nd.Array{"x": nd.Of(data, 4, c.groups*c.per, 6, 5)})
				loaded, err := graph.Load(path)
				if err != nil {
					t.Fatal(err)
				}
				program, err := runtime.Compile(loaded, runtime.Options{})
				if err != nil {
					t.Fatal(err)
				}
				ours, err := program.NewSession(runtime.SessionOptions{}).Run(context.Background(), toTensors(feeds))
				if err != nil {
					t.Fatal(err)
				}
				db, err := metric.SQNR(ours["y"].Data().([]float32), theirs["y"].Data.([]float32))
				if err != nil || !(db > 75) { // a step in few of the outputs
					t.Errorf("%.1f dB, %v", db, err)
				}
				t.Logf("%.1f dB", db)
			})
		}
	}
}

// A model without one of its modules runs in stock ONNX Runtime and agrees
// with our runtime: for every family, every module that can be dropped, and
// both ways with the norm behind it. Where the norm goes too, it gives in ONNX
// Runtime what a new export without the module gives there.
func TestModelsWithoutAModuleRunEverywhere(t *testing.T) {
	for _, c := range testmodels.Cases() {
		found, err := modules.Find(c.Model())
		if err != nil {
			t.Fatal(err)
		}
		for _, mod := range found {
			if !mod.Droppable {
				continue
			}
			norms := []passes.Norm{passes.NormGone}
			if mod.Norm != nil {
				norms = append(norms, passes.NormKept)
			}
			for _, norm := range norms {
				t.Run(fmt.Sprintf("%s/%s/%s", c.Name, mod.ID, norm), func(t *testing.T) {
					m := c.Model()
					drop := passes.DropModules([]string{mod.ID}, passes.DropOptions{Norm: norm})
					if err := passes.Run(context.Background(), m, &passes.Journal{}, drop, passes.EliminateDeadCode()); err != nil {
						t.Fatal(err)
					}
					got := agree(t, m, inputs(t, c))
					if norm == passes.NormGone && c.Name != "demo" {
						_, want := runTheirs(t, save(t, c.Model(mod.ID)), inputs(t, c))
						maps.DeleteFunc(got, func(_ string, a nd.Array) bool { return slices.Contains(a.Shape, 0) })
						maps.DeleteFunc(want, func(_ string, a nd.Array) bool { return slices.Contains(a.Shape, 0) })
						compare(t, toTensors(got), want)
					}
				})
			}
		}
	}
}

// runTheirs runs a file in ONNX Runtime, as users do. Inputs that the model
// does not have are left out.
func runTheirs(t *testing.T, path string, all map[string]nd.Array) (feeds, out map[string]nd.Array) {
	t.Helper()
	s := open(t, path, ort.Options{})
	feeds = map[string]nd.Array{}
	for _, in := range s.Inputs {
		if a, ok := all[in.Name]; ok {
			feeds[in.Name] = a
		}
	}
	out, err := s.Run(feeds)
	if err != nil {
		t.Fatal(err)
	}
	return feeds, out
}

// agree runs a model in ONNX Runtime as users do, and with our kernels and
// function bodies, and compares all outputs, which it returns.
func agree(t *testing.T, m *graph.Model, all map[string]nd.Array) map[string]nd.Array {
	t.Helper()
	path := save(t, m)
	feeds, want := runTheirs(t, path, all)
	loaded, err := graph.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bodies := range []bool{false, true} {
		program, err := runtime.Compile(loaded, runtime.Options{Bodies: bodies})
		if err != nil && (strings.Contains(err.Error(), "com.microsoft") || strings.Contains(err.Error(), "opset 23")) {
			t.Logf("not compared with our runtime: %v", err)
			return want // operators that the runtime does not have yet
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := program.NewSession(runtime.SessionOptions{}).Run(context.Background(), toTensors(maps.Clone(feeds)))
		if err != nil {
			t.Fatal(err)
		}
		compare(t, got, want)
	}
	return want
}
