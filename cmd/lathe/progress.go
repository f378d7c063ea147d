package main

import (
	"fmt"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress returns a function to be told of progress: a bar on a terminal, a
// line now and then elsewhere once two seconds have passed.
func (a *app) progress(what string) func(done, total int) {
	if a.quiet {
		return nil
	}
	start := time.Now()
	if f, ok := a.stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		var bar *progressbar.ProgressBar
		return func(done, total int) {
			if bar == nil {
				bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(a.stderr), progressbar.OptionSetDescription(what),
					progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(true), progressbar.OptionShowCount())
			}
			bar.ChangeMax(total)
			bar.Set(done)
		}
	}
	last := start
	return func(done, total int) {
		now := time.Now()
		if now.Sub(start) < 2*time.Second || (now.Sub(last) < 10*time.Second && done < total) {
			return
		}
		if done == total && now.Sub(start) < 10*time.Second {
			return
		}
		last = now
		left := time.Duration(float64(now.Sub(start)) / float64(max(done, 1)) * float64(total-done)).Round(time.Second)
		fmt.Fprintf(a.stderr, "%s: %d of %d, about %v left\n", what, done, total, left)
	}
}
