package main

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/spf13/cobra"
	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
)

func (a *app) verify() *cobra.Command {
	var d dataFlags
	rtol := 1e-4
	c := &cobra.Command{
		Use:   "verify A [B] --data D",
		Short: "Find the first value in which two models differ",
		Long: `verify runs two models over the same samples and compares every value that both
have under the same name, in the order of the first model, and then the outputs
of a run that may fuse operators. With one model it compares lathe's kernels
with the bodies, in standard operators, of the custom operators that the file
carries: what another runtime computes. A value differs where max|a − b| is more
than --rtol times max|b|; then the exit status is 1.

Bodies of operators in 16-bit fixed point round in float32, and a step that one of
them is off would count in all behind it. So each is compared on the inputs that its
kernel has, in steps of its output: one may lie between them, and of transforms in
blocks of b up to b/4 more.`,
		Example: `  lathe verify small.onnx --data calib.npz
  lathe verify model.onnx small.onnx --data calib.npz --rtol 0.05`,
		Args: argCount(1, 2, "one or two models"),
		RunE: func(c *cobra.Command, args []string) error {
			first, err := a.load(args[0])
			if err != nil {
				return err
			}
			second, label, bodies := first.Clone(), "its function bodies", true
			if len(args) == 2 {
				if second, err = a.load(args[1]); err != nil {
					return err
				}
				label, bodies = args[1], false
			} else if !slices.ContainsFunc(first.Functions, func(f *graph.Function) bool { return f.Domain == graph.LatheDomain }) {
				return fmt.Errorf("verify: %s has no operator with a function body to compare with; give a second model", args[0])
			}
			if bodies { // those are measured apart
				for _, f := range slices.Clone(second.Functions) {
					if calib.Int16Body(f) {
						second.RemoveFunction(f)
					}
				}
			}
			src, err := a.open(d.path, &d)
			if err != nil {
				return err
			}
			v := verifier{a: a, rtol: rtol, data: &d, names: shared(first, second)}
			if err := v.run(c.Context(), first, second, bodies, src); err != nil {
				return err
			}
			var steps *int16Steps
			if bodies {
				if steps, err = a.int16Steps(c.Context(), first, src); err != nil {
					return err
				}
			}
			if v.values == 0 {
				return fmt.Errorf("verify: %s and %s have no value of the same name; compare outputs with lathe eval", args[0], label)
			}
			if a.json {
				if err := a.printJSON(map[string]any{"a": args[0], "b": label, "values": v.values, "samples": v.seen,
					"passed": v.first == nil && steps.within(), "first": v.first, "worst": v.worst, "rtol": rtol, "int16": steps}); err != nil {
					return err
				}
			} else {
				fmt.Fprintf(a.stdout, "%s against %s: %d values, %d samples\n", args[0], label, v.values, v.seen)
				if v.worst.Relative == 0 {
					fmt.Fprintln(a.stdout, "no difference at all")
				} else {
					fmt.Fprintf(a.stdout, "largest relative difference %.3g, in %q\n", float64(v.worst.Relative), v.worst.Value)
				}
				if steps != nil {
					fmt.Fprintln(a.stdout, steps)
				}
			}
			if v.first != nil {
				return failed{fmt.Errorf("first difference: %v", v.first)}
			}
			if !steps.within() {
				return failed{fmt.Errorf("%d steps between kernel and body of %q, roundings explain %d", steps.beyond.Most, steps.beyond.Node, steps.beyond.Limit)}
			}
			return nil
		},
	}
	addNumber(c.Flags(), &rtol, 0, 1e9, "rtol", "relative tolerance")
	d.o.Samples = 16
	d.add(a, c, true)
	return completeModels(c)
}

// int16Steps is how far the bodies of operators in 16-bit fixed point are from the
// kernels, each on the same inputs, in steps of the outputs.
type int16Steps struct {
	Operators int    `json:"operators"`
	Values    int64  `json:"values"`
	Off       int64  `json:"off"`   // values that differ
	Steps     int    `json:"steps"` // the most, and where
	Node      string `json:"node"`

	beyond *calib.BodySteps // the first with more than roundings explain
}

