package calib

import (
	"context"
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/dsp/fourier"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// Magnitude asks for the magnitudes of a value: those of its elements or, with
// a Block, of the numbers in the spectra of its blocks.
type Magnitude struct {
	Value  string
	Block  int    // size of the blocks along the last axis; 0 for the elements
	Groups int    // that the last axis is cut into before it is cut into blocks; 0 for one
	By     Extent // what has a largest magnitude of its own
}

// Extent is a division of elements or numbers into classes: Magnitudes.Tops and
// Squares have one number for each. The zero value makes none.
type Extent string

const (
	ByChannel Extent = "channel" // by the place along the last axis
	ByBin     Extent = "bin"     // by the block along the last axis and the bin of its spectrum, in the order 0, b/2, 1, 2, …
	ByBlock   Extent = "block"   // by the block along the last axis
)

// Magnitudes is a histogram of |x| over all elements that were seen, with 32 bins an
// octave.
type Magnitudes struct {
	Count   int64     // elements that were seen
	Largest float32   // magnitude
	Tops    []float32 // the largest magnitude of every class

	// Squares has the sum of the squares of every class. A bin k of a spectrum stands for
	// bin b−k too, so that the bins of blocks add up to b times the squares of their
	// elements.
	Squares []float64

	bins []int64 // by the upper bits of the float32
}

// binShift leaves five bits of a float32's fraction.
const binShift = 23 - 5

func (m *Magnitudes) add(v float32) error {
	u := math.Float32bits(v) &^ (1 << 31)
	if u >= 0x7f800000 {
		return errors.New("holds NaN or infinity; check the weights and the data")
	}
	m.Count++
	m.bins[u>>binShift]++
	m.Largest = max(m.Largest, math.Float32frombits(u))
	return nil
}

// class notes numbers of class i: their largest magnitude and the sum of their squares.
func (m *Magnitudes) class(i int, top float32, squares float64) {
	for len(m.Tops) <= i {
		m.Tops, m.Squares = append(m.Tops, 0), append(m.Squares, 0)
	}
	m.Tops[i] = max(m.Tops[i], top)
	m.Squares[i] += squares
}

// Quantile returns a bound that at least the share q of all magnitudes keep, the
// smallest that the bins can tell; 0 where nothing was seen.
func (m *Magnitudes) Quantile(q float64) float32 {
	if m == nil || m.Count == 0 {
		return 0
	}
	left := int64(math.Floor((1 - q) * float64(m.Count))) // how many may be larger
	for i := len(m.bins) - 1; i >= 0; i-- {
		if left -= m.bins[i]; left < 0 {
			return min(m.Largest, math.Float32frombits(uint32(i+1)<<binShift-1))
		}
	}
	return m.Largest
}

// MeasureMagnitudes runs the data through the model once and returns what was
// asked for. The values must be float32; NaN or infinity in one is an error. Of opts
// it uses Threads, Batch, Progress and Memory.
func MeasureMagnitudes(ctx context.Context, m *graph.Model, feed *Feed, wanted []Magnitude, opts ScoreOptions) (map[Magnitude]*Magnitudes, error) {
	out := map[Magnitude]*Magnitudes{}
	var probes []*probe
	for _, w := range wanted {
		if out[w] != nil {
			continue
		}
		h := &Magnitudes{bins: make([]int64, 0x7f800000>>binShift)}
		out[w] = h
		see := h.elements(w.By)
		if w.Block > 0 {
			see = h.spectra(w.Block, max(w.Groups, 1), w.By)
		}
		probes = append(probes, &probe{values: []string{w.Value}, see: func(v []*runtime.Tensor, _ Mask) error {
			if v[0].DType != graph.Float32 {
				return fmt.Errorf("is %v, want float", v[0].DType)
			}
			return see(v[0])
		}})
	}
	if err := observe(ctx, m, feed, probes, opts); err != nil {
		return nil, fmt.Errorf("ranges: %w", err)
	}
	return out, nil
}

// elements sees the elements of a value.
func (m *Magnitudes) elements(by Extent) func(x *runtime.Tensor) error {
	return func(x *runtime.Tensor) error {
		channels := 1
		if by == ByChannel && len(x.Shape) > 0 {
			channels = x.Shape[len(x.Shape)-1]
		}
		for i, v := range x.F32() {
			if err := m.add(v); err != nil {
				return err
			}
			if by == ByChannel {
				m.class(i%channels, max(v, -v), float64(v)*float64(v))
			}
		}
		return nil
	}
}

// spectra sees the numbers of the unnormalised Fourier transforms of blocks of b
// along the last axis, group by group; what the last block of a group lacks is zero.
func (m *Magnitudes) spectra(b, groups int, by Extent) func(x *runtime.Tensor) error {
	fft := fourier.NewFFT(b)
	in, bins := make([]float64, b), make([]complex128, b/2+1)
	return func(x *runtime.Tensor) error {
		if len(x.Shape) == 0 || x.Shape[len(x.Shape)-1] == 0 {
			return nil
		}
		if x.Shape[len(x.Shape)-1]%groups != 0 {
			return fmt.Errorf("is %v, want a last axis of %d groups", x.Shape, groups)
		}
		d := x.Shape[len(x.Shape)-1] / groups
		blocks := (d + b - 1) / b
		for row := range x.Len() / d {
			for j := range blocks {
				from, block := j*b, row%groups*blocks+j
				clear(in)
				for i := range min(b, d-from) {
					in[i] = float64(x.F32()[row*d+from+i])
				}
				fft.Coefficients(bins, in)
				for f, v := range bins {
					re, im := float32(real(v)), float32(imag(v))
					times := 2.0
					if f == 0 || f == b/2 {
						times, im = 1, 0
					} else if err := m.add(im); err != nil {
						return err
					}
					if err := m.add(re); err != nil {
						return err
					}
					top := max(re, -re, im, -im)
					squares := times * (real(v)*real(v) + imag(v)*imag(v))
					switch {
					case by == ByBlock:
						m.class(block, top, squares)
					case by == ByBin && f == 0:
						m.class(block*(b/2+1), top, squares)
					case by == ByBin && f == b/2:
						m.class(block*(b/2+1)+1, top, squares)
					case by == ByBin:
						m.class(block*(b/2+1)+f+1, top, squares)
					}
				}
			}
		}
		return nil
	}
}
