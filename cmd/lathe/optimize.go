package main

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/calib/metric"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/atomicfile"
	"github.com/onnx-lathe/lathe/internal/report"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/passes/optimize"
)

func (a *app) optimize() *cobra.Command {
	var data, evalData, reportPath, recipe string
	var d dropFlags
	var f circulantFlags
	var o outFlags
	var e calib.EvalOptions
	var controls bool
	c := &cobra.Command{
		Use:   "optimize MODEL --data D [-o OUT] [--report REPORT.html]",
		Short: "Score, drop, rewrite and compare, in one command",
		Long: `optimize scores every module on the data, drops the least important ones,
rewrites the layers that are left as block-circulant operators, compares size,
speed and quality with the original and with controls (as many modules dropped
at random, and from the end), and writes the model and a report.

Judge on data that nothing was fitted on: give it with --eval-data. A recipe is
a YAML file with the same names as the flags (drop: 4, block: 2, …); flags on
the command line win.`,
		Example: `  lathe optimize model.onnx --data calib.npz --eval-data eval.npz --labels labels \
      --drop 4 --block 2 -o small.onnx --report report.html
  lathe optimize model.onnx --data calib.npz --recipe recipe.yaml -o small.onnx`,
		Args: args(1, 1, "one model"),
		PreRunE: func(c *cobra.Command, _ []string) error {
			return readRecipe(c, recipe)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if o.path == "" && reportPath == "" && !o.dryRun {
				return fmt.Errorf("optimize needs -o OUT.onnx, --report REPORT.html or --dry-run")
			}
			if err := d.check(); err != nil {
				return err
			}
			m, err := a.load(args[0])
			if err != nil {
				return err
			}
			opts := optimize.Options{Controls: controls, Threads: a.threads, LossSamples: d.samples, FitSamples: f.samples, Eval: e,
				Progress: func(stage string) func(int, int) { return a.progress(stage) }}
			if opts.Calibration, err = a.open(data); err != nil {
				return err
			}
			if evalData != "" {
				if opts.Evaluation, err = a.open(evalData); err != nil {
					return err
				}
			}
			return a.optimizeModel(c.Context(), m, args[0], fileSize(args[0]), opts, d, f, o, reportPath)
		},
	}
	d.add(c, "drop")
	f.add(c, 0)
	c.Flags().StringVar(&evalData, "eval-data", "", "samples to judge on (default: --data, and the report says so)")
	c.Flags().StringVar(&e.Labels, "labels", "", "array of the evaluation data that holds the labels")
	c.Flags().StringVar((*string)(&e.Metric), "metric", "", "accuracy, nll, kl, agreement, cosine or sqnr (default: accuracy with labels, else agreement)")
	c.Flags().BoolVar(&controls, "controls", true, "also compare with dropping at random and from the end")
	c.Flags().StringVar(&reportPath, "report", "", "HTML report to write")
	c.Flags().StringVar(&recipe, "recipe", "", "YAML file with values for these flags")
	o.add(c)
	a.dataFlags(c, &data, true)
	return c
}

// optimizeModel runs the whole way and writes what was asked for.
func (a *app) optimizeModel(ctx context.Context, m *graph.Model, path string, size int64, opts optimize.Options, d dropFlags, f circulantFlags, o outFlags, reportPath string) error {
	var err error
	if opts.Circulant, err = f.options(); err != nil {
		return err
	}
	opts.Rewrite = f.block > 0
	if opts.Eval.Metric == "" {
		opts.Eval.Metric = calib.MetricAgreement
		if opts.Eval.Labels != "" {
			opts.Eval.Metric = calib.MetricAccuracy
		}
	}
	if err := oneOf("metric", string(opts.Eval.Metric), calib.Metrics()...); err != nil {
		return err
	}
	opts.Eval.Seed = a.seed
	count, err := d.number(m)
	if err != nil {
		return err
	}
	opts.Select = passes.SelectOptions{Count: count, Mode: passes.Mode(d.mode), By: passes.Selector(d.selector), Iterative: d.iterative,
		ProtectFirst: d.first, ProtectLast: d.last, Seed: a.seed,
		Drop: passes.DropOptions{Norm: passes.Norm(d.norm), Recover: passes.Recover(d.recover)}}
	res, err := optimize.Run(ctx, m, opts)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if size > 0 {
		res.Variants[0].Bytes = size
	}
	if o.path != "" && !o.dryRun {
		if _, err := o.save(res.Final); err != nil {
			return err
		}
	}
	if reportPath != "" && !o.dryRun {
		var buf bytes.Buffer
		if err := report.Write(&buf, report.Input{Title: filepath.Base(path), Result: res}); err != nil {
			return fmt.Errorf("report: %w", err)
		}
		if err := atomicfile.Write(reportPath, buf.Bytes()); err != nil {
			return fmt.Errorf("report: %w", err)
		}
	}
	return a.printResult(res, o.path, reportPath)
}

