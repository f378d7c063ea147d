package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// word is a flag that takes one of a few words.
type word[T ~string] struct {
	to    *T
	words []T
}

func (w word[T]) String() string { return string(*w.to) }

// Type is what the help shows behind the name of the flag.
func (w word[T]) Type() string { return "word" }

func (w word[T]) list() []string {
	var out []string
	for _, x := range w.words {
		out = append(out, string(x))
	}
	return out
}

func (w word[T]) Set(s string) error {
	for _, x := range w.words {
		if string(x) == s {
			*w.to = x
			return nil
		}
	}
	return fmt.Errorf("want %s", either(w.list()))
}

// addWord adds a flag that takes one of words, at first *to.
func addWord[T ~string](c *cobra.Command, to *T, name, usage string, words ...T) {
	w := word[T]{to, words}
	c.Flags().Var(w, name, usage+": "+either(w.list()))
	must(c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(w.list(), cobra.ShellCompDirectiveNoFileComp)))
}

// number is a flag that takes a number within bounds.
type number[T int | int64 | float64] struct {
	to          *T
	least, most T
}

func (n number[T]) String() string { return fmt.Sprint(*n.to) }

func (n number[T]) Type() string {
	if _, ok := any(*n.to).(float64); ok {
		return "number"
	}
	return "count"
}

func (n number[T]) Set(s string) error {
	var v T
	var err error
	kind := "a whole number"
	switch p := any(&v).(type) {
	case *int:
		*p, err = strconv.Atoi(s)
	case *int64:
		*p, err = strconv.ParseInt(s, 10, 64)
	case *float64:
		kind = "a number"
		*p, err = strconv.ParseFloat(s, 64)
	}
	switch {
	case err == nil && v >= n.least && v <= n.most:
		*n.to = v
		return nil
	case math.IsInf(float64(n.least), -1):
		return fmt.Errorf("want %s", kind)
	case float64(n.most) >= math.MaxInt:
		return fmt.Errorf("want %s, %v or more", kind, n.least)
	}
	return fmt.Errorf("want %s from %v to %v", kind, n.least, n.most)
}

// addCount adds a flag that takes a whole number of least or more, at first
// *to.
func addCount[T int | int64](f *pflag.FlagSet, to *T, least T, name, usage string) {
	var most T = math.MaxInt
	f.Var(number[T]{to, least, most}, name, usage)
	if *to < least { // "not given" has no place in the help
		f.Lookup(name).DefValue = "0"
	}
}

// addNumber adds a flag that takes a number from least to most, at first *to.
func addNumber(f *pflag.FlagSet, to *float64, least, most float64, name, usage string) {
	f.Var(number[float64]{to, least, most}, name, usage)
}

// either writes a list of words as "a, b or c".
func either(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	n := len(words) - 1
	return strings.Join(words[:n], ", ") + " or " + words[n]
}

// argCount checks the number of arguments with a message that says what they are.
func argCount(least, most int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, got []string) error {
		if len(got) >= least && (most < 0 || len(got) <= most) {
			return nil
		}
		n := fmt.Sprintf("%d arguments", len(got))
		switch len(got) {
		case 0:
			n = "none"
		case 1:
			n = "one argument"
		}
		return fmt.Errorf("%swant %s, got %s; see %s --help", prefix(c), what, n, c.CommandPath())
	}
}

// name is the name of a command without the program's.
func name(c *cobra.Command) string {
	_, s, _ := strings.Cut(c.CommandPath(), " ")
	return s
}

// prefix is how an error of a command begins.
func prefix(c *cobra.Command) string {
	if s := name(c); s != "" {
		return s + ": "
	}
	return ""
}

// flagError says what is wrong with a flag.
func flagError(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var value *pflag.InvalidValueError
	switch {
	case c.HasSubCommands() && c.Flags().NArg() > 0: // the flag may be one of a misspelt command
		return noCommand(c, c.Flags().Arg(0))
	case errors.As(err, &value):
		return fmt.Errorf("%s--%s %s: %w; see %s --help", prefix(c), value.GetFlag().Name, value.GetValue(), value.Unwrap(), c.CommandPath())
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "":
		return fmt.Errorf("%sthere is no flag --%s%s; see %s --help", prefix(c), unknown.GetSpecifiedName(),
			nearest(c, unknown.GetSpecifiedName()), c.CommandPath())
	}
	return fmt.Errorf("%s%w; see %s --help", prefix(c), err, c.CommandPath())
}

// cause is what a flag has against a value, without pflag's words around it.
func cause(err error) error {
	var value *pflag.InvalidValueError
	if errors.As(err, &value) {
		return value.Unwrap()
	}
	return err
}

// nearest suggests flags of c that are called much like s.
func nearest(c *cobra.Command, s string) string {
	var near []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if len(s) > 1 && (strings.HasPrefix(f.Name, s) || strings.HasPrefix(s, f.Name) || apart(f.Name, s) <= 2) {
			near = append(near, "--"+f.Name)
		}
	})
	if len(near) == 0 {
		return ""
	}
	return ", did you mean " + either(near) + "?"
}

// apart is the number of letters to insert, delete or change on the way from
// a to b (Levenshtein).
func apart(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d++
			}
			diagonal = row[j+1]
			row[j+1] = min(d, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// group makes c a command that only holds others.
func group(c *cobra.Command) {
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return noCommand(c, args[0])
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
}

func noCommand(c *cobra.Command, word string) error {
	hint := ""
	if c.SuggestionsMinimumDistance <= 0 {
		c.SuggestionsMinimumDistance = 2
	}
	if near := c.SuggestionsFor(word); len(near) > 0 {
		hint = ", did you mean " + either(near) + "?"
	}
	return fmt.Errorf("%sthere is no command %q%s; see %s --help", prefix(c), word, hint, c.CommandPath())
}

// must panics on an error that only a wrong call in this program gives.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
