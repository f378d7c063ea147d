package main

import (
	"cmp"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime/fixed"
)

// quantizeFlags are the flags that say what is put into fixed point, and how.
type quantizeFlags struct {
	o          passes.QuantizeOptions
	only, skip pattern
	samples    int
}

func newQuantizeFlags() quantizeFlags {
	return quantizeFlags{o: passes.QuantizeOptions{Range: passes.RangeMax, Rounding: fixed.Once, Percentile: 99.999}}
}

func (f *quantizeFlags) add(c *cobra.Command) {
	addWord(c, &f.o.Range, "range", "how ranges follow from the data", passes.RangeMax, passes.RangePercentile)
	addNumber(c.Flags(), &f.o.Percentile, 50, 100, "percentile", "percent of magnitudes that a range has to hold, with --range percentile")
	addWord(c, &f.o.Rounding, "rounding", "of block-circulant layers: once, or at every stage as hardware with 16-bit registers", fixed.Once, fixed.CirCNN)
	c.Flags().Var(&f.only, "only", "quantise only layers whose name matches this regular expression")
	c.Flags().Var(&f.skip, "skip", "leave layers whose name matches this regular expression")
	addCount(c.Flags(), &f.samples, 0, "range-samples", "samples that ranges are taken from; 0 for all")
}

// options turns the flags into those of passes.QuantizeInt16, but for the data.
func (f *quantizeFlags) options() passes.QuantizeOptions {
	o := f.o
	o.Only, o.Skip = f.only.Regexp, f.skip.Regexp
	return o
}

func (a *app) quantize() *cobra.Command {
	x := newQuantizeFlags()
	var data dataFlags
	var o outFlags
	c := &cobra.Command{
		Use:   "quantize MODEL --data D -o OUT",
		Short: "Compute layers in 16-bit fixed point",
		Long: `quantize puts 16-bit fixed-point operators in the place of every MatMul, Gemm,
Conv and block-circulant layer with constant weights, and of the activations,
pooling and sums between them: a convolutional network runs from its input to
its logits in integers. What is not among these, such as softmax and norms,
stays float between conversions.

Results are the same bits on every machine. The file carries the operators'
definitions in standard operators, so other ONNX runtimes run it too, in float
and with rounding of their own.

Ranges of activations come from the data: the largest magnitude seen, or with
--range percentile one that all but a few keep. Compare with lathe eval, with
--metric agreement or --metric sqnr --per-layer.`,
		Example: `  lathe quantize model.onnx --data calib.npz -o int16.onnx
  lathe quantize model.onnx --data calib.npz --range percentile --percentile 99.99 -o int16.onnx
  lathe eval model.onnx int16.onnx --data eval.npz --metric sqnr --per-layer`,
		Args: argCount(1, 1, "one model"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.need(c, "OUT.onnx"); err != nil {
				return err
			}
			if err := o.writable(o.path, args[0], data.path); err != nil {
				return err
			}
			m, err := a.load(args[0])
			if err != nil {
				return err
			}
			feed, err := a.feed(m, &data)
			if err != nil {
				return err
			}
			opts := x.options()
			opts.Feed = feed.Spread(x.samples)
			a.foresee(m, opts.Feed, 0, 0)
			opts.Threads, opts.Progress = a.threads, a.progress("ranges")
			layers := []passes.QuantizedLayer{}
			opts.Layer = func(l passes.QuantizedLayer) { layers = append(layers, l) }
			before := fileSize(args[0])
			j := &passes.Journal{}
			if err := passes.Run(c.Context(), m, j, passes.FoldConstants(), passes.QuantizeInt16(opts), passes.EliminateDeadCode()); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if len(layers) == 0 {
				return fmt.Errorf("%s: no layer was put into fixed point%s", args[0], cmp.Or(leftOf(j, "quantize-int16", "left float"), noLayers))
			}
			size, err := o.save(c.Context(), a, m)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"rewritten": layers, "bytes_before": before, "bytes": size, "output": o.path, "journal": j.Entries})
			}
			rows := [][]string{{"layer", "operator", "block", "exponents"}}
			for _, l := range layers {
				block := "–"
				if l.Block > 0 {
					block = fmt.Sprint(l.Block)
				}
				rows = append(rows, []string{l.Node, l.Op, block, fmt.Sprintf("%d → %d", l.ExponentX, l.ExponentY)})
			}
			a.table(rows)
			if left := leftOf(j, "quantize-int16", "left float"); left != "" {
				a.note("left float%s", left)
			}
			fmt.Fprintf(a.stdout, "%d layers, %s%s\n", len(layers), change("bytes", before, size), o.written())
			return nil
		},
	}
	x.add(c)
	o.add(c, "model", "onnx")
	data.add(a, c, true)
	return completeModels(c)
}

// noLayers is why a pass that leaves no layer as it is changes none.
const noLayers = ": it has no MatMul, Gemm or Conv with constant weights in float32"

// leftOf tells of the first entry of a journal that a pass left as it was, and
// of how many there are.
func leftOf(j *passes.Journal, pass, what string) string {
	s, more := "", 0
	for _, e := range j.By(pass) {
		switch {
		case e.What != what:
		case s == "":
			s = fmt.Sprintf(": %s: %s", e.Node, e.Why)
		default:
			more++
		}
	}
	if more > 0 {
		s += fmt.Sprintf("; and %d more, which --json lists", more)
	}
	return s
}
