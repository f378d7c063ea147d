package runtime

import (
	"errors"
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// prepareScan8 is Scan as opset 8 has it, over batches: inputs are the lengths
// of the sequences (optional), N state variables [batch, …] and the scan
// inputs [batch, steps, …]; what the body gives beyond the states becomes
// [batch, steps, …], zero beyond a sequence's length.
func prepareScan8(n *node) (kernel, error) {
	at, p, err := n.body("body")
	if err != nil {
		return nil, err
	}
	scanIn := n.int("num_scan_inputs", 0)
	states := len(n.given) - 1 - scanIn
	if scanIn < 1 || states < 0 || len(p.inputs) != len(n.given)-1 {
		return nil, fmt.Errorf("num_scan_inputs = %d with %d inputs and %d of the body", scanIn, len(n.given), len(p.inputs))
	}
	scanOut := len(p.outputs) - states
	if scanOut < 0 || len(n.wanted) > len(p.outputs) {
		return nil, fmt.Errorf("its body gives %d outputs for %d state variables and %d outputs of the node", len(p.outputs), states, len(n.wanted))
	}
	back := n.ints("directions")
	if back == nil {
		back = make([]int, scanIn)
	}
	if len(back) != scanIn {
		return nil, fmt.Errorf("attribute directions has %d elements, want %d", len(back), scanIn)
	}
	for i := 1; i < len(n.given); i++ {
		if !n.given[i] {
			return nil, fmt.Errorf("input %d is missing", i)
		}
	}
	return func(c *call) error {
		batch, steps := -1, -1
		for i := 1; i < len(c.in); i++ {
			x, rank := c.in[i], 1
			if i > states {
				rank = 2
			}
			if len(x.Shape) < rank || batch >= 0 && x.Shape[0] != batch {
				return fmt.Errorf("input %d is %v, want a batch of %d first", i, x.Shape, batch)
			}
			if batch = x.Shape[0]; rank == 2 {
				if steps >= 0 && x.Shape[1] != steps {
					return fmt.Errorf("input %d is %v, another scan input has %d steps", i, x.Shape, steps)
				}
				steps = x.Shape[1]
			}
		}
		lengths, err := scratch[int64](c, batch)
		if err != nil {
			return err
		}
		for i := range lengths {
			lengths[i] = int64(steps)
		}
		if c.has(0) {
			if c.in[0].Len() != batch || c.in[0].DType != graph.Int64 {
				return fmt.Errorf("sequence_lens is %v%v, want %d of int64", c.in[0].DType, c.in[0].Shape, batch)
			}
			copy(lengths, c.in[0].I64())
		}
		it := c.iteration(states, scanOut)
		final := make([][]Tensor, states) // by state and batch
		f := c.bodies[at]
		defer func() {
			it.drop(&c.s.pool)
			for _, list := range final {
				for i := range list {
					c.s.pool.release(&list[i])
				}
			}
			f.reset()
		}()
		slice := func(x *Tensor, depth, j int) (Tensor, error) { // element j of the first dims
			s := Tensor{Shape: slices.Clone(x.Shape[depth:])}
			l := lines{1, 1, 1}
			for i, d := range x.Shape {
				if i < depth {
					l.n *= d
				} else {
					l.inner *= d
				}
			}
			return s, c.cut(&s, x, l, j, 1)
		}
		for b := range batch {
			if lengths[b] < 0 || lengths[b] > int64(steps) {
				return fmt.Errorf("sequence %d has length %d of %d steps", b, lengths[b], steps)
			}
			for k := range states {
				s, err := slice(c.in[1+k], 1, b)
				if err != nil {
					return err
				}
				c.s.pool.release(&it.carried[k])
				it.carried[k] = s
			}
			for i := range int(lengths[b]) {
				if err := c.s.ctx.Err(); err != nil {
					return err
				}
				for k := range states {
					f.give(k, &it.carried[k])
				}
				for k := range scanIn {
					j := i
					if back[k] != 0 {
						j = int(lengths[b]) - 1 - i
					}
					s, err := slice(c.in[1+states+k], 2, b*steps+j)
					if err != nil {
						return err
					}
					f.give(states+k, &s)
				}
				if err := f.exec(); err != nil {
					return fmt.Errorf("sequence %d, step %d: %w", b, i, err)
				}
				if err := it.collect(c, f, 0, states); err != nil {
					return err
				}
				f.reset()
			}
			for k := range states {
				final[k] = append(final[k], Tensor{})
				f.s.pool.share(&final[k][b], &it.carried[k])
				if s := &final[k][0]; final[k][b].DType != s.DType || !slices.Equal(final[k][b].Shape, s.Shape) {
					return fmt.Errorf("state variable %d is not of one type and shape in all sequences", k)
				}
			}
			// Zeros up to the longest sequence.
			for k := range scanOut {
				for len(it.scanned[k]) > 0 && len(it.scanned[k]) < (b+1)*steps {
					z := Tensor{DType: it.scanned[k][0].DType, Shape: slices.Clone(it.scanned[k][0].Shape)}
					if z.DType == graph.String {
						return errors.New("strings of different lengths cannot be stacked")
					}
					buf, err := c.s.pool.get(len(it.scanned[k][0].mem))
					if err != nil {
						return err
					}
					z.buf, z.mem = buf, buf.mem[:len(it.scanned[k][0].mem)]
					clear(z.mem)
					it.scanned[k] = append(it.scanned[k], z)
				}
			}
		}
		for k := range states {
			if err := c.stack(k, final[k], p.types[k], 0, false); err != nil {
				return err
			}
		}
		for k := range scanOut {
			if !c.wants(states + k) {
				continue
			}
			if n := len(it.scanned[k]); n > 0 && n != batch*steps {
				return errors.New("the first sequence is empty, and a later one is not")
			}
			if err := c.stack(states+k, it.scanned[k], p.types[states+k], 0, false); err != nil {
				return err
			}
			z := c.out[states+k]
			if len(it.scanned[k]) == 0 && batch*steps > 0 {
				return errors.New("all sequences are empty")
			}
			z.Shape = append([]int{batch, steps}, z.Shape[1:]...)
		}
		return nil
	}, nil
}
