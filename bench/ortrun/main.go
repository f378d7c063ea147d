// Command ortrun runs a model in ONNX Runtime over a data set and writes its
// outputs, for goldens and comparisons:
//
//	go run ./ortrun --data X.npz -o OUT.npz MODEL.onnx
//
// Arrays of X.npz are named after the model's inputs and have samples along
// the first axis; an array whose name is no input's goes to the only input it
// fits. Caches of a decoder that the data does not have start empty.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/ort"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ortrun:", err)
		os.Exit(2)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("ortrun", flag.ExitOnError)
	data := flags.String("data", "", "`file.npz` with the inputs")
	out := flags.String("o", "", "`file.npz` for the outputs")
	limit := flags.Int("limit", 0, "use the first `n` samples only")
	batch := flags.Int("batch", 32, "samples in one run")
	threads := flags.Int("threads", 1, "threads an operator may use")
	// Flags are also read behind the model, where they come naturally.
	var model []string
	for {
		flags.Parse(args)
		if args = flags.Args(); len(args) == 0 {
			break
		}
		model, args = append(model, args[0]), args[1:]
	}
	if len(model) != 1 || *data == "" || *out == "" {
		flags.Usage()
		return errors.New("one model, --data and -o are needed")
	}
	arrays, err := nd.ReadNPZ(*data)
	if err != nil {
		return err
	}
	session, err := ort.Open(model[0], ort.Options{Threads: *threads})
	if err != nil {
		return err
	}
	defer session.Close()
	results, err := session.All(ort.Samples{Arrays: arrays, Limit: *limit, Batch: *batch})
	if err != nil {
		return err
	}
	return nd.WriteNPZ(*out, results)
}
