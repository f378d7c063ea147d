package passes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/calib/metric"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/runtime"
	"gorgonia.org/tensor"
)

// Mode is what a selection chooses among.
type Mode string

const (
	Joint         Mode = "joint"     // attention and MLP modules in one list
	AttentionOnly Mode = "attention" // attention modules
	MLPOnly       Mode = "mlp"       // MLP modules
	Block         Mode = "block"     // whole layers
)

// Modes lists every mode.
var Modes = []Mode{Joint, AttentionOnly, MLPOnly, Block}

// Selector is how a selection ranks.
type Selector string

const (
	ByCosine  Selector = "cosine"  // smallest 1 − cos first ("What Matters in Transformers?")
	ByAngular Selector = "angular" // smallest arccos(cos)/π first
	ByLoss    Selector = "loss"    // greedy: what hurts the KL to the original least, measured anew after each drop
	ByRandom  Selector = "random"  // control: a seeded shuffle
	ByDeepest Selector = "deepest" // control: the last first
)

// Selectors lists every selector.
var Selectors = []Selector{ByCosine, ByAngular, ByLoss, ByRandom, ByDeepest}

// SelectOptions says what Select chooses.
type SelectOptions struct {
	Count     int      // modules, or layers in mode block
	Mode      Mode     // "" means Joint
	By        Selector // "" means ByCosine
	Iterative bool     // score anew after each drop (cosine, angular); needs Feed
	// ProtectFirst and ProtectLast leave so many layers at either end alone.
	ProtectFirst, ProtectLast int
	Seed                      uint64 // of ByRandom

	Ledger   *calib.Ledger // for ByCosine and ByAngular; ByLoss keeps its order there
	Feed     *calib.Feed   // for ByLoss and Iterative
	Drop     DropOptions   // how ByLoss drops when it tries
	Threads  int
	Progress func(done, total int) // trials of ByLoss; may be nil
}

// unit is what is dropped as one: a module, or a layer.
type unit struct {
	ids            []string
	layer          int
	score, angular float64
}

// Select returns the ids of the modules to drop, in the order of the
// selection. Ties go to the earlier module.
func Select(ctx context.Context, m *graph.Model, o SelectOptions) ([]string, error) {
	if o.Mode == "" {
		o.Mode = Joint
	}
	if o.By == "" {
		o.By = ByCosine
	}
	if o.Count == 0 {
		return nil, nil
	}
	units, err := candidates(m, o)
	if err != nil {
		return nil, err
	}
	if o.Count < 0 || o.Count > len(units) {
		return nil, fmt.Errorf("select: %d to drop of %d that can be (mode %s); choose a smaller count", o.Count, len(units), o.Mode)
	}
	switch {
	case o.By == ByLoss:
		return selectByLoss(ctx, m, units, o)
	case o.Iterative && (o.By == ByCosine || o.By == ByAngular):
		return selectIteratively(ctx, m, o)
	case o.By == ByCosine:
		slices.SortStableFunc(units, func(a, b unit) int { return cmp.Compare(a.score, b.score) })
	case o.By == ByAngular:
		slices.SortStableFunc(units, func(a, b unit) int { return cmp.Compare(a.angular, b.angular) })
	case o.By == ByRandom:
		rand.New(rand.NewPCG(o.Seed, 0)).Shuffle(len(units), func(i, j int) { units[i], units[j] = units[j], units[i] })
	case o.By == ByDeepest:
		slices.Reverse(units)
	default:
		return nil, fmt.Errorf("select: no selector %q; there are %v", o.By, Selectors)
	}
	return idsOf(units[:o.Count]), nil
}

func idsOf(units []unit) []string {
	var out []string
	for _, u := range units {
		out = append(out, u.ids...)
	}
	return out
}

