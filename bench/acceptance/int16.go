package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/wire"
)

// rewrittenModels are models to be put into fixed point that are no public ones:
// KWT-1 through a recipe of lathe optimize.
var rewrittenModels = map[string]string{
	"kwt1-b4.onnx": "  - circulant: {block: 4, only: blocks}\n  - heal: {steps: 500, batch: 16, optimizer: muon, lr: 0.001, mix: 1, hidden: 0.5}\n",
	"kwt1-b8.onnx": "  - circulant: {block: 8, only: blocks, fit: frobenius}\n",
}

// composition is a recipe with everything in it: KWT-1 without a third of its
// modules, block-circulant, healed for as long as a check may take, in 16-bit
// fixed point.
const composition = `  - drop: {count: 8, select: loss}
  - circulant: {block: 4, only: blocks}
  - heal: {steps: 600, batch: 16, optimizer: muon, lr: 0.001, mix: 1, hidden: 0.5}
  - quantize: {}
  - compact: {}
`

// optimizeKWT takes KWT-1 through the steps of a recipe and returns the file and
// the last model of the report.
func (b *workbench) optimizeKWT(name, steps string) (string, optimized, error) {
	m, train, err := b.files("kwt1_mfcc_opset17.onnx", "kwt_train.npz")
	if err != nil {
		return "", optimized{}, err
	}
	eval, err := b.set("kwt_eval.npz")
	if err != nil {
		return "", optimized{}, err
	}
	recipe, path, page := b.file(name+".yaml"), b.file(name), b.file(name+".html")
	if err := os.WriteFile(recipe, []byte("controls: false\nlabels: labels\nmetric: accuracy\nsteps:\n"+steps), 0o644); err != nil {
		return "", optimized{}, err
	}
	os.Remove(path)
	os.Remove(page)
	var answer struct{ Models []optimized }
	if err := b.lathe(&answer, "optimize", m, "--data", train, "--eval-data", eval, "--recipe", recipe, "-o", path, "--report", page); err != nil {
		return "", optimized{}, err
	}
	last := answer.Models[len(answer.Models)-1]
	html, err := os.ReadFile(page)
	if err == nil && !strings.Contains(string(html), last.Name) {
		err = fmt.Errorf("the report does not name %q", last.Name)
	}
	return path, last, err
}

// optimized is a model as lathe optimize --json tells of it.
type optimized struct {
	Name  string
	Value float64
	KL    float64
	Bytes int64
}

// floatForm returns a model, a public one or one of rewrittenModels, and a set.
func (b *workbench) floatForm(model, set string) (string, string, error) {
	steps, ok := rewrittenModels[model]
	if !ok {
		return b.files(model, set)
	}
	s, err := b.set(set)
	if err != nil {
		return "", "", err
	}
	m, err := remember(b, "optimize "+model, func() (string, error) {
		m, _, err := b.optimizeKWT(model, steps)
		return m, err
	})
	return m, s, err
}

// composes demands that the composition is smaller than a share of the original's
// bytes, and loads in ONNX Runtime with the same logits.
func composes(share int64) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		path, last, err := b.optimizeKWT("kwt1-composed.onnx", composition)
		if err != nil {
			return result{}, err
		}
		m, eval, err := b.files("kwt1_mfcc_opset17.onnx", "kwt_eval.npz")
		if err != nil {
			return result{}, err
		}
		before, err := os.Stat(m)
		if err != nil {
			return result{}, err
		}
		after, err := os.Stat(path)
		if err != nil {
			return result{}, err
		}
		theirs, ours, err := b.runBoth(path, eval, 16)
		if err != nil {
			return result{}, err
		}
		db, err := decibel(ours["logits"], theirs["logits"])
		return result{fmt.Sprintf("%d of %d bytes (÷ %.2f), accuracy %.4f, KL %.4f, in ONNX Runtime %.1f dB", after.Size(), before.Size(),
			float64(before.Size())/float64(after.Size()), last.Value, last.KL, db), share*after.Size() < before.Size() && after.Size() == last.Bytes && db >= 60}, err
	}
}

// quantized puts a model once into 16-bit fixed point, with ranges from
// its training set.
func (b *workbench) quantized(model, set string) (string, error) {
	m, _, err := b.floatForm(model, set+"_train.npz")
	if err != nil {
		return "", err
	}
	return b.quantize(m, set)
}

// quantize does so with the model at a path.
func (b *workbench) quantize(m, set string) (string, error) {
	return remember(b, "quantize "+m, func() (string, error) {
		train, err := b.set(set + "_train.npz")
		if err != nil {
			return "", err
		}
		path := b.file(strings.TrimSuffix(filepath.Base(m), ".onnx") + "-int16.onnx")
		os.Remove(path)
		return path, b.lathe(nil, "quantize", m, "--data", train, "-o", path)
	})
}

// int16Metric compares the model in fixed point with its float original.
func int16Metric(model, set, metric string, least float64) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		q, err := b.quantized(model, set)
		if err != nil {
			return result{}, err
		}
		m, eval, err := b.floatForm(model, set+"_eval.npz")
		if err != nil {
			return result{}, err
		}
		var answer struct{ Models []struct{ Value float64 } }
		if err := b.lathe(&answer, "eval", m, q, "--data", eval, "--metric", metric); err != nil {
			return result{}, err
		}
		got := answer.Models[1].Value
		return result{fmt.Sprintf("%.4f", got), got >= least}, nil
	}
}

