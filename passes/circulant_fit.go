package passes

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/runtime/circulant"
	"gorgonia.org/tensor"
)

var nan = math.NaN()

// sequential fits the layers in the order of the graph. Two walkers hold what
// every batch has computed so far, one in the original model and one in the
// model that is being rewritten; they advance from group of layers to group
// of layers, so each model runs once over the data in total. Layers that read
// the same value form a group.
func (r *rewriter) sequential(ctx context.Context, original *graph.Model, layers []*layer) error {
	before, err := newWalker(ctx, original, r.o.Feed, r.o.Threads)
	if err != nil {
		return err
	}
	now, err := newWalker(ctx, r.m, r.o.Feed, r.o.Threads)
	if err != nil {
		return err
	}
	done := 0
	for len(layers) > 0 {
		group := []*layer{layers[0]}
		var rest []*layer
		for _, l := range layers[1:] {
			if l.x() == layers[0].x() {
				group = append(group, l)
			} else {
				rest = append(rest, l)
			}
		}
		layers = rest
		if err := r.fitGroup(ctx, before, now, group); err != nil {
			return err
		}
		if done += len(group); r.o.Progress != nil {
			r.o.Progress(done, done+len(layers))
		}
	}
	return nil
}

func (r *rewriter) fitGroup(ctx context.Context, before, now *walker, group []*layer) error {
	x := group[0].x().Name
	var ys []string
	for _, l := range group {
		ys = append(ys, l.out().Name)
	}
	if err := before.advance(ctx, ys); err != nil {
		return fmt.Errorf("%v: original model: %w", group[0].node, err)
	}
	if err := now.advance(ctx, []string{x}); err != nil {
		return fmt.Errorf("%v: %w", group[0].node, err)
	}
	acc := make([]*circulant.CrossAccumulator, len(group))
	for i, l := range group {
		acc[i] = circulant.NewCrossAccumulator(l.m, l.n)
	}
	for k := range now.chunks {
		in, err := runtime.FromDense(now.chunks[k][x])
		if err != nil {
			return err
		}
		for i, l := range group {
			out, err := runtime.FromDense(before.chunks[k][ys[i]])
			if err != nil {
				return err
			}
			if in.DType != graph.Float32 || in.Len()/l.n != out.Len()/l.m {
				return fmt.Errorf("%v: input %v%v and output %v do not match %d×%d", l.node, in.DType, in.Shape, out.Shape, l.m, l.n)
			}
			err = now.masks[k].Runs(in, func(from, to int) {
				acc[i].Add(out.F32()[from*l.m:], l.m, in.F32()[from*l.n:], l.n, to-from)
			})
			if err != nil {
				return fmt.Errorf("%v: %w", l.node, err)
			}
		}
	}
	for i, l := range group {
		x, yx := acc[i].Moments()
		f, err := circulant.Frobenius(l.dense, l.m, l.n, r.o.Block)
		if err != nil {
			return fmt.Errorf("%v: %w", l.node, err)
		}
		c := r.fitted[l.weight]
		switch {
		case c != nil: // fitted at its first reader
		case r.o.Fit == FitFrobenius:
			c = f
		default:
			if c, _, err = circulant.LeastSquaresCross(l.dense, l.m, l.n, r.o.Block, x, yx, &circulant.FitOptions{Ridge: r.o.Ridge}); err != nil {
				return fmt.Errorf("%v: %w", l.node, err)
			}
		}
		bias, frobeniusBias := crossBias(c, x, yx), crossBias(f, x, yx)
		var done CirculantLayer
		if done.Error, err = circulant.CrossError(c, bias, x, yx); err == nil {
			done.FrobeniusError, err = circulant.CrossError(f, frobeniusBias, x, yx)
		}
		if err != nil {
			return fmt.Errorf("%v: %w", l.node, err)
		}
		if err := r.apply(l, c, bias, done); err != nil {
			return err
		}
	}
	return nil
}

// crossBias is E[y] − C·E[x], the bias with the smallest error.
func crossBias(c *circulant.Matrix, x *circulant.Moments, yx *circulant.CrossMoments) []float32 {
	out := make([]float32, c.M)
	mx, my, dense := x.Mean(), yx.Mean(), c.Dense()
	for i := range out {
		sum := my[i]
		for k := range c.N {
			sum -= float64(dense[i*c.N+k]) * mx[k]
		}
		out[i] = float32(sum)
	}
	return out
}

