package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
)

func (a *app) convert() *cobra.Command {
	var o outFlags
	var form passes.InlineForm
	c := &cobra.Command{
		Use:   "convert MODEL --inline-circulant dense|dft -o OUT",
		Short: "Write a model for runtimes that know no functions",
		Long: `convert puts standard operators in the place of lathe's custom operators and of
all other model-local functions, for runtimes that run neither.

dft takes the body that the file carries, with everything computed that depends
on the weights alone: the products stay as few as those of the block-circulant
operator, and the file holds spectra, about twice the size of its weights. dense
writes the whole matrices out, as plain MatMul and Conv: the file and the work
are those of the model before it was rewritten. Operators in 16-bit fixed point
become their bodies in both, which compute in float and round.`,
		Example: `  lathe convert circulant.onnx --inline-circulant dft -o plain.onnx
  lathe verify circulant.onnx plain.onnx --data calib.npz`,
		Args: argCount(1, 1, "one model"),
		RunE: func(c *cobra.Command, args []string) error {
			if form == "" {
				return errors.New("convert needs --inline-circulant dense or dft")
			}
			if err := o.need(c, "OUT.onnx"); err != nil {
				return err
			}
			if err := o.writable(o.path, args[0]); err != nil {
				return err
			}
			m, err := a.load(args[0])
			if err != nil {
				return err
			}
			before, size := m.Parameters(), fileSize(args[0])
			j := &passes.Journal{}
			if err := passes.Run(c.Context(), m, j, passes.InlineFunctions(form), passes.EliminateDeadCode()); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if err := graph.Infer(m); err != nil {
				return fmt.Errorf("%s: what came out of it: %w", args[0], err)
			}
			written, err := o.save(c.Context(), a, m)
			if err != nil {
				return err
			}
			inlined := []passes.Entry{}
			for _, e := range j.By("inline-functions") {
				if e.Node != "" {
					inlined = append(inlined, e)
				}
			}
			if a.json {
				return a.printJSON(map[string]any{"inlined": inlined, "nodes": len(m.Graph.Nodes()), "parameters_before": before,
					"parameters_after": m.Parameters(), "bytes_before": size, "bytes": written, "output": o.path, "journal": j.Entries})
			}
			fmt.Fprintf(a.stdout, "%d operators put into standard ones, %s nodes\n", len(inlined), grouped(int64(len(m.Graph.Nodes()))))
			fmt.Fprintf(a.stdout, "%s, %s%s\n", change("parameters", before, m.Parameters()), change("bytes", size, written), o.written())
			return nil
		},
	}
	addWord(c, &form, "inline-circulant", "what takes the place of block-circulant operators", passes.InlineDense, passes.InlineDFT)
	o.add(c, "model", "onnx")
	return completeModels(c)
}
