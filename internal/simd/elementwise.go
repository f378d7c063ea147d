package simd

// All methods of this file take slices of one length. dst may be the same slice
// as an operand; other overlaps are not allowed. Results are correctly rounded,
// so they are the same on every path.

// Add sets dst[i] = x[i] + y[i].
func (k *Kernels) Add(dst, x, y []float32) {
	sameLen("Add", dst, x)
	sameLen("Add", dst, y)
	k.add(dst, x, y)
}

// Sub sets dst[i] = x[i] − y[i].
func (k *Kernels) Sub(dst, x, y []float32) {
	sameLen("Sub", dst, x)
	sameLen("Sub", dst, y)
	k.sub(dst, x, y)
}

// Mul sets dst[i] = x[i] · y[i].
func (k *Kernels) Mul(dst, x, y []float32) {
	sameLen("Mul", dst, x)
	sameLen("Mul", dst, y)
	k.mul(dst, x, y)
}

// Div sets dst[i] = x[i] / y[i].
func (k *Kernels) Div(dst, x, y []float32) {
	sameLen("Div", dst, x)
	sameLen("Div", dst, y)
	k.div(dst, x, y)
}

// Max sets dst[i] = max(x[i], y[i]), NaN where either is NaN. Of two zeros of
// different sign it gives +0, as Go's max does.
func (k *Kernels) Max(dst, x, y []float32) {
	sameLen("Max", dst, x)
	sameLen("Max", dst, y)
	k.max(dst, x, y)
}

// Min sets dst[i] = min(x[i], y[i]), NaN where either is NaN. Of two zeros of
// different sign it gives −0, as Go's min does.
func (k *Kernels) Min(dst, x, y []float32) {
	sameLen("Min", dst, x)
	sameLen("Min", dst, y)
	k.min(dst, x, y)
}

// AddScalar sets dst[i] = x[i] + a. Subtracting a scalar is adding −a.
func (k *Kernels) AddScalar(dst, x []float32, a float32) {
	sameLen("AddScalar", dst, x)
	k.addScalar(dst, x, a)
}

// MulScalar sets dst[i] = x[i] · a.
func (k *Kernels) MulScalar(dst, x []float32, a float32) {
	sameLen("MulScalar", dst, x)
	k.mulScalar(dst, x, a)
}

// DivScalar sets dst[i] = x[i] / a.
func (k *Kernels) DivScalar(dst, x []float32, a float32) {
	sameLen("DivScalar", dst, x)
	k.divScalar(dst, x, a)
}

// MaxScalar sets dst[i] = max(x[i], a) with the rules of [Kernels.Max].
func (k *Kernels) MaxScalar(dst, x []float32, a float32) {
	sameLen("MaxScalar", dst, x)
	k.maxScalar(dst, x, a)
}

// MinScalar sets dst[i] = min(x[i], a) with the rules of [Kernels.Min].
func (k *Kernels) MinScalar(dst, x []float32, a float32) {
	sameLen("MinScalar", dst, x)
	k.minScalar(dst, x, a)
}

// ScalarSub sets dst[i] = a − x[i].
func (k *Kernels) ScalarSub(dst []float32, a float32, x []float32) {
	sameLen("ScalarSub", dst, x)
	k.scalarSub(dst, x, a)
}

// ScalarDiv sets dst[i] = a / x[i].
func (k *Kernels) ScalarDiv(dst []float32, a float32, x []float32) {
	sameLen("ScalarDiv", dst, x)
	k.scalarDiv(dst, x, a)
}

// Relu sets dst[i] = x[i] where x[i] is not less than 0 (so NaN and −0 stay),
// and 0 elsewhere.
func (k *Kernels) Relu(dst, x []float32) {
	sameLen("Relu", dst, x)
	k.relu(dst, x)
}

// ReluGradient sets dst[i] = 0 where y[i], the result of [Kernels.Relu], is at
// most 0, and x[i] elsewhere.
func (k *Kernels) ReluGradient(dst, x, y []float32) {
	sameLen("ReluGradient", dst, x)
	sameLen("ReluGradient", dst, y)
	k.reluGradient(dst, x, y)
}

// Axpy sets dst[i] += a · x[i]. The assembly paths round once (fused multiply
// and add), portable code twice.
func (k *Kernels) Axpy(dst []float32, a float32, x []float32) {
	sameLen("Axpy", dst, x)
	k.axpy(dst, x, a)
}

func add(dst, x, y []float32) {
	x, y = x[:len(dst)], y[:len(dst)]
	for i := range dst {
		dst[i] = x[i] + y[i]
	}
}

func sub(dst, x, y []float32) {
	x, y = x[:len(dst)], y[:len(dst)]
	for i := range dst {
		dst[i] = x[i] - y[i]
	}
}

func mul(dst, x, y []float32) {
	x, y = x[:len(dst)], y[:len(dst)]
	for i := range dst {
		dst[i] = x[i] * y[i]
	}
}

func div(dst, x, y []float32) {
	x, y = x[:len(dst)], y[:len(dst)]
	for i := range dst {
		dst[i] = x[i] / y[i]
	}
}

func maximum(dst, x, y []float32) {
	x, y = x[:len(dst)], y[:len(dst)]
	for i := range dst {
		dst[i] = max(x[i], y[i])
	}
}

func minimum(dst, x, y []float32) {
	x, y = x[:len(dst)], y[:len(dst)]
	for i := range dst {
		dst[i] = min(x[i], y[i])
	}
}

func addScalar(dst, x []float32, a float32) {
	x = x[:len(dst)]
	for i := range dst {
		dst[i] = x[i] + a
	}
}

func mulScalar(dst, x []float32, a float32) {
	x = x[:len(dst)]
	for i := range dst {
		dst[i] = x[i] * a
	}
}

func divScalar(dst, x []float32, a float32) {
	x = x[:len(dst)]
	for i := range dst {
		dst[i] = x[i] / a
	}
}

func maxScalar(dst, x []float32, a float32) {
	x = x[:len(dst)]
	for i := range dst {
		dst[i] = max(x[i], a)
	}
}

func minScalar(dst, x []float32, a float32) {
	x = x[:len(dst)]
	for i := range dst {
		dst[i] = min(x[i], a)
	}
}

func scalarSub(dst, x []float32, a float32) {
	x = x[:len(dst)]
	for i := range dst {
		dst[i] = a - x[i]
	}
}

func scalarDiv(dst, x []float32, a float32) {
	x = x[:len(dst)]
	for i := range dst {
		dst[i] = a / x[i]
	}
}

func relu(dst, x []float32) {
	x = x[:len(dst)]
	for i, v := range x {
		if v < 0 {
			v = 0
		}
		dst[i] = v
	}
}

func reluGradient(dst, x, y []float32) {
	x, y = x[:len(dst)], y[:len(dst)]
	for i, v := range x {
		if y[i] <= 0 {
			v = 0
		}
		dst[i] = v
	}
}

func axpy(dst, x []float32, a float32) {
	x = x[:len(dst)]
	for i := range dst {
		dst[i] += float32(a * x[i])
	}
}
