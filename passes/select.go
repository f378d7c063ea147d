package passes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/calib/metric"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/runtime"
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
	Count     int      // how many: modules, or layers in mode Block
	Mode      Mode     // "" means Joint
	By        Selector // "" means ByCosine
	Iterative bool     // score anew after each drop (ByCosine, ByAngular); needs Feed
	// ProtectFirst and ProtectLast leave so many layers at either end alone.
	ProtectFirst, ProtectLast int
	Seed                      uint64 // of ByRandom

	Ledger   *calib.Ledger // for ByCosine and ByAngular; ByLoss keeps its order there
	Feed     *calib.Feed   // for ByLoss, unless the ledger has its order, and Iterative
	Samples  int           // of Feed, spread over it, that those measure on; 0: a sixth, at least 64
	Drop     DropOptions   // how ByLoss and Iterative drop when they try
	Threads  int
	Progress func(done, total int) // trials of ByLoss, drops of Iterative; may be nil
}

// unit is what is dropped as one: a module, or a layer.
type unit struct {
	ids            []string
	layer          int
	score, angular float64
}

func (u unit) name() string { return strings.Join(u.ids, "+") }

// Select returns the ids of the modules to drop, in the order of the
// selection. Ties go to the earlier module. m is not changed. It fails where fewer
// than Count can be dropped, where the selector lacks the ledger or the data it needs,
// and where the ledger is that of another model.
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
	if o.Ledger != nil {
		if err := ledgerFits(m, o.Ledger); err != nil {
			return nil, fmt.Errorf("select: %w", err)
		}
	}
	if o.Feed != nil {
		if o.Samples == 0 {
			o.Samples = max(o.Feed.Len()/6, 64)
		}
		o.Feed = o.Feed.Spread(o.Samples)
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

// selectIteratively drops one unit after the other from a copy and scores what
// is left anew before each.
func selectIteratively(ctx context.Context, m *graph.Model, o SelectOptions) ([]string, error) {
	if o.Feed == nil {
		return nil, errors.New("select: an iterative selection scores after each drop and needs data")
	}
	m = m.Clone()
	var out []string
	count := o.Count
	o.Iterative, o.Count = false, 1
	for k := range count {
		ports, err := runtime.Ports(m)
		if err != nil {
			return nil, err
		}
		feed, err := o.Feed.For(ports) // a drop takes caches out of the inputs
		if err != nil {
			return nil, err
		}
		if o.Ledger, err = calib.Score(ctx, m, feed, calib.ScoreOptions{Threads: o.Threads}); err != nil {
			return nil, err
		}
		ids, err := Select(ctx, m, o)
		if err != nil {
			return nil, err
		}
		if err := dropModules(m, &Journal{}, ids, o.Drop); err != nil {
			return nil, fmt.Errorf("select: %w", err)
		}
		out = append(out, ids...)
		if o.Progress != nil {
			o.Progress(k+1, count)
		}
	}
	return out, nil
}

// selectByLoss is greedy: of all that is left it drops what leaves the KL of
// the outputs to the original's smallest, and begins again. An order that the
// ledger keeps for the same model and options is used as far as it goes, and
// without data for any samples.
func selectByLoss(ctx context.Context, m *graph.Model, units []unit, o SelectOptions) ([]string, error) {
	key := fmt.Sprintf("loss mode=%s norm=%s recover=%s protect=%d,%d", o.Mode, o.Drop.norm(),
		cmp.Or(o.Drop.Recover, RecoverNone), o.ProtectFirst, o.ProtectLast)
	keep := o.Ledger != nil && o.Ledger.Model == m.Fingerprint()
	order := calib.Order{}
	if o.Feed != nil {
		order.Data = o.Feed.Fingerprint()
		order.Part[0], order.Part[1] = o.Feed.Range()
		order.Samples = o.Feed.Len()
	}
	if keep {
		if known := o.Ledger.Orders[key]; o.Feed == nil || known.Data == order.Data && known.Part == order.Part && known.Samples == order.Samples {
			order = known
		}
	}
	chosen, left := follow(order, units, o.Count)
	if len(chosen) == o.Count {
		return idsOf(chosen), nil
	}
	if o.Feed == nil {
		return nil, errors.New("select: loss drops modules on trial and needs data")
	}
	// The order goes on where the ledger's ends.
	order.Units, order.KL = slices.Clone(order.Units[:len(chosen)]), slices.Clone(order.KL[:len(chosen)])
	t, err := newTrials(ctx, m, o.Feed, o.Threads)
	if err != nil {
		return nil, fmt.Errorf("select: original model: %w", err)
	}
	total, done := 0, 0
	for k := range o.Count - len(chosen) {
		total += len(left) - k
	}
	last := make(map[string]float64, len(left)) // a bound on each unit's divergence in the round before
	for len(chosen) < o.Count {
		// What was best before is tried first, so that the others are given
		// up soon.
		tries := slices.Clone(left)
		slices.SortStableFunc(tries, func(a, b unit) int { return cmp.Compare(last[a.name()], last[b.name()]) })
		best, bestKL := -1, math.Inf(1)
		for _, u := range tries {
			at := slices.IndexFunc(left, func(v unit) bool { return v.name() == u.name() })
			c := m.Clone()
			var kl float64
			err := dropModules(c, &Journal{}, idsOf(append(slices.Clone(chosen), u)), o.Drop)
			if err == nil { // else they cannot be dropped together: the last cache, say
				if kl, _, err = t.divergence(ctx, c, bestKL); err != nil {
					return nil, fmt.Errorf("select: without %s: %w", u.name(), err)
				}
				last[u.name()] = kl
				if kl < bestKL || kl == bestKL && at < best {
					best, bestKL = at, kl
				}
			}
			if done++; o.Progress != nil {
				o.Progress(done, total)
			}
		}
		if best < 0 {
			return nil, fmt.Errorf("select: after %d drops none of the %d units left can be dropped", len(chosen), len(left))
		}
		chosen = append(chosen, left[best])
		order.Units, order.KL = append(order.Units, left[best].name()), append(order.KL, bestKL)
		left = slices.Delete(left, best, best+1)
	}
	if keep {
		if o.Ledger.Orders == nil {
			o.Ledger.Orders = map[string]calib.Order{}
		}
		o.Ledger.Orders[key] = order
	}
	return idsOf(chosen), nil
}

// follow takes units in the given order, up to count and as far as it names
// units that are there, and returns those that are left too.
func follow(order calib.Order, units []unit, count int) (chosen, left []unit) {
	left = slices.Clone(units)
	for _, name := range order.Units[:min(count, len(order.Units))] {
		i := slices.IndexFunc(left, func(u unit) bool { return u.name() == name })
		if i < 0 {
			break
		}
		chosen = append(chosen, left[i])
		left = slices.Delete(left, i, i+1)
	}
	return chosen, left
}

// trials measures what changes do to the outputs of a model.
type trials struct {
	m       *graph.Model
	feed    *calib.Feed
	threads int
	want    []*runtime.Tensor // outputs of the original, batch by batch; nil where they are too large to keep
}

// keptOutputs bounds the bytes of the original's outputs that are kept for all
// trials; beyond it every trial runs the original beside the candidate.
const keptOutputs = 1 << 30

func newTrials(ctx context.Context, m *graph.Model, feed *calib.Feed, threads int) (*trials, error) {
	t := &trials{m: m, feed: feed, threads: threads}
	r, err := newRunner(m, feed, threads)
	if err != nil {
		return nil, err
	}
	size := 0
	for k := range r.batches() {
		v, err := r.run(ctx, k)
		if err != nil {
			return nil, err
		}
		if size += len(v.Bytes()); size > keptOutputs {
			t.want = nil
			break
		}
		t.want = append(t.want, v)
	}
	return t, nil
}

// divergence returns the mean over samples of the KL of the first output of c, a
// changed copy of the model, to the original's. Once the sum shows that the
// mean is above limit the rest is not run, and the result is some value above
// limit: a KL is not negative. It also returns the median over batches of the
// time of one sample.
func (t *trials) divergence(ctx context.Context, c *graph.Model, limit float64) (kl float64, sample time.Duration, err error) {
	r, err := newRunner(c, t.feed, t.threads)
	if err != nil {
		return 0, 0, err
	}
	var original *runner
	if t.want == nil {
		if original, err = newRunner(t.m, t.feed, t.threads); err != nil {
			return 0, 0, err
		}
	}
	var sum float64
	var took []time.Duration
	samples := float64(t.feed.Len())
	for k := range r.batches() {
		start := time.Now()
		got, err := r.run(ctx, k)
		if err != nil {
			return 0, 0, err
		}
		took = append(took, time.Since(start)/time.Duration(r.samples(k)))
		want := got
		if original == nil {
			want = t.want[k]
		} else if want, err = original.run(ctx, k); err != nil {
			return 0, 0, err
		}
		if len(want.Shape) == 0 || !slices.Equal(want.Shape, got.Shape) {
			return 0, 0, fmt.Errorf("the first output has shape %v, had %v", got.Shape, want.Shape)
		}
		kl, err := metric.KL(want.F32(), got.F32(), want.Shape[len(want.Shape)-1])
		if err != nil {
			return 0, 0, err
		}
		sum += kl * float64(r.samples(k))
		if !(sum/samples <= limit) {
			break
		}
	}
	slices.Sort(took)
	return sum / samples, took[len(took)/2], nil
}

// runner runs a model over a feed, batch by batch, and gives its first output.
type runner struct {
	feed    *calib.Feed
	size    int
	output  string
	session *runtime.Session
}

func newRunner(m *graph.Model, feed *calib.Feed, threads int) (*runner, error) {
	prog, err := runtime.Compile(m, feed.Source().Runtime())
	if err != nil {
		return nil, err
	}
	r := &runner{output: prog.Outputs()[0].Name, session: prog.NewSession(runtime.SessionOptions{Threads: threads})}
	if r.feed, err = feed.For(prog.Inputs()); err != nil {
		return nil, err
	}
	if r.size = r.feed.MaxBatch(); r.size == 0 {
		r.size = calib.DefaultBatch
	}
	return r, nil
}

func (r *runner) batches() int { return (r.feed.Len() + r.size - 1) / r.size }

// samples is the number of samples of batch k.
func (r *runner) samples(k int) int { return min(r.size, r.feed.Len()-k*r.size) }

func (r *runner) run(ctx context.Context, k int) (*runtime.Tensor, error) {
	in, err := r.feed.Batch(k*r.size, k*r.size+r.samples(k))
	if err != nil {
		return nil, err
	}
	out, err := r.session.Run(ctx, in)
	if err != nil {
		return nil, err
	}
	t, err := runtime.FromDense(out[r.output])
	if err == nil && t.DType != graph.Float32 {
		err = fmt.Errorf("output %q is %v, want float", r.output, t.DType)
	}
	return t, err
}
