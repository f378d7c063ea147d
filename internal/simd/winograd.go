package simd

import "fmt"

// Convolution with 3×3 windows at stride 1 by F(2×2, 3×3): a tile of 2 × 2
// outputs reads 4 × 4 inputs d and takes 16 products a channel in place of 36,
//
//	Y = Aᵀ·[(G·g·Gᵀ) ⊙ (Bᵀ·d·B)]·A,
//
//	Bᵀ = ⎡1  0 −1  0⎤   G = ⎡ 1   0   0⎤   Aᵀ = ⎡1 1  1  0⎤
//	     ⎢0  1  1  0⎥       ⎢ ½   ½   ½⎥        ⎣0 1 −1 −1⎦
//	     ⎢0 −1  1  0⎥       ⎢ ½  −½   ½⎥
//	     ⎣0  1  0 −1⎦       ⎣ 0   0   1⎦
//
// with the products summed over the channels before Aᵀ: 16 products of
// matrices. Lavin, Gray: Fast algorithms for convolutional neural networks,
// 2015, section 4.1.

// WinogradInput computes Bᵀ·d·B for tiles whose windows begin two elements
// apart, in rows of tiles that begin two rows of x apart. Element (i, j) of
// tile t of row r goes to dst[(4i+j)·plane + r·tiles + t].
func (k *Kernels) WinogradInput(dst []float32, plane int, x []float32, xStep, rows, tiles int) {
	if rows <= 0 || tiles <= 0 {
		return
	}
	if reads := (2*rows+1)*xStep + 2*tiles + 2; xStep < 0 || plane < rows*tiles || reads > len(x) || 15*plane+rows*tiles > len(dst) {
		panic(fmt.Sprintf("simd: WinogradInput: %d×%d tiles read %d elements of %d into planes of %d, %d elements", rows, tiles, reads, len(x), plane, len(dst)))
	}
	k.conv.winogradInput(dst, plane, x, xStep, rows, tiles)
}

// WinogradOutput computes Aᵀ·y·A plus the bias, limited to [lo, hi] (NaN
// stays), from y as WinogradInput writes it: rows of z, zStep apart, height of
// them of width elements, which may be one less than twice the tiles.
func (k *Kernels) WinogradOutput(z []float32, zStep int, y []float32, plane, rows, tiles, height, width int, bias, lo, hi float32) {
	if rows <= 0 || tiles <= 0 {
		return
	}
	if (height+1)/2 != rows || (width+1)/2 != tiles || zStep < width || (height-1)*zStep+width > len(z) || plane < rows*tiles || 15*plane+rows*tiles > len(y) {
		panic(fmt.Sprintf("simd: WinogradOutput: %d×%d tiles in planes of %d, %d elements, for %d×%d elements, rows %d apart, of %d",
			rows, tiles, plane, len(y), height, width, zStep, len(z)))
	}
	k.conv.winogradOutput(z, zStep, y, plane, rows, tiles, height, width, bias, lo, hi)
}

func winogradInput(dst []float32, plane int, x []float32, xStep, rows, tiles int) {
	// across is d·B of one row.
	across := func(d0, d1, d2, d3 float32) [4]float32 { return [4]float32{d0 - d2, d1 + d2, d2 - d1, d1 - d3} }
	for r := range rows {
		for t := range tiles {
			var d [4][4]float32
			for i := range d {
				d[i] = [4]float32(x[(2*r+i)*xStep+2*t:])
			}
			for i, of := range [4][2]int{{0, 2}, {1, 2}, {2, 1}, {1, 3}} {
				a, b := d[of[0]], d[of[1]]
				if i == 1 {
					for j := range b {
						b[j] = -b[j]
					}
				}
				for j, v := range across(a[0]-b[0], a[1]-b[1], a[2]-b[2], a[3]-b[3]) {
					dst[(4*i+j)*plane+r*tiles+t] = v
				}
			}
		}
	}
}

func winogradOutput(z []float32, zStep int, y []float32, plane, rows, tiles, height, width int, bias, lo, hi float32) {
	for r := range rows {
		for t := range tiles {
			var a [2][4]float32
			for j := range 4 {
				var p [4]float32
				for i := range p {
					p[i] = y[(4*i+j)*plane+r*tiles+t]
				}
				a[0][j] = p[0] + p[1] + p[2]
				a[1][j] = p[1] - p[2] - p[3]
			}
			for i := range min(2, height-2*r) {
				b := a[i]
				pair := [2]float32{b[0] + b[1] + b[2], b[1] - b[2] - b[3]}
				for j := range min(2, width-2*t) {
					z[(2*r+i)*zStep+2*t+j] = limit(pair[j]+bias, lo, hi)
				}
			}
		}
	}
}

// WinogradWeights returns G·g·Gᵀ of weights [channels, depth, 3, 3], computed in
// float64 and rounded once, as 16 matrices [channels, depth].
func WinogradWeights(w []float32, channels, depth int) [16][]float32 {
	rows := func(g [3]float64) [4]float64 {
		return [4]float64{g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]}
	}
	var out [16][]float32
	for p := range out {
		out[p] = make([]float32, channels*depth)
	}
	for i := range channels * depth {
		var h [3][4]float64 // g·Gᵀ
		for r := range h {
			h[r] = rows([3]float64{float64(w[9*i+3*r]), float64(w[9*i+3*r+1]), float64(w[9*i+3*r+2])})
		}
		for c := range 4 {
			for r, v := range rows([3]float64{h[0][c], h[1][c], h[2][c]}) {
				out[4*r+c][i] = float32(v)
			}
		}
	}
	return out
}
