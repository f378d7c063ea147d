package runtime

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// team is the threads of a session: the one that calls Run and helpers, which
// look out for the next job for a while and then sleep.
type team struct {
	helpers int
	patient bool // there is a processor for each thread, so looking out keeps none of them from work
	seats   []seat
	closed  atomic.Bool

	// The job at hand. Helpers enter and leave it as they come, so that nobody
	// waits for one who is late.
	jobs  atomic.Int64 // so far
	state atomic.Int64 // how many helpers are in it, and open while more may enter
	wait  atomic.Bool  // the calling thread sleeps until they have left
	left  chan struct{}
	call  *call
	body  func(c *call, lo, hi int)
	with  func(c *call, worker, lo, hi int) // in place of body
	busy  bool
	n     int
	chunk int
	parts []part // by thread: the pieces that it takes first

	mu     sync.Mutex
	failed any // what a helper panicked with
}

const open = 1 << 32

// seat is where a helper sleeps.
type seat struct {
	asleep atomic.Bool
	wake   chan struct{}
	_      [48]byte // so that seats do not share a cache line
}

// part is a range of the pieces of a job. Each thread begins with its own, the
// same part of every job, so that the rows of a tensor that it wrote are in the
// cache next to it when the step that follows reads them.
type part struct {
	next atomic.Int64 // piece to take
	end  int64
	_    [48]byte
}

// patience is how long a thread looks out before it sleeps. To wake it takes some
// 30 µs; pieces of work, whose ends threads wait for, take up to some hundred, and
// so does what one thread does alone between the parallel steps of a run.
const patience = 150 * time.Microsecond

// newTeam starts threads-1 helpers; threads < 1 means one per processor.
func newTeam(threads int) *team {
	procs := runtime.GOMAXPROCS(0)
	if threads < 1 {
		threads = procs
	}
	t := &team{helpers: threads - 1, patient: threads <= procs, left: make(chan struct{}, 1),
		seats: make([]seat, threads-1), parts: make([]part, threads)}
	for i := range t.seats {
		t.seats[i].wake = make(chan struct{}, 1)
		go t.help(i)
	}
	return t
}

// close ends the helpers.
func (t *team) close() {
	t.closed.Store(true)
	t.announce(len(t.seats))
}

// announce tells helpers of a job, which sleeping ones may be too many for.
func (t *team) announce(helpers int) {
	t.jobs.Add(1)
	for i := range t.seats[:helpers] {
		if s := &t.seats[i]; s.asleep.CompareAndSwap(true, false) {
			s.wake <- struct{}{}
		}
	}
}

func (t *team) help(i int) {
	s := &t.seats[i]
	for seen := int64(0); ; {
		if !t.lookOut(func() bool { return t.jobs.Load() != seen }) {
			s.asleep.Store(true)
			if t.jobs.Load() == seen || !s.asleep.CompareAndSwap(true, false) {
				<-s.wake
			}
		}
		if t.closed.Load() {
			return
		}
		seen = t.jobs.Load()
		if !t.enter() {
			continue
		}
		t.work(i + 1)
		if t.state.Add(-1) == 0 && t.wait.CompareAndSwap(true, false) {
			t.left <- struct{}{}
		}
	}
}

// enter joins the job at hand, if it is still open.
func (t *team) enter() bool {
	for {
		s := t.state.Load()
		if s&open == 0 {
			return false
		}
		if t.state.CompareAndSwap(s, s+1) {
			return true
		}
	}
}

// lookOut waits for a condition for as long as patience lasts, and reports
// whether it came true.
func (t *team) lookOut(done func() bool) bool {
	if done() {
		return true
	}
	if !t.patient {
		return false
	}
	for from := time.Now(); time.Since(from) < patience; {
		for range 50 {
			if done() {
				return true
			}
		}
	}
	return false
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

	for i, workers := 0, min(threads, pieces); i < threads; i++ {
		p := &t.parts[i]
		p.next.Store(int64(pieces * min(i, workers) / workers))
		p.end = int64(pieces * min(i+1, workers) / workers)
	}
	t.state.Store(open)
	t.announce(min(t.helpers, pieces-1))
	t.work(0)
	t.state.Add(-open)
	if !t.lookOut(func() bool { return t.state.Load() == 0 }) {
		t.wait.Store(true)
		if t.state.Load() != 0 || !t.wait.CompareAndSwap(true, false) {
			<-t.left
		}
	}
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
	for i := range t.parts { // its own part, then what others have left of theirs
		p := &t.parts[(worker+i)%len(t.parts)]
		for {
			piece := p.next.Add(1) - 1
			if piece >= p.end {
				break
			}
			lo := int(piece) * t.chunk
			hi := min(lo+t.chunk, t.n)
			if t.body != nil {
				t.body(t.call, lo, hi)
			} else {
				t.with(t.call, worker, lo, hi)
			}
		}
	}
}
