package passes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/runtime/circulant"
)

// Quantity is what a budget is of.
type Quantity string

const (
	Params  Quantity = "params" // parameters of the model
	FLOPs   Quantity = "flops"  // floating-point operations of the modules, for one token
	Latency Quantity = "ms"     // time of one sample on this machine, in milliseconds
)

// Quantities lists every quantity.
var Quantities = []Quantity{Params, FLOPs, Latency}

// AllocateOptions says what Allocate may do to a model and how far it goes. At
// least one of Share and MaxKL ends the search.
type AllocateOptions struct {
	Quantity Quantity // what is saved; "" means Params
	Share    float64  // go down to this share of the original's, 0 … 1; 0: no budget
	MaxKL    float64  // go on while the KL to the original is at most this, in nats; 0: no limit

	Blocks    []int            // block sizes to choose from; none means layers stay dense
	Circulant CirculantOptions // which layers, the ridge, and the rank of residuals; a Ledger with moments spares a run over the data
	Modules   bool             // modules may be dropped too
	Drop      DropOptions

	Feed    *calib.Feed // fits and measures
	Samples int         // of Feed, spread over it, that the KL is measured on; 0: a sixth, at least 64
	// FitSamples is how many of Feed the moments are of; 0: all.
	FitSamples int
	Threads    int
	// Progress tells of two stages: the trials of every change alone, and the
	// way to the budget in thousandths. It may be nil.
	Progress func(stage string) func(done, total int)
}

// DefaultBlocks are block sizes for AllocateOptions.Blocks, those that the command
// line takes.
var DefaultBlocks = []int{2, 4, 8, 16}

// Trade is what a step of the search came to: how small the model is, and how
// far from the original.
type Trade struct {
	Step   string  // what was done last
	Params int64   // see graph.Model.Parameters
	FLOPs  int64   // see modules.FLOPs
	Ms     float64 // time of one sample, in milliseconds
	KL     float64 // mean over samples of the KL to the original's first output, in nats

	Dropped []string       // modules, in the order of the steps
	Blocks  map[string]int // block sizes of the layers that are not dense, by name
}

// of is the trade's size in a quantity.
func (t *Trade) of(q Quantity) float64 {
	switch q {
	case FLOPs:
		return float64(t.FLOPs)
	case Latency:
		return t.Ms
	}
	return float64(t.Params)
}

// Allocation is the way that a search went.
type Allocation struct {
	Curve  []Trade // the original first, then one trade a step
	Chosen int     // index into Curve
	Met    bool    // the budget is met, where there was one
}

// Best is the trade that the search ended with.
func (a *Allocation) Best() Trade { return a.Curve[a.Chosen] }

// Allocate looks for what to drop and rewrite: to get down to Share of the original
// with the least KL to it, or as far down as MaxKL allows, whichever ends first. It
// begins with the original and goes step by step: a step gives a layer larger blocks
// or drops a module.
// Every change is first measured alone; each step then tries, on top of what
// was done before, those few that promise the least KL per saving, and takes
// the one that turns out the cheapest. Layers are fitted one-shot, on the
// moments that their inputs have in the original. m is not changed: give Dropped of
// the best trade to [DropModules], and its Blocks to [RewriteCirculant].
//
// Under Latency the choice depends on the machine and on the moment; under
// the other quantities it is a function of model, data and options.
func Allocate(ctx context.Context, m *graph.Model, o AllocateOptions) (*Allocation, error) {
	a, err := allocate(ctx, m, o)
	if err != nil {
		return nil, fmt.Errorf("allocate: %w", err)
	}
	return a, nil
}

// shortlist is how many changes each step tries.
const shortlist = 3

func allocate(ctx context.Context, m *graph.Model, o AllocateOptions) (*Allocation, error) {
	s, err := newSearch(ctx, m, o)
	if err != nil {
		return nil, err
	}
	if err := s.alone(ctx); err != nil {
		return nil, err
	}
	a := &Allocation{Curve: []Trade{s.start}, Met: o.Share == 0}
	goal := o.Share * s.start.of(o.Quantity)
	report := s.progress("search")
	for {
		at := a.Curve[len(a.Curve)-1]
		if o.Share > 0 && at.of(o.Quantity) <= goal {
			a.Met = true
			break
		}
		next, ok, err := s.step(ctx, at)
		if err != nil {
			return nil, err
		}
		if !ok || o.MaxKL > 0 && next.KL > o.MaxKL {
			break
		}
		a.Curve = append(a.Curve, next)
		if o.Share > 0 {
			gone := (s.start.of(o.Quantity) - next.of(o.Quantity)) / (s.start.of(o.Quantity) - goal)
			report(min(int(1000*gone), 1000), 1000)
		} else {
			report(min(int(1000*next.KL/o.MaxKL), 1000), 1000)
		}
	}
	report(1000, 1000)
	a.Chosen = len(a.Curve) - 1
	return a, nil
}

