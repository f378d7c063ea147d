package runtime

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// microsoftOps are the operators that ONNX Runtime's optimizer, quantizer and
// exporters write, beside the attentions.
var microsoftOps = []operator{
	{microsoft, "Gelu", 1, prepareBiased("Gelu"), nil, halves},
	{microsoft, "BiasGelu", 1, prepareBiased("Gelu"), nil, halves},
	{microsoft, "FastGelu", 1, prepareBiased("FastGelu"), nil, halves},
	{microsoft, "QuickGelu", 1, prepareBiased("QuickGelu"), nil, halves},
	{microsoft, "SkipLayerNormalization", 1, prepareSkipNorm, nil, halves},
	{microsoft, "SkipSimplifiedLayerNormalization", 1, prepareSkipNorm, nil, halves},
	{microsoft, "EmbedLayerNormalization", 1, prepareEmbedNorm, nil, halves},
	{microsoft, "FusedMatMul", 1, prepareFusedMatMul, nil, halves},
	{microsoft, "TransposeMatMul", 1, prepareFusedMatMul, nil, halves},
	{microsoft, "FusedGemm", 1, prepareFusedGemm, nil, halves},
	{microsoft, "FusedConv", 1, prepareFusedConv, nil, halves},
	{microsoft, "MatMulNBits", 1, prepareMatMulNBits, gradMatMulNBits, halves},
	{microsoft, "DynamicQuantizeMatMul", 1, prepareDynamicQuantizeMatMul, nil, 0},
	{microsoft, "MatMulIntegerToFloat", 1, prepareMatMulIntegerToFloat, nil, halves},
	{microsoft, "QuantizeLinear", 1, asOpset(21, prepareQuantize), nil, 0},
	{microsoft, "DequantizeLinear", 1, asOpset(21, prepareDequantize), nil, 0},
}

// asOpset prepares a node as one of ai.onnx of an opset.
func asOpset(version int, prepare func(n *node) (kernel, error)) func(n *node) (kernel, error) {
	return func(n *node) (kernel, error) {
		n.opset = version
		return prepare(n)
	}
}

// prepareBiased: a function of x + bias, where a bias is given, along the last
// axis: Gelu, FastGelu (by tanh) and QuickGelu, x·σ(alpha·x).
func prepareBiased(name string) func(n *node) (kernel, error) {
	return func(n *node) (kernel, error) {
		k := n.simd
		f := k.Gelu
		switch name {
		case "FastGelu":
			f = k.GeluTanh
		case "QuickGelu":
			alpha := n.float("alpha", 1.702)
			f = func(z, x []float32) {
				var y [256]float32
				for len(x) > 0 {
					part := y[:min(len(x), len(y))]
					k.MulScalar(part, x[:len(part)], alpha)
					k.Sigmoid(part, part)
					k.Mul(z[:len(part)], x[:len(part)], part)
					z, x = z[len(part):], x[len(part):]
				}
			}
		}
		rows := func(c *call, lo, hi int) {
			x, z := c.in[0].F32(), c.out[0].F32()
			n := c.in[0].Shape[len(c.in[0].Shape)-1]
			bias := c.in[1].F32()
			for i := lo; i < hi; i++ {
				zr := z[i*n : (i+1)*n]
				k.Add(zr, x[i*n:(i+1)*n], bias)
				f(zr, zr)
			}
		}
		all := unary(f, functionGrain)
		most := 2
		if n.op == "Gelu" || n.op == "QuickGelu" {
			most = 1
		}
		return byType{graph.Float32: func(c *call) error {
			x, bias := c.in[0], c.input(1)
			if bias == nil {
				return all(c)
			}
			r := len(x.Shape)
			if bias.DType != x.DType || len(bias.Shape) != 1 || r == 0 || bias.Shape[0] != x.Shape[r-1] {
				return fmt.Errorf("bias %v%v for %v%v", bias.DType, bias.Shape, x.DType, x.Shape)
			}
			if _, err := c.alloc(0, graph.Float32, x.Shape...); err != nil || x.Len() == 0 {
				return err
			}
			n := x.Shape[r-1]
			c.parallel(x.Len()/n, 1+functionGrain/n, rows)
			return nil
		}}.kernel(0), n.inputs(1, most)
	}
}

