package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// readRecipe sets the flags that a recipe names and the command line does
// not.
func readRecipe(c *cobra.Command, path string) error {
	if path == "" {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--recipe: %w", err)
	}
	values := map[string]yaml.Node{}
	if err := yaml.Unmarshal(b, &values); err != nil {
		return fmt.Errorf("--recipe %s: %w", path, err)
	}
	for name, v := range values {
		flag := c.Flags().Lookup(name)
		if flag == nil || name == "recipe" {
			return fmt.Errorf("--recipe %s:%d: no setting %q; the settings are the flags of %s --help", path, v.Line, name, c.CommandPath())
		}
		if v.Kind != yaml.ScalarNode {
			return fmt.Errorf("--recipe %s:%d: %s: want one value", path, v.Line, name)
		}
		if !flag.Changed {
			if err := c.Flags().Set(name, v.Value); err != nil {
				return fmt.Errorf("--recipe %s:%d: %s: %w", path, v.Line, name, err)
			}
		}
	}
	return nil
}
