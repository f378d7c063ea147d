package main

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"strings"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/runtime/circulant"
	"github.com/onnx-lathe/lathe/runtime/generate"
)

// A side is a way to run models.
type side struct {
	name string // heads a column
	open func(ctx context.Context, job job) (runnable, error)
}

// A job is a model, the size of its layers where it is nothing but these, and
// inputs for it.
type job struct {
	model  *graph.Model
	linear []size
	block  int // of the block-circulant weights; 0: dense
	inputs map[string]nd.Array
	decode bool   // a run is the last of the tokens, after a cache of the others
	dir    string // for files
}

// A runnable is a job on a side, ready to run again and again.
type runnable struct {
	run     func() error
	outputs func() (map[string]nd.Array, error) // of a run like that
	close   func()
}

// ortSide is ONNX Runtime with one thread, all optimizations, and inputs and
// outputs in place. Where it decodes, the cache is among them: a run reads the
// pasts and writes the presents, which would be bound as the next step's pasts.
func ortSide() side {
	return side{"ONNX Runtime", func(_ context.Context, j job) (runnable, error) {
		s, err := openORT(j)
		if err != nil {
			return runnable{}, err
		}
		inputs := j.inputs
		if j.decode {
			if inputs, err = lastStep(j); err != nil {
				s.Close()
				return runnable{}, err
			}
		}
		b, err := s.Bind(inputs)
		if err != nil {
			s.Close()
			return runnable{}, err
		}
		outputs := b.Outputs
		if j.decode {
			outputs = func() (map[string]nd.Array, error) {
				all, err := b.Outputs()
				return map[string]nd.Array{"logits": all["logits"]}, err
			}
		}
		return runnable{b.Run, outputs, func() {
			b.Close()
			s.Close()
		}}, nil
	}}
}

// lastStep returns the inputs of the step that decodes the last token: pasts
// are those that all other tokens leave. They come from lathe's runtime, since
// the binding of ONNX Runtime takes no empty cache to begin with.
func lastStep(j job) (map[string]nd.Array, error) {
	p, err := runtime.Compile(j.model, runtime.Options{})
	if err != nil {
		return nil, err
	}
	ids := j.inputs["input_ids"].Data.([]int64)
	n := len(ids) - 1
	feeds := map[string]tensor.Tensor{
		"input_ids":      tensor.New(tensor.WithShape(1, n), tensor.WithBacking(ids[:n])),
		"attention_mask": tensor.New(tensor.WithShape(1, n), tensor.WithBacking(ones(n).Data)),
	}
	step := map[string]nd.Array{"input_ids": nd.Of(ids[n:], 1, 1), "attention_mask": ones(n + 1)}
	for _, port := range p.Inputs() {
		if strings.HasPrefix(port.Name, "past_") {
			d := port.Shape.Dims
			feeds[port.Name] = tensor.New(tensor.WithShape(1, int(d[1].N), 0, int(d[3].N)), tensor.WithBacking([]float32{}))
		}
	}
	out, err := p.NewSession(runtime.SessionOptions{}).Run(context.Background(), feeds)
	if err != nil {
		return nil, err
	}
	arrays, err := arraysOf(out)
	for name, a := range arrays {
		if part, ok := strings.CutPrefix(name, "present."); ok {
			step["past_key_values."+part] = a
		}
	}
	return step, err
}

func openORT(j job) (*ort.Session, error) {
	data, err := j.model.Encode()
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(j.dir, "*.onnx")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return nil, err
	}
	return ort.Open(f.Name(), ort.Options{Threads: 1})
}

// latheSide is a session of lathe's runtime, with inputs and outputs in place;
// or, where it decodes, a decoder, which keeps its cache itself.
func latheSide(threads int) side {
	name := "lathe"
	if threads > 1 {
		name = fmt.Sprintf("lathe, %d threads", threads)
	}
	return side{name, func(ctx context.Context, j job) (runnable, error) {
		if j.decode {
			return decoder(ctx, j, threads)
		}
		p, err := runtime.Compile(j.model, runtime.Options{})
		if err != nil {
			return runnable{}, err
		}
		s := p.NewSession(runtime.SessionOptions{Threads: threads})
		feeds := map[string]tensor.Tensor{}
		for _, port := range p.Inputs() {
			a, ok := j.inputs[port.Name]
			if !ok {
				return runnable{}, fmt.Errorf("no array for input %q", port.Name)
			}
			feeds[port.Name] = tensorOf(a)
		}
		out := map[string]tensor.Tensor{}
		run := func() error { return s.RunInto(ctx, feeds, out) }
		outputs := func() (map[string]nd.Array, error) {
			if err := run(); err != nil {
				return nil, err
			}
			return arraysOf(out)
		}
		return runnable{run, outputs, func() {}}, nil
	}}
}

