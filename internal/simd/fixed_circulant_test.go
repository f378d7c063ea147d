package simd

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestFixedCirculant holds the kernels of every path and block size to plain
// loops over 64-bit integers, bit by bit: over random numbers and over the
// extremes, with rows apart, unaligned, guards, and scratch memory full of NaN.
func TestFixedCirculant(t *testing.T) {
	for name, k := range fixedPaths() {
		for b := 2; b <= 256; b *= 2 {
			t.Run(fmt.Sprintf("%s/%d", name, b), func(t *testing.T) {
				r := rand.New(rand.NewPCG(uint64(b), 7))
				c := k.FixedCirculant(b)
				for _, extreme := range []bool{false, true} {
					checkFixedTransforms(t, r, c, extreme)
					for _, size := range [][2]int{{1, 1}, {13, 5}, {2, 7}, {30, 2}} {
						checkFixedProducts(t, r, c, size[0], size[1], extreme)
					}
					for p := 3; p <= 12; p++ { // as many rows as kernels take, and fewer
						checkFixedProducts(t, r, c, p, 5, extreme)
					}
				}
			})
		}
	}
}

const fixedGuard = 0x1234

func nanScratch(n int) []float32 {
	s := make([]float32, n)
	for i := range s {
		s[i] = float32(math.NaN())
	}
	return s
}

func checkFixedTransforms(t *testing.T, r *rand.Rand, c *FixedCirculant, extreme bool) {
	t.Helper()
	const groups = 3
	b, cols := c.b, groups*c.Columns()
	off, ld := 1+r.IntN(3), cols+r.IntN(5)
	x := make([]int16, off+(c.lanes-1)*ld+cols)[off:]
	for i := range x {
		switch {
		case extreme:
			x[i] = []int16{-1 << 15, 1<<15 - 1}[r.IntN(2)]
		case r.IntN(3) == 0:
			x[i] = int16(r.IntN(1 << 16))
		case r.IntN(5) == 0:
			x[i] = int16(r.IntN(3) - 1)
		default:
			x[i] = int16(r.NormFloat64() * 4000)
		}
	}
	shifts := make([]int8, groups*c.GroupBlocks()*(b/2+1))
	for i := range shifts {
		if shifts[i] = int8(r.IntN(9)); r.IntN(9) == 0 {
			shifts[i] = int8(r.IntN(32))
		}
	}
	words := c.Tile(groups)
	got, want := make([]int32, words+20), make([]int32, words)
	for i := range got {
		got[i] = fixedGuard
	}
	scales := c.ForwardScales(shifts, groups)
	c.Forward(got[:words], x, ld, groups, scales, nanScratch(c.Scratch()))
	plain := *c
	plain.forward, plain.inverse = nil, nil
	plain.Forward(want, x, ld, groups, scales, nanScratch(c.Scratch()))
	for _, floats := range []bool{false, true} {
		if floats { // rows that become x
			const quantum = 0x1p-3
			f := floatsOf(r, x, quantum)
			clear(got[:words])
			c.ForwardFloats(got[:words], f, quantum, ld, groups, scales, nanScratch(c.Scratch()))
		}
		for i := range got {
			vec := i / c.lanes
			j, k := vec/c.vecs(), vec%c.vecs()
			switch unused := k == b || c.Pairs() && k < 2 && j%2 == 1; {
			case i >= words:
				if got[i] != fixedGuard {
					t.Fatal("Forward wrote beyond its tile")
				}
			case !unused && got[i] != want[i]:
				t.Fatalf("Forward, extremes %v, of float32 %v: vector %d of block %d, lane %d: %#x, want %#x", extreme, floats, k, j, i%c.lanes, uint32(got[i]), uint32(want[i]))
			}
		}
	}

	src := make([]int32, words)
	limit := c.Limit()
	for i := range src {
		switch {
		case extreme:
			src[i] = []int32{-limit, limit}[r.IntN(2)]
		case r.IntN(3) == 0:
			src[i] = r.Int32N(2*limit+1) - limit
		default:
			src[i] = int32(min(max(r.NormFloat64()*float64(limit)/20, -float64(limit)), float64(limit)))
		}
	}
	if extreme { // all numbers of some lanes of one sign, so that sums are as large as can be
		for i := range src {
			if i%c.lanes%3 == 0 {
				src[i] = limit * int32(1-2*(i%c.lanes%2))
			}
		}
	}
	factors := make([]float32, cols)
	for i := range factors {
		e := r.IntN(14)
		if r.IntN(9) == 0 {
			e = r.IntN(41)
		}
		factors[i] = float32(math.Ldexp(1, -e))
	}
	y, z := make([]int16, off+(c.lanes-1)*ld+cols+40), make([]int16, (c.lanes-1)*ld+cols)
	for i := range y {
		y[i] = fixedGuard
	}
	plain.Inverse(z, ld, slices.Clone(src), groups, factors, make([]float32, c.Scratch()))
	units, f := make([]float32, cols), newGuarded(off+(c.lanes-1)*ld+cols+40, off)
	for i := range units {
		units[i] = float32(math.Ldexp(1, r.IntN(253)-126-16)) // as small as there are
	}
	for i := range f.s {
		f.s[i] = fixedGuard
	}
	c.InverseFloats(f.s[off:len(f.s)-40], ld, slices.Clone(src), groups, factors, units, nanScratch(c.Scratch()))
	f.check(t)
	c.Inverse(y[off:len(y)-40], ld, src, groups, factors, nanScratch(c.Scratch()))
	for i := range y {
		row, col := (i-off)/ld, (i-off)%ld
		if i < off || row >= c.lanes || col >= cols {
			if y[i] != fixedGuard || f.s[i] != fixedGuard {
				t.Fatal("Inverse wrote beyond its rows")
			}
		} else if want := float32(math.Ldexp(float64(z[i-off])*float64(units[col]), 16)); f.s[i] != want {
			t.Fatalf("Inverse to float32, extremes %v: row %d, column %d: %v, want %v", extreme, row, col, f.s[i], want)
		} else if y[i] != z[i-off] {
			t.Fatalf("Inverse, extremes %v: row %d, column %d: %d, want %d", extreme, row, col, y[i], z[i-off])
		}
	}
}

