package simd

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// offsets returns n distinct offsets below limit.
func offsets(rng *rand.Rand, n, limit int) []int32 {
	at := make([]int32, n)
	for i := range at {
		at[i] = int32(rng.IntN(limit))
	}
	return at
}

// TestConv compares with float64, for random taps and places, all sizes of
// groups, odd and even numbers of groups, blocks of all widths, with and
// without a sum and limits; elements between what is written stay, and
// nothing is read that is not under a window.
func TestConv(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		rng := rand.New(rand.NewPCG(1, 2))
		for _, channels := range []int{1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 47, 64, 70} {
			for pixels := 1; pixels <= k.ConvPixels(); pixels++ {
				depth, groups, step := rng.IntN(40), rng.IntN(6), 1+rng.IntN(3)
				name := fmt.Sprintf("%d channels, %d taps, %d groups of %d pixels", channels, depth, groups, pixels)
				taps := NewTaps(offsets(rng, depth, 50))
				zStep := groups*(pixels+2) + 1
				at := offsets(rng, 2*groups, 90)
				for g := range groups {
					at[2*g+1] = int32(g * (pixels + 2))
				}
				places := NewPlaces(at, pixels)
				// Only what is read is a number.
				x := newGuarded(90+50+3*pixels, rng.IntN(4))
				for g := range groups {
					for _, o := range taps.at {
						for p := range pixels {
							x.s[int(at[2*g]+o)+p*step] = float32(rng.NormFloat64())
						}
					}
				}
				if depth > 0 && groups > 0 { // no element behind the last that is read
					x.s = x.s[:places.lastX+taps.last+(pixels-1)*step+1]
				}
				w, bias := randoms(rng, channels*depth), randoms(rng, channels)
				end := Unlimited
				var add []float32
				size := channels * zStep
				if groups > 0 {
					size = (channels-1)*zStep + places.lastZ + pixels
				}
				if pixels%2 == 0 {
					add = randoms(rng, size)
					end = ConvEnd{add, -1.5, 2}
				}
				z := newGuarded(size, rng.IntN(4))
				packed := k.PackConv(w, bias, channels, depth)
				for b := range packed.Blocks() {
					first := b * 2 * k.ConvLanes() * zStep
					if add != nil {
						end.Add = add[first:]
					}
					half := rng.IntN(groups + 1)
					k.Conv(z.s[first:], zStep, x.s, step, taps, packed, b, places.Part(0, half), end)
					k.Conv(z.s[first:], zStep, x.s, step, taps, packed, b, places.Part(half, groups), end)
				}
				z.check(t)
				written := make([]bool, size)
				for c := range channels {
					for g := range groups {
						for p := range pixels {
							want, sum := float64(bias[c]), math.Abs(float64(bias[c]))
							for i, o := range taps.at {
								v := float64(w[c*depth+i]) * float64(x.s[int(at[2*g]+o)+p*step])
								want += v
								sum += math.Abs(v)
							}
							i := int(at[2*g+1]) + c*zStep + p
							if add != nil {
								want += float64(add[i])
								sum += math.Abs(float64(add[i]))
								want = min(max(want, -1.5), 2)
							}
							written[i] = true
							if err := math.Abs(float64(z.s[i]) - want); !(err <= float64(depth+3)*0x1p-24*1.0001*sum) {
								t.Fatalf("%s: channel %d, group %d, pixel %d is %v, want %v", name, c, g, p, z.s[i], want)
							}
						}
					}
				}
				for i, v := range z.s {
					if !written[i] && math.Float32bits(v) != guardBits {
						t.Fatalf("%s: element %d was written", name, i)
					}
				}
			}
		}
	})
}

