package runtime

import (
	"fmt"

	"github.com/onnx-lathe/lathe/graph"
)

// Patches reads what the windows of a convolution see: for every place of the
// window a column of taps · C numbers, tap by tap (the kernel row by row) the
// channels of X, zeros for padding. A convolution is the product of these columns with
// its weights [M, taps · C]; in groups each is one, over its own channels.
type Patches struct {
	attrs  windowAttrs
	kernel []int
	win    window
	chans  int
}

// NewPatches reads the attributes of a node like Conv with a kernel of these
// dims.
func NewPatches(n *graph.Node, kernel []int) (*Patches, error) {
	x := &node{attrs: n.Attrs}
	p := &Patches{attrs: x.window(), kernel: kernel}
	if x.err != nil {
		return nil, fmt.Errorf("%v: %w", n, x.err)
	}
	return p, nil
}

// Set fixes the shape of X [N, C, d…] and returns the number of places of the
// window over a sample and the length of a column.
func (p *Patches) Set(shape []int) (places, length int, err error) {
	if len(shape) != len(p.kernel)+2 {
		return 0, 0, fmt.Errorf("X %v with a kernel %v: want as many spatial dims", shape, p.kernel)
	}
	if err := p.win.set(&p.attrs, shape[2:], p.kernel); err != nil {
		return 0, 0, err
	}
	p.chans = shape[1]
	length, err = count([]int{p.win.taps, p.chans})
	return p.win.outSize, length, err
}

// Read writes the column of a place to dst, [taps · C], for the sample x [C, d…] of
// the shape that was set.
func (p *Patches) Read(dst, x []float32, place int) {
	w := &p.win
	for tap := range w.taps {
		to := dst[tap*p.chans : (tap+1)*p.chans]
		at, step, inside := 0, 1, true
		for i, o, t := len(w.in)-1, place, tap; i >= 0; i-- {
			pos := o%w.out[i]*w.stride[i] - w.before[i] + t%w.kernel[i]*w.dilation[i]
			inside = inside && pos >= 0 && pos < w.in[i]
			at += pos * step
			step *= w.in[i]
			o /= w.out[i]
			t /= w.kernel[i]
		}
		if !inside {
			clear(to)
			continue
		}
		for c := range to {
			to[c] = x[c*w.inSize+at]
		}
	}
}
