package graph

import (
	"fmt"
	"strings"
	"testing"
)

// checkModel wraps a graph's text into a model of opset 17.
func checkModel(t testing.TB, graph string) *Model {
	t.Helper()
	return mustParse(t, `<ir_version: 10, opset_import: ["": 17, "com.microsoft": 1, "other": 1]> `+graph)
}

// What a model says wrongly; the breach is in the text.
func TestCheckText(t *testing.T) {
	for name, c := range map[string]struct{ graph, want string }{
		"order": {`g (float[N] x) => (float[N] y) { y = Relu (a) a = Abs (x) }`,
			`node "→y" (Relu): input 0 reads "a" before it is defined; the nodes need to be sorted`},
		"cycle": {`g (float[N] x) => (float[N] y) { a = Add (x, b) b = Relu (a) y = Abs (b) }`,
			`node "→a" (Add) is on or behind a cycle`},
		"order through a body": {`g (bool c, float[N] x) => (float[N] y) {
			y = If (c) <then_branch = t () => (u) { u = Abs (late) }, else_branch = e () => (v) { v = Neg (x) }>
			late = Relu (x) }`,
			`in node "→y" (If), graph "t": node "→u" (Abs): input 0 reads "late" before it is defined`},
		"cycle through a body": {`g (bool c, float[N] x) => (float[N] y) {
			y = If (c) <then_branch = t () => (u) { u = Abs (y) }, else_branch = e () => (v) { v = Neg (x) }> }`,
			`node "→y" (If) is on or behind a cycle`},
		"too few inputs":       {`g (float[N] x) => (float[N] y) { y = Add (x) }`, `node "→y" (Add) has 1 inputs, want 2`},
		"too many inputs":      {`g (float[N] x) => (float[N] y) { y = Relu (x, x) }`, `node "→y" (Relu) has 2 inputs, want 1`},
		"no variadic input":    {`g (float[N] x) => (float[N] y) { y = Concat <axis = 0> () }`, `has 0 inputs, want at least 1`},
		"required left out":    {`g (float[N] x) => (float[N] y) { y = Add ("", x) }`, `input 0 (A) is left out and is not optional`},
		"too many outputs":     {`g (float[N] x) => (float[N] y) { y, z = Relu (x) }`, `has 2 outputs, want 1`},
		"unknown attribute":    {`g (float[N] x) => (float[N] y) { y = Relu <axis = 1> (x) }`, `opset 14 knows no attribute "axis"`},
		"wrong attribute type": {`g (float[N] x) => (float[N] y) { y = Softmax <axis = 1.0> (x) }`, `attribute "axis" is of type float, want int`},
		"missing attribute":    {`g (float[N] x) => (float[N] y) { y = Concat (x) }`, `attribute "axis" is missing`},
		"reference":            {`g (float[N] x) => (float[N] y) { y = Softmax <axis: int = @n> (x) }`, `attribute "axis" refers to "n" outside of a function`},
		"type not taken":       {`g (int64[N] x) => (y) { y = Sqrt (x) }`, `input 0 (X) "x" is a tensor(int64), which the operator does not take`},
		"types differ":         {`g (float[N] x, double[N] z) => (y) { y = Add (x, z) }`, `input 1 (B) "z" is a tensor(double) where other values are tensor(float)`},
		"output type differs":  {`g (float[N] x) => (double[N] y) { y = Add (x, x) }`, `output 0 (C) "y" is a tensor(double) where`},
		"variadic type":        {`g (float[N] x, int64[N] z) => (y) { y = Concat <axis = 0> (x, z) }`, `input 1 (inputs) "z" is a tensor(int64) where`},
		"no sequence":          {`g (float[N] x) => (y) { y = SequenceLength (x) }`, `is a tensor(float), which the operator does not take`},
		"domain not imported":  {`g (float[N] x) => (float[N] y) { y = third.party.Op (x) }`, `domain "third.party" is not imported`},
		"branch interface": {`g (bool c, float[N] x) => (float[N] y) {
			y = If (c) <then_branch = t () => (u) { u = Abs (x) }, else_branch = e (w) => (v) { v = Neg (x) }> }`,
			`else_branch has 1 inputs and 1 outputs, want 0 and 1`},
		"body interface": {`g (int64 n, float[N] x) => (float[N] y) {
			y = Loop (n, "", x) <body = b (int64 i, bool c, s) => (c) { }> }`,
			`body has 3 inputs and 1 outputs, want 3 and 2`},
		"initializer type": {`g (float[3] x) => (float[3] y) <double[3] x = {1,2,3}> { y = Relu (x) }`,
			`initializer "x" is a double[3] and declared as float[3]`},
		"initializer dims": {`g (float[4] x) => (float[4] y) <float[3] x = {1,2,3}> { y = Relu (x) }`,
			`initializer "x" is a float[3] and declared as float[4]`},
		"sparse": {`g () => () <sparse_tensor(float[3,4]) s = {float[2] {1, 2}, int64[3] {0, 1, 2}}> { }`,
			`initializer "s": sparse tensor [3 4] with values [2]`},
		"call arity": {`g (float[N] x) => (float[N] y) { y = other.F (x, x) } <domain: "other", opset_import: ["": 17]> F (a) => (b) { b = Relu (a) }`,
			`has 2 inputs and 1 outputs, the function 1 and 1`},
		"call attribute": {`g (float[N] x) => (float[N] y) { y = other.F <k = 1> (x) } <domain: "other", opset_import: ["": 17]> F (a) => (b) { b = Relu (a) }`,
			`the function has no attribute "k"`},
		"reference in function": {`g () => () { } <domain: "other", opset_import: ["": 17]> F <n> (a) => (b) { b = Softmax <axis: int = @m> (a) }`,
			`function other.F: node "→b" (Softmax): attribute "axis" refers to "m", which the function does not declare`},
		"domain in function": {`g () => () { } <domain: "other", opset_import: []> F (a) => (b) { b = Relu (a) }`,
			`function other.F: node "→b" (Relu): domain "" is not imported`},
		"recursion": {`g () => () { } <domain: "other", opset_import: ["other": 1]> F (a) => (b) { b = other.G (a) }
			<domain: "other", opset_import: ["other": 1]> G (a) => (b) { b = other.F (a) }`,
			`function other.F calls itself`},
	} {
		t.Run(name, func(t *testing.T) {
			err := Check(checkModel(t, c.graph))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// What a pass can do to the objects.
func TestCheckObjects(t *testing.T) {
	const graph = `g (float[N] x, bool c) => (float[N] y) <float[2] w = {1, 2}> {
		[a] a = Add (x, w)
		[b] b = If (c) <then_branch = t () => (u) { [d] u = Abs (a) }, else_branch = e () => (v) { v = Neg (x) }>
		[y] y = Mul (a, b) }`
	node := func(m *Model, i int) *Node { return m.Graph.nodes[i] }
	value := func(m *Model, name string) *Value { return m.Graph.Value(name) }
	for name, c := range map[string]struct {
		breach func(m *Model)
		want   string
	}{
		"use not listed":    {func(m *Model) { node(m, 0).inputs[0] = value(m, "w") }, `input 0 reads "w", which does not list that use`},
		"stale use":         {func(m *Model) { node(m, 2).inputs = node(m, 2).inputs[:1] }, `value "b" lists a use by node "y" (Mul)`},
		"use listed twice":  {func(m *Model) { v := value(m, "b"); v.uses = append(v.uses, v.uses[0]) }, `value "b" lists a use by node "y" (Mul) that value "b" lists too`},
		"removed node":      {func(m *Model) { m.Graph.nodes = m.Graph.nodes[1:] }, `input 0 reads "a", which does not list that use`},
		"definition":        {func(m *Model) { value(m, "a").def = node(m, 2) }, `output "a" is also defined elsewhere`},
		"definition index":  {func(m *Model) { value(m, "a").defIndex = 1 }, `output "a" is also defined elsewhere`},
		"renamed":           {func(m *Model) { value(m, "a").Name = "x" }, `value "x" is not what the graph finds by that name`},
		"left in the map":   {func(m *Model) { m.Graph.newValue("stray") }, `finds 7 values by name and defines 6`},
		"other graph":       {func(m *Model) { node(m, 0).graph = newGraph(m, nil, nil) }, `node "a" (Add) belongs to another graph`},
		"holder":            {func(m *Model) { node(m, 1).Attrs[0].G.holder = node(m, 0) }, `graph "t" is held by another node`},
		"shared body":       {func(m *Model) { node(m, 1).Attrs[1].G = node(m, 1).Attrs[0].G }, `is defined twice`},
		"output":            {func(m *Model) { m.Graph.outputs[0] = &Value{Name: "q", graph: m.Graph} }, `output "q" is not defined in the graph`},
		"inner value":       {func(m *Model) { node(m, 2).SetInput(0, node(m, 1).Attrs[0].G.Value("u")) }, `input 0 reads "u", which no graph around the node defines`},
		"hidden by a name":  {func(m *Model) { s := node(m, 1).Attrs[0].G; s.Value("u").Rename("a") }, `input 0 reads "a", but that name means another value there`},
		"no data":           {func(m *Model) { value(m, "w").Const = nil }, `initializer "w" needs a tensor`},
		"short data":        {func(m *Model) { value(m, "w").Const = &Tensor{DType: Float32, Dims: []int64{3}, raw: make([]byte, 8)} }, `tensor float[3] has 3 elements (12 bytes), and data of 8`},
		"2^60 elements":     {func(m *Model) { value(m, "w").Const = &Tensor{DType: Float32, Dims: []int64{1 << 60}} }, `tensor float[1152921504606846976] has`},
		"overflow":          {func(m *Model) { value(m, "w").Const = &Tensor{DType: Float32, Dims: []int64{1 << 40, 1 << 40}} }, `negative or overflow`},
		"attribute twice":   {func(m *Model) { n := node(m, 1); n.Attrs = append(n.Attrs, n.Attrs[1]) }, `attribute "else_branch" is set twice`},
		"attribute empty":   {func(m *Model) { node(m, 1).Attrs[0].G = nil }, `attribute "then_branch": is of type graph and has no such value`},
		"no operator":       {func(m *Model) { node(m, 0).Op = "" }, `has no operator`},
		"no graph":          {func(m *Model) { m.Graph = nil }, `the model has no graph`},
		"imported twice":    {func(m *Model) { m.Opsets = append(m.Opsets, Opset{Domain: "ai.onnx", Version: 9}) }, `domain "ai.onnx" is imported twice, at opset 17 and 9`},
		"clone of function": {func(m *Model) { f := m.AddFunction("d", "f"); f.model = nil }, `function d.f belongs to another model`},
	} {
		t.Run(name, func(t *testing.T) {
			m := checkModel(t, graph)
			if err := Check(m); err != nil {
				t.Fatal(err)
			}
			c.breach(m)
			err := Check(m)
			if err == nil || !strings.Contains(strings.Join(append(err.(*CheckError).Problems, ""), "\n"), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// Unusual models that runtimes accept pass, with a note where one is due.
func TestCheckNotes(t *testing.T) {
	for name, c := range map[string]struct{ graph, note string }{
		"unknown operator":     {`g (float[N] x) => (float[N] y) { y, z = other.Thing <a = 1> (x, "", x) }`, ""},
		"element type":         {`g () => () <float[0] w = {}> { }`, `initializer "w" has the element type dtype(99), which is not known`},
		"import left out":      {`g (float[N] x) => (float[N] y) { y = com.microsoft.nchwc.Conv (x) }`, `domain "com.microsoft.nchwc" is not imported`},
		"internal attribute":   {`g (float[N] x) => (float[N] y) { y = Relu <__fused = 1> (x) }`, ""},
		"optional inputs":      {`g (float[N] x, float m) => (float[N] y) { y = Clip (x, "", m) }`, ""},
		"left out at the end":  {`g (float[N] x) => (float[N] y) { y, "" = Dropout (x, "", "") }`, ""},
		"input with default":   {`g (float[N] x, float[1] w) => (float[N] y) <float[1] w = {1}> { y = Add (x, w) }`, ""},
		"input as output":      {`g (float[N] x) => (float[N] x) { }`, ""},
		"no types":             {`g (x) => (y) { y = Relu (x) }`, `value "x": input or output of the model without a type`},
		"contrib attribute":    {`g (float[N] x) => (float[N] y) { y = com.microsoft.Gelu <new = 1> (x) }`, `knows no attribute "new"`},
		"deprecated":           {`g (float[N,M] x, float[2] s) => (y) { y = Upsample (x, s) }`, `is deprecated since opset 10`},
		"shadowed":             {`g (bool c, float[N] x) => (y) { y = If (c) <then_branch = t () => (x) { x = Constant <value = float {1}> () }, else_branch = e () => (v) { v = Neg (x) }> }`, `value "x" has the name of a value around it`},
		"outer value returned": {`g (bool c, float[N] x) => (y) { y = If (c) <then_branch = t () => (x) { }, else_branch = e () => (v) { v = Neg (x) }> }`, `output "x" is a value of a graph around it`},
		"function": {`g (float[N] x) => (float[N] y) { y = other.F <k = 1> (x) }
			<domain: "other", opset_import: ["": 17]> F <k, a = 1.0> (a, b) => (c, d) { c = Softmax <axis: int = @k> (a) d = Elu <alpha: float = @a> (a) }`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := checkModel(t, c.graph)
			if name == "element type" {
				m.Graph.inits[0].Const = &Tensor{DType: 99, Dims: []int64{3}}
			}
			if err := Check(m); err != nil {
				t.Errorf("refused: %v", err)
			}
			notes := strings.Join(Notes(m), "\n")
			if c.note == "" && notes != "" || !strings.Contains(notes, c.note) {
				t.Errorf("notes %q, want %q", notes, c.note)
			}
		})
	}
}

// The list of problems is bounded, and one line tells of the rest.
func TestCheckManyProblems(t *testing.T) {
	var b strings.Builder
	b.WriteString("g (float[N] x) => (y) { y = Relu (x)")
	for i := range 100 {
		fmt.Fprintf(&b, " v%d = Add (x)", i)
	}
	err := Check(checkModel(t, b.String()+"}"))
	ce, ok := err.(*CheckError)
	if !ok || ce.Total != 100 || len(ce.Problems) != maxProblems {
		t.Fatalf("got %v", err)
	}
	if want := `check: node "→v0" (Add) has 1 inputs, want 2 (and 99 more)`; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

// Checking takes time linear in the size of a model: it runs around every
// pass.
func BenchmarkCheck(b *testing.B) {
	m := NewModel("g", 8, 17)
	v := m.Graph.AddInput("x", TensorType(Float32, Symbol("n")))
	w := m.Graph.AddInitializer("w", Float32Tensor(nil, []float32{1}))
	for i := range 10_000 {
		v = m.Graph.NewNode("", "Add", "", []*Value{v, w}, []string{fmt.Sprint("v", i)}).Output(0)
	}
	m.Graph.AddOutput(v, nil)
	for b.Loop() {
		if err := Check(m); err != nil {
			b.Fatal(err)
		}
	}
}
