package ortcheck

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// rewritten is a test model with block-circulant operators.
func rewritten(t *testing.T, c testmodels.Case, block int) *graph.Model {
	t.Helper()
	m := c.Model()
	rewrite := passes.RewriteCirculant(passes.CirculantOptions{Block: block, Fit: passes.FitFrobenius})
	if err := passes.Run(context.Background(), m, &passes.Journal{}, rewrite, passes.EliminateDeadCode()); err != nil {
		t.Fatal(err)
	}
	return m
}

func inlined(t *testing.T, m *graph.Model, form passes.InlineForm) *graph.Model {
	t.Helper()
	m = m.Clone()
	if err := passes.Run(context.Background(), m, &passes.Journal{}, passes.InlineFunctions(form), passes.EliminateDeadCode()); err != nil {
		t.Fatal(err)
	}
	return m
}

// Models with bodies in the place of custom operators and functions run in stock
// ONNX Runtime, agree with ours, and with the models that they are made of.
func TestConvertedModelsRunEverywhere(t *testing.T) {
	blocks := []int{2, 3, 8} // in turn, as ONNX Runtime takes long to load one
	for i, c := range testmodels.Cases() {
		m := rewritten(t, c, blocks[i%len(blocks)])
		if len(m.Functions) == 0 {
			continue
		}
		for _, form := range []passes.InlineForm{passes.InlineDFT, passes.InlineDense} {
			t.Run(fmt.Sprintf("%s/%s", c.Name, form), func(t *testing.T) {
				out := inlined(t, m, form)
				if _, has := out.Opset(graph.LatheDomain); has || len(out.Functions) > 0 {
					t.Errorf("%d functions are left, lathe imported: %v", len(out.Functions), has)
				}
				_, want := runTheirs(t, save(t, m), inputs(t, c))
				compare(t, toTensors(agree(t, out, inputs(t, c))), want)
			})
		}
	}
}

// checkerScript checks the models named on the command line and tells of those
// that are wrong.
const checkerScript = `
import sys, onnx
for path in sys.argv[1:]:
    try:
        onnx.checker.check_model(onnx.load(path), full_check=True)
    except Exception as e:
        print(path, ": ", " ".join(str(e).split())[:400], sep="")
print("checked", len(sys.argv) - 1)
`

// TestChecker: everything that is written passes onnx.checker with full_check,
// which knows opsets up to 17.
func TestChecker(t *testing.T) {
	python := ""
	for _, p := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(p, "-c", "import onnx").Run() == nil {
			python = p
			break
		}
	}
	if python == "" {
		t.Skip("no python3 here has the module onnx; Debian has it in python3-onnx")
	}
	dir := t.TempDir()
	var files []string
	write := func(name string, m *graph.Model) {
		t.Helper()
		path := filepath.Join(dir, strings.ReplaceAll(name, "/", "-")+".onnx")
		if err := m.Save(path, graph.SaveOptions{}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		files = append(files, path)
	}
	for i, c := range testmodels.Cases() {
		original := c.Model()
		if v, _ := original.Opset(""); v > 17 || strings.HasPrefix(c.Name, "llama-17-fused") {
			continue // the latter have ONNX Runtime's SimplifiedLayerNormalization in ONNX's domain
		}
		write(c.Name, original)
		m := rewritten(t, c, 2+i%3)
		if len(m.Functions) > 0 {
			write(c.Name+"/circulant", m)
			write(c.Name+"/dft", inlined(t, m, passes.InlineDFT))
			write(c.Name+"/dense", inlined(t, m, passes.InlineDense))
		}
	}
	for _, w := range writtenKinds(t) {
		write(w.name, w.model)
	}
	if len(files) < 60 {
		t.Fatalf("only %d models are checked", len(files))
	}
	cmd := exec.Command(python, append([]string{"-c", checkerScript}, files...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", python, err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if last := lines[len(lines)-1]; last != fmt.Sprint("checked ", len(files)) {
		t.Fatalf("the checker ended with %q", last)
	}
	for _, l := range lines[:len(lines)-1] {
		t.Error(strings.TrimPrefix(l, dir+"/"))
	}
}

type writtenKind struct {
	name  string
	model *graph.Model
}

// writtenKinds are models of the other passes: dropped, with a mean update in
// place of a module, and in fixed point.
func writtenKinds(t *testing.T) (out []writtenKind) {
	t.Helper()
	run := func(name string, m *graph.Model, list ...passes.Pass) *graph.Model {
		if err := passes.Run(context.Background(), m, &passes.Journal{}, append(list, passes.EliminateDeadCode())...); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out = append(out, writtenKind{name, m})
		return m
	}
	for _, c := range testmodels.Cases() {
		if v, _ := c.Model().Opset(""); v > 17 {
			continue
		}
		switch c.Name {
		case "bert-13", "gpt2-13", "gpt2-17-cache", "llama-17-cache", "vit-13", "t5-17":
			run(c.Name+"/dropped", c.Model(), passes.DropModules([]string{"M0"}, passes.DropOptions{}))
		case "lenet-13", "demo", "bert-17":
			feed := feedOf(t, c)
			m := run(c.Name+"/int16", c.Model(), passes.FoldConstants(), passes.QuantizeInt16(passes.QuantizeOptions{Feed: feed, Range: passes.RangeMax}))
			if len(m.Functions) == 0 {
				t.Errorf("%s: nothing was put into fixed point", c.Name)
			}
			run(c.Name+"/int16-inlined", m.Clone(), passes.InlineFunctions(passes.InlineDFT))
			if c.Name == "lenet-13" {
				run(c.Name+"/circulant-int16", c.Model(), passes.FoldConstants(), passes.RewriteCirculant(passes.CirculantOptions{Block: 4, Fit: passes.FitFrobenius}),
					passes.QuantizeInt16(passes.QuantizeOptions{Feed: feed, Range: passes.RangeMax}))
			}
		}
	}
	return out
}

// feedOf feeds a test model with its inputs.
func feedOf(t *testing.T, c testmodels.Case) *calib.Feed {
	t.Helper()
	var b bytes.Buffer
	if err := npz.Write(&b, c.Inputs...); err != nil {
		t.Fatal(err)
	}
	src, err := calib.SourceFromBytes(c.Name, b.Bytes(), calib.SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ports, err := runtime.Ports(c.Model())
	if err != nil {
		t.Fatal(err)
	}
	feed, err := src.Bind(ports)
	if err != nil {
		t.Fatal(err)
	}
	return feed
}
