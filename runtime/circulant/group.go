package circulant

import (
	"errors"
	"fmt"
)

// Group is several Operators that read the same inputs, which are transformed
// once for all of them. The bits of a result are those of its Operator by
// itself. A Group is immutable and safe for concurrent use, as Operators are.
type Group struct {
	ops   []*Operator
	tiles int // how many tiles of tokens are multiplied at once
	ws    int
}

// NewGroup makes a group of operators, and fails unless they have the same number of
// inputs, the same block size and the same kernels.
func NewGroup(ops ...*Operator) (*Group, error) {
	if len(ops) == 0 {
		return nil, errors.New("circulant: a group of no operators")
	}
	g := &Group{ops: ops}
	for _, o := range ops {
		if f := ops[0]; o.n != f.n || o.c.Block() != f.c.Block() || o.k != f.k {
			return nil, fmt.Errorf("circulant: operators of %d inputs in blocks of %d and of %d in blocks of %d in one group",
				f.n, f.c.Block(), o.n, o.c.Block())
		}
	}
	g.tiles = tilesAtOnce(ops...)
	for _, o := range ops {
		_, size := o.layout(nil, g.tiles)
		g.ws = max(g.ws, size)
	}
	return g, nil
}

// Dims returns the numbers of outputs of each operator, and of inputs.
func (g *Group) Dims() (m []int, n int) {
	for _, o := range g.ops {
		m = append(m, o.m)
	}
	return m, g.ops[0].n
}

// Tile is a number of tokens: work that is split at multiples of it takes the least
// time.
func (g *Group) Tile() int { return g.ops[0].Tile() }

// Workspace is the number of float32 elements of the workspace that Apply wants.
func (g *Group) Workspace() int { return g.ws }

// FLOPs is the sum of the operators' FLOPs for so many tokens, less those of the
// transforms that are shared.
func (g *Group) FLOPs(tokens int) int64 {
	total := g.ops[0].FLOPs(tokens)
	for _, o := range g.ops[1:] {
		total += o.flops(tokens, o.p)
	}
	return total
}

// Apply computes tokens [lo, hi) of Y[i] = X·W[i]ᵀ + bias[i] for every operator
// i, where X is [tokens, n] and Y[i] [tokens, m[i]], both without gaps. No Y may
// overlap X. The workspace has Workspace() elements of any content. Apply
// allocates nothing.
func (g *Group) Apply(y [][]float32, x []float32, lo, hi int, ws []float32) {
	if lo >= hi {
		return
	}
	first := g.ops[0]
	if len(y) != len(g.ops) || len(ws) < g.ws {
		panic(fmt.Sprintf("circulant: %d results and a workspace of %d elements for %d operators that want %d", len(y), len(ws), len(g.ops), g.ws))
	}
	x = x[lo*first.n : hi*first.n]
	// Workspaces differ in the last part alone, which inputs are not in.
	s, _ := first.layout(ws, g.tiles)
	for t := 0; t < hi-lo; {
		size, from, have := first.step(t, hi-lo, g.tiles)
		first.transform(size, x[from*first.n:], first.n, have, s)
		for i, o := range g.ops {
			s, _ := o.layout(ws, g.tiles)
			o.multiply(size, y[i][(lo+from)*o.m:hi*o.m], o.m, have, s)
		}
		t = from + have
	}
}
