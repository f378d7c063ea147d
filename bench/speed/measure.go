package main

import (
	"context"
	"math"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A clock tells a time that only grows.
type clock func() time.Duration

// cpuTime is the time that all threads of this process have computed. What
// else runs on the machine does not count, the garbage collector does.
func cpuTime() time.Duration { return read(unix.CLOCK_PROCESS_CPUTIME_ID) }

// wallTime is the time of the world: what two threads save.
func wallTime() time.Duration { return read(unix.CLOCK_MONOTONIC) }

func read(id int32) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(id, &t); err != nil {
		panic(err) // the two clocks exist
	}
	return time.Duration(t.Nano())
}

// A protocol says how to measure.
type protocol struct {
	pairs int           // rounds, each of which gives every contender one ratio
	block time.Duration // a measurement repeats a run until it has taken about this long
}

// A summary of measurements.
type summary struct {
	ratio, p10, p90 float64       // time of the baseline ÷ time of the contender, over the pairs
	base, own       time.Duration // medians, of one run
}

// race times the contenders against a baseline: in every round each side runs
// for a block of time, first unmeasured once, so that what another side left
// in the caches does not count. Rounds alternate in their order. A contender's
// ratio is taken within a round, from times that lie close together, and so
// survives a machine that changes its pace. The garbage of one side is collected
// before the next one starts.
func race(ctx context.Context, now clock, p protocol, base func() error, contenders []func() error) ([]summary, error) {
	sides := append([]func() error{base}, contenders...)
	repeat := make([]int, len(sides))
	for i, run := range sides {
		var err error
		if repeat[i], err = repetitions(now, p.block, run); err != nil {
			return nil, err
		}
	}
	times := make([][]float64, len(sides)) // of one run, in seconds, by round
	for round := range p.pairs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for k := range sides {
			i := k
			if round%2 == 1 {
				i = len(sides) - 1 - k
			}
			runtime.GC()
			if err := sides[i](); err != nil {
				return nil, err
			}
			from := now()
			for range repeat[i] {
				if err := sides[i](); err != nil {
					return nil, err
				}
			}
			times[i] = append(times[i], (now()-from).Seconds()/float64(repeat[i]))
		}
	}
	out := make([]summary, len(contenders))
	for i := range out {
		out[i] = summarize(times[0], times[i+1])
	}
	return out, nil
}

// repetitions is how often to run for a block. The first run, which may
// allocate, does not count.
func repetitions(now clock, block time.Duration, run func() error) (int, error) {
	if err := run(); err != nil {
		return 0, err
	}
	for n := 1; ; n *= 2 {
		from := now()
		for range n {
			if err := run(); err != nil {
				return 0, err
			}
		}
		if took := now() - from; took >= block/8 || n >= 1<<20 {
			return max(1, int(math.Round(float64(n)*float64(block)/float64(max(took, 1))))), nil
		}
	}
}

func summarize(base, own []float64) summary {
	ratios := make([]float64, len(base))
	for i := range base {
		ratios[i] = base[i] / own[i]
	}
	of := func(x []float64, q float64) time.Duration { return time.Duration(quantile(x, q) * 1e9) }
	return summary{
		ratio: quantile(ratios, 0.5), p10: quantile(ratios, 0.1), p90: quantile(ratios, 0.9),
		base: of(base, 0.5), own: of(own, 0.5),
	}
}

// quantile interpolates between the order statistics of x, which is not empty
// and stays as it is.
func quantile(x []float64, q float64) float64 {
	x = slices.Sorted(slices.Values(x))
	at := q * float64(len(x)-1)
	lo := int(at)
	hi := min(lo+1, len(x)-1)
	return x[lo] + (at-float64(lo))*(x[hi]-x[lo])
}
