package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/atomicfile"
	"github.com/onnx-lathe/lathe/internal/report"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/passes/optimize"
	"github.com/onnx-lathe/lathe/passes/train"
)

// optimizeFlags say what optimize does to a model, how it judges it and what
// it writes.
type optimizeFlags struct {
	drop      dropFlags
	circulant circulantFlags
	budget    budgetFlags
	heal      learnFlags
	quantize  quantizeFlags
	int16     bool            // quantize last
	compact   bool            // and make the file small
	steps     []optimize.Step // of the recipe; nil where it lists none
	eval      evalFlags
	controls  bool
	out       outFlags
	report    string
}

func (a *app) optimize() *cobra.Command {
	x := optimizeFlags{drop: newDropFlags(), circulant: newCirculantFlags(), quantize: newQuantizeFlags(), controls: true}
	var d dataFlags
	var evalData, recipe string
	c := &cobra.Command{
		Use:   "optimize MODEL --data D [-o OUT] [--report REPORT.html]",
		Short: "Score, drop, rewrite and compare, in one command",
		Long: `optimize scores every module on the data, drops the least important ones,
rewrites the layers that are left as block-circulant operators, compares size,
speed and quality with the original and with controls (as many modules dropped
at random, and from the end), and writes the model and a report. Without --drop
it drops nothing, without --block it rewrites nothing. After each change it
heals: it trains what is left to come back to the original's outputs, on the
same data; --heal says for how many steps, 0 for none. With --int16 it puts what
came of all that into 16-bit fixed point, as lathe quantize does. --compact makes
a smaller file of the same model: equal constants and equal nodes become one, and
names inside are shortened.

With --budget params=0.5 (or flops, or ms) it chooses itself which modules go
and which layers get which block size: from the original it takes the step that
costs the least KL to the original for what it saves, again and again, until the
budget is met or the loss of --max-loss reached. The report draws the curve.

Judge on data that nothing was fitted on: give it with --eval-data. A recipe is
a YAML file with the same names as the flags (drop: 4, block: 2, …); flags on
the command line win. In place of drop, block, budget, heal, int16 and compact it may
list the steps that are taken one after the other, each with flags of the command
of its name:

  labels: labels
  steps:
    - drop: {count: 6, select: loss}
    - heal: {steps: 150}
    - circulant: {block: 4}
    - heal: {steps: 900, lr: 0.001}
    - quantize: {skip: head}
    - compact: {}`,
		Example: `  lathe optimize model.onnx --data calib.npz --eval-data eval.npz --labels labels \
      --drop 4 --block 2 --int16 -o small.onnx --report report.html
  lathe optimize model.onnx --data calib.npz --budget params=0.5 -o small.onnx --report report.html
  lathe optimize model.onnx --data calib.npz --recipe recipe.yaml -o small.onnx`,
		Args: argCount(1, 1, "one model"),
		PreRunE: func(c *cobra.Command, _ []string) error {
			var err error
			x.steps, err = a.readRecipe(c, recipe)
			return err
		},
		RunE: func(c *cobra.Command, args []string) error {
			if x.out.path == "" && x.report == "" && !x.out.dryRun {
				return errors.New("optimize needs -o OUT.onnx or --report REPORT.html, or --dry-run to write nothing")
			}
			inputs := []string{args[0], d.path, evalData, recipe}
			if err := x.out.writable(x.out.path, inputs...); err != nil {
				return err
			}
			if err := x.out.writable(x.report, append(inputs, x.out.path)...); err != nil {
				return err
			}
			if x.steps != nil && (x.budget.given() || x.drop.count > 0 || x.circulant.block > 0 || x.int16 || x.compact) {
				return fmt.Errorf("--recipe %s lists steps; leave --drop, --block, --budget, --max-loss, --int16 and --compact out, or the steps", recipe)
			}
			if x.budget.given() && (x.drop.count > 0 || x.circulant.block > 0) {
				return errors.New("--budget and --max-loss choose modules and block sizes themselves; leave --drop and --block out")
			}
			m, err := a.load(args[0])
			if err != nil {
				return err
			}
			opts := x.options(a)
			if opts.Calibration, err = a.open(d.path, &d); err != nil {
				return err
			}
			if evalData != "" {
				judge := d
				judge.o.Samples = 0
				if opts.Evaluation, err = a.open(evalData, &judge); err != nil {
					return err
				}
			}
			if feed, err := a.bind(m, opts.Calibration); err == nil { // else optimize says why
				kept := 0
				for _, s := range opts.Steps {
					samples := 0
					switch {
					case s.Circulant != nil:
						samples = s.Circulant.Samples
					case s.Budget != nil:
						samples = s.Budget.FitSamples
					default:
						continue
					}
					f := feed.Spread(samples)
					kept = max(kept, 2*f.Len()/f.BatchSize(0))
				}
				a.foresee(m, feed, 0, kept)
			}
			return a.optimizeModel(c.Context(), m, args[0], fileSize(args[0]), opts, &x)
		},
	}
	x.drop.add(c, "drop")
	x.circulant.add(c)
	x.budget.add(c)
	c.Flags().BoolVar(&x.budget.drop, "search-modules", true, "a search may drop modules too")
	x.addHealing(c)
	c.Flags().BoolVar(&x.int16, "int16", false, "at last put layers into 16-bit fixed point")
	c.Flags().BoolVar(&x.compact, "compact", false, "make the file smaller: equal constants become one, names inside short")
	x.eval.add(c, calib.MetricAgreement)
	c.Flags().StringVar(&evalData, "eval-data", "", "`path` of the samples to judge on (default those of --data, and the report says so)")
	c.Flags().BoolVar(&x.controls, "controls", true, "also compare with dropping at random and from the end")
	c.Flags().StringVar(&x.report, "report", "", "`file` to write an HTML report to")
	c.Flags().StringVar(&recipe, "recipe", "", "YAML `file` with values for these flags")
	must(c.MarkFlagFilename("eval-data", "npz"))
	must(c.MarkFlagFilename("report", "html"))
	must(c.MarkFlagFilename("recipe", "yaml", "yml"))
	x.out.add(c, "model", "onnx")
	d.add(a, c, true)
	return completeModels(c)
}

