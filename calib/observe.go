package calib

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/runtime/circulant"
	"gorgonia.org/tensor"
)

// DefaultBatch is how many samples are run at once where the model allows it:
// enough to fill the kernels, small enough for a large model's activations.
const DefaultBatch = 8

// probe is one group of values of the model that is looked at together, and
// what is done with them.
type probe struct {
	values []string
	see    func(v []*runtime.Tensor, tokens Mask) error
}

// show hands the probe its values.
func (p *probe) show(v []*runtime.Tensor, tokens Mask) error {
	if err := p.see(v, tokens); err != nil {
		return fmt.Errorf("values %s: %w", strings.Join(p.values, ", "), err)
	}
	return nil
}

// observe runs the data through the model once and shows every probe its
// values, batch by batch in the order of the data. A model that does not fit
// the memory runs part by part.
func observe(ctx context.Context, m *graph.Model, feed *Feed, probes []*probe, opts ScoreOptions) error {
	limit := opts.limit(feed)
	whole, budget, err := fitsMemory(m, feed, opts, limit)
	if err != nil {
		return err
	}
	if !whole {
		list, err := segments(m, probes, budget)
		if err != nil {
			return err
		}
		if len(list) > 1 {
			return observeParts(ctx, m, feed, probes, list, limit, opts)
		}
	}
	groups := make([][]string, len(probes))
	for i, p := range probes {
		groups[i] = p.values
	}
	prog, err := feed.source.compile(m, groups)
	if err != nil {
		return err
	}
	session := prog.NewSession(runtime.SessionOptions{Threads: opts.Threads})
	return Batches(ctx, feed, opts.Batch, opts.Progress, func(from, to int, in map[string]tensor.Tensor) error {
		tokens, err := feed.Mask(from, to, in)
		if err != nil {
			return err
		}
		_, err = session.RunProbed(ctx, in, func(i int, v []*runtime.Tensor) error {
			return probes[i].show(v, tokens)
		})
		if err != nil {
			return fmt.Errorf("samples %d … %d: %w", from, to-1, err)
		}
		return nil
	})
}

// Batches calls f for one batch of the feed after another: in holds the inputs of the
// samples from … to−1. size is how many samples are asked for, as in Feed.BatchSize.
// progress, which may be nil, is told of the samples that are done. An error of f ends
// the batches and is returned as it is.
func Batches(ctx context.Context, feed *Feed, size int, progress func(done, total int), f func(from, to int, in map[string]tensor.Tensor) error) error {
	size = feed.BatchSize(size)
	n := feed.Len()
	for from := 0; from < n; from += size {
		if err := ctx.Err(); err != nil {
			return err
		}
		to := min(from+size, n)
		in, err := feed.Batch(from, to)
		if err != nil {
			return err
		}
		if err := f(from, to, in); err != nil {
			return err
		}
		if progress != nil {
			progress(to, n)
		}
	}
	return nil
}

// Mask says which tokens of a batch count.
type Mask struct {
	samples int
	masks   [][]bool // by length: [samples · tokens a sample]
}

// MaskOf reads which tokens count from the attention masks among the inputs of
// a batch: the integer and bool arrays [samples, tokens] with "mask" in their
// name. A mask speaks for the values that have as many tokens as it has; of
// several of one length (an encoder's and a decoder's) the first by name.
func MaskOf(in map[string]tensor.Tensor, samples int) (Mask, error) {
	out := Mask{samples: samples}
	var names []string
	for name, d := range in {
		if strings.Contains(strings.ToLower(name), "mask") && d.Dims() == 2 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		t, err := runtime.FromDense(in[name])
		if err != nil {
			return out, fmt.Errorf("input %q: %w", name, err)
		}
		keep := make([]bool, t.Len())
		for i := range keep {
			switch t.DType {
			case graph.Int64:
				keep[i] = t.I64()[i] != 0
			case graph.Int32:
				keep[i] = t.I32()[i] != 0
			case graph.Bool:
				keep[i] = t.Bytes()[i] != 0
			default:
				keep[i] = true // a float mask is added to the scores, and its zeros count
			}
		}
		out.masks = append(out.masks, keep)
	}
	return out, nil
}

// of returns the mask for values of that many tokens, nil where all count.
func (m Mask) of(tokens int) []bool {
	at := slices.IndexFunc(m.masks, func(keep []bool) bool { return len(keep) == tokens })
	if at < 0 || !slices.Contains(m.masks[at], false) {
		return nil
	}
	return m.masks[at]
}

// Runs calls f for every longest run from … to−1 of tokens of x [samples, …,
// d] that count, in order.
func (m Mask) Runs(x *runtime.Tensor, f func(from, to int)) error {
	_, samples, per, keep, err := m.layout(x)
	if err != nil {
		return err
	}
	for from, rows := 0, samples*per; from < rows; {
		to := from
		for to < rows && (keep == nil || keep[to]) {
			to++
		}
		if to > from {
			f(from, to)
		}
		from = to + 1
	}
	return nil
}