// search is the state of an allocation.
type search struct {
	m      *graph.Model
	o      AllocateOptions
	trials *trials
	start  Trade

	groups  []group             // of layers, in graph order
	modules []modules.Module    // that can be dropped
	inside  map[string][]string // names of a module's layers
	single  map[change]effect   // of every change alone
	moments func(value string) *circulant.Moments
	fits    map[change][]*circulant.Matrix // of every part
	bias    map[change][]float32
	low     map[change]*lowRank // residuals, where Circulant.Rank asks for them
}

// group is layers that share a weight.
type group struct {
	layers []*layer // of the original
	names  []string
}

// change is one thing that can be done to the original: a module goes (block
// 0), or the layers of the group that a layer leads get blocks.
type change struct {
	name  string
	block int
}

func (c change) String() string {
	if c.block == 0 {
		return "drop " + c.name
	}
	return fmt.Sprintf("%s in blocks of %d", c.name, c.block)
}

// effect is what a change does alone.
type effect struct{ kl, saved float64 }

func newSearch(ctx context.Context, m *graph.Model, o AllocateOptions) (*search, error) {
	if o.Quantity == "" {
		o.Quantity = Params
	}
	switch {
	case !slices.Contains(Quantities, o.Quantity):
		return nil, fmt.Errorf("no budget of %q; there are %v", o.Quantity, Quantities)
	case !(o.Share >= 0 && o.Share < 1):
		return nil, fmt.Errorf("a budget of %v of the original's %s; choose a share below 1", o.Share, o.Quantity)
	case !(o.MaxKL >= 0):
		return nil, fmt.Errorf("a limit of %v for the KL to the original; choose one above 0", o.MaxKL)
	case o.Share == 0 && o.MaxKL == 0:
		return nil, errors.New("give a budget or a limit for the KL to the original")
	case o.Feed == nil:
		return nil, errors.New("changes are tried on data; give some")
	}
	if o.Progress == nil {
		o.Progress = func(string) func(int, int) { return nil }
	}
	if o.Samples == 0 {
		o.Samples = max(o.Feed.Len()/6, 64)
	}
	all := o.Feed.Spread(o.FitSamples)
	o.Feed = o.Feed.Spread(o.Samples)
	o.Circulant.Fit = FitLSQ
	s := &search{m: m, o: o, inside: map[string][]string{}, single: map[change]effect{},
		fits: map[change][]*circulant.Matrix{}, bias: map[change][]float32{}, low: map[change]*lowRank{}}
	var err error
	if s.trials, err = newTrials(ctx, m, o.Feed, o.Threads); err != nil {
		return nil, fmt.Errorf("original model: %w", err)
	}
	if len(o.Blocks) > 0 {
		if err := s.findLayers(ctx, all); err != nil {
			return nil, err
		}
	}
	if o.Modules {
		all, err := modules.Find(m)
		if err != nil {
			return nil, err
		}
		for _, mod := range all {
			if !mod.Droppable || mod.Kind == modules.Other {
				continue
			}
			s.modules = append(s.modules, mod)
			for _, n := range mod.Weights {
				if l, _ := layerOf(n); l != nil {
					s.inside[mod.ID] = append(s.inside[mod.ID], l.name())
				}
			}
		}
	}
	if len(s.groups)+len(s.modules) == 0 {
		return nil, errors.New("there is nothing that could be made smaller: no layer in blocks, no module dropped")
	}
	if s.start, err = s.measure(ctx, Trade{Step: "original"}); err != nil {
		return nil, err
	}
	return s, nil
}

// findLayers groups the layers that may be rewritten by their weights.
func (s *search) findLayers(ctx context.Context, feed *calib.Feed) error {
	slices.Sort(s.o.Blocks)
	o := s.o.Circulant
	o.Block, o.Blocks = s.o.Blocks[0], nil
	r := rewriter{m: s.m, j: &Journal{}, o: o}
	layers, err := r.layers()
	if err != nil {
		return err
	}
	names := map[string]int{}
	for _, l := range layers {
		names[l.name()]++
	}
	at := map[*graph.Value]int{}
	for _, l := range layers {
		if names[l.name()] > 1 {
			continue // block sizes go by name
		}
		k, ok := at[l.root]
		if !ok {
			k = len(s.groups)
			at[l.root] = k
			s.groups = append(s.groups, group{})
		}
		g := &s.groups[k]
		g.layers, g.names = append(g.layers, l), append(g.names, l.name())
	}
	return s.findMoments(ctx, feed)
}