// skipNorm is the norm of input + skip + bias over the last axis, and its parts.
type skipNorm struct {
	k           *simd.Kernels
	eps         float32
	rms         bool
	x, skip     []float32
	repeat      int // of skip, in elements
	bias        []float32
	gamma, beta []float32
	sum, z      []float32
	mean, inv   []float32
	n           int
}

// prepareSkipNorm: input [B, S, H] or [S, H], skip of that shape or repeated
// along the batch, gamma, beta (not without a mean), bias → the norm, its mean
// and 1/√(σ² + ε), the sum.
func prepareSkipNorm(n *node) (kernel, error) {
	fixed := skipNorm{k: n.simd, rms: n.op == "SkipSimplifiedLayerNormalization", eps: n.float("epsilon", 1e-5)}
	if !n.isSet("epsilon") && !fixed.rms {
		fixed.eps = 1e-12
	}
	atBias := 4
	if fixed.rms {
		atBias = 3
	}
	return func(c *call) error {
		if err := c.floatsOnly(0, 1, 2, 3, 4); err != nil {
			return err
		}
		s := fixed
		x, skip := c.in[0], c.in[1]
		r := len(x.Shape)
		if r != 2 && r != 3 {
			return fmt.Errorf("input is %v, want [B, S, H] or [S, H]", x.Shape)
		}
		s.n, s.repeat = x.Shape[r-1], skip.Len()
		if len(skip.Shape) < 2 || !repeats(skip.Shape, x.Shape) {
			return fmt.Errorf("skip %v does not repeat to %v", skip.Shape, x.Shape)
		}
		for i, to := range map[int]*[]float32{2: &s.gamma, 3: &s.beta, 4: &s.bias} {
			if fixed.rms {
				if i == 3 {
					to = &s.bias
				} else if i == 4 {
					continue
				}
			}
			if t := c.input(i); t != nil {
				if t.Len() != s.n {
					return fmt.Errorf("input %d is %v, want %d elements", i, t.Shape, s.n)
				}
				*to = t.F32()
			}
		}
		return s.run(c, x.Shape, x.F32(), skip.F32(), 3)
	}, n.inputs(3, atBias+1)
}

// repeats reports whether a tensor of shape skip, said again and again, makes one
// of shape x: rows of it are rows there.
func repeats(skip, x []int) bool {
	for len(skip) > 1 && skip[0] == 1 {
		skip = skip[1:]
	}
	return len(skip) > 0 && len(skip) <= len(x) && slices.Equal(skip, x[len(x)-len(skip):])
}

// run normalizes x + skip; the sum is output at.
func (s *skipNorm) run(c *call, shape []int, x, skip []float32, at int) error {
	s.x, s.skip = x, skip
	from, to := 0, 0 // the sum takes the memory of an operand, if that is free
	if !c.dies0() {
		from = 1
	}
	if c.wants(at) {
		to = at
	}
	sum, err := c.over(to, from, graph.Float32, shape...)
	if err != nil {
		return err
	}
	z := sum
	if to != 0 {
		if z, err = c.alloc(0, graph.Float32, shape...); err != nil {
			return err
		}
	}
	s.z, s.sum = z.F32(), sum.F32()
	if at == 3 && (c.wants(1) || c.wants(2)) {
		stats := append(slices.Clone(shape[:len(shape)-1]), 1)
		mean, err := c.alloc(1, graph.Float32, stats...)
		if err != nil {
			return err
		}
		inv, err := c.alloc(2, graph.Float32, stats...)
		if err != nil {
			return err
		}
		s.mean, s.inv = mean.F32(), inv.F32()
	}
	if len(s.z) == 0 {
		return nil
	}
	c.arg = s
	c.parallel(len(s.z)/s.n, 1+functionGrain/s.n, skipNormRows)
	return nil
}

