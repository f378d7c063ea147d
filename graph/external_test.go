package graph

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/onnx-lathe/lathe/graph/onnxpb"
)

// ext is a tensor of bytes in an external file. A negative length leaves the
// key out, and so does a negative offset.
type ext struct {
	name, location string
	offset, length int64
	dims           []int64
}

func (e ext) proto() *onnxpb.TensorProto {
	t := &onnxpb.TensorProto{Name: &e.name, DataType: proto.Int32(int32(Uint8)), Dims: e.dims, DataLocation: onnxpb.TensorProto_EXTERNAL.Enum()}
	add := func(k, v string) {
		t.ExternalData = append(t.ExternalData, &onnxpb.StringStringEntryProto{Key: &k, Value: &v})
	}
	add("location", e.location)
	if e.offset >= 0 {
		add("offset", strconv.FormatInt(e.offset, 10))
	}
	if e.length >= 0 {
		add("length", strconv.FormatInt(e.length, 10))
	}
	add("hint", "mmap") // not known to anybody
	return t
}

// externalModel returns a model of y<i> = Identity(tensor i); the last one is
// in the training information.
func externalModel(list ...ext) *onnxpb.ModelProto {
	p := &onnxpb.ModelProto{IrVersion: proto.Int64(8), Graph: &onnxpb.GraphProto{Name: proto.String("g")}}
	for i, e := range list {
		if i == len(list)-1 && i > 0 {
			p.TrainingInfo = []*onnxpb.TrainingInfoProto{{Algorithm: &onnxpb.GraphProto{Initializer: []*onnxpb.TensorProto{e.proto()}}}}
			break
		}
		y := fmt.Sprintf("y%d", i)
		p.Graph.Initializer = append(p.Graph.Initializer, e.proto())
		p.Graph.Node = append(p.Graph.Node, &onnxpb.NodeProto{OpType: proto.String("Identity"), Input: []string{e.name}, Output: []string{y}})
		p.Graph.Output = append(p.Graph.Output, &onnxpb.ValueInfoProto{Name: &y})
	}
	return p
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o666); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustLoad(t testing.TB, path string) *Model {
	t.Helper()
	m, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustSave(t testing.TB, m *Model, path string, o SaveOptions) {
	t.Helper()
	if err := m.Save(path, o); err != nil {
		t.Fatal(err)
	}
}

// pattern is n bytes that differ from place to place.
func pattern(n int, seed byte) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(i) ^ byte(i>>8) ^ seed
	}
	return out
}

// sample writes a model with two data files into a folder and returns the
// model's path and the elements of its tensors by name.
func sample(t testing.TB) (string, map[string][]byte) {
	dir := t.TempDir()
	a, b := pattern(9000, 1), pattern(300, 2)
	write(t, filepath.Join(dir, "weights", "a.bin"), a)
	write(t, filepath.Join(dir, "b.bin"), b)
	p := externalModel(
		ext{"w0", "weights/a.bin", 4096, 4000, []int64{4000}},
		ext{"w1", "weights/a.bin", 0, 100, []int64{10, 10}},
		ext{"w2", "b.bin", -1, -1, []int64{300}},
		ext{"same", "weights/a.bin", 0, 100, []int64{100}},
		ext{"train", "b.bin", 10, 20, []int64{20}},
	)
	data, err := proto.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "m.onnx")
	write(t, path, data)
	return path, map[string][]byte{"w0": a[4096:8096], "w1": a[:100], "w2": b, "same": a[:100]}
}

func checkElements(t testing.TB, m *Model, want map[string][]byte) {
	t.Helper()
	if len(m.Graph.Initializers()) != len(want) {
		t.Errorf("%d initializers, want %d", len(m.Graph.Initializers()), len(want))
	}
	for _, v := range m.Graph.Initializers() {
		got, err := v.Const.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want[v.Name]) {
			t.Errorf("%s has %d other bytes", v.Name, len(got))
		}
	}
}

