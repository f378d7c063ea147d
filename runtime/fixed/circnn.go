package fixed

import "github.com/onnx-lathe/lathe/internal/simd"

// The product with rounding as in CirCNN is for comparison and written plainly,
// token by token.

func half(v int32) int32 { return int32(Saturate(int64(v+1) >> 1)) }

// turn is (re + i·im)·(c + i·s), of 15 bits behind the point.
func turn(re, im, c, s int32) (int32, int32) {
	r := Round(int64(re)*int64(c)-int64(im)*int64(s), 15)
	i := Round(int64(im)*int64(c)+int64(re)*int64(s), 15)
	return int32(Saturate(r)), int32(Saturate(i))
}

// halved computes one token.
func (o *Circulant) halved(y, x []int16) {
	b := o.B
	var v, t [MaxBlock]int32
	hats := make([]int32, o.Q*b)
	for j := range o.Q {
		clear(v[:b])
		for i, a := range x[min(j*b, len(x)):min((j+1)*b, len(x))] {
			v[i] = int32(a)
		}
		halvedForward(v[:b], t[:b])
		for k, a := range v[:b] {
			hats[j*b+k] = max(a, -High)
		}
	}
	for i := range o.P {
		for k := range b {
			total := int64(o.Bias[i*b+k])
			for first := 0; first < o.Q; first += o.Group {
				var sum int64
				for j := first; j < min(first+o.Group, o.Q); j++ {
					w, h := o.W[(i*o.Q+j)*b:][:b], hats[j*b:][:b]
					re, im := k&^1, k|1
					switch {
					case k < 2:
						sum += int64(w[k]) * int64(h[k])
					case k == re:
						sum += int64(w[re])*int64(h[re]) - int64(w[im])*int64(h[im])
					default:
						sum += int64(w[re])*int64(h[im]) + int64(w[im])*int64(h[re])
					}
				}
				total += Round(sum, o.Shift)
			}
			v[k] = int32(Saturate(Round(total, int(o.S[i*(b/2+1)+Bin(k)]))))
		}
		halvedInverse(v[:b], t[:b])
		for a, w := range v[:b] {
			if i*b+a < len(y) {
				y[i*b+a] = int16(w)
			}
		}
	}
}

func halvedForward(v, t []int32) {
	n := len(v)
	if n == 2 {
		v[0], v[1] = half(v[0]+v[1]), half(v[0]-v[1])
		return
	}
	m := n / 2
	for i := range m {
		t[i], t[m+i] = v[2*i], v[2*i+1]
	}
	e, o := t[:m], t[m:n]
	halvedForward(e, v[:m])
	halvedForward(o, v[:m])
	v[0], v[1] = half(e[0]+o[0]), half(e[0]-o[0])
	v[m], v[m+1] = half(e[1]), half(-o[1])
	for f := 1; f < m/2; f++ {
		c, s := simd.FixedTwiddle(f, n)
		pr, pi := turn(o[2*f], o[2*f+1], c, -s)
		er, ei := e[2*f], e[2*f+1]
		v[2*f], v[2*f+1] = half(er+pr), half(ei+pi)
		v[n-2*f], v[n-2*f+1] = half(er-pr), half(pi-ei)
	}
}

func halvedInverse(v, t []int32) {
	n := len(v)
	if n == 2 {
		v[0], v[1] = half(v[0]+v[1]), half(v[0]-v[1])
		return
	}
	m := n / 2
	e, o := t[:m], t[m:n]
	e[0], o[0] = half(v[0]+v[1]), half(v[0]-v[1])
	e[1], o[1] = v[m], int32(Saturate(int64(-v[m+1])))
	for f := 1; f < m/2; f++ {
		c, s := simd.FixedTwiddle(f, n)
		ar, ai, br, bi := v[2*f], v[2*f+1], v[n-2*f], v[n-2*f+1]
		e[2*f], e[2*f+1] = half(ar+br), half(ai-bi)
		o[2*f], o[2*f+1] = turn(half(ar-br), half(ai+bi), c, s)
	}
	halvedInverse(e, v[:m])
	halvedInverse(o, v[:m])
	for i := range m {
		v[2*i], v[2*i+1] = e[i], o[i]
	}
}
