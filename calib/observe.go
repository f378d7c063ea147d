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

// observe runs the data through the model once and shows every probe its
// values, batch by batch in the order of the data.
func observe(ctx context.Context, m *graph.Model, feed *Feed, probes []*probe, opts ScoreOptions) error {
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
		tokens, err := MaskOf(in, to-from)
		if err != nil {
			return err
		}
		_, err = session.RunProbed(ctx, in, func(i int, v []*runtime.Tensor) error {
			if err := probes[i].see(v, tokens); err != nil {
				return fmt.Errorf("values %s: %w", strings.Join(probes[i].values, ", "), err)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("samples %d … %d: %w", from, to-1, err)
		}
		return nil
	})
}

// Batches calls f for one batch of the feed after another, the samples
// from … to−1 and their inputs; size 0 means DefaultBatch. A model that fixes
// the number of samples gets that many.
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

// Moments runs the data through the model once and returns the mean and second
// moments of the values of these names, over the tokens that count.
func Moments(ctx context.Context, m *graph.Model, feed *Feed, values []string, opts ScoreOptions) (map[string]*circulant.Moments, error) {
	probes, result := momentProbes(values)
	if err := observe(ctx, m, feed, probes, opts); err != nil {
		return nil, fmt.Errorf("moments: %w", err)
	}
	return result(), nil
}

// momentProbes gathers the moments of values. Those of other types than float
// get none: weights of other types are not rewritten.
func momentProbes(values []string) ([]*probe, func() map[string]*circulant.Moments) {
	sums := map[string]*circulant.Accumulator{}
	widths := map[string]int{}
	var out []*probe
	for _, name := range values {
		out = append(out, &probe{values: []string{name}, see: func(v []*runtime.Tensor, tokens Mask) error {
			x := v[0]
			if x.DType != graph.Float32 {
				return nil
			}
			if len(x.Shape) == 0 {
				return errors.New("is a scalar, want features")
			}
			d := x.Shape[len(x.Shape)-1]
			if sums[name] == nil {
				sums[name], widths[name] = circulant.NewAccumulator(d), d
			}
			if d != widths[name] {
				return fmt.Errorf("has %d features, had %d before", d, widths[name])
			}
			return tokens.Runs(x, func(from, to int) { sums[name].Add(x.F32()[from*d:], d, to-from) })
		}})
	}
	return out, func() map[string]*circulant.Moments {
		m := make(map[string]*circulant.Moments, len(sums))
		for name, a := range sums {
			m[name] = a.Moments()
		}
		return m
	}
}
