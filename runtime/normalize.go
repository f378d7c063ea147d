package runtime

import (
	"errors"
	"fmt"
	"math"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/simd"
)

// normalizeOps scale elements by what their neighbours are.
var normalizeOps = []operator{
	{"", "Softmax", 1, prepareSoftmax, gradSoftmax, halves},
	{"", "LogSoftmax", 1, prepareSoftmax, gradSoftmax, halves},
	{"", "Hardmax", 1, prepareSoftmax, gradZero, halves},
	{"", "LayerNormalization", 1, prepareLayerNorm, gradLayerNorm, halves}, // ONNX has it from 17 on, ONNX Runtime writes it earlier
	{"", "RMSNormalization", 23, prepareLayerNorm, gradLayerNorm, halves},
	{"", "SimplifiedLayerNormalization", 1, prepareLayerNorm, gradLayerNorm, halves}, // ONNX Runtime's name for it, in the default domain
	{"", "InstanceNormalization", 6, prepareGroupNorm, nil, halves},
	{"", "GroupNormalization", 18, prepareGroupNorm, nil, halves},
	{"", "BatchNormalization", 7, prepareBatchNorm, gradBatchNorm, halves},
	{"", "LRN", 1, prepareLRN, nil, halves},
	{"", "MeanVarianceNormalization", 9, prepareMeanVariance, nil, halves},
	{"", "LpNormalization", 1, prepareLpNorm, nil, halves},
}

// lines is a tensor cut into lines along an axis: outer·inner of them, n
// elements long, inner apart.
type lines struct{ outer, n, inner int }

// line returns where line i starts.
func (l *lines) line(i int) int { return i/l.inner*l.n*l.inner + i%l.inner }

func linesOf(shape []int, axis int) lines {
	l := lines{1, shape[axis], 1}
	for _, d := range shape[:axis] {
		l.outer *= d
	}
	for _, d := range shape[axis+1:] {
		l.inner *= d
	}
	return l
}

// prepareSoftmax: until opset 12 the tensor is taken as a matrix, rows before
// the axis and columns from it on; since 13 the axis alone counts.
func prepareSoftmax(n *node) (kernel, error) {
	def := 1
	if n.opset >= 13 {
		def = -1
	}
	at, flat := n.int("axis", def), n.opset < 13
	f32, f64 := columnSoftmax[float32], columnSoftmax[float64]
	var row func(z, x []float32)
	switch k := n.simd; n.op {
	case "Softmax":
		row = k.Softmax
	case "LogSoftmax":
		f32, f64 = columnLogSoftmax[float32], columnLogSoftmax[float64]
		row = func(z, x []float32) {
			m := k.MaxOf(x)
			k.AddScalar(z, x, -m)
			k.Exp(z, z)
			s := float32(math.Log(float64(k.Sum(z))))
			k.AddScalar(z, x, -m)
			k.AddScalar(z, z, -s)
		}
	default:
		f32, f64 = columnHardmax[float32], columnHardmax[float64]
		row = func(z, x []float32) { columnHardmax(z, x, len(x), 1) }
	}
	return byType{
		graph.Float32: alongAxis(at, flat, row, f32),
		graph.Float64: alongAxis(at, flat, nil, f64),
	}.kernel(0), n.inputs(1, 1)
}

// alongAxis is a kernel that maps lines to lines: row takes those that lie in
// one piece, column those of n elements a stride apart.
func alongAxis[T float32 | float64](at int, flat bool, row func(z, x []T), column func(z, x []T, n, stride int)) kernel {
	body := func(c *call, lo, hi int) {
		l := c.state.(*lines)
		z, x := view[T](c.out[0]), view[T](c.in[0])
		for i := lo; i < hi; i++ {
			o := l.line(i)
			if l.inner == 1 && row != nil {
				row(z[o:o+l.n], x[o:o+l.n])
			} else {
				column(z[o:], x[o:], l.n, l.inner)
			}
		}
	}
	d := dtypeOf[T]()
	return func(c *call) error {
		x := c.in[0]
		l, ok := c.state.(*lines)
		if !ok {
			l = &lines{}
			c.state = l
		}
		r := len(x.Shape)
		if flat {
			// The axis may also be the rank.
			a := at
			if a < 0 {
				a += r
			}
			if a < 0 || a > r {
				return fmt.Errorf("axis %d is out of range for rank %d", at, r)
			}
			*l = lines{1, 1, 1}
			for i, d := range x.Shape {
				if i < a {
					l.outer *= d
				} else {
					l.n *= d
				}
			}
		} else if r == 0 && (at == 0 || at == -1) {
			*l = lines{1, 1, 1}
		} else {
			a, err := axis(at, r)
			if err != nil {
				return err
			}
			*l = linesOf(x.Shape, a)
		}
		if _, err := c.alloc(0, d, x.Shape...); err != nil {
			return err
		}
		if x.Len() > 0 {
			c.parallel(l.outer*l.inner, 1+functionGrain/l.n, body)
		}
		return nil
	}
}