// int16Steps measures them; nil where m has no such operators.
func (a *app) int16Steps(ctx context.Context, m *graph.Model, src *calib.Source) (*int16Steps, error) {
	if len(calib.Int16Bodies(m)) == 0 {
		return nil, nil
	}
	list, err := calib.MeasureBodies(ctx, m, src, calib.EvalOptions{Batch: 1, Threads: a.threads, Progress: a.progress("int16")})
	if err != nil {
		return nil, err
	}
	s := &int16Steps{Operators: len(list)}
	for i, b := range list {
		s.Values += b.Values
		s.Off += b.Off
		if b.Most > s.Steps || i == 0 {
			s.Steps, s.Node = b.Most, b.Node
		}
		if b.Most > b.Limit && s.beyond == nil {
			s.beyond = &list[i]
		}
	}
	return s, nil
}

// within reports whether roundings explain all.
func (s *int16Steps) within() bool { return s == nil || s.beyond == nil }

func (s *int16Steps) String() string {
	what := fmt.Sprintf("%d int16 operators, each on the inputs of its kernel: ", s.Operators)
	if s.Off == 0 {
		return what + "no difference at all"
	}
	steps := "steps"
	if s.Steps == 1 {
		steps = "step"
	}
	return what + fmt.Sprintf("%s of %s values differ, by %d %s at most, in %q", grouped(s.Off), grouped(s.Values), s.Steps, steps, s.Node)
}

// shared lists the values that both models compute under one name, in the
// order of a.
func shared(a, b *graph.Model) []string {
	var out []string
	for _, n := range a.Graph.Nodes() {
		if n.Is("Constant") {
			continue
		}
		for _, v := range n.Outputs() {
			if v == nil {
				continue
			}
			if w := b.Graph.Value(v.Name); w != nil && w.Def() != nil && !w.Def().Is("Constant") {
				out = append(out, v.Name)
			}
		}
	}
	return out
}

// difference is how one value differs between two models.
type difference struct {
	Value    string    `json:"value"`
	By       string    `json:"node"`
	Sample   int       `json:"sample"`
	A        jsonFloat `json:"a"`
	B        jsonFloat `json:"b"`
	Relative jsonFloat `json:"relative"`         // null where the shapes differ, or one of a and b is no number
	Shapes   string    `json:"shapes,omitempty"` // where they differ

	order int // of the value in the first model
}

func (d *difference) String() string {
	how := d.Shapes
	if how == "" {
		how = fmt.Sprintf("%.4g against %.4g, %.3g relative to the largest value", float64(d.A), float64(d.B), float64(d.Relative))
	}
	return fmt.Sprintf("%q of %s: sample %d: %s", d.Value, d.By, d.Sample, how)
}

type verifier struct {
	a     *app
	rtol  float64
	data  *dataFlags
	names []string // to compare inside

	values, seen int
	first        *difference // by order
	worst        difference
}

// side is one of the two models: a program that shows its values, and one
// that fuses.
type side struct {
	m            *graph.Model
	shown, plain *runtime.Session
	feed         *calib.Feed
	outputs      []runtime.Port
}

func (v *verifier) side(m *graph.Model, bodies bool, src *calib.Source) (*side, error) {
	limits := src.Runtime()
	limits.Bodies = bodies
	plain, err := v.a.compile(m, limits)
	if err != nil {
		return nil, err
	}
	for _, n := range v.names {
		limits.Probes = append(limits.Probes, []string{n})
	}
	shown, err := v.a.compile(m, limits)
	if err != nil {
		return nil, err
	}
	feed, err := src.Bind(plain.Inputs())
	if err != nil {
		return nil, err
	}
	v.a.foresee(m, feed, 1, 1)
	o := runtime.SessionOptions{Threads: v.a.threads}
	return &side{m: m, shown: shown.NewSession(o), plain: plain.NewSession(o), feed: feed, outputs: plain.Outputs()}, nil
}

// values runs the samples of in and gives see the values that are shown, by
// number, and then the outputs of the plain run.
func (s *side) values(ctx context.Context, names []string, in map[string]tensor.Tensor, see func(i int, name string, t *runtime.Tensor)) error {
	if _, err := s.shown.RunProbed(ctx, in, func(i int, t []*runtime.Tensor) error {
		see(i, names[i], t[0])
		return nil
	}); err != nil {
		return fmt.Errorf("%s: %w", s.m.Path(), err)
	}
	out, err := s.plain.Run(ctx, in)
	if err != nil {
		return fmt.Errorf("%s: %w", s.m.Path(), err)
	}
	for i, p := range s.outputs {
		t, err := runtime.FromDense(out[p.Name])
		if err != nil {
			return fmt.Errorf("%s: output %q: %w", s.m.Path(), p.Name, err)
		}
		see(len(names)+i, p.Name, t)
	}
	return nil
}

