package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/onnx-lathe/lathe/bench/ort"
)

// The reference that scores are held against must itself give what is
// published of KWT-1: the order of its least important modules, and of its
// most important ones.
func TestReferenceScores(t *testing.T) {
	if os.Getenv("LATHE_DATA") == "" {
		t.Skip("LATHE_DATA names no folder with the public models and sets")
	}
	if _, err := ort.Library(); err != nil && os.Getenv("LATHE_ORT") == "" {
		t.Skip(err)
	}
	b, err := newWorkbench(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	model, set, err := b.files("kwt1_mfcc_opset17.onnx", "kwt_train.npz")
	if err != nil {
		t.Fatal(err)
	}
	scores, err := b.referenceScores(model, set, normTaps)
	if err != nil {
		t.Fatal(err)
	}
	if len(scores) != 24 {
		t.Fatalf("%d modules, want 24", len(scores))
	}
	order := make([]int, len(scores))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		if scores[a] < scores[b] {
			return -1
		}
		return 1
	})
	var ids []string
	for _, k := range order {
		ids = append(ids, fmt.Sprintf("%c%d", "AM"[k%2], k/2))
	}
	t.Logf("%s %.6f", ids, scores)
	if got := strings.Join(ids[:5], " "); got != "M8 M7 M5 M4 A7" {
		t.Errorf("smallest first: %s", got)
	}
	most := slices.Sorted(slices.Values(ids[21:]))
	if got := strings.Join(most, " "); got != "A1 A2 M11" {
		t.Errorf("largest: %s", got)
	}

	model, set, err = b.files("stories260K_opset17.onnx", "stories_eval.npz")
	if err != nil {
		t.Fatal(err)
	}
	scores, err = b.referenceScores(model, set, sumTaps)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.6f", scores)
	if len(scores) != 10 {
		t.Errorf("stories260K: %d modules, want 10", len(scores))
	}
}
