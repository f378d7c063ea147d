package graph

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Difference is what differs between two models.
type Difference struct {
	Nodes     Changes[NodeChange]   `json:"nodes"`
	Weights   Changes[WeightChange] `json:"weights"`
	Functions Changes[string]       `json:"functions"`
	Inputs    Changes[string]       `json:"inputs"`
	Outputs   Changes[string]       `json:"outputs"`
	Opsets    Changes[string]       `json:"opsets"`
	Metadata  Changes[string]       `json:"metadata"` // keys
}

// Changes is what only one of two models has, and what both have but not alike,
// in the order of the models.
type Changes[T any] struct {
	Before  int `json:"before"` // how many the first model has
	After   int `json:"after"`  // and the second
	Removed []T `json:"removed"`
	Added   []T `json:"added"`
	Changed []T `json:"changed"`
}

// None reports whether there is no change.
func (c *Changes[T]) None() bool { return len(c.Removed)+len(c.Added)+len(c.Changed) == 0 }

// Same reports whether there is no difference.
func (d *Difference) Same() bool {
	return d.Nodes.None() && d.Weights.None() && d.Functions.None() && d.Inputs.None() && d.Outputs.None() && d.Opsets.None() && d.Metadata.None()
}

// NodeChange is a node of one model or of both. A node is known by the first
// value that it gives; one inside of another node has that node's value and a
// slash in front.
type NodeChange struct {
	Value  string   `json:"value"`
	Before string   `json:"before,omitempty"` // operator, with its domain
	After  string   `json:"after,omitempty"`
	What   []string `json:"what,omitempty"` // of a node of both: "operator", "inputs", "outputs", "attribute axis"
}

// WeightChange is an initializer of one model or of both.
type WeightChange struct {
	Name   string `json:"name"`
	Before string `json:"before,omitempty"` // type and shape
	After  string `json:"after,omitempty"`
	// Relative is ‖b − a‖ / ‖a‖ of float weights of one type and shape that
	// differ; nil for others, and where a is zero.
	Relative *float64 `json:"relative,omitempty"`
}

// Diff compares two models: nodes by the values that they give, weights by
// their names. Data of weights of one name is read two tensors at a time. How
// data is stored is no difference, nor are doc strings and the names of nodes. It
// fails where weights cannot be read.
func Diff(a, b *Model) (*Difference, error) {
	var d Difference
	var err error
	if d.Nodes, err = changes(nodesOf(a), nodesOf(b), nodeChange); err != nil {
		return nil, err
	}
	if d.Weights, err = changes(weightsOf(a), weightsOf(b), weightChange); err != nil {
		return nil, err
	}
	for _, x := range []struct {
		to *Changes[string]
		of func(m *Model) []labelled[string]
	}{
		{&d.Functions, functionsOf}, {&d.Opsets, opsetsOf}, {&d.Metadata, metadataOf},
		{&d.Inputs, func(m *Model) []labelled[string] { return portsOf(m.Graph.Inputs()) }},
		{&d.Outputs, func(m *Model) []labelled[string] { return portsOf(m.Graph.Outputs()) }},
	} {
		if *x.to, err = changes(x.of(a), x.of(b), textChange); err != nil {
			return nil, err
		}
	}
	return &d, nil
}

// labelled is a thing that two models may both have, under one name.
type labelled[T any] struct {
	name string
	of   T
}

// changes compares two lists by name. change tells what is to be said of a thing
// that one model has (the other's being nil) or both have, and whether these
// differ. Of several things of one name the first counts.
func changes[T, C any](a, b []labelled[T], change func(name string, a, b *T) (C, bool, error)) (Changes[C], error) {
	c := Changes[C]{Before: len(a), After: len(b), Removed: []C{}, Added: []C{}, Changed: []C{}}
	index := func(list []labelled[T]) map[string]*T {
		m := make(map[string]*T, len(list))
		for i := range list {
			if m[list[i].name] == nil {
				m[list[i].name] = &list[i].of
			}
		}
		return m
	}
	inA, inB := index(a), index(b)
	for _, x := range a {
		y := inB[x.name]
		one, differ, err := change(x.name, &x.of, y)
		if err != nil {
			return c, err
		}
		switch {
		case y == nil:
			c.Removed = append(c.Removed, one)
		case differ:
			c.Changed = append(c.Changed, one)
		}
	}
	for _, x := range b {
		if inA[x.name] != nil {
			continue
		}
		one, _, err := change(x.name, nil, &x.of)
		if err != nil {
			return c, err
		}
		c.Added = append(c.Added, one)
	}
	return c, nil
}

// nodesOf lists the nodes of a model outside of functions.
func nodesOf(m *Model) (list []labelled[*Node]) {
	var walk func(g *Graph, prefix string)
	walk = func(g *Graph, prefix string) {
		for _, n := range g.nodes {
			name := prefix + n.Name
			if i := slices.IndexFunc(n.outputs, func(v *Value) bool { return v != nil && v.Name != "" }); i >= 0 {
				name = prefix + n.outputs[i].Name
			}
			list = append(list, labelled[*Node]{name, n})
			for _, a := range n.Attrs {
				for _, s := range a.graphs() {
					walk(s, name+"/"+a.Name+"/")
				}
			}
		}
	}
	walk(m.Graph, "")
	return list
}

// operator is the operator of a node with its domain.
func operator(n *Node) string {
	if d := NormalDomain(n.Domain); d != "" {
		return d + "." + n.Op
	}
	return n.Op
}

