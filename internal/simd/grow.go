package simd

import "fmt"

// Matrices on the right that grow, as the keys (by columns) and values (by
// rows) of an attention do token by token, in the form that [Kernels.Gemm]
// reads: nothing is packed again when they have grown.

// Room returns B [k, n] in buf, of at least [Kernels.PackedLen](k, n) elements,
// as buf has them: to be filled by [Kernels.PutRows] or [Kernels.PutColumns],
// and read as far as it is filled by [Packed.Leading]. It allocates nothing.
func (kn *Kernels) Room(buf []float32, k, n int) Packed {
	size := kn.PackedLen(k, n)
	if k < 0 || n < 0 || len(buf) < size {
		panic(fmt.Sprintf("simd: Room: buffer of %d elements for %d×%d, want PackedLen = %d", len(buf), k, n, size))
	}
	return Packed{data: buf[:size], k: k, n: n, depth: k, room: n, lanes: kn.gemm.lanes, vecs: kn.gemm.maxVecs}
}

// Leading returns the first k rows and n columns of B. [Kernels.Gemm] gives the
// bits that it gives for those rows and columns packed by themselves.
func (b Packed) Leading(k, n int) Packed {
	if k < 0 || n < 0 || k > b.k || n > b.n {
		panic(fmt.Sprintf("simd: Leading: %d×%d of %d×%d", k, n, b.k, b.n))
	}
	b.k, b.n = k, n
	return b
}

// PutRows makes src [rows, n] rows at, at+1, … of b [k, n].
func (kn *Kernels) PutRows(b Packed, at int, src Mat, rows int) {
	b.part("PutRows", kn, at, rows, b.k)
	src.need("PutRows", rows, b.n)
	if rows == 0 {
		return
	}
	for col := 0; col < b.n; {
		width := b.panelWidth(col)
		cols := min(width, b.n-col)
		dst := b.data[col*b.depth:]
		for i := range rows {
			row, from := dst[(at+i)*width:], src.Data[i*src.RowStride+col*src.ColStride:]
			if src.ColStride == 1 {
				copy(row[:cols], from)
				continue
			}
			for j := range cols {
				row[j] = from[j*src.ColStride]
			}
		}
		col += width
	}
}

// PutColumns makes src [k, cols] columns at, at+1, … of b [k, n].
func (kn *Kernels) PutColumns(b Packed, at int, src Mat, cols int) {
	b.part("PutColumns", kn, at, cols, b.n)
	src.need("PutColumns", b.k, cols)
	if b.k == 0 {
		return
	}
	for col := 0; col < at+cols; {
		width := b.panelWidth(col)
		dst := b.data[col*b.depth:]
		j, to := max(at-col, 0), min(width, at+cols-col)
		for j < to {
			from := src.Data[(col+j-at)*src.ColStride:]
			if g := kn.gemm.group; src.RowStride == 1 && j+g <= to {
				kn.gemm.transpose(dst[j:], width, from, src.ColStride, b.k)
				j += g
				continue
			}
			for i := range b.k {
				dst[i*width+j] = from[i*src.RowStride]
			}
			j++
		}
		col += width
	}
}

func (b Packed) part(op string, kn *Kernels, at, count, of int) {
	if b.lanes != kn.gemm.lanes || b.vecs != kn.gemm.maxVecs || b.ld != 0 {
		panic("simd: " + op + ": B was packed for another path")
	}
	if at < 0 || count < 0 || at+count > of {
		panic(fmt.Sprintf("simd: %s: %d from %d on, B has %d", op, count, at, of))
	}
}

// Unpack copies B [k, n] to dst, for those who need the matrix itself again.
func (b Packed) Unpack(dst Mat) {
	dst.need("Unpack", b.k, b.n)
	if b.ld != 0 {
		panic("simd: Unpack: B is not packed")
	}
	for col := 0; col < b.n; {
		width := b.panelWidth(col)
		cols := min(width, b.n-col)
		for i := range b.k {
			row := b.data[col*b.depth+i*width:][:cols]
			to := dst.Data[i*dst.RowStride+col*dst.ColStride:]
			for j, v := range row {
				to[j*dst.ColStride] = v
			}
		}
		col += width
	}
}

// InPlace returns B [k, n] for [Kernels.Gemm] where it lies, without packing,
// if it can be read so: row-major and n whole vectors. Packing is worth its
// time only for many rows of A.
func (kn *Kernels) InPlace(b Mat, k, n int) (Packed, bool) {
	b.need("InPlace", k, n)
	if b.ColStride != 1 || n%kn.gemm.lanes != 0 || b.RowStride == 0 {
		return Packed{}, false
	}
	return Packed{data: b.Data, k: k, n: n, depth: k, room: n, ld: b.RowStride, lanes: kn.gemm.lanes, vecs: kn.gemm.maxVecs}, true
}
