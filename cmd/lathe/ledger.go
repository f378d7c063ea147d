package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/calib"
)

func (a *app) ledger() *cobra.Command {
	c := &cobra.Command{Use: "ledger", Short: "Work with the ledgers of scoring runs", Example: "  lathe ledger merge --help"}
	c.AddCommand(a.merge())
	return c
}

func (a *app) merge() *cobra.Command {
	var o outFlags
	c := &cobra.Command{
		Use:   "merge LEDGER… -o LEDGER.json",
		Short: "Join the ledgers of shards into the ledger of all the data",
		Long: `merge joins ledgers that lathe score --shard wrote for parts of the same data,
with the same model and options. The scores are those of one run over all parts.`,
		Example: "  lathe ledger merge part0.json part1.json part2.json part3.json -o scores.json",
		Args:    argCount(1, -1, "ledgers"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.need(c, "LEDGER.json"); err != nil {
				return err
			}
			if err := o.writable(o.path, args...); err != nil {
				return err
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
			if err := c.Context().Err(); err != nil {
				return err
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
	c.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"json"}, cobra.ShellCompDirectiveFilterFileExt
	}
	return c
}

func (a *app) printLedger(l *calib.Ledger, o *outFlags) error {
	if a.json {
		return a.printJSON(map[string]any{"modules": l.Modules, "blocks": l.Blocks, "samples": l.Samples, "tokens": l.Tokens,
			"output": o.path, "model": l.Model, "data": l.Data})
	}
	rows := [][]string{{"module", "kind", "score", "± stderr", "before norm", ""}}
	most := 0.0
	for _, m := range l.Modules {
		most = max(most, m.Score)
	}
	for _, m := range l.Modules {
		bar := ""
		if m.Score > 0 {
			bar = strings.Repeat("█", int(30*m.Score/most+0.5))
		}
		if !m.Droppable {
			bar += " not droppable"
		}
		rows = append(rows, []string{m.ID, string(m.Kind), fmt.Sprintf("%.5f", m.Score), fmt.Sprintf("%.5f", m.Stderr),
			fmt.Sprintf("%.5f", m.ScoreBeforeNorm), bar})
	}
	a.table(rows)
	fmt.Fprintf(a.stdout, "%d samples, %s tokens%s\n", l.Samples, grouped(l.Tokens), o.written())
	return nil
}