// addHealing adds the flags of the healing after each change.
func (x *optimizeFlags) addHealing(c *cobra.Command) {
	h := &x.heal
	h.o = train.Options{Steps: 300, Batch: 64, LearningRate: 3e-4, Temperature: 2, LabelWeight: 0.5, Target: 0.001}
	h.heldOut = 0.1
	addCount(c.Flags(), &h.o.Steps, 0, "heal", "steps of training after each change, to come back to the original; 0 for none")
	addNumber(c.Flags(), &h.o.LearningRate, 1e-9, 10, "heal-lr", "learning rate of the healing")
	addNumber(c.Flags(), &h.o.Target, 0, 1e9, "heal-target", "end a healing once its held-out loss, the divergence from the original, is at most this; 0 for never")
	c.Flags().StringVar(&h.o.Labels, "heal-labels", "", "`array` of the data with classes for the healing to learn too")
}

// options turns the flags into the options of optimize.Run, but for the data.
func (x *optimizeFlags) options(a *app) optimize.Options {
	o := optimize.Options{Steps: x.steps, Controls: x.controls, Eval: x.eval.options(a, calib.MetricAgreement),
		Threads: a.threads, Progress: a.progress, Healing: a.trainProgress()}
	if o.Steps != nil {
		return o
	}
	heal := func() {
		if x.heal.o.Steps > 0 {
			t := x.heal.options(a)
			o.Steps = append(o.Steps, optimize.Step{Heal: &t})
		}
	}
	if x.budget.given() {
		b := x.search(a)
		o.Steps = append(o.Steps, optimize.Step{Budget: &b})
		heal()
	}
	if x.drop.count > 0 {
		s := a.selection(&x.drop, x.drop.count)
		o.Steps = append(o.Steps, optimize.Step{Drop: &s})
		heal()
	}
	if x.circulant.block > 0 {
		o.Steps = append(o.Steps, optimize.Step{Circulant: &optimize.Circulant{CirculantOptions: x.circulant.options(), Samples: x.circulant.samples}})
		heal()
	}
	if x.int16 {
		o.Steps = append(o.Steps, optimize.Step{Quantize: &optimize.Quantize{QuantizeOptions: x.quantize.options(), Samples: x.quantize.samples}})
	}
	if x.compact {
		o.Steps = append(o.Steps, optimize.Step{Compact: true})
	}
	return o
}

// search is what the flags ask passes.Allocate for.
func (x *optimizeFlags) search(a *app) passes.AllocateOptions {
	b := x.budget.options()
	b.Circulant, b.FitSamples, b.Drop, b.Samples = x.circulant.options(), x.circulant.samples, a.selection(&x.drop, 0).Drop, x.drop.samples
	return b
}

// optimizeModel runs the whole way on the model of a path and a size, and
// writes what was asked for.
func (a *app) optimizeModel(ctx context.Context, m *graph.Model, path string, size int64, opts optimize.Options, x *optimizeFlags) error {
	res, err := optimize.Run(ctx, m, opts)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	res.Variants[0].Bytes = size
	if x.out.path != "" {
		if _, err := x.out.save(ctx, a, res.Final); err != nil {
			return err
		}
	}
	if x.report != "" {
		var page bytes.Buffer
		if err := report.Write(&page, report.Input{Title: filepath.Base(path), Result: res}); err != nil {
			return err
		}
		if !x.out.dryRun {
			if err := atomicfile.Write(x.report, page.Bytes()); err != nil {
				return fmt.Errorf("%s: %w", x.report, plain(err))
			}
		}
	}
	return a.printResult(res, x)
}

