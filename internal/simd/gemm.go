package simd

import "fmt"

// Mat is a view of a matrix: element (i, j) is Data[i·RowStride + j·ColStride],
// strides in elements and not negative. Swapping the strides transposes it.
type Mat struct {
	Data                 []float32
	RowStride, ColStride int
}

// RowMajor returns the view of a row-major matrix whose rows are ld apart.
func RowMajor(data []float32, ld int) Mat { return Mat{data, ld, 1} }

// T returns the transpose of a.
func (a Mat) T() Mat { return Mat{a.Data, a.ColStride, a.RowStride} }

// need panics unless a has rows × cols elements.
func (a Mat) need(op string, rows, cols int) {
	if rows < 0 || cols < 0 || a.RowStride < 0 || a.ColStride < 0 {
		panic(fmt.Sprintf("simd: %s: matrix of %d×%d elements with strides %d, %d", op, rows, cols, a.RowStride, a.ColStride))
	}
	if rows == 0 || cols == 0 {
		return
	}
	if n := (rows-1)*a.RowStride + (cols-1)*a.ColStride + 1; n > len(a.Data) {
		panic(fmt.Sprintf("simd: %s: matrix of %d×%d elements with strides %d, %d takes %d elements, slice has %d",
			op, rows, cols, a.RowStride, a.ColStride, n, len(a.Data)))
	}
}

// Packed is a right-hand matrix B [k, n] in the order in which the kernels of
// one path read it: panels of columns, each panel row by row. The last panel is
// padded. See [Kernels.PackB], and [Kernels.Room] for one that grows.
type Packed struct {
	data  []float32
	k, n  int
	depth int // rows that a panel has room for
	room  int // columns that there is room for, which the panels are cut from
	ld    int // not in panels: B lies row by row, ld apart; 0: in panels
	lanes int // columns of one vector
	vecs  int // vectors of a full panel
}

// Dims returns the numbers of rows (k) and columns (n) of B.
func (b Packed) Dims() (k, n int) { return b.k, b.n }

// Split returns part i of parts parts of B, a range of its columns, and the
// column at which it starts. Parts may be empty (n = 0) when there are few
// columns. [Kernels.Gemm] over all parts gives the bits of Gemm over B.
func (b Packed) Split(i, parts int) (part Packed, col int) {
	panels := (b.n + b.lanes*b.vecs - 1) / (b.lanes * b.vecs)
	if b.panelCol(panels) < b.n {
		panels++ // the last two of the room are narrower
	}
	lo, hi := b.panelCol(panels*i/parts), b.panelCol(panels*(i+1)/parts)
	part = b
	part.n, part.room = hi-lo, hi-lo
	if hi == b.n {
		part.room = b.room - lo
	}
	if b.ld != 0 {
		part.data = b.data[min(lo, len(b.data)):]
	} else {
		part.data = b.data[lo*b.depth : (lo+roundUp(part.room, b.lanes))*b.depth]
	}
	return part, lo
}

// panelCol returns the first column of panel i, n for the panel after the last.
func (b Packed) panelCol(i int) int {
	col := i * b.lanes * b.vecs
	if b.room-col <= b.lanes && col < b.room && i > 0 && b.vecs == 3 {
		col -= b.lanes // see panelWidth
	}
	return min(col, b.n)
}

// panelWidth returns the width of the panel that starts at column col. Panels
// are full but for the last ones: where a single vector would be left after a
// full panel of three, the two share the four vectors evenly.
func (b Packed) panelWidth(col int) int {
	left := (b.room - col + b.lanes - 1) / b.lanes
	v := min(left, b.vecs)
	if left == 4 && b.vecs == 3 {
		v = 2
	}
	return v * b.lanes
}

// roundUp returns the smallest multiple of unit that is at least n.
func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }

// gemmKernels is what a path brings to matrix multiplication.
type gemmKernels struct {
	lanes   int // columns of one vector
	maxVecs int // vectors of a full panel
	maxRows int // rows of a full tile

	// tile computes one tile of C = A·B of rows × cols elements, rows ≤ maxRows
	// and cols ≤ width, which is cols in whole vectors; the rows of b are ldb
	// apart; see [gemmTile]. Arguments are plain so that a call through this
	// field allocates nothing.
	tile func(c []float32, ldc int, a []float32, aRow, aCol int, b []float32, ldb, k int, bias []float32, rows, cols, width int, load bool)

	// transpose copies rows of src, group of them, into columns of dst; see
	// [transpose4]. A vector holds a multiple of group columns.
	transpose func(dst []float32, width int, src []float32, stride, k int)
	group     int
}

