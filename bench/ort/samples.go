package ort

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/bench/nd"
)

// Samples feeds a data set to a model. Arrays has samples along the first axis
// of every array. An input takes the array of its name, or else the only array
// that fits it in type, rank and dimensions. A decoder's cache (an input whose
// name starts with "past") that the data does not have is given empty, as
// before the first step. Arrays that are no input of the model are left alone.
type Samples struct {
	Arrays map[string]nd.Array
	Limit  int // number of samples, from the first; 0 stands for all
	Batch  int // samples in one run; 0 stands for 1, as does an input whose first axis is fixed at 1
}

// Each runs the model over the samples in order and hands every run's inputs
// and outputs to visit, with the number of the run's first sample.
func (s *Session) Each(d Samples, visit func(first int, in, out map[string]nd.Array) error) error {
	from, err := s.match(d.Arrays)
	if err != nil {
		return err
	}
	n, batch := -1, max(d.Batch, 1)
	for _, in := range s.Inputs {
		name, ok := from[in.Name]
		if !ok {
			continue
		}
		rows := int(d.Arrays[name].Shape[0])
		if n >= 0 && rows != n {
			return fmt.Errorf("array %q holds %d samples, others %d", name, rows, n)
		}
		n = rows
		if in.Shape[0] == 1 {
			batch = 1
		}
	}
	if d.Limit > 0 {
		n = min(n, d.Limit)
	}
	for first := 0; first < n; first += batch {
		last := min(first+batch, n)
		feeds := map[string]nd.Array{}
		for _, in := range s.Inputs {
			if name, ok := from[in.Name]; ok {
				feeds[in.Name], err = d.Arrays[name].Rows(first, last)
			} else {
				feeds[in.Name], err = emptyCache(in, last-first)
			}
			if err != nil {
				return fmt.Errorf("input %q: %w", in.Name, err)
			}
		}
		out, err := s.Run(feeds)
		if err != nil {
			return fmt.Errorf("samples %d to %d: %w", first, last-1, err)
		}
		if err := visit(first, feeds, out); err != nil {
			return err
		}
	}
	return nil
}

// All runs the model over the samples and returns its outputs with samples
// along the first axis again. Outputs that have something else there (a cache
// stacked as [2, batch, …]) are left out.
func (s *Session) All(d Samples) (map[string]nd.Array, error) {
	parts := map[string][]nd.Array{}
	var odd []string
	err := s.Each(d, func(_ int, in, out map[string]nd.Array) error {
		rows := int64(0)
		for _, i := range s.Inputs {
			if !isCache(i.Name) {
				rows = in[i.Name].Shape[0]
			}
		}
		for name, a := range out {
			if len(a.Shape) == 0 || a.Shape[0] != rows {
				odd = append(odd, name)
			}
			parts[name] = append(parts[name], a)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	all := map[string]nd.Array{}
	for name, p := range parts {
		if slices.Contains(odd, name) {
			continue
		}
		if all[name], err = nd.Concat(p); err != nil {
			return nil, fmt.Errorf("output %q: %w", name, err)
		}
	}
	return all, nil
}

// match finds the array of each input; inputs that get an empty cache are absent.
func (s *Session) match(arrays map[string]nd.Array) (map[string]string, error) {
	from := map[string]string{}
	for _, in := range s.Inputs {
		if a, ok := arrays[in.Name]; ok {
			if !fits(in, a) {
				return nil, fmt.Errorf("input %q is %v %v, its array %v %v", in.Name, in.Type, in.Shape, a.Type(), a.Shape)
			}
			from[in.Name] = in.Name
			continue
		}
		if isCache(in.Name) {
			continue
		}
		var fitting []string
		for name, a := range arrays {
			if fits(in, a) {
				fitting = append(fitting, name)
			}
		}
		if len(fitting) != 1 {
			slices.Sort(fitting)
			return nil, fmt.Errorf("no array is named after input %q (%v %v), and %d fit it: %s", in.Name, in.Type, in.Shape, len(fitting), strings.Join(fitting, ", "))
		}
		from[in.Name] = fitting[0]
	}
	if len(from) == 0 {
		return nil, fmt.Errorf("the data has no array for any input")
	}
	return from, nil
}

func fits(in Info, a nd.Array) bool {
	if in.Type != a.Type() || len(in.Shape) != len(a.Shape) || len(a.Shape) == 0 {
		return false
	}
	for i, d := range in.Shape {
		if i > 0 && d >= 0 && d != a.Shape[i] {
			return false
		}
	}
	return true
}

func isCache(input string) bool { return strings.HasPrefix(input, "past") }

// emptyCache is an array for a cache input: of its symbolic dimensions the
// first is the batch, the others have length 0.
func emptyCache(in Info, batch int) (nd.Array, error) {
	shape := slices.Clone(in.Shape)
	symbolic := 0
	for i, d := range shape {
		if d >= 0 {
			continue
		}
		shape[i] = 0
		if symbolic == 0 {
			shape[i] = int64(batch)
		}
		symbolic++
	}
	if symbolic < 2 || in.Type == nil {
		return nd.Array{}, fmt.Errorf("%v %v cannot be given empty: it has no symbolic length", in.Type, in.Shape)
	}
	return nd.Array{Shape: shape, Data: reflect.MakeSlice(reflect.SliceOf(in.Type), 0, 0).Interface()}, nil
}
