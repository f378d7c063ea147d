package calib_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/testmodels"
)

// small is a ledger of a small model with all that a ledger can hold.
func small(t testing.TB) (*graph.Model, *calib.Ledger) {
	t.Helper()
	m := testmodels.BERT(testmodels.Size{Layers: 1, Width: 4, Heads: 1, Hidden: 4, Vocab: 8, Seed: 1}, testmodels.BERTOptions{})
	src := source(t, tokens("input_ids", 8, 4, 3), padding(4, 3, false), tokens("token_type_ids", 2, 4, 3))
	l, err := calib.Score(ctx, m, feed(t, m, src), everything)
	if err != nil {
		t.Fatal(err)
	}
	l.Orders = map[string]calib.Order{"a": {Units: []string{"M0"}, KL: []float64{0.25}, Data: l.Data, Part: [2]int{0, 4}, Samples: 4}}
	return m, l
}

// TestLedgerRoundTrip: a ledger that was saved and loaded is the same, and
// saves to the same bytes.
func TestLedgerRoundTrip(t *testing.T) {
	m, l := small(t)
	path := filepath.Join(t.TempDir(), "l.json")
	if err := l.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := calib.LoadLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range l.Modules {
		a, b, ok := l.MeanUpdate(x.ID)
		c, d, ok2 := got.MeanUpdate(x.ID)
		if !ok || !ok2 || !slices.Equal(a, c) || !slices.Equal(b, d) || len(b) == 0 {
			t.Errorf("mean update of %s: %v and %v, want %v and %v", x.ID, c, d, a, b)
		}
		if got.Modules[i] != x || *got.Module(x.ID) != x {
			t.Errorf("%+v, want %+v", got.Modules[i], x)
		}
	}
	n := 0
	for _, node := range m.Graph.Nodes() {
		if x := node.Input(0); x != nil && l.Moments(x.Name) != nil {
			n++
			if !reflect.DeepEqual(got.Moments(x.Name), l.Moments(x.Name)) {
				t.Errorf("moments of %q differ", x.Name)
			}
		}
	}
	if n < 6 || got.Moments("none") != nil || got.Module("none") != nil {
		t.Errorf("moments of %d inputs of layers, want those of six layers", n)
	}
	if _, _, ok := got.MeanUpdate("none"); ok {
		t.Error("a mean update of a module that is not there")
	}
	if !reflect.DeepEqual(got.Orders, l.Orders) || !slices.Equal(got.Ranges, l.Ranges) || !slices.Equal(got.Parts, l.Parts) {
		t.Errorf("%+v, want %+v", got, l)
	}
	if a, b := saved(t, got), saved(t, l); a != b {
		t.Error("the loaded ledger saves to other bytes")
	}
	list, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(list) != 2 {
		t.Errorf("%d files, want the ledger and its arrays: %v", len(list), err)
	}
}

