package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/graph"
)

// outFlags are the flags of commands that write a file.
type outFlags struct {
	path   string
	force  bool
	dryRun bool
}

// add adds the flags; what names what is written, extension is that of its
// name.
func (o *outFlags) add(c *cobra.Command, what, extension string) {
	c.Flags().StringVarP(&o.path, "output", "o", "", "`file` to write the "+what+" to")
	c.Flags().BoolVar(&o.force, "force", false, "let the output take the place of an input")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "do everything but write files")
	must(c.MarkFlagFilename("output", extension))
}

// need refuses a command that has nowhere to write to.
func (o *outFlags) need(c *cobra.Command, example string) error {
	if o.path == "" && !o.dryRun {
		return fmt.Errorf("%s needs -o %s, or --dry-run to write nothing", name(c), example)
	}
	return nil
}

// writable finds out, before any work is done, whether path can be written:
// it is no input (unless forced), its folder is there and takes new files.
func (o *outFlags) writable(path string, inputs ...string) error {
	if path == "" || o.dryRun {
		return nil
	}
	st, err := os.Stat(path)
	switch {
	case err == nil && st.IsDir():
		return fmt.Errorf("%s: is a folder; name a file in it", path)
	case err == nil && !st.Mode().IsRegular():
		return fmt.Errorf("%s: is no regular file; name another", path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w; name another file", path, plain(err))
	}
	for _, in := range inputs {
		if in == "" || o.force {
			continue
		}
		read, err := os.Stat(in)
		if st == nil && filepath.Clean(in) == filepath.Clean(path) || st != nil && err == nil && os.SameFile(st, read) {
			return fmt.Errorf("%s: is also an input; name another file, or give --force to let it be replaced", path)
		}
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".lathe-*")
	if err != nil {
		return fmt.Errorf("%s: no file can be made in %s: %w; name another folder", path, dir, plain(err))
	}
	f.Close()
	return os.Remove(f.Name())
}

// plain is what the system says of a file, without the operation and path.
func plain(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// save writes the model; it returns the size of the file, or what it would
// be.
func (o *outFlags) save(ctx context.Context, a *app, m *graph.Model) (int64, error) {
	if o.dryRun {
		b, err := m.Encode()
		return int64(len(b)), err
	}
	defer a.busy("writing " + o.path)()
	if err := m.SaveContext(ctx, o.path, graph.SaveOptions{Force: o.force}); err != nil {
		return 0, err
	}
	return fileSize(o.path), nil
}

// written is the end of a sentence about what was done.
func (o *outFlags) written() string {
	switch {
	case o.dryRun:
		return "; nothing written"
	case o.path == "":
		return ""
	}
	return "; written to " + o.path
}

func fileSize(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

// stream is an output that several goroutines write to, and that remembers
// what went wrong.
type stream struct {
	mu  sync.Mutex
	w   io.Writer
	err error
}

func (s *stream) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.w.Write(b)
	if err != nil && s.err == nil {
		s.err = err
	}
	return n, err
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
		fmt.Fprintln(w, strings.TrimRight(strings.Join(r, "\t"), "\t "))
	}
	w.Flush()
}

// note keeps a remark for standard error. Remarks are shown once something
// takes long, and at the end; not where the command fails, which is one line.
func (a *app) note(format string, args ...any) {
	if !a.quiet {
		a.notes = append(a.notes, fmt.Sprintf(format, args...))
	}
}

// remarks shows the remarks kept so far.
func (a *app) remarks() {
	for _, n := range a.notes {
		fmt.Fprintln(a.stderr, n)
	}
	a.notes = nil
}

func percent(part, whole int64) string {
	if whole == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole))
}

// change says how a size went from before to after.
func change(what string, before, after int64) string {
	if before == after {
		return fmt.Sprintf("%s %s, unchanged", what, grouped(before))
	}
	sign := "−"
	if after > before {
		sign = "+"
	}
	return fmt.Sprintf("%s %s → %s (%s%s)", what, grouped(before), grouped(after), sign, percent(max(after-before, before-after), before))
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
	return json.Marshal(float64(f))
}