// blockSizes tells how many layers have which block size.
func blockSizes(layers []layerJSON) string {
	count := map[int]int{}
	for _, l := range layers {
		count[l.Block]++
	}
	if len(count) == 1 {
		return fmt.Sprint(layers[0].Block)
	}
	var out []string
	for _, b := range slices.Sorted(maps.Keys(count)) {
		out = append(out, fmt.Sprintf("%d (%d)", b, count[b]))
	}
	return strings.Join(out, ", ")
}

// tradeJSON is a step of a search.
type tradeJSON struct {
	Step   string    `json:"step"`
	Params int64     `json:"params"`
	FLOPs  int64     `json:"flops"`
	Ms     float64   `json:"ms"`
	KL     jsonFloat `json:"kl"`
	Chosen bool      `json:"chosen,omitempty"`
}

type variantJSON struct {
	Name    string   `json:"name"`
	Control bool     `json:"control"`
	Dropped []string `json:"dropped"`
	quality
	KL    jsonFloat `json:"kl"` // from the original
	FLOPs int64     `json:"flops"`
}

func (a *app) printResult(res *optimize.Result, x *optimizeFlags) error {
	first := res.Variants[0]
	var list []variantJSON
	for _, v := range res.Variants {
		list = append(list, variantJSON{Name: v.Name, Control: v.Control, Dropped: append([]string{}, v.Dropped...),
			quality: qualityOf(v.Quality, first.Quality, v.Parameters, v.Bytes), KL: jsonFloat(v.ToOriginal.Value), FLOPs: v.FLOPs})
	}
	layers := []layerJSON{}
	for _, l := range res.Layers {
		layers = append(layers, layerOf(l))
	}
	curve := []tradeJSON{}
	if res.Search != nil {
		for i, t := range res.Search.Curve {
			curve = append(curve, tradeJSON{t.Step, t.Params, t.FLOPs, t.Ms, jsonFloat(t.KL), i == res.Search.Chosen})
		}
		if !res.Search.Met {
			last := res.Search.Best()
			a.note("the budget is not met: %s parameters, %s FLOPs a token is as far as the search went", grouped(last.Params), grouped(last.FLOPs))
		}
	}
	if a.json {
		healings := []map[string]any{}
		for _, h := range res.Healings {
			healings = append(healings, map[string]any{"model": h.Variant, "curve": h.Curve, "best": h.Best, "steps": h.Steps, "seconds": h.Seconds})
		}
		return a.printJSON(map[string]any{"curve": curve, "healings": healings, "models": list, "dropped": append([]string{}, res.Dropped...), "rewritten": layers, "quantized": append([]passes.QuantizedLayer{}, res.Fixed...), "modules": res.Ledger.Modules,
			"same_data": res.SameData, "output": x.out.path, "report": x.report})
	}
	if len(res.Dropped) > 0 {
		fmt.Fprintf(a.stdout, "dropped   %s\n", strings.Join(res.Dropped, " "))
	}
	for _, h := range res.Healings {
		fmt.Fprintf(a.stdout, "healed    held-out loss %.4f → %.4f in %d steps\n", h.Curve[0].HeldOut, h.Best.HeldOut, h.Steps)
	}
	if len(layers) > 0 {
		fmt.Fprintf(a.stdout, "rewritten %d layers in blocks of %s\n", len(layers), blockSizes(layers))
	}
	if len(res.Fixed) > 0 {
		fmt.Fprintf(a.stdout, "quantized %d layers to 16-bit fixed point\n", len(res.Fixed))
	}
	if len(res.Dropped)+len(layers)+len(res.Healings)+len(res.Fixed) > 0 {
		fmt.Fprintln(a.stdout)
	}
	rows := [][]string{{"model", string(first.Quality.Metric), "95 % interval", "KL", "parameters", "MFLOPs/token", "bytes", "ms/sample", "speed"}}
	for _, v := range list {
		rows = append(rows, []string{v.Name, fmt.Sprintf("%.4f", float64(v.Value)), v.interval(), fmt.Sprintf("%.4f", float64(v.KL)),
			grouped(v.Parameters), fmt.Sprintf("%.3f", float64(v.FLOPs)/1e6), grouped(v.Bytes), fmt.Sprintf("%.3f", v.MsPerSample), v.speed(&list[0].quality)})
	}
	a.table(rows)
	if res.SameData {
		fmt.Fprintln(a.stdout, "\njudged on the data that it was fitted on; give --eval-data for an honest figure")
	}
	for _, p := range []string{x.out.path, x.report} {
		if p != "" && !x.out.dryRun {
			fmt.Fprintln(a.stdout, "written to", p)
		}
	}
	return nil
}
