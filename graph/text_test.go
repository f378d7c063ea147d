package graph

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// mustParse parses a model that the test wrote itself.
func mustParse(t testing.TB, text string) *Model {
	t.Helper()
	m, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const mlpText = `<
  ir_version: 8,
  opset_import: ["": 17, "lathe": 1],
  producer_name: "pytorch",
  producer_version: "1.13",
  metadata_props: ["note": "a \"b\" \\ c\n"]
>
main_graph (float[batch,4] x, float[4,3] w) => (float[batch,3] y)
<
  float[4,3] w = {1, -2.5, 1e-09, inf, -inf, nan, 0, 0, 0, 0, 0, 1e+30},
  int64[1] axes = {-1},
  float scalar = {0.1},
  float[0] empty = {},
  string[2] words = {"a", "b\x00\xff"},
  uint4[3] nibbles = {1, 2, 15},
  int4[3] signed = {-8, 7, -1},
  complex64[1] z = {1, -0.5},
  double big = {3.14159},
  bool[2] flags = {1, 0},
  sparse_tensor(float[3,4]) s = {float[2] s {7, 8}, int64[2] {1, 5}},
  float[batch,3] h
>
{
  ["/fc/MatMul"] h = MatMul (x, w)
  "h:0", "" = Dropout (h, "", "")
  y = com.microsoft.Gelu <alpha = 1.0, axis = 1, axes = [1, 2], names = ["a", "b"], scale = [0.5, 1.0], none: ints = [], t = int64[2] {1, 2}> ("h:0")
}
`

const controlText = `<
  ir_version: 10,
  opset_import: ["": 21]
>
"" (bool cond, float[N] x) => (y) @doc "two\nlines" @meta ["k": "v"]
{
  c = Constant <value_float = -0.0> () @doc "zero"
  y = If (cond) <
    then_branch = then () => (float[N] t)
    <
      float one = {1}
    >
    {
      t = Add (x, one)
    },
    else_branch = "else branch" () => (e)
    {
      e = lathe.Twice:v2 <times: int = @n, kind = seq(optional(map(string, float[1,"a+b",?])))> (x, c)
    }
  >
}
<
  domain: "lathe",
  opset_import: ["": 21],
  overload: "v2"
>
Twice <n, alpha = 2.0> (a, b) => (r)
<
  float[M] r
>
{
  r = Mul <k: int = @n> (a, b)
}
`

// textCases are printed as they stand.
var textCases = map[string]string{"mlp": mlpText, "control": controlText}

func TestTextRoundTrip(t *testing.T) {
	for name, text := range textCases {
		t.Run(name, func(t *testing.T) {
			m := mustParse(t, text)
			if got := m.Text(); got != text {
				t.Errorf("printed\n%s\nwant\n%s", got, text)
			}
		})
	}
}

// A model that was built field by field comes back with every field.
func TestTextCarriesEveryField(t *testing.T) {
	m, iff := chain(t)
	m.ProducerVersion, m.Domain, m.ModelVersion, m.Doc = "0.1", "d", 3, "doc"
	m.Metadata = []Metadata{{Key: "k", Value: "v"}}
	m.Graph.Doc, m.Graph.Metadata = "g", []Metadata{{Key: "a", Value: "b"}}
	m.Graph.Value("x").Doc = "an input"
	m.Graph.Value("cond").Const.Name = "cond"
	m.Graph.Value("a").Declared, m.Graph.Value("a").Doc = TensorType(Float32, Symbol("n/2"), UnknownDim), "inner"
	iff.Doc, iff.Metadata, iff.Overload = "d", []Metadata{{Key: "x", Value: "y"}}, "o"
	tensor := Float32Tensor([]int64{2}, []float32{1, float32(math.Copysign(0, -1))})
	tensor.Name, tensor.Doc = "name", "doc"
	sparse := &SparseTensor{Values: Float32Tensor([]int64{1}, []float32{1}), Indices: Int64Tensor([]int64{1}, []int64{3}), Dims: []int64{2, 2}}
	all := m.Graph.NewNode("x.y", "All", "", []*Value{nil, m.Graph.Value("a")}, []string{"", "all"},
		IntAttr("int", -3), FloatAttr("float", 2), StringAttr("string", "\xff\"\\"), TensorAttr("tensor", tensor),
		IntsAttr("ints", 1, 2), FloatsAttr("floats", []float32{1, float32(math.Inf(-1))}),
		&Attr{Name: "strings", Type: AttrStrings, Strings: [][]byte{[]byte("a"), {}}},
		&Attr{Name: "tensors", Type: AttrTensors, Tensors: []*Tensor{tensor, tensor}},
		&Attr{Name: "sparse", Type: AttrSparse, Sparse: sparse},
		&Attr{Name: "sparses", Type: AttrSparses, Sparses: []*SparseTensor{sparse}},
		&Attr{Name: "type", Type: AttrTypeProto, TP: &Type{Kind: KindTensor, Elem: Float16}},
		&Attr{Name: "types", Type: AttrTypes, Types: []*Type{{Kind: KindMap, Key: Int64, Sub: TensorType(String)}, {Kind: KindOpaque}, {}}},
		&Attr{Name: "empty", Type: AttrGraphs, Doc: "no graphs"},
	)
	if all.Name != "" {
		t.Fatal("the test needs a node without a name")
	}
	f := m.AddFunction("dom", "F", Opset{Version: 17})
	f.Overload, f.Doc, f.Metadata, f.AttrNames = "o", "d", []Metadata{{Key: "1", Value: "2"}}, []string{"a b"}
	f.AttrDefaults = []*Attr{FloatAttr("alpha", 0.5)}
	in := f.Graph.AddInput("in", nil)
	f.Graph.AddOutput(f.Graph.NewNode("", "Elu", "", []*Value{in}, []string{"out"}, &Attr{Name: "alpha", Type: AttrFloat, Ref: "alpha"}).Output(0), nil)

	got := mustParse(t, m.Text())
	if diff := differ(reflect.ValueOf(m), reflect.ValueOf(got), map[uintptr]bool{}); diff != "" {
		t.Errorf("Parse(Text()) differs: %s\n%s", diff, m.Text())
	}
}

// differ compares everything reachable, "" if it is the same. Empty and
// missing lists are the same; what inference found and the place of a file do
// not belong to a model's text.
func differ(a, b reflect.Value, seen map[uintptr]bool) string {
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			if a.IsNil() != b.IsNil() {
				return fmt.Sprintf(" nil %v and %v", a.IsNil(), b.IsNil())
			}
			return ""
		}
		if seen[a.Pointer()] {
			return ""
		}
		seen[a.Pointer()] = true
		return differ(a.Elem(), b.Elem(), seen)
	case reflect.Struct:
		for i := range a.NumField() {
			name := a.Type().Field(i).Name
			if slices.Contains([]string{"origin", "path", "inferred"}, name) {
				continue
			}
			if d := differ(a.Field(i), b.Field(i), seen); d != "" {
				return "." + name + d
			}
		}
	case reflect.Slice:
		if a.Len() != b.Len() {
			return fmt.Sprintf(" length %d and %d", a.Len(), b.Len())
		}
		for i := range a.Len() {
			if d := differ(a.Index(i), b.Index(i), seen); d != "" {
				return fmt.Sprintf("[%d]%s", i, d)
			}
		}
	case reflect.Map:
		if a.Len() != b.Len() {
			return fmt.Sprintf(" length %d and %d", a.Len(), b.Len())
		}
		for _, k := range a.MapKeys() {
			if !b.MapIndex(k).IsValid() {
				return fmt.Sprintf("[%v] missing", k)
			}
			if d := differ(a.MapIndex(k), b.MapIndex(k), seen); d != "" {
				return fmt.Sprintf("[%v]%s", k, d)
			}
		}
	case reflect.Interface:
	default:
		if !a.Equal(b) && !(a.Kind() == reflect.Float32 && a.Float() != a.Float()) {
			return fmt.Sprintf(" %v and %v", a, b)
		}
	}
	return ""
}

