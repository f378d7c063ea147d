package modules

import (
	"encoding/json"
	"fmt"

	"github.com/onnx-lathe/lathe/graph"
)

// HistoryKey is the key of the model metadata that holds a History.
const HistoryKey = "lathe.history"

// History says what was done to a model. It is kept in the model's metadata
// as JSON, so that modules keep the ids that they have in the original.
type History struct {
	// Original is the fingerprint of the model that the first pass started
	// from.
	Original string `json:"original,omitempty"`
	// Modules holds the ids of the modules that are left, in the order that
	// Find gives them; those of kind Other are left out.
	Modules []string `json:"modules,omitempty"`
	// Dropped holds what was dropped, in the order it was.
	Dropped []Drop `json:"dropped,omitempty"`
	// Rewrites holds the operators that were put in another form, in order.
	Rewrites []Rewrite `json:"rewrites,omitempty"`
}

// Drop is one module that was dropped.
type Drop struct {
	ID      string `json:"id"`
	Kind    Kind   `json:"kind,omitempty"`
	Norm    string `json:"norm,omitempty"`    // what became of a post-LN norm: "gone" or "kept"
	Recover string `json:"recover,omitempty"` // what was put in its place: "mean", or nothing
}

// Rewrite is one operator that was put in another form.
type Rewrite struct {
	Pass  string `json:"pass"`
	Node  string `json:"node"`
	Block int    `json:"block,omitempty"` // block size of a block-circulant operator
	Note  string `json:"note,omitempty"`
}

// ReadHistory returns the model's history, an empty one if it has none. It
// fails where the metadata is not what WriteHistory writes.
func ReadHistory(m *graph.Model) (*History, error) {
	h := &History{}
	s, ok := m.Meta(HistoryKey)
	if !ok {
		return h, nil
	}
	if err := json.Unmarshal([]byte(s), h); err != nil {
		return nil, fmt.Errorf("metadata %q: %w; remove the key to go on without a history", HistoryKey, err)
	}
	return h, nil
}

// WriteHistory puts h into the model's metadata.
func WriteHistory(m *graph.Model, h *History) error {
	b, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("metadata %q: %w", HistoryKey, err)
	}
	m.SetMeta(HistoryKey, string(b))
	return nil
}