// Weight returns the constant matrix that v is, or is the transpose of: v may
// be an initializer, the output of a Constant node, or either behind
// Identity and two-dimensional Transpose nodes, as exporters write linear
// layers. root is the value that holds the constant; it is nil where v is no
// such thing.
func Weight(v *graph.Value) (root *graph.Value, transposed bool) {
	moved := false
	for range 8 { // a chain longer than any exporter's; it also ends a cycle
		if v == nil {
			break
		}
		if c := v.ConstTensor(); c != nil {
			if moved && len(c.Dims) != 2 {
				break
			}
			return v, transposed
		}
		n := v.Def()
		if n == nil || !n.Is("Identity", "Transpose") {
			break
		}
		if n.Is("Transpose") {
			moved = true
			switch perm, set := n.Ints("perm"); {
			case !set || slices.Equal(perm, []int64{1, 0}):
				transposed = !transposed
			case !slices.Equal(perm, []int64{0, 1}):
				return nil, false
			}
		}
		v = n.Input(0)
	}
	return nil, false
}

// weightNodes lists the nodes of the main graph that multiply an activation
// by a constant matrix, with the activation. Gemm(transA = 1), whose tokens
// lie along the other axis, is none of them.
func weightNodes(m *graph.Model) (nodes []*graph.Node, inputs []*graph.Value) {
	for _, n := range m.Graph.Nodes() {
		x := n.Input(0)
		if !n.Is("MatMul", "Gemm") || x == nil || x.ConstTensor() != nil || n.Int("transA", 0) != 0 {
			continue
		}
		if w, _ := Weight(n.Input(1)); w != nil {
			nodes, inputs = append(nodes, n), append(inputs, x)
		}
	}
	return nodes, inputs
}

// operands lists what the nodes of the main graph with constant weights
// multiply by them, each once: those of weightNodes, and the columns of
// convolutions, group by group.
func operands(m *graph.Model) []Operand {
	var out []Operand
	seen := map[string]bool{}
	add := func(n *graph.Node) {
		for _, o := range Operands(n) {
			if !seen[o.Key] {
				out = append(out, o)
			}
			seen[o.Key] = true
		}
	}
	nodes, _ := weightNodes(m)
	for _, n := range nodes {
		add(n)
	}
	for _, n := range m.Graph.Nodes() {
		if n.Is("Conv") && n.Input(0) != nil && n.Input(0).ConstTensor() == nil {
			add(n)
		}
	}
	return out
}

// Moments runs the data through the model once and returns the first and second
// moments of operands, by their keys, as sums: over the tokens that count, or the
// columns that [Columns] reads. Of opts it uses Threads, Batch, Progress and Memory.
func Moments(ctx context.Context, m *graph.Model, feed *Feed, list []Operand, opts ScoreOptions) (map[string]*circulant.Moments, error) {
	probes, result, err := momentProbes(list, feed.Len(), opts.limit(feed))
	if err == nil {
		err = observe(ctx, m, feed, probes, opts)
	}
	if err != nil {
		return nil, fmt.Errorf("moments: %w", err)
	}
	return result(), nil
}

// momentProbes gathers the moments of operands over that many samples. Those of
// other types than float get none: weights of other types are not rewritten.
// Moments grow with the square of the features, so those that would take more
// than limit bytes are refused.
func momentProbes(list []Operand, samples int, limit int64) ([]*probe, func() map[string]*circulant.Moments, error) {
	fits := func(n int, features []int64) error {
		taken := int64(0)
		for _, d := range features {
			if d > 1<<24 || taken > limit-8*d*d {
				return fmt.Errorf("second moments of %d values take 8 bytes for the square of the features of each, which passes the %w of %d; lathe circulant --data takes them layer by layer", n, runtime.ErrMemory, limit)
			}
			taken += 8 * d * d
		}
		return nil
	}
	var features []int64
	for _, o := range list {
		features = append(features, o.features)
	}
	if err := fits(len(list), features); err != nil {
		return nil, nil, err
	}
	sums := map[string]*circulant.Accumulator{}
	widths := map[string]int{}
	sum := func(key string, d int) (*circulant.Accumulator, error) {
		if sums[key] == nil {
			sums[key], widths[key] = circulant.NewAccumulator(d), d
		}
		if d != widths[key] {
			return nil, fmt.Errorf("has %d features, had %d before", d, widths[key])
		}
		return sums[key], nil
	}
	var out []*probe
	for _, o := range list {
		see := func(v []*runtime.Tensor, tokens Mask) error {
			x := v[0]
			if x.DType != graph.Float32 {
				return nil
			}
			if len(x.Shape) == 0 {
				return errors.New("is a scalar, want features")
			}
			d := x.Shape[len(x.Shape)-1]
			a, err := sum(o.Key, d)
			if err != nil {
				return err
			}
			return tokens.Runs(x, func(from, to int) { a.Add(x.F32()[from*d:], d, to-from) })
		}
		if o.Conv != nil {
			columns, err := NewColumns(o.Conv, o.Group, samples)
			if err != nil {
				return nil, nil, err
			}
			see = func(v []*runtime.Tensor, _ Mask) error {
				if v[0].DType != graph.Float32 {
					return nil
				}
				var wrong error
				err := columns.Each(v[0], func(_, _ int, column []float32) {
					a, err := sum(o.Key, len(column))
					if err != nil {
						wrong = err
						return
					}
					a.Add(column, len(column), 1)
				})
				return errors.Join(err, wrong)
			}
		}
		out = append(out, &probe{values: []string{o.Value}, see: see})
	}
	return out, func() map[string]*circulant.Moments {
		m := make(map[string]*circulant.Moments, len(sums))
		for name, a := range sums {
			m[name] = a.Moments()
		}
		return m
	}, nil
}