// drop removes an output of the model with its weight.
func drop(m *Model, weight string) {
	v := m.Graph.Value(weight)
	n := v.Uses()[0].Node
	m.Graph.RemoveOutput(slices.Index(m.Graph.Outputs(), n.Output(0)))
	m.Graph.Remove(n)
	m.Graph.RemoveInitializer(v)
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			name, _ := filepath.Rel(dir, path)
			out = append(out, filepath.ToSlash(name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func wantFiles(t testing.TB, dir string, want ...string) {
	t.Helper()
	if got := files(t, dir); !slices.Equal(got, want) {
		t.Errorf("files %v, want %v", got, want)
	}
}

// Into another folder a model takes its data files along, under their names.
func TestExternalDataKeepsItsNames(t *testing.T) {
	path, elements := sample(t)
	m := mustLoad(t, path)
	checkElements(t, m, elements)
	dir := t.TempDir()
	out := filepath.Join(dir, "new.onnx")
	for range 2 { // a second time nothing is in the way
		mustSave(t, m, out, SaveOptions{})
		sameOnWire(t, read(t, out), read(t, path))
		wantFiles(t, dir, "b.bin", "new.onnx", "weights/a.bin")
		checkElements(t, mustLoad(t, out), elements)
	}
	if got := m.Clone().Fingerprint(); got != mustLoad(t, out).Fingerprint() {
		t.Error("the fingerprint depends on where the data are")
	}
}

// Beside its origin a copy gets data of its own, and that stays untouched.
func TestExternalDataBesideTheOrigin(t *testing.T) {
	path, elements := sample(t)
	dir := filepath.Dir(path)
	before := read(t, filepath.Join(dir, "b.bin"))
	m := mustLoad(t, path)
	out := filepath.Join(dir, "new.onnx")
	mustSave(t, m, out, SaveOptions{})
	wantFiles(t, dir, "b.bin", "m.onnx", "new.onnx", "new.onnx.data", "weights/a.bin")
	got := mustLoad(t, out)
	checkElements(t, got, elements)
	if got.Fingerprint() != m.Fingerprint() {
		t.Error("the copy has another fingerprint")
	}
	if !bytes.Equal(read(t, filepath.Join(dir, "b.bin")), before) {
		t.Error("the origin's data changed")
	}

	// Other content under the same name: the new file has the old data's
	// place only once the model is there, and the old data go.
	drop(m, "w2")
	delete(elements, "w2")
	mustSave(t, m, out, SaveOptions{})
	names := files(t, dir)
	if len(names) != 5 || names[0] != "b.bin" || !strings.HasPrefix(names[3], "new.onnx.") || names[3] == "new.onnx.data" {
		t.Errorf("files %v, want one of another name for new.onnx.data", names)
	}
	checkElements(t, mustLoad(t, out), elements)
	if int64(len(read(t, filepath.Join(dir, names[3])))) >= 4600 {
		t.Error("the data did not shrink with the model")
	}
}

// A drop shrinks the file, and a full set of ranges keeps its offsets.
func TestExternalDataShrinks(t *testing.T) {
	path, elements := sample(t)
	m := mustLoad(t, path)
	drop(m, "w0")
	delete(elements, "w0")
	dir := t.TempDir()
	mustSave(t, m, filepath.Join(dir, "m.onnx"), SaveOptions{})
	wantFiles(t, dir, "b.bin", "m.onnx", "weights/a.bin")
	if got := len(read(t, filepath.Join(dir, "weights", "a.bin"))); got != 100 {
		t.Errorf("a.bin has %d bytes, want the 100 that are in use", got)
	}
	checkElements(t, mustLoad(t, filepath.Join(dir, "m.onnx")), elements)
}

// A model saved over itself goes on working, and so does what is in memory.
func TestExternalDataForced(t *testing.T) {
	path, elements := sample(t)
	dir := filepath.Dir(path)
	m := mustLoad(t, path)
	if err := m.Save(path, SaveOptions{}); err == nil || !strings.Contains(err.Error(), "loaded from") {
		t.Fatalf("saved over its own file unasked: %v", err)
	}
	original := read(t, path)
	mustSave(t, m, path, SaveOptions{Force: true})
	sameOnWire(t, read(t, path), original)
	wantFiles(t, dir, "b.bin", "m.onnx", "weights/a.bin")

	for _, weight := range []string{"w0", "same"} {
		drop(m, weight)
		delete(elements, weight)
		mustSave(t, m, path, SaveOptions{Force: true})
		checkElements(t, m, elements)
		checkElements(t, mustLoad(t, path), elements)
	}
	m = mustLoad(t, path)
	for _, weight := range []string{"w1"} { // now from data that are removed by the save
		drop(m, weight)
		delete(elements, weight)
		mustSave(t, m, path, SaveOptions{Force: true})
		checkElements(t, m, elements)
		checkElements(t, mustLoad(t, path), elements)
	}
	if err := m.Save(filepath.Join(dir, "b.bin"), SaveOptions{Force: true}); err == nil || !strings.Contains(err.Error(), "holds weights") {
		t.Errorf("saved over its own weights: %v", err)
	}
}

// Another file under a data file's name is neither replaced nor removed.
func TestExternalDataRespectsOthers(t *testing.T) {
	path, elements := sample(t)
	m := mustLoad(t, path)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "b.bin"), []byte("another model's"))
	write(t, filepath.Join(dir, "new.onnx.data"), []byte("another's too"))
	mustSave(t, m, filepath.Join(dir, "new.onnx"), SaveOptions{})
	checkElements(t, mustLoad(t, filepath.Join(dir, "new.onnx")), elements)
	if s := read(t, filepath.Join(dir, "b.bin")); string(s) != "another model's" {
		t.Errorf("b.bin is %q", s)
	}
	if s := read(t, filepath.Join(dir, "new.onnx.data")); string(s) != "another's too" {
		t.Errorf("new.onnx.data is %q", s)
	}
}

func TestExternalDataRefused(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	write(t, outside, pattern(100, 0))
	hundred := []int64{100}
	for name, c := range map[string]struct {
		e    ext
		want string
	}{
		"up":              {ext{"w", "../secret", 0, 100, hundred}, "leaves the model's folder"},
		"up inside":       {ext{"w", "sub/../data", 0, 100, hundred}, "leaves the model's folder"},
		"up with \\":      {ext{"w", `sub\..\..\data`, 0, 100, hundred}, "leaves the model's folder"},
		"absolute":        {ext{"w", outside, 0, 100, hundred}, "leaves the model's folder"},
		"link":            {ext{"w", "link", 0, 100, hundred}, "not behind a link"},
		"link to folder":  {ext{"w", "linkdir/secret", 0, 100, hundred}, "not behind a link"},
		"no location":     {ext{"w", "", 0, 100, hundred}, "no location"},
		"missing":         {ext{"w", "nothing", 0, 100, hundred}, "missing"},
		"folder":          {ext{"w", "sub", 0, 100, hundred}, "not a regular file"},
		"beyond":          {ext{"w", "data", 10, 100, hundred}, "the file has 100"},
		"far beyond":      {ext{"w", "data", 1 << 62, 100, hundred}, "the file has 100"},
		"overflow":        {ext{"w", "data", 1<<63 - 1, 100, hundred}, "the file has 100"},
		"longer than dim": {ext{"w", "data", 0, 100, []int64{99}}, "dims ask for 99 bytes, data has 100"},
		"2^60":            {ext{"w", "data", 0, -1, []int64{1 << 60}}, "dims overflow"},
		"2^40":            {ext{"w", "data", 0, -1, []int64{1 << 40}}, "the file has 100"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "data"), pattern(100, 0))
			write(t, filepath.Join(dir, "sub", "x"), nil)
			for link, to := range map[string]string{"link": outside, "linkdir": filepath.Dir(outside)} {
				if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
					t.Skip(err)
				}
			}
			data, err := proto.Marshal(externalModel(c.e))
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "m.onnx")
			write(t, path, data)
			_, err = Load(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `"w"`) {
				t.Errorf("error %v, want %q and the tensor's name", err, c.want)
			}
		})
	}
	for key, value := range map[string]string{"offset": "x", "length": "-5"} {
		p := externalModel(ext{"w", "data", -1, -1, hundred})
		p.Graph.Initializer[0].ExternalData = append(p.Graph.Initializer[0].ExternalData, &onnxpb.StringStringEntryProto{Key: &key, Value: &value})
		data, _ := proto.Marshal(p)
		if _, err := Decode(data); err == nil || !strings.Contains(err.Error(), "no number of bytes") {
			t.Errorf("%s %q: error %v", key, value, err)
		}
	}
}

