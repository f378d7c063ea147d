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
			want := k.Path() != Portable && b <= 256
			for name, has := range map[string]bool{"forward": c.forward != nil, "inverse": c.inverse != nil,
				"forwardImage": c.forwardImage != nil, "inverseImage": c.inverseImage != nil} {
				if has != want {
					t.Errorf("b = %d: assembly for %s: %v, want %v", b, name, has, want)
				}
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

// rowsOf are the ways in which the rows of a tile lie: tokens one after the other,
// pairs of groups, equal pairs, and parts of one token.
func rowsOf(c *Circulant, groups int) []Rows {
	cols := c.Columns()
	ld := groups * cols
	return []Rows{
		{Odd: ld, Pair: 2 * ld, Group: cols},
		{Odd: ld + 3, Pair: 2*ld + 6, Group: cols},
		{Odd: cols, Pair: 2*ld + 1, Group: 2 * cols},
		{Odd: 0, Pair: ld, Group: cols},
		{Odd: cols, Pair: 2 * cols, Group: c.lanes * cols},
	}
}

func TestCirculantForward(t *testing.T) {
	eachCirculant(t, func(t *testing.T, c *Circulant, rng *rand.Rand) {
		b, lanes, pitch := c.b, c.lanes, c.Pitch()
		for groups := range 4 {
			for spare, rows := range rowsOf(c, groups) {
				x := newGuarded(max(0, rows.at(lanes-1)+(groups-1)*rows.Group+c.Columns()), spare)
				copy(x.s, randoms(rng, len(x.s)))
				blocks := groups * c.GroupBlocks()
				dst := newGuarded(blocks*pitch*lanes, spare)
				scratch := newGuarded(c.Scratch(), spare)
				c.Forward(dst.s, x.s, rows, groups, scratch.s)
				x.check(t)
				dst.check(t)
				scratch.check(t)
				for j := range blocks {
					for f := range b/2 + 1 {
						for r := range lanes {
							var re, im float64
							for k, v := range x.s[rows.at(r)+j/c.GroupBlocks()*rows.Group+j%c.GroupBlocks()*b:][:b] {
								sin, cos := sincosTurn(f*k%b, b)
								re += cos * float64(v)
								im -= sin * float64(v)
							}
							at := func(plane int) float64 { return float64(dst.s[(j*pitch+plane)*lanes+r]) }
							check := func(name string, got, want float64) {
								if bound := transformError(b); !(math.Abs(got-want) <= bound) {
									t.Fatalf("%d groups, %+v: block %d, row %d, bin %d: %s = %g, want %g ± %g", groups, rows, j, r, f, name, got, want, bound)
								}
							}
							switch {
							case f == 0:
								check("re", at(0), re)
							case 2*f == b:
								check("re", at(1), re)
							default:
								p := c.realBins() + 2*(f-1)
								check("re", at(p), re)
								check("im", at(p+1), im)
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
		b, lanes, pitch := c.b, c.lanes, c.Pitch()
		for groups := range 4 {
			for spare, rows := range rowsOf(c, groups) {
				if rows.Odd == 0 && groups > 0 {
					continue // nothing to write
				}
				cols, blocks := c.Columns(), groups*c.GroupBlocks()
				biasOdd := spare
				src := randoms(rng, blocks*pitch*lanes)
				kept := append([]float32(nil), src...)
				bias := randoms(rng, max(0, (groups-1)*rows.Group+biasOdd+cols))
				y := newGuarded(max(0, rows.at(lanes-1)+(groups-1)*rows.Group+cols), spare)
				scratch := newGuarded(c.Scratch(), spare)
				c.Inverse(y.s, rows, src, bias, biasOdd, groups, scratch.s)
				y.check(t)
				scratch.check(t)
				written := make([]bool, len(y.s))
				for r := range lanes {
					for j := range blocks {
						group := j / c.GroupBlocks() * rows.Group
						first := j % c.GroupBlocks() * b
						for k := range b {
							at := func(plane int) float64 { return float64(kept[(j*pitch+plane)*lanes+r]) }
							want := at(0) + float64(bias[group+first+k+r%2*biasOdd])
							if b%2 == 0 {
								want += at(1) * float64(1-2*(k%2))
							}
							for f := 1; 2*f < b; f++ {
								p := c.realBins() + 2*(f-1)
								re, im := at(p), at(p+1)
								sin, cos := sincosTurn(f*k%b, b)
								want += 2 * (cos*re - sin*im)
							}
							i := rows.at(r) + group + first + k
							written[i] = true
							// Bins have size √2, and count twice.
							if d := math.Abs(float64(y.s[i]) - want); !(d <= 3*transformError(b)) {
								t.Fatalf("%d groups, %+v: row %d, block %d, element %d is %g, want %g ± %g", groups, rows, r, j, k, y.s[i], want, 3*transformError(b))
							}
						}
					}
				}
				for i, v := range y.s {
					if !written[i] && math.Float32bits(v) != guardBits {
						t.Fatalf("%d groups, %+v: wrote element %d, between rows", groups, rows, i)
					}
				}
			}
		}
	})
}

// pixelCounts are numbers of pixels: less than a vector, whole ones, and a rest.
func pixelCounts(c *Circulant) []int {
	return []int{0, 1, c.lanes - 1, c.lanes, c.lanes + 1, 3*c.lanes - 2}
}

// written fails where a kernel wrote between the first n elements of the planes
// of x, step apart.
func written(t *testing.T, x []float32, step, n int) {
	t.Helper()
	for i, v := range x {
		if i%step >= n && math.Float32bits(v) != guardBits {
			t.Fatalf("wrote element %d, behind the %d pixels of a plane", i, n)
		}
	}
}

func TestCirculantForwardImage(t *testing.T) {
	eachCirculant(t, func(t *testing.T, c *Circulant, rng *rand.Rand) {
		b, planes := c.b, c.Multiplications()
		for spare, n := range pixelCounts(c) {
			xStep, step := n+spare, n+2*spare+1
			x := newGuarded(max(0, (b-1)*xStep+n), spare)
			copy(x.s, randoms(rng, len(x.s)))
			dst, scratch := newGuarded((planes-1)*step+n, spare+1), newGuarded(c.ImageScratch(), spare)
			c.ForwardImage(dst.s, step, x.s, xStep, n, scratch.s)
			x.check(t)
			dst.check(t)
			scratch.check(t)
			written(t, dst.s, step, n)
			for r := range n {
				for f := range b/2 + 1 {
					var re, im float64
					for k := range b {
						sin, cos := sincosTurn(f*k%b, b)
						re += cos * float64(x.s[k*xStep+r])
						im -= sin * float64(x.s[k*xStep+r])
					}
					check := func(plane int, want, times float64) {
						if got := float64(dst.s[plane*step+r]); !(math.Abs(got-want) <= times*transformError(b)) {
							t.Fatalf("%d pixels: pixel %d, plane %d is %g, want %g ± %g", n, r, plane, got, want, times*transformError(b))
						}
					}
					switch {
					case f == 0:
						check(0, re, 1)
					case 2*f == b:
						check(1, re, 1)
					default:
						p := c.realBins() + 3*(f-1)
						check(p, re+im, math.Sqrt2)
						check(p+1, re, 1)
						check(p+2, im, 1)
					}
				}
			}
			if n > 0 { // a pixel alone has the same bits
				at := n / 2
				alone := make([]float32, planes)
				c.ForwardImage(alone, 1, x.s[at:], xStep, 1, scratch.s)
				for k, v := range alone {
					if math.Float32bits(v) != math.Float32bits(dst.s[k*step+at]) {
						t.Fatalf("%d pixels: pixel %d, plane %d is %g, alone %g", n, at, k, dst.s[k*step+at], v)
					}
				}
			}
		}
	})
}

func TestCirculantInverseImage(t *testing.T) {
	inf := float32(math.Inf(1))
	eachCirculant(t, func(t *testing.T, c *Circulant, rng *rand.Rand) {
		b, planes := c.b, c.Multiplications()
		for spare, n := range pixelCounts(c) {
			step, yStep := n+spare, n+2*spare+1
			src, bias := randoms(rng, (planes-1)*step+n), randoms(rng, b)
			kept := append([]float32(nil), src...)
			for _, limits := range [][2]float32{{-inf, inf}, {0, inf}, {-0.5, 0.75}} {
				y, scratch := newGuarded((b-1)*yStep+n, spare), newGuarded(c.ImageScratch(), spare)
				c.InverseImage(y.s, yStep, src, step, n, bias, limits[0], limits[1], scratch.s)
				y.check(t)
				scratch.check(t)
				written(t, y.s, yStep, n)
				for r := range n {
					for k := range b {
						at := func(plane int) float64 { return float64(kept[plane*step+r]) }
						want := at(0) + float64(bias[k])
						if b%2 == 0 {
							want += at(1) * float64(1-2*(k%2))
						}
						for f := 1; 2*f < b; f++ {
							p := c.realBins() + 3*(f-1)
							sin, cos := sincosTurn(f*k%b, b)
							want += 2 * (cos*(at(p)-at(p+2)) - sin*(at(p)+at(p+1)))
						}
						want = min(max(want, float64(limits[0])), float64(limits[1]))
						if d := math.Abs(float64(y.s[k*yStep+r]) - want); !(d <= 3*transformError(b)) {
							t.Fatalf("%d pixels in %v: pixel %d, element %d is %g, want %g ± %g", n, limits, r, k, y.s[k*yStep+r], want, 3*transformError(b))
						}
					}
				}
				if n == 0 {
					continue
				}
				src := append([]float32(nil), kept...)
				src[n/2] = float32(math.NaN()) // in the plane of bin 0: reaches all of the pixel, and no other
				c.InverseImage(y.s, yStep, src, step, n, bias, limits[0], limits[1], scratch.s)
				for i, v := range y.s {
					if i%yStep < n && (v != v) != (i%yStep == n/2) {
						t.Fatalf("%d pixels in %v: element %d is %g with NaN in pixel %d", n, limits, i, v, n/2)
					}
				}
			}
		}
	})
}

// The products of tiles, of pairs and of one row agree with the sums, and with
// each other to the bit, for every size of panel.
func TestCirculantProducts(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		for _, s := range []struct{ b, p, q int }{
			{2, 1, 1}, {2, 40, 37}, {2, 300, 3}, {3, 5, 4}, {4, 13, 70}, {4, 130, 2}, {5, 50, 9}, {8, 25, 33}, {8, 64, 2}, {8, 67, 3},
			{16, 1, 20}, {16, 2, 1}, {16, 3, 17}, {16, 4, 3}, {16, 7, 18}, {16, 11, 35}, {16, 12, 5}, {16, 19, 2}, {16, 22, 3}, {16, 27, 4}, {16, 90, 3},
		} {
			testCirculantProducts(t, k.Circulant(s.b), s.p, s.q)
		}
	})
}

func testCirculantProducts(t *testing.T, c *Circulant, p, q int) {
	rng := rand.New(rand.NewPCG(uint64(c.b), uint64(p*q)))
	planes, pitch, lanes, step, u := c.b, c.Pitch(), c.lanes, c.Pitch()*c.lanes, c.GroupBlocks()
	what := fmt.Sprintf("b = %d, %d×%d", c.b, p, q)
	spectra := randoms(rng, c.b*p*q)
	w := c.Pack(spectra, p, q)
	x := randoms(rng, q*step)

	check := func(i, plane, l int, got float32) {
		var want, bound float64
		// term adds the product of a weight and an input. A sum of q products has the
		// roundings of q additions, of the product, and those of the two factors: d has
		// one in s, of at most 2, and two more. The sum that joins two has another.
		term := func(w, x float64) {
			want += w * x
			bound += (math.Abs(w)*float64(q+5) + 2) * math.Abs(x)
		}
		for j := range q {
			weight := func(plane int) float64 { return float64(spectra[(plane*p+i)*q+j]) }
			input := func(plane int) float64 { return float64(x[(j*pitch+plane)*lanes+l]) }
			if plane < c.realBins() {
				term(weight(plane), input(plane))
				continue
			}
			re := plane - (plane-c.realBins())%2
			wr, wi, xr, xi := weight(re), weight(re+1), input(re), input(re+1)
			term(wr, xr+xi)
			if plane == re {
				term(-wr-wi, xi)
			} else {
				term(wi-wr, xr)
			}
		}
		if d := math.Abs(float64(got) - want); !(d <= 0x1p-24*bound) {
			t.Fatalf("%s: block %d, plane %d, lane %d is %g, want %g", what, i, plane, l, got, want)
		}
	}
	// pairs calls f for every number of a tile of pairs that is of a block: the
	// pair's half s of lane l is block i.
	pairs := func(part CirculantPart, y []float32, f func(i, plane, pair int, v float32)) {
		for g := range part.Groups {
			for s := range u {
				i := (part.First+g)*u + s
				for plane := range planes {
					for pair := range lanes / 2 {
						if i < p {
							f(i, plane, pair, y[((g/2*u+s)*pitch+plane)*lanes+2*pair+g%2])
						}
					}
				}
			}
		}
	}
	sums := make([]float32, p*step)
	groups := 0
	for _, part := range w.Tiles {
		half := (part.Groups + 1) / 2 * u * step
		y := newGuarded(2*half+8, 1)
		c.Products(y.s, half+8, w, part, x)
		y.check(t)
		for h := range 2 {
			pairs(part, y.s[h*(half+8):], func(i, plane, pair int, v float32) {
				check(i, plane, 2*pair+h, v)
				sums[(i*pitch+plane)*lanes+2*pair+h] = v
			})
		}
		groups += part.Groups
	}
	if want := (p + u - 1) / u; groups != want {
		t.Fatalf("%s: parts have %d groups, want %d", what, groups, want)
	}

	// The same numbers in pairs: tokens Lanes/2 … of the tile.
	double := make([]float32, len(x))
	for i := range double {
		double[i] = x[i/lanes*lanes+lanes/2+i%lanes/2]
	}
	for _, part := range w.Pairs {
		y := newGuarded((part.Groups+1)/2*u*step, 2)
		c.PairProducts(y.s, w, part, double)
		y.check(t)
		pairs(part, y.s, func(i, plane, pair int, v float32) {
			if s := sums[(i*pitch+plane)*lanes+lanes/2+pair]; math.Float32bits(s) != math.Float32bits(v) {
				t.Fatalf("%s: block %d, plane %d: pairs %g, tile %g", what, i, plane, v, s)
			}
		})
	}

	// And one by one: token 3 of the tile.
	const l = 3
	row := make([]float32, c.RowBlocks(q)*step)
	for i := range row {
		row[i] = math.Float32frombits(guardBits)
	}
	at := func(block, plane int) int {
		group := block / u
		return ((group/lanes*u+block%u)*pitch+plane)*lanes + group%lanes
	}
	for j := range q {
		for plane := range planes {
			row[at(j, plane)] = x[(j*pitch+plane)*lanes+l]
		}
	}
	y := newGuarded(c.RowBlocks(p)*step, 1)
	c.AskRow(w)
	c.RowProduct(y.s, w, row)
	y.check(t)
	for i := range p {
		for plane := range planes {
			if got, want := y.s[at(i, plane)], sums[(i*pitch+plane)*lanes+l]; math.Float32bits(got) != math.Float32bits(want) {
				t.Fatalf("%s: block %d, plane %d: row product %g, tile %g", what, i, plane, got, want)
			}
		}
	}
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
