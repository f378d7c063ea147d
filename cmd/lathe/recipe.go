package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/onnx-lathe/lathe/passes/optimize"
)

// readRecipe sets the flags that the recipe at path names and the command
// line does not, and returns the steps that it lists, nil for none.
func (a *app) readRecipe(c *cobra.Command, path string) ([]optimize.Step, error) {
	if path == "" {
		return nil, nil
	}
	b, err := readSmall(path)
	if err != nil {
		return nil, fmt.Errorf("--recipe %s: %w", path, plain(err))
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("--recipe %s: %w", path, err)
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("--recipe %s: want lines of the form \"flag: value\", as in \"drop: 4\"", path)
	}
	top := doc.Content[0]
	var steps []optimize.Step
	for i := 0; i+1 < len(top.Content); i += 2 {
		if key, list := top.Content[i], top.Content[i+1]; key.Value == "steps" {
			if steps, err = a.readSteps(path, list); err != nil {
				return nil, err
			}
			top.Content = slices.Delete(top.Content, i, i+2)
			break
		}
	}
	return steps, setFlags(c, path, top)
}

// readSteps reads the steps of a recipe: a list of one name each, with the
// flags of the step.
func (a *app) readSteps(path string, list *yaml.Node) ([]optimize.Step, error) {
	const form = "want steps of the form \"- drop: {count: 4}\"; there are drop, heal, circulant, budget, quantize and compact"
	if list.Kind != yaml.SequenceNode || len(list.Content) == 0 {
		return nil, fmt.Errorf("--recipe %s:%d: %s", path, list.Line, form)
	}
	var steps []optimize.Step
	for _, item := range list.Content {
		if item.Kind != yaml.MappingNode || len(item.Content) != 2 || item.Content[1].Kind != yaml.MappingNode {
			return nil, fmt.Errorf("--recipe %s:%d: %s", path, item.Line, form)
		}
		name, settings := item.Content[0], item.Content[1]
		x := optimizeFlags{drop: newDropFlags(), circulant: newCirculantFlags(), quantize: newQuantizeFlags()}
		c := &cobra.Command{Use: name.Value}
		var step func() (optimize.Step, error)
		switch name.Value {
		case "drop":
			x.drop.add(c, "count")
			step = func() (optimize.Step, error) {
				if x.drop.count < 1 {
					return optimize.Step{}, errors.New("drop needs a count, as in {count: 4}")
				}
				s := a.selection(&x.drop, x.drop.count)
				return optimize.Step{Drop: &s}, nil
			}
		case "heal":
			x.heal.addTeacher(c)
			x.heal.add(c, 3e-4)
			step = func() (optimize.Step, error) {
				t := x.heal.options(a)
				return optimize.Step{Heal: &t}, nil
			}
		case "circulant":
			x.circulant.add(c)
			step = func() (optimize.Step, error) {
				if x.circulant.block == 0 {
					return optimize.Step{}, errors.New("circulant needs a block size, as in {block: 4}")
				}
				return optimize.Step{Circulant: &optimize.Circulant{CirculantOptions: x.circulant.options(), Samples: x.circulant.samples}}, nil
			}
		case "budget":
			x.circulant.add(c)
			x.drop.add(c, "count")
			x.budget.add(c)
			c.Flags().BoolVar(&x.budget.drop, "search-modules", true, "")
			step = func() (optimize.Step, error) {
				if !x.budget.given() {
					return optimize.Step{}, errors.New("budget needs what is to be left, as in {budget: params=0.5}")
				}
				b := x.search(a)
				return optimize.Step{Budget: &b}, nil
			}
		case "quantize":
			x.quantize.add(c)
			step = func() (optimize.Step, error) {
				return optimize.Step{Quantize: &optimize.Quantize{QuantizeOptions: x.quantize.options(), Samples: x.quantize.samples}}, nil
			}
		case "compact":
			step = func() (optimize.Step, error) { return optimize.Step{Compact: true}, nil }
		default:
			return nil, fmt.Errorf("--recipe %s:%d: no step %q; there are drop, heal, circulant, budget, quantize and compact", path, name.Line, name.Value)
		}
		err := setFlags(c, path, settings)
		if err != nil {
			return nil, err
		}
		s, err := step()
		if err != nil {
			return nil, fmt.Errorf("--recipe %s:%d: %w", path, name.Line, err)
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// setFlags sets the flags that a mapping of the recipe at path names and the
// command line does not.
func setFlags(c *cobra.Command, path string, settings *yaml.Node) error {
	given := map[string]bool{} // on the command line, or in the recipe before
	for list := settings.Content; len(list) >= 2; list = list[2:] {
		key, value := list[0], list[1]
		flag := c.Flags().Lookup(key.Value)
		if flag == nil || key.Value == "recipe" || key.Value == "help" {
			return fmt.Errorf("--recipe %s:%d: no setting %q%s; the settings are the flags of %s --help", path, key.Line, key.Value, nearest(c, key.Value), c.CommandPath())
		}
		if given[key.Value] {
			return fmt.Errorf("--recipe %s:%d: %s is set twice", path, key.Line, key.Value)
		}
		given[key.Value] = true
		values := []*yaml.Node{value}
		if value.Kind == yaml.SequenceNode {
			values = value.Content
		}
		changed := flag.Changed
		for _, v := range values {
			if v.Kind != yaml.ScalarNode || v.Tag == "!!null" || len(values) > 1 && flag.Value.Type() != "stringArray" && flag.Value.Type() != "intSlice" {
				return fmt.Errorf("--recipe %s:%d: %s: want one value", path, key.Line, key.Value)
			}
			if changed {
				continue
			}
			if err := c.Flags().Set(key.Value, v.Value); err != nil {
				return fmt.Errorf("--recipe %s:%d: %s: %s: %w", path, key.Line, key.Value, v.Value, cause(err))
			}
		}
	}
	return nil
}

// readSmall reads a file that a person wrote.
func readSmall(path string) ([]byte, error) {
	const most = 1 << 20
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(b) > most {
		err = errors.New("is larger than a megabyte")
	}
	return b, err
}
