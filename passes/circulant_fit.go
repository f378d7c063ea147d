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
			for _, p := range l.parts() {
				if x := moments(p.key()); x == nil || x.N != p.n {
					return fmt.Errorf("%v: the ledger has no moments of its %d inputs, %q; score with moments", l.node, p.n, p.key())
				}
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
		var bias []float32
		var least, frobenius circulant.Error
		for k, p := range l.parts() {
			x, own := moments(p.key()), p.bias
			if x == nil {
				least.Square, frobenius.Square = nan, nan
			} else {
				x = p.padded(x)
				c, wide := r.fitted[l.weight].parts[k], p.wide()
				own = refit(p, c, x)
				one, err := circulant.OutputError(wide, p.bias, c, own, x)
				if err != nil {
					return fmt.Errorf("%v: %w", l.node, err)
				}
				f, err := p.frobenius()
				if err != nil {
					return fmt.Errorf("%v: %w", l.node, err)
				}
				other, err := circulant.OutputError(wide, p.bias, f, refit(p, f, x), x)
				if err != nil {
					return fmt.Errorf("%v: %w", l.node, err)
				}
				least, frobenius = least.Plus(one), frobenius.Plus(other)
			}
			bias = append(bias, own...)
		}
		if err := r.apply(l, bias, nil, CirculantLayer{Error: least.Relative(), FrobeniusError: frobenius.Relative()}); err != nil {
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
	var sharing [][]*layer // the parts of all that have the weight
	for _, k := range layers {
		if k.weight == l.weight {
			sharing = append(sharing, k.parts())
		}
	}
	made := &fitted{}
	for i, p := range l.parts() {
		c, err := p.frobenius()
		if err == nil && r.o.Fit == FitLSQ {
			sum := circulant.NewMoments(p.n)
			for _, parts := range sharing {
				key := parts[i].key()
				x := moments(key)
				if x == nil {
					return fmt.Errorf("no data reached its input %q", key)
				}
				if err := sum.Merge(x); err != nil {
					return err
				}
			}
			c, _, err = circulant.LeastSquares(p.wide(), p.m, p.columns(), p.block, p.bias, p.padded(sum), &circulant.FitOptions{Ridge: r.o.Ridge, Prior: c})
		}
		if err != nil {
			return err
		}
		made.parts = append(made.parts, c)
	}
	r.fitted[l.weight] = made
	return nil
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
		operands = addOperands(operands, l)
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

// addOperands adds what the parts of l multiply to a list, once.
func addOperands(list []calib.Operand, l *layer) []calib.Operand {
	if slices.ContainsFunc(list, func(x calib.Operand) bool { return x.Key == l.key() }) {
		return list
	}
	return append(list, calib.Operands(l.node)...)
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
		if err := l.load(); err != nil {
			return fmt.Errorf("%v: %w", l.node, err)
		}
		to := crossFit{rewriter: r, l: l, have: r.fitted[l.weight]}
		for _, p := range l.parts() {
			in, out, err := r.crossMoments(before, now, p, x, ys[i])
			if err == nil {
				err = to.add(p, in, out)
			}
			if err != nil {
				return fmt.Errorf("%v: %w", l.node, err)
			}
		}
		if to.have == nil {
			r.fitted[l.weight] = &fitted{parts: to.parts}
		}
		if err := r.apply(l, to.bias, to.low, CirculantLayer{Error: to.least.Relative(), FrobeniusError: to.frobenius.Relative()}); err != nil {
			return err
		}
	}
	return nil
}

// crossMoments are the moments of a part of a layer: of its input x in the model that
// is being rewritten, and of its output y in the original.
func (r *rewriter) crossMoments(before, now *walker, p *layer, x, y string) (*circulant.Moments, *circulant.CrossMoments, error) {
	acc := circulant.NewCrossAccumulator(p.m, p.n)
	add := addTokens
	if p.kernel != nil {
		var err error
		if add, err = addColumns(p, r.o.Feed.Len()); err != nil {
			return nil, nil, err
		}
	}
	for k := range now.chunks {
		in, err := runtime.FromDense(now.chunks[k][x])
		if err != nil {
			return nil, nil, err
		}
		out, err := runtime.FromDense(before.chunks[k][y])
		if err != nil {
			return nil, nil, err
		}
		if in.DType != graph.Float32 || out.DType != graph.Float32 {
			return nil, nil, fmt.Errorf("input is %v and output %v, want float", in.DType, out.DType)
		}
		if err := add(acc, p, out, in, now.masks[k]); err != nil {
			return nil, nil, err
		}
	}
	in, out := acc.Moments()
	return in, out, nil
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

// addColumns returns a function that adds columns of a part of a convolution, out of
// that many samples in all, and what it gives for them.
func addColumns(l *layer, samples int) (func(*circulant.CrossAccumulator, *layer, *runtime.Tensor, *runtime.Tensor, calib.Mask) error, error) {
	columns, err := calib.NewColumns(l.node, l.part, samples)
	if err != nil {
		return nil, err
	}
	y := make([]float32, l.m)
	return func(acc *circulant.CrossAccumulator, l *layer, out, in *runtime.Tensor, _ calib.Mask) error {
		if len(out.Shape) < 2 || out.Shape[1] < (l.part+1)*l.m {
			return fmt.Errorf("output %v, want outputs up to %d", out.Shape, (l.part+1)*l.m)
		}
		channels := out.Shape[1]
		places := out.Len() / max(in.Shape[0]*channels, 1)
		var wrong error
		err := columns.Each(in, func(sample, place int, column []float32) {
			if place >= places || len(column) != l.n {
				wrong = fmt.Errorf("input %v and output %v do not match %d×%d", in.Shape, out.Shape, l.m, l.n)
				return
			}
			for i := range y {
				y[i] = out.F32()[(sample*channels+l.part*l.m+i)*places+place]
			}
			acc.Add(y, l.m, column, len(column), 1)
		})
		return errors.Join(err, wrong)
	}, nil
}

// crossFit fits a layer, part by part, to the outputs that it has in the original
// model.
type crossFit struct {
	*rewriter
	l    *layer
	have *fitted // its weight, where it is fitted already

	parts            []*circulant.Matrix
	bias             []float32
	low              *lowRank
	least, frobenius circulant.Error
}

// add fits the next part to targets of the moments yx on inputs of the moments x.
func (f *crossFit) add(p *layer, x *circulant.Moments, yx *circulant.CrossMoments) error {
	x, yx = p.padded(x), yx.Padded(p.run, p.width())
	projection, err := p.frobenius()
	if err != nil {
		return err
	}
	var c *circulant.Matrix
	if f.have != nil {
		c = f.have.parts[len(f.parts)]
	}
	left := yx // of the targets, for the blocks
	if p.rank(f.o.Rank) > 0 {
		if c, f.low, left, err = f.fitWithRank(p, c, x, yx); err != nil {
			return err
		}
	}
	if c == nil && f.o.Fit == FitLSQ {
		if c, _, err = circulant.LeastSquaresCross(p.wide(), p.m, p.columns(), p.block, x, yx, &circulant.FitOptions{Ridge: f.o.Ridge, Prior: projection}); err != nil {
			return err
		}
	} else if c == nil {
		c = projection
	}
	bias := crossBias(c, x, left)
	least, err := circulant.CrossError(c, bias, x, left)
	if err != nil {
		return err
	}
	if f.low != nil { // relative to what the layer computes, and not to what is left
		least.Of = variance(yx)
	}
	frobenius, err := circulant.CrossError(projection, crossBias(projection, x, yx), x, yx)
	if err != nil {
		return err
	}
	f.least, f.frobenius = f.least.Plus(least), f.frobenius.Plus(frobenius)
	f.parts, f.bias = append(f.parts, c), append(f.bias, bias...)
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
