// Package optimize is the whole way in one call: score, drop, rewrite, heal, and
// compare what came of it with the original and with controls. [Run] takes a list of
// steps; each is an option struct of package passes or train. Result.Final is the
// model to save.
package optimize

import (
	"context"
	"errors"
	"fmt"
	gort "runtime"
	"slices"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/passes/train"
	"github.com/onnx-lathe/lathe/runtime"
)

// Options says what is done to the model and how it is judged.
type Options struct {
	Steps []Step // in order; none only scores and measures the original
	// Controls adds models with as many modules dropped at random and from
	// the end, to be compared with.
	Controls bool

	Calibration *calib.Source                            // what scores, selects, fits and heals
	Evaluation  *calib.Source                            // what judges; nil means Calibration
	Eval        calib.EvalOptions                        // the metric has no default; Threads and Progress are filled in
	Threads     int                                      // 0 means one per processor
	Progress    func(stage string) func(done, total int) // may be nil, and so may what it returns
	Healing     func(train.Status)                       // told of every step of a healing; may be nil
}

// Step is one thing that is done to the model: exactly one field is set. Data,
// ledgers, threads and progress are filled in.
type Step struct {
	Drop      *passes.SelectOptions
	Circulant *Circulant
	Budget    *passes.AllocateOptions // chooses modules and block sizes, and does both
	Heal      *train.Options          // learns from the original
	Quantize  *Quantize               // nothing but another of its kind and Compact come behind
	Compact   bool                    // shares what is equal and shortens names; changes no output
}

// Circulant rewrites layers.
type Circulant struct {
	passes.CirculantOptions
	Samples int // that a fit uses, spread over the data; 0 for all
}

// Quantize puts layers into 16-bit fixed point.
type Quantize struct {
	passes.QuantizeOptions
	Samples int // that ranges are taken from, spread over the data; 0 for all
}

// Variant is one model that was compared.
type Variant struct {
	Name       string // says what was done, such as "modules dropped, healed"
	Model      *graph.Model
	Control    bool     // not on the way to the final model
	Dropped    []string // ids of modules, in the order of the selection
	Parameters int64
	FLOPs      int64            // see modules.FLOPs; in fixed point those of the float form
	Bytes      int64            // of the file
	Quality    calib.Evaluation // by Options.Eval
	ToOriginal calib.Evaluation // KL to the original

	// Times tells where the time of one sample goes, by kind of operator; of
	// the original and the final model.
	Times []OperatorTime
}

// OperatorTime is the time that the operators of one kind take.
type OperatorTime struct {
	Kind   string  // as in runtime.KindTime
	Ms     float64 // for one sample, in milliseconds
	GFLOPS float64 // 10⁹ operations a second, of products and convolutions; 0 for other kinds
}

// Result is what Run did.
type Result struct {
	Ledger   *calib.Ledger           // scores of the original
	Dropped  []string                // ids of modules, in the order of the steps
	Layers   []passes.CirculantLayer // that were rewritten
	Fixed    []passes.QuantizedLayer // that were put into fixed point
	Search   *passes.Allocation      // how a budget was met; nil without one
	Healings []Healing               // in the order of the steps
	Journal  *passes.Journal         // what passes changed
	Variants []Variant               // the original first, then each step, then the controls
	Final    *graph.Model            // what the last step gave
	// Peak is how many 10⁹ floating-point operations a second the threads could
	// compute at most: see runtime.Peak.
	Peak float64
	// SameData tells that the model was judged on what it was fitted on.
	SameData bool
}

// Healing is what a healing came to.
type Healing struct {
	Variant string // name of the one that came of it
	*train.Result
}

