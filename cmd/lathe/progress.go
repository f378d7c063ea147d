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
	last := start
	var bar *progressbar.ProgressBar
	return func(done, total int) {
		now := time.Now()
		switch {
		case bar != nil:
			bar.ChangeMax(total)
			_ = bar.Set(done) // a bar that cannot be drawn is no error
		case now.Sub(start) < patience || done >= total:
		case a.terminal:
			a.remarks()
			bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(a.stderr), progressbar.OptionSetDescription(what),
				progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(true), progressbar.OptionShowCount())
			a.bar = bar
			_ = bar.Set(done)
		case last == start || now.Sub(last) >= 10*time.Second:
			a.remarks()
			last = now
			left := time.Duration(float64(now.Sub(start)) / float64(max(done, 1)) * float64(total-done)).Round(time.Second)
			fmt.Fprintf(a.stderr, "%s: %d of %d, about %v left\n", what, done, total, left)
		}
	}
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
