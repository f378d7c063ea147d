package runtime

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
)

var castOps = []operator{
	{"", "Cast", 6, prepareCast, gradCast, 0},
	{"", "CastLike", 15, prepareCast, gradCast, 0},
	{"", "BitCast", 26, prepareBitCast, nil, 0},
}

// prepareCast: Cast takes its type from an attribute, CastLike from an input.
func prepareCast(n *node) (kernel, error) {
	to := graph.DType(n.int("to", 0))
	rules := castRules{wrap: !n.bool("saturate", true), round: n.oneOf("round_mode", "up", "up", "down", "nearest")}
	inputs := 2
	if n.op == "Cast" {
		inputs = 1
		if !to.Known() {
			return nil, fmt.Errorf("attribute to = %d is no element type", to)
		}
	}
	return func(c *call) error {
		d := to
		if inputs == 2 {
			d = c.in[1].DType
		}
		if d == c.in[0].DType {
			c.share(0, c.in[0])
			return nil
		}
		z, err := c.alloc(0, d, c.in[0].Shape...)
		if err != nil {
			return err
		}
		return convert(z, c.in[0], rules)
	}, n.inputs(inputs, inputs)
}

// prepareBitCast: the same bits as another type of as many.
func prepareBitCast(n *node) (kernel, error) {
	to := graph.DType(n.int("to", 0))
	if !to.Known() || elemSize(to) == 0 {
		return nil, fmt.Errorf("attribute to = %d is no element type of fixed size", to)
	}
	return func(c *call) error {
		x := c.in[0]
		if x.DType.Bits() != to.Bits() {
			return fmt.Errorf("%v and %v differ in size", x.DType, to)
		}
		if to.Bits() < 8 && x.DType != to {
			return wrongType(x.DType) // they lie in bytes here
		}
		z, err := c.alloc(0, to, x.Shape...)
		if err != nil {
			return err
		}
		copy(z.mem, x.mem)
		if to == graph.Bool {
			for i, b := range z.mem {
				if b > 1 {
					z.mem[i] = 1
				}
			}
		}
		return nil
	}, n.inputs(1, 1)
}

// castRules are what only the types of 8 bits and less ask for.
type castRules struct {
	wrap  bool   // saturate = 0: too large becomes NaN or Inf
	round string // of float8e8m0
}

// converted returns t as type d, in scratch memory of the call if it has
// another type.
func (c *call) converted(t *Tensor, d graph.DType) (*Tensor, error) {
	if t.DType == d {
		return t, nil
	}
	mem, err := scratch[uint64](c, (t.Len()*elemSize(d)+7)/8)
	if err != nil {
		return nil, err
	}
	z := &Tensor{DType: d, Shape: t.Shape, mem: bytesOf(mem)[:t.Len()*elemSize(d)]}
	return z, convert(z, t, castRules{})
}

// convert sets the elements of z to those of x, converted as ONNX Cast does:
// towards zero from floating point to integers (what does not fit, where ONNX
// leaves the result open, becomes the nearest value that does, and NaN 0),
// modulo 2ⁿ between integers, to nearest even to floating point; numbers to
// and from decimal text.
func convert(z, x *Tensor, rules castRules) error {
	switch x.DType {
	case graph.Float32:
		return fromNumber(z, view[float32](x), rules)
	case graph.Float64:
		return fromNumber(z, view[float64](x), rules)
	case graph.Int8, graph.Int4, graph.Int2:
		return fromNumber(z, view[int8](x), rules)
	case graph.Int16:
		return fromNumber(z, view[int16](x), rules)
	case graph.Int32:
		return fromNumber(z, view[int32](x), rules)
	case graph.Int64:
		return fromNumber(z, view[int64](x), rules)
	case graph.Uint8, graph.Uint4, graph.Uint2, graph.Bool:
		return fromNumber(z, cast[uint8](x.mem), rules)
	case graph.Uint16:
		return fromNumber(z, view[uint16](x), rules)
	case graph.Uint32:
		return fromNumber(z, view[uint32](x), rules)
	case graph.Uint64:
		return fromNumber(z, view[uint64](x), rules)
	case graph.Float16, graph.BFloat16:
		wide := make([]float32, x.Len())
		widen(wide, view[uint16](x), x.DType)
		return fromNumber(z, wide, rules)
	case graph.String:
		return fromString(z, x.strs, rules)
	}
	if f := smallFloats[x.DType]; f != nil {
		wide := make([]float32, x.Len())
		for i, b := range cast[uint8](x.mem) {
			wide[i] = f.decode(b)
		}
		return fromNumber(z, wide, rules)
	}
	return wrongType(x.DType)
}