// TestConvPlaces: the bits of a pixel do not depend on its group, and the
// paths of assembly agree.
func TestConvPlaces(t *testing.T) {
	const width, depth, channels = 23, 45, 20
	rng := rand.New(rand.NewPCG(3, 4))
	taps := NewTaps(offsets(rng, depth, 30))
	x, w, bias := randoms(rng, width+30), randoms(rng, channels*depth), randoms(rng, channels)
	var assembly []float32
	eachPath(t, func(t *testing.T, k *Kernels) {
		var first []float32
		for size := 1; size <= k.ConvPixels(); size++ {
			z := make([]float32, channels*width)
			var full, rest []int32
			for p := 0; p < width; p += size {
				p = min(p, width-size) // the last two overlap
				full = append(full, int32(p), int32(p))
			}
			rest = append(rest, full[:2]...)
			packed := k.PackConv(w, bias, channels, depth)
			for b := range packed.Blocks() {
				k.Conv(z[b*2*k.ConvLanes()*width:], width, x, 1, taps, packed, b, NewPlaces(full, size), Unlimited)
				k.Conv(z[b*2*k.ConvLanes()*width:], width, x, 1, taps, packed, b, NewPlaces(rest, size), Unlimited)
			}
			if first == nil {
				first = z
			}
			if !slices.Equal(z, first) {
				t.Errorf("groups of %d pixels give other bits", size)
			}
		}
		if k.Path() == Portable {
			return
		}
		if assembly == nil {
			assembly = first
		}
		if !slices.Equal(assembly, first) {
			t.Errorf("other bits than the path before")
		}
	})
}

// TestConvLimits: NaN and infinities go through, zeros of both signs too.
func TestConvLimits(t *testing.T) {
	inf := float32(math.Inf(1))
	eachPath(t, func(t *testing.T, k *Kernels) {
		x := []float32{float32(math.NaN()), inf, -inf, 3, -3}
		w := k.PackConv([]float32{1}, nil, 1, 1)
		for i, v := range x {
			z := make([]float32, 1)
			for _, add := range [][]float32{nil, {0}} {
				k.Conv(z, 1, x[i:], 1, NewTaps([]int32{0}), w, 0, NewPlaces([]int32{0, 0}, 1), ConvEnd{add, 0, 2})
				if want := min(max(v, 0), 2); z[0] != want && !(v != v && z[0] != z[0]) {
					t.Errorf("%v within [0, 2] is %v", v, z[0])
				}
			}
			k.SlideConv(z, 1, x[i:i+1], 1, NewTaps([]int32{0}), 1, 1, 1, []float32{1}, 0, 0, 2)
			if want := min(max(v, 0), 2); z[0] != want && !(v != v && z[0] != z[0]) {
				t.Errorf("SlideConv: %v within [0, 2] is %v", v, z[0])
			}
		}
	})
}

// TestSlide: the three windows against their definitions, for both strides and
// all widths that leave part vectors.
func TestSlide(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		rng := rand.New(rand.NewPCG(5, 6))
		for width := range 70 {
			for stride := 1; stride <= SlideStrides; stride++ {
				rows, n := rng.IntN(10), rng.IntN(12)
				taps := NewTaps(offsets(rng, n, 20))
				xStep, zStep := width*stride+rng.IntN(3), width+rng.IntN(3)
				if rows > 0 && width > 0 && n > 0 { // no element behind the last that is read
					n = (rows-1)*xStep + taps.last + (width-1)*stride + 1
				}
				g := newGuarded(n, rng.IntN(4))
				x := g.s
				copy(x, randoms(rng, n))
				if len(x) > 30 {
					x[rng.IntN(len(x))] = float32(math.NaN())
				}
				w, bias := randoms(rng, taps.Len()), float32(rng.NormFloat64())
				for op := range 3 {
					z := newGuarded(rows*zStep, rng.IntN(4))
					switch op {
					case 0:
						k.SlideConv(z.s, zStep, x, xStep, taps, rows, width, stride, w, bias, -2, 2)
					case 1:
						k.SlideMax(z.s, zStep, x, xStep, taps, rows, width, stride)
					case 2:
						k.SlideSum(z.s, zStep, x, xStep, taps, rows, width, stride)
					}
					z.check(t)
					for r := range rows {
						for j := range zStep {
							got := z.s[r*zStep+j]
							if j >= width {
								if math.Float32bits(got) != guardBits {
									t.Fatalf("wrote between rows")
								}
								continue
							}
							sum, high, size := 0.0, math.Inf(-1), math.Abs(float64(bias))
							if op == 0 {
								sum = float64(bias)
							}
							for i, o := range taps.at {
								v := float64(x[r*xStep+int(o)+j*stride])
								high = max(high, v)
								if op == 0 {
									v *= float64(w[i])
								}
								sum += v
								size += math.Abs(v)
							}
							want, bound := sum, float64(taps.Len()+2)*0x1p-24*size
							switch op {
							case 0:
								want = min(max(sum, -2), 2)
							case 1:
								want, bound = high, 0
							}
							if err := math.Abs(float64(got) - want); !(err <= bound) && float64(got) != want && !(got != got && want != want) {
								t.Fatalf("op %d, %d taps, %d×%d at stride %d: element %d, %d is %v, want %v", op, taps.Len(), rows, width, stride, r, j, got, want)
							}
						}
					}
				}
			}
		}
	})
}

