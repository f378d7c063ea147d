package main

import (
	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// path is an instruction set that kernels are written for. The suffix of the
// names of its functions is its name.
type path struct {
	name  string
	lanes int // float32 values in a vector register
}

var (
	avx2   = path{name: "AVX2", lanes: 8}
	avx512 = path{name: "AVX512", lanes: 16}
)

var paths = []path{avx512, avx2}

// vecBytes is the size of a vector register.
func (p path) vecBytes() int { return 4 * p.lanes }

// family is one generated file.
type family struct {
	*build.Context
	static map[string]operand.Mem // data that was emitted, by name
}

// function is one kernel that is being emitted.
type function struct {
	*family
	path
}

// begin starts the function name+path with the given Go signature. The lines
// are its comment: what it computes, as Go code.
func (c *family) begin(p path, name, signature string, doc ...string) *function {
	c.Function(name + p.name)
	c.Attributes(attr.NOSPLIT)
	c.Doc(append([]string{name + p.name + " computes", ""}, doc...)...)
	c.Pragma("noescape")
	c.SignatureExpr(signature)
	return &function{family: c, path: p}
}

// end returns to Go, whose code expects the upper halves of vectors to be clear.
func (f *function) end() {
	f.VZEROUPPER()
	f.RET()
}

// physical returns vector register i of the path's width.
func (f *function) physical(i int) reg.VecPhysical {
	z := [...]reg.VecPhysical{
		reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7,
		reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
		reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23,
		reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31,
	}[i]
	if f.path == avx2 {
		return z.AsY().(reg.VecPhysical)
	}
	return z
}

// data returns read-only memory of 32-bit words, emitted once per file.
func (c *family) data(name string, words ...uint32) operand.Mem {
	m, ok := c.static[name]
	if !ok {
		m = c.StaticGlobal(name)
		c.DataAttributes(attr.RODATA | attr.NOPTR)
		for i, w := range words {
			c.AddDatum(4*i, operand.U32(w))
		}
		c.static[name] = m
	}
	return m
}

// tailMask is the memory that AVX2 masks are read from: the mask that selects
// the first n of 8 elements lies at byte 32 − 4n.
func (c *family) tailMask() operand.Mem {
	const all = 1<<32 - 1
	return c.data("tailMask", all, all, all, all, all, all, all, all, 0, 0, 0, 0, 0, 0, 0, 0)
}
