package main

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/passes"
)

// dropFlags are the flags that say what is dropped and how.
type dropFlags struct {
	count       int
	fraction    float64
	mode        string
	selector    string
	norm        string
	recover     string
	first, last int
	iterative   bool
	samples     int
}

func (d *dropFlags) add(c *cobra.Command, count string) {
	f := c.Flags()
	f.IntVar(&d.count, count, -1, "how many modules to drop (layers in mode block)")
	f.StringVar(&d.mode, "mode", "joint", "what to drop: joint, attention, mlp, block")
	f.StringVar(&d.selector, "select", "cosine", "how to choose: cosine, angular, loss, random, deepest")
	f.StringVar(&d.norm, "norm", "gone", "post-LN models: gone drops the norm behind a module with it, kept keeps it")
	f.StringVar(&d.recover, "recover", "none", "none, or mean: put a module's mean update in its place")
	f.IntVar(&d.first, "protect-first", 0, "layers at the beginning to leave alone")
	f.IntVar(&d.last, "protect-last", 0, "layers at the end to leave alone")
	f.BoolVar(&d.iterative, "iterative", false, "score anew after each drop (needs --data)")
	f.IntVar(&d.samples, "loss-samples", 256, "samples that --select loss and --iterative measure on (0: all)")
}

// oneOf checks a flag that takes one of a few words.
func oneOf[T ~string](flag, got string, words ...T) error {
	var list []string
	for _, w := range words {
		if string(w) == got {
			return nil
		}
		list = append(list, string(w))
	}
	return fmt.Errorf("--%s %s: want one of %s", flag, got, strings.Join(list, ", "))
}

func (d *dropFlags) check() error {
	if err := oneOf("mode", d.mode, passes.Modes...); err != nil {
		return err
	}
	if err := oneOf("select", d.selector, passes.Selectors...); err != nil {
		return err
	}
	if err := oneOf("norm", d.norm, passes.NormGone, passes.NormKept); err != nil {
		return err
	}
	return oneOf("recover", d.recover, passes.RecoverNone, passes.RecoverMean)
}

// number turns the count or the fraction into a count of units.
func (d *dropFlags) number(m *graph.Model) (int, error) {
	if d.count >= 0 || d.fraction == 0 {
		return max(d.count, 0), nil
	}
	if d.fraction < 0 || d.fraction > 1 || math.IsNaN(d.fraction) {
		return 0, fmt.Errorf("--fraction %v: want a number from 0 to 1", d.fraction)
	}
	list, err := modules.Find(m)
	if err != nil {
		return 0, err
	}
	n := 0
	layers := map[int]bool{}
	for _, x := range list {
		attention := x.Kind == modules.Attention || x.Kind == modules.CrossAttention
		if x.Kind == modules.Other || passes.Mode(d.mode) == passes.AttentionOnly && !attention ||
			passes.Mode(d.mode) == passes.MLPOnly && attention {
			continue
		}
		n++
		layers[x.Layer] = true
	}
	if passes.Mode(d.mode) == passes.Block {
		n = len(layers)
	}
	return int(math.Round(d.fraction * float64(n))), nil
}

