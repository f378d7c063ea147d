package npz

import (
	"archive/zip"
	"bytes"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/graph"
)

func samples() []*Array {
	return []*Array{
		Float32Array("x", []int{2, 1, 3}, []float32{1, -2, 3.5, float32(math.Inf(1)), 0, 6}),
		Int64Array("labels", []int{2}, []int64{-1, 1 << 40}),
		Float64Array("scalar", []int{}, []float64{math.Pi}),
		Float32Array("empty", []int{2, 0, 4}, nil),
		{Name: "mask", DType: graph.Bool, Shape: []int{3}, Raw: []byte{1, 0, 1}},
	}
}

func TestRoundTrip(t *testing.T) {
	var buf bytes.Buffer
	if err := Write(&buf, samples()...); err != nil {
		t.Fatal(err)
	}
	f, err := FromBytes("test", buf.Bytes(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range samples() {
		got, err := f.Read(want.Name)
		if err != nil {
			t.Fatal(err)
		}
		if got.DType != want.DType || !reflect.DeepEqual(got.Shape, want.Shape) || !bytes.Equal(got.Raw, want.Raw) {
			t.Errorf("%s: got %v %v", want.Name, got.DType, got.Shape)
		}
	}
	var again bytes.Buffer
	if err := Write(&again, samples()...); err != nil || !bytes.Equal(buf.Bytes(), again.Bytes()) {
		t.Error("the same arrays gave other bytes")
	}
}

// NumPy is the authority on its own format.
func TestNumPyReadsIt(t *testing.T) {
	if exec.Command("python3", "-c", "import numpy").Run() != nil {
		t.Skip("no python3 with numpy here")
	}
	path := filepath.Join(t.TempDir(), "a.npz")
	var buf bytes.Buffer
	if err := Write(&buf, samples()...); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("python3", "-c", `
import numpy, sys
f = numpy.load(sys.argv[1])
for k in f: print(k, f[k].dtype, f[k].shape, f[k].tolist())
`, path).CombinedOutput()
	want := `x float32 (2, 1, 3) [[[1.0, -2.0, 3.5]], [[inf, 0.0, 6.0]]]
labels int64 (2,) [-1, 1099511627776]
scalar float64 () 3.141592653589793
empty float32 (2, 0, 4) [[], []]
mask bool (3,) [True, False, True]
`
	if err != nil || string(out) != want {
		t.Errorf("%v\n%s", err, out)
	}
}

// one returns an archive with one array of the given header dictionary.
func one(t testing.TB, dict string, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	w, _ := z.Create("a.npy")
	h := append([]byte("\x93NUMPY\x01\x00"), byte(len(dict)+1), byte((len(dict)+1)>>8))
	w.Write(append(append(append(h, dict...), '\n'), data...))
	z.Close()
	return buf.Bytes()
}

func TestBrokenArrays(t *testing.T) {
	for name, c := range map[string]struct {
		dict string
		data []byte
		want string
	}{
		"truncated":  {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", make([]byte, 23), "asks for 24 bytes, the file has 23"},
		"too long":   {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", make([]byte, 25), "at least 25"},
		"absurd":     {"{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976, 16), }", nil, "overflows"},
		"huge":       {"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }", nil, "limit"},
		"negative":   {"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", nil, "negative"},
		"big-endian": {"{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", make([]byte, 4), "element type"},
		"objects":    {"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", make([]byte, 4), "element type"},
		"fortran":    {"{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1), }", make([]byte, 4), "Fortran"},
		"no dict":    {"hello", nil, "dictionary"},
		"mangled":    {"'shape': 'descr': 'fortran_order': ", nil, "malformed"},
	} {
		f, err := FromBytes("test", one(t, c.dict, c.data), 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Read("a"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
	if _, err := FromBytes("x.npz", []byte("not a zip"), 1); err == nil {
		t.Error("text was taken for an archive")
	}
}

func FuzzRead(f *testing.F) {
	var buf bytes.Buffer
	Write(&buf, samples()...)
	f.Add(buf.Bytes())
	f.Add(one(f, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", make([]byte, 24)))
	f.Fuzz(func(t *testing.T, data []byte) {
		z, err := FromBytes("fuzz", data, 1<<20)
		if err != nil {
			return
		}
		for _, n := range z.Names() {
			if a, err := z.Read(n); err == nil && len(a.Raw) > 1<<20 {
				t.Errorf("%q: %d bytes read over the limit", n, len(a.Raw))
			}
		}
	})
}
