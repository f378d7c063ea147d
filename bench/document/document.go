// Package document puts what commands measure into documents, between marks.
package document

import (
	"fmt"
	"os"
	"strings"
)

// Splice puts text between the lines begin and end of the document at path, in
// place of what is there.
func Splice(path, begin, end, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(old), begin+"\n")
	_, after, also := strings.Cut(rest, end+"\n")
	if !ok || !also {
		return fmt.Errorf("%s: the lines %q and %q are missing", path, begin, end)
	}
	return os.WriteFile(path, []byte(before+begin+"\n"+text+end+"\n"+after), 0o644)
}
