package main

import (
	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/graph"
)

func (a *app) text() *cobra.Command {
	var elide int64
	c := &cobra.Command{
		Use:     "text MODEL",
		Short:   "Print a model in ONNX's textual syntax",
		Example: "  lathe text model.onnx | less\n  lathe text model.onnx --elide 1000000000 > model.txt",
		Args:    args(1, 1, "one model"),
		RunE: func(_ *cobra.Command, args []string) error {
			m, err := a.load(args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"path": args[0], "text": m.Text(graph.ElideOver(elide))})
			}
			return m.WriteText(a.stdout, graph.ElideOver(elide))
		},
	}
	c.Flags().Int64Var(&elide, "elide", 16, "leave out the data of tensors with more elements than this")
	return c
}
