package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// golden is what the library that defines the format gives; testdata/make.js
// wrote it.
type golden struct {
	Texts  []string
	Golden map[string][]struct {
		IDs, Types, Mask, Plain []int
		Text                    string
	}
}

func readGolden(t testing.TB) golden {
	b, err := os.ReadFile(filepath.Join("testdata", "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestGolden: every form of tokenizer.json gives the reference's tokens and
// texts, in both directions.
func TestGolden(t *testing.T) {
	g := readGolden(t)
	for name, rows := range g.Golden {
		t.Run(name, func(t *testing.T) {
			tok, err := Load(filepath.Join("testdata", name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			if len(rows) != len(g.Texts) || len(rows) < 40 {
				t.Fatalf("%d of %d texts", len(rows), len(g.Texts))
			}
			for i, want := range rows {
				text := g.Texts[i]
				got, err := tok.Encode(text, 0)
				// The mask of the reference tells its padding from its tokens.
				ids, types := []int{}, []int{}
				for k, m := range want.Mask {
					if m != 0 {
						ids, types = append(ids, want.IDs[k]), append(types, want.Types[k])
					}
				}
				if name == "bert-padded" {
					got, err = tok.Encode(text, 6)
				}
				if err != nil || !slices.Equal(got.IDs, ids) || !slices.Equal(got.Types, types) {
					t.Errorf("%q: tokens %v %v, want %v %v; %v", text, got.IDs, got.Types, ids, types, err)
				}
				if name != "bert-padded" {
					if got, err := tok.Tokens(text); err != nil || !slices.Equal(got, want.Plain) {
						t.Errorf("%q: tokens without the template %v, want %v; %v", text, got, want.Plain, err)
					}
				}
				if got := tok.Decode(want.IDs); got != want.Text {
					t.Errorf("%q: text %q of %v, want %q", text, got, want.IDs, want.Text)
				}
			}
		})
	}
}
