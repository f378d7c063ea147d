package calib

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/graph/modules"
	"github.com/onnx-lathe/lathe/internal/atomicfile"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime/circulant"
)

// LedgerVersion is the version of the ledger's format that is written.
const LedgerVersion = 1

// Ledger is what a scoring run learnt: one JSON file, and beside it an npz for
// mean updates and moments that is named by its SHA-256. All sums are kept
// whole, so that ledgers of parts of the data merge into the ledger of all.
type Ledger struct {
	Version int           `json:"version"`          // of the format: LedgerVersion
	Model   string        `json:"model"`            // fingerprint
	Data    string        `json:"data"`             // fingerprint
	Total   int           `json:"total_samples"`    // of the data
	Parts   [][2]int      `json:"parts"`            // sample ranges [from, to) that were seen, or that those lie in
	Samples int           `json:"samples"`          // that were seen
	Tokens  int64         `json:"tokens"`           // that were seen and count
	Modules []ModuleScore `json:"modules"`          // but those of kind Other, in graph order
	Blocks  []BlockScore  `json:"blocks"`           // layers
	Ranges  []RangeOf     `json:"ranges,omitempty"` // where ScoreOptions asked for them
	// Orders keeps the order of a selection that needed the data, by the
	// options that it depends on, so that it need not be measured again. A
	// merge forgets it.
	Orders map[string]Order `json:"orders,omitempty"`
	Arrays string           `json:"arrays,omitempty"` // name of the npz

	means   map[string]meanSum            // module id → mean update
	moments map[string]*circulant.Moments // operand's key → moments of a weight's input
}

// Order is the order in which a greedy selection drops units (modules, or the
// modules of a layer joined by "+"), the divergence to the original after each,
// and the data that it was measured on.
type Order struct {
	Units   []string  `json:"units"`
	KL      []float64 `json:"kl"`      // nats, after each drop
	Data    string    `json:"data"`    // fingerprint
	Part    [2]int    `json:"part"`    // of the data, [from, to)
	Samples int       `json:"samples"` // so many of it, evenly spaced
}

// ModuleScore is one module of the ledger. Score is 1 − cos of the residual
// stream before and after the module, the mean over all tokens; in a post-LN
// model "after" is after the norm that follows, and ScoreBeforeNorm is taken
// before it.
type ModuleScore struct {
	ID              string       `json:"id"`
	Kind            modules.Kind `json:"kind"`
	Layer           int          `json:"layer"`
	Score           float64      `json:"score"`
	ScoreBeforeNorm float64      `json:"score_before_norm"`
	Angular         float64      `json:"angular"` // mean of arccos(cos)/π
	Stderr          float64      `json:"stderr"`  // standard error of Score over samples
	Params          int64        `json:"params"`
	FLOPs           int64        `json:"flops"`    // a token
	KVBytes         int64        `json:"kv_bytes"` // a token, 0 without a cache
	Droppable       bool         `json:"droppable"`
	Reason          string       `json:"reason,omitempty"` // why not
	Sums            Sums         `json:"sums"`
}

// BlockScore is the importance of one layer as a whole: 1 − cos of the stream
// before its first module and after its last.
type BlockScore struct { // fields as in ModuleScore
	Layer   int      `json:"layer"`
	Modules []string `json:"modules"`
	Score   float64  `json:"score"`
	Angular float64  `json:"angular"`
	Stderr  float64  `json:"stderr"`
	Sums    Sums     `json:"sums"`
}

// Sums are the running sums a score is made of.
type Sums struct {
	Tokens  int64   `json:"tokens"`
	Score   float64 `json:"score"`             // Σ over tokens of 1 − cos
	Before  float64 `json:"score_before_norm"` // the same before the norm
	Angular float64 `json:"angular"`           // Σ arccos(cos)/π
	Samples int64   `json:"samples"`
	Mean    float64 `json:"sample_mean"`  // Σ over samples of the sample's mean score
	Square  float64 `json:"sample_mean2"` // Σ of its square
}

func (s *Sums) add(t Sums) {
	s.Tokens += t.Tokens
	s.Score += t.Score
	s.Before += t.Before
	s.Angular += t.Angular
	s.Samples += t.Samples
	s.Mean += t.Mean
	s.Square += t.Square
}

// valid reports sums that no scoring run writes.
func (s *Sums) valid() bool {
	for _, v := range []float64{s.Score, s.Before, s.Angular, s.Mean, s.Square} {
		if !(v >= 0) || math.IsInf(v, 0) {
			return false
		}
	}
	return s.Tokens >= 0 && s.Samples >= 0 && s.Samples <= s.Tokens
}

