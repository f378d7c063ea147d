package main

import (
	"fmt"
	"time"

	"github.com/schollz/progressbar/v3"
)

// patience is how long something may take in silence.
const patience = 2 * time.Second

// progress returns a function to be told of progress: a bar on a terminal, a
// line every ten seconds elsewhere, once it has taken two seconds.
func (a *app) progress(what string) func(done, total int) {
	if a.quiet {
		return nil
	}
	start := time.Now()
	if a.terminal {
		a.bar = progressbar.NewOptions(1, progressbar.OptionSetWriter(&late{a: a, from: start.Add(patience)}),
			progressbar.OptionSetDescription(what), progressbar.OptionSetPredictTime(true), progressbar.OptionShowCount(),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
		bar := a.bar
		return func(done, total int) {
			bar.ChangeMax(total)
			_ = bar.Set(done) // a bar that cannot be drawn is no error
		}
	}
	last := start
	return func(done, total int) {
		now := time.Now()
		if now.Sub(start) < patience || done >= total || last != start && now.Sub(last) < 10*time.Second {
			return
		}
		a.remarks()
		last = now
		left := time.Duration(float64(now.Sub(start)) / float64(max(done, 1)) * float64(total-done)).Round(time.Second)
		fmt.Fprintf(a.stderr, "%s: %d of %d, about %v left\n", what, done, total, left)
	}
}

// late is standard error from some time on; what comes before is lost.
type late struct {
	a     *app
	from  time.Time
	begun bool
}

func (l *late) Write(b []byte) (int, error) {
	if time.Now().Before(l.from) {
		return len(b), nil
	}
	if !l.begun {
		l.begun = true
		l.a.remarks()
	}
	return l.a.stderr.Write(b)
}

// busy says what the program is at, should it take longer than two seconds.
// The function that it returns ends that.
func (a *app) busy(what string) (done func()) {
	if a.quiet {
		return func() {}
	}
	t := time.AfterFunc(patience, func() { fmt.Fprintf(a.stderr, "%s …\n", what) })
	return func() { t.Stop() }
}
