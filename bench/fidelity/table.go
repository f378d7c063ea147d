package main

import (
	"fmt"
	"slices"
	"strings"
)

// markdown is the table of the results, with the cases as they are now.
func markdown(kept *results) string {
	var rows []Row
	passed := 0
	for _, c := range cases {
		if of := kept.of(&c); len(of) > 0 {
			rows = append(rows, c.row(of))
			if rows[len(rows)-1].Pass {
				passed++
			}
		}
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%d of %d goals are met", passed, len(rows))
	if left := len(cases) - len(rows); left > 0 {
		fmt.Fprintf(&s, "; %d cases were not measured", left)
	}
	s.WriteString(".\n\n")
	s.WriteString("| case | metric | original | goal | median | seeds | spread | parameters | minutes elapsed | processor minutes / 2 | limit | pass |\n" +
		"| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, r := range rows {
		pass := "no"
		if r.Pass {
			pass = "yes"
		}
		processor := "–"
		if r.Processor > 0 {
			processor = fmt.Sprintf("%.1f", r.Processor/processors)
		}
		fmt.Fprintf(&s, "| %s | %s | %.4f | %s | %.4f | %d | %.4f … %.4f | %.0f %% | %.1f | %s | %g | %s |\n", r.What, r.Metric, r.Base, r.Goal, r.Median,
			len(r.Values), slices.Min(r.Values), slices.Max(r.Values), 100*r.Share, r.Minutes, processor, r.Limit, pass)
	}
	s.WriteString("\nThe recipes:\n")
	for _, r := range rows {
		if i := slices.IndexFunc(cases, func(c testCase) bool { return c.name == r.Case }); cases[i].recipe != "" {
			fmt.Fprintf(&s, "\n`%s`\n\n```yaml%s```\n", r.Case, cases[i].recipe)
		}
	}
	return s.String()
}

// Marks around what this command writes into a document.
const (
	markBegin = "<!-- measured: begin. Written by go run ./fidelity, not by hand. -->"
	markEnd   = "<!-- measured: end -->"
)
