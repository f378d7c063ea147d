package runtime

import (
	"fmt"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// einsum is a parsed equation: the labels of each operand and of the result.
// An ellipsis is the label dots until the ranks are known.
type einsum struct {
	in  [][]int
	out []int // nil: implicit, see labels
}

const dots = -1

func prepareEinsum(n *node) (kernel, error) {
	e, err := parseEinsum(n.str("equation", ""))
	if err != nil {
		return nil, err
	}
	if len(e.in) != len(n.given) {
		return nil, fmt.Errorf("equation %q names %d operands, the node has %d", n.str("equation", ""), len(e.in), len(n.given))
	}
	return byType{
		graph.Float32: einsumOf(e, multiplyFloat32(n.simd)),
		graph.Float64: einsumOf(e, multiply[float64]),
		graph.Int8:    einsumOf(e, multiply[int8]),
		graph.Int16:   einsumOf(e, multiply[int16]),
		graph.Int32:   einsumOf(e, multiply[int32]),
		graph.Int64:   einsumOf(e, multiply[int64]),
		graph.Uint8:   einsumOf(e, multiply[uint8]),
		graph.Uint16:  einsumOf(e, multiply[uint16]),
		graph.Uint32:  einsumOf(e, multiply[uint32]),
		graph.Uint64:  einsumOf(e, multiply[uint64]),
	}.kernel(0), n.inputs(1, -1)
}

// parseEinsum reads "ab,bc->ac": letters, "..." at most once a term, spaces
// anywhere. Without an arrow the result has the ellipsis and then, sorted, the
// letters that occur once.
func parseEinsum(equation string) (*einsum, error) {
	left, right, arrow := strings.Cut(strings.ReplaceAll(equation, " ", ""), "->")
	term := func(s string) ([]int, error) {
		out := []int{}
		for s != "" {
			if rest, ok := strings.CutPrefix(s, "..."); ok {
				if slices.Contains(out, dots) {
					return nil, fmt.Errorf("equation %q has two ellipses in a term", equation)
				}
				out, s = append(out, dots), rest
				continue
			}
			if c := s[0]; c < 'A' || c > 'Z' && c < 'a' || c > 'z' {
				return nil, fmt.Errorf("equation %q: %q is no letter", equation, c)
			}
			out, s = append(out, int(s[0])), s[1:]
		}
		return out, nil
	}
	e := &einsum{}
	uses := map[int]int{}
	for _, s := range strings.Split(left, ",") {
		t, err := term(s)
		if err != nil {
			return nil, err
		}
		e.in = append(e.in, t)
		for _, l := range t {
			uses[l]++
		}
	}
	if !arrow {
		if uses[dots] > 0 {
			e.out = append(e.out, dots)
		}
		for l := 'A'; l <= 'z'; l++ {
			if uses[int(l)] == 1 {
				e.out = append(e.out, int(l))
			}
		}
		return e, nil
	}
	var err error
	if e.out, err = term(right); err != nil {
		return nil, err
	}
	for i, l := range e.out {
		if uses[l] == 0 && l != dots || slices.Contains(e.out[:i], l) {
			return nil, fmt.Errorf("equation %q: a label of the result is not in an operand, or is there twice", equation)
		}
	}
	return e, nil
}

// operand is one input as a function of labels: its element at some label
// values is data[Σ value·stride].
type operand[T number] struct {
	data    []T
	labels  []int
	strides []int
}

// stride is that of a label, 0 where the operand does not vary with it.
func (s *operand[T]) stride(label int) int {
	if i := slices.Index(s.labels, label); i >= 0 {
		return s.strides[i]
	}
	return 0
}

// einsumOf contracts the operands from the left, two at a time: a label that
// neither the result nor a later operand has is summed over.
func einsumOf[T number](e *einsum, multiply multiplier[T]) kernel {
	return func(c *call) error {
		terms, size, rank, err := operandsOf[T](e, c.in)
		if err != nil {
			return err
		}
		out := e.result(rank)
		shape := make([]int, len(out))
		for i, l := range out {
			shape[i] = size[l]
		}
		z, err := c.alloc(0, dtypeOf[T](), shape...)
		if err != nil {
			return err
		}
		return contractAll(c, view[T](z), terms, out, size, multiply)
	}
}

// operandsOf reads the inputs of a node: as operands, with the size of every
// label and the number of dims under the ellipsis.
func operandsOf[T number](e *einsum, in []*Tensor) (terms []operand[T], size map[int]int, rank int, err error) {
	d := dtypeOf[T]()
	size = map[int]int{}
	for i, t := range in {
		if t == nil || t.DType != d {
			return nil, nil, 0, fmt.Errorf("input %d is missing or not %v like input 0", i, d)
		}
		labels, err := e.spell(e.in[i], len(t.Shape))
		if err != nil {
			return nil, nil, 0, fmt.Errorf("input %d %v: %w", i, t.Shape, err)
		}
		if slices.Contains(e.in[i], dots) {
			rank = max(rank, len(t.Shape)-len(e.in[i])+1)
		}
		for k, l := range labels {
			n := t.Shape[k]
			if have, ok := size[l]; !ok || have == 1 {
				size[l] = n
			} else if n != 1 && n != have {
				return nil, nil, 0, fmt.Errorf("input %d %v: a label has size %d here and %d elsewhere", i, t.Shape, n, have)
			}
		}
		terms = append(terms, operandOf[T](t, labels))
	}
	return terms, size, rank, nil
}

// operandOf is t with these labels for its dims. A dim of 1 is repeated.
func operandOf[T number](t *Tensor, labels []int) operand[T] {
	s := operand[T]{data: view[T](t)}
	step := t.Len()
	for k, l := range labels {
		n := t.Shape[k]
		step /= max(n, 1) // of an empty tensor nothing is read
		by := step
		if n == 1 {
			by = 0
		}
		if at := slices.Index(s.labels, l); at >= 0 { // a diagonal
			s.strides[at] += by
			continue
		}
		s.labels, s.strides = append(s.labels, l), append(s.strides, by)
	}
	return s
}

// contractAll sets z, whose dims are those of the labels out, to the product of
// the terms, summed over all other labels and repeated along those of out that
// no term has.
func contractAll[T number](c *call, z []T, terms []operand[T], out []int, size map[int]int, multiply multiplier[T]) error {
	left := terms[0]
	for i := range terms[1:] {
		keep := slices.Clone(out)
		for _, t := range terms[i+2:] {
			keep = append(keep, t.labels...)
		}
		var err error
		if left, err = contract(c, left, terms[i+1], keep, size, multiply); err != nil {
			return err
		}
	}
	gather(z, left, out, size)
	return nil
}

// gradEinsum: the gradient with respect to an operand is that of the result
// times the other operands, summed over what the operand has no label for and
// over the dims along which it is repeated.
func gradEinsum(b *backward, x *lnode, dy []*lvalue) error {
	e, err := parseEinsum(x.str("equation", ""))
	if err != nil {
		return err
	}
	for i, term := range e.in {
		if !b.needs(x.in[i]) {
			continue
		}
		for k, l := range term {
			if slices.Contains(term[:k], l) {
				return fmt.Errorf("equation %q: there is none for the diagonal of operand %d", x.str("equation", ""), i)
			}
		}
		b.add(x.in[i], b.kernel("Einsum", einsumGradient(b.simd, e, i), append(slices.Clone(x.in), dy[0])...))
	}
	return nil
}

// einsumGradient has the operands and the gradient of the result as inputs, all
// float32.
func einsumGradient(k *simd.Kernels, e *einsum, wanted int) kernel {
	multiply := multiplyFloat32(k)
	return func(c *call) error {
		last := len(c.in) - 1
		terms, size, rank, err := operandsOf[float32](e, c.in[:last])
		if err != nil {
			return err
		}
		x, g := c.in[wanted], c.in[last]
		out := e.result(rank)
		if g.DType != graph.Float32 || len(g.Shape) != len(out) {
			return fmt.Errorf("gradient %v %v of a result of %d axes", g.DType, g.Shape, len(out))
		}
		for i, l := range out {
			if g.Shape[i] != size[l] {
				return fmt.Errorf("gradient %v: axis %d has size %d in the result", g.Shape, i, size[l])
			}
		}
		var labels []int
		spelt, err := e.spell(e.in[wanted], len(x.Shape))
		if err != nil {
			return err
		}
		for i, l := range spelt {
			if x.Shape[i] != 1 { // repeated dims are summed over
				labels = append(labels, l)
			}
		}
		z, err := c.alloc(0, graph.Float32, x.Shape...)
		if err != nil {
			return err
		}
		factors := append([]operand[float32]{operandOf[float32](g, out)}, slices.Delete(terms, wanted, wanted+1)...)
		return contractAll(c, z.F32(), factors, labels, size, multiply)
	}
}

// spell returns the labels of a term for an operand of that rank. The dims
// under an ellipsis are −2, −3, … from the last one backwards.
func (e *einsum) spell(term []int, rank int) ([]int, error) {
	i := slices.Index(term, dots)
	if i < 0 {
		if len(term) != rank {
			return nil, fmt.Errorf("the equation has %d labels for it", len(term))
		}
		return term, nil
	}
	n := rank - len(term) + 1
	if n < 0 {
		return nil, fmt.Errorf("the equation has %d labels for it", len(term)-1)
	}
	return slices.Replace(slices.Clone(term), i, i+1, ellipsis(n)...), nil
}

// ellipsis is the labels of the n dims under an ellipsis.
func ellipsis(n int) []int {
	out := make([]int, n)
	for k := range out {
		out[k] = -1 - (n - k)
	}
	return out
}

// result returns the labels of the result, rank dims under the ellipsis.
func (e *einsum) result(rank int) []int {
	if i := slices.Index(e.out, dots); i >= 0 {
		return slices.Replace(slices.Clone(e.out), i, i+1, ellipsis(rank)...)
	}
	return e.out
}

// gather sets z to x with the labels in that order, summed over its others.
func gather[T number](z []T, x operand[T], labels []int, size map[int]int) {
	all := slices.Clone(labels)
	for _, l := range x.labels {
		if !slices.Contains(labels, l) {
			all = append(all, l)
		}
	}
	dims, steps := make([]int, len(all)), make([]int, len(all))
	inner := 1
	for i, l := range all {
		dims[i], steps[i] = size[l], x.stride(l)
		if i >= len(labels) {
			inner *= dims[i]
		}
	}
	if inner == 0 {
		clear(z)
		return
	}
	at, from := make([]int, len(all)), 0
	for i := range z {
		var s T
		for range inner {
			s += x.data[from]
			for k := len(all) - 1; k >= 0; k-- {
				at[k]++
				from += steps[k]
				if at[k] < dims[k] {
					break
				}
				from -= at[k] * steps[k]
				at[k] = 0
			}
		}
		z[i] = s
	}
}

// contract multiplies two operands and sums over the labels that are not
// kept, as a batch of matrix products.
func contract[T number](c *call, x, y operand[T], keep []int, size map[int]int, multiply multiplier[T]) (operand[T], error) {
	var batch, left, both, right []int
	for _, l := range x.labels {
		switch in, kept := slices.Contains(y.labels, l), slices.Contains(keep, l); {
		case in && kept:
			batch = append(batch, l)
		case in:
			both = append(both, l)
		case kept:
			left = append(left, l)
		}
	}
	for _, l := range y.labels {
		if !slices.Contains(x.labels, l) && slices.Contains(keep, l) {
			right = append(right, l)
		}
	}
	length := func(lists ...[]int) (int, error) {
		var dims []int
		for _, l := range slices.Concat(lists...) {
			dims = append(dims, size[l])
		}
		return count(dims)
	}
	var n [4]int
	for i, l := range [][]int{batch, left, both, right} {
		var err error
		if n[i], err = length(l); err != nil {
			return x, err
		}
	}
	part := func(s operand[T], labels ...[]int) ([]T, error) {
		total, err := length(labels...)
		if err != nil {
			return nil, err
		}
		out, err := scratch[T](c, total)
		if err != nil {
			return nil, err
		}
		gather(out, s, slices.Concat(labels...), size)
		return out, nil
	}
	a, err := part(x, batch, left, both)
	if err != nil {
		return x, err
	}
	b, err := part(y, batch, both, right)
	if err != nil {
		return x, err
	}
	total, err := length(batch, left, right)
	if err != nil {
		return x, err
	}
	z := operand[T]{labels: slices.Concat(batch, left, right)}
	if z.data, err = scratch[T](c, total); err != nil {
		return x, err
	}
	if err := multiply(c, z.data, a, b, n[0], n[1], n[2], n[3]); err != nil {
		return x, err
	}
	z.strides = make([]int, len(z.labels))
	step := 1
	for i := len(z.labels) - 1; i >= 0; i-- {
		z.strides[i] = step
		step *= size[z.labels[i]]
	}
	return z, nil
}

// A multiplier sets z[i] = x[i]·y[i] for a batch of matrices [m, k] and [k, n].
type multiplier[T number] func(c *call, z, x, y []T, batch, m, k, n int) error

// multiply is the multiplier of every type.
func multiply[T number](_ *call, z, x, y []T, batch, m, k, n int) error {
	clear(z)
	for i := range batch * m {
		zr, b := z[i*n:(i+1)*n], i/m*k
		for p, v := range x[i*k : (i+1)*k] {
			for j, w := range y[(b+p)*n : (b+p+1)*n] {
				zr[j] += T(v * w)
			}
		}
	}
	return nil
}

// multiplyFloat32 is multiply with the vector kernels, matrix by matrix.
func multiplyFloat32(kernels *simd.Kernels) multiplier[float32] {
	type job struct {
		z, x, y, buf []float32
		m, k, n      int
	}
	body := func(c *call, worker, lo, hi int) {
		j := c.arg.(*job)
		size := kernels.PackedLen(j.k, j.n)
		for i := lo; i < hi; i++ {
			b := kernels.PackInto(j.buf[worker*size:(worker+1)*size], simd.RowMajor(j.y[i*j.k*j.n:(i+1)*j.k*j.n], j.n), j.k, j.n)
			kernels.Gemm(j.z[i*j.m*j.n:(i+1)*j.m*j.n], j.n, simd.RowMajor(j.x[i*j.m*j.k:(i+1)*j.m*j.k], j.k), j.m, b, nil, false)
		}
	}
	return func(c *call, z, x, y []float32, batch, m, k, n int) error {
		if k == 0 || len(z) == 0 {
			clear(z)
			return nil
		}
		buf, err := scratch[float32](c, kernels.PackedLen(k, n)*c.workers())
		if err != nil {
			return err
		}
		c.arg = &job{z, x, y, buf, m, k, n}
		c.parallelWorkers(batch, 1+multiplyGrain/(1+m*k*n), body)
		return nil
	}
}
