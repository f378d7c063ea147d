package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/testmodels"
)

// An original is a model as it comes, with inputs for it.
type original struct {
	name   string
	build  func() (*graph.Model, error)         // nil: the file
	file   string                               // in the folder models of LATHE_DATA
	set    string                               // in the folder sets of LATHE_DATA, whose first sample is the input
	array  map[string]string                    // the arrays of the set that inputs read under another name; nil: all, under their names
	inputs func(tokens int) map[string]nd.Array // where there is no set
	linear []size                               // its layers, where it is nothing but these
	sums   int                                  // multiply-adds of a run, where it is nothing but a convolution
	decode bool                                 // a run is one token, the last of the inputs, after a cache of the others
}

// A size is that of a layer from in to out features.
type size struct{ in, out int }

// linear is one layer, chain(n) n times 768 → 3072 → 768.
func linear(in, out int) original {
	return layers(fmt.Sprintf("%d → %d", in, out), 1, size{in, out})
}

// centred is a layer with inputs and weights of mean 0, as those after a norm
// have. In fixed point that matters: a mean is in bin 0 alone, the exponent of
// the products' spectrum is one for all bins, and so a mean as large as that of
// linear takes bits of all others.
func centred(in, out int) original {
	return layers(fmt.Sprintf("%d → %d, mean 0", in, out), 0, size{in, out})
}

func chain(n int) original {
	var list []size
	for range n {
		list = append(list, size{768, 3072}, size{3072, 768})
	}
	return layers(fmt.Sprintf("%d × (768 → 3072 → 768)", n), 1, list...)
}

// layers is one layer after the other, with inputs of a mean. The weights are
// that ÷ n and noise. A mean of 1 is what every block-circulant projection keeps,
// so that the values of a long chain stay near 1 whatever becomes of the noise.
func layers(name string, mean float64, list ...size) original {
	build := func() (*graph.Model, error) {
		m := graph.NewModel("layers", 8, 17)
		r := rand.New(rand.NewPCG(1, 2))
		free := graph.Symbol("T")
		x := m.Graph.AddInput("x", graph.TensorType(graph.Float32, free, graph.Known(int64(list[0].in))))
		for i, l := range list {
			w := noise(r, l.in*l.out, mean/float64(l.in), 0.5/math.Sqrt(float64(l.in)))
			v := m.Graph.AddInitializer(fmt.Sprintf("w%d", i), graph.Float32Tensor([]int64{int64(l.in), int64(l.out)}, w))
			x = m.Graph.NewNode("", "MatMul", fmt.Sprintf("layer%d", i), []*graph.Value{x, v}, []string{fmt.Sprintf("y%d", i)}).Output(0)
		}
		m.Graph.AddOutput(x, graph.TensorType(graph.Float32, free, graph.Known(int64(list[len(list)-1].out))))
		return m, nil
	}
	return original{name: name, build: build, linear: list, inputs: func(tokens int) map[string]nd.Array {
		r := rand.New(rand.NewPCG(3, 4))
		return map[string]nd.Array{"x": nd.Of(noise(r, tokens*list[0].in, mean, 1), int64(tokens), int64(list[0].in))}
	}}
}

// noise draws n numbers with that mean and deviation, uniformly.
func noise(r *rand.Rand, n int, mean, deviation float64) []float32 {
	scale := float32(2 * math.Sqrt(3) * deviation)
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(mean) + scale*(r.Float32()-0.5)
	}
	return x
}

var bertBase = original{
	name: "BERT-base",
	build: func() (*graph.Model, error) {
		// Few words: what an embedding table holds costs no time.
		return testmodels.BERT(testmodels.Size{Layers: 12, Width: 768, Heads: 12, Hidden: 3072, Vocab: 1000, Length: 512, Seed: 1},
			testmodels.BERTOptions{}), nil
	},
	inputs: func(tokens int) map[string]nd.Array {
		return map[string]nd.Array{"input_ids": words(1000, tokens), "attention_mask": ones(tokens), "token_type_ids": words(2, tokens)}
	},
}

