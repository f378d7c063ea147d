package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/graph"
)

// outFlags are the flags of commands that write a model.
type outFlags struct {
	path   string
	force  bool
	dryRun bool
}

func (o *outFlags) add(c *cobra.Command) {
	c.Flags().StringVarP(&o.path, "output", "o", "", "file to write the model to")
	c.Flags().BoolVar(&o.force, "force", false, "overwrite the file that was read")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "do everything but write files")
}

func (o *outFlags) check(command string) error {
	if o.path == "" && !o.dryRun {
		return fmt.Errorf("%s needs -o OUT.onnx, or --dry-run to write nothing", command)
	}
	return nil
}

// save writes the model; it returns the size of the file, or what it would
// be.
func (o *outFlags) save(m *graph.Model) (int64, error) {
	if o.dryRun {
		b, err := m.Encode()
		return int64(len(b)), err
	}
	if err := m.Save(o.path, graph.SaveOptions{Force: o.force}); err != nil {
		return 0, err
	}
	return fileSize(o.path), nil
}

func fileSize(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table prints rows of cells in columns.
func (a *app) table(rows [][]string) {
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.TrimRight(strings.Join(r, "\t"), "\t"))
	}
	w.Flush()
}

// note prints a remark on standard error.
func (a *app) note(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.stderr, format+"\n", args...)
	}
}

func percent(part, whole int64) string {
	if whole == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole))
}

// grouped prints a number with thousands separated.
func grouped(n int64) string {
	s := fmt.Sprint(n)
	neg := strings.HasPrefix(s, "-")
	s = strings.TrimPrefix(s, "-")
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if neg {
		s = "-" + s
	}
	return s
}

// jsonFloat is a float that JSON writes as null where it has no number for
// it.
type jsonFloat float64

func (f jsonFloat) MarshalJSON() ([]byte, error) {
	if v := float64(f); math.IsNaN(v) || math.IsInf(v, 0) {
		return []byte("null"), nil
	}
	return fmt.Appendf(nil, "%v", float64(f)), nil
}
