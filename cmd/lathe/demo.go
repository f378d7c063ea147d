package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/atomicfile"
	"github.com/onnx-lathe/lathe/testmodels"
)

// What the demo does to its model.
const (
	demoDrop  = 4
	demoBlock = 2
)

func (a *app) demo() *cobra.Command {
	dir := "lathe-demo"
	x := optimizeFlags{drop: newDropFlags(), circulant: newCirculantFlags(), controls: true, eval: evalFlags{labels: "labels"}}
	x.drop.count, x.circulant.block = demoDrop, demoBlock
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole way on an embedded model",
		Long: `demo takes a small transformer that was really trained and is part of this
program, with its data, and does what optimize does: it scores the modules,
drops the least important ones, rewrites layers as block-circulant operators,
and compares. The models, the data and the report are written to a folder, to
try the other commands on.`,
		Example: "  lathe demo\n  lathe demo --dir /tmp/lathe-demo",
		Args:    argCount(0, 0, "nothing more"),
		RunE: func(c *cobra.Command, _ []string) error {
			in := func(name string) string { return filepath.Join(dir, name) }
			files := []struct {
				name string
				data []byte
			}{{"demo.onnx", nil}, {"calib.npz", nil}, {"eval.npz", nil}}
			files[0].data, files[1].data, files[2].data = testmodels.Demo()
			made := false
			if !x.out.dryRun {
				x.out.path, x.report = in("optimized.onnx"), in("report.html")
				_, err := os.Stat(dir)
				made = errors.Is(err, os.ErrNotExist)
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return fmt.Errorf("--dir %s: %w; name another folder", dir, plain(err))
				}
				if err := x.out.writable(x.report); err != nil {
					return err
				}
			}
			err := a.demoIn(c, in, files[0].data, files[1].data, files[2].data, &x)
			if err == nil && !x.out.dryRun {
				for _, f := range files {
					if err := atomicfile.Write(in(f.name), f.data); err != nil {
						return fmt.Errorf("%s: %w", in(f.name), plain(err))
					}
				}
			}
			if err != nil && made {
				os.Remove(dir) // if it is empty
			}
			if err == nil && !a.json && !x.out.dryRun {
				fmt.Fprintf(a.stdout, "\nopen %s; the next thing to try:\n  lathe inspect %s\n  lathe verify %s --data %s\n",
					in("report.html"), in("optimized.onnx"), in("optimized.onnx"), in("eval.npz"))
			}
			return err
		},
	}
	c.Flags().StringVar(&dir, "dir", dir, "`folder` to write to")
	c.Flags().BoolVar(&x.out.dryRun, "dry-run", false, "do everything but write files")
	must(c.MarkFlagDirname("dir"))
	return c
}

func (a *app) demoIn(c *cobra.Command, in func(string) string, model, calibration, evaluation []byte, x *optimizeFlags) error {
	m, err := graph.Decode(model)
	if err != nil {
		return fmt.Errorf("the embedded model: %w", err)
	}
	opts := x.options(a)
	if opts.Calibration, err = calib.SourceFromBytes(in("calib.npz"), calibration, calib.SourceOptions{}); err != nil {
		return err
	}
	if opts.Evaluation, err = calib.SourceFromBytes(in("eval.npz"), evaluation, calib.SourceOptions{}); err != nil {
		return err
	}
	if !a.json {
		fmt.Fprintf(a.stdout, "An 8-layer transformer that recognises the %d words of a made-up language, %s parameters.\n", testmodels.WordClasses-1, grouped(m.Parameters()))
		fmt.Fprintf(a.stdout, "Calibrated on %d samples, judged on %d others; nothing is trained anew.\n\n", testmodels.DemoCalib, testmodels.DemoEval)
	}
	return a.optimizeModel(c.Context(), m, in("demo.onnx"), int64(len(model)), opts, x)
}
