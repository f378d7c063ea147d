// Package optimize is the whole way in one call: score, drop, rewrite, and
// compare what came of it with the original and with controls.
package optimize

import (
	"context"
	"errors"
	"fmt"
	gort "runtime"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
)

// Options says what is done to the model and how it is judged.
type Options struct {
	Select    passes.SelectOptions // Count 0 drops nothing; Ledger, Feed and Drop.Means are filled in
	Circulant passes.CirculantOptions
	// Rewrite tells whether weights become block-circulant at all.
	Rewrite bool
	// Budget, where it is set, chooses what to drop and the block size of
	// every layer, in place of Select and Circulant.Block. Its data and its
	// ledger, and how layers are fitted and modules dropped, are filled in.
	Budget *passes.AllocateOptions
	// Controls adds models with as many modules dropped at random and from
	// the end, to be compared with.
	Controls bool
	// FitSamples bounds the samples that a fit uses; 0 means all.
	FitSamples int

	Calibration *calib.Source // what scores, selects and fits
	Evaluation  *calib.Source // what judges; nil means Calibration
	Eval        calib.EvalOptions
	Threads     int
	Progress    func(stage string) func(done, total int) // may be nil
}

// Variant is one model that was compared.
type Variant struct {
	Name       string
	Model      *graph.Model
	Control    bool
	Dropped    []string
	Parameters int64
	FLOPs      int64 // of the modules, for one token
	Bytes      int64 // of the file
	Quality    calib.Evaluation
	ToOriginal calib.Evaluation // KL to the original

	// Times tells where the time of one sample goes, by kind of operator; of
	// the original and the final model.
	Times []OperatorTime
}

// OperatorTime is the time that the operators of one kind take.
type OperatorTime struct {
	Kind   string
	Ms     float64 // for one sample
	GFLOPS float64 // a second, of products and convolutions; 0 for other kinds
}

// Result is what Run did.
type Result struct {
	Ledger   *calib.Ledger
	Dropped  []string
	Layers   []passes.CirculantLayer
	Search   *passes.Allocation // how a budget was met; nil without one
	Journal  *passes.Journal
	Variants []Variant // the original first, then each step, then the controls
	Final    *graph.Model
	// Peak is the GFLOP/s that the threads could compute at most, measured.
	Peak float64
	// SameData tells that the model was judged on what it was fitted on.
	SameData bool
}

// Run scores m, drops modules, rewrites layers and compares. m is not changed.
func Run(ctx context.Context, m *graph.Model, o Options) (*Result, error) {
	if o.Calibration == nil {
		return nil, errors.New("optimize needs calibration data")
	}
	progress := o.Progress
	if progress == nil {
		progress = func(string) func(int, int) { return nil }
	}
	r := &Result{Journal: &passes.Journal{}}
	feed, err := Bind(m, o.Calibration)
	if err != nil {
		return nil, err
	}
	r.Ledger, err = calib.Score(ctx, m, feed, calib.ScoreOptions{Threads: o.Threads, Means: true, Progress: progress("score")})
	if err != nil {
		return nil, err
	}
	work := m.Clone()
	r.Variants = []Variant{{Name: "original", Model: m}}
	drop := o.Select.Drop
	drop.Means = r.Ledger.MeanUpdate
	switch {
	case o.Budget != nil:
		b := *o.Budget
		b.Feed, b.Drop, b.Circulant, b.Threads, b.Progress = feed, drop, o.Circulant, o.Threads, progress
		if r.Search, err = passes.Allocate(ctx, m, b); err != nil {
			return nil, err
		}
		best := r.Search.Best()
		r.Dropped = best.Dropped
		o.Circulant.Block, o.Circulant.Blocks, o.Rewrite = 0, best.Blocks, len(best.Blocks) > 0
		o.Select.Count = len(r.Dropped) // as many for the controls
	case o.Select.Count > 0:
		s := o.Select
		s.Ledger, s.Feed, s.Drop, s.Threads = r.Ledger, feed, drop, o.Threads
		s.Progress = progress("select")
		if r.Dropped, err = passes.Select(ctx, m, s); err != nil {
			return nil, err
		}
	}
	if len(r.Dropped) > 0 {
		if err := passes.Run(ctx, work, r.Journal, passes.DropModules(r.Dropped, drop)); err != nil {
			return nil, err
		}
		r.Variants = append(r.Variants, Variant{Name: "modules dropped", Model: work.Clone(), Dropped: r.Dropped})
	}
	if o.Rewrite {
		c := o.Circulant
		c.Threads, c.Progress = o.Threads, progress("fit")
		if c.Fit != passes.FitFrobenius {
			f, err := Bind(work, o.Calibration)
			if err != nil {
				return nil, err
			}
			c.Feed = f.Spread(o.FitSamples)
		}
		c.Layer = func(l passes.CirculantLayer) { r.Layers = append(r.Layers, l) }
		if err := passes.Run(ctx, work, r.Journal, passes.RewriteCirculant(c), passes.EliminateDeadCode()); err != nil {
			return nil, err
		}
		r.Variants = append(r.Variants, Variant{Name: "block-circulant, b = " + r.blocks(), Model: work, Dropped: r.Dropped})
	}
	r.Final = work
	if o.Controls && o.Select.Count > 0 {
		if err := r.controls(ctx, m, feed, o, drop); err != nil {
			return nil, err
		}
	}
	return r, r.compare(ctx, o, progress)
}

