package main

import (
	"fmt"
	"os"
	"strings"

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
		args := []string{"circulant", m, "--data", train, "--block", fmt.Sprint(c.block), "--fit", c.fit, "-o", r.path}
		if c.everyLayer {
			args = append(args, "--include-head", "--include-tied")
		}
		return r, b.lathe(&r, args...)
	})
}

// A circulantCase is one way to rewrite a public model. Set is the name of its
// sets before "_train.npz" and "_eval.npz".
type circulantCase struct {
	model, set string
	block      int
	fit        string
	everyLayer bool // the head and tied weights too
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

// lsqBeatsFrobenius compares the two fits: the output error of every layer, and
// the KL divergence from the original on data that neither has seen, which is
// computed from ONNX Runtime's outputs.
func lsqBeatsFrobenius(c circulantCase) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		original, eval, err := b.files(c.model, c.set+"_eval.npz")
		if err != nil {
			return result{}, err
		}
		const samples = 64
		want, err := b.runORT(original, eval, samples)
		if err != nil {
			return result{}, err
		}
		var fits [2]rewriting
		var kl [2]float64
		for i, fit := range []string{"lsq", "frobenius"} {
			c.fit = fit
			if fits[i], err = b.circulant(c); err != nil {
				return result{}, err
			}
			got, err := b.runORT(fits[i].path, eval, samples)
			if err != nil {
				return result{}, err
			}
			if kl[i], err = quality.MeanKL(want["logits"], got["logits"]); err != nil {
				return result{}, err
			}
		}
		worse := []string{}
		for i, l := range fits[0].Rewritten {
			if i >= len(fits[1].Rewritten) || fits[1].Rewritten[i].Node != l.Node {
				return result{"the two fits rewrote different layers", false}, nil
			}
			if !(l.RelativeError < fits[1].Rewritten[i].RelativeError) {
				worse = append(worse, l.Node)
			}
		}
		measured := fmt.Sprintf("KL %.3f against %.3f, smaller error on %d of %d layers", kl[0], kl[1], len(fits[0].Rewritten)-len(worse), len(fits[0].Rewritten))
		if len(worse) > 0 {
			measured += ", not on " + strings.Join(worse, " ")
		}
		return result{measured, kl[0] < kl[1] && len(worse) == 0 && len(fits[0].Rewritten) > 0}, nil
	}
}

// accuracyAfterRewrite measures KWT-1 with every linear layer rewritten.
func accuracyAfterRewrite(fit string, least, most float64) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		r, err := b.circulant(circulantCase{"kwt1_mfcc_opset13.onnx", "kwt", 2, fit, true})
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

// bodyAgrees has `lathe verify` compare kernels with function bodies.
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
		f, err := b.exec("verify", r.path, r.path, "--bodies", "--data", eval, "--limit", "16", "--json")
		return result{fmt.Sprintf("exit status %d %s", f.code, firstLine(f.stderr)), f.code == 0}, err
	}
}