func fromNumber[S number](z *Tensor, x []S, rules castRules) error {
	switch z.DType {
	case graph.Float32:
		each1(view[float32](z), x, func(v S) float32 { return float32(v) })
	case graph.Float64:
		each1(view[float64](z), x, func(v S) float64 { return float64(v) })
	case graph.Int8:
		each1(view[int8](z), x, toInteger[S, int8])
	case graph.Int16:
		each1(view[int16](z), x, toInteger[S, int16])
	case graph.Int32:
		each1(view[int32](z), x, toInteger[S, int32])
	case graph.Int64:
		each1(view[int64](z), x, toInteger[S, int64])
	case graph.Uint8:
		each1(view[uint8](z), x, toInteger[S, uint8])
	case graph.Uint16:
		each1(view[uint16](z), x, toInteger[S, uint16])
	case graph.Uint32:
		each1(view[uint32](z), x, toInteger[S, uint32])
	case graph.Uint64:
		each1(view[uint64](z), x, toInteger[S, uint64])
	case graph.Int4, graph.Int2, graph.Uint4, graph.Uint2:
		toNibble(cast[uint8](z.mem), x, z.DType)
	case graph.Bool:
		each1(view[bool](z), x, func(v S) bool { return v != 0 })
	case graph.Float16, graph.BFloat16:
		// Through float32 a float64 would be rounded twice.
		if wide, ok := any(x).([]float32); ok {
			roundToHalf(view[uint16](z), wide, z.DType)
			return nil
		}
		each1(view[uint16](z), x, func(v S) uint16 {
			var out [1]uint16
			roundToHalf(out[:], []float32{roundToOdd(float64(v))}, z.DType)
			return out[0]
		})
	case graph.String:
		for i, v := range x {
			z.strs[i] = decimal(v)
		}
	default:
		f := smallFloats[z.DType]
		if f == nil {
			return wrongType(z.DType)
		}
		each1(cast[uint8](z.mem), x, func(v S) uint8 { return f.encode(roundToOdd(float64(v)), rules) })
	}
	return nil
}

func each1[S, D any](z []D, x []S, f func(S) D) {
	for i, v := range x {
		z[i] = f(v)
	}
}

// toInteger converts between integers modulo 2ⁿ, and from floating point
// towards zero, clamped.
func toInteger[S, D number](v S) D {
	if isFloat[S]() {
		f := float64(v)
		low, high := limits[D]()
		switch {
		case f != f:
			return 0
		case f <= float64(low):
			return low
		case f >= float64(high):
			return high
		}
	}
	return D(v)
}

func isFloat[T number]() bool {
	half := 0.5
	return T(half) != 0
}

// limits returns the least and greatest value of an integer type.
func limits[T number]() (low, high T) {
	var zero T
	switch any(zero).(type) {
	case int8:
		return conv[T](math.MinInt8), conv[T](math.MaxInt8)
	case int16:
		return conv[T](math.MinInt16), conv[T](math.MaxInt16)
	case int32:
		return conv[T](math.MinInt32), conv[T](math.MaxInt32)
	case int64:
		return conv[T](math.MinInt64), conv[T](math.MaxInt64)
	case uint8:
		return 0, conv[T](math.MaxUint8)
	case uint16:
		return 0, conv[T](math.MaxUint16)
	case uint32:
		return 0, conv[T](math.MaxUint32)
	}
	high = zero - 1 // uint64; of no use for floating point, which never asks
	return 0, high
}

func conv[T number](v int64) T { return T(v) }

