package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/quality"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
)

// A result is one line of the table. Times are in milliseconds of one run.
type result struct {
	Group  string  `json:"group"`
	Case   string  `json:"case"`
	Goal   float64 `json:"goal,omitempty"`
	Ratio  float64 `json:"ratio,omitempty"` // time of the baseline ÷ time of the contender, median of the pairs
	P10    float64 `json:"p10,omitempty"`
	P90    float64 `json:"p90,omitempty"`
	BaseMS float64 `json:"base_ms,omitempty"`
	OwnMS  float64 `json:"own_ms,omitempty"`
	GFLOPS float64 `json:"gflops,omitempty"`   // of the contender, where it is one dense layer
	Left   string  `json:"left_out,omitempty"` // why it was not measured
	Pass   bool    `json:"pass"`               // measured, and the goal, if there is one, is met

	of    string // the original, for the plot
	block int
	drop  bool
}

// tolerance is how far a contender's outputs may be from those of ONNX Runtime
// on the same model, max |a − b| ÷ max |b|: what the project promises for every
// rewritten model. A wrong answer is not timed.
const tolerance = 1e-4

// A bench measures. It keeps what it made of the last original, as the next
// contest may be about the same.
type bench struct {
	protocol protocol
	data     string // LATHE_DATA, "" without
	dir      string // for files

	name     string // of the last original
	models   map[contender]*graph.Model
	expected map[question]map[string]nd.Array
}

// A question is what ONNX Runtime was asked for outputs to compare with.
type question struct {
	contender
	tokens int
}

// measure measures what is chosen of the groups and hands out every result
// when it is there.
func (b *bench) measure(ctx context.Context, groups []group, chosen func(group, name string) bool, each func(result)) error {
	for _, g := range groups {
		for _, c := range g.contests {
			for _, t := range c.sizes() {
				var rows []result
				var run []contender
				for _, k := range c.contenders {
					r := result{Group: g.name, Case: caseName(c.of, t, k), Goal: k.goal, of: c.of.name, block: k.block, drop: k.drop}
					if chosen(g.name, r.Case) {
						rows, run = append(rows, r), append(run, k)
					}
				}
				races := [][2]int{{0, len(run)}}
				if g.same || g.float { // a baseline for each
					races = nil
					for i := range run {
						races = append(races, [2]int{i, i + 1})
					}
				}
				for _, r := range races {
					if r[0] == r[1] {
						continue
					}
					rows := rows[r[0]:r[1]]
					if err := b.contest(ctx, g, c.of, t, run[r[0]:r[1]], rows); err != nil {
						if ctx.Err() != nil {
							return ctx.Err()
						}
						for i := range rows {
							rows[i].Left = err.Error()
						}
					}
					for _, r := range rows {
						each(r)
					}
				}
			}
		}
	}
	return nil
}

// caseName is what a line is called.
func caseName(o original, tokens int, c contender) string {
	parts := []string{o.name}
	if tokens > 0 {
		parts = append(parts, fmt.Sprintf("T = %d", tokens))
	}
	if c.block > 0 {
		parts = append(parts, fmt.Sprintf("b = %d", c.block))
	}
	if c.drop {
		parts = append(parts, "a quarter dropped")
	}
	if c.fixed {
		parts = append(parts, "int16")
	}
	return strings.Join(parts, ", ")
}

// contest measures contenders against one baseline and fills in their results.
func (b *bench) contest(ctx context.Context, g group, o original, tokens int, contenders []contender, out []result) error {
	if o.file != "" && b.data == "" {
		return errors.New("LATHE_DATA names no folder with the public models and sets")
	}
	if b.name != o.name {
		b.name, b.models, b.expected = o.name, map[contender]*graph.Model{}, map[question]map[string]nd.Array{}
	}
	began := time.Now()
	inputs, err := o.feed(b.data, tokens)
	if err != nil {
		return err
	}
	prepare := func(c contender) (job, error) {
		m, err := b.model(ctx, o, c)
		return job{m, o.linear, c.block, inputs, o.decode, b.dir}, err
	}
	var sides []runnable
	defer func() {
		for _, s := range sides {
			s.close()
		}
		debug.FreeOSMemory()
	}()
	var racing []int // the contenders that run and are right
	for i, c := range contenders {
		j, err := prepare(c)
		if err != nil {
			return err
		}
		s, err := g.side.open(ctx, j)
		if err == nil {
			sides = append(sides, s)
			err = b.agree(ctx, question{c.variant(), tokens}, j, s)
		}
		if err == nil {
			racing = append(racing, i)
			continue
		}
		if ctx.Err() != nil {
			return err
		}
		out[i].Left = err.Error()
		if len(sides) > len(racing) {
			sides[len(racing)].close()
			sides = sides[:len(racing)]
		}
	}
	if len(racing) == 0 {
		return nil
	}
	of := contender{bytes: g.bytes}
	if g.same || g.float {
		of = contenders[0]
		of.fixed = of.fixed && !g.float
	}
	j, err := prepare(of)
	if err != nil {
		return err
	}
	base, err := g.base.open(ctx, j)
	if err != nil {
		return err
	}
	defer base.close()
	now := cpuTime
	if g.wall {
		now = wallTime
	}
	var runs []func() error
	for _, s := range sides {
		runs = append(runs, s.run)
	}
	prepared := time.Since(began)
	sums, err := race(ctx, now, newGauge(now).holds, b.protocol, base.run, runs)
	if err != nil {
		return err
	}
	for k, i := range racing {
		r, s := &out[i], sums[k]
		r.Ratio, r.P10, r.P90 = s.ratio, s.p10, s.p90
		r.BaseMS, r.OwnMS = float64(s.base)/1e6, float64(s.own)/1e6
		r.Pass = s.ratio >= r.Goal
		if len(o.linear) == 1 && contenders[i].block == 0 {
			r.GFLOPS = 2 * float64(tokens*o.linear[0].in*o.linear[0].out) / float64(s.own)
		}
		if o.sums > 0 && contenders[i].block == 0 {
			r.GFLOPS = 2 * float64(o.sums) / float64(s.own)
		}
	}
	slog.Debug("contest", "group", g.name, "original", o.name, "tokens", tokens, "prepared", prepared, "measured", time.Since(began)-prepared)
	return nil
}

