package train

import (
	"math"
	"sync"

	"github.com/onnx-lathe/lathe/runtime"
)

// state is what a checkpoint holds.
type state struct {
	Done    int       // steps
	Updates int       // of the average
	Sum     float64   // of the losses since the last point
	Count   int       // of those losses
	Worse   int       // measurements since the lowest
	Lowest  []float64 // held-out loss, by chunk
	Best    Point     // of the weights kept
	Curve   []Point

	// Of all parameters, one behind the other.
	value, first, second []float32 // weights, moments of the gradient
	average, best        []float32 // average is empty where there is none
}

const (
	beta1, beta2 = 0.9, 0.999
	epsilon      = 1e-8
	floor        = 0.01 // of the rate, at the end of the cosine
)

// rate is the learning rate of a step, counted from 0.
func (t *trainer) rate(step int) float64 {
	r := t.o.LearningRate
	if step < t.o.Warmup {
		return r * float64(step+1) / float64(t.o.Warmup)
	}
	at := float64(step-t.o.Warmup) / float64(max(t.o.Steps-t.o.Warmup, 1))
	return r * (floor + (1-floor)*(1+math.Cos(math.Pi*at))/2)
}

// update moves the weights along the gradients: AdamW, and Muon where it is asked for,
// after clipping the gradient's global norm. It counts t.Done as not yet raised.
func (t *trainer) update() error {
	norm := 0.0
	for _, p := range t.params {
		sum := 0.0
		for _, g := range p.Gradient {
			sum += float64(g) * float64(g)
		}
		norm += sum
	}
	norm = math.Sqrt(norm)
	scale := 1.0
	if norm > t.o.Clip {
		scale = t.o.Clip / norm
	}
	k := float64(t.Done + 1)
	rate := t.rate(t.Done)
	// Bias corrections of both moments.
	m := 1 / (1 - math.Pow(beta1, k))
	v := 1 / (1 - math.Pow(beta2, k))
	keep := 0.0
	if t.average != nil {
		t.Updates++
		// A short history averages over itself alone.
		keep = math.Min(t.o.Average, float64(1+t.Updates)/float64(10+t.Updates))
	}
	t.eachParameter(func(i int, p *runtime.Parameter, from, to int) {
		r := rate
		if p.Block > 0 {
			r *= t.o.CirculantRate
		}
		decay := 0.0
		if len(p.Shape) > 1 {
			decay = r * t.o.Decay
		}
		first, second := t.first[from:to], t.second[from:to]
		if t.matrix != nil && t.matrix[i] {
			o := t.scratch.Get().(*orthogonalizer)
			o.muon(p, first, r, decay, scale)
			t.scratch.Put(o)
		} else {
			adamW(p, first, second, r, decay, scale, m, v)
		}
		if t.average != nil {
			average := t.average[from:to]
			for j, w := range p.Value {
				average[j] += float32((1 - keep) * (float64(w) - float64(average[j])))
			}
		}
	})
	t.model.Update()
	return nil
}

// adamW moves a parameter at a rate, with weight decay times rate, along a gradient that
// is scaled first. Both moments are corrected by the factors m and v.
func adamW(p *runtime.Parameter, first, second []float32, rate, decay, scale, m, v float64) {
	for j, g := range p.Gradient {
		d := float64(g) * scale
		a := beta1*float64(first[j]) + (1-beta1)*d
		b := beta2*float64(second[j]) + (1-beta2)*(d*d)
		first[j], second[j] = float32(a), float32(b)
		w := float64(p.Value[j])
		w -= float64(decay*w) + float64(rate*float64(a*m)/(math.Sqrt(b*v)+epsilon))
		p.Value[j] = float32(w)
	}
}

// eachParameter calls f for all parameters, with where they lie in the vectors
// of the state, on several goroutines.
func (t *trainer) eachParameter(f func(i int, p *runtime.Parameter, from, to int)) {
	var wg sync.WaitGroup
	at := 0
	free := make(chan struct{}, max(t.o.Threads, 1))
	for i := range t.params {
		p := &t.params[i]
		from, to := at, at+len(p.Value)
		at = to
		free <- struct{}{}
		wg.Go(func() {
			f(i, p, from, to)
			<-free
		})
	}
	wg.Wait()
}

// swap exchanges the weights with their average.
func (t *trainer) swap() {
	if t.average == nil {
		return
	}
	t.eachParameter(func(_ int, p *runtime.Parameter, from, _ int) {
		for j, w := range p.Value {
			p.Value[j], t.average[from+j] = t.average[from+j], w
		}
	})
	t.model.Update()
}

// gather copies the weights into the state.
func (t *trainer) gather() {
	t.eachParameter(func(_ int, p *runtime.Parameter, from, to int) { copy(t.value[from:to], p.Value) })
}

// evaluated is the weights that are measured and kept.
func (t *trainer) evaluated() []float32 {
	if t.average != nil {
		return t.average
	}
	t.gather()
	return t.value
}

// split cuts a vector of the state into the parameters.
func (t *trainer) split(all []float32) [][]float32 {
	var out [][]float32
	at := 0
	for _, p := range t.params {
		out = append(out, all[at:at+len(p.Value)])
		at += len(p.Value)
	}
	return out
}
