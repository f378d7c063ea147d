package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/testmodels"
)

// keys checks that every item of a list has values of these kinds; "null"
// allows for none.
func keys(t *testing.T, v map[string]any, list string, kinds map[string]string) []map[string]any {
	t.Helper()
	items, _ := v[list].([]any)
	if len(items) == 0 {
		t.Fatalf("no %s in %v", list, v)
	}
	var out []map[string]any
	for _, x := range items {
		item, _ := x.(map[string]any)
		for key, kind := range kinds {
			x, ok := item[key]
			null := strings.HasSuffix(kind, "|null")
			if got := kindOf(x); !ok || got != strings.TrimSuffix(kind, "|null") && !(null && x == nil) {
				t.Errorf("%s: %s is %v, want %s", list, key, x, kind)
			}
		}
		out = append(out, item)
	}
	return out
}

func kindOf(v any) string {
	switch v.(type) {
	case string:
		return "text"
	case float64:
		return "number"
	case bool:
		return "bool"
	case []any:
		return "list"
	}
	return fmt.Sprintf("%T", v)
}

func ids(list []map[string]any) []string {
	var out []string
	for _, x := range list {
		out = append(out, x["id"].(string))
	}
	return out
}

var demoModules = strings.Fields("A0 M0 A1 M1 A2 M2 A3 M3 A4 M4 A5 M5 A6 M6 A7 M7")

func TestInspect(t *testing.T) {
	f := newFolder(t)
	v := object(t, "inspect", f.in("model.onnx"))
	list := keys(t, v, "modules", map[string]string{"id": "text", "kind": "text", "layer": "number", "droppable": "bool",
		"reason": "text", "params": "number", "flops": "number"})
	if got := ids(list); !slices.Equal(got, demoModules) {
		t.Errorf("modules %v", got)
	}
	for _, key := range []string{"parameters", "nodes"} {
		if n, _ := v[key].(float64); n <= 0 {
			t.Errorf("%s is %v", key, v[key])
		}
	}
	golden(t, "inspect.txt", f.plain(ok(t, "inspect", f.in("model.onnx"))))
	golden(t, "drop.txt", f.plain(ok(t, "drop", f.in("model.onnx"), "--modules", "A1,M3", "-o", f.in("dropped.onnx"))))
	golden(t, "inspect_dropped.txt", f.plain(ok(t, "inspect", f.in("dropped.onnx"))))
}

func TestText(t *testing.T) {
	f := newFolder(t)
	text := ok(t, "text", f.in("model.onnx"))
	if v := object(t, "text", f.in("model.onnx")); v["text"] != text {
		t.Error("--json holds another text")
	}
	m, err := graph.Parse(ok(t, "text", f.in("model.onnx"), "--elide", "1000000"))
	if err != nil {
		t.Fatalf("the whole text does not parse: %v", err)
	}
	if len(m.Graph.Nodes()) == 0 || len(text) < 1000 {
		t.Error("the text is empty")
	}
}

var scoreKeys = map[string]string{"id": "text", "kind": "text", "layer": "number", "score": "number", "score_before_norm": "number",
	"stderr": "number", "params": "number", "flops": "number", "kv_bytes": "number", "droppable": "bool"}

// TestScore: a ledger holds what is printed, no matter the threads and the
// batch, and shards merge to the same scores.
func TestScore(t *testing.T) {
	f := newFolder(t)
	m, d := f.in("model.onnx"), f.in("calib.npz")
	v := object(t, "score", m, "--data", d, "-o", f.in("all.json"))
	list := keys(t, v, "modules", scoreKeys)
	if got := ids(list); !slices.Equal(got, demoModules) {
		t.Errorf("modules %v", got)
	}
	if v["samples"] != 24.0 || v["tokens"] != 24.0*(testmodels.WordFrames+1) && v["tokens"] != 24.0*testmodels.WordFrames {
		t.Errorf("%v samples, %v tokens", v["samples"], v["tokens"])
	}
	for _, more := range [][]string{{"--threads", "1"}, {"--batch", "5"}} {
		ok(t, append([]string{"score", m, "--data", d, "-o", f.in("again.json")}, more...)...)
		if f.read(t, "again.json") != f.read(t, "all.json") {
			t.Errorf("%v changes the ledger", more)
		}
	}
	var parts []string
	for i := range 3 {
		part := f.in(fmt.Sprintf("part%d.json", i))
		ok(t, "score", m, "--data", d, "--shard", fmt.Sprintf("%d/3", i), "-o", part)
		parts = append(parts, part)
	}
	merged := object(t, append([]string{"ledger", "merge", "-o", f.in("merged.json")}, parts...)...)
	if merged["samples"] != v["samples"] || merged["tokens"] != v["tokens"] {
		t.Errorf("merged: %v samples, %v tokens", merged["samples"], merged["tokens"])
	}
	for i, x := range keys(t, merged, "modules", scoreKeys) {
		a, b := x["score"].(float64), list[i]["score"].(float64)
		if d := a - b; d > 1e-12 || d < -1e-12 {
			t.Errorf("%s: %v merged, %v in one run", x["id"], a, b)
		}
	}
	refused(t, []string{"in two ledgers"}, "ledger", "merge", parts[0], parts[0], "-o", f.in("twice.json"))
	if v := object(t, "score", m, "--data", d, "--samples", "7", "--dry-run"); v["samples"] != 7.0 {
		t.Errorf("--samples 7 scores %v", v["samples"])
	}
	if s := ok(t, "score", m, "--data", d, "--dry-run"); !strings.Contains(s, "nothing written") || strings.Count(s, "█") < 30 {
		t.Errorf("the table has no bars, or does not say that nothing was written:\n%s", s)
	}
}