func (v *verifier) run(ctx context.Context, a, b *graph.Model, bodies bool, src *calib.Source) error {
	sa, err := v.side(a, false, src)
	if err != nil {
		return err
	}
	sb, err := v.side(b, bodies, src)
	if err != nil {
		return err
	}
	v.a.bound(src, sa.feed.Notes)
	v.seen = sa.feed.Len()
	// One sample at a time: all values of the first model are held until
	// those of the second come.
	return calib.Batches(ctx, sa.feed, 1, v.a.progress("verify"), func(from, to int, in map[string]tensor.Tensor) error {
		held := map[int]snapshot{}
		outputs := map[string]int{} // of a, by name
		if err := sa.values(ctx, v.names, in, func(i int, name string, t *runtime.Tensor) {
			held[i] = snapshotOf(t)
			if i >= len(v.names) {
				outputs[name] = i
			}
		}); err != nil {
			return err
		}
		other, err := sb.feed.Batch(from, to)
		if err != nil {
			return err
		}
		v.values = 0
		var wrong error
		err = sb.values(ctx, v.names, other, func(i int, name string, t *runtime.Tensor) {
			by := "the outputs"
			if i < len(v.names) {
				by = a.Graph.Value(name).Def().String()
			} else if at, ok := outputs[name]; ok {
				i = at
			} else {
				return
			}
			x, ok := held[i]
			if !ok || x.array.DType == graph.String {
				return
			}
			v.values++
			d := difference{Value: name, By: by, Sample: from, order: i}
			if err := d.measure(x, t); err != nil {
				wrong = fmt.Errorf("%q: %w", name, err)
			}
			if v.worst.Value == "" || d.Relative > v.worst.Relative {
				v.worst = d
			}
			if !(float64(d.Relative) <= v.rtol) && (v.first == nil || i < v.first.order) {
				v.first = &d
			}
		})
		if err != nil {
			return err
		}
		return wrong
	})
}

// snapshot is a copy of a value; float32, the usual type, is kept as such.
type snapshot struct {
	array  *npz.Array // Raw is nil where floats has the elements
	floats []float32
}

func snapshotOf(t *runtime.Tensor) snapshot {
	s := snapshot{array: &npz.Array{DType: t.DType, Shape: slices.Clone(t.Shape)}}
	if t.DType == graph.Float32 {
		s.floats = slices.Clone(t.F32())
	} else {
		s.array.Raw = slices.Clone(t.Bytes())
	}
	return s
}

// measure finds where x and y are farthest apart, relative to the largest of
// y.
func (d *difference) measure(x snapshot, y *runtime.Tensor) error {
	if x.array.DType != y.DType || !slices.Equal(x.array.Shape, y.Shape) {
		d.Relative = jsonFloat(math.Inf(1))
		d.Shapes = fmt.Sprintf("%v%v against %v%v", x.array.DType, x.array.Shape, y.DType, y.Shape)
		return nil
	}
	if y.DType == graph.Float32 {
		farthest(d, x.floats, y.F32())
		return nil
	}
	p, err := float64s(x.array)
	if err != nil {
		return err
	}
	q, err := float64s(arrayOf(y))
	if err != nil {
		return err
	}
	farthest(d, p, q)
	return nil
}

func farthest[T float32 | float64](d *difference, x, y []T) {
	var most, worst float64
	for i := range x {
		p, q := float64(x[i]), float64(y[i])
		most = max(most, finite(q))
		e := math.Abs(p - q)
		if p == q || math.IsNaN(p) && math.IsNaN(q) {
			e = 0
		} else if math.IsNaN(e) {
			e = math.Inf(1)
		}
		if e > worst || i == 0 {
			worst, d.A, d.B = e, jsonFloat(p), jsonFloat(q)
		}
	}
	if worst > 0 {
		d.Relative = jsonFloat(worst / max(most, math.SmallestNonzeroFloat32))
	}
}
