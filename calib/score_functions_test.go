package calib_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// TestScoreLayersInFunctions scores a model whose layers are calls of a local
// function: their streams have no place in the main graph, and values of the
// same name there must not be taken for them.
func TestScoreLayersInFunctions(t *testing.T) {
	for _, functions := range []bool{false, true} {
		m := testmodels.BERT(testmodels.Size{Opset: 17, Seed: 1}, testmodels.BERTOptions{Functions: functions})
		ids := make([]int64, 4*6)
		for i := range ids {
			ids[i] = int64(i) % 40
		}
		ones := bytes.Repeat([]byte{1, 0, 0, 0, 0, 0, 0, 0}, len(ids))
		mask := npz.Int64Array("attention_mask", []int{4, 6}, make([]int64, len(ids)))
		copy(mask.Raw, ones)
		var b bytes.Buffer
		if err := npz.Write(&b, npz.Int64Array("input_ids", []int{4, 6}, ids), mask, npz.Int64Array("token_type_ids", []int{4, 6}, make([]int64, len(ids)))); err != nil {
			t.Fatal(err)
		}
		src, err := calib.SourceFromBytes("test.npz", b.Bytes(), calib.SourceOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ports, err := runtime.Ports(m)
		if err != nil {
			t.Fatal(err)
		}
		feed, err := src.Bind(ports)
		if err != nil {
			t.Fatal(err)
		}
		l, err := calib.Score(context.Background(), m, feed, calib.ScoreOptions{Threads: 1})
		if functions {
			if err == nil || !strings.Contains(err.Error(), `local function "BertLayer"`) {
				t.Errorf("with functions: %v, want an error that names the function", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range l.Modules {
			if x.Score <= 0 || x.Score >= 1 {
				t.Errorf("%s has the score %g", x.ID, x.Score)
			}
		}
	}
}
