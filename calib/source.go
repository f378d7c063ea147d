// Package calib is what is learnt from data: it opens calibration and
// evaluation data, feeds it to a model, and gathers in one pass what the
// passes need to know (importance of every module, moments of the inputs of
// weights, mean updates, ranges), which a Ledger keeps.
package calib

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
	"gorgonia.org/tensor"
)

// DefaultLimit bounds the bytes of one array unless SourceOptions says
// otherwise.
const DefaultLimit = 4 << 30

// SourceOptions says how data is read.
type SourceOptions struct {
	Map   map[string]string // array name → model input that it feeds
	Limit int64             // bytes of one array; 0 means DefaultLimit
}

// Source is a set of samples. It is one of: an .npz archive, whose arrays
// have the samples along the first axis, or a folder in the layout of the
// ONNX operator tests, each test_data_set_K being one sample.
type Source struct {
	path   string
	opts   SourceOptions
	arrays []*npz.Array // npz
	cases  []testCase   // folder
	print  string
}

// testCase is one test_data_set: inputs and expected outputs by position.
type testCase struct {
	dir     string
	inputs  []*graph.Tensor
	outputs []*graph.Tensor
}

// OpenSource reads the data at path.
func OpenSource(path string, opts SourceOptions) (*Source, error) {
	if opts.Limit == 0 {
		opts.Limit = DefaultLimit
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("data %s: %w; give an .npz file or a folder with test_data_set_0", path, errors.Unwrap(err))
	}
	if st.IsDir() {
		return openFolder(path, opts)
	}
	f, err := npz.Open(path, opts.Limit)
	if err != nil {
		return nil, fmt.Errorf("data %w", err)
	}
	defer f.Close()
	return fromNPZ(f, path, opts)
}

// SourceFromBytes reads an .npz archive held in memory; name stands for its
// path.
func SourceFromBytes(name string, data []byte, opts SourceOptions) (*Source, error) {
	if opts.Limit == 0 {
		opts.Limit = DefaultLimit
	}
	f, err := npz.FromBytes(name, data, opts.Limit)
	if err != nil {
		return nil, fmt.Errorf("data %w", err)
	}
	return fromNPZ(f, name, opts)
}

func fromNPZ(f *npz.File, path string, opts SourceOptions) (*Source, error) {
	s := &Source{path: path, opts: opts}
	sum := sha256.New()
	names := f.Names()
	if len(names) == 0 {
		return nil, fmt.Errorf("data %s: the archive has no arrays", path)
	}
	for _, name := range names {
		a, err := f.Read(name)
		if err != nil {
			return nil, fmt.Errorf("data %w", err)
		}
		fmt.Fprintf(sum, "%q %v %v\n", a.Name, a.DType, a.Shape)
		sum.Write(a.Raw)
		s.arrays = append(s.arrays, a)
	}
	s.print = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return s, nil
}

func openFolder(path string, opts SourceOptions) (*Source, error) {
	dirs, err := filepath.Glob(filepath.Join(globEscape(path), "test_data_set_*"))
	if err != nil {
		return nil, fmt.Errorf("data %s: %w", path, err)
	}
	if len(dirs) == 0 {
		return nil, fmt.Errorf("data %s: the folder has no test_data_set_0; give a folder in the ONNX test layout or an .npz file", path)
	}
	number := func(dir string) int {
		n, err := strconv.Atoi(dir[strings.LastIndexByte(dir, '_')+1:])
		if err != nil {
			return 1 << 30
		}
		return n
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return number(a) - number(b) })
	s := &Source{path: path, opts: opts}
	sum := sha256.New()
	for _, dir := range dirs {
		c := testCase{dir: dir}
		for _, kind := range []struct {
			name string
			list *[]*graph.Tensor
		}{{"input", &c.inputs}, {"output", &c.outputs}} {
			for i := 0; ; i++ {
				file := filepath.Join(dir, fmt.Sprintf("%s_%d.pb", kind.name, i))
				st, err := os.Stat(file)
				if errors.Is(err, os.ErrNotExist) {
					break
				}
				if err != nil {
					return nil, fmt.Errorf("data %w", err)
				}
				if st.Size() > opts.Limit {
					return nil, fmt.Errorf("data %s: %d bytes, over the limit of %d", file, st.Size(), opts.Limit)
				}
				b, err := os.ReadFile(file)
				if err != nil {
					return nil, fmt.Errorf("data %w", err)
				}
				t, err := graph.DecodeTensor(b)
				if err != nil {
					return nil, fmt.Errorf("data %s: %w", file, err)
				}
				sum.Write(b)
				*kind.list = append(*kind.list, t)
			}
		}
		s.cases = append(s.cases, c)
	}
	s.print = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return s, nil
}

