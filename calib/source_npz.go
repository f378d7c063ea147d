package calib

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strings"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
)

// arrays is the data of an .npz archive.
type arrays []*npz.Array

func fingerprint(sum hash.Hash) string { return "sha256:" + hex.EncodeToString(sum.Sum(nil)) }

func openArchive(s *Source) error {
	f, err := npz.Open(s.path, s.opts.Limit)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.fromNPZ(f)
}

func (s *Source) fromNPZ(f *npz.File) error { return s.fromArrays(f.Names(), f.Read) }

// fromArrays makes the arrays of these names the data of s.
func (s *Source) fromArrays(names []string, read func(name string) (*npz.Array, error)) error {
	list := arrays{}
	sum := sha256.New()
	if len(names) == 0 {
		return fmt.Errorf("%s: has no arrays", s.path)
	}
	left := s.opts.Limit
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("%s: two arrays are called %q", s.path, name)
		}
		a, err := read(name)
		if err != nil {
			return err
		}
		if left -= int64(len(a.Raw)); left < 0 {
			return fmt.Errorf("%s: array %q: more than the %w of %d MB of data", s.path, name, npz.ErrLimit, s.opts.Limit>>20)
		}
		fmt.Fprintf(sum, "%q %v %v\n", a.Name, a.DType, a.Shape)
		sum.Write(a.Raw)
		list = append(list, a)
	}
	s.choice(sum, 0)
	s.kind, s.print = list, fingerprint(sum)
	return nil
}

// arrayOf is a copy of t as an array.
func arrayOf(name string, t tensor.Tensor) (*npz.Array, error) {
	v, err := runtime.FromDense(t)
	if err != nil {
		return nil, err
	}
	c, err := runtime.ToGraphTensor(v) // in the byte order of files
	if err != nil {
		return nil, err
	}
	raw, err := c.Bytes()
	if err != nil {
		return nil, err
	}
	return &npz.Array{Name: name, DType: c.DType, Shape: slices.Clone(v.Shape), Raw: raw}, nil
}

func (list arrays) bytes() (n int64) {
	for _, a := range list {
		n += int64(len(a.Raw))
	}
	return n
}

func (list arrays) names() (out []string) {
	for _, a := range list {
		out = append(out, a.Name)
	}
	return out
}

func (list arrays) lacks(p runtime.Port) string {
	var have []string
	for _, a := range list {
		have = append(have, fmt.Sprintf("%s %v%v", a.Name, a.DType, a.Shape))
	}
	return "the data has " + strings.Join(have, ", ") + "; name the array with --map array=" + p.Name
}

func (list arrays) array(name string) (*npz.Array, error) {
	for _, a := range list {
		if a.Name == name {
			return a, nil
		}
	}
	return nil, fmt.Errorf("no array %q; it has %s", name, strings.Join(list.names(), ", "))
}

func (list arrays) bind(f *Feed) error {
	used := map[string]bool{}
	fed := make([]*npz.Array, len(f.ports))
	bind := func(i int, a *npz.Array) error {
		p := f.ports[i]
		if err := fits(a, p); err != nil {
			return fmt.Errorf("array %q for input %q: %w", a.Name, p.Name, err)
		}
		f.feeds[i] = func(samples []int) (*runtime.Tensor, error) { return rows(a, p.DType, samples) }
		fed[i], used[a.Name] = a, true
		return nil
	}
	mapped, err := f.mapped(list.names())
	if err != nil {
		return err
	}
	for i, a := range list {
		if to, ok := mapped[a.Name]; ok && slices.Index(list.names(), a.Name) == i {
			if err := bind(to, a); err != nil {
				return err
			}
		}
	}
	for i, p := range f.ports {
		at := slices.IndexFunc(list, func(a *npz.Array) bool { return a.Name == p.Name && !used[a.Name] })
		if !f.bound(i) && at >= 0 {
			if err := bind(i, list[at]); err != nil {
				return err
			}
		}
	}
	for i, p := range f.ports {
		if _, fill := f.filler(p); f.bound(i) || fill != nil {
			continue
		}
		var only *npz.Array
		for _, a := range list {
			if used[a.Name] || a.DType != p.DType && a.DType != graph.Float64 || fits(a, p) != nil {
				continue
			}
			if only != nil {
				return fmt.Errorf("arrays %q and %q both fit input %q; choose with --map %s=%s", only.Name, a.Name, p.Name, a.Name, p.Name)
			}
			only = a
		}
		if only != nil {
			if err := bind(i, only); err != nil {
				return err
			}
			f.Notes = append(f.Notes, fmt.Sprintf("array %q feeds input %q: the only one that fits", only.Name, p.Name))
		}
	}
	var first *npz.Array
	for _, a := range fed {
		switch {
		case a == nil:
		case first == nil:
			first = a
		case a.Shape[0] != first.Shape[0]:
			return fmt.Errorf("%q has %d samples and %q %d; they must agree", first.Name, first.Shape[0], a.Name, a.Shape[0])
		}
	}
	switch {
	case first == nil:
		return f.missing(f.ports[0])
	case first.Shape[0] == 0:
		return fmt.Errorf("array %q has no samples", first.Name)
	}
	f.total = first.Shape[0]
	return nil
}

// converted lists what inputs of a type may be fed with beside that type: no
// program that makes arrays has to think of it, and every value stays what it is
// up to the rounding to float32.
var converted = map[graph.DType][]graph.DType{
	graph.Float32: {graph.Float64, graph.Float16},
	graph.Int64:   {graph.Int32},
}

// fits says why array a, whose first axis counts samples, cannot feed p.
func fits(a *npz.Array, p runtime.Port) error {
	if a.DType != p.DType && !slices.Contains(converted[p.DType], a.DType) {
		return fmt.Errorf("is %v, the input wants %v", a.DType, p.DType)
	}
	wrong := fmt.Errorf("has shape %v, the input is %v", a.Shape, p)
	if len(a.Shape) == 0 || p.Rank >= 0 && len(a.Shape) != p.Rank {
		return wrong
	}
	for k, d := range p.Shape.Dims {
		if k > 0 && d.IsKnown() && int64(a.Shape[k]) != d.N {
			return wrong
		}
	}
	return nil
}

// rows picks samples out of an array.
func rows(a *npz.Array, want graph.DType, samples []int) (*runtime.Tensor, error) {
	per := len(a.Raw) / a.Shape[0]
	dims := []int64{int64(len(samples))}
	for _, d := range a.Shape[1:] {
		dims = append(dims, int64(d))
	}
	raw := make([]byte, 0, len(samples)*per)
	for _, i := range samples {
		raw = append(raw, a.Raw[i*per:(i+1)*per]...)
	}
	if a.DType == graph.Bool { // a file may hold any byte
		for i := range raw {
			raw[i] = min(raw[i], 1)
		}
	}
	t, err := graph.NewTensor(a.DType, dims, raw)
	if err != nil {
		return nil, err
	}
	switch {
	case a.DType == want:
	case want == graph.Int64:
		v, err := t.Int64s()
		if err != nil {
			return nil, err
		}
		t = graph.Int64Tensor(dims, v)
	default:
		v, err := t.Float32s()
		if err != nil {
			return nil, err
		}
		t = graph.Float32Tensor(dims, v)
	}
	return runtime.FromGraphTensor(t)
}
