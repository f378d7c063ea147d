package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
)

func (a *app) score() *cobra.Command {
	var data, out, shard string
	var o calib.ScoreOptions
	var limit int
	var dryRun bool
	c := &cobra.Command{
		Use:   "score MODEL --data D -o LEDGER.json",
		Short: "Measure the importance of every attention and MLP module",
		Long: `score runs the data through the model once and measures for every module
S = 1 − cos(X, Y), X and Y the residual stream before and after it, averaged
over all tokens. A small S means the module changes little. The ledger keeps
the scores with their standard errors and what else was asked for; drop and
circulant read it. Shards of the data can be scored on several machines and
joined with lathe ledger merge.`,
		Example: `  lathe score model.onnx --data calib.npz -o scores.json
  lathe score model.onnx --data calib.npz --shard 0/4 -o part0.json`,
		Args: args(1, 1, "one model"),
		RunE: func(c *cobra.Command, args []string) error {
			if out == "" && !dryRun {
				return fmt.Errorf("score needs -o LEDGER.json, or --dry-run to write nothing")
			}
			m, err := a.load(args[0])
			if err != nil {
				return err
			}
			feed, err := a.feed(m, data)
			if err != nil {
				return err
			}
			if limit > 0 {
				feed = feed.Slice(0, min(limit, feed.Len()))
			}
			if shard != "" {
				i, n, ok := strings.Cut(shard, "/")
				part, err1 := strconv.Atoi(i)
				of, err2 := strconv.Atoi(n)
				if !ok || err1 != nil || err2 != nil {
					return fmt.Errorf("--shard %s: want i/n, as in 0/4", shard)
				}
				if feed, err = feed.Shard(part, of); err != nil {
					return fmt.Errorf("--%w", err)
				}
			}
			l, err := a.scoreFeed(c.Context(), m, feed, o)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if !dryRun {
				if err := l.Save(out); err != nil {
					return err
				}
			}
			return a.printLedger(l, out)
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "ledger to write")
	c.Flags().StringVar(&shard, "shard", "", "i/n: score part i of n of the data, counted from 0")
	c.Flags().IntVar(&limit, "samples", 0, "use only so many samples (0: all)")
	c.Flags().IntVar(&o.Batch, "batch", 0, "samples a run (0: a default); the result does not depend on it")
	c.Flags().BoolVar(&o.Means, "means", true, "also the mean update of every module, for drop --recover mean")
	c.Flags().BoolVar(&o.Moments, "moments", false, "also second moments of every weight's input, for circulant --ledger")
	c.Flags().BoolVar(&o.Ranges, "ranges", false, "also the ranges of weight operators")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "do everything but write files")
	a.dataFlags(c, &data, true)
	return c
}

func (a *app) scoreFeed(ctx context.Context, m *graph.Model, feed *calib.Feed, o calib.ScoreOptions) (*calib.Ledger, error) {
	o.Threads, o.Progress = a.threads, a.progress("score")
	return calib.Score(ctx, m, feed, o)
}
