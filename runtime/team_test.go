package runtime

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestTeam: every index is computed once, by as many threads as there are at
// most, whether the helpers look out (two threads) or sleep
// (more than processors); and a panic reaches the caller.
func TestTeam(t *testing.T) {
	for _, threads := range []int{1, 2, 5} {
		s := &Session{team: newTeam(threads)}
		c := &call{s: s}
		for job := range 400 {
			n := 1 + job*job%97
			seen := make([]atomic.Int32, n)
			working := make([]atomic.Int32, threads)
			c.parallelWorkers(n, 1+job%3, func(_ *call, worker, lo, hi int) {
				if working[worker].Add(1) != 1 {
					t.Errorf("two threads are worker %d", worker)
				}
				for i := lo; i < hi; i++ {
					seen[i].Add(1)
				}
				if job%50 == 0 {
					time.Sleep(100 * time.Microsecond)
				}
				working[worker].Add(-1)
			})
			for i := range seen {
				if k := seen[i].Load(); k != 1 {
					t.Fatalf("%d threads, job %d: index %d of %d was computed %d times", threads, job, i, n, k)
				}
			}
			if job%100 == 0 {
				time.Sleep(time.Millisecond) // so that helpers sleep
			}
		}
		if threads > 1 {
			caught := func() (r any) {
				defer func() { r = recover() }()
				c.parallel(100, 1, func(_ *call, lo, hi int) {
					if lo <= 50 && 50 < hi {
						panic("broken")
					}
				})
				return nil
			}()
			if text, _ := caught.(string); !strings.HasPrefix(text, "broken") {
				t.Errorf("a panic in a piece gives %v", caught)
			}
			c.parallel(100, 1, func(*call, int, int) {})
		}
		s.team.close()
	}
}

// TestTeamParts: every thread begins with its own part, the same in every job.
func TestTeamParts(t *testing.T) {
	const threads, n = 3, 24
	s := &Session{team: newTeam(threads)}
	defer s.team.close()
	c := &call{s: s}
	for range 20 {
		var first [threads]atomic.Int32 // index of a thread + 1
		var met sync.WaitGroup
		met.Add(threads)
		c.parallelWorkers(n, 1, func(_ *call, worker, lo, _ int) {
			if first[worker].CompareAndSwap(0, int32(lo+1)) {
				met.Done()
				met.Wait()
			}
		})
		for w := range threads {
			if at := int(first[w].Load()) - 1; at != w*n/threads {
				t.Fatalf("thread %d began at %d", w, at)
			}
		}
	}
}

// BenchmarkTeam is what a parallel step costs beside its work.
func BenchmarkTeam(b *testing.B) {
	s := &Session{team: newTeam(2)}
	defer s.team.close()
	c := &call{s: s}
	var sink atomic.Int64
	for b.Loop() {
		c.parallel(2, 1, func(_ *call, lo, _ int) { sink.Add(int64(lo)) })
	}
}
