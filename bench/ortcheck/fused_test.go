package ortcheck

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/testmodels"
)

// A drop from a graph that ONNX Runtime has fused computes what the same drop
// from the plain graph does: for a public model and both of its files, and for
// the builders, with every way to treat the norm and with mean updates.
func TestFusedModelsDropLikePlainOnes(t *testing.T) {
	type pair struct {
		name         string
		plain, fused func() *graph.Model
		inputs       map[string]nd.Array
		width        int
	}
	cases := map[string]testmodels.Case{}
	for _, c := range testmodels.Cases() {
		cases[c.Name] = c
	}
	var pairs []pair
	for _, n := range [][2]string{{"bert-17", "bert-17-fused"}, {"bert-17", "bert-17-multihead"}, {"llama-17-wide", "llama-17-fused-start"}} {
		a, b := cases[n[0]], cases[n[1]]
		width := 32
		if n[0] == "llama-17-wide" {
			width = 64
		}
		pairs = append(pairs, pair{n[1], func() *graph.Model { return a.Model() }, func() *graph.Model { return b.Model() }, inputs(t, a), width})
	}
	if dir := os.Getenv("LATHE_DATA"); dir != "" {
		load := func(file string) func() *graph.Model {
			return func() *graph.Model {
				m, err := graph.Load(filepath.Join(dir, "models/graphs", file))
				if err != nil {
					t.Fatal(err)
				}
				return m
			}
		}
		ids, ones, zeros := make([]int64, 10), make([]int64, 10), make([]int64, 10)
		for i := range ids {
			ids[i], ones[i] = int64(3+7*i), 1
		}
		pairs = append(pairs, pair{"bert5", load("bert5_pytorch_opset12.onnx"), load("bert5_ort_fused.onnx"), map[string]nd.Array{
			"input_ids": nd.Of(ids, 2, 5), "input_mask": nd.Of(ones, 2, 5), "token_type_ids": nd.Of(zeros, 2, 5)}, 32})
	} else {
		t.Log("LATHE_DATA is not set: no public models")
	}
	for _, p := range pairs {
		list, err := modules.Find(p.plain())
		if err != nil {
			t.Fatal(err)
		}
		means := func(id string) ([]float64, []float64, bool) {
			v, w := make([]float64, p.width), make([]float64, p.width)
			for i := range v {
				v[i], w[i] = float64(i%5)/8-0.2, float64((i+int(id[1]))%7)/8-0.3
			}
			return v, w, true
		}
		for k, x := range list {
			for i, o := range []passes.DropOptions{{}, {Norm: passes.NormKept},
				{Norm: passes.NormGone, Recover: passes.RecoverMean, Means: means}, {Norm: passes.NormKept, Recover: passes.RecoverMean, Means: means}} {
				gone := []string{x.ID}
				if i == 0 && k+1 < len(list) {
					gone = append(gone, list[k+1].ID) // two that follow each other
				}
				t.Run(fmt.Sprint(p.name, gone, o.Norm, o.Recover), func(t *testing.T) {
					var out [2]map[string]nd.Array
					for side, model := range []func() *graph.Model{p.fused, p.plain} {
						m := model()
						if err := passes.Run(context.Background(), m, &passes.Journal{}, passes.DropModules(gone, o), passes.EliminateDeadCode()); err != nil {
							t.Fatal(err)
						}
						_, out[side] = runTheirs(t, save(t, m), p.inputs)
					}
					compare(t, toTensors(out[0]), out[1])
				})
			}
		}
	}
}