// Weights that change under a loaded model are an error, not other weights.
func TestExternalDataChanged(t *testing.T) {
	path, _ := sample(t)
	data := filepath.Join(filepath.Dir(path), "b.bin")
	for name, change := range map[string]func(){
		"written": func() { os.WriteFile(data, pattern(300, 9), 0o666) },
		"cut":     func() { os.Truncate(data, 7) },
		"gone":    func() { os.Remove(data) },
	} {
		before := time.Now().Add(-time.Hour)
		write(t, data, pattern(300, 2))
		os.Chtimes(data, before, before)
		m := mustLoad(t, path)
		change()
		if _, err := m.Graph.Value("w2").Const.Bytes(); err == nil || !strings.Contains(err.Error(), `"w2"`) {
			t.Errorf("%s: error %v", name, err)
		}
		out := filepath.Join(t.TempDir(), "new.onnx")
		if err := m.Save(out, SaveOptions{}); err == nil {
			t.Errorf("%s: saved all the same", name)
		}
		wantFiles(t, filepath.Dir(out))
	}
}

// A model from memory keeps its references but has no data.
func TestExternalDataWithoutFolder(t *testing.T) {
	path, _ := sample(t)
	data := read(t, path)
	m, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	sameOnWire(t, got, data)
	if _, err := m.Graph.Value("w0").Const.Bytes(); err == nil || !strings.Contains(err.Error(), "not loaded from a file") {
		t.Errorf("reading: %v", err)
	}
	if err := m.Save(filepath.Join(t.TempDir(), "m.onnx"), SaveOptions{}); err == nil || !strings.Contains(err.Error(), "not loaded from a file") {
		t.Errorf("saving: %v", err)
	}
}

