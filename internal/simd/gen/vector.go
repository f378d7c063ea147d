package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// This file writes arithmetic on vectors of float32 as expressions: every method
// takes registers, emits an instruction and returns the register of the result.
// Registers are virtual; avo assigns them.

// vec is a vector register, or a constant in memory.
type vec = operand.Op

// konst is a float32 in memory, repeated eight times. AVX-512 instructions
// broadcast its first copy.
type konst struct{ operand.Mem }

// bits is the constant with the given bit pattern in every lane.
func (c *family) bits(b uint32) konst {
	return konst{c.data(fmt.Sprintf("word_%08x", b), b, b, b, b, b, b, b, b)}
}

// f32 is the constant x, rounded to float32.
func (c *family) f32(x float64) konst { return c.bits(math.Float32bits(float32(x))) }

const (
	signBit = 0x80000000
	absBits = 0x7fffffff
)

// v returns a new register.
func (f *function) v() reg.VecVirtual {
	if f.path == avx2 {
		return f.YMM()
	}
	return f.ZMM()
}

// splat returns the constant in a register, for operands that cannot be memory.
func (f *function) splat(k konst) reg.VecVirtual {
	d := f.v()
	f.VBROADCASTSS(k.Mem, d)
	return d
}

// broadcast returns the float32 argument in every lane.
func (f *function) broadcast(arg string) reg.VecVirtual {
	a, err := f.Param(arg).Resolve()
	if err != nil {
		panic(err)
	}
	d := f.v()
	f.VBROADCASTSS(a.Addr, d)
	return d
}

type instruction = func(...operand.Op)

// emit3 emits an instruction whose last source may be a constant: op where it
// is read whole, bcst where AVX-512 broadcasts it. The order is Go's: the last
// source first, the destination last.
func (f *function) emit3(op, bcst instruction, last, first vec, dst operand.Op) {
	k, isConst := last.(konst)
	switch {
	case isConst && f.path == avx512:
		bcst(k.Mem, first, dst)
	case isConst:
		op(k.Mem, first, dst)
	default:
		op(last, first, dst)
	}
}

func (f *function) binary(op, bcst instruction, a, b vec) reg.VecVirtual {
	d := f.v()
	f.emit3(op, bcst, b, a, d)
	return d
}

func (f *function) add(a, b vec) reg.VecVirtual { return f.binary(f.VADDPS, f.VADDPS_BCST, a, b) }
func (f *function) sub(a, b vec) reg.VecVirtual { return f.binary(f.VSUBPS, f.VSUBPS_BCST, a, b) }
func (f *function) mul(a, b vec) reg.VecVirtual { return f.binary(f.VMULPS, f.VMULPS_BCST, a, b) }
func (f *function) div(a, b vec) reg.VecVirtual { return f.binary(f.VDIVPS, f.VDIVPS_BCST, a, b) }

// larger returns a > b ? a : b, so b where either is NaN.
func (f *function) larger(a, b vec) reg.VecVirtual { return f.binary(f.VMAXPS, f.VMAXPS_BCST, a, b) }

// smaller returns a < b ? a : b, so b where either is NaN.
func (f *function) smaller(a, b vec) reg.VecVirtual { return f.binary(f.VMINPS, f.VMINPS_BCST, a, b) }

func (f *function) and(a, b vec) reg.VecVirtual { return f.binary(f.VANDPS, f.VANDPS_BCST, a, b) }
func (f *function) or(a, b vec) reg.VecVirtual  { return f.binary(f.VORPS, f.VORPS_BCST, a, b) }
func (f *function) xor(a, b vec) reg.VecVirtual { return f.binary(f.VXORPS, f.VXORPS_BCST, a, b) }

// copy returns a in a register that may be changed.
func (f *function) copy(a vec) reg.VecVirtual {
	d := f.v()
	f.VMOVAPS(a, d)
	return d
}