// globEscape takes the special characters of filepath.Glob out of a path.
func globEscape(p string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(p)
}

// Path is where the data lies.
func (s *Source) Path() string { return s.path }

// Fingerprint is a hash of names, types, shapes and elements.
func (s *Source) Fingerprint() string { return s.print }

// Array returns the array of that name, for labels and expectations.
func (s *Source) Array(name string) (*npz.Array, error) {
	var names []string
	for _, a := range s.arrays {
		if a.Name == name {
			return a, nil
		}
		names = append(names, a.Name)
	}
	if s.arrays == nil {
		return nil, fmt.Errorf("data %s: a test folder has no array %q; labels come from an .npz file", s.path, name)
	}
	return nil, fmt.Errorf("data %s: no array %q; it has %s", s.path, name, strings.Join(names, ", "))
}

// Outputs returns the expected outputs of sample i of a test folder, by
// position.
func (s *Source) Outputs(i int) []*graph.Tensor {
	if i < len(s.cases) {
		return s.cases[i].outputs
	}
	return nil
}

// Feed is a Source bound to the inputs of one model, or a part of it.
type Feed struct {
	Notes []string // which array feeds which input where the names differ, what was filled in

	source   *Source
	ports    []runtime.Port
	arrays   []*npz.Array // per port, nil where it is filled or from a folder
	position []int        // per port: input number in a test folder
	fill     []filler     // per port, nil where data feeds it
	from, to int
	pick     []int // samples by number where they are no range; see Spread
	max      int
}

// filler makes an input of a first decoding step: batch is the number of
// samples, syms the sizes of the symbolic dims that the data fixes, length
// the sequence length.
type filler func(batch, length int, syms map[string]int) (*runtime.Tensor, error)

// Bind finds for every input what feeds it: the array mapped to it, else the
// array of its name, else the only array that fits in rank, dims and type (a
// note says so). Inputs that the data lacks and that a decoder may leave empty
// on its first step are filled the way an inference program would: an empty
// past (zero length along its symbolic axis), an attention mask of ones,
// position ids 0 … T−1, and use_cache_branch false. Anything else missing is
// an error.
func (s *Source) Bind(ports []runtime.Port) (*Feed, error) {
	f := &Feed{source: s, ports: ports}
	f.arrays = make([]*npz.Array, len(ports))
	f.position = make([]int, len(ports))
	f.fill = make([]filler, len(ports))
	var err error
	if s.cases != nil {
		err = f.bindCases()
	} else {
		err = f.bindArrays()
	}
	if err != nil {
		return nil, err
	}
	for i, p := range ports {
		if f.arrays[i] == nil && f.position[i] < 0 {
			f.fill[i] = fillerFor(p, ports, f.bound)
			if f.fill[i] == nil {
				return nil, f.missing(p)
			}
		}
	}
	for i, p := range ports {
		if f.fill[i] == nil && len(p.Shape.Dims) > 0 && p.Shape.Dims[0].N == 1 {
			f.max = 1
		}
	}
	return f, nil
}

func (f *Feed) bound(i int) bool { return f.arrays[i] != nil || f.position[i] >= 0 }

func (f *Feed) missing(p runtime.Port) error {
	var have []string
	for _, a := range f.source.arrays {
		have = append(have, fmt.Sprintf("%s %v%v", a.Name, a.DType, a.Shape))
	}
	what := strings.Join(have, ", ")
	if f.source.cases != nil {
		what = fmt.Sprintf("%d inputs a case", len(f.source.cases[0].inputs))
	}
	return fmt.Errorf("data %s: nothing feeds input %q (%v%v); the data has %s; name the array with --map array=%s",
		f.source.path, p.Name, p.DType, p.Shape.Dims, what, p.Name)
}

