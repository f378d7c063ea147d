package graph

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/onnx-lathe/lathe/graph/onnxpb"
	"github.com/onnx-lathe/lathe/internal/atomicfile"
)

// An edit changes the fields that it is about and no other.
func TestEditsChangeNothingElse(t *testing.T) {
	str := proto.String
	for name, c := range map[string]struct {
		edit    func(m *Model)
		removed []string // lines of the wire, in order
		added   []string
	}{
		"rename": {
			func(m *Model) { m.Graph.Value("a").Rename("b") },
			[]string{
				`/graph/node[0]/output[0] = "a"`,
				`/graph/node[0]/device_configurations[0]/sharding_spec[0]/tensor_name = "a"`,
				`/graph/node[1]/input[0] = "a"`,
				`/graph/value_info[0]/name = "a"`,
				`/graph/quantization_annotation[0]/tensor_name = "a"`,
			},
			[]string{
				`/graph/node[0]/output[0] = "b"`,
				`/graph/node[0]/device_configurations[0]/sharding_spec[0]/tensor_name = "b"`,
				`/graph/node[1]/input[0] = "b"`,
				`/graph/value_info[0]/name = "b"`,
				`/graph/quantization_annotation[0]/tensor_name = "b"`,
			},
		},
		"initializer": {
			func(m *Model) { m.Graph.Value("w").Rename("v") },
			[]string{
				`/graph/node[1]/input[1] = "w"`,
				`/graph/initializer[0]/name = "w"`,
				`/graph/quantization_annotation[0]/quant_parameter_tensor_names[0]/value = "w"`,
			},
			[]string{
				`/graph/node[1]/input[1] = "v"`,
				`/graph/initializer[0]/name = "v"`,
				`/graph/quantization_annotation[0]/quant_parameter_tensor_names[0]/value = "v"`,
			},
		},
		"shape": {
			func(m *Model) { m.Graph.Inputs()[0].Declared = TensorType(Float32, Known(7), Known(2)) },
			[]string{
				`/graph/input[0]/type/tensor_type/shape/dim[0]/dim_param = "n"`,
				`/graph/input[0]/type/tensor_type/shape/dim[0]/denotation = "DATA_BATCH"`,
			},
			[]string{`/graph/input[0]/type/tensor_type/shape/dim[0]/dim_value = 7`},
		},
		"dim": { // the denotation of a dimension outlives its size
			func(m *Model) { m.Graph.Inputs()[0].Declared.Shape.Dims[0] = Known(7) },
			[]string{`/graph/input[0]/type/tensor_type/shape/dim[0]/dim_param = "n"`},
			[]string{`/graph/input[0]/type/tensor_type/shape/dim[0]/dim_value = 7`},
		},
		"new type": {
			func(m *Model) { m.Graph.Value("w").Declared = nil; m.Graph.Value("a").Declared = nil },
			[]string{`/graph/value_info[0] {}`, `/graph/value_info[0]/name = "a"`, `/graph/value_info[0]/type {}`,
				`/graph/value_info[0]/type/tensor_type {}`, `/graph/value_info[0]/type/tensor_type/elem_type = 1`,
				`/graph/value_info[0]/type/tensor_type/shape {}`,
				`/graph/value_info[0]/type/tensor_type/shape/dim[0] {}`,
				`/graph/value_info[0]/type/tensor_type/shape/dim[0]/dim_param = "n"`,
				`/graph/value_info[0]/type/tensor_type/shape/dim[0]/denotation = "DATA_BATCH"`,
				`/graph/value_info[0]/type/tensor_type/shape/dim[1] {}`,
				`/graph/value_info[0]/type/tensor_type/shape/dim[1]/dim_value = 2`,
			},
			nil,
		},
		"attribute": {
			func(m *Model) { m.Graph.Nodes()[0].Attrs[0].I = 5 },
			nil,
			[]string{`/graph/node[0]/attribute[0]/i = 5`},
		},
		"new attribute": { // also where its value is zero
			func(m *Model) { m.Graph.Nodes()[1].SetAttr(IntAttr("axis", 0)) },
			nil,
			[]string{`/graph/node[1]/attribute[0] {}`, `/graph/node[1]/attribute[0]/name = "axis"`,
				`/graph/node[1]/attribute[0]/i = 0`, `/graph/node[1]/attribute[0]/type = 2`},
		},
		"metadata": {
			func(m *Model) { m.SetMeta("k", "new"); m.SetMeta("l", ""); m.SetOpset("lathe", 1) },
			[]string{`/metadata_props[0]/value = "old"`},
			[]string{`/opset_import[1] {}`, `/opset_import[1]/domain = "lathe"`, `/opset_import[1]/version = 1`,
				`/metadata_props[0]/value = "new"`,
				`/metadata_props[1] {}`, `/metadata_props[1]/key = "l"`, `/metadata_props[1]/value = ""`},
		},
		"weight": { // another value in the same place, in the plain form
			func(m *Model) { m.Graph.Value("w").Const = Float32Tensor([]int64{2}, []float32{5, 6}) },
			[]string{`/graph/initializer[0]/float_data[0] = 0x3f800000 (1)`, `/graph/initializer[0]/float_data[1] = 0x40000000 (2)`,
				`/graph/initializer[0]/doc_string = ""`},
			[]string{`/graph/initializer[0]/raw_data = "\x00\x00\xa0@\x00\x00\xc0@"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := smallModel()
			p.Graph.Node[0].Attribute = []*onnxpb.AttributeProto{{Name: str("axis"), Type: onnxpb.AttributeProto_INT.Enum()}}
			p.Graph.Node[0].DeviceConfigurations = []*onnxpb.NodeDeviceConfigurationProto{{ShardingSpec: []*onnxpb.ShardingSpecProto{{TensorName: str("a")}}}}
			p.Graph.QuantizationAnnotation = []*onnxpb.TensorAnnotation{{TensorName: str("a"), QuantParameterTensorNames: []*onnxpb.StringStringEntryProto{{Key: str("SCALE_TENSOR"), Value: str("w")}}}}
			p.Graph.ValueInfo = append(p.Graph.ValueInfo, &onnxpb.ValueInfoProto{Name: str("nothing")})
			p.Graph.Initializer[0].DocString = str("")
			p.MetadataProps = []*onnxpb.StringStringEntryProto{{Key: str("k"), Value: str("old")}}
			data, err := proto.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			m, err := Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			clone := m.Clone()
			c.edit(m)
			got, err := m.Encode()
			if err != nil {
				t.Fatal(err)
			}
			before, after := wireLines(t, data), wireLines(t, got)
			if name == "new type" { // the entry behind moves up
				for i, s := range before {
					before[i] = strings.Replace(s, "value_info[1]", "value_info[x]", 1)
				}
				for i, s := range after {
					after[i] = strings.Replace(s, "value_info[0]", "value_info[x]", 1)
				}
			}
			removed := slices.DeleteFunc(slices.Clone(before), func(s string) bool { return slices.Contains(after, s) })
			added := slices.DeleteFunc(slices.Clone(after), func(s string) bool { return slices.Contains(before, s) })
			if !slices.Equal(removed, c.removed) {
				t.Errorf("removed\n\t%s\nwant\n\t%s", strings.Join(removed, "\n\t"), strings.Join(c.removed, "\n\t"))
			}
			if !slices.Equal(added, c.added) {
				t.Errorf("added\n\t%s\nwant\n\t%s", strings.Join(added, "\n\t"), strings.Join(c.added, "\n\t"))
			}
			if name == "dim" || name == "attribute" {
				return // a clone shares types
			}
			if got, err = clone.Encode(); err != nil {
				t.Fatal(err)
			}
			sameOnWire(t, got, data)
		})
	}
}

// What is about a value goes with it, what was about nothing stays.
func TestRemovedValuesLeaveNothing(t *testing.T) {
	p := smallModel()
	str := proto.String
	p.Graph.ValueInfo = append(p.Graph.ValueInfo, &onnxpb.ValueInfoProto{Name: str("nothing")})
	p.Graph.QuantizationAnnotation = []*onnxpb.TensorAnnotation{{TensorName: str("a")}, {TensorName: str("nobody")}}
	data, _ := proto.Marshal(p)
	m, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	g := m.Graph
	relu := g.Value("a").Def()
	g.Value("a").ReplaceUses(g.Value("x"))
	g.Remove(relu)
	got, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Join(wireLines(t, got), "\n")
	if strings.Contains(lines, `"a"`) || !strings.Contains(lines, `"nothing"`) || !strings.Contains(lines, `"nobody"`) {
		t.Errorf("after the removal:\n%s", lines)
	}
}

// A model made in memory is one that loads, and says the same.
func TestSaveNewModel(t *testing.T) {
	m, _ := chain(t)
	f := m.AddFunction("d", "f", Opset{Version: 17})
	x := f.Graph.AddInput("x", nil)
	f.Graph.AddOutput(f.Graph.NewNode("", "Relu", "", []*Value{x}, []string{"y"}).Output(0), nil)
	path := filepath.Join(t.TempDir(), "m.onnx")
	mustSave(t, m, path, SaveOptions{})
	got := mustLoad(t, path)
	if got.Text() != m.Text() {
		t.Errorf("loaded\n%s\nwant\n%s", got.Text(), m.Text())
	}
	if err := Check(got); err != nil {
		t.Error(err)
	}
	if got.Path() != path {
		t.Errorf("path %q", got.Path())
	}
}

func TestFingerprint(t *testing.T) {
	m, _ := chain(t)
	a := m.Fingerprint()
	m.SetMeta(historyKey, "{}")
	if m.Fingerprint() != a {
		t.Error("the history is in the fingerprint")
	}
	if _, ok := m.Meta(historyKey); !ok {
		t.Error("the history is lost")
	}
	m.Doc = "other"
	if m.Fingerprint() == a {
		t.Error("the documentation is not in the fingerprint")
	}
	path, _ := sample(t)
	a = mustLoad(t, path).Fingerprint()
	b := filepath.Join(filepath.Dir(path), "b.bin")
	write(t, b, pattern(300, 7))
	if mustLoad(t, path).Fingerprint() == a {
		t.Error("external data are not in the fingerprint")
	}
}

// interruptAt is a context that ends at the n-th look at it.
type interruptAt struct {
	context.Context
	mu sync.Mutex
	n  int
}

func (c *interruptAt) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n--; c.n < 0 {
		return context.Canceled
	}
	return nil
}

// Wherever a save is interrupted, the old model is whole and nothing else is
// there.
func TestSaveIsAtomic(t *testing.T) {
	path, _ := sample(t)
	dir := t.TempDir()
	out := filepath.Join(dir, "out.onnx")
	old, _ := chain(t)
	mustSave(t, old, out, SaveOptions{})
	before := read(t, out)
	steps := 0
	for ; ; steps++ {
		m := mustLoad(t, path)
		err := m.SaveContext(&interruptAt{Context: t.Context(), n: steps}, out, SaveOptions{})
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), "canceled") {
			t.Fatalf("step %d: %v", steps, err)
		}
		if !bytes.Equal(read(t, out), before) {
			t.Fatalf("step %d: the old model changed", steps)
		}
		wantFiles(t, dir, "out.onnx")
		if _, err := os.Stat(filepath.Join(dir, "weights")); err == nil {
			t.Fatalf("step %d: a folder is left", steps)
		}
	}
	if steps < 5 {
		t.Errorf("only %d places to interrupt", steps)
	}
	wantFiles(t, dir, "b.bin", "out.onnx", "weights/a.bin")
}

// A save that is killed leaves the one model or the other.
func TestSaveKilled(t *testing.T) {
	models := func() []*Model {
		var out []*Model
		for _, n := range []int{1 << 20, 1 << 21} {
			m, _ := chain(t)
			x, err := NewTensor(Uint8, []int64{int64(n)}, pattern(n, 0))
			if err != nil {
				t.Fatal(err)
			}
			m.Graph.AddInitializer("w", x)
			out = append(out, m)
		}
		return out
	}
	if path := os.Getenv("LATHE_TEST_SAVE"); path != "" {
		fmt.Println("ready")
		for i := 0; ; i++ {
			mustSave(t, models()[i%2], path, SaveOptions{})
		}
	}
	path := filepath.Join(t.TempDir(), "m.onnx")
	both := models()
	mustSave(t, both[0], path, SaveOptions{})
	want := map[string]bool{both[0].Fingerprint(): true, both[1].Fingerprint(): true}
	for i := range 4 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSaveKilled$")
		cmd.Env = append(os.Environ(), "LATHE_TEST_SAVE="+path)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(stdout, make([]byte, len("ready"))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(30+17*i) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
		if m := mustLoad(t, path); !want[m.Fingerprint()] {
			t.Fatal("the model is neither of the two")
		}
	}
	// The next save clears up what the killed one left, once it is old.
	mustSave(t, both[0], path, SaveOptions{})
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".m.onnx.*"))
	left = append(left, atomicfile.TempName(path))
	write(t, left[len(left)-1], nil)
	other := atomicfile.TempName(filepath.Join(filepath.Dir(path), "other.onnx"))
	write(t, other, nil)
	for _, name := range append(left, other) {
		hours := time.Now().Add(-2 * time.Hour)
		os.Chtimes(name, hours, hours)
	}
	mustSave(t, both[0], path, SaveOptions{})
	wantFiles(t, filepath.Dir(path), filepath.Base(other), "m.onnx")
}

func TestSaveRefuses(t *testing.T) {
	m, _ := chain(t)
	dir := t.TempDir()
	for name, want := range map[string]string{
		"":            "not a regular file",
		"no/folder/m": "folder",
	} {
		err := m.Save(filepath.Join(dir, name), SaveOptions{Force: true})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "save ") {
			t.Errorf("%q: error %v, want %q", name, err, want)
		}
	}
	// What would not load again is not saved.
	m.Graph.outputs = append(m.Graph.outputs, &Value{Name: "nowhere", graph: m.Graph})
	path := filepath.Join(dir, "m.onnx")
	if err := m.Save(path, SaveOptions{}); err == nil || !strings.Contains(err.Error(), `"nowhere"`) {
		t.Errorf("a broken model: %v", err)
	}
	wantFiles(t, dir)
}

// A file keeps its permissions, and a link to the source is the source.
func TestSavePermissions(t *testing.T) {
	m, _ := chain(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "m.onnx")
	mustSave(t, m, path, SaveOptions{})
	if info, _ := os.Stat(path); info.Mode().Perm()&0o400 == 0 || info.Mode().Perm() == 0o600 {
		t.Errorf("a new file has mode %v, want what the system gives", info.Mode())
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	mustSave(t, m, path, SaveOptions{})
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, want that of the file before", info.Mode())
	}
	link := filepath.Join(dir, "link.onnx")
	if err := os.Symlink("m.onnx", link); err != nil {
		t.Skip(err)
	}
	if err := mustLoad(t, path).Save(link, SaveOptions{}); err == nil || !strings.Contains(err.Error(), "loaded from") {
		t.Errorf("over the source by a link: %v", err)
	}
	if err := mustLoad(t, link).Save(path, SaveOptions{}); err == nil || !strings.Contains(err.Error(), "loaded from") {
		t.Errorf("over the source of a link: %v", err)
	}
}

// Weights that stay in a large file can be read and saved after the file was
// replaced, and are refused after it was written to.
func TestWeightsInFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "m.onnx")
	want := pattern(minView, 3)
	p := smallModel()
	p.Graph.Initializer = append(p.Graph.Initializer, &onnxpb.TensorProto{Name: proto.String("big"), DataType: proto.Int32(int32(Uint8)), Dims: []int64{minView}, RawData: want})
	data, _ := proto.Marshal(p)
	write(t, path, data)
	m, err := loadWhole(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	big := m.Graph.Value("big").Const
	if big.raw != nil || big.inFile == nil {
		t.Fatal("the weight is in memory")
	}
	check := func() {
		t.Helper()
		if got, err := big.Bytes(); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	check()
	if a, b := m.Fingerprint(), mustLoad(t, path).Fingerprint(); a != b {
		t.Error("the fingerprint depends on the way of loading")
	}
	if a, b := m.Text(), mustLoad(t, path).Text(); a != b {
		t.Error("the text depends on the way of loading")
	}
	m.Doc = "new"
	mustSave(t, m, path, SaveOptions{Force: true})
	check()
	if got := mustLoad(t, path); got.Doc != "new" || !bytes.Equal(got.Graph.Value("big").Const.raw, want) {
		t.Error("saved over its own file the model is another")
	}
	if err := m.save(t.Context(), filepath.Join(dir, "n.onnx"), SaveOptions{}, 1000); err != nil {
		t.Fatal(err)
	}
	checkElementsOf(t, mustLoad(t, filepath.Join(dir, "n.onnx")), "big", want)

	m, err = loadWhole(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, append(data, 0))
	if _, err := m.Graph.Value("big").Const.Bytes(); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("after a write: %v", err)
	}
}

func checkElementsOf(t *testing.T, m *Model, name string, want []byte) {
	t.Helper()
	got, err := m.Graph.Value(name).Const.Bytes()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, %v", name, len(got), err)
	}
}
