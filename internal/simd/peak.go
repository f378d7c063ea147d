package simd

import "time"

// peakChains is the number of vectors that the loop of [Kernels.Peak] works on;
// the generator holds the assembly to it.
const peakChains = 12

// Peak measures the floating-point operations a second, two for a multiply-add,
// that one core does at most with the instructions of k's path: the best of many
// short trials of multiply-adds that stay in registers and do not wait for each
// other. No kernel can be faster. It takes some 20 ms. The portable path gives
// what this loop does in Go, which reads and writes memory.
//
// The time is that of the world: a trial that is interrupted does not count,
// and no trial is too fast, as it could be by a clock of processor time on a
// virtual machine that corrects it late for what others took.
func (k *Kernels) Peak() float64 {
	start := time.Now()
	return k.peak(func() time.Duration { return time.Since(start) })
}

func (k *Kernels) peak(clock func() time.Duration) float64 {
	const trials, enough = 40, 500 * time.Microsecond
	x := make([]float32, peakChains*k.gemm.lanes)
	best := 0.0
	rounds := 1 << 10
	for n := 0; n < trials; {
		start := clock()
		k.multiplyAdds(x, rounds)
		took := clock() - start
		if took < enough {
			rounds *= 2
			continue
		}
		best = max(best, 2*float64(len(x))*float64(rounds)/took.Seconds())
		n++
	}
	return best
}

// multiplyAdds sets every x[i] to x[i]/2 + 1, rounds times; rounds ≥ 1. It
// tends to 2, so values stay of normal size.
func multiplyAdds(x []float32, rounds int) {
	for range rounds {
		for i := range x {
			x[i] = float32(x[i]*0.5) + 1
		}
	}
}
