package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/calib"
)

func (a *app) printLedger(l *calib.Ledger, path string) error {
	if a.json {
		return a.printJSON(map[string]any{"modules": l.Modules, "blocks": l.Blocks, "samples": l.Samples, "tokens": l.Tokens,
			"ledger": path, "model": l.Model, "data": l.Data})
	}
	rows := [][]string{{"module", "kind", "score", "± stderr", "before norm", ""}}
	most := 0.0
	for _, m := range l.Modules {
		most = max(most, m.Score)
	}
	for _, m := range l.Modules {
		bar := strings.Repeat("█", int(30*m.Score/most+0.5))
		if !m.Droppable {
			bar += " not droppable"
		}
		rows = append(rows, []string{m.ID, string(m.Kind), fmt.Sprintf("%.5f", m.Score), fmt.Sprintf("%.5f", m.Stderr),
			fmt.Sprintf("%.5f", m.ScoreBeforeNorm), bar})
	}
	a.table(rows)
	fmt.Fprintf(a.stdout, "%d samples, %s tokens", l.Samples, grouped(l.Tokens))
	if path != "" {
		fmt.Fprintf(a.stdout, "; written to %s", path)
	}
	fmt.Fprintln(a.stdout)
	return nil
}

func (a *app) ledger() *cobra.Command {
	var out string
	merge := &cobra.Command{
		Use:     "merge LEDGER… -o LEDGER.json",
		Short:   "Join the ledgers of shards into the ledger of all the data",
		Example: "  lathe ledger merge part0.json part1.json part2.json part3.json -o scores.json",
		Args:    args(1, -1, "ledgers"),
		RunE: func(_ *cobra.Command, args []string) error {
			if out == "" {
				return fmt.Errorf("ledger merge needs -o LEDGER.json")
			}
			var list []*calib.Ledger
			for _, path := range args {
				l, err := calib.LoadLedger(path)
				if err != nil {
					return err
				}
				list = append(list, l)
			}
			l, err := calib.Merge(list)
			if err != nil {
				return err
			}
			if err := l.Save(out); err != nil {
				return err
			}
			return a.printLedger(l, out)
		},
	}
	merge.Flags().StringVarP(&out, "output", "o", "", "ledger to write")
	c := &cobra.Command{Use: "ledger", Short: "Work with scoring ledgers"}
	c.AddCommand(merge)
	return c
}
