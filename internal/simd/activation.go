package simd

import "math"

// The methods of this file take slices of one length; dst may be x. The
// portable code computes in float64 and rounds once, so its error is half an
// ulp; the errors stated are those of the assembly paths. The products with x
// (Silu, Gelu, GeluTanh) have an absolute error of |x|·2⁻¹⁴⁹ besides, which
// counts where the result is less than 2⁻¹¹⁸.

// Exp sets dst[i] = exp(x[i]). Error: 1.1 ulp.
func (k *Kernels) Exp(dst, x []float32) {
	sameLen("Exp", dst, x)
	k.exp(dst, x)
}

// Tanh sets dst[i] = tanh(x[i]). Error: 2.5 ulp.
func (k *Kernels) Tanh(dst, x []float32) {
	sameLen("Tanh", dst, x)
	k.tanh(dst, x)
}

// Sigmoid sets dst[i] = 1 / (1 + exp(−x[i])). Error: 2.5 ulp.
func (k *Kernels) Sigmoid(dst, x []float32) {
	sameLen("Sigmoid", dst, x)
	k.sigmoid(dst, x)
}

// Silu sets dst[i] = x[i] / (1 + exp(−x[i])); NaN at −Inf, as the formula.
// Error: 3.5 ulp.
func (k *Kernels) Silu(dst, x []float32) {
	sameLen("Silu", dst, x)
	k.silu(dst, x)
}

// Erf sets dst[i] = erf(x[i]) = 2/√π ∫₀ˣ exp(−t²) dt. Error: 1.5 ulp.
func (k *Kernels) Erf(dst, x []float32) {
	sameLen("Erf", dst, x)
	k.erf(dst, x)
}

// Gelu sets dst[i] = x[i]·Φ(x[i]) = x[i]/2 · (1 + erf(x[i]/√2)); NaN at −Inf, as
// the formula. The left tail keeps its relative accuracy, which 1 + erf loses.
// Error: 4.5 ulp. ONNX Gelu-20, approximate = none.
func (k *Kernels) Gelu(dst, x []float32) {
	sameLen("Gelu", dst, x)
	k.gelu(dst, x)
}

// GeluTanh sets dst[i] = x[i]/2 · (1 + tanh(√(2/π)·(x[i] + 0.044715·x[i]³)));
// NaN at −Inf, as the formula. Error: 3.5 ulp. ONNX Gelu-20, approximate =
// tanh.
func (k *Kernels) GeluTanh(dst, x []float32) {
	sameLen("GeluTanh", dst, x)
	k.geluTanh(dst, x)
}

func exp(dst, x []float32) {
	x = x[:len(dst)]
	for i, v := range x {
		dst[i] = float32(math.Exp(float64(v)))
	}
}

func tanh(dst, x []float32) {
	x = x[:len(dst)]
	for i, v := range x {
		dst[i] = float32(math.Tanh(float64(v)))
	}
}

func sigmoid(dst, x []float32) {
	x = x[:len(dst)]
	for i, v := range x {
		dst[i] = float32(1 / (1 + math.Exp(-float64(v))))
	}
}

func silu(dst, x []float32) {
	x = x[:len(dst)]
	for i, v := range x {
		dst[i] = float32(float64(v) / (1 + math.Exp(-float64(v))))
	}
}

func erf(dst, x []float32) {
	x = x[:len(dst)]
	for i, v := range x {
		dst[i] = float32(math.Erf(float64(v)))
	}
}

func gelu(dst, x []float32) {
	x = x[:len(dst)]
	for i, v := range x {
		dst[i] = float32(float64(v) * 0.5 * math.Erfc(-float64(v)/math.Sqrt2))
	}
}

// sqrt8OverPi is 2·√(2/π): (1 + tanh u)/2 = 1/(1 + exp(−2u)).
const sqrt8OverPi = 1.5957691216057307117597842397375274738

func geluTanh(dst, x []float32) {
	x = x[:len(dst)]
	for i, v := range x {
		t := float64(v)
		u := sqrt8OverPi * (t + float64(float64(0.044715*t*t)*t))
		dst[i] = float32(t / (1 + math.Exp(-u)))
	}
}