func (f *Feed) bindArrays() error {
	s := f.source
	used := map[string]bool{}
	for i, p := range f.ports {
		f.position[i] = -1
		for _, a := range s.arrays {
			if s.opts.Map[a.Name] == p.Name || (a.Name == p.Name && s.opts.Map[a.Name] == "") {
				if err := fits(a, p); err != nil {
					return fmt.Errorf("data %s: array %q for input %q: %w", s.path, a.Name, p.Name, err)
				}
				f.arrays[i] = a
				used[a.Name] = true
			}
		}
	}
	for name, input := range s.opts.Map {
		if !used[name] {
			return fmt.Errorf("data %s: --map %s=%s: there is no such array or no such input", s.path, name, input)
		}
	}
	for i, p := range f.ports {
		if f.arrays[i] != nil || fillerFor(p, f.ports, f.bound) != nil {
			continue
		}
		var only *npz.Array
		for _, a := range s.arrays {
			if !used[a.Name] && fits(a, p) == nil {
				if only != nil {
					return fmt.Errorf("data %s: arrays %q and %q both fit input %q; choose with --map %s=%s", s.path, only.Name, a.Name, p.Name, a.Name, p.Name)
				}
				only = a
			}
		}
		if only != nil {
			f.arrays[i] = only
			used[only.Name] = true
			f.Notes = append(f.Notes, fmt.Sprintf("array %q feeds input %q: the only one that fits", only.Name, p.Name))
		}
	}
	f.to = -1
	var first string
	for _, a := range f.arrays {
		if a == nil {
			continue
		}
		if f.to >= 0 && a.Shape[0] != f.to {
			return fmt.Errorf("data %s: %q has %d samples and %q %d; they must agree", s.path, first, f.to, a.Name, a.Shape[0])
		}
		f.to, first = a.Shape[0], a.Name
	}
	if f.to == 0 {
		return fmt.Errorf("data %s: array %q has no samples", s.path, first)
	}
	if f.to < 0 {
		return f.missing(f.ports[0])
	}
	return nil
}

func (f *Feed) bindCases() error {
	for i, p := range f.ports {
		f.position[i] = -1
		for k, t := range f.source.cases[0].inputs {
			if t.Name == p.Name || (t.Name == "" && k == i) {
				f.position[i] = k
			}
		}
	}
	// Names differ between model and data in some test sets: then position
	// decides, as the layout says.
	if !slices.ContainsFunc(f.position, func(k int) bool { return k >= 0 }) {
		for i := range f.ports {
			if i < len(f.source.cases[0].inputs) {
				f.position[i] = i
			}
		}
	}
	f.to, f.max = len(f.source.cases), 1
	return nil
}

// fits says why array a, whose first axis counts samples, cannot feed p.
func fits(a *npz.Array, p runtime.Port) error {
	if a.DType != p.DType && (a.DType != graph.Float64 || p.DType != graph.Float32) {
		return fmt.Errorf("is %v, the input wants %v", a.DType, p.DType)
	}
	if p.Shape.Dims == nil {
		return nil
	}
	if len(a.Shape) == 0 || len(a.Shape) != len(p.Shape.Dims) {
		return fmt.Errorf("has shape %v, the input wants %v", a.Shape, p.Shape.Dims)
	}
	for k, d := range p.Shape.Dims {
		if d.IsKnown() && int64(a.Shape[k]) != d.N && (k > 0 || d.N != 1) {
			return fmt.Errorf("has shape %v, the input wants %v", a.Shape, p.Shape.Dims)
		}
	}
	return nil
}

// fillerFor returns how an input that the data lacks is made, nil where it
// cannot be left empty.
func fillerFor(p runtime.Port, ports []runtime.Port, bound func(int) bool) filler {
	name := strings.ToLower(p.Name)
	integer := p.DType == graph.Int64 || p.DType == graph.Int32
	switch {
	case p.DType == graph.Bool && strings.Contains(name, "use_cache"):
		return func(int, int, map[string]int) (*runtime.Tensor, error) {
			return runtime.FromSlice(ones(len(p.Shape.Dims)), []bool{false}), nil
		}
	case strings.Contains(name, "past") && p.DType.IsFloat() && len(p.Shape.Dims) >= 3:
		axis := pastAxis(p, ports, bound)
		if axis < 0 {
			return nil
		}
		return func(batch, _ int, syms map[string]int) (*runtime.Tensor, error) {
			shape := make([]int, len(p.Shape.Dims))
			for i, d := range p.Shape.Dims {
				n, ok := syms[d.Sym]
				switch {
				case i == axis:
				case d.IsKnown():
					shape[i] = int(d.N)
				case ok && d.Sym != "":
					shape[i] = n
				default: // the one other open axis of a cache is the batch
					shape[i] = batch
				}
			}
			return zeros(p.DType, shape)
		}
	case strings.Contains(name, "mask") && len(p.Shape.Dims) == 2 && (integer || p.DType.IsFloat() || p.DType == graph.Bool):
		return func(batch, length int, _ map[string]int) (*runtime.Tensor, error) {
			return counted(p.DType, batch, length, func(int) int { return 1 })
		}
	case strings.Contains(name, "position") && integer && (len(p.Shape.Dims) == 1 || len(p.Shape.Dims) == 2):
		return func(batch, length int, _ map[string]int) (*runtime.Tensor, error) {
			if d := p.Shape.Dims; len(d) == 2 && d[0].N == 1 {
				batch = 1
			}
			t, err := counted(p.DType, batch, length, func(t int) int { return t })
			if err == nil && len(p.Shape.Dims) == 1 {
				t, err = counted(p.DType, 1, length, func(t int) int { return t })
				if err == nil {
					t.Shape = []int{length}
				}
			}
			return t, err
		}
	}
	return nil
}