var gpt2Base = original{
	name: "GPT-2-base",
	build: func() (*graph.Model, error) {
		m := testmodels.GPT2(testmodels.Size{Layers: 12, Width: 768, Heads: 12, Hidden: 3072, Vocab: 50257, Length: 1024, Seed: 1},
			testmodels.GPT2Options{Cache: true})
		return m, foldTransposes(m.Graph)
	},
	inputs: func(tokens int) map[string]nd.Array {
		return map[string]nd.Array{"input_ids": words(50257, tokens)}
	},
	decode: true,
}

// foldTransposes turns transposed weight matrices around, as exporters do.
func foldTransposes(g *graph.Graph) error {
	for _, n := range slices.Clone(g.Nodes()) {
		w := n.Input(0).ConstTensor()
		if !n.Is("Transpose") || w == nil || len(w.Dims) != 2 {
			continue
		}
		x, err := w.Float32s()
		if err != nil {
			return err
		}
		rows, cols := int(w.Dims[0]), int(w.Dims[1])
		turned := make([]float32, len(x))
		for i := range rows {
			for j := range cols {
				turned[j*rows+i] = x[i*cols+j]
			}
		}
		v := g.AddInitializer(g.FreshName(n.Input(0).Name+".T"), graph.Float32Tensor([]int64{w.Dims[1], w.Dims[0]}, turned))
		n.Output(0).ReplaceUses(v)
		g.Remove(n)
	}
	return nil
}

func words(limit, n int) nd.Array {
	r := rand.New(rand.NewPCG(7, 8))
	ids := make([]int64, n)
	for i := range ids {
		ids[i] = r.Int64N(int64(limit))
	}
	return nd.Of(ids, 1, int64(n))
}

func ones(n int) nd.Array {
	x := make([]int64, n)
	for i := range x {
		x[i] = 1
	}
	return nd.Of(x, 1, int64(n))
}

// mnist is the public network of two convolutions and two dense layers.
var mnist = original{name: "MNIST network", file: "cnn_mnist_pytorch.onnx", set: "mnist_eval.npz", array: map[string]string{"images": "0"}}

func public(name, file, set string) original { return original{name: name, file: file, set: set} }

var leNet = original{
	name: "LeNet, 28×28",
	build: func() (*graph.Model, error) {
		return testmodels.LeNet(testmodels.CNN{Image: 28, Width: 16, Opset: 17, Seed: 1}), nil
	},
	inputs: image(1, 28),
}

func image(channels, side int) func(int) map[string]nd.Array {
	return func(int) map[string]nd.Array {
		r := rand.New(rand.NewPCG(9, 10))
		return map[string]nd.Array{"image": nd.Of(noise(r, channels*side*side, 0, 1), 1, int64(channels), int64(side), int64(side))}
	}
}

// convolution is a layer with a bias and a Relu, with a padding that keeps the
// side of the image at stride 1.
func convolution(in, out, kernel, stride, side, group int) original {
	name := fmt.Sprintf("%d → %d, %d×%d, stride %d, %d×%d", in, out, kernel, kernel, stride, side, side)
	if group > 1 {
		name += fmt.Sprintf(", %d groups", group)
	}
	pad := int64(kernel / 2)
	result := (side+2*int(pad)-kernel)/stride + 1
	return original{name: name, sums: out * in / group * kernel * kernel * result * result, inputs: image(in, side),
		build: func() (*graph.Model, error) {
			n := &network{graph.NewModel("convolution", 8, 17), rand.New(rand.NewPCG(1, 2))}
			x := n.m.Graph.AddInput("image", graph.TensorType(graph.Float32, graph.Known(1), graph.Known(int64(in)), graph.Known(int64(side)), graph.Known(int64(side))))
			w := n.weight(1/math.Sqrt(float64(in/group*kernel*kernel)), int64(out), int64(in/group), int64(kernel), int64(kernel))
			k, s := int64(kernel), int64(stride)
			y := n.nodes("Conv", []*graph.Value{x, w, n.weight(0.1, int64(out))}, graph.IntsAttr("kernel_shape", k, k), graph.IntsAttr("pads", pad, pad, pad, pad),
				graph.IntsAttr("strides", s, s), graph.IntAttr("group", int64(group)))
			n.m.Graph.AddOutput(n.node("Relu", y), graph.TensorType(graph.Float32, graph.Known(1), graph.Known(int64(out)), graph.Known(int64(result)), graph.Known(int64(result))))
			return n.m, nil
		}}
}

