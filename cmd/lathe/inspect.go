package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
)

type moduleJSON struct {
	ID        string       `json:"id"`
	Kind      modules.Kind `json:"kind"`
	Layer     int          `json:"layer"`
	Droppable bool         `json:"droppable"`
	Reason    string       `json:"reason"`
	Params    int64        `json:"params"`
	FLOPs     int64        `json:"flops"`
}

func (a *app) inspect() *cobra.Command {
	sizes := modules.Sizes{Batch: 1, Tokens: 1}
	c := &cobra.Command{
		Use:   "inspect MODEL",
		Short: "Show modules, parameters, FLOPs and operators",
		Long: `inspect shows what lathe sees in a model: its inputs and outputs, the modules on
the residual stream with the share of the parameters and the floating-point
operations for one token, and, where a module cannot be dropped, why. The
operations of a whole run are counted for --batch and --tokens, which stand for
the free dims of the inputs; caches are empty.`,
		Example: "  lathe inspect model.onnx\n  lathe inspect model.onnx --json | jq .modules",
		Args:    argCount(1, 1, "one model"),
		RunE: func(_ *cobra.Command, args []string) error {
			m, err := a.load(args[0])
			if err != nil {
				return err
			}
			found, err := modules.Analyze(m)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			history, err := modules.ReadHistory(m)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			list := []moduleJSON{}
			for _, x := range found.Modules {
				if x.Kind != modules.Other {
					list = append(list, moduleJSON{x.ID, x.Kind, x.Layer, x.Droppable, x.Reason, x.Params, x.FLOPs})
				}
			}
			ops, nodes := operators(m)
			notes, flops := append([]string{}, found.Notes...), map[string]int64{}
			cost, err := modules.CostOf(m, sizes)
			if err != nil {
				notes, cost = append(notes, err.Error()), &modules.Cost{}
			}
			for _, o := range cost.Operators {
				flops[o.Op] = o.FLOPs
			}
			notes = append(notes, cost.Notes...)
			if a.json {
				return a.printJSON(map[string]any{
					"flops": cost.FLOPs, "operator_flops": flops, "notes": notes,
					"path": args[0], "modules": list, "parameters": m.Parameters(), "nodes": nodes, "operators": ops,
					"bytes": fileSize(args[0]), "ir_version": m.IRVersion, "opsets": opsets(m), "inputs": ports(m.Graph.Inputs()),
					"outputs": ports(m.Graph.Outputs()), "history": history,
				})
			}
			fmt.Fprintf(a.stdout, "%s  %s bytes, %s parameters, %d nodes, IR version %d, %s\n",
				args[0], grouped(fileSize(args[0])), grouped(m.Parameters()), nodes, m.IRVersion, opsetText(m))
			for _, v := range m.Graph.Inputs() {
				if !v.IsInitializer() {
					fmt.Fprintf(a.stdout, "input   %s: %v\n", v.Name, v.Type())
				}
			}
			for _, v := range m.Graph.Outputs() {
				fmt.Fprintf(a.stdout, "output  %s: %v\n", v.Name, v.Type())
			}
			if n := len(history.Dropped); n > 0 {
				fmt.Fprintf(a.stdout, "history dropped")
				for _, d := range history.Dropped {
					fmt.Fprintf(a.stdout, " %s", d.ID)
				}
				fmt.Fprintln(a.stdout)
			}
			if n := len(history.Rewrites); n > 0 {
				fmt.Fprintf(a.stdout, "history %d layers rewritten as block-circulant\n", n)
			}
			if cost.FLOPs > 0 {
				fmt.Fprintf(a.stdout, "work    %s FLOPs in a run (--batch %d --tokens %d)\n", grouped(cost.FLOPs), sizes.Batch, sizes.Tokens)
			}
			for _, n := range notes {
				fmt.Fprintf(a.stdout, "note    %s\n", n)
			}
			fmt.Fprintln(a.stdout)
			if len(list) == 0 {
				fmt.Fprintln(a.stdout, "no attention or MLP modules on a residual stream")
			} else {
				rows := [][]string{{"module", "kind", "layer", "parameters", "share", "FLOPs/token", "droppable"}}
				for _, x := range list {
					can := "yes"
					if !x.Droppable {
						can = "no: " + x.Reason
					}
					rows = append(rows, []string{x.ID, string(x.Kind), fmt.Sprint(x.Layer), grouped(x.Params),
						percent(x.Params, m.Parameters()), grouped(x.FLOPs), can})
				}
				a.table(rows)
			}
			fmt.Fprintln(a.stdout)
			rows := [][]string{{"operator", "nodes", "FLOPs"}}
			for _, op := range slices.SortedFunc(maps.Keys(ops), func(x, y string) int {
				return cmp.Or(cmp.Compare(ops[y], ops[x]), cmp.Compare(x, y))
			}) {
				rows = append(rows, []string{op, fmt.Sprint(ops[op]), grouped(flops[op])})
			}
			a.table(rows)
			return nil
		},
	}
	addCount(c.Flags(), &sizes.Batch, 1, "batch", "samples in the run whose operations are counted")
	addCount(c.Flags(), &sizes.Tokens, 1, "tokens", "tokens in each of them")
	return completeModels(c)
}

// operators counts the nodes of the main graph and the graphs inside it.
func operators(m *graph.Model) (ops map[string]int, nodes int) {
	ops = map[string]int{}
	m.Graphs(func(g *graph.Graph) bool {
		if g.Function() != nil {
			return true
		}
		for _, n := range g.Nodes() {
			op := n.Op
			if d := graph.NormalDomain(n.Domain); d != "" {
				op = d + "." + op
			}
			ops[op]++
			nodes++
		}
		return true
	})
	return ops, nodes
}

func opsets(m *graph.Model) map[string]int64 {
	out := map[string]int64{}
	for _, o := range m.Opsets {
		out[cmp.Or(graph.NormalDomain(o.Domain), "ai.onnx")] = o.Version
	}
	return out
}

// opsetText lists what the model imports, as in "opset 17, lathe 1".
func opsetText(m *graph.Model) string {
	var out []string
	for _, o := range m.Opsets {
		out = append(out, fmt.Sprint(cmp.Or(graph.NormalDomain(o.Domain), "opset"), " ", o.Version))
	}
	return strings.Join(out, ", ")
}

func ports(list []*graph.Value) []map[string]string {
	out := []map[string]string{}
	for _, v := range list {
		if !v.IsInitializer() {
			out = append(out, map[string]string{"name": v.Name, "type": fmt.Sprint(v.Type())})
		}
	}
	return out
}
