package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// This file writes straight-line code: a list of operations on vectors, whose
// values are put into registers when the list is complete and every use of each
// is known. The register given up for a new value is the one whose value is
// needed last (Belady 1966); a value that has no copy in memory is then stored
// to a slot.

// straight is a list of operations in the order in which they run.
type straight struct {
	f        *function
	ops      []op
	slot     func(i int) operand.Mem // memory for spilled values
	reserved int                     // the last registers, which it does not use
	slots    int                     // how many of them there are; set before emit, and used up after it
}

// val is a value: plus or minus the result of an operation. Signs are free, as
// they choose between adding and subtracting.
type val struct {
	op  int
	neg bool
}

// op is an operation on at most two values.
type op struct {
	kind opKind
	a, b int     // operands, −1 for none
	c    float64 // constant factor
	imm  uint8   // of a shuffle
	mem  []operand.Mem
	add  *operand.Mem // added before a store
	emit func(x, y, d operand.Op)
	hold bool // the result is not to be in the register of an operand
}

type opKind uint8

const (
	opMem      opKind = iota // the vector at mem[0]
	opHalves                 // the 256 bits at mem[0], then those at mem[1] (AVX-512)
	opAdd                    // a + b
	opSub                    // a − b
	opMulAdd                 // a + c·b
	opMul                    // c·a
	opUnpackLo               // shuffles of two values: VUNPCKLPS, VUNPCKHPS,
	opUnpackHi               //
	opShuffle                // VSHUFPS,
	opLanes                  // and of 128-bit lanes: VSHUFF32X4, VPERM2F128
	opCustom                 // what emit writes
	opStore                  // store a to mem[0]
)

func (s *straight) push(o op) val {
	s.ops = append(s.ops, o)
	return val{op: len(s.ops) - 1}
}

func (v val) minus() val { return val{v.op, !v.neg} }

// load is the vector at m, which must stay there.
func (s *straight) load(m operand.Mem) val {
	return s.push(op{kind: opMem, a: -1, b: -1, mem: []operand.Mem{m}})
}

// halves is the half of a vector at m, then that at n.
func (s *straight) halves(m, n operand.Mem) val {
	return s.push(op{kind: opHalves, a: -1, b: -1, mem: []operand.Mem{m, n}})
}

// add is a + b.
func (s *straight) add(a, b val) val {
	switch {
	case a.neg == b.neg:
		v := s.push(op{kind: opAdd, a: a.op, b: b.op})
		v.neg = a.neg
		return v
	case b.neg:
		return s.push(op{kind: opSub, a: a.op, b: b.op})
	}
	return s.push(op{kind: opSub, a: b.op, b: a.op})
}

func (s *straight) sub(a, b val) val { return s.add(a, b.minus()) }

// mulAdd is a + c·b, rounded once.
func (s *straight) mulAdd(a val, c float64, b val) val {
	if a.neg != b.neg {
		c = -c
	}
	v := s.push(op{kind: opMulAdd, a: a.op, b: b.op, c: c})
	v.neg = a.neg
	return v
}

// mul is c·a.
func (s *straight) mul(c float64, a val) val {
	v := s.push(op{kind: opMul, a: a.op, b: -1, c: c})
	v.neg = a.neg
	return v
}

// positive is v without a sign of its own.
func (s *straight) positive(v val) val {
	if !v.neg {
		return v
	}
	return s.push(op{kind: opMul, a: v.op, b: -1, c: -1})
}

func (s *straight) shuffle(kind opKind, imm uint8, a, b val) val {
	return s.push(op{kind: kind, imm: imm, a: s.positive(a).op, b: s.positive(b).op})
}

// store writes v to m, with the vector at plus added to it unless that is nil.
func (s *straight) store(v val, m operand.Mem, plus *operand.Mem) {
	s.push(op{kind: opStore, a: s.positive(v).op, b: -1, mem: []operand.Mem{m}, add: plus})
}

// custom is what the instructions of emit make of the results of operations a and,
// unless it is negative, b. x may be memory where there is no b. They may write d
// before they have read x and y for the last time only with hold.
func (s *straight) custom(a, b int, hold bool, emit func(x, y, d operand.Op)) val {
	return s.push(op{kind: opCustom, a: a, b: b, hold: hold, emit: emit})
}

// transpose4 transposes the 4×4 elements of every 128-bit lane.
func (s *straight) transpose4(v [4]val) [4]val {
	a, b := s.shuffle(opUnpackLo, 0, v[0], v[1]), s.shuffle(opUnpackHi, 0, v[0], v[1])
	c, d := s.shuffle(opUnpackLo, 0, v[2], v[3]), s.shuffle(opUnpackHi, 0, v[2], v[3])
	return [4]val{
		s.shuffle(opShuffle, 0x44, a, c), s.shuffle(opShuffle, 0xee, a, c),
		s.shuffle(opShuffle, 0x44, b, d), s.shuffle(opShuffle, 0xee, b, d),
	}
}

