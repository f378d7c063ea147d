package graph

import (
	"slices"
	"testing"
)

// Facts of the ONNX operator documentation that a wrong table would get wrong
// for every model.
func TestLookupSchema(t *testing.T) {
	for _, c := range []struct {
		domain, op string
		opset      int64
		since      int64 // 0: not found
		in, out    [2]int
	}{
		{"", "Add", 6, 6, [2]int{2, 2}, [2]int{1, 1}},
		{"", "Add", 7, 7, [2]int{2, 2}, [2]int{1, 1}},
		{"", "Add", 12, 7, [2]int{2, 2}, [2]int{1, 1}},
		{"ai.onnx", "Add", 28, 14, [2]int{2, 2}, [2]int{1, 1}},
		{"", "Clip", 11, 11, [2]int{1, 3}, [2]int{1, 1}},
		{"", "Conv", 17, 11, [2]int{2, 3}, [2]int{1, 1}},
		{"", "Concat", 13, 13, [2]int{1, maxArity}, [2]int{1, 1}},
		{"", "Loop", 16, 16, [2]int{2, maxArity}, [2]int{1, maxArity}},
		{"", "If", 16, 16, [2]int{1, 1}, [2]int{1, maxArity}},
		{"", "GRU", 1, 1, [2]int{3, 6}, [2]int{2, 2}},
		{"", "LayerNormalization", 17, 17, [2]int{2, 3}, [2]int{1, 3}},
		{"", "LayerNormalization", 16, 0, [2]int{}, [2]int{}},
		{"", "Upsample", 10, 10, [2]int{2, 2}, [2]int{1, 1}},
		{"", "Relu", 1000, 0, [2]int{}, [2]int{}},
		{"", "NoSuchOperator", 17, 0, [2]int{}, [2]int{}},
		{"my.domain", "Add", 7, 0, [2]int{}, [2]int{}},
		{"com.microsoft", "SkipLayerNormalization", 1, 1, [2]int{3, 5}, [2]int{1, 4}},
	} {
		s, ok := LookupSchema(c.domain, c.op, c.opset)
		if ok != (c.since != 0) {
			t.Errorf("%s.%s at %d: found %v", c.domain, c.op, c.opset, ok)
			continue
		}
		if !ok {
			continue
		}
		in, out := [2]int{s.MinInputs, s.MaxInputs}, [2]int{s.MinOutputs, s.MaxOutputs}
		if s.Since != c.since || in != c.in || out != c.out {
			t.Errorf("%s.%s at %d: since %d in %v out %v, want %d %v %v", c.domain, c.op, c.opset, s.Since, in, out, c.since, c.in, c.out)
		}
	}
}

func TestSchemaAttributes(t *testing.T) {
	conv, _ := LookupSchema("", "Conv", 17)
	if a := conv.Attr("auto_pad"); a == nil || a.Type != AttrString || string(a.Default.S) != "NOTSET" {
		t.Errorf("Conv auto_pad is %+v", a)
	}
	if a := conv.Attr("group"); a == nil || a.Default.I != 1 || a.Required {
		t.Errorf("Conv group is %+v", a)
	}
	if a := conv.Attr("kernel_shape"); a == nil || a.Type != AttrInts || a.Default != nil {
		t.Errorf("Conv kernel_shape is %+v", a)
	}
	gemm, _ := LookupSchema("", "Gemm", 13)
	if a := gemm.Attr("alpha"); a == nil || a.Default.F != 1 {
		t.Errorf("Gemm alpha is %+v", a)
	}
	rnn, _ := LookupSchema("", "RNN", 14)
	if a := rnn.Attr("activations"); a == nil || len(a.Default.Strings) != 2 || string(a.Default.Strings[1]) != "Tanh" {
		t.Errorf("RNN activations is %+v", a)
	}
	concat, _ := LookupSchema("", "Concat", 13)
	if a := concat.Attr("axis"); a == nil || !a.Required {
		t.Errorf("Concat axis is %+v", a)
	}
	if concat.Attr("axes") != nil {
		t.Error("Concat has an attribute axes")
	}
}

func TestSchemaTypes(t *testing.T) {
	gather, _ := LookupSchema("", "Gather", 13)
	for _, c := range []struct {
		input int
		typ   *Type
		want  bool
	}{
		{0, TensorType(String), true},
		{1, TensorType(Int32), true},
		{1, TensorType(Float32), false},
		{1, nil, true},
		{0, &Type{Kind: KindSequence, Sub: TensorType(Float32)}, false},
	} {
		if got := gather.Input(c.input).Allows(c.typ); got != c.want {
			t.Errorf("Gather input %d allows %+v: %v, want %v", c.input, c.typ, got, c.want)
		}
	}
	at, _ := LookupSchema("", "SequenceAt", 11)
	if !at.Input(0).Allows(&Type{Kind: KindSequence, Sub: TensorType(Float32)}) || at.Input(0).Allows(TensorType(Float32)) {
		t.Error("SequenceAt takes a sequence of tensors and no tensor")
	}
	slice, _ := LookupSchema("", "Concat", 13)
	if slice.Input(7) == nil || slice.Input(7).Name != "inputs" || slice.Output(1) != nil {
		t.Error("Concat's variadic input or its single output is lost")
	}
}

// Every line of the table is well formed: constraints resolve, parameters
// after a variadic do not exist, versions ascend.
func TestSchemaTableIsConsistent(t *testing.T) {
	table := schemas()
	n := 0
	for key, list := range table.ops {
		for i, s := range list {
			n++
			if i > 0 && list[i-1].Since >= s.Since {
				t.Errorf("%v: versions %d, %d do not ascend", key, list[i-1].Since, s.Since)
			}
			for _, p := range slices.Concat(s.Inputs, s.Outputs) {
				if p.types == nil {
					t.Errorf("%v-%d: %s has the type %q, which is no constraint", key, s.Since, p.Name, p.TypeStr)
				}
			}
			for _, side := range [][]Param{s.Inputs, s.Outputs} {
				for k, p := range side {
					if p.Variadic && k != len(side)-1 {
						t.Errorf("%v-%d: variadic %s is not last", key, s.Since, p.Name)
					}
				}
			}
			for _, a := range s.Attrs {
				if a.Type == AttrUndefined || a.Required && a.Default != nil {
					t.Errorf("%v-%d: attribute %+v", key, s.Since, a)
				}
			}
		}
	}
	if n != 730 {
		t.Errorf("%d signatures, want 617 of ONNX and 113 of com.microsoft", n)
	}
}

func BenchmarkParseSchemas(b *testing.B) {
	for b.Loop() {
		if _, err := parseSchemas(schemaText); err != nil {
			b.Fatal(err)
		}
	}
}
