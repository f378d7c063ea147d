package main

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/onnx-lathe/lathe/graph"
)

// writeCase makes a test case in ONNX's layout of a model with one input and
// one output, both float vectors.
func writeCase(t *testing.T, dir, model string, input, output []float32) {
	t.Helper()
	m, err := graph.Parse(model)
	if err != nil {
		t.Fatal(err)
	}
	set := filepath.Join(dir, "test_data_set_0")
	if err := os.MkdirAll(set, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := m.Save(filepath.Join(dir, "model.onnx"), graph.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string][]float32{"input_0.pb": input, "output_0.pb": output} {
		var raw []byte
		for _, v := range x {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
		}
		b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(len(x))) // dims
		b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), 1)                 // data_type
		b = protowire.AppendBytes(protowire.AppendTag(b, 9, protowire.BytesType), raw)                 // raw_data
		if err := os.WriteFile(filepath.Join(set, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestConformance: what passes, what fails and what is known to are told
// apart, in the text, the object and the exit status.
func TestConformance(t *testing.T) {
	f := newFolder(t)
	const relu = `<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Relu (x) }`
	writeCase(t, f.in("tests/suite/test_relu"), relu, []float32{-1, 2}, []float32{0, 2})
	v := object(t, "conformance", f.in("tests"))
	if v["total"] != 1.0 || v["passed"] != 1.0 || v["failed"] != 0.0 || v["skipped"] != 0.0 {
		t.Errorf("one case that passes gives %v", v)
	}
	list := keys(t, v, "operators", map[string]string{"name": "text", "total": "number", "passed": "number", "failed": "number", "skipped": "number"})
	if list[0]["name"] != "Relu" {
		t.Errorf("operators %v", list)
	}
	const noise = `<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Bernoulli (x) }`
	writeCase(t, f.in("tests/suite/test_bernoulli"), noise, []float32{-1, 2}, []float32{0, 2})
	writeCase(t, f.in("tests/suite/test_wrong"), relu, []float32{-1, 2}, []float32{0, 3})
	r := lathe("conformance", f.in("tests"), "-o", f.in("operators.md"))
	if r.code != exitFailed {
		t.Errorf("exit status %d where a case fails, want 1", r.code)
	}
	for _, want := range []string{"suite/test_wrong", "element 1 of [2] is 2, want 3", "1 cases: random output"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("the table does not hold %q:\n%s", want, r.out)
		}
	}
	if md := f.read(t, "operators.md"); !strings.Contains(md, "| Relu | 6+ | 2 | 1 | 0 |") {
		t.Errorf("the Markdown table is\n%s", md)
	}
}
