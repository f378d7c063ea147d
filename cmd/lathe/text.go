package main

import (
	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/graph"
)

func (a *app) text() *cobra.Command {
	elide := int64(16)
	c := &cobra.Command{
		Use:   "text MODEL",
		Short: "Print a model in ONNX's textual syntax",
		Long: `text prints a model in ONNX's textual syntax, to read it and to compare two with
diff. Data of large tensors is left out unless --elide asks for it; external
data and fields that lathe does not know have no place in that syntax.`,
		Example: "  lathe text model.onnx | less\n  lathe text model.onnx --elide 1000000000 > model.txt",
		Args:    argCount(1, 1, "one model"),
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
	addCount(c.Flags(), &elide, 0, "elide", "leave out the data of tensors with more elements than this")
	return completeModels(c)
}
