package graph_test

import (
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
)

// Calls and branches give way to their bodies: attributes are filled in, an
// argument that is left out stays left out, what a branch captures is read
// where it is, names outside stay and names that are taken get others.
func TestInline(t *testing.T) {
	m, err := graph.Parse(`
<ir_version: 8, opset_import: ["": 18, "local": 1]>
g (float[N] x, float low, bool c) => (float[N] y, float[N] z)
{
  a = local.F <alpha = 0.5> (x)
  y = local.F (a, low)
  z, w = If (c) <
    then_branch = t () => (float[N] b, float[N] x2) { b = Relu (a) x2 = Neg (b) },
    else_branch = e () => (float[N] b, float[N] a) { b = Neg (x) }
  >
}
<domain: "local", opset_import: ["": 18]>
F <alpha> (p, q) => (r)
{
  a = LeakyRelu <alpha: float = @alpha> (p)
  b = Clip (a, q)
  k = Constant <value_int = 1> ()
  n = Cast <to = 9> (k)
  r = If (n) <then_branch = t () => (d) { d = Neg (b) }, else_branch = e () => (d) { d = Elu <alpha: float = @alpha> (b) }>
}
`)
	if err != nil {
		t.Fatal(err)
	}
	for again := true; again; {
		again = false
		for _, n := range m.Graph.Nodes() {
			if n.Op == "F" {
				err, again = n.InlineCall(m.Functions[0]), true
			} else if n.Is("If") && n.Input(0).Name == "c" {
				err, again = n.InlineBranch(n.Attr("else_branch").G), true
			}
			if err != nil {
				t.Fatal(err)
			}
			if again {
				break
			}
		}
	}
	m.RemoveFunction(m.Functions[0])
	if err := graph.Check(m); err != nil {
		t.Fatal(err)
	}
	const want = `
  z = Neg (x)
`
	if got := m.Text(); !strings.Contains(got, want) {
		t.Errorf("got\n%s\nwant in it\n%s", got, want)
	}
}

func TestInlineOtherOpset(t *testing.T) {
	m, err := graph.Parse(`
<ir_version: 8, opset_import: ["": 18, "local": 1]>
g (float[N] x) => (float[N] y) { y = local.F (x) }
<domain: "local", opset_import: ["": 13]>
F (p) => (r) { r = Relu (p) }
`)
	if err != nil {
		t.Fatal(err)
	}
	before := m.Text()
	err = m.Graph.Nodes()[0].InlineCall(m.Functions[0])
	if err == nil || !strings.Contains(err.Error(), `function "F" is of opset 13`) || m.Text() != before {
		t.Errorf("%v, model now\n%s", err, m.Text())
	}
}
