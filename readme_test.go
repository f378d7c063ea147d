package lathe_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"testing"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// Example_readme is the code of README.md on the embedded model.
func Example_readme() {
	check := func(err error) {
		if err != nil {
			log.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "lathe")
	check(err)
	defer os.RemoveAll(dir)
	home, err := os.Getwd()
	check(err)
	check(os.Chdir(dir))
	defer os.Chdir(home)
	check(testmodels.DemoModel().Save("model.onnx", graph.SaveOptions{}))
	archive, err := testmodels.WordArchive(testmodels.CalibSeed, 16)
	check(err)
	check(os.WriteFile("train.npz", archive, 0o666))
	features, _ := testmodels.WordSamples(testmodels.EvalSeed, 2)
	x := tensor.New(tensor.WithShape(2, testmodels.WordFrames, testmodels.WordFeatures), tensor.WithBacking(features))
	ctx := context.Background()

	{
		m, err := graph.Load("model.onnx")
		check(err)
		prog, err := runtime.Compile(m, runtime.Options{})
		check(err)
		session := prog.NewSession(runtime.SessionOptions{Threads: 2})
		out, err := session.Run(ctx, map[string]tensor.Tensor{"features": x})
		check(err)
		err = session.RunInto(ctx, map[string]tensor.Tensor{"features": x}, out)
		check(err)
		fmt.Println(out["logits"].Shape())
	}
	{
		m, err := graph.Load("model.onnx")
		check(err)
		src, err := calib.OpenSource("train.npz", calib.SourceOptions{})
		check(err)
		feed, err := src.Feed(m)
		check(err)
		ledger, err := calib.Score(ctx, m, feed, calib.ScoreOptions{})
		check(err)
		ids, err := passes.Select(ctx, m, passes.SelectOptions{Count: 4, Ledger: ledger})
		check(err)
		err = passes.Run(ctx, m, nil, passes.DropModules(ids, passes.DropOptions{}))
		check(err)
		err = m.Save("small.onnx", graph.SaveOptions{})
		check(err)
		fmt.Println(ids, m.Parameters(), "parameters")
	}
	// Output:
	// (2, 12)
	// [M7 A7 M6 A6] 204876 parameters
}

// TestReadmeCode: every line of Go that the README shows is in the example above,
// which compiles and runs.
func TestReadmeCode(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("readme_test.go")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(readme), "```go\n")[1:]
	if len(blocks) == 0 {
		t.Fatal("the README has no Go code")
	}
	for _, b := range blocks {
		code, _, _ := strings.Cut(b, "```")
		for line := range strings.Lines(code) {
			line, _, _ = strings.Cut(line, " //")
			if line = strings.TrimSpace(line); !bytes.Contains(example, []byte("\t"+line+"\n")) {
				t.Errorf("README.md has %q, Example_readme has not", line)
			}
		}
	}
}