// skipNormRows normalizes rows [lo, hi), some at a time, which stay in the cache
// next to the core between the steps.
func skipNormRows(c *call, lo, hi int) {
	s := c.arg.(*skipNorm)
	const most = 4 << 10 // elements
	for lo < hi {
		at, skip := lo*s.n, s.skip[lo*s.n%s.repeat:]
		rows := min(hi-lo, max(1, min(most, len(skip))/s.n))
		lo += rows
		sum, z := s.sum[at:at+rows*s.n], s.z[at:at+rows*s.n]
		s.k.Add(sum, s.x[at:at+rows*s.n], skip[:rows*s.n])
		if s.bias != nil {
			for i := range rows {
				row := sum[i*s.n : (i+1)*s.n]
				s.k.Add(row, row, s.bias)
			}
		}
		if s.mean != nil {
			for i := range rows {
				m, v := moments(sum[i*s.n:(i+1)*s.n], s.rms)
				s.mean[at/s.n+i], s.inv[at/s.n+i] = float32(m), float32(1/math.Sqrt(v+float64(s.eps)))
			}
		}
		if s.rms {
			s.k.RMSNorm(z, sum, s.gamma, s.eps)
		} else {
			s.k.LayerNorm(z, sum, s.gamma, s.beta, s.eps)
		}
	}
}

// prepareEmbedNorm: the norm of the sum of the embeddings of words, positions
// and segments: ids, segment ids and mask [B, S], tables [·, H], gamma, beta,
// position ids [B, S] or [1, S] → the norm [B, S, H], how many of the mask are 1
// [B], the sum.
func prepareEmbedNorm(n *node) (kernel, error) {
	fixed := skipNorm{k: n.simd, eps: n.float("epsilon", 1e-12)}
	return func(c *call) error {
		if err := c.floatsOnly(2, 3, 4, 5, 6); err != nil {
			return err
		}
		ids := c.in[0]
		if len(ids.Shape) != 2 {
			return fmt.Errorf("input_ids is %v, want [B, S]", ids.Shape)
		}
		batch, t := ids.Shape[0], ids.Shape[1]
		if len(c.in[2].Shape) != 2 {
			return fmt.Errorf("word_embedding is %v, want a matrix", c.in[2].Shape)
		}
		s := fixed
		s.n = c.in[2].Shape[1]
		if c.in[5].Len() != s.n || c.in[6].Len() != s.n {
			return fmt.Errorf("gamma %v and beta %v, want %d elements", c.in[5].Shape, c.in[6].Shape, s.n)
		}
		s.gamma, s.beta = c.in[5].F32(), c.in[6].F32()
		if c.has(1) != c.has(4) {
			return errors.New("segment_ids and segment_embedding come together")
		}
		words, err := scratch[float32](c, batch*t*s.n)
		if err != nil {
			return err
		}
		rest, err := scratch[float32](c, batch*t*s.n)
		if err != nil {
			return err
		}
		where := func(i int, what string) ([]int32, error) {
			x := c.input(i)
			if x == nil {
				return nil, nil
			}
			if x.DType != graph.Int32 || len(x.Shape) != 2 || x.Shape[1] != t || x.Shape[0] != batch && (i != 8 || x.Shape[0] != 1) {
				return nil, fmt.Errorf("%s is %v%v, want [%d, %d] of int32", what, x.DType, x.Shape, batch, t)
			}
			return x.I32(), nil
		}
		idWords, err := where(0, "input_ids")
		if err != nil {
			return err
		}
		segments, err := where(1, "segment_ids")
		if err != nil {
			return err
		}
		positions, err := where(8, "position_ids")
		if err != nil {
			return err
		}
		mask, err := where(7, "mask")
		if err != nil {
			return err
		}
		row := func(table int, id int32) ([]float32, error) {
			e := c.in[table]
			if len(e.Shape) != 2 || e.Shape[1] != s.n {
				return nil, fmt.Errorf("input %d is %v, want [·, %d]", table, e.Shape, s.n)
			}
			if id < 0 || int(id) >= e.Shape[0] {
				return nil, fmt.Errorf("id %d is out of range for input %d %v", id, table, e.Shape)
			}
			return e.F32()[int(id)*s.n:][:s.n], nil
		}
		for i := range batch * t {
			w, err := row(2, idWords[i])
			if err != nil {
				return err
			}
			copy(words[i*s.n:], w)
			at := int32(i % t)
			if positions != nil {
				at = positions[i%len(positions)]
			}
			p, err := row(3, at)
			if err != nil {
				return err
			}
			to := rest[i*s.n:][:s.n]
			copy(to, p)
			if segments != nil {
				g, err := row(4, segments[i])
				if err != nil {
					return err
				}
				s.k.Add(to, to, g)
			}
		}
		index, err := c.alloc(1, graph.Int32, batch)
		if err != nil {
			return err
		}
		for b := range batch {
			index.I32()[b] = 0
			for i := 0; mask != nil && i < t; i++ {
				if mask[b*t+i] == 1 {
					index.I32()[b]++
				}
			}
		}
		s.repeat = max(len(rest), 1)
		return s.run(c, []int{batch, t, s.n}, words, rest, 2)
	}, n.required(9, 0, 2, 3, 5, 6)
}

