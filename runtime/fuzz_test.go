package runtime

import (
	"context"
	"strings"
	"testing"
	"time"

	"gorgonia.org/tensor"

	"github.com/onnx-lathe/lathe/graph"
)

// FuzzRun compiles and runs whatever parses: a model may be refused, but it
// may not get a kernel to panic, memory without bound, or run for ever once
// it is cancelled.
func FuzzRun(f *testing.F) {
	f.Add(loopText, uint8(2))
	for _, c := range fusionCases {
		f.Add(strings.Replace(fusionText, "BODY", c.body, 1), uint8(3))
	}
	for _, s := range []string{
		`g (float[a, b] x, float[c, d] y) => (float z) { z = Gemm <transA = 1, alpha = 0.5> (x, y) }`,
		`g (float[a, b, c, d] x, int64[n] i) => (float z) { t = Transpose <perm = [0, 2, 1, 3]> (x) u = Gather <axis = 1> (t, i) z = Softmax (u) }`,
		`g (float[a, b] x, int64[n] s) => (float z) { r = Reshape (x, s) e = Expand (r, s) z = Slice (e, s, s, s, s) }`,
		`g (float[a, b] x, int64[n] s) => (float z, int64 k) { z, k = TopK <axis = 0> (x, s) }`,
		`g (float[a, b] x, int64[n] s) => (float z, float w) { z, w = Split <axis = 1> (x, s) }`,
		`g (float[a, b] x) => (float z) { n = Shape (x) c = ConstantOfShape (n) p = Concat <axis = -1> (x, c) z = ReduceMean <axes = [1]> (p) }`,
		`g (float[a, b, c] x, float[d, e, f] y) => (float z) { z = Einsum <equation = "abc,acd->bd"> (x, y) }`,
		`g (float[a, b, c, d] x, float[m, k, r, s] w) => (float z) { y = Conv <pads = [1, 1, 1, 1], strides = [2, 1], group = 2> (x, w) z = MaxPool <kernel_shape = [2, 2]> (y) }`,
		`g (float[a, b, c, d] x, float[b] s) => (float z) { n = BatchNormalization (x, s, s, s, s) i = InstanceNormalization (n, s, s) z = GroupNormalization <num_groups = 2> (i, s, s) }`,
		`g (float[a, b] x, float s, int8 o) => (float z) { q = QuantizeLinear (x, s, o) z = DequantizeLinear (q, s, o) } `,
		`g (float[a, b, c] x, float[b] s) => (float z) { z, y = Scan <num_scan_inputs = 1, scan_input_axes = [1], body = b (float[m] p, float[m] q) => (float r, float t) { r = Add (p, q) t = Mul (p, r) }> (s, x) }`,
		`g (float[a, b] x, int64[n] i, float[n] u) => (float z) { s = ScatterElements <axis = 0> (x, i, u) p = Pad (s, i) z = Tile (p, i) }`,
	} {
		f.Add(`<ir_version: 8, opset_import: ["" : 17]> `+s, uint8(2))
	}
	f.Fuzz(func(t *testing.T, text string, size uint8) {
		if len(text) > 1<<14 {
			return
		}
		m, err := graph.Parse(text)
		if err != nil || m.Graph == nil || m.Graph.Sort() != nil {
			return
		}
		p, err := Compile(m, Options{MemoryLimit: 1 << 22})
		if err != nil {
			if strings.Contains(err.Error(), "internal error") {
				t.Fatal(err)
			}
			return
		}
		feeds := map[string]tensor.Tensor{}
		for _, port := range p.Inputs() {
			shape := []int{}
			for _, d := range port.Shape.Dims {
				n := d.N
				if !d.IsKnown() {
					n = int64(size % 5)
				}
				shape = append(shape, int(n))
			}
			n, err := count(shape)
			if err != nil || n > 1<<16 || len(shape) > 8 {
				return
			}
			d := port.DType
			if d == graph.Undefined {
				d = graph.Float32
			}
			x, err := newTensor(d, shape)
			if err != nil {
				return
			}
			for i := range x.mem {
				if d != graph.Bool {
					x.mem[i] = byte(i) & size
				}
			}
			if feeds[port.Name], err = toDense(x, true); err != nil {
				return
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s := session(p, 1)
		for range 2 {
			if _, err := s.Run(ctx, feeds); err != nil && strings.Contains(err.Error(), "internal error") {
				t.Fatal(err)
			}
			if live := s.live(); live != 0 {
				t.Fatalf("%d bytes are still lent after a run", live)
			}
		}
	})
}
