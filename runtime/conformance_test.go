package runtime

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
)

// skipped has the official cases that are not run, by a pattern of their
// names, with the reason. A case of this list that passes fails the test.
var skipped = []struct{ pattern, reason string }{
	{`^test_(adagrad|adam|momentum|nesterov_momentum|gradient_of)`, "training operators"},
	{`^test_(BatchNorm[123]d_|GLU|Linear$|PReLU_|PoissonNLLLLoss|Softsign$|operator_(add|mm$|basic|non_float|params|pow))`, "opset 6, and 7 is the first that is read"},
	{`^test_(batchnorm_.*_training_mode|training_dropout(_default|_mask|_default_mask)?$)`, "training mode"},
	{`^test_bernoulli`, "output is random"},
	{`^test_cast_FLOAT_to_BFLOAT16`, "the case's output is stored as uint16"},
	{`^test_castlike_(BFLOAT16_to_FLOAT|FLOAT_to_BFLOAT16)`, "the case's input is no shape that its model declares"},
	{`^test_(sequence_|split_to_sequence|identity_sequence|if_seq|loop13_seq|loop16_seq)`, "sequences"},
	{`^test_(optional_|if_opt|identity_opt)`, "optionals"},
	{`^test_scan_sum$`, "Scan-8, which opset 9 replaced"},
	{`^test_resize_downsample_scales_(cubic|linear)_align_corners$`, "the case aligns the corners of an output of a fractional size; ONNX Runtime and PyTorch do not"},
	{`^test_(strnorm|tfidfvectorizer|string)`, "text operators"},
}

// loose has the cases whose own expectation is not good to 1e-5, with the
// relative error that ONNX's runner allows.
var loose = []struct {
	pattern, reason string
	rtol            float64
}{
	{`^test_(blackman|hamming|hann)window`, "the expectation computes with π = 3.1415", 1e-3},
	{`^test_(gridsample_bicubic|roialign_aligned_(true|false))$`, "the expectation has four digits", 1e-3},
}

// TestConformance runs the official operator tests of ONNX that lie in the
// folder LATHE_ONNX_TESTS (the data folder of Debian's libonnx-testdata).
func TestConformance(t *testing.T) {
	root := os.Getenv("LATHE_ONNX_TESTS")
	if root == "" {
		t.Skip("LATHE_ONNX_TESTS does not name the official operator tests")
	}
	cases, err := filepath.Glob(filepath.Join(root, "*", "*", "model.onnx"))
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases under %s: %v", root, err)
	}
	missing := map[string]int{}
	for _, path := range cases {
		dir := filepath.Dir(path)
		name := filepath.Base(dir)
		t.Run(name, func(t *testing.T) {
			reason := ""
			for _, s := range skipped {
				if regexp.MustCompile(s.pattern).MatchString(name) {
					reason = s.reason
				}
			}
			rtol := 1e-5
			for _, l := range loose {
				if regexp.MustCompile(l.pattern).MatchString(name) {
					rtol = l.rtol
				}
			}
			err := runCase(dir, rtol)
			switch {
			case err != nil && reason != "":
				t.Skipf("%s (%v)", reason, err)
			case err != nil && strings.Contains(err.Error(), "no kernel for"):
				missing[regexp.MustCompile(`no kernel for (\S+)`).FindStringSubmatch(err.Error())[1]]++
				t.Error(err)
			case err != nil:
				t.Error(err)
			case reason != "":
				t.Errorf("passes, but is skipped for: %s", reason)
			}
		})
	}
	ops := []string{}
	for op, n := range missing {
		ops = append(ops, fmt.Sprintf("%s %d", op, n))
	}
	sort.Strings(ops)
	if len(ops) > 0 {
		t.Logf("operators without a kernel, and cases: %v", ops)
	}
}