// model returns what a contender makes of an original.
func (b *bench) model(ctx context.Context, o original, c contender) (*graph.Model, error) {
	c = c.variant()
	if m := b.models[c]; m != nil {
		return m, nil
	}
	var m *graph.Model
	var err error
	if c == (contender{}) {
		m, err = o.load(b.data)
	} else if m, err = b.model(ctx, o, contender{}); err == nil {
		m, err = c.change(ctx, o, m, b.data)
	}
	if err != nil {
		return nil, err
	}
	b.models[c] = m
	return m, nil
}

// agree fails where the outputs are not those of ONNX Runtime on the same
// model; its definition of block-circulant operators is in standard operators.
func (b *bench) agree(ctx context.Context, q question, j job, s runnable) error {
	want := b.expected[q]
	if want == nil {
		reference, err := ortSide().open(ctx, j)
		if err != nil {
			return err
		}
		want, err = reference.outputs()
		reference.close()
		if err != nil {
			return err
		}
		b.expected[q] = want
	}
	got, err := s.outputs()
	if err != nil {
		return err
	}
	if q.fixed {
		layers, err := passes.Int16Layers(j.model)
		if err != nil {
			return err
		}
		return sameSteps(got, want, layers)
	}
	return same(got, want)
}

// In fixed point, the definition in standard operators computes in float32, with
// sums and rotations that round elsewhere. Layers are to be within a step of it in
// 99.9 % of the values, and are but for b = 256, where it is 99.86 %, with three
// steps at most. These limits tell rounding from a wrong number; goldens hold
// fixed point to the bit.
const (
	loose     = 2e-3 // part of the values that may be off by more than a step
	mostSteps = 4
	// looseBehind and mostBehind are these for layers whose inputs other layers have put
	// off already.
	looseBehind = 5e-2
	mostBehind  = 8
	// behindSteps is how far outputs behind the last layer may be off, relative to the
	// largest: some steps of logits of 2⁻¹¹.
	behindSteps = 1e-3
)

// sameSteps fails where outputs of layers in fixed point differ by more than that.
func sameSteps(got, want map[string]nd.Array, layers []passes.QuantizedLayer) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d outputs, ONNX Runtime gives %d", len(got), len(want))
	}
	for name, w := range want {
		i := slices.IndexFunc(layers, func(l passes.QuantizedLayer) bool { return l.Out == name })
		if i < 0 { // what floating-point operators make of the last layer
			e, err := quality.RelativeError(got[name], w)
			if err != nil || !(e <= behindSteps) {
				return fmt.Errorf("output %q is off by %.1e of ONNX Runtime's: %v", name, e, err)
			}
			continue
		}
		e := layers[i].ExponentsY
		x, okX := got[name].Data.([]float32)
		y, okY := w.Data.([]float32)
		if !okX || !okY || len(x) != len(y) || !slices.Equal(got[name].Shape, w.Shape) {
			return fmt.Errorf("output %q is a %T %v, ONNX Runtime gives a %T %v", name, got[name].Data, got[name].Shape, w.Data, w.Shape)
		}
		over, most := 0, 0.0
		for k, v := range x {
			steps := math.Ldexp(math.Abs(float64(v)-float64(y[k])), -e[k%len(e)])
			if !(steps <= 1) { // so is NaN
				over++
			}
			if most = max(most, steps); math.IsNaN(steps) {
				most = math.Inf(1)
			}
		}
		slog.Debug("agreement", "output", name, "most", most, "over a step", float64(over)/float64(len(x)))
		part, steps := loose, float64(mostSteps)
		if i > 0 {
			part, steps = looseBehind, mostBehind
		}
		if float64(over) > part*float64(len(x)) || most > steps {
			return fmt.Errorf("output %q is off by up to %.0f steps of ONNX Runtime's, by more than one in %.2g %% of the values", name, most, 100*float64(over)/float64(len(x)))
		}
	}
	return nil
}

func same(got, want map[string]nd.Array) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d outputs, ONNX Runtime gives %d", len(got), len(want))
	}
	for name, w := range want {
		e, err := quality.RelativeError(got[name], w)
		if err != nil {
			return fmt.Errorf("output %q: %w", name, err)
		}
		if !(e <= tolerance) {
			return fmt.Errorf("output %q is off by %.1e of ONNX Runtime's", name, e)
		}
	}
	return nil
}

// selects tells what a list of words chooses: the groups and cases that contain
// one of them, or everything where there are none.
func selects(words []string) func(group, name string) bool {
	return func(group, name string) bool {
		return len(words) == 0 || slices.ContainsFunc(words, func(w string) bool {
			return group == w || strings.Contains(name, w)
		})
	}
}