func columnMax[T float32 | float64](x []T, n, stride int) float64 {
	m := math.Inf(-1)
	for i := range n {
		m = math.Max(m, float64(x[i*stride]))
	}
	return m
}

func columnSoftmax[T float32 | float64](z, x []T, n, stride int) {
	m, sum := columnMax(x, n, stride), 0.0
	for i := range n {
		sum += math.Exp(float64(x[i*stride]) - m)
	}
	for i := range n {
		z[i*stride] = T(math.Exp(float64(x[i*stride])-m) / sum)
	}
}

func columnLogSoftmax[T float32 | float64](z, x []T, n, stride int) {
	m, sum := columnMax(x, n, stride), 0.0
	for i := range n {
		sum += math.Exp(float64(x[i*stride]) - m)
	}
	s := math.Log(sum)
	for i := range n {
		z[i*stride] = T(float64(x[i*stride]) - m - s)
	}
}

// columnHardmax sets the first maximum to 1 and everything else to 0.
func columnHardmax[T float32 | float64](z, x []T, n, stride int) {
	best := 0
	for i := range n {
		if x[i*stride] > x[best*stride] {
			best = i
		}
	}
	for i := range n {
		z[i*stride] = 0
	}
	z[best*stride] = 1
}

// layerNorm is LayerNormalization, or without a mean RMSNormalization, over
// the elements from axis on.
type layerNorm struct {
	k    *simd.Kernels
	axis int
	eps  float32
	rms  bool
	body func(c *call, lo, hi int)
}

type layerNormState struct {
	gamma, beta []float32 // as long as a row
	b           broadcast
	n           int
}

func prepareLayerNorm(n *node) (kernel, error) {
	l := &layerNorm{k: n.simd, axis: n.int("axis", -1), eps: n.float("epsilon", 1e-5), rms: n.op != "LayerNormalization"}
	l.choose()
	most := 3
	if l.rms {
		most = 2
	}
	return byType{
		graph.Float32: l.float32,
		graph.Float64: l.float64,
	}.kernel(0), n.inputs(2, most)
}

// choose sets the loop over rows.
func (l *layerNorm) choose() {
	l.body = l.normRows
	if l.rms {
		l.body = l.rmsRows
	}
}

// rows returns the number of rows and their length, and the shape of the
// statistics.
func (l *layerNorm) rows(x *Tensor) (rows, n int, stats []int, err error) {
	at, err := axis(l.axis, len(x.Shape))
	if err != nil {
		return 0, 0, nil, err
	}
	rows, n = 1, 1
	for i, d := range x.Shape {
		if i < at {
			rows *= d
			stats = append(stats, d)
		} else {
			n *= d
			stats = append(stats, 1)
		}
	}
	return rows, n, stats, nil
}

// spread returns t, which broadcasts to the rows' shape, as one row.
func spread[T float32 | float64](c *call, b *broadcast, t *Tensor, row []int, n int) ([]T, error) {
	if t.DType != dtypeOf[T]() {
		return nil, fmt.Errorf("scale or bias is %v, want %v", t.DType, dtypeOf[T]())
	}
	if t.Len() == n && n > 1 {
		return view[T](t), nil
	}
	shape := t.Shape
	for len(shape) > len(row) && shape[0] == 1 {
		shape = shape[1:]
	}
	if err := b.set(row, shape); err != nil {
		return nil, err
	}
	if b.size != n || len(b.shape) != len(row) {
		return nil, fmt.Errorf("scale or bias %v does not broadcast to the normalized shape %v", t.Shape, row)
	}
	out, err := scratch[T](c, n)
	if err != nil {
		return nil, err
	}
	y := view[T](t)
	for r := b.from(0, n); r.ok(); r.next() {
		for i := range r.n {
			out[r.at+i] = y[r.off[1]+i*b.inner(1)]
		}
	}
	return out, nil
}