// floatsOf returns numbers that Quantize16 makes x with a factor of quantum: any
// that do, and for some extremes and zeros ones that no int16 is near.
func floatsOf(r *rand.Rand, x []int16, quantum float32) []float32 {
	f := make([]float32, len(x))
	for i, v := range x {
		f[i] = (float32(v) + float32(r.IntN(255)-128)/256) / quantum
		switch {
		case v == math.MaxInt16 && i%2 == 0:
			f[i] = []float32{inf, math.MaxFloat32, 1 << 20, 1 << 31, 1 << 34, 1 << 35}[r.IntN(6)]
		case v == math.MinInt16 && i%2 == 0:
			f[i] = []float32{-inf, -math.MaxFloat32, -1 << 20, -1 << 31, -1 << 34, -1 << 35}[r.IntN(6)]
		case v == 0 && i%2 == 0:
			f[i] = []float32{nan, -nan, math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, negZero, math.Nextafter32(0.5, 0) / quantum / 2, -0.5 / quantum}[r.IntN(7)]
		case v == 1 && i%2 == 0:
			f[i] = math.Nextafter32(0.5, 0) / quantum // the sum with ½ rounds up
		}
	}
	return f
}

// checkFixedProducts multiplies q blocks by p rows of blocks.
func checkFixedProducts(t *testing.T, r *rand.Rand, c *FixedCirculant, p, q int, extreme bool) {
	t.Helper()
	b, bins := c.b, c.b/2+1
	group, shift, most := q, 0, 65534/(2*q)
	if q > 4 {
		group, shift, most = 4, 3, 65534/8
	}
	w := make([]int16, p*q*b)
	for i := range w {
		if w[i] = int16(r.IntN(2*most+1) - most); extreme {
			w[i] = int16(most * (1 - 2*r.IntN(2)))
			if i/(q*b)%2 == 0 {
				w[i] = int16(most)
			}
		}
	}
	bias, shifts := make([]int32, p*b), make([]int8, p*bins)
	for i := range bias {
		bias[i] = r.Int32N(200) - 100
	}
	for i := range shifts {
		shifts[i] = int8(r.IntN(16))
	}
	packed := c.Pack(w, p, q, bias, shifts, group, shift)
	groups := (q + c.GroupBlocks() - 1) / c.GroupBlocks()
	x := make([]int32, c.Tile(groups))
	numbers := make([]int64, q*b*c.lanes) // [q, b, lanes]
	for j := range q {
		for k := range b {
			for l := range c.lanes {
				v := int32(r.IntN(1<<16-1) - (1<<15 - 1))
				if extreme {
					v = (1<<15 - 1) * int32(1-2*(l%2))
				}
				numbers[(j*b+k)*c.lanes+l] = int64(v)
			}
		}
		for l := range c.lanes {
			at := func(j, k int) *int32 { return &x[(j*c.vecs()+k)*c.lanes+l] }
			v := func(k int) int32 { return int32(numbers[(j*b+k)*c.lanes+l]) }
			pair := func(a, b int32) int32 { return int32(uint32(uint16(a)) | uint32(b)<<16) }
			switch {
			case !c.Pairs():
				*at(j, 0), *at(j, 1) = pair(v(0), 0), pair(0, v(1))
			case j%2 == 0:
				*at(j, 0), *at(j, 1) = pair(v(0), 0), pair(v(1), 0)
			default:
				*at(j-1, 0) |= v(0) << 16
				*at(j-1, 1) |= v(1) << 16
			}
			for k := 2; k < b; k += 2 {
				*at(j, k), *at(j, k+1) = pair(v(k), -v(k+1)), pair(v(k+1), v(k))
			}
		}
	}
	round := func(v int64, s int) int64 {
		if s == 0 {
			return v
		}
		return (v + 1<<(s-1)) >> s
	}
	for i := range packed.Parts {
		part := &packed.Parts[i]
		n := c.Tile(part.Groups)
		y := make([]int32, n+20)
		for k := range y {
			y[k] = fixedGuard
		}
		c.Products(y[:n], &packed, part, x)
		for _, v := range y[n:] {
			if v != fixedGuard {
				t.Fatal("Products wrote beyond its tile")
			}
		}
		for row := range part.Groups * c.GroupBlocks() {
			at := part.First*c.GroupBlocks() + row
			for k := range b {
				for l := range c.lanes {
					if at >= p {
						continue
					}
					sum := int64(bias[at*b+k])
					for first := 0; first < q; first += group {
						var s int64
						for j := first; j < min(first+group, q); j++ {
							weight := func(k int) int64 { return int64(w[(at*q+j)*b+k]) }
							v := func(k int) int64 { return numbers[(j*b+k)*c.lanes+l] }
							switch {
							case k < 2:
								s += weight(k) * v(k)
							case k%2 == 0:
								s += weight(k)*v(k) - weight(k+1)*v(k+1)
							default:
								s += weight(k-1)*v(k) + weight(k)*v(k-1)
							}
						}
						sum += round(s, shift)
					}
					want := min(max(round(sum, int(shifts[at*bins+fixedBin(k)])), -int64(c.Limit())), int64(c.Limit()))
					if got := y[(row*c.vecs()+k)*c.lanes+l]; int64(got) != want {
						t.Fatalf("%d→%d blocks, extremes %v: row %d, number %d, lane %d: %d, want %d", q, p, extreme, at, k, l, got, want)
					}
				}
			}
		}
	}
}
