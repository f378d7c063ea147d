package calib

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// FixedLayer is a layer of a model that another computes in 16-bit fixed point:
// the values of the first that it reads and gives, those of the second, and
// their exponents.
type FixedLayer struct {
	Node              string
	In, Out           string
	Int16In, Int16Out string
	ExponentX         int
	ExponentsY        []int // one, or one for every channel of the output
}

// LayerNoise is the signal to quantization-noise ratio of one layer in decibel,
// over all samples.
type LayerNoise struct {
	Operator float64 // of its output, against the float operator on the same dequantised input
	Input    float64 // of its input, against the original model's
	Output   float64 // of its output, against the original model's
}

// noise sums up signal and noise.
type noise struct{ signal, noise float64 }

func (n *noise) add(a, b float64) {
	n.signal += a * a
	n.noise += (a - b) * (a - b)
}

func (n *noise) db() float64 {
	if n.noise == 0 {
		return math.Inf(1)
	}
	return 10 * math.Log10(n.signal/n.noise)
}

// MeasureLayers runs a model and the one that QuantizeInt16 made of it over the
// data and returns the noise of every layer. Of o it uses Batch, Threads, Limit
// and Progress.
func MeasureLayers(ctx context.Context, original, quantized *graph.Model, layers []FixedLayer, src *Source, o EvalOptions) ([]LayerNoise, error) {
	fail := func(err error) ([]LayerNoise, error) { return nil, fmt.Errorf("layers: %w", err) }
	if len(layers) == 0 {
		return fail(errors.New("the model has none in fixed point; give the output of lathe quantize after the model that it was made of"))
	}
	type operator struct {
		session *runtime.Session
		in, out string
	}
	var ops []operator
	var names, int16Names []string
	note := func(list *[]string, name string) {
		if !slices.Contains(*list, name) {
			*list = append(*list, name)
		}
	}
	for _, l := range layers {
		part, err := original.Extract([]string{l.In}, []string{l.Out})
		if err != nil {
			return fail(fmt.Errorf("layer %q: %w", l.Node, err))
		}
		// A part may take any number of rows.
		for _, v := range part.Graph.Inputs() {
			if t := v.Type(); t != nil && t.Shape != nil {
				v.Declared = graph.TensorType(graph.Float32, slices.Repeat([]graph.Dim{graph.UnknownDim}, len(t.Shape.Dims))...)
			}
		}
		prog, err := runtime.Compile(part, runtime.Options{})
		if err != nil {
			return fail(fmt.Errorf("layer %q: %w", l.Node, err))
		}
		ops = append(ops, operator{prog.NewSession(runtime.SessionOptions{Threads: o.Threads}), l.In, l.Out})
		note(&names, l.In)
		note(&names, l.Out)
		note(&int16Names, l.Int16In)
		note(&int16Names, l.Int16Out)
	}
	open := func(m *graph.Model, names []string) (*runtime.Session, *Feed, error) {
		prog, err := src.compile(m, [][]string{names})
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", m.Path(), err)
		}
		feed, err := src.Bind(prog.Inputs())
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", m.Path(), err)
		}
		return prog.NewSession(runtime.SessionOptions{Threads: o.Threads}), feed.Spread(o.Limit), nil
	}
	before, feed, err := open(original, names)
	if err != nil {
		return fail(err)
	}
	after, _, err := open(quantized, int16Names)
	if err != nil {
		return fail(err)
	}
	var operators, inputs, outputs = make([]noise, len(layers)), make([]noise, len(layers)), make([]noise, len(layers))
	err = Batches(ctx, feed, o.Batch, o.Progress, func(_, _ int, in map[string]tensor.Tensor) error {
		floats, ints := map[string][]float32{}, map[string]*runtime.Tensor{}
		if _, err := before.RunProbed(ctx, in, func(_ int, v []*runtime.Tensor) error {
			for i, name := range names {
				if v[i].DType != graph.Float32 {
					return fmt.Errorf("value %q is %v, want float", name, v[i].DType)
				}
				floats[name] = slices.Clone(v[i].F32())
			}
			return nil
		}); err != nil {
			return err
		}
		if _, err := after.RunProbed(ctx, in, func(_ int, v []*runtime.Tensor) error {
			for i, name := range int16Names {
				if v[i].DType != graph.Int16 {
					return fmt.Errorf("value %q is %v, want int16", name, v[i].DType)
				}
				ints[name] = runtime.FromSlice(slices.Clone(v[i].Shape), slices.Clone(v[i].I16()))
			}
			return nil
		}); err != nil {
			return err
		}
		for i, l := range layers {
			x, y := ints[l.Int16In], ints[l.Int16Out].I16()
			wide := make([]float32, x.Len())
			for k, v := range x.I16() {
				wide[k] = float32(math.Ldexp(float64(v), l.ExponentX))
			}
			if len(wide) != len(floats[l.In]) || len(y) != len(floats[l.Out]) {
				return fmt.Errorf("layer %q has other shapes in the two models", l.Node)
			}
			for k, v := range wide {
				inputs[i].add(float64(floats[l.In][k]), float64(v))
			}
			dense, err := runtime.FromSlice(x.Shape, wide).Dense()
			if err != nil {
				return err
			}
			out, err := ops[i].session.Run(ctx, map[string]tensor.Tensor{l.In: dense})
			if err != nil {
				return fmt.Errorf("layer %q: %w", l.Node, err)
			}
			want, err := runtime.FromDense(out[l.Out])
			if err != nil {
				return err
			}
			for k, v := range y {
				got := math.Ldexp(float64(v), l.ExponentsY[k%len(l.ExponentsY)])
				operators[i].add(float64(want.F32()[k]), got)
				outputs[i].add(float64(floats[l.Out][k]), got)
			}
		}
		return nil
	})
	if err != nil {
		return fail(err)
	}
	list := make([]LayerNoise, len(layers))
	for i := range list {
		list[i] = LayerNoise{operators[i].db(), inputs[i].db(), outputs[i].db()}
	}
	return list, nil
}