// pastAxis finds the axis of a cache that counts past tokens: the open one
// whose symbol no input that is fed by data has. Where all symbols are
// missing it is the last open axis but the head width, as caches are [batch,
// heads, past, width], perhaps with keys and values stacked before.
func pastAxis(p runtime.Port, ports []runtime.Port, bound func(int) bool) int {
	fed := map[string]bool{}
	for i, q := range ports {
		if bound(i) {
			for _, d := range q.Shape.Dims {
				fed[d.Sym] = d.Sym != ""
			}
		}
	}
	axis := -1
	for i, d := range p.Shape.Dims {
		if d.IsKnown() || fed[d.Sym] {
			continue
		}
		if strings.Contains(strings.ToLower(d.Sym), "batch") {
			continue
		}
		axis = i
	}
	return axis
}

func ones(rank int) []int {
	s := make([]int, rank)
	for i := range s {
		s[i] = 1
	}
	return s
}

func zeros(d graph.DType, shape []int) (*runtime.Tensor, error) {
	dims := make([]int64, len(shape))
	for i, n := range shape {
		dims[i] = int64(n)
	}
	n, ok := graph.NumElements(dims)
	size, ok2 := d.ByteSize(n)
	if !ok || !ok2 || size > DefaultLimit {
		return nil, fmt.Errorf("cannot fill a %v%v", d, shape)
	}
	t, err := graph.NewTensor(d, dims, make([]byte, size))
	if err != nil {
		return nil, err
	}
	return runtime.FromGraphTensor(t)
}

// counted returns [batch, length] with f(t) at every row's position t.
func counted(d graph.DType, batch, length int, f func(t int) int) (*runtime.Tensor, error) {
	t, err := zeros(d, []int{batch, length})
	if err != nil {
		return nil, err
	}
	for i := range batch * length {
		v := f(i % length)
		switch d {
		case graph.Int64:
			t.I64()[i] = int64(v)
		case graph.Int32:
			t.I32()[i] = int32(v)
		case graph.Float32:
			t.F32()[i] = float32(v)
		case graph.Bool:
			t.Bools()[i] = v != 0
		default:
			return nil, fmt.Errorf("cannot fill an input of %v", d)
		}
	}
	return t, nil
}

// Len is the number of samples.
func (f *Feed) Len() int {
	if f.pick != nil {
		return len(f.pick)
	}
	return f.to - f.from
}

// MaxBatch is the most samples that one batch may hold, 0 for any number.
func (f *Feed) MaxBatch() int { return f.max }

// Fingerprint identifies the data that the feed is a part of.
func (f *Feed) Fingerprint() string { return f.source.print }

// Range is the part of the source that the feed covers, or lies in where it
// is spread.
func (f *Feed) Range() (from, to int) { return f.from, f.to }

// Source is what the feed was bound from.
func (f *Feed) Source() *Source { return f.source }

// Slice returns the samples from … to−1 of the feed.
func (f *Feed) Slice(from, to int) *Feed {
	g := *f
	to = min(to, f.Len())
	if f.pick != nil {
		g.pick = f.pick[from:to]
		return &g
	}
	g.from, g.to = f.from+from, f.from+to
	return &g
}

// Spread returns n samples of the feed, evenly spaced: data is often sorted by
// class, and the first n would see few of them. It returns the feed itself
// where n is 0 or not less than Len.
func (f *Feed) Spread(n int) *Feed {
	if n <= 0 || n >= f.Len() {
		return f
	}
	g := *f
	g.pick = make([]int, n)
	for i := range g.pick {
		g.pick[i] = f.sample(i * f.Len() / n)
	}
	return &g
}

// For binds the same samples to the inputs of another model.
func (f *Feed) For(ports []runtime.Port) (*Feed, error) {
	g, err := f.source.Bind(ports)
	if err != nil {
		return nil, err
	}
	g.from, g.to, g.pick = f.from, f.to, f.pick
	return g, nil
}

// sample is the number in the source of sample i.
func (f *Feed) sample(i int) int {
	if f.pick != nil {
		return f.pick[i]
	}
	return f.from + i
}

