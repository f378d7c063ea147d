package main

import (
	"path/filepath"
	"slices"
	"testing"
)

// TestResults: results are kept by case, seed and recipe, and those of another
// recipe of the case go.
func TestResults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fidelity.json")
	r, err := loadResults(path)
	if err != nil {
		t.Fatal(err)
	}
	c, other := cases[0], cases[1]
	old := c
	old.recipe += "\n"
	for _, x := range []result{
		{old.name, 1, old.hash(), outcome{Value: 0.1}},
		{other.name, 1, other.hash(), outcome{Value: 0.5}},
		{c.name, 3, c.hash(), outcome{Value: 0.98, Base: 0.971, Minutes: 30, Processor: 8}},
		{c.name, 1, c.hash(), outcome{Value: 0.9, Base: 0.971, Minutes: 3, Processor: 5}},
		{c.name, 2, c.hash(), outcome{Value: 0.2}},
		{c.name, 2, c.hash(), outcome{Value: 0.972, Base: 0.971, Minutes: 3, Processor: 5}},
	} {
		if err := r.add(x); err != nil {
			t.Fatal(err)
		}
	}
	if r, err = loadResults(path); err != nil {
		t.Fatal(err)
	}
	if len(r.list) != 4 || len(r.of(&old)) != 0 || len(r.of(&other)) != 1 {
		t.Errorf("kept %+v", r.list)
	}
	row := c.row(r.of(&c))
	if !slices.Equal(row.Values, []float64{0.9, 0.972, 0.98}) || row.Median != 0.972 || row.Minutes != 30 || row.Processor != 8 || !row.Pass {
		t.Errorf("row %+v", row)
	}
}
