package main

import (
	"bytes"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/internal/atomicfile"
	"github.com/onnx-lathe/lathe/runtime/conformance"
)

type caseJSON struct {
	Name   string             `json:"name"`
	Suite  string             `json:"suite"`
	Status conformance.Status `json:"status"`
	Reason string             `json:"reason"`
}

func (a *app) conformance() *cobra.Command {
	var o outFlags
	c := &cobra.Command{
		Use:   "conformance DIR",
		Short: "Run operator tests and count what passes",
		Long: `conformance runs every test case in a tree of folders, in the layout of ONNX's
own operator tests: a folder with a model.onnx and data sets test_data_set_0,
test_data_set_1, … of input_N.pb and output_N.pb. It prints a table of the
operators, a case counting for each that its model holds, and why cases do not
pass. Skipped are cases of ONNX's tests that are known not to, for the reason
that is printed. The exit status is 1 where a case fails.`,
		Example: "  lathe conformance onnx/backend/test/data\n  lathe conformance tests -o operators.md",
		Args:    argCount(1, 1, "one folder"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.writable(o.path); err != nil {
				return err
			}
			cases, err := conformance.Find(args[0])
			if err != nil {
				return err
			}
			var r conformance.Report
			done := a.progress("running cases")
			for i, x := range cases {
				if err := c.Context().Err(); err != nil {
					return err
				}
				r.Results = append(r.Results, conformance.Run(c.Context(), x))
				if done != nil {
					done(i+1, len(cases))
				}
			}
			if o.path != "" && !o.dryRun {
				var text bytes.Buffer
				if err := r.WriteMarkdown(&text); err != nil {
					return err
				}
				if err := atomicfile.Write(o.path, text.Bytes()); err != nil {
					return fmt.Errorf("%s: %w", o.path, plain(err))
				}
			}
			if err := a.printConformance(args[0], &r); err != nil {
				return err
			}
			if n := r.Total(); n.Failed > 0 {
				return failed{fmt.Errorf("%d of %d cases failed", n.Failed, n.Total)}
			}
			return nil
		},
	}
	o.add(c, "table, as Markdown,", "md")
	c.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return c
}

func (a *app) printConformance(path string, r *conformance.Report) error {
	n := r.Total()
	if a.json {
		cases := []caseJSON{}
		for _, x := range r.Results {
			cases = append(cases, caseJSON{x.Name, x.Suite, x.Status, x.Reason})
		}
		return a.printJSON(map[string]any{
			"path": path, "total": n.Total, "passed": n.Passed, "failed": n.Failed, "skipped": n.Skipped,
			"operators": append([]conformance.Count{}, r.Operators()...), "suites": append([]conformance.Count{}, r.Suites()...), "cases": cases,
		})
	}
	count := func(title string, list []conformance.Count) {
		rows := [][]string{{title, "cases", "passed", "failed", "skipped"}}
		for _, n := range list {
			rows = append(rows, []string{n.Name, fmt.Sprint(n.Total), fmt.Sprint(n.Passed), fmt.Sprint(n.Failed), fmt.Sprint(n.Skipped)})
		}
		a.table(rows)
		fmt.Fprintln(a.stdout)
	}
	count("operator", r.Operators())
	if list := r.Of(conformance.Failed); len(list) > 0 {
		fmt.Fprintln(a.stdout, "failed")
		for _, x := range list {
			fmt.Fprintf(a.stdout, "  %s/%s: %s\n", x.Suite, x.Name, oneLine(fmt.Errorf("%s", x.Reason)))
		}
		fmt.Fprintln(a.stdout)
	}
	if list := r.Of(conformance.Skipped); len(list) > 0 {
		fmt.Fprintln(a.stdout, "skipped")
		for i, e := range conformance.Exceptions {
			n := 0
			for _, x := range list {
				if x.Exception == i {
					n++
				}
			}
			if n > 0 {
				fmt.Fprintf(a.stdout, "  %d cases: %s\n", n, e.Reason)
			}
		}
		fmt.Fprintln(a.stdout)
	}
	count("suite", append(r.Suites(), n))
	return nil
}