// Shard returns part i of n equal parts, 0 ≤ i < n.
func (f *Feed) Shard(i, n int) (*Feed, error) {
	if n < 1 || i < 0 || i >= n || n > f.Len() {
		return nil, fmt.Errorf("shard %d/%d of %d samples: want 0 ≤ i < n ≤ samples", i, n, f.Len())
	}
	return f.Slice(i*f.Len()/n, (i+1)*f.Len()/n), nil
}

// Labels returns one integer array of the source, cut to the feed's samples:
// its elements a sample (1 for class labels) times Len.
func (f *Feed) Labels(name string) ([]int64, error) {
	a, err := f.source.Array(name)
	if err != nil {
		return nil, err
	}
	all, err := a.Int64s()
	if err != nil {
		return nil, fmt.Errorf("data %s: labels %w", f.source.path, err)
	}
	if len(a.Shape) == 0 || a.Shape[0] == 0 || a.Shape[0] < f.to {
		return nil, fmt.Errorf("data %s: labels %q have shape %v for %d samples", f.source.path, name, a.Shape, f.to)
	}
	per := len(all) / a.Shape[0]
	out := make([]int64, 0, f.Len()*per)
	for i := range f.Len() {
		out = append(out, all[f.sample(i)*per:(f.sample(i)+1)*per]...)
	}
	return out, nil
}

// Batch returns the inputs of samples from … to−1 of the feed, each with the
// samples along its first axis.
func (f *Feed) Batch(from, to int) (map[string]tensor.Tensor, error) {
	if from < 0 || to > f.Len() || from >= to || (f.max > 0 && to-from > f.max) {
		return nil, fmt.Errorf("data %s: no batch of samples %d … %d", f.source.path, from, to-1)
	}
	out := make(map[string]tensor.Tensor, len(f.ports))
	syms := map[string]int{}
	length := 0
	put := func(p runtime.Port, t *runtime.Tensor, err error) error {
		if err != nil {
			return fmt.Errorf("data %s: input %q: %w", f.source.path, p.Name, err)
		}
		d, err := t.Dense()
		if err != nil {
			return fmt.Errorf("data %s: input %q: %w", f.source.path, p.Name, err)
		}
		out[p.Name] = d
		return nil
	}
	for i, p := range f.ports {
		var t *runtime.Tensor
		var err error
		switch {
		case f.arrays[i] != nil:
			t, err = f.rows(f.arrays[i], p.DType, from, to)
		case f.position[i] >= 0:
			c := f.source.cases[f.sample(from)]
			if f.position[i] >= len(c.inputs) {
				return nil, fmt.Errorf("data %s: no input_%d.pb", c.dir, f.position[i])
			}
			t, err = runtime.FromGraphTensor(c.inputs[f.position[i]])
		default:
			continue
		}
		if err := put(p, t, err); err != nil {
			return nil, err
		}
		for k, d := range p.Shape.Dims {
			if d.Sym != "" && k < len(t.Shape) {
				syms[d.Sym] = t.Shape[k]
			}
		}
		if len(t.Shape) >= 2 && length == 0 {
			length = t.Shape[1]
		}
	}
	for i, p := range f.ports {
		if f.fill[i] != nil {
			t, err := f.fill[i](to-from, length, syms)
			if err := put(p, t, err); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// rows cuts samples from … to−1 of the feed out of an array.
func (f *Feed) rows(a *npz.Array, want graph.DType, from, to int) (*runtime.Tensor, error) {
	per := len(a.Raw) / a.Shape[0]
	dims := []int64{int64(to - from)}
	for _, d := range a.Shape[1:] {
		dims = append(dims, int64(d))
	}
	raw := a.Raw[f.sample(from)*per : (f.sample(to-1)+1)*per]
	if f.pick != nil {
		raw = make([]byte, 0, (to-from)*per)
		for i := from; i < to; i++ {
			raw = append(raw, a.Raw[f.sample(i)*per:(f.sample(i)+1)*per]...)
		}
	}
	t, err := graph.NewTensor(a.DType, dims, raw)
	if err != nil {
		return nil, err
	}
	if a.DType == graph.Float64 && want == graph.Float32 {
		v, err := t.Float32s()
		if err != nil {
			return nil, err
		}
		t = graph.Float32Tensor(dims, v)
	}
	return runtime.FromGraphTensor(t)
}

// Ports returns what a model has to be fed.
func Ports(m *graph.Model) ([]runtime.Port, error) {
	prog, err := runtime.Compile(m, runtime.Options{})
	if err != nil {
		return nil, err
	}
	return prog.Inputs(), nil
}
