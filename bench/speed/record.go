package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/onnx-lathe/lathe/bench/document"
)

// A record is what one machine came to. Records are kept, one a machine, as
// files of the folder speed of the documents.
type record struct {
	Machine machine  `json:"machine"`
	Day     string   `json:"day"` // of the measurement
	Results []result `json:"results"`
}

// name is that of the record's files: the processor's in letters of file names.
func (r *record) name() string {
	words := strings.FieldsFunc(strings.ToLower(r.Machine.CPU), func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9')
	})
	return strings.Join(words, "-")
}

// loadRecords reads the records of a folder, by name.
func loadRecords(folder string) ([]record, error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return nil, err
	}
	all := make([]record, len(paths))
	for i, path := range paths {
		data, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(data, &all[i])
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return all, nil
}

// Marks around what this command writes into a document.
const (
	markBegin = "<!-- measured: begin. Written by `make bench`, not by hand. -->"
	markEnd   = "<!-- measured: end -->"
)

// writeDocs keeps a record with its table and plot in the folder speed of a
// folder of documents, and puts what all machines came to into performance.md.
func writeDocs(docs string, r record) error {
	folder := filepath.Join(docs, "speed")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	name := r.name()
	files := map[string][]byte{
		".json": append(data, '\n'),
		".md": fmt.Appendf(nil, "# Speed on %s\n\nWritten by `make bench`, not by hand; [performance.md](../performance.md) says how it is measured.\n\n%s\n![Speed-up against block size](%s.png)\n",
			r.Machine.CPU, markdown(r.Machine, r.Results), name),
	}
	for _, format := range []string{"png", "svg"} {
		if files["."+format], err = picture(r.Results, r.Machine, format); err != nil {
			return err
		}
	}
	for end, data := range files {
		if err := os.WriteFile(filepath.Join(folder, name+end), data, 0o644); err != nil {
			return err
		}
	}
	all, err := loadRecords(folder)
	if err != nil {
		return err
	}
	return document.Splice(filepath.Join(docs, "performance.md"), markBegin, markEnd, overview(all))
}

// overview is the cases that have goals, with what every machine came to.
func overview(all []record) string {
	var s strings.Builder
	head, rule := []string{"case", "goal"}, []string{"---", "---"}
	for _, r := range all {
		met, goals := tally(r.Results)
		fmt.Fprintf(&s, "- %s. %s, %d pairs for each figure; %s. %d of %d goals are met: **bold**; missed: ✗. [All figures](speed/%s.md)\n",
			r.Machine, r.Day, r.Machine.Pairs, r.Machine.load(), met, goals, r.name())
		head, rule = append(head, r.Machine.CPU), append(rule, "---")
	}
	title := ""
	eachCase(selects(nil), func(g group, name string, goal float64) {
		if goal == 0 {
			return
		}
		if g.title != title {
			title = g.title
			fmt.Fprintf(&s, "\n### %s\n\n%s.\n\n", title, strings.ToUpper(g.unit[:1])+g.unit[1:])
			line(&s, head...)
			line(&s, rule...)
		}
		cells := []string{name, "≥ " + figure(goal)}
		for _, r := range all {
			cells = append(cells, r.cell(g.name, name, goal))
		}
		line(&s, cells...)
	})
	for _, r := range all {
		fmt.Fprintf(&s, "\n![Speed-up against block size, %s](speed/%s.png)\n", r.Machine.CPU, r.name())
	}
	return s.String()
}

// cell is what a case came to, with its spread, and a cross where that is less
// than the goal.
func (r *record) cell(group, name string, goal float64) string {
	for _, x := range r.Results {
		switch {
		case x.Group != group || x.Case != name:
		case x.Left != "":
			return "–"
		case x.Ratio < goal:
			return fmt.Sprintf("%s (%s … %s) ✗", figure(x.Ratio), figure(x.P10), figure(x.P90))
		default:
			return fmt.Sprintf("**%s** (%s … %s)", figure(x.Ratio), figure(x.P10), figure(x.P90))
		}
	}
	return "–"
}
