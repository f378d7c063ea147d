package main

import (
	"fmt"
	"math"
	"os"
	"strings"
)

// evaluate returns the quality of a model on a set as `lathe eval` gives it.
func (b *workbench) evaluate(model, set, metric string) (float64, error) {
	args := []string{"eval", model, "--data", set, "--metric", metric}
	if metric == "accuracy" {
		args = append(args, "--labels", "labels")
	}
	var answer struct {
		Models []struct {
			Path, Metric string
			Value        *float64
		}
	}
	if err := b.lathe(&answer, args...); err != nil {
		return 0, err
	}
	if len(answer.Models) != 1 || answer.Models[0].Value == nil || answer.Models[0].Metric != metric {
		return 0, fmt.Errorf("lathe eval --json: no %s of one model: %+v", metric, answer)
	}
	return *answer.Models[0].Value, nil
}

// evaluates measures a public model's quality against the published one.
func evaluates(model, set, metric string, want, tolerance float64) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		m, err := b.model(model)
		if err != nil {
			return result{}, err
		}
		s, err := b.set(set)
		if err != nil {
			return result{}, err
		}
		got, err := b.evaluate(m, s, metric)
		return result{fmt.Sprintf("%.4f", got), math.Abs(got-want) <= tolerance}, err
	}
}

// accuracyAfterDrop drops four modules of KWT-1, chosen on kwt_train, and
// measures accuracy on kwt_eval.
func accuracyAfterDrop(least float64, options ...string) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		m, err := b.model("kwt1_mfcc_opset13.onnx")
		if err != nil {
			return result{}, err
		}
		train, err := b.set("kwt_train.npz")
		if err != nil {
			return result{}, err
		}
		eval, err := b.set("kwt_eval.npz")
		if err != nil {
			return result{}, err
		}
		out := b.file("dropped.onnx")
		os.Remove(out)
		var answer struct{ Dropped []string }
		args := append([]string{"drop", m, "--data", train, "--count", "4", "-o", out}, options...)
		if err := b.lathe(&answer, args...); err != nil {
			return result{}, err
		}
		got, err := b.evaluate(out, eval, "accuracy")
		return result{fmt.Sprintf("%.4f without %s", got, strings.Join(answer.Dropped, " ")), got >= least && len(answer.Dropped) == 4}, err
	}
}

// reportShowsControls has `lathe optimize` write its report and looks for the
// orders that a score must beat, with intervals.
func reportShowsControls(b *workbench) (result, error) {
	m, train, err := b.files("kwt1_mfcc_opset13.onnx", "kwt_train.npz")
	if err != nil {
		return result{}, err
	}
	eval, err := b.set("kwt_eval.npz")
	if err != nil {
		return result{}, err
	}
	report := b.file("report.html")
	if err := b.lathe(nil, "optimize", m, "--data", train, "--eval-data", eval, "--labels", "labels",
		"--drop", "4", "--heal", "0", "-o", b.file("optimized.onnx"), "--report", report); err != nil {
		return result{}, err
	}
	text, err := os.ReadFile(report)
	if err != nil {
		return result{}, err
	}
	var missing []string
	for _, word := range []string{"random", "deepest", "95 %"} {
		if !strings.Contains(string(text), word) {
			missing = append(missing, word)
		}
	}
	for _, tie := range []string{"src=\"http", "href=\"http", "@import", "url(http"} {
		if strings.Contains(string(text), tie) {
			missing = append(missing, "being without "+tie)
		}
	}
	if len(missing) > 0 {
		return result{"the report lacks: " + strings.Join(missing, ", "), false}, nil
	}
	return result{fmt.Sprintf("all there, %d KB, nothing from the network", len(text)/1024), true}, nil
}
