package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/spf13/cobra"
	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

func (a *app) verify() *cobra.Command {
	var data string
	var rtol float64
	var samples int
	c := &cobra.Command{
		Use:   "verify A [B] --data D",
		Short: "Find the first value in which two models differ",
		Long: `verify runs two models over the same samples and compares every value that both
have under the same name, in the order of the first model. With one model it
compares lathe's kernels with the bodies, in standard operators, of the custom
operators that the file carries: what another runtime computes. A value differs
where max|a − b| is more than --rtol times max|b|.`,
		Example: `  lathe verify small.onnx --data calib.npz
  lathe verify model.onnx small.onnx --data calib.npz --rtol 0.05`,
		Args: args(1, 2, "one or two models"),
		RunE: func(c *cobra.Command, args []string) error {
			first, err := a.load(args[0])
			if err != nil {
				return err
			}
			second, label := first, "its function bodies"
			o := runtime.Options{Bodies: true}
			if len(args) == 2 {
				if second, err = a.load(args[1]); err != nil {
					return err
				}
				label, o = args[1], runtime.Options{}
			} else if len(first.Functions) == 0 {
				return fmt.Errorf("%s has no function bodies to compare with; give a second model", args[0])
			}
			src, err := a.open(data)
			if err != nil {
				return err
			}
			names := shared(first, second)
			v := verifier{a: a, rtol: rtol, samples: samples, names: names}
			if err := v.run(c.Context(), first, second, runtime.Options{}, o, src); err != nil {
				return err
			}
			if a.json {
				if err := a.printJSON(map[string]any{"a": args[0], "b": label, "values": len(names), "samples": v.seen,
					"passed": v.first == nil, "first": v.first, "worst": v.worst, "rtol": rtol}); err != nil {
					return err
				}
			} else {
				fmt.Fprintf(a.stdout, "%s against %s: %d values, %d samples\n", args[0], label, len(names), v.seen)
				fmt.Fprintf(a.stdout, "largest relative difference %.3g, in %q\n", float64(v.worst.Relative), v.worst.Value)
			}
			if v.first != nil {
				return failed{fmt.Errorf("first difference: %q of %s: sample %d, %.4g against %.4g, %.3g relative to the largest value",
					v.first.Value, v.first.By, v.first.Sample, float64(v.first.A), float64(v.first.B), float64(v.first.Relative))}
			}
			return nil
		},
	}
	c.Flags().Float64Var(&rtol, "rtol", 1e-4, "relative tolerance")
	c.Flags().IntVar(&samples, "samples", 16, "samples to compare (0: all)")
	a.dataFlags(c, &data, true)
	return c
}

// shared lists the float values that both models compute under one name, in
// the order of a.
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
	Sample   int       `json:"sample"` // first of its batch
	A        jsonFloat `json:"a"`
	B        jsonFloat `json:"b"`
	Relative jsonFloat `json:"relative"`
}

type verifier struct {
	a       *app
	rtol    float64
	samples int
	names   []string
	seen    int
	first   *difference
	worst   difference
}

func (v *verifier) run(ctx context.Context, a, b *graph.Model, oa, ob runtime.Options, src *calib.Source) error {
	groups := make([][]string, len(v.names))
	for i, n := range v.names {
		groups[i] = []string{n}
	}
	oa.Probes, ob.Probes = groups, groups
	pa, err := runtime.Compile(a, oa)
	if err != nil {
		return fmt.Errorf("%s: %w", a.Path(), err)
	}
	pb, err := runtime.Compile(b, ob)
	if err != nil {
		return fmt.Errorf("%s: %w", b.Path(), err)
	}
	fa, err := src.Bind(pa.Inputs())
	if err != nil {
		return err
	}
	fb, err := src.Bind(pb.Inputs())
	if err != nil {
		return err
	}
	if v.samples > 0 {
		fa = fa.Slice(0, min(v.samples, fa.Len()))
	}
	v.seen = fa.Len()
	sa, sb := pa.NewSession(runtime.SessionOptions{Threads: v.a.threads}), pb.NewSession(runtime.SessionOptions{Threads: v.a.threads})
	return calib.Batches(ctx, fa, 0, v.a.progress("verify"), func(from, to int, in map[string]tensor.Tensor) error {
		held := map[int][]float32{} // values of a, kept because b's come later
		if _, err := sa.RunProbed(ctx, in, func(i int, t []*runtime.Tensor) error {
			if t[0].DType == graph.Float32 {
				held[i] = slices.Clone(t[0].F32())
			}
			return nil
		}); err != nil {
			return fmt.Errorf("%s: %w", a.Path(), err)
		}
		other, err := fb.Batch(from, to)
		if err != nil {
			return err
		}
		diffs := map[int]difference{}
		if _, err := sb.RunProbed(ctx, other, func(i int, t []*runtime.Tensor) error {
			x, ok := held[i]
			if !ok {
				return nil
			}
			d := difference{Value: v.names[i], By: a.Graph.Value(v.names[i]).Def().String(), Sample: from}
			if t[0].DType != graph.Float32 || len(x) != t[0].Len() {
				d.Relative = jsonFloat(math.Inf(1))
			} else {
				d.measure(x, t[0].F32())
			}
			diffs[i] = d
			return nil
		}); err != nil {
			return fmt.Errorf("%s: %w", b.Path(), err)
		}
		for _, i := range slices.Sorted(maps.Keys(diffs)) {
			d := diffs[i]
			if v.worst.Value == "" || d.Relative > v.worst.Relative {
				v.worst = d
			}
			if v.first == nil && !(float64(d.Relative) <= v.rtol) {
				v.first = &d
			}
		}
		return nil
	})
}

// measure finds where x and y are farthest apart, relative to the largest of
// y.
func (d *difference) measure(x, y []float32) {
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
