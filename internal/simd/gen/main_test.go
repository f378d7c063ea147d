package main

import "testing"

// TestCurrent fails when the checked-in assembly is not what this generator
// writes.
func TestCurrent(t *testing.T) {
	if err := eachFile(current("..")); err != nil {
		t.Fatal(err)
	}
}
