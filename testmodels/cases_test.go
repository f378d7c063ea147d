package testmodels

import (
	"testing"

	"github.com/onnx-lathe/lathe/graph"
)

// Every form must be a valid model, and the same one every time.
func TestCasesAreValid(t *testing.T) {
	for _, c := range Cases() {
		m := c.Model()
		if err := graph.Check(m); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		for _, n := range graph.Notes(m) {
			t.Errorf("%s: %s", c.Name, n)
		}
		if err := graph.Infer(m); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		m.Graphs(func(g *graph.Graph) bool {
			for _, n := range g.Nodes() {
				for _, v := range n.Outputs() {
					if v != nil && g.Function() == nil && v.Type().Rank() < 0 {
						t.Errorf("%s: %v: the rank of %s is not known", c.Name, n, v.Name)
					}
				}
			}
			return true
		})
		text := m.Text()
		if c.Model().Text() != text {
			t.Errorf("%s: built twice, two models", c.Name)
		}
		given := map[string]bool{}
		for _, a := range c.Inputs {
			given[a.Name] = true
		}
		for _, v := range m.Graph.Inputs() {
			if !given[v.Name] {
				t.Errorf("%s: no input for %s", c.Name, v.Name)
			}
			delete(given, v.Name)
		}
		for name := range given {
			t.Errorf("%s: %s is no input of the model", c.Name, name)
		}
	}
}

// Sizes other than the defaults must fit together too.
func TestSizes(t *testing.T) {
	s := Size{Layers: 2, Width: 48, Heads: 6, KVHeads: 2, Hidden: 80, Vocab: 17, Length: 12, Classes: 4, Seed: 9}
	cnn := CNN{Image: 20, Channels: 2, Width: 6, Blocks: 3, Classes: 7, Seed: 9}
	for opset := int64(13); opset <= 23; opset++ {
		s.Opset, cnn.Opset = opset, opset
		for name, m := range map[string]*graph.Model{
			"bert":        BERT(s, BERTOptions{}),
			"fused bert":  FusedBERT(s, FusedOptions{MultiHead: true}),
			"gpt2":        GPT2(s, GPT2Options{Cache: true, ErfGELU: true}),
			"llama":       LLaMA(s, LLaMAOptions{Cache: true, Bias: true, Sandwich: true}),
			"fused llama": FusedLLaMA(s),
			"neox":        NeoX(s, NeoXOptions{SharedNorm: true}),
			"t5":          T5(s),
			"vit":         ViT(s, ViTOptions{Image: 12, Patch: 3, Channels: 1, LayerScale: true}),
			"lenet":       LeNet(cnn),
			"resnet":      ResNet(cnn),
		} {
			if err := graph.Check(m); err != nil {
				t.Errorf("%s, opset %d: %v", name, opset, err)
			}
			if err := graph.Infer(m); err != nil {
				t.Errorf("%s, opset %d: %v", name, opset, err)
			}
		}
	}
}
