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

// dataFlags are the flags that say what data is read and how much of it.
type dataFlags struct {
	path  string
	maps  []string
	o     calib.SourceOptions
	batch int
}

// add adds the flags of a command that reads data, which it has to be given
// where required is set.
func (d *dataFlags) add(a *app, c *cobra.Command, required bool) {
	f := c.Flags()
	f.StringVar(&d.path, "data", "", "`path` of the samples: an .npz with arrays named after the inputs, a .txt or .jsonl, a folder of pictures or sounds, or one in the ONNX test layout")
	f.StringArrayVar(&d.maps, "map", nil, "`array=input`: feed the input of that name with the array of this (repeatable); not needed where only one fits")
	must(c.MarkFlagFilename("data", "npz", "txt", "jsonl"))
	addCount(f, &d.o.Samples, 0, "samples", "use only so many samples; 0 for all")
	if d.o.Choice == "" {
		d.o.Choice = calib.ChooseFirst
	}
	addWord(c, &d.o.Choice, "choose", "which samples these are, the random ones by --seed", calib.Choices...)
	f.StringVar(&d.o.Tokenizer, "tokenizer", "", "tokenizer.json `file` of the model, for text")
	f.StringVar(&d.o.Field, "field", "text", "`name` of the field of JSON lines that is the text")
	addCount(f, &d.o.Sequence, 0, "seq", "tokens that texts are cut or filled up to, or samples that sounds are, where the model leaves it open; 0 for the longest, at most 512 tokens or 30 s")
	f.BoolVar(&d.o.Join, "join", false, "join texts and cut them into pieces of --seq tokens, so that none is filled up")
	addWord(c, &d.o.Normalize, "normalize", "what becomes of pixels (default imagenet; zero-one for grey ones) or sounds (default none)", calib.Normalizes...)
	addCount(f, &d.o.Size, 1, "size", "height and width of pictures where the model leaves them open")
	d.o.Crop = 1
	addNumber(f, &d.o.Crop, 0.01, 1, "crop", "part of the shorter side of a picture that is kept, from its middle; 0.875 for many models of ImageNet")
	d.o.Rate = calib.DefaultRate
	addCount(f, &d.o.Rate, 1, "rate", "samples a second of sounds, as the model was trained on")
	must(c.MarkFlagFilename("tokenizer", "json"))
	a.memoryFlag(c)
	if required {
		// Cobra's own message for a missing flag does not say what to do.
		run := c.RunE
		c.RunE = func(c *cobra.Command, args []string) error {
			if d.path == "" {
				return fmt.Errorf("%s needs --data D: an .npz, a text, or a folder of pictures, sounds or ONNX tests", name(c))
			}
			return run(c, args)
		}
	}
}

func (d *dataFlags) addBatch(c *cobra.Command) {
	addCount(c.Flags(), &d.batch, 0, "batch", fmt.Sprintf("samples in a run; 0 for %d, or one where the model takes no more", calib.DefaultBatch))
}

// open reads the data at path.
func (a *app) open(path string, d *dataFlags) (*calib.Source, error) {
	o := d.o
	o.Map, o.Limit, o.Seed = map[string]string{}, a.memory<<20, a.seed
	for _, s := range d.maps {
		array, input, ok := strings.Cut(s, "=")
		if !ok || array == "" || input == "" {
			return nil, fmt.Errorf("--map %s: want array=input", s)
		}
		if o.Map[array] != "" {
			return nil, fmt.Errorf("--map %s: array %q feeds input %q already", s, array, o.Map[array])
		}
		o.Map[array] = input
	}
	defer a.busy("reading " + path)()
	return calib.OpenSource(path, o)
}

// feed binds the data to the inputs of a model and says what it had to guess.
func (a *app) feed(m *graph.Model, d *dataFlags) (*calib.Feed, error) {
	src, err := a.open(d.path, d)
	if err != nil {
		return nil, err
	}
	feed, err := a.bind(m, src)
	if err != nil {
		return nil, err
	}
	a.bound(src, feed.Notes)
	return feed, nil
}

func (a *app) bind(m *graph.Model, src *calib.Source) (*calib.Feed, error) {
	ports, err := runtime.Ports(m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Path(), err)
	}
	return src.Bind(ports)
}

func (a *app) bound(src *calib.Source, notes []string) {
	for _, n := range notes {
		a.note("%s: %s", src.Path(), n)
	}
}

// load reads a model, and refuses one that breaks the rules of graph.Check or
// whose types cannot be inferred.
func (a *app) load(path string) (*graph.Model, error) {
	defer a.busy("loading " + path)()
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

// model makes a command complete names of model files.
func completeModels(c *cobra.Command) *cobra.Command {
	c.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"onnx"}, cobra.ShellCompDirectiveFilterFileExt
	}
	return c
}
