package main

import (
	"context"
	"errors"
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

// A gauge tells whether a clock can be believed. On virtual machines processor
// time is corrected for what the host took, and where the correction comes late
// the clock stands still or runs slow for a while.
type gauge struct {
	now   clock
	least time.Duration // that a known piece of work takes
	spin  float64       // what the work gives, so that it is not left out
}

func newGauge(now clock) *gauge {
	g := &gauge{now: now, least: time.Hour}
	for range 100 {
		from := wallTime() // which may be too long, but never too short
		g.spin += latency()
		g.least = min(g.least, wallTime()-from)
	}
	return g
}

// holds is whether the clock tells at least three quarters of the time that the
// work takes at best; a core that has become faster since does not lose more.
func (g *gauge) holds() bool {
	from := g.now()
	g.spin += latency()
	return g.now()-from >= g.least*3/4
}

// latency is some 50 µs of operations that wait for each other, so that neither
// memory nor what else runs on the core matters.
//
//go:noinline
func latency() float64 {
	x := 1.0
	for range 30_000 {
		x = x*0.999999 + 1e-9
	}
	return x
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
// for a block of time unmeasured, so that what another side left in the caches does
// not count, and then for another. (Once is not enough: a last cache that keeps what
// was used more than once holds all weights only after some five runs.) Rounds
// alternate in their order. A contender's
// ratio is taken within a round, from times that lie close together, and so
// survives a machine that changes its pace. The garbage of one side is collected
// before the next one starts. A round counts only where the clock holds before
// and after every block.
func race(ctx context.Context, now clock, holds func() bool, p protocol, base func() error, contenders []func() error) ([]summary, error) {
	sides := append([]func() error{base}, contenders...)
	repeat := make([]int, len(sides))
	for i, run := range sides {
		var err error
		if repeat[i], err = repetitions(wallTime, p.block, run); err != nil {
			return nil, err
		}
	}
	times := make([][]float64, len(sides)) // of one run, in seconds, by round
	took := make([]float64, len(sides))
	for round, broken := 0, 0; round < p.pairs; {
		good := true
		for k := range sides {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			i := k
			if round%2 == 1 {
				i = len(sides) - 1 - k
			}
			runtime.GC()
			for range repeat[i] {
				if err := sides[i](); err != nil {
					return nil, err
				}
			}
			good = good && holds()
			from := now()
			for range repeat[i] {
				if err := sides[i](); err != nil {
					return nil, err
				}
			}
			took[i] = (now() - from).Seconds() / float64(repeat[i])
			good = good && holds()
		}
		if !good {
			if broken++; broken > 10*p.pairs {
				return nil, errors.New("the clock of processor time cannot be believed here")
			}
			continue
		}
		for i, t := range took {
			times[i] = append(times[i], t)
		}
		round++
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
		if took := now() - from; took >= block/8 {
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
