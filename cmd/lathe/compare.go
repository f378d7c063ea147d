package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
)

// expectation is what outputs should be: whole, or sample by sample.
type expectation struct {
	whole map[string]*npz.Array
	cases []map[string]*npz.Array
}

// expectation reads what the outputs over feed should be.
func (a *app) expectation(path string, feed *calib.Feed, outputs []runtime.Port) (*expectation, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("--expect %s: %w; give an .npz of outputs or the test folder that is the data", path, plain(err))
	}
	e := &expectation{whole: map[string]*npz.Array{}}
	if st.IsDir() {
		src := feed.Source()
		if filepath.Clean(path) != filepath.Clean(src.Path()) {
			return nil, fmt.Errorf("--expect %s: a folder of expected outputs must be the one given as --data", path)
		}
		for i := range feed.Len() {
			k := feed.Number(i)
			c := map[string]*npz.Array{}
			for i, t := range src.Outputs(k) {
				if i >= len(outputs) {
					return nil, fmt.Errorf("--expect %s: case %d has %d outputs, the model %d", path, k, len(src.Outputs(k)), len(outputs))
				}
				r, err := runtime.FromGraphTensor(t)
				if err != nil {
					return nil, fmt.Errorf("--expect %s: case %d: output_%d.pb: %w", path, k, i, err)
				}
				c[outputs[i].Name] = arrayOf(r)
			}
			if len(c) == 0 {
				return nil, fmt.Errorf("--expect %s: case %d has no output_0.pb", path, k)
			}
			e.cases = append(e.cases, c)
		}
		return e, nil
	}
	f, err := npz.Open(path, a.memory<<20)
	if err != nil {
		return nil, fmt.Errorf("--expect %w", err)
	}
	defer f.Close()
	var names []string
	for _, o := range outputs {
		names = append(names, o.Name)
		if !slices.Contains(f.Names(), o.Name) {
			continue
		}
		if e.whole[o.Name], err = f.Read(o.Name); err != nil {
			return nil, fmt.Errorf("--expect %w", err)
		}
	}
	if len(e.whole) == 0 {
		return nil, fmt.Errorf("--expect %s: has %s and no output of the model, which are %s", path, strings.Join(f.Names(), ", "), strings.Join(names, ", "))
	}
	return e, nil
}

type tolerance struct{ rtol, atol float64 }

// comparison is how far outputs are from what was expected.
type comparison struct {
	passed   bool
	abs, rel float64 // the largest differences
	where    string  // the first that is too large
}

func (e *expectation) compare(outs []*output, tol tolerance) (comparison, error) {
	c := comparison{passed: true}
	for _, o := range outs {
		if w := e.whole[o.name]; w != nil {
			got, err := o.joined()
			if err != nil {
				return c, err
			}
			if err := c.arrays(o.name, got, w, tol); err != nil {
				return c, err
			}
		}
		for k := range e.cases {
			if w := e.cases[k][o.name]; w != nil {
				if err := c.arrays(fmt.Sprintf("case %d: %s", k, o.name), o.parts[k], w, tol); err != nil {
					return c, err
				}
			}
		}
	}
	return c, nil
}

func (c *comparison) fail(format string, args ...any) {
	if c.passed {
		c.where = fmt.Sprintf(format, args...)
	}
	c.passed = false
}

// arrays takes one array into account.
func (c *comparison) arrays(name string, got, want *npz.Array, tol tolerance) error {
	// float16 leaves the runtime as float32.
	widened := got.DType == graph.Float32 && (want.DType == graph.Float16 || want.DType == graph.BFloat16)
	if want.DType != got.DType && !widened || !slices.Equal(want.Shape, got.Shape) {
		c.fail("%s is %v%v, expected %v%v", name, got.DType, got.Shape, want.DType, want.Shape)
		c.abs, c.rel = math.Inf(1), math.Inf(1)
		return nil
	}
	g, err := float64s(got)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	w, err := float64s(want)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var abs, most float64
	for _, v := range w {
		most = max(most, finite(v))
	}
	for i, v := range w {
		if g[i] == v || math.IsNaN(g[i]) && math.IsNaN(v) {
			continue
		}
		d := math.Abs(g[i] - v)
		if math.IsNaN(d) {
			d = math.Inf(1)
		}
		abs = max(abs, d)
		if !(d <= tol.atol+tol.rtol*most) {
			c.fail("%s%v is %.7g, expected %.7g", name, indexOf(i, got.Shape), g[i], v)
		}
	}
	c.abs = max(c.abs, abs)
	if abs > 0 {
		c.rel = max(c.rel, abs/max(most, math.SmallestNonzeroFloat32))
	}
	return nil
}

// finite is |v|, 0 where that is infinite or NaN.
func finite(v float64) float64 {
	if math.IsInf(v, 0) || math.IsNaN(v) {
		return 0
	}
	return math.Abs(v)
}

// indexOf turns the number of an element into its coordinates.
func indexOf(i int, shape []int) []int {
	at := make([]int, len(shape))
	for k := len(shape) - 1; k >= 0; k-- {
		at[k] = i % shape[k]
		i /= shape[k]
	}
	return at
}

func float64s(a *npz.Array) ([]float64, error) {
	switch {
	case a.DType == graph.Float64:
		return a.Float64s()
	case a.DType.IsFloat():
		return widened(a.Float32s())
	}
	return widened(a.Int64s())
}

func widened[T float32 | int64](v []T, err error) ([]float64, error) {
	out := make([]float64, len(v))
	for i := range v {
		out[i] = float64(v[i])
	}
	return out, err
}