// reordered copies x with its dims in the order of perm into scratch memory.
func reordered(c *call, x *Tensor, perm []int) (*Tensor, error) {
	var s transposed
	if err := s.set(x.Shape, perm); err != nil {
		return nil, err
	}
	z := &Tensor{DType: x.DType, Shape: slices.Clone(s.shape)}
	data, err := scratch[float32](c, x.Len())
	if err != nil {
		return nil, err
	}
	z.mem = bytesOf(data)
	if x.Len() == 0 {
		return z, nil
	}
	sub := &call{s: c.s, in: []*Tensor{x}, out: []*Tensor{z}, state: &s}
	rows := 1
	for _, d := range s.dims[:len(s.dims)-1] {
		rows *= d
	}
	transpose(view[uint32])(sub, 0, rows)
	return z, nil
}

// fusedOrder is how the dims of an operand of FusedMatMul are read: with batch
// the first comes after those of the batch, with trans the last two change
// places; nil as they lie.
func fusedOrder(rank int, batch, trans bool) []int {
	if rank < 2 || !batch && !trans {
		return nil
	}
	var perm []int
	for i := range rank {
		perm = append(perm, i)
	}
	if batch {
		for i := range rank - 2 {
			perm[i] = i + 1
		}
		perm[rank-2] = 0
	}
	if trans {
		perm[rank-2], perm[rank-1] = perm[rank-1], perm[rank-2]
	}
	return perm
}

// prepareFusedMatMul: alpha·A·B with either transposed.
func prepareFusedMatMul(n *node) (kernel, error) {
	alpha := n.float("alpha", 1)
	transA, transB := n.bool("transA", false), n.bool("transB", false)
	batchA, batchB := n.bool("transBatchA", false), n.bool("transBatchB", false)
	p := &product{k: n.simd}
	if b := n.constant(1); b != nil && len(b.Shape) >= 2 && b.Len() > 0 && !batchB {
		wide, err := widened(b)
		if err != nil {
			return nil, err
		}
		if wide != nil {
			p.pack(wide, transB)
			n.drop(1)
		}
	}
	multiply := p.kernel()
	return byType{graph.Float32: func(c *call) error {
		for i, o := range [2][]int{fusedOrder(len(c.in[0].Shape), batchA, transA), nil} {
			if i == 1 && p.packed == nil {
				o = fusedOrder(len(c.in[1].Shape), batchB, transB)
			}
			if o == nil {
				continue
			}
			if err := c.floatsOnly(i); err != nil {
				return err
			}
			x, err := reordered(c, c.in[i], o)
			if err != nil {
				return err
			}
			c.in[i] = x
		}
		if err := multiply(c); err != nil {
			return err
		}
		if z := c.out[0].F32(); alpha != 1 {
			p.k.MulScalar(z, z, alpha)
		}
		return nil
	}}.kernel(0), n.inputs(2, 2)
}

