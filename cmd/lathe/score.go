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
	var d dataFlags
	var o outFlags
	var opts calib.ScoreOptions
	var part shard
	c := &cobra.Command{
		Use:   "score MODEL --data D -o LEDGER.json",
		Short: "Measure the importance of every attention and MLP module",
		Long: `score runs the data through the model once and measures for every module
S = 1 − cos(X, Y), X and Y the residual stream before and after it, averaged
over all tokens. A small S means the module changes little. The ledger keeps
the scores with their standard errors and what else was asked for; drop and
circulant read it. Shards of the data can be scored on several machines and
joined with lathe ledger merge. Mean updates and moments go to an .npz beside
the ledger, which is named by its SHA-256.

A model whose weights do not fit --memory is scored module by module: one after
the other runs over all samples, and what lies between them is kept in temporary
files (TMPDIR names the folder). The ledger is the same to the bit.`,
		Example: `  lathe score model.onnx --data calib.npz -o scores.json
  lathe score model.onnx --data calib.npz --shard 0/4 -o part0.json
  lathe score large.onnx --data calib.npz --memory 600 -o scores.json`,
		Args: argCount(1, 1, "one model"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.need(c, "LEDGER.json"); err != nil {
				return err
			}
			if err := o.writable(o.path, args[0], d.path); err != nil {
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
			if part.of > 0 {
				if feed, err = feed.Shard(part.i, part.of); err != nil {
					return fmt.Errorf("--%w", err)
				}
			}
			a.estimate(m, feed, d.batch, 0, true)
			opts.Batch = d.batch
			l, err := a.scoreFeed(c.Context(), m, feed, opts)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if !o.dryRun {
				if err := l.Save(o.path); err != nil {
					return err
				}
			}
			return a.printLedger(l, &o)
		},
	}
	o.add(c, "ledger", "json")
	c.Flags().Var(&part, "shard", "score only part i of n of the data, i from 0 to n−1")
	d.addBatch(c)
	c.Flags().BoolVar(&opts.Means, "means", true, "also the mean update of every module, for drop --recover mean")
	c.Flags().BoolVar(&opts.Moments, "moments", false, "also second moments of every weight's input, for circulant --ledger")
	c.Flags().BoolVar(&opts.Ranges, "ranges", false, "also the smallest and largest output of every weight operator")
	d.add(a, c, true)
	c.Flags().Lookup("memory").Usage += ", and its weights where it is not to go module by module"
	return completeModels(c)
}

func (a *app) scoreFeed(ctx context.Context, m *graph.Model, feed *calib.Feed, o calib.ScoreOptions) (*calib.Ledger, error) {
	o.Threads, o.Progress = a.threads, a.progress("score")
	return calib.Score(ctx, m, feed, o)
}

// shard is the flag i/n.
type shard struct{ i, of int }

func (s *shard) Type() string { return "i/n" }

func (s *shard) String() string {
	if s.of == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%d", s.i, s.of)
}

func (s *shard) Set(text string) error {
	i, n, _ := strings.Cut(text, "/")
	part, err1 := strconv.Atoi(i)
	of, err2 := strconv.Atoi(n)
	if err1 != nil || err2 != nil || part < 0 || part >= of {
		return fmt.Errorf("want i/n with i from 0 to n−1, as in 0/4")
	}
	s.i, s.of = part, of
	return nil
}