// transposeLanes transposes the lanes×lanes lanes of 128 bits of as many vectors.
func (s *straight) transposeLanes(v []val) []val {
	if len(v) == 2 {
		return []val{s.shuffle(opLanes, 0x20, v[0], v[1]), s.shuffle(opLanes, 0x31, v[0], v[1])}
	}
	// VSHUFF32X4 takes two lanes of one operand, then two of the other.
	a, b := s.shuffle(opLanes, 0x44, v[0], v[1]), s.shuffle(opLanes, 0xee, v[0], v[1])
	c, d := s.shuffle(opLanes, 0x44, v[2], v[3]), s.shuffle(opLanes, 0xee, v[2], v[3])
	return []val{
		s.shuffle(opLanes, 0x88, a, c), s.shuffle(opLanes, 0xdd, a, c),
		s.shuffle(opLanes, 0x88, b, d), s.shuffle(opLanes, 0xdd, b, d),
	}
}

// emit writes the code.
func (s *straight) emit() {
	regs := 32
	if s.f.path == avx2 {
		regs = 16
	}
	regs -= s.reserved
	e := &emitter{straight: s, uses: make([][]int, len(s.ops)), reg: make([]int, len(s.ops)), home: make([]*operand.Mem, len(s.ops)), slotOf: map[int]int{}, held: make([]int, regs)}
	for i, o := range s.ops {
		e.reg[i] = -1
		for _, v := range []int{o.a, o.b} {
			if u := e.uses; v >= 0 && (len(u[v]) == 0 || u[v][len(u[v])-1] != i) {
				u[v] = append(u[v], i)
			}
		}
	}
	for r := range e.held {
		e.held[r] = -1
	}
	for e.now = range s.ops {
		e.step(s.ops[e.now])
		e.free, e.late = append(e.free, e.late...), e.late[:0]
	}
	s.slots = e.most
}

// emitter is the state of the machine while code is written.
type emitter struct {
	*straight
	now    int
	uses   [][]int        // of every value, in order
	reg    []int          // register of every value, −1 for none
	home   []*operand.Mem // memory that holds the value
	slotOf map[int]int
	held   []int // value in every register, −1 for none
	free   []int // slots that were given back
	late   []int // slots that the current operation gives back
	most   int   // slots in use at most
}

// next is when v is used after the current operation.
func (e *emitter) next(v int) int {
	for _, u := range e.uses[v] {
		if u > e.now {
			return u
		}
	}
	return len(e.ops)
}

func (e *emitter) dies(v int) bool { return e.next(v) == len(e.ops) }

func (e *emitter) r(i int) reg.VecPhysical { return e.f.physical(i) }

// take returns a register for a new value, none of those in keep.
func (e *emitter) take(keep ...int) int {
	best, last := -1, -1
	for r, v := range e.held {
		if v < 0 {
			return r
		}
		kept := false
		for _, k := range keep {
			kept = kept || k == r
		}
		// A value that is in memory costs no store.
		if n := e.next(v); !kept && n > last {
			best, last = r, n
		}
	}
	v := e.held[best]
	if e.home[v] == nil && last < len(e.ops) {
		n := e.most
		if len(e.free) > 0 {
			n, e.free = e.free[len(e.free)-1], e.free[:len(e.free)-1]
		} else {
			e.most++
		}
		m := e.slot(n)
		e.home[v], e.slotOf[v] = &m, n
		e.f.VMOVUPS(e.r(best), m)
	}
	e.reg[v], e.held[best] = -1, -1
	return best
}

// put says that register r now holds the value of the current operation.
func (e *emitter) put(r int) {
	e.reg[e.now], e.held[r] = r, e.now
	if e.dies(e.now) {
		panic(fmt.Sprintf("operation %d (%d) has no use", e.now, e.ops[e.now].kind))
	}
}

// in returns the register of v, which it is loaded into if need be.
func (e *emitter) in(v int, keep ...int) int {
	if e.reg[v] < 0 {
		r := e.take(keep...)
		e.f.VMOVUPS(*e.home[v], e.r(r))
		e.reg[v], e.held[r] = r, v
	}
	return e.reg[v]
}

// from returns v as an operand: its memory, if it is not in a register and has
// no further use.
func (e *emitter) from(v int, keep ...int) operand.Op {
	if e.reg[v] < 0 && e.dies(v) {
		return *e.home[v]
	}
	return e.r(e.in(v, keep...))
}

