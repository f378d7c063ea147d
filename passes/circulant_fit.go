package passes

import (
	"context"
	"errors"
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

// oneShot fits every weight on the moments that its inputs have in the
// original model; those of a projection may be missing.
func (r *rewriter) oneShot(ctx context.Context, layers []*layer, moments func(value string) *circulant.Moments) error {
	if r.o.Fit == FitLSQ {
		for _, l := range layers {
			if x := moments(l.key()); x == nil || x.N != l.n {
				return fmt.Errorf("%v: the ledger has no moments of its %d inputs, %q; score with moments", l.node, l.n, l.key())
			}
		}
	}
	for i, l := range layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := l.load(); err != nil {
			return fmt.Errorf("%v: %w", l.node, err)
		}
		if r.fitted[l.weight] == nil {
			if err := r.fitShared(l, layers, moments); err != nil {
				return fmt.Errorf("%v: %w", l.node, err)
			}
		}
		c, bias := r.fitted[l.weight].Matrix, l.bias
		done := CirculantLayer{Error: nan, FrobeniusError: nan}
		if x := moments(l.key()); x != nil {
			wide, x := l.wide(), l.padded(x)
			f, err := l.frobenius()
			if err == nil {
				bias = refit(l, c, x)
				done.Error, err = circulant.OutputError(wide, l.bias, c, bias, x)
			}
			if err == nil {
				done.FrobeniusError, err = circulant.OutputError(wide, l.bias, f, refit(l, f, x), x)
			}
			if err != nil {
				return fmt.Errorf("%v: %w", l.node, err)
			}
		}
		if err := r.apply(l, bias, nil, done); err != nil {
			return err
		}
		if r.o.Progress != nil {
			r.o.Progress(i+1, len(layers))
		}
	}
	return nil
}

// fitShared fits the weight of l one-shot, on the inputs of all layers that
// have it.
func (r *rewriter) fitShared(l *layer, layers []*layer, moments func(value string) *circulant.Moments) error {
	c, err := l.frobenius()
	if err == nil && r.o.Fit == FitLSQ {
		sum := circulant.NewMoments(l.n)
		for _, k := range layers {
			if k.weight != l.weight {
				continue
			}
			x := moments(k.key())
			if x == nil {
				return fmt.Errorf("no data reached its input %q", k.key())
			}
			if err := sum.Merge(x); err != nil {
				return err
			}
		}
		c, _, err = circulant.LeastSquares(l.wide(), l.m, l.columns(), l.block, l.bias, l.padded(sum), &circulant.FitOptions{Ridge: r.o.Ridge, Prior: c})
	}
	r.fitted[l.weight] = &fitted{Matrix: c}
	return err
}

// refit is the bias that keeps the mean of the layer's output: bias + (W −
// C)·E[x], x the columns that are fitted.
func refit(l *layer, c *circulant.Matrix, x *circulant.Moments) []float32 {
	out := make([]float32, l.m)
	mean, dense, wide := x.Mean(), c.Dense(), l.wide()
	for i := range out {
		sum := float64(l.bias[i])
		for k := range c.N {
			sum += (float64(wide[i*c.N+k]) - float64(dense[i*c.N+k])) * mean[k]
		}
		out[i] = float32(sum)
	}
	return out
}

// sequential fits the layers in the order of the graph. Two walkers hold what
// every batch has computed so far, one in the original model and one in the
// model that is being rewritten; they advance from group of layers to group
// of layers, so each model runs once over the data in total. Layers that read
// the same value form a group. A weight that layers of several groups share
// is fitted one-shot before.
func (r *rewriter) sequential(ctx context.Context, original *graph.Model, layers []*layer) error {
	if err := r.fitAcross(ctx, original, layers); err != nil {
		return err
	}
	before, err := newWalker(ctx, original, r.o.Feed, r.o.Threads)
	if err != nil {
		return err
	}
	now, err := newWalker(ctx, r.m, r.o.Feed, r.o.Threads)
	if err != nil {
		return err
	}
	for done, all := 0, len(layers); len(layers) > 0; {
		var group, rest []*layer
		for _, l := range layers {
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
			r.o.Progress(done, all)
		}
	}
	return nil
}