// scores divides the sums. The standard error is that of the mean of the
// samples' means, s/√n with s² unbiased: tokens of one sample are not
// independent.
func (s *Sums) scores() (score, before, angular, stderr float64, err error) {
	if s.Tokens <= 0 || s.Samples <= 0 {
		return 0, 0, 0, 0, errors.New("no token was seen")
	}
	n := float64(s.Tokens)
	score, before, angular = s.Score/n, s.Before/n, s.Angular/n
	if n := float64(s.Samples); n > 1 {
		variance := (s.Square - s.Mean*s.Mean/n) / (n - 1)
		stderr = math.Sqrt(math.Max(variance, 0) / n)
	}
	for _, v := range []float64{score, before, angular, stderr} {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return 0, 0, 0, 0, errors.New("the residual stream holds NaN or infinity; check the weights and the data")
		}
	}
	return score, before, angular, stderr, nil
}

// finish fills the scores from the sums.
func (l *Ledger) finish() error {
	l.Tokens = 0
	for i := range l.Modules {
		m := &l.Modules[i]
		if m.Sums.Tokens == 0 && !m.Droppable {
			continue
		}
		var err error
		if m.Score, m.ScoreBeforeNorm, m.Angular, m.Stderr, err = m.Sums.scores(); err != nil {
			return fmt.Errorf("module %s: %w", m.ID, err)
		}
		l.Tokens = max(l.Tokens, m.Sums.Tokens)
	}
	for i := range l.Blocks {
		b := &l.Blocks[i]
		if b.Sums.Tokens == 0 && slices.ContainsFunc(b.Modules, func(id string) bool { m := l.Module(id); return m != nil && !m.Droppable }) {
			continue
		}
		var err error
		if b.Score, _, b.Angular, b.Stderr, err = b.Sums.scores(); err != nil {
			return fmt.Errorf("layer %d: %w", b.Layer, err)
		}
	}
	return nil
}

// meanSum is the mean update of one module, as sums over tokens: branch is Σ f(X),
// and unit is Σ (LN(X + f(X)) − X) in a post-LN model, nil elsewhere.
type meanSum struct {
	Tokens int64
	Branch []float64
	Unit   []float64
}

// RangeOf is the smallest and the largest element that a value of the model had.
type RangeOf struct {
	Value string  `json:"value"` // its name
	Min   float32 `json:"min"`
	Max   float32 `json:"max"`
}

// Module returns the entry of a module, nil if there is none.
func (l *Ledger) Module(id string) *ModuleScore {
	for i := range l.Modules {
		if l.Modules[i].ID == id {
			return &l.Modules[i]
		}
	}
	return nil
}

// MeanUpdate returns E[f(X)], [width of the stream], of a module and, in a post-LN
// model, E[LN(X + f(X)) − X], else nil; it reports false where the ledger has none:
// see ScoreOptions.Means.
func (l *Ledger) MeanUpdate(id string) (branch, unit []float64, ok bool) {
	m, ok := l.means[id]
	if !ok || m.Tokens == 0 {
		return nil, nil, false
	}
	over := func(s []float64) []float64 {
		if s == nil {
			return nil
		}
		out := make([]float64, len(s))
		for i, v := range s {
			out[i] = v / float64(m.Tokens)
		}
		return out
	}
	return over(m.Branch), over(m.Unit), true
}

// Moments returns the moments of the operand of that key (see [OperandOf]), nil if the
// ledger has none: see ScoreOptions.Moments.
func (l *Ledger) Moments(key string) *circulant.Moments { return l.moments[key] }

// arrays lists what goes into the npz, in a fixed order.
func (l *Ledger) arrays() []*npz.Array {
	var out []*npz.Array
	for _, id := range slices.Sorted(maps.Keys(l.means)) {
		m := l.means[id]
		out = append(out,
			npz.Int64Array("mean/"+id+"/tokens", []int{1}, []int64{m.Tokens}),
			npz.Float64Array("mean/"+id+"/branch", []int{len(m.Branch)}, m.Branch))
		if m.Unit != nil {
			out = append(out, npz.Float64Array("mean/"+id+"/unit", []int{len(m.Unit)}, m.Unit))
		}
	}
	// Value names may hold anything, so the moments are numbered and a name
	// goes along as bytes.
	for i, name := range slices.Sorted(maps.Keys(l.moments)) {
		m := l.moments[name]
		at := fmt.Sprintf("moments/%d/", i)
		out = append(out,
			&npz.Array{Name: at + "name", DType: graph.Uint8, Shape: []int{len(name)}, Raw: []byte(name)},
			npz.Float64Array(at+"count", []int{1}, []float64{m.Count}),
			npz.Float64Array(at+"sum", []int{m.N}, m.Sum),
			npz.Float64Array(at+"second", []int{m.N, m.N}, m.Second))
	}
	return out
}

