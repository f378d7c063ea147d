// Command acceptance measures the goals of the project that a machine can
// measure, with the command line tool as a user has it, and prints a table:
// what, goal, measured, pass or not. Models and sets come from the folder that
// LATHE_DATA names; without it, it says what it leaves out.
//
//	go run ./acceptance              # all but those for speed
//	go run ./acceptance 2.3 2.6      # some, by issue and number
//	SPEED=1 go run ./acceptance      # those for speed too, which want an idle machine
//	HEAL=1 go run ./acceptance       # those of healing too, which take two hours
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"
	"unicode/utf8"
)

// A check is one line of the table.
type check struct {
	issue, number int    // the goal: a line of an issue's "done when"
	what, goal    string // in words
	measure       func(*workbench) (result, error)
}

// A result is what was measured.
type result struct {
	measured string
	pass     bool
}

// leftOut is the error of a check that this machine lacks something for.
type leftOut string

func (l leftOut) Error() string { return string(l) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ok, err := run(ctx, os.Args[1:])
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "acceptance:", err)
		os.Exit(2)
	case !ok:
		os.Exit(1)
	}
}

func run(ctx context.Context, only []string) (bool, error) {
	b, err := newWorkbench(ctx)
	if err != nil {
		return false, err
	}
	defer b.close()

	chosen, left := wanted(only)
	if len(chosen) == 0 {
		return false, fmt.Errorf("no goal is numbered %s", strings.Join(only, ", "))
	}
	wide := struct{ what, goal int }{len("what"), len("goal")}
	for _, c := range chosen {
		wide.what = max(wide.what, utf8.RuneCountInString(c.what))
		wide.goal = max(wide.goal, utf8.RuneCountInString(c.goal))
	}
	line := func(verdict, number, what, goal, measured string) {
		fmt.Printf("%-8s  %-5s  %-*s  %-*s  %s\n", verdict, number, wide.what, what, wide.goal, goal, measured)
	}
	line("", "", "what", "goal", "measured")
	count := map[string]int{}
	for _, c := range chosen {
		if ctx.Err() != nil {
			return false, errors.New("interrupted")
		}
		began := time.Now()
		r, err := c.measure(b)
		verdict, why := "FAILED", leftOut("")
		switch {
		case errors.As(err, &why):
			verdict, r.measured = "left out", err.Error()
		case err != nil:
			r.measured = firstLine(err.Error())
		case r.pass:
			verdict = "pass"
		}
		count[verdict]++
		if took := time.Since(began); took > 10*time.Second {
			r.measured += fmt.Sprintf(" (%.0f s)", took.Seconds())
		}
		line(verdict, fmt.Sprintf("%d.%d", c.issue, c.number), c.what, c.goal, r.measured)
	}
	if left != "" {
		fmt.Printf("\nnot measured: %s\n", left)
	}
	fmt.Printf("\n%d passed, %d failed, %d left out\n", count["pass"], count["FAILED"], count["left out"])
	return count["FAILED"] == 0, nil
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