// activated returns the activation of a fused operator, from its name and its
// parameters by name; nil for none.
func activated(n *node, name string, params map[string]float32) (func(z []float32), error) {
	switch name {
	case "":
		return nil, nil
	case "Relu":
		return func(z []float32) { n.simd.Relu(z, z) }, nil
	case "Clip":
		low, high := float32(-math.MaxFloat32), float32(math.MaxFloat32)
		if v, ok := params["min"]; ok {
			low = v
		}
		if v, ok := params["max"]; ok {
			high = v
		}
		return func(z []float32) {
			n.simd.MaxScalar(z, z, low)
			n.simd.MinScalar(z, z, high)
		}, nil
	case "Tanh":
		return func(z []float32) { n.simd.Tanh(z, z) }, nil
	case "Sigmoid":
		return func(z []float32) { n.simd.Sigmoid(z, z) }, nil
	}
	inner := &node{op: name, opset: 22, simd: n.simd, given: []bool{true}}
	for param, v := range params {
		inner.attrs = append(inner.attrs, &graph.Attr{Name: param, Type: graph.AttrFloat, F: v})
	}
	f, err := function(inner)
	if err != nil || inner.err != nil {
		return nil, fmt.Errorf("activation %q is not supported", name)
	}
	return func(z []float32) {
		for i, v := range z {
			z[i] = float32(f(float64(v)))
		}
	}, nil
}

// finish applies an activation to the result, on the threads of the session.
func (c *call) finish(f func(z []float32)) {
	if f == nil {
		return
	}
	c.arg = f
	c.parallel(c.out[0].Len(), functionGrain, func(c *call, lo, hi int) { c.arg.(func(z []float32))(c.out[0].F32()[lo:hi]) })
}

// prepareFusedGemm: Gemm with an activation.
func prepareFusedGemm(n *node) (kernel, error) {
	params := map[string]float32{}
	for _, name := range []string{"alpha", "beta", "gamma"} {
		if n.isSet("activation_" + name) {
			params[name] = n.float("activation_"+name, 0)
		}
	}
	f, err := activated(n, n.str("activation", ""), params)
	if err != nil {
		return nil, err
	}
	gemm, err := asOpset(13, prepareGemm)(n)
	if err != nil {
		return nil, err
	}
	return byType{graph.Float32: func(c *call) error {
		if err := gemm(c); err != nil {
			return err
		}
		c.finish(f)
		return nil
	}}.kernel(0), n.inputs(2, 3)
}

// convActivations names the parameters of an activation of FusedConv.
func convActivations(name string, list []float32) map[string]float32 {
	params := map[string]float32{}
	for i, param := range map[string][]string{
		"LeakyRelu": {"alpha"}, "Elu": {"alpha"}, "ThresholdedRelu": {"alpha"}, "Celu": {"alpha"},
		"Clip": {"min", "max"}, "HardSigmoid": {"alpha", "beta"}, "Selu": {"alpha", "gamma"},
	}[name] {
		if i < len(list) {
			params[param] = list[i]
		}
	}
	return params
}

