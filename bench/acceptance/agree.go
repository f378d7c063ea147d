package main

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
	"github.com/onnx-lathe/lathe/bench/quality"
	"github.com/onnx-lathe/lathe/runtime/conformance"
)

// A suite counts the official cases of one.
type suite struct{ total, passed, failed, outOfScope int }

// officialTests runs ONNX's operator tests (LATHE_ONNX_TESTS, or where Debian's
// libonnx-testdata puts them) and returns the counts of each suite.
func (b *workbench) officialTests() (map[string]suite, error) {
	return remember(b, "conformance", func() (map[string]suite, error) {
		dir := os.Getenv("LATHE_ONNX_TESTS")
		if dir == "" {
			dir = "/usr/share/libonnx-testdata/data"
		}
		if _, err := os.Stat(dir); err != nil {
			return nil, leftOut("LATHE_ONNX_TESTS names no folder with the official operator tests")
		}
		var answer struct {
			Cases []struct{ Suite, Status, Reason string }
		}
		if err := b.lathe(&answer, "conformance", dir); err != nil {
			return nil, err
		}
		out := map[string]suite{}
		for _, c := range answer.Cases {
			n := out[c.Suite]
			n.total++
			switch c.Status {
			case "passed":
				n.passed++
			case "failed":
				n.failed++
			}
			if slices.ContainsFunc(conformance.Exceptions, func(e conformance.Exception) bool { return e.OutOfScope && e.Reason == c.Reason }) {
				n.outOfScope++
			}
			out[c.Suite] = n
		}
		return out, nil
	})
}

// conforms checks that of the cases of a suite that are in scope at least 98 %
// pass; none may fail that is not listed with its reason.
func conforms(names ...string) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		all, err := b.officialTests()
		if err != nil {
			return result{}, err
		}
		var n suite
		for _, name := range names {
			s := all[name]
			n = suite{n.total + s.total, n.passed + s.passed, n.failed + s.failed, n.outOfScope + s.outOfScope}
		}
		part := float64(n.passed) / float64(max(n.total-n.outOfScope, 1))
		return result{fmt.Sprintf("%d of %d, %.1f %%; %d failed", n.passed, n.total-n.outOfScope, 100*part, n.failed), part >= 0.98 && n.failed == 0 && n.total > 0}, nil
	}
}

// outOfScope checks how many of all cases are left aside.
func outOfScope(b *workbench) (result, error) {
	all, err := b.officialTests()
	if err != nil {
		return result{}, err
	}
	var n suite
	for _, s := range all {
		n.total, n.outOfScope = n.total+s.total, n.outOfScope+s.outOfScope
	}
	part := float64(n.outOfScope) / float64(max(n.total, 1))
	return result{fmt.Sprintf("%d of %d, %.1f %%", n.outOfScope, n.total, 100*part), part <= 0.08 && n.total > 1000}, nil
}

// madeUp has inputs for graphs that have no set: whole numbers below a bound, or
// normal floats where it is 0. A name that ends in * stands for all that begin
// so.
var madeUp = map[string][]struct {
	name  string
	shape []int64
	below int64
}{
	"graphs/bert24_keras2onnx.onnx":     {{"attention_mask", []int64{3, 7}, 2}, {"token_type_ids", []int64{3, 7}, 2}, {"input_ids", []int64{3, 7}, 20}},
	"graphs/bert5_pytorch_opset12.onnx": {{"input_mask", []int64{3, 7}, 2}, {"token_type_ids", []int64{3, 7}, 2}, {"input_ids", []int64{3, 7}, 99}},
	"graphs/bert5_ort_fused.onnx":       {{"input_mask", []int64{3, 7}, 2}, {"token_type_ids", []int64{3, 7}, 2}, {"input_ids", []int64{3, 7}, 99}},
	"graphs/gpt2_12layer_past.onnx":     {{"input_ids", []int64{2, 1}, 20}, {"past_*", []int64{2, 2, 2, 5, 2}, 0}},
}

var setOf = map[string]string{"cnn_mnist_pytorch": "mnist", "kwt1_mfcc_opset13": "kwt", "kwt1_mfcc_opset17": "kwt", "stories260K_opset17": "stories", "stories260K_kv_opset17": "stories"}

