package simd

import "fmt"

// MaxOfFourGradient is the gradient of the largest of 2×2 elements, windows that
// lie side by side: in rows 2r and 2r+1 of dx, xStep apart, the first element of
// window j (row by row) whose x equals y[r·width+j] gets dy[r·width+j], and the
// other three get 0. Elements beyond 2·width of a row are not touched.
func (k *Kernels) MaxOfFourGradient(dx []float32, xStep int, dy, x, y []float32, rows, width int) {
	if rows <= 0 || width <= 0 {
		return
	}
	if n := (2*rows-1)*xStep + 2*width; xStep < 2*width || n > len(x) || n > len(dx) || rows*width > len(y) || rows*width > len(dy) {
		panic(fmt.Sprintf("simd: MaxOfFourGradient: %d×%d windows of rows %d apart, %d and %d elements, with %d and %d outputs",
			rows, width, xStep, len(x), len(dx), len(y), len(dy)))
	}
	k.maxOfFourGradient(dx, xStep, dy, x, y, rows, width)
}

func maxOfFourGradient(dx []float32, xStep int, dy, x, y []float32, rows, width int) {
	for r := range rows {
		for j := range width {
			largest, g := y[r*width+j], dy[r*width+j]
			for i := range 4 {
				at := (2*r+i/2)*xStep + 2*j + i%2
				dx[at] = 0
				if x[at] == largest {
					dx[at], g = g, 0
				}
			}
		}
	}
}