// written saves a ledger after edit changed its JSON, with arrays beside it
// where they are given.
func written(t testing.TB, edit func(l map[string]any), arrays []byte) string {
	t.Helper()
	_, l := small(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "l.json")
	if err := l.Save(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	v := map[string]any{}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if arrays != nil {
		sum := sha256.Sum256(arrays)
		v["arrays"] = hex.EncodeToString(sum[:]) + ".npz"
		if err := os.WriteFile(filepath.Join(dir, v["arrays"].(string)), arrays, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if edit != nil {
		edit(v)
	}
	if b, err = json.Marshal(v); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestHostileLedgers: what no scoring run wrote is refused, and says what is
// wrong with it.
func TestHostileLedgers(t *testing.T) {
	module := func(l map[string]any, i int) map[string]any { return l["modules"].([]any)[i].(map[string]any) }
	sums := func(l map[string]any) map[string]any { return module(l, 0)["sums"].(map[string]any) }
	for _, c := range []struct {
		name string
		edit func(l map[string]any)
		want string
	}{
		{"another version", func(l map[string]any) { l["version"] = 2 }, "version 2, this program reads 1; score the model again"},
		{"no version", func(l map[string]any) { delete(l, "version") }, "version 0"},
		{"no modules", func(l map[string]any) { l["modules"] = []any{} }, "it has no modules"},
		{"no model", func(l map[string]any) { delete(l, "model") }, "it has no modules"},
		{"a module twice", func(l map[string]any) { module(l, 1)["id"] = "A0" }, `module "A0" is there twice`},
		{"no tokens", func(l map[string]any) { sums(l)["tokens"] = 0 }, "module A0: negative or infinite sums"},
		{"nothing at all", func(l map[string]any) { clear(sums(l)) }, "module A0: no token was seen"},
		{"negative sums", func(l map[string]any) { sums(l)["score"] = -1 }, "module A0: negative or infinite sums"},
		{"more samples than tokens", func(l map[string]any) { sums(l)["samples"] = 1 << 40 }, "module A0: negative or infinite sums"},
		{"a huge number", func(l map[string]any) { sums(l)["score"] = json.Number("1e999") }, "cannot unmarshal number 1e999"},
		{"a text for a number", func(l map[string]any) { sums(l)["score"] = "much" }, "cannot unmarshal string"},
		{"a negative layer", func(l map[string]any) { module(l, 0)["layer"] = -1 }, "module A0: negative"},
		{"a bad block", func(l map[string]any) { l["blocks"].([]any)[0].(map[string]any)["layer"] = -1 }, "layer -1: negative"},
		{"parts that overlap", func(l map[string]any) { l["parts"] = []any{[]int{0, 3}, []int{2, 4}} }, "samples 2 … 3: parts must be in order, apart"},
		{"parts out of order", func(l map[string]any) { l["parts"] = []any{[]int{2, 4}, []int{0, 2}} }, "samples 0 … 1: parts must be in order"},
		{"a part beyond the data", func(l map[string]any) { l["parts"] = []any{[]int{0, 9}} }, "below total_samples, 4"},
		{"an empty part", func(l map[string]any) { l["parts"] = []any{[]int{1, 1}} }, "samples 1 … 0"},
		{"more samples than parts", func(l map[string]any) { l["samples"] = 5 }, "5 samples out of parts of 4"},
		{"an order without divergences", func(l map[string]any) { l["orders"] = map[string]any{"x": map[string]any{"units": []string{"A0"}}} }, `order "x": 1 units and 0 divergences`},
		{"a range upside down", func(l map[string]any) { l["ranges"] = []any{map[string]any{"value": "x", "min": 1, "max": 0}} }, `range of "x": 1 to 0`},
		{"arrays in another folder", func(l map[string]any) { l["arrays"] = "../" + l["arrays"].(string) }, "not the name of an npz that a ledger writes"},
		{"arrays with a short name", func(l map[string]any) { l["arrays"] = "ab.npz" }, "not the name of an npz"},
		{"arrays that are not there", func(l map[string]any) { l["arrays"] = strings.Repeat("ab", 32) + ".npz" }, "it must lie beside the ledger"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := written(t, c.edit, nil)
			_, err := calib.LoadLedger(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "ledger "+path+": ") {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	for name, text := range map[string]string{"text": "not JSON", "empty": "", "a list": "[]", "cut": `{"version": 1, "modules": [`, "null": "null"} {
		path := filepath.Join(t.TempDir(), "l.json")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := calib.LoadLedger(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an error that names the file", name, err)
		}
	}
	if _, err := calib.LoadLedger(filepath.Join(t.TempDir(), "none.json")); err == nil || !strings.Contains(err.Error(), "make one with lathe score") {
		t.Errorf("a ledger that is not there: %v", err)
	}
	if _, err := calib.LoadLedger(t.TempDir()); err == nil || !strings.Contains(err.Error(), "not a file") {
		t.Errorf("a folder: %v", err)
	}
}

// TestHostileArrays: arrays that no ledger wrote, under a name that fits them.
func TestHostileArrays(t *testing.T) {
	mean := func(tokens int64, branch []float64, more ...*npz.Array) []*npz.Array {
		return append([]*npz.Array{npz.Int64Array("mean/A0/tokens", []int{1}, []int64{tokens}),
			npz.Float64Array("mean/A0/branch", []int{len(branch)}, branch)}, more...)
	}
	moments := func(count float64, sum, second []float64) []*npz.Array {
		return []*npz.Array{{Name: "moments/0/name", DType: graph.Uint8, Shape: []int{1}, Raw: []byte("x")}, npz.Float64Array("moments/0/count", []int{1}, []float64{count}),
			npz.Float64Array("moments/0/sum", []int{len(sum)}, sum), npz.Float64Array("moments/0/second", []int{len(second)}, second)}
	}
	whole := archive(t, mean(3, []float64{1, 2})...)
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/3] ^= 0x40
	for _, c := range []struct {
		name   string
		arrays []byte
		want   string
	}{
		{"cut off", whole[:len(whole)-30], "not an .npz archive"},
		{"no zip", []byte("PK no"), "not an .npz archive"},
		{"no tokens", archive(t, mean(0, []float64{1, 2})...), `mean update of "A0"`},
		{"no features", archive(t, mean(1, nil)...), `mean update of "A0"`},
		{"NaN", archive(t, mean(1, []float64{math.NaN()})...), `mean update of "A0"`},
		{"sizes that disagree", archive(t, mean(1, []float64{1, 2}, npz.Float64Array("mean/A0/unit", []int{1}, []float64{1}))...), `mean update of "A0"`},
		{"no update", archive(t, npz.Int64Array("mean/A0/tokens", []int{1}, []int64{1})), `no array "mean/A0/branch"`},
		{"another type", archive(t, npz.Int64Array("mean/A0/tokens", []int{1}, []int64{1}), floats("mean/A0/branch", 2)), "want double"},
		{"moments of another size", archive(t, moments(1, []float64{1, 2}, []float64{1, 2, 3})...), "moments 0"},
		{"moments of no tokens", archive(t, moments(0, []float64{1}, []float64{1})...), "moments 0"},
		{"infinite moments", archive(t, moments(1, []float64{math.Inf(1)}, []float64{1})...), "moments 0"},
	} {
		_, err := calib.LoadLedger(written(t, nil, c.arrays))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), ": arrays ") {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	// What the names say need not be what is there.
	path := written(t, nil, whole)
	files, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*.npz"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.WriteFile(f, flipped, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := calib.LoadLedger(path); err == nil || !strings.Contains(err.Error(), "content and name disagree") {
		t.Errorf("changed arrays: %v", err)
	}
}

// TestMergeFails: ledgers that do not belong together.
func TestMergeFails(t *testing.T) {
	m := testmodels.GPT2(testmodels.Size{Layers: 1, Seed: 1}, testmodels.GPT2Options{})
	all := feed(t, m, source(t, tokens("input_ids", 40, 6, 4)))
	score := func(f *calib.Feed, o calib.ScoreOptions) *calib.Ledger {
		l, err := calib.Score(ctx, m, f, o)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	part := func() *calib.Ledger { return score(all.Slice(0, 3), everything) }
	rest := score(all.Slice(3, 6), everything)
	edited := func(edit func(l *calib.Ledger)) *calib.Ledger { l := part(); edit(l); return l }
	for _, c := range []struct {
		name string
		list []*calib.Ledger
		want string
	}{
		{"none", nil, "no ledgers"},
		{"one part twice", []*calib.Ledger{part(), rest, part()}, "samples 0 … 2 are in two ledgers"},
		{"parts that overlap", []*calib.Ledger{score(all.Slice(0, 4), everything), rest}, "samples 3 … 3 are in two ledgers"},
		{"another model", []*calib.Ledger{edited(func(l *calib.Ledger) { l.Model = "sha256:0" }), rest}, "ledgers of different models"},
		{"other data", []*calib.Ledger{edited(func(l *calib.Ledger) { l.Data = "sha256:0" }), rest}, "ledgers of different data"},
		{"other options", []*calib.Ledger{score(all.Slice(0, 3), calib.ScoreOptions{}), rest}, "score every shard with the same options"},
		{"other ranges", []*calib.Ledger{edited(func(l *calib.Ledger) { l.Ranges[0].Value = "?" }), rest}, "score every shard with the same options"},
		{"other layers", []*calib.Ledger{edited(func(l *calib.Ledger) { l.Blocks[0].Layer = 7 }), rest}, "score every shard with the same options"},
		{"other modules", []*calib.Ledger{edited(func(l *calib.Ledger) { l.Modules[1].ID = "M7" }), rest}, "module M7 in one ledger is M0 in another"},
		{"fewer modules", []*calib.Ledger{edited(func(l *calib.Ledger) { l.Modules = l.Modules[:1] }), rest}, "score every shard with the same options"},
	} {
		if _, err := calib.Merge(c.list); err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "merge: ") {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	// A merge changes none of what it joins.
	a := part()
	before := saved(t, a)
	if _, err := calib.Merge([]*calib.Ledger{rest, a}); err != nil {
		t.Fatal(err)
	}
	if saved(t, a) != before {
		t.Error("merging changed a ledger")
	}
	one, err := calib.Merge([]*calib.Ledger{a})
	if err != nil {
		t.Fatal(err)
	}
	if got := saved(t, one); got != before {
		t.Errorf("the merge of one ledger is\n%s\nwant\n%s", got, before)
	}
}

// FuzzLedger: whatever the files hold, loading ends with an error or with a
// ledger that can be used and written.
func FuzzLedger(f *testing.F) {
	_, l := small(f)
	path := filepath.Join(f.TempDir(), "l.json")
	if err := l.Save(path); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	saved := map[string]any{}
	if err := json.Unmarshal(b, &saved); err != nil {
		f.Fatal(err)
	}
	arrays, err := os.ReadFile(filepath.Join(filepath.Dir(path), saved["arrays"].(string)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, arrays)
	f.Add([]byte(`{"version":1,"model":"m","total_samples":1,"parts":[[0,1]],"samples":1,"modules":[{"id":"A0","droppable":false}]}`), []byte("PK"))
	f.Add([]byte("{"), []byte(nil))
	f.Fuzz(func(t *testing.T, b, arrays []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "l.json")
		// The arrays get the name that fits them, or the check of that ends
		// every run.
		v := map[string]json.RawMessage{}
		if json.Unmarshal(b, &v) == nil && len(arrays) > 0 {
			sum := sha256.Sum256(arrays)
			name := hex.EncodeToString(sum[:]) + ".npz"
			maps.DeleteFunc(v, func(key string, _ json.RawMessage) bool { return strings.EqualFold(key, "arrays") })
			v["arrays"] = json.RawMessage(fmt.Sprintf("%q", name))
			b, _ = json.Marshal(v)
			if err := os.WriteFile(filepath.Join(dir, name), arrays, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		l, err := calib.LoadLedger(path)
		if err != nil {
			return
		}
		for _, m := range l.Modules {
			l.MeanUpdate(m.ID)
			if math.IsNaN(m.Score) || m.Stderr < 0 {
				t.Errorf("%+v", m)
			}
		}
		again, err := calib.Merge([]*calib.Ledger{l})
		if err != nil {
			t.Fatalf("a ledger that loads does not merge with nothing: %v", err)
		}
		if _, err := json.Marshal(again); err != nil { // Save syncs, which is slow
			t.Fatalf("a ledger that loads cannot be written: %v", err)
		}
	})
}

// TestSaveFails: a ledger that cannot be written leaves no arrays behind, but those
// of another ledger.
func TestSaveFails(t *testing.T) {
	_, l := small(t)
	folder := t.TempDir()
	path := filepath.Join(folder, "taken", "ledger.json") // a folder has the ledger's name
	if err := os.MkdirAll(filepath.Join(path, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		list, err := filepath.Glob(filepath.Join(folder, "taken", "*.npz"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if err := l.Save(path); err == nil || count() != 0 {
		t.Errorf("error %v, %d files of arrays", err, count())
	}
	if err := l.Save(filepath.Join(folder, "taken", "other.json")); err != nil {
		t.Fatal(err)
	}
	if err := l.Save(path); err == nil || count() != 1 {
		t.Errorf("error %v, %d files of arrays beside another ledger", err, count())
	}
}