// inputsOf makes up the inputs of a public graph.
func inputsOf(name string, s *ort.Session) (map[string]nd.Array, error) {
	out := map[string]nd.Array{}
	r := rand.New(rand.NewPCG(1, 6))
	for _, in := range s.Inputs {
		i := slices.IndexFunc(madeUp[name], func(m struct {
			name  string
			shape []int64
			below int64
		}) bool {
			begin, any := strings.CutSuffix(m.name, "*")
			return m.name == in.Name || any && strings.HasPrefix(in.Name, begin)
		})
		if i < 0 {
			return nil, fmt.Errorf("%s: nothing is known of input %q", name, in.Name)
		}
		m := madeUp[name][i]
		n := nd.Size(m.shape)
		switch in.Type.Kind().String() {
		case "float32":
			x := make([]float32, n)
			for i := range x {
				x[i] = float32(r.NormFloat64())
			}
			out[in.Name] = nd.Of(x, m.shape...)
		case "int32":
			x := make([]int32, n)
			for i := range x {
				x[i] = r.Int32N(int32(m.below))
			}
			out[in.Name] = nd.Of(x, m.shape...)
		default:
			x := make([]int64, n)
			for i := range x {
				x[i] = r.Int64N(m.below)
			}
			out[in.Name] = nd.Of(x, m.shape...)
		}
	}
	return out, nil
}

// agrees runs every public model in ONNX Runtime and with `lathe run`.
func agrees(b *workbench) (result, error) {
	root, err := b.public("models", ".")
	if err != nil {
		return result{}, err
	}
	models, worst := 0, 0.0
	var wrong []string
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".onnx" {
			return err
		}
		name, _ := filepath.Rel(root, path)
		name = filepath.ToSlash(name)
		models++
		var theirs, ours map[string]nd.Array
		if set := setOf[strings.TrimSuffix(name, ".onnx")]; set != "" {
			data, err := b.set(set + "_eval.npz")
			if err != nil {
				return err
			}
			theirs, ours, err = b.runBoth(path, data, 8)
			if err != nil {
				wrong = append(wrong, name+": "+firstLine(err.Error()))
				return nil
			}
		} else if theirs, ours, err = b.runMadeUp(name, path); err != nil {
			wrong = append(wrong, name+": "+firstLine(err.Error()))
			return nil
		}
		for out, w := range theirs {
			if slices.Contains(w.Shape, 0) {
				continue
			}
			e, err := quality.RelativeError(ours[out], w)
			if err != nil || !(e <= 1e-3) {
				wrong = append(wrong, fmt.Sprintf("%s: output %q: %.1g, %v", name, out, e, err))
			}
			worst = max(worst, e)
		}
		return nil
	})
	measured := fmt.Sprintf("%d models, the worst to %.0e", models, worst)
	if len(wrong) > 0 {
		measured += "; " + strings.Join(wrong, "; ")
	}
	return result{measured, len(wrong) == 0 && models >= 9}, err
}

func (b *workbench) runMadeUp(name, path string) (theirs, ours map[string]nd.Array, err error) {
	s, err := ort.Open(path, ort.Options{Threads: 2})
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	in, err := inputsOf(name, s)
	if err != nil {
		return nil, nil, err
	}
	if theirs, err = s.Run(in); err != nil {
		return nil, nil, err
	}
	ours, err = b.runLathe(path, in)
	return theirs, ours, err
}

// scoresFused scores the model that ONNX Runtime has fused, drops its modules
// one by one, and compares in ONNX Runtime with the plain model that has lost
// the same.
func scoresFused(b *workbench) (result, error) {
	const fused, plain = "graphs/bert5_ort_fused.onnx", "graphs/bert5_pytorch_opset12.onnx"
	var paths [2]string
	for i, name := range []string{fused, plain} {
		var err error
		if paths[i], err = b.model(name); err != nil {
			return result{}, err
		}
	}
	s, err := ort.Open(paths[0], ort.Options{})
	if err != nil {
		return result{}, err
	}
	in, err := inputsOf(fused, s)
	s.Close()
	if err != nil {
		return result{}, err
	}
	data := b.file("fused-in.npz")
	if err := nd.WriteNPZ(data, in); err != nil {
		return result{}, err
	}
	var answer struct{ Modules []module }
	if err := b.lathe(&answer, "score", paths[0], "--data", data, "-o", b.file("fused.json"), "--force"); err != nil {
		return result{}, err
	}
	scored, dropped, worst := 0, 0, 0.0
	for _, m := range answer.Modules {
		if m.Score > 0 {
			scored++
		}
		var out [2]map[string]nd.Array
		for i, path := range paths {
			small := b.file("fused-dropped.onnx")
			if err := b.lathe(nil, "drop", path, "--modules", m.ID, "-o", small, "--force"); err != nil {
				return result{}, err
			}
			s, err := ort.Open(small, ort.Options{Basic: i == 1}) // which would fuse the plain one too
			if err != nil {
				return result{}, fmt.Errorf("%s without %s: %w", filepath.Base(path), m.ID, err)
			}
			out[i], err = s.Run(in)
			s.Close()
			if err != nil {
				return result{}, err
			}
		}
		for name, w := range out[1] {
			e, err := quality.RelativeError(out[0][name], w)
			if err != nil {
				return result{}, err
			}
			worst = max(worst, e)
		}
		dropped++
	}
	return result{fmt.Sprintf("%d scored, %d dropped, to %.0e of the plain model", scored, dropped, worst), scored == 10 && dropped == 10 && worst <= 1e-3}, nil
}
