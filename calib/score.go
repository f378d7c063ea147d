package calib

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/runtime/circulant"
)

// ScoreOptions says what a scoring run gathers.
type ScoreOptions struct {
	Threads  int                   // of the session; 0 means one per processor
	Batch    int                   // samples a run; 0 means DefaultBatch
	Means    bool                  // mean update of every module
	Moments  bool                  // mean and second moments of every weight's input
	Ranges   bool                  // smallest and largest input and output of every weight operator
	Progress func(done, total int) // samples; may be nil

	// Memory is how many bytes weights, data and values may take together; 0
	// means the limit of the data's source. A model that is estimated to take
	// more runs module by module, over all samples each, with the values between
	// them in temporary files (see os.TempDir). Results are the same bits.
	Memory int64
}

// limit is the memory of a run over the feed.
func (o *ScoreOptions) limit(feed *Feed) int64 {
	if o.Memory > 0 {
		return o.Memory
	}
	return feed.source.opts.Limit
}

// Score runs the data through the model once and returns the importance of
// every module, S = 1 − cos(X, Y) ("What Matters in Transformers?", eq. 2),
// and what else opts asks for. Memory does not depend on the number of
// samples; sums are float64 and taken in the order of the data, so the result
// depends neither on threads nor on the batch. Modules inside local functions,
// in the branches of an If and around fused operators are watched in an
// unfolded copy of the model (modules.Unfold). It fails where the model has no
// attention or MLP, and where a value holds NaN or infinity.
func Score(ctx context.Context, m *graph.Model, feed *Feed, opts ScoreOptions) (*Ledger, error) {
	l, err := score(ctx, m, feed, opts)
	if err != nil {
		return nil, fmt.Errorf("score: %w", err)
	}
	return l, nil
}

func score(ctx context.Context, m *graph.Model, feed *Feed, opts ScoreOptions) (*Ledger, error) {
	open, err := modules.Unfold(m)
	if err != nil {
		return nil, err
	}
	all, err := modules.Find(open)
	if err != nil {
		return nil, err
	}
	mods := slices.DeleteFunc(all, func(x modules.Module) bool { return x.Kind == modules.Other })
	if len(mods) == 0 {
		return nil, errors.New("the model has no attention or MLP module; lathe inspect shows what was found")
	}
	g, err := newGatherer(opts.Threads)
	if err != nil {
		return nil, err
	}
	from, to := feed.Range()
	l := &Ledger{Version: LedgerVersion, Model: m.Fingerprint(), Data: feed.Fingerprint(), Total: feed.total,
		Samples: feed.Len(), Parts: [][2]int{{from, to}}}
	s := scorer{gatherer: g, ledger: l, columns: map[string][]float64{}, tokens: map[string]int64{}, owner: map[string]*probe{}}
	for _, mod := range mods {
		l.Modules = append(l.Modules, ModuleScore{ID: mod.ID, Kind: mod.Kind, Layer: mod.Layer, Params: mod.Params,
			FLOPs: mod.FLOPs, KVBytes: kvBytes(mod), Droppable: mod.Droppable, Reason: mod.Reason})
	}
	var probes []*probe
	for i, mod := range mods {
		if mod.Observable() {
			probes = append(probes, s.module(mod, opts.Means, &l.Modules[i].Sums))
		}
	}
	if len(probes) == 0 {
		return nil, fmt.Errorf("no module can be watched; %s: %s", mods[0].ID, mods[0].Reason)
	}
	probes = append(probes, s.blocks(mods)...)
	moments := func() map[string]*circulant.Moments { return nil }
	if opts.Moments {
		var more []*probe
		if more, moments, err = momentProbes(operands(open), feed.Len(), opts.limit(feed)); err != nil {
			return nil, err
		}
		probes = append(probes, more...)
	}
	if opts.Ranges {
		probes = append(probes, l.rangeProbes(open)...)
	}
	if err := observe(ctx, open, feed, probes, opts); err != nil {
		return nil, err
	}
	if opts.Means {
		l.means = s.meansOf(mods)
	}
	l.moments = moments()
	l.Ranges = slices.DeleteFunc(l.Ranges, func(r RangeOf) bool { return r.Value == "" })
	return l, l.finish()
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
		per := []int64{int64(c.Present.Type().Elem.Bits() / 8)}
		for _, d := range c.Present.Type().Shape.Dims {
			if d.IsKnown() && d.N > 0 {
				per = append(per, d.N)
			}
		}
		if n, ok := graph.NumElements(per); ok {
			sum += n
		}
	}
	return sum
}

// scorer is a scoring run.
type scorer struct {
	*gatherer
	ledger  *Ledger
	columns map[string][]float64 // by value: Σ over tokens, where means are asked for
	tokens  map[string]int64     // how many tokens these are
	owner   map[string]*probe    // the probe that sums the value up
}