type variantJSON struct {
	Name        string       `json:"name"`
	Control     bool         `json:"control"`
	Dropped     []string     `json:"dropped"`
	Metric      calib.Metric `json:"metric"`
	Value       jsonFloat    `json:"value"`
	CI          [2]jsonFloat `json:"ci95"`
	KL          jsonFloat    `json:"kl"`
	MsPerSample float64      `json:"ms_per_sample"`
	Parameters  int64        `json:"parameters"`
	FLOPs       int64        `json:"flops"`
	Bytes       int64        `json:"bytes"`
	SDR         *float64     `json:"sdr"`
}

func (a *app) printResult(res *optimize.Result, out, reportPath string) error {
	first := res.Variants[0]
	var list []variantJSON
	for i, v := range res.Variants {
		x := variantJSON{Name: v.Name, Control: v.Control, Dropped: append([]string{}, v.Dropped...), Metric: v.Quality.Metric,
			Value: jsonFloat(v.Quality.Value), CI: [2]jsonFloat{jsonFloat(v.Quality.CI[0]), jsonFloat(v.Quality.CI[1])},
			KL: jsonFloat(v.ToOriginal.Value), MsPerSample: v.Quality.MsPerSample, Parameters: v.Parameters, FLOPs: v.FLOPs, Bytes: v.Bytes}
		if v.Quality.Metric == calib.MetricAccuracy && i > 0 {
			if sdr, ok := metric.SDR(first.Quality.Value, v.Quality.Value, first.Quality.MsPerSample, v.Quality.MsPerSample); ok {
				x.SDR = &sdr
			}
		}
		list = append(list, x)
	}
	layers := []layerJSON{}
	for _, l := range res.Layers {
		layers = append(layers, layerOf(l))
	}
	if a.json {
		return a.printJSON(map[string]any{"models": list, "dropped": append([]string{}, res.Dropped...), "rewritten": layers, "modules": res.Ledger.Modules,
			"same_data": res.SameData, "output": out, "report": reportPath})
	}
	if len(res.Dropped) > 0 {
		fmt.Fprintf(a.stdout, "dropped   %s\n", strings.Join(res.Dropped, " "))
	}
	if len(layers) > 0 {
		fmt.Fprintf(a.stdout, "rewritten %d layers in blocks of %d\n", len(layers), layers[0].Block)
	}
	fmt.Fprintln(a.stdout)
	rows := [][]string{{"model", string(first.Quality.Metric), "95 % interval", "KL", "parameters", "MFLOPs/token", "bytes", "ms/sample", "speed"}}
	for _, v := range list {
		rows = append(rows, []string{v.Name, fmt.Sprintf("%.4f", float64(v.Value)), fmt.Sprintf("%.4f … %.4f", float64(v.CI[0]), float64(v.CI[1])),
			fmt.Sprintf("%.4f", float64(v.KL)), grouped(v.Parameters), fmt.Sprintf("%.3f", float64(v.FLOPs)/1e6), grouped(v.Bytes),
			fmt.Sprintf("%.3f", v.MsPerSample), fmt.Sprintf("%.2f×", list[0].MsPerSample/v.MsPerSample)})
	}
	a.table(rows)
	if res.SameData {
		fmt.Fprintln(a.stdout, "\njudged on the data that it was fitted on; give --eval-data for an honest figure")
	}
	for _, p := range []string{out, reportPath} {
		if p != "" {
			fmt.Fprintln(a.stdout, "written to", p)
		}
	}
	return nil
}
