package document

import (
	"os"
	"path/filepath"
	"testing"
)

// TestSplice replaces what is between the marks and nothing else, also the
// second time.
func TestSplice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.md")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("before\n<begin>\nold\n<end>\nafter\n")
	for range 2 {
		if err := Splice(path, "<begin>", "<end>", "new\n"); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != "before\n<begin>\nnew\n<end>\nafter\n" {
			t.Errorf("%q, %v", got, err)
		}
	}
	for _, bad := range []string{"", "<begin>\n", "<end>\n<begin>\n"} {
		write(bad)
		if Splice(path, "<begin>", "<end>", "new") == nil {
			t.Errorf("%q is taken for a document with marks", bad)
		}
	}
}
