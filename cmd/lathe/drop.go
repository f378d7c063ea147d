package main

import (
	"context"
	"fmt"
	"math"
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
		if trial != nil {
			trial = trial.Spread(d.samples)
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
