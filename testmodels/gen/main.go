// Command gen writes samples of the made-up language that the embedded model
// hears, as an npz with the arrays features and labels:
//
//	go run ./testmodels/gen -n 60000 -o train.npz
//	go run ./testmodels/gen -n 2000 -seed 3 -o eval.npz
//
// With -cases it writes the small models that have golden outputs, and their
// inputs, to a folder.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/internal/npz"
	"github.com/onnx-lathe/lathe/testmodels"
)

func main() {
	out := flag.String("o", "", "`file.npz` to write samples to")
	n := flag.Int("n", 1000, "samples")
	seed := flag.Uint64("seed", testmodels.TrainSeed, "stream: 1 training, 2 calibration, 3 evaluation")
	cases := flag.String("cases", "", "`folder` to write NAME.onnx and NAME.npz of every case to")
	flag.Parse()
	if (*out == "") == (*cases == "") || *n < 1 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	write := func() error { return writeWords(*out, *seed, *n) }
	if *cases != "" {
		write = func() error { return writeCases(*cases) }
	}
	if err := write(); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(2)
	}
}

func writeWords(path string, seed uint64, n int) error {
	data, err := testmodels.WordArchive(seed, n)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

func writeCases(folder string) error {
	for _, c := range testmodels.Cases() {
		path := filepath.Join(folder, c.Name)
		if err := c.Model().Save(path+".onnx", graph.SaveOptions{Force: true}); err != nil {
			return err
		}
		f, err := os.Create(path + ".npz")
		if err != nil {
			return err
		}
		if err := errors.Join(npz.Write(f, c.Inputs...), f.Close()); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}
