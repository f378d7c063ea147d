package calib

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// BodySteps is how far the function body of an operator in 16-bit fixed point is from
// its kernel, in steps of the output, where both have the same inputs.
type BodySteps struct {
	Node, Op    string
	Values, Off int64 // in all, and those that differ
	Most        int   // steps
	// Limit is what the roundings of a body explain. A sum in float32 may lie on the
	// other side of a half. Transforms of bodies have twiddles of 15 bits once, those of
	// kernels at every stage, which is up to b/4 steps more of full spectra.
	Limit int
}

// Int16Bodies lists the nodes of the main graph whose function bodies imitate an
// operator with outputs in 16-bit fixed point. Bodies do not imitate other roundings
// than the one that is the default.
func Int16Bodies(m *graph.Model) []*graph.Node {
	var out []*graph.Node
	for _, n := range m.Graph.Nodes() {
		if Int16Body(m.Function(n.Domain, n.Op, n.Overload)) && n.Str("rounding", "once") == "once" && n.Output(0) != nil {
			out = append(out, n)
		}
	}
	return out
}

// Int16Body reports whether f is the body of an operator with outputs in 16-bit fixed
// point: one that rounds.
func Int16Body(f *graph.Function) bool {
	return f != nil && f.Domain == graph.LatheDomain && strings.HasSuffix(f.Name, "Int16") && f.Name != "DequantizeInt16"
}

// MeasureBodies runs a model over the data, and the bodies of Int16Bodies on the
// inputs that each operator has there. Of o it uses Batch, Threads, Limit and
// Progress.
func MeasureBodies(ctx context.Context, m *graph.Model, src *Source, o EvalOptions) ([]BodySteps, error) {
	fail := func(err error) ([]BodySteps, error) { return nil, fmt.Errorf("bodies: %w", err) }
	nodes := Int16Bodies(m)
	steps := make([]BodySteps, len(nodes))
	bodies := make([]*runtime.Session, len(nodes))
	probes := make([][]string, len(nodes)) // the inputs of the node and its output
	for i, n := range nodes {
		steps[i] = BodySteps{Node: n.Name, Op: n.Op, Limit: 1}
		if w := n.Input(1).ConstTensor(); strings.HasPrefix(n.Op, "BlockCirculant") && w != nil && len(w.Dims) > 2 {
			steps[i].Limit = 2 + int(w.Dims[2]/4)
		}
		for _, v := range n.Inputs() {
			if v != nil && v.ConstTensor() == nil && !slices.Contains(probes[i], v.Name) {
				probes[i] = append(probes[i], v.Name)
			}
		}
		part, err := m.Extract(probes[i], []string{n.Output(0).Name})
		if err != nil {
			return fail(fmt.Errorf("%v: %w", n, err))
		}
		for _, v := range part.Graph.Inputs() { // of any size
			if t := v.Type(); t != nil && t.Shape != nil {
				v.Declared = graph.TensorType(t.Elem, slices.Repeat([]graph.Dim{graph.UnknownDim}, len(t.Shape.Dims))...)
			}
		}
		limits := src.Runtime()
		limits.Bodies = true
		prog, err := runtime.Compile(part, limits)
		if err != nil {
			return fail(fmt.Errorf("%v: %w", n, err))
		}
		bodies[i] = prog.NewSession(runtime.SessionOptions{Threads: o.Threads})
		probes[i] = append(probes[i], n.Output(0).Name)
	}
	prog, err := src.compile(m, probes)
	if err != nil {
		return fail(err)
	}
	feed, err := src.Bind(prog.Inputs())
	if err != nil {
		return fail(err)
	}
	kernels := prog.NewSession(runtime.SessionOptions{Threads: o.Threads})
	err = Batches(ctx, feed.Spread(o.Limit), o.Batch, o.Progress, func(_, _ int, in map[string]tensor.Tensor) error {
		_, err := kernels.RunProbed(ctx, in, func(i int, v []*runtime.Tensor) error {
			last := len(v) - 1
			feeds := map[string]tensor.Tensor{}
			for k, t := range v[:last] {
				d, err := t.Dense()
				if err != nil {
					return err
				}
				feeds[probes[i][k]] = d
			}
			out, err := bodies[i].Run(ctx, feeds)
			if err != nil {
				return fmt.Errorf("%v: %w", nodes[i], err)
			}
			body, err := runtime.FromDense(out[probes[i][last]])
			if err != nil {
				return err
			}
			if err := steps[i].add(v[last], body); err != nil {
				return fmt.Errorf("%v: %w", nodes[i], err)
			}
			return nil
		})
		return err
	})
	if err != nil {
		return fail(err)
	}
	return steps, nil
}

// add compares what a kernel and a body give.
func (s *BodySteps) add(kernel, body *runtime.Tensor) error {
	if kernel.DType != graph.Int16 || body.DType != graph.Int16 || !slices.Equal(kernel.Shape, body.Shape) {
		return fmt.Errorf("gives %v%v, its body %v%v", kernel.DType, kernel.Shape, body.DType, body.Shape)
	}
	other := body.I16()
	for i, v := range kernel.I16() {
		d := int(v) - int(other[i])
		if d = max(d, -d); d > 0 {
			s.Off++
		}
		s.Most = max(s.Most, d)
	}
	s.Values += int64(kernel.Len())
	return nil
}
