package runtime

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
)

// sortOps put elements into order.
var sortOps = []operator{
	{"", "TopK", 1, prepareTopK, nil, halves},
	{"", "Unique", 11, prepareUnique, nil, halves},
}

// topK is TopK's attributes, and what its threads share.
type topK struct {
	lines
	k, attr int
	axis    int
	largest bool
	shape   []int
	order   []int64 // per worker: the places of a line, best first
}

// prepareTopK: the k largest or smallest elements along an axis and their
// places, best first; of equal ones the earlier is better. NaN counts as
// larger than any number, as in NumPy and PyTorch. k is an attribute before
// opset 10.
func prepareTopK(n *node) (kernel, error) {
	t := topK{attr: n.int("k", -1), axis: n.int("axis", -1), largest: n.bool("largest", true)}
	inputs := 2
	if n.opset < 10 {
		inputs = 1
		if t.attr < 0 {
			return nil, fmt.Errorf("k = %d", t.attr)
		}
	}
	return byType{
		graph.Float32: topKOf[float32](t), graph.Float64: topKOf[float64](t),
		graph.Int8: topKOf[int8](t), graph.Uint8: topKOf[uint8](t),
		graph.Int16: topKOf[int16](t), graph.Uint16: topKOf[uint16](t),
		graph.Int32: topKOf[int32](t), graph.Uint32: topKOf[uint32](t),
		graph.Int64: topKOf[int64](t), graph.Uint64: topKOf[uint64](t),
	}.kernel(0), n.inputs(inputs, inputs)
}

