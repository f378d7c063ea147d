package modules_test

import (
	"fmt"
	"log"

	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/testmodels"
)

// What is on the residual stream of a model?
func Example() {
	m := testmodels.LLaMA(testmodels.Size{Layers: 2}, testmodels.LLaMAOptions{Cache: true})
	list, err := modules.Find(m)
	if err != nil {
		log.Fatal(err)
	}
	for _, x := range list {
		fmt.Printf("%s %-9s %d parameters, %d nodes, droppable %v\n", x.ID, x.Kind, x.Params, len(x.Body), x.Droppable)
		for _, c := range x.Caches {
			fmt.Println("  ", c.Role, c.Past.Name, "→", c.Present.Name)
		}
	}
	// Output:
	// A0 attention 3104 parameters, 47 nodes, droppable true
	//    key past_key_values.0.key → present.0.key
	//    value past_key_values.0.value → present.0.value
	// M0 mlp       4640 parameters, 13 nodes, droppable true
	// A1 attention 3104 parameters, 47 nodes, droppable true
	//    key past_key_values.1.key → present.1.key
	//    value past_key_values.1.value → present.1.value
	// M1 mlp       4640 parameters, 13 nodes, droppable true
}

// What does a run of 2 sequences of 16 tokens cost, and where?
func ExampleCostOf() {
	m := testmodels.GPT2(testmodels.Size{Layers: 2}, testmodels.GPT2Options{})
	cost, err := modules.CostOf(m, modules.Sizes{Batch: 2, Tokens: 16})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("all", cost.FLOPs)
	list, err := modules.Find(m)
	if err != nil {
		log.Fatal(err)
	}
	for _, x := range list {
		fmt.Println(x.ID, cost.Module(x))
	}
	head := m.Graph.Outputs()[0].Def()
	fmt.Println(head.Op, cost.Node(head))
	// Output:
	// all 1366018
	// A0 347136
	// M0 288768
	// A1 347136
	// M1 288768
	// MatMul 81920
}

// Norms are found in whatever operators exporters write them.
func ExampleNorms() {
	m := testmodels.LLaMA(testmodels.Size{Layers: 1}, testmodels.LLaMAOptions{})
	norms, err := modules.Norms(m)
	if err != nil {
		log.Fatal(err)
	}
	for _, n := range norms {
		fmt.Printf("%s, ε %.0e, scale %v, %d nodes\n", n.Kind, n.Epsilon, n.Scale.Type(), len(n.Nodes))
	}
	// Output:
	// rms, ε 1e-05, scale float[32], 7 nodes
	// rms, ε 1e-05, scale float[32], 7 nodes
	// rms, ε 1e-05, scale float[32], 7 nodes
}
