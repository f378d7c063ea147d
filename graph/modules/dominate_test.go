package modules

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
)

// TestPostdominators compares the tree with the definition on random graphs:
// node m post-dominates value s if the exit cannot be reached from s without
// m; the immediate one is the first on the way.
func TestPostdominators(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		m := graph.NewModel("g", 8, 17)
		g := m.Graph
		vals := []*graph.Value{g.AddInput("x", nil), g.AddInput("z", nil)}
		for i := range 2 + r.IntN(14) {
			var in []*graph.Value
			for range 1 + r.IntN(3) {
				in = append(in, vals[max(0, len(vals)-1-r.IntN(5))])
			}
			outs := []string{fmt.Sprintf("v%d", i)}
			if r.IntN(4) == 0 {
				outs = append(outs, fmt.Sprintf("w%d", i))
			}
			vals = append(vals, g.NewNode("", []string{"Add", "Relu", "Split", "Shape"}[r.IntN(4)], "", in, outs).Outputs()...)
		}
		g.AddOutput(vals[len(vals)-1], nil)
		v, err := newView(m, closed)
		if err != nil {
			t.Fatal(err)
		}
		exit := make([]bool, len(v.vals))
		exit[v.index[vals[len(vals)-1]]] = true
		if e := v.index[vals[r.IntN(len(vals))]]; r.IntN(3) == 0 {
			exit[e] = true
		}
		p := newPostdom(v, exit)
		// without tells whether the exit is reached from s around node m.
		var without func(s, m int32) bool
		without = func(s, m int32) bool {
			if exit[s] {
				return true
			}
			for _, u := range v.vals[s].uses {
				if u != m {
					for _, o := range v.nodes[u].out {
						if o >= 0 && without(o, m) {
							return true
						}
					}
				}
			}
			return false
		}
		for s := range int32(len(v.vals)) {
			want := int32(-1)
			if without(s, -1) {
				for m := range int32(len(v.nodes)) { // topological: the first is the immediate one
					if !without(s, m) {
						want = m
						break
					}
				}
			}
			if got := p.after(s); got != want {
				t.Fatalf("value %q: node %d, want %d\n%s", v.vals[s].origin.Name, got, want, m.Text())
			}
		}
	}
}

// chain builds n residual MLPs, each inside the branch of the next if nested.
func chain(n int, nested bool) *graph.Model {
	m := graph.NewModel("g", 8, 17)
	g := m.Graph
	w := g.AddInitializer("w", graph.Float32Tensor([]int64{2, 2}, make([]float32, 4)))
	x := g.AddInput("x", graph.TensorType(graph.Float32, graph.Symbol("n"), graph.Known(2)))
	node := func(op, out string, in ...*graph.Value) *graph.Value {
		return g.NewNode("", op, "", in, []string{out}).Output(0)
	}
	if nested {
		stack := []*graph.Value{x}
		for i := range n {
			stack = append(stack, node("MatMul", fmt.Sprintf("d%d", i), stack[i], w))
		}
		y := stack[n]
		for i := n - 1; i >= 0; i-- {
			y = node("Add", fmt.Sprintf("u%d", i), node("MatMul", fmt.Sprintf("e%d", i), y, w), stack[i])
		}
		x = y
	} else {
		for i := range n {
			x = node("Add", fmt.Sprintf("s%d", i), x, node("MatMul", fmt.Sprintf("f%d", i), x, w))
		}
	}
	g.AddOutput(node("Identity", "y", x), nil)
	return m
}

// TestLargeGraphs holds the analysis to steps in proportion to the graph.
func TestLargeGraphs(t *testing.T) {
	const n = 30_000
	steps := func(m *graph.Model) (found []found, steps int, err error) {
		v, err := newView(m, closed)
		if err != nil {
			return nil, 0, err
		}
		f := &finder{view: v}
		before := v.work
		err = f.find()
		return f.found, before - v.work, err
	}
	list, work, err := steps(chain(n, false))
	if err != nil || len(list) != n || work > 20*n {
		t.Errorf("a chain of %d modules: %d found in %d steps, %v", n, len(list), work, err)
	}
	list, work, err = steps(chain(n, true))
	if err != nil || len(list) != n || work > 30*n {
		t.Errorf("%d modules inside each other: %d found in %d steps, %v", n, len(list), work, err)
	}
	for i, m := range list {
		if want := map[bool]Kind{true: MLP, false: Other}[i == 0]; m.Kind != want {
			t.Fatalf("nested module %d is %s", i, m.Kind)
		}
	}

	// Branches side by side.
	if list, work, err := steps(sum(n/10, false)); err != nil || len(list) != n/10 || work > 30*n {
		t.Errorf("%d parallel branches: %d found in %d steps, %v", n/10, len(list), work, err)
	}
	// Every branch goes through all that were before it, so that the bodies
	// have n²/2 nodes: that ends with an error in bounded time.
	if _, work, err := steps(sum(n/10, true)); err != errWork || work > 2*workPerNode*n {
		t.Errorf("tangled branches: %d steps, %v", work, err)
	}
}

// sum adds up n linear layers of x, or of each other if tangled, and x.
func sum(n int, tangled bool) *graph.Model {
	m := graph.NewModel("g", 8, 17)
	g := m.Graph
	w := g.AddInitializer("w", graph.Float32Tensor([]int64{2, 2}, make([]float32, 4)))
	x := g.AddInput("x", nil)
	sums := []*graph.Value{x}
	for i := range n {
		from := x
		if tangled {
			from = sums[i]
		}
		sums = append(sums, g.NewNode("", "MatMul", "", []*graph.Value{from, w}, []string{fmt.Sprintf("f%d", i)}).Output(0))
	}
	g.AddOutput(g.NewNode("", "Sum", "", sums, []string{"y"}).Output(0), nil)
	return m
}
