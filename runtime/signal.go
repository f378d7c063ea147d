package runtime

import (
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/dsp/fourier"

	"github.com/onnx-lathe/lathe/graph"
)

// signalOps go between time and frequency.
var signalOps = []operator{
	{"", "DFT", 17, prepareDFT, nil, halves},
	{"", "STFT", 17, prepareSTFT, nil, halves},
	{"", "HannWindow", 17, prepareWindow, nil, 0},
	{"", "HammingWindow", 17, prepareWindow, nil, 0},
	{"", "BlackmanWindow", 17, prepareWindow, nil, 0},
	{"", "MelWeightMatrix", 17, prepareMelWeightMatrix, nil, 0},
}

// scalarInt reads an int32 or int64 of one element.
func scalarInt(t *Tensor, what string) (int, error) {
	if t.Len() != 1 || t.DType != graph.Int64 && t.DType != graph.Int32 {
		return 0, fmt.Errorf("%s is %v%v, want one int32 or int64", what, t.DType, t.Shape)
	}
	var v [1]int64
	if err := wide(v[:], t); err != nil {
		return 0, err
	}
	return int(max(min(v[0], math.MaxInt64>>1), math.MinInt64>>1)), nil
}

// prepareDFT: the discrete Fourier transform along an axis (an attribute, and
// an input since opset 20) of x [..., 1 or 2], real or complex numbers:
//
//	y[k] = Σ_t x[t] · exp(−2πi·kt/n)
//
// with onesided the first ⌊n/2⌋ + 1 of them, with inverse exp(+…) and 1/n. x is
// cut or filled with zeros to n = dft_length elements.
func prepareDFT(n *node) (kernel, error) {
	inverse, onesided := n.bool("inverse", false), n.bool("onesided", false)
	at, inputs := n.int("axis", 1), 2
	if n.opset >= 20 {
		at, inputs = -2, 3
	}
	if inverse && onesided {
		return nil, errors.New("inverse and onesided exclude each other")
	}
	return byType{
		graph.Float32: dft[float32](at, inverse, onesided),
		graph.Float64: dft[float64](at, inverse, onesided),
	}.kernel(0), n.inputs(1, inputs)
}

func dft[T float32 | float64](def int, inverse, onesided bool) kernel {
	return func(c *call) error {
		x := c.in[0]
		r := len(x.Shape)
		if r < 2 || x.Shape[r-1] != 1 && x.Shape[r-1] != 2 {
			return fmt.Errorf("input %v, want [..., 1] or [..., 2]", x.Shape)
		}
		at := def
		var err error
		if c.has(2) {
			if at, err = scalarInt(c.in[2], "axis"); err != nil {
				return err
			}
		}
		a, err := axis(at, r)
		if err != nil {
			return err
		}
		if a == r-1 {
			return fmt.Errorf("axis %d has the parts of complex numbers", at)
		}
		n := x.Shape[a]
		if c.has(1) {
			if n, err = scalarInt(c.in[1], "dft_length"); err != nil {
				return err
			}
		}
		if n < 1 {
			return fmt.Errorf("a transform of %d elements", n)
		}
		bins := n
		if onesided {
			bins = n/2 + 1
		}
		shape := append([]int(nil), x.Shape...)
		shape[a], shape[r-1] = bins, 2
		z, err := c.alloc(0, dtypeOf[T](), shape...)
		if err != nil || z.Len() == 0 {
			return err
		}
		buf, err := scratch[complex128](c, 2*n)
		if err != nil {
			return err
		}
		f := fourier.NewCmplxFFT(n)
		in, out := view[T](x), view[T](z)
		parts := x.Shape[r-1]
		l := linesOf(x.Shape, a)
		l.inner /= parts
		seq, freq := buf[:n], buf[n:]
		for i := range l.outer * l.inner {
			from, to := i/l.inner*l.n*l.inner+i%l.inner, i/l.inner*bins*l.inner+i%l.inner
			clear(seq)
			for t := range min(n, l.n) {
				p := (from + t*l.inner) * parts
				v := complex(float64(in[p]), 0)
				if parts == 2 {
					v = complex(float64(in[p]), float64(in[p+1]))
				}
				seq[t] = v
			}
			transform(f, freq, seq, inverse)
			for k, v := range freq[:bins] {
				p := (to + k*l.inner) * 2
				out[p], out[p+1] = T(real(v)), T(imag(v))
			}
		}
		return nil
	}
}

