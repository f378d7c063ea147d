package fixed

import "github.com/onnx-lathe/lathe/internal/simd"

// halved has the transforms with rounding as in CirCNN. They are for comparison
// and written plainly, block by block.
type halved struct{ *simd.FixedFFT }

func half(v int32) int32 { return int32(Saturate(int64(v+1) >> 1)) }

// turn is (re + i·im)·(c + i·s), of 15 bits behind the point.
func turn(re, im, c, s int32) (int32, int32) {
	r := Round(int64(re)*int64(c)-int64(im)*int64(s), 15)
	i := Round(int64(im)*int64(c)+int64(re)*int64(s), 15)
	return int32(Saturate(r)), int32(Saturate(i))
}

func (h halved) forward(dst []int16, capacity int, x []int16, blocks int) {
	b := h.Len()
	var v, t [MaxBlock]int32
	for u := range blocks {
		for i, a := range x[u*b : (u+1)*b] {
			v[i] = int32(a)
		}
		h.fwd(v[:b], t[:b])
		for k, a := range v[:b] {
			dst[h.Place(k, u, capacity)] = int16(a)
		}
	}
}

func (h halved) inverse(y []int16, src []int32, capacity, blocks int) {
	b := h.Len()
	var v, t [MaxBlock]int32
	for u := range blocks {
		for k := range b {
			v[k] = int32(Saturate(int64(src[h.Place(k, u, capacity)])))
		}
		h.inv(v[:b], t[:b])
		for i, a := range v[:b] {
			y[u*b+i] = int16(a)
		}
	}
}

func (h halved) fwd(v, t []int32) {
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
	h.fwd(e, v[:m])
	h.fwd(o, v[:m])
	v[0], v[1] = half(e[0]+o[0]), half(e[0]-o[0])
	v[m], v[m+1] = half(e[1]), half(-o[1])
	for f := 1; f < m/2; f++ {
		c, s := h.Twiddle(f, n)
		pr, pi := turn(o[2*f], o[2*f+1], c, -s)
		er, ei := e[2*f], e[2*f+1]
		v[2*f], v[2*f+1] = half(er+pr), half(ei+pi)
		v[n-2*f], v[n-2*f+1] = half(er-pr), half(pi-ei)
	}
}

func (h halved) inv(v, t []int32) {
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
		c, s := h.Twiddle(f, n)
		ar, ai, br, bi := v[2*f], v[2*f+1], v[n-2*f], v[n-2*f+1]
		e[2*f], e[2*f+1] = half(ar+br), half(ai-bi)
		o[2*f], o[2*f+1] = turn(half(ar-br), half(ai+bi), c, s)
	}
	h.inv(e, v[:m])
	h.inv(o, v[:m])
	for i := range m {
		v[2*i], v[2*i+1] = e[i], o[i]
	}
}