func TestDrop(t *testing.T) {
	f := newFolder(t)
	m, out := f.in("model.onnx"), f.in("out.onnx")
	ok(t, "score", m, "--data", f.in("calib.npz"), "-o", f.in("l.json"))
	for _, c := range []struct {
		args string
		want int // modules
	}{
		{"--count 3 --ledger L", 3},
		{"--count 3 --data D", 3},
		{"--count 2 --ledger L --mode block", 4},
		{"--count 2 --ledger L --mode mlp", 2},
		{"--count 2 --ledger L --select angular --norm kept", 2},
		{"--fraction 0.25 --ledger L", 4},
		{"--fraction 0.25 --ledger L --mode attention", 2},
		{"--count 2 --select random", 2},
		{"--count 2 --select deepest --recover mean --ledger L", 2},
		{"--count 2 --select loss --data D --loss-samples 4 --protect-first 2 --protect-last 3", 2},
		{"--count 2 --iterative --data D --loss-samples 4", 2},
		{"--modules A1,M5,A6", 3},
		{"--count 0", 0},
	} {
		t.Run(c.args, func(t *testing.T) {
			args := strings.Fields(strings.NewReplacer(" L", " "+f.in("l.json"), " D", " "+f.in("calib.npz")).Replace(c.args))
			v := object(t, append([]string{"drop", m, "-o", out}, args...)...)
			dropped, _ := v["dropped"].([]any)
			if dropped == nil || len(dropped) != c.want {
				t.Fatalf("dropped %v, want %d", v["dropped"], c.want)
			}
			left := ids(keys(t, object(t, "inspect", out), "modules", nil))
			for _, id := range dropped {
				if slices.Contains(left, id.(string)) {
					t.Errorf("%v was dropped and is still there", id)
				}
			}
			if len(left)+len(dropped) != len(demoModules) {
				t.Errorf("left %v after dropping %v", left, dropped)
			}
			if c.want > 0 && !(v["parameters_after"].(float64) < v["parameters_before"].(float64)) {
				t.Errorf("parameters %v → %v", v["parameters_before"], v["parameters_after"])
			}
		})
	}
	if f.read(t, "l.json"); strings.Contains(f.read(t, "l.json"), "orders") {
		t.Error("a drop that measured nothing changed the ledger")
	}
	ok(t, "drop", m, "-o", out, "--count", "1", "--select", "loss", "--data", f.in("calib.npz"), "--loss-samples", "4",
		"--protect-first", "2", "--protect-last", "4", "--ledger", f.in("l.json"))
	if !strings.Contains(f.read(t, "l.json"), "orders") {
		t.Error("the ledger does not keep the order that was measured")
	}
}

func TestCirculant(t *testing.T) {
	f := newFolder(t)
	m, d, out := f.in("model.onnx"), f.in("calib.npz"), f.in("out.onnx")
	ok(t, "score", m, "--data", d, "--moments", "-o", f.in("l.json"))
	for _, more := range [][]string{{"--data", d, "--fit-samples", "8"}, {"--ledger", f.in("l.json")}, {"--fit", "frobenius"},
		{"--fit", "frobenius", "--data", d, "--fit-samples", "4"}} {
		v := object(t, append([]string{"circulant", m, "--block", "4", "-o", out}, more...)...)
		list := keys(t, v, "rewritten", map[string]string{"node": "text", "block": "number", "relative_error": "number",
			"frobenius_error": "number|null", "weight_error": "number", "params_before": "number", "params_after": "number"})
		var saved float64
		for _, x := range list {
			saved += x["params_before"].(float64) - x["params_after"].(float64)
		}
		if before, after := v["parameters_before"].(float64), v["parameters_after"].(float64); before-after != saved {
			t.Errorf("%v: parameters %v → %v, the layers save %v", more, before, after, saved)
		}
		if r := lathe("verify", out, "--data", d, "--samples", "2"); r.code != 0 {
			t.Errorf("%v: kernels and bodies differ: %s", more, r.err)
		}
	}
	v := object(t, "circulant", m, "--block", "4", "--fit", "frobenius", "--only", "layers.3", "--skip", "q$", "--dry-run")
	for _, x := range keys(t, v, "rewritten", nil) {
		if n := x["node"].(string); !strings.Contains(n, "3") {
			t.Errorf("--only layers.3 rewrote %s", n)
		}
	}
}