// transform computes the DFT of seq, or its inverse.
func transform(f *fourier.CmplxFFT, freq, seq []complex128, inverse bool) {
	if !inverse {
		f.Coefficients(freq, seq)
		return
	}
	f.Sequence(freq, seq)
	for i := range freq {
		freq[i] /= complex(float64(len(freq)), 0)
	}
}

// prepareSTFT: the DFT of every frame of signal [B, n, 1 or 2], frame_step
// apart, times the window → [B, frames, bins, 2].
func prepareSTFT(n *node) (kernel, error) {
	onesided := n.bool("onesided", true)
	return byType{graph.Float32: stft[float32](onesided), graph.Float64: stft[float64](onesided)}.kernel(0), n.inputs(2, 4)
}

func stft[T float32 | float64](onesided bool) kernel {
	return func(c *call) error {
		x, window := c.in[0], c.input(2)
		if len(x.Shape) != 3 && len(x.Shape) != 2 || len(x.Shape) == 3 && x.Shape[2] != 1 && x.Shape[2] != 2 {
			return fmt.Errorf("signal %v, want [batch, n, 1] or [batch, n, 2]", x.Shape)
		}
		parts := 1
		if len(x.Shape) == 3 {
			parts = x.Shape[2]
		}
		if parts == 2 && onesided {
			return errors.New("a complex signal has two sides")
		}
		step, err := scalarInt(c.in[1], "frame_step")
		if err != nil {
			return err
		}
		length := 0
		switch {
		case c.has(3):
			if length, err = scalarInt(c.in[3], "frame_length"); err != nil {
				return err
			}
		case window != nil:
			length = window.Len()
		default:
			return errors.New("neither window nor frame_length is given")
		}
		if window != nil && (window.DType != x.DType || len(window.Shape) != 1 || window.Len() != length) {
			return fmt.Errorf("window %v%v for frames of %d of %v", window.DType, window.Shape, length, x.DType)
		}
		if step < 1 || length < 1 || length > x.Shape[1] {
			return fmt.Errorf("frames of %d every %d of %d elements", length, step, x.Shape[1])
		}
		frames, bins := (x.Shape[1]-length)/step+1, length
		if onesided {
			bins = length/2 + 1
		}
		z, err := c.alloc(0, dtypeOf[T](), x.Shape[0], frames, bins, 2)
		if err != nil || z.Len() == 0 {
			return err
		}
		buf, err := scratch[complex128](c, 2*length)
		if err != nil {
			return err
		}
		seq, freq := buf[:length], buf[length:]
		f := fourier.NewCmplxFFT(length)
		in, out := view[T](x), view[T](z)
		for i := range x.Shape[0] * frames {
			from := (i/frames*x.Shape[1] + i%frames*step) * parts
			for t := range seq {
				seq[t] = complex(float64(in[from+t*parts]), 0)
				if parts == 2 {
					seq[t] += complex(0, float64(in[from+t*parts+1]))
				}
				if window != nil {
					seq[t] *= complex(float64(view[T](window)[t]), 0)
				}
			}
			f.Coefficients(freq, seq)
			for k, v := range freq[:bins] {
				out[(i*bins+k)*2], out[(i*bins+k)*2+1] = T(real(v)), T(imag(v))
			}
		}
		return nil
	}
}