// zero returns 0 in every lane.
func (f *function) zero() reg.VecVirtual {
	d := f.v()
	f.VXORPS(d, d, d)
	return d
}

// addMul sets s to s + a·b, rounded once.
func (f *function) addMul(s reg.VecVirtual, a, b vec) {
	f.emit3(f.VFMADD231PS, f.VFMADD231PS_BCST, b, a, s)
}

// subMul sets s to s − a·b, rounded once.
func (f *function) subMul(s reg.VecVirtual, a, b vec) {
	f.emit3(f.VFNMADD231PS, f.VFNMADD231PS_BCST, b, a, s)
}

// mulAdd sets s to s·a + b, rounded once.
func (f *function) mulAdd(s reg.VecVirtual, a, b vec) {
	f.emit3(f.VFMADD213PS, f.VFMADD213PS_BCST, b, a, s)
}

// mulErr returns a·b − p for the rounded product p = a·b: its exact error.
func (f *function) mulErr(a, b vec, p reg.VecVirtual) reg.VecVirtual {
	d := f.copy(p)
	f.emit3(f.VFMSUB231PS, f.VFMSUB231PS_BCST, b, a, d)
	return d
}

// horner returns the polynomial with the given coefficients, lowest first, at x.
func (f *function) horner(x vec, coef []float64) reg.VecVirtual {
	last := len(coef) - 1
	p := f.splat(f.f32(coef[last]))
	for i := last - 1; i >= 0; i-- {
		f.mulAdd(p, x, f.f32(coef[i]))
	}
	return p
}

// round returns x rounded to an integer, ties to even.
func (f *function) round(x vec) reg.VecVirtual {
	const nearestNoException = 8
	d := f.v()
	if f.path == avx512 {
		f.VRNDSCALEPS(operand.U8(nearestNoException), x, d)
	} else {
		f.VROUNDPS(operand.U8(nearestNoException), x, d)
	}
	return d
}

// scale returns x·2ⁿ, rounded once, for integers n with |n| ≤ 250 (and an x of
// moderate size).
func (f *function) scale(x, n vec) reg.VecVirtual {
	d := f.v()
	if f.path == avx512 {
		f.VSCALEFPS(n, x, d)
		return d
	}
	// 2ⁿ may not be a float32 where x·2ⁿ is one, so multiply by two halves. The
	// first product is exact.
	i, half := f.YMM(), f.YMM()
	f.VCVTPS2DQ(n, i)
	f.VPSRAD(operand.U8(1), i, half)
	f.VPSUBD(half, i, i)
	for _, h := range []reg.VecVirtual{half, i} {
		f.VPADDD(f.bits(127).Mem, h, h)
		f.VPSLLD(operand.U8(23), h, h)
	}
	f.VMULPS(half, x, d)
	f.VMULPS(i, d, d)
	return d
}

// Predicates of VCMPPS that never trap.
const (
	equal     = 0x00 // false for NaN
	lessThan  = 0x11 // false for NaN
	atMost    = 0x12 // false for NaN
	unordered = 0x03 // either is NaN
)

// where returns cmp(a, b) ? yes : no in every lane.
func (f *function) where(predicate uint8, a, b, yes, no vec) reg.VecVirtual {
	d := f.v()
	if f.path == avx512 {
		k := f.K()
		f.emit3(func(o ...operand.Op) { f.VCMPPS(append([]operand.Op{operand.U8(predicate)}, o...)...) },
			func(o ...operand.Op) { f.VCMPPS_BCST(append([]operand.Op{operand.U8(predicate)}, o...)...) }, b, a, k)
		f.VBLENDMPS(yes, no, k, d)
		return d
	}
	m := f.YMM()
	f.emit3(func(o ...operand.Op) { f.VCMPPS(append([]operand.Op{operand.U8(predicate)}, o...)...) }, nil, b, a, m)
	f.VBLENDVPS(m, yes, no, d)
	return d
}

