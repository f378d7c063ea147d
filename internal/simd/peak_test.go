package simd

import (
	"testing"
	"time"
)

// TestMultiplyAdds fails when the loop that measures the peak does less than
// it is counted for: after n rounds from 0 an element is 2 − 2^(1−n), exactly.
func TestMultiplyAdds(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		for _, rounds := range []int{1, 2, 7, 24} {
			x := newGuarded(peakChains*k.gemm.lanes, 1)
			clear(x.s)
			k.multiplyAdds(x.s, rounds)
			x.check(t)
			want := 2 - 2/float32(int(1)<<rounds)
			for i, v := range x.s {
				if v != want {
					t.Fatalf("%d rounds: element %d is %v, want %v", rounds, i, v, want)
				}
			}
		}
	})
}

// TestPeak measures with a clock that advances 4 ms between two looks, less in
// one trial: that one counts.
func TestPeak(t *testing.T) {
	eachPath(t, func(t *testing.T, k *Kernels) {
		looks, now := 0, time.Duration(0)
		got := k.peak(func() time.Duration {
			if looks++; looks%2 == 0 {
				now += 4 * time.Millisecond
				if looks == 6 {
					now -= time.Millisecond
				}
			}
			return now
		})
		if p := k.Peak(); !(p > 1e6 && p < 1e13) {
			t.Errorf("this machine does %v floating-point operations a second", p)
		}
		want := 2 * float64(peakChains*k.gemm.lanes) * (1 << 10) / 3e-3
		if got < want*0.999 || got > want*1.001 {
			t.Errorf("%v floating-point operations a second, want %v", got, want)
		}
	})
}
