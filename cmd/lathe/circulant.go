package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/passes"
)

// circulantFlags are the flags that say what is rewritten and how.
type circulantFlags struct {
	block      int // 0 where it is not given
	fit        passes.Fit
	only, skip pattern
	tied, head bool
	first      bool
	samples    int
	ridge      float64
	rank       int
}

func newCirculantFlags() circulantFlags {
	return circulantFlags{fit: passes.FitLSQ, samples: 256}
}

func (f *circulantFlags) add(c *cobra.Command) {
	addCount(c.Flags(), &f.block, 2, "block", "block size b: b times fewer parameters; fast for powers of two to 256")
	addWord(c, &f.fit, "fit", "how to fit, by least squares on data or by the mean of the diagonals", passes.FitLSQ, passes.FitFrobenius)
	c.Flags().Var(&f.only, "only", "rewrite only layers whose name matches this regular expression")
	c.Flags().Var(&f.skip, "skip", "leave layers whose name matches this regular expression")
	c.Flags().BoolVar(&f.tied, "include-tied", false, "also weights that an embedding shares")
	c.Flags().BoolVar(&f.head, "include-head", false, "also the last projection to classes or vocabulary")
	c.Flags().BoolVar(&f.first, "include-first", false, "also convolutions of one to three input channels")
	addCount(c.Flags(), &f.samples, 0, "fit-samples", "samples that layers are fitted on; 0 for all")
	addCount(c.Flags(), &f.rank, 0, "rank", "`rank` of a residual beside the blocks of every layer, fitted with them; 0 for none")
	addNumber(c.Flags(), &f.ridge, 0, 1e9, "ridge", "ridge of the least squares, relative to the power of the inputs; 0 for 0.01")
}

// budgetFlags say how small a model has to become, or how far from the
// original it may get.
type budgetFlags struct {
	budget budget
	maxKL  float64
	blocks []int
	drop   bool // modules may go too
}

func (f *budgetFlags) add(c *cobra.Command) {
	f.blocks = passes.DefaultBlocks
	c.Flags().Var(&f.budget, "budget", "search for the best mix that leaves this share of params, flops or ms")
	addNumber(c.Flags(), &f.maxKL, 0, 1e9, "max-loss", "search as far as the KL to the original stays within so many nats")
	c.Flags().IntSliceVar(&f.blocks, "search-blocks", f.blocks, "block `sizes` that a search chooses from")
}

// given reports whether a search was asked for.
func (f *budgetFlags) given() bool { return f.budget.share > 0 || f.maxKL > 0 }

// options turns the flags into the options of a search, but for the data.
func (f *budgetFlags) options() passes.AllocateOptions {
	return passes.AllocateOptions{Quantity: f.budget.of, Share: f.budget.share, MaxKL: f.maxKL, Blocks: f.blocks, Modules: f.drop}
}

// budget is the flag of a quantity and the share of it that is to be left.
type budget struct {
	of    passes.Quantity
	share float64
}

func (b *budget) Type() string { return "quantity=share" }

func (b *budget) String() string {
	if b.share == 0 {
		return ""
	}
	return fmt.Sprintf("%s=%g", b.of, b.share)
}

func (b *budget) Set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	share, err := strconv.ParseFloat(value, 64)
	if !ok || err != nil || !(share > 0 && share < 1) || !slices.Contains(passes.Quantities, passes.Quantity(name)) {
		return fmt.Errorf("want a quantity of %v and a share between 0 and 1, as in params=0.5", passes.Quantities)
	}
	b.of, b.share = passes.Quantity(name), share
	return nil
}

// pattern is the flag of a regular expression.
type pattern struct{ *regexp.Regexp }

func (p *pattern) Type() string { return "regexp" }

func (p *pattern) String() string {
	if p.Regexp == nil {
		return ""
	}
	return p.Regexp.String()
}

func (p *pattern) Set(s string) (err error) {
	p.Regexp, err = regexp.Compile(s)
	return err
}