// candidates lists what may be dropped in graph order, with scores where the
// selector needs them.
func candidates(m *graph.Model, o SelectOptions) ([]unit, error) {
	if !slices.Contains(Modes, o.Mode) {
		return nil, fmt.Errorf("select: no mode %q; there are %v", o.Mode, Modes)
	}
	scored := (o.By == ByCosine || o.By == ByAngular) && !o.Iterative
	if scored && o.Ledger == nil {
		return nil, fmt.Errorf("select: %s needs scores; give a ledger or data", o.By)
	}
	if scored {
		if err := ledgerFits(m, o.Ledger); err != nil {
			return nil, err
		}
	}
	all, err := modules.Find(m)
	if err != nil {
		return nil, err
	}
	last := -1
	for _, mod := range all {
		last = max(last, mod.Layer)
	}
	var out []unit
	for _, mod := range all {
		if mod.Kind == modules.Other || mod.Layer < o.ProtectFirst || mod.Layer > last-o.ProtectLast {
			continue
		}
		if o.Mode == Block {
			if n := len(out); n > 0 && out[n-1].layer == mod.Layer {
				out[n-1].ids = append(out[n-1].ids, mod.ID)
				continue
			}
		} else if !mod.Droppable ||
			o.Mode == AttentionOnly && mod.Kind == modules.MLP || o.Mode == MLPOnly && mod.Kind != modules.MLP {
			continue
		}
		out = append(out, unit{ids: []string{mod.ID}, layer: mod.Layer})
	}
	if o.Mode == Block { // a layer goes whole or not at all
		out = slices.DeleteFunc(out, func(u unit) bool {
			return slices.ContainsFunc(all, func(mod modules.Module) bool {
				return slices.Contains(u.ids, mod.ID) && !mod.Droppable
			})
		})
	}
	if !scored {
		return out, nil
	}
	for i := range out {
		u := &out[i]
		if o.Mode == Block {
			at := slices.IndexFunc(o.Ledger.Blocks, func(b calib.BlockScore) bool { return b.Layer == u.layer })
			if at < 0 {
				return nil, fmt.Errorf("select: the ledger has no layer %d; score the model again", u.layer)
			}
			u.score, u.angular = o.Ledger.Blocks[at].Score, o.Ledger.Blocks[at].Angular
			continue
		}
		s := o.Ledger.Module(u.ids[0])
		if s == nil {
			return nil, fmt.Errorf("select: the ledger has no module %s; score the model again", u.ids[0])
		}
		u.score, u.angular = s.Score, s.Angular
	}
	return out, nil
}

// ledgerFits reports an error where the ledger was made of another model; the
// ledger of the original also serves a model that modules were dropped from.
func ledgerFits(m *graph.Model, l *calib.Ledger) error {
	h, err := modules.ReadHistory(m)
	if err != nil {
		return err
	}
	if f := m.Fingerprint(); l.Model != f && l.Model != h.Original {
		return fmt.Errorf("the ledger was made of another model (%.19s…, this one is %.19s…); score this model", l.Model, f)
	}
	return nil
}

func selectIteratively(ctx context.Context, m *graph.Model, o SelectOptions) ([]string, error) {
	if o.Feed == nil {
		return nil, errors.New("select: an iterative selection scores after each drop and needs data")
	}
	m = m.Clone()
	var out []string
	count := o.Count
	o.Iterative, o.Count = false, 1
	for k := range count {
		l, err := calib.Score(ctx, m, o.Feed, calib.ScoreOptions{Threads: o.Threads})
		if err != nil {
			return nil, err
		}
		o.Ledger = l
		ids, err := Select(ctx, m, o)
		if err != nil {
			return nil, err
		}
		if err := dropModules("drop-modules", m, &Journal{}, ids, DropOptions{Norm: o.Drop.Norm}); err != nil {
			return nil, err
		}
		out = append(out, ids...)
		if o.Progress != nil {
			o.Progress(k+1, count)
		}
	}
	return out, nil
}

// orderKey names what the order of a loss selection depends on.
func orderKey(o SelectOptions) string {
	from, to := o.Feed.Range()
	return fmt.Sprintf("loss mode=%s norm=%s recover=%s protect=%d,%d data=%s samples=%d of %d:%d",
		o.Mode, cmp.Or(o.Drop.Norm, NormGone), cmp.Or(o.Drop.Recover, RecoverNone), o.ProtectFirst, o.ProtectLast, o.Feed.Fingerprint(), o.Feed.Len(), from, to)
}

