package calib

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
)

// cases is the data of a folder in the layout of the ONNX operator tests.
type cases []testCase

// testCase is one test_data_set: inputs and expected outputs by position.
type testCase struct {
	dir     string
	inputs  []*graph.Tensor
	outputs []*graph.Tensor
}

func openCases(s *Source, dirs []string) error {
	number := func(dir string) int {
		n, err := strconv.Atoi(dir[strings.LastIndexByte(dir, '_')+1:])
		if err != nil {
			return 1 << 30
		}
		return n
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return number(a) - number(b) })
	var list cases
	sum := sha256.New()
	left := s.opts.Limit
	for _, dir := range dirs {
		c := testCase{dir: dir}
		for _, kind := range []struct {
			name string
			list *[]*graph.Tensor
		}{{"input", &c.inputs}, {"output", &c.outputs}} {
			for i := 0; ; i++ {
				file := filepath.Join(dir, fmt.Sprintf("%s_%d.pb", kind.name, i))
				st, err := os.Stat(file)
				if errors.Is(err, os.ErrNotExist) {
					break
				}
				if err != nil {
					return err
				}
				if left -= st.Size(); left < 0 || !st.Mode().IsRegular() {
					return fmt.Errorf("%s: no file, or more than the %w of %d MB of data", file, npz.ErrLimit, s.opts.Limit>>20)
				}
				b, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				t, err := graph.DecodeTensor(b)
				if err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
				fmt.Fprintf(sum, "%s %d %d\n", kind.name, i, len(b))
				sum.Write(b)
				*kind.list = append(*kind.list, t)
			}
		}
		fmt.Fprintln(sum, "case")
		list = append(list, c)
	}
	s.choice(sum, 0)
	s.kind, s.print = list, fingerprint(sum)
	return nil
}

func (c cases) bytes() (n int64) {
	for _, x := range c {
		for _, t := range slices.Concat(x.inputs, x.outputs) {
			n += t.Size()
		}
	}
	return n
}

func (c cases) lacks(runtime.Port) string {
	return fmt.Sprintf("a case has %d inputs", len(c[0].inputs))
}

func (c cases) array(name string) (*npz.Array, error) {
	return nil, fmt.Errorf("a test folder has no array %q; labels come from an .npz file", name)
}

func (c cases) bind(f *Feed) error {
	list := c[0].inputs
	position := slices.Repeat([]int{-1}, len(f.ports))
	for i, p := range f.ports {
		for k, t := range list {
			if t.Name == p.Name || (t.Name == "" && k == i) {
				position[i] = k
			}
		}
	}
	// Names differ between model and data in some test sets: then position
	// decides, as the layout says.
	if !slices.ContainsFunc(position, func(k int) bool { return k >= 0 }) {
		for i := range min(len(f.ports), len(list)) {
			position[i] = i
		}
	}
	for i, k := range position {
		if k >= 0 {
			f.feeds[i] = func(samples []int) (*runtime.Tensor, error) { return c[samples[0]].input(k) }
		}
	}
	f.total, f.fixed = len(c), 1
	return nil
}

// input returns input k of a case.
func (c *testCase) input(k int) (*runtime.Tensor, error) {
	if k >= len(c.inputs) {
		return nil, fmt.Errorf("%s has no input_%d.pb", c.dir, k)
	}
	return runtime.FromGraphTensor(c.inputs[k])
}