// resNet18 has the shapes of He et al., Deep Residual Learning for Image
// Recognition, table 1, with batch normalization folded into the convolutions.
var resNet18 = original{
	name: "ResNet-18, 224×224",
	build: func() (*graph.Model, error) {
		n := &network{graph.NewModel("resnet18", 8, 17), rand.New(rand.NewPCG(1, 2))}
		x := n.m.Graph.AddInput("image", graph.TensorType(graph.Float32, graph.Known(1), graph.Known(3), graph.Known(224), graph.Known(224)))
		x = n.node("Relu", n.conv(x, 3, 64, 7, 2))
		x = n.node("MaxPool", x, graph.IntsAttr("kernel_shape", 3, 3), graph.IntsAttr("pads", 1, 1, 1, 1), graph.IntsAttr("strides", 2, 2))
		in := int64(64)
		for stage := range 4 {
			out := int64(64) << stage
			for block := range 2 {
				stride, skip := int64(1), x
				if stage > 0 && block == 0 {
					stride, skip = 2, n.conv(x, in, out, 1, 2)
				}
				y := n.conv(n.node("Relu", n.conv(x, in, out, 3, stride)), out, out, 3, 1)
				x, in = n.node("Relu", n.nodes("Add", []*graph.Value{y, skip})), out
			}
		}
		x = n.node("Flatten", n.node("GlobalAveragePool", x))
		x = n.nodes("Gemm", []*graph.Value{x, n.weight(1/math.Sqrt(512), 512, 1000), n.weight(0.1, 1000)})
		n.m.Graph.AddOutput(x, graph.TensorType(graph.Float32, graph.Known(1), graph.Known(1000)))
		return n.m, nil
	},
	inputs: image(3, 224),
}

// A network is a graph that is being written.
type network struct {
	m *graph.Model
	r *rand.Rand
}

func (n *network) nodes(op string, inputs []*graph.Value, attrs ...*graph.Attr) *graph.Value {
	name := n.m.Graph.FreshNodeName(op)
	return n.m.Graph.NewNode("", op, name, inputs, []string{name + "_out"}, attrs...).Output(0)
}

func (n *network) node(op string, x *graph.Value, attrs ...*graph.Attr) *graph.Value {
	return n.nodes(op, []*graph.Value{x}, attrs...)
}

func (n *network) weight(deviation float64, dims ...int64) *graph.Value {
	w := noise(n.r, nd.Size(dims), 0, deviation)
	return n.m.Graph.AddInitializer(n.m.Graph.FreshName("weight"), graph.Float32Tensor(dims, w))
}

func (n *network) conv(x *graph.Value, in, out, kernel, stride int64) *graph.Value {
	w := n.weight(1/math.Sqrt(float64(in*kernel*kernel)), out, in, kernel, kernel)
	pad := kernel / 2
	return n.nodes("Conv", []*graph.Value{x, w, n.weight(0.1, out)}, graph.IntsAttr("kernel_shape", kernel, kernel),
		graph.IntsAttr("pads", pad, pad, pad, pad), graph.IntsAttr("strides", stride, stride))
}

// load returns the original's model.
func (o original) load(data string) (*graph.Model, error) {
	if o.build != nil {
		return o.build()
	}
	return graph.Load(filepath.Join(data, "models", o.file))
}

// feed returns inputs for that many tokens.
func (o original) feed(data string, tokens int) (map[string]nd.Array, error) {
	if o.set == "" {
		return o.inputs(tokens), nil
	}
	arrays, err := nd.ReadNPZ(filepath.Join(data, "sets", o.set))
	if err != nil {
		return nil, err
	}
	for name, a := range arrays {
		if arrays[name], err = a.Rows(0, 1); err != nil {
			return nil, err
		}
	}
	if o.array == nil {
		return arrays, nil
	}
	named := map[string]nd.Array{}
	for name, input := range o.array {
		named[input] = arrays[name]
	}
	return named, nil
}