// fitAcross fits the weights that layers of different inputs share, on the
// inputs that all of these have in the original model.
func (r *rewriter) fitAcross(ctx context.Context, original *graph.Model, layers []*layer) error {
	var shared []*layer // the first of each weight
	var operands []calib.Operand
	for i, l := range layers {
		other := slices.ContainsFunc(layers, func(k *layer) bool { return k.weight == l.weight && k.key() != l.key() })
		if !other {
			continue
		}
		operands = addOperand(operands, l)
		if !slices.ContainsFunc(layers[:i], func(k *layer) bool { return k.weight == l.weight }) {
			shared = append(shared, l)
		}
	}
	if len(shared) == 0 {
		return nil
	}
	x, err := calib.Moments(ctx, original, r.o.Feed, operands, calib.ScoreOptions{Threads: r.o.Threads})
	if err != nil {
		return err
	}
	for _, l := range shared {
		err := l.load()
		if err == nil {
			err = r.fitShared(l, layers, func(value string) *circulant.Moments { return x[value] })
		}
		if err != nil {
			return fmt.Errorf("%v: %w", l.node, err)
		}
		l.dense = nil
	}
	return nil
}

// addOperand adds what l multiplies to a list, once.
func addOperand(list []calib.Operand, l *layer) []calib.Operand {
	o := calib.OperandOf(l.node)
	if slices.ContainsFunc(list, func(x calib.Operand) bool { return x.Key == o.Key }) {
		return list
	}
	return append(list, o)
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
	for i, l := range group {
		acc := circulant.NewCrossAccumulator(l.m, l.n)
		add := addTokens
		if l.kernel != nil {
			var err error
			if add, err = addColumns(l, r.o.Feed.Len()); err != nil {
				return err
			}
		}
		for k := range now.chunks {
			in, err := runtime.FromDense(now.chunks[k][x])
			if err != nil {
				return err
			}
			out, err := runtime.FromDense(before.chunks[k][ys[i]])
			if err != nil {
				return err
			}
			if in.DType != graph.Float32 || out.DType != graph.Float32 {
				return fmt.Errorf("%v: input is %v and output %v, want float", l.node, in.DType, out.DType)
			}
			if err := add(acc, l, out, in, now.masks[k]); err != nil {
				return fmt.Errorf("%v: %w", l.node, err)
			}
		}
		x, yx := acc.Moments()
		if err := r.fitCross(l, x, yx); err != nil {
			return fmt.Errorf("%v: %w", l.node, err)
		}
	}
	return nil
}

// addTokens adds the tokens of a layer's input and output that count.
func addTokens(acc *circulant.CrossAccumulator, l *layer, out, in *runtime.Tensor, mask calib.Mask) error {
	if in.Len()/l.n != out.Len()/l.m || in.Len()%l.n != 0 || out.Len()%l.m != 0 {
		return fmt.Errorf("input %v and output %v do not match %d×%d", in.Shape, out.Shape, l.m, l.n)
	}
	return mask.Runs(in, func(from, to int) {
		acc.Add(out.F32()[from*l.m:], l.m, in.F32()[from*l.n:], l.n, to-from)
	})
}

// addColumns returns a function that adds columns of a convolution, out of that
// many samples in all, and what it gives for them.
func addColumns(l *layer, samples int) (func(*circulant.CrossAccumulator, *layer, *runtime.Tensor, *runtime.Tensor, calib.Mask) error, error) {
	columns, err := calib.NewColumns(l.node, samples)
	if err != nil {
		return nil, err
	}
	y := make([]float32, l.m)
	return func(acc *circulant.CrossAccumulator, l *layer, out, in *runtime.Tensor, _ calib.Mask) error {
		places := out.Len() / max(in.Shape[0]*l.m, 1)
		var wrong error
		err := columns.Each(in, func(sample, place int, column []float32) {
			if place >= places || len(column) != l.n {
				wrong = fmt.Errorf("input %v and output %v do not match %d×%d", in.Shape, out.Shape, l.m, l.n)
				return
			}
			for i := range y {
				y[i] = out.F32()[(sample*l.m+i)*places+place]
			}
			acc.Add(y, l.m, column, len(column), 1)
		})
		return errors.Join(err, wrong)
	}, nil
}

