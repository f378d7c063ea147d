package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
	"github.com/onnx-lathe/lathe/bench/wire"
)

// score runs `lathe score` and returns what it prints of the modules.
func (b *workbench) score(model, set, ledger string, options ...string) ([]module, finished, error) {
	args := append([]string{"score", model, "--data", set, "-o", ledger, "--json"}, options...)
	os.Remove(ledger)
	f, err := b.exec(args...)
	if err != nil {
		return nil, f, err
	}
	if f.code != 0 {
		return nil, f, fmt.Errorf("lathe score: exit status %d: %s", f.code, firstLine(f.stderr))
	}
	var answer struct{ Modules []module }
	if err := json.Unmarshal([]byte(f.stdout), &answer); err != nil {
		return nil, f, fmt.Errorf("lathe score --json: %w", err)
	}
	return answer.Modules, f, nil
}

// A scoring is a public model's scores on a set, and the ledger they went into.
type scoring struct {
	model, set, ledger string
	modules            []module
}

// scored scores a public model once, with the defaults.
func (b *workbench) scored(model, set string) (scoring, error) {
	return remember(b, "scores of "+model, func() (r scoring, err error) {
		if r.model, r.set, err = b.files(model, set); err != nil {
			return r, err
		}
		r.ledger = b.file("ledger-" + strings.TrimSuffix(model, ".onnx") + ".json")
		r.modules, _, err = b.score(r.model, r.set, r.ledger)
		return r, err
	})
}

// files returns the paths of a public model and a set.
func (b *workbench) files(model, set string) (string, string, error) {
	m, err := b.model(model)
	if err != nil {
		return "", "", err
	}
	s, err := b.set(set)
	return m, s, err
}

// smallestScores checks which modules of KWT-1 matter least.
func smallestScores(model string, want ...string) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		r, err := b.scored(model, "kwt_train.npz")
		if err != nil {
			return result{}, err
		}
		modules := slices.Clone(r.modules)
		slices.SortStableFunc(modules, func(x, y module) int {
			switch {
			case x.Score < y.Score:
				return -1
			case x.Score > y.Score:
				return 1
			}
			return 0
		})
		var got []string
		for _, m := range modules[:min(len(want), len(modules))] {
			got = append(got, m.ID)
		}
		sorted := slices.Sorted(slices.Values(got))
		slices.Sort(want)
		return result{strings.Join(got, " "), slices.Equal(sorted, want)}, nil
	}
}

// A tap names the values of a module on the residual stream: its input X and
// its output Y.
type tap struct{ x, y string }

// normTaps finds the taps of a post-LN encoder whose norms are
// LayerNormalization nodes: module k ends in norm k, its Y, and starts at the
// output of the norm before. The first module starts at the addend of its own
// residual sum that others read too.
func normTaps(g *wire.Message) ([]tap, error) {
	readers, producer := map[string]int{}, map[string]*wire.Message{}
	var norms []*wire.Message
	for _, n := range g.Messages("node") {
		for _, in := range n.Texts("input") {
			readers[in]++
		}
		for _, out := range n.Texts("output") {
			producer[out] = n
		}
		if n.Text("op_type") == "LayerNormalization" {
			norms = append(norms, n)
		}
	}
	if len(norms) == 0 {
		return nil, fmt.Errorf("no LayerNormalization")
	}
	sum := producer[norms[0].Texts("input")[0]]
	if sum == nil || sum.Text("op_type") != "Add" {
		return nil, fmt.Errorf("no residual sum before the first norm")
	}
	var stream string
	for _, in := range sum.Texts("input") {
		if readers[in] > 1 {
			stream = in
		}
	}
	var taps []tap
	for _, n := range norms {
		taps = append(taps, tap{stream, n.Texts("output")[0]})
		stream = taps[len(taps)-1].y
	}
	return taps, nil
}

// sumTaps finds the taps of a decoder without norms on the stream: from the
// Gather that looks the first input's tokens up, every Add that reads the
// stream continues it.
func sumTaps(g *wire.Message) ([]tap, error) {
	tokens, stream := g.Messages("input")[0].Text("name"), ""
	var taps []tap
	for _, n := range g.Messages("node") {
		in, op := n.Texts("input"), n.Text("op_type")
		switch {
		case op == "Gather" && in[1] == tokens:
			stream = n.Texts("output")[0]
		case op == "Add" && slices.Contains(in, stream):
			taps = append(taps, tap{stream, n.Texts("output")[0]})
			stream = taps[len(taps)-1].y
		}
	}
	return taps, nil
}

// referenceScores computes S = 1 − mean cos(X, Y), the cosine per token over
// the last axis, in float64, of values that ONNX Runtime computed.
func (b *workbench) referenceScores(model, set string, find func(*wire.Message) ([]tap, error)) ([]float64, error) {
	m, err := wire.ReadModel(model)
	if err != nil {
		return nil, err
	}
	taps, err := find(m.Message("graph"))
	if err != nil {
		return nil, err
	}
	var shown []string
	for _, t := range taps {
		for _, v := range []string{t.x, t.y} {
			if !slices.Contains(shown, v) {
				shown = append(shown, v)
			}
		}
	}
	m.AddOutputs(shown...)
	tapped := b.file("tapped.onnx")
	if err := m.Write(tapped); err != nil {
		return nil, err
	}
	arrays, err := nd.ReadNPZ(set)
	if err != nil {
		return nil, err
	}
	s, err := ort.Open(tapped, ort.Options{Threads: 2})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	sum, tokens := make([]float64, len(taps)), make([]int, len(taps))
	err = s.Each(ort.Samples{Arrays: arrays, Batch: 16}, func(_ int, _, out map[string]nd.Array) error {
		for k, t := range taps {
			x, okX := out[t.x].Data.([]float32)
			y, okY := out[t.y].Data.([]float32)
			shape := out[t.x].Shape
			if !okX || !okY || len(x) != len(y) || len(shape) != 3 {
				return fmt.Errorf("module %d: X %v, Y %v", k, shape, out[t.y].Shape)
			}
			width := int(shape[2])
			for at := 0; at < len(x); at += width {
				sum[k] += cosine(x[at:at+width], y[at:at+width])
				tokens[k]++
			}
		}
		return nil
	})
	for k := range sum {
		sum[k] = 1 - sum[k]/float64(tokens[k])
	}
	return sum, err
}