// tail is the mask of a last vector that is not full.
type tail struct{ reg reg.Register }

// newTail returns the mask of the first n elements, 0 < n < lanes.
func (f *function) newTail(n reg.GPVirtual) *tail {
	if f.path == avx512 {
		t, k := f.GP64(), f.K()
		f.MOVQ(operand.I32(-1), t)
		f.BZHIQ(n, t, t)
		f.KMOVW(t.As32(), k)
		return &tail{k}
	}
	at, off, m := f.GP64(), f.GP64(), f.YMM()
	f.LEAQ(f.tailMask(), at)
	f.MOVQ(n, off)
	f.NEGQ(off)
	f.VMOVUPS(operand.Mem{Base: at, Index: off, Scale: 4, Disp: 32}, m)
	return &tail{m}
}

// load returns the vector at m; with a tail, 0 for the elements beyond it.
func (f *function) load(m operand.Mem, t *tail) reg.VecVirtual {
	d := f.v()
	switch {
	case t == nil:
		f.VMOVUPS(m, d)
	case f.path == avx512:
		f.VMOVUPS_Z(m, t.reg, d)
	default:
		f.VMASKMOVPS(m, t.reg, d)
	}
	return d
}

// store writes the vector x to m; with a tail, only the elements before it.
func (f *function) store(x vec, m operand.Mem, t *tail) {
	switch {
	case t == nil:
		f.VMOVUPS(x, m)
	case f.path == avx512:
		f.VMOVUPS(x, t.reg, m)
	default:
		f.VMASKMOVPS(x, t.reg, m)
	}
}

// keep returns x, with fill in the elements beyond the tail.
func (f *function) keep(x, fill vec, t *tail) reg.VecVirtual {
	if t == nil {
		return x.(reg.VecVirtual)
	}
	d := f.v()
	if f.path == avx512 {
		f.VBLENDMPS(x, fill, t.reg, d)
	} else {
		f.VBLENDVPS(t.reg, x, fill, d)
	}
	return d
}

// eachVector emits loops over the vectors of equally long slices, the
// arguments of those names; see vectors. The length is that of the first slice.
func (f *function) eachVector(slices []string, unroll int, body func(i int, at []operand.Mem, t *tail)) {
	n := f.GP64()
	f.Load(f.Param(slices[0]).Len(), n)
	f.vectors("", n, f.bases(slices), unroll, body)
}

// bases returns where the slices begin, the arguments of those names.
func (f *function) bases(slices []string) []reg.GPVirtual {
	ptr := make([]reg.GPVirtual, len(slices))
	for i, s := range slices {
		ptr[i] = f.GP64()
		f.Load(f.Param(s).Base(), ptr[i])
	}
	return ptr
}

// vectors emits loops over n elements from each pointer on: one of unroll
// vectors a turn, one of single vectors, and the rest of less than a vector.
// body gets the address of its vector at every pointer, its number i < unroll
// within the turn, and the tail (nil for whole vectors). Count and pointers are
// used up. The name makes labels unique.
func (f *function) vectors(name string, n reg.GPVirtual, ptr []reg.GPVirtual, unroll int, body func(i int, at []operand.Mem, t *tail)) {
	turn := func(label string, vecs int) {
		f.SUBQ(operand.U32(uint32(vecs*f.lanes)), n)
		f.JL(operand.LabelRef(label + "End"))
		f.Label(label)
		for i := range vecs {
			at := make([]operand.Mem, len(ptr))
			for j, p := range ptr {
				at[j] = operand.Mem{Base: p, Disp: i * f.vecBytes()}
			}
			body(i, at, nil)
		}
		for _, p := range ptr {
			f.ADDQ(operand.U32(uint32(vecs*f.vecBytes())), p)
		}
		f.SUBQ(operand.U32(uint32(vecs*f.lanes)), n)
		f.JGE(operand.LabelRef(label))
		f.Label(label + "End")
		f.ADDQ(operand.U32(uint32(vecs*f.lanes)), n)
	}
	if unroll > 1 {
		turn(name+"turn", unroll)
	}
	turn(name+"single", 1)
	f.JE(operand.LabelRef(name + "done"))
	at := make([]operand.Mem, len(ptr))
	for j, p := range ptr {
		at[j] = operand.Mem{Base: p}
	}
	body(0, at, f.newTail(n))
	f.Label(name + "done")
}