// prepareWindow: a window of size n, cosines of 2πk/n, or of 2πk/(n−1) where it
// is not periodic.
func prepareWindow(n *node) (kernel, error) {
	to := graph.DType(n.int("output_datatype", int(graph.Float32)))
	periodic := n.bool("periodic", true)
	if !to.Known() {
		return nil, fmt.Errorf("output_datatype = %d is no element type", to)
	}
	// a0 − a1·cos(x) + a2·cos(2x)
	terms := map[string][3]float64{
		"HannWindow":     {0.5, 0.5, 0},
		"HammingWindow":  {25. / 46, 21. / 46, 0},
		"BlackmanWindow": {0.42, 0.5, 0.08},
	}[n.op]
	return func(c *call) error {
		size, err := scalarInt(c.in[0], "size")
		if err != nil {
			return err
		}
		z, err := c.alloc(0, to, size)
		if err != nil || size == 0 {
			return err
		}
		values, err := scratch[float64](c, size)
		if err != nil {
			return err
		}
		period := float64(size)
		if !periodic {
			period--
		}
		for k := range values {
			x := 2 * math.Pi * float64(k) / period
			values[k] = terms[0] - terms[1]*math.Cos(x) + terms[2]*math.Cos(2*x)
		}
		return convert(z, FromSlice([]int{size}, values), castRules{})
	}, n.inputs(1, 1)
}

// prepareMelWeightMatrix: the matrix [⌊dft_length/2⌋ + 1, num_mel_bins] that
// sums a spectrum in triangles that are evenly spaced in mel,
// 2595·log₁₀(1 + f/700), between two frequencies.
func prepareMelWeightMatrix(n *node) (kernel, error) {
	to := graph.DType(n.int("output_datatype", int(graph.Float32)))
	if !to.Known() {
		return nil, fmt.Errorf("output_datatype = %d is no element type", to)
	}
	return func(c *call) error {
		var whole [3]int // bins, length, rate
		var edges [2]float64
		for i := range whole {
			var err error
			if whole[i], err = scalarInt(c.in[i], "an input"); err != nil {
				return err
			}
		}
		for i := range edges {
			t, err := c.converted(c.in[3+i], graph.Float64)
			if err != nil {
				return err
			}
			if edges[i], err = one[float64](t, "an edge"); err != nil {
				return err
			}
			edges[i] = 2595 * math.Log10(1+edges[i]/700)
		}
		bins, length, rate := whole[0], whole[1], whole[2]
		if bins < 1 || length < 1 || rate < 1 {
			return fmt.Errorf("%d bins of %d elements at a rate of %d", bins, length, rate)
		}
		rows := length/2 + 1
		z, err := c.alloc(0, to, rows, bins)
		if err != nil {
			return err
		}
		values, err := scratch[float64](c, rows*bins)
		if err != nil {
			return err
		}
		clear(values)
		at := func(i int) (int, error) {
			mel := edges[0] + float64(i)*(edges[1]-edges[0])/float64(bins+2)
			k := math.Floor(float64(length+1) * 700 * (math.Pow(10, mel/2595) - 1) / float64(rate))
			if !(k >= 0 && k < float64(rows)) {
				return 0, fmt.Errorf("the edges reach beyond a spectrum of %d", rows)
			}
			return int(k), nil
		}
		for i := range bins {
			low, err := at(i)
			if err != nil {
				return err
			}
			centre, err := at(i + 1)
			if err != nil {
				return err
			}
			high, err := at(i + 2)
			if err != nil {
				return err
			}
			if low == centre {
				values[centre*bins+i] = 1
			}
			for k := low; k <= centre && low < centre; k++ {
				values[k*bins+i] = float64(k-low) / float64(centre-low)
			}
			for k := centre; k < high; k++ {
				values[k*bins+i] = float64(high-k) / float64(high-centre)
			}
		}
		return convert(z, FromSlice(z.Shape, values), castRules{})
	}, n.inputs(5, 5)
}