func (l *layerNorm) float32(c *call) error {
	x := c.in[0]
	s, ok := c.state.(*layerNormState)
	if !ok {
		s = &layerNormState{}
		c.state = s
	}
	at, err := axis(l.axis, len(x.Shape))
	if err != nil {
		return err
	}
	rows, err := count(x.Shape[:at])
	if err != nil {
		return err
	}
	if s.n, err = count(x.Shape[at:]); err != nil {
		return err
	}
	if s.gamma, err = spread[float32](c, &s.b, c.in[1], x.Shape[at:], s.n); err != nil {
		return err
	}
	s.beta = nil
	if c.has(2) {
		if s.beta, err = spread[float32](c, &s.b, c.in[2], x.Shape[at:], s.n); err != nil {
			return err
		}
	}
	if c.wants(1) || c.wants(2) { // which are computed from x
		_, err = c.alloc(0, graph.Float32, x.Shape...)
	} else {
		_, err = c.over(0, 0, graph.Float32, x.Shape...)
	}
	if err != nil {
		return err
	}
	if x.Len() == 0 {
		rows = 0
	}
	c.parallel(rows, 1+functionGrain/max(s.n, 1), l.body)
	if c.wants(1) || c.wants(2) {
		return l.statistics(c)
	}
	return nil
}

func (l *layerNorm) normRows(c *call, lo, hi int) {
	s := c.state.(*layerNormState)
	z, x := c.out[0].F32(), c.in[0].F32()
	l.k.LayerNorm(z[lo*s.n:hi*s.n], x[lo*s.n:hi*s.n], s.gamma, s.beta, l.eps)
}

func (l *layerNorm) rmsRows(c *call, lo, hi int) {
	s := c.state.(*layerNormState)
	z, x := c.out[0].F32(), c.in[0].F32()
	l.k.RMSNorm(z[lo*s.n:hi*s.n], x[lo*s.n:hi*s.n], s.gamma, l.eps)
}

// statistics fills the outputs beside the first: mean and 1/√(σ² + eps), or
// for the RMS form the latter alone.
func (l *layerNorm) statistics(c *call) error {
	x := c.in[0]
	rows, n, shape, err := l.rows(x)
	if err != nil {
		return err
	}
	d := x.DType
	at := 2
	if l.rms {
		at = 1
	}
	inv, err := c.alloc(at, d, shape...)
	if err != nil {
		return err
	}
	mean, err := c.alloc(3-at, d, shape...)
	if err != nil {
		return err
	}
	for i := range rows {
		m, v := 0.0, 0.0
		if d == graph.Float32 {
			m, v = moments(x.F32()[i*n:(i+1)*n], l.rms)
			mean.F32()[i], inv.F32()[i] = float32(m), float32(1/math.Sqrt(v+float64(l.eps)))
		} else {
			m, v = moments(x.F64()[i*n:(i+1)*n], l.rms)
			mean.F64()[i], inv.F64()[i] = m, 1/math.Sqrt(v+float64(l.eps))
		}
	}
	return nil
}

// moments returns the mean and the mean square about it, or with rms about
// zero.
func moments[T float32 | float64](x []T, rms bool) (mean, variance float64) {
	n := float64(len(x))
	if !rms {
		for _, v := range x {
			mean += float64(v)
		}
		mean /= n
	}
	for _, v := range x {
		d := float64(v) - mean
		variance += float64(d * d)
	}
	return mean, variance / n
}

