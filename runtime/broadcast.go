package runtime

import (
	"fmt"
	"slices"
)

// broadcast is how up to three operands of different shapes meet under
// ONNX's multidirectional broadcasting: the common shape, and the same with
// neighbouring dimensions joined wherever every operand runs through them as
// through one, with each operand's stride in them. An operand's last stride is
// 1, or 0 where it repeats.
type broadcast struct {
	shapes  [3][]int // of the operands, as last seen
	n       int      // operands
	shape   []int    // common shape
	size    int      // its elements
	dims    []int    // joined; at least one
	strides [3][]int
	tile    []byte // see loops.tiled
}

// set works out the broadcast of shapes, or keeps what it is if they have not
// changed.
func (b *broadcast) set(shapes ...[]int) error {
	same := b.n == len(shapes) && b.dims != nil
	for i, s := range shapes {
		same = same && slices.Equal(s, b.shapes[i])
	}
	if same {
		return nil
	}
	b.n, b.dims = len(shapes), nil
	rank := 0
	for i, s := range shapes {
		b.shapes[i] = append(b.shapes[i][:0], s...)
		rank = max(rank, len(s))
	}
	b.shape = slices.Grow(b.shape[:0], rank)[:rank]
	full := [3][]int{}
	for i := range shapes {
		full[i] = make([]int, rank)
	}
	for k := range rank {
		d := 1
		for _, s := range shapes {
			j := k - (rank - len(s))
			if j < 0 || s[j] == 1 {
				continue
			}
			if d != 1 && s[j] != d {
				return fmt.Errorf("shapes %v do not broadcast", b.shapes[:b.n])
			}
			d = s[j]
		}
		b.shape[k] = d
	}
	var err error
	if b.size, err = count(b.shape); err != nil {
		return err
	}
	for i, s := range shapes {
		step := 1
		for j := len(s) - 1; j >= 0; j-- {
			if s[j] != 1 {
				full[i][j+rank-len(s)] = step
			}
			step *= s[j]
		}
	}
	dims := []int{}
	for i := range b.strides {
		b.strides[i] = b.strides[i][:0]
	}
	for k := range rank {
		if b.shape[k] == 1 {
			continue
		}
		l := len(dims) - 1
		join := l >= 0
		for i := range shapes {
			join = join && b.strides[i][l] == full[i][k]*b.shape[k]
		}
		if join {
			dims[l] *= b.shape[k]
			for i := range shapes {
				b.strides[i][l] = full[i][k]
			}
			continue
		}
		dims = append(dims, b.shape[k])
		for i := range shapes {
			b.strides[i] = append(b.strides[i], full[i][k])
		}
	}
	if len(dims) == 0 {
		dims = append(dims, 1)
		for i := range shapes {
			b.strides[i] = append(b.strides[i], 0)
		}
	}
	b.dims = dims
	return nil
}

// cursor walks the rows (runs of the innermost joined dimension) of the
// common shape between two flat indices.
type cursor struct {
	b      *broadcast
	at, hi int // flat index, and its end
	n      int // elements of the row at hand
	off    [3]int
	col    int
}

// from starts a walk of [lo, hi); a walk of nothing has ok false at once.
func (b *broadcast) from(lo, hi int) cursor {
	c := cursor{b: b, at: lo, hi: hi}
	if lo >= hi {
		return c
	}
	rest := lo
	for k := len(b.dims) - 1; k >= 0; k-- {
		i := rest % b.dims[k]
		rest /= b.dims[k]
		if k == len(b.dims)-1 {
			c.col = i
		}
		for o := range b.n {
			c.off[o] += i * b.strides[o][k]
		}
	}
	c.n = min(b.dims[len(b.dims)-1]-c.col, hi-lo)
	return c
}

// ok reports whether there is a row at hand: n elements of the result from
// at on, and of each operand from off on.
func (c *cursor) ok() bool { return c.at < c.hi }

// next goes to the next row.
func (c *cursor) next() {
	b := c.b
	last := len(b.dims) - 1
	c.at += c.n
	if c.at >= c.hi {
		return
	}
	for o := range b.n {
		c.off[o] -= c.col * b.strides[o][last] // back to the row's start
	}
	c.col = 0
	row := c.at / b.dims[last]
	for k := last - 1; k >= 0; k-- {
		for o := range b.n {
			c.off[o] += b.strides[o][k]
		}
		// Did this dimension just wrap around?
		if row%b.dims[k] != 0 {
			break
		}
		row /= b.dims[k]
		for o := range b.n {
			c.off[o] -= b.dims[k] * b.strides[o][k]
		}
	}
	c.n = min(b.dims[last], c.hi-c.at)
}

// inner is operand o's stride along a row: 1, or 0 where it repeats.
func (b *broadcast) inner(o int) int { return b.strides[o][len(b.dims)-1] }
