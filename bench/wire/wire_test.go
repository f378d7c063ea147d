package wire

import (
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

func model(edit func(m, g *Message)) *Message {
	g := (&Message{Type: "GraphProto"}).AddText("name", "g").
		AddMessage("node", (&Message{Type: "NodeProto"}).AddText("op_type", "Relu").AddText("input", "x").AddText("output", "y")).
		AddMessage("initializer", (&Message{Type: "TensorProto"}).AddInt("dims", 2).AddInt("dims", 0).AddText("name", "w"))
	m := (&Message{Type: "ModelProto"}).AddInt("ir_version", 8).AddMessage("graph", g)
	if edit != nil {
		edit(m, g)
	}
	return m
}

func TestRoundTrip(t *testing.T) {
	want := model(nil)
	got, err := Parse(want.Append(nil), "ModelProto")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Packed and unpacked integers are the same field.
func TestPacked(t *testing.T) {
	packed := protowire.AppendTag(nil, 1, protowire.BytesType)
	packed = protowire.AppendBytes(packed, []byte{2, 0})
	got, err := Parse(packed, "TensorProto")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Ints("dims"), []int64{2, 0}) {
		t.Errorf("dims %v", got.Ints("dims"))
	}
}

func TestDiff(t *testing.T) {
	for _, c := range []struct {
		what, want string // want: the place; "" for none
		edit       func(m, g *Message)
	}{
		{"the same", "", nil},
		{"another order of fields", "", func(m, g *Message) { m.Fields[0], m.Fields[1] = m.Fields[1], m.Fields[0] }},
		{"an explicit zero", "ModelProto.model_version: present 0 times against 1", func(m, g *Message) { m.AddInt("model_version", 0) }},
		{"an explicit empty string", "ModelProto.graph.doc_string: present", func(m, g *Message) { g.AddText("doc_string", "") }},
		{"a name", `ModelProto.graph.node.input: "x" against "z"`, func(m, g *Message) { g.Message("node").All("input")[0].Bytes = []byte("z") }},
		{"an order of dims", "ModelProto.graph.initializer.dims[0]: 2 against 0", func(m, g *Message) {
			d := g.Message("initializer").All("dims")
			*d[0], *d[1] = *d[1], *d[0]
		}},
		{"a field of the future", "ModelProto.unknown field 999: present 0 times against 1", func(m, g *Message) {
			m.Fields = append(m.Fields, Field{Number: 999, Wire: protowire.VarintType, Bits: 1})
		}},
	} {
		got := strings.Join(Diff(model(nil), model(c.edit), 10), "\n")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.what, got, c.want)
		}
	}
}

func TestBrokenInput(t *testing.T) {
	whole := model(nil).Append(nil)
	for n := 1; n < len(whole); n++ {
		if m, err := Parse(whole[:n], "ModelProto"); err == nil && len(Diff(m, model(nil), 1)) == 0 {
			t.Errorf("%d of %d bytes read as the whole", n, len(whole))
		}
	}
}

// Scrambling renames every name once and leaves the graph connected.
func TestScrambleNames(t *testing.T) {
	m := model(func(_, g *Message) {
		g.AddMessage("node", (&Message{Type: "NodeProto"}).AddText("op_type", "Clip").AddText("input", "y").AddText("input", "").AddText("input", "w").AddText("output", "z"))
		g.AddMessage("output", (&Message{Type: "ValueInfoProto"}).AddText("name", "z"))
	})
	m.ScrambleNames()
	g := m.Message("graph")
	relu, clip := g.Messages("node")[0], g.Messages("node")[1]
	if in := clip.Texts("input"); in[0] != relu.Texts("output")[0] || in[1] != "" || in[2] != g.Message("initializer").Text("name") {
		t.Errorf("Clip reads %q, Relu gives %q, the initializer is %q", in, relu.Texts("output"), g.Message("initializer").Text("name"))
	}
	if clip.Texts("output")[0] != g.Message("output").Text("name") {
		t.Error("the output has another name than its value")
	}
	if relu.Text("op_type") != "Relu" {
		t.Error("an operator was renamed")
	}
	for _, f := range model(nil).Message("graph").Messages("node")[0].Texts("input") {
		if f == relu.Texts("input")[0] {
			t.Errorf("%q kept its name", f)
		}
	}
}