// TestPadRows: rows of all widths, with the copied part anywhere in them.
func TestPadRows(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		rng := rand.New(rand.NewPCG(7, 8))
		for width := range 70 {
			rows := rng.IntN(5)
			lead := rng.IntN(width + 1)
			copied := rng.IntN(width - lead + 1)
			dstStep, srcStep := width+rng.IntN(3), copied+rng.IntN(3)
			src := newGuarded(max(0, (rows-1)*srcStep+copied), rng.IntN(4))
			copy(src.s, randoms(rng, len(src.s)))
			dst := newGuarded(rows*dstStep, rng.IntN(4))
			k.PadRows(dst.s, dstStep, src.s, srcStep, rows, width, lead, copied, -3)
			dst.check(t)
			for i, v := range dst.s {
				r, j := i/dstStep, i%dstStep
				switch {
				case j >= width:
					if math.Float32bits(v) != guardBits {
						t.Fatalf("wrote between rows")
					}
				case j >= lead && j < lead+copied:
					if want := src.s[r*srcStep+j-lead]; v != want {
						t.Fatalf("%d of %d at %d: element %d of row %d is %v, want %v", copied, width, lead, j, r, v, want)
					}
				case v != -3:
					t.Fatalf("%d of %d at %d: element %d of row %d is %v, want -3", copied, width, lead, j, r, v)
				}
			}
		}
	})
}

func TestConvMisuse(t *testing.T) {
	k := Best()
	x, z := make([]float32, 10), make([]float32, 10)
	w := k.PackConv(make([]float32, 2), nil, 1, 2)
	taps, places := NewTaps([]int32{0, 5}), NewPlaces([]int32{2, 3}, 2)
	for name, f := range map[string]func(){
		"reads behind x":    func() { k.Conv(z, 1, x[:8], 1, taps, w, 0, places, Unlimited) },
		"writes behind z":   func() { k.Conv(z[:4], 1, x, 1, taps, w, 0, places, Unlimited) },
		"short sum":         func() { k.Conv(z, 1, x, 1, taps, w, 0, places, ConvEnd{Add: z[:4]}) },
		"other taps":        func() { k.Conv(z, 1, x, 1, NewTaps([]int32{0}), w, 0, places, Unlimited) },
		"group too large":   func() { k.Conv(z, 1, x, 1, taps, w, 0, NewPlaces([]int32{0, 0}, 99), Unlimited) },
		"negative offset":   func() { NewTaps([]int32{-1}) },
		"stride of three":   func() { k.SlideMax(z, 1, x, 1, taps, 1, 1, 3) },
		"window behind x":   func() { k.SlideSum(z, 4, x, 4, taps, 1, 6, 1) },
		"pixels behind z":   func() { k.SlideSum(z[:3], 4, x, 4, taps, 1, 4, 1) },
		"too few weights":   func() { k.SlideConv(z, 4, x, 4, taps, 1, 4, 1, []float32{1}, 0, 0, 1) },
		"negative places":   func() { NewPlaces([]int32{0, -1}, 1) },
		"padding too long":  func() { k.PadRows(z, 3, x, 3, 2, 3, 2, 2, 0) },
		"rows behind src":   func() { k.PadRows(z, 3, x[:2], 3, 2, 3, 0, 3, 0) },
		"weights too short": func() { k.PackConv(x, nil, 3, 4) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}
