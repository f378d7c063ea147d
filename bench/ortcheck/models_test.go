// Package ortcheck holds, as tests, everything that this project claims about
// stock ONNX Runtime. They need ONNX Runtime's library (see package ort) and,
// most of them, the public models and sets in the folder that the variable
// LATHE_DATA names; without these they skip and say so.
package ortcheck

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
)

// A case is a model under LATHE_DATA/models and what it is fed: the first
// samples of a set, or random arrays.
type feedCase struct {
	model   string
	set     string   // file under LATHE_DATA/sets, "" for random
	samples int      // of the set
	random  []random // the first whose pattern fits an input's name counts
}

// random describes arrays for the inputs whose names fit a path.Match
// pattern: integers uniform in [0, below), or normal floats.
type random struct {
	pattern string
	shape   []int64
	below   int64
}

// cases has every public model; a model is checked in all the ways there are
// by adding a line here.
var cases = []feedCase{
	{model: "cnn_mnist_pytorch.onnx", set: "mnist_eval.npz", samples: 32},
	{model: "kwt1_mfcc_opset13.onnx", set: "kwt_eval.npz", samples: 16},
	{model: "kwt1_mfcc_opset17.onnx", set: "kwt_eval.npz", samples: 16},
	{model: "stories260K_opset17.onnx", set: "stories_eval.npz", samples: 4},
	{model: "stories260K_kv_opset17.onnx", set: "stories_eval.npz", samples: 4},
	{model: "stories260K_kv_opset17.onnx", random: []random{
		{"input_ids", []int64{2, 3}, 512}, {"past_*", []int64{2, 4, 5, 8}, 0}}},
	{model: "graphs/bert24_keras2onnx.onnx", random: []random{
		{"attention_mask", []int64{3, 7}, 2}, {"token_type_ids", []int64{3, 7}, 2}, {"input_ids", []int64{3, 7}, 20}}},
	{model: "graphs/bert5_pytorch_opset12.onnx", random: []random{
		{"input_mask", []int64{3, 7}, 2}, {"token_type_ids", []int64{3, 7}, 2}, {"input_ids", []int64{3, 7}, 99}}},
	{model: "graphs/bert5_ort_fused.onnx", random: []random{
		{"input_mask", []int64{3, 7}, 2}, {"token_type_ids", []int64{3, 7}, 2}, {"input_ids", []int64{3, 7}, 99}}},
	{model: "graphs/gpt2_12layer_past.onnx", random: []random{
		{"input_ids", []int64{2, 1}, 20}, {"past_*", []int64{2, 2, 2, 5, 2}, 0}}},
	{model: "graphs/gpt2_12layer_past.onnx", random: []random{
		{"input_ids", []int64{2, 1}, 20}, {"past_*", []int64{2, 2, 2, 0, 2}, 0}}},
}

// tolerance is between two float32 computations of one network: u = 6e-8 is
// the unit roundoff, a product of 256 terms in another order differs by
// √256·u = 1e-6 of its largest value, and a hundred of them one after another
// add up as a random walk.
const tolerance = 1e-5

func (c feedCase) String() string {
	if c.set != "" {
		return c.model + " on " + c.set
	}
	return fmt.Sprintf("%s on random %v", c.model, c.random[len(c.random)-1].shape)
}

// feeds returns the inputs of one run of the session, or of more runs where
// the model takes one sample at a time.
func (c feedCase) feeds(t *testing.T, s *ort.Session) []map[string]nd.Array {
	t.Helper()
	if c.set != "" {
		arrays, err := nd.ReadNPZ(dataFile(t, "sets/"+c.set))
		if err != nil {
			t.Fatal(err)
		}
		var all []map[string]nd.Array
		err = s.Each(ort.Samples{Arrays: arrays, Limit: c.samples, Batch: c.samples}, func(_ int, in, _ map[string]nd.Array) error {
			all = append(all, in)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	in := map[string]nd.Array{}
	for _, info := range s.Inputs {
		i := slices.IndexFunc(c.random, func(r random) bool {
			ok, err := path.Match(r.pattern, info.Name)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		})
		if i < 0 {
			t.Fatalf("%s: no line describes input %q", c.model, info.Name)
		}
		seed := fnv.New64a()
		seed.Write([]byte(info.Name))
		in[info.Name] = c.random[i].array(t, info, rand.New(rand.NewPCG(1, seed.Sum64())))
	}
	return []map[string]nd.Array{in}
}

func (r random) array(t *testing.T, info ort.Info, rng *rand.Rand) nd.Array {
	n := nd.Size(r.shape)
	switch info.Type.Kind().String() {
	case "float32":
		data := make([]float32, n)
		for i := range data {
			data[i] = float32(rng.NormFloat64())
		}
		return nd.Of(data, r.shape...)
	case "int32":
		data := make([]int32, n)
		for i := range data {
			data[i] = rng.Int32N(int32(r.below))
		}
		return nd.Of(data, r.shape...)
	case "int64":
		data := make([]int64, n)
		for i := range data {
			data[i] = rng.Int64N(r.below)
		}
		return nd.Of(data, r.shape...)
	}
	t.Fatalf("input %q: no random values of type %v", info.Name, info.Type)
	return nd.Array{}
}

// dataFile returns a path under LATHE_DATA, or skips the test without it.
func dataFile(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("LATHE_DATA")
	if dir == "" {
		t.Skip("LATHE_DATA names no folder with the public models and sets")
	}
	return filepath.Join(dir, filepath.FromSlash(name))
}

// open loads a model into ONNX Runtime, or skips the test where the library
// is not installed. A library that LATHE_ORT promises must be there.
func open(t *testing.T, model string, o ort.Options) *ort.Session {
	t.Helper()
	if _, err := ort.Library(); err != nil && os.Getenv("LATHE_ORT") == "" {
		t.Skip(err)
	}
	s, err := ort.Open(model, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