// Weights of a model that is too large for one file go to external data.
func TestTooLargeForOneFile(t *testing.T) {
	m := NewModel("g", 8, 17)
	want := map[string][]byte{}
	for i := range 4 {
		name := fmt.Sprintf("w%d", i)
		want[name] = pattern(100_000+i, byte(i))
		tensor, err := NewTensor(Uint8, []int64{int64(len(want[name]))}, want[name])
		if err != nil {
			t.Fatal(err)
		}
		v := m.Graph.AddInitializer(name, tensor)
		y := m.Graph.NewNode("", "Identity", "", []*Value{v}, []string{"y" + name}).Output(0)
		m.Graph.AddOutput(y, TensorType(Uint8, Known(int64(len(want[name])))))
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "m.onnx")
	if err := m.save(t.Context(), path, SaveOptions{}, 300_000); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, dir, "m.onnx", "m.onnx.data")
	got := mustLoad(t, path)
	checkElements(t, got, want)
	for _, v := range got.Graph.Initializers() {
		if e := v.Const.External(); e == nil || e.Offset%pageAlign != 0 {
			t.Errorf("%s: external %+v, want an aligned range", v.Name, e)
		}
	}
	err := m.save(t.Context(), filepath.Join(dir, "n.onnx"), SaveOptions{}, 100)
	if err == nil || !strings.Contains(err.Error(), "can't be saved") {
		t.Errorf("error %v", err)
	}
	wantFiles(t, dir, "m.onnx", "m.onnx.data")
}

// Neither external weights nor those of a large file are held in memory, from
// load to save.
func TestMemoryStaysSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 250 MB")
	}
	const tensors, size = 4, 24 << 20
	dir := t.TempDir()
	var list []ext
	for i := range tensors {
		list = append(list, ext{fmt.Sprintf("w%d", i), "data", int64(i) * size, size, []int64{size}})
	}
	list = append(list, ext{"train", "data", 0, 1, []int64{1}})
	sparse, err := os.Create(filepath.Join(dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sparse.Truncate(tensors * size); err != nil {
		t.Fatal(err)
	}
	sparse.Close()
	data, err := proto.Marshal(externalModel(list...))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "external.onnx"), data)

	inline := externalModel(ext{"w", "x", 0, 0, []int64{3 * size}})
	raw := &onnxpb.TensorProto{Name: proto.String("w"), DataType: proto.Int32(int32(Uint8)), Dims: []int64{3 * size}, RawData: make([]byte, 3*size)}
	inline.Graph.Initializer[0] = raw
	if data, err = proto.Marshal(inline); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "inline.onnx"), data)
	data, inline, raw = nil, nil, nil

	for _, name := range []string{"external.onnx", "inline.onnx"} {
		runtime.GC()
		peak := watchHeap(t)
		m := mustLoad(t, filepath.Join(dir, name))
		if name == "external.onnx" {
			drop(m, "w0")
			drop(m, "w1")
		}
		out := t.TempDir()
		mustSave(t, m, filepath.Join(out, "m.onnx"), SaveOptions{})
		m.Fingerprint()
		if got := peak(); got > 16<<20 {
			t.Errorf("%s: %d MB of heap, want a few", name, got>>20)
		}
		if name == "external.onnx" {
			if got := len(files(t, out)); got != 2 {
				t.Errorf("%d files", got)
			}
			if info, _ := os.Stat(filepath.Join(out, "data")); info == nil || info.Size() > 2*size+pageAlign {
				t.Errorf("data: %v, want two tensors", info)
			}
		} else {
			same, err := os.Open(filepath.Join(out, "m.onnx"))
			if err != nil {
				t.Fatal(err)
			}
			defer same.Close()
			a, _ := same.Stat()
			b, _ := os.Stat(filepath.Join(dir, name))
			if a.Size() != b.Size() {
				t.Errorf("%d bytes, want %d", a.Size(), b.Size())
			}
		}
	}
}

// watchHeap returns a function that gives the most heap that was in use over
// what was at the start.
func watchHeap(t testing.TB) func() uint64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	start, peak := s.HeapInuse, uint64(0)
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				var s runtime.MemStats
				runtime.ReadMemStats(&s)
				peak = max(peak, s.HeapInuse-min(start, s.HeapInuse))
			}
		}
	}()
	return func() uint64 {
		close(done)
		<-stopped
		return peak
	}
}
