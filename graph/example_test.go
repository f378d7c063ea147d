package graph_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/testmodels"
)

// Load a model, look into it, and save it with a note of its own.
func Example() {
	dir, err := os.MkdirTemp("", "lathe")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "lenet.onnx")
	if err := testmodels.LeNet(testmodels.CNN{}).Save(path, graph.SaveOptions{}); err != nil {
		log.Fatal(err)
	}

	m, err := graph.Load(path)
	if err != nil {
		log.Fatal(err)
	}
	opset, _ := m.Opset("")
	fmt.Printf("opset %d, %d parameters\n", opset, m.Parameters())
	for _, v := range m.Graph.Inputs() {
		fmt.Println("input ", v.Name, v.Type())
	}
	for _, v := range m.Graph.Outputs() {
		fmt.Println("output", v.Name, v.Type())
	}
	for _, n := range m.Graph.Nodes() {
		if n.Is("Conv", "Gemm") {
			fmt.Println(n, n.Input(1).Type())
		}
	}
	m.SetMeta("author", "me")
	if err := m.Save(filepath.Join(dir, "noted.onnx"), graph.SaveOptions{}); err != nil {
		log.Fatal(err)
	}
	// Output:
	// opset 17, 3002 parameters
	// input  image float[batch,1,12,12]
	// output logits float[batch,10]
	// node "/features/4/conv/Conv" (Conv) float[4,1,3,3]
	// node "/features/8/conv/Conv" (Conv) float[8,4,3,3]
	// node "/fc1/Gemm" (Gemm) float[32,72]
	// node "/fc2/Gemm" (Gemm) float[10,32]
}

// Put an operator in the place of two: the smallest pass there is.
func ExampleValue_ReplaceUses() {
	m, err := graph.Parse(`<ir_version: 8, opset_import: ["": 24]>
silu (float[N,8] x) => (float[N,8] y) {
  s = Sigmoid (x)
  m = Mul (x, s)
  y = Neg (m)
}`)
	if err != nil {
		log.Fatal(err)
	}
	g := m.Graph
	mul := g.Value("m").Def()
	swish := g.InsertBefore(mul, "", "Swish", "", []*graph.Value{g.Value("x")}, []string{"swish"})
	mul.Output(0).ReplaceUses(swish.Output(0))
	g.Remove(mul, g.Value("s").Def())
	if err := graph.Check(m); err != nil {
		log.Fatal(err)
	}
	for _, n := range g.Nodes() {
		fmt.Println(n)
	}
	// Output:
	// node "→swish" (Swish)
	// node "→y" (Neg)
}

// Shapes follow from those of the inputs; dimensions keep their names.
func ExampleInfer() {
	m, err := graph.Parse(`<ir_version: 8, opset_import: ["": 17]>
g (float[batch,past,8] a, float[batch,seq,8] b) => (float[?,?] y) {
  ab = Concat <axis = 1> (a, b)
  y = ReduceMean <axes = [2], keepdims = 0> (ab)
}`)
	if err != nil {
		log.Fatal(err)
	}
	if err := graph.Infer(m); err != nil {
		log.Fatal(err)
	}
	for _, n := range m.Graph.Nodes() {
		fmt.Println(n.Op, n.Output(0).Type())
	}
	// Output:
	// Concat float[batch,"past + seq",8]
	// ReduceMean float[batch,"past + seq"]
}

// What did an edit change?
func ExampleDiff() {
	before := testmodels.LeNet(testmodels.CNN{})
	after := before.Clone()
	for _, n := range after.Graph.Nodes() {
		if n.Is("MaxPool") {
			n.SetAttr(graph.IntAttr("ceil_mode", 1))
		}
	}
	d, err := graph.Diff(before, after)
	if err != nil {
		log.Fatal(err)
	}
	for _, c := range d.Nodes.Changed {
		fmt.Println(c.After, c.What)
	}
	// Output:
	// MaxPool [attribute ceil_mode]
	// MaxPool [attribute ceil_mode]
}

// The signature says what a node may hold: here, which attributes were left to
// their defaults.
func ExampleNode_Schema() {
	m := testmodels.LeNet(testmodels.CNN{})
	gemm := m.Graph.Outputs()[0].Def()
	s, ok := gemm.Schema()
	if !ok {
		log.Fatal("no signature of ", gemm)
	}
	fmt.Printf("%s of opset %d, %d to %d inputs\n", s.Op, s.Since, s.MinInputs, s.MaxInputs)
	for _, a := range s.Attrs {
		if gemm.Attr(a.Name) == nil {
			fmt.Println("default", a.Type, a.Name)
		}
	}
	// Output:
	// Gemm of opset 13, 2 to 3 inputs
	// default int transA
}
