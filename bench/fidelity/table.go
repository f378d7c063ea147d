package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
)

// markdown is the table of the results.
func markdown(rows []Row, seeds, left int) string {
	var s strings.Builder
	passed := 0
	for _, r := range rows {
		if r.Pass {
			passed++
		}
	}
	fmt.Fprintf(&s, "Medians of %d seeds, %d cores. %d of %d goals are met", seeds, runtime.GOMAXPROCS(0), passed, len(rows))
	if left > 0 {
		fmt.Fprintf(&s, "; %d cases were not measured", left)
	}
	s.WriteString(".\n\n")
	s.WriteString("| case | metric | original | goal | median | spread | parameters | minutes | pass |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, r := range rows {
		pass := "no"
		if r.Pass {
			pass = "yes"
		}
		fmt.Fprintf(&s, "| %s | %s | %.4f | %s | %.4f | %.4f … %.4f | %.0f %% | %.1f of %g | %s |\n", r.What, r.Metric, r.Base, r.Goal, r.Median,
			slices.Min(r.Values), slices.Max(r.Values), 100*r.Share, r.Minutes, r.Limit, pass)
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

// splice puts text between the marks of a document.
func splice(path, text string) error {
	document, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(document, []byte(markBegin))
	_, after, end := bytes.Cut(rest, []byte(markEnd))
	if !ok || !end {
		return fmt.Errorf("%s: the lines %q and %q are missing", path, markBegin, markEnd)
	}
	return os.WriteFile(path, slices.Concat(before, []byte(markBegin+"\n"+text+markEnd), after), 0o644)
}