func nodeChange(name string, a, b **Node) (NodeChange, bool, error) {
	c := NodeChange{Value: name}
	if a != nil {
		c.Before = operator(*a)
	}
	if b != nil {
		c.After = operator(*b)
	}
	if a == nil || b == nil {
		return c, true, nil
	}
	x, y := *a, *b
	if c.Before != c.After || x.Overload != y.Overload {
		c.What = append(c.What, "operator")
	}
	for _, list := range []struct {
		what string
		x, y []*Value
	}{{"inputs", x.inputs, y.inputs}, {"outputs", x.outputs, y.outputs}} {
		if !slices.EqualFunc(list.x, list.y, func(v, w *Value) bool { return nameOf(v) == nameOf(w) }) {
			c.What = append(c.What, list.what)
		}
	}
	var attrs []string
	for _, n := range []*Node{x, y} {
		for _, at := range n.Attrs {
			if !slices.Contains(attrs, at.Name) {
				attrs = append(attrs, at.Name)
			}
		}
	}
	for _, name := range attrs {
		same, err := sameAttr(x.Attr(name), y.Attr(name))
		if err != nil {
			return c, false, fmt.Errorf("%v: attribute %q: %w", x, name, err)
		}
		if !same {
			c.What = append(c.What, "attribute "+name)
		}
	}
	return c, len(c.What) > 0, nil
}

func nameOf(v *Value) string {
	if v == nil {
		return ""
	}
	return v.Name
}

// sameAttr compares attributes but for the graphs in them, whose nodes are
// compared as such.
func sameAttr(a, b *Attr) (bool, error) {
	if a == nil || b == nil || a.Type != b.Type {
		return false, nil
	}
	switch {
	case len(a.graphs()) > 0 || len(b.graphs()) > 0:
		return len(a.graphs()) == len(b.graphs()), nil
	case a.T != nil && b.T != nil:
		_, same, err := sameData(a.T, b.T)
		return same, err
	}
	text := func(a *Attr) string {
		var s strings.Builder
		p := &printer{w: bufio.NewWriter(&s), elideOver: math.MaxInt64}
		p.attr(a)
		p.w.Flush()
		return s.String()
	}
	return text(a) == text(b), nil
}

// weightsOf lists the initializers of the main graph and of those inside.
func weightsOf(m *Model) (list []labelled[*Value]) {
	m.Graph.walk(func(g *Graph) bool {
		for _, v := range g.inits {
			list = append(list, labelled[*Value]{v.Name, v})
		}
		return true
	})
	return list
}

func weightChange(name string, a, b **Value) (WeightChange, bool, error) {
	c := WeightChange{Name: name}
	describe := func(v **Value) string {
		switch {
		case v == nil:
			return ""
		case (*v).Const == nil:
			return "sparse"
		}
		return fmt.Sprintf("%v%v", (*v).Const.DType, (*v).Const.Dims)
	}
	c.Before, c.After = describe(a), describe(b)
	switch {
	case a == nil || b == nil || c.Before != c.After:
		return c, true, nil
	case (*a).Const == nil:
		return c, false, nil
	}
	relative, same, err := sameData((*a).Const, (*b).Const)
	if err != nil {
		return c, false, fmt.Errorf("weight %q: %w", name, err)
	}
	if !same && relative > 0 {
		c.Relative = &relative
	}
	return c, !same, nil
}

// sameData compares tensors; relative is ‖b − a‖ / ‖a‖ where they differ in
// nothing but float data, else 0.
func sameData(a, b *Tensor) (relative float64, same bool, err error) {
	if a == b {
		return 0, true, nil
	}
	if a.DType != b.DType || !slices.Equal(a.Dims, b.Dims) {
		return 0, false, nil
	}
	if a.DType == String {
		return 0, slices.EqualFunc(a.Strings(), b.Strings(), bytes.Equal), nil
	}
	x, err := a.Bytes()
	if err != nil {
		return 0, false, err
	}
	y, err := b.Bytes()
	if err != nil || bytes.Equal(x, y) {
		return 0, err == nil, err
	}
	if a.DType != Float32 && a.DType != Float16 && a.DType != BFloat16 {
		return 0, false, nil
	}
	v, err := a.Float32s()
	if err != nil {
		return 0, false, err
	}
	w, err := b.Float32s()
	if err != nil {
		return 0, false, err
	}
	var apart, size float64
	for i := range v {
		e := float64(w[i]) - float64(v[i])
		apart += e * e
		size += float64(v[i]) * float64(v[i])
	}
	if r := math.Sqrt(apart / size); r > 0 && !math.IsInf(r, 0) {
		relative = r
	}
	return relative, false, nil
}

func textChange(name string, a, b *string) (string, bool, error) {
	return name, a == nil || b == nil || *a != *b, nil
}

func functionsOf(m *Model) (list []labelled[string]) {
	for _, f := range m.Functions {
		var s strings.Builder
		p := &printer{w: bufio.NewWriter(&s), elideOver: math.MaxInt64, omitDocs: true}
		p.function(f)
		p.w.Flush()
		name := NormalDomain(f.Domain) + "." + f.Name
		if f.Overload != "" {
			name += ":" + f.Overload
		}
		list = append(list, labelled[string]{name, s.String()})
	}
	return list
}

func opsetsOf(m *Model) (list []labelled[string]) {
	for _, o := range m.Opsets {
		list = append(list, labelled[string]{cmp.Or(NormalDomain(o.Domain), "ai.onnx"), fmt.Sprint(o.Version)})
	}
	return list
}

func metadataOf(m *Model) (list []labelled[string]) {
	for _, e := range m.Metadata {
		list = append(list, labelled[string]{e.Key, e.Value})
	}
	return list
}

// portsOf lists inputs or outputs with their types.
func portsOf(values []*Value) (list []labelled[string]) {
	for _, v := range values {
		if !v.IsInitializer() {
			list = append(list, labelled[string]{v.Name, fmt.Sprint(v.Declared)})
		}
	}
	return list
}
