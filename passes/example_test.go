package passes_test

import (
	"context"
	"fmt"
	"log"
	"regexp"
	"strings"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/testmodels"
)

// calibration is data for m, which is testmodels.DemoModel or made of it.
func calibration(m *graph.Model, samples int) *calib.Feed {
	src, err := calib.SourceFromTensors("words", testmodels.WordTensors(testmodels.CalibSeed, samples), calib.SourceOptions{})
	if err != nil {
		log.Fatal(err)
	}
	feed, err := src.Feed(m)
	if err != nil {
		log.Fatal(err)
	}
	return feed
}

// Drop the four modules that matter least.
func Example() {
	ctx := context.Background()
	m := testmodels.DemoModel()
	ledger, err := calib.Score(ctx, m, calibration(m, 32), calib.ScoreOptions{})
	if err != nil {
		log.Fatal(err)
	}
	ids, err := passes.Select(ctx, m, passes.SelectOptions{Count: 4, Ledger: ledger})
	if err != nil {
		log.Fatal(err)
	}
	before := m.Parameters()
	var j passes.Journal
	if err := passes.Run(ctx, m, &j, passes.DropModules(ids, passes.DropOptions{})); err != nil {
		log.Fatal(err)
	}
	fmt.Println("dropped", ids)
	fmt.Println("parameters", before, "→", m.Parameters())
	for _, e := range j.By("drop-modules")[:1] {
		fmt.Printf("%s: %s\n", e.What, e.Why)
	}
	// Output:
	// dropped [M7 A7 M6 A6]
	// parameters 271820 → 204876
	// dropped: attention of layer 6 was selected
}

// Block-circulant layers in the place of dense ones: b times fewer weights, fitted
// to what the original computes from the data.
func ExampleRewriteCirculant() {
	ctx := context.Background()
	m := testmodels.DemoModel()
	before := m.Parameters()
	layers, worst := 0, 0.0
	rewrite := passes.RewriteCirculant(passes.CirculantOptions{Block: 2, Only: regexp.MustCompile("layers.7"), Feed: calibration(m, 32), Layer: func(l passes.CirculantLayer) {
		layers++
		worst = max(worst, l.Error/l.FrobeniusError)
	}})
	if err := passes.Run(ctx, m, nil, rewrite, passes.EliminateDeadCode()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(layers, "layers, parameters", before, "→", m.Parameters())
	fmt.Println("every fit is better than a projection:", worst < 1)
	// Output:
	// 6 layers, parameters 271820 → 255436
	// every fit is better than a projection: true
}

// A classifier of pictures in 16-bit fixed point.
func ExampleQuantizeInt16() {
	ctx := context.Background()
	m := testmodels.LeNet(testmodels.CNN{})
	images := make([]float32, 16*12*12)
	for i := range images {
		images[i] = float32(i%29)/14 - 1
	}
	src, err := calib.SourceFromTensors("images", map[string]tensor.Tensor{
		"image": tensor.New(tensor.WithShape(16, 1, 12, 12), tensor.WithBacking(images)),
	}, calib.SourceOptions{})
	if err != nil {
		log.Fatal(err)
	}
	feed, err := src.Feed(m)
	if err != nil {
		log.Fatal(err)
	}
	fixed := m.Clone()
	if err := passes.Run(ctx, fixed, nil, passes.QuantizeInt16(passes.QuantizeOptions{Feed: feed}), passes.EliminateDeadCode()); err != nil {
		log.Fatal(err)
	}
	for _, n := range fixed.Graph.Nodes() {
		if n.Domain == graph.LatheDomain {
			fmt.Println(n.Op)
		}
	}
	// The file runs like any other.
	r, err := calib.Evaluate(ctx, []*graph.Model{m, fixed}, src, calib.EvalOptions{Metric: calib.MetricSQNR})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("more than 60 dB:", r[1].Value > 60)
	// Output:
	// QuantizeInt16
	// ConvInt16
	// ClipInt16
	// MaxPoolInt16
	// ConvInt16
	// ClipInt16
	// MaxPoolInt16
	// MatMulInt16
	// ClipInt16
	// MatMulInt16
	// DequantizeInt16
	// more than 60 dB: true
}

// A pass of one's own: a name, a promise, and a function that edits the model.
func ExamplePass() {
	unname := passes.Pass{
		Name: "forget-scopes", Doc: "Leave the modules of the exporter out of the names of nodes.", Contract: passes.Exact,
		Run: func(_ context.Context, m *graph.Model, j *passes.Journal) error {
			for _, n := range m.Graph.Nodes() {
				if at := strings.LastIndexByte(n.Name, '/'); at >= 0 {
					j.Add("forget-scopes", n.Name, n.Name[at+1:], "the graph says where it belongs")
					n.Name = n.Name[at+1:]
				}
			}
			return nil
		},
	}
	m := testmodels.LeNet(testmodels.CNN{})
	var j passes.Journal
	if err := passes.Run(context.Background(), m, &j, unname); err != nil {
		log.Fatal(err)
	}
	for _, e := range j.Entries[:2] {
		fmt.Println(e.Node, "→", e.What)
	}
	// Output:
	// /features/4/conv/Conv → Conv
	// /features/4/Relu → Relu
}