func (l *layerNorm) float64(c *call) error {
	x := c.in[0]
	rows, n, _, err := l.rows(x)
	if err != nil {
		return err
	}
	row := x.Shape[len(x.Shape):]
	if a, err := axis(l.axis, len(x.Shape)); err == nil {
		row = x.Shape[a:]
	}
	var b broadcast
	gamma, err := spread[float64](c, &b, c.in[1], row, n)
	if err != nil {
		return err
	}
	var beta []float64
	if c.has(2) {
		if beta, err = spread[float64](c, &b, c.in[2], row, n); err != nil {
			return err
		}
	}
	z, err := c.alloc(0, graph.Float64, x.Shape...)
	if err != nil {
		return err
	}
	for i := range rows {
		xr, zr := x.F64()[i*n:(i+1)*n], z.F64()[i*n:(i+1)*n]
		m, v := moments(xr, l.rms)
		inv := 1 / math.Sqrt(v+float64(l.eps))
		for j, v := range xr {
			zr[j] = float64((v-m)*inv) * gamma[j]
			if beta != nil {
				zr[j] += beta[j]
			}
		}
	}
	if c.wants(1) || c.wants(2) {
		return l.statistics(c)
	}
	return nil
}

// groupNorm normalizes groups of channels of X [N, C, d1, …]: one channel a
// group is InstanceNormalization. Scale and bias are one number a channel,
// for GroupNormalization below 21 one a group.
type groupNorm struct {
	groups   int // 0: as many as channels
	eps      float32
	perGroup bool
}

func prepareGroupNorm(n *node) (kernel, error) {
	g := &groupNorm{eps: n.float("epsilon", 1e-5)}
	if n.op == "GroupNormalization" {
		g.groups, g.perGroup = n.int("num_groups", 0), n.opset < 21
		if g.groups < 1 {
			return nil, fmt.Errorf("num_groups = %d", g.groups)
		}
	}
	return byType{
		graph.Float32: groupNormOf[float32](g, n.simd),
		graph.Float64: groupNormOf[float64](g, n.simd),
	}.kernel(0), n.inputs(3, 3)
}

type groupNormState struct{ channels, groups, per, plane int }

func groupNormOf[T float32 | float64](g *groupNorm, k *simd.Kernels) kernel {
	d := dtypeOf[T]()
	body := func(c *call, lo, hi int) {
		s := c.state.(*groupNormState)
		z, x, scale, bias := view[T](c.out[0]), view[T](c.in[0]), view[T](c.in[1]), view[T](c.in[2])
		n := s.per * s.plane
		for i := lo; i < hi; i++ {
			xs, zs := x[i*n:(i+1)*n], z[i*n:(i+1)*n]
			m, v := moments(xs, false)
			inv := 1 / math.Sqrt(v+float64(g.eps))
			for ch := range s.per {
				at := i%s.groups*s.per + ch
				if g.perGroup {
					at = i % s.groups
				}
				a, b := float64(scale[at])*inv, float64(bias[at])
				for j := ch * s.plane; j < (ch+1)*s.plane; j++ {
					zs[j] = T(float64((float64(xs[j])-m)*a) + b)
				}
			}
		}
	}
	return func(c *call) error {
		x := c.in[0]
		if len(x.Shape) < 2 {
			return fmt.Errorf("input %v has no channels", x.Shape)
		}
		s, ok := c.state.(*groupNormState)
		if !ok {
			s = &groupNormState{}
			c.state = s
		}
		s.channels, s.groups = x.Shape[1], g.groups
		if g.groups == 0 {
			s.groups = s.channels
		}
		want := s.channels
		if g.perGroup {
			want = s.groups
		}
		for i := 1; i <= 2; i++ {
			if c.in[i].DType != d || c.in[i].Len() != want {
				return fmt.Errorf("input %d is %v%v, want %d of %v", i, c.in[i].DType, c.in[i].Shape, want, d)
			}
		}
		if _, err := c.alloc(0, d, x.Shape...); err != nil {
			return err
		}
		if x.Len() == 0 {
			return nil
		}
		if s.channels%s.groups != 0 {
			return fmt.Errorf("%d channels do not divide into %d groups", s.channels, s.groups)
		}
		s.per, s.plane = s.channels/s.groups, x.Len()/(x.Shape[0]*s.channels)
		c.parallel(x.Shape[0]*s.groups, 1+elementGrain/(s.per*s.plane), body)
		return nil
	}
}