// prepareFusedConv: Conv, plus Z, with an activation.
func prepareFusedConv(n *node) (kernel, error) {
	name := n.str("activation", "")
	params := convActivations(name, n.floats("activation_params"))
	f, err := activated(n, name, params)
	if err != nil {
		return nil, err
	}
	inner := *n
	inner.given, inner.opset = n.given[:min(3, len(n.given))], 11
	conv, err := prepareConv(&inner)
	if err == nil {
		err = inner.err
	}
	if err != nil {
		return nil, err
	}
	k := n.simd
	return byType{graph.Float32: func(c *call) error {
		z := c.input(3)
		all := c.in
		c.in = c.in[:min(3, len(c.in))]
		err := conv(c)
		c.in = all
		if err != nil {
			return err
		}
		if out := c.out[0]; z != nil {
			if z.DType != out.DType || !slices.Equal(z.Shape, out.Shape) {
				return fmt.Errorf("Z is %v%v, want %v%v", z.DType, z.Shape, out.DType, out.Shape)
			}
			k.Add(out.F32(), out.F32(), z.F32())
		}
		c.finish(f)
		return nil
	}}.kernel(0), n.inputs(2, 4)
}

// quantized is a tensor of bytes with its scale and zero point.
type quantized struct{ x, scale, zero *Tensor }

// dequantizedProduct is (x − zx)·sx · (w − zw)·sw + bias in scratch memory;
// scales of x are one number, of w one or one a column.
func dequantizedProduct(c *call, k *simd.Kernels, x, w quantized, bias []float32) ([]float32, error) {
	s := c.quantizedMatMul(k)
	if err := isBytes(x.x, w.x); err != nil {
		return nil, err
	}
	if err := s.set(x.x.Shape, w.x.Shape); err != nil {
		return nil, err
	}
	if n := w.scale.Len(); x.scale.Len() != 1 || n != 1 && n != s.n {
		return nil, fmt.Errorf("scales %v and %v for a product of %d columns", x.scale.Shape, w.scale.Shape, s.n)
	}
	if bias != nil && len(bias) != s.n {
		return nil, fmt.Errorf("bias of %d elements for %d columns", len(bias), s.n)
	}
	rows := s.count * s.m
	z, err := scratch[float32](c, rows*s.n)
	if err != nil || len(z) == 0 {
		return z, err
	}
	sums, err := scratch[int32](c, rows*s.n)
	if err != nil {
		return nil, err
	}
	if err := s.multiply(c, x.x, w.x, x.zero, w.zero, sums); err != nil {
		return nil, err
	}
	sx, sw := x.scale.F32()[0], w.scale.F32()
	for i, v := range sums {
		j := i % s.n
		z[i] = float32(v) * float32(sx*sw[min(j, len(sw)-1)])
		if bias != nil {
			z[i] += bias[j]
		}
	}
	return z, nil
}

// prepareMatMulIntegerToFloat: the product of what A and B stand for, plus a
// bias.
func prepareMatMulIntegerToFloat(n *node) (kernel, error) {
	k := n.simd
	return func(c *call) error {
		if err := c.floatsOnly(2, 3, 6); err != nil {
			return err
		}
		return integerToFloat(c, k, quantized{c.in[0], c.in[2], c.input(4)}, quantized{c.in[1], c.in[3], c.input(5)}, c.input(6))
	}, n.inputs(4, 7)
}

func integerToFloat(c *call, k *simd.Kernels, a, b quantized, bias *Tensor) error {
	var add []float32
	if bias != nil {
		add = bias.F32()
	}
	sums, err := dequantizedProduct(c, k, a, b, add)
	if err != nil {
		return err
	}
	z, err := c.alloc(0, graph.Float32, c.quantizedMatMul(k).shape...)
	if err != nil {
		return err
	}
	copy(z.F32(), sums)
	return nil
}