func TestQuantize(t *testing.T) {
	f := newFolder(t)
	m, d, out := f.in("model.onnx"), f.in("calib.npz"), f.in("out.onnx")
	for _, more := range [][]string{nil, {"--range", "percentile", "--percentile", "99.9", "--range-samples", "8"}, {"--only", "layers.3"}} {
		v := object(t, append([]string{"quantize", m, "--data", d, "-o", out, "--force"}, more...)...)
		list := keys(t, v, "rewritten", map[string]string{"node": "text", "op": "text", "exponent_in": "number", "exponent_out": "number", "parameters": "number"})
		if before, after := v["bytes_before"].(float64), v["bytes"].(float64); !(after < before) && len(list) > 4 {
			t.Errorf("%v: bytes %v → %v", more, before, after)
		}
		gate := "60"
		if more != nil && more[0] == "--range" {
			gate = "20" // a percentile saturates the largest outputs
		}
		e := object(t, "eval", m, out, "--data", d, "--metric", "sqnr", "--per-layer", "--gate", gate)
		if got := keys(t, e, "layers", map[string]string{"node": "text", "sqnr": "number", "input_sqnr": "number|null", "output_sqnr": "number"}); len(got) != len(list) {
			t.Errorf("%v: %d layers measured, %d quantised", more, len(got), len(list))
		}
		if r := lathe("eval", m, out, "--data", d, "--metric", "agreement", "--gate", "0.99"); r.code != 0 {
			t.Errorf("%v: %s", more, r.err)
		}
	}
	if r := lathe("eval", m, out, "--data", d, "--metric", "sqnr", "--per-layer", "--gate", "200"); r.code != 1 {
		t.Errorf("a gate of 200 dB: exit status %d, %s", r.code, r.err)
	}
	if r := lathe("quantize", m, "--data", d, "-o", f.in("none.onnx"), "--only", "nothing"); r.code != 2 || !strings.Contains(r.err, "no layer is called nothing") {
		t.Errorf("no layer: exit status %d, %s", r.code, r.err)
	}
}

func TestRun(t *testing.T) {
	f := newFolder(t)
	m, d := f.in("model.onnx"), f.in("eval.npz")
	v := object(t, "run", m, "--data", d, "-o", f.in("o.npz"))
	list := keys(t, v, "outputs", map[string]string{"name": "text", "dtype": "text", "shape": "list"})
	if want := []any{24.0, float64(testmodels.WordClasses)}; !reflect.DeepEqual(list[0]["shape"], want) {
		t.Errorf("shape %v, want %v", list[0]["shape"], want)
	}
	v = object(t, "run", m, "--data", d, "--expect", f.in("o.npz"))
	if v["passed"] != true || v["max_abs_error"] != 0.0 || v["max_rel_error"] != 0.0 {
		t.Errorf("compared with itself: %v", v)
	}
	// Another batch gives the same bits; another model does not.
	if v := object(t, "run", m, "--data", d, "--batch", "3", "--threads", "1", "--expect", f.in("o.npz")); v["max_abs_error"] != 0.0 {
		t.Errorf("batches of 3 differ by %v", v["max_abs_error"])
	}
	ok(t, "drop", m, "--modules", "A2", "-o", f.in("s.onnx"))
	r := lathe("run", f.in("s.onnx"), "--data", d, "--expect", f.in("o.npz"), "--json")
	if v := decode(t, r.out); r.code != exitFailed || v["passed"] != false || v["max_rel_error"].(float64) <= 1e-4 {
		t.Errorf("status %d, %v", r.code, v)
	}
	if !strings.Contains(r.err, "logits[0 ") || strings.Count(r.err, "\n") != 1 {
		t.Errorf("does not say where: %q", r.err)
	}
	// Fewer samples than expected are another shape.
	if r := lathe("run", m, "--data", d, "--samples", "3", "--expect", f.in("o.npz")); r.code != exitFailed || !strings.Contains(r.err, "[3 12], expected float[24 12]") {
		t.Errorf("status %d: %s", r.code, r.err)
	}
	before := f.list(t)
	ok(t, "run", m, "--data", d, "-o", f.in("none.npz"), "--dry-run")
	if !slices.Equal(f.list(t), before) {
		t.Errorf("--dry-run wrote %v", f.list(t))
	}
}

