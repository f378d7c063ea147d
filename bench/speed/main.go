// Command speed compares the speed of lathe with that of ONNX Runtime, in one
// process: each in turn, in pairs whose order alternates, with medians of the
// ratios within pairs and their spread. It prints a table of cases, goals and
// measured ratios in Markdown.
//
//	go run ./speed                       # all cases
//	go run ./speed circulant chain       # groups, or cases that contain a word
//	go run ./speed -docs ../docs         # all cases, into docs/performance.md and docs/speed
//
// ONNX Runtime is given one thread, all its optimizations, and inputs and
// outputs in place. lathe is compiled and run as any program would, and hands
// out new outputs in every run. Figures of one thread are processor time of the
// process, garbage collection included, which a busy machine disturbs less than
// it does the time of the world. Before it is timed, every contender's output is
// compared with ONNX Runtime's on the same model.
//
// Small public models come from the folder that LATHE_DATA names; without it,
// they are left out, and said to be.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/pprof"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "speed:", err)
		os.Exit(2)
	}
}

func run(ctx context.Context) error {
	pairs := flag.Int("pairs", 15, "pairs of measurements for each figure")
	block := flag.Duration("block", 20*time.Millisecond, "time that one measurement takes at least")
	output := flag.String("o", "", "also write the table into this file")
	docs := flag.String("docs", "", "write table and plot of this machine into the folder speed of this `folder`, and what all machines came to into its performance.md; only with all cases")
	asJSON := flag.Bool("json", false, "print one JSON object in place of the table")
	verbose := flag.Bool("v", false, "say how long preparing and measuring takes")
	profile := flag.String("cpuprofile", "", "write a profile of the processor time into this file, for go tool pprof")
	list := flag.Bool("list", false, "list the cases, and measure nothing")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: speed [flags] [group or part of a case's name]...\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	chosen := selects(flag.Args())
	switch {
	case *pairs < 1 || *block < 0:
		return errors.New("-pairs must be 1 or more and -block not negative")
	case *docs != "" && flag.NArg() > 0:
		return errors.New("-docs goes with all cases: name none")
	case count(chosen) == 0:
		return fmt.Errorf("no group or case matches %s: -list shows them", strings.Join(flag.Args(), ", "))
	case *list:
		return listCases(chosen)
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))

	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	m, err := inspect(*pairs)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "lathe-speed")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{protocol: protocol{*pairs, *block}, data: os.Getenv("LATHE_DATA"), dir: dir}
	var results []result
	total, w := count(chosen), newWatch()
	err = b.measure(ctx, groups, chosen, func(r result) {
		results = append(results, r)
		what := fmt.Sprintf("%s (%s … %s)", figure(r.Ratio), figure(r.P10), figure(r.P90))
		if r.Left != "" {
			what = "not measured: " + r.Left
		}
		fmt.Fprintf(os.Stderr, "%3d/%d  %-9s  %-55s  %s\n", len(results), total, r.Group, r.Case, what)
	})
	if err != nil {
		return err
	}
	m.Others = w.others()
	if *docs != "" {
		if err := writeDocs(*docs, record{m, time.Now().UTC().Format(time.DateOnly), results}); err != nil {
			return err
		}
	}
	table := markdown(m, results)
	if *output != "" {
		if err := os.WriteFile(*output, []byte(table), 0o644); err != nil {
			return err
		}
	}
	if *asJSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(struct {
			Machine machine  `json:"machine"`
			Results []result `json:"results"`
		}{m, results})
	}
	_, err = os.Stdout.WriteString(table)
	return err
}

// eachCase calls f for every case that is chosen.
func eachCase(chosen func(group, name string) bool, f func(g group, name string, goal float64)) {
	for _, g := range groups {
		for _, c := range g.contests {
			for _, t := range c.sizes() {
				for _, k := range c.contenders {
					if name := caseName(c.of, t, k); chosen(g.name, name) {
						f(g, name, k.goal)
					}
				}
			}
		}
	}
}

func count(chosen func(group, name string) bool) int {
	n := 0
	eachCase(chosen, func(group, string, float64) { n++ })
	return n
}

func listCases(chosen func(group, name string) bool) error {
	eachCase(chosen, func(g group, name string, goal float64) {
		if goal > 0 {
			name += ": ≥ " + figure(goal)
		}
		fmt.Printf("%-9s  %s\n", g.name, name)
	})
	return nil
}