// drop gives back what the values used that have no further use.
func (e *emitter) drop(vs ...int) {
	for _, v := range vs {
		if v < 0 || !e.dies(v) {
			continue
		}
		if r := e.reg[v]; r >= 0 {
			e.reg[v], e.held[r] = -1, -1
		}
		if n, ok := e.slotOf[v]; ok {
			// The operation may still read it after a register was spilled.
			e.late = append(e.late, n)
			delete(e.slotOf, v)
		}
	}
}

func (e *emitter) step(o op) {
	f := e.f
	switch o.kind {
	case opMem:
		e.home[e.now] = &o.mem[0]
	case opHalves:
		r := e.take()
		z := e.r(r)
		f.VMOVUPS(o.mem[0], z.AsY())
		f.VINSERTF64X4(operand.U8(1), o.mem[1], z, z)
		e.put(r)
	case opAdd, opSub, opUnpackLo, opUnpackHi, opShuffle, opLanes:
		a, b := o.a, o.b
		if o.kind == opAdd && e.reg[a] < 0 && e.reg[b] >= 0 {
			a, b = b, a
		}
		ra := e.in(a, e.reg[b])
		x, y := e.r(ra), e.from(b, ra)
		e.drop(a, b)
		r := e.take()
		d := e.r(r)
		switch o.kind {
		case opAdd:
			f.VADDPS(y, x, d)
		case opSub:
			f.VSUBPS(y, x, d)
		case opUnpackLo:
			f.VUNPCKLPS(y, x, d)
		case opUnpackHi:
			f.VUNPCKHPS(y, x, d)
		case opShuffle:
			f.VSHUFPS(operand.U8(o.imm), y, x, d)
		case opLanes:
			if f.path == avx2 {
				f.VPERM2F128(operand.U8(o.imm), y, x, d)
			} else {
				f.VSHUFF32X4(operand.U8(o.imm), y, x, d)
			}
		}
		e.put(r)
	case opMul:
		ra := e.in(o.a)
		x := e.r(ra)
		e.drop(o.a)
		r := e.take()
		f.mulConst(f.f32(o.c), x, e.r(r))
		e.put(r)
	case opMulAdd:
		c := f.f32(o.c)
		ra := e.in(o.a, e.reg[o.b])
		rb := e.in(o.b, ra)
		x, y := e.r(ra), e.r(rb)
		dieA, dieB := e.dies(o.a), e.dies(o.b)
		e.drop(o.a, o.b)
		switch {
		case dieA: // a = a + c·b
			f.mulAddConst(c, y, x)
			e.put(ra)
		case dieB: // b = b·c + a
			f.mulConstAdd(c, x, y)
			e.put(rb)
		default:
			r := e.take(ra, rb)
			f.VMOVAPS(x, e.r(r))
			f.mulAddConst(c, y, e.r(r))
			e.put(r)
		}
	case opCustom:
		ra, rb := -1, -1
		var x, y operand.Op
		if o.b < 0 && e.reg[o.a] < 0 && e.dies(o.a) && !o.hold {
			x = *e.home[o.a]
		} else {
			if o.b >= 0 {
				ra = e.in(o.a, e.reg[o.b])
				rb = e.in(o.b, ra)
				y = e.r(rb)
			} else {
				ra = e.in(o.a)
			}
			x = e.r(ra)
		}
		if !o.hold {
			e.drop(o.a, o.b)
		}
		r := e.take(ra, rb)
		if !o.hold && ra >= 0 && e.held[ra] < 0 {
			r = ra
		}
		o.emit(x, y, e.r(r))
		e.drop(o.a, o.b)
		e.put(r)
	case opStore:
		r := e.in(o.a)
		x := e.r(r)
		if o.add != nil {
			if !e.dies(o.a) {
				panic("a stored sum has another use")
			}
			f.VADDPS(*o.add, x, x)
		}
		f.VMOVUPS(x, o.mem[0])
		e.drop(o.a)
	}
}

// The instructions with a constant: AVX-512 broadcasts it from memory, AVX2
// takes a vector of copies.

// mulConst computes d = c·x.
func (f *function) mulConst(c konst, x, d operand.Op) {
	if f.path == avx2 {
		f.VMULPS(c.Mem, x, d)
		return
	}
	f.VMULPS_BCST(c.Mem, x, d)
}

// mulAddConst computes d = d + c·x.
func (f *function) mulAddConst(c konst, x, d operand.Op) {
	if f.path == avx2 {
		f.VFMADD231PS(c.Mem, x, d)
		return
	}
	f.VFMADD231PS_BCST(c.Mem, x, d)
}

// mulConstAdd computes d = d·c + x.
func (f *function) mulConstAdd(c konst, x, d operand.Op) {
	if f.path == avx2 {
		f.VFMADD132PS(c.Mem, x, d)
		return
	}
	f.VFMADD132PS_BCST(c.Mem, x, d)
}
