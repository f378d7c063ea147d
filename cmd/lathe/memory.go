package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

const defaultMemory = calib.DefaultLimit >> 20 // MB

func (a *app) memoryFlag(c *cobra.Command) {
	addCount(c.Flags(), &a.memory, 1, "memory", "most megabytes of one array of the data, and of the intermediate values of a run")
}

// compile makes a model ready to run within the memory that it may take.
func (a *app) compile(m *graph.Model, o runtime.Options) (*runtime.Program, error) {
	defer a.busy("compiling " + m.Path())()
	o.MemoryLimit = a.memory << 20
	prog, err := runtime.Compile(m, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Path(), err)
	}
	return prog, nil
}
