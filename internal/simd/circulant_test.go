package simd

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

var circulantSizes = []int{2, 3, 4, 5, 8, 12, 16, 32, 64, 128, 256, 512}

// eachCirculant runs f for every path and block size.
func eachCirculant(t *testing.T, f func(t *testing.T, c *Circulant, rng *rand.Rand)) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		for _, b := range circulantSizes {
			t.Run(fmt.Sprintf("b%d", b), func(t *testing.T) {
				f(t, k.Circulant(b), rand.New(rand.NewPCG(uint64(b), 1)))
			})
		}
	})
}

// The assembly paths have their own kernel for every power of two to 256.
func TestCirculantSelected(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		for b := 2; b <= 512; b *= 2 {
			c := k.Circulant(b)
			if want := k.Path() != Portable && b <= 256; (c.forward != nil) != want || (c.inverse != nil) != want {
				t.Errorf("b = %d: assembly for forward %v, inverse %v, want %v", b, c.forward != nil, c.inverse != nil, want)
			}
		}
	})
}

// transformError bounds the error of a transform of values of size 1: its
// result has size √b, and every one of log₂ b steps (b where the sum is taken as
// written) adds up to two random roundings of u = 2⁻²⁴, or u/√3 at the mean.
// Three times the sum is five standard deviations, as far as the largest of the
// elements of a test gets.
func transformError(b int) float64 {
	steps := math.Log2(float64(b))
	if b&(b-1) != 0 {
		steps = float64(b)
	}
	return 3 * 0x1p-24 * math.Sqrt(2*(steps+1)*float64(b))
}

func TestCirculantForward(t *testing.T) {
	eachCirculant(t, func(t *testing.T, c *Circulant, rng *rand.Rand) {
		b, lanes, planes := c.b, c.lanes, c.Planes()
		for groups := range 4 {
			for _, spare := range []int{0, 3} {
				ld := groups*c.Columns() + spare
				x := newGuarded(max(0, (lanes-1)*ld+groups*c.Columns()), spare)
				copy(x.s, randoms(rng, len(x.s)))
				blocks := groups * c.GroupBlocks()
				dst := newGuarded(blocks*planes*lanes, spare)
				scratch := newGuarded(c.Scratch(), spare)
				c.Forward(dst.s, x.s, ld, groups, scratch.s)
				x.check(t)
				dst.check(t)
				scratch.check(t)
				for j := range blocks {
					for f := range b/2 + 1 {
						for r := range lanes {
							var re, im float64
							for k, v := range x.s[r*ld+j*b:][:b] {
								sin, cos := sincosTurn(f*k%b, b)
								re += cos * float64(v)
								im -= sin * float64(v)
							}
							at := func(plane int) float64 { return float64(dst.s[(j*planes+plane)*lanes+r]) }
							check := func(name string, got, want float64) {
								bound := transformError(b)
								if name == "re+im" {
									bound *= math.Sqrt2
								}
								if !(math.Abs(got-want) <= bound) {
									t.Fatalf("%d groups: block %d, row %d, bin %d: %s = %g, want %g ± %g", groups, j, r, f, name, got, want, bound)
								}
							}
							switch {
							case f == 0:
								check("re", at(0), re)
							case 2*f == b:
								check("re", at(1), re)
							default:
								p := c.realBins() + 3*(f-1)
								check("re+im", at(p), re+im)
								check("re", at(p+1), re)
								check("im", at(p+2), im)
							}
						}
					}
				}
			}
		}
	})
}

func TestCirculantInverse(t *testing.T) {
	eachCirculant(t, func(t *testing.T, c *Circulant, rng *rand.Rand) {
		b, lanes, planes := c.b, c.lanes, c.Planes()
		for groups := range 4 {
			for _, spare := range []int{0, 3} {
				cols := groups * c.Columns()
				ld := cols + spare
				blocks := groups * c.GroupBlocks()
				src := randoms(rng, blocks*planes*lanes)
				kept := append([]float32(nil), src...)
				bias := randoms(rng, cols)
				y := newGuarded(max(0, (lanes-1)*ld+cols), spare)
				scratch := newGuarded(c.Scratch(), spare)
				c.Inverse(y.s, ld, src, bias, groups, scratch.s)
				y.check(t)
				scratch.check(t)
				for i, v := range y.s {
					if r, col := i/ld, i%ld; col >= cols {
						if math.Float32bits(v) != guardBits {
							t.Fatalf("wrote element %d, between rows", i)
						}
					} else {
						j, k := col/b, col%b
						at := func(plane int) float64 { return float64(kept[(j*planes+plane)*lanes+r]) }
						want := at(0) + float64(bias[col])
						if b%2 == 0 {
							want += at(1) * float64(1-2*(k%2))
						}
						for f := 1; 2*f < b; f++ {
							p := c.realBins() + 3*(f-1)
							re, im := at(p)-at(p+2), at(p)+at(p+1)
							sin, cos := sincosTurn(f*k%b, b)
							want += 2 * (cos*re - sin*im)
						}
						// Bins have size √2, and count twice.
						if d := math.Abs(float64(v) - want); !(d <= 3*transformError(b)) {
							t.Fatalf("%d groups: row %d, column %d is %g, want %g ± %g", groups, r, col, v, want, 3*transformError(b))
						}
					}
				}
			}
		}
	})
}

