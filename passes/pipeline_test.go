package passes_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/passes"
	"github.com/onnx-lathe/lathe/testmodels"
)

// TestOrder: passes that stand in the wrong order are refused before any runs.
func TestOrder(t *testing.T) {
	dead, fold := passes.EliminateDeadCode(), passes.FoldConstants()
	drop, rewrite := passes.DropModules([]string{"M0"}, passes.DropOptions{}), passes.RewriteCirculant(passes.CirculantOptions{Block: 2, Fit: passes.FitFrobenius})
	for _, c := range []struct {
		list []passes.Pass
		want string
	}{
		{[]passes.Pass{fold, drop, rewrite, dead}, ""},
		{[]passes.Pass{drop, fold, dead}, ""},
		{nil, ""},
		{[]passes.Pass{rewrite, drop}, "drop-modules must come before rewrite-circulant: "},
		{[]passes.Pass{dead, rewrite}, "rewrite-circulant must come before eliminate-dead-code: "},
		{[]passes.Pass{dead, fold}, "fold-constants must come before eliminate-dead-code: "},
		{[]passes.Pass{fold, dead, drop}, "drop-modules must come before eliminate-dead-code: "},
	} {
		m := testmodels.GPT2(testmodels.Size{Layers: 1, Seed: 1}, testmodels.GPT2Options{})
		before := m.Text()
		err := passes.Run(ctx, m, &passes.Journal{}, c.list...)
		if c.want == "" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
		if m.Text() != before {
			t.Error("the model was changed before the order was checked")
		}
	}
}

// TestRunChecks: a model that is not whole is refused before the first pass,
// and a pass that breaks it is named; a pass that fails is named too, and the
// passes behind it do not run.
func TestRunChecks(t *testing.T) {
	model := func() *graph.Model {
		return parse(t, `<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[N,2] y) { y = Relu (x) }`)
	}
	ran := ""
	pass := func(name string, f func(m *graph.Model) error) passes.Pass {
		return passes.Pass{Name: name, Run: func(_ context.Context, m *graph.Model, j *passes.Journal) error {
			ran += name + " "
			j.Add(name, "n", "what", "why")
			return f(m)
		}}
	}
	fine := pass("fine", func(*graph.Model) error { return nil })
	breaks := pass("breaks", func(m *graph.Model) error { m.Graph.Nodes()[0].SetInputs(nil); return nil })
	fails := pass("fails", func(*graph.Model) error { return errors.New("no way") })
	broken := model()
	broken.Graph.Nodes()[0].SetInputs(nil)
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	for _, c := range []struct {
		name  string
		ctx   context.Context
		model *graph.Model
		list  []passes.Pass
		ran   string
		want  string
	}{
		{"whole", ctx, model(), []passes.Pass{fine, fine}, "fine fine ", ""},
		{"not whole", ctx, broken, []passes.Pass{fine}, "", "model before the first pass: "},
		{"broken on the way", ctx, model(), []passes.Pass{fine, breaks, fine}, "fine breaks ", "breaks broke the model: "},
		{"failed", ctx, model(), []passes.Pass{fails, fine}, "fails ", "fails: no way"},
		{"cancelled", stopped, model(), []passes.Pass{fine}, "", context.Canceled.Error()},
	} {
		ran = ""
		j := &passes.Journal{}
		err := passes.Run(c.ctx, c.model, j, c.list...)
		if ran != c.ran || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: ran %q, %v, want %q, %q", c.name, ran, err, c.ran, c.want)
		}
		if n := len(strings.Fields(c.ran)); len(j.Entries) != n || n > 0 && len(j.By(strings.Fields(c.ran)[0])) == 0 {
			t.Errorf("%s: journal %v", c.name, j.Entries)
		}
	}
}

// TestContracts: what each pass promises.
func TestContracts(t *testing.T) {
	for _, c := range []struct {
		pass passes.Pass
		name string
		want string
	}{
		{passes.EliminateDeadCode(), "eliminate-dead-code", "exact"},
		{passes.FoldConstants(), "fold-constants", "rounding"},
		{passes.DropModules(nil, passes.DropOptions{}), "drop-modules", "lossy"},
		{passes.RewriteCirculant(passes.CirculantOptions{}), "rewrite-circulant", "lossy"},
	} {
		if c.pass.Name != c.name || c.pass.Contract.String() != c.want || c.pass.Doc == "" {
			t.Errorf("%s: %+v, want %s", c.name, c.pass, c.want)
		}
	}
}