// prepareDynamicQuantizeMatMul: A is quantized as DynamicQuantizeLinear does.
func prepareDynamicQuantizeMatMul(n *node) (kernel, error) {
	k := n.simd
	quantize, err := prepareDynamicQuantize(&node{op: "DynamicQuantizeLinear", simd: k, given: []bool{true}})
	if err != nil {
		return nil, err
	}
	return byType{graph.Float32: func(c *call) error {
		if err := c.floatsOnly(2, 4); err != nil {
			return err
		}
		sub := &call{s: c.s, in: c.in[:1], out: []*Tensor{{}, {}, {}}}
		defer func() {
			sub.tidy()
			for _, t := range sub.out {
				c.s.pool.release(t)
			}
		}()
		if err := quantize(sub); err != nil {
			return err
		}
		return integerToFloat(c, k, quantized{sub.out[0], sub.out[1], sub.out[2]}, quantized{c.in[1], c.in[2], c.input(3)}, c.input(4))
	}}.kernel(0), n.inputs(3, 5)
}

// nBits is the weights of MatMulNBits: N columns of K numbers of so many bits
// in blocks, each with a scale and a zero point.
type nBits struct {
	k                *simd.Kernels
	K, N, bits, size int
	blocks           int // of a column
}

// gradMatMulNBits: dx = dy·Wᵀ, W dequantized; the bias gets dy.
func gradMatMulNBits(b *backward, x *lnode, dy []*lvalue) error {
	if len(x.in) > 5 {
		b.addBroadcast(x.in[5], dy[0])
	}
	if !b.needs(x.in[0]) {
		return nil
	}
	var in [4]*Tensor // weights, scales, zero points, groups
	for i := range in {
		if 1+i >= len(x.in) || x.in[1+i] == nil {
			continue
		}
		t := x.in[1+i].konst
		if t == nil {
			return fmt.Errorf("input %d is no constant", 1+i)
		}
		if in[i] = t; t.DType == graph.Float16 || t.DType == graph.BFloat16 {
			var err error
			if in[i], err = widened(t); err != nil {
				return err
			}
		}
	}
	w := &nBits{k: b.simd, K: x.int("K", 0), N: x.int("N", 0), bits: x.int("bits", 4), size: x.int("block_size", 0)}
	w.blocks = (w.K + w.size - 1) / w.size
	dense, err := newTensor(graph.Float32, []int{w.N, w.K})
	if err != nil {
		return err
	}
	if err := w.expand(dense.F32(), in[0], in[1], in[2], in[3]); err != nil {
		return err
	}
	b.add(x.in[0], b.op("MatMul", nil, dy[0], b.constant(dense)))
	return nil
}

func prepareMatMulNBits(n *node) (kernel, error) {
	w := &nBits{k: n.simd, K: n.int("K", 0), N: n.int("N", 0), bits: n.int("bits", 4), size: n.int("block_size", 0)}
	if w.K < 1 || w.N < 1 || w.size < 16 || w.size&(w.size-1) != 0 || w.bits != 2 && w.bits != 4 && w.bits != 8 || w.K > math.MaxInt32 || w.N > math.MaxInt32 || w.size > math.MaxInt32 {
		return nil, fmt.Errorf("K = %d, N = %d, bits = %d, block_size = %d", w.K, w.N, w.bits, w.size)
	}
	w.blocks = (w.K + w.size - 1) / w.size
	p := &product{k: n.simd}
	fixed := true
	for i := 1; i < 5; i++ {
		fixed = fixed && (!n.has(i) || n.constant(i) != nil)
	}
	if fixed && n.has(1) && n.has(2) {
		scales, zero := n.constant(2), n.constant(3)
		for _, t := range []**Tensor{&scales, &zero} {
			if *t != nil && (*t).DType != graph.Uint8 {
				wide, err := widened(*t)
				if err != nil {
					return nil, err
				}
				if wide == nil {
					return nil, wrongType((*t).DType)
				}
				*t = wide
			}
		}
		dense, err := newTensor(graph.Float32, []int{w.N, w.K})
		if err == nil {
			err = w.expand(dense.F32(), n.constant(1), scales, zero, n.constant(4))
		}
		if err != nil {
			return nil, err
		}
		p.pack(dense, true)
		for i := 1; i < 5 && i < len(n.given); i++ {
			n.drop(i)
		}
	}
	multiply := p.kernel()
	k := n.simd
	return byType{graph.Float32: func(c *call) error {
		if err := c.floatsOnly(2, 5); err != nil {
			return err
		}
		bias := c.input(5)
		if bias != nil && bias.Len() != w.N {
			return fmt.Errorf("bias %v, want %d elements", bias.Shape, w.N)
		}
		if p.packed == nil {
			data, err := scratch[float32](c, w.N*w.K)
			if err != nil {
				return err
			}
			if err := w.expand(data, c.in[1], c.in[2], c.input(3), c.input(4)); err != nil {
				return err
			}
			b, err := reordered(c, &Tensor{DType: graph.Float32, Shape: []int{w.N, w.K}, mem: bytesOf(data)}, []int{1, 0})
			if err != nil {
				return err
			}
			c.in[1] = b
		}
		if err := multiply(c); err != nil {
			return err
		}
		if bias != nil {
			z := c.out[0].F32()
			for i := 0; i < len(z); i += w.N {
				k.Add(z[i:i+w.N], z[i:i+w.N], bias.F32())
			}
		}
		return nil
	}}.kernel(0), n.inputs(3, 6)
}

