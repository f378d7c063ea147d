package main

import (
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Coefficients, lowest first. Each polynomial is the minimax approximation of
// its degree (Remez exchange), rounded to float32; TestCoefficients derives them
// anew and holds them to the errors given here.
var (
	// expCoef: (eʳ − 1 − r)/r² for |r| ≤ ln 2/2; eʳ is off by 2⁻²⁶·⁸ at most.
	expCoef = []float64{0.5, 0.16666576, 0.041666374, 0.008363175, 0.0013941113}
	// erfCoef: erf(x)/x − 1 in x² for |x| ≤ erfSplit; erf(x) is off by a relative
	// 2⁻²⁶·⁴.
	erfCoef = []float64{0.12837917, -0.37612572, 0.112827174, -0.026802547, 0.005051095, -0.000631513}
	// erfcLogCoef: −log erfc(x) for erfSplit ≤ x ≤ 4; erf(x) is off by
	// a relative 2⁻²⁵·⁵.
	erfcLogCoef = []float64{0.000104523526, 1.128061, 0.63651896, 0.10452594, -0.02251906, 0.0031178556, -0.00020367689}
	// millsCoef: exp(a²/2)·Φ(−a)·(s + a) in a/(s + a) − millsCentre for
	// 0 ≤ a ≤ 15, s = millsScale; off by a relative 2⁻²⁶·².
	millsCoef = []float64{0.7968762, -1.2121395, 1.2484479, -0.7254282, 0.007355208, 0.28753352, -0.06310901, -0.14156327, 0.027766256, 0.06835165}
)

const (
	erfSplit = 0.85
	// Of the multiples of 1/16 and of 0.05 (in float32), those whose polynomial
	// of degree 9 gives the least error of gelu in float32.
	millsScale  = 3.3125
	millsCentre = 0.449999988079071044921875
	// ln2Hi + ln2Lo = ln 2. A fused x − n·ln2Hi is off by 2⁻²⁶ at most: it is less
	// than 1/2 and a multiple of 2⁻²⁵.
	ln2Hi = 0.693147182464599609375
	ln2Lo = math.Ln2 - ln2Hi
	// geluLinear·(x + geluCubic/geluLinear·x³) = 2·√(2/π)·(x + 0.044715·x³)
	geluLinear = 1.5957691216057307117597842397375274738
	geluCubic  = geluLinear * 0.044715
)

// activation emits the transcendental functions.
func activation(c *family) {
	for _, p := range paths {
		c.transcendental(p, "exp", "exp(x[i])", func(f *function) func(x vec) vec {
			bounds := f.expBounds()
			return func(x vec) vec { return f.expOf(x, bounds) }
		})
		c.transcendental(p, "tanh", "tanh(x[i])", tanhBody)
		c.transcendental(p, "sigmoid", "1 / (1 + exp(-x[i]))", func(f *function) func(x vec) vec {
			sigmoid := f.sigmoid()
			return func(x vec) vec { return sigmoid(x, nil) }
		})
		c.transcendental(p, "silu", "x[i] / (1 + exp(-x[i]))", func(f *function) func(x vec) vec {
			sigmoid := f.sigmoid()
			return func(x vec) vec { return sigmoid(x, x) }
		})
		c.transcendental(p, "erf", "erf(x[i])", erfBody)
		c.transcendental(p, "gelu", "x[i] * 0.5 * erfc(-x[i]/sqrt2)", geluBody)
		c.transcendental(p, "geluTanh", "x[i] / (1 + exp(-2*sqrt(2/pi)*(x[i]+0.044715*x[i]*x[i]*x[i])))", geluTanhBody)
	}
}

// transcendental emits a kernel that sets dst[i] to a function of x[i]. prepare
// emits what precedes the loop and returns the body.
func (c *family) transcendental(p path, name, expr string, prepare func(f *function) func(x vec) vec) {
	f := c.begin(p, name, "func(dst, x []float32)",
		"	for i := range dst {",
		"		dst[i] = "+expr,
		"	}")
	body := prepare(f)
	f.eachVector([]string{"dst", "x"}, 2, func(_ int, at []operand.Mem, t *tail) {
		f.store(body(f.load(at[1], t)), at[0], t)
	})
	f.end()
}

// reduced is eˣ = (1 + m)·2ⁿ.
type reduced struct{ m, n reg.VecVirtual }

// reduce splits eˣ for |x| < 1000: n = round(x/ln 2), r = x − n·ln 2 − less in
// two steps whose first is exact, m = eʳ − 1. less may be nil; it is small, the
// part of the argument that x had no room for.
func (f *function) reduce(x vec, less vec) reduced {
	n := f.round(f.mul(x, f.f32(math.Log2E)))
	r := f.copy(x)
	f.subMul(r, n, f.f32(ln2Hi))
	f.subMul(r, n, f.f32(ln2Lo))
	if less != nil {
		r = f.sub(r, less)
	}
	m := f.horner(r, expCoef)
	f.mulAdd(m, f.mul(r, r), r)
	return reduced{m, n}
}

// expBounds returns the least and the greatest argument of exp that matter: eˣ
// is 0 below −104 and +Inf above 89.
func (f *function) expBounds() [2]vec { return [2]vec{f.splat(f.f32(-104)), f.splat(f.f32(89))} }

// expOf returns eˣ.
func (f *function) expOf(x vec, bounds [2]vec) reg.VecVirtual {
	// Masked scores lie far below. Scaling to a result that underflows takes the
	// processor a hundred cycles, so there the argument is 0, and the result
	// replaced. The bound comes first: NaN is what the second operand leaves
	// alone.
	zero := f.zero()
	e := f.reduce(f.where(lessThan, x, bounds[0], zero, f.smaller(bounds[1], x)), nil)
	return f.where(lessThan, x, bounds[0], zero, f.scale(f.add(e.m, f.f32(1)), e.n))
}

// expOfNegative returns eˣ for x ≤ 0 or NaN; least is −104, below which eˣ is 0.
func (f *function) expOfNegative(x reg.VecVirtual, least vec) reg.VecVirtual {
	if f.path == avx2 {
		zero := f.zero()
		e := f.reduce(f.where(lessThan, x, least, zero, x), nil) // see expOf
		return f.where(lessThan, x, least, zero, f.scale(f.add(e.m, f.f32(1)), e.n))
	}
	const notLess = 0x15 // true for NaN
	k, d := f.K(), f.v()
	f.VCMPPS(operand.U8(notLess), least, x, k)
	e := f.reduce(x, nil)
	f.VSCALEFPS_Z(e.n, f.add(e.m, f.f32(1)), k, d)
	return d
}

// tanhBody: with E = exp(−2|x|) − 1, tanh|x| = −E/(2 + E).
func tanhBody(f *function) func(x vec) vec {
	bound := f.splat(f.f32(10)) // tanh is 1 from 9.01 on
	one := f.splat(f.f32(1))
	return func(x vec) vec {
		a := f.smaller(bound, f.and(x, f.bits(absBits)))
		e := f.reduce(f.mul(a, f.f32(-2)), nil)
		s := f.scale(one, e.n)
		// E = 2ⁿ·m + (2ⁿ − 1): both parts are not positive, nothing cancels.
		E := f.copy(f.sub(s, one))
		f.addMul(E, s, e.m)
		y := f.div(E, f.add(E, f.f32(2)))
		return f.or(f.and(y, f.bits(absBits)), f.and(x, f.bits(signBit)))
	}
}

// sigmoid returns a function for factor/(1 + exp(−x)), 1 as a nil factor. With
// e = exp(−|x|) that is 1/(1 + e) on the right and e/(1 + e) on the left.
func (f *function) sigmoid() func(x, factor vec) vec {
	zero, one, bounds := f.zero(), f.splat(f.f32(1)), f.expBounds()
	return func(x, factor vec) vec {
		e := f.expOf(f.or(x, f.bits(signBit)), bounds)
		top := f.where(lessThan, x, zero, e, one)
		if factor != nil {
			top = f.mul(top, factor)
		}
		return f.div(top, f.add(e, one))
	}
}

// erfBody: a polynomial near 0, 1 − exp(log erfc|x|) beyond.
func erfBody(f *function) func(x vec) vec {
	bound, split, one := f.splat(f.f32(4)), f.splat(f.f32(erfSplit)), f.splat(f.f32(1)) // erf is 1 from 3.92 on
	return func(x vec) vec {
		a := f.smaller(bound, f.and(x, f.bits(absBits)))
		near := f.horner(f.mul(a, a), erfCoef)
		f.mulAdd(near, a, a)
		e := f.reduce(f.xor(f.horner(a, erfcLogCoef), f.bits(signBit)), nil)
		far := f.sub(one, f.scale(f.add(e.m, one), e.n))
		y := f.where(lessThan, a, split, near, far)
		return f.or(y, f.and(x, f.bits(signBit)))
	}
}

// geluBody: x·Φ(x) with Φ(−a) = exp(−a²/2)·P(a/(s + a) − c)/(s + a),
// s = millsScale, c = millsCentre: Mills' ratio is smooth in a/(s + a). a² is
// taken with its rounding error, of which exp would make a relative one.
func geluBody(f *function) func(x vec) vec {
	bound, zero, one := f.splat(f.f32(15)), f.zero(), f.splat(f.f32(1)) // Φ(−15) is 0
	return func(x vec) vec {
		a := f.smaller(bound, f.and(x, f.bits(absBits)))
		sq := f.mul(a, a)
		e := f.reduce(f.mul(sq, f.f32(-0.5)), f.mul(f.mulErr(a, a, sq), f.f32(0.5)))
		r := f.div(one, f.add(a, f.f32(millsScale)))
		u := f.sub(f.mul(a, r), f.f32(millsCentre))
		ratio := f.mul(r, f.horner(u, millsCoef))
		f.mulAdd(e.m, ratio, ratio) // ratio·eʳ
		left := f.scale(e.m, e.n)
		phi := f.where(lessThan, x, zero, left, f.sub(one, left))
		return f.mul(x, phi)
	}
}

// geluTanhBody: x/(1 + exp(−v)), v = x·(geluLinear + geluCubic·x²), with v as a
// sum of two float32 values, because exp makes its rounding error a relative one.
func geluTanhBody(f *function) func(x vec) vec {
	bound, zero, one := f.splat(f.f32(12)), f.zero(), f.splat(f.f32(1)) // exp(−v) is 0 from 11 on
	low := func(c float64) float64 { return c - float64(float32(c)) }
	return func(x vec) vec {
		a := f.smaller(bound, f.and(x, f.bits(absBits)))
		sq := f.mul(a, a)
		cubic := f.splat(f.f32(geluCubic))
		p := f.mul(sq, cubic)
		pErr := f.mulErr(sq, cubic, p)
		f.addMul(pErr, f.mulErr(a, a, sq), cubic)
		f.addMul(pErr, sq, f.f32(low(geluCubic)))
		// s + sErr = geluLinear + p exactly (Knuth's two-sum).
		linear := f.splat(f.f32(geluLinear))
		s := f.add(linear, p)
		part := f.sub(s, linear)
		sErr := f.add(f.sub(linear, f.sub(s, part)), f.sub(p, part))
		sErr = f.add(f.add(sErr, pErr), f.f32(low(geluLinear)))
		v := f.mul(a, s)
		vErr := f.mulErr(a, s, v)
		f.addMul(vErr, a, sErr)

		e := f.reduce(f.xor(v, f.bits(signBit)), vErr)
		left := f.scale(f.add(e.m, one), e.n)
		top := f.mul(x, f.where(lessThan, x, zero, left, one))
		return f.div(top, f.add(left, one))
	}
}
