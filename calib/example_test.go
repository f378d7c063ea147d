package calib_test

import (
	"context"
	"fmt"
	"log"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/testmodels"
)

// words is data that a program holds in memory; calib.OpenSource reads files.
func words(seed uint64, samples int) *calib.Source {
	src, err := calib.SourceFromTensors("words", testmodels.WordTensors(seed, samples), calib.SourceOptions{})
	if err != nil {
		log.Fatal(err)
	}
	return src
}

// Which modules of a model matter least? Scores of shards merge into the scores of
// all of the data, and a ledger keeps them in a file.
func ExampleScore() {
	m := testmodels.DemoModel()
	feed, err := words(testmodels.CalibSeed, 32).Feed(m)
	if err != nil {
		log.Fatal(err)
	}
	var parts []*calib.Ledger
	for i := range 2 {
		shard, err := feed.Shard(i, 2)
		if err != nil {
			log.Fatal(err)
		}
		l, err := calib.Score(context.Background(), m, shard, calib.ScoreOptions{})
		if err != nil {
			log.Fatal(err)
		}
		parts = append(parts, l)
	}
	l, err := calib.Merge(parts)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(l.Samples, "samples,", l.Tokens, "tokens")
	for _, s := range l.Modules[:4] {
		fmt.Printf("%s %-9s %.2f\n", s.ID, s.Kind, s.Score)
	}
	// Output:
	// 32 samples, 1280 tokens
	// A0 attention 0.29
	// M0 mlp       0.29
	// A1 attention 0.14
	// M1 mlp       0.07
}

// How good are two models, side by side?
func ExampleEvaluate() {
	ctx := context.Background()
	m := testmodels.DemoModel()
	small := m.Clone()
	if err := passes.Run(ctx, small, nil, passes.DropModules([]string{"A1", "A5"}, passes.DropOptions{})); err != nil {
		log.Fatal(err)
	}
	result, err := calib.Evaluate(ctx, []*graph.Model{m, small}, words(testmodels.EvalSeed, 64),
		calib.EvalOptions{Metric: calib.MetricAccuracy, Labels: "labels"})
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range result {
		fmt.Printf("%s %.2f, 95 %% interval %.2f … %.2f\n", r.Metric, r.Value, r.CI[0], r.CI[1])
	}
	// Output:
	// accuracy 0.98, 95 % interval 0.95 … 1.00
	// accuracy 0.95, 95 % interval 0.89 … 1.00
}