// The tile and the row product agree with the sums, and with each other to the
// bit, for every size of panel.
func TestCirculantProducts(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		for _, s := range []struct{ b, p, q int }{
			{2, 1, 1}, {2, 40, 37}, {3, 5, 4}, {4, 13, 70}, {5, 50, 9}, {8, 25, 33}, {8, 64, 2},
			{16, 1, 20}, {16, 2, 1}, {16, 3, 17}, {16, 4, 3}, {16, 7, 18}, {16, 11, 35}, {16, 12, 5}, {16, 27, 4}, {16, 90, 3},
		} {
			c := k.Circulant(s.b)
			rng := rand.New(rand.NewPCG(uint64(s.b), uint64(s.p*s.q)))
			planes, lanes, step := c.Planes(), c.lanes, c.Planes()*c.lanes
			spectra := randoms(rng, s.b*s.p*s.q)
			w := c.Pack(spectra, s.p, s.q)
			// Tiles of one and two halves.
			x := randoms(rng, 2*s.q*step+5)
			one, two := newGuarded(s.p*step, 1), newGuarded(2*s.p*step+8, 0)
			c.Products(one.s, 0, w, x, 0, 1)
			c.Products(two.s, s.p*step+8, w, x, s.q*step+5, 2)
			one.check(t)
			two.check(t)
			weight := func(plane, i, j int) float64 {
				at := func(k int) float64 { return float64(spectra[(k*s.p+i)*s.q+j]) }
				f, part := (plane-c.realBins())/3, (plane-c.realBins())%3
				re := c.realBins() + 2*f
				switch {
				case plane < c.realBins():
					return at(plane)
				case part == 0:
					return at(re)
				case part == 1:
					return at(re+1) - at(re)
				}
				return at(re) + at(re+1)
			}
			for i := range s.p {
				for plane := range planes {
					for half := range 2 {
						for l := range lanes {
							got := two.s[half*(s.p*step+8)+(i*planes+plane)*lanes+l]
							if o := one.s[(i*planes+plane)*lanes+l]; half == 0 && o != got {
								t.Fatalf("%+v: block %d, plane %d, lane %d: %g in one tile, %g in two", s, i, plane, l, o, got)
							}
							var want, size float64
							for j := range s.q {
								v := weight(plane, i, j) * float64(x[half*(s.q*step+5)+(j*planes+plane)*lanes+l])
								want += v
								size += math.Abs(v)
							}
							// q additions, and roundings of the weight and the product.
							if d := math.Abs(float64(got) - want); !(d <= 0x1p-24*float64(s.q+2)*size) {
								t.Fatalf("%+v: block %d, plane %d, lane %d of tile %d is %g, want %g", s, i, plane, l, half, got, want)
							}
						}
					}
				}
			}
			// The same numbers as one row: lane l of the first tile.
			const l = 3
			row := make([]float32, c.RowBlocks(s.q)*step)
			for i := range row {
				row[i] = math.Float32frombits(guardBits)
			}
			for j := range s.q {
				v, lane := c.rowBlock(j)
				for plane := range planes {
					row[(v*planes+plane)*lanes+lane] = x[(j*planes+plane)*lanes+l]
				}
			}
			y := newGuarded(c.RowBlocks(s.p)*step, 1)
			c.RowProduct(y.s, w, row)
			y.check(t)
			for i := range s.p {
				v, lane := c.rowBlock(i)
				for plane := range planes {
					got, want := y.s[(v*planes+plane)*lanes+lane], one.s[(i*planes+plane)*lanes+l]
					if math.Float32bits(got) != math.Float32bits(want) {
						t.Fatalf("%+v: block %d, plane %d: row product %g, tile %g", s, i, plane, got, want)
					}
				}
			}
		}
	})
}

func TestAlignLine(t *testing.T) {
	x := make([]float32, 64)
	for i := range 20 {
		a := AlignLine(x[i:])
		if d := len(x[i:]) - len(a); d < 0 || d > 15 || len(AlignLine(a)) != len(a) {
			t.Fatalf("dropped %d elements", d)
		}
	}
	if len(AlignLine(nil)) != 0 || len(AlignLine(x[:0])) != 0 {
		t.Fatal("an empty slice has elements")
	}
}
