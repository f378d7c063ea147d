package simd

import (
	"math"
	"math/rand/v2"
	"testing"
)

// eachPath runs f for the kernels of every path that this machine has.
func eachPath(t *testing.T, f func(t *testing.T, k *Kernels)) {
	for _, p := range Supported() {
		k, err := For(p)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(p.String(), func(t *testing.T) { f(t, k) })
	}
}

// guard is how many elements lie on either side of a guarded slice.
const guard = 40

// guarded is a slice of n elements at an odd offset between guard bands of a
// NaN that no arithmetic makes.
type guarded struct {
	buf []float32
	s   []float32
}

const guardBits = 0x7fc0dead

func newGuarded(n, misalign int) guarded {
	buf := make([]float32, n+2*guard+misalign)
	for i := range buf {
		buf[i] = math.Float32frombits(guardBits)
	}
	lo := guard + misalign
	return guarded{buf, buf[lo : lo+n : lo+n]}
}

// check fails the test if anything around s was written.
func (g guarded) check(t *testing.T) {
	t.Helper()
	lo := cap(g.buf) - guard - cap(g.s)
	for i, v := range g.buf {
		if (i < lo || i >= lo+cap(g.s)) && math.Float32bits(v) != guardBits {
			t.Fatalf("wrote outside of the slice, at element %d of %d", i-lo, cap(g.s))
		}
	}
}

func randoms(rng *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

func TestPaths(t *testing.T) {
	for _, p := range []Path{Auto, Portable, AVX2, AVX512} {
		got, err := ParsePath(p.String())
		if err != nil || got != p {
			t.Errorf("ParsePath(%q) = %v, %v", p, got, err)
		}
	}
	if _, err := ParsePath("sse"); err == nil {
		t.Error("ParsePath took an unknown name")
	}
	if _, err := For(Path(200)); err == nil {
		t.Error("For took an unknown path")
	}
	for env, want := range map[string]Path{"": Best().Path(), "auto": Best().Path(), "portable": Portable} {
		if k, err := auto(env); err != nil || k.Path() != want {
			t.Errorf("LATHE_SIMD=%q: %v, want path %v", env, err, want)
		}
	}
	if _, err := auto("fast"); err == nil {
		t.Error("LATHE_SIMD took an unknown name")
	}
	if ps := Supported(); len(ps) == 0 || ps[0] != Portable || Best().Path() != ps[len(ps)-1] {
		t.Errorf("Supported() = %v, Best() = %v", ps, Best().Path())
	}
}
