package runtime

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"

	"github.com/onnx-lathe/lathe/graph"
)

// randomOps draw numbers. Those of a node are the same in every run: they follow
// from its seed or, where it has none, from its name.
var randomOps = []operator{
	{"", "RandomNormal", 1, prepareRandom, nil, random},
	{"", "RandomUniform", 1, prepareRandom, nil, random},
	{"", "RandomNormalLike", 1, prepareRandom, nil, random},
	{"", "RandomUniformLike", 1, prepareRandom, nil, random},
	{"", "Bernoulli", 15, prepareBernoulli, nil, random},
	{"", "Multinomial", 7, prepareMultinomial, nil, random},
}

// generator returns what the node draws from in a run.
func (n *node) generator() func() *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(n.name))
	seed := h.Sum64()
	if n.isSet("seed") {
		seed = uint64(math.Float32bits(n.float("seed", 0)))
	}
	return func() *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }
}

// drawn fills output 0, of type d and that shape, with numbers of draw, rounded
// to the type.
func (c *call) drawn(d graph.DType, shape []int, draw func() float64) error {
	z, err := c.alloc(0, d, shape...)
	if err != nil {
		return err
	}
	n := z.Len()
	wide, err := scratch[float64](c, n)
	if err != nil {
		return err
	}
	for i := range wide {
		if wide[i] = draw(); i&0xffff == 0 && c.s.ctx != nil && c.s.ctx.Err() != nil {
			return c.s.ctx.Err()
		}
	}
	return convert(z, FromSlice(shape, wide), castRules{})
}

// prepareRandom: numbers of N(mean, scale²) or of U(low, high), in the shape of
// an attribute or of the input.
func prepareRandom(n *node) (kernel, error) {
	shape, like := n.ints("shape"), n.op == "RandomNormalLike" || n.op == "RandomUniformLike"
	to := graph.DType(n.int("dtype", 0))
	if to == 0 && !like {
		to = graph.Float32
	}
	if to != 0 && !to.IsFloat() {
		return nil, fmt.Errorf("dtype = %d is no floating-point type", to)
	}
	start := n.generator()
	mean, scale := float64(n.float("mean", 0)), float64(n.float("scale", 1))
	low, high := float64(n.float("low", 0)), float64(n.float("high", 1))
	normal := n.op == "RandomNormal" || n.op == "RandomNormalLike"
	inputs := 0
	if like {
		inputs = 1
	}
	return func(c *call) error {
		d, shape := to, shape
		if like {
			shape = c.in[0].Shape
			if d == 0 {
				if d = c.in[0].DType; !d.IsFloat() {
					return wrongType(d)
				}
			}
		}
		r := start()
		if normal {
			return c.drawn(d, shape, func() float64 { return mean + scale*r.NormFloat64() })
		}
		return c.drawn(d, shape, func() float64 { return low + (high-low)*r.Float64() })
	}, n.inputs(inputs, inputs)
}

// prepareBernoulli: 1 with the probability of the input's element, else 0.
func prepareBernoulli(n *node) (kernel, error) {
	to := graph.DType(n.int("dtype", 0))
	if to != 0 && !to.Known() {
		return nil, fmt.Errorf("dtype = %d is no element type", to)
	}
	start := n.generator()
	return func(c *call) error {
		x, err := c.converted(c.in[0], graph.Float64)
		if err != nil {
			return err
		}
		d := to
		if d == 0 {
			d = c.in[0].DType
		}
		r, i := start(), -1
		return c.drawn(d, c.in[0].Shape, func() float64 {
			if i++; r.Float64() < x.F64()[i] {
				return 1
			}
			return 0
		})
	}, n.inputs(1, 1)
}

// prepareMultinomial: for every row of logarithms [B, classes] so many classes,
// each with its probability: [B, sample_size].
func prepareMultinomial(n *node) (kernel, error) {
	to, size := graph.DType(n.int("dtype", int(graph.Int32))), n.int("sample_size", 1)
	if to != graph.Int32 && to != graph.Int64 {
		return nil, fmt.Errorf("dtype = %d, want int32 or int64", to)
	}
	start := n.generator()
	return func(c *call) error {
		x, err := c.converted(c.in[0], graph.Float64)
		if err != nil {
			return err
		}
		if len(x.Shape) != 2 || x.Shape[1] == 0 {
			return fmt.Errorf("input %v, want [B, classes]", x.Shape)
		}
		classes := x.Shape[1]
		sums, err := scratch[float64](c, classes)
		if err != nil {
			return err
		}
		r, i := start(), 0
		return c.drawn(to, []int{x.Shape[0], size}, func() float64 {
			if i%size == 0 {
				row := x.F64()[i/size*classes:][:classes]
				most, sum := math.Inf(-1), 0.0
				for _, v := range row {
					most = max(most, v)
				}
				for k, v := range row {
					sum += math.Exp(v - most)
					sums[k] = sum
				}
			}
			i++
			at := r.Float64() * sums[classes-1]
			for k, s := range sums {
				if at < s {
					return float64(k)
				}
			}
			return float64(classes - 1)
		})
	}, n.inputs(1, 1)
}
