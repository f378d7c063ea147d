package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
)

func (a *app) diff() *cobra.Command {
	fails := false
	c := &cobra.Command{
		Use:   "diff A B",
		Short: "List what changed between two models",
		Long: `diff lists the nodes and weights that only one of two models has, and those that
both have but not alike: nodes by the value that they give, weights by their
names, with how far their data is apart, ‖b − a‖ / ‖a‖. What lathe wrote into the
second model's history comes first: modules dropped, layers rewritten.

--quiet prints only how many. The exit status is 0 whether there are differences
or not; with --exit-code it is 1 where there are.`,
		Example: `  lathe diff model.onnx small.onnx
  lathe diff small.onnx healed.onnx --quiet
  lathe diff model.onnx copy.onnx --exit-code`,
		Args: argCount(2, 2, "two models"),
		RunE: func(c *cobra.Command, args []string) error {
			var m [2]*graph.Model
			var h [2]*modules.History
			for i, path := range args {
				var err error
				if m[i], err = a.load(path); err != nil {
					return err
				}
				if h[i], err = modules.ReadHistory(m[i]); err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
			}
			done := a.busy("comparing")
			d, err := graph.Diff(m[0], m[1])
			done()
			if err != nil {
				return err
			}
			past := historySince(h[0], h[1])
			if a.json {
				err = a.printJSON(map[string]any{"a": args[0], "b": args[1], "same": d.Same(), "difference": d, "dropped": past.dropped, "rewritten": past.rewritten,
					"parameters_before": m[0].Parameters(), "parameters_after": m[1].Parameters(),
					"bytes_before": fileSize(args[0]), "bytes_after": fileSize(args[1])})
			} else {
				a.printDiff(args, m, d, past)
			}
			if err == nil && fails && !d.Same() {
				return failed{errors.New("the models differ")}
			}
			return err
		},
	}
	c.Flags().BoolVar(&fails, "exit-code", false, "exit with status 1 where the models differ")
	return completeModels(c)
}

// past is what a model's history has that an earlier one's has not.
type past struct {
	dropped   []string
	rewritten map[string]int // operators, by pass
}

func historySince(a, b *modules.History) past {
	p := past{dropped: []string{}, rewritten: map[string]int{}}
	for _, x := range b.Dropped {
		if !slices.ContainsFunc(a.Dropped, func(y modules.Drop) bool { return y.ID == x.ID }) {
			p.dropped = append(p.dropped, x.ID)
		}
	}
	for _, x := range b.Rewrites {
		if !slices.Contains(a.Rewrites, x) {
			p.rewritten[x.Pass]++
		}
	}
	return p
}

func (a *app) printDiff(paths []string, m [2]*graph.Model, d *graph.Difference, past past) {
	if len(past.dropped) > 0 {
		fmt.Fprintf(a.stdout, "dropped    %s\n", strings.Join(past.dropped, " "))
	}
	for _, pass := range slices.Sorted(maps.Keys(past.rewritten)) {
		fmt.Fprintf(a.stdout, "rewritten  %d operators by %s\n", past.rewritten[pass], pass)
	}
	rows := [][]string{{"", "before", "after", "removed", "added", "changed"}}
	count := func(what string, before, after, removed, added, changed int, always bool) {
		if always || removed+added+changed > 0 {
			rows = append(rows, []string{what, grouped(int64(before)), grouped(int64(after)), grouped(int64(removed)), grouped(int64(added)), grouped(int64(changed))})
		}
	}
	count("nodes", d.Nodes.Before, d.Nodes.After, len(d.Nodes.Removed), len(d.Nodes.Added), len(d.Nodes.Changed), true)
	count("weights", d.Weights.Before, d.Weights.After, len(d.Weights.Removed), len(d.Weights.Added), len(d.Weights.Changed), true)
	texts := []struct {
		what string
		c    *graph.Changes[string]
	}{{"functions", &d.Functions}, {"inputs", &d.Inputs}, {"outputs", &d.Outputs}, {"opsets", &d.Opsets}, {"metadata", &d.Metadata}}
	for _, x := range texts {
		count(x.what, x.c.Before, x.c.After, len(x.c.Removed), len(x.c.Added), len(x.c.Changed), false)
	}
	rows = append(rows, []string{"parameters", grouped(m[0].Parameters()), grouped(m[1].Parameters())},
		[]string{"bytes", grouped(fileSize(paths[0])), grouped(fileSize(paths[1]))})
	a.table(rows)
	if d.Same() {
		fmt.Fprintln(a.stdout, "no difference")
	}
	if a.quiet || d.Same() {
		return
	}
	rows = [][]string{}
	for _, n := range d.Nodes.Removed {
		rows = append(rows, []string{"− node", n.Value, n.Before})
	}
	for _, n := range d.Nodes.Added {
		rows = append(rows, []string{"+ node", n.Value, n.After})
	}
	for _, n := range d.Nodes.Changed {
		op := n.Before
		if n.Before != n.After {
			op += " → " + n.After
		}
		what := slices.DeleteFunc(slices.Clone(n.What), func(s string) bool { return s == "operator" })
		rows = append(rows, []string{"~ node", n.Value, op, strings.Join(what, ", ")})
	}
	for _, w := range d.Weights.Removed {
		rows = append(rows, []string{"− weight", w.Name, w.Before})
	}
	for _, w := range d.Weights.Added {
		rows = append(rows, []string{"+ weight", w.Name, w.After})
	}
	for _, w := range d.Weights.Changed {
		shape, by := w.Before, "data"
		if w.Before != w.After {
			shape, by = w.Before+" → "+w.After, "shape"
		}
		if w.Relative != nil {
			by = fmt.Sprintf("%.3g relative", *w.Relative)
		}
		rows = append(rows, []string{"~ weight", w.Name, shape, by})
	}
	for _, x := range texts {
		for _, list := range []struct {
			sign  string
			names []string
		}{{"−", x.c.Removed}, {"+", x.c.Added}, {"~", x.c.Changed}} {
			for _, name := range list.names {
				rows = append(rows, []string{list.sign + " " + strings.TrimSuffix(x.what, "s"), name})
			}
		}
	}
	fmt.Fprintln(a.stdout)
	a.table(rows)
}