// Save writes the ledger to path, and its npz beside it if it has one. Both
// appear whole or not at all; the same ledger gives the same bytes.
func (l *Ledger) Save(path string) error {
	c := *l
	c.Arrays = ""
	made := "" // the npz, if there was none of its name
	if arrays := l.arrays(); len(arrays) > 0 {
		var buf bytes.Buffer
		if err := npz.Write(&buf, arrays...); err != nil {
			return fmt.Errorf("ledger %s: %w", path, err)
		}
		sum := sha256.Sum256(buf.Bytes())
		c.Arrays = hex.EncodeToString(sum[:]) + ".npz"
		file := filepath.Join(filepath.Dir(path), c.Arrays)
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			made = file
		}
		if err := atomicfile.Write(file, buf.Bytes()); err != nil {
			return fmt.Errorf("ledger %s: arrays %s: %w", path, file, err)
		}
	}
	b, err := json.MarshalIndent(&c, "", " ")
	if err != nil {
		return fmt.Errorf("ledger %s: %w", path, err)
	}
	if err := atomicfile.Write(path, append(b, '\n')); err != nil {
		if made != "" {
			os.Remove(made)
		}
		return fmt.Errorf("ledger %s: %w", path, err)
	}
	return nil
}

// ledgerLimit bounds the bytes of a ledger's JSON (that of ten thousand modules
// has some megabytes), and arraysLimit those of its arrays together, on disk
// and unpacked: the moments of a hundred inputs of 2,000 features have 3 GB.
const (
	ledgerLimit = 64 << 20
	arraysLimit = 4 << 30
)

// LoadLedger reads a ledger and the npz beside it.
func LoadLedger(path string) (*Ledger, error) {
	b, err := readFile(path, ledgerLimit)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("ledger %s: there is no such file; make one with lathe score MODEL --data D -o %s", path, path)
	}
	if err != nil {
		return nil, fmt.Errorf("ledger %w", err)
	}
	l := &Ledger{}
	if err := json.Unmarshal(b, l); err != nil {
		return nil, fmt.Errorf("ledger %s: %w; is it a file that lathe score wrote?", path, err)
	}
	if l.Version != LedgerVersion {
		return nil, fmt.Errorf("ledger %s: version %d, this program reads %d; score the model again", path, l.Version, LedgerVersion)
	}
	if err := l.validate(); err != nil {
		return nil, fmt.Errorf("ledger %s: %w; is it a file that lathe score wrote?", path, err)
	}
	if err := l.finish(); err != nil {
		return nil, fmt.Errorf("ledger %s: %w", path, err)
	}
	if l.Arrays != "" {
		if err := l.loadArrays(path); err != nil {
			return nil, fmt.Errorf("ledger %s: %w", path, err)
		}
	}
	return l, nil
}

// readFile reads a regular file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > limit {
		return nil, fmt.Errorf("%s: not a file of at most %d MB", path, limit>>20)
	}
	return os.ReadFile(path)
}

// validate reports what no scoring run writes.
func (l *Ledger) validate() error {
	if len(l.Modules) == 0 || l.Model == "" {
		return errors.New("it has no modules")
	}
	seen := map[string]bool{}
	for i := range l.Modules {
		m := &l.Modules[i]
		if m.ID == "" || seen[m.ID] {
			return fmt.Errorf("module %q is there twice or has no name", m.ID)
		}
		seen[m.ID] = true
		if m.Layer < 0 || !m.Sums.valid() {
			return fmt.Errorf("module %s: negative or infinite sums", m.ID)
		}
	}
	for i := range l.Blocks {
		b := &l.Blocks[i]
		if b.Layer < 0 || !b.Sums.valid() {
			return fmt.Errorf("layer %d: negative or infinite sums", b.Layer)
		}
	}
	samples, end := 0, 0
	for _, p := range l.Parts {
		if p[0] < end || p[1] <= p[0] || p[1] > l.Total {
			return fmt.Errorf("samples %d … %d: parts must be in order, apart and below total_samples, %d", p[0], p[1]-1, l.Total)
		}
		samples, end = samples+p[1]-p[0], p[1]
	}
	if l.Samples < 1 || l.Samples > samples {
		return fmt.Errorf("%d samples out of parts of %d", l.Samples, samples)
	}
	for key, o := range l.Orders {
		if len(o.Units) != len(o.KL) {
			return fmt.Errorf("order %q: %d units and %d divergences", key, len(o.Units), len(o.KL))
		}
	}
	for _, r := range l.Ranges {
		if r.Value == "" || !(r.Min <= r.Max) {
			return fmt.Errorf("range of %q: %v to %v", r.Value, r.Min, r.Max)
		}
	}
	return nil
}

