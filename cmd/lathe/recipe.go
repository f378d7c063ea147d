package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// readRecipe sets the flags that the recipe at path names and the command
// line does not.
func readRecipe(c *cobra.Command, path string) error {
	if path == "" {
		return nil
	}
	b, err := readSmall(path)
	if err != nil {
		return fmt.Errorf("--recipe %s: %w", path, plain(err))
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return fmt.Errorf("--recipe %s: %w", path, err)
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return fmt.Errorf("--recipe %s: want lines of the form \"flag: value\", as in \"drop: 4\"", path)
	}
	given := map[string]bool{} // on the command line, or in the recipe before
	for list := doc.Content[0].Content; len(list) >= 2; list = list[2:] {
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
			if v.Kind != yaml.ScalarNode || v.Tag == "!!null" || len(values) > 1 && flag.Value.Type() != "stringArray" {
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