func cosine(x, y []float32) float64 {
	var xy, xx, yy float64
	for i, a := range x {
		a, c := float64(a), float64(y[i])
		xy, xx, yy = xy+a*c, xx+a*a, yy+c*c
	}
	return xy / math.Sqrt(xx*yy)
}

// scoresAgree compares every score with the reference.
func scoresAgree(model, set string, find func(*wire.Message) ([]tap, error)) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		r, err := b.scored(model, set)
		if err != nil {
			return result{}, err
		}
		modules := r.modules
		want, err := b.referenceScores(r.model, r.set, find)
		if err != nil {
			return result{}, err
		}
		if len(modules) != len(want) {
			return result{fmt.Sprintf("%d modules, the reference has %d", len(modules), len(want)), false}, nil
		}
		worst, where := 0.0, "none"
		for k, m := range modules {
			if d := math.Abs(m.Score-want[k]) / math.Abs(want[k]); !(d <= worst) {
				worst, where = d, m.ID
			}
		}
		return result{fmt.Sprintf("%d scores, worst %.1e (%s)", len(want), worst, where), worst <= 1e-3}, nil
	}
}

// scoringCost compares the processor time of scoring with that of a plain run
// over the same data, both with one thread, taking turns; the median of three.
func scoringCost(b *workbench) (result, error) {
	m, s, err := b.files("kwt1_mfcc_opset13.onnx", "kwt_train.npz")
	if err != nil {
		return result{}, err
	}
	var ratios []float64
	for range 5 {
		_, scored, err := b.score(m, s, b.file("cost.json"), "--threads", "1")
		if err != nil {
			return result{}, err
		}
		plain, err := b.exec("run", m, "--data", s, "--threads", "1", "--json")
		if err != nil {
			return result{}, err
		}
		if plain.code != 0 {
			return result{}, fmt.Errorf("lathe run: %s", firstLine(plain.stderr))
		}
		ratios = append(ratios, scored.cpu.Seconds()/plain.cpu.Seconds())
	}
	slices.Sort(ratios)
	return result{fmt.Sprintf("%.2f (%.2f to %.2f)", ratios[2], ratios[0], ratios[4]), ratios[2] <= 1.3}, nil
}

// shardsMerge compares the scores of four merged shards with those of one run.
func shardsMerge(b *workbench) (result, error) {
	whole, err := b.scored("kwt1_mfcc_opset13.onnx", "kwt_train.npz")
	if err != nil {
		return result{}, err
	}
	merge := []string{"ledger", "merge"}
	for i := range 4 { // counted from 0
		path := b.file(fmt.Sprintf("shard-%d.json", i))
		if _, _, err := b.score(whole.model, whole.set, path, "--shard", fmt.Sprintf("%d/4", i)); err != nil {
			return result{}, err
		}
		merge = append(merge, path)
	}
	merged := b.file("merged.json")
	os.Remove(merged)
	if err := b.lathe(nil, append(merge, "-o", merged)...); err != nil {
		return result{}, err
	}
	text, err := os.ReadFile(merged)
	if err != nil {
		return result{}, err
	}
	var ledger struct{ Modules []module }
	if err := json.Unmarshal(text, &ledger); err != nil {
		return result{}, err
	}
	if len(ledger.Modules) != len(whole.modules) {
		return result{fmt.Sprintf("%d modules against %d", len(ledger.Modules), len(whole.modules)), false}, nil
	}
	worst := 0.0
	for k, m := range ledger.Modules {
		if d := math.Abs(m.Score - whole.modules[k].Score); !(d <= worst) {
			worst = d
		}
	}
	return result{fmt.Sprintf("largest difference %.1e", worst), worst <= 1e-12}, nil
}

// repeatsAreEqual scores again, with one thread and with two, and compares bytes.
func repeatsAreEqual(b *workbench) (result, error) {
	r, err := b.scored("kwt1_mfcc_opset13.onnx", "kwt_train.npz")
	if err != nil {
		return result{}, err
	}
	first, err := os.ReadFile(r.ledger)
	if err != nil {
		return result{}, err
	}
	for _, threads := range []string{"1", "2"} {
		path := b.file("repeat.json")
		if _, _, err := b.score(r.model, r.set, path, "--threads", threads); err != nil {
			return result{}, err
		}
		again, err := os.ReadFile(path)
		if err != nil {
			return result{}, err
		}
		if !bytes.Equal(first, again) {
			return result{fmt.Sprintf("other bytes with %s threads", threads), false}, nil
		}
	}
	return result{fmt.Sprintf("three times the same %d bytes", len(first)), true}, nil
}
