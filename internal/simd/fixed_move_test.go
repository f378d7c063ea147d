package simd

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// shorts draws numbers of 16 bits, many of them extreme.
func shorts(r *rand.Rand, n int) []int16 {
	x := make([]int16, n)
	for i := range x {
		switch x[i] = int16(r.Uint32()); r.IntN(8) {
		case 0:
			x[i] = math.MinInt16
		case 1:
			x[i] = math.MaxInt16
		}
	}
	return x
}

// TestTranspose16: all small sizes, rows apart, between guards.
func TestTranspose16(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		r := rand.New(rand.NewPCG(15, 16))
		for rows := range 27 {
			for cols := range 27 {
				srcStep, dstStep := cols+r.IntN(3), rows+r.IntN(3)
				src := shorts(r, rows*srcStep)
				got := between16(cols * dstStep)
				k.Transpose16(got[1:len(got)-1], dstStep, src, srcStep, rows, cols)
				for i, v := range got {
					want := int16(guard16)
					if c := (i - 1) / max(dstStep, 1); i > 0 && i < len(got)-1 && (i-1)%dstStep < rows {
						want = src[(i-1)%dstStep*srcStep+c]
					}
					if v != want {
						t.Fatalf("%d×%d, %d and %d apart: element %d is %d, want %d", rows, cols, srcStep, dstStep, i-1, v, want)
					}
				}
			}
		}
	})
}

// TestSlide16: windows of all widths against their definition; what is written
// behind a row lies before the next one and within the limit.
func TestSlide16(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		r := rand.New(rand.NewPCG(17, 18))
		for width := 1; width < 70; width++ {
			stride, rows := 1+r.IntN(2), 1+r.IntN(4)
			at := make([]int32, 1+r.IntN(9))
			for i := range at {
				at[i] = int32(r.IntN(40))
			}
			taps := NewTaps(at)
			xStep, zStep := r.IntN(100), width+r.IntN(3)
			x := shorts(r, (rows-1)*xStep+taps.last+SlideRead(width, stride))
			n := (rows-1)*zStep + SlideWrite(width)
			most, sums := between16(n), make([]int32, n+1)
			sums[n] = guard16
			k.SlideMax16(most[1:n+1], zStep, x, xStep, taps, rows, width, stride)
			k.SlideSum16(sums[:n], zStep, x, xStep, taps, rows, width, stride)
			guards16(t, most)
			if sums[n] != guard16 {
				t.Fatal("wrote behind the sums")
			}
			for row := range rows {
				for j := range width {
					large, sum := int16(math.MinInt16), int32(0)
					for _, o := range at {
						v := x[row*xStep+j*stride+int(o)]
						large, sum = max(large, v), sum+int32(v)
					}
					if a, b := most[1+row*zStep+j], sums[row*zStep+j]; a != large || b != sum {
						t.Fatalf("width %d, stride %d, row %d, window %d: %d and %d, want %d and %d", width, stride, row, j, a, b, large, sum)
					}
				}
			}
		}
	})
}

// TestGather32: vectors in any number of pieces.
func TestGather32(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		r := rand.New(rand.NewPCG(19, 20))
		c := k.FixedCirculant(4)
		var p Pieces
		for n := 1; n <= c.Lanes(); n++ {
			for range 20 {
				at := make([]int32, n)
				for i := range at {
					if i > 0 && r.IntN(4) > 0 {
						at[i] = at[i-1] + 1
					} else {
						at[i] = int32(r.IntN(50))
					}
				}
				vectors := make([]int32, 0)
				for i := range r.IntN(6) {
					vectors = append(vectors, int32(r.IntN(30)), int32(2*i))
				}
				src := make([]int32, 30+50+n)
				for i := range src {
					src[i] = int32(r.Uint32())
				}
				dst := make([]int32, 12*c.Lanes())
				want := slices.Clone(dst)
				for i := range dst {
					dst[i], want[i] = 7, 7
				}
				for i := 0; i < len(vectors); i += 2 {
					for l := range c.Lanes() {
						v := int32(0)
						if l < n {
							v = src[vectors[i]+at[l]]
						}
						want[int(vectors[i+1])*c.Lanes()+l] = v
					}
				}
				p.Set(c, at)
				c.Gather32(k, dst, src, NewVectors(vectors), &p)
				if !slices.Equal(dst, want) {
					t.Fatalf("places %v of vectors %v: %v, want %v", at, vectors, dst, want)
				}
			}
		}
	})
}

// TestSum16: short and long, with the extremes that fill 32 bits.
func TestSum16(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		r := rand.New(rand.NewPCG(23, 24))
		for _, n := range []int{0, 1, 15, 16, 17, 100, 1 << 16, 1<<17 + 5} {
			x, want := shorts(r, n), int64(0)
			if n >= 1<<16 {
				for i := range x {
					x[i] = math.MinInt16
				}
			}
			for _, v := range x {
				want += int64(v)
			}
			if got := k.Sum16(x); got != want {
				t.Fatalf("%d elements: %d, want %d", n, got, want)
			}
		}
	})
}

// TestEnergy16: the bound holds, and is close.
func TestEnergy16(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		r := rand.New(rand.NewPCG(21, 22))
		for n := range 300 {
			x := shorts(r, n)
			if n%3 == 0 {
				for i := range x {
					x[i] >>= r.IntN(16)
				}
			}
			if n%50 == 7 {
				for i := range x {
					x[i] = math.MinInt16
				}
			}
			most := int64(0)
			for i := 0; i < n; i += 16 {
				sum := int64(0)
				for _, v := range x[i:min(i+16, n)] {
					sum += int64(v) * int64(v)
				}
				most = max(most, sum)
			}
			if got := k.Energy16(x); got < most || got > most+16*8 {
				t.Fatalf("%d elements: %d for %d", n, got, most)
			}
		}
	})
}