func topKOf[T number](attrs topK) kernel {
	d := dtypeOf[T]()
	body := func(c *call, worker, lo, hi int) {
		s := c.state.(*topK)
		x, z, at := view[T](c.in[0]), view[T](c.out[0]), c.out[1].I64()
		order := s.order[worker*s.n:][:s.n]
		for i := lo; i < hi; i++ {
			line := x[s.line(i):]
			best := best(order, line, s.n, s.inner, s.k, s.largest)
			to := i/s.inner*s.k*s.inner + i%s.inner
			for r, p := range best {
				z[to+r*s.inner], at[to+r*s.inner] = line[int(p)*s.inner], p
			}
		}
	}
	return func(c *call) error {
		x := c.in[0]
		s, ok := c.state.(*topK)
		if !ok {
			s = new(topK)
			*s = attrs
			c.state = s
		}
		a, err := axis(s.axis, len(x.Shape))
		if err != nil {
			return err
		}
		s.k = s.attr
		if c.has(1) {
			k, err := one[int64](c.in[1], "K")
			if err != nil {
				return err
			}
			s.k = int(min(max(k, -1), int64(x.Shape[a])+1))
		}
		if s.k < 0 || s.k > x.Shape[a] {
			return fmt.Errorf("the %d first of an axis of %d", s.k, x.Shape[a])
		}
		s.lines = linesOf(x.Shape, a)
		s.shape = append(s.shape[:0], x.Shape...)
		s.shape[a] = s.k
		z, err := c.alloc(0, d, s.shape...)
		if err != nil {
			return err
		}
		places, err := c.alloc(1, graph.Int64, s.shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		if !c.wants(0) || !c.wants(1) {
			// The body writes both.
			out := [2]*Tensor{z, places}
			defer func(was []*Tensor) { c.out = was }(c.out)
			c.out = out[:]
		}
		if s.order, err = scratch[int64](c, s.n*c.workers()); err != nil {
			return err
		}
		c.parallelWorkers(s.outer*s.inner, 1+functionGrain/s.n, body)
		return nil
	}
}

// best returns the places of the k best elements of a line, in order; places
// is memory for n of them.
func best[T number](places []int64, line []T, n, step, k int, largest bool) []int64 {
	// ahead orders NaN last going up, so first going down.
	ahead := func(a, b T) bool { return a < b || b != b && a == a }
	if largest {
		ahead = func(a, b T) bool { return a > b || a != a && b == b }
	}
	if k <= 16 {
		// Insertion into the few best: most elements are not among them.
		top := places[:0]
		for i := range n {
			v := line[i*step]
			if len(top) == k && (k == 0 || !ahead(v, line[int(top[k-1])*step])) {
				continue
			}
			if len(top) < k {
				top = append(top, 0)
			}
			j := len(top) - 1
			for ; j > 0 && ahead(v, line[int(top[j-1])*step]); j-- {
				top[j] = top[j-1]
			}
			top[j] = int64(i)
		}
		return top
	}
	for i := range places[:n] {
		places[i] = int64(i)
	}
	slices.SortFunc(places[:n], func(i, j int64) int {
		a, b := line[int(i)*step], line[int(j)*step]
		switch {
		case ahead(a, b):
			return -1
		case ahead(b, a):
			return 1
		}
		return cmp.Compare(i, j)
	})
	return places[:k]
}

// prepareUnique: the different elements, or slices along an axis, sorted or
// in order of their first places; with them the first place of each, what
// each element of the input became, and how often each is there. NaN equals
// no other NaN, and sorts last.
func prepareUnique(n *node) (kernel, error) {
	along, flat, sorted := n.int("axis", 0), !n.isSet("axis"), n.bool("sorted", true)
	return func(c *call) error {
		x := c.in[0]
		l, a := lines{1, x.Len(), 1}, 0
		if !flat {
			var err error
			if a, err = axis(along, len(x.Shape)); err != nil {
				return err
			}
			l = linesOf(x.Shape, a)
		}
		compare, err := comparison(x)
		if err != nil {
			return err
		}
		// slice i is elements (o·n + i)·inner + j.
		order := func(i, k int) int {
			for o := range l.outer {
				for j := range l.inner {
					if d := compare((o*l.n+i)*l.inner+j, (o*l.n+k)*l.inner+j); d != 0 {
						return d
					}
				}
			}
			return 0
		}
		rank := make([]int, l.n)
		for i := range rank {
			rank[i] = i
		}
		slices.SortStableFunc(rank, order)
		// Groups of equal ones, as ranges of rank.
		var first []int // the first place of each group
		group, counts := make([]int, l.n), []int64{}
		for r, i := range rank {
			if r == 0 || order(rank[r-1], i) != 0 {
				first, counts = append(first, i), append(counts, 0)
			}
			group[i] = len(first) - 1
			counts[len(counts)-1]++
		}
		if !sorted {
			by := make([]int, len(first)) // groups by their first places
			for g := range by {
				by[g] = g
			}
			slices.SortFunc(by, func(g, h int) int { return first[g] - first[h] })
			place := make([]int, len(by))
			oldFirst, oldCounts := first, counts
			first, counts = make([]int, len(by)), make([]int64, len(by))
			for k, g := range by {
				place[g], first[k], counts[k] = k, oldFirst[g], oldCounts[g]
			}
			for i, g := range group {
				group[i] = place[g]
			}
		}
		shape := []int{len(first)}
		if !flat {
			shape = slices.Clone(x.Shape)
			shape[a] = len(first)
		}
		y, err := c.alloc(0, x.DType, shape...)
		if err != nil {
			return err
		}
		for o := range l.outer {
			for k, i := range first {
				copyRuns(y, x, 1, l.inner, 0, (o*len(first)+k)*l.inner, 0, (o*l.n+i)*l.inner)
			}
		}
		put := func(output int, n int, v func(i int) int64) error {
			if !c.wants(output) {
				return nil
			}
			t, err := c.alloc(output, graph.Int64, n)
			if err != nil {
				return err
			}
			for i := range n {
				t.I64()[i] = v(i)
			}
			return nil
		}
		return errors.Join(
			put(1, len(first), func(i int) int64 { return int64(first[i]) }),
			put(2, l.n, func(i int) int64 { return int64(group[i]) }),
			put(3, len(first), func(i int) int64 { return counts[i] }))
	}, n.inputs(1, 1)
}

// comparison compares two elements of a tensor by their places. A NaN comes
// after all others and equals itself only.
func comparison(t *Tensor) (func(i, j int) int, error) {
	switch t.DType {
	case graph.Float32:
		return compareFloats(t.F32()), nil
	case graph.Float64:
		return compareFloats(t.F64()), nil
	case graph.Int8, graph.Int4, graph.Int2:
		return compareOrdered(cast[int8](t.mem)), nil
	case graph.Uint8, graph.Uint4, graph.Uint2, graph.Bool:
		return compareOrdered(cast[uint8](t.mem)), nil
	case graph.Int16:
		return compareOrdered(view[int16](t)), nil
	case graph.Uint16:
		return compareOrdered(view[uint16](t)), nil
	case graph.Int32:
		return compareOrdered(view[int32](t)), nil
	case graph.Uint32:
		return compareOrdered(view[uint32](t)), nil
	case graph.Int64:
		return compareOrdered(view[int64](t)), nil
	case graph.Uint64:
		return compareOrdered(view[uint64](t)), nil
	case graph.String:
		return func(i, j int) int { return strings.Compare(t.strs[i], t.strs[j]) }, nil
	case graph.Complex64, graph.Complex128:
		w := elemSize(t.DType)
		return func(i, j int) int { return bytes.Compare(t.mem[i*w:(i+1)*w], t.mem[j*w:(j+1)*w]) }, nil
	}
	return nil, wrongType(t.DType)
}

func compareOrdered[T cmp.Ordered](x []T) func(i, j int) int {
	return func(i, j int) int { return cmp.Compare(x[i], x[j]) }
}

func compareFloats[T float32 | float64](x []T) func(i, j int) int {
	return func(i, j int) int {
		a, b := x[i], x[j]
		switch {
		case a < b || a == a && b != b:
			return -1
		case a > b || b == b && a != a:
			return 1
		case a != a:
			return cmp.Compare(i, j)
		}
		return 0
	}
}
