package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/quality"
	"github.com/onnx-lathe/lathe/bench/wire"
)

// A rewriting is what `lathe circulant` made of a model.
type rewriting struct {
	path             string
	Rewritten        []rewritten
	ParametersBefore int64 `json:"parameters_before"`
	ParametersAfter  int64 `json:"parameters_after"`
}

type rewritten struct {
	Node          string
	Block         int64
	RelativeError float64 `json:"relative_error"`
	ParamsBefore  int64   `json:"params_before"`
	ParamsAfter   int64   `json:"params_after"`
}

// circulant rewrites a public model once for a block size and a fit.
func (b *workbench) circulant(c circulantCase) (rewriting, error) {
	return remember(b, fmt.Sprint("circulant ", c), func() (rewriting, error) {
		m, train, err := b.files(c.model, c.set+"_train.npz")
		if err != nil {
			return rewriting{}, err
		}
		r := rewriting{path: b.file(fmt.Sprintf("%s-b%d-%s.onnx", strings.TrimSuffix(c.model, ".onnx"), c.block, c.fit))}
		os.Remove(r.path)
		args := []string{"circulant", m, "--block", fmt.Sprint(c.block), "--fit", c.fit, "-o", r.path}
		if !c.withoutData {
			args = append(args, "--data", train)
		}
		if c.everyLayer {
			args = append(args, "--include-head", "--include-tied")
		}
		return r, b.lathe(&r, args...)
	})
}

// A circulantCase is one way to rewrite a public model. Set is the name of its
// sets before "_train.npz" and "_eval.npz".
type circulantCase struct {
	model, set  string
	block       int
	fit         string
	everyLayer  bool // the head and tied weights too
	withoutData bool // the bare projection; with data, biases are refitted
}

// runsEverywhere checks that the rewritten file runs in stock ONNX Runtime,
// from its function bodies, and that our kernels agree on real inputs.
func runsEverywhere(c circulantCase) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		r, err := b.circulant(c)
		if err != nil {
			return result{}, err
		}
		eval, err := b.set(c.set + "_eval.npz")
		if err != nil {
			return result{}, err
		}
		theirs, ours, err := b.runBoth(r.path, eval, 16)
		if err != nil {
			return result{}, err
		}
		e, err := quality.RelativeError(ours["logits"], theirs["logits"])
		return result{fmt.Sprintf("%d layers rewritten, relative error %.1e", len(r.Rewritten), e), len(r.Rewritten) > 0 && e <= 1e-4}, err
	}
}

// parametersShrink checks the numbers of parameters that the tool gives: they
// are those in the file, and each layer's is the one of its block size.
func parametersShrink(c circulantCase) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		r, err := b.circulant(c)
		if err != nil {
			return result{}, err
		}
		m, err := wire.ReadModel(r.path)
		if err != nil {
			return result{}, err
		}
		g := m.Message("graph")
		dims := map[string][]int64{}
		for _, w := range g.Messages("initializer") {
			dims[w.Text("name")] = w.Ints("dims")
		}
		weights := map[string][]int64{} // shared ones once
		for _, n := range g.Messages("node") {
			if n.Text("domain") == "lathe" {
				name := n.Texts("input")[1]
				weights[name] = dims[name]
			}
		}
		inFile := int64(0)
		for name, d := range weights {
			if len(d) != 3 || d[2] != int64(c.block) {
				return result{fmt.Sprintf("weight %q has dims %v", name, d), false}, nil
			}
			inFile += d[0] * d[1] * d[2]
		}
		before, after := int64(0), int64(0)
		for _, l := range r.Rewritten {
			before, after = before+l.ParamsBefore, after+l.ParamsAfter
		}
		measured := fmt.Sprintf("%d to %d, layers %d to %d, weights in the file %d", r.ParametersBefore, r.ParametersAfter, before, after, inFile)
		// A layer's own count may hold its bias, and padding may fill a last
		// block: both are a few per cent of these layers.
		ratio := float64(before) / float64(inFile)
		pass := r.ParametersBefore-r.ParametersAfter == before-after &&
			ratio > 0.9*float64(c.block) && ratio < 1.1*float64(c.block)
		return result{measured, pass}, nil
	}
}

