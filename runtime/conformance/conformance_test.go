package conformance

import (
	"context"
	"os"
	"testing"
)

// TestConformance runs the official operator tests of ONNX that lie in the
// folder LATHE_ONNX_TESTS (the data folder of Debian's libonnx-testdata).
func TestConformance(t *testing.T) {
	root := os.Getenv("LATHE_ONNX_TESTS")
	if root == "" {
		t.Skip("LATHE_ONNX_TESTS does not name the official operator tests")
	}
	cases, err := Find(root)
	if err != nil {
		t.Fatal(err)
	}
	var report Report
	for _, c := range cases {
		t.Run(c.Suite+"/"+c.Name, func(t *testing.T) {
			r := Run(context.Background(), c)
			report.Results = append(report.Results, r)
			switch {
			case r.Status == Failed:
				t.Error(r.Reason)
			case r.Status == Skipped:
				t.Skip(r.Reason)
			}
			for _, e := range Exceptions {
				if e.fits(c.Name) {
					t.Errorf("passes, but is excepted for: %s", e.Reason)
				}
			}
		})
	}
	for _, s := range report.Suites() {
		out := 0
		for _, r := range report.Of(Skipped) {
			if r.Suite == s.Name && Exceptions[r.Exception].OutOfScope {
				out++
			}
		}
		t.Logf("%s: %d cases, %d passed, %d failed, %d skipped, %d of them out of scope", s.Name, s.Total, s.Passed, s.Failed, s.Skipped, out)
	}
}
