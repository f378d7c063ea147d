package runtime

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// team is the threads of a session: the one that calls Run and helpers that
// sleep on a channel between jobs.
type team struct {
	helpers int
	wake    chan struct{}
	done    sync.WaitGroup

	// The job at hand.
	call  *call
	body  func(c *call, lo, hi int)
	with  func(c *call, worker, lo, hi int) // in place of body
	busy  bool
	n     int
	chunk int
	next  atomic.Int64

	mu     sync.Mutex
	failed any // what a helper panicked with
}

// newTeam starts threads-1 helpers; threads < 1 means one per processor.
func newTeam(threads int) *team {
	if threads < 1 {
		threads = runtime.GOMAXPROCS(0)
	}
	t := &team{helpers: threads - 1}
	if t.helpers > 0 {
		t.wake = make(chan struct{}, t.helpers)
		for worker := range t.helpers {
			go func() {
				for range t.wake {
					t.work(worker + 1)
					t.done.Done()
				}
			}()
		}
	}
	return t
}

// close ends the helpers.
func (t *team) close() {
	if t.wake != nil {
		close(t.wake)
	}
}

// run splits [0, n) among the threads; see call.parallel. Work of less than
// two grains stays on the calling thread.
func (t *team) run(c *call, n, grain int, body func(c *call, lo, hi int), with func(c *call, worker, lo, hi int)) {
	if n <= 0 {
		return
	}
	grain = max(grain, 1)
	if t.helpers == 0 || n < 2*grain {
		if body != nil {
			body(c, 0, n)
		} else {
			with(c, 0, 0, n)
		}
		return
	}
	if t.busy {
		panic("runtime: a parallel body calls parallel")
	}
	// Four pieces a thread even out what the threads get done.
	threads := t.helpers + 1
	t.chunk = max(grain, (n+4*threads-1)/(4*threads))
	pieces := (n + t.chunk - 1) / t.chunk
	t.call, t.body, t.with, t.n, t.busy = c, body, with, n, true
	t.next.Store(0)
	helpers := min(t.helpers, pieces-1)
	t.done.Add(helpers)
	for range helpers {
		t.wake <- struct{}{}
	}
	t.work(0)
	t.done.Wait()
	t.call, t.body, t.with, t.busy = nil, nil, nil, false
	if f := t.failed; f != nil {
		t.failed = nil
		panic(f)
	}
}

func (t *team) work(worker int) {
	defer func() {
		if r := recover(); r != nil {
			t.mu.Lock()
			t.failed = fmt.Sprintf("%v\n%s", r, debug.Stack())
			t.mu.Unlock()
		}
	}()
	for {
		lo := int(t.next.Add(1)-1) * t.chunk
		if lo >= t.n {
			return
		}
		hi := min(lo+t.chunk, t.n)
		if t.body != nil {
			t.body(t.call, lo, hi)
		} else {
			t.with(t.call, worker, lo, hi)
		}
	}
}