// ranges are the data that ranges of fixed point come from: the inputs of some
// tokens, or those of a run, as one sample.
func (o original) ranges(m *graph.Model, data string) (*calib.Feed, error) {
	inputs, err := o.feed(data, 64)
	if err != nil {
		return nil, err
	}
	arrays := map[string]tensor.Tensor{}
	for name, a := range inputs {
		arrays[name] = tensorOf(a)
	}
	source, err := calib.SourceFromTensors("ranges", arrays, calib.SourceOptions{})
	if err != nil {
		return nil, err
	}
	return source.Feed(m)
}

// change returns m with what the contender changes, by the passes that users
// have. Weights are fitted without data, since time does not depend on them.
func (c contender) change(ctx context.Context, o original, m *graph.Model, data string) (*graph.Model, error) {
	if c.variant() == (contender{}) {
		return m, nil
	}
	m = m.Clone()
	if c.bytes {
		return m, dynamicBytes(m.Graph)
	}
	var list []passes.Pass
	if c.drop {
		found, err := modules.Find(m)
		if err != nil {
			return nil, err
		}
		var ids []string
		for _, mod := range found[len(found)/2:][:len(found)/4] {
			ids = append(ids, mod.ID)
		}
		list = append(list, passes.DropModules(ids, passes.DropOptions{}))
	}
	if c.block > 0 {
		list = append(list, passes.RewriteCirculant(passes.CirculantOptions{
			Block: c.block, Fit: passes.FitFrobenius, IncludeTied: true, IncludeHead: true}))
	}
	if c.fixed {
		feed, err := o.ranges(m, data)
		if err != nil {
			return nil, err
		}
		list = append(list, passes.QuantizeInt16(passes.QuantizeOptions{Feed: feed}))
	}
	list = append(list, passes.EliminateDeadCode())
	var j passes.Journal
	err := passes.Run(ctx, m, &j, list...)
	return m, err
}

// dynamicBytes puts products with constant matrices into 8 bits as ONNX Runtime's
// dynamic quantization writes them: weights int8 with one scale, activations
// uint8 over the range that they have in a run. ONNX Runtime fuses the operators.
func dynamicBytes(g *graph.Graph) error {
	for _, n := range slices.Clone(g.Nodes()) {
		if !n.Is("MatMul") || n.Input(1).ConstTensor() == nil {
			continue
		}
		t := n.Input(1).ConstTensor()
		w, err := t.Float32s()
		if err != nil {
			return err
		}
		largest := float32(0)
		for _, v := range w {
			largest = max(largest, v, -v)
		}
		scale, raw := largest/127, make([]byte, len(w))
		for i, v := range w {
			raw[i] = byte(int8(math.RoundToEven(float64(v / scale))))
		}
		packed, errW := graph.NewTensor(graph.Int8, t.Dims, raw)
		zero, errZ := graph.NewTensor(graph.Int8, []int64{}, []byte{0})
		if err := errors.Join(errW, errZ); err != nil {
			return err
		}
		constant := func(what string, t *graph.Tensor) *graph.Value {
			return g.AddInitializer(g.FreshName(n.Name+what), t)
		}
		insert := func(op string, outputs int, inputs []*graph.Value, attrs ...*graph.Attr) []*graph.Value {
			var names []string
			for i := range outputs {
				names = append(names, g.FreshName(fmt.Sprintf("%s_%s%d", n.Name, op, i)))
			}
			m := g.InsertBefore(n, "", op, g.FreshNodeName(op), inputs, names, attrs...)
			return m.Outputs()
		}
		x := insert("DynamicQuantizeLinear", 3, []*graph.Value{n.Input(0)})
		sums := insert("MatMulInteger", 1, []*graph.Value{x[0], constant("_int8", packed), x[2], constant("_zero", zero)})
		float := insert("Cast", 1, sums, graph.IntAttr("to", int64(graph.Float32)))
		scales := insert("Mul", 1, []*graph.Value{x[1], constant("_scale", graph.Float32Tensor([]int64{1}, []float32{scale}))})
		y := insert("Mul", 1, []*graph.Value{float[0], scales[0]})[0]
		old := n.Output(0)
		if old.ReplaceUses(y); old.IsOutput() {
			g.ReplaceOutput(old, y)
		}
		g.Remove(n)
	}
	return nil
}
