package main

import (
	"fmt"
	"strings"

	"github.com/onnx-lathe/lathe/bench/wire"
)

// A module is what `lathe inspect` and `lathe score` say of one.
type module struct {
	ID, Kind  string
	Layer     int
	Droppable bool
	Score     float64
}

// inspect returns the modules of a model that can be dropped.
func (b *workbench) inspect(model string) ([]module, error) {
	var answer struct{ Modules []module }
	if err := b.lathe(&answer, "inspect", model); err != nil {
		return nil, err
	}
	var found []module
	for _, m := range answer.Modules {
		if m.Kind != "other" {
			found = append(found, m)
		}
	}
	return found, nil
}

// finds checks that a model has an attention and an MLP in each of its layers,
// in that order, all of which can be dropped; also when its names say nothing.
func finds(model string, layers int, scrambled bool) func(*workbench) (result, error) {
	return func(b *workbench) (result, error) {
		path, err := b.model(model)
		if err != nil {
			return result{}, err
		}
		if scrambled {
			m, err := wire.ReadModel(path)
			if err != nil {
				return result{}, err
			}
			m.ScrambleNames()
			path = b.file("scrambled.onnx")
			if err := m.Write(path); err != nil {
				return result{}, err
			}
		}
		found, err := b.inspect(path)
		if err != nil {
			return result{}, err
		}
		var wrong []string
		for i, m := range found {
			want := module{ID: fmt.Sprintf("A%d", i/2), Kind: "attention", Layer: i / 2, Droppable: true}
			if i%2 == 1 {
				want.ID, want.Kind = fmt.Sprintf("M%d", i/2), "mlp"
			}
			if m != want {
				wrong = append(wrong, fmt.Sprintf("%+v", m))
			}
		}
		measured := fmt.Sprintf("%d modules", len(found))
		if len(wrong) > 0 {
			measured += ", unexpected: " + strings.Join(wrong, " ")
		}
		return result{measured, len(found) == 2*layers && len(wrong) == 0}, nil
	}
}
