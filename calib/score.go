package calib

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/runtime/circulant"
	"gorgonia.org/tensor"
)

// ScoreOptions says what a scoring run gathers.
type ScoreOptions struct {
	Threads  int                   // of the session; 0 means all cores
	Batch    int                   // samples a run; 0 means DefaultBatch
	Means    bool                  // mean update of every module
	Moments  bool                  // mean and second moments of every weight's input
	Ranges   bool                  // smallest and largest output of every weight operator
	Progress func(done, total int) // samples; may be nil
}

// DefaultBatch is how many samples are run at once where the model allows it:
// enough to fill the kernels, small enough for a large model's activations.
const DefaultBatch = 8

// probe is one group of values of the model that is looked at together, and
// what is done with them.
type probe struct {
	values []string
	see    func(v []*runtime.Tensor, tokens Mask) error
}

// Mask says which tokens of a batch count.
type Mask struct {
	samples int
	keep    []bool // [samples · tokens a sample]; nil where all do
}

// Score runs the data through the model once and returns the importance of
// every module, S = 1 − cos(X, Y) ("What Matters in Transformers?", eq. 2),
// and what else opts asks for. Memory does not depend on the number of
// samples; sums are float64 and taken in the order of the data, so the result
// depends neither on threads nor on the batch.
func Score(ctx context.Context, m *graph.Model, feed *Feed, opts ScoreOptions) (*Ledger, error) {
	mods, err := modules.Find(m)
	if err != nil {
		return nil, fmt.Errorf("score: %w", err)
	}
	l := &Ledger{Version: LedgerVersion, Model: m.Fingerprint(), Data: feed.Fingerprint(), Total: feed.source.len()}
	from, to := feed.Range()
	l.Parts = [][2]int{{from, to}}
	var probes []*probe
	for _, mod := range mods {
		if mod.Kind == modules.Other {
			continue
		}
		l.Modules = append(l.Modules, ModuleScore{ID: mod.ID, Kind: mod.Kind, Layer: mod.Layer, Params: mod.Params,
			FLOPs: mod.FLOPs, KVBytes: kvBytes(mod), Droppable: mod.Droppable, Reason: mod.Reason})
	}
	if len(l.Modules) == 0 {
		return nil, errors.New("score: the model has no attention or MLP module; lathe inspect shows what was found")
	}
	l.means = map[string]Mean{}
	for i, k := 0, 0; i < len(mods); i++ {
		if mods[i].Kind == modules.Other {
			continue
		}
		if mods[i].Observable() {
			probes = append(probes, l.moduleProbe(mods[i], k, opts))
		}
		k++
	}
	if len(probes) == 0 {
		return nil, fmt.Errorf("score: no module can be watched; %s: %s", l.Modules[0].ID, l.Modules[0].Reason)
	}
	probes = append(probes, l.blockProbes(mods)...)
	var moments func() map[string]*circulant.Moments
	if opts.Moments {
		var more []*probe
		more, moments = momentProbes(m)
		probes = append(probes, more...)
	}
	if opts.Ranges {
		probes = append(probes, l.rangeProbes(m)...)
	}
	if err := observe(ctx, m, feed, probes, opts); err != nil {
		return nil, fmt.Errorf("score: %w", err)
	}
	l.Samples = feed.Len()
	if moments != nil {
		l.moments = moments()
	}
	if err := l.finish(); err != nil {
		return nil, fmt.Errorf("score: %w", err)
	}
	return l, nil
}

func (s *Source) len() int {
	if s.cases != nil {
		return len(s.cases)
	}
	n := 0
	for _, a := range s.arrays {
		if len(a.Shape) > 0 {
			n = max(n, a.Shape[0])
		}
	}
	return n
}

// kvBytes is what the cache of an attention takes for one token: heads ·
// width of its keys and values, 0 where the model has no cache or its widths
// are open.
func kvBytes(m modules.Module) int64 {
	var sum int64
	for _, c := range m.Caches {
		if c.Present == nil || c.Present.Type() == nil || c.Present.Type().Shape == nil {
			continue
		}
		per := int64(c.Present.Type().Elem.Bits() / 8)
		for _, d := range c.Present.Type().Shape.Dims {
			if d.IsKnown() && d.N > 0 && d.N < 1<<20 {
				per *= d.N
			}
		}
		sum += per
	}
	return sum
}