// watch makes a probe of values of the stream. What it does with every token's
// rows is add to sums.
func (s *scorer) watch(values []string, droppable, means bool, sums *Sums, see func(sums *Sums, at int, f [][]float32, scratch []float32)) *probe {
	p := &probe{values: values}
	if means {
		for _, name := range values {
			if s.owner[name] == nil {
				s.owner[name] = p
			}
		}
	}
	p.see = func(v []*runtime.Tensor, mask Mask) error {
		columns := make([][]float64, len(v))
		for i, name := range values {
			if s.owner[name] == p {
				if s.columns[name] == nil && len(v[i].Shape) > 0 {
					s.columns[name] = make([]float64, v[i].Shape[len(v[i].Shape)-1])
				}
				columns[i] = s.columns[name]
			}
		}
		before := sums.Tokens
		err := s.gatherer.tokens(v, mask, sums, columns, see)
		if err != nil && !droppable {
			// Values of different shapes around what is not dropped anyway
			// leave it without a score.
			return nil
		}
		for i, name := range values {
			if columns[i] != nil {
				s.tokens[name] += sums.Tokens - before
			}
		}
		return err
	}
	return p
}

// module watches the stream around one module: X, what comes out of the merge
// (or, where several branches join in it, the branch alone), and in a post-LN
// model what the norm makes of it.
func (s *scorer) module(mod modules.Module, means bool, sums *Sums) *probe {
	values := []string{mod.Stream.Name, mod.Sum.Name}
	if mod.Parallel {
		values[1] = mod.Branch.Name
	}
	if mod.Norm != nil {
		values = append(values, mod.Norm.Out.Name)
	}
	return s.watch(values, mod.Droppable, means, sums, func(sums *Sums, at int, f [][]float32, scratch []float32) {
		d := len(scratch)
		x, y := f[0][at:at+d], f[1][at:at+d]
		if mod.Parallel {
			s.kernels.Add(scratch, x, y)
			y = scratch
		}
		before := s.distance(x, y)
		after := before
		if mod.Norm != nil {
			after = s.distance(x, f[2][at:at+d])
		}
		sums.token(after, before)
	})
}

// blocks watches the stream around every layer, from where its first module
// reads it to where its last module has left it.
func (s *scorer) blocks(mods []modules.Module) []*probe {
	l := s.ledger
	var values [][]string
	var droppable []bool // as a whole
	for i := 0; i < len(mods); {
		first, last, all := mods[i], mods[i], true
		block := BlockScore{Layer: first.Layer}
		for ; i < len(mods) && mods[i].Layer == first.Layer; i++ {
			block.Modules = append(block.Modules, mods[i].ID)
			last, all = mods[i], all && mods[i].Droppable
		}
		if !first.Observable() || !last.Observable() {
			continue
		}
		end := last.Sum
		if last.Norm != nil {
			end = last.Norm.Out
		}
		l.Blocks = append(l.Blocks, block)
		values = append(values, []string{first.Stream.Name, end.Name})
		droppable = append(droppable, all)
	}
	var out []*probe
	for i := range values {
		out = append(out, s.watch(values[i], droppable[i], false, &l.Blocks[i].Sums, func(sums *Sums, at int, f [][]float32, scratch []float32) {
			d := len(scratch)
			x := s.distance(f[0][at:at+d], f[1][at:at+d])
			sums.token(x, x)
		}))
	}
	return out
}

// meansOf takes the mean updates of modules from the sums of the values around
// them, Σ f(X) = Σ (X + f(X)) − Σ X.
func (s *scorer) meansOf(mods []modules.Module) map[string]meanSum {
	out := map[string]meanSum{}
	for _, mod := range mods {
		if !mod.Observable() {
			continue
		}
		x := s.columns[mod.Stream.Name]
		minusX := func(y []float64) []float64 {
			if len(y) != len(x) {
				return nil // the module has no score either
			}
			z := slices.Clone(y)
			for i := range z {
				z[i] -= x[i]
			}
			return z
		}
		m := meanSum{Tokens: s.tokens[mod.Stream.Name]}
		if mod.Parallel {
			m.Branch = slices.Clone(s.columns[mod.Branch.Name])
		} else {
			m.Branch = minusX(s.columns[mod.Sum.Name])
		}
		if mod.Norm != nil {
			m.Unit = minusX(s.columns[mod.Norm.Out.Name])
		}
		if m.Tokens > 0 && m.Branch != nil {
			out[mod.ID] = m
		}
	}
	return out
}

// rangeProbes gathers the range of every weight operator's input and output.
// A value that is never seen, or is not float, keeps a range without a name.
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
		out = append(out, &probe{values: []string{name}, see: func(v []*runtime.Tensor, _ Mask) error {
			if v[0].DType != graph.Float32 || v[0].Len() == 0 {
				return nil
			}
			data := v[0].F32()
			low, high := slices.Min(data), slices.Max(data)
			if !(low >= -math.MaxFloat32 && high <= math.MaxFloat32) {
				return errors.New("holds NaN or infinity; check the weights and the data")
			}
			if r := &l.Ranges[i]; r.Value == "" {
				*r = RangeOf{Value: name, Min: low, Max: high}
			} else {
				r.Min, r.Max = min(r.Min, low), max(r.Max, high)
			}
			return nil
		}})
	}
	return out
}
