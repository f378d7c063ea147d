package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/internal/atomicfile"
	"github.com/onnx-lathe/lathe/passes/optimize"
	"github.com/onnx-lathe/lathe/testmodels"
)

func (a *app) demo() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole way on an embedded model",
		Long: `demo takes a small transformer that was really trained and is part of this
program, with its data, and does what optimize does: it scores the modules,
drops the least important ones, rewrites layers as block-circulant operators,
and compares. The models, the data and the report are written to a folder, to
try the other commands on.`,
		Example: "  lathe demo\n  lathe demo --dir /tmp/lathe-demo",
		Args:    args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			model, calibration, evaluation := testmodels.Demo()
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			in := func(name string) string { return filepath.Join(dir, name) }
			for name, data := range map[string][]byte{"demo.onnx": model, "calib.npz": calibration, "eval.npz": evaluation} {
				if err := atomicfile.Write(in(name), data); err != nil {
					return err
				}
			}
			m, err := a.load(in("demo.onnx"))
			if err != nil {
				return err
			}
			opts := optimize.Options{Controls: true, Threads: a.threads, FitSamples: demoFitSamples,
				Eval:     calib.EvalOptions{Labels: "labels", Metric: calib.MetricAccuracy},
				Progress: func(stage string) func(int, int) { return a.progress(stage) }}
			if opts.Calibration, err = a.open(in("calib.npz")); err != nil {
				return err
			}
			if opts.Evaluation, err = a.open(in("eval.npz")); err != nil {
				return err
			}
			d := dropFlags{count: demoDrop, mode: "joint", selector: "cosine", norm: "gone", recover: "none"}
			f := circulantFlags{block: demoBlock, fit: "lsq"}
			if !a.json {
				fmt.Fprintf(a.stdout, "An 8-layer transformer that recognises the %d words of a made-up language, %s parameters.\n", testmodels.WordClasses, grouped(m.Parameters()))
				fmt.Fprintf(a.stdout, "Calibrated on %d samples, judged on %d others; nothing is trained anew.\n\n", testmodels.DemoCalib, testmodels.DemoEval)
			}
			err = a.optimizeModel(c.Context(), m, in("demo.onnx"), int64(len(model)), opts, d, f,
				outFlags{path: in("optimized.onnx")}, in("report.html"))
			if err != nil {
				return err
			}
			if !a.json {
				fmt.Fprintf(a.stdout, "\nopen %s; the next thing to try:\n  lathe inspect %s\n  lathe verify %s --data %s\n",
					in("report.html"), in("optimized.onnx"), in("optimized.onnx"), in("eval.npz"))
			}
			return nil
		},
	}
	c.Flags().StringVar(&dir, "dir", "lathe-demo", "folder to write to")
	return c
}

// What the demo does to its model.
const (
	demoDrop       = 4
	demoBlock      = 2
	demoFitSamples = 256
)