// prepareBatchNorm: y = (x − mean)/√(var + eps)·scale + bias per channel, as
// trained; for a node in training mode see trainingBatchNorm.
func prepareBatchNorm(n *node) (kernel, error) {
	if n.bool("training_mode", false) {
		return trainingBatchNorm(n)
	}
	if n.opset < 9 && !n.bool("spatial", true) {
		return nil, errors.New("spatial = 0 is not supported")
	}
	for i := 1; i < len(n.wanted); i++ {
		if n.wants(i) {
			return nil, fmt.Errorf("output %d is one of training", i)
		}
	}
	eps := float64(n.float("epsilon", 1e-5))
	return byType{
		graph.Float32: batchNormOf[float32](eps),
		graph.Float64: batchNormOf[float64](eps),
	}.kernel(0), n.inputs(5, 5)
}

func batchNormOf[T float32 | float64](eps float64) kernel {
	type state struct {
		channels, plane   int
		mean, scale, bias []T
	}
	d := dtypeOf[T]()
	body := func(c *call, lo, hi int) {
		s := c.state.(*state)
		z, x := view[T](c.out[0]), view[T](c.in[0])
		for i := lo; i < hi; i++ {
			ch := i % s.channels
			m, a, b := s.mean[ch], s.scale[ch], s.bias[ch]
			zs, xs := z[i*s.plane:(i+1)*s.plane], x[i*s.plane:(i+1)*s.plane]
			for j, v := range xs {
				zs[j] = T((v-m)*a) + b
			}
		}
	}
	return func(c *call) error {
		x := c.in[0]
		s, ok := c.state.(*state)
		if !ok {
			s = &state{}
			c.state = s
		}
		if len(x.Shape) == 0 {
			return errors.New("input is a scalar")
		}
		s.channels = 1
		if len(x.Shape) > 1 {
			s.channels = x.Shape[1]
		}
		for i := 1; i < 5; i++ {
			if c.in[i].DType != d || c.in[i].Len() != s.channels {
				return fmt.Errorf("input %d is %v%v, want %d of %v", i, c.in[i].DType, c.in[i].Shape, s.channels, d)
			}
		}
		if _, err := c.alloc(0, d, x.Shape...); err != nil || x.Len() == 0 {
			return err
		}
		var err error
		if s.scale, err = scratch[T](c, s.channels); err != nil {
			return err
		}
		for i, v := range view[T](c.in[4]) {
			s.scale[i] = T(float64(view[T](c.in[1])[i]) / math.Sqrt(float64(v)+eps))
		}
		s.bias, s.mean = view[T](c.in[2]), view[T](c.in[3])
		s.plane = x.Len() / (x.Shape[0] * s.channels)
		c.parallel(x.Shape[0]*s.channels, 1+elementGrain/s.plane, body)
		return nil
	}
}

// prepareLRN is local response normalization across channels, x [N, C, d…]:
//
//	y[n, c, …] = x[n, c, …] / (bias + alpha/size · Σ x[n, c', …]²)^beta
//
// with c' from c − ⌊(size−1)/2⌋ to c + ⌈(size−1)/2⌉.
func prepareLRN(n *node) (kernel, error) {
	size := n.int("size", 0)
	if size < 1 {
		return nil, fmt.Errorf("size = %d, want at least 1", size)
	}
	alpha, beta, bias := float64(n.float("alpha", 1e-4)), float64(n.float("beta", 0.75)), float64(n.float("bias", 1))
	return byType{
		graph.Float32: lrn[float32](size, alpha, beta, bias),
		graph.Float64: lrn[float64](size, alpha, beta, bias),
	}.kernel(0), n.inputs(1, 1)
}