// PackedLen returns the number of elements that [Kernels.PackInto] wants for a
// matrix B [k, n].
func (kn *Kernels) PackedLen(k, n int) int {
	return roundUp(n, kn.gemm.lanes) * k
}

// PackB copies B [k, n] into a form for [Kernels.Gemm] of the same path. A
// matrix of weights is packed once, when a model is compiled; pass a transposed
// view for weights stored as [n, k].
func (kn *Kernels) PackB(b Mat, k, n int) Packed {
	return kn.PackInto(kn.store.Get(kn.PackedLen(k, n)), b, k, n)
}

// PackInto is [Kernels.PackB] into the caller's memory, of at least
// [Kernels.PackedLen] elements, which the result keeps a reference to. It
// allocates nothing; use it for products of two activations.
func (kn *Kernels) PackInto(buf []float32, b Mat, k, n int) Packed {
	b.need("PackInto", k, n)
	size := kn.PackedLen(k, n)
	if len(buf) < size {
		panic(fmt.Sprintf("simd: PackInto: buffer of %d elements, want PackedLen = %d", len(buf), size))
	}
	p := Packed{data: buf[:size], k: k, n: n, depth: k, room: n, lanes: kn.gemm.lanes, vecs: kn.gemm.maxVecs}
	for col := 0; col < n && k > 0; {
		width := p.panelWidth(col)
		cols := min(width, n-col)
		dst := p.data[col*k : (col+width)*k]
		src := b.Data[col*b.ColStride:]
		switch {
		case b.ColStride == 1:
			for i := range k {
				row := dst[i*width : (i+1)*width]
				copy(row, src[i*b.RowStride:i*b.RowStride+cols])
				clear(row[cols:])
			}
		default:
			j := 0
			if b.RowStride == 1 { // weights stored as [n, k], keys of attention
				for ; j+kn.gemm.group <= cols; j += kn.gemm.group {
					kn.gemm.transpose(dst[j:], width, src[j*b.ColStride:], b.ColStride, k)
				}
			}
			for ; j < cols; j++ {
				for i := range k {
					dst[i*width+j] = src[j*b.ColStride+i*b.RowStride]
				}
			}
			for i := range k {
				clear(dst[i*width+cols : (i+1)*width])
			}
		}
		col += width
	}
	return p
}

const (
	// gemmKC is the depth of a block: a panel of gemmKC × 48 elements (72 KiB)
	// and a tile of A stay in the caches next to the core.
	gemmKC = 384
	// gemmMC is the most that a block is high: gemmMC × gemmKC elements of A (384
	// KiB) stay in a level-two cache while all panels of B pass by. Blocks are as
	// equal as can be.
	gemmMC = 256
)