// findMoments gets the moments of the layers' inputs from the ledger, else from
// the data.
func (s *search) findMoments(ctx context.Context, feed *calib.Feed) error {
	var inputs []calib.Operand
	for _, g := range s.groups {
		for _, l := range g.layers {
			inputs = addOperands(inputs, l)
		}
	}
	if l := s.o.Circulant.Ledger; l != nil && !slices.ContainsFunc(inputs, func(x calib.Operand) bool { return l.Moments(x.Key) == nil }) {
		s.moments = l.Moments
		return ledgerFits(s.m, l)
	}
	found, err := calib.Moments(ctx, s.m, feed, inputs, calib.ScoreOptions{Threads: s.o.Threads, Progress: s.o.Progress("moments")})
	s.moments = func(value string) *circulant.Moments { return found[value] }
	return err
}

func (s *search) progress(stage string) func(done, total int) {
	if f := s.o.Progress(stage); f != nil {
		return f
	}
	return func(int, int) {}
}

// alone measures every change by itself.
func (s *search) alone(ctx context.Context) error {
	var list []change
	for _, g := range s.groups {
		for _, b := range s.o.Blocks {
			if l := g.layers[0]; l.paramsIn(b, s.o.Circulant.Rank) < l.m*l.n {
				list = append(list, change{g.names[0], b})
			}
		}
	}
	for _, mod := range s.modules {
		list = append(list, change{mod.ID, 0})
	}
	report := s.progress("trials")
	for i, c := range list {
		t, err := s.measure(ctx, s.with(Trade{}, c))
		if err != nil {
			if c.block == 0 && ctx.Err() == nil {
				continue // it cannot be dropped after all
			}
			return fmt.Errorf("%v: %w", c, err)
		}
		s.single[c] = effect{t.KL, s.start.of(s.o.Quantity) - t.of(s.o.Quantity)}
		report(i+1, len(list))
	}
	return nil
}

// with is a trade with one more change, not measured yet.
func (s *search) with(t Trade, c change) Trade {
	out := Trade{Step: c.String(), Dropped: slices.Clone(t.Dropped), Blocks: maps.Clone(t.Blocks)}
	if c.block == 0 {
		out.Dropped = append(out.Dropped, c.name)
		for _, name := range s.inside[c.name] {
			delete(out.Blocks, name)
		}
		return out
	}
	if out.Blocks == nil {
		out.Blocks = map[string]int{}
	}
	for _, g := range s.groups {
		if g.names[0] == c.name {
			for _, name := range g.names {
				out.Blocks[name] = c.block
			}
		}
	}
	return out
}

// step returns what the best change on top of t comes to; ok is false where
// nothing is left that saves.
func (s *search) step(ctx context.Context, t Trade) (best Trade, ok bool, err error) {
	type promise struct {
		change
		price float64
	}
	var list []promise
	add := func(c change, e effect) {
		if e.saved > 0 {
			list = append(list, promise{c, max(e.kl, leastKL) / e.saved})
		}
	}
	for _, g := range s.groups {
		name := g.names[0]
		if s.gone(t, name) {
			continue
		}
		now := s.single[change{name, t.Blocks[name]}] // zero while the layer is dense
		for _, b := range s.o.Blocks {
			if e, ok := s.single[change{name, b}]; ok && b > t.Blocks[name] {
				add(change{name, b}, effect{e.kl - now.kl, e.saved - now.saved})
			}
		}
	}
	for _, mod := range s.modules {
		e, ok := s.single[change{mod.ID, 0}]
		if !ok || slices.Contains(t.Dropped, mod.ID) {
			continue
		}
		for _, name := range s.inside[mod.ID] { // its layers' part is paid and saved already
			if b := t.Blocks[name]; b > 0 {
				now := s.single[change{name, b}]
				e.kl, e.saved = e.kl-now.kl, e.saved-now.saved
			}
		}
		add(change{mod.ID, 0}, e)
	}
	slices.SortStableFunc(list, func(a, b promise) int { return cmp.Compare(a.price, b.price) })
	least, tried := math.Inf(1), 0
	for _, p := range list {
		if tried == shortlist {
			break
		}
		next, err := s.measure(ctx, s.with(t, p.change))
		if err != nil {
			if p.block == 0 && ctx.Err() == nil {
				continue // together with those that are gone it cannot be dropped
			}
			return Trade{}, false, fmt.Errorf("%v: %w", p.change, err)
		}
		saved := t.of(s.o.Quantity) - next.of(s.o.Quantity)
		if saved <= 0 {
			continue
		}
		tried++
		if price := max(next.KL-t.KL, leastKL) / saved; price < least {
			least, best, ok = price, next, true
		}
	}
	return best, ok, nil
}