// int16Accuracy compares the accuracies of the two.
func int16Accuracy(model, set string, within float64) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		q, err := b.quantized(model, set)
		if err != nil {
			return result{}, err
		}
		m, eval, err := b.floatForm(model, set+"_eval.npz")
		if err != nil {
			return result{}, err
		}
		before, errBefore := b.evaluate(m, eval, "accuracy")
		after, errAfter := b.evaluate(q, eval, "accuracy")
		if errBefore != nil {
			return result{}, errBefore
		}
		return result{fmt.Sprintf("%.4f → %.4f", before, after), math.Abs(before-after) <= within+1e-9}, errAfter
	}
}

// healedInt16 puts the model of a case of healing into fixed point: every operator
// between the two conversions, at its input and at its logits, has to compute
// integers, and the accuracy has to stay.
func healedInt16(name, set string, within float64) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		h, err := b.heal(name)
		if err != nil {
			return result{}, err
		}
		q, err := b.quantize(h.model, set)
		if err != nil {
			return result{}, err
		}
		eval, err := b.set(set + "_eval.npz")
		if err != nil {
			return result{}, err
		}
		m, err := wire.ReadModel(q)
		if err != nil {
			return result{}, err
		}
		floats, conversions := 0, 0
		for _, n := range m.Message("graph").Messages("node") {
			switch op := n.Text("op_type"); {
			case op == "QuantizeInt16" || op == "DequantizeInt16":
				conversions++
			case conversions == 2: // behind the logits: what makes probabilities of them
			case n.Text("domain") == "lathe" && strings.HasSuffix(op, "Int16"):
			case op != "Reshape" && op != "Flatten" && op != "Constant":
				floats++
			}
		}
		before, errBefore := b.evaluate(h.model, eval, "accuracy")
		after, errAfter := b.evaluate(q, eval, "accuracy")
		if errBefore != nil {
			return result{}, errBefore
		}
		return result{fmt.Sprintf("%.4f → %.4f, %d conversions, %d float operators", before, after, conversions, floats),
			math.Abs(before-after) <= within+1e-9 && floats == 0 && conversions == 2}, errAfter
	}
}

// circulantInt16Elsewhere is int16Elsewhere for a rewritten model.
func circulantInt16Elsewhere(c circulantCase, output string, least float64) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		r, err := b.circulant(c)
		if err != nil {
			return result{}, err
		}
		q, err := b.quantize(r.path, c.set)
		if err != nil {
			return result{}, err
		}
		return b.int16Elsewhere(q, c.set, output, least)
	}
}

// int16Layers asks for the least SQNR of a layer against the float operator on
// the same dequantised input.
func int16Layers(model, set string, least float64) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		q, err := b.quantized(model, set)
		if err != nil {
			return result{}, err
		}
		m, eval, err := b.floatForm(model, set+"_eval.npz")
		if err != nil {
			return result{}, err
		}
		var answer struct {
			Layers []struct {
				Node string
				SQNR *float64
			}
		}
		if err := b.lathe(&answer, "eval", m, q, "--data", eval, "--metric", "sqnr", "--per-layer", "--samples", "64"); err != nil {
			return result{}, err
		}
		worst, node := math.Inf(1), ""
		for _, l := range answer.Layers {
			if l.SQNR != nil && *l.SQNR < worst {
				worst, node = *l.SQNR, l.Node
			}
		}
		return result{fmt.Sprintf("%.1f dB at %s, of %d layers", worst, node, len(answer.Layers)), worst >= least && len(answer.Layers) > 0}, nil
	}
}

// int16Elsewhere runs the file in stock ONNX Runtime, from its function bodies,
// and compares the logits with those of our kernels, in decibel.
func int16Elsewhere(model, set, output string, least float64) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		q, err := b.quantized(model, set)
		if err != nil {
			return result{}, err
		}
		return b.int16Elsewhere(q, set, output, least)
	}
}

func (b *workbench) int16Elsewhere(q, set, output string, least float64) (result, error) {
	eval, err := b.set(set + "_eval.npz")
	if err != nil {
		return result{}, err
	}
	theirs, ours, err := b.runBoth(q, eval, 16)
	if err != nil {
		return result{}, err
	}
	db, err := decibel(ours[output], theirs[output])
	return result{fmt.Sprintf("%.1f dB", db), db >= least}, err
}

// decibel is the ratio of a to a − b.
func decibel(a, b nd.Array) (float64, error) {
	if a.Len() != b.Len() || a.Len() == 0 {
		return 0, fmt.Errorf("shape %v against %v", a.Shape, b.Shape)
	}
	x, y := a.Float64s(), b.Float64s()
	var signal, noise float64
	for i := range x {
		signal += x[i] * x[i]
		noise += (x[i] - y[i]) * (x[i] - y[i])
	}
	return 10 * math.Log10(signal/noise), nil
}
