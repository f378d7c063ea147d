package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// The goals for speed, measured with the command speed. A busy machine misses
// them for no fault of the code, so they are measured only where the numbers on
// the command line or the variable SPEED=1 ask for them.
var speedChecks = []check{
	{3, 1, "dense layers against ONNX Runtime", "≥ 1.0 each", fast("dense", "")},
	{3, 2, "circulant, T = 128, b = 8 / 16 / 32 / 64", "≥ 5.5 / 10.5 / 18 / 28", fast("circulant", "")},
	{3, 3, "circulant, one token, chain, b = 8 / 16 / 32 / 64", "≥ 12 / 45 / 75 / 125", fast("chain", "")},
	{3, 4, "BERT-base, original", "≥ 1.0", fast("bert", "BERT-base, T = 128$")},
	{3, 5, "BERT-base, b = 16 / 64", "≥ 6 / 9", fast("bert", "BERT-base, T = 128, b = 16$", "BERT-base, T = 128, b = 64$")},
	{3, 6, "BERT-base without a quarter, b = 16 / 64", "≥ 8 / 12", fast("bert", "dropped$")},
	{3, 7, "GPT-2-base, a token with cache at 256, b = 16", "≥ 10", fast("gpt2", "")},
	{3, 8, "KWT-1 and stories260K", "≥ 1.5 each", fast("small", "")},
	{3, 9, "LeNet and ResNet-18 shapes", "≥ 0.9 each", fast("cnn", "")},
	{3, 10, "two threads against one, T ≥ 128", "≥ 1.7 each", fast("threads", "")},
	{3, 11, "rewritten file in ONNX Runtime, b = 32, T = 128", "≥ 2.0 each", fast("stock", "")},
	{5, 5, "int16 circulant against float32, T = 128, b = 8 / others", "≥ 1.3 / 1.0 each", fast("int16", "")},
	{5, 5, "int16 circulant, T = 128, b = 16, against dynamic int8 in ONNX Runtime", "≥ 3", fast("int8", "b = 16, int16$")},
	{5, 5, "block-circulant Conv, b = 8, 256 → 256, 3×3, 28×28", "≥ 4", fast("circulant-conv", "28×28, b = 8$")},
}

// wanted is the checks that the arguments ask for, and what is left out, "" for
// nothing. With no arguments these are all, those for speed only with SPEED=1
// and those of healing only with HEAL=1.
func wanted(only []string) (chosen []check, left string) {
	if len(only) == 0 {
		chosen = checks
		var lack []string
		if os.Getenv("SPEED") == "1" {
			chosen = slices.Concat(chosen, speedChecks)
		} else {
			lack = append(lack, "the goals for speed (3) want an idle machine: ask for them with 3 or SPEED=1")
		}
		if os.Getenv("HEAL") == "1" {
			chosen = slices.Concat(chosen, healChecks)
		} else {
			lack = append(lack, "the goals of healing (4) take two hours: ask for them with 4 or HEAL=1")
		}
		return chosen, strings.Join(lack, "; ")
	}
	for _, c := range slices.Concat(checks, speedChecks, healChecks) {
		if slices.Contains(only, fmt.Sprint(c.issue)) || slices.Contains(only, fmt.Sprintf("%d.%d", c.issue, c.number)) {
			chosen = append(chosen, c)
		}
	}
	return chosen, ""
}

// fast demands that the cases of a group of the command speed meet their goals,
// those that contain one of the words or, with "$" behind them, end in one.
func fast(group string, words ...string) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		type row struct {
			Group    string
			Case     string
			Goal     float64
			Ratio    float64
			P10, P90 float64
			Pass     bool
			LeftOut  string `json:"left_out"`
		}
		rows, err := remember(b, "speed "+group, func() ([]row, error) {
			binary, err := remember(b, "speed", func() (string, error) {
				binary := b.file("speed")
				cmd := exec.CommandContext(b.ctx, "go", "build", "-o", binary, "./speed")
				cmd.Dir = filepath.Join(b.root, "bench")
				if out, err := cmd.CombinedOutput(); err != nil {
					return "", fmt.Errorf("go build ./speed: %s", firstLine(string(out)))
				}
				return binary, nil
			})
			if err != nil {
				return nil, err
			}
			cmd := exec.CommandContext(b.ctx, binary, "-json", group)
			var stderr bytes.Buffer
			cmd.Dir, cmd.Stderr = filepath.Join(b.root, "bench"), &stderr
			out, err := cmd.Output()
			if err != nil {
				lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
				return nil, fmt.Errorf("speed %s: %s", group, lines[len(lines)-1])
			}
			var answer struct{ Results []row }
			err = json.Unmarshal(out, &answer)
			return answer.Results, err
		})
		if err != nil {
			return result{}, err
		}
		var ratios []string
		pass, spread := true, 0.0
		for _, r := range rows {
			// The names of cases of other groups may contain that of the group.
			if r.Group != group || r.Goal == 0 || !slices.ContainsFunc(words, func(w string) bool {
				end, whole := strings.CutSuffix(w, "$")
				return whole && strings.HasSuffix(r.Case, end) || !whole && strings.Contains(r.Case, w)
			}) {
				continue
			}
			if strings.Contains(r.LeftOut, "LATHE_DATA") {
				return result{}, leftOut(r.LeftOut)
			}
			if r.LeftOut != "" {
				return result{}, fmt.Errorf("%s: %s", r.Case, r.LeftOut)
			}
			ratios = append(ratios, fmt.Sprintf("%.3g", r.Ratio))
			pass = pass && r.Pass
			spread = max(spread, (r.P90-r.P10)/r.Ratio)
		}
		if len(ratios) == 0 {
			return result{}, fmt.Errorf("speed %s has no such case", group)
		}
		return result{fmt.Sprintf("%s; p10 to p90 at most %.0f %%", strings.Join(ratios, " / "), 100*spread), pass}, nil
	}
}
