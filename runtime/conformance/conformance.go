// Package conformance runs test cases in the layout of ONNX's operator tests:
// a folder with a model.onnx and folders test_data_set_0, test_data_set_1, …
// that hold input_N.pb and output_N.pb. [Find] finds cases, [Run] runs one, a [Report]
// counts what came of them.
package conformance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// A Case is one folder.
type Case struct {
	Dir   string // path of the folder
	Suite string // name of the folder around it
	Name  string // of the folder
}

// Find returns every case in a tree of folders, in the order of their paths.
func Find(root string) ([]Case, error) {
	if _, err := os.Stat(root); err != nil {
		return nil, bare(root, err)
	}
	var out []Case
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() != "model.onnx" {
			return err
		}
		dir := filepath.Dir(path)
		if sets, err := filepath.Glob(filepath.Join(escape(dir), "test_data_set_*")); err != nil || len(sets) == 0 {
			return err
		}
		whole, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		out = append(out, Case{Dir: dir, Name: filepath.Base(whole), Suite: filepath.Base(filepath.Dir(whole))})
		return nil
	})
	if err != nil {
		return nil, bare(root, err)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no folder in it holds a model.onnx and a test_data_set_0", root)
	}
	return out, nil
}

func bare(path string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		path, err = p.Path, p.Err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// escape takes a path as it is in a glob pattern.
func escape(path string) string {
	return regexp.MustCompile(`[*?\[\\]`).ReplaceAllString(path, `\$0`)
}

// A Status says how a case ended.
type Status string

// The statuses of a case: skipped is one that does not pass for a reason that
// is known, see Exceptions.
const (
	Passed  Status = "passed"
	Failed  Status = "failed"
	Skipped Status = "skipped"
)

// A Result is what became of a case.
type Result struct {
	Case
	Status    Status
	Reason    string   // why it did not pass
	Exception int      // index into Exceptions of a skipped case
	Operators []string // that its model holds, "domain.Op" outside ai.onnx
}

// Run runs a case on one thread and on two, and compares the outputs, and
// what shape inference says of their types, with those of the data sets.
// Whole numbers are compared exactly, floats to a relative error of 1e-5 and
// 1e-6 absolute, float16 and bfloat16 to 1e-3.
func Run(ctx context.Context, c Case) Result {
	r := Result{Case: c, Status: Passed, Exception: -1}
	m, err := graph.Load(filepath.Join(c.Dir, "model.onnx"))
	if err == nil {
		r.Operators = operators(m)
		err = run(ctx, c, m, tolerance(c.Name))
	}
	if err == nil {
		return r
	}
	r.Status, r.Reason = Failed, err.Error()
	for i, s := range Exceptions {
		if s.fits(c.Name) {
			r.Status, r.Reason, r.Exception = Skipped, s.Reason, i
		}
	}
	return r
}

// operators lists the operators of a model, each once, those of functions and
// bodies among them.
func operators(m *graph.Model) []string {
	var out []string
	m.Graphs(func(g *graph.Graph) bool {
		for _, n := range g.Nodes() {
			if m.Function(n.Domain, n.Op, n.Overload) == nil {
				out = append(out, title(graph.NormalDomain(n.Domain), n.Op))
			}
		}
		return true
	})
	slices.Sort(out)
	return slices.Compact(out)
}

func title(domain, op string) string {
	if domain != "" {
		return domain + "." + op
	}
	return op
}

// set is one data set, by the names of the model.
type set struct {
	name         string
	feeds, wants map[string]*runtime.Tensor
}

func run(ctx context.Context, c Case, m *graph.Model, rtol float64) error {
	folders, err := filepath.Glob(filepath.Join(escape(c.Dir), "test_data_set_*"))
	if err != nil || len(folders) == 0 {
		return errors.Join(errors.New("no data"), err)
	}
	var sets []set
	for _, f := range folders {
		s, err := readSet(f, m)
		if err != nil {
			return err
		}
		sets = append(sets, s)
	}
	// Some cases feed other shapes than their models declare: the data counts.
	for _, v := range m.Graph.Inputs() {
		for _, s := range sets {
			if x := s.feeds[v.Name]; x != nil && v.Declared != nil && v.Declared.Kind == graph.KindTensor && typed(v.Declared, x) != nil {
				v.Declared = &graph.Type{Kind: graph.KindTensor, Elem: v.Declared.Elem}
			}
		}
	}
	program, err := runtime.Compile(m, runtime.Options{})
	if err != nil {
		return err
	}
	// From here on types are what inference finds by itself.
	for _, v := range m.Graph.Outputs() {
		if !v.IsInput() {
			v.Declared = nil
		}
	}
	if err := graph.Infer(m); err != nil {
		return err
	}
	for _, threads := range []int{1, 2} {
		session := program.NewSession(runtime.SessionOptions{Threads: threads, Poison: true})
		for _, s := range sets {
			got, err := session.RunTensors(ctx, s.feeds)
			if err != nil {
				return err
			}
			for _, v := range m.Graph.Outputs() {
				want, ok := s.wants[v.Name]
				if !ok {
					continue
				}
				if err := same(got[v.Name], want, rtol); err != nil {
					return fmt.Errorf("%s, output %s, %d threads: %w", s.name, v.Name, threads, err)
				}
				if _, list := want.Items(); list && v.Type() == nil {
					continue // an optional that may turn out to be a sequence
				}
				if t := v.Type(); t == nil {
					return fmt.Errorf("output %s: its type is not inferred", v.Name)
				} else if err := typed(t, got[v.Name]); err != nil {
					return fmt.Errorf("output %s: %w", v.Name, err)
				}
			}
		}
	}
	return nil
}

func readSet(dir string, m *graph.Model) (set, error) {
	s := set{name: filepath.Base(dir), feeds: map[string]*runtime.Tensor{}, wants: map[string]*runtime.Tensor{}}
	for i, v := range m.Graph.Inputs() {
		path := filepath.Join(dir, fmt.Sprintf("input_%d.pb", i))
		x, err := readValue(path, v.Declared)
		if errors.Is(err, fs.ErrNotExist) && v.IsInitializer() {
			continue
		}
		if err != nil {
			return s, bare(path, err)
		}
		if !v.IsInitializer() { // its value is a constant, which the data repeats
			s.feeds[v.Name] = x
		}
	}
	for i, v := range m.Graph.Outputs() {
		path := filepath.Join(dir, fmt.Sprintf("output_%d.pb", i))
		x, err := readValue(path, v.Declared)
		if err != nil {
			return s, bare(path, err)
		}
		s.wants[v.Name] = x
	}
	return s, nil
}

// A Report counts results.
type Report struct {
	Results []Result
}

// Count is how many cases ended in each way.
type Count struct {
	Name    string `json:"name"`
	Total   int    `json:"total"`
	Passed  int    `json:"passed"`
	Failed  int    `json:"failed"`
	Skipped int    `json:"skipped"`
}

func (n *Count) add(s Status) {
	n.Total++
	switch s {
	case Passed:
		n.Passed++
	case Failed:
		n.Failed++
	case Skipped:
		n.Skipped++
	}
}

// Total counts all cases.
func (r *Report) Total() Count {
	n := Count{Name: "all"}
	for _, x := range r.Results {
		n.add(x.Status)
	}
	return n
}

// Suites counts the cases of each suite, sorted by name.
func (r *Report) Suites() []Count {
	return r.counts(func(x Result) []string { return []string{x.Suite} })
}

// Operators counts the cases of each operator, sorted by name: a case counts for every
// operator that its model holds.
func (r *Report) Operators() []Count {
	return r.counts(func(x Result) []string { return x.Operators })
}

func (r *Report) counts(names func(Result) []string) []Count {
	var out []Count
	at := map[string]int{}
	for _, x := range r.Results {
		for _, name := range names(x) {
			i, ok := at[name]
			if !ok {
				i = len(out)
				at[name] = i
				out = append(out, Count{Name: name})
			}
			out[i].add(x.Status)
		}
	}
	slices.SortFunc(out, func(a, b Count) int { return cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)) })
	return out
}

// Of returns the results with a status.
func (r *Report) Of(s Status) []Result {
	var out []Result
	for _, x := range r.Results {
		if x.Status == s {
			out = append(out, x)
		}
	}
	return out
}