// lsqBeatsFrobenius compares the two fits on data that neither has seen, in
// ONNX Runtime: the error that is left at every rewritten layer's output,
// against the original's output there, and the KL divergence at the end.
func lsqBeatsFrobenius(c circulantCase) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		original, eval, err := b.files(c.model, c.set+"_eval.npz")
		if err != nil {
			return result{}, err
		}
		c.fit = "lsq"
		lsq, err := b.circulant(c)
		if err != nil {
			return result{}, err
		}
		c.fit = "frobenius"
		frobenius, err := b.circulant(c)
		if err != nil {
			return result{}, err
		}
		layers, err := circulantOutputs(lsq.path)
		if err != nil {
			return result{}, err
		}
		if len(layers) == 0 || len(layers) != len(lsq.Rewritten) {
			return result{fmt.Sprintf("%d layers in the file, %d in the report", len(layers), len(lsq.Rewritten)), false}, nil
		}
		var outs [3]map[string]nd.Array
		for i, path := range []string{original, lsq.path, frobenius.path} {
			if outs[i], err = b.runTapped(path, eval, 64, layers); err != nil {
				return result{}, err
			}
		}
		var worse []string
		for _, l := range layers {
			x, errX := rmsError(outs[1][l], outs[0][l])
			y, errY := rmsError(outs[2][l], outs[0][l])
			if err := errors.Join(errX, errY); err != nil {
				return result{}, fmt.Errorf("layer output %q: %w", l, err)
			}
			if !(x < y) {
				worse = append(worse, fmt.Sprintf("%s (%.3f against %.3f)", l, x, y))
			}
		}
		klLSQ, errX := quality.MeanKL(outs[0]["logits"], outs[1]["logits"])
		klFrobenius, errY := quality.MeanKL(outs[0]["logits"], outs[2]["logits"])
		measured := fmt.Sprintf("KL %.3f against %.3f, smaller error at %d of %d layers", klLSQ, klFrobenius, len(layers)-len(worse), len(layers))
		if len(worse) > 0 {
			measured += ", not at " + strings.Join(worse, " ")
		}
		return result{measured, klLSQ < klFrobenius && len(worse) == 0}, errors.Join(errX, errY)
	}
}

// circulantOutputs returns what the rewritten layers of a model compute.
func circulantOutputs(path string) ([]string, error) {
	m, err := wire.ReadModel(path)
	if err != nil {
		return nil, err
	}
	var outputs []string
	for _, n := range m.Message("graph").Messages("node") {
		if n.Text("domain") == "lathe" {
			outputs = append(outputs, n.Texts("output")[0])
		}
	}
	return outputs, nil
}

// runTapped runs a model in ONNX Runtime and returns some of its values beside
// its outputs.
func (b *workbench) runTapped(path, set string, samples int, values []string) (map[string]nd.Array, error) {
	m, err := wire.ReadModel(path)
	if err != nil {
		return nil, err
	}
	var outputs []string
	for _, o := range m.Message("graph").Messages("output") {
		outputs = append(outputs, o.Text("name"))
	}
	for _, v := range values {
		if !slices.Contains(outputs, v) {
			m.AddOutputs(v)
		}
	}
	tapped := b.file("tapped.onnx")
	if err := m.Write(tapped); err != nil {
		return nil, err
	}
	return b.runORT(tapped, set, samples)
}

// rmsError is ‖got − want‖ / ‖want‖ over all elements.
func rmsError(got, want nd.Array) (float64, error) {
	if got.Len() != want.Len() || got.Len() == 0 {
		return 0, fmt.Errorf("shape %v against %v", got.Shape, want.Shape)
	}
	b := want.Float64s()
	var diff, size float64
	for i, a := range got.Float64s() {
		diff += (a - b[i]) * (a - b[i])
		size += b[i] * b[i]
	}
	return math.Sqrt(diff / size), nil
}

// accuracyAfterRewrite measures KWT-1 with every linear layer rewritten.
func accuracyAfterRewrite(fit string, least, most float64) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		r, err := b.circulant(circulantCase{model: "kwt1_mfcc_opset13.onnx", set: "kwt", block: 2, fit: fit, everyLayer: true, withoutData: fit == "frobenius"})
		if err != nil {
			return result{}, err
		}
		eval, err := b.set("kwt_eval.npz")
		if err != nil {
			return result{}, err
		}
		got, err := b.evaluate(r.path, eval, "accuracy")
		return result{fmt.Sprintf("%.4f, %d layers", got, len(r.Rewritten)), got >= least && got <= most}, err
	}
}

// bodyAgrees has `lathe verify` compare kernels with function bodies, value by
// value.
func bodyAgrees(c circulantCase) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		r, err := b.circulant(c)
		if err != nil {
			return result{}, err
		}
		eval, err := b.set(c.set + "_eval.npz")
		if err != nil {
			return result{}, err
		}
		var answer struct {
			Values int
			Passed bool
			Worst  struct{ Relative float64 }
		}
		err = b.lathe(&answer, "verify", r.path, "--data", eval)
		return result{fmt.Sprintf("%d values, worst %.1e", answer.Values, answer.Worst.Relative), answer.Passed && answer.Values > 0}, err
	}
}