// selectByLoss is greedy: of all that is left it drops what leaves the KL of
// the outputs to the original's smallest, and begins again. An order that the
// ledger keeps for the same options is used as far as it goes.
func selectByLoss(ctx context.Context, m *graph.Model, units []unit, o SelectOptions) ([]string, error) {
	key := ""
	var known calib.Order
	if o.Feed != nil {
		key = orderKey(o)
	}
	if o.Ledger != nil && ledgerFits(m, o.Ledger) == nil {
		known = o.Ledger.Orders[key]
	}
	if o.Feed == nil {
		return nil, errors.New("select: loss drops modules on trial and needs data")
	}
	want, err := outputs(ctx, m, o.Feed, o.Threads)
	if err != nil {
		return nil, fmt.Errorf("select: original model: %w", err)
	}
	total, done := 0, 0
	for k := range o.Count {
		total += len(units) - k
	}
	var chosen []unit
	var kls []float64
	left := slices.Clone(units)
	for k := range o.Count {
		best, bestKL := -1, math.Inf(1)
		if k < len(known.IDs) && o.Mode != Block {
			best = slices.IndexFunc(left, func(u unit) bool { return u.ids[0] == known.IDs[k] })
			bestKL = known.KL[k]
		}
		if best < 0 {
			for i, u := range left {
				kl, err := trial(ctx, m, append(slices.Clone(chosen), u), o, want)
				if err != nil {
					if ctx.Err() != nil {
						return nil, err
					}
					continue // cannot be dropped beside those chosen: the last cache, say
				}
				if done++; o.Progress != nil {
					o.Progress(done, total)
				}
				if kl < bestKL {
					best, bestKL = i, kl
				}
			}
		} else {
			done += len(left)
		}
		if best < 0 {
			return nil, fmt.Errorf("select: after %d drops none of the %d units left can be dropped", k, len(left))
		}
		chosen = append(chosen, left[best])
		kls = append(kls, bestKL)
		left = slices.Delete(left, best, best+1)
	}
	if o.Ledger != nil && o.Mode != Block && len(chosen) > len(known.IDs) {
		if o.Ledger.Orders == nil {
			o.Ledger.Orders = map[string]calib.Order{}
		}
		o.Ledger.Orders[key] = calib.Order{IDs: idsOf(chosen), KL: kls}
	}
	return idsOf(chosen), nil
}

// trial drops the modules of units from a copy and measures the mean KL of
// its outputs to the original's.
func trial(ctx context.Context, m *graph.Model, units []unit, o SelectOptions, want [][]float32) (float64, error) {
	c := m.Clone()
	if err := dropModules("drop-modules", c, &Journal{}, idsOf(units), o.Drop); err != nil {
		return 0, err
	}
	got, err := outputs(ctx, c, o.Feed, o.Threads)
	if err != nil {
		return 0, err
	}
	var sum float64
	for i := range want {
		classes := len(want[i])
		if n := lastDim(m); n > 0 {
			classes = n
		}
		kl, err := metric.KL(want[i], got[i], classes)
		if err != nil {
			return 0, err
		}
		sum += kl
	}
	return sum / float64(len(want)), nil
}

// lastDim is the number of classes of the first output, 0 if it is open.
func lastDim(m *graph.Model) int {
	t := m.Graph.Outputs()[0].Type()
	if n := t.Rank(); n > 0 {
		return int(max(t.Shape.Dims[n-1].N, 0))
	}
	return 0
}

// outputs runs the feed and returns the first output, batch by batch.
func outputs(ctx context.Context, m *graph.Model, feed *calib.Feed, threads int) ([][]float32, error) {
	prog, err := runtime.Compile(m, runtime.Options{})
	if err != nil {
		return nil, err
	}
	bound, err := feed.For(prog.Inputs())
	if err != nil {
		return nil, err
	}
	session := prog.NewSession(runtime.SessionOptions{Threads: threads})
	first := prog.Outputs()[0].Name
	var out [][]float32
	err = calib.Batches(ctx, bound, 0, nil, func(_, _ int, in map[string]tensor.Tensor) error {
		res, err := session.Run(ctx, in)
		if err != nil {
			return err
		}
		v, ok := res[first].Data().([]float32)
		if !ok {
			return fmt.Errorf("output %q is %v, want float", first, res[first].Dtype())
		}
		out = append(out, v)
		return nil
	})
	return out, err
}
