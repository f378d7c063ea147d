package train

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// mix puts between two neighbours of a chunk what each of about share of its
// samples was: (1 − λ)·x + λ·x′, λ uniform in [0, ½). A teacher that sees the
// same mixtures is followed further from the data that way (Beyer et al.:
// Knowledge distillation: A good teacher is patient and consistent, 2022). It
// returns which samples were mixed; these have no label any more. A sample that is
// alone in its chunk has the first one of next for a neighbour.
func mix(rng *rand.Rand, inputs, next map[string]tensor.Tensor, samples int, share float64) ([]bool, error) {
	mixed := make([]bool, samples)
	by := make([]float32, samples)
	for i := range mixed {
		mixed[i] = (samples > 1 || next != nil) && rng.Float64() < share
		by[i] = float32(rng.Float64() / 2)
	}
	for _, name := range slices.Sorted(maps.Keys(inputs)) {
		x, err := runtime.FromDense(inputs[name])
		if err != nil {
			return nil, err
		}
		if x.DType != graph.Float32 || len(x.Shape) == 0 || x.Shape[0] != samples {
			return nil, fmt.Errorf("input %q is %v%v: only samples of float32 can be mixed", name, x.DType, x.Shape)
		}
		v := x.F32()
		was := slices.Clone(v)
		n := len(v) / samples
		if samples == 1 && next != nil {
			y, err := runtime.FromDense(next[name])
			if err != nil {
				return nil, err
			}
			if y.DType != graph.Float32 || y.Len() < n {
				return nil, fmt.Errorf("input %q is %v%v in the next sample", name, y.DType, y.Shape)
			}
			was = y.F32()
		}
		for i := range samples {
			if !mixed[i] {
				continue
			}
			other := was[(i+1)%samples*n:][:n]
			for j, o := range other {
				to := &v[i*n+j]
				*to += float32(by[i] * (o - *to))
			}
		}
	}
	return mixed, nil
}

// shift moves what the samples of a chunk show, another way for every sample, by up to
// most places along either axis of pictures, the last two of inputs [samples, channels,
// height, width] of float32, and along the time of sounds, the middle axis of inputs
// [samples, frames, features]. What is at the edge is repeated where nothing was.
func shift(rng *rand.Rand, inputs map[string]tensor.Tensor, samples, most int) error {
	by := make([][2]int, samples)
	for i := range by {
		by[i] = [2]int{rng.IntN(2*most+1) - most, rng.IntN(2*most+1) - most}
	}
	found := false
	for _, name := range slices.Sorted(maps.Keys(inputs)) {
		x, err := runtime.FromDense(inputs[name])
		if err != nil {
			return err
		}
		rank := len(x.Shape)
		if x.DType != graph.Float32 || rank != 3 && rank != 4 || x.Shape[0] != samples {
			continue
		}
		found = true
		channels := 1
		if rank == 4 {
			channels = x.Shape[1]
		}
		h, w := x.Shape[rank-2], x.Shape[rank-1]
		was := make([]float32, h*w)
		for k := range samples * channels {
			d := by[k/channels]
			if rank == 3 {
				d[1] = 0
			}
			v := x.F32()[k*h*w : (k+1)*h*w]
			copy(was, v)
			for r := range h {
				from := was[min(max(r-d[0], 0), h-1)*w:][:w]
				for c := range w {
					v[r*w+c] = from[min(max(c-d[1], 0), w-1)]
				}
			}
		}
	}
	if !found {
		return errors.New("no input is pictures [samples, channels, height, width] or sounds [samples, frames, features] of float32 that could be shifted")
	}
	return nil
}
