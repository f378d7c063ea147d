package graph

import (
	"fmt"
	"slices"
)

// Rules of lathe's operators in 16-bit fixed point; the others are those of the
// operators that they stand for.

// inferTo gives output 0 the shape of input 0 and an element type.
func inferTo(elem DType) func(c *call) error {
	return func(c *call) error {
		if x, ok := c.dims(0); ok {
			c.set(0, elem, x)
		} else {
			c.setElem(0, elem)
		}
		return nil
	}
}

func inferAddInt16(c *call) error { return c.broadcast(Int16, 0, 2) }

// inferMatMulInt16: X [..., n], W [m, n] → [..., m].
func inferMatMulInt16(c *call) error {
	x, okX := c.dims(0)
	w, okW := c.dims(1)
	if okW && len(w) != 2 {
		return fmt.Errorf("input W is %v, want [m, n]", w)
	}
	if !okX {
		c.setElem(0, Int16)
		return nil
	}
	if len(x) == 0 {
		return fmt.Errorf("input X is a scalar")
	}
	out := slices.Clone(x)
	out[len(out)-1] = UnknownDim
	if okW {
		if n := x[len(x)-1]; n.IsKnown() && w[1].IsKnown() && n.N != w[1].N {
			return fmt.Errorf("input X is %v with W %v", x, w)
		}
		out[len(out)-1] = w[0]
	}
	c.set(0, Int16, out)
	return nil
}

// inferCirculantInt16: X [..., n], W [p, q, b], M [1] with m in it → [..., m].
func inferCirculantInt16(c *call) error {
	x, okX := c.dims(0)
	if !okX {
		c.setElem(0, Int16)
		return nil
	}
	if len(x) == 0 {
		return fmt.Errorf("input X is a scalar")
	}
	out := slices.Clone(x)
	out[len(out)-1] = UnknownDim
	if e, ok := c.dims(5); ok && len(e) == 1 {
		out[len(out)-1] = e[0]
	}
	if w, ok := c.dims(1); ok {
		if len(w) != 3 {
			return fmt.Errorf("input W is %v, want [p, q, b]", w)
		}
		columns, known := c.expr(w[1]).mul(c.expr(w[2])).value()
		if n := x[len(x)-1]; known && n.IsKnown() && n.N > columns {
			return fmt.Errorf("input X is %v with W %v, want at most %d as its last dim", x, w, columns)
		}
	}
	c.set(0, Int16, out)
	return nil
}

// inferCirculantConvInt16: X [N, C, d...], W [p, q, b, k...], E [m] → [N, m, o...].
func inferCirculantConvInt16(c *call) error {
	x, okX := c.dims(0)
	w, okW := c.dims(1)
	if !okX {
		c.setElem(0, Int16)
		return nil
	}
	if !okW {
		c.setRank(0, Int16, len(x))
		return nil
	}
	if len(x) < 3 || len(w) != len(x)+1 {
		return fmt.Errorf("input X is %v with W %v, want [p, q, b, kernel...]", x, w)
	}
	group := c.int("group", 1)
	if group < 1 || w[0].IsKnown() && w[0].N%group != 0 {
		return fmt.Errorf("weights W are %v in %d groups, want as many in each", w, group)
	}
	if columns, known := c.expr(w[1]).mul(c.expr(w[2])).mul(constant(group)).value(); known && x[1].IsKnown() &&
		(x[1].N > columns || x[1].N%group != 0) {
		return fmt.Errorf("input X is %v with W %v in %d groups, want at most %d channels, as many in each", x, w, group, columns)
	}
	m := UnknownDim
	if e, ok := c.dims(5); ok && len(e) == 1 {
		m = e[0]
	}
	win, err := c.slidingOf(len(x)-2, w[3:])
	if err != nil {
		return err
	}
	out, err := c.outs(win, x[0], m, x[2:])
	if err != nil {
		return err
	}
	c.set(0, Int16, out)
	return nil
}