// runCase runs the data sets of one case.
func runCase(dir string, rtol float64) error {
	m, err := graph.Load(filepath.Join(dir, "model.onnx"))
	if err != nil {
		return err
	}
	p, err := Compile(m, Options{})
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
		return fmt.Errorf("infer: %w", err)
	}
	sets, err := filepath.Glob(filepath.Join(dir, "test_data_set_*"))
	if err != nil || len(sets) == 0 {
		return fmt.Errorf("no data: %v", err)
	}
	for _, threads := range []int{1, 2} {
		s := p.NewSession(SessionOptions{Threads: threads})
		s.pool.dirty = true
		for _, set := range sets {
			feeds := map[string]tensor.Tensor{}
			for i, v := range m.Graph.Inputs() {
				x, err := readPB(filepath.Join(set, fmt.Sprintf("input_%d.pb", i)))
				if os.IsNotExist(err) && v.IsInitializer() {
					continue
				}
				if err != nil {
					return err
				}
				d, err := toDense(x, true)
				if err != nil {
					return err
				}
				feeds[v.Name] = d
			}
			// Compare before the edge, which widens float16.
			got := map[string]*Tensor{}
			s.ctx = context.Background()
			if err := s.feed(feeds); err != nil {
				return err
			}
			if err := s.main.exec(); err != nil {
				return err
			}
			for i, slot := range p.main.outputs {
				got[p.outputs[i].Name] = s.main.values[slot].clone()
			}
			s.main.reset()
			for i, v := range m.Graph.Outputs() {
				want, err := readPB(filepath.Join(set, fmt.Sprintf("output_%d.pb", i)))
				if err != nil {
					return err
				}
				if err := same(got[v.Name], want, rtol); err != nil {
					return fmt.Errorf("output %s, %d threads: %w", v.Name, threads, err)
				}
				if err := inferred(v.Type(), want); err != nil {
					return fmt.Errorf("output %s: %w", v.Name, err)
				}
			}
		}
	}
	return nil
}

// inferred compares what inference knows of a type with what it is.
func inferred(t *graph.Type, x *Tensor) error {
	if t == nil {
		return fmt.Errorf("its type is not inferred")
	}
	if t.Elem != x.DType {
		return fmt.Errorf("is inferred to be %v, is %v", t.Elem, x.DType)
	}
	if t.Shape == nil {
		return nil
	}
	if len(t.Shape.Dims) != len(x.Shape) {
		return fmt.Errorf("is inferred to have %d dims, has %v", len(t.Shape.Dims), x.Shape)
	}
	for i, d := range t.Shape.Dims {
		if d.IsKnown() && d.N != int64(x.Shape[i]) {
			return fmt.Errorf("dim %d is inferred to be %d of %v", i, d.N, x.Shape)
		}
	}
	return nil
}

func readPB(path string) (*Tensor, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	g, err := graph.DecodeTensor(data)
	if err != nil {
		return nil, err
	}
	return FromGraphTensor(g)
}

// same compares two tensors: exactly, or floating-point numbers to a relative
// error (ONNX's own runner allows 1e-3) and 1e-6 absolute.
func same(got, want *Tensor, rtol float64) error {
	if got.DType != want.DType || fmt.Sprint(got.Shape) != fmt.Sprint(want.Shape) {
		return fmt.Errorf("is %v%v, want %v%v", got.DType, got.Shape, want.DType, want.Shape)
	}
	if got.DType == graph.String {
		for i := range want.strs {
			if got.strs[i] != want.strs[i] {
				return fmt.Errorf("element %d is %q, want %q", i, got.strs[i], want.strs[i])
			}
		}
		return nil
	}
	if got.DType == graph.Float16 || got.DType == graph.BFloat16 {
		rtol = 1e-3
	}
	if !got.DType.IsFloat() {
		rtol = 0
	}
	x, err := asFloats(got)
	if err != nil {
		return err
	}
	y, err := asFloats(want)
	if err != nil {
		return err
	}
	for i := range y {
		if x[i] == y[i] || x[i] != x[i] && y[i] != y[i] {
			continue
		}
		if d := math.Abs(x[i] - y[i]); !(d <= rtol*math.Abs(y[i])+1e-6) || rtol == 0 {
			return fmt.Errorf("element %d of %v is %v, want %v", i, want.Shape, x[i], y[i])
		}
	}
	return nil
}

func asFloats(t *Tensor) ([]float64, error) {
	z, err := newTensor(graph.Float64, t.Shape)
	if err != nil {
		return nil, err
	}
	return z.F64(), convert(z, t, castRules{})
}