// toNibble stores integers of 2 or 4 bits: floating point rounded to nearest
// even and clamped, integers modulo 2ⁿ.
func toNibble[S number](z []uint8, x []S, d graph.DType) {
	bits := d.Bits()
	signed := d == graph.Int4 || d == graph.Int2
	low, high := 0.0, float64(int(1)<<bits-1)
	if signed {
		low, high = -float64(int(1)<<(bits-1)), float64(int(1)<<(bits-1)-1)
	}
	for i, v := range x {
		b := uint8(toInteger[S, int64](v))
		if isFloat[S]() {
			f := math.RoundToEven(float64(v))
			if f != f {
				f = 0
			}
			b = uint8(int8(math.Max(low, math.Min(high, f))))
		}
		b &= 1<<bits - 1
		if signed {
			b = uint8(int8(b<<(8-bits)) >> (8 - bits))
		}
		z[i] = b
	}
}

// roundToOdd is v as a float32 whose last bit is set where v is not one: a
// later rounding to a type at least two bits narrower then rounds v itself.
func roundToOdd(v float64) float32 {
	f := float32(v)
	if float64(f) == v || v != v || math.IsInf(v, 0) {
		return f
	}
	if math.IsInf(float64(f), 0) {
		return float32(math.Copysign(math.MaxFloat32, v))
	}
	b := math.Float32bits(f)
	if math.Abs(float64(f)) > math.Abs(v) {
		b-- // towards zero
	}
	return math.Float32frombits(b | 1)
}

// decimal writes a number as NumPy does, which is what ONNX's tests expect.
func decimal[S number](v S) string {
	if !isFloat[S]() {
		return fmt.Sprint(v)
	}
	f, bits := float64(v), 64
	if _, ok := any(v).(float32); ok {
		bits = 32
	}
	switch {
	case f != f:
		return "NaN"
	case math.IsInf(f, 1):
		return "INF"
	case math.IsInf(f, -1):
		return "-INF"
	case f == 0 || math.Abs(f) >= 1e-4 && math.Abs(f) < 1e16:
		s := strconv.FormatFloat(f, 'f', -1, bits)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s
	}
	return strconv.FormatFloat(f, 'e', -1, bits)
}

// fromString reads decimal text.
func fromString(z *Tensor, x []string, rules castRules) error {
	n := len(x)
	switch {
	case z.DType.IsFloat() || smallFloats[z.DType] != nil:
		wide := make([]float64, n)
		for i, s := range x {
			var err error
			if wide[i], err = strconv.ParseFloat(strings.TrimSpace(s), 64); err != nil && !errors.Is(err, strconv.ErrRange) {
				return fmt.Errorf("element %d: %q is no number", i, s)
			}
		}
		return fromNumber(z, wide, rules)
	case z.DType == graph.Uint64:
		for i, s := range x {
			v, err := strconv.ParseUint(strings.TrimSpace(s), 10, 64)
			if err != nil {
				return fmt.Errorf("element %d: %q is no %v", i, s, z.DType)
			}
			view[uint64](z)[i] = v
		}
		return nil
	}
	wide := make([]int64, n)
	for i, s := range x {
		v, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		if err != nil {
			return fmt.Errorf("element %d: %q is no %v", i, s, z.DType)
		}
		wide[i] = v
	}
	return fromNumber(z, wide, rules)
}

// smallFloat is a floating-point type of a byte or less: sign, exp and man
// bits. See "Float stored in 8 bits" and "Float stored in 4 bits" of the ONNX
// documentation.
type smallFloat struct {
	exp, man, bias int
	signed         bool
	inf            bool  // the largest exponent is Inf and NaN
	nan            int16 // the one code of NaN without its sign; -1: none, or as inf says
	zeroNaN        bool  // the code of −0 is NaN, and there is no −0
}

var smallFloats = map[graph.DType]*smallFloat{
	graph.Float8E4M3FN:   {exp: 4, man: 3, bias: 7, signed: true, nan: 0x7f},
	graph.Float8E4M3FNUZ: {exp: 4, man: 3, bias: 8, signed: true, nan: -1, zeroNaN: true},
	graph.Float8E5M2:     {exp: 5, man: 2, bias: 15, signed: true, nan: -1, inf: true},
	graph.Float8E5M2FNUZ: {exp: 5, man: 2, bias: 16, signed: true, nan: -1, zeroNaN: true},
	graph.Float8E8M0:     {exp: 8, man: 0, bias: 127, nan: 0xff},
	graph.Float4E2M1:     {exp: 2, man: 1, bias: 1, signed: true, nan: -1},
}