// TestRunFolder: a folder in the layout of the ONNX tests is data and
// expectation, its cases of different shapes too.
func TestRunFolder(t *testing.T) {
	f := newFolder(t)
	m, err := graph.Parse(`<ir_version: 8, opset_import: ["": 17]>
g (float[N, M] x) => (float[N, M] y) {
  y = Add (x, x)
}`)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Save(f.in("double.onnx"), graph.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	for k, v := range [][]float32{{1, 2}, {3, 4, 5}} {
		dir := f.in(fmt.Sprintf("cases/test_data_set_%d", k))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		twice := make([]float32, len(v))
		for i := range v {
			twice[i] = 2 * v[i]
		}
		for name, data := range map[string][]float32{"input_0.pb": v, "output_0.pb": twice} {
			b, err := graph.EncodeTensor(graph.Float32Tensor([]int64{1, int64(len(v))}, data))
			if err != nil {
				t.Fatal(err)
			}
			f.write(t, filepath.Join("cases", filepath.Base(dir), name), b)
		}
	}
	cases := f.in("cases")
	if v := object(t, "run", f.in("double.onnx"), "--data", cases, "--expect", cases); v["passed"] != true || v["samples"] != 2.0 {
		t.Errorf("got %v", v)
	}
	refused(t, []string{"one shape"}, "run", f.in("double.onnx"), "--data", cases, "-o", f.in("o.npz"))
	b, err := graph.EncodeTensor(graph.Float32Tensor([]int64{1, 3}, []float32{6, 8, 11}))
	if err != nil {
		t.Fatal(err)
	}
	f.write(t, "cases/test_data_set_1/output_0.pb", b)
	if r := lathe("run", f.in("double.onnx"), "--data", cases, "--expect", cases); r.code != exitFailed || !strings.Contains(r.err, "case 1: y[0 2] is 10, expected 11") {
		t.Errorf("status %d: %s", r.code, r.err)
	}
}

var evalKeys = map[string]string{"path": "text", "metric": "text", "value": "number|null", "ci95": "list", "ms_per_sample": "number",
	"parameters": "number", "bytes": "number", "sdr": "number|null"}

func TestEval(t *testing.T) {
	f := newFolder(t)
	m, d, s := f.in("model.onnx"), f.in("eval.npz"), f.in("s.onnx")
	ok(t, "drop", m, "--modules", "A0,M0,A1,M1", "-o", s)
	for _, metric := range []string{"accuracy", "kl", "agreement", "cosine", "sqnr"} {
		args := []string{"eval", m, s, "--data", d, "--metric", metric}
		if metric == "accuracy" {
			args = append(args, "--labels", "labels")
		}
		list := keys(t, object(t, args...), "models", evalKeys)
		if len(list) != 2 || list[0]["path"] != m || list[1]["path"] != s || list[1]["metric"] != metric {
			t.Errorf("%s: %v", metric, list)
		}
		if list[0]["sdr"] != nil {
			t.Errorf("%s: the baseline has an SDR of %v", metric, list[0]["sdr"])
		}
	}
	llama := testmodels.LLaMA(testmodels.Size{Opset: 17, Seed: 1}, testmodels.LLaMAOptions{Cache: true})
	if err := llama.Save(f.in("llama.onnx"), graph.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	f.write(t, "tokens.npz", archive(t, npz.Int64Array("input_ids", []int{2, 5}, []int64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10})))
	list := keys(t, object(t, "eval", f.in("llama.onnx"), "--data", f.in("tokens.npz"), "--metric", "nll"), "models", evalKeys)
	if v := list[0]["value"].(float64); v < 1 || v > 20 {
		t.Errorf("nll of a random model of 40 tokens is %v", v)
	}
}

// TestGate: the gate fails on the worse side of it, which is above for kl and
// below for the others, and for candidates only.
func TestGate(t *testing.T) {
	f := newFolder(t)
	m, d, s := f.in("model.onnx"), f.in("eval.npz"), f.in("s.onnx")
	ok(t, "drop", m, "--modules", "A0,M0,A1,M1", "-o", s)
	for _, c := range []struct {
		args string
		code int
	}{
		{"M S --metric kl --gate 1000", 0},
		{"M S --metric kl --gate 1e-9", exitFailed},
		{"M S --metric agreement --gate 0", 0},
		{"M S --metric agreement --gate 1.01", exitFailed},
		{"M M --metric cosine --gate 0.999", 0},
		{"M --labels labels --gate 0.5", 0},
		{"M --labels labels --gate 1.01", exitFailed},
		{"M S M --metric kl --gate 1e-9", exitFailed},
	} {
		args := append([]string{"eval", "--data", d}, strings.Fields(c.args)...)
		for i, a := range args {
			switch a {
			case "M":
				args[i] = m
			case "S":
				args[i] = s
			}
		}
		r := lathe(args...)
		if r.code != c.code || (c.code == exitFailed) != strings.Contains(r.err, "worse than the gate") || r.out == "" {
			t.Errorf("%s: status %d, want %d: %s", c.args, r.code, c.code, r.err)
		}
		if strings.HasPrefix(c.args, "M S --") && strings.Contains(r.err, m) {
			t.Errorf("%s: the baseline is judged: %s", c.args, r.err)
		}
	}
}

func TestBench(t *testing.T) {
	f := newFolder(t)
	m := f.in("model.onnx")
	v := object(t, "bench", m, m, "--runs", "3", "--profile")
	for _, x := range keys(t, v, "models", map[string]string{"path": "text", "ms_median": "number", "ms_p10": "number", "ms_p90": "number", "operators": "list"}) {
		if !(x["ms_p10"].(float64) <= x["ms_median"].(float64) && x["ms_median"].(float64) <= x["ms_p90"].(float64)) {
			t.Errorf("quantiles out of order: %v", x)
		}
	}
	if s := ok(t, "bench", m, "--runs", "2", "--profile"); !strings.Contains(s, "MatMul") {
		t.Errorf("no profile:\n%s", s)
	}
}

func TestVerify(t *testing.T) {
	f := newFolder(t)
	m, d, s := f.in("model.onnx"), f.in("eval.npz"), f.in("s.onnx")
	if v := object(t, "verify", m, m, "--data", d, "--samples", "3"); v["passed"] != true || v["first"] != nil || v["samples"] != 3.0 || v["values"].(float64) < 100 {
		t.Errorf("a model differs from itself: %v", v)
	}
	ok(t, "drop", m, "--modules", "M3", "-o", s)
	r := lathe("verify", m, s, "--data", d, "--samples", "3", "--json")
	v := decode(t, r.out)
	first, _ := v["first"].(map[string]any)
	if r.code != exitFailed || v["passed"] != false || first == nil || !strings.Contains(r.err, "first difference") {
		t.Fatalf("status %d, %v, %s", r.code, v, r.err)
	}
	// What comes before the dropped module is the same; the first value that
	// differs belongs to the layer behind it.
	if node := first["node"].(string); !strings.Contains(node, "4") {
		t.Errorf("the first difference is at %s, want layer 4", node)
	}
}

// TestVerifyInt16: bodies in fixed point are compared each by itself, in steps, so that
// their roundings do not fail a model, and a body that computes something else does.
func TestVerifyInt16(t *testing.T) {
	f := newFolder(t)
	m, d, c, q := f.in("model.onnx"), f.in("calib.npz"), f.in("c.onnx"), f.in("q.onnx")
	ok(t, "circulant", m, "--block", "4", "--fit", "frobenius", "--only", "layers.[0-3]", "-o", c)
	ok(t, "quantize", c, "--data", d, "-o", q)
	args := []string{"verify", q, "--data", d, "--samples", "2"}
	v := object(t, args...)
	steps, _ := v["int16"].(map[string]any)
	if v["passed"] != true || steps == nil || !(steps["operators"].(float64) > 40 && steps["values"].(float64) > 1e5 && steps["steps"].(float64) <= 3) {
		t.Errorf("%v", v)
	}
	if s := ok(t, args...); !strings.Contains(s, "int16 operators") {
		t.Errorf("printed %q", s)
	}
	if v := object(t, "verify", c, "--data", d, "--samples", "2"); v["int16"] != nil {
		t.Errorf("without fixed point: %v", v["int16"])
	}
	for _, op := range []string{"MatMulInt16", "BlockCirculantMatMulInt16"} {
		model, err := graph.Load(q)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range model.Function(graph.LatheDomain, op, "").Graph.Nodes() {
			if n.Op == "Floor" {
				n.Op = "Neg"
			}
		}
		wrong := f.in(op + ".onnx")
		if err := model.Save(wrong, graph.SaveOptions{}); err != nil {
			t.Fatal(err)
		}
		r := lathe("verify", wrong, "--data", d, "--samples", "2", "--json")
		if r.code != exitFailed || decode(t, r.out)["passed"] != false || !strings.Contains(r.err, "steps between kernel and body") {
			t.Errorf("a wrong body of %s: status %d, %s", op, r.code, r.err)
		}
	}
}

// TestOptimize: the whole way, from flags and from a recipe.
func TestOptimize(t *testing.T) {
	f := newFolder(t)
	m, d, e := f.in("model.onnx"), f.in("calib.npz"), f.in("eval.npz")
	args := []string{"optimize", m, "--data", d, "--eval-data", e, "--labels", "labels", "--drop", "2", "--block", "4", "--fit-samples", "8", "--heal", "0"}
	v := object(t, append(args, "-o", f.in("small.onnx"), "--report", f.in("r.html"))...)
	list := keys(t, v, "models", map[string]string{"name": "text", "control": "bool", "dropped": "list", "metric": "text", "value": "number",
		"ci95": "list", "kl": "number", "ms_per_sample": "number", "parameters": "number", "flops": "number", "bytes": "number", "sdr": "number|null"})
	var names []string
	for _, x := range list {
		names = append(names, x["name"].(string))
	}
	want := []string{"original", "modules dropped", "block-circulant, b = 4", "control: dropped by random", "control: dropped by deepest"}
	if !slices.Equal(names, want) {
		t.Errorf("compared %v, want %v", names, want)
	}
	keys(t, v, "rewritten", map[string]string{"node": "text", "relative_error": "number"})
	if dropped := v["dropped"].([]any); len(dropped) != 2 || v["same_data"] != false {
		t.Errorf("dropped %v, same_data %v", dropped, v["same_data"])
	}
	if page := f.read(t, "r.html"); !strings.Contains(page, "model.onnx") {
		t.Error("the report does not name the model")
	}
	if int(list[2]["bytes"].(float64)) != len(f.read(t, "small.onnx")) {
		t.Errorf("the file has %d bytes, reported are %v", len(f.read(t, "small.onnx")), list[2]["bytes"])
	}

	recipe := f.write(t, "r.yaml", []byte("drop: 1\nblock: 4\nfit-samples: 4\nmode: mlp\nheal: 0\ncontrols: false\ndata: "+d+"\nmap:\n  - features=features\n"))
	v = object(t, "optimize", m, "--recipe", recipe, "--drop", "3", "--dry-run")
	if dropped := fmt.Sprint(v["dropped"]); strings.Count(dropped, "M") != 3 || strings.Contains(dropped, "A") {
		t.Errorf("--drop 3 over a recipe with mode mlp dropped %s", dropped)
	}
	if v["same_data"] != true || len(keys(t, v, "models", nil)) != 3 {
		t.Errorf("same_data %v, models %v", v["same_data"], v["models"])
	}

	// Without a recipe a healing follows each change, and ends where the loss is
	// that of the original.
	for target, steps := range map[string]float64{"0": 2, "1000": 0} {
		v = object(t, "optimize", m, "--data", d, "--drop", "1", "--block", "4", "--fit-samples", "4", "--heal", "2", "--heal-target", target, "--controls=false", "--dry-run")
		names = nil
		for _, x := range keys(t, v, "models", nil) {
			names = append(names, x["name"].(string))
		}
		want = []string{"original", "modules dropped", "modules dropped, healed", "block-circulant, b = 4", "block-circulant, b = 4, healed"}
		if !slices.Equal(names, want) {
			t.Errorf("compared %v, want %v", names, want)
		}
		for _, h := range keys(t, v, "healings", nil) {
			if h["steps"] != steps {
				t.Errorf("--heal-target %s: healed for %v steps, want %v", target, h["steps"], steps)
			}
		}
	}

	// Steps, each with settings of its own.
	recipe = f.write(t, "r.yaml", []byte(`controls: false
labels: labels
steps:
  - drop: {count: 2, mode: attention}
  - heal: {steps: 2, batch: 4}
  - budget: {budget: params=0.9, search-blocks: [2, 4], search-modules: false, only: "layers.[01]", loss-samples: 4}
  - circulant: {block: 4, fit-samples: 4, skip: "layers.[01]"}
`))
	v = object(t, "optimize", m, "--data", d, "--recipe", recipe, "--dry-run")
	names = nil
	for _, x := range keys(t, v, "models", nil) {
		names = append(names, x["name"].(string))
	}
	if want := []string{"original", "modules dropped", "modules dropped, healed", "block-circulant, b = 2 … 4", "block-circulant, b = 2 … 4"}; !slices.Equal(names, want) {
		t.Errorf("compared %v, want %v", names, want)
	}
	if len(v["healings"].([]any)) != 1 || len(v["curve"].([]any)) < 2 || strings.Contains(fmt.Sprint(v["dropped"]), "M") {
		t.Errorf("healings %v, curve %v, dropped %v", v["healings"], v["curve"], v["dropped"])
	}

	// Fixed point comes last, as a flag and as a step with settings.
	v = object(t, "optimize", m, "--data", d, "--drop", "1", "--heal", "0", "--int16", "--controls=false", "-o", f.in("int16.onnx"))
	list = keys(t, v, "models", nil)
	if last := list[len(list)-1]; last["name"] != "modules dropped, int16" || int(last["bytes"].(float64)) != len(f.read(t, "int16.onnx")) {
		t.Errorf("the last model is %v", last)
	}
	v = object(t, "optimize", m, "--data", d, "--drop", "1", "--heal", "0", "--int16", "--compact", "--controls=false", "-o", f.in("compact.onnx"))
	if a, b := len(f.read(t, "compact.onnx")), len(f.read(t, "int16.onnx")); a >= b*9/10 {
		t.Errorf("compact takes %d bytes of %d", a, b)
	}
	perLayer := object(t, "eval", m, f.in("int16.onnx"), "--data", e, "--metric", "sqnr", "--per-layer", "--samples", "4")["layers"]
	if got := object(t, "eval", m, f.in("compact.onnx"), "--data", e, "--metric", "sqnr", "--per-layer", "--samples", "4")["layers"]; fmt.Sprint(got) != fmt.Sprint(perLayer) {
		t.Errorf("layers of the compact file %v, of the other %v", got, perLayer)
	}
	keys(t, v, "quantized", map[string]string{"node": "text", "op": "text", "exponent_in": "number"})
	all := len(v["quantized"].([]any))
	recipe = f.write(t, "r.yaml", []byte("controls: false\nsteps:\n  - quantize: {only: \"layers.1\", range: percentile, percentile: 99.9, rounding: circnn, range-samples: 4}\n  - compact: {}\n"))
	v = object(t, "optimize", m, "--data", d, "--recipe", recipe, "--dry-run")
	if some := len(v["quantized"].([]any)); some == 0 || some >= all {
		t.Errorf("%d layers quantized of %d", some, all)
	}
	if q := keys(t, v, "quantized", nil)[0]; !strings.Contains(q["node"].(string), "layers.1") {
		t.Errorf("quantized %v", q)
	}
	recipe = f.write(t, "r.yaml", []byte("steps:\n- quantize: {}\n- heal: {steps: 2}\n"))
	refused(t, []string{"step 2 cannot heal", "quantize last"}, "optimize", m, "--data", d, "--recipe", recipe, "--dry-run")
}

func TestRecipe(t *testing.T) {
	f := newFolder(t)
	for _, c := range []struct{ text, words string }{
		{"", "flag: value"},
		{"- 4", "flag: value"},
		{"drop", "flag: value"},
		{"drop: [", "yaml"},
		{"dorp: 4", `:1|"dorp"|did you mean --drop`},
		{"drop: 4\nblock: two", ":2|two|whole number"},
		{"drop: 1\ndrop: 2", "drop"},
		{"drop: [1, 2]", ":1|one value"},
		{"drop: {a: 1}", ":1|one value"},
		{"drop:", ":1|one value"},
		{"mode: heads", "joint, attention, mlp or block"},
		{"recipe: r.yaml", `"recipe"`},
		{"steps: 4", ":1|steps of the form"},
		{"steps:\n- drop", ":2|steps of the form"},
		{"steps:\n- drop: {count: 1}\n  heal: {}", ":2|steps of the form"},
		{"steps:\n- polish: {}", `:2|"polish"|drop, heal`},
		{"steps:\n- drop: {}", ":2|needs a count"},
		{"steps:\n- drop: {cuont: 1}", `:2|"cuont"`},
		{"steps:\n- circulant: {fit: lsq}", ":2|block size"},
		{"steps:\n- budget: {}", ":2|what is to be left"},
		{"steps:\n- quantize: {rounding: up}", ":2|rounding|circnn"},
		{"steps:\n- drop: {count: 1}\nint16: true", "lists steps"},
		{"steps:\n- drop: {count: 1}\ncompact: true", "lists steps"},
		{"steps:\n- compact: {names: false}", `:2|"names"`},
		{"steps:\n- drop: {count: 1}\nblock: 4", "lists steps"},
		{"help: true", `"help"`},
		{"a: &a [1,1]\nb: &b [*a,*a]\ndrop: *b", "no setting"},
		{strings.Repeat("#", 2<<20), "megabyte"},
	} {
		path := f.write(t, "r.yaml", []byte(c.text))
		refused(t, append(strings.Split(c.words, "|"), "r.yaml"), "optimize", f.in("model.onnx"), "--data", f.in("calib.npz"), "-o", f.in("o.onnx"), "--recipe", path)
	}
}

// TestForce: an output takes the place of an input only when that is forced.
func TestForce(t *testing.T) {
	f := newFolder(t)
	m := f.in("model.onnx")
	if err := os.Symlink("model.onnx", f.in("link.onnx")); err != nil {
		t.Skip(err)
	}
	t.Chdir(f.dir)
	before := f.read(t, "model.onnx")
	for _, out := range []string{m, "model.onnx", "./model.onnx", "link.onnx"} {
		refused(t, []string{"is also an input"}, "drop", m, "--modules", "A0", "-o", out)
	}
	if f.read(t, "model.onnx") != before {
		t.Fatal("the input was changed")
	}
	ok(t, "drop", m, "--modules", "A0", "-o", m, "--force")
	if got := ids(keys(t, object(t, "inspect", m), "modules", nil)); slices.Contains(got, "A0") {
		t.Errorf("forced, and still there: %v", got)
	}
}

// TestStreams: --json and --quiet keep standard output and standard error
// clean, remarks are on standard error, and output that cannot be written is
// an error.
func TestStreams(t *testing.T) {
	f := newFolder(t)
	f.write(t, "other.npz", archive(t, npz.Float32Array("x", []int{2, testmodels.WordFrames, testmodels.WordFeatures},
		make([]float32, 2*testmodels.WordFrames*testmodels.WordFeatures))))
	args := []string{"run", f.in("model.onnx"), "--data", f.in("other.npz")}
	if r := lathe(args...); r.code != 0 || !strings.Contains(r.err, `array "x" feeds input "features"`) || strings.Contains(r.out, "feeds") {
		t.Errorf("the remark is missing, or on standard output: %+v", r)
	}
	if r := lathe(append(args, "--quiet")...); r.code != 0 || r.err != "" {
		t.Errorf("--quiet says %q", r.err)
	}
	if r := lathe(append(args, "--expect", f.in("eval.npz"))...); r.code != exitBad || strings.Count(r.err, "\n") != 1 {
		t.Errorf("a failure with a remark has more than one line: %q", r.err)
	}
	var full failing
	if code := execute(context.Background(), []string{"inspect", f.in("model.onnx")}, full, &strings.Builder{}); code != exitBad {
		t.Errorf("status %d where standard output is full", code)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, os.ErrClosed }

// TestInterrupt: whenever the interrupt comes, the status is 130 and the
// folder is as it was before, or the command was done.
func TestInterrupt(t *testing.T) {
	f := newFolder(t)
	m, d := f.in("model.onnx"), f.in("calib.npz")
	before := f.list(t)
	for _, c := range [][]string{
		{"score", m, "--data", d, "-o", f.in("l.json"), "--moments"},
		{"drop", m, "--data", d, "--count", "2", "--select", "loss", "-o", f.in("o.onnx")},
		{"circulant", m, "--data", d, "--block", "4", "-o", f.in("o.onnx")},
		{"optimize", m, "--data", d, "--drop", "2", "--block", "4", "--heal", "3", "-o", f.in("o.onnx"), "--report", f.in("r.html")},
		{"run", m, "--data", d, "-o", f.in("o.npz")},
		{"eval", m, "--data", d, "--labels", "labels"},
		{"bench", m, "--runs", "100000"},
		{"verify", m, m, "--data", d},
		{"demo", "--dir", f.in("demo")},
	} {
		for _, after := range []time.Duration{0, 5 * time.Millisecond, 40 * time.Millisecond, 150 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(context.Background(), after)
			start := time.Now()
			r := latheContext(ctx, c...)
			cancel()
			took := time.Since(start) - after
			if r.code == 0 && after > 0 { // it was done before
				for _, name := range f.list(t) {
					if !slices.Contains(before, name) {
						os.RemoveAll(f.in(name))
					}
				}
				continue
			}
			if r.code != exitInterrupted || r.out != "" && c[0] != "demo" || strings.Count(r.err, "\n") != 1 {
				t.Errorf("%s after %v: status %d, %q, %q", c[0], after, r.code, r.out, r.err)
			}
			if got := f.list(t); !slices.Equal(got, before) {
				t.Errorf("%s after %v: left %v, there was %v", c[0], after, got, before)
			}
			if took > 10*time.Second {
				t.Errorf("%s: ends %v after the interrupt", c[0], took)
			}
		}
	}
}

func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	dir := filepath.Join(t.TempDir(), "new")
	r := lathe("demo", "--dir", dir, "--quiet")
	if r.code != 0 {
		t.Fatal(r.err)
	}
	f := folder{dir}
	if got, want := f.list(t), []string{"calib.npz", "demo.onnx", "eval.npz", "optimized.onnx", "report.html"}; !slices.Equal(got, want) {
		t.Errorf("wrote %v, want %v", got, want)
	}
	// What it says to try next works.
	for _, line := range strings.Split(r.out, "\n") {
		if rest, is := strings.CutPrefix(line, "  lathe "); is {
			ok(t, strings.Fields(rest)...)
		}
	}
	list := keys(t, object(t, "eval", f.in("demo.onnx"), f.in("optimized.onnx"), "--data", f.in("eval.npz"), "--labels", "labels"), "models", evalKeys)
	if a, b := list[0]["value"].(float64), list[1]["value"].(float64); a < 0.97 || b < 0.9 {
		t.Errorf("accuracy %v and %v, want 0.97 and 0.9 or more", a, b)
	}
}

// TestConvert: what comes out runs, says what was done, and has no function.
func TestConvert(t *testing.T) {
	f := newFolder(t)
	ok(t, "circulant", f.in("model.onnx"), "--block", "4", "--fit", "frobenius", "-o", f.in("circulant.onnx"))
	for _, form := range []string{"dense", "dft"} {
		v := object(t, "convert", f.in("circulant.onnx"), "--inline-circulant", form, "-o", f.in(form+".onnx"))
		if n := len(v["inlined"].([]any)); n == 0 || v["output"] != f.in(form+".onnx") || v["parameters_after"].(float64) <= v["parameters_before"].(float64) {
			t.Errorf("%s: %v", form, v)
		}
		if text := ok(t, "text", f.in(form+".onnx")); strings.Contains(text, "lathe.Block") || strings.Contains(text, `"lathe"`) {
			t.Errorf("%s: an operator or an import of lathe is left", form)
		}
		ok(t, "verify", f.in("circulant.onnx"), f.in(form+".onnx"), "--data", f.in("calib.npz"))
	}
	for _, c := range []struct{ args, want string }{
		{"circulant.onnx -o x.onnx", "--inline-circulant dense or dft"},
		{"circulant.onnx --inline-circulant sparse -o x.onnx", "want dense or dft"},
		{"circulant.onnx --inline-circulant dft", "-o OUT.onnx"},
		{"model.onnx --inline-circulant dft --dry-run", "no functions"},
		{"circulant.onnx --inline-circulant dft -o circulant.onnx", "also an input"},
	} {
		args := strings.Fields(c.args)
		for i, x := range args {
			if strings.HasSuffix(x, ".onnx") {
				args[i] = f.in(x)
			}
		}
		if r := lathe(append([]string{"convert"}, args...)...); r.code != exitBad || !strings.Contains(r.err, c.want) || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%s: status %d, %q; want %q", c.args, r.code, r.err, c.want)
		}
	}
}

