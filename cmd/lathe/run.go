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
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/atomicfile"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
)

// joined collects the outputs of batches along the first axis.
type joined struct {
	name  string
	dtype graph.DType
	shape []int
	raw   []byte
}

func (j *joined) add(t *runtime.Tensor) error {
	if j.shape == nil {
		j.dtype, j.shape, j.raw = t.DType, slices.Clone(t.Shape), slices.Clone(t.Bytes())
		return nil
	}
	if len(t.Shape) == 0 || len(t.Shape) != len(j.shape) || !slices.Equal(t.Shape[1:], j.shape[1:]) || t.DType != j.dtype {
		return fmt.Errorf("output %q is %v%v for one batch and %v%v for another; run with --batch 0 over samples of one shape",
			j.name, j.dtype, j.shape, t.DType, t.Shape)
	}
	j.shape[0] += t.Shape[0]
	j.raw = append(j.raw, t.Bytes()...)
	return nil
}

// outputsOf runs a model over a feed and joins the outputs of all batches.
func (a *app) outputsOf(ctx context.Context, prog *runtime.Program, feed *calib.Feed, batch int, what string) ([]*joined, error) {
	session := prog.NewSession(runtime.SessionOptions{Threads: a.threads})
	outs := make([]*joined, len(prog.Outputs()))
	for i, p := range prog.Outputs() {
		outs[i] = &joined{name: p.Name}
	}
	err := calib.Batches(ctx, feed, batch, a.progress(what), func(from, to int, in map[string]tensor.Tensor) error {
		res, err := session.Run(ctx, in)
		if err != nil {
			return fmt.Errorf("samples %d … %d: %w", from, to-1, err)
		}
		for _, j := range outs {
			t, err := runtime.FromDense(res[j.name])
			if err != nil {
				return fmt.Errorf("output %q: %w", j.name, err)
			}
			if err := j.add(t); err != nil {
				return err
			}
		}
		return nil
	})
	return outs, err
}

func (a *app) run() *cobra.Command {
	var data, out, expect string
	var batch, samples int
	var rtol, atol float64
	c := &cobra.Command{
		Use:   "run MODEL --data D [-o OUT.npz] [--expect E]",
		Short: "Run a model over data",
		Long: `run feeds every sample of the data to the model. -o keeps the outputs in an .npz;
--expect compares them with an .npz of outputs, or with the output_N.pb of a
test folder (--expect DATA), and exits with status 1 where they differ by more
than atol + rtol·max|expected|.`,
		Example: `  lathe run model.onnx --data samples.npz -o outputs.npz
  lathe run model.onnx --data samples.npz --expect golden.npz --rtol 1e-4
  lathe run model.onnx --data test_case/ --expect test_case/`,
		Args: args(1, 1, "one model"),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := a.load(args[0])
			if err != nil {
				return err
			}
			src, err := a.open(data)
			if err != nil {
				return err
			}
			prog, err := runtime.Compile(m, runtime.Options{})
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			feed, err := src.Bind(prog.Inputs())
			if err != nil {
				return err
			}
			for _, n := range feed.Notes {
				a.note("%s: %s", data, n)
			}
			if samples > 0 {
				feed = feed.Slice(0, min(samples, feed.Len()))
			}
			start := time.Now()
			outs, err := a.outputsOf(c.Context(), prog, feed, batch, "run")
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			took := time.Since(start)
			if out != "" {
				if err := writeNPZ(out, outs); err != nil {
					return fmt.Errorf("%s: %w", out, err)
				}
			}
			result := map[string]any{"path": args[0], "samples": feed.Len(), "seconds": took.Seconds()}
			var list []map[string]any
			for _, j := range outs {
				list = append(list, map[string]any{"name": j.name, "dtype": j.dtype.String(), "shape": j.shape})
			}
			result["outputs"] = list
			var cmp comparison
			if expect != "" {
				if cmp, err = compareWith(outs, src, expect, rtol, atol, a.limitMB<<20); err != nil {
					return err
				}
				result["passed"], result["max_abs_error"], result["max_rel_error"] = cmp.passed, cmp.abs, cmp.rel
			}
			if a.json {
				if err := a.printJSON(result); err != nil {
					return err
				}
			} else {
				for _, j := range outs {
					fmt.Fprintf(a.stdout, "%s: %v%v\n", j.name, j.dtype, j.shape)
				}
				fmt.Fprintf(a.stdout, "%d samples in %.2f s, %.3f ms a sample\n", feed.Len(), took.Seconds(), 1e3*took.Seconds()/float64(feed.Len()))
				if expect != "" {
					fmt.Fprintf(a.stdout, "largest difference: %.3g absolute, %.3g relative to the largest value\n", cmp.abs, cmp.rel)
				}
			}
			if expect != "" && !cmp.passed {
				return failed{fmt.Errorf("%s: %s", args[0], cmp.where)}
			}
			return nil
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", ".npz to write the outputs to")
	c.Flags().StringVar(&expect, "expect", "", "expected outputs: an .npz, or the test folder given as data")
	c.Flags().IntVar(&batch, "batch", 0, "samples a run (0: a default)")
	c.Flags().IntVar(&samples, "samples", 0, "use only so many samples (0: all)")
	c.Flags().Float64Var(&rtol, "rtol", 1e-4, "tolerance of --expect relative to the largest expected value of an output")
	c.Flags().Float64Var(&atol, "atol", 1e-5, "absolute tolerance of --expect")
	a.dataFlags(c, &data, true)
	return c
}

func writeNPZ(path string, outs []*joined) error {
	var arrays []*npz.Array
	for _, j := range outs {
		arrays = append(arrays, &npz.Array{Name: j.name, DType: j.dtype, Shape: j.shape, Raw: j.raw})
	}
	var buf bytes.Buffer
	if err := npz.Write(&buf, arrays...); err != nil {
		return err
	}
	return atomicfile.Write(path, buf.Bytes())
}
