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
	count       int // −1 where it is not given
	fraction    float64
	mode        passes.Mode
	selector    passes.Selector
	norm        passes.Norm
	recover     passes.Recover
	caches      passes.Caches
	first, last int
	iterative   bool
	samples     int
}

func newDropFlags() dropFlags {
	return dropFlags{count: -1, mode: passes.Joint, selector: passes.ByCosine, recover: passes.RecoverNone, caches: passes.CachesRemove}
}

// add adds the flags; count is the name of the one that says how many.
func (d *dropFlags) add(c *cobra.Command, count string) {
	f := c.Flags()
	addCount(f, &d.count, 0, count, "how many modules to drop (layers in mode block)")
	f.Lookup(count).DefValue = "0"
	addWord(c, &d.mode, "mode", "what to drop", passes.Modes...)
	addWord(c, &d.selector, "select", "how to choose (loss tries drops on the data; random and deepest are controls)", passes.Selectors...)
	addWord(c, &d.norm, "norm", "whether the norm behind a module goes with it, in post-LN models (default gone, with --recover mean kept)", passes.NormGone, passes.NormKept)
	addWord(c, &d.recover, "recover", "what takes the place of a module, nothing or its mean update", passes.RecoverNone, passes.RecoverMean)
	addWord(c, &d.caches, "caches", "what becomes of the cache inputs and outputs of dropped attentions",
		passes.CachesRemove, passes.CachesRenumber, passes.CachesPassthrough)
	addCount(f, &d.first, 0, "protect-first", "layers at the beginning to leave alone")
	addCount(f, &d.last, 0, "protect-last", "layers at the end to leave alone")
	f.BoolVar(&d.iterative, "iterative", false, "score anew after each drop (needs --data)")
	addCount(f, &d.samples, 0, "loss-samples", "samples, spread over the data, that --select loss and --iterative measure on; 0 for a sixth, at least 64")
}

// number turns the count or the fraction into a count of units.
func (d *dropFlags) number(m *graph.Model) (int, error) {
	if d.count >= 0 || d.fraction == 0 {
		return max(d.count, 0), nil
	}
	list, err := modules.Find(m)
	if err != nil {
		return 0, err
	}
	n := 0
	layers := map[int]bool{}
	for _, x := range list {
		attention := x.Kind == modules.Attention || x.Kind == modules.CrossAttention
		if x.Kind == modules.Other || d.mode == passes.AttentionOnly && !attention || d.mode == passes.MLPOnly && attention {
			continue
		}
		n++
		layers[x.Layer] = true
	}
	if d.mode == passes.Block {
		n = len(layers)
	}
	return int(math.Round(d.fraction * float64(n))), nil
}

// selection is what the flags ask passes.Select for.
func (a *app) selection(d *dropFlags, count int) passes.SelectOptions {
	return passes.SelectOptions{Count: count, Mode: d.mode, By: d.selector, Iterative: d.iterative,
		ProtectFirst: d.first, ProtectLast: d.last, Seed: a.seed, Threads: a.threads, Samples: d.samples,
		Drop: passes.DropOptions{Norm: d.norm, Recover: d.recover, Caches: d.caches}}
}