// partial is vectors for sums of which vector v is to go into part v mod parts,
// also behind the last whole turn: i is that part. So zeros behind the elements
// change no sum.
func (f *function) partial(name string, n reg.GPVirtual, ptr []reg.GPVirtual, parts int, body func(i int, at []operand.Mem, t *tail)) {
	addresses := func(vec int) (at []operand.Mem) {
		for _, p := range ptr {
			at = append(at, operand.Mem{Base: p, Disp: vec * f.vecBytes()})
		}
		return at
	}
	f.SUBQ(operand.U32(uint32(parts*f.lanes)), n)
	f.JL(operand.LabelRef(name + "TurnEnd"))
	f.Label(name + "Turn")
	for i := range parts {
		body(i, addresses(i), nil)
	}
	for _, p := range ptr {
		f.ADDQ(operand.U32(uint32(parts*f.vecBytes())), p)
	}
	f.SUBQ(operand.U32(uint32(parts*f.lanes)), n)
	f.JGE(operand.LabelRef(name + "Turn"))
	f.Label(name + "TurnEnd")
	f.ADDQ(operand.U32(uint32(parts*f.lanes)), n)
	for i := range parts {
		f.CMPQ(n, operand.U32(uint32(f.lanes)))
		f.JL(operand.LabelRef(fmt.Sprintf("%sTail%d", name, i)))
		if i < parts-1 { // there are fewer than parts vectors
			body(i, addresses(i), nil)
			f.SUBQ(operand.U32(uint32(f.lanes)), n)
		}
	}
	for i := range parts {
		f.Label(fmt.Sprintf("%sTail%d", name, i))
		f.TESTQ(n, n)
		f.JE(operand.LabelRef(name + "Done"))
		body(i, addresses(i), f.newTail(n))
		if i < parts-1 {
			f.JMP(operand.LabelRef(name + "Done"))
		}
	}
	f.Label(name + "Done")
}

// fold combines all lanes of x with op, in halves, quarters, and so on; every
// lane of the result holds the same.
func (f *function) fold(x vec, op func(a, b vec) reg.VecVirtual) reg.VecVirtual {
	swap := func(shuffle func(d reg.VecVirtual)) {
		d := f.v()
		shuffle(d)
		x = op(x, d)
	}
	// The immediate exchanges elements 0, 1 with 2, 3, and then 0, 2 with 1, 3.
	const halves, pairs = 0x4e, 0xb1
	if f.path == avx512 {
		swap(func(d reg.VecVirtual) { f.VSHUFF32X4(operand.U8(halves), x, x, d) })
		swap(func(d reg.VecVirtual) { f.VSHUFF32X4(operand.U8(pairs), x, x, d) })
	} else {
		swap(func(d reg.VecVirtual) { f.VPERM2F128(operand.U8(1), x, x, d) })
	}
	swap(func(d reg.VecVirtual) { f.VPERMILPS(operand.U8(halves), x, d) })
	swap(func(d reg.VecVirtual) { f.VPERMILPS(operand.U8(pairs), x, d) })
	return x.(reg.VecVirtual)
}

// give stores the first lane of x as result i of the function.
func (f *function) give(i int, x reg.VecVirtual, move func(a, b operand.Op)) {
	r, err := f.ReturnIndex(i).Resolve()
	if err != nil {
		panic(err)
	}
	move(x.AsX(), r.Addr)
}