// observe runs the data through the model and shows every probe its values.
func observe(ctx context.Context, m *graph.Model, feed *Feed, probes []*probe, opts ScoreOptions) error {
	groups := make([][]string, len(probes))
	for i, p := range probes {
		groups[i] = p.values
	}
	prog, err := runtime.Compile(m, runtime.Options{Probes: groups})
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
// from … to−1 and their inputs; size 0 means DefaultBatch.
func Batches(ctx context.Context, feed *Feed, size int, progress func(done, total int), f func(from, to int, in map[string]tensor.Tensor) error) error {
	if size <= 0 {
		size = DefaultBatch
	}
	if limit := feed.MaxBatch(); limit > 0 {
		size = min(size, limit)
	}
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

// MaskOf reads which tokens count from an attention mask among the inputs,
// an integer or bool array [samples, tokens] with "mask" in its name.
func MaskOf(in map[string]tensor.Tensor, samples int) (Mask, error) {
	out := Mask{samples: samples}
	for name, d := range in {
		if !strings.Contains(strings.ToLower(name), "mask") || len(d.Shape()) != 2 || d.Shape()[0] != samples {
			continue
		}
		t, err := runtime.FromDense(d)
		if err != nil {
			return out, err
		}
		keep := make([]bool, t.Len())
		all := true
		for i := range keep {
			switch t.DType {
			case graph.Int64:
				keep[i] = t.I64()[i] != 0
			case graph.Int32:
				keep[i] = t.I32()[i] != 0
			case graph.Bool:
				keep[i] = t.Bools()[i]
			default:
				keep[i] = true
			}
			all = all && keep[i]
		}
		if !all {
			out.keep = keep
		}
	}
	return out, nil
}

// tokens calls f for every token of x that counts, in order, with its row
// number, and says after which rows a sample ends. x is [samples, …, d].
func (m Mask) tokens(x *runtime.Tensor, f func(row int), sampleEnd func()) error {
	if len(x.Shape) == 0 {
		return errors.New("is a scalar, want [samples, tokens, features]")
	}
	d := x.Shape[len(x.Shape)-1]
	if d == 0 {
		return errors.New("has no features")
	}
	rows := x.Len() / d
	samples := m.samples
	if samples == 0 || rows%samples != 0 {
		samples = 1
	}
	per := rows / samples
	keep := m.keep
	if len(keep) != rows {
		keep = nil
	}
	for s := range samples {
		for r := s * per; r < (s+1)*per; r++ {
			if keep == nil || keep[r] {
				f(r)
			}
		}
		sampleEnd()
	}
	return nil
}

// Runs calls f for every longest run from … to−1 of tokens of x [samples, …,
// d] that count, in order.
func (m Mask) Runs(x *runtime.Tensor, f func(from, to int)) error {
	start, end := 0, 0
	err := m.tokens(x, func(r int) {
		if r != end {
			if end > start {
				f(start, end)
			}
			start = r
		}
		end = r + 1
	}, func() {})
	if err == nil && end > start {
		f(start, end)
	}
	return err
}

// moduleProbe watches the stream around one module: X, what comes out of the
// merge (or, where several branches join in it, the branch alone), and in a
// post-LN model what the norm makes of it.
func (l *Ledger) moduleProbe(mod modules.Module, at int, opts ScoreOptions) *probe {
	sums := &l.Modules[at].Sums
	p := &probe{values: []string{mod.Stream.Name, mod.Branch.Name}}
	if !mod.Parallel {
		p.values[1] = mod.Sum.Name
	}
	if mod.Norm != nil {
		p.values = append(p.values, mod.Norm.Out.Name)
	}
	p.see = func(v []*runtime.Tensor, tokens Mask) error {
		f := make([][]float32, len(v))
		for i, t := range v {
			if t.DType != graph.Float32 {
				return fmt.Errorf("are %v; only float models can be scored", t.DType)
			}
			if t.Len() != v[0].Len() {
				return fmt.Errorf("have shapes %v and %v", v[0].Shape, t.Shape)
			}
			f[i] = t.F32()
		}
		d := 0
		if n := len(v[0].Shape); n > 0 {
			d = v[0].Shape[n-1]
		}
		mean := l.means[mod.ID]
		if opts.Means && mean.Branch == nil {
			mean.Branch = make([]float64, d)
			if mod.Norm != nil {
				mean.Unit = make([]float64, d)
			}
		}
		if opts.Means && len(mean.Branch) != d {
			return fmt.Errorf("have %d features, %d before", d, len(mean.Branch))
		}
		y := make([]float32, d)
		var score, count float64
		err := tokens.tokens(v[0], func(r int) {
			x, sum := f[0][r*d:(r+1)*d], f[1][r*d:(r+1)*d]
			if mod.Parallel {
				for i := range y {
					y[i] = x[i] + sum[i]
				}
				sum = y
			}
			before := oneMinusCos(x, sum)
			s := before
			if mod.Norm != nil {
				s = oneMinusCos(x, f[2][r*d:(r+1)*d])
			}
			sums.token(s, before)
			score += s
			count++
			if opts.Means {
				mean.Tokens++
				for i := range mean.Branch {
					mean.Branch[i] += float64(sum[i]) - float64(x[i])
				}
				for i := range mean.Unit {
					mean.Unit[i] += float64(f[2][r*d+i]) - float64(x[i])
				}
			}
		}, func() {
			sums.sample(score, count)
			score, count = 0, 0
		})
		if opts.Means {
			l.means[mod.ID] = mean
		}
		return err
	}
	return p
}

// blockProbes watches the stream around every layer, from where its first
// module reads it to where its last module has left it.
func (l *Ledger) blockProbes(mods []modules.Module) []*probe {
	var out []*probe
	for i := 0; i < len(mods); {
		first := mods[i]
		if first.Kind == modules.Other {
			i++
			continue
		}
		block := BlockScore{Layer: first.Layer}
		last := first
		for ; i < len(mods) && (mods[i].Kind == modules.Other || mods[i].Layer == first.Layer); i++ {
			if mods[i].Kind != modules.Other {
				block.Modules = append(block.Modules, mods[i].ID)
				last = mods[i]
			}
		}
		end := last.Sum
		if last.Norm != nil {
			end = last.Norm.Out
		}
		if !first.Observable() || !last.Observable() {
			continue
		}
		at := len(l.Blocks)
		l.Blocks = append(l.Blocks, block)
		out = append(out, &probe{values: []string{first.Stream.Name, end.Name}, see: func(v []*runtime.Tensor, tokens Mask) error {
			sums := &l.Blocks[at].Sums
			if v[0].Len() != v[1].Len() || v[0].DType != graph.Float32 || v[1].DType != graph.Float32 {
				return fmt.Errorf("are %v%v and %v%v", v[0].DType, v[0].Shape, v[1].DType, v[1].Shape)
			}
			x, y := v[0].F32(), v[1].F32()
			d := 0
			if n := len(v[0].Shape); n > 0 {
				d = v[0].Shape[n-1]
			}
			var score, count float64
			return tokens.tokens(v[0], func(r int) {
				s := oneMinusCos(x[r*d:(r+1)*d], y[r*d:(r+1)*d])
				sums.token(s, s)
				score += s
				count++
			}, func() {
				sums.sample(score, count)
				score, count = 0, 0
			})
		}})
	}
	return out
}

// oneMinusCos is 1 − x·y / (|x| |y|), 0 where both are zero and 1 where one
// is.
func oneMinusCos(x, y []float32) float64 {
	var xy, xx, yy float64
	y = y[:len(x)]
	for i := range x {
		a, b := float64(x[i]), float64(y[i])
		xy += a * b
		xx += a * a
		yy += b * b
	}
	if xx == 0 || yy == 0 {
		if xx == yy {
			return 0
		}
		return 1
	}
	return 1 - xy/math.Sqrt(xx)/math.Sqrt(yy)
}

// weightNodes lists the nodes of the main graph that multiply an activation
// by a constant matrix, with the activation.
func weightNodes(m *graph.Model) (nodes []*graph.Node, inputs []*graph.Value) {
	for _, n := range m.Graph.Nodes() {
		if n.Is("MatMul", "Gemm") && n.Input(0) != nil && n.Input(1) != nil &&
			n.Input(0).ConstTensor() == nil && n.Input(1).ConstTensor() != nil {
			nodes = append(nodes, n)
			inputs = append(inputs, n.Input(0))
		}
	}
	return nodes, inputs
}

// momentProbes gathers the moments of every distinct input of a weight.
// Tokens of Gemm(transA = 1) lie along the other axis and are left out.
func momentProbes(m *graph.Model) ([]*probe, func() map[string]*circulant.Moments) {
	acc := map[string]*circulant.Accumulator{}
	var out []*probe
	seen := map[*graph.Value]bool{}
	nodes, inputs := weightNodes(m)
	for i, v := range inputs {
		if seen[v] || nodes[i].Int("transA", 0) != 0 {
			continue
		}
		seen[v] = true
		out = append(out, &probe{values: []string{v.Name}, see: func(t []*runtime.Tensor, tokens Mask) error {
			x := t[0]
			if x.DType != graph.Float32 {
				return nil // a weight of another type is not rewritten
			}
			if len(x.Shape) == 0 {
				return errors.New("is a scalar")
			}
			d := x.Shape[len(x.Shape)-1]
			mo := acc[v.Name]
			if mo == nil {
				mo = circulant.NewAccumulator(d)
				acc[v.Name] = mo
			}
			return tokens.Runs(x, func(from, to int) { mo.Add(x.F32()[from*d:], d, to-from) })
		}})
	}
	return out, func() map[string]*circulant.Moments {
		m := make(map[string]*circulant.Moments, len(acc))
		for name, a := range acc {
			m[name] = a.Moments()
		}
		return m
	}
}

// rangeProbes gathers the range of every weight operator's input and output.
func (l *Ledger) rangeProbes(m *graph.Model) []*probe {
	var names []string
	nodes, inputs := weightNodes(m)
	for i, n := range nodes {
		for _, v := range []*graph.Value{inputs[i], n.Output(0)} {
			if !slices.Contains(names, v.Name) {
				names = append(names, v.Name)
			}
		}
	}
	l.Ranges = make([]RangeOf, len(names))
	var out []*probe
	for i, name := range names {
		first := true
		out = append(out, &probe{values: []string{name}, see: func(t []*runtime.Tensor, _ Mask) error {
			if t[0].DType != graph.Float32 || t[0].Len() == 0 {
				return nil
			}
			data := t[0].F32()
			r := &l.Ranges[i]
			if first {
				*r = RangeOf{Value: name, Min: data[0], Max: data[0]}
				first = false
			}
			r.Min, r.Max = min(r.Min, slices.Min(data)), max(r.Max, slices.Max(data))
			return nil
		}})
		l.Ranges[i].Value = name
	}
	return out
}
