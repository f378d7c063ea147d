package modules_test

import (
	"math"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/testmodels"
)

// TestCostOfNodes checks the work of single operators against their
// definitions.
func TestCostOfNodes(t *testing.T) {
	for _, c := range []struct {
		signature, nodes string
		op               string
		want             int64
	}{
		{"(float[B,T,4] x) => (float y)", "y = MatMul (x, U)", "MatMul", 2 * 3 * 5 * 4 * 8},
		{"(float[T,4] x) => (float y)", "y = Gemm (x, U, b)\nb = Constant <value_floats = [1.0]> ()", "Gemm", 2*3*4*8 + 3*8},
		{"(float[4,T] x) => (float y)", "y = Gemm <transA = 1> (x, U)", "Gemm", 2 * 5 * 4 * 8},
		{"(float[B,4,T] x) => (float y)", "y = Conv <pads = [1, 1]> (x, K)", "Conv", 2 * 3 * 4 * 5 * 4 * 3},
		// 3 samples of 5 pixels, a block of 4 in and one out, 3 taps: 2.5·4·2 for each transform, 4·4 for each product.
		{"(float[B,4,T] x) => (float y)", "w = Constant <value = float[1,1,4,3] {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}> ()\nb = Constant <value_floats = [1.0, 1.0, 1.0, 1.0]> ()\ny = lathe.BlockCirculantConv <out_channels = 4, pads = [1, 1]> (x, w, b)",
			"lathe.BlockCirculantConv", 3*5*(2*20+3*16) + 3*5*4},
		{"(float[B,4,T] x) => (float y)", "y = ConvTranspose (x, K)", "ConvTranspose", 2 * 3 * 4 * 5 * 4 * 3},
		{"(float[B,T,4] x) => (float y)", "y = Einsum <equation = \"btd,de->bte\"> (x, U)", "Einsum", 2 * 3 * 5 * 4 * 8},
		{"(float[B,T,4] x) => (float y)", "y = Add (x, G)", "Add", 3 * 5 * 4},
		{"(float[B,T,4] x) => (float y)", "y = Sum (x, x, G)", "Sum", 2 * 3 * 5 * 4},
		{"(float[B,T,4] x) => (float y)", "y = Tanh (x)", "Tanh", 3 * 5 * 4},
		{"(float[B,T,4] x) => (float y)", "y = Softmax (x)", "Softmax", 5 * 3 * 5 * 4},
		{"(float[B,T,4] x) => (float y)", "y = ReduceMean <axes = [-1]> (x)", "ReduceMean", 3 * 5 * 4},
		{"(float[B,T,4] x) => (float y)", "y = LayerNormalization (x, G)", "LayerNormalization", 7 * 3 * 5 * 4},
		{"(float[B,T,4] x) => (float y)", "y = Transpose (x)", "Transpose", 0},
		{"(float[B,T,4] x) => (float y)", "y = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x)", "com.microsoft.MultiHeadAttention", 3 * (4*5*5*4 + 5*5*2*5)},
		// The weights are scaled once, when the model is compiled.
		{"(float[B,T,4] x) => (float y)", "w = Mul (U, C)\ny = MatMul (x, w)", "Mul", 0},
	} {
		m := parse(t, 17, c.signature, c.nodes)
		cost, err := modules.CostOf(m, modules.Sizes{Batch: 3, Tokens: 5, Dims: map[string]int64{}})
		if err != nil {
			t.Errorf("%s: %v", c.nodes, err)
			continue
		}
		for _, o := range cost.Operators {
			if o.Op == c.op && (o.FLOPs != c.want || o.Unknown > 0) {
				t.Errorf("%s: %d FLOPs (%d nodes unknown), want %d", c.nodes, o.FLOPs, o.Unknown, c.want)
			}
		}
	}
}

// TestCostOfModels counts the matrix products of whole models.
func TestCostOfModels(t *testing.T) {
	// Width 32, 2 heads, 64 hidden, 3 layers, 40 tokens in the vocabulary.
	const w, h, l, batch, T = 32, 64, 3, 2, 10
	layer := int64(2*(4*w*w+2*w*h)*T + 4*T*T*w)
	for _, c := range []struct {
		name string
		m    *graph.Model
		ops  string
		want int64
	}{
		{"bert", testmodels.BERT(testmodels.Size{Opset: 17, Seed: 1}, testmodels.BERTOptions{}), "MatMul", batch * l * layer},
		{"a function for every layer", testmodels.BERT(testmodels.Size{Opset: 17, Seed: 1}, testmodels.BERTOptions{Functions: true}), "", 0},
		{"gpt2", testmodels.GPT2(testmodels.Size{Opset: 17, Seed: 1}, testmodels.GPT2Options{}), "MatMul Gemm", batch * (l*layer + 2*T*w*40 + l*T*(3*w+w+h+w))},
		{"gpt2 with a cache", testmodels.GPT2(testmodels.Size{Opset: 17, Seed: 1}, testmodels.GPT2Options{Cache: true}), "MatMul Gemm", batch * (l*layer + 2*T*w*40 + l*T*(3*w+w+h+w))},
		{"gpt2 with both forms in an If", testmodels.GPT2(testmodels.Size{Opset: 17, Seed: 1}, testmodels.GPT2Options{Merged: true}), "MatMul Gemm", batch * (l*layer + 2*T*w*40 + l*T*(3*w+w+h+w))},
	} {
		cost, err := modules.CostOf(c.m, modules.Sizes{Batch: batch, Tokens: T})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var got, all int64
		for _, o := range cost.Operators {
			if strings.Contains(" "+c.ops+" ", " "+o.Op+" ") {
				got += o.FLOPs
			}
			if o.Unknown > 0 {
				t.Errorf("%s: %s is not known", c.name, o.Op)
			}
			all += o.FLOPs
		}
		if got != c.want {
			t.Errorf("%s: %d FLOPs in %s, want %d", c.name, got, c.ops, c.want)
		}
		if all != cost.FLOPs {
			t.Errorf("%s: operators sum up to %d FLOPs of %d", c.name, all, cost.FLOPs)
		}
		list, err := modules.Find(c.m)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range list {
			if x.Droppable && cost.Module(x) < x.FLOPs*batch*T {
				t.Errorf("%s: %s takes %d FLOPs, its linear layers alone %d", c.name, x.ID, cost.Module(x), x.FLOPs*batch*T)
			}
		}
	}
}

func TestCostSaturates(t *testing.T) {
	m := parse(t, 17, "(float[B,T,4] x) => (float y)", "y = MatMul (x, U)")
	cost, err := modules.CostOf(m, modules.Sizes{Batch: math.MaxInt64 / 3, Tokens: math.MaxInt64 / 5})
	if err != nil || cost.FLOPs != math.MaxInt64 {
		t.Errorf("%+v, %v, want the largest number", cost, err)
	}
	if _, err := modules.CostOf(m, modules.Sizes{Dims: map[string]int64{"B": -1}}); err == nil {
		t.Error("a negative dim was taken")
	}
}