// walker runs a model piece by piece over a feed and keeps, for every batch,
// the values that the rest of the model still needs.
type walker struct {
	m       *graph.Model
	threads int
	chunks  []map[string]tensor.Tensor
	masks   []calib.Mask
}

func newWalker(ctx context.Context, m *graph.Model, feed *calib.Feed, threads int) (*walker, error) {
	w := &walker{m: m, threads: threads}
	err := calib.Batches(ctx, feed, 0, nil, func(from, to int, in map[string]tensor.Tensor) error {
		mask, err := calib.MaskOf(in, to-from)
		w.chunks = append(w.chunks, maps.Clone(in))
		w.masks = append(w.masks, mask)
		return err
	})
	return w, err
}

// advance computes what nodes up to the last one that defines a wanted value
// make of the values at hand, and then holds the wanted values and those that
// later nodes read.
func (w *walker) advance(ctx context.Context, want []string) error {
	g := w.m.Graph
	pos := make(map[*graph.Node]int, len(g.Nodes()))
	for i, n := range g.Nodes() {
		pos[n] = i
	}
	cut := 0
	for _, name := range want {
		v := g.Value(name)
		if v == nil {
			return fmt.Errorf("the value %q is gone", name)
		}
		if d := v.Def(); d != nil {
			cut = max(cut, pos[d]+1)
		}
	}
	held := slices.Sorted(maps.Keys(w.chunks[0]))
	var fresh []string // to be computed
	keep := map[string]bool{}
	hold := func(v *graph.Value) {
		if v == nil || v.ConstTensor() != nil || v.IsInitializer() || keep[v.Name] {
			return
		}
		keep[v.Name] = true
		if !slices.Contains(held, v.Name) {
			fresh = append(fresh, v.Name)
		}
	}
	for _, name := range want {
		hold(g.Value(name))
	}
	readLater := func(v *graph.Value) bool {
		return v != nil && slices.ContainsFunc(v.Uses(), func(u graph.Use) bool {
			n := u.Node
			for n.Graph() != g {
				n = n.Graph().Holder()
			}
			return pos[n] >= cut
		})
	}
	for _, v := range g.Inputs() {
		if readLater(v) {
			hold(v)
		}
	}
	for _, n := range g.Nodes()[:cut] {
		for _, v := range n.Outputs() {
			if readLater(v) {
				hold(v)
			}
		}
	}
	if len(fresh) > 0 {
		if err := w.compute(ctx, held, fresh); err != nil {
			return err
		}
	}
	for _, c := range w.chunks {
		maps.DeleteFunc(c, func(name string, _ tensor.Tensor) bool { return !keep[name] })
	}
	return nil
}

// compute adds the values fresh to every chunk, from the values held.
func (w *walker) compute(ctx context.Context, held, fresh []string) error {
	part, err := w.m.Extract(held, fresh)
	if err != nil {
		return err
	}
	for _, v := range slices.Clone(part.Graph.Inputs()) {
		if len(v.Uses()) == 0 {
			part.Graph.RemoveInput(v)
			continue
		}
		// What the data has is surer than what a file declares.
		t, err := runtime.FromDense(w.chunks[0][v.Name])
		if err != nil {
			return err
		}
		v.Declared = &graph.Type{Kind: graph.KindTensor, Elem: t.DType}
		v.SetInferred(nil)
	}
	prog, err := runtime.Compile(part, runtime.Options{})
	if err != nil {
		return err
	}
	session := prog.NewSession(runtime.SessionOptions{Threads: w.threads})
	names := make([]string, len(fresh))
	for i, p := range prog.Outputs() {
		names[i] = p.Name
	}
	for _, c := range w.chunks {
		in := make(map[string]tensor.Tensor, len(held))
		for _, p := range prog.Inputs() {
			in[p.Name] = c[p.Name]
		}
		out, err := session.Run(ctx, in)
		if err != nil {
			return err
		}
		for i, name := range names {
			c[fresh[i]] = out[name]
		}
	}
	return nil
}
