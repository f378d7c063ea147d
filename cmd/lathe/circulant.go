package main

import (
	"fmt"
	"math"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/passes"
)

// circulantFlags are the flags that say what is rewritten and how.
type circulantFlags struct {
	block      int
	fit        string
	only, skip string
	tied, head bool
	samples    int
	ridge      float64
}

func (f *circulantFlags) add(c *cobra.Command, block int) {
	c.Flags().IntVar(&f.block, "block", block, "block size b: b times fewer parameters; fast for powers of two to 256")
	c.Flags().StringVar(&f.fit, "fit", "lsq", "lsq: least squares on the data; frobenius: mean of the diagonals, needs no data")
	c.Flags().StringVar(&f.only, "only", "", "rewrite only layers whose name matches this regular expression")
	c.Flags().StringVar(&f.skip, "skip", "", "leave layers whose name matches this regular expression")
	c.Flags().BoolVar(&f.tied, "include-tied", false, "also weights that an embedding shares")
	c.Flags().BoolVar(&f.head, "include-head", false, "also the last projection to classes or vocabulary")
	c.Flags().IntVar(&f.samples, "fit-samples", 256, "samples that layers are fitted on (0: all)")
	c.Flags().Float64Var(&f.ridge, "ridge", 0, "ridge of the least squares, relative to the inputs' power (0: 0.01)")
}

// options turns the flags into the options of the pass.
func (f *circulantFlags) options() (passes.CirculantOptions, error) {
	o := passes.CirculantOptions{Block: f.block, Fit: passes.Fit(f.fit), IncludeTied: f.tied, IncludeHead: f.head, Ridge: f.ridge}
	if err := oneOf("fit", f.fit, passes.FitLSQ, passes.FitFrobenius); err != nil {
		return o, err
	}
	for _, r := range []struct {
		flag, text string
		re         **regexp.Regexp
	}{{"only", f.only, &o.Only}, {"skip", f.skip, &o.Skip}} {
		if r.text == "" {
			continue
		}
		re, err := regexp.Compile(r.text)
		if err != nil {
			return o, fmt.Errorf("--%s: %w", r.flag, err)
		}
		*r.re = re
	}
	return o, nil
}

type layerJSON struct {
	Node           string   `json:"node"`
	Block          int      `json:"block"`
	RelativeError  *float64 `json:"relative_error"` // of the output on the data, of the weight without data
	FrobeniusError *float64 `json:"frobenius_error"`
	WeightError    float64  `json:"weight_error"`
	ParamsBefore   int64    `json:"params_before"`
	ParamsAfter    int64    `json:"params_after"`
}

func layerOf(l passes.CirculantLayer) layerJSON {
	out := layerJSON{Node: l.Node, Block: l.Block, WeightError: l.WeightError, ParamsBefore: l.ParamsBefore, ParamsAfter: l.ParamsAfter}
	out.RelativeError = &l.WeightError
	if !math.IsNaN(l.Error) {
		out.RelativeError, out.FrobeniusError = &l.Error, &l.FrobeniusError
	}
	return out
}

func (a *app) circulant() *cobra.Command {
	var data, ledgerPath string
	var f circulantFlags
	var o outFlags
	c := &cobra.Command{
		Use:   "circulant MODEL --data D --block B -o OUT",
		Short: "Rewrite dense layers as block-circulant operators",
		Long: `circulant puts a block-circulant operator, computed by FFT, in the place of
every MatMul and Gemm with a constant weight: b times fewer parameters. The
file carries the operator's definition in standard operators, so any ONNX
runtime that knows model-local functions runs it.

With --data layers are fitted by least squares one after the other, each on
what the already rewritten layers before it give. With a ledger that has
moments (lathe score --moments) they are fitted one-shot. Without healing
expect a loss of quality that grows with the block size: compare with lathe
eval.`,
		Example: `  lathe circulant model.onnx --data calib.npz --block 4 -o small.onnx
  lathe circulant model.onnx --block 8 --fit frobenius --skip head -o small.onnx`,
		Args: args(1, 1, "one model"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.check("circulant"); err != nil {
				return err
			}
			opts, err := f.options()
			if err != nil {
				return err
			}
			if f.block == 0 {
				return fmt.Errorf("circulant needs --block B, as in --block 4")
			}
			m, err := a.load(args[0])
			if err != nil {
				return err
			}
			if ledgerPath != "" {
				if opts.Ledger, err = calib.LoadLedger(ledgerPath); err != nil {
					return err
				}
			}
			if data != "" {
				if opts.Feed, err = a.feed(m, data); err != nil {
					return err
				}
				opts.Feed = opts.Feed.Spread(f.samples)
			}
			before := m.Parameters()
			layers := []layerJSON{}
			opts.Threads, opts.Progress = a.threads, a.progress("fit")
			opts.Layer = func(l passes.CirculantLayer) { layers = append(layers, layerOf(l)) }
			j := &passes.Journal{}
			if err := passes.Run(c.Context(), m, j, passes.RewriteCirculant(opts), passes.EliminateDeadCode()); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			size, err := o.save(m)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"rewritten": layers, "parameters_before": before, "parameters_after": m.Parameters(),
					"bytes": size, "output": o.path, "journal": j.Entries})
			}
			rows := [][]string{{"layer", "block", "output error", "frobenius's", "weight error", "parameters"}}
			for _, l := range layers {
				out, fro := "–", "–"
				if l.FrobeniusError != nil {
					out, fro = fmt.Sprintf("%.4f", *l.RelativeError), fmt.Sprintf("%.4f", *l.FrobeniusError)
				}
				rows = append(rows, []string{l.Node, fmt.Sprint(l.Block), out, fro, fmt.Sprintf("%.4f", l.WeightError),
					grouped(l.ParamsBefore) + " → " + grouped(l.ParamsAfter)})
			}
			a.table(rows)
			for _, e := range j.By("rewrite-circulant") {
				if e.What == "left dense" {
					a.note("left dense: %s: %s", e.Node, e.Why)
				}
			}
			fmt.Fprintf(a.stdout, "%d layers, parameters %s → %s (−%s), %s bytes", len(layers), grouped(before), grouped(m.Parameters()),
				percent(before-m.Parameters(), before), grouped(size))
			if !o.dryRun {
				fmt.Fprintf(a.stdout, ", written to %s", o.path)
			}
			fmt.Fprintln(a.stdout)
			return nil
		},
	}
	f.add(c, 0)
	c.Flags().StringVar(&ledgerPath, "ledger", "", "moments that lathe score --moments wrote, for a one-shot fit")
	a.dataFlags(c, &data, false)
	o.add(c)
	return c
}