// Run scores m, takes the steps, and compares what came of each with m and
// with controls. m is not changed. Besides what the steps take it measures the speed
// of the first and the last model, for some tenths of a second each. Steps that cannot
// be taken in their order, or this model, are errors before anything is computed.
func Run(ctx context.Context, m *graph.Model, o Options) (*Result, error) {
	if o.Calibration == nil {
		return nil, errors.New("optimize needs calibration data")
	}
	if o.Progress == nil {
		o.Progress = func(string) func(int, int) { return nil }
	}
	if err := inOrder(o.Steps); err != nil {
		return nil, err
	}
	feed, err := o.Calibration.Feed(m)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(o.Steps, func(s Step) bool { return s.Heal != nil }); i >= 0 {
		t := *o.Steps[i].Heal
		t.Teacher = m
		if err := train.Check(m, t, o.Calibration.Runtime()); err != nil {
			return nil, fmt.Errorf("step %d cannot heal this model: %w; leave healing out", i+1, err)
		}
	}
	r := &run{Result: &Result{Journal: &passes.Journal{}}, o: o, original: m, work: m.Clone(), name: "original"}
	found, err := modules.Find(m)
	if err != nil {
		return nil, err
	}
	// A network without modules, as of convolutions, has nothing to score: its layers
	// can be rewritten and healed.
	r.Ledger = &calib.Ledger{Version: calib.LedgerVersion, Model: m.Fingerprint(), Data: feed.Fingerprint(), Samples: feed.Len()}
	if len(found) > 0 {
		if r.Ledger, err = r.score(ctx, m, feed); err != nil {
			return nil, err
		}
		r.current = r.Ledger
	}
	r.keep()
	for i, s := range o.Steps {
		var err error
		switch {
		case s.Drop != nil:
			err = r.drop(ctx, *s.Drop)
		case s.Circulant != nil:
			err = r.circulant(ctx, *s.Circulant)
		case s.Budget != nil:
			err = r.budget(ctx, *s.Budget)
		case s.Heal != nil:
			err = r.heal(ctx, *s.Heal)
		case s.Quantize != nil:
			err = r.quantize(ctx, *s.Quantize)
		case s.Compact:
			err = r.compact(ctx)
		default:
			err = errors.New("is empty")
		}
		if err != nil {
			return nil, fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	r.Final = r.Variants[len(r.Variants)-1].Model
	if o.Controls && len(r.Dropped) > 0 {
		if err := r.controls(ctx, m, feed); err != nil {
			return nil, err
		}
	}
	return r.Result, r.compare(ctx, o, o.Progress)
}

// inOrder refuses steps that change what is in fixed point already: integers have
// no gradients, and layers to drop or to rewrite are found by their float form.
func inOrder(steps []Step) error {
	first := slices.IndexFunc(steps, func(s Step) bool { return s.Quantize != nil })
	for i := first + 1; first >= 0 && i < len(steps); i++ {
		what := ""
		switch s := steps[i]; {
		case s.Heal != nil:
			what = "heal: integers have no gradients"
		case s.Drop != nil:
			what = "drop modules: they are found by their float form"
		case s.Circulant != nil, s.Budget != nil:
			what = "rewrite layers: they are found by their float form"
		default:
			continue
		}
		return fmt.Errorf("step %d cannot %s, and step %d puts them into fixed point; quantize last", i+1, what, first+1)
	}
	return nil
}

// run is the state of an optimization.
type run struct {
	*Result
	o        Options
	original *graph.Model
	work     *graph.Model
	current  *calib.Ledger // of work as far as modules go; nil: score it anew
	selected passes.SelectOptions
	name     string // of work
}

// keep lists work as it is now.
func (r *run) keep() {
	r.Variants = append(r.Variants, Variant{Name: r.name, Model: r.work.Clone(), Dropped: slices.Clone(r.Dropped)})
}

func (r *run) score(ctx context.Context, m *graph.Model, feed *calib.Feed) (*calib.Ledger, error) {
	return calib.Score(ctx, m, feed, calib.ScoreOptions{Threads: r.o.Threads, Means: true, Progress: r.o.Progress("score")})
}

// dropping completes how modules are dropped from work.
func (r *run) dropping(ctx context.Context, feed *calib.Feed, d passes.DropOptions) (passes.DropOptions, error) {
	var err error
	if r.current == nil {
		if r.current, err = r.score(ctx, r.work, feed); err != nil {
			return d, err
		}
	}
	d.Means = r.current.MeanUpdate
	return d, nil
}

func (r *run) drop(ctx context.Context, s passes.SelectOptions) error {
	if s.Count == 0 {
		return nil
	}
	feed, err := r.o.Calibration.Feed(r.work)
	if err != nil {
		return err
	}
	if s.Drop, err = r.dropping(ctx, feed, s.Drop); err != nil {
		return err
	}
	s.Ledger, s.Feed, s.Threads, s.Progress = r.current, feed, r.o.Threads, r.o.Progress("select")
	ids, err := passes.Select(ctx, r.work, s)
	if err != nil {
		return err
	}
	r.selected = s
	return r.dropThese(ctx, ids, s.Drop)
}

func (r *run) dropThese(ctx context.Context, ids []string, d passes.DropOptions) error {
	if len(ids) == 0 {
		return nil
	}
	if err := passes.Run(ctx, r.work, r.Journal, passes.DropModules(ids, d)); err != nil {
		return err
	}
	r.Dropped = append(r.Dropped, ids...)
	r.name = "modules dropped"
	r.keep()
	return nil
}

func (r *run) circulant(ctx context.Context, c Circulant) error {
	c.Threads, c.Progress = r.o.Threads, r.o.Progress("fit")
	if c.Fit != passes.FitFrobenius {
		f, err := r.o.Calibration.Feed(r.work)
		if err != nil {
			return err
		}
		c.Feed = f.Spread(c.Samples)
	}
	c.Layer = func(l passes.CirculantLayer) { r.Layers = append(r.Layers, l) }
	if err := passes.Run(ctx, r.work, r.Journal, passes.RewriteCirculant(c.CirculantOptions), passes.EliminateDeadCode()); err != nil {
		return err
	}
	r.current = nil
	r.name = "block-circulant, b = " + r.blocks()
	r.keep()
	return nil
}

func (r *run) budget(ctx context.Context, b passes.AllocateOptions) error {
	feed, err := r.o.Calibration.Feed(r.work)
	if err != nil {
		return err
	}
	if len(r.Ledger.Modules) == 0 {
		b.Modules = false
	} else if b.Drop, err = r.dropping(ctx, feed, b.Drop); err != nil {
		return err
	}
	b.Feed, b.Threads, b.Progress = feed, r.o.Threads, r.o.Progress
	if r.Search, err = passes.Allocate(ctx, r.work, b); err != nil {
		return err
	}
	best := r.Search.Best()
	if err := r.dropThese(ctx, best.Dropped, b.Drop); err != nil {
		return err
	}
	if len(best.Blocks) == 0 {
		return nil
	}
	c := b.Circulant
	c.Block, c.Blocks = 0, best.Blocks
	return r.circulant(ctx, Circulant{c, b.FitSamples})
}

func (r *run) heal(ctx context.Context, t train.Options) error {
	t.Teacher, t.Threads, t.Progress = r.original, r.o.Threads, r.o.Healing
	result, err := train.Run(ctx, r.work, r.o.Calibration, t)
	if err == nil && result.Interrupted {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	r.current = nil
	r.name += ", healed"
	r.Healings = append(r.Healings, Healing{r.name, result})
	r.Journal.Add("heal", "", fmt.Sprintf("%d weights, %d steps", result.Parameters, result.Steps), "to come back to the original's outputs")
	r.keep()
	return nil
}

func (r *run) quantize(ctx context.Context, z Quantize) error {
	feed, err := r.o.Calibration.Feed(r.work)
	if err != nil {
		return err
	}
	before := len(r.Fixed)
	ops, err := modules.FLOPs(r.work)
	if err != nil {
		return err
	}
	z.Feed, z.Threads, z.Progress = feed.Spread(z.Samples), r.o.Threads, r.o.Progress("ranges")
	z.Layer = func(l passes.QuantizedLayer) { r.Fixed = append(r.Fixed, l) }
	if err := passes.Run(ctx, r.work, r.Journal, passes.FoldConstants(), passes.QuantizeInt16(z.QuantizeOptions), passes.EliminateDeadCode()); err != nil {
		return err
	}
	if len(r.Fixed) == before {
		return errors.New("no layer can be put into fixed point; lathe quantize tells why")
	}
	r.name += ", int16"
	r.keep()
	r.Variants[len(r.Variants)-1].FLOPs = ops // as many, of integers, in modules of which the form is gone
	return nil
}

func (r *run) compact(ctx context.Context) error {
	ops := r.Variants[len(r.Variants)-1].FLOPs // known where work is in fixed point
	if err := passes.Run(ctx, r.work, r.Journal, passes.FoldConstants(), passes.ShareEqual(), passes.EliminateDeadCode(), passes.ShortNames()); err != nil {
		return err
	}
	r.name += ", compact"
	r.keep()
	r.Variants[len(r.Variants)-1].FLOPs = ops
	return nil
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

// controls drops as many units at random, and the deepest. The choice that
// was made has to beat them.
func (r *run) controls(ctx context.Context, m *graph.Model, feed *calib.Feed) error {
	s := r.selected
	if s.Count == 0 { // a search chose
		s.By, s.Count = passes.ByLoss, len(r.Dropped)
	}
	s.Drop.Means = r.Ledger.MeanUpdate
	for _, by := range []passes.Selector{passes.ByCosine, passes.ByRandom, passes.ByDeepest} {
		if by == s.By || by == passes.ByCosine && s.By == "" {
			continue
		}
		c := s
		c.By, c.Iterative, c.Ledger, c.Feed, c.Progress = by, false, r.Ledger, feed, nil
		ids, err := passes.Select(ctx, m, c)
		if err != nil {
			return fmt.Errorf("control %s: %w", by, err)
		}
		copied := m.Clone()
		if err := passes.Run(ctx, copied, &passes.Journal{}, passes.DropModules(ids, s.Drop)); err != nil {
			return fmt.Errorf("control %s: %w", by, err)
		}
		r.Variants = append(r.Variants, Variant{Name: "control: dropped by " + string(by), Model: copied, Control: true, Dropped: ids})
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
		if v.FLOPs == 0 {
			if v.FLOPs, err = modules.FLOPs(v.Model); err != nil {
				return err
			}
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
		out = append(out, OperatorTime{k.Kind, k.Total.Seconds() * 1e3 / float64(samples), k.GFLOPS()})
	}
	return out, nil
}