func TestTextEveryElementType(t *testing.T) {
	bytes := make([]byte, 64)
	for i := range bytes {
		bytes[i] = byte(i*37 + 200)
	}
	for d := Float32; d.Known(); d++ {
		if d == String {
			continue
		}
		n := int64(64 * 8 / d.Bits())
		w, err := NewTensor(d, []int64{n}, bytes)
		if err != nil {
			t.Fatal(err)
		}
		m := NewModel("g", 10, 21)
		m.Graph.AddInitializer("w", w)
		got := mustParse(t, m.Text()).Graph.Value("w").Const
		if got.DType != d || !slices.Equal(got.raw, bytes) {
			t.Errorf("%v: %x became %x", d, bytes, got.raw)
		}
	}
	// NaN payloads survive.
	nans := Float32Tensor([]int64{3}, []float32{math.Float32frombits(0x7fc00001), math.Float32frombits(0xffc00000), math.Float32frombits(0x7f800001)})
	m := NewModel("g", 10, 21)
	m.Graph.AddInitializer("w", nans)
	if got := mustParse(t, m.Text()).Graph.Value("w").Const; !slices.Equal(got.raw, nans.raw) {
		t.Errorf("%s: %x became %x", m.Text(), nans.raw, got.raw)
	}
}

// What ONNX's own printer and test cases write is understood.
func TestParseUpstreamForms(t *testing.T) {
	m := mustParse(t, `
<
  ir_version: 7,  # a comment
  opset_import: [ "" : 10 ]
>
agraph (float[N, 128] X, float[128, 10] W = {`+strings.Repeat("0,", 1279)+`0}, float B) => (float[N] C)
<float[2] bias = {1.0, 2e0}, int64 one>
{
  [label] one = Constant <value = int64 v {1}> ()
  T = MatMul(X, W)
  S = Clip (T, , B)
  C = foo.bar.Softmax(S, one, "") <axis : int = 1, f: floats = [1, 2], alpha = nan, keys = ["x"], list = [1, 2.5]>
}
`)
	g := m.Graph
	if w := g.Value("W"); !w.IsInput() || w.Const == nil || len(g.Inputs()) != 3 {
		t.Errorf("W is not an input with a default: %+v", w)
	}
	nodes := g.Nodes()
	if clip := nodes[2]; len(clip.Inputs()) != 3 || clip.Inputs()[1] != nil {
		t.Errorf("Clip has the inputs %v", clip.Inputs())
	}
	soft := nodes[3]
	if soft.Domain != "foo.bar" || soft.Op != "Softmax" || soft.Int("axis", 0) != 1 || len(soft.Inputs()) != 3 {
		t.Errorf("parsed %v with axis %d and %d inputs", soft, soft.Int("axis", 0), len(soft.Inputs()))
	}
	if f := soft.Attr("f"); f.Type != AttrFloats || !slices.Equal(f.Floats, []float32{1, 2}) {
		t.Errorf("f is %+v", f)
	}
	if f := soft.Attr("list"); f.Type != AttrFloats || !slices.Equal(f.Floats, []float32{1, 2.5}) {
		t.Errorf("list is %+v", f)
	}
	if a := soft.Attr("alpha"); a.Type != AttrFloat || a.F == a.F {
		t.Errorf("alpha is %+v", a)
	}
	if nodes[0].Attr("value").T.Name != "v" || g.Value("one").ConstTensor().Len() != 1 {
		t.Errorf("value is %+v", nodes[0].Attr("value").T)
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "text 1:1: expected a name, found the end"},
		{"g () => () {\n  y = Relu (x)\n}", `text 2:13: nothing defines "x"`},
		{"g (x) => (y) {\n  y = Relu (x) \n y = Relu (x)}", `text 3:2: "y" is defined already`},
		{"g (x, x) => () {}", `text 1:7: "x" is defined already`},
		{"g () => (y) {}", `text 1:10: nothing defines the output "y"`},
		{"g () => () <float[2] w = {1}> {}", "text 1:22: float[2] has 2 elements, the data 1"},
		{"g () => () <float[2] w = {1, 2, 3}> {}", "text 1:22: float[2] has 2 elements, the data 3"},
		{"g () => () <float[1152921504606846976,64] w = {1}> {}", "text 1:43: data needs fixed dims, found float[1152921504606846976,64]"},
		{"g () => () <float[99999999999] w = {}> {}", "text 1:32: float[99999999999] has 99999999999 elements, the data 0"},
		{"g () => () <float[N] w = {1}> {}", "text 1:22: data needs fixed dims, found float[N]"},
		{"g () => () <w = {1}> {}", "text 1:13: data needs the type of a tensor, such as float[2,3]"},
		{"g () => () <int8 w = {128}> {}", `text 1:23: "128" is no int8`},
		{"g () => () <uint8 w = {-1}> {}", `text 1:24: "-1" is no uint8 (0 to 255)`},
		{"g () => () <float w = {1e99}> {}", `text 1:24: "1e99" is no 32-bit floating-point number`},
		{"g () => () <float[3] w = {... 12 bytes sha256:00}> {}", "text 1:27: the data were left out when the text was printed"},
		{`g () => () <float[3] w = ["location": "x"]> {}`, "text 1:26: the data lie in another file, which a text does not carry"},
		{"g () => () <float x> {}", `text 1:19: "x" is declared and nothing defines it`},
		{"g (float[-1] x) => () {}", "text 1:10: negative dimension -1"},
		{"g (x) => () { = Op <a = 1, a = 2> (x) }", `text 1:28: attribute "a" is set twice`},
		{"g (x) => () { = Op <a = [1, \"s\"]> (x) }", `text 1:29: attribute "a" is a list of int and has an element of type string`},
		{"g (x) => () { = Op <a: int = 1.5> (x) }", `text 1:24: attribute "a" is declared as int and given as float`},
		{"g (x) => () { = Op <a: ants = 1.5> (x) }", `text 1:24: unknown attribute type "ants"`},
		{"g (x) => () { = Op (x }", `text 1:23: expected ")", found "}"`},
		{`g ("x) => () {}`, "text 1:4: the string does not end"},
		{"<ir_version: 8, colour: 3> g () => () {}", `text 1:17: unknown field "colour"`},
		{"<ir_version: 99999999999999999999> g () => () {}", `text 1:14: "99999999999999999999" is no 64-bit integer`},
		{"g (" + strings.Repeat("seq(", 100) + "float" + strings.Repeat(")", 100) + " x) => () {}", "nested deeper than 64"},
		{strings.Repeat("g () => (x) { x = If (", 1) + strings.Repeat(") <b = g () => (x) { x = If (", 100), "nested deeper than 64"},
		{"g () => () {} f (x) => (x) {} f (x) => (x) {}", "function .f is defined twice"},
		{"g () => () {} \x00", `expected a function or the end, found "\x00"`},
	} {
		m, err := Parse(c.text)
		var te *TextError
		if err == nil || !errors.As(err, &te) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: got %v, %v; want %s", c.text, m, err, c.want)
		}
	}
}

func TestElide(t *testing.T) {
	m := mustParse(t, mlpText)
	text := m.Text(ElideOver(10), OmitDocs())
	if !strings.Contains(text, "float[4,3] w = {... 48 bytes sha256:") || !strings.Contains(text, "axes = {-1}") {
		t.Errorf("elided text:\n%s", text)
	}
	if _, err := Parse(text); err == nil {
		t.Error("a text without its data was parsed")
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range textCases {
		f.Add(text)
	}
	f.Add("g (x) => (x) {}")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := Parse(text)
		if err != nil {
			return
		}
		printed := m.Text()
		again, err := Parse(printed)
		if err != nil {
			t.Fatalf("the printed form is not accepted: %v\n%s", err, printed)
		}
		if got := again.Text(); got != printed {
			t.Fatalf("printed\n%s\nand then\n%s", printed, got)
		}
	})
}
