package runtime

import (
	"errors"
	"fmt"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// rotaryOps turn pairs of features by angles that depend on the position.
var rotaryOps = []operator{
	{"", "RotaryEmbedding", 23, prepareRotary, gradRotary, halves},
	{microsoft, "RotaryEmbedding", 1, prepareMicrosoftRotary, gradRotary, halves},
}

// rotation turns the first size features of every head (all where it is 0): the
// pairs are (i, size/2 + i), or interleaved (2i, 2i + 1), and
//
//	z₁ = x₁·cos − x₂·sin, z₂ = x₁·sin + x₂·cos.
type rotation struct {
	interleaved bool
	size        int
}

// apply reads x and writes z, both [batch, t, h, d] by heads. where has the row
// of the caches for every token, nil for one row a token.
func (r *rotation) apply(z, x headed, cos, sin *Tensor, where []int64, batch, t, h, d int) error {
	size := r.size
	if size == 0 {
		size = d
	}
	rank := len(cos.Shape)
	if rank < 2 || rank != len(sin.Shape) || cos.Len() != sin.Len() || cos.Shape[rank-1] != sin.Shape[rank-1] {
		return fmt.Errorf("cos_cache %v and sin_cache %v differ, or are no tables", cos.Shape, sin.Shape)
	}
	half := cos.Shape[rank-1]
	if r.size == 0 && half*2 < d {
		size = half * 2 // the tables say how many features turn
	}
	if size < 0 || size > d || size%2 != 0 || half != size/2 {
		return fmt.Errorf("%d of %d features turn, the tables have %d columns", size, d, half)
	}
	n := 0
	if half > 0 {
		n = cos.Len() / half
	}
	if where == nil && n != batch*t && half > 0 {
		return fmt.Errorf("cos_cache %v, want a row for each of %d×%d tokens", cos.Shape, batch, t)
	}
	cs, sn := cos.F32(), sin.F32()
	for b := range batch {
		for i := range t {
			row := b*t + i
			if where != nil {
				if p := where[b*t+i]; p < 0 || p >= int64(n) {
					return fmt.Errorf("position %d is out of range for %d", p, n)
				}
				row = int(where[b*t+i])
			}
			cr, sr := cs[row*half:][:half], sn[row*half:][:half]
			for j := range h {
				from, to := x.data[x.at(b, j)+i*x.step:][:d], z.data[z.at(b, j)+i*z.step:][:d]
				copy(to[size:], from[size:])
				if r.interleaved {
					for k := range half {
						u, v := from[2*k], from[2*k+1]
						to[2*k] = float32(u*cr[k]) - float32(v*sr[k])
						to[2*k+1] = float32(u*sr[k]) + float32(v*cr[k])
					}
					continue
				}
				for k := range half {
					u, v := from[k], from[half+k]
					to[k] = float32(u*cr[k]) - float32(v*sr[k])
					to[half+k] = float32(u*sr[k]) + float32(v*cr[k])
				}
			}
		}
	}
	return nil
}

// gradRotary turns back: the same with sines of the other sign.
func gradRotary(b *backward, x *lnode, dy []*lvalue) error {
	sin := 2
	if x.domain == microsoft {
		sin = 3
	}
	if b.needs(x.in[sin-1]) || b.needs(x.in[sin]) {
		return errors.New("tables of cosines and sines cannot be trained")
	}
	in := slices.Clone(x.in)
	in[0], in[sin] = dy[0], b.op("Neg", nil, in[sin])
	b.add(x.in[0], b.like(b.again(x, in), x.in[0]))
	return nil
}

// byHeads views x, [B, T, H·d] or [B, H, T, d].
func byHeads(x *Tensor, data []float32, heads int) (v headed, batch, t, h, d int, err error) {
	switch len(x.Shape) {
	case 4:
		batch, h, t, d = x.Shape[0], x.Shape[1], x.Shape[2], x.Shape[3]
		return planesOf(data, t, h, d), batch, t, h, d, nil
	case 3:
		if heads < 1 || x.Shape[2]%heads != 0 {
			return v, 0, 0, 0, 0, fmt.Errorf("%v does not divide into %d heads", x.Shape, heads)
		}
		batch, t, h, d = x.Shape[0], x.Shape[1], heads, x.Shape[2]/heads
		return tokensOf(data, t, h, d), batch, t, h, d, nil
	}
	return v, 0, 0, 0, 0, fmt.Errorf("%v has %d dims, want 3 or 4", x.Shape, len(x.Shape))
}

// prepareRotary: X [B, H, T, d] or [B, T, H·d]; tables [positions, d/2] with
// position_ids [B, T], or [B, T, d/2] without.
func prepareRotary(n *node) (kernel, error) {
	r := &rotation{interleaved: n.bool("interleaved", false), size: n.int("rotary_embedding_dim", 0)}
	heads := n.int("num_heads", 0)
	return func(c *call) error {
		if err := c.floatsOnly(0, 1, 2); err != nil {
			return err
		}
		return r.rotate(c, heads, c.in[1], c.in[2], c.input(3))
	}, n.inputs(3, 4)
}

// rotate is the kernel once its inputs are told apart.
func (r *rotation) rotate(c *call, heads int, cos, sin, ids *Tensor) error {
	x := c.in[0]
	v, batch, t, h, d, err := byHeads(x, x.F32(), heads)
	if err != nil {
		return fmt.Errorf("input %w", err)
	}
	var where []int64
	if ids != nil {
		if where, err = scratch[int64](c, batch*t); err != nil {
			return err
		}
		switch {
		case ids.DType != graph.Int64:
			return fmt.Errorf("position_ids: %w", wrongType(ids.DType))
		case ids.Len() == batch*t && len(ids.Shape) == 2:
			copy(where, ids.I64())
		case ids.Len() == 1 && len(ids.Shape) == 1: // the position of the first token
			for i := range where {
				where[i] = ids.I64()[0] + int64(i%t)
			}
		default:
			return fmt.Errorf("position_ids is %v, want [%d, %d]", ids.Shape, batch, t)
		}
		if len(cos.Shape) != 2 {
			return fmt.Errorf("cos_cache is %v, want [positions, d/2]", cos.Shape)
		}
	}
	z, err := c.alloc(0, graph.Float32, x.Shape...)
	if err != nil || z.Len() == 0 {
		return err
	}
	to := v
	to.data = z.F32()
	return r.apply(to, v, cos, sin, where, batch, t, h, d)
}

// prepareMicrosoftRotary: input, position_ids ([1]: of the first token), and
// tables [positions, d/2].
func prepareMicrosoftRotary(n *node) (kernel, error) {
	r := &rotation{interleaved: n.bool("interleaved", false), size: n.int("rotary_embedding_dim", 0)}
	heads := n.int("num_heads", 0)
	if r.size > 0 && heads < 1 {
		return nil, errors.New("rotary_embedding_dim needs num_heads")
	}
	return func(c *call) error {
		if err := c.floatsOnly(0, 2, 3); err != nil {
			return err
		}
		h := heads
		if x := c.in[0]; h == 0 && len(x.Shape) == 3 && len(c.in[2].Shape) == 2 && c.in[2].Shape[1] > 0 {
			h = x.Shape[2] / (2 * c.in[2].Shape[1]) // the tables say how long a head is
		}
		return r.rotate(c, h, c.in[2], c.in[3], c.in[1])
	}, n.inputs(4, 4)
}
