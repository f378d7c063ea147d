package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/internal/atomicfile"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
)

func (a *app) run() *cobra.Command {
	var d dataFlags
	var o outFlags
	var expect string
	tol := tolerance{rtol: 1e-4, atol: 1e-5}
	c := &cobra.Command{
		Use:   "run MODEL --data D [-o OUT.npz] [--expect E]",
		Short: "Run a model over data",
		Long: `run feeds every sample of the data to the model. -o keeps the outputs in an .npz,
the samples along the first axis; --expect compares them with an .npz of
outputs, or with the output_N.pb of the test folder that is the data, and exits
with status 1 where they differ by more than atol + rtol·max|expected|.`,
		Example: `  lathe run model.onnx --data samples.npz -o outputs.npz
  lathe run model.onnx --data samples.npz --expect golden.npz --rtol 1e-4
  lathe run model.onnx --data test_case/ --expect test_case/`,
		Args: argCount(1, 1, "one model"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.writable(o.path, args[0], d.path, expect); err != nil {
				return err
			}
			m, err := a.load(args[0])
			if err != nil {
				return err
			}
			feed, err := a.feed(m, &d)
			if err != nil {
				return err
			}
			a.foresee(m, feed, d.batch, 0)
			prog, err := a.compile(m, feed.Source().Runtime())
			if err != nil {
				return err
			}
			var want *expectation
			if expect != "" {
				if want, err = a.expectation(expect, feed, prog.Outputs()); err != nil {
					return err
				}
			}
			start := time.Now()
			outs, err := a.outputsOf(c.Context(), prog, feed, d.batch)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			took := time.Since(start)
			if o.path != "" && !o.dryRun {
				if err := writeNPZ(o.path, outs); err != nil {
					return fmt.Errorf("%s: %w", o.path, err)
				}
			}
			var cmp comparison
			if want != nil {
				if cmp, err = want.compare(outs, tol); err != nil {
					return fmt.Errorf("--expect %s: %w", expect, err)
				}
			}
			if err := a.printRun(args[0], outs, feed.Len(), took, &o, want != nil, cmp); err != nil {
				return err
			}
			if want != nil && !cmp.passed {
				return failed{fmt.Errorf("%s: %s", args[0], cmp.where)}
			}
			return nil
		},
	}
	o.add(c, "outputs", "npz")
	c.Flags().StringVar(&expect, "expect", "", "`path` of expected outputs: an .npz, or the test folder given as data")
	addNumber(c.Flags(), &tol.rtol, 0, 1e9, "rtol", "tolerance of --expect, relative to the largest expected value of an output")
	addNumber(c.Flags(), &tol.atol, 0, 1e9, "atol", "absolute tolerance of --expect")
	d.addBatch(c)
	d.add(a, c, true)
	return completeModels(c)
}

func (a *app) printRun(path string, outs []*output, samples int, took time.Duration, o *outFlags, compared bool, cmp comparison) error {
	list := []map[string]any{}
	for _, j := range outs {
		list = append(list, map[string]any{"name": j.name, "dtype": j.parts[0].DType.String(), "shape": j.shape()})
	}
	if a.json {
		result := map[string]any{"path": path, "samples": samples, "seconds": took.Seconds(), "outputs": list, "output": o.path}
		if compared {
			result["passed"], result["max_abs_error"], result["max_rel_error"] = cmp.passed, jsonFloat(cmp.abs), jsonFloat(cmp.rel)
		}
		return a.printJSON(result)
	}
	for _, x := range list {
		fmt.Fprintf(a.stdout, "%s: %v%v\n", x["name"], x["dtype"], x["shape"])
	}
	fmt.Fprintf(a.stdout, "%d samples in %.2f s, %.3f ms a sample", samples, took.Seconds(), 1e3*took.Seconds()/float64(samples))
	if o.path != "" {
		fmt.Fprint(a.stdout, o.written())
	}
	fmt.Fprintln(a.stdout)
	if compared {
		fmt.Fprintf(a.stdout, "largest difference: %.3g absolute, %.3g relative to the largest value\n", cmp.abs, cmp.rel)
	}
	return nil
}

// output is one output of a model over some data, batch by batch.
type output struct {
	name  string
	parts []*npz.Array
}

// shape is that of all batches joined along the first axis, or of the first
// batch where they do not join.
func (o *output) shape() []int {
	shape := slices.Clone(o.parts[0].Shape)
	if o.joins() == nil {
		for _, p := range o.parts[1:] {
			shape[0] += p.Shape[0]
		}
	}
	return shape
}

// joins says why the batches cannot be joined along the first axis.
func (o *output) joins() error {
	first := o.parts[0]
	for _, p := range o.parts[1:] {
		if len(p.Shape) == 0 || len(p.Shape) != len(first.Shape) || !slices.Equal(p.Shape[1:], first.Shape[1:]) || p.DType != first.DType {
			return fmt.Errorf("output %q is %v%v for one sample and %v%v for another, which no array holds; give samples of one shape",
				o.name, first.DType, first.Shape, p.DType, p.Shape)
		}
	}
	return nil
}

// joined is all batches in one array.
func (o *output) joined() (*npz.Array, error) {
	if err := o.joins(); err != nil {
		return nil, err
	}
	out := &npz.Array{Name: o.name, DType: o.parts[0].DType, Shape: o.shape()}
	for _, p := range o.parts {
		out.Raw = append(out.Raw, p.Raw...)
	}
	return out, nil
}

// outputsOf runs a model over a feed.
func (a *app) outputsOf(ctx context.Context, prog *runtime.Program, feed *calib.Feed, batch int) ([]*output, error) {
	session := prog.NewSession(runtime.SessionOptions{Threads: a.threads})
	outs := make([]*output, len(prog.Outputs()))
	for i, p := range prog.Outputs() {
		outs[i] = &output{name: p.Name}
	}
	err := calib.Batches(ctx, feed, batch, a.progress("run"), func(from, to int, in map[string]tensor.Tensor) error {
		res, err := session.Run(ctx, in)
		if err != nil {
			return fmt.Errorf("samples %d … %d: %w", from, to-1, err)
		}
		for _, o := range outs {
			t, err := runtime.FromDense(res[o.name])
			if err != nil {
				return fmt.Errorf("output %q: %w", o.name, err)
			}
			o.parts = append(o.parts, arrayOf(t)) // the memory is ours

		}
		return nil
	})
	return outs, err
}

func arrayOf(t *runtime.Tensor) *npz.Array {
	return &npz.Array{DType: t.DType, Shape: t.Shape, Raw: t.Bytes()}
}

func writeNPZ(path string, outs []*output) error {
	var arrays []*npz.Array
	for _, o := range outs {
		a, err := o.joined()
		if err != nil {
			return err
		}
		arrays = append(arrays, a)
	}
	var buf bytes.Buffer
	if err := npz.Write(&buf, arrays...); err != nil {
		return err
	}
	return atomicfile.Write(path, buf.Bytes())
}