func lrn[T float32 | float64](size int, alpha, beta, bias float64) kernel {
	body := func(c *call, lo, hi int) {
		l := c.state.(*lines)
		x, z := view[T](c.in[0]), view[T](c.out[0])
		for i := lo; i < hi; i++ { // one channel of one sample
			ch := i % l.n
			from, to := max(ch-(size-1)/2, 0), min(ch+size/2, l.n-1)
			sample := x[(i-ch)*l.inner:]
			for j, v := range x[i*l.inner : (i+1)*l.inner] {
				sum := 0.0
				for k := from; k <= to; k++ {
					w := float64(sample[k*l.inner+j])
					sum += w * w
				}
				z[i*l.inner+j] = T(float64(v) / math.Pow(bias+alpha/float64(size)*sum, beta))
			}
		}
	}
	return func(c *call) error {
		x := c.in[0]
		if len(x.Shape) < 2 {
			return fmt.Errorf("input X %v, want [N, C, d…]", x.Shape)
		}
		l, ok := c.state.(*lines)
		if !ok {
			l = &lines{}
			c.state = l
		}
		*l = linesOf(x.Shape, 1)
		if _, err := c.alloc(0, x.DType, x.Shape...); err != nil || x.Len() == 0 {
			return err
		}
		c.parallel(l.outer*l.n, 1+functionGrain/l.inner, body)
		return nil
	}
}

// prepareLpNorm: x divided by the sum of |x| or by √(sum of x²) along an axis;
// where that is 0, so is the result.
func prepareLpNorm(n *node) (kernel, error) {
	p := n.int("p", 2)
	if p != 1 && p != 2 {
		return nil, fmt.Errorf("p = %d, want 1 or 2", p)
	}
	at := n.int("axis", -1)
	return byType{
		graph.Float32: alongAxis(at, false, nil, lpNorm[float32](p)),
		graph.Float64: alongAxis(at, false, nil, lpNorm[float64](p)),
	}.kernel(0), n.inputs(1, 1)
}

func lpNorm[T float32 | float64](p int) func(z, x []T, n, stride int) {
	return func(z, x []T, n, stride int) {
		s := 0.0
		for i := range n {
			v := math.Abs(float64(x[i*stride]))
			if p == 2 {
				v *= v
			}
			s += v
		}
		if p == 2 {
			s = math.Sqrt(s)
		}
		for i := range n {
			if z[i*stride] = 0; s != 0 {
				z[i*stride] = T(float64(x[i*stride]) / s)
			}
		}
	}
}

// prepareMeanVariance: (x − μ)/(σ + 1e-9) over the axes.
func prepareMeanVariance(n *node) (kernel, error) {
	axes := n.ints("axes")
	if axes == nil {
		axes = []int{0, 2, 3}
	}
	return byType{
		graph.Float32: meanVarianceOf[float32](axes),
		graph.Float64: meanVarianceOf[float64](axes),
	}.kernel(0), n.inputs(1, 1)
}

func meanVarianceOf[T float32 | float64](axes []int) kernel {
	d := dtypeOf[T]()
	body := func(c *call, worker, lo, hi int) {
		s := c.state.(*reduceState)
		x, z := view[T](c.in[0]), view[T](c.out[0])
		row := s.rows.([]T)[worker*s.n:][:s.n]
		for i := lo; i < hi; i++ {
			for j := range row {
				row[j] = x[s.offset(i, j)]
			}
			m, v := moments(row, false)
			scale := 1 / (math.Sqrt(v) + 1e-9)
			for j, v := range row {
				z[s.offset(i, j)] = T((float64(v) - m) * scale)
			}
		}
	}
	return func(c *call) error {
		x := c.in[0]
		s, ok := c.state.(*reduceState)
		if !ok {
			s = &reduceState{}
			c.state = s
		}
		if err := s.set(x.Shape, axes, true); err != nil {
			return err
		}
		if _, err := c.alloc(0, d, x.Shape...); err != nil || x.Len() == 0 {
			return err
		}
		rows, err := scratch[T](c, s.n*c.workers())
		if err != nil {
			return err
		}
		s.rows = rows
		c.parallelWorkers(s.outputs, 1+elementGrain/s.n, body)
		return nil
	}
}

// offset is where element j of those that go into element i of the result
// lies.
func (s *reduceState) offset(i, j int) int {
	at := 0
	for k, d := range s.kept {
		at += i % d * s.keptSteps[k]
		i /= d
	}
	for k, d := range s.reduced {
		at += j % d * s.steps[k]
		j /= d
	}
	return at
}
