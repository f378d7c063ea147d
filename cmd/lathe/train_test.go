package main

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestHeal: a dropped model is healed, resumed and written; --json gives the
// curve.
func TestHeal(t *testing.T) {
	f := newFolder(t)
	m, d, s := f.in("model.onnx"), f.in("calib.npz"), f.in("small.onnx")
	ok(t, "drop", m, "--modules", "A1,M2,A3,M4,M5", "-o", s)
	args := []string{"heal", s, "--teacher", m, "--data", d, "--steps", "4", "--batch", "8", "--held-out", "0.25", "--lr", "3e-4", "--every", "2"}
	v := object(t, append(args, "-o", f.in("a.onnx"))...)
	curve := keys(t, v, "curve", map[string]string{"step": "number", "loss": "number", "held_out": "number", "learning_rate": "number"})
	if len(curve) != 3 || v["steps"] != 4.0 || v["samples"] != 18.0 || v["held_out_samples"] != 6.0 || v["interrupted"] != false {
		t.Errorf("%v", v)
	}
	best, _ := v["best"].(map[string]any)
	if at, _ := best["step"].(float64); at == 0 {
		t.Errorf("nothing was learnt: %v", v["curve"])
	}
	text := ok(t, append(args, "-o", f.in("b.onnx"), "--threads", "1", "--checkpoint", f.in("state.npz"))...)
	if !strings.Contains(text, "held-out loss") || !strings.Contains(text, "best") || !strings.Contains(text, f.in("b.onnx")) {
		t.Errorf("it says %q", text)
	}
	ok(t, append(args, "-o", f.in("c.onnx"), "--checkpoint", f.in("state.npz"), "--resume")...)
	a := f.read(t, "a.onnx")
	if a != f.read(t, "b.onnx") || a != f.read(t, "c.onnx") || a == f.read(t, "small.onnx") {
		t.Error("one thread, two threads and a resumed training differ, or nothing was trained")
	}
	before := f.list(t)
	ok(t, append(args, "--dry-run", "--checkpoint", f.in("other.npz"))...)
	if got := f.list(t); !slices.Equal(got, before) {
		t.Errorf("--dry-run left %v, there was %v", got, before)
	}
}

// TestTrain learns from labels, from the weights at hand and from random ones.
func TestTrain(t *testing.T) {
	f := newFolder(t)
	for _, begin := range []string{"random", "given"} {
		v := object(t, "train", f.in("model.onnx"), "--data", f.in("calib.npz"), "--labels", "labels", "--begin", begin,
			"--steps", "2", "--batch", "8", "--held-out", "0", "-o", f.in(begin+".onnx"))
		curve := keys(t, v, "curve", map[string]string{"step": "number", "loss": "number"})
		if last, _ := curve[1]["loss"].(float64); begin == "random" && last < 1 || begin == "given" && last > 0.5 {
			t.Errorf("%s: loss %v", begin, last)
		}
	}
}

// TestInterruptedHeal: what was reached is kept, and it says so.
func TestInterruptedHeal(t *testing.T) {
	f := newFolder(t)
	m, s, o := f.in("model.onnx"), f.in("small.onnx"), f.in("o.onnx")
	ok(t, "drop", m, "--modules", "A1,M2", "-o", s)
	for after := 500 * time.Millisecond; ; after *= 2 {
		ctx, cancel := context.WithTimeout(context.Background(), after)
		r := latheContext(ctx, "heal", s, "--teacher", m, "--data", f.in("calib.npz"), "--steps", "1000000", "--batch", "2", "--every", "1", "-o", o)
		cancel()
		if r.code != exitInterrupted {
			t.Fatalf("status %d, %q", r.code, r.err)
		}
		if _, err := os.Stat(o); err != nil { // not one step was taken
			if !strings.Contains(r.err, "nothing half-written") || after > time.Minute {
				t.Fatalf("%q", r.err)
			}
			continue
		}
		if !strings.Contains(r.err, "best weights so far are kept") || !strings.Contains(r.err, o) {
			t.Errorf("it says %q", r.err)
		}
		ok(t, "inspect", o)
		return
	}
}