// options turns the flags into the options of the pass.
func (f *circulantFlags) options() passes.CirculantOptions {
	return passes.CirculantOptions{Block: f.block, Fit: f.fit, Only: f.only.Regexp, Skip: f.skip.Regexp,
		IncludeTied: f.tied, IncludeHead: f.head, IncludeFirst: f.first, Ridge: f.ridge, Rank: f.rank}
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
	f := newCirculantFlags()
	var search budgetFlags
	var data dataFlags
	var o outFlags
	var ledgerPath string
	c := &cobra.Command{
		Use:   "circulant MODEL [--data D|--ledger L] --block B|--budget Q=SHARE -o OUT",
		Short: "Rewrite dense layers as block-circulant operators",
		Long: `circulant puts a block-circulant operator, computed by FFT, in the place of
every MatMul, Gemm and Conv with a constant weight: b times fewer parameters.
The file carries the operator's definition in standard operators, so any ONNX
runtime that knows model-local functions runs it. Of a convolution the matrix of
channels at every tap becomes block-circulant, group by group; depth-wise ones stay,
and those that read one to three channels unless --include-first is given.

With --data layers are fitted by least squares one after the other, each on
what the already rewritten layers before it give. With a ledger that has
moments (lathe score --moments) they are fitted one-shot; --fit frobenius needs
neither. Expect a loss of quality that grows with the block size, and compare
with lathe eval.

With --budget params=0.5 (or flops, or ms), or --max-loss, every layer gets a
block size of its own, or stays dense: from the dense model the search takes the
step that costs the least KL to the original for what it saves, again and again.

relative_error of --json is that of the layer's output on the data, or of the
weight where there is no data.`,
		Example: `  lathe circulant model.onnx --data calib.npz --block 4 -o small.onnx
  lathe circulant model.onnx --data calib.npz --budget params=0.5 -o small.onnx
  lathe circulant model.onnx --block 8 --fit frobenius --skip head -o small.onnx`,
		Args: argCount(1, 1, "one model"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.need(c, "OUT.onnx"); err != nil {
				return err
			}
			switch {
			case search.given() && (f.block > 0 || data.path == ""):
				return errors.New("--budget and --max-loss choose block sizes on data; give --data D and leave --block out")
			case f.block == 0 && !search.given():
				return errors.New("circulant needs --block B, as in --block 4, or --budget params=0.5")
			case data.path != "" && ledgerPath != "":
				return errors.New("circulant fits on --data or on the moments of --ledger; give one of them")
			case f.fit == passes.FitLSQ && data.path == "" && ledgerPath == "":
				return errors.New("circulant fits by least squares, which needs --data D, or --ledger L with moments; or give --fit frobenius")
			}
			if err := o.writable(o.path, args[0], data.path, ledgerPath); err != nil {
				return err
			}
			m, err := a.load(args[0])
			if err != nil {
				return err
			}
			opts := f.options()
			if ledgerPath != "" {
				if opts.Ledger, err = calib.LoadLedger(ledgerPath); err != nil {
					return err
				}
			}
			if data.path != "" {
				if opts.Feed, err = a.feed(m, &data); err != nil {
					return err
				}
				opts.Feed = opts.Feed.Spread(f.samples)
				batches := opts.Feed.Len() / opts.Feed.BatchSize(0)
				a.foresee(m, opts.Feed, 0, 2*batches) // of the model and of what becomes of it
			}
			if search.given() {
				s := search.options()
				s.Circulant, s.Threads, s.Progress = opts, a.threads, a.progress
				if s.Feed, err = a.bind(m, opts.Feed.Source()); err != nil {
					return err
				}
				found, err := passes.Allocate(c.Context(), m, s)
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				if !found.Met {
					a.note("the budget is not met: %s parameters is as far as the search went", grouped(found.Best().Params))
				}
				opts.Blocks = found.Best().Blocks
				if len(opts.Blocks) == 0 {
					return fmt.Errorf("%s: no step stays within the limits; allow a larger --max-loss", args[0])
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
			if len(layers) == 0 {
				return fmt.Errorf("%s: no layer was rewritten%s", args[0], cmp.Or(a.leftDense(j), noLayers))
			}
			size, err := o.save(c.Context(), a, m)
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
			if left := a.leftDense(j); left != "" {
				a.note("left dense%s", left)
			}
			fmt.Fprintf(a.stdout, "%d layers, %s, %s bytes%s\n", len(layers), change("parameters", before, m.Parameters()), grouped(size), o.written())
			return nil
		},
	}
	f.add(c)
	search.add(c)
	c.Flags().StringVar(&ledgerPath, "ledger", "", "`file` of moments that lathe score --moments wrote, for a one-shot fit")
	must(c.MarkFlagFilename("ledger", "json"))
	o.add(c, "model", "onnx")
	data.add(a, c, false)
	return completeModels(c)
}

// leftDense tells of the layers that were left dense.
func (a *app) leftDense(j *passes.Journal) string {
	return leftOf(j, "rewrite-circulant", "left dense")
}
