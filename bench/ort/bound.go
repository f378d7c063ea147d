package ort

import (
	"fmt"

	onnxruntime "github.com/yalue/onnxruntime_go"

	"github.com/onnx-lathe/lathe/bench/nd"
)

// A Bound session has its inputs in place and writes every run's outputs over
// those of the run before, so that a run is ONNX Runtime's own time and little
// else.
type Bound struct {
	s               *Session
	inputs, outputs []onnxruntime.Value
}

// Bind puts one array for each input of s in place and runs the model once.
// The arrays must not change while the result is in use. Outputs have the
// shapes that this run gives them.
func (s *Session) Bind(feeds map[string]nd.Array) (*Bound, error) {
	b := &Bound{s: s, inputs: make([]onnxruntime.Value, len(s.Inputs))}
	for i, in := range s.Inputs {
		a, ok := feeds[in.Name]
		if !ok {
			b.Close()
			return nil, fmt.Errorf("ort: no array for input %q", in.Name)
		}
		v, err := toValue(a)
		if err != nil {
			b.Close()
			return nil, fmt.Errorf("ort: input %q: %w", in.Name, err)
		}
		b.inputs[i] = v
	}
	var err error
	if b.outputs, err = s.run(b.inputs); err != nil {
		b.Close()
		return nil, fmt.Errorf("ort: %w", err)
	}
	return b, nil
}

// Run runs the model.
func (b *Bound) Run() error { return b.s.session.Run(b.inputs, b.outputs) }

// Outputs returns copies of the outputs of the last run, by name.
func (b *Bound) Outputs() (map[string]nd.Array, error) {
	results := map[string]nd.Array{}
	for i, out := range b.s.Outputs {
		a, err := fromValue(b.outputs[i])
		if err != nil {
			return nil, fmt.Errorf("ort: output %q: %w", out.Name, err)
		}
		results[out.Name] = a
	}
	return results, nil
}

// Close frees inputs and outputs; the session stays open.
func (b *Bound) Close() {
	destroy(b.inputs)
	destroy(b.outputs)
}