// expand writes the weights [N, K]: (q − zero)·scale, where the block is that
// of the place or, with groups, the one that these name.
func (w *nBits) expand(z []float32, q, scales, zeros, groups *Tensor) error {
	each := 8 / w.bits                               // numbers in a byte
	blob := w.size / each                            // bytes of a block
	zeroRow := (w.blocks*w.bits + 7) / 8             // bytes of a column's zero points
	mask, middle := byte(1<<w.bits-1), 1<<(w.bits-1) // the zero point where none is given
	if q.DType != graph.Uint8 || q.Len() != w.N*w.blocks*blob {
		return fmt.Errorf("weights are %v%v, want %d×%d×%d of uint8", q.DType, q.Shape, w.N, w.blocks, blob)
	}
	if scales.DType != graph.Float32 || scales.Len() != w.N*w.blocks {
		return fmt.Errorf("scales are %v%v, want %d", scales.DType, scales.Shape, w.N*w.blocks)
	}
	if zeros != nil && (zeros.DType == graph.Uint8 && zeros.Len() != w.N*zeroRow || zeros.DType == graph.Float32 && zeros.Len() != w.N*w.blocks ||
		zeros.DType != graph.Uint8 && zeros.DType != graph.Float32) {
		return fmt.Errorf("zero points are %v%v for %d blocks of %d columns", zeros.DType, zeros.Shape, w.blocks, w.N)
	}
	if groups != nil && (groups.DType != graph.Int32 || groups.Len() < w.K) {
		return fmt.Errorf("g_idx is %v%v, want %d of int32", groups.DType, groups.Shape, w.K)
	}
	for n := range w.N {
		for k := range w.K {
			block := k / w.size
			if groups != nil {
				if block = int(groups.I32()[k]); block < 0 || block >= w.blocks {
					return fmt.Errorf("g_idx[%d] = %d of %d blocks", k, block, w.blocks)
				}
			}
			b := q.U8()[(n*w.blocks+k/w.size)*blob+k%w.size/each]
			v := float32(b >> (k % each * w.bits) & mask)
			zero := float32(middle)
			switch {
			case zeros == nil:
			case zeros.DType == graph.Float32:
				zero = zeros.F32()[n*w.blocks+block]
			default:
				zero = float32(zeros.U8()[n*zeroRow+block/each] >> (block % each * w.bits) & mask)
			}
			z[n*w.K+k] = (v - zero) * scales.F32()[n*w.blocks+block]
		}
	}
	return nil
}
