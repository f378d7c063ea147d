package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
)

type comparison struct {
	passed   bool
	abs, rel float64
	where    string // first difference
}

// compareWith compares outputs with the expected ones.
func compareWith(outs []*joined, src *calib.Source, path string, rtol, atol float64, limit int64) (comparison, error) {
	c := comparison{passed: true}
	want := map[string]*joined{}
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		if filepath.Clean(path) != filepath.Clean(src.Path()) {
			return c, fmt.Errorf("--expect %s: a folder of expected outputs must be the one given as --data", path)
		}
		for k := 0; ; k++ {
			list := src.Outputs(k)
			if list == nil {
				break
			}
			for i, t := range list {
				if i >= len(outs) {
					break
				}
				r, err := runtime.FromGraphTensor(t)
				if err != nil {
					return c, fmt.Errorf("--expect %s: output_%d.pb: %w", path, i, err)
				}
				if want[outs[i].name] == nil {
					want[outs[i].name] = &joined{name: outs[i].name}
				}
				if err := want[outs[i].name].add(r); err != nil {
					return c, fmt.Errorf("--expect %s: %w", path, err)
				}
			}
		}
	} else {
		f, err := npz.Open(path, limit)
		if err != nil {
			return c, fmt.Errorf("--expect %w", err)
		}
		defer f.Close()
		for _, name := range f.Names() {
			arr, err := f.Read(name)
			if err != nil {
				return c, fmt.Errorf("--expect %w", err)
			}
			want[name] = &joined{name: name, dtype: arr.DType, shape: arr.Shape, raw: arr.Raw}
		}
	}
	matched := 0
	for _, got := range outs {
		w := want[got.name]
		if w == nil {
			continue
		}
		matched++
		if w.dtype != got.dtype || !slices.Equal(w.shape, got.shape) {
			c.fail("output %q is %v%v, expected %v%v", got.name, got.dtype, got.shape, w.dtype, w.shape)
			continue
		}
		g, err := got.float64s()
		if err != nil {
			return c, err
		}
		e, err := w.float64s()
		if err != nil {
			return c, err
		}
		c.compare(got.name, got.shape, g, e, rtol, atol)
	}
	if matched == 0 {
		return c, fmt.Errorf("--expect %s: has none of the model's outputs", path)
	}
	return c, nil
}

func (c *comparison) fail(format string, args ...any) {
	if c.passed {
		c.where = fmt.Sprintf(format, args...)
	}
	c.passed = false
}

// compare takes the elements of one output into account.
func (c *comparison) compare(name string, shape []int, got, want []float64, rtol, atol float64) {
	var abs, most float64
	for _, w := range want {
		most = max(most, finite(w))
	}
	for i, w := range want {
		g := got[i]
		if g == w || (math.IsNaN(g) && math.IsNaN(w)) {
			continue
		}
		d := math.Abs(g - w)
		if math.IsNaN(d) {
			d = math.Inf(1)
		}
		abs = max(abs, d)
		if !(d <= atol+rtol*most) {
			c.fail("%s%v is %v, expected %v", name, indexOf(i, shape), g, w)
		}
	}
	c.abs = max(c.abs, abs)
	if abs > 0 {
		c.rel = max(c.rel, abs/max(most, math.SmallestNonzeroFloat32))
	}
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

func (j *joined) float64s() ([]float64, error) {
	dims := make([]int64, len(j.shape))
	for i, d := range j.shape {
		dims[i] = int64(d)
	}
	t, err := graph.NewTensor(j.dtype, dims, j.raw)
	if err != nil {
		return nil, fmt.Errorf("output %q: %w", j.name, err)
	}
	out := make([]float64, t.Len())
	if j.dtype.IsFloat() {
		v, err := t.Float32s()
		for i := range v {
			out[i] = float64(v[i])
		}
		return out, err
	}
	v, err := t.Int64s()
	if err != nil {
		return nil, fmt.Errorf("output %q: %w", j.name, err)
	}
	for i := range v {
		out[i] = float64(v[i])
	}
	return out, nil
}