// blocks gives the block sizes of the rewritten layers.
func (r *Result) blocks() string {
	if len(r.Layers) == 0 {
		return "1"
	}
	small, large := r.Layers[0].Block, r.Layers[0].Block
	for _, l := range r.Layers {
		small, large = min(small, l.Block), max(large, l.Block)
	}
	if small == large {
		return fmt.Sprint(small)
	}
	return fmt.Sprintf("%d … %d", small, large)
}

// Bind binds data to the inputs of a model.
func Bind(m *graph.Model, src *calib.Source) (*calib.Feed, error) {
	ports, err := runtime.Ports(m)
	if err != nil {
		return nil, err
	}
	return src.Bind(ports)
}

// controls drops as many units at random, and the deepest. The choice that
// was made has to beat them.
func (r *Result) controls(ctx context.Context, m *graph.Model, feed *calib.Feed, o Options, drop passes.DropOptions) error {
	for _, by := range []passes.Selector{passes.ByCosine, passes.ByRandom, passes.ByDeepest} {
		if by == o.Select.By || by == passes.ByCosine && o.Select.By == "" {
			continue
		}
		s := o.Select
		s.By, s.Iterative, s.Ledger, s.Feed, s.Drop = by, false, r.Ledger, feed, drop
		ids, err := passes.Select(ctx, m, s)
		if err != nil {
			return fmt.Errorf("control %s: %w", by, err)
		}
		c := m.Clone()
		if err := passes.Run(ctx, c, &passes.Journal{}, passes.DropModules(ids, drop)); err != nil {
			return fmt.Errorf("control %s: %w", by, err)
		}
		r.Variants = append(r.Variants, Variant{Name: "control: dropped by " + string(by), Model: c, Control: true, Dropped: ids})
	}
	return nil
}

// compare judges every variant on the evaluation data.
func (r *Result) compare(ctx context.Context, o Options, progress func(string) func(int, int)) error {
	src := o.Evaluation
	if src == nil || src.Fingerprint() == o.Calibration.Fingerprint() {
		src, r.SameData = o.Calibration, true
	}
	models := make([]*graph.Model, len(r.Variants))
	for i := range r.Variants {
		v := &r.Variants[i]
		models[i] = v.Model
		v.Parameters = v.Model.Parameters()
		b, err := v.Model.Encode()
		if err != nil {
			return err
		}
		v.Bytes = int64(len(b))
		if v.FLOPs, err = flops(v.Model); err != nil {
			return err
		}
	}
	e := o.Eval
	e.Threads = o.Threads
	e.Progress = progress("compare")
	quality, err := calib.Evaluate(ctx, models, src, e)
	if err != nil {
		return err
	}
	kl := quality
	if e.Metric != calib.MetricKL {
		e.Metric, e.Progress = calib.MetricKL, progress("compare with the original")
		if kl, err = calib.Evaluate(ctx, models, src, e); err != nil {
			return err
		}
	}
	for i := range r.Variants {
		r.Variants[i].Quality, r.Variants[i].ToOriginal = quality[i], kl[i]
	}
	for i := range r.Variants {
		if v := &r.Variants[i]; i == 0 || v.Model == r.Final {
			if v.Times, err = times(ctx, v.Model, src, e); err != nil {
				return err
			}
		}
	}
	flops, _, err := runtime.Peak("")
	threads := o.Threads
	if threads < 1 {
		threads = gort.GOMAXPROCS(0)
	}
	r.Peak = flops / 1e9 * float64(threads)
	return err
}

// times measures where the time of one sample goes.
func times(ctx context.Context, m *graph.Model, src *calib.Source, o calib.EvalOptions) ([]OperatorTime, error) {
	kinds, samples, err := calib.Profile(ctx, m, src, o)
	if err != nil {
		return nil, err
	}
	var out []OperatorTime
	for _, k := range kinds {
		out = append(out, OperatorTime{k.Kind, k.Total.Seconds() * 1e3 / float64(samples), float64(k.FLOPs) / max(float64(k.Total.Nanoseconds()), 1)})
	}
	return out, nil
}

// flops sums the operations of a model's modules for one token.
func flops(m *graph.Model) (int64, error) {
	list, err := modules.Find(m)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, x := range list {
		sum += x.FLOPs
	}
	return sum, nil
}