// decoder reads all tokens but the last; a run reads that and forgets it again.
func decoder(ctx context.Context, j job, threads int) (runnable, error) {
	d, err := generate.New(j.model, generate.Options{Threads: threads})
	if err != nil {
		return runnable{}, err
	}
	var prompt []int
	for _, id := range j.inputs["input_ids"].Data.([]int64) {
		prompt = append(prompt, int(id))
	}
	n := len(prompt) - 1
	if _, err := d.Next(ctx, prompt[:n]...); err != nil {
		return runnable{}, err
	}
	step := func() ([]float32, error) {
		logits, err := d.Next(ctx, prompt[n])
		if err == nil {
			err = d.Truncate(n)
		}
		return logits, err
	}
	run := func() error {
		_, err := step()
		return err
	}
	outputs := func() (map[string]nd.Array, error) {
		logits, err := step()
		return map[string]nd.Array{"logits": nd.Of(logits, 1, 1, int64(len(logits)))}, err
	}
	return runnable{run, outputs, func() {}}, nil
}

// tensorOf is an array as lathe's runtime takes it, without copying.
func tensorOf(a nd.Array) tensor.Tensor {
	shape := make([]int, len(a.Shape))
	for i, d := range a.Shape {
		shape[i] = int(d)
	}
	return tensor.New(tensor.WithShape(shape...), tensor.WithBacking(a.Data))
}

func arraysOf(out map[string]tensor.Tensor) (map[string]nd.Array, error) {
	arrays := map[string]nd.Array{}
	for name, t := range out {
		a := nd.Array{Data: t.Data()}
		for _, d := range t.Shape() {
			a.Shape = append(a.Shape, int64(d))
		}
		if reflect.TypeOf(a.Data).Kind() != reflect.Slice {
			return nil, fmt.Errorf("output %q is a %T", name, a.Data)
		}
		arrays[name] = a
	}
	return arrays, nil
}

// kernelSide is the bare kernel of a single layer, with weights prepared and
// everything in place.
func kernelSide() side {
	return side{"kernel", func(_ context.Context, j job) (runnable, error) {
		if len(j.linear) != 1 {
			return runnable{}, fmt.Errorf("a kernel runs one layer")
		}
		k, err := simd.For(simd.Auto)
		if err != nil {
			return runnable{}, err
		}
		memory := new(simd.Store)
		k = k.With(memory)
		l, x := j.linear[0], j.inputs["x"].Data.([]float32)
		tokens := len(x) / l.in
		y := memory.Get(tokens * l.out)
		var run func()
		if j.block == 0 {
			w, err := weights(j.model, "MatMul", 1)
			if err != nil {
				return runnable{}, err
			}
			b := k.PackB(simd.RowMajor(w, l.out), l.in, l.out)
			run = func() { k.Gemm(y, l.out, simd.RowMajor(x, l.in), tokens, b, nil, false) }
		} else {
			m, err := circulant.New(l.out, l.in, j.block)
			if err != nil {
				return runnable{}, err
			}
			if m.W, err = weights(j.model, "BlockCirculantMatMul", 1); err != nil {
				return runnable{}, err
			}
			o, err := circulant.NewOperator(m, nil, k)
			if err != nil {
				return runnable{}, err
			}
			ws := memory.Get(o.Workspace())
			run = func() { o.Apply(y, l.out, x, l.in, tokens, ws) }
		}
		return runnable{
			run: func() error {
				run()
				return nil
			},
			outputs: func() (map[string]nd.Array, error) {
				run()
				return map[string]nd.Array{j.model.Graph.Outputs()[0].Name: nd.Of(y, int64(tokens), int64(l.out))}, nil
			},
			close: func() {},
		}, nil
	}}
}

// weights is a constant input of the first node of an operator.
func weights(m *graph.Model, op string, input int) ([]float32, error) {
	for _, n := range m.Graph.Nodes() {
		if n.Op == op {
			if t := n.Input(input).ConstTensor(); t != nil {
				return t.Float32s()
			}
		}
	}
	return nil, fmt.Errorf("the model has no %s with constant weights", op)
}