// fitCross fits one layer to the outputs that it has in the original model,
// and rewrites it.
func (r *rewriter) fitCross(l *layer, x *circulant.Moments, yx *circulant.CrossMoments) error {
	if err := l.load(); err != nil {
		return err
	}
	x, yx = l.padded(x), yx.Padded(l.run, l.width())
	f, err := l.frobenius()
	if err != nil {
		return err
	}
	var low *lowRank
	left := yx // of the targets, for the blocks
	if l.rank(r.o.Rank) > 0 {
		if low, left, err = r.fitWithRank(l, x, yx); err != nil {
			return err
		}
	}
	if r.fitted[l.weight] == nil {
		c := f
		if r.o.Fit == FitLSQ {
			if c, _, err = circulant.LeastSquaresCross(l.wide(), l.m, l.columns(), l.block, x, yx, &circulant.FitOptions{Ridge: r.o.Ridge, Prior: f}); err != nil {
				return err
			}
		}
		r.fitted[l.weight] = &fitted{Matrix: c}
	}
	c := r.fitted[l.weight].Matrix
	bias := crossBias(c, x, left)
	var done CirculantLayer
	if done.Error, err = circulant.CrossError(c, bias, x, left); err != nil {
		return err
	}
	if low != nil { // relative to what the layer computes, and not to what is left
		done.Error *= math.Sqrt(max(variance(left), 0) / variance(yx))
	}
	if done.FrobeniusError, err = circulant.CrossError(f, crossBias(f, x, yx), x, yx); err != nil {
		return err
	}
	return r.apply(l, bias, low, done)
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
	limits  runtime.Options
	chunks  []map[string]tensor.Tensor
	masks   []calib.Mask
	done    map[*graph.Node]bool // computed already
}

func newWalker(ctx context.Context, m *graph.Model, feed *calib.Feed, threads int) (*walker, error) {
	w := &walker{m: m, threads: threads, limits: feed.Source().Runtime(), done: map[*graph.Node]bool{}}
	err := calib.Batches(ctx, feed, 0, nil, func(from, to int, in map[string]tensor.Tensor) error {
		mask, err := feed.Mask(from, to, in)
		w.chunks = append(w.chunks, maps.Clone(in))
		w.masks = append(w.masks, mask)
		return err
	})
	return w, err
}

// advance computes the wanted values from those at hand, and then holds them
// and what nodes that were not computed yet read.
func (w *walker) advance(ctx context.Context, want []string) error {
	g := w.m.Graph
	hold := map[string]bool{}
	var todo []*graph.Value
	for _, name := range want {
		v := g.Value(name)
		if v == nil {
			return fmt.Errorf("the value %q is gone", name)
		}
		hold[name] = true
		todo = append(todo, v)
	}
	for len(todo) > 0 {
		v := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if n := v.Def(); n != nil && v.Graph() == g && !w.done[n] {
			w.done[n] = true
			reads(n, func(v *graph.Value) { todo = append(todo, v) })
		}
	}
	for _, v := range g.Inputs() {
		if !v.IsInitializer() && w.readLater(v) {
			hold[v.Name] = true
		}
	}
	for _, n := range g.Nodes() {
		for _, v := range n.Outputs() {
			if v != nil && w.done[n] && v.ConstTensor() == nil && w.readLater(v) {
				hold[v.Name] = true
			}
		}
	}
	held := slices.Sorted(maps.Keys(w.chunks[0]))
	var fresh []string // to be computed
	for _, name := range slices.Sorted(maps.Keys(hold)) {
		if !slices.Contains(held, name) {
			fresh = append(fresh, name)
		}
	}
	if len(fresh) > 0 {
		if err := w.compute(ctx, held, fresh); err != nil {
			return err
		}
	}
	for _, c := range w.chunks {
		maps.DeleteFunc(c, func(name string, _ tensor.Tensor) bool { return !hold[name] })
	}
	return nil
}

// readLater reports whether a node that was not computed yet reads v, itself
// or inside its subgraphs.
func (w *walker) readLater(v *graph.Value) bool {
	return slices.ContainsFunc(v.Uses(), func(u graph.Use) bool {
		n := u.Node
		for n.Graph() != w.m.Graph {
			n = n.Graph().Holder()
		}
		return !w.done[n]
	})
}

// reads calls f for every value that n reads, also inside its subgraphs.
func reads(n *graph.Node, f func(*graph.Value)) {
	for _, v := range n.Inputs() {
		if v != nil {
			f(v)
		}
	}
	for _, s := range n.Subgraphs() {
		for _, k := range s.Nodes() {
			reads(k, f)
		}
		for _, v := range s.Outputs() {
			f(v)
		}
	}
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
		// What there is is surer than what a file declares.
		t, err := runtime.FromDense(w.chunks[0][v.Name])
		if err != nil {
			return err
		}
		v.Declared = graph.TensorType(t.DType, slices.Repeat([]graph.Dim{graph.UnknownDim}, len(t.Shape))...)
		v.SetInferred(nil)
	}
	prog, err := runtime.Compile(part, w.limits)
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
