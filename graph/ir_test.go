package graph

import (
	"fmt"
	"strings"
	"testing"
)

// chain returns x → a=Relu → b=Neg → y=Add(a, b) with b and an If that
// captures a.
func chain(t *testing.T) (*Model, *Node) {
	t.Helper()
	m := NewModel("g", 8, 17)
	g := m.Graph
	x := g.AddInput("x", TensorType(Float32, Symbol("n")))
	cond := g.AddInitializer("cond", mustTensor(Bool, nil, []byte{1}))
	a := g.NewNode("", "Relu", "relu", []*Value{x}, []string{"a"}).Output(0)
	b := g.NewNode("", "Neg", "neg", []*Value{a}, []string{"b"}).Output(0)
	iff := g.NewNode("", "If", "if", []*Value{cond}, []string{"c"})
	for _, br := range []string{"then_branch", "else_branch"} {
		s := iff.NewSubgraph(br)
		o := s.NewNode("", "Abs", br+"_abs", []*Value{a}, []string{br + "_o"})
		s.AddOutput(o.Output(0), nil)
		iff.SetAttr(GraphAttr(br, s))
	}
	y := g.NewNode("", "Add", "add", []*Value{b, iff.Output(0)}, []string{"y"}).Output(0)
	g.AddOutput(y, TensorType(Float32, Symbol("n")))
	return m, iff
}

func TestDefUseAcrossGraphs(t *testing.T) {
	m, iff := chain(t)
	a := m.Graph.Value("a")
	if got := len(a.Uses()); got != 3 {
		t.Fatalf("a has %d uses, want 3 (Neg and both branches)", got)
	}
	x := m.Graph.Value("x")
	a.ReplaceUses(x)
	if len(a.Uses()) != 0 || len(x.Uses()) != 4 {
		t.Errorf("after ReplaceUses a has %d uses and x %d, want 0 and 4", len(a.Uses()), len(x.Uses()))
	}
	y := m.Graph.Value("y")
	m.Graph.ReplaceOutput(y, m.Graph.Value("b"))
	if m.Graph.Outputs()[0].Def().Op != "Neg" || m.Graph.Outputs()[0].Name != "y" {
		t.Errorf("the output is %v by %v", m.Graph.Outputs()[0].Name, m.Graph.Outputs()[0].Def())
	}
	m.Graph.Remove(y.Def(), iff)
	if len(x.Uses()) != 2 {
		t.Errorf("removing the If leaves %d uses of x, want 2 (Relu and Neg)", len(x.Uses()))
	}
}

func TestCloneIsIndependent(t *testing.T) {
	m, _ := chain(t)
	c := m.Clone()
	ca := c.Graph.Value("a")
	if ca == m.Graph.Value("a") || len(ca.Uses()) != 3 {
		t.Fatalf("clone shares values or lost uses: %d", len(ca.Uses()))
	}
	for _, u := range ca.Uses() {
		if u.Node.Graph().Model() != c {
			t.Errorf("use %v points into the original", u.Node)
		}
	}
	ca.ReplaceUses(c.Graph.Value("x"))
	if len(m.Graph.Value("a").Uses()) != 3 {
		t.Error("editing the clone changed the original")
	}
}

func TestSort(t *testing.T) {
	m, iff := chain(t)
	g := m.Graph
	n := g.nodes
	n[0], n[3] = n[3], n[0] // Add first, Relu last
	if err := g.Sort(); err != nil {
		t.Fatal(err)
	}
	at := map[string]int{}
	for i, n := range g.Nodes() {
		at[n.Op] = i
	}
	if at["Relu"] > at["Neg"] || at["Relu"] > at["If"] || at["If"] > at["Add"] {
		t.Errorf("order %v", at)
	}
	iff.SetInput(0, g.Value("y"))
	if err := g.Sort(); err == nil {
		t.Error("a cycle through a control-flow node was sorted")
	}
}

func TestExtract(t *testing.T) {
	m, _ := chain(t)
	e, err := m.Extract([]string{"a"}, []string{"y", "a"})
	if err != nil {
		t.Fatal(err)
	}
	var ops []string
	for _, n := range e.Graph.Nodes() {
		ops = append(ops, n.Op)
	}
	if got := strings.Join(ops, " "); got != "Neg If Add Identity" {
		t.Errorf("nodes %s", got)
	}
	if n := len(e.Graph.Value("a").Uses()); n != 4 {
		t.Errorf("the cut value has %d uses, want 4", n)
	}
	if err := e.Graph.Sort(); err != nil {
		t.Error(err)
	}
	if _, err := m.Extract([]string{"b"}, []string{"y"}); err == nil {
		t.Error("y was extracted without a, which an If reads")
	}
}

// TestGiveWay: readers, outputs of the graph and of graphs inside it, and the name go over.
func TestGiveWay(t *testing.T) {
	const text = `<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, bool c) => (float[2] %s, float[2] z)
{
   y = Relu (x)
   z = If (c) <then_branch = t () => (float[2] y) {}, else_branch = e () => (float[2] w) { w = Neg (y) }>
   u = Neg (y)
}`
	for _, out := range []string{"y", "u"} {
		m, err := Parse(fmt.Sprintf(text, out))
		if err != nil {
			t.Fatal(err)
		}
		y := m.Graph.Value("y")
		n := m.Graph.InsertBefore(y.Def(), "", "Abs", "new", []*Value{m.Graph.Value("x")}, []string{"fresh"})
		y.GiveWay(n.Output(0), "_old")
		m.Graph.Remove(y.Def())
		if err := Check(m); err != nil {
			t.Errorf("output %s: %v\n%s", out, err, m.Text())
		}
		if got := m.Graph.Outputs()[0].Name; got != out {
			t.Errorf("output %s is called %s now", out, got)
		}
	}
}