// leastKL is what a change costs at least. KLs are estimates from a few
// samples; a change that seems to improve the model is as good as free, and
// among those the one that saves most comes first.
const leastKL = 1e-6

// gone reports whether a layer belongs to a dropped module.
func (s *search) gone(t Trade, layer string) bool {
	return slices.ContainsFunc(t.Dropped, func(id string) bool { return slices.Contains(s.inside[id], layer) })
}

// measure builds the model of a trade and fills in what it comes to.
func (s *search) measure(ctx context.Context, t Trade) (Trade, error) {
	if err := ctx.Err(); err != nil {
		return t, err
	}
	c := s.m.Clone()
	if err := dropModules(c, &Journal{}, t.Dropped, s.o.Drop); err != nil {
		return t, err
	}
	if len(t.Blocks) > 0 {
		if err := s.rewrite(c, t.Blocks); err != nil {
			return t, err
		}
	}
	if err := EliminateDeadCode().Run(ctx, c, &Journal{}); err != nil {
		return t, err
	}
	t.Params = c.Parameters()
	var err error
	if t.FLOPs, err = modules.FLOPs(c); err != nil {
		return t, err
	}
	var took time.Duration
	t.KL, took, err = s.trials.divergence(ctx, c, math.Inf(1))
	t.Ms = took.Seconds() * 1e3
	return t, err
}

// rewrite puts the layers of c, a copy of the original with modules dropped
// or not, into blocks.
func (s *search) rewrite(c *graph.Model, blocks map[string]int) error {
	o := s.o.Circulant
	o.Block, o.Blocks = 0, blocks
	r := rewriter{m: c, j: &Journal{}, o: o, fitted: map[weight]*fitted{}}
	layers, err := r.layers()
	if err != nil {
		return err
	}
	if err := r.importOperators(layers); err != nil {
		return err
	}
	for _, l := range layers {
		m, bias, low, err := s.fit(l.name(), l.block)
		if err != nil {
			return fmt.Errorf("%v: %w", l.node, err)
		}
		if r.fitted[l.weight] == nil {
			r.fitted[l.weight] = &fitted{parts: m}
		}
		r.substitute(l, r.fitted[l.weight], &beside{bias: bias, low: low})
	}
	return nil
}

// fit returns the weight, the bias and the residual of a layer in blocks of b,
// fitted on the moments of the original; layers that share a weight get the same
// matrix.
func (s *search) fit(name string, b int) ([]*circulant.Matrix, []float32, *lowRank, error) {
	key := change{name, b}
	if s.fits[key] == nil {
		at := slices.IndexFunc(s.groups, func(g group) bool { return slices.Contains(g.names, name) })
		if at < 0 {
			return nil, nil, nil, errors.New("the original has no such layer")
		}
		if err := s.fitGroup(s.groups[at], b); err != nil {
			return nil, nil, nil, err
		}
	}
	return s.fits[key], s.bias[key], s.low[key], nil
}

func (s *search) fitGroup(g group, b int) error {
	r := rewriter{m: s.m, j: &Journal{}, o: s.o.Circulant, fitted: map[weight]*fitted{}}
	layers := make([]*layer, len(g.layers))
	for i, l := range g.layers {
		c := *l
		c.block = b
		layers[i] = &c
	}
	for i, l := range layers {
		if err := l.load(); err != nil {
			return err
		}
		key := change{g.names[i], b}
		if r.fitted[l.weight] == nil && (l.rank(r.o.Rank) == 0 || len(layers) > 1) {
			if err := r.fitShared(l, layers, s.moments); err != nil {
				return err
			}
		}
		if l.rank(r.o.Rank) > 0 { // it is one part
			var c *circulant.Matrix
			if f := r.fitted[l.weight]; f != nil {
				c = f.parts[0]
			}
			x := s.moments(l.key())
			c, low, left, err := r.fitWithRank(l, c, x, crossOf(l, x))
			if err != nil {
				return err
			}
			r.fitted[l.weight] = &fitted{parts: []*circulant.Matrix{c}}
			s.low[key], s.bias[key] = low, crossBias(c, x, left)
		} else {
			for k, p := range l.parts() {
				s.bias[key] = append(s.bias[key], refit(p, r.fitted[l.weight].parts[k], p.padded(s.moments(p.key())))...)
			}
		}
		s.fits[key] = r.fitted[l.weight].parts
		l.dense = nil
	}
	return nil
}