// TestDiff: what each command did to a model shows.
func TestDiff(t *testing.T) {
	f := newFolder(t)
	ok(t, "drop", f.in("model.onnx"), "--modules", "M7,A6", "-o", f.in("drop.onnx"))
	ok(t, "circulant", f.in("model.onnx"), "--block", "4", "--fit", "frobenius", "-o", f.in("circulant.onnx"))
	if out := ok(t, "diff", f.in("model.onnx"), f.in("drop.onnx")); !strings.Contains(out, "dropped    A6 M7\n") && !strings.Contains(out, "dropped    M7 A6\n") || !strings.Contains(out, "− node") || strings.Contains(out, "+ node") {
		t.Errorf("drop:\n%s", out)
	}
	if out := ok(t, "diff", f.in("model.onnx"), f.in("circulant.onnx")); !strings.Contains(out, "operators by rewrite-circulant\n") || !strings.Contains(out, "→ lathe.BlockCirculantMatMul") {
		t.Errorf("circulant:\n%s", out)
	}
	if out := ok(t, "diff", f.in("model.onnx"), f.in("circulant.onnx"), "--quiet"); strings.Contains(out, "node ") || !strings.Contains(out, "functions") {
		t.Errorf("counts alone:\n%s", out)
	}
	v := object(t, "diff", f.in("model.onnx"), f.in("drop.onnx"))
	for _, key := range []string{"a", "b", "same", "difference", "dropped", "rewritten", "parameters_before", "parameters_after", "bytes_before", "bytes_after"} {
		if _, ok := v[key]; !ok {
			t.Errorf("no key %q", key)
		}
	}
	if out := ok(t, "diff", f.in("model.onnx"), f.in("model.onnx"), "--exit-code"); !strings.Contains(out, "no difference") {
		t.Errorf("the same model:\n%s", out)
	}
	if r := lathe("diff", f.in("model.onnx"), f.in("drop.onnx"), "--exit-code"); r.code != exitFailed || !strings.Contains(r.err, "differ") {
		t.Errorf("status %d, %q", r.code, r.err)
	}
	if r := lathe("diff", f.in("model.onnx")); r.code != exitBad || !strings.Contains(r.err, "two models") {
		t.Errorf("status %d, %q", r.code, r.err)
	}
}
