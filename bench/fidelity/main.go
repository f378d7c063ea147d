// Command fidelity measures how much of a model's quality is left after drops,
// rewrites and healing, with the command line tool as a user has it: fitted and
// trained on a set, judged on another by ONNX Runtime.
//
//	go run ./fidelity                     # all cases, one seed
//	go run ./fidelity -docs ../docs -seeds 3
//	go run ./fidelity -docs ../docs -seeds 3 kwt-drop6
//
// With -keep, the models that were made stay in that folder, by the name of their
// case. With -docs, results are kept in fidelity.json beside the table: what is there
// for a case as it is now is not measured again, and the table is of all cases.
//
// Models and sets come from the folder that LATHE_DATA names.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/onnx-lathe/lathe/bench/document"
	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
	"github.com/onnx-lathe/lathe/bench/quality"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/testmodels"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	seeds := flag.Int("seeds", 1, "how many `seeds` to take the median of")
	docs := flag.String("docs", "", "write the table into fidelity.md of this `folder`")
	again := flag.Bool("again", false, "measure again what fidelity.json has")
	asJSON := flag.Bool("json", false, "print one JSON object in place of the table")
	keep := flag.String("keep", "", "keep the models in this `folder`")
	list := flag.Bool("list", false, "list the cases, and measure nothing")
	flag.Parse()
	if err := run(ctx, *seeds, *docs, *keep, *again, *asJSON, *list, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "fidelity:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, seeds int, docs, keep string, again, asJSON, list bool, only []string) error {
	chosen := cases
	if len(only) > 0 {
		chosen = nil
		for _, name := range only {
			i := slices.IndexFunc(cases, func(c testCase) bool { return c.name == name })
			if i < 0 {
				return fmt.Errorf("no case %q; -list names them", name)
			}
			chosen = append(chosen, cases[i])
		}
	}
	if list {
		for _, c := range chosen {
			fmt.Printf("%-14s  %s: %s %s, %g min\n", c.name, c.what, c.metric, c.goal(), c.minutes)
		}
		return nil
	}
	b, err := newBench(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	b.keep = keep
	kept := &results{}
	if docs != "" {
		if kept, err = loadResults(filepath.Join(docs, "fidelity.json")); err != nil {
			return err
		}
	}
	for _, c := range chosen {
		for seed := 1; seed <= seeds; seed++ {
			if !again && slices.ContainsFunc(kept.of(&c), func(x result) bool { return x.Seed == seed }) {
				continue
			}
			o, err := b.measure(c, seed)
			if err != nil {
				return fmt.Errorf("%s, seed %d: %w", c.name, seed, err)
			}
			fmt.Fprintf(os.Stderr, "%s, seed %d: %s %.4f of %.4f, goal %s, %.1f min, %.1f processor minutes\n", c.name, seed, c.metric, o.Value, o.Base, c.goal(), o.Minutes, o.Processor)
			if err := kept.add(result{c.name, seed, c.hash(), o}); err != nil {
				return err
			}
			if docs != "" { // after each, as they take long
				if err := document.Splice(filepath.Join(docs, "fidelity.md"), markBegin, markEnd, markdown(kept)); err != nil {
					return err
				}
			}
		}
	}
	if asJSON {
		var rows []Row
		for _, c := range chosen {
			rows = append(rows, c.row(kept.of(&c)))
		}
		return json.NewEncoder(os.Stdout).Encode(map[string]any{"results": rows})
	}
	fmt.Print(markdown(kept))
	if docs != "" {
		return document.Splice(filepath.Join(docs, "fidelity.md"), markBegin, markEnd, markdown(kept))
	}
	return nil
}

// bench is what the cases share.
type bench struct {
	ctx       context.Context
	dir, data string
	lathe     string
	keep      string        // folder for the models; "" for none
	processor time.Duration // that calls of the tool took
}

func newBench(ctx context.Context) (*bench, error) {
	data := os.Getenv("LATHE_DATA")
	if data == "" {
		return nil, errors.New("LATHE_DATA names no folder with the public models and sets")
	}
	dir, err := os.MkdirTemp("", "lathe-fidelity")
	if err != nil {
		return nil, err
	}
	b := &bench{ctx: ctx, dir: dir, data: data, lathe: filepath.Join(dir, "lathe")}
	top, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err == nil {
		build := exec.CommandContext(ctx, "go", "build", "-o", b.lathe, "./cmd/lathe")
		build.Dir = strings.TrimSpace(string(top))
		build.Stderr = os.Stderr
		err = build.Run()
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("build of cmd/lathe: %w", err)
	}
	return b, nil
}

func (b *bench) file(name string) string         { return filepath.Join(b.dir, name) }
func (b *bench) public(kind, name string) string { return filepath.Join(b.data, kind, name) }

// call runs the tool and returns its JSON object.
func (b *bench) call(answer any, args ...string) error {
	cmd := exec.CommandContext(b.ctx, b.lathe, append(args, "--json", "--quiet")...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState != nil {
		b.processor += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	if err != nil {
		return fmt.Errorf("lathe %s: %w: %s", args[0], err, strings.TrimSpace(errs.String()))
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(out.Bytes(), answer)
}

// measure runs a case with a seed.
func (b *bench) measure(c testCase, seed int) (o outcome, err error) {
	start := time.Now()
	b.processor = 0
	model, base, share, err := c.make(b, c, seed)
	if err != nil {
		return o, err
	}
	o.Share, o.Minutes, o.Processor = share, time.Since(start).Minutes(), b.processor.Minutes()
	if b.keep != "" {
		data, err := os.ReadFile(model)
		if err == nil {
			err = os.WriteFile(filepath.Join(b.keep, c.name+".onnx"), data, 0o644)
		}
		if err != nil {
			return o, err
		}
	}
	if o.Value, err = b.judge(model, c); err != nil {
		return o, err
	}
	o.Base, err = b.judge(base, c)
	return o, err
}

// judge runs a model in ONNX Runtime over the set that nothing was fitted on.
func (b *bench) judge(model string, c testCase) (float64, error) {
	arrays, err := nd.ReadNPZ(b.public("sets", c.eval))
	if err != nil {
		return 0, err
	}
	s, err := ort.Open(model, ort.Options{Threads: runtime.GOMAXPROCS(0)})
	if err != nil {
		return 0, err
	}
	defer s.Close()
	out, err := s.All(ort.Samples{Arrays: arrays, Batch: 16})
	if err != nil {
		return 0, err
	}
	logits := out[s.Outputs[0].Name]
	if c.metric == "nll" {
		return quality.NextTokenNLL(logits, arrays["input_ids"])
	}
	return quality.Accuracy(logits, arrays["labels"])
}

// optimized takes the steps of the case's recipe.
func optimized(b *bench, c testCase, seed int) (model, base string, share float64, err error) {
	recipe := b.file("recipe.yaml")
	if err := os.WriteFile(recipe, []byte(c.recipe), 0o644); err != nil {
		return "", "", 0, err
	}
	model, base = b.file("out.onnx"), b.public("models", c.model)
	var answer struct {
		Models []struct{ Parameters int64 }
	}
	args := []string{"optimize", base, "--data", b.public("sets", c.train), "--recipe", recipe, "--controls=false",
		"--seed", fmt.Sprint(seed), "--force", "-o", model}
	if c.metric == "accuracy" {
		args = append(args, "--labels", "labels", "--metric", "accuracy")
	}
	if err := b.call(&answer, args...); err != nil {
		return "", "", 0, err
	}
	if n := len(answer.Models); n > 0 {
		share = float64(answer.Models[n-1].Parameters) / float64(answer.Models[0].Parameters)
	}
	return model, base, share, nil
}

// scratch trains a network for digits from random weights, dense for
// comparison and with block-circulant linear layers.
func scratch(block int) func(*bench, testCase, int) (string, string, float64, error) {
	return func(b *bench, c testCase, seed int) (model, base string, share float64, err error) {
		m := testmodels.LeNet(testmodels.CNN{Image: 28, Width: 16, Seed: uint64(seed)})
		dense, small := b.file("lenet.onnx"), b.file("lenet-circulant.onnx")
		if err := m.SaveContext(b.ctx, dense, graph.SaveOptions{}); err != nil {
			return "", "", 0, err
		}
		var answer struct {
			Before int64 `json:"parameters_before"`
			After  int64 `json:"parameters_after"`
		}
		if err := b.call(&answer, "circulant", dense, "--only", "fc", "--block", fmt.Sprint(block), "--fit", "frobenius", "--force", "-o", small); err != nil {
			return "", "", 0, err
		}
		train := func(in, out string) error {
			return b.call(nil, "train", in, "--data", b.public("sets", c.train), "--labels", "labels", "--map", "images=image",
				"--seed", fmt.Sprint(seed), "--steps", "600", "--lr", "0.002", "--force", "-o", out)
		}
		base, model = b.file("dense.onnx"), b.file("circulant.onnx")
		if err := train(dense, base); err != nil {
			return "", "", 0, err
		}
		return model, base, float64(answer.After) / float64(answer.Before), train(small, model)
	}
}