// Gemm computes C = A·B, + C when accumulate is set, + bias in every row when
// bias is not nil. A is [m, k] with any strides, B is [k, n] packed by the same
// path, bias is [n], and C is [m, n] row-major with rows ldc apart; elements of c
// between rows are not touched. c must not overlap the operands.
//
// Every element is one chain of multiply-adds in the order of k, whatever the
// size of the matrices and its place in them, and then the bias: a caller may
// split rows (slices of A and C) or columns ([Packed.Split]) between threads and
// gets the same bits. The assembly paths round once a step and give the same
// bits as each other, portable code rounds products too. For a sum of k products
// the error is at most k·2⁻²⁴ (assembly) or (k+1)·2⁻²⁴ (portable) of
// Σ|a·b| in first order (Higham, Accuracy and Stability, section 3.1).
func (kn *Kernels) Gemm(c []float32, ldc int, a Mat, m int, b Packed, bias []float32, accumulate bool) {
	k, n := b.k, b.n
	if b.lanes != kn.gemm.lanes || b.vecs != kn.gemm.maxVecs {
		panic("simd: Gemm: B was packed for another path")
	}
	a.need("Gemm: A", m, k)
	Mat{c, ldc, 1}.need("Gemm: C", m, n)
	if n > ldc && m > 1 {
		panic(fmt.Sprintf("simd: Gemm: rows of C %d apart, shorter than n = %d", ldc, n))
	}
	if bias != nil && len(bias) < n {
		panic(fmt.Sprintf("simd: Gemm: bias of %d elements, want n = %d", len(bias), n))
	}
	if m == 0 || n == 0 {
		return
	}
	kc, mc, mr := gemmKC, gemmMC, kn.gemm.maxRows
	switch {
	case m <= mr:
		kc = max(k, 1) // one tile high: A stays in cache by itself
	case k <= 2*gemmKC:
		kc, mc = 2*gemmKC, gemmMC/2 // one pass: C is written once, and not read
	}
	blocks := (m + mc - 1) / mc
	mc = roundUp((m+blocks-1)/blocks, mr)
	for i0 := 0; i0 < m; i0 += mc {
		i1 := min(i0+mc, m)
		for k0 := 0; k0 == 0 || k0 < k; k0 += kc {
			depth, load := min(kc, k-k0), accumulate || k0 > 0
			var at, tileBias []float32
			for col, width := 0, 0; col < n; col += width {
				width = b.panelWidth(col)
				cols := min(width, n-col)
				whole := roundUp(cols, b.lanes)
				var panel []float32
				ldb := width
				if b.ld != 0 {
					ldb = b.ld
					if k > 0 {
						panel = b.data[col+k0*ldb:]
					}
				} else {
					panel = b.data[col*b.depth+k0*width:]
				}
				if bias != nil && k0+kc >= k {
					tileBias = bias[col : col+cols]
				}
				for i := i0; i < i1; i += mr {
					if k > 0 {
						at = a.Data[i*a.RowStride+k0*a.ColStride:]
					}
					kn.gemm.tile(c[i*ldc+col:], ldc, at, a.RowStride, a.ColStride, panel, ldb, depth, tileBias, min(mr, i1-i), cols, whole, load)
				}
			}
		}
	}
}

// gemmTile computes, for r < rows and j < cols,
//
//	s := load ? c[r·ldc+j] : 0
//	for p := range k { s += a[r·aRow+p·aCol] · b[p·ldb+j] }
//	c[r·ldc+j] = s + bias[j]	// no addition without a bias
//
// where a nil bias is not added. Its tiles of up to 2 × 4 elements fit the 16
// registers of amd64, and its panels are 4 wide.
func gemmTile(c []float32, ldc int, a []float32, aRow, aCol int, b []float32, ldb, k int, bias []float32, rows, cols, _ int, load bool) {
	var s [2][4]float32
	if load {
		for r := range rows {
			copy(s[r][:cols], c[r*ldc:])
		}
	}
	s00, s01, s02, s03 := s[0][0], s[0][1], s[0][2], s[0][3]
	if rows == 1 {
		ia, ib := 0, 0
		for range k {
			a0, b := a[ia], b[ib:ib+4]
			s00 += float32(a0 * b[0])
			s01 += float32(a0 * b[1])
			s02 += float32(a0 * b[2])
			s03 += float32(a0 * b[3])
			ia, ib = ia+aCol, ib+ldb
		}
	} else {
		s10, s11, s12, s13 := s[1][0], s[1][1], s[1][2], s[1][3]
		ia, ib := 0, 0
		for range k {
			a0, a1, b := a[ia], a[ia+aRow], b[ib:ib+4]
			b0, b1, b2, b3 := b[0], b[1], b[2], b[3]
			s00 += float32(a0 * b0)
			s01 += float32(a0 * b1)
			s02 += float32(a0 * b2)
			s03 += float32(a0 * b3)
			s10 += float32(a1 * b0)
			s11 += float32(a1 * b1)
			s12 += float32(a1 * b2)
			s13 += float32(a1 * b3)
			ia, ib = ia+aCol, ib+ldb
		}
		s[1] = [4]float32{s10, s11, s12, s13}
	}
	s[0] = [4]float32{s00, s01, s02, s03}
	for r := range rows {
		c := c[r*ldc : r*ldc+cols]
		for j := range c {
			c[j] = s[r][j]
			if bias != nil {
				c[j] += bias[j]
			}
		}
	}
}

// transpose4 sets dst[i·width+j] = src[j·stride+i] for i < k and j < 4.
func transpose4(dst []float32, width int, src []float32, stride, k int) {
	if k == 0 {
		return
	}
	s0, s1, s2, s3 := src[:k], src[stride:][:k], src[2*stride:][:k], src[3*stride:][:k]
	for i := range s0 {
		d := dst[i*width : i*width+4]
		d[0], d[1], d[2], d[3] = s0[i], s1[i], s2[i], s3[i]
	}
}
