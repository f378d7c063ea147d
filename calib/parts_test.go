package calib_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/runtime"
	"github.com/onnx-lathe/lathe/testmodels"
)

// inParts are models of every family with what they are scored on.
func inParts(t *testing.T) map[string]func() (*graph.Model, *calib.Source) {
	out := map[string]func() (*graph.Model, *calib.Source){}
	for _, c := range forms {
		out[c.name] = func() (*graph.Model, *calib.Source) { return c.model(), source(t, c.data...) }
	}
	for _, c := range testmodels.Cases() {
		out[c.Name] = func() (*graph.Model, *calib.Source) {
			past := slices.ContainsFunc(c.Inputs, func(a *npz.Array) bool { return strings.HasPrefix(a.Name, "past") })
			var arrays []*npz.Array
			for _, a := range c.Inputs {
				// With a past go the positions behind it and the mask that covers it.
				if !strings.HasPrefix(a.Name, "past") && a.Name != "use_cache_branch" && a.Name != "position_ids" && !(a.Name == "attention_mask" && past) {
					arrays = append(arrays, a)
				}
			}
			return c.Model(), source(t, arrays...)
		}
	}
	return out
}

// TestScoreInParts: a model that does not fit the memory is scored part by
// part, to the same bytes, with its activations in files that are gone
// afterwards. Models of every family, of all forms that scoring takes.
func TestScoreInParts(t *testing.T) {
	scored := 0
	for name, make := range inParts(t) {
		t.Run(name, func(t *testing.T) {
			m, src := make()
			opts := calib.ScoreOptions{Means: true, Ranges: true, Batch: 2}
			whole, err := calib.Score(ctx, m, feed(t, m, src), opts)
			if err != nil {
				t.Skip(err)
			}
			scored++
			want := saved(t, whole)
			for _, memory := range []int64{1, src.Bytes() + m.WeightBytes()} {
				dir := t.TempDir()
				t.Setenv("TMPDIR", dir)
				opts.Memory = memory
				inFiles, last := false, 0
				opts.Progress = func(done, total int) {
					list, err := os.ReadDir(dir)
					if err != nil {
						t.Fatal(err)
					}
					inFiles = inFiles || len(list) > 0
					if done < last || done > total {
						t.Errorf("%d of %d samples after %d", done, total, last)
					}
					last = done
				}
				got, err := calib.Score(ctx, m, feed(t, m, src), opts)
				opts.Progress = nil
				if err != nil {
					t.Fatal(err)
				}
				if memory == 1 && !inFiles {
					t.Error("nothing lay in files")
				}
				if last != got.Samples {
					t.Errorf("progress ended at %d of %d samples", last, got.Samples)
				}
				if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
					t.Errorf("%v is left behind (%v)", list, err)
				}
				t.Setenv("TMPDIR", "")
				if saved(t, got) != want {
					t.Errorf("with %d bytes the ledger differs", memory)
				}
			}
		})
	}
	if scored < 20 {
		t.Errorf("only %d models were scored", scored)
	}
}

// TestMomentsInParts: moments of a model run in parts are those of the whole.
func TestMomentsInParts(t *testing.T) {
	m := testmodels.GPT2(testmodels.Size{Seed: 1, Vocab: 4000}, testmodels.GPT2Options{})
	src := source(t, tokens("input_ids", 40, 7, 6))
	whole, err := calib.Score(ctx, m, feed(t, m, src), everything)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	inFiles := false
	opts := everything
	opts.Memory = m.WeightBytes() // for the moments, but not for two of the weights
	opts.Progress = func(int, int) {
		list, _ := os.ReadDir(dir)
		inFiles = inFiles || len(list) > 0
	}
	parts, err := calib.Score(ctx, m, feed(t, m, src), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", "")
	if !inFiles || saved(t, parts) != saved(t, whole) {
		t.Errorf("in files: %v; or the ledger differs", inFiles)
	}
}

// TestMomentsHaveALimit: second moments that would not fit are refused before
// anything is run.
func TestMomentsHaveALimit(t *testing.T) {
	m := testmodels.GPT2(testmodels.Size{Seed: 1, Width: 64, Hidden: 256}, testmodels.GPT2Options{})
	src := source(t, tokens("input_ids", 40, 7, 6))
	_, err := calib.Score(ctx, m, feed(t, m, src), calib.ScoreOptions{Moments: true, Memory: 1 << 19, Progress: func(int, int) { t.Error("it ran") }})
	if !errors.Is(err, runtime.ErrMemory) || !strings.Contains(err.Error(), "moments") {
		t.Errorf("error is %v", err)
	}
	if _, err = calib.Score(ctx, m, feed(t, m, src), calib.ScoreOptions{Memory: 1 << 19}); err != nil {
		t.Error(err)
	}
}

// TestPartsCleanUp: an interrupt and a folder that cannot be written leave
// nothing behind, and the latter is named.
func TestPartsCleanUp(t *testing.T) {
	m := testmodels.GPT2(testmodels.Size{Seed: 1}, testmodels.GPT2Options{})
	src := source(t, tokens("input_ids", 40, 7, 6))
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_, err := calib.Score(ctx, m, feed(t, m, src), calib.ScoreOptions{Memory: 1, Batch: 2, Progress: func(done, total int) {
		if done > total/2 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: error is %v", err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		t.Errorf("%v is left behind (%v)", list, err)
	}
	t.Setenv("TMPDIR", dir+"/none")
	if _, err = calib.Score(t.Context(), m, feed(t, m, src), calib.ScoreOptions{Memory: 1}); err == nil || !strings.Contains(err.Error(), "TMPDIR") {
		t.Errorf("no folder: error is %v", err)
	}
}
