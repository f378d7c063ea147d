package simd

import (
	"fmt"
	"math"
)

// Softmax sets dst[i] = exp(x[i] − m) / Σⱼ exp(x[j] − m), m = max x, over one
// row. Elements of −Inf (masked) give 0; a row of −Inf only, a row with +Inf
// and a row with NaN give NaN throughout, as the formula does. dst may be x.
func (k *Kernels) Softmax(dst, x []float32) { k.MaskedSoftmax(dst, x, nil, 1) }

// MaskedSoftmax is [Kernels.Softmax] of x[i]·scale + mask[i], without the sum
// when mask is nil: a row of attention's scores. The assembly paths round the
// sum and the product once.
func (k *Kernels) MaskedSoftmax(dst, x, mask []float32, scale float32) {
	sameLen("Softmax", dst, x)
	if len(x) == 0 {
		return
	}
	if mask != nil {
		sameLen("Softmax", dst, mask)
	}
	k.softmax(dst, x, mask, scale)
}

// SoftmaxGradient sets dst[i] = scale · y[i] · (dy[i] − Σⱼ dy[j]·y[j]) over one
// row, the gradient of y = softmax(scale · x) with respect to x. dst may be dy.
func (k *Kernels) SoftmaxGradient(dst, dy, y []float32, scale float32) {
	sameLen("SoftmaxGradient", dst, dy)
	sameLen("SoftmaxGradient", dst, y)
	k.normScale(dst, dy, y, k.dot(dy, y), scale)
}

// LayerNorm sets dst[i] = (x[i] − μ) / √(σ² + eps) · gamma[i] + beta[i] over each
// row of n = len(gamma) elements, μ its mean and σ² = Σ (x[i] − μ)² / n (two passes,
// so a large mean does not cancel). A nil beta counts as zeros. dst may be x.
// Ba, Kiros, Hinton: Layer Normalization, 2016; ONNX LayerNormalization-17.
func (k *Kernels) LayerNorm(dst, x, gamma, beta []float32, eps float32) {
	n := len(gamma)
	wholeRows("LayerNorm", dst, x, n)
	if beta != nil {
		sameLen("LayerNorm", gamma, beta)
	}
	var mean, scale [normRows]float32
	for len(x) > 0 {
		rows := min(len(x)/n, normRows, max(1, normElements/n))
		for i := range rows {
			mean[i] = float32(float64(k.sum(x[i*n:(i+1)*n])) / float64(n))
		}
		for i := range rows {
			scale[i] = float32(1 / math.Sqrt(float64(k.centredSumSq(x[i*n:(i+1)*n], mean[i]))/float64(n)+float64(eps)))
		}
		for i := range rows {
			if beta == nil {
				k.normScale(dst[i*n:(i+1)*n], x[i*n:(i+1)*n], gamma, mean[i], scale[i])
			} else {
				k.normAffine(dst[i*n:(i+1)*n], x[i*n:(i+1)*n], gamma, beta, mean[i], scale[i])
			}
		}
		dst, x = dst[rows*n:], x[rows*n:]
	}
}

// Rows are normalised some at a time, step by step, so that a core computes the
// sums of some while it waits for those of others; no more than stay in the
// first cache.
const (
	normRows     = 16
	normElements = 4 << 10
)

// wholeRows checks that dst and x are as many rows of n.
func wholeRows(what string, dst, x []float32, n int) {
	sameLen(what, dst, x)
	if len(x) > 0 && (n == 0 || len(x)%n != 0) {
		panic(fmt.Sprintf("simd: %s of %d elements in rows of %d", what, len(x), n))
	}
}

// RMSNorm sets dst[i] = x[i] / √(Σⱼ x[j]² / n + eps) · gamma[i] over each row of
// n = len(gamma) elements. dst may be x. Zhang, Sennrich: Root Mean Square Layer
// Normalization, 2019; ONNX RMSNormalization-23.
func (k *Kernels) RMSNorm(dst, x, gamma []float32, eps float32) {
	n := len(gamma)
	wholeRows("RMSNorm", dst, x, n)
	var scale [normRows]float32
	for len(x) > 0 {
		rows := min(len(x)/n, normRows, max(1, normElements/n))
		for i := range rows {
			row := x[i*n : (i+1)*n]
			scale[i] = float32(1 / math.Sqrt(float64(k.dot(row, row))/float64(n)+float64(eps)))
		}
		for i := range rows {
			k.normScale(dst[i*n:(i+1)*n], x[i*n:(i+1)*n], gamma, 0, scale[i])
		}
		dst, x = dst[rows*n:], x[rows*n:]
	}
}

func centredSumSq(x []float32, mean float32) float32 {
	var s [4]float32
	for i, v := range x {
		d := v - mean
		s[i&3] += float32(d * d)
	}
	return (s[0] + s[2]) + (s[1] + s[3])
}

func softmax(dst, x, mask []float32, scale float32) {
	mulScalar(dst, x, scale)
	if mask != nil {
		add(dst, dst, mask)
	}
	top, s := maxOf(dst), 0.0
	for i, v := range dst {
		e := float32(math.Exp(float64(v - top)))
		dst[i] = e
		s += float64(e)
	}
	mulScalar(dst, dst, 1/float32(s))
}

func normScale(dst, x, gamma []float32, mean, scale float32) {
	x, gamma = x[:len(dst)], gamma[:len(dst)]
	for i := range dst {
		dst[i] = float32((x[i]-mean)*scale) * gamma[i]
	}
}

func normAffine(dst, x, gamma, beta []float32, mean, scale float32) {
	x, gamma, beta = x[:len(dst)], gamma[:len(dst)], beta[:len(dst)]
	for i := range dst {
		dst[i] = float32(float32((x[i]-mean)*scale)*gamma[i]) + beta[i]
	}
}
