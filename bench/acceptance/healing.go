package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/onnx-lathe/lathe/testmodels"
)

// The goals of healing, measured with the command fidelity and one seed. They
// take two hours, so they are measured only where the numbers on the command
// line or the variable HEAL=1 ask for them.
var healChecks = []check{
	{4, 1, "KWT-1, 6 of 24 modules dropped, healed", "accuracy ≥ 0.971, 10 min", heals("kwt-drop6")},
	{4, 2, "KWT-1, 10 of 24 modules dropped, healed", "accuracy ≥ 0.966, 20 min", heals("kwt-drop10")},
	{4, 3, "KWT-1, encoder at b = 4, healed", "accuracy ≥ 0.955, 30 min", heals("kwt-b4")},
	{4, 4, "KWT-1, 6 modules dropped, the rest at b = 4, healed", "accuracy ≥ 0.950, 30 min", heals("kwt-drop6-b4")},
	{4, 5, "KWT-1, best mix of half of the parameters, healed", "accuracy ≥ 0.971, 30 min", heals("kwt-half")},
	{4, 6, "stories260K, MLP layers at b = 4, healed", "nll ≤ original + 0.10, 30 min", heals("stories-b4")},
	{4, 7, "LeNet from scratch, Gemm layers at b = 4", "accuracy ≥ dense − 0.01, 5 min", heals("lenet-b4")},
	{4, 7, "LeNet from scratch, Gemm layers at b = 8", "accuracy ≥ dense − 0.01, 5 min", heals("lenet-b8")},
	{5, 1, "MNIST network, second Conv and Gemm at b = 4, healed", "accuracy ≥ 0.980", heals("cnn-b4")},
	{5, 1, "the same in int16, from its input to its logits", "float ± 0.002", healedInt16("cnn-b4", "mnist", 0.002)},
	{4, 8, "a training step of convolutional networks, batch 64 and 32", "≤ 6 forward passes", stepsCost(6,
		images("LeNet", 64, testmodels.CNN{Image: 28, Channels: 1, Width: 16}, testmodels.LeNet),
		images("ResNet", 32, testmodels.CNN{Image: 32, Channels: 3, Width: 16}, testmodels.ResNet),
		images("ResNet with batch norm", 32, testmodels.CNN{Image: 32, Channels: 3, Width: 16, BatchNorm: true}, testmodels.ResNet))},
	{4, 8, "a training step of KWT-1, batch 64", "≤ 6 forward passes", stepsCost(6, keywords("dense", 1), keywords("b = 4", 4))},
	{4, 8, "a training step of stories260K, batch 16", "≤ 6 forward passes beside the teacher's", stepsCost(6, stories)},
}

// A healing is what the command fidelity measured of a case, and its model.
type healing struct {
	model                        string
	Median, Base, Share, Minutes float64
	Pass                         bool
}

// heal runs a case of the command fidelity once.
func (b *workbench) heal(name string) (healing, error) {
	return remember(b, "heal "+name, func() (healing, error) {
		if b.data == "" {
			return healing{}, leftOut("LATHE_DATA is not set")
		}
		cmd := exec.CommandContext(b.ctx, "go", "run", "./fidelity", "-json", "-keep", b.dir, name)
		var stderr bytes.Buffer
		cmd.Dir, cmd.Stderr = filepath.Join(b.root, "bench"), &stderr
		out, err := cmd.Output()
		if err != nil {
			lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
			return healing{}, fmt.Errorf("fidelity %s: %s", name, lines[len(lines)-1])
		}
		var answer struct{ Results []healing }
		if err := json.Unmarshal(out, &answer); err != nil {
			return healing{}, err
		}
		if len(answer.Results) != 1 {
			return healing{}, fmt.Errorf("fidelity %s: %d results", name, len(answer.Results))
		}
		answer.Results[0].model = b.file(name + ".onnx")
		return answer.Results[0], nil
	})
}

// heals demands that a case of the command fidelity meets its goal.
func heals(name string) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		r, err := b.heal(name)
		if err != nil {
			return result{}, err
		}
		return result{fmt.Sprintf("%.4f of %.4f with %.0f %% of the parameters in %.1f min", r.Median, r.Base, 100*r.Share, r.Minutes), r.Pass}, nil
	}
}