// decode returns the value of a code.
func (f *smallFloat) decode(b uint8) float32 {
	sign := uint8(0)
	if f.signed {
		sign = b >> (f.exp + f.man) & 1
		b &= 1<<(f.exp+f.man) - 1
	}
	if f.zeroNaN && sign == 1 && b == 0 || f.nan >= 0 && int16(b) == f.nan {
		return float32(math.NaN())
	}
	e, m := int(b)>>f.man, int(b)&(1<<f.man-1)
	var v float64
	switch {
	case f.inf && e == 1<<f.exp-1:
		v = math.Inf(1)
		if m != 0 {
			v = math.NaN()
		}
	case e == 0 && f.signed:
		v = math.Ldexp(float64(m), 1-f.bias-f.man)
	default:
		v = math.Ldexp(float64(m)+float64(int(1)<<f.man), e-f.bias-f.man)
	}
	if sign == 1 {
		v = -v
	}
	return float32(v)
}

// largest is the greatest finite code, without its sign.
func (f *smallFloat) largest() uint8 {
	top := uint8(1<<(f.exp+f.man) - 1)
	switch {
	case f.inf:
		return top - 1<<f.man
	case f.nan >= 0:
		return top - 1
	}
	return top
}

// encode rounds to nearest even (float8e8m0: as round_mode says).
func (f *smallFloat) encode(v float32, rules castRules) uint8 {
	sign := uint8(0)
	if f.signed && math.Signbit(float64(v)) {
		sign = 1 << (f.exp + f.man)
	}
	nan := sign | uint8(f.nan)
	switch {
	case f.zeroNaN:
		nan = 1 << (f.exp + f.man)
	case f.inf:
		nan = sign | (1<<(f.exp+f.man) - 1)
	case f.nan < 0: // no NaN at all: the largest value
		nan = sign | f.largest()
	}
	if v != v {
		return nan
	}
	if f.man == 0 {
		return f.encodeScale(float64(v), rules)
	}
	a := math.Abs(float64(v))
	code := f.nearest(a)
	if math.IsInf(a, 1) || int(code) > int(f.largest()) {
		switch {
		case !rules.wrap || f.nan < 0 && !f.inf && !f.zeroNaN:
			code = int(f.largest())
		case f.inf:
			code = int(f.largest()) + 1
		default:
			return nan
		}
	}
	if code == 0 && f.zeroNaN {
		return 0
	}
	return sign | uint8(code)
}

// nearest is the code nearest to a ≥ 0, to even on a tie, as if the codes
// went on without end.
func (f *smallFloat) nearest(a float64) int {
	if math.IsInf(a, 1) || a == 0 {
		return 0
	}
	_, e := math.Frexp(a) // a = m·2^e, m in [½, 1)
	step := max(e-1, 1-f.bias) - f.man
	n := int(math.RoundToEven(math.Ldexp(a, -step)))
	return n + (step+f.man+f.bias-1)<<f.man
}

// encodeScale gives the power of two of float8e8m0.
func (f *smallFloat) encodeScale(v float64, rules castRules) uint8 {
	if v < 0 {
		return uint8(f.nan)
	}
	if math.IsInf(v, 1) {
		if rules.wrap {
			return uint8(f.nan)
		}
		return f.largest()
	}
	if v == 0 {
		return 0
	}
	m, e := math.Frexp(v)
	e-- // v = 2m·2^e, 2m in [1, 2)
	switch rules.round {
	case "up", "":
		if m > 0.5 {
			e++
		}
	case "nearest":
		if m >= 0.75 {
			e++
		}
	}
	code := e + f.bias
	switch {
	case code < 0:
		return 0
	case code > int(f.largest()):
		if rules.wrap {
			return uint8(f.nan)
		}
		return f.largest()
	}
	return uint8(code)
}