// loadArrays reads the npz that lies beside the ledger at path.
func (l *Ledger) loadArrays(path string) error {
	hash, ok := strings.CutSuffix(l.Arrays, ".npz")
	if _, err := hex.DecodeString(hash); err != nil || !ok || len(hash) != 2*sha256.Size {
		return fmt.Errorf("arrays %q: not the name of an npz that a ledger writes", l.Arrays)
	}
	file := filepath.Join(filepath.Dir(path), l.Arrays)
	b, err := readFile(file, arraysLimit)
	if err != nil {
		return fmt.Errorf("arrays: %w; it must lie beside the ledger", err)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != hash {
		return fmt.Errorf("arrays %s: content and name disagree; score the model again", file)
	}
	z, err := npz.FromBytes(file, b, DefaultLimit)
	if err != nil {
		return fmt.Errorf("arrays %w", err)
	}
	r := arrayReader{z: z}
	l.means, l.moments = map[string]meanSum{}, map[string]*circulant.Moments{}
	names := z.Names()
	for _, name := range names {
		part := strings.Split(name, "/")
		switch {
		case len(part) == 3 && part[0] == "mean" && part[2] == "tokens":
			m := meanSum{Branch: r.floats("mean/" + part[1] + "/branch")}
			if n := r.ints(name); len(n) == 1 {
				m.Tokens = n[0]
			}
			if unit := "mean/" + part[1] + "/unit"; slices.Contains(names, unit) {
				m.Unit = r.floats(unit)
			}
			if r.err == nil && (m.Tokens <= 0 || len(m.Branch) == 0 || m.Unit != nil && len(m.Unit) != len(m.Branch) ||
				!finite(m.Branch) || !finite(m.Unit)) {
				r.err = fmt.Errorf("%s: mean update of %q: no tokens, sizes that disagree, or NaN", file, part[1])
			}
			l.means[part[1]] = m
		case len(part) == 3 && part[0] == "moments" && part[2] == "name":
			at := "moments/" + part[1] + "/"
			m := &circulant.Moments{Sum: r.floats(at + "sum"), Second: r.floats(at + "second")}
			if n := r.floats(at + "count"); len(n) == 1 {
				m.Count = n[0]
			}
			m.N = len(m.Sum)
			if err := m.Validate(); r.err == nil && err != nil {
				r.err = fmt.Errorf("%s: moments %s: %w", file, part[1], err)
			}
			l.moments[string(r.bytes(name))] = m
		}
		if r.err != nil {
			return fmt.Errorf("arrays %w", r.err)
		}
	}
	return nil
}

// arrayReader reads arrays of an npz until one cannot be read or all together
// are too large.
type arrayReader struct {
	z    *npz.File
	size int64
	err  error
}

func (r *arrayReader) array(name string) *npz.Array {
	if r.err != nil {
		return nil
	}
	a, err := r.z.Read(name)
	if err != nil {
		r.err = err
		return nil
	}
	if r.size += int64(len(a.Raw)); r.size > arraysLimit {
		r.err = fmt.Errorf("%q: more than %d MB of arrays", name, int64(arraysLimit)>>20)
		return nil
	}
	return a
}

func (r *arrayReader) floats(name string) (v []float64) {
	if a := r.array(name); a != nil {
		v, r.err = a.Float64s()
	}
	return v
}

func (r *arrayReader) ints(name string) (v []int64) {
	if a := r.array(name); a != nil {
		v, r.err = a.Int64s()
	}
	return v
}

func (r *arrayReader) bytes(name string) []byte {
	if a := r.array(name); a != nil {
		return a.Raw
	}
	return nil
}

func finite(x []float64) bool {
	return !slices.ContainsFunc(x, func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
}

// Merge joins ledgers of different parts of the same data into the ledger of
// all of them; their order does not matter beyond rounding.
func Merge(ledgers []*Ledger) (*Ledger, error) {
	if len(ledgers) == 0 {
		return nil, errors.New("merge: no ledgers")
	}
	sorted := slices.Clone(ledgers)
	slices.SortStableFunc(sorted, func(a, b *Ledger) int { return a.start() - b.start() })
	first := sorted[0]
	out := &Ledger{Version: LedgerVersion, Model: first.Model, Data: first.Data, Total: first.Total,
		Modules: slices.Clone(first.Modules), means: map[string]meanSum{}, moments: map[string]*circulant.Moments{}}
	for i := range out.Modules {
		out.Modules[i].Sums = Sums{}
	}
	out.Blocks = slices.Clone(first.Blocks)
	for i := range out.Blocks {
		out.Blocks[i].Sums = Sums{}
	}
	ranges := map[string]RangeOf{}
	for _, l := range sorted {
		if l.Model != first.Model {
			return nil, fmt.Errorf("merge: ledgers of different models, %s and %s", first.Model, l.Model)
		}
		if l.Data != first.Data || l.Total != first.Total {
			return nil, fmt.Errorf("merge: ledgers of different data, %s and %s; shards come from one file", first.Data, l.Data)
		}
		if len(l.Modules) != len(out.Modules) || !slices.Equal(l.contents(), first.contents()) {
			return nil, errors.New("merge: ledgers that hold different things; score every shard with the same options")
		}
		for _, p := range l.Parts {
			for _, q := range out.Parts {
				if p[0] < q[1] && q[0] < p[1] {
					return nil, fmt.Errorf("merge: samples %d … %d are in two ledgers", max(p[0], q[0]), min(p[1], q[1])-1)
				}
			}
		}
		out.Parts = joinParts(append(out.Parts, l.Parts...))
		out.Samples += l.Samples
		for i := range out.Blocks {
			out.Blocks[i].Sums.add(l.Blocks[i].Sums)
		}
		for i := range out.Modules {
			if l.Modules[i].ID != out.Modules[i].ID {
				return nil, fmt.Errorf("merge: module %s in one ledger is %s in another", out.Modules[i].ID, l.Modules[i].ID)
			}
			out.Modules[i].Sums.add(l.Modules[i].Sums)
		}
		for id, m := range l.means {
			sum, ok := out.means[id]
			if !ok {
				out.means[id] = meanSum{Tokens: m.Tokens, Branch: slices.Clone(m.Branch), Unit: slices.Clone(m.Unit)}
				continue
			}
			if len(sum.Branch) != len(m.Branch) || len(sum.Unit) != len(m.Unit) {
				return nil, fmt.Errorf("merge: mean updates of module %s differ in length", id)
			}
			sum.Tokens += m.Tokens
			addTo(sum.Branch, m.Branch)
			addTo(sum.Unit, m.Unit)
			out.means[id] = sum
		}
		for name, m := range l.moments {
			sum := out.moments[name]
			if sum == nil {
				sum = circulant.NewMoments(m.N)
				out.moments[name] = sum
			}
			if err := sum.Merge(m); err != nil {
				return nil, fmt.Errorf("merge: moments of %q: %w", name, err)
			}
		}
		for _, r := range l.Ranges {
			if q, ok := ranges[r.Value]; ok {
				r.Min, r.Max = min(r.Min, q.Min), max(r.Max, q.Max)
			}
			ranges[r.Value] = r
		}
	}
	for _, r := range first.Ranges {
		out.Ranges = append(out.Ranges, ranges[r.Value])
	}
	if err := out.finish(); err != nil {
		return nil, fmt.Errorf("merge: %w", err)
	}
	return out, nil
}

// contents names what the ledger holds beside the scores of modules.
func (l *Ledger) contents() []string {
	list := slices.Sorted(maps.Keys(l.means))
	for _, name := range slices.Sorted(maps.Keys(l.moments)) {
		list = append(list, "moments of "+name)
	}
	for _, r := range l.Ranges {
		list = append(list, "range of "+r.Value)
	}
	for _, b := range l.Blocks {
		list = append(list, fmt.Sprint("layer ", b.Layer))
	}
	return list
}

func (l *Ledger) start() int {
	if len(l.Parts) == 0 {
		return 0
	}
	return l.Parts[0][0]
}

// joinParts sorts ranges and joins those that touch.
func joinParts(parts [][2]int) [][2]int {
	parts = slices.Clone(parts)
	slices.SortFunc(parts, func(a, b [2]int) int { return a[0] - b[0] })
	var out [][2]int
	for _, p := range parts {
		if n := len(out); n > 0 && out[n-1][1] == p[0] {
			out[n-1][1] = p[1]
		} else {
			out = append(out, p)
		}
	}
	return out
}

// addTo adds src to dst, both of one length.
func addTo(dst, src []float64) {
	for i, v := range src {
		dst[i] += v
	}
}