func (a *app) drop() *cobra.Command {
	var data, ledgerPath string
	var d dropFlags
	var o outFlags
	var named []string
	c := &cobra.Command{
		Use:   "drop MODEL --ledger L | --data D  --count N -o OUT",
		Short: "Drop the least important modules",
		Long: `drop removes the attention and MLP modules that matter least, all at once, and
everything that no output needs after that. Scores come from a ledger that
lathe score wrote, or are measured on --data first. A dropped attention takes
its cache inputs and outputs with it. --count 0 needs neither and only reads
and writes the model.`,
		Example: `  lathe drop model.onnx --ledger scores.json --count 4 -o small.onnx
  lathe drop model.onnx --data calib.npz --fraction 0.25 --select loss --recover mean -o small.onnx
  lathe drop model.onnx --ledger scores.json --count 2 --mode block --dry-run
  lathe drop model.onnx --modules A3,M7 -o small.onnx`,
		Args: args(1, 1, "one model"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.check("drop"); err != nil {
				return err
			}
			if err := d.check(); err != nil {
				return err
			}
			ways := 0
			for _, given := range []bool{d.count >= 0, d.fraction > 0, len(named) > 0} {
				if given {
					ways++
				}
			}
			if ways != 1 {
				return fmt.Errorf("drop needs one of --count N, --fraction F and --modules A3,M7")
			}
			m, err := a.load(args[0])
			if err != nil {
				return err
			}
			var l *calib.Ledger
			if ledgerPath != "" {
				if l, err = calib.LoadLedger(ledgerPath); err != nil {
					return err
				}
			}
			var feed *calib.Feed
			if data != "" {
				if feed, err = a.feed(m, data); err != nil {
					return err
				}
			}
			before := m.Parameters()
			ids, j, l, err := a.dropFrom(c.Context(), m, l, feed, d, named)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if ledgerPath != "" && l != nil && passes.Selector(d.selector) == passes.ByLoss && !o.dryRun {
				if err := l.Save(ledgerPath); err != nil { // the order is kept for the next count
					return err
				}
			}
			size, err := o.save(m)
			if err != nil {
				return err
			}
			if ids == nil {
				ids = []string{}
			}
			if a.json {
				return a.printJSON(map[string]any{"dropped": ids, "output": o.path, "parameters_before": before,
					"parameters_after": m.Parameters(), "bytes": size, "journal": j.Entries})
			}
			fmt.Fprintf(a.stdout, "dropped %d: %s\n", len(ids), strings.Join(ids, " "))
			fmt.Fprintf(a.stdout, "parameters %s → %s (−%s), %s bytes", grouped(before), grouped(m.Parameters()),
				percent(before-m.Parameters(), before), grouped(size))
			if !o.dryRun {
				fmt.Fprintf(a.stdout, ", written to %s", o.path)
			}
			fmt.Fprintln(a.stdout)
			return nil
		},
	}
	d.add(c, "count")
	c.Flags().Float64Var(&d.fraction, "fraction", 0, "drop this fraction of what the mode chooses among")
	c.Flags().StringSliceVar(&named, "modules", nil, "drop these modules, named by id as in A3,M7, whatever their scores")
	c.Flags().StringVar(&ledgerPath, "ledger", "", "scores that lathe score wrote")
	a.dataFlags(c, &data, false)
	o.add(c)
	return c
}

// dropFrom selects and drops modules of m. It measures scores on the feed
// where there is no ledger, and returns the ledger it used.
func (a *app) dropFrom(ctx context.Context, m *graph.Model, l *calib.Ledger, feed *calib.Feed, d dropFlags, named []string) ([]string, *passes.Journal, *calib.Ledger, error) {
	j := &passes.Journal{}
	count, err := d.number(m)
	if err != nil || count == 0 && named == nil {
		return nil, j, l, err
	}
	by := passes.Selector(d.selector)
	scored := (by == passes.ByCosine || by == passes.ByAngular) && !d.iterative && named == nil
	if l == nil && (scored || passes.Recover(d.recover) == passes.RecoverMean) {
		if feed == nil {
			return nil, nil, nil, fmt.Errorf("dropping modules by %s, recovery %s, needs --ledger or --data", d.selector, d.recover)
		}
		if l, err = a.scoreFeed(ctx, m, feed, calib.ScoreOptions{Means: true}); err != nil {
			return nil, nil, nil, err
		}
	}
	drop := passes.DropOptions{Norm: passes.Norm(d.norm), Recover: passes.Recover(d.recover)}
	if l != nil {
		drop.Means = l.MeanUpdate
	}
	ids := named
	if named == nil {
		trial := feed
		if trial != nil && d.samples > 0 {
			trial = trial.Slice(0, min(d.samples, trial.Len()))
		}
		ids, err = passes.Select(ctx, m, passes.SelectOptions{Count: count, Mode: passes.Mode(d.mode), By: by, Iterative: d.iterative,
			ProtectFirst: d.first, ProtectLast: d.last, Seed: a.seed, Ledger: l, Feed: trial, Drop: drop,
			Threads: a.threads, Progress: a.progress("select by " + d.selector)})
		if err != nil {
			return nil, nil, nil, err
		}
	}
	if err := passes.Run(ctx, m, j, passes.DropModules(ids, drop)); err != nil {
		return nil, nil, nil, err
	}
	return ids, j, l, nil
}

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
				if f.samples > 0 {
					opts.Feed = opts.Feed.Slice(0, min(f.samples, opts.Feed.Len()))
				}
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
