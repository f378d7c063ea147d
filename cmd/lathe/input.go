package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// dataFlags adds the flags of commands that read data.
func (a *app) dataFlags(c *cobra.Command, data *string, required bool) {
	c.Flags().StringVar(data, "data", "", "samples: an .npz with arrays named after the inputs, or a folder in the ONNX test layout")
	c.Flags().StringArrayVar(&a.maps, "map", nil, "array=input: the array that feeds an input of another name (repeatable)")
	c.Flags().Int64Var(&a.limitMB, "memory", calib.DefaultLimit>>20, "most megabytes of one array of the data")
	if required {
		// Cobra's own message for a missing flag does not say what to do.
		run := c.RunE
		c.RunE = func(c *cobra.Command, args []string) error {
			if *data == "" {
				return fmt.Errorf("%s needs --data: an .npz or a folder in the ONNX test layout", c.CommandPath())
			}
			return run(c, args)
		}
	}
}

func (a *app) open(path string) (*calib.Source, error) {
	m := map[string]string{}
	for _, s := range a.maps {
		array, input, ok := strings.Cut(s, "=")
		if !ok || array == "" || input == "" {
			return nil, fmt.Errorf("--map %s: want array=input", s)
		}
		m[array] = input
	}
	return calib.OpenSource(path, calib.SourceOptions{Map: m, Limit: a.limitMB << 20})
}

func (a *app) load(path string) (*graph.Model, error) {
	m, err := graph.Load(path)
	if err != nil {
		return nil, err
	}
	if err := graph.Check(m); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// Declared shapes that the operators contradict are common in exported
	// files, and no other runtime minds them.
	var contradiction *graph.InferError
	if err := graph.Infer(m); errors.As(err, &contradiction) && contradiction.Declared == contradiction.Total {
		slog.Info("declared shapes are wrong", "model", path, "error", oneLine(err))
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// feed binds the data at path to the inputs of a model and says what it had to
// guess.
func (a *app) feed(m *graph.Model, path string) (*calib.Feed, error) {
	src, err := a.open(path)
	if err != nil {
		return nil, err
	}
	return a.bind(m, src)
}

func (a *app) bind(m *graph.Model, src *calib.Source) (*calib.Feed, error) {
	prog, err := runtime.Compile(m, runtime.Options{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Path(), err)
	}
	feed, err := src.Bind(prog.Inputs())
	if err != nil {
		return nil, err
	}
	for _, n := range feed.Notes {
		a.note("%s: %s", src.Path(), n)
	}
	return feed, nil
}
