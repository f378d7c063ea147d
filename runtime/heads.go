package runtime

import (
	"errors"
	"fmt"
	"math"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// heads is a multi-head attention at hand: for every sample and head
//
//	z = softmax(cap(scale·q·kᵀ) + added)·v
//
// q [T, d], k [S, d], v [S, e], where cap(x) = softcap·tanh(x/softcap). Head h
// reads head h/(H/KV) of k and v. The operands are read and the result written
// where they lie.
type heads struct {
	simd            *simd.Kernels
	batch, h, kv    int
	t, s, d, e      int
	q, k, v, z      headed
	scale, softcap  float32
	added           [2]headed // columns S; no data: nothing to add
	length          []int     // of keys by sample; nil: S
	past            []int     // by sample: query i stands at past + i; nil: 0
	causal          bool      // keys behind the query do not count
	window          int       // so many keys up to the query count; 0: all
	ahead           int       // so many keys from the query on count; 0: all
	sink            []float32 // by head: the logit of a key without a value; nil: none
	seen            []float32 // [B, H, T, S]: gets the scores of a stage; nil: not wanted
	stage           stage
	tile, tiles, ld int
	ws              []float32
	step, pk, pv    int
}

// stage is a point in the computation of scores.
type stage int

const (
	stageProduct stage = iota // scale·q·kᵀ
	stageCapped               // capped
	stageAdded                // with what is added
	stageSoftmax
)

// headed is data whose element (sample, head, row, column) lies at a stride
// of each; columns lie one after the other.
type headed struct {
	data              []float32
	batch, head, step int
}

func (x *headed) at(sample, head int) int { return sample*x.batch + head*x.head }

// tokensOf views a tensor [B, L, H·d] by heads of d.
func tokensOf(data []float32, l, h, d int) headed { return headed{data, l * h * d, d, h * d} }

// planesOf views a tensor [B, H, L, d].
func planesOf(data []float32, l, h, d int) headed { return headed{data, h * l * d, l * d, d} }

// allowed is the range of keys that count for a query.
func (a *heads) allowed(sample, query int) (lo, hi int) {
	hi = a.s
	if a.length != nil {
		hi = a.length[sample]
	}
	at := query
	if a.past != nil {
		at += a.past[sample]
	}
	if a.causal {
		hi = min(hi, at+1)
	}
	if a.ahead > 0 {
		hi = min(hi, at+a.ahead)
	}
	if a.window > 0 {
		lo = max(0, at+1-a.window)
	}
	return min(lo, max(hi, 0)), max(hi, 0)
}

// run computes z, which is allocated.
func (a *heads) run(c *call) error {
	if a.batch*a.h*a.t*a.e == 0 {
		return nil
	}
	if a.s == 0 {
		return errors.New("there are no keys")
	}
	whole := func(n int) int { return (n + 15) / 16 * 16 }
	a.ld = whole(a.s)
	a.tile = min(max(tileSize/a.ld/8*8, 8), a.t)
	a.tiles = (a.t + a.tile - 1) / a.tile
	a.pk, a.pv = whole(a.simd.PackedLen(a.d, a.s)), whole(a.simd.PackedLen(a.s, a.e))
	a.step = a.pk + a.pv + a.tile*a.ld
	var err error
	if a.ws, err = scratch[float32](c, a.step*c.workers()); err != nil {
		return err
	}
	c.arg = a
	c.parallelWorkers(a.batch*a.h*a.tiles, 1+multiplyGrain/(1+a.tile*a.s*(a.d+a.e)), headRows)
	return nil
}

func headRows(c *call, worker, lo, hi int) {
	a := c.arg.(*heads)
	ws := a.ws[worker*a.step:][:a.step]
	bufK, bufV, p := ws[:a.pk], ws[a.pk:][:a.pv], ws[a.pk+a.pv:]
	var keys, values simd.Packed
	packed := -1 // the sample and head that are
	for i := lo; i < hi; i++ {
		sample, head, row := i/a.tiles/a.h, i/a.tiles%a.h, i%a.tiles*a.tile
		rows := min(a.tile, a.t-row)
		n := a.s
		if a.length != nil {
			n = a.length[sample]
		}
		from := head / (a.h / a.kv)
		if at := sample*a.kv + from; at != packed {
			packed = at
			keys = a.simd.PackInto(bufK, simd.RowMajor(a.k.data[a.k.at(sample, from):], a.k.step).T(), a.d, n)
			values = a.simd.PackInto(bufV, simd.RowMajor(a.v.data[a.v.at(sample, from):], a.v.step), n, a.e)
		}
		q := simd.RowMajor(a.q.data[a.q.at(sample, head)+row*a.q.step:], a.q.step)
		a.simd.Gemm(p, a.ld, q, rows, keys, nil, false)
		for j := range rows {
			a.score(p[j*a.ld:][:n], sample, head, row+j)
		}
		z := a.z.data[a.z.at(sample, head)+row*a.z.step:]
		a.simd.Gemm(z, a.z.step, simd.RowMajor(p, a.ld), rows, values, nil, false)
	}
}

// score turns the products of a query with the keys into their weights.
func (a *heads) score(s []float32, sample, head, query int) {
	lo, hi := a.allowed(sample, query)
	lo, hi = min(lo, len(s)), min(hi, len(s))
	if a.scale != 1 {
		a.simd.MulScalar(s, s, a.scale)
	}
	a.show(stageProduct, s, sample, head, query)
	a.limit(s)
	a.show(stageCapped, s, sample, head, query)
	for i := range a.added {
		if x := &a.added[i]; x.data != nil {
			a.simd.Add(s, s, x.data[x.at(sample, head)+query*x.step:][:len(s)])
		}
	}
	if a.seen != nil && a.stage == stageAdded {
		minus := float32(math.Inf(-1))
		for i := range s {
			if i < lo || i >= hi {
				s[i] = minus
			}
		}
	}
	a.show(stageAdded, s, sample, head, query)
	clear(s[:lo])
	clear(s[hi:])
	if lo < hi {
		if part := s[lo:hi]; a.added[0].data != nil && math.IsInf(float64(a.simd.MaxOf(part)), -1) {
			clear(part) // a mask hides all keys
		} else if a.sink == nil {
			a.simd.Softmax(part, part)
		} else {
			sink := a.sink[head]
			m := max(a.simd.MaxOf(part), sink)
			a.simd.AddScalar(part, part, -m)
			a.simd.Exp(part, part)
			a.simd.DivScalar(part, part, a.simd.Sum(part)+float32(math.Exp(float64(sink-m))))
		}
	}
	a.show(stageSoftmax, s, sample, head, query)
}

// limit is softcap·tanh(s/softcap).
func (a *heads) limit(s []float32) {
	if a.softcap > 0 {
		a.simd.DivScalar(s, s, a.softcap)
		a.simd.Tanh(s, s)
		a.simd.MulScalar(s, s, a.softcap)
	}
}

func (a *heads) show(at stage, s []float32, sample, head, query int) {
	if a.seen != nil && a.stage == at {
		row := a.seen[((sample*a.h+head)*a.t+query)*a.s:][:a.s]
		clear(row[copy(row, s):])
	}
}

// floatsOnly fails unless the inputs named, where given, are float32.
func (c *call) floatsOnly(inputs ...int) error {
	for _, i := range inputs {
		if t := c.input(i); t != nil && t.DType != graph.Float32 {
			return fmt.Errorf("input %d: %w", i, wrongType(t.DType))
		}
	}
	return nil
}

// add makes x [B|1, H|1, T|1, S|1] one of the things that are added to the
// scores; more columns than S are cut off.
func (a *heads) add(c *call, slot int, x *Tensor, what string) error {
	shape := [4]int{1, 1, 1, 1}
	if len(x.Shape) > 4 {
		return fmt.Errorf("%s is %v, want at most four dims", what, x.Shape)
	}
	copy(shape[4-len(x.Shape):], x.Shape)
	want := [4]int{a.batch, a.h, a.t, a.s}
	for i := range 3 {
		if shape[i] != 1 && shape[i] != want[i] {
			return fmt.Errorf("%s is %v, which does not broadcast to %v", what, x.Shape, want)
		}
	}
	data := x.F32()
	switch {
	case shape[3] >= a.s:
	case shape[3] == 1:
		rows := shape[0] * shape[1] * shape[2]
		wide, err := scratch[float32](c, rows*a.s)
		if err != nil {
			return err
		}
		for i := range rows {
			for j := range a.s {
				wide[i*a.s+j] = data[i]
			}
		}
		data, shape[3] = wide, a.s
	default:
		return fmt.Errorf("%s is %v, which does not broadcast to %v", what, x.Shape, want)
	}
	h := headed{data: data, step: shape[3], head: shape[2] * shape[3], batch: shape[1] * shape[2] * shape[3]}
	for i, stride := range []*int{&h.batch, &h.head, &h.step} {
		if shape[i] == 1 {
			*stride = 0
		}
	}
	if len(data) == 0 {
		return nil
	}
	a.added[slot] = h
	return nil
}

// appended copies past [B, H, P, d] and x, by head, into output i: [B, H, P+L, d].
func appended(c *call, i int, past *Tensor, x headed, batch, h, l, d int) (headed, int, error) {
	p := 0
	if past != nil {
		if len(past.Shape) != 4 || past.Shape[0] != batch || past.Shape[1] != h || past.Shape[3] != d {
			return headed{}, 0, fmt.Errorf("the past is %v, want [%d, %d, past, %d]", past.Shape, batch, h, d)
		}
		p = past.Shape[2]
	}
	z, err := c.alloc(i, graph.Float32, batch, h, p+l, d)
	if err != nil {
		return headed{}, 0, err
	}
	var from []float32
	if past != nil {
		from = past.F32()
	}
	out := planesOf(z.F32(), p+l, h, d)
	appendTo(out, from, x, batch, h, p, l, d)
	return out, p, nil
}

func appendTo(out headed, past []float32, x headed, batch, h, p, l, d int) {
	for b := range batch {
		for j := range h {
			to := out.data[out.at(b, j):]
			copy(to[:p*d], past[min((b*h+j)*p*d, len(past)):])
			for r := range l {
				copy(to[(p+r)*d:][:d], x.data[x.at(b, j)+r*x.step:])
			}
		}
	}
}
