// Command gen writes samples of the made-up language that the embedded model
// hears, as an npz with the arrays features and labels:
//
//	go run ./testmodels/gen -n 60000 -o train.npz
//	go run ./testmodels/gen -n 2000 -seed 3 -o eval.npz
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/onnx-lathe/lathe/testmodels"
)

func main() {
	out := flag.String("o", "", "`file.npz` to write samples to")
	n := flag.Int("n", 1000, "samples")
	seed := flag.Uint64("seed", testmodels.TrainSeed, "stream: 1 training, 2 calibration, 3 evaluation")
	flag.Parse()
	if *out == "" || *n < 1 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := write(*out, *seed, *n); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(2)
	}
}

func write(path string, seed uint64, n int) error {
	data, err := testmodels.WordArchive(seed, n)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