func (a *app) drop() *cobra.Command {
	d := newDropFlags()
	var data dataFlags
	var o outFlags
	var ledgerPath string
	var named []string
	c := &cobra.Command{
		Use:   "drop MODEL --ledger L|--data D --count N|--fraction F -o OUT",
		Short: "Drop the least important modules",
		Long: `drop removes the attention and MLP modules that matter least, all at once, and
everything that no output needs after that. Scores come from a ledger that
lathe score wrote, or are measured on --data first. A dropped attention takes
its cache inputs and outputs with it; --caches renumber closes the gaps in
their names, --caches passthrough leaves the interface as it was. --count 0
needs neither and only reads and writes the model. --select loss writes the
order that it found into the ledger, if there is one, so that another count
need not measure again.`,
		Example: `  lathe drop model.onnx --ledger scores.json --count 4 -o small.onnx
  lathe drop model.onnx --data calib.npz --fraction 0.25 --select loss --recover mean -o small.onnx
  lathe drop model.onnx --ledger scores.json --count 2 --mode block --dry-run
  lathe drop model.onnx --modules A3,M7 -o small.onnx`,
		Args: argCount(1, 1, "one model"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.need(c, "OUT.onnx"); err != nil {
				return err
			}
			ways := 0
			for _, flag := range []string{"count", "fraction", "modules"} {
				if c.Flags().Changed(flag) {
					ways++
				}
			}
			if ways != 1 {
				return fmt.Errorf("drop needs one of --count N, --fraction F and --modules A3,M7")
			}
			if err := o.writable(o.path, args[0], data.path, ledgerPath); err != nil {
				return err
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
			if data.path != "" {
				if feed, err = a.feed(m, &data); err != nil {
					return err
				}
				a.foresee(m, feed, 0, 0)
			}
			before := m.Parameters()
			ids, j, err := a.dropFrom(c.Context(), m, l, feed, d, named)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			size, err := o.save(c.Context(), a, m)
			if err != nil {
				return err
			}
			if l != nil && d.selector == passes.ByLoss && !o.dryRun {
				if err := l.Save(ledgerPath); err != nil { // the order is kept for the next count
					return err
				}
			}
			if a.json {
				return a.printJSON(map[string]any{"dropped": append([]string{}, ids...), "output": o.path, "parameters_before": before,
					"parameters_after": m.Parameters(), "bytes": size, "journal": append([]passes.Entry{}, j.Entries...)})
			}
			fmt.Fprintf(a.stdout, "dropped %d: %s\n", len(ids), strings.Join(ids, " "))
			fmt.Fprintf(a.stdout, "%s, %s bytes%s\n", change("parameters", before, m.Parameters()), grouped(size), o.written())
			return nil
		},
	}
	d.add(c, "count")
	addNumber(c.Flags(), &d.fraction, 0, 1, "fraction", "drop this fraction of what the mode chooses among")
	c.Flags().StringSliceVar(&named, "modules", nil, "`ids` of modules to drop, as in A3,M7, whatever their scores")
	c.Flags().StringVar(&ledgerPath, "ledger", "", "`file` of scores that lathe score wrote")
	must(c.MarkFlagFilename("ledger", "json"))
	o.add(c, "model", "onnx")
	data.add(a, c, false)
	return completeModels(c)
}

// dropFrom selects modules of m, unless they are named, and drops them. It
// measures scores on the feed where there is no ledger.
func (a *app) dropFrom(ctx context.Context, m *graph.Model, l *calib.Ledger, feed *calib.Feed, d dropFlags, named []string) ([]string, *passes.Journal, error) {
	j := &passes.Journal{}
	count, err := d.number(m)
	if err != nil || count == 0 && len(named) == 0 {
		return nil, j, err
	}
	scored := (d.selector == passes.ByCosine || d.selector == passes.ByAngular) && !d.iterative && len(named) == 0
	if l == nil && (scored || d.recover == passes.RecoverMean) {
		if feed == nil {
			what := "--select " + string(d.selector)
			if !scored {
				what = "--recover mean"
			}
			return nil, nil, fmt.Errorf("%s needs --ledger L or --data D", what)
		}
		if l, err = a.scoreFeed(ctx, m, feed, calib.ScoreOptions{Means: true}); err != nil {
			return nil, nil, err
		}
	}
	s := a.selection(&d, count)
	if l != nil {
		s.Drop.Means = l.MeanUpdate
	}
	ids := named
	if len(named) == 0 {
		s.Ledger, s.Progress = l, a.progress("select by "+string(d.selector))
		s.Feed = feed
		if ids, err = passes.Select(ctx, m, s); err != nil {
			return nil, nil, err
		}
	}
	if err := passes.Run(ctx, m, j, passes.DropModules(ids, s.Drop)); err != nil {
		return nil, nil, err
	}
	return ids, j, nil
}
