package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
	"github.com/onnx-lathe/lathe/bench/quality"
	"github.com/onnx-lathe/lathe/bench/wire"
)

const cacheModel = "stories260K_kv_opset17.onnx"

// dropsCache drops one attention from the decoder with a cache: the least
// important one, or that of a given layer. Exactly its cache goes, the file loads in ONNX Runtime,
// and a prompt continued with the cache gives what it gives without.
func dropsCache(layer string) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		eval, err := b.set("stories_eval.npz")
		if err != nil {
			return result{}, err
		}
		r, err := b.scored(cacheModel, "stories_train.npz")
		if err != nil {
			return result{}, err
		}
		m, ledger := r.model, r.ledger
		which := []string{"--ledger", ledger, "--mode", "attention", "--count", "1"}
		if layer != "" {
			which = []string{"--modules", "A" + layer}
		}
		out := b.file("cache-dropped.onnx")
		os.Remove(out)
		var answer struct{ Dropped []string }
		if err := b.lathe(&answer, append([]string{"drop", m, "-o", out}, which...)...); err != nil {
			return result{}, err
		}
		if len(answer.Dropped) != 1 || layer != "" && answer.Dropped[0] != "A"+layer {
			return result{fmt.Sprintf("dropped %v", answer.Dropped), false}, nil
		}
		n := strings.TrimPrefix(answer.Dropped[0], "A")
		gone, err := portsGone(m, out)
		if err != nil {
			return result{}, err
		}
		want := []string{"past_key_values." + n + ".key", "past_key_values." + n + ".value", "present." + n + ".key", "present." + n + ".value"}
		if !slices.Equal(gone, want) {
			return result{fmt.Sprintf("without %s these are gone: %v", answer.Dropped[0], gone), false}, nil
		}
		theirs, err := continuesInORT(out, eval)
		if err != nil {
			return result{}, err
		}
		ours, err := b.continues(out, eval)
		return result{
			fmt.Sprintf("%s and its four ports gone; continuing differs by %.1e, in ONNX Runtime by %.1e", answer.Dropped[0], ours, theirs),
			max(ours, theirs) <= 1e-4,
		}, err
	}
}

// portsGone returns the inputs and outputs that a has and b has not; none may
// be new in b.
func portsGone(a, b string) ([]string, error) {
	var ports [2][]string
	for i, path := range []string{a, b} {
		m, err := wire.ReadModel(path)
		if err != nil {
			return nil, err
		}
		g := m.Message("graph")
		for _, v := range append(g.Messages("input"), g.Messages("output")...) {
			ports[i] = append(ports[i], v.Text("name"))
		}
	}
	var gone []string
	for _, name := range ports[0] {
		if !slices.Contains(ports[1], name) {
			gone = append(gone, name)
		}
	}
	if len(ports[1]) != len(ports[0])-len(gone) {
		return nil, fmt.Errorf("there are new inputs or outputs: %v", ports[1])
	}
	slices.Sort(gone)
	return gone, nil
}

// continuesInORT does what continues does, in ONNX Runtime.
func continuesInORT(model, set string) (float64, error) {
	s, err := ort.Open(model, ort.Options{Threads: 2})
	if err != nil {
		return 0, err
	}
	defer s.Close()
	return continuation(set, func(arrays map[string]nd.Array) (out map[string]nd.Array, err error) {
		err = s.Each(ort.Samples{Arrays: arrays}, func(_ int, _, o map[string]nd.Array) error {
			out = o
			return nil
		})
		return out, err
	})
}

// continues runs a prompt at once, and in parts, each part with the cache that
// the part before left, and returns the relative error between the logits.
func (b *workbench) continues(model, set string) (float64, error) {
	return continuation(set, func(arrays map[string]nd.Array) (map[string]nd.Array, error) {
		return b.runLathe(model, arrays)
	})
}

func continuation(set string, run func(map[string]nd.Array) (map[string]nd.Array, error)) (float64, error) {
	arrays, err := nd.ReadNPZ(set)
	if err != nil {
		return 0, err
	}
	ids, ok := arrays["input_ids"].Data.([]int64)
	if !ok {
		return 0, fmt.Errorf("%s has no int64 input_ids", set)
	}
	const tokens = 24
	part := func(from, to int) map[string]nd.Array {
		return map[string]nd.Array{"input_ids": nd.Of(ids[from:to], 1, int64(to-from))}
	}
	whole, err := run(part(0, tokens))
	if err != nil {
		return 0, err
	}
	want, ok := whole["logits"].Data.([]float32)
	if !ok {
		return 0, fmt.Errorf("the model gives no logits")
	}
	vocabulary := len(want) / tokens
	worst, cache := 0.0, map[string]nd.Array{}
	for _, p := range [][2]int{{0, 16}, {16, 17}, {17, tokens}} {
		feeds := part(p[0], p[1])
		for name, a := range cache {
			feeds[name] = a
		}
		out, err := run(feeds)
		if err != nil {
			return 0, err
		}
		clear(cache)
		for name, a := range out {
			if rest, ok := strings.CutPrefix(name, "present."); ok {
				cache["past_key_values."+rest] = a
			}
		}
		rows := nd.Of(want[p[0]*vocabulary:p[1]*vocabulary], 1, int64(p[1]-p[0]), int64(vocabulary))
		e, err := quality.RelativeError(out["logits"], rows)
		if err != nil {
			return 0, err
		}
		worst = max(worst, e)
	}
	if len(cache) == 0 {
		return 0, fmt.Errorf("the model gives no cache")
	}
	return worst, nil
}
