package metric

import (
	"math"
	"testing"
)

func near(t *testing.T, what string, got, want, tol float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tol) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

// The expected values are worked out by hand from two-class distributions
// with odds of 3:1 and 1:1.
func TestByHand(t *testing.T) {
	l3 := float32(math.Log(3))
	p := []float32{l3, 0, 0, 0} // rows (3/4, 1/4), (1/2, 1/2)
	q := []float32{0, 0, 0, l3} // rows (1/2, 1/2), (1/4, 3/4)

	kl, err := KL(p, q, 2)
	if err != nil {
		t.Fatal(err)
	}
	want := (0.75*math.Log(1.5) + 0.25*math.Log(0.5) + 0.5*math.Log(2) + 0.5*math.Log(0.5/0.75)) / 2
	near(t, "kl", kl, want, 1e-7) // ln 3 is rounded to float32

	nll, err := NLL([]float32{l3, 0, 0, l3, 9, 9}, 2, []int64{1, 1, 1})
	if err != nil {
		t.Fatal(err)
	}
	near(t, "nll", nll, (math.Log(4)+math.Log(4.0/3))/2, 1e-7)

	acc, err := Accuracy([]float32{1, 2, 2, 1, float32(math.NaN()), 0}, 2, []int64{1, 1, 0})
	if err != nil {
		t.Fatal(err)
	}
	near(t, "accuracy", acc, 1.0/3, 1e-15)

	agr, _ := Agreement(p, []float32{1, 0, 0, 1}, 2)
	near(t, "agreement", agr, 0.5, 1e-15)

	cos, _ := Cosine([]float32{1, 0}, []float32{1, 1})
	near(t, "cosine", cos, math.Sqrt(0.5), 1e-15)

	db, _ := SQNR([]float32{10, 0}, []float32{9, 0})
	near(t, "sqnr", db, 20, 1e-12)
	if db, _ := SQNR([]float32{1}, []float32{1}); !math.IsInf(db, 1) {
		t.Errorf("sqnr of equals = %v", db)
	}

	sdr, ok := SDR(0.97, 0.95, 10, 8)
	if !ok {
		t.Fatal("no sdr")
	}
	near(t, "sdr", sdr, 2.0/25, 1e-12)
	if _, ok := SDR(0.97, 0.95, 10, 10); ok {
		t.Error("sdr of a candidate that is not faster")
	}
}

func TestMismatchesAreErrors(t *testing.T) {
	for name, f := range map[string]func() error{
		"accuracy rows":  func() error { _, e := Accuracy(make([]float32, 5), 2, []int64{0, 1}); return e },
		"accuracy label": func() error { _, e := Accuracy(make([]float32, 4), 2, []int64{0, 2}); return e },
		"nll short":      func() error { _, e := NLL(make([]float32, 2), 2, []int64{0}); return e },
		"nll token":      func() error { _, e := NLL(make([]float32, 4), 2, []int64{0, -1}); return e },
		"kl":             func() error { _, e := KL(make([]float32, 4), make([]float32, 2), 2); return e },
		"agreement":      func() error { _, e := Agreement(nil, nil, 2); return e },
		"cosine":         func() error { _, e := Cosine(make([]float32, 1), make([]float32, 2)); return e },
		"sqnr":           func() error { _, e := SQNR(nil, nil); return e },
	} {
		if f() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// For a fair coin the standard error of the mean of n tosses is 0.5/√n, so
// the 95 % interval is about ±1.96 of that.
func TestBootstrap(t *testing.T) {
	samples := make([]float64, 400)
	for i := range samples {
		samples[i] = float64(i % 2)
	}
	low, high := Bootstrap(samples, 1)
	half := 1.96 * 0.5 / 20
	near(t, "low", low, 0.5-half, 0.15*half)
	near(t, "high", high, 0.5+half, 0.15*half)
	if l2, h2 := Bootstrap(samples, 1); l2 != low || h2 != high {
		t.Error("the same seed gave another interval")
	}
}
