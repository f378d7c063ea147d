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

// quantized puts a public model once into 16-bit fixed point, with ranges from
// its training set.
func (b *workbench) quantized(model, set string) (string, error) {
	m, err := b.public("models", model)
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
		m, eval, err := b.files(model, set+"_eval.npz")
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
		m, eval, err := b.files(model, set+"_eval.npz")
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
// between its input and its logits has to compute integers, and the accuracy has
// to stay.
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
		m, eval, err := b.files(model, set+"_eval.npz")
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
