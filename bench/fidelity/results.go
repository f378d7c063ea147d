package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// A result is what a case came to with one seed.
type result struct {
	Case   string `json:"case"`
	Seed   int    `json:"seed"`
	Recipe string `json:"recipe"` // testCase.hash of what was measured
	outcome
}

// outcome is what was measured.
type outcome struct {
	Value     float64 `json:"value"`
	Base      float64 `json:"base"`      // what it is compared with
	Share     float64 `json:"share"`     // of the parameters
	Minutes   float64 `json:"minutes"`   // elapsed
	Processor float64 `json:"processor"` // minutes of it, of all threads; 0 where that was not recorded
}

// hash tells whether a result is of the case as it is now.
func (c *testCase) hash() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s\n%s", c.model, c.train, c.eval, c.metric, c.recipe))
	return fmt.Sprintf("%x", sum[:6])
}

// results are kept in a file, so that cases and seeds are measured one by one.
type results struct {
	path string // "": they are not kept
	list []result
}

func loadResults(path string) (*results, error) {
	r := &results{path: path}
	if path == "" {
		return r, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r.list)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// of returns the results of a case as it is now, by seed.
func (r *results) of(c *testCase) []result {
	var out []result
	for _, x := range r.list {
		if x.Case == c.name && x.Recipe == c.hash() {
			out = append(out, x)
		}
	}
	slices.SortFunc(out, func(a, b result) int { return a.Seed - b.Seed })
	return out
}

// add keeps a result. Results of other recipes of its case go.
func (r *results) add(x result) error {
	if r.path != "" { // another run may have added to it
		now, err := loadResults(r.path)
		if err != nil {
			return err
		}
		r.list = now.list
	}
	r.list = slices.DeleteFunc(r.list, func(o result) bool {
		return o.Case == x.Case && (o.Recipe != x.Recipe || o.Seed == x.Seed)
	})
	r.list = append(r.list, x)
	at := func(name string) int { return slices.IndexFunc(cases, func(c testCase) bool { return c.name == name }) }
	slices.SortStableFunc(r.list, func(a, b result) int {
		if d := at(a.Case) - at(b.Case); d != 0 {
			return d
		}
		return a.Seed - b.Seed
	})
	if r.path == "" {
		return nil
	}
	b, err := json.MarshalIndent(r.list, "", "  ")
	if err != nil {
		return err
	}
	part := filepath.Join(filepath.Dir(r.path), "."+filepath.Base(r.path))
	if err := os.WriteFile(part, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(part, r.path)
}

// A Row is what the seeds of a case came to.
type Row struct {
	Case      string    `json:"case"`
	What      string    `json:"what"`
	Metric    string    `json:"metric"`
	Goal      string    `json:"goal"`
	Values    []float64 `json:"values"` // one a seed
	Median    float64   `json:"median"`
	Base      float64   `json:"base"`    // what it is compared with: the median where it depends on the seed
	Share     float64   `json:"share"`   // of the parameters, of the first seed
	Minutes   float64   `json:"minutes"` // the longest
	Processor float64   `json:"processor_minutes"`
	Limit     float64   `json:"limit_minutes"`
	Pass      bool      `json:"pass"`
}

// processors is how many the limits of time are meant for.
const processors = 2

// row makes the row of a case from its results, of which there is one at
// least. The time that counts is that of processors which do nothing else:
// the processor time by their number, where the machine was shared.
func (c *testCase) row(of []result) Row {
	r := Row{Case: c.name, What: c.what, Metric: c.metric, Goal: c.goal(), Limit: c.minutes, Share: of[0].Share}
	var bases []float64
	for _, x := range of {
		r.Values, bases = append(r.Values, x.Value), append(bases, x.Base)
		r.Minutes, r.Processor = max(r.Minutes, x.Minutes), max(r.Processor, x.Processor)
	}
	r.Median, r.Base = median(r.Values), median(bases)
	took := r.Minutes
	if r.Processor > 0 {
		took = min(took, r.Processor/processors)
	}
	r.Pass = took <= c.minutes && c.reached(r.Median, r.Base)
	return r
}

// median is the middle of the values, the lower one of two.
func median(values []float64) float64 {
	return slices.Sorted(slices.Values(values))[(len(values)-1)/2]
}
